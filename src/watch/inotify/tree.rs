//! Where each watched directory lies: a tree of descriptors and names, so that a rename is one re-parenting.
//!
//! A rename comes as MOVED_FROM, MOVED_TO with the same cookie, and MOVE_SELF of what was moved, in this order,
//! though not side by side. Only MOVE_SELF names the directory beyond doubt: a directory may have been covered
//! under its new name, and another one under the old name, before these events were read. So the first two are
//! kept, and the third acts: by then a missing MOVED_TO means that the directory has left the tree.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::model::{PATH_MAX, RelPath};

/// How many halves of renames are kept, and how long. Those of unwatched directories find no MOVE_SELF.
const RENAMES: usize = 1024;
const RENAME_AGE: Duration = Duration::from_secs(10);
/// No descriptor is negative.
const NONE: i32 = -1;

#[derive(Debug)]
struct Node<W> {
    watch: W,
    parent: i32,
    name: Box<[u8]>,
    /// Sorted by name.
    children: Vec<i32>,
}

#[derive(Debug, PartialEq, Eq)]
struct Place {
    parent: i32,
    name: Box<[u8]>,
}

#[derive(Debug)]
struct Rename {
    cookie: u32,
    from: Place,
    to: Option<Place>,
    at: Instant,
}

/// Descriptors by number, each with its watch `W`.
#[derive(Debug)]
pub struct Tree<W> {
    nodes: HashMap<i32, Node<W>>,
    root: i32,
    renames: VecDeque<Rename>,
}

