//! One session: from the first word of both sides to the loss of one, or the end of the run.

use std::os::unix::ffi::OsStrExt;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use super::desk::{Answer, Mandate, Order, Slip};
use super::monitor::{Exit, LinkState};
use super::sides::{Heard, Left, Right, filter_digest};
use super::{Brain, IDLE, Job};
use crate::config::{ConflictCopies, Settings};
use crate::endpoint::serve::clock;
use crate::engine::{self, Effect, Engine, Input, News};
use crate::link::LinkError;
use crate::link::channel::Incoming;
use crate::model::Side;
use crate::protocol::{Reply, Request};
use crate::pulse;

/// How long a stop waits for what is in flight.
const STOP_WAIT: Duration = Duration::from_secs(20);
/// So much of what was heard is dealt with before the sides are asked what follows from it.
const AT_ONCE: usize = 32;
/// The board is written anew at most so often.
const REFRESH: Duration = Duration::from_millis(500);

/// How a session ended.
pub enum Ended {
    Exit(Exit),
    LeftFailed(String),
    RightLost(LinkError),
    /// The right side is called anew, at once: it must hear of other settings.
    Reconnect,
    /// After a halt an administrator says to go on: everything is opened anew.
    Resumed(Mandate),
}

pub struct Session<'s, 'b> {
    brain: &'s mut Brain<'b>,
    left: &'s Left,
    right: &'s Right,
    number: u64,
    mandate: Mandate,
    engine: Engine,
    course: Course,
    refreshed: Option<Instant>,
    /// What the sides are to be asked, in order: sent when all that was heard is dealt with, so that a burst wakes
    /// their threads once.
    asked: Vec<(Side, Request)>,
}

/// How far a session is.
#[derive(Default)]
struct Course {
    /// The right side's program answered.
    met: bool,
    /// Its endpoint did: it serves this brain.
    greeted: bool,
    /// Both sides were equal at some time.
    settled: bool,
    halted: bool,
    /// The side that cannot serve for now, and since when.
    away: Option<(Side, Instant)>,
    /// The right side said what cannot be, and is not listened to any more.
    put_out: bool,
    /// Since when an end is wanted.
    stopping: Option<Instant>,
}

impl<'s, 'b> Session<'s, 'b> {
    pub fn new(brain: &'s mut Brain<'b>, left: &'s Left, right: &'s Right, mandate: Mandate) -> Session<'s, 'b> {
        let mut engine = Engine::new(rules(&brain.job));
        // Neither a lost link nor a halt makes a mass deletion small. Only what is accepted is forgotten.
        if let Some(guard) = brain.left_over.guard.take().filter(|_| !mandate.accept) {
            engine.inherit(guard);
        }
        let number = brain.incarnation;
        Session {
            brain,
            left,
            right,
            number,
            mandate,
            engine,
            course: Course::default(),
            refreshed: None,
            asked: Vec::new(),
        }
    }

    /// Whether the right side's endpoint answered.
    pub fn greeted(&self) -> bool {
        self.course.greeted
    }

    /// Whether both sides were equal at some time in this session.
    pub fn settled(&self) -> bool {
        self.course.settled
    }

    pub fn run(&mut self) -> Ended {
        let ended = self.go_on();
        self.send_asked();
        self.brain.left_over.guard = Some(self.engine.guard());
        self.brain.left_over.owed_since = match self.course.greeted {
            true => self.engine.oldest(),
            false => self.brain.left_over.owed_since,
        };
        self.brain.desk.know(|facts, _| facts.end_session());
        ended
    }

