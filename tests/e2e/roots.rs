//! Roots that are not what they were: psync halts, says so, and destroys nothing.

use std::path::Path;
use std::time::Duration;

use crate::support::users::*;
use crate::support::{Depth, PATIENCE, Pair, Tree, poll, process, snapshot, tools};

/// A pair that has been in sync with 150 files, stopped.
fn settled() -> Pair {
    let mut pair = Pair::new();
    for n in 0..150 {
        plant(pair.left.join(format!("dir{}/file{n}", n % 10)), format!("text {n}\n"));
    }
    pair.run();
    pair.stop();
    pair
}

fn both(pair: &Pair) -> [Tree; 2] {
    pair.sides().map(|root| snapshot(root, Depth::Contents))
}

/// What a halt must tell: that it halted, why, and what to type.
fn tells(text: &str, why: &[&str]) {
    let lower = text.to_lowercase();
    assert!(why.iter().any(|word| lower.contains(word)), "none of {why:?} in:\n{text}");
    assert!(
        ["psync resume", "--accept", "start again"].iter().any(|words| lower.contains(words)),
        "nothing to type in:\n{text}"
    );
}

/// psync refuses to go on, by `-s` and live, and both trees stay as they are.
fn halts(pair: &mut Pair, why: &[&str]) {
    let before = both(pair);
    let once = pair.sync_once();
    assert_eq!(once.code(), 7, "-s: {}{}", once.stderr, pair.story());
    tells(&once.stderr, why);
    unchanged(pair, &before);

    pair.spawn();
    let said = pair.wait_said(PATIENCE, |line| line.to_lowercase().contains("halt"));
    assert!(said, "no word of a halt{}", pair.story());
    tells(&pair.lines().join("\n"), why);
    // It stays halted whatever users do.
    for root in pair.sides() {
        write(root.join("during-the-halt"), format!("{root:?}"));
    }
    std::thread::sleep(Duration::from_secs(2));
    assert!(pair.is_running(), "a halted pair waits{}", pair.story());
    for root in pair.sides() {
        assert_eq!(read(root.join("during-the-halt")), format!("{root:?}"), "something was propagated");
        remove(root.join("during-the-halt"));
    }
    pair.stop();
    unchanged(pair, &before);
}

fn unchanged(pair: &Pair, before: &[Tree; 2]) {
    for ((root, before), name) in pair.sides().iter().zip(before).zip(["left", "right"]) {
        let now = snapshot(root, Depth::Contents);
        assert!(&now == before, "{name} changed:\n{}{}", before.differences(&now, ("before", "now")), pair.story());
    }
}

fn empty(root: &Path) {
    for entry in std::fs::read_dir(root).unwrap().flatten().filter(|e| e.file_name() != ".psync") {
        remove_tree(entry.path());
    }
}

#[test]
fn an_emptied_root() {
    for which in 0..2 {
        let mut pair = settled();
        empty(pair.sides()[which]);
        halts(&mut pair, &["entries", "empty", "deletion"]);
    }
}

#[test]
fn a_root_emptied_while_it_runs() {
    for which in 0..2 {
        let mut pair = settled();
        pair.run();
        empty(pair.sides()[which]);
        let said = pair.wait_said(PATIENCE, |line| line.to_lowercase().contains("halt"));
        assert!(said, "no word of a halt{}", pair.story());
        tells(&pair.lines().join("\n"), &["entries", "empty", "deletion"]);
        std::thread::sleep(Duration::from_secs(1));
        let other = snapshot(pair.sides()[1 - which], Depth::Contents);
        let left = other.0.values().filter(|n| n.kind == 'f').count();
        assert!(left >= 40, "only {left} of 150 files are left on the other side{}", pair.story());
        pair.stop();
    }
}

