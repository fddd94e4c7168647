//! Directories first: nobody may see on the other side, be it for a moment, what the rights of a directory keep from him
//! here.
//!
//! A directory whose rights changed may be quiet, or its event may not have come yet, when something new in it is
//! reported. So each report has the directories above it looked at, after it was made and before it is said: by their
//! live rights, not by events. What differs is reported first, and the engine lets nothing pass below it until both
//! sides have it. That takes three system calls for each directory above the reports of one slice of work.

use std::collections::BTreeSet;

use crate::model::{Millis, RelPath};
use crate::replica::archive::Archive;
use crate::replica::disk::Disk;
use crate::replica::error::ReplicaError;
use crate::replica::examine::How;

use super::Endpoint;
use super::message::Reply;

impl<D: Disk, A: Archive> Endpoint<D, A> {
    /// The same for all that is about to be said, what waited for the end of a batch included.
    pub(super) fn all_directories_first(&mut self, said: &mut Vec<Reply>, now: Millis) -> Result<(), ReplicaError> {
        let mut free = std::mem::take(&mut self.free);
        let done = self.directories_first(&mut free, now);
        self.free = free;
        done.and_then(|()| self.directories_first(said, now))
    }

    /// Puts reports of directories before those of what lies in them. What lies in a directory that cannot be looked at
    /// waits for the end of that.
    pub(super) fn directories_first(&mut self, said: &mut Vec<Reply>, now: Millis) -> Result<(), ReplicaError> {
        let Some(first) = said.iter().position(|reply| brings(reply).is_some()) else { return Ok(()) };
        let above = above(said.iter().filter_map(brings));
        if above.is_empty() {
            return Ok(());
        }
        let mut changed = self.replica.with_other_rights(&above)?;
        for path in above {
            if self.coalescer.take_now(&path) | self.replica.dirty.remove(&path) {
                changed.insert(path);
            }
        }
        let mut before = Vec::new();
        for path in changed {
            // Its event may have been taken out of its turn: what it asked for is done here.
            self.look_at_dirty(&path, How::default(), now, &mut before)?;
            if self.troubles.contains_key(&path) {
                self.hold_back(&path, said)?;
            }
        }
        said.splice(first..first, before);
        Ok(())
    }

    /// Takes back what would be said of what lies below a directory. When its trouble ends all of it is scanned.
    fn hold_back(&mut self, top: &RelPath, said: &mut [Reply]) -> Result<(), ReplicaError> {
        for reply in said {
            if let Some(path) = brings(reply).filter(|path| path.is_below(top)).cloned() {
                self.replica.withdraw_report(&path)?;
                *reply = Reply::Clean { path };
            }
        }
        Ok(())
    }
}

/// The path of a report that something is there.
fn brings(reply: &Reply) -> Option<&RelPath> {
    match reply {
        Reply::Report(change) if change.after.is_some() => Some(&change.path),
        _ => None,
    }
}

/// All directories above these paths, but for the root: its rights do not travel.
fn above<'a>(paths: impl Iterator<Item = &'a RelPath>) -> BTreeSet<RelPath> {
    let mut found = BTreeSet::new();
    let mut last = None;
    for path in paths {
        let parent = path.parent();
        if parent == last {
            continue;
        }
        let mut at = parent.clone();
        while let Some(dir) = at.filter(|dir| !dir.is_root() && !found.contains(dir)) {
            at = dir.parent();
            found.insert(dir);
        }
        last = parent;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_directory_once_and_never_the_root() {
        let path = |text: &str| RelPath::new(text.as_bytes()).expect("a path");
        let paths = ["a/b/c", "a/b/d", "a/e", "f", "a/b/g/h"].map(path);
        let found: Vec<String> = above(paths.iter()).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["a", "a/b", "a/b/g"]);
    }
}
