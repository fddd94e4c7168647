//! Attributes belong to an inode, not to a name: users who link, and exchange, what lies outside of the root.

use std::fs::{File, Metadata};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use inotify::{Inotify, WatchMask};

use crate::support::users::*;
use crate::support::{PATIENCE, Pair, poll, process, tools};

/// What nobody may change of a file outside of the roots.
fn rights(stat: &Metadata) -> (u32, u32, u32, i64, i64) {
    (stat.mode() & 0o7777, stat.uid(), stat.gid(), stat.mtime(), stat.mtime_nsec())
}

/// A file outside of the roots, held open: its name may lead elsewhere later.
struct Victim {
    at: PathBuf,
    file: File,
    before: (u32, u32, u32, i64, i64),
}

impl Victim {
    fn make(at: PathBuf, contents: &str) -> Victim {
        plant(&at, contents);
        chmod(&at, 0o640);
        touch(&at, 1_500_000_000, 7);
        let file = File::open(&at).unwrap();
        let before = rights(&file.metadata().unwrap());
        Victim { at, file, before }
    }

    fn xattrs(&self) -> usize {
        rustix::fs::flistxattr(self.file.as_fd(), &mut [0_u8; 4096]).unwrap()
    }

    fn assert_untouched(&self, what: &str) {
        assert_eq!(rights(&self.file.metadata().unwrap()), self.before, "{what}");
        assert_eq!(self.xattrs(), 0, "{what}: extended attributes");
    }
}

fn trash(root: &Path) -> usize {
    std::fs::read_dir(Pair::own(root).join("trash")).unwrap().count()
}

