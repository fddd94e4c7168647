//! Contents by rsync: one run of it on each side for one file. The source's gets the open file that was reported, the
//! receiver's an empty directory in the stage; what they say to each other passes through the brain like other contents.
//! What came is placed as any other object is, if it has the hash of what was sent.

mod process;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use serde_bytes::ByteBuf;

use crate::model::{Content, Generation, Kind, Millis, Name, Problem, ProblemKind, RelPath, Seq};
use crate::protocol::{Apply, Data, Outcome, Reply, Step, Tunnel};
use crate::replica::archive::{Archive, Signature};
use crate::replica::batch::Job;
use crate::replica::disk::{Disk, Own};
use crate::replica::error::{At, ReplicaError};
use crate::replica::stage::Undressed;
use crate::transfer::rsync::{client_options, server_arguments};
use crate::transfer::{data_in, holds_still};
use crate::watch::Hint;

use super::{Endpoint, fail};
use process::{Contents, Failure, Run, Teller, What};

pub use process::Told;

/// Files that this side sends at a time.
const RUNS: usize = 4;
/// Files that come at a time: as many as the other side sends, and those that are about to be placed.
const COMING_MAX: usize = 16;
/// So many times in a row rsync may find a file gone or changed (exit codes 23 and 24) before that is a problem.
const PASSING_MAX: u32 = 3;
/// Paths of which that is remembered.
const PATHS_MAX: usize = 1000;

/// How this side runs rsync.
#[derive(Clone)]
pub struct Mover {
    /// Beside psync's own options.
    pub words: Vec<String>,
    /// Takes what a run tells to the thread of the endpoint.
    pub post: Arc<dyn Fn(Told) + Send + Sync>,
}

/// A file that goes to the other side.
struct Going<F> {
    path: RelPath,
    file: F,
    signature: Signature,
    /// `None`: others are before it.
    run: Option<Run>,
}

/// A file that comes.
struct Coming<D> {
    apply: Apply,
    /// From the first word of the source's rsync on.
    made: Option<Made<D>>,
    /// What the source says that it has sent.
    sent: Option<Contents>,
}

/// Where it is made.
struct Made<D> {
    work: Name,
    directory: D,
    run: Run,
    ended: Option<Result<Contents, Failure>>,
}

/// All runs of one endpoint.
pub(super) struct Runs<D: Disk> {
    mover: Option<Mover>,
    going: BTreeMap<Generation, Going<D::File>>,
    coming: BTreeMap<Generation, Coming<D::Dir>>,
    /// How often in a row files had gone or changed.
    passing: BTreeMap<RelPath, u32>,
    number: u64,
}

impl<D: Disk> Default for Runs<D> {
    fn default() -> Runs<D> {
        Runs { mover: None, going: BTreeMap::new(), coming: BTreeMap::new(), passing: BTreeMap::new(), number: 0 }
    }
}

impl<D: Disk> Runs<D> {
    /// What tells the endpoint of the next run.
    fn teller(&mut self, generation: Generation) -> Option<(Teller, &Mover)> {
        let mover = self.mover.as_ref()?;
        self.number += 1;
        let post = mover.post.clone();
        Some((Teller { generation, number: self.number, post }, mover))
    }

    pub(super) fn is_coming(&self, generation: Generation) -> bool {
        self.coming.contains_key(&generation)
    }
}

impl<D: Disk, A: Archive> Endpoint<D, A> {
    /// From now on contents may go through rsync.
    pub fn move_by(&mut self, mover: Mover) {
        self.rsync.mover = Some(mover);
    }

    /// Opens a file that was reported, for rsync to send it when its turn comes.
    pub(super) fn offer(
        &mut self,
        generation: Generation,
        path: RelPath,
        seq: Seq,
        out: &mut Vec<Reply>,
    ) -> Result<(), ReplicaError> {
        match self.replica.open_reported(&path, seq)? {
            Some((file, signature)) => {
                self.rsync.going.insert(generation, Going { path, file, signature, run: None });
            }
            None => out.push(Reply::Data { generation, data: Data::Abort }),
        }
        Ok(())
    }

    /// Waits for the source's rsync.
    pub(super) fn expect_rsync(&mut self, generation: Generation, apply: Apply) {
        self.rsync.coming.insert(generation, Coming { apply, made: None, sent: None });
    }

    /// Starts as many as may run.
    pub(super) fn step_rsync(&mut self, now: Millis, out: &mut Vec<Reply>) {
        let running = self.rsync.going.values().filter(|going| going.run.is_some()).count();
        let next = self.rsync.going.iter().filter(|(_, going)| going.run.is_none()).map(|(generation, _)| *generation);
        for generation in next.take(RUNS.saturating_sub(running)).collect::<Vec<_>>() {
            if let Err(failure) = self.send_by_rsync(generation, out) {
                self.end_going(generation, Err(failure), now, out);
            }
        }
    }

