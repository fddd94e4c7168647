//! The backlog of a thread: what has come over a link and was not taken in yet. It is bounded in bytes, and whoever
//! brings more waits.
//!
//! Only what comes from the *other host* waits here, before the thread that takes it in. That cannot stand still for ever:
//! the brain reads all that a side says, and never waits for a side; so an endpoint gets rid of its replies, and goes on
//! taking in. An endpoint waits for the brain, and a link's reader for its own endpoint or brain; nobody waits the other
//! way round.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::protocol::Weight;

/// Bytes that wait. One message is always let in.
pub const BYTES: usize = 8 << 20;

/// What waits for one thread.
#[derive(Debug, Clone)]
pub struct Backlog(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    most: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    taken: usize,
    closed: bool,
}

/// A message that waits. Taking it out lets others in.
#[derive(Debug)]
pub struct Held<T> {
    pub request: T,
    /// Lives as long as the message does.
    _place: Place,
}

/// What a message takes of a backlog.
#[derive(Debug)]
pub struct Place {
    backlog: Arc<Shared>,
    bytes: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.backlog.state.lock().unwrap_or_else(PoisonError::into_inner).taken -= self.bytes;
        self.backlog.changed.notify_all();
    }
}

impl Default for Backlog {
    fn default() -> Backlog {
        Backlog::of(BYTES)
    }
}

impl Backlog {
    pub fn of(most: usize) -> Backlog {
        Backlog(Arc::new(Shared { most, state: Mutex::default(), changed: Condvar::new() }))
    }

    /// Waits until there is room for so many bytes.
    pub fn place(&self, bytes: usize) -> Place {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.taken > 0 && state.taken.saturating_add(bytes) > self.0.most && !state.closed {
            state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.taken = state.taken.saturating_add(bytes);
        drop(state);
        Place { backlog: self.0.clone(), bytes }
    }

    /// Waits until there is room for the message.
    pub fn hold<T: Weight>(&self, request: T) -> Held<T> {
        let place = self.place(request.weight());
        Held { request, _place: place }
    }

    /// Nobody waits any more.
    pub fn close(&self) {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    #[test]
    fn whoever_brings_more_waits_until_there_is_room() {
        let backlog = Backlog::of(1000);
        let (say, heard) = channel();
        let (first, theirs) = (backlog.place(900), backlog.clone());
        let waiting = std::thread::spawn(move || {
            for bytes in [50, 5000, 10] {
                say.send((bytes, theirs.place(bytes))).expect("heard");
            }
        });
        let next = |time| heard.recv_timeout(time).map(|(bytes, place)| (bytes, Some(place)));
        let (bytes, small) = next(Duration::from_secs(20)).expect("there is room");
        assert_eq!(bytes, 50);
        assert!(next(Duration::from_millis(100)).is_err(), "no room for the large one");
        drop(first);
        assert!(next(Duration::from_millis(100)).is_err(), "nor beside the small one");
        drop(small);
        let (bytes, large) = next(Duration::from_secs(20)).expect("alone it is let in");
        assert_eq!(bytes, 5000);
        assert!(next(Duration::from_millis(100)).is_err());
        backlog.close();
        assert_eq!(next(Duration::from_secs(20)).expect("closed").0, 10);
        drop(large);
        waiting.join().expect("done");
    }
}
