//! All decisions, as a state machine: `(state, input, now) → effects`. No I/O, no clock.
//!
//! A session begins with both sides' Hello and the exchange of rows ([`session`]). Then reports come in and wait as
//! *pending* changes; [`reconcile`] decides one path, [`plan`] makes actions of it, [`flight`] follows each action until
//! both archives hold its row. [`locks`] keeps actions apart, [`guard`] halts before a disaster.

mod claims;
mod creations;
mod dir_times;
mod distrust;
mod exchange;
mod flight;
pub mod locks;
mod moves;
mod news;
mod openings;
mod orders;
mod places;
mod plan;
pub mod reconcile;
mod round;
mod session;
#[cfg(test)]
mod tests;
mod young;

use std::collections::{BTreeMap, BTreeSet};

use crate::model::rights::Numbers;
use crate::model::{Generation, Millis, NodeId, RelPath, Seq, Side, Sides};
use crate::protocol::{AncestorRow, Change, Hello, Reply, Request, Way, Weight};

pub use crate::model::guard;
use claims::Claims;
use creations::Creations;
use distrust::Distrusts;
use flight::Flight;
use guard::Guard;
use locks::Locks;
pub use news::News;
use places::{Places, Standing};
pub use reconcile::Prefer;
use round::Round;
use young::{Loss, Young};

/// Rules that users may choose.
#[derive(Debug, Clone)]
pub struct Settings {
    pub pair: String,
    pub prefer: Prefer,
    /// Keep the loser of a conflict beside the winner, not only in the trash.
    pub copies: bool,
    /// Remove non-empty directories, whatever they hold.
    pub force: bool,
    /// Leave alone what differs when the session starts.
    pub skip_initial: bool,
    /// Deletions within ten minutes that halt the pair.
    pub max_delete: guard::Limit,
    /// Files from this size on, on both sides, travel as a delta.
    pub delta_min: u64,
    /// All contents that travel go through rsync.
    pub rsync: bool,
    /// Decide and tell, but do nothing.
    pub dry_run: bool,
    /// A run that ends once what its scans found is dealt with.
    pub once: bool,
    /// Digest of the filters.
    pub filters: [u8; 32],
    /// The right side's root, where that serves the pair by its name; else empty.
    pub right_root: Vec<u8>,
    /// It is asked over a socket; a run in the foreground is ended and started again.
    pub service: bool,
}

/// What happens to the engine.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// Both endpoints can be reached: begin a session.
    Start {
        incarnation: u64,
        accept: bool,
        union: bool,
    },
    Reply(Side, Reply),
    /// The clock moved.
    Tick,
    /// Rescan both sides; with `checksum` read the contents of files that look unchanged as well.
    Scan {
        checksum: bool,
    },
    /// Stop propagation, or go on.
    Pause(bool),
    /// Finish what is under way and end.
    Stop,
}

/// What the engine wants done.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    Send(Side, Request),
    /// This side said what cannot be: its link ends, and the pair stays halted.
    HangUp(Side),
    Tell(News),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Idle,
    Greeting,
    Exchanging,
    Running,
    Halted,
    Stopping,
    Stopped,
}

/// A change that waits to be acted on.
#[derive(Debug, Clone)]
struct Pending {
    change: Change,
    since: Millis,
    not_before: Millis,
    /// What is gone by it, for the guard.
    deletes: Loss,
    /// What it takes in memory.
    weight: usize,
}

