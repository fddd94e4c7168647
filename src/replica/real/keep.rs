//! Copies of users' files in the trash, made by a check.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid};
use rustix::io::Errno;

use crate::config::Owner;
use crate::model::{Name, RelPath};
use crate::replica::metadata::ACL_ACCESS;
use crate::replica::metadata::acl::Acl;
use crate::replica::metadata::owners::Owners;

use super::{copy as bytes, holes};

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Copies the open file to `path` below the directory `name` of the trash. Directories on the way are made.
pub fn keep(trash: BorrowedFd<'_>, name: &Name, path: &RelPath, source: &File) -> io::Result<()> {
    let Some((above, last)) = path.split() else { return Err(io::Error::from(io::ErrorKind::InvalidInput)) };
    let mut at = below(trash, name)?;
    for part in above.names() {
        at = below(at.as_fd(), &part)?;
    }
    copy_to(at.as_fd(), &last, source, 0o777)
}

/// Copies the open file to a new name, with its owner and those of its permissions that `may` has. A copy that could not be
/// finished is taken away again by whoever made the name.
pub fn copy_to(dir: BorrowedFd<'_>, name: &Name, source: &File, may: u32) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, name.as_bytes(), flags, Mode::RUSR | Mode::WUSR)?;
    let mut copy = File::from(file);
    let stat = rustix::fs::fstat(source)?;
    copy_data(source, &mut copy, stat.st_size as u64)?;
    // As far as may be: what counts are the contents.
    let _ = rustix::fs::fchown(&copy, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)));
    rustix::fs::fchmod(&copy, Mode::from_raw_mode(mode_without_acl(source, stat.st_mode)? & may))?;
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ },
    };
    rustix::fs::futimens(&copy, &times)?;
    copy.sync_all()
}

/// Copies what a file has, holes as holes: a huge one with little in it is no work.
fn copy_data(source: &File, copy: &mut File, size: u64) -> io::Result<()> {
    let mut at = 0;
    while let Some((start, end)) = holes::next_data(source, at, size)? {
        if !bytes::range((source, start), (copy, start), end - start)? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        at = end;
    }
    copy.set_len(size)
}

/// The mode of a copy that has no ACL: under an ACL the group bits are its mask, and those of the group are in it.
fn mode_without_acl(source: &File, mode: u32) -> io::Result<u32> {
    let mut buffer = [0; 64 * 1024];
    let length = match rustix::fs::fgetxattr(source, ACL_ACCESS, &mut buffer) {
        Ok(length) => length,
        Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(mode & 0o777),
        Err(error) => return Err(error.into()),
    };
    let acl = Acl::from_kernel(&buffer[..length], &Owners::new(Owner::Numeric));
    let group = acl.map_or(0, |acl| acl.group_bits());
    Ok(mode & 0o707 | group << 3)
}

/// The directory of that name, made if it is missing.
fn below(dir: BorrowedFd<'_>, name: &Name) -> io::Result<OwnedFd> {
    match rustix::fs::mkdirat(dir, name.as_bytes(), Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(rustix::fs::openat(dir, name.as_bytes(), DIRECTORY, Mode::empty())?)
}
