//! What is durable: each file's contents and attributes by themselves, each change of names as a whole.
//! And what remains after a power cut.

use std::collections::{BTreeMap, BTreeSet};

use psync::model::Name;

use super::state::{Body, Inode, Obj, Saved, State, TRASH, Volume};

/// One change of names that a journal keeps or loses as a whole.
#[derive(Debug, Clone)]
pub struct NameOp {
    changes: Vec<(Obj, Name, Option<Obj>, Option<Obj>)>,
    /// The inode numbers concerned: one after the other, so that no object is lost from both its names.
    inos: BTreeSet<u64>,
    /// Directories that get or lose their only name: what happens inside comes after, or before.
    dirs: BTreeSet<Obj>,
    nanos: u64,
}

impl NameOp {
    pub fn new(state: &State, changes: Vec<(Obj, Name, Option<Obj>, Option<Obj>)>) -> NameOp {
        let objects: BTreeSet<Obj> = changes.iter().flat_map(|change| [change.2, change.3]).flatten().collect();
        NameOp {
            inos: objects.iter().map(|obj| state.inode(*obj).ino).collect(),
            dirs: objects.iter().copied().filter(|obj| state.is_dir(*obj)).collect(),
            nanos: state.world.nanos(),
            changes,
        }
    }

    pub fn names(&self, obj: Obj) -> bool {
        self.changes.iter().any(|change| change.0 == obj || change.2 == Some(obj) || change.3 == Some(obj))
    }

    fn touches_dir(&self, dir: Obj) -> bool {
        self.changes.iter().any(|change| change.0 == dir)
    }

    /// Whether this change cannot be on disk without the earlier one.
    fn needs(&self, earlier: &NameOp) -> bool {
        let same_name = self
            .changes
            .iter()
            .any(|mine| earlier.changes.iter().any(|other| (mine.0, &mine.1) == (other.0, &other.1)));
        same_name
            || !self.inos.is_disjoint(&earlier.inos)
            || earlier.dirs.iter().any(|dir| self.touches_dir(*dir))
            || self.dirs.iter().any(|dir| earlier.touches_dir(*dir))
            // Directories are moved one after the other, or they could end up inside each other.
            || (!self.dirs.is_empty() && !earlier.dirs.is_empty())
    }
}

impl Volume {
    pub fn is_on_disk(&self, obj: Obj) -> bool {
        self.log.iter().any(|op| op.names(obj))
            || self.disk_names.values().any(|names| names.values().any(|on_disk| *on_disk == obj))
    }

    /// Applies the chosen changes, and those that they need, to the disk; returns the others.
    fn persist(&mut self, mut chosen: Vec<bool>) -> Vec<NameOp> {
        for later in (0..self.log.len()).rev() {
            if chosen[later] {
                for (earlier, chosen) in chosen.iter_mut().enumerate().take(later) {
                    *chosen |= self.log[later].needs(&self.log[earlier]);
                }
            }
        }
        let log = std::mem::take(&mut self.log);
        let mut rest = Vec::new();
        for (op, keep) in log.into_iter().zip(chosen) {
            if !keep {
                rest.push(op);
                continue;
            }
            for (dir, name, _, new) in op.changes {
                let names = self.disk_names.entry(dir).or_default();
                match new {
                    Some(obj) => names.insert(name, obj),
                    None => names.remove(&name),
                };
            }
        }
        rest
    }

    /// Forgets objects that neither memory nor disk has a name for.
    fn sweep(&mut self) {
        let gone: Vec<Obj> = self.inodes.iter().filter(|(_, inode)| inode.freed).map(|(obj, _)| *obj).collect();
        for obj in gone.into_iter().filter(|obj| !self.is_on_disk(*obj)).collect::<Vec<_>>() {
            self.inodes.remove(&obj);
            self.disk_names.remove(&obj);
        }
    }
}

