//! The pair as the history drives it. Only this module knows how engine and endpoints are called.

use std::collections::VecDeque;
use std::rc::Rc;

use psync::endpoint::{self, Endpoint, Next};
use psync::engine::{self, Effect, Engine, Input, News};
use psync::filter::{Filter, Filters, Special};
use psync::model::guard::Limit;
use psync::model::{Millis, Side, Sides};
use psync::protocol::{Outcome, Reply, Request};
use psync::replica::error::ReplicaError;

use crate::model_disk::ModelDisk;
use crate::plan::Stage;
use crate::spy::SpyArchive;

/// What a turn did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    Worked,
    /// Nothing to do before this time (`None`: before something happens).
    Idle(Option<Millis>),
}

/// Anything that keeps two trees equal.
pub trait Pair {
    /// One step of work, in an order that the choices give.
    fn turn(&mut self) -> Turn;

    /// How many messages so far proposed or made a change.
    fn traffic(&self) -> u64;

    /// Whether a name under which a file is saved is never without one on the other side.
    fn keeps_names(&self) -> bool {
        true
    }

    /// Whether directories have their times on both sides.
    fn keeps_dir_times(&self) -> bool {
        true
    }

    /// Stopped by a guard, with its reason.
    fn halted(&self) -> Option<String> {
        None
    }

    /// The administrator lets it go on.
    fn resume(&mut self) {}

    /// Compares both trees with their archives.
    fn full_sync(&mut self) {}
}

type ModelEndpoint = Endpoint<ModelDisk, SpyArchive>;

/// The real engine and two real endpoints, with queues between them.
pub struct RealPair {
    stage: Rc<Stage>,
    endpoints: Sides<Option<(ModelEndpoint, ModelDisk)>>,
    next: Sides<Next>,
    engine: Engine,
    session: bool,
    requests: Sides<VecDeque<(Millis, Request)>>,
    replies: Sides<VecDeque<(Millis, Reply)>>,
    incarnation: u64,
    /// Turns until the other side is reached again; the endpoints have parted meanwhile.
    away: u64,
    accept: bool,
    /// The administrator was told to go on with the ancestors forgotten.
    union: bool,
    traffic: u64,
    halted: Option<String>,
}

/// One thing that could be done now.
#[derive(Debug, Clone, Copy)]
enum Work {
    Event(Side),
    Request(Side),
    Reply(Side),
    Step(Side),
    Tick,
}

fn new_engine(max_delete: Limit) -> Engine {
    Engine::new(engine::Settings {
        pair: "model".to_string(),
        prefer: engine::Prefer::Newest,
        copies: true,
        force: false,
        skip_initial: false,
        max_delete,
        delta_min: 64,
        rsync: false,
        dry_run: false,
        once: false,
        filters: [0; 32],
        right_root: Vec::new(),
        service: true,
    })
}

impl RealPair {
    pub fn new(stage: Rc<Stage>) -> RealPair {
        RealPair {
            engine: new_engine(stage.limits.0),
            stage,
            endpoints: Sides::default(),
            next: Sides::both(Next::Now),
            session: false,
            requests: Default::default(),
            replies: Default::default(),
            incarnation: 0,
            away: 0,
            accept: false,
            union: false,
            traffic: 0,
            halted: None,
        }
    }

    /// All that was on its way is lost; the next turn begins a new session.
    fn hang_up(&mut self) {
        self.session = false;
        self.requests.values_mut().for_each(VecDeque::clear);
        self.replies.values_mut().for_each(VecDeque::clear);
    }

    fn end(&mut self, side: Side) {
        self.endpoints[side] = None;
        self.hang_up();
    }

    fn look_after_the_dead(&mut self) {
        if self.stage.controls.cut.take() {
            self.hang_up();
            let fate = self.stage.choices.next();
            // An agent on the pipe of its ssh ends with it; one with a socket lives on.
            if fate.is_multiple_of(2) {
                self.stage.disk(Side::Right).state_mut().kill();
            } else {
                self.away = (fate / 2) % 60;
                // No engine is there to be reminded of what was under way.
                self.engine = new_engine(self.stage.limits.0);
                let now = self.stage.world.now();
                for side in Side::BOTH {
                    self.call(side, now, |endpoint, _| endpoint.part(now).map(|()| Next::Now));
                }
            }
        }
        for side in Side::BOTH {
            if self.endpoints[side].as_ref().is_some_and(|(_, disk)| disk.is_dead()) {
                self.end(side);
            }
        }
    }