/// One way to set attributes on the other side.
type Way = (&'static str, fn(&Path));

const WAYS: [Way; 5] = [
    ("the mode", |at| chmod(at, 0o666)),
    ("the owner", |at| chown(at, 4101, 4102)),
    ("the time", |at| touch(at, 1_600_000_000, 5)),
    ("an extended attribute", |at| set_xattr(at, "user.mine", b"1")),
    ("all of them, by equal contents", |at| {
        let text = read(at);
        remove(at);
        write(at, text);
        chmod(at, 0o4777);
        chown(at, 4101, 4101);
        chmod(at, 0o666);
    }),
];

#[test]
fn attributes_of_a_file_with_other_names_are_set_on_a_copy() {
    if !process::is_root() {
        return tools::missing("root");
    }
    for which in 0..2 {
        for (what, change) in WAYS {
            // What the right makes of extended attributes stays there.
            if which == 0 && what.starts_with("an extended") {
                continue;
            }
            let mut pair = Pair::start(&[]);
            let (root, other) = (pair.sides()[which].to_owned(), pair.sides()[1 - which].to_owned());
            let victim = Victim::make(pair.beside("outside/victim"), "contents\n");
            // As a user could with fs.protected_hardlinks = 0, or with a file that he may write.
            hard_link(&victim.at, root.join("f"));
            assert!(poll(PATIENCE, || other.join("f").exists()), "{}", pair.story());
            pair.settle();
            change(&other.join("f"));
            let tree = pair.settle();
            let what = format!("{what}, on side {which}{}", pair.story());
            victim.assert_untouched(&what);
            assert!(tree.has("f"), "{what}");
            let now = root.join("f").metadata().unwrap();
            assert!(now.ino() != victim.file.metadata().unwrap().ino() && now.nlink() == 1, "{what}");
            assert_eq!(read(&victim.at), "contents\n", "{what}");
            assert_eq!(trash(&root), 0, "the other name's contents are no version to keep: {what}");
            // It is the same file to psync as before: its next change is one, and no conflict.
            write(root.join("f"), "contents of the copy\n");
            let tree = pair.settle();
            assert_eq!(read(other.join("f")), "contents of the copy\n", "{what}");
            assert_eq!(tree.paths(), ["f"], "{what}");
            assert_eq!(read(&victim.at), "contents\n", "{what}");
            pair.stop();
        }
    }
}

#[test]
fn names_of_one_file_within_the_root_part_when_attributes_are_set() {
    for which in 0..2 {
        let mut pair = Pair::start(&[]);
        let (root, other) = (pair.sides()[which].to_owned(), pair.sides()[1 - which].to_owned());
        write(root.join("a"), noise(3, 700_000));
        for name in ["b", "c"] {
            hard_link(root.join("a"), root.join(name));
        }
        pair.settle();
        chmod(other.join("b"), 0o600);
        let tree = pair.settle();
        let mode = |name: &str| tree.get(name).unwrap().mode;
        assert_eq!((mode("a"), mode("b"), mode("c")), (0o644, 0o600, 0o644), "{}", pair.story());
        // Written through one name, the other one that is left has it too.
        append(root.join("a"), "more");
        let tree = pair.settle();
        assert_eq!(tree.get("c").unwrap().size, 700_004, "{}", pair.story());
        assert_eq!(tree.get("b").unwrap().size, 700_000, "{}", pair.story());
        chmod(other.join("a"), 0o640);
        chmod(other.join("c"), 0o604);
        let tree = pair.settle();
        assert_eq!(tree.paths(), ["a", "b", "c"], "{}", pair.story());
        pair.stop();
        pair.sync();
    }
}

#[test]
fn a_copy_with_other_attributes_waits_for_whoever_writes() {
    let mut pair = Pair::start(&[]);
    let victim = Victim::make(pair.beside("outside/victim"), "contents\n");
    hard_link(&victim.at, pair.left.join("f"));
    pair.settle();
    let mut writer = std::fs::OpenOptions::new().append(true).open(pair.left.join("f")).unwrap();
    chmod(pair.right.join("f"), 0o600);
    std::thread::sleep(Duration::from_millis(700));
    std::io::Write::write_all(&mut writer, b"written late\n").unwrap();
    drop(writer);
    assert!(poll(PATIENCE, || read(pair.right.join("f")) == "contents\nwritten late\n"), "{}", pair.story());
    let tree = pair.settle();
    assert_eq!((tree.get("f").unwrap().mode, tree.paths().len()), (0o600, 1), "{}", pair.story());
    assert_eq!(victim.file.metadata().unwrap().mode() & 0o7777, 0o640, "{}", pair.story());
}

/// Exchanges a name with another one as soon as somebody opens it; how often it has.
struct Exchanger {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<bool>,
}

impl Exchanger {
    fn start(name: PathBuf, other: PathBuf, after: Duration) -> Exchanger {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let mut inotify = Inotify::init().unwrap();
        inotify.watches().add(&name, WatchMask::OPEN).unwrap();
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while !stopped.load(Ordering::Relaxed) {
                match inotify.read_events(&mut buffer) {
                    Ok(_) => {
                        std::thread::sleep(after);
                        exchange(&name, &other);
                        return true;
                    }
                    Err(_) => std::hint::spin_loop(),
                }
            }
            false
        });
        Exchanger { stop, thread }
    }

    fn end(self) -> bool {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// Only on the left: what it has there and what the right wants may be joined on the right, and rightly.
fn exchanged_when_opened(pair: &mut Pair, rounds: usize, after: Duration, quiet: Duration) {
    let mut exchanged = 0;
    for round in 0..rounds {
        let name = format!("dir/{round}");
        plant(pair.left.join(&name), "the user's own\n");
        assert!(poll(PATIENCE, || pair.right.join(&name).exists()), "{}", pair.story());
        let victim = Victim::make(pair.beside(&format!("outside/{round}")), "root's own\n");
        std::thread::sleep(quiet);
        let user = Exchanger::start(pair.left.join(&name), victim.at.clone(), after);
        chmod(pair.right.join(&name), 0o4755);
        poll(Duration::from_millis(600) + 2 * quiet, || user.thread.is_finished());
        exchanged += usize::from(user.end());
        std::thread::sleep(Duration::from_millis(60) + quiet);
        victim.assert_untouched(&format!("{name}{}", pair.story()));
    }
    assert!(exchanged > 0, "nobody ever opened anything");
}

#[test]
fn a_name_that_is_exchanged_when_it_is_opened() {
    exchanged_when_opened(&mut Pair::start(&[]), 40, Duration::ZERO, Duration::from_millis(5));
}

#[test]
fn a_name_that_is_exchanged_when_it_is_opened_by_a_slow_psync() {
    if !tools::has("strace") {
        return;
    }
    // Each look takes so long that there is time for everything behind it.
    let slow = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=statx", "-e", "inject=statx:delay_exit=10000"];
    let mut pair = Pair::new().through(&[&slow[..], &[crate::support::PSYNC]].concat());
    pair.run();
    for after in [1, 4, 8] {
        exchanged_when_opened(&mut pair, 3, Duration::from_millis(after), Duration::from_millis(400));
        remove_tree(pair.left.join("dir"));
        assert!(poll(PATIENCE, || !pair.right.join("dir").exists()), "{}", pair.story());
        remove_tree(pair.beside("outside"));
    }
}
