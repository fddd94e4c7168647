//! Quotas by project: a directory that hands its project down takes nothing of another one (EXDEV). What is to come into it
//! gets its project, as if it had been made there; so the quota counts it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, RawDir};
use rustix::io::Errno;

use crate::pulse;
use crate::sys::project::{self, Project};

use super::beneath;
use super::rename::At;

/// Gives the object, with all that is in it, the project that `dir` hands down. False if it hands none down, or the object
/// cannot have another one. `file`: the object, if it is open.
pub fn fit(file: Option<BorrowedFd<'_>>, object: At<'_>, dir: BorrowedFd<'_>) -> io::Result<bool> {
    let Some(wanted) = project::get(dir).ok().filter(|project| project.inherit) else { return Ok(false) };
    let opened;
    let fd = match file {
        Some(file) => file,
        None => match open(object) {
            Ok(fd) => {
                opened = fd;
                opened.as_fd()
            }
            // A link: it keeps its own.
            Err(Errno::LOOP | Errno::NXIO) => return Ok(false),
            Err(error) => return Err(error.into()),
        },
    };
    let Ok(now) = project::get(fd) else { return Ok(false) };
    if now.number == wanted.number {
        return Ok(false);
    }
    match give_all(fd, wanted) {
        Ok(()) => Ok(true),
        Err(error) => {
            // Whoever it counted for goes on paying for it.
            let _ = give_all(fd, now);
            Err(error)
        }
    }
}

/// Keeps a directory from handing its project down, and from refusing what has another one; false if it did neither.
pub fn hand_none_down(dir: BorrowedFd<'_>) -> io::Result<bool> {
    let Some(now) = project::get(dir).ok().filter(|project| project.inherit) else { return Ok(false) };
    project::set(dir, Project { inherit: false, ..now }).map(|()| true)
}

/// A directory's contents before itself: as long as it has the old project nothing of it counts as moved.
fn give_all(fd: BorrowedFd<'_>, wanted: Project) -> io::Result<()> {
    let is_dir = |fd: BorrowedFd<'_>| -> io::Result<bool> {
        Ok(FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode) == FileType::Directory)
    };
    if !is_dir(fd)? {
        return project::set(fd, Project { inherit: false, ..wanted });
    }
    // Trees may be deeper than a process has descriptors: what is left to do is kept as names.
    let mut todo: Vec<Vec<u8>> = vec![Vec::new()];
    while let Some(path) = todo.pop() {
        pulse::beat();
        let opened = match path.is_empty() {
            true => rustix::fs::openat(fd, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?,
            false => match beneath::open_dir(fd, &path) {
                Ok(dir) => dir,
                Err(_) => continue,
            },
        };
        for name in names(opened.as_fd())? {
            // What cannot be opened (a link, a lease, no right to) keeps its project: it is no obstacle to the rename.
            let Ok(child) = open((opened.as_fd(), &name)) else { continue };
            match is_dir(child.as_fd())? {
                true => todo.push(if path.is_empty() { name } else { [&path[..], &name].join(&b'/') }),
                false => unless_frozen(project::set(child.as_fd(), Project { inherit: false, ..wanted }))?,
            }
        }
        if !path.is_empty() {
            unless_frozen(project::set(opened.as_fd(), wanted))?;
        }
    }
    project::set(fd, wanted)
}

/// What refuses another project (immutable, or another user's) keeps its own: below the top that is no obstacle to the rename.
fn unless_frozen(done: io::Result<()>) -> io::Result<()> {
    done.or_else(|error| if error.kind() == io::ErrorKind::PermissionDenied { Ok(()) } else { Err(error) })
}

fn open((dir, name): At<'_>) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
}

fn names(dir: BorrowedFd<'_>) -> io::Result<Vec<Vec<u8>>> {
    let mut buffer = Vec::with_capacity(32 * 1024);
    let mut entries = RawDir::new(dir, buffer.spare_capacity_mut());
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        // Devices, sockets and FIFOs are not opened.
        let odd = !matches!(entry.file_type(), FileType::RegularFile | FileType::Directory | FileType::Unknown);
        if name != b"." && name != b".." && !odd {
            names.push(name.to_vec());
        }
    }
    Ok(names)
}
