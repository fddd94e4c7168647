//! Reading: a file's contents, hashed in slices. Holes are no work, and a large file keeps nobody waiting.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;

use crate::model::{Hash, Hasher, RelPath};

use super::archive::Signature;
use super::disk::Disk;

/// The most bytes read at a time.
const BUFFER: u64 = 256 * 1024;
/// Smaller files are read without looking for holes.
const SMALL: u64 = 256 * 1024;
/// Stretches of data that count as one slice, however short they are.
const STRETCHES: u32 = 4096;
/// Files that are read at the same time; each is open.
const MOST: usize = 64;

/// How far the reading of one file got.
pub struct Reading {
    size: u64,
    offset: u64,
    hasher: Hasher,
    buffer: Vec<u8>,
}

impl Reading {
    /// Begins to read a file of this size.
    pub fn new(size: u64) -> Reading {
        let buffer = vec![0; size.clamp(1, BUFFER) as usize];
        Reading { size, offset: 0, hasher: Hasher::new(), buffer }
    }

    /// Reads on, about so many bytes; `take` gets what was read, and where it lies. The hash, once all is read;
    /// `UnexpectedEof` if the file is shorter than it was.
    pub fn go_on<D: Disk>(
        &mut self,
        disk: &D,
        file: &D::File,
        slice: u64,
        take: &mut dyn FnMut(u64, &[u8]) -> io::Result<()>,
    ) -> io::Result<Option<Hash>> {
        let next_data = |offset, size| disk.next_data(file, offset, size);
        let read_at = |offset, bytes: &mut [u8]| disk.read_at(file, offset, bytes);
        self.go_on_with(next_data, read_at, slice, take)
    }

    /// The same for a file that is no disk's, by what [`Disk::next_data`] and [`Disk::read_at`] would do.
    pub fn go_on_with(
        &mut self,
        next_data: impl Fn(u64, u64) -> io::Result<Option<(u64, u64)>>,
        read_at: impl Fn(u64, &mut [u8]) -> io::Result<usize>,
        slice: u64,
        take: &mut dyn FnMut(u64, &[u8]) -> io::Result<()>,
    ) -> io::Result<Option<Hash>> {
        let (mut left, mut stretches) = (slice, STRETCHES);
        while self.offset < self.size {
            if left == 0 || stretches == 0 {
                return Ok(None);
            }
            let (start, end) = match self.size > SMALL {
                true => next_data(self.offset, self.size)?.unwrap_or((self.size, self.size)),
                false => (self.offset, self.size),
            };
            let start = start.clamp(self.offset, self.size);
            self.hasher.zeros(start - self.offset);
            self.offset = start;
            stretches -= 1;
            while self.offset < end.min(self.size) && left > 0 {
                let wanted = (end.min(self.size) - self.offset).min(self.buffer.len() as u64) as usize;
                let bytes = &mut self.buffer[..wanted];
                if read_at(self.offset, bytes)? < wanted {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                self.hasher.update(bytes);
                take(self.offset, bytes)?;
                self.offset += wanted as u64;
                left = left.saturating_sub(wanted as u64);
            }
        }
        Ok(Some(self.hasher.clone().finish()))
    }

    /// Reads the whole file, however long that takes.
    pub fn whole<D: Disk>(disk: &D, file: &D::File, size: u64) -> io::Result<Hash> {
        let mut reading = Reading::new(size);
        loop {
            if let Some(hash) = reading.go_on(disk, file, u64::MAX, &mut |_, _| Ok(()))? {
                return Ok(hash);
            }
        }
    }
}

/// A file that is read slice by slice, for a look at its path.
pub(super) struct Open<F> {
    /// The file, or a snapshot of it.
    pub file: F,
    pub snapshot: bool,
    /// Somebody had it open for writing when this began.
    pub written: bool,
    /// What the path's stat was when this began: it must be the same at the end.
    pub signature: Signature,
    pub size: u64,
    pub reading: Reading,
}

/// The files that are being read, by their paths.
pub(super) struct Readings<F> {
    open: BTreeMap<RelPath, Open<F>>,
    /// Bytes that may still be read in this slice of work.
    budget: Cell<u64>,
}

impl<F> Default for Readings<F> {
    fn default() -> Self {
        Readings { open: BTreeMap::new(), budget: Cell::new(u64::MAX) }
    }
}

impl<F> Readings<F> {
    /// A slice of work begins, in which so many bytes may be read.
    pub fn begin_slice(&self, budget: u64) {
        self.budget.set(budget);
    }

    /// So much was read.
    pub fn has_read(&self, bytes: u64) {
        self.budget.set(self.budget.get().saturating_sub(bytes));
    }

    /// Whether others are to have their turn.
    pub fn is_spent(&self) -> bool {
        self.budget.get() == 0
    }

    /// Takes out what is being read at this path.
    pub fn take(&mut self, path: &RelPath) -> Option<Open<F>> {
        if self.open.is_empty() { None } else { self.open.remove(path) }
    }

    /// Keeps it for the next slice. Beyond what may be open the last path begins anew at its next turn.
    pub fn keep(&mut self, path: &RelPath, open: Open<F>) {
        self.open.insert(path.clone(), open);
        if self.open.len() > MOST {
            self.open.pop_last();
        }
    }

    pub fn clear(&mut self) {
        self.open.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Name;
    use crate::replica::real::{NoCover, RealDisk};
    use std::os::unix::fs::FileExt;
    use std::sync::Arc;

    #[test]
    fn slices_give_the_hash_of_the_whole_and_holes_are_no_work() {
        let root = tempfile::tempdir().expect("root");
        let disk = RealDisk::open(root.path(), "p", Arc::new(NoCover)).expect("disk");
        let dense: Vec<u8> = (0..700_001_u32).map(|n| (n * 7 % 251) as u8).collect();
        std::fs::write(root.path().join("f"), &dense).expect("written");
        let file = std::fs::File::options().write(true).open(root.path().join("f")).expect("opened");
        let mut contents = dense.clone();
        contents.resize(5_000_000, 0);
        file.set_len(5_000_000).expect("a hole");
        file.write_all_at(b"end", 4_999_997).expect("written");
        contents[4_999_997..].copy_from_slice(b"end");

        let top = disk.open_dir(&RelPath::root()).expect("root");
        let open = || disk.open_file(&top, &Name::new(b"f").expect("name")).expect("opened");
        let mut taken = vec![0; contents.len()];
        let (mut reading, mut slices) = (Reading::new(5_000_000), 1);
        let mut take = |offset: u64, bytes: &[u8]| {
            taken[offset as usize..][..bytes.len()].copy_from_slice(bytes);
            Ok(())
        };
        let hash = loop {
            match reading.go_on(&disk, &open(), 100_000, &mut take).expect("read") {
                Some(hash) => break hash,
                None => slices += 1,
            }
        };
        assert_eq!((hash, taken == contents), (Hash::of(&contents), true));
        assert!((3..=8).contains(&slices), "{slices} slices of a file with 700,000 bytes of data");
        assert_eq!(Reading::whole(&disk, &open(), 5_000_000).expect("read"), hash);

        // Shorter than it was: in a large file that may look like a hole, which the stat tells afterwards.
        file.set_len(100_000).expect("cut");
        assert!(Reading::whole(&disk, &open(), 5_000_000).is_ok_and(|cut| cut != hash));
        let short = Reading::whole(&disk, &open(), 100_001).map_err(|error| error.kind());
        assert_eq!(short, Err(io::ErrorKind::UnexpectedEof));
    }
}
