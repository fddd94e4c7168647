//! Examine: one look at a path, compared with its ancestor. An echo of psync's own writing compares equal.

use std::io;

use crate::model::{Attrs, Content, Hash, Kind, NodeId, Problem, ProblemKind, RelPath, Time};
use crate::protocol::Change;

use super::archive::{Archive, ArchiveError, Row, Signature};
use super::disk::{Disk, Stat};
use super::error::{At, ReplicaError, problem};
use super::metadata::CAPABILITY;
use super::spot::Spot;
use super::{Replica, Seen};

mod carried;
mod contents;
pub mod how;
mod moved;
mod tell;

pub use how::How;

use contents::Held;
use how::{Compare, Why};
use tell::Found;

/// What a look at a path found.
#[derive(Debug)]
pub enum Examined {
    /// It equals its ancestor.
    Same,
    /// It differs, and the brain was told so already.
    Known,
    /// Tell the brain.
    Changed(Box<Change>),
    /// A file that has left this name, where nothing lies now. `made`: it was made under it, and never changed since.
    Left {
        from: RelPath,
        made: bool,
    },
    /// Somebody is writing it.
    Busy,
    /// A large file of which a slice was read: look again, in the same way.
    Reading,
    /// It is left out of everything.
    Excluded,
    /// A directory above it is gone or replaced: that is what must be examined.
    Above(RelPath),
    Problem(Problem),
}

/// The object that lies under a name, as far as `stat` and attributes tell.
pub(crate) struct Live {
    pub stat: Stat,
    pub kind: Kind,
    pub attrs: Attrs,
    /// A link's target.
    pub target: Option<Box<[u8]>>,
    /// See [`Seen::settled`].
    pub settled: bool,
}

