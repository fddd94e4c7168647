//! Reconcile: what both sides make of one path, given what they last agreed on. Pure; the rules are the table of
//! docs/design.md, and each cell has a test.

use crate::model::rights::{Numbers, Rights, bare};
use crate::model::{Attrs, Content, Entry, Generation, Kind, Sameness, Side, Sides, merge};
use crate::protocol::{Change, Known};

use join::{Joined, Pairing};

mod join;

/// Which of two differing versions keeps the name; the left one if their times are equal.
pub use crate::config::ConflictRule as Prefer;

impl Prefer {
    pub fn of(side: Side) -> Prefer {
        match side {
            Side::Left => Prefer::Left,
            Side::Right => Prefer::Right,
        }
    }
}

/// What decisions depend on beside the reports.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    pub prefer: Prefer,
    /// Where nothing was ever agreed on, equal size and an equal mtime before this (seconds since 1970) count as equal.
    pub old: i64,
    /// Who is root, or another user of the system.
    pub numbers: &'a Numbers,
}

/// What one side needs to get to the agreed state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// It is there already: record it.
    Record,
    Attributes,
    Contents,
}

/// The decision for one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Both sides are at the ancestor.
    Nothing,
    /// Gone on both sides.
    Forget,
    Remove {
        on: Side,
    },
    /// A directory there must go before something else can take its name.
    RemoveFirst {
        on: Side,
    },
    /// The sizes do not tell whether two files differ: their hashes are needed.
    Compare,
    /// Rights would come to contents that only look like those that they were granted to: both sides read their file.
    Prove,
    /// Others' contents would take the place of a file that was touched, and that its side has not read since: it may have
    /// been written. The side reads it first.
    Read,
    Settle {
        entry: Entry,
        /// Whose contents these are.
        from: Side,
        needs: Sides<Need>,
        /// Whose version must be kept beside the winner.
        loser: Option<Side>,
        /// What was not granted to these contents, and is not in the entry.
        dropped: Rights,
    },
}

/// One side's view of the path.
struct View<'a> {
    here: Option<&'a Entry>,
    known: Option<&'a Known>,
    contents: bool,
    /// Since it was recorded the file was written, or touched in another way.
    touched: bool,
    attrs: bool,
    /// The file was read for this report.
    read: bool,
}

impl<'a> View<'a> {
    fn new(change: Option<&'a Change>, ancestor: Option<&'a Known>) -> View<'a> {
        let Some(change) = change else {
            let here = ancestor.map(|k| &k.entry);
            return View { here, known: ancestor, contents: false, touched: false, attrs: false, read: false };
        };
        let (here, known, read) = (change.after.as_ref(), change.known.as_ref(), change.read);
        let (contents, attrs) = match (here, known) {
            (Some(entry), Some(k)) => (change.contents, entry.attrs != k.entry.attrs),
            (None, None) => (false, false),
            _ => (true, true),
        };
        View { here, known, contents, touched: change.touched, attrs, read }
    }

    fn changed(&self) -> bool {
        self.contents || self.attrs
    }

    /// Nobody knows whether the file still holds what it seems to hold.
    fn is_presumed(&self) -> bool {
        self.touched && !self.read && !self.contents
    }

    fn generation(&self) -> Generation {
        self.known.map_or(0, |k| k.generation)
    }

    /// The row here could not tell whether the file was written, but the other side's row of the same agreement can: it has
    /// the hash of what lies here. So no edit of one side meets an attribute of the other as if that were an edit too.
    fn is_as_agreed(&self, other: &View) -> bool {
        let (Some(here), Some(agreed)) = (self.here, other.known) else { return false };
        let one = self.generation() == agreed.generation;
        one && self.unread() && agreed.entry.content.compare(&here.content) == Sameness::Same
    }

    /// The file was taken for equal unread, and looks as it did then: what it holds may never have been agreed on.
    fn unread(&self) -> bool {
        let (Some(here), Some(Known { entry: known, .. })) = (self.here, self.known) else { return false };
        let unhashed = matches!(known.content, Content::File { hash: None, .. });
        unhashed && here.size() == known.size() && here.attrs.mtime == known.attrs.mtime
    }
}

