//! Names that users gave to another known object: what had such a name lives on under another, and the two change places.
//!
//! `mv b c; mv a b` says that `b` was taken over, not that it is gone; a swap is the same twice. To displace what lies there
//! would send it again under its new name, and part it from what the other side does to it. So the node that came takes the
//! place of the one that left, in both archives and on the other side, and that one takes its: each such action puts one
//! node where it belongs, and the next word of the other says where that one goes from there.

use crate::model::{Millis, RelPath, Side, Sides};
use crate::protocol::{Apply, Change, Expect, Known, Moved, Other, Step};

use super::Engine;
use super::flight::{Flight, Part};
use super::locks::Reach;
use super::places::{Place, Standing};

/// What had a name that another object has now, and was not told to be elsewhere by then, is gone.
const TOLD_WAIT: Millis = 3_000;
/// A circle of names is followed so far.
const CIRCLE: usize = 64;

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

/// What is to be done about a node whose name another one has taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum WayOut {
    /// They change places.
    Exchange,
    /// They change places once the one that was moved to this path has the narrower mode that it is told with.
    Close(RelPath),
    /// Its own move goes first, and frees the name.
    Move,
    /// The one that came is met by what lies there.
    None,
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
        if self.sides[mover].cursor.is_some() {
            // Its scan may find it under another name.
            self.blocked.insert(path.clone());
            return Occupant::Unknown;
        }
        let since = self.sides[mover].pending.get(path).map_or(now, |pending| pending.since);
        // A side that never rests, or reads large files, answers late.
        if now >= since + TOLD_WAIT || self.has_told(mover, since, path, now) {
            return Occupant::Gone;
        }
        self.timers.insert((since + TOLD_WAIT, path.clone()));
        Occupant::Unknown
    }

    /// How the node that its side moved to `path` and the one that left it come to their places on the other side.
    pub(super) fn way_out(
        &self,
        path: &RelPath,
        changes: &Sides<Option<Change>>,
        mover: Side,
        moved: &Moved,
        leaver: &Leaver,
    ) -> WayOut {
        let there = changes[mover.other()].as_ref();
        // Another object came to the name on the other side, or what lay there was deleted.
        let comes = there.is_some_and(|there| there.moved.is_some());
        let moved_there = self.places.of(mover.other(), leaver.known.node).is_some();
        let deleted = there.is_some_and(|there| there.after.is_none())
            || self.gone(mover.other(), &self.places.agreed(mover, path)).is_some();
        if comes || deleted && !moved_there || self.is_hopeless(path) {
            return WayOut::None;
        }
        let home = self.places.agreed(mover, &moved.from);
        let stuck = self.is_hopeless(&leaver.at) || self.has_problem(&leaver.at);
        if path.is_within(&home) || home.is_within(path) {
            // One came out of the other, which goes first.
            return if stuck { WayOut::None } else { WayOut::Move };
        }
        // What is taken from either mode goes before the object has another name.
        let closes = [path, &leaver.at].into_iter().find(|at| !self.settings.dry_run && self.closes(mover, at));
        // Where the one that leaves can go first it is never seen in a directory where its users have not put it.
        let near = leaver.at == moved.from || home.parent() == path.parent();
        // The one that came may itself be where the one that leaves is to go, on the other side.
        let theirs = self.places.of(mover.other(), moved.known.node).is_some_and(|theirs| theirs.path == leaver.at);
        let circle = || theirs || self.leads_to(mover, &leaver.at, &moved.from);
        match closes {
            None if near || stuck || circle() => WayOut::Exchange,
            Some(at) if stuck || circle() => WayOut::Close(at.clone()),
            _ => WayOut::Move,
        }
    }

    /// Whether what lay at `at` made way for what came there, and so on, up to what lay at `home`: they wait for each other.
    fn leads_to(&self, mover: Side, at: &RelPath, home: &RelPath) -> bool {
        let next = |at: &RelPath| self.places.away_from(mover, at).next().map(|place| place.path.clone());
        std::iter::successors(Some(at.clone()), next).take(CIRCLE).any(|at| at == *home)
    }

    /// Whether a move takes something from its object's mode. Of what the other side's users changed as well nothing is taken: it
    /// may be seen on its way. Nor of what they moved where their name holds.
    fn closes(&self, mover: Side, at: &RelPath) -> bool {
        let Some(change) = self.sides[mover].pending.get(at).map(|pending| &pending.change) else { return false };
        let (Some(moved), Some(after)) = (&change.moved, &change.after) else { return false };
        let target = mover.other();
        let home = self.places.agreed(mover, &moved.from);
        let changed = self.sides[target].pending.get(&home).is_some_and(|pending| pending.change.after.is_some());
        let goes = mover == Side::Left || self.places.of(target, moved.known.node).is_none();
        let narrows = moved.known.entry.attrs.mode & !after.attrs.mode & 0o777 != 0;
        narrows && goes && !changed
    }

    /// What a move takes from its object's mode is taken where the other side has it, before it changes places with another.
    /// Says whether that can be; `path` is considered again when it has been, or was refused.
    pub(super) fn close_first(&mut self, at: &RelPath, path: &RelPath, mover: Side, now: Millis) -> bool {
        let target = mover.other();
        let Some(change) = self.sides[mover].pending.get(at).map(|pending| pending.change.clone()) else {
            return false;
        };
        let (Some(moved), Some(after)) = (&change.moved, &change.after) else { return false };
        let (node, known) = (moved.known.node, moved.known.generation);
        let home = self.places.agreed(mover, &moved.from);
        let theirs = self.places.of(target, node).cloned();
        // It is gone from there: its users have moved it, or deleted it.
        let gone = theirs.is_none() && self.sides[target].pending.contains_key(&home);
        if gone || self.is_hopeless(&home) {
            return false;
        }
        if let Some((_, due)) = self.strikes.get(&home).filter(|(_, due)| *due > now) {
            // Somebody has it open, or changes it.
            self.timers.insert((*due, path.clone()));
            self.wait_for_move(path);
            return true;
        }
        let mut entry = moved.known.entry.clone();
        entry.attrs.mode &= after.attrs.mode | !0o777;
        let step = match &theirs {
            None => Step::SetAttrs { entry: entry.clone(), expect: Expect::Row(known) },
            // Its users have moved it as well: it goes back for that.
            Some(Place { path, standing: Standing::Pending, .. }) => {
                Step::Move { from: path.clone(), known, entry: entry.clone(), expect: Expect::Absent }
            }
            Some(_) => {
                self.wait_for_move(at);
                self.wait_for_move(path);
                return true;
            }
        };
        let mut parts = Sides::from_fn(|_| Part::Record { seq: 0, from: None });
        parts[target] = Part::Apply(Apply { path: home.clone(), parent: None, node, step, joint: false });
        let there = theirs.as_ref().and_then(|place| self.sides[target].pending.get(&place.path));
        let there = there.map(|pending| pending.change.clone());
        let mut also = vec![change.path.clone()];
        also.extend(theirs.map(|place| place.path));
        let mut changes = Sides::both(there);
        changes[mover] = Some(change);
        let mut flight = Flight::new(&home, node, Some(entry), parts, changes);
        flight.also = also;
        self.launch(flight, Reach::Object);
        true
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
        let stays = leaver.at == moved.from;
        let (node, known, to) = (leaver.known.node, leaver.known.generation, home.clone());
        let other = Other { node, known, at, to, stays };
        let step = Step::Exchange { from: from.clone(), known: moved.known.generation, other };
        Apply { path: path.clone(), parent: None, node: moved.known.node, step, joint: false }
    }
}
