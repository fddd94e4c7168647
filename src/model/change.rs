//! What one side reports: a path whose object differs from the ancestor.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{Entry, Generation, Kind, NodeId, RelPath, Seq, merge};

/// What the reporting side's archive holds: one ancestor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    pub node: NodeId,
    pub generation: Generation,
    pub entry: Entry,
}

/// The object at the change's path is the one that the archive knows under another name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// Where the archive has it.
    pub from: RelPath,
    pub known: Known,
    /// Whether contents or attributes changed as well; they are reported again once the move is recorded.
    pub edited: bool,
}

/// The contents of the object at the change's path are those of an ancestor under another name, which is that name's
/// no more: another object lies there now (a save that kept a backup), or it is a hard link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Like {
    pub from: RelPath,
    pub node: NodeId,
    pub generation: Generation,
}

/// A difference between a path as it is and its ancestor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The endpoint's number of this report; later ones are higher.
    pub seq: Seq,
    pub path: RelPath,
    /// The node of the directory above, if the archive knows it.
    pub parent: Option<NodeId>,
    /// The ancestor under this very name, if there is one that did not move elsewhere.
    pub known: Option<Known>,
    pub moved: Option<Moved>,
    /// What is there now; `None`: nothing.
    pub after: Option<Entry>,
    /// Whether the contents differ, or may differ, from the ancestor's.
    pub contents: bool,
    /// The very file that was recorded, with its size and time; but since then its ctime moved.
    pub touched: bool,
    /// The file was read for this very report: the hash in `after` is that of its contents, and not the archive's.
    pub read: bool,
    /// The whole contents of a small file, when it is likely to be wanted.
    pub inline: Option<ByteBuf>,
    /// Where the other side has these contents already; only without `inline`.
    pub like: Option<Like>,
    /// How many ancestors lie below a directory that is gone, or in whose place something else lies.
    pub below: u64,
    /// How many of them, and of the object itself, users of the reporting side made within the last ten minutes.
    pub young: u64,
}

impl Change {
    /// Whether a directory lets in more people than before, and keeps nobody out whom it let in.
    pub fn only_opens(&self) -> bool {
        let (Some(known), Some(after), None) = (&self.known, &self.after, &self.moved) else { return false };
        let both = (known.entry.kind(), after.kind()) == (Kind::Dir, Kind::Dir);
        both && merge::only_opens(&known.entry.attrs, &after.attrs)
    }
}

/// One row as the archives exchange it: an ancestor, or with no entry a tombstone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AncestorRow {
    pub node: NodeId,
    pub parent: NodeId,
    /// Where the answering side has it; its last name is the row's name.
    pub path: RelPath,
    pub generation: Generation,
    pub entry: Option<Entry>,
    /// It is of an action that had something to do on both sides. Who lacks it has perhaps not done its part.
    pub joint: bool,
}
