//! Attributes of an object that stays where it lies, and what a side could not set of them.

use std::io;

use crate::model::{Attrs, Entry, Generation, Kind, Name, NodeId, RelPath, Sameness, Time, Xattrs, acls, merge};
use crate::protocol::Expect;

use super::super::Replica;
use super::super::archive::{Archive, Row, Signature, Since};
use super::super::batch::Placed;
use super::super::disk::{Disk, Lease, NotSet, Own, Stat};
use super::super::error::{At, ReplicaError};
use super::{Guarded, Met, Parent};

impl<D: Disk, A: Archive> Replica<D, A> {
    /// The attributes that an object really has, if they are not the wanted ones.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn achieved(
        &self,
        dir: &D::Dir,
        path: &RelPath,
        name: &Name,
        kind: Kind,
        wanted: &Attrs,
        stat: &Stat,
        incomplete: bool,
    ) -> Result<Option<Attrs>, ReplicaError> {
        let mode_and_time =
            (kind == Kind::Link || stat.mode == wanted.mode) && (kind != Kind::File || stat.mtime == wanted.mtime);
        if mode_and_time && !incomplete {
            return Ok(None);
        }
        let live = self.live(dir, path, name, *stat, kind)?;
        Ok((live.attrs != *wanted).then_some(live.attrs))
    }

    pub(super) fn set_attrs(
        &mut self,
        generation: Generation,
        path: &RelPath,
        node: NodeId,
        mut entry: Entry,
        expect: &Expect,
    ) -> Result<Placed, ReplicaError> {
        let refused = || Ok(Placed::Refused(vec![path.clone()]));
        let Some(parent) = self.open_parent(path)? else { return refused() };
        let kind = entry.kind();
        // From here on it is this very object, whatever users put under its name.
        let (pin, before) = match self.pin_stat(&parent.dir, &parent.name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return refused(),
            pinned => pinned.at(path, "stat")?,
        };
        match self.meet_found(&parent, path, expect, Some(before))? {
            Met::Victim(stat) if stat.kind == Some(kind) => {}
            _ => return refused(),
        }
        let mut held = self.held(&parent, path, expect)?;
        if matches!(kind, Kind::Dir | Kind::Fifo)
            && !self.holds_still(&pin, kind, &before, &held).at(path, "read extended attributes")?
        {
            return refused();
        }
        let linked = has_other_names(&before);
        if linked && !self.has_already(&parent, path, &pin, &before, &entry)? {
            // It is reported again, and then replaced by a copy.
            return refused();
        }
        let lease = match self.guard_pinned(path, &pin, &before)? {
            Guarded::Lease(file) => file,
            Guarded::Busy => return Ok(Placed::Busy),
            Guarded::Refused => return refused(),
        };
        let not_set = match linked {
            true => NotSet::default(),
            false => {
                let default = |xattrs: &Xattrs| xattrs.get(acls::ACL_DEFAULT).cloned();
                if self.settings.keeps_acls && default(&held.xattrs) != default(&entry.attrs.xattrs) {
                    // What users here make of the other side's ACLs does not count.
                    let found = self.disk.pinned_xattrs(&pin, kind).at(path, "read extended attributes")?;
                    acls::take(&mut held.xattrs, &found);
                }
                let set = self.disk.set_pinned_attrs(&pin, kind, &entry.attrs, &held.xattrs);
                set.at(path, "set attributes")?
            }
        };
        let after = self.disk.stat_pin(&pin).at(path, "stat")?;
        let whole = match &lease {
            Some(file) => self.disk.lease_holds(file, Lease::Read),
            None => kind != Kind::File,
        };
        if let Some(file) = &lease {
            if self.settings.durable {
                self.disk.sync_files(&[file]).at(path, "sync")?;
            }
            self.disk.release(file);
        }
        self.touch(path, &parent.dir);
        let same = (before.ino, before.btime, before.size) == (after.ino, after.btime, after.size);
        let live = self.pinned_attrs(&pin, &after, kind).at(path, "read extended attributes")?;
        let differs = live != entry.attrs;
        // What this side can hold, and holds differently, a user set this very moment.
        let intervened = differs && !linked && !not_set.explains(&entry.attrs, &live);
        // Another object may have the name by now: that one is nobody's yet.
        let there = self.disk.stat(&parent.dir, &parent.name);
        let shown = there.is_ok_and(|there| (there.ino, there.btime) == (after.ino, after.btime));
        let proven = whole && shown && !intervened && (same || kind != Kind::File);
        let presumed = self.expected_report(path, expect).is_some_and(|seen| seen.presumed);
        let mut signature = proven.then(|| self.signature(&after));
        if let Some(signature) = signature.as_mut().filter(|_| presumed) {
            // Nobody has read it yet, and what was written before shows in nothing but the contents.
            signature.ctime = Time::default();
        }
        let achieved = (differs && !intervened).then_some(live);
        if let Some(row) = self.archive.child(parent.node, &parent.name)?
            && row.entry.content.compare(&entry.content) == Sameness::Unknown
            && entry.hash().is_none()
        {
            entry.content = row.entry.content;
        }
        self.forget_report(path);
        let known = self.archive.node(node)?;
        let since = known.as_ref().map_or(Since::Always, |known| known.since);
        if kind == Kind::Dir {
            self.look_below_another(known.as_ref(), (after.ino, after.btime), path);
        }
        let name = parent.name;
        let mut row = Row { node, parent: parent.node, name, generation, entry, achieved, signature, since };
        self.doubt_old_place(known.as_ref(), &row)?;
        self.put_row(&mut row)?;
        if row.signature.is_none() {
            self.dirty.insert(path.clone());
        } else if presumed && row.is_unproven() {
            self.unproven.owe(path);
        }
        let lines = self.not_set.count_at(path, &not_set);
        self.notes.extend(lines);
        Ok(Placed::Done(Some(row.entry), None))
    }

    /// What an object that is as expected was seen to have.
    fn held(&self, parent: &Parent<D::Dir>, path: &RelPath, expect: &Expect) -> Result<Held, ReplicaError> {
        let held = match expect {
            Expect::Report(_) => self.reported.get(path).and_then(|reported| reported.seen.as_ref()).map(|seen| {
                let ctime = seen.proof().ctime;
                Held { ctime, xattrs: seen.attrs.xattrs.clone() }
            }),
            Expect::Row(_) | Expect::Absent => self.archive.child(parent.node, &parent.name)?.map(|row| {
                let ctime = row.signature.map_or(Time::default(), |signature| signature.ctime);
                Held { ctime, xattrs: row.live_attrs().xattrs.clone() }
            }),
        };
        Ok(held.unwrap_or_default())
    }

    /// Whether a directory or FIFO has the extended attributes that it was seen with: nothing else of it that an
    /// expectation compares tells of them, since its ctime moves with whatever goes on in it.
    fn holds_still(&self, pin: &D::Pin, kind: Kind, now: &Stat, held: &Held) -> io::Result<bool> {
        if now.ctime == held.ctime {
            return Ok(true);
        }
        let found = self.disk.pinned_xattrs(pin, kind)?;
        // Of ACLs that are the other side's business no user's word counts.
        Ok(found == held.xattrs || self.settings.keeps_acls && acls::same_beside(&found, &held.xattrs))
    }

    /// Holds on to what lies under a name, and looks at it.
    pub(crate) fn pin_stat(&self, dir: &D::Dir, name: &Name) -> io::Result<(D::Pin, Stat)> {
        let pin = self.disk.pin(dir, name)?;
        let stat = self.disk.stat_pin(&pin)?;
        Ok((pin, stat))
    }

    /// The attributes of an object that is held on to.
    pub(crate) fn pinned_attrs(&self, pin: &D::Pin, stat: &Stat, kind: Kind) -> io::Result<Attrs> {
        let (user, group) = self.disk.principals(stat.uid, stat.gid);
        Ok(Attrs {
            mode: if kind == Kind::Link { 0 } else { stat.mode },
            user,
            group,
            mtime: if kind == Kind::File { stat.mtime } else { Time::default() },
            xattrs: self.disk.pinned_xattrs(pin, kind)?,
        })
    }

    /// Whether nothing is to be set on the object: it has what is wanted, but for what this side could not hold before.
    fn has_already(
        &self,
        parent: &Parent<D::Dir>,
        path: &RelPath,
        pin: &D::Pin,
        stat: &Stat,
        wanted: &Entry,
    ) -> Result<bool, ReplicaError> {
        let live = self.pinned_attrs(pin, stat, wanted.kind()).at(path, "read extended attributes")?;
        let row = self.archive.child(parent.node, &parent.name)?;
        Ok(match row.filter(|row| row.entry.kind() == wanted.kind()) {
            Some(row) => merge::carried(&live, row.live_attrs(), &row.entry.attrs) == wanted.attrs,
            None => live == wanted.attrs,
        })
    }

    /// Whether what lies at `path` gets these attributes on a copy that replaces it.
    pub fn on_a_copy(&self, path: &RelPath, wanted: &Entry) -> Result<Copied<D::File>, ReplicaError> {
        let Some((above, name)) = path.split() else { return Ok(Copied::No) };
        let Ok(dir) = self.disk.open_dir(&above) else { return Ok(Copied::No) };
        if self.disk.followed(&dir, &name).is_some() {
            let file = self.disk.open_file(&dir, &name).at(path, "open")?;
            let stat = self.disk.stat_file(&file).at(path, "stat")?;
            return Ok(Copied::Followed(file, Signature::of(&stat)));
        }
        match self.disk.stat(&dir, &name) {
            Ok(stat) if has_other_names(&stat) && wanted.kind() == Kind::File => self.linked(path, wanted),
            // What is wrong with it is found when it is placed.
            _ => Ok(Copied::No),
        }
    }

    fn linked(&self, path: &RelPath, wanted: &Entry) -> Result<Copied<D::File>, ReplicaError> {
        let Some(parent) = self.open_parent(path)? else { return Ok(Copied::No) };
        let (pin, stat) = match self.pin_stat(&parent.dir, &parent.name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Copied::No),
            pinned => pinned.at(path, "stat")?,
        };
        if !has_other_names(&stat) || self.has_already(&parent, path, &pin, &stat, wanted)? {
            return Ok(Copied::No);
        }
        let file = self.disk.open_pinned(&pin).at(path, "open")?;
        Ok(Copied::Linked(file, Signature::of(&stat)))
    }

    /// Ends what was replaced by a copy of itself: its other names have its contents, so that there is nothing to keep. False
    /// if it has none any more.
    pub(super) fn drop_linked(&mut self, staged: &Name, was: &Stat, path: &RelPath) -> Result<bool, ReplicaError> {
        let stage = self.disk.own(Own::Stage).at(path, "open the stage")?;
        let stat = self.disk.stat(&stage, staged).at(path, "stat the displaced object")?;
        let linked = has_other_names(&stat) && (stat.ino, stat.btime) == (was.ino, was.btime);
        if linked {
            self.unstage(staged);
            // Its other names in the tree have another ctime now.
            for row in self.archive.by_object(was.ino, was.btime)? {
                self.dirty.extend(self.path_of(row.node)?);
            }
        }
        Ok(linked)
    }
}

/// The extended attributes that an object was seen with, and its ctime then; zero where that proved nothing.
#[derive(Default)]
struct Held {
    ctime: Time,
    xattrs: Xattrs,
}

/// Whether an object gets attributes itself, or a copy that replaces it.
pub enum Copied<F> {
    No,
    /// A link that stands for a file: that one is another's; open, and how it was then.
    Followed(F, Signature),
    /// The same of a file with other names, which may be anybody's and outside of the root.
    Linked(F, Signature),
}

/// Whether a file can be reached by other names as well.
pub(crate) fn has_other_names(stat: &Stat) -> bool {
    stat.kind == Some(Kind::File) && stat.nlink > 1
}
