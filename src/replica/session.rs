//! What a session of the brain needs of a replica: who it is, what is open, what was confirmed.

use crate::model::{Entry, Generation, Kind, NodeId, ROOT_NODE, RelPath, Seq, Time};
use crate::protocol::Expect;

use super::Replica;
use super::archive::{Archive, Signature};
use super::disk::Disk;
use super::error::{At, ReplicaError};
use super::examine::above_is_gone;
use super::place::action::Stop;
use super::removals::millis;

/// The root as a session finds it.
pub struct Root {
    /// Entries at its top, psync's own left out.
    pub entries: u64,
    /// Another directory than the archive was made in.
    pub exchanged: bool,
}

impl<D: Disk, A: Archive> Replica<D, A> {
    /// Looks at the root itself.
    pub fn root(&self) -> Result<Root, ReplicaError> {
        let at = RelPath::root();
        let dir = self.disk.open_dir(&at).at(&at, "open the root")?;
        let stat = self.disk.stat_dir(&dir).at(&at, "stat the root")?;
        let entries = self.disk.list(&dir).at(&at, "list the root")?.len() as u64;
        Ok(Root { entries, exchanged: self.identity.root != (stat.ino, stat.btime) })
    }

    /// The administrator says that this root is the right one.
    pub fn adopt_root(&mut self) -> Result<(), ReplicaError> {
        let at = RelPath::root();
        let dir = self.disk.open_dir(&at).at(&at, "open the root")?;
        let stat = self.disk.stat_dir(&dir).at(&at, "stat the root")?;
        self.identity.root = (stat.ino, stat.btime);
        Ok(())
    }

    /// Drops every row and tombstone: the archive is another one from now on, which begins to count anew. So an archive
    /// that was taught absurd numbers has a way on.
    pub fn forget_ancestors(&mut self) -> Result<(), ReplicaError> {
        self.reopen_reports()?;
        self.ledger.way().forget();
        self.archive.drop_tree(ROOT_NODE)?;
        self.archive.forget_tombstones(Generation::MAX >> 1)?;
        self.identity.archive = self.another_identity();
        (self.identity.generation, self.identity.confirmed) = (0, 0);
        self.identity.peer = [0; 16];
        self.identity.side = None;
        self.commit()
    }

