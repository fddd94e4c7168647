//! The work of an endpoint, in bounded slices: batches first, then what users changed, then contents, then scans.

use std::collections::BTreeMap;

use crate::model::{Generation, Kind, Millis, ProblemKind, RelPath};
use crate::protocol::{Apply, Change, Outcome, Record, Reply, Step, Weight};
use crate::replica::archive::Archive;
use crate::replica::batch::Finished;
use crate::replica::disk::Disk;
use crate::replica::error::ReplicaError;
use crate::replica::examine::How;
use crate::replica::scan::{Found, Scan};

use super::openings::SCANNED;
use super::{Endpoint, Next, Style, saves};

/// Paths examined in one slice.
const LOOKS: usize = 256;
/// Objects compared in one slice of a scan.
const SCAN_SLICE: usize = 512;
/// Directories that are remembered as entered: a scan of each costs time and nothing else.
const ENTERED: usize = 16_384;
/// A question whether anything is left waits at most so long, in milliseconds.
const PING_WAIT: Millis = 2_000;
/// It waits at least so long for files whose times of change move again and again, in milliseconds.
const OWED_WAIT: Millis = 30_000;
/// What waits until reports are dealt with is looked at again after so long, in milliseconds: while it goes on, and else.
const CROWDED: (Millis, Millis) = (50, 5_000);
/// A scan that waits for the brain goes on after this time all the same, in milliseconds.
const STALL: Millis = 5_000;

impl<D: Disk, A: Archive> Endpoint<D, A> {
    /// Does a bounded slice of the work that is due.
    pub fn step(&mut self, now: Millis, out: &mut Vec<Reply>) -> Result<Next, ReplicaError> {
        if self.damaged.is_some() {
            return Ok(Next::Idle);
        }
        let mut said = Vec::new();
        let next = self.work(now, &mut said);
        let next = next.and_then(|next| self.all_directories_first(&mut said, now).map(|()| next));
        let next = self.bear(next, &mut said);
        self.say(said, out);
        self.show_waiting(now);
        next.map(|next| next.unwrap_or(Next::Idle))
    }

    fn work(&mut self, now: Millis, out: &mut Vec<Reply>) -> Result<Next, ReplicaError> {
        if self.is_astray(out)? {
            return Ok(Next::Idle);
        }
        self.flush(out, now)?;
        // Before anything more is told of these directories.
        self.save_dir_times(now, out)?;
        self.replica.begin_slice();
        let mut more = self.step_comparisons(out)?;
        if self.has_lost_root(now) {
            self.reporting = false;
            out.push(Reply::Away { reason: "the root was moved, deleted or unmounted".to_owned() });
        }
        if self.reports() {
            more |= self.step_dirty(now, out)?;
            self.retry_troubles(now, out)?;
            more |= self.step_readings(now, out)?;
        }
        if self.reporting {
            more |= self.step_copies(out)?;
            more |= self.step_supplies(now, out);
            self.step_rsync(now, out);
            more |= self.step_incoming(out)?;
        }
        if self.reports() {
            more |= self.step_scans(now, out)?;
            more |= self.step_proofs(more, now, out)?;
            more |= self.step_dir_times(now, out)?;
        }
        for path in self.replica.agenda_mut().take_vanished() {
            self.vanish(path, now);
        }
        self.tell_special(now, out);
        self.answer_pings(now, out)?;
        if self.reporting {
            self.tell_tally(Some(now), out)?;
            self.look_for_room(now, out)?;
        }
        self.replica.look_for_late_writes(now)?;
        self.replica.give_times_back()?;
        if let Some(seconds) = self.settings.trash_seconds
            && self.reporting
            && now >= self.next_expiry
        {
            // What a crash may still ask for must not be discarded.
            self.finish(out)?;
            self.replica.disk().refill();
            self.next_expiry = self.replica.expire_trash(seconds, now)?;
        }
        let lost = self.lost.drain(..);
        out.extend(lost.map(|(scope, reason)| Reply::Lost { scope, reason: reason.to_owned() }));
        out.extend(self.replica.news_mut().take_notes().into_iter().map(|text| Reply::Note { text }));
        if more || !self.jobs.is_empty() || !self.records.is_empty() || self.replica.is_unfinished() {
            return Ok(Next::Now);
        }
        Ok(self.next_due(now))
    }

