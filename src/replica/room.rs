//! Room for new objects, asked for before anything is written. What lies in the trash gives way, the oldest first. What does
//! not fit even then is a problem of its path that costs nobody anything.
//!
//! What the other side says that contents will take is a claim: it decides whether they may come, and nothing is thrown away
//! for it. The trash gives way for what is about to be written, in steps that grow with what has come.

use std::io;

use crate::model::RelPath;

use super::Replica;
use super::archive::Archive;
use super::disk::{Disk, Space};
use super::error::{At, ReplicaError};

/// Besides its contents an object may take so many bytes: a block that is not full, and its share of its directory's.
const OVERHEAD: u64 = 8 * 1024;
/// The room that is known may be used up to this part before the file system is asked again: others write as well.
const PART: u64 = 4;
/// The trash gives way in so many slices for one object; what takes longer is tried again.
const SLICES: usize = 16;

/// What may be taken before the file system is asked again.
#[derive(Debug, Default)]
pub struct Room {
    bytes: u64,
    inodes: u64,
    /// What the file system and the trash held when the trash could not make room.
    in_vain: Option<(Space, u64)>,
    /// Objects that have come into the trash.
    trashed: u64,
    shortage: Option<Shortage>,
}

/// What was refused for want of room, since somebody heard last that there is room again.
#[derive(Debug, Clone, Copy)]
struct Shortage {
    /// The least that was refused; `None`: it could not be written, though the file system has room. A quota is at its end.
    needed: Option<u64>,
    /// The least of that, if it is known.
    unwritten: Option<u64>,
    /// [`Room::trashed`] then.
    trashed: u64,
}

impl Room {
    /// Takes room for an object with so many bytes; false: ask.
    fn take(&mut self, size: u64) -> bool {
        let Some(bytes) = self.bytes.checked_sub(size.saturating_add(OVERHEAD)) else { return false };
        let Some(inodes) = self.inodes.checked_sub(1) else { return false };
        (self.bytes, self.inodes) = (bytes, inodes);
        true
    }

    /// Takes in what the file system says.
    fn learn(&mut self, space: &Space) {
        self.bytes = space.free.saturating_sub(space.spare()) / PART;
        let (free, spare) = space.inodes.map_or((u64::MAX, 0), |inodes| (inodes.free, inodes.total / 100));
        self.inodes = free.saturating_sub(spare) / PART;
    }

    /// One more object has come into the trash, and can give way.
    pub(super) fn trashed(&mut self) {
        self.trashed += 1;
    }

    /// Something was refused that needs so much.
    fn refused(&mut self, needed: Option<u64>, unwritten: Option<u64>) {
        // What was known of the room was too much.
        (self.bytes, self.inodes) = (0, 0);
        let trashed = self.trashed;
        let shortage = self.shortage.get_or_insert(Shortage { needed, unwritten, trashed });
        let least = |one: Option<u64>, other: Option<u64>| one.into_iter().chain(other).min();
        shortage.needed = least(shortage.needed, needed);
        shortage.unwritten = least(shortage.unwritten, unwritten);
    }
}

impl<D: Disk, A: Archive> Replica<D, A> {
    /// Whether there is room for an object with so many bytes.
    pub fn has_room(&mut self, size: u64) -> bool {
        if self.disk.is_short() {
            return false;
        }
        if self.stage.room.take(size) {
            return true;
        }
        let Some(space) = self.disk.space() else { return true };
        self.stage.room.learn(&space);
        space.fits(size.saturating_add(OVERHEAD))
    }

    /// Whether contents that are said to take so many bytes may come: they fit, or would if all of the trash gave way.
    /// `others`: what is still to come of others. Nothing is thrown away for it.
    ///
    /// # Errors
    /// `StorageFull`, with what is needed and what there is.
    pub fn may_come(&mut self, path: &RelPath, size: u64, others: u64) -> Result<(), ReplicaError> {
        if self.has_room(size.saturating_add(others)) || self.could_fit(size.saturating_add(others))? {
            return Ok(());
        }
        self.refuse(path, size)
    }

