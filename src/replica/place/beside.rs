//! Conflict copies: a version that lost its name is kept beside it.

use std::io;

use crate::model::{Attrs, Generation, Kind, Name, RelPath, conflict, rights};
use crate::protocol::Kept;

use super::super::Replica;
use super::super::archive::Archive;
use super::super::disk::{Disk, Own, Stat};
use super::super::error::{At, ReplicaError};
use super::super::spot::Spot;
use super::generation_of;

/// A version that is to be kept beside another that has its name.
pub(crate) struct Version<'a> {
    /// Why, in a word.
    pub reason: &'a str,
    /// When it was changed last, in seconds since 1970: its name says so.
    pub time: i64,
    /// The name that it is to have; `None`: one is made.
    pub copy: Option<Name>,
    /// When it left its directory, in seconds since 1970; `None`: just now.
    pub since: Option<i64>,
}

impl<'a> Version<'a> {
    /// A version that is as this stat says, and left its directory just now.
    pub fn of(stat: &Stat, reason: &'a str) -> Version<'a> {
        Version { reason, time: stat.mtime.secs, copy: None, since: None }
    }
}

impl<D: Disk, A: Archive> Replica<D, A> {
    /// Gives an object a name beside `path` where users see it. If the directory is gone, it is made again with its rights;
    /// if that cannot be, the copy goes into the next one above, for its owner alone. The answer is what it is called there.
    pub(crate) fn keep_beside(
        &mut self,
        object: (&D::Dir, &Name),
        path: &RelPath,
        version: Version,
    ) -> Result<Kept, ReplicaError> {
        let Version { reason, time, copy, since } = version;
        let Some((above, name)) = path.split() else { return Ok(Kept::Untold) };
        let stripped = if reason == CONFLICT { self.strip(object, path)? } else { None };
        let object = stripped.as_ref().map_or(object, |(dir, name)| (dir, name));
        let side = self.settings.side.word();
        let wanted = copy.unwrap_or_else(|| conflict::copy_name(&name, side, time, None));
        let home = self.home(&above, since, object)?;
        let narrowed = if home.wider { self.narrow(object, path)? } else { None };
        let object = narrowed.as_ref().map_or(object, |(dir, name)| (dir, name));
        for attempt in 0..1000_u32 {
            let candidate = if attempt == 0 { wanted.clone() } else { conflict::next_name(&wanted, path, attempt) };
            match self.keeping(&[&home.dir], || self.disk.rename(object, (&home.dir, &candidate))) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                other => other.at(path, "keep a version")?,
            }
            if self.settings.durable {
                self.disk.sync_dirs(&[&home.dir]).at(path, "sync the directory")?;
            }
            let Ok(kept) = home.path.join(&candidate) else { return Ok(Kept::Untold) };
            self.news.note(format!("{reason}: {path}: the other version is kept as {kept}"));
            self.agenda.look_and_scan(&kept);
            return Ok(Kept::Beside(kept));
        }
        Err(io::Error::other("a thousand conflict copies of one second")).at(path, "keep a version")
    }
}

/// A displaced file with other names whose rights are to go is copied up to this size: all at once, since what gives it a
/// name back cannot wait.
const COPIED_MAX: u64 = 16 * 1024 * 1024;

/// Why a version is kept beside another that has its name.
pub(crate) const CONFLICT: &str = "conflict";

impl<D: Disk, A: Archive> Replica<D, A> {
    /// Keeps the loser of a conflict, which lies in the stage: beside the winner. One that would have to be copied for that,
    /// and is large, goes to the trash: its contents are under its other names too. The answer is where it is, and its name in
    /// the trash, if it is there.
    pub(crate) fn keep_loser(
        &mut self,
        stage_name: &Name,
        path: &RelPath,
        copy: Option<Name>,
        generation: Generation,
    ) -> Result<(Kept, Option<Name>), ReplicaError> {
        let stage = self.disk.own(Own::Stage).at(path, "open the stage")?;
        let stat = self.disk.stat(&stage, stage_name).at(path, "stat the displaced object")?;
        if stat.kind == Some(Kind::File) && stat.nlink > 1 && stat.size > COPIED_MAX {
            let live = self.live(Spot::new(&stage, stage_name, path), stat, Kind::File)?.attrs;
            if rights::bare(Kind::File, &live).1.any() {
                self.news.note(format!(
                    "{CONFLICT}: {path}: the other version has setuid, setgid or capabilities, other names, and is large: it is \
                     kept in the trash"
                ));
                let id = self.move_to_trash(stage_name, path, generation, CONFLICT)?;
                return Ok((Kept::Trash, Some(id)));
            }
        }
        let version = Version { copy, ..Version::of(&stat, CONFLICT) };
        self.keep_beside((&stage, stage_name), path, version).map(|kept| (kept, None))
    }

    /// Takes setuid, setgid and capabilities from a displaced file before users see it under another name. The answer is
    /// that of [`Replica::redress`].
    fn strip(&mut self, object: (&D::Dir, &Name), path: &RelPath) -> Result<Option<(D::Dir, Name)>, ReplicaError> {
        let (dir, name) = object;
        let stat = self.disk.stat(dir, name).at(path, "stat the displaced object")?;
        if stat.kind != Some(Kind::File) {
            return Ok(None);
        }
        let live = self.live(Spot::new(dir, name, path), stat, Kind::File)?.attrs;
        let (attrs, rights) = rights::bare(Kind::File, &live);
        if !rights.any() {
            return Ok(None);
        }
        self.redress(Spot::new(dir, name, path), &stat, &attrs)
    }

    /// Gives an object of psync's own directories other attributes. A file that has further names keeps its own there: a
    /// copy gets them and takes its place, which lies in the stage under the name that is the answer.
    pub(crate) fn redress(
        &mut self,
        at: Spot<D::Dir>,
        stat: &Stat,
        attrs: &Attrs,
    ) -> Result<Option<(D::Dir, Name)>, ReplicaError> {
        let (Spot { dir, name, path, .. }, Some(kind)) = (at, stat.kind) else { return Ok(None) };
        if kind != Kind::File || stat.nlink == 1 {
            self.disk.set_attrs(dir, name, kind, attrs).at(path, "set attributes")?;
            return Ok(None);
        }
        let generation = generation_of(name).map_or(0, |(generation, _)| generation);
        let staged = self.stage_copy_of(generation, at, attrs)?;
        if let (Some(file), true) = (&staged.file, self.settings.durable) {
            self.disk.sync_files(&[file]).at(path, "sync the copy")?;
        }
        // What it holds lives on under its other names.
        self.disk.discard(dir, name).at(path, "remove what was copied")?;
        let stage = self.disk.own(Own::Stage).at(path, "open the stage")?;
        Ok(Some((stage, staged.name)))
    }
}
