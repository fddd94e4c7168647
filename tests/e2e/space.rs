//! Room on the disk: a full one stops new contents alone, and the trash keeps to its bounds.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::mounts::{Mounted, in_a_file, small_ext4};
use crate::support::users::*;
use crate::support::{Depth, NAME, PATIENCE, Pair, once, poll, process, snapshot, tools};

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
    // More than half of the tree goes at once.
    let config = pair.beside("psync.toml");
    write(&config, "max_delete = \"0%\"\n");
    let mut pair = pair.with(&["--config", config.to_str().unwrap()]);
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

const MIB: usize = 1 << 20;

/// A pair whose right root fills a file system of its own, with these options.
fn on_a_small_disk(kind: &str, mebibytes: u64, options: &[&str]) -> Option<(Pair, PathBuf, Mounted)> {
    let mut pair = Pair::new();
    let disk = pair.beside("disk");
    let make: &[&str] = if kind == "ext4" { &["-q", "-m", "0"] } else { &["-q"] };
    let mounted = in_a_file(kind, make, &disk, mebibytes)?;
    pair.right = disk.join("root");
    mkdir(&pair.right);
    Some((pair.with(options), disk, mounted))
}

/// Bytes that users can still fill.
fn free(at: &Path) -> u64 {
    let space = rustix::fs::statvfs(at).unwrap();
    space.f_bavail * space.f_frsize
}

/// How often psync began to carry this over.
fn tries(pair: &Pair, path: &str) -> usize {
    let begun = format!(" side: {path} method=");
    pair.action_lines().iter().filter(|line| line.contains("action put on the ") && line.contains(&begun)).count()
}

/// How often people were told that this is not synchronised, or is again.
fn told(pair: &Pair, what: &str, path: &str) -> usize {
    let start = format!("{path}: {what}");
    pair.lines().iter().filter(|line| line.contains(&start)).count()
}

const NOT: &str = "not synchronised:";

#[test]
fn what_cannot_fit_is_known_before_it_is_sent() {
    for rsync in [false, true] {
        if rsync && !tools::has("rsync") {
            continue;
        }
        let Some((mut pair, disk, _mounted)) = on_a_small_disk("ext4", 100, &[]) else { return };
        if rsync {
            let config = pair.beside("psync.toml");
            write(&config, "transfer = \"rsync\"\n");
            pair = pair.with(&["--config", config.to_str().unwrap()]);
        }
        write(pair.left.join("small"), "small\n");
        pair.run();
        pair.settle();
        let before = free(&disk);
        write(pair.left.join("huge"), noise(1, 150 * MIB));
        let mut least = before;
        let tried = poll(LONG, || {
            least = least.min(free(&disk));
            tries(&pair, "huge") >= 4
        });
        assert!(tried, "it is not tried again{}", pair.story());
        assert!(before - least < 8 << 20, "{} MiB were written in vain{}", (before - least) >> 20, pair.story());
        assert_eq!(told(&pair, NOT, "huge"), 1, "not told once{}", pair.story());
        let figures = pair.lines().iter().any(|line| line.contains("150.0 MiB needed") && line.contains(" free"));
        assert!(figures, "without figures{}", pair.story());
        // Others need not wait, and deletions neither.
        write(pair.left.join("other"), noise(2, 5 * MIB));
        remove(pair.left.join("small"));
        let others = || pair.right.join("other").exists() && !pair.right.join("small").exists();
        assert!(poll(LONG, others), "others wait for what cannot fit{}", pair.story());
        // It is worth another try as soon as it is smaller.
        truncate(pair.left.join("huge"), 10 << 20);
        let came = poll(PATIENCE, || fs::read(pair.right.join("huge")).is_ok_and(|there| there == noise(1, 10 * MIB)));
        assert!(came, "it fits by now{}", pair.story());
        assert!(poll(PATIENCE, || told(&pair, "synchronised again", "huge") == 1), "{}", pair.story());
        // And its problem is over when it is gone.
        write(pair.left.join("vast"), noise(3, 150 * MIB));
        assert!(poll(PATIENCE, || told(&pair, NOT, "vast") == 1), "{}", pair.story());
        remove(pair.left.join("vast"));
        assert!(poll(PATIENCE, || told(&pair, "synchronised again", "vast") == 1), "{}", pair.story());
        pair.settle();
        pair.stop();
        pair.sync();
    }
}

