//! The times of directories: psync's own work in a directory leaves its mtime as users left it, and what users leave is told.
//!
//! Whatever changes names in a directory of users' goes through [`Replica::keeping`]. It notes the time that the directory had
//! before, and [`Replica::give_times_back`] sets that again at the end of the batch, unless a user has done something there
//! since. So a directory's mtime differs from the agreed one only by what users did, and there is nothing to be told of an
//! echo. What cannot be told apart is what a user does within the same tick of the file system's clock as psync.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;

use crate::model::{Kind, NodeId, RelPath, Time};
use crate::protocol::{DirTime, DirTimeSet, NewDirTime};

use super::Replica;
use super::archive::{Archive, Row};
use super::disk::{Disk, NotSet, Stat};
use super::error::{At, ReplicaError};
use super::examine::above_is_gone;

/// Directories that are kept open until they get their times back: with more of them those that wait get theirs.
const KEPT_MAX: usize = 512;

/// A directory with its node and its path.
pub(crate) type LastDir<Dir> = Option<(NodeId, RelPath, Dir)>;

/// A directory in which psync is at work.
#[derive(Debug)]
struct Kept<Dir> {
    dir: Dir,
    /// The mtime that users gave it.
    users: Time,
    /// What psync's last change made of it.
    ours: Time,
}

/// The directories in which psync is at work, and those whose times are to be looked at.
#[derive(Debug)]
pub(super) struct DirTimes<Dir> {
    /// By inode and birth time.
    kept: RefCell<BTreeMap<(u64, Time), Kept<Dir>>>,
    /// Those whose times this process may not set, and the times that they have.
    forbidden: RefCell<Vec<((u64, Time), Time)>>,
    differ: BTreeSet<RelPath>,
    /// The power may have failed on one side, which takes back what was agreed on there alone: no agreed time counts before
    /// the directory is one of these, which were agreed on since.
    doubted: Option<HashSet<NodeId>>,
}

impl<Dir> Default for DirTimes<Dir> {
    fn default() -> DirTimes<Dir> {
        DirTimes { kept: RefCell::default(), forbidden: RefCell::default(), differ: BTreeSet::new(), doubted: None }
    }
}

impl<D: Disk, A: Archive> Replica<D, A> {
    /// Changes names in these directories of users', which keep the times that users gave them.
    pub(super) fn keeping<T>(&self, dirs: &[&D::Dir], change: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if self.dir_times.kept.borrow().len() + dirs.len() > KEPT_MAX {
            self.give_back_kept();
        }
        let objects: Vec<_> = dirs.iter().map(|dir| self.keep_time(dir)).collect();
        let changed = change();
        for (dir, object) in dirs.iter().zip(objects) {
            if let Some(object) = object
                && let Ok(stat) = self.disk.stat_dir(dir)
                && let Some(kept) = self.dir_times.kept.borrow_mut().get_mut(&object)
            {
                kept.ours = stat.mtime;
            }
        }
        changed
    }

    /// Notes the time that users gave a directory, before it is changed.
    fn keep_time(&self, dir: &D::Dir) -> Option<(u64, Time)> {
        let stat = self.disk.stat_dir(dir).ok()?;
        let object = (stat.ino, stat.btime);
        let mut kept = self.dir_times.kept.borrow_mut();
        let kept = kept.entry(object).or_insert_with(|| Kept { dir: dir.clone(), users: stat.mtime, ours: stat.mtime });
        if kept.ours != stat.mtime {
            // A user was there since psync's last change.
            (kept.users, kept.ours) = (stat.mtime, stat.mtime);
        }
        Some(object)
    }

    /// A directory that psync makes in the place of another one gets that one's time.
    pub(super) fn pass_dir_time(&self, from: &D::Dir, to: &D::Dir) {
        let (Ok(from), Ok(stat)) = (self.disk.stat_dir(from), self.disk.stat_dir(to)) else { return };
        let mut kept = self.dir_times.kept.borrow_mut();
        let users = kept.get(&(from.ino, from.btime)).filter(|kept| kept.ours == from.mtime);
        let users = users.map_or(from.mtime, |kept| kept.users);
        kept.insert((stat.ino, stat.btime), Kept { dir: to.clone(), users, ours: stat.mtime });
    }

    /// Sets back what can be.
    fn give_back_kept(&self) {
        let kept = std::mem::take(&mut *self.dir_times.kept.borrow_mut());
        for (object, kept) in kept {
            if kept.ours != kept.users
                && let Err(error) = self.disk.set_dir_time(&kept.dir, kept.ours, kept.users)
                && is_forbidden(&error)
            {
                self.dir_times.forbidden.borrow_mut().push((object, kept.ours));
            }
        }
    }

