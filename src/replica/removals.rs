//! How much this side lets a brain remove: the guard against mass deletion, counted where the objects are.
//!
//! The brain has a guard of its own, which sees all deletions before they begin. This one believes nobody: it counts this
//! side's rows, and tells old objects from young ones by their nodes and by when the file system says they were made.

use std::collections::HashSet;

use crate::model::guard::{Guard, Limit, WINDOW};
use crate::model::{Kind, Millis, NodeId, RelPath, Time};

use super::Replica;
use super::archive::{Archive, Row};
use super::disk::{Disk, Stat};
use super::error::ReplicaError;

/// An object of the last ten minutes is young, and half a minute more for what is under way.
const YOUNG: i64 = WINDOW as i64 / 1000 + 60;
/// Nodes that took the place of old ones and are remembered. With more than these all count as old.
const HEIRS_MAX: usize = 100_000;

/// What was removed here of late.
#[derive(Debug)]
pub(crate) struct Removals {
    guard: Guard,
    begun: bool,
    now: Millis,
    /// The administrator takes all deletions of this session.
    accepted: bool,
    /// Nodes in whose place an old object lay: to replace and then to remove is to remove.
    heirs: HashSet<NodeId>,
    /// Why nothing more is removed.
    halt: Option<String>,
    told: bool,
}

impl Removals {
    /// A row has taken the place of another one.
    pub(crate) fn take_place(&mut self, former: NodeId, node: NodeId) {
        if (former < self.guard.since() || self.heirs.contains(&former)) && self.heirs.len() <= HEIRS_MAX {
            self.heirs.insert(node);
        }
    }

    pub(crate) fn new(limit: Limit) -> Removals {
        Removals {
            guard: Guard::new(limit),
            begun: false,
            now: 0,
            accepted: false,
            heirs: HashSet::new(),
            halt: None,
            told: false,
        }
    }
}

impl<D: Disk, A: Archive> Replica<D, A> {
    /// A session begins. What was removed in an earlier one counts on, unless the administrator accepts what comes.
    pub fn begin_removals(&mut self, accepted: bool) -> Result<(), ReplicaError> {
        let (entries, next) = (self.archive.count()?, self.identity.generation + 1);
        let removals = &mut self.removals;
        (removals.accepted, removals.halt, removals.told) = (accepted, None, false);
        if accepted || !std::mem::replace(&mut removals.begun, true) {
            removals.begun = true;
            removals.guard.renew();
            removals.guard.begin(entries, next, removals.now);
        }
        Ok(())
    }

    /// What the administrator accepted has been dealt with.
    pub fn end_acceptance(&mut self) {
        self.removals.accepted = false;
    }

    /// Time goes by.
    pub fn set_now(&mut self, now: Millis) {
        self.removals.now = self.removals.now.max(now);
    }

    /// Another limit, from now on; and whether directories may be removed whatever they hold.
    pub fn set_removals(&mut self, limit: Limit, force: bool) {
        self.removals.guard.set_limit(limit);
        self.settings.force = force;
    }

    /// Why nothing more is removed, once.
    pub fn take_halt(&mut self) -> Option<String> {
        let told = std::mem::replace(&mut self.removals.told, self.removals.halt.is_some());
        self.removals.halt.clone().filter(|_| !told)
    }

    /// Whether what lies at `path` may be removed with all below it.
    /// How many deletions that counts for, if so.
    pub(crate) fn may_remove(
        &mut self,
        path: &RelPath,
        node: NodeId,
        stat: &Stat,
    ) -> Result<Option<u64>, ReplicaError> {
        let row = self.row_at(path)?;
        let mut count = u64::from(self.is_old(row.as_ref(), Some(stat)));
        if stat.kind == Some(Kind::Dir) {
            // What the brain calls the directory may be another one in the archive.
            let mut nodes = vec![node];
            nodes.extend(row.map(|row| row.node).filter(|own| *own != node));
            for node in nodes {
                count += self.count_old_below(node)?;
            }
        }
        Ok(self.admit_removal(path, count)?.then_some(count))
    }

    /// What was let go on did not happen.
    pub(crate) fn give_back_removal(&mut self, count: u64) {
        self.removals.guard.give_back(count);
    }

    /// Whether an object may take the place of `victim` by leaving its own name: of the two one is left.
    pub(crate) fn may_merge(&mut self, mover: &Row, path: &RelPath, victim: &Stat) -> Result<bool, ReplicaError> {
        let row = self.row_at(path)?;
        let both = self.is_old(row.as_ref(), Some(victim)) && self.is_old(Some(mover), None);
        self.admit_removal(path, u64::from(both))
    }

    /// What took the place of an old object is no younger than that was.
    pub(crate) fn inherit_age(&mut self, node: NodeId, former: Option<&Row>, victim: &Stat) {
        if former.is_none_or(|former| former.node != node)
            && self.is_old(former, Some(victim))
            && self.removals.heirs.len() <= HEIRS_MAX
        {
            self.removals.heirs.insert(node);
        }
    }

    fn admit_removal(&mut self, path: &RelPath, count: u64) -> Result<bool, ReplicaError> {
        if self.removals.halt.is_some() {
            return Ok(false);
        }
        let next = self.identity.generation + 1;
        // Objects come without a word to the guard: what the archive holds is what there is.
        let entries = self.archive.count()?;
        let removals = &mut self.removals;
        removals.guard.holds(entries);
        if removals.accepted {
            removals.guard.gone(count);
            return Ok(true);
        }
        if removals.guard.admit(count, 0, next, removals.now) {
            return Ok(true);
        }
        removals.halt = Some(format!("{path}: {count} more deletions would be too many within ten minutes"));
        Ok(false)
    }

    fn count_old_below(&self, node: NodeId) -> Result<u64, ReplicaError> {
        let mut count = 0;
        let mut nodes = vec![node];
        while let Some(node) = nodes.pop() {
            for row in self.archive.children(node)? {
                count += u64::from(self.is_old(Some(&row), None));
                if row.entry.kind() == Kind::Dir {
                    nodes.push(row.node);
                }
            }
        }
        Ok(count)
    }

    /// Whether an object counts. Its node alone would not do, since the brain gives it; nor would the object's own age, since
    /// the brain can have it replaced.
    fn is_old(&self, row: Option<&Row>, stat: Option<&Stat>) -> bool {
        let made = row.and_then(|row| row.signature).map(|s| s.btime).or(stat.map(|stat| stat.btime));
        let heirs = &self.removals.heirs;
        let node_is_old =
            |row: &Row| row.node < self.removals.guard.since() || heirs.contains(&row.node) || heirs.len() > HEIRS_MAX;
        let object_is_old = |made: Time| made.secs < self.disk.wall_clock() - YOUNG;
        match (row, made) {
            (Some(row), Some(made)) if made == Time::default() => node_is_old(row),
            (Some(row), Some(made)) => node_is_old(row) || object_is_old(made),
            (Some(_), None) => true,
            (None, made) => made.is_none_or(object_is_old),
        }
    }
}
