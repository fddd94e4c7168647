//! Recovery: what a crash left open is settled by the intents, before anything is examined.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;

use crate::model::rights::Rights;
use crate::model::{Attrs, Content, Entry, Generation, Kind, Name, NodeId, ROOT_NODE, RelPath, Sameness, Time, merge};

use super::Replica;
use super::archive::{Archive, Intent, IntentStep, Row, Signature, TrashItem};
use super::disk::{Disk, Lease, Leased, Own, Stat};
use super::error::{At, ReplicaError};
use super::late::Known;
use super::place::attrs::has_other_names;
use super::place::generation_of;
use super::read::READ_TO_COMPARE;
use super::trash::stamp_of;

mod exchange;
mod pieces;

use pieces::is_same;

/// Entries that are looked at to find objects that users have moved. Where there are more, those objects are met as new ones.
const SEARCHED: usize = 200_000;

/// An object, by inode and birth time.
type Object = (u64, Time);

/// What is known when recovery begins.
struct Scene {
    /// The machine is the one that wrote the intents, and was not booted since: nothing can have been lost but by somebody's
    /// doing. Without this an object that is nowhere may have gone with the power.
    same_boot: bool,
    /// Where objects lie that are no longer where their intents say.
    strays: BTreeMap<Object, RelPath>,
    /// The actions whose objects users saw for a moment, before they lost the name again: they lie in the trash.
    taken_back: BTreeSet<Generation>,
    /// Objects of the stage that were not placed: thrown away once nothing is open any more.
    unplaced: Vec<Name>,
}

impl<D: Disk, A: Archive> Replica<D, A> {
    /// Settles every intent, then clears the stage of what no intent speaks of.
    pub(crate) fn recover(&mut self) -> Result<(), ReplicaError> {
        let intents = self.archive.intents()?;
        let taken_back = self.find_unlisted_trash(&intents)?;
        let same_boot = self.identity.boot == self.disk.boot_id();
        let strays = self.find_strays(&intents, same_boot)?;
        let mut scene = Scene { same_boot, strays, taken_back, unplaced: Vec::new() };
        for intent in &intents {
            let settled = match &intent.step {
                IntentStep::Place { entry, achieved, staged, victim, copy } => {
                    self.recover_place(&mut scene, intent, entry, achieved.clone(), *staged, *victim, copy.clone())
                }
                IntentStep::Move { from, object } => self.recover_move(&scene, intent, from, *object, None),
                IntentStep::ClosedMove { from, object, mode } => {
                    let recovered = self.recover_move(&scene, intent, from, *object, Some(*mode));
                    recovered.and_then(|()| self.reopen_after_crash(from, *object, intent.node, *mode))
                }
                IntentStep::Exchange { .. } => self.recover_exchange(scene.same_boot, intent),
                IntentStep::Remove { object } => self.recover_remove(intent, *object),
                // What it is about is among what is left in the stage.
                IntentStep::Stranded => Ok(()),
                IntentStep::Pieces { from, object, made } => {
                    match self.recover_pieces(&scene.strays, intent, from, *object, *made) {
                        // What cannot go on stays where it lies, whole, and is found there.
                        Err(ReplicaError::Path { .. }) => Ok(()),
                        other => other,
                    }
                }
                IntentStep::Attributes { entry, before, object } => {
                    let at = scene.strays.get(object).unwrap_or(&intent.path).clone();
                    match self.recover_attributes(intent, &at, entry.clone(), before, *object) {
                        // They cannot be set any more: they are compared as they are.
                        Err(ReplicaError::Path { .. }) => Ok(()),
                        other => other,
                    }
                }
            };
            settled?;
            self.identity.generation = self.identity.generation.max(intent.generation);
        }
        let held = self.clear_stage(&intents, &scene.unplaced)?;
        self.give_times_back()?;
        for intent in intents.iter().filter(|intent| !held.contains(&intent.generation)) {
            self.archive.settle(intent.generation)?;
        }
        if !intents.is_empty() {
            self.notes.push(format!("recovery: {} interrupted actions settled", intents.len()));
        }
        if self.settings.durable {
            let trash = self.disk.own(Own::Trash).at(&RelPath::root(), "open the trash")?;
            self.disk.sync_dirs(&[&trash]).at(&RelPath::root(), "sync the trash")?;
        }
        // Not before the intents are settled: another recovery would take what is gone from the stage for placed.
        self.placed.unplaced.append(&mut scene.unplaced);
        self.commit()
    }

