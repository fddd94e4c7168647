//! Programs that keep a file open while psync would like to read or to replace it.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::mounts::in_a_file;
use crate::support::users::*;
use crate::support::versions::{Version, collect};
use crate::support::{PATIENCE, Pair, poll};

/// Reads a file again and again until told to stop; returns every different contents that it saw.
fn observe(path: &Path, stop: &AtomicBool) -> Vec<Vec<u8>> {
    let mut seen: Vec<Vec<u8>> = Vec::new();
    loop {
        // It reads once more after it was told: the last version counts as well on a busy machine.
        let last = stop.load(Ordering::Relaxed);
        if let Ok(contents) = std::fs::read(path)
            && seen.last() != Some(&contents)
        {
            seen.push(contents);
        }
        if last {
            return seen;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
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

/// Everything in the file has one number: each write fills it anew.
fn one_number(contents: &[u8]) -> Option<u8> {
    let first = *contents.first()?;
    contents.iter().all(|byte| *byte == first).then_some(first)
}

/// Where files can be copied as they are at one moment, one that is never left in peace arrives whole, again and again.
fn always_written(kind: &str, left_side: bool) {
    const SIZE: usize = 1 << 20;
    let pair = Pair::new();
    let disk = pair.beside("disk");
    let Some(_mounted) = in_a_file(kind, &[], &disk, 512) else { return };
    let config = pair.beside("psync.toml");
    write(&config, "open_wait = 1.0\n");
    let mut pair = pair.with(&["--config", config.to_str().unwrap()]);
    let root = disk.join("root");
    mkdir(&root);
    *(if left_side { &mut pair.left } else { &mut pair.right }) = root;
    pair.run();
    let (here, there) = if left_side { (&pair.left, &pair.right) } else { (&pair.right, &pair.left) };
    let (here, there) = (here.join("database"), there.join("database"));
    let log = here.with_file_name("log");

    let stop = AtomicBool::new(false);
    let came = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut small = File::create(&log).unwrap();
            let file = File::create(&here).unwrap();
            for number in (0..=u8::MAX).cycle() {
                std::os::unix::fs::FileExt::write_all_at(&file, &vec![number; SIZE], 0).unwrap();
                small.write_all(b"one more line of a log\n").unwrap();
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let mut seen = Vec::new();
        let came = poll(PATIENCE, || {
            if let Ok(contents) = std::fs::read(&there) {
                assert_eq!(contents.len(), SIZE, "a part of it arrived");
                let number = one_number(&contents).expect("it arrived torn");
                if seen.last() != Some(&number) {
                    seen.push(number);
                }
            }
            seen.len() >= 3 && std::fs::read(there.with_file_name("log")).is_ok_and(|log| !log.is_empty())
        });
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap();
        came
    });
    assert!(came, "{kind}: a file that is always written does not arrive{}", pair.story());
    // At its close it is there as it is.
    let tree = pair.settle();
    assert_eq!(tree.paths(), ["database", "log"], "{}", pair.story());
    assert!(one_number(&std::fs::read(&there).unwrap()).is_some());
    pair.stop();
}

#[test]
fn a_file_on_xfs_that_is_always_written_arrives_whole() {
    always_written("xfs", true);
}

#[test]
fn a_file_on_btrfs_that_is_always_written_arrives_whole() {
    always_written("btrfs", false);
}

/// `open_files = "send"`: nobody waits for the close.
fn sent_while_open(kind: Option<&str>) {
    let pair = Pair::new();
    let disk = pair.beside("disk");
    let mounted = kind.map(|kind| in_a_file(kind, &[], &disk, 512));
    if let Some(None) = mounted {
        return;
    }
    let config = pair.beside("psync.toml");
    write(&config, "open_files = \"send\"\nopen_wait = 600.0\n");
    let mut pair = pair.with(&["--config", config.to_str().unwrap()]);
    if mounted.is_some() {
        pair.left = disk.join("root");
        mkdir(&pair.left);
    }
    pair.run();
    for (from, to) in [(&pair.left, &pair.right), (&pair.right, &pair.left)] {
        // The second one is too large to travel with its report.
        for (name, size) in [("small", 1000), ("large", 500_000)] {
            let mut file = File::create(from.join(name)).unwrap();
            let mut contents = Vec::new();
            for round in 1..=3 {
                let more = noise(round, size);
                file.write_all(&more).unwrap();
                contents.extend(more);
                let arrived = poll(PATIENCE, || std::fs::read(to.join(name)).is_ok_and(|c| c == contents));
                assert!(arrived, "{kind:?}: {name}, round {round}, does not arrive while it is open{}", pair.story());
            }
        }
        remove(from.join("small"));
        remove(from.join("large"));
        let gone = poll(PATIENCE, || !to.join("small").exists() && !to.join("large").exists());
        assert!(gone, "{}", pair.story());
    }
    assert!(pair.settle().paths().is_empty(), "{}", pair.story());
    pair.stop();
}

#[test]
fn open_files_send_waits_for_no_close() {
    sent_while_open(None);
}

#[test]
fn open_files_send_waits_for_no_close_on_xfs() {
    sent_while_open(Some("xfs"));
}

/// A mapping's stores show in no time of the file while its page is in memory only.
#[test]
fn what_a_mapping_stores_after_the_file_was_sent_arrives_too() {
    let pair = Pair::new();
    let config = pair.beside("psync.toml");
    write(&config, "open_files = \"send\"\n");
    let mut pair = pair.with(&["--config", config.to_str().unwrap()]);
    pair.run();
    let (here, there) = (pair.left.join("mapped"), pair.right.join("mapped"));
    let script = "import mmap,sys\n\
        f = open(sys.argv[1], 'w+b'); f.truncate(8192); m = mmap.mmap(f.fileno(), 8192)\n\
        m[0:5] = b'first'; print('stored', flush=True); sys.stdin.readline()\n\
        m[0:5] = b'again'; print('stored', flush=True); sys.stdin.readline()\n";
    if !crate::support::tools::has("python3") {
        return;
    }
    let mut program = std::process::Command::new("python3")
        .args(["-c", script, here.to_str().unwrap()])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut input = program.stdin.take().unwrap();
    let arrives = |text: &[u8]| poll(PATIENCE, || std::fs::read(&there).is_ok_and(|c| c.starts_with(text)));
    assert!(arrives(b"first"), "{}", pair.story());
    input.write_all(b"\n").unwrap();
    // The kernel tells of a mapping's stores when the last reference goes.
    input.write_all(b"\n").unwrap();
    assert!(program.wait().unwrap().success());
    assert!(arrives(b"again"), "what was stored later never arrives{}", pair.story());
    pair.settle();
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
