//! The brain: the thread that feeds the engine and carries out its effects, over sessions that come and go.

pub mod alarm;
pub mod check;
pub mod control;
pub mod desk;
pub mod doctor;
mod lasting;
mod ledger;
mod losing;
pub mod monitor;
mod patience;
mod pause;
mod progress;
mod rates;
mod session;
mod sides;
mod state;
pub mod status;
mod tell;
pub mod trash;
pub mod waiting;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use slog::Logger;

use crate::config::{RightCommand, Run, Settings, SharedSettings, pair_command};
use crate::endpoint::heartbeat::Heartbeat;
use crate::endpoint::serve::clock;
use crate::engine::guard::Guard;
use crate::model::Millis;
use crate::pulse;
use crate::service::signals::Stop;
use crate::service::watchdog::Heart;
use alarm::Alarm;
use desk::{Answer, Desk, Mandate, Order, Slip};
use monitor::{Exit, LinkState, Monitor};
use session::{Ended, Session};
use sides::{Heard, Left, Right, Words};
use status::{FullSync, Link, LinkWord, wall};
use tell::Teller;

/// What a brain needs to run a pair.
#[derive(Debug, Clone)]
pub struct Job {
    /// Checked; the roots of this host are canonical and exist.
    pub settings: Settings,
    pub pair: String,
    pub right: RightCommand,
    /// For the first session.
    pub mandate: Mandate,
    /// It does not give up when a side is lost, and a halt waits for an administrator.
    pub persistent: bool,
    /// A left root that is lost is served by another process, which sees it as it lies then; this one's sandbox does not.
    pub anew: bool,
    /// The first and the longest pause before a lost side is called again; see [`PAUSES`].
    pub pauses: (Duration, Duration),
    /// Every file is read before both sides count as equal.
    pub checksum: bool,
    pub logger: Logger,
}

/// Replies that wait for the engine; beyond that the endpoints wait.
const WAITING: usize = 1024;
/// How a side that is lost is called: after the first pause, then after ones twice as long up to the longest.
pub const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// However quiet it is, the brain looks up so often.
const IDLE: Duration = Duration::from_secs(1);

/// Runs a pair until it is done, cannot go on, or `stop` is set. Nobody stands at the desk.
pub fn run(job: &Job, monitor: Arc<dyn Monitor>, stop: Stop) -> Exit {
    let desk = Desk::new(&job.pair, &job.settings, |_| {});
    run_at(&desk, job, monitor, stop)
}

/// The same, with a desk for orders.
pub fn run_at(desk: &Desk, job: &Job, monitor: Arc<dyn Monitor>, stop: Stop) -> Exit {
    let _pulse = pulse::take("brain");
    let (heard_in, heard) = sync_channel::<Heard>(WAITING);
    // A full queue wakes the brain as well; it looks at the flag and at the tray each time.
    let wakes = [heard_in.clone(), heard_in.clone()];
    let [on_stop, on_order] = wakes.map(|wake| move || drop(wake.try_send(Heard::Wake)));
    stop.on_stop(on_stop);
    desk.on_order(on_order);
    let logger = job.logger.clone();
    let brain = Brain {
        desk,
        monitor: &*monitor,
        stop: &stop,
        teller: Teller::new(&*monitor, desk, job),
        job: job.clone(),
        queue: Queue { ends: heard_in, heard },
        incarnation: started_at(),
        paused: pause::Pause::default(),
        rest: job.pauses.0,
        left_over: LeftOver { mandate: job.mandate, ..LeftOver::default() },
        alarm: Alarm::default(),
        words: Words::default(),
    };
    let exit = brain.run();
    if job.persistent {
        slog::debug!(logger, "the brain has ended: {exit:?}");
    }
    exit
}

/// A brain at work.
struct Brain<'a> {
    desk: &'a Desk,
    monitor: &'a dyn Monitor,
    stop: &'a Stop,
    teller: Teller<'a>,
    job: Job,
    queue: Queue,
    incarnation: u64,
    paused: pause::Pause,
    /// How long a side that cannot serve for now is left alone.
    rest: Duration,
    left_over: LeftOver,
    alarm: Alarm,
    /// What the process says that leads to the right side.
    words: Words,
}

/// The brain's one queue: what both sides and others say to it.
struct Queue {
    /// For whoever speaks.
    ends: SyncSender<Heard>,
    heard: Receiver<Heard>,
}

/// What a session leaves to the next one.
#[derive(Default)]
struct LeftOver {
    /// What an administrator accepts.
    mandate: Mandate,
    /// When the oldest change came that was reported, and is not recorded on both sides.
    owed_since: Option<Millis>,
    /// What was known of deletions.
    guard: Option<Guard>,
}

