//! Late writes: what users write into an object after it left its name, through a file or directory that they still
//! have open. It is looked for a second later, as long as somebody has it open, and once more before it expires.

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

use crate::model::{Generation, Kind, Millis, Name, NodeId, RelPath, Time};

use super::Replica;
use super::archive::{Archive, TrashItem};
use super::disk::{Disk, Own, Stat};
use super::error::{At, ReplicaError};
use super::home::Home;
use super::place::beside::Version;
use super::spot::Spot;

/// When an object of the trash is looked at again, in milliseconds.
const AFTER: Millis = 1000;
/// The longest time between two looks at a tree in which somebody has a file open.
const LONGEST: Millis = 60_000;
/// In a trash name, of what no action put there; 0 stands for a check.
const NO_ACTION: Generation = 1;
/// Objects that wait for their look in memory; others wait in the archive.
const MAX: usize = 10_000;
/// Looks in one slice of work, and those of them at trees.
const SLICE: usize = 64;

/// An object that came into the trash a moment ago.
#[derive(Debug, Clone)]
struct Waiting {
    item: TrashItem,
    /// Set when the clock is first known.
    due: Option<Millis>,
    delay: Millis,
}

/// What waits for its look.
#[derive(Debug, Default)]
pub struct Looks {
    waiting: VecDeque<Waiting>,
    /// More wait in the archive.
    more: bool,
}

/// What a look found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Late {
    Quiet,
    StillOpen,
    /// Something was given back.
    Written,
}

/// How what is late in a tree is told from what went with it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Known {
    /// All that changed after this moment of the file system's clock is late.
    Until(Time),
    /// The rows of this node are still there; `None`: of a directory without rows.
    Rows(Option<NodeId>),
}

/// A directory of a tree in the trash or the stage.
struct Level<Dir> {
    /// Where it lies now.
    dir: Dir,
    name: Name,
    /// Where users knew it.
    path: RelPath,
    stat: Stat,
    above: Option<Rc<Level<Dir>>>,
}

impl<D: Disk, A: Archive> Replica<D, A> {
    /// What waited for its look when psync ended waits again.
    pub(super) fn resume_looks(&mut self) -> Result<(), ReplicaError> {
        self.bin.looks = Looks::default();
        for item in self.archive.trash()?.into_iter().filter(|item| item.look) {
            self.look_later(item);
        }
        Ok(())
    }

    pub(super) fn look_later(&mut self, item: TrashItem) {
        if !item.look {
            return;
        }
        if self.bin.looks.waiting.len() < MAX {
            self.bin.looks.waiting.push_back(Waiting { item, due: None, delay: AFTER });
        } else {
            self.bin.looks.more = true;
        }
    }

    /// Looks again at what came into the trash a second ago, and gives back what was written into it meanwhile.
    pub fn look_for_late_writes(&mut self, now: Millis) -> Result<(), ReplicaError> {
        if self.bin.looks.waiting.is_empty() && self.bin.looks.more {
            self.resume_looks()?;
        }
        for _ in 0..self.bin.looks.waiting.len().min(SLICE) {
            let Some(mut waiting) = self.bin.looks.waiting.pop_front() else { break };
            match waiting.due {
                None => waiting.due = Some(now + AFTER),
                Some(due) if due > now => {
                    // Those behind it were put there later, but for the ones that are looked at less and less often.
                    self.bin.looks.waiting.push_back(waiting);
                    continue;
                }
                Some(_) => {
                    let late = match self.look_at_trashed(&waiting.item) {
                        Ok(late) => late,
                        Err(error @ ReplicaError::Archive(_)) => return Err(error),
                        Err(error) => {
                            self.news.note(format!("trash: {error}"));
                            Late::StillOpen
                        }
                    };
                    match late {
                        Late::Quiet => {
                            let item = TrashItem { look: false, ..waiting.item };
                            self.archive.trash_add(&item)?;
                            // From now on it can give way.
                            self.stage.room.trashed();
                            continue;
                        }
                        // A rescued file is in the trash no more.
                        Late::Written if !self.is_in_trash(&waiting.item.id) => continue,
                        Late::Written => waiting.delay = AFTER,
                        Late::StillOpen if self.is_tree(&waiting.item.id) => {
                            waiting.delay = (waiting.delay * 2).min(LONGEST);
                        }
                        Late::StillOpen => {}
                    }
                    waiting.due = Some(now + waiting.delay);
                }
            }
            self.bin.looks.waiting.push_back(waiting);
        }
        Ok(())
    }

    /// When the next look is due; `None` without any.
    pub fn next_look(&self) -> Option<Millis> {
        self.bin.looks.waiting.iter().map(|waiting| waiting.due.unwrap_or(0)).min()
    }

    fn trashed(&self, id: &Name) -> Option<Stat> {
        self.disk.own(Own::Trash).and_then(|trash| self.disk.stat(&trash, id)).ok()
    }

    fn is_in_trash(&self, id: &Name) -> bool {
        self.trashed(id).is_some()
    }

