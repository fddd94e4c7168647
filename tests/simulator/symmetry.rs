//! Invariant 10: what users do on the left and on the right may change places, and so does the result.
//!
//! Users act before psync comes, and once more while it is stopped; so nothing depends on who was faster. Left out is what
//! the rules decide by the side: attributes of both, times that are equal. In one history of three both sides rename. The
//! left's name wins then, so the names may differ; but each object must be there as often, with the same contents.

use std::rc::Rc;

use psync::model::{Kind, RelPath, Side, Sides};

use crate::driver::{Pair, RealPair};
use crate::history::{History, begin, run_phase, stage};
use crate::oracle::{Tree, tree};
use crate::plan::{Act, Stage};
use crate::users::{Call, Running, Task};

/// Users act again at this moment, in milliseconds, however long the first meeting took: times are the same then.
const STOPPED_AT: u64 = 100 * 60 * 60 * 1000;

/// The tasks that are free of what the side decides; renames happen on one side only, or on both.
fn fair(tasks: impl Iterator<Item = Task>, mover: Option<Side>) -> Vec<Task> {
    let keep = |side: Side, call: &Call| match call {
        Call::Rename(..) => mover.is_none_or(|mover| mover == side),
        // Links have no times: two of them are a tie.
        Call::Symlink(..) => mover == Some(side),
        Call::Chmod(..)
        | Call::Chown(..)
        | Call::Utimes(..)
        | Call::SetXattr(..)
        | Call::SetCapability(_)
        | Call::Link(..) => false,
        Call::Mkfifo(_) => false,
        _ => true,
    };
    let tasks = tasks.map(|task| {
        let calls = task.calls.into_iter().filter(|call| keep(task.side, call)).collect();
        Task { calls, ..task }
    });
    tasks.collect()
}

fn act(stage: &Stage, tasks: &[Task], swap: bool) {
    for task in tasks {
        let side = if swap { task.side.other() } else { task.side };
        let task = Task { side, ..task.clone() };
        Running::new(task, 0).advance(&stage.disks, 0, true, &mut Vec::new());
    }
}

/// The trees in the end, first that of the side where the history's left users were.
fn trees(history: &History, tasks: &[Vec<Task>; 2], swap: bool) -> Result<Sides<Tree>, String> {
    let stage = stage(history, false);
    act(&stage, &tasks[0], swap);
    begin(&stage);
    let mut pair = RealPair::new(stage.clone());
    settle(&stage, &mut pair, history)?;
    drop(pair);
    stage.world.advance_to(STOPPED_AT);
    act(&stage, &tasks[1], swap);
    stage.world.advance(10_000_000_000);
    let mut pair = RealPair::new(stage.clone());
    settle(&stage, &mut pair, history)?;
    stage.world.set_hook(None);
    let (left, right) = stage.disks.as_ref().map(tree).split();
    Ok(if swap { Sides::new(renamed(right), renamed(left)) } else { Sides::new(left, right) })
}

fn settle(stage: &Rc<Stage>, pair: &mut dyn Pair, history: &History) -> Result<(), String> {
    stage.load(&[]);
    run_phase(stage, pair, history.profile)
}

/// Conflict copies name the loser's side.
fn renamed(tree: Tree) -> Tree {
    let other = |path: RelPath| {
        let text = String::from_utf8_lossy(path.as_bytes()).into_owned();
        let text = text.replace("(conflict left ", "(conflict \0 ").replace("(conflict right ", "(conflict left ");
        RelPath::new(text.replace("(conflict \0 ", "(conflict right ").as_bytes()).expect("a path")
    };
    tree.into_iter().map(|(path, view)| (other(path), view)).collect()
}

/// The first history among so many whose result depends on the side.
pub fn first_difference(seeds: std::ops::Range<u64>) -> Option<String> {
    let plain = |history: &History| history.profile == crate::history::Profile::default();
    for (seed, history) in seeds.map(|seed| (seed, History::of(seed))).filter(|(_, history)| plain(history)) {
        let mover = [Some(Side::Left), Some(Side::Right), None][(seed % 3) as usize];
        let users = history.phases.iter().flatten().filter_map(|item| match &item.act {
            Act::User(task) => Some(task.clone()),
            Act::Fault(_) => None,
        });
        let tasks = [fair(history.before.iter().cloned(), mover), fair(users, mover)];
        let [plain, swapped] = [false, true].map(|swap| trees(&history, &tasks, swap));
        let differs = match (&plain, &swapped) {
            (Ok(plain), Ok(swapped)) if plain == swapped => continue,
            (Ok(plain), Ok(swapped))
                if mover.is_none()
                    && Side::BOTH.into_iter().all(|side| files(&plain[side]) == files(&swapped[side])) =>
            {
                continue;
            }
            (Ok(plain), Ok(swapped)) => Side::BOTH.map(|side| difference(&plain[side], &swapped[side])).concat(),
            (Err(error), _) | (_, Err(error)) => error.clone(),
        };
        return Some(format!("seed {seed}: {differs}\n{tasks:#?}"));
    }
    None
}

/// What lies in a tree, under whatever names.
fn files(tree: &Tree) -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> =
        tree.values().filter(|view| view.kind == Some(Kind::File)).map(|view| view.contents.clone()).collect();
    all.sort();
    all
}

fn difference(one: &Tree, other: &Tree) -> String {
    let all = one.keys().chain(other.keys());
    let differing = all.filter(|path| one.get(*path) != other.get(*path));
    differing.map(|path| format!("{path}: {:?} / {:?}\n", one.get(path), other.get(path))).collect()
}
