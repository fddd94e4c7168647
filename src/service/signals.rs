//! The wish to stop, from a signal or from inside.
//!
//! SIGPIPE needs nothing here: Rust's runtime ignores it before `main`, so a closed pipe is an error of the write.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::Signals;

type Wake = Box<dyn Fn() + Send + Sync>;

/// A wish to stop that all threads share. Once set it stays set.
#[derive(Clone, Default)]
pub struct Stop {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    set: AtomicBool,
    wakes: Mutex<Vec<Wake>>,
    changed: Condvar,
}

impl Stop {
    pub fn new() -> Stop {
        Stop::default()
    }

    pub fn is_set(&self) -> bool {
        self.shared.set.load(Ordering::Acquire)
    }

    /// Asks all to stop: wakes those who wait, and calls each callback once.
    pub fn set(&self) {
        let mut wakes = self.wakes();
        self.shared.set.store(true, Ordering::Release);
        let due = std::mem::take(&mut *wakes);
        drop(wakes);
        self.shared.changed.notify_all();
        due.iter().for_each(|wake| wake());
    }

    /// Calls `wake` when the stop is set, from the thread that sets it; at once if it is set already.
    /// It should only wake somebody, e.g. send on a channel.
    pub fn on_stop(&self, wake: impl Fn() + Send + Sync + 'static) {
        let mut wakes = self.wakes();
        if !self.is_set() {
            wakes.push(Box::new(wake));
            return;
        }
        drop(wakes);
        wake();
    }

    /// Waits for the stop, at most this long. Whether it is set.
    pub fn wait(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        let mut wakes = self.wakes();
        while !self.is_set() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            wakes = self.shared.changed.wait_timeout(wakes, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn wakes(&self) -> MutexGuard<'_, Vec<Wake>> {
        self.shared.wakes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// SIGINT and SIGTERM set `stop`; a second one ends the process at once, with 130 or 143.
pub fn stop_on_signals(stop: &Stop) -> io::Result<()> {
    stop_on(stop, &[SIGINT, SIGTERM])
}

/// For an agent that a brain started: SIGTERM sets `stop`; SIGINT is the terminal's word to the brain, which then
/// ends the agent in order.
pub fn stop_on_term(stop: &Stop) -> io::Result<()> {
    flag::register(SIGINT, Arc::new(AtomicBool::new(false)))?;
    stop_on(stop, &[SIGTERM])
}

/// Calls `reload` at every SIGHUP, in a thread of its own.
pub fn on_hangup(reload: impl Fn() + Send + 'static) -> io::Result<()> {
    let mut arrivals = Signals::new([SIGHUP])?;
    let run = move || arrivals.forever().for_each(|_| reload());
    thread::Builder::new().name("reload".into()).spawn(run)?;
    Ok(())
}

fn stop_on(stop: &Stop, signals: &[i32]) -> io::Result<()> {
    let seen = Arc::new(AtomicBool::new(false));
    for signal in signals {
        // In the handler itself, so that it works when every thread is stuck. Order matters: first asked, then set.
        flag::register_conditional_shutdown(*signal, 128 + signal, seen.clone())?;
        flag::register(*signal, seen.clone())?;
    }
    let mut arrivals = Signals::new(signals)?;
    let stop = stop.clone();
    thread::Builder::new().name("signals".into()).spawn(move || {
        if arrivals.forever().next().is_some() {
            stop.set();
        }
        // Kept, so that the handlers stay.
        arrivals.forever().for_each(drop);
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn stop_wakes_all_once() {
        let stop = Stop::new();
        let (tx, rx) = mpsc::channel();
        let early = tx.clone();
        stop.on_stop(move || early.send("early").unwrap_or_default());
        assert!(!stop.is_set() && !stop.wait(Duration::from_millis(1)));
        let waiter = thread::spawn({
            let stop = stop.clone();
            move || stop.wait(Duration::from_secs(60))
        });
        stop.set();
        stop.set();
        stop.on_stop(move || tx.send("late").unwrap_or_default());
        assert!(waiter.join().expect("waiter"));
        assert_eq!(rx.try_iter().collect::<Vec<_>>(), ["early", "late"]);
    }

    const CHILD: &str = "PSYNC_TEST_SIGNALS";

    /// Not a test by itself: the process that [`the_second_signal_ends_at_once`] sends signals to.
    #[test]
    fn child() {
        if std::env::var_os(CHILD).is_none() {
            return;
        }
        let stop = Stop::new();
        stop_on_signals(&stop).expect("handlers");
        println!("ready");
        assert!(stop.wait(Duration::from_secs(60)));
        println!("stopping");
        thread::sleep(Duration::from_secs(60));
    }

    #[test]
    fn the_second_signal_ends_at_once() {
        use nix::sys::signal::{Signal, kill};
        use std::io::{BufRead, BufReader};
        use std::process::{Command, Stdio};

        for (second, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
            let mut child = Command::new(std::env::current_exe().expect("this test"))
                .args(["--exact", "service::signals::tests::child", "--nocapture"])
                .env(CHILD, "1")
                .stdout(Stdio::piped())
                .spawn()
                .expect("child");
            let pid = nix::unistd::Pid::from_raw(child.id().try_into().expect("pid"));
            let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines().map_while(Result::ok);
            assert!(lines.any(|line| line.ends_with("ready")));
            kill(pid, Signal::SIGINT).expect("signal");
            assert!(lines.any(|line| line.ends_with("stopping")));
            kill(pid, second).expect("signal");
            assert_eq!(child.wait().expect("ended").code(), Some(code));
        }
    }
}
