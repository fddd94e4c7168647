//! What is under way of the pair's events, and where they are written down once they are done.

use std::collections::BTreeMap;
use std::io;

use super::losing::Losing;
use crate::model::{Generation, RelPath, Side};
use crate::protocol::Reply;
use crate::replica::real::OwnDir;
use crate::service::events::{Event, Events};

/// Actions under way that are known by their number; of more the oldest are forgotten.
const BEGUN: usize = 16_384;

pub struct Ledger {
    begun: BTreeMap<(Generation, RelPath), Event>,
    losing: Losing,
    /// `None`: a dry run, of which nothing is written.
    events: Option<Events>,
}

impl Ledger {
    pub fn new(dry_run: bool) -> Ledger {
        Ledger { begun: BTreeMap::new(), losing: Losing::default(), events: (!dry_run).then(Events::default) }
    }

    /// The left side is open: the events go into its directory.
    pub fn keep_in(&mut self, own: Option<OwnDir>) {
        if let Some(events) = &mut self.events {
            events.write_to(own);
        }
    }

    /// An action begins, of which this is the event; `loses` says on which side a version loses its name by it.
    pub fn begins(&mut self, generation: Generation, path: &RelPath, event: Event, loses: Option<Side>) {
        if self.begun.len() >= BEGUN {
            self.begun.pop_first();
        }
        if self.events.is_none() {
            return;
        }
        self.begun.insert((generation, path.clone()), event);
        if let Some(side) = loses {
            self.losing.begins(generation, side, path);
        }
    }

    /// A side said something: the versions that have lost their names by it, and of which nothing is heard any more.
    pub fn heard(&mut self, side: Side, reply: &Reply) -> Vec<(Generation, RelPath)> {
        self.losing.heard(side, reply)
    }

    /// An action is in both archives, and moved so many bytes. The first event that cannot be written is the error.
    pub fn completed(&mut self, generation: Generation, bytes: u64) -> io::Result<()> {
        let of = (generation, RelPath::root())..(generation.saturating_add(1), RelPath::root());
        let done: Vec<_> = self.begun.range(of).map(|(key, _)| key.clone()).collect();
        let done: Vec<Event> = done.iter().filter_map(|key| self.begun.remove(key)).collect();
        let written: Vec<_> = done.into_iter().map(|event| self.add(Event { bytes, ..event })).collect();
        written.into_iter().collect()
    }

    /// A version has lost its name by this action.
    pub fn conflict(&mut self, generation: Generation, event: Event) -> io::Result<()> {
        self.losing.is_told(generation);
        self.add(event)
    }

    fn add(&mut self, event: Event) -> io::Result<()> {
        self.events.as_mut().map_or(Ok(()), |events| events.add(&event))
    }
}
