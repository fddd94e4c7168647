//! The heartbeat file, `ROOT/.psync/PAIR/heartbeat`: touched now and then, to see its event come back from the kernel
//! through the thread that reads all others.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Timespec, Timestamps, UTIME_NOW};

use crate::model::OWN_DIR;
use crate::watch::inotify::InotifyTree;

/// The file, and the watcher that must hear of it.
pub struct Heartbeat {
    file: File,
    watcher: Arc<InotifyTree>,
}

impl Heartbeat {
    /// Makes the file where it is missing and watches it. psync's own directory must be there.
    pub fn open(root: &Path, pair: &str, watcher: Arc<InotifyTree>) -> io::Result<Heartbeat> {
        use std::os::unix::ffi::OsStrExt;
        let path = root.join(std::ffi::OsStr::from_bytes(OWN_DIR)).join(pair).join("heartbeat");
        let nofollow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
        let file = OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(nofollow).open(path)?;
        watcher.watch_heartbeat(file.as_fd())?;
        Ok(Heartbeat { file, watcher })
    }

    /// Makes an event.
    pub fn touch(&self) -> io::Result<()> {
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        Ok(rustix::fs::futimens(&self.file, &Timestamps { last_access: now, last_modification: now })?)
    }

    /// How many such events have come back.
    pub fn heard(&self) -> u64 {
        self.watcher.heartbeats()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn every_touch_comes_back() {
        let root = tempfile::tempdir().expect("root");
        std::fs::create_dir_all(root.path().join(".psync/p")).expect("own directory");
        let watcher = InotifyTree::start(|event| panic!("no event for users: {event:?}"), |_| false).expect("inotify");
        let heartbeat = Heartbeat::open(root.path(), "p", watcher).expect("file");
        for _ in 0..3 {
            let before = heartbeat.heard();
            heartbeat.touch().expect("touched");
            let end = Instant::now() + Duration::from_secs(20);
            while heartbeat.heard() == before {
                assert!(Instant::now() < end, "nothing came back");
                std::thread::yield_now();
            }
        }
    }
}