    /// Refuses contents that a quota has refused before, and would again: nothing is written in vain.
    ///
    /// # Errors
    /// `QuotaExceeded`, with what is needed.
    pub fn may_be_written(&mut self, path: &RelPath, size: u64) -> Result<(), ReplicaError> {
        let refused = self.stage.room.shortage.and_then(|shortage| shortage.unwritten);
        if refused.is_none_or(|least| size < least) || self.disk.takes(size) {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::QuotaExceeded, self.shortage(size)?)).at(path, "make room")
    }

    /// Makes room for `size` bytes of an object with `whole` ones, at the cost of the trash. No batch may wait for its end:
    /// what a crash may still ask for lies in the trash.
    ///
    /// # Errors
    /// `StorageFull`, with what is needed and what there is.
    pub fn make_room(&mut self, path: &RelPath, size: u64, whole: u64) -> Result<(), ReplicaError> {
        // Nothing has changed since the trash gave all that it could: to look through it for every object is in vain.
        let now = (self.disk.space(), self.stage.room.trashed);
        let in_vain = self.stage.room.in_vain.is_some_and(|(space, trashed)| (Some(space), trashed) == now);
        if !in_vain && self.could_fit(size)? {
            for _ in 0..SLICES {
                let wanted = |replica: &Self| {
                    let space = replica.disk.space();
                    replica.disk.is_short() || space.is_some_and(|space| !space.fits(size.saturating_add(OVERHEAD)))
                };
                let (gone, more) = self.discard_oldest(|_, replica| wanted(replica))?;
                self.disk.refill();
                if gone == 0 || !more {
                    break;
                }
            }
        }
        if self.has_room(size) {
            self.stage.room.in_vain = None;
            return Ok(());
        }
        self.stage.room.in_vain = self.disk.space().map(|space| (space, self.stage.room.trashed));
        self.refuse(path, whole)
    }

    /// Whether an empty trash would make room enough. If not, nobody's versions go for nothing.
    fn could_fit(&mut self, size: u64) -> Result<bool, ReplicaError> {
        let trash = self.trash_size()?;
        let Some(space) = self.disk.space() else { return Ok(true) };
        let roomy = Space { free: space.free.saturating_add(trash), inodes: None, ..space };
        Ok(roomy.fits(size.saturating_add(OVERHEAD)))
    }

    fn refuse(&mut self, path: &RelPath, size: u64) -> Result<(), ReplicaError> {
        self.note_shortage(Some(size));
        Err(io::Error::new(io::ErrorKind::StorageFull, self.shortage(size)?)).at(path, "make room")
    }

    /// Something was refused, or could not be written, for want of room. [`Replica::has_room_again`] tells when that is over.
    pub fn note_shortage(&mut self, needed: Option<u64>) {
        if needed.is_none() {
            self.disk.doubt_room();
        }
        self.stage.room.refused(needed, None);
    }

    /// Contents of so many bytes could not be written. If that was for want of room, they are worth another try once so much
    /// can be written.
    pub fn note_unwritten(&mut self, error: &ReplicaError, bytes: u64) {
        if let ReplicaError::Path { error, .. } = error
            && matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        {
            self.disk.doubt_room();
            self.stage.room.refused(None, Some(bytes));
        }
    }

    /// Whether the file system says itself that there is no room.
    pub fn sees_shortage(&self) -> bool {
        self.stage.room.shortage.is_some_and(|shortage| shortage.needed.is_some())
    }

    pub fn shares_blocks(&self) -> bool {
        self.disk.shares_blocks()
    }

    pub fn has_shortage(&self) -> bool {
        self.stage.room.shortage.is_some()
    }

    pub fn forget_shortage(&mut self) {
        self.stage.room.shortage = None;
    }

    /// Whether what was refused last is worth another try: it fits by now, or what came into the trash since can make room.
    /// True once.
    pub fn has_room_again(&mut self) -> Result<bool, ReplicaError> {
        let Some(Shortage { needed, unwritten, trashed }) = self.stage.room.shortage else { return Ok(false) };
        self.disk.refill();
        let fits = match (needed, self.disk.space()) {
            _ if self.disk.is_short() => false,
            (_, None) => false,
            (Some(needed), Some(space)) => space.fits(needed.saturating_add(OVERHEAD)),
            (None, Some(_)) => unwritten.is_none_or(|bytes| self.disk.takes(bytes)),
        };
        let again = fits || (self.stage.room.trashed > trashed && self.could_fit(needed.unwrap_or(0))?);
        if again {
            self.stage.room.shortage = None;
        }
        Ok(again)
    }

    /// What is missing, in words.
    fn shortage(&mut self, size: u64) -> Result<String, ReplicaError> {
        let Some(space) = self.disk.space() else { return Ok("the disk is full".to_owned()) };
        if space.inodes.is_some_and(|inodes| inodes.free <= inodes.total / 100) {
            return Ok("the file system has no inode free for one more object: delete files, or make it anew with more inodes (mkfs -N)".to_owned());
        }
        if space.fits(size.saturating_add(OVERHEAD)) {
            return Ok(format!(
                "a quota is used up: {} needed, and that cannot be written, though the file system has {} free. It is sent as soon \
                 as there is room",
                in_words(size),
                in_words(space.free),
            ));
        }
        let trash = self.trash_size()?;
        Ok(format!(
            "the disk is full: {} needed, {} free, of which {} are kept for others, and {} in the trash. It is sent as soon as there is room",
            in_words(size),
            in_words(space.free),
            in_words(space.spare()),
            in_words(trash),
        ))
    }
}