/// Decides one path. A side without a change is taken to be at the ancestor that the other side names.
/// Moves are not decided here.
pub fn reconcile(left: Option<&Change>, right: Option<&Change>, rules: Rules) -> Verdict {
    let ancestor = [left, right].into_iter().flatten().filter_map(|c| c.known.as_ref()).max_by_key(|k| k.generation);
    let (mut l, mut r) = (View::new(left, ancestor), View::new(right, ancestor));
    let as_agreed = (r.contents && l.is_as_agreed(&r), l.contents && r.is_as_agreed(&l));
    (l.contents, r.contents) = (l.contents && !as_agreed.0, r.contents && !as_agreed.1);
    let agreed = left.is_none() || right.is_none() || l.generation() == r.generation();
    if !l.changed() && !r.changed() && agreed && l.here.is_some() == r.here.is_some() {
        return Verdict::Nothing;
    }
    match (l.here, r.here) {
        (None, None) if ancestor.is_some() => Verdict::Forget,
        (None, None) => Verdict::Nothing,
        (Some(entry), None) => one_sided(&l, &r, Side::Left, entry, rules.numbers),
        (None, Some(entry)) => one_sided(&r, &l, Side::Right, entry, rules.numbers),
        (Some(a), Some(b)) if a.kind() != b.kind() => different_kinds(&l, &r, a, b, rules.prefer),
        (Some(a), Some(b)) => same_kind(&l, &r, a, b, ancestor, rules),
    }
}

/// An object on one side, nothing on the other.
fn one_sided(object: &View, nothing: &View, side: Side, entry: &Entry, numbers: &Numbers) -> Verdict {
    // Unchanged here and deleted there: the deletion comes over. Anything newer survives it.
    if !object.changed() && object.known.is_some() && nothing.known.is_some() {
        return Verdict::Remove { on: side };
    }
    let rights = Rights::of(entry.kind(), &entry.attrs, |group, principal| numbers.is_system(group, principal));
    if entry.kind() == Kind::File && rights.any() && !object.contents {
        // What was agreed on goes along even where this side never had it: only with the contents that it was agreed for.
        if !object.read && entry.size() > 0 {
            return Verdict::Prove;
        }
        if object.known.is_some_and(|known| known.entry.content.compare(&entry.content) != Sameness::Same) {
            let (attrs, dropped) = bare(entry.kind(), &entry.attrs);
            return restore(side, entry, Entry { content: entry.content.clone(), attrs }, dropped);
        }
    }
    restore(side, entry, entry.clone(), Rights::default())
}

/// The object comes to the side where nothing lies, as `agreed`.
fn restore(side: Side, here: &Entry, agreed: Entry, dropped: Rights) -> Verdict {
    settle(agreed, side, Sides::from_fn(|own| own == side), Sides::new(Some(here), None), None, dropped)
        .mirrored_for(side, here)
}

impl Verdict {
    /// Puts the one object's entry on its own side's place.
    fn mirrored_for(self, side: Side, entry: &Entry) -> Verdict {
        match (self, side) {
            (Verdict::Settle { entry: agreed, from, loser, dropped, .. }, Side::Right) => {
                let own = need(true, Some(entry), &agreed);
                Verdict::Settle { entry: agreed, from, needs: Sides::new(Need::Contents, own), loser, dropped }
            }
            (verdict, _) => verdict,
        }
    }
}

fn different_kinds(l: &View, r: &View, a: &Entry, b: &Entry, prefer: Prefer) -> Verdict {
    let (winner, conflict) = match (l.contents, r.contents) {
        (true, false) if r.is_presumed() => return Verdict::Read,
        (false, true) if l.is_presumed() => return Verdict::Read,
        (true, false) => (Side::Left, false),
        (false, true) => (Side::Right, false),
        (false, false) => (if l.generation() >= r.generation() { Side::Left } else { Side::Right }, false),
        // A directory holds others' work: it wins whatever the preference.
        (true, true) if a.kind() == Kind::Dir => (Side::Left, true),
        (true, true) if b.kind() == Kind::Dir => (Side::Right, true),
        (true, true) => (preferred(a, b, prefer), true),
    };
    let (won, lost) = if winner == Side::Left { (a, b) } else { (b, a) };
    if lost.kind() == Kind::Dir {
        return Verdict::RemoveFirst { on: winner.other() };
    }
    let loser = conflict.then_some(winner.other());
    let holds = Sides::from_fn(|side| side == winner);
    settle(won.clone(), winner, holds, Sides::new(Some(a), Some(b)), loser, Rights::default())
}

