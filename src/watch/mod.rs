//! From the kernel's events to dirty paths: the inotify tree, and the coalescer (pure).

pub mod coalesce;
pub mod inotify;

use crate::model::RelPath;

/// What an event says happened. Only a hint for the timing: the truth is found by examining the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hint {
    /// Something was made here, or renamed to here.
    Appeared,
    /// Something was removed, or renamed away.
    Vanished,
    /// Written to; more may follow.
    Written,
    /// A writer closed it.
    Closed,
    /// Mode, owner, times or extended attributes changed.
    Attributes,
}

/// What the watcher tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Dirty {
        path: RelPath,
        hint: Hint,
    },
    /// Events below this directory were lost, or could not be had: scan it again.
    Lost {
        scope: RelPath,
        reason: &'static str,
    },
}