impl<D: Disk, A: Archive> Replica<D, A> {
    /// Looks at `path` and remembers what is to be reported.
    pub fn examine(&mut self, path: &RelPath, how: How) -> Result<Examined, ReplicaError> {
        let Some((parent, name)) = path.split() else { return Ok(Examined::Same) };
        if self.filter.excluded(path) || self.filter.temporary(path) {
            return Ok(Examined::Excluded);
        }
        let dir = match self.disk.open_dir(&parent) {
            Ok(dir) => dir,
            Err(error) if above_is_gone(&error) => {
                self.news.specials.gone(path);
                self.stop_reading(path);
                self.forget_move_to(path)?;
                let told = self.ledger.get(path).is_some_and(|r| r.seen.is_some());
                return Ok(match how.again || told {
                    true => Examined::Changed(Box::new(self.report_nothing(path, None, None)?)),
                    false => self.gone_above(parent)?,
                });
            }
            Err(error) => return Ok(Examined::Problem(problem(path, "open the directory above", &error))),
        };
        let parent = self.node_of(&parent)?;
        for _ in 0..3 {
            match self.examine_in(Spot { dir: &dir, node: parent, name: &name, path }, how) {
                // It went away between two calls: the next look will find nothing, or something else.
                Err(ReplicaError::Path { error, .. }) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error @ ReplicaError::Path { .. }) => return Ok(Examined::Problem(error.into_problem()?)),
                other => return other,
            }
        }
        Ok(Examined::Busy)
    }

    /// What a look below a directory that is gone leads to: the topmost that is, unless that was told. So a deep tree is not
    /// climbed level by level, each after its own wait.
    fn gone_above(&self, parent: RelPath) -> Result<Examined, ReplicaError> {
        self.disk.open_dir(&RelPath::root()).at(&parent, "open the root")?;
        let bytes = parent.as_bytes();
        let ends: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] == b'/').chain([bytes.len()]).collect();
        let upto = |at: usize| parent.one_longer(if at == 0 { 0 } else { ends[at - 1] });
        // What lies below something that is gone is gone: few of them need be asked for.
        let (mut there, mut gone) = (0, ends.len() - 1);
        while there < gone {
            let middle = there.midpoint(gone);
            match self.disk.open_dir(&upto(middle)) {
                Ok(_) => there = middle + 1,
                Err(error) if above_is_gone(&error) => gone = middle,
                Err(_) => there = ends.len() - 1,
            }
        }
        let topmost = upto(there);
        let told = self.ledger.told_gone(&topmost);
        Ok(if told { Examined::Same } else { Examined::Above(topmost) })
    }

    /// The same, for a name in an open directory.
    pub(crate) fn examine_in(&mut self, at: Spot<D::Dir>, how: How) -> Result<Examined, ReplicaError> {
        let examined = self.examine_name(at, how);
        if !matches!(examined, Ok(Examined::Reading)) {
            self.stop_reading(at.path);
        }
        examined
    }

    fn examine_name(&mut self, at: Spot<D::Dir>, how: How) -> Result<Examined, ReplicaError> {
        let Spot { dir, node: parent, name, path } = at;
        let mut reported_move = self.ledger.came_to(path);
        if let Some(node) = reported_move.filter(|_| how.why == Why::Copy) {
            // Its old name speaks for itself from now on: what the archive has there is gone.
            self.forget_report(path);
            self.speak_for_itself(node)?;
            reported_move = None;
        }
        let under_name = match parent {
            Some(parent) => self.row_in(parent, name, path)?,
            None => None,
        };
        let stat = match self.disk.stat(dir, name) {
            Ok(stat) => stat,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.news.specials.gone(path);
                return self.examine_nothing(path, parent, under_name, how);
            }
            Err(error) => return Ok(Examined::Problem(problem(path, "stat", &error))),
        };
        let speaks = |row: &Row| !(how.compare.verifies() || how.compare.hashes()) && self.unchanged(row, &stat);
        if let Some(unchanged) = under_name.as_ref().filter(|row| speaks(row)) {
            let row = unchanged.clone();
            self.compare_dir_time(path, &row, &stat)?;
            return self.same(at, &row, how, false);
        }
        if self.passes_over(&stat) {
            return Ok(self.pass_over(at, under_name.is_some(), how));
        }
        self.news.specials.forget(path);
        if self.filter.skips(stat.kind) {
            return match under_name {
                // What the archive has here was replaced by something that takes no part.
                Some(row) => self.examine_nothing(path, parent, Some(row), how),
                None => Ok(Examined::Excluded),
            };
        }
        if stat.foreign {
            let mounted = || "another file system is mounted here: make it a pair of its own".to_owned();
            let detail = self.disk.why_foreign(dir, name).unwrap_or_else(mounted);
            return Ok(Examined::Problem(Problem { path: path.clone(), kind: ProblemKind::OtherFileSystem, detail }));
        }
        let Some(kind) = stat.kind else { return Ok(Examined::Problem(self.unsupported(at))) };
        let live = self.live(at, stat, kind)?;
        let object = (stat.ino, stat.btime);
        match how.why == Why::Copy {
            true => self.ledger.copied(path, object),
            false => self.ledger.meet(path, object),
        }
        let mover = match &under_name {
            Some(row) if row.signature.is_some_and(|s| s.same_object(&stat)) => None,
            Some(row) if self.is_in_doubt(row) => None,
            _ if self.ledger.is_copy(path) => None,
            _ => self.mover(&live, path, reported_move)?,
        };
        if reported_move.is_some() && reported_move != mover.as_ref().map(|(_, row)| row.node) {
            // Something else than what had come here.
            self.forget_move_to(path)?;
        }
        if under_name.is_none()
            && mover.is_none()
            && !how.again
            && !self.ledger.is_copy(path)
            && self.is_reported_elsewhere(&live, path)
        {
            return Ok(Examined::Known);
        }
        match mover {
            Some((from, row)) if how.patient && kind == Kind::File && reported_move != Some(row.node) => {
                Ok(Examined::Left { from, made: row.generation == row.node })
            }
            Some((from, row)) => {
                self.news.specials.moved(&from, path);
                self.examine_moved(at, under_name, (from, row), (live, how))
            }
            None => self.examine_object(at, under_name, live, how),
        }
    }

    /// Whether the stat alone proves the object to be the one that the row was recorded with.
    pub(crate) fn unchanged(&self, row: &Row, stat: &Stat) -> bool {
        let Some(signature) = &row.signature else { return false };
        stat.kind == Some(row.entry.kind()) && *signature == Signature::of(stat) && !stat.foreign
    }

    fn examine_nothing(
        &mut self,
        path: &RelPath,
        parent: Option<NodeId>,
        under_name: Option<Row>,
        how: How,
    ) -> Result<Examined, ReplicaError> {
        self.ledger.forget_copy(path);
        self.forget_move_to(path)?;
        self.forget_moves_below(path)?;
        let told = self.ledger.told_gone(path);
        match under_name {
            None if how.again => Ok(Examined::Changed(Box::new(self.report_nothing(path, parent, None)?))),
            None if self.ledger.holds(path) && !told => {
                Ok(Examined::Changed(Box::new(self.report_nothing(path, parent, None)?)))
            }
            None => Ok(if told { Examined::Known } else { Examined::Same }),
            Some(_) if told && !how.again => Ok(Examined::Known),
            Some(row) => Ok(Examined::Changed(Box::new(self.report_nothing(path, parent, Some(row))?))),
        }
    }

    /// What had come here is gone again: its own row speaks for itself from now on.
    pub(crate) fn forget_move_to(&mut self, path: &RelPath) -> Result<(), ArchiveError> {
        if let Some(node) = self.ledger.came_to(path) {
            self.forget_report(path);
            self.speak_for_itself(node)?;
        }
        Ok(())
    }

    /// The old name of a node that is reported as moved no more is looked at again. What was told to have come there was told
    /// without the node's row, as something new: it is told anew, or the other side would not hear what it took the place of.
    fn speak_for_itself(&mut self, node: NodeId) -> Result<(), ArchiveError> {
        let Some(home) = self.path_of(node)? else { return Ok(()) };
        let moved = self.ledger.came_to(&home);
        self.forget_report(&home);
        match moved {
            // Nor does anybody know any more where that one is. Its old name tells, if it turns up nowhere.
            Some(other) => {
                self.agenda.look_at_all(self.path_of(other)?);
                self.agenda.look_first(home);
            }
            None => self.agenda.look(home),
        }
        Ok(())
    }

    /// The same for what had come into a directory that is gone. The others' reports fall with the directory.
    fn forget_moves_below(&mut self, top: &RelPath) -> Result<(), ArchiveError> {
        let moves = self.ledger.moves().map(|(_, path)| path);
        let below: Vec<RelPath> = moves.filter(|path| path.is_below(top)).cloned().collect();
        below.iter().try_for_each(|path| self.forget_move_to(path))
    }

    /// Reads the attributes that travel, and a link's target.
    pub(crate) fn live(&self, at: Spot<D::Dir>, stat: Stat, kind: Kind) -> Result<Live, ReplicaError> {
        let Spot { dir, name, path, .. } = at;
        // Asked before anything is read: what is written from then on has another ctime.
        let settled = !self.disk.unsettled(&stat);
        let (user, group) = self.disk.principals(stat.uid, stat.gid);
        let mut xattrs = self.disk.xattrs(dir, name, kind).at(path, "read extended attributes")?;
        if kind == Kind::File && xattrs.contains_key(CAPABILITY) {
            // Names can be exchanged between two calls: a capability is that of the very file that is reported.
            let same = match self.disk.open_file(dir, name) {
                Ok(file) => {
                    xattrs = self.disk.file_xattrs(&file, (dir, name)).at(path, "read extended attributes")?;
                    self.disk.stat_file(&file)
                }
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => self.disk.stat(dir, name),
                Err(error) => Err(error),
            };
            if Signature::of(&same.at(path, "stat")?) != Signature::of(&stat) {
                return Err(io::Error::from(io::ErrorKind::NotFound)).at(path, "read extended attributes");
            }
        }
        let target = match kind {
            Kind::Link => Some(self.disk.read_link(dir, name).at(path, "read link")?),
            _ => None,
        };
        let attrs = Attrs {
            mode: if kind == Kind::Link { 0 } else { stat.mode },
            user,
            group,
            mtime: if kind == Kind::File { stat.mtime } else { Time::default() },
            xattrs,
        };
        Ok(Live { stat, kind, attrs, target, settled })
    }

    /// See, compare, tell: an object under a name at which no other object's row is continued.
    fn examine_object(
        &mut self,
        at: Spot<D::Dir>,
        row: Option<Row>,
        live: Live,
        how: How,
    ) -> Result<Examined, ReplicaError> {
        let held = match self.see_contents(at, row.as_ref(), &live, how)? {
            Ok(held) => held,
            Err(end) => return Ok(end),
        };
        let found = self.compare(at, row.as_ref(), live, held)?;
        match row.as_ref().filter(|_| !found.held.new && !found.new_attrs) {
            Some(row) => self.adopt(at, row, found, how),
            None => self.tell(at, row.as_ref(), found, how),
        }
    }

    /// Compares an object whose contents are seen with its row.
    fn compare(
        &self,
        at: Spot<D::Dir>,
        row: Option<&Row>,
        live: Live,
        mut held: Held<D::File>,
    ) -> Result<Found<D::File>, ReplicaError> {
        let (new_attrs, attrs) = match row {
            Some(row) if row.entry.kind() == live.kind => self.carried(row, &live),
            _ => (true, self.brought(&live.attrs)),
        };
        let agreed = row.filter(|_| !held.new).map(|row| &row.entry.attrs);
        let (attrs, dropped) = self.entitled(live.kind, attrs, &live.attrs, agreed);
        held.bytes = held.bytes.filter(|_| held.new);
        let like = match held.new && held.bytes.is_none() {
            true => self.like(&live.stat, at.path)?,
            false => None,
        };
        let seen = Seen {
            signature: Signature::of(&live.stat),
            content: held.content.clone(),
            attrs: live.attrs,
            settled: live.settled,
            snapshot: held.snapshot.is_some(),
            // What looks like another name's contents was not compared with them.
            presumed: held.presumed || like.is_some() && held.content.is_unread(),
            touched: held.presumed,
            open: held.open,
        };
        Ok(Found { stat: live.stat, held, attrs, new_attrs, dropped, like, seen })
    }

    /// Whether the contents of a file of which only the ctime moved are compared later: what else changed need not wait for
    /// that. Rights that its row stands for are nobody's before.
    fn is_proven_later(&self, row: Option<&Row>, size: u64, how: How) -> bool {
        let asked = how.again || how.compare != Compare::Later;
        !asked && size > self.settings.prove_later && row.is_some_and(|row| !self.stands_for_rights(row))
    }

    /// The hash that was reported of the very same file.
    fn hash_told(&self, path: &RelPath, live: &Live) -> Option<Hash> {
        let seen = self.ledger.seen(path)?;
        let Content::File { hash, .. } = seen.content else { return None };
        hash.filter(|_| seen.settled && !seen.presumed && seen.signature == Signature::of(&live.stat))
    }

    /// Hard links travel as files of their own; the kernel tells only of the name that a write came through.
    fn look_at_links(&mut self, stat: &Stat, path: &RelPath) -> Result<(), ReplicaError> {
        let mut links: Vec<RelPath> = self.ledger.object_at((stat.ino, stat.btime)).cloned().into_iter().collect();
        for row in self.archive.by_object(stat.ino, stat.btime)? {
            links.extend(self.path_of(row.node)?);
        }
        self.agenda.look_at_all(links.into_iter().filter(|link| link != path));
        Ok(())
    }

    /// A signature proves only what is on disk: an equal object, written again by a user, may not be yet.
    pub(crate) fn sync_adopted(&self, at: Spot<D::Dir>, kind: Kind) -> Result<(), ReplicaError> {
        if !self.settings.durable {
            return Ok(());
        }
        if kind == Kind::File {
            let file = self.disk.open_file(at.dir, at.name).at(at.path, "open")?;
            self.disk.sync_files(&[&file]).at(at.path, "sync")?;
        }
        self.disk.sync_dirs(&[at.dir]).at(at.path, "sync the directory")
    }
}

/// Whether an error of opening a directory says that there is none.
pub(crate) fn above_is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) || is_link(error)
}

fn is_link(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ELOOP)
}
