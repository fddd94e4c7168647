//! What a root's file system can do, and who may write in it; tried on files of a directory in `.psync` that is gone afterwards.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{Access, AtFlags, Mode, OFlags, RenameFlags, StatxFlags, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

use crate::model::{OWN_DIR, RelPath};
use crate::protocol::survey::Finding;
use crate::replica::metadata::ACL_ACCESS;
use crate::sys::lease;

use super::{beneath, discard, own, reserve};

mod writers;

/// With less than this part of the file system free the trash makes room, in percent.
const SHORT: u64 = 5;
/// Directories are counted for so long at most.
const COUNTING: Duration = Duration::from_secs(20);
/// A refused lease is asked for so often again, and after so long.
const LEASE_TRIES: u32 = 5;
const LEASE_PAUSE: Duration = Duration::from_millis(20);

/// Looks at the root of a pair, which lies at this path. Nothing that users see is made.
pub fn probe(root: BorrowedFd<'_>, path: &Path) -> Vec<Finding> {
    let mut findings = vec![writable(root), writers::others(root, path), room(root)];
    let scratch = match Scratch::make(root) {
        Ok(scratch) => scratch,
        Err(error) => {
            let mend = "psync keeps its archive and trash there: it needs a directory of its own user, and room";
            findings.push(Finding::wrong(".psync", format!("nothing can be made in it: {error}"), mend));
            return findings;
        }
    };
    let dir = scratch.dir.as_fd();
    findings.extend([renames(dir), attributes(dir), acls(dir), leases(dir), births(dir), times(dir), names(dir)]);
    findings
}

fn writable(root: BorrowedFd<'_>) -> Finding {
    let path = beneath::proc_path(root);
    match rustix::fs::access(path, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) => Finding::ok("root", "can be read and written"),
        Err(error) => Finding::wrong(
            "root",
            format!("cannot be written: {}", io::Error::from(error)),
            "mount it for writing, or let psync run as its owner or as root",
        ),
    }
}

fn room(root: BorrowedFd<'_>) -> Finding {
    match reserve::space(root) {
        Some(space) if space.free < space.total / 100 * SHORT => Finding::wrong(
            "room",
            format!("{} of {} MiB are free", space.free >> 20, space.total >> 20),
            "make room: below 5 % psync throws its trash away before the time",
        ),
        Some(space) => Finding::ok("room", format!("{} of {} MiB are free", space.free >> 20, space.total >> 20)),
        None => Finding::ok("room", "is not known of this file system"),
    }
}

/// A directory of our own for the tries.
struct Scratch {
    own: OwnedFd,
    dir: OwnedFd,
    name: String,
    /// `.psync` was not there before.
    made: Option<OwnedFd>,
}

