//! psync's own directory, `ROOT/.psync/PAIR`: opened once, and everything in it reached through that descriptor. Users who
//! may write in the root can rename it and put another one in its place; then nothing of psync's goes there.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, FallocateFlags, FileType, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;

use crate::model::{Name, OWN_DIR, readable};
use crate::replica::metadata::{ACL_ACCESS, ACL_DEFAULT};

use super::reserve::Reserve;
use super::{Dir, Place, beneath, walk};

/// Others than the owner may write.
const OTHERS_WRITE: u32 = 0o022;

/// The pair's own directory, held open. Clones are the same descriptor.
#[derive(Debug, Clone)]
pub struct OwnDir(Arc<Held>);

#[derive(Debug)]
struct Held {
    /// The root and `.psync`; `None` for a directory that is watched over by nobody.
    above: Option<(OwnedFd, OwnedFd)>,
    pair: OwnedFd,
    /// Its name in `.psync`.
    name: Box<[u8]>,
    /// Its path when it was opened, for messages.
    shown: PathBuf,
}

/// Whom a directory that was found must belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owned {
    /// The user that psync runs as: it will be written to.
    Mine,
    /// Anybody: it is only read for people.
    Any,
}

impl OwnDir {
    /// Makes what is missing, and makes sure that nobody but psync's user can reach it.
    pub fn make(root: BorrowedFd<'_>, path: &Path, pair: &Name) -> io::Result<OwnDir> {
        let device = walk::Device::of(root)?;
        let common = private_dir(root, OWN_DIR, device)?;
        let own = private_dir(common.as_fd(), pair.as_bytes(), device)?;
        for dir in [own.as_fd(), common.as_fd(), root] {
            rustix::fs::fsync(dir)?;
        }
        OwnDir::held(root, common, own, path, pair)
    }

    /// Opens what is there; `NotFound` where the pair has never run.
    pub fn find(root: BorrowedFd<'_>, path: &Path, pair: &Name, owned: Owned) -> io::Result<OwnDir> {
        let common = beneath::open_dir(root, OWN_DIR)?;
        let own = beneath::open_dir(common.as_fd(), pair.as_bytes())?;
        for (dir, name) in [(&common, OWN_DIR), (&own, pair.as_bytes())] {
            let stat = rustix::fs::fstat(dir)?;
            if owned == Owned::Mine {
                require_mine(&stat, name)?;
            }
            require_private(&stat, name)?;
        }
        OwnDir::held(root, common, own, path, pair)
    }

    fn held(root: BorrowedFd<'_>, common: OwnedFd, pair: OwnedFd, path: &Path, name: &Name) -> io::Result<OwnDir> {
        let above = Some((root.try_clone_to_owned()?, common));
        let shown = path.join(OsStr::from_bytes(OWN_DIR)).join(OsStr::from_bytes(name.as_bytes()));
        Ok(OwnDir(Arc::new(Held { above, pair, name: name.as_bytes().into(), shown })))
    }

    /// The same of the root at this path.
    pub fn find_at(root: &Path, pair: &str, owned: Owned) -> io::Result<OwnDir> {
        let name = Name::new(pair.as_bytes()).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
        OwnDir::find(beneath::open_root(root)?.as_fd(), root, &name, owned)
    }

    /// Any directory in the place of a pair's own, which nobody is thought to move.
    pub fn alone(path: &Path) -> io::Result<OwnDir> {
        let pair = beneath::open_root(path)?;
        Ok(OwnDir(Arc::new(Held { above: None, pair, name: Box::default(), shown: path.to_path_buf() })))
    }

