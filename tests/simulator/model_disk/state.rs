//! Inodes, names and time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::rc::Rc;

use psync::model::{Kind, Name, OwnerNumber, RelPath, Side, Time, Xattrs};
use psync::replica::disk::{Lease, Stat};
use psync::watch::Event;

use super::power::NameOp;
use super::user::UserFile;
use crate::choice::Choices;
use crate::sight::Eyes;
use crate::world::{What, World};

/// An object's identity in the model; unlike inode numbers never used twice.
pub type Obj = u64;

pub const ROOT: Obj = 1;
pub const STAGE: Obj = 2;
pub const TRASH: Obj = 3;

/// Seconds since 1970 at the start of every history.
pub const EPOCH: i64 = 1_700_000_000;

/// What this side's file system and rights allow.
#[derive(Debug, Clone, Default)]
pub struct Features {
    /// Times come from a tick of 4 ms.
    pub coarse_clock: bool,
    /// Modification times have no fraction.
    pub whole_seconds: bool,
    pub no_chown: bool,
    pub no_xattrs: bool,
    pub drops_setgid: bool,
    pub no_leases: bool,
    /// Every third directory cannot be renamed once it has a name in the tree, as one of an overlay's lower layer.
    pub layers: bool,
    /// A file can be copied as it is at one moment.
    pub clones: bool,
    /// Not the disk's: psync does not wait until users close their files.
    pub sends_open: bool,
    /// Nor is this: this side reports no ACLs.
    pub keeps_acls: bool,
    /// Nor is this: this side takes no ACLs.
    pub gives_acls: bool,
    /// Nor is this: FIFOs travel.
    pub fifos: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    File(Vec<u8>),
    Dir(BTreeMap<Name, Obj>),
    Link(Box<[u8]>),
    Fifo,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Time,
    pub ctime: Time,
    pub xattrs: Xattrs,
}

/// What of an object has reached the disk.
#[derive(Debug, Clone)]
pub struct Saved {
    /// A file's contents; empty for other kinds.
    pub contents: Vec<u8>,
    pub meta: Meta,
}

#[derive(Debug, Clone)]
pub struct HeldLease {
    pub handle: u64,
    pub lease: Lease,
    pub broken: bool,
}

#[derive(Debug, Clone)]
pub struct Inode {
    pub ino: u64,
    pub btime: Time,
    pub body: Body,
    pub meta: Meta,
    pub names: BTreeSet<(Obj, Name)>,
    pub saved: Option<Saved>,
    /// A user removed its last name: what is written to it afterwards is nobody's loss.
    pub dropped_by_user: bool,
    /// A user made it or wrote to it.
    pub by_user: bool,
    /// A user gave it the rights that it has.
    pub told_rights: bool,
    /// Who could read it under a users' name.
    pub readers: Eyes,
    /// It lies under a users' name, or did.
    pub shown: bool,
    /// psync exchanged it for a new object while a user had it open for writing.
    pub pulled: bool,
    /// Its number may be given to another object.
    pub freed: bool,
    /// psync's rights do not suffice.
    pub denied: bool,
    /// Users' descriptors open for writing.
    pub writers: u32,
    /// psync's descriptors, and those of them that write.
    pub handles: u32,
    pub write_handles: u32,
    /// What psync holds on to without opening it.
    pub pins: u32,
    pub leases: Vec<HeldLease>,
    /// Users' processes that wait for a lease to end.
    pub waiters: u32,
}

/// Everything that a snapshot of the volume holds.
#[derive(Debug, Clone)]
pub struct Volume {
    pub inodes: BTreeMap<Obj, Inode>,
    pub next_obj: Obj,
    pub next_ino: u64,
    pub free_inos: Vec<u64>,
    /// The names that are on disk.
    pub disk_names: BTreeMap<Obj, BTreeMap<Name, Obj>>,
    /// What happened to names since, in order.
    pub log: Vec<NameOp>,
}