    fn go_on(&mut self) -> Ended {
        let begun = Instant::now();
        loop {
            if self.brain.stop.is_set() && self.course.stopping.is_none() {
                self.course.stopping = Some(Instant::now());
                self.brain.desk.know(|facts, _| facts.stopping = true);
                if !self.course.met {
                    return Ended::Exit(Exit::Done);
                }
                if let Some(ended) = self.feed(Input::Stop) {
                    return ended;
                }
            }
            if self.course.stopping.is_some_and(|since| since.elapsed() > STOP_WAIT) {
                return Ended::Exit(self.done());
            }
            let itimeout = self.brain.job.settings.absence.itimeout;
            if !self.course.met && begun.elapsed() > itimeout {
                return Ended::RightLost(LinkError::Silent(itimeout));
            }
            if self.course.met {
                self.brain.teller.look(clock());
            }
            if let Some(ended) = self.take_orders() {
                return ended;
            }
            self.send_asked();
            let patience = self.patience();
            let mut ended = match pulse::rest(patience, || self.brain.queue.heard.recv_timeout(patience)) {
                Ok(heard) => self.take(heard),
                Err(RecvTimeoutError::Timeout) => self.feed(Input::Tick),
                Err(RecvTimeoutError::Disconnected) => return Ended::LeftFailed("its thread is gone".into()),
            };
            for _ in 1..AT_ONCE {
                let Some(heard) = (if ended.is_none() { self.brain.queue.heard.try_recv().ok() } else { None }) else {
                    break;
                };
                ended = self.take(heard);
            }
            self.send_asked();
            self.refresh();
            if let Some(ended) = ended.or_else(|| self.try_again()) {
                return ended;
            }
        }
    }

    /// A side that could not serve for now is opened anew after a while. Until it serves the pair stays halted.
    fn try_again(&mut self) -> Option<Ended> {
        let (side, since) = self.course.away.filter(|_| self.brain.job.persistent && self.course.stopping.is_none())?;
        if since.elapsed() < self.brain.rest {
            return None;
        }
        // What was accepted was accepted of what lay there then.
        self.brain.left_over.mandate = Mandate::default();
        self.brain.rest = (self.brain.rest * 2).min(self.brain.job.pauses.1);
        Some(match side {
            Side::Right => Ended::Reconnect,
            Side::Left => Ended::LeftFailed("the root was lost".to_owned()),
        })
    }

    fn send_asked(&mut self) {
        for (side, request) in self.asked.drain(..) {
            match side {
                Side::Left => self.left.send(request),
                Side::Right => self.right.send(request),
            }
        }
    }

    fn patience(&self) -> Duration {
        match self.engine.next_due() {
            Some(due) => Duration::from_millis(due.saturating_sub(clock()).max(1)).min(IDLE),
            None => IDLE,
        }
    }

    fn take(&mut self, heard: Heard) -> Option<Ended> {
        match heard {
            Heard::Wake => None,
            Heard::Left(number, _) | Heard::LeftEnded(number, _) if number != self.left.number() => None,
            Heard::Left(_, reply) => self.feed(Input::Reply(Side::Left, reply)),
            Heard::LeftEnded(_, Ok(())) if self.course.stopping.is_some() => None,
            Heard::LeftEnded(_, Ok(())) => Some(Ended::LeftFailed("its thread has ended".into())),
            Heard::LeftEnded(_, Err(reason)) => Some(Ended::LeftFailed(reason)),
            Heard::Right(number, ..) if number != self.number || self.course.put_out => None,
            Heard::Right(_, Incoming::Hello(_), _) => self.begin(),
            Heard::Right(_, Incoming::Message(reply), place) => {
                // From here on the engine bounds what it keeps of it.
                drop(place);
                if matches!(reply, Reply::Hello(_)) && !std::mem::replace(&mut self.course.greeted, true) {
                    self.brain.link(&LinkState::Up);
                    self.refreshed = None;
                }
                self.feed(Input::Reply(Side::Right, reply))
            }
            Heard::Right(_, Incoming::Ended(_), _) if self.course.stopping.is_some() => Some(Ended::Exit(Exit::Done)),
            Heard::Right(_, Incoming::Ended(error), _) => Some(Ended::RightLost(error)),
        }
    }