fn same_kind(l: &View, r: &View, a: &Entry, b: &Entry, ancestor: Option<&Known>, rules: Rules) -> Verdict {
    let prefer = rules.prefer;
    let alike = a.content.compare(&b.content);
    let (from, conflict) = match (l.contents, r.contents, alike) {
        (_, _, Sameness::Same) => (with_hash(a, b), false),
        // Read for the first time, by a scan with checksums.
        (true, false, Sameness::Unknown) if l.unread() => return Verdict::Compare,
        (false, true, Sameness::Unknown) if r.unread() => return Verdict::Compare,
        // The side that was touched since was written, most likely. But they may have differed from the beginning.
        (true, false, Sameness::Differs) if l.unread() && l.touched => (Side::Left, true),
        (false, true, Sameness::Differs) if r.unread() && r.touched => (Side::Right, true),
        (true, false, Sameness::Differs) if l.unread() => (preferred(a, b, prefer), true),
        (false, true, Sameness::Differs) if r.unread() => (preferred(a, b, prefer), true),
        (true, false, _) if r.is_presumed() => return Verdict::Read,
        (false, true, _) if l.is_presumed() => return Verdict::Read,
        (true, false, _) => (Side::Left, false),
        (false, true, _) => (Side::Right, false),
        (false, false, Sameness::Unknown) => (Side::Left, false),
        // Taken for equal unread, and read by now: nobody ever agreed on this.
        (false, false, Sameness::Differs) if l.generation() == r.generation() => {
            return never_agreed(l, r, a, b, ancestor, rules);
        }
        // The archives disagree: the later agreement counts.
        (false, false, Sameness::Differs) if l.generation() >= r.generation() => (Side::Left, false),
        (false, false, Sameness::Differs) => (Side::Right, false),
        (true, true, Sameness::Unknown) => match unread_agreement(l, r, a, b, rules.old) {
            true => (Side::Left, false),
            false => return Verdict::Compare,
        },
        (true, true, Sameness::Differs) => (preferred(a, b, prefer), true),
    };
    let holds = |side: Side| {
        let both = (l.contents, r.contents);
        side == from
            || alike == Sameness::Same
            || (alike == Sameness::Unknown && matches!(both, (false, false) | (true, true)))
    };
    let holds = Sides::from_fn(holds);
    let winner = if from == Side::Left { a } else { b };
    if conflict {
        return settle(
            winner.clone(),
            from,
            holds,
            Sides::new(Some(a), Some(b)),
            Some(from.other()),
            Rights::default(),
        );
    }
    let attrs = agreed_attrs(l, r, a, b, ancestor);
    let pairing = Pairing { objects: Sides::new(a, b), alike, from, holds, read: Sides::new(l.read, r.read) };
    match pairing.join(attrs, rules.numbers) {
        Joined::Together { attrs, dropped } => {
            let entry = Entry { content: winner.content.clone(), attrs };
            settle(entry, from, holds, Sides::new(Some(a), Some(b)), None, dropped)
        }
        Joined::Unproven => Verdict::Prove,
        Joined::Apart => keep_apart(from.other(), a, b),
    }
}

/// Both versions stay, each under its own side's owner, and neither with a right that the other might get: who gave his to
/// the system keeps the name, whatever time the other file claims to be of.
fn keep_apart(giver: Side, a: &Entry, b: &Entry) -> Verdict {
    let won = if giver == Side::Left { a } else { b };
    let (attrs, dropped) = bare(won.kind(), &won.attrs);
    let entry = Entry { content: won.content.clone(), attrs };
    let holds = Sides::from_fn(|side| side == giver);
    settle(entry, giver, holds, Sides::new(Some(a), Some(b)), Some(giver.other()), dropped)
}

