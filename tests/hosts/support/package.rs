//! The package under test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use super::{directory, run};

/// Built from the sources as they are, once.
pub fn package() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/build-deb");
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
        let output = Command::new(script).env("CARGO_TARGET_DIR", target).stdin(Stdio::null()).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "build-deb: {}\n{errors}", output.status);
        PathBuf::from(String::from_utf8(output.stdout).unwrap().lines().last().expect("a path"))
    })
}

/// The same package with a higher version.
pub fn newer() -> PathBuf {
    let unpacked = directory().join(format!("newer-{}", std::process::id()));
    let (tree, made) = (unpacked.join("tree"), unpacked.join("newer.deb"));
    fs::create_dir_all(&unpacked).unwrap();
    run("dpkg-deb", &["-R", package().to_str().unwrap(), tree.to_str().unwrap()]);
    let control = tree.join("DEBIAN/control");
    let text = fs::read_to_string(&control).unwrap();
    let version = text.lines().find(|l| l.starts_with("Version: ")).expect("a version");
    fs::write(&control, text.replace(version, &format!("{version}+newer"))).unwrap();
    run("dpkg-deb", &["--root-owner-group", "-b", tree.to_str().unwrap(), made.to_str().unwrap()]);
    let kept = directory().join(format!("newer-{}.deb", std::process::id()));
    fs::rename(made, &kept).unwrap();
    fs::remove_dir_all(unpacked).unwrap();
    kept
}