#[test]
fn room_that_comes_back_is_used_before_the_next_try() {
    let Some((mut pair, disk, _mounted)) = on_a_small_disk("ext4", 200, &[]) else { return };
    for n in 0..30 {
        write(pair.left.join(format!("old{n}")), noise(n, MIB));
    }
    pair.run();
    pair.settle();
    let filler = disk.join("filler");
    let file = fs::File::create(&filler).unwrap();
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, free(&disk) - (50 << 20)).unwrap();
    write(pair.left.join("big"), noise(99, 80 * MIB));
    // The next ones are minutes apart.
    assert!(poll(LONG, || tries(&pair, "big") >= 7), "{}", pair.story());
    assert!(!pair.right.join("big").exists());
    drop(file);
    remove(&filler);
    assert!(poll(Duration::from_secs(45), || pair.right.join("big").exists()), "room is not noticed{}", pair.story());
    pair.settle();

    // The same by what the users delete on the other side.
    let file = fs::File::create(&filler).unwrap();
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, free(&disk) - (20 << 20)).unwrap();
    let before = tries(&pair, "more");
    write(pair.left.join("more"), noise(98, 40 * MIB));
    assert!(poll(LONG, || tries(&pair, "more") >= before + 7), "{}", pair.story());
    (0..30).for_each(|n| remove(pair.left.join(format!("old{n}"))));
    assert!(poll(Duration::from_secs(60), || pair.right.join("more").exists()), "{}", pair.story());
    pair.settle();
    pair.stop();
    pair.sync();
}

/// What lies in the trash gives way for contents that come in pieces, and for copies, and nothing else does.
#[test]
fn the_trash_gives_way_for_large_files_too() {
    let mut pair = Pair::new();
    let config = pair.beside("psync.toml");
    write(&config, "trash_max = \"90%\"\n");
    let disk = pair.beside("disk");
    let Some(_mounted) = small_ext4(&disk, 160) else { return };
    pair.right = disk.join("root");
    mkdir(&pair.right);
    let mut pair = pair.with(&["--config", config.to_str().unwrap()]);
    (0..10).for_each(|n| write(pair.left.join(format!("old{n}")), noise(n, 8 * MIB)));
    pair.run();
    pair.settle();
    (0..10).for_each(|n| remove(pair.left.join(format!("old{n}"))));
    assert!(poll(PATIENCE, || in_trash(&pair.right).len() == 10), "{}", pair.story());
    assert!(free(&disk) < 70 << 20, "this test needs a disk that the trash fills");
    write(pair.left.join("big"), noise(20, 100 * MIB));
    assert!(poll(LONG, || pair.right.join("big").exists()), "the trash does not give way{}", pair.story());
    // Old versions also go, a little later, until the disk is not nearly full any more.
    let total = |at: &Path| rustix::fs::statvfs(at).map(|space| space.f_blocks * space.f_frsize).unwrap();
    assert!(poll(LONG, || free(&disk) >= total(&disk) / 100 * 5), "{}", pair.story());
    pair.settle();
    let left = in_trash(&pair.right).len();
    assert!((1..9).contains(&left), "more than was needed: {left} of 10 are left");
    // What cannot fit even with an empty trash costs nobody his old versions.
    write(pair.left.join("vast"), noise(21, 150 * MIB));
    assert!(poll(LONG, || tries(&pair, "vast") >= 3), "{}", pair.story());
    assert_eq!(in_trash(&pair.right).len(), left, "old versions went in vain{}", pair.story());
    remove(pair.left.join("vast"));
    pair.settle();
    pair.stop();
    pair.sync();
}

