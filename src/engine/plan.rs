//! From a decision to an action: what each side is asked, and what it must find.

use std::ops::Bound;

use serde_bytes::ByteBuf;

use crate::model::rights::Rights;
use crate::model::{Content, Entry, Generation, Kind, Millis, NodeId, ROOT_NODE, RelPath, Side, Sides, conflict};
use crate::protocol::{Apply, Change, Displaced, Expect, Like, Source, Step, Way};

use super::distrust::Doubted;
use super::flight::{Flight, Part};
use super::locks::Reach;
use super::places::Standing;
use super::reconcile::{Need, Rules, Verdict, reconcile};
use super::young::Loss;
use super::{DELETION_WAIT, Effect, Engine, News, Pending, SideState};

impl Engine {
    /// Looks at what is pending at a path, and acts on it unless it must wait.
    pub(super) fn consider(&mut self, path: &RelPath, now: Millis) {
        let changes = self.changes_at(path);
        if changes.values().all(Option::is_none) {
            return;
        }
        if self.round.is_restless(path) {
            return self.stall_at(path);
        }
        if self.must_wait(path, &changes, now) {
            return;
        }
        if changes.values().flatten().any(|c| c.moved.is_some()) {
            return self.consider_move(path, changes, now);
        }
        let verdict = match self.doubt(path, &changes) {
            Doubted::Decided(verdict) => verdict,
            Doubted::Asked => return,
            Doubted::No => {
                let (left, right) = changes.as_ref().map(Option::as_ref).split();
                let rules = Rules { prefer: self.settings.prefer, old: self.old(), numbers: &self.numbers };
                reconcile(left, right, rules)
            }
        };
        self.carry_out(path, changes, verdict, now);
    }

    /// What was written before this second may be compared unread: at a first meeting what lay there before it began.
    pub(super) fn old(&self) -> i64 {
        let clocks = self.sides.values().filter_map(|s| s.hello.as_ref()).map(|hello| hello.clock);
        clocks.min().filter(|_| self.first).map_or(i64::MIN, |clock| clock - 1)
    }

    fn changes_at(&self, path: &RelPath) -> Sides<Option<Change>> {
        self.sides.as_ref().map(|s| s.pending.get(path).map(|p| p.change.clone()))
    }

    /// Whether the path's turn has not come yet; it is woken by a timer, or by what it waits for.
    fn must_wait(&mut self, path: &RelPath, changes: &Sides<Option<Change>>, now: Millis) -> bool {
        let not_before =
            self.sides.values().filter_map(|s| s.pending.get(path)).map(|p| p.not_before).max().unwrap_or(0);
        if not_before > now {
            self.timers.insert((not_before, path.clone()));
            self.stall_at(path);
            return true;
        }
        // A side is about to speak of it: what it says wakes the path. Without it the other's word would be taken alone.
        if self.sides.values().any(|s| s.asked.contains(path)) {
            return true;
        }
        if self.locks.covers(path) {
            self.blocked.insert(path.clone());
            self.stall_at(path);
            return true;
        }
        // Parents first, whatever side they are pending on, or are about to be spoken of.
        if let Some(above) = self.open_above(path) {
            if !self.follows(path, &above) {
                self.stall_at(path);
            }
            self.behind.entry(above).or_default().insert(path.clone());
            return true;
        }
        if self.opening_waits(path, now) {
            self.stall_at(path);
            return true;
        }
        for side in Side::BOTH {
            let Some(change) = &changes[side] else { continue };
            if self.is_ahead_of_scan(side, change) && changes[side.other()].is_none() {
                self.blocked.insert(path.clone());
                self.stall_at(path);
                return true;
            }
            let Some(known) = change.known.as_ref().filter(|_| change.after.is_none()) else { continue };
            // Either side moved it: the move decides what becomes of the deletion. On this very side it is but the
            // old name of what moved, and to delete that on the other side would take what users do there along. Where
            // something has come to the name meanwhile, that move decides.
            let comes = changes[side.other()].as_ref().is_some_and(|there| there.moved.is_some());
            if !comes
                && Side::BOTH.iter().any(|s| self.places.of(*s, known.node).is_some_and(|place| place.path != *path))
            {
                self.blocked_moves.insert(path.clone());
                self.stall_at(path);
                return true;
            }
            if self.deletion_waits(side, change, path, now) {
                self.stall_at(path);
                return true;
            }
            // Edited on the other side meanwhile: it is restored, unless it turns up here under another name.
            let edited = changes[side.other()].as_ref().is_some_and(|there| there.after.is_some());
            let since = self.sides[side].pending.get(path).map_or(0, |p| p.since);
            if edited && !self.is_lost(side, since, path, now) {
                self.stall_at(path);
                return true;
            }
        }
        false
    }

