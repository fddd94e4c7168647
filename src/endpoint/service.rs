//! The agent as a service: an endpoint behind a socket that outlives its connections. While no brain is there it goes
//! on watching, so that the next session scans nothing.
//!
//! ```text
//! socket ─▶ caller (a thread each) ─▶ admit ─▶ tenure ─▶ endpoint (the calling thread)
//!                   ▲──────────────── replies ───────────────┘
//! ```

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::link::channel::Channel;
use crate::link::frame::{self, Kind};
use crate::link::handshake::{Hello, Role};
use crate::link::{Limits, LinkError};
use crate::model::readable;
use crate::protocol::survey::{Answer, Ask};
use crate::protocol::{Reply, Request};
use crate::pulse;
use crate::watch::inotify::InotifyTree;

use super::admit::Admission;
use super::backlog::Backlog;
use super::caller::{self, Caller, Heard};
use super::checks::Checks;
use super::heartbeat::Heartbeat;
use super::open::{Opening, RealEndpoint, open};
use super::serve::{Inbound, Over, Session, clock, serve};
use super::survey::{Scope, Survey, attend};
use super::tenure::Tenure;

/// Connections at a time, of which one is served.
const CALLERS: usize = 16;
/// Whoever says for so long what nobody waits for, or nothing, has to go. A check shows more often that it is still there.
const SILENT: Duration = Duration::from_secs(60);
/// Whoever means another root is called again after so long at most: one of the two files may have been mended.
const HALTED: Duration = Duration::from_secs(30);
/// Whoever was turned away may take so long to go.
const GO: Duration = Duration::from_secs(5);
/// Between two tries to accept, when that fails.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);
/// Longest wait for an input while no endpoint is open.
const IDLE: Duration = Duration::from_secs(5);

/// What operators may want to know.
#[derive(Debug)]
pub enum News<'a> {
    /// A session begins with this brain; `watching`: nothing need be scanned.
    Begun {
        who: &'a str,
        watching: bool,
    },
    /// The brain's connection has ended.
    Parted {
        who: &'a str,
        why: &'a LinkError,
    },
    /// The brain said stop.
    Stopped,
    TurnedAway {
        who: &'a str,
        why: &'a str,
    },
    Scanned {
        files: u64,
        bytes: u64,
    },
    Note(&'a str),
    /// The brain asked for what no brain may ask: its session is over.
    Refused {
        who: &'a str,
        why: &'a str,
    },
    /// The root cannot be served, or not any more.
    Failed(&'a str),
}

/// Told from any of the agent's threads.
pub type Tell = Arc<dyn Fn(News<'_>) + Send + Sync>;

/// What an agent serves, and to whom.
pub struct Service<'a> {
    /// The root is opened when the first brain comes, and again if it was exchanged or unmounted meanwhile.
    pub opening: Opening<'a>,
    pub admission: Admission,
    pub limits: Limits,
    pub tell: Tell,
    pub mounted: Mounted,
    pub elsewhere: Elsewhere,
}

/// Whether the root's file system is there; else what is missing. Asked for each caller.
pub type Mounted = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Whether the pair's file names another root by now: another process is to serve that. No caller decides it.
pub type Elsewhere = Arc<dyn Fn() -> bool + Send + Sync>;

/// An endpoint that is open, and what watches for it.
struct Held {
    endpoint: RealEndpoint,
    watcher: Arc<InotifyTree>,
    dry: bool,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.watcher.stop();
    }
}

/// Ends the service, from any thread.
pub type End = Box<dyn Fn() + Send + Sync>;

/// The heartbeat file of the endpoint that is open.
pub type Beating = Arc<Mutex<Option<Arc<Heartbeat>>>>;

