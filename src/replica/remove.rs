//! Remove: into the trash, and only what the archive knows. What users changed or made below a deleted directory
//! stays, and its parents with it.

use std::io;

use crate::model::{Generation, Kind, Name, NodeId, RelPath, Time};

use super::Replica;
use super::archive::{Archive, Row, Tombstone};
use super::disk::{Disk, Stat};
use super::error::{At, ReplicaError};
use super::examine::how::Compare;
use super::examine::{Examined, How};
use super::place::action::{Action, Done, Stop, unless_left};
use super::place::displace::Hold;
use super::place::same_version;
use super::spot::Spot;

/// What a walk through a directory that is to be removed found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Below {
    /// Nothing but what the archive knows.
    Known,
    /// A file that somebody is writing.
    Busy,
    /// Something new or changed.
    Survivors,
}

/// A directory of which one thing after another is removed.
struct Level<Dir> {
    /// What it lies in, and its name there.
    place: (Dir, Name),
    path: RelPath,
    node: NodeId,
    dir: Dir,
    entries: std::vec::IntoIter<(Name, Stat)>,
}

/// A directory that goes whole.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tree {
    pub node: NodeId,
    /// Whatever it holds.
    pub force: bool,
}

impl<D: Disk, A: Archive> Replica<D, A> {
    pub(crate) fn remove(&mut self, action: &Action, force: bool) -> Result<Done, Stop> {
        let parent = self.open_parent(action.path)?.ok_or(Stop::Refused)?;
        let at = parent.spot(action.path);
        let Some(stat) = self.meet(&parent, action.path, action.expect)? else {
            return self.forget_removed(action, at);
        };
        // By what lies here, whatever the brain was told of it.
        let count = self.may_remove(action.path, action.node, &stat)?.ok_or(Stop::Barred)?;
        let tree = Tree { node: action.node, force: force && self.settings.force };
        let removed = match stat.kind {
            Some(Kind::Dir) => self.remove_dir(action.generation, at, &stat, tree),
            _ => self.remove_one(action.generation, at, &stat),
        };
        let removed = removed.and_then(|()| self.forget_removed(action, at));
        if removed.is_err() {
            self.give_back_removal(count);
        }
        removed
    }

    /// Removes a directory whole, or what is known in it.
    fn remove_dir(&mut self, generation: Generation, at: Spot<D::Dir>, stat: &Stat, tree: Tree) -> Result<(), Stop> {
        let dir = self.disk.open_dir(at.path).at(at.path, "open the directory")?;
        let below = match tree.force {
            true => Below::Known,
            false => self.walk_known(&dir, at.path, Some(tree.node), &mut Time::default())?,
        };
        match below {
            Below::Busy => Err(Stop::Busy),
            Below::Survivors => Ok(self.remove_known(generation, at, tree.node)?),
            Below::Known => self.remove_tree(generation, at, stat, tree),
        }
    }

    /// What an action removed is not known any more.
    fn forget_removed(&mut self, action: &Action, at: Spot<D::Dir>) -> Result<Done, Stop> {
        self.touch(at.path, at.dir);
        self.bury(action.generation, action.node)?;
        self.forget_reports_below(at.path);
        self.forget_report(at.path);
        Ok(Done { entry: None, kept: None })
    }

    /// Drops a node's rows and leaves a tombstone.
    pub(crate) fn bury(&mut self, generation: Generation, node: NodeId) -> Result<(), ReplicaError> {
        let Some(row) = self.archive.node(node)? else { return Ok(()) };
        self.leave_way(node);
        self.ledger.take(node);
        self.archive.drop_tree(node)?;
        self.archive.bury(&Tombstone { node, parent: row.parent, name: row.name, generation })?;
        self.forget_orphaned_moves()?;
        Ok(())
    }

    /// What had moved out of a tree whose rows are gone is a new object now.
    pub(crate) fn forget_orphaned_moves(&mut self) -> Result<(), ReplicaError> {
        let mut orphans = Vec::new();
        for (node, path) in self.ledger.moves() {
            if self.archive.node(node)?.is_none() {
                orphans.push(path.clone());
            }
        }
        for path in orphans {
            self.forget_report(&path);
            self.agenda.look_and_scan(&path);
        }
        Ok(())
    }

