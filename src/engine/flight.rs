//! An action in flight: from its first request until both archives hold its row.

use std::ops::Bound;

use crate::model::rights::Rights;
use crate::model::{
    Content, Entry, Generation, Hash, Kind, Millis, NodeId, Problem, ProblemKind, RelPath, Seq, Side, Sides,
};
use crate::protocol::{Apply, Change, Data, Outcome, Record, Request, Step, Way};

use super::locks::Reach;
use super::{Effect, Engine, News, Pending};

/// What one side has to do with an action.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Part {
    Apply(Apply),
    /// Record what it reported as `seq`; the node lay at `from` there.
    Record {
        seq: Seq,
        from: Option<RelPath>,
    },
    Nothing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Asked,
    Done,
}

/// One action, as far as it got.
#[derive(Debug)]
pub(super) struct Flight {
    pub path: RelPath,
    /// Further paths that it concerns: where a move comes from.
    pub also: Vec<RelPath>,
    /// Whose contents are copied on the side that places: nothing may happen to it meanwhile.
    pub reads: Option<RelPath>,
    pub node: NodeId,
    /// The node of the directory above; `None` if that does not matter.
    pub parent: Option<NodeId>,
    /// The node that it changes places with.
    pub exchanged: Option<NodeId>,
    /// The agreed state; `None`: gone.
    pub entry: Option<Entry>,
    pub parts: Sides<Part>,
    states: Sides<State>,
    /// What it was decided by, to be restored if it is refused.
    pub changes: Sides<Option<Change>>,
    /// Who reads the contents, as reported under this number.
    pub supply: Option<(Side, Seq)>,
    /// Its contents have not passed yet, or are too large for that to be all that counts.
    pub streaming: bool,
    /// The source has said its last word on the contents.
    supplied: bool,
    pub reach: Reach,
    /// Both sides have something to do, and this one waits until the other has done it: it holds the contents, and its
    /// row must not say that they are agreed on before they are.
    pub last: Option<Side>,
    /// When what it carries was reported.
    pub since: Millis,
    /// Which side's version loses, as long as that side has not said where it keeps it; `None`: nobody's.
    pub loser: Option<Side>,
    /// Rights that one side had, and that do not go with these contents.
    pub dropped: Rights,
    /// How many of the objects that it removes are young, as far as that was believed.
    pub young: u64,
}

impl Flight {
    pub fn new(
        path: &RelPath,
        node: NodeId,
        entry: Option<Entry>,
        parts: Sides<Part>,
        changes: Sides<Option<Change>>,
    ) -> Flight {
        let states = parts.as_ref().map(|part| match part {
            Part::Apply(_) => State::Asked,
            Part::Record { .. } => State::Waiting,
            Part::Nothing => State::Done,
        });
        let (path, reach) = (path.clone(), Reach::Object);
        Flight {
            path,
            also: vec![],
            reads: None,
            node,
            parent: None,
            exchanged: None,
            entry,
            parts,
            states,
            changes,
            supply: None,
            streaming: false,
            supplied: false,
            reach,
            last: None,
            since: 0,
            loser: None,
            dropped: Rights::default(),
            young: 0,
        }
    }

    /// Takes the node of the directory above, for all that has to be done in it.
    pub fn set_parent(&mut self, parent: NodeId) {
        self.parent = Some(parent);
        for part in self.parts.values_mut() {
            if let Part::Apply(apply) = part {
                apply.parent = Some(parent);
            }
        }
    }

    /// This side's step waits for the other's.
    pub fn do_last(&mut self, side: Side) {
        self.last = Some(side);
        self.states[side] = State::Waiting;
    }

    pub fn supplied_by(&mut self, side: Side) {
        let seq = self.changes[side].as_ref().map_or(0, |c| c.seq);
        self.supply = Some((side, seq));
    }

    /// Whether a side must be told the directory: but for a move that is undone, which nobody reported there.
    pub fn wants_parent(&self) -> bool {
        self.changes.values().flatten().any(|c| c.path == self.path)
    }

