//! What takes part, and when: filters that change, links, directories that are not watched, styles.

use std::fs::OpenOptions;
use std::path::Path;
use std::time::Duration;

use crate::support::users::*;
use crate::support::{PATIENCE, Pair, poll, process, tools};

/// A pair that is configured by these lines.
fn configured(lines: &str) -> Pair {
    let pair = Pair::new();
    let file = pair.beside("psync.toml");
    write(&file, lines);
    pair.with(&["--config", file.to_str().unwrap()])
}

/// Everything that was written before has been looked at: two marks have arrived, one after the other.
fn mark(pair: &Pair, name: &str) {
    for mark in [format!("{name}-1"), format!("{name}-2")] {
        mkdir(pair.left.join(&mark));
        assert!(poll(PATIENCE, || pair.right.join(&mark).exists()), "{mark}{}", pair.story());
    }
}

fn comes(pair: &Pair, path: impl AsRef<Path>, contents: &str) {
    let path = path.as_ref();
    let came = poll(PATIENCE, || path.exists() && read(path) == contents);
    assert!(came, "{path:?} is not {contents:?}{}", pair.story());
}

/// Every file with these contents below a directory, psync's own included.
fn holds(top: &Path, contents: &str) -> bool {
    let Ok(entries) = std::fs::read_dir(top) else { return false };
    entries.flatten().any(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => holds(&entry.path(), contents),
        Ok(kind) if kind.is_file() => std::fs::read(entry.path()).is_ok_and(|bytes| bytes == contents.as_bytes()),
        _ => false,
    })
}

#[test]
fn what_is_excluded_later_is_forgotten_and_met_as_unknown_when_it_is_back() {
    let pair = Pair::new();
    for name in ["kept.log", "gone.log", "edited.log", "logs.log/inner", "other"] {
        plant(pair.left.join(name), name);
    }
    pair.sync();
    let out = ["-e", r"\.log$"];
    let sync = |more: &[&str]| {
        let once = pair.sync_with(more);
        assert_eq!(once.code(), 0, "{}", pair.story());
    };
    sync(&out);
    assert!(pair.right.join("gone.log").exists(), "forgotten, not deleted{}", pair.story());
    // While it is out, nothing of it is carried.
    remove(pair.left.join("gone.log"));
    remove_tree(pair.right.join("logs.log"));
    write(pair.left.join("edited.log"), "edited on the left\n");
    touch(pair.left.join("edited.log"), 1_000_000_000, 0);
    write(pair.right.join("edited.log"), "edited on the right, later\n");
    touch(pair.right.join("edited.log"), 1_000_000_100, 0);
    sync(&out);
    assert!(pair.right.join("gone.log").exists() && pair.left.join("logs.log/inner").exists(), "{}", pair.story());
    // Back again: what one side lacks comes from the other, and two versions meet.
    sync(&[]);
    pair.assert_equal();
    assert_eq!(read(pair.left.join("gone.log")), "gone.log", "{}", pair.story());
    assert_eq!(read(pair.right.join("logs.log/inner")), "logs.log/inner", "{}", pair.story());
    assert_eq!(read(pair.left.join("edited.log")), "edited on the right, later\n");
    assert!(holds(&pair.left, "edited on the left\n"), "the loser is kept{}", pair.story());
}

#[test]
fn a_temporary_name_that_turns_into_a_directory_is_one() {
    let mut pair = Pair::start(&[]);
    plant(pair.left.join("new.tmp/below/file"), "inside\n");
    mark(&pair, "mark");
    assert!(!pair.right.join("new.tmp").exists(), "{}", pair.story());
    rename(pair.left.join("new.tmp"), pair.left.join("new"));
    comes(&pair, pair.right.join("new/below/file"), "inside\n");
    // And a file of a temporary name, in whose place a directory comes.
    write(pair.left.join("x.tmp"), "a file\n");
    remove(pair.left.join("x.tmp"));
    plant(pair.left.join("x.tmp/file"), "a directory now\n");
    rename(pair.left.join("x.tmp"), pair.left.join("x"));
    comes(&pair, pair.right.join("x/file"), "a directory now\n");
    pair.settle();
    pair.stop();
}

