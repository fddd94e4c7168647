//! One session: from the first word of both sides to the loss of one, or the end of the run.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::Job;
use super::monitor::{Exit, LinkState, Monitor};
use super::sides::{Heard, Left, Right, filter_digest};
use super::tell::Teller;
use crate::config::{ConflictCopies, ConflictRule, Share};
use crate::endpoint::message::{Reply, Request};
use crate::endpoint::serve::clock;
use crate::engine::guard::Limit;
use crate::engine::{self, Effect, Engine, Input, News, Prefer};
use crate::link::LinkError;
use crate::link::channel::Incoming;
use crate::model::Side;
use crate::service::signals::Stop;

/// How long a stop waits for what is in flight.
const STOP_WAIT: Duration = Duration::from_secs(20);
/// Longest sleep without an input.
const IDLE: Duration = Duration::from_secs(1);

/// How a session ended.
pub enum Ended {
    Exit(Exit),
    LeftFailed(String),
    RightLost(LinkError),
}

pub struct Session<'a> {
    job: &'a Job,
    left: &'a Left,
    right: &'a Right,
    number: u64,
    engine: Engine,
    tell: Teller<'a>,
    stopping: Option<Instant>,
    halted: bool,
    /// Both sides were equal at some time in this run.
    pub synced: bool,
    /// The right side's program answered.
    met: bool,
    /// Its endpoint did: it serves this brain.
    pub greeted: bool,
}

impl<'a> Session<'a> {
    pub fn new(
        job: &'a Job,
        monitor: &'a dyn Monitor,
        left: &'a Left,
        right: &'a Right,
        number: u64,
        synced: bool,
    ) -> Session<'a> {
        let engine = Engine::new(rules(job));
        let tell = Teller::new(monitor, job, synced);
        Session {
            job,
            left,
            right,
            number,
            engine,
            tell,
            stopping: None,
            halted: false,
            synced,
            met: false,
            greeted: false,
        }
    }

    pub fn run(&mut self, heard: &Receiver<Heard>, stop: &Stop) -> Ended {
        let begun = Instant::now();
        loop {
            if stop.is_set() && self.stopping.is_none() {
                self.stopping = Some(Instant::now());
                if !self.met {
                    return Ended::Exit(Exit::Done);
                }
                if let Some(ended) = self.feed(Input::Stop) {
                    return ended;
                }
            }
            if self.stopping.is_some_and(|since| since.elapsed() > STOP_WAIT) {
                return Ended::Exit(Exit::Done);
            }
            if !self.met && begun.elapsed() > self.job.settings.itimeout {
                return Ended::RightLost(LinkError::Silent(self.job.settings.itimeout));
            }
            let ended = match heard.recv_timeout(self.patience()) {
                Ok(heard) => self.take(heard),
                Err(RecvTimeoutError::Timeout) => self.feed(Input::Tick),
                Err(RecvTimeoutError::Disconnected) => return Ended::LeftFailed("its thread is gone".into()),
            };
            if let Some(ended) = ended {
                return ended;
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
            Heard::Left(reply) => self.feed(Input::Reply(Side::Left, reply)),
            Heard::LeftEnded(Ok(())) if self.stopping.is_some() => None,
            Heard::LeftEnded(Ok(())) => Some(Ended::LeftFailed("its thread has ended".into())),
            Heard::LeftEnded(Err(reason)) => Some(Ended::LeftFailed(reason)),
            Heard::Right(number, _) if number != self.number => None,
            Heard::Right(_, Incoming::Hello(_)) => {
                self.met = true;
                let first = !self.synced;
                let (accept, union) = (self.job.accept && first, self.job.union && first);
                self.feed(Input::Start { incarnation: self.number, accept, union })
            }
            Heard::Right(_, Incoming::Message(reply)) => {
                if let Reply::Hello(hello) = &reply
                    && !std::mem::replace(&mut self.greeted, true)
                {
                    self.tell.monitor.link(&LinkState::Up);
                    if hello.filters != filter_digest(&self.job.settings) {
                        self.tell.monitor.note(
                            "the two sides leave out different paths: give both the same excludes, tempfiles and safesuffix",
                        );
                    }
                }
                self.feed(Input::Reply(Side::Right, reply))
            }
            Heard::Right(_, Incoming::Ended(_)) if self.stopping.is_some() => Some(Ended::Exit(Exit::Done)),
            Heard::Right(_, Incoming::Ended(error)) => Some(Ended::RightLost(error)),
        }
    }

    fn feed(&mut self, input: Input) -> Option<Ended> {
        let mut ended = None;
        slog::trace!(self.job.logger, #crate::service::log::MESSAGE, "in {input:?}");
        for effect in self.engine.handle(input, clock()) {
            slog::trace!(self.job.logger, #crate::service::log::MESSAGE, "out {effect:?}");
            if let Effect::Send(side, Request::Go { scan, .. }) = &effect {
                let what = if *scan { "is scanned" } else { "has been watching: no scan" };
                slog::debug!(self.job.logger, "session: the {} side {what}", side.word());
            }
            match effect {
                Effect::Send(Side::Left, request) => self.left.send(request),
                Effect::Send(Side::Right, request) => self.right.send(request),
                Effect::Tell(news) => {
                    match &news {
                        News::InSync { .. } => self.synced = true,
                        News::Halted { .. } => self.halted = true,
                        News::Stopped => ended = Some(Ended::Exit(self.tell.exit())),
                        _ => {}
                    }
                    self.tell.news(&news);
                }
            }
        }
        let once = self.job.settings.first_sync_only || self.job.settings.dryrun;
        if self.halted && once {
            return Some(Ended::Exit(Exit::Halted));
        }
        if once && self.synced && self.stopping.is_none() {
            self.stopping = Some(Instant::now());
            return self.feed(Input::Stop).or(ended);
        }
        ended
    }
}

fn rules(job: &Job) -> engine::Settings {
    let settings = &job.settings;
    engine::Settings {
        pair: job.pair.clone(),
        prefer: match settings.conflict {
            ConflictRule::Newest => Prefer::Newest,
            ConflictRule::Left => Prefer::Left,
            ConflictRule::Right => Prefer::Right,
        },
        copies: settings.conflict_copies == ConflictCopies::Visible,
        force: settings.force,
        skip_initial: settings.skip_initial_sync,
        max_delete: match settings.max_delete {
            Share::Percent(0) => Limit::Off,
            Share::Percent(percent) => Limit::Share { percent: u64::from(percent), at_least: 100 },
            Share::Amount(number) => Limit::Number(number),
        },
        dry_run: settings.dryrun,
        filters: filter_digest(settings),
    }
}
