//! The two endpoints as the brain reaches them: the left in a thread of its own, the right at the other end of a
//! proxy command or in a child process.

use std::os::unix::ffi::OsStrExt;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use slog::{Logger, debug, info};

use super::Job;
use crate::config::{RightCommand, Settings, SharedSettings, host_key};
use crate::endpoint::Waiting;
use crate::endpoint::backlog::{Backlog, Place};
use crate::endpoint::heartbeat::Heartbeat;
use crate::endpoint::open::{Opening, open};
use crate::endpoint::serve::{Inbound, Over, Tuning, clock, serve};
use crate::filter::Filter;
use crate::link::channel::{Channel, Incoming};
use crate::link::codec::Says;
use crate::link::failure::Explanation;
use crate::link::handshake::Hello;
use crate::link::proxy::{self, Proxy};
use crate::link::{Limits, LinkError, failure};
use crate::model::Side;
use crate::protocol::{Reply, Request, Weight};
use crate::pulse;
use crate::replica::real::OwnDir;
use crate::service::repeats::{Repeats, without_figures};
use crate::watch::inotify::{InotifyTree, Stats};

/// However quiet it is, a thread shows so often that it lives.
const IDLE: Duration = Duration::from_secs(2);

/// Bytes of the right side's words that wait for the brain; then its link is not read.
const HEARD: usize = 16 << 20;
/// Bytes of requests that wait for the line. What the protocol lets be under way is less.
const WAITING: usize = 160 << 20;

/// What the brain's one queue brings.
#[derive(Debug)]
pub enum Heard {
    /// From the left endpoint of this number.
    Left(u64, Reply),
    /// The thread of that left endpoint has ended.
    LeftEnded(u64, Result<(), String>),
    /// From the right side of this session, and what it takes of the backlog before the brain.
    Right(u64, Incoming<Reply>, Place),
    /// Look at the stop flag.
    Wake,
}

/// The left endpoint's thread.
pub struct Left {
    number: u64,
    inbox: Sender<Inbound>,
    thread: JoinHandle<()>,
    watcher: Arc<InotifyTree>,
    own: Option<OwnDir>,
    waiting: Arc<Waiting>,
}

impl Left {
    /// Opens the left root and starts its thread. The error says what could not be opened.
    pub fn start(job: &Job, number: u64, heard: SyncSender<Heard>) -> Result<Left, String> {
        let (inbox, inbox_out) = channel();
        let events = inbox.clone();
        let sink = move |told| drop(events.send(told));
        let opening = opening(&job.settings, &job.pair, Side::Left);
        let (mut endpoint, watcher) = open(&opening, clock(), sink)?;
        let (its_watcher, own, waiting) = (watcher.clone(), endpoint.own_dir(), endpoint.waiting());
        let run = move || {
            let _pulse = pulse::take("left");
            let served = serve(&mut endpoint, &inbox_out, |reply| heard.send(Heard::Left(number, reply)).is_ok());
            let served = match served {
                Ok(Over::Refused(reason)) => Err(reason),
                Ok(_) => Ok(()),
                Err(error) => Err(error.to_string()),
            };
            // Only now may another one open the archive: before anybody hears of the end.
            drop(endpoint);
            pulse::lean(|| its_watcher.stop());
            pulse::lean(|| drop(heard.send(Heard::LeftEnded(number, served))));
        };
        let thread = thread::Builder::new().name("left".into()).spawn(run).map_err(|e| e.to_string())?;
        Ok(Left { number, inbox, thread, watcher, own, waiting })
    }

    /// Which one it is: one that was ended may still have something to say.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Its sign of life. A dry run makes no file, and has none.
    pub fn heartbeat(&self, job: &Job) -> Result<Option<Heartbeat>, String> {
        let Some(own) = self.own.clone() else { return Ok(None) };
        let opened = Heartbeat::open(own, self.watcher.clone());
        opened.map(Some).map_err(|e| format!("{}: the heartbeat file: {e}", job.settings.left.root.display()))
    }

    /// psync's own directory, as it has it open; a dry run has none.
    pub fn own_dir(&self) -> Option<OwnDir> {
        self.own.clone()
    }

    /// What waits on it while nobody takes its reports.
    pub fn waiting(&self) -> &Waiting {
        &self.waiting
    }

