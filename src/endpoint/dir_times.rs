//! The times of directories on their way: what users of this side made of them is told, and what comes from the other side is set.
//!
//! A directory's time is looked at a moment after something came or went in it, told with others in one message, and not told
//! again before the brain has said what becomes of it. So whoever works in a directory all day costs a few words a second.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Millis, NodeId, RelPath};
use crate::protocol::{DIR_TIMES_MAX, DirTime, DirTimeSet, DirTimeWord, NewDirTime, Reply};
use crate::replica::archive::Archive;
use crate::replica::disk::Disk;
use crate::replica::error::ReplicaError;
use crate::watch::Hint;

use super::Endpoint;

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
    /// The same, in order.
    order: BTreeSet<(Millis, RelPath)>,
    /// The one among them of which an event told last.
    recent: Option<RelPath>,
    /// Where each lies, and how often it was tried in vain.
    told: BTreeMap<NodeId, (RelPath, u8)>,
    /// More than can be remembered were changed.
    crowded: bool,
    /// What came of the other side's times, to be told once it is on disk: after a crash this side would take them for its
    /// users' own.
    set: Vec<(NodeId, DirTimeSet)>,
    /// When something was agreed on that may not be on disk yet.
    unsaved: Option<Millis>,
}

/// Whether a path is that of a name in this very directory.
fn lies_in(path: &RelPath, dir: &RelPath) -> bool {
    let name = path.as_bytes().strip_prefix(dir.as_bytes()).and_then(|rest| rest.strip_prefix(b"/"));
    name.is_some_and(|name| !name.contains(&b'/'))
}

impl DirTimes {
    /// A name at `path` came, went or changed.
    pub fn event(&mut self, path: &RelPath, hint: Hint, now: Millis) {
        match hint {
            // Thousands of them come in one directory: all but the first cost next to nothing.
            Hint::Appeared | Hint::Vanished if self.recent.as_ref().is_some_and(|dir| lies_in(path, dir)) => {}
            Hint::Appeared | Hint::Vanished => {
                if let Some(above) = path.parent().filter(|above| !above.is_root()) {
                    self.note(above.clone(), now + SETTLE, 0);
                    self.recent = self.due.contains_key(&above).then_some(above);
                }
            }
            // Whoever looks at the directory for that compares its time too.
            Hint::Attributes | Hint::Written | Hint::Closed => {}
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
        let (when, tries) = match self.due.remove(&path) {
            Some((when, tried)) => {
                self.order.remove(&(when, path.clone()));
                (when.min(due), tried.min(tries))
            }
            None => (due, tries),
        };
        self.order.insert((when, path.clone()));
        self.due.insert(path, (when, tries));
    }

    /// Takes some of the directories that are to be looked at now: no more than can be told.
    fn take_due(&mut self, now: Millis) -> Vec<(RelPath, u8)> {
        let mut due = Vec::new();
        self.recent = None;
        while due.len() < LOOKS.min(TOLD_MAX.saturating_sub(self.told.len()))
            && self.order.first().is_some_and(|(when, _)| *when <= now)
            && let Some((_, path)) = self.order.pop_first()
        {
            let (_, tries) = self.due.remove(&path).unwrap_or_default();
            due.push((path, tries));
        }
        // One in the other, so that each is entered from the one before it.
        due.sort();
        due
    }

    /// The brain has answered: what users did there since is looked at now.
    fn hasten(&mut self, path: RelPath, now: Millis) {
        if self.due.contains_key(&path) {
            self.note(path, now, 0);
        }
    }

    /// Forgets what is to be looked at.
    fn clear(&mut self) {
        self.due.clear();
        self.order.clear();
        self.recent = None;
    }

    /// Whether there is nothing to look at.
    pub fn is_idle(&self) -> bool {
        self.due.is_empty()
    }

    /// When there is something to do next.
    pub fn next_due(&self) -> Option<Millis> {
        let due = self.order.first().map(|(when, _)| *when).filter(|_| self.told.len() < TOLD_MAX);
        due.into_iter().chain(self.unsaved.map(|since| since + SAVE)).min()
    }

    /// The session is over: nobody waits for an answer.
    pub fn forget_session(&mut self) {
        self.set.clear();
    }

    /// What was told in a session that is over is looked at in the next one.
    pub fn reopen(&mut self, now: Millis) {
        for (path, _) in std::mem::take(&mut self.told).into_values() {
            self.note(path, now, 0);
        }
    }
}

impl<D: Disk, A: Archive> Endpoint<D, A> {
    /// Looks at the directories that are due, and tells what users made of them. True if there is more to do at once.
    pub(super) fn step_dir_times(&mut self, now: Millis, out: &mut Vec<Reply>) -> Result<bool, ReplicaError> {
        if self.replica.settings().dry_run {
            // Nothing is recorded that a time could be compared with.
            self.replica.take_dir_times();
            self.dir_times.clear();
        }
        for path in self.replica.take_dir_times() {
            self.dir_times.note(path, now, 0);
        }
        if std::mem::take(&mut self.dir_times.crowded) {
            self.replica.agenda_mut().scan(RelPath::root());
        }
        let due = self.dir_times.take_due(now);
        let more = due.len() == LOOKS;
        let (mut times, mut last) = (Vec::new(), None);
        for (path, tries) in due {
            let DirTime { node, time } = match self.replica.dir_time_to_tell(&path, &mut last) {
                Ok(Some(told)) => told,
                Ok(None) => continue,
                Err(ReplicaError::Path { .. }) => {
                    self.dir_times.note(path, now + AGAIN, tries + 1);
                    continue;
                }
                Err(error) => return Err(error),
            };
            if self.dir_times.told.contains_key(&node) {
                self.dir_times.note(path, now + AGAIN, tries);
                continue;
            }
            self.dir_times.told.insert(node, (path, tries));
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
        let mut last = None;
        for new in times {
            let outcome = self.replica.set_dir_time(new, &mut last)?;
            match outcome {
                DirTimeSet::Differs(_) => {
                    let path = self.replica.path_of(new.node)?.unwrap_or_else(RelPath::root);
                    self.dir_times.told.insert(new.node, (path, 0));
                }
                DirTimeSet::Done | DirTimeSet::Gone => _ = self.dir_times.told.remove(&new.node),
            }
            self.dir_times.set.push((new.node, outcome));
        }
        Ok(())
    }

    /// Hears what becomes of what this side told.
    pub(super) fn agree_dir_times(&mut self, words: &[(NodeId, DirTimeWord)], now: Millis) -> Result<(), ReplicaError> {
        for (node, word) in words {
            let told = self.dir_times.told.remove(node);
            match word {
                DirTimeWord::Agreed(time) => self.replica.agree_dir_time(*node, *time)?,
                DirTimeWord::Gone | DirTimeWord::Left => {}
            }
            let Some((path, tries)) = told else { continue };
            match word {
                DirTimeWord::Agreed(_) => self.dir_times.hasten(path, now),
                // It may be on its way there, or gone here soon.
                DirTimeWord::Gone => self.dir_times.note(path, now + AGAIN, tries + 1),
                DirTimeWord::Left => {}
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
        times.event(&path("e/z"), Hint::Appeared, 1070);
        for hint in [Hint::Written, Hint::Closed, Hint::Attributes] {
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
