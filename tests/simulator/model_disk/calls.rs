//! The trait `Disk` on the model, as psync's process calls it. Before and after every call anything may happen.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;

use psync::model::{Attrs, Kind, Name, OwnerNumber, Principal, RelPath, Side, Time, Xattrs, acls};
use psync::replica::disk::{Disk, Inodes, Lease, Leased, NotSet, Own, Space, Stat};
use psync::replica::metadata::CAPABILITY;
use psync::watch::Hint;

use super::state::*;
use crate::choice::Choices;
use crate::world::{What, World};

/// A handle on one side's disk, as one process of psync holds it. Clones are the same process.
#[derive(Clone)]
pub struct ModelDisk {
    state: Rc<RefCell<State>>,
    process: u64,
}

/// psync's open file.
pub struct ModelFile {
    disk: ModelDisk,
    obj: Obj,
    handle: u64,
    write: bool,
}

impl Drop for ModelFile {
    fn drop(&mut self) {
        let mut state = self.disk.state.borrow_mut();
        if state.process != self.disk.process || !state.volume.inodes.contains_key(&self.obj) {
            return;
        }
        let (handle, write) = (self.handle, self.write);
        let inode = state.inode_mut(self.obj);
        inode.handles -= 1;
        inode.write_handles -= u32::from(write);
        inode.leases.retain(|held| held.handle != handle);
        if write {
            state.event_of(self.obj, Hint::Closed);
        }
        state.collect(self.obj);
    }
}

/// What psync holds on to.
pub struct ModelPin {
    disk: ModelDisk,
    obj: Obj,
    /// Its names when psync last looked at it.
    names: Cell<Option<u32>>,
}

impl Drop for ModelPin {
    fn drop(&mut self) {
        let mut state = self.disk.state.borrow_mut();
        if state.process == self.disk.process && state.volume.inodes.contains_key(&self.obj) {
            state.inode_mut(self.obj).pins -= 1;
            state.collect(self.obj);
        }
    }
}

impl ModelDisk {
    pub fn new(side: Side, world: Rc<World>, features: Features, choices: Choices) -> ModelDisk {
        let state = State::new(side, world, features, choices);
        ModelDisk { process: state.process, state: Rc::new(RefCell::new(state)) }
    }

    /// The same disk for a new process; the old process is dead, and all it had open is closed.
    pub fn restart(&self) -> ModelDisk {
        let mut state = self.state.borrow_mut();
        state.kill();
        ModelDisk { process: state.process, state: self.state.clone() }
    }

    /// A handle for the process that is running now.
    pub fn current(&self) -> ModelDisk {
        ModelDisk { process: self.state.borrow().process, state: self.state.clone() }
    }

    pub fn is_dead(&self) -> bool {
        self.state.borrow().process != self.process
    }