    /// The nearest directory above that is pending, or about to be spoken of: what lies in it waits for that one alone.
    fn open_above(&self, path: &RelPath) -> Option<RelPath> {
        let of = |side: &SideState| -> Option<RelPath> {
            let to_come = |to: Bound<&RelPath>| side.pending.range((Bound::Unbounded, to)).next_back().map(|(p, _)| p);
            let asked = |to: Bound<&RelPath>| side.asked.range((Bound::Unbounded, to)).next_back();
            // Nothing waits for a directory that lets more people in: that one waits itself.
            let mut above = std::iter::successors(path.nearest_above(to_come), |at| at.nearest_above(to_come));
            let pending = above.find(|at| !self.is_opening(at));
            [pending, path.nearest_above(asked)].into_iter().flatten().max().cloned()
        };
        self.sides.values().filter_map(of).max()
    }

    /// Whether what was made at `path` comes right after its directory, which was made on the same side.
    fn follows(&self, path: &RelPath, above: &RelPath) -> bool {
        let made = |s: &SideState, at: &RelPath| {
            s.pending.get(at).is_some_and(|p| p.change.after.is_some() && s.creations.is_under_way(p.change.seq))
        };
        self.sides.values().any(|s| made(s, path) && made(s, above))
            && !self.sides.values().all(|s| s.pending.contains_key(above))
    }

    /// At the first meeting a new object waits until the other side's scan has passed its name: most likely it is there too.
    fn is_ahead_of_scan(&self, side: Side, change: &Change) -> bool {
        let cursor = &self.sides[side.other()].cursor;
        self.first && change.known.is_none() && cursor.as_ref().is_some_and(|cursor| *cursor <= change.path)
    }

    /// Whether a deletion waits for what its side made before it in the same place, or moved out of it.
    fn deletion_waits(&mut self, side: Side, change: &Change, path: &RelPath, now: Millis) -> bool {
        let state = &self.sides[side];
        if state.cursor.is_some() {
            // Its object may turn up under another name; and the guard must see all deletions at once.
            self.blocked.insert(path.clone());
            return true;
        }
        let since = state.pending.get(path).map_or(now, |p| p.since);
        if now >= since + DELETION_WAIT {
            return false;
        }
        // Else it would go with its old directory, and have to be sent again.
        let moves_out = self.places.out_of(side, path).any(|place| !self.has_problem(&place.path));
        if moves_out {
            self.blocked_moves.insert(path.clone());
        }
        let waits = moves_out || self.side(side).creations.hold(change.seq, path);
        if waits {
            self.timers.insert((since + DELETION_WAIT, path.clone()));
        }
        waits
    }

    fn carry_out(&mut self, path: &RelPath, changes: Sides<Option<Change>>, verdict: Verdict, now: Millis) {
        match verdict {
            Verdict::Nothing => self.withdraw(path),
            Verdict::Forget => self.forget(path, changes),
            Verdict::Compare => {
                let hashed = |change: &Change| change.after.as_ref().is_some_and(|entry| entry.hash().is_some());
                self.ask_to_read(path, &changes, hashed, now);
            }
            Verdict::Prove => {
                let read = |change: &Change| change.read || change.after.is_none();
                self.ask_to_read(path, &changes, read, now);
            }
            Verdict::Read => {
                let read = |change: &Change| change.read || change.contents || !change.touched;
                self.ask_to_read(path, &changes, read, now);
            }
            Verdict::Remove { on } => self.remove(path, changes, on, false, now),
            // The directory that is to make way was moved: its move makes way, and all in it stays what it is.
            Verdict::RemoveFirst { on } if self.is_moved_away(path, &changes, on.other()) => self.wait_for_move(path),
            Verdict::RemoveFirst { on } => self.remove(path, changes, on, true, now),
            Verdict::Settle { .. } if self.waits_for_former(path, &changes, now) => {}
            Verdict::Settle { entry, from, needs, loser, dropped } => {
                self.settle(path, changes, entry, from, needs, loser, dropped);
            }
        }
    }

