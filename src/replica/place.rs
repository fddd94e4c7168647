//! Place: every write is a compare-and-swap. What comes out of the swap is looked at before it counts.

use std::io;

use crate::model::{Attrs, Content, Entry, Generation, Kind, Name, NodeId, RelPath, Time};
use crate::protocol::{Apply, Displaced, Expect, Kept, Step};

use super::archive::{Archive, Row, Signature, Since};
use super::batch::{Job, Placed};
use super::disk::{Disk, Lease, Own, Stat};
use super::error::{At, ReplicaError};
use super::examine::above_is_gone;
use super::metadata::is_acl;
use super::spot::Spot;
use super::stage::Staged;
use super::{Replica, Seen};

use action::{Action, Done, Stop};
use beside::Version;
use displace::Ours;

pub(crate) mod action;
pub mod attrs;
pub(crate) mod beside;
pub(crate) mod displace;
mod exchange;
mod pieces;
pub(super) mod rename;

/// The directory that an action works in, proven to be the one that the archive means.
pub(crate) struct Parent<Dir> {
    pub dir: Dir,
    pub node: NodeId,
    pub name: Name,
}

impl<Dir> Parent<Dir> {
    /// The name in it, which users know by this path.
    pub fn spot<'a>(&'a self, path: &'a RelPath) -> Spot<'a, Dir> {
        Spot { dir: &self.dir, node: Some(self.node), name: &self.name, path }
    }
}

/// A new object under its name.
struct Given {
    /// As it lies there; `None`: that could not be told any more.
    after: Option<Stat>,
    /// What proves it to be as it was placed.
    signature: Option<Signature>,
    /// What it has, where that is not what was wanted.
    achieved: Option<Attrs>,
}

/// The paths of an action: if it is refused, what lies there is looked at again.
fn paths(apply: &Apply) -> Vec<RelPath> {
    let path = apply.path.clone();
    match &apply.step {
        Step::Put { .. } | Step::SetAttrs { .. } | Step::Remove { .. } => vec![path],
        Step::Move { from, .. } => vec![from.clone(), path],
        Step::Exchange { from, other, .. } => [from.clone(), path].into_iter().chain(other.at.clone()).collect(),
    }
}

impl<D: Disk, A: Archive> Replica<D, A> {
    /// Whether an action that names no directory, and leaves its object where both last agreed to have it, finds that place
    /// under the path: it may lead to another directory of that name by now.
    fn stays_in_place(&self, apply: &Apply) -> Result<bool, ReplicaError> {
        let (None, Step::Move { .. } | Step::SetAttrs { .. }) = (apply.parent, &apply.step) else { return Ok(true) };
        let Some((above, name)) = apply.path.split() else { return Ok(false) };
        let (row, above) = (self.archive.node(apply.node)?, self.node_of(&above)?);
        Ok(row.is_some_and(|row| Some(row.parent) == above && row.name == name))
    }

    /// Carries out one action of a batch.
    pub(crate) fn place(&mut self, job: Job<D::File>) -> Result<Placed, ReplicaError> {
        let path = &job.apply.path;
        if let Some(wanted) = job.apply.parent
            && let Some(above) = path.parent()
            && self.node_of(&above)? != Some(wanted)
        {
            // Another directory lies there now.
            let path = path.clone();
            self.placed.unplaced.extend(job.staged.map(|staged| staged.name));
            return Ok(Placed::Refused(vec![path]));
        }
        if !self.stays_in_place(&job.apply)? {
            return Ok(Placed::Refused(paths(&job.apply)));
        }
        let paths = paths(&job.apply);
        match self.act(job) {
            Ok(Done { entry, kept }) => Ok(Placed::Done(entry, kept)),
            Err(Stop::Refused) => Ok(Placed::Refused(paths)),
            Err(Stop::Barred) => Ok(Placed::Refused(Vec::new())),
            Err(Stop::Busy) => Ok(Placed::Busy),
            Err(Stop::Failed(error)) => Err(error),
        }
    }

