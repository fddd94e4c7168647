//! From events to paths that are worth a look, at the right moment. Pure.
//!
//! The first change of a quiet path is due at once; after it was reported, further ones wait until the end of
//! `event_interval`. A deletion waits `delete_delay` for the re-creation that editors make. A file that somebody is
//! writing comes back at its close, or by polling, and after `open_wait` is to be sent as it is.
//!
//! A path that an event named is never dropped: it is handed out by [`Coalescer::ready`], or lies within a scope
//! of [`Coalescer::take_scopes`].

mod scopes;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::Hint;
use crate::config::Timing;
use crate::model::{Millis, RelPath, millis};

/// How many dirty paths are kept one by one.
pub const DEFAULT_LIMIT: usize = 100_000;
/// A file of which we only saw writes is left this long after the last of them.
const SETTLE: Millis = 50;
/// A file that somebody is writing is polled after this time, doubled each time up to `LONGEST_POLL`.
const FIRST_POLL: Millis = 100;
const LONGEST_POLL: Millis = 1000;

/// Why a dirty path waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// It does not, but for its quiet period.
    Nothing,
    /// It may be made again.
    Recreation,
    /// More writes may follow.
    Settling,
    /// Somebody has it open; the next poll.
    Close,
}

#[derive(Debug, Clone, Copy)]
struct Dirty {
    wait: Wait,
    due: Millis,
    /// The first event since the path was clean, or the end of its quiet period if that came later.
    since: Millis,
}

/// A file that was found open for writing.
#[derive(Debug, Clone, Copy)]
struct Open {
    since: Millis,
    delay: Millis,
    /// Forgotten after this time if it was not found open again.
    expires: Millis,
}

/// Decides when a dirty path is to be examined.
#[derive(Debug)]
pub struct Coalescer {
    timing: Timing,
    limit: usize,
    dirty: BTreeMap<RelPath, Dirty>,
    /// The dirty paths by the time when they are due.
    queue: BTreeSet<(Millis, RelPath)>,
    /// Paths sent of late, and when their quiet period ends.
    quiet: Timed<Millis>,
    open: Timed<Open>,
    /// Directories to scan, none within another.
    scopes: BTreeSet<RelPath>,
    /// When the oldest change came of those that are within scopes by now.
    scoped: Option<Millis>,
}

impl Coalescer {
    /// Keeps at most [`DEFAULT_LIMIT`] dirty paths.
    pub fn new(timing: Timing) -> Coalescer {
        Coalescer::with_limit(timing, DEFAULT_LIMIT)
    }

    /// Keeps at most `limit` dirty paths (at least 1); beyond, crowded directories become scopes.
    pub fn with_limit(timing: Timing, limit: usize) -> Coalescer {
        Coalescer {
            timing,
            limit: limit.max(1),
            dirty: BTreeMap::new(),
            queue: BTreeSet::new(),
            quiet: Timed::default(),
            open: Timed::default(),
            scopes: BTreeSet::new(),
            scoped: None,
        }
    }

    /// New waiting times, for what happens from now on.
    pub fn set_timing(&mut self, timing: Timing) {
        self.timing = timing;
    }

    /// Takes in what the watcher saw of `path`.
    pub fn event(&mut self, path: RelPath, hint: Hint, now: Millis) {
        self.prune(now);
        if self.in_scope(&path) {
            return;
        }
        let quiet = self.quiet.get(&path).copied().unwrap_or(0);
        let old = self.dirty.get(&path).copied();
        let since = old.map_or(now.max(quiet), |d| d.since);
        let (wait, due) = match (hint, old.map(|d| d.wait)) {
            (Hint::Vanished, _) => {
                // A path that comes and goes all the time is looked at in the end.
                let latest = since + millis(self.timing.event_interval.max(self.timing.delete_delay));
                (Wait::Recreation, (now + millis(self.timing.delete_delay)).min(latest))
            }
            (Hint::Written, None | Some(Wait::Settling)) => {
                (Wait::Settling, (now + SETTLE).min(since + millis(self.timing.event_interval)))
            }
            (Hint::Written | Hint::Attributes, Some(Wait::Close)) => return,
            _ => (Wait::Nothing, old.filter(|d| d.wait == Wait::Nothing).map_or(now, |d| d.due)),
        };
        self.put(path, Dirty { wait, due: due.max(quiet), since });
        self.bound();
    }