impl State {
    /// An object's contents and attributes reach the disk.
    pub fn save(&mut self, obj: Obj) {
        let inode = self.inode_mut(obj);
        let contents = if let Body::File(contents) = &inode.body { contents.clone() } else { Vec::new() };
        inode.saved = Some(Saved { contents, meta: inode.meta.clone() });
    }

    /// The names in these directories reach the disk.
    pub fn save_names(&mut self, dirs: &[Obj]) {
        let chosen = self.volume.log.iter().map(|op| dirs.iter().any(|dir| op.touches_dir(*dir))).collect();
        self.volume.log = self.volume.persist(chosen);
        self.volume.sweep();
    }

    /// Everything reaches the disk.
    pub fn save_all(&mut self) {
        let all: Vec<bool> = self.volume.log.iter().map(|_| true).collect();
        self.volume.log = self.volume.persist(all);
        self.volume.sweep();
        let all: Vec<Obj> = self.volume.inodes.keys().copied().collect();
        all.into_iter().for_each(|obj| self.save(obj));
    }

    /// What the kernel writes back by itself when time passes.
    pub fn write_back(&mut self, older_than_nanos: u64) {
        let limit = self.world.nanos().saturating_sub(older_than_nanos);
        if self.volume.log.first().is_some_and(|op| op.nanos < limit) {
            let chosen = self.volume.log.iter().map(|op| op.nanos < limit).collect();
            self.volume.log = self.volume.persist(chosen);
            self.volume.sweep();
        }
        if older_than_nanos == 0 {
            let all: Vec<Obj> = self.volume.inodes.keys().copied().collect();
            all.into_iter().for_each(|obj| self.save(obj));
        }
    }

    /// The machine loses its power: each unsaved item is there or not, by choice. All processes are gone.
    pub fn power_cut(&mut self) {
        self.boot += 1;
        let count = self.volume.log.len() as u64;
        let choices = self.choices.clone();
        // Either the journal's order, or each change by itself.
        let chosen = if choices.one_in(2) {
            let kept = choices.below(count + 1);
            (0..count).map(|i| i < kept).collect()
        } else {
            (0..count).map(|_| choices.one_in(2)).collect()
        };
        self.volume.persist(chosen);
        self.start_from_disk();
    }

    /// The volume as it was, taken while everything was running.
    pub fn restore(&mut self, volume: &Volume) {
        let next_obj = self.volume.next_obj;
        self.volume = volume.clone();
        self.volume.next_obj = next_obj;
        self.boot += 1;
        let count = self.volume.log.len();
        self.volume.persist(vec![true; count]);
        for obj in self.volume.inodes.keys().copied().collect::<Vec<_>>() {
            self.save(obj);
        }
        self.start_from_disk();
    }

    /// Memory is rebuilt from what is on disk.
    fn start_from_disk(&mut self) {
        self.end_processes();
        self.volume.log.clear();
        self.rebuild_names();
        let objects: Vec<Obj> = self.volume.inodes.keys().copied().collect();
        objects.into_iter().for_each(|obj| self.reboot_object(obj));
        let used: BTreeSet<u64> = self.volume.inodes.values().map(|inode| inode.ino).collect();
        self.volume.free_inos = (101..=self.volume.next_ino).filter(|ino| !used.contains(ino)).collect();
    }

    fn end_processes(&mut self) {
        self.process += 1;
        self.user_files.clear();
        self.waiting.clear();
        self.watches.clear();
        self.events.clear();
        self.fail_in = None;
    }

