//! The guards against mass deletion, in the model: users of one side clear it out, soon after the first sync, and either the
//! brain has no guard and passes on every deletion, or the side that removes has none.
//!
//! The oracle's rule: without an administrator's word no more than [`MOST`] of the objects that lay on the other side before, be
//! it for a moment, go within ten minutes.

use std::collections::HashSet;

use psync::model::guard::Limit;
use psync::model::{RelPath, Side, Sides};

use crate::choice::Choices;
use crate::history::{History, Profile};
use crate::model_disk::state::ROOT;
use crate::plan::{Act, Fault, Item, Stage};
use crate::users::{Call, Maker, Task};

/// One seed of so many, the one with this rest, is such a history.
const EVERY: u64 = 53;
const REST: u64 = 9;
/// How many old objects may go.
pub const MOST: u64 = 4;

/// Who counts deletions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counts {
    Brain,
    /// The side that removes.
    Side,
}

/// The limits of the brain and of the sides.
pub fn limits(profile: Profile) -> (Limit, Limit) {
    let usual = Limit::Share { percent: 50, at_least: 100 };
    match profile.clearing {
        Some(Counts::Brain) => (Limit::Number(MOST), Limit::Off),
        Some(Counts::Side) => (Limit::Off, Limit::Number(MOST)),
        None => (usual, usual),
    }
}

/// What of a side is not to go.
#[derive(Default)]
pub struct Old {
    files: Sides<HashSet<Vec<u8>>>,
    /// Users of this side remove.
    removing: Sides<bool>,
    accepted: bool,
}

impl Old {
    /// A phase begins: what lies there now is old.
    pub fn begin(&mut self, stage: &Stage, items: &[Item]) {
        self.accepted = false;
        self.files = Sides::from_fn(|side| visible(stage, side));
        self.removing =
            Sides::from_fn(|side| items.iter().any(|item| matches!(&item.act, Act::User(task) if task.side == side)));
    }

    /// The administrator takes what comes.
    pub fn accept(&mut self) {
        self.accepted = true;
    }

    pub fn check(&self, stage: &Stage) {
        for side in Side::BOTH {
            if self.accepted || self.removing[side] || self.files[side].is_empty() {
                continue;
            }
            let gone = self.files[side].difference(&visible(stage, side)).count();
            if gone as u64 > MOST {
                stage.world.violation(format!("cleared: {gone} old files went on the {} without a word", side.word()));
            }
        }
    }
}

fn visible(stage: &Stage, side: Side) -> HashSet<Vec<u8>> {
    let mut files = Vec::new();
    stage.disk(side).state().files_below(ROOT, &mut files);
    files.into_iter().map(|(_, contents)| contents).filter(|contents| !contents.is_empty()).collect()
}

/// Whether a seed's history is one of somebody who clears out.
pub fn is_clearing(seed: u64) -> bool {
    seed % EVERY == REST
}

/// A tree that both sides have had for a while, and users of one side who remove much of it in many ways.
pub fn history(seed: u64, choices: &Choices) -> History {
    let counts = if choices.one_in(2) { Counts::Brain } else { Counts::Side };
    let profile = Profile { clearing: Some(counts), events: choices.one_in(3), ..Profile::default() };
    let mut value = 0;
    let mut maker = Maker { choices, value: &mut value, unique_sizes: true, home: None };
    let mut before = Vec::new();
    for dir in DIRS {
        let side = *choices.pick(&Side::BOTH);
        let mut calls = vec![Call::Mkdir(path(dir))];
        for name in NAMES {
            calls.extend(maker.write_calls(&path(&format!("{dir}/{name}")), true));
        }
        before.push(Task { side, pace: 0, calls });
    }
    let side = *choices.pick(&Side::BOTH);
    let mut at = 0;
    let removing = (0..3 + choices.below(8)).map(|_| {
        at += *choices.pick(&[0, 1, 20, 300, 1_000_000]);
        let act = match choices.below(10) {
            0 if profile.events => Act::Fault(Fault::LoseEvents(side)),
            1 if profile.events => Act::Fault(Fault::DoubleEvents(side)),
            _ => Act::User(task(choices, side, &mut maker, counts)),
        };
        Item { at, act }
    });
    let phases = vec![Vec::new(), removing.collect()];
    History { schedule: seed ^ 0x5eed, profile, features: Default::default(), before, phases }
}

const DIRS: [&str; 3] = ["d", "e", "d/in"];
const NAMES: [&str; 3] = ["a", "b", "c"];

fn path(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).expect("a name")
}

fn task(choices: &Choices, side: Side, maker: &mut Maker, counts: Counts) -> Task {
    let file = || path(&format!("{}/{}", choices.pick(&DIRS), choices.pick(&NAMES)));
    let dir = path(choices.pick::<&str>(&DIRS));
    let calls = match choices.below(8) {
        0 | 1 => vec![Call::RemoveAll(dir)],
        // One of the two is left: only the side that removes counts that.
        4 if counts == Counts::Side => vec![Call::Rename(file(), file())],
        2..=4 => vec![Call::Unlink(file())],
        5 => vec![Call::Rename(dir, path("f")), Call::RemoveAll(path("f"))],
        6 => maker.write_calls(&path("new"), true),
        _ => DIRS.map(path).map(Call::RemoveAll).to_vec(),
    };
    Task { side, pace: *choices.pick(&[0, 1, 10]), calls }
}