    /// The archive can be used no more: directories get their times, and are held open no more.
    pub(crate) fn release_dirs(&mut self) {
        self.give_back_kept();
        self.dir_times.forbidden.get_mut().clear();
    }

    /// psync's work is done for now: directories have the times again that users gave them. Where this process may set none,
    /// the time that they have is no user's, and counts as agreed on.
    pub(crate) fn give_times_back(&mut self) -> Result<(), ReplicaError> {
        self.give_back_kept();
        for ((ino, btime), time) in std::mem::take(self.dir_times.forbidden.get_mut()) {
            for row in self.archive.by_object(ino, btime)? {
                self.hold_dir_time(row.node, time)?;
            }
        }
        Ok(())
    }

    /// Notes a directory of this row if its time is not the agreed one.
    pub(super) fn compare_dir_time(&mut self, path: &RelPath, row: &Row, stat: &Stat) -> Result<(), ReplicaError> {
        let same = row.signature.is_some_and(|signature| signature.same_object(stat));
        if same && stat.kind == Some(Kind::Dir) && self.agreed_dir_time(row.node)? != Some(stat.mtime) {
            self.dir_times.differ.insert(path.clone());
        }
        Ok(())
    }

    /// A directory was recorded: what users did in it since it was looked at shows in its time.
    pub(super) fn look_at_dir_time(&mut self, path: &RelPath) {
        self.dir_times.differ.insert(path.clone());
    }

    /// psync made a directory, so no user gave it the time that it has. Another one that was here before it for this node had
    /// the agreed time, which this one gets.
    pub(super) fn made_dir(
        &mut self,
        node: NodeId,
        new: bool,
        path: &RelPath,
        stat: &Stat,
    ) -> Result<(), ReplicaError> {
        if stat.kind != Some(Kind::Dir) {
            return Ok(());
        }
        match self.archive.dir_time(node)? {
            Some(agreed) => {
                if let Ok(dir) = self.disk.open_dir(path) {
                    // If it cannot be set it counts as users' own, and goes to the other side.
                    let _ = self.disk.set_dir_time(&dir, stat.mtime, agreed);
                }
                self.look_at_dir_time(path);
                Ok(())
            }
            None if new => self.hold_dir_time(node, stat.mtime),
            None => {
                self.look_at_dir_time(path);
                Ok(())
            }
        }
    }

    /// Takes the directories whose times are to be looked at.
    pub(crate) fn take_dir_times(&mut self) -> BTreeSet<RelPath> {
        std::mem::take(&mut self.dir_times.differ)
    }

    /// The time that both sides agreed on, as far as that counts.
    fn agreed_dir_time(&self, node: NodeId) -> Result<Option<Time>, ReplicaError> {
        match &self.dir_times.doubted {
            Some(agreed) if !agreed.contains(&node) => Ok(None),
            _ => Ok(self.archive.dir_time(node)?),
        }
    }

    /// Both sides agree on a directory's time, which this one holds as this.
    fn hold_dir_time(&mut self, node: NodeId, time: Time) -> Result<(), ReplicaError> {
        if let Some(agreed) = &mut self.dir_times.doubted {
            agreed.insert(node);
        }
        Ok(self.archive.set_dir_time(node, Some(time))?)
    }

    /// From now on every directory's time is compared with the other side's, or none more than its users changed it.
    pub(crate) fn doubt_dir_times(&mut self, on: bool) {
        self.dir_times.doubted = on.then(HashSet::new);
    }

    pub(crate) fn doubts_dir_times(&self) -> bool {
        self.dir_times.doubted.is_some()
    }

    /// The time that users gave the directory at this path, if it is not the agreed one. `last`: the directory that was looked
    /// at before it, as in [`Replica::set_dir_time`].
    pub(crate) fn dir_time_to_tell(
        &self,
        path: &RelPath,
        last: &mut LastDir<D::Dir>,
    ) -> Result<Option<DirTime>, ReplicaError> {
        let before = last.take();
        let Some(row) = self.row_at(path)?.filter(|row| row.entry.kind() == Kind::Dir) else { return Ok(None) };
        let opened = match (&before, path.split()) {
            (Some((_, above, dir)), Some((parent, name))) if *above == parent => self.disk.open_child(dir, &name, path),
            _ => self.disk.open_dir(path),
        };
        let dir = match opened {
            Err(error) if above_is_gone(&error) => return Ok(None),
            dir => dir.at(path, "open the directory")?,
        };
        let stat = self.disk.stat_dir(&dir).at(path, "stat the directory")?;
        let node = row.node;
        *last = Some((node, path.clone(), dir));
        let same = row.signature.is_some_and(|signature| signature.same_object(&stat)) && !stat.foreign;
        let differs = same && self.agreed_dir_time(node)? != Some(stat.mtime);
        Ok(differs.then_some(DirTime { node, time: stat.mtime }))
    }

