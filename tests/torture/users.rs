//! Users of both sides, who write down what they do. Each version is written once, by one of them.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, RwLock};
use std::time::Duration;

use crate::support::users::Random;
use crate::word;

/// What a user did to a file, when it was done.
#[derive(Debug, Clone)]
pub enum Did {
    /// Saved this version, and saw it on disk if `synced`.
    Saved {
        name: String,
        version: String,
        synced: bool,
    },
    Deleted {
        name: String,
        version: String,
    },
    Renamed {
        from: String,
        to: String,
        version: String,
    },
}

#[derive(Debug, Clone)]
pub struct Note {
    pub side: usize,
    pub did: Did,
}

/// What they all write in, and what stops them.
struct Desk {
    notes: Mutex<Vec<Note>>,
    stop: AtomicBool,
    /// Held for reading during each step: whoever has it for writing has stopped them all.
    step: RwLock<()>,
}

impl Desk {
    fn note(&self, side: usize, did: Did) {
        self.notes.lock().unwrap().push(Note { side, did });
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}

/// Users work until `pause` is over; then `end` comes, in their midst. It is given what stops them in the middle.
pub fn work(roots: [PathBuf; 2], seed: u64, pause: Duration, end: impl FnOnce(&dyn Fn())) -> Vec<Note> {
    let desk = Desk { notes: Mutex::default(), stop: AtomicBool::new(false), step: RwLock::default() };
    std::thread::scope(|scope| {
        for side in 0..2 {
            let (desk, roots) = (&desk, &roots);
            scope.spawn(move || alone(desk, side, &roots[side], seed + side as u64));
            scope.spawn(move || hand_over(desk, side, &roots[side], seed + 10 + side as u64));
            scope.spawn(move || take_up(desk, side, &roots[side], seed + 20 + side as u64));
        }
        std::thread::sleep(pause);
        let stop = || {
            desk.stop.store(true, Ordering::Release);
            // Whoever is in a step ends it first: what he did is written down.
            drop(desk.step.write().unwrap());
        };
        end(&stop);
        stop();
    });
    desk.notes.into_inner().unwrap()
}

fn save(root: &Path, name: &str, version: &str, synced: bool, in_place: bool) -> std::io::Result<()> {
    let path = root.join(name);
    let target = if in_place { path.clone() } else { path.with_extension("tmp") };
    let mut file = fs::File::create(&target)?;
    file.write_all(version.as_bytes())?;
    if synced {
        file.sync_all()?;
    }
    drop(file);
    if !in_place {
        fs::rename(&target, &path)?;
    }
    if synced {
        fs::File::open(path.parent().unwrap())?.sync_all()?;
    }
    Ok(())
}

fn version(random: &mut Random, side: usize, name: &str, number: u64) -> String {
    let mut text = format!("{} {number} {name} {:016x}\n", word(side), random.next());
    let pad = [0, 0, 200, 5_000, 60_000, 200_000][random.below(6) as usize];
    let line = format!("{:016x} and so on\n", random.next());
    while text.len() < pad {
        text.push_str(&line);
    }
    text
}

/// Works in a directory where nobody else does.
fn alone(desk: &Desk, side: usize, root: &Path, seed: u64) {
    let mut random = Random(seed.wrapping_mul(77) | 1);
    let home = word(side);
    fs::create_dir_all(root.join(home)).unwrap();
    let mut has: std::collections::BTreeMap<String, String> = Default::default();
    for number in 0.. {
        let guard = desk.step.read().unwrap();
        if desk.is_over() {
            return;
        }
        let name = format!("{home}/own-{seed}-{}", random.below(12));
        match (random.below(8), has.get(&name).cloned()) {
            (0, Some(version)) => {
                if fs::remove_file(root.join(&name)).is_ok() {
                    desk.note(side, Did::Deleted { name: name.clone(), version });
                    has.remove(&name);
                }
            }
            (1, Some(version)) => {
                let to = format!("{home}/own-{seed}-moved-{number}");
                if fs::rename(root.join(&name), root.join(&to)).is_ok() {
                    desk.note(side, Did::Renamed { from: name.clone(), to: to.clone(), version: version.clone() });
                    has.remove(&name);
                    has.insert(to, version);
                }
            }
            _ => {
                let version = version(&mut random, side, &name, number);
                let synced = random.below(3) == 0;
                if save(root, &name, &version, synced, random.below(4) == 0).is_ok() {
                    desk.note(side, Did::Saved { name: name.clone(), version: version.clone(), synced });
                    has.insert(name, version);
                }
            }
        }
        drop(guard);
        std::thread::sleep(Duration::from_millis(random.below(15)));
    }
}

/// Makes files for the other side's user, each once.
fn hand_over(desk: &Desk, side: usize, root: &Path, seed: u64) {
    let mut random = Random(seed.wrapping_mul(99) | 1);
    fs::create_dir_all(root.join("desk")).unwrap();
    for number in 0.. {
        let guard = desk.step.read().unwrap();
        if desk.is_over() {
            return;
        }
        let name = format!("desk/from-{}-{seed}-{number}", word(side));
        let version = version(&mut random, side, &name, number);
        let synced = random.below(2) == 0;
        // Before it is there: the other side's user may be quicker with his note than this one.
        desk.note(side, Did::Saved { name: name.clone(), version: version.clone(), synced });
        save(root, &name, &version, synced, false).unwrap();
        drop(guard);
        std::thread::sleep(Duration::from_millis(5 + random.below(60)));
    }
}

/// Takes up what comes from the other side, the moment that it is there: it is his from then on.
fn take_up(desk: &Desk, side: usize, root: &Path, seed: u64) {
    let mut random = Random(seed.wrapping_mul(55) | 1);
    let other = format!("from-{}-{}-", word(1 - side), seed - 20 + 10 + 1 - 2 * side as u64);
    let mut done = std::collections::BTreeSet::new();
    while !desk.is_over() {
        let names = fs::read_dir(root.join("desk")).map(|d| d.flatten().map(|e| e.file_name()).collect::<Vec<_>>());
        for name in names.unwrap_or_default() {
            let name = name.to_string_lossy().into_owned();
            if !name.starts_with(&other) || name.contains('(') || name.contains("-kept") || !done.insert(name.clone()) {
                continue;
            }
            let _guard = desk.step.read().unwrap();
            if desk.is_over() {
                return;
            }
            let path = format!("desk/{name}");
            let Ok(found) = fs::read_to_string(root.join(&path)) else { continue };
            match random.below(4) {
                0 if fs::remove_file(root.join(&path)).is_ok() => {
                    desk.note(side, Did::Deleted { name: path, version: found });
                }
                1 => {
                    let to = format!("{path}-kept");
                    if fs::rename(root.join(&path), root.join(&to)).is_ok() {
                        desk.note(side, Did::Renamed { from: path, to, version: found });
                    }
                }
                2 => {
                    let version = version(&mut random, side, &path, done.len() as u64);
                    let synced = random.below(2) == 0;
                    if save(root, &path, &version, synced, false).is_ok() {
                        desk.note(side, Did::Deleted { name: String::new(), version: found });
                        desk.note(side, Did::Saved { name: path, version, synced });
                    }
                }
                _ => {}
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