impl Service<'_> {
    /// Serves brains on the socket until the function that `on_stop` was given is called. What was asked by then
    /// is done and recorded. `beating` gets the heartbeat file of what is open.
    pub fn run(&self, listener: UnixListener, beating: &Beating, on_stop: impl FnOnce(End)) -> io::Result<()> {
        let (endpoint, inbox) = channel();
        let tenure = Arc::new(Tenure::new(endpoint.clone()));
        let (ended, holder) = (endpoint.clone(), tenure.clone());
        let end: Arc<dyn Fn() + Send + Sync> = Arc::new(move || {
            // First, so that the endpoint does not wait for a slow line.
            holder.dismiss("the agent was stopped");
            let _ = ended.send(Inbound::End);
        });
        let holds = tenure.clone();
        let at_stop = end.clone();
        on_stop(Box::new(move || at_stop()));
        let door = Door {
            tenure,
            admission: self.admission.clone(),
            limits: self.limits,
            pair: self.opening.pair.to_owned(),
            tell: self.tell.clone(),
            callers: Arc::default(),
            backlog: Backlog::default(),
            root: self.opening.root.to_owned(),
            scope: self.opening.scope(),
            checks: Checks::default(),
            mounted: self.mounted.clone(),
            elsewhere: self.elsewhere.clone(),
            silent: SILENT,
            end,
        };
        thread::Builder::new().name("accept".into()).spawn(move || door.accept(&listener))?;
        let mut held = None;
        self.serve_all(&mut held, &inbox, (&endpoint, &holds), beating);
        if let Some(mut held) = held
            && let Err(error) = held.endpoint.part(clock())
        {
            (self.tell)(News::Failed(&error.to_string()));
        }
        Ok(())
    }

    fn serve_all(
        &self,
        held: &mut Option<Held>,
        inbox: &Receiver<Inbound>,
        (events, tenure): (&Sender<Inbound>, &Tenure),
        beating: &Beating,
    ) {
        let mut replies: Option<Arc<Channel<Reply>>> = None;
        // Whose session it is, or was last.
        let mut whose = (0, "a brain".to_owned());
        loop {
            let over = match held.as_mut() {
                Some(held) => serve(&mut held.endpoint, inbox, |reply| {
                    self.tell_of(&reply);
                    if replies.as_ref().is_some_and(|to| to.send(&reply).is_err()) {
                        replies = None;
                    }
                    true
                })
                .map_err(|error| error.to_string()),
                None => Ok(wait(inbox)),
            };
            let failed = match over {
                Ok(Over::End) => return,
                Ok(Over::Stopped) => {
                    (self.tell)(News::Stopped);
                    if let Some(to) = replies.take() {
                        to.close();
                    }
                    None
                }
                Ok(Over::Refused(reason)) => {
                    replies = None;
                    tenure.expel(whose.0, &reason);
                    (self.tell)(News::Refused { who: &whose.1, why: &reason });
                    // What it asked for before is done and recorded when the endpoint hears that it has parted; what it
                    // said since waits before that, and is passed over.
                    None
                }
                Ok(Over::Begin(session)) => {
                    replies = Some(session.replies.clone());
                    whose = (session.connection, session.name.clone());
                    self.begin(held, session, events, beating).err()
                }
                Err(reason) => Some(reason),
            };
            if let Some(reason) = failed {
                // As after a crash: what is open is settled when it is opened again.
                *held = None;
                keep(beating, None);
                (self.tell)(News::Failed(&reason));
                if let Some(to) = replies.take() {
                    let _ = to.send(&Reply::Away { reason });
                    to.close();
                }
            }
        }
    }

    /// Opens what the session needs and lets it begin.
    fn begin(
        &self,
        held: &mut Option<Held>,
        session: Session,
        events: &Sender<Inbound>,
        beating: &Beating,
    ) -> Result<(), String> {
        let dry = self.opening.dry_run || session.start.dry_run;
        // A root that was unmounted or exchanged is not the one that we still have open.
        // Whoever mended a damaged archive meanwhile wants to see it opened again.
        let stale =
            |held: &mut Held| held.dry != dry || !held.endpoint.root_is_there() || held.endpoint.damage().is_some();
        held.take_if(stale);
        let open = match held {
            Some(open) => open,
            None => {
                keep(beating, None);
                let root = std::fs::canonicalize(self.opening.root)
                    .map_err(|e| format!("root {}: {e}", self.opening.root.display()))?;
                let opening = Opening { root: &root, dry_run: dry, ..self.opening.clone() };
                let sink = events.clone();
                let (endpoint, watcher) = open(&opening, clock(), move |told| drop(sink.send(told)))?;
                if !dry {
                    let heartbeat = endpoint.own_dir().and_then(|own| Heartbeat::open(own, watcher.clone()).ok());
                    keep(beating, heartbeat);
                }
                held.insert(Held { endpoint, watcher, dry })
            }
        };
        let mut out = Vec::new();
        open.endpoint.handle(Request::Start(session.start), clock(), &mut out).map_err(|e| e.to_string())?;
        for reply in out {
            if let Reply::Hello(hello) = &reply {
                (self.tell)(News::Begun { who: &session.name, watching: hello.watching });
            }
            let _ = pulse::lean(|| session.replies.send(&reply));
        }
        Ok(())
    }

    fn tell_of(&self, reply: &Reply) {
        match reply {
            Reply::ScanDone { files, bytes } => (self.tell)(News::Scanned { files: *files, bytes: *bytes }),
            Reply::Note { text } => (self.tell)(News::Note(text)),
            Reply::Halt { reason } | Reply::Away { reason } | Reply::Damaged { detail: reason } => {
                (self.tell)(News::Failed(reason))
            }
            _ => {}
        }
    }
}

