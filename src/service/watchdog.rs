//! Watches over the threads of this process, and tells systemd only while all of them live.
//!
//! A thread that pings whatever happens would prove nothing: each sign of life is sent after a look at every pulse
//! (see [`crate::pulse`]) and after an event that came back from the kernel.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use slog::{Logger, error, warn};

use super::notify;
use super::signals::Stop;
use crate::pulse;

/// What shows that events come in: touched, it must be heard of.
pub trait Heart: Send + Sync {
    fn touch(&self) -> io::Result<()>;
    /// How often it was heard of.
    fn heard(&self) -> u64;
}

/// Between two looks while the service starts.
const STARTING: Duration = Duration::from_millis(100);
/// Between two looks if systemd does not say how often.
const LEISURE: Duration = Duration::from_secs(30);
/// What starting may take longer from each look on.
const EXTENSION: Duration = Duration::from_secs(60);

/// How a service is watched over.
pub struct Watch<F, R> {
    /// The heart that must beat now; `None` while there is nothing that could be touched.
    pub heart: F,
    /// Whether the service has started as far as it knows.
    pub started: R,
    /// How long a thread may be silent if systemd wants no sign of life.
    pub patience: Duration,
    pub logger: Logger,
}

impl<H, F, R> Watch<F, R>
where
    H: Heart + 'static,
    F: Fn() -> Option<Arc<H>> + Send + 'static,
    R: Fn() -> bool + Send + 'static,
{
    /// Tells systemd that the service is ready, and then that it lives, until `stop`. A thread that is stuck without a
    /// watchdog of systemd's is handed to `stuck`.
    pub fn start(self, stop: &Stop, stuck: impl Fn(&str) + Send + 'static) -> io::Result<()> {
        let interval = notify::watchdog_interval();
        let patience = interval.map_or(self.patience, |interval| interval / 2);
        let period = interval.map_or(LEISURE, |interval| interval / 4);
        let stop = stop.clone();
        let watch = move || {
            let mut ready = false;
            let mut silent = None;
            loop {
                let trouble = self.trouble(patience, &stop);
                match &trouble {
                    None if interval.is_some() => notify::watchdog(),
                    Some(text) if trouble != silent => error!(self.logger, "no sign of life: {text}"),
                    _ => {}
                }
                if let (Some(text), None) = (&trouble, interval) {
                    stuck(text);
                }
                if !ready && trouble.is_none() {
                    ready = (self.started)();
                    if ready {
                        notify::ready();
                    } else {
                        notify::extend(EXTENSION);
                    }
                }
                silent = trouble;
                if stop.wait(if ready { period } else { STARTING }) {
                    return;
                }
            }
        };
        thread::Builder::new().name("watchdog".into()).spawn(watch)?;
        Ok(())
    }

    /// Who does not live, in words.
    fn trouble(&self, patience: Duration, stop: &Stop) -> Option<String> {
        let stuck = pulse::stuck(patience);
        if !stuck.is_empty() {
            return Some(format!("threads {}", stuck.join(", ")));
        }
        let heart = (self.heart)()?;
        let before = heart.heard();
        if let Err(error) = heart.touch() {
            // A file system that cannot be written is its own trouble: a restart would not mend it.
            warn!(self.logger, "the heartbeat file cannot be touched: {error}");
            return None;
        }
        let end = Instant::now() + patience;
        let mut pause = Duration::from_millis(1);
        while heart.heard() == before {
            // The left side may have been closed meanwhile.
            let gone = (self.heart)().is_none_or(|now| !Arc::ptr_eq(&now, &heart));
            if gone || stop.wait(pause) {
                return None;
            }
            if Instant::now() > end {
                return Some("the heartbeat's event does not come back".to_owned());
            }
            pause = (pause * 2).min(Duration::from_millis(100));
        }
        None
    }
}

/// Looks over the threads of a run in the foreground, until `stop`. What is stuck is handed to `stuck`, which ends it.
pub fn over_threads(patience: Duration, stop: &Stop, stuck: impl Fn(&str) + Send + 'static) -> io::Result<()> {
    let stop = stop.clone();
    let period = (patience / 4).clamp(Duration::from_millis(100), LEISURE);
    let watch = move || {
        while !stop.wait(period) {
            let names = pulse::stuck(patience);
            if !names.is_empty() {
                return stuck(&names.join(", "));
            }
        }
    };
    thread::Builder::new().name("watchdog".into()).spawn(watch)?;
    Ok(())
}
