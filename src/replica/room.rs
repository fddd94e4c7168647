//! Room for new objects, asked for before anything is written. What lies in the trash gives way, the oldest first. What does
//! not fit even then is a problem of its path that costs nobody anything.

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
    /// The last shortage that the trash could not end: what the file system and the trash held then.
    shortage: Option<(Space, u64)>,
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
}

impl<D: Disk, A: Archive> Replica<D, A> {
    /// Whether there is room for an object with so many bytes.
    pub fn has_room(&mut self, size: u64) -> bool {
        if self.disk.is_short() {
            return false;
        }
        if self.room.take(size) {
            return true;
        }
        let Some(space) = self.disk.space() else { return true };
        self.room.learn(&space);
        space.fits(size.saturating_add(OVERHEAD))
    }

    /// Makes room for an object with so many bytes, at the cost of the trash. No batch may wait for its end: what a crash
    /// may still ask for lies in the trash.
    ///
    /// # Errors
    /// `StorageFull`, with what is needed and what there is.
    pub fn make_room(&mut self, path: &RelPath, size: u64) -> Result<(), ReplicaError> {
        let now = (self.disk.space(), self.trash_size()?);
        // Nothing has changed since the trash gave all that it could: to look through it for every object is in vain.
        let in_vain = self.room.shortage.is_some_and(|(space, trash)| (Some(space), trash) == now);
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
        let made = self.has_room(size);
        self.room.shortage = match (made, self.disk.space()) {
            (false, Some(space)) => Some((space, self.trash_size()?)),
            _ => None,
        };
        match made {
            true => Ok(()),
            false => Err(io::Error::new(io::ErrorKind::StorageFull, self.shortage(size)?)).at(path, "make room"),
        }
    }

    /// Whether an empty trash would make room enough. If not, nobody's versions go for nothing.
    fn could_fit(&mut self, size: u64) -> Result<bool, ReplicaError> {
        let trash = self.trash_size()?;
        let Some(space) = self.disk.space() else { return Ok(true) };
        let roomy = Space { free: space.free.saturating_add(trash), inodes: None, ..space };
        Ok(roomy.fits(size.saturating_add(OVERHEAD)))
    }

    /// What is missing, in words.
    fn shortage(&mut self, size: u64) -> Result<String, ReplicaError> {
        let Some(space) = self.disk.space() else { return Ok("the disk is full".to_owned()) };
        if space.inodes.is_some_and(|inodes| inodes.free <= inodes.total / 100) {
            return Ok("the file system has no inode free for one more object: delete files, or make it anew with more inodes (mkfs -N)".to_owned());
        }
        let mib = |bytes: u64| format!("{}.{} MiB", bytes >> 20, ((bytes & 0xf_ffff) * 10) >> 20);
        let trash = self.trash_size()?;
        Ok(format!(
            "the disk is full: {} needed, {} free of which {} are kept for others, {} in the trash",
            mib(size),
            mib(space.free),
            mib(space.spare()),
            mib(trash)
        ))
    }
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
