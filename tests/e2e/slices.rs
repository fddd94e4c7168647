//! Nobody keeps the others waiting: with a huge file, a deep tree, or a file that is larger than allowed.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{AtFlags, Mode, OFlags};

use crate::support::users::*;
use crate::support::{PATIENCE, Pair, poll};

const TIB: u64 = 1 << 40;
/// A neighbour's file takes milliseconds; the machine may be busy with all the other tests.
const SOON: Duration = Duration::from_secs(30);

/// A file of another user, written now, is on the other side soon.
fn neighbour_arrives(pair: &Pair, name: &str) {
    for (from, to) in [(&pair.left, &pair.right), (&pair.right, &pair.left)] {
        let name = format!("{name} {}", from.file_name().unwrap().display());
        write(from.join(&name), "a neighbour's\n");
        assert!(poll(SOON, || to.join(&name).exists()), "{name}{}", pair.story());
    }
}

fn sparse(path: &Path, size: u64) -> bool {
    write(path, "");
    // As large as the file system of the tests allows.
    nix::unistd::truncate(path, size as i64).is_ok()
}

fn size(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|stat| stat.len())
}

#[test]
fn a_hole_of_15_tib_keeps_nobody_waiting_and_arrives() {
    let mut pair = Pair::start(&[]);
    let huge = [15 * TIB, TIB].into_iter().find(|size| sparse(&pair.left.join("huge"), *size)).unwrap();
    neighbour_arrives(&pair, "beside a hole");
    assert!(poll(PATIENCE, || size(&pair.right.join("huge")) == Some(huge)), "{}", pair.story());
    // Data in the middle, and at the end; and back from the other side.
    write_at(pair.left.join("huge"), huge / 2, "in the middle");
    let has = |root: &Path, at: u64, text: &str| {
        let mut bytes = vec![0; text.len()];
        let file = fs::File::open(root.join("huge"));
        file.is_ok_and(|file| std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, at).is_ok())
            && bytes == text.as_bytes()
    };
    neighbour_arrives(&pair, "beside an edit");
    assert!(poll(PATIENCE, || has(&pair.right, huge / 2, "in the middle")), "{}", pair.story());
    write_at(pair.right.join("huge"), huge - 3, "end");
    neighbour_arrives(&pair, "beside another edit");
    assert!(poll(PATIENCE, || has(&pair.left, huge - 3, "end")), "{}", pair.story());
    let blocks = std::os::unix::fs::MetadataExt::blocks(&fs::metadata(pair.right.join("huge")).unwrap());
    assert!(blocks < 2048, "{blocks} blocks: the hole was filled");
    pair.stop();
}

#[test]
fn holes_are_compared_at_once() {
    let mut pair = Pair::new();
    for (n, root) in pair.sides().into_iter().enumerate() {
        assert!(sparse(&root.join("huge"), 8 * TIB));
        touch(root.join("huge"), 1_600_000_000 + n as i64, 0);
        write(root.join("same"), "the same\n");
    }
    pair.run();
    neighbour_arrives(&pair, "beside equal holes");
    // Equal contents: no conflict, and no copy.
    let names = || fs::read_dir(&pair.left).unwrap().count();
    assert!(poll(SOON, || names() == 5), "{} names{}", names(), pair.story());
    pair.stop();
}

#[test]
fn a_file_above_max_size_is_told_and_stays_where_it_is() {
    let pair = Pair::new();
    let config = pair.beside("psync.toml");
    write(&config, "max_size = \"100K\"\n");
    let mut pair = pair.with(&["--config", config.to_str().unwrap()]);
    write(pair.left.join("grows"), "small\n");
    write(pair.left.join("large"), noise(1, 200_000));
    pair.run();
    for root in pair.sides() {
        assert!(root.join("grows").exists(), "{}", pair.story());
    }
    let told = |pair: &Pair, name: &str| {
        poll(PATIENCE, || pair.lines().iter().any(|line| line.contains(name) && line.contains("max_size")))
    };
    assert!(told(&pair, "large"), "{}", pair.story());
    write(pair.right.join("grows"), noise(2, 150_000));
    assert!(told(&pair, "grows"), "{}", pair.story());
    neighbour_arrives(&pair, "beside what is too large");
    assert_eq!(read(pair.left.join("grows")), "small\n");
    assert!(!pair.right.join("large").exists());
    // Smaller again, or gone.
    truncate(pair.right.join("grows"), 1000);
    remove(pair.left.join("large"));
    assert!(poll(PATIENCE, || size(&pair.left.join("grows")) == Some(1000)), "{}", pair.story());
    pair.settle();
    pair.stop();
}