    /// How its contents are sent, if they are.
    pub fn way(&self) -> Option<Way> {
        self.parts.values().find_map(|part| match part {
            Part::Apply(Apply { step: Step::Put { source, .. }, .. }) => source.way(),
            _ => None,
        })
    }

    /// Bytes of contents that travel in one piece.
    pub fn carried(&self) -> u64 {
        let size = self.entry.as_ref().map_or(0, Entry::size);
        if self.supply.is_some() && size <= Data::WHOLE_MAX { size } else { 0 }
    }

    /// The source has read all of what it reported: if it is asked again, what was sent may still be there.
    fn learn_hash(&mut self, source: Side, size: u64, hash: Hash) {
        let after = self.changes[source].as_mut().and_then(|change| change.after.as_mut());
        if let Some(Content::File { size: reported, hash: unknown @ None }) = after.map(|entry| &mut entry.content)
            && *reported == size
        {
            *unknown = Some(hash);
        }
    }

    /// Whether large contents are sent for it.
    pub fn is_long(&self) -> bool {
        self.supply.is_some() && self.carried() == 0 && self.entry.as_ref().is_some_and(|entry| entry.size() > 0)
    }

    pub fn source(&self) -> Option<Side> {
        self.supply.map(|(side, _)| side)
    }

    pub fn source_path(&self, side: Side) -> RelPath {
        self.changes[side].as_ref().map_or_else(|| self.path.clone(), |c| c.path.clone())
    }

    /// The side on which it removes what users have.
    fn removes(&self) -> Option<Side> {
        let removes = |part: &Part| matches!(part, Part::Apply(apply) if matches!(apply.step, Step::Remove { .. }));
        Side::BOTH.into_iter().find(|side| removes(&self.parts[*side]))
    }

    /// Whether it places something on that side.
    fn puts(&self, side: Side) -> bool {
        matches!(&self.parts[side], Part::Apply(Apply { step: Step::Put { .. }, .. }))
    }

    /// The size of the contents that it places, on each side where it does.
    fn contents(&self) -> u64 {
        let size = self.entry.as_ref().map_or(0, Entry::size);
        size * Side::BOTH.into_iter().filter(|side| self.puts(*side)).count() as u64
    }

    /// Every path that it concerns.
    pub fn paths(&self) -> Vec<RelPath> {
        let mut all = vec![self.path.clone()];
        all.extend(self.also.iter().filter(|p| **p != self.path).cloned());
        all.dedup();
        all
    }
}

impl Engine {
    pub(super) fn result(&mut self, side: Side, generation: Generation, outcome: Outcome, now: Millis) {
        let Some(flight) = self.flights.get_mut(&generation) else { return };
        match outcome {
            Outcome::Done { entry, kept } => {
                if let Some(source) = flight.source().filter(|source| *source != side && !flight.supplied) {
                    // The contents were there already.
                    flight.supplied = true;
                    self.fx.push(Effect::Send(source, Request::Cancel { generation }));
                }
                flight.states[side] = State::Done;
                // A move that could not take anything from the object's mode leaves the agreed one.
                let known = flight.changes.values().flatten().find_map(|change| change.moved.as_ref());
                let known = known.map(|moved| moved.known.entry.attrs.mode);
                if let (Some(agreed), Some(placed)) = (&mut flight.entry, &entry)
                    && known == Some(placed.attrs.mode)
                {
                    agreed.attrs.mode = placed.attrs.mode;
                }
                if let (Some(agreed), Some(placed)) = (&mut flight.entry, entry)
                    && agreed.hash().is_none()
                    && agreed.content.compare(&placed.content) != crate::model::Sameness::Differs
                {
                    agreed.content = placed.content;
                }
                // Until now the action could be refused, and nobody knew which name the copy would get.
                let loser = flight.loser.take_if(|loser| *loser == side);
                let path = flight.path.clone();
                if let Some((loser, kept)) = loser.zip(kept) {
                    self.tell(News::Conflict { generation, path, loser, kept });
                }
                // It speaks of their new names from now on.
                self.follow_renamed(side, generation);
                self.advance(generation);
            }
            other => self.fail(side, generation, other, now),
        }
    }