    fn is_tree(&self, id: &Name) -> bool {
        self.trashed(id).is_some_and(|stat| stat.kind == Some(Kind::Dir))
    }

    /// Gives back what was written into an object of the trash since it came.
    pub(super) fn look_at_trashed(&mut self, item: &TrashItem) -> Result<Late, ReplicaError> {
        let Some(stat) = self.trashed(&item.id) else { return Ok(Late::Quiet) };
        let trash = self.disk.own(Own::Trash).at(&item.path, "open the trash")?;
        match stat.kind {
            Some(Kind::Dir) => {
                // Without a stamp (an older psync put it there) nothing can be told.
                let until = item.stamp.unwrap_or(Time { secs: i64::MAX, nanos: 0 });
                self.look_through(Spot::new(&trash, &item.id, &item.path), stat, Known::Until(until))
            }
            Some(Kind::File) => {
                let late = self.late_in_file(&trash, item)?;
                if late == Late::Written {
                    let version = Version { since: Some(item.since), ..Version::of(&stat, "late write") };
                    self.keep_beside((&trash, &item.id), &item.path, version)?;
                    self.archive.trash_remove(&item.id)?;
                    self.bin.expiry.size = None;
                }
                Ok(late)
            }
            _ => Ok(Late::Quiet),
        }
    }

    fn late_in_file(&self, trash: &D::Dir, item: &TrashItem) -> Result<Late, ReplicaError> {
        let Ok(file) = self.disk.open_file(trash, &item.id) else { return Ok(Late::Quiet) };
        let open = self.has_writer(&file, &item.path)?;
        let stat = self.disk.stat_file(&file).at(&item.path, "stat")?;
        self.disk.release(&file);
        let same = item.stamp.is_none_or(|stamp| (stat.size, stat.mtime) == (item.size, stamp));
        Ok(match (open, same) {
            (true, _) => Late::StillOpen,
            (false, true) => Late::Quiet,
            (false, false) => Late::Written,
        })
    }

    /// Looks through a tree that lies in the trash or the stage, and that users knew at `path`.
    pub(super) fn look_through(&mut self, at: Spot<D::Dir>, stat: Stat, known: Known) -> Result<Late, ReplicaError> {
        let top = Level { dir: at.dir.clone(), name: at.name.clone(), path: at.path.clone(), stat, above: None };
        let late = self.look_into(top, known)?;
        if late == Late::Written {
            self.bin.expiry.size = None;
        }
        Ok(late)
    }

    fn look_into(&mut self, top: Level<D::Dir>, known: Known) -> Result<Late, ReplicaError> {
        let mut found = Late::Quiet;
        // In a list and not on the stack: users make trees of any depth.
        let mut to_come = vec![(Rc::new(top), known)];
        while let Some((level, known)) = to_come.pop() {
            let (dir, name, above) = (&level.dir, &level.name, &level.path);
            let inside = self.disk.open_child(dir, name, above).at(above, "open what was deleted")?;
            for (name, stat) in self.disk.list(&inside).at(above, "list what was deleted")? {
                let Ok(path) = above.join(&name) else { continue };
                if stat.foreign || self.goes_along(&path, &stat) {
                    continue;
                }
                let at = Spot::new(&inside, &name, &path);
                let (late, below) = self.is_late(&level.stat, at, &stat, known)?;
                let one = match stat.kind {
                    _ if late => {
                        self.give_back(&level, at)?;
                        Late::Written
                    }
                    Some(Kind::Dir) => {
                        let inner = Level { dir: inside.clone(), name, path, stat, above: Some(level.clone()) };
                        to_come.push((Rc::new(inner), below));
                        Late::Quiet
                    }
                    Some(Kind::File) if self.is_open(&inside, &name, &path)? => Late::StillOpen,
                    _ => Late::Quiet,
                };
                found = found.max(one);
            }
        }
        Ok(found)
    }

    /// Whether a name in a deleted directory, which has this stat, is late, and what is known of what lies below it.
    fn is_late(
        &mut self,
        dir: &Stat,
        at: Spot<D::Dir>,
        stat: &Stat,
        known: Known,
    ) -> Result<(bool, Known), ReplicaError> {
        let node = match known {
            Known::Until(stamp) => return Ok((is_late(dir, stat, stamp), known)),
            Known::Rows(node) => node,
        };
        let row = node.map(|node| self.row_in(node, at.name, at.path)).transpose()?.flatten();
        let as_row = match &row {
            Some(row) if stat.kind == Some(Kind::Dir) => {
                row.entry.kind() == Kind::Dir && row.signature.is_none_or(|s| s.same_object(stat))
            }
            Some(row) => self.is_as_recorded(at, row, stat)?,
            None => false,
        };
        Ok((!as_row, Known::Rows(row.map(|row| row.node))))
    }

    fn is_open(&self, dir: &D::Dir, name: &Name, path: &RelPath) -> Result<bool, ReplicaError> {
        let Ok(file) = self.disk.open_file(dir, name) else { return Ok(false) };
        let refused = self.has_writer(&file, path)?;
        self.disk.release(&file);
        Ok(refused)
    }

