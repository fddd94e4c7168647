//! From paths to rows and back, with the moves in mind that are reported but not yet recorded.

use crate::model::{Name, NodeId, ROOT_NODE, RelPath};

use super::Replica;
use super::archive::{Archive, ArchiveError, Row};
use super::disk::Disk;

/// Deeper than any path can be: a cycle among the rows is an error of the archive, not an endless loop.
const MAX_DEPTH: usize = 4096;

/// The last way from a directory down to another, step by step: who looks at one path after another in a deep tree asks
/// for nearly the same way again and again. It holds only as long as none of its rows gets another place, and what was
/// reported to have moved stays the same.
#[derive(Debug, Default)]
pub(crate) struct Way {
    /// Where it begins, and how much of the path leads there.
    start: (NodeId, usize),
    path: Option<RelPath>,
    /// How much of the path leads to which node.
    steps: Vec<(usize, NodeId)>,
}

impl Way {
    /// How far this way goes towards a path.
    pub(super) fn towards(&mut self, path: &RelPath, start: (NodeId, usize)) -> (NodeId, usize) {
        let shared = match &self.path {
            Some(old) if self.start == start => path.shared_length(old),
            _ => 0,
        };
        let common = self.steps.partition_point(|(end, _)| *end <= shared);
        let known = common.checked_sub(1).map_or(start, |last| (self.steps[last].1, self.steps[last].0));
        if known.1 < path.as_bytes().len() {
            self.steps.truncate(common);
            (self.start, self.path) = (start, Some(path.clone()));
        }
        known
    }

    pub(super) fn go_on(&mut self, end: usize, node: NodeId) {
        self.steps.push((end, node));
    }

    /// What leads to this node does so no more, nor to what lies below it.
    pub(super) fn leave(&mut self, node: NodeId) {
        if self.start.0 == node {
            self.forget();
        } else if let Some(at) = self.steps.iter().position(|(_, step)| *step == node) {
            self.steps.truncate(at);
        }
    }

    pub(crate) fn forget(&mut self) {
        *self = Way::default();
    }
}

impl<D: Disk, A: Archive> Replica<D, A> {
    /// The node of the directory at `dir` as users see it now; `None` if the archive does not know it.
    pub(crate) fn node_of(&self, dir: &RelPath) -> Result<Option<NodeId>, ArchiveError> {
        let bytes = dir.as_bytes();
        // From what moved there, or from the root, name by name: nothing is made of the paths in between.
        let start = match self.ledger.moved_above(dir) {
            Some((node, top)) => (node, top.as_bytes().len()),
            None => (ROOT_NODE, 0),
        };
        let mut way = self.ledger.way();
        let (mut node, mut at) = way.towards(dir, start);
        while at < bytes.len() {
            let from = if at == 0 { 0 } else { at + 1 };
            let end = bytes[from..].iter().position(|b| *b == b'/').map_or(bytes.len(), |length| from + length);
            let Ok(name) = Name::new(&bytes[from..end]) else { return Ok(None) };
            let Some(child) = self.archive.child_node(node, &name)? else { return Ok(None) };
            let now = if self.ledger.has_moves() { self.ledger.moved_to(child) } else { None };
            if now.is_some_and(|now| now.as_bytes() != &bytes[..end]) {
                return Ok(None);
            }
            (node, at) = (child, end);
            way.go_on(end, node);
        }
        Ok(Some(node))
    }

    /// A row is gone with all below it, or gets another place.
    pub(crate) fn leave_way(&mut self, node: NodeId) {
        self.ledger.leave_way(node);
    }

    /// The row under `name` in the directory of node `parent`, unless its object was reported to have moved away.
    pub(crate) fn row_in(&self, parent: NodeId, name: &Name, path: &RelPath) -> Result<Option<Row>, ArchiveError> {
        let row = self.archive.child(parent, name)?;
        Ok(row.filter(|row| !self.ledger.is_elsewhere(row.node, path)))
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
        for _ in 0..MAX_DEPTH {
            if at == ROOT_NODE {
                return Ok(RelPath::of_names(names.iter().rev()).ok());
            }
            if let Some(path) = self.ledger.moved_to(at) {
                let above: Vec<Name> = path.names().collect();
                names.extend(above.into_iter().rev());
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
