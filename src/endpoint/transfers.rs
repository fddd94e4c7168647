//! An endpoint's contents under way, out and in.

use std::io;

use crate::model::{Content, Generation, Hash, Kind, Millis, Name, RelPath, Seq};
use crate::protocol::{Apply, Data, Outcome, Reply, Step, Sums};
use crate::replica::archive::Archive;
use crate::replica::batch::Job;
use crate::replica::disk::Disk;
use crate::replica::error::{At, ReplicaError};
use crate::replica::stage::{Staged, Undressed};
use crate::transfer::{Basis, Receive, Received, Supplied, Supply};

use super::{Endpoint, Incoming};

/// The most bytes that one slice of work sends.
const SLICE: usize = 1024 * 1024;
/// Files that come as deltas at a time.
const DELTAS: usize = 4;
/// Paths that are remembered for a delta that came out wrong.
const WHOLE_MAX: usize = 1000;

impl<D: Disk, A: Archive> Endpoint<D, A> {
    /// Opens a file that was reported, to be read piece by piece.
    pub(super) fn supply(
        &mut self,
        generation: Generation,
        path: RelPath,
        seq: Seq,
        delta: bool,
        out: &mut Vec<Reply>,
    ) -> Result<(), ReplicaError> {
        match self.replica.open_reported(&path, seq)? {
            Some((file, signature)) => {
                self.supplies.insert(generation, (path, Supply::new(file, signature, delta)));
            }
            None => out.push(Reply::Data { generation, data: Data::Abort }),
        }
        Ok(())
    }

    /// Reads what credit allows, a piece of each supply in turn. True if there is more to send at once.
    pub(super) fn step_supplies(&mut self, now: Millis, out: &mut Vec<Reply>) -> bool {
        let mut sent = 0;
        let mut waiting = 0;
        while sent < SLICE && waiting < self.supplies.len() {
            let next = self.supplies.range(self.turn + 1..).next().or_else(|| self.supplies.iter().next());
            let Some((&generation, _)) = next else { break };
            self.turn = generation;
            let Some((path, supply)) = self.supplies.get_mut(&generation) else { break };
            let path = path.clone();
            match supply.step(self.replica.disk()) {
                Ok(Supplied::Wait) => {
                    waiting += 1;
                    continue;
                }
                Ok(Supplied::Data(data)) => {
                    sent += match &data {
                        Data::Chunk { bytes, .. } => bytes.len(),
                        Data::Copy { length, .. } => *length as usize / 2,
                        _ => 0,
                    };
                    out.push(Reply::Data { generation, data });
                }
                Ok(Supplied::Last(data)) => {
                    sent += 4096;
                    self.end_supply(generation, &path, data, now, out);
                }
                Err(error) => {
                    let problem = crate::replica::error::problem(&path, "read", &error);
                    self.trouble(&path, now);
                    out.push(Reply::Problem { path: path.clone(), problem: Some(problem) });
                    self.end_supply(generation, &path, Data::Abort, now, out);
                }
            }
            waiting = 0;
        }
        waiting < self.supplies.len()
    }

    fn end_supply(&mut self, generation: Generation, path: &RelPath, data: Data, now: Millis, out: &mut Vec<Reply>) {
        self.supplies.remove(&generation);
        if data == Data::Abort {
            self.coalescer.event(path.clone(), crate::watch::Hint::Attributes, now);
        }
        out.push(Reply::Data { generation, data });
    }

    /// Gets ready for contents. What the source is to be told of is opened at once, with the file that they will come to.
    pub(super) fn begin_receiving(
        &mut self,
        generation: Generation,
        apply: Apply,
        delta: bool,
        out: &mut Vec<Reply>,
    ) -> Result<(), ReplicaError> {
        let size = size_of(&apply);
        if !delta && size < self.replica.settings().partial_min {
            self.incoming.insert(generation, Incoming::new(apply, None));
            return Ok(());
        }
        match self.replica.stage_file(generation, &apply.path, size) {
            Ok((name, file)) => {
                let (files, partial) = self.basis(&apply.path, size, delta, &name);
                let basis = (delta || !files.is_empty()).then(|| Basis::new(files));
                let receive = Receive::new(name, file, size, basis);
                self.incoming.insert(generation, Incoming { partial, ..Incoming::new(apply, Some(receive)) });
            }
            Err(error) => super::fail(generation, error, out)?,
        }
        Ok(())
    }

