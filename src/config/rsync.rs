//! What the options in `rsync_extra` mean to psync's own transfer, and which are never allowed.

use super::{Compress, Invalid, Settings};

/// The options that psync has itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Extra {
    /// `-z`, `--compress-choice=`, `--no-compress`
    pub compress: Option<Compress>,
    /// `--bwlimit=`, in bytes per second; 0: none.
    pub bandwidth_limit: Option<u64>,
    /// `-W`: no delta.
    pub whole_file: bool,
    /// The first option that only rsync has.
    pub lacking: Option<String>,
}

/// Options of rsync that name paths or commands, delete, or choose what is sent.
const FORBIDDEN: &[&str] = &[
    "-b",
    "-e",
    "-f",
    "-F",
    "-T",
    "-y",
    "-M",
    "-n",
    "-0",
    "--backup",
    "--backup-dir",
    "--compare-dest",
    "--config",
    "--copy-as",
    "--copy-dest",
    "--daemon",
    "--del",
    "--delay-updates",
    "--delete",
    "--delete-after",
    "--delete-before",
    "--delete-delay",
    "--delete-during",
    "--delete-excluded",
    "--delete-missing-args",
    "--dry-run",
    "--early-input",
    "--exclude-from",
    "--existing",
    "--files-from",
    "--filter",
    "--force",
    "--from0",
    "--fuzzy",
    "--ignore-existing",
    "--include-from",
    "--inplace",
    "--link-dest",
    "--list-only",
    "--log-file",
    "--max-delete",
    "--only-write-batch",
    "--outbuf",
    "--partial-dir",
    "--password-file",
    "--read-batch",
    "--remote-option",
    "--remove-sent-files",
    "--remove-source-files",
    "--rsh",
    "--rsync-path",
    "--sender",
    "--server",
    "--suffix",
    "--temp-dir",
    "--write-batch",
    "--append",
    "--append-verify",
    "--write-devices",
    "--copy-devices",
    "--relative",
    "-R",
    "--ignore-missing-args",
    "--stop-at",
    "--stop-after",
    "--time-limit",
    "--sockopts",
    "--address",
    "--port",
];

impl Settings {
    /// What `rsync_extra` means, once it was checked.
    pub fn extra(&self) -> Extra {
        Extra::of(self).unwrap_or_default()
    }
}

impl Extra {
    /// Reads `rsync_extra`. Refused is what names paths or commands, deletes, or chooses what is sent.
    pub fn of(settings: &Settings) -> Result<Extra, Invalid> {
        let mut extra = Extra::default();
        let mut words = settings.rsync_extra.iter().map(|word| word.trim());
        while let Some(word) = words.next() {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) if word.starts_with("--") => (name, Some(value)),
                _ => (word, None),
            };
            let forbidden =
                FORBIDDEN.contains(&name) || word.starts_with("-") && !word.starts_with("--") && forbidden_letter(word);
            if forbidden || !word.starts_with('-') {
                return Err(Invalid::new("rsync_extra", refusal(word)));
            }
            match name {
                "-z" | "--compress" => extra.compress = Some(Compress::Zstd),
                "--no-compress" | "--no-z" => extra.compress = Some(Compress::None),
                "--compress-choice" | "--zc" => extra.compress = Some(choice(value.or_else(|| words.next()), word)?),
                "--bwlimit" => {
                    let value = value.or_else(|| words.next()).unwrap_or_default();
                    let rate = rate(value).ok_or_else(|| {
                        Invalid::new("rsync_extra", format!("--bwlimit: `{value}` is no rate, e.g. 500 (KiB/s) or 5m"))
                    })?;
                    extra.bandwidth_limit = Some(rate);
                }
                "--no-bwlimit" => extra.bandwidth_limit = Some(0),
                "-W" | "--whole-file" => extra.whole_file = true,
                "--no-whole-file" | "--no-W" => extra.whole_file = false,
                _ => extra.lacking = extra.lacking.or_else(|| Some(word.to_owned())),
            }
        }
        Ok(extra)
    }
}

/// Letters may stand together behind one dash.
fn forbidden_letter(word: &str) -> bool {
    word[1..].chars().any(|letter| FORBIDDEN.iter().any(|option| option.strip_prefix('-') == Some(&letter.to_string())))
}

