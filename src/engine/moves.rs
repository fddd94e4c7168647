//! Moves: one rename on the other side, whatever the size of what moved; and what to do when both sides moved.

use std::collections::BTreeSet;

use crate::model::{Kind, Millis, RelPath, Side, Sides};
use crate::protocol::{Apply, Change, Expect, Moved, Request, Step};

use super::exchange::{Leaver, Occupant, Theirs, WayOut};
use super::flight::{Flight, Part};
use super::locks::Reach;
use super::places::{Place, Standing};
use super::plan::{expectation, node_of};
use super::{DELETION_WAIT, Engine};

/// What is gone on one side, and moved or edited on the other, waits this long for word of where it went.
pub(super) const LOST_WAIT: Millis = 1_000;

/// A move that was refused so often is carried over as a new object and a deletion.
const HOPELESS: u32 = 8;

impl Engine {
    /// Acts on a path to which something was moved on at least one side.
    pub(super) fn consider_move(&mut self, path: &RelPath, changes: Sides<Option<Change>>, now: Millis) {
        let sides = Sides::from_fn(|side| changes[side].as_ref().and_then(|c| c.moved.clone()));
        if let (Some(left), Some(right)) = (&sides[Side::Left], &sides[Side::Right])
            && left.known.node == right.known.node
        {
            return self.agree_on_move(path, changes, left, now);
        }
        if self.makes_way(path, &sides) {
            return self.wait_for_move(path);
        }
        // Two different objects came to one name: each is a copy there, and the conflict rule decides.
        let taken = changes.values().all(|c| c.as_ref().is_some_and(is_new));
        let mover = if sides[Side::Left].is_some() { Side::Left } else { Side::Right };
        let Some(moved) = sides[mover].clone() else { return };
        match self.occupant(path, &changes, mover, now) {
            Occupant::Gone => match self.taker(path, &moved, mover) {
                None => {}
                Some(_) if self.has_waited(mover, path, now) => {}
                Some(true) => return self.wait_for_move(path),
                Some(false) => return self.as_copy(mover, path),
            },
            Occupant::Unknown => return self.stall_at(path),
            Occupant::Left(leaver) => match self.way_out(path, &changes, mover, &moved, &leaver) {
                WayOut::None => {}
                WayOut::Close(at) if self.close_first(&at, path, mover, now) => return,
                WayOut::Close(_) => {}
                WayOut::Move if self.has_waited(mover, path, now) => return self.as_copy(mover, path),
                WayOut::Move => return self.wait_for_move(path),
                WayOut::Exchange => {
                    return match self.stand_in(path, &leaver, mover) {
                        Theirs::Waits => self.wait_for_move(path),
                        theirs => self.follow_move(path, changes, mover, moved, Some((leaver, theirs)), now),
                    };
                }
            },
        }
        let over_dir = changes[mover]
            .as_ref()
            .and_then(|c| c.known.as_ref())
            .is_some_and(|over| over.entry.kind() == Kind::Dir || moved.known.entry.kind() == Kind::Dir);
        // The other side's name for it, if there is one, is tried first.
        let theirs = self.places.of(mover.other(), moved.known.node);
        let hopeless = self.is_hopeless(path) && theirs.is_none_or(|place| self.is_hopeless(&place.path));
        if over_dir && !taken && !hopeless {
            // The directory that lay there is gone on this side, or this is no place for one: it goes there first.
            let target = mover.other();
            if changes[target].as_ref().is_some_and(|c| c.after.is_none()) {
                return self.forget(path, changes);
            }
            return self.remove(path, changes, target, true, now);
        }
        if taken || hopeless {
            for side in Side::BOTH {
                if sides[side].is_some() {
                    self.as_copy(side, path);
                }
            }
            return;
        }
        self.follow_move(path, changes, mover, moved, None, now);
    }

