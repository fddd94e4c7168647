//! The heartbeat file, `ROOT/.psync/PAIR/heartbeat`: touched now and then, to see its event come back from the kernel
//! through the thread that reads all others.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::{Timespec, Timestamps, UTIME_NOW};

use crate::replica::real::OwnDir;
use crate::watch::inotify::InotifyTree;

/// The file, and the watcher that must hear of it.
pub struct Heartbeat {
    own: OwnDir,
    file: File,
    watcher: Arc<InotifyTree>,
}

impl Heartbeat {
    /// Makes the file where it is missing and watches it.
    pub fn open(own: OwnDir, watcher: Arc<InotifyTree>) -> io::Result<Heartbeat> {
        let file = own.append("heartbeat")?;
        watcher.watch_heartbeat(file.as_fd())?;
        Ok(Heartbeat { own, file, watcher })
    }

    /// Makes an event. An error if psync's own directory lies elsewhere by now.
    pub fn touch(&self) -> io::Result<()> {
        self.own.is_there().map_err(io::Error::other)?;
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
        let own = OwnDir::find_at(root.path(), "p", crate::replica::real::Owned::Mine).expect("own directory");
        let watcher = InotifyTree::start(|event| panic!("no event for users: {event:?}"), |_| false).expect("inotify");
        let heartbeat = Heartbeat::open(own.clone(), watcher).expect("file");
        for _ in 0..3 {
            let before = heartbeat.heard();
            heartbeat.touch().expect("touched");
            let end = Instant::now() + Duration::from_secs(20);
            while heartbeat.heard() == before {
                assert!(Instant::now() < end, "nothing came back");
                std::thread::yield_now();
            }
        }
        std::fs::rename(root.path().join(".psync"), root.path().join("aside")).expect("renamed");
        assert!(heartbeat.touch().is_err(), "psync's own directory is elsewhere");
    }
}
