//! Supply: read a file in pieces, and say at the end whether it held still.

use std::io;

use serde_bytes::ByteBuf;

use crate::model::Hasher;
use crate::protocol::{Data, Sums};
use crate::replica::archive::Signature;
use crate::replica::disk::Disk;

use super::blocks::Blocks;
use super::delta::{Delta, Look};
use super::{CHUNK, INITIAL_CREDIT, WHOLE, cost};

/// A file being read for the other side.
pub struct Supply<F> {
    file: F,
    signature: Signature,
    offset: u64,
    credit: u64,
    hasher: Hasher,
    /// The receiver knows how much room it takes.
    announced: bool,
    /// Nothing else is sent before the receiver has told what it has.
    waits: bool,
    /// What it told so far.
    hearing: Option<Blocks>,
    delta: Option<Delta>,
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
    /// Begins to read a file whose state was reported with this signature; with `delta` once the receiver's sums are known.
    pub fn new(file: F, signature: Signature, delta: bool) -> Supply<F> {
        let (hasher, hearing) = (Hasher::new(), Some(Blocks::new()));
        Supply {
            file,
            signature,
            offset: 0,
            credit: INITIAL_CREDIT,
            hasher,
            announced: false,
            waits: delta,
            hearing,
            delta: None,
        }
    }

    pub fn add_credit(&mut self, bytes: u64) {
        self.credit = self.credit.saturating_add(bytes);
    }

    /// Takes in what the receiver has already. It may come while contents are on their way.
    pub fn hear(&mut self, sums: &Sums) {
        let Some(blocks) = &mut self.hearing else { return };
        match blocks.hear(sums) {
            Some(false) => {}
            Some(true) => {
                self.waits = false;
                self.delta = self.hearing.take().filter(|blocks| !blocks.is_empty()).map(Delta::new);
            }
            None => {
                self.waits = false;
                self.hearing = None;
            }
        }
    }

    /// What the receiver has is too much to be kept in mind: all is sent.
    pub fn hear_nothing(&mut self) {
        self.waits = false;
        self.hearing = None;
    }

    /// Reads the next piece. Holes are skipped, but hashed as the zeros that they are.
    pub fn step<D: Disk<File = F>>(&mut self, disk: &D) -> io::Result<Supplied> {
        let size = self.signature.size;
        if size > WHOLE && !std::mem::replace(&mut self.announced, true) {
            return Ok(Supplied::Data(Data::Room { bytes: data_in(disk, &self.file, size)? }));
        }
        if self.waits {
            return Ok(Supplied::Wait);
        }
        // Asked at each piece: of a large file that is written all the time little is sent in vain.
        if !self.still(disk)? {
            return Ok(Supplied::Last(Data::Abort));
        }
        if size <= WHOLE && self.delta.is_none() && self.offset == 0 {
            return self.whole(disk);
        }
        loop {
            let literal_to = match self.look(disk)? {
                Some(Look::Literal(to)) => to,
                Some(Look::Copy { from, length }) => {
                    let offset = self.offset;
                    self.offset += length;
                    self.credit -= cost(length).min(self.credit);
                    return Ok(Supplied::Data(Data::Copy { offset, from, length }));
                }
                Some(Look::Cut) => return Ok(Supplied::Last(Data::Abort)),
                None => return Ok(Supplied::Wait),
            };
            let (start, end) = match disk.next_data(&self.file, self.offset, literal_to)? {
                Some((start, end)) => (start.clamp(self.offset, literal_to), end.min(literal_to)),
                None => (literal_to, literal_to),
            };
            if start < end && self.credit == 0 {
                return Ok(Supplied::Wait);
            }
            self.hasher.zeros(start - self.offset);
            self.offset = start;
            if start < end {
                return self.chunk(disk, end);
            }
            if start >= size {
                let hash = self.hasher.clone().finish();
                let data = if self.still(disk)? { Data::End { size, hash } } else { Data::Abort };
                return Ok(Supplied::Last(data));
            }
        }
    }

    /// What lies here, if there is credit for whatever it is.
    fn look<D: Disk<File = F>>(&mut self, disk: &D) -> io::Result<Option<Look>> {
        let size = self.signature.size;
        match &mut self.delta {
            Some(delta) if self.offset < size => {
                if self.credit < cost(delta.longest()) {
                    return Ok(None);
                }
                delta.look(disk, &self.file, self.offset, size, &mut self.hasher).map(Some)
            }
            _ => Ok(Some(Look::Literal(size))),
        }
    }

    fn chunk<D: Disk<File = F>>(&mut self, disk: &D, end: u64) -> io::Result<Supplied> {
        let start = self.offset;
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
        holds_still(disk, &self.file, &self.signature)
    }
}

/// How many bytes of a file are data and no holes; of one in very many pieces about as many.
pub fn data_in<D: Disk>(disk: &D, file: &D::File, size: u64) -> io::Result<u64> {
    const PIECES: usize = 1024;
    let (mut data, mut at) = (0, 0);
    for _ in 0..PIECES {
        let Some((start, end)) = disk.next_data(file, at, size)?.filter(|(_, end)| *end > at) else { return Ok(data) };
        (data, at) = (data + (end - start), end);
    }
    // The rest is taken to be as dense.
    let whole = u128::from(data) * u128::from(size) / u128::from(at.max(1));
    Ok(u64::try_from(whole).unwrap_or(size).min(size))
}

/// Whether a file is as it was when it had this signature.
pub fn holds_still<D: Disk>(disk: &D, file: &D::File, was: &Signature) -> io::Result<bool> {
    let now = Signature::of(&disk.stat_file(file)?);
    // Links made to it change nlink and ctime, not a byte.
    Ok((now.ino, now.btime, now.size, now.mtime) == (was.ino, was.btime, was.size, was.mtime)
        && (was.ctime == now.ctime || was.ctime == Default::default()))
}
