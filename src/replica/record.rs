//! Record: remember what both sides agreed on, on the side that had the object already; and what the other archive
//! knows better.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{
    Attrs, Content, Entry, Generation, Kind, NodeId, PATH_MAX, ROOT_NODE, RelPath, Sameness, Time, merge,
};
use crate::protocol::{AncestorRow, Record};

use super::archive::{Archive, Row, Signature, Since, Tombstone};
use super::disk::Disk;
use super::error::ReplicaError;
use super::{Replica, Seen};

impl<D: Disk, A: Archive> Replica<D, A> {
    /// Puts the user's own objects on disk before rows speak of them.
    pub fn sync_sources(&mut self, records: &[(Generation, Record)]) -> Result<(), ReplicaError> {
        if !self.settings.durable {
            return Ok(());
        }
        let mut dirs = BTreeMap::new();
        let mut sources = Vec::new();
        let mut bytes = 0;
        for (_, record) in records {
            for path in record.from.iter().chain([&record.path]) {
                let Some((above, name)) = path.split() else { continue };
                let dir = match dirs.get(&above) {
                    Some(dir) => dir,
                    None => match self.disk.open_dir(&above) {
                        Ok(dir) => dirs.entry(above.clone()).or_insert(dir),
                        // What is not there any more cannot be put on disk: its row must not prove anything.
                        Err(_) => {
                            self.withdraw_report(path)?;
                            continue;
                        }
                    },
                };
                let seen = self.ledger.numbered(path, record.seq).and_then(|r| r.seen.as_ref());
                let Some(seen) = seen else { continue };
                if !self.disk.stat(dir, &name).is_ok_and(|stat| seen.signature.same_object(&stat)) {
                    self.withdraw_report(path)?;
                } else if matches!(seen.content, Content::File { .. }) {
                    bytes += seen.signature.size;
                    sources.push((above, name, path));
                }
            }
        }
        if self.disk.sync_whole(sources.len() + dirs.len(), bytes) {
            self.placed.touched.clear();
            return Ok(());
        }
        let mut files = Vec::with_capacity(sources.len());
        for (above, name, path) in sources {
            match dirs.get(&above).map(|dir| self.disk.open_file(dir, &name)) {
                Some(Ok(file)) => files.push(file),
                _ => self.withdraw_report(path)?,
            }
        }
        let files: Vec<&D::File> = files.iter().collect();
        let dirs: Vec<&D::Dir> = dirs.values().collect();
        let synced = self.sync_with_names(&files, &dirs);
        super::error::At::at(synced, &RelPath::root(), "sync what users wrote")
    }

