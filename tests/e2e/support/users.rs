//! What users and their programs do to files, one call each. Every function panics if the system refuses.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, RenameFlags, Timespec, Timestamps, UTIME_OMIT, XattrFlags};

fn ok<T, E: std::fmt::Display>(result: Result<T, E>, what: &str, path: &Path) -> T {
    result.unwrap_or_else(|e| panic!("{what} {path:?}: {e}"))
}

pub fn write(path: impl AsRef<Path>, contents: impl AsRef<[u8]>) {
    ok(fs::write(path.as_ref(), contents), "write", path.as_ref());
}

/// Writes a file in a directory that may have to be made first.
pub fn plant(path: impl AsRef<Path>, contents: impl AsRef<[u8]>) {
    mkdirs(path.as_ref().parent().unwrap());
    write(path, contents);
}

pub fn read(path: impl AsRef<Path>) -> String {
    String::from_utf8_lossy(&ok(fs::read(path.as_ref()), "read", path.as_ref())).into_owned()
}

pub fn append(path: impl AsRef<Path>, contents: impl AsRef<[u8]>) {
    let mut file = ok(OpenOptions::new().append(true).open(path.as_ref()), "open", path.as_ref());
    ok(file.write_all(contents.as_ref()), "append", path.as_ref());
}

/// Writes in place, in the middle.
pub fn write_at(path: impl AsRef<Path>, offset: u64, contents: impl AsRef<[u8]>) {
    let file =
        ok(OpenOptions::new().write(true).create(true).truncate(false).open(path.as_ref()), "open", path.as_ref());
    ok(file.write_all_at(contents.as_ref(), offset), "write", path.as_ref());
}

/// truncate(2), without opening.
pub fn truncate(path: impl AsRef<Path>, size: u64) {
    ok(nix_truncate(path.as_ref(), size), "truncate", path.as_ref());
}

fn nix_truncate(path: &Path, size: u64) -> nix::Result<()> {
    nix::unistd::truncate(path, size as i64)
}

pub fn mkdir(path: impl AsRef<Path>) {
    ok(fs::create_dir(path.as_ref()), "mkdir", path.as_ref());
}

pub fn mkdirs(path: impl AsRef<Path>) {
    ok(fs::create_dir_all(path.as_ref()), "mkdir -p", path.as_ref());
}

pub fn remove(path: impl AsRef<Path>) {
    ok(fs::remove_file(path.as_ref()), "rm", path.as_ref());
}

pub fn remove_tree(path: impl AsRef<Path>) {
    ok(fs::remove_dir_all(path.as_ref()), "rm -r", path.as_ref());
}

pub fn rename(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    ok(fs::rename(from.as_ref(), to.as_ref()), "mv", from.as_ref());
}

/// Swaps two names in one call.
pub fn exchange(a: impl AsRef<Path>, b: impl AsRef<Path>) {
    ok(rustix::fs::renameat_with(CWD, a.as_ref(), CWD, b.as_ref(), RenameFlags::EXCHANGE), "swap", a.as_ref());
}

pub fn chmod(path: impl AsRef<Path>, mode: u32) {
    ok(fs::set_permissions(path.as_ref(), Permissions::from_mode(mode)), "chmod", path.as_ref());
}

pub fn chown(path: impl AsRef<Path>, uid: u32, gid: u32) {
    ok(std::os::unix::fs::lchown(path.as_ref(), Some(uid), Some(gid)), "chown", path.as_ref());
}

/// Sets the time of last modification, in seconds and nanoseconds since 1970.
pub fn touch(path: impl AsRef<Path>, seconds: i64, nanoseconds: i64) {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanoseconds },
    };
    ok(rustix::fs::utimensat(CWD, path.as_ref(), &times, AtFlags::SYMLINK_NOFOLLOW), "touch", path.as_ref());
}

pub fn set_xattr(path: impl AsRef<Path>, name: &str, value: &[u8]) {
    ok(rustix::fs::lsetxattr(path.as_ref(), name, value, XattrFlags::empty()), "setfattr", path.as_ref());
}

pub fn remove_xattr(path: impl AsRef<Path>, name: &str) {
    ok(rustix::fs::lremovexattr(path.as_ref(), name), "setfattr -x", path.as_ref());
}

pub fn symlink(target: impl AsRef<OsStr>, path: impl AsRef<Path>) {
    ok(std::os::unix::fs::symlink(target.as_ref(), path.as_ref()), "ln -s", path.as_ref());
}

pub fn hard_link(old: impl AsRef<Path>, new: impl AsRef<Path>) {
    ok(fs::hard_link(old.as_ref(), new.as_ref()), "ln", new.as_ref());
}

/// A save as most programs do it: a new file, synced, renamed over the old one.
pub fn save(path: impl AsRef<Path>, contents: impl AsRef<[u8]>) {
    save_by("", path, contents);
}

/// The same, by a user whose new files nobody else names alike.
pub fn save_by(who: &str, path: impl AsRef<Path>, contents: impl AsRef<[u8]>) {
    let path = path.as_ref();
    let new = with_name(path, |name| [b".new-", who.as_bytes(), name].concat());
    let mut file = ok(File::create(&new), "create", &new);
    ok(file.write_all(contents.as_ref()), "write", &new);
    ok(file.sync_all(), "fsync", &new);
    drop(file);
    rename(new, path);
}

/// The path with another last name.
pub fn with_name(path: &Path, change: impl Fn(&[u8]) -> Vec<u8>) -> PathBuf {
    let name = change(path.file_name().unwrap().as_bytes());
    path.with_file_name(OsStr::from_bytes(&name))
}

/// `length` bytes that look random and are the same for the same seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        out.extend_from_slice(&random.next().to_le_bytes());
    }
    out.truncate(length);
    out
}

/// A small generator (xorshift*): good enough to choose what a user does next.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 11) % end
    }
}
