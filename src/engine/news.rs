//! What the engine tells people.

use crate::model::{Generation, Problem, RelPath, Side};
use crate::protocol::Kept;

/// What users and operators may want to know.
#[derive(Debug, Clone, PartialEq)]
pub enum News {
    /// Progress of the scans.
    Scanning {
        side: Side,
        files: u64,
        bytes: u64,
    },
    /// Both sides are equal and watched.
    InSync {
        files: u64,
        bytes: u64,
    },
    /// What both sides' scans found was dealt with, and users do not rest: so many changes came since, and are under way.
    RoundOver {
        left: u64,
        files: u64,
        bytes: u64,
    },
    /// An action begins; on a dry run nothing follows.
    Begun {
        generation: Generation,
        side: Side,
        what: &'static str,
        path: RelPath,
        from: Option<RelPath>,
        bytes: u64,
        /// What lies there on that side is the loser of a conflict.
        loses: bool,
    },
    /// An action is recorded on both sides.
    Completed {
        generation: Generation,
        path: RelPath,
        /// Contents that were placed.
        bytes: u64,
    },
    /// One side's version has lost its name to the other one, and is kept there.
    Conflict {
        generation: Generation,
        path: RelPath,
        loser: Side,
        kept: Kept,
    },
    /// Setuid, setgid or a capability of one side's file was granted to other contents than those that lie there now.
    Dropped {
        generation: Generation,
        path: RelPath,
        what: String,
    },
    Problem {
        side: Side,
        path: RelPath,
        problem: Option<Problem>,
    },
    /// Nothing is propagated any more.
    Halted {
        reason: String,
        advice: String,
        /// The side that cannot serve for now: it is worth a try after a while.
        away: Option<Side>,
    },
    /// Something to be mended, told once in a run for each `what`.
    Warning {
        what: &'static str,
        text: String,
    },
    /// On so many objects an attribute of this kind could not be set on this side so far.
    NotSet {
        side: Side,
        counts: Vec<(String, u64)>,
    },
    /// So many files of this side were not compared with what was agreed on.
    Unproven {
        side: Side,
        files: u64,
    },
    /// So many FIFOs, sockets and devices of this side do not travel.
    Special {
        side: Side,
        files: u64,
    },
    /// So many files, with so many bytes, are in this side's archive.
    Tally {
        side: Side,
        files: u64,
        bytes: u64,
    },
    Note {
        side: Side,
        text: String,
    },
    /// Events were lost, and what they spoke of is looked for.
    Lost {
        side: Side,
        scope: RelPath,
        reason: String,
    },
    Stopped,
}
