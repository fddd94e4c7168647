//! Directories that hold names whose paths are too long to be told: each is told once, however often it is met, and taken
//! back when nothing like that lies in it any more, or when it is gone itself.

use std::collections::BTreeSet;

use crate::model::{Problem, ProblemKind, RelPath};

/// More are told again with each scan.
const MOST: usize = 10_000;

/// What was told and holds.
#[derive(Debug, Default)]
pub(super) struct Long {
    told: BTreeSet<RelPath>,
}

impl Long {
    /// A scan has met such a directory: the problem, if it is news.
    pub fn found(&mut self, dir: &RelPath) -> Option<Problem> {
        if self.told.contains(dir) {
            return None;
        }
        if self.told.len() < MOST {
            self.told.insert(dir.clone());
        }
        let detail = "holds names with which the path is longer than 4095 bytes: what lies there is not synchronised";
        Some(Problem { path: dir.clone(), kind: ProblemKind::TooLong, detail: detail.to_owned() })
    }

    /// Nothing like that lies in the directory; whether it did.
    pub fn is_over(&mut self, dir: &RelPath) -> bool {
        self.told.remove(dir)
    }

    /// Nothing lies at this path any more, nor below it: the directories to be taken back.
    pub fn gone(&mut self, top: &RelPath) -> Vec<RelPath> {
        let within = self.told.range(top.clone()..).take_while(|dir| dir.is_within(top));
        let gone: Vec<RelPath> = within.cloned().collect();
        gone.iter().for_each(|dir| _ = self.told.remove(dir));
        gone
    }

    /// A new session has heard of nothing: all of them, to be looked at again.
    pub fn again(&mut self) -> BTreeSet<RelPath> {
        std::mem::take(&mut self.told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_told_once_until_it_is_over() {
        let path = |text: &str| RelPath::new(text.as_bytes()).expect("a path");
        let mut long = Long::default();
        for dir in ["a/b", "a/c", "d"] {
            assert!(long.found(&path(dir)).is_some_and(|problem| problem.path == path(dir)));
            assert!(long.found(&path(dir)).is_none());
        }
        assert!(long.is_over(&path("d")) && !long.is_over(&path("d")) && long.found(&path("d")).is_some());
        assert_eq!(long.gone(&path("a")), [path("a/b"), path("a/c")]);
        assert_eq!(long.gone(&path("a")), []);
        assert_eq!(long.again(), BTreeSet::from([path("d")]));
        assert!(long.found(&path("d")).is_some());
    }
}
