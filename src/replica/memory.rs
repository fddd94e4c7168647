//! An archive in memory, for tests and the simulator.
//!
//! The maps hold the present state; the undo log leads back to the last commit. So a commit costs nothing,
//! and only a crash pays for what it takes back.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use crate::model::{Generation, Kind, Name, NodeId, Time};

use super::archive::{Archive, ArchiveError, Identity, Intent, Row, Since, Tombstone, TrashItem, check_number};

/// What a key held before a change.
#[derive(Debug, Clone)]
enum Undo {
    Identity(Identity),
    Row(NodeId, Option<Arc<Row>>),
    DirTime(NodeId, Option<Time>),
    Tombstone(NodeId, Option<Tombstone>),
    Joint(NodeId, Option<Generation>),
    Intent(Generation, Option<Intent>),
    Trash(Name, Option<TrashItem>),
}

/// The archive of one side, with a model of what a crash leaves of it.
#[derive(Debug, Clone)]
pub struct MemoryArchive {
    identity: Identity,
    rows: BTreeMap<NodeId, Arc<Row>>,
    /// In each directory its names and their nodes.
    names: BTreeMap<NodeId, BTreeMap<Name, NodeId>>,
    objects: BTreeSet<(u64, Time, NodeId)>,
    generations: BTreeSet<(Generation, NodeId)>,
    unproven: BTreeSet<NodeId>,
    /// Files and their bytes.
    files: (u64, u64),
    dir_times: BTreeMap<NodeId, Time>,
    tombstones: BTreeMap<NodeId, Tombstone>,
    joint: BTreeMap<NodeId, Generation>,
    intents: BTreeMap<Generation, Intent>,
    trash: BTreeMap<Name, TrashItem>,
    undo: Vec<Undo>,
}

impl MemoryArchive {
    /// An empty archive with this identity, durable as it is.
    pub fn new(archive_id: [u8; 16], root: (u64, Time)) -> MemoryArchive {
        MemoryArchive {
            identity: Identity {
                archive: archive_id,
                peer: [0; 16],
                generation: 0,
                confirmed: 0,
                boot: [0; 16],
                proven: [0; 16],
                root,
                side: None,
                filters: [0; 32],
                met: 0,
            },
            rows: BTreeMap::new(),
            names: BTreeMap::new(),
            objects: BTreeSet::new(),
            generations: BTreeSet::new(),
            unproven: BTreeSet::new(),
            files: (0, 0),
            dir_times: BTreeMap::new(),
            tombstones: BTreeMap::new(),
            joint: BTreeMap::new(),
            intents: BTreeMap::new(),
            trash: BTreeMap::new(),
            undo: Vec::new(),
        }
    }

    /// The archive that a restart finds: as it was at the last commit.
    pub fn crash(&self) -> MemoryArchive {
        let mut left = self.clone();
        while let Some(undo) = left.undo.pop() {
            match undo {
                Undo::Identity(identity) => left.identity = identity,
                Undo::Row(node, row) => _ = left.set_row(node, row),
                Undo::DirTime(node, old) => _ = set(&mut left.dir_times, node, old),
                Undo::Tombstone(node, old) => _ = set(&mut left.tombstones, node, old),
                Undo::Joint(node, old) => _ = set(&mut left.joint, node, old),
                Undo::Intent(generation, old) => _ = set(&mut left.intents, generation, old),
                Undo::Trash(id, old) => _ = set(&mut left.trash, id, old),
            }
        }
        left
    }

    /// Whether a crash would take something back.
    pub fn uncommitted(&self) -> bool {
        !self.undo.is_empty()
    }

