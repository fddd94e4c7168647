//! What waits to be written: messages first, then data, each in its order and bounded in bytes.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::LinkError;

/// So many bytes of messages in a row, and waiting data gets its turn.
const TURN: usize = 1 << 20;

/// Frames of one lane.
#[derive(Default)]
struct Queue {
    frames: VecDeque<Vec<u8>>,
    bytes: usize,
}

impl Queue {
    fn push(&mut self, frame: Vec<u8>) {
        self.bytes += frame.len();
        self.frames.push_back(frame);
    }

    fn pop(&mut self) -> Option<Vec<u8>> {
        let frame = self.frames.pop_front()?;
        self.bytes -= frame.len();
        Some(frame)
    }

    /// One frame is always taken, so that none is too big for ever.
    fn has_room(&self, bytes: usize, limit: usize) -> bool {
        self.frames.is_empty() || self.bytes + bytes <= limit
    }
}

#[derive(Default)]
struct State {
    messages: Queue,
    data: Queue,
    /// Bytes of messages that overtook waiting data.
    overtaken: usize,
    pong: bool,
    /// From this message on the other side is to send again.
    ask: Option<u32>,
    /// From this message on the other side asks to be sent again.
    asked: Option<u32>,
    /// Nothing more is taken; what waits is still written.
    closed: bool,
    /// What waits is dropped as well.
    aborted: bool,
    /// How many senders wait for room, and whether the writer waits: nobody else is woken, which costs a system call.
    senders: usize,
    writer: bool,
    /// The first frame is on its way, or never will be.
    greeted: bool,
    /// Why the writer ended.
    failure: Option<LinkError>,
}

/// What the writer does next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    Frame(Vec<u8>),
    Pong,
    /// Ask for this message again, and for what followed it.
    Ask(u32),
    /// Write them again.
    Again(u32),
    /// Nothing came for the given time.
    Idle,
    End,
}

/// The queue between the senders and the writer.
pub struct Outbox {
    limit: usize,
    state: Mutex<State>,
    changed: Condvar,
}