/// Directories in each other, with a file at the end, and how many there are.
fn dig(root: &Path, depth: usize) {
    let mut at: OwnedFd = fs::File::open(root).unwrap().into();
    for _ in 0..depth {
        rustix::fs::mkdirat(&at, c"d", Mode::from_raw_mode(0o755)).unwrap();
        at = enter(at.as_fd()).unwrap();
    }
    rustix::fs::openat(&at, c"leaf", OFlags::CREATE | OFlags::WRONLY, Mode::from_raw_mode(0o644)).unwrap();
}

fn enter(dir: std::os::fd::BorrowedFd<'_>) -> Option<OwnedFd> {
    rustix::fs::openat(dir, c"d", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).ok()
}

fn depth(root: &Path) -> usize {
    let mut at: OwnedFd = fs::File::open(root).unwrap().into();
    let mut depth = 0;
    while let Some(next) = enter(at.as_fd()) {
        (at, depth) = (next, depth + 1);
    }
    let leaf = rustix::fs::statat(&at, c"leaf", AtFlags::SYMLINK_NOFOLLOW).is_ok();
    if leaf { depth } else { 0 }
}

/// The processor time that the pair has taken so far: of the clock others take their share.
fn work(pair: &Pair) -> Duration {
    let ticks = |pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    // As the kernel tells it to programs, on every machine.
    const HERTZ: u64 = 100;
    Duration::from_millis(pair.processes().into_iter().map(ticks).sum::<u64>() * 1000 / HERTZ)
}

/// Four times the levels may cost six times as much, and a little that the processor's clock is coarse by.
fn is_in_proportion(what: &str, few: Duration, many: Duration) {
    assert!(
        many < 6 * few + Duration::from_millis(600),
        "{what}: {many:?} of the processor for 1,800 levels, {few:?} for 450"
    );
}

fn without_guard() -> Pair {
    let pair = Pair::new();
    let config = pair.beside("psync.toml");
    write(&config, "max_delete = \"0%\"\n");
    pair.with(&["--config", config.to_str().unwrap()])
}

#[test]
fn a_deep_tree_costs_in_proportion_and_keeps_nobody_waiting() {
    let mut pair = without_guard();
    pair.run();
    let sides = pair.sides().map(Path::to_owned);
    for side in 0..2 {
        let (here, there) = (sides[side].clone(), sides[1 - side].clone());
        let word = here.file_name().unwrap().display().to_string();
        let mut took = Vec::new();
        for levels in [450, 1800] {
            let start = work(&pair);
            dig(&here, levels);
            neighbour_arrives(&pair, &format!("{levels} made {word}"));
            assert!(poll(PATIENCE, || depth(&there) == levels), "{levels}: {}{}", depth(&there), pair.story());
            neighbour_arrives(&pair, &format!("{levels} made {word}, after it"));
            let (made, start) = (work(&pair) - start, work(&pair));
            rename(here.join("d"), here.join("moved"));
            neighbour_arrives(&pair, &format!("{levels} moved {word}"));
            assert!(poll(PATIENCE, || there.join("moved").exists()), "{levels} moved{}", pair.story());
            neighbour_arrives(&pair, &format!("{levels} moved {word}, after it"));
            let (moved, start) = (work(&pair) - start, work(&pair));
            let gone = std::process::Command::new("rm").arg("-rf").arg(here.join("moved")).status().unwrap();
            assert!(gone.success());
            neighbour_arrives(&pair, &format!("{levels} removed {word}"));
            assert!(poll(PATIENCE, || !there.join("moved").exists()), "{levels} removed{}", pair.story());
            neighbour_arrives(&pair, &format!("{levels} removed {word}, after it"));
            took.push([made, moved, work(&pair) - start]);
            println!("{levels} levels on the {word}: made, moved, removed in {:?}", took.last().unwrap());
        }
        for (what, (few, many)) in ["made", "moved", "removed"].iter().zip(took[0].into_iter().zip(took[1])) {
            is_in_proportion(&format!("{what} on the {word}"), few, many);
        }
    }
    neighbour_arrives(&pair, "afterwards");
    pair.stop();
}

