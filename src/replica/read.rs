//! Read: whether a file's contents are worth a look, and the look: of the file itself, or of a snapshot where somebody is
//! writing it.

use std::io;

use serde_bytes::ByteBuf;

use crate::model::{Hash, Kind, Problem, ProblemKind, RelPath};

use super::Replica;
use super::archive::{Archive, Row, Signature};
use super::disk::{Disk, Stat};
use super::error::{At, ReplicaError};
use super::examine::How;
use super::examine::how::Why;
use super::reading::{Open, Reading};
use super::spot::Spot;

/// Files up to this size are read when their mtime moved or another object took the name: they may hold what they held. Larger
/// ones count as changed then. Where only the ctime moved a file is read whatever its size, and so it is before rights are
/// granted to it (see [`crate::protocol::Change::read`]).
pub(super) const READ_TO_COMPARE: u64 = 64 * 1024 * 1024;

/// What a look at a file's contents gave.
pub(super) enum Contents<F> {
    Found(Looked<F>),
    /// Somebody is writing it.
    Busy,
    /// There is more to read; look again.
    Reading,
}

pub(super) struct Looked<F> {
    pub size: u64,
    /// `None`: it was not read.
    pub read: Option<(Hash, Option<ByteBuf>)>,
    /// What is to be read in place of the file.
    pub snapshot: Option<F>,
    /// Somebody has it open for writing.
    pub open: bool,
}

/// Whether a file's contents are worth a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doubt {
    Unchanged,
    /// Only the ctime moved: whoever wrote it may have put the time of change back.
    Touched,
    /// Reading tells.
    Read,
    Changed,
}

impl<D: Disk, A: Archive> Replica<D, A> {
    /// What a file's stat tells of its contents, against its row.
    pub(super) fn doubt(&self, row: Option<&Row>, stat: &Stat) -> Doubt {
        let Some(row) = row.filter(|row| row.entry.kind() == Kind::File) else { return Doubt::Changed };
        if row.entry.size() != stat.size {
            return Doubt::Changed;
        }
        let Some(signature) = row.compared() else {
            return if row.entry.hash().is_some() { Doubt::Read } else { Doubt::Changed };
        };
        let same_object = signature.same_object(stat);
        if same_object && signature.mtime == stat.mtime && signature.ctime == stat.ctime {
            // Not a byte was written since; mode or owner differ.
            return Doubt::Unchanged;
        }
        if same_object && signature.mtime == stat.mtime {
            return Doubt::Touched;
        }
        let worth = stat.size <= READ_TO_COMPARE || self.stands_for_rights(row);
        if row.entry.hash().is_some() && worth { Doubt::Read } else { Doubt::Changed }
    }

    /// Looks whether somebody is writing the file, and reads it if asked. If it is to be sent all the same, it is read
    /// from a snapshot, or counts only if it holds still. A large file is read in slices.
    pub(super) fn read_for_report(
        &mut self,
        at: Spot<D::Dir>,
        stat: &Stat,
        (read, keep): (bool, bool),
        how: How,
    ) -> Result<Contents<D::File>, ReplicaError> {
        let path = at.path;
        if let Some(open) = self.reads.files.take(path) {
            return self.read_on(path, stat, open);
        }
        let wait = self.settings.wait_for_writers && !how.despite_writers;
        let file = self.disk.open_file(at.dir, at.name).at(path, "open")?;
        let in_slices = |size: u64| read && size > self.settings.read_slice;
        let written = self.has_writer(&file, path)?;
        if written {
            if wait || how.why == Why::Proof {
                return Ok(Contents::Busy);
            }
            let first = self.disk.stat_file(&file).at(path, "stat")?;
            if (first.ino, first.btime) != (stat.ino, stat.btime) {
                return Ok(Contents::Busy);
            }
            if let Some(snapshot) = self.snapshot(&file) {
                let size = self.disk.stat_file(&snapshot).at(path, "stat the snapshot")?.size;
                if in_slices(size) {
                    return self.read_on(path, stat, open(snapshot, (true, true), stat, size));
                }
                let keep = keep && size <= self.settings.inline_max;
                let whole = if read { self.read_whole(&snapshot, path, size, keep)? } else { None };
                return Ok(Contents::Found(Looked { size, read: whole, snapshot: Some(snapshot), open: true }));
            }
            self.show_stores(&file, path)?;
        }
        let size = stat.size;
        if in_slices(size) {
            // What is written from now on shows in the stat at the end.
            self.disk.release(&file);
            return self.read_on(path, stat, open(file, (false, written), stat, size));
        }
        let whole = if read { self.read_whole(&file, path, size, keep)? } else { None };
        let after = self.disk.stat_file(&file).at(path, "stat")?;
        self.disk.release(&file);
        if (read && whole.is_none()) || Signature::of(&after) != Signature::of(stat) {
            return Ok(Contents::Busy);
        }
        Ok(Contents::Found(Looked { size, read: whole, snapshot: None, open: written }))
    }

