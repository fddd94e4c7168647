//! Histories of users who work in a few directories on both sides, and give them other times.
//!
//! The rule: at rest a directory has one time on both sides. Where the users of one side alone did something in it, that is the
//! time at which they did so last, or that they gave it; where both did, a time of one of them; and where nobody did, the one
//! that it had. What a process that is killed leaves behind need be equal only.

use std::collections::{BTreeMap, BTreeSet};

use psync::model::{Kind, RelPath, Side, Sides, Time};

use crate::choice::Choices;
use crate::history::{History, Profile};
use crate::model_disk::ModelDisk;
use crate::model_disk::state::Features;
use crate::oracle::tree;
use crate::plan::{Act, Fault, Item, Stage};
use crate::users::{Call, Maker, Task};

/// Seeds from here on are such histories.
pub const TIMED: u64 = 1 << 41;

const DIRS: [&str; 4] = ["d", "d/in", "e", "f"];

/// The times that users of each side gave directories since the last rest, and those that they had then.
#[derive(Debug, Default)]
pub struct Given {
    times: BTreeMap<RelPath, Sides<Vec<Time>>>,
    rested: BTreeMap<RelPath, Time>,
    /// Directories in which a file was written: psync changes names there on the other side, and what a user does between two of
    /// its calls cannot be told from that.
    written: BTreeSet<RelPath>,
    /// Directories that users removed since: one that comes back from the other side may have been psync's own there, of which
    /// its users' time had not come yet.
    removed: BTreeSet<RelPath>,
}

impl Given {
    /// A user of this side gave the directory at this path a time, by working in it or otherwise.
    pub fn note(&mut self, side: Side, path: RelPath, time: Time) {
        self.times.entry(path).or_default()[side].push(time);
    }

    /// A user wrote a file in the directory at this path.
    pub fn write(&mut self, path: RelPath) {
        self.written.insert(path);
    }

    /// A user removed a directory.
    pub fn remove(&mut self, path: RelPath) {
        self.removed.insert(path);
    }

    /// What users do there from now on they do to another directory.
    pub fn begin(&mut self, side: Side, path: &RelPath) {
        self.times.entry(path.clone()).or_default()[side].clear();
        self.rested.remove(path);
    }
}

pub fn history(seed: u64, choices: &Choices) -> History {
    let (crashes, events) = (choices.one_in(4), choices.one_in(4));
    let profile = Profile { timed: true, crashes, events, features: choices.one_in(4), ..Profile::default() };
    let features = Sides::from_fn(|_| Features {
        whole_seconds: profile.features && choices.one_in(2),
        coarse_clock: profile.features && choices.one_in(2),
        ..Features::default()
    });
    let maker = &mut Maker { choices, value: &mut 0, unique_sizes: true, home: None };
    let mut before: Vec<Task> = Vec::new();
    for side in Side::BOTH {
        let mut calls: Vec<Call> =
            DIRS.iter().filter(|_| choices.one_in(2)).map(|dir| Call::Mkdir(path(dir))).collect();
        calls.extend(dirs_time(choices));
        before.push(Task { side, pace: 0, calls });
    }
    let phases = (0..1 + choices.below(3)).map(|_| phase(profile, maker)).collect();
    History { schedule: seed ^ 0x5eed, profile, features, before, phases }
}

fn path(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).expect("a short name")
}

/// A user gives a directory an earlier time.
fn dirs_time(choices: &Choices) -> Option<Call> {
    let time = Time { secs: 1_500_000_000 + choices.below(1000) as i64, nanos: choices.below(999) as u32 };
    choices.one_in(2).then(|| Call::Utimes(path(choices.pick::<&str>(&DIRS)), time))
}

fn phase(profile: Profile, maker: &mut Maker) -> Vec<Item> {
    let choices = maker.choices;
    let mut at = 0;
    (0..1 + choices.below(10))
        .map(|_| {
            at += *choices.pick(&[0, 0, 1, 3, 20, 60, 100, 300, 1_000_000]);
            let side = if choices.one_in(2) { Side::Left } else { Side::Right };
            let act = match choices.below(14) {
                0 if profile.crashes => Act::Fault(Fault::Crash(side)),
                1 if profile.crashes => Act::Fault(Fault::LinkCut),
                2 if profile.events => Act::Fault(Fault::LoseEvents(side)),
                3 if profile.events => Act::Fault(Fault::Delay(choices.below(2_000))),
                _ => Act::User(Task { side, pace: *choices.pick(&[0, 0, 1, 10]), calls: calls(side, maker) }),
            };
            Item { at, act }
        })
        .collect()
}

fn calls(side: Side, maker: &mut Maker) -> Vec<Call> {
    let choices = maker.choices;
    let dir = path(choices.pick::<&str>(&DIRS));
    // Files of the users of one side alone: who meets another's contents meets a conflict, and that has a rule of its own.
    let names = Sides::new(["l", "m"], ["r", "s"])[side];
    let file = |dir: &RelPath| path(&format!("{dir}/{}", choices.pick::<&str>(&names)));
    match choices.below(12) {
        0..=3 => maker.write_calls(&file(&dir), true),
        4 | 5 => vec![Call::Unlink(file(&dir))],
        6 => vec![Call::Rename(file(&dir), file(&path(choices.pick::<&str>(&DIRS))))],
        7 => vec![Call::Mkdir(dir)],
        8 => vec![Call::RemoveAll(dir)],
        9 => vec![Call::Chmod(dir, *choices.pick(&[0o700, 0o755]))],
        _ => dirs_time(choices).into_iter().collect(),
    }
}

/// A directory's time, as both sides can hold it.
fn time_at(disk: &ModelDisk, path: &RelPath, whole: bool) -> Time {
    let state = disk.state();
    let time = state.resolve(path).map(|obj| state.inode(obj).meta.mtime).expect("it was listed");
    rounded(time, whole)
}

fn rounded(time: Time, whole: bool) -> Time {
    if whole { Time { nanos: 0, ..time } } else { time }
}

/// What users gave directories since the last check, when all has come to rest.
pub fn check(stage: &Stage, strictly: bool) {
    let trees = stage.disks.as_ref().map(tree);
    let whole = stage.disks.values().any(|disk| disk.state().features.whole_seconds);
    let given = std::mem::take(&mut *stage.world.given.borrow_mut());
    let mut rested = BTreeMap::new();
    for (path, _) in trees[Side::Left].iter().filter(|(_, view)| view.kind == Some(Kind::Dir)) {
        if trees[Side::Right].get(path).is_none_or(|view| view.kind != Some(Kind::Dir)) {
            continue;
        }
        let time = time_at(&stage.disks[Side::Left], path, whole);
        rested.insert(path.clone(), time);
        let (left, right) = given.times.get(path).cloned().unwrap_or_default().split();
        let fine = match (left.last(), right.last()) {
            _ if given.removed.iter().any(|removed| path.is_within(removed)) => true,
            (None, None) => given.rested.get(path).is_none_or(|before| *before == time),
            (Some(last), None) | (None, Some(last)) if !given.written.contains(path) => rounded(*last, whole) == time,
            _ => left.iter().chain(&right).chain(given.rested.get(path)).any(|given| rounded(*given, whole) == time),
        };
        if strictly && !fine {
            let before = given.rested.get(path);
            stage.world.violation(format!(
                "no user's time: {path} has {time:?}; users gave it {left:?} on the left, {right:?} on the right, before {before:?}"
            ));
        }
    }
    *stage.world.given.borrow_mut() = Given { rested, ..Given::default() };
}
