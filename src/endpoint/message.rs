//! The contract of one side: what the brain asks an endpoint, and what an endpoint tells the brain.
//!
//! The same values cross a channel inside the brain's process and the link to the other host. Each direction is
//! an ordered stream, but that other messages may overtake `Data` (whoever receives it ignores what comes after the
//! action's end); an endpoint answers in the order of what it did, and reports before it answers.

use serde::{Deserialize, Serialize};

use crate::model::{AncestorRow, Apply, Change, Data, Generation, Outcome, Problem, Record, RelPath, Seq, Side};

/// From the brain to an endpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// A new session: forget what was under way, answer with [`Reply::Hello`].
    Start(Start),
    /// Send all rows and tombstones above this generation, then [`Reply::RowsEnd`].
    Rows { above: Generation },
    /// The other side's archive holds these newer ancestors: take them over and look at their paths.
    Learn { rows: Vec<AncestorRow> },
    /// Begin to report. `peer` is the other archive's identity, to be kept.
    Go { peer: [u8; 16], scan: bool },
    /// Do this and answer with [`Reply::Result`]. Carried out in the order of arrival.
    Apply { generation: Generation, apply: Apply },
    /// What this side reported as `seq` is now the agreed state: record it, answer with [`Reply::Recorded`].
    Record { generation: Generation, record: Record },
    /// Look at this path again and report it, or answer with [`Reply::Clean`]. With `as_copy` its object is taken
    /// for a new one even if it is known under another name.
    Examine { path: RelPath, as_copy: bool },
    /// Send the contents reported as `seq` in chunks numbered by the generation.
    Supply { generation: Generation, path: RelPath, seq: Seq },
    /// Contents on their way to this side.
    Data { generation: Generation, data: Data },
    /// The receiver may be sent this many more bytes.
    Credit { generation: Generation, bytes: u64 },
    /// Stop supplying or receiving this action's contents.
    Cancel { generation: Generation },
    /// Read the file reported as `seq` and report it again with its hash.
    Hash { path: RelPath },
    /// Both archives hold every generation up to this one.
    Confirm { upto: Generation },
    /// Compare the whole tree with the archive now; with `checksum` also the contents of files whose stat is unchanged.
    Scan { checksum: bool },
    /// Answer with [`Reply::Pong`] once nothing is left to look at; after two seconds in any case.
    Ping { number: u64 },
    /// Make everything durable and answer with [`Reply::Stopped`].
    Stop,
    /// Report nothing more, or go on. Actions and contents are not held.
    Hold { on: bool },
}

/// The first words of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    pub pair: String,
    /// Higher than that of every earlier session of this pair: the brain's start, then its connections.
    pub incarnation: u64,
    /// The administrator takes the roots for what they should be: an exchanged or emptied one is adopted.
    pub accept: bool,
    /// Forget all ancestors: the trees meet as if for the first time.
    pub union: bool,
    /// Digest of the filters in force.
    pub filters: [u8; 32],
    /// Nothing may change, the archive included.
    pub dry_run: bool,
}

/// What an endpoint says of its archive when a session starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub archive: [u8; 16],
    pub peer: [u8; 16],
    pub generation: Generation,
    pub confirmed: Generation,
    /// The archive was made just now: nothing is known of this tree.
    pub fresh: bool,
    /// The machine was booted since the last record.
    pub rebooted: bool,
    /// Number of ancestors.
    pub rows: u64,
    /// Number of entries at the root's top, to tell an emptied root.
    pub top_entries: u64,
    /// Which side this archive was, if it ever met another.
    pub side: Option<Side>,
    /// The root is another directory than the archive was made in.
    pub exchanged: bool,
    pub filters: [u8; 32],
    /// Seconds since 1970.
    pub clock: i64,
    /// The session needs no scan: this endpoint has been watching since the last one.
    pub watching: bool,
}

/// From an endpoint to the brain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    Hello(Hello),
    /// This side cannot serve; the pair halts with these words.
    Halt {
        reason: String,
    },
    Rows {
        rows: Vec<AncestorRow>,
    },
    RowsEnd,
    Report(Change),
    /// The path equals its ancestor: an earlier report of it is void.
    Clean {
        path: RelPath,
    },
    /// The running scan has reported everything before this path (in path order).
    Cursor {
        path: RelPath,
        files: u64,
        bytes: u64,
    },
    ScanDone {
        files: u64,
        bytes: u64,
    },
    Result {
        generation: Generation,
        outcome: Outcome,
    },
    Recorded {
        generation: Generation,
    },
    Data {
        generation: Generation,
        data: Data,
    },
    Credit {
        generation: Generation,
        bytes: u64,
    },
    /// A path that this side cannot report or place; `None` in `problem`: it is over.
    Problem {
        path: RelPath,
        problem: Option<Problem>,
    },
    /// A line for the log that operators should see.
    Note {
        text: String,
    },
    Pong {
        number: u64,
    },
    Stopped,
    /// Events below this directory were lost: it is scanned again.
    Lost {
        scope: RelPath,
        reason: String,
    },
}
