//! The thread that runs an endpoint: requests and events in, replies out, work in between.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::config::{Removal, Timing, Trash};
use crate::link::channel::Channel;
use crate::model::Millis;
use crate::protocol::{Reply, Request, Start, Weight};
use crate::pulse;
use crate::replica::archive::Archive;
use crate::replica::disk::Disk;
use crate::replica::error::ReplicaError;

use super::backlog::Held;
use super::flood::Waiting;
use super::rsync::Told;
use super::{Endpoint, Next};

/// What reaches the thread of an endpoint.
#[derive(Debug)]
pub enum Inbound {
    Request(Request),
    /// The same from a link: until it is taken in, it counts against what may wait.
    Held(Held<Request>),
    /// What the watcher saw; it counts against what may wait as well.
    Event(Waiting),
    /// Of an rsync on this side.
    Rsync(Told),
    /// Other settings, from now on.
    Tune(Tuning),
    /// The brain is gone, and may come back: what happens until then is kept in mind.
    Part,
    /// Another brain, or the same over another connection, takes over.
    Begin(Session),
    /// The brain is gone for good.
    End,
}

/// The settings of an endpoint that may change while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuning {
    pub timing: Timing,
    pub trash: Trash,
    pub removal: Removal,
}

/// The beginning of a session that came over a connection of its own.
#[derive(Debug)]
pub struct Session {
    pub connection: u64,
    /// Who begins it, for people.
    pub name: String,
    pub start: Start,
    /// Where its replies go.
    pub replies: Arc<Channel<Reply>>,
}

/// Why [`serve`] returned.
#[derive(Debug)]
pub enum Over {
    /// The brain said stop.
    Stopped,
    /// Nobody listens any more, or it is time to end.
    End,
    /// A session begins.
    Begin(Session),
    /// The brain asked for what no brain may ask.
    Refused(String),
}

/// Inputs taken in before work goes on.
const INPUTS: usize = 4096;
/// Bytes of replies that are made before they are sent, beside those of one input.
const WAITING: usize = 8 << 20;
/// Longest sleep without an input.
const IDLE: Duration = Duration::from_secs(5);

/// Milliseconds of monotonic time since the process asked first.
pub fn clock() -> Millis {
    use std::sync::OnceLock;
    static START: OnceLock<Instant> = OnceLock::new();
    let start = START.get_or_init(Instant::now);
    // Not 0, so that "never" stays apart from "now".
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1
}

/// Runs an endpoint until its brain is gone, or says stop, or another session begins, or the endpoint fails. `send`
/// returns false if nobody listens.
pub fn serve<D: Disk, A: Archive>(
    endpoint: &mut Endpoint<D, A>,
    inbox: &Receiver<Inbound>,
    mut send: impl FnMut(Reply) -> bool,
) -> Result<Over, ReplicaError> {
    let mut out = Vec::new();
    let mut next = Next::Now;
    loop {
        let now = clock();
        let wait = match next {
            Next::Now => Duration::ZERO,
            Next::At(due) => Duration::from_millis(due.saturating_sub(now)).min(IDLE),
            Next::Idle => IDLE,
        };
        let mut input = match pulse::rest(wait, || inbox.recv_timeout(wait)) {
            Ok(input) => Some(input),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return Ok(Over::End),
        };
        let mut stopped = false;
        let (mut taken, mut made, mut counted) = (0, 0, 0);
        while let Some(one) = input {
            let now = clock();
            match one {
                Inbound::Event(waiting) => endpoint.event(waiting.event, now),
                Inbound::Rsync(told) => endpoint.told(told, now, &mut out)?,
                Inbound::Tune(tuning) => endpoint.tune(tuning),
                Inbound::Held(Held { request, .. }) | Inbound::Request(request) => {
                    stopped |= request == Request::Stop;
                    endpoint.handle(request, now, &mut out)?;
                    if let Some(reason) = endpoint.take_refusal() {
                        return Ok(Over::Refused(reason));
                    }
                }
                Inbound::Part => {
                    // What was to be told of the session has no hearer.
                    out.clear();
                    counted = 0;
                    endpoint.part(now)?;
                }
                Inbound::Begin(session) => return Ok(Over::Begin(session)),
                Inbound::End => return Ok(Over::End),
            }
            taken += 1;
            made += out[counted..].iter().map(Weight::weight).sum::<usize>();
            counted = out.len();
            let room = taken < INPUTS && !endpoint.is_full() && made < WAITING;
            input = if room { inbox.try_recv().ok() } else { None };
        }
        next = endpoint.step(clock(), &mut out)?;
        for reply in out.drain(..) {
            if !pulse::lean(|| send(reply)) {
                return Ok(if stopped { Over::Stopped } else { Over::End });
            }
        }
        if stopped {
            return Ok(Over::Stopped);
        }
    }
}