    fn staged(&self, name: &Name) -> Result<Option<Stat>, ReplicaError> {
        let stage = self.disk.own(Own::Stage).at(&RelPath::root(), "open the stage")?;
        match self.disk.stat(&stage, name) {
            Ok(stat) => Ok(Some(stat)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).at(&RelPath::root(), "stat in the stage"),
        }
    }

    pub(crate) fn object_at(&self, path: &RelPath) -> Option<Stat> {
        let (above, name) = path.split()?;
        self.disk.open_dir(&above).and_then(|dir| self.disk.stat(&dir, &name)).ok()
    }

    fn lies_here(&self, path: &RelPath, object: Object) -> bool {
        self.object_at(path).is_some_and(|stat| (stat.ino, stat.btime) == object)
    }

    /// Looks for objects that users have moved since psync touched them, where only the object itself tells what it is: its
    /// attributes were being set, or the machine was booted since it was placed.
    fn find_strays(&self, intents: &[Intent], same_boot: bool) -> Result<BTreeMap<Object, RelPath>, ReplicaError> {
        let mut sought = BTreeSet::new();
        for intent in intents {
            let object = match &intent.step {
                IntentStep::Place { staged, .. } if !same_boot && self.staged(&intent.stage)?.is_none() => *staged,
                IntentStep::Attributes { object, .. } => *object,
                IntentStep::Pieces { made, .. } if self.staged(&intent.stage)?.is_none() => *made,
                _ => continue,
            };
            if !self.lies_here(&intent.path, object) {
                sought.insert(object);
            }
        }
        let mut found = BTreeMap::new();
        let mut dirs = VecDeque::from([RelPath::root()]);
        let mut left = SEARCHED;
        while found.len() < sought.len()
            && let Some(at) = dirs.pop_front()
        {
            // What cannot be read holds nothing that could be found.
            let entries = self.disk.open_dir(&at).and_then(|dir| self.disk.list(&dir)).unwrap_or_default();
            if entries.len() > left {
                break;
            }
            left -= entries.len();
            for (name, stat) in entries {
                let Ok(path) = at.join(&name) else { continue };
                let object = (stat.ino, stat.btime);
                if sought.contains(&object) && !self.filter.excluded(&path) && !self.filter.temporary(&path) {
                    found.insert(object, path.clone());
                }
                if stat.kind == Some(Kind::Dir) && !stat.foreign {
                    dirs.push_back(path);
                }
            }
        }
        Ok(found)
    }

    #[allow(clippy::too_many_arguments)]
    fn recover_place(
        &mut self,
        scene: &mut Scene,
        intent: &Intent,
        entry: &Entry,
        achieved: Option<Attrs>,
        staged: Object,
        victim: Option<Signature>,
        copy: Option<Name>,
    ) -> Result<(), ReplicaError> {
        match self.staged(&intent.stage)? {
            // Never placed, or taken back.
            Some(stat) if (stat.ino, stat.btime) == staged => {
                scene.unplaced.push(intent.stage.clone());
                return self.recover_link(intent, entry, achieved, victim, copy);
            }
            // What was to be displaced lies where it was: the exchange was taken back, but a user had come in between.
            Some(stat) if victim.is_some_and(|victim| self.lies_here(&intent.path, (victim.ino, victim.btime))) => {
                let stage = self.disk.own(Own::Stage).at(&intent.path, "open the stage")?;
                let object = (&stage, &intent.stage);
                return self.keep_beside(object, &intent.path, None, stat.mtime.secs, "replaced").map(drop);
            }
            // Placed, and what it displaced is still here.
            Some(stat) => self.recover_displaced(intent, &intent.stage, &stat, victim, copy)?,
            None if scene.taken_back.contains(&intent.generation) => return Ok(()),
            None => {
                // Nothing else but placing takes an object out of the stage while its intent is open. So it was placed, and users
                // have deleted, renamed or replaced it since; unless the power failed, which may have taken it.
                let placed = scene.same_boot
                    || scene.strays.contains_key(&staged)
                    || self.lies_here(&intent.path, staged)
                    || self.kept_in_trash(intent)?;
                if !placed {
                    return Ok(());
                }
            }
        }
        let Some((parent, name)) = self.place_meant(intent)? else { return Ok(()) };
        let signature = Some(placed_as(staged, entry, achieved.as_ref()));
        let (node, generation, entry) = (intent.node, intent.generation, entry.clone());
        let since = if node == generation { self.came() } else { self.since_of(node)? };
        self.put_row(&mut Row { node, parent, name, generation, entry, achieved, signature, since })?;
        if let Some(stat) = self.object_at(&intent.path).filter(|stat| (stat.ino, stat.btime) == staged) {
            // What was done in it since shows in its time.
            let untouched = stat.mtime.secs.saturating_sub(stat.btime.secs) <= 1;
            self.made_dir(node, node == generation && untouched, &intent.path, &stat)?;
        }
        self.sync_parent(&intent.path)
    }