    /// The inode of `.psync` itself.
    pub fn inode(&self) -> io::Result<u64> {
        match &self.0.above {
            Some((_, common)) => Ok(rustix::fs::fstat(common)?.st_ino),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Where it was when it was opened, for messages.
    pub fn shown(&self) -> &Path {
        &self.0.shown
    }

    /// A path to a file in it for what takes no descriptor: good as long as this value lives, and wherever the directory is
    /// by then.
    pub fn path_of(&self, name: &str) -> PathBuf {
        PathBuf::from(beneath::proc_path(self.0.pair.as_fd())).join(name)
    }

    /// Whether it still lies where it lay, and no other one in its place. The error says what happened, and the cure.
    pub fn is_there(&self) -> Result<(), String> {
        let Some((root, common)) = &self.0.above else { return Ok(()) };
        let same = |dir: &OwnedFd, name: &[u8], open: &OwnedFd| -> io::Result<bool> {
            let there = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
            let held = rustix::fs::fstat(open)?;
            Ok((there.st_dev, there.st_ino) == (held.st_dev, held.st_ino))
        };
        let found = same(root, OWN_DIR, common).and_then(|same_one| match same_one {
            true => same(common, &self.0.name, &self.0.pair),
            false => Ok(false),
        });
        let what = match found {
            Ok(true) => return Ok(()),
            Ok(false) => "something else lies in its place".to_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => "it is not there any more".to_owned(),
            Err(error) => error.to_string(),
        };
        let at = readable(self.0.shown.as_os_str().as_bytes());
        Err(format!(
            "psync's own directory {at} was moved or replaced ({what}): put it back under its name, and see who may write \
             in the root"
        ))
    }

    /// Opens a file of psync's for reading. `InvalidData` for what psync has not made.
    pub fn open(&self, name: &str) -> io::Result<File> {
        self.open_with(name, OFlags::RDONLY)
    }

    /// The same for adding to its end; it is made where it is missing.
    pub fn append(&self, name: &str) -> io::Result<File> {
        self.open_with(name, OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE)
    }

    /// The same for reading and writing.
    pub fn edit(&self, name: &str) -> io::Result<File> {
        self.open_with(name, OFlags::RDWR | OFlags::CREATE)
    }

    /// Whether so many bytes can be written, by all bounds that there are: a quota shows in no statfs. Nothing of it is kept.
    pub fn takes(&self, bytes: u64) -> bool {
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.0.pair, c".", flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => file,
            // Where there are no files without a name, or no inode is left for one, this is not known.
            Err(error) => return error != Errno::DQUOT,
        };
        let full = [Errno::NOSPC, Errno::DQUOT];
        !rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes).is_err_and(|error| full.contains(&error))
    }

    fn open_with(&self, name: &str, flags: OFlags) -> io::Result<File> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.0.pair, name, flags, Mode::RUSR | Mode::WUSR) {
            Err(Errno::LOOP | Errno::NXIO | Errno::ISDIR) => Err(self.strange(name, "no regular file")),
            Err(error) => Err(error.into()),
            Ok(file) => {
                self.require_own(name, &rustix::fs::fstat(&file)?)?;
                Ok(File::from(file))
            }
        }
    }

    /// An empty file in the place of whatever had the name.
    pub fn replace(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for _ in 0..3 {
            match rustix::fs::openat(&self.0.pair, name, flags, Mode::RUSR | Mode::WUSR) {
                Ok(file) => return Ok(File::from(file)),
                Err(Errno::EXIST) => rustix::fs::unlinkat(&self.0.pair, name, AtFlags::empty())?,
                Err(error) => return Err(error.into()),
            }
        }
        Err(Errno::EXIST.into())
    }

    /// Renames a file in it; what has the new name is replaced.
    pub fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat_with(&self.0.pair, from, &self.0.pair, to, RenameFlags::empty())?)
    }

    /// Removes a file in it, for good; one that is not there is as well.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.0.pair, name, AtFlags::empty()) {
            Ok(()) => Ok(rustix::fs::fsync(&self.0.pair)?),
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether there is something of this name.
    pub fn has(&self, name: &str) -> bool {
        rustix::fs::statat(&self.0.pair, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// Refuses what another program is to open by its path, if it is there and psync has not made it.
    pub fn require_own_or_none(&self, name: &str) -> io::Result<()> {
        match rustix::fs::statat(&self.0.pair, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => self.require_own(name, &stat),
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn require_own(&self, name: &str, stat: &Stat) -> io::Result<()> {
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile if stat.st_nlink <= 1 => Ok(()),
            FileType::RegularFile => Err(self.strange(name, "a file that has other names")),
            FileType::Symlink => Err(self.strange(name, "a link")),
            _ => Err(self.strange(name, "no regular file")),
        }
    }

    fn strange(&self, name: &str, what: &str) -> io::Error {
        let at = readable(self.0.shown.join(name).as_os_str().as_bytes());
        let text = format!("{at} is {what}, which psync has not made: see who put it there, and remove it");
        io::Error::new(io::ErrorKind::InvalidData, text)
    }

    /// The stage, the trash: made where it is missing.
    pub(super) fn make_dir(&self, name: &str) -> io::Result<Dir> {
        let device = walk::Device::of(self.0.pair.as_fd())?;
        Ok(Dir::new(private_dir(self.0.pair.as_fd(), name.as_bytes(), device)?, Place::Own))
    }

    /// The same if it is there.
    pub(super) fn dir(&self, name: &str) -> io::Result<OwnedFd> {
        beneath::open_dir(self.0.pair.as_fd(), name.as_bytes())
    }

    pub(super) fn reserve(&self) -> Option<Reserve> {
        Reserve::open(self)
    }

    /// Where `.psync` itself lies now.
    pub(super) fn common(&self) -> Option<BorrowedFd<'_>> {
        self.0.above.as_ref().map(|(_, common)| common.as_fd())
    }
}

impl AsFd for OwnDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.pair.as_fd()
    }
}

