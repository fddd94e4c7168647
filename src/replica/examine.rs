//! Examine: one look at a path, compared with its ancestor. An echo of psync's own writing compares equal.

use std::io;

use crate::model::{Attrs, Content, Entry, Hash, Kind, Name, NodeId, Problem, ProblemKind, RelPath, Sameness, Time};
use crate::protocol::{Change, Known};

use super::archive::{Archive, ArchiveError, Row, Signature, Since};
use super::disk::{Disk, Stat};
use super::error::{At, ReplicaError, problem};
use super::metadata::CAPABILITY;
use super::read::{Contents, Doubt, Looked};
use super::{Replica, Reported, Seen};

mod carried;
mod moved;

/// How a path is to be examined.
#[derive(Debug, Clone, Copy, Default)]
pub struct How {
    /// Report even what was reported before, or equals the ancestor.
    pub again: bool,
    /// Take the object for a new one even if the archive knows it under another name.
    pub as_copy: bool,
    /// Attach the contents of files of up to so many bytes, as far as small files are attached at all.
    pub inline: u64,
    /// Do not wait for those who have the file open for writing.
    pub despite_writers: bool,
    /// Read the whole file for its hash, whatever its size.
    pub hash: bool,
    /// Believe no stat: a file that looks unchanged is compared by its hash.
    pub verify: bool,
    /// Compare contents now, also large ones of which only the ctime moved.
    pub now: bool,
    /// The look is nobody's hurry: a file that somebody is writing is left alone, whatever the settings say.
    pub idle: bool,
    /// Tell no move of a file that has only now left its old name empty: it may be there again in a moment.
    pub patient: bool,
    /// An event told of it. Of a directory whose times alone moved nothing is written: that goes on all the time.
    pub live: bool,
}

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
                self.specials.gone(path);
                self.stop_reading(path);
                self.forget_move_to(path)?;
                let told = self.reported.get(path).is_some_and(|r| r.seen.is_some());
                return Ok(match how.again || told {
                    true => Examined::Changed(Box::new(self.report_nothing(path, None, None)?)),
                    false => self.gone_above(parent)?,
                });
            }
            Err(error) => return Ok(Examined::Problem(problem(path, "open the directory above", &error))),
        };
        let parent = self.node_of(&parent)?;
        for _ in 0..3 {
            match self.examine_in(&dir, parent, path, &name, how) {
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
        let told = self.reported.get(&topmost).is_some_and(|reported| reported.seen.is_none());
        Ok(if told { Examined::Same } else { Examined::Above(topmost) })
    }

    /// The same, for a name in an open directory whose node is `parent`.
    pub(crate) fn examine_in(
        &mut self,
        dir: &D::Dir,
        parent: Option<NodeId>,
        path: &RelPath,
        name: &Name,
        how: How,
    ) -> Result<Examined, ReplicaError> {
        let examined = self.examine_name(dir, parent, path, name, how);
        if !matches!(examined, Ok(Examined::Reading)) {
            self.stop_reading(path);
        }
        examined
    }

    fn examine_name(
        &mut self,
        dir: &D::Dir,
        parent: Option<NodeId>,
        path: &RelPath,
        name: &Name,
        how: How,
    ) -> Result<Examined, ReplicaError> {
        let mut reported_move = self.reported.get(path).and_then(|r| r.moved);
        if let Some(node) = reported_move.filter(|_| how.as_copy) {
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
                self.specials.gone(path);
                return self.examine_nothing(path, parent, under_name, how);
            }
            Err(error) => return Ok(Examined::Problem(problem(path, "stat", &error))),
        };
        let speaks = |row: &Row| !(how.verify || how.hash) && self.unchanged(row, &stat);
        if let Some(unchanged) = under_name.as_ref().filter(|row| speaks(row)) {
            let row = unchanged.clone();
            self.compare_dir_time(path, &row, &stat)?;
            return self.same(path, parent, &row, how, false);
        }
        if self.passes_over(&stat) {
            return Ok(self.pass_over(dir, path, name, under_name.is_some(), how));
        }
        self.specials.forget(path);
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
        let Some(kind) = stat.kind else { return Ok(Examined::Problem(self.unsupported(dir, path, name))) };
        let live = self.live(dir, path, name, stat, kind)?;
        let object = (stat.ino, stat.btime);
        if how.as_copy {
            self.copies.insert(path.clone(), object);
        } else if self.copies.get(path).is_some_and(|copy| *copy != object) {
            self.copies.remove(path);
        }
        let mover = match &under_name {
            Some(row) if row.signature.is_some_and(|s| s.same_object(&stat)) => None,
            Some(row) if self.is_in_doubt(row) => None,
            _ if self.copies.contains_key(path) => None,
            _ => self.mover(&live, path, reported_move)?,
        };
        if reported_move.is_some() && reported_move != mover.as_ref().map(|(_, row)| row.node) {
            // Something else than what had come here.
            self.forget_move_to(path)?;
        }
        if under_name.is_none()
            && mover.is_none()
            && !how.again
            && !self.copies.contains_key(path)
            && self.is_reported_elsewhere(&live, path)
        {
            return Ok(Examined::Known);
        }
        match mover {
            Some((from, row)) if how.patient && kind == Kind::File && reported_move != Some(row.node) => {
                Ok(Examined::Left { from, made: row.generation == row.node })
            }
            Some((from, row)) => {
                self.specials.moved(&from, path);
                self.examine_moved(path, parent, under_name, from, row, live, how)
            }
            None => self.examine_object(dir, parent, path, name, under_name, live, how),
        }
    }

    /// Whether the stat alone proves the object to be the one that the row was recorded with.
    pub(crate) fn unchanged(&self, row: &Row, stat: &Stat) -> bool {
        let Some(signature) = &row.signature else { return false };
        stat.kind == Some(row.entry.kind()) && *signature == Signature::of(stat) && !stat.foreign
    }

    fn same(
        &mut self,
        path: &RelPath,
        parent: Option<NodeId>,
        row: &Row,
        how: How,
        read: bool,
    ) -> Result<Examined, ReplicaError> {
        self.forget_move_to(path)?;
        self.given.remove(&row.node);
        if !how.again {
            self.forget_report(path);
            return Ok(Examined::Same);
        }
        // Nothing that would have to be recorded: what is expected of it is its row.
        self.forget_report(path);
        let seq = self.take_seq();
        Ok(Examined::Changed(Box::new(Change {
            seq,
            path: path.clone(),
            parent,
            known: Some(known(row)),
            moved: None,
            after: Some(row.entry.clone()),
            contents: false,
            touched: false,
            read,
            inline: None,
            like: None,
            below: 0,
            young: 0,
        })))
    }

    fn take_seq(&mut self) -> u64 {
        self.next_seq += 1;
        self.next_seq
    }

    fn examine_nothing(
        &mut self,
        path: &RelPath,
        parent: Option<NodeId>,
        under_name: Option<Row>,
        how: How,
    ) -> Result<Examined, ReplicaError> {
        self.copies.remove(path);
        self.forget_move_to(path)?;
        self.forget_moves_below(path)?;
        let told = self.reported.get(path).is_some_and(|r| r.seen.is_none());
        match under_name {
            None if how.again => Ok(Examined::Changed(Box::new(self.report_nothing(path, parent, None)?))),
            None if self.reported.contains_key(path) && !told => {
                Ok(Examined::Changed(Box::new(self.report_nothing(path, parent, None)?)))
            }
            None => Ok(if told { Examined::Known } else { Examined::Same }),
            Some(_) if told && !how.again => Ok(Examined::Known),
            Some(row) => Ok(Examined::Changed(Box::new(self.report_nothing(path, parent, Some(row))?))),
        }
    }

    /// What had come here is gone again: its own row speaks for itself from now on.
    pub(crate) fn forget_move_to(&mut self, path: &RelPath) -> Result<(), ArchiveError> {
        if let Some(node) = self.reported.get(path).and_then(|r| r.moved) {
            self.forget_report(path);
            self.speak_for_itself(node)?;
        }
        Ok(())
    }

    /// The old name of a node that is reported as moved no more is looked at again. What was told to have come there was told
    /// without the node's row, as something new: it is told anew, or the other side would not hear what it took the place of.
    fn speak_for_itself(&mut self, node: NodeId) -> Result<(), ArchiveError> {
        let Some(home) = self.path_of(node)? else { return Ok(()) };
        if self.reported.get(&home).is_some_and(|reported| reported.moved.is_some()) {
            self.told_again.insert(home.clone());
        }
        self.forget_report(&home);
        self.dirty.insert(home);
        Ok(())
    }

    /// The same for what had come into a directory that is gone. The others' reports fall with the directory.
    fn forget_moves_below(&mut self, top: &RelPath) -> Result<(), ArchiveError> {
        let below: Vec<RelPath> = self.moved.values().filter(|path| path.is_below(top)).cloned().collect();
        below.iter().try_for_each(|path| self.forget_move_to(path))
    }

    fn report_nothing(
        &mut self,
        path: &RelPath,
        parent: Option<NodeId>,
        row: Option<Row>,
    ) -> Result<Change, ArchiveError> {
        let seq = self.take_seq();
        let below = self.replaced_below(row.as_ref(), None)?;
        self.distrust((path, seq), row.as_ref(), None, None, true);
        match row {
            Some(_) => self.set_reported(path, Reported { seq, seen: None, moved: None, weight: 0 }),
            // Neither object nor row: there is nothing to record.
            None => self.forget_report(path),
        }
        Ok(Change {
            seq,
            path: path.clone(),
            parent,
            known: row.as_ref().map(known),
            moved: None,
            after: None,
            contents: true,
            touched: false,
            read: false,
            inline: None,
            like: None,
            below: below.all,
            young: below.young,
        })
    }

    /// Reads the attributes that travel, and a link's target.
    pub(crate) fn live(
        &self,
        dir: &D::Dir,
        path: &RelPath,
        name: &Name,
        stat: Stat,
        kind: Kind,
    ) -> Result<Live, ReplicaError> {
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

    #[allow(clippy::too_many_arguments)]
    fn examine_object(
        &mut self,
        dir: &D::Dir,
        parent: Option<NodeId>,
        path: &RelPath,
        name: &Name,
        row: Option<Row>,
        live: Live,
        how: How,
    ) -> Result<Examined, ReplicaError> {
        let mut bytes = None;
        let mut snapshot = None;
        let (mut now_read, mut open, mut presumed) = (false, false, false);
        let (mut touched, mut unread) = (false, false);
        let (content, contents) = match live.kind {
            Kind::Dir => (Content::Dir, row.as_ref().is_none_or(|r| r.entry.kind() != Kind::Dir)),
            Kind::Fifo => (Content::Fifo, row.as_ref().is_none_or(|r| r.entry.kind() != Kind::Fifo)),
            Kind::Link => {
                let content = Content::Link { target: live.target.clone().unwrap_or_default() };
                let differs = row.as_ref().is_none_or(|r| r.entry.content != content);
                (content, differs)
            }
            Kind::File => {
                let doubt = self.doubt(row.as_ref(), &live.stat);
                touched = doubt == Doubt::Touched;
                let small = live.stat.size <= self.settings.inline_max.min(how.inline);
                let wants_inline = how.inline > 0 && small && doubt != Doubt::Unchanged;
                let verify = how.verify && doubt == Doubt::Unchanged;
                // What was read once and told is not taken for what was agreed on again.
                let later = self.is_proven_later(row.as_ref(), live.stat.size, how);
                presumed = touched && later && self.hash_told(path, &live).is_none();
                unread = presumed;
                let read = how.hash || wants_inline || matches!(doubt, Doubt::Read | Doubt::Touched) || verify;
                let too_large = live.stat.size > self.settings.max_size;
                if too_large && matches!(doubt, Doubt::Read | Doubt::Changed) {
                    return Ok(Examined::Problem(self.too_large(path, live.stat.size)));
                }
                if (doubt != Doubt::Unchanged || read) && !presumed {
                    match self.read_for_report(dir, path, name, &live.stat, read, wants_inline, how)? {
                        Contents::Busy => return Ok(Examined::Busy),
                        Contents::Reading => return Ok(Examined::Reading),
                        Contents::Found(Looked { size, read: None, snapshot: copy, open: written }) => {
                            open = written;
                            let hash = if copy.is_none() { self.hash_told(path, &live) } else { None };
                            now_read = hash.is_some();
                            snapshot = copy;
                            (Content::File { size, hash }, true)
                        }
                        Contents::Found(Looked { size, read: Some((hash, kept)), snapshot: copy, open: written }) => {
                            open = written;
                            // A snapshot tells nothing of what the file holds by now.
                            now_read = copy.is_none();
                            (bytes, snapshot) = (kept, copy);
                            let content = Content::File { size, hash: Some(hash) };
                            let same = row.as_ref().map(|r| r.entry.content.compare(&content));
                            // A row without a hash, of a file that looks unchanged, takes this one. But a scan that reads
                            // everything tells of it: the other side's file, taken for equal unread, may be another.
                            let scanned = how.hash && how.verify;
                            let adopted = same == Some(Sameness::Unknown) && doubt == Doubt::Unchanged && !scanned;
                            let differs = same != Some(Sameness::Same) && !adopted;
                            if too_large && differs {
                                return Ok(Examined::Problem(self.too_large(path, live.stat.size)));
                            }
                            (content, differs)
                        }
                    }
                } else {
                    let known = row.as_ref().map(|r| r.entry.content.clone());
                    (known.unwrap_or(Content::File { size: live.stat.size, hash: None }), false)
                }
            }
        };
        let (attrs_differ, attrs) = match &row {
            Some(row) if row.entry.kind() == live.kind => self.carried(row, &live),
            _ => (true, self.brought(&live.attrs)),
        };
        let agreed = row.as_ref().filter(|_| !contents).map(|row| &row.entry.attrs);
        let (attrs, dropped) = self.entitled(live.kind, attrs, &live.attrs, agreed);
        let inline = bytes.filter(|_| contents);
        let like = match contents && inline.is_none() {
            true => self.like(&live.stat, path)?,
            false => None,
        };
        // What looks like another name's contents was not compared with them.
        presumed |= like.is_some() && content.is_unread();
        let seen = Seen {
            signature: Signature::of(&live.stat),
            content: content.clone(),
            attrs: live.attrs,
            settled: live.settled,
            snapshot: snapshot.is_some(),
            presumed,
            touched: unread,
            open,
        };
        if let Some(row) = row.as_ref().filter(|_| !contents && !attrs_differ) {
            if how.verify && row.signature == Some(seen.signature) && row.entry.content == content {
                return self.same(path, parent, &row.clone(), how, now_read);
            }
            // Touched, or learned from the other side, and equal: only the signature is new.
            if live.kind == Kind::Dir && row.signature.is_none_or(|s| !s.same_object(&live.stat)) {
                // Another directory than before: whatever lies in it is to be looked at.
                self.unscanned.insert(path.clone());
            }
            // What was learned of the other archive after a crash was made here, else this side had known it.
            let since = match (row.signature, row.since) {
                (None, Since::Always) if row.node == row.generation => self.made(&live.stat.btime),
                _ => row.since,
            };
            let fresh = Row { signature: Some(seen.proof()), entry: Entry { content, attrs }, since, ..row.clone() };
            if presumed {
                self.unproven.owe(path);
            }
            let moved_on = how.live && is_only_worked_in(row, &fresh);
            if fresh != *row && !moved_on {
                if !presumed {
                    self.sync_adopted(dir, path, name, live.kind)?;
                }
                self.unproven.note(&fresh);
                self.archive.put(&fresh)?;
            }
            self.copies.remove(path);
            self.compare_dir_time(path, &fresh, &live.stat)?;
            return self.same(path, parent, &fresh, how, now_read);
        }
        let told = self
            .reported
            .get(path)
            .is_some_and(|r| r.moved.is_none() && r.seen.as_ref().is_some_and(|s| s.equals(&seen)));
        if told && !how.again {
            return Ok(Examined::Known);
        }
        if live.stat.nlink > 1 && live.kind == Kind::File {
            self.look_at_links(&live.stat, path)?;
        }
        let below = self.replaced_below(row.as_ref(), Some(live.kind))?;
        if let Some(words) = dropped {
            self.notes.push(format!("{path}: {words} was agreed on for other contents, and does not go with these"));
        }
        let seq = self.take_seq();
        let after = Entry { content, attrs };
        self.distrust((path, seq), row.as_ref(), Some((dir, name)), Some(&after), contents);
        self.set_reported(path, Reported { seq, seen: Some(seen), moved: None, weight: 0 });
        if let Some(snapshot) = snapshot {
            self.snapshots.insert(path.clone(), (seq, snapshot));
        }
        Ok(Examined::Changed(Box::new(Change {
            seq,
            path: path.clone(),
            parent,
            known: row.as_ref().map(known),
            moved: None,
            after: Some(after),
            contents,
            touched,
            read: now_read,
            inline,
            like,
            below: below.all,
            young: below.young,
        })))
    }

    /// Whether the contents of a file of which only the ctime moved are compared later: what else changed need not wait for
    /// that. Rights that its row stands for are nobody's before.
    fn is_proven_later(&self, row: Option<&Row>, size: u64, how: How) -> bool {
        let asked = how.again || how.hash || how.verify || how.now;
        !asked && size > self.settings.prove_later && row.is_some_and(|row| !self.stands_for_rights(row))
    }

    /// The hash that was reported of the very same file.
    fn hash_told(&self, path: &RelPath, live: &Live) -> Option<Hash> {
        let seen = self.reported.get(path)?.seen.as_ref()?;
        let Content::File { hash, .. } = seen.content else { return None };
        hash.filter(|_| seen.settled && !seen.presumed && seen.signature == Signature::of(&live.stat))
    }

    /// Hard links travel as files of their own; the kernel tells only of the name that a write came through.
    fn look_at_links(&mut self, stat: &Stat, path: &RelPath) -> Result<(), ReplicaError> {
        let mut links: Vec<RelPath> = self.reported_objects.get(&(stat.ino, stat.btime)).cloned().into_iter().collect();
        for row in self.archive.by_object(stat.ino, stat.btime)? {
            links.extend(self.path_of(row.node)?);
        }
        self.dirty.extend(links.into_iter().filter(|link| link != path));
        Ok(())
    }

    /// A signature proves only what is on disk: an equal object, written again by a user, may not be yet.
    pub(crate) fn sync_adopted(
        &self,
        dir: &D::Dir,
        path: &RelPath,
        name: &Name,
        kind: Kind,
    ) -> Result<(), ReplicaError> {
        if !self.settings.durable {
            return Ok(());
        }
        if kind == Kind::File {
            let file = self.disk.open_file(dir, name).at(path, "open")?;
            self.disk.sync_files(&[&file]).at(path, "sync")?;
        }
        self.disk.sync_dirs(&[dir]).at(path, "sync the directory")
    }
}

/// Whether a row differs only by what goes on in its directory.
fn is_only_worked_in(row: &Row, fresh: &Row) -> bool {
    let Some((old, new)) = row.signature.zip(fresh.signature) else { return false };
    let still = Signature { size: new.size, mtime: new.mtime, ctime: new.ctime, ..old };
    row.entry.kind() == Kind::Dir && still == new && Row { signature: fresh.signature, ..row.clone() } == *fresh
}

fn known(row: &Row) -> Known {
    Known { node: row.node, generation: row.generation, entry: row.entry.clone() }
}

/// Whether an error of opening a directory says that there is none.
pub(crate) fn above_is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) || is_link(error)
}

fn is_link(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ELOOP)
}
