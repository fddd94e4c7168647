//! What differs between two trees: two lists in the order of paths, walked together. Pure.

use std::cmp::Ordering;

use crate::model::{Kind, RelPath, Time};
use crate::protocol::survey::Item;

/// How closely two objects are compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Closely {
    /// Files by their sizes alone, and no attributes.
    pub lite: bool,
    /// Only what is on both sides.
    pub modified_only: bool,
    /// Symbolic links are left out.
    pub no_links: bool,
    /// Owners and groups are not compared.
    pub no_owners: bool,
    /// The times of directories are compared as well.
    pub dir_times: bool,
}

/// In which way two sides differ at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    OnlyLeft,
    OnlyRight,
    /// A file here, a directory there.
    Kind,
    /// Sizes or hashes differ.
    Contents,
    /// A link's target.
    Target,
    /// Equal in size, not in time; or the time of a directory.
    Time,
    /// Mode, owner, group or extended attributes.
    Attributes,
}

impl What {
    /// Whether somebody sees other data on one side than on the other, under one name.
    pub fn is_alarming(self) -> bool {
        matches!(self, What::Kind | What::Contents | What::Target)
    }
}

/// One path at which the sides differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    pub path: RelPath,
    pub what: What,
    pub left: Option<Item>,
    pub right: Option<Item>,
}

impl Difference {
    /// Whether there is a file on either side.
    pub fn is_of_files(&self) -> bool {
        // Of contents that turned out to differ by reading there may be no items.
        let file = |item: &Option<Item>| item.as_ref().is_some_and(|item| item.kind == Kind::File);
        file(&self.left) || file(&self.right) || self.what == What::Contents
    }
}

/// Compares what lies under one name.
pub fn compare(left: Option<&Item>, right: Option<&Item>, closely: Closely) -> Option<What> {
    let shown = |item: &&Item| !(closely.no_links && item.kind == Kind::Link);
    match (left.filter(shown), right.filter(shown)) {
        (None, None) => None,
        // With links left out, a link against a file is nothing against a file.
        (Some(_), None) if closely.modified_only => None,
        (None, Some(_)) if closely.modified_only => None,
        (Some(_), None) => Some(What::OnlyLeft),
        (None, Some(_)) => Some(What::OnlyRight),
        (Some(left), Some(right)) => both(left, right, closely),
    }
}

fn both(left: &Item, right: &Item, closely: Closely) -> Option<What> {
    let owners = |item: &Item| (!closely.no_owners).then(|| (item.user.clone(), item.group.clone()));
    if left.kind != right.kind {
        Some(What::Kind)
    } else if left.size != right.size {
        Some(What::Contents)
    } else if left.target != right.target {
        Some(What::Target)
    } else if closely.lite {
        None
    } else if (left.kind != Kind::Dir || closely.dir_times) && !same_time(left.mtime, right.mtime) {
        Some(What::Time)
    } else if left.mode != right.mode || owners(left) != owners(right) || left.xattrs != right.xattrs {
        Some(What::Attributes)
    } else {
        None
    }
}

/// A file system that keeps whole seconds only does not make every file differ.
fn same_time(a: Time, b: Time) -> bool {
    a == b || (a.secs == b.secs && (a.nanos == 0 || b.nanos == 0))
}

/// Two lists side by side, each path once.
pub struct Both<L: Iterator<Item = Item>, R: Iterator<Item = Item>> {
    left: std::iter::Peekable<L>,
    right: std::iter::Peekable<R>,
}

impl<L: Iterator<Item = Item>, R: Iterator<Item = Item>> Both<L, R> {
    pub fn new(left: L, right: R) -> Both<L, R> {
        Both { left: left.peekable(), right: right.peekable() }
    }
}

impl<L: Iterator<Item = Item>, R: Iterator<Item = Item>> Iterator for Both<L, R> {
    type Item = (Option<Item>, Option<Item>);