    /// Takes an agreed state into the archive.
    pub fn record(&mut self, generation: Generation, record: &Record) -> Result<(), ReplicaError> {
        self.identity.generation = self.identity.generation.max(generation);
        let reported = self.ledger.numbered(&record.path, record.seq).cloned();
        let Some(entry) = &record.entry else {
            if let Some(elsewhere) = self.path_of(record.node)?.filter(|at| *at != record.path) {
                // It lies under another name here, and that is not what both sides agreed to forget.
                self.agenda.look_and_scan(&elsewhere);
            }
            self.bury(generation, record.node)?;
            self.forget_reports_below(&record.path);
            // Something else may lie there already: it is reported anew, without an ancestor.
            self.forget_report(&record.path);
            let settled = reported.is_some_and(|r| r.seen.is_none());
            self.settle_report(&record.path, settled);
            return Ok(());
        };
        let (Some(above), Some(name)) = (record.path.parent(), record.path.name()) else { return Ok(()) };
        let old = self.archive.node(record.node)?;
        let parent = match record.parent {
            // Whatever the directory is called by now; it may be gone with all that was in it.
            Some(parent) if parent == ROOT_NODE || self.archive.node(parent)?.is_some() => Some(parent),
            Some(_) => None,
            // Where nothing was moved the row stays in its directory, whatever the way to that is called here by now.
            None => match old.as_ref().filter(|old| record.from.is_none() && old.name == name) {
                Some(old) => Some(old.parent),
                None => self.node_of(&above)?,
            },
        };
        let Some(parent) = parent else {
            // The directory above is not known here any more; the path is reported anew.
            self.settle_report(&record.path, false);
            return Ok(());
        };
        let seen = reported.as_ref().and_then(|r| r.seen.as_ref());
        let since = match (&old, seen) {
            (Some(old), _) => old.since,
            (None, Some(seen)) if record.node == generation => self.made(&seen.signature.btime),
            // It is gone, or changed again, before the other side's word came: what was agreed says when it was written.
            (None, None) if record.node == generation => self.made(&entry.attrs.mtime),
            (None, _) => Since::Always,
        };
        if old.is_none() && seen.is_some() && since == Since::Always {
            self.bin.removals.find();
        }
        let (entry_here, achieved, signature) = (entry.clone(), None, None);
        let mut row =
            Row { node: record.node, parent, name, generation, entry: entry_here, achieved, signature, since };
        match (&old, seen) {
            (Some(old), Some(seen)) if record.from.is_some() => {
                row.achieved = self.held_of(old, entry);
                row.signature = self.seen_as_moved(old, seen, &row);
            }
            (_, Some(seen)) => {
                row.achieved = (seen.attrs != entry.attrs).then(|| seen.attrs.clone());
                // Contents that were reported but not these: the signature would claim too much.
                let same = seen.content.compare(&entry.content) != Sameness::Differs;
                row.signature = same.then(|| seen.proof());
            }
            (Some(old), None) if is_kept(&old.entry.content, &entry.content) => {
                row.achieved = self.held_of(old, entry);
                // Attributes of another report: the signature would claim that the object has them. It is still the object.
                let same = old.entry.attrs == entry.attrs;
                row.signature = old.signature.map(|old| if same { old } else { old.name_only() });
            }
            _ => {}
        }
        if let Some(seen) = seen.filter(|seen| seen.content == Content::Dir) {
            self.look_below_another(old.as_ref(), (seen.signature.ino, seen.signature.btime), &record.path);
        }
        if let Some(further) = self.ledger.settle_move(record.node).filter(|at| *at != record.path) {
            // It moved on meanwhile: that is a move from its new row.
            self.forget_report(&further);
            self.agenda.look(further);
        }
        match record.from {
            // The directory that it came from may have another name by now, and all may lie there once more.
            Some(_) => self.agenda.look_at_all(self.path_of(record.node)?.filter(|was| *was != record.path)),
            None => self.doubt_old_place(old.as_ref(), &row)?,
        }
        match (record.exchanged, &old) {
            (Some(other), Some(old)) => self.record_exchange(&mut row, old, other)?,
            _ => self.put_row(&mut row)?,
        }
        if entry.kind() == Kind::Dir {
            self.look_at_dir_time(&record.path);
        }
        if seen.is_some_and(|seen| seen.presumed) && row.is_unproven() {
            self.reads.unproven.owe(&record.path);
        }
        // In a directory that was renamed meanwhile it was looked for before it had a row.
        if self.node_of(&above)? != Some(row.parent) {
            let here = self.path_of(row.parent)?.and_then(|above| above.join(&row.name).ok());
            self.agenda.look_at_all(here.filter(|here| *here != record.path));
        }
        // A row of an older report does not name its object: at the next look it must not pass for one that has moved.
        if row.signature.is_some() {
            self.ledger.forget_copy(&record.path);
        }
        self.forget_orphaned_moves()?;
        if let Some(from) = &record.from {
            // What had come there in its place may be there no more, and its own old name speaks for itself then.
            self.withdraw_report(from)?;
            self.agenda.look(from.clone());
        }
        // An object that was edited as well as moved does not match its row: it is reported once more.
        let settled = seen.is_some_and(|seen| row.signature == Some(seen.proof()));
        if !settled {
            self.forget_report(&record.path);
        }
        self.settle_report(&record.path, settled);
        Ok(())
    }

    /// What this side holds of an entry that it cannot hold whole: what it cannot hold of the old attributes it does not hold
    /// of the new ones either.
    fn held_of(&self, old: &Row, entry: &Entry) -> Option<Attrs> {
        let held = merge::carried(old.achieved.as_ref()?, &old.entry.attrs, &entry.attrs);
        (held != entry.attrs).then_some(held)
    }

