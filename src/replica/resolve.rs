//! From paths to rows and back, with the moves in mind that are reported but not yet recorded.

use std::ops::Bound;

use crate::model::{Name, NodeId, ROOT_NODE, RelPath};

use super::Replica;
use super::archive::{Archive, ArchiveError, Row};
use super::disk::Disk;

/// Deeper than any path can be: a cycle among the rows is an error of the archive, not an endless loop.
const MAX_DEPTH: usize = 4096;

impl<D: Disk, A: Archive> Replica<D, A> {
    /// The node of the directory at `dir` as users see it now; `None` if the archive does not know it.
    pub(crate) fn node_of(&self, dir: &RelPath) -> Result<Option<NodeId>, ArchiveError> {
        let bytes = dir.as_bytes();
        // From what moved there, or from the root, name by name: nothing is made of the paths in between.
        let (mut node, mut at) = match self.moved_above(dir) {
            Some((node, top)) => (node, top.as_bytes().len()),
            None => (ROOT_NODE, 0),
        };
        while at < bytes.len() {
            let from = if at == 0 { 0 } else { at + 1 };
            let end = bytes[from..].iter().position(|b| *b == b'/').map_or(bytes.len(), |length| from + length);
            let Ok(name) = Name::new(&bytes[from..end]) else { return Ok(None) };
            let Some(row) = self.archive.child(node, &name)? else { return Ok(None) };
            if !self.moved.is_empty() && self.moved.get(&row.node).is_some_and(|now| now.as_bytes() != &bytes[..end]) {
                return Ok(None);
            }
            (node, at) = (row.node, end);
        }
        Ok(Some(node))
    }

    /// The deepest of this directory and those above it that came here from another path, as was reported.
    fn moved_above(&self, dir: &RelPath) -> Option<(NodeId, &RelPath)> {
        /// So many are looked through one by one.
        const FEW: usize = 64;
        if self.moved.len() <= FEW {
            let within = self.moved.iter().filter(|(_, path)| dir.is_within(path));
            return within.map(|(node, path)| (*node, path)).max_by_key(|(_, path)| path.as_bytes().len());
        }
        let moved = |path: &RelPath| {
            let (path, reported) = self.reported.get_key_value(path)?;
            Some((reported.moved?, path))
        };
        let mut at = Some(dir);
        while let Some(path) = at {
            if let Some(found) = moved(path) {
                return Some(found);
            }
            at = path.nearest_above(|to| self.reported.range((Bound::Unbounded, to)).next_back().map(|(path, _)| path));
        }
        None
    }

    /// The row under `name` in the directory of node `parent`, unless its object was reported to have moved away.
    pub(crate) fn row_in(&self, parent: NodeId, name: &Name, path: &RelPath) -> Result<Option<Row>, ArchiveError> {
        let row = self.archive.child(parent, name)?;
        Ok(row.filter(|row| self.moved.get(&row.node).is_none_or(|now| now == path)))
    }

    /// The row at a path as users see it now.
    pub(crate) fn row_at(&self, path: &RelPath) -> Result<Option<Row>, ArchiveError> {
        let Some((parent, name)) = path.split() else { return Ok(None) };
        match self.node_of(&parent)? {
            Some(parent) => self.row_in(parent, &name, path),
            None => Ok(None),
        }
    }

    /// Where a node's object should lie now: its recorded place, below what moved.
    pub(crate) fn path_of(&self, node: NodeId) -> Result<Option<RelPath>, ArchiveError> {
        let mut names = Vec::new();
        let mut at = node;
        let mut top = RelPath::root();
        for _ in 0..MAX_DEPTH {
            if at == ROOT_NODE {
                return Ok(names.iter().rev().try_fold(top, |path, name| path.join(name)).ok());
            }
            if let Some(path) = self.moved.get(&at) {
                top = path.clone();
                at = ROOT_NODE;
                continue;
            }
            let Some(row) = self.archive.node(at)? else { return Ok(None) };
            names.push(row.name);
            at = row.parent;
        }
        Ok(None)
    }
}
