//! The nouns of psync. No I/O, no clock, no decisions.

pub mod acls;
pub mod conflict;
mod entry;
pub mod guard;
mod hasher;
pub mod merge;
mod path;
mod problem;
pub mod rights;
mod sides;
pub mod words;

pub use entry::{Attrs, Content, Entry, Hash, Kind, OwnerNumber, Principal, Sameness, Time, Xattrs};
pub use hasher::Hasher;
pub use path::{NAME_MAX, Name, OWN_DIR, PATH_MAX, PathError, RelPath, readable};
pub use problem::{Problem, ProblemKind};
pub use sides::{Side, Sides};

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

/// A duration in whole milliseconds, as many as fit.
pub fn millis(duration: std::time::Duration) -> Millis {
    Millis::try_from(duration.as_millis()).unwrap_or(Millis::MAX)
}