    /// Puts a row in place of the node's old one, which it returns, and keeps the indexes in step.
    fn set_row(&mut self, node: NodeId, row: Option<Arc<Row>>) -> Option<Arc<Row>> {
        let old = self.rows.remove(&node);
        if let Some(old) = &old {
            if let Some(names) = self.names.get_mut(&old.parent) {
                names.remove(&old.name);
                if names.is_empty() {
                    self.names.remove(&old.parent);
                }
            }
            self.generations.remove(&(old.generation, node));
            self.unproven.remove(&node);
            if old.entry.kind() == Kind::File {
                self.files = (self.files.0 - 1, self.files.1.saturating_sub(old.entry.size()));
            }
            if let Some(signature) = old.signature {
                self.objects.remove(&(signature.ino, signature.btime, node));
            }
        }
        if let Some(row) = row {
            self.names.entry(row.parent).or_default().insert(row.name.clone(), node);
            self.generations.insert((row.generation, node));
            if row.is_unproven() {
                self.unproven.insert(node);
            }
            if row.entry.kind() == Kind::File {
                self.files = (self.files.0 + 1, self.files.1.saturating_add(row.entry.size()));
            }
            if let Some(signature) = row.signature {
                self.objects.insert((signature.ino, signature.btime, node));
            }
            self.rows.insert(node, row);
        }
        old
    }

    fn change_row(&mut self, node: NodeId, row: Option<Row>) {
        let old = self.set_row(node, row.map(Arc::new));
        self.undo.push(Undo::Row(node, old));
    }

    fn drop_below(&mut self, node: NodeId) {
        let mut left = vec![node];
        while let Some(node) = left.pop() {
            if self.rows.contains_key(&node) {
                self.change_row(node, None);
                if let Some(old) = self.dir_times.remove(&node) {
                    self.undo.push(Undo::DirTime(node, Some(old)));
                }
            }
            left.extend(self.names.get(&node).into_iter().flat_map(|names| names.values()));
        }
    }

    fn row(&self, node: NodeId) -> Option<Row> {
        self.rows.get(&node).map(|row| Row::clone(row))
    }
}

/// Sets or removes a key; returns what it held.
fn set<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) -> Option<V> {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    }
}

impl Archive for MemoryArchive {
    fn identity(&self) -> Result<Identity, ArchiveError> {
        Ok(self.identity.clone())
    }

    fn set_identity(&mut self, identity: &Identity) -> Result<(), ArchiveError> {
        check_number(identity.generation.max(identity.confirmed))?;
        let old = std::mem::replace(&mut self.identity, identity.clone());
        self.undo.push(Undo::Identity(old));
        Ok(())
    }

    fn child(&self, parent: NodeId, name: &Name) -> Result<Option<Row>, ArchiveError> {
        let node = self.names.get(&parent).and_then(|names| names.get(name));
        Ok(node.and_then(|node| self.row(*node)))
    }

    fn node(&self, node: NodeId) -> Result<Option<Row>, ArchiveError> {
        Ok(self.row(node))
    }

    fn children(&self, parent: NodeId) -> Result<Vec<Row>, ArchiveError> {
        let nodes = self.names.get(&parent).into_iter().flat_map(|names| names.values());
        Ok(nodes.filter_map(|node| self.row(*node)).collect())
    }

    fn by_object(&self, ino: u64, btime: Time) -> Result<Vec<Row>, ArchiveError> {
        let found = self.objects.range((ino, btime, 0)..=(ino, btime, NodeId::MAX));
        Ok(found.filter_map(|(_, _, node)| self.row(*node)).collect())
    }

    fn unproven(&self, above: NodeId) -> Result<Option<Row>, ArchiveError> {
        let next = self.unproven.range((Excluded(above), Unbounded)).next();
        Ok(next.and_then(|node| self.row(*node)))
    }

    fn count_unproven(&self) -> Result<u64, ArchiveError> {
        Ok(self.unproven.len() as u64)
    }

    fn count_came(&self, when: i64, most: u64) -> Result<u64, ArchiveError> {
        let newest = self.rows.values().rev().take(usize::try_from(most).unwrap_or(usize::MAX));
        Ok(newest.filter(|row| matches!(row.since, Since::Came(came) if came >= when)).count() as u64)
    }

    fn count(&self) -> Result<u64, ArchiveError> {
        Ok(self.rows.len() as u64)
    }

    fn files(&self) -> Result<(u64, u64), ArchiveError> {
        Ok(self.files)
    }

