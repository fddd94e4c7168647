//! One side as the brain sees it: [`crate::protocol`] is the contract, [`Endpoint`] fulfils it above a replica, a
//! coalescer and the transfers. It is a state machine like the engine, but for the disk and the archive that it owns:
//! whoever runs it (a thread, the agent's loop, the simulator) hands it requests, events and the time, and calls
//! [`Endpoint::step`].

mod above;
pub mod admit;
pub mod agent;
pub mod backlog;
mod begin;
mod caller;
mod checks;
mod damage;
mod dir_times;
mod doctor;
pub mod expire;
pub mod flood;
pub mod heartbeat;
mod long;
mod look;
pub mod open;
mod openings;
mod policy;
mod proofs;
mod root;
pub mod rsync;
mod saves;
pub mod serve;
pub mod service;
mod settings;
mod shortage;
mod special;
pub mod survey;
mod tally;
mod tenure;
mod transfers;
mod work;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::filter::Filter;
use crate::model::{Generation, Millis, Name, OwnerNumber, Problem, RelPath, Time};
use crate::protocol::{AncestorRow, Apply, Data, Displaced, Outcome, Record, Reply, Request, Source, Start, Step, Way};
use crate::replica::Replica;
use crate::replica::archive::Archive;
use crate::replica::batch::Job;
use crate::replica::disk::Disk;
use crate::replica::error::ReplicaError;
use crate::replica::examine::How;
use crate::replica::place::attrs::Copied;
use crate::replica::scan::Scan;
use crate::replica::stage::Undressed;
use crate::transfer::{Receive, Supply};
use crate::watch::coalesce::{self, Coalescer};
use crate::watch::{Event, Hint};

use policy::{Own, Policy, Refusal};
use serve::Tuning;
pub use tally::Waiting;

pub use settings::{Done, Settings, Style, style};

/// The largest files whose contents a scan attaches to its reports, in bytes: as many as may be open at a time are in
/// memory.
const SCAN_INLINE: u64 = 4096;

/// Questions whether anything is left to look at that are kept; older ones are void.
const PINGS_MAX: usize = 64;

/// When an endpoint wants to be called again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Now,
    At(Millis),
    /// When something comes in.
    Idle,
}

/// Files with other names that are copied at a time; more are tried again.
const COPIES: usize = 128;

/// A file that is being received, and what will be done with it.
struct Incoming<F> {
    apply: Apply,
    /// From the first piece on, or from the first sums: what only waits takes no descriptor.
    receive: Option<Receive<F>>,
    /// What came of it before, while that helps.
    partial: Option<(Name, u64)>,
    /// Bytes that are said to come, and did not yet.
    awaits: u64,
    /// Bytes of it that are data, as it is said.
    takes: u64,
    /// Credit that is given once the source knows what is there already.
    withheld: u64,
    /// Pieces that wait for a copy before them; the source's credit bounds them.
    queue: VecDeque<Data>,
    /// It is a copy of what it will replace, which has other names.
    links: bool,
}