impl Outbox {
    pub fn new(limit: usize) -> Outbox {
        Outbox { limit, state: Mutex::default(), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock; if it did, the queue is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a frame; waits for room for it, or with `wait` unset gives it back when there is none.
    pub fn put(&self, frame: Vec<u8>, is_data: bool, wait: bool) -> Result<Option<Vec<u8>>, LinkError> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return Err(LinkError::Closed);
            }
            let queue = if is_data { &mut state.data } else { &mut state.messages };
            if queue.has_room(frame.len(), self.limit) {
                queue.push(frame);
                if state.writer {
                    self.changed.notify_all();
                }
                return Ok(None);
            }
            if !wait {
                return Ok(Some(frame));
            }
            state.senders += 1;
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.senders -= 1;
        }
    }

    /// Waits for something to do, at most so long.
    pub fn next(&self, idle: Duration) -> Next {
        let until = Instant::now() + idle;
        let mut state = self.lock();
        loop {
            if state.aborted {
                return Next::End;
            }
            if std::mem::take(&mut state.pong) {
                return Next::Pong;
            }
            if let Some(number) = state.ask.take() {
                return Next::Ask(number);
            }
            if let Some(number) = state.asked.take() {
                return Next::Again(number);
            }
            if let Some(frame) = state.pop() {
                if state.senders > 0 {
                    self.changed.notify_all();
                }
                return Next::Frame(frame);
            }
            if state.closed {
                return Next::End;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Next::Idle;
            }
            state.writer = true;
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            state.writer = false;
        }
    }

    /// Whether the writer has nothing to do now.
    pub fn is_empty(&self) -> bool {
        let state = self.lock();
        state.messages.frames.is_empty() && state.data.frames.is_empty() && !state.pong && state.ask.is_none()
    }

    /// Asks for a pong. Never waits.
    pub fn pong(&self) {
        self.lock().pong = true;
        self.changed.notify_all();
    }

    /// Asks the other side for this message again, and for what followed it. Never waits.
    pub fn ask(&self, number: u32) {
        self.lock().ask = Some(number);
        self.changed.notify_all();
    }

    /// The other side asks for this message again.
    pub fn asked(&self, number: u32) {
        self.lock().asked = Some(number);
        self.changed.notify_all();
    }

    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Drops what waits in favour of this last frame.
    pub fn close_with(&self, last: Vec<u8>) {
        let mut state = self.lock();
        if state.closed {
            return;
        }
        state.closed = true;
        (state.messages, state.data) = (Queue::default(), Queue::default());
        state.messages.push(last);
        drop(state);
        self.changed.notify_all();
    }

    /// Waits so long; at once true if the link is or was ended meanwhile.
    pub fn is_aborted_within(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        let mut state = self.lock();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if state.aborted || left.is_zero() {
                return state.aborted;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub fn abort(&self) {
        let mut state = self.lock();
        (state.closed, state.aborted) = (true, true);
        (state.messages, state.data) = (Queue::default(), Queue::default());
        drop(state);
        self.changed.notify_all();
    }

    /// The first frame is written.
    pub fn greeted(&self) {
        self.lock().greeted = true;
        self.changed.notify_all();
    }

    /// Waits until the first frame is written or has failed, at most so long.
    pub fn wait_greeted(&self, time: Duration) {
        let waits = |state: &mut State| !state.greeted && state.failure.is_none();
        drop(self.changed.wait_timeout_while(self.lock(), time, waits));
    }

    pub fn fail(&self, why: LinkError) {
        self.lock().failure = Some(why);
        self.abort();
    }

    pub fn has_failed(&self) -> bool {
        self.lock().failure.is_some()
    }

    pub fn failure(&self) -> Option<LinkError> {
        self.lock().failure.take()
    }
}

impl State {
    fn pop(&mut self) -> Option<Vec<u8>> {
        let data_waits = !self.data.frames.is_empty();
        if data_waits && self.overtaken >= TURN {
            self.overtaken = 0;
            return self.data.pop();
        }
        let Some(frame) = self.messages.pop() else {
            self.overtaken = 0;
            return self.data.pop();
        };
        self.overtaken = if data_waits { self.overtaken + frame.len() } else { 0 };
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    #[test]
    fn messages_overtake_data_but_do_not_starve_it() {
        let outbox = Outbox::new(usize::MAX);
        (1..=3).for_each(|n| _ = outbox.put(vec![n; 8], true, false).unwrap());
        let half = TURN / 2;
        (11..=15).for_each(|n| _ = outbox.put(vec![n; half], false, false).unwrap());
        outbox.close();
        let order = std::iter::from_fn(|| match outbox.next(NOW) {
            Next::Frame(frame) => Some(frame[0]),
            _ => None,
        });
        assert_eq!(order.collect::<Vec<_>>(), [11, 12, 1, 13, 14, 2, 15, 3]);
        assert_eq!(outbox.next(NOW), Next::End);
        assert!(matches!(outbox.put(vec![], false, true), Err(LinkError::Closed)));
    }

    #[test]
    fn each_lane_is_bounded_by_itself() {
        let outbox = Outbox::new(100);
        assert_eq!(outbox.put(vec![0; 500], true, false).unwrap(), None);
        assert_eq!(outbox.put(vec![7], true, false).unwrap(), Some(vec![7]));
        assert_eq!(outbox.put(vec![0; 60], false, false).unwrap(), None);
        assert_eq!(outbox.put(vec![0; 41], false, false).unwrap().map(|f| f.len()), Some(41));
        outbox.pong();
        assert_eq!(outbox.next(NOW), Next::Pong);
        assert_eq!(outbox.next(NOW), Next::Frame(vec![0; 60]));
        assert_eq!(outbox.next(NOW), Next::Frame(vec![0; 500]));
        assert_eq!(outbox.next(NOW), Next::Idle);
    }

    #[test]
    fn a_waiting_sender_goes_on_when_there_is_room_and_fails_when_there_never_will_be() {
        let outbox = Outbox::new(10);
        outbox.put(vec![1; 10], false, true).unwrap();
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| outbox.put(vec![2; 10], false, true).map(drop));
            assert_eq!(outbox.next(Duration::from_secs(60)), Next::Frame(vec![1; 10]));
            sender.join().unwrap().unwrap();
            let sender = scope.spawn(|| outbox.put(vec![3; 10], false, true).map(drop));
            outbox.abort();
            assert!(matches!(sender.join().unwrap(), Err(LinkError::Closed)));
        });
        assert_eq!(outbox.next(NOW), Next::End);
    }
}