    fn put(&mut self, row: &Row) -> Result<Option<NodeId>, ArchiveError> {
        row.check()?;
        let holder = self.names.get(&row.parent).and_then(|names| names.get(&row.name)).copied();
        let victim = holder.filter(|holder| *holder != row.node);
        if let Some(victim) = victim {
            if self.rows.contains_key(&row.node) {
                self.change_row(row.node, None);
            }
            self.drop_below(victim);
        }
        self.change_row(row.node, Some(row.clone()));
        Ok(victim)
    }

    fn drop_tree(&mut self, node: NodeId) -> Result<(), ArchiveError> {
        self.drop_below(node);
        Ok(())
    }

    fn bury(&mut self, tombstone: &Tombstone) -> Result<(), ArchiveError> {
        check_number(tombstone.node.max(tombstone.parent).max(tombstone.generation))?;
        let old = self.tombstones.insert(tombstone.node, tombstone.clone());
        self.undo.push(Undo::Tombstone(tombstone.node, old));
        Ok(())
    }

    fn dir_time(&self, node: NodeId) -> Result<Option<Time>, ArchiveError> {
        Ok(self.dir_times.get(&node).copied())
    }

    fn set_dir_time(&mut self, node: NodeId, time: Option<Time>) -> Result<(), ArchiveError> {
        if self.rows.contains_key(&node) {
            let old = set(&mut self.dir_times, node, time);
            self.undo.push(Undo::DirTime(node, old));
        }
        Ok(())
    }

    fn rows_above(&self, generation: Generation) -> Result<Vec<Row>, ArchiveError> {
        let above = self.generations.range((Excluded((generation, NodeId::MAX)), Unbounded));
        Ok(above.filter_map(|(_, node)| self.row(*node)).collect())
    }

    fn tombstones_above(&self, generation: Generation) -> Result<Vec<Tombstone>, ArchiveError> {
        let above = self.tombstones.values().filter(|tombstone| tombstone.generation > generation);
        let mut above: Vec<Tombstone> = above.cloned().collect();
        above.sort_by_key(|tombstone| (tombstone.generation, tombstone.node));
        Ok(above)
    }

    fn forget_tombstones(&mut self, upto: Generation) -> Result<(), ArchiveError> {
        self.tombstones.retain(|node, tombstone| {
            let keep = tombstone.generation > upto;
            if !keep {
                self.undo.push(Undo::Tombstone(*node, Some(tombstone.clone())));
            }
            keep
        });
        self.joint.retain(|node, generation| {
            let keep = *generation > upto;
            if !keep {
                self.undo.push(Undo::Joint(*node, Some(*generation)));
            }
            keep
        });
        Ok(())
    }

    fn note_joint(&mut self, node: NodeId, generation: Generation) -> Result<(), ArchiveError> {
        check_number(node.max(generation))?;
        let old = self.joint.insert(node, generation);
        self.undo.push(Undo::Joint(node, old));
        Ok(())
    }

    fn joint(&self, node: NodeId) -> Result<Option<Generation>, ArchiveError> {
        Ok(self.joint.get(&node).copied())
    }

    fn intend(&mut self, intent: &Intent) -> Result<(), ArchiveError> {
        check_number(intent.generation.max(intent.node))?;
        let old = self.intents.insert(intent.generation, intent.clone());
        self.undo.push(Undo::Intent(intent.generation, old));
        Ok(())
    }

    fn settle(&mut self, generation: Generation) -> Result<(), ArchiveError> {
        if let Some(old) = self.intents.remove(&generation) {
            self.undo.push(Undo::Intent(generation, Some(old)));
        }
        Ok(())
    }

    fn intents(&self) -> Result<Vec<Intent>, ArchiveError> {
        Ok(self.intents.values().cloned().collect())
    }

    fn trash_add(&mut self, item: &TrashItem) -> Result<(), ArchiveError> {
        check_number(item.size)?;
        let old = self.trash.insert(item.id.clone(), item.clone());
        self.undo.push(Undo::Trash(item.id.clone(), old));
        Ok(())
    }

