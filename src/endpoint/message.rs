//! The contract of one side: what the brain asks an endpoint, and what an endpoint tells the brain.
//!
//! The same values cross a channel inside the brain's process and the link to the other host. Each direction is
//! an ordered stream, but that other messages may overtake `Data` (whoever receives it ignores what comes after the
//! action's end); an endpoint answers in the order of what it did, and reports before it answers.

pub mod survey;
mod weight;

use serde::{Deserialize, Serialize};

use crate::model::{
    AncestorRow, Apply, Change, Content, Data, DirTime, DirTimeSet, DirTimeWord, Distrust, Generation, NewDirTime,
    NodeId, Outcome, OwnerNumber, Principal, Problem, Record, RelPath, Remains, Seq, Side, Sums, Tunnel, Way, words,
};

/// Rows that travel in one message have so many bytes at most, or are one row, which has less than this beside the
/// extended attributes that one object may have (`replica::metadata::XATTRS_MAX`).
const ROWS_BYTES: usize = 256 * 1024;

/// Cuts rows into lists of which each fits a message.
pub fn cut(rows: Vec<AncestorRow>) -> Vec<Vec<AncestorRow>> {
    let mut lists = Vec::new();
    let mut list = Vec::new();
    let mut bytes = 0;
    for row in rows {
        let size = wire_size(&row);
        if bytes + size > ROWS_BYTES && !list.is_empty() {
            lists.push(std::mem::take(&mut list));
            bytes = 0;
        }
        bytes += size;
        list.push(row);
    }
    if !list.is_empty() {
        lists.push(list);
    }
    lists
}

/// About as many bytes as a row takes on the wire, rather more.
fn wire_size(row: &AncestorRow) -> usize {
    const FIXED: usize = 192;
    let entry = row.entry.as_ref().map_or(0, |entry| {
        let target = if let Content::Link { target } = &entry.content { target.len() } else { 0 };
        let names =
            [&entry.attrs.user, &entry.attrs.group].map(|p| if let Principal::Name(n) = p { n.len() } else { 0 });
        let xattrs = entry.attrs.xattrs.iter().map(|(name, value)| name.len() + value.len() + 6).sum::<usize>();
        target + names.iter().sum::<usize>() + xattrs
    });
    FIXED + row.path.as_bytes().len() + entry
}

/// From the brain to an endpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// A new session: forget what was under way, answer with [`Reply::Hello`].
    Start(Start),
    /// Send all rows and tombstones above this generation, then [`Reply::RowsEnd`].
    Rows { above: Generation },
    /// The other side's archive holds these newer ancestors: take them over and look at their paths.
    Learn { rows: Vec<AncestorRow> },
    /// Begin to report. `peer` is the other archive's identity, to be kept. `whole`: the other side has nothing, so whatever a
    /// scan finds will be sent. `doubt`: the power may have failed on a side, so no agreed time of a directory counts.
    Go { peer: [u8; 16], scan: bool, whole: bool, doubt: bool },
    /// Do this and answer with [`Reply::Result`]. Carried out in the order of arrival.
    Apply { generation: Generation, apply: Apply },
    /// What this side reported as `seq` is now the agreed state: record it, answer with [`Reply::Recorded`].
    Record { generation: Generation, record: Record },
    /// Look at this path again and report it, or answer with [`Reply::Clean`]. With `as_copy` its object is taken
    /// for a new one even if it is known under another name.
    Examine { path: RelPath, as_copy: bool },
    /// Send the contents reported as `seq` under the generation's number.
    Supply { generation: Generation, path: RelPath, seq: Seq, way: Way },
    /// From the rsync on the other side.
    Rsync { generation: Generation, piece: Tunnel },
    /// What the receiver of these contents has already.
    Sums { generation: Generation, sums: Sums },
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
    /// Names of users and groups that the other side uses, with their numbers there.
    Names { numbers: Vec<OwnerNumber> },
    /// Both sides are equal: what the administrator accepted has been dealt with, and a first sync is over.
    Settled,
    /// Look through the trash now, and discard what is old or too much.
    Expire,
    /// Whether this is a part of what lies at the path as it was recorded; answer with [`Reply::Holds`].
    Holds { path: RelPath, remains: Remains },
    /// Give these directories the times that the other side's users gave them; answer with [`Reply::DirTimesSet`].
    SetDirTimes { times: Vec<NewDirTime> },
    /// What becomes of the times that this side told.
    DirTimesAgreed { times: Vec<(NodeId, DirTimeWord)> },
    /// The question of a check, as the first message of a link that serves nothing else. See [`survey`].
    Check(survey::Ask),
}

