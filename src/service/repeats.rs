//! What is said again and again, and written to a log now and then: a right host may be off for days, and is called every
//! minute.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Between two records that say the same.
const AGAIN: Duration = Duration::from_secs(3600);
/// Texts that are remembered. More than these have something in them that changes each time.
const TEXTS: usize = 64;

/// What was said of late.
#[derive(Debug)]
pub struct Repeats {
    told: BTreeMap<String, Instant>,
    untold: u64,
    most: usize,
}

impl Default for Repeats {
    fn default() -> Repeats {
        Repeats::of(TEXTS)
    }
}

impl Repeats {
    /// Remembers so many texts.
    pub fn of(most: usize) -> Repeats {
        Repeats { told: BTreeMap::new(), untold: 0, most }
    }

    /// `Some` if the text is worth a record: it is new, or was told long ago. How much was not told since the last record.
    pub fn worth(&mut self, text: &str, now: Instant) -> Option<u64> {
        self.told.retain(|_, told| now.saturating_duration_since(*told) < AGAIN);
        if self.told.contains_key(text) || self.told.len() >= self.most {
            self.untold += 1;
            return None;
        }
        self.told.insert(text.to_owned(), now);
        Some(std::mem::take(&mut self.untold))
    }

    /// All is well again: whatever is said next is new.
    pub fn forget(&mut self) {
        *self = Repeats::of(self.most);
    }
}

/// The words of a text, whatever its numbers are: the same with other figures, a time of day among them, is no news.
pub fn without_figures(text: &str) -> impl Iterator<Item = char> + '_ {
    text.chars().filter(|c| !c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_told_once_an_hour() {
        let (mut repeats, begin) = (Repeats::default(), Instant::now());
        let minute = |n: u32| begin + n * Duration::from_secs(60);
        assert_eq!(repeats.worth("no route", minute(0)), Some(0));
        for n in 1..60 {
            assert_eq!(repeats.worth("no route", minute(n)), None);
        }
        assert_eq!(repeats.worth("no route", minute(60)), Some(59));
        // Two that take turns are two, not one for each turn.
        assert_eq!(repeats.worth("refused", minute(61)), Some(0));
        assert_eq!(repeats.worth("no route", minute(62)), None);
        assert_eq!(repeats.worth("refused", minute(63)), None);
        repeats.forget();
        assert_eq!(repeats.worth("no route", minute(64)), Some(0));
        let words = |text: &str| without_figures(text).collect::<String>();
        assert_eq!(words("01:05 no room, 3 MiB"), words("11:06 no room, 20 MiB"));
    }

    #[test]
    fn texts_that_are_never_the_same_are_bounded() {
        let (mut repeats, begin) = (Repeats::default(), Instant::now());
        let mut told = 0;
        for n in 0..100_000_u32 {
            told +=
                usize::from(repeats.worth(&format!("process {n} ended"), begin + n * Duration::from_secs(1)).is_some());
        }
        assert!(told <= (100_000 / 3600 + 1) * TEXTS, "{told}");
    }
}