/// Two files that were taken for equal, and differ. If one side granted a right to its own, that one keeps the name.
fn never_agreed(l: &View, r: &View, a: &Entry, b: &Entry, ancestor: Option<&Known>, rules: Rules) -> Verdict {
    let from = preferred(a, b, rules.prefer);
    let holds = Sides::from_fn(|side| side == from);
    let read = Sides::new(l.read, r.read);
    let pairing = Pairing { objects: Sides::new(a, b), alike: Sameness::Differs, from, holds, read };
    let (left, right) = pairing.lacking(&agreed_attrs(l, r, a, b, ancestor), rules.numbers).split();
    match (left.any(), right.any()) {
        (_, true) => keep_apart(Side::Left, a, b),
        (true, false) => keep_apart(Side::Right, a, b),
        (false, false) => {
            let won = if from == Side::Left { a } else { b };
            settle(won.clone(), from, holds, Sides::new(Some(a), Some(b)), Some(from.other()), Rights::default())
        }
    }
}

/// The attributes that both sides' objects would have as one.
fn agreed_attrs(l: &View, r: &View, a: &Entry, b: &Entry, ancestor: Option<&Known>) -> Attrs {
    match ancestor {
        Some(known) if l.known.is_some() && r.known.is_some() => merge_attrs(l, r, a, b, known),
        _ => {
            let newer = newer(a, b);
            let other = if std::ptr::eq(newer, a) { b } else { a };
            let mut attrs = merge::joined(&newer.attrs, &other.attrs);
            if a.kind() == Kind::Dir {
                attrs.mode = merge::narrower(Kind::Dir, attrs.mode, other.attrs.mode);
            }
            attrs
        }
    }
}

/// Each side's attributes against its own ancestor, the left's first.
fn merge_attrs(l: &View, r: &View, a: &Entry, b: &Entry, ancestor: &Known) -> Attrs {
    let base = |view: &View| view.known.map_or(ancestor.entry.attrs.clone(), |k| k.entry.attrs.clone());
    let (left_base, right_base) = (base(l), base(r));
    if left_base == right_base {
        return merge::merged(a.kind(), &left_base, &a.attrs, &b.attrs);
    }
    // Disagreeing archives: what a side changed since its own ancestor goes over the later agreement.
    let right = merge::merged(a.kind(), &right_base, &b.attrs, &ancestor.entry.attrs);
    merge::merged(a.kind(), &left_base, &a.attrs, &right)
}

/// Ancestor unknown, equal size and mtime: taken for equal without reading. But for what was written of late, or has
/// a hash for that reason: where times have whole seconds, two users' files of this moment easily have the same.
fn unread_agreement(l: &View, r: &View, a: &Entry, b: &Entry, old: i64) -> bool {
    let unread = a.hash().is_none() && b.hash().is_none();
    let times = a.attrs.mtime == b.attrs.mtime && a.attrs.mtime.secs < old;
    unread && times && l.known.is_none() && r.known.is_none()
}

fn with_hash(a: &Entry, b: &Entry) -> Side {
    if a.hash().is_none() && b.hash().is_some() { Side::Right } else { Side::Left }
}

fn newer<'a>(a: &'a Entry, b: &'a Entry) -> &'a Entry {
    if b.attrs.mtime > a.attrs.mtime { b } else { a }
}

fn preferred(a: &Entry, b: &Entry, prefer: Prefer) -> Side {
    match prefer {
        Prefer::Left => Side::Left,
        Prefer::Right => Side::Right,
        Prefer::Newest if b.attrs.mtime > a.attrs.mtime => Side::Right,
        Prefer::Newest => Side::Left,
    }
}

fn settle(
    entry: Entry,
    from: Side,
    holds: Sides<bool>,
    here: Sides<Option<&Entry>>,
    loser: Option<Side>,
    dropped: Rights,
) -> Verdict {
    let needs = Sides::from_fn(|side| need(holds[side], here[side], &entry));
    Verdict::Settle { entry, from, needs, loser, dropped }
}

fn need(holds: bool, here: Option<&Entry>, agreed: &Entry) -> Need {
    match here {
        Some(entry) if holds && entry.attrs == agreed.attrs => Need::Record,
        Some(_) if holds => Need::Attributes,
        _ if matches!(agreed.content, Content::Dir) && here.is_some_and(|e| e.kind() == Kind::Dir) => Need::Attributes,
        _ => Need::Contents,
    }
}

#[cfg(test)]
mod tests;
