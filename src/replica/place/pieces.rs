//! Directories that cannot be renamed, though their file system is one (EXDEV: the lower layer of an overlay). What is in them
//! goes one by one, and the empty directory is removed where it lies.

use std::io;

use crate::model::{Content, Entry, Generation, Kind, NodeId, RelPath};

use super::super::Replica;
use super::super::archive::{Archive, Intent, IntentStep, Row};
use super::super::disk::{Disk, Own, Stat};
use super::super::error::{At, ReplicaError};
use super::super::remove::Tree;
use super::super::spot::Spot;
use super::super::stage::Staged;
use super::action::{Action, Stop, unless_left};

/// Something new may come in while the rest goes out: so often is looked again.
const ROUNDS: usize = 3;

impl<D: Disk, A: Archive> Replica<D, A> {
    /// Removes a directory in which everything is known (`force`: whatever it holds): each object goes to the trash by itself.
    /// What came in meanwhile stays, with its parents, and is found as new.
    pub(in crate::replica) fn remove_in_pieces(
        &mut self,
        generation: Generation,
        at: Spot<D::Dir>,
        tree: Tree,
    ) -> Result<(), Stop> {
        let path = at.path;
        let dir = self.disk.open_dir(path).at(path, "open the directory")?;
        for (name, stat) in self.disk.list(&dir).at(path, "list the directory")? {
            let Ok(below) = path.join(&name) else { continue };
            if stat.foreign {
                continue;
            }
            let inner = Spot { dir: &dir, node: Some(tree.node), name: &name, path: &below };
            if tree.force || self.goes_along(&below, &stat) {
                self.take_out(generation, inner, &stat)?;
                continue;
            }
            let Some(row) = self.row_in(tree.node, &name, &below)? else { continue };
            match (stat.kind, row.entry.kind()) {
                (Some(Kind::Dir), Kind::Dir) => {
                    let tree = Tree { node: row.node, ..tree };
                    unless_left(self.remove_tree(generation, inner, &stat, tree))?;
                }
                _ if self.is_as_recorded(inner, &row, &stat)? => {
                    unless_left(self.remove_one(generation, inner, &stat))?;
                }
                _ => {}
            }
            self.touch(&below, &dir);
        }
        if self.is_removed(at)? {
            return Ok(());
        }
        self.agenda.look_and_scan(path);
        Err(Stop::Refused)
    }

    /// Moves an object to the trash, whatever it is and holds.
    fn take_out(&mut self, generation: Generation, at: Spot<D::Dir>, stat: &Stat) -> Result<(), ReplicaError> {
        let Spot { dir, name, path, .. } = at;
        let aside = self.aside(generation, path)?;
        match self.move_out(at, &aside) {
            Ok(()) => {
                self.touch(path, dir);
                return self.move_to_trash(&aside.name, path, generation, "deleted").map(drop);
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
                self.take_out(generation, Spot::new(&inside, &inner, &below), &stat)?;
            }
        }
        self.is_removed(at).map(drop)
    }

    /// Removes an empty directory; false if something is in it.
    fn is_removed(&mut self, at: Spot<D::Dir>) -> Result<bool, ReplicaError> {
        match self.keeping(&[at.dir], || self.disk.remove_empty(at.dir, at.name)) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            other => {
                other.at(at.path, "remove the empty directory")?;
                self.touch(at.path, at.dir);
                Ok(true)
            }
        }
    }

    /// Moves a directory, and all that is in it, by making it anew. False if something has the new name. What a user puts into
    /// the old one meanwhile stays there, and is found as new. An intent says so before the first piece goes: whatever comes in
    /// between, the next start carries on.
    pub(super) fn move_in_pieces(
        &mut self,
        action: &Action,
        old: Spot<D::Dir>,
        new: Spot<D::Dir>,
        before: &Stat,
    ) -> Result<bool, ReplicaError> {
        let Action { generation, node, .. } = *action;
        let staged = self.stage_dir_like(generation, old, new.path, before)?;
        self.archive.intend(&Intent {
            generation,
            node,
            path: new.path.clone(),
            parent: new.node,
            stage: staged.name.clone(),
            step: IntentStep::Pieces {
                from: old.path.clone(),
                object: (before.ino, before.btime),
                made: staged.object,
            },
        })?;
        self.commit()?;
        if !self.give_name(&staged, new)? {
            return Ok(false);
        }
        self.go_over(generation, old, new, Some(node))?;
        Ok(true)
    }

    /// Makes an empty directory in the stage with the attributes of one that cannot be renamed.
    fn stage_dir_like(
        &mut self,
        generation: Generation,
        old: Spot<D::Dir>,
        to: &RelPath,
        before: &Stat,
    ) -> Result<Staged<D::File>, ReplicaError> {
        let attrs = self.live(old, *before, Kind::Dir)?.attrs;
        self.stage_whole(generation, to, &Entry { content: Content::Dir, attrs }, &[])
    }

    /// Renames a staged directory into its place; false, and it is thrown away, if something lies there.
    fn give_name(&mut self, staged: &Staged<D::File>, new: Spot<D::Dir>) -> Result<bool, ReplicaError> {
        let stage = self.disk.own(Own::Stage).at(new.path, "open the stage")?;
        match self.keeping(&[new.dir], || self.disk.rename((&stage, &staged.name), new.place())) {
            Ok(()) => {
                self.touch(new.path, new.dir);
                Ok(true)
            }
            Err(error) => {
                self.unstage(&staged.name);
                match error.kind() {
                    io::ErrorKind::AlreadyExists => Ok(false),
                    _ => Err(error).at(new.path, "rename into place"),
                }
            }
        }
    }

    /// Empties one directory into the other, which is psync's own, and removes it. `node`: whose rows lie below it.
    pub(in crate::replica) fn go_over(
        &mut self,
        generation: Generation,
        old: Spot<D::Dir>,
        new: Spot<D::Dir>,
        node: Option<NodeId>,
    ) -> Result<(), ReplicaError> {
        let out = self.disk.open_child(old.dir, old.name, old.path).at(old.path, "open the directory")?;
        let into = self.disk.open_child(new.dir, new.name, new.path).at(new.path, "open the directory")?;
        self.pass_dir_time(&out, &into);
        let mut gone = false;
        for _ in 0..ROUNDS {
            self.empty_into(generation, (old.path, &out), (new.path, &into), node)?;
            gone = self.is_removed(old)?;
            if gone {
                break;
            }
        }
        if !gone {
            self.agenda.look_and_scan(old.path);
        }
        self.agenda.scan(new.path.clone());
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
            let (old, new) = (Spot::new(out, &name, &was), Spot::new(into, &name, &goes));
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
                let staged = self.stage_dir_like(generation, old, &goes, &stat)?;
                if !self.give_name(&staged, new)? {
                    continue;
                }
            }
            let row = match node {
                Some(node) => self.archive.child(node, &name)?.filter(|row| row.entry.kind() == Kind::Dir),
                None => None,
            };
            let inner = row.as_ref().map(|row| row.node);
            self.go_over(generation, old, new, inner)?;
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