    /// Both sides moved the node to the same name.
    fn agree_on_move(&mut self, path: &RelPath, changes: Sides<Option<Change>>, moved: &Moved, now: Millis) {
        // What lay there lives on, on both sides: it takes the place that this one had. Where one of them has it no more something
        // else may lie in that place, and would pass for it: there it is gone, and comes again from the other.
        let over = Sides::from_fn(|side| self.occupant(path, &changes, side, now));
        if over.values().any(|over| *over == Occupant::Unknown) {
            return self.stall_at(path);
        }
        let leaver = match over.split() {
            (Occupant::Left(leaver), Occupant::Left(_)) => Some(leaver),
            _ => None,
        };
        let home = self.places.agreed(Side::Left, &moved.from);
        if leaver.is_some() && (path.is_within(&home) || home.is_within(path)) {
            // One came out of the other, which goes first.
            return match self.has_waited(Side::Left, path, now) {
                true => Side::BOTH.into_iter().for_each(|side| self.as_copy(side, path)),
                false => self.wait_for_move(path),
            };
        }
        let from = Some(moved.from.clone());
        let parts = Sides::from_fn(|side| {
            let seq = changes[side].as_ref().map_or(0, |c| c.seq);
            Part::Record { seq, from: from.clone() }
        });
        let mut flight = Flight::new(path, moved.known.node, Some(moved.known.entry.clone()), parts, changes);
        flight.exchanged = leaver.as_ref().map(|leaver| leaver.known.node);
        flight.also = from.into_iter().collect();
        for side in Side::BOTH {
            let other = flight.exchanged.and_then(|other| self.places.of(side, other));
            flight.also.extend(other.map(|place| place.path.clone()));
        }
        self.launch(flight, Reach::Tree);
    }

    /// Whether another known file has the name that this one left, and takes its place there: that goes first, and the name is never
    /// without a file. `Some(false)`: it cannot, for the other side has deleted it.
    fn taker(&self, path: &RelPath, moved: &Moved, mover: Side) -> Option<bool> {
        let place = self.places.at(mover, &moved.from).filter(|place| place.standing == Standing::Pending)?;
        let changes = Sides::from_fn(|side| self.sides[side].pending.get(&place.path).map(|p| p.change.clone()));
        let taker = changes[mover].as_ref()?.moved.clone()?;
        if (taker.known.entry.kind(), moved.known.entry.kind()) != (Kind::File, Kind::File) {
            return None;
        }
        let target = mover.other();
        if self.places.of(target, moved.known.node).is_some() {
            // It has left the name on the other side as well.
            return None;
        }
        let leaver = Leaver { known: moved.known.clone(), at: path.clone() };
        let exchanged = self.way_out(&place.path, &changes, mover, &taker, &leaver) == WayOut::Exchange;
        let lost = self.places.of(target, taker.known.node).is_none()
            && self.gone(target, &self.places.agreed(mover, &taker.from)).is_some();
        exchanged.then_some(!lost)
    }