    /// Asks each side to read its file that has not `read` it yet. The side that waits is woken by the other's report.
    fn ask_to_read(
        &mut self,
        path: &RelPath,
        changes: &Sides<Option<Change>>,
        read: impl Fn(&Change) -> bool,
        now: Millis,
    ) {
        if self.strikes.get(path).is_some_and(|(_, due)| *due > now) {
            // Somebody writes it, or it went away: what was asked before could not be answered. Its timer is set.
            return;
        }
        self.strike(path, now);
        for side in Side::BOTH {
            if !changes[side].as_ref().is_some_and(&read) {
                self.count_try(side, path, None);
                self.drop_pending(side, path);
                self.side(side).asked.insert(path.clone());
                self.send(side, crate::protocol::Request::Hash { path: path.clone() });
            }
        }
    }

    /// Both sides are where they should be.
    pub(super) fn withdraw(&mut self, path: &RelPath) {
        for side in Side::BOTH {
            self.drop_pending(side, path);
        }
        self.solve(path);
        self.wake_below(path);
    }

    pub(super) fn forget(&mut self, path: &RelPath, changes: Sides<Option<Change>>) {
        let Some(node) = node_of(&changes) else { return self.withdraw(path) };
        let parts = Sides::from_fn(|side| Part::Record { seq: seq_of(&changes, side), from: None });
        self.launch(Flight::new(path, node, None, parts, changes), Reach::Tree);
    }

    pub(super) fn remove(
        &mut self,
        path: &RelPath,
        changes: Sides<Option<Change>>,
        on: Side,
        first: bool,
        now: Millis,
    ) {
        if first && self.sides[on.other()].cursor.is_some() {
            // What is to make way may turn up under another name: its move makes way then, and keeps all that is in it.
            self.blocked.insert(path.clone());
            return self.stall_at(path);
        }
        let Some(node) = node_of(&changes) else { return self.withdraw(path) };
        let expect = expectation(&changes, on);
        let mut parts = Sides::from_fn(|side| Part::Record { seq: seq_of(&changes, side), from: None });
        let step = Step::Remove { expect, force: self.settings.force };
        parts[on] = Part::Apply(Apply { path: path.clone(), parent: None, node, step, joint: false });
        let mut flight = Flight::new(path, node, None, parts, changes);
        // What waits for its turn comes here again, and is counted once it has it.
        if !self.has_its_turn(&flight, Reach::Tree) {
            return;
        }
        match self.admit(&flight, on, first, now) {
            Ok(young) => flight.young = young,
            Err(all) => {
                let reason = format!("{path}: {all} more deletions would be too many within ten minutes");
                let advice =
                    format!("nothing more is propagated; to take the deletions: {}", self.settings.go_on("--accept"));
                return self.halt(reason, advice);
            }
        }
        self.begin(flight, Reach::Tree);
    }

    /// Has the guard count a removal. Says how many of its objects are young; else how many would be too many.
    fn admit(&mut self, removal: &Flight, on: Side, first: bool, now: Millis) -> Result<u64, u64> {
        let by = on.other();
        let loss = gone(&removal.changes, by);
        // What makes way for another object is none of the deletions that wait.
        let waiting = self.sides[by].deleting.less(if first { Loss::default() } else { loss });
        let most = self.sides[by].young.most(now);
        let young = if self.accept { 0 } else { loss.young.min(most) };
        let (count, waiting) = (loss.counts(young), waiting.counts(most - young));
        if self.accept {
            self.guard.gone(loss.all);
        } else if !self.guard.admit(count, waiting, now) {
            return Err(count + waiting);
        } else {
            self.guard.gone(young);
            self.sides[by].young.take(young);
        }
        Ok(young)
    }

