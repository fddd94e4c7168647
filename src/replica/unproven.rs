//! Unproven: files of which only their contents tell whether they are what their rows say. The archive keeps them
//! ([`super::archive::Row::is_unproven`]); here is which of them are owed a look before anybody may say that both sides are equal.
//!
//! A ctime moves with each write, and with much else: a rename, a link, a chmod. A program may put the time of change back after
//! it wrote. So a ctime that moved by itself is a change until the contents are compared; large ones are read when
//! nobody else has work.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{NodeId, RelPath};

use super::Replica;
use super::archive::{Archive, ArchiveError, Row};
use super::disk::Disk;
use super::error::ReplicaError;

/// Paths that are kept one by one; of more all that is unproven is looked at.
const OWED_MAX: usize = 10_000;

/// A file whose ctime moved so often while somebody waited is not waited for.
const RESTLESS: u32 = 8;

/// What is to be compared by contents, and how soon.
#[derive(Debug, Default)]
pub struct Unproven {
    /// Their ctimes moved: they may hold something new.
    owed: BTreeSet<RelPath>,
    /// There are more of those than are kept.
    more: bool,
    /// How often each of them came since somebody began to wait.
    came: BTreeMap<RelPath, u32>,
    /// Since somebody asked, rows came that prove nothing.
    fresh: bool,
}

impl Unproven {
    /// The file at this path may hold something new.
    pub(super) fn owe(&mut self, path: &RelPath) {
        if self.came.len() < OWED_MAX || self.came.contains_key(path) {
            *self.came.entry(path.clone()).or_default() += 1;
        }
        if self.owed.len() >= OWED_MAX && !self.owed.contains(path) {
            self.more = true;
            return;
        }
        self.owed.insert(path.clone());
    }

    /// A row was written.
    pub(super) fn note(&mut self, row: &Row) {
        self.fresh |= row.is_unproven();
    }

    /// Whether one of these, or `at`, came less often than what never rests.
    fn owes_what_rests(&self, at: Option<&RelPath>) -> bool {
        let rests = |path: &RelPath| self.came.get(path).is_none_or(|times| *times < RESTLESS);
        self.more || self.owed.iter().chain(at).any(rests)
    }

    fn owes(&self) -> bool {
        self.more || !self.owed.is_empty()
    }

    fn pop(&mut self) -> Option<RelPath> {
        self.owed.pop_first()
    }

    fn take_more(&mut self) -> bool {
        std::mem::take(&mut self.more)
    }
}

/// A file that is to be compared by its contents.
#[derive(Debug)]
pub struct Suspect {
    pub path: RelPath,
    pub size: u64,
    /// Both sides took their files for equal unread.
    pub unread: bool,
}

impl<D: Disk, A: Archive> Replica<D, A> {
    /// Whether a file may hold something that nobody was told of.
    pub fn owes(&self) -> bool {
        self.reads.unproven.owes()
    }

    /// The same but for files, `at` among them, whose ctimes move again and again.
    pub fn owes_what_rests(&self, at: Option<&RelPath>) -> bool {
        self.reads.unproven.owes_what_rests(at)
    }

    /// Nobody waits for what is owed.
    pub fn nobody_waits(&mut self) {
        self.reads.unproven.came.clear();
    }

    /// The next file of which that is known.
    pub fn pop_owed(&mut self) -> Option<RelPath> {
        self.reads.unproven.pop()
    }

    /// Whether there were more of them than are kept: whoever asks looks at all that is unproven.
    pub fn owes_more(&mut self) -> bool {
        self.reads.unproven.take_more()
    }

    /// Whether, since the last question, rows came that prove nothing.
    pub fn take_unproven(&mut self) -> bool {
        std::mem::take(&mut self.reads.unproven.fresh)
    }

    /// The file at this path, if its row does not prove what it holds, and if it was not reported.
    pub fn suspect_at(&self, path: &RelPath) -> Result<Option<Suspect>, ReplicaError> {
        match self.row_at(path)?.filter(Row::is_unproven) {
            Some(row) => Ok(self.suspect(&row)?),
            None => Ok(None),
        }
    }

    /// The next such row after this node, and its file, unless that is told already; `None`: there is none.
    pub fn next_suspect(&self, above: NodeId) -> Result<Option<(NodeId, Option<Suspect>)>, ReplicaError> {
        match self.archive.unproven(above)? {
            Some(row) => Ok(Some((row.node, self.suspect(&row)?))),
            None => Ok(None),
        }
    }

    fn suspect(&self, row: &Row) -> Result<Option<Suspect>, ArchiveError> {
        let Some(path) = self.path_of(row.node)?.filter(|path| !self.ledger.holds(path)) else {
            return Ok(None);
        };
        Ok(Some(Suspect { path, size: row.entry.size(), unread: row.entry.hash().is_none() }))
    }

    /// The number of files that are not proven to be what their rows say.
    pub fn count_unproven(&self) -> Result<u64, ReplicaError> {
        Ok(self.archive.count_unproven()?)
    }

    /// Whether a file shows by its size or its time that it is not what its row says.
    pub fn shows_a_change(&self, path: &RelPath) -> Result<bool, ReplicaError> {
        let (Some(row), Some((above, name))) = (self.row_at(path)?, path.split()) else { return Ok(false) };
        let stat = self.disk.open_dir(&above).and_then(|dir| self.disk.stat(&dir, &name));
        Ok(stat.is_ok_and(|stat| (stat.size, stat.mtime) != (row.entry.size(), row.live_attrs().mtime)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_rests_is_not_waited_for() {
        let mut unproven = Unproven::default();
        let [a, b] = ["a", "b"].map(|name| RelPath::new(name.as_bytes()).expect("a path"));
        (0..RESTLESS).for_each(|_| unproven.owe(&a));
        assert!(unproven.owes() && !unproven.owes_what_rests(None) && unproven.owes_what_rests(Some(&b)));
        unproven.owe(&b);
        assert!(unproven.owes_what_rests(Some(&a)));
    }

    #[test]
    fn what_is_owed_is_bounded_and_never_forgotten() {
        let mut unproven = Unproven::default();
        let path = |n: usize| RelPath::new(format!("f{n}").as_bytes()).expect("a path");
        for n in 0..OWED_MAX {
            unproven.owe(&path(n));
        }
        unproven.owe(&path(7));
        assert!(!unproven.take_more(), "it is kept already");
        unproven.owe(&path(OWED_MAX));
        let kept = std::iter::from_fn(|| unproven.pop()).count();
        assert_eq!((kept, unproven.owes(), unproven.take_more(), unproven.owes()), (OWED_MAX, true, true, false));
    }
}
