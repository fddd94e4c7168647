//! How a path is looked at: why, and what is wanted of a file's contents.

/// Why a path is looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Why {
    /// Something may have changed there: psync's own work, a scan or another try says so.
    #[default]
    Due,
    /// An event told of it. Of a directory whose times alone moved nothing is written: that goes on all the time.
    Event,
    /// The other side asks for it.
    Asked,
    /// The same, and takes the object for a new one even if the archive knows it under another name.
    Copy,
    /// Only the contents can tell whether it is what its row says. That is nobody's hurry: a file that somebody is writing is left
    /// alone, whatever the settings say.
    Proof,
}

/// When a file's contents are compared, each with all that the ones before it are for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Compare {
    /// If its stat shows a change. A large one of which only the ctime moved may wait.
    #[default]
    Later,
    /// Large ones as well.
    Now,
    /// No stat is believed: a file that looks unchanged is compared by its hash.
    Verify,
    /// The whole file is read for its hash, whatever its size. One that looks unchanged and has none takes it.
    Hash,
    /// No stat is believed, and all is read: a hash of what was taken for equal unread is told.
    All,
}

impl Compare {
    /// Whether a file that looks unchanged is compared.
    pub fn verifies(self) -> bool {
        matches!(self, Compare::Verify | Compare::All)
    }

    /// Whether the hash is wanted in any case.
    pub fn hashes(self) -> bool {
        matches!(self, Compare::Hash | Compare::All)
    }

    /// What serves both.
    pub fn and(self, other: Compare) -> Compare {
        match (self, other) {
            (Compare::Verify, Compare::Hash) | (Compare::Hash, Compare::Verify) => Compare::All,
            _ => self.max(other),
        }
    }
}

/// How a path is to be examined.
#[derive(Debug, Clone, Copy, Default)]
pub struct How {
    pub why: Why,
    pub compare: Compare,
    /// Report even what was reported before, or equals the ancestor.
    pub again: bool,
    /// Attach the contents of files of up to so many bytes, as far as small files are attached at all.
    pub inline: u64,
    /// Do not wait for those who have the file open for writing.
    pub despite_writers: bool,
    /// Tell no move of a file that has only now left its old name empty: it may be there again in a moment.
    pub patient: bool,
}

impl How {
    /// An event told of the path. `verify`: whatever its stat says it is compared.
    pub fn event(verify: bool) -> How {
        let compare = if verify { Compare::Verify } else { Compare::Later };
        How { why: Why::Event, compare, inline: u64::MAX, ..How::default() }
    }

    /// The other side wants to know what lies there.
    pub fn asked(as_copy: bool) -> How {
        let why = if as_copy { Why::Copy } else { Why::Asked };
        How { why, again: true, inline: u64::MAX, ..How::default() }
    }

    /// The other side wants the hash of what lies there.
    pub fn asked_for_hash() -> How {
        How { why: Why::Asked, compare: Compare::Hash, again: true, ..How::default() }
    }

    /// The contents tell whether the row holds. `unread`: nobody has read them ever.
    pub fn proof(unread: bool) -> How {
        let compare = if unread { Compare::All } else { Compare::Now };
        How { why: Why::Proof, compare, inline: u64::MAX, ..How::default() }
    }

    /// A scan comes by. `read`: one that reads everything.
    pub fn scanned(read: bool, inline: u64) -> How {
        let compare = if read { Compare::All } else { Compare::Later };
        How { compare, inline, ..How::default() }
    }

    /// The same look in the name of another one too.
    pub fn join(&mut self, other: How) {
        self.again |= other.again;
        self.compare = self.compare.and(other.compare);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_serves_both_does_what_each_asked_for() {
        let all = [Compare::Later, Compare::Now, Compare::Verify, Compare::Hash, Compare::All];
        for one in all {
            for other in all {
                let both = one.and(other);
                assert_eq!(both, other.and(one), "{one:?} {other:?}");
                assert_eq!(both.verifies(), one.verifies() || other.verifies(), "{one:?} {other:?}");
                assert_eq!(both.hashes(), one.hashes() || other.hashes(), "{one:?} {other:?}");
                assert_eq!(both == Compare::Later, one == Compare::Later && other == Compare::Later);
            }
        }
    }

    #[test]
    fn a_look_in_anothers_name_answers_it() {
        let mut how = How::event(true);
        how.join(How::asked_for_hash());
        assert_eq!((how.why, how.compare, how.again), (Why::Event, Compare::All, true));
    }
}
