//! Listing ahead of a scan: directories that it will enter soon are read together, which two threads do quicker than
//! one (`Disk::list_many`).
//!
//! A directory is watched before it is listed, as always: what comes later makes an event. When the scan gets there it
//! opens the path again and takes the listing only if the same directory lies there.

use std::collections::HashMap;

use crate::filter::Filter;
use crate::model::{Kind, Name, RelPath, Time};

use super::disk::{Disk, Stat};

/// Directories read together at most.
const DIRS: usize = 64;
/// The largest directory that is read ahead, and the most read together (but for the last one), in bytes of the
/// directories' own size: an entry takes eight or more of them on most file systems.
const SIZE: u64 = 256 * 1024;
/// When so many entries lie ready, no more are kept: some file systems tell no size.
const ENTRIES: usize = 32 * 1024;
/// Directories in each other that lie ready and are looked through for more.
const DEPTH: usize = 64;
/// Entries looked at in search of directories to read.
const LOOKS: usize = 4096;

/// The names in a directory, with their states.
pub(super) type Entries = std::vec::IntoIter<(Name, Stat)>;

/// What was read and not yet looked at.
#[derive(Default)]
pub(super) struct Ahead {
    ready: HashMap<RelPath, Listing>,
    entries: usize,
}

struct Listing {
    /// Inode and birth time.
    object: (u64, Time),
    entries: Vec<(Name, Stat)>,
}

impl Ahead {
    pub fn holds(&self, path: &RelPath) -> bool {
        self.ready.contains_key(path)
    }

    /// The entries of the directory at `path`, if it was read ahead and is still this one.
    pub fn take<D: Disk>(&mut self, disk: &D, path: &RelPath, dir: &D::Dir) -> Option<Entries> {
        let listing = self.ready.remove(path)?;
        self.entries -= listing.entries.len();
        let same = disk.stat_dir(dir).is_ok_and(|stat| (stat.ino, stat.btime) == listing.object);
        same.then(|| listing.entries.into_iter())
    }

    /// Reads directories that the scan will come to. `levels`: what is still to be looked at in the directories that it
    /// is in, the innermost first, which is open as `inner`. What cannot be read now is left to the scan itself, which tells why.
    pub fn read<'a, D: Disk>(
        &mut self,
        disk: &D,
        filter: &Filter,
        inner: &D::Dir,
        levels: impl Iterator<Item = (&'a RelPath, &'a [(Name, Stat)])>,
    ) {
        if self.entries >= ENTRIES {
            return;
        }
        let mut levels = levels.peekable();
        let innermost = levels.peek().map(|(path, _)| (*path).clone());
        let mut search = Search { ahead: self, filter, looks: LOOKS, size: 0, found: Vec::new() };
        for (path, entries) in levels {
            if !search.below(path, entries, 0) {
                break;
            }
        }
        let mut paths = Vec::new();
        let mut dirs = Vec::new();
        for path in search.found {
            let opened = match path.split() {
                Some((above, name)) if !path.is_landmark() && Some(&above) == innermost.as_ref() => {
                    disk.open_child(inner, &name, &path)
                }
                _ => disk.open_dir(&path),
            };
            let opened = opened.and_then(|dir| Ok((disk.stat_dir(&dir)?, dir)));
            let Ok((stat, dir)) = opened else { continue };
            if disk.watch(&dir, &path).is_ok() {
                paths.push((path, (stat.ino, stat.btime)));
                dirs.push(dir);
            }
        }
        for ((path, object), entries) in paths.into_iter().zip(disk.list_many(&dirs)) {
            if let Ok(entries) = entries
                && self.entries < ENTRIES
            {
                self.entries += entries.len();
                self.ready.insert(path, Listing { object, entries });
            }
        }
    }
}

/// Looks for directories that are still to be read, in the order of the scan.
struct Search<'a> {
    ahead: &'a Ahead,
    filter: &'a Filter,
    looks: usize,
    size: u64,
    found: Vec<RelPath>,
}

impl Search<'_> {
    /// False when enough was found or looked at.
    fn below(&mut self, dir: &RelPath, entries: &[(Name, Stat)], depth: usize) -> bool {
        if depth == DEPTH {
            return true;
        }
        for (name, stat) in entries {
            if self.looks == 0 || self.found.len() == DIRS || self.size >= SIZE {
                return false;
            }
            self.looks -= 1;
            if stat.kind != Some(Kind::Dir) || stat.foreign || stat.size > SIZE {
                continue;
            }
            let Ok(path) = dir.join(name) else { continue };
            if self.filter.excluded_itself(&path) || self.filter.temporary_itself(&path) {
                continue;
            }
            match self.ahead.ready.get(&path) {
                Some(listing) => {
                    if !self.below(&path, &listing.entries, depth + 1) {
                        return false;
                    }
                }
                None => {
                    self.size += stat.size;
                    self.found.push(path);
                }
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::Filters;
    use crate::replica::real::{NoCover, RealDisk};
    use std::fs;
    use std::sync::Arc;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).expect("a path")
    }

    #[test]
    fn directories_to_come_are_read_once_and_only_as_they_are() {
        let root = tempfile::tempdir().expect("a directory");
        for n in 0..2 * DIRS {
            fs::create_dir_all(root.path().join(format!("d{n:03}/sub"))).expect("made");
            fs::write(root.path().join(format!("d{n:03}/file")), "x").expect("written");
        }
        fs::create_dir(root.path().join("Thumbs.db")).expect("made");
        let disk = RealDisk::open(root.path(), "p", Arc::new(NoCover)).expect("open");
        let filter = Filter::new(&Filters::default()).expect("filters");
        let open = |at: &str| disk.open_dir(&path(at)).expect("open");
        let inner = disk.open_dir(&RelPath::root()).expect("open");
        let top = disk.list(&inner).expect("list");

        let mut ahead = Ahead::default();
        ahead.read(&disk, &filter, &inner, std::iter::once((&RelPath::root(), &top[..])));
        assert_eq!((ahead.ready.len(), ahead.entries), (DIRS, 2 * DIRS));
        assert!(ahead.holds(&path("d000")) && !ahead.holds(&path("Thumbs.db")));

        let names = |entries: Entries| entries.map(|(name, _)| name.as_bytes().to_vec()).collect::<Vec<_>>();
        let read = ahead.take(&disk, &path("d000"), &open("d000")).map(names);
        assert_eq!(read, Some(vec![b"file".to_vec(), b"sub".to_vec()]));
        assert!(ahead.take(&disk, &path("d000"), &open("d000")).is_none(), "taken already");

        fs::rename(root.path().join("d001"), root.path().join("away")).expect("renamed");
        fs::create_dir(root.path().join("d001")).expect("made");
        assert!(ahead.take(&disk, &path("d001"), &open("d001")).is_none(), "another directory lies there");

        // What was read tells of more.
        ahead.read(&disk, &filter, &inner, std::iter::once((&RelPath::root(), &top[3..])));
        assert!(ahead.holds(&path("d003/sub")) && ahead.ready.len() <= 2 * DIRS);
        assert_eq!(ahead.entries, ahead.ready.values().map(|listing| listing.entries.len()).sum::<usize>());
    }
}
