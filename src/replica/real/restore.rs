//! The trash as `psync trash` sees it, beside whatever else goes on: what lies in it, and back into the tree with it.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags};

use crate::model::{Kind, Name, RelPath, Time};
use crate::protocol::survey::Trashed;
use crate::replica::disk::Stat;
use crate::replica::recover::trash_generation;
use crate::replica::trash_list::{self, Listed};

use super::own::OwnDir;
use super::rename::Renames;
use super::{Dir, Place, beneath, clock, keep, walk};

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
pub fn restore(
    renames: &Renames<'_>,
    own: &OwnDir,
    id: &Name,
    below: Option<&RelPath>,
    to: &RelPath,
) -> io::Result<()> {
    let root = renames.root;
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
    let copy = match below {
        Some(_) => narrowed(own, from.as_fd(), &name, dir.as_fd()),
        None => Ok(None),
    };
    let copy = copy.map_err(|e| named(e, io::ErrorKind::NotFound, gone))?;
    let (from, name) = match &copy {
        Some((stage, name)) => (stage.as_fd(), name),
        None => (from.as_fd(), &name),
    };
    let (goes, comes) = ((from, name.as_bytes()), (dir.as_fd(), new.as_bytes()));
    let moved = renames.carry_out_at((None, [true, false]), goes, comes, RenameFlags::NOREPLACE);
    if moved.is_err() && copy.is_some() {
        let _ = rustix::fs::unlinkat(from, name.as_bytes(), AtFlags::empty());
    }
    match moved {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let text = "something is there, and stays: move it away, or say --to DEST";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
        }
        Err(error) => {
            return Err(named(error, io::ErrorKind::NotFound, gone));
        }
    }
    rustix::fs::fsync(&dir)?;
    Ok(rustix::fs::fsync(from)?)
}

/// What lay in a directory that kept others out is for its owner alone, if it comes into one that lets them in. A file that
/// has other names, which may be anybody's and anywhere, stays as it is, in the trash: a copy of it in the stage goes instead.
fn narrowed(
    own: &OwnDir,
    from: BorrowedFd<'_>,
    name: &Name,
    to: BorrowedFd<'_>,
) -> io::Result<Option<(OwnedFd, Name)>> {
    let (lay, goes) = (rustix::fs::fstat(from)?, rustix::fs::fstat(to)?);
    let same = (lay.st_uid, lay.st_gid) == (goes.st_uid, goes.st_gid);
    if same && goes.st_mode & 0o777 & !lay.st_mode == 0 {
        return Ok(None);
    }
    let pin = beneath::pin(from, name.as_bytes())?;
    let stat = rustix::fs::fstat(&pin)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => return Ok(None),
        FileType::RegularFile if !is_all_its_own(&stat) => return copied(own, pin.as_fd()).map(Some),
        FileType::RegularFile | FileType::Directory => {}
        // Nobody puts such a thing into the trash but a user who still has the directory open.
        _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "no file, directory or link")),
    }
    let mode = Mode::from_raw_mode(stat.st_mode & 0o700);
    rustix::fs::chmod(beneath::proc_path(pin.as_fd()), mode)?;
    Ok(None)
}

/// Whether the name by which a file was found is its only one. A user who has its directory open can take a name away at
/// any moment, also between the two system calls that found and looked at the file; then its ctime is of this moment.
fn is_all_its_own(stat: &rustix::fs::Stat) -> bool {
    let ctime = Time { secs: stat.st_ctime, nanos: stat.st_ctime_nsec as u32 };
    stat.st_nlink == 1 && !clock::is_recent(ctime)
}