#[test]
fn a_deep_tree_that_is_there_at_the_start_costs_in_proportion() {
    let took = [450, 1800].map(|levels| {
        let mut pair = without_guard();
        dig(&pair.left, levels);
        pair.run();
        assert!(poll(PATIENCE, || depth(&pair.right) == levels), "{levels}: {}{}", depth(&pair.right), pair.story());
        neighbour_arrives(&pair, "after the first start");
        let first = work(&pair);
        pair.stop();
        // With rows, which are all compared.
        pair.run();
        let again = work(&pair);
        pair.stop();
        println!("{levels} levels: first and second start in {first:?}, {again:?}");
        [first, again]
    });
    is_in_proportion("first start", took[0][0], took[1][0]);
    is_in_proportion("second start", took[0][1], took[1][1]);
}

/// As deep as a path of one-letter names can be.
const DEEPEST: usize = 2045;

#[test]
fn the_deepest_tree_that_a_path_can_name_is_removed_on_either_side() {
    let mut pair = without_guard();
    pair.run();
    let sides = pair.sides().map(Path::to_owned);
    for side in 0..2 {
        dig(&pair.left, DEEPEST);
        assert!(poll(PATIENCE, || depth(&pair.right) == DEEPEST), "{}{}", depth(&pair.right), pair.story());
        let (here, there) = (sides[side].clone(), sides[1 - side].clone());
        // Out of the root at once: the other side looks through all of it.
        rename(here.join("d"), pair.beside(&format!("away {side}")));
        assert!(poll(PATIENCE, || !there.join("d").exists()), "{}", pair.story());
        neighbour_arrives(&pair, &format!("removed {side}"));
    }
    pair.stop();
}

#[test]
fn what_lies_deeper_than_any_path_is_told_once_and_goes_along() {
    let mut pair = without_guard();
    pair.run();
    // One tree is moved to the bottom of another one: all that is told is where paths end.
    dig(&pair.left, 1500);
    rename(pair.left.join("d"), pair.left.join("top"));
    dig(&pair.left, 1500);
    assert!(poll(PATIENCE, || depth(&pair.right) == 1500 && pair.right.join("top").exists()), "{}", pair.story());
    let mut at: OwnedFd = fs::File::open(pair.left.join("top")).unwrap().into();
    while let Some(next) = enter(at.as_fd()) {
        at = next;
    }
    rustix::fs::renameat(fs::File::open(&pair.left).unwrap(), c"d", &at, c"d").unwrap();
    drop(at);
    neighbour_arrives(&pair, "beside what is too deep");
    assert!(poll(PATIENCE, || !pair.right.join("d").exists()), "{}", pair.story());
    let told = |pair: &Pair| pair.lines().iter().filter(|line| line.contains("longer than 4095")).count();
    assert!(poll(PATIENCE, || told(&pair) > 0), "{}", pair.story());
    // More that is too deep, again and again, makes no more lines.
    for n in 0..5 {
        write(pair.left.join(format!("more {n}")), "more\n");
        neighbour_arrives(&pair, &format!("round {n}"));
    }
    assert!(told(&pair) <= 4, "{} lines{}", told(&pair), pair.story());
    let gone = std::process::Command::new("rm").arg("-rf").arg(pair.left.join("top")).status().unwrap();
    assert!(gone.success());
    neighbour_arrives(&pair, "afterwards");
    assert!(poll(PATIENCE, || !pair.right.join("top").exists()), "{}", pair.story());
    pair.stop();
}

#[test]
fn a_tree_without_end_among_what_goes_along_ends_nobody() {
    let mut pair = without_guard();
    fs::create_dir_all(pair.right.join("goes/x.tmp")).unwrap();
    write(pair.right.join("goes/file"), "a file\n");
    dig(&pair.right.join("goes/x.tmp"), 10_000);
    pair.run();
    assert!(poll(PATIENCE, || pair.left.join("goes/file").exists()), "{}", pair.story());
    neighbour_arrives(&pair, "before");
    rename(pair.left.join("goes"), pair.beside("gone"));
    assert!(poll(PATIENCE, || !pair.right.join("goes").exists()), "{}", pair.story());
    neighbour_arrives(&pair, "afterwards");
    pair.stop();
}
