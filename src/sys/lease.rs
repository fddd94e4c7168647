//! Leases: `fcntl(F_SETLEASE)` and `fcntl(F_GETLEASE)`.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The kinds of lease that `fcntl` knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `F_RDLCK`: refused while anybody has the file open for writing or mapped shared and writable. The descriptor
    /// must be open for reading only.
    Read,
    /// `F_WRLCK`: refused while anybody else has the file open at all.
    Write,
}

/// The kernel's answer to a request for a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Granted,
    /// Others have the file open.
    Refused,
    /// This file system or these rights allow no lease.
    Unsupported,
}

/// Asks for a lease on `file`. It lasts until [`release`] or until the last copy of the descriptor is closed;
/// whoever opens the file against it waits up to `/proc/sys/fs/lease-break-time` seconds.
///
/// Errors: only those that say that the descriptor is unusable (`EBADF`).
pub fn request(file: BorrowedFd<'_>, kind: Kind) -> io::Result<Answer> {
    match set(file, word(kind)) {
        Ok(()) => Ok(Answer::Granted),
        Err(error) => match error.raw_os_error() {
            Some(libc::EAGAIN) => Ok(Answer::Refused),
            Some(libc::EBADF) => Err(error),
            // EINVAL: not offered by the file system; EACCES, EPERM: not the owner and no CAP_LEASE; ENOLCK, ENOMEM: no
            // room; EOPNOTSUPP, ENOSYS: network and user space file systems.
            _ => Ok(Answer::Unsupported),
        },
    }
}

/// Whether the lease that was granted is still whole: from the moment somebody waits for it, `F_GETLEASE` answers
/// what the lease is to be lowered to.
pub fn holds(file: BorrowedFd<'_>, kind: Kind) -> bool {
    // SAFETY: F_GETLEASE takes no argument and touches no memory of ours; the descriptor is borrowed, hence open.
    let answer = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLEASE) };
    answer == word(kind)
}

/// Gives the lease back; nothing if there is none.
pub fn release(file: BorrowedFd<'_>) {
    // It fails only where there is no lease (EAGAIN) or cannot be one, and then nobody waits.
    let _ = set(file, libc::F_UNLCK);
}

/// Makes the process ignore SIGIO, which the kernel sends to the holder of a lease that somebody waits for, and
/// whose default action kills. Children inherit it.
pub fn ignore_sigio() -> io::Result<()> {
    // SAFETY: SIG_IGN installs no handler, so no code of ours can run in a signal's context.
    let before = unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
    if before == libc::SIG_ERR { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn word(kind: Kind) -> libc::c_int {
    match kind {
        Kind::Read => libc::F_RDLCK,
        Kind::Write => libc::F_WRLCK,
    }
}

fn set(file: BorrowedFd<'_>, word: libc::c_int) -> io::Result<()> {
    // SAFETY: F_SETLEASE takes an int and touches no memory of ours; the descriptor is borrowed, hence open.
    let answer = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, word) };
    if answer == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{File, OpenOptions};
    use std::os::fd::AsFd;
    use std::time::{Duration, Instant};

    #[test]
    fn a_read_lease_is_refused_while_a_writer_is_there() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("f");
        std::fs::write(&path, b"x").expect("a file");
        let file = File::open(&path).expect("open");
        assert_eq!(request(file.as_fd(), Kind::Read).expect("an answer"), Answer::Granted);
        assert!(holds(file.as_fd(), Kind::Read));
        assert!(!holds(file.as_fd(), Kind::Write));
        release(file.as_fd());
        release(file.as_fd());
        assert!(!holds(file.as_fd(), Kind::Read));
        let writer = OpenOptions::new().write(true).open(&path).expect("a writer");
        assert_eq!(request(file.as_fd(), Kind::Read).expect("an answer"), Answer::Refused);
        drop(writer);
        assert_eq!(request(file.as_fd(), Kind::Read).expect("an answer"), Answer::Granted);
    }

    #[test]
    fn a_write_lease_wants_the_only_descriptor() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let other = File::open(file.path()).expect("a reader");
        assert_eq!(request(file.as_file().as_fd(), Kind::Write).expect("an answer"), Answer::Refused);
        drop(other);
        assert_eq!(request(file.as_file().as_fd(), Kind::Write).expect("an answer"), Answer::Granted);
    }

    #[test]
    fn no_lease_on_a_directory() {
        let dir = tempfile::tempdir().expect("a directory");
        let open = File::open(dir.path()).expect("open");
        assert_eq!(request(open.as_fd(), Kind::Write).expect("an answer"), Answer::Unsupported);
    }

    #[test]
    fn a_waiting_writer_breaks_the_lease_and_goes_on_after_it() {
        ignore_sigio().expect("SIGIO ignored");
        let file = tempfile::NamedTempFile::new().expect("a file");
        let path = file.path().to_path_buf();
        let reader = File::open(&path).expect("open");
        drop(file.reopen());
        let kept = file.into_temp_path();
        assert_eq!(request(reader.as_fd(), Kind::Read).expect("an answer"), Answer::Granted);
        let writer = std::thread::spawn(move || OpenOptions::new().append(true).open(path).map(drop));
        let limit = Instant::now() + Duration::from_secs(20);
        while holds(reader.as_fd(), Kind::Read) {
            assert!(Instant::now() < limit, "the writer never came");
            std::thread::yield_now();
        }
        assert!(!writer.is_finished(), "the writer waits for the lease");
        release(reader.as_fd());
        writer.join().expect("no panic").expect("the writer got in");
        drop(kept);
    }
}
