//! What the options in `rsync_extra` mean: to psync's own transfer, to rsync, and which are never allowed.

mod words;

use serde::Serialize;

use super::{Compress, Invalid, Links, Origins, Owner, Settings, Transfer, Transport};
use words::{DECIDED, DONE_ANYWAY, FORBIDDEN, ONLY_RSYNC};

/// The options, sorted by who has them.
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
    /// What rsync is given, if contents go through it.
    pub words: Vec<String>,
}

impl Transport {
    /// What `rsync_extra` means, once it was checked.
    pub fn extra(&self) -> Extra {
        Extra::of(self).unwrap_or_default()
    }

    /// Whether contents go through rsync.
    pub fn uses_rsync(&self) -> bool {
        match self.transfer {
            Transfer::Auto => self.extra().lacking.is_some(),
            Transfer::Rsync => true,
            Transfer::Stream => false,
        }
    }

    /// What a side packs; `rsync_extra` wins.
    pub fn packs(&self) -> Compress {
        self.extra().compress.unwrap_or(self.compress)
    }

    /// Bytes per second that a side sends at most; 0: as many as the line takes. `rsync_extra` wins.
    pub fn rate(&self) -> u64 {
        self.extra().bandwidth_limit.unwrap_or(self.bandwidth_limit)
    }

    /// Whether the way that contents are to take has what the options want.
    pub(super) fn check(&self) -> Result<(), Invalid> {
        match Extra::of(self)?.lacking {
            Some(option) if self.transfer == Transfer::Stream => {
                let why = format!("only rsync has `{option}`, and transfer = \"stream\" never uses it");
                Err(Invalid::new("rsync_extra", why))
            }
            _ => Ok(()),
        }
    }
}

