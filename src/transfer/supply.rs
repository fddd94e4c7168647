//! Supply: read a file in pieces, and say at the end whether it held still.

use std::io;

use serde_bytes::ByteBuf;

use crate::model::{Data, Hash};
use crate::replica::archive::Signature;
use crate::replica::disk::Disk;

use super::{CHUNK, INITIAL_CREDIT, WHOLE};

/// A file being read for the other side.
pub struct Supply<F> {
    file: F,
    signature: Signature,
    offset: u64,
    credit: u64,
    hasher: blake3::Hasher,
}

/// What one step of a supply gave.
pub enum Supplied {
    /// Send this; there is more.
    Data(Data),
    /// Send this; it was the last.
    Last(Data),
    /// Wait for credit.
    Wait,
}

impl<F> Supply<F> {
    /// Begins to read a file whose state was reported with this signature.
    pub fn new(file: F, signature: Signature) -> Supply<F> {
        Supply { file, signature, offset: 0, credit: INITIAL_CREDIT, hasher: blake3::Hasher::new() }
    }

    pub fn add_credit(&mut self, bytes: u64) {
        self.credit = self.credit.saturating_add(bytes);
    }

    /// Reads the next piece. Holes are skipped, but hashed as the zeros that they are.
    pub fn step<D: Disk<File = F>>(&mut self, disk: &D) -> io::Result<Supplied> {
        let size = self.signature.size;
        // Asked at each piece: of a large file that is written all the time little is sent in vain.
        if !self.still(disk)? {
            return Ok(Supplied::Last(Data::Abort));
        }
        if size <= WHOLE {
            return self.whole(disk);
        }
        let (start, end) = match disk.next_data(&self.file, self.offset, size)? {
            Some((start, end)) => (start.clamp(self.offset, size), end.min(size)),
            None => (size, size),
        };
        if start < end && self.credit == 0 {
            return Ok(Supplied::Wait);
        }
        hash_zeros(&mut self.hasher, start - self.offset);
        self.offset = start;
        if start >= size {
            let hash = Hash(*self.hasher.finalize().as_bytes());
            let data = if self.still(disk)? { Data::End { size, hash } } else { Data::Abort };
            return Ok(Supplied::Last(data));
        }
        let length = (end - start).min(CHUNK as u64).min(self.credit) as usize;
        let mut bytes = vec![0; length];
        let count = disk.read_at(&self.file, start, &mut bytes)?;
        if count < length {
            return Ok(Supplied::Last(Data::Abort));
        }
        self.hasher.update(&bytes);
        self.offset += length as u64;
        self.credit -= length as u64;
        Ok(Supplied::Data(Data::Chunk { offset: start, bytes: ByteBuf::from(bytes) }))
    }

    fn whole<D: Disk<File = F>>(&mut self, disk: &D) -> io::Result<Supplied> {
        let mut bytes = vec![0; self.signature.size as usize];
        let count = disk.read_at(&self.file, 0, &mut bytes)?;
        let whole = count == bytes.len() && self.still(disk)?;
        Ok(Supplied::Last(if whole { Data::Whole { bytes: ByteBuf::from(bytes) } } else { Data::Abort }))
    }

    fn still<D: Disk<File = F>>(&self, disk: &D) -> io::Result<bool> {
        let now = Signature::of(&disk.stat_file(&self.file)?);
        // Links made to it change nlink and ctime, not a byte.
        Ok((now.ino, now.btime, now.size, now.mtime)
            == (self.signature.ino, self.signature.btime, self.signature.size, self.signature.mtime)
            && (self.signature.ctime == now.ctime || self.signature.ctime == Default::default()))
    }
}

/// Takes a hole into a hash.
pub(super) fn hash_zeros(hasher: &mut blake3::Hasher, mut count: u64) {
    static ZEROS: [u8; 16 * 1024] = [0; 16 * 1024];
    while count > 0 {
        let now = count.min(ZEROS.len() as u64);
        hasher.update(&ZEROS[..now as usize]);
        count -= now;
    }
}
