//! The reader: from what the kernel says to events, a batch at a time.

use std::collections::HashSet;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use inotify::{EventMask, Inotify};
use rustix::event::{PollFd, PollFlags, Timespec};

use super::{Covered, Shared};
use crate::model::{Name, RelPath};
use crate::pulse;
use crate::watch::{Event, Hint};

const BUFFER: usize = 256 * 1024;
/// A batch is handed out when it has so many events, though more wait.
const LARGE_BATCH: usize = 16_384;
/// How long the last event of a rename is waited for.
const RENAME_WAIT: Duration = Duration::from_millis(10);
/// After something was deleted in the root, the root itself is looked at when it has been silent so long: the kernel
/// does not tell of its end while anybody, such as ourselves, has it open.
const ROOT_WAIT: Duration = Duration::from_secs(1);
/// However quiet it is, the reader shows so often that it lives.
const IDLE: Duration = Duration::from_secs(2);
const ROOT_GONE: &str = "root moved or deleted";

/// One event as it was read.
struct Raw {
    wd: i32,
    mask: EventMask,
    cookie: u32,
    /// Empty: the event is about the watched directory itself.
    name: Box<[u8]>,
}

pub struct Reader<S> {
    inotify: Inotify,
    shared: Arc<Shared>,
    sink: S,
    buffer: Vec<u8>,
    /// The root may have been deleted since it was last looked at.
    doubts_root: bool,
}

impl<S: Fn(Event)> Reader<S> {
    pub fn new(inotify: Inotify, shared: Arc<Shared>, sink: S) -> Reader<S> {
        Reader { inotify, shared, sink, buffer: vec![0; BUFFER], doubts_root: false }
    }

    /// Reads until told to stop.
    pub fn run(mut self) {
        let _pulse = pulse::take("watch");
        while !self.is_stopped() {
            match self.batch() {
                Ok(events) => self.send(events),
                Err(_) => {
                    self.send(vec![lost("inotify cannot be read any more")]);
                    break;
                }
            }
        }
        self.shared.running.store(false, Ordering::Relaxed);
    }

    fn is_stopped(&self) -> bool {
        self.shared.stopped.load(Ordering::Acquire)
    }

    fn send(&self, events: Vec<Event>) {
        for event in events {
            if self.is_stopped() {
                return;
            }
            pulse::lean(|| (self.sink)(event));
        }
    }

    /// Waits for events, takes them in, and returns what they say.
    fn batch(&mut self) -> io::Result<Vec<Event>> {
        let mut raw = Vec::new();
        self.wait(if self.doubts_root { ROOT_WAIT } else { IDLE })?;
        // Before the read, so that a rename's first half counts as seen since.
        let start = Instant::now();
        self.read(&mut raw)?;
        let shared = self.shared.clone();
        if raw.is_empty() {
            let gone = std::mem::take(&mut self.doubts_root) && shared.covered().drop_deleted_root();
            return Ok(gone.then(|| lost(ROOT_GONE)).into_iter().collect());
        }
        let mut lost = Vec::new();
        let unsettled = {
            let mut covered = shared.covered();
            take_in(&mut covered, &shared, &raw, &mut lost);
            covered.tree.is_unsettled(start)
        };
        let first = raw.len();
        if unsettled {
            self.wait(RENAME_WAIT)?;
            self.read(&mut raw)?;
        }
        let mut covered = shared.covered();
        take_in(&mut covered, &shared, &raw[first..], &mut lost);
        shared.events.fetch_add(raw.len() as u64, Ordering::Relaxed);
        self.doubts_root |= raw.iter().any(|e| e.mask.contains(EventMask::DELETE) && covered.tree.is_root(e.wd));
        lost.extend(hints(&covered, &shared, &raw));
        Ok(lost)
    }

