//! The narrow view of a file system through which a replica does all its work.
//!
//! Two implementations: [`super::real::RealDisk`] (openat2 below one root) and the simulator's model disk.
//! Every call is one step at which a user may have come in between, a process may die or the power fail;
//! the code above this trait must hold up at each.

use std::io;
use std::os::fd::OwnedFd;

use crate::model::{Attrs, Kind, Name, OwnerNumber, RelPath, Time, Xattrs};
use crate::protocol::survey::Finding;
use crate::protocol::survey::Trashed;

/// What `statx` tells of one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// `None`: a socket or device, or what cannot be looked at.
    pub kind: Option<Kind>,
    /// A FIFO, socket or device.
    pub special: bool,
    pub ino: u64,
    /// Birth time; with `ino` it names an object for ever.
    pub btime: Time,
    pub size: u64,
    pub mtime: Time,
    pub ctime: Time,
    /// `0..=0o7777`
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    /// Whether the object lies on another file system than the root.
    pub foreign: bool,
}

/// psync's own directories in `ROOT/.psync/PAIR/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Own {
    /// Objects that are being made, and displaced ones on their way to the trash.
    Stage,
    /// Objects that were replaced or removed.
    Trash,
}

/// What the name in the stage of an object ends with that made way for a link which is made in its place.
pub const ASIDE: &[u8] = b".out";

/// A lease on an open file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lease {
    /// Nobody has the file open for writing; whoever wants to waits for us.
    Read,
    /// We hold the only descriptor; any other opener waits for us.
    Write,
}

/// The answer to a request for a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leased {
    Granted,
    /// Somebody else has the file open (for a read lease: for writing).
    Refused,
    /// Leases do not work here (file system, rights).
    Unsupported,
}

/// What is missing where a name is unknown on this side, and its number on the other side is used.
pub const OWNER_NAME: &str = "owner's name";
pub const GROUP_NAME: &str = "group's name";
pub const ACL_NAMES: &str = "acl's names";

/// What is missing where this side does not accept it from the other one; see [`crate::config::Accept`].
pub const SETUID_REFUSED: &str = "setuid (accept_setuid)";
pub const CAPABILITY_REFUSED: &str = "capability (accept_capabilities)";
pub const OWNER_REFUSED: &str = "owner (accept_owners)";
pub const GROUP_REFUSED: &str = "group (accept_owners)";

/// What an object got of the attributes it was to have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NotSet {
    /// Attributes that this side cannot hold, named for the status.
    pub what: Vec<&'static str>,
    /// Extended attributes that the file system has no room for, or refuses.
    pub refused: Vec<Unfit>,
}

/// An extended attribute that does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfit {
    pub name: Box<[u8]>,
    /// Bytes of its value.
    pub size: usize,
}

impl NotSet {
    /// Whether these misses are all that keeps what was found from what was wanted. Else a user changed it meanwhile.
    pub fn explains(&self, wanted: &Attrs, found: &Attrs) -> bool {
        let any = |words: &[&str]| words.iter().any(|word| self.what.contains(word));
        (wanted.user == found.user || any(&["owner", OWNER_NAME, OWNER_REFUSED]))
            && (wanted.group == found.group || any(&["group", GROUP_NAME, GROUP_REFUSED]))
            && (wanted.mtime == found.mtime || any(&["mtime"]))
            && (wanted.xattrs == found.xattrs || any(&["xattr", "acl", ACL_NAMES, "capability", CAPABILITY_REFUSED]))
            // A mode depends on the owner and on ACLs.
            && (wanted.mode == found.mode || !self.what.is_empty())
    }
}

/// Room on a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes.
    pub total: u64,
    /// Bytes that users can still fill.
    pub free: u64,
    /// `None`: the file system makes inodes as it needs them.
    pub inodes: Option<Inodes>,
}

/// The inodes of a file system that has a fixed number of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inodes {
    pub total: u64,
    pub free: u64,
}

