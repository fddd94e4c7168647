//! `etimeout`: a side that has something to do and makes no progress for so long. Nothing can be undone from here: what it
//! was asked it may still do. So the path that waits longest is told as a problem, until the side moves again. A side
//! that says nothing at all, not even that the link lives, ends the session after `timeout`.

use std::collections::BTreeMap;

use crate::model::{Generation, Millis, RelPath, Side, Sides};
use crate::protocol::{Data, Reply, Request};

/// What both sides were asked and have not done.
#[derive(Debug)]
pub struct Patience {
    limit: Millis,
    sides: Sides<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    asked: BTreeMap<Generation, RelPath>,
    /// The last sign of work, or the first thing asked after a rest.
    moved: Millis,
    told: Option<RelPath>,
}

/// What has become of a side.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No progress for so long with this path and so many others.
    Stuck { side: Side, path: RelPath, others: usize, waited: Millis },
    /// It moves again.
    Moves { side: Side, path: RelPath },
}

impl Patience {
    pub fn new(limit: Millis) -> Patience {
        Patience { limit, sides: Default::default() }
    }

    pub fn asked(&mut self, side: Side, request: &Request, now: Millis) {
        let (generation, path) = match request {
            Request::Apply { generation, apply } => (generation, &apply.path),
            Request::Record { generation, record } => (generation, &record.path),
            Request::Supply { generation, path, .. } => (generation, path),
            Request::Cancel { generation } => {
                self.side(side).asked.remove(generation);
                return;
            }
            Request::Sums { .. } => {
                // Until now the other side read; this one waited for it.
                let waiting = self.side(side);
                waiting.moved = waiting.moved.max(now);
                return;
            }
            _ => return,
        };
        let waiting = self.side(side);
        if waiting.asked.is_empty() {
            waiting.moved = now;
        }
        waiting.asked.insert(*generation, path.clone());
    }

    /// A side said something: it works.
    pub fn heard(&mut self, side: Side, reply: &Reply, now: Millis) -> Option<Verdict> {
        let waiting = self.side(side);
        match reply {
            Reply::Result { generation, .. }
            | Reply::Recorded { generation }
            | Reply::Data { generation, data: Data::Whole { .. } | Data::End { .. } | Data::Abort } => {
                waiting.asked.remove(generation);
            }
            _ => {}
        }
        waiting.moved = now;
        waiting.told.take().map(|path| Verdict::Moves { side, path })
    }

    /// The sides that have not moved for too long; each is told once.
    pub fn check(&mut self, now: Millis) -> Vec<Verdict> {
        let mut stuck = Vec::new();
        for side in Side::BOTH {
            let limit = self.limit;
            let waiting = self.side(side);
            if let Some(path) = waiting.asked.values().next()
                && waiting.told.is_none()
                && now >= waiting.moved + limit
            {
                waiting.told = Some(path.clone());
                let (path, others) = (path.clone(), waiting.asked.len() - 1);
                stuck.push(Verdict::Stuck { side, path, others, waited: limit });
            }
        }
        stuck
    }

    fn side(&mut self, side: Side) -> &mut Waiting {
        &mut self.sides[side]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Apply, Expect, Outcome, Step};

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).expect("a path")
    }

    fn apply(generation: Generation, at: &str) -> Request {
        let step = Step::Remove { expect: Expect::Absent, force: false };
        Request::Apply { generation, apply: Apply { path: path(at), parent: None, node: 5, step, joint: false } }
    }

    fn done(generation: Generation) -> Reply {
        Reply::Result { generation, outcome: Outcome::Done { entry: None, kept: None } }
    }

    #[test]
    fn a_side_is_stuck_when_it_has_work_and_says_nothing() {
        let mut patience = Patience::new(1000);
        assert_eq!(patience.check(50_000), [], "nothing was asked");
        patience.asked(Side::Right, &apply(20, "a"), 50_000);
        patience.asked(Side::Right, &apply(21, "b"), 50_500);
        patience.asked(Side::Left, &apply(22, "c"), 50_500);
        assert_eq!(patience.heard(Side::Left, &done(22), 50_600), None);
        assert_eq!(patience.check(50_999), []);
        let stuck = Verdict::Stuck { side: Side::Right, path: path("a"), others: 1, waited: 1000 };
        assert_eq!(patience.check(51_000), [stuck]);
        assert_eq!(patience.check(60_000), [], "told once");
        assert_eq!(
            patience.heard(Side::Right, &done(20), 61_000),
            Some(Verdict::Moves { side: Side::Right, path: path("a") })
        );
        assert_eq!(patience.check(61_999), []);
        assert_eq!(patience.check(62_000).len(), 1, "b waits still");
        assert!(patience.heard(Side::Right, &done(21), 62_001).is_some());
        assert_eq!(patience.check(90_000), []);
    }

    #[test]
    fn any_word_is_progress() {
        let mut patience = Patience::new(1000);
        patience.asked(
            Side::Left,
            &Request::Supply { generation: 20, path: path("big"), seq: 1, way: crate::protocol::Way::Stream },
            1,
        );
        for now in (500..10_000).step_by(500) {
            patience.heard(Side::Left, &Reply::Credit { generation: 20, bytes: 1 }, now);
            assert_eq!(patience.check(now + 499), []);
        }
        patience.asked(Side::Left, &Request::Cancel { generation: 20 }, 10_000);
        assert_eq!(patience.check(90_000), []);
    }
}
