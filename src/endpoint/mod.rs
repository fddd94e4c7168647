//! One side as the brain sees it: [`message`] is the contract, [`Endpoint`] fulfils it above a replica, a coalescer and
//! the transfers. It is a state machine like the engine, but for the disk and the archive that it owns: whoever runs
//! it (a thread, the agent's loop, the simulator) hands it requests, events and the time, and calls [`Endpoint::step`].

pub mod admit;
pub mod agent;
mod damage;
mod doctor;
pub mod expire;
pub mod heartbeat;
pub mod message;
pub mod open;
pub mod rsync;
mod saves;
pub mod serve;
pub mod service;
mod settings;
pub mod survey;
mod tenure;
mod transfers;
mod work;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::filter::Filter;
use crate::model::{
    Apply, Change, Data, Displaced, Generation, Kind, Millis, Name, Outcome, OwnerNumber, Record, RelPath, Source,
    Step, Way,
};
use crate::replica::Replica;
use crate::replica::archive::Archive;
use crate::replica::batch::Job;
use crate::replica::disk::Disk;
use crate::replica::error::ReplicaError;
use crate::replica::examine::{Examined, How};
use crate::replica::scan::Scan;
use crate::transfer::{Receive, Supply};
use crate::watch::coalesce::{self, Coalescer};
use crate::watch::{Event, Hint};

use message::survey::Answer;
use message::{Hello, Reply, Request, Start};
use serve::Tuning;
pub use settings::{Done, Settings, Style, style};

/// The largest files whose contents a scan attaches to its reports, in bytes: as many as may be open at a time are in
/// memory.
const SCAN_INLINE: u64 = 4096;

/// When an endpoint wants to be called again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Now,
    At(Millis),
    /// When something comes in.
    Idle,
}

/// A file that is being received, and what will be done with it.
struct Incoming<F> {
    apply: Apply,
    /// From the first piece on, or from the first sums: what only waits takes no descriptor.
    receive: Option<Receive<F>>,
    /// What came of it before, while that helps.
    partial: Option<(Name, u64)>,
    /// Credit that is given once the source knows what is there already.
    withheld: u64,
    /// Pieces that wait for a copy before them; the source's credit bounds them.
    queue: VecDeque<Data>,
}

impl<F> Incoming<F> {
    fn new(apply: Apply, receive: Option<Receive<F>>) -> Incoming<F> {
        Incoming { apply, receive, partial: None, withheld: 0, queue: VecDeque::new() }
    }
}

/// A path that cannot be reported.
struct Trouble {
    next: Millis,
    delay: Millis,
}