impl Space {
    /// With less than this part free there is little room, in percent.
    const SHORT: u64 = 5;
    /// What new objects leave free for other programs, at most.
    const SPARE_MOST: u64 = 16 << 20;

    /// Bytes that new objects leave to other programs: a hundredth, at most 16 MiB.
    pub fn spare(&self) -> u64 {
        (self.total / 100).min(Self::SPARE_MOST)
    }

    /// Whether one more object of so many bytes fits, and leaves something to others.
    pub fn fits(&self, bytes: u64) -> bool {
        let inodes = self.inodes.is_none_or(|inodes| inodes.free > inodes.total / 100);
        inodes && bytes.checked_add(self.spare()).is_some_and(|needed| needed <= self.free)
    }

    /// Whether bytes or inodes run out.
    pub fn is_short(&self) -> bool {
        let few = |free: u64, total: u64| free < total / 100 * Self::SHORT;
        few(self.free, self.total) || self.inodes.is_some_and(|inodes| few(inodes.free, inodes.total))
    }
}

/// One root's file system. Paths lead from the root down; no symbolic link is ever followed and no
/// mount point crossed. Errors are the system's, `NotFound` for a name that is not there.
pub trait Disk {
    /// An open directory: goes on naming the same directory when that is renamed.
    type Dir: Clone;
    /// An open file.
    type File;
    /// An object that is held on to without opening it, whatever becomes of its name.
    type Pin;

    /// Whether the root's own path still leads to this root.
    fn root_is_there(&self) -> bool {
        true
    }
    /// Whether psync's own directory still lies where it lay. The error says what happened, and the cure.
    fn own_is_there(&self) -> Result<(), String> {
        Ok(())
    }
    /// Opens the directory at `path`; `NotADirectory` if it is something else, `CrossesDevices` if it is foreign.
    fn open_dir(&self, path: &RelPath) -> io::Result<Self::Dir>;
    /// Opens the directory `name` in an open one, which lies at `path` as far as the caller knows.
    fn open_child(&self, dir: &Self::Dir, name: &Name, path: &RelPath) -> io::Result<Self::Dir>;
    /// One of psync's own directories.
    fn own(&self, which: Own) -> io::Result<Self::Dir>;
    fn stat_dir(&self, dir: &Self::Dir) -> io::Result<Stat>;
    fn stat(&self, dir: &Self::Dir, name: &Name) -> io::Result<Stat>;
    /// The link's own stat, if the name is a link that stands for the file it leads to: that is to be read, and never
    /// written through.
    fn followed(&self, _dir: &Self::Dir, _name: &Name) -> Option<Stat> {
        None
    }
    /// Why what lies under a name is not on the root's file system, where there is more to say than that it is mounted.
    fn why_foreign(&self, _dir: &Self::Dir, _name: &Name) -> Option<String> {
        None
    }
    /// Why a name is of no kind that travels, where there is more to say than that.
    fn why_odd(&self, _dir: &Self::Dir, _name: &Name) -> Option<String> {
        None
    }
    /// Every name in the directory with its state, sorted by name. An object that goes away meanwhile is left out.
    /// What is called `.psync` is never listed, nor psync's own directory under whatever name.
    fn list(&self, dir: &Self::Dir) -> io::Result<Vec<(Name, Stat)>>;
    /// Lists several directories, in parallel where that helps; one answer each, in order.
    fn list_many(&self, dirs: &[Self::Dir]) -> Vec<io::Result<Vec<(Name, Stat)>>> {
        dirs.iter().map(|dir| self.list(dir)).collect()
    }
    /// From now on changes in this directory become events. Idempotent; call it before [`Disk::list`].
    fn watch(&self, dir: &Self::Dir, path: &RelPath) -> io::Result<()>;

