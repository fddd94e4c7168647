//! What psync takes of a line: bytes on it, and time on a slow one.
//!
//! `cargo bench --bench wire` measures all; `cargo bench --bench wire -- bytes` one of bytes, slow. The bytes need root: two
//! network namespaces, with a real ssh between them, whose headers and acknowledgements count. A slow line is a
//! proxy command that keeps everything back for a while, in both directions.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../tests/hosts/support/line.rs"]
#[allow(dead_code)]
mod line;
#[path = "../tests/e2e/support/mod.rs"]
mod support;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use line::Line;
use support::service::AGENT;
use support::sshd::{self, Sshd};
use support::users::{mkdirs, noise, rename, write};
use support::{NAME, Pair, process, tools};

const FILES: usize = 10_000;
/// One way; twice that there and back.
const DELAY: Duration = Duration::from_millis(50);
const ROUNDS: usize = 40;
/// How long the idle line is watched.
const IDLE: Duration = Duration::from_secs(180);
/// The word that makes this program the slow line.
const RELAY: &str = "relay";

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == RELAY) {
        return relay(words[1].parse().unwrap(), &words[2..]);
    }
    let wanted: Vec<&String> = words.iter().filter(|a| !a.starts_with('-')).collect();
    for (name, measure) in [("bytes", bytes as fn()), ("slow", slow)] {
        if wanted.is_empty() || wanted.iter().any(|w| *w == name) {
            measure();
        }
    }
}

/// Runs a program of this machine; it must succeed. What it printed.
fn run(program: &str, arguments: &[&str]) -> String {
    tools::run(Path::new("/"), program, arguments)
}

fn median<T: PartialOrd + Copy>(mut values: Vec<T>) -> T {
    values.sort_by(|a, b| a.partial_cmp(b).expect("a number"));
    values[values.len() / 2]
}

fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(300);
    while !done() {
        assert!(Instant::now() < end, "never: {what}");
        thread::sleep(Duration::from_micros(200));
    }
}

/// Files in directories of a hundred, made as fast as one process can.
fn make_tree(at: &Path) {
    let contents = noise(1, 4096);
    for n in 0..FILES {
        let directory = at.join(format!("dir{}", n % 100));
        if n < 100 {
            mkdirs(&directory);
        }
        let mut file = File::create(directory.join(format!("file{n}"))).unwrap();
        file.write_all(&(n as u64).to_le_bytes()).unwrap();
        file.write_all(&contents[8..]).unwrap();
    }
}

/// Files in directories of this one.
fn count(at: &Path) -> usize {
    let directories = fs::read_dir(at).into_iter().flatten().flatten();
    directories.map(|d| fs::read_dir(d.path()).map_or(0, |files| files.count())).sum()
}

// --- bytes

/// An sshd in a network namespace.
struct Far(Child);

