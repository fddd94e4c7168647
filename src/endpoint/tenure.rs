//! Which brain an agent serves: one at a time, and of two the one that began later.

use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::link::channel::Channel;
use crate::protocol::{Reply, Request, Start};

use super::backlog::Held;
use super::serve::{Inbound, Session};

/// Whoever begins a session asks here, and all that it says goes through here to the endpoint.
pub struct Tenure {
    endpoint: Sender<Inbound>,
    holder: Mutex<Option<Holder>>,
}

struct Holder {
    connection: u64,
    incarnation: u64,
    name: String,
    since: Instant,
    replies: Arc<Channel<Reply>>,
}

impl Tenure {
    pub fn new(endpoint: Sender<Inbound>) -> Tenure {
        Tenure { endpoint, holder: Mutex::new(None) }
    }

    fn holder(&self) -> MutexGuard<'_, Option<Holder>> {
        self.holder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a session over this connection, if nobody holds the endpoint or this brain's incarnation is higher: the
    /// holder is then told so, and its connection ends.
    ///
    /// # Errors
    /// Who holds it, for the one that is turned away.
    pub fn begin(&self, connection: u64, name: &str, start: Start, replies: Arc<Channel<Reply>>) -> Result<(), String> {
        let mut holder = self.holder();
        if let Some(held) = &*holder {
            if held.incarnation >= start.incarnation {
                let seconds = held.since.elapsed().as_secs();
                return Err(format!(
                    "the agent serves another brain that began later: {}, for {seconds} s (incarnation {}, this one {})",
                    held.name, held.incarnation, start.incarnation
                ));
            }
            held.replies.turn_away(&format!("another brain has taken over: {name}"));
        }
        let incarnation = start.incarnation;
        let (name, since) = (name.to_owned(), Instant::now());
        *holder = Some(Holder { connection, incarnation, name: name.clone(), since, replies: replies.clone() });
        // Still under the lock: the endpoint hears of sessions in the order in which they were let in.
        let _ = self.endpoint.send(Inbound::Part);
        let _ = self.endpoint.send(Inbound::Begin(Session { connection, name, start, replies }));
        Ok(())
    }

    /// Hands a request on if this connection holds the endpoint; whether it does.
    pub fn pass(&self, connection: u64, request: Held<Request>) -> bool {
        let holder = self.holder();
        let holds = holder.as_ref().is_some_and(|holder| holder.connection == connection);
        holds && self.endpoint.send(Inbound::Held(request)).is_ok()
    }

    /// Whether a session goes on.
    pub fn is_held(&self) -> bool {
        self.holder().is_some()
    }

    /// The connection has ended; whether it held the endpoint.
    pub fn leave(&self, connection: u64) -> bool {
        let mut holder = self.holder();
        let held = holder.take_if(|holder| holder.connection == connection).is_some();
        if held {
            let _ = self.endpoint.send(Inbound::Part);
        }
        held
    }

    /// Ends this connection with these words, if it still holds the endpoint, and frees its place. The endpoint hears that
    /// it has parted behind all that it said before; nothing that it says is passed on any more.
    pub fn expel(&self, connection: u64, reason: &str) {
        let mut holder = self.holder();
        if let Some(held) = holder.take_if(|holder| holder.connection == connection) {
            held.replies.turn_away(reason);
            let _ = self.endpoint.send(Inbound::Part);
        }
    }

