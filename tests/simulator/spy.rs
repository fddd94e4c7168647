//! An archive that a restart finds as a crash left it, and that is checked at every commit: it must never lie.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use psync::model::{Content, Generation, Hash, Name, NodeId, Time};
use psync::replica::archive::{Archive, ArchiveError, Identity, Intent, Row, Signature, Tombstone, TrashItem};
use psync::replica::memory::MemoryArchive;

use crate::model_disk::ModelDisk;
use crate::model_disk::state::Body;

/// A process's handle on its archive.
pub struct SpyArchive {
    inner: Rc<RefCell<MemoryArchive>>,
    disk: ModelDisk,
    /// The rows that were checked, by node.
    checked: HashMap<NodeId, (Generation, Option<Signature>)>,
}

impl SpyArchive {
    pub fn new(inner: Rc<RefCell<MemoryArchive>>, disk: ModelDisk) -> SpyArchive {
        SpyArchive { inner, disk, checked: HashMap::new() }
    }

    fn alive(&self) -> Result<(), ArchiveError> {
        if self.disk.is_dead() {
            return Err(ArchiveError::new("use", "the process is dead"));
        }
        Ok(())
    }

    /// Invariant 7, for the rows that are new since the last commit.
    fn check_rows(&mut self) -> Result<(), ArchiveError> {
        for row in self.inner.borrow().rows_above(0)? {
            let state = (row.generation, row.signature);
            if self.checked.insert(row.node, state) != Some(state)
                && let Some(lie) = self.lie(&row)
            {
                let disk = self.disk.state();
                disk.world.violation(format!("archive lies: {} {}: {lie}", disk.side.word(), row.name));
            }
        }
        Ok(())
    }

    /// What is wrong with a row about to be durable, if the object it speaks of is still the recorded one.
    fn lie(&self, row: &Row) -> Option<&'static str> {
        let signature = row.signature?;
        let state = self.disk.state();
        let (obj, inode) = state
            .volume
            .inodes
            .iter()
            .find(|(_, inode)| !inode.freed && (inode.ino, inode.btime) == (signature.ino, signature.btime))?;
        if Signature::of(&state.stat(*obj)) != signature {
            return None;
        }
        if let (Body::File(contents), Content::File { hash, size }) = (&inode.body, &row.entry.content) {
            let Some(saved) = &inode.saved else {
                // An empty file is empty after a power cut as well.
                return (!contents.is_empty()).then_some("the contents are not on disk");
            };
            if saved.contents != *contents {
                return Some("the contents are not on disk");
            }
            // A hostile user puts times back where nobody looks before rights are at stake.
            let forged = self.disk.state().world.hostile.get();
            if hash.is_some_and(|hash| hash != Hash::of(contents) && !forged) || *size != contents.len() as u64 {
                return Some("the contents are others");
            }
            if saved.meta.mtime != inode.meta.mtime || saved.meta.mode != inode.meta.mode {
                return Some("the attributes are not on disk");
            }
        }
        let named = inode.names.iter().any(|(_, name)| *name == row.name);
        let on_disk = state.volume.disk_names.values().any(|names| names.get(&row.name) == Some(obj));
        (named && !on_disk).then_some("the name is not on disk")
    }
}