    fn send_by_rsync(&mut self, generation: Generation, out: &mut Vec<Reply>) -> Result<(), Failure> {
        let Some((teller, mover)) = self.rsync.teller(generation) else { return Err(unable()) };
        let words = mover.words.clone();
        let Some(going) = self.rsync.going.get_mut(&generation) else { return Ok(()) };
        let file = self.replica.disk().file_fd(&going.file).ok_or_else(unable)?;
        if !holds_still(self.replica.disk(), &going.file, &going.signature).unwrap_or(false) {
            // Nobody hears of it: the file is looked at again.
            return Err(unable());
        }
        let size = going.signature.size;
        let first = self.replica.disk().next_data(&going.file, 0, size);
        let has_holes = size > 0 && !first.is_ok_and(|data| data == Some((0, size)));
        going.run = Some(Run::client(file, client_options(&words, has_holes), teller)?);
        let room = if has_holes { data_in(self.replica.disk(), &going.file, size).unwrap_or(size) } else { size };
        out.push(Reply::Data { generation, data: Data::Room { bytes: room } });
        Ok(())
    }

    /// From the rsync on the other side.
    pub(super) fn hear_rsync(
        &mut self,
        generation: Generation,
        piece: Tunnel,
        out: &mut Vec<Reply>,
    ) -> Result<(), ReplicaError> {
        if let Tunnel::Arguments(arguments) = piece {
            return self.receive_by_rsync(generation, &arguments, out);
        }
        let going = self.rsync.going.get(&generation).and_then(|going| going.run.as_ref());
        let coming = self.rsync.coming.get(&generation).and_then(|coming| coming.made.as_ref());
        if let Some(run) = going.or(coming.map(|made| &made.run)) {
            let bytes = if let Tunnel::Bytes(bytes) = &piece { bytes.len() as u64 } else { 0 };
            run.hear(piece);
            if going.is_none() && bytes > 0 {
                return self.require_for_rsync(generation, bytes, out);
            }
        }
        Ok(())
    }

    /// Starts the partner of the source's rsync, with what is allowed of the arguments that it wants, in a directory of
    /// its own.
    fn receive_by_rsync(
        &mut self,
        generation: Generation,
        arguments: &[ByteBuf],
        out: &mut Vec<Reply>,
    ) -> Result<(), ReplicaError> {
        let Some(coming) = self.rsync.coming.get(&generation).filter(|coming| coming.made.is_none()) else {
            return Ok(());
        };
        let path = coming.apply.path.clone();
        if self.rsync.coming.values().filter(|coming| coming.made.is_some()).count() >= COMING_MAX {
            self.rsync.coming.remove(&generation);
            out.push(failed(generation, &path, Failure::of(format!("{COMING_MAX} rsyncs run already"))));
            return Ok(());
        }
        let (work, directory) = match self.replica.stage_directory(generation, &path) {
            Ok(made) => made,
            Err(error) => {
                self.rsync.coming.remove(&generation);
                return fail(generation, error, out);
            }
        };
        match self.serve_rsync(generation, &path, &directory, arguments) {
            Ok(run) => {
                if let Some(coming) = self.rsync.coming.get_mut(&generation) {
                    coming.made = Some(Made { work, directory, run, ended: None });
                }
            }
            Err(failure) => {
                self.rsync.coming.remove(&generation);
                self.replica.unstage(&work);
                out.push(failed(generation, &path, failure));
            }
        }
        Ok(())
    }

    fn serve_rsync(
        &mut self,
        generation: Generation,
        path: &RelPath,
        directory: &D::Dir,
        arguments: &[ByteBuf],
    ) -> Result<Run, Failure> {
        let (_, name) = path.split().ok_or_else(unable)?;
        let basis = self.basis_directory(path);
        let basis_path = basis.as_ref().map(|fd| OsString::from(format!("/proc/self/fd/{}", fd.as_raw_fd())));
        let arguments = server_arguments(arguments, basis_path.as_deref(), &name)
            .map_err(|what| Failure::of(format!("the rsync on the other side wants what is not allowed: {what}")))?;
        let directory = self.replica.disk().dir_fd(directory).ok_or_else(unable)?;
        let (teller, _) = self.rsync.teller(generation).ok_or_else(unable)?;
        Run::server(directory, &name, basis, arguments, teller)
    }

    /// The directory in which the file lies that is to be replaced.
    fn basis_directory(&self, path: &RelPath) -> Option<OwnedFd> {
        let (above, name) = path.split()?;
        let disk = self.replica.disk();
        let dir = disk.open_dir(&above).ok()?;
        let plain = disk.stat(&dir, &name).is_ok_and(|stat| stat.kind == Some(Kind::File));
        if plain && disk.followed(&dir, &name).is_none() { disk.dir_fd(&dir) } else { None }
    }

