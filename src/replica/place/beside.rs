//! Conflict copies: a version that lost its name is kept beside it.

use std::io;

use crate::model::{Name, RelPath, conflict};

use super::super::Replica;
use super::super::archive::Archive;
use super::super::disk::Disk;
use super::super::error::{At, ReplicaError};

impl<D: Disk, A: Archive> Replica<D, A> {
    /// Gives an object a name beside `path` where users see it. If the directory is gone, it is made again with its rights;
    /// if that cannot be, the copy goes into the next one above, for its owner alone.
    pub(crate) fn keep_beside(
        &mut self,
        object: (&D::Dir, &Name),
        path: &RelPath,
        copy: Option<Name>,
        time: i64,
        reason: &str,
    ) -> Result<(), ReplicaError> {
        self.keep_beside_since(object, path, copy, time, reason, None)
    }

    /// The same for an object that left its directory at `since`, in seconds since 1970, and not just now.
    pub(crate) fn keep_beside_since(
        &mut self,
        object: (&D::Dir, &Name),
        path: &RelPath,
        copy: Option<Name>,
        time: i64,
        reason: &str,
        since: Option<i64>,
    ) -> Result<(), ReplicaError> {
        let Some((above, name)) = path.split() else { return Ok(()) };
        let side = self.settings.side.word();
        let wanted = copy.unwrap_or_else(|| conflict::copy_name(&name, side, time, None));
        let home = self.home(&above, since, object)?;
        if home.wider {
            self.narrow(object, path)?;
        }
        for attempt in 0..1000_u32 {
            let digits = (attempt > 0).then(|| hash_digits(path, attempt));
            let candidate = match &digits {
                None => wanted.clone(),
                Some(digits) => with_digits(&wanted, digits),
            };
            match self.disk.rename(object, (&home.dir, &candidate)) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                other => other.at(path, "keep a version")?,
            }
            if self.settings.durable {
                self.disk.sync_dirs(&[&home.dir]).at(path, "sync the directory")?;
            }
            if let Ok(kept) = home.path.join(&candidate) {
                self.notes.push(format!("{reason}: {path}: the other version is kept as {kept}"));
                self.unscanned.insert(kept.clone());
                self.dirty.insert(kept);
            }
            return Ok(());
        }
        Err(io::Error::other("a thousand conflict copies of one second")).at(path, "keep a version")
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
