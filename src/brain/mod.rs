//! The brain: the thread that feeds the engine and carries out its effects, over sessions that come and go.

pub mod check;
pub mod monitor;
mod session;
mod sides;
mod tell;

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use slog::Logger;

use crate::config::{RightCommand, Settings};
use crate::service::signals::Stop;
use monitor::{Exit, LinkState, Monitor};
use session::{Ended, Session};
use sides::{Heard, Left, Right};

/// What a brain needs to run a pair.
#[derive(Debug, Clone)]
pub struct Job {
    /// Checked; the roots of this host are canonical and exist.
    pub settings: Settings,
    pub pair: String,
    pub right: RightCommand,
    /// The administrator takes both roots for what they should be.
    pub accept: bool,
    /// With `accept`: the ancestors are unknown.
    pub union: bool,
    pub logger: Logger,
}

/// Replies that wait for the engine; beyond that the endpoints wait.
const WAITING: usize = 1024;
/// The first and the longest pause before a lost right side is called again.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Runs a pair until it is done, cannot go on, or `stop` is set.
pub fn run(job: &Job, monitor: Arc<dyn Monitor>, stop: Stop) -> Exit {
    let (heard_in, heard) = sync_channel::<Heard>(WAITING);
    let wake = heard_in.clone();
    // A full queue wakes the brain as well; it looks at the flag each time.
    stop.on_stop(move || drop(wake.try_send(Heard::Wake)));
    let left = match Left::start(job, heard_in.clone()) {
        Ok(left) => left,
        Err(reason) => {
            monitor.halted(&reason, "");
            return Exit::InitialSyncFailed;
        }
    };
    let mut incarnation = started_at();
    let mut synced = false;
    let mut lost_since: Option<Instant> = None;
    let mut pause = PAUSES.0;
    let exit = loop {
        incarnation += 1;
        monitor.link(&LinkState::Connecting);
        let ended = match Right::start(job, incarnation, heard_in.clone()) {
            Ok(right) => {
                // What was accepted counts for the first meeting of this run.
                let mut session = Session::new(job, &*monitor, &left, &right, incarnation, synced);
                let ended = session.run(&heard, &stop);
                synced |= session.synced;
                if session.met {
                    (lost_since, pause) = (None, PAUSES.0);
                }
                right.end();
                ended
            }
            Err(error) => Ended::RightLost(error.to_string()),
        };
        match ended {
            Ended::Exit(exit) => break exit,
            Ended::LeftFailed(reason) => {
                monitor.halted(&format!("left side: {reason}"), "");
                break if synced { Exit::Internal } else { Exit::InitialSyncFailed };
            }
            Ended::RightLost(reason) => {
                if stop.is_set() {
                    break Exit::Done;
                }
                let since = *lost_since.get_or_insert_with(Instant::now);
                if !synced {
                    monitor.link(&LinkState::Down { reason, retry: None });
                    break Exit::InitialSyncFailed;
                }
                if since.elapsed() >= job.settings.maxtimeout {
                    monitor.link(&LinkState::Down { reason, retry: None });
                    break Exit::RightLost;
                }
                monitor.link(&LinkState::Down { reason, retry: Some(pause.as_secs()) });
                if wait(&heard, pause, &stop) {
                    break Exit::Done;
                }
                pause = (pause * 2).min(PAUSES.1);
            }
        }
    };
    left.end();
    exit
}

/// Waits while the link is down; the left side's words are void until the next session. True if it is time to stop.
fn wait(heard: &std::sync::mpsc::Receiver<Heard>, pause: Duration, stop: &Stop) -> bool {
    let until = Instant::now() + pause;
    while !stop.is_set() {
        match heard.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(_) => {}
            Err(RecvTimeoutError::Timeout) => return false,
            Err(RecvTimeoutError::Disconnected) => return true,
        }
    }
    true
}

/// The start of this run: later runs have higher numbers.
fn started_at() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(0)
}
