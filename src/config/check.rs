//! What settings must hold beyond their types.

use std::path::Path;

use super::{Filters, Links, Looks, Owner, Settings};

/// A setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {message}")]
pub struct Invalid {
    /// As in the file, dotted below a table.
    pub key: &'static str,
    pub message: String,
}

impl Invalid {
    pub fn new(key: &'static str, message: impl Into<String>) -> Invalid {
        Invalid { key, message: message.into() }
    }
}

impl Settings {
    /// Whether the settings can be used at all. The first that cannot is the error. Looks at no file.
    pub fn check(&self) -> Result<(), Invalid> {
        check_root("left.root", &self.left.root)?;
        check_root("right.root", &self.right.root)?;
        let shared = &self.shared;
        check_filters(&shared.filters)?;
        check_patterns(&shared.filters.rsync_excludes)?;
        shared.transport.check()?;
        self.check_numbers()?;
        if shared.filters.links == Links::Follow && shared.attributes.owner == Owner::Ignore {
            let why = "follow and owner = \"ignore\" together would give files to whoever makes a link to them";
            return Err(Invalid::new("links", why));
        }
        shared.grants.check()?;
        self.check_link()?;
        check_log(&self.program.log)?;
        if let Some(name) = &self.program.banned
            && (name.is_empty() || name.contains(['/', '\0']))
        {
            return Err(Invalid::new("banned", format!("`{name}` is no name of a program")));
        }
        shared.looks.unwatched().map(drop)
    }

    /// Whether both roots are on this host.
    pub fn is_local(&self) -> bool {
        self.right.host.is_none() && self.right.proxy_command.is_none()
    }

    fn check_numbers(&self) -> Result<(), Invalid> {
        if self.shared.run.debug > 3 {
            return Err(Invalid::new("debug", format!("{} is not in 0 to 3", self.shared.run.debug)));
        }
        check_style(self.shared.looks.style)?;
        for (key, value) in [
            ("timeout", self.shared.patience.timeout),
            ("itimeout", self.absence.itimeout),
            ("etimeout", self.shared.patience.etimeout),
            ("maxtimeout", self.absence.maxtimeout),
        ] {
            if value.is_zero() {
                return Err(Invalid::new(key, "must be more than 0 seconds"));
            }
        }
        Ok(())
    }

    fn check_link(&self) -> Result<(), Invalid> {
        let right = &self.right;
        check_word("right.host", right.host.as_deref())?;
        check_word("right.user", right.user.as_deref())?;
        if right.port == Some(0) {
            return Err(Invalid::new("right.port", "0 is no port"));
        }
        match right.proxy_command.as_deref() {
            Some(command) if command.trim().is_empty() => Err(Invalid::new("right.proxy_command", "is empty")),
            Some(command) => {
                super::peer::check_template(command).map_err(|message| Invalid::new("right.proxy_command", message))
            }
            None => Ok(()),
        }
    }
}

impl Looks {
    /// Names of directories that are not watched, from `inotify_extra`: `-E NAME` or `-ENAME`.
    pub fn unwatched(&self) -> Result<Vec<String>, Invalid> {
        let mut words = self.inotify_extra.iter().flat_map(|option| match option.strip_prefix("-E") {
            Some(name) if !name.trim().is_empty() => vec!["-E", name.trim()],
            _ => vec![option.trim()],
        });
        let mut names = Vec::new();
        while let Some(word) = words.next() {
            match (word, words.next()) {
                ("-E", Some(name)) if !name.is_empty() && !name.contains('/') => names.push(name.to_string()),
                _ => return Err(Invalid::new("inotify_extra", format!("`{word}`: only `-E NAME` is known here"))),
            }
        }
        Ok(names)
    }
}

fn check_root(key: &'static str, root: &Path) -> Result<(), Invalid> {
    if root.as_os_str().is_empty() {
        Err(Invalid::new(key, "is not set"))
    } else if !root.is_absolute() {
        Err(Invalid::new(key, format!("{} is not absolute", root.display())))
    } else {
        Ok(())
    }
}

pub(super) fn check_filters(filters: &Filters) -> Result<(), Invalid> {
    check_regex("tempfiles", &filters.tempfiles)?;
    check_regex("excludes", &filters.excludes)?;
    check_suffix(&filters.safesuffix)
}

pub(super) fn check_style(style: u8) -> Result<(), Invalid> {
    match style {
        1..=3 => Ok(()),
        other => Err(Invalid::new("rsync_style", format!("{other} is not in 1 to 3"))),
    }
}

pub(super) fn check_patterns(patterns: &[String]) -> Result<(), Invalid> {
    let wrong = |error: crate::filter::FilterError| {
        let text = error.to_string();
        Invalid::new("rsync_excludes", text.strip_prefix("rsync_excludes: ").unwrap_or(&text).to_owned())
    };
    crate::filter::Excludes::new(patterns).map(|_| ()).map_err(wrong)
}

/// Compiles the expression as the filters do, for an error that says where.
fn check_regex(key: &'static str, pattern: &str) -> Result<(), Invalid> {
    let at = |offset: usize, kind: &dyn std::fmt::Display| {
        let position = 1 + pattern.get(..offset).unwrap_or(pattern).chars().count();
        Invalid::new(key, format!("bad regular expression `{pattern}` at position {position}: {kind}"))
    };
    match regex_syntax::ParserBuilder::new().utf8(false).case_insensitive(true).build().parse(pattern) {
        Ok(_) => {}
        Err(regex_syntax::Error::Parse(e)) => return Err(at(e.span().start.offset, e.kind())),
        Err(regex_syntax::Error::Translate(e)) => return Err(at(e.span().start.offset, e.kind())),
        Err(e) => return Err(at(0, &e)),
    }
    let compiled = regex::bytes::RegexBuilder::new(pattern)
        .case_insensitive(true)
        .build()
        .map_err(|e| Invalid::new(key, format!("bad regular expression `{pattern}`: {e}")))?;
    // An alternative left empty by accident would keep everything out. An empty expression means none at all.
    if !pattern.is_empty() && compiled.is_match(b"/") && compiled.is_match(b"/\x01\xff/\x02.\x03") {
        return Err(Invalid::new(key, format!("`{pattern}` matches every path")));
    }
    Ok(())
}