/// A copy for its owner alone, in the stage: where it lies, and its name. A start of psync clears away what a crash leaves.
fn copied(own: &OwnDir, pin: BorrowedFd<'_>) -> io::Result<(OwnedFd, Name)> {
    let stage = own.dir("stage")?;
    let name = Name::new(format!("restored-{}", std::process::id()).as_bytes()).map_err(io::Error::other)?;
    let source = beneath::open_pinned(pin)?.into();
    let discard = || rustix::fs::unlinkat(&stage, name.as_bytes(), AtFlags::empty());
    let _ = discard();
    match keep::copy_to(stage.as_fd(), &name, &source, 0o700) {
        Ok(()) => Ok((stage, name)),
        Err(error) => {
            let _ = discard();
            Err(error)
        }
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::sync::Arc;
    use std::time::Duration;

    use super::super::{NoCover, RealDisk};
    use super::*;
    use crate::replica::disk::Disk;

    /// From a private directory of the trash into the root, which everybody may enter.
    fn restored(make: impl FnOnce(&std::path::Path, &std::path::Path)) -> (tempfile::TempDir, io::Result<()>) {
        let top = tempfile::tempdir().expect("a directory");
        let root = top.path().join("root");
        fs::create_dir(&root).expect("made");
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).expect("set");
        let disk = RealDisk::open(&root, "pair", Arc::new(NoCover)).expect("a disk");
        let id = Name::new(b"64000000-5-1").expect("a name");
        let private = disk.own_dir().expect("open").shown().join("trash/64000000-5-1");
        fs::create_dir(&private).expect("made");
        make(&private, top.path());
        fs::set_permissions(&private, fs::Permissions::from_mode(0o700)).expect("set");
        let path = RelPath::new(b"f").expect("a path");
        let done = disk.restore(&id, Some(&path), &path);
        let stage = disk.own_dir().expect("open").shown().join("stage");
        assert_eq!(fs::read_dir(stage).expect("listed").count(), 0, "something stays in the stage");
        (top, done)
    }

    fn mode(path: &std::path::Path) -> u32 {
        fs::symlink_metadata(path).expect("there").permissions().mode() & 0o7777
    }

    #[test]
    fn a_file_with_other_names_keeps_its_mode_there() {
        let (top, done) = restored(|private, top| {
            fs::write(top.join("another's"), "contents").expect("written");
            fs::set_permissions(top.join("another's"), fs::Permissions::from_mode(0o4754)).expect("set");
            fs::hard_link(top.join("another's"), private.join("f")).expect("linked");
        });
        done.expect("restored");
        let (others, new) = (top.path().join("another's"), top.path().join("root/f"));
        assert_eq!((mode(&others), mode(&new)), (0o4754, 0o700));
        assert_eq!(fs::read(&new).expect("read"), b"contents");
        assert!(fs::metadata(&others).expect("there").ino() != fs::metadata(&new).expect("there").ino());
    }

    #[test]
    fn a_file_of_one_name_comes_back_itself_and_a_dear_one_stays() {
        let mut made = 0;
        let make = |private: &std::path::Path| {
            fs::write(private.join("f"), "contents").expect("written");
            fs::set_permissions(private.join("f"), fs::Permissions::from_mode(0o644)).expect("set");
            // What changed a moment ago may have lost a name.
            std::thread::sleep(Duration::from_millis(1100));
        };
        let (top, done) = restored(|private, _| {
            make(private);
            made = fs::metadata(private.join("f")).expect("there").ino();
        });
        done.expect("restored");
        let new = top.path().join("root/f");
        assert_eq!((mode(&new), fs::metadata(&new).expect("there").ino()), (0o600, made));

        let (top, done) = restored(|private, top| {
            make(private);
            fs::hard_link(private.join("f"), top.join("another name")).expect("linked");
            fs::write(top.join("root/f"), "dear").expect("written");
        });
        assert_eq!(done.expect_err("there is one").kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(top.path().join("root/f")).expect("read"), b"dear");
    }

    #[test]
    fn a_fifo_in_the_trash_is_no_version() {
        let (top, done) = restored(|private, _| {
            let kind = rustix::fs::FileType::Fifo;
            rustix::fs::mknodat(rustix::fs::CWD, private.join("f"), kind, Mode::RWXU, 0).expect("made");
        });
        assert!(done.is_err() && !top.path().join("root/f").exists());
    }
}
