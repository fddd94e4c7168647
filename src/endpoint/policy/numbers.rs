//! The numbers of actions in one session: each is used once, and none is far from what is known.

use std::collections::BTreeMap;

use crate::model::Generation;
use crate::protocol::sane::{Insane, WINDOW};

/// Stretches of used numbers that are kept apart; a long action beside many others that are given up leaves gaps.
const SPANS_MAX: usize = 65_536;

/// Which numbers an action may have.
#[derive(Debug, Default)]
pub struct Given {
    /// Those up to here are settled.
    floor: Generation,
    /// Those beyond are out of reach.
    ceiling: Generation,
    /// First and last of each stretch of used ones.
    spans: BTreeMap<Generation, Generation>,
}

impl Given {
    /// Of a session that begins when this number is the last.
    pub fn above(last: Generation) -> Given {
        Given { floor: last, ceiling: last.saturating_add(WINDOW), spans: BTreeMap::new() }
    }

    /// The highest that was used.
    pub fn highest(&self) -> Generation {
        self.spans.last_key_value().map_or(self.floor, |(_, last)| *last)
    }

    /// Whether it can be an action's of this session at all.
    pub fn is_near(&self, number: Generation) -> Result<(), Insane> {
        match number {
            n if n <= self.floor => Err("a generation that is settled"),
            n if n > self.ceiling => Err("a generation far ahead of all that is known here"),
            _ => Ok(()),
        }
    }

    /// Uses a number, once.
    pub fn take(&mut self, number: Generation) -> Result<(), Insane> {
        self.is_near(number)?;
        let before = self.spans.range(..=number).next_back().map(|(first, last)| (*first, *last));
        let first = match before {
            Some((_, last)) if last >= number => return Err("a generation for a second time"),
            Some((first, last)) if last + 1 == number => first,
            _ => number,
        };
        let last = number.checked_add(1).and_then(|next| self.spans.remove(&next)).unwrap_or(number);
        self.spans.insert(first, last);
        if self.spans.len() > SPANS_MAX {
            self.spans.pop_first();
        }
        Ok(())
    }

    /// All up to here are over on both sides.
    pub fn settle(&mut self, upto: Generation) {
        self.floor = self.floor.max(upto);
        while let Some((first, last)) = self.spans.pop_first() {
            if last > self.floor {
                self.spans.insert(first, last);
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_used_once_in_any_order() {
        let mut given = Given::above(100);
        for n in [105, 101, 103, 102, 110] {
            assert_eq!(given.take(n), Ok(()), "{n}");
            assert_eq!(given.take(n), Err("a generation for a second time"), "{n}");
        }
        assert_eq!((given.spans.len(), given.highest()), (3, 110));
        given.settle(103);
        assert_eq!(given.spans.len(), 2);
        assert_eq!(given.take(103), Err("a generation that is settled"));
        assert_eq!((given.take(104), given.spans.len()), (Ok(()), 2));
        assert_eq!(given.take(100 + WINDOW), Ok(()));
        for far in [101 + WINDOW, 1 << 63, u64::MAX] {
            assert_eq!(given.take(far), Err("a generation far ahead of all that is known here"));
        }
    }

    #[test]
    fn gaps_do_not_fill_the_memory() {
        let mut given = Given::above(0);
        (1..200_000).for_each(|n| given.take(2 * n).expect("new"));
        assert!(given.spans.len() <= SPANS_MAX && given.take(2 * 199_999).is_err());
    }
}