    fn rebuild_names(&mut self) {
        let volume = &mut self.volume;
        volume.inodes.values_mut().for_each(|inode| inode.names.clear());
        let mut reachable: BTreeSet<Obj> = (1..=TRASH).collect();
        let mut todo: Vec<Obj> = reachable.iter().copied().collect();
        while let Some(dir) = todo.pop() {
            let names = volume.disk_names.entry(dir).or_default().clone();
            for (name, obj) in &names {
                volume.inodes.get_mut(obj).expect("named on disk").names.insert((dir, name.clone()));
                if reachable.insert(*obj) && matches!(volume.inodes[obj].body, Body::Dir(_)) {
                    todo.push(*obj);
                }
            }
            volume.inodes.get_mut(&dir).expect("reachable").body = Body::Dir(names);
        }
        volume.inodes.retain(|obj, _| reachable.contains(obj));
        volume.disk_names.retain(|obj, _| reachable.contains(obj));
    }

    /// The file's contents and attributes as the disk has them: old, new, or (if the new were never saved) cut short.
    fn reboot_object(&mut self, obj: Obj) {
        let choices = self.choices.clone();
        let world = self.world.clone();
        let inode = self.inode_mut(obj);
        (inode.writers, inode.handles, inode.write_handles, inode.waiters) = (0, 0, 0, 0);
        (inode.freed, inode.dropped_by_user) = (false, false);
        inode.leases.clear();
        let old = inode.saved.clone();
        if let Body::File(new) = &mut inode.body {
            match (choices.below(4), old) {
                // Only attributes are new, or nothing.
                (0 | 1, Some(old)) if old.contents == *new => inode.meta = old.meta,
                (_, Some(old)) if old.contents == *new => {}
                (0 | 1, Some(old)) => {
                    *new = old.contents;
                    inode.meta = old.meta;
                }
                (0, None) => new.clear(),
                (1 | 2, _) => new.truncate(choices.below(new.len() as u64 + 1) as usize),
                _ => {}
            }
            // What the power left of a user's file is now what users have; psync's own must be whole.
            if inode.by_user {
                world.allow(new);
            }
        } else if let Some(old) = old
            && choices.one_in(2)
        {
            inode.meta = old.meta;
        }
        self.save(obj);
        if !self.is_dir(obj) {
            self.check_whole(obj);
        }
    }

    /// The contents that are safe on this disk: saved, under a saved name, in any of psync's or the users' directories.
    pub fn durable_contents(&self) -> BTreeSet<Vec<u8>> {
        let mut found = BTreeSet::new();
        let mut todo: Vec<Obj> = (1..=TRASH).collect();
        let empty = BTreeMap::new();
        while let Some(dir) = todo.pop() {
            for obj in self.volume.disk_names.get(&dir).unwrap_or(&empty).values() {
                match &self.inode(*obj).body {
                    Body::Dir(_) => todo.push(*obj),
                    Body::File(contents) => {
                        if let Some(saved) = &self.inode(*obj).saved
                            && saved.contents == *contents
                        {
                            found.insert(contents.clone());
                        }
                    }
                    Body::Link(_) | Body::Fifo => {}
                }
            }
        }
        found
    }

    /// What lies under temporary names, in the trash as well.
    pub fn temporary_contents(&self) -> BTreeSet<Vec<u8>> {
        let temporary = |inode: &&Inode| inode.names.iter().any(|(_, name)| name.as_bytes().ends_with(b".tmp"));
        let files = self.volume.inodes.values().filter(temporary).filter_map(|inode| match &inode.body {
            Body::File(contents) => Some(contents.clone()),
            _ => None,
        });
        files.collect()
    }

    /// Everything under users' names, in the stage and in the trash.
    pub fn all_contents(&self) -> BTreeSet<Vec<u8>> {
        self.contents_below(1..=TRASH)
    }

    /// The same without the stage: what is there only for now.
    pub fn kept_contents(&self) -> BTreeSet<Vec<u8>> {
        self.contents_below([1, TRASH])
    }

    fn contents_below(&self, tops: impl IntoIterator<Item = u64>) -> BTreeSet<Vec<u8>> {
        let mut files = Vec::new();
        tops.into_iter().for_each(|top| self.files_below(top, &mut files));
        files.into_iter().map(|(_, contents)| contents).collect()
    }
}
