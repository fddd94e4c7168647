//! Where a directory lies on its file system, however it is mounted.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// A file system and the path on it. Two directories with one location are one directory, bind mounts or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// `major:minor`
    device: String,
    path: PathBuf,
}

impl Location {
    /// Whether `other` is this directory or lies below it.
    pub fn holds(&self, other: &Location) -> bool {
        self.device == other.device && other.path.starts_with(&self.path)
    }
}

impl Location {
    /// Where `other` lies in this directory; `None` if it does not, or is it.
    pub fn below(&self, other: &Location) -> Option<PathBuf> {
        let rest = self.holds(other).then(|| other.path.strip_prefix(&self.path).ok()).flatten()?;
        (!rest.as_os_str().is_empty()).then(|| rest.to_owned())
    }
}

/// The location of a canonical path; `None` if the kernel does not tell.
pub fn locate(path: &Path) -> Option<Location> {
    locate_in(&fs::read("/proc/self/mountinfo").ok()?, path)
}

fn locate_in(mountinfo: &[u8], path: &Path) -> Option<Location> {
    let mut best: Option<(PathBuf, Location)> = None;
    for line in mountinfo.split(|b| *b == b'\n') {
        // 36 35 98:0 /mnt1 /mnt2 rw,noatime … : id, parent, device, root, mount point
        let mut fields = line.split(|b| *b == b' ').skip(2);
        let (Some(device), Some(root), Some(point)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let (root, point) = (unescape(root), unescape(point));
        let Ok(below) = path.strip_prefix(&point) else { continue };
        // The longest mount point counts; of equals the last, which lies on top.
        if best.as_ref().is_none_or(|(longest, _)| point.as_os_str().len() >= longest.as_os_str().len()) {
            let path: PathBuf = root.join(below).components().collect();
            best = Some((point, Location { device: String::from_utf8_lossy(device).into_owned(), path }));
        }
    }
    best.map(|(_, location)| location)
}

/// Blanks and backslashes are written as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..3).and_then(|d| std::str::from_utf8(d).ok()).and_then(|d| u8::from_str_radix(d, 8).ok());
        match (first, octal) {
            (b'\\', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &[u8] = b"\
1 0 8:1 / / rw - ext4 /dev/sda1 rw
2 1 8:2 / /srv rw - ext4 /dev/sdb rw
3 1 8:2 /data /mnt rw - ext4 /dev/sdb rw
4 1 8:2 /data/in\\040side /bind rw - ext4 /dev/sdb rw
5 1 8:3 / /over rw - ext4 /dev/sdc rw
6 5 8:4 / /over rw - ext4 /dev/sdd rw
broken
";

    #[test]
    fn locations() {
        for (path, device, want) in [
            ("/home", "8:1", "/home"),
            ("/", "8:1", "/"),
            ("/srv", "8:2", "/"),
            ("/srv/data/x", "8:2", "/data/x"),
            ("/srvx", "8:1", "/srvx"),
            ("/mnt", "8:2", "/data"),
            ("/bind/y", "8:2", "/data/in side/y"),
            ("/over/z", "8:4", "/z"),
        ] {
            let location = Location { device: device.into(), path: want.into() };
            assert_eq!(locate_in(MOUNTS, Path::new(path)), Some(location), "{path}");
        }
    }

    #[test]
    fn nesting_through_binds() {
        let at = |path: &str| locate_in(MOUNTS, Path::new(path)).expect("location");
        assert!(at("/mnt").holds(&at("/bind")) && !at("/bind").holds(&at("/mnt")));
        assert!(at("/srv/data").holds(&at("/mnt")) && at("/mnt").holds(&at("/srv/data")));
        assert!(!at("/home").holds(&at("/srv")));
    }

    #[test]
    fn this_machine_tells() {
        assert!(locate(Path::new("/")).is_some());
    }
}
