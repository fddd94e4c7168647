//! Home: the directory where an object comes back that users are not to lose, and the rights that it may have there.
//!
//! A file may be open to everybody because its directory was not. If that directory is gone by the time when the file
//! comes back, it is made again with the rights that it had; if they are not known, with none but the owner's. If another
//! directory has the name by then, and lets more people in, the object gets narrower rights itself.

use std::io;

use crate::model::{Attrs, Kind, Name, RelPath, Time, Xattrs};

use super::Replica;
use super::archive::Archive;
use super::disk::{Disk, Own, Stat};
use super::error::{At, ReplicaError};
use super::metadata::is_acl;
use super::spot::Spot;

/// Who may enter a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Door {
    mode: u32,
    owner: (u32, u32),
    acls: Xattrs,
}

impl Door {
    /// Whether it lets nobody in whom the other one keeps out, as far as that can be told.
    pub fn is_within(&self, other: &Door) -> bool {
        self.owner == other.owner && self.acls == other.acls && self.mode & 0o777 & !other.mode == 0
    }
}

/// Where an object goes.
pub(super) struct Home<Dir> {
    pub dir: Dir,
    pub path: RelPath,
    /// The directory lets in whom the one that the object lay in kept out.
    pub wider: bool,
}

impl<D: Disk, A: Archive> Replica<D, A> {
    pub(super) fn door(&self, dir: &D::Dir, name: &Name, stat: &Stat) -> Door {
        // What cannot be read counts as something else than whatever it is compared with.
        let unreadable = || Xattrs::from([(b"?"[..].into(), b""[..].into())]);
        let mut acls = self.disk.xattrs(dir, name, Kind::Dir).unwrap_or_else(|_| unreadable());
        acls.retain(|name, _| is_acl(name) || name.as_ref() == b"?");
        Door { mode: stat.mode, owner: (stat.uid, stat.gid), acls }
    }

    /// The door of what lies at `path` now.
    fn door_at(&self, path: &RelPath) -> Option<Door> {
        let (above, name) = path.split()?;
        let dir = self.disk.open_dir(&above).ok()?;
        let stat = self.disk.stat(&dir, &name).ok()?;
        Some(self.door(&dir, &name, &stat))
    }

    /// Opens `path`, the directory that an object lay in, or makes it again with all that is missing above it. If
    /// something else lies on the way, the nearest directory above that is there. `since`: when the object left it, in
    /// seconds since 1970; `None`: just now.
    pub(super) fn home(
        &mut self,
        path: &RelPath,
        since: Option<i64>,
        object: (&D::Dir, &Name),
    ) -> Result<Home<D::Dir>, ReplicaError> {
        // What is missing, the innermost first: as many as a path has names.
        let mut missing = Vec::new();
        let mut at = path.clone();
        let mut home = loop {
            if let Ok(dir) = self.disk.open_dir(&at) {
                let wider = match since {
                    Some(since) => self.was_narrower(&at, since)?,
                    None => false,
                };
                break Home { dir, path: at, wider };
            }
            let Some((above, name)) = at.split() else {
                return Err(io::Error::other("no directory to keep it in")).at(&at, "keep a version");
            };
            missing.push((std::mem::replace(&mut at, above), name));
        };
        for (path, name) in missing.into_iter().rev() {
            if path.parent().as_ref() == Some(&home.path) {
                let attrs = self.attrs_of_gone(&path, object)?;
                if let Some(dir) = self.make_directory(&home.dir, &name, &path, &attrs)? {
                    home = Home { dir, path, wider: home.wider };
                    continue;
                }
            }
            // It lies in another directory than it did.
            home.wider = true;
        }
        Ok(home)
    }