    fn act(&mut self, job: Job<D::File>) -> Result<Done, Stop> {
        let Job { generation, apply: Apply { node, path, step, .. }, staged } = job;
        let action = |expect| Action { generation, path: &path, node, expect };
        match step {
            Step::Put { entry, expect, displaced, .. } => {
                self.put_or_clear(&action(&expect), entry, displaced, staged.ok_or(Stop::Refused)?)
            }
            Step::SetAttrs { entry, expect } => self.set_attrs(&action(&expect), entry),
            Step::Move { from, known, entry, expect } => {
                if self.archive.node(node)?.is_none_or(|row| row.generation != known) {
                    return Err(Stop::Refused);
                }
                self.rename(&action(&expect), &from, entry)
            }
            Step::Exchange { from, known, other } => {
                self.exchange(&action(&Expect::Row(other.known)), known, &from, &other)
            }
            Step::Remove { expect, force } => self.remove(&action(&expect), force),
        }
    }

    /// Notes that the name at `path` changed, in this directory.
    pub(crate) fn touch(&mut self, path: &RelPath, dir: &D::Dir) {
        self.placed.touched.note(path, dir);
    }

    /// Gives a staged object up that was not placed. If an error came between, what lies under its name in the stage
    /// may be a user's: that is kept, and where is the answer. A file that users saw for a moment may be open still: what
    /// they write into it is looked for in the trash.
    fn clear_staged(
        &mut self,
        name: &Name,
        ours: (u64, Time),
        path: &RelPath,
        generation: Generation,
    ) -> Result<Option<Kept>, ReplicaError> {
        let stage = self.disk.own(Own::Stage).at(path, "open the stage")?;
        match self.disk.stat(&stage, name) {
            Ok(stat) if (stat.ino, stat.btime) != ours => {
                self.keep_beside((&stage, name), path, Version::of(&stat, "replaced")).map(Some)
            }
            Ok(stat) if stat.kind == Some(Kind::File) && self.stage.kept.shown().is_some() => {
                let before = self.stage.kept.shown();
                self.move_tree_to_trash(name, path, generation, ("taken back", before)).map(|_| None)
            }
            _ => {
                self.placed.unplaced.push(name.clone());
                Ok(None)
            }
        }
    }

    /// Opens the directory above `path`, if it is the one that the archive knows there.
    pub(crate) fn open_parent(&self, path: &RelPath) -> Result<Option<Parent<D::Dir>>, ReplicaError> {
        let Some((above, name)) = path.split() else { return Ok(None) };
        let Some(node) = self.node_of(&above)? else { return Ok(None) };
        let dir = match self.disk.open_dir(&above) {
            Err(error) if above_is_gone(&error) => return Ok(None),
            dir => dir.at(&above, "open the directory")?,
        };
        if !above.is_root() {
            let Some(row) = self.archive.node(node)? else { return Ok(None) };
            let stat = self.disk.stat_dir(&dir).at(&above, "stat the directory")?;
            if row.signature.is_some_and(|s| !s.same_object(&stat)) {
                return Ok(None);
            }
        }
        Ok(Some(Parent { dir, node, name }))
    }

