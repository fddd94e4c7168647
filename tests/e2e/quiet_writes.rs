//! What changes a file and leaves its size and its time alone, and clocks that prove little.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Mode, OFlags};

use crate::support::mounts::in_a_file;
use crate::support::users::*;
use crate::support::{PATIENCE, Pair, poll};

/// A small file, one that is read in one go, and one that is read in slices.
const SIZES: [(&str, usize); 3] = [("small", 40), ("middle", 300_000), ("large", 70 << 20)];

/// Writes in place and puts the time of change back, as programs for encrypted containers and for tags do.
fn rewrite(path: impl AsRef<Path>, offset: u64, text: &str) {
    let path = path.as_ref();
    let before = fs::metadata(path).unwrap();
    write_at(path, offset, text);
    touch(path, before.mtime(), before.mtime_nsec());
    let after = fs::metadata(path).unwrap();
    let told = |stat: &fs::Metadata| (stat.len(), stat.mtime(), stat.mtime_nsec());
    assert_eq!(told(&before), told(&after));
}

fn plant_all(root: &Path) {
    for (name, size) in SIZES {
        write(root.join(name), noise(7, size));
        touch(root.join(name), 1_700_000_000, 5);
    }
}

fn alike(a: &Path, b: &Path) -> bool {
    fs::read(a).is_ok_and(|a| fs::read(b).is_ok_and(|b| a == b))
}

fn no_conflicts(pair: &Pair) {
    for root in pair.sides() {
        let names = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        assert_eq!(names.filter(|name| name.contains("conflict")).collect::<Vec<_>>(), [""; 0], "{}", pair.story());
    }
}

#[test]
fn what_is_written_and_put_back_in_time_arrives() {
    let pair = Pair::new();
    plant_all(&pair.left);
    let mut pair = pair;
    pair.run();
    for left in [true, false] {
        let (here, there) = if left { (&pair.left, &pair.right) } else { (&pair.right, &pair.left) };
        for (name, _) in SIZES {
            rewrite(here.join(name), 10, if left { "by the left" } else { "by the right" });
            assert!(poll(PATIENCE, || alike(&here.join(name), &there.join(name))), "{name} {left}{}", pair.story());
            // Renamed at once, so that the rename hides the write.
            rewrite(here.join(name), 20, if left { "under two names" } else { "and the other" });
            let renamed = format!("{name} of {left}");
            rename(here.join(name), here.join(&renamed));
            let came = || alike(&here.join(&renamed), &there.join(&renamed)) && !there.join(name).exists();
            assert!(poll(PATIENCE, came), "{renamed}{}", pair.story());
            rename(here.join(&renamed), here.join(name));
            assert!(poll(PATIENCE, || there.join(name).exists()), "{renamed}{}", pair.story());
        }
    }
    pair.settle();
    no_conflicts(&pair);
    pair.stop();
}

#[test]
fn what_was_written_while_psync_was_stopped_arrives_with_the_next_start() {
    let pair = Pair::new();
    plant_all(&pair.left);
    pair.sync();
    for left in [true, false] {
        let (here, there) = if left { (&pair.left, &pair.right) } else { (&pair.right, &pair.left) };
        for (name, _) in SIZES {
            rewrite(here.join(name), 11, "while it was stopped");
        }
        pair.sync();
        for (name, _) in SIZES {
            assert!(alike(&here.join(name), &there.join(name)), "{name} {left}");
            rewrite(here.join(name), 12, "and then renamed");
            rename(here.join(name), here.join(format!("{name}.")));
        }
        pair.sync();
        for (name, _) in SIZES {
            let renamed = format!("{name}.");
            assert!(alike(&here.join(&renamed), &there.join(&renamed)), "{name} {left}");
            rename(here.join(&renamed), here.join(name));
        }
        pair.sync();
    }
    no_conflicts(&pair);
}

#[test]
fn rights_travel_before_a_large_file_is_compared_and_nothing_is_sent() {
    let pair = Pair::new();
    plant_all(&pair.left);
    let mut pair = pair;
    pair.run();
    let before = pair.actions_logged();
    for (name, _) in SIZES {
        chmod(pair.right.join(name), 0o640);
        hard_link(pair.right.join(name), pair.beside(name));
    }
    let mode = |name: &str| fs::metadata(pair.left.join(name)).unwrap().mode() & 0o7777;
    for (name, _) in SIZES {
        assert!(poll(PATIENCE, || mode(name) == 0o640), "{name}{}", pair.story());
    }
    // What had moved is written after all, under the name that is outside.
    rewrite(pair.beside("large"), 5, "by another name");
    chmod(pair.right.join("large"), 0o600);
    assert!(poll(PATIENCE, || alike(&pair.left.join("large"), &pair.right.join("large"))), "{}", pair.story());
    assert!(poll(PATIENCE, || mode("large") == 0o600), "{}", pair.story());
    pair.settle();
    assert!(pair.actions_logged_since(before) <= 6, "{:#?}", pair.action_lines());
    pair.stop();
}

