//! Removing an object of psync's own with all below it.
//!
//! Trees may be deeper than a process has descriptors or stack: directories found inside are first moved up into the top
//! one under numbers, so that never more than two levels are open. All stays below the object on the way.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, RawDir, RenameFlags, StatxFlags};
use rustix::io::Errno;

use super::beneath;

/// Names taken at a time; memory stays bounded in directories of millions.
const BATCH: usize = 4096;

/// Removes the object `name` in `dir`. Mount points are not entered: `CrossesDevices`.
pub fn discard(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    // Of the object itself the caller hears that it is not there; what goes away below it is as good as removed.
    rustix::fs::statx(dir, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT, StatxFlags::TYPE)?;
    if unlink(dir, name)? {
        return Ok(());
    }
    let top = open_emptied(dir, name)?;
    let mut number = 0;
    // Every round removes the directories of one level, and brings the next level up.
    loop {
        let names = some_names(top.as_fd())?;
        if names.is_empty() {
            break;
        }
        for inner in names {
            if !unlink(top.as_fd(), &inner)? {
                flatten(top.as_fd(), &inner, &mut number)?;
            }
        }
    }
    Ok(rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)?)
}

/// Removes the directory `name` in `top`; the directories in it go to `top`.
fn flatten(top: BorrowedFd<'_>, name: &[u8], number: &mut u64) -> io::Result<()> {
    let dir = open_emptied(top, name)?;
    loop {
        let names = some_names(dir.as_fd())?;
        if names.is_empty() {
            break;
        }
        for inner in names {
            if !unlink(dir.as_fd(), &inner)? {
                move_up(dir.as_fd(), &inner, top, number)?;
            }
        }
    }
    Ok(rustix::fs::unlinkat(top, name, AtFlags::REMOVEDIR)?)
}

fn move_up(dir: BorrowedFd<'_>, name: &[u8], top: BorrowedFd<'_>, number: &mut u64) -> io::Result<()> {
    // A directory's own `..` changes with the move: that takes the right to write in it.
    drop(open_emptied(dir, name)?);
    loop {
        *number += 1;
        let free = format!("{number}");
        match rustix::fs::renameat_with(dir, name, top, free.as_str(), RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            other => return Ok(other?),
        }
    }
}

/// Removes anything but a directory; false if it is one. Gone already is removed.
fn unlink(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<bool> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::ISDIR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Opens a directory whose contents are to go, whatever its mode.
fn open_emptied(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    // A user may still have the directory above open, and put anything here: what is no directory keeps its mode.
    let pin = beneath::pin_dir(dir, name)?;
    let stat = rustix::fs::statx(&pin, c"", AtFlags::EMPTY_PATH, StatxFlags::MODE)?;
    let mode = Mode::from_raw_mode(u32::from(stat.stx_mode) & 0o7777);
    if !mode.contains(Mode::RWXU) {
        rustix::fs::chmod(beneath::proc_path(pin.as_fd()), mode | Mode::RWXU)?;
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(&pin, c".", flags, Mode::empty())?)
}

fn some_names(dir: BorrowedFd<'_>) -> io::Result<Vec<Vec<u8>>> {
    // A descriptor of its own, so that each reading starts at the beginning.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(dir, c".", flags, Mode::empty())?;
    let mut buffer = Vec::with_capacity(32 * 1024);
    let mut entries = RawDir::new(&fd, buffer.spare_capacity_mut());
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
        if names.len() >= BATCH {
            break;
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn only_a_directory_is_opened_up() {
        let top = tempfile::tempdir().expect("a directory");
        let root = beneath::open_root(top.path()).expect("open");
        let at = |name: &str| top.path().join(name);
        std::fs::write(at("file"), "a user's, by another name").expect("written");
        std::fs::create_dir(at("dir")).expect("made");
        symlink("dir", at("link")).expect("a link");
        rustix::fs::mkfifoat(&root, c"fifo", Mode::empty()).expect("a FIFO");
        for name in ["file", "fifo", "dir"] {
            std::fs::set_permissions(at(name), std::fs::Permissions::from_mode(0o444)).expect("chmod");
        }
        for name in ["file", "fifo", "link"] {
            assert!(open_emptied(root.as_fd(), name.as_bytes()).is_err(), "{name}");
            assert!(flatten(root.as_fd(), name.as_bytes(), &mut 0).is_err(), "{name}");
        }
        let mode = |name: &str| std::fs::symlink_metadata(at(name)).expect("there").permissions().mode() & 0o7777;
        assert_eq!((mode("file"), mode("fifo"), mode("dir")), (0o444, 0o444, 0o444));
        open_emptied(root.as_fd(), b"dir").expect("a directory");
        assert_eq!(mode("dir"), 0o744);
    }
}
