//! Attributes that this side cannot hold (no right to set them, a file system without them): they are left as they are
//! here, travel on as agreed, and are counted by kind, so that a user hears of them once and not for each file.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{RelPath, readable};

use super::disk::NotSet;

/// So many extended attributes that do not fit are told by name.
const NAMED: usize = 20;

/// How many objects lack an attribute here, by kind, since this replica was opened.
#[derive(Debug, Default)]
pub struct Counts {
    counts: BTreeMap<&'static str, u64>,
    news: bool,
    /// Attributes that did not fit, each told once with the first object that lacks it.
    named: BTreeSet<Box<[u8]>>,
}

impl Counts {
    /// An object got its attributes, but for these.
    pub(crate) fn count(&mut self, not_set: &NotSet) {
        for what in &not_set.what {
            *self.counts.entry(what).or_default() += 1;
            self.news = true;
        }
    }

    /// The same, with a line for the log about each extended attribute that had no room the first time.
    pub(crate) fn count_at(&mut self, path: &RelPath, not_set: &NotSet) -> Vec<String> {
        self.count(not_set);
        let mut lines = Vec::new();
        for unfit in &not_set.refused {
            if self.named.len() < NAMED && self.named.insert(unfit.name.clone()) {
                lines.push(format!(
                    "{path}: the extended attribute {} ({} bytes) is not set: the file system has no room for it with an \
                     object. The contents travel all the same",
                    readable(&unfit.name),
                    unfit.size
                ));
            }
        }
        lines
    }

    /// All counts, if one has grown since they were taken last.
    pub fn take_news(&mut self) -> Option<Vec<(String, u64)>> {
        let told = || self.counts.iter().map(|(what, count)| ((*what).to_owned(), *count)).collect();
        std::mem::take(&mut self.news).then(told)
    }
}

#[cfg(test)]
mod tests {
    use super::super::disk::Unfit;
    use super::*;

    #[test]
    fn counted_by_kind_and_told_when_they_grow() {
        let mut counts = Counts::default();
        assert_eq!(counts.take_news(), None);
        counts.count(&NotSet::default());
        assert_eq!(counts.take_news(), None);
        let of = |what: &[&'static str]| NotSet { what: what.to_vec(), ..NotSet::default() };
        counts.count(&of(&["owner", "xattr"]));
        counts.count(&of(&["owner"]));
        assert_eq!(counts.take_news(), Some(vec![("owner".into(), 2), ("xattr".into(), 1)]));
        assert_eq!(counts.take_news(), None);
        counts.count(&of(&["xattr"]));
        assert_eq!(counts.take_news(), Some(vec![("owner".into(), 2), ("xattr".into(), 2)]));
    }

    #[test]
    fn what_does_not_fit_is_told_once_by_its_name_and_bounded() {
        let mut counts = Counts::default();
        let path = RelPath::new(b"photos/a.jpg").expect("a path");
        let of = |name: &str| NotSet {
            what: vec!["xattr"],
            refused: vec![Unfit { name: name.as_bytes().into(), size: 20_000 }],
        };
        let told = counts.count_at(&path, &of("user.preview"));
        assert!(matches!(&told[..], [line] if line.contains("photos/a.jpg") && line.contains("user.preview (20000")));
        assert_eq!(counts.count_at(&path, &of("user.preview")), Vec::<String>::new());
        let more = (0..100).map(|n| counts.count_at(&path, &of(&format!("user.{n}"))).len()).sum::<usize>();
        assert_eq!(more, NAMED - 1);
        assert_eq!(counts.take_news(), Some(vec![("xattr".into(), 102)]));
    }
}
