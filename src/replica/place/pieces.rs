//! Directories that cannot be renamed, though their file system is one (EXDEV: the lower layer of an overlay). What is in them
//! goes one by one, and the empty directory is removed where it lies.

use std::io;

use crate::model::{Content, Entry, Generation, Kind, Name, NodeId, RelPath};

use super::super::Replica;
use super::super::archive::{Archive, Intent, IntentStep, Row};
use super::super::batch::Placed;
use super::super::disk::{Disk, Own, Stat};
use super::super::error::{At, ReplicaError};
use super::super::stage::Staged;
use super::Parent;

/// Something new may come in while the rest goes out: so often is looked again.
const ROUNDS: usize = 3;

impl<D: Disk, A: Archive> Replica<D, A> {
    /// Removes a directory in which everything is known (`force`: whatever it holds): each object goes to the trash by itself.
    /// What came in meanwhile stays, with its parents, and is found as new.
    pub(in crate::replica) fn remove_in_pieces(
        &mut self,
        generation: Generation,
        parent: &Parent<D::Dir>,
        path: &RelPath,
        node: NodeId,
        force: bool,
    ) -> Result<Placed, ReplicaError> {
        let dir = self.disk.open_dir(path).at(path, "open the directory")?;
        for (name, stat) in self.disk.list(&dir).at(path, "list the directory")? {
            let Ok(below) = path.join(&name) else { continue };
            if stat.foreign {
                continue;
            }
            if force || self.goes_along(&below, &stat) {
                self.take_out(generation, &dir, &name, &below, &stat)?;
                continue;
            }
            let Some(row) = self.row_in(node, &name, &below)? else { continue };
            let inner = Parent { dir: dir.clone(), node, name };
            match (stat.kind, row.entry.kind()) {
                (Some(Kind::Dir), Kind::Dir) => {
                    self.remove_tree(generation, &inner, &below, row.node, &stat, force)?;
                }
                _ if self.is_as_recorded(&dir, &row, &stat, &below)? => {
                    self.remove_one(generation, &inner, &below, &stat)?;
                }
                _ => {}
            }
            self.touch(&below, &dir);
        }
        if self.is_removed(&parent.dir, &parent.name, path)? {
            return Ok(Placed::Done(None, None));
        }
        self.dirty.insert(path.clone());
        self.unscanned.insert(path.clone());
        Ok(Placed::Refused(vec![path.clone()]))
    }

    /// Moves an object to the trash, whatever it is and holds.
    fn take_out(
        &mut self,
        generation: Generation,
        dir: &D::Dir,
        name: &Name,
        path: &RelPath,
        stat: &Stat,
    ) -> Result<(), ReplicaError> {
        let stage = self.disk.own(Own::Stage).at(path, "open the stage")?;
        let staged = self.stage_name(generation)?;
        match self.keeping(&[dir], || self.disk.rename((dir, name), (&stage, &staged))) {
            Ok(()) => {
                self.touch(path, dir);
                return self.move_to_trash(&staged, path, generation, "deleted").map(drop);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices && stat.kind == Some(Kind::Dir) => {}
            Err(error) => return Err(error).at(path, "move out of place"),
        }
        let inside = self.disk.open_child(dir, name, path).at(path, "open the directory")?;
        for (inner, stat) in self.disk.list(&inside).at(path, "list the directory")? {
            if let Ok(below) = path.join(&inner)
                && !stat.foreign
            {
                self.take_out(generation, &inside, &inner, &below, &stat)?;
            }
        }
        self.is_removed(dir, name, path).map(drop)
    }

    /// Removes an empty directory; false if something is in it.
    fn is_removed(&mut self, dir: &D::Dir, name: &Name, path: &RelPath) -> Result<bool, ReplicaError> {
        match self.keeping(&[dir], || self.disk.remove_empty(dir, name)) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            other => {
                other.at(path, "remove the empty directory")?;
                self.touch(path, dir);
                Ok(true)
            }
        }
    }

    /// Moves a directory, and all that is in it, by making it anew. False if something has the new name. What a user puts into
    /// the old one meanwhile stays there, and is found as new. An intent says so before the first piece goes: whatever comes in
    /// between, the next start carries on.
    pub(super) fn move_in_pieces(
        &mut self,
        generation: Generation,
        (from, old): (&RelPath, (&D::Dir, &Name)),
        (to, new): (&RelPath, &Parent<D::Dir>),
        before: &Stat,
        node: NodeId,
    ) -> Result<bool, ReplicaError> {
        let staged = self.stage_dir_like(generation, (from, old), to, before)?;
        self.archive.intend(&Intent {
            generation,
            node,
            path: to.clone(),
            parent: Some(new.node),
            stage: staged.name.clone(),
            step: IntentStep::Pieces { from: from.clone(), object: (before.ino, before.btime), made: staged.object },
        })?;
        self.commit()?;
        if !self.give_name(&staged, to, (&new.dir, &new.name))? {
            return Ok(false);
        }
        self.go_over((from, old), (to, (&new.dir, &new.name)), generation, Some(node))?;
        Ok(true)
    }

    /// Goes on with such a move after a crash, from one directory into the other, which is psync's own.
    pub(in crate::replica) fn carry_on_in_pieces(
        &mut self,
        generation: Generation,
        (from, old): (&RelPath, (&D::Dir, &Name)),
        (to, new): (&RelPath, (&D::Dir, &Name)),
        node: NodeId,
    ) -> Result<(), ReplicaError> {
        self.go_over((from, old), (to, new), generation, Some(node))
    }

