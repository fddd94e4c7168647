//! Trash: what was replaced or removed, until it expires; and the rescue of what was written into it too late.

use std::collections::VecDeque;
use std::io;

use crate::model::{Generation, Kind, Millis, Name, NodeId, RelPath};

use super::Replica;
use super::archive::{Archive, Row, Signature, TrashItem};
use super::disk::{Disk, Lease, Leased, Own};
use super::error::{At, ReplicaError};

/// When a trashed file is looked at again for late writes, in milliseconds.
const PROBE_AFTER: Millis = 1000;
/// Trashed files that wait for their probe; beyond that the oldest is probed by its expiry only.
const PROBES_MAX: usize = 10_000;

/// Files of the trash whose rows are remembered, in memory alone.
const FORMERS_MAX: usize = 1_000;

/// A file of the trash, and the row that spoke of it.
#[derive(Debug)]
pub(crate) struct Former {
    node: NodeId,
    generation: Generation,
    id: Name,
    signature: Option<Signature>,
}

/// A file that came into the trash a moment ago, and may still be written by somebody who had it open.
#[derive(Debug, Clone)]
struct Probe {
    id: Name,
    path: RelPath,
    signature: Signature,
    /// Set when the clock is first known.
    due: Option<Millis>,
}

/// The files whose late writers are still looked for.
#[derive(Debug, Default)]
pub struct Probes(VecDeque<Probe>);

impl Probes {
    /// Whether this object of the trash waits to be looked at.
    pub(super) fn holds(&self, id: &Name) -> bool {
        self.0.iter().any(|probe| probe.id == *id)
    }
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
        let stage = self.disk.own(Own::Stage).at(path, "open the stage")?;
        let trash = self.disk.own(Own::Trash).at(path, "open the trash")?;
        let since = self.disk.wall_clock();
        let stat = self.disk.stat(&stage, stage_name).at(path, "stat the displaced object")?;
        let is_tree = self.settings.trash_max.is_some() && stat.kind == Some(Kind::Dir);
        let size = if is_tree { self.tree_size(&stage, stage_name) } else { stat.size };
        self.expiry.size = self.expiry.size.map(|all| all + size);
        let id = self.free_trash_id(&stage, stage_name, &trash, path, since, generation)?;
        self.archive.trash_add(&TrashItem {
            id: id.clone(),
            path: path.clone(),
            since,
            size,
            reason: reason.to_owned(),
        })?;
        if stat.kind == Some(Kind::File) {
            let (id, path) = (id.clone(), path.clone());
            self.trash_probes.0.push_back(Probe { id, path, signature: Signature::of(&stat), due: None });
            if self.trash_probes.0.len() > PROBES_MAX {
                self.trash_probes.0.pop_front();
            }
        }
        Ok(id)
    }

    /// Remembers for a while which file of the trash was a row's: somebody may have kept it under another name.
    pub(crate) fn remember_former(&mut self, row: &Row, id: Name) {
        self.formers.push_back(Former { node: row.node, generation: row.generation, id, signature: row.signature });
        if self.formers.len() > FORMERS_MAX {
            self.formers.pop_front();
        }
    }

    /// Opens the file that the node's row of this generation spoke of, if it came into the trash of late and nobody wrote
    /// to it since.
    pub(crate) fn open_former(&self, node: NodeId, generation: Generation) -> Option<(D::File, Signature)> {
        let former = self.formers.iter().rev().find(|f| (f.node, f.generation) == (node, generation))?;
        let trash = self.disk.own(Own::Trash).ok()?;
        let (was, stat) = (former.signature?, self.disk.stat(&trash, &former.id).ok()?);
        // The way into the trash changed its ctime.
        let same = was.same_object(&stat) && (was.size, was.mtime) == (stat.size, stat.mtime);
        let file = self.disk.open_file(&trash, &former.id).ok().filter(|_| same)?;
        Some((file, Signature::of(&stat)))
    }

    fn free_trash_id(
        &mut self,
        stage: &D::Dir,
        stage_name: &Name,
        trash: &D::Dir,
        path: &RelPath,
        since: i64,
        generation: Generation,
    ) -> Result<Name, ReplicaError> {
        loop {
            self.stage_counter += 1;
            let text = format!("{since:x}-{generation:x}-{:x}", self.stage_counter);
            let id = Name::new(text.as_bytes())
                .map_err(|e| io::Error::other(e.to_string()))
                .at(path, "name in the trash")?;
            match self.disk.rename((stage, stage_name), (trash, &id)) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                other => return other.at(path, "move to the trash").map(|()| id),
            }
        }
    }

    /// Looks again at what came into the trash a second ago. A file that somebody still has open is looked at until
    /// it is closed; what was written into it meanwhile comes back beside its old name.
    pub fn probe_trash(&mut self, now: Millis) -> Result<(), ReplicaError> {
        for _ in 0..self.trash_probes.0.len().min(64) {
            let Some(mut probe) = self.trash_probes.0.pop_front() else { break };
            match probe.due {
                None => probe.due = Some(now + PROBE_AFTER),
                Some(due) if due > now => {
                    self.trash_probes.0.push_front(probe);
                    break;
                }
                Some(_) => match self.late_write(&probe)? {
                    Late::Quiet => continue,
                    Late::StillOpen => probe.due = Some(now + PROBE_AFTER),
                    Late::Written => {
                        self.rescue(&probe)?;
                        continue;
                    }
                },
            }
            self.trash_probes.0.push_back(probe);
        }
        Ok(())
    }

    /// When the next probe is due; `None` without any.
    pub fn next_probe(&self) -> Option<Millis> {
        self.trash_probes.0.iter().map(|p| p.due.unwrap_or(0)).min()
    }

    fn late_write(&self, probe: &Probe) -> Result<Late, ReplicaError> {
        let trash = self.disk.own(Own::Trash).at(&probe.path, "open the trash")?;
        let file = match self.disk.open_file(&trash, &probe.id) {
            Ok(file) => file,
            Err(_) => return Ok(Late::Quiet),
        };
        let open = self.disk.lease(&file, Lease::Read).at(&probe.path, "lease")? == Leased::Refused;
        let stat = self.disk.stat_file(&file).at(&probe.path, "stat")?;
        self.disk.release(&file);
        Ok(match (open, (stat.size, stat.mtime) == (probe.signature.size, probe.signature.mtime)) {
            (true, _) => Late::StillOpen,
            (false, true) => Late::Quiet,
            (false, false) => Late::Written,
        })
    }

    /// Puts what was written into a trashed file beside the name it had.
    fn rescue(&mut self, probe: &Probe) -> Result<(), ReplicaError> {
        let trash = self.disk.own(Own::Trash).at(&probe.path, "open the trash")?;
        let stat = self.disk.stat(&trash, &probe.id).at(&probe.path, "stat in the trash")?;
        self.keep_beside((&trash, &probe.id), &probe.path, None, stat.mtime.secs, "late write")?;
        self.archive.trash_remove(&probe.id)?;
        self.expiry.size = None;
        Ok(())
    }
}

enum Late {
    Quiet,
    StillOpen,
    Written,
}