    /// Puts an object back where users expect it, in directories like those that it lay in; if that cannot be, beside.
    fn give_back(&mut self, level: &Rc<Level<D::Dir>>, at: Spot<D::Dir>) -> Result<(), ReplicaError> {
        let (object, path) = (at.place(), at.path);
        let stat = match self.disk.stat(object.0, object.1) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            stat => stat.at(path, "stat what came too late")?,
        };
        let home = self.make_again(level, object)?;
        let narrowed = match home.wider && stat.kind != Some(Kind::Link) {
            false => None,
            true => match self.seclude(at)? {
                None => return Ok(()),
                Some((dir, id)) => Some(self.narrow((&dir, &id), path)?.unwrap_or((dir, id))),
            },
        };
        let (object, name) = (narrowed.as_ref().map_or(object, |(dir, name)| (dir, name)), object.1);
        if home.path == level.path {
            match self.keeping(&[&home.dir], || self.disk.rename(object, (&home.dir, name))) {
                Ok(()) => {
                    if self.settings.durable {
                        self.disk.sync_dirs(&[&home.dir]).at(path, "sync the directory")?;
                    }
                    self.news
                        .note(format!("late write: {path} was made or changed in a deleted directory: it is back"));
                    self.agenda.look_and_scan(path);
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).at(path, "give back what came too late"),
            }
        }
        self.keep_beside(object, path, Version::of(&stat, "late write")).map(drop)
    }

    /// Moves an object out of a deleted directory, which users may have open and exchange names in, to where nobody reaches
    /// its name: what is looked at there is what gets other attributes. A crash leaves it there, and it is found. `None`:
    /// it is gone.
    fn seclude(&mut self, at: Spot<D::Dir>) -> Result<Option<(D::Dir, Name)>, ReplicaError> {
        let trash = self.disk.own(Own::Trash).at(at.path, "open the trash")?;
        let since = self.disk.wall_clock();
        match self.free_trash_id(at, &trash, since, NO_ACTION) {
            Ok(id) => Ok(Some((trash, id))),
            Err(ReplicaError::Path { error, .. }) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens the directory that lies where this one lay, and before those above it; where there is nothing, makes one like
    /// it. If something else lies there, the nearest one above.
    fn make_again(
        &mut self,
        level: &Rc<Level<D::Dir>>,
        object: (&D::Dir, &Name),
    ) -> Result<Home<D::Dir>, ReplicaError> {
        let mut levels: Vec<_> = std::iter::successors(Some(level), |level| level.above.as_ref()).collect();
        let root = || io::Error::other("the root");
        let top = levels.last().and_then(|top| top.path.parent());
        // What lay above the tree stayed when it went.
        let mut home =
            self.home(&top.ok_or_else(root).at(&level.path, "give back what came too late")?, None, object)?;
        while let Some(level) = levels.pop() {
            let Some((above, name)) = level.path.split() else { break };
            if home.path != above {
                break;
            }
            home = self.make_level_again(level, home, &name)?;
        }
        Ok(home)
    }

    /// The same for one directory in `home`.
    fn make_level_again(
        &mut self,
        level: &Level<D::Dir>,
        mut home: Home<D::Dir>,
        name: &Name,
    ) -> Result<Home<D::Dir>, ReplicaError> {
        let path = &level.path;
        let was = self.door(&level.dir, &level.name, &level.stat);
        for _ in 0..3 {
            if let Ok(dir) = self.disk.open_dir(path) {
                let now = self.disk.stat_dir(&dir).map(|stat| self.door(&home.dir, name, &stat));
                let wider = home.wider || !now.is_ok_and(|now| now.is_within(&was));
                return Ok(Home { dir, path: path.clone(), wider });
            }
            let attrs = self.live(Spot::new(&level.dir, &level.name, path), level.stat, Kind::Dir)?.attrs;
            if self.make_directory(&home.dir, name, path, &attrs)?.is_none() && self.disk.open_dir(path).is_err() {
                break;
            }
        }
        home.wider = true;
        Ok(home)
    }
}

/// Whether an object in a deleted directory came or changed after a moment. Its ctime cannot be set by users; but other
/// names of it change that too, wherever they are, so what has no new entry beside it must have been written.
fn is_late(dir: &Stat, stat: &Stat, stamp: Time) -> bool {
    // Some file systems keep whole seconds of mtime.
    let later = |mtime: Time| mtime > stamp || (mtime.nanos == 0 && mtime.secs == stamp.secs);
    let came = later(dir.mtime) && (stat.btime > stamp || stat.ctime > stamp);
    match stat.kind {
        // New entries in it change its ctime as well, and then its mtime.
        Some(Kind::Dir) => came && (stat.btime > stamp || !later(stat.mtime)),
        // What is written into it goes to whoever reads it.
        Some(Kind::Fifo) => came,
        _ => came || (stat.nlink == 1 && stat.ctime > stamp && later(stat.mtime)),
    }
}
