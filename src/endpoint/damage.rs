//! A damaged archive: the side says so, and does nothing else until an administrator has it begun anew.

use crate::protocol::{Reply, Request, Start};
use crate::replica::archive::Archive;
use crate::replica::disk::Disk;
use crate::replica::error::ReplicaError;

use super::Endpoint;

/// Whether the administrator says that what the archive knows may go.
fn may_begin_anew(start: &Start) -> bool {
    start.accept && start.union && !start.dry_run
}

/// What a side with a damaged archive says to a request. True: it is to be carried out all the same.
pub(super) fn answer(request: &Request, why: &str, out: &mut Vec<Reply>) -> bool {
    match request {
        Request::Start(start) if may_begin_anew(start) => return true,
        Request::Start(_) => out.push(Reply::Damaged { detail: why.to_owned() }),
        Request::Stop => out.push(Reply::Stopped),
        _ => {}
    }
    false
}

impl<D: Disk, A: Archive> Endpoint<D, A> {
    /// Takes an error that says that the archive is damaged for the end of what can be done with it; others are errors.
    pub(super) fn bear<T>(
        &mut self,
        result: Result<T, ReplicaError>,
        out: &mut Vec<Reply>,
    ) -> Result<Option<T>, ReplicaError> {
        let error = match result {
            Ok(done) => return Ok(Some(done)),
            Err(ReplicaError::Archive(error)) if error.damaged => error.to_string(),
            Err(error) => return Err(error),
        };
        self.drop_all();
        out.push(Reply::Damaged { detail: error.clone() });
        self.damaged = Some(error);
        Ok(None)
    }

    /// Whatever was asked for or found has nothing that it could be compared with.
    fn drop_all(&mut self) {
        self.reporting = false;
        self.jobs.clear();
        self.records.clear();
        self.scans.clear();
        self.full_scan = None;
        self.supplies.clear();
        self.copies.clear();
        self.incoming.clear();
        self.corked.clear();
        self.free.clear();
        self.pings.clear();
        self.end_rsync();
        self.replica.forget_batch();
        self.replica.release_dirs();
    }

    /// What a session that may begin anew does with an archive that turns out to be damaged.
    pub(super) fn unless_damaged(&mut self, start: &Start, done: Result<(), ReplicaError>) -> Result<(), ReplicaError> {
        match done {
            Err(ReplicaError::Archive(error)) if error.damaged && may_begin_anew(start) => self.begin_anew(),
            done => done,
        }
    }

    /// Keeps the damaged archive aside and begins an empty one: both trees meet as if for the first time.
    pub(super) fn begin_anew(&mut self) -> Result<(), ReplicaError> {
        self.drop_all();
        self.replica.begin_anew()?;
        self.damaged = None;
        self.fresh = true;
        self.covered = false;
        let note = "the damaged archive is kept beside the new one, as archive.db.damaged-…, for whoever wants to look into it";
        self.replica.news_mut().note(note.to_owned());
        Ok(())
    }
}
