//! What a side lets a peer ask: every request passes here before anything is done with it.
//!
//! Each is judged by what this side knows itself: how far the session is, which numbers it has given and seen, what is
//! open, how much it has said may come. A peer that keeps the protocol never meets a refusal, so a refusal ends the
//! session, and nothing of the request is kept. What may be true and is not (another object lies there, a report is out of
//! date) is none of this module's business: the replica refuses that, and the session goes on.

mod numbers;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Content, Entry, Generation, NodeId, PATH_MAX, RelPath, Seq, Time};
use crate::protocol::{
    AncestorRow, Apply, Data, DirTimeWord, Expect, NewDirTime, Record, Reply, Request, Source, Step, Sums, Tunnel, Way,
    Weight,
    sane::{self, Insane, WINDOW},
};
use crate::transfer::{CHUNK, INITIAL_CREDIT, WHOLE};

use numbers::Given;

/// Actions that are open at a time. A brain has half as many in flight.
const OPEN_MAX: usize = 4096;
/// Contents that are sent at a time; a brain wants a quarter of that.
const SUPPLIES_MAX: usize = 1024;
/// Rows that are taught beyond those that this side has, and their bytes in memory: what one archive can miss of the other
/// is what was in flight when a side died.
const LEARNED_MAX: (usize, usize) = (128 * 1024, 32 << 20);
/// Bytes of a basis's sums that are kept for all contents that are sent. Beyond them contents go whole.
const SUMS_MAX: usize = 64 << 20;
/// Words of the other side's rsync, and the bytes of one.
const ARGUMENTS_MAX: (usize, usize) = (64, 4096);

/// Why a request is none that a peer may make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub reason: String,
}

/// What this side knows at the moment of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Own {
    /// The highest generation in its archive.
    pub generation: Generation,
    /// The rows in its archive.
    pub rows: u64,
    /// Its last report.
    pub seq: Seq,
}

/// How far a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nobody has begun one.
    Idle,
    /// The sides exchange what their archives hold.
    Greeted,
    Going,
    /// It is over, but for its last words.
    Over,
}

/// Contents of one action on their way to this side or from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Flow {
    way: Option<Way>,
    /// Bytes that may still come.
    room: u64,
    /// Bytes that went, and were not taken yet as far as the other side has said.
    out: u64,
    /// The other side's rsync has said what it wants.
    begun: bool,
    /// The other side has said how much room the contents want.
    announced: bool,
    /// Bytes of sums that came for it.
    sums: usize,
}

impl Flow {
    fn new(way: Option<Way>) -> Flow {
        Flow { way, room: INITIAL_CREDIT, out: 0, begun: false, announced: false, sums: 0 }
    }

    /// So many bytes come.
    fn take(&mut self, bytes: u64) -> Result<(), Insane> {
        self.room = self.room.checked_sub(bytes).ok_or("more bytes than this side has room for")?;
        Ok(())
    }

    /// So many bytes were taken on the other side.
    fn taken(&mut self, bytes: u64) -> Result<(), Insane> {
        self.out = self.out.checked_sub(bytes).ok_or("credit for what was never sent")?;
        Ok(())
    }
}

/// The judge of one session after another.
#[derive(Debug)]
pub(super) struct Policy {
    phase: Phase,
    asked_for_rows: bool,
    /// Rows that were taught in this session, and their bytes.
    learned: (usize, usize),
    given: Given,
    /// Actions that are not answered yet.
    open: BTreeMap<Generation, Flow>,
    /// Records that are not answered yet.
    records: BTreeSet<Generation>,
    /// Contents that this side sends.
    supplies: BTreeMap<Generation, Flow>,
}

impl Policy {
    pub(super) fn new() -> Policy {
        Policy {
            phase: Phase::Idle,
            asked_for_rows: false,
            learned: (0, 0),
            given: Given::default(),
            open: BTreeMap::new(),
            records: BTreeSet::new(),
            supplies: BTreeMap::new(),
        }
    }

