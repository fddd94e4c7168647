//! Renames, and what is done where the plain call is refused: a directory that its owner may not write in is made writable for
//! the moment ([`super::raise`]), and what comes under a project's quota gets the project ([`super::project`]). The plain
//! call comes first, so that ordinary places cost nothing.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, FileType, Gid, RenameFlags, StatxAttributes, StatxFlags, Uid};
use rustix::io::Errno;

use crate::model::{Name, readable};
use crate::replica::disk::ASIDE;

use super::{Dir, OwnDir, Place, project, raise};

/// What renames below one root need.
pub struct Renames<'a> {
    pub root: BorrowedFd<'a>,
    /// `None`: a dry run.
    pub own: Option<&'a OwnDir>,
}

/// A name in an open directory.
pub type At<'a> = (BorrowedFd<'a>, &'a [u8]);

impl Renames<'_> {
    /// Renames or exchanges. `file`: what lies at `from`, if it is open.
    pub fn carry_out(
        &self,
        file: Option<BorrowedFd<'_>>,
        from: (&Dir, &Name),
        to: (&Dir, &Name),
        flags: RenameFlags,
    ) -> io::Result<()> {
        let ours = [from.0, to.0].map(|dir| dir.0.place == Place::Own);
        self.carry_out_at((file, ours), (from.0.as_fd(), from.1.as_bytes()), (to.0.as_fd(), to.1.as_bytes()), flags)
    }

    /// The same by descriptors. `ours`: which of `from` and `to` are psync's own directories.
    pub fn carry_out_at(
        &self,
        (file, ours): (Option<BorrowedFd<'_>>, [bool; 2]),
        from: At<'_>,
        to: At<'_>,
        flags: RenameFlags,
    ) -> io::Result<()> {
        let raised;
        let mut done = plain(from, to, flags);
        if done == Err(Errno::ACCESS) {
            raised = self.raise(from, to)?;
            if raised.is_some() {
                done = plain(from, to, flags);
            }
        }
        if done == Err(Errno::XDEV) && open_own(ours, from, to)? {
            done = plain(from, to, flags);
        }
        match done {
            Err(Errno::XDEV) if fit(file, from, to, flags)? => Ok(plain(from, to, flags)?),
            Err(Errno::XDEV) if ours[0] && is_link(from) => link_anew(from, to, flags),
            Err(Errno::PERM) => Err(frozen(from, to, flags).unwrap_or_else(|| Errno::PERM.into())),
            other => Ok(other?),
        }
    }

    /// Removes an empty directory.
    pub fn remove_empty(&self, at: At<'_>) -> io::Result<()> {
        let remove = || rustix::fs::unlinkat(at.0, at.1, AtFlags::REMOVEDIR);
        match remove() {
            Err(Errno::ACCESS) => {
                let Some(_raised) = self.raise(at, at)? else { return Err(Errno::ACCESS.into()) };
                Ok(remove()?)
            }
            Err(Errno::PERM) => Err(frozen(at, at, RenameFlags::empty()).unwrap_or_else(|| Errno::PERM.into())),
            other => Ok(other?),
        }
    }

    /// Makes writable what the rename must write to. `None` if it was not that.
    fn raise(&self, from: At<'_>, to: At<'_>) -> io::Result<Option<raise::Raised>> {
        let Some(own) = self.own else { return Ok(None) };
        raise::raise(self.root, own, from, to)
    }
}

fn plain(from: At<'_>, to: At<'_>, flags: RenameFlags) -> Result<(), Errno> {
    rustix::fs::renameat_with(from.0, from.1, to.0, to.1, flags)
}

/// Makes psync's own directories take objects of any project; false if they did already. A project of the root's has reached
/// them, and in the root there may be others. What cannot get another project, as a link, can be taken away all the same.
fn open_own(ours: [bool; 2], from: At<'_>, to: At<'_>) -> io::Result<bool> {
    let mut changed = false;
    for (_, (dir, _)) in ours.into_iter().zip([from, to]).filter(|(own, _)| *own) {
        changed |= project::hand_none_down(dir)?;
    }
    Ok(changed)
}