    /// What this side has that may be like the contents to come: what came of them before, and the file as it is.
    fn basis(&self, path: &RelPath, size: u64, delta: bool, own: &Name) -> Bases<D::File> {
        if self.whole.contains(path) {
            return (Vec::new(), None);
        }
        let large = size >= self.replica.settings().partial_min;
        let partial = if large { self.replica.open_partial(path, &self.used(Some(own))) } else { None };
        let (mut files, name) = match partial {
            Some((name, file, size)) => (vec![(file, size)], Some((name, size))),
            None => (Vec::new(), None),
        };
        files.extend(if delta { self.replica.open_basis(path) } else { None });
        (files, name)
    }

    /// Names in the stage that contents are coming to, or are taken from.
    pub(super) fn used(&self, own: Option<&Name>) -> Vec<Name> {
        let of = |incoming: &Incoming<D::File>| {
            let partial = incoming.partial.as_ref().map(|(name, _)| name.clone());
            let name = incoming.receive.as_ref().map(|receive| receive.name.clone());
            name.into_iter().chain(partial)
        };
        self.incoming.values().flat_map(of).chain(own.cloned()).collect()
    }

    /// Contents that do not come to their end: what there is of a large file is kept, in the larger of its partial files.
    pub(super) fn put_aside(&mut self, incoming: Incoming<D::File>) -> Result<(), ReplicaError> {
        let Incoming { receive: Some(receive), partial, .. } = incoming else { return Ok(()) };
        let size = receive.offset();
        let worth = size >= self.replica.settings().partial_min && partial.as_ref().is_none_or(|(_, old)| size >= *old);
        match (worth, partial) {
            (true, Some((older, _))) => self.replica.unstage(&older),
            (true, None) => {}
            (false, _) => self.replica.unstage(&receive.name),
        }
        let used = self.used(None);
        self.replica.clear_partials(&used)
    }

    /// Receives a piece of contents. What takes long waits for its turn, and what comes after it.
    pub(super) fn receive(
        &mut self,
        generation: Generation,
        data: Data,
        out: &mut Vec<Reply>,
    ) -> Result<(), ReplicaError> {
        let Some(incoming) = self.incoming.get_mut(&generation) else { return Ok(()) };
        if matches!(data, Data::Copy { .. }) || !incoming.queue.is_empty() {
            incoming.queue.push_back(data);
            return Ok(());
        }
        self.take_piece(generation, &data, out)
    }

    /// Tells the sources what is there already, and goes on with the pieces that wait. True if there is more to do.
    pub(super) fn step_incoming(&mut self, out: &mut Vec<Reply>) -> Result<bool, ReplicaError> {
        let mut done = 0;
        let opened = |(at, incoming): (&Generation, &Incoming<D::File>)| {
            incoming.receive.as_ref().map(|receive| (*at, receive.has_basis(), receive.is_to_tell()))
        };
        let all: Vec<_> = self.incoming.iter().filter_map(opened).collect();
        let telling = all.iter().filter(|(_, has_basis, _)| *has_basis).map(|(at, ..)| *at);
        // The others wait, so that the sources need not keep the sums of them all.
        let first: Vec<Generation> = telling.take(DELTAS).collect();
        let empty = all.iter().filter(|(_, has_basis, to_tell)| *to_tell && !has_basis);
        let empty: Vec<Generation> = empty.map(|(at, ..)| *at).collect();
        for generation in first.iter().chain(&empty) {
            let Some(incoming) = self.incoming.get_mut(generation) else { continue };
            let Some(receive) = &mut incoming.receive else { continue };
            if receive.is_to_tell() {
                done += 1;
                let sums = receive.tell(self.replica.disk()).unwrap_or_else(|_| {
                    // It can be read no more.
                    receive.drop_basis();
                    Some(Sums::End)
                });
                out.extend(sums.map(|sums| Reply::Sums { generation: *generation, sums }));
                if !receive.is_to_tell() && incoming.withheld > 0 {
                    out.push(Reply::Credit { generation: *generation, bytes: std::mem::take(&mut incoming.withheld) });
                }
            }
        }
        let waiting = self.incoming.iter().filter(|(_, incoming)| !incoming.queue.is_empty()).map(|(at, _)| *at);
        for generation in waiting.collect::<Vec<_>>() {
            let next = self.incoming.get_mut(&generation).and_then(|incoming| incoming.queue.pop_front());
            if let Some(data) = next {
                done += 1;
                self.take_piece(generation, &data, out)?;
            }
        }
        Ok(done > 0)
    }