#[test]
fn what_was_taken_for_equal_unread_is_compared_when_there_is_time() {
    let pair = Pair::new();
    for root in pair.sides() {
        plant_all(root);
        write(root.join("z"), if root == pair.left { "left's" } else { "right:" });
        touch(root.join("z"), 1_600_000_000, 0);
    }
    let mut pair = pair;
    pair.run();
    let copy = |root: &Path| root.join("z (conflict right 2020-09-13 12.26.40)");
    let both = || pair.sides().iter().all(|root| copy(root).exists() && alike(&root.join("z"), &pair.left.join("z")));
    assert!(poll(PATIENCE, both), "{}", pair.story());
    // From now on it is known which side wrote.
    for (name, _) in SIZES {
        rewrite(pair.right.join(name), 9, "by the right");
        assert!(poll(PATIENCE, || alike(&pair.left.join(name), &pair.right.join(name))), "{name}{}", pair.story());
        assert_eq!(fs::read_dir(&pair.left).unwrap().count(), SIZES.len() + 3, "{}", pair.story());
    }
    pair.stop();
}

#[test]
fn a_file_without_a_name_that_gets_one_and_is_written_on_arrives() {
    let pair = Pair::new();
    let config = pair.beside("psync.toml");
    write(&config, "open_wait = 1.0\n");
    let mut pair = pair.with(&["--config", config.to_str().unwrap()]);
    pair.run();
    for (here, there) in [(&pair.left, &pair.right), (&pair.right, &pair.left)] {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let Ok(unnamed) = rustix::fs::open(here, flags, Mode::from_raw_mode(0o644)) else { return };
        let mut unnamed = File::from(unnamed);
        unnamed.write_all(b"first\n").unwrap();
        let name = format!("from {}", here.file_name().unwrap().display());
        let (from, to) = (format!("/proc/self/fd/{}", unnamed.as_raw_fd()), here.join(&name));
        rustix::fs::linkat(rustix::fs::CWD, &from, rustix::fs::CWD, &to, AtFlags::SYMLINK_FOLLOW).unwrap();
        let there = there.join(&name);
        assert!(poll(PATIENCE, || there.exists()), "it was never sent as it is{}", pair.story());
        // Nobody is told of this, nor of the close.
        unnamed.write_all(b"and more\n").unwrap();
        assert!(poll(PATIENCE, || alike(&to, &there)), "what came while it was open{}", pair.story());
        unnamed.write_all(b"and the last\n").unwrap();
        drop(unnamed);
        assert!(poll(PATIENCE, || alike(&to, &there)), "what came before the close{}", pair.story());
    }
    pair.stop();
}

#[test]
fn saves_of_one_size_within_whole_seconds_all_arrive() {
    let pair = Pair::new();
    let disk = pair.beside("small-inodes");
    // Neither fractions of seconds nor times of birth.
    let Some(_mounted) = in_a_file("ext4", &["-q", "-I", "128"], &disk, 64) else { return };
    let mut pair = pair;
    pair.left = disk.join("root");
    mkdir(&pair.left);
    pair.run();
    let (begun, mut count) = (Instant::now(), 0_u64);
    while begun.elapsed() < Duration::from_secs(8) {
        count += 1;
        let text = format!("{count:06}");
        // In place, by a new file, and a large one: those are not read before they are reported.
        write(pair.left.join(format!("in place {}", count % 7)), &text);
        write(pair.left.join(".new"), &text);
        rename(pair.left.join(".new"), pair.left.join(format!("saved {}", count % 5)));
        write_at(pair.left.join("large"), 0, text.repeat(20_000));
        std::thread::sleep(Duration::from_millis(1 + count % 23));
    }
    pair.wait_equal();
    no_conflicts(&pair);
    pair.stop();
}

#[test]
fn one_run_carries_what_both_sides_wrote_in_this_very_second() {
    let mut pair = Pair::new();
    let [left, right] = ["left-disk", "right-disk"].map(|name| pair.beside(name));
    // A clock of whole seconds: what was written a moment ago may be written again without a trace.
    let options = ["-q", "-I", "128"];
    let Some(_left) = in_a_file("ext4", &options, &left, 64) else { return };
    let Some(_right) = in_a_file("ext4", &options, &right, 64) else { return };
    (pair.left, pair.right) = (left.join("root"), right.join("root"));
    mkdir(&pair.left);
    mkdir(&pair.right);
    write(pair.left.join("file"), "first\n");
    pair.sync();
    rewrite(pair.left.join("file"), 0, "LEFT.");
    rewrite(pair.right.join("file"), 0, "RIGHT");
    let run = pair.sync_once();
    assert_eq!(run.code(), 0, "{}", run.stderr);
    let tree = pair.assert_equal();
    assert_eq!((tree.paths().len(), fs::read_to_string(pair.left.join("file")).unwrap()), (2, "LEFT.\n".to_owned()));
}
