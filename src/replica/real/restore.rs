//! The trash as `psync trash` sees it, beside whatever else goes on: what lies in it, and back into the tree with it.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::model::{Kind, Name, RelPath};
use crate::replica::disk::Stat;
use crate::replica::recover::trash_generation;
use crate::replica::trash_list::{self, Listed, Trashed};

use super::own::OwnDir;
use super::{Dir, Place, beneath, walk};

/// What lies in the trash of a pair, by name. Nothing if the pair has none yet.
pub fn list(own: &OwnDir, device: walk::Device) -> io::Result<Vec<Trashed>> {
    let trash = match own.dir("trash") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => Dir::new(other?, Place::Own),
    };
    let mut listed = trash_list::read(&written(own)?);
    let mut found = Vec::new();
    for (id, stat) in walk::list(&trash, device)? {
        let Some(kind) = stat.kind else { continue };
        // No action has the number 0.
        if kind == Kind::Dir && trash_generation(&id) == Some(0) {
            copies(&trash, &id, device, &mut found)?;
            continue;
        }
        let Listed { path, since, size, reason } = listed.remove(&id).unwrap_or_else(|| unlisted(&id, &stat));
        found.push(Trashed { id, path, since, size, reason, kind, copied: false });
    }
    Ok(found)
}

fn written(own: &OwnDir) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match own.open(trash_list::FILE) {
        Ok(mut file) => _ = file.read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(bytes)
}

/// An object that came while nobody could write it down.
fn unlisted(id: &Name, stat: &Stat) -> Listed {
    let reason = "where it was is not known".to_owned();
    Listed { path: RelPath::root(), since: since(id).unwrap_or(stat.ctime.secs), size: stat.size, reason }
}

fn since(id: &Name) -> Option<i64> {
    let text = std::str::from_utf8(id.as_bytes()).ok()?;
    i64::from_str_radix(text.split('-').next()?, 16).ok()
}

/// The files that a check has copied below a directory of its own.
fn copies(trash: &Dir, id: &Name, device: walk::Device, found: &mut Vec<Trashed>) -> io::Result<()> {
    let mut todo = vec![RelPath::root()];
    while let Some(above) = todo.pop() {
        let place = [id.as_bytes(), above.as_bytes()].join(&b'/');
        let place = place.strip_suffix(b"/").unwrap_or(&place);
        let dir = Dir::new(beneath::open_dir(trash.as_fd(), place)?, Place::Own);
        for (name, stat) in walk::list(&dir, device)? {
            let Ok(path) = above.join(&name) else { continue };
            match stat.kind {
                Some(Kind::Dir) => todo.push(path),
                Some(kind) => {
                    let since = since(id).unwrap_or(stat.ctime.secs);
                    let reason = "copied by a check".to_owned();
                    found.push(Trashed { id: id.clone(), path, since, size: stat.size, reason, kind, copied: true });
                }
                None => {}
            }
        }
    }
    Ok(())
}

/// Moves an object of the trash to a path where nothing lies. Of a directory `below` leads to the object in it that is meant.
pub fn restore(root: BorrowedFd<'_>, own: &OwnDir, id: &Name, below: Option<&RelPath>, to: &RelPath) -> io::Result<()> {
    let trash = own.dir("trash")?;
    let gone = || "it is not in the trash".to_owned();
    let (from, name) = match below.map(|path| path.split()) {
        None => (trash, id.clone()),
        Some(Some((above, name))) => {
            let place =
                if above.is_root() { id.as_bytes().to_vec() } else { [id.as_bytes(), above.as_bytes()].join(&b'/') };
            let opened = beneath::open_dir(trash.as_fd(), &place);
            (opened.map_err(|e| named(e, io::ErrorKind::NotFound, gone))?, name)
        }
        Some(None) => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let Some((above, new)) = to.split() else { return Err(io::ErrorKind::InvalidInput.into()) };
    let dir = open_above(root, &above).map_err(|e| {
        named(e, io::ErrorKind::NotFound, || {
            format!("the directory {above} is not there: restore it first, or say --to DEST")
        })
    })?;
    if below.is_some() {
        keep_narrow(from.as_fd(), &name, dir.as_fd()).map_err(|e| named(e, io::ErrorKind::NotFound, gone))?;
    }
    match rustix::fs::renameat_with(&from, name.as_bytes(), &dir, new.as_bytes(), RenameFlags::NOREPLACE) {
        Ok(()) => {}
        Err(Errno::EXIST) => {
            let text = "something is there, and stays: move it away, or say --to DEST";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
        }
        Err(error) => {
            return Err(named(error.into(), io::ErrorKind::NotFound, gone));
        }
    }
    rustix::fs::fsync(&dir)?;
    Ok(rustix::fs::fsync(&from)?)
}

/// What lay in a directory that kept others out is for its owner alone, if it comes into one that lets them in.
fn keep_narrow(from: BorrowedFd<'_>, name: &Name, to: BorrowedFd<'_>) -> io::Result<()> {
    let (lay, goes) = (rustix::fs::fstat(from)?, rustix::fs::fstat(to)?);
    let same = (lay.st_uid, lay.st_gid) == (goes.st_uid, goes.st_gid);
    if same && goes.st_mode & 0o777 & !lay.st_mode == 0 {
        return Ok(());
    }
    let pin = beneath::pin(from, name.as_bytes())?;
    let stat = rustix::fs::fstat(&pin)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => Ok(()),
        _ => Ok(rustix::fs::chmod(beneath::proc_path(pin.as_fd()), Mode::from_raw_mode(stat.st_mode & 0o700))?),
    }
}

fn open_above(root: BorrowedFd<'_>, above: &RelPath) -> io::Result<OwnedFd> {
    match above.is_root() {
        true => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            Ok(rustix::fs::openat(root, c".", flags, Mode::empty())?)
        }
        false => beneath::open_dir(root, above.as_bytes()),
    }
}

/// An error of this kind in plain words.
fn named(error: io::Error, kind: io::ErrorKind, text: impl FnOnce() -> String) -> io::Error {
    if error.kind() == kind { io::Error::new(kind, text()) } else { error }
}