#[test]
fn what_is_excluded_goes_along_with_its_directory() {
    let mut pair = Pair::start(&[]);
    plant(pair.left.join("moved/file"), "file\n");
    plant(pair.left.join("deleted/file"), "file\n");
    pair.settle();
    write(pair.right.join("moved/Thumbs.db"), "thumbs of the moved\n");
    write(pair.right.join("deleted/Thumbs.db"), "thumbs of the deleted\n");
    rename(pair.left.join("moved"), pair.left.join("here"));
    remove_tree(pair.left.join("deleted"));
    comes(&pair, pair.right.join("here/Thumbs.db"), "thumbs of the moved\n");
    assert!(poll(PATIENCE, || !pair.right.join("deleted").exists()), "{}", pair.story());
    assert!(holds(&Pair::own(&pair.right).join("trash"), "thumbs of the deleted\n"), "{}", pair.story());
    assert!(!pair.left.join("here/Thumbs.db").exists());
    pair.stop();
}

#[test]
fn force_removes_whatever_a_directory_holds() {
    for (options, stays) in [(&[][..], true), (&["-f"][..], false)] {
        let pair = Pair::new();
        plant(pair.left.join("dir/known"), "known\n");
        // A root that has lost everything would halt the pair.
        write(pair.left.join("other"), "other\n");
        pair.sync();
        remove_tree(pair.left.join("dir"));
        write(pair.right.join("dir/new"), "new on the right\n");
        let once = pair.sync_with(options);
        assert_eq!(once.code(), 0, "{}", pair.story());
        assert_eq!(pair.right.join("dir/new").exists(), stays, "{options:?}{}", pair.story());
        assert_eq!(pair.left.join("dir/new").exists(), stays, "{options:?}{}", pair.story());
        assert!(holds(&pair.right, "new on the right\n"), "it is kept{}", pair.story());
    }
}

#[test]
fn links_can_be_skipped() {
    let mut pair = configured("links = \"skip\"\n");
    plant(pair.left.join("dir/file"), "file\n");
    symlink("file", pair.left.join("dir/link"));
    pair.run();
    comes(&pair, pair.right.join("dir/file"), "file\n");
    symlink("/nowhere", pair.right.join("mine"));
    symlink("dir/file", pair.left.join("later"));
    mark(&pair, "mark");
    for absent in [pair.right.join("dir/link"), pair.right.join("later"), pair.left.join("mine")] {
        assert!(absent.symlink_metadata().is_err(), "{absent:?}{}", pair.story());
    }
    // It does not hold its directory.
    remove(pair.right.join("dir/file"));
    std::fs::remove_dir(pair.right.join("dir")).unwrap();
    assert!(poll(PATIENCE, || !pair.left.join("dir").exists()), "{}", pair.story());
    assert!(pair.left.join("later").symlink_metadata().is_ok(), "links are left alone");
    pair.stop();
}

#[test]
fn links_that_are_skipped_from_now_on_stay_where_they_are() {
    let pair = Pair::new();
    write(pair.left.join("file"), "file\n");
    symlink("file", pair.left.join("link"));
    pair.sync();
    let file = pair.beside("psync.toml");
    write(&file, "links = \"skip\"\n");
    remove(pair.left.join("link"));
    let once = pair.sync_with(&["--config", file.to_str().unwrap()]);
    assert_eq!(once.code(), 0, "{}", pair.story());
    assert!(pair.right.join("link").symlink_metadata().is_ok(), "forgotten, not deleted{}", pair.story());
}

#[test]
fn links_can_be_followed() {
    follows_links("links = \"follow\"\n");
}

#[test]
fn rsyncs_option_for_links_is_understood() {
    follows_links("rsync_extra = [\"-avL\"]\n");
}