    #[allow(clippy::too_many_arguments)]
    fn settle(
        &mut self,
        path: &RelPath,
        mut changes: Sides<Option<Change>>,
        entry: Entry,
        from: Side,
        needs: Sides<Need>,
        loser: Option<Side>,
        dropped: Rights,
    ) {
        let next = self.next_generation;
        let node = node_of(&changes).unwrap_or(next);
        // Should it be refused, they are asked for: kept with each action under way they would fill the memory.
        let (left, right) = changes.as_mut().map(|change| change.as_mut().and_then(|c| c.inline.take())).split();
        let inline = if from == Side::Left { left } else { right };
        // What came with the report is left aside then: all contents are rsync's.
        let mut source = match source(&entry, inline.filter(|_| !self.settings.rsync)) {
            Source::Stream if self.settings.rsync => Source::Rsync,
            source => source,
        };
        let reads = self.held(from, needs, &changes).filter(|_| source.way().is_some());
        if reads.as_ref().is_some_and(|like| !self.locks.is_free(&like.from, Reach::Object)) {
            // It is being replaced; what it was can still be copied after that.
            self.blocked_moves.insert(path.clone());
            self.stall_at(path);
            return;
        }
        if let Some(like) = &reads {
            source = Source::Held { from: like.from.clone(), node: like.node, known: like.generation };
        }
        let joint = !needs.values().any(|need| *need == Need::Record);
        let parts = Sides::from_fn(|side| {
            let expect = expectation(&changes, side);
            let step = match needs[side] {
                Need::Record => return Part::Record { seq: seq_of(&changes, side), from: None },
                Need::Attributes => Step::SetAttrs { entry: entry.clone(), expect },
                Need::Contents => {
                    let displaced = match loser == Some(side) {
                        true => self.displaced(path, &changes, side),
                        false => Displaced::Trash,
                    };
                    let source = match source == Source::Stream && self.is_delta(&changes, side, &entry) {
                        true => Source::Delta,
                        false => source.clone(),
                    };
                    Step::Put { entry: entry.clone(), expect, displaced, source }
                }
            };
            Part::Apply(Apply { path: path.clone(), parent: None, node, step, joint })
        });
        let mut flight = Flight::new(path, node, Some(entry), parts, changes);
        flight.dropped = dropped;
        flight.loser = loser;
        if matches!((needs[from], needs[from.other()]), (Need::Attributes, Need::Contents)) {
            flight.do_last(from);
        }
        flight.reads = reads.map(|like| like.from);
        if source.way().is_some() && needs.values().any(|need| *need == Need::Contents) {
            flight.supplied_by(from);
        }
        // What is new in a directory must not be seen by those whom its new rights keep out.
        let sets = |part: &Part| matches!(part, Part::Apply(apply) if matches!(apply.step, Step::SetAttrs { .. }));
        let is_dir = flight.entry.as_ref().is_some_and(|entry| entry.kind() == Kind::Dir);
        let reach = if is_dir && flight.parts.values().any(sets) { Reach::Rights } else { Reach::Object };
        self.launch(flight, reach);
    }

    /// What the other side can copy instead of having the contents sent: nothing may be going on there.
    fn held(&self, from: Side, needs: Sides<Need>, changes: &Sides<Option<Change>>) -> Option<Like> {
        let to = from.other();
        let alone = needs[to] == Need::Contents && needs[from] == Need::Record;
        let like = changes[from].as_ref().filter(|_| alone)?.like.clone()?;
        let pending = self.sides[to].pending.contains_key(&like.from);
        (!pending).then_some(like)
    }

    /// Whether the contents replace others, both large enough that telling what is there pays.
    fn is_delta(&self, changes: &Sides<Option<Change>>, side: Side, entry: &Entry) -> bool {
        let there = match (&changes[side], &changes[side.other()]) {
            (Some(own), _) => own.after.as_ref(),
            (None, other) => other.as_ref().and_then(|c| c.known.as_ref()).map(|k| &k.entry),
        };
        let large = |entry: &Entry| entry.kind() == Kind::File && entry.size() >= self.settings.delta_min;
        large(entry) && there.is_some_and(large)
    }

