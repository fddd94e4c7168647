//! The real file system below one root.
//!
//! Everything starts at the root's descriptor: no path of the other side's making ever reaches the kernel but
//! through [`beneath`].

mod attrs;
mod beneath;
mod clock;
mod copy;
mod dir_time;
mod discard;
mod durable;
mod follow;
pub mod holes;
mod inherit;
mod keep;
mod own;
mod probe;
mod project;
mod raise;
mod rename;
mod reserve;
mod restore;
mod shown;
mod walk;

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, Uid};
use rustix::io::Errno;

use crate::config::Links;
use crate::model::{Attrs, Kind, Name, OwnerNumber, Principal, RelPath, Time, Xattrs};
use crate::pulse;
use crate::sys::lease;

use super::disk::{Disk, Lease, Leased, NotSet, Own, Space, Stat};
use super::metadata::Rules;
use super::metadata::owners::Class;
use crate::protocol::survey::Finding;
use crate::protocol::survey::Trashed;

/// The archive's file in psync's own directory.
pub const ARCHIVE: &str = "archive.db";

/// What watches directories for changes.
pub trait Cover: Send + Sync {
    /// From now on changes in the directory become events; idempotent.
    fn cover(&self, path: &RelPath, dir: BorrowedFd<'_>) -> io::Result<()>;
}

/// Watches nothing: for commands that look once.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoCover;

impl Cover for NoCover {
    fn cover(&self, _: &RelPath, _: BorrowedFd<'_>) -> io::Result<()> {
        Ok(())
    }
}

pub use own::{OwnDir, Owned};
use reserve::Reserve;

/// Where a directory lies, as it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Root,
    Tree,
    /// The stage, the trash, or a directory below them.
    Own,
}

/// An open directory.
#[derive(Debug, Clone)]
pub struct Dir(Arc<OpenDir>);

#[derive(Debug)]
struct OpenDir {
    fd: OwnedFd,
    place: Place,
}

impl Dir {
    fn new(fd: OwnedFd, place: Place) -> Dir {
        Dir(Arc::new(OpenDir { fd, place }))
    }

    /// What users may reach must never be made or removed by the calls that are meant for psync's own objects.
    fn own_only(&self) -> io::Result<()> {
        match self.0.place {
            Place::Own => Ok(()),
            _ => Err(io::Error::new(io::ErrorKind::PermissionDenied, "not one of psync's own directories")),
        }
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }
}

/// An open file.
#[derive(Debug)]
pub struct File {
    file: fs::File,
    /// The link that it was opened through: inode and birth time.
    link: Option<(u64, Time)>,
}

impl AsFd for File {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// psync's own directory with the stage and the trash in it.
struct OwnDirs {
    own: OwnDir,
    stage: Dir,
    trash: Dir,
}

/// One root on a real file system.
pub struct RealDisk {
    root: Dir,
    device: walk::Device,
    pair: Name,
    /// `None`: a dry run, which makes nothing.
    own_dirs: Option<OwnDirs>,
    /// The inode of `.psync`, under whatever name it lies.
    own_inode: Option<u64>,
    /// The root takes names for the same that differ in case: `.PSYNC` leads to `.psync`.
    folds: bool,
    root_path: PathBuf,
    watcher: Arc<dyn Cover>,
    rules: Rules,
    /// Links stand for the files they lead to.
    follow: bool,
    fine_clock: bool,
    boot: [u8; 16],
    /// Whether two files can share blocks, once somebody asked.
    shares: OnceLock<bool>,
    pace: Mutex<durable::Pace>,
    dir_pace: Mutex<durable::Pace>,
    lister: Mutex<walk::Lister>,
    /// `None`: a dry run, or a file system that cannot tell its room.
    reserve: Mutex<Option<Reserve>>,
}

impl RealDisk {
    /// Opens the root for a pair, and makes `ROOT/.psync/PAIR/` with its stage and trash where they are missing (mode
    /// 0700). From then on the process ignores SIGIO.
    ///
    /// Errors: the system's; `InvalidInput` for a pair that is no name; `PermissionDenied` where `.psync` belongs to
    /// another user; `CrossesDevices` where it lies on another file system.
    pub fn open(root: &Path, pair: &str, watcher: Arc<dyn Cover>) -> io::Result<RealDisk> {
        RealDisk::open_as(root, pair, watcher, false)
    }