    fn wait(&self, limit: Duration) -> io::Result<()> {
        let mut fds = [PollFd::new(&self.inotify, PollFlags::IN), PollFd::new(&self.shared.wake, PollFlags::IN)];
        let time = Timespec::try_from(limit).ok();
        match pulse::rest(limit, || rustix::event::poll(&mut fds, time.as_ref())) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Everything that waits in the queue, up to a large batch.
    fn read(&mut self, raw: &mut Vec<Raw>) -> io::Result<()> {
        while raw.len() < LARGE_BATCH {
            match self.inotify.read_events(&mut self.buffer) {
                Ok(events) => raw.extend(events.map(|e| Raw {
                    wd: e.wd.get_watch_descriptor_id(),
                    mask: e.mask,
                    cookie: e.cookie,
                    name: e.name.map_or(Box::default(), |n| n.as_bytes().into()),
                })),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

fn lost(reason: &'static str) -> Event {
    Event::Lost { scope: RelPath::root(), reason }
}

/// First pass: where the directories are. Adds each kind of loss to `told` once.
fn take_in(covered: &mut Covered, shared: &Shared, raw: &[Raw], told: &mut Vec<Event>) {
    for event in raw {
        let reason = take_in_one(covered, shared, event);
        if let Some(event) = reason.map(lost)
            && !told.contains(&event)
        {
            told.push(event);
        }
    }
}

fn take_in_one(covered: &mut Covered, shared: &Shared, event: &Raw) -> Option<&'static str> {
    let (wd, mask) = (event.wd, event.mask);
    if mask.contains(EventMask::Q_OVERFLOW) {
        shared.overflows.fetch_add(1, Ordering::Relaxed);
        covered.tree.forget_renames();
        return Some("the kernel's event queue overflowed");
    }
    if wd == shared.heartbeat.load(Ordering::Acquire) {
        shared.heartbeats.fetch_add(u64::from(mask.contains(EventMask::ATTRIB)), Ordering::Release);
        return None;
    }
    if !covered.tree.contains(wd) {
        return None;
    }
    let is_root = covered.tree.is_root(wd);
    if mask.contains(EventMask::UNMOUNT) {
        return Some("the file system was unmounted");
    }
    if mask.intersects(EventMask::DELETE_SELF | EventMask::IGNORED) {
        // The kernel has removed this watch, and directories still below it here must have gone with it.
        let gone = covered.tree.remove(wd);
        covered.remove(gone);
        return is_root.then_some(ROOT_GONE);
    }
    if mask.contains(EventMask::MOVE_SELF) {
        if is_root {
            return Some(ROOT_GONE);
        }
        let mut gone = covered.tree.moved_self(wd);
        if covered.tree.path(wd).is_some_and(|path| shared.ignores(&path)) {
            gone.extend(covered.tree.remove(wd));
        }
        covered.remove(gone);
    } else if mask.contains(EventMask::MOVED_FROM | EventMask::ISDIR) {
        covered.tree.moved_from(event.cookie, wd, &event.name, Instant::now());
    } else if mask.contains(EventMask::MOVED_TO | EventMask::ISDIR) {
        covered.tree.moved_to(event.cookie, wd, &event.name);
    }
    None
}

/// Second pass: what happened, under the paths as they are now. What happened in a directory that has gone is left
/// out: the event of the directory itself says it all. Of a path that is too long its directory is told, for a scan to
/// report it.
fn hints(covered: &Covered, shared: &Shared, raw: &[Raw]) -> Vec<Event> {
    let mut written: HashSet<(i32, &[u8])> = HashSet::new();
    let mut last: (i32, Option<RelPath>) = (-1, None);
    let mut out = Vec::new();
    for event in raw {
        let Some(hint) = hint(event.mask) else { continue };
        // All of the batch happened before anybody hears of the first.
        if hint == Hint::Written && !written.insert((event.wd, &event.name)) {
            continue;
        }
        // The directory that holds a directory speaks of it by name; only the root speaks for itself.
        if event.name.is_empty() && !covered.tree.is_root(event.wd) {
            continue;
        }
        if last.0 != event.wd {
            last = (event.wd, covered.tree.path(event.wd));
        }
        let Some(dir) = &last.1 else { continue };
        let path = match Name::new(&event.name) {
            Ok(name) => dir.join(&name).ok(),
            Err(_) => event.name.is_empty().then(|| dir.clone()),
        };
        if path.is_none() && dir.is_at_the_limit() && matches!(hint, Hint::Appeared | Hint::Vanished) {
            let told = Event::Dirty { path: dir.clone(), hint: Hint::Appeared };
            if out.last() != Some(&told) {
                out.push(told);
            }
            continue;
        }
        if let Some(path) = path.filter(|p| !shared.ignores(p)) {
            out.push(Event::Dirty { path, hint });
        }
    }
    out
}

fn hint(mask: EventMask) -> Option<Hint> {
    let table = [
        (EventMask::CREATE | EventMask::MOVED_TO, Hint::Appeared),
        (EventMask::DELETE | EventMask::MOVED_FROM, Hint::Vanished),
        (EventMask::MODIFY, Hint::Written),
        (EventMask::CLOSE_WRITE, Hint::Closed),
        (EventMask::ATTRIB, Hint::Attributes),
    ];
    table.into_iter().find(|(bits, _)| mask.intersects(*bits)).map(|(_, hint)| hint)
}
