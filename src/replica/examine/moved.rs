//! Objects that lie under another name than their row's: moves, and files whose contents came from elsewhere.

use crate::model::{Attrs, Content, Entry, Kind, NodeId, RelPath, merge};
use crate::protocol::{Change, Like, Moved};

use crate::model::acls::ACL_ACCESS;

use super::super::archive::{Archive, ArchiveError, Row, Signature};
use super::super::disk::{Disk, Stat};
use super::super::error::ReplicaError;
use super::super::spot::Spot;
use super::super::{Replica, Reported, Seen};
use super::tell::{known, word};
use super::{Examined, How, Live};

impl<D: Disk, A: Archive> Replica<D, A> {
    /// The row of an object that lies under another name than this, if that name is its no more.
    pub(super) fn mover(
        &self,
        live: &Live,
        path: &RelPath,
        reported: Option<NodeId>,
    ) -> Result<Option<(RelPath, Row)>, ReplicaError> {
        for row in self.archive.by_object(live.stat.ino, live.stat.btime)? {
            if row.entry.kind() != live.kind {
                continue;
            }
            let moved_to = self.ledger.moved_to(row.node);
            if moved_to.is_some_and(|to| to != path) && self.lies_at(moved_to, live)? {
                continue;
            }
            let Some(from) = self.recorded_path(&row)? else { continue };
            let left = live.kind == Kind::File && from != *path && !self.ledger.is_given(row.node);
            if left && self.was_saved(&from, path, live)? {
                // Renamed away and written anew. The old name must never be without a file on the other side, so this
                // one is a copy, and the old name's is new contents.
                continue;
            }
            if from != *path && (reported == Some(row.node) || !self.lies_at(Some(&from), live)?) {
                return Ok(Some((from, row)));
            }
        }
        Ok(None)
    }

    /// Whether the object was reported under a name that it has left since, and is not recorded yet: once it is, this
    /// turns out to be a move. The path is looked at again then.
    pub(super) fn is_reported_elsewhere(&mut self, live: &Live, path: &RelPath) -> bool {
        let object = (live.stat.ino, live.stat.btime);
        let Some(other) = self.ledger.object_at(object).filter(|other| *other != path).cloned() else {
            return false;
        };
        if self.ledger.get(&other).is_none_or(|r| r.moved.is_some()) || self.lies_at(Some(&other), live).unwrap_or(true)
        {
            return false;
        }
        // No event tells of that if a directory above it was renamed.
        self.agenda.vanish(other.clone());
        self.ledger.wait_for(&other, path);
        true
    }

    /// Where the row has the object, below what moved, its own move left out.
    pub(in crate::replica) fn recorded_path(&self, row: &Row) -> Result<Option<RelPath>, ArchiveError> {
        Ok(self.path_of(row.parent)?.and_then(|parent| parent.join(&row.name).ok()))
    }

    /// Whether the old name of what lies at `path` was given to a new file, or to one whose own old name was, and so on: where
    /// files that are known have but changed places, each is a move.
    fn was_saved(&self, from: &RelPath, path: &RelPath, live: &Live) -> Result<bool, ReplicaError> {
        const MOST: usize = 64;
        let mut at = from.clone();
        for _ in 0..MOST {
            let Some((above, name)) = at.split() else { return Ok(true) };
            let stat = self.disk.open_dir(&above).and_then(|dir| self.disk.stat(&dir, &name));
            let Ok(stat) = stat else { return Ok(false) };
            if (stat.ino, stat.btime) == (live.stat.ino, live.stat.btime) {
                return Ok(false);
            }
            let homes = self.left_homes(&stat, &at)?;
            match homes.as_slice() {
                homes if homes.contains(path) => return Ok(false),
                [home] if *home != at && !self.ledger.is_copy(&at) => at = home.clone(),
                // New there, or the one that was always there, or one that has left several names.
                _ => return Ok(true),
            }
        }
        Ok(true)
    }

    /// The names of what lies at `at` by its rows, but for those under which it lies as well.
    fn left_homes(&self, stat: &Stat, at: &RelPath) -> Result<Vec<RelPath>, ReplicaError> {
        let mut homes = Vec::new();
        for row in self.archive.by_object(stat.ino, stat.btime)? {
            if Some(row.entry.kind()) != stat.kind {
                continue;
            }
            if let Some(home) = self.recorded_path(&row)?
                && (home == *at || !self.has_object(&home, stat))
            {
                homes.push(home);
            }
        }
        Ok(homes)
    }

