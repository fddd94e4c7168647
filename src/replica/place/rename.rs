//! Renames: an object goes to its new name with all that lies below it.

use std::io;

use crate::model::acls::ACL_ACCESS;
use crate::model::{Attrs, Entry, Generation, Kind, NodeId, RelPath, Time, merge};
use crate::protocol::Expect;

use super::super::Replica;
use super::super::archive::{Archive, Row};
use super::super::batch::Placed;
use super::super::disk::{Disk, Own, Stat};
use super::super::error::{At, ReplicaError};
use super::attrs::has_other_names;
use super::{Met, Parent, Swapped, same_version};

impl<D: Disk, A: Archive> Replica<D, A> {
    #[allow(clippy::too_many_arguments)]
    pub(super) fn rename(
        &mut self,
        generation: Generation,
        path: &RelPath,
        node: NodeId,
        from: &RelPath,
        entry: Entry,
        expect: &Expect,
    ) -> Result<Placed, ReplicaError> {
        let refused = || Ok(Placed::Refused(vec![from.clone(), path.clone()]));
        let Some(row) = self.archive.node(node)? else { return refused() };
        let (Some(old), Some(new)) = (self.open_parent(from)?, self.open_parent(path)?) else { return refused() };
        // What lies under the old name must be the node's object, edited or not: by its row, or as it was reported.
        let before = match self.disk.stat(&old.dir, &old.name) {
            Ok(stat) if row.signature.is_some_and(|s| s.same_object(&stat)) => stat,
            Ok(stat) if self.is_nodes(from, &row, &stat)? => stat,
            _ => return refused(),
        };
        let closed = match self.close_first(from, &old, &before, &row, entry.attrs.mode)? {
            Closed::Refused => return refused(),
            Closed::No => {
                // It keeps the agreed mode; what its side says of that comes after the move.
                let mut entry = entry;
                entry.attrs.mode = row.entry.attrs.mode;
                return self.rename_on(generation, (from, old), (path, new), row, before, entry, expect);
            }
            Closed::Yes(closed) => closed,
        };
        // What is missing now was not taken by a user.
        let shut = Row { achieved: (closed.live != entry.attrs).then(|| closed.live.clone()), ..row };
        let before = self.disk.stat(&old.dir, &old.name).at(from, "stat");
        let placed = match before {
            Ok(before) if same_version(&closed.after, &before) => {
                self.rename_on(generation, (from, old), (path, new), shut, before, entry, expect)
            }
            Ok(_) => refused(),
            Err(error) => Err(error),
        };
        if !matches!(placed, Ok(Placed::Done(..))) {
            self.reopen(&closed.pin, closed.held, closed.after.mode);
        }
        placed
    }

