//! Place: every write is a compare-and-swap. What comes out of the swap is looked at before it counts.

use std::io;

use crate::model::{Content, Entry, Generation, Kind, Name, NodeId, RelPath, Time};
use crate::protocol::{Displaced, Expect, Kept, Step};

use super::archive::{Archive, Row, Signature, Since};
use super::batch::{Job, Placed};
use super::disk::{Disk, Lease, Leased, Own, Stat};
use super::error::{At, ReplicaError};
use super::examine::above_is_gone;
use super::metadata::is_acl;
use super::stage::Staged;
use super::{Replica, Seen};

pub mod attrs;
pub(crate) mod beside;
mod exchange;
mod pieces;
pub(super) mod rename;

/// The directory that an action works in, proven to be the one that the archive means.
pub(crate) struct Parent<Dir> {
    pub dir: Dir,
    pub node: NodeId,
    pub name: Name,
}

/// What an expectation met.
pub(crate) enum Met {
    Nothing,
    Victim(Stat),
    /// Something else.
    Refused,
}

/// How taking a victim away from users' writers went.
pub(crate) enum Guarded<F> {
    /// Hold on to it until the swap is verified.
    Lease(Option<F>),
    Busy,
    Refused,
}

impl<D: Disk, A: Archive> Replica<D, A> {
    /// Carries out one action of a batch.
    pub(crate) fn place(&mut self, job: Job<D::File>) -> Result<Placed, ReplicaError> {
        let Job { generation, apply, staged } = job;
        let (path, node) = (&apply.path, apply.node);
        if let Some(wanted) = apply.parent
            && let Some(above) = path.parent()
            && self.node_of(&above)? != Some(wanted)
        {
            // Another directory lies there now.
            self.placed.unplaced.extend(staged.map(|staged| staged.name));
            return Ok(Placed::Refused(vec![path.clone()]));
        }
        match apply.step {
            Step::Put { entry, expect, displaced, .. } => {
                let Some(staged) = staged else { return Ok(Placed::Refused(vec![path.clone()])) };
                let (name, object) = (staged.name.clone(), staged.object);
                let contents = staged.hash.filter(|_| !staged.links).map(|hash| (entry.size(), hash));
                self.kept.begin();
                let placed = self.put(generation, path, node, entry, &expect, displaced, staged);
                if !matches!(placed, Ok(Placed::Done(..))) && !self.keep_whole(path, &name, object, contents) {
                    self.clear_staged(&name, object, path, generation)?;
                }
                placed
            }
            Step::SetAttrs { entry, expect } => self.set_attrs(generation, path, node, entry, &expect),
            Step::Move { from, known, entry, expect } => {
                if self.archive.node(node)?.is_none_or(|row| row.generation != known) {
                    return Ok(Placed::Refused(vec![from, path.clone()]));
                }
                self.rename(generation, path, node, &from, entry, &expect)
            }
            Step::Exchange { from, known, other } => self.exchange(generation, path, (node, known), from, &other),
            Step::Remove { expect, force } => self.remove(generation, path, node, &expect, force),
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
                self.keep_beside((&stage, name), path, None, stat.mtime.secs, "replaced").map(Some)
            }
            Ok(stat) if stat.kind == Some(Kind::File) && self.kept.shown().is_some() => {
                let before = self.kept.shown();
                self.move_tree_to_trash(name, path, generation, "taken back", before).map(|_| None)
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

    /// Compares what lies at `path` with what the action expects there, and is to take the place of. A file that was told
    /// unread may hold what nobody knows of: it is refused, and read for the report that comes of that.
    pub(crate) fn meet(&self, parent: &Parent<D::Dir>, path: &RelPath, expect: &Expect) -> Result<Met, ReplicaError> {
        let stat = match self.disk.stat(&parent.dir, &parent.name) {
            Ok(stat) => Some(stat),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).at(path, "stat"),
        };
        match self.expected_report(path, expect) {
            Some(seen) if seen.touched => Ok(Met::Refused),
            _ => self.meet_found(parent, path, expect, stat),
        }
    }

    /// What was reported, if an action expects that.
    pub(super) fn expected_report(&self, path: &RelPath, expect: &Expect) -> Option<&Seen> {
        let Expect::Report(seq) = expect else { return None };
        self.reported.get(path).filter(|reported| reported.seq == *seq)?.seen.as_ref()
    }

    /// The same for what was found there.
    fn meet_found(
        &self,
        parent: &Parent<D::Dir>,
        path: &RelPath,
        expect: &Expect,
        stat: Option<Stat>,
    ) -> Result<Met, ReplicaError> {
        // A row whose object moved away, not yet recorded, still holds the name.
        let row = self.archive.child(parent.node, &parent.name)?;
        let held = row.as_ref().is_some_and(|row| self.moved.get(&row.node).is_some_and(|now| now != path));
        if held || stat.is_some_and(|s| s.foreign || s.kind.is_none()) {
            return Ok(Met::Refused);
        }
        let holds = match (expect, &stat) {
            (Expect::Absent, stat) => row.is_none() && stat.is_none(),
            (Expect::Row(generation), Some(stat)) => {
                row.is_some_and(|row| row.generation == *generation && self.still(&row, stat))
            }
            (Expect::Row(_), None) => false,
            (Expect::Report(seq), stat) => match (self.reported.get(path).filter(|r| r.seq == *seq), stat) {
                (Some(reported), Some(stat)) => reported.seen.as_ref().is_some_and(|seen| still_seen(seen, stat)),
                (Some(reported), None) => reported.seen.is_none(),
                (None, _) => false,
            },
        };
        Ok(match (holds, stat) {
            (false, _) => Met::Refused,
            (true, Some(stat)) => Met::Victim(stat),
            (true, None) => Met::Nothing,
        })
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

    #[allow(clippy::too_many_arguments)]
    fn put(
        &mut self,
        generation: Generation,
        path: &RelPath,
        node: NodeId,
        mut entry: Entry,
        expect: &Expect,
        displaced: Displaced,
        staged: Staged<D::File>,
    ) -> Result<Placed, ReplicaError> {
        let Some(parent) = self.open_parent(path)? else { return Ok(Placed::Refused(vec![path.clone()])) };
        if let (Content::File { hash, .. }, Some(computed)) = (&mut entry.content, staged.hash) {
            *hash = Some(computed);
        }
        let victim = match self.meet(&parent, path, expect)? {
            Met::Refused => return Ok(Placed::Refused(vec![path.clone()])),
            Met::Nothing => None,
            Met::Victim(stat) if stat.kind == Some(Kind::Dir) => {
                return Ok(Placed::Refused(vec![path.clone()]));
            }
            Met::Victim(stat) => Some(stat),
        };
        let stage = self.disk.own(Own::Stage).at(path, "open the stage")?;
        let new = node == generation && self.settings.gives_acls;
        let inherited = new && !entry.attrs.xattrs.keys().any(|name| is_acl(name)) && {
            let object = (&stage, &staged.name);
            self.disk.inherit(&parent.dir, object, entry.kind(), entry.attrs.mode).at(path, "give default ACLs")?
        };
        if let Some(file) = &staged.file {
            // From the last stat before the rename to the one after it nobody else may touch the object.
            self.disk.lease(file, Lease::Write).at(path, "lease the staged file")?;
        }
        let before = self.disk.stat(&stage, &staged.name).at(path, "stat the staged object")?;
        let (from, to) = ((&stage, &staged.name), (&parent.dir, &parent.name));
        match &victim {
            None => {
                let renamed = self.keeping(&[&parent.dir], || match &staged.file {
                    Some(file) => self.disk.rename_open(file, from, to),
                    None => self.disk.rename(from, to),
                });
                match renamed {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                        return Ok(Placed::Refused(vec![path.clone()]));
                    }
                    other => other.at(path, "rename into place")?,
                }
            }
            Some(stat) => match self.swap(path, (staged.file.as_ref(), from), to, stat, &before)? {
                Swapped::Done => {}
                Swapped::Busy => return Ok(Placed::Busy),
                Swapped::Refused => return Ok(Placed::Refused(vec![path.clone()])),
            },
        }
        self.touch(path, &parent.dir);
        let after = match &staged.file {
            Some(file) => self.disk.stat_file(file),
            None => self.disk.stat(&parent.dir, &parent.name),
        };
        if let Some(file) = &staged.file {
            self.disk.release(file);
        }
        let after = after.ok();
        let signature = after.filter(|after| ours(&before, after)).map(|after| self.signature(&after));
        let achieved = staged.achieved;
        // A lease does not keep anybody from setting attributes, and the rename hides that in the ctime.
        let held = achieved.as_ref().unwrap_or(&entry.attrs);
        let found = match &staged.file {
            Some(file) => self.disk.file_xattrs(file, (&parent.dir, &parent.name)),
            None => self.disk.xattrs(&parent.dir, &parent.name, entry.kind()),
        };
        let signature = match found {
            // What it inherited is to be found as this side's change: the contents are as they were placed, the mode is not.
            Ok(_) if inherited => signature.map(|s| Signature { mode: !s.mode & 0o7777, ..s }),
            Ok(xattrs) if xattrs == held.xattrs => signature,
            _ => None,
        };
        self.forget_report(path);
        let (name, mut since) = (parent.name.clone(), self.came());
        let mut former = None;
        if let Some(victim) = &victim {
            former = self.archive.child(parent.node, &name)?;
            since = if former.is_none() { self.made(&victim.btime) } else { since };
            former = former.filter(|former| self.unchanged(former, victim));
        }
        let mut row = Row { node, parent: parent.node, name, generation, entry, achieved, signature, since };
        // A node has the number of its first action: then it had no row before.
        if node != generation {
            let known = self.archive.node(node)?;
            row.since = known.as_ref().map_or(Since::Always, |known| known.since);
            self.doubt_old_place(known.as_ref(), &row)?;
        }
        let links = victim.filter(|_| staged.links);
        if node == generation && victim.is_none() && row.since == Since::Always {
            self.removals.find();
        }
        self.put_row(&mut row)?;
        if let Some(after) = &after {
            self.made_dir(node, node == generation, path, after)?;
        }
        self.forget_orphaned_moves()?;
        if row.signature.is_none() || inherited {
            self.dirty.insert(path.clone());
        }
        if let Some(stat) = links
            && self.drop_linked(&staged.name, &stat, path)?
        {
            return Ok(Placed::Done(Some(row.entry), None));
        }
        let mut kept = None;
        if victim.is_some() {
            kept = match self.dispose(&staged.name, path, displaced, generation) {
                // The new object has the name for good: only the old one is still to be kept.
                Err(ReplicaError::Path { .. }) => self.clear_staged(&staged.name, staged.object, path, generation)?,
                disposed => {
                    let (kept, trashed) = disposed?;
                    if let Some((id, former)) = trashed.zip(former) {
                        self.remember_former(&former, id);
                    }
                    Some(kept)
                }
            };
        }
        Ok(Placed::Done(Some(row.entry), kept))
    }

    /// A signature that proves something: one that a later write could still share leaves the ctime out.
    pub(crate) fn signature(&self, stat: &Stat) -> Signature {
        let mut signature = Signature::of(stat);
        if self.disk.unsettled(stat) {
            signature.ctime = Time::default();
        }
        signature
    }

    /// Exchanges the staged object with the victim, and back if what came out is not the victim as it was.
    fn swap(
        &mut self,
        path: &RelPath,
        (file, staged): (Option<&D::File>, (&D::Dir, &Name)),
        place: (&D::Dir, &Name),
        victim: &Stat,
        ours: &Stat,
    ) -> Result<Swapped, ReplicaError> {
        let lease = match self.guard(path, place, victim)? {
            Guarded::Lease(file) => file,
            Guarded::Busy => return Ok(Swapped::Busy),
            Guarded::Refused => return Ok(Swapped::Refused),
        };
        let Some(bare) = self.bare(place, victim) else { return Ok(Swapped::Refused) };
        let victim = &bare;
        let exchanged = self.keeping(&[place.0], || match file {
            Some(file) => self.disk.exchange_open(file, staged, place),
            None => self.disk.exchange(staged, place),
        });
        match exchanged {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Swapped::Refused),
            other => other.at(path, "exchange")?,
        }
        self.kept.show(ours.mtime);
        let broken = lease.as_ref().is_some_and(|file| !self.disk.lease_holds(file, Lease::Read));
        // What cannot be verified is taken back as well.
        let out = self.disk.stat(staged.0, staged.1).at(path, "stat the displaced object");
        if broken || !out.as_ref().is_ok_and(|out| same_version(victim, out)) {
            self.keeping(&[place.0], || self.disk.exchange(staged, place)).at(path, "exchange back")?;
            if let Some(file) = &lease {
                self.disk.release(file);
            }
            self.keep_stranger(path, staged, ours)?;
            out?;
            return Ok(if broken { Swapped::Busy } else { Swapped::Refused });
        }
        if let Some(file) = &lease {
            self.disk.release(file);
        }
        Ok(Swapped::Done)
    }

