//! The system calls of users' processes. Each notes what it finishes, replaces, touches and deletes.

use std::collections::BTreeMap;
use std::io;

use psync::model::rights::CAPABILITY;
use psync::model::{Name, OWN_DIR, RelPath, Time};
use psync::watch::Hint;

use super::calls::{ModelDisk, write};
use super::state::*;
use crate::world::What;

/// A descriptor of a user's process.
pub type Fd = u64;

/// A file that a user's process has open for writing.
#[derive(Debug, Clone)]
pub struct UserFile {
    obj: Obj,
    /// Its name when it was opened: where events are told.
    name: (Obj, Name),
    /// The same as users say it.
    path: RelPath,
    truncate: bool,
    changed: bool,
    /// The time of change that it had when it was opened.
    before: Time,
}

impl UserFile {
    pub fn obj(&self) -> Obj {
        self.obj
    }
}

/// The answer to an open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    Now(Fd),
    /// psync holds a lease: ask again with [`ModelDisk::user_opened`].
    Waits(Fd),
}

impl Meta {
    /// What the kernel takes from a file that is written, or gets another owner.
    fn drop_rights(&mut self) {
        self.mode &= !0o6000;
        self.xattrs.remove(CAPABILITY);
    }
}

impl State {
    fn user_path(&self, path: &RelPath) -> io::Result<(Obj, Name)> {
        if path.names().next().is_none_or(|name| name.as_bytes() == OWN_DIR) {
            return Err(error(EACCES));
        }
        self.resolve_parent(path)
    }

    fn touched(&self, path: &RelPath, deep: bool) {
        self.note(What::Touched { path: path.clone(), deep });
    }

    /// The contents of a file are about to be replaced by its user.
    fn gone(&self, obj: Obj) {
        if let Body::File(contents) = &self.inode(obj).body
            && !contents.is_empty()
        {
            self.note(What::Gone(contents.clone()));
        }
    }

    /// The object is about to lose this name: the last one that users see takes the contents with it.
    fn dropped(&mut self, obj: Obj) {
        let names = self.inode(obj).names.iter().filter(|(dir, _)| !self.is_own_dir(*dir)).count();
        if names == 1 && !self.is_dir(obj) {
            self.gone(obj);
            self.inode_mut(obj).dropped_by_user = true;
        }
    }

    /// The object itself changed: under all its names.
    fn touched_object(&self, obj: Obj) {
        let names = self.inode(obj).names.iter();
        let paths: Vec<RelPath> = names.filter_map(|(dir, name)| self.path_of(*dir)?.join(name).ok()).collect();
        paths.iter().for_each(|path| self.touched(path, false));
    }

    fn finish_open(&mut self, fd: Fd, file: UserFile) {
        self.inode_mut(file.obj).writers += 1;
        let truncate = file.truncate;
        self.user_files.insert(fd, file);
        if truncate {
            self.user_change(fd, |contents| contents.clear());
        }
    }

    /// Changes an open file's contents.
    fn user_change(&mut self, fd: Fd, change: impl FnOnce(&mut Vec<u8>)) {
        let Some(file) = self.user_files.get(&fd).cloned() else { return };
        let Body::File(contents) = &self.inode(file.obj).body else { return };
        let mut new = contents.clone();
        change(&mut new);
        if new == *contents && file.changed {
            return;
        }
        self.gone(file.obj);
        self.world.allow(&new);
        let now = self.stamp();
        let rounded = self.round(now);
        let inode = self.inode_mut(file.obj);
        inode.body = Body::File(new);
        inode.by_user = true;
        (inode.meta.mtime, inode.meta.ctime) = (rounded, now);
        inode.meta.drop_rights();
        self.grant(file.obj);
        self.touched_object(file.obj);
        if self.inode(file.obj).names.iter().all(|(dir, _)| self.is_own_dir(*dir)) {
            // psync holds it in its stage, perhaps with the directory above it, and puts it back.
            self.touched(&file.path, false);
        }
        let above = self.path_of(file.name.0);
        above.into_iter().for_each(|dir| self.world.given.borrow_mut().write(dir));
        self.tell(&file, Hint::Written);
        if let Some(file) = self.user_files.get_mut(&fd) {
            file.changed = true;
        }
    }

