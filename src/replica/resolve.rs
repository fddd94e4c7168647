//! From paths to rows and back, with the moves in mind that are reported but not yet recorded.

use crate::model::{Name, NodeId, ROOT_NODE, RelPath};

use super::Replica;
use super::archive::{Archive, ArchiveError, Row};
use super::disk::Disk;

/// Deeper than any path can be: a cycle among the rows is an error of the archive, not an endless loop.
const MAX_DEPTH: usize = 4096;

impl<D: Disk, A: Archive> Replica<D, A> {
    /// The node of the directory at `dir` as users see it now; `None` if the archive does not know it.
    pub(crate) fn node_of(&self, dir: &RelPath) -> Result<Option<NodeId>, ArchiveError> {
        let Some((parent, name)) = dir.split() else { return Ok(Some(ROOT_NODE)) };
        if let Some(node) = self.reported.get(dir).and_then(|r| r.moved) {
            return Ok(Some(node));
        }
        let Some(parent) = self.node_of(&parent)? else { return Ok(None) };
        Ok(self.row_in(parent, &name, dir)?.map(|row| row.node))
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
