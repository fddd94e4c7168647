//! Users who never rest: a one-time run and a full sync have an end all the same.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::support::Pair;
use super::support::users::{plant, read, write};

/// Somebody who does the same again and again.
struct Player {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Player {
    fn new(mut act: impl FnMut(u64) + Send + 'static) -> Player {
        let over = Arc::new(AtomicBool::new(false));
        let seen = over.clone();
        let thread = thread::spawn(move || {
            let mut count = 0;
            while !seen.load(Ordering::Relaxed) {
                act(count);
                count += 1;
            }
            count
        });
        Player { over, thread: Some(thread) }
    }

    fn end(mut self) -> u64 {
        self.over.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

fn exchange(a: &Path, b: &Path) {
    let _ = renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE);
}

/// Begins to play in a root.
type Play = Box<dyn Fn(PathBuf) -> Player>;

/// What a restless user does, and whether it is on the right.
fn players() -> Vec<(&'static str, bool, Play)> {
    let pause = |micros| thread::sleep(Duration::from_micros(micros));
    vec![
        (
            "exchanges two files",
            false,
            Box::new(move |root: PathBuf| {
                Player::new(move |_| {
                    exchange(&root.join("d/x"), &root.join("d/y"));
                    pause(50)
                })
            }),
        ),
        (
            "exchanges two files that the other side changed",
            true,
            Box::new(move |root: PathBuf| {
                Player::new(move |_| {
                    exchange(&root.join("d/x"), &root.join("d/y"));
                    pause(50)
                })
            }),
        ),
        (
            "exchanges a file and a directory",
            false,
            Box::new(move |root: PathBuf| {
                Player::new(move |_| {
                    exchange(&root.join("d/x"), &root.join("d/e"));
                    pause(50)
                })
            }),
        ),
        (
            "exchanges directories on the other side",
            true,
            Box::new(move |root: PathBuf| {
                Player::new(move |_| {
                    exchange(&root.join("d"), &root.join("o"));
                    pause(50)
                })
            }),
        ),
        (
            "renames one file round and round",
            false,
            Box::new(move |root: PathBuf| {
                Player::new(move |n| {
                    let name = |n: u64| root.join(format!("d/r{}", n % 3));
                    let _ = fs::rename(name(n), name(n + 1));
                    pause(3_000)
                })
            }),
        ),
        (
            "writes a file",
            true,
            Box::new(move |root: PathBuf| {
                Player::new(move |n| {
                    let _ = fs::write(root.join("d/log"), format!("{n}\n"));
                    pause(20_000)
                })
            }),
        ),
        (
            "makes new files and removes old ones",
            false,
            Box::new(move |root: PathBuf| {
                Player::new(move |n| {
                    let _ = fs::write(root.join(format!("d/n{n}")), "new");
                    let _ = fs::remove_file(root.join(format!("d/n{}", n.saturating_sub(20))));
                    pause(20_000)
                })
            }),
        ),
        (
            "changes a mode",
            false,
            Box::new(move |root: PathBuf| {
                Player::new(move |n| {
                    let mode = if n % 2 == 0 { 0o600 } else { 0o644 };
                    let _ = fs::set_permissions(root.join("d/x"), fs::Permissions::from_mode(mode));
                    pause(5_000)
                })
            }),
        ),
        (
            "touches a large file",
            true,
            Box::new(move |root: PathBuf| {
                Player::new(move |_| {
                    let _ = fs::set_permissions(root.join("d/large"), fs::Permissions::from_mode(0o644));
                    pause(2_000)
                })
            }),
        ),
    ]
}

/// Who exchanges directories again and again has them removed again and again: that is not what the guard is for.
fn unguarded() -> Pair {
    let pair = Pair::new();
    let config = pair.beside("psync.toml");
    write(&config, "max_delete = \"0%\"\n");
    pair.with(&["--config", config.to_str().unwrap()])
}

fn stage(pair: &Pair) {
    for name in ["d/x", "d/y", "d/e/f", "d/r0", "d/log", "o/x", "o/z"] {
        plant(pair.left.join(name), format!("{name}\n"));
    }
    fs::write(pair.left.join("d/large"), vec![7; 3_000_000]).unwrap();
    pair.sync();
}

#[test]
fn a_one_time_run_ends_whatever_users_do() {
    for (what, right, play) in players() {
        let pair = unguarded();
        stage(&pair);
        // Stopped, both sides did something; what is restless is on one of them.
        write(pair.left.join("d/x"), "changed on the left\n");
        write(pair.left.join("d/y"), "changed on the left too\n");
        write(pair.right.join("o/z"), "changed on the right\n");
        write(pair.left.join("quiet"), "from the left\n");
        let player = play(if right { pair.right.clone() } else { pair.left.clone() });
        let once = pair.sync_once();
        let acts = player.end();
        println!("{what}: {acts} times, exit code {}\n{}", once.code(), once.stderr);
        assert!(acts > 0, "{what}: never while psync ran");
        let told = once.stderr.contains("all the time");
        assert!([0, 8].contains(&once.code()), "{what}: {}{}", once.code(), pair.story());
        assert!(!told || once.code() == 8, "{what}{}", pair.story());
        assert_eq!(read(pair.right.join("quiet")), "from the left\n", "{what}{}", pair.story());
        // Once they rest, the next run does the rest.
        let last = pair.sync_once();
        assert_eq!(last.code(), 0, "{what}{}", pair.story());
        pair.sync();
    }
}
