//! Events between the watcher and the thread of an endpoint, in bounds.
//!
//! Whoever changes names as fast as he can makes more events than an endpoint takes in. What is too much is left out, and the
//! whole tree is compared instead: as the kernel does when its own queue overflows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::model::RelPath;
use crate::watch::Event;

/// Events that wait; of a path with 100 bytes each takes some 200.
const MOST: usize = 65_536;

/// An event that waits. Taking it out lets others in.
#[derive(Debug)]
pub struct Waiting {
    pub event: Event,
    _place: Place,
}

#[derive(Debug)]
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The gate before the queue: one thread brings events, another takes them out.
#[derive(Debug)]
pub struct Gate {
    most: usize,
    waiting: Arc<AtomicUsize>,
    /// Events are left out until half of those that wait are taken in.
    shut: AtomicBool,
}

impl Default for Gate {
    fn default() -> Gate {
        Gate::of(MOST)
    }
}

impl Gate {
    fn of(most: usize) -> Gate {
        Gate { most, waiting: Arc::default(), shut: AtomicBool::new(false) }
    }

    /// Lets an event in, or the word that some are lost in its place; `None`: that was said, and is still to be heard. All that
    /// is left out has happened before it is.
    pub fn admit(&self, event: Event) -> Option<Waiting> {
        let waiting = self.waiting.load(Ordering::Relaxed);
        let event = match self.shut.load(Ordering::Relaxed) {
            true if waiting > self.most / 2 => return None,
            _ if waiting < self.most => {
                self.shut.store(false, Ordering::Relaxed);
                event
            }
            _ => {
                self.shut.store(true, Ordering::Relaxed);
                Event::Lost { scope: RelPath::root(), reason: "there were more than could be taken in" }
            }
        };
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Some(Waiting { event, _place: Place(self.waiting.clone()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::Hint;

    #[test]
    fn what_is_too_much_is_told_once_as_lost_and_then_others_come_again() {
        let gate = Gate::of(4);
        let event = || Event::Dirty { path: RelPath::new(b"a").expect("a path"), hint: Hint::Written };
        let mut queue = std::collections::VecDeque::new();
        let bring = |queue: &mut std::collections::VecDeque<Waiting>| {
            let admitted = gate.admit(event());
            let word = match &admitted {
                None => "-",
                Some(Waiting { event: Event::Lost { .. }, .. }) => "lost",
                Some(_) => "in",
            };
            queue.extend(admitted);
            word
        };
        let first: Vec<_> = (0..8).map(|_| bring(&mut queue)).collect();
        assert_eq!(first, ["in", "in", "in", "in", "lost", "-", "-", "-"]);
        // Two of five are taken in: more than half wait still.
        queue.drain(..2);
        assert_eq!(bring(&mut queue), "-");
        queue.pop_front();
        assert_eq!([bring(&mut queue), bring(&mut queue), bring(&mut queue)], ["in", "in", "lost"]);
        queue.clear();
        assert_eq!(bring(&mut queue), "in");
    }
}
