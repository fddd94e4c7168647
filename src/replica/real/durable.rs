//! Putting files on disk: one by one, or by one sync of the whole file system.
//!
//! Both ways write the attributes too. `fsync` and not `fdatasync`: of a new file both wait for the same commit of the
//! journal and cost the same, and only `fsync` vouches for mode, owner, xattrs and mtime whatever the file system. (Where
//! one journal keeps all in order, as on ext4 and XFS, the sync of the directory after the rename would bring them along.)
//! So when a name becomes durable, the object under it is whole.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use crate::sys::writeback;

/// Kibibytes of other programs' dirty data from which one sync of the whole file system is not even tried, and by how much
/// more each file of the batch raises that: by itself it costs a flush of the disk, in whose time some of that is written.
const OTHERS_DIRTY: u64 = 16 * 1024;
const OTHERS_DIRTY_A_FILE: u64 = 1024;
/// Bytes that cost as much as a file does by itself, by order of magnitude.
const BYTES_A_FILE: u64 = 32 * 1024;
/// What the way not taken had cost is forgotten by this much with every batch, until it seems the cheaper one and is tried
/// again: of a way five times as dear every 300th batch.
const FORGET: f64 = 0.995;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Each,
    Whole,
}

/// What either way has cost lately.
#[derive(Debug, Default)]
pub struct Pace {
    /// Seconds for one unit of work; `None`: not tried yet.
    each: Option<f64>,
    whole: Option<f64>,
    last: Option<Way>,
    /// The whole file system had an error: whose it was is never told, so every file is asked from now on.
    doubtful: bool,
}

impl Pace {
    /// Puts contents and attributes of these files, or the names in these directories, on disk. `root` is a descriptor
    /// that lives as long as this value:
    /// the kernel tells each descriptor once of the errors since it was last asked.
    pub fn sync(&mut self, root: BorrowedFd<'_>, files: &[BorrowedFd<'_>]) -> io::Result<()> {
        if files.len() < 2 {
            return sync_each(files);
        }
        let bytes = total_size(files);
        if self.sync_whole(root, files.len(), bytes) {
            return Ok(());
        }
        let start = Instant::now();
        sync_each(files)?;
        self.learn(Way::Each, start.elapsed().as_secs_f64() / units(Way::Each, files.len(), bytes));
        Ok(())
    }

    /// Puts the whole file system on disk, if that promises to be cheaper than so many files of so many bytes in all by
    /// themselves; whether it did.
    pub fn sync_whole(&mut self, root: BorrowedFd<'_>, files: usize, bytes: u64) -> bool {
        if files < 2
            || self.doubtful
            || self.choose(files, bytes) == Way::Each
            || dirty_kib().is_some_and(|dirty| dirty > bearable(files, bytes))
        {
            return false;
        }
        let start = Instant::now();
        if rustix::fs::syncfs(root).is_err() {
            self.doubtful = true;
            return false;
        }
        self.learn(Way::Whole, start.elapsed().as_secs_f64() / units(Way::Whole, files, bytes));
        true
    }

    /// The way that promises to be the cheaper one for so much work.
    fn choose(&self, files: usize, bytes: u64) -> Way {
        match (self.each, self.whole) {
            (None, _) => Way::Each,
            (_, None) => Way::Whole,
            (Some(each), Some(whole)) => {
                let each = each * units(Way::Each, files, bytes);
                let whole = whole * units(Way::Whole, files, bytes);
                if each < whole { Way::Each } else { Way::Whole }
            }
        }
    }

    /// `cost`: seconds for one unit.
    fn learn(&mut self, way: Way, cost: f64) {
        let (this, other) = match way {
            Way::Each => (&mut self.each, &mut self.whole),
            Way::Whole => (&mut self.whole, &mut self.each),
        };
        // What was measured long ago counts for nothing beside what is measured now.
        *this = match *this {
            Some(known) if self.last == Some(way) => Some(known * 0.75 + cost * 0.25),
            _ => Some(cost),
        };
        *other = other.map(|known| known * FORGET);
        self.last = Some(way);
    }
}

