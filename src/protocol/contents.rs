//! How the contents of files cross the line: in pieces, as what differs from what the receiver has, or by rsync.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::model::{Generation, Hash, NodeId, RelPath};

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