impl Archive for SpyArchive {
    fn identity(&self) -> Result<Identity, ArchiveError> {
        self.alive()?;
        self.inner.borrow().identity()
    }
    fn set_identity(&mut self, identity: &Identity) -> Result<(), ArchiveError> {
        self.alive()?;
        self.inner.borrow_mut().set_identity(identity)
    }
    fn child(&self, parent: NodeId, name: &Name) -> Result<Option<Row>, ArchiveError> {
        self.alive()?;
        self.inner.borrow().child(parent, name)
    }
    fn node(&self, node: NodeId) -> Result<Option<Row>, ArchiveError> {
        self.alive()?;
        self.inner.borrow().node(node)
    }
    fn children(&self, parent: NodeId) -> Result<Vec<Row>, ArchiveError> {
        self.alive()?;
        self.inner.borrow().children(parent)
    }
    fn by_object(&self, ino: u64, btime: Time) -> Result<Vec<Row>, ArchiveError> {
        self.alive()?;
        self.inner.borrow().by_object(ino, btime)
    }
    fn unproven(&self, above: NodeId) -> Result<Option<Row>, ArchiveError> {
        self.alive()?;
        self.inner.borrow().unproven(above)
    }
    fn count_unproven(&self) -> Result<u64, ArchiveError> {
        self.alive()?;
        self.inner.borrow().count_unproven()
    }
    fn count_came(&self, when: i64, most: u64) -> Result<u64, ArchiveError> {
        self.alive()?;
        self.inner.borrow().count_came(when, most)
    }
    fn count(&self) -> Result<u64, ArchiveError> {
        self.alive()?;
        self.inner.borrow().count()
    }
    fn files(&self) -> Result<(u64, u64), ArchiveError> {
        self.alive()?;
        self.inner.borrow().files()
    }
    fn put(&mut self, row: &Row) -> Result<Option<NodeId>, ArchiveError> {
        self.alive()?;
        self.inner.borrow_mut().put(row)
    }
    fn drop_tree(&mut self, node: NodeId) -> Result<(), ArchiveError> {
        self.alive()?;
        self.inner.borrow_mut().drop_tree(node)
    }
    fn bury(&mut self, tombstone: &Tombstone) -> Result<(), ArchiveError> {
        self.alive()?;
        self.inner.borrow_mut().bury(tombstone)
    }
    fn dir_time(&self, node: NodeId) -> Result<Option<Time>, ArchiveError> {
        self.alive()?;
        self.inner.borrow().dir_time(node)
    }
    fn set_dir_time(&mut self, node: NodeId, time: Option<Time>) -> Result<(), ArchiveError> {
        self.alive()?;
        self.inner.borrow_mut().set_dir_time(node, time)
    }
    fn rows_above(&self, generation: Generation) -> Result<Vec<Row>, ArchiveError> {
        self.alive()?;
        self.inner.borrow().rows_above(generation)
    }
    fn tombstones_above(&self, generation: Generation) -> Result<Vec<Tombstone>, ArchiveError> {
        self.alive()?;
        self.inner.borrow().tombstones_above(generation)
    }
    fn forget_tombstones(&mut self, upto: Generation) -> Result<(), ArchiveError> {
        self.alive()?;
        self.inner.borrow_mut().forget_tombstones(upto)
    }
    fn note_joint(&mut self, node: NodeId, generation: Generation) -> Result<(), ArchiveError> {
        self.alive()?;
        self.inner.borrow_mut().note_joint(node, generation)
    }
    fn joint(&self, node: NodeId) -> Result<Option<Generation>, ArchiveError> {
        self.alive()?;
        self.inner.borrow().joint(node)
    }
    fn intend(&mut self, intent: &Intent) -> Result<(), ArchiveError> {
        self.alive()?;
        self.inner.borrow_mut().intend(intent)
    }
    fn settle(&mut self, generation: Generation) -> Result<(), ArchiveError> {
        self.alive()?;
        self.inner.borrow_mut().settle(generation)
    }
    fn intents(&self) -> Result<Vec<Intent>, ArchiveError> {
        self.alive()?;
        self.inner.borrow().intents()
    }
    fn trash_add(&mut self, item: &TrashItem) -> Result<(), ArchiveError> {
        self.alive()?;
        self.inner.borrow_mut().trash_add(item)
    }
    fn trash_remove(&mut self, id: &Name) -> Result<(), ArchiveError> {
        self.alive()?;
        self.inner.borrow_mut().trash_remove(id)
    }
    fn trash(&self) -> Result<Vec<TrashItem>, ArchiveError> {
        self.alive()?;
        self.inner.borrow().trash()
    }
    fn commit(&mut self) -> Result<(), ArchiveError> {
        self.disk.pause();
        self.alive()?;
        self.inner.borrow_mut().commit()?;
        self.check_rows()?;
        self.disk.pause();
        self.alive()
    }
}
