//! What lies outside the roots, and whether anybody touched it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use inotify::{Inotify, WatchMask};

use crate::support::tools;

/// Everything about an object that psync could change.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Look {
    mode: u32,
    owner: (u32, u32),
    size: u64,
    mtime: (i64, i64),
    inode: u64,
    xattrs: BTreeMap<OsString, Vec<u8>>,
    contents: Vec<u8>,
}

/// Objects that are nobody's business: files, directories, a setuid program, a FIFO. Whoever opens or reads one is seen.
pub struct Victims {
    pub dir: PathBuf,
    before: BTreeMap<PathBuf, Look>,
    watch: Inotify,
    /// Those that users may link to: they come into the tree, so psync may read them there.
    readable: Vec<PathBuf>,
}

impl Victims {
    /// Makes them in `dir`, which anybody may enter.
    pub fn new(dir: PathBuf) -> Victims {
        fs::create_dir(&dir).unwrap();
        let make = |name: &str, contents: &[u8], mode: u32| {
            let path = dir.join(name);
            fs::write(&path, contents).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        };
        let make_dir = |name: &str| fs::create_dir(dir.join(name)).unwrap();
        make("secret", b"nobody may read this\n", 0o600);
        make("f", b"a file of the name that is raced for\n", 0o644);
        make("tool", b"#!/bin/sh\nid\n", 0o755);
        make("passwd", b"root:x:0:0::/root:/bin/sh\n", 0o644);
        make("read only", b"kept\n", 0o444);
        make_dir("dir");
        make("dir/inner", b"in a directory\n", 0o640);
        make("dir/f", b"below\n", 0o600);
        make_dir("dir/e");
        make("dir/e/f", b"deep\n", 0o600);
        make_dir("closed");
        fs::set_permissions(dir.join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
        // A link to it may be made by whoever may write it.
        make("shared", b"anybody may write this\n", 0o666);
        if nix::unistd::geteuid().is_root() {
            fs::set_permissions(dir.join("tool"), fs::Permissions::from_mode(0o4755)).unwrap();
            for (name, owner) in [("dir/f", 4321), ("dir/e", 4321)] {
                std::os::unix::fs::chown(dir.join(name), Some(owner), Some(owner)).unwrap();
            }
        }
        tools::run(&dir, "mkfifo", &["fifo"]);
        let watch = Inotify::init().unwrap();
        let readable = vec![dir.join("shared"), dir.join("read only")];
        let mut victims = Victims { before: look_at(&dir), dir, watch, readable };
        victims.begin();
        victims
    }

    pub fn of(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// From here on reading is seen.
    fn begin(&mut self) {
        for path in self.before.keys().filter(|path| !self.readable.contains(path)) {
            let kinds = WatchMask::ACCESS | WatchMask::OPEN | WatchMask::MODIFY | WatchMask::ATTRIB;
            self.watch.watches().add(path, kinds | WatchMask::DONT_FOLLOW).unwrap();
        }
    }

    /// Passes over who was there until now, if they only looked.
    pub fn forget(&mut self) {
        let mut buffer = [0; 8192];
        while self.watch.read_events(&mut buffer).is_ok_and(|events| events.count() > 0) {}
    }

    /// What was done to them; empty: nothing.
    pub fn touched(&mut self) -> Vec<String> {
        let mut found = Vec::new();
        let mut buffer = [0; 8192];
        if let Ok(events) = self.watch.read_events(&mut buffer) {
            found.extend(
                events.take(5).map(|event| format!("somebody was at a victim: {:?} {:?}", event.mask, event.name)),
            );
        }
        let now = look_at(&self.dir);
        for (path, was) in &self.before {
            match now.get(path) {
                None => found.push(format!("{path:?} is gone")),
                Some(is) if is != was => found.push(format!("{path:?} was {was:?}, is {is:?}")),
                Some(_) => {}
            }
        }
        found.extend(now.keys().filter(|path| !self.before.contains_key(*path)).map(|path| format!("{path:?} is new")));
        // This very look was seen as well.
        self.forget();
        found
    }

    pub fn assert_untouched(&mut self, what: &str) {
        let found = self.touched();
        assert!(found.is_empty(), "{what}: {found:#?}");
    }
}

fn look_at(dir: &Path) -> BTreeMap<PathBuf, Look> {
    let mut all = BTreeMap::new();
    let mut waiting = vec![dir.to_path_buf()];
    while let Some(path) = waiting.pop() {
        let stat = fs::symlink_metadata(&path).unwrap();
        if stat.is_dir() {
            waiting.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        let contents = if stat.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
        all.insert(
            path.clone(),
            Look {
                mode: stat.mode(),
                owner: (stat.uid(), stat.gid()),
                size: if stat.is_dir() { 0 } else { stat.size() },
                // A directory's times change with what users make in it.
                mtime: if stat.is_dir() { (0, 0) } else { (stat.mtime(), stat.mtime_nsec()) },
                inode: stat.ino(),
                xattrs: xattrs(&path),
                contents,
            },
        );
    }
    all
}

fn xattrs(path: &Path) -> BTreeMap<OsString, Vec<u8>> {
    use std::os::unix::ffi::OsStrExt;
    let mut names = vec![0; 64 << 10];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    let names = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0; 64 << 10];
            let name = std::ffi::OsStr::from_bytes(name);
            let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap_or(0);
            value.truncate(length);
            (name.to_owned(), value)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_touches_a_victim_is_seen() {
        let temp = tempfile::tempdir().unwrap();
        type Touch = fn(&Path);
        let touches: [(&str, Touch); 6] = [
            ("read", |dir| drop(fs::read(dir.join("secret")))),
            ("listed", |dir| drop(fs::read_dir(dir.join("closed")))),
            ("mode", |dir| fs::set_permissions(dir.join("shared"), fs::Permissions::from_mode(0o777)).unwrap()),
            ("contents", |dir| fs::write(dir.join("passwd"), "x").unwrap()),
            ("new", |dir| fs::write(dir.join("dir/planted"), "x").unwrap()),
            ("gone", |dir| fs::remove_file(dir.join("fifo")).unwrap()),
        ];
        for (name, touch) in touches {
            let mut victims = Victims::new(temp.path().join(name));
            assert_eq!(victims.touched(), [""; 0], "{name}");
            touch(&victims.dir);
            assert_ne!(victims.touched(), [""; 0], "{name}");
        }
    }
}
