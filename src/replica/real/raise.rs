//! Directories without the right to write for their owner (0555, as a module cache has them), where psync runs as that
//! owner: they get it for the moment of a rename, and their own mode back at once.
//!
//! Before that a link is made in psync's own directory whose target says which directory gets its mode back: a note that
//! needs no sync of its own, since names and modes reach the disk in their order. The next start settles what is left.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, Mode, OFlags, RawDir, StatxFlags};
use rustix::io::Errno;

use super::rename::At;
use super::{OwnDir, beneath};

/// How the names of the notes begin.
const NOTE: &str = "raised-";
/// What a rename takes in a directory: to write and to enter.
const OWNERS: u32 = 0o300;
const SETGID: u32 = 0o2000;

static COUNT: AtomicU64 = AtomicU64::new(0);

/// Directories that are writable for as long as this lives.
pub struct Raised {
    own: OwnDir,
    dirs: Vec<One>,
    notes: Vec<String>,
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
            rustix::fs::symlinkat([text.as_bytes(), at].concat(), &self.own, name.as_str())?;
            self.notes.push(name);
        }
        set_mode(pin.as_fd(), now.mode | OWNERS)?;
        self.dirs.push(One { pin, mode: now.mode });
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
            for note in &self.notes {
                let _ = rustix::fs::unlinkat(&self.own, note.as_str(), AtFlags::empty());
            }
        }
    }
}

/// Gives directories their modes back that a crash left writable.
pub fn settle(root: BorrowedFd<'_>, own: &OwnDir) -> io::Result<()> {
    for note in notes(own)? {
        let Ok(text) = rustix::fs::readlinkat(own, note.as_slice(), Vec::new()) else { continue };
        if let Some((known, path)) = parse(text.as_bytes())
            && let Ok(pin) = beneath::pin_dir(root, path)
            && let Ok(now) = look(pin.as_fd())
            && (now.ino, now.btime) == (known.ino, known.btime)
        {
            lower(pin.as_fd(), known.mode)?;
        }
        rustix::fs::unlinkat(own, note.as_slice(), AtFlags::empty())?;
    }
    Ok(())
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
    let (top, at) = (at(root)?, at(dir)?);
    let below = at.strip_prefix(&top[..]).ok_or(Errno::XDEV)?;
    Ok(below.strip_prefix(b"/").unwrap_or(below).to_vec())
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
    let dir = rustix::fs::openat(own, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut buffer = Vec::with_capacity(8 * 1024);
    let mut entries = RawDir::new(&dir, buffer.spare_capacity_mut());
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name.starts_with(NOTE.as_bytes()) {
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
}
