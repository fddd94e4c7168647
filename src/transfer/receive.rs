//! Receive: write pieces into the stage, and prove at the end that they are the whole.

use std::io;

use crate::model::{Data, Hash, Name, Sums};
use crate::replica::disk::Disk;

use super::basis::Basis;
use super::cost;
use super::supply::hash_zeros;

/// A staged file being written.
pub struct Receive<F> {
    pub name: Name,
    pub file: F,
    /// Everything before this offset is written or a hole.
    offset: u64,
    hasher: blake3::Hasher,
    basis: Option<Basis<F>>,
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
    /// Begins to write a file, with the help of what this side has already.
    pub fn new(name: Name, file: F, basis: Option<Basis<F>>) -> Receive<F> {
        Receive { name, file, offset: 0, hasher: blake3::Hasher::new(), basis }
    }

    /// How far it got.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    pub fn has_basis(&self) -> bool {
        self.basis.as_ref().is_some_and(|basis| !basis.is_empty())
    }

    /// Whether the source waits to hear what is there already.
    pub fn is_to_tell(&self) -> bool {
        self.basis.as_ref().is_some_and(|basis| !basis.is_told())
    }

    /// Reads on in what is there already; a message for the source, if one is full.
    pub fn tell<D: Disk<File = F>>(&mut self, disk: &D) -> io::Result<Option<Sums>> {
        match &mut self.basis {
            Some(basis) if !basis.is_told() => basis.tell(disk),
            _ => Ok(None),
        }
    }

    /// Goes on without a basis.
    pub fn drop_basis(&mut self) {
        self.basis = None;
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
            Data::Copy { offset, from, length } => {
                let (Some(basis), Some(end)) = (&mut self.basis, offset.checked_add(*length)) else {
                    return Ok(Received::Broken);
                };
                if *offset < self.offset {
                    return Ok(Received::Broken);
                }
                hash_zeros(&mut self.hasher, offset - self.offset);
                if !basis.copy(disk, (&self.file, *offset), *from, *length, &mut self.hasher)? {
                    return Ok(Received::Broken);
                }
                self.offset = end;
                Ok(Received::More { credit: cost(*length) })
            }
            Data::Whole { bytes } => {
                disk.write_at(&self.file, 0, bytes)?;
                Ok(Received::Complete { size: bytes.len() as u64, hash: Hash::of(bytes) })
            }
            Data::End { size, hash } => {
                if *size < self.offset {
                    return Ok(Received::Broken);
                }
                // Also for a hole that was copied at the end.
                hash_zeros(&mut self.hasher, size - self.offset);
                disk.set_len(&self.file, *size)?;
                let whole = *self.hasher.finalize().as_bytes() == hash.0;
                Ok(if whole { Received::Complete { size: *size, hash: *hash } } else { Received::Broken })
            }
            Data::Abort => Ok(Received::Broken),
        }
    }
}
