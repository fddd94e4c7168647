//! Put back: on the right, ACLs and extended attributes are the left's; what users make of them there stays until the
//! next full sync.

use crate::model::{Attrs, Kind, Name, RelPath};

use super::Replica;
use super::archive::{Archive, Row, Signature};
use super::disk::{Disk, Lease, Stat};
use super::error::ReplicaError;
use super::metadata::CAPABILITY;
use super::place::attrs::has_other_names;
use super::place::{Guarded, same_version};

impl<D: Disk, A: Archive> Replica<D, A> {
    /// Gives an object that is else its row's the extended attributes of its row again. True if they were others.
    pub(super) fn put_back_xattrs(
        &mut self,
        dir: &D::Dir,
        path: &RelPath,
        name: &Name,
        row: &Row,
        stat: &Stat,
    ) -> Result<bool, ReplicaError> {
        let kind = row.entry.kind();
        if kind == Kind::Link || self.settings.dry_run || self.filter.excluded(path) {
            return Ok(false);
        }
        // What the row has as achieved may be a user's: an edit brings along what the object has by then.
        let wanted = &row.entry.attrs.xattrs;
        let Ok(before) = self.disk.xattrs(dir, name, kind) else { return Ok(false) };
        if before == *wanted {
            return Ok(false);
        }
        // Another object may have the name by now; and what a file's other names are is not psync's to say.
        let Ok((pin, found)) = self.pin_stat(dir, name) else { return Ok(false) };
        if Signature::of(&found) != Signature::of(stat) || found.kind != Some(kind) || has_other_names(&found) {
            return Ok(false);
        }
        // Somebody may be writing it: then the next full sync comes by.
        let Ok(Guarded::Lease(lease)) = self.guard_pinned(path, &pin, stat) else { return Ok(false) };
        let mut attrs = Attrs { xattrs: wanted.clone(), ..row.live_attrs().clone() };
        if wanted.get(CAPABILITY) != before.get(CAPABILITY) && !self.holds_contents(&pin, path, row, stat) {
            // It was granted to the row's contents, and these only look like them.
            attrs.xattrs.remove(CAPABILITY);
        }
        let set = self.disk.set_pinned_attrs(&pin, kind, &attrs);
        let after = self.disk.stat_pin(&pin);
        let alone = lease.as_ref().is_none_or(|file| self.disk.lease_holds(file, Lease::Read));
        if let Some(file) = &lease {
            self.disk.release(file);
        }
        let (Ok(_), Ok(after)) = (set, after) else { return Ok(false) };
        let Ok(live) = self.pinned_attrs(&pin, &after, kind) else { return Ok(false) };
        // Where this side cannot hold them nothing has changed.
        let changed = live.xattrs != before;
        let there = self.disk.stat(dir, name).is_ok_and(|there| Signature::of(&there) == Signature::of(&after));
        if alone && there && same_version(stat, &after) {
            let achieved = (live != row.entry.attrs).then_some(live);
            self.archive.put(&Row { signature: Some(self.signature(&after)), achieved, ..row.clone() })?;
        }
        Ok(changed)
    }

    /// Whether the file that is held on to has the row's contents, by reading it.
    fn holds_contents(&self, pin: &D::Pin, path: &RelPath, row: &Row, stat: &Stat) -> bool {
        let Ok(file) = self.disk.open_pinned(pin) else { return false };
        let same = self.disk.stat_file(&file).is_ok_and(|found| same_version(stat, &found));
        let hash = self.hash_whole(&file, path, stat.size).ok().flatten();
        same && hash.is_some() && hash == row.entry.hash()
    }
}