impl<W> Tree<W> {
    pub fn new() -> Tree<W> {
        Tree { nodes: HashMap::new(), root: NONE, renames: VecDeque::new() }
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn contains(&self, wd: i32) -> bool {
        self.nodes.contains_key(&wd)
    }

    pub fn is_root(&self, wd: i32) -> bool {
        wd == self.root && wd != NONE
    }

    /// Makes `wd` the root. The watches of another root and all below it are handed back.
    pub fn place_root(&mut self, wd: i32, watch: W) -> Vec<W> {
        if wd == self.root {
            return Vec::new();
        }
        let mut old = self.remove(self.root);
        old.extend(self.remove(wd));
        self.nodes.insert(wd, Node { watch, parent: NONE, name: Box::default(), children: Vec::new() });
        self.root = wd;
        old
    }

    /// Forgets everything and hands back the watches.
    pub fn remove_root(&mut self) -> Vec<W> {
        let mut watches = self.remove(self.root);
        watches.extend(self.nodes.drain().map(|(_, node)| node.watch));
        watches
    }

    /// Puts a directory, new or known, under this name; what has the name now stays without one until its own
    /// events tell more. False: `parent` is unknown, or lies within the directory itself.
    pub fn place(&mut self, wd: i32, watch: W, parent: i32, name: &[u8]) -> bool {
        let known = self.contains(wd);
        if !self.contains(parent) || self.is_root(wd) || (known && self.is_within(parent, wd)) {
            return false;
        }
        self.nodes.entry(wd).or_insert(Node { watch, parent: NONE, name: Box::default(), children: Vec::new() });
        self.attach(wd, parent, name);
        true
    }

    /// The directory at `path`.
    pub fn lookup(&self, path: &RelPath) -> Option<i32> {
        let root = self.contains(self.root).then_some(self.root)?;
        let names = path.as_bytes().split(|byte| *byte == b'/').filter(|name| !name.is_empty());
        names.into_iter().try_fold(root, |at, name| self.child(at, name))
    }

    /// Where a directory lies. `None`: it is unknown, or not below the root, or its path is too long.
    pub fn path(&self, wd: i32) -> Option<RelPath> {
        let mut names: Vec<&[u8]> = Vec::new();
        let mut length = 0;
        let mut at = wd;
        while at != self.root {
            let node = self.nodes.get(&at)?;
            length += node.name.len() + 1;
            if length > PATH_MAX + 1 {
                return None;
            }
            names.push(&node.name);
            at = node.parent;
        }
        names.reverse();
        self.nodes.get(&at).and_then(|_| RelPath::new(&names.join(&b'/')).ok())
    }

    /// Forgets a directory and all below it, and hands back the watches.
    pub fn remove(&mut self, wd: i32) -> Vec<W> {
        self.detach(wd);
        let mut watches = Vec::new();
        let mut todo = vec![wd];
        while let Some(wd) = todo.pop() {
            if let Some(node) = self.nodes.remove(&wd) {
                watches.push(node.watch);
                todo.extend(node.children);
            }
        }
        if !self.contains(self.root) {
            self.root = NONE;
        }
        watches
    }

    /// A directory was renamed away from this name.
    pub fn moved_from(&mut self, cookie: u32, parent: i32, name: &[u8], now: Instant) {
        while self.renames.front().is_some_and(|r| now.duration_since(r.at) > RENAME_AGE)
            || self.renames.len() >= RENAMES
        {
            self.renames.pop_front();
        }
        let from = Place { parent, name: name.into() };
        self.renames.push_back(Rename { cookie, from, to: None, at: now });
    }

    /// A directory was renamed to this name.
    pub fn moved_to(&mut self, cookie: u32, parent: i32, name: &[u8]) {
        if let Some(rename) = self.renames.iter_mut().rev().find(|r| r.cookie == cookie) {
            rename.to = Some(Place { parent, name: name.into() });
        }
    }

    /// This directory was renamed. The watches are handed back of what has left the tree.
    pub fn moved_self(&mut self, wd: i32) -> Vec<W> {
        let Some(node) = self.nodes.get(&wd) else { return Vec::new() };
        let is_at = |place: &Place| place.parent == node.parent && place.name == node.name;
        // Unless one end of the rename is where we have the directory, it was covered at a newer place.
        let found = self.renames.iter().rposition(|r| is_at(&r.from) || r.to.as_ref().is_some_and(is_at));
        let Some(rename) = found.and_then(|at| self.renames.remove(at)) else { return Vec::new() };
        match rename.to {
            None => self.remove(wd),
            Some(to) if !self.contains(to.parent) => self.remove(wd),
            Some(to) => {
                if !self.is_within(to.parent, wd) {
                    self.attach(wd, to.parent, &to.name);
                }
                Vec::new()
            }
        }
    }

    /// Whether the MOVE_SELF of a known directory's rename, seen since `start`, is still to come.
    pub fn is_unsettled(&self, start: Instant) -> bool {
        let recent = self.renames.iter().rev().take_while(|r| r.at >= start);
        recent.into_iter().any(|r| self.child(r.from.parent, &r.from.name).is_some())
    }

    /// Events were lost: no half of a rename will find the others.
    pub fn forget_renames(&mut self) {
        self.renames.clear();
    }

    fn child(&self, parent: i32, name: &[u8]) -> Option<i32> {
        let children = &self.nodes.get(&parent)?.children;
        self.find(children, name).ok().map(|at| children[at])
    }

    fn find(&self, children: &[i32], name: &[u8]) -> Result<usize, usize> {
        children.binary_search_by(|wd| self.nodes.get(wd).map_or(&b""[..], |n| &n.name).cmp(name))
    }

    fn is_within(&self, wd: i32, top: i32) -> bool {
        let up = |wd: &i32| self.nodes.get(wd).map(|node| node.parent);
        std::iter::successors(Some(wd), up).any(|at| at == top)
    }

    /// Takes a directory out of its parent's children, if it is there and was not displaced.
    fn detach(&mut self, wd: i32) {
        let Some(node) = self.nodes.get(&wd) else { return };
        let Some(parent) = self.nodes.get(&node.parent) else { return };
        let Ok(at) = self.find(&parent.children, &node.name) else { return };
        let parent = node.parent;
        if let Some(parent) = self.nodes.get_mut(&parent)
            && parent.children[at] == wd
        {
            parent.children.remove(at);
        }
    }

    fn attach(&mut self, wd: i32, parent: i32, name: &[u8]) {
        if self.nodes.get(&wd).is_some_and(|n| n.parent == parent && *n.name == *name)
            && self.child(parent, name) == Some(wd)
        {
            return;
        }
        self.detach(wd);
        let place = self.nodes.get(&parent).map(|p| self.find(&p.children, name));
        if let Some(node) = self.nodes.get_mut(&wd) {
            node.parent = parent;
            node.name = name.into();
        }
        if let (Some(place), Some(parent)) = (place, self.nodes.get_mut(&parent)) {
            match place {
                Ok(at) => parent.children[at] = wd,
                Err(at) => parent.children.insert(at, wd),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: i32 = 1;

    fn tree(dirs: &[(i32, i32, &str)]) -> Tree<i32> {
        let mut tree = Tree::new();
        tree.place_root(ROOT, ROOT);
        for (wd, parent, name) in dirs {
            assert!(tree.place(*wd, *wd, *parent, name.as_bytes()), "{name}");
        }
        tree
    }

    fn path(tree: &Tree<i32>, wd: i32) -> String {
        tree.path(wd).map_or("-".into(), |p| p.to_string())
    }

    fn at(tree: &Tree<i32>, path: &str) -> Option<i32> {
        tree.lookup(&RelPath::new(path.as_bytes()).expect("a valid path"))
    }

    fn rename(tree: &mut Tree<i32>, wd: i32, from: Option<(i32, &str)>, to: Option<(i32, &str)>) -> Vec<i32> {
        static COOKIE: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(1);
        let cookie = COOKIE.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if let Some((parent, name)) = from {
            tree.moved_from(cookie, parent, name.as_bytes(), Instant::now());
        }
        if let Some((parent, name)) = to {
            tree.moved_to(cookie, parent, name.as_bytes());
        }
        let mut gone = tree.moved_self(wd);
        gone.sort();
        gone
    }

    #[test]
    fn a_rename_takes_the_subtree_along() {
        let mut t = tree(&[(2, 1, "a"), (3, 2, "b"), (4, 3, "c"), (5, 1, "d")]);
        assert_eq!(path(&t, 4), "a/b/c");
        assert!(rename(&mut t, 3, Some((2, "b")), Some((5, "x"))).is_empty());
        assert_eq!((path(&t, 4), at(&t, "d/x/c"), at(&t, "a/b")), ("d/x/c".into(), Some(4), None));
        assert!(!t.is_unsettled(Instant::now() - Duration::from_secs(60)));
        assert_eq!(rename(&mut t, 3, Some((5, "x")), None), [3, 4]);
        assert_eq!((t.len(), path(&t, 4)), (3, "-".into()));
    }

    #[test]
    fn renames_that_a_cover_overtook() {
        // mv a x; mkdir a: both are covered before the events are read.
        let mut t = tree(&[(2, 1, "a"), (3, 2, "b")]);
        assert!(t.place(4, 4, ROOT, b"a"));
        assert!(t.place(2, 2, ROOT, b"x"));
        assert!(rename(&mut t, 2, Some((1, "a")), Some((1, "x"))).is_empty());
        assert_eq!([2, 3, 4].map(|wd| path(&t, wd)), ["x", "x/b", "a"]);

        // Only the new a is covered.
        let mut t = tree(&[(2, 1, "a"), (3, 2, "b"), (4, 1, "a")]);
        assert_eq!(at(&t, "a"), Some(4));
        rename(&mut t, 2, Some((1, "a")), Some((1, "x")));
        assert_eq!([2, 3, 4].map(|wd| path(&t, wd)), ["x", "x/b", "a"]);

        // mv a x; mv x y: covered at y, then both are read.
        let mut t = tree(&[(2, 1, "a")]);
        assert!(t.place(2, 2, ROOT, b"y"));
        rename(&mut t, 2, Some((1, "a")), Some((1, "x")));
        assert_eq!(path(&t, 2), "y");
        rename(&mut t, 2, Some((1, "x")), Some((1, "y")));
        assert_eq!(path(&t, 2), "y");
    }

    #[test]
    fn two_names_exchanged() {
        let mut t = tree(&[(2, 1, "a"), (3, 1, "b"), (4, 2, "in-a"), (5, 3, "in-b")]);
        rename(&mut t, 2, Some((1, "a")), Some((1, "b")));
        rename(&mut t, 3, Some((1, "b")), Some((1, "a")));
        assert_eq!([4, 5].map(|wd| path(&t, wd)), ["b/in-a", "a/in-b"]);
        assert_eq!((at(&t, "a"), at(&t, "b")), (Some(3), Some(2)));
    }

    #[test]
    fn replaced_directories_go_without_harm() {
        let mut t = tree(&[(2, 1, "a"), (3, 1, "b")]);
        rename(&mut t, 2, Some((1, "a")), Some((1, "b")));
        assert_eq!(at(&t, "b"), Some(2));
        assert_eq!(t.remove(3), [3]);
        assert_eq!(at(&t, "b"), Some(2));
        assert_eq!(t.remove(3), [0; 0]);
    }

    #[test]
    fn no_loops_and_no_strangers() {
        let mut t = tree(&[(2, 1, "a"), (3, 2, "b")]);
        assert!(!t.place(2, 2, 3, b"a"), "below itself");
        assert!(!t.place(9, 9, 77, b"a"), "unknown parent");
        assert!(!t.place(ROOT, ROOT, 3, b"r"), "the root");
        assert!(rename(&mut t, 99, Some((1, "q")), None).is_empty());
        assert_eq!(rename(&mut t, 3, Some((2, "b")), Some((77, "b"))), [3], "to where nobody watches");
        assert_eq!(t.place_root(7, 7), [1, 2]);
        assert_eq!((t.len(), path(&t, 7)), (1, ".".into()));
    }

    #[test]
    fn halves_of_renames_are_bounded() {
        let mut t = tree(&[]);
        for cookie in 0..5000 {
            t.moved_from(cookie, ROOT, b"x", Instant::now());
        }
        assert_eq!(t.renames.len(), RENAMES);
        t.moved_from(1, ROOT, b"y", Instant::now() + RENAME_AGE * 2);
        assert_eq!(t.renames.len(), 1);
    }

    #[test]
    fn a_node_is_small() {
        assert!(size_of::<Node<inotify::WatchDescriptor>>() <= 64);
    }
}
