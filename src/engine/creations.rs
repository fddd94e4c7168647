//! What a side made before it deleted something, and the deletions that wait for it.
//!
//! Programs write the new before they remove the old: a pack before the loose objects in it, a file under another name
//! before its first one goes. So a deletion waits for what its side made before it *in the same place*, as long as that is
//! on its way. It does not wait for what has a problem, waits itself, or takes long because it is large: else two deletions
//! would wait for each other's creations, and one file would keep every other from going.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{RelPath, Seq};

/// The creations and the waiting deletions of one side.
#[derive(Debug, Default)]
pub(super) struct Creations {
    /// The neighbourhood of each creation that is on its way.
    under_way: BTreeMap<Seq, RelPath>,
    /// The same by neighbourhood.
    hoods: BTreeMap<RelPath, BTreeSet<Seq>>,
    /// Deletions that wait for something in a neighbourhood, by when they were reported.
    waiting: BTreeMap<RelPath, BTreeSet<(Seq, RelPath)>>,
}

impl Creations {
    /// Something was made at `path`, and is on its way to the other side.
    pub fn begin(&mut self, seq: Seq, path: &RelPath) {
        let hood = neighbourhood(path);
        self.hoods.entry(hood.clone()).or_default().insert(seq);
        self.under_way.insert(seq, hood);
    }

    pub fn is_under_way(&self, seq: Seq) -> bool {
        self.under_way.contains_key(&seq)
    }

    /// It arrived, or no deletion is to wait for it any more. Returns the deletions whose turn has come.
    pub fn end(&mut self, seq: Seq) -> Vec<RelPath> {
        let Some(hood) = self.under_way.remove(&seq) else { return Vec::new() };
        let mut first = None;
        if let Some(seqs) = self.hoods.get_mut(&hood) {
            seqs.remove(&seq);
            first = seqs.first().copied();
        }
        if first.is_none() {
            self.hoods.remove(&hood);
        }
        let Some(waiting) = self.waiting.get_mut(&hood) else { return Vec::new() };
        let mut released = Vec::new();
        while let Some((deleted, path)) = waiting.pop_first() {
            if first.is_some_and(|first| first < deleted) {
                waiting.insert((deleted, path));
                break;
            }
            released.push(path);
        }
        if waiting.is_empty() {
            self.waiting.remove(&hood);
        }
        released
    }

    /// Whether the deletion of `path`, reported as `seq`, waits for something; it is released by [`Creations::end`].
    pub fn hold(&mut self, seq: Seq, path: &RelPath) -> bool {
        let before = |hood: &RelPath| self.hoods.get(hood).and_then(BTreeSet::first).is_some_and(|first| *first < seq);
        // The root is the neighbourhood of what lies in it directly, not of everything.
        let hoods = path.ancestors().enumerate().filter(|(i, above)| *i == 0 || !above.is_root());
        let Some(hood) = hoods.map(|(_, above)| above).find(before) else { return false };
        self.waiting.entry(hood).or_default().insert((seq, path.clone()));
        true
    }
}

/// The directory around the one that `path` lies in: within it what was made there may take a deleted object's place. Of
/// what lies at the top of the tree the directory itself.
fn neighbourhood(path: &RelPath) -> RelPath {
    let parent = path.parent().unwrap_or_else(RelPath::root);
    parent.parent().filter(|above| !above.is_root()).unwrap_or(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_deletion_waits_for_what_was_made_before_it_in_the_same_place() {
        for (made, deleted, waits) in [
            ("r/.git/objects/pack/p", "r/.git/objects/ab/cd", true),
            ("r/.git/packed-refs", "r/.git/refs/heads/x", true),
            ("d/new", "d/old", true),
            ("d/new/x", "d/old", true),
            ("new", "old", true),
            ("d/new", "e/old", false),
            ("d/new", "old", false),
            ("new", "d/old", false),
            ("a/b/c/new", "a/d/old", false),
        ] {
            let mut creations = Creations::default();
            creations.begin(3, &path(made));
            assert_eq!(creations.hold(7, &path(deleted)), waits, "{made}, then {deleted} deleted");
            assert!(!creations.hold(2, &path(deleted)), "{made} after {deleted}");
            assert_eq!(creations.end(3), if waits { vec![path(deleted)] } else { vec![] });
            assert!(!creations.hold(7, &path(deleted)));
        }
    }

    #[test]
    fn the_deletions_go_in_their_order() {
        let mut creations = Creations::default();
        [1, 4].into_iter().for_each(|seq| creations.begin(seq, &path("d/new")));
        assert!(creations.hold(5, &path("d/b")) && creations.hold(3, &path("d/a")));
        assert_eq!(creations.end(1), [path("d/a")]);
        assert_eq!(creations.end(1), []);
        assert_eq!(creations.end(4), [path("d/b")]);
    }
}
