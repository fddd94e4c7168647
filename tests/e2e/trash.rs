//! `psync trash`: what was replaced and deleted is listed, comes back, and goes for good.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::names::names;
use crate::support::service::Service;
use crate::support::users::*;
use crate::support::{Depth, NAME, Once, PATIENCE, PSYNC, Pair, poll, process, run_to_end, snapshot, tools};

/// A pair with a file of its own, at which nothing is at work.
fn configured(more: &str) -> (Pair, String) {
    let pair = Pair::new();
    let file = pair.beside(&format!("{NAME}.toml"));
    configure(&pair, more);
    // A root that loses all it had halts the pair.
    write(pair.left.join("stays"), "");
    (pair, file.to_str().unwrap().to_owned())
}

fn configure(pair: &Pair, more: &str) {
    let (left, right) = (&pair.left, &pair.right);
    write(pair.beside(&format!("{NAME}.toml")), format!("{more}[left]\nroot = {left:?}\n[right]\nroot = {right:?}\n"));
}

fn trash<S: AsRef<OsStr>>(file: &str, words: &[S]) -> Once {
    let mut command = Command::new(PSYNC);
    command.args(["trash", file]).args(words);
    run_to_end(command)
}

fn listed(file: &str) -> Vec<Value> {
    let once = trash(file, &["list", "--json"]);
    assert_eq!(once.code(), 0, "{}", once.stderr);
    once.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Side, path and reason of all versions, the oldest first.
fn told(file: &str) -> Vec<String> {
    let text = |version: &Value, key: &str| version[key].as_str().unwrap().to_owned();
    listed(file).iter().map(|v| ["side", "path", "why"].map(|key| text(v, key)).join(" ")).collect()
}

fn wait_told(file: &str, wanted: &[&str]) {
    let came = poll(PATIENCE, || told(file) == wanted);
    assert!(came, "{:?} is not {wanted:?}", told(file));
}

fn comes(pair: &Pair, path: impl AsRef<Path>, contents: &str) {
    let path = path.as_ref();
    let came = poll(PATIENCE, || path.exists() && read(path) == contents);
    assert!(came, "{path:?} is not {contents:?}{}", pair.story());
}

#[test]
fn versions_of_both_sides_are_listed_and_come_back() {
    let (mut pair, file) = configured("");
    plant(pair.left.join("dir/note"), "first\n");
    plant(pair.left.join("gone"), "deleted on the right\n");
    assert_eq!(told(&file), [""; 0], "a pair that has never run has no trash");
    assert!(!pair.left.join(".psync").exists(), "and gets none");
    pair.run();
    comes(&pair, pair.right.join("gone"), "deleted on the right\n");
    write(pair.left.join("dir/note"), "second\n");
    wait_told(&file, &["right dir/note replaced"]);
    write(pair.left.join("dir/note"), "the third\n");
    wait_told(&file, &["right dir/note replaced", "right dir/note replaced"]);
    remove(pair.right.join("gone"));
    let all = ["right dir/note replaced", "right dir/note replaced", "left gone deleted"];
    wait_told(&file, &all);

    let versions = listed(&file);
    assert_eq!((versions[0]["size"].as_u64(), versions[0]["kind"].as_str()), (Some(6), Some("file")));
    let id = |n: usize| versions[n]["id"].as_str().unwrap();
    let once = trash(&file, &["list", "dir"]);
    let lines: Vec<&str> = once.stdout.lines().collect();
    assert!(lines.len() == 2 && lines[0].starts_with("right  20"), "{}", once.stdout);
    assert!(lines[1].ends_with(&format!("  7 B  replaced  {}  dir/note", id(1))), "{}", once.stdout);

    // What is there stays.
    let once = trash(&file, &["restore", "dir/note"]);
    assert_eq!(once.code(), 1, "{}{}", once.stdout, once.stderr);
    assert!(once.stderr.contains("dir/note: restore: something is there, and stays"), "{}", once.stderr);
    assert_eq!(read(pair.right.join("dir/note")), "the third\n");

    // A running pair carries it as it carries what a user does.
    let once = trash(&file, &["restore", "dir/note", "--to", "dir/second"]);
    assert_eq!(once.code(), 0, "{}", once.stderr);
    assert!(once.stdout.starts_with("dir/second: restored on the right, from the trash of 20"), "{}", once.stdout);
    comes(&pair, pair.left.join("dir/second"), "second\n");
    let once = trash(&file, &["restore", "./dir/note", "--version", id(0), "--to", "first", "--json"]);
    let told_of: Value = serde_json::from_str(&once.stdout).unwrap();
    assert_eq!((told_of["path"].as_str(), told_of["restored"].as_str()), (Some("dir/note"), Some("first")));
    comes(&pair, pair.left.join("first"), "first\n");
    // With a root before it, too.
    let once = trash(&file, &["restore".as_ref(), pair.left.join("gone").as_os_str()]);
    assert_eq!(once.code(), 0, "{}", once.stderr);
    comes(&pair, pair.right.join("gone"), "deleted on the right\n");
    pair.settle();
    assert_eq!(told(&file), [""; 0]);
    pair.stop();
    pair.sync();
}

#[test]
fn what_cannot_be_restored_is_told_and_nothing_is_done() {
    let (pair, file) = configured("");
    plant(pair.left.join("dir/note"), "text\n");
    plant(pair.left.join("dir/other"), "text\n");
    pair.sync();
    remove_tree(pair.left.join("dir"));
    pair.sync();
    let before = pair.sides().map(|side| snapshot(side, Depth::Contents));
    for (words, want) in [
        (&["restore", "dor"][..], "e2e: dor: nothing of that path lies in the trash; did you mean `dir`?"),
        (&["restore", "dir/nose", "--to", "x"], "e2e: right side: x: restore: it is not in the trash"),
        (&["restore", "dir/nose/x", "--to", "x"], "e2e: right side: x: restore: it is not in the trash"),
        (&["restore", "quite-another"], "e2e: quite-another: nothing of that path lies in the trash"),
        (&["list", "quite-another"], "e2e: quite-another: nothing of that path lies in the trash"),
        (&["restore", "dir/note", "--version", "1-1-1"], "e2e: dir/note: there is no version 1-1-1 of it, but "),
        (&["restore", "dir/note"], "right side: dir/note: restore: the directory dir is not there: restore it first"),
        (&["restore", "dir/note", "--to", "x/y/z"], "right side: x/y/z: restore: the directory x/y is not there"),
        (
            &["restore", "dir/note", "--to", ".psync/x"],
            ".psync/x: no path below the root: the name '.psync' is psync's own",
        ),
        (&["restore", "dir/note", "--to", "x.tmp"], "restore: psync would leave a file of that name out"),
        (&["restore", "dir/note", "--to", "../x"], "../x: no path below the root: the name is '.' or '..'"),
        (&["restore", "/etc/passwd"], "/etc/passwd: no path below the root: the name is empty"),
        (&["restore", "dir/note", "--to", "."], "--to: the root itself is no place for a version"),
    ] {
        let once = trash(&file, words);
        assert_eq!(once.code(), 1, "{words:?}: {}{}", once.stdout, once.stderr);
        assert!(once.stderr.contains(want) && once.stderr.lines().count() == 1, "{words:?}: {}", once.stderr);
        assert_eq!(once.stdout, "", "{words:?}");
    }
    assert!(pair.sides().map(|side| snapshot(side, Depth::Contents)) == before);
    // Out of a directory that was deleted as a whole.
    let once = trash(&file, &["restore", "dir/note", "--to", "note"]);
    assert_eq!(once.code(), 0, "{}", once.stderr);
    assert_eq!(read(pair.right.join("note")), "text\n");
    assert_eq!(trash(&file, &["restore", "dir"]).code(), 0);
    assert!(pair.right.join("dir/other").exists() && !pair.right.join("dir/note").exists());
    pair.sync();
}

#[test]
fn names_of_every_legal_kind_come_back() {
    let (mut pair, file) = configured("");
    for name in names() {
        write(pair.left.join(&name), name.as_bytes());
    }
    let before = pair.sync();
    for name in names() {
        remove(pair.left.join(&name));
    }
    pair.sync();
    let versions = listed(&file);
    assert_eq!(versions.len(), names().len());
    pair.run();
    for (n, name) in names().iter().enumerate() {
        // As its bytes are, and as it is listed.
        let once = match n % 2 {
            0 => trash(&file, &[OsStr::new("restore"), OsStr::new("--"), name]),
            _ => {
                let listed = trash(&file, &[OsStr::new("list"), OsStr::new("--json"), OsStr::new("--"), name]);
                let version: Value = serde_json::from_str(&listed.stdout).unwrap();
                trash(&file, &["restore", "--", version["path"].as_str().unwrap()])
            }
        };
        assert_eq!(once.code(), 0, "{name:?}: {}", once.stderr);
        assert_eq!(once.stdout.lines().count(), 1, "{}", once.stdout);
    }
    let after = pair.settle();
    assert!(after == before, "{}", after.differences(&before, ("after", "before")));
    pair.stop();
}

#[test]
fn a_directory_comes_back_with_all_that_was_deleted_in_it() {
    let (mut pair, file) = configured("");
    plant(pair.left.join("top/sub/deep/file"), "deep\n");
    plant(pair.left.join("top/other"), "other\n");
    symlink("other", pair.left.join("top/link"));
    mkdir(pair.left.join("top/empty"));
    plant(pair.left.join("beside"), "stays\n");
    pair.run();
    let before = pair.settle();
    remove_tree(pair.left.join("top"));
    pair.settle();
    let once = trash(&file, &["restore", "top"]);
    assert_eq!(once.code(), 0, "{}{}", once.stdout, once.stderr);
    let after = pair.settle();
    assert!(after == before, "{}{}", after.differences(&before, ("after", "before")), once.stdout);
    // Removed on the right by one rename into a place that is left out, it is one object on the left.
    rename(pair.right.join("top"), pair.beside("away"));
    pair.settle();
    assert!(!pair.left.join("top").exists());
    let once = trash(&file, &["restore", "top/", "--to", "again"]);
    assert_eq!(once.code(), 0, "{}{}", once.stdout, once.stderr);
    pair.settle();
    assert_eq!(read(pair.right.join("again/sub/deep/file")), "deep\n", "{}", once.stdout);
    assert!(pair.right.join("again/empty").is_dir() && pair.right.join("again/link").is_symlink());
    pair.stop();
}

#[test]
fn what_is_restored_while_psync_is_stopped_travels_with_the_next_start() {
    let (pair, file) = configured("");
    for n in 0..3 {
        plant(pair.left.join(format!("dir/{n}")), "text\n");
    }
    let before = pair.sync();
    remove_tree(pair.left.join("dir"));
    plant(pair.left.join("new"), "in a tree that has changed\n");
    pair.sync();
    assert_eq!(trash(&file, &["restore", "dir"]).code(), 0);
    assert!(!pair.left.join("dir").exists() && pair.right.join("dir/2").exists());
    remove(pair.left.join("new"));
    let after = pair.sync();
    assert!(after == before, "{}", after.differences(&before, ("after", "before")));
}

#[test]
fn a_right_side_that_cannot_be_reached_is_told_and_the_left_is_listed() {
    let (pair, file) = configured("");
    plant(pair.left.join("a"), "text\n");
    pair.sync();
    remove(pair.right.join("a"));
    pair.sync();
    let (left, right) = (&pair.left, &pair.right);
    let far = format!("[left]\nroot = {left:?}\n[right]\nroot = {right:?}\nproxy_command = \"exec false\"\n");
    write(pair.beside(&format!("{NAME}.toml")), far);
    let once = trash(&file, &["list"]);
    assert_eq!(once.code(), 1, "{}", once.stderr);
    assert!(once.stdout.starts_with("left ") && once.stdout.ends_with("  a\n"), "{}", once.stdout);
    assert!(once.stderr.starts_with("psync: e2e: right side: "), "{}", once.stderr);
    assert_eq!(trash(&file, &["restore", "a"]).code(), 0, "it lies on the left");
    assert_eq!(read(pair.left.join("a")), "text\n");
    let once = trash(&file, &["restore", "b"]);
    assert!(
        once.code() == 1 && once.stderr.lines().count() == 1,
        "nobody knows whether it lies there: {}",
        once.stderr
    );
}

#[test]
fn beside_the_session_that_an_agent_serves() {
    let (pair, file) = configured("");
    let mut service = Service::start(&pair, "");
    let proxy = Service::connect(&service.run);
    let (left, right) = (&pair.left, &pair.right);
    let text = format!("[left]\nroot = {left:?}\n[right]\nroot = {right:?}\nhost = \"h\"\nproxy_command = {proxy:?}\n");
    write(pair.beside(&format!("{NAME}.toml")), text);
    let mut pair = pair.with(&["--proxy-command", &proxy]);
    pair.run();
    write(pair.left.join("a"), "text\n");
    pair.settle();
    remove(pair.left.join("a"));
    wait_told(&file, &["right a deleted"]);
    assert_eq!(trash(&file, &["restore", "a"]).code(), 0);
    comes(&pair, pair.left.join("a"), "text\n");
    assert_eq!(service.logged("link up"), 1, "this is no session:\n{}", service.log());
    pair.stop();
    // Nobody expires the trash of a right side that no brain is at.
    let once = trash(&file, &["expire"]);
    assert!(
        once.code() == 1 && once.stderr.contains("right side: its trash expires while the pair runs"),
        "{}",
        once.stderr
    );
    service.stop();
}

#[test]
fn the_trash_is_not_for_everybody() {
    if !process::is_root() || !tools::has("setpriv") {
        return;
    }
    let (pair, file) = configured("");
    plant(pair.left.join("a"), "a secret\n");
    pair.sync();
    remove(pair.left.join("a"));
    pair.sync();
    for path in [pair.left.parent().unwrap(), &pair.left, &pair.right] {
        chmod(path, 0o777);
    }
    for words in [&["list"][..], &["restore", "a"]] {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", PSYNC, "trash", &file]).args(words);
        let once = run_to_end(command);
        assert!(once.code() == 1 && once.stdout.is_empty(), "{}{}", once.stdout, once.stderr);
        let told = "side: read the trash: Permission denied (os error 13) (it is for root, and for whom psync runs as)";
        assert!(once.stderr.contains(told), "{}", once.stderr);
    }
    assert!(!pair.right.join("a").exists());
}

#[test]
fn a_checks_copies_are_versions_too() {
    let (pair, file) = configured("");
    plant(pair.left.join("dir/a"), "text\n");
    pair.sync();
    write(pair.left.join("dir/a"), "as it is on the left\n");
    run_to_end({
        let mut command = Command::new(PSYNC);
        command.args(["check", &file, "-b"]);
        command
    });
    assert_eq!(told(&file), ["left dir/a copied by a check", "right dir/a copied by a check"]);
    let right = listed(&file).pop().unwrap();
    let once = trash(&file, &["restore", "dir/a", "--version", right["id"].as_str().unwrap(), "--to", "dir/b"]);
    assert_eq!(once.code(), 0, "{}", once.stderr);
    let copies = [pair.left.join("dir/b"), pair.right.join("dir/b")];
    assert!(copies.iter().filter(|copy| copy.exists()).count() == 1, "{copies:?}");
}

#[test]
fn what_is_old_is_discarded_when_asked() {
    let (pair, file) = configured("");
    for name in ["a", "b"] {
        plant(pair.left.join(name), "text\n");
    }
    pair.sync();
    remove(pair.left.join("a"));
    remove(pair.right.join("b"));
    pair.sync();
    assert_eq!(told(&file).len(), 2);
    let once = trash(&file, &["expire"]);
    assert_eq!(
        (once.code(), once.stdout.as_str()),
        (0, "e2e: 0 versions discarded (0 B), 2 kept\n"),
        "{}",
        once.stderr
    );
    configure(&pair, "trash_days = 0\n");
    let once = trash(&file, &["expire", "--json"]);
    let told_of: Value = serde_json::from_str(&once.stdout).unwrap();
    assert_eq!(
        (told_of["discarded"].as_u64(), told_of["bytes"].as_u64(), told_of["kept"].as_u64()),
        (Some(2), Some(10), Some(0))
    );
    assert_eq!(told(&file), [""; 0]);
    pair.sync();
}

/// What was restored no longer counts against the bound of the trash.
#[test]
fn what_left_the_trash_makes_room_in_it() {
    let (pair, file) = configured("");
    for n in 0..3 {
        write(pair.left.join(format!("{n}")), noise(n, 100_000));
    }
    pair.sync();
    for n in 0..3 {
        remove(pair.left.join(format!("{n}")));
        pair.sync();
    }
    assert_eq!(trash(&file, &["restore", "2"]).code(), 0);
    configure(&pair, "trash_max = 250000\n");
    let once = trash(&file, &["expire"]);
    assert_eq!(once.stdout, "e2e: 0 versions discarded (0 B), 2 kept\n", "{}", once.stderr);
    configure(&pair, "trash_max = 150000\n");
    assert_eq!(trash(&file, &["expire"]).code(), 0);
    assert_eq!(told(&file), ["right 1 deleted"]);
}
