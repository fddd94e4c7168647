//! Receive: write pieces into the stage, and prove at the end that they are the whole.

use std::io;

use crate::model::{Data, Hash, Name};
use crate::replica::disk::Disk;

use super::supply::hash_zeros;

/// A staged file being written.
pub struct Receive<F> {
    pub name: Name,
    pub file: F,
    /// Everything before this offset is written or a hole.
    offset: u64,
    hasher: blake3::Hasher,
}

/// What one piece made of it.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// Written; the sender may be given this much more credit.
    More { credit: u64 },
    /// All is there.
    Complete { size: u64, hash: Hash },
    /// The source gave up, or sent what does not fit together.
    Broken,
}

impl<F> Receive<F> {
    pub fn new(name: Name, file: F) -> Receive<F> {
        Receive { name, file, offset: 0, hasher: blake3::Hasher::new() }
    }

    /// Takes the next piece.
    pub fn take<D: Disk<File = F>>(&mut self, disk: &D, data: &Data) -> io::Result<Received> {
        match data {
            Data::Chunk { offset, bytes } => {
                if *offset < self.offset {
                    return Ok(Received::Broken);
                }
                hash_zeros(&mut self.hasher, offset - self.offset);
                self.hasher.update(bytes);
                disk.write_at(&self.file, *offset, bytes)?;
                self.offset = offset.saturating_add(bytes.len() as u64);
                Ok(Received::More { credit: bytes.len() as u64 })
            }
            Data::Whole { bytes } => {
                disk.write_at(&self.file, 0, bytes)?;
                Ok(Received::Complete { size: bytes.len() as u64, hash: Hash::of(bytes) })
            }
            Data::End { size, hash } => {
                if *size < self.offset {
                    return Ok(Received::Broken);
                }
                if *size > self.offset {
                    hash_zeros(&mut self.hasher, size - self.offset);
                    disk.set_len(&self.file, *size)?;
                }
                let whole = *self.hasher.finalize().as_bytes() == hash.0;
                Ok(if whole { Received::Complete { size: *size, hash: *hash } } else { Received::Broken })
            }
            Data::Abort => Ok(Received::Broken),
        }
    }
}
