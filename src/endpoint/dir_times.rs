//! The times of directories on their way: what users of this side made of them is told, and what comes from the other side is set.
//!
//! A directory's time is looked at a moment after something came or went in it, told with others in one message, and not told
//! again before the brain has said what becomes of it. So whoever works in a directory all day costs a few words a second.

use std::collections::BTreeMap;

use crate::model::{DIR_TIMES_MAX, DirTime, DirTimeSet, Millis, NewDirTime, NodeId, RelPath, Time};
use crate::replica::archive::Archive;
use crate::replica::disk::Disk;
use crate::replica::error::ReplicaError;
use crate::watch::Hint;

use super::Endpoint;
use super::message::Reply;

/// So long after a change in it a directory is looked at, in milliseconds.
const SETTLE: Millis = 100;
/// The same for one of which the brain has not answered yet, or that cannot be told for now.
const AGAIN: Millis = 1_000;
/// So often one is looked at that cannot be looked at, or whose time cannot be set on the other side; then the next scan does.
const TRIES: u8 = 4;
/// Directories of which the brain has been told, and has not answered.
pub const TOLD_MAX: usize = 4 * DIR_TIMES_MAX;
/// Directories that wait to be looked at. Of more the whole tree is compared.
const DUE_MAX: usize = 100_000;
/// Looks in one slice of work.
const LOOKS: usize = 1024;
/// What was agreed on is put on disk with whatever comes next, or after so long, in milliseconds.
const SAVE: Millis = 1_000;

/// Directories whose times may be news to the other side.
#[derive(Debug, Default)]
pub(super) struct DirTimes {
    /// When each is looked at, and how often that was in vain.
    due: BTreeMap<RelPath, (Millis, u8)>,
    /// How often each was tried in vain.
    told: BTreeMap<NodeId, u8>,
    /// More than can be remembered were changed.
    crowded: bool,
    /// What came of the other side's times, to be told once it is on disk: after a crash this side would take them for its
    /// users' own.
    set: Vec<(NodeId, DirTimeSet)>,
    /// When something was agreed on that may not be on disk yet.
    unsaved: Option<Millis>,
}

impl DirTimes {
    /// A name at `path` came, went or changed.
    pub fn event(&mut self, path: &RelPath, hint: Hint, now: Millis) {
        match hint {
            Hint::Appeared | Hint::Vanished => {
                if let Some(above) = path.parent() {
                    self.note(above, now + SETTLE, 0);
                }
            }
            Hint::Attributes => self.note(path.clone(), now + SETTLE, 0),
            Hint::Written | Hint::Closed => {}
        }
    }

    /// This directory is to be looked at, at this time at the latest, if it was not tried too often in vain.
    fn note(&mut self, path: RelPath, due: Millis, tries: u8) {
        if tries >= TRIES {
            return;
        }
        if path.is_root() {
            // It has no row: what the two roots are called, and their times, is each side's own.
            return;
        }
        if self.due.len() >= DUE_MAX && !self.due.contains_key(&path) {
            self.crowded = true;
            return;
        }
        let (when, tried) = self.due.entry(path).or_insert((due, tries));
        (*when, *tried) = ((*when).min(due), (*tried).min(tries));
    }

    /// Takes some of the directories that are to be looked at now.
    fn take_due(&mut self, now: Millis) -> Vec<(RelPath, u8)> {
        let due =
            self.due.iter().filter(|(_, (when, _))| *when <= now).map(|(path, (_, tries))| (path.clone(), *tries));
        let due: Vec<(RelPath, u8)> = due.take(LOOKS).collect();
        for (path, _) in &due {
            self.due.remove(path);
        }
        due
    }

    /// Whether there is nothing to look at.
    pub fn is_idle(&self) -> bool {
        self.due.is_empty()
    }

    /// When there is something to do next.
    pub fn next_due(&self) -> Option<Millis> {
        self.due.values().map(|(when, _)| *when).chain(self.unsaved.map(|since| since + SAVE)).min()
    }

    /// The session is over: nobody waits for an answer.
    pub fn forget_session(&mut self) {
        self.set.clear();
    }

    /// Takes the directories that the brain was told of, and has not answered.
    fn take_told(&mut self) -> Vec<NodeId> {
        std::mem::take(&mut self.told).into_keys().collect()
    }
}

impl<D: Disk, A: Archive> Endpoint<D, A> {
    /// What was told in a session that is over is looked at in the next one.
    pub(super) fn reopen_dir_times(&mut self, now: Millis) -> Result<(), ReplicaError> {
        for node in self.dir_times.take_told() {
            if let Some(path) = self.replica.path_of(node)? {
                self.dir_times.note(path, now, 0);
            }
        }
        Ok(())
    }

