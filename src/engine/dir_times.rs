//! Which time a directory gets: what one side's users gave it, or the later of two.
//!
//! A time waits for nothing: psync's own work in a directory leaves its time as it was, so it makes no difference whether what
//! lies in it comes before or after. Each side tells a directory once, and not again before it has heard what becomes of it.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Generation, NodeId, Side, Sides, Time};
use crate::protocol::{
    DIR_TIMES_MAX, DirTime, DirTimeSet, DirTimeWord, NewDirTime, Request,
    sane::{self, Insane},
};

use super::{Engine, Phase};

/// Directories that a side has told at a time, at most: four messages, and as many again that crossed with an answer.
const TOLD_MAX: usize = 8 * DIR_TIMES_MAX;

/// A directory whose time is on its way.
#[derive(Debug, Default, Clone, Copy)]
struct Open {
    told: Sides<Option<Time>>,
    /// The side that was asked to set it, and the time.
    asked: Option<(Side, Time)>,
}

/// The directories whose times are on their way.
#[derive(Debug, Default)]
pub(super) struct DirTimes {
    open: BTreeMap<NodeId, Open>,
    /// How many of them each side has told.
    told: Sides<usize>,
    /// What is to be said to each side, once an input is dealt with.
    orders: Sides<Vec<NewDirTime>>,
    words: Sides<Vec<(NodeId, DirTimeWord)>>,
}

impl DirTimes {
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Whether nobody waits for a word about this directory.
    fn is_settled(&self, node: NodeId) -> bool {
        self.open.get(&node).is_none_or(|open| open.told == Sides::both(None))
    }

    /// A side told a directory's time.
    fn tell(&mut self, side: Side, node: NodeId, time: Time) {
        let told = &mut self.open.entry(node).or_default().told[side];
        self.told[side] += usize::from(told.is_none());
        *told = Some(time);
    }

    /// What a side told is dealt with: it hears this.
    fn answer(&mut self, side: Side, node: NodeId, word: DirTimeWord) {
        if self.forget(side, node) {
            self.words[side].push((node, word));
        }
    }

    /// The same, where the side knows it already.
    fn forget(&mut self, side: Side, node: NodeId) -> bool {
        let told = self.open.get_mut(&node).and_then(|open| open.told[side].take()).is_some();
        self.told[side] -= usize::from(told);
        told
    }

    /// Asks the side whose time is the earlier one, or which told none.
    fn decide(&mut self, node: NodeId) {
        let Some(open) = self.open.get_mut(&node).filter(|open| open.asked.is_none()) else { return };
        let (later, time) = match open.told.split() {
            (None, None) => {
                self.open.remove(&node);
                return;
            }
            (Some(left), Some(right)) if left == right => {
                Side::BOTH.into_iter().for_each(|side| self.answer(side, node, DirTimeWord::Agreed(left)));
                self.open.remove(&node);
                return;
            }
            (Some(left), Some(right)) if right > left => (Side::Right, right),
            (Some(left), _) => (Side::Left, left),
            (None, Some(right)) => (Side::Right, right),
        };
        let earlier = later.other();
        open.asked = Some((earlier, time));
        self.orders[earlier].push(NewDirTime { node, time, told: open.told[earlier] });
    }

    /// What the side that was asked has done.
    fn set(&mut self, side: Side, node: NodeId, outcome: DirTimeSet) {
        let Some(open) = self.open.get_mut(&node) else { return };
        let Some((_, time)) = open.asked.take_if(|(asked, _)| *asked == side) else { return };
        match outcome {
            DirTimeSet::Done => {
                self.forget(side, node);
                self.answer(side.other(), node, DirTimeWord::Agreed(time));
            }
            DirTimeSet::Gone => {
                self.forget(side, node);
                self.answer(side.other(), node, DirTimeWord::Gone);
            }
            DirTimeSet::Differs(now) => self.tell(side, node, now),
        }
    }
}

impl Engine {
    /// Users of a side gave directories other times.
    pub(super) fn hear_dir_times(&mut self, side: Side, times: &[DirTime]) {
        if self.phase != Phase::Running {
            return;
        }
        let skipped = self.settings.skip_initial && self.sides.values().any(|side| side.cursor.is_some());
        for DirTime { node, time } in times {
            self.dir_times.tell(side, *node, *time);
            if skipped {
                self.dir_times.answer(side, *node, DirTimeWord::Left);
            }
            if !self.paused {
                self.dir_times.decide(*node);
            }
        }
        self.in_sync = false;
    }

    /// What a side did with the times of the other one.
    pub(super) fn dir_times_set(&mut self, side: Side, outcomes: &[(NodeId, DirTimeSet)]) {
        for (node, outcome) in outcomes {
            self.dir_times.set(side, *node, *outcome);
            // One that nobody waits for any more goes; the others wait while nothing is to be done.
            if !self.paused || self.dir_times.is_settled(*node) {
                self.dir_times.decide(*node);
            }
        }
    }

    /// What waited while nothing was to be done goes on.
    pub(super) fn resume_dir_times(&mut self) {
        let open: Vec<NodeId> = self.dir_times.open.keys().copied().collect();
        open.into_iter().for_each(|node| self.dir_times.decide(node));
    }