    /// The stat that an object will have once it is out of its name: a link that stood for a file is a link then. `None`: it
    /// is another object by now.
    pub(crate) fn bare(&self, place: (&D::Dir, &Name), shown: &Stat) -> Option<Stat> {
        match self.disk.followed(place.0, place.1) {
            None => Some(*shown),
            Some(link) => ((link.ino, link.btime) == (shown.ino, shown.btime)).then_some(link),
        }
    }

    /// After an exchange back the stage must hold our object again. If a user replaced it in between, his object is
    /// there now, and what he had replaced is back under the name: his goes beside it.
    fn keep_stranger(&mut self, path: &RelPath, staged: (&D::Dir, &Name), ours: &Stat) -> Result<(), ReplicaError> {
        let stat = self.disk.stat(staged.0, staged.1).at(path, "stat the staged object")?;
        if (stat.ino, stat.btime) == (ours.ino, ours.btime) {
            return Ok(());
        }
        self.keep_beside(staged, path, None, stat.mtime.secs, "replaced").map(drop)
    }

    /// Takes a read lease on a file that is to be displaced: from now on its writers wait.
    pub(crate) fn guard(
        &self,
        path: &RelPath,
        place: (&D::Dir, &Name),
        victim: &Stat,
    ) -> Result<Guarded<D::File>, ReplicaError> {
        match victim.kind {
            Some(Kind::File) => self.lease_victim(path, self.disk.open_file(place.0, place.1), victim),
            _ => Ok(Guarded::Lease(None)),
        }
    }

