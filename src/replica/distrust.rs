//! After a power failure: which of this side's own reports may be what the failure left, and whether what the other side
//! found is a part of what lies here.

use std::collections::{HashMap, VecDeque};

use crate::model::{Content, Entry, Hash, Hasher, Kind, Name, NodeId, RelPath, Sameness, Seq};
use crate::protocol::{Distrust, Remains, Weight};

use super::Replica;
use super::archive::{Archive, Row};
use super::disk::Disk;
use super::error::ReplicaError;

/// File systems keep or lose whole blocks of this size.
const BLOCK: usize = 4096;
/// Larger files are not read for this: they stay in doubt.
const READ_MAX: u64 = 64 * 1024 * 1024;
/// Bytes that are read at a time.
const PIECE: usize = 64 * BLOCK;

/// Questions about parts that may wait, in bytes: the other side keeps no more doubts than two thirds of that.
const ASKED_MAX: usize = 96 << 20;

/// What a power failure may have left, until that is settled.
pub(super) struct Aftermath<F> {
    /// The machine was booted since the tree was last known to be what the archive says.
    rebooted: bool,
    /// The whole tree was compared with the archive since this replica was opened.
    compared: bool,
    /// Nodes that the other side knew better, while this one is not proven after a boot, and what it had recorded of them.
    learned: HashMap<NodeId, Option<Entry>>,
    /// Reports that may be what the failure left, to be told before them.
    told: Vec<(RelPath, Seq, Distrust)>,
    questions: Comparisons<F>,
}

impl<F> Default for Aftermath<F> {
    fn default() -> Self {
        let questions = Comparisons::default();
        Aftermath { rebooted: false, compared: false, learned: HashMap::new(), told: Vec::new(), questions }
    }
}

impl<F> Aftermath<F> {
    /// The archive was opened: whether the machine was booted since the tree was last proven.
    pub fn begin(&mut self, rebooted: bool) {
        self.rebooted = rebooted;
    }

    pub fn is_rebooted(&self) -> bool {
        self.rebooted
    }

    /// The other side knew a node better. `own`: what was recorded of it here.
    pub fn learn(&mut self, node: NodeId, own: Option<Entry>) {
        if self.rebooted {
            self.learned.insert(node, own);
        }
    }

    pub fn forget_learned(&mut self) {
        self.learned.clear();
    }

    /// Nothing of what the power took is left to be found.
    fn settle(&mut self) {
        self.rebooted = false;
        self.learned.clear();
    }
}

/// What the other side asks of parts of this side's files: one after another, each in slices.
pub(super) struct Comparisons<F> {
    waiting: VecDeque<(RelPath, Remains)>,
    weight: usize,
    /// The one that is being read.
    at: Option<Comparison<F>>,
}

struct Comparison<F> {
    path: RelPath,
    remains: Remains,
    row: Row,
    file: F,
    hashed: Hashed,
}

/// What has been read of a file.
#[derive(Default)]
struct Hashed {
    offset: u64,
    hasher: Hasher,
}

impl<F> Default for Comparisons<F> {
    fn default() -> Self {
        Comparisons { waiting: VecDeque::new(), weight: 0, at: None }
    }
}

impl<F> Comparisons<F> {
    /// Takes a question; false if more wait than anybody has.
    fn push(&mut self, path: RelPath, remains: Remains) -> bool {
        let weight = path.as_bytes().len() + remains.weight();
        if self.weight + weight > ASKED_MAX {
            return false;
        }
        self.weight += weight;
        self.waiting.push_back((path, remains));
        true
    }

    fn pop(&mut self) -> Option<(RelPath, Remains)> {
        let (path, remains) = self.waiting.pop_front()?;
        self.weight -= path.as_bytes().len() + remains.weight();
        Some((path, remains))
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.at.is_none()
    }
}

/// An object in its directory.
type At<'a, Dir> = (&'a Dir, &'a Name);

impl<D: Disk, A: Archive> Replica<D, A> {
    /// Whether this machine was booted since the tree was last known to be what the archive says.
    pub fn is_rebooted(&self) -> bool {
        self.aftermath.rebooted
    }

    /// Whether the other side recorded something here that this side has not compared since its power failed. What lies
    /// there may be what is left of that very object, whatever name the archive has it under: a move that it seems to
    /// have made would take the other side's away.
    pub(super) fn is_in_doubt(&self, row: &Row) -> bool {
        self.aftermath.rebooted && row.compared().is_none()
    }

    /// A scan has compared the whole tree with the archive.
    pub fn tree_was_compared(&mut self) {
        self.aftermath.compared = true;
    }

    /// Before a commit: if all is compared and nothing is open, nothing of what the power took is left to be found.
    pub(super) fn prove(&mut self) -> Result<(), ReplicaError> {
        // Nor of the times of directories, which show nothing.
        let settled = self.aftermath.compared && self.ledger.is_empty() && !self.doubts_dir_times();
        let rebooted = self.aftermath.rebooted;
        if rebooted && (self.identity.peer == [0; 16] || settled && !self.is_any_uncompared()?) {
            self.aftermath.settle();
        }
        if !self.aftermath.rebooted {
            self.identity.proven = self.disk.boot_id();
        }
        Ok(())
    }