fn keep(beating: &Beating, heartbeat: Option<Heartbeat>) {
    *beating.lock().unwrap_or_else(PoisonError::into_inner) = heartbeat.map(Arc::new);
}

/// Waits for a session; there is nothing yet that could do anything else.
fn wait(inbox: &Receiver<Inbound>) -> Over {
    loop {
        match pulse::rest(IDLE, || inbox.recv_timeout(IDLE)) {
            Ok(Inbound::Begin(session)) => return Over::Begin(session),
            Ok(Inbound::End) | Err(RecvTimeoutError::Disconnected) => return Over::End,
            Ok(
                Inbound::Request(_)
                | Inbound::Held(_)
                | Inbound::Event(_)
                | Inbound::Rsync(_)
                | Inbound::Tune(_)
                | Inbound::Part,
            )
            | Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// What the threads of the callers share.
#[derive(Clone)]
struct Door {
    tenure: Arc<Tenure>,
    admission: Admission,
    limits: Limits,
    pair: String,
    tell: Tell,
    callers: Arc<AtomicUsize>,
    /// Before the endpoint.
    backlog: Backlog,
    /// What a check looks at.
    root: PathBuf,
    scope: Scope,
    checks: Checks,
    mounted: Mounted,
    elsewhere: Elsewhere,
    /// How long a caller may hold a place and say nothing.
    silent: Duration,
    end: Arc<dyn Fn() + Send + Sync>,
}

/// Counts one caller as long as it lives.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Door {
    fn accept(&self, listener: &UnixListener) {
        for connection in 1.. {
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) => {
                    (self.tell)(News::TurnedAway { who: "a caller", why: &format!("accept: {error}") });
                    thread::sleep(ACCEPT_PAUSE);
                    continue;
                }
            };
            let counted = Counted(self.callers.clone());
            if self.callers.fetch_add(1, Ordering::AcqRel) >= CALLERS {
                (self.tell)(News::TurnedAway { who: "a caller", why: "too many connections" });
                continue;
            }
            let door = self.clone();
            let attend = move || {
                door.attend(connection, &stream);
                let _ = stream.shutdown(Shutdown::Both);
                drop(counted);
            };
            if let Err(error) = thread::Builder::new().name("caller".into()).spawn(attend) {
                (self.tell)(News::TurnedAway { who: "a caller", why: &format!("no thread: {error}") });
            }
        }
    }

    /// The whole life of one connection.
    fn attend(&self, connection: u64, stream: &UnixStream) {
        let user = match self.admission.check(stream) {
            Ok(user) => user,
            Err(why) => {
                (self.tell)(News::TurnedAway { who: "a caller", why: &why });
                return refuse(stream, &self.pair, &why);
            }
        };
        let Ok(pipes) = stream.try_clone().and_then(|read| Ok((read, WriteEnd(stream.try_clone()?)))) else { return };
        let (deliver, meets) = caller::meet();
        let hello = Hello::new(Role::Agent, &self.pair);
        let Ok(link) = Channel::<()>::start(pipes, hello, self.limits, deliver) else { return };
        let until = Instant::now() + self.silent;
        let who = |hello: &Hello| format!("{} (through {user})", hello.name);
        match meets.recv_timeout(left(until)) {
            Ok(Caller::Brain(hello, heard)) => {
                self.serve(connection, who(&hello), &heard, &Arc::new(link.speak()), until);
            }
            Ok(Caller::Surveyor(hello, heard)) => {
                self.survey(connection, &who(&hello), &heard, &Arc::new(link.speak()), until);
            }
            Err(RecvTimeoutError::Timeout) => {
                self.end_silent(&user, &link);
                wait_until_gone(&meets);
            }
            Err(RecvTimeoutError::Disconnected) => {}
        }
    }

    /// A brain's session.
    fn serve(
        &self,
        connection: u64,
        who: String,
        heard: &Heard<Request>,
        replies: &Arc<Channel<Reply>>,
        until: Instant,
    ) {
        let mut begun = false;
        loop {
            let said = match begun {
                true => heard.recv().ok(),
                false => match heard.recv_timeout(left(until)) {
                    Err(RecvTimeoutError::Timeout) => {
                        self.end_silent(&who, replies);
                        break;
                    }
                    other => other.ok(),
                },
            };
            let Some(said) = said else { break };
            match said {
                Ok(Request::Start(_)) if !begun && self.is_unmounted(&who, replies) => {
                    wait_until_gone(heard);
                    // Another process sees what is mounted by then; this one may not, in its sandbox.
                    return (self.end)();
                }
                Ok(Request::Start(start)) if !begun && !serves(&self.root, &start.root) => {
                    let root = readable(self.root.as_os_str().as_bytes());
                    let why = format!("its file names {} for this pair, this one {root}", readable(&start.root));
                    (self.tell)(News::TurnedAway { who: &who, why: &why });
                    let root = self.root.as_os_str().as_bytes().to_vec();
                    let _ = replies.send(&Reply::OtherRoot { root });
                    // The pair stays halted as long as the link is there: a mended file is read by the next process.
                    wait_while_there(heard);
                    if (self.elsewhere)() && !self.tenure.is_held() {
                        (self.end)();
                    }
                    return;
                }
                Ok(Request::Start(start)) => {
                    begun = true;
                    let named = start.pair.clone();
                    let let_in = match named == self.pair {
                        true => self.tenure.begin(connection, &who, start, replies.clone()),
                        false => Err(format!("the pair {} is served here, not {named}", self.pair)),
                    };
                    if let Err(why) = let_in {
                        (self.tell)(News::TurnedAway { who: &who, why: &why });
                        replies.turn_away(&why);
                        break;
                    }
                }
                Ok(Request::Ping { .. }) if !begun => {}
                Ok(request) => {
                    // Waits here, and not before whoever holds the endpoint.
                    let request = self.backlog.hold(request);
                    if !self.tenure.pass(connection, request) {
                        replies.turn_away("another brain has taken over");
                        break;
                    }
                }
                Err(why) => {
                    if self.tenure.leave(connection) {
                        (self.tell)(News::Parted { who: &who, why: &why });
                    }
                    return;
                }
            }
        }
        self.tenure.leave(connection);
        wait_until_gone(heard);
    }

    /// A survey, from its first question to its last, beside the session that may go on: it holds nothing and changes
    /// nothing.
    fn survey(&self, connection: u64, who: &str, heard: &Heard<Ask>, answers: &Arc<Channel<Answer>>, until: Instant) {
        let first = loop {
            match heard.recv_timeout(left(until)) {
                Ok(Ok(Ask::Alive)) => {}
                Ok(Ok(ask)) => break ask,
                Err(RecvTimeoutError::Timeout) => {
                    self.end_silent(who, answers);
                    return wait_until_gone(heard);
                }
                Ok(Err(_)) | Err(RecvTimeoutError::Disconnected) => return,
            }
        };
        if self.is_unmounted(who, answers) {
            wait_until_gone(heard);
            return (self.end)();
        }
        match self.checks.enter(connection, answers, self.silent) {
            Ok(()) => self.answer(connection, first, who, heard, answers),
            Err(why) => answers.turn_away(&why),
        }
        wait_until_gone(heard);
    }

    /// The same once it has a place.
    fn answer(&self, connection: u64, first: Ask, who: &str, heard: &Heard<Ask>, answers: &Channel<Answer>) {
        let open = || Survey::open(&self.root, &self.pair, &self.scope);
        let mut first = Some(first);
        let next = || {
            first.take().or_else(|| {
                loop {
                    match heard.recv_timeout(self.silent) {
                        // The other side is still at it.
                        Ok(Ok(Ask::Alive)) if self.checks.holds(connection) => {}
                        Ok(Ok(Ask::Alive) | Err(_)) | Err(RecvTimeoutError::Disconnected) => return None,
                        Ok(Ok(ask)) => return self.checks.moves(connection).then_some(ask),
                        Err(RecvTimeoutError::Timeout) => {
                            self.end_silent(who, answers);
                            return None;
                        }
                    }
                }
            })
        };
        attend(open, next, |answer| answers.send(&answer).is_ok() && self.checks.moves(connection));
        self.checks.leave(connection);
        answers.close();
    }

    /// If the root's file system is not there, the caller is told so.
    fn is_unmounted<O>(&self, who: &str, link: &Channel<O>) -> bool {
        let Err(why) = (self.mounted)() else { return false };
        (self.tell)(News::TurnedAway { who, why: &why });
        link.turn_away(&why);
        // However often they call: systemd starts this service no more than once a second.
        thread::sleep(Duration::from_secs(1));
        true
    }

    /// A caller holds one of few places and wants nothing.
    fn end_silent<O>(&self, who: &str, link: &Channel<O>) {
        let why = format!("nothing was asked for {} s", self.silent.as_secs());
        (self.tell)(News::TurnedAway { who, why: &why });
        link.turn_away(&why);
    }
}

