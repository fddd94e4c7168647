//! Proofs: files whose rows prove nothing are compared by their contents, a slice at a time, when nobody else has work.
//!
//! What is *owed* goes first: a ctime moved, so the file may hold something new, and nobody may say before that both sides are
//! equal. All else that is unproven is walked through at leisure: what a coarse clock cannot vouch for, what somebody had
//! open when it was sent, and what both sides took for equal unread when they met.

use crate::model::{Millis, NodeId, RelPath, Side};
use crate::protocol::Reply;
use crate::replica::archive::Archive;
use crate::replica::disk::Disk;
use crate::replica::error::ReplicaError;
use crate::replica::examine::How;
use crate::replica::unproven::Suspect;

use super::Endpoint;

/// Files in one slice.
const FILES: usize = 32;
/// While others have work a slice is read once in so many milliseconds: a save waits for one slice at most.
const GAP: Millis = 250;
/// What nobody waits for is read a slice in so many milliseconds at most.
const LEISURE: Millis = 100;
/// A walk begins so many milliseconds after a row came that proves nothing: by then a clock of whole seconds went on.
const SETTLE: Millis = 2_500;
/// The first walk of a session begins so late, in milliseconds.
const FIRST: Millis = 5_000;
/// What is left after a walk is tried again after so many milliseconds if somebody has it open, ...
const WRITTEN: Millis = 5_000;
/// ... else doubling from there up to this.
const LONGEST: Millis = 300_000;
/// While a walk goes on its progress is told in so many milliseconds once.
const TELL: Millis = 30_000;
/// Reports that may be open while a walk goes on.
const OPEN_MAX: usize = 256;

/// How far the comparing has got.
#[derive(Debug)]
pub(super) struct Proofs {
    /// What is being read slice by slice.
    at: Option<Proof>,
    /// There is more to read of the file that is looked at.
    more: bool,
    /// The last node of the walk that is on.
    walk: Option<NodeId>,
    /// When the next walk begins; `None`: nothing is left to prove.
    next: Option<Millis>,
    /// How long what is left waits.
    pause: Millis,
    /// The walk that is on finds all that is owed.
    owed: bool,
    /// Since the last walk began a file was met that somebody is writing.
    written: bool,
    /// When a slice was read.
    read: Millis,
    /// How many files were told to be unproven, and when.
    told: (u64, Millis),
}

/// A file that is to be compared.
#[derive(Debug)]
struct Proof {
    path: RelPath,
    how: How,
    size: u64,
    owed: bool,
}

impl Proof {
    fn of(suspect: Suspect, owed: bool) -> Proof {
        let Suspect { path, size, unread, .. } = suspect;
        Proof { path, how: How::proof(unread), size, owed }
    }
}

impl Default for Proofs {
    fn default() -> Proofs {
        let (at, walk, next, told) = (None, None, None, (0, 0));
        Proofs { at, more: false, walk, next, pause: WRITTEN, owed: false, written: false, read: 0, told }
    }
}

impl Proofs {
    /// A session begins: what is unproven is walked through when that has come to rest.
    pub fn begin(&mut self, now: Millis) {
        *self = Proofs { next: Some(now + FIRST), ..Proofs::default() };
    }

    /// There is more to read of the file that is looked at.
    pub fn go_on(&mut self) {
        self.more = true;
    }

    /// Somebody is writing the file that is looked at.
    pub fn is_written(&mut self, now: Millis) {
        self.written = true;
        self.next_by(now + WRITTEN);
    }

    fn next_by(&mut self, when: Millis) {
        self.next = Some(self.next.map_or(when, |next| next.min(when)));
    }

    /// A walk is over, and something is left, or nothing.
    fn end_walk(&mut self, left: bool, now: Millis) {
        (self.walk, self.owed) = (None, false);
        if !left {
            self.pause = WRITTEN;
            self.next = None;
        } else if !self.written {
            self.next_by(now + self.pause);
            self.pause = (self.pause * 2).min(LONGEST);
        }
    }
}

impl<D: Disk, A: Archive> Endpoint<D, A> {
    /// Whether a file may hold something that nobody was told of.
    pub(super) fn owes_proofs(&self) -> bool {
        self.proofs.owed || self.proofs.at.as_ref().is_some_and(|proof| proof.owed) || self.replica.owes()
    }

    /// The same but for files whose ctimes move again and again.
    pub(super) fn owes_what_rests(&self) -> bool {
        let at = self.proofs.at.as_ref().filter(|proof| proof.owed).map(|proof| &proof.path);
        self.proofs.owed || self.replica.owes_what_rests(at)
    }

