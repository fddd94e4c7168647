//! The times of directories: both sides have the one that users left, whoever's work it was, and psync's own shows nowhere.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::support::users::*;
use crate::support::{PATIENCE, Pair, once, poll, tools};

pub type Times = BTreeMap<PathBuf, (i64, i64)>;

/// The times of all directories below a root.
pub fn times(root: &Path) -> Times {
    fn walk(dir: &Path, root: &Path, found: &mut Times) {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            let stat = path.symlink_metadata().unwrap();
            if stat.is_dir() && !path.ends_with(".psync") {
                found.insert(path.strip_prefix(root).unwrap().to_owned(), (stat.mtime(), stat.mtime_nsec()));
                walk(&path, root, found);
            }
        }
    }
    let mut found = Times::new();
    walk(root, root, &mut found);
    found
}

fn time(path: impl AsRef<Path>) -> (i64, i64) {
    let stat = path.as_ref().symlink_metadata().unwrap();
    (stat.mtime(), stat.mtime_nsec())
}

/// When anything about it changed last, so that an echo shows.
fn changed(path: impl AsRef<Path>) -> (i64, i64) {
    let stat = path.as_ref().symlink_metadata().unwrap();
    (stat.ctime(), stat.ctime_nsec())
}

/// Waits until both sides have these times.
fn wait_for(pair: &Pair, wanted: &Times) {
    let equal = poll(PATIENCE, || pair.sides().iter().all(|side| times(side) == *wanted));
    let [left, right] = pair.sides().map(times);
    assert!(equal, "wanted {wanted:?}\nleft {left:?}\nright {right:?}{}", pair.story());
}

/// What the user of one side leaves comes to the other one, and is not touched where he works.
fn leaves(pair: &mut Pair, side: usize, work: impl FnOnce(&Path)) {
    pair.wait_equal();
    let root = pair.sides()[side].to_owned();
    work(&root);
    let left = times(&root);
    wait_for(pair, &left);
}

/// A tree whose directories have times of long ago.
fn old_tree(root: &Path) {
    for n in 0..5 {
        for m in 0..4 {
            for file in 0..3 {
                plant(root.join(format!("d{n}/e{m}/f{file}")), format!("{n} {m} {file}\n"));
            }
            touch(root.join(format!("d{n}/e{m}")), 1_300_000_000 + n * 10 + m, 123_456_789);
        }
        touch(root.join(format!("d{n}")), 1_200_000_000 + n, 1);
    }
}

#[test]
fn after_a_first_sync_all_are_equal() {
    let pair = Pair::new();
    old_tree(&pair.left);
    // What only the right has, and what both have: the later one counts.
    plant(pair.right.join("own/x"), "right\n");
    touch(pair.right.join("own"), 1_100_000_000, 7);
    mkdirs(pair.right.join("d1"));
    touch(pair.right.join("d1"), 1_000_000_000, 0);
    mkdirs(pair.right.join("d2"));
    touch(pair.right.join("d2"), 1_500_000_000, 9);
    let mut wanted = times(&pair.left);
    wanted.insert("own".into(), (1_100_000_000, 7));
    wanted.insert("d2".into(), (1_500_000_000, 9));
    pair.sync();
    assert_eq!(pair.sides().map(times), [wanted.clone(), wanted.clone()], "{}", pair.story());
    // Another run finds nothing to do.
    let before = pair.sides().map(|side| changed(side.join("d2")));
    pair.sync();
    assert_eq!(pair.sides().map(times), [wanted.clone(), wanted]);
    assert_eq!(pair.sides().map(|side| changed(side.join("d2"))), before);
}