    /// Reads one more slice of a large file.
    fn read_on(
        &mut self,
        path: &RelPath,
        stat: &Stat,
        mut open: Open<D::File>,
    ) -> Result<Contents<D::File>, ReplicaError> {
        if Signature::of(stat) != open.signature {
            return Ok(Contents::Busy);
        }
        let slice = self.settings.read_slice;
        self.has_read(slice);
        let hash = match open.reading.go_on(&self.disk, &open.file, slice, &mut |_, _| Ok(())) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Contents::Busy),
            hash => hash.at(path, "read")?,
        };
        let Some(hash) = hash else {
            self.reads.files.keep(path, open);
            return Ok(Contents::Reading);
        };
        let read = Some((hash, None));
        if open.snapshot {
            return Ok(Contents::Found(Looked { size: open.size, read, snapshot: Some(open.file), open: true }));
        }
        let after = self.disk.stat_file(&open.file).at(path, "stat")?;
        match Signature::of(&after) == open.signature {
            true => Ok(Contents::Found(Looked { size: open.size, read, snapshot: None, open: open.written })),
            false => Ok(Contents::Busy),
        }
    }

    /// A slice of work begins: so much is read in it, and what is being read then.
    pub fn begin_slice(&self) {
        self.reads.files.begin_slice(self.settings.read_slice);
    }

    /// Whether so much was read in this slice of work that others are to have their turn.
    pub fn has_read_enough(&self) -> bool {
        self.reads.files.is_spent()
    }

    fn has_read(&self, bytes: u64) {
        self.reads.files.has_read(bytes);
    }

    /// Nothing of this file will be read any more.
    pub(super) fn stop_reading(&mut self, path: &RelPath) {
        drop(self.reads.files.take(path));
    }

    /// No file that is being read is wanted any more.
    pub fn stop_readings(&mut self) {
        self.reads.files.clear();
        self.forget_comparisons();
    }

    /// What keeps a file from travelling that is larger than `max_size`.
    pub fn too_large(&self, path: &RelPath, size: u64) -> Problem {
        let detail = format!(
            "{size} bytes are more than max_size ({}) allows: make it smaller, leave it out by `excludes`, or raise max_size",
            self.settings.max_size
        );
        Problem { path: path.clone(), kind: ProblemKind::TooLarge, detail }
    }

    fn snapshot(&self, file: &D::File) -> Option<D::File> {
        if !self.ledger.takes_snapshots() || self.disk.is_short() {
            return None;
        }
        self.disk.snapshot(file)
    }

    /// From now on what a mapping stores in the file shows in its stat: a page that is on disk must be asked for before
    /// it is written again.
    pub(crate) fn show_stores(&self, file: &D::File, path: &RelPath) -> Result<(), ReplicaError> {
        self.disk.sync_files(&[file]).at(path, "sync what is being written")
    }

    /// The hash of the file that is open, if it holds so many bytes.
    pub(super) fn hash_whole(&self, file: &D::File, path: &RelPath, size: u64) -> Result<Option<Hash>, ReplicaError> {
        Ok(self.read_whole(file, path, size, false)?.map(|(hash, _)| hash))
    }

    /// The hash, and the contents where they are kept; `None` if the file is no longer of that size.
    pub(super) fn read_whole(
        &self,
        file: &D::File,
        path: &RelPath,
        size: u64,
        keep: bool,
    ) -> Result<Option<(Hash, Option<ByteBuf>)>, ReplicaError> {
        let mut kept = keep.then(ByteBuf::new);
        let mut take = |_: u64, bytes: &[u8]| {
            if let Some(kept) = &mut kept {
                kept.extend_from_slice(bytes);
            }
            Ok(())
        };
        self.has_read(size);
        let mut reading = Reading::new(size);
        loop {
            match reading.go_on(&self.disk, file, u64::MAX, &mut take) {
                Ok(None) => {}
                Ok(Some(hash)) => return Ok(Some((hash, kept))),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                Err(error) => return Err(error).at(path, "read"),
            }
        }
    }
}

fn open<F>(file: F, (snapshot, written): (bool, bool), stat: &Stat, size: u64) -> Open<F> {
    Open { file, snapshot, written, signature: Signature::of(stat), size, reading: Reading::new(size) }
}