    /// When there is something to compare that could not be compared at once. While too much is open nothing is compared; what
    /// ends that wakes the endpoint.
    pub(super) fn proofs_due(&self, now: Millis) -> Option<Millis> {
        let goes_on = self.replica.owes() || self.proofs.at.is_some() || self.replica.open_paths() < OPEN_MAX;
        if self.is_full_of_reports() || !goes_on {
            return None;
        }
        match self.owes_proofs() || self.proofs.walk.is_some() || self.proofs.at.is_some() {
            true => Some((self.proofs.read + LEISURE).max(now + 1)),
            false => self.proofs.next,
        }
    }

    /// Compares some more. `busy`: others have work. True if there is more to do at once.
    pub(super) fn step_proofs(&mut self, busy: bool, now: Millis, out: &mut Vec<Reply>) -> Result<bool, ReplicaError> {
        if self.replica.take_unproven() {
            self.proofs.pause = WRITTEN;
            self.proofs.next_by(now + SETTLE);
        }
        if self.replica.owes_more() {
            (self.proofs.owed, self.proofs.walk) = (true, Some(0));
        }
        if (busy && now < self.proofs.read + GAP) || self.is_full_of_reports() {
            return Ok(false);
        }
        let leisure = now >= self.proofs.read + LEISURE;
        let walked = self.proofs.walk.is_some();
        let mut left = self.replica.settings().read_slice;
        let mut worked = false;
        for _ in 0..FILES {
            let Some(proof) = self.next_proof(leisure, now)? else { break };
            (worked, self.proofs.read) = (true, now);
            self.look(&proof.path, proof.how, now, out)?;
            if std::mem::take(&mut self.proofs.more) {
                self.proofs.at = Some(proof);
                break;
            }
            left = left.saturating_sub(proof.size);
            if left == 0 {
                break;
            }
        }
        let walks = self.proofs.walk.is_some();
        if walks != walked || (walks && now >= self.proofs.told.1 + TELL) {
            self.tell_unproven(now, out)?;
        }
        Ok(worked && !busy && self.owes_proofs())
    }

    /// Tells how many files are unproven, if that is news.
    fn tell_unproven(&mut self, now: Millis, out: &mut Vec<Reply>) -> Result<(), ReplicaError> {
        let files = self.replica.count_unproven()?;
        if files != self.proofs.told.0 {
            out.push(Reply::Unproven { files });
        }
        self.proofs.told = (files, now);
        Ok(())
    }

    /// The next file to compare; without `leisure` only one that is owed.
    fn next_proof(&mut self, leisure: bool, now: Millis) -> Result<Option<Proof>, ReplicaError> {
        if self.proofs.at.as_ref().is_some_and(|proof| proof.owed || leisure) {
            return Ok(self.proofs.at.take());
        }
        while let Some(path) = self.replica.pop_owed() {
            if let Some(suspect) = self.replica.suspect_at(&path)? {
                return Ok(Some(Proof::of(suspect, true)));
            }
        }
        if self.proofs.at.is_some() || !(leisure || self.proofs.owed) {
            return Ok(None);
        }
        self.next_of_walk(now)
    }

    /// The next file of the walk through all that is unproven.
    fn next_of_walk(&mut self, now: Millis) -> Result<Option<Proof>, ReplicaError> {
        if self.proofs.walk.is_none() && self.proofs.next.is_some_and(|next| next <= now) {
            (self.proofs.walk, self.proofs.next, self.proofs.written) = (Some(0), None, false);
        }
        for _ in 0..FILES {
            let Some(above) = self.proofs.walk.filter(|_| self.replica.open_paths() < OPEN_MAX) else {
                return Ok(None);
            };
            let Some((last, suspect)) = self.replica.next_suspect(above)? else {
                // What was proven need not be compared again after a crash.
                self.replica.commit()?;
                let left = self.replica.count_unproven()? > 0;
                self.proofs.end_walk(left, now);
                return Ok(None);
            };
            self.proofs.walk = Some(last);
            // Of what was taken for equal unread one side tells, and the other is asked.
            let tells = self.replica.settings().side == Side::Left;
            if let Some(suspect) = suspect.filter(|suspect| !suspect.unread || tells) {
                return Ok(Some(Proof::of(suspect, self.proofs.owed)));
            }
        }
        Ok(None)
    }
}
