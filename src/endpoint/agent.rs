//! The agent: an endpoint at the far end of a pair of pipes. The very code that ssh carries.

use std::sync::mpsc::{Receiver, channel};

use crate::config::valid_pair;
use crate::link::channel::{Channel, Incoming};
use crate::link::handshake::{Hello, Role};
use crate::link::{Limits, LinkError};
use crate::model::readable;
use crate::protocol::survey::{Answer, Ask};
use crate::protocol::{Call, Reply, Request, Start};

use super::backlog::{Backlog, Held};
use super::open::{Opening, open};
use super::serve::{Inbound, Over, clock, serve};
use super::service::End;
use super::survey::{Survey, attend};

/// How serving a brain ended.
#[derive(Debug)]
pub enum Served {
    /// The brain said stop, or went away in order.
    Done,
    /// The link broke.
    Lost(LinkError),
    /// This side failed, in these words.
    Failed(String),
}

/// What is heard before it is known who calls, and of a surveyor.
enum Heard {
    Hello(Hello),
    Ask(Held<Ask>),
    End,
}

/// Serves one caller on stdin and stdout. `pair` is the only pair that may be served; without it the caller names the pair.
/// Nothing is opened, and nothing made, before it has said what it wants. `stop` is given what ends it.
pub fn serve_stdio(opening: &Opening<'_>, pair: Option<&str>, limits: Limits, stop: impl FnOnce(End)) -> Served {
    let (inbox_in, inbox) = channel();
    let (say, heard) = channel();
    let events = inbox_in.clone();
    let sink = move |told| {
        let _ = events.send(told);
    };
    let (lost_in, lost) = channel();
    let pipes = match crate::link::channel::stdio() {
        Ok(pipes) => pipes,
        Err(error) => return Served::Failed(format!("stdin and stdout: {error}")),
    };
    let (to_inbox, to_heard) = (inbox_in.clone(), say.clone());
    let end = move || {
        let _ = to_heard.send(Heard::End);
        let _ = to_inbox.send(Inbound::End);
    };
    stop(Box::new(end.clone()));
    let backlog = Backlog::default();
    let deliver = move |incoming: Incoming<Call>| match incoming {
        Incoming::Hello(hello) => say.send(Heard::Hello(hello)).is_ok(),
        Incoming::Message(Call::Session(request)) => inbox_in.send(Inbound::Held(backlog.hold(request))).is_ok(),
        Incoming::Message(Call::Survey(ask)) => say.send(Heard::Ask(backlog.hold(ask))).is_ok(),
        Incoming::Ended(error) => {
            let _ = lost_in.send(error);
            end();
            false
        }
    };
    let hello = Hello::new(Role::Agent, pair.unwrap_or_default());
    let link = match Channel::<()>::start(pipes, hello, limits, deliver) {
        Ok(link) => link,
        Err(error) => return Served::Lost(error),
    };
    let caller = match heard.recv() {
        Ok(Heard::Hello(caller)) => caller,
        _ => return finish(link, &lost, Served::Done),
    };
    if caller.role == Role::Surveyor {
        let link = link.speak();
        survey(opening, pair, &caller.pair, &link, &heard);
        return finish(link, &lost, Served::Done);
    }
    let link: Channel<Reply> = link.speak();
    let first = match inbox.recv() {
        Ok(Inbound::Held(Held { request: Request::Start(start), .. })) => start,
        _ => return finish(link, &lost, Served::Done),
    };
    let served = open_and_serve(opening, pair, first, &link, &inbox, sink);
    match served {
        Ok(Over::Refused(reason)) => {
            link.turn_away(&reason);
            finish(link, &lost, Served::Failed(reason))
        }
        // What comes after it is how every link ends.
        Ok(Over::Stopped) => {
            let _ = finish(link, &lost, Served::Done);
            Served::Done
        }
        Ok(_) => finish(link, &lost, Served::Done),
        Err(reason) => {
            let _ = link.send(&Reply::Away { reason: reason.clone() });
            finish(link, &lost, Served::Failed(reason))
        }
    }
}

/// A survey from its first question to its last.
fn survey(opening: &Opening<'_>, pair: Option<&str>, named: &str, link: &Channel<Answer>, heard: &Receiver<Heard>) {
    let mut next = || {
        loop {
            match heard.recv() {
                // The other side is still at it.
                Ok(Heard::Ask(Held { request: Ask::Alive, .. })) => {}
                Ok(Heard::Ask(Held { request, .. })) => return Some(request),
                Ok(Heard::Hello(_) | Heard::End) | Err(_) => return None,
            }
        }
    };
    let Some(first) = next() else { return };
    let mut first = Some(first);
    let open = || Survey::open(opening.root, served_pair(pair, named)?, &opening.scope());
    attend(open, || first.take().or_else(&mut next), |answer| link.send(&answer).is_ok());
}

/// From the brain's first word to its last.
fn open_and_serve(
    opening: &Opening<'_>,
    pair: Option<&str>,
    start: Start,
    link: &Channel<Reply>,
    inbox: &Receiver<Inbound>,
    sink: impl Fn(Inbound) + Send + Sync + Clone + 'static,
) -> Result<Over, String> {
    let named = served_pair(pair, &start.pair)?.to_owned();
    let opening = Opening { pair: &named, dry_run: opening.dry_run || start.dry_run, ..opening.clone() };
    let (mut endpoint, watcher) = open(&opening, clock(), sink)?;
    let mut out = Vec::new();
    let greeted = endpoint.handle(Request::Start(start), clock(), &mut out);
    let heard = out.into_iter().all(|reply| link.send(&reply).is_ok());
    let served = match greeted {
        Ok(()) if heard => serve(&mut endpoint, inbox, |reply| link.send(&reply).is_ok()),
        Ok(()) => Ok(Over::End),
        Err(error) => Err(error),
    };
    watcher.stop();
    served.map_err(|error| error.to_string())
}

/// The pair to be served: the name becomes that of a directory.
fn served_pair<'a>(allowed: Option<&str>, named: &'a str) -> Result<&'a str, String> {
    match allowed {
        Some(own) if own != named => Err(format!("the pair {own} is served here, not {}", readable(named.as_bytes()))),
        _ if !valid_pair(named) => Err(format!("{:?} is no name of a pair", readable(named.as_bytes()))),
        _ => Ok(named),
    }
}

/// Writes what still waits, until the caller closes its end.
fn finish<O>(link: Channel<O>, lost: &Receiver<LinkError>, served: Served) -> Served {
    link.close();
    match (lost.recv_timeout(std::time::Duration::from_secs(5)), served) {
        (Ok(error), Served::Done) if !matches!(error, LinkError::Closed) => Served::Lost(error),
        (_, served) => served,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_pair_is_served() {
        for (allowed, named, good) in [
            (None, "web", true),
            (Some("web"), "web", true),
            (Some("web"), "mail", false),
            (None, "", false),
            (None, "..", false),
            (None, "a/b", false),
        ] {
            assert_eq!(served_pair(allowed, named).is_ok(), good, "{allowed:?} {named:?}");
        }
    }
}
