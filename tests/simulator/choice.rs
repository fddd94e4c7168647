//! Choices: from a seeded generator, or as recorded. One stream for users and one for everything else, so that
//! leaving out a user's operation does not reshuffle the rest.

use std::cell::RefCell;
use std::rc::Rc;

/// SplitMix64: small, fast, and the same everywhere.
#[derive(Debug, Clone)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[derive(Debug)]
struct Stream {
    random: Random,
    /// What was chosen before the generator goes on.
    recorded: std::collections::VecDeque<u64>,
}

/// A stream of choices; clones share it.
#[derive(Debug, Clone)]
pub struct Choices(Rc<RefCell<Stream>>);

impl Choices {
    pub fn seeded(seed: u64) -> Choices {
        Choices::recorded(Vec::new(), seed)
    }

    /// These choices first, then those of the seed.
    pub fn recorded(choices: Vec<u64>, seed: u64) -> Choices {
        Choices(Rc::new(RefCell::new(Stream { random: Random(seed), recorded: choices.into() })))
    }

    pub fn next(&self) -> u64 {
        let mut stream = self.0.borrow_mut();
        match stream.recorded.pop_front() {
            Some(choice) => choice,
            None => stream.random.next(),
        }
    }

    /// A number below `limit`; 0 if the limit is 0.
    pub fn below(&self, limit: u64) -> u64 {
        if limit == 0 { 0 } else { self.next() % limit }
    }

    /// True once in `times`.
    pub fn one_in(&self, times: u64) -> bool {
        self.below(times) == 0
    }

    pub fn pick<'a, T>(&self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}