    fn tell(&mut self, file: &UserFile, hint: Hint) {
        if self.inode(file.obj).names.contains(&file.name) {
            self.event(file.name.0, &file.name.1, hint);
        } else {
            self.event_of(file.obj, hint);
        }
    }

    fn user_make(&mut self, path: &RelPath, body: Body, mode: u32) -> io::Result<Obj> {
        let (dir, name) = self.user_path(path)?;
        if self.entries(dir)?.contains_key(&name) {
            return Err(error(EEXIST));
        }
        if self.no_space || self.no_inodes {
            return Err(error(ENOSPC));
        }
        let obj = self.make(body, mode);
        self.inode_mut(obj).by_user = true;
        self.inode_mut(obj).told_rights = true;
        if self.world.hostile.get() || self.world.private.get() {
            let alice = self.uid_of("alice").unwrap_or(0);
            let meta = &mut self.inode_mut(obj).meta;
            (meta.uid, meta.gid) = (alice, alice);
        }
        if self.is_dir(obj) {
            self.volume.disk_names.insert(obj, BTreeMap::new());
        }
        self.change_names(vec![(dir, name.clone(), None, Some(obj))]);
        if self.is_dir(obj) {
            self.world.given.borrow_mut().begin(self.side, path);
            self.note_given(obj);
        }
        self.event(dir, &name, Hint::Appeared);
        self.touched(path, false);
        self.world.filled(self.side, path);
        Ok(obj)
    }

    fn user_attr(&mut self, path: &RelPath, change: impl FnOnce(&mut Meta)) -> io::Result<()> {
        let (dir, name) = self.user_path(path)?;
        let obj = self.lookup(dir, &name)?;
        let now = self.stamp();
        let setgid_off = self.features.drops_setgid;
        let inode = self.inode_mut(obj);
        change(&mut inode.meta);
        inode.told_rights = true;
        inode.meta.ctime = now;
        if setgid_off {
            inode.meta.mode &= !0o2000;
        }
        self.grant(obj);
        self.event(dir, &name, Hint::Attributes);
        if let Some(watched) = self.watches.get(&obj).cloned() {
            self.events.push_back(psync::watch::Event::Dirty { path: watched, hint: Hint::Attributes });
        }
        self.touched_object(obj);
        Ok(())
    }
}

/// What users do. Errors are the system's; nothing has happened then.
impl ModelDisk {
    /// Opens for writing; the process waits if psync holds a lease.
    pub fn user_open(&self, path: &RelPath, create: bool, truncate: bool) -> io::Result<Opened> {
        let mut state = self.state_mut();
        let (dir, name) = state.user_path(path)?;
        let found = state.lookup(dir, &name);
        let obj = match found {
            Ok(obj) => obj,
            Err(_) if create => state.user_make(path, Body::File(Vec::new()), 0o644)?,
            Err(e) => return Err(e),
        };
        match state.inode(obj).body {
            Body::File(_) => {}
            Body::Dir(_) => return Err(error(EISDIR)),
            Body::Link(_) | Body::Fifo => return Err(error(EINVAL)),
        }
        state.next_handle += 1;
        let fd = state.next_handle;
        let before = state.inode(obj).meta.mtime;
        let file = UserFile { obj, name: (dir, name), path: path.clone(), truncate, changed: false, before };
        if state.inode(obj).leases.is_empty() {
            state.finish_open(fd, file);
            return Ok(Opened::Now(fd));
        }
        let inode = state.inode_mut(obj);
        inode.leases.iter_mut().for_each(|held| held.broken = true);
        inode.waiters += 1;
        state.waiting.insert(fd, file);
        Ok(Opened::Waits(fd))
    }

    /// Whether a waiting open has come through. A process that died meanwhile (power cut) never does.
    pub fn user_opened(&self, fd: Fd) -> bool {
        let mut state = self.state_mut();
        if let Some(file) = state.waiting.get(&fd).cloned()
            && state.inode(file.obj).leases.is_empty()
        {
            state.waiting.remove(&fd);
            state.inode_mut(file.obj).waiters -= 1;
            state.finish_open(fd, file);
        }
        state.user_files.contains_key(&fd)
    }

    pub fn user_is_waiting(&self, fd: Fd) -> bool {
        self.state().waiting.contains_key(&fd)
    }

    pub fn user_write(&self, fd: Fd, offset: usize, bytes: &[u8]) {
        self.state_mut().user_change(fd, |contents| write(contents, offset, bytes));
    }

