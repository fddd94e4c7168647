//! The types of the keys that are more than a number, a flag or a text.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A key that takes one of a few words.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "lowercase")]
        pub enum $name { $($(#[$vdoc])* $variant,)* }
    };
}

words! {
    /// Which side's contents keep the name when both changed one file.
    ConflictRule {
        /// The one with the newer mtime.
        Newest,
        Left,
        Right,
    }
}
words! {
    /// Where the loser of a conflict is kept.
    ConflictCopies {
        /// Beside the winner, on both sides.
        Visible,
        Trash,
    }
}
words! {
    /// How owners and groups travel.
    Owner {
        Names,
        Numeric,
        Ignore,
    }
}
words! {
    /// Whether an action is on disk before it counts as done.
    Durability {
        Full,
        None,
    }
}
words! {
    /// What to do with a file that somebody has open for writing.
    OpenFiles {
        /// Wait for its close, at most `open_wait`.
        Wait,
        Send,
    }
}
words! {
    /// What moves contents.
    Transfer {
        Auto,
        Stream,
        Rsync,
    }
}
words! {
    /// Whether contents are compressed on the link.
    Compress {
        /// When the line is slow enough for it to pay.
        Auto,
        Zstd,
        None,
    }
}

/// A bound on something: a part of the whole, or a number. Written `"10%"`, `"5G"` or `5000`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Share {
    /// 0..=100
    Percent(u8),
    /// Bytes or entries, as the key says.
    Amount(u64),
}

impl std::str::FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Share, String> {
        let bad = || format!("`{text}` is neither a percentage such as \"10%\" nor a number such as 5000 or \"5G\"");
        if let Some(percent) = text.strip_suffix('%') {
            let percent: u8 = percent.trim().parse().map_err(|_| bad())?;
            return if percent <= 100 { Ok(Share::Percent(percent)) } else { Err(format!("{percent}% is over 100%")) };
        }
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let shift = match &text[digits.len()..] {
            "" => 0,
            "K" | "k" => 10,
            "M" => 20,
            "G" => 30,
            "T" => 40,
            _ => return Err(bad()),
        };
        let number: u64 = digits.parse().map_err(|_| bad())?;
        number.checked_mul(1 << shift).map(Share::Amount).ok_or_else(bad)
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Share::Percent(p) => write!(f, "{p}%"),
            Share::Amount(n) => write!(f, "{n}"),
        }
    }
}

/// When a full sync or a check is due.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Calendar {
    /// An hour of the day. One that no day has (the original's 99) is never due.
    Hour(u32),
    /// A calendar expression of systemd.
    Expression(String),
}

/// Seconds with a fraction in the file, a `Duration` in the settings.
pub(super) mod seconds {
    use super::*;

    pub fn serialize<S: Serializer>(value: &Duration, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_f64(value.as_secs_f64())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        d.deserialize_any(SecondsVisitor)
    }

    /// The longest that counts as a number of seconds: some thirty years.
    const MOST: f64 = 1e9;

    pub fn from_f64(value: f64) -> Option<Duration> {
        (0.0..=MOST).contains(&value).then(|| Duration::from_secs_f64(value))
    }

    struct SecondsVisitor;

    impl de::Visitor<'_> for SecondsVisitor {
        type Value = Duration;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("a number of seconds, 0 or more")
        }

        fn visit_f64<E: de::Error>(self, v: f64) -> Result<Duration, E> {
            from_f64(v).ok_or_else(|| E::invalid_value(de::Unexpected::Float(v), &self))
        }

        fn visit_i64<E: de::Error>(self, v: i64) -> Result<Duration, E> {
            from_f64(v as f64).ok_or_else(|| E::invalid_value(de::Unexpected::Signed(v), &self))
        }

        fn visit_u64<E: de::Error>(self, v: u64) -> Result<Duration, E> {
            from_f64(v as f64).ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(v), &self))
        }
    }
}

/// A time as people write it: `"5m"`, or a number of seconds.
pub(super) mod span {
    use super::*;

    /// By letter, in seconds.
    const UNITS: [(char, f64); 4] = [('s', 1.0), ('m', 60.0), ('h', 3600.0), ('d', 86_400.0)];

    pub fn serialize<S: Serializer>(value: &Duration, s: S) -> Result<S::Ok, S::Error> {
        let seconds = value.as_secs_f64();
        let fits = |unit: &&(char, f64)| seconds > 0.0 && seconds % unit.1 == 0.0;
        match UNITS.iter().rev().find(fits) {
            Some((letter, unit)) => s.collect_str(&format_args!("{}{letter}", seconds / unit)),
            None => s.collect_str(&format_args!("{seconds}s")),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        d.deserialize_any(SpanVisitor)
    }

    struct SpanVisitor;

    impl de::Visitor<'_> for SpanVisitor {
        type Value = Duration;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("a time such as \"5m\" (s, m, h or d), or a number of seconds")
        }

        fn visit_f64<E: de::Error>(self, v: f64) -> Result<Duration, E> {
            seconds::from_f64(v).ok_or_else(|| E::invalid_value(de::Unexpected::Float(v), &self))
        }

        fn visit_i64<E: de::Error>(self, v: i64) -> Result<Duration, E> {
            seconds::from_f64(v as f64).ok_or_else(|| E::invalid_value(de::Unexpected::Signed(v), &self))
        }

        fn visit_u64<E: de::Error>(self, v: u64) -> Result<Duration, E> {
            seconds::from_f64(v as f64).ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(v), &self))
        }

        fn visit_str<E: de::Error>(self, v: &str) -> Result<Duration, E> {
            let unit = UNITS.iter().find_map(|(letter, unit)| Some((v.strip_suffix(*letter)?, unit)));
            let (number, unit) = unit.unwrap_or((v, &1.0));
            let plain = number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
            let seconds = number.parse::<f64>().ok().filter(|_| plain).and_then(|n| seconds::from_f64(n * unit));
            seconds.ok_or_else(|| E::invalid_value(de::Unexpected::Str(v), &self))
        }
    }
}