impl Brain<'_> {
    fn run(mut self) -> Exit {
        let (shortest, longest) = self.job.pauses;
        let mut pause = shortest;
        let mut lefts = 0;
        let mut opened = false;
        loop {
            self.desk.know(|facts, _| facts.opened = false);
            lefts += 1;
            let reason = match self.open_left(lefts) {
                Ok(left) => {
                    opened = true;
                    self.desk.know(|facts, _| facts.opened = true);
                    self.keep_pause(&left);
                    let ended = self.serve(&left);
                    self.desk.know(|facts, _| facts.opened = false);
                    self.desk.set_heart(None);
                    left.end(&self.queue.heard);
                    match ended {
                        Ended::Exit(exit) => return exit,
                        Ended::Resumed(next) => {
                            self.left_over.mandate = next;
                            continue;
                        }
                        Ended::LeftFailed(reason) => {
                            pause = if self.teller.synced() { shortest } else { pause };
                            reason
                        }
                        Ended::RightLost(_) | Ended::Reconnect => continue,
                    }
                }
                Err(reason) => reason,
            };
            // What cannot even be opened is a failed start.
            if !self.job.persistent || !opened {
                self.monitor.halted(&format!("left side: {reason}"), "");
                return if self.teller.synced() { Exit::Internal } else { Exit::InitialSyncFailed };
            }
            self.link(&LinkState::Down { reason: format!("left side: {reason}"), retry: Some(pause.as_secs()) });
            if let Some(Ended::Exit(exit)) = self.wait(pause, None) {
                return exit;
            }
            pause = (pause * 2).min(longest);
        }
    }

    fn open_left(&mut self, number: u64) -> Result<Left, String> {
        let left = Left::start(&self.job, number, self.queue.ends.clone())?;
        self.teller.keep_events_in(left.own_dir());
        match left.heartbeat(&self.job) {
            Ok(heart) => self.desk.set_heart(heart),
            Err(reason) => {
                left.end(&self.queue.heard);
                return Err(reason);
            }
        }
        Ok(left)
    }

    /// Sessions with the right side, one after the other, until the run or the left side ends.
    fn serve(&mut self, left: &Left) -> Ended {
        let mut lost_since: Option<Instant> = None;
        let (shortest, longest) = self.job.pauses;
        let mut pause = shortest;
        loop {
            self.incarnation += 1;
            self.link(&LinkState::Connecting);
            let ended = match Right::start(&self.job, self.incarnation, self.queue.ends.clone(), &self.words) {
                Ok(right) => {
                    let mandate = self.left_over.mandate;
                    let mut session = Session::new(self, left, &right, mandate);
                    let ended = session.run();
                    let (greeted, settled) = (session.greeted(), session.settled());
                    if greeted {
                        (lost_since, pause) = (None, shortest);
                    }
                    if settled {
                        // What was accepted counts until both sides are equal.
                        self.left_over.mandate = Mandate::default();
                        self.rest = shortest;
                    }
                    // The process at the other end gets some seconds.
                    let farewell = pulse::rest(Duration::from_secs(10), || right.end());
                    match ended {
                        Ended::RightLost(error) => Err(farewell.explain(&error, &self.job.settings).to_string()),
                        ended => Ok(ended),
                    }
                }
                Err(error) => Err(error.to_string()),
            };
            left.part();
            let reason = match ended {
                Err(reason) => reason,
                Ok(Ended::Reconnect) => continue,
                Ok(ended) => return ended,
            };
            if self.stop.is_set() {
                return Ended::Exit(Exit::Done);
            }
            let since = *lost_since.get_or_insert_with(Instant::now);
            let given_up = match self.teller.synced() {
                _ if self.job.persistent => None,
                false => Some(Exit::InitialSyncFailed),
                true => (since.elapsed() >= self.job.settings.absence.maxtimeout).then_some(Exit::RightLost),
            };
            let retry = given_up.is_none().then_some(pause.as_secs());
            self.link(&LinkState::Down { reason, retry });
            if let Some(exit) = given_up {
                return Ended::Exit(exit);
            }
            if let Some(ended) = self.wait(pause, Some(left)) {
                return ended;
            }
            pause = (pause * 2).min(longest);
        }
    }

    /// Waits while a side is lost; what the left says is void until the next session, but for its end.
    fn wait(&mut self, pause: Duration, left: Option<&Left>) -> Option<Ended> {
        let until = Instant::now() + pause;
        while !self.stop.is_set() {
            while let Some(Slip { order, answer }) = self.desk.next_order() {
                drop(answer.send(self.obey_idle(order, left)));
            }
            self.show_waiting(left);
            self.look_for_alerts();
            let rest = until.saturating_duration_since(Instant::now()).min(IDLE);
            match pulse::rest(rest, || self.queue.heard.recv_timeout(rest)) {
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) if Instant::now() >= until => return None,
                Ok(Heard::LeftEnded(number, served)) if left.is_some_and(|left| left.number() == number) => {
                    return Some(Ended::LeftFailed(served.err().unwrap_or_else(|| "its thread has ended".to_owned())));
                }
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
            }
        }
        Some(Ended::Exit(Exit::Done))
    }

    /// An order while there is no session.
    fn obey_idle(&mut self, order: Order, left: Option<&Left>) -> Answer {
        match order {
            Order::FullSync { checksum } => {
                let number = self.want_full_sync(checksum);
                Err(format!("a side is lost: full sync {number} runs once both can be reached"))
            }
            Order::Expire => Err("a side is lost: `psync status` says why".to_owned()),
            Order::Pause => self.pause(true, left),
            Order::Resume(mandate) if self.desk.facts().halted => {
                drop(self.pause(false, left));
                self.teller.resumed();
                self.left_over.mandate = mandate;
                Ok("going on once both sides can be reached".to_owned())
            }
            Order::Resume(mandate) if mandate.accept => Err("not halted: there is nothing to accept".to_owned()),
            Order::Resume(_) if self.is_paused() => self.pause(false, left),
            Order::Resume(_) => Ok("neither paused nor halted".to_owned()),
            Order::Reload(settings) => {
                self.take_settings(*settings);
                Ok("reloaded".to_owned())
            }
        }
    }

    /// What waits on this side while no session takes it, and since when.
    fn waiting(&self, left: &Left) -> (u64, Option<Millis>) {
        let waiting = left.waiting();
        let owed = self.left_over.owed_since.filter(|_| waiting.open() > 0);
        (waiting.dirty() + waiting.open(), waiting.oldest().into_iter().chain(owed).min())
    }

    /// Shows it. A side that is not open sees nothing.
    fn show_waiting(&self, left: Option<&Left>) {
        let Some(left) = left else { return };
        let (queue, oldest) = self.waiting(left);
        let lag = oldest.map_or(0, |since| clock().saturating_sub(since));
        let stats = left.stats();
        let held = left.waiting().files().filter(|_| !self.job.settings.shared.run.dryrun);
        self.desk.update(|status| {
            if let Some((files, bytes)) = held {
                (status.left.files, status.left.bytes) = (files, bytes);
                (status.files, status.bytes) = (files, bytes);
            }
            (status.queue, status.lag_seconds) = (queue, lag as f64 / 1000.0);
            status.left.watches = Some(stats.watches as u64);
            (status.left.events, status.left.overflows) = (Some(stats.events), Some(stats.overflows));
        });
    }

    /// Tells an administrator what he should hear of.
    fn look_for_alerts(&mut self) {
        let (alarm, after) = (&mut self.alarm, self.job.settings.alerts.after);
        let alerts = self.desk.read(|status| alarm.look(status, after, clock()));
        alerts.iter().for_each(|alert| self.monitor.alert(alert));
    }

    /// Notes that a full sync is to come; its number.
    fn want_full_sync(&mut self, checksum: bool) -> u64 {
        let mut number = 0;
        self.desk.update(|status| {
            let open = status.full_sync.as_ref().filter(|sync| sync.ended.is_none() && sync.number > 0);
            let checksum = checksum || open.is_some_and(|sync| sync.checksum);
            number = self.teller.next_full_sync();
            status.full_sync = Some(FullSync { number, begun: wall(), ended: None, checksum });
        });
        number
    }

    /// Takes other settings; true if the agent must hear of them, which it does with the next connection.
    fn take_settings(&mut self, settings: Settings) -> bool {
        // How much it logs is nothing to interrupt it for.
        // An agent of another host has a file of its own.
        let shared = |settings: &Settings| SharedSettings {
            run: Run { debug: 0, ..settings.shared.run },
            ..settings.shared.clone()
        };
        let differs = shared(&self.job.settings) != shared(&settings);
        if !matches!(self.job.right, RightCommand::Line(_)) {
            self.job.right = pair_command(&settings, &self.job.pair, false);
        }
        self.job.settings = settings;
        differs && matches!(self.job.right, RightCommand::Child(_))
    }

    /// Tells of the link, to the monitor and on the board.
    fn link(&self, state: &LinkState) {
        match state {
            LinkState::Connecting => self.words.called(self.job.persistent),
            LinkState::Up => self.words.answered(),
            LinkState::Down { .. } => {}
        }
        show_link(self.desk, state);
        self.monitor.link(state);
    }
}