    /// Whether a directory that lay at `path` or above it went to the trash since, and kept out whom the one that lies
    /// there now lets in.
    fn was_narrower(&mut self, path: &RelPath, since: i64) -> Result<bool, ReplicaError> {
        let gone = self.archive.trash()?.into_iter().filter(|item| item.since >= since && path.is_within(&item.path));
        let trash = self.disk.own(Own::Trash).at(path, "open the trash")?;
        for item in gone.collect::<Vec<_>>() {
            let Ok(stat) = self.disk.stat(&trash, &item.id) else { continue };
            if stat.kind == Some(Kind::Dir) {
                let was = self.door(&trash, &item.id, &stat);
                if !self.door_at(&item.path).is_some_and(|now| now.is_within(&was)) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// The attributes of the directory that lay at `path`: those of its row, or of the last one in the trash; else those
    /// of one that nobody but the object's owner may enter.
    fn attrs_of_gone(&mut self, path: &RelPath, object: (&D::Dir, &Name)) -> Result<Attrs, ReplicaError> {
        if let Some(row) = self.row_at(path)?.filter(|row| row.entry.kind() == Kind::Dir) {
            return Ok(row.live_attrs().clone());
        }
        let trash = self.disk.own(Own::Trash).at(path, "open the trash")?;
        let mut items: Vec<_> = self.archive.trash()?.into_iter().filter(|item| item.path == *path).collect();
        items.sort_by_key(|item| std::cmp::Reverse(item.since));
        for item in items {
            let Ok(stat) = self.disk.stat(&trash, &item.id) else { continue };
            if stat.kind == Some(Kind::Dir) {
                return Ok(self.live(Spot::new(&trash, &item.id, path), stat, Kind::Dir)?.attrs);
            }
        }
        let stat = self.disk.stat(object.0, object.1).at(path, "stat what is kept")?;
        let (user, group) = self.disk.principals(stat.uid, stat.gid);
        Ok(Attrs { mode: 0o700, user, group, mtime: Time::default(), xattrs: Xattrs::new() })
    }

    /// Makes a directory where nothing lies; it has its rights before its name. `None`: it cannot be made there.
    pub(super) fn make_directory(
        &mut self,
        above: &D::Dir,
        name: &Name,
        path: &RelPath,
        attrs: &Attrs,
    ) -> Result<Option<D::Dir>, ReplicaError> {
        let stage = self.disk.own(Own::Stage).at(path, "open the stage")?;
        // Generation 0: no action's.
        let staged = self.stage_name(0)?;
        self.disk.make_dir(&stage, &staged).at(path, "make a directory again")?;
        let made = self.disk.set_attrs(&stage, &staged, Kind::Dir, attrs).at(path, "make a directory again");
        match made.map(|_| self.keeping(&[above], || self.disk.rename((&stage, &staged), (above, name)))) {
            Ok(Ok(())) => {}
            Ok(Err(_)) => {
                self.unstage(&staged);
                return Ok(None);
            }
            Err(error) => {
                self.unstage(&staged);
                return Err(error);
            }
        }
        if self.settings.durable {
            self.disk.sync_dirs(&[above]).at(path, "sync the directory")?;
        }
        self.agenda.look_and_scan(path);
        Ok(self.disk.open_dir(path).ok())
    }

    /// Takes an object of psync's own directories from all but its owner. The answer is that of [`Replica::redress`].
    pub(super) fn narrow(
        &mut self,
        object: (&D::Dir, &Name),
        path: &RelPath,
    ) -> Result<Option<(D::Dir, Name)>, ReplicaError> {
        let stat = self.disk.stat(object.0, object.1).at(path, "stat what is kept")?;
        let Some(kind) = stat.kind.filter(|kind| *kind != Kind::Link) else { return Ok(None) };
        let at = Spot::new(object.0, object.1, path);
        let mut attrs = self.live(at, stat, kind)?.attrs;
        attrs.mode &= 0o700;
        attrs.xattrs.retain(|name, _| !is_acl(name));
        self.redress(at, &stat, &attrs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_door_within_another() {
        let door = |mode, owner, acl: &str| {
            let acls = match acl {
                "" => Xattrs::new(),
                acl => Xattrs::from([(b"system.posix_acl_access"[..].into(), acl.as_bytes().into())]),
            };
            Door { mode, owner: (owner, owner), acls }
        };
        for (now, was, within) in [
            (door(0o700, 1, ""), door(0o700, 1, ""), true),
            (door(0o700, 1, ""), door(0o755, 1, ""), true),
            (door(0o2750, 1, ""), door(0o750, 1, ""), true),
            (door(0o750, 1, ""), door(0o700, 1, ""), false),
            (door(0o711, 1, ""), door(0o700, 1, ""), false),
            (door(0o700, 2, ""), door(0o700, 1, ""), false),
            (door(0o750, 1, "a"), door(0o750, 1, ""), false),
            (door(0o750, 1, ""), door(0o750, 1, "a"), false),
            (door(0o750, 1, "a"), door(0o750, 1, "a"), true),
        ] {
            assert_eq!(now.is_within(&was), within, "{now:?} within {was:?}");
        }
    }
}