    /// The session is over: until the next one begins nothing is taken in, but for what ends it.
    pub(super) fn end(&mut self) {
        *self = Policy { phase: Phase::Over, ..Policy::new() };
    }

    /// The brain is gone.
    pub(super) fn part(&mut self) {
        *self = Policy::new();
    }

    /// Lets a request in, or says why not. `None`: the session is over, and nobody waits for an answer.
    pub(super) fn admit(&mut self, request: Request, own: &Own) -> Result<Option<Request>, Refusal> {
        if self.phase == Phase::Over && !matches!(request, Request::Start(_) | Request::Stop) {
            return Ok(None);
        }
        match self.judge(&request, own) {
            Ok(()) => Ok(Some(request)),
            Err(why) => {
                let reason = format!("the other side asked for what cannot be: {}: {why}", word(&request));
                self.end();
                Err(Refusal { reason })
            }
        }
    }

    fn judge(&mut self, request: &Request, own: &Own) -> Result<(), Insane> {
        match request {
            Request::Start(start) => {
                if start.root.len() > PATH_MAX {
                    return Err("a root that no path leads to");
                }
                *self = Policy { phase: Phase::Greeted, ..Policy::new() };
                Ok(())
            }
            Request::Rows { .. } => {
                self.require(Phase::Greeted)?;
                let again = std::mem::replace(&mut self.asked_for_rows, true);
                if again { Err("a second time in a session") } else { Ok(()) }
            }
            Request::Learn { rows } => self.learn(rows, own),
            Request::Go { peer, .. } => {
                self.require(Phase::Greeted)?;
                self.phase = Phase::Going;
                // Only now: the beginning of a session may have begun a new archive.
                self.given = Given::above(own.generation);
                if *peer == [0; 16] { Err("no archive has that identity") } else { Ok(()) }
            }
            Request::Apply { generation, apply } => self.apply(*generation, apply, own),
            Request::Record { generation, record } => self.record(*generation, record, own),
            Request::Examine { path, .. } | Request::Hash { path } => {
                self.require(Phase::Going)?;
                sane::object(path)
            }
            Request::Holds { path, remains } => {
                self.require(Phase::Going)?;
                sane::object(path)?;
                if remains.is_sound() { Ok(()) } else { Err("ranges that no file has") }
            }
            Request::Supply { generation, path, seq, way } => {
                self.require(Phase::Going)?;
                sane::object(path)?;
                was_reported(*seq, own)?;
                self.given.is_near(*generation)?;
                if self.supplies.len() >= SUPPLIES_MAX {
                    return Err("more contents at a time than anybody wants");
                }
                match self.supplies.insert(*generation, Flow::new(Some(*way))) {
                    Some(_) => Err("twice under one number"),
                    None => Ok(()),
                }
            }
            Request::Rsync { generation, piece } => {
                self.require(Phase::Going)?;
                self.tunnel(*generation, piece)
            }
            Request::Sums { generation, sums } => {
                self.require(Phase::Going)?;
                // What comes after the end of an action is let in, and passed over.
                let Some(flow) = self.supplies.get_mut(generation) else { return Ok(()) };
                if let Sums::Blocks { sums } = sums {
                    flow.sums = flow.sums.saturating_add(sums.len());
                }
                Ok(())
            }
            Request::Data { generation, data } => self.data(*generation, data),
            Request::Credit { generation, bytes } => {
                self.require(Phase::Going)?;
                self.supplies.get_mut(generation).map_or(Ok(()), |flow| flow.taken(*bytes))
            }
            Request::Cancel { generation } => {
                self.require(Phase::Going)?;
                self.open.remove(generation);
                self.supplies.remove(generation);
                Ok(())
            }
            Request::Confirm { upto } => {
                self.require(Phase::Going)?;
                if *upto > own.generation {
                    return Err("a generation that this side does not hold");
                }
                self.given.settle(*upto);
                Ok(())
            }
            // Of many questions the endpoint keeps the last ones.
            Request::Ping { .. } | Request::Scan { .. } | Request::Hold { .. } | Request::Settled => {
                self.require(Phase::Going)
            }
            Request::SetDirTimes { times } => {
                self.require(Phase::Going)?;
                let told = |new: &NewDirTime| new.told.map_or(Ok(()), |told| sane::dir_time(new.node, told));
                sane::dir_times(times.iter().map(|new| (new.node, new.time)))?;
                times.iter().try_for_each(told)
            }
            Request::DirTimesAgreed { times } => {
                self.require(Phase::Going)?;
                let time =
                    |word: &DirTimeWord| if let DirTimeWord::Agreed(time) = word { *time } else { Time::default() };
                sane::dir_times(times.iter().map(|(node, word)| (*node, time(word))))
            }
            Request::Names { numbers } => sane::names(numbers),
            // An order of an administrator; the end.
            Request::Expire | Request::Stop => Ok(()),
        }
    }