    /// Reads a slice of what the other side wants compared. True if there is more to read.
    fn step_comparisons(&mut self, out: &mut Vec<Reply>) -> Result<bool, ReplicaError> {
        if let Some((path, is_part)) = self.replica.step_comparison()? {
            out.push(Reply::Holds { path, is_part });
        }
        Ok(self.replica.compares())
    }

    /// Whether a session wants to know what changes, and wants it now.
    pub(super) fn reports(&self) -> bool {
        self.reporting && !self.held
    }

    /// Says when nothing is left to look at. Users who write all the time must not keep that back for ever.
    fn answer_pings(&mut self, now: Millis, out: &mut Vec<Reply>) -> Result<(), ReplicaError> {
        let busy = !self.jobs.is_empty()
            || self.replica.is_unfinished()
            || !self.records.is_empty()
            || !self.replica.agenda().is_empty()
            || !self.scans.is_empty()
            || !self.readings.is_empty()
            || !self.coalescer.is_empty()
            || !self.dir_times.is_idle();
        // Whoever is told that both sides are equal ends, perhaps, or deletes.
        let owes = self.reports() && self.owes_proofs();
        let rests = owes && self.owes_what_rests();
        let asked = !self.pings.is_empty();
        if !asked {
            self.replica.nobody_waits();
        }
        if asked && let Some(counts) = self.replica.news_mut().take_not_set() {
            out.push(Reply::NotSet { counts });
        }
        let opens = !self.openings.is_empty();
        let waits = |since: Millis| {
            let owes = owes && (rests || now < since + OWED_WAIT);
            // An opening is told soon, whatever users do.
            let opens = opens && now < since + SCANNED + PING_WAIT;
            owes || opens || (busy && now < since + PING_WAIT)
        };
        if self.pings.iter().any(|(_, since)| !waits(*since)) {
            self.tell_tally(None, out)?;
        }
        self.pings.retain(|(number, since)| {
            let wait = waits(*since);
            if !wait {
                out.push(Reply::Pong { number: *number });
            }
            wait
        });
        Ok(())
    }

    fn next_due(&self, now: Millis) -> Next {
        let owes = self.reports() && self.owes_proofs();
        let wait = if owes { OWED_WAIT } else { PING_WAIT };
        let asked = self.pings.iter().map(|(_, since)| since + wait).min().filter(|_| !owes || !self.owes_what_rests());
        let room = self.looks.next.filter(|_| self.reporting);
        let mut due = [self.replica.next_look(), asked, room, self.special_due()].into_iter().flatten().min();
        if self.reports() {
            let trouble = self.troubles.values().map(|t| t.next).min();
            let stalled = self.full_scan.is_some().then_some(now + 100);
            let expiry = self.settings.trash_seconds.map(|_| self.next_expiry);
            let proofs = self.proofs_due(now);
            due = [due, self.coalescer.next_due(), self.dir_times.next_due(), trouble, stalled, expiry, proofs]
                .into_iter()
                .flatten()
                .min();
        }
        match due {
            Some(due) if due <= now => Next::At(now + 1),
            Some(due) => Next::At(due),
            None => Next::Idle,
        }
    }

    /// Whether the batch has grown enough to be carried out before more is taken in.
    pub fn is_full(&self) -> bool {
        self.jobs.len().max(self.records.len()) >= self.settings.batch
    }

    /// Carries out the actions and records that have come in. The end of a large batch waits for the next one, if that
    /// has come by the next call.
    pub(super) fn flush(&mut self, out: &mut Vec<Reply>, now: Millis) -> Result<(), ReplicaError> {
        self.replica.set_now(now);
        let flushed = self.flush_batch(out, now);
        if let Some(reason) = self.replica.take_halt() {
            // At once, before the brain tries again. The link stays, so that the pair stays halted.
            self.free.push(Reply::Halt { reason: format!("{reason} (--accept takes them)") });
            self.policy.end();
            self.reporting = false;
        }
        flushed
    }

    fn flush_batch(&mut self, out: &mut Vec<Reply>, now: Millis) -> Result<(), ReplicaError> {
        self.replica.place_prepared()?;
        if !self.jobs.is_empty() {
            self.carry_out(out, now)?;
        } else if self.records.is_empty() {
            self.finish(out)?;
        }
        if !self.records.is_empty() {
            let records = std::mem::take(&mut self.records);
            self.replica.disk().ease();
            self.replica.sync_sources(&records)?;
            for (generation, record) in &records {
                self.replica.record(*generation, record)?;
            }
            self.finish(out)?;
            self.replica.commit()?;
            if let Some(done) = &self.settings.done {
                records.iter().for_each(|(generation, record)| done.tell(*generation, "record", &record.path));
            }
            self.tell_of_directories(&records, out, now)?;
            out.extend(records.into_iter().map(|(generation, _)| Reply::Recorded { generation }));
            self.last_progress = now;
        }
        Ok(())
    }

