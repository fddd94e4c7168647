//! The places of those who check, beside the session. There are few, and each is held by progress: by asking, and by taking
//! the answers. Whoever only says that he is still there goes when somebody else wants the place.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::link::channel::Channel;
use crate::protocol::survey::Answer;

/// Checks at a time.
pub const CHECKS: usize = 2;

/// One of those who check.
struct Place {
    connection: u64,
    /// When it asked for something, or took an answer.
    moved: Instant,
    answers: Arc<Channel<Answer>>,
}

/// Who holds a place.
#[derive(Clone, Default)]
pub struct Checks(Arc<Mutex<Vec<Place>>>);

impl Checks {
    fn places(&self) -> MutexGuard<'_, Vec<Place>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place; of those that did not move for `patience` the one that stands for longest makes way.
    ///
    /// # Errors
    /// Why there is none.
    pub fn enter(&self, connection: u64, answers: &Arc<Channel<Answer>>, patience: Duration) -> Result<(), String> {
        let mut places = self.places();
        if places.len() >= CHECKS {
            let longest = (0..places.len()).max_by_key(|at| places[*at].moved.elapsed());
            match longest.filter(|at| places[*at].moved.elapsed() >= patience) {
                Some(at) => {
                    let gone = places.swap_remove(at);
                    gone.answers.turn_away("the check stood still, and another one waited for its place");
                }
                None => return Err(format!("{CHECKS} checks are running already")),
            }
        }
        places.push(Place { connection, moved: Instant::now(), answers: answers.clone() });
        Ok(())
    }

    /// It asked for something, or took an answer. False if it has lost its place.
    pub fn moves(&self, connection: u64) -> bool {
        let mut places = self.places();
        let place = places.iter_mut().find(|place| place.connection == connection);
        place.map(|place| place.moved = Instant::now()).is_some()
    }

    /// Whether it still has its place.
    pub fn holds(&self, connection: u64) -> bool {
        self.places().iter().any(|place| place.connection == connection)
    }

    pub fn leave(&self, connection: u64) {
        self.places().retain(|place| place.connection != connection);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::link::Limits;
    use crate::link::channel::Incoming;
    use crate::link::handshake::{Hello, Role};
    use crate::protocol::survey::Ask;

    /// A channel, and the other end of its line.
    fn line() -> (Arc<Channel<Answer>>, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let pipes = (ours.try_clone().expect("cloned"), ours);
        let channel = Channel::start(pipes, Hello::new(Role::Agent, "p"), Limits::default(), |_: Incoming<Ask>| true);
        (Arc::new(channel.expect("a channel")), theirs)
    }

    #[test]
    fn who_stands_still_makes_way_for_whoever_comes() {
        let checks = Checks::default();
        let lines: Vec<_> = (0..4).map(|_| line()).collect();
        let enter = |n: u64, patience| checks.enter(n, &lines[n as usize].0, patience);
        let ever = Duration::from_secs(3600);
        assert_eq!((enter(0, ever), enter(1, ever)), (Ok(()), Ok(())));
        assert!(enter(2, ever).expect_err("both have just come").contains("running already"));
        std::thread::sleep(Duration::from_millis(5));
        assert!(checks.moves(0));
        assert_eq!(enter(2, Duration::from_millis(1)), Ok(()));
        assert_eq!([0, 1, 2].map(|n| checks.holds(n)), [true, false, true], "the one that stood for longest");
        assert!(!checks.moves(1));
        checks.leave(1);
        checks.leave(0);
        assert_eq!(enter(3, ever), Ok(()));
        assert_eq!([0, 1, 2, 3].map(|n| checks.holds(n)), [false, false, true, true]);
    }
}