impl Settings {
    /// Makes what `rsync_extra` says of links and owners the settings `links` and `owner`. Refused if these were said
    /// to be something else. To be called once, when all has been said.
    pub fn settle(&mut self, origins: &mut Origins) -> Result<(), Invalid> {
        let extra = Extra::of(&self.shared.transport)?;
        if let Some((links, option)) = extra.links {
            settle("links", &mut self.shared.filters.links, links, &option, origins)?;
        }
        if let Some((owner, option)) = extra.owner {
            settle("owner", &mut self.shared.attributes.owner, owner, &option, origins)?;
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
    /// Reads `rsync_extra`. Refused is what names paths or commands, deletes, or is decided by psync's own rules, and what
    /// is not known: rsync's partner on the other side would refuse it for each file.
    pub fn of(transport: &Transport) -> Result<Extra, Invalid> {
        let invalid = |message| Invalid::new("rsync_extra", message);
        let mut extra = Extra::default();
        let mut kinds = Kinds::default();
        let mut words = transport.rsync_extra.iter().map(|word| word.trim());
        while let Some(word) = words.next() {
            for option in words::apart(word) {
                refuse(&option, word).map_err(invalid)?;
                if !kinds.take(&option) && !extra.take(&option, &mut words).map_err(invalid)? {
                    extra.take_for_rsync(&option, &mut words).map_err(invalid)?;
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
            "--compress-choice" | "--zc" => {
                let value = value.or_else(|| words.next()).unwrap_or_default();
                match choice(value, option)? {
                    Some(choice) => self.compress = Some(choice),
                    None => self.lack(option),
                }
                self.words.push(format!("{name}={value}"));
                return Ok(true);
            }
            // It holds for the line, and so for what rsync sends over it.
            "--bwlimit" => {
                let value = value.or_else(|| words.next()).unwrap_or_default();
                let wrong = || format!("--bwlimit: `{value}` is no rate, e.g. 500 (KiB/s) or 5m");
                self.bandwidth_limit = Some(rate(value).ok_or_else(wrong)?);
                return Ok(true);
            }
            "--no-bwlimit" => {
                self.bandwidth_limit = Some(0);
                return Ok(true);
            }
            "-W" | "--whole-file" => self.whole_file = true,
            "--no-whole-file" | "--no-W" => self.whole_file = false,
            // psync keeps holes anyway; rsync makes some where zeros are.
            "-S" | "--sparse" => {}
            _ => {
                let known = if value.is_some() { format!("{name}=") } else { name.to_owned() };
                return Ok(DONE_ANYWAY.contains(&known.as_str()));
            }
        }
        self.words.push(name.to_owned());
        Ok(true)
    }

    /// Takes an option of how contents travel that only rsync has.
    fn take_for_rsync<'a>(&mut self, option: &str, words: &mut impl Iterator<Item = &'a str>) -> Result<(), String> {
        let (name, value) = match option.strip_prefix("-B") {
            Some(size) => ("-B", Some(size).filter(|size| !size.is_empty())),
            None => parts(option),
        };
        let Some((_, has_value)) = ONLY_RSYNC.iter().find(|(known, _)| *known == name) else {
            return Err(format!("`{option}` is not allowed: nothing is known here of what it does to contents"));
        };
        self.lack(option);
        if !has_value {
            self.words.push(name.to_owned());
            return Ok(());
        }
        let value = value.or_else(|| words.next()).unwrap_or_default();
        if value.is_empty() || !value.bytes().all(is_plain) {
            return Err(format!("{name}: `{value}` is no value for it"));
        }
        self.words.push(if name == "-B" { format!("-B{value}") } else { format!("{name}={value}") });
        Ok(())
    }

    fn lack(&mut self, option: &str) {
        self.lacking.get_or_insert_with(|| option.to_owned());
    }
}

/// What the values of such options are made of.
pub fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b".,:/+-_".contains(&byte)
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

/// `None`: only rsync has it.
fn choice(value: &str, word: &str) -> Result<Option<Compress>, String> {
    match value {
        "zstd" => Ok(Some(Compress::Zstd)),
        "auto" => Ok(Some(Compress::Auto)),
        "none" => Ok(Some(Compress::None)),
        "lz4" | "zlib" | "zlibx" => Ok(None),
        other => Err(format!("{word}: `{other}` is none of auto, none, zstd, lz4, zlib, zlibx")),
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
        Extra::of(&Transport { rsync_extra, ..Transport::default() }).map_err(|error| error.to_string())
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
            let got = read(words).map(|extra| Extra { words: vec![], ..extra });
            assert_eq!(got, Ok(want), "{words:?}");
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
            ("--zc=lzma", "rsync_extra: --zc=lzma: `lzma` is none of auto, none, zstd, lz4, zlib, zlibx"),
            ("--timeout=1 2", "rsync_extra: --timeout: `1 2` is no value for it"),
            ("-B", "rsync_extra: -B: `` is no value for it"),
            ("-z4", "rsync_extra: `-4` is not allowed: nothing is known here of what it does to contents"),
            ("--stats=2", "rsync_extra: `--stats=2` is not allowed: nothing is known here of what it does to contents"),
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
            let got = read(&[&word]).map(|extra| Extra { words: vec![], ..extra });
            assert_eq!(got, Ok(Extra::default()), "{word}");
        }
        assert_eq!(read(&["-rlptgoXAvqh", "--stats", "--progress", "--partial"]), Ok(Extra::default()));
    }

    #[test]
    fn what_only_rsync_has_goes_to_rsync() {
        for (words, lacking, given) in [
            (&["-z", "--bwlimit=5m", "-av"][..], None, "-z"),
            (&["-aS"], None, "-S"),
            (&["-z", "--fsync", "--cc=md5"], Some("--fsync"), "-z --fsync --cc=md5"),
            (&["-aB4096", "-B", "512"], Some("-B4096"), "-B4096 -B512"),
            (&["--checksum-choice", "xxh64", "-W"], Some("--checksum-choice"), "--checksum-choice=xxh64 -W"),
            (&["--zc=lz4"], Some("--zc=lz4"), "--zc=lz4"),
            (&["--zc", "zstd", "--stats"], None, "--zc=zstd"),
        ] {
            let extra = read(words).expect("allowed");
            assert_eq!((extra.lacking.as_deref(), extra.words.join(" ").as_str()), (lacking, given), "{words:?}");
        }
    }

    #[test]
    fn when_contents_go_through_rsync() {
        for (transfer, words, want) in [
            (Transfer::Auto, &["-z"][..], Ok(false)),
            (Transfer::Auto, &["-avS"], Ok(false)),
            (Transfer::Auto, &["--fsync"], Ok(true)),
            (Transfer::Rsync, &[], Ok(true)),
            (Transfer::Stream, &["-z"], Ok(false)),
            (
                Transfer::Stream,
                &["--fsync"],
                Err("rsync_extra: only rsync has `--fsync`, and transfer = \"stream\" never uses it"),
            ),
        ] {
            let rsync_extra = words.iter().map(|word| (*word).to_owned()).collect();
            let transport = Transport { transfer, rsync_extra, ..Transport::default() };
            let checked = transport.check().map(|()| transport.uses_rsync()).map_err(|e| e.to_string());
            assert_eq!(checked, want.map_err(str::to_owned), "{transfer:?} {words:?}");
        }
    }

    /// `links` and `owner` of a file with these lines and `rsync_extra`.
    fn settled(lines: &str, words: &[&str]) -> Result<(Links, Owner), String> {
        let text = format!("{lines}rsync_extra = {words:?}\n");
        let (mut settings, mut origins) =
            crate::config::parse(std::path::Path::new("p.toml"), &text).map_err(|e| e.to_string())?;
        settings.settle(&mut origins).map_err(|e| origins.explain(&e))?;
        let shared = &settings.shared;
        let said =
            [("links", shared.filters.links != Links::Preserve), ("owner", shared.attributes.owner != Owner::Names)];
        for (key, set) in said {
            assert_eq!(origins.of(key).is_some(), set || lines.contains(key), "who said {key}: {words:?}");
        }
        Ok((settings.shared.filters.links, settings.shared.attributes.owner))
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
