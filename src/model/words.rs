//! Words of the other side that people will read: bounded, and without what would steer a terminal or forge a line.

use serde::{Deserialize, Deserializer};

/// The longest text of the other side that is shown, in bytes.
pub const TEXT_MAX: usize = 1024;
/// The most kinds of attributes that a side can miss; it has about a dozen.
const KINDS_MAX: usize = 64;

/// The text without control characters and marks of direction, cut where it is too long. What paths escaped already
/// stays as it is.
pub fn shown(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(TEXT_MAX));
    for c in text.chars() {
        let before = out.len();
        push(&mut out, c);
        if out.len() > TEXT_MAX {
            out.truncate(before);
            out.push('…');
            break;
        }
    }
    out
}

/// Adds a character of a stranger's text: control characters as `\xNN`, marks of direction as `\u{NNNN}`.
pub fn push(out: &mut String, c: char) {
    match c {
        c if c.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
        c if steers(c) => out.extend(c.escape_unicode()),
        c => out.push(c),
    }
}

/// Marks that turn the direction of what follows, or end a line.
fn steers(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{61c}' | '\u{feff}')
}

/// Decodes such a text.
pub fn text<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    Ok(shown(&String::deserialize(from)?))
}

/// Decodes counts by their kinds.
pub fn counts<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<(String, u64)>, D::Error> {
    let counts = Vec::<(String, u64)>::deserialize(from)?;
    Ok(counts.into_iter().take(KINDS_MAX).map(|(what, count)| (shown(&what), count)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_steers_a_terminal_or_forges_a_line() {
        for (said, want) in [
            ("disk full: a\\x1bb é", "disk full: a\\x1bb é"),
            ("\x1b[2Jred\x07", "\\x1b[2Jred\\x07"),
            ("a\nSubject: b\r", "a\\x0aSubject: b\\x0d"),
            ("\u{9b}1m \u{202e}cod.exe \u{2028}", "\\x9b1m \\u{202e}cod.exe \\u{2028}"),
        ] {
            assert_eq!(shown(said), want);
            let wire = postcard::to_stdvec(said).expect("encoded");
            let mut from = postcard::Deserializer::from_bytes(&wire);
            assert_eq!(text(&mut from).expect("decoded"), want);
        }
        let long = shown(&"é\x1b".repeat(10_000));
        assert!(long.len() <= TEXT_MAX + '…'.len_utf8() && long.ends_with('…'), "{}", long.len());
        // What was shown once is shown as it is, wherever it was cut.
        for before in TEXT_MAX - 12..=TEXT_MAX {
            for c in ['\x1b', '\u{202e}', 'é', 'x'] {
                let once = shown(&format!("{}{c}{c}{c}", "x".repeat(before)));
                assert_eq!(shown(&once), once);
            }
        }
        let many: Vec<(String, u64)> = (0..1000).map(|n| (format!("\x1b{n}"), n)).collect();
        let wire = postcard::to_stdvec(&many).expect("encoded");
        let kept = counts(&mut postcard::Deserializer::from_bytes(&wire)).expect("decoded");
        assert!(kept.len() == KINDS_MAX && kept[3].0 == "\\x1b3", "{kept:?}");
    }
}