    /// What a run on this side tells.
    pub fn told(&mut self, told: Told, now: Millis, out: &mut Vec<Reply>) -> Result<(), ReplicaError> {
        let mut said = Vec::new();
        let handled = self.take_told(told, now, &mut said);
        self.say(said, out);
        handled
    }

    fn take_told(&mut self, told: Told, now: Millis, out: &mut Vec<Reply>) -> Result<(), ReplicaError> {
        let Told { generation, number, what } = told;
        let going = self.rsync.going.get(&generation).and_then(|going| going.run.as_ref());
        let coming = self.rsync.coming.get(&generation).and_then(|coming| coming.made.as_ref());
        let is_sent = going.is_some_and(|run| run.number == number);
        if !is_sent && coming.is_none_or(|made| made.run.number != number) {
            // Of a run that was ended.
            return Ok(());
        }
        match what {
            What::Piece(piece) => out.push(Reply::Rsync { generation, piece }),
            What::Ended(ended) if is_sent => self.end_going(generation, ended, now, out),
            What::Ended(ended) => {
                if let Some(made) = self.rsync.coming.get_mut(&generation).and_then(|coming| coming.made.as_mut()) {
                    made.ended = Some(ended);
                }
                self.end_coming(generation, out)?;
            }
        }
        Ok(())
    }

    /// The source's rsync has ended: the receiver learns what it must have got.
    fn end_going(
        &mut self,
        generation: Generation,
        ended: Result<Contents, Failure>,
        now: Millis,
        out: &mut Vec<Reply>,
    ) {
        let Some(going) = self.rsync.going.remove(&generation) else { return };
        let still = holds_still(self.replica.disk(), &going.file, &going.signature).unwrap_or(false);
        let data = match ended {
            Ok(Contents { size, hash }) if still && size == going.signature.size => Data::End { size, hash },
            Err(failure) if still && !(failure.is_passing() && self.may_pass(&going.path)) => {
                out.push(failed(generation, &going.path, failure));
                return;
            }
            // It changed meanwhile, or rsync thinks so: it is looked at again.
            _ => {
                self.coalescer.event(going.path, Hint::Attributes, now);
                return out.push(Reply::Data { generation, data: Data::Abort });
            }
        };
        self.rsync.passing.remove(&going.path);
        out.push(Reply::Data { generation, data });
    }

    /// Whether a file that could not be sent now may simply be looked at again.
    fn may_pass(&mut self, path: &RelPath) -> bool {
        if self.rsync.passing.len() >= PATHS_MAX {
            self.rsync.passing.clear();
        }
        let times = self.rsync.passing.entry(path.clone()).or_default();
        *times += 1;
        *times < PASSING_MAX
    }

    /// The source's last word on contents that come by rsync.
    pub(super) fn hear_end(
        &mut self,
        generation: Generation,
        data: &Data,
        out: &mut Vec<Reply>,
    ) -> Result<(), ReplicaError> {
        match data {
            Data::Room { bytes } => {
                let Some(coming) = self.rsync.coming.get(&generation) else { return Ok(()) };
                let Apply { path, step: Step::Put { entry, .. }, .. } = &coming.apply else { return Ok(()) };
                let (path, needed) = (path.clone(), (*bytes).min(entry.size()));
                match self.replica.may_come(&path, needed, 0) {
                    Ok(()) => Ok(()),
                    Err(error) => {
                        self.drop_coming(generation);
                        fail(generation, error, out)
                    }
                }
            }
            Data::End { size, hash } => {
                if let Some(coming) = self.rsync.coming.get_mut(&generation) {
                    coming.sent = Some(Contents { size: *size, hash: *hash });
                }
                self.end_coming(generation, out)
            }
            _ => {
                self.drop_coming(generation);
                out.push(Reply::Result { generation, outcome: Outcome::NoSource });
                Ok(())
            }
        }
    }

    /// What comes by rsync wants room as it goes on.
    fn require_for_rsync(
        &mut self,
        generation: Generation,
        bytes: u64,
        out: &mut Vec<Reply>,
    ) -> Result<(), ReplicaError> {
        let Some(coming) = self.rsync.coming.get(&generation) else { return Ok(()) };
        let Apply { path, step: Step::Put { entry, .. }, .. } = &coming.apply else { return Ok(()) };
        let (path, whole) = (path.clone(), entry.size());
        match self.require(&path, bytes, whole, out) {
            Ok(()) => Ok(()),
            Err(error) => {
                self.drop_coming(generation);
                fail(generation, error, out)
            }
        }
    }