    fn follow_move(
        &mut self,
        path: &RelPath,
        changes: Sides<Option<Change>>,
        mover: Side,
        moved: Moved,
        leaver: Option<(Leaver, Theirs)>,
        now: Millis,
    ) {
        let (node, target) = (moved.known.node, mover.other());
        let theirs = self.places.of(target, node).cloned();
        // Whoever moved the directory that it came out of as well names that by its new name.
        let agreed = self.places.agreed(mover, &moved.from);
        // The other side may have renamed it too.
        let mut from = self.places.named(target, &agreed);
        let mut changes = changes;
        let over = changes[mover].as_ref().and_then(|c| c.known.as_ref());
        let expect = match &changes[target] {
            Some(_) => expectation(&changes, target),
            None => over.map_or(Expect::Absent, |k| Expect::Row(k.generation)),
        };
        if let Some(other) = &theirs {
            // Moved on both sides. The other name waits as well while its own move is under way or asked for again, else
            // each side would take the other's name in turn.
            let (left, right) = if mover == Side::Left { (path, &other.path) } else { (&other.path, path) };
            if let Some(since) = self.gone_above(left)
                && !self.has_told(Side::Right, since, path, now)
            {
                // It may have moved as well.
                return self.stall_at(path);
            }
            if mover != self.winner(left, right) || other.standing != Standing::Pending {
                self.ready.extend((other.standing == Standing::Pending).then(|| other.path.clone()));
                return self.wait_for_move(path);
            }
        }
        let there = theirs.as_ref().map_or(&from, |place| &place.path);
        if let Some(theirs) = self.crossed(path, there, mover) {
            return match (theirs.standing, mover) {
                (Standing::Flying | Standing::Asked, _) => self.wait_for_move(path),
                (Standing::Pending, Side::Right) => self.undo_move(path),
                (Standing::Pending, Side::Left) => self.undo_move(&theirs.path),
            };
        }
        if let Some(other) = theirs {
            // The other side has it under its own new name: rename it from there.
            changes[target] = self.sides[target].pending.get(&other.path).map(|p| p.change.clone());
            from = other.path;
        } else if let Some(since) = self.gone(target, &agreed) {
            // It may turn up under another name. If it does not it was deleted: the moved object is newer, and restored.
            return match self.is_lost(target, since, path, now) {
                true => self.as_copy(mover, path),
                false => self.stall_at(path),
            };
        } else if let Some(pending) = self.sides[target].pending.get(&from) {
            // Edited there: the move first, then the edit under the new name.
            let kind = pending.change.after.as_ref().map(|entry| entry.kind());
            if kind.is_some_and(|kind| kind != moved.known.entry.kind()) {
                return self.as_copy(mover, path);
            }
        }
        if leaver.is_some() && changes[target].as_ref().is_some_and(|there| there.path == *path) {
            // What was done there to the one that leaves is said of it anew, in its new place.
            changes[target] = None;
        }
        let mut parts = Sides::from_fn(|_| Part::Nothing);
        let seq = changes[mover].as_ref().map_or(0, |c| c.seq);
        parts[mover] = Part::Record { seq, from: Some(moved.from.clone()) };
        let mut entry = moved.known.entry.clone();
        if let Some(after) = changes[mover].as_ref().and_then(|change| change.after.as_ref()) {
            // What its side keeps from others by now goes with it.
            entry.attrs.mode &= after.attrs.mode | !0o777;
        }
        let known = moved.known.generation;
        let apply = match &leaver {
            Some((leaver, theirs)) => Engine::exchange(path, (&from, &agreed), &moved, (leaver, theirs)),
            None => {
                let step = Step::Move { from: from.clone(), known, entry: entry.clone(), expect };
                Apply { path: path.clone(), parent: None, node, step, joint: false }
            }
        };
        parts[target] = Part::Apply(apply);
        let mut flight = Flight::new(path, node, Some(entry), parts, changes);
        flight.also = vec![moved.from, agreed, from];
        if let Some((leaver, theirs)) = leaver {
            flight.exchanged = Some(leaver.known.node);
            flight.also.push(leaver.at);
            if let Theirs::Stays(at) | Theirs::Goes(at) = theirs {
                flight.also.push(at);
            }
        }
        flight.also.sort();
        flight.also.dedup();
        self.launch(flight, Reach::Tree);
    }

    /// Whether what the right moved to `path` has another name on the left, which it gets first.
    fn makes_way(&self, path: &RelPath, sides: &Sides<Option<Moved>>) -> bool {
        let (Some(_), Some(right)) = (&sides[Side::Left], &sides[Side::Right]) else { return false };
        let named = self.places.of(Side::Left, right.known.node).filter(|place| place.path != *path);
        named.is_some_and(|place| self.winner(&place.path, path) == Side::Left && !self.is_hopeless(path))
    }

    /// Whose name a node has that both sides moved: the left's, but where the right has deleted the directory of that, or
    /// will not have it there.
    pub(super) fn winner(&self, left: &RelPath, right: &RelPath) -> Side {
        let gone = self.gone_above(left).is_some();
        let refused = self.is_hopeless(left) && !self.is_hopeless(right);
        if gone || refused { Side::Right } else { Side::Left }
    }

