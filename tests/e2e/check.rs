//! `psync check`: what it finds and says, that it changes nothing, and that it runs beside psync itself.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::service::Service;
use crate::support::users::*;
use crate::support::{Depth, NAME, Once, Pair, Tree, once, snapshot};

/// A pair with a file of its own, at which nothing is at work.
fn configured(more: &str) -> (Pair, String) {
    let pair = Pair::new();
    let file = pair.beside(&format!("{NAME}.toml"));
    let (left, right) = (&pair.left, &pair.right);
    write(&file, format!("[left]\nroot = {left:?}\n[right]\nroot = {right:?}\n{more}"));
    let file = file.to_str().unwrap().to_owned();
    (pair, file)
}

fn check(file: &str, options: &[&str]) -> Once {
    once(&[&["check", file], options].concat())
}

/// The same contents, mode and time on both sides.
fn both(pair: &Pair, name: &str, text: &str) {
    for side in pair.sides() {
        write(side.join(name), text);
        touch(side.join(name), 1_000_000_000, 0);
    }
}

fn trees(pair: &Pair) -> [Tree; 2] {
    pair.sides().map(|side| snapshot(side, Depth::Contents))
}

#[test]
fn equal_trees() {
    let (pair, file) = configured("");
    for side in pair.sides() {
        mkdir(side.join("d"));
        symlink("nowhere", side.join("link"));
    }
    both(&pair, "a", "text");
    both(&pair, "d/b", "more");
    for options in [&[][..], &["-l"], &["-c"], &["-c", "--all"], &["-m"], &["-X"], &["-c", "-n", "5"]] {
        let once = check(&file, options);
        assert_eq!(once.code(), 0, "{options:?}: {}{}", once.stdout, once.stderr);
        let quiet = options == ["-l"];
        assert_eq!(once.stdout.is_empty(), quiet, "{options:?}: {}", once.stdout);
    }
    // The two that had been written this moment, and not the link or the directory.
    assert!(check(&file, &["-c", "--all"]).stdout.contains("2 files read"));
    assert!(pair.sides().iter().all(|side| !side.join(".psync").exists()), "a check makes nothing");
}

/// One difference at a time: what is done on the right, the options, what is found, and the exit code.
#[test]
fn each_kind_of_difference() {
    type Spoil = fn(&std::path::Path);
    let table: &[(&str, Spoil, &[&str], &str, i32)] = &[
        ("only left", |right| remove(right.join("a")), &[], "only-left", 3),
        ("only left, lite", |right| remove(right.join("a")), &["-l"], "only-left", 0),
        ("only left, modified only", |right| remove(right.join("a")), &["-m"], "", 0),
        ("only right", |right| write(right.join("new"), "x"), &[], "only-right", 3),
        ("another size", |right| write(right.join("a"), "longer text"), &[], "contents", 2),
        ("another size, lite", |right| write(right.join("a"), "longer text"), &["-l"], "contents", 2),
        ("another time", |right| touch(right.join("a"), 1_000_000_001, 0), &[], "time", 3),
        ("another time, lite", |right| touch(right.join("a"), 1_000_000_001, 0), &["-l"], "", 0),
        ("another time, read", |right| touch(right.join("a"), 1_000_000_001, 0), &["-c"], "time", 3),
        ("other contents, read", |right| write(right.join("a"), "TEXT"), &["-c"], "contents", 2),
        ("hidden contents", hide, &["-c"], "", 0),
        ("hidden contents, all read", hide, &["-c", "--all"], "contents", 2),
        ("another mode", |right| chmod(right.join("a"), 0o600), &[], "attributes", 3),
        ("an attribute", |right| set_xattr(right.join("a"), "user.a", b"1"), &[], "attributes", 3),
        ("an attribute of a directory", |right| set_xattr(right.join("d"), "user.a", b"1"), &[], "attributes", 3),
        ("an attribute, lite", |right| set_xattr(right.join("a"), "user.a", b"1"), &["-l"], "", 0),
        ("another kind", |right| (remove(right.join("a")), mkdir(right.join("a"))).1, &[], "kind", 2),
        ("another target", retarget, &[], "target", 2),
        ("another target, no links", retarget, &["-X"], "", 0),
    ];
    std::thread::scope(|scope| {
        for (what, spoil, options, found, code) in table {
            scope.spawn(move || {
                let (pair, file) = configured("");
                both(&pair, "a", "text");
                chmod(pair.left.join("a"), 0o644);
                chmod(pair.right.join("a"), 0o644);
                pair.sides().iter().for_each(|side| symlink("here", side.join("link")));
                pair.sides().iter().for_each(|side| mkdir(side.join("d")));
                spoil(&pair.right);
                let before = trees(&pair);
                let once = check(&file, &[*options, &["--json"]].concat());
                let json: serde_json::Value = serde_json::from_str(&once.stdout).expect("JSON");
                let differences = json["differences"].as_array().expect("a list");
                let whats: Vec<_> = differences.iter().filter_map(|d| d["what"].as_str()).collect();
                assert_eq!(whats.concat(), *found, "{what}: {json}");
                assert_eq!(once.code(), *code, "{what}: {json}");
                assert!(trees(&pair) == before, "{what}: a check changes nothing");
            });
        }
    });
}

