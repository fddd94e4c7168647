//! Two objects that were to change places when the process ended: whether they have, and the rows that say so.

use super::super::Replica;
use super::super::archive::{Archive, Intent, IntentStep, Row};
use super::super::disk::Disk;
use super::super::error::ReplicaError;

impl<D: Disk, A: Archive> Replica<D, A> {
    /// The two names are changed by one call, or one after the other: where either object lies where it was to go, that was
    /// psync's doing. Users may have moved both on since.
    pub(super) fn recover_exchange(&mut self, same_boot: bool, intent: &Intent) -> Result<(), ReplicaError> {
        let IntentStep::Exchange { from, object, other, at, to } = &intent.step else { return Ok(()) };
        let came =
            self.lies_here(&intent.path, *object) || at.as_ref().is_some_and(|(_, two)| self.lies_here(to, *two));
        // Something under the old name says that psync has not come so far, or that users have been there since.
        let waits = self.object_at(from).is_some() || at.as_ref().is_some_and(|(at, two)| self.lies_here(at, *two));
        if !came && (waits || !same_boot) {
            return Ok(());
        }
        let place = self.place_meant(intent)?;
        let (Some((parent, name)), Some(one), Some(two)) =
            (place, self.archive.node(intent.node)?, self.archive.node(*other)?)
        else {
            return Ok(());
        };
        if (two.parent, &two.name) != (parent, &name) || !self.may_change_places(&one, &two)? {
            return Ok(());
        }
        let (generation, nodes) = (intent.generation, [one.node, two.node]);
        let (home, old) = (one.parent, one.name.clone());
        let rows = vec![Row { parent, name, generation, ..one }, Row { parent: home, name: old, generation, ..two }];
        self.put_exchanged(rows)?;
        nodes.into_iter().try_for_each(|node| self.give(node))?;
        for path in [from, &intent.path, to].into_iter().chain(at.as_ref().map(|(at, _)| at)) {
            self.sync_parent(path)?;
        }
        Ok(())
    }
}