/// What the engine knows of one side.
#[derive(Debug, Default)]
struct SideState {
    hello: Option<Hello>,
    /// When the Hello came.
    greeted: Millis,
    rows: Vec<AncestorRow>,
    rows_done: bool,
    pending: BTreeMap<RelPath, Pending>,
    /// What they take in memory, and of that the contents that came along.
    weight: usize,
    inline: usize,
    /// `None`: the scan is done. Before its first word everything is ahead of it.
    cursor: Option<RelPath>,
    /// When its scan came to its end.
    scanned: Millis,
    /// What was made here and is on its way: deletions of this side may wait for it.
    creations: Creations,
    /// The question whether anything is left to look at, for what is gone and may turn up elsewhere: its number, and when
    /// it was asked.
    inquiry: Option<(u64, Millis)>,
    /// When the last such question was asked that has an answer.
    settled: Option<Millis>,
    /// Deletions that are pending, with what lay below them.
    deleting: Loss,
    /// How much of what it deletes it may have made itself.
    young: Young,
    /// Its reports that may be what a power failure left.
    distrusts: Distrusts,
    problems: BTreeSet<RelPath>,
    /// Those of the problems that an action of ours met; the others are the endpoint's own.
    failed: BTreeSet<RelPath>,
    /// What it has no room for, with its size.
    short: BTreeMap<RelPath, u64>,
    /// When it said last that there is room.
    roomy: Option<Millis>,
    /// Paths that the side was asked to look at, and has not answered yet.
    asked: BTreeSet<RelPath>,
    stopped: bool,
}

/// The pure core of the brain.
#[derive(Debug)]
pub struct Engine {
    settings: Settings,
    phase: Phase,
    accept: bool,
    /// Neither side had an archive: equal objects agree unread, and losers go to the trash.
    first: bool,
    /// The sides heard in this session that both are equal.
    settled: bool,
    now: Millis,
    sides: Sides<SideState>,
    /// Who is root, or another user of the system.
    numbers: Numbers,
    flights: BTreeMap<Generation, Flight>,
    locks: Locks,
    /// The nodes of the directories in flight.
    making: BTreeMap<RelPath, NodeId>,
    /// Those that were made since the pair was in sync last, while nothing moved or went: for what was reported in them
    /// before they were known.
    made: BTreeMap<RelPath, NodeId>,
    guard: Guard,
    claims: Sides<Claims>,
    next_generation: Generation,
    confirmed: Generation,
    /// Recorded on both sides, and not confirmed yet.
    completed: BTreeSet<Generation>,
    /// Joint actions that one side alone has recorded, with their nodes. As long as nothing later was agreed on of the node, no
    /// generation from there on is confirmed: a session that ends before must be followed by one that hears of it.
    halves: BTreeMap<Generation, NodeId>,
    /// Paths to be considered now, and later.
    ready: BTreeSet<RelPath>,
    timers: BTreeSet<(Millis, RelPath)>,
    blocked: BTreeSet<RelPath>,
    /// Paths that wait for the directory above them that is nearest and not dealt with.
    behind: BTreeMap<RelPath, BTreeSet<RelPath>>,
    /// Paths with a move that waits for what is in flight at its other end.
    blocked_moves: BTreeSet<RelPath>,
    /// How often in a row a path was refused, busy or failed.
    strikes: BTreeMap<RelPath, (u32, Millis)>,
    /// Where each side has the nodes that it moved.
    places: Places,
    /// How many of the pending changes are moves.
    moves: usize,
    streams: usize,
    /// Bytes of contents that travel in one piece, of actions in flight.
    carried: u64,
    in_sync: bool,
    paused: bool,
    /// A full scan is to come, with checksums or without.
    scan_wanted: Option<bool>,
    settling: Option<round::Settling>,
    round: Round,
    dir_times: dir_times::DirTimes,
    pings: u64,
    /// Files on the left and their bytes, by its archive; in a dry run, which writes none, by its scan.
    holds: (u64, u64),
    fx: Vec<Effect>,
}

/// Actions in flight at the same time.
const FLIGHTS_MAX: usize = 2048;
/// Files whose contents stream at the same time.
const STREAMS_MAX: usize = 256;
/// What travels in one piece is no stream any more once it has passed; so many bytes of that may be under way.
const CARRIED_MAX: u64 = 16 * 1024 * 1024;
/// Bytes of contents that came with reports which wait.
const INLINE_MAX: usize = 16 * 1024 * 1024;
/// A deletion waits at most this long for what its side made before it.
const DELETION_WAIT: Millis = 30_000;

fn inline(pending: &Pending) -> usize {
    pending.change.inline.as_ref().map_or(0, |bytes| bytes.len())
}