    #[allow(clippy::too_many_arguments)]
    fn rename_on(
        &mut self,
        generation: Generation,
        (from, old): (&RelPath, Parent<D::Dir>),
        (path, new): (&RelPath, Parent<D::Dir>),
        mut row: Row,
        before: Stat,
        entry: Entry,
        expect: &Expect,
    ) -> Result<Placed, ReplicaError> {
        let node = row.node;
        let refused = || Ok(Placed::Refused(vec![from.clone(), path.clone()]));
        // Its own row still holds the name that it goes back to.
        let back = (row.parent, &row.name) == (new.node, &new.name);
        let met = match self.disk.stat(&new.dir, &new.name) {
            Err(error) if back && error.kind() == io::ErrorKind::NotFound => Met::Nothing,
            _ => self.meet(&new, path, expect)?,
        };
        let mut anew = false;
        match met {
            Met::Nothing => match self
                .keeping(&[&old.dir, &new.dir], || self.disk.rename((&old.dir, &old.name), (&new.dir, &new.name)))
            {
                Err(error) if rename_refused(&error) => return refused(),
                Err(error) if error.kind() == io::ErrorKind::CrossesDevices && before.kind == Some(Kind::Dir) => {
                    let was = (from, (&old.dir, &old.name));
                    if !self.move_in_pieces(generation, was, (path, &new), &before, node)? {
                        return refused();
                    }
                    anew = true;
                }
                // After some more it is carried over as a new object.
                Err(error) if error.kind() == io::ErrorKind::CrossesDevices => return refused(),
                other => other.at(path, "rename")?,
            },
            Met::Victim(victim) if victim.kind != Some(Kind::Dir) && before.kind != Some(Kind::Dir) => {
                if !self.may_merge(&row, path, &victim)? {
                    return Ok(Placed::Refused(vec![]));
                }
                let former = self.archive.child(new.node, &new.name)?;
                if former.is_none() {
                    row.since = row.since.after(self.made(&victim.btime));
                }
                match self.rename_over(generation, (from, &old), (path, &new), &before, &victim)? {
                    Swapped::Done => {}
                    Swapped::Busy => return Ok(Placed::Busy),
                    Swapped::Refused => return refused(),
                }
            }
            _ => return refused(),
        }
        self.touch(from, &old.dir);
        self.touch(path, &new.dir);
        // It has its new name by now: an error here must not make a failure of that.
        let after = self.disk.stat(&new.dir, &new.name).ok();
        // A directory's attributes may have changed without a trace but its ctime.
        let settled = row.signature.is_some_and(|s| s.ctime == before.ctime);
        let untouched = after.filter(|after| settled && self.still(&row, &before) && same_version(&before, after));
        // So may any object's between the two looks, and the rename hides that in the ctime.
        let found = self.disk.xattrs(&new.dir, &new.name, row.entry.kind());
        let untouched = untouched.filter(|_| found.is_ok_and(|found| found == row.live_attrs().xattrs));
        let signature = match anew {
            true => after.and_then(|after| self.anew(&before, &after)),
            false => untouched.map(|after| self.signature(&after)).or(row.signature),
        };
        self.forget_report(from);
        self.forget_report(path);
        self.put_row(&mut Row {
            parent: new.node,
            name: new.name,
            generation,
            entry: entry.clone(),
            signature,
            ..row
        })?;
        self.forget_orphaned_moves()?;
        self.rebase_reports(from, path);
        self.specials.moved(from, path);
        if untouched.is_none() {
            self.dirty.insert(path.clone());
        }
        Ok(Placed::Done(Some(entry), None))
    }

