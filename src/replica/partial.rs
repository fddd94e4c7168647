//! Partial files: what came of a large file before the link was cut or the process ended. It stays in the stage, under a name
//! that says whose contents it is, and is a basis of the delta the next time. Nothing is taken from it unread.

use crate::model::{Name, RelPath};

use super::Replica;
use super::archive::Archive;
use super::disk::{Disk, Own};
use super::error::{At, ReplicaError};

/// Partial files that are kept at a time.
const MOST: usize = 8;
/// And so many seconds at most.
const LONGEST: i64 = 24 * 3600;
/// Nor are they kept where less of the file system is free, in percent.
const ROOM: u64 = 5;

/// A stage name that says for which path: `GENERATION.COUNTER.PATH`, the last by its hash.
pub(crate) fn name(name: &Name, path: &RelPath) -> Result<Name, ReplicaError> {
    let text = [name.as_bytes(), b".", digits(path).as_bytes()].concat();
    Name::new(&text).map_err(|e| std::io::Error::other(e.to_string())).at(path, "name an object of the stage")
}

fn digits(path: &RelPath) -> String {
    blake3::hash(path.as_bytes()).to_hex()[..16].to_owned()
}

/// Whether a stage name is that of a large file.
pub(crate) fn is_partial(name: &Name) -> bool {
    name.as_bytes().iter().filter(|byte| **byte == b'.').count() == 2
}

impl<D: Disk, A: Archive> Replica<D, A> {
    /// The largest partial file of a path, but for those that are in use.
    pub(crate) fn open_partial(&self, path: &RelPath, used: &[Name]) -> Option<(Name, D::File, u64)> {
        let stage = self.disk.own(Own::Stage).ok()?;
        let suffix = digits(path).into_bytes();
        let mine = |name: &Name| is_partial(name) && name.as_bytes().ends_with(&suffix) && !used.contains(name);
        let all = self.disk.list(&stage).ok()?.into_iter().filter(|(name, _)| mine(name));
        let (name, stat) = all.max_by_key(|(_, stat)| stat.size)?;
        self.disk.open_file(&stage, &name).ok().map(|file| (name, file, stat.size))
    }

    /// Throws away all that is not in use: room is needed.
    pub(crate) fn drop_partials(&mut self, used: &[Name]) -> Result<(), ReplicaError> {
        self.drop_all_kept();
        let root = RelPath::root();
        let stage = self.disk.own(Own::Stage).at(&root, "open the stage")?;
        for (name, _) in self.disk.list(&stage).at(&root, "list the stage")? {
            if is_partial(&name) && !used.contains(&name) {
                self.unstage(&name);
            }
        }
        Ok(())
    }

    /// Throws away what is too much, too old, or takes room that is needed, but for what is in use.
    pub(crate) fn clear_partials(&mut self, used: &[Name]) -> Result<(), ReplicaError> {
        let root = RelPath::root();
        let stage = self.disk.own(Own::Stage).at(&root, "open the stage")?;
        let free = |name: &Name| is_partial(name) && !used.contains(name);
        let listed = self.disk.list(&stage).at(&root, "list the stage")?;
        let mut partials: Vec<_> = listed.into_iter().filter(|(name, _)| free(name)).collect();
        partials.sort_by_key(|(_, stat)| std::cmp::Reverse(stat.mtime));
        let now = self.disk.wall_clock();
        let short =
            self.disk.is_short() || self.disk.space().is_some_and(|space| space.free < space.total / 100 * ROOM);
        for (n, (name, stat)) in partials.into_iter().enumerate() {
            let small = stat.size < self.settings.partial_min;
            if n >= MOST || small || short || now.saturating_sub(stat.mtime.secs) > LONGEST {
                self.unstage(&name);
            }
        }
        Ok(())
    }
}