/// What is left of the time until then.
fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}

/// Until the caller has heard why, and gone; whatever it says meanwhile.
fn wait_until_gone<T>(heard: &Receiver<T>) {
    let until = Instant::now() + GO;
    while heard.recv_timeout(left(until)).is_ok() {}
}

/// Until the caller goes by itself, or has stayed for a while: it is told no more.
fn wait_while_there<T>(heard: &Receiver<T>) {
    let until = Instant::now() + HALTED;
    while heard.recv_timeout(left(until)).is_ok() {}
}

/// Whether both paths lead to one directory of this host, or the caller names none.
pub(super) fn serves(root: &Path, named: &[u8]) -> bool {
    let named = Path::new(OsStr::from_bytes(named));
    if named.as_os_str().is_empty() || named.components().eq(root.components()) {
        return true;
    }
    // By a link, or a bind mount.
    let identity = |path: &Path| std::fs::metadata(path).map(|stat| (stat.dev(), stat.ino())).ok();
    identity(root).is_some_and(|own| identity(named) == Some(own))
}

/// Tells a caller that it may not come in, and waits until it has gone.
fn refuse(mut stream: &UnixStream, pair: &str, why: &str) {
    let hello = Hello::new(Role::Agent, pair).send(&mut stream);
    if hello.is_ok() && frame::write(&mut stream, Kind::Refusal, 0, why.as_bytes()).is_ok() {
        let _ = stream.shutdown(Shutdown::Write);
        let _ = stream.set_read_timeout(Some(GO));
        let mut few = [0; 1024];
        // Its first words; it has nothing more to say.
        while stream.read(&mut few).is_ok_and(|n| n > 0) {}
    }
}