    /// As [`RealDisk::open`], but makes nothing: there is neither stage nor trash, and calls that need them fail.
    pub fn open_dry(root: &Path, pair: &str, watcher: Arc<dyn Cover>) -> io::Result<RealDisk> {
        RealDisk::open_as(root, pair, watcher, true)
    }

    fn open_as(root: &Path, pair: &str, watcher: Arc<dyn Cover>, dry: bool) -> io::Result<RealDisk> {
        lease::ignore_sigio()?;
        let bad_pair = |error| io::Error::new(io::ErrorKind::InvalidInput, format!("pair {pair:?}: {error}"));
        let pair = Name::new(pair.as_bytes()).map_err(bad_pair)?;
        let root = fs::canonicalize(root)?;
        let fd = beneath::open_root(&root)?;
        let device = walk::Device::of(fd.as_fd())?;
        beneath::require_proc(fd.as_fd())?;
        let own_dirs = match dry {
            true => None,
            false => {
                let own = OwnDir::make(fd.as_fd(), &root, &pair)?;
                let (stage, trash) = (own.make_dir("stage")?, own.make_dir("trash")?);
                Some(OwnDirs { own, stage, trash })
            }
        };
        if let Some(dirs) = &own_dirs {
            raise::settle(fd.as_fd(), &dirs.own)?;
        }
        let reserve = own_dirs.as_ref().and_then(|dirs| dirs.own.reserve());
        // A clock that was not tried counts as coarse, which is only slower.
        let fine_clock = own_dirs.as_ref().map_or(Ok(false), |dirs| clock::is_fine(dirs.stage.as_fd()))?;
        let own_inode = own::inode(fd.as_fd());
        let other_case = own::inode_of(fd.as_fd(), b".PSYNC");
        Ok(RealDisk {
            root: Dir::new(fd, Place::Root),
            device,
            fine_clock,
            pair,
            own_dirs,
            own_inode,
            folds: own_inode.is_some() && other_case == own_inode,
            root_path: root,
            watcher,
            rules: Rules::default(),
            follow: false,
            boot: clock::boot_id(),
            shares: OnceLock::new(),
            pace: Mutex::default(),
            dir_pace: Mutex::default(),
            lister: Mutex::default(),
            reserve: Mutex::new(reserve),
        })
    }

    /// The same disk with other rules for attributes and links.
    pub fn with_rules(self, rules: Rules, links: Links) -> RealDisk {
        RealDisk { rules, follow: links == Links::Follow, ..self }
    }

    /// psync's own directory; `NotFound` where the pair has never run.
    pub fn own_dir(&self) -> io::Result<OwnDir> {
        match &self.own_dirs {
            Some(dirs) => Ok(dirs.own.clone()),
            None => OwnDir::find(self.root.as_fd(), &self.root_path, &self.pair, Owned::Mine),
        }
    }

    /// The root as it is now: its inode and birth time are its identity.
    pub fn root_identity(&self) -> io::Result<Stat> {
        self.stat_dir(&self.root)
    }

    fn renames(&self) -> rename::Renames<'_> {
        rename::Renames { root: self.root.as_fd(), own: self.own_dirs.as_ref().map(|dirs| &dirs.own) }
    }

    /// The root's descriptor, for what lies beside this trait (free space, file system kind).
    pub fn root_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

impl Disk for RealDisk {
    type Dir = Dir;
    type File = File;
    type Pin = OwnedFd;

    fn root_is_there(&self) -> bool {
        let Ok(now) = beneath::open_root(&self.root_path) else { return false };
        let identity = |fd: BorrowedFd<'_>| walk::stat_fd(fd, self.device).map(|s| (s.ino, s.btime));
        let device = walk::Device::of(now.as_fd());
        device.is_ok_and(|d| d.is(&self.device)) && identity(now.as_fd()).ok() == identity(self.root.as_fd()).ok()
    }

