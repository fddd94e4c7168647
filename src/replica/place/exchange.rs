//! Exchanges: two objects change places, with all that lies below them.
//!
//! Users have given one the other's name and moved the other on, so neither may be taken for gone. Each name holds an object
//! at every moment, where nobody has moved either of them away.

use std::io;

use crate::model::{Generation, Kind, Name, NodeId, PATH_MAX, ROOT_NODE, RelPath};
use crate::protocol::Other;

use super::super::Replica;
use super::super::archive::{Archive, IntentStep, Row, Signature};
use super::super::disk::{Disk, Stat};
use super::super::error::{At, ReplicaError};
use super::action::{Action, Done, Stop};
use super::{Parent, same_version};

/// One of the two: its row, where it lies, and its stat there.
struct Member<Dir> {
    row: Row,
    at: RelPath,
    place: Parent<Dir>,
    before: Stat,
}

/// What goes where.
type Renaming<'a, Dir> = (&'a Member<Dir>, &'a RelPath, &'a Parent<Dir>);

impl<D: Disk, A: Archive> Replica<D, A> {
    pub(super) fn exchange(
        &mut self,
        action: &Action,
        known: Generation,
        from: &RelPath,
        other: &Other,
    ) -> Result<Done, Stop> {
        let Action { generation, path, node, .. } = *action;
        let home = &other.to;
        let one = self.member((node, known), from)?.ok_or(Stop::Refused)?;
        let two = match &other.at {
            Some(at) => Some(self.member((other.node, other.known), at)?.ok_or(Stop::Refused)?),
            None => None,
        };
        let their_row = self.archive.node(other.node)?.filter(|row| row.generation == other.known);
        let (Some(old), Some(new), Some(their_row)) = (self.open_parent(home)?, self.open_parent(path)?, their_row)
        else {
            return Err(Stop::Refused);
        };
        let holds = |row: &Row, place: &Parent<D::Dir>| (row.parent, &row.name) == (place.node, &place.name);
        if !holds(&one.row, &old) || !holds(&their_row, &new) || !self.may_change_places(&one.row, &their_row)? {
            return Err(Stop::Refused);
        }
        if let Some(two) = two.as_ref().filter(|_| !other.stays)
            && self.leaves_a_closed_place(&two.at, home)?
        {
            return Err(Stop::Refused);
        }
        // Users may have moved either of them away: its name is free then.
        match &two {
            Some(two) if one.at == *home && two.at == *path => self.exchange_names(&one, two)?,
            Some(two) if one.at == *home => self.rename_each(&[(&one, path, &new), (two, home, &old)])?,
            Some(two) => self.rename_each(&[(two, home, &old), (&one, path, &new)])?,
            None => self.rename_each(&[(&one, path, &new)])?,
        }
        let mut rows = vec![
            Row { parent: new.node, name: new.name.clone(), generation, ..one.row.clone() },
            Row { parent: old.node, name: old.name.clone(), generation, ..their_row },
        ];
        let members = [(Some(&one), path, &new), (two.as_ref(), home, &old)];
        for (row, (member, to, place)) in rows.iter_mut().zip(members) {
            let Some(member) = member else { continue };
            for (at, place) in [(&member.at, &member.place), (to, place)] {
                self.touch(at, &place.dir);
                self.forget_report(at);
            }
            match self.as_renamed(member, place) {
                None => self.agenda.look(to.clone()),
                signature => row.signature = signature,
            }
        }
        self.tell_again(other.node);
        self.put_exchanged(rows)?;
        self.give(other.node)?;
        self.forget_orphaned_moves()?;
        let renames = other.renames(&one.at, path);
        self.rebase_reports(&one.at, path);
        if let Some(two) = &two {
            self.rebase_reports(&two.at, home);
        }
        renames.iter().for_each(|(from, to)| self.news.specials.moved(from, to));
        Ok(Done { entry: Some(one.row.entry), kept: None })
    }

    /// Whether neither of two nodes lies in the other, by their rows: else each would come to lie in itself.
    pub(in crate::replica) fn may_change_places(&self, one: &Row, two: &Row) -> Result<bool, ReplicaError> {
        for (row, other) in [(one, two), (two, one)] {
            let mut at = row.parent;
            for _ in 0..PATH_MAX {
                if at == other.node {
                    return Ok(false);
                }
                match self.archive.node(at)? {
                    Some(above) if at != ROOT_NODE => at = above.parent,
                    _ => break,
                }
            }
        }
        Ok(one.node != two.node)
    }

    /// What to remember before two objects change places.
    pub(in crate::replica) fn exchange_step(
        &self,
        from: &RelPath,
        other: &Other,
    ) -> Result<Option<IntentStep>, ReplicaError> {
        // As they lie there: a save may have put another object in the place of the one that a row names.
        let there = |at: &RelPath| self.object_at(at).map(|stat| (stat.ino, stat.btime));
        let Some(object) = there(from) else { return Ok(None) };
        let at = match &other.at {
            None => None,
            Some(at) => match there(at) {
                Some(object) => Some((at.clone(), object)),
                None => return Ok(None),
            },
        };
        Ok(Some(IntentStep::Exchange { from: from.clone(), object, other: other.node, at, to: other.to.clone() }))
    }