    /// Since when the directory in which the left has something is gone on the right: as both last agreed to call it, since
    /// under the left's name for it the right may have another.
    fn gone_above(&self, left: &RelPath) -> Option<Millis> {
        let above = self.places.agreed(Side::Left, left).parent()?;
        self.gone(Side::Right, &above)
    }

    /// Whether a move to this path was refused again and again: the two sides know different things of the node.
    pub(super) fn is_hopeless(&self, path: &RelPath) -> bool {
        self.strikes.get(path).is_some_and(|(strikes, _)| *strikes >= HOPELESS)
    }

    /// Whether a side says that it moved what both last agreed on at this path.
    pub(super) fn is_moved_away(&self, path: &RelPath, changes: &Sides<Option<Change>>, side: Side) -> bool {
        node_of(changes).and_then(|node| self.places.of(side, node)).is_some_and(|place| place.path != *path)
    }

    /// Whether one side says that something new lies where both last agreed on a directory, and that it moved that one: the move
    /// goes first, or the new object would get the directory's node. But for one that was moved into what took its name, which
    /// waits itself: that is carried over as a new one.
    pub(super) fn waits_for_former(&mut self, path: &RelPath, changes: &Sides<Option<Change>>, now: Millis) -> bool {
        let known = changes.values().flatten().filter_map(|change| change.known.as_ref());
        let Some(former) = known.max_by_key(|known| known.generation).filter(|k| k.entry.kind() == Kind::Dir) else {
            return false;
        };
        let new = |side: Side| changes[side].as_ref().is_some_and(|c| c.known.is_none() && c.after.is_some());
        let moved = |side: Side| {
            let place = self.places.of(side, former.node).filter(|place| place.path != *path)?;
            let since = self.sides[side].pending.get(&place.path).map(|pending| pending.since);
            new(side).then(|| (side, place.path.clone(), since))
        };
        let Some((side, there, since)) = Side::BOTH.into_iter().find_map(moved) else { return false };
        match since {
            // Or one waits for the other in a circle of several.
            Some(since) if there.is_below(path) || now >= since + DELETION_WAIT => {
                self.as_copy(side, &there);
                // What lies here now is compared with what was agreed on, from then on.
                self.drop_pending(side, path);
                self.ask(side, path.clone(), false);
            }
            since => {
                self.timers.extend(since.map(|since| (since + DELETION_WAIT, path.clone())));
                self.wait_for_move(path);
            }
        }
        true
    }

    /// Whether a move has waited long enough for another one. Each may wait for what the other side does in the other's place.
    fn has_waited(&mut self, mover: Side, path: &RelPath, now: Millis) -> bool {
        let since = self.sides[mover].pending.get(path).map_or(now, |pending| pending.since);
        self.timers.insert((since + DELETION_WAIT, path.clone()));
        now >= since + DELETION_WAIT
    }

    /// Considered again when a move has ended, on either side.
    pub(super) fn wait_for_move(&mut self, path: &RelPath) {
        self.blocked_moves.insert(path.clone());
        self.stall_at(path);
    }

    /// Whether what is gone on a side since then has turned up nowhere else by now, as far as the side knows when all is
    /// looked at. Until then the path is considered again.
    pub(super) fn is_lost(&mut self, side: Side, since: Millis, path: &RelPath, now: Millis) -> bool {
        let due = since + LOST_WAIT;
        if now < due || self.sides[side].cursor.is_some() {
            self.timers.insert((due.max(now + 100), path.clone()));
            return false;
        }
        self.has_told(side, since, path, now)
    }

