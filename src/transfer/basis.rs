//! Basis: what a receiver has already of the contents that it is to get.

use std::io;

use serde_bytes::ByteBuf;

use crate::model::Hasher;
use crate::protocol::Sums;
use crate::replica::disk::Disk;

use super::blocks::{self, SUM};
use super::delta::RUN;

/// The most sums in one message.
const TOLD: usize = 4096 * SUM;
/// Bytes read in one step, but for a single block; holes take no time.
const STEP: u64 = 1024 * 1024;

/// Files with contents that may come again, end to end.
pub struct Basis<F> {
    files: Vec<(F, u64)>,
    block: u64,
    /// What is to be told next: the file, and from where.
    at: (usize, u64),
    begun: bool,
    /// Whether all is told.
    told: bool,
    sums: Vec<u8>,
    buffer: Vec<u8>,
    zeros: Option<[u8; SUM]>,
}

impl<F> Basis<F> {
    /// A basis of these files, by their sizes. Of all but the last one whole blocks are taken. Files with more blocks than
    /// the source keeps in mind are no help.
    pub fn new(files: Vec<(F, u64)>) -> Basis<F> {
        let largest = files.iter().map(|(_, size)| *size).max().unwrap_or(0);
        let block = blocks::block_size(largest);
        let last = files.len().saturating_sub(1);
        let cut = |(n, (file, size)): (usize, (F, u64))| (file, if n == last { size } else { size / block * block });
        let useful = |(_, size): &(F, u64)| *size > 0 && size.div_ceil(block) <= blocks::KEPT;
        let files = files.into_iter().enumerate().map(cut).filter(useful).collect();
        let (sums, buffer) = (Vec::new(), Vec::new());
        Basis { files, block, at: (0, 0), begun: false, told: false, sums, buffer, zeros: None }
    }

    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Whether the other side knows all sums.
    pub fn is_told(&self) -> bool {
        self.told
    }

    /// Reads on, within bounds. A message for the source, if one is full.
    pub fn tell<D: Disk<File = F>>(&mut self, disk: &D) -> io::Result<Option<Sums>> {
        let (n, mut offset) = self.at;
        let Some((file, size)) = self.files.get(n) else {
            self.told = true;
            self.buffer = Vec::new();
            return Ok(Some(Sums::End));
        };
        if !std::mem::replace(&mut self.begun, true) {
            return Ok(Some(Sums::Basis { block: self.block, size: *size }));
        }
        self.buffer.resize(self.block as usize, 0);
        let mut read = 0;
        while offset < *size && read < STEP && self.sums.len() < TOLD {
            let length = (size - offset).min(self.block);
            let hole = disk.next_data(file, offset, *size)?.is_none_or(|(start, _)| start >= offset + length);
            let bytes = &mut self.buffer[..length as usize];
            if hole && length == self.block {
                let zeros = self.zeros.get_or_insert_with(|| {
                    bytes.fill(0);
                    blocks::sum(bytes)
                });
                self.sums.extend_from_slice(zeros);
            } else {
                if disk.read_at(file, offset, bytes)? < bytes.len() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                self.sums.extend_from_slice(&blocks::sum(bytes));
                read += length;
            }
            offset += length;
        }
        self.at = (n, offset);
        let done = offset >= *size;
        if done {
            self.at = (n + 1, 0);
            self.begun = false;
        }
        let full = done || self.sums.len() >= TOLD;
        Ok(full.then(|| Sums::Blocks { sums: ByteBuf::from(std::mem::take(&mut self.sums)) }))
    }

    /// Copies from the basis to a place of another file, holes as holes, and takes what came there into the hash. False:
    /// the basis has no such bytes any more.
    pub fn copy<D: Disk<File = F>>(
        &mut self,
        disk: &D,
        (to, to_offset): (&F, u64),
        mut from: u64,
        length: u64,
        hasher: &mut Hasher,
    ) -> io::Result<bool> {
        // No honest source asks for more at a time, and this is done in one go.
        if length > RUN.max(self.block) {
            return Ok(false);
        }
        let mut done = 0;
        let mut files = self.files.iter();
        while done < length {
            let Some((file, size)) = files.next() else { return Ok(false) };
            if from >= *size {
                from -= size;
                continue;
            }
            let part = (size - from).min(length - done);
            let copied = copy_part(disk, (file, from), (to, to_offset + done), part, hasher, &mut self.buffer)?;
            if !copied {
                return Ok(false);
            }
            done += part;
            from = 0;
        }
        Ok(true)
    }
}

fn copy_part<D: Disk>(
    disk: &D,
    (from, start): (&D::File, u64),
    (to, to_start): (&D::File, u64),
    length: u64,
    hasher: &mut Hasher,
    buffer: &mut Vec<u8>,
) -> io::Result<bool> {
    let end = start + length;
    let mut at = start;
    while at < end {
        let (data, data_end) = disk.next_data(from, at, end)?.unwrap_or((end, end));
        hasher.zeros(data - at);
        at = data_end;
        if !disk.copy((from, data), (to, to_start + (data - start)), data_end - data)? {
            return Ok(false);
        }
        // What is hashed is what lies in the new file, whatever became of the basis meanwhile.
        let mut read = data;
        while read < data_end {
            let wanted = (data_end - read).min(256 * 1024) as usize;
            buffer.resize(buffer.len().max(wanted), 0);
            let bytes = &mut buffer[..wanted];
            if disk.read_at(to, to_start + (read - start), bytes)? < wanted {
                return Ok(false);
            }
            hasher.update(bytes);
            read += wanted as u64;
        }
    }
    Ok(true)
}
