//! Openings: a directory that lets more people in comes after all that is being closed, emptied or removed in it.
//!
//! The other direction is the usual one: what lies in a directory waits for the directory's word. So an opening waits for
//! what is below it, and nothing below waits for an opening.

use crate::model::{Millis, RelPath, Side};

use super::{Engine, SideState};

/// An opening waits at most so long for what is below it, in milliseconds, once its side is scanned: a file that takes longer,
/// or never comes, must not keep a directory closed for ever.
const OPENING_WAIT: Millis = 30_000;

/// The same while its side scans the whole tree, in milliseconds: ten minutes.
const SCAN_WAIT: Millis = 600_000;

impl Engine {
    /// Whether all that is said of a path is that a directory opens. Where the other side says anything else, what lies in it
    /// waits for both words, as usual.
    pub(super) fn is_opening(&self, path: &RelPath) -> bool {
        let mut words = self.sides.values().filter_map(|side| side.pending.get(path)).peekable();
        words.peek().is_some() && words.all(|pending| pending.change.only_opens())
    }

    /// Whether a directory that opens waits for something below it. Each end of that wakes it, and a timer.
    pub(super) fn opening_waits(&mut self, path: &RelPath, now: Millis) -> bool {
        if !self.is_opening(path) {
            return false;
        }
        // While its side scans, deletions below wait for the end of that, and so does the opening.
        let until = |side: Side| {
            let state = &self.sides[side];
            let since = state.pending.get(path)?.since;
            let scanned = since.max(state.scanned) + OPENING_WAIT;
            // A side that never ends its scan holds nothing for ever.
            let longest = since + SCAN_WAIT;
            Some(if state.cursor.is_none() { scanned.min(longest) } else { longest })
        };
        let until = Side::BOTH.into_iter().filter_map(until).max().unwrap_or(now);
        if until <= now {
            return false;
        }
        // What was moved out of it still lies in it on the other side.
        let mut moved = Side::BOTH.into_iter().flat_map(|side| self.places.out_of(side, path));
        let leaves = moved.any(|place| !self.has_problem(&place.path));
        let busy = self.sides.values().any(|side| self.is_busy_below(side, path));
        let waits = leaves || busy || self.locks.holds_below(path);
        if waits {
            self.blocked.insert(path.clone());
            if leaves {
                self.blocked_moves.insert(path.clone());
            }
            self.timers.insert((until, path.clone()));
        }
        waits
    }

    /// Whether something below is to be dealt with, problems apart.
    fn is_busy_below(&self, side: &SideState, path: &RelPath) -> bool {
        let mut asked = side.asked.range(path.clone()..).take_while(|at| at.is_within(path));
        let mut pending = side.pending.range(path.clone()..).take_while(|(at, _)| at.is_within(path));
        asked.any(|at| at != path && !self.has_problem(at))
            || pending.any(|(at, pending)| at != path && !self.is_stuck(&pending.change))
    }

    /// Something at this path has a problem from now on: no directory above waits for it.
    pub(super) fn wake_openings_above(&mut self, path: &RelPath) {
        if !self.blocked.is_empty() {
            let waiting = path.ancestors().filter(|dir| dir != path && self.blocked.contains(dir));
            let openings: Vec<RelPath> = waiting.filter(|dir| self.is_opening(dir)).collect();
            self.ready.extend(openings);
        }
    }
}
