//! How much of what a side deletes it has made itself a short while ago. The side says so (`Change::young`), and the guard
//! takes that off as far as it can be: what one side made has come to the other one.

use std::collections::VecDeque;

use crate::model::Millis;
use crate::protocol::Change;

use super::guard::WINDOW;

/// Clocks and ways: so much longer than the guard's ten minutes something counts as just made.
const GRACE: Millis = 60_000;
/// What was made within so many milliseconds is kept as one number.
const GRAIN: Millis = 10_000;

/// Objects that are gone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Loss {
    pub all: u64,
    /// How many of them were made by users of the side that says so, within ten minutes.
    pub young: u64,
}

impl Loss {
    /// What is gone by a change, with all below it.
    pub fn of(change: &Change) -> Loss {
        let all = change.below.saturating_add(1);
        Loss { all, young: change.young.min(all) }
    }

    pub fn add(&mut self, other: Loss) {
        *self = Loss { all: self.all.saturating_add(other.all), young: self.young.saturating_add(other.young) };
    }

    pub fn less(self, other: Loss) -> Loss {
        Loss { all: self.all.saturating_sub(other.all), young: self.young.saturating_sub(other.young) }
    }

    /// What the guard counts of it, if so many may be young.
    pub fn counts(self, young: u64) -> u64 {
        self.all - self.young.min(young).min(self.all)
    }
}

/// What came from one side within ten minutes, as far as the brain and the other side know: no more can be young there.
#[derive(Debug, Default)]
pub(super) struct Young {
    came: VecDeque<(Millis, u64)>,
    sum: u64,
}

impl Young {
    /// A session begins: so much of it the other side has.
    pub fn begin(&mut self, came: u64, now: Millis) {
        // More than any archive holds is no number to reckon with.
        self.sum = came.min(u64::from(u32::MAX));
        self.came = [(now, self.sum)].into();
    }

    /// The other side has one more.
    pub fn come(&mut self, now: Millis) {
        self.put(1, now);
    }

    /// How many may be young by now.
    pub fn most(&mut self, now: Millis) -> u64 {
        while let Some((_, old)) = self.came.front().filter(|(when, _)| when + WINDOW + GRACE <= now) {
            self.sum -= old;
            self.came.pop_front();
        }
        self.sum
    }

    /// So many are gone, the oldest first.
    pub fn take(&mut self, mut count: u64) {
        while let Some((_, old)) = self.came.front_mut().filter(|_| count > 0) {
            let taken = count.min(*old);
            *old -= taken;
            self.sum -= taken;
            count -= taken;
            if *old == 0 {
                self.came.pop_front();
            }
        }
    }

    /// They are not gone after all.
    pub fn give_back(&mut self, count: u64, now: Millis) {
        self.put(count, now);
    }

    fn put(&mut self, count: u64, now: Millis) {
        self.sum += count;
        match self.came.back_mut() {
            Some((when, old)) if *when + GRAIN > now => *old += count,
            _ if count > 0 => self.came.push_back((now, count)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_young_than_came() {
        let loss = Loss { all: 10, young: 8 };
        assert_eq!([0, 3, 8, 100].map(|most| loss.counts(most)), [10, 7, 2, 2]);
        let mut young = Young::default();
        young.begin(5, 0);
        (0..3).for_each(|_| young.come(1));
        assert_eq!(young.most(1), 8);
        young.take(6);
        young.give_back(1, 2);
        assert_eq!(young.most(2), 3);
        young.take(100);
        assert_eq!(young.most(2), 0);
    }

    #[test]
    fn ten_minutes_later_nothing_is() {
        let mut young = Young::default();
        young.begin(5, 0);
        young.come(GRAIN);
        assert_eq!(young.most(WINDOW + GRACE - 1), 6);
        assert_eq!(young.most(WINDOW + GRACE), 1);
        assert_eq!(young.most(WINDOW + GRACE + GRAIN), 0);
        // As many numbers as there are grains in that time, however many objects.
        (0..1_000_000).for_each(|n| young.come(2 * WINDOW + n));
        young.most(2 * WINDOW + 1_000_000);
        assert!(young.came.len() < 100, "{}", young.came.len());
    }
}
