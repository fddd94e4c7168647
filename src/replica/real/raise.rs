//! Directories without the right to write for their owner (0555, as a module cache has them), where psync runs as that
//! owner: they get it for the moment of a rename, and their own mode back at once.
//!
//! Before that a link is made in psync's own directory whose target says which directory gets its mode back: a note that
//! needs no sync of its own, since names and modes reach the disk in their order. The next start settles what is left. A link's
//! target has its bounds (XFS: 1024 bytes), so a long path goes on in further links.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, Mode, OFlags, RawDir, StatxFlags};
use rustix::io::Errno;

use crate::model::PATH_MAX;

use super::rename::At;
use super::{OwnDir, beneath};

/// How the names of the notes begin.
const NOTE: &str = "raised-";
/// Bytes of a note that one link holds, on any file system.
const PIECE: usize = 900;
/// What a rename takes in a directory: to write and to enter.
const OWNERS: u32 = 0o300;
const SETGID: u32 = 0o2000;
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

static COUNT: AtomicU64 = AtomicU64::new(0);

/// Directories that are writable for as long as this lives.
pub struct Raised {
    own: OwnDir,
    dirs: Vec<One>,
    notes: Vec<Vec<u8>>,
}

struct One {
    pin: OwnedFd,
    mode: u32,
}

/// A directory as a note names it.
struct Known {
    ino: u64,
    btime: (i64, u32),
    mode: u32,
    uid: u32,
    gid: u32,
}

/// Makes writable what a rename must write to: both directories, and a directory that goes from one to another. `None` if
/// none of them is psync's user's and read-only.
pub fn raise(root: BorrowedFd<'_>, own: &OwnDir, from: At<'_>, to: At<'_>) -> io::Result<Option<Raised>> {
    let mut raised = Raised { own: own.clone(), dirs: Vec::new(), notes: Vec::new() };
    let dirs = [place(root, from.0)?, place(root, to.0)?];
    raised.add(beneath::pin_dir(from.0, b".")?, &dirs[..1])?;
    raised.add(beneath::pin_dir(to.0, b".")?, &dirs[1..])?;
    if dirs[0] != dirs[1] {
        // The `..` of a directory changes. It may lie under either name afterwards.
        let names = [joined(&dirs[0], from.1), joined(&dirs[1], to.1)];
        for (dir, name) in [from, to] {
            if let Ok(pin) = beneath::pin_dir(dir, name) {
                raised.add(pin, &names)?;
            }
        }
    }
    Ok((!raised.dirs.is_empty()).then_some(raised))
}