fn follows_links(configuration: &str) {
    let mut pair = configured(configuration);
    plant(pair.left.join("dir/real"), "the file itself\n");
    chmod(pair.left.join("dir/real"), 0o640);
    symlink("../dir/real", pair.left.join("dir/link"));
    pair.run();
    let file = |path: &Path| path.symlink_metadata().is_ok_and(|m| m.is_file());
    comes(&pair, pair.right.join("dir/link"), "the file itself\n");
    assert!(file(&pair.right.join("dir/link")), "{}", pair.story());
    symlink("real", pair.left.join("dir/later"));
    comes(&pair, pair.right.join("dir/later"), "the file itself\n");
    assert!(poll(PATIENCE, || file(&pair.right.join("dir/later"))), "{}", pair.story());

    // What comes back takes the link's place; what it led to is left alone, and the link lies in the trash.
    let is_link = |path: std::path::PathBuf| path.symlink_metadata().is_ok_and(|m| m.is_symlink());
    assert!(is_link(pair.left.join("dir/link")) && is_link(pair.left.join("dir/later")));
    write(pair.right.join("dir/link"), "edited on the right\n");
    comes(&pair, pair.left.join("dir/link"), "edited on the right\n");
    assert!(file(&pair.left.join("dir/link")), "{}", pair.story());
    assert_eq!(read(pair.left.join("dir/real")), "the file itself\n", "{}", pair.story());
    chmod(pair.right.join("dir/later"), 0o600);
    assert!(poll(PATIENCE, || file(&pair.left.join("dir/later"))), "{}", pair.story());
    assert_eq!(read(pair.left.join("dir/later")), "the file itself\n");
    use std::os::unix::fs::MetadataExt;
    assert_eq!(pair.left.join("dir/real").metadata().unwrap().mode() & 0o777, 0o640, "{}", pair.story());
    let trashed = || {
        let entries = std::fs::read_dir(Pair::own(&pair.left).join("trash")).unwrap();
        entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_symlink())).count()
    };
    assert!(poll(PATIENCE, || trashed() == 2), "{} links in the trash{}", trashed(), pair.story());

    // A link that is deleted is one file less, not two.
    symlink("real", pair.left.join("dir/third"));
    comes(&pair, pair.right.join("dir/third"), "the file itself\n");
    remove(pair.right.join("dir/third"));
    assert!(poll(PATIENCE, || pair.left.join("dir/third").symlink_metadata().is_err()), "{}", pair.story());
    assert_eq!(read(pair.left.join("dir/real")), "the file itself\n");
    pair.stop();
    // A change of what it leads to is found by a full synchronisation.
    symlink("real", pair.left.join("dir/fourth"));
    pair.run();
    append(pair.left.join("dir/real"), "and more\n");
    comes(&pair, pair.right.join("dir/real"), "the file itself\nand more\n");
    pair.stop();
    assert_eq!(pair.sync_once().code(), 0, "{}", pair.story());
    assert_eq!(read(pair.right.join("dir/fourth")), "the file itself\nand more\n");
}

#[test]
fn links_that_cannot_be_followed_are_told_and_left_alone() {
    let mut pair = configured("links = \"follow\"\n");
    plant(pair.left.join("dir/file"), "file\n");
    write(pair.beside("outside"), "not to be seen\n");
    plant(Pair::own(&pair.left).join("trash/0-0-0"), "another's\n");
    let own = format!(".psync/{}/trash/0-0-0", crate::support::NAME);
    let odd = [
        ("nowhere", "no/such/file", "leads nowhere"),
        ("circle", "circle", "leads in a circle"),
        ("absolute", "/etc/passwd", "leads out of the root"),
        ("outside", "../outside", "leads out of the root"),
        ("to-dir", "dir", "leads to a directory"),
        ("own", own.as_str(), "leads out of the root"),
    ];
    for (name, target, _) in odd {
        symlink(target, pair.left.join(name));
    }
    pair.run();
    comes(&pair, pair.right.join("dir/file"), "file\n");
    mark(&pair, "mark");
    for (name, _, why) in odd {
        assert!(pair.right.join(name).symlink_metadata().is_err(), "{name} was carried over{}", pair.story());
        let told = poll(PATIENCE, || pair.lines().iter().any(|line| line.contains(name) && line.contains(why)));
        assert!(told, "{name}: {why}{}", pair.story());
    }
    // On the other side a link is no way out either.
    symlink("../outside", pair.right.join("theirs"));
    write(pair.left.join("theirs"), "from the left\n");
    mark(&pair, "second");
    assert_eq!(read(pair.beside("outside")), "not to be seen\n", "{}", pair.story());
    pair.stop();
}

#[test]
fn directories_of_a_name_can_be_left_unwatched() {
    let mut pair = configured("inotify_extra = [\"-E\", \"cache\"]\n");
    plant(pair.left.join("cache/deep/file"), "one\n");
    plant(pair.left.join("watched/file"), "one\n");
    pair.run();
    comes(&pair, pair.right.join("cache/deep/file"), "one\n");
    write(pair.left.join("cache/deep/file"), "two, unseen\n");
    write(pair.left.join("watched/file"), "two, seen\n");
    comes(&pair, pair.right.join("watched/file"), "two, seen\n");
    mark(&pair, "mark");
    assert_eq!(read(pair.right.join("cache/deep/file")), "one\n", "{}", pair.story());
    // The directory itself lies in one that is watched.
    rename(pair.left.join("cache"), pair.left.join("store"));
    comes(&pair, pair.right.join("store/deep/file"), "two, unseen\n");
    pair.stop();
    plant(pair.left.join("cache/again"), "again\n");
    // A full synchronisation sees it.
    pair.sync();
    assert_eq!(read(pair.right.join("cache/again")), "again\n");
}

