//! Contents that came whole and could not get their place: the name is taken, somebody writes there, the directory lets
//! nothing in. They stay in the stage for a while, so that the next try costs neither the line nor the disk anything.
//!
//! Only what nobody but psync ever had under a name is kept: what has its hash when it is put away has it when it is taken.

use std::collections::VecDeque;

use crate::model::{Content, Entry, Generation, Hash, Name, RelPath, Time};
use crate::protocol::Data;

use super::Replica;
use super::archive::Archive;
use super::disk::{Disk, Own};
use super::partial;

/// Files that are kept at a time.
const MOST: usize = 8;
/// Seconds that one is kept without being asked for. Tries are at most five minutes apart.
const LONGEST: i64 = 900;

/// What is kept.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    files: VecDeque<Whole>,
    /// The object that is being placed was under a user's name for a moment; its time of change before that.
    shown: Option<Time>,
}

/// A file of the stage that has all its contents.
#[derive(Debug)]
struct Whole {
    path: RelPath,
    name: Name,
    /// Inode and birth time.
    object: (u64, Time),
    mtime: Time,
    size: u64,
    hash: Hash,
    since: i64,
}

impl Kept {
    /// Another object is about to be placed.
    pub fn begin(&mut self) {
        self.shown = None;
    }

    /// It gets a user's name: from now on somebody may have it open.
    pub fn show(&mut self, mtime: Time) {
        self.shown = Some(mtime);
    }

    /// The time of change that the object had before users saw it; `None`: they never did.
    pub fn shown(&self) -> Option<Time> {
        self.shown
    }
}

impl<D: Disk, A: Archive> Replica<D, A> {
    /// Keeps a staged file with these contents that could not be placed; false: it is not worth it, or cannot be trusted.
    pub(crate) fn keep_whole(
        &mut self,
        path: &RelPath,
        name: &Name,
        object: (u64, Time),
        contents: Option<(u64, Hash)>,
    ) -> bool {
        let Some((size, hash)) = contents.filter(|(size, _)| *size > Data::WHOLE_MAX) else { return false };
        if self.stage.kept.shown.is_some() || self.disk.is_short() {
            return false;
        }
        let stat = self.disk.own(Own::Stage).and_then(|stage| self.disk.stat(&stage, name));
        let Ok(stat) = stat.map_err(drop) else { return false };
        if (stat.ino, stat.btime, stat.size) != (object.0, object.1, size) {
            return false;
        }
        self.drop_kept(|whole, _| whole.path == *path);
        if self.stage.kept.files.len() >= MOST
            && let Some(oldest) = self.stage.kept.files.pop_front()
        {
            self.put_down(&oldest.name);
        }
        let (since, path, name) = (self.disk.wall_clock(), path.clone(), name.clone());
        self.stage.kept.files.push_back(Whole { path, name, object, mtime: stat.mtime, size, hash, since });
        true
    }

    /// The same for one that could not get its attributes: an owner whose quota is used up.
    pub(crate) fn keep_undressed(
        &mut self,
        path: &RelPath,
        name: &Name,
        file: Option<&D::File>,
        hash: Option<Hash>,
    ) -> bool {
        let Some((file, hash)) = file.zip(hash) else { return false };
        let Ok(stat) = self.disk.stat_file(file) else { return false };
        self.stage.kept.begin();
        self.keep_whole(path, name, (stat.ino, stat.btime), Some((stat.size, hash)))
    }

    /// The file that was kept for this path, if it has the entry's contents, under a name for this action.
    pub(crate) fn take_kept(
        &mut self,
        generation: Generation,
        path: &RelPath,
        entry: &Entry,
    ) -> Option<(Name, D::File, Hash)> {
        let at = self.stage.kept.files.iter().position(|whole| whole.path == *path)?;
        let whole = self.stage.kept.files.remove(at)?;
        let Content::File { size, hash: Some(hash) } = entry.content else {
            self.put_down(&whole.name);
            return None;
        };
        let taken = ((size, hash) == (whole.size, whole.hash)).then(|| self.open_kept(generation, &whole)).flatten();
        if taken.is_none() {
            self.put_down(&whole.name);
        }
        taken.map(|(name, file)| (name, file, hash))
    }

    fn open_kept(&mut self, generation: Generation, whole: &Whole) -> Option<(Name, D::File)> {
        let stage = self.disk.own(Own::Stage).ok()?;
        let stat = self.disk.stat(&stage, &whole.name).ok()?;
        if (stat.ino, stat.btime, stat.size, stat.mtime) != (whole.object.0, whole.object.1, whole.size, whole.mtime) {
            return None;
        }
        let file = self.disk.open_file(&stage, &whole.name).ok()?;
        let mut name = self.stage_name(generation).ok()?;
        if partial::is_partial(&whole.name) {
            name = partial::name(&name, &whole.path).ok()?;
        }
        self.disk.rename((&stage, &whole.name), (&stage, &name)).ok()?;
        Some((name, file))
    }

    /// The path has come to something else: what was kept for it is of no use.
    pub(crate) fn forget_kept(&mut self, path: &RelPath) {
        if !self.stage.kept.files.is_empty() {
            self.drop_kept(|whole, _| whole.path == *path);
        }
    }

    /// Throws away what was not asked for any more.
    pub(crate) fn drop_old_kept(&mut self) {
        self.drop_kept(|whole, now| now.saturating_sub(whole.since) > LONGEST);
    }

    /// Throws away all that is kept for later tries: room is needed.
    pub(crate) fn drop_all_kept(&mut self) {
        self.drop_kept(|_, _| true);
    }

    fn drop_kept(&mut self, which: impl Fn(&Whole, i64) -> bool) {
        let now = self.disk.wall_clock();
        let (gone, kept) = std::mem::take(&mut self.stage.kept.files).into_iter().partition(|whole| which(whole, now));
        self.stage.kept.files = kept;
        let gone: VecDeque<Whole> = gone;
        for whole in gone {
            self.unstage(&whole.name);
        }
    }

    /// What may still be a basis of other contents for its path stays as that.
    fn put_down(&mut self, name: &Name) {
        if !partial::is_partial(name) {
            self.unstage(name);
        }
    }
}