    pub fn user_append(&self, fd: Fd, bytes: &[u8]) {
        self.state_mut().user_change(fd, |contents| contents.extend_from_slice(bytes));
    }

    pub fn user_set_len(&self, fd: Fd, size: usize) {
        self.state_mut().user_change(fd, |contents| contents.truncate(size));
    }

    /// Puts the time of change back that the file had when it was opened.
    pub fn user_put_time_back(&self, fd: Fd) {
        let mut state = self.state_mut();
        let Some(file) = state.user_files.get(&fd).cloned().filter(|file| file.changed) else { return };
        let now = state.stamp();
        let inode = state.inode_mut(file.obj);
        (inode.meta.mtime, inode.meta.ctime) = (file.before, now);
        state.touched_object(file.obj);
        state.tell(&file, Hint::Attributes);
    }

    /// Closes; what the file holds now is a finished version.
    pub fn user_close(&self, fd: Fd) {
        let mut state = self.state_mut();
        let Some(file) = state.user_files.remove(&fd) else { return };
        let inode = state.inode_mut(file.obj);
        inode.writers -= 1;
        let lost_anyway = inode.names.is_empty() && inode.dropped_by_user;
        if let Body::File(contents) = &inode.body
            && file.changed
            && !contents.is_empty()
            && !lost_anyway
        {
            let contents = contents.clone();
            state.note(What::Finished(contents));
        }
        state.tell(&file, Hint::Closed);
        state.collect(file.obj);
    }

    pub fn user_mkdir(&self, path: &RelPath) -> io::Result<()> {
        self.state_mut().user_make(path, Body::Dir(BTreeMap::new()), 0o755).map(drop)
    }

    pub fn user_symlink(&self, path: &RelPath, target: &[u8]) -> io::Result<()> {
        self.state_mut().user_make(path, Body::Link(target.into()), 0).map(drop)
    }

    pub fn user_mkfifo(&self, path: &RelPath) -> io::Result<()> {
        self.state_mut().user_make(path, Body::Fifo, 0o644).map(drop)
    }

    /// A hard link.
    pub fn user_link(&self, from: &RelPath, to: &RelPath) -> io::Result<()> {
        let mut state = self.state_mut();
        let (from_dir, from_name) = state.user_path(from)?;
        let obj = state.lookup(from_dir, &from_name)?;
        let (dir, name) = state.user_path(to)?;
        if state.is_dir(obj) || state.entries(dir)?.contains_key(&name) {
            return Err(error(EEXIST));
        }
        state.linked = true;
        state.change_names(vec![(dir, name.clone(), None, Some(obj))]);
        state.event(dir, &name, Hint::Appeared);
        state.event(from_dir, &from_name, Hint::Attributes);
        state.touched(to, false);
        Ok(())
    }

    pub fn user_unlink(&self, path: &RelPath) -> io::Result<()> {
        let mut state = self.state_mut();
        let (dir, name) = state.user_path(path)?;
        let obj = state.lookup(dir, &name)?;
        if state.is_dir(obj) {
            return Err(error(EISDIR));
        }
        state.dropped(obj);
        state.event(dir, &name, Hint::Vanished);
        state.change_names(vec![(dir, name, Some(obj), None)]);
        state.touched(path, false);
        state.note(What::Deleted(path.clone()));
        state.world.emptied(state.side, path);
        Ok(())
    }

    pub fn user_rmdir(&self, path: &RelPath) -> io::Result<()> {
        let mut state = self.state_mut();
        let (dir, name) = state.user_path(path)?;
        let obj = state.lookup(dir, &name)?;
        if !state.entries(obj)?.is_empty() {
            return Err(error(ENOTEMPTY));
        }
        state.event(dir, &name, Hint::Vanished);
        state.change_names(vec![(dir, name, Some(obj), None)]);
        state.watches.remove(&obj);
        state.world.given.borrow_mut().remove(path.clone());
        state.touched(path, false);
        state.note(What::Deleted(path.clone()));
        Ok(())
    }