#[test]
fn whatever_users_do_in_a_directory_its_time_comes_over() {
    let mut pair = Pair::new();
    old_tree(&pair.left);
    pair.run();
    for side in [0, 1] {
        leaves(&mut pair, side, |root| write(root.join("d0/e0/new"), "new\n"));
        leaves(&mut pair, side, |root| save(root.join("d0/e0/f1"), "saved\n"));
        leaves(&mut pair, side, |root| rename(root.join("d0/e0/new"), root.join("d1/moved")));
        leaves(&mut pair, side, |root| remove(root.join("d1/moved")));
        leaves(&mut pair, side, |root| rename(root.join("d3/e1"), root.join(format!("d4/moved{side}"))));
        leaves(&mut pair, side, |root| rename(root.join(format!("d4/moved{side}")), root.join("d3/e1")));
        leaves(&mut pair, side, |root| remove_tree(root.join(format!("d2/e{side}"))));
        leaves(&mut pair, side, |root| (0..300).for_each(|n| write(root.join(format!("d3/{side}-{n}")), "x")));
        // An earlier one, as cp -a, tar and rsync -a give.
        leaves(&mut pair, side, |root| touch(root.join("d3"), 1_234_567_890, 5));
        leaves(&mut pair, side, |root| {
            let copy = format!("copy{side}");
            tools::run(root, "cp", &["-a", "d1", &copy]);
        });
        // What takes no part changes the directory all the same.
        pair.wait_equal();
        let root = pair.sides()[side].to_owned();
        write(root.join("d1/scratch.tmp"), "none of psync's business");
        wait_for(&pair, &times(&root));
        remove(root.join("d1/scratch.tmp"));
        wait_for(&pair, &times(&root));
        // And what does not change the time of the directory leaves it alone.
        let before = times(&pair.left);
        leaves(&mut pair, side, |root| write(root.join("d1/e1/f1"), format!("written on {side}\n")));
        assert_eq!(times(&pair.left), before);
    }
    pair.stop();
}

#[test]
fn what_users_did_while_psync_was_stopped_comes_over() {
    let mut pair = Pair::new();
    old_tree(&pair.left);
    pair.sync();
    touch(pair.left.join("d0"), 1_000_000_000, 3);
    touch(pair.right.join("d1"), 1_000_000_001, 4);
    write(pair.right.join("d2/e2/new"), "new\n");
    remove(pair.left.join("d3/e3/f1"));
    // Both: the later one.
    touch(pair.left.join("d4"), 1_400_000_000, 0);
    touch(pair.right.join("d4"), 1_450_000_000, 0);
    let mut wanted = times(&pair.left);
    for from_right in ["d1", "d2/e2", "d4"] {
        wanted.insert(from_right.into(), time(pair.right.join(from_right)));
    }
    pair.run();
    assert_eq!(pair.sides().map(times), [wanted.clone(), wanted], "{}", pair.story());
    pair.stop();
}

#[test]
fn an_unpacked_archive_is_as_it_was_packed() {
    if !tools::has("tar") {
        return tools::missing("tar");
    }
    let mut pair = Pair::new();
    let packed = pair.beside("packed");
    fs::create_dir(&packed).unwrap();
    old_tree(&packed);
    let archive = pair.beside("archive.tar");
    tools::run(&packed, "tar", &["--format=posix", "-cf", archive.to_str().unwrap(), "."]);
    pair.run();
    for side in [0, 1] {
        let into = pair.sides()[side].join(format!("unpacked{side}"));
        mkdir(&into);
        tools::run(&into, "tar", &["-xf", archive.to_str().unwrap()]);
        let all = times(pair.sides()[side]);
        wait_for(&pair, &all);
        assert_eq!(times(&into), times(&packed));
    }
    pair.stop();
}

#[test]
fn where_both_sides_work_both_end_with_one_time_and_nothing_goes_on() {
    let mut pair = Pair::new();
    old_tree(&pair.left);
    pair.run();
    let roots = pair.sides().map(Path::to_owned);
    thread::scope(|scope| {
        for (side, root) in roots.iter().enumerate() {
            scope.spawn(move || {
                for n in 0..200 {
                    let dir = root.join(format!("d{}", n % 3));
                    write(dir.join(format!("{side}-{n}")), "x");
                    if n > 20 {
                        remove(dir.join(format!("{side}-{}", n - 3)));
                    }
                    if n % 40 == 0 {
                        touch(&dir, 1_600_000_000 + n, 0);
                    }
                }
            });
        }
    });
    pair.wait_equal();
    let equal = poll(PATIENCE, || times(&roots[0]) == times(&roots[1]));
    assert!(equal, "left {:?}\nright {:?}{}", times(&roots[0]), times(&roots[1]), pair.story());
    pair.settle();
    // Nobody touches them any more: an echo gets time to come.
    let all = || roots.iter().flat_map(|root| (0..5).map(|n| changed(root.join(format!("d{n}"))))).collect::<Vec<_>>();
    let before = all();
    thread::sleep(Duration::from_secs(2));
    assert_eq!(all(), before, "{}", pair.story());
    pair.stop();
}

