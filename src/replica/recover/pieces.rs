//! What goes in many calls and was interrupted: a tree that moved in pieces is carried on with, one that was removed in pieces is no
//! deletion of a user's.

use std::collections::BTreeMap;
use std::io;

use crate::model::{Content, Kind, Name, NodeId, RelPath, Time, Xattrs};

use super::super::Replica;
use super::super::archive::{Archive, Intent, IntentStep, Row, Signature};
use super::super::disk::{ASIDE, Disk, Own, Stat};
use super::super::error::{At, ReplicaError};
use super::super::spot::Spot;
use super::{New, Object, Victim};

/// Whether this is the object: a directory by its inode alone, since one of an overlay's lower layer gets another birth time
/// when something in it changes.
pub(super) fn is_same(stat: &Stat, object: Object) -> bool {
    stat.ino == object.0 && (stat.btime == object.1 || stat.kind == Some(Kind::Dir))
}

impl<D: Disk, A: Archive> Replica<D, A> {
    /// A tree that was moving in pieces goes over to its new name, all of it, wherever users have moved that meanwhile.
    pub(super) fn recover_pieces(
        &mut self,
        strays: &BTreeMap<Object, RelPath>,
        intent: &Intent,
        from: &RelPath,
        (object, made): (Object, Object),
    ) -> Result<(), ReplicaError> {
        // Still in the stage, which is cleared: nothing has moved.
        let to = match self.lies_here(&intent.path, made) {
            true => intent.path.clone(),
            false => match strays.get(&made) {
                Some(path) => path.clone(),
                None => return Ok(()),
            },
        };
        let (Some((above_old, old)), Some((above_new, new))) = (from.split(), to.split()) else { return Ok(()) };
        let into = self.disk.open_dir(&above_new).at(&above_new, "open the directory")?;
        if self.object_at(from).is_some_and(|stat| is_same(&stat, object) && !to.is_within(from)) {
            let out = self.disk.open_dir(&above_old).at(&above_old, "open the directory")?;
            let (was, goes) = (Spot::new(&out, &old, from), Spot::new(&into, &new, &to));
            match self.go_over(intent.generation, was, goes, Some(intent.node)) {
                // Some of it stays under the old name, and is found there as new.
                Err(ReplicaError::Path { error, .. }) => {
                    self.news.note(format!("{from}: not all of it could go to {to}: {error}"));
                }
                other => other?,
            }
            self.sync_parent(from)?;
        }
        let (Some((parent, name)), Some(row)) = (self.place_meant(intent)?, self.archive.node(intent.node)?) else {
            return Ok(());
        };
        let stat = self.disk.stat(&into, &new).at(&to, "stat")?;
        let signature = Some(Signature { ctime: Time::default(), ..Signature::of(&stat) });
        self.put_row(&mut Row { parent, name, generation: intent.generation, signature, ..row })?;
        self.sync_parent(&to)
    }

