//! The archive's reserve: room on the file system that is given up when the disk is full, so that deletions, moves and
//! records still work, and taken back when there is room again.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{FallocateFlags, StatVfs};
use rustix::io::Errno;

use crate::replica::disk::{Inodes, Space};

use super::own::OwnDir;

const NAME: &str = "reserve";
/// The largest reserve.
const MOST: u64 = 16 << 20;
/// The share of the file system that it takes at most.
const SHARE: u64 = 100;
/// It is given up in so many parts, so that whoever fills the disk does not get all of it at once.
const PARTS: u64 = 8;
/// A batch of actions or records may need so much.
const NEED: u64 = 4 << 20;

/// A file that holds nothing but room.
pub struct Reserve {
    own: OwnDir,
    /// `None`: it had to go whole.
    file: Option<File>,
    whole: u64,
    held: u64,
    /// Some of it was needed, and is not back yet.
    given: bool,
    /// Something could not be written, or was not tried yet: a quota may be at its end, which no statfs says.
    doubtful: bool,
}

/// Works with a reserve that several threads share, if there is one.
pub fn with<T>(shared: &Mutex<Option<Reserve>>, work: impl FnOnce(&mut Reserve) -> T) -> Option<T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner).as_mut().map(work)
}

impl Reserve {
    /// Opens the reserve in psync's own directory, and takes what room there is. `None` where it cannot be made.
    pub fn open(own: &OwnDir) -> Option<Reserve> {
        let file = own.edit(NAME).ok()?;
        let whole = (space(own.as_fd())?.total / SHARE).min(MOST);
        let held = rustix::fs::fstat(&file).ok().and_then(|stat| u64::try_from(stat.st_size).ok())?;
        let mut reserve = Reserve { own: own.clone(), file: Some(file), whole, held, given: false, doubtful: true };
        reserve.refill();
        reserve.given = (1..whole).contains(&reserve.held) && !own.takes(2 * whole);
        Some(reserve)
    }

    /// Something could not be written for want of room.
    pub fn doubt(&mut self) {
        self.doubtful = true;
    }

    /// Makes sure that the archive can be written, if the reserve has anything left to give.
    pub fn ease(&mut self) {
        let need = NEED.min(self.whole).max(self.whole / PARTS);
        let doubtful = std::mem::take(&mut self.doubtful) || self.given;
        while self.free().is_some_and(|free| free < need) || (doubtful && !self.own.takes(need)) {
            self.given = true;
            if self.held == 0 || self.give().is_err() {
                return;
            }
        }
    }

    /// Gives up a part. Under a quota that is used up btrfs lets nobody cut a file; what it does let go is the whole file.
    fn give(&mut self) -> io::Result<()> {
        let left = self.held.saturating_sub((self.whole / PARTS).max(1));
        match self.file.as_ref().map(|file| rustix::fs::ftruncate(file, left)) {
            Some(Err(Errno::DQUOT)) => {
                self.own.remove(NAME)?;
                (self.file, self.held) = (None, 0);
            }
            Some(Err(error)) => return Err(error.into()),
            Some(Ok(())) | None => self.held = left,
        }
        Ok(())
    }

    /// Takes back what was given, if as much again stays free.
    pub fn refill(&mut self) {
        if self.held >= self.whole {
            self.given = false;
        } else if self.free().is_some_and(|free| free >= 2 * self.whole) && self.own.takes(2 * self.whole) {
            let Ok(file) = self.file.take().map_or_else(|| self.own.edit(NAME), Ok) else { return };
            match rustix::fs::fallocate(self.file.insert(file), FallocateFlags::empty(), 0, self.whole) {
                Ok(()) => (self.held, self.given) = (self.whole, false),
                // The file system knows no such thing: there is no reserve, and nothing to wait for.
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.given = false,
                Err(_) => {}
            }
        }
    }

    /// Whether some of it was needed: what is left of the disk is for the archive.
    pub fn is_given(&self) -> bool {
        self.given
    }

    /// What users can still fill: root's own share of the disk, and what the file system keeps back for itself, do not
    /// count.
    fn free(&self) -> Option<u64> {
        Some(space(self.own.as_fd())?.free)
    }
}

/// The file system's size and number of inodes, and what of both users can still fill.
pub fn space(fd: BorrowedFd<'_>) -> Option<Space> {
    let StatVfs { f_blocks, f_bavail, f_frsize, f_files, f_favail, .. } = rustix::fs::fstatvfs(fd.as_fd()).ok()?;
    let (total, free) = (f_blocks.saturating_mul(f_frsize), f_bavail.saturating_mul(f_frsize));
    // btrfs says 0.
    let inodes = (f_files > 0).then_some(Inodes { total: f_files, free: f_favail });
    (total > 0).then_some(Space { total, free, inodes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_held_given_in_parts_and_taken_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = OwnDir::alone(dir.path()).expect("open");
        let held = || std::fs::metadata(dir.path().join("reserve")).expect("the reserve").len();
        let mut reserve = Reserve::open(&at).expect("a reserve");
        let whole = reserve.whole;
        assert!(whole > 0 && whole <= MOST);
        assert_eq!(held(), whole, "this test needs a disk with room");
        reserve.ease();
        assert!(!reserve.is_given() && held() == whole, "nothing is given while there is room");

        // As it is after a shortage.
        reserve.given = true;
        reserve.held = whole / 2;
        rustix::fs::ftruncate(reserve.file.as_ref().expect("its file"), whole / 2).expect("truncated");
        assert!(reserve.is_given());
        reserve.refill();
        assert!(!reserve.is_given() && held() == whole);
        drop(reserve);
        assert_eq!(Reserve::open(&at).expect("again").held, whole);
    }
}
