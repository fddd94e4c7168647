//! The names of conflict copies.

use super::{NAME_MAX, Name, RelPath};

/// The name of the copy that keeps the losing version of `name`: `NAME (conflict SIDE YYYY-MM-DD HH.MM.SS).EXT`.
///
/// A pure function, so that a repetition after a crash makes the same name. `time` is the loser's mtime in seconds
/// since 1970 (UTC); `digits`, if given, tell apart copies of the same second. A suffix of an earlier conflict is replaced; the base is
/// cut so that the name fits; a leading dot starts no extension.
pub fn copy_name(name: &Name, side: &str, time: i64, digits: Option<&str>) -> Name {
    // The dots of its date begin no extension.
    let bytes = without_suffix(name.as_bytes());
    let dot = bytes.iter().rposition(|b| *b == b'.').filter(|at| *at > 0 && bytes.len() - at <= 32);
    let (base, extension) = bytes.split_at(dot.unwrap_or(bytes.len()));
    let base = without_suffix(base);
    let digits = digits.map(|d| format!(" {d}")).unwrap_or_default();
    let suffix = format!(" (conflict {side} {}{digits})", date(time));
    let room = NAME_MAX - suffix.len() - extension.len();
    let mut cut = base.len().min(room);
    // Never in the middle of a UTF-8 sequence.
    while cut > 0 && cut < base.len() && base[cut] & 0xc0 == 0x80 {
        cut -= 1;
    }
    let out = [&base[..cut], suffix.as_bytes(), extension].concat();
    Name::new(&out).unwrap_or_else(|_| name.clone())
}

/// The name that a copy gets if its own is taken: with four digits that depend on the path of the conflict and on how often
/// that happened.
pub fn next_name(name: &Name, path: &RelPath, attempt: u32) -> Name {
    let mut hasher = blake3::Hasher::new();
    hasher.update(path.as_bytes()).update(&attempt.to_le_bytes());
    with_digits(name, &hasher.finalize().to_hex()[..4])
}

/// Puts digits before the closing bracket of a conflict copy's name.
fn with_digits(name: &Name, digits: &str) -> Name {
    let bytes = name.as_bytes();
    let at = bytes.iter().rposition(|b| *b == b')').unwrap_or(bytes.len());
    let longer = [&bytes[..at], b" ", digits.as_bytes(), &bytes[at..]].concat();
    Name::new(&longer).unwrap_or_else(|_| {
        // No room: the digits take the place of the name's beginning.
        let cut = [digits.as_bytes(), &bytes[(digits.len()).min(bytes.len() - 1)..]].concat();
        Name::new(&cut).unwrap_or_else(|_| name.clone())
    })
}

/// Whether a name looks like a conflict copy's.
pub fn is_copy_name(name: &Name) -> bool {
    let bytes = name.as_bytes();
    bytes.windows(11).any(|w| w == b" (conflict ") && bytes.contains(&b')')
}

fn without_suffix(base: &[u8]) -> &[u8] {
    let Some(at) = base.windows(11).rposition(|w| w == b" (conflict ") else { return base };
    let dated = base.ends_with(b")") && base.len() - at <= 11 + 48;
    if dated && at > 0 { &base[..at] } else { base }
}

/// `YYYY-MM-DD HH.MM.SS` in UTC, by the proleptic Gregorian calendar.
pub fn date(time: i64) -> String {
    let (days, seconds) = (time.div_euclid(86_400), time.rem_euclid(86_400));
    // Days since 0000-03-01, so that the leap day is the last of its year.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}.{minute:02}.{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(name: &str) -> String {
        let name = copy_name(&Name::new(name.as_bytes()).unwrap(), "left", 1_700_000_000, None);
        String::from_utf8_lossy(name.as_bytes()).into_owned()
    }

    #[test]
    fn names() {
        for (name, expected) in [
            ("a.txt", "a (conflict left 2023-11-14 22.13.20).txt"),
            ("a", "a (conflict left 2023-11-14 22.13.20)"),
            (".profile", ".profile (conflict left 2023-11-14 22.13.20)"),
            ("a.tar.gz", "a.tar (conflict left 2023-11-14 22.13.20).gz"),
            ("a (conflict right 2020-01-01 00.00.00).txt", "a (conflict left 2023-11-14 22.13.20).txt"),
            ("a (conflict right 2020-01-01 00.00.00)", "a (conflict left 2023-11-14 22.13.20)"),
            (".a (conflict right 2020-01-01 00.00.00 b4e9)", ".a (conflict left 2023-11-14 22.13.20)"),
        ] {
            assert_eq!(copy(name), expected);
        }
        assert_eq!(copy(&"x".repeat(255)).len(), 255);
        assert!(copy(&"ä".repeat(127)).len() <= 255);
        assert!(!copy(&"ä".repeat(127)).contains('\u{fffd}'));
    }

    /// What a conflict about a copy leaves is told by its real name, so that is known before.
    #[test]
    fn a_taken_name_gets_digits() {
        let path = RelPath::new(b"d/a (conflict left 2023-11-14 22.13.20).txt").expect("a path");
        let name = path.name().expect("a name");
        let own = copy_name(&name, "left", 1_700_000_000, None);
        assert_eq!(own, name, "of the same side and second");
        let next = next_name(&own, &path, 1);
        let text = String::from_utf8_lossy(next.as_bytes()).into_owned();
        assert!(text.starts_with("a (conflict left 2023-11-14 22.13.20 ") && text.ends_with(").txt"), "{text}");
        assert_eq!(next, next_name(&own, &path, 1));
        assert_ne!(next, next_name(&own, &path, 2));
    }

    #[test]
    fn dates() {
        for (time, expected) in [
            (0, "1970-01-01 00.00.00"),
            (-1, "1969-12-31 23.59.59"),
            (951_782_400, "2000-02-29 00.00.00"),
            (4_102_444_799, "2099-12-31 23.59.59"),
        ] {
            assert_eq!(date(time), expected);
        }
    }
}