    pub(super) fn recorded(&mut self, side: Side, generation: Generation) {
        if let Some(flight) = self.flights.get_mut(&generation) {
            flight.states[side] = State::Done;
            self.advance(generation);
        }
    }

    /// Asks for the records once everything is placed, and ends the flight once all is recorded.
    pub(super) fn advance(&mut self, generation: Generation) {
        let Some(flight) = self.flights.get_mut(&generation) else { return };
        if let Some(side) = flight.last
            && flight.states[side.other()] == State::Done
            && flight.states[side] == State::Waiting
            && let Part::Apply(apply) = &flight.parts[side]
        {
            let apply = apply.clone();
            flight.states[side] = State::Asked;
            return self.send(side, Request::Apply { generation, apply });
        }
        let placing = |part: &Part, state: State| matches!(part, Part::Apply(_)) && state != State::Done;
        if flight.parts.values().zip(flight.states.into_values()).any(|(part, state)| placing(part, state)) {
            return;
        }
        let mut requests = Vec::new();
        for side in Side::BOTH {
            if let (Part::Record { seq, from }, State::Waiting) = (&flight.parts[side], flight.states[side]) {
                flight.states[side] = State::Asked;
                let path = flight.path.clone();
                let record = Record {
                    path,
                    parent: flight.parent,
                    node: flight.node,
                    seq: *seq,
                    entry: flight.entry.clone(),
                    from: from.clone(),
                    exchanged: flight.exchanged,
                };
                requests.push((side, Request::Record { generation, record }));
            }
        }
        let done = flight.states.values().all(|s| *s == State::Done);
        for (side, request) in requests {
            self.send(side, request);
        }
        if done && let Some(flight) = self.flights.remove(&generation) {
            let paths = flight.paths();
            self.completed.insert(generation);
            self.halves.retain(|_, node| *node != flight.node);
            if flight.node == generation {
                for side in Side::BOTH.into_iter().filter(|side| flight.puts(side.other())) {
                    self.sides[side].young.come(self.now);
                }
                // What a scan finds was there before.
                let found = self.first || self.sides.values().any(|side| side.cursor.is_some());
                if found { self.guard.find() } else { self.guard.grow() }
            }
            self.land(&flight);
            self.remember_made(&flight);
            self.forget_doubts(&flight);
            let bytes = flight.contents();
            self.tell(News::Completed { generation, path: flight.path.clone(), bytes });
            if let Some(what) = flight.dropped.dropped() {
                self.tell(News::Dropped { generation, path: flight.path.clone(), what });
            }
            self.go_on_after_removal(&flight);
            self.ask_for_edits(&flight);
            // Whoever had the object already is whose users changed it.
            let from = if matches!(flight.parts[Side::Left], Part::Record { .. }) { Side::Left } else { Side::Right };
            for path in paths {
                self.round.dealt_with(&path);
                self.count_try(from, &path, None);
                self.strikes.remove(&path);
                self.solve(&path);
                self.review(&path, &flight, generation);
                self.wake_below(&path);
            }
        }
    }

    /// What was doubted of the reports that were decided is settled. A report that came since has a doubt of its own: it is
    /// decided after this, and may be what the power failure left all the same.
    fn forget_doubts(&mut self, flight: &Flight) {
        for side in Side::BOTH {
            if let Some(change) = &flight.changes[side] {
                self.side(side).distrusts.keep_newest(&change.path, change.seq.saturating_add(1));
            }
        }
    }

    /// Keeps the nodes of new directories in mind, until one may have another name.
    fn remember_made(&mut self, flight: &Flight) {
        const MOST: usize = 4096;
        let is_dir = flight.entry.as_ref().is_some_and(|e| e.kind() == Kind::Dir);
        let moves = !flight.also.is_empty();
        if moves || flight.entry.is_none() || self.made.len() >= MOST {
            self.made.clear();
        }
        if is_dir && !moves {
            self.made.insert(flight.path.clone(), flight.node);
        }
    }

