//! What the options in `rsync_extra` mean to psync's own transfer, and which are never allowed.

mod words;

use serde::Serialize;

use super::{Compress, Invalid, Links, Origins, Owner, Settings};
use words::{DECIDED, DONE_ANYWAY, FORBIDDEN};

/// The options that psync has itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Extra {
    /// `-z`, `--compress-choice=`, `--no-compress`
    pub compress: Option<Compress>,
    /// `--bwlimit=`, in bytes per second; 0: none.
    pub bandwidth_limit: Option<u64>,
    /// `-W`: no delta.
    pub whole_file: bool,
    /// `-L`, `--no-links`: what they mean, and the option. In force only by [`Settings::settle`].
    links: Option<(Links, String)>,
    /// `--numeric-ids`, or `--no-owner` with `--no-group`. In force only by [`Settings::settle`].
    owner: Option<(Owner, String)>,
    /// The first option that only rsync has.
    pub lacking: Option<String>,
}

impl Settings {
    /// What `rsync_extra` means, once it was checked.
    pub fn extra(&self) -> Extra {
        Extra::of(self).unwrap_or_default()
    }

    /// Makes what `rsync_extra` says of links and owners the settings `links` and `owner`. Refused if these were said
    /// to be something else. To be called once, when all has been said.
    pub fn settle(&mut self, origins: &mut Origins) -> Result<(), Invalid> {
        let extra = Extra::of(self)?;
        if let Some((links, option)) = extra.links {
            settle("links", &mut self.links, links, &option, origins)?;
        }
        if let Some((owner, option)) = extra.owner {
            settle("owner", &mut self.owner, owner, &option, origins)?;
        }
        Ok(())
    }
}

fn settle<T: PartialEq + Serialize>(
    key: &'static str,
    setting: &mut T,
    meant: T,
    option: &str,
    origins: &mut Origins,
) -> Result<(), Invalid> {
    match origins.of(key) {
        Some(said) if *setting != meant => {
            let word = |value: &T| serde_json::to_string(value).unwrap_or_default();
            let (means, says) = (word(&meant), word(setting));
            return Err(Invalid::new("rsync_extra", format!("`{option}` means {key} = {means}, and {said} = {says}")));
        }
        Some(_) => {}
        None => origins.of("rsync_extra").cloned().into_iter().for_each(|origin| origins.insert(key, origin)),
    }
    *setting = meant;
    Ok(())
}

impl Extra {
    /// Reads `rsync_extra`. Refused is what names paths or commands, deletes, or is decided by psync's own rules.
    pub fn of(settings: &Settings) -> Result<Extra, Invalid> {
        let invalid = |message| Invalid::new("rsync_extra", message);
        let mut extra = Extra::default();
        let mut kinds = Kinds::default();
        let mut words = settings.rsync_extra.iter().map(|word| word.trim());
        while let Some(word) = words.next() {
            for option in words::apart(word) {
                refuse(&option, word).map_err(invalid)?;
                if !kinds.take(&option) && !extra.take(&option, &mut words).map_err(invalid)? {
                    extra.lacking = extra.lacking.or(Some(option));
                }
            }
        }
        extra.links = kinds.links();
        extra.owner = kinds.owner().map_err(invalid)?;
        Ok(extra)
    }

    /// Whether psync has the option itself, or does it anyway. Its value may be the next of the `words`.
    fn take<'a>(&mut self, option: &str, words: &mut impl Iterator<Item = &'a str>) -> Result<bool, String> {
        let (name, value) = parts(option);
        match name {
            "-z" | "--compress" => self.compress = Some(Compress::Zstd),
            "--no-compress" | "--no-z" => self.compress = Some(Compress::None),
            "--compress-choice" | "--zc" => self.compress = Some(choice(value.or_else(|| words.next()), option)?),
            "--bwlimit" => {
                let value = value.or_else(|| words.next()).unwrap_or_default();
                let wrong = || format!("--bwlimit: `{value}` is no rate, e.g. 500 (KiB/s) or 5m");
                self.bandwidth_limit = Some(rate(value).ok_or_else(wrong)?);
            }
            "--no-bwlimit" => self.bandwidth_limit = Some(0),
            "-W" | "--whole-file" => self.whole_file = true,
            "--no-whole-file" | "--no-W" => self.whole_file = false,
            _ => {
                let known = if value.is_some() { format!("{name}=") } else { name.to_owned() };
                return Ok(DONE_ANYWAY.contains(&known.as_str()));
            }
        }
        Ok(true)
    }
}

