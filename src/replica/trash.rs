//! Trash: what was replaced or removed, until it expires; and the rescue of what was written into it too late.

use std::collections::VecDeque;
use std::io;

use crate::model::{Generation, Kind, Millis, Name, RelPath};

use super::Replica;
use super::archive::{Archive, Signature, TrashItem};
use super::disk::{Disk, Lease, Leased, Own};
use super::error::{At, ReplicaError};

/// When a trashed file is looked at again for late writes, in milliseconds.
const PROBE_AFTER: Millis = 1000;
/// Trashed files that wait for their probe; beyond that the oldest is probed by its expiry only.
const PROBES_MAX: usize = 10_000;

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

impl<D: Disk, A: Archive> Replica<D, A> {
    /// Moves a staged object (one that was displaced) into the trash.
    pub(crate) fn move_to_trash(
        &mut self,
        stage_name: &Name,
        path: &RelPath,
        generation: Generation,
        reason: &str,
    ) -> Result<(), ReplicaError> {
        let stage = self.disk.own(Own::Stage).at(path, "open the stage")?;
        let trash = self.disk.own(Own::Trash).at(path, "open the trash")?;
        let since = self.disk.wall_clock();
        let stat = self.disk.stat(&stage, stage_name).at(path, "stat the displaced object")?;
        let id = self.free_trash_id(&stage, stage_name, &trash, path, since, generation)?;
        self.archive.trash_add(&TrashItem {
            id: id.clone(),
            path: path.clone(),
            since,
            size: stat.size,
            reason: reason.to_owned(),
        })?;
        if stat.kind == Some(Kind::File) {
            self.trash_probes.0.push_back(Probe { id, path: path.clone(), signature: Signature::of(&stat), due: None });
            if self.trash_probes.0.len() > PROBES_MAX {
                self.trash_probes.0.pop_front();
            }
        }
        Ok(())
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

    /// Discards some of what has been in the trash for longer than `seconds`, the oldest first, but nothing that
    /// somebody has open for writing. True if there is more.
    pub fn expire_trash(&mut self, seconds: u64) -> Result<bool, ReplicaError> {
        const AT_ONCE: usize = 64;
        let at = RelPath::root();
        let before = self.disk.wall_clock().saturating_sub_unsigned(seconds);
        let items = self.archive.trash()?;
        let waiting: Vec<&Name> = self.trash_probes.0.iter().map(|probe| &probe.id).collect();
        let old = items.iter().filter(|item| item.since <= before && !waiting.contains(&&item.id));
        let old: Vec<Name> = old.map(|item| item.id.clone()).take(AT_ONCE + 1).collect();
        let trash = self.disk.own(Own::Trash).at(&at, "open the trash")?;
        for id in old.iter().take(AT_ONCE) {
            if self.is_being_written(&trash, id)? {
                continue;
            }
            match self.disk.discard(&trash, id) {
                Ok(()) => self.archive.trash_remove(id)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => self.archive.trash_remove(id)?,
                Err(error) => self.notes.push(format!("trash: {id} cannot be removed: {error}")),
            }
        }
        self.commit()?;
        Ok(old.len() > AT_ONCE)
    }

    fn is_being_written(&self, trash: &D::Dir, id: &Name) -> Result<bool, ReplicaError> {
        let Ok(file) = self.disk.open_file(trash, id) else { return Ok(false) };
        let refused = self.disk.lease(&file, Lease::Read).at(&RelPath::root(), "lease")? == Leased::Refused;
        self.disk.release(&file);
        Ok(refused)
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
        Ok(())
    }
}

enum Late {
    Quiet,
    StillOpen,
    Written,
}