    /// Makes an empty directory in the stage with the attributes of one that cannot be renamed.
    fn stage_dir_like(
        &mut self,
        generation: Generation,
        (from, old): (&RelPath, (&D::Dir, &Name)),
        to: &RelPath,
        before: &Stat,
    ) -> Result<Staged<D::File>, ReplicaError> {
        let attrs = self.live(old.0, from, old.1, *before, Kind::Dir)?.attrs;
        self.stage_whole(generation, to, &Entry { content: Content::Dir, attrs }, &[])
    }

    /// Renames a staged directory into its place; false, and it is thrown away, if something lies there.
    fn give_name(
        &mut self,
        staged: &Staged<D::File>,
        to: &RelPath,
        new: (&D::Dir, &Name),
    ) -> Result<bool, ReplicaError> {
        let stage = self.disk.own(Own::Stage).at(to, "open the stage")?;
        match self.keeping(&[new.0], || self.disk.rename((&stage, &staged.name), new)) {
            Ok(()) => {
                self.touch(to, new.0);
                Ok(true)
            }
            Err(error) => {
                self.unstage(&staged.name);
                match error.kind() {
                    io::ErrorKind::AlreadyExists => Ok(false),
                    _ => Err(error).at(to, "rename into place"),
                }
            }
        }
    }

    /// Empties one directory into the other, and removes it.
    fn go_over(
        &mut self,
        (from, old): (&RelPath, (&D::Dir, &Name)),
        (to, new): (&RelPath, (&D::Dir, &Name)),
        generation: Generation,
        node: Option<NodeId>,
    ) -> Result<(), ReplicaError> {
        let out = self.disk.open_child(old.0, old.1, from).at(from, "open the directory")?;
        let into = self.disk.open_child(new.0, new.1, to).at(to, "open the directory")?;
        self.pass_dir_time(&out, &into);
        let mut gone = false;
        for _ in 0..ROUNDS {
            self.empty_into(generation, (from, &out), (to, &into), node)?;
            gone = self.is_removed(old.0, old.1, from)?;
            if gone {
                break;
            }
        }
        if !gone {
            self.dirty.insert(from.clone());
            self.unscanned.insert(from.clone());
        }
        self.unscanned.insert(to.clone());
        Ok(())
    }

    /// Renames what lies in one directory into another; directories in it that cannot be renamed are made anew, unless that was
    /// done before a crash.
    fn empty_into(
        &mut self,
        generation: Generation,
        (from, out): (&RelPath, &D::Dir),
        (to, into): (&RelPath, &D::Dir),
        node: Option<NodeId>,
    ) -> Result<(), ReplicaError> {
        for (name, stat) in self.disk.list(out).at(from, "list the directory")? {
            let (Ok(was), Ok(goes)) = (from.join(&name), to.join(&name)) else { continue };
            let refused = match self.keeping(&[out, into], || self.disk.rename((out, &name), (into, &name))) {
                Ok(()) => {
                    self.touch(&goes, into);
                    continue;
                }
                Err(error) => error,
            };
            let is_dir = stat.kind == Some(Kind::Dir) && !stat.foreign;
            let there = match refused.kind() {
                io::ErrorKind::StorageFull => return Err(refused).at(&goes, "rename"),
                io::ErrorKind::CrossesDevices if is_dir => false,
                // It was made in a run before this one, or a user made one: what lies in both goes together.
                io::ErrorKind::AlreadyExists if is_dir => {
                    self.disk.stat(into, &name).is_ok_and(|there| there.kind == Some(Kind::Dir) && !there.foreign)
                }
                // A mount point, or what a user moved or made this very moment: it is found where it lies.
                _ => continue,
            };
            if !there && refused.kind() == io::ErrorKind::AlreadyExists {
                continue;
            }
            if !there {
                let staged = self.stage_dir_like(generation, (&was, (out, &name)), &goes, &stat)?;
                if !self.give_name(&staged, &goes, (into, &name))? {
                    continue;
                }
            }
            let row = match node {
                Some(node) => self.archive.child(node, &name)?.filter(|row| row.entry.kind() == Kind::Dir),
                None => None,
            };
            let inner = row.as_ref().map(|row| row.node);
            self.go_over((&was, (out, &name)), (&goes, (into, &name)), generation, inner)?;
            if let Some(row) = row {
                self.sign_anew(into, &stat, row)?;
            }
        }
        Ok(())
    }

    /// The row of a directory that was made anew speaks of the new one.
    fn sign_anew(&mut self, dir: &D::Dir, before: &Stat, row: Row) -> Result<(), ReplicaError> {
        let known = row.signature.is_some_and(|signature| signature.same_object(before));
        if known && let Ok(after) = self.disk.stat(dir, &row.name) {
            let signature = self.anew(before, &after);
            self.put_row(&mut Row { signature, ..row })?;
        }
        Ok(())
    }

    /// The signature of a directory that was made anew, if it is as the old one was.
    pub(super) fn anew(&self, before: &Stat, after: &Stat) -> Option<super::Signature> {
        let rights = |stat: &Stat| (stat.kind, stat.mode, stat.uid, stat.gid);
        (rights(before) == rights(after)).then(|| self.signature(after))
    }
}