/// Tells those who wait at the socket why nobody can be served. If they were left there, systemd would start the service
/// again at once, and they would learn nothing.
pub fn turn_all_away(listener: &UnixListener, pair: &str, why: &str) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    while let Ok((stream, _)) = listener.accept() {
        stream.set_nonblocking(false)?;
        refuse(&stream, pair, why);
    }
    Ok(())
}

/// The writing end of a socket: the other side sees the end of the stream when this is dropped.
struct WriteEnd(UnixStream);

impl Write for WriteEnd {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for WriteEnd {
    fn drop(&mut self) {
        let _ = self.0.shutdown(Shutdown::Write);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SharedSettings;
    use crate::link::channel::Incoming;
    use crate::link::codec::Says;

    fn door(root: &std::path::Path, told: Sender<String>) -> Door {
        let (endpoint, _) = channel();
        let scope = Scope::of(&SharedSettings::default());
        Door {
            tenure: Arc::new(Tenure::new(endpoint)),
            admission: Admission::default(),
            limits: Limits::default(),
            pair: "p".into(),
            tell: Arc::new(move |news| {
                if let News::TurnedAway { why, .. } = news {
                    let _ = told.send(why.to_owned());
                }
            }),
            callers: Arc::default(),
            backlog: Backlog::default(),
            root: root.to_owned(),
            scope,
            checks: Checks::default(),
            mounted: Arc::new(|| Ok(())),
            elsewhere: Arc::new(|| false),
            silent: Duration::from_secs(3),
            end: Arc::new(|| {}),
        }
    }

    static CALLS: AtomicUsize = AtomicUsize::new(1);

    /// Calls, and says this; then it is silent, or only shows that it lives.
    fn call<O: Says<Hears: Send + 'static>>(
        door: &Door,
        says: &[O],
    ) -> (thread::JoinHandle<()>, Channel<O>, Receiver<Incoming<O::Hears>>) {
        let (ours, theirs) = UnixStream::pair().expect("sockets");
        let (say, heard) = channel();
        let pipes = (theirs.try_clone().expect("a socket"), theirs);
        let deliver = move |incoming: Incoming<O::Hears>| say.send(incoming).is_ok();
        let link = Channel::start(pipes, Hello::new(O::ROLE, "p"), Limits::default(), deliver).expect("a link");
        says.iter().for_each(|request| link.send(request).expect("sent"));
        let door = door.clone();
        let connection = CALLS.fetch_add(1, Ordering::Relaxed) as u64;
        (thread::spawn(move || door.attend(connection, &ours)), link, heard)
    }