    /// The same for an object that is held on to.
    pub(crate) fn guard_pinned(
        &self,
        path: &RelPath,
        pin: &D::Pin,
        victim: &Stat,
    ) -> Result<Guarded<D::File>, ReplicaError> {
        match victim.kind {
            Some(Kind::File) => self.lease_victim(path, self.disk.open_pinned(pin), victim),
            _ => Ok(Guarded::Lease(None)),
        }
    }

    fn lease_victim(
        &self,
        path: &RelPath,
        opened: io::Result<D::File>,
        victim: &Stat,
    ) -> Result<Guarded<D::File>, ReplicaError> {
        let file = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Guarded::Refused),
            // Without the right to read it a lease cannot be had; the look after the swap stands alone.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(Guarded::Lease(None)),
            other => other.at(path, "open what is to be replaced")?,
        };
        let leased = self.disk.lease(&file, Lease::Read).at(path, "lease")?;
        if leased == Leased::Refused {
            return Ok(Guarded::Busy);
        }
        let stat = self.disk.stat_file(&file).at(path, "stat")?;
        if Signature::of(&stat) != Signature::of(victim) {
            self.disk.release(&file);
            return Ok(Guarded::Refused);
        }
        // Where leases do not work, the look after the swap stands alone.
        Ok(Guarded::Lease((leased == Leased::Granted).then_some(file)))
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

enum Swapped {
    Done,
    Busy,
    Refused,
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

/// Whether the object under the name after the rename is the staged one, untouched.
fn ours(before: &Stat, after: &Stat) -> bool {
    same_version(before, after)
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
