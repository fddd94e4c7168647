//! A round: what both sides' scans found, until it is dealt with, and the word that both sides are equal.
//!
//! Users never rest on some trees. So neither a full sync nor a one-time run waits for a moment at which nothing is left:
//! a round is over once each path that was known to differ when the scans had ended was carried over, has a problem, or was
//! tried [`TRIES`] times in vain; and a moment of rest, which is the usual end, is waited for [`REST`] longer at most.
//!
//! In a one-time run a path that was dealt with as often, and differs again, has a problem: nothing more is begun there.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Millis, NodeId, Problem, ProblemKind, RelPath, Side, Sides};
use crate::protocol::{Change, Request};

use super::{Engine, News, SideState};

/// Actions on one path, or questions for its contents, after which a round does not wait for it any more.
const TRIES: u32 = 8;
/// What is refused only proves to be changing after so long: where the clock of a file system has whole seconds, a file that was just
/// written is refused until the next write would show in its times.
const UNSETTLED: Millis = 4_000;
/// A moment at which nothing is left is waited for at most so long once the round is over, in milliseconds.
const REST: Millis = 10_000;
/// Paths whose tries are counted. Of more the end of the round alone is the bound.
const COUNTED: usize = 50_000;

/// The question whether anything is left to look at.
#[derive(Debug)]
pub(super) struct Settling {
    pub number: u64,
    /// Which side said no.
    pub answered: Sides<bool>,
    /// Something came up since: the answer counts for nothing.
    pub void: bool,
}

/// How far a round is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// A side is being scanned.
    #[default]
    Scanning,
    /// The sides are asked whether the scans left them something to look at: the question's number, and who has none.
    Asking(u64, Sides<bool>),
    /// What differed then is being dealt with.
    Closing,
    /// All of that was dealt with at this time.
    Over(Millis),
    /// Its end was told.
    Told,
}

/// What the scans found, as far as it is open.
#[derive(Debug, Default)]
pub(super) struct Round {
    stage: Stage,
    open: BTreeSet<RelPath>,
    /// How often each path was tried since both sides were scanned.
    tries: BTreeMap<RelPath, Tries>,
    /// In a one-time run: nothing more is begun there.
    restless: BTreeSet<RelPath>,
}

#[derive(Debug, Default)]
struct Tries {
    /// Those that were not refused.
    number: u32,
    refused: u32,
    first_refused: Option<Millis>,
    over: bool,
}

impl Round {
    /// Both sides are to be scanned.
    pub fn begin(&mut self) {
        *self = Round::default();
    }

    fn asked(&mut self, number: u64) {
        self.stage = Stage::Asking(number, Sides::both(false));
    }

    /// A side has nothing left to look at, or does not come to rest. True if both have said so.
    pub fn answer(&mut self, side: Side, number: u64) -> bool {
        let Stage::Asking(asked, answered) = &mut self.stage else { return false };
        if *asked == number {
            answered[side] = true;
        }
        *answered == Sides::both(true)
    }

    fn close(&mut self, open: BTreeSet<RelPath>) {
        (self.stage, self.open) = (Stage::Closing, open);
    }

    /// What was found at a path is on both sides.
    pub fn dealt_with(&mut self, path: &RelPath) {
        self.open.remove(path);
    }

    /// One more try at this path is over, refused at this time if there is one. True if it is the last one that a round waits for.
    fn count(&mut self, path: &RelPath, refused: Option<Millis>) -> bool {
        if matches!(self.stage, Stage::Scanning) || self.tries.len() >= COUNTED && !self.tries.contains_key(path) {
            return false;
        }
        let tries = self.tries.entry(path.clone()).or_default();
        let enough = match refused {
            None => {
                tries.number += 1;
                tries.number >= TRIES
            }
            Some(now) => {
                tries.refused += 1;
                let first = *tries.first_refused.get_or_insert(now);
                tries.refused >= TRIES && now >= first + UNSETTLED
            }
        };
        let last = enough && !tries.over;
        tries.over |= last;
        last
    }

    /// Whether nothing more is begun at this very path.
    pub fn is_restless(&self, path: &RelPath) -> bool {
        self.restless.contains(path)
    }

    /// When an end is to be told that nobody's word brings.
    pub fn due(&self) -> Option<Millis> {
        if let Stage::Over(since) = self.stage { Some(since + REST) } else { None }
    }
}

impl Engine {
    /// Goes on with the round, as far as it is by now.
    pub(super) fn go_round(&mut self, now: Millis) {
        let scanning = self.scan_wanted.is_some() || self.sides.values().any(|side| side.cursor.is_some());
        match self.round.stage {
            Stage::Scanning if !scanning && !self.paused => {
                let number = self.ping_both();
                self.round.asked(number);
            }
            Stage::Closing => {
                while let Some(path) = self.round.open.first()
                    && !self.is_open(path)
                {
                    self.round.open.pop_first();
                }
                if self.round.open.is_empty() {
                    self.round.stage = Stage::Over(now);
                }
            }
            Stage::Over(since) if now >= since + REST && !self.paused => {
                self.round.stage = Stage::Told;
                let left = self.sides.values().flat_map(|side| side.pending.values());
                let left = left.filter(|pending| !self.is_stuck(&pending.change)).count() + self.flights.len();
                let (files, bytes) = self.holds;
                self.tell(News::RoundOver { left: left as u64, files, bytes });
                // Where users never rest a first sync is over all the same. What was accepted waits until both are equal.
                if !self.settled && !self.accept {
                    self.say_settled();
                }
            }
            _ => {}
        }
    }

