//! Looking: one object's stat, and the names of a directory with theirs.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, Statx, StatxAttributes, StatxFlags, StatxTimestamp};
use rustix::io::Errno;

use crate::model::{Kind, Name, OWN_DIR, Time};
use crate::replica::disk::Stat;

use super::{Dir, Place};

/// A directory's names are read in pieces of this many bytes.
const BUFFER: usize = 32 * 1024;
/// From this many directories on a second thread is worth waking.
const SHARED: usize = 8;

/// The file system of a root, as `statx` names it.
#[derive(Debug, Clone, Copy)]
pub struct Device {
    major: u32,
    minor: u32,
    /// What the kernel has cached of an object is all that there is to know.
    local: bool,
}

/// File systems of this machine's own disks and memory, by their magic numbers: ext2 to ext4, XFS, btrfs, tmpfs, ramfs, F2FS,
/// bcachefs, ZFS, JFS, and overlays, which stand on one of these.
const LOCAL: [u32; 10] = [
    0xef53,
    0x5846_5342,
    0x9123_683e,
    0x0102_1994,
    0x8584_58f6,
    0xf2f5_2010,
    0xca45_1a4e,
    0x2fc1_2fc1,
    0x3153_464a,
    0x794c_7630,
];

impl Device {
    /// The file system on which the open directory lies.
    pub fn of(fd: BorrowedFd<'_>) -> io::Result<Device> {
        let device = Device::in_statx(&ask(fd, b"", AtFlags::empty())?);
        // The kernel's type is wider than the numbers are.
        let kind = rustix::fs::fstatfs(fd).map_or(0, |found| found.f_type as u32);
        Ok(Device { local: LOCAL.contains(&kind), ..device })
    }

    fn in_statx(statx: &Statx) -> Device {
        Device { major: statx.stx_dev_major, minor: statx.stx_dev_minor, local: false }
    }

    /// Whether both are the same file system.
    pub fn is(&self, other: &Device) -> bool {
        (self.major, self.minor) == (other.major, other.minor)
    }
}

/// The stat of an open object.
pub fn stat_fd(fd: BorrowedFd<'_>, device: Device) -> io::Result<Stat> {
    Ok(convert(&statx(fd, b"", device)?, device))
}

/// The stat of a name in a directory; a link's own.
pub fn stat_at(dir: BorrowedFd<'_>, name: &[u8], device: Device) -> io::Result<Stat> {
    Ok(convert(&statx(dir, name, device)?, device))
}

/// The names of a directory with their stats, sorted by name.
pub fn list(dir: &Dir, device: Device) -> io::Result<Vec<(Name, Stat)>> {
    let mut names = names(dir)?;
    // Where inodes are to be read from disk, they are so in the order in which they lie there.
    names.sort_unstable_by_key(|(ino, _)| *ino);
    let mut found = Vec::with_capacity(names.len());
    let mut failed = None;
    let mut failures = 0;
    for (ino, name) in names {
        match statx(dir.as_fd(), name.as_bytes(), device) {
            Ok(statx) => found.push((name, convert(&statx, device))),
            Err(Errno::NOENT) => {}
            Err(errno) => {
                failures += 1;
                failed = Some(errno);
                found.push((name, unknown(ino, errno)));
            }
        }
    }
    // Every one: it is the directory. Some: a broken mount or inode must not hide its neighbours.
    match failed {
        Some(errno) if failures == found.len() => return Err(errno.into()),
        _ => {}
    }
    found.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

/// Lists several directories, with the help of a second thread where that is quicker. The thread starts when it is
/// first wanted, and ends with this value.
#[derive(Default)]
pub struct Lister {
    helper: Option<SyncSender<Arc<Task>>>,
}

/// Directories to be listed by whoever comes first.
struct Task {
    dirs: Vec<Dir>,
    device: Device,
    next: AtomicUsize,
    done: Mutex<Vec<(usize, Listed)>>,
    one_done: Condvar,
}

/// A directory's names with their states.
type Listed = io::Result<Vec<(Name, Stat)>>;

impl Lister {
    /// One answer for each directory, in order.
    pub fn list(&mut self, dirs: &[Dir], device: Device) -> Vec<Listed> {
        if dirs.len() < SHARED {
            return dirs.iter().map(|dir| list(dir, device)).collect();
        }
        let (next, done) = (AtomicUsize::new(0), Mutex::default());
        let task = Arc::new(Task { dirs: dirs.to_vec(), device, next, done, one_done: Condvar::new() });
        self.offer(&task);
        task.work();
        // Only for what the helper has begun: on a busy machine it may not have come at all.
        let done = task.done.lock().unwrap_or_else(PoisonError::into_inner);
        let all = task.one_done.wait_while(done, |done| done.len() < dirs.len());
        let mut answers = std::mem::take(&mut *all.unwrap_or_else(PoisonError::into_inner));
        answers.sort_unstable_by_key(|(at, _)| *at);
        answers.into_iter().map(|(_, answer)| answer).collect()
    }

    /// Wakes the helper, if it has nothing to do. Without one the caller does everything.
    fn offer(&mut self, task: &Arc<Task>) {
        if self.helper.is_none() {
            let (tasks, inbox) = sync_channel::<Arc<Task>>(1);
            let help = move || inbox.iter().for_each(|task| task.work());
            let started = std::thread::Builder::new().name("list".into()).spawn(help);
            self.helper = started.ok().map(|_| tasks);
        }
        if let Some(helper) = &self.helper {
            // It still has the last one: then it is late, and not needed for this one.
            let _ = helper.try_send(task.clone());
        }
    }
}

impl Task {
    fn work(&self) {
        loop {
            let at = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(dir) = self.dirs.get(at) else { return };
            // Whoever waits for an answer must get one.
            let listed = catch_unwind(AssertUnwindSafe(|| list(dir, self.device)));
            let listed = listed.unwrap_or_else(|_| Err(io::Error::other("listing the directory failed")));
            self.done.lock().unwrap_or_else(PoisonError::into_inner).push((at, listed));
            self.one_done.notify_one();
        }
    }
}

/// The names in a directory and their inodes. Through a descriptor of its own: another reader of the same one would
/// take names away, and some file systems show an old descriptor no new names.
fn names(dir: &Dir) -> io::Result<Vec<(u64, Name)>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = match rustix::fs::openat(dir, c".", flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => rustix::fs::openat(dir, c".", flags, Mode::empty())?,
        other => other?,
    };
    let at_root = dir.0.place == Place::Root;
    let mut buffer = Vec::with_capacity(BUFFER);
    let mut entries = RawDir::new(&fd, buffer.spare_capacity_mut());
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = match entry {
            // Removed while it is read: it has no names any more.
            Err(Errno::NOENT) => break,
            other => other?,
        };
        // `.` and `..` are no names; others cannot come from a sane file system.
        if let Ok(name) = Name::new(entry.file_name().to_bytes())
            && !(at_root && name.as_bytes() == OWN_DIR)
        {
            names.push((entry.ino(), name));
        }
    }
    Ok(names)
}

