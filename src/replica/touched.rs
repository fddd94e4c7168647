//! The directories whose names a batch has changed, until they are on disk.

use std::collections::BTreeMap;

use crate::model::RelPath;

/// Directories to be synced.
#[derive(Debug)]
pub(crate) struct Touched<Dir> {
    /// By where they lie.
    at: BTreeMap<RelPath, Dir>,
    /// Those whose own name, or one above it, has changed since: under it another may lie by now.
    left: Vec<Dir>,
}

impl<Dir> Default for Touched<Dir> {
    fn default() -> Self {
        Touched { at: BTreeMap::new(), left: Vec::new() }
    }
}

impl<Dir: Clone> Touched<Dir> {
    pub fn is_empty(&self) -> bool {
        self.at.is_empty() && self.left.is_empty()
    }

    /// The name at `path` in `dir` has changed.
    pub fn note(&mut self, path: &RelPath, dir: &Dir) {
        let Some(parent) = path.parent() else { return };
        let below: Vec<RelPath> =
            self.at.range(path.clone()..).map(|(at, _)| at).take_while(|at| at.is_within(path)).cloned().collect();
        self.left.extend(below.iter().filter_map(|at| self.at.remove(at)));
        self.at.entry(parent).or_insert_with(|| dir.clone());
    }

    pub fn all(&self) -> Vec<Dir> {
        self.at.values().chain(&self.left).cloned().collect()
    }

    pub fn clear(&mut self) {
        self.at.clear();
        self.left.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_directory_once_and_both_that_had_one_name() {
        let mut touched = Touched::default();
        let mut note = |path: &str, dir: u32| touched.note(&RelPath::new(path.as_bytes()).expect("a path"), &dir);
        note("d/x", 1);
        note("d/y", 1);
        note("d/e/z", 2);
        // It is renamed, and another takes its name.
        note("d", 0);
        note("d2", 0);
        note("d/x", 3);
        note("d/e/z", 4);
        let mut all = touched.all();
        all.sort();
        assert_eq!(all, [0, 1, 2, 3, 4]);
        touched.clear();
        assert!(touched.is_empty() && touched.all().is_empty());
    }
}