    fn require(&self, phase: Phase) -> Result<(), Insane> {
        if self.phase == phase { Ok(()) } else { Err("not at this time of a session") }
    }

    fn learn(&mut self, rows: &[AncestorRow], own: &Own) -> Result<(), Insane> {
        self.require(Phase::Greeted)?;
        for row in rows {
            sane::row(row)?;
            if row.generation > own.generation.saturating_add(WINDOW) {
                return Err("a generation far ahead of all that is known here");
            }
        }
        self.learned.0 += rows.len();
        self.learned.1 += rows.iter().map(Weight::weight).sum::<usize>();
        let known = usize::try_from(own.rows).unwrap_or(usize::MAX);
        let (most, bytes) = LEARNED_MAX;
        if self.learned.0 > most.saturating_add(known)
            || self.learned.1 > bytes.saturating_add(known.saturating_mul(256))
        {
            return Err("more rows than one archive can miss of the other");
        }
        Ok(())
    }

    fn apply(&mut self, generation: Generation, apply: &Apply, own: &Own) -> Result<(), Insane> {
        self.require(Phase::Going)?;
        sane::object(&apply.path)?;
        let Apply { node, parent, step, .. } = apply;
        let mut way = None;
        match step {
            Step::Put { entry, expect, source, .. } => {
                put(entry, source)?;
                expected(expect, generation, own)?;
                way = source.way();
            }
            Step::SetAttrs { entry, expect } => {
                sane::entry(entry)?;
                expected(expect, generation, own)?;
            }
            Step::Move { from, known, entry, expect } => {
                sane::object(from)?;
                sane::entry(entry)?;
                expected(&Expect::Row(*known), generation, own)?;
                expected(expect, generation, own)?;
            }
            Step::Exchange { from, known, other } => {
                sane::object(from)?;
                other.at.as_ref().map_or(Ok(()), sane::object)?;
                sane::object(&other.to)?;
                expected(&Expect::Row(*known), generation, own)?;
                expected(&Expect::Row(other.known), generation, own)?;
                self.given_before(other.node, own)?;
                if other.node == *node {
                    return Err("an object that changes places with itself");
                }
            }
            Step::Remove { expect, .. } => expected(expect, generation, own)?,
        }
        self.number(generation, *node, *parent, own)?;
        if self.open.len() >= OPEN_MAX {
            return Err("more actions at a time than a brain has in flight");
        }
        self.open.insert(generation, Flow::new(way));
        Ok(())
    }

    fn record(&mut self, generation: Generation, record: &Record, own: &Own) -> Result<(), Insane> {
        self.require(Phase::Going)?;
        sane::object(&record.path)?;
        record.from.as_ref().map_or(Ok(()), sane::object)?;
        record.entry.as_ref().map_or(Ok(()), sane::entry)?;
        was_reported(record.seq, own)?;
        if let Some(other) = record.exchanged {
            self.given_before(other, own)?;
            if other == record.node || record.from.is_none() || record.entry.is_none() {
                return Err("an object that changes places with itself, or without a place");
            }
        }
        self.number(generation, record.node, record.parent, own)?;
        if self.records.len() >= OPEN_MAX {
            return Err("more records at a time than a brain has in flight");
        }
        self.records.insert(generation);
        Ok(())
    }

