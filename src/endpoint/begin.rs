//! How a session begins: what a side says of itself, and what it does once both know each other's rows.

use crate::model::{Millis, RelPath};
use crate::protocol::Hello;
use crate::replica::archive::Archive;
use crate::replica::disk::Disk;
use crate::replica::error::ReplicaError;
use crate::replica::scan::Scan;

use super::{Endpoint, SCAN_INLINE};

impl<D: Disk, A: Archive> Endpoint<D, A> {
    /// What this side says of itself first.
    pub(super) fn hello(&self) -> Result<Hello, ReplicaError> {
        let identity = self.replica.identity();
        let root = self.replica.root()?;
        Ok(Hello {
            archive: identity.archive,
            peer: identity.peer,
            generation: identity.generation,
            confirmed: identity.confirmed,
            fresh: self.fresh,
            rebooted: self.replica.is_rebooted(),
            rows: self.replica.count_rows()?,
            came: self.replica.count_came()?,
            top_entries: root.entries,
            side: identity.side,
            exchanged: root.exchanged,
            filters: self.filters,
            clock: self.replica.clock(),
            watching: self.covered && self.full_scan.is_none(),
        })
    }

    /// The exchange of rows is over: this side reports from now on, after a scan where one is wanted.
    pub(super) fn go(&mut self, peer: [u8; 16], scan: bool, whole: bool, now: Millis) -> Result<(), ReplicaError> {
        let lessons = std::mem::take(&mut self.lessons);
        if !self.replica.is_a_tree(&lessons)? {
            self.policy.end();
            self.refused = Some("the other side teaches rows that lie in each other".to_owned());
            return Ok(());
        }
        if !lessons.is_empty() {
            self.replica.learn(&lessons)?;
            self.replica.commit()?;
        }
        self.replica.meet_peer(peer)?;
        self.fresh = false;
        self.reporting = true;
        self.last_progress = now;
        self.replica.reopen_reports()?;
        self.dir_times.reopen(now);
        self.proofs.begin(now);
        self.begin_special();
        self.long.again().into_iter().for_each(|path| self.replica.agenda_mut().scan(path));
        if scan || !self.covered {
            // The full scan comes by everywhere, and enters each directory from its parent, which is watched by then.
            self.replica.agenda_mut().drop_scans();
            self.scans.clear();
            self.entered.clear();
            self.full_scan = Some(Scan::new(RelPath::root()).full().attaching(if whole { SCAN_INLINE } else { 0 }));
        }
        Ok(())
    }
}