    /// The signature of an object that was seen under its new name: the row's own state; if it was edited as well, that shows
    /// against it.
    fn seen_as_moved(&self, old: &Row, seen: &Seen, row: &Row) -> Option<Signature> {
        let file = |s: &Signature| (s.size, s.mtime);
        let pure = seen.attrs == *row.live_attrs()
            && old.compared().is_some_and(|s| {
                s.ino == seen.signature.ino && (old.entry.kind() != Kind::File || file(&s) == file(&seen.signature))
            });
        match self.stands_for_rights(old) {
            // A rename hides a write that put the time back: its contents are compared.
            true => None,
            false if pure => Some(seen.proof()),
            // It may have been told with a mode that is not the object's: that shows against it, and comes now.
            false if row.entry.kind() == Kind::Link || old.compared().is_none() => old.signature,
            false => old.signature.map(|old| Signature { mode: row.live_attrs().mode, ..old }),
        }
    }

    /// Records that two nodes have changed places. Where the other lies by now is what its users say next, if that is not
    /// where it is recorded.
    fn record_exchange(&mut self, row: &mut Row, old: &Row, other: NodeId) -> Result<(), ReplicaError> {
        let two = self.archive.node(other)?.filter(|two| (two.parent, &two.name) == (row.parent, &row.name));
        let Some(mut two) = two.filter(|two| two.node != old.node) else { return self.put_row(row) };
        if !self.may_change_places(old, &two)? {
            return self.put_row(row);
        }
        (two.parent, two.name, two.generation) = (old.parent, old.name.clone(), row.generation);
        let home = self.recorded_path(old)?;
        if let Some(at) = self.ledger.moved_to(other).filter(|at| home.as_ref() == Some(at))
            && let Some(seen) = self.ledger.seen(at).cloned()
        {
            two.signature = self.seen_as_moved(&two, &seen, &two);
        }
        self.tell_again(other);
        self.agenda.look_at_all(home);
        self.put_exchanged(vec![row.clone(), two])?;
        self.give(other)
    }

    /// Writes the row of an action. Another node that had the name is gone with it, and leaves a tombstone: else the other
    /// side, if it missed the action, would teach it to this one again in the place of what lies there now.
    pub(crate) fn put_row(&mut self, row: &mut Row) -> Result<(), ReplicaError> {
        if row.since != Since::Always
            && let Some(former) = self.archive.child(row.parent, &row.name)?.filter(|former| former.node != row.node)
        {
            // To replace and then to remove is to remove.
            row.since = row.since.after(former.since);
        }
        self.reads.unproven.note(row);
        // Its old place, and what had its new one, lead to it no more.
        self.leave_way(row.node);
        self.ledger.take(row.node);
        if let Some(node) = self.archive.put(row)? {
            self.leave_way(node);
            let (parent, name, generation) = (row.parent, row.name.clone(), row.generation);
            self.archive.bury(&Tombstone { node, parent, name, generation })?;
        }
        Ok(())
    }

    /// Another directory took the place of the one that a row is of: what the archive has below it may lie elsewhere, or nowhere.
    pub(crate) fn look_below_another(&mut self, old: Option<&Row>, object: (u64, Time), path: &RelPath) {
        let Some((old, signature)) = old.and_then(|old| Some((old, old.signature?))) else { return };
        if (signature.ino, signature.btime) != object {
            self.agenda.scan(path.clone());
            if let Some(at) = self.ledger.moved_to(old.node).cloned() {
                self.agenda.scan(at);
            }
        }
    }

    /// A node's row comes to another name though nothing was renamed: what lies under its old name has no row then, and
    /// is to be found as new.
    pub(crate) fn doubt_old_place(&mut self, old: Option<&Row>, row: &Row) -> Result<(), ReplicaError> {
        if old.is_some_and(|old| (old.parent, &old.name) != (row.parent, &row.name))
            && let Some(path) = self.path_of(row.node)?
        {
            self.agenda.look_and_scan(&path);
        }
        Ok(())
    }

    /// The report is dealt with; if it was not the newest, or proves nothing, the path is looked at again.
    fn settle_report(&mut self, path: &RelPath, settled: bool) {
        self.forget_report(path);
        if !settled {
            self.agenda.look(path.clone());
        }
    }

