//! Moves: one rename on the other side, whatever the size of what moved; and what to do when both sides moved.

use crate::endpoint::message::Request;
use crate::model::{Apply, Change, Expect, Kind, Millis, Moved, RelPath, Side, Step};

use super::flight::{Flight, Part};
use super::locks::Reach;
use super::places::{Place, Standing};
use super::plan::{expectation, node_of};
use super::{DELETION_WAIT, Engine, index};

/// What is gone on one side, and moved or edited on the other, waits this long for word of where it went.
pub(super) const LOST_WAIT: Millis = 1_000;

/// A move that was refused so often is carried over as a new object and a deletion.
const HOPELESS: u32 = 8;

impl Engine {
    /// Acts on a path to which something was moved on at least one side.
    pub(super) fn consider_move(&mut self, path: &RelPath, changes: [Option<Change>; 2], now: Millis) {
        let sides = Side::BOTH.map(|side| changes[index(side)].as_ref().and_then(|c| c.moved.clone()));
        if let [Some(left), Some(right)] = &sides
            && left.known.node == right.known.node
        {
            return self.agree_on_move(path, changes, left);
        }
        // Two different objects came to one name: each is a copy there, and the conflict rule decides.
        let taken = changes.iter().all(|c| c.as_ref().is_some_and(is_new));
        let mover = if sides[0].is_some() { Side::Left } else { Side::Right };
        let Some(moved) = sides[index(mover)].clone() else { return };
        let over_dir = changes[index(mover)]
            .as_ref()
            .and_then(|c| c.known.as_ref())
            .is_some_and(|over| over.entry.kind() == Kind::Dir || moved.known.entry.kind() == Kind::Dir);
        // The other side's name for it, if there is one, is tried first.
        let theirs = self.places.of(mover.other(), moved.known.node);
        let hopeless = self.is_hopeless(path) && theirs.is_none_or(|place| self.is_hopeless(&place.path));
        if over_dir && !taken && !hopeless {
            // The directory that lay there is gone on this side, or this is no place for one: it goes there first.
            let target = mover.other();
            if changes[index(target)].as_ref().is_some_and(|c| c.after.is_none()) {
                return self.forget(path, changes);
            }
            return self.remove(path, changes, target, true, now);
        }
        if taken || hopeless {
            for side in Side::BOTH {
                if sides[index(side)].is_some() {
                    self.as_copy(side, path);
                }
            }
            return;
        }
        self.follow_move(path, changes, mover, moved, now);
    }

    /// Both sides moved the node to the same name.
    fn agree_on_move(&mut self, path: &RelPath, changes: [Option<Change>; 2], moved: &Moved) {
        let from = Some(moved.from.clone());
        let parts = Side::BOTH.map(|side| {
            let seq = changes[index(side)].as_ref().map_or(0, |c| c.seq);
            Part::Record { seq, from: from.clone() }
        });
        let mut flight = Flight::new(path, moved.known.node, Some(moved.known.entry.clone()), parts, changes);
        flight.also = from.into_iter().collect();
        self.launch(flight, Reach::Tree);
    }

    fn follow_move(&mut self, path: &RelPath, changes: [Option<Change>; 2], mover: Side, moved: Moved, now: Millis) {
        let (node, target) = (moved.known.node, mover.other());
        let theirs = self.places.of(target, node).cloned();
        // Whoever moved the directory that it came out of as well names that by its new name.
        let agreed = self.places.agreed(mover, &moved.from);
        let mut from = agreed.clone();
        let mut changes = changes;
        let over = changes[index(mover)].as_ref().and_then(|c| c.known.as_ref());
        let mut expect = over.map_or(Expect::Absent, |k| Expect::Row(k.generation));
        if let Some(other) = &theirs {
            // Moved on both sides. The other name waits as well while its own move is under way or asked for again, else
            // each side would take the other's name in turn.
            let (left, right) = if mover == Side::Left { (path, &other.path) } else { (&other.path, path) };
            if mover != self.winner(left, right) || other.standing != Standing::Pending {
                self.ready.extend((other.standing == Standing::Pending).then(|| other.path.clone()));
                return self.wait_for_move(path);
            }
        }
        let there = theirs.as_ref().map_or(&agreed, |place| &place.path);
        if let Some(theirs) = self.crossed(path, there, mover) {
            return match (theirs.standing, mover) {
                (Standing::Flying | Standing::Asked, _) => self.wait_for_move(path),
                (Standing::Pending, Side::Right) => self.undo_move(path),
                (Standing::Pending, Side::Left) => self.undo_move(&theirs.path),
            };
        }
        if let Some(other) = theirs {
            // The other side has it under its own new name: rename it from there.
            changes[index(target)] = self.sides[index(target)].pending.get(&other.path).map(|p| p.change.clone());
            from = other.path;
        } else if let Some(since) = self.gone(target, &agreed) {
            // It may turn up under another name. If it does not it was deleted: the moved object is newer, and restored.
            return match self.is_lost(target, since, path, now) {
                true => self.as_copy(mover, path),
                false => self.stall_at(path),
            };
        } else if let Some(pending) = self.sides[index(target)].pending.get(&agreed) {
            // Edited there: the move first, then the edit under the new name.
            let kind = pending.change.after.as_ref().map(|entry| entry.kind());
            if kind.is_some_and(|kind| kind != moved.known.entry.kind()) {
                return self.as_copy(mover, path);
            }
        }
        if changes[index(target)].as_ref().is_some_and(|there| there.path == *path) {
            expect = expectation(&changes, target);
        }
        let mut parts = [Part::Nothing, Part::Nothing];
        let seq = changes[index(mover)].as_ref().map_or(0, |c| c.seq);
        parts[index(mover)] = Part::Record { seq, from: Some(moved.from.clone()) };
        let mut entry = moved.known.entry.clone();
        if let Some(after) = changes[index(mover)].as_ref().and_then(|change| change.after.as_ref()) {
            // What its side keeps from others by now goes with it.
            entry.attrs.mode &= after.attrs.mode | !0o777;
        }
        let known = moved.known.generation;
        let step = Step::Move { from: from.clone(), known, entry: entry.clone(), expect };
        parts[index(target)] = Part::Apply(Apply { path: path.clone(), parent: None, node, step, joint: false });
        let mut flight = Flight::new(path, node, Some(entry), parts, changes);
        flight.also = vec![moved.from, agreed, from];
        flight.also.sort();
        flight.also.dedup();
        self.launch(flight, Reach::Tree);
    }