    fn take_piece(&mut self, generation: Generation, data: &Data, out: &mut Vec<Reply>) -> Result<(), ReplicaError> {
        if let Data::Room { bytes } = data {
            return self.announce(generation, *bytes, out);
        }
        if !self.goes_on(generation, data, out)? {
            return Ok(());
        }
        let Some(incoming) = self.incoming.get_mut(&generation) else { return Ok(()) };
        let receive = match &mut incoming.receive {
            Some(receive) => receive,
            none => match self.replica.stage_file(generation, &incoming.apply.path, 0) {
                Ok((name, file)) => none.insert(Receive::new(name, file, size_of(&incoming.apply), None)),
                Err(error) => {
                    self.incoming.remove(&generation);
                    return super::fail(generation, error, out);
                }
            },
        };
        let taken = receive.take(self.replica.disk(), data);
        if let Ok(Received::More { credit }) = taken {
            if receive.is_to_tell() {
                incoming.withheld += credit;
                return Ok(());
            }
            out.push(Reply::Credit { generation, bytes: credit });
            return Ok(());
        }
        self.end_receiving(generation, taken, *data == Data::Abort, out)
    }

    /// The last piece has come, or none will come any more.
    pub(super) fn end_receiving(
        &mut self,
        generation: Generation,
        taken: io::Result<Received>,
        aborted: bool,
        out: &mut Vec<Reply>,
    ) -> Result<(), ReplicaError> {
        let Some(incoming) = self.incoming.remove(&generation) else { return Ok(()) };
        if aborted {
            // The file changed while it was read; the next reading will find much of it here.
            self.put_aside(incoming)?;
            out.push(Reply::Result { generation, outcome: Outcome::NoSource });
            return Ok(());
        }
        let Incoming { mut apply, receive: Some(receive), partial, links, takes, .. } = incoming else { return Ok(()) };
        if let Some((older, _)) = partial {
            self.replica.unstage(&older);
        }
        let taken = match taken.at(&apply.path, "write") {
            Ok(taken) => taken,
            Err(error) => {
                self.replica.unstage(&receive.name);
                self.replica.note_unwritten(&error, takes);
                return super::fail(generation, error, out);
            }
        };
        let Some((size, hash)) = whole(&apply, &taken) else {
            if receive.has_basis() {
                // A block of the basis was not what its sum said: it was written meanwhile, or the sum is ambiguous.
                if self.whole.len() < WHOLE_MAX {
                    self.whole.insert(apply.path.clone());
                }
            }
            self.replica.unstage(&receive.name);
            out.push(Reply::Result { generation, outcome: Outcome::NoSource });
            return Ok(());
        };
        self.whole.remove(&apply.path);
        let Step::Put { entry, .. } = &mut apply.step else { return Ok(()) };
        entry.content = Content::File { size, hash: Some(hash) };
        let attrs = entry.attrs.clone();
        match self.replica.finish(&apply.path.clone(), Undressed::file(receive.name, receive.file), &attrs, Some(hash))
        {
            Ok(staged) => {
                let staged = Some(Staged { links, ..staged });
                self.jobs.push(Job { generation, apply, staged });
            }
            Err(error) => {
                self.replica.note_unwritten(&error, takes);
                super::fail(generation, error, out)?;
            }
        }
        Ok(())
    }
}

/// How much is to come.
pub(super) fn size_of(apply: &Apply) -> u64 {
    if let Step::Put { entry, .. } = &apply.step { entry.size() } else { 0 }
}

/// Files that help, and the partial one among them.
type Bases<F> = (Vec<(F, u64)>, Option<(Name, u64)>);

/// Size and hash of what came, if that is what was to come.
fn whole(apply: &Apply, taken: &Received) -> Option<(u64, Hash)> {
    let (Received::Complete { size, hash }, Step::Put { entry, .. }) = (taken, &apply.step) else { return None };
    let wanted = entry.kind() == Kind::File && entry.size() == *size && entry.hash().is_none_or(|h| h == *hash);
    wanted.then_some((*size, *hash))
}