/// `.psync` of a root, for what is no pair's; made where it is missing, and whether it was.
pub(super) fn common(root: BorrowedFd<'_>) -> io::Result<(OwnedFd, bool)> {
    let made = match rustix::fs::mkdirat(root, OWN_DIR, Mode::RWXU) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(error) => return Err(error.into()),
    };
    let dir = beneath::open_dir(root, OWN_DIR)?;
    let stat = rustix::fs::fstat(&dir)?;
    require_mine(&stat, OWN_DIR)?;
    if !made {
        require_private(&stat, OWN_DIR)?;
    }
    Ok((dir, made))
}

/// The inode of `.psync`, if there is one.
pub(super) fn inode(root: BorrowedFd<'_>) -> Option<u64> {
    inode_of(root, OWN_DIR)
}

/// The inode of a directory by its name.
pub(super) fn inode_of(root: BorrowedFd<'_>, name: &[u8]) -> Option<u64> {
    let stat = rustix::fs::statat(root, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    (FileType::from_raw_mode(stat.st_mode) == FileType::Directory).then_some(stat.st_ino)
}

fn require_mine(stat: &Stat, name: &[u8]) -> io::Result<()> {
    let me = rustix::process::geteuid().as_raw();
    if stat.st_uid == me {
        return Ok(());
    }
    let name = shown(name);
    let text = format!(
        "{name} belongs to user {}, psync runs as user {me}: see who made it, and give it to that user or remove it",
        stat.st_uid
    );
    Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
}

/// What others could write to they may have filled.
fn require_private(stat: &Stat, name: &[u8]) -> io::Result<()> {
    if stat.st_mode & OTHERS_WRITE == 0 {
        return Ok(());
    }
    let text = format!(
        "{} may be written by others (mode {:04o}): see what they put there, then chmod 700 it",
        shown(name),
        stat.st_mode & 0o7777
    );
    Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
}

fn shown(name: &[u8]) -> String {
    match name {
        OWN_DIR => ".psync".to_owned(),
        name => format!(".psync: {}", readable(name)),
    }
}

/// A user may have made the directory before us, and a root may hand its own group, setgid bit and default ACL down.
fn private_dir(parent: BorrowedFd<'_>, name: &[u8], device: walk::Device) -> io::Result<OwnedFd> {
    let made = match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(error) => return Err(error.into()),
    };
    let dir = beneath::open_dir(parent, name).map_err(|error| match error.kind() {
        io::ErrorKind::NotADirectory => {
            io::Error::new(io::ErrorKind::NotADirectory, format!("{} is a link or a file, no directory", shown(name)))
        }
        _ => error,
    })?;
    if walk::stat_fd(dir.as_fd(), device)?.foreign {
        return Err(Errno::XDEV.into());
    }
    let stat = rustix::fs::fstat(&dir)?;
    require_mine(&stat, name)?;
    if !made {
        require_private(&stat, name)?;
    }
    for acl in [ACL_ACCESS, ACL_DEFAULT] {
        // Below a quota that is used up even taking away what is not there is refused.
        if rustix::fs::fgetxattr(&dir, acl, &mut [0_u8; 0]).is_err_and(|e| e == Errno::NODATA || e == Errno::OPNOTSUPP)
        {
            continue;
        }
        match rustix::fs::fremovexattr(&dir, acl) {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if rustix::fs::fstat(&dir)?.st_mode & 0o7777 != 0o700 {
        rustix::fs::fchmod(&dir, Mode::RWXU)?;
    }
    Ok(dir)
}