impl<F> Incoming<F> {
    fn new(apply: Apply, receive: Option<Receive<F>>) -> Incoming<F> {
        let takes = transfers::size_of(&apply);
        Incoming { apply, receive, partial: None, awaits: 0, takes, withheld: 0, queue: VecDeque::new(), links: false }
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
    /// The renames of that batch, from where to where.
    renames: BTreeMap<Generation, Vec<(RelPath, RelPath)>>,
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
    /// Large files that are read slice by slice, and why they are looked at.
    readings: VecDeque<(RelPath, How)>,
    proofs: proofs::Proofs,
    special: special::Told,
    tally: tally::Tally,
    troubles: BTreeMap<RelPath, Trouble>,
    long: long::Long,
    openings: openings::Openings,
    dir_times: dir_times::DirTimes,
    /// Paths that appeared: directories among them are scanned.
    appeared: BTreeSet<RelPath>,
    /// Directories that a scan has entered while events of their making may still come: all in them was seen, or is told
    /// by events of its own. A tree that is made level by level is not scanned again from each of its levels.
    entered: BTreeMap<RelPath, (u64, Time)>,
    /// Those of them that were reported a moment ago, so that they wait: what vanished elsewhere may lie there.
    arrivals: BTreeSet<RelPath>,
    /// Paths whose deletion waits, or has waited, for the re-creation that editors make.
    vanished: BTreeSet<RelPath>,
    last_progress: Millis,
    turn: Generation,
    /// When the trash is looked through next.
    next_expiry: Millis,
    /// When the room on the disk is looked at next, after something was refused for want of it.
    looks: shortage::Looks,
    /// Questions whether anything is left to look at, and when they came.
    pings: Vec<(u64, Millis)>,
    root: root::Doubt,
    /// psync's own directory is not where it was: nothing is done any more, and the session was told.
    astray: bool,
    policy: Policy,
    /// Why the session is over.
    refused: Option<String>,
    /// What the other archive knows better, until all of it has come.
    lessons: Vec<AncestorRow>,
    /// The pair of the session, for people.
    pair: String,
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
        let fresh = replica.identity().peer == [0; 16];
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
            renames: BTreeMap::new(),
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
            readings: VecDeque::new(),
            proofs: proofs::Proofs::default(),
            special: special::Told::default(),
            tally: tally::Tally::default(),
            troubles: BTreeMap::new(),
            long: long::Long::default(),
            openings: openings::Openings::default(),
            dir_times: dir_times::DirTimes::default(),
            appeared: BTreeSet::new(),
            entered: BTreeMap::new(),
            arrivals: BTreeSet::new(),
            vanished: BTreeSet::new(),
            last_progress: now,
            turn: 0,
            next_expiry: 0,
            looks: Default::default(),
            pings: Vec::new(),
            root: root::Doubt::default(),
            astray: false,
            policy: Policy::new(),
            refused: None,
            lessons: Vec::new(),
            pair: String::new(),
        })
    }

    /// Takes other settings, from now on.
    pub fn tune(&mut self, tuning: Tuning) {
        self.replica.set_removals(tuning.removal.limit(), tuning.removal.force);
        self.coalescer.set_timing(tuning.timing);
        if let Some(seconds) = &mut self.settings.trash_seconds {
            *seconds = tuning.trash.seconds();
            self.next_expiry = 0;
        }
    }

    /// Takes in what the watcher saw.
    pub fn event(&mut self, event: Event, now: Millis) {
        match event {
            Event::Dirty { path, hint } => {
                self.dir_times.event(&path, hint, now);
                let contents = matches!(hint, Hint::Written | Hint::Closed);
                let translated = self.settings.translate.as_ref().filter(|_| contents).and_then(|t| t.apply(&path));
                let path = translated.unwrap_or(path);
                if hint == Hint::Appeared {
                    self.appeared.insert(path.clone());
                    if self.coalescer.is_quiet(&path, now) {
                        self.arrivals.insert(path.clone());
                    }
                    if path.is_at_the_limit() {
                        // It may be a name in it that is meant, and cannot be told.
                        self.entered.remove(&path);
                    }
                }
                match hint {
                    Hint::Vanished => {
                        self.forget_entered(&path);
                        self.vanish(path, now);
                    }
                    _ => {
                        // If it is gone again, that is another deletion, and waits anew.
                        self.vanished.remove(&path);
                        self.coalescer.event(path, hint, now);
                    }
                }
                for paths in [&mut self.appeared, &mut self.arrivals, &mut self.vanished] {
                    if paths.len() > 2 * coalesce::DEFAULT_LIMIT {
                        // The others lie within scopes that are scanned as a whole.
                        paths.retain(|path| {
                            self.coalescer.is_dirty(path) || self.replica.agenda().is_to_be_looked_at(path)
                        });
                    }
                }
            }
            Event::Lost { scope, reason } => {
                self.root.doubt(&scope);
                self.entered.clear();
                self.lost.push((scope.clone(), reason));
                self.replica.agenda_mut().scan(scope);
            }
        }
    }

    /// What left its name, or came to another one, is entered anew.
    fn forget_entered(&mut self, top: &RelPath) {
        let below = self.entered.range(top.clone()..).map(|(path, _)| path).take_while(|path| path.is_within(top));
        for path in below.cloned().collect::<Vec<_>>() {
            self.entered.remove(&path);
        }
    }

    /// Takes in a request of the brain, if it is one that a brain may make: else [`Endpoint::take_refusal`] says why the
    /// session is over. What takes long is done by [`Endpoint::step`].
    pub fn handle(&mut self, request: Request, now: Millis, out: &mut Vec<Reply>) -> Result<(), ReplicaError> {
        let own = Own {
            generation: self.replica.identity().generation,
            rows: if self.damaged.is_none() { self.replica.count_rows()? } else { 0 },
            seq: self.replica.last_seq(),
        };
        let request = match self.policy.admit(request, &own) {
            Ok(Some(request)) => request,
            Ok(None) => return Ok(()),
            Err(Refusal { reason }) => {
                self.reporting = false;
                self.refused = Some(reason);
                return Ok(());
            }
        };
        let mut said = Vec::new();
        let handled = match &self.damaged {
            Some(why) => damage::answer(&request, why, &mut said),
            None => true,
        };
        let handled = match handled {
            true => self.take_in(request, now, &mut said).and_then(|()| self.all_directories_first(&mut said, now)),
            false => Ok(()),
        };
        let handled = self.bear(handled, &mut said);
        self.say(said, out);
        handled.map(Option::unwrap_or_default)
    }

    /// Whether the archive can be used no more.
    pub fn damage(&self) -> Option<&str> {
        self.damaged.as_deref()
    }

    /// Whether what the replica knows of its reports holds together; the error says what does not. For tests.
    pub fn check(&self) -> Result<(), String> {
        self.replica.check()
    }

    /// Why the session is over, if the other side asked for what nobody may ask. Until the next one begins nothing more is
    /// taken in.
    pub fn take_refusal(&mut self) -> Option<String> {
        self.refused.take()
    }

    fn take_in(&mut self, request: Request, now: Millis, out: &mut Vec<Reply>) -> Result<(), ReplicaError> {
        match request {
            Request::Start(start) => self.start(&start, now, out)?,
            Request::Rows { above } => {
                let lists = crate::protocol::cut(self.replica.rows_above(above)?);
                out.extend(lists.into_iter().map(|rows| Reply::Rows { rows }));
                out.push(Reply::RowsEnd);
            }
            // All of it at once: rows that make no sense together are found before one is stored.
            Request::Learn { rows } => self.lessons.extend(rows),
            Request::Go { peer, scan, whole, doubt } => {
                self.replica.doubt_dir_times(doubt);
                self.go(peer, scan, whole, now)?;
            }
            Request::Apply { generation, apply } => self.apply(generation, apply, out)?,
            Request::Record { generation, mut record } => {
                self.replica.own_acls_of_record(generation, &mut record)?;
                self.replica.forget_kept(&record.path);
                self.records.push((generation, record));
            }
            Request::Examine { path, as_copy } => {
                self.flush(out, now)?;
                self.look(&path, How::asked(as_copy), now, out)?;
            }
            Request::Hash { path } => {
                self.look(&path, How::asked_for_hash(), now, out)?;
            }
            Request::Holds { path, remains } => {
                if !self.replica.compare_later(path, remains) {
                    self.policy.end();
                    self.reporting = false;
                    self.refused = Some("the other side asks for more comparisons than it can have doubts".to_owned());
                }
            }
            Request::Supply { generation, path, seq, way: Way::Rsync } => self.offer(generation, path, seq, out)?,
            Request::Supply { generation, path, seq, way } => {
                self.supply(generation, path, seq, way == Way::Delta, out)?;
            }
            Request::Rsync { generation, piece } => self.hear_rsync(generation, piece, out)?,
            Request::Sums { generation, sums } => {
                let whole = self.policy.goes_whole(generation);
                if let Some((_, supply)) = self.supplies.get_mut(&generation) {
                    if whole { supply.hear_nothing() } else { supply.hear(&sums) }
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
            Request::Scan { checksum } => {
                self.full_scan = Some(Scan::new(RelPath::root()).reading(checksum).full());
                self.hasten_troubles();
            }
            Request::Hold { on } => {
                self.held = on;
                self.hasten_troubles();
            }
            Request::Ping { number } => {
                // Where users never rest a brain asks again and again, and means the last time.
                if self.pings.len() >= PINGS_MAX {
                    self.pings.remove(0);
                }
                self.pings.push((number, now));
            }
            Request::SetDirTimes { times } => self.set_dir_times(&times)?,
            Request::DirTimesAgreed { times } => self.agree_dir_times(&times, now)?,
            Request::Settled => self.replica.settle_removals()?,
            Request::Expire => {
                self.replica.expire_soon();
                self.next_expiry = 0;
            }
            Request::Names { numbers } => self.replica.disk().learn_names(&numbers),
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

    fn start(&mut self, start: &Start, now: Millis, out: &mut Vec<Reply>) -> Result<(), ReplicaError> {
        if self.damaged.is_some() {
            self.begin_anew()?;
        }
        let ended = self.carry_out_rest(now).and_then(|()| self.forget_session());
        self.unless_damaged(start, ended)?;
        // This session has not heard of it.
        self.astray = false;
        self.pair.clone_from(&start.pair);
        if start.accept {
            self.replica.adopt_root()?;
        }
        if start.union {
            let forgotten = self.replica.forget_ancestors();
            self.unless_damaged(start, forgotten)?;
            self.fresh = true;
            self.covered = false;
        }
        self.replica.set_now(now);
        self.replica.begin_removals(start.accept)?;
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
        out.extend(names(&self.replica.disk().names_used(true)));
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
        self.dir_times.reopen(now);
        self.policy.part();
        self.replica.commit()
    }

    /// Finishes what an ended session asked for; nobody is told.
    fn carry_out_rest(&mut self, now: Millis) -> Result<(), ReplicaError> {
        let mut unheard = Vec::new();
        if !self.is_astray(&mut unheard)? {
            self.flush(&mut unheard, now)?;
        }
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
        self.lessons.clear();
        self.refused = None;
        self.supplies.clear();
        self.copies.clear();
        self.leavers.clear();
        self.openings.clear();
        self.dir_times.forget_session();
        self.readings.clear();
        self.proofs = proofs::Proofs::default();
        self.tally.forget();
        self.replica.stop_readings();
        self.end_rsync();
        self.replica.forget_shortage();
        for (_, incoming) in std::mem::take(&mut self.incoming) {
            self.put_aside(incoming)?;
        }
        Ok(())
    }

    /// Whether the root is still the directory that was opened, and lies where it lay.
    pub fn root_is_there(&self) -> bool {
        self.replica.disk().root_is_there() && self.replica.disk().own_is_there().is_ok()
    }

    /// Halts if psync's own directory was moved or replaced: what was to be done is dropped, as a crash would.
    fn is_astray(&mut self, out: &mut Vec<Reply>) -> Result<bool, ReplicaError> {
        let Err(reason) = self.replica.disk().own_is_there() else {
            self.astray = false;
            return Ok(false);
        };
        for job in std::mem::take(&mut self.jobs) {
            if let Some(staged) = job.staged {
                self.replica.unstage(&staged.name);
            }
        }
        self.records.clear();
        self.replica.drop_prepared();
        // Names that were changed get their rows: those go by what is open.
        self.finish(out)?;
        if !std::mem::replace(&mut self.astray, true) {
            self.forget_session()?;
            out.push(Reply::Halt { reason });
        }
        Ok(true)
    }

    fn apply(&mut self, generation: Generation, mut apply: Apply, out: &mut Vec<Reply>) -> Result<(), ReplicaError> {
        self.replica.own_acls_of_action(generation, &mut apply)?;
        if let Some(problem) = self.too_large(&apply).or_else(|| self.no_fifo(&apply)) {
            out.push(Reply::Result { generation, outcome: Outcome::Failed(problem) });
            return Ok(());
        }
        if let Step::SetAttrs { entry, expect } = &apply.step {
            let copied = match self.replica.on_a_copy(&apply.path, entry) {
                Ok(copied) => copied,
                Err(error) => return fail(generation, error, out),
            };
            let (entry, expect) = (entry.clone(), expect.clone());
            let source = Source::Inline(serde_bytes::ByteBuf::new());
            let step = Step::Put { entry, source, expect, displaced: Displaced::Trash };
            match copied {
                Copied::No => self.jobs.push(Job { generation, apply, staged: None }),
                // Each holds two descriptors.
                Copied::Followed(..) | Copied::Linked(..) if self.copies.len() >= COPIES => {
                    out.push(Reply::Result { generation, outcome: Outcome::Busy });
                }
                Copied::Followed(file, signature) => {
                    self.copy(generation, Apply { step, ..apply }, Some((file, signature)), out)?;
                }
                Copied::Linked(file, signature) => {
                    self.copy(generation, Apply { step, ..apply }, Some((file, signature)), out)?;
                    if let Some(incoming) = self.incoming.get_mut(&generation) {
                        incoming.links = true;
                    }
                }
            }
            return Ok(());
        }
        let Step::Put { entry, source, expect, .. } = &apply.step else {
            self.replica.forget_kept(&apply.path);
            self.jobs.push(Job { generation, apply, staged: None });
            return Ok(());
        };
        // Contents that come in pieces tell with the first one how much room they take.
        let size = if let Source::Inline(bytes) = source { bytes.len() as u64 } else { 0 };
        if let Err(error) = self.require(&apply.path, size, entry.size(), out) {
            return fail(generation, error, out);
        }
        if let Some((name, file, hash)) = self.replica.take_kept(generation, &apply.path, entry) {
            let (path, attrs) = (apply.path.clone(), entry.attrs.clone());
            return match self.replica.finish(&path, Undressed::file(name, file), &attrs, Some(hash)) {
                Ok(staged) => {
                    self.jobs.push(Job { generation, apply, staged: Some(staged) });
                    Ok(())
                }
                Err(error) => fail(generation, error, out),
            };
        }
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
            let held = self.replica.open_held(from, *node, *known, entry)?;
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

    /// Why contents are not taken: this side's own settings decide, and what a file can have at all.
    fn too_large(&self, apply: &Apply) -> Option<Problem> {
        let size = transfers::size_of(apply);
        let most = self.replica.settings().max_size.min(i64::MAX as u64);
        (size > most).then(|| self.replica.too_large(&apply.path, size))
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
