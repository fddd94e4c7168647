//! The two sides of a check: the left one in a thread, the right one over a link of its own.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::super::sides::{Farewell, call, limits};
use super::{Station, answers};
use crate::config::{RightCommand, Settings};
use crate::endpoint::survey::{Scope, Survey, attend};
use crate::link::LinkError;
use crate::link::channel::Incoming;
use crate::link::failure::Explanation;
use crate::link::proxy::Proxy;
use crate::protocol::survey::{Answer, Ask};

/// So often the right side hears that somebody is still there.
const LIFE: Duration = Duration::from_secs(15);

/// The left side, whose root is on this host.
pub fn left(settings: &Settings, pair: &str) -> Station {
    let (say, answers) = answers();
    let (questions, asked) = channel();
    let (root, pair) = (settings.left.root.clone(), pair.to_owned());
    let scope = Scope::of(&settings.shared);
    let run = move || {
        let open = || Survey::open(&root, &pair, &scope);
        attend(open, || asked.recv().ok(), |answer| say.send(answer).is_ok());
    };
    let started = thread::Builder::new().name("left".into()).spawn(run);
    let ask = move |question| match &started {
        Ok(_) => {
            // A thread that has ended said why.
            drop(questions.send(question));
            Ok(())
        }
        Err(error) => Err(format!("no thread: {error}")),
    };
    Station { ask: Box::new(ask), answers }
}

/// What leads to the right side.
pub struct Far {
    settings: Settings,
    proxy: Proxy,
    lost: Arc<Mutex<Option<LinkError>>>,
}

/// The right side, reached by that command, beside whatever else its agent serves.
pub fn right(settings: &Settings, pair: &str, command: &RightCommand) -> Result<(Station, Far), LinkError> {
    let (say, answers) = answers();
    let lost = Arc::new(Mutex::new(None));
    let why = lost.clone();
    let mut failed = false;
    let deliver = move |incoming| match incoming {
        Incoming::Message(answer) => {
            failed |= matches!(answer, Answer::Failed { .. });
            say.send(answer).is_ok()
        }
        Incoming::Hello(_) => true,
        Incoming::Ended(error) => {
            // A side that has failed ends the link itself, and its own words say why.
            *why.lock().unwrap_or_else(PoisonError::into_inner) = (!failed).then_some(error);
            false
        }
    };
    // What the process says is told if the link is lost.
    let (proxy, link) = call(pair, command, limits(settings, command), |_| {}, deliver)?;
    let link = Arc::new(link);
    // While the left side works the right one would hear nothing, and take the caller for dead.
    let (station_is_there, gone) = channel::<()>();
    let far = Arc::downgrade(&link);
    let life = move || {
        while let Err(RecvTimeoutError::Timeout) = gone.recv_timeout(LIFE) {
            if far.upgrade().is_none_or(|link| link.send(&Ask::Alive).is_err()) {
                break;
            }
        }
    };
    let started = thread::Builder::new().name("life".into()).spawn(life);
    started.map_err(|source| LinkError::Io { operation: "start a thread", source })?;
    let ask = move |ask| match link.send(&ask) {
        Err(error @ LinkError::TooLong(_)) => Err(error.to_string()),
        // A link that has ended says why in the place of the answers.
        Ok(()) | Err(_) => Ok(()),
    };
    let ask = move |question| {
        let _there = &station_is_there;
        ask(question)
    };
    Ok((Station { ask: Box::new(ask), answers }, Far { settings: settings.clone(), proxy, lost }))
}

/// Whether that station serves the root that this host's file names for it: what else it said would be of another tree.
pub fn serves(station: &mut Station, root: &Path) -> Result<(), String> {
    (station.ask)(Ask::Serves { root: root.as_os_str().as_bytes().to_vec() })?;
    loop {
        match station.answers.recv() {
            Ok(Answer::End) => return Ok(()),
            Ok(Answer::Failed { reason }) => return Err(reason),
            Ok(_) => {}
            Err(_) => return Err("the link ended".to_owned()),
        }
    }
}

impl Far {
    /// Ends it. Its station must have been dropped. Why it was lost, if it was lost before.
    pub fn end(self) -> Option<Explanation> {
        let farewell = Farewell::of(self.proxy);
        let lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner).take();
        lost.filter(|error| !matches!(error, LinkError::Closed)).map(|error| farewell.explain(&error, &self.settings))
    }
}