    /// Whether these rows, with those that are here, lead from each row to the root, or to a directory that is unknown.
    pub fn is_a_tree(&self, rows: &[AncestorRow]) -> Result<bool, ReplicaError> {
        let own = |node| Ok::<_, ReplicaError>(self.archive.node(node)?.map(|row| (row.generation, row.parent)));
        let mut parents: BTreeMap<NodeId, NodeId> = BTreeMap::new();
        for row in rows.iter().filter(|row| row.entry.is_some()) {
            // Of what is known better here nothing will be learned.
            if own(row.node)?.is_none_or(|(generation, _)| generation < row.generation) {
                parents.insert(row.node, row.parent);
            }
        }
        let mut sound = BTreeSet::new();
        for node in parents.keys() {
            let (mut at, mut way) = (*node, BTreeSet::new());
            while at != ROOT_NODE && !sound.contains(&at) {
                if !way.insert(at) {
                    return Ok(false);
                }
                match parents.get(&at) {
                    Some(parent) => at = *parent,
                    None => match own(at)? {
                        Some((_, parent)) => at = parent,
                        None => break,
                    },
                }
            }
            sound.append(&mut way);
        }
        Ok(true)
    }

    /// Takes over newer ancestors from the other side's archive.
    pub fn learn(&mut self, rows: &[AncestorRow]) -> Result<(), ReplicaError> {
        let mut all: BTreeMap<NodeId, &AncestorRow> = rows.iter().map(|row| (row.node, row)).collect();
        rows.iter().try_for_each(|row| self.learn_node(row.node, &mut all))?;
        // Two rows of one action: of nodes that have changed places.
        let mut actions: BTreeMap<Generation, Vec<NodeId>> = BTreeMap::new();
        for row in rows.iter().filter(|row| row.entry.is_some()) {
            actions.entry(row.generation).or_default().push(row.node);
        }
        actions.into_values().filter(|nodes| nodes.len() > 1).flatten().try_for_each(|node| self.give(node))
    }

    /// Learns one node of those that are left; first the one that has its name here, if that has left it since, and so on: as
    /// many as the other side makes them, so they wait in a list.
    fn learn_node(&mut self, node: NodeId, left: &mut BTreeMap<NodeId, &AncestorRow>) -> Result<(), ReplicaError> {
        let mut waiting = Vec::new();
        let mut next = Some(node);
        while let Some(learned) = next.take().and_then(|node| left.remove(&node)) {
            let node = learned.node;
            let own = self.archive.node(node)?;
            if own.as_ref().is_some_and(|own| own.generation >= learned.generation) {
                break;
            }
            self.identity.generation = self.identity.generation.max(learned.generation);
            if let Some(old) = self.path_of(node)? {
                self.agenda.look(old);
            }
            let since = own.as_ref().map_or(Since::Always, |own| own.since);
            // Its users may have moved the object on: it is known by what it was. After a boot that may be another version.
            let kind = learned.entry.as_ref().map(Entry::kind);
            let same = own.as_ref().filter(|own| !self.aftermath.is_rebooted() && Some(own.entry.kind()) == kind);
            let signature = same.and_then(|own| own.signature).map(Signature::name_only);
            let achieved = same.zip(learned.entry.as_ref()).and_then(|(own, entry)| self.held_of(own, entry));
            // What a power failure left here is told by other rules.
            let former = own.as_ref().filter(|_| learned.joint && !self.aftermath.is_rebooted()).cloned();
            self.aftermath.learn(node, own.map(|own| own.entry));
            self.agenda.look(learned.path.clone());
            let (Some(entry), Some(name)) = (&learned.entry, learned.path.name()) else {
                self.bury(learned.generation, node)?;
                break;
            };
            let holder = self.archive.child_node(learned.parent, &name)?;
            next = holder.filter(|holder| *holder != node);
            if let Some(holder) = next.filter(|holder| waiting.iter().any(|row: &Row| row.node == *holder)) {
                // They have changed places.
                self.set_aside(holder)?;
            }
            let (parent, generation, entry) = (learned.parent, learned.generation, entry.clone());
            let row = Row { node, parent, name, generation, entry, achieved, signature, since };
            waiting.push(match former {
                Some(former) => half_learned(row, &former),
                None => row,
            });
        }
        waiting.iter_mut().rev().try_for_each(|row| self.put_row(row))
    }

