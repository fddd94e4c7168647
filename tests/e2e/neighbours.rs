//! Other pairs on the same host: trees that overlap are refused, and psync's own directories never travel.

use std::os::unix::fs::symlink;
use std::path::Path;

use crate::support::users::*;
use crate::support::{NAME, PATIENCE, Pair, once, poll};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// One run of another pair, with a right root of its own.
fn other(name: &str, pair: &Pair, left: &Path) -> (i32, String) {
    let right = pair.beside(name);
    std::fs::create_dir_all(&right).unwrap();
    let once = once(&["-s", "--pair", name, text(left), text(&right)]);
    (once.code(), once.stderr)
}

#[test]
fn a_root_in_a_root_of_another_pair_that_runs_is_refused() {
    let mut pair = Pair::new();
    plant(pair.left.join("sub/deep/file"), "text\n");
    plant(pair.left.join("apart/file"), "text\n");
    let link = pair.beside("link");
    symlink(pair.left.join("sub"), &link).unwrap();
    // As long as nobody runs there, it is nobody's.
    assert_eq!(other("other", &pair, &pair.left.join("sub")).0, 0);
    pair.run();
    let right = pair.right.clone();
    for (root, lies_in) in [
        (pair.left.join("sub"), &pair.left),
        (pair.left.join("sub/deep"), &pair.left),
        (link, &pair.left),
        (right.join("sub"), &right),
    ] {
        let (code, said) = other("other", &pair, &root);
        let want = format!("lies in {} of pair {NAME}: exclude it there or use another", lies_in.display());
        assert!(code == 1 && said.contains(&want), "{root:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    // The other way round, and what the outer one excludes.
    let above = pair.left.parent().unwrap().to_owned();
    let elsewhere = tempfile::tempdir().unwrap();
    let holds = once(&["-s", "--pair", "other", text(&above), text(elsewhere.path())]);
    assert!(holds.code() == 1 && holds.stderr.contains(" holds "), "{}", holds.stderr);
    pair.stop();

    let mut careful = Pair::new().with(&["-e", "^/sub(/|$)"]);
    plant(careful.left.join("sub/file"), "text\n");
    plant(careful.left.join("file"), "text\n");
    careful.run();
    let (code, said) = other("inner", &careful, &careful.left.join("sub"));
    assert_eq!(code, 0, "{said}");
    // A hub: one root is the left one of two pairs, each with a right side of its own.
    let (code, said) = other("hub", &careful, &careful.left);
    assert_eq!(code, 0, "{said}");
    // The same two trees twice are no hub.
    let twice = once(&["-s", "--pair", "twice", text(&careful.left), text(&careful.right)]);
    assert!(twice.code() == 1 && twice.stderr.contains("keeps the same two trees aligned"), "{}", twice.stderr);
    careful.stop();
}

/// Whosever it is, wherever it lies, and whoever made it.
#[test]
fn no_directory_of_psyncs_own_travels() {
    let mut pair = Pair::new();
    let places = [".psync/elsewhere/archive.db", "a/.psync/pair/archive.db", "a/b/c/.psync/x", "a/b/.psync/.psync/y"];
    for (n, root) in pair.sides().into_iter().enumerate() {
        for place in places {
            plant(root.join(place), format!("of side {n}\n"));
        }
        plant(root.join(format!("a/b/c/mark{n}")), "travels\n");
    }
    pair.run();
    let live = ["new/.psync/pair/archive.db-journal", "a/b/.psync/late"];
    for (n, root) in pair.sides().into_iter().enumerate() {
        for place in live {
            plant(root.join(place), format!("of side {n}\n"));
        }
        plant(root.join(format!("new/mark{n}")), "travels\n");
    }
    let [left, right] = pair.sides();
    assert!(poll(PATIENCE, || left.join("new/mark1").exists() && right.join("new/mark0").exists()), "{}", pair.story());
    pair.stop();
    let _ = pair.sync_with(&["--checksum"]);
    for (n, root) in pair.sides().into_iter().enumerate() {
        for place in places.iter().chain(&live) {
            assert_eq!(read(root.join(place)), format!("of side {n}\n"), "{place}{}", pair.story());
        }
    }
}

#[test]
fn a_pair_that_nobody_knows_is_named_by_every_command() {
    for words in [
        &["status", "nosuchpair"][..],
        &["status", "nosuchpair", "--json"],
        &["check", "nosuchpair"],
        &["fullsync", "nosuchpair"],
        &["conflicts", "nosuchpair"],
        &["pause", "nosuchpair"],
        &["resume", "nosuchpair"],
        &["trash", "nosuchpair", "list"],
        &["events", "nosuchpair"],
        &["doctor", "nosuchpair"],
        &["config", "show", "nosuchpair"],
    ] {
        let once = once(words);
        assert_eq!(once.code(), 1, "{words:?}: {}", once.stderr);
        assert!(once.stderr.starts_with("psync: no pair nosuchpair here; "), "{words:?}: {}", once.stderr);
        assert_eq!((once.stderr.lines().count(), once.stdout.as_str()), (1, ""), "{words:?}");
    }
}

/// The losers of a pair without a file are reached by its roots.
#[test]
fn the_trash_of_a_pair_without_a_file() {
    let mut pair = Pair::new();
    plant(pair.left.join("dir/a"), "first\n");
    pair.run();
    write(pair.left.join("dir/a"), "second\n");
    pair.settle();
    pair.stop();
    let roots = [text(&pair.left), text(&pair.right)];
    let list = once(&["trash", NAME, "--roots", roots[0], roots[1], "list"]);
    assert!(list.code() == 0 && list.stdout.contains("dir/a"), "{}{}", list.stdout, list.stderr);
    let restore = once(&["trash", NAME, "--roots", roots[0], roots[1], "restore", "dir/a", "--to", "dir/old"]);
    assert_eq!(restore.code(), 0, "{}{}", restore.stdout, restore.stderr);
    assert_eq!(read(pair.right.join("dir/old")), "first\n");
}

/// What somebody without a socket is advised to do is what he can do.
#[test]
fn a_run_in_the_foreground_is_told_to_start_again() {
    let mut pair = Pair::new();
    for n in 0..150 {
        plant(pair.left.join(format!("file{n}")), "text\n");
    }
    pair.run();
    for n in 0..140 {
        remove(pair.left.join(format!("file{n}")));
    }
    let said = pair.wait_said(PATIENCE, |line| line.contains("halted"));
    assert!(said, "{}", pair.story());
    let lines = pair.lines().join("\n");
    assert!(lines.contains("start again with --accept") && !lines.contains("psync resume"), "{lines}");
    pair.stop();
}
