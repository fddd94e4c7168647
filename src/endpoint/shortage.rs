//! Room for what comes: asked for before the first byte is taken in, and again as contents go on. What is refused for want of
//! room is not asked for again before this side has said that there is some.

use crate::model::{Generation, Millis, RelPath};
use crate::protocol::{Data, Reply};
use crate::replica::archive::Archive;
use crate::replica::disk::Disk;
use crate::replica::error::ReplicaError;

use super::transfers::size_of;
use super::{Endpoint, Incoming};

/// After a shortage the room on the disk is looked at so often, in milliseconds.
const LOOK: Millis = 2_000;
/// What could not be written though the file system has room is tried again after twice as long each time, up to so many times.
const DOUBLED: u32 = 4;
/// Shortages so far apart have nothing to do with each other.
const APART: Millis = 120_000;
/// The trash gives way for so many bytes at a time, or for as many as have come: never for what the other side merely says.
const STRIDE: u64 = 8 << 20;

/// When the room is looked at after a shortage.
#[derive(Debug, Default)]
pub(super) struct Looks {
    pub next: Option<Millis>,
    /// When it was last said that there is some.
    told: Option<Millis>,
    /// So often that was in vain.
    vain: u32,
}

impl Looks {
    /// When the next look at a shortage is due. `seen`: the file system itself says that there is no room.
    fn due(&mut self, now: Millis, seen: bool) -> Millis {
        if let Some(due) = self.next {
            return due;
        }
        let again = !seen && self.told.is_some_and(|told| now < told + APART);
        self.vain = if again { (self.vain + 1).min(DOUBLED) } else { 0 };
        let due = now + (LOOK << self.vain);
        self.next = Some(due);
        due
    }
}

impl<D: Disk, A: Archive> Endpoint<D, A> {
    /// Makes room for `size` bytes of an object with `whole` ones; what is kept for later tries and what lies in the trash
    /// gives way.
    pub(super) fn require(
        &mut self,
        path: &RelPath,
        size: u64,
        whole: u64,
        out: &mut Vec<Reply>,
    ) -> Result<(), ReplicaError> {
        if self.replica.has_room(size) {
            return Ok(());
        }
        self.let_go(out)?;
        self.replica.make_room(path, size, whole)
    }

    /// Throws away what only spares work. Before that nothing may be left that a crash would ask the trash for.
    fn let_go(&mut self, out: &mut Vec<Reply>) -> Result<(), ReplicaError> {
        self.finish(out)?;
        let used = self.used(None);
        self.replica.drop_partials(&used)
    }

    /// Contents are said to be of so many bytes. A file that cannot fit is refused before anything is written.
    pub(super) fn announce(
        &mut self,
        generation: Generation,
        bytes: u64,
        out: &mut Vec<Reply>,
    ) -> Result<(), ReplicaError> {
        let Some(incoming) = self.incoming.get(&generation) else { return Ok(()) };
        let (path, needed) = (incoming.apply.path.clone(), bytes.min(size_of(&incoming.apply)));
        if self.is_shared(generation) {
            // Nobody knows how much of it is there already.
            return Ok(());
        }
        let others = self.incoming.iter().filter(|(at, _)| **at != generation);
        let others = others.fold(0, |sum: u64, (_, incoming)| sum.saturating_add(incoming.awaits));
        let mut fits = self.replica.may_be_written(&path, needed);
        if fits.is_ok() && !self.replica.has_room(needed.saturating_add(others)) {
            self.let_go(out)?;
            fits = self.replica.may_come(&path, needed, others);
        }
        match (fits, self.incoming.get_mut(&generation)) {
            (Ok(()), Some(incoming)) => (incoming.awaits, incoming.takes) = (needed, needed),
            (Ok(()), None) => {}
            (Err(error), _) => self.refuse_contents(generation, error, out)?,
        }
        Ok(())
    }

    /// Whether there is room for the next piece of contents. If not, they are refused.
    pub(super) fn goes_on(
        &mut self,
        generation: Generation,
        data: &Data,
        out: &mut Vec<Reply>,
    ) -> Result<bool, ReplicaError> {
        let bytes = match data {
            Data::Chunk { bytes, .. } | Data::Whole { bytes } => bytes.len() as u64,
            Data::Copy { length, .. } if !self.is_shared(generation) => *length,
            _ => return Ok(true),
        };
        let Some(incoming) = self.incoming.get_mut(&generation) else { return Ok(false) };
        incoming.awaits = incoming.awaits.saturating_sub(bytes);
        if self.replica.has_room(bytes) {
            return Ok(true);
        }
        let come = incoming.receive.as_ref().map_or(0, |receive| receive.offset());
        let stride = incoming.awaits.min(STRIDE.max(come)).max(bytes);
        let (path, whole) = (incoming.apply.path.clone(), size_of(&incoming.apply));
        match self.require(&path, stride, whole, out) {
            Ok(()) => Ok(true),
            Err(ReplicaError::Path { .. }) if self.replica.has_room(bytes) => Ok(true),
            Err(error) => self.refuse_contents(generation, error, out).map(|()| false),
        }
    }

    /// Whether what is copied from the basis of these contents takes no room.
    fn is_shared(&self, generation: Generation) -> bool {
        let has_basis = |incoming: &Incoming<D::File>| incoming.receive.as_ref().is_some_and(|r| r.has_basis());
        self.incoming.get(&generation).is_some_and(has_basis) && self.replica.shares_blocks()
    }

    /// Contents that are under way come to nothing.
    fn refuse_contents(
        &mut self,
        generation: Generation,
        error: ReplicaError,
        out: &mut Vec<Reply>,
    ) -> Result<(), ReplicaError> {
        if let Some(receive) = self.incoming.remove(&generation).and_then(|incoming| incoming.receive) {
            self.replica.unstage(&receive.name);
        }
        self.copies.remove(&generation);
        super::fail(generation, error, out)
    }

    /// Says once that there is room again for something that was refused.
    pub(super) fn look_for_room(&mut self, now: Millis, out: &mut Vec<Reply>) -> Result<(), ReplicaError> {
        if !self.replica.has_shortage() {
            self.looks.next = None;
            return Ok(());
        }
        if self.looks.due(now, self.replica.sees_shortage()) <= now {
            self.looks.next = Some(now + LOOK);
            if self.replica.has_room_again()? {
                self.looks.told = Some(now);
                out.push(Reply::HasRoom);
            }
        }
        Ok(())
    }
}