    /// Looks at the directories that are due, and tells what users made of them. True if there is more to do at once.
    pub(super) fn step_dir_times(&mut self, now: Millis, out: &mut Vec<Reply>) -> Result<bool, ReplicaError> {
        if self.replica.settings.dry_run {
            // Nothing is recorded that a time could be compared with.
            self.replica.take_dir_times();
            self.dir_times.due.clear();
        }
        for path in self.replica.take_dir_times() {
            self.dir_times.note(path, now, 0);
        }
        if std::mem::take(&mut self.dir_times.crowded) {
            self.replica.unscanned.insert(RelPath::root());
        }
        let due = self.dir_times.take_due(now);
        let more = due.len() == LOOKS;
        let mut times = Vec::new();
        for (path, tries) in due {
            let DirTime { node, time } = match self.replica.dir_time_to_tell(&path) {
                Ok(Some(told)) => told,
                Ok(None) => continue,
                Err(ReplicaError::Path { .. }) => {
                    self.dir_times.note(path, now + AGAIN, tries + 1);
                    continue;
                }
                Err(error) => return Err(error),
            };
            if self.dir_times.told.contains_key(&node) || self.dir_times.told.len() >= TOLD_MAX {
                self.dir_times.note(path, now + AGAIN, tries);
                continue;
            }
            self.dir_times.told.insert(node, tries);
            times.push(DirTime { node, time });
        }
        if self.replica.doubts_dir_times()
            && self.full_scan.is_none()
            && self.dir_times.due.is_empty()
            && self.dir_times.told.is_empty()
        {
            // All of them were compared with the other side's.
            self.replica.doubt_dir_times(false);
        }
        out.extend(times.chunks(DIR_TIMES_MAX).map(|times| Reply::DirTimes { times: times.to_vec() }));
        Ok(more)
    }

    /// Puts what was agreed on on disk, if nothing else has done so, and tells what came of the other side's times.
    pub(super) fn save_dir_times(&mut self, now: Millis, out: &mut Vec<Reply>) -> Result<(), ReplicaError> {
        if !self.dir_times.set.is_empty() || self.dir_times.unsaved.is_some_and(|since| now >= since + SAVE) {
            self.dir_times.unsaved = None;
            self.replica.commit()?;
        }
        let set = std::mem::take(&mut self.dir_times.set);
        out.extend(set.chunks(DIR_TIMES_MAX).map(|outcomes| Reply::DirTimesSet { outcomes: outcomes.to_vec() }));
        Ok(())
    }

    /// Gives directories the times that the other side's users gave them.
    pub(super) fn set_dir_times(&mut self, times: &[NewDirTime]) -> Result<(), ReplicaError> {
        for new in times {
            let outcome = self.replica.set_dir_time(new)?;
            match outcome {
                DirTimeSet::Differs(_) => _ = self.dir_times.told.insert(new.node, 0),
                DirTimeSet::Done | DirTimeSet::Gone => _ = self.dir_times.told.remove(&new.node),
            }
            self.dir_times.set.push((new.node, outcome));
        }
        Ok(())
    }

    /// Of what this side told, this is agreed on; or nothing (`None`), since the other side has no such directory.
    pub(super) fn agree_dir_times(
        &mut self,
        times: &[(NodeId, Option<Time>)],
        now: Millis,
    ) -> Result<(), ReplicaError> {
        for (node, time) in times {
            let tries = self.dir_times.told.remove(node).unwrap_or_default();
            let Some(path) = self.replica.agree_dir_time(*node, *time)? else { continue };
            match time {
                // What users did since is told next.
                Some(_) => self.dir_times.note(path, now, 0),
                // It may be on its way there, or gone here soon.
                None => self.dir_times.note(path, now + AGAIN, tries + 1),
            }
        }
        self.dir_times.unsaved.get_or_insert(now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).expect("a path")
    }

    #[test]
    fn a_directory_is_due_a_moment_after_the_first_change_in_it() {
        let mut times = DirTimes::default();
        times.event(&path("d/x"), Hint::Appeared, 1000);
        times.event(&path("d/y"), Hint::Vanished, 1050);
        times.event(&path("e"), Hint::Attributes, 1070);
        for hint in [Hint::Written, Hint::Closed] {
            times.event(&path("f/x"), hint, 1000);
        }
        // What lies in the root itself changes the root, which has no row.
        times.event(&path("g"), Hint::Appeared, 1000);
        assert_eq!((times.next_due(), times.take_due(1099)), (Some(1100), vec![]));
        assert_eq!(times.take_due(1100), [(path("d"), 0)]);
        assert_eq!((times.next_due(), times.is_idle()), (Some(1170), false));
        assert_eq!((times.take_due(1170), times.is_idle()), (vec![(path("e"), 0)], true));
    }

    #[test]
    fn those_that_wait_are_bounded() {
        let mut times = DirTimes::default();
        for n in 0..DUE_MAX + 10 {
            times.note(path(&format!("d{n}")), 5, 0);
        }
        assert_eq!((times.due.len(), times.crowded), (DUE_MAX, true));
        // One that waits already does so still.
        times.note(path("d7"), 3, 2);
        assert_eq!(times.next_due(), Some(3));
        assert_eq!((times.take_due(4), times.take_due(5).len()), (vec![(path("d7"), 0)], LOOKS));
        // What was in vain too often is left to the next scan.
        times.note(path("e"), 5, TRIES);
        assert!(!times.due.contains_key(&path("e")));
    }
}
