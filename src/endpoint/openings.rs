//! Openings: a directory that lets more people in is told after what was done below it.
//!
//! Whoever closes, empties or removes a file and then opens the directory above it may count on that order. But the file may
//! be quiet, may wait for its re-creation, or may not have been scanned yet when the directory is looked at. So the directory
//! is looked at again until nothing below is to be looked at any more; a file that somebody keeps open, and users who never
//! rest, hold it for a while only.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Millis, RelPath};
use crate::protocol::{Change, Reply};
use crate::replica::archive::Archive;
use crate::replica::disk::Disk;
use crate::replica::error::ReplicaError;

use super::Endpoint;

/// It is looked at again after so long, in milliseconds.
pub(super) const AGAIN: Millis = 50;
/// After the end of a full scan it waits at most so long, in milliseconds: longer than what vanished and what is quiet.
const LONGEST: Millis = 3_000;
/// While parts of the tree are scanned that it is in, or that are in it, it waits at most so long in all, in milliseconds: users who
/// never rest make scans without end.
pub(super) const SCANNED: Millis = 10_000;
/// Directories that wait at a time; more are told at once.
const MOST: usize = 10_000;

/// How long a directory waits.
#[derive(Debug, Clone, Copy)]
struct Wait {
    since: Millis,
    until: Millis,
}

/// Directories that wait, and what they wait for within a slice of work.
#[derive(Debug, Default)]
pub(super) struct Openings {
    waits: BTreeMap<RelPath, Wait>,
    /// What is still to be looked at of the paths that are due now. A directory among them may come first, and must not
    /// open before the others below it.
    due: BTreeSet<RelPath>,
}

impl Openings {
    /// These paths are due now, and are looked at one by one.
    pub fn are_due(&mut self, paths: &[RelPath]) {
        self.due = paths.iter().cloned().collect();
    }

    /// The turn of one of them has come.
    pub fn is_next(&mut self, path: &RelPath) {
        self.due.remove(path);
    }

    /// Whether something below is still to be looked at of what is due now.
    fn is_due_below(&self, top: &RelPath) -> bool {
        let mut due = self.due.range(top.clone()..).take_while(|path| path.is_within(top));
        due.any(|path| path.is_below(top))
    }

    pub fn holds(&self, path: &RelPath) -> bool {
        self.waits.contains_key(path)
    }

    /// It is looked at: until when it waits, if it does.
    fn take(&mut self, path: &RelPath) -> Option<Wait> {
        self.waits.remove(path)
    }

    /// It is told, or there is nothing to be told.
    pub fn forget(&mut self, path: &RelPath) {
        self.waits.remove(path);
    }

    pub fn is_empty(&self) -> bool {
        self.waits.is_empty()
    }

    pub fn clear(&mut self) {
        self.waits.clear();
    }
}

impl<D: Disk, A: Archive> Endpoint<D, A> {
    /// Whether the report of a directory is not said yet: it opens, and something below it is to be looked at. It is looked at
    /// again then. Until then what was told of it before is no longer so, as `again` asks: one that opens to some, and then to
    /// others in their place, must not open to the first.
    pub(super) fn opens_later(
        &mut self,
        change: &Change,
        again: bool,
        now: Millis,
        out: &mut Vec<Reply>,
    ) -> Result<bool, ReplicaError> {
        let path = &change.path;
        let held = self.openings.take(path);
        let since = match (held, self.full_scan.is_some()) {
            (Some(held), false) => held.since,
            _ => now,
        };
        // What a scan finds is dealt with after it, and the wait begins then.
        let until = match held {
            Some(held) if !self.is_scanned_below(path) => held.until,
            _ => (now + LONGEST).min(since + SCANNED),
        };
        let room = self.openings.waits.len() < MOST;
        if !change.only_opens() || !room || now >= until || !self.is_busy_below(path) {
            return Ok(false);
        }
        self.openings.waits.insert(path.clone(), Wait { since, until });
        if held.is_none() || again {
            self.take_back(path, now, out)?;
        } else {
            self.replica.withdraw_report(path)?;
        }
        self.coalescer.later(path, now + AGAIN, now);
        Ok(true)
    }

    /// Whether a scan goes on, or is to come, of what lies below.
    fn is_scanned_below(&self, top: &RelPath) -> bool {
        let meets = |scope: &RelPath| scope.is_within(top) || top.is_within(scope);
        self.full_scan.is_some()
            || self.scans.iter().any(|scan| meets(&scan.scope))
            || self.replica.agenda().scans().iter().any(meets)
    }

    /// Whether something below is to be looked at.
    fn is_busy_below(&self, top: &RelPath) -> bool {
        let below = |path: &RelPath| path.is_below(top);
        let mut dirty = self.replica.agenda().looks_within(top);
        self.is_scanned_below(top)
            || self.coalescer.is_dirty_below(top)
            || dirty.any(below)
            || self.openings.is_due_below(top)
            || self.readings.iter().any(|(path, _)| below(path))
    }
}
