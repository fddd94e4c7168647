//! Attributes that this side cannot hold (no right to set them, a file system without them): they are left as they are
//! here, travel on as agreed, and are counted by kind, so that a user hears of them once and not for each file.

use std::collections::BTreeMap;

use super::disk::NotSet;

/// How many objects lack an attribute here, by kind, since this replica was opened.
#[derive(Debug, Default)]
pub struct Counts {
    counts: BTreeMap<&'static str, u64>,
    news: bool,
}

impl Counts {
    /// An object got its attributes, but for these.
    pub(crate) fn count(&mut self, not_set: &NotSet) {
        for what in &not_set.what {
            *self.counts.entry(what).or_default() += 1;
            self.news = true;
        }
    }

    /// All counts, if one has grown since they were taken last.
    pub fn take_news(&mut self) -> Option<Vec<(String, u64)>> {
        let told = || self.counts.iter().map(|(what, count)| ((*what).to_owned(), *count)).collect();
        std::mem::take(&mut self.news).then(told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counted_by_kind_and_told_when_they_grow() {
        let mut counts = Counts::default();
        assert_eq!(counts.take_news(), None);
        counts.count(&NotSet::default());
        assert_eq!(counts.take_news(), None);
        counts.count(&NotSet { what: vec!["owner", "xattr"] });
        counts.count(&NotSet { what: vec!["owner"] });
        assert_eq!(counts.take_news(), Some(vec![("owner".into(), 2), ("xattr".into(), 1)]));
        assert_eq!(counts.take_news(), None);
        counts.count(&NotSet { what: vec!["xattr"] });
        assert_eq!(counts.take_news(), Some(vec![("owner".into(), 2), ("xattr".into(), 2)]));
    }
}
