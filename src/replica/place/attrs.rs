//! Attributes of an object that stays where it lies, and what a side could not set of them.

use std::io;

use crate::model::{Attrs, Entry, Kind, Name, RelPath, Sameness, Time, Xattrs, acls, merge};
use crate::protocol::Expect;

use super::super::Replica;
use super::super::archive::{Archive, Row, Signature, Since};
use super::super::disk::{Disk, NotSet, Own, Stat};
use super::super::error::{At, ReplicaError};
use super::super::metadata::acl;
use super::super::spot::Spot;
use super::Parent;
use super::action::{Action, Done, Stop};

impl<D: Disk, A: Archive> Replica<D, A> {
    /// The attributes that an object really has, if they are not the wanted ones, all of which could be set.
    pub(crate) fn achieved(
        &self,
        at: Spot<D::Dir>,
        kind: Kind,
        wanted: &Attrs,
        stat: &Stat,
    ) -> Result<Option<Attrs>, ReplicaError> {
        let mode = kind == Kind::Link || stat.mode == wanted.mode;
        if mode && (kind != Kind::File || stat.mtime == wanted.mtime) {
            return Ok(None);
        }
        self.other_than(at, kind, wanted, stat)
    }

    /// The same where not all could be set.
    pub(crate) fn other_than(
        &self,
        at: Spot<D::Dir>,
        kind: Kind,
        wanted: &Attrs,
        stat: &Stat,
    ) -> Result<Option<Attrs>, ReplicaError> {
        let live = self.live(at, *stat, kind)?;
        Ok((live.attrs != *wanted).then_some(live.attrs))
    }

    pub(super) fn set_attrs(&mut self, action: &Action, entry: Entry) -> Result<Done, Stop> {
        let (path, kind) = (action.path, entry.kind());
        let parent = self.open_parent(path)?.ok_or(Stop::Refused)?;
        // From here on it is this very object, whatever users put under its name.
        let (pin, before) = match self.pin_stat(&parent.dir, &parent.name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Stop::Refused),
            pinned => pinned.at(path, "stat")?,
        };
        let met = self.meet_found(&parent, path, action.expect, Some(before))?;
        if met.is_none_or(|stat| stat.kind != Some(kind)) {
            return Err(Stop::Refused);
        }
        let mut held = self.held(&parent, path, action.expect)?;
        if matches!(kind, Kind::Dir | Kind::Fifo)
            && !self.holds_still(&pin, kind, &before, &held).at(path, "read extended attributes")?
        {
            return Err(Stop::Refused);
        }
        let linked = has_other_names(&before);
        if linked && !self.has_already(parent.spot(path), &pin, &before, &entry)? {
            // It is reported again, and then replaced by a copy.
            return Err(Stop::Refused);
        }
        let hold = self.hold_pinned(path, &pin, &before)?;
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
        let whole = match hold.file() {
            Some(_) => !hold.is_broken(&self.disk),
            None => kind != Kind::File,
        };
        if let Some(file) = hold.file().filter(|_| self.settings.durable) {
            self.disk.sync_files(&[file]).at(path, "sync")?;
        }
        hold.end(&self.disk);
        self.touch(path, &parent.dir);
        let live = self.pinned_attrs(&pin, &after, kind).at(path, "read extended attributes")?;
        let differs = live != entry.attrs;
        // What this side can hold, and holds differently, a user set this very moment. But that a narrower mode than the ACL's
        // masks it is nobody's doing.
        let masked = Attrs { xattrs: acl::under_mode(entry.attrs.mode, &entry.attrs.xattrs), ..entry.attrs.clone() };
        let intervened = differs && !linked && !not_set.explains(&masked, &live);
        // Another object may have the name by now: that one is nobody's yet.
        let there = self.disk.stat(&parent.dir, &parent.name);
        let shown = there.is_ok_and(|there| (there.ino, there.btime) == (after.ino, after.btime));
        let same = (before.ino, before.btime, before.size) == (after.ino, after.btime, after.size);
        let proven = whole && shown && !intervened && (same || kind != Kind::File);
        let presumed = self.expected_report(path, action.expect).is_some_and(|seen| seen.presumed);
        let achieved = (differs && !intervened).then_some(live);
        let entry = self.put_set(action, parent, entry, Set { after, proven, presumed, achieved })?;
        self.news.count_not_set(path, &not_set);
        Ok(Done { entry: Some(entry), kept: None })
    }

    /// Writes the row of an object that got other attributes. The answer is its entry.
    fn put_set(
        &mut self,
        action: &Action,
        parent: Parent<D::Dir>,
        mut entry: Entry,
        set: Set,
    ) -> Result<Entry, ReplicaError> {
        let Action { generation, path, node, .. } = *action;
        let mut signature = set.proven.then(|| self.signature(&set.after));
        if let Some(signature) = signature.as_mut().filter(|_| set.presumed) {
            // Nobody has read it yet, and what was written before shows in nothing but the contents.
            signature.ctime = Time::default();
        }
        if let Some(row) = self.archive.child(parent.node, &parent.name)?
            && row.entry.content.compare(&entry.content) == Sameness::Unknown
            && entry.hash().is_none()
        {
            entry.content = row.entry.content;
        }
        self.forget_report(path);
        let known = self.archive.node(node)?;
        let since = known.as_ref().map_or(Since::Always, |known| known.since);
        if entry.kind() == Kind::Dir {
            self.look_below_another(known.as_ref(), (set.after.ino, set.after.btime), path);
        }
        let (name, achieved) = (parent.name, set.achieved);
        let mut row = Row { node, parent: parent.node, name, generation, entry, achieved, signature, since };
        self.doubt_old_place(known.as_ref(), &row)?;
        self.put_row(&mut row)?;
        if row.signature.is_none() {
            self.agenda.look(path.clone());
        } else if set.presumed && row.is_unproven() {
            self.reads.unproven.owe(path);
        }
        Ok(row.entry)
    }

    /// What an object that is as expected was seen to have.
    fn held(&self, parent: &Parent<D::Dir>, path: &RelPath, expect: &Expect) -> Result<Held, ReplicaError> {
        let held = match expect {
            Expect::Report(_) => self.ledger.seen(path).map(|seen| {
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
    fn has_already(&self, at: Spot<D::Dir>, pin: &D::Pin, stat: &Stat, wanted: &Entry) -> Result<bool, ReplicaError> {
        let live = self.pinned_attrs(pin, stat, wanted.kind()).at(at.path, "read extended attributes")?;
        let row = match at.node {
            Some(parent) => self.archive.child(parent, at.name)?,
            None => None,
        };
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
        if !has_other_names(&stat) || self.has_already(parent.spot(path), &pin, &stat, wanted)? {
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
                self.agenda.look_at_all(self.path_of(row.node)?);
            }
        }
        Ok(linked)
    }
}

/// What came of setting attributes.
struct Set {
    after: Stat,
    /// The object under the name is the one that was looked at, and nobody else has changed it.
    proven: bool,
    /// Its contents were told unread.
    presumed: bool,
    /// What it has, where that is not what was wanted.
    achieved: Option<Attrs>,
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
