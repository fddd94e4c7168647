//! What users write into a directory after it was deleted on the other side: they still have it open.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use crate::support::users::*;
use crate::support::{PATIENCE, Pair, poll, tools};

/// A directory that a process has open: what lies in it can be reached whatever it is called by now.
struct Held(File);

impl Held {
    fn open(at: &Path) -> Held {
        Held(File::open(at).unwrap())
    }

    fn at(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd())).join(name)
    }
}

fn tree(root: &Path) {
    plant(root.join("project/known"), "known\n");
    plant(root.join("project/sub/known"), "known as well\n");
    plant(root.join("project/sub/other"), "other\n");
    plant(root.join("project/idle/known"), "idle\n");
}

fn made_after_the_deletion(left_side: bool) {
    let mut pair = Pair::new();
    tree(&pair.left);
    pair.run();
    let (here, there) = if left_side { (&pair.left, &pair.right) } else { (&pair.right, &pair.left) };
    let (here, there) = (here.clone(), there.clone());
    let [top, sub] = ["project", "project/sub"].map(|dir| Held::open(&here.join(dir)));
    remove_tree(there.join("project"));
    assert!(poll(PATIENCE, || !here.join("project").exists()), "{}", pair.story());
    // At once, and again after psync has looked.
    fs::write(sub.at("late"), "made in a deleted directory\n").unwrap();
    fs::create_dir(top.at("new")).unwrap();
    fs::write(top.at("new/file"), "in a new directory\n").unwrap();
    let mut known = OpenOptions::new().append(true).open(sub.at("known")).unwrap();
    known.write_all(b"written late\n").unwrap();
    let both = |name: &str| pair.sides().iter().all(|root| root.join(name).exists());
    assert!(poll(PATIENCE, || both("project/sub/late") && both("project/new/file")), "{}", pair.story());
    fs::write(sub.at("later"), "made when psync had looked once\n").unwrap();
    drop(known);
    assert!(poll(PATIENCE, || both("project/sub/later") && both("project/sub/known")), "{}", pair.story());

    let tree = pair.settle();
    let wanted = [
        "project",
        "project/new",
        "project/new/file",
        "project/sub",
        "project/sub/known",
        "project/sub/late",
        "project/sub/later",
    ];
    assert_eq!(tree.paths(), wanted, "{}", pair.story());
    assert_eq!(read(there.join("project/sub/late")), "made in a deleted directory\n");
    assert_eq!(read(there.join("project/sub/known")), "known as well\nwritten late\n");
    pair.stop();
}

#[test]
fn what_is_made_on_the_right_in_a_directory_that_the_left_deleted_comes_back() {
    made_after_the_deletion(false);
}

#[test]
fn what_is_made_on_the_left_in_a_directory_that_the_right_deleted_comes_back() {
    made_after_the_deletion(true);
}

#[test]
fn a_name_that_is_taken_by_then_keeps_what_it_has() {
    let mut pair = Pair::new();
    tree(&pair.left);
    pair.run();
    let sub = Held::open(&pair.right.join("project/sub"));
    remove_tree(pair.left.join("project"));
    assert!(poll(PATIENCE, || !pair.right.join("project").exists()), "{}", pair.story());
    // A look is due in a second at the earliest: by then there is another tree of that name.
    fs::write(sub.at("file"), "late\n").unwrap();
    plant(pair.left.join("project/sub/file"), "of the new tree\n");
    let copies = || {
        let Ok(list) = fs::read_dir(pair.right.join("project/sub")) else { return Vec::new() };
        let names: Vec<PathBuf> = list.flatten().map(|entry| entry.path()).collect();
        let mut texts: Vec<String> = names.into_iter().filter_map(|path| fs::read_to_string(path).ok()).collect();
        texts.sort_unstable();
        texts
    };
    assert!(poll(PATIENCE, || copies() == ["late\n", "of the new tree\n"]), "{:?}{}", copies(), pair.story());
    let tree = pair.settle();
    assert_eq!(tree.paths().iter().filter(|path| path.starts_with("project/sub/")).count(), 2, "{:?}", tree.paths());
    pair.stop();
}

/// The names of what waits for its look in the trash of a side that is stopped.
fn waiting(root: &Path) -> String {
    let archive = Pair::own(root).join("archive.db");
    tools::run(root, "sqlite3", &[archive.to_str().unwrap(), "SELECT CAST(path AS TEXT) FROM trash WHERE look = 1"])
}

#[test]
fn a_look_that_was_due_when_psync_was_killed_is_made_up_for() {
    if !tools::has("sqlite3") {
        return;
    }
    let mut pair = Pair::new();
    // Else the last directory's deletion would look like a root that lost everything.
    plant(pair.left.join("stays"), "stays\n");
    pair.run();
    for attempt in 0..20 {
        let (name, file) = (format!("dir{attempt}"), format!("dir{attempt}/known"));
        plant(pair.left.join(&file), "known\n");
        assert!(poll(PATIENCE, || pair.right.join(&file).exists()), "{}", pair.story());
        pair.settle();
        let held = Held::open(&pair.right.join(&name));
        remove_tree(pair.left.join(&name));
        assert!(poll(PATIENCE, || !pair.right.join(&name).exists()), "{}", pair.story());
        pair.kill9_all();
        let pending = waiting(&pair.right).contains(&name);
        fs::write(held.at("late"), "made while psync was not there\n").unwrap();
        pair.run();
        if !pending {
            // It was killed too early or too late for this test.
            continue;
        }
        let late = format!("{name}/late");
        let back = poll(PATIENCE, || pair.sides().iter().all(|root| root.join(&late).exists()));
        assert!(back, "what was made while psync was not there stays in the trash{}", pair.story());
        assert!(!pair.settle().has(&file), "{}", pair.story());
        pair.stop();
        return;
    }
    panic!("psync was never killed within a second after a deletion");
}

#[test]
fn before_it_expires_a_deleted_directory_is_looked_through_once_more() {
    if !tools::has("sqlite3") {
        return;
    }
    let pair = Pair::new();
    let config = pair.beside("psync.toml");
    write(&config, "trash_max = 1000000\n");
    let mut pair = pair.with(&["--config", config.to_str().unwrap()]);
    plant(pair.left.join("dir/known"), noise(1, 600_000));
    plant(pair.left.join("big"), noise(2, 600_000));
    pair.run();
    let held = Held::open(&pair.right.join("dir"));
    remove_tree(pair.left.join("dir"));
    assert!(poll(PATIENCE, || !pair.right.join("dir").exists()), "{}", pair.story());
    let own = Pair::own(&pair.right);
    // Its look is over: nobody comes for what is made now.
    loop {
        pair.stop();
        let over = waiting(&pair.right).is_empty();
        if over {
            break;
        }
        pair.run();
        std::thread::sleep(std::time::Duration::from_secs(2));
    }
    fs::write(held.at("late"), "made in the trash\n").unwrap();
    pair.run();
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert!(!pair.right.join("dir").exists(), "it is not looked for all the time{}", pair.story());
    // Now there is too much in the trash.
    remove(pair.left.join("big"));
    let late = pair.right.join("dir/late");
    assert!(poll(PATIENCE, || late.exists()), "what was made in the trash went with it{}", pair.story());
    assert_eq!(pair.settle().paths(), ["dir", "dir/late"], "{}", pair.story());
    let left = || fs::read_dir(own.join("trash")).unwrap().count();
    assert!(poll(PATIENCE, || left() == 1), "{} in the trash{}", left(), pair.story());
    pair.stop();
}
