//! How the brain tells a user what it does. The brain reports, the caller shows.

use super::alarm::Alert;
use crate::model::RelPath;

/// Told by the brain what a user wants to know, from any of its threads. Must not block for long.
pub trait Monitor: Send + Sync {
    /// How far the initial sync is. Called often, and at least once a second while it runs: what is shown of it
    /// is the monitor's choice.
    fn progress(&self, progress: &Progress);
    /// Both sides are equal and watched, with so many files and bytes. Told once in a run, after
    /// the initial sync.
    fn in_sync(&self, files: u64, bytes: u64);
    /// What both sides' scans found is dealt with, but users do not rest: so many changes came since. Told instead of
    /// [`Monitor::in_sync`] by a run that ends then, `ends`, or goes on.
    fn round_over(&self, left: u64, files: u64, ends: bool);
    /// Propagation has stopped. `advice`: what the user can do.
    fn halted(&self, reason: &str, advice: &str);
    /// An administrator should hear of this, who looks at nothing. Told once for each cause, and once when it is over.
    fn alert(&self, alert: &Alert);
    /// This path is not synchronised for now.
    fn problem(&self, path: &RelPath, text: &str);
    /// The problem of this path is over.
    fn solved(&self, path: &RelPath);
    /// Something that a user should know.
    fn note(&self, text: &str);
    /// Something that a user should mend.
    fn warning(&self, text: &str);
    fn link(&self, state: &LinkState);
}

/// What the initial sync is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Reading both trees; totals are unknown.
    Scan,
    /// Carrying what differs.
    Copy,
}

/// How far the initial sync is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub phase: Phase,
    /// Files seen (scan) or done (copy).
    pub files: u64,
    /// Contents of these, and of the files under way.
    pub bytes: u64,
    pub files_total: Option<u64>,
    pub bytes_total: Option<u64>,
    /// The totals will grow: the trees are still being read.
    pub more: bool,
}

/// The state of the way to the right side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkState {
    Connecting,
    Up,
    Down {
        reason: String,
        /// Seconds until the next attempt, if there is one.
        retry: Option<u64>,
    },
}

/// How a run of the brain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All done, or stopped with everything recorded.
    Done,
    /// The first synchronisation could not be finished.
    InitialSyncFailed,
    /// The left side was lost for longer than `maxtimeout`.
    LeftLost,
    /// The right side was lost for longer than `maxtimeout`.
    RightLost,
    /// A thread is stuck or died.
    Internal,
    /// A banned program runs.
    Banned,
    /// The pair halted, and nobody is there to resume it.
    Halted,
    /// A one-time run is done, but for paths that have a problem.
    ProblemsLeft,
}