    /// An action's number is new and near, its node is its own or one that was given before.
    fn number(
        &mut self,
        generation: Generation,
        node: NodeId,
        parent: Option<NodeId>,
        own: &Own,
    ) -> Result<(), Insane> {
        self.given.is_near(generation)?;
        if node != generation {
            self.given_before(node, own)?;
        }
        if let Some(parent) = parent {
            sane::parent(parent, generation)?;
        }
        self.given.take(generation)
    }

    /// A node that an action is about has a number that was given.
    fn given_before(&self, node: NodeId, own: &Own) -> Result<(), Insane> {
        sane::node(node, own.generation.max(self.given.highest()))
    }

    fn tunnel(&mut self, generation: Generation, piece: &Tunnel) -> Result<(), Insane> {
        let flow = self.open.get_mut(&generation).or(self.supplies.get_mut(&generation));
        let Some(flow) = flow else { return Ok(()) };
        if flow.way != Some(Way::Rsync) {
            return Err("bytes of an rsync that nobody runs");
        }
        match piece {
            Tunnel::Arguments(words) => {
                let (most, bytes) = ARGUMENTS_MAX;
                if std::mem::replace(&mut flow.begun, true) {
                    return Err("arguments for a second time");
                }
                let fit = words.len() <= most && words.iter().all(|word| word.len() <= bytes);
                if fit { Ok(()) } else { Err("more arguments than rsync has") }
            }
            Tunnel::Bytes(bytes) => flow.take(bytes.len() as u64),
            Tunnel::Taken(bytes) => flow.taken(*bytes),
            Tunnel::End => Ok(()),
        }
    }

    fn data(&mut self, generation: Generation, data: &Data) -> Result<(), Insane> {
        self.require(Phase::Going)?;
        // Late data of an action that has ended are passed over.
        let Some(flow) = self.open.get_mut(&generation) else { return Ok(()) };
        match (flow.way, data) {
            (None, _) => Err("contents that were not announced"),
            (Some(_), Data::Room { .. }) if std::mem::replace(&mut flow.announced, true) => {
                Err("the room for contents for a second time")
            }
            (Some(Way::Rsync), Data::Room { .. } | Data::End { .. } | Data::Abort) => Ok(()),
            (Some(Way::Rsync), _) => Err("contents beside rsync's"),
            (Some(_), Data::Chunk { bytes, .. }) if bytes.len() > CHUNK => Err("a piece that is too long"),
            (Some(_), Data::Whole { bytes }) if bytes.len() as u64 > WHOLE => Err("a piece that is too long"),
            (Some(_), data) => flow.take(data.cost()),
        }
    }

    /// Whether so many sums are kept already that the contents of this action go whole.
    pub(super) fn goes_whole(&self, generation: Generation) -> bool {
        let all: usize = self.supplies.values().map(|flow| flow.sums).sum();
        self.supplies.get(&generation).is_some_and(|flow| flow.sums > 0) && all > SUMS_MAX
    }