    /// Ends the holder's connection with these words.
    pub fn dismiss(&self, reason: &str) {
        if let Some(holder) = &*self.holder() {
            holder.replies.turn_away(reason);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::backlog::Backlog;
    use crate::link::channel::Incoming;
    use crate::link::handshake::{Hello, Role};
    use crate::link::{Limits, LinkError};
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc::{Receiver, channel};
    use std::time::Duration;

    fn start(incarnation: u64) -> Start {
        Start {
            pair: "p".into(),
            incarnation,
            accept: false,
            union: false,
            filters: [0; 32],
            dry_run: false,
            root: vec![],
        }
    }

    fn asked(request: Request) -> Held<Request> {
        Backlog::default().hold(request)
    }

    /// The agent's end of a line, and what the brain at the other end hears.
    fn line() -> (Arc<Channel<Reply>>, Receiver<Incoming<Reply>>, Channel<Request>) {
        let (ours, theirs) = UnixStream::pair().expect("sockets");
        let (say, heard) = channel();
        let brain = (theirs.try_clone().expect("socket"), theirs);
        let hello = Hello::new(Role::Brain, "p");
        let brain = Channel::start(brain, hello, Limits::default(), move |incoming| say.send(incoming).is_ok());
        let agent = (ours.try_clone().expect("socket"), ours);
        let agent = Channel::start(agent, Hello::new(Role::Agent, "p"), Limits::default(), |_: Incoming<Request>| true);
        (Arc::new(agent.expect("link")), heard, brain.expect("link"))
    }

    fn turned_away(heard: &Receiver<Incoming<Reply>>) -> String {
        loop {
            match heard.recv_timeout(Duration::from_secs(20)).expect("a last word") {
                Incoming::Ended(LinkError::TurnedAway(why)) => return why,
                Incoming::Hello(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn the_higher_incarnation_holds_the_endpoint() {
        let (endpoint, inbox) = channel();
        let tenure = Tenure::new(endpoint);
        let (first, first_hears, _brain) = line();
        tenure.begin(1, "host one", start(10), first).expect("nobody was there");
        for incarnation in [9, 10] {
            let (late, _, _brain) = line();
            let why = tenure.begin(2, "host two", start(incarnation), late).expect_err("taken");
            assert!(why.contains("host one") && why.contains("incarnation 10"), "{why}");
            assert!(!tenure.pass(2, asked(Request::Stop)) && !tenure.leave(2));
        }
        assert!(tenure.pass(1, asked(Request::Ping { number: 1 })));
        let (second, _, _brain) = line();
        tenure.begin(3, "host two", start(11), second).expect("higher");
        assert_eq!(turned_away(&first_hears), "another brain has taken over: host two");
        assert!(!tenure.pass(1, asked(Request::Stop)) && !tenure.leave(1));
        assert!(tenure.pass(3, asked(Request::Stop)) && tenure.leave(3) && !tenure.leave(3));
        // Nobody is there: any number will do.
        let (again, _, _brain) = line();
        tenure.begin(4, "host one", start(1), again).expect("free");
        let told: Vec<String> = inbox
            .try_iter()
            .map(|inbound| match inbound {
                Inbound::Part => "part".into(),
                Inbound::Begin(session) => format!("begin {}", session.start.incarnation),
                Inbound::Held(held) => format!("{:?}", held.request),
                other => panic!("{other:?}"),
            })
            .collect();
        let want = ["part", "begin 10", "Ping { number: 1 }", "part", "begin 11", "Stop", "part", "part", "begin 1"];
        assert_eq!(told, want);
    }

    #[test]
    fn who_asks_for_what_nobody_may_ask_is_put_out() {
        let (endpoint, inbox) = channel();
        let tenure = Tenure::new(endpoint);
        let (first, first_hears, _brain) = line();
        tenure.begin(1, "host one", start(10), first).expect("nobody was there");
        assert!(tenure.pass(1, asked(Request::Ping { number: 1 })));
        tenure.expel(1, "no such generation");
        assert_eq!(turned_away(&first_hears), "no such generation");
        assert!(!tenure.pass(1, asked(Request::Stop)) && !tenure.leave(1));
        // Whoever came meanwhile is not meant.
        let (second, second_hears, _brain) = line();
        tenure.begin(2, "host two", start(1), second).expect("free");
        tenure.expel(1, "again");
        assert!(tenure.pass(2, asked(Request::Stop)));
        while let Ok(heard) = second_hears.try_recv() {
            assert!(matches!(heard, Incoming::Hello(_)), "{heard:?}");
        }
        let told: Vec<String> = inbox.try_iter().map(|one| format!("{one:?}").chars().take(5).collect()).collect();
        assert_eq!(told, ["Part", "Begin", "Held(", "Part", "Part", "Begin", "Held("]);
    }
}