    /// All rows and tombstones above a generation, as the other side is to learn them.
    pub fn rows_above(&self, generation: Generation) -> Result<Vec<AncestorRow>, ReplicaError> {
        let mut out = Vec::new();
        for row in self.archive.rows_above(generation)? {
            let above = if row.parent == ROOT_NODE { Some(RelPath::root()) } else { self.recorded(row.parent)? };
            let Some(path) = above.and_then(|above| above.join(&row.name).ok()) else { continue };
            let (node, parent, generation) = (row.node, row.parent, row.generation);
            let joint = self.archive.joint(node)? == Some(generation);
            out.push(AncestorRow { node, parent, path, generation, entry: Some(row.entry), joint });
        }
        for tombstone in self.archive.tombstones_above(generation)? {
            let above = self.recorded(tombstone.parent)?;
            let path = above.and_then(|above| above.join(&tombstone.name).ok()).unwrap_or_else(RelPath::root);
            let (node, parent, generation) = (tombstone.node, tombstone.parent, tombstone.generation);
            out.push(AncestorRow { node, parent, path, generation, entry: None, joint: false });
        }
        out.sort_by_key(|row| row.generation);
        Ok(out)
    }

    /// Where the archive has a node, reported moves left out.
    fn recorded(&self, node: NodeId) -> Result<Option<RelPath>, ReplicaError> {
        let mut names = Vec::new();
        let mut at = node;
        while at != ROOT_NODE {
            let Some(row) = self.archive.node(at)? else { return Ok(None) };
            names.push(row.name);
            at = row.parent;
            if names.len() > PATH_MAX {
                return Ok(None);
            }
        }
        Ok(RelPath::of_names(names.iter().rev()).ok())
    }
}

/// Whether an entry speaks of the contents that a row has: they may be known to be equal, or nobody has read them since.
fn is_kept(row: &Content, entry: &Content) -> bool {
    row == entry || row.compare(entry) == Sameness::Same
}

/// What is learned of an action of both sides whose part here may never have been done. Contents come to this side first, so it has
/// them; but its attributes are compared with those of its own `former` row, or what it was still to get would pass for
/// what its users took away. The generation stays the former one: the brain asks both sides, and merges.
fn half_learned(learned: Row, former: &Row) -> Row {
    if learned.entry.kind() != former.entry.kind() || learned.entry.attrs == former.entry.attrs {
        return learned;
    }
    // A file's time is that of its contents.
    let renewed = learned.entry.content.compare(&former.entry.content) == Sameness::Differs;
    let mtime = if renewed { learned.entry.attrs.mtime } else { former.entry.attrs.mtime };
    let at = |attrs: &Attrs| Attrs { mtime, ..attrs.clone() };
    let attrs = at(&former.entry.attrs);
    let achieved = former.achieved.as_ref().map(at).filter(|achieved| *achieved != attrs);
    let entry = Entry { content: learned.entry.content, attrs };
    Row { generation: former.generation, entry, achieved, ..learned }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Hash, Principal, Time};

    fn row(generation: Generation, text: &[u8], secs: i64, xattrs: &[&str]) -> Row {
        let owner = Principal::Id(0);
        let xattrs = xattrs.iter().map(|name| (name.as_bytes().into(), (*b"1").into())).collect();
        let attrs = Attrs { mode: 0o644, user: owner.clone(), group: owner, mtime: Time { secs, nanos: 0 }, xattrs };
        let entry = Entry { content: Content::File { size: text.len() as u64, hash: Some(Hash::of(text)) }, attrs };
        let name = crate::model::Name::new(b"f").expect("a name");
        let (achieved, signature, since) = (None, None, Since::Always);
        Row { node: 17, parent: ROOT_NODE, name, generation, entry, achieved, signature, since }
    }

    #[test]
    fn what_was_still_to_come_is_compared_with_the_former_row() {
        let former = row(20, b"old", 5, &["user.a"]);
        // One side set b, the other c: this one has not got the other's yet, whatever contents it has.
        let learned = row(21, b"old", 5, &["user.a", "user.b", "user.c"]);
        assert_eq!(half_learned(learned.clone(), &former), former);
        let written = row(21, b"new", 9, &["user.a", "user.b", "user.c"]);
        assert_eq!(half_learned(written.clone(), &former), Row { generation: 20, ..row(20, b"new", 9, &["user.a"]) });
        // What this side could not hold stays apart.
        let without = Attrs { mode: 0o600, ..former.entry.attrs.clone() };
        let former = Row { achieved: Some(without.clone()), ..former };
        assert_eq!(half_learned(learned, &former), former);
        let half = half_learned(written, &former);
        assert_eq!(half.achieved, Some(Attrs { mtime: Time { secs: 9, nanos: 0 }, ..without }));
        // Nothing was to come.
        let same = row(21, b"new", 5, &["user.a"]);
        assert_eq!(half_learned(same.clone(), &former), same);
    }
}