/// What was said of links and owners: the options that hold in the end, since rsync lets one take another back.
#[derive(Default)]
struct Kinds {
    follow: Option<String>,
    no_links: Option<String>,
    numeric: Option<String>,
    no_owner: Option<String>,
    no_group: Option<String>,
}

impl Kinds {
    /// Whether the option is one of these.
    fn take(&mut self, option: &str) -> bool {
        let said = || Some(option.to_owned());
        match option {
            "-a" | "--archive" => (self.no_links, self.no_owner, self.no_group) = (None, None, None),
            "-l" | "--links" => self.no_links = None,
            "--no-l" | "--no-links" => self.no_links = said(),
            "-L" | "--copy-links" => self.follow = said(),
            "--no-L" | "--no-copy-links" => self.follow = None,
            "-o" | "--owner" => self.no_owner = None,
            "--no-o" | "--no-owner" => self.no_owner = said(),
            "-g" | "--group" => self.no_group = None,
            "--no-g" | "--no-group" => self.no_group = said(),
            "--numeric-ids" => self.numeric = said(),
            "--no-numeric-ids" => self.numeric = None,
            _ => return false,
        }
        true
    }

    fn links(&self) -> Option<(Links, String)> {
        let follow = self.follow.clone().map(|option| (Links::Follow, option));
        follow.or_else(|| self.no_links.clone().map(|option| (Links::Skip, option)))
    }

    fn owner(&self) -> Result<Option<(Owner, String)>, String> {
        match (&self.no_owner, &self.no_group) {
            (Some(owner), Some(group)) => Ok(Some((Owner::Ignore, format!("{owner} {group}")))),
            (Some(alone), None) | (None, Some(alone)) => {
                Err(format!("`{alone}` alone: psync carries owner and group, or neither (--no-owner --no-group)"))
            }
            (None, None) => Ok(self.numeric.clone().map(|option| (Owner::Numeric, option))),
        }
    }
}

/// Name and value.
fn parts(option: &str) -> (&str, Option<&str>) {
    match option.split_once('=') {
        Some((name, value)) if option.starts_with("--") => (name, Some(value)),
        _ => (option, None),
    }
}

/// What is never allowed; `word` is what the user wrote it in.
fn refuse(option: &str, word: &str) -> Result<(), String> {
    let name = parts(option).0;
    if !option.starts_with('-') {
        return Err(format!("`{word}` is no option: values are written as --OPTION=VALUE"));
    }
    if FORBIDDEN.contains(&name) {
        return Err(format!(
            "`{word}` is not allowed: what names paths or commands, deletes, or chooses files is psync's to decide"
        ));
    }
    match DECIDED.iter().find(|(decided, _)| *decided == name) {
        Some((_, rule)) => Err(format!("`{word}` is not allowed: {rule}")),
        None => Ok(()),
    }
}

