//! Signs of life of the process's threads, for whoever watches over them.
//!
//! A worker takes a pulse at its start and beats while it works. Before it waits it says for how long at most. One
//! that waits for another worker leans on it: that one's pulse counts then, and at the end of every such chain stands
//! a thread that does not lean. A thread that neither beats nor is excused is stuck.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Of one thread: until when it is excused from showing life, in milliseconds of [`now`].
#[derive(Debug)]
struct State {
    name: &'static str,
    until: AtomicU64,
}

/// The pulse of the thread that took it. It ends with this value.
#[derive(Debug)]
pub struct Pulse(Arc<State>);

static ALL: Mutex<Vec<Weak<State>>> = Mutex::new(Vec::new());

thread_local! {
    static OWN: RefCell<Option<Arc<State>>> = const { RefCell::new(None) };
}

/// Gives the calling thread a pulse.
#[must_use = "the pulse ends with this value"]
pub fn take(name: &'static str) -> Pulse {
    let state = Arc::new(State { name, until: AtomicU64::new(now()) });
    let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
    all.retain(|state| state.strong_count() > 0);
    all.push(Arc::downgrade(&state));
    OWN.with_borrow_mut(|own| *own = Some(state.clone()));
    Pulse(state)
}

impl Drop for Pulse {
    fn drop(&mut self) {
        // The thread may be at its very end, and its own copy gone already.
        let _ = OWN.try_with(|own| {
            own.borrow_mut().take_if(|state| Arc::ptr_eq(state, &self.0));
        });
    }
}

/// The calling thread lives. Nothing if it has no pulse.
pub fn beat() {
    excuse(now());
}

/// Does something that waits for at most so long.
pub fn rest<T>(limit: Duration, wait: impl FnOnce() -> T) -> T {
    excuse(now().saturating_add(millis(limit)));
    let done = wait();
    beat();
    done
}

/// Does something that waits for another thread, which has a pulse of its own.
pub fn lean<T>(wait: impl FnOnce() -> T) -> T {
    excuse(u64::MAX);
    let done = wait();
    beat();
    done
}

/// The threads that have given no sign of life for longer than `patience`, and were not excused.
pub fn stuck(patience: Duration) -> Vec<&'static str> {
    let now = now();
    let all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
    let late = |state: &Arc<State>| state.until.load(Ordering::Relaxed).saturating_add(millis(patience)) < now;
    all.iter().filter_map(Weak::upgrade).filter(late).map(|state| state.name).collect()
}

fn excuse(until: u64) {
    let _ = OWN.try_with(|own| {
        if let Some(state) = &*own.borrow() {
            state.until.store(until, Ordering::Relaxed);
        }
    });
}

fn now() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    millis(START.get_or_init(Instant::now).elapsed())
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Sender, channel};
    use std::thread;

    /// A thread that does `work` once it may, and then lives until the sender is dropped.
    fn worker(name: &'static str, work: impl FnOnce() + Send + 'static) -> Sender<()> {
        let (go, gone) = channel::<()>();
        let (started_in, started) = channel();
        thread::spawn(move || {
            let _pulse = take(name);
            work();
            let _ = started_in.send(());
            while gone.recv().is_ok() {}
        });
        started.recv().expect("started");
        go
    }

    fn soon(mut holds: impl FnMut() -> bool) -> bool {
        let end = Instant::now() + Duration::from_secs(20);
        while !holds() {
            if Instant::now() > end {
                return false;
            }
            thread::yield_now();
        }
        true
    }

    #[test]
    fn who_is_silent_is_stuck_until_it_ends() {
        let patience = Duration::from_millis(20);
        let silent = worker("test-silent", || {});
        assert!(soon(|| stuck(patience).contains(&"test-silent")));
        assert!(!stuck(Duration::from_secs(600)).contains(&"test-silent"));
        drop(silent);
        assert!(soon(|| !stuck(patience).contains(&"test-silent")));
    }

    #[test]
    fn who_waits_as_announced_or_leans_is_not() {
        let patience = Duration::from_millis(20);
        let (resting, leaning) = (channel::<()>(), channel::<()>());
        thread::spawn(move || {
            let _pulse = take("test-rest");
            let _ = rest(Duration::from_secs(600), || resting.1.recv());
            loop {
                thread::park();
            }
        });
        thread::spawn(move || {
            let _pulse = take("test-lean");
            let _ = lean(|| leaning.1.recv());
            loop {
                thread::park();
            }
        });
        // By then both would be late.
        let late = worker("test-late", || {});
        assert!(soon(|| stuck(patience).contains(&"test-late")));
        let named = |name| stuck(patience).contains(&name);
        assert!(!named("test-rest") && !named("test-lean"));
        drop((resting.0, leaning.0, late));
        assert!(soon(|| named("test-rest") && named("test-lean")), "awake, and silent");
    }
}