    /// A side answered a question whether anything is left to look at.
    pub(super) fn answer_round(&mut self, side: Side, number: u64) {
        if self.round.answer(side, number) {
            let pending = self.sides.values().flat_map(|side| side.pending.keys().chain(&side.asked));
            let open = pending.chain(self.locks.held()).cloned().collect();
            self.round.close(open);
        }
    }

    /// Whether what the scans found at this path is still to be dealt with.
    fn is_open(&self, path: &RelPath) -> bool {
        let waits = |side: &SideState| {
            side.pending.get(path).is_some_and(|pending| !self.is_stuck(&pending.change)) || side.asked.contains(path)
        };
        self.locks.holds(path) || self.sides.values().any(waits)
    }

    /// A try at this path is over, whatever came of it (`refused`: when it was refused). If there were too many of them the round goes
    /// on without it.
    pub(super) fn count_try(&mut self, side: Side, path: &RelPath, refused: Option<Millis>) {
        // A pair that goes on counts for its rounds alone.
        if !self.settings.once && self.round.stage == Stage::Told || !self.round.count(path, refused) {
            return;
        }
        self.round.dealt_with(path);
        if self.settings.once && self.round.restless.insert(path.clone()) {
            let detail = "it changes all the time, and is left as it is; the next run tries again".to_owned();
            let problem = Problem { path: path.clone(), kind: ProblemKind::Busy, detail };
            self.tell(News::Problem { side, path: path.clone(), problem: Some(problem) });
        }
    }

    fn ping_both(&mut self) -> u64 {
        self.pings += 1;
        let number = self.pings;
        for side in Side::BOTH {
            self.send(side, Request::Ping { number });
        }
        number
    }

    pub(super) fn tell_in_sync(&mut self) {
        let quiet = self.flights.is_empty()
            && self.dir_times.is_empty()
            && self.sides.values().all(|s| s.cursor.is_none() && s.asked.is_empty())
            && self.sides.values().all(|s| s.pending.values().all(|pending| self.is_stuck(&pending.change)));
        if !quiet || self.in_sync || self.paused || self.scan_wanted.is_some() {
            if let Some(asked) = &mut self.settling {
                asked.void = true;
            }
            return;
        }
        // Nothing is known to be left; the sides may still have something to look at. One question at a time: a side keeps the last
        // ones only, and one that is asked again and again would never answer what somebody else waits for.
        let asked = self.settling.as_ref().filter(|asked| !(asked.void && asked.answered == Sides::both(true)));
        let Some(answered) = asked.map(|asked| asked.answered) else {
            let number = self.ping_both();
            self.settling = Some(Settling { number, answered: Sides::both(false), void: false });
            return;
        };
        if answered == Sides::both(true) {
            self.settling = None;
            self.in_sync = true;
            self.round.stage = Stage::Told;
            self.first = false;
            self.made.clear();
            let is_left = |node: NodeId| {
                let known = self.sides.values().flat_map(|side| side.pending.values());
                known.filter_map(|pending| pending.change.known.as_ref()).any(|known| known.node == node)
            };
            let left: BTreeMap<_, _> =
                self.halves.iter().map(|(at, node)| (*at, *node)).filter(|(_, node)| is_left(*node)).collect();
            self.halves = left;
            // What was accepted has been dealt with, and a first sync is over.
            if std::mem::take(&mut self.accept) || !self.settled {
                self.say_settled();
            }
            let (files, bytes) = self.holds;
            self.tell(News::InSync { files, bytes });
        }
    }

    fn say_settled(&mut self) {
        self.settled = true;
        Side::BOTH.into_iter().for_each(|side| self.send(side, Request::Settled));
    }

    /// Whether a change waits for a problem to end: that of its path, or of the name to which its object was moved.
    pub(super) fn is_stuck(&self, change: &Change) -> bool {
        let moved_to = |side: Side| {
            let known = change.known.as_ref().filter(|_| change.after.is_none())?;
            self.places.of(side, known.node).map(|place| &place.path)
        };
        self.has_problem(&change.path) || Side::BOTH.into_iter().filter_map(moved_to).any(|path| self.has_problem(path))
    }

    /// Whether a path waits for its problem to end, or for that of a directory that it lies in.
    pub(super) fn has_problem(&self, path: &RelPath) -> bool {
        let among = |problems: &BTreeSet<RelPath>| {
            problems.contains(path) || !problems.is_empty() && path.ancestors().any(|p| problems.contains(&p))
        };
        among(&self.round.restless) || self.sides.values().any(|side| among(&side.problems))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).expect("a path")
    }

    #[test]
    fn a_round_counts_after_the_scans_and_each_path_for_itself() {
        let mut round = Round::default();
        assert!((0..2 * TRIES).all(|_| !round.count(&path("a"), None)), "the scans go on");
        round.asked(7);
        assert!(!round.answer(Side::Left, 6) && !round.answer(Side::Left, 7) && !round.answer(Side::Left, 7));
        assert!(round.answer(Side::Right, 7));
        round.close(BTreeSet::from([path("a"), path("b")]));
        let last: Vec<u32> = (1..2 * TRIES).filter(|_| round.count(&path("a"), None)).collect();
        assert_eq!((last, round.count(&path("b"), None)), (vec![TRIES], false));
        // What is refused in an instant may be too young to be proven.
        let young = (0..4 * TRIES).any(|n| round.count(&path("c"), Some(1_000 + u64::from(n))));
        assert!(!young && !round.count(&path("c"), None) && round.count(&path("c"), Some(1_000 + UNSETTLED)));
        round.begin();
        assert_eq!((round.stage, round.due(), round.open.len()), (Stage::Scanning, None, 0));
    }
}