/// The first words of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    #[serde(deserialize_with = "words::text")]
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
    /// The root that this side has by the brain's file, for one that serves a pair by name; else empty.
    #[serde(with = "serde_bytes")]
    pub root: Vec<u8>,
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
    /// The machine was booted since the tree was last known to be what the archive says.
    pub rebooted: bool,
    /// Number of ancestors.
    pub rows: u64,
    /// How many of them came from the other side within the guard's ten minutes.
    pub came: u64,
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
        #[serde(deserialize_with = "words::text")]
        reason: String,
    },
    /// This side cannot serve for now, and may soon: the pair halts with these words, and is tried again.
    Away {
        #[serde(deserialize_with = "words::text")]
        reason: String,
    },
    /// Another root than that of [`Start`] is served here for the pair; it halts, and nothing was opened.
    OtherRoot {
        #[serde(with = "serde_bytes")]
        root: Vec<u8>,
    },
    /// This side's archive can be used no more; the pair halts.
    Damaged {
        #[serde(deserialize_with = "words::text")]
        detail: String,
    },
    Rows {
        rows: Vec<AncestorRow>,
    },
    RowsEnd,
    Report(Change),
    /// What is reported of this path under this number, soon after, may be what a power failure left.
    Distrust {
        path: RelPath,
        seq: Seq,
        why: Distrust,
    },
    /// What was asked by [`Request::Holds`].
    Holds {
        path: RelPath,
        is_part: bool,
    },
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
    /// What this side has already of contents that it is to receive.
    Sums {
        generation: Generation,
        sums: Sums,
    },
    /// From the rsync on this side.
    Rsync {
        generation: Generation,
        piece: Tunnel,
    },
    /// A path that this side cannot report or place; `None` in `problem`: it is over.
    Problem {
        path: RelPath,
        problem: Option<Problem>,
    },
    /// On so many objects an attribute of this kind could not be set here so far; sent before [`Reply::Pong`], when
    /// there is news.
    NotSet {
        #[serde(deserialize_with = "words::counts")]
        counts: Vec<(String, u64)>,
    },
    /// So many files of this side were not compared with what their rows say.
    Unproven {
        files: u64,
    },
    /// So many FIFOs, sockets and devices of this side do not travel.
    Special {
        files: u64,
    },
    /// So many files, with so many bytes, are in this side's archive.
    Tally {
        files: u64,
        bytes: u64,
    },
    /// Users gave these directories other times. Nothing more is told of one until [`Request::DirTimesAgreed`] or
    /// [`Request::SetDirTimes`] has come.
    DirTimes {
        times: Vec<DirTime>,
    },
    /// What came of a [`Request::SetDirTimes`].
    DirTimesSet {
        outcomes: Vec<(NodeId, DirTimeSet)>,
    },
    /// A line for the log that operators should see.
    Note {
        #[serde(deserialize_with = "words::text")]
        text: String,
    },
    Pong {
        number: u64,
    },
    /// There is room again for something that was refused for want of it.
    HasRoom,
    /// Names of users and groups that what follows uses, with their numbers here: for the other side.
    Names {
        numbers: Vec<OwnerNumber>,
    },
    Stopped,
    /// Events below this directory were lost: it is scanned again.
    Lost {
        scope: RelPath,
        #[serde(deserialize_with = "words::text")]
        reason: String,
    },
    /// A piece of the answer to a check.
    Checked(survey::Answer),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::codec::encode;
    use crate::link::frame::MAX_PAYLOAD;
    use crate::replica::archive::samples::file_row;
    use crate::replica::metadata::XATTRS_MAX;

    fn row(node: u64, path_bytes: usize, xattrs: usize) -> AncestorRow {
        let names = vec![vec![b'n'; 255]; path_bytes / 256];
        let path = RelPath::new(&names.join(&b'/')).unwrap();
        let mut entry = file_row(node, 1, "x", node).entry;
        entry.attrs.user = Principal::Name("u".repeat(32).into());
        let values = std::iter::repeat_n(60_000, xattrs / 60_000).chain([xattrs % 60_000]);
        for (n, size) in values.filter(|size| *size > 0).enumerate() {
            let name = format!("user.{n}").into_bytes().into_boxed_slice();
            entry.attrs.xattrs.insert(name, vec![7; size].into());
        }
        AncestorRow { node, parent: 1, path, generation: node, entry: Some(entry), joint: false }
    }

    #[test]
    fn no_list_of_rows_exceeds_a_frame() {
        let long = (1..2000).map(|n| row(n, 4090, 0));
        let short = (2000..9000).map(|n| row(n, 256, 0));
        let rich = (9000..9100).map(|n| row(n, 256, 60_000));
        let richest = (9100..9110).map(|n| row(n, 4090, XATTRS_MAX));
        let rows: Vec<AncestorRow> = long.chain(short).chain(rich).chain(richest).collect();
        let lists = cut(rows.clone());
        for list in &lists {
            let frame = encode(&Reply::Rows { rows: list.clone() }).expect("it fits");
            // The estimate errs on the safe side.
            assert!(frame.len() <= list.iter().map(wire_size).sum::<usize>() + 16);
            encode(&Request::Learn { rows: list.clone() }).expect("it fits");
        }
        assert!(lists.len() < 100, "{} lists", lists.len());
        assert_eq!(lists.concat(), rows);
        assert!(cut(vec![]).is_empty());
    }

    #[test]
    fn a_report_with_the_most_attributes_fits_a_frame() {
        let AncestorRow { path, entry, .. } = row(5, 4090, XATTRS_MAX);
        let known = crate::model::Known { node: 5, generation: 3, entry: entry.clone().unwrap() };
        let change = Change {
            seq: 1,
            path: path.clone(),
            parent: Some(1),
            known: Some(known.clone()),
            moved: Some(crate::model::Moved { from: path, known, edited: true }),
            after: entry,
            contents: true,
            touched: false,
            read: false,
            inline: Some(serde_bytes::ByteBuf::from(vec![1; 32 * 1024])),
            like: None,
            below: 0,
            young: 0,
        };
        let frame = encode(&Reply::Report(change)).expect("it fits");
        assert!(frame.len() > 3 * XATTRS_MAX && frame.len() < MAX_PAYLOAD);
    }
}