/// The most dirty data of the whole machine, in KiB, beside which one sync of the whole file system is tried.
fn bearable(files: usize, bytes: u64) -> u64 {
    bytes / 1024 + OTHERS_DIRTY + OTHERS_DIRTY_A_FILE * files as u64
}

/// Work in units whose cost is about the same for few files and for many: a sync of the whole has a price of its own.
fn units(way: Way, files: usize, bytes: u64) -> f64 {
    let fixed = match way {
        Way::Each => 2.0,
        Way::Whole => 16.0,
    };
    fixed + files as f64 + (bytes / BYTES_A_FILE) as f64
}

/// Writing begins for all before any is waited for, so that one commit of the journal serves many.
fn sync_each(files: &[BorrowedFd<'_>]) -> io::Result<()> {
    files.iter().for_each(|file| writeback::begin(*file));
    files.iter().try_for_each(|file| Ok(rustix::fs::fsync(file)?))
}

fn total_size(files: &[BorrowedFd<'_>]) -> u64 {
    let size = |file: &BorrowedFd<'_>| rustix::fs::fstat(file).ok().and_then(|stat| u64::try_from(stat.st_size).ok());
    files.iter().filter_map(size).fold(0, u64::saturating_add)
}

/// What the whole machine has yet to write, in KiB; `None` where it is not told.
fn dirty_kib() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    Some(field(&text, "Dirty:")? + field(&text, "Writeback:")?)
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn taken(pace: &mut Pace, batches: usize, each: f64, whole: f64) -> (usize, usize) {
        let ways = (0..batches).map(|_| {
            let way = pace.choose(100, 0);
            pace.learn(way, if way == Way::Each { each } else { whole });
            way
        });
        let each = ways.filter(|way| *way == Way::Each).count();
        (each, batches - each)
    }

    #[test]
    fn the_cheaper_way_is_taken_and_the_other_tried_now_and_then() {
        let (each, whole) = taken(&mut Pace::default(), 2000, 50e-6, 10e-6);
        assert!(whole > 1900 && each > 2, "{each} {whole}");
        let (each, whole) = taken(&mut Pace::default(), 2000, 50e-6, 500e-6);
        assert!(each > 1900 && whole > 2, "{each} {whole}");
    }

    #[test]
    fn a_change_of_the_disk_is_noticed() {
        let mut pace = Pace::default();
        taken(&mut pace, 100, 50e-6, 10e-6);
        let (each, _) = taken(&mut pace, 100, 50e-6, 5000e-6);
        assert!(each > 95, "dearer: {each}");
        let (_, whole) = taken(&mut pace, 2000, 50e-6, 10e-6);
        assert!(whole > 900, "cheap again: {whole}");
    }

    #[test]
    fn both_ways_work() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = std::fs::File::open(dir.path()).expect("the directory");
        let files: Vec<_> = (0..5)
            .map(|n| {
                let file = std::fs::File::create(dir.path().join(n.to_string())).expect("a file");
                file.set_len(5000).expect("a size");
                file
            })
            .collect();
        let fds: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        assert_eq!(total_size(&fds), 25_000);
        let mut pace = Pace::default();
        for count in [0, 1, 5, 5, 5, 5] {
            pace.sync(root.as_fd(), &fds[..count]).expect("synced");
        }
        assert!(pace.each.is_some());
    }

    #[test]
    fn a_large_batch_bears_more_of_what_others_have_to_write() {
        let mib = |files, bytes| bearable(files, bytes) / 1024;
        assert_eq!((mib(2, 0), mib(100, 0), mib(512, 4 << 20)), (18, 116, 532));
    }

    #[test]
    fn meminfo() {
        let text = "MemFree:  5 kB\nDirty:       120 kB\nWritebackTmp: 7 kB\nWriteback:   3 kB\n";
        assert_eq!((field(text, "Dirty:"), field(text, "Writeback:"), field(text, "No:")), (Some(120), Some(3), None));
    }
}