    /// A directory that was to be removed is there, with some of what was in it gone to the trash. That was psync's own doing: it
    /// leaves tombstones, as it would have had the whole gone. If the other side still wants the rest removed it says so again.
    pub(super) fn half_removed(&mut self, intent: &Intent, stat: &Stat) -> Result<(), ReplicaError> {
        if !self.kept_in_trash(intent)? {
            return Ok(());
        }
        let mut to_come = vec![(intent.node, intent.path.clone())];
        while let Some((node, path)) = to_come.pop() {
            let Ok(dir) = self.disk.open_dir(&path) else { continue };
            for row in self.archive.children(node)? {
                let Ok(below) = path.join(&row.name) else { continue };
                match self.disk.stat(&dir, &row.name) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => self.bury(intent.generation, row.node)?,
                    Ok(stat) if stat.kind == Some(Kind::Dir) && !stat.foreign && row.entry.kind() == Kind::Dir => {
                        self.name_anew(&row, &stat)?;
                        to_come.push((row.node, below));
                    }
                    _ => {}
                }
            }
        }
        match self.archive.node(intent.node)? {
            Some(row) => self.name_anew(&row, stat),
            None => Ok(()),
        }
    }

    /// A link that was being made anew under a project's quota, while the one in the stage was still there: what it replaces gets
    /// its name back, if that is free; else the new one is there, and gets what it lacks.
    pub(super) fn recover_link(&mut self, intent: &Intent, new: New, victim: Victim) -> Result<(), ReplicaError> {
        let New { entry, achieved, .. } = new;
        let Content::Link { target } = &entry.content else { return Ok(()) };
        let Ok(aside) = Name::new(&[intent.stage.as_bytes(), ASIDE].concat()) else { return Ok(()) };
        let Some((above, name)) = intent.path.split() else { return Ok(()) };
        let Ok(dir) = self.disk.open_dir(&above) else { return Ok(()) };
        let out = self.staged(&aside)?;
        let there = match self.disk.stat(&dir, &name) {
            Ok(stat) => stat,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let Some(out) = out else { return Ok(()) };
                let stage = self.disk.own(Own::Stage).at(&intent.path, "open the stage")?;
                self.put_back((&stage, &aside), Spot::new(&dir, &name, &intent.path), &out)?;
                return self.sync_parent(&intent.path);
            }
            Err(error) => return Err(error).at(&intent.path, "stat"),
        };
        let is_made = there.kind == Some(Kind::Link)
            && !victim.signature.is_some_and(|victim| victim.same_object(&there))
            && self.disk.read_link(&dir, &name).is_ok_and(|found| found == *target);
        let (true, Some((parent, row_name))) = (is_made, self.place_meant(intent)?) else { return Ok(()) };
        let pin = self.disk.pin(&dir, &name).at(&intent.path, "stat")?;
        let attrs = achieved.as_ref().unwrap_or(&entry.attrs);
        self.disk.set_pinned_attrs(&pin, Kind::Link, attrs, &Xattrs::new()).at(&intent.path, "set attributes")?;
        if let Some(out) = out {
            self.recover_displaced(intent, &aside, &out, victim)?;
        }
        let stat = self.disk.stat_pin(&pin).at(&intent.path, "stat")?;
        let signature = Some(Signature { ctime: Time::default(), ..Signature::of(&stat) });
        let (node, generation, entry, achieved) = (intent.node, intent.generation, entry.clone(), achieved.clone());
        let since = if node == generation { self.came() } else { self.since_of(node)? };
        self.put_row(&mut Row { node, parent, name: row_name, generation, entry, achieved, signature, since })?;
        self.sync_parent(&intent.path)
    }

    /// A directory's row names what lies there, if that is the same but for its birth time.
    fn name_anew(&mut self, row: &Row, stat: &Stat) -> Result<(), ReplicaError> {
        match row.signature.filter(|s| s.ino == stat.ino && s.btime != stat.btime) {
            Some(before) => {
                let signature = Some(Signature { btime: stat.btime, ctime: Time::default(), ..before });
                self.put_row(&mut Row { signature, ..row.clone() })
            }
            None => Ok(()),
        }
    }

    /// Where an object lay that an intent has taken away: of a tree that goes in pieces, the path of the piece.
    pub(super) fn piece_path(&self, intent: &Intent, stat: &Stat) -> Result<RelPath, ReplicaError> {
        let mut to_come: Vec<(NodeId, RelPath)> = match &intent.step {
            IntentStep::Remove { object } if !is_same(stat, *object) => vec![(intent.node, intent.path.clone())],
            _ => Vec::new(),
        };
        while let Some((node, path)) = to_come.pop() {
            for row in self.archive.children(node)? {
                let Ok(below) = path.join(&row.name) else { continue };
                if row.signature.is_some_and(|s| s.ino == stat.ino) {
                    return Ok(below);
                }
                if row.entry.kind() == Kind::Dir {
                    to_come.push((row.node, below));
                }
            }
        }
        Ok(intent.path.clone())
    }
}
