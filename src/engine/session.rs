//! A session: both sides say who they are; what one archive missed is told to it; or the pair halts.

use std::collections::BTreeMap;

use crate::endpoint::message::{Hello, Request, Start};
use crate::model::{AncestorRow, Millis, NodeId, RelPath, Side};

use super::{Engine, Phase, index};

/// Generations and nodes below this are psync's own (the root is node 1).
const FIRST_GENERATION: u64 = 16;

impl Engine {
    pub(super) fn start(&mut self, incarnation: u64, accept: bool, union: bool) {
        self.phase = Phase::Greeting;
        self.accept = accept;
        for side in Side::BOTH {
            let start = Start {
                pair: self.settings.pair.clone(),
                incarnation,
                accept,
                union,
                filters: self.settings.filters,
                dry_run: self.settings.dry_run,
            };
            self.send(side, Request::Start(start));
        }
    }

    pub(super) fn hello(&mut self, side: Side, hello: Hello, now: Millis) {
        if self.phase != Phase::Greeting {
            return;
        }
        self.side(side).hello = Some(hello);
        let [Some(left), Some(right)] = self.sides.each_ref().map(|s| s.hello.clone()) else { return };
        if let Some((reason, advice)) = self.disaster(&left, &right) {
            return self.halt(reason, advice);
        }
        self.first = left.rows == 0 && right.rows == 0;
        let highest = [left.generation, right.generation, left.confirmed, right.confirmed].into_iter().max();
        self.next_generation = highest.unwrap_or(0).max(FIRST_GENERATION) + 1;
        self.guard.begin(left.rows.max(right.rows), self.next_generation, now);
        self.confirmed = left.confirmed.min(right.confirmed);
        self.phase = Phase::Exchanging;
        let above = if self.first { 0 } else { self.confirmed };
        for side in Side::BOTH {
            self.send(side, Request::Rows { above });
        }
    }

    /// What must not go on without a word of the administrator.
    fn disaster(&self, left: &Hello, right: &Hello) -> Option<(String, String)> {
        let pair = &self.settings.pair;
        let advice = |what: &str| {
            format!(
                "{what}; nothing was changed. If both trees are as they should be, go on with --accept \
                 (`psync resume {pair} --accept`)"
            )
        };
        let unite = |what: &str| {
            format!(
                "{what}; nothing was changed. To unite both trees as if they had never met, go on with --accept --union \
                 (`psync resume {pair} --accept --union`)"
            )
        };
        // An archive that met its peer, but has no rows yet, knows as little as a fresh one.
        let blank = |hello: &Hello| hello.fresh || hello.rows == 0;
        if (left.fresh && !blank(right)) || (right.fresh && !blank(left)) {
            let (new, old) = if left.fresh { (Side::Left, Side::Right) } else { (Side::Right, Side::Left) };
            let reason = format!(
                "the {} side has no archive of this pair, the {} side has one: an unmounted, exchanged or emptied root?",
                new.word(),
                old.word()
            );
            let what = format!("mount or restore the {} root with its .psync", new.word());
            return Some((reason, unite(&what)));
        }
        for (side, own, other) in [(Side::Left, left, right), (Side::Right, right, left)] {
            let word = side.word();
            if own.fresh {
                continue;
            }
            if own.peer != other.archive && own.rows > 0 && !other.fresh {
                let reason = format!("the {word} archive belongs to another {} side", side.other().word());
                return Some((reason, unite("use the two roots that were paired, or another --pair name")));
            }
            if own.side.is_some_and(|s| s != side) {
                let reason = format!(
                    "the {word} root is the {} one of this pair: the roots have changed places",
                    side.other().word()
                );
                return Some((reason, unite("give them in the order of before")));
            }
            if own.exchanged && !self.accept {
                let reason =
                    format!("the {word} root is not the directory that was paired (exchanged, copied or restored)");
                return Some((reason, advice(&format!("put the {word} root back"))));
            }
            if own.generation < other.confirmed {
                let reason = format!(
                    "the {word} side was rolled back: its archive ends at generation {}, the other side saw it at {}",
                    own.generation, other.confirmed
                );
                return Some((reason, unite(&format!("restore the newest {word} root"))));
            }
            if own.rows > 0 && own.top_entries == 0 && !self.accept {
                let reason = format!("the {word} root has lost all its {} entries", own.rows);
                return Some((reason, advice(&format!("restore the {word} root"))));
            }
        }
        None
    }

    pub(super) fn rows_end(&mut self, side: Side) {
        self.side(side).rows_done = true;
        if self.phase != Phase::Exchanging || !self.sides.iter().all(|s| s.rows_done) {
            return;
        }
        let [left, right] = self.sides.each_mut().map(|s| std::mem::take(&mut s.rows));
        self.teach(&left, &right, Side::Right);
        self.teach(&right, &left, Side::Left);
        self.phase = Phase::Running;
        for side in Side::BOTH {
            let peer = self.sides[index(side.other())].hello.as_ref().map_or([0; 16], |h| h.archive);
            let scan = self.sides[index(side)].hello.as_ref().is_none_or(|h| !h.watching);
            self.send(side, Request::Go { peer, scan });
            self.side(side).cursor = scan.then(RelPath::root);
        }
        if self.paused {
            self.hold(true);
        }
    }

    /// Tells one side the ancestors that only the other has.
    fn teach(&mut self, theirs: &[AncestorRow], own: &[AncestorRow], pupil: Side) {
        let held: BTreeMap<NodeId, u64> = own.iter().map(|row| (row.node, row.generation)).collect();
        let missing: Vec<AncestorRow> =
            theirs.iter().filter(|row| held.get(&row.node).is_none_or(|g| *g < row.generation)).cloned().collect();
        let rebooted = self.sides[index(pupil)].hello.as_ref().is_some_and(|h| h.rebooted);
        if rebooted {
            // What a power cut brought back from the dead cannot be told from what is new: it stays.
            let placed = missing.iter().filter(|row| row.entry.is_some());
            self.side(pupil).distrusted.extend(placed.map(|row| row.path.clone()));
        }
        for rows in missing.chunks(500) {
            self.send(pupil, Request::Learn { rows: rows.to_vec() });
        }
    }

    pub(super) fn stop(&mut self) {
        match self.phase {
            Phase::Running => self.phase = Phase::Stopping,
            Phase::Stopped | Phase::Stopping => {}
            _ => self.finish_stop(),
        }
    }

    pub(super) fn finish_stop(&mut self) {
        self.phase = Phase::Stopped;
        for side in Side::BOTH {
            self.send(side, Request::Stop);
        }
    }
}
