//! The tree of inotify watches.
//!
//! A batch of events is taken in twice: first the renames and removals of directories, so that every directory is
//! where it lies now, then the hints under these paths. A path in an event is thus as new as can be.

mod batch;
mod tree;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use inotify::{Inotify, WatchDescriptor, WatchMask, Watches};
use rustix::event::EventfdFlags;
use rustix::fs::{AtFlags, Mode, OFlags};

use self::batch::Reader;
use self::tree::Tree;
use super::Event;
use crate::model::RelPath;

/// Numbers for the status, since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Directories watched now.
    pub watches: usize,
    /// Events read from the kernel.
    pub events: u64,
    /// Times that the kernel's queue overflowed.
    pub overflows: u64,
    /// False once stopped, or when reading failed (which was told as [`Event::Lost`]).
    pub running: bool,
}

/// One watch per directory, and the thread that reads their events.
pub struct InotifyTree {
    shared: Arc<Shared>,
    reader: Mutex<Option<JoinHandle<()>>>,
}

/// No watch descriptor of the kernel; an overflow is told under -1.
const NO_WATCH: i32 = i32::MIN;

type Excluded = dyn Fn(&RelPath) -> bool + Send + Sync;

struct Shared {
    watches: Mutex<Covered>,
    excluded: Box<Excluded>,
    /// Becomes readable when the reader is to end.
    wake: OwnedFd,
    stopped: AtomicBool,
    running: AtomicBool,
    events: AtomicU64,
    overflows: AtomicU64,
    /// The watch of the heartbeat file, and how many of its events were read.
    heartbeat: AtomicI32,
    heartbeats: AtomicU64,
}

/// What is watched.
struct Covered {
    kernel: Watches,
    tree: Tree<WatchDescriptor>,
    root: Option<OwnedFd>,
}

impl InotifyTree {
    /// Starts the reader. Events of paths for which `excluded` holds, and of psync's own directory, are left out.
    ///
    /// `sink` may block; it must return soon when its receiver has gone, because [`InotifyTree::stop`] waits for it.
    /// Neither function may call this tree.
    pub fn start(
        sink: impl Fn(Event) + Send + 'static,
        excluded: impl Fn(&RelPath) -> bool + Send + Sync + 'static,
    ) -> io::Result<Arc<InotifyTree>> {
        let inotify = Inotify::init()?;
        let covered = Covered { kernel: inotify.watches(), tree: Tree::new(), root: None };
        let shared = Arc::new(Shared {
            watches: Mutex::new(covered),
            excluded: Box::new(excluded),
            wake: rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            stopped: AtomicBool::new(false),
            running: AtomicBool::new(true),
            events: AtomicU64::new(0),
            overflows: AtomicU64::new(0),
            heartbeat: AtomicI32::new(NO_WATCH),
            heartbeats: AtomicU64::new(0),
        });
        let reader = Reader::new(inotify, shared.clone(), sink);
        let thread = std::thread::Builder::new().name("psync-watch".into()).spawn(move || reader.run())?;
        Ok(Arc::new(InotifyTree { shared, reader: Mutex::new(Some(thread)) }))
    }

    /// Watches the directory `dir`, which lies at `path`; the root first, then parents before children. List it
    /// after this call: what came before is found there, what comes later makes an event.
    ///
    /// A directory that is watched already keeps its watch, and moves to `path` with all below it. Excluded ones
    /// are left unwatched.
    ///
    /// # Errors
    ///
    /// `NotFound`: the directory does not lie at `path` any more, or the one that holds it is not watched (any
    /// more). An event about it has been sent or will be. `StorageFull` (ENOSPC): no more watches are allowed.
    pub fn cover(&self, path: &RelPath, dir: BorrowedFd<'_>) -> io::Result<()> {
        if self.shared.ignores(path) {
            return Ok(());
        }
        self.shared.covered().cover(path, dir, ABOVE)
    }

    /// Counts the changes of one file's times, which make no [`Event`].
    pub fn watch_heartbeat(&self, file: BorrowedFd<'_>) -> io::Result<()> {
        let watch = self.shared.covered().kernel.add(link(file), WatchMask::ATTRIB)?;
        self.shared.heartbeat.store(watch.get_watch_descriptor_id(), Ordering::Release);
        Ok(())
    }

    /// How many changes of the heartbeat file were read.
    pub fn heartbeats(&self) -> u64 {
        self.shared.heartbeats.load(Ordering::Acquire)
    }

    pub fn stats(&self) -> Stats {
        Stats {
            watches: self.shared.covered().tree.len(),
            events: self.shared.events.load(Ordering::Relaxed),
            overflows: self.shared.overflows.load(Ordering::Relaxed),
            running: self.shared.running.load(Ordering::Relaxed),
        }
    }

