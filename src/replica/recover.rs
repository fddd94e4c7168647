//! Recovery: what a crash left open is settled by the intents, before anything is examined.

use std::io;

use crate::model::rights::Rights;
use crate::model::{Attrs, Content, Entry, Kind, Name, RelPath, Sameness, Time, merge};

use super::Replica;
use super::archive::{Archive, Intent, IntentStep, Row, Signature, TrashItem};
use super::disk::{Disk, Lease, Leased, Own, Stat};
use super::error::{At, ReplicaError};
use super::late::Known;
use super::place::attrs::has_other_names;
use super::place::beside::CONFLICT;
use super::place::generation_of;
use super::read::READ_TO_COMPARE;
use super::trash::stamp_of;

impl<D: Disk, A: Archive> Replica<D, A> {
    /// Settles every intent, then clears the stage of what no intent speaks of.
    pub(crate) fn recover(&mut self) -> Result<(), ReplicaError> {
        let intents = self.archive.intents()?;
        self.find_unlisted_trash(&intents)?;
        for intent in &intents {
            let settled = match &intent.step {
                IntentStep::Place { entry, achieved, staged, victim, copy } => {
                    self.recover_place(intent, entry, achieved.clone(), *staged, *victim, copy.clone())
                }
                IntentStep::Move { from, object } => self.recover_move(intent, from, *object),
                IntentStep::Remove { object } => self.recover_remove(intent, *object),
                IntentStep::Attributes { entry, before, object } => {
                    match self.recover_attributes(intent, entry.clone(), before, *object) {
                        // They cannot be set any more: they are compared as they are.
                        Err(ReplicaError::Path { .. }) => Ok(()),
                        other => other,
                    }
                }
            };
            settled?;
            self.identity.generation = self.identity.generation.max(intent.generation);
        }
        self.clear_stage(&intents)?;
        for intent in &intents {
            self.archive.settle(intent.generation)?;
        }
        if !intents.is_empty() {
            self.notes.push(format!("recovery: {} interrupted actions settled", intents.len()));
        }
        if self.settings.durable {
            let trash = self.disk.own(Own::Trash).at(&RelPath::root(), "open the trash")?;
            self.disk.sync_dirs(&[&trash]).at(&RelPath::root(), "sync the trash")?;
        }
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

    fn recover_place(
        &mut self,
        intent: &Intent,
        entry: &Entry,
        achieved: Option<Attrs>,
        staged: (u64, Time),
        victim: Option<Signature>,
        copy: Option<Name>,
    ) -> Result<(), ReplicaError> {
        match self.staged(&intent.stage)? {
            // Never placed.
            Some(stat) if (stat.ino, stat.btime) == staged => {
                self.unstage(&intent.stage);
                return Ok(());
            }
            // Placed, and what it displaced is still here.
            Some(stat) => {
                let expected =
                    victim.is_some_and(|v| v.same_object(&stat) && (v.size, v.mtime) == (stat.size, stat.mtime));
                match (expected, copy) {
                    (true, None) => {
                        self.move_to_trash(&intent.stage, &intent.path, intent.generation, "replaced")?;
                    }
                    (_, copy) => {
                        let stage = self.disk.own(Own::Stage).at(&intent.path, "open the stage")?;
                        self.keep_beside((&stage, &intent.stage), &intent.path, copy, stat.mtime.secs, CONFLICT)?;
                    }
                }
            }
            None => {
                let there = self.object_at(&intent.path).is_some_and(|stat| (stat.ino, stat.btime) == staged);
                let kept = self.kept_in_trash(intent)?;
                // Neither in the stage nor under its name: users renamed or replaced it since it was placed, or a
                // power cut took the staged object with its name. Only what is there proves anything.
                if !there && !kept {
                    return Ok(());
                }
            }
        }
        let Some((above, name)) = intent.path.split() else { return Ok(()) };
        let Some(parent) = self.node_of(&above)? else { return Ok(()) };
        // The signature is left open: whoever changed the object since then is found by comparing its contents.
        self.put_row(&Row {
            node: intent.node,
            parent,
            name,
            generation: intent.generation,
            entry: entry.clone(),
            achieved,
            signature: None,
        })?;
        self.sync_parent(&intent.path)
    }

    fn kept_in_trash(&self, intent: &Intent) -> Result<bool, ReplicaError> {
        Ok(self.archive.trash()?.iter().any(|item| trash_generation(&item.id) == Some(intent.generation)))
    }

    fn recover_move(&mut self, intent: &Intent, from: &RelPath, object: (u64, Time)) -> Result<(), ReplicaError> {
        let is = |stat: Option<Stat>| stat.is_some_and(|stat| (stat.ino, stat.btime) == object);
        // A move onto a taken name goes through the stage: it may have ended there, or what it replaced is there.
        let stage = self.disk.own(Own::Stage).at(from, "open the stage")?;
        for (name, stat) in self.disk.list(&stage).at(from, "list the stage")? {
            if generation_of(&name).is_none_or(|(generation, _)| generation != intent.generation) {
                continue;
            }
            let Some((above, old)) = from.split().filter(|_| is(Some(stat))) else {
                self.move_to_trash(&name, &intent.path, intent.generation, "replaced")?;
                continue;
            };
            match self.disk.open_dir(&above) {
                Ok(dir) => self.put_back((&stage, &name), (&dir, &old), from, &stat)?,
                Err(_) => self.keep_beside((&stage, &name), from, None, stat.mtime.secs, "move")?,
            }
            self.sync_parent(from)?;
        }
        if !is(self.object_at(&intent.path)) || is(self.object_at(from)) {
            return Ok(());
        }
        let (Some((above, name)), Some(row)) = (intent.path.split(), self.archive.node(intent.node)?) else {
            return Ok(());
        };
        let Some(parent) = self.node_of(&above)? else { return Ok(()) };
        self.put_row(&Row { parent, name, generation: intent.generation, ..row })?;
        self.sync_parent(from)?;
        self.sync_parent(&intent.path)
    }

    fn recover_remove(&mut self, intent: &Intent, object: (u64, Time)) -> Result<(), ReplicaError> {
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
                self.move_to_trash(&name, &intent.path, intent.generation, "deleted")?;
            }
        }
        let there = self.object_at(&intent.path).is_some_and(|stat| (stat.ino, stat.btime) == object);
        if removed && !there {
            self.sync_parent(&intent.path)?;
            self.bury(intent.generation, intent.node)?;
        }
        Ok(())
    }

    /// Attributes are set one by one: what was begun is ended, or psync's own would pass for a user's. What a user set
    /// since then stays, and is found as his.
    fn recover_attributes(
        &mut self,
        intent: &Intent,
        mut entry: Entry,
        before: &Attrs,
        object: (u64, Time),
    ) -> Result<(), ReplicaError> {
        let (path, kind) = (&intent.path, entry.kind());
        let Some((above, name)) = path.split() else { return Ok(()) };
        let Some(parent) = self.node_of(&above)? else { return Ok(()) };
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
        let wanted = merge::merged(before, &live, &entry.attrs);
        if !self.may_end_with(path, &pin, &stat, &live, &entry, &wanted)? {
            return Ok(());
        }
        let not_set = self.disk.set_pinned_attrs(&pin, kind, &wanted).at(path, "set attributes")?;
        let stat = self.disk.stat_pin(&pin).at(path, "stat")?;
        let live = self.pinned_attrs(&pin, &stat, kind).at(path, "read extended attributes")?;
        let achieved = (live != entry.attrs && not_set.explains(&entry.attrs, &live)).then_some(live);
        self.sync_adopted(&dir, path, &name, kind)?;
        let (node, generation) = (intent.node, intent.generation);
        if let Some(row) = self.archive.node(node)?
            && entry.hash().is_none()
            && row.entry.content.compare(&entry.content) == Sameness::Unknown
        {
            entry.content = row.entry.content;
        }
        self.put_row(&Row { node, parent, name, generation, entry, achieved, signature: None })
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

    /// Objects that reached the trash before its list said so.
    fn find_unlisted_trash(&mut self, intents: &[Intent]) -> Result<(), ReplicaError> {
        let listed: std::collections::BTreeSet<Name> = self.archive.trash()?.into_iter().map(|item| item.id).collect();
        let trash = self.disk.own(Own::Trash).at(&RelPath::root(), "open the trash")?;
        for (id, stat) in self.disk.list(&trash).at(&RelPath::root(), "list the trash")? {
            if listed.contains(&id) {
                continue;
            }
            let generation = trash_generation(&id);
            // No action has the number 0.
            let by_check = generation == Some(0);
            let intent = intents.iter().find(|i| Some(i.generation) == generation);
            // As it was when it was displaced, where that is known: it may have been written since.
            let victim = match intent.map(|intent| &intent.step) {
                Some(IntentStep::Place { victim: Some(victim), .. }) if victim.same_object(&stat) => Some(victim),
                _ => None,
            };
            let stamp = victim.map(|victim| victim.mtime).or_else(|| stamp_of(&stat));
            self.archive.trash_add(&TrashItem {
                since: self.disk.wall_clock(),
                size: victim.map_or(stat.size, |victim| victim.size),
                path: intent.map_or_else(RelPath::root, |intent| intent.path.clone()),
                reason: if by_check { "copied by a check" } else { "found after a crash" }.to_owned(),
                look: !by_check && stamp.is_some(),
                stamp,
                id,
            })?;
        }
        Ok(())
    }

    fn clear_stage(&mut self, intents: &[Intent]) -> Result<(), ReplicaError> {
        let stage = self.disk.own(Own::Stage).at(&RelPath::root(), "open the stage")?;
        for (name, _) in self.disk.list(&stage).at(&RelPath::root(), "list the stage")? {
            let generation = generation_of(&name).map(|(generation, _)| generation);
            match intents.iter().find(|intent| Some(intent.generation) == generation) {
                Some(intent) => {
                    self.move_to_trash(&name, &intent.path, intent.generation, "found after a crash")?;
                }
                // What came of a large file helps the next time.
                None if super::partial::is_partial(&name) => {}
                None => self.unstage(&name),
            }
        }
        self.clear_partials(&[])
    }
}

/// The generation in a trash name, `SINCE-GENERATION-COUNTER` in hexadecimal.
pub(crate) fn trash_generation(id: &Name) -> Option<u64> {
    let text = std::str::from_utf8(id.as_bytes()).ok()?;
    u64::from_str_radix(text.split('-').nth(1)?, 16).ok()
}