    /// What made way for another object is gone: that object's turn has come, and until then the pair is not in sync.
    fn go_on_after_removal(&mut self, flight: &Flight) {
        for side in Side::BOTH.into_iter().filter(|_| flight.removes().is_some()) {
            let stands_there = flight.changes[side].as_ref().filter(|c| c.after.is_some()).map(|c| c.path.clone());
            if let Some(path) = stands_there
                && !self.side(side).pending.contains_key(&path)
            {
                self.ask(side, path, false);
            }
        }
    }

    /// A directory that moved with other rights than before: what is new in it waits for the word of these.
    fn ask_for_edits(&mut self, flight: &Flight) {
        for side in Side::BOTH {
            let edited = |change: &&Change| change.moved.as_ref().is_some_and(|moved| moved.edited);
            let dir = flight.entry.as_ref().is_some_and(|entry| entry.kind() == Kind::Dir);
            if let Some(change) = flight.changes[side].as_ref().filter(edited).filter(|_| dir)
                && change.path == flight.path
                && !self.sides[side].pending.contains_key(&flight.path)
            {
                self.ask(side, flight.path.clone(), false);
            }
        }
    }

    /// What kept an action on this path from being carried out is over.
    pub(super) fn solve(&mut self, path: &RelPath) {
        for side in Side::BOTH {
            self.side(side).short.remove(path);
            if self.side(side).failed.remove(path) {
                self.side(side).problems.remove(path);
                self.tell(News::Problem { side, path: path.clone(), problem: None });
            }
        }
    }

    /// Frees what the flight held.
    pub(super) fn land(&mut self, flight: &Flight) {
        if flight.streaming {
            self.streams = self.streams.saturating_sub(1);
        }
        self.carried = self.carried.saturating_sub(flight.carried());
        for path in flight.paths().into_iter().chain(flight.reads.clone()) {
            self.locks.free(&path);
            self.wake_below(&path);
        }
        self.making.remove(&flight.path);
        for side in Side::BOTH {
            let Some(change) = &flight.changes[side] else { continue };
            self.end_creation(side, change.seq);
            if let Some(moved) = &change.moved {
                self.places.land(side, moved.known.node, &change.path);
            }
        }
        self.wake_moves();
    }

    /// Directories were renamed on a side by an action: what was moved out of them there came from below their new names.
    fn follow_renamed(&mut self, side: Side, generation: Generation) {
        let Some(Part::Apply(apply)) = self.flights.get(&generation).map(|flight| &flight.parts[side]) else { return };
        let renames = match &apply.step {
            Step::Move { from, .. } => vec![(from.clone(), apply.path.clone())],
            Step::Exchange { from, other, .. } => {
                let theirs = other.at.clone().map(|at| (at, other.to.clone()));
                std::iter::once((from.clone(), apply.path.clone())).chain(theirs).collect()
            }
            Step::Put { .. } | Step::SetAttrs { .. } | Step::Remove { .. } => return,
        };
        for (at, from) in self.places.rename(side, &renames) {
            let pending = self.sides[side].pending.get_mut(&at);
            if let Some(moved) = pending.and_then(|pending| pending.change.moved.as_mut()) {
                moved.from = from;
            }
        }
    }

