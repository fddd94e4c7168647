//! Room on the disk: a full one stops new contents alone, and the trash keeps to its bounds.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::mounts::small_ext4;
use crate::support::users::*;
use crate::support::{Depth, PATIENCE, Pair, poll, snapshot};

/// Retries of what failed wait up to a minute.
const LONG: Duration = Duration::from_secs(180);

/// Takes all the room that users can have.
fn fill(at: &Path) {
    let file = OpenOptions::new().create(true).append(true).open(at).unwrap();
    let mut size = file.metadata().unwrap().len();
    for piece in [64 << 20, 1 << 20, 4096] {
        while rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), size, piece).is_ok() {
            size += piece;
        }
    }
}

fn in_trash(root: &Path) -> Vec<PathBuf> {
    fs::read_dir(Pair::own(root).join("trash")).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn on_a_full_disk_deletions_and_moves_go_on() {
    let mut pair = Pair::new();
    let disk = pair.beside("disk");
    let Some(_mounted) = small_ext4(&disk, 1024) else { return };
    pair.right = disk.join("root");
    mkdir(&pair.right);
    let file = |root: &Path, n: usize| root.join(format!("dir{}/file{n}", n % 10));
    for n in 0..2000 {
        plant(file(&pair.left, n), format!("text {n}\n"));
    }
    plant(pair.left.join("grows"), "as it was\n");
    plant(pair.left.join("away/file"), "goes elsewhere\n");
    pair.run();
    pair.settle();
    let reserve = || fs::metadata(Pair::own(&disk.join("root")).join("reserve")).unwrap().len();
    let whole = reserve();
    assert!(whole > 0, "no reserve was made");

    fill(&disk.join("filler"));
    write(pair.left.join("new"), noise(1, 80 << 20));
    write(pair.left.join("grows"), noise(2, 80 << 20));
    for n in 0..1200 {
        remove(file(&pair.left, n));
    }
    for n in 1200..1400 {
        remove(file(&pair.right, n));
    }
    rename(pair.left.join("away"), pair.left.join("elsewhere"));
    let through = poll(LONG, || {
        let gone = (0..1400).all(|n| pair.sides().iter().all(|root| !file(root, n).exists()));
        gone && pair.right.join("elsewhere/file").exists() && !pair.right.join("away").exists()
    });
    assert!(through, "deletions and moves do not travel to a full disk{}", pair.story());
    assert!(pair.is_running(), "psync ended on a full disk{}", pair.story());
    // The trash makes room when there is little.
    assert!(poll(LONG, || in_trash(&pair.right).is_empty()), "the trash is kept on a full disk{}", pair.story());
    fill(&disk.join("filler"));
    assert!(!pair.right.join("new").exists());
    assert_eq!(read(pair.right.join("grows")), "as it was\n");
    assert!((1400..2000).all(|n| read(file(&pair.right, n)) == format!("text {n}\n")));
    let told = pair.lines().iter().filter(|line| line.contains("new: not synchronised")).count();
    assert!(told >= 1, "nobody is told of the full disk{}", pair.story());

    remove(disk.join("filler"));
    let equal = poll(LONG, || {
        let [left, right] = pair.sides().map(|root| snapshot(root, Depth::Stat));
        left == right
    });
    assert!(equal, "no convergence after there is room{}", pair.story());
    let tree = pair.settle();
    assert_eq!(tree.paths().iter().filter(|path| path.contains("/file")).count(), 601, "{:?}", tree.paths());
    assert!(poll(LONG, || reserve() == whole), "the reserve is not taken back: {} of {whole}", reserve());
    pair.stop();
    pair.sync();
}

#[test]
fn the_trash_holds_trash_max_at_most_the_newest_and_what_is_open() {
    let pair = Pair::new();
    let config = pair.beside("psync.toml");
    write(&config, "trash_max = 1000000\n");
    let mut pair = pair.with(&["--config", config.to_str().unwrap()]);
    let version = |n: u8| vec![b'a' + n; 200_000 + usize::from(n)];
    write(pair.left.join("file"), version(0));
    pair.run();
    let replace = |pair: &Pair, n: u8| {
        // At once: a version half written would be one more in the trash.
        let new = pair.beside("new");
        write(&new, version(n));
        rename(new, pair.left.join("file"));
        let there = poll(PATIENCE, || fs::read(pair.right.join("file")).is_ok_and(|bytes| bytes == version(n)));
        assert!(there, "version {n} never came{}", pair.story());
    };
    let kept = |pair: &Pair| {
        // One may be discarded while it is looked at.
        let read = in_trash(&pair.right).into_iter().filter_map(|at| fs::read(at).ok());
        let mut kept: Vec<u8> = read.map(|bytes| bytes[0] - b'a').collect();
        kept.sort_unstable();
        kept
    };
    replace(&pair, 1);
    assert!(poll(PATIENCE, || kept(&pair) == [0]), "{:?}{}", kept(&pair), pair.story());
    // Somebody has the oldest open for writing.
    let open = OpenOptions::new().append(true).open(&in_trash(&pair.right)[0]).unwrap();
    (2..9).for_each(|n| replace(&pair, n));
    assert!(poll(PATIENCE, || kept(&pair) == [0, 5, 6, 7]), "{:?}{}", kept(&pair), pair.story());
    drop(open);
    replace(&pair, 9);
    assert!(poll(PATIENCE, || kept(&pair) == [5, 6, 7, 8]), "{:?}{}", kept(&pair), pair.story());
    pair.settle();
    pair.stop();
}

#[test]
fn a_tree_in_the_trash_counts_with_all_that_is_in_it() {
    let pair = Pair::new();
    let config = pair.beside("psync.toml");
    write(&config, "trash_max = 1000000\n");
    let mut pair = pair.with(&["--config", config.to_str().unwrap()]);
    for tree in ["one", "two", "three"] {
        (0..3).for_each(|n| plant(pair.left.join(format!("{tree}/sub/file{n}")), noise(n, 150_000)));
    }
    pair.run();
    for (tree, count) in [("one", 1), ("two", 2), ("three", 2)] {
        remove_tree(pair.left.join(tree));
        assert!(poll(PATIENCE, || !pair.right.join(tree).exists()), "{}", pair.story());
        let trash = || in_trash(&pair.right).len();
        assert!(poll(PATIENCE, || trash() == count), "{tree}: {} in the trash{}", trash(), pair.story());
    }
    pair.stop();
}
