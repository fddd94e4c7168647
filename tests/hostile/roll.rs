//! Choices from a seed, the same on every machine.

/// SplitMix64.
#[derive(Debug, Clone)]
pub struct Roll(u64);

impl Roll {
    pub fn new(seed: u64) -> Roll {
        Roll(seed)
    }

    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `sides`, which is at least 1.
    pub fn below(&mut self, sides: usize) -> usize {
        (self.number() % sides as u64) as usize
    }

    /// True once in so many times.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    /// A choice of its own for a part, which does not reshuffle the others.
    pub fn fork(&mut self) -> Roll {
        Roll(self.number())
    }
}

/// The seed of this run, printed with what it is for: `PSYNC_HOSTILE_SEED`, else one of the moment.
pub fn seed(what: &str) -> u64 {
    let given =
        std::env::var("PSYNC_HOSTILE_SEED").ok().map(|text| text.parse().expect("PSYNC_HOSTILE_SEED is a number"));
    let seed = given.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock");
        now.as_micros() as u64 % 1_000_000_000
    });
    // The runner shows it with a failure.
    println!("{what}: PSYNC_HOSTILE_SEED={seed}");
    seed
}

/// A bound of a run that a variable may raise.
pub fn bound(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}