    fn open_dir(&self, path: &RelPath) -> io::Result<Dir> {
        if path.is_root() {
            return Ok(self.root.clone());
        }
        if self.leads_into_own(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let fd = beneath::open_dir(self.root.as_fd(), path.as_bytes())?;
        self.not_own(fd.as_fd())?;
        Ok(Dir::new(fd, Place::Tree))
    }

    fn open_child(&self, dir: &Dir, name: &Name, _path: &RelPath) -> io::Result<Dir> {
        let fd = beneath::open_dir(dir.as_fd(), name.as_bytes())?;
        self.not_own(fd.as_fd())?;
        Ok(Dir::new(fd, if dir.0.place == Place::Own { Place::Own } else { Place::Tree }))
    }

    fn own_is_there(&self) -> Result<(), String> {
        self.own_dirs.as_ref().map_or(Ok(()), |dirs| dirs.own.is_there())
    }

    fn own(&self, which: Own) -> io::Result<Dir> {
        let dirs = self.own_dirs.as_ref().ok_or_else(|| io::Error::other("a dry run has no stage or trash"))?;
        Ok(match which {
            Own::Stage => dirs.stage.clone(),
            Own::Trash => dirs.trash.clone(),
        })
    }

    fn stat_dir(&self, dir: &Dir) -> io::Result<Stat> {
        let stat = walk::stat_fd(dir.as_fd(), self.device)?;
        // A root is commonly the top of a mount, which makes other directories foreign.
        Ok(Stat { foreign: stat.foreign && dir.0.place != Place::Root, ..stat })
    }

    fn stat(&self, dir: &Dir, name: &Name) -> io::Result<Stat> {
        let stat = walk::stat_at(dir.as_fd(), name.as_bytes(), self.device)?;
        if self.is_own(&stat) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(self.shown(dir, name.as_bytes(), stat))
    }

    fn followed(&self, dir: &Dir, name: &Name) -> Option<Stat> {
        self.link_at(dir, name.as_bytes())
    }

    fn why_foreign(&self, dir: &Dir, name: &Name) -> Option<String> {
        walk::is_subvolume(dir.as_fd(), name.as_bytes()).then(|| {
            "a btrfs subvolume lies here, which takes no part: put a directory in its place, or make it a pair of its own"
                .to_owned()
        })
    }

    fn why_odd(&self, dir: &Dir, name: &Name) -> Option<String> {
        let link = self.link_at(dir, name.as_bytes())?;
        let found = follow::stat(self.within(), dir.as_fd(), name.as_bytes(), &link, self.device);
        found.err().map(|astray| astray.to_string())
    }

    fn list(&self, dir: &Dir) -> io::Result<Vec<(Name, Stat)>> {
        pulse::beat();
        let mut found = walk::list(dir, self.device)?;
        found.retain(|(_, stat)| !self.is_own(stat));
        self.show_links(dir, &mut found);
        Ok(found)
    }

    fn list_many(&self, dirs: &[Dir]) -> Vec<io::Result<Vec<(Name, Stat)>>> {
        let mut lists = self.lister.lock().unwrap_or_else(PoisonError::into_inner).list(dirs, self.device);
        for (dir, list) in dirs.iter().zip(&mut lists) {
            if let Ok(found) = list {
                found.retain(|(_, stat)| !self.is_own(stat));
                self.show_links(dir, found);
            }
        }
        lists
    }

    fn watch(&self, dir: &Dir, path: &RelPath) -> io::Result<()> {
        self.watcher.cover(path, dir.as_fd())
    }

    fn pin(&self, dir: &Dir, name: &Name) -> io::Result<OwnedFd> {
        beneath::pin(dir.as_fd(), name.as_bytes())
    }

    fn stat_pin(&self, pin: &OwnedFd) -> io::Result<Stat> {
        let stat = walk::stat_fd(pin.as_fd(), self.device)?;
        match self.is_own(&stat) {
            true => Err(io::ErrorKind::NotFound.into()),
            false => Ok(stat),
        }
    }

    fn open_pinned(&self, pin: &OwnedFd) -> io::Result<File> {
        Ok(File { file: beneath::open_pinned(pin.as_fd())?.into(), link: None })
    }

    fn pinned_xattrs(&self, pin: &OwnedFd, kind: Kind) -> io::Result<Xattrs> {
        // A link can hold none of those that travel, and its path would lead on.
        if kind == Kind::Link {
            return Ok(Xattrs::new());
        }
        attrs::read_pinned(pin.as_fd(), &self.rules)
    }

    fn set_pinned_attrs(&self, pin: &OwnedFd, kind: Kind, wanted: &Attrs, held: &Xattrs) -> io::Result<NotSet> {
        attrs::set_pinned(pin.as_fd(), kind, wanted, Some(held), &self.rules)
    }

    fn set_pinned_mode(&self, pin: &OwnedFd, mode: u32) -> io::Result<bool> {
        attrs::set_pinned_mode(pin.as_fd(), mode)
    }

    fn set_dir_time(&self, dir: &Dir, from: Time, to: Time) -> io::Result<bool> {
        dir_time::set(dir.as_fd(), from, to)
    }

    fn open_file(&self, dir: &Dir, name: &Name) -> io::Result<File> {
        let Some(link) = self.link_at(dir, name.as_bytes()) else {
            let file = beneath::open_file(dir.as_fd(), name.as_bytes())?;
            return Ok(File { file: file.into(), link: None });
        };
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = follow::open(self.within(), dir.as_fd(), name.as_bytes(), flags)?;
        Ok(File { file: file.into(), link: Some((link.ino, link.btime)) })
    }

    fn stat_file(&self, file: &File) -> io::Result<Stat> {
        let stat = walk::stat_fd(file.as_fd(), self.device)?;
        Ok(file.link.map_or(stat, |link| follow::as_link(stat, link)))
    }

    fn read_at(&self, file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        // A large file is read in one go.
        pulse::beat();
        let mut done = 0;
        while done < buffer.len() {
            match file.file.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn next_data(&self, file: &File, offset: u64, size: u64) -> io::Result<Option<(u64, u64)>> {
        holes::next_data(file, offset, size)
    }

    fn dir_fd(&self, dir: &Dir) -> Option<OwnedFd> {
        dir.as_fd().try_clone_to_owned().ok()
    }

    fn file_fd(&self, file: &File) -> Option<OwnedFd> {
        file.as_fd().try_clone_to_owned().ok()
    }

    fn snapshot(&self, file: &File) -> Option<File> {
        // Writes what the file has in memory first.
        pulse::beat();
        let stage = &self.own_dirs.as_ref()?.stage;
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        let copy = rustix::fs::openat(stage, c".", flags, Mode::RUSR | Mode::WUSR).ok()?;
        rustix::fs::ioctl_ficlone(&copy, file).ok()?;
        Some(File { file: copy.into(), link: None })
    }

    fn shares_blocks(&self) -> bool {
        *self.shares.get_or_init(|| self.own_dirs.as_ref().is_some_and(|own| copy::is_shared(own.stage.as_fd())))
    }

    fn read_link(&self, dir: &Dir, name: &Name) -> io::Result<Box<[u8]>> {
        let target = rustix::fs::readlinkat(dir, name.as_bytes(), Vec::new())?;
        Ok(target.into_bytes().into_boxed_slice())
    }

    fn xattrs(&self, dir: &Dir, name: &Name, kind: Kind) -> io::Result<Xattrs> {
        if kind == Kind::File && self.link_at(dir, name.as_bytes()).is_some() {
            let file = follow::open(self.within(), dir.as_fd(), name.as_bytes(), OFlags::PATH)?;
            return attrs::read_pinned(file.as_fd(), &self.rules);
        }
        attrs::read(dir.as_fd(), name.as_bytes(), kind, &self.rules)
    }

    fn file_xattrs(&self, file: &File, _at: (&Dir, &Name)) -> io::Result<Xattrs> {
        attrs::read_open(file.as_fd(), &self.rules)
    }

    fn unsettled(&self, stat: &Stat) -> bool {
        !self.fine_clock && clock::is_recent(stat.ctime)
    }

    fn lease(&self, file: &File, lease: Lease) -> io::Result<Leased> {
        Ok(match lease::request(file.as_fd(), lease_kind(lease))? {
            lease::Answer::Granted => Leased::Granted,
            lease::Answer::Refused => Leased::Refused,
            lease::Answer::Unsupported => Leased::Unsupported,
        })
    }

    fn lease_holds(&self, file: &File, lease: Lease) -> bool {
        lease::holds(file.as_fd(), lease_kind(lease))
    }

    fn release(&self, file: &File) {
        lease::release(file.as_fd());
    }

    fn create(&self, dir: &Dir, name: &Name) -> io::Result<File> {
        self.create_for(dir, name, 0o600)
    }

    fn create_for(&self, dir: &Dir, name: &Name, mode: u32) -> io::Result<File> {
        dir.own_only()?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // Setuid and its like take the right owner first; and its maker still has to give it attributes.
        let mode = Mode::from_raw_mode(mode & 0o777) | Mode::RUSR | Mode::WUSR;
        let fd = rustix::fs::openat(dir, name.as_bytes(), flags, mode)?;
        Ok(File { file: fd.into(), link: None })
    }

    fn write_at(&self, file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
        file.file.write_all_at(bytes, offset)
    }

    fn copy(&self, from: (&File, u64), to: (&File, u64), length: u64) -> io::Result<bool> {
        pulse::beat();
        copy::range((&from.0.file, from.1), (&to.0.file, to.1), length)
    }

    fn set_len(&self, file: &File, size: u64) -> io::Result<()> {
        file.file.set_len(size)
    }

    fn make_dir(&self, dir: &Dir, name: &Name) -> io::Result<()> {
        dir.own_only()?;
        Ok(rustix::fs::mkdirat(dir, name.as_bytes(), Mode::RWXU)?)
    }

    fn make_link(&self, dir: &Dir, name: &Name, target: &[u8]) -> io::Result<()> {
        dir.own_only()?;
        Ok(rustix::fs::symlinkat(target, dir, name.as_bytes())?)
    }

    fn make_fifo(&self, dir: &Dir, name: &Name) -> io::Result<()> {
        dir.own_only()?;
        let mode = Mode::RUSR | Mode::WUSR;
        Ok(rustix::fs::mknodat(dir, name.as_bytes(), FileType::Fifo, mode, 0)?)
    }

    fn set_attrs(&self, dir: &Dir, name: &Name, kind: Kind, wanted: &Attrs) -> io::Result<NotSet> {
        dir.own_only()?;
        attrs::set_pinned(beneath::pin(dir.as_fd(), name.as_bytes())?.as_fd(), kind, wanted, None, &self.rules)
    }

    fn set_file_attrs(&self, file: &File, _at: (&Dir, &Name), wanted: &Attrs) -> io::Result<NotSet> {
        attrs::set_open(file.as_fd(), wanted, &self.rules)
    }

    fn inherit(&self, dir: &Dir, staged: (&Dir, &Name), kind: Kind, mode: u32) -> io::Result<bool> {
        staged.0.own_only()?;
        inherit::inherit(dir.as_fd(), staged.0.as_fd(), staged.1.as_bytes(), kind, mode)
    }

    fn sync_files(&self, files: &[&File]) -> io::Result<()> {
        pulse::beat();
        let files: Vec<BorrowedFd<'_>> = files.iter().map(|file| file.as_fd()).collect();
        self.pace.lock().unwrap_or_else(PoisonError::into_inner).sync(self.root.as_fd(), &files)
    }

    fn sync_dirs(&self, dirs: &[&Dir]) -> io::Result<()> {
        pulse::beat();
        self.dir_pace.lock().unwrap_or_else(PoisonError::into_inner).sync(self.root.as_fd(), &once_each(dirs))
    }

    fn sync(&self, files: &[&File], dirs: &[&Dir]) -> io::Result<()> {
        if files.len() < 2 || dirs.is_empty() {
            self.sync_files(files)?;
            return self.sync_dirs(dirs);
        }
        pulse::beat();
        let all: Vec<BorrowedFd<'_>> = files.iter().map(|file| file.as_fd()).chain(once_each(dirs)).collect();
        self.pace.lock().unwrap_or_else(PoisonError::into_inner).sync(self.root.as_fd(), &all)
    }

    fn sync_whole(&self, objects: usize, bytes: u64) -> bool {
        pulse::beat();
        self.pace.lock().unwrap_or_else(PoisonError::into_inner).sync_whole(self.root.as_fd(), objects, bytes)
    }

    fn rename(&self, from: (&Dir, &Name), to: (&Dir, &Name)) -> io::Result<()> {
        self.renames().carry_out(None, from, to, RenameFlags::NOREPLACE)
    }

    fn exchange(&self, a: (&Dir, &Name), b: (&Dir, &Name)) -> io::Result<()> {
        self.renames().carry_out(None, a, b, RenameFlags::EXCHANGE)
    }

    fn rename_open(&self, file: &File, from: (&Dir, &Name), to: (&Dir, &Name)) -> io::Result<()> {
        self.renames().carry_out(Some(file.as_fd()), from, to, RenameFlags::NOREPLACE)
    }

    fn exchange_open(&self, file: &File, a: (&Dir, &Name), b: (&Dir, &Name)) -> io::Result<()> {
        self.renames().carry_out(Some(file.as_fd()), a, b, RenameFlags::EXCHANGE)
    }

    fn remove_empty(&self, dir: &Dir, name: &Name) -> io::Result<()> {
        // psync's own directory is none of the tree.
        self.stat(dir, name)?;
        self.renames().remove_empty((dir.as_fd(), name.as_bytes()))
    }

    fn discard(&self, dir: &Dir, name: &Name) -> io::Result<()> {
        pulse::beat();
        dir.own_only()?;
        discard::discard(dir.as_fd(), name.as_bytes()).map_err(rename::with_cure)
    }

    fn keep_copy(&self, name: &Name, path: &RelPath) -> io::Result<()> {
        let Some((above, last)) = path.split() else { return Err(io::ErrorKind::InvalidInput.into()) };
        let source = self.open_file(&self.open_dir(&above)?, &last)?;
        let none = || io::Error::other("there is none: the pair has not run yet");
        let trash = self.own_dir().and_then(|own| own.dir("trash"));
        let trash = trash.map_err(|e| if e.kind() == io::ErrorKind::NotFound { none() } else { e })?;
        keep::keep(trash.as_fd(), name, path, &source.file)
    }

    fn trashed(&self) -> io::Result<Vec<Trashed>> {
        match self.own_dir() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            own => restore::list(&own?, self.device),
        }
    }

    fn restore(&self, id: &Name, below: Option<&RelPath>, to: &RelPath) -> io::Result<()> {
        let own = self.own_dir()?;
        restore::restore(&rename::Renames { root: self.root.as_fd(), own: Some(&own) }, &own, id, below, to)
    }

    fn probe(&self) -> Vec<Finding> {
        probe::probe(self.root.as_fd(), &self.root_path)
    }

    fn directories(&self) -> (u64, bool) {
        probe::directories(self.root.as_fd())
    }

    fn has_archive(&self) -> bool {
        self.own_dir().is_ok_and(|own| own.has(ARCHIVE))
    }

    fn space(&self) -> Option<Space> {
        reserve::space(self.root.as_fd())
    }

    fn ease(&self) {
        reserve::with(&self.reserve, Reserve::ease);
    }

    fn doubt_room(&self) {
        reserve::with(&self.reserve, Reserve::doubt);
    }

    fn takes(&self, bytes: u64) -> bool {
        self.own_dir().map_or(true, |own| own.takes(bytes))
    }

    fn refill(&self) {
        reserve::with(&self.reserve, Reserve::refill);
    }

    fn is_short(&self) -> bool {
        reserve::with(&self.reserve, |reserve| reserve.is_given()).unwrap_or(false)
    }

    fn principals(&self, uid: u32, gid: u32) -> (Principal, Principal) {
        (self.rules.owners.owner(Class::User, uid), self.rules.owners.owner(Class::Group, gid))
    }

    fn is_system(&self, group: bool, principal: &Principal) -> bool {
        self.rules.owners.is_system(if group { Class::Group } else { Class::User }, principal)
    }

    fn names_used(&self, again: bool) -> Vec<OwnerNumber> {
        self.rules.owners.take_used(again)
    }

    fn learn_names(&self, numbers: &[OwnerNumber]) {
        self.rules.owners.learn(numbers);
    }

    fn give(&self, dir: &Dir, name: &Name, uid: u32, gid: u32) -> io::Result<()> {
        dir.own_only()?;
        let (user, group) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        match rustix::fs::chownat(dir, name.as_bytes(), user, group, AtFlags::SYMLINK_NOFOLLOW) {
            // Without the right to give it away it stays one's own.
            Ok(()) | Err(Errno::PERM | Errno::INVAL | Errno::OVERFLOW) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn accepts(&self, attrs: &Attrs) -> (bool, bool) {
        let of = |class, principal| {
            // What has no number here is not set in any case.
            self.rules.owners.find(class, principal).id().is_none_or(|number| self.rules.accepts(class, number))
        };
        (of(Class::User, &attrs.user), of(Class::Group, &attrs.group))
    }

    fn accepts_numbers(&self, uid: u32, gid: u32) -> (bool, bool) {
        (self.rules.accepts(Class::User, uid), self.rules.accepts(Class::Group, gid))
    }

    fn boot_id(&self) -> [u8; 16] {
        self.boot
    }

    fn wall_time(&self) -> Time {
        clock::wall()
    }
}

fn once_each<'a>(dirs: &[&'a Dir]) -> Vec<BorrowedFd<'a>> {
    let mut seen = HashSet::with_capacity(dirs.len());
    let fresh = dirs.iter().copied().filter(|dir| seen.insert(Arc::as_ptr(&dir.0)));
    fresh.map(AsFd::as_fd).collect()
}

fn lease_kind(lease: Lease) -> lease::Kind {
    match lease {
        Lease::Read => lease::Kind::Read,
        Lease::Write => lease::Kind::Write,
    }
}