pub struct State {
    pub side: Side,
    pub world: Rc<World>,
    pub features: Features,
    pub volume: Volume,
    /// psync's process: handles of an earlier one are dead.
    pub process: u64,
    /// psync is at work in a call; else it is a user.
    pub by_psync: bool,
    pub boot: u64,
    pub clock_offset: i64,
    pub next_handle: u64,
    pub user_files: BTreeMap<u64, UserFile>,
    pub waiting: BTreeMap<u64, UserFile>,
    pub watches: BTreeMap<Obj, RelPath>,
    pub events: VecDeque<Event>,
    pub no_space: bool,
    /// There is room for bytes, and no inode is free.
    pub no_inodes: bool,
    /// The next call but this many fails with EIO.
    pub fail_in: Option<u32>,
    /// psync's calls that changed what users see.
    pub visible_changes: u64,
    /// The first thing that psync changed below the directory that has this side's name.
    pub changed_at_home: Option<RelPath>,
    /// Users made hard links.
    pub linked: bool,
    /// What psync found when it last looked at a name.
    pub looked_at: BTreeMap<(Obj, Name), Obj>,
    pub choices: Choices,
    /// psync's process told the numbers of its names.
    pub names_told: bool,
}

/// Who there is, with numbers on the left and on the right.
const NAMES: [(&str, u32, Option<u32>); 5] = [
    ("root", 0, Some(0)),
    ("alice", 1000, Some(2001)),
    ("bob", 1001, Some(2000)),
    ("carol", 1002, None),
    ("daemon", 120, Some(130)),
];

/// Those whom either side has among its system's.
pub fn system_names() -> Vec<&'static str> {
    let system = |entry: &&(&str, u32, Option<u32>)| entry.1 < 1000 || entry.2.is_some_and(|id| id < 1000);
    NAMES.iter().filter(system).map(|entry| entry.0).collect()
}