    /// Compares what lies under a name with what the action expects there, and is to take the place of; `None`: nothing. A file
    /// that was told unread may hold what nobody knows of: it is refused, and read for the report that comes of that.
    pub(crate) fn meet(&self, parent: &Parent<D::Dir>, path: &RelPath, expect: &Expect) -> Result<Option<Stat>, Stop> {
        let stat = match self.disk.stat(&parent.dir, &parent.name) {
            Ok(stat) => Some(stat),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).at(path, "stat")?,
        };
        match self.expected_report(path, expect) {
            Some(seen) if seen.touched => Err(Stop::Refused),
            _ => self.meet_found(parent, path, expect, stat),
        }
    }

    /// What was reported, if an action expects that.
    pub(super) fn expected_report(&self, path: &RelPath, expect: &Expect) -> Option<&Seen> {
        let Expect::Report(seq) = expect else { return None };
        self.ledger.get(path).filter(|reported| reported.seq == *seq)?.seen.as_ref()
    }

    /// The same for what was found there.
    fn meet_found(
        &self,
        parent: &Parent<D::Dir>,
        path: &RelPath,
        expect: &Expect,
        stat: Option<Stat>,
    ) -> Result<Option<Stat>, Stop> {
        // A row whose object moved away, not yet recorded, still holds the name.
        let row = self.archive.child(parent.node, &parent.name)?;
        let held = row.as_ref().is_some_and(|row| self.ledger.is_elsewhere(row.node, path));
        if held || stat.is_some_and(|s| s.foreign || s.kind.is_none()) {
            return Err(Stop::Refused);
        }
        let holds = match (expect, &stat) {
            (Expect::Absent, stat) => row.is_none() && stat.is_none(),
            (Expect::Row(generation), Some(stat)) => {
                row.is_some_and(|row| row.generation == *generation && self.still(&row, stat))
            }
            (Expect::Row(_), None) => false,
            (Expect::Report(seq), stat) => match (self.ledger.numbered(path, *seq), stat) {
                (Some(reported), Some(stat)) => reported.seen.as_ref().is_some_and(|seen| still_seen(seen, stat)),
                (Some(reported), None) => reported.seen.is_none(),
                (None, _) => false,
            },
        };
        if holds { Ok(stat) } else { Err(Stop::Refused) }
    }

    /// Whether the object is still the row's: a directory or FIFO by its identity and what may be set on it alone. What
    /// goes on in it changes its times.
    fn still(&self, row: &Row, stat: &Stat) -> bool {
        match (row.entry.kind(), &row.signature) {
            (kind @ (Kind::Dir | Kind::Fifo), Some(s)) => {
                stat.kind == Some(kind) && s.same_object(stat) && same_rights(s, stat)
            }
            _ => self.unchanged(row, stat),
        }
    }

    /// Gives a staged object its name, or gives it up.
    fn put_or_clear(
        &mut self,
        action: &Action,
        entry: Entry,
        displaced: Displaced,
        staged: Staged<D::File>,
    ) -> Result<Done, Stop> {
        let (path, name, object) = (action.path, staged.name.clone(), staged.object);
        let contents = staged.hash.filter(|_| !staged.links).map(|hash| (entry.size(), hash));
        self.stage.kept.begin();
        let placed = self.put(action, entry, displaced, staged);
        if placed.is_err() && !self.keep_whole(path, &name, object, contents) {
            self.clear_staged(&name, object, path, action.generation)?;
        }
        placed
    }

    fn put(
        &mut self,
        action: &Action,
        mut entry: Entry,
        displaced: Displaced,
        staged: Staged<D::File>,
    ) -> Result<Done, Stop> {
        let path = action.path;
        let parent = self.open_parent(path)?.ok_or(Stop::Refused)?;
        if let (Content::File { hash, .. }, Some(computed)) = (&mut entry.content, staged.hash) {
            *hash = Some(computed);
        }
        let victim = self.meet(&parent, path, action.expect)?;
        if victim.is_some_and(|stat| stat.kind == Some(Kind::Dir)) {
            return Err(Stop::Refused);
        }
        let stage = self.disk.own(Own::Stage).at(path, "open the stage")?;
        let new = action.is_first() && self.settings.gives_acls;
        let inherited = new && !entry.attrs.xattrs.keys().any(|name| is_acl(name)) && {
            let object = (&stage, &staged.name);
            self.disk.inherit(&parent.dir, object, entry.kind(), entry.attrs.mode).at(path, "give default ACLs")?
        };
        if let Some(file) = &staged.file {
            // From the last stat before the rename to the one after it nobody else may touch the object.
            self.disk.lease(file, Lease::Write).at(path, "lease the staged file")?;
        }
        let before = self.disk.stat(&stage, &staged.name).at(path, "stat the staged object")?;
        let ours = Ours { file: staged.file.as_ref(), place: (&stage, &staged.name), stat: &before };
        match &victim {
            None => self.give_free_name(parent.spot(path), &ours)?,
            Some(stat) => self.swap(parent.spot(path), &ours, stat)?,
        }
        self.touch(path, &parent.dir);
        let achieved = staged.achieved.clone();
        let given = self.look_at_given(parent.spot(path), &ours, &entry, (achieved, inherited));
        let doubtful = given.signature.is_none() || inherited;
        self.forget_report(path);
        let (entry, former) = self.put_placed(action, &parent, entry, (given, victim.as_ref()))?;
        if doubtful {
            self.agenda.look(path.clone());
        }
        let Some(victim) = victim else { return Ok(Done { entry: Some(entry), kept: None }) };
        if staged.links && self.drop_linked(&staged.name, &victim, path)? {
            return Ok(Done { entry: Some(entry), kept: None });
        }
        let kept = match self.dispose(&staged.name, path, displaced, action.generation) {
            // The new object has the name for good: only the old one is still to be kept.
            Err(ReplicaError::Path { .. }) => {
                self.clear_staged(&staged.name, staged.object, path, action.generation)?
            }
            disposed => {
                let (kept, trashed) = disposed?;
                if let Some((id, former)) = trashed.zip(former) {
                    self.remember_former(&former, id);
                }
                Some(kept)
            }
        };
        Ok(Done { entry: Some(entry), kept })
    }

    /// Gives a staged object a name that nobody has.
    fn give_free_name(&self, at: Spot<D::Dir>, ours: &Ours<D>) -> Result<(), Stop> {
        let renamed = self.keeping(&[at.dir], || match ours.file {
            Some(file) => self.disk.rename_open(file, ours.place, at.place()),
            None => self.disk.rename(ours.place, at.place()),
        });
        match renamed {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(Stop::Refused),
            other => Ok(other.at(at.path, "rename into place")?),
        }
    }

    /// Looks at a new object under its name. From here on others may touch it.
    fn look_at_given(
        &self,
        at: Spot<D::Dir>,
        ours: &Ours<D>,
        entry: &Entry,
        (achieved, inherited): (Option<Attrs>, bool),
    ) -> Given {
        let after = match ours.file {
            Some(file) => self.disk.stat_file(file),
            None => self.disk.stat(at.dir, at.name),
        };
        if let Some(file) = ours.file {
            self.disk.release(file);
        }
        let after = after.ok();
        let signature = after.filter(|after| same_version(ours.stat, after)).map(|after| self.signature(&after));
        // A lease does not keep anybody from setting attributes, and the rename hides that in the ctime.
        let held = achieved.as_ref().unwrap_or(&entry.attrs);
        let found = match ours.file {
            Some(file) => self.disk.file_xattrs(file, at.place()),
            None => self.disk.xattrs(at.dir, at.name, entry.kind()),
        };
        let signature = match found {
            // What it inherited is to be found as this side's change: the contents are as they were placed, the mode is not.
            Ok(_) if inherited => signature.map(|s| Signature { mode: !s.mode & 0o7777, ..s }),
            Ok(xattrs) if xattrs == held.xattrs => signature,
            _ => None,
        };
        Given { after, signature, achieved }
    }

    /// Writes the row of a new object. The answer is the row's entry, and the row of what made way, if that was as recorded.
    fn put_placed(
        &mut self,
        action: &Action,
        parent: &Parent<D::Dir>,
        entry: Entry,
        (given, victim): (Given, Option<&Stat>),
    ) -> Result<(Entry, Option<Row>), ReplicaError> {
        let Action { generation, path, node, .. } = *action;
        let (name, mut since) = (parent.name.clone(), self.came());
        let mut former = None;
        if let Some(victim) = victim {
            former = self.archive.child(parent.node, &name)?;
            since = if former.is_none() { self.made(&victim.btime) } else { since };
            former = former.filter(|former| self.unchanged(former, victim));
        }
        let Given { after, signature, achieved } = given;
        let mut row = Row { node, parent: parent.node, name, generation, entry, achieved, signature, since };
        if !action.is_first() {
            let known = self.archive.node(node)?;
            row.since = known.as_ref().map_or(Since::Always, |known| known.since);
            self.doubt_old_place(known.as_ref(), &row)?;
        }
        if action.is_first() && victim.is_none() && row.since == Since::Always {
            self.bin.removals.find();
        }
        self.put_row(&mut row)?;
        if let Some(after) = &after {
            self.made_dir(node, action.is_first(), path, after)?;
        }
        self.forget_orphaned_moves()?;
        Ok((row.entry, former))
    }

    /// A signature that proves something: one that a later write could still share leaves the ctime out.
    pub(crate) fn signature(&self, stat: &Stat) -> Signature {
        let mut signature = Signature::of(stat);
        if self.disk.unsettled(stat) {
            signature.ctime = Time::default();
        }
        signature
    }

    /// Puts the displaced object where it is kept; where that is, and its name in the trash, if it is there.
    fn dispose(
        &mut self,
        stage_name: &Name,
        path: &RelPath,
        displaced: Displaced,
        generation: Generation,
    ) -> Result<(Kept, Option<Name>), ReplicaError> {
        match displaced {
            Displaced::Trash => {
                let id = match self.move_to_trash(stage_name, path, generation, "replaced") {
                    // Once more, before users are bothered with a copy of what was to go.
                    Err(ReplicaError::Path { .. }) => self.move_to_trash(stage_name, path, generation, "replaced"),
                    other => other,
                };
                Ok((Kept::Trash, Some(id?)))
            }
            Displaced::Copy(copy) => self.keep_loser(stage_name, path, Some(copy), generation),
        }
    }
}