/// Files without contents take inodes: those of the trash are given back as well, though it holds no byte.
#[test]
fn inodes_of_empty_files_come_back_from_the_trash() {
    let mut pair = Pair::new();
    let disk = pair.beside("disk");
    let make = ["-q", "-m", "0", "-N", "1024"];
    let Some(_mounted) = in_a_file("ext4", &make, &disk, 100) else { return };
    pair.right = disk.join("root");
    mkdir(&pair.right);
    let config = pair.beside("psync.toml");
    write(&config, "max_delete = \"0%\"\n");
    let mut pair = pair.with(&["--config", config.to_str().unwrap()]);
    (0..700).for_each(|n| plant(pair.left.join(format!("a/{n}")), ""));
    pair.run();
    pair.settle();
    (0..600).for_each(|n| plant(pair.left.join(format!("b/{n}")), ""));
    let full = || pair.lines().iter().any(|line| line.contains("no inode free"));
    assert!(poll(LONG, full), "nobody is told{}", pair.story());
    (0..650).for_each(|n| remove(pair.left.join(format!("a/{n}"))));
    let equal = poll(LONG, || {
        let [left, right] = pair.sides().map(|root| snapshot(root, Depth::Stat));
        left == right
    });
    assert!(equal, "the trash keeps the inodes{}", pair.story());
    pair.settle();
    pair.stop();
}

/// Bytes that the side in a process of its own has had written.
fn written(pair: &Pair) -> u64 {
    let agent = process::children(*pair.processes().first().unwrap())[0];
    let io = fs::read_to_string(format!("/proc/{agent}/io")).unwrap();
    io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).unwrap().parse().unwrap()
}

#[test]
fn contents_that_could_not_get_their_place_are_not_sent_again() {
    if !process::is_root() || !tools::has("chattr") {
        return tools::missing("root and chattr");
    }
    let mut pair = Pair::start(&[]);
    mkdir(pair.left.join("dir"));
    write(pair.left.join("open"), noise(7, 3 * MIB));
    pair.settle();
    let immutable = |flag: &str| {
        std::process::Command::new("chattr").arg(flag).arg(pair.right.join("dir")).status().unwrap().success()
    };
    if !immutable("+i") {
        return tools::missing("chattr +i");
    }
    let before = written(&pair);
    write(pair.left.join("dir/big"), noise(1, 40 * MIB));
    // Somebody has a file open on the other side, and its new version must wait for that.
    let held = OpenOptions::new().append(true).open(pair.right.join("open")).unwrap();
    write(pair.beside("new"), noise(8, 40 * MIB));
    rename(pair.beside("new"), pair.left.join("open"));
    let often = poll(LONG, || tries(&pair, "dir/big") >= 5 && tries(&pair, "open") >= 5);
    let cost = (written(&pair) - before) >> 20;
    let mended = immutable("-i");
    drop(held);
    assert!(often, "{}", pair.story());
    assert!(mended && cost < 130, "{cost} MiB were written for 80{}", pair.story());
    let came = poll(LONG, || {
        fs::read(pair.right.join("dir/big")).is_ok_and(|there| there == noise(1, 40 * MIB))
            && fs::read(pair.right.join("open")).is_ok_and(|there| there == noise(8, 40 * MIB))
    });
    assert!(came, "{}", pair.story());
    let cost = (written(&pair) - before) >> 20;
    assert!(cost < 130, "{cost} MiB were written for 80{}", pair.story());
    pair.settle();
    // Nothing of it stays behind.
    let stage = Pair::own(&pair.right).join("stage");
    assert_eq!(fs::read_dir(stage).unwrap().count(), 0);
    pair.stop();
    pair.sync();
}