    fn displaced(&self, path: &RelPath, changes: &Sides<Option<Change>>, loser: Side) -> Displaced {
        let lost = match (&changes[loser], &changes[loser.other()]) {
            (Some(own), _) => own.after.as_ref(),
            // It has what was agreed on.
            (None, other) => other.as_ref().and_then(|c| c.known.as_ref()).map(|known| &known.entry),
        };
        let met_first = self.first && changes.values().flatten().all(|c| c.known.is_none());
        match (path.name(), lost) {
            (Some(name), Some(lost)) if self.settings.copies && !met_first => {
                let copy = conflict::copy_name(&name, loser.word(), lost.attrs.mtime.secs, None);
                // A conflict about a copy of the same side and second: the winner keeps that very name.
                Displaced::Copy(if copy == name { conflict::next_name(&copy, path, 1) } else { copy })
            }
            _ => Displaced::Trash,
        }
    }

    /// Begins a flight if its paths are free and its directory is known. Else its path comes up again when they are.
    pub(super) fn launch(&mut self, mut flight: Flight, reach: Reach) {
        if !self.has_its_turn(&flight, reach) {
            return;
        }
        // In a dry run a directory that is not there yet never gets a node.
        if flight.entry.is_some() && flight.wants_parent() && !self.settings.dry_run {
            match self.parent_of(&flight) {
                Some(parent) => flight.set_parent(parent),
                None => return self.ask_for_parent(&flight),
            }
        }
        self.begin(flight, reach);
    }

    /// Whether nothing else is in flight at a flight's paths. Where something is, the path is woken when that is over.
    fn has_its_turn(&mut self, flight: &Flight, reach: Reach) -> bool {
        if flight.paths().iter().all(|path| self.locks.is_free(path, reach)) {
            return true;
        }
        match flight.also.is_empty() {
            true => self.blocked.insert(flight.path.clone()),
            false => self.blocked_moves.insert(flight.path.clone()),
        };
        // A move that is undone was reported elsewhere.
        let reported = flight.changes.values().flatten().map(|change| change.path.clone());
        self.blocked_moves.extend(reported.filter(|at| *at != flight.path));
        self.stall_at(&flight.path);
        false
    }

    /// Gives the flight its generation and sends its first requests.
    fn begin(&mut self, mut flight: Flight, reach: Reach) {
        let generation: Generation = self.next_generation;
        self.next_generation += 1;
        for path in flight.paths() {
            self.locks.take(&path, reach);
        }
        if let Some(path) = &flight.reads {
            self.locks.take(path, Reach::Object);
        }
        let reported = flight.changes.values().zip(self.sides.values()).filter_map(|(change, side)| {
            change.as_ref().and_then(|change| side.pending.get(&change.path)).map(|pending| pending.since)
        });
        // What nobody reported (a move that is undone) has kept nobody waiting.
        flight.since = reported.min().unwrap_or(Millis::MAX);
        for side in Side::BOTH {
            if flight.changes[side].is_some() {
                let path = flight.changes[side].as_ref().map(|c| c.path.clone());
                if let Some(path) = path {
                    self.take_pending(side, &path, flight.is_long());
                }
            }
        }
        flight.reach = reach;
        if flight.entry.as_ref().is_some_and(|e| e.kind() == Kind::Dir) {
            self.making.insert(flight.path.clone(), flight.node);
        }
        self.tell_begun(generation, &flight);
        if self.settings.dry_run {
            self.land(&flight);
            return;
        }
        for side in Side::BOTH {
            if let Part::Apply(apply) = &flight.parts[side]
                && flight.last != Some(side)
            {
                self.fx.push(Effect::Send(side, crate::protocol::Request::Apply { generation, apply: apply.clone() }));
            }
        }
        if let Some((side, seq)) = flight.supply {
            self.streams += 1;
            self.carried += flight.carried();
            flight.streaming = true;
            let path = flight.source_path(side);
            let way = flight.way().unwrap_or(Way::Stream);
            self.send(side, crate::protocol::Request::Supply { generation, path, seq, way });
        }
        self.flights.insert(generation, flight);
        self.advance(generation);
    }

    /// The node of the directory above: as it is being made, else as the sides know it.
    fn parent_of(&self, flight: &Flight) -> Option<NodeId> {
        let above = flight.path.parent()?;
        if above.is_root() {
            return Some(ROOT_NODE);
        }
        if let Some(node) = self.making.get(&above) {
            return Some(*node);
        }
        let mut known = flight.changes.values().flatten().filter(|c| c.path == flight.path).filter_map(|c| c.parent);
        match known.next() {
            Some(parent) => known.all(|other| other == parent).then_some(parent),
            // If another directory lies there by now, the action is refused.
            None => self.made.get(&above).copied().filter(|_| self.moves == 0),
        }
    }

