//! A spot: a name in an open directory, and the path by which users know it.

use crate::model::{Name, NodeId, RelPath};

/// Where an object lies, or is to lie.
#[derive(Debug)]
pub(crate) struct Spot<'a, Dir> {
    pub dir: &'a Dir,
    /// The directory's own node, if the archive knows one.
    pub node: Option<NodeId>,
    pub name: &'a Name,
    /// The path that users see, or saw, the object under. For what lies in psync's own directories: where it belongs.
    pub path: &'a RelPath,
}

impl<Dir> Clone for Spot<'_, Dir> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<Dir> Copy for Spot<'_, Dir> {}

impl<'a, Dir> Spot<'a, Dir> {
    /// A spot in a directory of which the archive knows nothing: psync's own, or one in the trash.
    pub fn new(dir: &'a Dir, name: &'a Name, path: &'a RelPath) -> Self {
        Spot { dir, node: None, name, path }
    }

    /// As the disk wants it.
    pub fn place(self) -> (&'a Dir, &'a Name) {
        (self.dir, self.name)
    }
}
