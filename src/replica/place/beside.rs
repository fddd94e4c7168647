//! Conflict copies: a version that lost its name is kept beside it.

use std::io;

use crate::model::{Kind, Name, RelPath, conflict, rights};

use super::super::Replica;
use super::super::archive::Archive;
use super::super::disk::Disk;
use super::super::error::{At, ReplicaError};
use super::generation_of;

impl<D: Disk, A: Archive> Replica<D, A> {
    /// Gives an object a name beside `path` where users see it; if the directory is gone, in the next one above.
    pub(crate) fn keep_beside(
        &mut self,
        object: (&D::Dir, &Name),
        path: &RelPath,
        copy: Option<Name>,
        time: i64,
        reason: &str,
    ) -> Result<(), ReplicaError> {
        let Some((mut above, name)) = path.split() else { return Ok(()) };
        let stripped = if reason == CONFLICT { self.strip(object, path)? } else { None };
        let object = (object.0, stripped.as_ref().unwrap_or(object.1));
        let side = self.settings.side.word();
        let wanted = copy.unwrap_or_else(|| conflict::copy_name(&name, side, time, None));
        loop {
            let Ok(dir) = self.disk.open_dir(&above) else {
                match above.parent() {
                    Some(parent) => above = parent,
                    None => return Err(io::Error::other("no directory to keep it in")).at(path, "keep a version"),
                }
                continue;
            };
            for attempt in 0..1000_u32 {
                let digits = (attempt > 0).then(|| hash_digits(path, attempt));
                let candidate = match &digits {
                    None => wanted.clone(),
                    Some(digits) => with_digits(&wanted, digits),
                };
                match self.disk.rename(object, (&dir, &candidate)) {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                    other => other.at(path, "keep a version")?,
                }
                if self.settings.durable {
                    self.disk.sync_dirs(&[&dir]).at(path, "sync the directory")?;
                }
                if let Ok(kept) = above.join(&candidate) {
                    self.notes.push(format!("{reason}: {path}: the other version is kept as {kept}"));
                    self.unscanned.insert(kept.clone());
                    self.dirty.insert(kept);
                }
                return Ok(());
            }
            return Err(io::Error::other("a thousand conflict copies of one second")).at(path, "keep a version");
        }
    }
}

/// Why a version is kept beside another that has its name.
pub(crate) const CONFLICT: &str = "conflict";

impl<D: Disk, A: Archive> Replica<D, A> {
    /// Takes setuid, setgid and capabilities from a displaced file before users see it under another name. One that has
    /// further names keeps them there: a copy is stripped in its place, whose name in the stage is returned.
    fn strip(&mut self, object: (&D::Dir, &Name), path: &RelPath) -> Result<Option<Name>, ReplicaError> {
        let (dir, name) = object;
        let stat = self.disk.stat(dir, name).at(path, "stat the displaced object")?;
        if stat.kind != Some(Kind::File) {
            return Ok(None);
        }
        let live = self.live(dir, path, name, stat, Kind::File)?.attrs;
        let (attrs, rights) = rights::bare(Kind::File, &live);
        if !rights.any() {
            return Ok(None);
        }
        if stat.nlink == 1 {
            self.disk.set_attrs(dir, name, Kind::File, &attrs).at(path, "set attributes")?;
            return Ok(None);
        }
        let generation = generation_of(name).map_or(0, |(generation, _)| generation);
        let staged = self.stage_copy_of(generation, path, object, &attrs)?;
        if let (Some(file), true) = (&staged.file, self.settings.durable) {
            self.disk.sync_files(&[file]).at(path, "sync the copy")?;
        }
        self.move_to_trash(name, path, generation, "replaced")?;
        Ok(Some(staged.name))
    }
}

fn hash_digits(path: &RelPath, attempt: u32) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(path.as_bytes()).update(&attempt.to_le_bytes());
    hasher.finalize().to_hex()[..4].to_owned()
}

/// Puts digits before the closing bracket of a conflict copy's name.
fn with_digits(name: &Name, digits: &str) -> Name {
    let bytes = name.as_bytes();
    let at = bytes.iter().rposition(|b| *b == b')').unwrap_or(bytes.len());
    let longer = [&bytes[..at], b" ", digits.as_bytes(), &bytes[at..]].concat();
    Name::new(&longer).unwrap_or_else(|_| {
        // No room: the digits take the place of the name's beginning.
        let cut = [digits.as_bytes(), &bytes[(digits.len()).min(bytes.len() - 1)..]].concat();
        Name::new(&cut).unwrap_or_else(|_| name.clone())
    })
}