#[test]
fn a_psync_that_is_killed_leaves_none_that_differ() {
    let mut pair = Pair::new();
    old_tree(&pair.left);
    pair.run();
    for n in 0..6 {
        let [from, other] = [n % 2, (n + 1) % 2].map(|side| pair.sides()[side].to_owned());
        (0..60).for_each(|file| write(from.join(format!("d{}/{n}-{file}", n % 5)), "x"));
        touch(other.join("d4"), 1_500_000_000 + n as i64, 0);
        // Each time it dies somewhat later in its work.
        thread::sleep(Duration::from_millis(40 * n as u64));
        pair.kill9_all();
        pair.run();
        pair.wait_equal();
        let equal = poll(PATIENCE, || times(&pair.left) == times(&pair.right));
        assert!(equal, "left {:?}\nright {:?}{}", times(&pair.left), times(&pair.right), pair.story());
    }
    pair.stop();
}

#[test]
fn a_check_compares_them_if_asked() {
    let pair = Pair::new();
    let file = pair.beside("e2e.toml");
    let [left, right] = pair.sides().map(|root| root.to_str().unwrap().to_owned());
    write(&file, format!("[left]\nroot = {left:?}\n[right]\nroot = {right:?}\n"));
    let file = file.to_str().unwrap();
    for (side, seconds) in pair.sides().into_iter().zip([1_000_000_000, 1_000_000_060]) {
        mkdir(side.join("d"));
        touch(side.join("d"), seconds, 0);
    }
    let plain = once(&["check", file]);
    assert_eq!(plain.code(), 0, "{}{}", plain.stdout, plain.stderr);
    let asked = once(&["check", file, "--times"]);
    assert_eq!(asked.code(), 3, "{}{}", asked.stdout, asked.stderr);
    let line = "d: times differ (left directory, 2001-09-09 01:46:40Z; right directory, 2001-09-09 01:47:40Z)";
    assert!(asked.stdout.contains(line), "{}", asked.stdout);
    let json = once(&["check", file, "-t", "--json"]);
    assert!(json.stdout.contains("1000000060"), "{}", json.stdout);
    touch(pair.right.join("d"), 1_000_000_000, 0);
    let equal = once(&["check", file, "-t"]);
    assert_eq!(equal.code(), 0, "{}{}", equal.stdout, equal.stderr);
    let both = once(&["check", file, "-t", "-l"]);
    assert!(both.code() != 0 && both.stderr.contains("cannot be used with '--lite'"), "{}", both.stderr);
}

/// A psync without root's rights may give a time to its own user's directories alone.
#[test]
fn who_may_not_set_them_comes_to_rest() {
    let Some(mut pair) = super::places::of_a_user() else { return tools::missing("root, setpriv") };
    let user = pair.left.metadata().unwrap().uid();
    for side in pair.sides() {
        for (name, owner) in [("mine", user), ("others", 0)] {
            mkdir(side.join(name));
            chown(side.join(name), owner, owner);
            chmod(side.join(name), 0o777);
        }
    }
    pair.run();
    for name in ["mine", "others"] {
        write(pair.left.join(name).join("file"), "x");
        chown(pair.left.join(name).join("file"), user, user);
        touch(pair.left.join(name), 1_300_000_000, 0);
    }
    pair.wait_equal();
    let equal = poll(PATIENCE, || time(pair.left.join("mine")) == time(pair.right.join("mine")));
    assert!(equal && time(pair.left.join("mine")) == (1_300_000_000, 0), "{}", pair.story());
    pair.settle();
    // What the user left stays on his side, and nothing goes to and fro.
    assert_eq!(time(pair.left.join("others")), (1_300_000_000, 0), "{}", pair.story());
    let all = || pair.sides().map(|side| ["mine", "others"].map(|name| changed(side.join(name))));
    // An echo gets time to come.
    let before = all();
    thread::sleep(Duration::from_secs(2));
    assert_eq!(all(), before, "{}", pair.story());
    pair.stop();
}
