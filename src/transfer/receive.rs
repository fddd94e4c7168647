//! Receive: write pieces into the stage, and prove at the end that they are the whole.

use std::io;

use crate::model::{Hash, Hasher, Name};
use crate::protocol::{Data, Sums};
use crate::replica::disk::Disk;

use super::basis::Basis;
use super::cost;

/// A staged file being written.
pub struct Receive<F> {
    pub name: Name,
    pub file: F,
    /// What was agreed on: nothing is done beyond it, whatever the source says.
    size: u64,
    /// Everything before this offset is written or a hole.
    offset: u64,
    hasher: Hasher,
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
    /// Begins to write a file of this size, with the help of what this side has already.
    pub fn new(name: Name, file: F, size: u64, basis: Option<Basis<F>>) -> Receive<F> {
        Receive { name, file, size, offset: 0, hasher: Hasher::new(), basis }
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

    /// Where a piece at this place ends, if it follows what came before and ends within the file.
    fn end_of(&self, offset: u64, length: u64) -> Option<u64> {
        let end = offset.checked_add(length)?;
        (self.offset <= offset && end <= self.size).then_some(end)
    }

    /// Takes the next piece. What it says of itself is compared with the agreed size before anything is done with it.
    pub fn take<D: Disk<File = F>>(&mut self, disk: &D, data: &Data) -> io::Result<Received> {
        match data {
            Data::Room { .. } => Ok(Received::More { credit: 0 }),
            Data::Chunk { offset, bytes } => {
                let Some(end) = self.end_of(*offset, bytes.len() as u64) else { return Ok(Received::Broken) };
                self.hasher.zeros(offset - self.offset);
                self.hasher.update(bytes);
                disk.write_at(&self.file, *offset, bytes)?;
                self.offset = end;
                Ok(Received::More { credit: bytes.len() as u64 })
            }
            Data::Copy { offset, from, length } => {
                let (Some(end), Some(basis)) = (self.end_of(*offset, *length), &mut self.basis) else {
                    return Ok(Received::Broken);
                };
                self.hasher.zeros(offset - self.offset);
                if !basis.copy(disk, (&self.file, *offset), *from, *length, &mut self.hasher)? {
                    return Ok(Received::Broken);
                }
                self.offset = end;
                Ok(Received::More { credit: cost(*length) })
            }
            Data::Whole { bytes } => {
                if self.offset > 0 || bytes.len() as u64 != self.size {
                    return Ok(Received::Broken);
                }
                disk.write_at(&self.file, 0, bytes)?;
                Ok(Received::Complete { size: self.size, hash: Hash::of(bytes) })
            }
            Data::End { size, hash } => {
                if *size != self.size {
                    return Ok(Received::Broken);
                }
                // Also for a hole that was copied at the end.
                self.hasher.zeros(size - self.offset);
                disk.set_len(&self.file, *size)?;
                let whole = self.hasher.clone().finish() == *hash;
                Ok(if whole { Received::Complete { size: *size, hash: *hash } } else { Received::Broken })
            }
            Data::Abort => Ok(Received::Broken),
        }
    }
}