/// Where files share blocks, a changed file needs room for the change alone.
#[test]
fn a_change_of_a_big_file_fits_where_blocks_are_shared() {
    let Some((mut pair, disk, _mounted)) = on_a_small_disk("xfs", 400, &[]) else { return };
    write(pair.left.join("big"), noise(1, 120 * MIB));
    pair.run();
    pair.settle();
    let file = fs::File::create(disk.join("filler")).unwrap();
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, free(&disk) - (60 << 20)).unwrap();
    write_at(pair.left.join("big"), 50 << 20, noise(2, MIB));
    let same = || fs::read(pair.right.join("big")).is_ok_and(|there| there == fs::read(pair.left.join("big")).unwrap());
    assert!(poll(LONG, same), "a change of 1 MiB does not fit into 60{}", pair.story());
    assert_eq!(told(&pair, NOT, "big"), 0, "{}", pair.story());
    pair.settle();
    pair.stop();
    pair.sync();
}

#[test]
fn both_sides_full_at_once_go_on_with_what_needs_no_room() {
    let mut pair = Pair::new();
    let (one, other) = (pair.beside("one"), pair.beside("other"));
    let (Some(_one), Some(_other)) = (small_ext4(&one, 300), small_ext4(&other, 300)) else { return };
    (pair.left, pair.right) = (one.join("root"), other.join("root"));
    for root in [pair.left.clone(), pair.right.clone()] {
        mkdir(root);
    }
    (0..200).for_each(|n| plant(pair.left.join(format!("dir/{n}")), format!("text {n}\n")));
    pair.run();
    pair.settle();
    write(pair.left.join("from left"), noise(1, 40 * MIB));
    write(pair.right.join("from right"), noise(2, 40 * MIB));
    fill(&one.join("filler"));
    fill(&other.join("filler"));
    for n in 0..50 {
        remove(pair.left.join(format!("dir/{n}")));
        remove(pair.right.join(format!("dir/{}", n + 50)));
    }
    let gone = || pair.sides().iter().all(|root| (0..100).all(|n| !root.join(format!("dir/{n}")).exists()));
    assert!(poll(LONG, gone), "deletions do not arrive{}", pair.story());
    for disk in [&one, &other] {
        fill(&disk.join("filler"));
    }
    let began = pair.actions_logged();
    std::thread::sleep(Duration::from_secs(20));
    let more = pair.actions_logged() - began;
    assert!(more < 60, "{more} actions in 20 s where nothing can be done{}", pair.story());
    assert!(pair.is_running(), "{}", pair.story());
    remove(one.join("filler"));
    remove(other.join("filler"));
    let equal = poll(LONG, || {
        let [left, right] = pair.sides().map(|root| snapshot(root, Depth::Stat));
        left == right
    });
    assert!(equal, "no convergence after there is room{}", pair.story());
    let tree = pair.settle();
    assert!(tree.has("from left") && tree.has("from right") && tree.has("dir/150") && !tree.has("dir/99"));
    pair.stop();
    pair.sync();
}

const LONG_IMAGE: u64 = 1 << 40;

/// Blocks of 64 KiB in a file of 1 TiB, at its beginning, within, and at its end.
fn thin_image(at: &Path) {
    write(at, noise(1, 65_536));
    write_at(at, 500_000_000_000, noise(2, 65_536));
    write_at(at, LONG_IMAGE - 65_536, noise(3, 65_536));
}

fn is_thin(at: &Path) -> bool {
    fs::metadata(at).is_ok_and(|stat| stat.len() == LONG_IMAGE && stat.blocks() * 512 < 4 << 20)
}

fn holds(at: &Path, offset: u64, wanted: &[u8]) -> bool {
    use std::os::unix::fs::FileExt;
    let mut there = vec![0; wanted.len()];
    fs::File::open(at).is_ok_and(|file| file.read_exact_at(&mut there, offset).is_ok()) && there == wanted
}