    /// A directory that was recorded, and has other rights by now: this is told before what waits for the record goes on
    /// below it.
    fn tell_of_directories(
        &mut self,
        records: &[(Generation, Record)],
        out: &mut Vec<Reply>,
        now: Millis,
    ) -> Result<(), ReplicaError> {
        let is_dir = |record: &Record| record.entry.as_ref().is_some_and(|entry| entry.kind() == Kind::Dir);
        for (_, record) in records.iter().filter(|(_, record)| is_dir(record)) {
            if self.reports() && self.replica.agenda_mut().take_look(&record.path) {
                self.look_at_dirty(&record.path, How::default(), now, out)?;
            }
        }
        Ok(())
    }

    fn carry_out(&mut self, out: &mut Vec<Reply>, now: Millis) -> Result<(), ReplicaError> {
        let jobs = std::mem::take(&mut self.jobs);
        let alone = jobs.len() < self.settings.chain_from;
        let doing: Vec<_> = match self.settings.done {
            Some(_) => jobs.iter().map(|j| (j.generation, (j.apply.step.word(), j.apply.path.clone()))).collect(),
            None => Vec::new(),
        };
        let renames: BTreeMap<_, _> = jobs.iter().map(|job| (job.generation, renames(&job.apply))).collect();
        let finished = self.replica.carry_out(jobs)?;
        self.tell_finished(finished, out);
        self.renames = renames;
        self.doing = doing.into_iter().collect();
        self.last_progress = now;
        if alone {
            self.finish(out)?;
        }
        Ok(())
    }

    /// Ends the last batch.
    pub(super) fn finish(&mut self, out: &mut Vec<Reply>) -> Result<(), ReplicaError> {
        if self.replica.is_unfinished() {
            let finished = self.replica.finish_batch()?;
            self.tell_finished(finished, out);
        }
        Ok(())
    }

    /// Tells what came of a batch that is on disk now, and what was said since: before anything else that is to be said.
    fn tell_finished(&mut self, finished: Vec<Finished>, out: &mut Vec<Reply>) {
        let mut told = Vec::with_capacity(finished.len());
        for finished in finished {
            if let Some(done) = &self.settings.done
                && let Some((what, path)) = self.doing.get(&finished.generation)
                && matches!(finished.outcome, Outcome::Done { .. })
            {
                done.tell(finished.generation, what, path);
            }
            let renames = self.renames.remove(&finished.generation).unwrap_or_default();
            for (from, to) in renames.iter().filter(|_| matches!(finished.outcome, Outcome::Done { .. })) {
                // What users did in it before is to be looked at where it lies now.
                self.coalescer.moved(from, to);
            }
            told.extend(finished.reports.into_iter().map(Reply::Report));
            told.push(Reply::Result { generation: finished.generation, outcome: finished.outcome });
        }
        told.append(&mut self.corked);
        self.free.append(&mut told);
        self.free.append(out);
    }

    /// Says what may be said: while a batch waits for its end, only what came before it. The other side hears of a name's
    /// number before what names it.
    pub(super) fn say(&mut self, mut said: Vec<Reply>, out: &mut Vec<Reply>) {
        for reply in &said {
            if let Reply::Report(change) = reply {
                self.replica.weigh_report(&change.path, change.seq, change.weight());
            }
        }
        out.extend(super::names(&self.replica.disk().names_used(false)));
        let distrusts = self.replica.take_distrusts().into_iter();
        out.extend(distrusts.map(|(path, seq, why)| Reply::Distrust { path, seq, why }));
        let before = out.len();
        out.append(&mut self.free);
        match self.replica.is_unfinished() {
            true => self.corked.append(&mut said),
            false => out.append(&mut said),
        }
        for reply in &out[before..] {
            self.policy.said(reply);
            if let Reply::Result { outcome: Outcome::Failed(problem), .. } = reply
                && problem.kind == ProblemKind::NoSpace
                && !self.replica.has_shortage()
            {
                self.replica.note_shortage(None);
            }
        }
    }

