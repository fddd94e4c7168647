//! Stage: make the new object in psync's own directory, whole and with its attributes, before any name changes.

use crate::model::{Attrs, Content, Entry, Generation, Hash, Kind, Name, RelPath, Time};

use super::Replica;
use super::archive::Archive;
use super::disk::{Disk, NotSet, Own};
use super::error::{At, ReplicaError};
use super::partial;
use super::reading::Reading;
use super::spot::Spot;

/// Who gets what belongs to nobody that this side accepts.
const NOBODY: u32 = 65_534;

/// An object in the stage.
pub struct Staged<F> {
    pub name: Name,
    /// Inode and birth time.
    pub object: (u64, Time),
    /// The only descriptor of a file.
    pub file: Option<F>,
    /// The attributes that it got, where they are not the wanted ones.
    pub achieved: Option<Attrs>,
    /// Attributes that this side cannot hold.
    pub not_set: NotSet,
    /// Computed while a file was written.
    pub hash: Option<Hash>,
    /// A copy of what it replaces, which has other names.
    pub links: bool,
}

/// An object of the stage that has no attributes yet.
pub(crate) struct Undressed<F> {
    pub name: Name,
    /// The only descriptor of a file.
    pub file: Option<F>,
    pub kind: Kind,
}

impl<F> Undressed<F> {
    pub fn file(name: Name, file: F) -> Self {
        Undressed { name, file: Some(file), kind: Kind::File }
    }
}

/// An object of the stage with its attributes.
struct Dressed {
    object: (u64, Time),
    achieved: Option<Attrs>,
    not_set: NotSet,
}

impl<D: Disk, A: Archive> Replica<D, A> {
    /// A stage name that no other object of this run has; recovery reads the generation from it.
    pub(crate) fn stage_name(&mut self, generation: Generation) -> Result<Name, ReplicaError> {
        self.stage.counter += 1;
        let text = format!("{generation:x}.{:x}", self.stage.counter);
        Name::new(text.as_bytes())
            .map_err(|e| std::io::Error::other(e.to_string()))
            .at(&RelPath::root(), "name an object of the stage")
    }

    /// On a full disk the little room that is left is the archive's: deletions, moves and records go on.
    pub(crate) fn require_room(&self, path: &RelPath) -> Result<(), ReplicaError> {
        if !self.disk.is_short() {
            return Ok(());
        }
        let full = std::io::Error::new(
            std::io::ErrorKind::StorageFull,
            "the disk is full (only the archive's reserve is left)",
        );
        Err(full).at(path, "make the new object")
    }

    /// Makes an empty file for contents that arrive in pieces. One of this size may be kept if they do not all come.
    pub(crate) fn stage_file(
        &mut self,
        generation: Generation,
        path: &RelPath,
        size: u64,
    ) -> Result<(Name, D::File), ReplicaError> {
        self.require_room(path)?;
        let stage = self.disk.own(Own::Stage).at(path, "open the stage")?;
        let mut name = self.stage_name(generation)?;
        if size >= self.settings.partial_min {
            name = partial::name(&name, path)?;
        }
        let file = self.disk.create(&stage, &name).at(path, "create in the stage")?;
        Ok((name, file))
    }

    /// Makes a file with these contents.
    fn stage_bytes(
        &mut self,
        generation: Generation,
        path: &RelPath,
        attrs: &Attrs,
        bytes: &[u8],
    ) -> Result<Staged<D::File>, ReplicaError> {
        let stage = self.disk.own(Own::Stage).at(path, "open the stage")?;
        let name = self.stage_name(generation)?;
        let file = self.disk.create_for(&stage, &name, attrs.mode).at(path, "create in the stage")?;
        let written = self.disk.write_at(&file, 0, bytes).at(path, "write").map(|()| Hash::of(bytes));
        self.finish_written(path, Undressed::file(name, file), attrs, written)
    }

    /// Makes the whole object: a directory, a link, a FIFO, or a file with these contents.
    pub(crate) fn stage_whole(
        &mut self,
        generation: Generation,
        path: &RelPath,
        entry: &Entry,
        bytes: &[u8],
    ) -> Result<Staged<D::File>, ReplicaError> {
        self.require_room(path)?;
        let stage = self.disk.own(Own::Stage).at(path, "open the stage")?;
        match &entry.content {
            Content::File { .. } => self.stage_bytes(generation, path, &entry.attrs, bytes),
            Content::Dir => {
                let name = self.stage_name(generation)?;
                self.disk.make_dir(&stage, &name).at(path, "make a directory")?;
                self.finish(path, Undressed { name, file: None, kind: Kind::Dir }, &entry.attrs, None)
            }
            Content::Fifo => {
                let name = self.stage_name(generation)?;
                self.disk.make_fifo(&stage, &name).at(path, "make a FIFO")?;
                self.finish(path, Undressed { name, file: None, kind: Kind::Fifo }, &entry.attrs, None)
            }
            Content::Link { target } => {
                let name = self.stage_name(generation)?;
                self.disk.make_link(&stage, &name, target).at(path, "make a link")?;
                self.finish(path, Undressed { name, file: None, kind: Kind::Link }, &entry.attrs, None)
            }
        }
    }

