//! What others on the other side see of what a directory's rights keep from them here: nothing, at any moment.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::users::*;
use crate::support::{PATIENCE, Pair, poll};

const SECRET: &str = "for alice alone\n";

fn mode(path: &Path) -> Option<u32> {
    Some(fs::metadata(path).ok()?.permissions().mode() & 0o7777)
}

/// Whether somebody who owns nothing here could read this file of a root. From above: what is opened is opened last.
fn others_read(root: &Path, path: &Path) -> bool {
    let mut dirs: Vec<&Path> = path.ancestors().skip(1).take_while(|dir| *dir != root).collect();
    dirs.reverse();
    let enters = |dir: &&Path| mode(dir).is_some_and(|mode| mode & 0o001 != 0);
    dirs.iter().all(enters) && mode(path).is_some_and(|mode| mode & 0o004 != 0)
}

/// All files below a root that hold the secret.
fn secrets(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![root.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && entry.file_name() != ".psync" => dirs.push(path),
                Ok(kind) if kind.is_file() && fs::read_to_string(&path).is_ok_and(|text| text.contains(SECRET)) => {
                    found.push(path);
                }
                _ => {}
            }
        }
    }
    found
}

/// Bob, who looks all the time whether he can read the secret.
struct Bob {
    over: Arc<AtomicBool>,
    looks: Option<thread::JoinHandle<Vec<PathBuf>>>,
}

impl Bob {
    fn looks_at(root: &Path) -> Bob {
        let over = Arc::new(AtomicBool::new(false));
        let (root, stop) = (root.to_path_buf(), over.clone());
        let looks = thread::spawn(move || {
            let mut seen = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                // Rights only get narrower as long as the secret is there: who may read it now could do so before.
                let reads = |path: &PathBuf| {
                    others_read(&root, path) && fs::read_to_string(path).is_ok_and(|text| text.contains(SECRET))
                };
                seen.extend(secrets(&root).into_iter().filter(reads));
            }
            seen
        });
        Bob { over, looks: Some(looks) }
    }

    fn saw(mut self) -> Vec<PathBuf> {
        self.over.store(true, Ordering::Relaxed);
        self.looks.take().unwrap().join().unwrap()
    }
}

/// What alice does in her tree; where the secret is in the end.
type Act = fn(&Path) -> &'static str;

const ACTS: &[(&str, Act)] = &[
    ("a new file in a directory that was closed a moment ago", |root| {
        mkdir(root.join("new"));
        thread::sleep(Duration::from_millis(400));
        chmod(root.join("new"), 0o700);
        write(root.join("new/s"), SECRET);
        "new/s"
    }),
    ("closed in several steps", |root| {
        for mode in [0o775, 0o750, 0o710, 0o700] {
            chmod(root.join("open"), mode);
        }
        write(root.join("open/s"), SECRET);
        "open/s"
    }),
    ("a file two levels below", |root| {
        chmod(root.join("open/sub/deep"), 0o755);
        chmod(root.join("open"), 0o700);
        write(root.join("open/sub/deep/s"), SECRET);
        "open/sub/deep/s"
    }),
    ("a new directory below", |root| {
        chmod(root.join("open"), 0o755);
        chmod(root.join("open"), 0o700);
        plant(root.join("open/more/s"), SECRET);
        "open/more/s"
    }),
    ("new contents of an old file", |root| {
        write(root.join("open/known"), "nothing yet\n");
        chmod(root.join("open"), 0o700);
        write(root.join("open/known"), SECRET);
        "open/known"
    }),
    ("a directory that got another name as well", |root| {
        rename(root.join("open"), root.join("closed"));
        chmod(root.join("closed"), 0o700);
        write(root.join("closed/s"), SECRET);
        "closed/s"
    }),
    ("a directory moved into one that was closed", |root| {
        chmod(root.join("other"), 0o700);
        rename(root.join("open"), root.join("other/open"));
        write(root.join("other/open/s"), SECRET);
        "other/open/s"
    }),
    ("a file moved in and then written", |root| {
        chmod(root.join("open"), 0o700);
        rename(root.join("plain"), root.join("open/plain"));
        append(root.join("open/plain"), SECRET);
        "open/plain"
    }),
];

