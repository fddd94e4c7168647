//! One look at a path, and what becomes of it: a report, a wait, a problem, or nothing.

use crate::model::{Kind, Millis, RelPath};
use crate::protocol::{Change, Reply};
use crate::replica::archive::Archive;
use crate::replica::disk::Disk;
use crate::replica::error::ReplicaError;
use crate::replica::examine::how::Why;
use crate::replica::examine::{Examined, How};
use crate::watch::Hint;

use super::{Endpoint, Style, Trouble, openings};

impl<D: Disk, A: Archive> Endpoint<D, A> {
    /// Looks at a path of which an event told. A directory that came to it is scanned, unless that was done since.
    pub(super) fn look_at_dirty(
        &mut self,
        path: &RelPath,
        how: How,
        now: Millis,
        out: &mut Vec<Reply>,
    ) -> Result<(), ReplicaError> {
        let appeared = self.appeared.remove(path);
        self.look(path, how, now, out)?;
        if (appeared || self.settings.recurse)
            && let Some(dir) = self.replica.dir_at(path)
            && (self.settings.recurse || self.entered.get(path) != Some(&dir))
        {
            self.replica.agenda_mut().scan(path.clone());
        }
        Ok(())
    }

    /// Examines one path and reports or troubles about it.
    pub(super) fn look(
        &mut self,
        path: &RelPath,
        how: How,
        now: Millis,
        out: &mut Vec<Reply>,
    ) -> Result<(), ReplicaError> {
        if let Some(above) = self.replica.unreported_above(path)? {
            // Parents first: what lies in an unknown directory makes no sense to the other side.
            let plain = How { inline: how.inline, ..How::default() };
            self.look(&above, plain, now, out)?;
            if self.troubles.contains_key(&above) {
                // What lies in it waits for the end of that: then all of it is scanned.
                if how.again {
                    self.take_back(path, now, out)?;
                }
                if self.troubles.remove(path).is_some() {
                    out.push(Reply::Problem { path: path.clone(), problem: None });
                }
                return Ok(());
            }
        }
        self.look_at_leaver(path, how, now, out)?;
        let how = How { patient: self.is_patient(path, now), ..how };
        let told = self.replica.tells_a_directory(path);
        let examined = self.replica.examine(path, how)?;
        if !matches!(&examined, Examined::Changed(change) if change.after.is_some()) {
            self.openings.forget(path);
        }
        let fine = !matches!(examined, Examined::Problem(_) | Examined::Busy | Examined::Reading);
        // Looked at for another reason before that time is over, it has not waited.
        let noted = self.vanished.remove(path);
        let waiting = noted && self.coalescer.is_dirty(path);
        let waited = noted && !waiting;
        if !matches!(examined, Examined::Left { .. }) {
            self.release_move(path);
        }
        match examined {
            // A deletion waits for the re-creation that editors make, whoever asks, or whatever the look was due for.
            Examined::Changed(change) if change.after.is_none() && change.known.is_some() && (how.again || !waited) => {
                match waiting {
                    true => self.vanished.extend([path.clone()]),
                    false => self.vanish(path.clone(), now),
                }
                match how.again {
                    true => {
                        self.take_back_below(path, now, out)?;
                        self.take_back(path, now, out)?;
                    }
                    false => self.replica.withdraw_report(path)?,
                }
            }
            // A full sync sends it.
            Examined::Changed(change) if !how.again && self.waits_for_full_sync(&change) => {
                self.coalescer.clean(path);
                self.replica.withdraw_report(path)?;
            }
            Examined::Changed(change)
                if !how.again && change.after.is_some() && change.moved.is_none() && self.is_full_of_reports() =>
            {
                self.replica.withdraw_report(path)?;
                self.coalescer.later(path, self.when_room(now), now);
            }
            Examined::Changed(change) if self.opens_later(&change, how.again, now, out)? => {}
            Examined::Changed(change) => {
                let new = change.known.is_none() && change.moved.is_none();
                let dir = change.after.as_ref().is_some_and(|e| e.kind() == Kind::Dir);
                if dir && (!how.again || how.why == Why::Copy || new) {
                    // Below a directory that is taken for a new one everything is to be looked at, also where it was told as
                    // one that had moved before.
                    self.replica.agenda_mut().scan(path.clone());
                }
                self.coalescer.sent(path, now);
                let left = match (&change.moved, &change.after) {
                    (Some(moved), _) => Some(&moved.from),
                    (None, None) => Some(path),
                    (None, Some(_)) => None,
                };
                let over = left.map(|left| self.long.gone(left)).unwrap_or_default();
                out.extend(over.into_iter().map(|path| Reply::Problem { path, problem: None }));
                out.push(Reply::Report(*change));
            }
            Examined::Left { from, made } => {
                if !self.hold_move(path, from, made, now) {
                    return self.look(path, how, now, out);
                }
                if how.again {
                    self.take_back(path, now, out)?;
                }
            }
            Examined::Busy if how.why == Why::Proof => {
                self.proofs.is_written(now);
                if self.replica.shows_a_change(path)? {
                    // No event told of it: the file had no name, or another, when it was opened.
                    self.coalescer.later(path, now, now);
                }
            }
            Examined::Busy => {
                if self.coalescer.busy(path, now) {
                    self.look(path, How { despite_writers: true, ..how }, now, out)?;
                } else if how.again {
                    self.take_back(path, now, out)?;
                }
            }
            Examined::Reading if how.why == Why::Proof => self.proofs.go_on(),
            Examined::Reading => self.read_later(path, how),
            // The directory may turn up under another name: its own deletion waits as every other.
            Examined::Above(above) => self.vanish(above, now),
            // It was taken for what it should be before this look; if that is wrong, another one tells.
            Examined::Problem(_) if how.why == Why::Proof => {}
            Examined::Problem(problem) => {
                if how.again {
                    self.take_back(path, now, out)?;
                }
                self.trouble(path, now);
                out.push(Reply::Problem { path: path.clone(), problem: Some(problem) });
            }
            // What lies in a directory passes a word of its opening: its row is told in place of that first. The other side's
            // row may be a later one, so to take the word back would not do.
            Examined::Same if told && !how.again => return self.look(path, How { again: true, ..how }, now, out),
            Examined::Same | Examined::Known | Examined::Excluded => {
                self.coalescer.clean(path);
                if how.again {
                    out.push(Reply::Clean { path: path.clone() });
                }
            }
        }
        if fine && self.troubles.remove(path).is_some() {
            // If it is a directory, it may not have been listed, and what else is wrong with it is told again.
            self.long.is_over(path);
            self.replica.agenda_mut().scan(path.clone());
            out.push(Reply::Problem { path: path.clone(), problem: None });
        }
        Ok(())
    }

