//! Which paths are in flight: two actions never touch one object, nor a directory and what lies in it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use crate::model::RelPath;

/// How far a lock reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The object itself; what lies below it may follow in order (a new directory, then its files).
    Object,
    /// The object itself, and what begins below it from now on: the rights of a directory come before what lies in it.
    Rights,
    /// All that lies below it as well.
    Tree,
}

/// The locks in force. One path is locked by one action at most.
#[derive(Debug, Default)]
pub struct Locks {
    held: BTreeMap<RelPath, Reach>,
    /// Those of them that keep what lies below from beginning.
    shut: BTreeSet<RelPath>,
}

impl Locks {
    /// Whether an action that needs `path` this far may start now.
    pub fn is_free(&self, path: &RelPath, reach: Reach) -> bool {
        if self.held.contains_key(path) {
            return false;
        }
        if path.nearest_above(|to| self.shut.range((Bound::Unbounded, to)).next_back()).is_some() {
            return false;
        }
        reach != Reach::Tree
            || !self.held.range(path.clone()..).map(|(p, _)| p).take_while(|p| p.is_within(path)).any(|p| p != path)
    }

    pub fn take(&mut self, path: &RelPath, reach: Reach) {
        self.held.insert(path.clone(), reach);
        if reach != Reach::Object {
            self.shut.insert(path.clone());
        }
    }

    pub fn free(&mut self, path: &RelPath) {
        self.held.remove(path);
        self.shut.remove(path);
    }

    /// Whether an action in flight concerns this very path.
    pub fn holds(&self, path: &RelPath) -> bool {
        self.held.contains_key(path)
    }

    /// Whether an action in flight concerns something below this path.
    pub fn holds_below(&self, path: &RelPath) -> bool {
        self.held.range(path.clone()..).map(|(at, _)| at).take_while(|at| at.is_within(path)).any(|at| at != path)
    }

    /// All paths that actions in flight concern.
    pub fn held(&self) -> impl Iterator<Item = &RelPath> {
        self.held.keys()
    }

    /// Whether an action in flight concerns this very path, or a tree that it lies in.
    pub fn covers(&self, path: &RelPath) -> bool {
        !self.is_free(path, Reach::Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reach() {
        let path = |s: &str| RelPath::new(s.as_bytes()).unwrap();
        let mut locks = Locks::default();
        locks.take(&path("d"), Reach::Object);
        locks.take(&path("t"), Reach::Tree);
        for (name, reach, free) in [
            ("d", Reach::Object, false),
            ("d/x", Reach::Object, true),
            ("d/x", Reach::Tree, true),
            ("t/x", Reach::Object, false),
            ("e", Reach::Tree, true),
            ("", Reach::Tree, false),
            ("tt", Reach::Tree, true),
        ] {
            assert_eq!(locks.is_free(&path(name), reach), free, "{name} {reach:?}");
        }
        locks.take(&path("r/f"), Reach::Object);
        assert!(locks.is_free(&path("r"), Reach::Rights) && !locks.is_free(&path("r"), Reach::Tree));
        locks.take(&path("r"), Reach::Rights);
        assert!(locks.covers(&path("r/new")) && locks.covers(&path("r/sub/new")) && !locks.covers(&path("rr")));
        locks.free(&path("r"));
        assert!(!locks.covers(&path("r/new")));
        locks.take(&path("e/f"), Reach::Object);
        assert!(!locks.is_free(&path("e"), Reach::Tree) && locks.is_free(&path("e"), Reach::Object));
        locks.free(&path("e/f"));
        assert!(locks.is_free(&path("e"), Reach::Tree));
    }
}