    /// The right side can be reached.
    fn begin(&mut self) -> Option<Ended> {
        self.course.met = true;
        self.brain.teller.begin(&self.brain.job.settings);
        if self.brain.is_paused() {
            drop(self.feed(Input::Pause(true)));
        }
        let Mandate { accept, union } = self.mandate;
        let ended = self.feed(Input::Start { incarnation: self.number, accept, union });
        let ordered = self.brain.desk.status().full_sync.filter(|sync| sync.ended.is_none() && sync.number > 0);
        let at_start = (self.brain.job.checksum && !self.brain.teller.synced()).then_some(true);
        match ordered.map(|sync| sync.checksum).or(at_start) {
            Some(checksum) if ended.is_none() => self.feed(Input::Scan { checksum }),
            _ => ended,
        }
    }

    fn feed(&mut self, input: Input) -> Option<Ended> {
        let mut ended = None;
        slog::trace!(self.brain.job.logger, #crate::service::log::MESSAGE, "in {input:?}");
        if let Input::Reply(side, reply) = &input {
            self.brain.teller.heard(*side, reply, clock());
        }
        for effect in self.engine.handle(input, clock()) {
            slog::trace!(self.brain.job.logger, #crate::service::log::MESSAGE, "out {effect:?}");
            if let Effect::Send(side, request) = &effect {
                self.brain.teller.asked(*side, request, clock());
            }
            match effect {
                Effect::Send(side, request) => self.asked.push((side, request)),
                Effect::HangUp(Side::Right) => {
                    self.course.put_out = true;
                    self.right.hang_up();
                }
                // Its thread reads and writes where this one does.
                Effect::HangUp(Side::Left) => {}
                Effect::Tell(news) => {
                    match &news {
                        News::InSync { .. } => self.course.settled = true,
                        // The next process tells what is missing, and waits for it.
                        News::Halted { reason, away: Some(Side::Left), .. } if self.brain.job.anew => {
                            self.brain.monitor.note(&format!("{reason}: starting anew, to see what lies there then"));
                            return Some(Ended::Exit(Exit::InitialSyncFailed));
                        }
                        News::Halted { away, .. } => {
                            self.course.halted = true;
                            self.course.away = away.map(|side| (side, Instant::now()));
                        }
                        News::Stopped => ended = Some(Ended::Exit(self.done())),
                        _ => {}
                    }
                    self.brain.teller.news(&news);
                }
            }
        }
        let once = self.brain.job.settings.program.first_sync_only || self.brain.job.settings.shared.run.dryrun;
        if self.course.halted && once {
            return Some(Ended::Exit(Exit::Halted));
        }
        if once && self.brain.teller.synced() && self.course.stopping.is_none() {
            self.course.stopping = Some(Instant::now());
            return self.feed(Input::Stop).or(ended);
        }
        ended
    }

    /// How a run ends that has come to its end.
    fn done(&self) -> Exit {
        let once = self.brain.job.settings.program.first_sync_only || self.brain.job.settings.shared.run.dryrun;
        match once && self.brain.teller.synced() && self.brain.teller.has_problems() {
            true => Exit::ProblemsLeft,
            false => Exit::Done,
        }
    }

    fn take_orders(&mut self) -> Option<Ended> {
        while let Some(Slip { order, answer }) = self.brain.desk.next_order() {
            let (said, ended) = self.obey(order);
            drop(answer.send(said));
            if ended.is_some() {
                return ended;
            }
        }
        None
    }

    fn obey(&mut self, order: Order) -> (Answer, Option<Ended>) {
        let fine = |text: &str| Ok(text.to_owned());
        if self.course.stopping.is_some() {
            return (Err("psync is being stopped".to_owned()), None);
        }
        match order {
            Order::FullSync { .. } if self.course.halted => (Err("halted: `psync status` says why".to_owned()), None),
            Order::FullSync { checksum } => {
                let number = self.brain.want_full_sync(checksum);
                let ended = if self.course.met { self.feed(Input::Scan { checksum }) } else { None };
                (fine(&format!("full sync {number} begins")), ended)
            }
            Order::Expire if self.course.halted => (Err("halted: `psync status` says why".to_owned()), None),
            Order::Expire => {
                self.left.send(Request::Expire);
                self.right.send(Request::Expire);
                (fine("both sides look through their trash"), None)
            }
            Order::Pause => {
                let said = self.brain.pause(true, Some(self.left));
                (said, self.feed(Input::Pause(true)))
            }
            // A session that has not found the halt of the one before yet is not told of as one that goes on.
            Order::Resume(mandate) if self.course.halted || self.brain.desk.facts().halted => {
                drop(self.brain.pause(false, Some(self.left)));
                self.brain.teller.resumed();
                (fine("going on: both sides are looked at again"), Some(Ended::Resumed(mandate)))
            }
            Order::Resume(Mandate { accept: true, .. }) => {
                (Err("not halted: there is nothing to accept".to_owned()), None)
            }
            Order::Resume(_) if self.brain.is_paused() => {
                let said = self.brain.pause(false, Some(self.left));
                (said, self.feed(Input::Pause(false)))
            }
            Order::Resume(_) => (fine("neither paused nor halted"), None),
            Order::Reload(settings) => (fine("reloaded"), self.reload(*settings)),
        }
    }

    fn reload(&mut self, settings: Settings) -> Option<Ended> {
        let right_must_know = self.brain.take_settings(settings);
        self.engine.set_settings(rules(&self.brain.job));
        self.left.tune(&self.brain.job.settings);
        (right_must_know && self.course.met && !self.course.halted).then_some(Ended::Reconnect)
    }

    /// Writes on the board how things stand.
    fn refresh(&mut self) {
        let now = clock();
        let running = self.engine.is_running() && !self.course.halted;
        if running {
            self.brain.teller.goes_on();
        }
        let scanning = Side::BOTH.map(|side| self.engine.is_scanning(side));
        let (in_sync, greeted) = (self.engine.is_in_sync(), self.course.greeted);
        let desk = self.brain.desk;
        let before = desk.facts();
        let mut facts = before;
        facts.stopping |= self.course.stopping.is_some();
        if greeted {
            facts.meet();
        }
        (facts.running, facts.scanning, facts.in_sync) = (running, scanning.contains(&true), in_sync);
        if facts == before && self.refreshed.is_some_and(|when| when.elapsed() < REFRESH) {
            return;
        }
        self.refreshed = Some(Instant::now());
        let (pending, flights) = self.engine.load();
        let waiting = self.left.waiting();
        let (queue, oldest) = match greeted {
            // While the pair is paused nobody takes what users change.
            true => (pending as u64 + waiting.dirty(), self.engine.oldest().into_iter().chain(waiting.oldest()).min()),
            false => self.brain.waiting(self.left),
        };
        let lag = oldest.map_or(0, |since| now.saturating_sub(since));
        let stats = self.left.stats();
        let rates = self.brain.teller.rates();
        desk.know(|known, status| {
            *known = facts;
            (status.queue, status.in_flight) = (queue, flights as u64);
            status.lag_seconds = lag as f64 / 1000.0;
            (status.left.scanning, status.right.scanning) = (scanning[0], scanning[1]);
            status.left.watches = Some(stats.watches as u64);
            (status.left.events, status.left.overflows) = (Some(stats.events), Some(stats.overflows));
            status.rates = rates;
        });
        self.brain.look_for_alerts();
    }
}

/// Files from this size on travel as a delta, where they exist on both sides: below it a round trip costs as much.
const DELTA_MIN: u64 = 1024 * 1024;

fn rules(job: &Job) -> engine::Settings {
    let settings = &job.settings;
    let shared = &settings.shared;
    engine::Settings {
        pair: job.pair.clone(),
        prefer: settings.conflicts.rule,
        copies: settings.conflicts.copies == ConflictCopies::Visible,
        force: shared.removal.force,
        skip_initial: shared.run.skip_initial_sync,
        max_delete: shared.removal.limit(),
        delta_min: if shared.transport.extra().whole_file { u64::MAX } else { DELTA_MIN },
        rsync: shared.transport.uses_rsync(),
        dry_run: shared.run.dryrun,
        once: settings.program.first_sync_only || shared.run.dryrun,
        filters: filter_digest(settings),
        right_root: match settings.is_local() {
            true => Vec::new(),
            false => settings.right.root.as_os_str().as_bytes().to_vec(),
        },
        service: job.persistent,
    }
}