    /// Renames as rename(2) does: a file over a file, a directory over an empty one.
    pub fn user_rename(&self, from: &RelPath, to: &RelPath) -> io::Result<()> {
        let mut state = self.state_mut();
        let (from_dir, from_name) = state.user_path(from)?;
        let obj = state.lookup(from_dir, &from_name)?;
        let (dir, name) = state.user_path(to)?;
        let victim = state.entries(dir)?.get(&name).copied();
        if state.is_within(dir, obj) {
            return Err(error(EINVAL));
        }
        if victim == Some(obj) {
            return Ok(());
        }
        match victim {
            Some(old) if state.is_dir(obj) != state.is_dir(old) => return Err(error(EISDIR)),
            Some(old) if state.is_dir(old) && !state.entries(old)?.is_empty() => return Err(error(ENOTEMPTY)),
            Some(old) => state.dropped(old),
            None => {}
        }
        state
            .change_names(vec![(from_dir, from_name.clone(), Some(obj), None), (dir, name.clone(), victim, Some(obj))]);
        if let Some(old) = victim {
            state.watches.remove(&old);
        }
        state.event(from_dir, &from_name, Hint::Vanished);
        state.follow(obj);
        state.event(dir, &name, Hint::Appeared);
        state.touched(from, true);
        state.touched(to, true);
        state.note(What::Deleted(from.clone()));
        state.note(What::Renamed { from: from.clone(), to: to.clone() });
        // Renamed without the mark of a backup it has left for good.
        match to.as_bytes().ends_with(b"~") {
            true => state.world.emptied(state.side, from),
            false => state.world.left(state.side, from),
        }
        state.world.filled(state.side, to);
        Ok(())
    }

    pub fn user_chmod(&self, path: &RelPath, mode: u32) -> io::Result<()> {
        if matches!(self.user_body(path), Some(Body::Link(_)) | None) {
            return Err(error(EINVAL));
        }
        self.state_mut().user_attr(path, |meta| meta.mode = mode)
    }

    pub fn user_chown(&self, path: &RelPath, user: &str) -> io::Result<()> {
        let mut state = self.state_mut();
        let uid = state.uid_of(user).ok_or_else(|| error(EINVAL))?;
        if state.features.no_chown {
            return Err(error(EACCES));
        }
        let is_dir = matches!(state.resolve(path).map(|obj| state.is_dir(obj)), Ok(true));
        state.user_attr(path, |meta| {
            (meta.uid, meta.gid) = (uid, uid);
            if !is_dir {
                meta.drop_rights();
            }
        })
    }

    /// Gives a file a capability.
    pub fn user_setcap(&self, path: &RelPath) -> io::Result<()> {
        if !matches!(self.user_body(path), Some(Body::File(_))) || self.state().features.no_xattrs {
            return Err(error(EINVAL));
        }
        self.state_mut().user_attr(path, |meta| {
            meta.xattrs.insert(CAPABILITY.into(), b"setuid"[..].into());
        })
    }

    pub fn user_utimes(&self, path: &RelPath, time: Time) -> io::Result<()> {
        if !matches!(self.user_body(path), Some(Body::File(_) | Body::Dir(_))) {
            return Err(error(EINVAL));
        }
        let mut state = self.state_mut();
        let time = state.round(time);
        state.user_attr(path, |meta| meta.mtime = time)?;
        let dir = state.resolve(path).ok().filter(|obj| state.is_dir(*obj));
        dir.into_iter().for_each(|dir| state.note_given(dir));
        Ok(())
    }

    pub fn user_setxattr(&self, path: &RelPath, name: &'static str, value: &[u8]) -> io::Result<()> {
        if !matches!(self.user_body(path), Some(Body::File(_) | Body::Dir(_))) || self.state().features.no_xattrs {
            return Err(error(EINVAL));
        }
        let mut state = self.state_mut();
        let before =
            state.resolve(path).ok().and_then(|obj| state.inode(obj).meta.xattrs.get(name.as_bytes()).cloned());
        let before = before.unwrap_or_default().into_vec();
        if before.is_empty() && value.is_empty() {
            return Err(error(ENOENT));
        }
        state.user_attr(path, |meta| {
            if value.is_empty() {
                meta.xattrs.remove(name.as_bytes());
            } else {
                meta.xattrs.insert(name.as_bytes().into(), value.into());
            }
        })?;
        state.world.set_xattr(state.side, path, name, before, value);
        Ok(())
    }

    pub fn user_body(&self, path: &RelPath) -> Option<Body> {
        let state = self.state();
        Some(state.inode(state.resolve(path).ok()?).body.clone())
    }
}
