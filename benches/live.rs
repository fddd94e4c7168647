//! What psync takes on this machine, in one run with `cp` and `rsync` on the same trees; only ratios within one run count.
//!
//! `cargo bench --bench live` measures all; `cargo bench --bench live -- latency` one of latency, burst, memory, scan, delta.
//! Prints tables in Markdown. `TMPDIR` says on which file system.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../tests/e2e/support/mod.rs"]
mod support;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use inotify::{Inotify, WatchMask};
use psync::config::{Accept, SharedSettings};
use psync::endpoint::open::{Opening, open};
use psync::endpoint::serve::clock;
use psync::model::Side;
use psync::protocol::{Reply, Request, Start};
use support::line::Line;
use support::service::Service;
use support::users::{mkdir, mkdirs, noise, remove, remove_tree, rename, write};
use support::{Depth, NAME, Pair, process, snapshot, tools};

const ROUNDS: usize = 500;
const BURST: usize = 10_000;
const MANY: usize = 100_000;
const ENTRIES: usize = 200_000;

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    for (name, measure) in
        [("latency", latency as fn()), ("burst", burst), ("memory", memory), ("scan", scan), ("delta", delta)]
    {
        if wanted.is_empty() || wanted.iter().any(|w| w == name) {
            measure();
        }
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Median and 99th percentile, in milliseconds.
fn percentiles(mut times: Vec<Duration>) -> (f64, f64) {
    times.sort();
    (ms(times[times.len() / 2]), ms(times[times.len() * 99 / 100]))
}

// --- latency

/// From the end of a user's call on one side to the moment at which the name changes on the other.
fn latency() {
    println!("\n## Latency of one 4 KiB file, {ROUNDS} rounds each, on an idle pair (ms)\n");
    println!("| | median | 99 % |\n|---|---|---|");
    let (median, high) = percentiles(durable_files());
    println!("| floor: write, fdatasync and rename of such a file | {median:.2} | {high:.2} |");
    let mut pair = Pair::start(&[]);
    for root in pair.sides() {
        mkdirs(root.join("from-left"));
        mkdirs(root.join("from-right"));
    }
    pair.settle();
    let (left, right) = (pair.left.clone(), pair.right.clone());
    for (here, there, way) in [(&left, &right, "left to right"), (&right, &left, "right to left")] {
        let at = if here == &left { "from-left" } else { "from-right" };
        let (here, there) = (here.join(at), there.join(at));
        let name = |round: usize| format!("file{round}");
        let row = |what: &str, times| {
            let (median, high) = percentiles(times);
            println!("| {what}, {way} | {median:.2} | {high:.2} |");
        };
        row(
            "create",
            rounds(&there, |round| {
                write(here.join(name(round)), noise(round as u64, 4096));
                name(round)
            }),
        );
        // Longer than the interval in which one path is sent once.
        std::thread::sleep(Duration::from_secs(2));
        row(
            "overwrite",
            rounds(&there, |round| {
                write(here.join(name(round)), noise(round as u64 + 7, 4096));
                name(round)
            }),
        );
        std::thread::sleep(Duration::from_secs(2));
        row(
            "rename",
            rounds(&there, |round| {
                let new = format!("new{round}");
                rename(here.join(name(round)), here.join(&new));
                new
            }),
        );
        row(
            "delete (after `delete_delay`, 300 ms)",
            rounds_of(&there, 20, |round| {
                let new = format!("new{round}");
                remove(here.join(&new));
                new
            }),
        );
    }
    pair.settle();
    pair.stop();
}

fn rounds(there: &Path, act: impl Fn(usize) -> String) -> Vec<Duration> {
    rounds_of(there, ROUNDS, act)
}

/// Acts, and waits until the kernel reports a change of the name that `act` returns in the directory `there`.
fn rounds_of(there: &Path, count: usize, act: impl Fn(usize) -> String) -> Vec<Duration> {
    let mut inotify = Inotify::init().unwrap();
    let mask = WatchMask::MOVED_TO | WatchMask::MOVED_FROM | WatchMask::CREATE | WatchMask::DELETE;
    inotify.watches().add(there, mask).unwrap();
    let mut buffer = [0; 4096];
    let mut times = Vec::new();
    for round in 0..count {
        // Let the records of the round before reach the disk: the pair is to be idle.
        std::thread::sleep(Duration::from_millis(5));
        let name = act(round);
        let start = Instant::now();
        while !inotify.read_events_blocking(&mut buffer).unwrap().any(|event| event.name == Some(OsStr::new(&name))) {}
        times.push(start.elapsed());
    }
    times
}

fn durable_files() -> Vec<Duration> {
    let place = tempfile::tempdir().unwrap();
    let one = |round: usize| {
        let (new, name) = (place.path().join("new"), place.path().join(format!("file{round}")));
        let contents = noise(round as u64, 4096);
        let start = Instant::now();
        let mut file = File::create(&new).unwrap();
        file.write_all(&contents).unwrap();
        file.sync_data().unwrap();
        rename(new, name);
        start.elapsed()
    };
    (0..ROUNDS).map(one).collect()
}

// --- burst

fn make_burst(at: &Path) {
    for directory in 0..100 {
        mkdirs(at.join(format!("dir{directory}")));
    }
    let contents = noise(1, 4096);
    for n in 0..BURST {
        let mut file = File::create(at.join(format!("dir{}/file{n}", n % 100))).unwrap();
        file.write_all(&(n as u64).to_le_bytes()).unwrap();
        file.write_all(&contents[8..]).unwrap();
    }
}

/// Files below a directory, by the names alone.
fn count(at: &Path) -> usize {
    let directories = fs::read_dir(at).into_iter().flatten().flatten();
    directories.map(|d| fs::read_dir(d.path()).map_or(0, |files| files.count())).sum()
}

/// Waits until `there` holds as many files as it should and then equals `here`.
fn until_equal(here: &Path, there: &Path, files: usize) {
    let end = Instant::now() + Duration::from_secs(600);
    loop {
        if count(there) == files && snapshot(here, Depth::Stat) == snapshot(there, Depth::Stat) {
            return;
        }
        assert!(Instant::now() < end, "never equal: {} of {files} files", count(there));
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn timed(program: &str, arguments: &[&str]) -> f64 {
    let start = Instant::now();
    tools::run(Path::new("/"), program, arguments);
    start.elapsed().as_secs_f64()
}

fn burst() {
    println!("\n## Burst: {BURST} files of 4 KiB in 100 directories, made as fast as possible (s)\n");
    println!("| | 1 | 2 | 3 |\n|---|---|---|---|");
    let mut rows: Vec<(&str, Vec<f64>)> = Vec::new();
    let mut note = |what: &'static str, seconds: f64| match rows.iter_mut().find(|(name, _)| *name == what) {
        Some((_, times)) => times.push(seconds),
        None => rows.push((what, vec![seconds])),
    };
    for round in 0..3 {
        let mut pair = Pair::start(&[]);
        let (here, there) = if round == 1 { (&pair.right, &pair.left) } else { (&pair.left, &pair.right) };
        let (here, there) = (here.join("burst"), there.join("burst"));
        let start = Instant::now();
        make_burst(&here);
        note("writing it", start.elapsed().as_secs_f64());
        until_equal(&here, &there, BURST);
        note("**psync**: from the first write to equality (2: right to left)", start.elapsed().as_secs_f64());

        let (new_here, new_there) = (here.with_file_name("renamed"), there.with_file_name("renamed"));
        pair.settle();
        let start = Instant::now();
        rename(&here, &new_here);
        while !new_there.exists() {
            std::thread::sleep(Duration::from_millis(1));
        }
        note("psync: rename of that tree", start.elapsed().as_secs_f64());
        pair.settle();
        let start = Instant::now();
        remove_tree(&new_here);
        note("removing it", start.elapsed().as_secs_f64());
        while new_there.exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
        note("psync: from the first removal to its end on the other side", start.elapsed().as_secs_f64());
        pair.stop();
        drop(pair);

        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
        make_burst(Path::new(&path("tree")));
        tools::run(Path::new("/"), "sync", &[]);
        let copy = timed("cp", &["-a", &path("tree"), &path("cp")]);
        note("`cp -a` of the finished tree", copy);
        note("`cp -a` and `sync -f`", copy + timed("sync", &["-f", &path("cp")]));
        mkdir(path("rsync"));
        if tools::has("rsync") {
            let copy = timed("rsync", &["-a", &format!("{}/", path("tree")), &path("rsync")]);
            note("`rsync -a` of the finished tree", copy);
            note("`rsync -a` and `sync -f`", copy + timed("sync", &["-f", &path("rsync")]));
            note("`rsync -a`, nothing to do", timed("rsync", &["-a", &format!("{}/", path("tree")), &path("rsync")]));
        }
    }
    for (what, times) in rows {
        println!("| {what} | {:.3} | {:.3} | {:.3} |", times[0], times[1], times[2]);
    }
}

// --- memory

fn memory() {
    println!("\n## {MANY} files of 100 bytes in 1000 directories\n");
    println!("| | s | brain RSS (own), MiB | agent RSS (own), MiB |\n|---|---|---|---|");
    let mut pair = Pair::new();
    let tree = pair.left.join("many");
    for n in 0..MANY {
        if n < 1000 {
            mkdirs(tree.join(format!("dir{n}")));
        }
        write(tree.join(format!("dir{}/file{n}", n % 1000)), noise(n as u64, 100));
    }
    if tools::has("rsync") {
        let there = pair.beside("rsync");
        let seconds = timed("rsync", &["-a", tree.to_str().unwrap(), there.to_str().unwrap()]);
        println!("| `rsync -a` | {seconds:.2} | | |");
        let seconds = timed("rsync", &["-a", tree.to_str().unwrap(), there.to_str().unwrap()]);
        println!("| `rsync -a`, nothing to do | {seconds:.2} | | |");
        // It stays: among inodes that were deleted a moment ago ext4 takes long to find one for a new file.
    }
    for what in ["initial sync", "restart, nothing changed"] {
        let start = Instant::now();
        pair.spawn();
        let synced = pair.wait_said(Duration::from_secs(900), |line| line.contains(" in sync: "));
        assert!(synced, "never in sync{}", pair.story());
        let seconds = start.elapsed().as_secs_f64();
        let size = |pid: &i32| {
            let (all, own) = process::memory_kib(*pid);
            format!("{:.1} ({:.1})", all as f64 / 1024.0, own as f64 / 1024.0)
        };
        let sizes: Vec<String> = pair.processes().iter().map(size).collect();
        println!("| psync: {what} | {seconds:.2} | {} |", sizes.join(" | "));
        pair.stop();
    }
    pair.assert_equal();
}

// --- scan

/// A restart with nothing changed: both sides at once, as `psync -s` has it, and the scan of one side by itself.
fn scan() {
    println!("\n## Scan of {ENTRIES} entries, nothing changed\n");
    println!("| | s |\n|---|---|");
    let mut pair = Pair::new();
    for n in 0..ENTRIES / 50 {
        let dir = pair.left.join(format!("{}/{}/{n}", n % 20, n / 20 % 20));
        mkdirs(&dir);
        (0..49).for_each(|file| write(dir.join(format!("file{file}")), noise(file, 10)));
    }
    pair.spawn();
    let synced = pair.wait_said(Duration::from_secs(900), |line| line.contains(" in sync: "));
    assert!(synced, "never in sync{}", pair.story());
    pair.stop();
    for _ in 0..5 {
        let start = Instant::now();
        pair.spawn();
        let synced = pair.wait_said(Duration::from_secs(900), |line| line.contains(" in sync: "));
        assert!(synced, "never in sync{}", pair.story());
        println!("| both sides, from the start to \"in sync\" | {:.3} |", start.elapsed().as_secs_f64());
        pair.stop();
        println!("| one side alone | {:.3} |", scan_alone(&pair.left, NAME));
    }
}

/// Seconds from `Go` to the end of the scan, in this process.
fn scan_alone(root: &Path, pair: &str) -> f64 {
    let shared = SharedSettings::default();
    let (side, accept) = (Side::Left, Accept::default());
    let opening = Opening { root, pair, side, shared: &shared, accept, dry_run: false, done: None };
    let (mut endpoint, watcher) = open(&opening, clock(), drop).expect("the root opens");
    let start = Start {
        pair: pair.to_owned(),
        incarnation: 1,
        accept: false,
        union: false,
        filters: [0; 32],
        dry_run: false,
        root: vec![],
    };
    let mut out = Vec::new();
    endpoint.handle(Request::Start(start), clock(), &mut out).expect("start");
    let Some(Reply::Hello(hello)) = out.pop() else { panic!("no Hello: {out:?}") };
    let begun = Instant::now();
    endpoint
        .handle(Request::Go { peer: hello.peer, scan: true, whole: false, doubt: false }, clock(), &mut out)
        .expect("go");
    while !out.iter().any(|reply| matches!(reply, Reply::ScanDone { .. })) {
        out.clear();
        endpoint.step(clock(), &mut out).expect("a step");
    }
    let seconds = begun.elapsed().as_secs_f64();
    watcher.stop();
    seconds
}

// --- delta

/// A big file that both sides have changes: over a counted line to an agent, between two local roots, and by rsync.
fn delta() {
    println!("\n## A file of 1 GiB that both sides have changes\n");
    println!("| | 4 KiB changed: s / MB | 1 MiB inserted in front: s / MB | all changed: s / MB |\n|---|---|---|---|");
    const SIZE: usize = 1 << 30;
    let versions = || {
        let old = noise(1, SIZE);
        let mut changed = old.clone();
        changed[SIZE / 3..SIZE / 3 + 4096].copy_from_slice(&noise(2, 4096));
        let inserted = [&noise(3, 1 << 20)[..], &changed].concat();
        (old, [changed, inserted, noise(4, SIZE)])
    };
    let (old, new) = versions();
    for over_line in [true, false] {
        let mut pair = Pair::new();
        let mut line = None;
        if over_line {
            let service = Service::start(&pair, "");
            let counted = Line::new(&pair, &service.run);
            pair = pair.with(&["--proxy-command", &Service::connect(&counted.run)]);
            line = Some((service, counted));
        }
        write(pair.left.join("big"), &old);
        pair.run();
        let mut cells = Vec::new();
        for contents in &new {
            pair.settle();
            let beside = pair.left.with_file_name("new");
            write(&beside, contents);
            tools::run(Path::new("/"), "sync", &[]);
            let before = line.as_ref().map(|(_, line)| line.carried());
            let inode = fs::metadata(pair.right.join("big")).unwrap().ino();
            let start = Instant::now();
            rename(&beside, pair.left.join("big"));
            while fs::metadata(pair.right.join("big")).map_or(true, |now| now.ino() == inode) {
                std::thread::sleep(Duration::from_millis(1));
            }
            let seconds = start.elapsed().as_secs_f64();
            pair.settle();
            let bytes = line.as_ref().zip(before).map(|((_, line), before)| {
                line.carried().iter().zip(before).map(|(now, before)| now - before).sum::<u64>()
            });
            cells.push(format!("{seconds:.2} / {}", bytes.map_or("-".into(), |b| format!("{:.2}", b as f64 / 1e6))));
        }
        println!("| psync, {} | {} |", if over_line { "over a line" } else { "two local roots" }, cells.join(" | "));
        pair.stop();
        if let Some((mut service, _)) = line {
            service.stop();
        }
    }
    if !tools::has("rsync") {
        return;
    }
    // A second rsync behind a pipe, as ssh would start it.
    for (what, more) in [("`rsync -a`", vec![]), ("`rsync -a --fsync`", vec!["--fsync"])] {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
        write(path("there"), &old);
        let mut cells = Vec::new();
        for contents in &new {
            write(path("here"), contents);
            tools::run(Path::new("/"), "sync", &[]);
            let (here, there) = (path("here"), format!("host:{}", path("there")));
            let shell = ["-a", "--stats", "--no-whole-file", "-e", "sh -c 'shift; exec \"$@\"' sh"];
            let arguments: Vec<&str> =
                shell.iter().copied().chain(more.iter().copied()).chain([&*here, &*there]).collect();
            let start = Instant::now();
            let said = tools::run(Path::new("/"), "rsync", &arguments);
            let seconds = start.elapsed().as_secs_f64();
            let number = |word: &str| -> u64 {
                let line = said.lines().find(|line| line.starts_with(word)).unwrap_or_default();
                line.chars().filter(char::is_ascii_digit).collect::<String>().parse().unwrap_or(0)
            };
            let bytes = number("Total bytes sent") + number("Total bytes received");
            cells.push(format!("{seconds:.2} / {:.2}", bytes as f64 / 1e6));
        }
        println!("| {what}, over a pipe | {} |", cells.join(" | "));
    }
}