    /// Paths at, below and above this one that waited for it may go.
    pub(super) fn wake_below(&mut self, path: &RelPath) {
        let below: Vec<RelPath> =
            self.blocked.range(path.clone()..).take_while(|p| p.is_within(path)).cloned().collect();
        let last = |to: Bound<&RelPath>| self.blocked.range((Bound::Unbounded, to)).next_back();
        let above: Vec<RelPath> =
            std::iter::successors(path.nearest_above(last), |p| p.nearest_above(last)).cloned().collect();
        self.ready.extend(self.behind.remove(path).into_iter().flatten());
        // A move waits for its old name as well, which may lie anywhere.
        let moves = |p: &&RelPath| {
            let changes = self.sides.values().filter_map(|s| s.pending.get(*p));
            changes
                .filter_map(|pending| pending.change.moved.as_ref())
                .any(|moved| path.is_within(&moved.from) || moved.from.is_within(path))
        };
        let from: Vec<RelPath> = match self.moves {
            0 => Vec::new(),
            _ => self.blocked.iter().filter(moves).cloned().collect(),
        };
        for path in below.into_iter().chain(above).chain(from) {
            self.blocked.remove(&path);
            self.ready.insert(path);
        }
    }

    /// What was reported while the flight was on speaks of an older ancestor: it is examined again.
    fn review(&mut self, path: &RelPath, flight: &Flight, generation: Generation) {
        for side in Side::BOTH {
            let state = &self.sides[side];
            let stale: Vec<RelPath> = state
                .pending
                .range(path.clone()..)
                .take_while(|(p, _)| p.is_within(path))
                .take_while(|(p, _)| flight.reach == Reach::Tree || *p == path)
                .filter(|(_, pending)| pending.change.known.as_ref().is_none_or(|k| k.generation != generation))
                .map(|(p, _)| p.clone())
                .collect();
            for path in stale {
                if let Some(pending) = self.drop_pending(side, &path) {
                    self.ask_again(side, &pending.change);
                }
            }
            // A move of this very node, reported before it was recorded here.
            if let Some(moved_to) = self.places.pending(side, flight.node).cloned()
                && let Some(pending) = self.drop_pending(side, &moved_to)
            {
                self.ask_again(side, &pending.change);
            }
        }
    }

    /// A side could not do its part: undo what can be undone, and decide again.
    fn fail(&mut self, side: Side, generation: Generation, outcome: Outcome, now: Millis) {
        let Some(flight) = self.flights.remove(&generation) else { return };
        if let Some((source, _)) = flight.supply {
            for side in [source, source.other()] {
                self.send(side, Request::Cancel { generation });
            }
        }
        self.land(&flight);
        if let Some(on) = flight.removes().filter(|_| !self.accept) {
            // It will ask again.
            let by = on.other();
            self.guard.give_back(super::plan::gone(&flight.changes, by).counts(flight.young), flight.young);
            self.side(by).young.give_back(flight.young, now);
        }
        let path = flight.path.clone();
        let refused = (outcome == Outcome::Refused).then_some(now);
        self.count_try(side, &path, refused);
        let other_applied = matches!(flight.parts[side.other()], Part::Apply(_));
        if other_applied {
            // Whether the other side has done its part by now or is about to.
            self.halves.insert(generation, flight.node);
        }
        let mut not_before = 0;
        match &outcome {
            Outcome::Busy => not_before = self.strike_at_least(&path, now, 200),
            Outcome::Failed(problem) => {
                not_before = self.strike_for_problem(&path, &problem.kind, now);
                let short = &mut self.sides[side].short;
                match (&problem.kind, &flight.entry) {
                    (ProblemKind::NoSpace, Some(entry)) => drop(short.insert(path.clone(), entry.size())),
                    _ => drop(short.remove(&path)),
                }
                self.sides[side].problems.insert(path.clone());
                self.sides[side].failed.insert(path.clone());
                let problem = Problem { path: path.clone(), ..problem.clone() };
                self.tell(News::Problem { side, path: path.clone(), problem: Some(problem) });
            }
            _ => {
                let due = self.strike(&path, now);
                if due > now {
                    not_before = due;
                }
            }
        }
        // Refused again and again: what it was decided by may be out of date on the side that said so.
        let outdated = outcome == Outcome::Refused && self.strikes.get(&path).is_some_and(|(strikes, _)| *strikes >= 3);
        for own in Side::BOTH {
            let Some(mut change) = flight.changes[own].clone() else { continue };
            if outcome == Outcome::NoSource {
                // What was to be copied is not there any more: the contents are sent.
                change.like = None;
            }
            let at = change.path.clone();
            let newer = self.sides[own].pending.contains_key(&at);
            let stale =
                (other_applied && own != side) || (outcome == Outcome::NoSource && Some(own) == flight.source());
            let stuck = change.moved.is_some() && matches!(outcome, Outcome::Failed(_));
            if newer {
                // It was reported anew meanwhile.
            } else if stuck {
                // What cannot be renamed there is a new object, with its own problem, and a deletion.
                self.ask(own, at.clone(), true);
            } else if stale
                || outdated
                || (change.moved.is_some() && outcome == Outcome::Refused)
                || (own == side && outcome == Outcome::Refused)
            {
                self.ask_again(own, &change);
            } else {
                self.restore(own, change, now);
            }
            if let Some(pending) = self.side(own).pending.get_mut(&at) {
                pending.not_before = not_before;
            }
            self.ready.insert(at);
        }
        self.ready.extend(flight.paths());
    }

