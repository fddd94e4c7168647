//! Renames: an object goes to its new name with all that lies below it.

use std::io;

use crate::model::acls::ACL_ACCESS;
use crate::model::{Attrs, Entry, Kind, NodeId, RelPath, Time, merge};

use super::super::Replica;
use super::super::archive::{Archive, Row, Signature};
use super::super::disk::{Disk, Stat};
use super::super::error::{At, ReplicaError};
use super::super::spot::Spot;
use super::action::{Action, Done, Stop};
use super::attrs::has_other_names;
use super::displace::Ours;
use super::{Parent, same_version};

/// One end of a rename: a path, and the directory that it leads to.
struct End<'a, Dir> {
    path: &'a RelPath,
    parent: Parent<Dir>,
}

impl<Dir> End<'_, Dir> {
    fn spot(&self) -> Spot<'_, Dir> {
        self.parent.spot(self.path)
    }
}

/// What is renamed: its row, and how it lay under its old name.
struct Mover {
    row: Row,
    before: Stat,
}

impl<D: Disk, A: Archive> Replica<D, A> {
    pub(super) fn rename(&mut self, action: &Action, from: &RelPath, entry: Entry) -> Result<Done, Stop> {
        let row = self.archive.node(action.node)?.ok_or(Stop::Refused)?;
        let (Some(old), Some(new)) = (self.open_parent(from)?, self.open_parent(action.path)?) else {
            return Err(Stop::Refused);
        };
        let (old, new) = (End { path: from, parent: old }, End { path: action.path, parent: new });
        // What lies under the old name must be the node's object, edited or not: by its row, or as it was reported.
        let before = match self.disk.stat(&old.parent.dir, &old.parent.name) {
            Ok(stat) if row.signature.is_some_and(|s| s.same_object(&stat)) => stat,
            Ok(stat) if self.is_nodes(from, &row, &stat)? => stat,
            _ => return Err(Stop::Refused),
        };
        let mover = Mover { row, before };
        let Some(taken) = self.close_first(old.spot(), &mover, entry.attrs.mode)? else {
            // It keeps the agreed mode; what its side says of that comes after the move.
            let mut entry = entry;
            entry.attrs.mode = mover.row.entry.attrs.mode;
            return self.rename_on(action, (old, new), mover, entry);
        };
        // What is missing now was not taken by a user.
        let achieved = (taken.live != entry.attrs).then(|| taken.live.clone());
        let row = Row { achieved, ..mover.row };
        let before = self.disk.stat(&old.parent.dir, &old.parent.name).at(from, "stat");
        let renamed = before.map_err(Stop::from).and_then(|before| match same_version(&taken.after, &before) {
            true => self.rename_on(action, (old, new), Mover { row, before }, entry),
            false => Err(Stop::Refused),
        });
        if renamed.is_err() {
            self.reopen(&taken.pin, taken.held, taken.after.mode);
        }
        renamed
    }

    fn rename_on(
        &mut self,
        action: &Action,
        (old, new): (End<D::Dir>, End<D::Dir>),
        mut mover: Mover,
        entry: Entry,
    ) -> Result<Done, Stop> {
        let (from, to) = (old.path, new.path);
        // Its own row still holds the name that it goes back to.
        let back = (mover.row.parent, &mover.row.name) == (new.parent.node, &new.parent.name);
        let victim = match self.disk.stat(&new.parent.dir, &new.parent.name) {
            Err(error) if back && error.kind() == io::ErrorKind::NotFound => None,
            _ => self.meet(&new.parent, to, action.expect)?,
        };
        let anew = match victim {
            None => self.rename_to_free(action, &old, &new, &mover.before)?,
            Some(victim) => {
                self.rename_over(action, (&old, &new), &mut mover, &victim)?;
                false
            }
        };
        self.touch(from, &old.parent.dir);
        self.touch(to, &new.parent.dir);
        let (signature, untouched) = self.look_at_renamed(&mover, new.spot(), anew);
        self.forget_report(from);
        self.forget_report(to);
        self.put_row(&mut Row {
            parent: new.parent.node,
            name: new.parent.name,
            generation: action.generation,
            entry: entry.clone(),
            signature,
            ..mover.row
        })?;
        self.forget_orphaned_moves()?;
        self.rebase_reports(from, to);
        self.news.specials.moved(from, to);
        if !untouched {
            self.agenda.look(to.clone());
        }
        Ok(Done { entry: Some(entry), kept: None })
    }

    /// Renames to a name that nobody has. True if that could not be done at once, and the directory was made anew there.
    fn rename_to_free(
        &mut self,
        action: &Action,
        old: &End<D::Dir>,
        new: &End<D::Dir>,
        before: &Stat,
    ) -> Result<bool, Stop> {
        let (was, goes) = (old.spot(), new.spot());
        match self.keeping(&[was.dir, goes.dir], || self.disk.rename(was.place(), goes.place())) {
            Err(error) if rename_refused(&error) => Err(Stop::Refused),
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices && before.kind == Some(Kind::Dir) => {
                match self.move_in_pieces(action, was, goes, before)? {
                    true => Ok(true),
                    false => Err(Stop::Refused),
                }
            }
            // After some more it is carried over as a new object.
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => Err(Stop::Refused),
            other => Ok(other.at(new.path, "rename").map(|()| false)?),
        }
    }