/// An amount of bytes for people.
fn in_words(bytes: u64) -> String {
    let (unit, word) = if bytes >= 1 << 30 { (1_u64 << 30, "GiB") } else { (1 << 20, "MiB") };
    format!("{}.{} {word}", bytes / unit, u128::from(bytes % unit) * 10 / u128::from(unit))
}

#[cfg(test)]
mod tests {
    use super::super::disk::Inodes;
    use super::*;

    fn space(free: u64, inodes: u64) -> Space {
        Space { total: 1 << 30, free, inodes: Some(Inodes { total: 1000, free: inodes }) }
    }

    #[test]
    fn what_is_known_is_used_up_and_asked_for_again() {
        let mut room = Room::default();
        assert!(!room.take(0), "nothing is known yet");
        room.learn(&space(500 << 20, 100));
        let mut taken = 0;
        while room.take(0) {
            taken += 1;
        }
        assert_eq!(taken, (100 - 10) / PART, "a part of the inodes beyond those kept");
        room.learn(&space(500 << 20, 1000));
        assert!(room.take(100 << 20) && !room.take(100 << 20), "a part of the bytes beyond those kept");
        room.learn(&space(1 << 20, 1000));
        assert!(!room.take(0));
    }

    #[test]
    fn a_shortage_is_the_least_that_was_refused() {
        let mut room = Room::default();
        room.refused(Some(3 << 30), None);
        room.refused(None, Some(500));
        room.refused(None, None);
        room.refused(Some(1 << 20), None);
        let shortage = room.shortage.expect("noted");
        assert_eq!((shortage.needed, shortage.unwritten), (Some(1 << 20), Some(500)));
        assert_eq!(
            [in_words(3 << 30), in_words((1 << 30) / 10 * 11), in_words(5 << 19)],
            ["3.0 GiB", "1.0 GiB", "2.5 MiB"]
        );
    }

    #[test]
    fn what_fits_leaves_something_for_others() {
        assert_eq!(space(0, 0).spare(), (1 << 30) / 100);
        assert_eq!(Space { total: 1 << 50, free: 0, inodes: None }.spare(), 16 << 20);
        let spare = space(0, 0).spare();
        assert!(space(spare + 5000, 11).fits(5000));
        assert!(!space(spare + 4999, 11).fits(5000));
        assert!(!space(spare + 5000, 10).fits(5000));
        assert!(!space(u64::MAX, 500).fits(u64::MAX));
    }

    #[test]
    fn few_inodes_are_a_shortage_too() {
        let total = 1 << 30;
        assert!(space(total / 2, 49).is_short() && !space(total / 2, 50).is_short());
        assert!(space(total / 21, 500).is_short() && !space(total / 19, 500).is_short());
        assert!(
            !Space { total, free: total / 2, inodes: None }.is_short(),
            "a file system that makes inodes as it needs them"
        );
    }
}
