//! inotify: who is watched under which path, and the events.

use psync::model::{Name, RelPath};
use psync::watch::{Event, Hint};

use super::state::{Obj, State};

impl State {
    /// A change of `name` in a directory: an event, if the directory is watched.
    pub fn event(&mut self, dir: Obj, name: &Name, hint: Hint) {
        if let Some(path) = self.watches.get(&dir).and_then(|path| path.join(name).ok()) {
            self.events.push_back(Event::Dirty { path, hint });
        }
    }

    /// A change of the object itself, seen through the first of its names.
    pub fn event_of(&mut self, obj: Obj, hint: Hint) {
        let first = self.inode(obj).names.first().cloned();
        if let Some((dir, name)) = first {
            self.event(dir, &name, hint);
        }
        if let Some(path) = self.watches.get(&obj).cloned() {
            self.events.push_back(Event::Dirty { path, hint });
        }
    }

    /// The watcher follows a directory that stays in the tree, and forgets one that left it.
    pub fn follow(&mut self, moved: Obj) {
        let Some(old) = self.watches.get(&moved).cloned() else { return };
        let new = self.inode(moved).names.first().and_then(|(dir, name)| self.watches.get(dir)?.join(name).ok());
        let below: Vec<(Obj, RelPath)> = self
            .watches
            .iter()
            .filter(|(_, path)| path.is_within(&old))
            .map(|(obj, path)| (*obj, path.clone()))
            .collect();
        for (obj, path) in below {
            match new.as_ref().and_then(|new| path.rebase(&old, new)) {
                // Only what really lies below: another directory may have the old path by now.
                Some(path) if self.is_within(obj, moved) => self.watches.insert(obj, path),
                None if self.is_within(obj, moved) => self.watches.remove(&obj),
                _ => None,
            };
        }
    }
}
