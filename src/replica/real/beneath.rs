//! Opening what lies below a directory, and nothing else: no link is followed and no mount point crossed.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Statx, StatxAttributes, StatxFlags};
use rustix::io::Errno;

/// Old kernels, and filters of system calls, answer ENOSYS.
static NO_OPENAT2: AtomicBool = AtomicBool::new(false);

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW);

/// Opens the root itself: its path is the administrator's, and may lead through links.
pub fn open_root(root: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(CWD, root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Opens the directory at `path` below `top`.
pub fn open_dir(top: BorrowedFd<'_>, path: &[u8]) -> io::Result<OwnedFd> {
    match without_atime(top, path, DIRECTORY) {
        // A link on the way is as much no directory as a file is.
        Err(Errno::LOOP) => Err(Errno::NOTDIR.into()),
        other => Ok(other?),
    }
}

/// Opens a regular file for reading. `WouldBlock` if somebody holds a lease against readers, `InvalidInput` for
/// anything but a regular file.
pub fn open_file(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    let odd = || io::Error::new(io::ErrorKind::InvalidInput, "not a regular file");
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::NOCTTY;
    let file = match without_atime(dir, name, flags) {
        Err(Errno::LOOP | Errno::NXIO) => return Err(odd()),
        other => other?,
    };
    let stat = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(odd());
    }
    Ok(file)
}

/// Holds on to an object of any kind, be it a link, without opening it.
pub fn pin(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    Ok(open(dir, name, OFlags::PATH | OFlags::NOFOLLOW)?)
}

/// The same for a directory; `NotADirectory` for anything else.
pub fn pin_dir(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    match open(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY) {
        Err(Errno::LOOP) => Err(Errno::NOTDIR.into()),
        other => Ok(other?),
    }
}

/// Opens the regular file that is held on to for reading: that one, whatever lies under its name by now. Errors as
/// [`open_file`]'s.
pub fn open_pinned(pin: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let stat = rustix::fs::fstat(pin)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let path = proc_path(pin);
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(CWD, path.as_str(), flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => rustix::fs::openat(CWD, path.as_str(), flags, Mode::empty())?,
        other => other?,
    };
    Ok(file)
}

/// The path by which system calls reach a descriptor that they do not take.
pub fn proc_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// The path of a name in an open directory; use it with calls that follow no link at its end.
pub fn proc_path_in(dir: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
    let mut path = proc_path(dir).into_bytes();
    path.push(b'/');
    path.extend_from_slice(name);
    path
}

/// Refuses to work without /proc: "no such file" would then be read as a deletion.
pub fn require_proc(fd: BorrowedFd<'_>) -> io::Result<()> {
    let direct = rustix::fs::fstat(fd)?;
    match rustix::fs::stat(proc_path(fd)) {
        Ok(by_proc) if (by_proc.st_dev, by_proc.st_ino) == (direct.st_dev, direct.st_ino) => Ok(()),
        _ => Err(io::Error::new(io::ErrorKind::Unsupported, "/proc is not mounted")),
    }
}

/// O_NOATIME is for owners and CAP_FOWNER only.
fn without_atime(top: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    match open(top, path, flags | OFlags::NOATIME) {
        Err(Errno::PERM) => open(top, path, flags),
        other => other,
    }
}

fn open(top: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::CLOEXEC;
    if !NO_OPENAT2.load(Ordering::Relaxed) {
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        match rustix::fs::openat2(top, path, flags, Mode::empty(), resolve) {
            Err(Errno::NOSYS) => NO_OPENAT2.store(true, Ordering::Relaxed),
            other => return other,
        }
    }
    open_by_steps(top, path, flags)
}

/// One component after the other. The caller's path holds no `..`: [`crate::model::RelPath`] has none.
fn open_by_steps(top: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let mut names = path.split(|byte| *byte == b'/');
    let last = names.next_back().unwrap_or(b".");
    let mut above: Option<OwnedFd> = None;
    for name in names {
        let here = above.as_ref().map_or(top, |fd| fd.as_fd());
        let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        above = Some(open_step(here, name, step)?);
    }
    open_step(above.as_ref().map_or(top, |fd| fd.as_fd()), last, flags | OFlags::NOFOLLOW)
}

fn open_step(dir: BorrowedFd<'_>, name: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    if name == b".." {
        return Err(Errno::XDEV);
    }
    if name != b"." {
        // What is mounted there is not opened: its server may never answer. A link is found to be one by the open itself.
        let at = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
        refuse_mount(&rustix::fs::statx(dir, name, at, StatxFlags::TYPE)?)?;
    }
    let fd = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    if name != b"." {
        let at = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        refuse_mount(&rustix::fs::statx(&fd, c"", at, StatxFlags::TYPE)?)?;
    }
    Ok(fd)
}