    /// There is more to read of a large file: its look goes on when others have had their turn.
    pub(super) fn read_later(&mut self, path: &RelPath, how: How) {
        match self.readings.iter_mut().find(|(waiting, _)| waiting == path) {
            Some((_, waiting)) => waiting.join(how),
            None => self.readings.push_back((path.clone(), how)),
        }
    }

    /// Reads a slice of the file that has waited for longest. True if there is more to read.
    pub(super) fn step_readings(&mut self, now: Millis, out: &mut Vec<Reply>) -> Result<bool, ReplicaError> {
        if let Some((path, how)) = self.readings.pop_front() {
            self.look(&path, how, now, out)?;
        }
        Ok(!self.readings.is_empty())
    }

    /// Nothing lies at the path any more, which is told if it is so for a while.
    pub(super) fn vanish(&mut self, path: RelPath, now: Millis) {
        self.vanished.insert(path.clone());
        self.coalescer.event(path, Hint::Vanished, now);
    }

    /// Whether contents changed that travel with the next full sync only.
    pub(super) fn waits_for_full_sync(&self, change: &Change) -> bool {
        let file = change.after.as_ref().is_some_and(|after| after.kind() == Kind::File);
        self.settings.style == Style::Batched && file && change.contents && change.moved.is_none()
    }

    /// The brain is to forget what was reported of a path; so must the replica, or the next look would find nothing new. Until
    /// that look a directory above it that is about to open there waits as well.
    pub(super) fn take_back(&mut self, path: &RelPath, now: Millis, out: &mut Vec<Reply>) -> Result<(), ReplicaError> {
        for above in path.ancestors().filter(|above| !above.is_root()) {
            if self.replica.tells_an_opening(&above)? {
                self.replica.withdraw_report(&above)?;
                self.coalescer.later(&above, now + openings::AGAIN, now);
                out.push(Reply::Clean { path: above });
            }
        }
        self.replica.withdraw_report(path)?;
        out.push(Reply::Clean { path: path.clone() });
        Ok(())
    }

    /// The same of what was told below a directory that is gone, before the directory's own word: else it would pass for
    /// something in the directory as both sides agreed on it, which may let in more people than the last one told.
    fn take_back_below(&mut self, top: &RelPath, now: Millis, out: &mut Vec<Reply>) -> Result<(), ReplicaError> {
        for path in self.replica.reported_below(top) {
            self.coalescer.later(&path, now, now);
            self.replica.withdraw_report(&path)?;
            out.push(Reply::Clean { path });
        }
        Ok(())
    }

    pub(super) fn trouble(&mut self, path: &RelPath, now: Millis) {
        const FIRST: Millis = 1_000;
        const LAST: Millis = 300_000;
        const MAX: usize = 10_000;
        if self.troubles.len() >= MAX && !self.troubles.contains_key(path) {
            return;
        }
        let trouble = self.troubles.entry(path.clone()).or_insert(Trouble { next: 0, delay: FIRST / 2 });
        trouble.delay = (trouble.delay * 2).min(LAST);
        trouble.next = now + trouble.delay;
    }
}