    /// Ends the reader and waits for it. Nothing is sent afterwards.
    pub fn stop(&self) {
        self.shared.stopped.store(true, Ordering::Release);
        // It can only fail when the counter is full, and then the reader wakes as well.
        let _ = rustix::io::write(&self.shared.wake, &1u64.to_ne_bytes());
        let thread = self.reader.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

impl Drop for InotifyTree {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn covered(&self) -> MutexGuard<'_, Covered> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ignores(&self, path: &RelPath) -> bool {
        (self.excluded)(path)
    }
}

/// No EXCL_UNLINK: it would hide what happens to a file after O_TMPFILE and linkat.
/// No DONT_FOLLOW: the path is a link of /proc to a directory that was opened safely.
fn mask() -> WatchMask {
    WatchMask::CREATE
        | WatchMask::DELETE
        | WatchMask::MODIFY
        | WatchMask::CLOSE_WRITE
        | WatchMask::ATTRIB
        | WatchMask::MOVED_FROM
        | WatchMask::MOVED_TO
        | WatchMask::DELETE_SELF
        | WatchMask::MOVE_SELF
        | WatchMask::ONLYDIR
}

/// So many directories above one are covered with it, at most: deeper ones wait for the scan that comes by there.
const ABOVE: usize = 64;

impl Covered {
    /// Covers a directory, and those above it that are not covered yet: a scan of a part of the tree may come before the full
    /// one's turn.
    fn cover(&mut self, path: &RelPath, dir: BorrowedFd<'_>, above: usize) -> io::Result<()> {
        let watch = self.kernel.add(link(dir), mask())?;
        let wd = watch.get_watch_descriptor_id();
        let Some((parent, _)) = path.split() else {
            self.root = Some(dir.try_clone_to_owned()?);
            let old = self.tree.place_root(wd, watch);
            self.remove(old);
            return Ok(());
        };
        let uncovered = |covered: &Self| !parent.is_root() && covered.tree.lookup(&parent).is_none();
        if self.place(path, dir, &watch)
            || (above > 0
                && self.root.is_some()
                && uncovered(self)
                && self.cover_parent(&parent, dir, above - 1).is_ok()
                && self.place(path, dir, &watch))
        {
            return Ok(());
        }
        if !self.tree.contains(wd) {
            self.remove(vec![watch]);
        }
        Err(io::Error::new(
            io::ErrorKind::NotFound,
            "the directory was moved or removed, or lies in one that is not watched",
        ))
    }

    fn cover_parent(&mut self, parent: &RelPath, dir: BorrowedFd<'_>, above: usize) -> io::Result<()> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let up = rustix::fs::openat(dir, "..", flags, Mode::empty())?;
        self.cover(parent, up.as_fd(), above)
    }

    /// Notes where a watched directory lies; `false`: in none that is covered.
    fn place(&mut self, path: &RelPath, dir: BorrowedFd<'_>, watch: &WatchDescriptor) -> bool {
        let Some((parent, name)) = path.split() else { return false };
        // Asked after the watch is there: a rename from now on makes events that correct the place.
        let above = match path.is_landmark() {
            true => self.tree.lookup(&parent).filter(|_| self.lies_at(path, dir)),
            false => self.above(dir, name.as_bytes()),
        };
        let wd = watch.get_watch_descriptor_id();
        above.is_some_and(|above| self.tree.place(wd, watch.clone(), above, name.as_bytes()))
    }

    /// The watched directory in which `dir` lies now under this name: whatever the paths are, their events tell of them.
    fn above(&mut self, dir: BorrowedFd<'_>, name: &[u8]) -> Option<i32> {
        let watch = self.kernel.add(link(dir).join(".."), mask()).ok()?;
        let above = watch.get_watch_descriptor_id();
        if !self.tree.contains(above) {
            self.remove(vec![watch]);
            return None;
        }
        let here = rustix::fs::fstat(dir).ok()?;
        let beside = rustix::fs::statat(dir, [b"../", name].concat(), AtFlags::SYMLINK_NOFOLLOW).ok()?;
        ((beside.st_dev, beside.st_ino) == (here.st_dev, here.st_ino)).then_some(above)
    }

    /// Whether `dir` is at `path` now, as the kernel has it. True if that cannot be found out.
    fn lies_at(&self, path: &RelPath, dir: BorrowedFd<'_>) -> bool {
        let Some(root) = &self.root else { return false };
        let agrees = || {
            let root = std::fs::read_link(link(root)).ok()?;
            let found = std::fs::read_link(link(dir)).ok()?;
            Some(found == root.join(as_path(path)))
        };
        // Twice, because a directory above the root may be renamed between the two questions.
        agrees().unwrap_or(true) || agrees().unwrap_or(true)
    }

    /// Whether the root was deleted; it is not told twice.
    fn drop_deleted_root(&mut self) -> bool {
        let links = self.root.as_ref().and_then(|root| rustix::fs::fstat(root).ok()).map(|stat| stat.st_nlink);
        let gone = links == Some(0);
        if gone {
            self.root = None;
            let old = self.tree.remove_root();
            self.remove(old);
        }
        gone
    }

    fn remove(&mut self, watches: Vec<WatchDescriptor>) {
        for watch in watches {
            // The kernel may have removed it already.
            let _ = self.kernel.remove(watch);
        }
    }
}

fn link(fd: impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))
}

fn as_path(path: &RelPath) -> &Path {
    use std::os::unix::ffi::OsStrExt;
    Path::new(std::ffi::OsStr::from_bytes(path.as_bytes()))
}

#[cfg(test)]
mod tests;