    /// The directory of a node, open, and where it lies. Those of one message lie in each other often enough: `last` is the one
    /// before it, so that a deep tree is not entered from its root for each of its levels.
    fn dir_of_node(&self, node: NodeId, last: &mut LastDir<D::Dir>) -> Result<Option<(RelPath, D::Dir)>, ReplicaError> {
        let Some(row) = self.archive.node(node)?.filter(|row| row.entry.kind() == Kind::Dir) else { return Ok(None) };
        let inner = match last.take().filter(|(above, ..)| *above == row.parent && self.ledger.moved_to(node).is_none())
        {
            Some((_, path, dir)) => path.join(&row.name).ok().and_then(|path| {
                let dir = self.disk.open_child(&dir, &row.name, &path).ok()?;
                Some((path, dir))
            }),
            None => self.path_of(node)?.and_then(|path| {
                let dir = self.disk.open_dir(&path).ok()?;
                Some((path, dir))
            }),
        };
        if let Some((path, dir)) = &inner {
            *last = Some((node, path.clone(), dir.clone()));
        }
        Ok(inner)
    }

    /// Gives a directory the other side's time, if it has what this side told or both agreed on. `last`: see
    /// [`Replica::dir_of_node`].
    pub(crate) fn set_dir_time(
        &mut self,
        new: &NewDirTime,
        last: &mut LastDir<D::Dir>,
    ) -> Result<DirTimeSet, ReplicaError> {
        let node = new.node;
        let Some((path, dir)) = self.dir_of_node(node, last)? else { return Ok(DirTimeSet::Gone) };
        let Ok(stat) = self.disk.stat_dir(&dir) else { return Ok(DirTimeSet::Gone) };
        let signature = self.archive.node(node)?.and_then(|row| row.signature);
        if stat.foreign || !signature.is_some_and(|signature| signature.same_object(&stat)) {
            return Ok(DirTimeSet::Gone);
        }
        let known = match new.told {
            Some(told) => Some(told),
            None => self.agreed_dir_time(node)?,
        };
        if known != Some(stat.mtime) {
            return Ok(DirTimeSet::Differs(stat.mtime));
        }
        let set = match stat.mtime == new.time {
            true => Ok(true),
            false => self.disk.set_dir_time(&dir, stat.mtime, new.time),
        };
        let holds = match set {
            Ok(true) => self.disk.stat_dir(&dir).map_or(new.time, |stat| held_of(new.time, stat.mtime)),
            Ok(false) => {
                let now = self.disk.stat_dir(&dir).map_or(stat.mtime, |stat| stat.mtime);
                return Ok(DirTimeSet::Differs(now));
            }
            Err(error) if is_forbidden(&error) => {
                self.news.count_not_set(&path, &NotSet { what: vec!["mtime"], refused: vec![] });
                stat.mtime
            }
            Err(_) => return Ok(DirTimeSet::Gone),
        };
        self.hold_dir_time(node, holds)?;
        Ok(DirTimeSet::Done)
    }

    /// Both sides agreed on this time, which this one told.
    pub(crate) fn agree_dir_time(&mut self, node: NodeId, time: Time) -> Result<(), ReplicaError> {
        match self.archive.node(node)?.is_some_and(|row| row.entry.kind() == Kind::Dir) {
            true => self.hold_dir_time(node, time),
            false => Ok(()),
        }
    }
}

/// What a file system made of a time that was set, by what it says: as much as it can hold, down to two whole seconds. Anything
/// else is a user's of this very moment.
fn held_of(set: Time, found: Time) -> Time {
    let cut = found <= set && set.secs.saturating_sub(found.secs) <= 2;
    if cut { found } else { set }
}

/// Whether this process may not set the time, be it for its rights or for the file system's.
fn is_forbidden(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::PermissionDenied
            | io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::Unsupported
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_cuts_a_time_and_a_user_sets_another() {
        let time = |secs, nanos| Time { secs, nanos };
        let set = time(1_700_000_001, 123_456_789);
        for (found, held) in [
            (set, set),
            (time(1_700_000_001, 123_456_700), time(1_700_000_001, 123_456_700)),
            (time(1_700_000_001, 0), time(1_700_000_001, 0)),
            (time(1_700_000_000, 0), time(1_700_000_000, 0)),
            // Later, and much earlier.
            (time(1_700_000_001, 123_456_790), set),
            (time(1_600_000_000, 0), set),
            (time(i64::MIN, 0), set),
        ] {
            assert_eq!(held_of(set, found), held, "{found:?}");
        }
    }
}