    /// Keeps what was displaced, and lies in the stage under this name: the expected victim in the trash, anything else as a copy.
    fn recover_displaced(
        &mut self,
        intent: &Intent,
        staged: &Name,
        stat: &Stat,
        victim: Option<Signature>,
        copy: Option<Name>,
    ) -> Result<(), ReplicaError> {
        let expected = victim.is_some_and(|v| v.same_object(stat) && (v.size, v.mtime) == (stat.size, stat.mtime));
        if expected && copy.is_none() {
            return self.move_to_trash(staged, &intent.path, intent.generation, "replaced").map(drop);
        }
        self.keep_loser(staged, &intent.path, copy, intent.generation).map(drop)
    }

    /// The directory and the name that an intent is about, if the archive still has that directory.
    fn place_meant(&self, intent: &Intent) -> Result<Option<(NodeId, Name)>, ReplicaError> {
        let Some((above, name)) = intent.path.split() else { return Ok(None) };
        let meant = match intent.parent {
            Some(parent) if parent == ROOT_NODE || self.archive.node(parent)?.is_some() => Some(parent),
            Some(_) => None,
            None => self.node_of(&above)?,
        };
        Ok(meant.map(|parent| (parent, name)))
    }

    fn kept_in_trash(&self, intent: &Intent) -> Result<bool, ReplicaError> {
        Ok(self.archive.trash()?.iter().any(|item| trash_generation(&item.id) == Some(intent.generation)))
    }

    fn recover_move(
        &mut self,
        scene: &Scene,
        intent: &Intent,
        from: &RelPath,
        object: Object,
        mode: Option<u32>,
    ) -> Result<(), ReplicaError> {
        // A move onto a taken name goes through the stage: it may have ended there, or what it replaced is there.
        let stage = self.disk.own(Own::Stage).at(from, "open the stage")?;
        let mut replaced = self.kept_in_trash(intent)?;
        for (name, stat) in self.disk.list(&stage).at(from, "list the stage")? {
            if generation_of(&name).is_none_or(|(generation, _)| generation != intent.generation) {
                continue;
            }
            if stat.kind == Some(Kind::Dir) && (stat.ino, stat.btime) != object {
                // Made for a move in pieces that had not begun: no move takes a directory of users' out of its way.
                self.unstage(&name);
                continue;
            }
            let Some((above, old)) = from.split().filter(|_| (stat.ino, stat.btime) == object) else {
                self.move_to_trash(&name, &intent.path, intent.generation, "replaced")?;
                replaced = true;
                continue;
            };
            match self.disk.open_dir(&above) {
                Ok(dir) => self.put_back((&stage, &name), (&dir, &old), from, &stat)?,
                Err(_) => drop(self.keep_beside((&stage, &name), from, None, stat.mtime.secs, "move")?),
            }
            self.sync_parent(from)?;
        }
        // Under neither name, with nothing in place of the old one: users deleted it or moved it on. If they did so before
        // psync moved it, this makes no more of that than a deletion or a move of what the other side has moved.
        let gone = scene.same_boot && self.object_at(from).is_none() && !self.lies_here(&intent.path, object);
        let moved = self.lies_here(&intent.path, object) && !self.lies_here(from, object);
        if !(moved || gone || replaced) || self.lies_here(from, object) {
            return Ok(());
        }
        let (Some((parent, name)), Some(mut row)) = (self.place_meant(intent)?, self.archive.node(intent.node)?) else {
            return Ok(());
        };
        if let Some(mode) = mode {
            let mut entry = row.entry.clone();
            entry.attrs.mode = mode;
            row.achieved = self.left_after_crash(&intent.path, &row, &entry);
            row.entry = entry;
        }
        self.put_row(&mut Row { parent, name, generation: intent.generation, ..row })?;
        self.sync_parent(from)?;
        self.sync_parent(&intent.path)
    }