impl Raised {
    /// Raises one directory, if it is to be.
    fn add(&mut self, pin: OwnedFd, places: &[Vec<u8>]) -> io::Result<()> {
        let now = look(pin.as_fd())?;
        let mine = now.uid == rustix::process::geteuid().as_raw();
        if !mine || now.mode & OWNERS == OWNERS || (now.mode & SETGID != 0 && !is_member(now.gid)) {
            // A stranger to its group would take the setgid bit away.
            return Ok(());
        }
        for at in places {
            let name = format!("{NOTE}{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
            let text = format!("{:o} {} {} {} ", now.mode, now.ino, now.btime.0, now.btime.1);
            self.note(name, &[text.as_bytes(), at].concat())?;
        }
        set_mode(pin.as_fd(), now.mode | OWNERS)?;
        self.dirs.push(One { pin, mode: now.mode });
        Ok(())
    }

    /// Makes the links that hold this text. The first one, which makes it a note, comes last.
    fn note(&mut self, name: String, text: &[u8]) -> io::Result<()> {
        let pieces: Vec<&[u8]> = text.chunks(PIECE).collect();
        for (number, piece) in pieces.into_iter().enumerate().rev() {
            let name = further(name.as_bytes(), number);
            rustix::fs::symlinkat(piece, &self.own, name.as_slice())?;
            self.notes.push(name);
        }
        Ok(())
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        let mut settled = true;
        for One { pin, mode } in &self.dirs {
            settled &= lower(pin.as_fd(), *mode).is_ok();
        }
        // What could not be lowered the next start tries again.
        if settled {
            // The first link of each before the further ones: half a note would name another directory.
            for note in self.notes.iter().rev() {
                let _ = rustix::fs::unlinkat(&self.own, note.as_slice(), AtFlags::empty());
            }
        }
    }
}

/// Gives directories their modes back that a crash left writable.
pub fn settle(root: BorrowedFd<'_>, own: &OwnDir) -> io::Result<()> {
    let (first, rest): (Vec<_>, Vec<_>) = notes(own)?.into_iter().partition(|note| !note.contains(&b'.'));
    for note in first {
        let Ok(text) = read(own, &note) else { continue };
        if let Some((known, path)) = parse(&text)
            && let Ok(pin) = beneath::pin_dir(root, path)
            && let Ok(now) = look(pin.as_fd())
            && (now.ino, now.btime) == (known.ino, known.btime)
        {
            lower(pin.as_fd(), known.mode)?;
        }
        rustix::fs::unlinkat(own, note.as_slice(), AtFlags::empty())?;
    }
    for note in rest {
        rustix::fs::unlinkat(own, note.as_slice(), AtFlags::empty())?;
    }
    Ok(())
}

/// The name of a note's link by its number.
fn further(note: &[u8], number: usize) -> Vec<u8> {
    match number {
        0 => note.to_vec(),
        _ => [note, format!(".{number}").as_bytes()].concat(),
    }
}

/// What a note's links hold together.
fn read(own: &OwnDir, note: &[u8]) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    for number in 0.. {
        match rustix::fs::readlinkat(own, further(note, number), Vec::new()) {
            Ok(piece) => text.extend_from_slice(piece.as_bytes()),
            Err(Errno::NOENT) if number > 0 => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(text)
}

/// Back to its own mode, unless somebody gave it another one meanwhile.
fn lower(pin: BorrowedFd<'_>, mode: u32) -> io::Result<()> {
    match look(pin)?.mode == mode | OWNERS {
        true => set_mode(pin, mode),
        false => Ok(()),
    }
}

fn set_mode(pin: BorrowedFd<'_>, mode: u32) -> io::Result<()> {
    Ok(rustix::fs::chmod(beneath::proc_path(pin), Mode::from_raw_mode(mode))?)
}

fn look(pin: BorrowedFd<'_>) -> io::Result<Known> {
    let stat = rustix::fs::statx(pin, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS | StatxFlags::BTIME)?;
    Ok(Known {
        ino: stat.stx_ino,
        btime: (stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec),
        mode: u32::from(stat.stx_mode) & 0o7777,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
    })
}

fn is_member(gid: u32) -> bool {
    let groups = rustix::process::getgroups().unwrap_or_default();
    rustix::process::getegid().as_raw() == gid || groups.iter().any(|group| group.as_raw() == gid)
}

/// Where an open directory lies below the root; empty for the root itself.
fn place(root: BorrowedFd<'_>, dir: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let at = |fd| rustix::fs::readlink(beneath::proc_path(fd), Vec::new()).map(|path| path.into_bytes());
    let (top, at) = match (at(root), at(dir)) {
        // With the root's own path it is longer than the kernel tells.
        (_, Err(Errno::NAMETOOLONG)) => return climbed(root, dir),
        (top, at) => (top?, at?),
    };
    let below = at.strip_prefix(&top[..]).ok_or(Errno::XDEV)?;
    Ok(below.strip_prefix(b"/").unwrap_or(below).to_vec())
}

/// The same by going up from the directory, and looking there for the name that it has.
fn climbed(root: BorrowedFd<'_>, dir: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let id = |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino));
    let top = id(root)?;
    let mut path: Vec<u8> = Vec::new();
    let mut here = rustix::fs::openat(dir, c".", DIRECTORY, Mode::empty())?;
    while id(here.as_fd())? != top {
        let above = rustix::fs::openat(&here, c"..", DIRECTORY, Mode::empty())?;
        let (at, up) = (id(here.as_fd())?, id(above.as_fd())?);
        // No path below a root is longer; and the root of all is above itself.
        if up == at || path.len() > PATH_MAX {
            return Err(Errno::XDEV.into());
        }
        let is_here = |name: &Vec<u8>| {
            rustix::fs::statat(&above, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT)
                .is_ok_and(|stat| (stat.st_dev, stat.st_ino) == at)
        };
        let name = entries(above.as_fd(), |ino, _| ino == at.1)?.into_iter().find(is_here).ok_or(Errno::NOENT)?;
        path = if path.is_empty() { name } else { [&name[..], &path].join(&b'/') };
        here = above;
    }
    Ok(path)
}

fn joined(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, name].join(&b'/') }
}

fn parse(text: &[u8]) -> Option<(Known, &[u8])> {
    let mut parts = text.splitn(5, |byte| *byte == b' ');
    let mut word = || std::str::from_utf8(parts.next()?).ok();
    let mode = u32::from_str_radix(word()?, 8).ok()?;
    let (ino, secs, nanos) = (word()?.parse().ok()?, word()?.parse().ok()?, word()?.parse().ok()?);
    let path = parts.next()?;
    // The root itself is opened as what it is.
    let path = if path.is_empty() { b"." } else { path };
    Some((Known { ino, btime: (secs, nanos), mode, uid: 0, gid: 0 }, path))
}

fn notes(own: &OwnDir) -> io::Result<Vec<Vec<u8>>> {
    let dir = rustix::fs::openat(own, c".", DIRECTORY, Mode::empty())?;
    entries(dir.as_fd(), |_, name| name.starts_with(NOTE.as_bytes()))
}

