//! Distrust: what a side says of a report when its power failed, and what it found may be what that left.

use serde::{Deserialize, Serialize};

use super::Weight;
use crate::model::Hash;

/// Why a report may be none of a user's doing. It is told before the report, with the same number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Distrust {
    /// What lies there is what lay there before the state that both sides agreed on, or nothing does: a name or
    /// attributes that were not on disk yet.
    Older,
    /// A file that may be a part of the agreed one. The side that has that one can tell.
    Remains(Remains),
    /// Another object than the agreed one, and nothing tells which of them is newer.
    Unknown,
    /// A file that has nothing, or nothing but zeros at its end: its contents may never have reached the disk.
    Emptied,
}

/// What is left of a file: with these ranges of zeros, and cut at this size, another file may have the same hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remains {
    pub size: u64,
    pub hash: Hash,
    /// Offsets and lengths, one after the other.
    pub zeros: Vec<(u64, u64)>,
}

impl Remains {
    /// A file that has more pieces than this is not looked at so closely.
    pub const ZEROS_MAX: usize = 256;

    /// Whether the ranges follow each other within the size: what comes over the line may say anything.
    pub fn is_sound(&self) -> bool {
        let mut end = 0;
        let follows = |&(offset, length): &(u64, u64)| {
            let sound = offset >= end && length > 0 && length <= self.size && offset <= self.size - length;
            end = offset.saturating_add(length);
            sound
        };
        self.zeros.len() <= Remains::ZEROS_MAX && self.zeros.iter().all(follows)
    }
}

impl Distrust {
    /// Whether this can be said of a file.
    pub fn is_sound(&self) -> bool {
        if let Distrust::Remains(remains) = self { remains.is_sound() } else { true }
    }
}

impl Weight for Remains {
    fn weight(&self) -> usize {
        64 + 16 * self.zeros.len()
    }
}

impl Weight for Distrust {
    fn weight(&self) -> usize {
        if let Distrust::Remains(remains) = self { remains.weight() } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_follow_each_other_within_the_file() {
        let sound =
            |size, zeros: &[(u64, u64)]| Remains { size, hash: Hash([0; 32]), zeros: zeros.to_vec() }.is_sound();
        assert!(sound(0, &[]) && sound(10, &[(0, 10)]) && sound(10, &[(0, 4), (4, 2), (9, 1)]));
        assert!(!sound(0, &[(0, 0)]) && !sound(10, &[(0, 11)]) && !sound(10, &[(4, 4), (6, 1)]));
        assert!(!sound(10, &[(u64::MAX, 2)]) && !sound(10, &[(2, u64::MAX)]));
        let many: Vec<(u64, u64)> = (0..=256).map(|n| (2 * n, 1)).collect();
        assert!(sound(1000, &many[1..]) && !sound(1000, &many));
    }
}