    fn recover_remove(&mut self, intent: &Intent, object: Object) -> Result<(), ReplicaError> {
        let stage = self.disk.own(Own::Stage).at(&intent.path, "open the stage")?;
        let mut removed = self.kept_in_trash(intent)?;
        for (name, stat) in self.disk.list(&stage).at(&intent.path, "list the stage")? {
            if generation_of(&name).is_some_and(|(generation, _)| generation == intent.generation) {
                let whole = (stat.ino, stat.btime) == object;
                if whole && stat.kind == Some(Kind::Dir) {
                    // The walk after the rename may not have been: what no row knows is given back.
                    self.look_through(&stage, &name, stat, &intent.path, Known::Rows(Some(intent.node)))?;
                }
                removed |= whole;
                let path = self.piece_path(intent, &stat)?;
                self.move_to_trash(&name, &path, intent.generation, "deleted")?;
            }
        }
        let there = self.object_at(&intent.path).filter(|stat| is_same(stat, object));
        match there.filter(|stat| stat.kind == Some(Kind::Dir)) {
            Some(stat) => self.half_removed(intent, &stat),
            None if removed && there.is_none() => {
                self.sync_parent(&intent.path)?;
                self.bury(intent.generation, intent.node)
            }
            None => Ok(()),
        }
    }

    /// Attributes are set one by one: what was begun is ended, or psync's own would pass for a user's. What a user set
    /// since then stays, and is found as his. The object may lie under another name by now; the row stays where it is, and
    /// that is found as a move.
    fn recover_attributes(
        &mut self,
        intent: &Intent,
        path: &RelPath,
        mut entry: Entry,
        before: &Attrs,
        object: Object,
    ) -> Result<(), ReplicaError> {
        let kind = entry.kind();
        let Some((above, name)) = path.split() else { return Ok(()) };
        let row = self.archive.node(intent.node)?;
        let place = match &row {
            Some(row) if *path != intent.path => Some((row.parent, row.name.clone())),
            _ => self.place_meant(intent)?,
        };
        let Some((parent, row_name)) = place else { return Ok(()) };
        let dir = self.disk.open_dir(&above).at(&above, "open the directory")?;
        let (pin, stat) = self.pin_stat(&dir, &name).at(path, "stat")?;
        // A file that got another name meanwhile is compared as it is.
        if (stat.ino, stat.btime) != object || stat.kind != Some(kind) || has_other_names(&stat) {
            return Ok(());
        }
        let live = self.pinned_attrs(&pin, &stat, kind).at(path, "read extended attributes")?;
        if live == *before {
            return Ok(());
        }
        let wanted = merge::carried(&live, before, &entry.attrs);
        if !self.may_end_with(path, &pin, &stat, &live, &entry, &wanted)? {
            return Ok(());
        }
        let not_set = self.disk.set_pinned_attrs(&pin, kind, &wanted, &live.xattrs).at(path, "set attributes")?;
        let stat = self.disk.stat_pin(&pin).at(path, "stat")?;
        let live = self.pinned_attrs(&pin, &stat, kind).at(path, "read extended attributes")?;
        let achieved = (live != entry.attrs && not_set.explains(&entry.attrs, &live)).then_some(live);
        self.sync_adopted(&dir, path, &name, kind)?;
        let (node, generation) = (intent.node, intent.generation);
        // Where the object lies elsewhere its row must name it, or it would be met as a new one there.
        let signature = (*path != intent.path).then(|| Signature { ctime: Time::default(), ..Signature::of(&stat) });
        if let Some(row) = row
            && entry.hash().is_none()
            && row.entry.content.compare(&entry.content) == Sameness::Unknown
        {
            entry.content = row.entry.content;
        }
        let since = self.since_of(node)?;
        self.put_row(&mut Row { node, parent, name: row_name, generation, entry, achieved, signature, since })
    }

    /// Whether a file still has the contents that these attributes were meant for. Whoever could write it while psync was away
    /// must not get for his own what was granted to others; what grants nothing needs no proof.
    fn may_end_with(
        &self,
        path: &RelPath,
        pin: &D::Pin,
        stat: &Stat,
        live: &Attrs,
        entry: &Entry,
        wanted: &Attrs,
    ) -> Result<bool, ReplicaError> {
        let is_system = |group, principal: &_| self.disk.is_system(group, principal);
        let grants = (&live.user, &live.group) != (&wanted.user, &wanted.group)
            || Rights::granted(entry.kind(), wanted, live, is_system).any();
        let Content::File { size, hash } = &entry.content else { return Ok(true) };
        if !grants {
            return Ok(true);
        }
        let Some(hash) = hash.filter(|_| *size == stat.size && stat.size <= READ_TO_COMPARE) else { return Ok(false) };
        let file = self.disk.open_pinned(pin).at(path, "open")?;
        // Nobody writes it from here until it is closed.
        if self.disk.lease(&file, Lease::Read).at(path, "lease")? == Leased::Refused {
            return Ok(false);
        }
        let read = self.read_whole(&file, path, stat.size, false)?;
        self.disk.release(&file);
        Ok(read.is_some_and(|(found, _)| found == hash))
    }