#[test]
fn special_files_are_counted() {
    let (pair, file) = configured("");
    both(&pair, "a", "text");
    crate::support::tools::run(&pair.right, "mkfifo", &["fifo", "another"]);
    let told = check(&file, &[]);
    assert_eq!(told.code(), 0, "{}", told.stdout);
    assert!(told.stdout.contains("0 special files on the left and 2 on the right do not travel"), "{}", told.stdout);
    let json: serde_json::Value = serde_json::from_str(&check(&file, &["--json"]).stdout).expect("JSON");
    assert_eq!(json["special"], serde_json::json!([0, 2]));
    // Carried, they differ as everything else does.
    let (pair, file) = configured("");
    write(&file, format!("special = \"fifos\"\n{}", read(&file)));
    crate::support::tools::run(&pair.right, "mkfifo", &["fifo"]);
    let told = check(&file, &[]);
    assert_eq!(told.code(), 3, "{}", told.stdout);
    assert!(told.stdout.contains("fifo: only on the right"), "{}", told.stdout);
}

/// Other contents of the same size and time.
fn hide(right: &std::path::Path) {
    write(right.join("a"), "TEXT");
    touch(right.join("a"), 1_000_000_000, 0);
}

fn retarget(right: &std::path::Path) {
    remove(right.join("link"));
    symlink("there", right.join("link"));
}

#[test]
fn what_it_says() {
    let (pair, file) = configured("");
    both(&pair, "a", "text");
    write(pair.left.join("a"), "longer text");
    write(pair.left.join("new\nline"), "x");
    let once = check(&file, &[]);
    let lines: Vec<&str> = once.stdout.lines().collect();
    assert_eq!(lines.len(), 3, "{}", once.stdout);
    assert!(lines[0].starts_with("a: contents differ (left 11 B, ") && lines[0].contains("; right 4 B, 2001-09-09"));
    assert!(lines[1].starts_with("new\\x0aline: only on the left (1 B, "), "{}", lines[1]);
    assert_eq!(lines[2], format!("{NAME}: 2 differences, 2 paths compared"));
    let many = configured("");
    write(&many.1, format!("alert_threshold = 2\n{}", read(&many.1)));
    (0..2).for_each(|n| write(many.0.left.join(n.to_string()), ""));
    assert_eq!(check(&many.1, &[]).code(), 2, "as many as the threshold");
    for (options, words) in [(&["--all"][..], "--checksum"), (&["-n", "5"], "--checksum")] {
        let refused = check(&file, options);
        assert!(refused.code() == 1 && refused.stderr.contains(words), "{options:?}: {}", refused.stderr);
    }
}