    /// A file or link: out of its name, verified, into the trash.
    pub(super) fn remove_one(&mut self, generation: Generation, at: Spot<D::Dir>, stat: &Stat) -> Result<(), Stop> {
        let hold = self.hold(at, stat)?;
        let stat = &self.bare(at, stat).ok_or(Stop::Refused)?;
        let aside = self.aside(generation, at.path)?;
        match self.move_out(at, &aside) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Stop::Refused),
            other => other.at(at.path, "move out of place")?,
        }
        self.look_at_moved(at, (&aside, hold), stat, |_, out| {
            // An overlay copies a file of its lower layer for the rename, which gives it another birth time.
            let reborn = Stat { btime: out.btime, ..*stat };
            if same_version(&reborn, out) { Ok(()) } else { Err(Stop::Refused) }
        })?;
        self.move_to_trash(&aside.name, at.path, generation, "deleted")?;
        Ok(())
    }

    /// A directory with nothing but known objects in it goes whole.
    pub(super) fn remove_tree(
        &mut self,
        generation: Generation,
        at: Spot<D::Dir>,
        stat: &Stat,
        tree: Tree,
    ) -> Result<(), Stop> {
        let path = at.path;
        let aside = self.aside(generation, path)?;
        let inside = self.disk.open_dir(path).at(path, "open the directory")?;
        match self.move_out(at, &aside) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Stop::Refused),
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                return self.remove_in_pieces(generation, at, tree);
            }
            other => other.at(path, "move out of place")?,
        }
        // What the walk finds as known is older than the rename. Where the clock is coarse it may bear the same time.
        let mut newest = Time::default();
        let looked = self.look_at_moved(at, (&aside, Hold::none()), stat, |replica, out| {
            let below = match (same_version(stat, out), tree.force) {
                (false, _) => Below::Survivors,
                (true, true) => Below::Known,
                (true, false) => replica.walk_known(&inside, path, Some(tree.node), &mut newest)?,
            };
            match below {
                Below::Known => Ok(()),
                Below::Busy => Err(Stop::Busy),
                Below::Survivors => Err(Stop::Refused),
            }
        });
        if let Err(Stop::Refused | Stop::Busy) = looked {
            // It had no name for a moment: what its watchers saw must be looked at again.
            self.agenda.look_and_scan(path);
        }
        let out = looked?;
        let stamp = if newest < out.ctime { before(out.ctime) } else { newest };
        self.move_tree_to_trash(&aside.name, path, generation, ("deleted", Some(stamp)))?;
        Ok(())
    }

    /// Looks through an open directory for what the archive does not know in this state. `newest`: the latest ctime.
    fn walk_known(
        &mut self,
        dir: &D::Dir,
        path: &RelPath,
        node: Option<NodeId>,
        newest: &mut Time,
    ) -> Result<Below, ReplicaError> {
        let mut found = Below::Known;
        // What is still to be entered, in a list and not on the stack: users make trees of any depth.
        let mut to_come: Vec<(D::Dir, Name, RelPath, NodeId)> = Vec::new();
        let (mut dir, mut path, mut node) = (dir.clone(), path.clone(), node);
        loop {
            for (name, stat) in self.disk.list(&dir).at(&path, "list the directory")? {
                let whole = path.join(&name).ok();
                if whole.as_ref().is_some_and(|below| self.goes_along(below, &stat)) {
                    continue;
                }
                *newest = (*newest).max(stat.ctime);
                let row = match (node, &whole) {
                    (Some(node), Some(below)) => self.row_in(node, &name, below)?,
                    // A move has made its path too long. Its row knows no path.
                    (Some(node), None) => self.archive.child(node, &name)?.filter(|row| {
                        self.ledger.moved_to(row.node).is_none()
                            && (stat.kind == Some(Kind::Dir) || self.unchanged(row, &stat))
                    }),
                    (None, _) => None,
                };
                let Some(row) = row else { return Ok(Below::Survivors) };
                // For those who are told.
                let below = whole.unwrap_or_else(|| path.clone());
                if stat.kind == Some(Kind::Dir) && row.entry.kind() == Kind::Dir && !stat.foreign {
                    let same = row.signature.is_some_and(|s| {
                        s.same_object(&stat) && (s.mode, s.uid, s.gid) == (stat.mode, stat.uid, stat.gid)
                    });
                    if !same {
                        return Ok(Below::Survivors);
                    }
                    to_come.push((dir.clone(), name, below, row.node));
                    continue;
                }
                let at = Spot { dir: &dir, node, name: &name, path: &below };
                found = found.max(self.is_known(at, &row, &stat)?);
                if found == Below::Survivors {
                    return Ok(found);
                }
            }
            let Some((above, name, below, inner)) = to_come.pop() else { return Ok(found) };
            dir = self.disk.open_child(&above, &name, &below).at(&below, "open the directory")?;
            (path, node) = (below, Some(inner));
        }
    }

    /// The same for one object that is no directory, or should be none.
    fn is_known(&mut self, at: Spot<D::Dir>, row: &Row, stat: &Stat) -> Result<Below, ReplicaError> {
        let compared = self.compared(at, row, stat)?;
        if compared != Below::Known || stat.kind != Some(Kind::File) {
            return Ok(compared);
        }
        match self.hold(at, stat) {
            Ok(hold) => {
                hold.end(&self.disk);
                Ok(Below::Known)
            }
            Err(Stop::Busy) => Ok(Below::Busy),
            Err(Stop::Refused | Stop::Barred) => Ok(Below::Survivors),
            Err(Stop::Failed(error)) => Err(error),
        }
    }

    /// Whether an object is its row's: by its stat, or by its contents where the stat proves nothing.
    pub(super) fn is_as_recorded(&mut self, at: Spot<D::Dir>, row: &Row, stat: &Stat) -> Result<bool, ReplicaError> {
        Ok(self.compared(at, row, stat)? == Below::Known)
    }

    /// The same. A large file is busy until it has been read, which is done when there is time.
    fn compared(&mut self, at: Spot<D::Dir>, row: &Row, stat: &Stat) -> Result<Below, ReplicaError> {
        if self.unchanged(row, stat) {
            return Ok(Below::Known);
        }
        if stat.kind != Some(row.entry.kind()) || stat.foreign {
            return Ok(Below::Survivors);
        }
        let path = at.path;
        let at = Spot { node: Some(row.parent), name: &row.name, ..at };
        match self.examine_in(at, How { compare: Compare::Now, ..How::default() }) {
            Ok(Examined::Same) => Ok(Below::Known),
            Ok(Examined::Reading) => {
                self.stop_reading(path);
                self.reads.unproven.owe(path);
                Ok(Below::Busy)
            }
            Err(error @ ReplicaError::Archive(_)) => Err(error),
            _ => {
                // Nobody is told from here: it is looked at again.
                self.forget_report(path);
                self.agenda.look(path.clone());
                Ok(Below::Survivors)
            }
        }
    }

    /// Whether an object never holds a directory: it goes to the trash with it.
    pub(super) fn goes_along(&self, path: &RelPath, stat: &Stat) -> bool {
        stat.kind.is_none() || self.filter.skips(stat.kind) || self.filter.excluded(path) || self.filter.temporary(path)
    }

    /// Removes what the archive knows below a directory, one by one, and the directories that are empty then. The
    /// rest stays and is found as new.
    fn remove_known(&mut self, generation: Generation, at: Spot<D::Dir>, node: NodeId) -> Result<(), ReplicaError> {
        let mut levels = vec![self.enter_known((at.dir.clone(), at.name.clone()), at.path.clone(), node)?];
        while let Some(level) = levels.last_mut() {
            let Some((name, stat)) = level.entries.next() else {
                if let Some(level) = levels.pop() {
                    self.leave_known(generation, &level)?;
                }
                continue;
            };
            let Ok(below) = level.path.join(&name) else { continue };
            let (dir, node) = (level.dir.clone(), level.node);
            let Some(row) = self.row_in(node, &name, &below)? else { continue };
            let inner = Spot { dir: &dir, node: Some(node), name: &name, path: &below };
            if stat.kind == Some(Kind::Dir) && row.entry.kind() == Kind::Dir && !stat.foreign {
                levels.push(self.enter_known((dir, name), below, row.node)?);
            } else if self.is_as_recorded(inner, &row, &stat)? {
                unless_left(self.remove_one(generation, inner, &stat))?;
                self.touch(&below, &dir);
            }
        }
        Ok(())
    }

    fn enter_known(&self, place: (D::Dir, Name), path: RelPath, node: NodeId) -> Result<Level<D::Dir>, ReplicaError> {
        let dir = self.disk.open_child(&place.0, &place.1, &path).at(&path, "open the directory")?;
        let entries = self.disk.list(&dir).at(&path, "list the directory")?.into_iter();
        Ok(Level { place, path, node, dir, entries })
    }

    /// All that was known in a directory is gone; so is the directory, if nothing else is left in it.
    fn leave_known(&mut self, generation: Generation, level: &Level<D::Dir>) -> Result<(), ReplicaError> {
        let Level { place, path, dir, .. } = level;
        let left = self.disk.list(dir).at(path, "list the directory")?;
        let holds = left.iter().any(|(name, stat)| path.join(name).is_ok_and(|p| !self.goes_along(&p, stat)));
        let gone = !holds && {
            let stat = self.disk.stat_dir(dir).at(path, "stat the directory")?;
            // Left: something came into it this very moment. It stays, and is found as new.
            let empty = Tree { node: NodeId::MAX, force: false };
            unless_left(self.remove_tree(generation, Spot::new(&place.0, &place.1, path), &stat, empty))?
        };
        if !gone {
            self.agenda.look_and_scan(path);
        }
        Ok(())
    }
}

/// The moment just before another.
fn before(time: Time) -> Time {
    match time.nanos {
        0 => Time { secs: time.secs - 1, nanos: 999_999_999 },
        nanos => Time { nanos: nanos - 1, ..time },
    }
}
