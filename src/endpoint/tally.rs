//! What an endpoint counts for people: the files that its archive has, and what waits here while nobody takes reports.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::model::Millis;
use crate::protocol::Reply;
use crate::replica::archive::Archive;
use crate::replica::disk::Disk;
use crate::replica::error::ReplicaError;

use super::Endpoint;

/// While there is other work, the number of files is told at most so often, in milliseconds.
const TELL: Millis = 1_000;

/// What waits on a side that nobody listens to, for another thread to read.
#[derive(Debug, Default)]
pub struct Waiting {
    dirty: AtomicU64,
    open: AtomicU64,
    /// 0: nothing is dirty.
    oldest: AtomicU64,
    /// In the archive: the number of files plus one, and their bytes. 0: not known.
    files: AtomicU64,
    bytes: AtomicU64,
}

impl Waiting {
    /// Changes that were not looked at yet.
    pub fn dirty(&self) -> u64 {
        self.dirty.load(Ordering::Relaxed)
    }

    /// Changes that were reported, and that the archive does not have yet.
    pub fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    /// When the oldest change came that was not looked at yet, by [`super::serve::clock`].
    pub fn oldest(&self) -> Option<Millis> {
        Some(self.oldest.load(Ordering::Relaxed)).filter(|since| *since > 0)
    }

    /// The files that the archive has, and their bytes.
    pub fn files(&self) -> Option<(u64, u64)> {
        let files = self.files.load(Ordering::Relaxed).checked_sub(1)?;
        Some((files, self.bytes.load(Ordering::Relaxed)))
    }

    fn set(&self, dirty: u64, open: u64) {
        self.dirty.store(dirty, Ordering::Relaxed);
        self.open.store(open, Ordering::Relaxed);
    }
}

/// What was told of the counts, and who reads the others.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// `None`: not in this session.
    told: Option<(u64, u64)>,
    at: Millis,
    waiting: Arc<Waiting>,
    looked: Millis,
}

impl Tally {
    /// The next session knows nothing.
    pub(super) fn forget(&mut self) {
        (self.told, self.at) = (None, 0);
    }
}

impl<D: Disk, A: Archive> Endpoint<D, A> {
    /// What waits here while no session takes it.
    pub fn waiting(&self) -> Arc<Waiting> {
        self.tally.waiting.clone()
    }

    /// Tells how many files the archive has, if that is news and it was not told a moment ago. With `now` as `None` it is told
    /// however short that is ago: the brain is about to hear that nothing is left to do.
    pub(super) fn tell_tally(&mut self, now: Option<Millis>, out: &mut Vec<Reply>) -> Result<(), ReplicaError> {
        if let Some(now) = now {
            if now < self.tally.at {
                return Ok(());
            }
            self.tally.at = now + TELL;
        }
        let (files, bytes) = self.replica.count_files()?;
        if self.tally.told != Some((files, bytes)) {
            self.tally.told = Some((files, bytes));
            out.push(Reply::Tally { files, bytes });
        }
        Ok(())
    }

    /// Shows what waits, if nobody takes it. To find the oldest change takes its time where there are many.
    pub(super) fn show_waiting(&mut self, now: Millis) {
        let waiting = &self.tally.waiting;
        if self.reports() {
            waiting.set(0, 0);
            waiting.oldest.store(0, Ordering::Relaxed);
            self.tally.looked = 0;
            return;
        }
        let dirty = self.coalescer.len() + self.replica.agenda().scans().len() + self.replica.agenda().looks();
        waiting.set(dirty as u64, self.replica.open_paths() as u64);
        if dirty == 0 || waiting.oldest().is_none() || now >= self.tally.looked + TELL {
            self.tally.looked = now;
            // A damaged archive is told when it is used.
            if let Ok((files, bytes)) = self.replica.count_files() {
                waiting.bytes.store(bytes, Ordering::Relaxed);
                waiting.files.store(files.saturating_add(1), Ordering::Relaxed);
            }
            let oldest = self.coalescer.oldest().filter(|_| dirty > 0).or((dirty > 0).then_some(now));
            waiting.oldest.store(oldest.unwrap_or(0), Ordering::Relaxed);
        }
    }
}
