//! Where each side has the nodes that it moved, as far as it said so and both have not recorded it yet.
//!
//! The node is the unit of a decision about moves, not the name: what one side says of a node may come long after the
//! other side's word was acted on. So a place is remembered until both archives hold it, or its side takes it back:
//! while the action is under way, and while the side is asked for it once more.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{NodeId, RelPath, Side, Sides};

/// Directories that were moved into each other, as deep as anybody goes: words that contradict themselves must have an end.
const NESTED: usize = 64;

/// What the engine is doing about a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// The report waits to be acted on.
    Pending,
    /// An action on it is under way.
    Flying,
    /// Its side was asked to look there again.
    Asked,
}

/// Where a node lies on one side, and where both last agreed that it lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub path: RelPath,
    pub from: RelPath,
    pub standing: Standing,
}

#[derive(Debug, Default)]
struct Known {
    nodes: BTreeMap<NodeId, Place>,
    /// The nodes by where they came from.
    sources: BTreeMap<(RelPath, NodeId), ()>,
    /// The nodes by where they are.
    targets: BTreeSet<(RelPath, NodeId)>,
}

impl Known {
    fn remove(&mut self, node: NodeId) -> Option<Place> {
        let place = self.nodes.remove(&node)?;
        self.sources.remove(&(place.from.clone(), node));
        self.targets.remove(&(place.path.clone(), node));
        Some(place)
    }

    fn insert(&mut self, node: NodeId, place: Place) {
        self.remove(node);
        self.sources.insert((place.from.clone(), node), ());
        self.targets.insert((place.path.clone(), node));
        self.nodes.insert(node, place);
    }

    /// The nodes that lie at `path`.
    fn at(&self, path: &RelPath) -> impl Iterator<Item = (NodeId, &Place)> + use<'_> {
        let here = self.targets.range((path.clone(), 0)..=(path.clone(), NodeId::MAX));
        here.filter_map(|(_, node)| self.nodes.get(node).map(|place| (*node, place)))
    }
}

/// The places of both sides.
#[derive(Debug, Default)]
pub(super) struct Places {
    sides: Sides<Known>,
}

impl Places {
    /// The side has the node here, if it is known to have moved it.
    pub fn of(&self, side: Side, node: NodeId) -> Option<&Place> {
        self.sides[side].nodes.get(&node)
    }

    /// Where the node was reported, if that waits to be acted on.
    pub fn pending(&self, side: Side, node: NodeId) -> Option<&RelPath> {
        self.of(side, node).filter(|place| place.standing == Standing::Pending).map(|place| &place.path)
    }

    /// The side reported the node here.
    pub fn report(&mut self, side: Side, node: NodeId, path: &RelPath, from: &RelPath) {
        let (path, from) = (path.clone(), from.clone());
        self.sides[side].insert(node, Place { path, from, standing: Standing::Pending });
    }

    /// What becomes of the place, if the node was not reported elsewhere meanwhile.
    pub fn set(&mut self, side: Side, node: NodeId, path: &RelPath, standing: Standing) {
        let known = &mut self.sides[side];
        if let Some(place) = known.nodes.get(&node).filter(|place| place.path == *path).cloned() {
            known.insert(node, Place { standing, ..place });
        }
    }

    /// Forgets the place, if the node was not reported elsewhere meanwhile. Whether it was known.
    pub fn forget(&mut self, side: Side, node: NodeId, path: &RelPath) -> bool {
        let known = &mut self.sides[side];
        let here = known.nodes.get(&node).is_some_and(|place| place.path == *path);
        here && known.remove(node).is_some()
    }

    /// The action on the place is over. What was reported there meanwhile stays.
    pub fn land(&mut self, side: Side, node: NodeId, path: &RelPath) {
        if self.of(side, node).is_some_and(|place| place.standing == Standing::Flying) {
            self.forget(side, node, path);
        }
    }

