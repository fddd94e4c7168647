//! psync's own directories: `ROOT/.psync/PAIR/stage` and `trash`.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::io::Errno;

use crate::model::{Name, OWN_DIR, RelPath};
use crate::replica::metadata::{ACL_ACCESS, ACL_DEFAULT};

use super::reserve::Reserve;
use super::{Dir, Place, beneath, walk};

/// The pair's own directories, open.
pub struct Prepared {
    pub stage: Dir,
    pub trash: Dir,
    pub reserve: Option<Reserve>,
}

/// Makes what is missing, and makes sure that nobody but psync's user can reach it.
pub fn prepare(root: BorrowedFd<'_>, pair: &Name) -> io::Result<Prepared> {
    let device = walk::Device::of(root)?;
    let common = private_dir(root, OWN_DIR, device)?;
    let own = private_dir(common.as_fd(), pair.as_bytes(), device)?;
    let stage = private_dir(own.as_fd(), b"stage", device)?;
    let trash = private_dir(own.as_fd(), b"trash", device)?;
    for dir in [own.as_fd(), common.as_fd(), root] {
        rustix::fs::fsync(dir)?;
    }
    let reserve = Reserve::open(own.as_fd());
    Ok(Prepared { stage: Dir::new(stage, Place::Own), trash: Dir::new(trash, Place::Own), reserve })
}

/// `.psync/PAIR`
pub fn path(pair: &Name) -> io::Result<RelPath> {
    let path = [OWN_DIR, pair.as_bytes()].join(&b'/');
    RelPath::new(&path).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
}

/// The path below `root` for what takes no descriptor.
pub fn path_in(root: &Path, path: &RelPath) -> PathBuf {
    root.join(OsStr::from_bytes(path.as_bytes()))
}

/// A user may have made the directory before us, and a root may hand its own group, setgid bit and default ACL down.
fn private_dir(parent: BorrowedFd<'_>, name: &[u8], device: walk::Device) -> io::Result<OwnedFd> {
    match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let dir = beneath::open_dir(parent, name)?;
    let stat = walk::stat_fd(dir.as_fd(), device)?;
    if stat.foreign {
        return Err(Errno::XDEV.into());
    }
    let me = rustix::process::geteuid().as_raw();
    if stat.uid != me {
        let name = crate::model::readable(name);
        let text = format!("{name} belongs to user {}, psync runs as user {me}", stat.uid);
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    for acl in [ACL_ACCESS, ACL_DEFAULT] {
        match rustix::fs::fremovexattr(&dir, acl) {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if walk::stat_fd(dir.as_fd(), device)?.mode != 0o700 {
        rustix::fs::fchmod(&dir, Mode::RWXU)?;
    }
    Ok(dir)
}