#[test]
fn an_exchanged_root() {
    for which in 0..2 {
        let mut pair = settled();
        let root = pair.sides()[which].to_owned();
        rename(&root, pair.beside("away"));
        plant(root.join("something/else"), "another disk\n");
        let before = both(&pair);
        halts(&mut pair, &["archive", "identity", "root"]);
        unchanged(&pair, &before);
        assert_eq!(snapshot(&pair.beside("away"), Depth::Contents).0.len(), 160);
    }
}

#[test]
fn the_roots_changed_places() {
    // Nothing can be lost by it: psync may halt, or go on as if it had been started that way.
    let mut pair = settled();
    write(pair.left.join("only-left"), "edited while stopped\n");
    remove(pair.right.join("dir1/file1"));
    rename(&pair.left, pair.beside("aside"));
    rename(&pair.right, &pair.left);
    rename(pair.beside("aside"), &pair.right);
    let once = pair.sync_once();
    if once.code() == 7 {
        return halts(&mut pair, &["archive", "identity", "root", "side"]);
    }
    let tree = pair.assert_equal();
    assert!(tree.has("only-left") && !tree.has("dir1/file1"), "{:?}", tree.paths());
}

#[test]
fn a_root_exchanged_while_it_runs() {
    for which in 0..2 {
        let mut pair = settled();
        pair.run();
        let root = pair.sides()[which].to_owned();
        let other = pair.sides()[1 - which].to_owned();
        let before = snapshot(&other, Depth::Contents);
        rename(&root, pair.beside("away"));
        mkdir(&root);
        plant(root.join("something/else"), "another disk\n");
        // Something happens on the other side, so that it has a reason to look.
        write(other.join("probe"), "probe\n");
        let said = pair.wait_said(PATIENCE, |line| {
            let line = line.to_lowercase();
            line.contains("halt") || line.contains("lost")
        });
        assert!(said, "no word that a root is gone{}", pair.story());
        remove(other.join("probe"));
        let now = snapshot(&other, Depth::Contents);
        assert!(now == before, "{}{}", before.differences(&now, ("before", "now")), pair.story());
        assert_eq!(snapshot(&root, Depth::Contents).paths(), ["something", "something/else"]);
        let _ = pair.processes();
    }
}

#[test]
fn one_archive_missing() {
    for which in 0..2 {
        let mut pair = settled();
        remove(pair.left.join("dir3/file3"));
        write(pair.right.join("dir4/file4"), "edited while stopped\n");
        remove_tree(pair.sides()[which].join(".psync"));
        halts(&mut pair, &["archive"]);
    }
}

#[test]
fn both_archives_missing_is_a_first_sync() {
    let pair = settled();
    for root in pair.sides() {
        remove_tree(root.join(".psync"));
    }
    remove(pair.left.join("dir3/file3"));
    // Nothing is known, so nothing is deleted.
    assert!(pair.sync().has("dir3/file3"));
}

#[test]
fn a_root_restored_from_an_older_copy() {
    for which in 0..2 {
        let mut pair = settled();
        let root = pair.sides()[which].to_owned();
        let copy = pair.beside("backup");
        tools::run(Path::new("/"), "cp", &["-a", root.to_str().unwrap(), copy.to_str().unwrap()]);
        pair.run();
        write(pair.left.join("dir1/file1"), "newer than the backup\n");
        write(pair.right.join("dir2/new"), "newer than the backup\n");
        remove(pair.left.join("dir5/file5"));
        rename(pair.right.join("dir6"), pair.right.join("dir6 renamed"));
        pair.settle();
        pair.stop();
        remove_tree(&root);
        rename(&copy, &root);
        halts(&mut pair, &["older", "backup", "snapshot", "rolled back", "rollback", "restored"]);
    }
}

