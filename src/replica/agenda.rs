//! Agenda: what is to be looked at besides what events tell of, because of what psync itself did or found.

use std::collections::BTreeSet;

use crate::model::RelPath;

/// What is to be looked at, in the order of paths.
#[derive(Debug, Default)]
pub struct Agenda {
    /// Paths that are worth a look.
    looks: BTreeSet<RelPath>,
    /// Those of them where a node lies that has changed places: looked at first, or another object in its place would pass for it.
    first: BTreeSet<RelPath>,
    /// Directories to be scanned: they are new, or their events were lost.
    scans: BTreeSet<RelPath>,
    /// Paths that were reported, and whose objects turned up under other names.
    vanished: BTreeSet<RelPath>,
}

impl Agenda {
    /// What lies at a path is to be looked at.
    pub fn look(&mut self, path: RelPath) {
        self.looks.insert(path);
    }

    pub fn look_at_all(&mut self, paths: impl IntoIterator<Item = RelPath>) {
        self.looks.extend(paths);
    }

    /// The same, before what else there is.
    pub fn look_first(&mut self, path: RelPath) {
        self.first.insert(path.clone());
        self.looks.insert(path);
    }

    /// What lies below a directory is to be looked at.
    pub fn scan(&mut self, path: RelPath) {
        self.scans.insert(path);
    }

    /// Both.
    pub fn look_and_scan(&mut self, path: &RelPath) {
        self.look(path.clone());
        self.scan(path.clone());
    }

    /// No event tells of what left a path.
    pub fn vanish(&mut self, path: RelPath) {
        self.vanished.insert(path);
    }

    /// The next path to be looked at.
    pub fn next_look(&mut self) -> Option<RelPath> {
        self.looks.pop_first()
    }

    /// Takes a path that is looked at now; whether it was to be.
    pub fn take_look(&mut self, path: &RelPath) -> bool {
        self.looks.remove(path)
    }

    pub fn is_to_be_looked_at(&self, path: &RelPath) -> bool {
        self.looks.contains(path)
    }

    /// The paths below a directory that are to be looked at, and the directory itself.
    pub fn looks_within<'a>(&'a self, top: &'a RelPath) -> impl Iterator<Item = &'a RelPath> {
        self.looks.range(top.clone()..).take_while(|path| path.is_within(top))
    }

    /// How many paths are to be looked at.
    pub fn looks(&self) -> usize {
        self.looks.len()
    }

    /// Takes the first of what was to be looked at before all else; whether this path was.
    pub fn comes_first(&mut self, path: &RelPath) -> bool {
        self.first.remove(path)
    }

    /// Everything was looked at: nothing comes before anything else.
    pub fn forget_first(&mut self) {
        self.first.clear();
    }

    /// The next directory to be scanned.
    pub fn next_scan(&mut self) -> Option<RelPath> {
        self.scans.pop_first()
    }

    pub fn is_to_be_scanned(&self, path: &RelPath) -> bool {
        self.scans.contains(path)
    }

    /// The directories that are to be scanned.
    pub fn scans(&self) -> &BTreeSet<RelPath> {
        &self.scans
    }

    /// A scan of the whole tree sees all of it.
    pub fn drop_scans(&mut self) {
        self.scans.clear();
    }

    /// Takes the paths that something left without an event.
    pub fn take_vanished(&mut self) -> BTreeSet<RelPath> {
        std::mem::take(&mut self.vanished)
    }

    /// Whether nothing is to be looked at, nor scanned.
    pub fn is_empty(&self) -> bool {
        self.looks.is_empty() && self.scans.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).expect("a path")
    }

    #[test]
    fn each_path_once_and_in_order() {
        let mut agenda = Agenda::default();
        assert!(agenda.is_empty());
        agenda.look_at_all(["d/b", "a", "d"].map(path));
        agenda.look_first(path("d/b"));
        agenda.look_and_scan(&path("e"));
        agenda.vanish(path("gone"));
        let within: Vec<String> = agenda.looks_within(&path("d")).map(RelPath::to_string).collect();
        assert_eq!((within, agenda.looks()), (vec!["d".to_owned(), "d/b".to_owned()], 4));
        assert!(agenda.take_look(&path("d")) && !agenda.take_look(&path("d")));
        let looks: Vec<String> = std::iter::from_fn(|| agenda.next_look()).map(|path| path.to_string()).collect();
        assert_eq!(looks, ["a", "d/b", "e"]);
        assert!(agenda.comes_first(&path("d/b")) && !agenda.comes_first(&path("d/b")));
        assert!(!agenda.is_empty() && agenda.is_to_be_scanned(&path("e")));
        assert_eq!(agenda.next_scan(), Some(path("e")));
        assert!(agenda.is_empty() && agenda.take_vanished().contains(&path("gone")));
        assert!(agenda.take_vanished().is_empty());
    }
}