#[test]
fn a_right_side_that_cannot_be_reached() {
    let dead = "host = \"files2\"\nproxy_command = \"echo psync-agent: no pair web is served >&2; exit 1\"\n";
    let (_pair, file) = configured(dead);
    let once = check(&file, &[]);
    assert_eq!((once.code(), once.stdout.as_str()), (1, ""), "{}", once.stderr);
    assert_eq!(once.stderr, format!("psync: {NAME}: files2: no pair web is served\n"));
    let once = check(&file, &["-l"]);
    assert_eq!((once.code(), once.stdout.as_str(), once.stderr.as_str()), (0, "", ""));
    let once = check(&file, &["--json"]);
    let json: serde_json::Value = serde_json::from_str(&once.stdout).expect("JSON");
    assert!(once.code() == 1 && json["result"] == "failed" && json["error"] == "files2: no pair web is served");
    let (pair, file) = configured("");
    std::fs::remove_dir(&pair.left).unwrap();
    let once = check(&file, &[]);
    assert!(once.code() == 1 && once.stderr.contains("left side: "), "{}", once.stderr);
}

#[test]
fn the_files_that_differ_are_copied_to_the_trash_if_asked() {
    let (pair, file) = configured("");
    for name in ["dir/same", "dir/differs", "gone"] {
        plant(pair.left.join(name), name);
    }
    pair.sync();
    write(pair.left.join("dir/differs"), "as it is on the left\n");
    write(pair.right.join("dir/differs"), "as it is on the right, longer\n");
    remove(pair.left.join("gone"));
    let before = trees(&pair);
    let once = check(&file, &["-b"]);
    assert_eq!(once.code(), 2, "{}{}", once.stdout, once.stderr);
    assert!(once.stdout.contains("2 files copied to the trash"), "{}", once.stdout);
    assert!(trees(&pair) == before, "nothing that users see has changed");
    let kept = |root: &std::path::Path| {
        let trash = Pair::own(root).join("trash");
        let copies: Vec<_> = std::fs::read_dir(trash).unwrap().flatten().map(|e| e.path()).collect();
        assert_eq!(copies.len(), 1, "{copies:?}");
        copies[0].clone()
    };
    let (left, right) = (kept(&pair.left), kept(&pair.right));
    assert_eq!(read(left.join("dir/differs")), "as it is on the left\n");
    assert_eq!(read(right.join("dir/differs")), "as it is on the right, longer\n");
    assert_eq!(read(right.join("gone")), "gone");
    assert!(!left.join("gone").exists() && !left.join("dir/same").exists());
    // A pair that has never run has no trash.
    remove_tree(pair.left.join(".psync"));
    let once = check(&file, &["-b"]);
    assert!(once.code() == 2 && once.stdout.contains("copy it to the trash"), "{}{}", once.stdout, once.stderr);
}

/// Checks one after the other while `psync` carries what a user writes: nothing differs that is not on its way.
fn beside_a_running_psync(mut pair: Pair, file: &str) -> Pair {
    pair.run();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let left = pair.left.clone();
        let over = &over;
        scope.spawn(move || {
            for n in 0..100 {
                write(left.join(format!("file {n}")), noise(n, 2000));
            }
            over.store(true, Ordering::SeqCst);
        });
        loop {
            let last = over.load(Ordering::SeqCst);
            let once = check(file, &["-c"]);
            assert_eq!(once.code(), 0, "{}{}", once.stdout, once.stderr);
            if last {
                break;
            }
        }
    });
    pair.settle();
    let before = trees(&pair);
    assert_eq!(check(file, &["-c", "--all"]).code(), 0);
    assert!(trees(&pair) == before && pair.is_running(), "{}", pair.story());
    pair
}

#[test]
fn beside_a_pair_of_one_host() {
    let (pair, file) = configured("");
    let mut pair = beside_a_running_psync(pair, &file);
    pair.stop();
}

#[test]
fn beside_the_session_that_an_agent_serves() {
    let (pair, _) = configured("");
    let mut service = Service::start(&pair, "");
    let proxy = Service::connect(&service.run);
    let (left, right) = (&pair.left, &pair.right);
    let file = pair.beside(&format!("{NAME}.toml"));
    let text =
        format!("[left]\nroot = {left:?}\n[right]\nroot = {right:?}\nhost = \"files2\"\nproxy_command = {proxy:?}\n");
    write(&file, text);
    let file = file.to_str().unwrap().to_owned();
    let mut pair = beside_a_running_psync(pair.with(&["--proxy-command", &proxy]), &file);
    assert_eq!(service.logged("link up"), 1, "a check is no session:\n{}", service.log());
    pair.stop();
    service.stop();
}