/// The generation and the running number in a stage name.
pub(crate) fn generation_of(name: &Name) -> Option<(Generation, u64)> {
    let text = std::str::from_utf8(name.as_bytes()).ok()?;
    let (generation, rest) = text.split_once('.')?;
    let counter = rest.split_once('.').map_or(rest, |(counter, _)| counter);
    Some((u64::from_str_radix(generation, 16).ok()?, u64::from_str_radix(counter, 16).ok()?))
}

/// Whether a displaced object is the one that was looked at before: its ctime may have moved with the rename.
pub(crate) fn same_version(a: &Stat, b: &Stat) -> bool {
    let file = |s: &Stat| (s.size, s.mtime);
    let rights = |s: &Stat| (s.mode, s.uid, s.gid);
    (a.kind, a.ino, a.btime) == (b.kind, b.ino, b.btime)
        && rights(a) == rights(b)
        && (a.kind != Some(Kind::File) || file(a) == file(b))
}

fn same_rights(signature: &Signature, stat: &Stat) -> bool {
    (signature.mode, signature.uid, signature.gid) == (stat.mode, stat.uid, stat.gid)
}

fn still_seen(seen: &Seen, stat: &Stat) -> bool {
    match stat.kind {
        Some(Kind::Dir | Kind::Fifo) => {
            let kind = matches!(seen.content, Content::Dir) == (stat.kind == Some(Kind::Dir));
            kind && seen.signature.same_object(stat) && same_rights(&seen.signature, stat)
        }
        // What may have been written once more under the same ctime must be looked at again.
        Some(Kind::File) => seen.settled && seen.signature == Signature::of(stat),
        _ => seen.signature == Signature::of(stat),
    }
}
