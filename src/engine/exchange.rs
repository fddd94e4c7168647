//! Names that users gave to another known object: what had such a name lives on under another, and the two change places.
//!
//! `mv b c; mv a b` says that `b` was taken over, not that it is gone; a swap is the same twice. To displace what lies there
//! would send it again under its new name, and part it from what the other side does to it. So the node that came takes the
//! place of the one that left, in both archives and on the other side, and that one takes its: each such action puts one
//! node where it belongs, and the next word of the other says where that one goes from there.

use crate::model::{Millis, RelPath, Side, Sides};
use crate::protocol::{Apply, Change, Known, Moved, Other, Step};

use super::Engine;
use super::places::Standing;

/// What becomes of the node whose name another one has taken, on the side where that was done.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Occupant {
    /// It is gone, or there never was one.
    Gone,
    /// Its side has not said yet. The path is considered again once it has.
    Unknown,
    /// It lives on under another name.
    Left(Leaver),
}

/// The node that made way, and where its side has it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Leaver {
    pub known: Known,
    pub at: RelPath,
}

/// Where the other side has that node, and whether it goes from there.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Theirs {
    /// That is about to be said.
    Waits,
    Stays(RelPath),
    Goes(RelPath),
}

impl Engine {
    /// Where what lay at `path` is by now on the side that moved something there.
    pub(super) fn occupant(
        &mut self,
        path: &RelPath,
        changes: &Sides<Option<Change>>,
        mover: Side,
        now: Millis,
    ) -> Occupant {
        let Some(change) = &changes[mover] else { return Occupant::Gone };
        let Some(moved) = &change.moved else { return Occupant::Gone };
        let away = self.places.away_from(mover, path).find(|place| place.path != *path).cloned();
        if let Some(place) = away {
            let pending = self.sides[mover].pending.get(&place.path).map(|pending| &pending.change);
            let known = pending.and_then(|change| change.moved.as_ref()).map(|moved| moved.known.clone());
            if let Some(known) = known.filter(|_| place.standing == Standing::Pending) {
                return Occupant::Left(Leaver { known, at: place.path });
            }
            self.wait_for_move(path);
            return Occupant::Unknown;
        }
        if change.known.as_ref().is_none_or(|over| over.node == moved.known.node) {
            return Occupant::Gone;
        }
        let since = self.sides[mover].pending.get(path).map_or(now, |pending| pending.since);
        match self.has_told(mover, since, path, now) {
            true => Occupant::Gone,
            false => Occupant::Unknown,
        }
    }

    /// Whether the other side can exchange the node that its side moved to `path` and the one that left it.
    pub(super) fn may_exchange(
        &self,
        path: &RelPath,
        changes: &Sides<Option<Change>>,
        mover: Side,
        moved: &Moved,
        leaver: &Leaver,
    ) -> bool {
        let there = changes[mover.other()].as_ref();
        // Another object came to the name on the other side, or what lay there was deleted.
        let comes = there.is_some_and(|there| there.moved.is_some());
        let moved_there = self.places.of(mover.other(), leaver.known.node).is_some();
        let deleted = there.is_some_and(|there| there.after.is_none())
            || self.gone(mover.other(), &self.places.agreed(mover, path)).is_some();
        let home = self.places.agreed(mover, &moved.from);
        let nested = path.is_within(&home) || home.is_within(path);
        // What is taken from either mode goes before the object has another name: that is a move's business.
        let as_agreed = |change: &Change| {
            let agreed = change.moved.as_ref().map(|moved| moved.known.entry.attrs.mode);
            change.after.as_ref().map(|after| after.attrs.mode) == agreed
        };
        let own = changes[mover].as_ref().is_some_and(as_agreed);
        let others = self.sides[mover].pending.get(&leaver.at).is_some_and(|pending| as_agreed(&pending.change));
        !comes && (moved_there || !deleted) && !nested && own && others && !self.is_hopeless(path)
    }

    /// What becomes of the node that left on the side that carries the exchange out, where users may have moved it as well.
    pub(super) fn stand_in(&mut self, path: &RelPath, leaver: &Leaver, mover: Side) -> Theirs {
        let Some(theirs) = self.places.of(mover.other(), leaver.known.node) else { return Theirs::Goes(path.clone()) };
        if theirs.standing != Standing::Pending {
            return Theirs::Waits;
        }
        let (left, right) = if mover == Side::Left { (&leaver.at, &theirs.path) } else { (&theirs.path, &leaver.at) };
        match left == right || self.winner(left, right) != mover {
            true => Theirs::Stays(theirs.path.clone()),
            false => Theirs::Goes(theirs.path.clone()),
        }
    }

    /// The step of that side.
    pub(super) fn exchange(
        path: &RelPath,
        (from, home): (&RelPath, &RelPath),
        moved: &Moved,
        (leaver, theirs): (&Leaver, &Theirs),
    ) -> Apply {
        let at = if let Theirs::Goes(at) = theirs { Some(at.clone()) } else { None };
        let other = Other { node: leaver.known.node, known: leaver.known.generation, at, to: home.clone() };
        let step = Step::Exchange { from: from.clone(), known: moved.known.generation, other };
        Apply { path: path.clone(), parent: None, node: moved.known.node, step, joint: false }
    }
}