#[test]
fn an_unmounted_root() {
    if !process::is_root() || !tools::has("mount") {
        return eprintln!("skipped: an_unmounted_root needs the right to mount");
    }
    for which in 0..2 {
        let mut pair = Pair::new();
        let root = pair.sides()[which].to_owned();
        let at = root.to_str().unwrap();
        let mount = std::process::Command::new("mount").args(["-t", "tmpfs", "psync-e2e", at]).output().unwrap();
        if !mount.status.success() {
            return eprintln!("skipped: an_unmounted_root: {}", String::from_utf8_lossy(&mount.stderr));
        }
        let _mounted = Mounted(at.to_owned());
        for n in 0..150 {
            plant(pair.left.join(format!("dir{}/file{n}", n % 10)), format!("text {n}\n"));
        }
        pair.run();
        pair.stop();
        let other = snapshot(pair.sides()[1 - which], Depth::Contents);
        tools::run(Path::new("/"), "umount", &[at]);
        assert!(snapshot(&root, Depth::Stat).0.is_empty());
        halts(&mut pair, &["archive", "mount"]);
        assert!(snapshot(pair.sides()[1 - which], Depth::Contents) == other);
    }
}

/// Takes the mount away whatever happens.
struct Mounted(String);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").args(["-l", &self.0]).output();
    }
}

#[test]
fn another_file_system_inside_the_root_stays_out() {
    if !process::is_root() || !tools::has("mount") {
        return eprintln!("skipped: another_file_system_inside_the_root_stays_out needs the right to mount");
    }
    let mut pair = Pair::new();
    let inner = pair.left.join("inner");
    mkdir(&inner);
    let mount =
        std::process::Command::new("mount").args(["-t", "tmpfs", "psync-e2e", inner.to_str().unwrap()]).output();
    if !mount.unwrap().status.success() {
        return eprintln!("skipped: another_file_system_inside_the_root_stays_out");
    }
    let _mounted = Mounted(inner.to_str().unwrap().to_owned());
    write(inner.join("secret"), "on another disk\n");
    write(pair.left.join("plain"), "here\n");
    pair.run();
    let plain = pair.right.join("plain");
    assert!(poll(PATIENCE, || plain.exists()), "{}", pair.story());
    assert!(!pair.right.join("inner/secret").exists(), "another file system was entered");
    pair.stop();
    assert_eq!(read(inner.join("secret")), "on another disk\n");
}

#[test]
fn a_deletion_of_most_files_halts_and_a_smaller_one_does_not() {
    let pair = settled();
    for n in 0..60 {
        remove(pair.left.join(format!("dir{}/file{n}", n % 10)));
    }
    assert_eq!(pair.sync().0.values().filter(|n| n.kind == 'f').count(), 90);

    let mut pair = settled();
    for n in 0..120 {
        remove(pair.left.join(format!("dir{}/file{n}", n % 10)));
    }
    // It halts when it has seen too many; what went before that lies in the trash.
    let once = pair.sync_once();
    assert_eq!(once.code(), 7, "-s: {}{}", once.stderr, pair.story());
    tells(&once.stderr, &["deletion", "delete"]);
    let now = snapshot(&pair.right, Depth::Contents);
    let kept = now.0.values().filter(|n| n.kind == 'f').count();
    assert!(kept >= 50, "only {kept} of 150 files are left{}", pair.story());
    let trash = tools::run(&Pair::own(&pair.right), "find", &["trash", "-type", "f"]);
    assert!(trash.lines().count() >= 150 - kept, "{} of {} in the trash", trash.lines().count(), 150 - kept);
    halts(&mut pair, &["deletion", "delete"]);
}