#[test]
fn a_change_of_a_directory_examines_what_lies_below_it() {
    for (recurse, seen) in [(true, true), (false, false)] {
        let lines = format!("inotify_extra = [\"-E\", \"cache\"]\nrsync_event_recurse = {recurse}\n");
        let mut pair = configured(&lines);
        plant(pair.left.join("cache/deep/file"), "one\n");
        pair.run();
        write(pair.left.join("cache/deep/file"), "two, unseen\n");
        // An event of the directory that is no change of it.
        touch(pair.left.join("cache"), 1_000_000_000, 0);
        if seen {
            comes(&pair, pair.right.join("cache/deep/file"), "two, unseen\n");
        } else {
            mark(&pair, "mark");
            assert_eq!(read(pair.right.join("cache/deep/file")), "one\n", "{}", pair.story());
        }
        pair.stop();
    }
}

#[test]
fn contents_wait_for_the_full_sync_in_style_3() {
    let mut pair = configured("rsync_style = 3\n");
    for name in ["edited", "moved", "deleted"] {
        write(pair.left.join(name), "one\n");
    }
    pair.run();
    write(pair.left.join("edited"), "two, waiting\n");
    plant(pair.left.join("dir/new"), "waiting\n");
    rename(pair.left.join("moved"), pair.left.join("here"));
    remove(pair.left.join("deleted"));
    comes(&pair, pair.right.join("here"), "one\n");
    assert!(poll(PATIENCE, || !pair.right.join("deleted").exists()), "{}", pair.story());
    mark(&pair, "mark");
    assert!(pair.right.join("dir").is_dir(), "{}", pair.story());
    assert!(!pair.right.join("dir/new").exists(), "{}", pair.story());
    assert_eq!(read(pair.right.join("edited")), "one\n", "{}", pair.story());
    pair.stop();
    pair.sync();
    assert_eq!(read(pair.right.join("edited")), "two, waiting\n");
    assert_eq!(read(pair.right.join("dir/new")), "waiting\n");
}

/// Puts another hash into the archive: as if a byte had changed without leaving a trace in the stat.
fn doubt(root: &Path, name: &str) {
    let archive = rusqlite::Connection::open(Pair::own(root).join("archive.db")).unwrap();
    let changed = archive.execute("UPDATE rows SET hash = zeroblob(32) WHERE name = ?1", [name.as_bytes()]).unwrap();
    assert_eq!(changed, 1);
}

#[test]
fn an_echo_is_verified_by_its_contents_in_style_1() {
    for (style, verified) in [(1, true), (2, false)] {
        let mut pair = configured(&format!("rsync_style = {style}\n"));
        write(pair.left.join("file"), "contents\n");
        pair.run();
        pair.stop();
        doubt(&pair.left, "file");
        pair.run();
        let before = pair.actions_logged();
        // An event that changes nothing, as an echo is one.
        drop(OpenOptions::new().write(true).open(pair.left.join("file")).unwrap());
        if verified {
            assert!(poll(PATIENCE, || pair.actions_logged() > before), "{}", pair.story());
        } else {
            mark(&pair, "mark");
            let about = |line: &String| line.contains(" file");
            assert!(!pair.action_lines()[before..].iter().any(about), "{}", pair.story());
        }
        assert_eq!(read(pair.right.join("file")), "contents\n");
        pair.stop();
    }
}

#[test]
fn sambas_acls_travel_if_they_are_kept() {
    if !process::is_root() || !tools::has("getfattr") {
        return;
    }
    for (kept, want) in [(true, true), (false, false)] {
        let mut pair = configured(&format!("samba_acls = {kept}\n"));
        pair.run();
        write(pair.left.join("file"), "one\n");
        set_xattr(pair.left.join("file"), "security.NTACL", b"not really one");
        set_xattr(pair.left.join("file"), "user.other", b"x");
        let has = |name: &str| {
            let mut value = [0; 64];
            rustix::fs::getxattr(pair.right.join("file"), name, &mut value).is_ok()
        };
        assert!(poll(PATIENCE, || has("user.other")), "{}", pair.story());
        if want {
            assert!(poll(Duration::from_secs(20), || has("security.NTACL")), "{}", pair.story());
        } else {
            mark(&pair, "mark");
            assert!(!has("security.NTACL"), "{}", pair.story());
        }
        pair.stop();
    }
}