    /// Whether so much waits at the brain that this side tells of nothing new until some of it is dealt with. What is gone
    /// or has moved is told all the same: others may wait for that.
    pub(super) fn is_full_of_reports(&self) -> bool {
        self.replica.open_weight() >= self.settings.open_weight_max
    }

    /// When a new object is to be looked at again that is not told for now.
    pub(super) fn when_room(&self, now: Millis) -> Millis {
        let progress = now.saturating_sub(self.last_progress) < STALL;
        now + if progress { CROWDED.0 } else { CROWDED.1 }
    }

    fn step_dirty(&mut self, now: Millis, out: &mut Vec<Reply>) -> Result<bool, ReplicaError> {
        let verify = self.settings.style == Style::Verified;
        let how = How::event(verify);
        let begun = out.len();
        let due = self.due(now)?;
        self.openings.are_due(&due);
        for path in due {
            self.openings.is_next(&path);
            match self.replica.has_read_enough() {
                // Others have their turn first; then these are the first.
                true => self.replica.agenda_mut().look(path),
                false => self.look_at_dirty(&path, how, now, out)?,
            }
        }
        saves::copies_first(&mut out[begun..]);
        for scope in self.coalescer.take_scopes() {
            self.replica.agenda_mut().scan(scope);
        }
        if self.coalescer.is_empty() && self.replica.agenda().looks() == 0 {
            // What waits for another slice is still to be looked at as what it is.
            self.appeared.clear();
            self.replica.agenda_mut().forget_first();
            if self.scans.is_empty() && self.full_scan.is_none() && self.replica.agenda().scans().is_empty() {
                self.entered.clear();
            }
            self.arrivals.clear();
            self.vanished.clear();
            self.leavers.clear();
        }
        Ok(self.replica.agenda().looks() > 0 || self.coalescer.next_due().is_some_and(|due| due <= now))
    }

    /// The paths that are due, those first to which a directory came: then what lies under its old name now is no
    /// replacement of all that was in it.
    fn due(&mut self, now: Millis) -> Result<Vec<RelPath>, ReplicaError> {
        let mut due = Vec::new();
        while due.len() < LOOKS {
            let next = self.replica.agenda_mut().next_look().or_else(|| self.coalescer.ready(now));
            let Some(path) = next else { break };
            due.push(path);
        }
        let mut movers = self.arrived(&due)?;
        if due.len() > 1 {
            for path in std::mem::take(&mut due) {
                let told = self.replica.agenda_mut().comes_first(&path);
                let moved = told || self.appeared.contains(&path) && self.replica.is_moved_dir(&path)?;
                if moved { movers.push(path) } else { due.push(path) }
            }
        }
        movers.append(&mut due);
        Ok(movers)
    }

    /// Where objects lie now whose deletion would be told next, though the quiet period there is not over: both halves of a
    /// rename belong together, and without the other one it would be a deletion.
    fn arrived(&mut self, due: &[RelPath]) -> Result<Vec<RelPath>, ReplicaError> {
        const TRIED: usize = 256;
        let mut arrived = Vec::new();
        if self.arrivals.is_empty() {
            return Ok(arrived);
        }
        for path in due.iter().filter(|path| self.vanished.contains(*path)) {
            for at in self.arrivals.iter().take(TRIED) {
                if self.replica.has_moved_to(path, at)? {
                    arrived.push(at.clone());
                    break;
                }
            }
        }
        self.arrivals.retain(|at| !arrived.contains(at));
        Ok(arrived)
    }

    /// An administrator wants to know what is left: all of it is due.
    pub(super) fn hasten_troubles(&mut self) {
        self.troubles.values_mut().for_each(|trouble| trouble.next = 0);
    }

    fn retry_troubles(&mut self, now: Millis, out: &mut Vec<Reply>) -> Result<(), ReplicaError> {
        let due: Vec<RelPath> =
            self.troubles.iter().filter(|(_, t)| t.next <= now).map(|(path, _)| path.clone()).take(LOOKS).collect();
        for path in due {
            // A directory that could not be listed has told nothing of what lies in it.
            self.replica.agenda_mut().scan(path.clone());
            self.look(&path, How::default(), now, out)?;
        }
        Ok(())
    }