/// The names in a directory that are wanted, by their inode's number or by themselves.
fn entries(dir: BorrowedFd<'_>, wanted: impl Fn(u64, &[u8]) -> bool) -> io::Result<Vec<Vec<u8>>> {
    let mut buffer = Vec::with_capacity(8 * 1024);
    let mut entries = RawDir::new(dir, buffer.spare_capacity_mut());
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if wanted(entry.ino(), name) {
            names.push(name.to_vec());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use crate::model::Name;

    use super::*;

    fn mode(path: &std::path::Path) -> u32 {
        fs::metadata(path).expect("there").permissions().mode() & 0o7777
    }

    fn chmod(path: &std::path::Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
    }

    /// A root with `a/sub` and `b`, all 0555, and psync's own directory.
    fn stage() -> (tempfile::TempDir, OwnedFd, OwnDir) {
        let top = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(top.path().join("a/sub")).expect("made");
        fs::create_dir(top.path().join("b")).expect("made");
        for name in ["a/sub", "a", "b"] {
            chmod(&top.path().join(name), 0o555);
        }
        let root = beneath::open_root(top.path()).expect("open");
        let own = OwnDir::make(root.as_fd(), top.path(), &Name::new(b"pair").expect("a name")).expect("made");
        (top, root, own)
    }

    #[test]
    fn writable_for_the_moment_and_never_for_others() {
        let (top, root, own) = stage();
        let dir = |name: &str| beneath::open_dir(root.as_fd(), name.as_bytes()).expect("open");
        let (a, b) = (dir("a"), dir("b"));
        let modes = || ["a", "b", "a/sub"].map(|name| mode(&top.path().join(name)));
        let raised = raise(root.as_fd(), &own, (a.as_fd(), b"sub"), (b.as_fd(), b"sub")).expect("raised");
        assert_eq!(modes(), [0o755; 3]);
        assert_eq!(notes(&own).expect("listed").len(), 4);
        drop(raised);
        assert_eq!(modes(), [0o555; 3]);
        assert!(notes(&own).expect("listed").is_empty());
        chmod(&top.path().join("a"), 0o700);
        chmod(&top.path().join("b"), 0o700);
        assert!(raise(root.as_fd(), &own, (a.as_fd(), b"none"), (b.as_fd(), b"none")).expect("looked").is_none());
    }

    #[test]
    fn a_crash_at_any_moment_leaves_the_modes_to_the_next_start() {
        for moved in [false, true] {
            let (top, root, own) = stage();
            let dir = |name: &str| beneath::open_dir(root.as_fd(), name.as_bytes()).expect("open");
            let (a, b) = (dir("a"), dir("b"));
            let raised = raise(root.as_fd(), &own, (a.as_fd(), b"sub"), (b.as_fd(), b"new name")).expect("raised");
            // As if the process had ended here.
            std::mem::forget(raised);
            if moved {
                fs::rename(top.path().join("a/sub"), top.path().join("b/new name")).expect("moved");
            }
            let sub = if moved { "b/new name" } else { "a/sub" };
            settle(root.as_fd(), &own).expect("settled");
            assert_eq!(["a", "b", sub].map(|name| mode(&top.path().join(name))), [0o555; 3]);
            assert!(notes(&own).expect("listed").is_empty());
        }
    }

    #[test]
    fn what_a_user_set_meanwhile_stays() {
        let (top, root, own) = stage();
        let a = beneath::open_dir(root.as_fd(), b"a").expect("open");
        let raised = raise(root.as_fd(), &own, (a.as_fd(), b"x"), (a.as_fd(), b"y")).expect("raised");
        chmod(&top.path().join("a"), 0o750);
        std::mem::forget(raised);
        settle(root.as_fd(), &own).expect("settled");
        assert_eq!(mode(&top.path().join("a")), 0o750);
    }

    #[test]
    fn a_path_of_any_length_is_noted_and_settled() {
        let (top, root, own) = stage();
        chmod(&top.path().join("a"), 0o755);
        let mut dir = beneath::open_dir(root.as_fd(), b"a").expect("open");
        let mut path = b"a".to_vec();
        // Shorter than the longest by itself, and longer with what lies above the root.
        while path.len() < PATH_MAX - 120 {
            let name = vec![b'n'; (PATH_MAX - path.len() - 2).min(100)];
            rustix::fs::mkdirat(&dir, name.as_slice(), Mode::from_raw_mode(0o755)).expect("made");
            dir = rustix::fs::openat(&dir, name.as_slice(), DIRECTORY, Mode::empty()).expect("open");
            path = [&path[..], &name].join(&b'/');
        }
        assert_eq!(climbed(root.as_fd(), dir.as_fd()).expect("found"), path);
        set_mode(dir.as_fd(), 0o500).expect("set");
        let mode = || look(dir.as_fd()).expect("looked").mode;
        let raise = || raise(root.as_fd(), &own, (dir.as_fd(), b"x"), (dir.as_fd(), b"y")).expect("raised");
        let raised = raise();
        assert!(notes(&own).expect("listed").len() > PATH_MAX / 1024, "no link is longer than XFS takes");
        assert_eq!(mode(), 0o700);
        drop(raised);
        assert_eq!((mode(), notes(&own).expect("listed").len()), (0o500, 0));
        std::mem::forget(raise());
        settle(root.as_fd(), &own).expect("settled");
        assert_eq!((mode(), notes(&own).expect("listed").len()), (0o500, 0));
    }
}
