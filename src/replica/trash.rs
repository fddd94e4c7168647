//! Trash: what was replaced or removed, until it expires. What is written into it too late: [`super::late`].

use std::io;

use crate::model::{Attrs, Entry, Generation, Kind, Name, NodeId, RelPath, Time};

use super::Replica;
use super::archive::{Archive, Row, Signature, TrashItem};
use super::disk::{Disk, Own, Stat};
use super::error::{At, ReplicaError};
use super::spot::Spot;

/// Files of the trash whose rows are remembered, in memory alone.
const FORMERS_MAX: usize = 1_000;

/// A file of the trash, and the row that spoke of it.
#[derive(Debug)]
pub(crate) struct Former {
    node: NodeId,
    generation: Generation,
    id: Name,
    signature: Option<Signature>,
    /// What it had here.
    attrs: Attrs,
}

impl<D: Disk, A: Archive> Replica<D, A> {
    /// Moves a staged object (one that was displaced) into the trash; its name there.
    pub(crate) fn move_to_trash(
        &mut self,
        stage_name: &Name,
        path: &RelPath,
        generation: Generation,
        reason: &str,
    ) -> Result<Name, ReplicaError> {
        self.move_tree_to_trash(stage_name, path, generation, (reason, None))
    }

    /// The same for a directory in which everything had been seen when the file system's clock stood at `stamp`.
    pub(crate) fn move_tree_to_trash(
        &mut self,
        stage_name: &Name,
        path: &RelPath,
        generation: Generation,
        (reason, stamp): (&str, Option<Time>),
    ) -> Result<Name, ReplicaError> {
        let stage = self.disk.own(Own::Stage).at(path, "open the stage")?;
        let trash = self.disk.own(Own::Trash).at(path, "open the trash")?;
        let since = self.disk.wall_clock();
        let stat = self.disk.stat(&stage, stage_name).at(path, "stat the displaced object")?;
        let is_tree = self.settings.trash_max.is_some() && stat.kind == Some(Kind::Dir);
        let size = if is_tree { self.tree_size(&stage, stage_name) } else { stat.size };
        self.bin.expiry.size = self.bin.expiry.size.map(|all| all + size);
        let id = self.free_trash_id(Spot::new(&stage, stage_name, path), &trash, since, generation)?;
        let stamp = stamp.or_else(|| stamp_of(&stat));
        let item = TrashItem {
            id: id.clone(),
            path: path.clone(),
            since,
            size,
            reason: reason.to_owned(),
            look: stamp.is_some(),
            stamp,
        };
        self.archive.trash_add(&item)?;
        self.stage.room.trashed();
        self.look_later(item);
        Ok(id)
    }

    /// Remembers for a while which file of the trash was a row's: somebody may have kept it under another name.
    pub(crate) fn remember_former(&mut self, row: &Row, id: Name) {
        let attrs = row.live_attrs().clone();
        self.bin.formers.push_back(Former {
            node: row.node,
            generation: row.generation,
            id,
            signature: row.signature,
            attrs,
        });
        if self.bin.formers.len() > FORMERS_MAX {
            self.bin.formers.pop_front();
        }
    }

    /// Opens the file that the node's row of this generation spoke of, if it came into the trash of late and nobody wrote
    /// to it since.
    pub(crate) fn open_former(
        &self,
        node: NodeId,
        generation: Generation,
        wanted: &Entry,
    ) -> Option<(D::File, Signature)> {
        let former = self.bin.formers.iter().rev().find(|f| (f.node, f.generation) == (node, generation))?;
        if self.grants_unproven(wanted, &former.attrs) {
            return None;
        }
        let trash = self.disk.own(Own::Trash).ok()?;
        let (was, stat) = (former.signature?, self.disk.stat(&trash, &former.id).ok()?);
        // The way into the trash changed its ctime.
        let same = was.same_object(&stat) && (was.size, was.mtime) == (stat.size, stat.mtime);
        let file = self.disk.open_file(&trash, &former.id).ok().filter(|_| same)?;
        Some((file, Signature::of(&stat)))
    }

    /// Moves an object into the trash, under a name that nothing there has.
    pub(super) fn free_trash_id(
        &mut self,
        object: Spot<D::Dir>,
        trash: &D::Dir,
        since: i64,
        generation: Generation,
    ) -> Result<Name, ReplicaError> {
        loop {
            self.stage.counter += 1;
            let text = format!("{since:x}-{generation:x}-{:x}", self.stage.counter);
            let id = Name::new(text.as_bytes())
                .map_err(|e| io::Error::other(e.to_string()))
                .at(object.path, "name in the trash")?;
            match self.disk.rename(object.place(), (trash, &id)) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                other => return other.at(object.path, "move to the trash").map(|()| id),
            }
        }
    }
}

/// What proves later that nothing was written into an object since this stat; `None` for what nobody can write into.
pub(super) fn stamp_of(stat: &Stat) -> Option<Time> {
    match stat.kind? {
        Kind::File => Some(stat.mtime),
        Kind::Dir => Some(stat.ctime),
        Kind::Link | Kind::Fifo => None,
    }
}