    /// Whether a row that the other side taught was not looked at yet: what lies in a directory that is just being made again
    /// is looked at later, and must not pass for deleted then.
    fn is_any_uncompared(&self) -> Result<bool, ReplicaError> {
        for node in self.aftermath.learned.keys() {
            if self.archive.node(*node)?.is_some_and(|row| row.compared().is_none()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What is to be told of a report before it, if it may be none of a user's doing. `found`: what lies there, and
    /// whether its contents are new. `unseen`: with a directory goes what the other side alone has recorded in it.
    pub(super) fn distrust(
        &mut self,
        (path, seq): (&RelPath, Seq),
        row: Option<&Row>,
        found: Option<(At<'_, D::Dir>, &Entry, bool)>,
        unseen: bool,
    ) {
        let Some(row) = row.filter(|_| self.aftermath.rebooted) else { return };
        let why = match (row.compared(), found) {
            (None, Some((at, found, true))) => self.doubt_about(row, at, found),
            (None, _) => Distrust::Older,
            (Some(_), None) if unseen => Distrust::Older,
            (Some(_), Some(_)) if unseen => Distrust::Unknown,
            (Some(_), Some((at, found, true))) if !self.aftermath.compared && self.is_emptied(row, at, found) => {
                Distrust::Emptied
            }
            (Some(_), _) => return,
        };
        self.aftermath.told.push((path.clone(), seq, why));
    }

    /// What is to be told before the reports that came since this was asked last.
    pub fn take_distrusts(&mut self) -> Vec<(RelPath, Seq, Distrust)> {
        std::mem::take(&mut self.aftermath.told)
    }

    /// What lies where the other side has recorded something that this side had not before its power failed.
    fn doubt_about(&self, row: &Row, at: At<'_, D::Dir>, found: &Entry) -> Distrust {
        let older = self.aftermath.learned.get(&row.node).and_then(Option::as_ref).map(|entry| &entry.content);
        if older.is_some_and(|older| older.compare(&found.content) == Sameness::Same) {
            return Distrust::Older;
        }
        let both = (found.kind(), row.entry.kind()) == (Kind::File, Kind::File);
        let Some(remains) = both.then(|| self.remains(at)).flatten() else { return Distrust::Unknown };
        let whole = Content::File { size: remains.size, hash: Some(remains.hash) };
        match older.is_some_and(|older| older.compare(&whole) == Sameness::Same) {
            true => Distrust::Older,
            false => Distrust::Remains(remains),
        }
    }

    /// Whether a file that had contents has none, or ends in blocks of zeros that begin where a block does.
    fn is_emptied(&self, row: &Row, at: At<'_, D::Dir>, found: &Entry) -> bool {
        let Content::File { size, .. } = found.content else { return false };
        if row.entry.kind() != Kind::File || row.entry.size() == 0 {
            return false;
        }
        size == 0 || self.ends_in_zeros(at, size).unwrap_or(false)
    }

    fn ends_in_zeros(&self, (dir, name): At<'_, D::Dir>, size: u64) -> std::io::Result<bool> {
        let file = self.disk.open_file(dir, name)?;
        let mut block = [0; BLOCK];
        let mut start = (size - 1) / BLOCK as u64 * BLOCK as u64;
        // Zeros that follow bytes within a block are a format's padding.
        for looked in 0.. {
            let length = usize::try_from(size - start).unwrap_or(BLOCK).min(BLOCK);
            let got = self.disk.read_at(&file, start, &mut block[..length])?;
            match block[..got].iter().rposition(|byte| *byte != 0) {
                Some(last) => return Ok(looked > 0 && last == BLOCK - 1),
                None if start == 0 || looked * BLOCK as u64 > READ_MAX => return Ok(true),
                None => start -= BLOCK as u64,
            }
        }
        Ok(false)
    }

    /// Reads what is left of a file; `None` if it cannot be read, or is too large for that.
    fn remains(&self, (dir, name): At<'_, D::Dir>) -> Option<Remains> {
        let file = self.disk.open_file(dir, name).ok()?;
        let size = self.disk.stat_file(&file).ok()?.size;
        if size > READ_MAX {
            return None;
        }
        let mut zeros: Vec<(u64, u64)> = Vec::new();
        let hash = self.hash_pieces(&file, size, |offset, piece| {
            for (at, block) in (offset..).step_by(BLOCK).zip(piece.chunks(BLOCK)) {
                if block.iter().any(|byte| *byte != 0) {
                    continue;
                }
                match zeros.last_mut() {
                    Some((start, length)) if *start + *length == at => *length += block.len() as u64,
                    _ => zeros.push((at, block.len() as u64)),
                }
            }
        })?;
        (zeros.len() <= Remains::ZEROS_MAX).then_some(Remains { size, hash, zeros })
    }

    /// The hash of a file's first bytes, each piece as `change` leaves it; `None` if it has fewer, or cannot be read.
    fn hash_pieces(&self, file: &D::File, size: u64, mut change: impl FnMut(u64, &mut [u8])) -> Option<Hash> {
        let mut hashed = Hashed::default();
        self.hash_on(file, (size, size), &mut hashed, &mut change)?;
        Some(hashed.hasher.finish())
    }

    /// Reads on, about `slice` bytes of a file that counts up to `size`.
    fn hash_on(
        &self,
        file: &D::File,
        (size, slice): (u64, u64),
        Hashed { offset, hasher }: &mut Hashed,
        change: &mut dyn FnMut(u64, &mut [u8]),
    ) -> Option<()> {
        let mut piece = vec![0; PIECE];
        let end = size.min(offset.saturating_add(slice));
        while *offset < end {
            let wanted = usize::try_from(size - *offset).unwrap_or(PIECE).min(PIECE);
            let mut filled = 0;
            while filled < wanted {
                match self.disk.read_at(file, *offset + filled as u64, &mut piece[filled..wanted]).ok()? {
                    0 => return None,
                    got => filled += got,
                }
            }
            change(*offset, &mut piece[..wanted]);
            hasher.update(&piece[..wanted]);
            *offset += wanted as u64;
        }
        Some(())
    }

    /// Takes the question whether what the other side found at a path is a part of the file that lies here as it was
    /// recorded: its beginning, with blocks of zeros where the contents did not reach the disk. False if too many wait.
    pub fn compare_later(&mut self, path: RelPath, remains: Remains) -> bool {
        self.aftermath.questions.push(path, remains)
    }

    /// Whether the other side waits for such an answer.
    pub fn compares(&self) -> bool {
        !self.aftermath.questions.is_empty()
    }

    /// Nobody waits for an answer any more.
    pub(super) fn forget_comparisons(&mut self) {
        self.aftermath.questions = Comparisons::default();
    }

    /// Reads one slice for such a question. The answer, once there is one.
    pub fn step_comparison(&mut self) -> Result<Option<(RelPath, bool)>, ReplicaError> {
        let mut at = match self.aftermath.questions.at.take() {
            Some(at) => at,
            None => {
                let Some((path, remains)) = self.aftermath.questions.pop() else { return Ok(None) };
                match self.begin_comparison(&path, &remains)? {
                    Some((row, file)) => Comparison { path, remains, row, file, hashed: Hashed::default() },
                    None => return Ok(Some((path, false))),
                }
            }
        };
        let (size, slice) = (at.remains.size, self.settings.read_slice);
        let mut change = |offset: u64, piece: &mut [u8]| mask(&at.remains.zeros, offset, piece);
        if self.hash_on(&at.file, (size, slice), &mut at.hashed, &mut change).is_none() {
            return Ok(Some((at.path, false)));
        }
        if at.hashed.offset < size {
            self.aftermath.questions.at = Some(at);
            return Ok(None);
        }
        let is_part = at.hashed.hasher.finish() == at.remains.hash && self.is_recorded(&at.row, &at.file, size);
        Ok(Some((at.path, is_part)))
    }

    fn begin_comparison(&self, path: &RelPath, remains: &Remains) -> Result<Option<(Row, D::File)>, ReplicaError> {
        if !remains.is_sound() || remains.size > READ_MAX {
            return Ok(None);
        }
        let (Some(row), Some((above, name))) = (self.row_at(path)?, path.split()) else { return Ok(None) };
        let opened = self.disk.open_dir(&above).and_then(|dir| self.disk.open_file(&dir, &name));
        let file = opened.ok().filter(|file| self.is_recorded(&row, file, remains.size));
        Ok(file.map(|file| (row, file)))
    }

    /// Whether the open file is what its row says, and has so many bytes.
    fn is_recorded(&self, row: &Row, file: &D::File, size: u64) -> bool {
        self.disk.stat_file(file).is_ok_and(|stat| stat.size >= size && self.unchanged(row, &stat))
    }
}

/// Puts zeros where the ranges say so.
fn mask(zeros: &[(u64, u64)], offset: u64, piece: &mut [u8]) {
    let end = offset + piece.len() as u64;
    for &(start, length) in zeros {
        let (from, to) = (start.max(offset), (start + length).min(end));
        if from < to {
            piece[(from - offset) as usize..(to - offset) as usize].fill(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_put_where_they_are() {
        let masked = |zeros: &[(u64, u64)], offset| {
            let mut piece = *b"abcdefgh";
            mask(zeros, offset, &mut piece);
            String::from_utf8(piece.map(|byte| if byte == 0 { b'.' } else { byte }).to_vec()).unwrap()
        };
        assert_eq!(masked(&[], 0), "abcdefgh");
        assert_eq!(masked(&[(0, 2), (7, 100)], 0), "..cdefg.");
        assert_eq!(masked(&[(0, 2), (7, 4)], 8), "...defgh");
        assert_eq!(masked(&[(0, 100)], 8), "........");
        assert_eq!(masked(&[(0, 8), (16, 8)], 8), "abcdefgh");
    }
}