    /// Keeps in mind what this side says: what is answered is not open any more, what is taken makes room.
    pub(super) fn said(&mut self, reply: &Reply) {
        match reply {
            Reply::Result { generation, .. } => drop(self.open.remove(generation)),
            Reply::Recorded { generation } => drop(self.records.remove(generation)),
            Reply::Credit { generation, bytes } => {
                if let Some(flow) = self.open.get_mut(generation) {
                    flow.room = flow.room.saturating_add(*bytes);
                }
            }
            Reply::Data { generation, data: Data::Whole { .. } | Data::End { .. } | Data::Abort } => {
                self.supplies.remove(generation);
            }
            Reply::Data { generation, data } => {
                if let Some(flow) = self.supplies.get_mut(generation) {
                    flow.out = flow.out.saturating_add(data.cost());
                }
            }
            Reply::Rsync { generation, piece } => {
                let flow = self.open.get_mut(generation).or(self.supplies.get_mut(generation));
                let Some(flow) = flow else { return };
                match piece {
                    Tunnel::Bytes(bytes) => flow.out = flow.out.saturating_add(bytes.len() as u64),
                    Tunnel::Taken(bytes) => flow.room = flow.room.saturating_add(*bytes),
                    Tunnel::Arguments(_) | Tunnel::End => {}
                }
            }
            _ => {}
        }
    }
}

/// What is put has contents of its kind, and those that come with it are as long as they are said to be.
fn put(entry: &Entry, source: &Source) -> Result<(), Insane> {
    sane::entry(entry)?;
    match (&entry.content, source) {
        (Content::File { size, .. }, Source::Inline(bytes)) if bytes.len() as u64 != *size => {
            Err("contents of another size than they have")
        }
        (Content::File { .. }, Source::Nothing) => Err("a file without contents"),
        (Content::File { .. }, Source::Held { from, node, known }) => {
            sane::object(from)?;
            sane::node(*node, *known)
        }
        (Content::File { .. }, _) | (Content::Dir | Content::Link { .. } | Content::Fifo, Source::Nothing) => Ok(()),
        (Content::Dir | Content::Link { .. } | Content::Fifo, _) => Err("contents of what is no file"),
    }
}

/// A row was made before the action; a report was made by this side.
fn expected(expect: &Expect, generation: Generation, own: &Own) -> Result<(), Insane> {
    match expect {
        Expect::Absent => Ok(()),
        Expect::Row(row) if *row < generation => Ok(()),
        Expect::Row(_) => Err("a row that is younger than the action"),
        Expect::Report(0) => Err("a report that was never made"),
        Expect::Report(seq) => was_reported(*seq, own),
    }
}

fn was_reported(seq: Seq, own: &Own) -> Result<(), Insane> {
    if seq <= own.seq { Ok(()) } else { Err("a report that was never made") }
}

/// What a request is, and where, for people.
fn word(request: &Request) -> String {
    let at = |what: &str, path: &RelPath| format!("{what} {path}");
    match request {
        Request::Start(_) => "a session".to_owned(),
        Request::Rows { .. } => "rows".to_owned(),
        Request::Learn { .. } => "to learn rows".to_owned(),
        Request::Go { .. } => "to report".to_owned(),
        Request::Apply { apply, .. } => at(apply.step.word(), &apply.path),
        Request::Record { record, .. } => at("record", &record.path),
        Request::Examine { path, .. } => at("examine", path),
        Request::Hash { path } => at("hash", path),
        Request::Holds { path, .. } => at("to compare a part of", path),
        Request::Supply { path, .. } => at("contents of", path),
        Request::Rsync { .. } => "rsync's bytes".to_owned(),
        Request::Sums { .. } => "sums of contents".to_owned(),
        Request::Data { .. } => "contents".to_owned(),
        Request::Credit { .. } => "credit".to_owned(),
        Request::Cancel { .. } => "to cancel".to_owned(),
        Request::Confirm { .. } => "to confirm".to_owned(),
        Request::Scan { .. } => "a scan".to_owned(),
        Request::Ping { .. } => "an answer".to_owned(),
        Request::Stop => "to stop".to_owned(),
        Request::Hold { .. } => "to hold".to_owned(),
        Request::SetDirTimes { .. } | Request::DirTimesAgreed { .. } => "times of directories".to_owned(),
        Request::Names { .. } => "names of owners".to_owned(),
        Request::Settled => "that all is done".to_owned(),
        Request::Expire => "to look through the trash".to_owned(),
    }
}
