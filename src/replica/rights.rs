//! The rights of directories, as they are at this moment.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{NodeId, ROOT_NODE, RelPath, Xattrs};

use super::Replica;
use super::archive::{Archive, Signature};
use super::disk::Disk;
use super::error::ReplicaError;
use super::examine::above_is_gone;

/// A directory on the way down.
struct Level<Dir> {
    path: RelPath,
    /// `None`: closed, since too many are open below it.
    dir: Option<Dir>,
    node: Option<NodeId>,
}

/// Directories open at a time.
const OPEN: usize = 64;

/// How a directory differs from what was said of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Differs {
    /// By its rights. `told`: it is known which the other side was told; without a signature only a look can tell.
    Rights { told: bool },
    /// It has left its name, where nothing lies now, or another directory: what was found through it lies elsewhere.
    Left,
}

impl<D: Disk, A: Archive> Replica<D, A> {
    /// Those of the directories whose rights are not what was reported of them, or else recorded. With a directory all
    /// that lie above it must be given.
    pub fn with_other_rights(&self, dirs: &BTreeSet<RelPath>) -> Result<BTreeMap<RelPath, Differs>, ReplicaError> {
        let mut changed = BTreeMap::new();
        // The set is in the order of a walk: each directory is opened in the one above it, whatever the depth.
        let mut levels: Vec<Level<D::Dir>> = Vec::new();
        for path in dirs {
            let Some((above, name)) = path.split() else { continue };
            while levels.last().is_some_and(|level| level.path != above) {
                levels.pop();
            }
            let (above, parent) = match levels.last() {
                Some(Level { dir: Some(dir), node, .. }) => (Ok(dir.clone()), *node),
                Some(level) => (self.disk.open_dir(&above), level.node),
                None if above.is_root() => (self.disk.open_dir(&above), Some(ROOT_NODE)),
                // The one above is no directory any more, or cannot be looked at: that is told.
                None => continue,
            };
            let opened = above.and_then(|above| {
                let dir = self.disk.open_child(&above, &name, path)?;
                Ok((above, self.disk.stat_dir(&dir)?, dir))
            });
            let (above, stat, dir) = match opened {
                Ok(opened) => opened,
                Err(error) => {
                    let gone = above_is_gone(&error);
                    changed.insert(path.clone(), if gone { Differs::Left } else { Differs::Rights { told: false } });
                    continue;
                }
            };
            let reported = self.ledger.get(path);
            let row = match parent {
                Some(parent) => self.row_in(parent, &name, path)?,
                None => None,
            };
            let known: Option<(Signature, &Xattrs)> = match reported.and_then(|r| r.seen.as_ref()) {
                Some(seen) => Some((seen.signature, &seen.attrs.xattrs)),
                None => row.as_ref().and_then(|row| Some((row.compared()?, &row.live_attrs().xattrs))),
            };
            let same = known.is_some_and(|(was, xattrs)| {
                let rights = (was.mode, was.uid, was.gid) == (stat.mode, stat.uid, stat.gid);
                // An ACL may change without the mode, but not without the ctime.
                let told = self.settings.keeps_acls || was.ctime == stat.ctime;
                let acl = || self.disk.xattrs(&above, &name, crate::model::Kind::Dir).is_ok_and(|now| now == *xattrs);
                rights && was.same_object(&stat) && (told || acl())
            });
            if !same {
                changed.insert(
                    path.clone(),
                    match known {
                        Some((was, _)) if !was.same_object(&stat) => Differs::Left,
                        known => Differs::Rights { told: known.is_some() },
                    },
                );
            }
            let node = reported.and_then(|r| r.moved).or(row.map(|row| row.node));
            levels.push(Level { path: path.clone(), dir: Some(dir), node });
            if let Some(far) = levels.len().checked_sub(OPEN + 1) {
                levels[far].dir = None;
            }
        }
        Ok(changed)
    }
}