    /// What its watcher counts.
    pub fn stats(&self) -> Stats {
        self.watcher.stats()
    }

    /// Other delays and days of the trash.
    pub fn tune(&self, settings: &Settings) {
        let SharedSettings { timing, trash, removal, .. } = settings.shared;
        let tuning = Tuning { timing, trash, removal };
        drop(self.inbox.send(Inbound::Tune(tuning)));
    }

    pub fn send(&self, request: Request) {
        // A thread that has ended says so by itself.
        drop(self.inbox.send(Inbound::Request(request)));
    }

    /// The right side is gone: nobody decides on what is reported until the next session.
    pub fn part(&self) {
        drop(self.inbox.send(Inbound::Part));
    }

    /// Ends the thread; what it recorded is durable.
    pub fn end(self, heard: &Receiver<Heard>) {
        drop(self.inbox.send(Inbound::End));
        let deadline = std::time::Instant::now() + Duration::from_secs(5);
        while !self.thread.is_finished() && std::time::Instant::now() < deadline {
            pulse::beat();
            // It may wait for the brain to take a reply.
            while heard.try_recv().is_ok() {}
            thread::sleep(Duration::from_millis(2));
        }
    }
}

/// The right endpoint: a link to an agent. Requests wait in a queue of their own, so that the brain never does; the
/// protocol bounds it (actions in flight, credit of contents).
pub struct Right {
    requests: Sender<Request>,
    proxy: Proxy,
    channel: Arc<Channel<Request>>,
    hung: Arc<AtomicBool>,
    /// Bytes that wait for the line.
    waiting: Arc<AtomicUsize>,
}

impl Right {
    pub fn start(job: &Job, session: u64, heard: SyncSender<Heard>, words: &Words) -> Result<Right, LinkError> {
        let limits = limits(&job.settings, &job.right);
        let (backlog, hung) = (Backlog::of(HEARD), Arc::new(AtomicBool::new(false)));
        let is_hung = hung.clone();
        let deliver = move |incoming: Incoming<Reply>| {
            let bytes = if let Incoming::Message(reply) = &incoming { reply.weight() } else { 0 };
            let place = backlog.place(bytes);
            let incoming = match (is_hung.load(Ordering::Acquire), incoming) {
                (true, Incoming::Ended(_)) => {
                    Incoming::Ended(LinkError::TurnedAway("it does not read what it asks for".to_owned()))
                }
                (true, _) => return false,
                (false, incoming) => incoming,
            };
            heard.send(Heard::Right(session, incoming, place)).is_ok()
        };
        let (proxy, channel) = call(&job.pair, &job.right, limits, words.log(&job.logger), deliver)?;
        let channel = Arc::new(channel);
        let its_channel = channel.clone();
        let (requests, queue) = channel_of_requests();
        let waiting = Arc::new(AtomicUsize::new(0));
        let its_waiting = waiting.clone();
        let pump = move || {
            let pulse = pulse::take("right");
            loop {
                let request = match pulse::rest(IDLE, || queue.recv_timeout(IDLE)) {
                    Ok(request) => request,
                    Err(RecvTimeoutError::Timeout) => continue,
                    Err(RecvTimeoutError::Disconnected) => break,
                };
                its_waiting.fetch_sub(request.weight(), Ordering::AcqRel);
                // The link makes room, or ends after so long a silence.
                if pulse::rest(limits.silence, || channel.send(&request)).is_err() {
                    return;
                }
            }
            drop(pulse);
            channel.close();
            // The reader says the end; until then the channel must live.
            thread::sleep(Duration::from_secs(2));
        };
        thread::Builder::new()
            .name("right".into())
            .spawn(pump)
            .map_err(|source| LinkError::Io { operation: "start a thread", source })?;
        Ok(Right { requests, proxy, channel: its_channel, hung, waiting })
    }

    pub fn send(&self, request: Request) {
        let bytes = request.weight();
        if self.waiting.fetch_add(bytes, Ordering::AcqRel) + bytes > WAITING {
            // It gives credit for what it does not read.
            self.hang_up();
        } else if !self.hung.load(Ordering::Acquire) {
            drop(self.requests.send(request));
        }
    }

    /// Nothing more is said to it or heard of it.
    pub fn hang_up(&self) {
        self.hung.store(true, Ordering::Release);
        self.channel.abort();
    }

