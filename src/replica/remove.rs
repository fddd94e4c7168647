//! Remove: into the trash, and only what the archive knows. What users changed or made below a deleted directory
//! stays, and its parents with it.

use std::io;

use crate::model::{Generation, Kind, Name, NodeId, RelPath, Time};
use crate::protocol::Expect;

use super::Replica;
use super::archive::{Archive, Row, Tombstone};
use super::batch::Placed;
use super::disk::{Disk, Lease, Own, Stat};
use super::error::{At, ReplicaError};
use super::examine::{Examined, How};
use super::place::{Guarded, Met, Parent, same_version};

/// What a walk through a directory that is to be removed found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Below {
    /// Nothing but what the archive knows.
    Known,
    /// A file that somebody is writing.
    Busy,
    /// Something new or changed.
    Survivors,
}

/// A directory of which one thing after another is removed.
struct Level<Dir> {
    /// What it lies in, and its name there.
    parent: Parent<Dir>,
    path: RelPath,
    node: NodeId,
    dir: Dir,
    entries: std::vec::IntoIter<(Name, Stat)>,
}

impl<D: Disk, A: Archive> Replica<D, A> {
    pub(crate) fn remove(
        &mut self,
        generation: Generation,
        path: &RelPath,
        node: NodeId,
        expect: &Expect,
        force: bool,
    ) -> Result<Placed, ReplicaError> {
        let Some(parent) = self.open_parent(path)? else { return Ok(Placed::Refused(vec![path.clone()])) };
        let met = self.meet(&parent, path, expect)?;
        let Met::Victim(stat) = &met else {
            return self.remove_met(generation, path, node, &parent, met, false);
        };
        // By what lies here, whatever the brain was told of it.
        let Some(count) = self.may_remove(path, node, stat)? else { return Ok(Placed::Refused(vec![])) };
        let removed = self.remove_met(generation, path, node, &parent, met, force && self.settings.force);
        if !matches!(removed, Ok(Placed::Done(..))) {
            self.give_back_removal(count);
        }
        removed
    }

    fn remove_met(
        &mut self,
        generation: Generation,
        path: &RelPath,
        node: NodeId,
        parent: &Parent<D::Dir>,
        met: Met,
        force: bool,
    ) -> Result<Placed, ReplicaError> {
        match met {
            Met::Refused => return Ok(Placed::Refused(vec![path.clone()])),
            Met::Nothing => {}
            Met::Victim(stat) if stat.kind == Some(Kind::Dir) => {
                let dir = self.disk.open_dir(path).at(path, "open the directory")?;
                let below = match force {
                    true => Below::Known,
                    false => self.walk_known(&dir, path, Some(node), &mut Time::default())?,
                };
                match below {
                    Below::Busy => return Ok(Placed::Busy),
                    Below::Survivors => self.remove_known(generation, parent, path, node)?,
                    Below::Known => match self.remove_tree(generation, parent, path, node, &stat, force)? {
                        Placed::Done(..) => {}
                        other => return Ok(other),
                    },
                }
            }
            Met::Victim(stat) => match self.remove_one(generation, parent, path, &stat)? {
                Placed::Done(..) => {}
                other => return Ok(other),
            },
        }
        self.touch(path, &parent.dir);
        self.bury(generation, node)?;
        self.forget_reports_below(path);
        self.forget_report(path);
        Ok(Placed::Done(None, None))
    }

    /// Drops a node's rows and leaves a tombstone.
    pub(crate) fn bury(&mut self, generation: Generation, node: NodeId) -> Result<(), ReplicaError> {
        let Some(row) = self.archive.node(node)? else { return Ok(()) };
        self.leave_way(node);
        self.given.remove(&node);
        self.archive.drop_tree(node)?;
        self.archive.bury(&Tombstone { node, parent: row.parent, name: row.name, generation })?;
        self.forget_orphaned_moves()?;
        Ok(())
    }

    /// What had moved out of a tree whose rows are gone is a new object now.
    pub(crate) fn forget_orphaned_moves(&mut self) -> Result<(), ReplicaError> {
        let mut orphans = Vec::new();
        for (node, path) in &self.moved {
            if self.archive.node(*node)?.is_none() {
                orphans.push(path.clone());
            }
        }
        for path in orphans {
            self.forget_report(&path);
            self.dirty.insert(path.clone());
            self.unscanned.insert(path);
        }
        Ok(())
    }

