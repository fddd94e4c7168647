//! Landlock: a child process that can write in one directory alone, whoever it runs as and whatever it is told.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// What can be done to files beside reading and running them, with the version of the kernel's interface that knows it.
const WRITES: &[(u64, libc::c_long)] = &[
    (1 << 1, 1),  // write to a file
    (1 << 4, 1),  // remove a directory
    (1 << 5, 1),  // remove anything else
    (1 << 6, 1),  // make a character device
    (1 << 7, 1),  // make a directory
    (1 << 8, 1),  // make a file
    (1 << 9, 1),  // make a socket
    (1 << 10, 1), // make a FIFO
    (1 << 11, 1), // make a block device
    (1 << 12, 1), // make a symbolic link
    (1 << 13, 2), // rename or link from one directory to another
    (1 << 14, 3), // truncate
];
const VERSION: libc::c_uint = 1;
const PATH_BENEATH: libc::c_uint = 1;

/// As the kernel lays it out: packed.
#[repr(C, packed)]
struct Beneath {
    allowed: u64,
    directory: libc::c_int,
}

/// Lets the command's process write below `directory` and nowhere else. False where the kernel cannot do that.
pub fn confine(command: &mut Command, directory: BorrowedFd<'_>) -> bool {
    let Ok(rules) = rules(directory) else { return false };
    let restrict = move || {
        // SAFETY: both calls take numbers only and touch no memory of ours; they are system calls, and so may be made
        // between fork and exec. The descriptor is owned by this closure.
        let done = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::syscall(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), 0) == 0
        };
        if done { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: the closure makes two system calls and allocates nothing.
    unsafe { command.pre_exec(restrict) };
    true
}

fn rules(directory: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let none = std::ptr::null::<u64>();
    // SAFETY: with this flag the kernel reads no memory: it answers its version.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0_usize, VERSION) };
    if version < 1 {
        return Err(io::Error::last_os_error());
    }
    let writes = WRITES.iter().filter(|(_, since)| version >= *since).fold(0, |all, (one, _)| all | one);
    let handled: u64 = writes;
    // SAFETY: the kernel reads the eight bytes of `handled`, which lives until the call returns.
    let made = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, &raw const handled, size_of::<u64>(), 0) };
    let number = i32::try_from(made).ok().filter(|number| *number >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the kernel has just opened it for us, and nobody else knows it.
    let rules = unsafe { OwnedFd::from_raw_fd(number) };
    let beneath = Beneath { allowed: writes, directory: directory.as_raw_fd() };
    // SAFETY: the kernel reads the bytes of `beneath`, which lives until the call returns; the descriptors are open.
    let added =
        unsafe { libc::syscall(libc::SYS_landlock_add_rule, rules.as_raw_fd(), PATH_BENEATH, &raw const beneath, 0) };
    if added == 0 { Ok(rules) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_confined_child_writes_in_its_directory_alone() {
        let dir = tempfile::tempdir().expect("dir");
        let inside = dir.path().join("inside");
        std::fs::create_dir(&inside).expect("mkdir");
        std::fs::write(dir.path().join("old"), "old").expect("write");
        let open = std::fs::File::open(&inside).expect("open");
        let mut command = Command::new("/bin/sh");
        command
            .current_dir(&inside)
            .args(["-c", "echo x > new; mv new own; cat ../old > copy; echo x > ../out; rm ../old; mv own ../"]);
        if !confine(&mut command, open.as_fd()) {
            eprintln!("skipped: the kernel has no Landlock");
            return;
        }
        command.output().expect("sh");
        let names = |path: &std::path::Path| {
            let mut names: Vec<_> =
                std::fs::read_dir(path).expect("list").map(|e| e.expect("entry").file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(names(&inside), ["copy", "own"]);
        assert_eq!(names(dir.path()), ["inside", "old"]);
    }
}