impl Engine {
    pub fn new(settings: Settings) -> Engine {
        let guard = Guard::new(settings.max_delete);
        Engine {
            settings,
            phase: Phase::Idle,
            accept: false,
            first: false,
            settled: false,
            now: 0,
            sides: Default::default(),
            numbers: Numbers::default(),
            flights: BTreeMap::new(),
            locks: Locks::default(),
            making: BTreeMap::new(),
            made: BTreeMap::new(),
            guard,
            claims: Default::default(),
            next_generation: 0,
            confirmed: 0,
            completed: BTreeSet::new(),
            halves: BTreeMap::new(),
            ready: BTreeSet::new(),
            timers: BTreeSet::new(),
            blocked: BTreeSet::new(),
            behind: BTreeMap::new(),
            blocked_moves: BTreeSet::new(),
            strikes: BTreeMap::new(),
            places: Places::default(),
            moves: 0,
            streams: 0,
            carried: 0,
            in_sync: false,
            paused: false,
            scan_wanted: None,
            settling: None,
            round: Round::default(),
            dir_times: dir_times::DirTimes::default(),
            pings: 0,
            holds: (0, 0),
            fx: Vec::new(),
        }
    }

    /// Takes one input and returns what is to be done, in order.
    pub fn handle(&mut self, input: Input, now: Millis) -> Vec<Effect> {
        self.now = now;
        match input {
            Input::Start { incarnation, accept, union } => self.start(incarnation, accept, union),
            Input::Reply(side, reply) => {
                if let Some(reply) = self.believe(side, reply, now) {
                    self.reply(side, reply, now);
                }
            }
            Input::Tick => {}
            Input::Scan { checksum } => self.want_scan(checksum),
            Input::Pause(on) => self.pause(on),
            Input::Stop => self.stop(),
        }
        self.pump(now);
        std::mem::take(&mut self.fx)
    }

    /// When the engine wants a [`Input::Tick`]; `None` if only other inputs matter.
    pub fn next_due(&self) -> Option<Millis> {
        self.timers.first().map(|(due, _)| *due).into_iter().chain(self.round.due()).min()
    }

    /// Whether both sides are scanned and nothing waits or is under way.
    pub fn is_quiet(&self) -> bool {
        self.phase == Phase::Running
            && self.flights.is_empty()
            && self.dir_times.is_empty()
            && self.sides.values().all(|s| s.cursor.is_none() && s.pending.is_empty() && s.asked.is_empty())
    }

    /// The number of changes that wait and of actions in flight.
    pub fn load(&self) -> (usize, usize) {
        (self.sides.values().map(|s| s.pending.len()).sum(), self.flights.len())
    }

    pub fn is_halted(&self) -> bool {
        self.phase == Phase::Halted
    }

    fn send(&mut self, side: Side, request: Request) {
        self.fx.push(Effect::Send(side, request));
    }

    fn tell(&mut self, news: News) {
        self.fx.push(Effect::Tell(news));
    }

    fn side(&mut self, side: Side) -> &mut SideState {
        &mut self.sides[side]
    }

