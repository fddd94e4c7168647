//! What the brain asks of a side: one change of one object, a compare-and-swap each.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{Entry, Generation, Hash, Name, NodeId, Problem, RelPath, Seq};

/// What must be found under a name for an action to go on. Anything else is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expect {
    /// No row and no object.
    Absent,
    /// The row of this generation, and a live object that equals it.
    Row(Generation),
    /// Exactly what this side reported under this number, be it an object or nothing.
    Report(Seq),
}

/// Where a replaced object goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Displaced {
    Trash,
    /// Beside the winner under this name; if the name is taken by another object, under a name with four more digits.
    Copy(Name),
}

/// Where a side keeps an object that made way for another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kept {
    /// Users see it under this name.
    Beside(RelPath),
    Trash,
    /// It is kept, and the name that it has by now cannot be told.
    Untold,
}

/// Where a file's contents come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// Directories, links, and files without contents.
    Nothing,
    Inline(ByteBuf),
    /// Chunks under the action's generation as their number.
    Stream,
    /// The same, after the receiver has told the sums of what it has (see [`Sums`]).
    Delta,
    /// By rsync, whose bytes pass under the action's generation (see [`Tunnel`]).
    Rsync,
    /// This side has them already: in the file of the node's row of this generation.
    Held {
        from: RelPath,
        node: NodeId,
        known: Generation,
    },
}

impl Source {
    /// How the contents are sent, if they are.
    pub fn way(&self) -> Option<Way> {
        match self {
            Source::Stream => Some(Way::Stream),
            Source::Delta => Some(Way::Delta),
            Source::Rsync => Some(Way::Rsync),
            Source::Nothing | Source::Inline(_) | Source::Held { .. } => None,
        }
    }
}

/// How contents are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Way {
    /// From the beginning to the end.
    Stream,
    /// Once the receiver has told what it has.
    Delta,
    /// By an rsync on each side.
    Rsync,
}

/// What passes between the two rsyncs of one action, in either direction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tunnel {
    /// The source's rsync wants its partner started with these arguments.
    Arguments(Vec<ByteBuf>),
    Bytes(ByteBuf),
    /// So many bytes more were taken; the other side may send as many.
    Taken(u64),
    /// Nothing more comes.
    End,
}

/// What to do with the object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Create or replace the object at the path.
    Put { entry: Entry, expect: Expect, displaced: Displaced, source: Source },
    /// Give the object there the entry's attributes; its contents stay.
    SetAttrs { entry: Entry, expect: Expect },
    /// Rename the node's object, which lies at `from` on this side, to the path.
    /// `expect` speaks of what lies under the new name.
    Move {
        from: RelPath,
        /// The generation of the node's row.
        known: Generation,
        entry: Entry,
        expect: Expect,
    },
    /// Remove the object; of a directory what the archive knows below it.
    Remove { expect: Expect, force: bool },
}

impl Step {
    /// What it does, in one word.
    pub fn word(&self) -> &'static str {
        match self {
            Step::Put { source: Source::Held { .. }, .. } => "copy",
            Step::Put { .. } => "put",
            Step::SetAttrs { .. } => "attributes",
            Step::Move { .. } => "move",
            Step::Remove { .. } => "delete",
        }
    }
}

/// One step for one side, with the row that it makes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Apply {
    pub path: RelPath,
    /// The directory above must be this node; `None`: whatever the path leads to.
    pub parent: Option<NodeId>,
    pub node: NodeId,
    pub step: Step,
    /// The other side has a step of this action to carry out as well: that this one has the row says nothing of it.
    pub joint: bool,
}

/// Row for the side that has the object already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub path: RelPath,
    /// The node of the directory above; `None`: whatever the path leads to.
    pub parent: Option<NodeId>,
    pub node: NodeId,
    /// The report that this confirms.
    pub seq: Seq,
    /// The agreed state; `None`: the object is gone on both sides.
    pub entry: Option<Entry>,
    /// The node lay here until now.
    pub from: Option<RelPath>,
}

/// A piece of a file's contents. Holes are left out: what no chunk covers is zero.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Data {
    /// Before the first piece of a file that does not travel in one: so many bytes of it are data, and want room.
    Room {
        bytes: u64,
    },
    Chunk {
        offset: u64,
        bytes: ByteBuf,
    },
    /// Contents that the receiver has already, at this place of its basis.
    Copy {
        offset: u64,
        from: u64,
        length: u64,
    },
    /// A small file in one piece.
    Whole {
        bytes: ByteBuf,
    },
    /// All was sent: the file's size and the hash of its contents.
    End {
        size: u64,
        hash: Hash,
    },
    /// The source changed or went away while it was read.
    Abort,
}

/// What the receiver of contents has of them already, its *basis*, told in blocks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sums {
    /// One file of the basis: `size` bytes in blocks of `block`, of which only the last one of all may be shorter.
    Basis { block: u64, size: u64 },
    /// The sums of its next blocks, 16 bytes each.
    Blocks { sums: ByteBuf },
    /// That was all; without any basis the contents come whole.
    End,
}

impl Data {
    /// Files up to this size travel in one piece.
    pub const WHOLE_MAX: u64 = 64 * 1024;
    /// The bytes that may be sent before the receiver's first word.
    pub const CREDIT: u64 = 512 * 1024;

    /// The credit that this piece takes.
    pub fn cost(&self) -> u64 {
        match self {
            Data::Chunk { bytes, .. } => bytes.len() as u64,
            Data::Copy { length, .. } => Data::cost_of_copy(*length),
            Data::Room { .. } | Data::Whole { .. } | Data::End { .. } | Data::Abort => 0,
        }
    }

    /// The credit that a copy within the receiver takes: it costs no line, but its time.
    pub fn cost_of_copy(length: u64) -> u64 {
        4096 + (length / 128).min(Data::CREDIT / 4)
    }
}

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Placed and recorded, durable. The entry is the row's, with the hash that was computed on the way.
    Done {
        entry: Option<Entry>,
        /// What became of the object that had the name before, if one had to make way.
        kept: Option<Kept>,
    },
    /// The expectation did not hold; what is there was reported before this answer.
    Refused,
    /// Somebody has the object open for writing; try again when the endpoint reports it or after a while.
    Busy,
    /// The source could not supply what it had reported; it reports anew.
    NoSource,
    Failed(Problem),
}
