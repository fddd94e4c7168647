//! Delta: what of a file the receiver has already.

use std::io;

use crate::model::Hasher;
use crate::replica::disk::Disk;

use super::blocks::Blocks;

/// The most bytes that are told as one copy, but for a single block.
pub(super) const RUN: u64 = 1024 * 1024;
/// After so many bytes without a match, and a quarter of the file, blocks are looked for in their own place only.
const SEARCH: u64 = 64 * 1024 * 1024;

/// Follows one file, from its beginning to its end, beside the sums of the receiver's basis.
pub struct Delta {
    blocks: Blocks,
    /// The receiver has nothing that is known before this place.
    literal_to: u64,
    /// The block that begins there.
    found: Option<u64>,
    /// The block that follows the last match, and where that ended.
    next: Option<(u64, u64)>,
    /// Bytes looked through since the last match.
    searched: u64,
    buffer: Vec<u8>,
}

/// What lies at a place of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Nothing that the receiver has, up to here.
    Literal(u64),
    /// So many bytes that lie at this place of the basis. They are in the hash already.
    Copy { from: u64, length: u64 },
    /// The file is shorter than it was.
    Cut,
}

impl Delta {
    pub fn new(blocks: Blocks) -> Delta {
        Delta { blocks, literal_to: 0, found: None, next: None, searched: 0, buffer: Vec::new() }
    }

    /// The longest copy that [`Delta::look`] may answer.
    pub fn longest(&self) -> u64 {
        RUN.max(self.blocks.size())
    }

    /// Looks at the file from `offset` on, before which all is sent.
    pub fn look<D: Disk>(
        &mut self,
        disk: &D,
        file: &D::File,
        offset: u64,
        size: u64,
        hasher: &mut Hasher,
    ) -> io::Result<Look> {
        if offset < self.literal_to {
            return Ok(Look::Literal(self.literal_to));
        }
        let block = self.blocks.size();
        let left = size.saturating_sub(offset);
        if let Some(found) = self.found.take() {
            let run = self.run(disk, file, offset, size, found, hasher)?;
            // Else the file was written meanwhile.
            return Ok(run.unwrap_or_else(|| self.literal(size.min(offset + block), None)));
        }
        if left < block {
            return Ok(match self.blocks.tail().filter(|(_, length)| *length <= left) {
                Some((tail, length)) if self.literal_to < size => {
                    let at = size - length;
                    self.literal_to = size;
                    match at == offset {
                        true => {
                            let run = self.run(disk, file, offset, size, tail, hasher)?;
                            run.unwrap_or(Look::Literal(size))
                        }
                        false => self.literal(at, Some(tail)),
                    }
                }
                _ => Look::Literal(size),
            });
        }
        let data = disk.next_data(file, offset, size)?.map_or(size, |(start, _)| start);
        if data >= offset + block {
            let whole = (data - offset) / block * block;
            return Ok(self.literal(if data >= size { size } else { offset + whole }, None));
        }
        let wanted = left.min(2 * block) as usize;
        self.buffer.resize(wanted.max(self.buffer.len()), 0);
        if disk.read_at(file, offset, &mut self.buffer[..wanted])? < wanted {
            return Ok(Look::Cut);
        }
        let window = &self.buffer[..wanted];
        let next = self.next.map(|(next, end)| next + (offset - end) / block).filter(|_| self.is_in_step(offset));
        if let Some(found) = self.blocks.expected(&window[..block as usize], offset, next) {
            let run = self.run(disk, file, offset, size, found, hasher)?;
            return Ok(run.unwrap_or_else(|| self.literal(offset + block, None)));
        }
        let found = match self.searched < SEARCH.max(size / 4) {
            true => self.blocks.search(window),
            false => None,
        };
        self.searched += block;
        Ok(match found {
            Some((at, found)) => self.literal(offset + at as u64, Some(found)),
            None => self.literal(offset + block, None),
        })
    }

    /// Whether whole blocks lie between the last match and this place.
    fn is_in_step(&self, offset: u64) -> bool {
        self.next.is_some_and(|(_, end)| (offset - end).is_multiple_of(self.blocks.size()))
    }

    fn literal(&mut self, to: u64, found: Option<u64>) -> Look {
        self.literal_to = to;
        self.found = found;
        Look::Literal(to)
    }

    /// As many blocks in a row as are equal, the first one included; `None`: that one is not.
    fn run<D: Disk>(
        &mut self,
        disk: &D,
        file: &D::File,
        offset: u64,
        size: u64,
        first: u64,
        hasher: &mut Hasher,
    ) -> io::Result<Option<Look>> {
        let block = self.blocks.size();
        let (mut length, mut at) = (0, first);
        self.buffer.resize(self.buffer.len().max(block as usize), 0);
        while offset + length < size && (length == 0 || length + block <= RUN) {
            let wanted = (size - offset - length).min(block) as usize;
            let bytes = &mut self.buffer[..wanted];
            if disk.read_at(file, offset + length, bytes)? < wanted {
                return Ok(Some(Look::Cut));
            }
            if !self.blocks.is(at, bytes) {
                break;
            }
            hasher.update(bytes);
            length += wanted as u64;
            at += 1;
        }
        if length == 0 {
            return Ok(None);
        }
        self.searched = 0;
        self.next = Some((at, offset + length));
        self.literal_to = offset + length;
        Ok(Some(Look::Copy { from: first * block, length }))
    }
}