/// Puts the link's state on the board.
fn show_link(desk: &Desk, state: &LinkState) {
    let (word, reason, next) = match state {
        LinkState::Connecting => (LinkWord::Connecting, None, None),
        LinkState::Up => (LinkWord::Up, None, None),
        LinkState::Down { reason, retry } => (LinkWord::Down, Some(reason.clone()), *retry),
    };
    desk.know(|facts, status| {
        let now = wall();
        let since = if status.link.state == word { status.link.since } else { now };
        // Why it was down is worth knowing while it is called again.
        let reason = reason.or_else(|| status.link.reason.take().filter(|_| word == LinkWord::Connecting));
        status.link = Link { state: word, since, reason, next_attempt: next.map(|seconds| now + seconds) };
        status.totals.links += u64::from(word == LinkWord::Up);
        match word {
            LinkWord::Down => facts.lose(),
            LinkWord::Connecting => facts.end_session(),
            LinkWord::Up => facts.meet(),
        }
    });
}

impl Heart for Heartbeat {
    fn touch(&self) -> std::io::Result<()> {
        Heartbeat::touch(self)
    }

    fn heard(&self) -> u64 {
        Heartbeat::heard(self)
    }
}

/// The start of this run: later runs have higher numbers.
fn started_at() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(0)
}