impl Drop for Far {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn bytes() {
    if !process::is_root() || !tools::has("ip") || !sshd::possible() {
        println!("\nbytes: needs root, ip and sshd");
        return;
    }
    let line = Line::lay(&format!("wire-{}", std::process::id()));
    let pair = Pair::new();
    let programs = Path::new(AGENT).parent().unwrap().display().to_string();
    // Its keys and configuration; the one that is measured listens at the far end of the line.
    let near = Sshd::start(pair.beside("sshd"), &[("PATH", &format!("{programs}:/usr/bin:/bin"))]);
    near.allow("restrict");
    let config = pair.beside("sshd").join("config");
    let mut far = Command::new("ip");
    far.args(["netns", "exec", line.right(), "/usr/sbin/sshd", "-D", "-e", "-o", "ListenAddress=10.77.0.2", "-f"]);
    let _far = Far(far.arg(config).stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let options = near.options("good", "nobody_known").join(" ");
    let command = format!(
        "exec ip netns exec {} ssh -T {options} -o StrictHostKeyChecking=no -o BatchMode=yes -p {} -- {}@10.77.0.2 \
         {AGENT} --stdio --pair {NAME} --root {}",
        line.left(),
        near.port,
        sshd::user(),
        pair.right.display()
    );
    let mut pair = pair.with(&["--proxy-command", &command]);
    pair.run();
    // What belongs to a change may come some time after it: records, confirmations, acknowledgements.
    let quiet = || {
        let mut last = line.bytes();
        let mut since = Instant::now();
        while since.elapsed() < Duration::from_millis(2500) {
            thread::sleep(Duration::from_millis(100));
            let now = line.bytes();
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
        last
    };
    let cost = |act: &dyn Fn()| {
        let before = quiet();
        act();
        let after = quiet();
        (after.0 - before.0, after.1 - before.1)
    };
    println!("\n## Bytes on the line, with those of ssh, TCP, IP and Ethernet\n");
    println!("| | left to right | right to left | both |\n|---|---|---|---|");
    let row = |what: &str, (there, back): (u64, u64)| println!("| {what} | {there} | {back} | {} |", there + back);
    let (left, right) = (pair.left.clone(), pair.right.clone());
    for (here, there, way) in [(&left, &right, "left to right"), (&right, &left, "right to left")] {
        let costs = (0..9).map(|round| {
            let name = format!("{} {round}", here.file_name().unwrap().display());
            cost(&|| {
                write(here.join(&name), noise(round, 4096));
                wait("the file arrives", || there.join(&name).exists());
            })
        });
        let (to, from): (Vec<u64>, Vec<u64>) = costs.unzip();
        row(&format!("one new file of 4 KiB, {way} (median of 9)"), (median(to), median(from)));
    }
    make_tree(&left.join("tree"));
    wait("the tree arrives", || count(&right.join("tree")) == FILES);
    pair.settle();
    let costs = (0..5).map(|round| {
        let names = ["tree", "renamed"];
        let (old, new) = (names[round % 2], names[(round + 1) % 2]);
        cost(&|| {
            rename(left.join(old), left.join(new));
            wait("the new name arrives", || right.join(new).exists());
        })
    });
    let (to, from): (Vec<u64>, Vec<u64>) = costs.unzip();
    row(&format!("rename of a tree of {FILES} files (median of 5)"), (median(to), median(from)));
    let before = quiet();
    thread::sleep(IDLE);
    let after = line.bytes();
    let hour = |bytes: u64| bytes * 3600 / IDLE.as_secs();
    row(&format!("an idle hour ({} s, scaled)", IDLE.as_secs()), (hour(after.0 - before.0), hour(after.1 - before.1)));
    pair.stop();
}

// --- slow

fn slow() {
    println!("\n## A line of {} ms there and back\n", 2 * DELAY.as_millis());
    println!("| | no delay | slow | more |\n|---|---|---|---|");
    let [fast, slow] = [Duration::ZERO, DELAY].map(on_a_line_of);
    for (fast, slow) in fast.into_iter().zip(slow) {
        let (what, fast, slow) = (fast.0, fast.1.as_secs_f64() * 1000.0, slow.1.as_secs_f64() * 1000.0);
        println!("| {what} (ms) | {fast:.2} | {slow:.2} | {:.2} |", slow - fast);
    }
}

fn on_a_line_of(delay: Duration) -> Vec<(String, Duration)> {
    let pair = Pair::new();
    let this = std::env::current_exe().unwrap();
    let (this, right) = (this.display(), pair.right.display().to_string());
    let command = format!("exec {this} {RELAY} {} {AGENT} --stdio --pair {NAME} --root {right}", delay.as_millis());
    let mut pair = pair.with(&["--proxy-command", &command]);
    pair.run();
    let (left, right) = (pair.left.clone(), pair.right.clone());
    let mut found = Vec::new();
    for (here, there, way) in [(&left, &right, "left to right"), (&right, &left, "right to left")] {
        let times = (0..ROUNDS).map(|round| {
            // The records of the round before have come and gone: the pair is to be idle.
            thread::sleep(4 * delay + Duration::from_millis(50));
            let name = format!("{} {round}", here.file_name().unwrap().display());
            write(here.join(&name), noise(round as u64, 4096));
            let start = Instant::now();
            wait("the file arrives", || there.join(&name).exists());
            start.elapsed()
        });
        found.push((format!("one new file of 4 KiB, {way}, median of {ROUNDS}"), median(times.collect())));
    }
    for (here, there, way) in [(&left, &right, "left to right"), (&right, &left, "right to left")] {
        let tree = format!("tree {way}");
        let start = Instant::now();
        make_tree(&here.join(&tree));
        // Looked for so seldom that the looking costs nothing.
        while count(&there.join(&tree)) < FILES {
            thread::sleep(Duration::from_millis(20));
        }
        found.push((format!("{FILES} new files of 4 KiB, {way}, from the first write"), start.elapsed()));
        pair.settle();
    }
    pair.stop();
    found
}

/// Runs the command, and passes everything on to and from it after `milliseconds`.
fn relay(milliseconds: u64, command: &[String]) {
    let mut child =
        Command::new(&command[0]).args(&command[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let delay = Duration::from_millis(milliseconds);
    let (to, from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let there = thread::spawn(move || pass_on(io::stdin(), to, delay));
    pass_on(from, io::stdout(), delay);
    drop(child.wait());
    drop(there);
}

fn pass_on(mut from: impl Read + Send + 'static, mut to: impl Write, delay: Duration) {
    let (put, get) = channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            if put.send((Instant::now() + delay, buffer[..read].to_vec())).is_err() {
                return;
            }
        }
    });
    for (due, bytes) in get {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if to.write_all(&bytes).and_then(|()| to.flush()).is_err() {
            return;
        }
    }
}
