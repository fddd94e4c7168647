//! Histories of a disk that is full, of bytes or of inodes: users go on working on the side that has room, and nothing helps before they have done.
//!
//! The rule: what was deleted there is gone on the full side too, though nothing new fits; and what does not fit is not sent
//! over and over. What was moved to where nothing fits stays where it was: it is all that the full side has of it.

use psync::model::{RelPath, Side};

use crate::choice::Choices;
use crate::history::{History, Profile};
use crate::oracle::tree;
use crate::plan::{Act, Fault, Item, Stage};
use crate::users::{Call, Maker, Task};

/// One seed of so many, the one with this rest, is such a history.
const EVERY: u64 = 32;
const REST: u64 = 13;
/// Contents of one path are asked for so often at most before its user saves it again. Within the 20 minutes in which nothing
/// happens that is about a dozen; saves add some, and what is deleted makes room, with which the tries begin anew.
const SENT_MAX: u32 = 40;

pub fn is_full(seed: u64) -> bool {
    seed % EVERY == REST
}

/// In every third of them there is room for bytes, and no inode is free.
fn lacks_inodes(seed: u64) -> bool {
    seed / EVERY % 3 == 1
}

pub fn history(seed: u64, choices: &Choices) -> History {
    let full = if choices.one_in(2) { Side::Left } else { Side::Right };
    let side = full.other();
    let profile = Profile { one_sided: side == Side::Left, full: Some(full), ..Profile::default() };
    let mut value = 0;
    let mut maker = Maker { choices, value: &mut value, unique_sizes: true, home: None };
    let before = (0..4 + choices.below(8)).map(|_| Task { pace: 0, ..maker.task(side) }).collect();
    maker.unique_sizes = false;
    let lack = if lacks_inodes(seed) { Fault::NoInodes(full, true) } else { Fault::Full(full, true) };
    let mut items = vec![Item { at: 0, act: Act::Fault(lack) }];
    let mut at = 0;
    for _ in 0..2 + choices.below(10) {
        at += *choices.pick(&[0, 3, 60, 600, 1_000_000]);
        let task = match choices.below(3) {
            0 => Task { side, pace: 0, calls: vec![Call::RemoveAll(maker.path())] },
            _ => maker.task(side),
        };
        items.push(Item { at, act: Act::User(task) });
    }
    let work = (0..choices.below(6)).map(|n| Item { at: n * 50, act: Act::User(maker.task(side)) }).collect();
    History { schedule: seed ^ 0x5eed, profile, features: Default::default(), before, phases: vec![work, items] }
}

/// What must hold while the disk is full still, and nothing has happened for a long time.
pub fn check(stage: &Stage, full: Side) -> Result<(), String> {
    let [kept, there] = [full, full.other()].map(|side| tree(stage.disk(side)));
    // What is of no kind that travels hides what lay there before, full or not.
    let hides = |path: &RelPath| there.get(path).is_some_and(|view| view.kind.is_none());
    let mut oracle = stage.oracle.borrow_mut();
    oracle.learn(&stage.world);
    let fits_nowhere = |path: &RelPath| {
        oracle.later_names(path).iter().any(|name| there.contains_key(name) && !kept.contains_key(name))
    };
    let holds = |path: &RelPath| kept.keys().any(|below| below.is_within(path) && fits_nowhere(below));
    let stays =
        |path: &&RelPath| !there.contains_key(*path) && !path.ancestors().any(|above| hides(&above)) && !holds(path);
    if let Some(path) = kept.keys().find(stays) {
        return Err(format!("kept: {path} was deleted, and is still there on the full {} side", full.word()));
    }
    match stage.supplied.borrow().iter().find(|(_, times)| **times > SENT_MAX) {
        Some((path, times)) => Err(format!("sent again: {path} was asked for {times} times, and nothing fits")),
        None => Ok(()),
    }
}
