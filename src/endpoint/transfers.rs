//! An endpoint's contents under way, out and in.

use std::collections::BTreeMap;
use std::io;

use crate::model::{Content, Data, Generation, Kind, Millis, Outcome, RelPath, Seq, Step};
use crate::replica::Replica;
use crate::replica::archive::Archive;
use crate::replica::batch::Job;
use crate::replica::disk::Disk;
use crate::replica::error::{At, ReplicaError};
use crate::transfer::{Received, Supplied, Supply};

use super::message::Reply;
use super::{Endpoint, Incoming};

/// The most bytes that one slice of work sends.
const SLICE: usize = 1024 * 1024;

impl<D: Disk, A: Archive> Endpoint<D, A> {
    /// Opens a file that was reported, to be read piece by piece.
    pub(super) fn supply(
        &mut self,
        generation: Generation,
        path: RelPath,
        seq: Seq,
        out: &mut Vec<Reply>,
    ) -> Result<(), ReplicaError> {
        match self.replica.open_reported(&path, seq)? {
            Some((file, signature)) => {
                self.supplies.insert(generation, (path, Supply::new(file, signature)));
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
            match supply.step(&self.replica.disk) {
                Ok(Supplied::Wait) => {
                    waiting += 1;
                    continue;
                }
                Ok(Supplied::Data(data)) => {
                    if let Data::Chunk { bytes, .. } = &data {
                        sent += bytes.len();
                    }
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
}

/// What follows from a piece that was taken: credit, a job, or an end.
pub(super) fn after_piece<D: Disk, A: Archive>(
    generation: Generation,
    taken: io::Result<Received>,
    incoming: &mut BTreeMap<Generation, Incoming<D::File>>,
    replica: &mut Replica<D, A>,
    out: &mut Vec<Reply>,
) -> Result<Option<Job<D::File>>, ReplicaError> {
    if let Ok(Received::More { credit }) = taken {
        out.push(Reply::Credit { generation, bytes: credit });
        return Ok(None);
    }
    let Some(Incoming { mut apply, receive: Some(receive) }) = incoming.remove(&generation) else { return Ok(None) };
    let (size, hash) = match taken.at(&apply.path, "write") {
        Ok(Received::Complete { size, hash }) => (size, hash),
        Ok(_) => {
            replica.unstage(&receive.name);
            out.push(Reply::Result { generation, outcome: Outcome::NoSource });
            return Ok(None);
        }
        Err(error) => {
            replica.unstage(&receive.name);
            super::fail(generation, error, out)?;
            return Ok(None);
        }
    };
    let Step::Put { entry, .. } = &mut apply.step else { return Ok(None) };
    if entry.kind() != Kind::File || entry.size() != size || entry.hash().is_some_and(|h| h != hash) {
        replica.unstage(&receive.name);
        out.push(Reply::Result { generation, outcome: Outcome::NoSource });
        return Ok(None);
    }
    entry.content = Content::File { size, hash: Some(hash) };
    let attrs = entry.attrs.clone();
    match replica.finish_file(&apply.path.clone(), receive.name, receive.file, &attrs, Some(hash), Ok(())) {
        Ok(staged) => Ok(Some(Job { generation, apply, staged: Some(staged) })),
        Err(error) => {
            super::fail(generation, error, out)?;
            Ok(None)
        }
    }
}
