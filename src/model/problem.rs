//! What keeps one path from being synchronised. The rest of the pair goes on.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::RelPath;

/// The kinds of problem an administrator acts on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProblemKind {
    /// Permission denied where even psync's own rights do not suffice.
    Unreadable,
    /// A FIFO, socket or device.
    Unsupported,
    /// Another file system is mounted there: make it a pair of its own.
    OtherFileSystem,
    /// No space or quota on the side that should take the object.
    NoSpace,
    /// Always being written.
    Busy,
    /// A name or path too long for the other side.
    TooLong,
    /// A file above `max_size`.
    TooLarge,
    /// A directory that cannot be watched: changes in it are found by full syncs only.
    Unwatched,
    /// Any other error of the operating system.
    Io,
}

/// One path's problem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    pub path: RelPath,
    pub kind: ProblemKind,
    /// The operation that failed and the system's words.
    #[serde(deserialize_with = "super::words::text")]
    pub detail: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.detail)
    }
}