    /// A file or link: out of its name, verified, into the trash.
    pub(super) fn remove_one(
        &mut self,
        generation: Generation,
        parent: &Parent<D::Dir>,
        path: &RelPath,
        stat: &Stat,
    ) -> Result<Placed, ReplicaError> {
        let place = (&parent.dir, &parent.name);
        let lease = match self.guard(path, place, stat)? {
            Guarded::Lease(file) => file,
            Guarded::Busy => return Ok(Placed::Busy),
            Guarded::Refused => return Ok(Placed::Refused(vec![path.clone()])),
        };
        let Some(bare) = self.bare(place, stat) else { return Ok(Placed::Refused(vec![path.clone()])) };
        let stat = &bare;
        let stage = self.disk.own(Own::Stage).at(path, "open the stage")?;
        let name = self.stage_name(generation)?;
        match self.keeping(&[place.0], || self.disk.rename(place, (&stage, &name))) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Placed::Refused(vec![path.clone()])),
            other => other.at(path, "move out of place")?,
        }
        let broken = lease.as_ref().is_some_and(|file| !self.disk.lease_holds(file, Lease::Read));
        let out = match self.disk.stat(&stage, &name).at(path, "stat what was removed") {
            Ok(out) => out,
            Err(error) => return self.not_removed((&stage, &name), place, path, stat, error),
        };
        // An overlay copies a file of its lower layer for the rename, which gives it another birth time.
        let reborn = Stat { btime: out.btime, ..*stat };
        if broken || !same_version(&reborn, &out) {
            self.put_back((&stage, &name), place, path, &out)?;
            if let Some(file) = &lease {
                self.disk.release(file);
            }
            return Ok(if broken { Placed::Busy } else { Placed::Refused(vec![path.clone()]) });
        }
        if let Some(file) = &lease {
            self.disk.release(file);
        }
        self.move_to_trash(&name, path, generation, "deleted")?;
        Ok(Placed::Done(None, None))
    }

    /// An error came while an object was out of its name: it gets that back. Else it would pass for gone, and whatever users
    /// make there for the object.
    fn not_removed(
        &mut self,
        object: (&D::Dir, &Name),
        place: (&D::Dir, &Name),
        path: &RelPath,
        stat: &Stat,
        error: ReplicaError,
    ) -> Result<Placed, ReplicaError> {
        if self.put_back(object, place, path, stat).is_ok() {
            self.dirty.insert(path.clone());
            self.unscanned.insert(path.clone());
        }
        Err(error)
    }

    /// Gives an object its name back; if that is taken meanwhile, a name beside it.
    pub(crate) fn put_back(
        &mut self,
        object: (&D::Dir, &Name),
        place: (&D::Dir, &Name),
        path: &RelPath,
        stat: &Stat,
    ) -> Result<(), ReplicaError> {
        match self.keeping(&[place.0], || self.disk.rename(object, place)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.keep_beside(object, path, None, stat.mtime.secs, "deleted").map(drop)
            }
            other => other.at(path, "put back"),
        }
    }

    /// A directory with nothing but known objects in it goes whole.
    pub(super) fn remove_tree(
        &mut self,
        generation: Generation,
        parent: &Parent<D::Dir>,
        path: &RelPath,
        node: NodeId,
        stat: &Stat,
        force: bool,
    ) -> Result<Placed, ReplicaError> {
        let place = (&parent.dir, &parent.name);
        let stage = self.disk.own(Own::Stage).at(path, "open the stage")?;
        let name = self.stage_name(generation)?;
        let inside = self.disk.open_dir(path).at(path, "open the directory")?;
        match self.keeping(&[place.0], || self.disk.rename(place, (&stage, &name))) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Placed::Refused(vec![path.clone()])),
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                return self.remove_in_pieces(generation, parent, path, node, force);
            }
            other => other.at(path, "move out of place")?,
        }
        // What the walk finds as known is older than the rename. Where the clock is coarse it may bear the same time.
        let mut newest = Time::default();
        let out = self.disk.stat(&stage, &name).at(path, "stat what was removed");
        let looked = out.and_then(|out| match (same_version(stat, &out), force) {
            (false, _) => Ok((out, Below::Survivors)),
            (true, true) => Ok((out, Below::Known)),
            (true, false) => Ok((out, self.walk_known(&inside, path, Some(node), &mut newest)?)),
        });
        let (out, below) = match looked {
            Ok(looked) => looked,
            Err(error) => return self.not_removed((&stage, &name), place, path, stat, error),
        };
        if below != Below::Known {
            self.put_back((&stage, &name), place, path, &out)?;
            // It had no name for a moment: what its watchers saw must be looked at again.
            self.dirty.insert(path.clone());
            self.unscanned.insert(path.clone());
            return Ok(if below == Below::Busy { Placed::Busy } else { Placed::Refused(vec![path.clone()]) });
        }
        let stamp = if newest < out.ctime { before(out.ctime) } else { newest };
        self.move_tree_to_trash(&name, path, generation, "deleted", Some(stamp))?;
        Ok(Placed::Done(None, None))
    }

    /// Looks through an open directory for what the archive does not know in this state. `newest`: the latest ctime.
    fn walk_known(
        &mut self,
        dir: &D::Dir,
        path: &RelPath,
        node: Option<NodeId>,
        newest: &mut Time,
    ) -> Result<Below, ReplicaError> {
        let mut found = Below::Known;
        // What is still to be entered, in a list and not on the stack: users make trees of any depth.
        let mut to_come: Vec<(D::Dir, Name, RelPath, NodeId)> = Vec::new();
        let (mut dir, mut path, mut node) = (dir.clone(), path.clone(), node);
        loop {
            for (name, stat) in self.disk.list(&dir).at(&path, "list the directory")? {
                let whole = path.join(&name).ok();
                if whole.as_ref().is_some_and(|below| self.goes_along(below, &stat)) {
                    continue;
                }
                *newest = (*newest).max(stat.ctime);
                let row = match (node, &whole) {
                    (Some(node), Some(below)) => self.row_in(node, &name, below)?,
                    // A move has made its path too long. Its row knows no path.
                    (Some(node), None) => self.archive.child(node, &name)?.filter(|row| {
                        !self.moved.contains_key(&row.node)
                            && (stat.kind == Some(Kind::Dir) || self.unchanged(row, &stat))
                    }),
                    (None, _) => None,
                };
                let Some(row) = row else { return Ok(Below::Survivors) };
                // For those who are told.
                let below = whole.unwrap_or_else(|| path.clone());
                if stat.kind == Some(Kind::Dir) && row.entry.kind() == Kind::Dir && !stat.foreign {
                    let same = row.signature.is_some_and(|s| {
                        s.same_object(&stat) && (s.mode, s.uid, s.gid) == (stat.mode, stat.uid, stat.gid)
                    });
                    if !same {
                        return Ok(Below::Survivors);
                    }
                    to_come.push((dir.clone(), name, below, row.node));
                    continue;
                }
                found = found.max(self.is_known(&dir, &name, &row, &stat, &below)?);
                if found == Below::Survivors {
                    return Ok(found);
                }
            }
            let Some((above, name, below, inner)) = to_come.pop() else { return Ok(found) };
            dir = self.disk.open_child(&above, &name, &below).at(&below, "open the directory")?;
            (path, node) = (below, Some(inner));
        }
    }

    /// The same for one object that is no directory, or should be none.
    fn is_known(
        &mut self,
        dir: &D::Dir,
        name: &Name,
        row: &Row,
        stat: &Stat,
        path: &RelPath,
    ) -> Result<Below, ReplicaError> {
        let compared = self.compared(dir, row, stat, path)?;
        if compared != Below::Known || stat.kind != Some(Kind::File) {
            return Ok(compared);
        }
        Ok(match self.guard(path, (dir, name), stat)? {
            Guarded::Busy => Below::Busy,
            Guarded::Refused => Below::Survivors,
            Guarded::Lease(file) => {
                if let Some(file) = file {
                    self.disk.release(&file);
                }
                Below::Known
            }
        })
    }

    /// Whether an object is its row's: by its stat, or by its contents where the stat proves nothing.
    pub(super) fn is_as_recorded(
        &mut self,
        dir: &D::Dir,
        row: &Row,
        stat: &Stat,
        path: &RelPath,
    ) -> Result<bool, ReplicaError> {
        Ok(self.compared(dir, row, stat, path)? == Below::Known)
    }

    /// The same. A large file is busy until it has been read, which is done when there is time.
    fn compared(&mut self, dir: &D::Dir, row: &Row, stat: &Stat, path: &RelPath) -> Result<Below, ReplicaError> {
        if self.unchanged(row, stat) {
            return Ok(Below::Known);
        }
        if stat.kind != Some(row.entry.kind()) || stat.foreign {
            return Ok(Below::Survivors);
        }
        match self.examine_in(dir, Some(row.parent), path, &row.name, How { now: true, ..How::default() }) {
            Ok(Examined::Same) => Ok(Below::Known),
            Ok(Examined::Reading) => {
                self.stop_reading(path);
                self.unproven.owe(path);
                Ok(Below::Busy)
            }
            Err(error @ ReplicaError::Archive(_)) => Err(error),
            _ => {
                // Nobody is told from here: it is looked at again.
                self.forget_report(path);
                self.dirty.insert(path.clone());
                Ok(Below::Survivors)
            }
        }
    }

    /// Whether an object never holds a directory: it goes to the trash with it.
    pub(super) fn goes_along(&self, path: &RelPath, stat: &Stat) -> bool {
        stat.kind.is_none() || self.filter.skips(stat.kind) || self.filter.excluded(path) || self.filter.temporary(path)
    }

    /// Removes what the archive knows below a directory, one by one, and the directories that are empty then. The
    /// rest stays and is found as new.
    fn remove_known(
        &mut self,
        generation: Generation,
        parent: &Parent<D::Dir>,
        path: &RelPath,
        node: NodeId,
    ) -> Result<(), ReplicaError> {
        let top = Parent { dir: parent.dir.clone(), node: parent.node, name: parent.name.clone() };
        let mut levels = vec![self.enter_known(top, path.clone(), node)?];
        while let Some(level) = levels.last_mut() {
            let Some((name, stat)) = level.entries.next() else {
                if let Some(level) = levels.pop() {
                    self.leave_known(generation, &level)?;
                }
                continue;
            };
            let Ok(below) = level.path.join(&name) else { continue };
            let (dir, node) = (level.dir.clone(), level.node);
            let Some(row) = self.row_in(node, &name, &below)? else { continue };
            let inner = Parent { dir, node, name };
            if stat.kind == Some(Kind::Dir) && row.entry.kind() == Kind::Dir && !stat.foreign {
                levels.push(self.enter_known(inner, below, row.node)?);
            } else if self.is_as_recorded(&inner.dir, &row, &stat, &below)? {
                self.remove_one(generation, &inner, &below, &stat)?;
                self.touch(&below, &inner.dir);
            }
        }
        Ok(())
    }

    fn enter_known(&self, parent: Parent<D::Dir>, path: RelPath, node: NodeId) -> Result<Level<D::Dir>, ReplicaError> {
        let dir = self.disk.open_child(&parent.dir, &parent.name, &path).at(&path, "open the directory")?;
        let entries = self.disk.list(&dir).at(&path, "list the directory")?.into_iter();
        Ok(Level { parent, path, node, dir, entries })
    }

    /// All that was known in a directory is gone; so is the directory, if nothing else is left in it.
    fn leave_known(&mut self, generation: Generation, level: &Level<D::Dir>) -> Result<(), ReplicaError> {
        let Level { parent, path, dir, .. } = level;
        let left = self.disk.list(dir).at(path, "list the directory")?;
        let holds = left.iter().any(|(name, stat)| path.join(name).is_ok_and(|p| !self.goes_along(&p, stat)));
        if holds {
            self.dirty.insert(path.clone());
            self.unscanned.insert(path.clone());
            return Ok(());
        }
        let stat = self.disk.stat_dir(dir).at(path, "stat the directory")?;
        // Refused: something came into it this very moment. It stays, and is found as new.
        self.remove_tree_if_empty(generation, parent, path, &stat)
    }

    fn remove_tree_if_empty(
        &mut self,
        generation: Generation,
        parent: &Parent<D::Dir>,
        path: &RelPath,
        stat: &Stat,
    ) -> Result<(), ReplicaError> {
        match self.remove_tree(generation, parent, path, u64::MAX, stat, false)? {
            Placed::Done(..) => {}
            _ => {
                self.dirty.insert(path.clone());
                self.unscanned.insert(path.clone());
            }
        }
        Ok(())
    }
}

/// The moment just before another.
fn before(time: Time) -> Time {
    match time.nanos {
        0 => Time { secs: time.secs - 1, nanos: 999_999_999 },
        nanos => Time { nanos: nanos - 1, ..time },
    }
}