    /// The side answered what it was asked about this path: whatever moved here is what it says now. Whether a place
    /// was forgotten.
    pub fn answer(&mut self, side: Side, path: &RelPath) -> bool {
        let known = &mut self.sides[side];
        let asked = known.at(path).find(|(_, place)| place.standing == Standing::Asked).map(|(node, _)| node);
        asked.is_some_and(|node| known.remove(node).is_some())
    }

    /// What both last agreed to call what this side calls `path`, if it moved a directory above that.
    pub fn agreed(&self, side: Side, path: &RelPath) -> RelPath {
        let known = &self.sides[side];
        let (mut path, mut from) = (path.clone(), path.clone());
        for _ in 0..NESTED {
            // The old name of what moved is an agreed one, but for the directories above it: those may have moved as well.
            let Some(place) = from.ancestors().find_map(|at| known.at(&at).next().map(|(_, place)| place)) else {
                break;
            };
            let Some(back) = path.rebase(&place.path, &place.from) else { break };
            (path, from) = (back, place.from.clone());
        }
        path
    }

    /// The places of what this side moved out of the tree at `top`.
    pub fn out_of<'a>(&'a self, side: Side, top: &'a RelPath) -> impl Iterator<Item = &'a Place> {
        let known = &self.sides[side];
        let sources = known.sources.range((top.clone(), 0)..).map(|((from, node), ())| (from, node));
        let below = sources.take_while(move |(from, _)| from.is_within(top)).filter(move |(from, _)| *from != top);
        below.filter_map(|(_, node)| known.nodes.get(node))
    }

    /// What this side calls by now what both last agreed to call `path`, if it moved a directory above that.
    pub fn named(&self, side: Side, path: &RelPath) -> RelPath {
        let known = &self.sides[side];
        let (mut path, mut named) = (path.clone(), 0);
        for _ in 0..NESTED {
            // From above: what lies in a directory that moved was moved from below its new name.
            let away = |at: &RelPath| {
                let node = known.sources.range((at.clone(), 0)..=(at.clone(), NodeId::MAX)).next()?.0.1;
                Some((at.clone(), known.nodes.get(&node)?.path.clone()))
            };
            let mut below = path.above_from_top().filter(|at| at.as_bytes().len() > named);
            let Some((from, to)) = below.find_map(|at| away(&at)) else { break };
            drop(below);
            let Some(now) = path.rebase(&from, &to) else { break };
            (path, named) = (now, to.as_bytes().len());
        }
        path
    }

    /// Directories of this side were renamed at once: what its users moved out of them came from below their new names, as they
    /// will say from now on. Where those lie.
    pub fn rename(&mut self, side: Side, renames: &[(RelPath, RelPath)]) -> Vec<(RelPath, RelPath)> {
        let known = &mut self.sides[side];
        let mut moved = Vec::new();
        for (from, to) in renames {
            let below = known.sources.range((from.clone(), 0)..).take_while(|((at, _), ())| at.is_within(from));
            let nodes = below.filter(|((at, _), ())| at != from).map(|((at, node), ())| (*node, at.rebase(from, to)));
            moved.extend(nodes.filter_map(|(node, at)| Some((node, at?))));
        }
        let mut renamed = Vec::new();
        for (node, from) in moved {
            let Some(place) = known.remove(node) else { continue };
            renamed.push((place.path.clone(), from.clone()));
            known.insert(node, Place { from, ..place });
        }
        renamed
    }

    /// The place of what this side moved to `path`.
    pub fn at(&self, side: Side, path: &RelPath) -> Option<&Place> {
        self.sides[side].at(path).next().map(|(_, place)| place)
    }

