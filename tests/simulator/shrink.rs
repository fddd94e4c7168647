//! Makes a failing history short: leaves out whatever is not needed for the failure.

use std::time::{Duration, Instant};

use psync::model::Side;

use crate::history::{Build, History, play};
use crate::model_disk::state::Features;
use crate::plan::Act;

/// The shortest history found within `limit` that fails in the same way.
pub fn shrink(history: &History, build: Build, limit: Duration) -> History {
    let end = Instant::now() + limit;
    let Some(kind) = play(history, build, false).kind().map(str::to_string) else { return history.clone() };
    let fails = |candidate: &History| {
        Instant::now() < end && play(candidate, build, false).kind().is_some_and(|other| other == kind)
    };
    let mut best = history.clone();
    loop {
        let before = size(&best);
        for candidate_of in [leave_out, shorten, simplify] {
            let mut at = 0;
            while let Some(candidate) = candidate_of(&best, at) {
                if size(&candidate) < size(&best) && fails(&candidate) {
                    best = candidate;
                } else {
                    at += 1;
                }
            }
        }
        if size(&best) == before || Instant::now() >= end {
            return best;
        }
    }
}

fn size(history: &History) -> u64 {
    let calls = |act: &Act| match act {
        Act::User(task) => 100 * task.calls.len() as u64 + task.pace.min(50) + 100,
        Act::Fault(_) => 150,
    };
    let items: u64 = history.phases.iter().flatten().map(|item| calls(&item.act) + (item.at > 0) as u64).sum();
    let before: u64 = history.before.iter().map(|task| 100 * task.calls.len() as u64).sum();
    let plain = format!("{:?}", Features::default());
    let odd = history.features.values().map(|features| (format!("{features:?}") != plain) as u64 * 100).sum::<u64>();
    items + before + odd + 50 * history.phases.len() as u64
}

/// The history without its `at`th part: a phase, a task, a fault, features.
fn leave_out(history: &History, at: usize) -> Option<History> {
    let mut out = history.clone();
    let mut at = at;
    if at < out.phases.len() {
        out.phases.remove(at);
        return Some(out);
    }
    at -= out.phases.len();
    if at < 2 {
        out.features[Side::BOTH[at]] = Features::default();
        return Some(out);
    }
    at -= 2;
    if at < out.before.len() {
        out.before.remove(at);
        return Some(out);
    }
    at -= out.before.len();
    for phase in &mut out.phases {
        if at < phase.len() {
            phase.remove(at);
            return Some(out);
        }
        at -= phase.len();
    }
    None
}

/// The history without the `at`th call of all tasks.
fn shorten(history: &History, at: usize) -> Option<History> {
    let mut out = history.clone();
    let mut at = at;
    let tasks = out.before.iter_mut().chain(out.phases.iter_mut().flatten().filter_map(|item| match &mut item.act {
        Act::User(task) => Some(task),
        Act::Fault(_) => None,
    }));
    for task in tasks {
        if at < task.calls.len() {
            task.calls.remove(at);
            return Some(out);
        }
        at -= task.calls.len();
    }
    None
}

/// The history with its `at`th item at once, or at no pace.
fn simplify(history: &History, at: usize) -> Option<History> {
    let mut out = history.clone();
    let items: usize = out.phases.iter().map(Vec::len).sum();
    let item = out.phases.iter_mut().flatten().nth(at % items.max(1))?;
    match (at / items, &mut item.act) {
        (0, Act::User(task)) => task.pace = 0,
        (0, Act::Fault(_)) => {}
        (1, _) => item.at = 0,
        _ => return None,
    }
    out.phases.iter_mut().for_each(|phase| phase.sort_by_key(|item| item.at));
    Some(out)
}
