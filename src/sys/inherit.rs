//! Descriptors that a child process keeps.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::process::fchdir;

/// Lets the command's process have these descriptors, under the numbers that they have here, and begin in that directory.
/// They are kept open until the command is dropped. Other children that are started meanwhile do not get them.
pub fn inherit(command: &mut Command, kept: Vec<OwnedFd>, directory: Option<OwnedFd>) {
    let prepare = move || {
        if let Some(directory) = &directory {
            fchdir(directory)?;
        }
        kept.iter().try_for_each(|fd| fcntl_setfd(fd, FdFlags::empty()))?;
        Ok(())
    };
    // SAFETY: between fork and exec only calls that are safe in a signal handler may be made: `fchdir` and `fcntl` are, and
    // turning their error numbers into an `io::Error` allocates nothing. What the closure owns was allocated before.
    unsafe { command.pre_exec(prepare) };
}

/// A descriptor that this process was born with, by its number: a copy that is not passed on. An error if there is none.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    if number < 0 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the borrowed value is used for the one call that copies it; where no such descriptor is open the call says so
    // and touches nothing.
    Ok(fcntl_dupfd_cloexec(unsafe { BorrowedFd::borrow_raw(number) }, 3)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsRawFd;

    #[test]
    fn only_what_is_open_is_inherited() {
        let file = tempfile::tempfile().expect("file");
        assert!(inherited(file.as_raw_fd()).expect("open").as_raw_fd() > 2);
        for none in [-1, 1_000_000] {
            assert!(inherited(none).is_err(), "{none}");
        }
    }

    #[test]
    fn a_child_reads_what_it_was_given_where_it_was_put() {
        let dir = tempfile::tempdir().expect("dir");
        let mut file = tempfile::tempfile().expect("file");
        file.write_all(b"given").expect("write");
        let kept: OwnedFd = file.into();
        let directory = std::fs::File::open(dir.path()).expect("open").into();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &format!("pwd -P; cat /proc/self/fd/{}", kept.as_raw_fd())]);
        inherit(&mut command, vec![kept], Some(directory));
        let said = String::from_utf8(command.output().expect("sh").stdout).expect("text");
        let here = dir.path().canonicalize().expect("canonical");
        assert_eq!(said, format!("{}\ngiven", here.display()));
    }
}