    fn reply(&mut self, side: Side, reply: Reply, now: Millis) {
        match reply {
            Reply::Hello(hello) => self.hello(side, hello, now),
            Reply::Names { numbers } => self.pass_names(side, numbers),
            Reply::Away { reason } => self.halt_away(side, &reason),
            Reply::Halt { reason } => self.halt_by(side, &reason),
            Reply::OtherRoot { root } => self.halt_elsewhere(&root),
            Reply::Damaged { detail } => self.halt_damaged(side, &detail),
            Reply::Rows { rows } => self.side(side).rows.extend(rows),
            Reply::RowsEnd => self.rows_end(side),
            Reply::Distrust { path, seq, why } => self.side(side).distrusts.note(path, seq, why),
            Reply::Holds { path, is_part } => self.compared(side, path, is_part),
            Reply::Report(change) => self.report(side, change, now),
            Reply::Clean { path } => {
                let was_asked = self.answered(side, &path);
                let known = was_asked || self.sides.values().any(|s| s.pending.contains_key(&path));
                self.drop_pending(side, &path);
                self.sides[side].distrusts.forget(&path);
                if !self.locks.covers(&path) && self.sides.values().all(|s| !s.pending.contains_key(&path)) {
                    // Nobody wants it done any more.
                    self.solve(&path);
                }
                if known {
                    self.ready.insert(path);
                }
            }
            Reply::Cursor { path, files, bytes } => {
                let state = self.side(side);
                if state.cursor.is_some() {
                    state.cursor = Some(path);
                }
                self.tell(News::Scanning { side, files, bytes });
                self.release_held();
            }
            Reply::ScanDone { files, bytes } => {
                let state = self.side(side);
                state.cursor = None;
                state.scanned = now;
                if side == Side::Left && self.settings.dry_run {
                    self.holds = (files, bytes);
                }
                self.tell(News::Scanning { side, files, bytes });
                self.release_held();
            }
            Reply::Result { generation, outcome } => self.result(side, generation, outcome, now),
            Reply::Recorded { generation } => self.recorded(side, generation),
            Reply::Data { generation, data } => self.data(side, generation, data),
            Reply::Credit { generation, bytes } => {
                if let Some(flight) = self.flights.get(&generation)
                    && flight.source() == Some(side.other())
                {
                    self.send(side.other(), Request::Credit { generation, bytes });
                }
            }
            Reply::Sums { generation, sums } => {
                if let Some(flight) = self.flights.get(&generation)
                    && flight.source() == Some(side.other())
                {
                    self.send(side.other(), Request::Sums { generation, sums });
                }
            }
            Reply::Rsync { generation, piece } => {
                let carried = |flight: &Flight| flight.way() == Some(Way::Rsync);
                if self.flights.get(&generation).is_some_and(carried) {
                    self.send(side.other(), Request::Rsync { generation, piece });
                }
            }
            Reply::Problem { path, problem } => {
                let state = self.side(side);
                match problem {
                    Some(_) => state.problems.insert(path.clone()),
                    None => state.problems.remove(&path),
                };
                if problem.is_some() {
                    self.stall_at(&path);
                    self.wake_openings_above(&path);
                }
                // What was given up stays so until the run ends, whatever else is wrong with it, or not any more.
                if !self.round.is_restless(&path) {
                    self.tell(News::Problem { side, path, problem });
                }
            }
            Reply::NotSet { counts } => self.tell(News::NotSet { side, counts }),
            Reply::Unproven { files } => self.tell(News::Unproven { side, files }),
            Reply::Special { files } => self.tell(News::Special { side, files }),
            Reply::Tally { files, bytes } => self.tally(side, files, bytes),
            Reply::DirTimes { times } => self.hear_dir_times(side, &times),
            Reply::DirTimesSet { outcomes } => self.dir_times_set(side, &outcomes),
            Reply::Note { text } => self.tell(News::Note { side, text }),
            Reply::Lost { scope, reason } => self.tell(News::Lost { side, scope, reason }),
            Reply::HasRoom => self.has_room(side, now),
            Reply::Pong { number } => {
                if let Some(asked) = self.settling.as_mut().filter(|asked| asked.number == number) {
                    asked.answered[side] = true;
                }
                self.side_settled(side, number);
                self.answer_round(side, number);
            }
            // Of a check, which has a link of its own.
            Reply::Stopped => {
                self.side(side).stopped = true;
                if self.sides.values().all(|s| s.stopped) {
                    self.phase = Phase::Stopped;
                    self.tell(News::Stopped);
                }
            }
        }
    }

