//! Attributes of an object that stays where it lies, and what a side could not set of them.

use crate::model::{Attrs, Entry, Expect, Generation, Kind, Name, NodeId, RelPath, Sameness};

use super::super::Replica;
use super::super::archive::{Archive, Row};
use super::super::batch::Placed;
use super::super::disk::{Disk, Lease, Stat};
use super::super::error::{At, ReplicaError};
use super::{Guarded, Met};

impl<D: Disk, A: Archive> Replica<D, A> {
    /// The attributes that an object really has, if they are not the wanted ones.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn achieved(
        &self,
        dir: &D::Dir,
        path: &RelPath,
        name: &Name,
        kind: Kind,
        wanted: &Attrs,
        stat: &Stat,
        incomplete: bool,
    ) -> Result<Option<Attrs>, ReplicaError> {
        let mode_and_time =
            (kind == Kind::Link || stat.mode == wanted.mode) && (kind != Kind::File || stat.mtime == wanted.mtime);
        if mode_and_time && !incomplete {
            return Ok(None);
        }
        let live = self.live(dir, path, name, *stat, kind)?;
        Ok((live.attrs != *wanted).then_some(live.attrs))
    }

    pub(super) fn set_attrs(
        &mut self,
        generation: Generation,
        path: &RelPath,
        node: NodeId,
        mut entry: Entry,
        expect: &Expect,
    ) -> Result<Placed, ReplicaError> {
        let Some(parent) = self.open_parent(path)? else { return Ok(Placed::Refused(vec![path.clone()])) };
        let (kind, place) = (entry.kind(), (&parent.dir, &parent.name));
        let before = match self.meet(&parent, path, expect)? {
            Met::Victim(stat) if stat.kind == Some(kind) => stat,
            _ => return Ok(Placed::Refused(vec![path.clone()])),
        };
        let lease = match self.guard(path, place, &before)? {
            Guarded::Lease(file) => file,
            Guarded::Busy => return Ok(Placed::Busy),
            Guarded::Refused => return Ok(Placed::Refused(vec![path.clone()])),
        };
        let not_set = self.disk.set_attrs(&parent.dir, &parent.name, kind, &entry.attrs).at(path, "set attributes")?;
        let after = self.disk.stat(&parent.dir, &parent.name).at(path, "stat")?;
        let whole = match &lease {
            Some(file) => self.disk.lease_holds(file, Lease::Read),
            None => kind != Kind::File,
        };
        if let Some(file) = &lease {
            if self.settings.durable {
                self.disk.sync_files(&[file]).at(path, "sync")?;
            }
            self.disk.release(file);
        }
        self.touch(path, &parent.dir);
        let same = (before.ino, before.btime, before.size) == (after.ino, after.btime, after.size);
        let live = self.live(&parent.dir, path, &parent.name, after, kind)?;
        let differs = live.attrs != entry.attrs;
        // What this side can hold, and holds differently, a user set this very moment.
        let intervened = differs && !not_set.explains(&entry.attrs, &live.attrs);
        let signature = (whole && !intervened && (same || kind == Kind::Dir)).then(|| self.signature(&after));
        let achieved = (differs && !intervened).then_some(live.attrs);
        if let Some(row) = self.archive.child(parent.node, &parent.name)?
            && row.entry.content.compare(&entry.content) == Sameness::Unknown
            && entry.hash().is_none()
        {
            entry.content = row.entry.content;
        }
        self.forget_report(path);
        let row = Row { node, parent: parent.node, name: parent.name, generation, entry, achieved, signature };
        self.doubt_old_place(self.archive.node(node)?.as_ref(), &row)?;
        self.put_row(&row)?;
        if row.signature.is_none() {
            self.dirty.insert(path.clone());
        }
        self.not_set.count(&not_set);
        Ok(Placed::Done(Some(row.entry)))
    }
}