impl Scratch {
    fn make(root: BorrowedFd<'_>) -> io::Result<Scratch> {
        let (own, new) = own::common(root)?;
        let made = if new { Some(root.try_clone_to_owned()?) } else { None };
        // No pair has such a name.
        let name = format!(".probe-{}", std::process::id());
        let dir = rustix::fs::mkdirat(&own, name.as_str(), Mode::RWXU)
            .map_err(io::Error::from)
            .and_then(|()| beneath::open_dir(own.as_fd(), name.as_bytes()));
        match dir {
            Ok(dir) => Ok(Scratch { own, dir, name, made }),
            Err(error) => {
                if let Some(root) = made {
                    let _ = rustix::fs::unlinkat(root, OWN_DIR, AtFlags::REMOVEDIR);
                }
                Err(error)
            }
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = discard::discard(self.own.as_fd(), self.name.as_bytes());
        if let Some(root) = &self.made {
            let _ = rustix::fs::unlinkat(root, OWN_DIR, AtFlags::REMOVEDIR);
        }
    }
}

fn file(dir: BorrowedFd<'_>, name: &str) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR)?))
}

/// A try whose failure is wrong.
fn tried(check: &str, tried: io::Result<()>, found: &str, mend: &str) -> Finding {
    match tried {
        Ok(()) => Finding::ok(check, found),
        Err(error) => Finding::wrong(check, format!("do not work: {error}"), mend),
    }
}

const ANOTHER: &str = "put the root on another file system (ext4, XFS, btrfs)";

fn renames(dir: BorrowedFd<'_>) -> Finding {
    let try_it = || -> io::Result<()> {
        file(dir, "a")?;
        file(dir, "b")?;
        rustix::fs::renameat_with(dir, "a", dir, "b", RenameFlags::EXCHANGE)?;
        rustix::fs::renameat_with(dir, "a", dir, "c", RenameFlags::NOREPLACE)?;
        match rustix::fs::renameat_with(dir, "b", dir, "c", RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(error.into()),
            Ok(()) => Err(io::Error::other("a file was replaced")),
        }
    };
    tried("renames", try_it(), "exchange two names, and replace nothing unasked", ANOTHER)
}

fn attributes(dir: BorrowedFd<'_>) -> Finding {
    let try_it = || -> io::Result<()> {
        Ok(rustix::fs::fsetxattr(file(dir, "attributes")?, "user.psync.probe", b"x", XattrFlags::empty())?)
    };
    let mend = format!("{ANOTHER}, or leave it: extended attributes are then not kept on this side");
    tried("extended attributes", try_it(), "can be set", &mend)
}

fn acls(dir: BorrowedFd<'_>) -> Finding {
    let try_it = || -> io::Result<()> {
        // Version 2; owner, group, others, which say what the mode says.
        let mut value = 2u32.to_le_bytes().to_vec();
        for (tag, rights) in [(0x01u16, 6u16), (0x04, 0), (0x20, 0)] {
            value.extend(tag.to_le_bytes());
            value.extend(rights.to_le_bytes());
            value.extend(u32::MAX.to_le_bytes());
        }
        Ok(rustix::fs::fsetxattr(file(dir, "acls")?, ACL_ACCESS, &value, XattrFlags::empty())?)
    };
    let mend = "mount the file system with the option acl, or leave it: ACLs are then not kept on this side";
    tried("ACLs", try_it(), "can be set", mend)
}

fn leases(dir: BorrowedFd<'_>) -> Finding {
    let try_it = || -> io::Result<()> {
        drop(file(dir, "lease")?);
        let opened = rustix::fs::openat(dir, "lease", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let mut answer = lease::request(opened.as_fd(), lease::Kind::Read)?;
        // A program that this process is starting just now holds a copy of the writing descriptor for a moment.
        for _ in 0..LEASE_TRIES {
            if answer != lease::Answer::Refused {
                break;
            }
            std::thread::sleep(LEASE_PAUSE);
            answer = lease::request(opened.as_fd(), lease::Kind::Read)?;
        }
        lease::release(opened.as_fd());
        match answer {
            lease::Answer::Granted => Ok(()),
            lease::Answer::Refused => Err(io::Error::other("refused, though nobody has the file open")),
            lease::Answer::Unsupported => Err(io::Error::other("not offered here")),
        }
    };
    let mend = "put the root on a local file system: without leases psync cannot see that a file is open for writing";
    tried("leases", try_it(), "show who has a file open", mend)
}

fn births(dir: BorrowedFd<'_>) -> Finding {
    let try_it = || -> io::Result<()> {
        let file = file(dir, "birth")?;
        let statx = rustix::fs::statx(&file, c"", AtFlags::EMPTY_PATH, StatxFlags::BTIME)?;
        match StatxFlags::from_bits_retain(statx.stx_mask).contains(StatxFlags::BTIME) {
            true => Ok(()),
            false => Err(io::Error::other("the file system keeps none")),
        }
    };
    let mend = format!("{ANOTHER}: inode numbers alone may be given to another file while psync is stopped");
    tried("birth times", try_it(), "tell a moved file from a new one", &mend)
}

fn times(dir: BorrowedFd<'_>) -> Finding {
    let try_it = || -> io::Result<()> {
        let file = file(dir, "times")?;
        let time = Timespec { tv_sec: 1_000_000_001, tv_nsec: 123_456_789 };
        rustix::fs::futimens(&file, &Timestamps { last_access: time, last_modification: time })?;
        let stat = rustix::fs::fstat(&file)?;
        match (stat.st_mtime, i64::try_from(stat.st_mtime_nsec)) {
            (1_000_000_001, Ok(123_456_789)) => Ok(()),
            _ => Err(io::Error::other("they are stored coarser than to the nanosecond")),
        }
    };
    tried("times", try_it(), "are kept to the nanosecond", ANOTHER)
}

fn names(dir: BorrowedFd<'_>) -> Finding {
    let try_it = || -> io::Result<()> {
        file(dir, "Name")?;
        file(dir, "name").map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => io::Error::other("upper and lower case are the same"),
            _ => error,
        })?;
        file(dir, "n\u{e4}me \n\\:*?").map(drop)
    };
    tried("names", try_it(), "of every kind can be made", ANOTHER)
}

/// How many directories the tree has, without what is mounted in it; at least so many, if counting takes too long.
pub fn directories(root: BorrowedFd<'_>) -> (u64, bool) {
    let begun = Instant::now();
    let mut todo = vec![RelPath::root()];
    let mut count = 0;
    while let Some(path) = todo.pop() {
        if begun.elapsed() > COUNTING {
            return (count, false);
        }
        count += 1;
        let opened = match path.is_root() {
            true => root.try_clone_to_owned(),
            false => beneath::open_dir(root, path.as_bytes()),
        };
        let Ok(dir) = opened else { continue };
        let Ok(entries) = std::fs::read_dir(format!("/proc/self/fd/{}", dir.as_raw_fd())) else { continue };
        let below = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let names = below.filter_map(|entry| {
            use std::os::unix::ffi::OsStrExt;
            crate::model::Name::new(entry.file_name().as_bytes()).ok()
        });
        todo.extend(names.filter_map(|name| path.join(&name).ok()));
    }
    (count, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_finds_and_leaves_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir_all(dir.path().join("a/b")).expect("made");
        let root = beneath::open_root(dir.path()).expect("the root");
        let findings = probe(root.as_fd(), dir.path());
        assert!(findings.iter().all(|finding| finding.ok), "{findings:?}");
        assert!(!dir.path().join(".psync").exists());
        std::fs::create_dir_all(dir.path().join(".psync/p/trash")).expect("made");
        let again = probe(root.as_fd(), dir.path());
        // Others write meanwhile.
        let told = |findings: &[Finding]| -> Vec<Finding> {
            findings.iter().filter(|finding| finding.check != "room").cloned().collect()
        };
        assert_eq!((told(&again), again.len()), (told(&findings), findings.len()));
        assert_eq!(std::fs::read_dir(dir.path().join(".psync")).expect("there").count(), 1);
        assert_eq!(directories(root.as_fd()), (3, true));
    }
}
