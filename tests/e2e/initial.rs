//! The first synchronisation, and what options change about it.

use std::path::{Path, PathBuf};

use crate::dir_times;
use crate::support::users::*;
use crate::support::{Depth, Pair, snapshot, tools};

/// A real source tree on this machine: the unpacked sources of a crate that psync is built from.
fn sources(name: &str) -> PathBuf {
    let cargo = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo = cargo.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cargo"));
    for registry in std::fs::read_dir(cargo.join("registry/src")).unwrap().flatten() {
        for package in std::fs::read_dir(registry.path()).unwrap().flatten() {
            if package.file_name().to_str().is_some_and(|n| n.starts_with(name)) {
                return package.path();
            }
        }
    }
    panic!("no unpacked sources of {name}");
}

/// Copies a tree with all its times, as `cp -a` does.
fn copy(from: &Path, to: &Path) {
    tools::run(Path::new("/"), "cp", &["-a", from.to_str().unwrap(), to.to_str().unwrap()]);
}

#[test]
fn real_source_trees_meet() {
    let mut pair = Pair::new();
    copy(&sources("rustix-1"), &pair.left.join("rustix"));
    copy(&sources("regex-automata-"), &pair.right.join("regex"));
    for root in pair.sides() {
        copy(&sources("clap_builder-"), &root.join("clap"));
    }
    let mut times = dir_times::times(&pair.left);
    times.extend(dir_times::times(&pair.right));
    let mut wanted = snapshot(&pair.left, Depth::Contents);
    wanted.0.extend(snapshot(&pair.right, Depth::Contents).0);
    pair.run();
    // Not waited for: when it says that it is in sync, it is.
    let tree = pair.assert_equal();
    assert!(tree == wanted, "{}", wanted.differences(&tree, ("before", "now")));
    assert_eq!(pair.sides().map(dir_times::times), [times.clone(), times], "directories' times");
    let files = wanted.0.values().filter(|n| n.kind == 'f').count();
    let line = pair.lines().into_iter().find(|l| l.contains(" in sync: ")).unwrap();
    assert!(line.starts_with("psync: e2e in sync: "), "{line}");
    assert!(line.replace([',', '\u{202f}'], "").contains(&format!("{files} files")), "{line}, not {files} files");
    // What was equal from the start was not sent.
    let same = pair.action_lines().into_iter().filter(|l| l.contains("clap/")).collect::<Vec<_>>();
    assert!(same.is_empty(), "{same:#?}");
    pair.stop();

    let actions = pair.actions_logged();
    pair.run();
    pair.stop();
    assert_eq!(pair.actions_logged(), actions, "a restart with nothing changed did something{}", pair.story());
}

#[test]
fn sync_only_ends_by_itself() {
    let pair = Pair::new();
    plant(pair.left.join("a/b"), "left\n");
    plant(pair.right.join("c/d"), "right\n");
    let tree = pair.sync();
    assert_eq!(tree.paths(), ["a", "a/b", "c", "c/d"]);
    remove(pair.right.join("a/b"));
    rename(pair.left.join("c"), pair.left.join("e"));
    let tree = pair.sync();
    assert_eq!(tree.paths(), ["a", "e", "e/d"]);
}

#[test]
fn a_first_sync_of_different_files_keeps_the_loser_in_the_trash() {
    let pair = Pair::new();
    for (root, text, time) in [(&pair.left, "older\n", 1_500_000_000), (&pair.right, "newer\n", 1_600_000_000)] {
        write(root.join("file"), text);
        touch(root.join("file"), time, 0);
        // Equal in size and time: agreed unread.
        write(root.join("same"), "the same\n");
        touch(root.join("same"), 1_400_000_000, 5);
    }
    let tree = pair.sync();
    assert_eq!(tree.paths(), ["file", "same"]);
    assert_eq!(read(pair.left.join("file")), "newer\n");
    let kept = tools::run(&Pair::own(&pair.left).join("trash"), "grep", &["-rl", "older", "."]);
    assert_eq!(kept.lines().count(), 1, "{kept}");
}

