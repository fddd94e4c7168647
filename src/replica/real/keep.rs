//! Copies of users' files in the trash, made by a check.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid};
use rustix::io::Errno;

use crate::model::{Name, RelPath};

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Copies the open file to `path` below the directory `name` of the trash. Directories on the way are made.
pub fn keep(trash: BorrowedFd<'_>, name: &Name, path: &RelPath, source: &std::fs::File) -> io::Result<()> {
    let Some((above, last)) = path.split() else { return Err(io::Error::from(io::ErrorKind::InvalidInput)) };
    let mut at = below(trash, name)?;
    for part in above.names() {
        at = below(at.as_fd(), &part)?;
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&at, last.as_bytes(), flags, Mode::RUSR | Mode::WUSR)?;
    let mut copy = std::fs::File::from(file);
    io::copy(&mut &*source, &mut copy)?;
    let stat = rustix::fs::fstat(source)?;
    // As far as may be: what counts are the contents.
    let _ = rustix::fs::fchown(&copy, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)));
    rustix::fs::fchmod(&copy, Mode::from_raw_mode(stat.st_mode & 0o777))?;
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ },
    };
    rustix::fs::futimens(&copy, &times)?;
    copy.sync_all()
}

/// The directory of that name, made if it is missing.
fn below(dir: BorrowedFd<'_>, name: &Name) -> io::Result<OwnedFd> {
    match rustix::fs::mkdirat(dir, name.as_bytes(), Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(rustix::fs::openat(dir, name.as_bytes(), DIRECTORY, Mode::empty())?)
}
