//! How much is done at the moment: actions by their end, contents as they go.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::status::Rates;
use crate::model::Generation;
use crate::protocol::Data;

/// Rates are those of so long a time.
const WINDOW: Duration = Duration::from_secs(5);
/// A slice of it that is counted as one.
const SLICE: Duration = Duration::from_millis(250);
/// Actions whose contents are under way and counted one by one.
const UNDER_WAY: usize = 16_384;

/// What was done of late.
#[derive(Debug, Default)]
pub struct Meter {
    /// By the slice in which it was: actions and bytes.
    done: VecDeque<(Instant, u64, u64)>,
    /// Of each action, the bytes that were counted as they went.
    gone: BTreeMap<Generation, u64>,
}

impl Meter {
    /// A piece of contents is on its way.
    pub fn passed(&mut self, generation: Generation, data: &Data, now: Instant) {
        let bytes = match data {
            Data::Chunk { bytes, .. } | Data::Whole { bytes } => bytes.len() as u64,
            Data::Copy { length, .. } => *length,
            Data::Abort => {
                self.gone.remove(&generation);
                return;
            }
            Data::Room { .. } | Data::End { .. } => return,
        };
        if self.gone.len() >= UNDER_WAY && !self.gone.contains_key(&generation) {
            self.gone.pop_first();
        }
        let gone = self.gone.entry(generation).or_default();
        *gone = gone.saturating_add(bytes);
        self.count(0, bytes, now);
    }

    /// An action is recorded on both sides, with so many bytes of contents; those that went by themselves are counted
    /// already.
    pub fn completed(&mut self, generation: Generation, bytes: u64, now: Instant) {
        let gone = self.gone.remove(&generation).unwrap_or(0);
        self.count(1, bytes.saturating_sub(gone), now);
    }

    pub fn rates(&mut self, now: Instant) -> Rates {
        while self.done.front().is_some_and(|(when, ..)| now.saturating_duration_since(*when) > WINDOW) {
            self.done.pop_front();
        }
        let (actions, bytes) =
            self.done.iter().fold((0_u64, 0_u64), |sum, (_, a, b)| (sum.0 + a, sum.1.saturating_add(*b)));
        let seconds = WINDOW.as_secs_f64();
        Rates { actions_per_second: actions as f64 / seconds, bytes_per_second: bytes as f64 / seconds }
    }

    fn count(&mut self, actions: u64, bytes: u64, now: Instant) {
        match self.done.back_mut().filter(|(when, ..)| now.saturating_duration_since(*when) < SLICE) {
            Some((_, a, b)) => (*a, *b) = (*a + actions, b.saturating_add(bytes)),
            None => self.done.push_back((now, actions, bytes)),
        }
        while self.done.front().is_some_and(|(when, ..)| now.saturating_duration_since(*when) > WINDOW) {
            self.done.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(length: usize) -> Data {
        Data::Whole { bytes: serde_bytes::ByteBuf::from(vec![0; length]) }
    }

    #[test]
    fn a_rate_is_of_the_moment() {
        let (mut meter, begin) = (Meter::default(), Instant::now());
        let second = |n: u64| begin + Duration::from_secs(n);
        for n in 0..3000 {
            meter.completed(n, 10, second(n / 1000));
        }
        assert_eq!(meter.rates(second(3)).actions_per_second, 600.0);
        let rates = meter.rates(second(9));
        assert_eq!((rates.actions_per_second, rates.bytes_per_second), (0.0, 0.0));
    }

    #[test]
    fn contents_count_as_they_go_and_once() {
        let (mut meter, now) = (Meter::default(), Instant::now());
        for _ in 0..5 {
            meter.passed(7, &chunk(1000), now);
        }
        assert_eq!(meter.rates(now).bytes_per_second, 1000.0);
        // A file's last bytes were not seen on their way: the other side had them.
        meter.completed(7, 6000, now);
        let rates = meter.rates(now);
        assert_eq!((rates.bytes_per_second, rates.actions_per_second), (1200.0, 0.2));
    }

    #[test]
    fn what_never_ends_is_bounded() {
        let (mut meter, now) = (Meter::default(), Instant::now());
        for n in 0..UNDER_WAY as u64 + 10 {
            meter.passed(n, &chunk(1), now);
        }
        assert_eq!(meter.gone.len(), UNDER_WAY);
        assert!(meter.done.len() <= 2);
    }
}