/// One side of the pair.
pub struct Endpoint<D: Disk, A: Archive> {
    replica: Replica<D, A>,
    settings: Settings,
    coalescer: Coalescer,
    /// Whether a session is on and wants reports.
    reporting: bool,
    /// Whether reports are held back for now.
    held: bool,
    /// Scopes whose events were lost, to be told.
    lost: Vec<(RelPath, &'static str)>,
    /// Whether every directory is watched: a new session needs no scan.
    covered: bool,
    fresh: bool,
    /// Why the archive can be used no more. Nothing is done then but to say so, until a session begins it anew.
    damaged: Option<String>,
    filters: [u8; 32],
    jobs: Vec<Job<D::File>>,
    /// The actions of the batch that waits for its end, if somebody hears of them.
    doing: BTreeMap<Generation, (&'static str, RelPath)>,
    /// What was said since that batch, and is said after its results.
    corked: Vec<Reply>,
    /// What came before it, to be said at once.
    free: Vec<Reply>,
    records: Vec<(Generation, Record)>,
    scans: VecDeque<Scan<D::Dir>>,
    full_scan: Option<Scan<D::Dir>>,
    supplies: BTreeMap<Generation, (RelPath, Supply<D::File>)>,
    incoming: BTreeMap<Generation, Incoming<D::File>>,
    /// Files of this side that are copied into incoming ones.
    copies: BTreeMap<Generation, Supply<D::File>>,
    leavers: saves::Leavers,
    rsync: rsync::Runs<D>,
    /// Paths whose last delta came out wrong: the next time they come whole.
    whole: BTreeSet<RelPath>,
    troubles: BTreeMap<RelPath, Trouble>,
    /// Paths that appeared: directories among them are scanned.
    appeared: BTreeSet<RelPath>,
    /// Paths whose deletion waits, or has waited, for the re-creation that editors make.
    vanished: BTreeSet<RelPath>,
    last_progress: Millis,
    turn: Generation,
    /// When the trash is looked through next.
    next_expiry: Millis,
    /// Questions whether anything is left to look at, and when they came.
    pings: Vec<(u64, Millis)>,
    /// The root itself may have been moved, deleted or unmounted.
    doubts_root: bool,
}

impl<D: Disk, A: Archive> Endpoint<D, A> {
    /// Opens one side: settles what a crash left open. Nothing is watched or reported before a session says so.
    pub fn open(disk: D, archive: A, filter: Filter, settings: Settings, now: Millis) -> Result<Self, ReplicaError> {
        let filters = filter.digest();
        let mut replica = Replica::new(disk, archive, filter, settings.replica.clone());
        let damaged = match replica.begin() {
            Err(ReplicaError::Archive(error)) if error.damaged => Some(error.to_string()),
            begun => begun.map(|()| None)?,
        };
        let fresh = replica.identity.peer == [0; 16];
        Ok(Endpoint {
            replica,
            coalescer: Coalescer::new(settings.timing),
            settings,
            reporting: false,
            held: false,
            lost: Vec::new(),
            covered: false,
            fresh,
            damaged,
            filters,
            jobs: Vec::new(),
            doing: BTreeMap::new(),
            corked: Vec::new(),
            free: Vec::new(),
            records: Vec::new(),
            scans: VecDeque::new(),
            full_scan: None,
            supplies: BTreeMap::new(),
            incoming: BTreeMap::new(),
            copies: BTreeMap::new(),
            leavers: saves::Leavers::default(),
            rsync: rsync::Runs::default(),
            whole: BTreeSet::new(),
            troubles: BTreeMap::new(),
            appeared: BTreeSet::new(),
            vanished: BTreeSet::new(),
            last_progress: now,
            turn: 0,
            next_expiry: 0,
            pings: Vec::new(),
            doubts_root: false,
        })
    }

    /// Takes other settings, from now on.
    pub fn tune(&mut self, tuning: Tuning) {
        self.coalescer.set_timing(tuning.timing);
        if let Some(seconds) = &mut self.settings.trash_seconds {
            *seconds = u64::from(tuning.trash_days) * 86_400;
            self.next_expiry = 0;
        }
    }

    /// Takes in what the watcher saw.
    pub fn event(&mut self, event: Event, now: Millis) {
        match event {
            Event::Dirty { path, hint } => {
                let contents = matches!(hint, Hint::Written | Hint::Closed);
                let translated = self.settings.translate.as_ref().filter(|_| contents).and_then(|t| t.apply(&path));
                let path = translated.unwrap_or(path);
                if hint == Hint::Appeared {
                    self.appeared.insert(path.clone());
                }
                match hint {
                    Hint::Vanished => self.vanish(path, now),
                    _ => self.coalescer.event(path, hint, now),
                }
                for paths in [&mut self.appeared, &mut self.vanished] {
                    if paths.len() > 2 * coalesce::DEFAULT_LIMIT {
                        // The others lie within scopes that are scanned as a whole.
                        paths.retain(|path| self.coalescer.is_dirty(path));
                    }
                }
            }
            Event::Lost { scope, reason } => {
                self.doubts_root |= scope.is_root();
                self.lost.push((scope.clone(), reason));
                self.replica.unscanned.insert(scope);
            }
        }
    }

    /// Takes in a request of the brain. What takes long is done by [`Endpoint::step`].
    pub fn handle(&mut self, request: Request, now: Millis, out: &mut Vec<Reply>) -> Result<(), ReplicaError> {
        let mut said = Vec::new();
        let handled = match &self.damaged {
            Some(why) => damage::answer(&request, why, &mut said).then_some(()),
            None => Some(()),
        };
        let handled = match handled {
            Some(()) => self.take_in(request, now, &mut said),
            None => Ok(()),
        };
        let handled = self.bear(handled, &mut said);
        self.say(said, out);
        handled.map(Option::unwrap_or_default)
    }

    /// Whether the archive can be used no more.
    pub fn damage(&self) -> Option<&str> {
        self.damaged.as_deref()
    }

    fn take_in(&mut self, request: Request, now: Millis, out: &mut Vec<Reply>) -> Result<(), ReplicaError> {
        match request {
            Request::Start(start) => self.start(&start, out)?,
            Request::Rows { above } => {
                let lists = message::cut(self.replica.rows_above(above)?);
                out.extend(lists.into_iter().map(|rows| Reply::Rows { rows }));
                out.push(Reply::RowsEnd);
            }
            Request::Learn { rows } => {
                self.replica.learn(&rows)?;
                self.replica.commit()?;
            }
            Request::Go { peer, scan, whole } => self.go(peer, scan, whole, now)?,
            Request::Apply { generation, apply } => self.apply(generation, apply, out)?,
            Request::Record { generation, record } => self.records.push((generation, record)),
            Request::Examine { path, as_copy } => {
                self.flush(out, now)?;
                self.look(&path, How { again: true, as_copy, inline: u64::MAX, ..How::default() }, now, out)?;
            }
            Request::Hash { path } => {
                self.look(&path, How { again: true, hash: true, ..How::default() }, now, out)?;
            }
            Request::Holds { path, remains } => {
                let is_part = self.replica.holds(&path, &remains)?;
                out.push(Reply::Holds { path, is_part });
            }
            Request::Supply { generation, path, seq, way: Way::Rsync } => self.offer(generation, path, seq, out)?,
            Request::Supply { generation, path, seq, way } => {
                self.supply(generation, path, seq, way == Way::Delta, out)?;
            }
            Request::Rsync { generation, piece } => self.hear_rsync(generation, piece, out)?,
            Request::Sums { generation, sums } => {
                if let Some((_, supply)) = self.supplies.get_mut(&generation) {
                    supply.hear(&sums);
                }
            }
            Request::Data { generation, data } if self.rsync.is_coming(generation) => {
                self.hear_end(generation, &data, out)?;
            }
            Request::Data { generation, data } => self.receive(generation, data, out)?,
            Request::Credit { generation, bytes } => {
                if let Some((_, supply)) = self.supplies.get_mut(&generation) {
                    supply.add_credit(bytes);
                }
            }
            Request::Cancel { generation } => {
                self.supplies.remove(&generation);
                self.copies.remove(&generation);
                self.cancel_rsync(generation);
                if let Some(incoming) = self.incoming.remove(&generation) {
                    self.put_aside(incoming)?;
                }
            }
            Request::Confirm { upto } => self.replica.confirm(upto)?,
            Request::Scan { checksum } => self.full_scan = Some(Scan::new(RelPath::root()).reading(checksum).full()),
            Request::Hold { on } => self.held = on,
            Request::Ping { number } => self.pings.push((number, now)),
            Request::Expire => {
                self.replica.expire_soon();
                self.next_expiry = 0;
            }
            Request::Names { numbers } => self.replica.disk.learn_names(&numbers),
            Request::Check(_) => {
                let reason = "this link serves a session and no check".to_owned();
                out.push(Reply::Checked(Answer::Failed { reason }));
            }
            Request::Stop => {
                self.flush(out, now)?;
                self.finish(out)?;
                self.replica.commit()?;
                self.reporting = false;
                out.push(Reply::Stopped);
            }
        }
        Ok(())
    }

    fn start(&mut self, start: &Start, out: &mut Vec<Reply>) -> Result<(), ReplicaError> {
        if self.damaged.is_some() {
            self.begin_anew()?;
        }
        let ended = self.carry_out_rest(0).and_then(|()| self.forget_session());
        self.unless_damaged(start, ended)?;
        if start.accept {
            self.replica.adopt_root()?;
        }
        if start.union {
            let forgotten = self.replica.forget_ancestors();
            self.unless_damaged(start, forgotten)?;
            self.fresh = true;
            self.covered = false;
        }
        let hello = match self.hello() {
            Ok(hello) => hello,
            Err(ReplicaError::Archive(error)) => return Err(error.into()),
            Err(error) => {
                out.push(Reply::Halt { reason: error.to_string() });
                return Ok(());
            }
        };
        out.push(Reply::Hello(hello));
        // This session may be another agent's.
        out.extend(names(&self.replica.disk.names_used(true)));
        Ok(())
    }

    /// The brain is gone, and may come back. What it asked for is finished and recorded; what users do is kept in mind,
    /// within bounds, and examined when a session wants reports again.
    pub fn part(&mut self, now: Millis) -> Result<(), ReplicaError> {
        if self.damaged.is_some() {
            return Ok(());
        }
        self.carry_out_rest(now)?;
        self.forget_session()?;
        self.replica.commit()
    }

    /// Finishes what an ended session asked for; nobody is told.
    fn carry_out_rest(&mut self, now: Millis) -> Result<(), ReplicaError> {
        let mut unheard = Vec::new();
        self.flush(&mut unheard, now)?;
        self.finish(&mut unheard)?;
        self.corked.clear();
        self.free.clear();
        Ok(())
    }

    /// Ends reports, and contents under way in both directions.
    fn forget_session(&mut self) -> Result<(), ReplicaError> {
        self.reporting = false;
        self.held = false;
        self.pings.clear();
        self.supplies.clear();
        self.copies.clear();
        self.leavers.clear();
        self.end_rsync();
        for (_, incoming) in std::mem::take(&mut self.incoming) {
            self.put_aside(incoming)?;
        }
        Ok(())
    }

    /// Whether the root is still the directory that was opened, and lies where it lay.
    pub fn root_is_there(&self) -> bool {
        self.replica.disk.root_is_there()
    }

    fn hello(&self) -> Result<Hello, ReplicaError> {
        let identity = &self.replica.identity;
        let root = self.replica.root()?;
        Ok(Hello {
            archive: identity.archive,
            peer: identity.peer,
            generation: identity.generation,
            confirmed: identity.confirmed,
            fresh: self.fresh,
            rebooted: self.replica.is_unproven(),
            rows: self.replica.count_rows()?,
            top_entries: root.entries,
            side: identity.side,
            exchanged: root.exchanged,
            filters: self.filters,
            clock: self.replica.clock(),
            watching: self.covered && self.full_scan.is_none(),
        })
    }

    fn go(&mut self, peer: [u8; 16], scan: bool, whole: bool, now: Millis) -> Result<(), ReplicaError> {
        self.replica.meet_peer(peer)?;
        self.fresh = false;
        self.reporting = true;
        self.last_progress = now;
        self.replica.reopen_reports()?;
        if scan || !self.covered {
            self.scans.clear();
            self.full_scan = Some(Scan::new(RelPath::root()).full().attaching(if whole { SCAN_INLINE } else { 0 }));
        }
        Ok(())
    }

    fn apply(&mut self, generation: Generation, apply: Apply, out: &mut Vec<Reply>) -> Result<(), ReplicaError> {
        if let Step::SetAttrs { entry, expect } = &apply.step
            && self.replica.is_followed(&apply.path)
        {
            // The file that the link leads to is another's: what comes back replaces the link.
            match self.replica.stage_copy(generation, &apply.path, &entry.attrs) {
                Ok(staged) => {
                    let (entry, expect) = (entry.clone(), expect.clone());
                    let source = Source::Inline(serde_bytes::ByteBuf::new());
                    let step = Step::Put { entry, source, expect, displaced: Displaced::Trash };
                    self.jobs.push(Job { generation, apply: Apply { step, ..apply }, staged: Some(staged) });
                }
                Err(error) => fail(generation, error, out)?,
            }
            return Ok(());
        }
        let Step::Put { entry, source, expect, .. } = &apply.step else {
            self.jobs.push(Job { generation, apply, staged: None });
            return Ok(());
        };
        if let Some(way) = source.way() {
            let large = entry.size() > crate::transfer::WHOLE && self.jobs.is_empty();
            if large && self.replica.refuses(&apply.path, expect)? {
                self.jobs.push(Job { generation, apply, staged: None });
                return Ok(());
            }
            if way == Way::Rsync {
                self.expect_rsync(generation, apply);
                return Ok(());
            }
            return self.begin_receiving(generation, apply, way == Way::Delta, out);
        }
        if let Source::Held { from, node, known } = source {
            let held = self.replica.open_held(from, *node, *known)?;
            return self.copy(generation, apply, held, out);
        }
        let bytes: &[u8] = if let Source::Inline(bytes) = source { bytes } else { &[] };
        match self.replica.stage_whole(generation, &apply.path, entry, bytes) {
            Ok(staged) if staged.hash.is_some_and(|hash| entry.hash().is_some_and(|wanted| wanted != hash)) => {
                // Not what was reported: the next time they are asked for, piece by piece.
                self.replica.unstage(&staged.name);
                out.push(Reply::Result { generation, outcome: Outcome::NoSource });
            }
            Ok(staged) => self.jobs.push(Job { generation, apply, staged: Some(staged) }),
            Err(error) => fail(generation, error, out)?,
        }
        Ok(())
    }

    /// Examines one path and reports or troubles about it.
    fn look(&mut self, path: &RelPath, how: How, now: Millis, out: &mut Vec<Reply>) -> Result<(), ReplicaError> {
        if let Some(above) = self.replica.unreported_above(path)? {
            // Parents first: what lies in an unknown directory makes no sense to the other side.
            let plain = How { inline: how.inline, ..How::default() };
            self.look(&above, plain, now, out)?;
            if self.troubles.contains_key(&above) {
                // What lies in it waits for the end of that: then all of it is scanned.
                if how.again {
                    self.take_back(path, out)?;
                }
                if self.troubles.remove(path).is_some() {
                    out.push(Reply::Problem { path: path.clone(), problem: None });
                }
                return Ok(());
            }
        }
        self.look_at_leaver(path, how, now, out)?;
        let how = How { patient: self.is_patient(path, now), ..how };
        let examined = self.replica.examine(path, how)?;
        let fine = !matches!(examined, Examined::Problem(_) | Examined::Busy);
        let waited = self.vanished.remove(path);
        if !matches!(examined, Examined::Left { .. }) {
            self.release_move(path);
        }
        match examined {
            // A deletion waits for the re-creation that editors make, whoever asks, or whatever the look was due for.
            Examined::Changed(change) if change.after.is_none() && change.known.is_some() && (how.again || !waited) => {
                self.vanish(path.clone(), now);
                match how.again {
                    true => self.take_back(path, out)?,
                    false => self.replica.withdraw_report(path)?,
                }
            }
            // A full sync sends it.
            Examined::Changed(change) if !how.again && self.waits_for_full_sync(&change) => {
                self.coalescer.clean(path);
                self.replica.withdraw_report(path)?;
            }
            Examined::Changed(change) => {
                if change.after.as_ref().is_some_and(|e| e.kind() == Kind::Dir) && (!how.again || how.as_copy) {
                    // Below a directory that is taken for a new one everything is to be looked at.
                    self.replica.unscanned.insert(path.clone());
                }
                self.coalescer.sent(path, now);
                out.push(Reply::Report(*change));
            }
            Examined::Left { from, made } => {
                if !self.hold_move(path, from, made, now) {
                    return self.look(path, how, now, out);
                }
                if how.again {
                    self.take_back(path, out)?;
                }
            }
            Examined::Busy => {
                if self.coalescer.busy(path, now) {
                    self.look(path, How { despite_writers: true, ..how }, now, out)?;
                } else if how.again {
                    self.take_back(path, out)?;
                }
            }
            // The directory may turn up under another name: its own deletion waits as every other.
            Examined::Above(above) => self.vanish(above, now),
            Examined::Problem(problem) => {
                if how.again {
                    self.take_back(path, out)?;
                }
                self.trouble(path, now);
                out.push(Reply::Problem { path: path.clone(), problem: Some(problem) });
            }
            Examined::Same | Examined::Known | Examined::Excluded => {
                self.coalescer.clean(path);
                if how.again {
                    out.push(Reply::Clean { path: path.clone() });
                }
            }
        }
        if fine && self.troubles.remove(path).is_some() {
            // If it is a directory, it may not have been listed.
            self.replica.unscanned.insert(path.clone());
            out.push(Reply::Problem { path: path.clone(), problem: None });
        }
        Ok(())
    }

    /// Nothing lies at the path any more, which is told if it is so for a while.
    fn vanish(&mut self, path: RelPath, now: Millis) {
        self.vanished.insert(path.clone());
        self.coalescer.event(path, Hint::Vanished, now);
    }

    /// Whether contents changed that travel with the next full sync only.
    fn waits_for_full_sync(&self, change: &Change) -> bool {
        let file = change.after.as_ref().is_some_and(|after| after.kind() == Kind::File);
        self.settings.style == Style::Batched && file && change.contents && change.moved.is_none()
    }

    /// The brain is to forget what was reported of a path; so must the replica, or the next look would find nothing new.
    fn take_back(&mut self, path: &RelPath, out: &mut Vec<Reply>) -> Result<(), ReplicaError> {
        self.replica.withdraw_report(path)?;
        out.push(Reply::Clean { path: path.clone() });
        Ok(())
    }

    fn trouble(&mut self, path: &RelPath, now: Millis) {
        const FIRST: Millis = 1_000;
        const LAST: Millis = 300_000;
        const MAX: usize = 10_000;
        if self.troubles.len() >= MAX && !self.troubles.contains_key(path) {
            return;
        }
        let trouble = self.troubles.entry(path.clone()).or_insert(Trouble { next: 0, delay: FIRST / 2 });
        trouble.delay = (trouble.delay * 2).min(LAST);
        trouble.next = now + trouble.delay;
    }
}

/// Names with their numbers, in messages that are well below a frame: a name has a few hundred bytes at most.
fn names(numbers: &[OwnerNumber]) -> Vec<Reply> {
    numbers.chunks(1024).map(|numbers| Reply::Names { numbers: numbers.to_vec() }).collect()
}

/// Answers for an action that could not even be staged.
fn fail(generation: Generation, error: ReplicaError, out: &mut Vec<Reply>) -> Result<(), ReplicaError> {
    let problem = error.into_problem()?;
    out.push(Reply::Result { generation, outcome: Outcome::Failed(problem) });
    Ok(())
}

#[cfg(test)]
mod tests;
