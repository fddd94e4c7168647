//! The guard against mass deletions: more than a share of the tree within ten minutes halts the pair.
//!
//! What counts is what stood at the beginning of the ten minutes, and what the other side made within them: an unmounted disk
//! or a wrong `rm` takes old things and those of others, while programs that make and remove hundreds of files of their own (a
//! build, a garbage collection) are no disaster. Whoever asks knows which is which, and counts what he asks for.

use std::collections::VecDeque;

use super::Millis;

/// The ten minutes.
pub const WINDOW: Millis = 600_000;
/// How often the guard notes what is old.
const SAMPLE: Millis = 30_000;

/// How many entries there were at some time.
#[derive(Debug, Clone, Copy)]
struct Sample {
    when: Millis,
    entries: u64,
}

/// How many deletions within ten minutes halt the pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// None do.
    Off,
    /// More than so many, whatever the size of the tree.
    Number(u64),
    /// More than so many per cent of the entries at the window's start, but never `at_least` or fewer.
    Share { percent: u64, at_least: u64 },
}

/// Counts deletions in sliding ten minutes.
#[derive(Debug, Clone)]
pub struct Guard {
    limit: Limit,
    /// What the pair holds now.
    entries: u64,
    /// The window's start, and what came since.
    samples: VecDeque<Sample>,
    recent: VecDeque<(Millis, u64)>,
    sum: u64,
}

impl Guard {
    pub fn new(limit: Limit) -> Guard {
        Guard { limit, entries: 0, samples: VecDeque::new(), recent: VecDeque::new(), sum: 0 }
    }

    pub fn set_limit(&mut self, limit: Limit) {
        self.limit = limit;
    }

    /// A session begins, with so many entries that the pair holds. What an earlier session counted counts on.
    pub fn begin(&mut self, entries: u64, now: Millis) {
        self.entries = entries;
        self.samples.push_back(Sample { when: now, entries });
    }

    /// Forgets what it counted.
    pub fn renew(&mut self) {
        *self = Guard::new(self.limit);
    }

    /// What the pair holds by now, where nobody tells each entry.
    pub fn holds(&mut self, entries: u64) {
        self.entries = entries;
    }

    /// One entry more.
    pub fn grow(&mut self) {
        self.entries += 1;
    }

    /// One entry more, which was there before anybody counted.
    pub fn find(&mut self) {
        self.entries += 1;
        self.samples.iter_mut().for_each(|sample| sample.entries += 1);
    }

    /// So many entries are gone without having been asked for.
    pub fn gone(&mut self, count: u64) {
        self.entries = self.entries.saturating_sub(count);
    }

    /// Deletions that were admitted did not happen, nor those of `young` objects that do not count.
    pub fn give_back(&mut self, mut count: u64, young: u64) {
        self.entries = self.entries.saturating_add(count).saturating_add(young);
        for (_, old) in self.recent.iter_mut().rev() {
            let taken = count.min(*old);
            *old -= taken;
            self.sum -= taken;
            count -= taken;
        }
    }

    /// Whether `count` more deletions, and those that wait behind them, would be too many. The `count` count from now
    /// on if not.
    pub fn admit(&mut self, count: u64, waiting: u64, now: Millis) -> bool {
        self.slide(now);
        let all = self.sum.saturating_add(count).saturating_add(waiting);
        let entries = self.samples.front().map_or(self.entries, |start| start.entries);
        let too_many = match self.limit {
            Limit::Off => false,
            Limit::Number(most) => all > most,
            Limit::Share { percent, at_least } => {
                all > at_least && all.saturating_mul(100) > entries.saturating_mul(percent)
            }
        };
        if too_many {
            return false;
        }
        self.sum += count;
        self.entries = self.entries.saturating_sub(count);
        match self.recent.back_mut() {
            Some((when, old)) if *when == now => *old += count,
            _ => self.recent.push_back((now, count)),
        }
        true
    }

    fn slide(&mut self, now: Millis) {
        while let Some((when, old)) = self.recent.front()
            && when + WINDOW <= now
        {
            self.sum -= old;
            self.recent.pop_front();
        }
        if self.samples.back().is_none_or(|last| last.when + SAMPLE <= now) {
            self.samples.push_back(Sample { when: now, entries: self.entries });
        }
        while self.samples.get(1).is_some_and(|next| next.when + WINDOW <= now) {
            self.samples.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF: Limit = Limit::Share { percent: 50, at_least: 100 };

    #[test]
    fn half_of_the_tree_within_ten_minutes() {
        let mut guard = Guard::new(HALF);
        guard.begin(1000, 0);
        assert!(guard.admit(400, 0, 0) && !guard.admit(1, 100, 1) && guard.admit(100, 0, 1));
        assert!(!guard.admit(1, 0, 2));
        assert!(guard.admit(200, 0, WINDOW + 1), "the window is empty");
        let mut small = Guard::new(HALF);
        small.begin(20, 0);
        assert!(small.admit(20, 0, 0), "few deletions are nobody's disaster");
    }

    #[test]
    fn another_session_is_no_fresh_start() {
        let mut guard = Guard::new(HALF);
        guard.begin(160, 0);
        assert!(guard.admit(96, 0, 0) && !guard.admit(16, 0, 1));
        guard.begin(64, 2);
        assert!(!guard.admit(16, 0, 3));
        assert!(guard.admit(16, 0, WINDOW + 1), "the window is over");
    }

    #[test]
    fn what_a_first_scan_finds_was_there_and_what_is_made_was_not() {
        let mut guard = Guard::new(HALF);
        guard.begin(0, 0);
        (0..300).for_each(|_| guard.find());
        (0..1000).for_each(|_| guard.grow());
        assert!(guard.admit(150, 0, 1) && !guard.admit(1, 0, 2), "half of what was found");
    }

    #[test]
    fn a_number_counts_whatever_the_size_and_off_is_off() {
        let mut guard = Guard::new(Limit::Number(3));
        guard.begin(1_000_000, 0);
        assert!(guard.admit(3, 0, 0) && !guard.admit(1, 0, 0));
        let mut off = Guard::new(Limit::Off);
        off.begin(10, 0);
        assert!(off.admit(1_000_000, 0, 0));
    }
}