    /// Looks at what has its new name by now: an error here must not make a failure of that. The answer is what the row may say
    /// of it, and whether nobody touched it.
    fn look_at_renamed(&self, mover: &Mover, at: Spot<D::Dir>, anew: bool) -> (Option<Signature>, bool) {
        let Mover { row, before } = mover;
        let after = self.disk.stat(at.dir, at.name).ok();
        // A directory's attributes may have changed without a trace but its ctime.
        let settled = row.signature.is_some_and(|s| s.ctime == before.ctime);
        let untouched = after.filter(|after| settled && self.still(row, before) && same_version(before, after));
        // So may any object's between the two looks, and the rename hides that in the ctime.
        let found = self.disk.xattrs(at.dir, at.name, row.entry.kind());
        let untouched = untouched.filter(|_| found.is_ok_and(|found| found == row.live_attrs().xattrs));
        let signature = match anew {
            true => after.and_then(|after| self.anew(before, &after)),
            false => untouched.map(|after| self.signature(&after)).or(row.signature),
        };
        (signature, untouched.is_some())
    }

    /// Takes from an object that is to have another name what the move takes from its agreed mode: there it may be seen by more
    /// people, and what its side says of its rights comes after the move.
    fn close_first(&self, at: Spot<D::Dir>, mover: &Mover, mode: u32) -> Result<Option<Taken<D::Pin>>, Stop> {
        let Mover { row, before } = mover;
        let Some(kind) = before.kind.filter(|kind| *kind != Kind::Link && closes(row, mode)) else {
            return Ok(None);
        };
        let (pin, stat) = match self.pin_stat(at.dir, at.name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Stop::Refused),
            pinned => pinned.at(at.path, "stat")?,
        };
        if !same_version(before, &stat) {
            return Err(Stop::Refused);
        }
        // Rights of a file with other names are set on a copy, which comes next.
        if kind == Kind::File && has_other_names(&stat) {
            return Ok(None);
        }
        // The mode that both sides agreed on changes with the move. What a user of this side made of it would pass for that.
        let held = self.pinned_attrs(&pin, &stat, kind).at(at.path, "read extended attributes")?;
        if (Attrs { mtime: row.live_attrs().mtime, ..held }) != *row.live_attrs() {
            return Ok(None);
        }
        if !self.disk.set_pinned_mode(&pin, stat.mode & (mode | 0o7000)).at(at.path, "set the mode")? {
            return Ok(None);
        }
        let after = self.disk.stat_pin(&pin).at(at.path, "stat")?;
        let live = self.pinned_attrs(&pin, &after, kind).at(at.path, "read extended attributes")?;
        // A user may have written it meanwhile: its new time is his, and is found as that.
        let live = Attrs { mtime: row.live_attrs().mtime, ..live };
        Ok(Some(Taken { pin, held: stat.mode, after, live }))
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
    fn rename_over(
        &mut self,
        action: &Action,
        (old, new): (&End<D::Dir>, &End<D::Dir>),
        mover: &mut Mover,
        victim: &Stat,
    ) -> Result<(), Stop> {
        if victim.kind == Some(Kind::Dir) || mover.before.kind == Some(Kind::Dir) {
            return Err(Stop::Refused);
        }
        if !self.may_merge(&mover.row, new.path, victim)? {
            return Err(Stop::Barred);
        }
        let former = self.archive.child(new.parent.node, &new.parent.name)?;
        if former.is_none() {
            mover.row.since = mover.row.since.after(self.made(&victim.btime));
        }
        let aside = self.aside(action.generation, new.path)?;
        match self.move_out(old.spot(), &aside) {
            Err(error) if rename_refused(&error) => return Err(Stop::Refused),
            other => other.at(old.path, "rename")?,
        }
        let staged = self.disk.stat(&aside.dir, &aside.name).at(old.path, "stat")?;
        let ours = Ours { file: None, place: aside.place(), stat: &staged };
        let swapped = match same_version(&mover.before, &staged) {
            true => self.swap(new.spot(), &ours, victim),
            false => Err(Stop::Refused),
        };
        match swapped {
            Ok(()) => drop(self.move_to_trash(&aside.name, new.path, action.generation, "replaced")?),
            // It may lie under its new name by now, and what it replaced in the stage: the next start tells.
            Err(Stop::Failed(_)) => {}
            Err(_) => self.put_back(aside.place(), old.spot(), &staged)?,
        }
        swapped
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
        for path in self.ledger.within(from) {
            self.forget_report(&path);
            if let Some(path) = path.rebase(from, to) {
                self.agenda.look(path);
            }
        }
    }
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
