//! `translate = "FROM:TO"`: contents that change under one name are taken for another's.

use super::FilterError;
use crate::model::{Name, RelPath};

/// Replaces elements of a path. For contents only; rarely useful.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Translate {
    from: Vec<Name>,
    to: Vec<Name>,
}

impl Translate {
    /// `FROM:TO` or `FROM:None`, which removes. Each is one element or several joined by slashes; slashes around
    /// them do not matter.
    pub fn new(setting: &str) -> Result<Translate, FilterError> {
        let (from, to) = setting.split_once(':').ok_or(FilterError::Translate)?;
        let names = |text: &str| {
            let path = RelPath::new(text.trim_matches('/').as_bytes()).map_err(|_| FilterError::Translate)?;
            if path.is_root() { Err(FilterError::Translate) } else { Ok(path.names().collect::<Vec<Name>>()) }
        };
        Ok(Translate { from: names(from)?, to: if to == "None" { Vec::new() } else { names(to)? } })
    }

    /// The path with every occurrence replaced; `None` if it holds none, or nothing of it would be left, or too much.
    pub fn apply(&self, path: &RelPath) -> Option<RelPath> {
        let names: Vec<Name> = path.names().collect();
        let mut out: Vec<Name> = Vec::new();
        let (mut rest, mut found) = (&names[..], false);
        while let Some((first, others)) = rest.split_first() {
            if let Some(after) = rest.strip_prefix(&self.from[..]) {
                out.extend_from_slice(&self.to);
                (rest, found) = (after, true);
            } else {
                out.push(first.clone());
                rest = others;
            }
        }
        let parts: Vec<&[u8]> = out.iter().map(Name::as_bytes).collect();
        RelPath::new(&parts.join(&b'/')).ok().filter(|new| found && !new.is_root())
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
            ("/a/b/:c", "x/a/b/f", Some("x/c/f")),
            ("a/b:c", "x/a/f/b", None),
            ("a:c/d", "a/f", Some("c/d/f")),
            ("a:b:c", "a/f", Some("b:c/f")),
        ];
        for (setting, from, to) in table {
            let translate = Translate::new(setting).expect("a valid setting");
            assert_eq!(translate.apply(&path(from)), to.map(path), "{setting} {from}");
        }
    }

    #[test]
    fn refuses_what_is_no_path() {
        for bad in ["", "a", ":b", "a:", "a:..", "a//b:c", "/:x", "a:b\0"] {
            assert_eq!(Translate::new(bad), Err(FilterError::Translate), "{bad:?}");
        }
    }
}
