//! Which versions of a path are meant.

use std::collections::BTreeMap;

use crate::model::{Kind, RelPath, Side};
use crate::protocol::survey::Trashed;

/// What was deleted one after the other, no longer than so many seconds apart, was deleted in one go.
const ONE_GO: i64 = 60;

/// A version and the side in whose trash it lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    pub side: Side,
    pub item: Trashed,
    /// Not the whole object, but what lies there in it.
    pub below: Option<RelPath>,
}

impl Version {
    pub fn new(side: Side, item: Trashed) -> Version {
        let below = item.copied.then(|| item.path.clone());
        Version { side, item, below }
    }

    /// When it came into the trash. Within a second the numbers in its name tell the order: the pair's actions are
    /// numbered, and so are the objects that one process puts there.
    pub fn age(&self) -> (i64, u64, u64) {
        let text = String::from_utf8_lossy(self.item.id.as_bytes()).into_owned();
        let mut numbers = text.split('-').skip(1).map(|number| u64::from_str_radix(number, 16).unwrap_or(0));
        (self.item.since, numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
    }
}

/// A path as a user gave it: as its bytes are, or as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// As it is listed.
    pub word: String,
    /// What is listed may be longer than a path can be.
    pub path: Option<RelPath>,
}

impl Written {
    pub fn is(&self, path: &RelPath) -> bool {
        self.path.as_ref() == Some(path) || path.to_string() == self.word
    }

    /// Whether the path is this one or lies below it.
    pub fn holds(&self, path: &RelPath) -> bool {
        self.is(path) || self.path.as_ref().is_some_and(|own| path.is_below(own))
    }
}

/// The versions to be restored: the newest of the path, or the one with this id. Of a directory also what was deleted below
/// it in the same go. If only things below it are there, the newest of each of them; if neither, what may lie in a directory
/// that was deleted as a whole.
///
/// The error says what is wrong; nothing if there is no such path at all. Whatever lies above comes first.
pub fn choose(versions: &[Version], wanted: &Written, id: Option<&str>) -> Result<Vec<Version>, Option<String>> {
    let exact: Vec<&Version> = versions.iter().filter(|version| wanted.is(&version.item.path)).collect();
    let inside: Vec<Version> = if exact.is_empty() { in_directories(versions, wanted) } else { Vec::new() };
    let all: Vec<&Version> = exact.into_iter().chain(&inside).collect();
    let newest = match id {
        Some(id) => {
            let found = all.iter().find(|version| version.item.id.as_bytes() == id.as_bytes());
            let ids = || all.iter().map(|version| version.item.id.to_string()).collect::<Vec<_>>().join(", ");
            match found {
                Some(version) => *version,
                None if all.is_empty() => return Err(None),
                None => return Err(Some(format!("there is no version {id} of it, but {}", ids()))),
            }
        }
        None => {
            let below = versions.iter().filter(|version| wanted.holds(&version.item.path));
            let below = newest_of_each(below.filter(|version| version.item.reason == "deleted"));
            // What is known to be there comes before what may be in a directory.
            let unsure = !inside.is_empty() && !below.is_empty();
            match all.iter().max_by_key(|version| version.age()).filter(|_| !unsure) {
                Some(version) => *version,
                None if below.is_empty() => return Err(None),
                None => return Ok(below.into_iter().cloned().collect()),
            }
        }
    };
    Ok(with_what_was_below(newest, versions).into_iter().cloned().collect())
}

/// The directories in the trash in which the path may lie.
fn in_directories(versions: &[Version], wanted: &Written) -> Vec<Version> {
    let Some(path) = &wanted.path else { return Vec::new() };
    let above = versions
        .iter()
        .filter(|version| version.item.kind == Kind::Dir && !version.item.copied && path.is_below(&version.item.path));
    let inside = above.filter_map(|version| {
        let rest = path.rebase(&version.item.path, &RelPath::root())?;
        let item = Trashed { path: path.clone(), ..version.item.clone() };
        Some(Version { below: Some(rest), item, ..version.clone() })
    });
    inside.collect()
}

fn with_what_was_below<'a>(top: &'a Version, versions: &'a [Version]) -> Vec<&'a Version> {
    let mut chosen = vec![top];
    if top.item.kind == Kind::Dir && top.below.is_none() {
        let mut below: Vec<&Version> = versions
            .iter()
            .filter(|v| v.side == top.side && v.item.reason == "deleted" && v.item.path.is_below(&top.item.path))
            .filter(|v| v.age() < top.age())
            .collect();
        below.sort_by_key(|version| std::cmp::Reverse(version.age()));
        let mut since = top.item.since;
        let in_one_go = below.into_iter().take_while(|version| {
            let near = since - version.item.since <= ONE_GO;
            since = version.item.since;
            near
        });
        chosen.extend(newest_of_each(in_one_go));
    }
    chosen
}