    /// Puts a change back among the pending ones.
    pub(super) fn restore(&mut self, side: Side, change: Change, now: Millis) {
        if let Some(moved) = &change.moved {
            self.places.report(side, moved.known.node, &change.path, &moved.from);
        }
        if change.after.is_some() {
            self.sides[side].creations.begin(change.seq, &change.path);
        }
        let deletes = self.deletions(side, &change);
        self.sides[side].deleting.add(deletes);
        self.add_pending(side, Pending { change, since: now, not_before: 0, deletes, weight: 0 });
    }

    /// What failed is tried again after a second, then after twice as long each time: up to a minute, and up to five where
    /// room is wanted, since the side tells when there is some.
    fn strike_for_problem(&mut self, path: &RelPath, kind: &ProblemKind, now: Millis) -> Millis {
        let before = self.strikes.get(path).map_or(0, |(strikes, _)| *strikes);
        let most = if *kind == ProblemKind::NoSpace { 300_000 } else { 60_000 };
        self.strike_at_least(path, now, (1000 << before.min(10)).min(most))
    }

    /// A side has room again: what it refused for want of it is tried at once. None says so twice in a second.
    pub(super) fn has_room(&mut self, side: Side, now: Millis) {
        if self.side(side).roomy.is_some_and(|last| now < last + 1_000) {
            return;
        }
        self.side(side).roomy = Some(now);
        let short = std::mem::take(&mut self.side(side).short);
        for path in short.into_keys() {
            self.forgive(&path);
        }
    }

    /// Whatever was tried with this path in vain, the next try is not like the last one.
    pub(super) fn forgive(&mut self, path: &RelPath) {
        self.strikes.remove(path);
        for side in self.sides.values_mut() {
            if let Some(pending) = side.pending.get_mut(path) {
                pending.not_before = 0;
            }
        }
        self.ready.insert(path.clone());
    }

    fn strike_at_least(&mut self, path: &RelPath, now: Millis, least: Millis) -> Millis {
        let due = self.strike(path, now).max(now + least);
        self.timers.insert((due, path.clone()));
        due
    }

    /// Contents pass through: from the side that reads to the side that writes.
    pub(super) fn data(&mut self, side: Side, generation: Generation, data: Data) {
        let Some(flight) = self.flights.get_mut(&generation) else { return };
        if flight.source() == Some(side) && matches!(flight.parts[side.other()], Part::Apply(_)) {
            // The reader is done with it; the writer has many such pieces in one batch.
            if matches!(data, Data::Whole { .. }) && std::mem::take(&mut flight.streaming) {
                self.streams = self.streams.saturating_sub(1);
            }
            flight.supplied |= matches!(data, Data::Whole { .. } | Data::End { .. } | Data::Abort);
            if let Data::End { size, hash } = &data {
                flight.learn_hash(side, *size, *hash);
            }
            self.send(side.other(), Request::Data { generation, data });
        }
    }
}
