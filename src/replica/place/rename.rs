//! Renames: an object goes to its new name with all that lies below it.

use std::io;

use crate::model::acls::ACL_ACCESS;
use crate::model::{Attrs, Entry, Expect, Generation, Kind, Name, NodeId, RelPath, Time};

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
            Closed::No => return self.rename_on(generation, (from, old), (path, new), row, before, entry, expect),
            Closed::Yes(closed) => closed,
        };
        let mut shut = row.clone();
        if closed.held == *row.live_attrs() {
            // What is missing now was not taken by a user.
            shut.achieved = (closed.live != entry.attrs).then(|| closed.live.clone());
        }
        let (dir, name) = (old.dir.clone(), old.name.clone());
        let before = self.disk.stat(&dir, &name).at(from, "stat")?;
        let placed = self.rename_on(generation, (from, old), (path, new), shut, before, entry, expect);
        if !matches!(placed, Ok(Placed::Done(_))) {
            self.reopen((&dir, &name), from, &closed)?;
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
            Met::Nothing => match self.disk.rename((&old.dir, &old.name), (&new.dir, &new.name)) {
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
        Ok(Placed::Done(Some(entry)))
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
    ) -> Result<Closed, ReplicaError> {
        let Some(kind) = before.kind.filter(|kind| *kind != Kind::Link && closes(row, mode)) else {
            return Ok(Closed::No);
        };
        let (pin, stat) = match self.pin_stat(&old.dir, &old.name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Closed::Refused),
            pinned => pinned.at(from, "stat")?,
        };
        // With other names it may be seen where this side knows nothing of: it goes as a new object.
        if !same_version(before, &stat) || kind == Kind::File && has_other_names(&stat) {
            return Ok(Closed::Refused);
        }
        let held = self.pinned_attrs(&pin, &stat, kind).at(from, "read extended attributes")?;
        let wanted = shut(&held, mode);
        self.disk.set_pinned_attrs(&pin, kind, &wanted, &held.xattrs).at(from, "set attributes")?;
        let stat = self.disk.stat_pin(&pin).at(from, "stat")?;
        let live = self.pinned_attrs(&pin, &stat, kind).at(from, "read extended attributes")?;
        Ok(Closed::Yes(Taken { object: (stat.ino, stat.btime), held, live }))
    }

    /// Gives an object that stays where it is what was taken from it, if nobody has set anything since.
    fn reopen(&self, (dir, name): (&D::Dir, &Name), path: &RelPath, taken: &Taken) -> Result<(), ReplicaError> {
        let Ok((pin, stat)) = self.pin_stat(dir, name) else { return Ok(()) };
        let Some(kind) = stat.kind.filter(|_| (stat.ino, stat.btime) == taken.object) else { return Ok(()) };
        let live = self.pinned_attrs(&pin, &stat, kind).at(path, "read extended attributes")?;
        if live == taken.live {
            self.disk.set_pinned_attrs(&pin, kind, &taken.held, &live.xattrs).at(path, "set attributes")?;
        }
        Ok(())
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
        let held = row.live_attrs().clone();
        self.reopen((&dir, &name), from, &Taken { object, live: shut(&held, mode), held })
    }

    /// Two names that users see are never exchanged: the object goes through the stage, where the one that it
    /// replaces ends.
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
        match self.disk.rename(place, (&stage, &name)) {
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

    /// Whether what lies at `from` continues the node's object: same name and kind, replaced by a user's save.
    pub(super) fn is_nodes(&self, from: &RelPath, row: &Row, stat: &Stat) -> Result<bool, ReplicaError> {
        let here = self.row_at(from)?.is_some_and(|here| here.node == row.node);
        Ok(here && row.entry.kind() == Kind::File && stat.kind == Some(Kind::File))
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
enum Closed {
    No,
    Yes(Taken),
    /// It is to be told anew.
    Refused,
}

/// What an object had, and what was left of it.
struct Taken {
    object: (u64, Time),
    held: Attrs,
    live: Attrs,
}

/// Whether a move with this mode takes something from what the row gives.
pub(crate) fn closes(row: &Row, mode: u32) -> bool {
    row.entry.attrs.mode & !mode & 0o777 != 0
}

/// What is left of attributes for a move with this mode.
pub(crate) fn shut(held: &Attrs, mode: u32) -> Attrs {
    let mut left = Attrs { mode: held.mode & (mode | 0o7000), ..held.clone() };
    if left.xattrs.remove(ACL_ACCESS).is_some() {
        // What the group has without its ACL is not known.
        left.mode &= !0o070;
    }
    left
}

fn rename_refused(error: &io::Error) -> bool {
    use io::ErrorKind::{AlreadyExists, InvalidInput, NotFound};
    // InvalidInput: a directory into itself.
    matches!(error.kind(), AlreadyExists | NotFound | InvalidInput)
}
