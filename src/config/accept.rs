//! What the other side may give objects of this side: rights to run as somebody else, and owners.

use serde::{Deserialize, Serialize};

use super::Invalid;

/// What one side takes from the other. Plain data, checked when it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accept {
    /// Files may get the setuid and setgid bits. Directories always may.
    pub setuid: bool,
    /// Files may get capabilities.
    pub capabilities: bool,
    /// `None`: any owner.
    pub owners: Option<Vec<Accepted>>,
}

impl Default for Accept {
    /// Everything.
    fn default() -> Accept {
        Accept { setuid: true, capabilities: true, owners: None }
    }
}

/// One line of `accept_owners`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accepted {
    User(String),
    Group(String),
    /// Users and groups of these numbers, the last one included.
    Numbers(u32, u32),
}

impl std::str::FromStr for Accepted {
    type Err = String;

    fn from_str(text: &str) -> Result<Accepted, String> {
        let bad = || format!("`{text}` is no name, no `@GROUP`, no number and no range such as \"1000-60000\"");
        let number = |digits: &str| digits.parse::<u32>().ok().filter(|n| *n != u32::MAX);
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if let Some((first, last)) = text.split_once('-').filter(|(first, last)| digits(first) && digits(last)) {
            let (first, last) = (number(first).ok_or_else(bad)?, number(last).ok_or_else(bad)?);
            return if first <= last { Ok(Accepted::Numbers(first, last)) } else { Err(format!("`{text}` is empty")) };
        }
        if digits(text) {
            let one = number(text).ok_or_else(bad)?;
            return Ok(Accepted::Numbers(one, one));
        }
        let (name, group) = match text.strip_prefix('@') {
            Some(name) => (name, true),
            None => (text, false),
        };
        if name.is_empty() || name.len() > 256 || name.contains([':', '@']) || name.chars().any(char::is_control) {
            return Err(bad());
        }
        Ok(if group { Accepted::Group(name.to_owned()) } else { Accepted::User(name.to_owned()) })
    }
}

impl Accept {
    /// Whether a user or group of this number may own something here. `named` tells whether the number is that of a name.
    pub fn owner(&self, group: bool, number: u32, named: impl Fn(&str) -> bool) -> bool {
        let Some(owners) = &self.owners else { return true };
        // A list of users alone says nothing of groups, and the other way round.
        let speaks = |accepted: &Accepted| match accepted {
            Accepted::User(_) => !group,
            Accepted::Group(_) => group,
            Accepted::Numbers(..) => true,
        };
        let mut spoken = owners.iter().filter(|accepted| speaks(accepted)).peekable();
        if spoken.peek().is_none() && !owners.is_empty() {
            return true;
        }
        spoken.any(|accepted| match accepted {
            Accepted::User(name) | Accepted::Group(name) => named(name),
            Accepted::Numbers(first, last) => (*first..=*last).contains(&number),
        })
    }
}

/// What a pair's file says of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Grants {
    /// Whether the other side may give files the setuid and setgid bits here. `None`, the default: only where both roots
    /// are on this host.
    #[serde(rename = "accept_setuid")]
    pub setuid: Option<bool>,
    /// The same of capabilities.
    #[serde(rename = "accept_capabilities")]
    pub capabilities: Option<bool>,
    /// Whom the other side may give objects here: names, `@GROUP`, numbers and ranges. `None`, the default: anybody.
    #[serde(rename = "accept_owners")]
    pub owners: Option<Vec<String>>,
}

impl Grants {
    /// What a side takes from the other one. `trusted` holds where the file says nothing of rights: the other side has the
    /// rights of this process anyway.
    pub fn accept(&self, trusted: bool) -> Accept {
        let owners = self.owners.as_ref();
        Accept {
            setuid: self.setuid.unwrap_or(trusted),
            capabilities: self.capabilities.unwrap_or(trusted),
            // Checked: none is lost here.
            owners: owners.map(|owners| owners.iter().filter_map(|owner| owner.parse().ok()).collect()),
        }
    }

    pub(super) fn check(&self) -> Result<(), Invalid> {
        let wrong = |message: String| Invalid::new("accept_owners", message);
        let owners = self.owners.iter().flatten();
        owners.into_iter().try_for_each(|owner| owner.parse::<Accepted>().map(drop).map_err(wrong))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let user = |name: &str| Some(Accepted::User(name.into()));
        for (text, want) in [
            ("alice", user("alice")),
            ("a-b", user("a-b")),
            ("DOM\\ann lee", user("DOM\\ann lee")),
            ("@staff", Some(Accepted::Group("staff".into()))),
            ("1000", Some(Accepted::Numbers(1000, 1000))),
            ("1000-60000", Some(Accepted::Numbers(1000, 60000))),
            ("7-6", None),
            ("4294967295", None),
            ("99999999999", None),
            ("", None),
            ("@", None),
            ("a:b", None),
            ("a\n", None),
        ] {
            assert_eq!(text.parse::<Accepted>().ok(), want, "{text:?}");
        }
    }

    #[test]
    fn who_may_own() {
        let accept = |lines: &[&str]| Accept {
            owners: Some(lines.iter().map(|line| line.parse().expect("a line")).collect()),
            ..Accept::default()
        };
        for (lines, group, number, name, want) in [
            (&["1000-60000"][..], false, 1000, "", true),
            (&["1000-60000"], true, 60000, "", true),
            (&["1000-60000"], false, 0, "root", false),
            (&["1000-60000"], true, 0, "root", false),
            (&["alice"], false, 5, "alice", true),
            (&["alice"], false, 5, "bob", false),
            (&["alice"], true, 0, "root", true),
            (&["alice", "@staff"], true, 0, "root", false),
            (&["alice", "@staff"], true, 50, "staff", true),
            (&["@staff"], false, 0, "root", true),
            (&[], false, 1000, "alice", false),
        ] {
            assert_eq!(accept(lines).owner(group, number, |n| n == name), want, "{lines:?} {group} {number} {name}");
        }
        assert!(Accept::default().owner(false, 0, |_| false));
    }
}