    /// Holds on to what lies under a name, be it a link: what is set on it later is set on this very object. Only so do
    /// objects get attributes that users can reach.
    fn pin(&self, dir: &Self::Dir, name: &Name) -> io::Result<Self::Pin>;
    fn stat_pin(&self, pin: &Self::Pin) -> io::Result<Stat>;
    /// Opens it for reading, as [`Disk::open_file`] does.
    fn open_pinned(&self, pin: &Self::Pin) -> io::Result<Self::File>;
    /// Its extended attributes that travel.
    fn pinned_xattrs(&self, pin: &Self::Pin, kind: Kind) -> io::Result<Xattrs>;
    /// Gives it attributes, as [`Disk::set_attrs`] does; `InvalidInput` if it is of another kind. `held`: the extended
    /// attributes that it had when it was looked at. One that has another value by now is a user's, set this very moment:
    /// it stays. Access ACLs and capabilities, which belong to mode and contents, are set all the same.
    fn set_pinned_attrs(&self, pin: &Self::Pin, kind: Kind, attrs: &Attrs, held: &Xattrs) -> io::Result<NotSet>;
    /// Gives it this mode and nothing else; false if this process may not. Not for links.
    fn set_pinned_mode(&self, pin: &Self::Pin, mode: u32) -> io::Result<bool>;

    /// Gives a directory another mtime, if it still has this one; whether it had.
    fn set_dir_time(&self, dir: &Self::Dir, from: Time, to: Time) -> io::Result<bool>;