    /// The path that has been due for longest, a directory before what lies below it; it is clean from now on.
    /// `None`: nothing is due before [`Coalescer::next_due`].
    pub fn ready(&mut self, now: Millis) -> Option<RelPath> {
        self.prune(now);
        let (due, first) = self.queue.first()?;
        if *due > now {
            return None;
        }
        let is_due = |path: &RelPath| self.dirty.get(path).is_some_and(|d| d.due <= now);
        let next = |from: &RelPath| self.dirty.range(from..).next().map(|(path, _)| path);
        // Of a tree that went from below all is dirty: the search begins at the top.
        let path = first.topmost_above(next, is_due).unwrap_or(first).clone();
        self.take(&path);
        Some(path)
    }

    /// The path is looked at now, whatever it waits for. Whether it was dirty; it is clean from now on.
    pub fn take_now(&mut self, path: &RelPath) -> bool {
        self.take(path).is_some()
    }

    /// When the next path is due; it may be in the past. `None`: nothing is dirty.
    pub fn next_due(&self) -> Option<Millis> {
        self.queue.first().map(|(due, _)| *due)
    }

    /// The path was reported now: what happens to it in the next `event_interval` waits until its end.
    pub fn sent(&mut self, path: &RelPath, now: Millis) {
        self.prune(now);
        self.open.remove(path);
        let until = now + millis(self.timing.event_interval);
        self.quiet.set(path.clone(), until, until);
        // Losing a quiet period only makes a path due earlier.
        self.quiet.bound(self.limit);
        if let Some(mut dirty) = self.take(path) {
            dirty.due = dirty.due.max(until);
            dirty.since = dirty.since.max(until);
            self.put(path.clone(), dirty);
        }
    }

    /// The path was examined and nobody was writing it, and there was nothing to send.
    /// Without this a later writer's `open_wait` may seem to have begun earlier.
    pub fn clean(&mut self, path: &RelPath) {
        self.open.remove(path);
    }

    /// Examination found somebody writing. True: that has lasted `open_wait`, send it as it is.
    /// False: it is dirty again, due at its close or at the next poll.
    pub fn busy(&mut self, path: &RelPath, now: Millis) -> bool {
        self.prune(now);
        let mut open = self.open.get(path).copied().unwrap_or(Open { since: now, delay: FIRST_POLL, expires: 0 });
        let last = open.since + millis(self.timing.open_wait);
        if now >= last {
            self.open.remove(path);
            return true;
        }
        let due = (now + open.delay).min(last);
        open.delay = (open.delay * 2).min(LONGEST_POLL);
        open.expires = due + millis(self.timing.open_wait);
        self.open.set(path.clone(), open, open.expires);
        self.open.bound(self.limit);
        // An event that came meanwhile may ask for an earlier look.
        if !self.dirty.contains_key(path) && !self.in_scope(path) {
            self.put(path.clone(), Dirty { wait: Wait::Close, due, since: now });
            self.bound();
        }
        false
    }

    /// The path is to be looked at again at `due`, if nothing asks for it before.
    pub fn later(&mut self, path: &RelPath, due: Millis, now: Millis) {
        if !self.dirty.contains_key(path) && !self.in_scope(path) {
            self.put(path.clone(), Dirty { wait: Wait::Nothing, due, since: now });
            self.bound();
        }
    }

    /// Whether the path was reported within the last `event_interval`.
    pub fn is_quiet(&self, path: &RelPath, now: Millis) -> bool {
        self.quiet.get(path).is_some_and(|until| *until > now)
    }

    /// What is dirty, quiet or open below `from` is so below `to` from now on; `from` itself stays as it is.
    pub fn moved(&mut self, from: &RelPath, to: &RelPath) {
        let below: Vec<RelPath> = range_below(&self.dirty, from);
        for old in below {
            let Some(dirty) = self.take(&old) else { continue };
            match old.rebase(from, to) {
                Some(new) if self.in_scope(&new) => (),
                Some(new) => {
                    let due = self.dirty.get(&new).map_or(dirty.due, |d| d.due.min(dirty.due));
                    self.put(new, Dirty { due, ..dirty });
                }
                None => self.add_scope(to.clone()),
            }
        }
        self.quiet.rebase(from, to);
        self.open.rebase(from, to);
        let scopes: Vec<RelPath> = self.scopes.iter().filter(|s| s.is_within(from)).cloned().collect();
        for old in scopes {
            self.scopes.remove(&old);
            self.add_scope(old.rebase(from, to).unwrap_or_else(|| to.clone()));
        }
        if self.in_scope(from) {
            self.add_scope(to.clone());
        }
    }

    /// Drops all that is known of this path, an event that has come since it was handed out included.
    pub fn forget(&mut self, path: &RelPath) {
        self.take(path);
        self.quiet.remove(path);
        self.open.remove(path);
    }

