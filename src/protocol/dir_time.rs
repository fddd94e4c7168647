//! The times of directories. They are no state of a path, and travel beside reports and actions: what goes on in a directory
//! changes its time whatever else is to be done there.
//!
//! Each side tells the times that its users gave; the later one goes to the other side, if nobody gave that one another
//! meanwhile. Both archives keep what was agreed on, each as its own file system holds it.

use serde::{Deserialize, Serialize};

use crate::model::{NodeId, Time};

/// So many directories one message speaks of at most.
pub const DIR_TIMES_MAX: usize = 256;

/// The time that users of one side gave a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirTime {
    pub node: NodeId,
    pub time: Time,
}

/// A time that a directory is to get from the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewDirTime {
    pub node: NodeId,
    pub time: Time,
    /// What this side told of it, if it did: with any other time than this, or the agreed one, it keeps what it has.
    pub told: Option<Time>,
}

/// What becomes of a time that a side told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DirTimeWord {
    /// Both sides have it from now on.
    Agreed(Time),
    /// The other side has no such directory now.
    Gone,
    /// Both sides keep what they have.
    Left,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DirTimeSet {
    /// It has the time, as far as this side can hold and may set it.
    Done,
    /// Users gave it this one meanwhile.
    Differs(Time),
    /// No such directory is here, or none that can be looked at.
    Gone,
}