fn refusal(word: &str) -> String {
    match word.starts_with('-') {
        true => format!(
            "`{word}` is not allowed: what names paths or commands, deletes, or chooses files is psync's to decide"
        ),
        false => format!("`{word}` is no option: values are written as --OPTION=VALUE"),
    }
}

fn choice(value: Option<&str>, word: &str) -> Result<Compress, Invalid> {
    match value {
        Some("zstd") => Ok(Compress::Zstd),
        Some("auto") => Ok(Compress::Auto),
        Some("none") => Ok(Compress::None),
        other => {
            let other = other.unwrap_or_default();
            Err(Invalid::new("rsync_extra", format!("{word}: `{other}` is none of auto, none, zstd")))
        }
    }
}

/// A rate as rsync reads it: KiB per second, or with K, M, G, T (of 1024), KB, MB (of 1000) and B behind it.
fn rate(text: &str) -> Option<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: f64 = number.parse().ok()?;
    let unit = unit.to_ascii_lowercase();
    let (letter, rest) = unit.split_at(unit.len().min(1));
    let power = match letter {
        "b" => 0,
        "" | "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        _ => return None,
    };
    let base: u64 = match rest {
        "" | "ib" => 1024,
        "b" if power > 0 => 1000,
        _ => return None,
    };
    let bytes = number * base.pow(power) as f64;
    (bytes.is_finite() && bytes < 1e18).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str]) -> Result<Extra, String> {
        let rsync_extra = words.iter().map(|word| (*word).to_owned()).collect();
        Extra::of(&Settings { rsync_extra, ..Settings::default() }).map_err(|error| error.to_string())
    }

    #[test]
    fn what_psync_has_itself_is_understood() {
        let zstd = Some(Compress::Zstd);
        for (words, want) in [
            (&[][..], Extra::default()),
            (&["-z"], Extra { compress: zstd, ..Extra::default() }),
            (&["-z", "--no-compress"], Extra { compress: Some(Compress::None), ..Extra::default() }),
            (&["--zc=zstd"], Extra { compress: zstd, ..Extra::default() }),
            (&["--compress-choice", "auto"], Extra { compress: Some(Compress::Auto), ..Extra::default() }),
            (&["--bwlimit=5m"], Extra { bandwidth_limit: Some(5 << 20), ..Extra::default() }),
            (&["--bwlimit", "100"], Extra { bandwidth_limit: Some(102_400), ..Extra::default() }),
            (&["--bwlimit=1.5MB"], Extra { bandwidth_limit: Some(1_500_000), ..Extra::default() }),
            (&["--bwlimit=7b"], Extra { bandwidth_limit: Some(7), ..Extra::default() }),
            (&["--bwlimit=0"], Extra { bandwidth_limit: Some(0), ..Extra::default() }),
            (&["-W"], Extra { whole_file: true, ..Extra::default() }),
        ] {
            assert_eq!(read(words), Ok(want), "{words:?}");
        }
    }

    #[test]
    fn paths_commands_and_deletion_are_refused() {
        for word in FORBIDDEN {
            let said = read(&[word]).expect_err(word);
            assert!(said.starts_with(&format!("rsync_extra: `{word}` is not allowed: ")), "{said}");
        }
        for word in ["--delete=x", "--rsh=sh", "-zb", "-e sh", "--temp-dir=/tmp", "-T/tmp"] {
            assert!(read(&[word]).expect_err(word).contains("is not allowed"), "{word}");
        }
        for (word, want) in [
            ("sh", "rsync_extra: `sh` is no option: values are written as --OPTION=VALUE"),
            ("--bwlimit=much", "rsync_extra: --bwlimit: `much` is no rate, e.g. 500 (KiB/s) or 5m"),
            ("--zc=lz4", "rsync_extra: --zc=lz4: `lz4` is none of auto, none, zstd"),
        ] {
            assert_eq!(read(&[word]), Err(want.to_owned()));
        }
        assert_eq!(read(&["-z", "-L", "-H"]).map(|extra| extra.lacking), Ok(Some("-L".to_owned())));
    }
}