/// The stat of an object, without a question to the server of what may be mounted there: a dead one would never answer.
fn statx(dir: BorrowedFd<'_>, name: &[u8], device: Device) -> Result<Statx, Errno> {
    let cached = ask(dir, name, AtFlags::STATX_DONT_SYNC)?;
    if device.local || foreign(&cached, device) {
        return Ok(cached);
    }
    // The root itself comes from a server, which knows better.
    ask(dir, name, AtFlags::empty())
}

fn ask(dir: BorrowedFd<'_>, name: &[u8], how: AtFlags) -> Result<Statx, Errno> {
    let here = if name.is_empty() { AtFlags::EMPTY_PATH } else { AtFlags::SYMLINK_NOFOLLOW };
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    rustix::fs::statx(dir, name, here | how | AtFlags::NO_AUTOMOUNT, wanted)
}

/// Whether a foreign object is not mounted there: then it is a btrfs subvolume. Nothing is asked of a mount's server.
pub fn is_subvolume(dir: BorrowedFd<'_>, name: &[u8]) -> bool {
    ask(dir, name, AtFlags::STATX_DONT_SYNC).is_ok_and(|statx| {
        !statx.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
            && statx.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT)
    })
}

fn foreign(statx: &Statx, device: Device) -> bool {
    !Device::in_statx(statx).is(&device) || statx.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
}

fn convert(statx: &Statx, device: Device) -> Stat {
    let kind = match FileType::from_raw_mode(u32::from(statx.stx_mode)) {
        FileType::RegularFile => Some(Kind::File),
        FileType::Directory => Some(Kind::Dir),
        FileType::Symlink => Some(Kind::Link),
        FileType::Fifo => Some(Kind::Fifo),
        _ => None,
    };
    Stat {
        kind,
        special: matches!(kind, None | Some(Kind::Fifo)),
        ino: statx.stx_ino,
        btime: time(statx.stx_btime),
        size: statx.stx_size,
        mtime: time(statx.stx_mtime),
        ctime: time(statx.stx_ctime),
        mode: u32::from(statx.stx_mode) & 0o7777,
        uid: statx.stx_uid,
        gid: statx.stx_gid,
        nlink: statx.stx_nlink,
        foreign: foreign(statx, device),
    }
}

fn time(stamp: StatxTimestamp) -> Time {
    Time { secs: stamp.tv_sec, nanos: stamp.tv_nsec }
}

/// An object that is there and cannot be looked at: a damaged inode, else a mount that even root may not enter or
/// whose server is gone.
fn unknown(ino: u64, errno: Errno) -> Stat {
    let zero = Time::default();
    Stat {
        kind: None,
        special: false,
        ino,
        btime: zero,
        size: 0,
        mtime: zero,
        ctime: zero,
        mode: 0,
        uid: 0,
        gid: 0,
        nlink: 1,
        foreign: !matches!(errno, Errno::IO | Errno::UCLEAN | Errno::BADMSG),
    }
}
