//! What of a tree the disk shows: links that are followed look like their files, and psync's own directory is not there,
//! whatever name users gave it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;

use crate::model::{Kind, Name, RelPath};
use crate::replica::disk::Stat;

use super::{Dir, Place, RealDisk, follow, own, walk};

impl RealDisk {
    /// What a name shows, be it a link that is followed.
    pub(super) fn shown(&self, dir: &Dir, name: &[u8], stat: Stat) -> Stat {
        match self.follows(dir) {
            true => follow::show(self.within(), dir.as_fd(), name, stat, self.device),
            false => stat,
        }
    }

    /// What links may lead through.
    pub(super) fn within(&self) -> follow::Within<'_> {
        let own = self.own_dirs.as_ref().and_then(|dirs| dirs.own.common());
        follow::Within { root: self.root.as_fd(), own }
    }

    /// Whether links in this directory are followed.
    pub(super) fn follows(&self, dir: &Dir) -> bool {
        self.follow && dir.0.place != Place::Own
    }

    /// The link's own stat, if that is what lies under the name and it is to be followed.
    pub(super) fn link_at(&self, dir: &Dir, name: &[u8]) -> Option<Stat> {
        let stat = self.follows(dir).then(|| walk::stat_at(dir.as_fd(), name, self.device).ok()).flatten();
        stat.filter(|stat| stat.kind == Some(Kind::Link))
    }

    /// Whether this is `.psync` itself, under whatever name it lies.
    pub(super) fn is_own(&self, stat: &Stat) -> bool {
        self.own_inode == Some(stat.ino) && stat.kind == Some(Kind::Dir) && !stat.foreign
    }

    /// Refuses a directory of psync's own that was opened by a name that users gave it.
    pub(super) fn not_own(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let stat = walk::stat_fd(fd, self.device)?;
        // A subvolume is another file system to rename, and no mount to openat2.
        if stat.foreign {
            return Err(Errno::XDEV.into());
        }
        match self.is_own(&stat) {
            true => Err(io::ErrorKind::NotFound.into()),
            false => Ok(()),
        }
    }

    pub(super) fn show_links(&self, dir: &Dir, found: &mut [(Name, Stat)]) {
        if self.follows(dir) {
            for (name, stat) in found {
                *stat = self.shown(dir, name.as_bytes(), *stat);
            }
        }
    }

    /// Where the root folds case, a path may lead through psync's own directory by a name that is not `.psync`.
    pub(super) fn leads_into_own(&self, path: &RelPath) -> bool {
        let first = || path.names().next().and_then(|name| own::inode_of(self.root.as_fd(), name.as_bytes()));
        self.folds && first().is_some_and(|inode| Some(inode) == self.own_inode)
    }
}
