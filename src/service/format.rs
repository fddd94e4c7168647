//! A record as one line of text: `2025-01-31T23:59:59.123Z INFO message key=value`.

use std::fmt::{self, Write as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::model::words;
use slog::{KV, Key, OwnedKVList, Record};

/// One record, with its newline. The keys of the journal appear in short: `PSYNC_PATH` as `path`.
pub fn line(now: SystemTime, record: &Record, values: &OwnedKVList) -> String {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let mut out = format!("{} {:<5} ", timestamp(since), level_word(record.level()));
    escape(&mut out, &record.msg().to_string());
    let mut pairs = Pairs(Vec::new());
    // What a value cannot say is left out; a log must go on.
    let _ = record.kv().serialize(record, &mut pairs);
    pairs.0.reverse();
    let own = pairs.0.len();
    let _ = values.serialize(record, &mut pairs);
    pairs.0[own..].reverse();
    for (key, value) in pairs.0.into_iter().filter(|(key, _)| key != super::log::MESSAGE_ID) {
        let _ = write!(out, " {}=", key.strip_prefix("PSYNC_").unwrap_or(&key).to_lowercase());
        if value.is_empty() || value.contains([' ', '"', '=']) {
            out.push('"');
            escape(&mut out, &value.replace('"', "\\\""));
            out.push('"');
        } else {
            escape(&mut out, &value);
        }
    }
    out.push('\n');
    out
}

fn level_word(level: slog::Level) -> &'static str {
    match level {
        slog::Level::Critical => "CRIT",
        slog::Level::Error => "ERROR",
        slog::Level::Warning => "WARN",
        slog::Level::Info => "INFO",
        slog::Level::Debug => "DEBUG",
        slog::Level::Trace => "TRACE",
    }
}

/// Nothing in a line may move the cursor, break the line or turn the direction of the text.
pub fn escape(out: &mut String, text: &str) {
    for c in text.chars() {
        words::push(out, c);
    }
}

/// RFC 3339 in UTC, to the millisecond, of a time since 1970.
pub fn timestamp(since: Duration) -> String {
    let seconds = since.as_secs();
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", since.subsec_millis())
}

/// `2025-01-31 23:59:59Z`, of seconds since 1970.
pub fn utc(seconds: u64) -> String {
    let text = timestamp(Duration::from_secs(seconds));
    format!("{} {}Z", &text[..10], &text[11..19])
}

/// Year, month and day of a number of days since 1970. Years are counted from March, so that the leap day is last.
fn civil(days: u64) -> (u64, u64, u64) {
    const ERA: u64 = 146_097; // days in 400 years
    let days = days + 719_468; // since 1 March of the year 0
    let (era, day) = (days / ERA, days % ERA);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day_of_month = day - (153 * month + 2) / 5 + 1;
    let (month, wrap) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + wrap, month, day_of_month)
}

struct Pairs(Vec<(String, String)>);

impl slog::Serializer for Pairs {
    fn emit_arguments(&mut self, key: Key, value: &fmt::Arguments) -> slog::Result {
        self.0.push((key.to_string(), value.to_string()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps() {
        for (millis, want) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_164_800_001, "2024-02-29T00:00:00.001Z"),
            (1_735_689_599_000, "2024-12-31T23:59:59.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(timestamp(Duration::from_millis(millis)), want);
        }
    }

    #[test]
    fn seconds_for_people() {
        assert_eq!(utc(951_782_400), "2000-02-29 00:00:00Z");
    }

    #[test]
    fn nothing_escapes_the_line() {
        let mut out = String::new();
        escape(&mut out, "a\nb\x1b[2J\u{202e}é\u{9b}");
        assert_eq!(out, "a\\x0ab\\x1b[2J\\u{202e}é\\x9b");
    }
}