/// Gives each object the project that its new directory hands down; false if nothing changed.
fn fit(file: Option<BorrowedFd<'_>>, from: At<'_>, to: At<'_>, flags: RenameFlags) -> io::Result<bool> {
    let mut changed = project::fit(file, from, to.0)?;
    if flags.contains(RenameFlags::EXCHANGE) {
        changed |= project::fit(None, to, from.0)?;
    }
    Ok(changed)
}

fn is_link((dir, name): At<'_>) -> bool {
    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
    stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink)
}

/// A symbolic link cannot get another project: it is made again in its place, and the one in psync's own directory removed.
/// What it is exchanged with leaves its name a moment before.
fn link_anew(from: At<'_>, to: At<'_>, flags: RenameFlags) -> io::Result<()> {
    let target = rustix::fs::readlinkat(from.0, from.1, Vec::new())?;
    let owner = rustix::fs::statat(from.0, from.1, AtFlags::SYMLINK_NOFOLLOW)?;
    let aside = [from.1, ASIDE].concat();
    let out = (from.0, &aside[..]);
    let exchange = flags.contains(RenameFlags::EXCHANGE);
    if exchange {
        plain(to, out, RenameFlags::NOREPLACE)?;
    }
    if let Err(error) = rustix::fs::symlinkat(&target, to.0, to.1) {
        if exchange {
            plain(out, to, RenameFlags::NOREPLACE)?;
        }
        return Err(error.into());
    }
    let (user, group) = (Uid::from_raw(owner.st_uid), Gid::from_raw(owner.st_gid));
    match rustix::fs::chownat(to.0, to.1, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(()) | Err(Errno::PERM | Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    match exchange {
        true => plain(out, from, RenameFlags::empty())?,
        false => rustix::fs::unlinkat(from.0, from.1, AtFlags::empty())?,
    }
    Ok(())
}

/// The error of a rename that a flag of one of these objects forbids, with the cure.
fn frozen(from: At<'_>, to: At<'_>, flags: RenameFlags) -> Option<io::Error> {
    let exchanged = flags.contains(RenameFlags::EXCHANGE).then_some(to);
    let object = [Some(from), exchanged].into_iter().flatten().find_map(|(dir, name)| {
        let (word, option) = flag_of(dir, name)?;
        Some(forbids(&readable(name), word, option))
    });
    let dirs = || {
        let (word, option) = [from.0, to.0].into_iter().find_map(|dir| flag_of(dir, b""))?;
        Some(forbids("the directory", word, option))
    };
    Some(io::Error::new(io::ErrorKind::PermissionDenied, object.or_else(dirs)?))
}

/// What a flag forbids, and the cure.
pub fn forbids(what: &str, word: &str, option: &str) -> String {
    format!("{what} is {word}, which forbids that to everybody: `chattr {option}` ends it (`lsattr -d` shows it)")
}

/// The flag that keeps an object as it is, and the option that takes it away. The directory itself under an empty name.
fn flag_of(dir: BorrowedFd<'_>, name: &[u8]) -> Option<(&'static str, &'static str)> {
    let how = if name.is_empty() { AtFlags::EMPTY_PATH } else { AtFlags::SYMLINK_NOFOLLOW };
    let how = how | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    flag_in(rustix::fs::statx(dir, name, how, StatxFlags::TYPE).ok()?.stx_attributes)
}

/// The same in a stat.
pub fn flag_in(flags: StatxAttributes) -> Option<(&'static str, &'static str)> {
    match () {
        () if flags.contains(StatxAttributes::IMMUTABLE) => Some(("immutable", "-i")),
        () if flags.contains(StatxAttributes::APPEND) => Some(("append-only", "-a")),
        () => None,
    }
}

/// The error of what could not be thrown away, with what may be in the way.
pub fn with_cure(error: io::Error) -> io::Error {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::PERM) => {
            let text = "not permitted: something in it is immutable or append-only (`chattr -R -i -a` ends that), or another user's";
            io::Error::new(io::ErrorKind::PermissionDenied, text)
        }
        _ => error,
    }
}