/// The same for a key that may be absent.
pub(super) mod optional_seconds {
    use super::*;

    pub fn serialize<S: Serializer>(value: &Option<Duration>, s: S) -> Result<S::Ok, S::Error> {
        value.map(|v| v.as_secs_f64()).serialize(s)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
        seconds::deserialize(d).map(Some)
    }
}

/// A [`Share`] as people write it.
pub(super) mod share {
    use super::*;

    pub fn serialize<S: Serializer>(value: &Share, s: S) -> Result<S::Ok, S::Error> {
        match value {
            Share::Amount(n) => s.serialize_u64(*n),
            Share::Percent(_) => s.collect_str(value),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Share, D::Error> {
        d.deserialize_any(ShareVisitor)
    }

    struct ShareVisitor;

    impl de::Visitor<'_> for ShareVisitor {
        type Value = Share;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("a percentage such as \"10%\" or a number")
        }

        fn visit_i64<E: de::Error>(self, v: i64) -> Result<Share, E> {
            u64::try_from(v).map(Share::Amount).map_err(|_| E::invalid_value(de::Unexpected::Signed(v), &self))
        }

        fn visit_u64<E: de::Error>(self, v: u64) -> Result<Share, E> {
            Ok(Share::Amount(v))
        }

        fn visit_str<E: de::Error>(self, v: &str) -> Result<Share, E> {
            v.parse().map_err(E::custom)
        }
    }
}

/// A number that something may not exceed, as people write it: `"5G"`, `5000` or `"none"`.
pub(super) mod most {
    use super::*;

    const NONE: &str = "none";

    pub fn serialize<S: Serializer>(value: &Option<u64>, s: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(most) => s.serialize_u64(*most),
            None => s.serialize_str(NONE),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u64>, D::Error> {
        d.deserialize_any(MostVisitor)
    }

    struct MostVisitor;

    impl de::Visitor<'_> for MostVisitor {
        type Value = Option<u64>;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("a number of bytes such as 5000 or \"5G\", above 0, or \"none\"")
        }

        fn visit_i64<E: de::Error>(self, v: i64) -> Result<Option<u64>, E> {
            let most = u64::try_from(v).ok().filter(|most| *most > 0);
            most.map(Some).ok_or_else(|| E::invalid_value(de::Unexpected::Signed(v), &self))
        }

        fn visit_u64<E: de::Error>(self, v: u64) -> Result<Option<u64>, E> {
            if v > 0 { Ok(Some(v)) } else { Err(E::invalid_value(de::Unexpected::Unsigned(v), &self)) }
        }

        fn visit_str<E: de::Error>(self, v: &str) -> Result<Option<u64>, E> {
            match v.parse() {
                _ if v == NONE => Ok(None),
                Ok(Share::Amount(most)) if most > 0 => Ok(Some(most)),
                _ => Err(E::invalid_value(de::Unexpected::Str(v), &self)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_not_be_exceeded() {
        #[derive(Deserialize, PartialEq, Debug)]
        struct File {
            #[serde(with = "most")]
            size: Option<u64>,
        }
        for (text, want) in [
            ("\"none\"", Some(None)),
            ("5000", Some(Some(5000))),
            ("\"5G\"", Some(Some(5 << 30))),
            ("\"16T\"", Some(Some(16 << 40))),
            ("0", None),
            ("-1", None),
            ("\"0\"", None),
            ("\"10%\"", None),
            ("\"None\"", None),
            ("\"5X\"", None),
        ] {
            let read = toml::from_str::<File>(&format!("size = {text}"));
            assert_eq!(read.ok().map(|file| file.size), want, "{text}");
        }
    }

    #[test]
    fn spans() {
        #[derive(serde::Deserialize, serde::Serialize)]
        struct Timed(#[serde(with = "super::span")] Duration);
        for (text, seconds, written) in [
            ("\"5m\"", 300.0, "\"5m\""),
            ("300", 300.0, "\"5m\""),
            ("\"90s\"", 90.0, "\"90s\""),
            ("\"1.5h\"", 5400.0, "\"90m\""),
            ("\"2d\"", 172_800.0, "\"2d\""),
            ("0.5", 0.5, "\"0.5s\""),
            ("\"0\"", 0.0, "\"0s\""),
        ] {
            let timed: Timed = serde_json::from_str(text).expect(text);
            assert_eq!(timed.0.as_secs_f64(), seconds, "{text}");
            assert_eq!(serde_json::to_string(&timed).expect("text"), written);
        }
        for text in ["\"5w\"", "\"m\"", "\"-1m\"", "-1", "\"1e3\"", "\"inf\"", "\"nan\"", "\"99999999999d\"", "\"\""] {
            assert!(serde_json::from_str::<Timed>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn shares() {
        for (text, want) in [
            ("10%", Some(Share::Percent(10))),
            ("0%", Some(Share::Percent(0))),
            ("100%", Some(Share::Percent(100))),
            ("5000", Some(Share::Amount(5000))),
            ("5G", Some(Share::Amount(5 << 30))),
            ("1k", Some(Share::Amount(1024))),
            ("101%", None),
            ("-1", None),
            ("%", None),
            ("", None),
            ("5Q", None),
            ("99999999999T", None),
            ("1.5G", None),
        ] {
            assert_eq!(text.parse::<Share>().ok(), want, "{text:?}");
        }
    }
}