    fn trash_remove(&mut self, id: &Name) -> Result<(), ArchiveError> {
        if let Some(old) = self.trash.remove(id) {
            self.undo.push(Undo::Trash(id.clone(), Some(old)));
        }
        Ok(())
    }

    fn trash(&self) -> Result<Vec<TrashItem>, ArchiveError> {
        let mut items: Vec<TrashItem> = self.trash.values().cloned().collect();
        items.sort_by(|a, b| (a.since, &a.id).cmp(&(b.since, &b.id)));
        Ok(items)
    }

    fn commit(&mut self) -> Result<(), ArchiveError> {
        self.undo.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::archive::samples::{dir_row, file_row, name, path};
    use super::super::archive::{path_of, row_at};
    use super::*;
    use crate::model::ROOT_NODE;

    fn archive() -> MemoryArchive {
        let mut archive = MemoryArchive::new([7; 16], (2, Time::default()));
        archive.put(&dir_row(2, ROOT_NODE, "a", 1)).unwrap();
        archive.put(&dir_row(3, 2, "b", 2)).unwrap();
        archive.put(&file_row(4, 3, "c", 3)).unwrap();
        archive.commit().unwrap();
        archive
    }

    #[test]
    fn a_crash_takes_back_what_was_not_committed() {
        let mut archive = archive();
        let before = format!("{archive:?}");
        archive.drop_tree(2).unwrap();
        archive.put(&file_row(5, ROOT_NODE, "a", 9)).unwrap();
        archive.put(&file_row(5, ROOT_NODE, "z", 10)).unwrap();
        archive.bury(&Tombstone { node: 2, parent: ROOT_NODE, name: name("a"), generation: 9 }).unwrap();
        archive.forget_tombstones(9).unwrap();
        archive.set_identity(&Identity { generation: 10, ..archive.identity().unwrap() }).unwrap();
        assert!(archive.uncommitted());
        let crashed = archive.crash();
        assert_eq!(format!("{crashed:?}"), before);
        archive.commit().unwrap();
        assert_eq!(format!("{:?}", archive.crash()), format!("{archive:?}"));
    }

    #[test]
    fn paths_lead_to_rows_and_back() {
        let mut archive = archive();
        assert_eq!(path_of(&archive, ROOT_NODE).unwrap(), Some(path("")));
        assert_eq!(path_of(&archive, 4).unwrap(), Some(path("a/b/c")));
        assert_eq!(path_of(&archive, 99).unwrap(), None);
        assert_eq!(row_at(&archive, &path("a/b/c")).unwrap().unwrap().node, 4);
        assert_eq!(row_at(&archive, &path("")).unwrap(), None);
        assert_eq!(row_at(&archive, &path("a/x/c")).unwrap(), None);
        // A directory moved: one row changes, the paths below follow.
        archive.put(&dir_row(3, ROOT_NODE, "moved", 4)).unwrap();
        assert_eq!(path_of(&archive, 4).unwrap(), Some(path("moved/c")));
        // Rows in a circle have no path, and can be dropped.
        archive.put(&dir_row(6, 7, "x", 5)).unwrap();
        archive.put(&dir_row(7, 6, "y", 6)).unwrap();
        assert_eq!(path_of(&archive, 7).unwrap(), None);
        archive.drop_tree(7).unwrap();
        assert_eq!(archive.count().unwrap(), 3);
    }

    #[test]
    fn a_node_moved_onto_a_directory_above_it_survives() {
        let mut archive = archive();
        archive.put(&dir_row(3, ROOT_NODE, "a", 4)).unwrap();
        assert_eq!(archive.node(2).unwrap(), None);
        assert_eq!(path_of(&archive, 4).unwrap(), Some(path("a/c")));
    }

    #[test]
    fn refuses_rows_that_cannot_be() {
        let mut archive = archive();
        assert!(archive.put(&dir_row(ROOT_NODE, 5, "r", 1)).is_err());
        assert!(archive.put(&dir_row(5, 5, "r", 1)).is_err());
        assert!(archive.put(&dir_row(u64::MAX, 5, "r", 1)).is_err());
        assert!(!archive.uncommitted());
    }
}
