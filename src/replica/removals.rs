//! How much this side lets a brain remove: the guard against mass deletion, counted where the objects are.
//!
//! The brain has a guard of its own, which sees all deletions before they begin. This one believes nobody: it counts this
//! side's rows, and tells old objects from young ones by what its own archive and its own file system say of them. What this side's
//! users made counts whatever its age: it is the other side that removes it.

use crate::model::guard::{Guard, Limit, WINDOW};
use crate::model::{Kind, Millis, NodeId, RelPath, Time};

use super::Replica;
use super::archive::{Archive, ArchiveError, Row, Since};
use super::disk::{Disk, Stat};
use super::error::ReplicaError;

/// An object of the last ten minutes is young, and half a minute more for what is under way.
const YOUNG: i64 = WINDOW as i64 / 1000 + 60;
/// Among so many of the newest objects those are counted that came of late: a session's beginning takes no longer for that.
const CAME_MAX: u64 = 200_000;
/// What is made within so many seconds ahead of the clock is young as well: clocks are set back.
const AHEAD: i64 = 60;

/// What goes with an object that is gone, or makes way.
#[derive(Default)]
pub(crate) struct Gone {
    /// The rows below it.
    pub all: u64,
    /// How many of them, and of the object itself, this side's users made within the last ten minutes.
    pub young: u64,
    /// Something below it was recorded by the other side alone, and this side has lost it with its power, or never seen it:
    /// nobody here has deleted that.
    pub unseen: bool,
}

/// What was removed here of late.
#[derive(Debug)]
pub(crate) struct Removals {
    guard: Guard,
    begun: bool,
    now: Millis,
    /// The administrator takes all deletions of this session.
    accepted: bool,
    /// Why nothing more is removed.
    halt: Option<String>,
    told: bool,
}

impl Removals {
    /// A row of something that was here before anybody counted.
    pub(crate) fn find(&mut self) {
        self.guard.find();
    }

    pub(crate) fn new(limit: Limit) -> Removals {
        Removals { guard: Guard::new(limit), begun: false, now: 0, accepted: false, halt: None, told: false }
    }
}

/// Milliseconds since 1970: to the second, much that is made right after both sides met would count as met.
pub(super) fn millis(time: &Time) -> i64 {
    time.secs.saturating_mul(1000).saturating_add(i64::from(time.nanos / 1_000_000))
}

impl<D: Disk, A: Archive> Replica<D, A> {
    /// A session begins. What was removed in an earlier one counts on, unless the administrator accepts what comes.
    pub fn begin_removals(&mut self, accepted: bool) -> Result<(), ReplicaError> {
        let entries = self.archive.count()?;
        let removals = &mut self.bin.removals;
        (removals.accepted, removals.halt, removals.told) = (accepted, None, false);
        if accepted || !std::mem::replace(&mut removals.begun, true) {
            removals.begun = true;
            removals.guard.renew();
            removals.guard.begin(entries, removals.now);
        }
        Ok(())
    }

    /// Both sides are equal: what the administrator accepted has been dealt with, and a first sync is over.
    pub fn settle_removals(&mut self) -> Result<(), ReplicaError> {
        self.bin.removals.accepted = false;
        if self.identity.met < 0 {
            self.identity.met = self.identity.met.saturating_neg();
            self.commit()?;
        }
        Ok(())
    }

    /// Time goes by.
    pub fn set_now(&mut self, now: Millis) {
        self.bin.removals.now = self.bin.removals.now.max(now);
    }

    /// Another limit, from now on; and whether directories may be removed whatever they hold.
    pub fn set_removals(&mut self, limit: Limit, force: bool) {
        self.bin.removals.guard.set_limit(limit);
        self.settings.force = force;
    }

    /// Why nothing more is removed, once.
    pub fn take_halt(&mut self) -> Option<String> {
        let told = std::mem::replace(&mut self.bin.removals.told, self.bin.removals.halt.is_some());
        self.bin.removals.halt.clone().filter(|_| !told)
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
        self.bin.removals.guard.give_back(count, 0);
    }