    fn sync_parent(&self, path: &RelPath) -> Result<(), ReplicaError> {
        let Some(above) = path.parent().filter(|_| self.settings.durable) else { return Ok(()) };
        match self.disk.open_dir(&above) {
            Ok(dir) => self.disk.sync_dirs(&[&dir]).at(&above, "sync the directory"),
            Err(_) => Ok(()),
        }
    }

    /// Objects that reached the trash before its list said so. The answer is the actions of those that had a name for a moment:
    /// they are not what makes way for such an action, but what was to be placed.
    fn find_unlisted_trash(&mut self, intents: &[Intent]) -> Result<BTreeSet<Generation>, ReplicaError> {
        let mut taken_back = BTreeSet::new();
        let listed: std::collections::BTreeSet<Name> = self.archive.trash()?.into_iter().map(|item| item.id).collect();
        let trash = self.disk.own(Own::Trash).at(&RelPath::root(), "open the trash")?;
        for (id, stat) in self.disk.list(&trash).at(&RelPath::root(), "list the trash")? {
            let generation = trash_generation(&id);
            let intent = intents.iter().find(|i| Some(i.generation) == generation);
            if let Some(Intent { generation, step: IntentStep::Place { staged, .. }, .. }) = intent
                && *staged == (stat.ino, stat.btime)
            {
                taken_back.insert(*generation);
            }
            if listed.contains(&id) {
                continue;
            }
            // No action has the number 0.
            let by_check = generation == Some(0);
            // As it was when it was displaced, where that is known: it may have been written since.
            let victim = match intent.map(|intent| &intent.step) {
                Some(IntentStep::Place { victim: Some(victim), .. }) if victim.same_object(&stat) => Some(victim),
                _ => None,
            };
            let stamp = victim.map(|victim| victim.mtime).or_else(|| stamp_of(&stat));
            self.archive.trash_add(&TrashItem {
                since: self.disk.wall_clock(),
                size: victim.map_or(stat.size, |victim| victim.size),
                path: intent.map_or_else(|| Ok(RelPath::root()), |intent| self.piece_path(intent, &stat))?,
                reason: if by_check { "copied by a check" } else { "found after a crash" }.to_owned(),
                look: !by_check && stamp.is_some(),
                stamp,
                id,
            })?;
        }
        Ok(taken_back)
    }

    /// Empties the stage. The answer is the intents that stay open: what they guard could not go to the trash this time either.
    fn clear_stage(&mut self, intents: &[Intent], unplaced: &[Name]) -> Result<BTreeSet<Generation>, ReplicaError> {
        let mut held = BTreeSet::new();
        let stage = self.disk.own(Own::Stage).at(&RelPath::root(), "open the stage")?;
        for (name, _) in self.disk.list(&stage).at(&RelPath::root(), "list the stage")? {
            if unplaced.contains(&name) {
                continue;
            }
            let generation = generation_of(&name).map(|(generation, _)| generation);
            match intents.iter().find(|intent| Some(intent.generation) == generation) {
                // Directories made for such a move, which had no name yet.
                Some(Intent { step: IntentStep::Pieces { .. }, .. }) => self.unstage(&name),
                Some(intent @ Intent { step: IntentStep::Stranded, .. }) => {
                    match self.move_to_trash(&name, &intent.path, intent.generation, "found after a crash") {
                        Err(ReplicaError::Path { .. }) => _ = held.insert(intent.generation),
                        moved => _ = moved?,
                    }
                }
                Some(intent) => {
                    self.move_to_trash(&name, &intent.path, intent.generation, "found after a crash")?;
                }
                // What came of a large file helps the next time.
                None if super::partial::is_partial(&name) => {}
                None => self.unstage(&name),
            }
        }
        self.clear_partials(&[])?;
        Ok(held)
    }
}

/// The signature of an object as psync made it: it names the object, so that it is known under whatever name it has by now,
/// and proves nothing of it, so that whoever changed it since then is found by comparing its contents.
fn placed_as(object: Object, entry: &Entry, achieved: Option<&Attrs>) -> Signature {
    let attrs = achieved.unwrap_or(&entry.attrs);
    Signature {
        ino: object.0,
        btime: object.1,
        size: entry.size(),
        mtime: attrs.mtime,
        ctime: Time::default(),
        mode: attrs.mode,
        uid: 0,
        gid: 0,
    }
}

/// The generation in a trash name, `SINCE-GENERATION-COUNTER` in hexadecimal.
pub(crate) fn trash_generation(id: &Name) -> Option<u64> {
    let text = std::str::from_utf8(id.as_bytes()).ok()?;
    u64::from_str_radix(text.split('-').nth(1)?, 16).ok()
}