pub fn error(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

pub const ENOENT: i32 = 2;
pub const EIO: i32 = 5;
pub const EPERM: i32 = 1;
pub const EACCES: i32 = 13;
pub const EEXIST: i32 = 17;
pub const EXDEV: i32 = 18;
pub const ENOTDIR: i32 = 20;
pub const EISDIR: i32 = 21;
pub const EINVAL: i32 = 22;
pub const ENOSPC: i32 = 28;
pub const ENOTEMPTY: i32 = 39;

impl State {
    pub fn new(side: Side, world: Rc<World>, features: Features, choices: Choices) -> State {
        let volume = Volume {
            inodes: BTreeMap::new(),
            next_obj: 1,
            next_ino: 100,
            free_inos: Vec::new(),
            disk_names: BTreeMap::new(),
            log: Vec::new(),
        };
        let mut state = State {
            side,
            world,
            features,
            volume,
            process: 1,
            by_psync: false,
            boot: 1,
            clock_offset: 0,
            next_handle: 1,
            user_files: BTreeMap::new(),
            waiting: BTreeMap::new(),
            watches: BTreeMap::new(),
            events: VecDeque::new(),
            no_space: false,
            no_inodes: false,
            fail_in: None,
            visible_changes: 0,
            changed_at_home: None,
            linked: false,
            looked_at: BTreeMap::new(),
            choices,
            names_told: false,
        };
        for (expected, mode) in [(ROOT, 0o755), (STAGE, 0o700), (TRASH, 0o700)] {
            let obj = state.make(Body::Dir(BTreeMap::new()), mode);
            assert_eq!(obj, expected);
            state.volume.disk_names.insert(obj, BTreeMap::new());
            state.save(obj);
        }
        state
    }

    /// Nanoseconds since 1970 as this side's clock tells them.
    pub fn wall_nanos(&self) -> i128 {
        (EPOCH as i128) * 1_000_000_000 + self.clock_offset as i128 + self.world.nanos() as i128
    }

    /// The time that the file system gives to a change now.
    pub fn stamp(&mut self) -> Time {
        self.world.advance(1_003);
        let mut nanos = self.wall_nanos();
        if self.features.coarse_clock {
            nanos -= nanos.rem_euclid(4_000_000);
        }
        time_of(nanos)
    }

    pub fn round(&self, time: Time) -> Time {
        if self.features.whole_seconds { Time { secs: time.secs, nanos: 0 } } else { time }
    }

    /// The user as whom new objects are made: psync without rights is one of the users.
    pub fn me(&self) -> u32 {
        if self.features.no_chown { self.uid_of("alice").unwrap_or(0) } else { 0 }
    }

    /// The same names have different numbers on the two sides; carol exists on the left only.
    pub fn uid_of(&self, name: &str) -> Option<u32> {
        let found = NAMES.iter().find(|entry| entry.0 == name)?;
        if self.side == Side::Left { Some(found.1) } else { found.2 }
    }

    pub fn name_of(&self, uid: u32) -> Option<&'static str> {
        NAMES.iter().map(|entry| entry.0).find(|name| self.uid_of(name) == Some(uid))
    }

    /// The numbers that names have here; users and groups have the same.
    pub fn numbers(&self) -> Vec<OwnerNumber> {
        let all = NAMES.iter().filter_map(|entry| Some((entry.0, self.uid_of(entry.0)?)));
        let all = all.filter(|(_, id)| *id != 0);
        all.flat_map(|(name, id)| [false, true].map(|group| OwnerNumber { group, name: name.into(), id })).collect()
    }

    /// A new object without a name.
    pub fn make(&mut self, body: Body, mode: u32) -> Obj {
        let obj = self.volume.next_obj;
        self.volume.next_obj += 1;
        let ino = self.volume.free_inos.pop().unwrap_or_else(|| {
            self.volume.next_ino += 1;
            self.volume.next_ino
        });
        let now = self.stamp();
        // Two objects of one number differ in their birth even on a coarse clock: ext4 has nanoseconds there.
        let btime = time_of(self.wall_nanos());
        let meta =
            Meta { mode, uid: self.me(), gid: self.me(), mtime: self.round(now), ctime: now, xattrs: Xattrs::new() };
        let inode = Inode {
            ino,
            btime,
            body,
            meta,
            names: BTreeSet::new(),
            saved: None,
            dropped_by_user: false,
            by_user: false,
            told_rights: false,
            readers: 0,
            shown: false,
            pulled: false,
            freed: false,
            denied: false,
            writers: 0,
            handles: 0,
            write_handles: 0,
            pins: 0,
            leases: Vec::new(),
            waiters: 0,
        };
        self.volume.inodes.insert(obj, inode);
        obj
    }

    pub fn inode(&self, obj: Obj) -> &Inode {
        &self.volume.inodes[&obj]
    }

    pub fn inode_mut(&mut self, obj: Obj) -> &mut Inode {
        self.volume.inodes.get_mut(&obj).expect("a live object")
    }

    pub fn entries(&self, dir: Obj) -> io::Result<&BTreeMap<Name, Obj>> {
        match self.volume.inodes.get(&dir).map(|inode| &inode.body) {
            Some(Body::Dir(names)) => Ok(names),
            Some(_) => Err(error(ENOTDIR)),
            None => Err(error(ENOENT)),
        }
    }

    pub fn lookup(&self, dir: Obj, name: &Name) -> io::Result<Obj> {
        self.entries(dir)?.get(name).copied().ok_or_else(|| error(ENOENT))
    }

    /// The object at a path, no link followed.
    pub fn resolve(&self, path: &RelPath) -> io::Result<Obj> {
        path.names().try_fold(ROOT, |dir, name| self.lookup(dir, &name))
    }

    pub fn resolve_parent(&self, path: &RelPath) -> io::Result<(Obj, Name)> {
        let (parent, name) = path.split().ok_or_else(|| error(EINVAL))?;
        let dir = self.resolve(&parent)?;
        self.entries(dir)?;
        Ok((dir, name))
    }

    pub fn is_dir(&self, obj: Obj) -> bool {
        matches!(self.inode(obj).body, Body::Dir(_))
    }

    /// Whether the directory can still be reached by a name (or is a top).
    pub fn is_attached(&self, dir: Obj) -> bool {
        dir <= TRASH || self.volume.inodes.get(&dir).is_some_and(|inode| !inode.names.is_empty())
    }

    /// Where users see the object: its first name below the root.
    pub fn path_of(&self, obj: Obj) -> Option<RelPath> {
        if obj == ROOT {
            return Some(RelPath::root());
        }
        let inode = self.volume.inodes.get(&obj)?;
        inode.names.iter().find_map(|(dir, name)| self.path_of(*dir)?.join(name).ok())
    }

    /// Whether `below` is `top` or lies under it.
    pub fn is_within(&self, below: Obj, top: Obj) -> bool {
        below == top
            || self
                .volume
                .inodes
                .get(&below)
                .is_some_and(|inode| inode.names.iter().any(|(dir, _)| self.is_within(*dir, top)))
    }

    pub fn stat(&self, obj: Obj) -> Stat {
        let inode = self.inode(obj);
        let (kind, size) = match &inode.body {
            Body::File(contents) => (Some(Kind::File), contents.len() as u64),
            Body::Dir(_) => (Some(Kind::Dir), 4096),
            Body::Link(target) => (Some(Kind::Link), target.len() as u64),
            Body::Fifo => (Some(Kind::Fifo), 0),
        };
        Stat {
            kind,
            special: kind == Some(Kind::Fifo),
            ino: inode.ino,
            btime: inode.btime,
            size,
            mtime: inode.meta.mtime,
            ctime: inode.meta.ctime,
            mode: inode.meta.mode,
            uid: inode.meta.uid,
            gid: inode.meta.gid,
            nlink: if self.is_dir(obj) { 2 } else { inode.names.len() as u32 },
            foreign: false,
        }
    }

    /// Whether a directory is psync's own.
    pub fn is_own_dir(&self, dir: Obj) -> bool {
        self.is_within(dir, STAGE) || self.is_within(dir, TRASH)
    }

    /// Carries out one change of names as a whole: (directory, name, object before, object after) each.
    pub fn change_names(&mut self, changes: Vec<(Obj, Name, Option<Obj>, Option<Obj>)>) {
        let now = self.stamp();
        let rounded = self.round(now);
        let before: Vec<Obj> = changes.iter().filter_map(|change| change.2).collect();
        for (dir, name, old, _) in &changes {
            if let Some(old) = old {
                self.inode_mut(*old).names.remove(&(*dir, name.clone()));
            }
        }
        for (dir, name, _, new) in &changes {
            let Body::Dir(names) = &mut self.inode_mut(*dir).body else { unreachable!("checked by the caller") };
            match new {
                Some(obj) => names.insert(name.clone(), *obj),
                None => names.remove(name),
            };
            if let Some(obj) = new {
                let shown = !self.is_own_dir(*dir);
                let inode = self.inode_mut(*obj);
                inode.names.insert((*dir, name.clone()));
                inode.meta.ctime = now;
                inode.shown |= shown;
            }
            let meta = &mut self.inode_mut(*dir).meta;
            (meta.mtime, meta.ctime) = (rounded, now);
            self.note_given(*dir);
        }
        for obj in &before {
            self.inode_mut(*obj).meta.ctime = now;
        }
        let op = NameOp::new(self, changes);
        self.volume.log.push(op);
        before.into_iter().for_each(|obj| self.collect(obj));
    }

    /// A user gave this directory the time that it has.
    pub fn note_given(&self, dir: Obj) {
        if let (false, Some(path)) = (self.by_psync, self.path_of(dir)) {
            let time = self.inode(dir).meta.mtime;
            self.world.given.borrow_mut().note(self.side, path, time);
        }
    }

    /// Frees an object that has no name and no descriptor left.
    pub fn collect(&mut self, obj: Obj) {
        let Some(inode) = self.volume.inodes.get(&obj) else { return };
        if obj <= TRASH || !inode.names.is_empty() || inode.handles + inode.pins + inode.writers + inode.waiters > 0 {
            return;
        }
        let ino = inode.ino;
        self.watches.remove(&obj);
        if !std::mem::replace(&mut self.inode_mut(obj).freed, true) {
            self.volume.free_inos.push(ino);
        }
        if !self.volume.is_on_disk(obj) {
            self.volume.inodes.remove(&obj);
            self.volume.disk_names.remove(&obj);
        }
    }

    /// Every file under users' names at or below an object, with its contents.
    pub fn files_below(&self, obj: Obj, found: &mut Vec<(Obj, Vec<u8>)>) {
        match &self.inode(obj).body {
            Body::File(contents) => found.push((obj, contents.clone())),
            Body::Dir(names) => names.values().for_each(|child| self.files_below(*child, found)),
            Body::Link(_) | Body::Fifo => {}
        }
    }

    /// Invariant 6: what psync just put under a users' name is whole.
    pub fn check_whole(&self, obj: Obj) {
        if !self.is_within(obj, ROOT) {
            return;
        }
        let mut files = Vec::new();
        self.files_below(obj, &mut files);
        for (file, contents) in files {
            if !self.world.is_known(&contents) {
                let path = self.path_of(file).map(|path| path.to_string()).unwrap_or_default();
                let text = String::from_utf8_lossy(&contents).into_owned();
                self.world.violation(format!("torn file: {} {path} became {text:?}", self.side.word()));
            }
        }
    }

    pub fn note(&self, what: What) {
        self.world.note(self.side, what);
    }
}

pub fn time_of(nanos: i128) -> Time {
    Time { secs: nanos.div_euclid(1_000_000_000) as i64, nanos: nanos.rem_euclid(1_000_000_000) as u32 }
}