    /// Whether an object may take the place of `victim` by leaving its own name: of the two one is left.
    pub(crate) fn may_merge(&mut self, mover: &Row, path: &RelPath, victim: &Stat) -> Result<bool, ReplicaError> {
        let row = self.row_at(path)?;
        let both = self.is_old(row.as_ref(), Some(victim)) && self.is_old(Some(mover), None);
        self.admit_removal(path, u64::from(both))
    }

    fn admit_removal(&mut self, path: &RelPath, count: u64) -> Result<bool, ReplicaError> {
        if self.bin.removals.halt.is_some() {
            return Ok(false);
        }
        // Objects come without a word to the guard: what the archive holds is what there is.
        let entries = self.archive.count()?;
        let removals = &mut self.bin.removals;
        removals.guard.holds(entries);
        if removals.accepted {
            removals.guard.gone(count);
            return Ok(true);
        }
        if removals.guard.admit(count, 0, removals.now) {
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

    /// Whether an object counts. That it came a short while ago would not do alone, since the brain can have it replaced.
    fn is_old(&self, row: Option<&Row>, stat: Option<&Stat>) -> bool {
        let before = self.disk.wall_clock() - YOUNG;
        let born = row.and_then(|row| row.signature).map(|s| s.btime).or(stat.map(|stat| stat.btime));
        let born = born.filter(|born| *born != Time::default());
        match row.map(|row| row.since) {
            Some(Since::Always | Since::Made(_)) => true,
            Some(Since::Came(when)) => when < before || born.is_some_and(|born| born.secs < before),
            None => born.is_none_or(|born| born.secs < before),
        }
    }

    /// What users of this side made and psync meets now for the first time. What was here when both sides met counts as always
    /// here, though it may be a minute old: it is what they met for.
    pub(crate) fn made(&self, born: &Time) -> Since {
        let now = self.disk.wall_time();
        let when = if *born == Time::default() { now } else { (*born).min(now) };
        if millis(&when) > self.identity.met.saturating_abs() { Since::Made(when.secs) } else { Since::Always }
    }

    /// What comes from the other side at this moment. What a first sync brings is what the two met for.
    pub(crate) fn came(&self) -> Since {
        if self.identity.met < 0 { Since::Always } else { Since::Came(self.disk.wall_clock()) }
    }

    /// How much came from the other side within the ten minutes. That many it may have made itself, and remove again.
    pub(crate) fn count_came(&self) -> Result<u64, ReplicaError> {
        Ok(self.archive.count_came(self.disk.wall_clock() - YOUNG, CAME_MAX)?)
    }

    pub(crate) fn since_of(&self, node: NodeId) -> Result<Since, ArchiveError> {
        Ok(self.archive.node(node)?.map_or(Since::Always, |row| row.since))
    }

    /// Whether this side's users made it within the ten minutes: who removes what he made himself is no disaster.
    fn is_young(&self, row: &Row) -> bool {
        let now = self.disk.wall_clock();
        matches!(row.since, Since::Made(when) if when > now - WINDOW as i64 / 1000 && when <= now + AHEAD)
    }

    /// What goes with an object that is gone, or in whose place something of another kind lies.
    pub(crate) fn replaced_below(&self, row: Option<&Row>, by: Option<Kind>) -> Result<Gone, ArchiveError> {
        let Some(row) = row else { return Ok(Gone::default()) };
        let mut gone = Gone { young: u64::from(self.is_young(row)), ..Gone::default() };
        if row.entry.kind() != Kind::Dir || by == Some(Kind::Dir) {
            return Ok(gone);
        }
        let mut nodes = vec![row.node];
        while let Some(node) = nodes.pop() {
            for row in self.archive.children(node)? {
                gone.all += 1;
                gone.young += u64::from(self.is_young(&row));
                gone.unseen |= self.is_in_doubt(&row);
                if row.entry.kind() == Kind::Dir {
                    nodes.push(row.node);
                }
            }
        }
        Ok(gone)
    }
}