    /// An identity that no archive had: made from the last one, which was random.
    fn another_identity(&self) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.identity.archive).update(&self.identity.generation.to_le_bytes());
        hasher.update(&self.disk.wall_clock().to_le_bytes());
        let mut identity = [0; 16];
        identity.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        identity
    }

    /// The number of the last report.
    pub fn last_seq(&self) -> Seq {
        self.ledger.last()
    }

    /// From now on this archive belongs to that one.
    pub fn meet_peer(&mut self, peer: [u8; 16]) -> Result<(), ReplicaError> {
        if self.identity.peer != peer {
            self.identity.peer = peer;
            self.identity.side = Some(self.settings.side);
            self.identity.met = -millis(&self.disk.wall_time()).max(1);
            self.commit()?;
        }
        Ok(())
    }

    /// Both archives hold every generation up to this one. Durable with the next commit: an older value is only slower.
    pub fn confirm(&mut self, upto: Generation) -> Result<(), ReplicaError> {
        if upto > self.identity.confirmed {
            self.identity.confirmed = upto;
            self.archive.set_identity(&self.identity)?;
            self.archive.forget_tombstones(upto)?;
        }
        Ok(())
    }

    pub fn count_rows(&self) -> Result<u64, ReplicaError> {
        Ok(self.archive.count()?)
    }

    /// The files that this side's archive has, and their bytes.
    pub fn count_files(&self) -> Result<(u64, u64), ReplicaError> {
        Ok(self.archive.files()?)
    }

    /// Seconds since 1970.
    pub fn clock(&self) -> i64 {
        self.disk.wall_clock()
    }

    /// Whether a directory lies there that the archive knows under another name.
    pub fn is_moved_dir(&self, path: &RelPath) -> Result<bool, ReplicaError> {
        let Some((above, name)) = path.split() else { return Ok(false) };
        let Ok(stat) = self.disk.open_dir(&above).and_then(|dir| self.disk.stat(&dir, &name)) else { return Ok(false) };
        if stat.kind != Some(Kind::Dir) {
            return Ok(false);
        }
        let here = self.row_at(path)?.and_then(|row| row.signature).is_some_and(|s| s.same_object(&stat));
        Ok(!here && !self.archive.by_object(stat.ino, stat.btime)?.is_empty())
    }

    /// Whether the object that the archive has at `path` lies at `now`.
    pub fn has_moved_to(&self, path: &RelPath, now: &RelPath) -> Result<bool, ReplicaError> {
        let Some((above, name)) = now.split().filter(|_| path != now) else { return Ok(false) };
        let Some(signature) = self.row_at(path)?.and_then(|row| row.signature) else { return Ok(false) };
        let stat = self.disk.open_dir(&above).and_then(|dir| self.disk.stat(&dir, &name));
        Ok(stat.is_ok_and(|stat| signature.same_object(&stat)))
    }

    /// The directory that lies there now, by inode and birth time; `None`: there is none. One without a name (inode 0) if
    /// that cannot be told, for the scan to find out.
    pub fn dir_at(&self, path: &RelPath) -> Option<(u64, Time)> {
        let unknown = (0, Time::default());
        let Some((above, name)) = path.split() else { return Some(unknown) };
        let stat = self.disk.open_dir(&above).and_then(|dir| self.disk.stat(&dir, &name));
        match stat {
            Ok(stat) => (stat.kind == Some(Kind::Dir)).then_some((stat.ino, stat.btime)),
            Err(error) => (!above_is_gone(&error)).then_some(unknown),
        }
    }

    /// What was found is not reported after all.
    pub fn withdraw_report(&mut self, path: &RelPath) -> Result<(), ReplicaError> {
        self.forget_move_to(path)?;
        self.forget_report(path);
        Ok(())
    }

    /// What was reported below a directory and is not recorded.
    pub fn reported_below(&self, top: &RelPath) -> Vec<RelPath> {
        let mut within = self.ledger.within(top);
        within.retain(|path| path != top);
        within
    }

    /// The number of paths that were reported and not recorded.
    pub fn open_paths(&self) -> usize {
        self.ledger.len()
    }

    /// A new session knows nothing of what was reported before: all open paths are looked at again.
    pub fn reopen_reports(&mut self) -> Result<(), ReplicaError> {
        let reopened = self.ledger.reopen();
        // The old name of what had moved as well: under the new one something else may lie by now.
        for (node, at) in reopened.moves {
            let old = self.path_of(node)?;
            self.agenda.look_at_all(old);
            self.agenda.look_first(at);
        }
        self.agenda.look_at_all(reopened.paths);
        Ok(())
    }

    /// The topmost directory above `path` that neither the archive knows nor the brain was told of.
    pub fn unreported_above(&self, path: &RelPath) -> Result<Option<RelPath>, ReplicaError> {
        let mut found = None;
        for above in path.ancestors() {
            if above.is_root() || self.ledger.holds(&above) || self.node_of(&above)?.is_some() {
                break;
            }
            found = Some(above);
        }
        Ok(found.filter(|above| !self.filter.excluded(above) && !self.filter.temporary(above)))
    }

    /// Opens a file in the very state that was reported under this number.
    pub fn open_reported(&self, path: &RelPath, seq: Seq) -> Result<Option<(D::File, Signature)>, ReplicaError> {
        let Some((above, name)) = path.split() else { return Ok(None) };
        if let Some(snapshot) = self.ledger.snapshot(path, seq) {
            // It may be asked for again: it is not given away.
            let Some(copy) = self.disk.snapshot(snapshot) else { return Ok(None) };
            let signature = Signature::of(&self.disk.stat_file(&copy).at(path, "stat the snapshot")?);
            return Ok(Some((copy, signature)));
        }
        let signature = match self.ledger.numbered(path, seq) {
            Some(reported) => reported.seen.as_ref().map(|seen| seen.signature),
            // Nothing is reported, be it that the last look found what is recorded: the object as it was recorded.
            None if seq == 0 || !self.ledger.holds(path) => self.row_at(path)?.and_then(|row| row.compared()),
            None => None,
        };
        let Some(signature) = signature else { return Ok(None) };
        let Ok(dir) = self.disk.open_dir(&above) else { return Ok(None) };
        match self.disk.stat(&dir, &name) {
            Ok(stat) if stat.kind == Some(Kind::File) && signature.same_object(&stat) => {}
            _ => return Ok(None),
        }
        let Ok(file) = self.disk.open_file(&dir, &name) else { return Ok(None) };
        if self.has_writer(&file, path)? {
            self.show_stores(&file, path)?;
        }
        self.disk.release(&file);
        Ok(Some((file, signature)))
    }

    /// Opens the file of the node's row of this generation, if it lies at `from` as it was recorded, or was replaced of
    /// late. What only looks like the contents that are meant is not given away with rights that it does not have here: then
    /// they are to be sent.
    pub fn open_held(
        &self,
        from: &RelPath,
        node: NodeId,
        generation: Generation,
        wanted: &Entry,
    ) -> Result<Option<(D::File, Signature)>, ReplicaError> {
        let row = self.row_at(from)?.filter(|row| (row.node, row.generation) == (node, generation));
        let (Some(row), Some((above, name))) = (row, from.split()) else {
            return Ok(self.open_former(node, generation, wanted));
        };
        if self.grants_unproven(wanted, row.live_attrs()) {
            return Ok(None);
        }
        let Ok(dir) = self.disk.open_dir(&above) else { return Ok(None) };
        match self.disk.stat(&dir, &name) {
            Ok(stat) if stat.kind == Some(Kind::File) && self.unchanged(&row, &stat) => {}
            _ => return Ok(None),
        }
        Ok(self.disk.open_file(&dir, &name).ok().zip(row.signature))
    }

    /// What lies at a path now, if it is a file, and its size: some of its contents may come again.
    pub(crate) fn open_basis(&self, path: &RelPath) -> Option<(D::File, u64)> {
        let (above, name) = path.split()?;
        let dir = self.disk.open_dir(&above).ok()?;
        let stat = self.disk.stat(&dir, &name).ok().filter(|stat| stat.kind == Some(Kind::File))?;
        self.disk.open_file(&dir, &name).ok().map(|file| (file, stat.size))
    }

    /// Whether an expectation fails already, before contents are sent for it.
    pub fn refuses(&self, path: &RelPath, expect: &Expect) -> Result<bool, ReplicaError> {
        match self.open_parent(path) {
            Ok(Some(parent)) => Ok(matches!(self.meet(&parent, path, expect), Err(Stop::Refused))),
            // Its directory may be on its way in this very batch.
            Ok(None) => Ok(false),
            Err(error) => error.into_problem().map(|_| false).map_err(ReplicaError::from),
        }
    }
}