fn nobody_sees(left: bool) {
    let mut wrong = Vec::new();
    for (what, act) in ACTS {
        let mut pair = Pair::new();
        for name in ["open/known", "open/sub/deep/known", "other/known", "plain"] {
            plant(pair.left.join(name), "known to all\n");
        }
        pair.run();
        let [here, there] = if left { [&pair.left, &pair.right] } else { [&pair.right, &pair.left] };
        let (here, there) = (here.clone(), there.clone());
        // The directories have been reported of late: they are in their quiet period.
        for dir in ["open", "other"] {
            chmod(here.join(dir), 0o775);
        }
        assert!(poll(PATIENCE, || mode(&there.join("open")) == Some(0o775)), "{what}{}", pair.story());
        let bob = Bob::looks_at(&there);
        let at = act(&here);
        let arrived = || fs::read_to_string(there.join(at)).is_ok_and(|text| text.contains(SECRET));
        assert!(poll(PATIENCE, arrived), "{what}: it never came{}", pair.story());
        let saw = bob.saw();
        if !saw.is_empty() {
            wrong.push(format!("{what}: {} times as {:?}{}", saw.len(), saw[0], pair.story()));
        }
        pair.settle();
        pair.stop();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A directory that both sides have, or that both sides give other rights: what one side keeps from others stays so there, and
/// on the other side.
#[test]
fn a_directory_that_is_open_on_one_side_opens_nothing_on_the_other() {
    for (private_left, at_once) in [(true, true), (false, true), (true, false), (false, false)] {
        let pair = Pair::new();
        let (here, there) = match private_left {
            true => (pair.left.clone(), pair.right.clone()),
            false => (pair.right.clone(), pair.left.clone()),
        };
        if !at_once {
            mkdir(here.join("d"));
            chmod(here.join("d"), 0o770);
            pair.sync();
        }
        plant(here.join("d/secret"), SECRET);
        chmod(here.join("d"), 0o700);
        plant(there.join("d/other"), "known to all\n");
        chmod(there.join("d"), 0o755);
        pair.sync();
        let what = format!("private on the left: {private_left}, met for the first time: {at_once}");
        for root in pair.sides() {
            assert_eq!(mode(&root.join("d")), Some(0o700), "{what}: {root:?}");
            assert!(!others_read(root, &root.join("d/secret")), "{what}: {root:?}");
            assert_eq!(read(root.join("d/other")), "known to all\n", "{what}");
        }
    }
}

/// What alice does to what lies in a directory of hers that is closed to all others, and where the secret must not be seen then.
const LEAVERS: &[(&str, Act)] = &[
    ("a file that was closed and left", |root| {
        chmod(root.join("o/s"), 0o600);
        rename(root.join("o/s"), root.join("s"));
        "s"
    }),
    ("a directory that was closed and left", |root| {
        chmod(root.join("o/in"), 0o700);
        rename(root.join("o/in"), root.join("p"));
        "p/s"
    }),
    ("files in a directory that left", |root| {
        chmod(root.join("o/in/s"), 0o600);
        chmod(root.join("o/in/deep/s"), 0o640);
        rename(root.join("o/in"), root.join("p"));
        "p/s"
    }),
    ("a directory in a directory that left", |root| {
        chmod(root.join("o/in/deep"), 0o750);
        remove(root.join("o/in/s"));
        rename(root.join("o/in"), root.join("p"));
        "p/deep/s"
    }),
    ("what was removed before", |root| {
        remove(root.join("o/in/s"));
        remove(root.join("o/in/deep/s"));
        rename(root.join("o/in"), root.join("p"));
        "p/plain"
    }),
    ("what was written over before", |root| {
        write(root.join("o/s"), "nothing any more\n");
        rename(root.join("o/s"), root.join("s"));
        "s"
    }),
    ("what was written over before in a directory", |root| {
        write(root.join("o/in/s"), "nothing any more\n");
        write(root.join("o/in/deep/s"), "nothing any more\n");
        rename(root.join("o/in"), root.join("p"));
        "p/plain"
    }),
    ("what was opened to a group of others", |root| {
        chmod(root.join("o/in/deep"), 0o710);
        chmod(root.join("o/in/s"), 0o640);
        rename(root.join("o/in"), root.join("p"));
        "p/plain"
    }),
];

fn nobody_sees_leavers(left: bool, running: bool) {
    let mut wrong = Vec::new();
    for (what, act) in LEAVERS {
        let mut pair = Pair::new();
        for name in ["o/s", "o/in/s", "o/in/deep/s"] {
            plant(pair.left.join(name), SECRET);
        }
        plant(pair.left.join("o/in/plain"), "known to all\n");
        plant(pair.left.join("stays"), "so that the root is never empty\n");
        chmod(pair.left.join("o"), 0o700);
        if running {
            pair.run();
        } else {
            pair.sync();
        }
        let [here, there] = if left { [&pair.left, &pair.right] } else { [&pair.right, &pair.left] };
        let (here, there) = (here.clone(), there.clone());
        let bob = Bob::looks_at(&there);
        let at = act(&here);
        if !running {
            pair.run();
        }
        let as_here = || {
            let [one, other] = [&here, &there].map(|root| root.join(at));
            mode(&one).is_some() && mode(&one) == mode(&other) && fs::read(one).ok() == fs::read(other).ok()
        };
        assert!(poll(PATIENCE, as_here), "{what}: it never came{}", pair.story());
        pair.wait_equal();
        let saw = bob.saw();
        if !saw.is_empty() {
            wrong.push(format!("{what}: {} times as {:?}{}", saw.len(), saw[0], pair.story()));
        }
        pair.settle();
        let modes = |root: &Path| ["p", "p/deep", "s"].map(|name| mode(&root.join(name)));
        assert_eq!(modes(&here), modes(&there), "{what}{}", pair.story());
        pair.stop();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_leaves_a_closed_directory_shows_nothing_on_the_right() {
    nobody_sees_leavers(true, true);
}

#[test]
fn what_leaves_a_closed_directory_shows_nothing_on_the_left() {
    nobody_sees_leavers(false, true);
}

#[test]
fn what_left_a_closed_directory_while_psync_was_away_shows_nothing() {
    nobody_sees_leavers(true, false);
    nobody_sees_leavers(false, false);
}

/// A pair with a directory that is closed to others, equal on both sides: the pair, the side where alice is, and the other one.
fn closed(left: bool, files: &[&str]) -> (Pair, PathBuf, PathBuf) {
    let pair = Pair::new();
    for name in files {
        plant(pair.left.join(name), SECRET);
    }
    plant(pair.left.join("stays"), "so that the root is never empty\n");
    chmod(pair.left.join("o"), 0o700);
    pair.sync();
    let [here, there] = if left { [&pair.left, &pair.right] } else { [&pair.right, &pair.left] };
    let (here, there) = (here.clone(), there.clone());
    (pair, here, there)
}

#[test]
fn what_leaves_a_closed_directory_and_is_closed_on_the_other_side_keeps_both_words() {
    for left in [true, false] {
        let (pair, here, there) = closed(left, &["o/in/s"]);
        rename(here.join("o/in"), here.join("p"));
        chmod(there.join("o/in"), 0o700);
        write(there.join("o/in/new"), "written there\n");
        pair.sync();
        for root in pair.sides() {
            assert_eq!(mode(&root.join("p")), Some(0o700), "from the left: {left}: {root:?}");
            assert_eq!(read(root.join("p/s")), SECRET, "from the left: {left}");
            assert_eq!(read(root.join("p/new")), "written there\n", "from the left: {left}");
            assert!(!root.join("o/in").exists(), "from the left: {left}");
        }
    }
}

#[test]
fn a_file_with_other_names_there_leaves_a_closed_directory_with_its_new_mode() {
    for left in [true, false] {
        let (pair, here, there) = closed(left, &["o/s"]);
        fs::hard_link(there.join("o/s"), there.join("o/other")).unwrap();
        pair.sync();
        chmod(here.join("o/s"), 0o600);
        rename(here.join("o/s"), here.join("s"));
        pair.sync();
        for root in pair.sides() {
            assert_eq!(mode(&root.join("s")), Some(0o600), "from the left: {left}: {root:?}");
            assert_eq!(read(root.join("s")), SECRET, "from the left: {left}");
            assert_eq!(read(root.join("o/other")), SECRET, "from the left: {left}");
        }
    }
}

#[test]
fn nobody_on_the_right_sees_what_the_left_keeps_from_him() {
    nobody_sees(true);
}

#[test]
fn nobody_on_the_left_sees_what_the_right_keeps_from_him() {
    nobody_sees(false);
}

/// A file (0644) of a private directory, written after both are gone. `then`: what happens to the name of the directory.
fn written_late(then: impl Fn(&Path)) {
    for left in [true, false] {
        let mut pair = Pair::new();
        plant(pair.left.join("private/s"), "nothing yet\n");
        chmod(pair.left.join("private"), 0o700);
        chmod(pair.left.join("private/s"), 0o644);
        write(pair.left.join("stays"), "so that the root is never empty\n");
        pair.run();
        let [here, there] = if left { [&pair.left, &pair.right] } else { [&pair.right, &pair.left] };
        let (here, there) = (here.clone(), there.clone());
        let mut open = OpenOptions::new().append(true).open(here.join("private/s")).unwrap();
        // With a writer it would stay for ever; so it is taken while nobody writes.
        drop(open);
        remove(there.join("private/s"));
        assert!(poll(PATIENCE, || !here.join("private/s").exists()), "{}", pair.story());
        // The same file, by another way in: it lies in the trash by now.
        let trash = Pair::own(&here).join("trash");
        let item = fs::read_dir(&trash).unwrap().flatten().find(|e| e.file_type().unwrap().is_file()).unwrap().path();
        open = OpenOptions::new().append(true).open(item).unwrap();
        remove_tree(there.join("private"));
        assert!(poll(PATIENCE, || !here.join("private").exists()), "{}", pair.story());
        then(&there);
        thread::sleep(Duration::from_millis(1500));
        let bobs = [Bob::looks_at(&pair.left), Bob::looks_at(&pair.right)];
        open.write_all(SECRET.as_bytes()).unwrap();
        drop(open);
        let back = || pair.sides().iter().all(|root| !secrets(root).is_empty());
        assert!(poll(PATIENCE, back), "it did not come back{}", pair.story());
        pair.settle();
        let saw = bobs.map(Bob::saw);
        assert!(saw.iter().all(Vec::is_empty), "{saw:?}, left: {left}{}", pair.story());
        for root in pair.sides() {
            let path = &secrets(root)[0];
            assert!(path.starts_with(root.join("private")), "{path:?}{}", pair.story());
        }
        pair.stop();
    }
}

#[test]
fn what_comes_back_from_a_private_directory_that_is_gone_stays_private() {
    written_late(|_| {});
}

#[test]
fn what_comes_back_into_an_open_directory_of_that_name_stays_private() {
    written_late(|root| {
        mkdir(root.join("private"));
        chmod(root.join("private"), 0o755);
        write(root.join("private/new"), "for all\n");
    });
}