    #[test]
    fn one_directory_has_many_paths_and_another_is_another() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("data")).expect("made");
        std::fs::create_dir(at("data2")).expect("made");
        std::os::unix::fs::symlink("data", at("link")).expect("linked");
        let serves = |root: &str, named: &str| super::serves(&at(root), at(named).as_os_str().as_bytes());
        for named in ["data", "data/", "./data", "link", "link/", "data/../data"] {
            assert!(serves("data", named), "{named}");
        }
        assert!(serves("link", "data") && super::serves(&at("data"), b""));
        for named in ["data2", "", "gone", "data/x"] {
            assert!(!serves("data", named), "{named}");
        }
        assert!(!serves("gone", "data") && serves("gone", "gone/"));
    }

    #[test]
    fn a_caller_who_means_another_root_is_told_before_anything_is_opened() {
        let root = tempfile::tempdir().expect("a root");
        let (tell, told) = channel();
        let (end, ended) = channel();
        let elsewhere = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let by_file = elsewhere.clone();
        let door = Door {
            end: Arc::new(move || {
                let _ = end.send(());
            }),
            elsewhere: Arc::new(move || by_file.load(Ordering::Relaxed)),
            ..door(root.path(), tell)
        };
        let start = crate::protocol::Start {
            pair: "p".into(),
            incarnation: 1,
            accept: true,
            union: false,
            filters: [0; 32],
            dry_run: false,
            root: b"/srv/another".to_vec(),
        };
        let (attending, link, heard) = call(&door, &[Request::Start(start.clone())]);
        let said = heard.iter().find_map(|incoming| match incoming {
            Incoming::Message(Reply::OtherRoot { root }) => Some(root),
            _ => None,
        });
        assert_eq!(said.as_deref(), Some(root.path().as_os_str().as_bytes()));
        assert!(told.recv().is_ok_and(|why| why.contains("/srv/another")));
        drop((link, heard));
        attending.join().expect("it has gone");
        assert_eq!(std::fs::read_dir(root.path()).expect("the root").count(), 0);
        assert!(!door.tenure.is_held());
        // What callers say ends no process; what the file says does.
        assert!(ended.try_recv().is_err());
        elsewhere.store(true, Ordering::Relaxed);
        let (attending, link, heard) = call(&door, &[Request::Start(start)]);
        assert!(heard.iter().any(|incoming| matches!(incoming, Incoming::Message(Reply::OtherRoot { .. }))));
        drop((link, heard));
        attending.join().expect("it has gone");
        assert!(ended.try_recv().is_ok());
    }

    #[test]
    fn who_holds_a_place_and_is_silent_has_to_go() {
        let root = tempfile::tempdir().expect("a root");
        let (tell, told) = channel();
        let door = door(root.path(), tell);
        let look = || Ask::Look { paths: vec![] };
        for says in [vec![], vec![look()]] {
            let (attending, _link, heard) = call(&door, &says);
            let ended = heard.iter().find_map(|incoming| match incoming {
                Incoming::Ended(LinkError::TurnedAway(why)) => Some(why),
                _ => None,
            });
            assert!(ended.is_some_and(|why| why.contains("nothing was asked")), "{says:?}");
            assert!(told.recv().is_ok_and(|why| why.contains("nothing was asked")));
            attending.join().expect("it has gone");
            assert!(!door.checks.holds(1));
        }
        // Whoever shows that it is still there stays, and is answered.
        let (attending, link, heard) = call(&door, &[look()]);
        for _ in 0..20 {
            // A third longer in all than anybody may be silent.
            thread::sleep(Duration::from_millis(200));
            link.send(&Ask::Alive).expect("sent");
        }
        link.send(&look()).expect("sent");
        let answered = |incoming: &Incoming<Answer>| matches!(incoming, Incoming::Message(Answer::End));
        assert_eq!(heard.iter().filter(answered).take(2).count(), 2);
        drop((link, heard));
        attending.join().expect("it has gone");
    }

    #[test]
    fn who_lives_and_takes_nothing_makes_way() {
        let root = tempfile::tempdir().expect("a root");
        // More than waits in a socket and in front of it.
        for n in 0..30_000 {
            std::fs::write(root.path().join(format!("{n:0>200}")), "").expect("written");
        }
        let (tell, _told) = channel();
        let door = door(root.path(), tell);
        let look = || Ask::Look { paths: vec![] };
        let over = Arc::new(AtomicUsize::new(0));
        let deaf: Vec<_> = (0..2)
            .map(|_| {
                let (ours, theirs) = UnixStream::pair().expect("sockets");
                let pipes = (theirs.try_clone().expect("a socket"), theirs);
                let until = over.clone();
                let takes_nothing = move |_: Incoming<Answer>| {
                    while until.load(Ordering::Relaxed) == 0 {
                        thread::sleep(Duration::from_millis(10));
                    }
                    true
                };
                let hello = Hello::new(Role::Surveyor, "p");
                let link = Channel::start(pipes, hello, Limits::default(), takes_nothing).expect("a link");
                link.send(&Ask::List).expect("sent");
                let (door, until) = (door.clone(), over.clone());
                let connection = CALLS.fetch_add(1, Ordering::Relaxed) as u64;
                let attending = thread::spawn(move || door.attend(connection, &ours));
                let lives = thread::spawn(move || {
                    while until.load(Ordering::Relaxed) == 0 && link.send(&Ask::Alive).is_ok() {
                        thread::sleep(Duration::from_millis(50));
                    }
                });
                (connection, attending, lives)
            })
            .collect();
        let until = Instant::now() + Duration::from_secs(240);
        // Whoever comes before them finds a place without anybody's making way.
        while !deaf.iter().all(|(connection, ..)| door.checks.holds(*connection)) {
            assert!(Instant::now() < until, "they get no place");
            thread::sleep(Duration::from_millis(10));
        }
        let answered = || {
            let (attending, link, heard) = call(&door, &[look()]);
            let first = heard.iter().find(|incoming| !matches!(incoming, Incoming::Hello(_)));
            drop((link, heard));
            attending.join().expect("it has gone");
            matches!(first, Some(Incoming::Message(_)))
        };
        while !answered() {
            assert!(Instant::now() < until, "nobody else gets a place");
            thread::sleep(Duration::from_millis(200));
        }
        // They lose their connections as well, whatever they go on saying.
        while !deaf.iter().any(|(_, attending, _)| attending.is_finished()) {
            assert!(Instant::now() < until, "who has lost the place keeps the connection");
            thread::sleep(Duration::from_millis(200));
        }
        over.store(1, Ordering::Relaxed);
        for (_, attending, lives) in deaf {
            lives.join().expect("over");
            attending.join().expect("it has gone");
        }
    }
}
