//! Programs that keep a file open while psync would like to read or to replace it.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::users::*;
use crate::support::versions::{Version, collect};
use crate::support::{PATIENCE, Pair, poll};

/// Reads a file again and again until told to stop; returns every different contents that it saw.
fn observe(path: &Path, stop: &AtomicBool) -> Vec<Vec<u8>> {
    let mut seen: Vec<Vec<u8>> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        if let Ok(contents) = std::fs::read(path)
            && seen.last() != Some(&contents)
        {
            seen.push(contents);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    seen
}

/// Writes `contents` in pieces over some seconds, from the start of the file, and closes it.
fn write_slowly(mut file: File, contents: &[u8], seconds: u64) {
    for piece in contents.chunks(contents.len().div_ceil(seconds as usize * 20)) {
        file.write_all(piece).unwrap();
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn never_partial(left_side: bool) {
    let mut pair = Pair::start(&[]);
    let (here, there) = if left_side { (&pair.left, &pair.right) } else { (&pair.right, &pair.left) };
    let (here, there) = (here.join("slow"), there.join("slow"));
    let [first, second, third] = [1, 2, 3].map(|seed| noise(seed, 400_000));
    let stop = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        let observer = scope.spawn(|| observe(&there, &stop));
        let arrived = |wanted: &[u8]| poll(PATIENCE, || std::fs::read(&there).is_ok_and(|c| c == wanted));

        write_slowly(File::create(&here).unwrap(), &first, 4);
        let first_came = arrived(&first);
        // In place: no truncation, the same length.
        write_slowly(OpenOptions::new().write(true).open(&here).unwrap(), &second, 3);
        let second_came = arrived(&second);
        // Truncated first.
        write_slowly(File::create(&here).unwrap(), &third, 3);
        let third_came = arrived(&third);
        stop.store(true, Ordering::Relaxed);
        assert!(first_came && second_came && third_came, "{first_came} {second_came} {third_came}{}", pair.story());
        observer.join().unwrap()
    });
    let sizes: Vec<_> = seen.iter().map(Vec::len).collect();
    assert!(seen == [first, second, third], "something else was seen on the other side: sizes {sizes:?}");
    assert!(pair.actions_logged() <= 3, "{:#?}", pair.action_lines());
    pair.stop();
}

#[test]
fn a_slow_writer_on_the_left_never_shows_a_partial_file() {
    never_partial(true);
}

#[test]
fn a_slow_writer_on_the_right_never_shows_a_partial_file() {
    never_partial(false);
}

#[test]
fn a_file_that_is_always_open_keeps_nothing_else_back() {
    let mut pair = Pair::start(&[]);
    let mut open = File::create(pair.left.join("open.log")).unwrap();
    open.write_all(b"started\n").unwrap();
    for n in 0..20 {
        plant(pair.left.join(format!("dir/file{n}")), "text");
    }
    let there = pair.right.join("dir/file19");
    assert!(poll(Duration::from_secs(20), || there.exists()), "an open file held the others back{}", pair.story());
    assert!(!pair.right.join("open.log").exists(), "a file that is being written was sent");
    open.write_all(b"done\n").unwrap();
    drop(open);
    let tree = pair.settle();
    assert!(tree.has("open.log"));
    pair.stop();
}

/// One side has the file open for writing while the other side saves it.
fn open_here_saved_there(left_side: bool, write_again: bool, in_place: bool) {
    let mut pair = Pair::start(&[]);
    let (here, there) = if left_side { (&pair.left, &pair.right) } else { (&pair.right, &pair.left) };
    let (here, there) = (here.join("doc"), there.join("doc"));
    write(&here, Version::new("base", 1).contents());
    pair.settle();

    let mut application = OpenOptions::new().read(true).write(true).open(&here).unwrap();
    let saved = Version::new("saved", 1);
    if in_place {
        write(&there, saved.contents())
    } else {
        save(&there, saved.contents())
    }
    // It cannot be placed while the application has the old one open; give psync the time to try.
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(2) {
        assert!(std::fs::read(&here).is_ok_and(|c| Version::parse(&c).is_some()), "a partial file");
        std::thread::sleep(Duration::from_millis(20));
    }
    let mine = Version::new("mine", 1);
    if write_again {
        application.set_len(0).unwrap();
        application.seek(SeekFrom::Start(0)).unwrap();
        application.write_all(&mine.contents()).unwrap();
    }
    drop(application);

    let tree = pair.settle();
    let (found, torn) = collect(here.parent().unwrap());
    let what = format!("left {left_side}, write again {write_again}: {:?}{}", tree.paths(), pair.story());
    assert!(torn.iter().all(|file| file.contains("/archive.db") || file.contains("/.psync/")), "{torn:?} {what}");
    assert!(found.contains(&saved), "the saved version is lost: {what}");
    let users = collect_visible(&pair);
    if write_again {
        assert!(found.contains(&mine), "the application wrote into the void: {what}");
        assert!(users.contains(&mine) && users.contains(&saved), "a version is hidden in the trash: {what}");
    } else {
        assert_eq!(Version::parse(&std::fs::read(&here).unwrap()), Some(saved), "{what}");
        assert_eq!(tree.paths(), ["doc"], "{what}");
    }
    pair.stop();
}

/// The versions under names that users see, on the left; both sides are equal.
fn collect_visible(pair: &Pair) -> Vec<Version> {
    let files = std::fs::read_dir(&pair.left).unwrap().flatten().filter(|e| e.file_type().unwrap().is_file());
    files.filter_map(|e| Version::parse(&std::fs::read(e.path()).unwrap())).collect()
}

#[test]
fn open_on_the_left_and_saved_on_the_right() {
    open_here_saved_there(true, false, false);
    open_here_saved_there(true, true, false);
    open_here_saved_there(true, true, true);
}

#[test]
fn open_on_the_right_and_saved_on_the_left() {
    open_here_saved_there(false, false, false);
    open_here_saved_there(false, true, false);
    open_here_saved_there(false, true, true);
}

#[test]
fn a_file_deleted_there_while_it_is_open_here() {
    let mut pair = Pair::start(&[]);
    let (here, there) = (pair.left.join("doc"), pair.right.join("doc"));
    write(&here, Version::new("base", 1).contents());
    pair.settle();
    let mut application = OpenOptions::new().write(true).open(&here).unwrap();
    remove(&there);
    std::thread::sleep(Duration::from_secs(1));
    let mine = Version::new("mine", 2);
    application.set_len(0).unwrap();
    application.write_all(&mine.contents()).unwrap();
    drop(application);
    // The edit wins over the deletion.
    let tree = pair.settle();
    assert_eq!(tree.paths(), ["doc"], "{}", pair.story());
    assert_eq!(Version::parse(&std::fs::read(&there).unwrap()), Some(mine));
    pair.stop();
}

#[test]
fn readers_never_see_a_gap_or_a_part_while_a_file_is_replaced() {
    let mut pair = Pair::start(&[]);
    let (here, there) = (pair.left.join("page"), pair.right.join("page"));
    save(&here, Version::new("page", 3).contents());
    pair.settle();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut bad = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                match std::fs::read(&there) {
                    Ok(contents) if Version::parse(&contents).is_some() => {}
                    Ok(contents) => bad.push(format!("{} torn bytes", contents.len())),
                    Err(error) => bad.push(error.to_string()),
                }
            }
            bad
        });
        for number in 4..60 {
            save(&here, Version::new("page", number).contents());
            std::thread::sleep(Duration::from_millis(40));
        }
        let last = Version::new("page", 59).contents();
        let arrived = poll(PATIENCE, || std::fs::read(&there).is_ok_and(|c| c == last));
        stop.store(true, Ordering::Relaxed);
        let bad = reader.join().unwrap();
        assert!(arrived, "{}", pair.story());
        assert!(bad.is_empty(), "readers saw {bad:?}");
    });
    pair.stop();
}
