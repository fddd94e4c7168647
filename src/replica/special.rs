//! Special files: FIFOs, sockets and devices that do not travel. They are counted, and a problem only where they lie in the
//! way of something that does.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Problem, ProblemKind, RelPath};

use super::Replica;
use super::archive::Archive;
use super::disk::{Disk, Stat};
use super::examine::{Examined, How};
use super::spot::Spot;

/// So many are known by their paths; a tree with more is told as one with so many.
const MOST: usize = 100_000;

/// Where special files lie that are passed over.
#[derive(Debug, Default)]
pub struct Specials {
    /// With the number of the scan that has met them last.
    there: BTreeMap<RelPath, u64>,
    /// Those in the place of something that was to come here.
    in_the_way: BTreeSet<RelPath>,
    scan: u64,
}

impl Specials {
    /// How many there are.
    pub fn count(&self) -> u64 {
        self.there.len() as u64
    }

    fn note(&mut self, path: &RelPath) {
        if self.there.len() < MOST || self.there.contains_key(path) {
            self.there.insert(path.clone(), self.scan);
        }
    }

    /// Something else lies at the path.
    pub(super) fn forget(&mut self, path: &RelPath) {
        if !self.there.is_empty() {
            self.there.remove(path);
        }
        if !self.in_the_way.is_empty() {
            self.in_the_way.remove(path);
        }
    }

    /// Nothing lies at the path any more, nor below it.
    pub(super) fn gone(&mut self, path: &RelPath) {
        self.forget(path);
        for path in self.below(path) {
            self.forget(&path);
        }
    }

    /// A directory has another name, and all that lies below it.
    pub(super) fn moved(&mut self, from: &RelPath, to: &RelPath) {
        for path in self.below(from) {
            self.forget(&path);
            if let Some(path) = path.rebase(from, to) {
                self.note(&path);
            }
        }
    }

    /// A scan of the whole tree begins.
    pub(super) fn begin(&mut self) {
        self.scan += 1;
    }

    /// It is over: what it has not met, nor anybody since, is not there.
    pub(super) fn end(&mut self) {
        let scan = self.scan;
        self.there.retain(|_, met| *met == scan);
    }

    fn below(&self, top: &RelPath) -> Vec<RelPath> {
        if self.there.is_empty() && self.in_the_way.is_empty() {
            return Vec::new();
        }
        let all = self.there.keys().chain(&self.in_the_way);
        all.filter(|path| path.is_below(top)).cloned().collect()
    }
}

impl<D: Disk, A: Archive> Replica<D, A> {
    /// Whether an object is a special file that does not travel.
    pub(super) fn passes_over(&self, stat: &Stat) -> bool {
        stat.special && (stat.kind.is_none() || self.filter.skips(stat.kind))
    }

    /// What a look at such a file finds: nothing, unless it took the place of something that the archive has there, or the
    /// other side wants to put something there. That must not get lost without a word.
    pub(super) fn pass_over(&mut self, at: Spot<D::Dir>, known: bool, how: How) -> Examined {
        let path = at.path;
        self.news.specials.note(path);
        if how.again && !known && self.news.specials.in_the_way.len() < MOST {
            self.news.specials.in_the_way.insert(path.clone());
        }
        match known || how.again || self.news.specials.in_the_way.contains(path) {
            true => Examined::Problem(self.unsupported(at)),
            false => Examined::Excluded,
        }
    }

    /// Nothing that could travel lies at the path.
    pub(super) fn unsupported(&self, at: Spot<D::Dir>) -> Problem {
        let why = self.disk.why_odd(at.dir, at.name);
        let detail = why.unwrap_or_else(|| "not a file, directory or link: not synchronised".to_owned());
        Problem { path: at.path.clone(), kind: ProblemKind::Unsupported, detail }
    }

    /// How many special files lie here that do not travel.
    pub fn count_special(&self) -> u64 {
        self.news.specials.count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).expect("a path")
    }

    #[test]
    fn they_are_counted_where_they_are() {
        let mut specials = Specials::default();
        ["a", "d/a", "d/e/a", "dd/a"].iter().for_each(|text| specials.note(&path(text)));
        specials.note(&path("a"));
        assert_eq!(specials.count(), 4);
        specials.moved(&path("d"), &path("x"));
        assert!(specials.there.contains_key(&path("x/e/a")) && specials.there.contains_key(&path("dd/a")));
        specials.gone(&path("d"));
        assert_eq!(specials.count(), 4);
        specials.gone(&path("x"));
        assert_eq!(specials.count(), 2);
        specials.forget(&path("a"));
        assert_eq!(specials.count(), 1);
    }

    #[test]
    fn a_scan_finds_what_went_unseen() {
        let mut specials = Specials::default();
        ["a", "b", "c"].iter().for_each(|text| specials.note(&path(text)));
        specials.begin();
        specials.note(&path("b"));
        specials.note(&path("new"));
        specials.end();
        assert_eq!(specials.there.keys().map(RelPath::to_string).collect::<Vec<_>>(), ["b", "new"]);
    }
}