    /// Keeps in mind that a node got the place of another in the archive, if its object lies elsewhere: its users have not put
    /// it there, so what comes to that name has not taken it from this one, as the new version of a save does.
    pub(in crate::replica) fn give(&mut self, node: NodeId) -> Result<(), ReplicaError> {
        let Some(row) = self.archive.node(node)? else { return Ok(()) };
        let Some(home) = self.recorded_path(&row)? else { return Ok(()) };
        let there = self.object_at(&home);
        if row.signature.is_some_and(|object| !there.is_some_and(|there| object.same_object(&there))) {
            self.ledger.give(node);
        }
        Ok(())
    }

    /// Where a node was reported speaks of its old row: it is told anew.
    pub(in crate::replica) fn tell_again(&mut self, node: NodeId) {
        if let Some(at) = self.ledger.moved_to(node).cloned() {
            self.forget_report(&at);
            self.agenda.look_first(at);
        }
    }

    /// The node's object as it lies there, edited or not: by its row, or what a save has put in its place.
    fn member(
        &self,
        (node, known): (NodeId, Generation),
        at: &RelPath,
    ) -> Result<Option<Member<D::Dir>>, ReplicaError> {
        let Some(row) = self.archive.node(node)?.filter(|row| row.generation == known) else { return Ok(None) };
        let Some(place) = self.open_parent(at)? else { return Ok(None) };
        let before = match self.disk.stat(&place.dir, &place.name) {
            Ok(stat) if stat.foreign => return Ok(None),
            Ok(stat) if row.signature.is_some_and(|s| s.same_object(&stat)) => stat,
            Ok(stat) if self.is_nodes(at, &row, &stat)? => stat,
            Ok(_) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).at(at, "stat"),
        };
        Ok(Some(Member { row, at: at.clone(), place, before }))
    }

    /// Exchanges two names that users see, and again if a user came in between: what lies there is never in a third place.
    fn exchange_names(&self, one: &Member<D::Dir>, two: &Member<D::Dir>) -> Result<(), Stop> {
        let (a, b) = ((&one.place.dir, &one.place.name), (&two.place.dir, &two.place.name));
        let exchange = |operation| match self.keeping(&[a.0, b.0], || self.disk.exchange(a, b)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Stop::Refused),
            other => Ok(other.at(&two.at, operation)?),
        };
        exchange("exchange")?;
        let is = |place: (&D::Dir, &Name), member: &Member<D::Dir>| {
            self.disk.stat(place.0, place.1).is_ok_and(|stat| same_object(&stat, &member.before))
        };
        if is(a, two) && is(b, one) {
            return Ok(());
        }
        // If one is gone there is nothing to be given back: what is there by now is told as users' doing.
        exchange("exchange back")?;
        Err(Stop::Refused)
    }

    /// Renames both to names that are free, in this order. If only the first comes to its own, that is told as its users' doing, and
    /// the other side says the same.
    fn rename_each(&self, moves: &[Renaming<D::Dir>]) -> Result<(), Stop> {
        for (member, to, place) in moves {
            if member.at == **to {
                continue;
            }
            let from = (&member.place.dir, &member.place.name);
            let renamed = self.keeping(&[from.0, &place.dir], || self.disk.rename(from, (&place.dir, &place.name)));
            match renamed {
                Err(error) if matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound) => {
                    return Err(Stop::Refused);
                }
                other => other.at(to, "rename")?,
            }
        }
        Ok(())
    }

    /// What proves a renamed object to be as its row says; `None` if it may have changed meanwhile. A file always may: the rename
    /// hides a write that put the time back, so its contents are compared once.
    fn as_renamed(&self, member: &Member<D::Dir>, place: &Parent<D::Dir>) -> Option<Signature> {
        let (row, before) = (&member.row, &member.before);
        if row.entry.kind() == Kind::File {
            return None;
        }
        let after = self.disk.stat(&place.dir, &place.name).ok()?;
        // A directory's attributes may have changed without a trace but its ctime.
        let settled = row.signature.is_some_and(|s| s.ctime == before.ctime);
        // So may any object's between the two looks, and the rename hides that in the ctime.
        let found = self.disk.xattrs(&place.dir, &place.name, row.entry.kind());
        let untouched = settled
            && self.still(row, before)
            && same_version(before, &after)
            && found.is_ok_and(|found| found == row.live_attrs().xattrs);
        untouched.then(|| self.signature(&after))
    }

    /// Writes the rows of two nodes of which each may have the other's name: what lies below a directory stays with it.
    pub(in crate::replica) fn put_exchanged(&mut self, rows: Vec<Row>) -> Result<(), ReplicaError> {
        for row in &rows {
            self.set_aside(row.node)?;
        }
        rows.into_iter().try_for_each(|mut row| self.put_row(&mut row))
    }

    /// Gives a node's row a place that no path leads to, until it gets another one: before the next commit.
    pub(in crate::replica) fn set_aside(&mut self, node: NodeId) -> Result<(), ReplicaError> {
        let Some(row) = self.archive.node(node)? else { return Ok(()) };
        let Ok(name) = Name::new(node.to_string().as_bytes()) else { return Ok(()) };
        self.leave_way(node);
        self.archive.put(&Row { parent: NOWHERE, name, ..row })?;
        Ok(())
    }
}

/// The directory of rows that lie aside: no node has this number.
const NOWHERE: NodeId = NodeId::MAX >> 1;

fn same_object(stat: &Stat, before: &Stat) -> bool {
    (stat.ino, stat.btime) == (before.ino, before.btime)
}