    /// Whose name a node has that both sides moved: the left's, but where the right has deleted the directory of that, or
    /// will not have it there.
    fn winner(&self, left: &RelPath, right: &RelPath) -> Side {
        let gone = left.parent().is_some_and(|above| self.gone(Side::Right, &above).is_some());
        let refused = self.is_hopeless(left) && !self.is_hopeless(right);
        if gone || refused { Side::Right } else { Side::Left }
    }

    /// Whether a move to this path was refused again and again: the two sides know different things of the node.
    fn is_hopeless(&self, path: &RelPath) -> bool {
        self.strikes.get(path).is_some_and(|(strikes, _)| *strikes >= HOPELESS)
    }

    /// Whether a side says that it moved what both last agreed on at this path.
    pub(super) fn is_moved_away(&self, path: &RelPath, changes: &[Option<Change>; 2], side: Side) -> bool {
        node_of(changes).and_then(|node| self.places.of(side, node)).is_some_and(|place| place.path != *path)
    }

    /// Whether one side says that something new lies where both last agreed on a directory, and that it moved that one: the move
    /// goes first, or the new object would get the directory's node. But for one that was moved into what took its name, which
    /// waits itself: that is carried over as a new one.
    pub(super) fn waits_for_former(&mut self, path: &RelPath, changes: &[Option<Change>; 2], now: Millis) -> bool {
        let known = changes.iter().flatten().filter_map(|change| change.known.as_ref());
        let Some(former) = known.max_by_key(|known| known.generation).filter(|k| k.entry.kind() == Kind::Dir) else {
            return false;
        };
        let new = |side: Side| changes[index(side)].as_ref().is_some_and(|c| c.known.is_none() && c.after.is_some());
        let moved = |side: Side| {
            let place = self.places.of(side, former.node).filter(|place| place.path != *path)?;
            let since = self.sides[index(side)].pending.get(&place.path).map(|pending| pending.since);
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

    /// Considered again when a move has ended, on either side.
    pub(super) fn wait_for_move(&mut self, path: &RelPath) {
        self.blocked_moves.insert(path.clone());
        self.stall_at(path);
    }

    /// Whether what is gone on a side since then has turned up nowhere else by now, as far as the side knows when all is
    /// looked at. Until then the path is considered again.
    pub(super) fn is_lost(&mut self, side: Side, since: Millis, path: &RelPath, now: Millis) -> bool {
        let due = since + LOST_WAIT;
        if now < due || self.sides[index(side)].cursor.is_some() {
            self.timers.insert((due.max(now + 100), path.clone()));
            return false;
        }
        if self.sides[index(side)].settled.is_some_and(|asked| asked >= since) {
            return true;
        }
        if self.sides[index(side)].inquiry.is_none_or(|(_, asked)| asked < since) {
            self.pings += 1;
            let number = self.pings;
            self.sides[index(side)].inquiry = Some((number, now));
            self.send(side, Request::Ping { number });
        }
        self.blocked_moves.insert(path.clone());
        false
    }

    pub(super) fn side_settled(&mut self, side: Side, number: u64) {
        let state = &mut self.sides[index(side)];
        if let Some((_, asked)) = state.inquiry.take_if(|(inquiry, _)| *inquiry == number) {
            state.settled = Some(asked);
            self.wake_moves();
        }
    }

    /// Since when what lay at a path is gone on a side, by itself or with a directory, and was moved by nobody there.
    fn gone(&self, side: Side, path: &RelPath) -> Option<Millis> {
        let above = path.ancestors().filter(|above| !above.is_root());
        std::iter::once(path.clone()).chain(above).find_map(|at| {
            let pending = self.sides[index(side)].pending.get(&at).filter(|p| p.change.after.is_none())?;
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

    /// Renames what the right side moved back to where it was.
    fn undo_move(&mut self, path: &RelPath) {
        let Some(change) = self.sides[index(Side::Right)].pending.get(path).map(|p| p.change.clone()) else { return };
        let Some(moved) = change.moved.clone() else { return };
        let node = moved.known.node;
        let entry = moved.known.entry.clone();
        let known = moved.known.generation;
        let step = Step::Move { from: change.path.clone(), known, entry: entry.clone(), expect: Expect::Absent };
        let apply = Apply { path: moved.from.clone(), parent: None, node, step, joint: false };
        let parts = [Part::Record { seq: 0, from: None }, Part::Apply(apply)];
        let also = vec![change.path.clone()];
        let mut flight = Flight::new(&moved.from, node, Some(entry), parts, [None, Some(change)]);
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
