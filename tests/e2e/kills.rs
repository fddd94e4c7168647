//! Killed at random, fifty times, while users go on writing on both sides.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::users::*;
use crate::support::versions::{Version, collect};
use crate::support::{PATIENCE, Pair, poll};

const KILLS: u64 = 50;

/// What one user has finished: the last version under each name, or that it is deleted.
type Finished = BTreeMap<String, Option<Version>>;

/// What a user did and when, beside the roots, to be read against psync's log.
struct Diary(std::fs::File);

impl Diary {
    fn new(root: &Path, side: &str) -> Diary {
        Diary(std::fs::File::create(root.with_file_name(format!("diary-{side}"))).unwrap())
    }

    /// Said before it is done.
    fn note(&mut self, what: &str) {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        writeln!(self.0, "{}.{:06} {what}", now.as_secs() % 86_400, now.subsec_micros()).unwrap();
    }
}

/// So many files of his own, and shared ones, a user has touched when he has done enough.
const ENOUGH: usize = 20;
const SHARED: usize = 8;

/// A user on one side: works in a directory of his own, where nobody else does, and on shared files.
/// Goes on until told to stop, and until he has done enough, however slow the machine is; returns what he left in his own directory, and of each shared file his last version.
fn work(root: &Path, side: &str, seed: u64, stop: &AtomicBool) -> (Finished, Finished) {
    let (mut own, mut shared) = (Finished::new(), Finished::new());
    let mut diary = Diary::new(root, side);
    let mut random = Random(seed);
    let mut number = 0;
    mkdirs(root.join(side));
    while !stop.load(Ordering::Relaxed) || own.len() <= ENOUGH || shared.len() < SHARED {
        number += 1;
        let name = format!("{side}/file{}", random.below(40));
        let mut did = |what: &str, name: &str| diary.note(&format!("{what} {name} {number}"));
        match random.below(10) {
            0..4 => {
                let version = Version::new(&name, number);
                did("write", &name);
                write(root.join(&name), version.contents());
                own.insert(name, Some(version));
            }
            4..6 => {
                let version = Version::new(&name, number);
                did("save", &name);
                save(root.join(&name), version.contents());
                own.insert(name, Some(version));
            }
            6 => {
                if own.get(&name).is_some_and(Option::is_some) {
                    did("remove", &name);
                    remove(root.join(&name));
                    own.insert(name, None);
                }
            }
            7 => {
                let to = format!("{side}/file{}", random.below(40));
                if to != name && own.get(&name).is_some_and(Option::is_some) {
                    did("rename", &format!("{name} {to}"));
                    rename(root.join(&name), root.join(&to));
                    let version = own.insert(name, None).flatten();
                    own.insert(to, version);
                }
            }
            _ => {
                let name = format!("shared{}", random.below(SHARED as u64));
                let version = Version::new(&format!("{name}-{side}"), number);
                did("save", &name);
                save_by(side, root.join(&name), version.contents());
                shared.insert(name, Some(version));
            }
        }
        std::thread::sleep(Duration::from_millis(random.below(12)));
    }
    (own, shared)
}

/// What a user finished in his own directory is there and nothing else is: not what he deleted or renamed, and no
/// conflict copy, since nobody else works there. Returns what is not as it should be.
fn check_own(pair: &Pair, side: &str, own: &Finished) -> Vec<String> {
    let mut wrong = Vec::new();
    for root in pair.sides() {
        let mut wanted = BTreeSet::new();
        for (name, version) in own {
            let is = std::fs::read(root.join(name)).ok().map(|c| Version::parse(&c));
            if is != version.clone().map(Some) {
                wrong.push(format!("{name} is {is:?} in {root:?}, not {version:?}"));
            }
            if version.is_some() {
                wanted.insert(name.rsplit('/').next().unwrap().to_owned());
            }
        }
        let names = std::fs::read_dir(root.join(side)).unwrap().flatten();
        let found: BTreeSet<_> = names.map(|e| e.file_name().into_string().unwrap()).collect();
        for name in found.difference(&wanted) {
            let version = std::fs::read(root.join(side).join(name)).ok().map(|c| Version::parse(&c));
            wrong.push(format!("left over in {root:?}: {side}/{name}: {version:?}"));
        }
    }
    wrong
}