    /// Once both have ended: what came is placed, if it is what was sent. As long as the source has not said that all was
    /// sent, its own words on a failure count: the receiver's rsync leaves it to its partner to speak.
    fn end_coming(&mut self, generation: Generation, out: &mut Vec<Reply>) -> Result<(), ReplicaError> {
        let Some(coming) = self.rsync.coming.get(&generation) else { return Ok(()) };
        let Some(sent) = coming.sent else { return Ok(()) };
        let Some(Made { ended: Some(ended), .. }) = &coming.made else { return Ok(()) };
        let ended = ended.clone();
        let Some(Coming { mut apply, made: Some(made), .. }) = self.rsync.coming.remove(&generation) else {
            return Ok(());
        };
        let Made { work, directory, run, .. } = made;
        drop(run);
        let came = match ended {
            Ok(came) => came,
            Err(failure) => {
                self.replica.unstage(&work);
                out.push(failed(generation, &apply.path, failure));
                return Ok(());
            }
        };
        let Step::Put { entry, .. } = &mut apply.step else { return Ok(()) };
        let wanted = entry.size() == sent.size && entry.hash().is_none_or(|hash| hash == sent.hash);
        if came != sent || !wanted {
            self.replica.unstage(&work);
            out.push(Reply::Result { generation, outcome: Outcome::NoSource });
            return Ok(());
        }
        entry.content = Content::File { size: came.size, hash: Some(came.hash) };
        let attrs = entry.attrs.clone();
        let path = apply.path.clone();
        let taken = self.replica.take_from(generation, &path, &work, &directory);
        drop(directory);
        let staged = taken
            .and_then(|(name, file)| self.replica.finish(&path, Undressed::file(name, file), &attrs, Some(came.hash)));
        match staged {
            Ok(staged) => self.jobs.push(Job { generation, apply, staged: Some(staged) }),
            Err(error) => fail(generation, error, out)?,
        }
        Ok(())
    }

    /// Nobody waits for these contents any more.
    pub(super) fn cancel_rsync(&mut self, generation: Generation) {
        self.rsync.going.remove(&generation);
        self.drop_coming(generation);
    }

    fn drop_coming(&mut self, generation: Generation) {
        if let Some(Coming { made: Some(Made { work, run, .. }), .. }) = self.rsync.coming.remove(&generation) {
            // It must not write any more when its directory goes.
            drop(run);
            self.replica.unstage(&work);
        }
    }

    /// The session is over.
    pub(super) fn end_rsync(&mut self) {
        self.rsync.going.clear();
        for generation in self.rsync.coming.keys().copied().collect::<Vec<_>>() {
            self.drop_coming(generation);
        }
    }
}

impl<D: Disk, A: Archive> crate::replica::Replica<D, A> {
    /// Makes an empty directory of psync's own for a program that makes a file.
    fn stage_directory(&mut self, generation: Generation, path: &RelPath) -> Result<(Name, D::Dir), ReplicaError> {
        self.require_room(path)?;
        let stage = self.disk().own(Own::Stage).at(path, "open the stage")?;
        let name = self.stage_name(generation)?;
        self.disk().make_dir(&stage, &name).at(path, "make a directory in the stage")?;
        let opened = self.disk().open_child(&stage, &name, path).at(path, "open a directory of the stage");
        if opened.is_err() {
            self.unstage(&name);
        }
        Ok((name, opened?))
    }

    /// Takes the file out of such a directory, which goes.
    fn take_from(
        &mut self,
        generation: Generation,
        path: &RelPath,
        work: &Name,
        directory: &D::Dir,
    ) -> Result<(Name, D::File), ReplicaError> {
        let taken = self.rename_from(generation, path, directory);
        self.unstage(work);
        taken
    }

    fn rename_from(
        &mut self,
        generation: Generation,
        path: &RelPath,
        directory: &D::Dir,
    ) -> Result<(Name, D::File), ReplicaError> {
        let stage = self.disk().own(Own::Stage).at(path, "open the stage")?;
        let (_, made) = path.split().ok_or_else(|| std::io::Error::other("the root")).at(path, "take")?;
        let file = self.disk().open_file(directory, &made).at(path, "open what rsync made")?;
        let name = self.stage_name(generation)?;
        self.disk().rename((directory, &made), (&stage, &name)).at(path, "take what rsync made")?;
        Ok((name, file))
    }
}

fn unable() -> Failure {
    Failure::of("rsync cannot be used on this side")
}

fn failed(generation: Generation, path: &RelPath, failure: Failure) -> Reply {
    let Failure { text: detail, .. } = failure;
    let kind = if detail.contains("No space left") { ProblemKind::NoSpace } else { ProblemKind::Io };
    Reply::Result { generation, outcome: Outcome::Failed(Problem { path: path.clone(), kind, detail }) }
}