fn refuse_mount(stat: &Statx) -> Result<(), Errno> {
    match stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
        true => Err(Errno::XDEV),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn both_ways_of_opening_agree() {
        let top = tempfile::tempdir().expect("a directory");
        std::fs::create_dir_all(top.path().join("a/b")).expect("directories");
        std::fs::write(top.path().join("a/b/f"), b"x").expect("a file");
        symlink("b", top.path().join("a/to-b")).expect("a link");
        symlink("/", top.path().join("out")).expect("a link");
        let root = open_root(top.path()).expect("the root");
        let path = OFlags::PATH | OFlags::NOFOLLOW;
        for (name, flags, expected) in [
            (&b"a"[..], DIRECTORY, Ok(())),
            (b".", DIRECTORY, Ok(())),
            (b"a/b", DIRECTORY, Ok(())),
            (b"a/b/f", OFlags::RDONLY, Ok(())),
            (b"a/b/f", DIRECTORY, Err(Errno::NOTDIR)),
            (b"a/b/f/g", OFlags::RDONLY, Err(Errno::NOTDIR)),
            (b"a/c", DIRECTORY, Err(Errno::NOENT)),
            (b"a/to-b", path, Ok(())),
            (b"a/to-b", OFlags::RDONLY, Err(Errno::LOOP)),
            (b"..", DIRECTORY, Err(Errno::XDEV)),
            (b"a/../..", DIRECTORY, Err(Errno::XDEV)),
        ] {
            let steps = open_by_steps(root.as_fd(), name, flags | OFlags::CLOEXEC).map(drop);
            assert_eq!(steps, expected, "by steps: {}", crate::model::readable(name));
            let whole = open(root.as_fd(), name, flags).map(drop);
            assert_eq!(whole, expected, "openat2: {}", crate::model::readable(name));
        }
        // The two ways name the refusal differently, but neither goes through.
        for name in [&b"a/to-b/f"[..], b"out/etc", b"out"] {
            assert!(open_by_steps(root.as_fd(), name, DIRECTORY).is_err());
            assert_eq!(open_dir(root.as_fd(), name).map_err(|e| e.kind()).err(), Some(io::ErrorKind::NotADirectory));
        }
    }

    #[test]
    fn only_regular_files_are_opened() {
        let top = tempfile::tempdir().expect("a directory");
        let root = open_root(top.path()).expect("the root");
        rustix::fs::mkfifoat(&root, c"fifo", Mode::RWXU).expect("a FIFO");
        let _socket = std::os::unix::net::UnixListener::bind(top.path().join("socket")).expect("a socket");
        symlink("/etc/passwd", top.path().join("link")).expect("a link");
        std::fs::create_dir(top.path().join("dir")).expect("a directory");
        for name in ["fifo", "socket", "link", "dir"] {
            let error = open_file(root.as_fd(), name.as_bytes()).map(drop).map_err(|e| e.kind());
            assert_eq!(error, Err(io::ErrorKind::InvalidInput), "{name}");
        }
    }
}
