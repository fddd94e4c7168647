//! The rows of directories, kept as they were read or written: every path leads through some, and each look at a path would
//! ask for them again.

use std::collections::HashMap;

use crate::model::{Kind, Name, NodeId};

use super::super::archive::Row;

/// With so many all are forgotten: some 400 bytes each. One path leads through up to 2,047 of them, and must not push out
/// its own.
const MOST: usize = 8192;

#[derive(Default)]
pub struct Directories {
    nodes: HashMap<NodeId, Row>,
    names: HashMap<NodeId, HashMap<Name, NodeId>>,
}

impl Directories {
    /// Keeps the row if it is a directory's.
    pub fn keep(&mut self, row: &Row) {
        self.forget(row.node);
        if row.entry.kind() != Kind::Dir {
            return;
        }
        if self.nodes.len() >= MOST {
            self.clear();
        }
        self.names.entry(row.parent).or_default().insert(row.name.clone(), row.node);
        self.nodes.insert(row.node, row.clone());
    }

    pub fn node(&self, node: NodeId) -> Option<Row> {
        self.nodes.get(&node).cloned()
    }

    pub fn child(&self, parent: NodeId, name: &Name) -> Option<Row> {
        self.node(self.child_node(parent, name)?)
    }

    pub fn child_node(&self, parent: NodeId, name: &Name) -> Option<NodeId> {
        self.names.get(&parent)?.get(name).copied()
    }

    /// The node's row is another by now, or gone.
    pub fn forget(&mut self, node: NodeId) {
        let Some(row) = self.nodes.remove(&node) else { return };
        if let Some(names) = self.names.get_mut(&row.parent) {
            names.remove(&row.name);
            if names.is_empty() {
                self.names.remove(&row.parent);
            }
        }
    }

    pub fn clear(&mut self) {
        self.nodes.clear();
        self.names.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::archive::samples::{dir_row, file_row, name};
    use super::*;

    #[test]
    fn a_row_is_found_by_both_keys_until_it_changes() {
        let mut kept = Directories::default();
        kept.keep(&dir_row(2, 1, "a", 5));
        kept.keep(&file_row(3, 2, "f", 6));
        assert_eq!(kept.child(1, &name("a")), Some(dir_row(2, 1, "a", 5)));
        assert_eq!((kept.node(3), kept.child(2, &name("f"))), (None, None), "files are not kept");
        // It moves, and another takes its name.
        kept.keep(&dir_row(2, 1, "b", 7));
        kept.keep(&dir_row(4, 1, "a", 8));
        assert_eq!(kept.child(1, &name("b")).map(|row| row.node), Some(2));
        assert_eq!(kept.child(1, &name("a")).map(|row| row.node), Some(4));
        // It becomes a file.
        kept.keep(&file_row(4, 1, "a", 9));
        assert_eq!((kept.node(4), kept.child(1, &name("a"))), (None, None));
        kept.forget(2);
        assert!(kept.nodes.is_empty() && kept.names.is_empty());
    }

    #[test]
    fn they_are_bounded() {
        let mut kept = Directories::default();
        (2..30_000).for_each(|node| kept.keep(&dir_row(node, 1, &node.to_string(), node)));
        assert!(kept.nodes.len() <= MOST && kept.node(29_999).is_some());
    }
}