    fn report(&mut self, side: Side, change: Change, now: Millis) {
        let skipped = self.settings.skip_initial && self.sides.values().any(|s| s.cursor.is_some());
        if self.phase != Phase::Running || skipped {
            return;
        }
        let path = change.path.clone();
        self.drop_pending(side, &path);
        self.answered(side, &path);
        self.sides[side].distrusts.keep_newest(&path, change.seq);
        if let Some(moved) = &change.moved {
            self.places.report(side, moved.known.node, &path, &moved.from);
            self.wake_node(side, moved.known.node);
            // What is gone from its old name is not deleted: the guard need not fear for it.
            if let Some(old) = self.sides[side].pending.get_mut(&moved.from) {
                let deletes = std::mem::take(&mut old.deletes);
                self.sides[side].deleting = self.sides[side].deleting.less(deletes);
            }
        }
        if change.after.is_some() {
            self.sides[side].creations.begin(change.seq, &path);
        }
        let deletes = self.deletions(side, &change);
        self.sides[side].deleting.add(deletes);
        let size = change.after.as_ref().map_or(0, |entry| entry.size());
        let short = &mut self.sides[side.other()].short;
        if short.get(&path).is_some_and(|refused| size < *refused) {
            // Once: if the next try is refused for another reason, it waits as any other.
            short.remove(&path);
            self.forgive(&path);
        }
        // After a second refusal even fresh words wait: two sides that misunderstand each other must not spin.
        let not_before = self.strikes.get(&path).map_or(0, |(_, due)| *due);
        self.add_pending(side, Pending { change, since: now, not_before, deletes, weight: 0 });
        self.ready.insert(path);
        self.in_sync = false;
    }

    /// A side told where a node went: whoever waits for that may go on.
    fn wake_node(&mut self, side: Side, node: NodeId) {
        if let Some(path) = self.places.pending(side.other(), node).cloned() {
            if let Some(pending) = self.side(side.other()).pending.get_mut(&path) {
                pending.not_before = 0;
            }
            self.ready.insert(path);
        }
    }

    /// The objects that a change says to be gone.
    fn deletions(&self, side: Side, change: &Change) -> Loss {
        match (&change.after, &change.known) {
            (None, Some(known)) if self.places.of(side, known.node).is_some() => Loss::default(),
            (None, Some(_)) => Loss::of(change),
            _ => Loss::default(),
        }
    }

    fn add_pending(&mut self, side: Side, mut pending: Pending) {
        if self.sides[side].inline > INLINE_MAX {
            // It is asked for when its turn comes.
            pending.change.inline = None;
        }
        pending.weight = pending.change.weight();
        self.moves += usize::from(pending.change.moved.is_some());
        self.sides[side].weight += pending.weight;
        self.sides[side].inline += inline(&pending);
        if let Some(old) = self.sides[side].pending.insert(pending.change.path.clone(), pending) {
            self.lighten(side, &old);
        }
    }

    fn lighten(&mut self, side: Side, old: &Pending) {
        self.moves -= usize::from(old.change.moved.is_some());
        self.sides[side].weight = self.sides[side].weight.saturating_sub(old.weight);
        self.sides[side].inline = self.sides[side].inline.saturating_sub(inline(old));
    }

    /// Forgets what a side reported of a path.
    fn drop_pending(&mut self, side: Side, path: &RelPath) -> Option<Pending> {
        let pending = self.remove_pending(side, path)?;
        self.end_creation(side, pending.change.seq);
        if let Some(moved) = &pending.change.moved
            && self.places.forget(side, moved.known.node, path)
        {
            self.wake_moves();
        }
        self.wake_below(path);
        Some(pending)
    }

    fn remove_pending(&mut self, side: Side, path: &RelPath) -> Option<Pending> {
        let state = &mut self.sides[side];
        let pending = state.pending.remove(path)?;
        state.deleting = state.deleting.less(pending.deletes);
        self.lighten(side, &pending);
        Some(pending)
    }

    /// What waited for a move, or for what is in flight at its other end, may go.
    fn wake_moves(&mut self) {
        let waiting = std::mem::take(&mut self.blocked_moves);
        self.ready.extend(waiting);
    }

    /// No deletion waits for this creation any more.
    fn end_creation(&mut self, side: Side, seq: Seq) {
        let released = self.sides[side].creations.end(seq);
        self.ready.extend(released);
    }