    fn next(&mut self) -> Option<Self::Item> {
        let order = match (self.left.peek(), self.right.peek()) {
            (None, None) => return None,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(left), Some(right)) => left.path.cmp(&right.path),
        };
        Some(match order {
            Ordering::Less => (self.left.next(), None),
            Ordering::Greater => (None, self.right.next()),
            Ordering::Equal => (self.left.next(), self.right.next()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Hash, Principal};

    /// `NAME=f10@5`: a file of 10 bytes with mtime 5; `=d` a directory, `=l` a link to its own letter, `+x` another mode,
    /// `+a` an extended attribute.
    fn item(text: &str) -> Item {
        let (name, rest) = text.split_once('=').expect(text);
        let (rest, xattrs) = rest.strip_suffix("+a").map_or((rest, None), |r| (r, Some(Hash([1; 32]))));
        let (rest, mode) = rest.strip_suffix("+x").map_or((rest, 0o644), |r| (r, 0o755));
        let (rest, secs) = rest.split_once('@').map_or((rest, 1), |(r, s)| (r, s.parse().expect(text)));
        let (kind, size) = match rest.split_at(1) {
            ("d", _) => (Kind::Dir, 0),
            ("l", _) => (Kind::Link, 0),
            (_, size) => (Kind::File, size.parse().expect(text)),
        };
        let mtime = if kind == Kind::Link { Time::default() } else { Time { secs, nanos: 7 } };
        let target = (kind == Kind::Link).then(|| rest.as_bytes()[1..].into());
        let path = RelPath::new(name.as_bytes()).expect(text);
        let (user, group) = (Principal::Id(0), Principal::Id(0));
        Item { path, kind, size, mtime, changed: secs, mode, user, group, target, xattrs }
    }

    fn items(text: &str) -> impl Iterator<Item = Item> {
        text.split_whitespace().map(item).collect::<Vec<_>>().into_iter()
    }

    #[test]
    fn one_path() {
        let plain = Closely::default();
        let lite = Closely { lite: true, ..plain };
        let modified = Closely { modified_only: true, ..plain };
        let no_links = Closely { no_links: true, ..plain };
        let dir_times = Closely { dir_times: true, ..plain };
        for (left, right, closely, want) in [
            ("a=f1", "a=f1", plain, None),
            ("a=f1", "a=f2", plain, Some(What::Contents)),
            ("a=f1", "a=f2", lite, Some(What::Contents)),
            ("a=f1@1", "a=f1@2", plain, Some(What::Time)),
            ("a=d@1", "a=d@2", plain, None),
            ("a=d@1", "a=d@2", dir_times, Some(What::Time)),
            ("a=d@2", "a=d@2", dir_times, None),
            ("a=f1@1", "a=f1@2", lite, None),
            ("a=f1", "a=f1+x", plain, Some(What::Attributes)),
            ("a=f1", "a=f1+x", lite, None),
            ("a=f1", "a=f1+a", plain, Some(What::Attributes)),
            ("a=f1+a", "a=f1+a", plain, None),
            ("a=d+a", "a=d", plain, Some(What::Attributes)),
            ("a=d+a", "a=d", lite, None),
            ("a=d", "a=f0", plain, Some(What::Kind)),
            ("a=lx", "a=ly", plain, Some(What::Target)),
            ("a=lx", "a=ly", no_links, None),
            ("a=lx", "a=f0", no_links, Some(What::OnlyRight)),
            ("a=f1", "", plain, Some(What::OnlyLeft)),
            ("", "a=d", plain, Some(What::OnlyRight)),
            ("a=f1", "", modified, None),
            ("", "a=d", modified, None),
        ] {
            let [l, r] = [left, right].map(|text| (!text.is_empty()).then(|| item(text)));
            assert_eq!(compare(l.as_ref(), r.as_ref(), closely), want, "{left} {right} {closely:?}");
        }
        let whole = Item { mtime: Time { secs: 1, nanos: 0 }, ..item("a=f1") };
        assert_eq!(compare(Some(&whole), Some(&item("a=f1")), plain), None, "a file system of whole seconds");
    }

    #[test]
    fn two_lists_side_by_side() {
        let both = Both::new(items("a=d a/x=f1 b=f1 d=f1"), items("a=d a-=f1 b=f2"));
        let shown: Vec<String> = both
            .map(|(l, r)| {
                let name = |i: Option<Item>| i.map_or("-".to_string(), |i| i.path.to_string());
                format!("{} {}", name(l), name(r))
            })
            .collect();
        assert_eq!(shown, ["a a", "a/x -", "- a-", "b b", "d -"]);
    }
}