#[test]
fn a_number_of_deletions_that_halts() {
    let mut pair = Pair::new();
    let file = pair.beside("psync.toml");
    let keys = |limit: &str| {
        format!("max_delete = {limit}\n[left]\nroot = {:?}\n[right]\nroot = {:?}\n", pair.left, pair.right)
    };
    let (few, off) = (keys("5"), keys("\"0%\""));
    for n in 0..300 {
        plant(pair.left.join(format!("dir{}/file{n}", n / 100)), format!("text {n}\n"));
    }
    pair.run();
    // In the very first session: the guard knows what came to be in it.
    for n in 0..120 {
        remove(pair.left.join(format!("dir{}/file{n}", n / 100)));
    }
    let gone = || !pair.right.join("dir1/file119").exists() && !pair.right.join("dir0/file0").exists();
    assert!(poll(PATIENCE, gone), "120 of 303 halted{}", pair.story());
    pair.stop();

    // A directory that became a file counts with all that was in it.
    remove_tree(pair.left.join("dir2"));
    write(pair.left.join("dir2"), "a file now\n");
    let run = |keys: &str| {
        write(&file, keys);
        let once = crate::support::once(&["--config", file.to_str().unwrap(), "--pair", crate::support::NAME, "-s"]);
        (once.code(), once.stderr)
    };
    let (code, said) = run(&few);
    assert_eq!(code, 7, "{said}");
    assert!(pair.right.join("dir2/file200").exists(), "{said}");
    let (code, said) = run(&off);
    assert_eq!(code, 0, "{said}");
    assert_eq!(read(pair.right.join("dir2")), "a file now\n");
}

/// A pair that runs, and met a moment ago: 200 directories with a file each, young as they are.
fn just_met() -> Pair {
    let mut pair = Pair::new();
    for n in 0..200 {
        plant(pair.left.join(format!("dir{n}/file")), format!("text {n}\n"));
    }
    pair.run();
    pair
}

fn halts_for_deletions(pair: &mut Pair, kept: &Path, what: &str) {
    let said = pair.wait_said(PATIENCE, |line| line.contains("halted") && line.contains("deletions"));
    assert!(said, "{what}: no word of a halt{}", pair.story());
    let left = snapshot(kept, Depth::Contents).0.values().filter(|n| n.kind == 'f').count();
    assert!(left > 0, "{what}: nothing is left{}", pair.story());
}

/// An rm -r is the first that newcomers try.
#[test]
fn what_a_first_sync_found_is_guarded_at_once() {
    for again in [false, true] {
        for on_left in [true, false] {
            let mut pair = just_met();
            if again {
                pair.stop();
                pair.run();
            }
            let (here, there) = match on_left {
                true => (pair.left.clone(), pair.right.clone()),
                false => (pair.right.clone(), pair.left.clone()),
            };
            for n in 0..160 {
                remove_tree(here.join(format!("dir{n}")));
            }
            halts_for_deletions(&mut pair, &there, &format!("on the left {on_left}, restarted {again}"));
            let kept = (0..200).filter(|n| there.join(format!("dir{n}/file")).exists()).count();
            assert!(kept >= 100, "{kept} of 200 are left{}", pair.story());
            pair.stop();
        }
    }
}

/// What a user makes and removes himself is his own matter, though psync was restarted between; what the other side's users made is not.
#[test]
fn who_made_it_may_remove_it() {
    for again in [false, true] {
        for own in [true, false] {
            let mut pair = settled();
            // What is made in the very tick in which both sides met counts as there before.
            std::thread::sleep(Duration::from_millis(20));
            pair.run();
            for n in 0..400 {
                plant(pair.right.join(format!("new{n}")), format!("new {n}\n"));
            }
            let there = || (0..400).all(|n| pair.left.join(format!("new{n}")).exists());
            assert!(poll(PATIENCE, there), "{}", pair.story());
            if again {
                pair.stop();
                // Made while nobody looks.
                for n in 400..500 {
                    plant(pair.right.join(format!("new{n}")), format!("new {n}\n"));
                }
                pair.run();
            }
            let here = if own { pair.right.clone() } else { pair.left.clone() };
            for n in 0..if again { 500 } else { 400 } {
                remove(here.join(format!("new{n}")));
            }
            if own {
                let gone = || (0..500).all(|n| !pair.left.join(format!("new{n}")).exists());
                assert!(poll(PATIENCE, gone), "restarted {again}: what a user made himself halted{}", pair.story());
            } else {
                let right = pair.right.clone();
                halts_for_deletions(&mut pair, &right, &format!("restarted {again}"));
            }
            pair.stop();
        }
    }
}