#[test]
fn a_thin_image_costs_what_its_data_cost() {
    let mut pair = Pair::new();
    let disk = pair.beside("disk");
    // Nobody writes 1 TiB there, and other file systems may not have such files.
    let Some(_mounted) = in_a_file("xfs", &["-q"], &disk, 400) else { return };
    for (side, name) in ["left", "right"].into_iter().enumerate() {
        let root = disk.join(name);
        mkdir(&root);
        *[&mut pair.left, &mut pair.right][side] = root;
    }
    // There at the start on one side, on both, and made while it runs, on either.
    thin_image(&pair.left.join("scanned"));
    for root in pair.sides() {
        thin_image(&root.join("both"));
    }
    pair.run();
    assert!(is_thin(&pair.right.join("scanned")), "{}", pair.story());
    // Nobody reads all of it here.
    let equal = |pair: &Pair| {
        let [left, right] = pair.sides().map(|root| snapshot(root, Depth::Stat));
        left == right
    };
    for (here, there, name) in [(0, 1, "made-left"), (1, 0, "made-right")] {
        let (here, there) = (pair.sides()[here].to_owned(), pair.sides()[there].to_owned());
        thin_image(&here.join(name));
        let quick = format!("quick-{name}");
        write(here.join(&quick), "quick\n");
        assert!(poll(PATIENCE, || there.join(&quick).exists()), "others wait for an image{}", pair.story());
        assert!(poll(PATIENCE, || is_thin(&there.join(name))), "no image{}", pair.story());
        assert!(poll(PATIENCE, || equal(&pair)), "{}", pair.story());
        for (at, seed) in [(0, 1), (500_000_000_000, 2), (LONG_IMAGE - 65_536, 3)] {
            assert!(holds(&there.join(name), at, &noise(seed, 65_536)));
        }
        // One block of it, from either side.
        for (n, (from, to)) in [(&here, &there), (&there, &here)].into_iter().enumerate() {
            let at = 700_000_000_000 + 4096 * n as u64;
            write_at(from.join(name), at, noise(9, 4096));
            assert!(poll(PATIENCE, || holds(&to.join(name), at, &noise(9, 4096))), "no block{}", pair.story());
        }
        // A further name is a copy on the other side.
        fs::hard_link(here.join(name), here.join(format!("{name}-linked"))).unwrap();
        assert!(poll(PATIENCE, || is_thin(&there.join(format!("{name}-linked")))), "{}", pair.story());
        assert!(is_thin(&there.join(name)) && is_thin(&here.join(name)));
    }
    pair.stop();
    let config = pair.beside(&format!("{NAME}.toml"));
    let (left, right) = (&pair.left, &pair.right);
    write(&config, format!("[left]\nroot = {left:?}\n[right]\nroot = {right:?}\n"));
    let checked = once(&["check", config.to_str().unwrap(), "--checksum"]);
    assert_eq!(checked.code(), 0, "{}{}", checked.stdout, checked.stderr);
    assert_eq!(pair.sync_once().code(), 0, "{}", pair.story());
    assert!(equal(&pair));
}

#[test]
fn rsync_keeps_a_thin_image_thin_in_both_directions() {
    if !tools::has("rsync") {
        return;
    }
    let pair = Pair::new();
    let config = pair.beside("psync.toml");
    write(&config, "transfer = \"rsync\"\n");
    let mut pair = pair.with(&["--config", config.to_str().unwrap()]);
    let thin = |at: &Path| {
        write(at, "");
        truncate(at, 300 << 20);
        write_at(at, 100_000_000, "hello");
    };
    thin(&pair.left.join("scanned"));
    pair.run();
    thin(&pair.left.join("of the left"));
    thin(&pair.right.join("of the right"));
    for name in ["scanned", "of the left", "of the right"] {
        for root in pair.sides() {
            let at = root.join(name);
            let arrives = poll(LONG, || {
                holds(&at, 100_000_000, b"hello") && fs::metadata(&at).is_ok_and(|stat| stat.len() == 300 << 20)
            });
            assert!(arrives, "{name} is not at {root:?}{}", pair.story());
            assert!(fs::metadata(&at).unwrap().blocks() * 512 < 1 << 20, "{name} is not thin at {root:?}");
        }
    }
    pair.settle();
    pair.stop();
}