    /// What was reported before its directory was recorded, or in two different directories, is reported again.
    fn ask_for_parent(&mut self, flight: &Flight) {
        // If the answer is no better, it waits: a directory that cannot be reported must not be asked for without end.
        self.strike(&flight.path.clone(), self.now);
        for side in Side::BOTH {
            if let Some(change) = &flight.changes[side] {
                self.drop_pending(side, &change.path);
                self.ask_again(side, change);
            }
        }
    }

    /// Takes a pending change into a flight. Deletions wait for what it makes until the flight is over, but not while
    /// large contents are on their way.
    fn take_pending(&mut self, side: Side, path: &RelPath, long: bool) {
        let Some(Pending { change, .. }) = self.remove_pending(side, path) else { return };
        if long {
            self.end_creation(side, change.seq);
        } else if change.after.is_some() {
            self.side(side).creations.begin(change.seq, path);
        }
        if let Some(moved) = &change.moved {
            self.places.set(side, moved.known.node, path, Standing::Flying);
        }
        self.wake_below(path);
    }

    fn tell_begun(&mut self, generation: Generation, flight: &Flight) {
        let mut news = Vec::new();
        for side in Side::BOTH {
            let Part::Apply(apply) = &flight.parts[side] else { continue };
            let what = apply.step.word();
            let begun = |path: &RelPath, from: Option<&RelPath>, bytes: u64| News::Begun {
                generation,
                side,
                what,
                path: path.clone(),
                from: from.cloned(),
                bytes,
                loses: flight.loser == Some(side),
            };
            let bytes = flight.entry.as_ref().map_or(0, Entry::size);
            match &apply.step {
                Step::Move { from, .. } => news.push(begun(&apply.path, Some(from), bytes)),
                Step::Exchange { from, other, .. } => {
                    news.push(begun(&apply.path, Some(from), bytes));
                    news.extend(other.at.as_ref().map(|at| begun(&other.to, Some(at), 0)));
                }
                Step::Put { .. } | Step::SetAttrs { .. } | Step::Remove { .. } => {
                    news.push(begun(&apply.path, None, bytes));
                }
            }
        }
        self.fx.extend(news.into_iter().map(Effect::Tell));
    }
}

/// The objects that go with a removal, as the side that deletes tells it.
pub(super) fn gone(changes: &Sides<Option<Change>>, by: Side) -> Loss {
    let told = changes[by].as_ref().or(changes[by.other()].as_ref());
    told.map_or(Loss { all: 1, young: 0 }, Loss::of)
}

fn source(entry: &Entry, inline: Option<ByteBuf>) -> Source {
    match (&entry.content, inline) {
        (Content::File { size: 0, .. }, _) => Source::Inline(ByteBuf::new()),
        (Content::File { .. }, Some(bytes)) => Source::Inline(bytes),
        (Content::File { .. }, None) => Source::Stream,
        _ => Source::Nothing,
    }
}

/// The node that the path has in the archives, by the later agreement.
pub(super) fn node_of(changes: &Sides<Option<Change>>) -> Option<NodeId> {
    let known = changes.values().flatten().filter_map(|c| c.known.as_ref());
    known.max_by_key(|k| k.generation).map(|k| k.node)
}

pub(super) fn seq_of(changes: &Sides<Option<Change>>, side: Side) -> u64 {
    changes[side].as_ref().map_or(0, |c| c.seq)
}

/// What a side must hold for a step there: what it reported; else the ancestor that the other side names.
pub(super) fn expectation(changes: &Sides<Option<Change>>, side: Side) -> Expect {
    match (&changes[side], &changes[side.other()]) {
        // A report that equals its ancestor is soon void there; the row says the same for longer.
        (Some(Change { known: Some(known), after: Some(after), moved: None, .. }), _) if known.entry == *after => {
            Expect::Row(known.generation)
        }
        (Some(Change { known: None, after: None, .. }), _) => Expect::Absent,
        (Some(own), _) => Expect::Report(own.seq),
        (None, Some(other)) => other.known.as_ref().map_or(Expect::Absent, |k| Expect::Row(k.generation)),
        (None, None) => Expect::Absent,
    }
}