#[test]
fn a_dry_run_changes_nothing() {
    let pair = Pair::new();
    plant(pair.left.join("a/b"), "left\n");
    plant(pair.right.join("c/d"), "right\n");
    let before = pair.sides().map(|root| snapshot(root, Depth::Contents));
    let once = pair.sync_with(&["-n"]);
    assert_eq!(once.code(), 0, "{}", once.stderr);
    assert!(once.stderr.contains("dry run: 4 actions would be done"), "{}", once.stderr);
    assert!(!once.stderr.contains("in sync"), "{}", once.stderr);
    let planned = pair.action_lines().into_iter().filter(|line| line.contains("would be done: action")).count();
    assert_eq!(planned, 4, "{}", pair.story());
    for root in pair.sides() {
        assert!(!root.join(".psync").exists(), "a dry run made .psync");
    }
    assert!(before == pair.sides().map(|root| snapshot(root, Depth::Contents)), "a dry run changed a tree");
    // Everything still counts as never seen.
    assert_eq!(pair.sync().paths(), ["a", "a/b", "c", "c/d"]);

    // A pair that knows its trees: the archive stays as it is, and what it would do is still to be done.
    write(pair.left.join("a/b"), "edited\n");
    remove(pair.right.join("c/d"));
    rename(pair.left.join("c"), pair.left.join("e"));
    let archive = |root: &Path| std::fs::read(Pair::own(root).join("archive.db")).unwrap();
    let before = pair.sides().map(|root| (snapshot(root, Depth::Contents), archive(root)));
    let once = pair.sync_with(&["-n"]);
    assert_eq!(once.code(), 0, "{}", once.stderr);
    assert!(once.stderr.contains("actions would be done"), "{}", once.stderr);
    let after = pair.sides().map(|root| (snapshot(root, Depth::Contents), archive(root)));
    assert!(before == after, "a dry run changed a tree or an archive");
    assert_eq!(pair.sync().paths(), ["a", "a/b", "e"]);
}

#[test]
fn an_agent_without_a_pair_serves_the_one_that_the_brain_names() {
    let pair = Pair::new();
    let agent = format!("exec {} --agent-mode --stdio --root {}", crate::support::PSYNC, pair.right.display());
    let pair = pair.with(&["--proxy-command", &agent]);
    plant(pair.left.join("a/b"), "left\n");
    // The brain's wish for a dry run counts for an agent that was not told of it.
    let once = pair.sync_with(&["-n"]);
    assert_eq!(once.code(), 0, "{}{}", once.stderr, pair.story());
    assert!(!pair.right.join(".psync").exists(), "a dry run made .psync");
    assert_eq!(pair.sync().paths(), ["a", "a/b"]);
    assert!(Pair::own(&pair.right).join("archive.db").exists());
    assert!(!pair.story().contains("the brain is gone"), "after an ordinary end{}", pair.story());
}

#[test]
fn missing_roots_are_made_when_asked_for() {
    let pair = Pair::new();
    std::fs::remove_dir(&pair.left).unwrap();
    std::fs::remove_dir(&pair.right).unwrap();
    let once = pair.sync_with(&["--create-roots"]);
    assert_eq!(once.code(), 0, "{}", once.stderr);
    assert!(pair.left.is_dir() && pair.right.is_dir());
}

#[test]
fn without_an_initial_sync_only_new_changes_travel() {
    let mut pair = Pair::new();
    write(pair.left.join("old-left"), "before\n");
    write(pair.right.join("old-right"), "before\n");
    let options = ["-k"];
    let once = pair.sync_with(&options);
    assert_eq!(once.code(), 0, "{}", once.stderr);
    assert!(!pair.right.join("old-left").exists() && !pair.left.join("old-right").exists(), "-k sent what was there");
    drop(pair);

    pair = Pair::new();
    write(pair.left.join("old-left"), "before\n");
    pair = pair.with(&options);
    pair.run();
    write(pair.left.join("new"), "after\n");
    let arrived = crate::support::poll(crate::support::PATIENCE, || pair.right.join("new").exists());
    assert!(arrived, "what is new did not travel{}", pair.story());
    assert!(!pair.right.join("old-left").exists(), "-k sent what was there");
    pair.stop();
}

#[test]
fn excluded_and_temporary_names_stay_where_they_are() {
    let mut pair = Pair::new().with(&["-e", r"/cache/|\.o$", "-t", r"\.part$"]);
    plant(pair.left.join("cache/x"), "x");
    plant(pair.left.join("src/a.o"), "object");
    plant(pair.left.join("src/a.c"), "source");
    write(pair.left.join("film.part"), "half");
    write(pair.left.join("notes.psync.ignore"), "private");
    pair.run();
    write(pair.left.join("b.o"), "object");
    write(pair.left.join("book.part"), "half");
    write(pair.left.join("done"), "done");
    let has = |path: &str| pair.right.join(path).exists();
    assert!(crate::support::poll(crate::support::PATIENCE, || has("done")), "{}", pair.story());
    assert!(has("src/a.c"));
    for hidden in ["cache/x", "src/a.o", "film.part", "notes.psync.ignore", "b.o", "book.part"] {
        assert!(!has(hidden), "{hidden} was sent");
    }
    // A download that is done gets its name.
    rename(pair.left.join("film.part"), pair.left.join("film"));
    assert!(crate::support::poll(crate::support::PATIENCE, || has("film")), "{}", pair.story());
    // An excluded file does not hold its directory.
    remove_tree(pair.right.join("src"));
    assert!(
        crate::support::poll(crate::support::PATIENCE, || !pair.left.join("src").exists()),
        "an excluded file held its directory{}",
        pair.story()
    );
    pair.stop();
}