    /// The places of what this side moved away from `path`.
    pub fn away_from(&self, side: Side, path: &RelPath) -> impl Iterator<Item = &Place> + use<'_> {
        let known = &self.sides[side];
        let here = known.sources.range((path.clone(), 0)..=(path.clone(), NodeId::MAX));
        here.filter_map(|((_, node), ())| known.nodes.get(node))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_below_what_moved_is_the_agreed_one() {
        let path = |s: &str| RelPath::new(s.as_bytes()).unwrap();
        let side = Side::Left;
        let mut places = Places::default();
        // d/s came out of d, and d went into it.
        places.report(side, 20, &path("s"), &path("s/d/s"));
        places.report(side, 17, &path("s/d"), &path("d"));
        assert_eq!(places.agreed(side, &path("s/d/s")), path("d/s"));
        assert_eq!(places.agreed(side, &path("s/d/s/u")), path("d/s/u"));
        assert_eq!(places.agreed(side, &path("s/d")), path("d/s/d"));
        assert_eq!(places.agreed(side.other(), &path("s/d/s")), path("s/d/s"));
        // Two that changed places.
        places.report(side, 30, &path("x"), &path("y"));
        places.report(side, 31, &path("y"), &path("x"));
        assert_eq!(places.agreed(side, &path("x/u")), path("y/u"));
        assert_eq!(places.agreed(side, &path("y/u")), path("x/u"));
        // And back.
        assert_eq!(places.named(side, &path("d/s/u")), path("s/u"));
        assert_eq!(places.named(side, &path("d/u")), path("s/d/u"));
        assert_eq!((places.named(side, &path("y/u")), places.named(side, &path("u"))), (path("x/u"), path("u")));
        // What contradicts itself ends.
        places.report(side, 17, &path("s"), &path("s/d"));
        places.agreed(side, &path("s/d/s"));
    }

    #[test]
    fn what_came_out_of_a_directory_did_so_under_its_new_name() {
        let path = |s: &str| RelPath::new(s.as_bytes()).unwrap();
        let (side, mut places) = (Side::Right, Places::default());
        places.report(side, 20, &path("a"), &path("d/s/a"));
        places.report(side, 21, &path("b"), &path("d"));
        places.report(side, 22, &path("d"), &path("c"));
        assert_eq!(places.rename(side, &[(path("d"), path("e"))]), [(path("a"), path("e/s/a"))]);
        assert_eq!(places.of(side, 20).map(|place| &place.from), Some(&path("e/s/a")));
        assert_eq!(places.away_from(side, &path("e/s/a")).count(), 1);
        assert_eq!(places.away_from(side, &path("d/s/a")).count(), 0);
        assert_eq!(places.of(side, 21).map(|place| &place.from), Some(&path("d")), "the name of another one by now");
        assert!(places.rename(side.other(), &[(path("e"), path("d"))]).is_empty());
        // Two change places.
        places.report(side, 23, &path("c"), &path("f/c"));
        let swap = [(path("e"), path("f")), (path("f"), path("e"))];
        assert_eq!(places.rename(side, &swap), [(path("a"), path("f/s/a")), (path("c"), path("e/c"))]);
    }

    #[test]
    fn a_place_lasts_until_it_is_recorded_or_taken_back() {
        let path = |s: &str| RelPath::new(s.as_bytes()).unwrap();
        let (side, node) = (Side::Right, 20);
        let mut places = Places::default();
        places.report(side, node, &path("b"), &path("d/a"));
        assert_eq!(places.pending(side, node), Some(&path("b")));
        assert_eq!((places.out_of(side, &path("d")).count(), places.out_of(side, &path("d/a")).count()), (1, 0));
        places.set(side, node, &path("b"), Standing::Flying);
        assert!(places.pending(side, node).is_none() && places.of(side, node).is_some());
        // It moved on meanwhile: what was under way has no say any more.
        places.report(side, node, &path("c"), &path("d/a"));
        places.set(side, node, &path("b"), Standing::Asked);
        assert!(!places.forget(side, node, &path("b")) && !places.answer(side, &path("b")));
        places.set(side, node, &path("c"), Standing::Asked);
        assert!(places.of(Side::Left, node).is_none() && places.answer(side, &path("c")));
        assert!(places.of(side, node).is_none() && places.out_of(side, &path("d")).next().is_none());
    }
}
