//! The stage: a base tree, hosts made from it, the line between two of them, the package under test.

mod base;
mod cgroups;
mod host;
mod line;
mod package;
pub mod web;

pub use host::{Done, Host};
pub use line::Line;
pub use package::{newer, package};

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::tools;

/// How long anything may take before the test fails. Far more than it should need.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Two running hosts, `left` and `right`, that reach each other by these names. They end when it is dropped.
pub struct Lab {
    pub left: Host,
    pub right: Host,
    pub line: Line,
    /// Last: it is dropped after the hosts.
    _scratch: Scratch,
}

static LABS: AtomicUsize = AtomicUsize::new(0);

impl Lab {
    /// Boots both. `None`: it cannot be done here, which has been told.
    pub fn boot() -> Option<Lab> {
        for program in ["systemd-nspawn", "debootstrap", "nsenter", "ip", "setpriv", "dpkg-buildpackage", "dh"] {
            if !tools::has(program) {
                return None;
            }
        }
        if !nix::unistd::geteuid().is_root() {
            tools::missing("root");
            return None;
        }
        make_room();
        let base = base::tree();
        let name = format!("{}-{}", std::process::id(), LABS.fetch_add(1, Ordering::Relaxed));
        let scratch = Scratch(directory().join(format!("run-{name}")));
        let line = Line::lay(&name);
        let mut left = Host::new("left", &base, &scratch.0, line.left());
        let mut right = Host::new("right", &base, &scratch.0, line.right());
        left.start();
        right.start();
        left.wait_until_running();
        right.wait_until_running();
        Some(Lab { left, right, line, _scratch: scratch })
    }

    /// As [`Lab::boot`], with the package on both.
    pub fn with_psync() -> Option<Lab> {
        let lab = Lab::boot()?;
        for host in lab.hosts() {
            host.install(package());
        }
        Some(lab)
    }

    pub fn hosts(&self) -> [&Host; 2] {
        [&self.left, &self.right]
    }

    /// Writes the pair's file on both hosts, as an administrator does.
    pub fn configure(&self, pair: &str, text: &str) {
        for host in self.hosts() {
            host.write(&format!("/etc/psync/{pair}.toml"), text);
            host.sh("systemctl daemon-reload");
        }
    }
}

/// Every systemd needs some inotify instances, and those of all hosts count as one user's.
fn make_room() {
    let path = "/proc/sys/fs/inotify/max_user_instances";
    let now: u32 = fs::read_to_string(path).unwrap().trim().parse().unwrap();
    if now < 512 {
        fs::write(path, "512").unwrap();
    }
}

/// A directory that goes when the hosts in it have gone.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Where trees are kept, from run to run.
fn directory() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("target/tmp lies in target");
    target.join("lab")
}

/// Asks again and again, without hurry, until the answer is yes; fails the test if it never is.
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "still not after {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Runs a program of this machine; it must succeed. What it printed.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {}\n{text}{errors}", output.status);
    text
}
