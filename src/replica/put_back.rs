//! Put back: where ACLs are the left's, what users on the right make of them stays there until the next full sync.

use crate::model::{Attrs, Kind, RelPath, Xattrs, acls};

use super::Replica;
use super::archive::{Archive, Row, Signature};
use super::disk::{Disk, Stat};
use super::error::ReplicaError;
use super::metadata::CAPABILITY;
use super::place::attrs::has_other_names;
use super::place::same_version;
use super::spot::Spot;

impl<D: Disk, A: Archive> Replica<D, A> {
    /// Gives an object that is else its row's the ACLs of its row again, and what it had no room for before. True if
    /// that changed anything.
    pub(super) fn put_back_xattrs(&mut self, at: Spot<D::Dir>, row: &Row, stat: &Stat) -> Result<bool, ReplicaError> {
        let Spot { dir, name, path, .. } = at;
        let kind = row.entry.kind();
        if kind == Kind::Link || self.settings.dry_run || self.filter.excluded(path) {
            return Ok(false);
        }
        let Ok(before) = self.disk.xattrs(dir, name, kind) else { return Ok(false) };
        let wanted = wanted(row, &before);
        if before == wanted {
            return Ok(false);
        }
        // Another object may have the name by now; and what a file's other names are is not psync's to say.
        let Ok((pin, found)) = self.pin_stat(dir, name) else { return Ok(false) };
        if Signature::of(&found) != Signature::of(stat) || found.kind != Some(kind) || has_other_names(&found) {
            return Ok(false);
        }
        // Somebody may be writing it: then the next full sync comes by.
        let Ok(hold) = self.hold_pinned(path, &pin, stat) else { return Ok(false) };
        let mut attrs = Attrs { xattrs: wanted.clone(), ..row.live_attrs().clone() };
        if wanted.get(CAPABILITY) != before.get(CAPABILITY) && !self.holds_contents(&pin, path, row, stat) {
            // It was granted to the row's contents, and these only look like them.
            attrs.xattrs.remove(CAPABILITY);
        }
        let set = self.disk.set_pinned_attrs(&pin, kind, &attrs, &before);
        let after = self.disk.stat_pin(&pin);
        let alone = !hold.is_broken(&self.disk);
        hold.end(&self.disk);
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

/// The extended attributes that an object of this row is to have, which has `before`. ACLs are the row's; what the row has
/// as achieved of them may be a user's, since an edit brings along what the object has by then. Of the others only those
/// that could not be set before are set again: what differs otherwise is a user's, and is reported.
fn wanted(row: &Row, before: &Xattrs) -> Xattrs {
    let (agreed, achieved) = (&row.entry.attrs.xattrs, &row.live_attrs().xattrs);
    let mut wanted = before.clone();
    acls::take(&mut wanted, agreed);
    for (name, value) in agreed.iter().filter(|(name, _)| !acls::is_list(name)) {
        if before.get(name) == achieved.get(name) {
            wanted.insert(name.clone(), value.clone());
        }
    }
    wanted
}