// ---- a quota, which no statfs tells of

/// A pair whose right root is a subvolume that may take so many MiB, with a function that sets another limit.
fn under_a_quota(limit: &str) -> Option<(Pair, Mounted, impl Fn(&str) + use<>)> {
    if !tools::has("btrfs") {
        return None;
    }
    let mut pair = Pair::new();
    let disk = pair.beside("disk");
    let mounted = in_a_file("btrfs", &["-q"], &disk, 600)?;
    pair.right = disk.join("root");
    let root = pair.right.clone();
    let btrfs = move |arguments: &[&str]| {
        tools::run(&disk, "btrfs", &[arguments, &[root.to_str().unwrap()]].concat());
    };
    btrfs(&["subvolume", "create"]);
    btrfs(&["quota", "enable"]);
    btrfs(&["qgroup", "limit", limit]);
    Some((pair, mounted, move |limit: &str| btrfs(&["qgroup", "limit", limit])))
}

#[test]
fn what_a_quota_refuses_is_not_written_in_vain_and_comes_when_it_is_raised() {
    let Some((mut pair, _mounted, limit)) = under_a_quota("40M") else { return };
    plant(pair.left.join("dir/old"), "old\n");
    pair.run();
    pair.settle();
    write(pair.left.join("large"), noise(1, 60 << 20));
    let told_of = |words: &str| {
        let log = fs::read_to_string(&pair.log).unwrap();
        log.lines().any(|line| line.contains("not synchronised") && line.contains(words) && line.contains("path=large"))
    };
    assert!(poll(PATIENCE, || told_of("quota")), "{}", pair.story());
    // Several tries.
    assert!(poll(PATIENCE, || tries(&pair, "large") >= 4), "{}", pair.story());
    assert!(written(&pair) < 90 << 20, "{} bytes were written for it{}", written(&pair), pair.story());
    remove_tree(pair.left.join("dir"));
    write(pair.left.join("small"), "small\n");
    assert!(
        poll(PATIENCE, || !pair.right.join("dir").exists() && pair.right.join("small").exists()),
        "{}",
        pair.story()
    );
    assert!(!pair.right.join("large").exists());
    limit("none");
    assert!(poll(PATIENCE, || pair.right.join("large").exists()), "{}", pair.story());
    pair.wait_equal();
    pair.stop();
}

#[test]
fn deletions_go_on_where_users_have_used_up_the_quota() {
    let Some((mut pair, _mounted, limit)) = under_a_quota("60M") else { return };
    for n in 0..20 {
        plant(pair.left.join(format!("dir/{n}")), "file\n");
    }
    plant(pair.left.join("moves"), noise(2, 300_000));
    pair.run();
    pair.settle();
    // Temporary names, so that none of it travels.
    mkdir(pair.right.join("fill"));
    let full = |n: usize, bytes: usize| {
        let path = pair.right.join(format!("fill/{n}.tmp"));
        let mut file = File::create(path).ok();
        file.as_mut().is_none_or(|file| file.write_all(&noise(n as u64, bytes)).and_then(|()| file.sync_all()).is_err())
    };
    assert!((0..100).any(|n| full(n, 1 << 20)) && (100..1000).any(|n| full(n, 4096)), "the quota has no end");
    remove_tree(pair.left.join("dir"));
    rename(pair.left.join("moves"), pair.left.join("moved"));
    let through = || !pair.right.join("dir").exists() && pair.right.join("moved").exists();
    assert!(poll(PATIENCE, through), "{}", pair.story());
    limit("none");
    remove_tree(pair.right.join("fill"));
    write(pair.left.join("new"), "new\n");
    assert!(poll(PATIENCE, || pair.right.join("new").exists()), "{}", pair.story());
    pair.settle();
    pair.stop();
}