fn check_suffix(suffix: &str) -> Result<(), Invalid> {
    let reason = match suffix {
        "" => "must not be empty",
        s if s.contains(['/', '\0']) => "must be part of a name",
        // Scratch names have a number before it.
        s if s.len() > 64 => "is longer than 64 bytes",
        _ => return Ok(()),
    };
    Err(Invalid::new("safesuffix", reason))
}

/// A word for ssh's command line: it must not look like an option.
fn check_word(key: &'static str, word: Option<&str>) -> Result<(), Invalid> {
    let reason = match word {
        None => return Ok(()),
        Some("") => "is empty".to_string(),
        Some(w) if w.starts_with('-') => format!("`{w}` begins with a dash"),
        Some(w) if w.chars().any(|c| c.is_whitespace() || c.is_control()) => format!("`{w}` contains a blank"),
        Some(_) => return Ok(()),
    };
    Err(Invalid::new(key, reason))
}

fn check_log(target: &str) -> Result<(), Invalid> {
    match target {
        "auto" | "journal" | "stderr" | "file" => Ok(()),
        path if Path::new(path).is_absolute() => Ok(()),
        other => Err(Invalid::new(
            "log",
            format!("`{other}` is neither auto, journal, stderr, file nor an absolute path of a file"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn good() -> Settings {
        let mut settings = Settings::default();
        settings.left.root = "/a".into();
        settings.right.root = "/b".into();
        settings
    }

    #[test]
    fn the_defaults_with_two_roots_are_good() {
        assert_eq!(good().check(), Ok(()));
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        type Spoil = fn(&mut Settings);
        let table: &[(Spoil, &str)] = &[
            (|s| s.left.root = "".into(), "left.root: is not set"),
            (|s| s.right.root = "b/c".into(), "right.root: b/c is not absolute"),
            (
                |s| s.shared.filters.excludes = "a(b".into(),
                "excludes: bad regular expression `a(b` at position 2: unclosed group",
            ),
            (
                |s| s.shared.filters.excludes = "é[b".into(),
                "excludes: bad regular expression `é[b` at position 2: unclosed character class",
            ),
            (
                |s| s.shared.filters.tempfiles = r"(?=x)".into(),
                "tempfiles: bad regular expression `(?=x)` at position 1: look-around, including look-ahead and look-behind, is not supported",
            ),
            (|s| s.shared.filters.tempfiles = "x|".into(), "tempfiles: `x|` matches every path"),
            (|s| s.shared.filters.safesuffix = String::new(), "safesuffix: must not be empty"),
            (|s| s.shared.filters.safesuffix = "a/b".into(), "safesuffix: must be part of a name"),
            (|s| s.shared.run.debug = 4, "debug: 4 is not in 0 to 3"),
            (|s| s.shared.looks.style = 0, "rsync_style: 0 is not in 1 to 3"),
            (|s| s.shared.patience.etimeout = Duration::ZERO, "etimeout: must be more than 0 seconds"),
            (|s| s.right.host = Some("-oProxyCommand=x".into()), "right.host: `-oProxyCommand=x` begins with a dash"),
            (|s| s.right.user = Some("a b".into()), "right.user: `a b` contains a blank"),
            (
                |s| s.right.proxy_command = Some("ssh %x".into()),
                "right.proxy_command: `%x` is none of %h %u %p %i %o %%",
            ),
            (
                |s| (s.shared.filters.links, s.shared.attributes.owner) = (Links::Follow, Owner::Ignore),
                "links: follow and owner = \"ignore\" together would give files to whoever makes a link to them",
            ),
            (
                |s| s.program.log = "here".into(),
                "log: `here` is neither auto, journal, stderr, file nor an absolute path of a file",
            ),
            (|s| s.shared.grants.owners = Some(vec!["alice".into(), "6-5".into()]), "accept_owners: `6-5` is empty"),
            (|s| s.program.banned = Some("/bin/x".into()), "banned: `/bin/x` is no name of a program"),
            (|s| s.shared.looks.inotify_extra = vec!["-x".into()], "inotify_extra: `-x`: only `-E NAME` is known here"),
        ];
        for (spoil, want) in table {
            let mut settings = good();
            spoil(&mut settings);
            assert_eq!(settings.check().expect_err(want).to_string(), *want);
        }
    }

    #[test]
    fn unwatched_names() {
        for (given, want) in [
            (vec![], Some(vec![])),
            (vec!["-E", "cache"], Some(vec!["cache"])),
            (vec!["-E cache", "-Etmp"], Some(vec!["cache", "tmp"])),
            (vec!["-E"], None),
            (vec!["-E", "a/b"], None),
        ] {
            let looks = Looks { inotify_extra: given.iter().map(|s| s.to_string()).collect(), ..Looks::default() };
            let want = want.map(|names| names.iter().map(|s| s.to_string()).collect::<Vec<_>>());
            assert_eq!(looks.unwatched().ok(), want, "{given:?}");
        }
    }
}