    /// Starts the endpoints that do not run. False if one could not.
    fn open(&mut self, now: Millis) -> bool {
        for side in Side::BOTH {
            if self.endpoints[side].is_some() {
                continue;
            }
            let archive = self.stage.archives[side].clone();
            let crashed = archive.borrow().crash();
            *archive.borrow_mut() = crashed;
            let disk = self.stage.disk(side).restart();
            let wait_for_writers = !disk.state().features.sends_open;
            let keeps_acls = disk.state().features.keeps_acls;
            let settings = endpoint::Settings {
                replica: psync::replica::Settings {
                    side,
                    inline_max: 16,
                    wait_for_writers,
                    keeps_acls,
                    gives_acls: disk.state().features.gives_acls,
                    partial_min: 20,
                    read_slice: 16,
                    prove_later: 16,
                    max_delete: self.stage.limits.1,
                    ..Default::default()
                },
                timing: psync::config::Timing::default(),
                open_max: 8,
                open_weight_max: 4_000,
                translate: None,
                trash_seconds: None,
                done: None,
                style: endpoint::Style::Continuous,
                recurse: false,
                chain_from: 2,
                batch: 512,
            };
            let special = if disk.state().features.fifos { Special::Fifos } else { Special::Skip };
            let filter = Filter::new(&Filters { special, ..Filters::default() });
            let filter = filter.expect("the default filters");
            match Endpoint::open(disk.clone(), SpyArchive::new(archive, disk.clone()), filter, settings, now) {
                Ok(endpoint) => self.endpoints[side] = Some((endpoint, disk)),
                Err(error) => {
                    self.stage.trace.line(|| format!("{now} {} cannot open: {error}", side.word()));
                    return false;
                }
            }
            self.next[side] = Next::Now;
        }
        true
    }

    fn begin(&mut self, now: Millis) {
        self.engine = new_engine(self.stage.limits.0);
        self.session = true;
        self.incarnation += 1;
        let accept = std::mem::take(&mut self.accept);
        self.feed(Input::Start { incarnation: self.incarnation, accept, union: accept && self.union }, now);
    }

    fn feed(&mut self, input: Input, now: Millis) {
        let effects = self.engine.handle(input, now);
        let ready = now + self.stage.controls.delay.get();
        for effect in effects {
            match effect {
                Effect::Send(side, request) => {
                    self.stage.trace.line(|| format!("{now} to {}: {}", side.word(), short(&request)));
                    if let Request::Supply { path, .. } = &request {
                        *self.stage.supplied.borrow_mut().entry(path.clone()).or_default() += 1;
                    }
                    self.requests[side].push_back((ready, request));
                }
                Effect::HangUp(side) => panic!("an honest {} side is put out", side.word()),
                Effect::Tell(news) => {
                    self.stage.trace.line(|| format!("{now} news: {}", short(&news)));
                    if let News::Halted { reason, advice, .. } = news {
                        self.union = advice.contains("--union");
                        if self.union {
                            // What was deleted on one side comes back then.
                            self.stage.oracle.borrow_mut().shake();
                        }
                        self.halted = Some(reason);
                    }
                }
            }
        }
    }

    /// Gives an endpoint something to do and takes what it says.
    fn call(
        &mut self,
        side: Side,
        now: Millis,
        work: impl FnOnce(&mut ModelEndpoint, &mut Vec<Reply>) -> Result<Next, ReplicaError>,
    ) {
        let Some((endpoint, disk)) = self.endpoints[side].as_mut() else { return };
        let mut out = Vec::new();
        let result = work(endpoint, &mut out);
        // A brain that keeps the protocol is never refused.
        assert_eq!(endpoint.take_refusal(), None, "{} side", side.word());
        // What is known of reports holds together after each step, whatever it met.
        assert_eq!(endpoint.check(), Ok(()), "{} side", side.word());
        if disk.is_dead() {
            return;
        }
        for reply in out {
            // Trying again what a problem forbids is no change.
            let changed = matches!(reply, Reply::Recorded { .. } | Reply::Result { outcome: Outcome::Done { .. }, .. });
            self.traffic += u64::from(changed);
            self.stage.trace.line(|| format!("{now} from {}: {}", side.word(), short(&reply)));
            if self.session {
                let delay = self.stage.controls.delay.get();
                self.replies[side].push_back((now + delay, reply));
            }
        }
        match result {
            Ok(next) => self.next[side] = next,
            Err(error) => {
                self.stage.trace.line(|| format!("{now} {} failed: {error}", side.word()));
                self.stage.disk(side).state_mut().kill();
            }
        }
    }

