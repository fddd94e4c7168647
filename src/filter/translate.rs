//! `translate = "FROM:TO"`: contents that change under one name are taken for another's.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::model::{Name, RelPath};

/// Replaces one element of a path by another, or leaves it out. For contents only; rarely useful.
///
/// Written `FROM:TO`, in a pair's file and on the wire; a TO of `None` removes the element, as in the original.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Translate {
    from: Name,
    /// `None`: the element is removed.
    to: Option<Name>,
}

impl std::str::FromStr for Translate {
    type Err = String;

    fn from_str(text: &str) -> Result<Translate, String> {
        let Some((from, to)) = text.split_once(':') else {
            return Err(format!("`{text}` is not of the form FROM:TO"));
        };
        // The original's own value is `____archive____/:None`.
        let element = |element: &str, side| {
            let name = element.trim_end_matches('/');
            let wrong = |reason| format!("`{text}` is not of the form FROM:TO: {side} {reason}");
            let known = no_element(name).map_or(Ok(()), Err);
            known.and_then(|()| Name::new(name.as_bytes()).map_err(|_| "is psync's own name")).map_err(wrong)
        };
        let (from, to) = (element(from, "FROM")?, element(to, "TO")?);
        Ok(Translate { from, to: Some(to).filter(|to| to.as_bytes() != b"None") })
    }
}

/// Why this is no element of a path that can be written before or after the colon.
fn no_element(name: &str) -> Option<&'static str> {
    match name {
        "" => Some("is empty"),
        "." | ".." => Some("is no name"),
        e if e.contains('/') => Some("is more than one path element"),
        e if e.contains(':') => Some("contains a colon"),
        e if e.contains('\0') => Some("contains a NUL"),
        e if e.len() > crate::model::NAME_MAX => Some("is longer than a name can be"),
        _ => None,
    }
}

impl fmt::Display for Translate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |name: &Name| String::from_utf8_lossy(name.as_bytes()).into_owned();
        write!(f, "{}:{}", text(&self.from), self.to.as_ref().map_or_else(|| "None".to_owned(), text))
    }
}

impl Serialize for Translate {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Translate {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Translate, D::Error> {
        String::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

impl Translate {
    /// The path with every occurrence replaced; `None` if it holds none, or nothing of it would be left, or too much.
    pub fn apply(&self, path: &RelPath) -> Option<RelPath> {
        let names: Vec<Name> = path.names().collect();
        if !names.contains(&self.from) {
            return None;
        }
        let replaced = names.iter().filter_map(|name| if *name == self.from { self.to.as_ref() } else { Some(name) });
        let parts: Vec<&[u8]> = replaced.map(Name::as_bytes).collect();
        RelPath::new(&parts.join(&b'/')).ok().filter(|new| !new.is_root())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(s: &str) -> RelPath {
        RelPath::new(s.as_bytes()).expect("a valid path")
    }

    #[test]
    fn replaces_whole_elements() {
        let table = [
            ("a:b", "a/x", Some("b/x")),
            ("a:b", "x/a/a", Some("x/b/b")),
            ("a:b", "aa/xa", None),
            ("a:None", "x/a/f", Some("x/f")),
            ("a:None", "a", None),
        ];
        for (setting, from, to) in table {
            let translate: Translate = setting.parse().expect("a valid setting");
            assert_eq!(translate.apply(&path(from)), to.map(path), "{setting} {from}");
        }
    }

    #[test]
    fn translations() {
        for (text, want) in [
            ("a:b", Some("a:b")),
            ("a:None", Some("a:None")),
            ("a/:b/", Some("a:b")),
            ("____archive____/:None", Some("____archive____:None")),
            ("____archive____//:None", Some("____archive____:None")),
            ("____archive____/:None/", Some("____archive____:None")),
            ("", None),
            ("a", None),
            ("a:", None),
            (":b", None),
            ("a:b:c", None),
            ("a/b:c", None),
            ("a:..", None),
            ("../:None", None),
            ("/:None", None),
            ("a:/", None),
            ("/a:None", None),
            ("a:b\0", None),
            ("a:.psync", None),
        ] {
            assert_eq!(text.parse::<Translate>().ok().map(|t| t.to_string()).as_deref(), want, "{text:?}");
        }
        let error = "a:x/y".parse::<Translate>().expect_err("two elements");
        assert_eq!(error, "`a:x/y` is not of the form FROM:TO: TO is more than one path element");
    }
}
