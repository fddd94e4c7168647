//! The nouns of psync. No I/O, no clock, no decisions.

pub mod acls;
mod action;
mod change;
pub mod conflict;
mod dir_time;
mod distrust;
mod entry;
pub mod guard;
mod hasher;
pub mod merge;
mod path;
mod problem;
pub mod rights;
pub mod sane;
pub mod words;

pub use action::{Apply, Data, Displaced, Expect, Kept, Other, Outcome, Record, Source, Step, Sums, Tunnel, Way};
pub use change::{AncestorRow, Change, Known, Like, Moved};
pub use dir_time::{DIR_TIMES_MAX, DirTime, DirTimeSet, DirTimeWord, NewDirTime};
pub use distrust::{Distrust, Remains};
pub use entry::{Attrs, Content, Entry, Hash, Kind, OwnerNumber, Principal, Sameness, Time, Xattrs};
pub use hasher::Hasher;
pub use path::{NAME_MAX, Name, OWN_DIR, PATH_MAX, PathError, RelPath, readable};
pub use problem::{Problem, ProblemKind};

use serde::{Deserialize, Serialize};

/// One of the two replicas of a pair. The left runs the brain, and wins ties.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Side {
    Left,
    Right,
}

impl Side {
    pub const BOTH: [Side; 2] = [Side::Left, Side::Right];

    pub fn other(self) -> Side {
        match self {
            Side::Left => Side::Right,
            Side::Right => Side::Left,
        }
    }

    /// `left` or `right`, as users read it.
    pub fn word(self) -> &'static str {
        match self {
            Side::Left => "left",
            Side::Right => "right",
        }
    }
}

/// The number of an object, the same on both sides, given by the brain. Never used twice.
pub type NodeId = u64;
/// The root's node.
pub const ROOT_NODE: NodeId = 1;
/// The brain's number of an action; a row carries the generation of the action that made it. 0: no row.
pub type Generation = u64;
/// An endpoint's number of one of its reports.
pub type Seq = u64;
/// Monotonic time in milliseconds, from an arbitrary start; the only clock that pure code sees.
pub type Millis = u64;