    /// Closes the link and ends the process behind it. What it said last, and its status if it had ended by itself.
    pub fn end(self) -> Farewell {
        drop((self.requests, self.channel));
        Farewell::of(self.proxy)
    }
}

/// How a side whose root is on this host is opened.
pub fn opening<'a>(settings: &'a Settings, pair: &'a str, side: Side) -> Opening<'a> {
    Opening {
        root: if side == Side::Left { &settings.left.root } else { &settings.right.root },
        pair,
        side,
        shared: &settings.shared,
        // What comes from another host has not the rights of this process.
        accept: settings.shared.grants.accept(settings.is_local()),
        dry_run: settings.shared.run.dryrun,
        // The brain tells of both sides.
        done: None,
    }
}

/// Calls the right side: the process that leads to its agent, and the link. `log` hears what the process says on stderr.
pub fn call<O: Says>(
    pair: &str,
    right: &RightCommand,
    limits: Limits,
    log: impl FnMut(String) + Send + 'static,
    deliver: impl FnMut(Incoming<O::Hears>) -> bool + Send + 'static,
) -> Result<(Proxy, Channel<O>), LinkError> {
    let (proxy, pipes) = match right {
        RightCommand::Child(args) => proxy::spawn_self(args, log)?,
        RightCommand::Proxy(command) => proxy::spawn(&String::from_utf8_lossy(command.as_bytes()), log)?,
        RightCommand::Line(socket) => {
            proxy::spawn_self(&["--agent-mode".into(), "line".into(), socket.clone().into()], log)?
        }
    };
    let channel = Channel::start(pipes, Hello::new(O::ROLE, pair), limits, deliver)?;
    Ok((proxy, channel))
}

/// The limits of the link to the right side.
pub fn limits(settings: &Settings, right: &RightCommand) -> Limits {
    match right {
        RightCommand::Proxy(_) => Limits::of(&settings.shared),
        RightCommand::Child(_) => Limits::of_pipe(&settings.shared),
        // Whose process packs, unpacks and keeps to the bandwidth.
        RightCommand::Line(_) => Limits { unpack: false, ..Limits::of_pipe(&settings.shared) },
    }
}

/// What is known of a proxy command that has ended.
pub struct Farewell {
    said: Vec<String>,
    status: Option<ExitStatus>,
}

impl Farewell {
    /// Ends the process, whose pipes are closed.
    pub fn of(mut proxy: Proxy) -> Farewell {
        let status = proxy.end(Duration::from_secs(5)).ok();
        Farewell { said: proxy.said(), status }
    }

    /// Why the right side was lost.
    pub fn explain(&self, error: &LinkError, settings: &Settings) -> Explanation {
        let host = settings.right.host.as_deref();
        failure::explain(error, &self.said, self.status, &host_key(settings), host)
    }
}

fn channel_of_requests() -> (Sender<Request>, Receiver<Request>) {
    channel()
}

/// What the process says that leads to the right side, as the log has it. While a service calls in vain, it says the same
/// for each call.
#[derive(Debug, Default)]
pub struct Words {
    /// `Some` while it is called.
    repeats: Arc<Mutex<Option<Repeats>>>,
}

impl Words {
    /// The right side is called, by one that goes on calling if `persistent`.
    pub fn called(&self, persistent: bool) {
        if persistent {
            self.lock().get_or_insert_default();
        }
    }

    /// It is there: all that is said from now on is worth a record.
    pub fn answered(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Repeats>> {
        self.repeats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For the lines of one process.
    fn log(&self, logger: &Logger) -> impl FnMut(String) + Send + 'static + use<> {
        let (logger, words) = (logger.clone(), Words { repeats: self.repeats.clone() });
        move |line| {
            let again =
                words.lock().as_mut().is_some_and(|said| said.worth(&words_of(&line), Instant::now()).is_none());
            if again {
                debug!(logger, "right: {line}");
            } else {
                info!(logger, "right: {line}");
            }
        }
    }
}

fn words_of(line: &str) -> String {
    without_figures(line).collect()
}

/// The digest of the filters in force, as both sides compute it.
pub fn filter_digest(settings: &Settings) -> [u8; 32] {
    Filter::new(&settings.shared.filters).map(|filter| filter.digest()).unwrap_or_default()
}
