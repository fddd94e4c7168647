//! News: what people and the other side are told besides what changed.

use std::collections::HashSet;

use super::disk::NotSet;
use super::not_set::Counts;
use super::special::Specials;
use crate::model::RelPath;

/// Owners that are known to have been met.
const OWNERS_MAX: usize = 65_536;

/// What waits to be told, and what was told already.
#[derive(Default)]
pub struct News {
    /// Lines for the log.
    notes: Vec<String>,
    not_set: Counts,
    /// The owners and groups of what was scanned.
    owners: HashSet<(u32, u32)>,
    pub(super) specials: Specials,
    /// ACLs of the other side that were left out.
    pub(super) foreign_acls: u32,
}

impl News {
    /// Takes a line for the log.
    pub fn note(&mut self, line: String) {
        self.notes.push(line);
    }

    /// The lines that were not told yet.
    pub fn take_notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    /// Counts what an object did not get of its attributes, and tells of what is new in that.
    pub(super) fn count_not_set(&mut self, path: &RelPath, not_set: &NotSet) {
        let lines = self.not_set.count_at(path, not_set);
        self.notes.extend(lines);
    }

    /// How much could not be set, if that was not told yet.
    pub fn take_not_set(&mut self) -> Option<Vec<(String, u64)>> {
        self.not_set.take_news()
    }

    /// Whether something of this owner and group is met for the first time, as far as that is remembered.
    pub(super) fn meets_owner(&mut self, uid: u32, gid: u32) -> bool {
        let new = self.owners.insert((uid, gid));
        if self.owners.len() > OWNERS_MAX {
            self.owners.clear();
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_told_once_and_owners_met_once() {
        let mut news = News::default();
        news.note("one".to_owned());
        assert_eq!(news.take_notes(), ["one"]);
        assert!(news.take_notes().is_empty());
        assert!(news.meets_owner(1, 1) && !news.meets_owner(1, 1) && news.meets_owner(1, 2));
    }
}