    fn possible(&self, now: Millis) -> Vec<Work> {
        let mut works = Vec::new();
        for side in Side::BOTH {
            if !self.stage.disk(side).state().events.is_empty() {
                works.push(Work::Event(side));
            }
            if self.requests[side].front().is_some_and(|(ready, _)| *ready <= now) {
                works.push(Work::Request(side));
            }
            if self.replies[side].front().is_some_and(|(ready, _)| *ready <= now) {
                works.push(Work::Reply(side));
            }
            match self.next[side] {
                Next::Now => works.push(Work::Step(side)),
                Next::At(due) if due <= now => works.push(Work::Step(side)),
                Next::At(_) | Next::Idle => {}
            }
        }
        if self.engine.next_due().is_some_and(|due| due <= now) {
            works.push(Work::Tick);
        }
        works
    }

    fn next_due(&self) -> Option<Millis> {
        let queued = self.requests.values().filter_map(|queue| queue.front().map(|(ready, _)| *ready));
        let replied = self.replies.values().filter_map(|queue| queue.front().map(|(ready, _)| *ready));
        let steps = self.next.values().filter_map(|next| if let Next::At(due) = next { Some(*due) } else { None });
        queued.chain(replied).chain(steps).chain(self.engine.next_due()).min()
    }

    fn work(&mut self, work: Work, now: Millis) {
        match work {
            Work::Event(side) => {
                let event = self.stage.disk(side).state_mut().events.pop_front();
                if let Some(event) = event {
                    self.stage.trace.line(|| format!("{now} {} {event:?}", side.word()));
                    self.call(side, now, |endpoint, _| {
                        endpoint.event(event, now);
                        Ok(Next::Now)
                    });
                }
            }
            Work::Request(side) => {
                if let Some((_, request)) = self.requests[side].pop_front() {
                    self.stage.trace.line(|| format!("{now} {} takes {}", side.word(), short(&request)));
                    self.call(side, now, |endpoint, out| endpoint.handle(request, now, out).map(|()| Next::Now));
                }
            }
            Work::Reply(side) => {
                if let Some((_, reply)) = self.replies[side].pop_front() {
                    self.feed(Input::Reply(side, reply), now);
                }
            }
            Work::Step(side) => self.call(side, now, |endpoint, out| endpoint.step(now, out)),
            Work::Tick => self.feed(Input::Tick, now),
        }
    }
}

/// A message in one line; of attributes the mode alone.
fn short(message: &impl std::fmt::Debug) -> String {
    let text = format!("{message:?}");
    let mut out = String::new();
    let mut rest = text.as_str();
    while let Some(start) = rest.find(", attrs: {").or_else(|| rest.find(", attrs: Attrs {")) {
        out.push_str(&rest[..start]);
        let mut depth = 0;
        let end = rest[start..].char_indices().find(|(_, c)| {
            depth += i32::from(*c == '{') - i32::from(*c == '}');
            *c == '}' && depth == 0
        });
        let (left_out, after) = rest.split_at(end.map_or(rest.len(), |(end, _)| start + end + 1));
        let mode = left_out.split_once("mode: ").and_then(|(_, mode)| mode.split(',').next()?.parse::<u32>().ok());
        mode.into_iter().for_each(|mode| out.push_str(&format!(" {mode:o}")));
        rest = after;
    }
    out.push_str(rest);
    for word in [
        "Some",
        "Entry ",
        "Change ",
        "Known ",
        "Apply ",
        "Record ",
        "content: ",
        "known: None, ",
        "moved: None, ",
        ", inline: None, below: 0, young: 0",
        "pair: \"model\", ",
    ] {
        out = out.replace(word, "");
    }
    out.replace(
        "[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]",
        "[]",
    )
}

impl Pair for RealPair {
    fn turn(&mut self) -> Turn {
        let now = self.stage.world.now();
        self.look_after_the_dead();
        if self.halted.is_some() {
            return Turn::Worked;
        }
        if !self.open(now) {
            return Turn::Worked;
        }
        let works = self.possible(now);
        if !self.session && (self.away == 0 || works.is_empty()) {
            self.away = 0;
            self.begin(now);
            return Turn::Worked;
        }
        self.away = self.away.saturating_sub(1);
        if works.is_empty() {
            return Turn::Idle(self.next_due());
        }
        let work = *self.stage.choices.pick(&works);
        self.work(work, now);
        Turn::Worked
    }

    fn traffic(&self) -> u64 {
        self.traffic
    }

    fn halted(&self) -> Option<String> {
        self.halted.clone()
    }

    fn resume(&mut self) {
        self.halted = None;
        self.accept = true;
        self.hang_up();
    }

    fn full_sync(&mut self) {
        self.feed(Input::Scan { checksum: false }, self.stage.world.now());
    }
}
