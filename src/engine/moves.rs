//! Moves: one rename on the other side, whatever the size of what moved; and what to do when both sides moved.

use crate::model::{Apply, Change, Expect, Kind, Millis, Moved, RelPath, Side, Step};

use super::flight::{Flight, Part};
use super::locks::Reach;
use super::plan::expectation;
use super::{Engine, index};

/// What is gone on one side, and moved or edited on the other, waits this long for word of where it went.
pub(super) const LOST_WAIT: Millis = 1_000;

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
        // Refused again and again: the two sides know different things of the node.
        let hopeless = self.strikes.get(path).is_some_and(|(strikes, _)| *strikes >= 5);
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
        let theirs = self.moving[index(target)].get(&node).cloned();
        let mut from = moved.from.clone();
        let mut changes = changes;
        let over = changes[index(mover)].as_ref().and_then(|c| c.known.as_ref());
        let mut expect = over.map_or(Expect::Absent, |k| Expect::Row(k.generation));
        if let Some(other) = theirs {
            if mover == Side::Right {
                // Moved on both sides: the left's name wins; its own move carries this one along.
                self.ready.insert(other);
                self.blocked_moves.insert(path.clone());
                return;
            }
            // The other side has it under its own new name: rename it from there.
            changes[index(target)] = self.sides[index(target)].pending.get(&other).map(|p| p.change.clone());
            from = other;
        } else if let Some(back) = self.crossed(path, &moved, mover) {
            return self.undo_move(back);
        } else if let Some(pending) = self.sides[index(target)].pending.get(&moved.from) {
            match &pending.change.after {
                // Deleted there: the moved object is newer, and is restored.
                None if now >= pending.since + LOST_WAIT && self.sides[index(target)].cursor.is_none() => {
                    return self.as_copy(mover, path);
                }
                None => {
                    // It may turn up under another name.
                    let due = (pending.since + LOST_WAIT).max(now + 100);
                    self.timers.insert((due, path.clone()));
                    return;
                }
                // Edited there: the move first, then the edit under the new name.
                Some(entry) if entry.kind() == moved.known.entry.kind() => {}
                Some(_) => return self.as_copy(mover, path),
            }
        }
        if changes[index(target)].as_ref().is_some_and(|there| there.path == *path) {
            expect = expectation(&changes, target);
        }
        let mut parts = [Part::Nothing, Part::Nothing];
        let seq = changes[index(mover)].as_ref().map_or(0, |c| c.seq);
        parts[index(mover)] = Part::Record { seq, from: Some(moved.from.clone()) };
        let entry = moved.known.entry.clone();
        let known = moved.known.generation;
        let step = Step::Move { from: from.clone(), known, entry: entry.clone(), expect };
        parts[index(target)] = Part::Apply(Apply { path: path.clone(), parent: None, node, step });
        let mut flight = Flight::new(path, node, Some(entry), parts, changes);
        flight.also = vec![moved.from, from];
        flight.also.sort();
        flight.also.dedup();
        self.launch(flight, Reach::Tree);
    }

    /// A directory moved into one that the other side moved into it: the right's move, which is to be undone.
    fn crossed(&self, path: &RelPath, moved: &Moved, mover: Side) -> Option<Change> {
        self.sides[index(mover.other())].pending.values().map(|p| &p.change).find_map(|other| {
            let theirs = other.moved.as_ref()?;
            let crossed = path.is_below(&theirs.from) && other.path.is_below(&moved.from);
            let own = self.sides[index(mover)].pending.get(path)?;
            crossed.then(|| if mover == Side::Right { own.change.clone() } else { other.clone() })
        })
    }

    /// Renames what the right side moved back to where it was.
    fn undo_move(&mut self, change: Change) {
        let Some(moved) = change.moved.clone() else { return };
        let node = moved.known.node;
        let entry = moved.known.entry.clone();
        let known = moved.known.generation;
        let step = Step::Move { from: change.path.clone(), known, entry: entry.clone(), expect: Expect::Absent };
        let apply = Apply { path: moved.from.clone(), parent: None, node, step };
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