    /// Makes a copy of the file that lies under a name in an open directory, with other attributes. All at once: what gives
    /// a displaced object its name back cannot wait.
    pub(crate) fn stage_copy_of(
        &mut self,
        generation: Generation,
        at: Spot<D::Dir>,
        attrs: &Attrs,
    ) -> Result<Staged<D::File>, ReplicaError> {
        let source = self.disk.open_file(at.dir, at.name).at(at.path, "open")?;
        let (name, file) = self.stage_file(generation, at.path, 0)?;
        let copied = self.copy(&source, &file).at(at.path, "copy");
        self.finish_written(at.path, Undressed::file(name, file), attrs, copied)
    }

    fn copy(&self, from: &D::File, to: &D::File) -> std::io::Result<Hash> {
        let size = self.disk.stat_file(from)?.size;
        let mut reading = Reading::new(size);
        loop {
            let mut write = |offset: u64, bytes: &[u8]| self.disk.write_at(to, offset, bytes);
            if let Some(hash) = reading.go_on(&self.disk, from, u64::MAX, &mut write)? {
                self.disk.set_len(to, size)?;
                return Ok(hash);
            }
        }
    }

    /// Gives a file that was written its attributes, or throws it away if it could not be written. `written`: its hash.
    fn finish_written(
        &mut self,
        path: &RelPath,
        made: Undressed<D::File>,
        attrs: &Attrs,
        written: Result<Hash, ReplicaError>,
    ) -> Result<Staged<D::File>, ReplicaError> {
        match written {
            Ok(hash) => self.finish(path, made, attrs, Some(hash)),
            Err(error) => {
                self.unstage(&made.name);
                Err(error)
            }
        }
    }

    /// Gives an object that is complete its attributes.
    pub(crate) fn finish(
        &mut self,
        path: &RelPath,
        made: Undressed<D::File>,
        attrs: &Attrs,
        hash: Option<Hash>,
    ) -> Result<Staged<D::File>, ReplicaError> {
        let dressed = self.dress(path, &made, attrs);
        let Undressed { name, file, .. } = made;
        if dressed.is_err() && !self.keep_undressed(path, &name, file.as_ref(), hash) {
            self.unstage(&name);
        }
        let Dressed { object, achieved, not_set } = dressed?;
        Ok(Staged { name, object, file, achieved, not_set, hash, links: false })
    }

    fn dress(&self, path: &RelPath, made: &Undressed<D::File>, attrs: &Attrs) -> Result<Dressed, ReplicaError> {
        let (name, kind) = (&made.name, made.kind);
        let stage = self.disk.own(Own::Stage).at(path, "open the stage")?;
        if self.settings.own_owners
            && let Some((uid, gid)) = self.owner_for(path)
        {
            self.disk.give(&stage, name, uid, gid).at(path, "change the owner")?;
        }
        let accepted = self.disk.accepts(attrs);
        if accepted != (true, true) && !self.settings.own_owners {
            // Not psync's own: that may be root.
            let (uid, gid) = self.owner_for(path).unwrap_or((NOBODY, NOBODY));
            let fits = self.disk.accepts_numbers(uid, gid);
            let (uid, gid) = (if fits.0 { uid } else { NOBODY }, if fits.1 { gid } else { NOBODY });
            self.disk.give(&stage, name, uid, gid).at(path, "change the owner")?;
        }
        let not_set = match &made.file {
            Some(file) => self.disk.set_file_attrs(file, (&stage, name), attrs),
            None => self.disk.set_attrs(&stage, name, kind, attrs),
        };
        let not_set = not_set.at(path, "set attributes")?;
        let stat = self.disk.stat(&stage, name).at(path, "stat the staged object")?;
        let at = Spot::new(&stage, name, path);
        let achieved = match not_set.what.is_empty() {
            true => self.achieved(at, kind, attrs, &stat)?,
            false => self.other_than(at, kind, attrs, &stat)?,
        };
        Ok(Dressed { object: (stat.ino, stat.btime), achieved, not_set })
    }

    /// The owner and group of what lies at `path`, else of the nearest directory above it that is there.
    fn owner_for(&self, path: &RelPath) -> Option<(u32, u32)> {
        let (above, name) = path.split()?;
        let mut dir = self.disk.open_dir(&above);
        if let Some(stat) = dir.as_ref().ok().and_then(|dir| self.disk.stat(dir, &name).ok()) {
            return Some((stat.uid, stat.gid));
        }
        let mut above = above;
        while dir.is_err() {
            above = above.parent()?;
            dir = self.disk.open_dir(&above);
        }
        let stat = self.disk.stat_dir(&dir.ok()?).ok()?;
        Some((stat.uid, stat.gid))
    }

    /// Throws a staged object away. One that cannot be removed is left to the next start.
    pub(crate) fn unstage(&mut self, name: &Name) {
        let gone = self.disk.own(Own::Stage).and_then(|stage| self.disk.discard(&stage, name));
        if let Err(error) = gone
            && error.kind() != std::io::ErrorKind::NotFound
        {
            self.news.note(format!("stage: cannot remove {name}: {error}"));
        }
    }
}