    pub fn state(&self) -> std::cell::Ref<'_, State> {
        self.state.borrow()
    }

    pub fn state_mut(&self) -> std::cell::RefMut<'_, State> {
        self.state.borrow_mut()
    }

    pub fn pause(&self) {
        let (world, side) = {
            let state = self.state.borrow();
            (state.world.clone(), state.side)
        };
        world.pause(Some(side));
    }

    fn check(&self) -> io::Result<()> {
        let mut state = self.state.borrow_mut();
        if state.process != self.process {
            return Err(io::Error::other("the process is dead"));
        }
        state.world.advance(900);
        match state.fail_in {
            Some(0) => {
                state.fail_in = None;
                Err(error(EIO))
            }
            Some(calls) => {
                state.fail_in = Some(calls - 1);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// One call: users may come before and after it.
    fn call<T>(&self, work: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        self.pause();
        self.check()?;
        self.state.borrow_mut().by_psync = true;
        let result = work(&mut self.state.borrow_mut());
        self.state.borrow_mut().by_psync = false;
        self.pause();
        if self.is_dead() { Err(io::Error::other("the process is dead")) } else { result }
    }

    fn open(&self, state: &mut State, obj: Obj, write: bool) -> ModelFile {
        state.next_handle += 1;
        let handle = state.next_handle;
        let inode = state.inode_mut(obj);
        inode.handles += 1;
        inode.write_handles += u32::from(write);
        ModelFile { disk: self.clone(), obj, handle, write }
    }
}

impl State {
    /// psync's process ends; the kernel closes what it had open.
    pub fn kill(&mut self) {
        self.process += 1;
        self.watches.clear();
        self.events.clear();
        self.fail_in = None;
        let open: Vec<Obj> = self
            .volume
            .inodes
            .iter()
            .filter(|(_, inode)| inode.handles + inode.pins > 0)
            .map(|(obj, _)| *obj)
            .collect();
        for obj in open {
            let inode = self.inode_mut(obj);
            (inode.handles, inode.write_handles, inode.pins) = (0, 0, 0);
            inode.leases.clear();
            self.collect(obj);
        }
        // Whoever finds it in the stage cannot know any more.
        self.volume.inodes.values_mut().for_each(|inode| inode.pulled = false);
    }

    /// Before an exchange of an object of the stage with one that users see.
    fn watch_writers(&mut self, staged: Obj, victim: Obj) {
        let refused = !self.features.no_leases && !self.inode(victim).denied && self.inode(victim).writers > 0;
        // What has been seen before goes back to its place.
        let new = !self.inode(staged).shown;
        self.inode_mut(staged).pulled = false;
        self.inode_mut(victim).pulled = new && refused;
    }

    /// Invariant 4, for a file that somebody is writing: no lease was to be had, so it is not displaced for good.
    fn check_displaced(&mut self, obj: Obj) {
        if std::mem::take(&mut self.inode_mut(obj).pulled) {
            self.world
                .violation(format!("wrong victim: {}: a file that a user has open was replaced", self.side.word()));
        }
    }

    /// The kernel has no rename of what a descriptor refers to: if a user replaced the object since psync looked, his
    /// gets the new name, and is found there as an object of his. Nobody can tell that he did not mean it.
    fn note_misled(&self, from: (Obj, &Name), to: (Obj, &Name), obj: Obj) {
        if self.looked_at.get(&(from.0, from.1.clone())) == Some(&obj) {
            return;
        }
        for (dir, name) in [from, to] {
            if let Some(path) = self.path_of(dir).and_then(|above| above.join(name).ok()) {
                self.note(What::Touched { path, deep: true });
            }
        }
    }

    fn own_only(&self, dir: Obj) -> io::Result<()> {
        if !self.is_own_dir(dir) {
            self.world.violation(format!("{}: an object was to be made in a users' directory", self.side.word()));
            return Err(error(EACCES));
        }
        if self.no_space || self.no_inodes { Err(error(ENOSPC)) } else { Ok(()) }
    }

    fn add(&mut self, dir: Obj, name: &Name, body: Body, mode: u32) -> io::Result<Obj> {
        self.own_only(dir)?;
        if self.entries(dir)?.contains_key(name) {
            return Err(error(EEXIST));
        }
        let obj = self.make(body, mode);
        if self.is_dir(obj) {
            self.volume.disk_names.insert(obj, BTreeMap::new());
        }
        self.change_names(vec![(dir, name.clone(), None, Some(obj))]);
        Ok(obj)
    }

    fn count_change(&mut self, names: [(Obj, &Name); 2]) {
        self.visible_changes += u64::from(names.into_iter().any(|(dir, _)| self.is_within(dir, ROOT)));
        let paths = names.map(|(dir, name)| self.path_of(dir).and_then(|dir| dir.join(name).ok()));
        paths.into_iter().flatten().for_each(|path| self.note_change(path));
    }

    /// Users work in the directory that has their side's name; another one is none of theirs alone.
    fn note_change(&mut self, path: RelPath) {
        let home = RelPath::new(self.side.word().as_bytes()).expect("a short name");
        if path.is_below(&home) && self.changed_at_home.is_none() {
            self.changed_at_home = Some(path);
        }
    }

    fn allowed(&self, obj: Obj) -> io::Result<()> {
        if self.inode(obj).denied { Err(error(EACCES)) } else { Ok(()) }
    }

    fn live(&self, obj: Obj) -> io::Result<()> {
        if self.volume.inodes.contains_key(&obj) { Ok(()) } else { Err(error(EIO)) }
    }

    fn set_whole(&mut self, obj: Obj, kind: Kind, attrs: &Attrs, held: Option<&Xattrs>) -> io::Result<NotSet> {
        if self.stat(obj).kind != Some(kind) {
            return Err(error(EINVAL));
        }
        let not_set = self.set(obj, kind, attrs, held);
        self.visible_changes += u64::from(self.is_within(obj, ROOT));
        self.check_rights(obj);
        self.check_sight(obj);
        self.path_of(obj).into_iter().for_each(|path| self.note_change(path));
        self.event_of(obj, Hint::Attributes);
        Ok(not_set)
    }

    fn live_file(&self, file: &ModelFile) -> io::Result<()> {
        if self.volume.inodes.contains_key(&file.obj) { Ok(()) } else { Err(error(EIO)) }
    }

    fn set(&mut self, obj: Obj, kind: Kind, attrs: &Attrs, held: Option<&Xattrs>) -> NotSet {
        let mut what = Vec::new();
        let now = self.stamp();
        let mtime = self.round(attrs.mtime);
        let features = self.features.clone();
        let user = self.number_of(&attrs.user);
        let group = self.number_of(&attrs.group);
        let me = self.me();
        let inode = self.inode_mut(obj);
        inode.told_rights = false;
        match user {
            Some(uid) if !features.no_chown || uid == me => inode.meta.uid = uid,
            _ => what.push("owner"),
        }
        match group {
            Some(gid) if !features.no_chown || gid == me => inode.meta.gid = gid,
            _ => what.push("group"),
        }
        if kind != Kind::Link {
            if features.no_xattrs {
                if !attrs.xattrs.is_empty() {
                    what.push("xattr");
                }
            } else {
                let before = std::mem::replace(&mut inode.meta.xattrs, attrs.xattrs.clone());
                for name in before.keys().chain(attrs.xattrs.keys()) {
                    // What a user set this very moment stays.
                    let meant = acls::goes_with_mode(name) || **name == *CAPABILITY;
                    if !meant && held.is_some_and(|held| held.get(name) != before.get(name)) {
                        match before.get(name) {
                            Some(value) => inode.meta.xattrs.insert(name.clone(), value.clone()),
                            None => inode.meta.xattrs.remove(name),
                        };
                    }
                }
            }
            inode.meta.mode = attrs.mode;
            if features.drops_setgid && attrs.mode & 0o2000 != 0 {
                inode.meta.mode &= !0o2000;
                what.push("mode");
            }
        }
        if kind == Kind::File {
            inode.meta.mtime = mtime;
            if mtime != attrs.mtime {
                what.push("mtime");
            }
        }
        inode.meta.ctime = now;
        NotSet { what, ..NotSet::default() }
    }

    fn number_of(&self, principal: &Principal) -> Option<u32> {
        match principal {
            Principal::Id(id) => Some(*id),
            Principal::Name(name) => self.uid_of(name),
        }
    }

    fn principal(&self, id: u32) -> Principal {
        match self.name_of(id).filter(|_| id != 0) {
            Some(name) => Principal::Name(name.into()),
            None => Principal::Id(id),
        }
    }

    /// psync takes an object away from a name: users must not miss it where there was one all the time.
    fn note_vacated(&self, dir: Obj, name: &Name, obj: Obj) {
        if let (Body::File(_), Some(path)) =
            (&self.inode(obj).body, self.path_of(dir).and_then(|dir| dir.join(name).ok()))
        {
            let born = self.inode(obj).btime;
            let born = i128::from(born.secs) * 1_000_000_000 + i128::from(born.nanos);
            let age = u64::try_from(self.wall_nanos() - born).unwrap_or(0);
            self.world.vacate(self.side, path, age);
        }
    }

    fn remove_below(&mut self, dir: Obj, name: &Name) -> io::Result<()> {
        let obj = self.lookup(dir, name)?;
        if self.is_dir(obj) {
            for child in self.entries(obj)?.keys().cloned().collect::<Vec<_>>() {
                self.remove_below(obj, &child)?;
            }
        }
        self.change_names(vec![(dir, name.clone(), Some(obj), None)]);
        Ok(())
    }
}

impl Disk for ModelDisk {
    type Dir = Obj;
    type File = ModelFile;
    type Pin = ModelPin;

    fn open_dir(&self, path: &RelPath) -> io::Result<Obj> {
        self.call(|state| {
            let obj = state.resolve(path)?;
            state.entries(obj)?;
            state.allowed(obj)?;
            Ok(obj)
        })
    }

    fn open_child(&self, dir: &Obj, name: &Name, _path: &RelPath) -> io::Result<Obj> {
        self.call(|state| {
            let obj = state.lookup(*dir, name)?;
            state.entries(obj)?;
            state.allowed(obj)?;
            Ok(obj)
        })
    }

    fn own(&self, which: Own) -> io::Result<Obj> {
        self.call(|_| Ok(if which == Own::Stage { STAGE } else { TRASH }))
    }

    fn stat_dir(&self, dir: &Obj) -> io::Result<Stat> {
        self.call(|state| if state.is_attached(*dir) { Ok(state.stat(*dir)) } else { Err(error(ENOENT)) })
    }

    fn stat(&self, dir: &Obj, name: &Name) -> io::Result<Stat> {
        self.call(|state| {
            let obj = state.lookup(*dir, name)?;
            state.looked_at.insert((*dir, name.clone()), obj);
            Ok(state.stat(obj))
        })
    }

    fn list(&self, dir: &Obj) -> io::Result<Vec<(Name, Stat)>> {
        let names: Vec<Name> = self.call(|state| {
            state.allowed(*dir)?;
            Ok(state.entries(*dir)?.keys().cloned().collect())
        })?;
        let mut found = Vec::new();
        for name in names {
            match self.call(|state| Ok(state.stat(state.lookup(*dir, &name)?))) {
                Ok(stat) => found.push((name, stat)),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Ok(found)
    }

    fn watch(&self, dir: &Obj, path: &RelPath) -> io::Result<()> {
        self.call(|state| {
            state.entries(*dir)?;
            state.watches.insert(*dir, path.clone());
            Ok(())
        })
    }

    fn pin(&self, dir: &Obj, name: &Name) -> io::Result<ModelPin> {
        self.call(|state| {
            let obj = state.lookup(*dir, name)?;
            state.looked_at.insert((*dir, name.clone()), obj);
            state.inode_mut(obj).pins += 1;
            Ok(ModelPin { disk: self.clone(), obj, names: Cell::new(None) })
        })
    }

    fn stat_pin(&self, pin: &ModelPin) -> io::Result<Stat> {
        self.call(|state| {
            state.live(pin.obj)?;
            let stat = state.stat(pin.obj);
            pin.names.set(Some(stat.nlink));
            Ok(stat)
        })
    }

    fn open_pinned(&self, pin: &ModelPin) -> io::Result<ModelFile> {
        self.call(|state| {
            state.live(pin.obj)?;
            state.allowed(pin.obj)?;
            match state.inode(pin.obj).body {
                Body::File(_) => Ok(self.open(state, pin.obj, false)),
                _ => Err(error(EINVAL)),
            }
        })
    }

    fn pinned_xattrs(&self, pin: &ModelPin, _kind: Kind) -> io::Result<Xattrs> {
        self.call(|state| {
            state.live(pin.obj)?;
            state.allowed(pin.obj)?;
            Ok(state.inode(pin.obj).meta.xattrs.clone())
        })
    }

    fn set_pinned_attrs(&self, pin: &ModelPin, kind: Kind, attrs: &Attrs, held: &Xattrs) -> io::Result<NotSet> {
        self.call(|state| {
            state.live(pin.obj)?;
            state.allowed(pin.obj)?;
            let side = state.side.word();
            // Whose a file is that has other names as well, psync cannot know; nor that of an object that it has not seen.
            match pin.names.get() {
                None => {
                    state.world.violation(format!("unseen: {side}: attributes of an object that was not looked at"))
                }
                Some(names) if kind == Kind::File && names > 1 => {
                    state.world.violation(format!("linked: {side}: attributes of a file with other names were set"));
                }
                Some(_) => {}
            }
            state.set_whole(pin.obj, kind, attrs, Some(held))
        })
    }

    fn set_pinned_mode(&self, pin: &ModelPin, mode: u32) -> io::Result<bool> {
        self.call(|state| {
            state.live(pin.obj)?;
            state.allowed(pin.obj)?;
            let side = state.side.word();
            if pin.names.get().is_none_or(|names| names > 1 && !state.is_dir(pin.obj)) {
                state.world.violation(format!("linked: {side}: the mode of a file with other names was set"));
            }
            let now = state.stamp();
            let meta = &mut state.inode_mut(pin.obj).meta;
            (meta.mode, meta.ctime) = (mode, now);
            state.check_rights(pin.obj);
            state.check_sight(pin.obj);
            state.path_of(pin.obj).into_iter().for_each(|path| state.note_change(path));
            state.event_of(pin.obj, Hint::Attributes);
            Ok(true)
        })
    }

    fn set_dir_time(&self, dir: &Obj, from: Time, to: Time) -> io::Result<bool> {
        self.call(|state| {
            state.live(*dir)?;
            // It is open: whose it is counts then, and not what may be done in it.
            if state.features.no_chown && state.inode(*dir).meta.uid != state.me() {
                return Err(error(EPERM));
            }
            let (now, to) = (state.stamp(), state.round(to));
            let meta = &mut state.inode_mut(*dir).meta;
            if meta.mtime != from {
                return Ok(false);
            }
            (meta.mtime, meta.ctime) = (to, now);
            state.event_of(*dir, Hint::Attributes);
            Ok(true)
        })
    }

    fn open_file(&self, dir: &Obj, name: &Name) -> io::Result<ModelFile> {
        self.call(|state| {
            let obj = state.lookup(*dir, name)?;
            state.allowed(obj)?;
            match state.inode(obj).body {
                Body::File(_) => Ok(self.open(state, obj, false)),
                _ => Err(error(EINVAL)),
            }
        })
    }

    fn stat_file(&self, file: &ModelFile) -> io::Result<Stat> {
        self.call(|state| {
            state.live_file(file)?;
            Ok(state.stat(file.obj))
        })
    }

    fn read_at(&self, file: &ModelFile, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.call(|state| {
            state.live_file(file)?;
            let Body::File(contents) = &state.inode(file.obj).body else { return Err(error(EIO)) };
            let rest = contents.get(offset as usize..).unwrap_or_default();
            let count = rest.len().min(buffer.len());
            buffer[..count].copy_from_slice(&rest[..count]);
            Ok(count)
        })
    }

    fn next_data(&self, file: &ModelFile, offset: u64, size: u64) -> io::Result<Option<(u64, u64)>> {
        self.call(|state| {
            state.live_file(file)?;
            let Body::File(contents) = &state.inode(file.obj).body else { return Err(error(EIO)) };
            let end = size.min(contents.len() as u64);
            Ok((offset < end).then_some((offset, end)))
        })
    }

    fn snapshot(&self, file: &ModelFile) -> Option<ModelFile> {
        let copy = self.call(|state| {
            state.live_file(file)?;
            if !state.features.clones || state.no_space || state.no_inodes {
                return Err(error(EINVAL));
            }
            let body = state.inode(file.obj).body.clone();
            let copy = state.make(body, 0o600);
            Ok(self.open(state, copy, false))
        });
        copy.ok()
    }

    fn space(&self) -> Option<Space> {
        let total = 1 << 30;
        let state = self.state();
        let inodes = state.no_inodes.then_some(Inodes { total: 1 << 16, free: 0 });
        Some(Space { total, free: if state.no_space { 0 } else { total / 2 }, inodes })
    }

    fn read_link(&self, dir: &Obj, name: &Name) -> io::Result<Box<[u8]>> {
        self.call(|state| match &state.inode(state.lookup(*dir, name)?).body {
            Body::Link(target) => Ok(target.clone()),
            _ => Err(error(EINVAL)),
        })
    }

    fn xattrs(&self, dir: &Obj, name: &Name, _kind: Kind) -> io::Result<Xattrs> {
        self.call(|state| {
            let obj = state.lookup(*dir, name)?;
            state.allowed(obj)?;
            Ok(state.inode(obj).meta.xattrs.clone())
        })
    }

    fn file_xattrs(&self, file: &ModelFile, _at: (&Obj, &Name)) -> io::Result<Xattrs> {
        self.call(|state| {
            state.live_file(file)?;
            Ok(state.inode(file.obj).meta.xattrs.clone())
        })
    }

    fn unsettled(&self, stat: &Stat) -> bool {
        let state = self.state.borrow();
        // The stat is up to some milliseconds old when this is asked.
        state.features.coarse_clock && stat.ctime >= time_of(state.wall_nanos() - 24_000_000)
    }

    fn lease(&self, file: &ModelFile, lease: Lease) -> io::Result<Leased> {
        self.call(|state| {
            state.live_file(file)?;
            if state.features.no_leases {
                return Ok(Leased::Unsupported);
            }
            let inode = state.inode_mut(file.obj);
            let refused = match lease {
                Lease::Read => inode.writers > 0 || inode.write_handles > 0,
                Lease::Write => inode.writers > 0 || inode.handles > 1,
            };
            if refused || inode.waiters > 0 {
                return Ok(Leased::Refused);
            }
            inode.leases.push(HeldLease { handle: file.handle, lease, broken: false });
            Ok(Leased::Granted)
        })
    }

    fn lease_holds(&self, file: &ModelFile, lease: Lease) -> bool {
        self.pause();
        let state = self.state.borrow();
        state.process == self.process
            && state.volume.inodes.get(&file.obj).is_some_and(|inode| {
                inode.leases.iter().any(|held| held.handle == file.handle && held.lease == lease && !held.broken)
            })
    }

    fn release(&self, file: &ModelFile) {
        {
            let mut state = self.state.borrow_mut();
            if state.process == self.process && state.volume.inodes.contains_key(&file.obj) {
                state.inode_mut(file.obj).leases.retain(|held| held.handle != file.handle);
            }
        }
        self.pause();
    }

    fn create(&self, dir: &Obj, name: &Name) -> io::Result<ModelFile> {
        self.call(|state| {
            let obj = state.add(*dir, name, Body::File(Vec::new()), 0o600)?;
            Ok(self.open(state, obj, true))
        })
    }

    fn write_at(&self, file: &ModelFile, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.call(|state| state.write_own(file, |contents| write(contents, offset as usize, bytes)))
    }

    fn set_len(&self, file: &ModelFile, size: u64) -> io::Result<()> {
        self.call(|state| state.write_own(file, |contents| contents.resize(size as usize, 0)))
    }

    fn make_dir(&self, dir: &Obj, name: &Name) -> io::Result<()> {
        self.call(|state| state.add(*dir, name, Body::Dir(BTreeMap::new()), 0o700).map(drop))
    }

    fn make_fifo(&self, dir: &Obj, name: &Name) -> io::Result<()> {
        self.call(|state| state.add(*dir, name, Body::Fifo, 0o600).map(drop))
    }

    fn make_link(&self, dir: &Obj, name: &Name, target: &[u8]) -> io::Result<()> {
        self.call(|state| state.add(*dir, name, Body::Link(target.into()), 0).map(drop))
    }

    fn set_attrs(&self, dir: &Obj, name: &Name, kind: Kind, attrs: &Attrs) -> io::Result<NotSet> {
        self.call(|state| {
            if !state.is_own_dir(*dir) {
                state.world.violation(format!("{}: attributes were set by a name of users'", state.side.word()));
                return Err(error(EACCES));
            }
            let obj = state.lookup(*dir, name)?;
            state.allowed(obj)?;
            state.set_whole(obj, kind, attrs, None)
        })
    }

    fn sync_files(&self, files: &[&ModelFile]) -> io::Result<()> {
        self.call(|state| {
            files.iter().try_for_each(|file| state.live_file(file))?;
            files.iter().for_each(|file| state.save(file.obj));
            Ok(())
        })
    }

    fn sync_dirs(&self, dirs: &[&Obj]) -> io::Result<()> {
        self.call(|state| {
            let live: Vec<Obj> =
                dirs.iter().copied().copied().filter(|dir| state.volume.inodes.contains_key(dir)).collect();
            state.save_names(&live);
            for dir in live.into_iter().filter(|dir| state.volume.inodes.contains_key(dir)).collect::<Vec<_>>() {
                state.save(dir);
            }
            Ok(())
        })
    }

    fn sync_whole(&self, objects: usize, _bytes: u64) -> bool {
        let all = |state: &mut State| {
            state.save_all();
            Ok(())
        };
        objects >= 5 && self.call(all).is_ok()
    }

    fn rename(&self, from: (&Obj, &Name), to: (&Obj, &Name)) -> io::Result<()> {
        self.call(|state| {
            let obj = state.lookup(*from.0, from.1)?;
            if !state.is_attached(*to.0) {
                return Err(error(ENOENT));
            }
            if state.entries(*to.0)?.contains_key(to.1) {
                return Err(error(EEXIST));
            }
            if state.is_within(*to.0, obj) {
                return Err(error(EINVAL));
            }
            if state.features.layers && state.is_dir(obj) && obj % 3 == 0 && state.is_within(*from.0, ROOT) {
                return Err(error(EXDEV));
            }
            state.check_displaced(obj);
            state.note_misled((*from.0, from.1), (*to.0, to.1), obj);
            state.note_vacated(*from.0, from.1, obj);
            state
                .change_names(vec![(*from.0, from.1.clone(), Some(obj), None), (*to.0, to.1.clone(), None, Some(obj))]);
            state.count_change([(*from.0, from.1), (*to.0, to.1)]);
            state.event(*from.0, from.1, Hint::Vanished);
            state.follow(obj);
            state.event(*to.0, to.1, Hint::Appeared);
            state.check_whole(obj);
            state.check_rights(obj);
            state.check_sight(obj);
            Ok(())
        })
    }

    fn exchange(&self, a: (&Obj, &Name), b: (&Obj, &Name)) -> io::Result<()> {
        self.call(|state| {
            let (first, second) = (state.lookup(*a.0, a.1)?, state.lookup(*b.0, b.1)?);
            if state.is_within(*a.0, second) || state.is_within(*b.0, first) {
                return Err(error(EINVAL));
            }
            state.watch_writers(first, second);
            state.change_names(vec![
                (*a.0, a.1.clone(), Some(first), Some(second)),
                (*b.0, b.1.clone(), Some(second), Some(first)),
            ]);
            state.count_change([(*a.0, a.1), (*b.0, b.1)]);
            for (dir, name) in [a, b] {
                state.event(*dir, name, Hint::Vanished);
                state.event(*dir, name, Hint::Appeared);
            }
            state.follow(first);
            state.follow(second);
            state.check_whole(first);
            state.check_rights(first);
            state.check_sight(first);
            state.check_whole(second);
            state.check_rights(second);
            state.check_sight(second);
            Ok(())
        })
    }

    fn remove_empty(&self, dir: &Obj, name: &Name) -> io::Result<()> {
        self.call(|state| {
            let obj = state.lookup(*dir, name)?;
            if !state.entries(obj)?.is_empty() {
                return Err(error(ENOTEMPTY));
            }
            state.change_names(vec![(*dir, name.clone(), Some(obj), None)]);
            state.count_change([(*dir, name), (*dir, name)]);
            state.event(*dir, name, Hint::Vanished);
            Ok(())
        })
    }

    fn discard(&self, dir: &Obj, name: &Name) -> io::Result<()> {
        self.call(|state| {
            if !state.is_within(*dir, STAGE) && !state.is_within(*dir, TRASH) {
                state.world.violation(format!("{}: discard in a users' directory", state.side.word()));
                return Err(error(EACCES));
            }
            state.remove_below(*dir, name)
        })
    }

    fn principals(&self, uid: u32, gid: u32) -> (Principal, Principal) {
        let state = self.state.borrow();
        (state.principal(uid), state.principal(gid))
    }

    fn is_system(&self, _group: bool, principal: &Principal) -> bool {
        match principal {
            Principal::Id(id) => *id < 1000,
            Principal::Name(name) => super::state::system_names().contains(&&**name),
        }
    }

    fn names_used(&self, again: bool) -> Vec<OwnerNumber> {
        let mut state = self.state.borrow_mut();
        if std::mem::replace(&mut state.names_told, true) && !again {
            return Vec::new();
        }
        state.numbers()
    }

    fn boot_id(&self) -> [u8; 16] {
        [self.state.borrow().boot as u8; 16]
    }

    fn wall_time(&self) -> Time {
        time_of(self.state.borrow().wall_nanos())
    }
}

/// Puts bytes into contents; what lies between is a hole.
pub fn write(contents: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if contents.len() < offset + bytes.len() {
        contents.resize(offset + bytes.len(), 0);
    }
    contents[offset..offset + bytes.len()].copy_from_slice(bytes);
}

impl State {
    fn write_own(&mut self, file: &ModelFile, change: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        self.live_file(file)?;
        if self.no_space {
            return Err(error(ENOSPC));
        }
        if !file.write {
            return Err(error(EINVAL));
        }
        if self.is_within(file.obj, ROOT) {
            self.world.violation(format!("{}: psync wrote into a file under a users' name", self.side.word()));
        }
        let now = self.stamp();
        let rounded = self.round(now);
        let inode = self.inode_mut(file.obj);
        (inode.meta.mtime, inode.meta.ctime) = (rounded, now);
        if let Body::File(contents) = &mut inode.body {
            change(contents);
        }
        Ok(())
    }
}