    pub(super) fn lies_at(&self, path: Option<&RelPath>, live: &Live) -> Result<bool, ReplicaError> {
        Ok(path.is_some_and(|path| self.has_object(path, &live.stat)))
    }

    fn has_object(&self, path: &RelPath, object: &Stat) -> bool {
        let Some((parent, name)) = path.split() else { return false };
        let stat = self.disk.open_dir(&parent).and_then(|dir| self.disk.stat(&dir, &name));
        stat.is_ok_and(|stat| (stat.ino, stat.btime) == (object.ino, object.btime))
    }

    /// Whether a directory above `from` that is none above `to` keeps some from what lies in it.
    pub(in crate::replica) fn leaves_a_closed_place(&self, from: &RelPath, to: &RelPath) -> Result<bool, ArchiveError> {
        for above in from.ancestors().filter(|above| !above.is_root() && !to.is_within(above)) {
            let attrs = self.row_at(&above)?.map(|row| row.entry.attrs);
            if attrs.is_none_or(|attrs| attrs.mode & 0o055 != 0o055 || attrs.xattrs.contains_key(ACL_ACCESS)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) fn examine_moved(
        &mut self,
        at: Spot<D::Dir>,
        over: Option<Row>,
        (from, row): (RelPath, Row),
        (live, how): (Live, How),
    ) -> Result<Examined, ReplicaError> {
        let Spot { node: parent, path, .. } = at;
        let (attrs_differ, carried) = self.carried(&row, &live);
        // A rename changes the ctime, so that proves nothing here: what was written besides, and the time put back, is found
        // when the contents are compared, once the move is recorded.
        let rewritten = match (&row.entry.content, &row.signature) {
            (Content::File { .. }, Some(s)) => (s.size, s.mtime) != (live.stat.size, live.stat.mtime),
            (Content::Link { target }, _) => live.target.as_ref() != Some(target),
            _ => false,
        };
        let edited = attrs_differ || rewritten;
        // Where this side cannot hold the agreed mode no opening would follow.
        let held = row.live_attrs().mode == row.entry.attrs.mode;
        let mut mode = if held { merge::closed(&row.entry.attrs, &carried) } else { row.entry.attrs.mode };
        // What was removed, closed or written over in a place that is closed to others is told after the move.
        if held && (live.kind == Kind::Dir || rewritten) && self.leaves_a_closed_place(&from, path)? {
            mode &= !0o077;
        }
        let after = Entry { attrs: Attrs { mode, ..row.entry.attrs.clone() }, ..row.entry.clone() };
        let seen = Seen {
            signature: Signature::of(&live.stat),
            content: row.entry.content.clone(),
            attrs: live.attrs,
            settled: live.settled,
            snapshot: false,
            presumed: live.kind == Kind::File,
            touched: false,
            open: false,
        };
        let told = self
            .ledger
            .get(path)
            .is_some_and(|r| r.moved == Some(row.node) && r.seen.as_ref().is_some_and(|s| s.equals(&seen)));
        if told && !how.again {
            return Ok(Examined::Known);
        }
        let below = self.replaced_below(over.as_ref(), None)?;
        let seq = self.ledger.number();
        self.set_reported(path, Reported::new(seq, Some(seen), Some(row.node)));
        let moved = Some(Moved { from, known: known(&row), edited });
        let word = word(seq, (path, parent), over.as_ref(), Some(after));
        Ok(Examined::Changed(Box::new(Change { moved, below: below.all, young: below.young, ..word })))
    }

    /// The ancestor whose contents a file has that came from another name, which is taken by now, or still has it.
    pub(super) fn like(&self, stat: &Stat, path: &RelPath) -> Result<Option<Like>, ArchiveError> {
        if stat.kind != Some(Kind::File) {
            return Ok(None);
        }
        for row in self.archive.by_object(stat.ino, stat.btime)? {
            let same = row.signature.is_some_and(|s| (s.size, s.mtime) == (stat.size, stat.mtime));
            if !same || row.entry.kind() != Kind::File || self.ledger.moved_to(row.node).is_some() {
                continue;
            }
            if let Some(from) = self.path_of(row.node)?.filter(|from| from != path) {
                return Ok(Some(Like { from, node: row.node, generation: row.generation }));
            }
        }
        Ok(None)
    }
}