    /// Says what the inputs have led to.
    pub(super) fn send_dir_times(&mut self) {
        for side in Side::BOTH {
            for times in std::mem::take(&mut self.dir_times.orders[side]).chunks(DIR_TIMES_MAX) {
                self.send(side, Request::SetDirTimes { times: times.to_vec() });
            }
            for times in std::mem::take(&mut self.dir_times.words[side]).chunks(DIR_TIMES_MAX) {
                self.send(side, Request::DirTimesAgreed { times: times.to_vec() });
            }
        }
    }

    /// Whether a side can have told these.
    pub(super) fn may_tell_dir_times(&self, side: Side, times: &[DirTime], next: Generation) -> Result<(), Insane> {
        sane::dir_times(times.iter().map(|of| (of.node, of.time)))?;
        if times.iter().any(|of| of.node >= next) {
            return Err("a directory's time of a node that nobody gave");
        }
        match self.dir_times.told[side] + times.len() > TOLD_MAX {
            true => Err("more directories' times than can wait"),
            false => Ok(()),
        }
    }

    /// Whether a side was asked for these.
    pub(super) fn may_have_set(&self, side: Side, outcomes: &[(NodeId, DirTimeSet)]) -> Result<(), Insane> {
        let time = |outcome: &DirTimeSet| if let DirTimeSet::Differs(time) = outcome { *time } else { Time::default() };
        sane::dir_times(outcomes.iter().map(|(node, outcome)| (*node, time(outcome))))?;
        let nodes: BTreeSet<NodeId> = outcomes.iter().map(|(node, _)| *node).collect();
        if nodes.len() < outcomes.len() {
            return Err("a directory's time twice");
        }
        let asked = |node| self.dir_times.open.get(node).and_then(|open| open.asked).is_some_and(|(of, _)| of == side);
        match outcomes.iter().all(|(node, _)| asked(node)) {
            true => Ok(()),
            false => Err("a directory's time that nobody asked for"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(secs: i64) -> Time {
        Time { secs, nanos: 5 }
    }

    /// What is to be said to the left and to the right, and how many have told something.
    fn said(times: &mut DirTimes) -> String {
        let mut words = Vec::new();
        for side in Side::BOTH {
            for NewDirTime { node, time, told } in std::mem::take(&mut times.orders[side]) {
                let told = told.map_or(String::new(), |told| format!(" for {}", told.secs));
                words.push(format!("{} {node}: set {}{told}", side.word(), time.secs));
            }
            for (node, word) in std::mem::take(&mut times.words[side]) {
                let agreed =
                    if let DirTimeWord::Agreed(time) = word { time.secs.to_string() } else { "nothing".to_owned() };
                words.push(format!("{} {node}: {agreed}", side.word()));
            }
        }
        assert_eq!(
            times.told.values().sum::<usize>(),
            times.open.values().flat_map(|open| open.told.into_values()).flatten().count()
        );
        words.join(", ")
    }

    fn heard(times: &mut DirTimes, side: Side, secs: i64) -> String {
        times.tell(side, 20, time(secs));
        times.decide(20);
        said(times)
    }

    fn answered(times: &mut DirTimes, side: Side, outcome: DirTimeSet) -> String {
        times.set(side, 20, outcome);
        times.decide(20);
        said(times)
    }

    #[test]
    fn what_one_side_told_is_set_on_the_other() {
        for (side, there) in [(Side::Left, "left"), (Side::Right, "right")] {
            let mut times = DirTimes::default();
            let other = side.other();
            // An earlier time than before as well: users put times back.
            assert_eq!(heard(&mut times, side, 7), format!("{} 20: set 7", other.word()));
            assert_eq!(answered(&mut times, other, DirTimeSet::Done), format!("{there} 20: 7"));
            assert!(times.is_empty());
            assert_eq!(heard(&mut times, side, 8), format!("{} 20: set 8", other.word()));
            assert_eq!(answered(&mut times, other, DirTimeSet::Gone), format!("{there} 20: nothing"));
            assert!(times.is_empty());
        }
    }

    #[test]
    fn of_two_the_later_one_counts() {
        // (left, right, what is said, what is said in the end)
        let cases = [
            (5, 9, "left 20: set 9 for 5", "right 20: 9"),
            (9, 5, "right 20: set 9 for 5", "left 20: 9"),
            (9, 9, "left 20: 9, right 20: 9", ""),
        ];
        for (left, right, order, end) in cases {
            let mut times = DirTimes::default();
            times.tell(Side::Left, 20, time(left));
            assert_eq!(heard(&mut times, Side::Right, right), order);
            let asked = if left > right { Side::Right } else { Side::Left };
            assert_eq!(answered(&mut times, asked, DirTimeSet::Done), end);
            assert!(times.is_empty());
        }
    }

    #[test]
    fn words_that_cross_are_decided_once_more() {
        let mut times = DirTimes::default();
        assert_eq!(heard(&mut times, Side::Left, 5), "right 20: set 5");
        // The right's users were there as well: its word comes first, then its answer.
        assert_eq!(heard(&mut times, Side::Right, 6), "");
        assert_eq!(answered(&mut times, Side::Right, DirTimeSet::Differs(time(6))), "left 20: set 6 for 5");
        // And once more on the left, which has told an earlier one.
        assert_eq!(answered(&mut times, Side::Left, DirTimeSet::Differs(time(4))), "left 20: set 6 for 4");
        assert_eq!(answered(&mut times, Side::Left, DirTimeSet::Done), "right 20: 6");
        assert!(times.is_empty());
        // An answer that nobody waits for changes nothing.
        assert_eq!(answered(&mut times, Side::Left, DirTimeSet::Done), "");
    }
}