fn choice(value: Option<&str>, word: &str) -> Result<Compress, String> {
    match value {
        Some("zstd") => Ok(Compress::Zstd),
        Some("auto") => Ok(Compress::Auto),
        Some("none") => Ok(Compress::None),
        other => {
            let other = other.unwrap_or_default();
            Err(format!("{word}: `{other}` is none of auto, none, zstd"))
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
            (&["-aW", "-vz"], Extra { compress: zstd, whole_file: true, ..Extra::default() }),
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
    }

    #[test]
    fn what_psync_decides_is_refused_with_the_rule() {
        for (option, rule) in DECIDED {
            assert_eq!(read(&[option]), Err(format!("rsync_extra: `{option}` is not allowed: {rule}")));
        }
        let said = read(&["-avu"]).expect_err("newer files");
        assert!(said.starts_with("rsync_extra: `-avu` is not allowed: what differs is told by"), "{said}");
        assert!(read(&["--exclude=*.iso"]).expect_err("a pattern").ends_with("patterns go into rsync_excludes"));
    }

    #[test]
    fn what_psync_does_anyway_is_no_matter() {
        let known = ["-a", "-l", "-o", "-g", "--archive", "--links", "--owner", "--group"];
        for option in DONE_ANYWAY.iter().chain(&known) {
            let word = if option.ends_with('=') { format!("{option}x") } else { option.to_string() };
            assert_eq!(read(&[&word]), Ok(Extra::default()), "{word}");
        }
        assert_eq!(read(&["-rlptgoXASvqh", "--stats", "--progress", "--partial"]), Ok(Extra::default()));
        for (words, lacking) in [
            (&["-z", "--fsync", "-4"][..], "--fsync"),
            (&["-aB4096"], "-B4096"),
            (&["--stats=2"], "--stats=2"),
            (&["--info"], "--info"),
        ] {
            assert_eq!(read(words).map(|extra| extra.lacking), Ok(Some(lacking.to_owned())), "{words:?}");
        }
    }

    /// `links` and `owner` of a file with these lines and `rsync_extra`.
    fn settled(lines: &str, words: &[&str]) -> Result<(Links, Owner), String> {
        let text = format!("{lines}rsync_extra = {words:?}\n");
        let (mut settings, mut origins) =
            crate::config::parse(std::path::Path::new("p.toml"), &text).map_err(|e| e.to_string())?;
        settings.settle(&mut origins).map_err(|e| origins.explain(&e))?;
        for (key, set) in [("links", settings.links != Links::Preserve), ("owner", settings.owner != Owner::Names)] {
            assert_eq!(origins.of(key).is_some(), set || lines.contains(key), "who said {key}: {words:?}");
        }
        Ok((settings.links, settings.owner))
    }

    #[test]
    fn links_and_owners_become_settings() {
        use {Links::*, Owner::*};
        for (words, want) in [
            (&["-a"][..], (Preserve, Names)),
            (&["-L"], (Follow, Names)),
            (&["-avL"], (Follow, Names)),
            (&["--copy-links", "--no-copy-links"], (Preserve, Names)),
            (&["--no-links"], (Links::Skip, Names)),
            (&["--no-l", "-L"], (Follow, Names)),
            (&["--no-l", "-a"], (Preserve, Names)),
            (&["--numeric-ids"], (Preserve, Numeric)),
            (&["-a", "--no-owner", "--no-g"], (Preserve, Ignore)),
            (&["--no-owner", "--no-group", "-a"], (Preserve, Names)),
        ] {
            assert_eq!(settled("", words), Ok(want), "{words:?}");
        }
        assert_eq!(
            settled("links = \"follow\"\nowner = \"numeric\"\n", &["-L", "--numeric-ids"]),
            Ok((Follow, Numeric))
        );
        assert_eq!(settled("links = \"follow\"\n", &["-a"]), Ok((Follow, Names)), "-a says nothing new");
        for (lines, words, want) in [
            (
                "links = \"preserve\"\n",
                &["-L"][..],
                "p.toml:2: rsync_extra: `-L` means links = \"follow\", and p.toml:1: links = \"preserve\"",
            ),
            (
                "owner = \"names\"\n",
                &["--no-o", "--no-g"],
                "p.toml:2: rsync_extra: `--no-o --no-g` means owner = \"ignore\", and p.toml:1: owner = \"names\"",
            ),
            (
                "",
                &["--no-group"],
                "p.toml:1: rsync_extra: `--no-group` alone: psync carries owner and group, or neither (--no-owner --no-group)",
            ),
        ] {
            assert_eq!(settled(lines, words), Err(want.to_owned()));
        }
    }
}