    /// Takes from an object that is to have another name what the move takes from its agreed mode: there it may be seen by more
    /// people, and what its side says of its rights comes after the move.
    fn close_first(
        &self,
        from: &RelPath,
        old: &Parent<D::Dir>,
        before: &Stat,
        row: &Row,
        mode: u32,
    ) -> Result<Closed<D::Pin>, ReplicaError> {
        let Some(kind) = before.kind.filter(|kind| *kind != Kind::Link && closes(row, mode)) else {
            return Ok(Closed::No);
        };
        let (pin, stat) = match self.pin_stat(&old.dir, &old.name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Closed::Refused),
            pinned => pinned.at(from, "stat")?,
        };
        if !same_version(before, &stat) {
            return Ok(Closed::Refused);
        }
        // Rights of a file with other names are set on a copy, which comes next.
        if kind == Kind::File && has_other_names(&stat) {
            return Ok(Closed::No);
        }
        // The mode that both sides agreed on changes with the move. What a user of this side made of it would pass for that.
        let held = self.pinned_attrs(&pin, &stat, kind).at(from, "read extended attributes")?;
        if (Attrs { mtime: row.live_attrs().mtime, ..held }) != *row.live_attrs() {
            return Ok(Closed::No);
        }
        if !self.disk.set_pinned_mode(&pin, stat.mode & (mode | 0o7000)).at(from, "set the mode")? {
            return Ok(Closed::No);
        }
        let after = self.disk.stat_pin(&pin).at(from, "stat")?;
        let live = self.pinned_attrs(&pin, &after, kind).at(from, "read extended attributes")?;
        // A user may have written it meanwhile: its new time is his, and is found as that.
        let live = Attrs { mtime: row.live_attrs().mtime, ..live };
        Ok(Closed::Yes(Taken { pin, held: stat.mode, after, live }))
    }

    /// Gives an object that stays where it is the mode that it had, if nobody has set another one since. What cannot be set is
    /// found, and told as it is.
    fn reopen(&self, pin: &D::Pin, held: u32, closed: u32) {
        if held != closed && self.disk.stat_pin(pin).is_ok_and(|stat| stat.mode == closed) {
            let _ = self.disk.set_pinned_mode(pin, held);
        }
    }

    /// The same after a crash, for one that is still where it was.
    pub(crate) fn reopen_after_crash(
        &self,
        from: &RelPath,
        object: (u64, Time),
        node: NodeId,
        mode: u32,
    ) -> Result<(), ReplicaError> {
        let (Some((above, name)), Some(row)) = (from.split(), self.archive.node(node)?) else { return Ok(()) };
        let Ok(dir) = self.disk.open_dir(&above) else { return Ok(()) };
        if let Ok((pin, stat)) = self.pin_stat(&dir, &name)
            && (stat.ino, stat.btime) == object
        {
            let held = row.live_attrs().mode;
            self.reopen(&pin, held, held & (mode | 0o7000));
        }
        Ok(())
    }

    /// What an object that was moved with this mode has after a crash, if that is not the entry's.
    pub(crate) fn left_after_crash(&self, path: &RelPath, row: &Row, entry: &Entry) -> Option<Attrs> {
        let live = || {
            let (above, name) = path.split()?;
            let dir = self.disk.open_dir(&above).ok()?;
            let (pin, stat) = self.pin_stat(&dir, &name).ok()?;
            let live = self.pinned_attrs(&pin, &stat, entry.kind()).ok()?;
            Some(Attrs { mtime: row.live_attrs().mtime, ..live })
        };
        // The mode is the mask of an ACL, which has changed with it.
        let held = match row.live_attrs().xattrs.contains_key(ACL_ACCESS) {
            true => live().filter(|live| live.mode & 0o777 == entry.attrs.mode & 0o777),
            false => None,
        };
        let held = held.unwrap_or_else(|| merge::carried(row.live_attrs(), &row.entry.attrs, &entry.attrs));
        (held != entry.attrs).then_some(held)
    }

    /// The object goes through the stage, where the one that it replaces ends.
    pub(super) fn rename_over(
        &mut self,
        generation: Generation,
        (from, old): (&RelPath, &Parent<D::Dir>),
        (to, new): (&RelPath, &Parent<D::Dir>),
        mover: &Stat,
        victim: &Stat,
    ) -> Result<Swapped, ReplicaError> {
        let stage = self.disk.own(Own::Stage).at(to, "open the stage")?;
        let name = self.stage_name(generation)?;
        let place = (&old.dir, &old.name);
        match self.keeping(&[place.0], || self.disk.rename(place, (&stage, &name))) {
            Err(error) if rename_refused(&error) => return Ok(Swapped::Refused),
            other => other.at(from, "rename")?,
        }
        let staged = self.disk.stat(&stage, &name).at(from, "stat")?;
        let swapped = match same_version(mover, &staged) {
            true => self.swap(to, (None, (&stage, &name)), (&new.dir, &new.name), victim, &staged)?,
            false => Swapped::Refused,
        };
        match swapped {
            Swapped::Done => drop(self.move_to_trash(&name, to, generation, "replaced")?),
            _ => self.put_back((&stage, &name), place, from, &staged)?,
        }
        Ok(swapped)
    }

    /// Whether what lies at `from` continues the node's object: same name and kind, replaced by a user's save, and by nothing that
    /// is known as another.
    pub(super) fn is_nodes(&self, from: &RelPath, row: &Row, stat: &Stat) -> Result<bool, ReplicaError> {
        let here = self.row_at(from)?.is_some_and(|here| here.node == row.node);
        let known = self.archive.by_object(stat.ino, stat.btime)?;
        let of_another = known.iter().any(|other| other.node != row.node);
        Ok(here && row.entry.kind() == Kind::File && stat.kind == Some(Kind::File) && !of_another)
    }

    /// Reports below a directory that was renamed now speak of its new name: they are looked at again there.
    pub(crate) fn rebase_reports(&mut self, from: &RelPath, to: &RelPath) {
        let below: Vec<RelPath> =
            self.reported.range(from.clone()..).map(|(p, _)| p).take_while(|p| p.is_within(from)).cloned().collect();
        for path in below {
            self.forget_report(&path);
            if let Some(path) = path.rebase(from, to) {
                self.dirty.insert(path);
            }
        }
    }
}

/// Whether something is taken from an object before its move.
enum Closed<Pin> {
    No,
    Yes(Taken<Pin>),
    /// It is to be told anew.
    Refused,
}

/// An object from which something was taken: the mode that it had, and what is left of it.
struct Taken<Pin> {
    pin: Pin,
    held: u32,
    after: Stat,
    live: Attrs,
}

/// Whether a move with this mode takes something from what the row gives.
pub(crate) fn closes(row: &Row, mode: u32) -> bool {
    row.entry.attrs.mode & !mode & 0o777 != 0
}

fn rename_refused(error: &io::Error) -> bool {
    use io::ErrorKind::{AlreadyExists, InvalidInput, NotFound};
    // InvalidInput: a directory into itself.
    matches!(error.kind(), AlreadyExists | NotFound | InvalidInput)
}