/// By path.
fn newest_of_each<'a>(versions: impl Iterator<Item = &'a Version>) -> Vec<&'a Version> {
    let mut newest: BTreeMap<&RelPath, &Version> = BTreeMap::new();
    for version in versions {
        let kept = newest.entry(&version.item.path).or_insert(version);
        if version.age() > kept.age() {
            *kept = version;
        }
    }
    newest.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Name;

    fn version(id: &str, path: &str, since: i64, kind: Kind) -> Version {
        let reason = if id.ends_with('r') { "replaced" } else { "deleted" };
        let (id, path) = (Name::new(id.as_bytes()).unwrap(), RelPath::new(path.as_bytes()).unwrap());
        let item = Trashed { id, path, since, size: 1, reason: reason.into(), kind, copied: false };
        Version::new(Side::Right, item)
    }

    fn chosen(versions: &[Version], path: &str, id: Option<&str>) -> Result<Vec<String>, Option<String>> {
        let wanted = Written { word: path.to_owned(), path: RelPath::new(path.as_bytes()).ok() };
        let shown = |version: &Version| match &version.below {
            None => version.item.id.to_string(),
            Some(below) => format!("{}/{below}", version.item.id),
        };
        Ok(choose(versions, &wanted, id)?.iter().map(shown).collect())
    }

    #[test]
    fn the_newest_or_the_one_that_was_named() {
        let all = [
            version("1-1-1", "a", 10, Kind::File),
            version("2-3-1", "a", 20, Kind::File),
            version("2-10-1", "a", 20, Kind::File),
            version("2-2-1", "a", 20, Kind::File),
            version("3-1-1", "b", 30, Kind::File),
        ];
        assert_eq!(chosen(&all, "a", None), Ok(vec!["2-10-1".into()]));
        assert_eq!(chosen(&all, "a", Some("1-1-1")), Ok(vec!["1-1-1".into()]));
        let why = "there is no version 3-1-1 of it, but 1-1-1, 2-3-1, 2-10-1, 2-2-1";
        assert_eq!(chosen(&all, "a", Some("3-1-1")), Err(Some(why.into())));
        assert_eq!(chosen(&all, "c", None), Err(None));
        assert_eq!(chosen(&all, "c", Some("1-1-1")), Err(None));
    }

    #[test]
    fn a_directory_comes_with_what_was_deleted_below_it_in_one_go() {
        let all = [
            version("1-1-1", "d/long-ago", 10, Kind::File),
            version("2-1-1", "d/x", 100, Kind::File),
            version("3-1-1", "d/sub/y", 150, Kind::File),
            version("3-2-r", "d/sub/z", 150, Kind::File),
            version("3-3-1", "d/sub", 150, Kind::Dir),
            version("4-1-1", "d", 200, Kind::Dir),
            version("5-1-1", "d/x", 300, Kind::File),
            version("5-2-1", "dd", 300, Kind::File),
        ];
        let ids = |ids: &[&str]| Ok(ids.iter().map(|id| id.to_string()).collect());
        assert_eq!(chosen(&all, "d", None), ids(&["4-1-1", "3-3-1", "3-1-1", "2-1-1"]));
        assert_eq!(chosen(&all, "d/sub", None), ids(&["3-3-1", "3-1-1"]));
        assert_eq!(chosen(&all[..5], "d", None), ids(&["1-1-1", "3-3-1", "3-1-1", "2-1-1"]));
    }

    #[test]
    fn what_was_deleted_with_its_directory_is_looked_for_in_it() {
        let all = [version("1-1-1", "d", 10, Kind::Dir), version("2-1-1", "d", 20, Kind::Dir)];
        assert_eq!(chosen(&all, "d/sub/y", None), Ok(vec!["2-1-1/sub/y".into()]));
        assert_eq!(chosen(&all, "d/sub/y", Some("1-1-1")), Ok(vec!["1-1-1/sub/y".into()]));
        assert_eq!(chosen(&all, "dd", None), Err(None));
        let with_one = [all[0].clone(), version("3-1-1", "d/sub/y", 5, Kind::File)];
        assert_eq!(chosen(&with_one, "d/sub", None), Ok(vec!["3-1-1".into()]), "what is known to be there comes first");
    }

    #[test]
    fn a_listed_path_may_be_longer_than_a_path_can_be() {
        let name = vec![0xC3; 255];
        let path = RelPath::new(&name).unwrap();
        let wanted = Written { word: path.to_string(), path: None };
        assert!(wanted.is(&path) && wanted.holds(&path));
    }
}