    /// Whether a side has said all that it knew at that time, the end of a scan included. Until then the path is considered
    /// again.
    pub(super) fn has_told(&mut self, side: Side, since: Millis, path: &RelPath, now: Millis) -> bool {
        if self.sides[side].cursor.is_some() {
            self.timers.insert((now + 100, path.clone()));
            return false;
        }
        if self.sides[side].settled.is_some_and(|asked| asked >= since) {
            return true;
        }
        // Its answer wakes whoever has come since, to ask again: asked anew each time it would never come.
        if self.sides[side].inquiry.is_none() {
            self.pings += 1;
            let number = self.pings;
            self.sides[side].inquiry = Some((number, now));
            self.send(side, Request::Ping { number });
        }
        self.blocked_moves.insert(path.clone());
        false
    }

    pub(super) fn side_settled(&mut self, side: Side, number: u64) {
        let state = &mut self.sides[side];
        if let Some((_, asked)) = state.inquiry.take_if(|(inquiry, _)| *inquiry == number) {
            state.settled = Some(asked);
            self.wake_moves();
        }
    }

    /// Since when what lay at a path is gone on a side, by itself or with a directory, and was moved by nobody there.
    pub(super) fn gone(&self, side: Side, path: &RelPath) -> Option<Millis> {
        let above = path.ancestors().filter(|above| !above.is_root());
        std::iter::once(path.clone()).chain(above).find_map(|at| {
            let pending = self.sides[side].pending.get(&at).filter(|p| p.change.after.is_none())?;
            let node = pending.change.known.as_ref()?.node;
            self.places.of(side, node).is_none().then_some(pending.since)
        })
    }

    /// The other side's move of a directory into this one, which was moved into that one here: one of them is undone. The
    /// other side has this one `there`.
    fn crossed(&self, path: &RelPath, there: &RelPath, mover: Side) -> Option<Place> {
        let mut theirs = path.ancestors().flat_map(|above| self.places.away_from(mover.other(), &above));
        theirs.find(|theirs| theirs.path.is_below(there)).cloned()
    }

    /// Renames what the right side moved back to where it was; what it has moved there in its place goes back first.
    fn undo_move(&mut self, path: &RelPath) {
        let (mut path, mut tried) = (path.clone(), BTreeSet::new());
        loop {
            let Some(change) = self.sides[Side::Right].pending.get(&path).map(|p| p.change.clone()) else {
                return;
            };
            let Some(moved) = change.moved.clone() else { return };
            let there = self.places.at(Side::Right, &moved.from).cloned();
            if !tried.insert(path.clone()) || self.is_hopeless(&moved.from) {
                // They have each other's names, or something else has this one: it is a new object where it lies.
                return self.as_copy(Side::Right, &path);
            }
            match there {
                None => return self.undo(&change, moved),
                Some(place) if place.standing == Standing::Pending => path = place.path,
                Some(_) => return self.wait_for_move(&path),
            }
        }
    }

    fn undo(&mut self, change: &Change, moved: Moved) {
        let node = moved.known.node;
        let entry = moved.known.entry.clone();
        let known = moved.known.generation;
        let step = Step::Move { from: change.path.clone(), known, entry: entry.clone(), expect: Expect::Absent };
        let apply = Apply { path: moved.from.clone(), parent: None, node, step, joint: false };
        let parts = Sides::new(Part::Record { seq: 0, from: None }, Part::Apply(apply));
        let also = vec![change.path.clone()];
        let mut flight = Flight::new(&moved.from, node, Some(entry), parts, Sides::new(None, Some(change.clone())));
        flight.also = also;
        self.launch(flight, Reach::Tree);
    }

    /// The moved object counts as a new one under its new name; the old name's deletion is reported by itself.
    fn as_copy(&mut self, side: Side, path: &RelPath) {
        self.drop_pending(side, path);
        self.ask(side, path.clone(), true);
    }
}

/// Whether a report speaks of an object that is not the ancestor: a refusal tells of what it found unchanged, too.
fn is_new(change: &Change) -> bool {
    let as_known = || change.known.as_ref().map(|known| &known.entry) == change.after.as_ref();
    change.after.is_some() && (change.moved.is_some() || change.contents || !as_known())
}