    /// Directories below which everything must be scanned, because more paths were dirty than are kept.
    /// Look here after every round of events.
    pub fn take_scopes(&mut self) -> Vec<RelPath> {
        self.scoped = None;
        std::mem::take(&mut self.scopes).into_iter().collect()
    }

    /// When the oldest change came. Looks at all dirty paths.
    pub fn oldest(&self) -> Option<Millis> {
        self.dirty.values().map(|dirty| dirty.since).chain(self.scoped).min()
    }

    /// Number of dirty paths, scopes included.
    pub fn len(&self) -> usize {
        self.dirty.len() + self.scopes.len()
    }

    /// Whether the path is kept by itself, and not as a part of a scope.
    pub fn is_dirty(&self, path: &RelPath) -> bool {
        self.dirty.contains_key(path)
    }

    /// Whether something below this path is dirty, by itself or in a scope.
    pub fn is_dirty_below(&self, top: &RelPath) -> bool {
        let mut dirty = self.dirty.range(top..).map(|(path, _)| path).take_while(|path| path.is_within(top));
        dirty.any(|path| path != top) || self.scopes.iter().any(|scope| scope.is_within(top) || top.is_within(scope))
    }

    /// Whether nothing is dirty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn put(&mut self, path: RelPath, dirty: Dirty) {
        if let Some(old) = self.dirty.insert(path.clone(), dirty) {
            self.queue.remove(&(old.due, path.clone()));
        }
        self.queue.insert((dirty.due, path));
    }

    fn take(&mut self, path: &RelPath) -> Option<Dirty> {
        let dirty = self.dirty.remove(path)?;
        self.queue.remove(&(dirty.due, path.clone()));
        Some(dirty)
    }

    fn prune(&mut self, now: Millis) {
        self.quiet.expire(now);
        self.open.expire(now);
    }

    /// Whether a scope that waits to be scanned covers the path. A scope's own directory is not covered.
    fn in_scope(&self, path: &RelPath) -> bool {
        path.nearest_above(|to| self.scopes.range((Bound::Unbounded, to)).next_back()).is_some()
    }

    /// Everything below `scope` will be scanned, so nothing below it need be dirty.
    fn add_scope(&mut self, scope: RelPath) {
        for path in range_below(&self.dirty, &scope) {
            let since = self.take(&path).map(|dirty| dirty.since);
            self.scoped = self.scoped.into_iter().chain(since).min();
        }
        scopes::add(&mut self.scopes, scope);
    }

    fn bound(&mut self) {
        if self.dirty.len() > self.limit {
            for scope in scopes::choose(self.dirty.keys(), self.limit / 2) {
                self.add_scope(scope);
            }
        }
        let most = self.limit.div_ceil(2);
        if self.scopes.len() > most {
            for scope in scopes::coarsen(std::mem::take(&mut self.scopes), most.div_ceil(2)) {
                self.add_scope(scope);
            }
        }
    }
}

fn range_below<T>(map: &BTreeMap<RelPath, T>, top: &RelPath) -> Vec<RelPath> {
    let within = map.range(top..).map(|(path, _)| path).take_while(|path| path.is_within(top));
    within.filter(|path| *path != top).cloned().collect()
}

/// Values by path, each until a time of its own.
#[derive(Debug)]
struct Timed<T> {
    values: BTreeMap<RelPath, (Millis, T)>,
    ends: BTreeSet<(Millis, RelPath)>,
}

impl<T> Default for Timed<T> {
    fn default() -> Self {
        Timed { values: BTreeMap::new(), ends: BTreeSet::new() }
    }
}

impl<T> Timed<T> {
    fn get(&self, path: &RelPath) -> Option<&T> {
        self.values.get(path).map(|(_, value)| value)
    }

    fn set(&mut self, path: RelPath, value: T, end: Millis) {
        self.remove(&path);
        self.ends.insert((end, path.clone()));
        self.values.insert(path, (end, value));
    }

    fn remove(&mut self, path: &RelPath) -> Option<(Millis, T)> {
        let (end, value) = self.values.remove(path)?;
        self.ends.remove(&(end, path.clone()));
        Some((end, value))
    }

    fn expire(&mut self, now: Millis) {
        while self.ends.first().is_some_and(|(end, _)| *end <= now) {
            self.drop_first();
        }
    }

    fn bound(&mut self, limit: usize) {
        while self.ends.len() > limit {
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        if let Some((_, path)) = self.ends.pop_first() {
            self.values.remove(&path);
        }
    }

    fn rebase(&mut self, from: &RelPath, to: &RelPath) {
        for old in range_below(&self.values, from) {
            if let (Some((end, value)), Some(new)) = (self.remove(&old), old.rebase(from, to)) {
                self.set(new, value, end);
            }
        }
    }
}

#[cfg(test)]
mod tests;
