//! File systems of a test's own.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{process, tools};

/// A mounted file system; dropping it takes it away whatever happens.
pub struct Mounted(PathBuf);

/// Mounts a file system of this kind at the directory, which exists. `None`, with a word, where that cannot be done.
pub fn mount(kind: &str, options: &[&str], source: &Path, at: &Path) -> Option<Mounted> {
    if !process::is_root() || !tools::has("mount") {
        tools::missing("the right to mount");
        return None;
    }
    let mount = Command::new("mount").args(["-t", kind]).args(options).arg(source).arg(at).output().unwrap();
    if !mount.status.success() {
        tools::missing(&format!("a mount of {kind} ({})", String::from_utf8_lossy(&mount.stderr).trim()));
        return None;
    }
    Some(Mounted(at.to_owned()))
}

/// A small ext4 in a file beside the directory, mounted there.
pub fn small_ext4(at: &Path, mebibytes: u64) -> Option<Mounted> {
    in_a_file("ext4", &["-q", "-m", "0"], at, mebibytes)
}

/// A file system of this kind in a file beside the directory, mounted there. `None`, with a word, where it cannot be
/// made.
pub fn in_a_file(kind: &str, options: &[&str], at: &Path, mebibytes: u64) -> Option<Mounted> {
    let make = format!("mkfs.{kind}");
    if !tools::has(&make) {
        return None;
    }
    let image = at.with_extension("img");
    std::fs::File::create(&image).unwrap().set_len(mebibytes << 20).unwrap();
    std::fs::create_dir_all(at).unwrap();
    tools::run(Path::new("/"), &make, &[options, &[image.to_str().unwrap()]].concat());
    mount(kind, &["-o", "loop"], &image, at)
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}