    /// Opens a regular file for reading, without waiting for lease holders and without touching its atime.
    fn open_file(&self, dir: &Self::Dir, name: &Name) -> io::Result<Self::File>;
    fn stat_file(&self, file: &Self::File) -> io::Result<Stat>;
    /// Reads at `offset` until `buffer` is full or the file ends; the number of bytes read.
    fn read_at(&self, file: &Self::File, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
    /// The first stretch of data at or after `offset` as (start, end); `None` if only a hole is left.
    fn next_data(&self, file: &Self::File, offset: u64, size: u64) -> io::Result<Option<(u64, u64)>>;
    /// A copy of the file as it is at this moment, without a name, that takes no time to make; `None` where the file
    /// system has none. What a mapping stores in the file afterwards shows in its stat.
    fn snapshot(&self, _file: &Self::File) -> Option<Self::File> {
        None
    }
    /// The directory for a program of another's to work in, if it is one of the operating system's.
    fn dir_fd(&self, _dir: &Self::Dir) -> Option<OwnedFd> {
        None
    }
    /// The file for such a program.
    fn file_fd(&self, _file: &Self::File) -> Option<OwnedFd> {
        None
    }
    fn read_link(&self, dir: &Self::Dir, name: &Name) -> io::Result<Box<[u8]>>;
    /// The extended attributes that travel (see `replica::metadata`); empty where there are none or they are unsupported.
    fn xattrs(&self, dir: &Self::Dir, name: &Name, kind: Kind) -> io::Result<Xattrs>;
    /// The same of a file that lies under this name, and is open.
    fn file_xattrs(&self, _file: &Self::File, at: (&Self::Dir, &Name)) -> io::Result<Xattrs> {
        self.xattrs(at.0, at.1, Kind::File)
    }
    /// Whether a change of this object could still hide behind the same stat (coarse clocks): hash again later.
    fn unsettled(&self, stat: &Stat) -> bool;

    /// Asks for a lease and keeps it until [`Disk::release`] or the file's end.
    fn lease(&self, file: &Self::File, lease: Lease) -> io::Result<Leased>;
    /// Whether the lease is still whole: false once somebody waits for it.
    fn lease_holds(&self, file: &Self::File, lease: Lease) -> bool;
    fn release(&self, file: &Self::File);

    /// Makes an empty file, open for writing, mode 0600. Only in own directories.
    fn create(&self, dir: &Self::Dir, name: &Name) -> io::Result<Self::File>;
    /// The same for a file that will get this mode and is not opened again before: it may have those rights from the start.
    fn create_for(&self, dir: &Self::Dir, name: &Name, _mode: u32) -> io::Result<Self::File> {
        self.create(dir, name)
    }
    fn write_at(&self, file: &Self::File, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Copies bytes from one file to another, shared between them where the file system can. False: `from` has fewer.
    fn copy(&self, from: (&Self::File, u64), to: (&Self::File, u64), length: u64) -> io::Result<bool> {
        let mut buffer = vec![0; length.min(256 * 1024) as usize];
        let mut done = 0;
        while done < length {
            let wanted = (length - done).min(buffer.len() as u64) as usize;
            let bytes = &mut buffer[..wanted];
            if self.read_at(from.0, from.1 + done, bytes)? < wanted {
                return Ok(false);
            }
            self.write_at(to.0, to.1 + done, bytes)?;
            done += wanted as u64;
        }
        Ok(true)
    }
    /// Whether a copy within the file system shares its blocks with what it was made of, and takes no room.
    fn shares_blocks(&self) -> bool {
        false
    }
    /// Sets the length; what lies beyond the written part is a hole.
    fn set_len(&self, file: &Self::File, size: u64) -> io::Result<()>;
    /// Makes a directory, mode 0700. Only in own directories.
    fn make_dir(&self, dir: &Self::Dir, name: &Name) -> io::Result<()>;
    /// Makes a symbolic link. Only in own directories.
    fn make_link(&self, dir: &Self::Dir, name: &Name, target: &[u8]) -> io::Result<()>;
    /// Makes a FIFO, mode 0600. Only in own directories.
    fn make_fifo(&self, dir: &Self::Dir, name: &Name) -> io::Result<()>;
    /// Gives an object of an own directory attributes, in the order that keeps them all (owner, ACLs and xattrs, mode, times).
    /// What this side cannot hold is left out and told; other errors are errors.
    fn set_attrs(&self, dir: &Self::Dir, name: &Name, kind: Kind, attrs: &Attrs) -> io::Result<NotSet>;

    /// The same for a file that was made under this name, and is open.
    fn set_file_attrs(&self, _file: &Self::File, at: (&Self::Dir, &Name), attrs: &Attrs) -> io::Result<NotSet> {
        self.set_attrs(at.0, at.1, Kind::File, attrs)
    }

    /// Gives a staged object the ACLs that making it in `dir` with this mode would have given, which may cut the mode. False
    /// if there is nothing to give.
    fn inherit(&self, _dir: &Self::Dir, _staged: (&Self::Dir, &Name), _kind: Kind, _mode: u32) -> io::Result<bool> {
        Ok(false)
    }

    /// Puts the contents and attributes of these files on disk.
    fn sync_files(&self, files: &[&Self::File]) -> io::Result<()>;
    /// Puts the names in these directories on disk.
    fn sync_dirs(&self, dirs: &[&Self::Dir]) -> io::Result<()>;
    /// Both, in any order; together where that is cheaper.
    fn sync(&self, files: &[&Self::File], dirs: &[&Self::Dir]) -> io::Result<()> {
        self.sync_files(files)?;
        self.sync_dirs(dirs)
    }

    /// Puts everything on disk at once, if that is cheaper than so many objects with so many bytes in all one by one, and
    /// goes well; whether it did.
    fn sync_whole(&self, _objects: usize, _bytes: u64) -> bool {
        false
    }

    /// Renames; `AlreadyExists` if the new name is taken.
    fn rename(&self, from: (&Self::Dir, &Name), to: (&Self::Dir, &Name)) -> io::Result<()>;
    /// Exchanges two objects; `NotFound` if one is missing.
    fn exchange(&self, a: (&Self::Dir, &Name), b: (&Self::Dir, &Name)) -> io::Result<()>;
    /// The same for a file that is open as well, and may be leased.
    fn rename_open(&self, _file: &Self::File, from: (&Self::Dir, &Name), to: (&Self::Dir, &Name)) -> io::Result<()> {
        self.rename(from, to)
    }
    /// The same for an exchange; the file is that of `a`.
    fn exchange_open(&self, _file: &Self::File, a: (&Self::Dir, &Name), b: (&Self::Dir, &Name)) -> io::Result<()> {
        self.exchange(a, b)
    }
    /// Removes an empty directory of the tree, where it cannot be renamed out of it; `DirectoryNotEmpty` if it is not.
    fn remove_empty(&self, _dir: &Self::Dir, _name: &Name) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Removes an object and all below it. Only in own directories.
    fn discard(&self, dir: &Self::Dir, name: &Name) -> io::Result<()>;

    /// Copies the file at `path` into the trash, below a directory of this name there: the path leads on from it.
    fn keep_copy(&self, _name: &Name, _path: &RelPath) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// What lies in the trash, read beside whatever else goes on.
    fn trashed(&self) -> io::Result<Vec<Trashed>> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Moves an object of the trash (of a directory the one at `below` in it) to a path where nothing lies, as a user would.
    fn restore(&self, _id: &Name, _below: Option<&RelPath>, _to: &RelPath) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// What the file system can do, tried on files of psync's own that are gone afterwards.
    fn probe(&self) -> Vec<Finding> {
        Vec::new()
    }
    /// How many directories the tree has; false: at least so many.
    fn directories(&self) -> (u64, bool) {
        (0, false)
    }
    /// Whether the pair has an archive here.
    fn has_archive(&self) -> bool {
        false
    }
    /// The file system's room; `None` where it is not known.
    fn space(&self) -> Option<Space> {
        None
    }
    /// Gives up as much of the archive's reserve as it takes to write the archive on a full disk.
    fn ease(&self) {}
    /// Something could not be written for want of room: what the file system says of that is not all.
    fn doubt_room(&self) {}
    /// Whether so many bytes can be written, by quotas too, which [`Disk::space`] does not know.
    fn takes(&self, _bytes: u64) -> bool {
        true
    }
    /// Takes the reserve back, if there is room.
    fn refill(&self) {}
    /// Whether some of the reserve was given up: what room is left is for the archive, not for new objects.
    fn is_short(&self) -> bool {
        false
    }

    /// The user's or group's travelling form, and back to this side's number.
    fn principals(&self, uid: u32, gid: u32) -> (crate::model::Principal, crate::model::Principal);
    /// Whether a user or group in the travelling form is root or another one of the system, as far as this side knows: here
    /// or on the other side. So is one whose number nobody told.
    fn is_system(&self, group: bool, principal: &crate::model::Principal) -> bool;
    /// The names that [`Disk::principals`] and ACLs have given since this was asked last, with their numbers here; with
    /// `again` all of them.
    fn names_used(&self, _again: bool) -> Vec<OwnerNumber> {
        Vec::new()
    }
    /// The numbers that the other side's names have there: for names that are unknown here.
    fn learn_names(&self, _numbers: &[OwnerNumber]) {}
    /// Gives an object of an own directory to this owner and group, as far as this side may.
    fn give(&self, _dir: &Self::Dir, _name: &Name, _uid: u32, _gid: u32) -> io::Result<()> {
        Ok(())
    }
    /// Whether this side accepts the owner and the group from the other one.
    fn accepts(&self, _attrs: &Attrs) -> (bool, bool) {
        (true, true)
    }
    /// The same of the numbers that an object would have here instead.
    fn accepts_numbers(&self, _uid: u32, _gid: u32) -> (bool, bool) {
        (true, true)
    }
    /// Names this run of the machine: changes with every boot.
    fn boot_id(&self) -> [u8; 16];
    /// The time of day, which may be set back.
    fn wall_time(&self) -> Time;
    /// Its seconds since 1970.
    fn wall_clock(&self) -> i64 {
        self.wall_time().secs
    }
}