    /// What was made at this path waits itself, or has a problem: no deletion is to wait for it.
    fn stall_at(&mut self, path: &RelPath) {
        for side in Side::BOTH {
            let made = self.sides[side].pending.get(path).filter(|p| p.change.after.is_some());
            if let Some(seq) = made.map(|p| p.change.seq) {
                self.end_creation(side, seq);
            }
        }
    }

    /// Changes that waited for the other side's scan to pass may go now.
    fn release_held(&mut self) {
        let paths: Vec<RelPath> = self.blocked.iter().cloned().collect();
        self.blocked.clear();
        self.ready.extend(paths);
    }

    /// Considers what is ready, as far as limits allow.
    fn pump(&mut self, now: Millis) {
        while let Some((due, path)) = self.timers.first().cloned()
            && due <= now
        {
            self.timers.pop_first();
            self.ready.insert(path);
        }
        if self.phase == Phase::Running {
            self.begin_wanted_scan();
            while !self.paused
                && self.flights.len() < FLIGHTS_MAX
                && self.streams < STREAMS_MAX
                && self.carried < CARRIED_MAX
            {
                let Some(path) = self.ready.pop_first() else { break };
                self.consider(&path, now);
                if self.phase != Phase::Running {
                    break;
                }
            }
            self.confirm();
            self.send_dir_times();
            self.tell_in_sync();
            self.go_round(now);
        }
        if self.phase == Phase::Stopping && self.flights.is_empty() {
            self.finish_stop();
        }
    }

    /// Asks a side to look at a path again; it answers with a report or [`Reply::Clean`].
    fn ask(&mut self, side: Side, path: RelPath, as_copy: bool) {
        self.side(side).asked.insert(path.clone());
        self.send(side, Request::Examine { path, as_copy });
    }

    /// A side has said something of a path; whether it was asked for that.
    fn answered(&mut self, side: Side, path: &RelPath) -> bool {
        let was_asked = self.side(side).asked.remove(path);
        if was_asked {
            self.wake_below(path);
        }
        if self.places.answer(side, path) {
            self.wake_moves();
        }
        was_asked
    }

    /// Asks a side again for what it reported. That it moved a node is remembered meanwhile: the other side's word of the
    /// same node must not be acted on as if it had not.
    fn ask_again(&mut self, side: Side, change: &Change) {
        let node = change.moved.as_ref().map(|moved| (moved.known.node, &moved.from));
        if let Some((node, from)) = node.filter(|(node, _)| self.places.of(side, *node).is_none()) {
            self.places.report(side, node, &change.path, from);
            self.places.set(side, node, &change.path, Standing::Asked);
        }
        self.ask(side, change.path.clone(), false);
    }

    /// Tells both sides how far both archives agree. Only what both have recorded counts: an archive that ends before
    /// what the other saw confirmed was rolled back.
    fn confirm(&mut self) {
        let first =
            [self.flights.first_key_value().map(|(generation, _)| *generation), self.halves.keys().next().copied()];
        let oldest = first.into_iter().flatten().min().unwrap_or(Generation::MAX);
        let Some(&upto) = self.completed.range(..oldest).next_back() else { return };
        if self.flights.is_empty() || upto >= self.confirmed + 256 {
            self.completed = self.completed.split_off(&oldest);
            self.confirmed = upto;
            for side in Side::BOTH {
                self.send(side, Request::Confirm { upto });
            }
        }
    }

    /// Looks at this path again later, after a growing delay.
    fn strike(&mut self, path: &RelPath, now: Millis) -> Millis {
        const LAST: Millis = 60_000;
        const REMEMBERED: usize = 50_000;
        if self.strikes.len() > REMEMBERED {
            self.strikes.clear();
        }
        let (strikes, _) = self.strikes.get(path).copied().unwrap_or_default();
        let strikes = strikes + 1;
        let delay = match strikes {
            1 => 0,
            n => (10_u64 << (n - 2).min(14)).min(LAST),
        };
        let due = now + delay;
        self.strikes.insert(path.clone(), (strikes, due));
        self.timers.insert((due, path.clone()));
        due
    }
}
