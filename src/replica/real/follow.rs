//! Links that stand for the file they lead to (`links = "follow"`): for reading only, and never out of the root.
//!
//! Such a link looks like a file that has the link's own identity (inode and birth time) and all else of the file that it
//! leads to. Whatever writes goes on working on the name alone, so that the link is replaced and the other file is not
//! touched. In psync's own directories links are links.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::model::{Kind, OWN_DIR};
use crate::replica::disk::Stat;

use super::beneath::proc_path;
use super::walk::{self, Device};

/// Why a link is not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Astray {
    Nowhere,
    Circle,
    Outside,
    Directory,
    Odd,
    Failed(Errno),
}

impl fmt::Display for Astray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self {
            Astray::Nowhere => "leads nowhere",
            Astray::Circle => "leads in a circle",
            Astray::Outside => "leads out of the root, or is absolute",
            Astray::Directory => "leads to a directory",
            Astray::Odd => "leads to what is no file",
            Astray::Failed(errno) => return write!(f, "a link that cannot be followed: {errno}"),
        };
        write!(f, "a link that {why}: not followed")
    }
}

/// What links may lead through.
#[derive(Debug, Clone, Copy)]
pub struct Within<'a> {
    pub root: BorrowedFd<'a>,
    /// psync's own directory, which may lie under another name by now.
    pub own: Option<BorrowedFd<'a>>,
}

/// Opens the regular file that the link `name` in `dir` leads to, with `flags` (O_PATH for its stat). Neither the link nor
/// any on its way may leave the root, cross a mount or enter psync's own directory.
pub fn open(within: Within<'_>, dir: BorrowedFd<'_>, name: &[u8], flags: OFlags) -> Result<OwnedFd, Astray> {
    let root = within.root;
    let own_at = || within.own.map(lies_at).transpose().map_err(Astray::Failed);
    let own = own_at()?;
    let top = lies_at(root).map_err(Astray::Failed)?;
    let at = lies_at(dir).map_err(Astray::Failed)?;
    let at = at.strip_prefix(&top).map_err(|_| Astray::Outside)?;
    let path = at.join(std::ffi::OsStr::from_bytes(name));
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let file = rustix::fs::openat2(root, &path, flags | OFlags::CLOEXEC, Mode::empty(), resolve).map_err(astray)?;
    let stat = rustix::fs::fstat(&file).map_err(Astray::Failed)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {}
        FileType::Directory => return Err(Astray::Directory),
        _ => return Err(Astray::Odd),
    }
    let found = lies_at(file.as_fd()).map_err(Astray::Failed)?;
    // Others' files lie in the trash, and a directory that is being moved may be anywhere.
    let hidden = own != own_at()? || own.is_some_and(|own| found.starts_with(own));
    match found.strip_prefix(&top) {
        Ok(below) if !hidden && below.components().all(|c| c.as_os_str().as_bytes() != OWN_DIR) => Ok(file),
        _ => Err(Astray::Outside),
    }
}

/// The stat that the link `name` shows, whose own one is given.
pub fn stat(within: Within<'_>, dir: BorrowedFd<'_>, name: &[u8], link: &Stat, device: Device) -> Result<Stat, Astray> {
    let file = open(within, dir, name, OFlags::PATH)?;
    let stat = walk::stat_fd(file.as_fd(), device).map_err(|_| Astray::Nowhere)?;
    Ok(as_link(stat, (link.ino, link.btime)))
}

/// The stat of a file as a link to it shows it.
pub fn as_link(file: Stat, (ino, btime): (u64, crate::model::Time)) -> Stat {
    // A link to a FIFO is none that could travel.
    Stat { kind: file.kind.filter(|kind| *kind != Kind::Fifo), special: false, ino, btime, nlink: 1, ..file }
}

/// Puts what links show into a stat: one that is not followed is of no kind that travels.
pub fn show(within: Within<'_>, dir: BorrowedFd<'_>, name: &[u8], link: Stat, device: Device) -> Stat {
    if link.kind != Some(Kind::Link) {
        return link;
    }
    stat(within, dir, name, &link, device).unwrap_or(Stat { kind: None, ..link })
}

fn astray(errno: Errno) -> Astray {
    match errno {
        Errno::NOENT | Errno::NOTDIR => Astray::Nowhere,
        Errno::LOOP => Astray::Circle,
        Errno::XDEV => Astray::Outside,
        Errno::NXIO => Astray::Odd,
        other => Astray::Failed(other),
    }
}

/// Where an open object lies now.
fn lies_at(fd: BorrowedFd<'_>) -> Result<PathBuf, Errno> {
    let path = rustix::fs::readlink(proc_path(fd), Vec::new())?;
    Ok(Path::new(std::ffi::OsStr::from_bytes(path.as_bytes())).to_path_buf())
}

impl From<Astray> for io::Error {
    fn from(astray: Astray) -> io::Error {
        match astray {
            Astray::Nowhere => io::Error::new(io::ErrorKind::NotFound, astray.to_string()),
            Astray::Failed(errno) => errno.into(),
            _ => io::Error::new(io::ErrorKind::InvalidInput, astray.to_string()),
        }
    }
}