#[test]
fn killed_fifty_times_under_writers_on_both_sides() {
    let mut pair = Pair::start(&[]);
    for n in 0..SHARED as u64 {
        write(pair.left.join(format!("shared{n}")), Version::new("base", n).contents());
    }
    pair.settle();
    let seed = std::env::var("PSYNC_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(20_260_101);
    println!("PSYNC_SEED={seed}");
    let stop = AtomicBool::new(false);
    let [left, right] = [pair.left.clone(), pair.right.clone()];
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for (root, side, seed) in [(&left, "left", seed), (&right, "right", seed + 1)] {
            let (stop, results) = (&stop, &results);
            scope.spawn(move || {
                let (own, shared) = work(root, side, seed, stop);
                results.lock().unwrap().push((side, own, shared));
            });
        }
        // The users must stop even if something panics here.
        let killing = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| kill_at_random(&mut pair, seed + 2)));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = killing {
            std::panic::resume_unwind(panic);
        }
    });
    pair.wait_in_sync();
    pair.settle();

    let (mut found, mut torn) = collect(&pair.left);
    let (versions, more) = collect(&pair.right);
    found.extend(versions);
    torn.extend(more);
    torn.retain(|file| !file.contains("/.psync/"));
    assert!(torn.is_empty(), "torn: {torn:#?}{}", pair.story());
    let mut wrong = Vec::new();
    for (side, own, shared) in results.into_inner().unwrap() {
        assert!(own.len() > ENOUGH && shared.len() == SHARED, "{side} did too little: {own:?} {shared:?}");
        wrong.extend(check_own(&pair, side, &own));
        for version in shared.into_values().flatten() {
            assert!(found.contains(&version), "{version:?}, written on the {side}, is lost{}", pair.story());
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}{}", pair.story());
    pair.stop();
}

fn kill_at_random(pair: &mut Pair, seed: u64) {
    let mut random = Random(seed);
    for kill in 0..KILLS {
        // Every fifth time it may get as far as being in sync; else it dies anywhere on the way there.
        let pause = if kill % 5 == 0 { 1000 + random.below(500) } else { random.below(400) };
        std::thread::sleep(Duration::from_millis(pause));
        match kill % 3 {
            0 => pair.kill9_all(),
            1 => kill_one(pair, 0),
            _ => kill_one(pair, 1),
        }
        pair.spawn();
    }
}

/// Kills the brain or the agent alone, and ends the other as it likes to end.
fn kill_one(pair: &mut Pair, which: usize) {
    use nix::sys::signal::Signal;
    let family = pair.processes();
    let Some(victim) = family.get(which) else { return pair.kill9_all() };
    crate::support::process::kill_and_wait(&[*victim]);
    if which != 0 {
        // Told to stop without an agent, the brain ends; how it says so is its own affair.
        crate::support::process::send(family[0], Signal::SIGTERM);
    }
    let _ = pair.wait_end();
    let gone = poll(PATIENCE, || !family.iter().any(|p| crate::support::process::alive(*p)));
    assert!(gone, "a process of {family:?} lives on after the other was killed{}", pair.story());
}

#[test]
fn an_agent_that_dies_is_replaced() {
    let mut pair = Pair::start(&[]);
    write(pair.left.join("before"), "before");
    write(pair.left.join("stays"), "a root that loses all its entries would halt");
    pair.settle();
    let family = pair.processes();
    assert_eq!(family.len(), 2, "a brain and an agent, not {family:?}");
    crate::support::process::kill_and_wait(&family[1..]);
    write(pair.left.join("left"), "while it was away");
    remove(pair.right.join("before"));
    pair.settle();
    assert!(pair.is_running() && pair.processes().len() == 2, "no new agent{}", pair.story());
    assert_eq!(pair.settle().paths(), ["left", "stays"], "{}", pair.story());
    pair.stop();
}