    /// Goes on with the small scans, then with the full one.
    fn step_scans(&mut self, now: Millis, out: &mut Vec<Reply>) -> Result<bool, ReplicaError> {
        if self.full_scan.is_none() || !self.replica.agenda().is_to_be_scanned(&RelPath::root()) {
            while let Some(scope) = self.replica.agenda_mut().next_scan() {
                if scope.is_root() {
                    // One that was asked for is begun again as it was meant.
                    let (checksum, full) = self.full_scan.as_ref().map_or((false, false), |s| (s.checksum, s.full));
                    let scan = Scan::new(scope).reading(checksum);
                    self.full_scan = Some(if full { scan.full() } else { scan });
                    self.covered = false;
                } else if !self.scans.iter().any(|scan| scan.is_ahead_of(&scope)) {
                    self.look(&scope, How::default(), now, out)?;
                    self.scans.push_back(Scan::new(scope));
                }
            }
        }
        if self.is_full_of_reports() {
            return Ok(false);
        }
        let crowded = self.replica.open_paths() >= self.settings.open_max;
        if crowded && now.saturating_sub(self.last_progress) < STALL {
            return Ok(false);
        }
        // Whoever changes large files again and again keeps no scan from its turn.
        self.replica.begin_slice();
        let mut found = Found::default();
        // The root is watched by the first step of the full scan, and what lies in it only after that.
        let begun = self.full_scan.as_ref().is_none_or(|scan| !scan.cursor.is_root());
        if let Some(mut scan) = if begun { self.scans.pop_front() } else { None } {
            let done = self.replica.scan(&mut scan, SCAN_SLICE, &mut found)?;
            self.hold_contents(&mut found)?;
            self.scans.push_front(scan);
            self.tell_found(found, now, out)?;
            if done {
                self.scans.pop_front();
            }
        } else if let Some(mut scan) = self.full_scan.take() {
            let done = self.replica.scan(&mut scan, SCAN_SLICE, &mut found)?;
            let (cursor, files, bytes) = (scan.cursor.clone(), scan.files, scan.bytes);
            self.full_scan = Some(scan);
            self.tell_found(found, now, out)?;
            match done {
                true => {
                    self.full_scan = None;
                    self.covered = true;
                    self.replica.tree_was_compared();
                    out.push(Reply::ScanDone { files, bytes });
                }
                false => out.push(Reply::Cursor { path: cursor, files, bytes }),
            }
        }
        Ok(!self.scans.is_empty() || self.full_scan.is_some())
    }

    /// Contents that were found by a scan of a part of the tree wait for a full sync, if that is how they travel.
    fn hold_contents(&mut self, found: &mut Found) -> Result<(), ReplicaError> {
        let (held, told) = std::mem::take(&mut found.changes).into_iter().partition(|c| self.waits_for_full_sync(c));
        found.changes = told;
        held.iter().try_for_each(|change: &Change| self.replica.withdraw_report(&change.path))
    }

    fn tell_found(&mut self, found: Found, now: Millis, out: &mut Vec<Reply>) -> Result<(), ReplicaError> {
        if self.entered.len() + found.entered.len() > ENTERED {
            self.entered.clear();
        }
        self.entered.extend(found.entered);
        for path in found.gone {
            self.vanish(path, now);
        }
        for path in found.left {
            self.coalescer.later(&path, now, now);
        }
        for path in found.busy {
            self.coalescer.busy(&path, now);
        }
        for problem in found.problems {
            self.trouble(&problem.path.clone(), now);
            out.push(Reply::Problem { path: problem.path.clone(), problem: Some(problem) });
        }
        for dir in found.long {
            let problem = self.long.found(&dir);
            out.extend(problem.map(|problem| Reply::Problem { path: dir, problem: Some(problem) }));
        }
        for dir in found.short {
            if self.long.is_over(&dir) && !self.troubles.contains_key(&dir) {
                out.push(Reply::Problem { path: dir, problem: None });
            }
        }
        let begun = out.len();
        for change in found.changes {
            // What lies in it comes later in this scan.
            if !self.opens_later(&change, false, now, out)? {
                out.push(Reply::Report(change));
            }
        }
        saves::copies_first(&mut out[begun..]);
        Ok(())
    }
}

/// What an action renames, from where to where.
fn renames(apply: &Apply) -> Vec<(RelPath, RelPath)> {
    match &apply.step {
        Step::Move { from, .. } => vec![(from.clone(), apply.path.clone())],
        Step::Exchange { from, other, .. } => other.renames(from, &apply.path),
        Step::Put { .. } | Step::SetAttrs { .. } | Step::Remove { .. } => Vec::new(),
    }
}
