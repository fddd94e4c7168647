//! What both sides move: each object is on both sides once, with what either side did to it, over lines of any length.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::support::tools::{has, missing};
use crate::support::users::*;
use crate::support::{Pair, Tree};

/// What both sides do to a tree of their own, and what is in it afterwards, sorted: `path=text` for files, `path/` for
/// directories.
struct Case {
    name: &'static str,
    left: fn(&Path),
    right: fn(&Path),
    after: &'static [&'static str],
}

/// The tree that each case begins with.
fn plant_tree(at: &Path) {
    for name in ["f", "d/one", "d/two", "d/sub/three", "e/four"] {
        plant(at.join(name), format!("first {name}"));
    }
}

const CASES: &[Case] = &[
    Case {
        name: "a file renamed on both",
        left: |d| rename(d.join("f"), d.join("f.left")),
        right: |d| rename(d.join("f"), d.join("f.right")),
        after: &[
            "d/",
            "d/one=first d/one",
            "d/sub/",
            "d/sub/three=first d/sub/three",
            "d/two=first d/two",
            "e/",
            "e/four=first e/four",
            "f.left=first f",
        ],
    },
    Case {
        name: "a directory renamed on both",
        left: |d| rename(d.join("d"), d.join("d.left")),
        right: |d| rename(d.join("d"), d.join("d.right")),
        after: &[
            "d.left/",
            "d.left/one=first d/one",
            "d.left/sub/",
            "d.left/sub/three=first d/sub/three",
            "d.left/two=first d/two",
            "e/",
            "e/four=first e/four",
            "f=first f",
        ],
    },
    Case {
        name: "a file moved to two places",
        left: |d| rename(d.join("f"), d.join("d/sub/f")),
        right: |d| rename(d.join("f"), d.join("e/f")),
        after: &[
            "d/",
            "d/one=first d/one",
            "d/sub/",
            "d/sub/f=first f",
            "d/sub/three=first d/sub/three",
            "d/two=first d/two",
            "e/",
            "e/four=first e/four",
        ],
    },
    Case {
        name: "renamed and edited",
        left: |d| rename(d.join("f"), d.join("g")),
        right: |d| write(d.join("f"), "edited on the right"),
        after: &[
            "d/",
            "d/one=first d/one",
            "d/sub/",
            "d/sub/three=first d/sub/three",
            "d/two=first d/two",
            "e/",
            "e/four=first e/four",
            "g=edited on the right",
        ],
    },
    Case {
        name: "renamed and saved anew",
        left: |d| save(d.join("f"), "saved on the left"),
        right: |d| rename(d.join("f"), d.join("g")),
        after: &[
            "d/",
            "d/one=first d/one",
            "d/sub/",
            "d/sub/three=first d/sub/three",
            "d/two=first d/two",
            "e/",
            "e/four=first e/four",
            "g=saved on the left",
        ],
    },
    Case {
        name: "a directory renamed, and deleted",
        left: |d| rename(d.join("d"), d.join("kept")),
        right: |d| remove_tree(d.join("d")),
        after: &[
            "e/",
            "e/four=first e/four",
            "f=first f",
            "kept/",
            "kept/one=first d/one",
            "kept/sub/",
            "kept/sub/three=first d/sub/three",
            "kept/two=first d/two",
        ],
    },
    Case {
        name: "a directory renamed, and filled",
        left: |d| rename(d.join("d"), d.join("named")),
        right: |d| {
            write(d.join("d/new"), "new on the right");
            rename(d.join("f"), d.join("d/sub/f"));
            remove(d.join("d/two"));
        },
        after: &[
            "e/",
            "e/four=first e/four",
            "named/",
            "named/new=new on the right",
            "named/one=first d/one",
            "named/sub/",
            "named/sub/f=first f",
            "named/sub/three=first d/sub/three",
        ],
    },
    Case {
        name: "renamed in a directory that is renamed",
        left: |d| rename(d.join("d/one"), d.join("d/uno")),
        right: |d| {
            rename(d.join("d/one"), d.join("d/eins"));
            rename(d.join("d"), d.join("named"));
        },
        after: &[
            "e/",
            "e/four=first e/four",
            "f=first f",
            "named/",
            "named/sub/",
            "named/sub/three=first d/sub/three",
            "named/two=first d/two",
            "named/uno=first d/one",
        ],
    },
    Case {
        name: "moved into each other",
        left: |d| rename(d.join("d"), d.join("e/d")),
        right: |d| rename(d.join("e"), d.join("d/e")),
        after: &[
            "e/",
            "e/d/",
            "e/d/one=first d/one",
            "e/d/sub/",
            "e/d/sub/three=first d/sub/three",
            "e/d/two=first d/two",
            "e/four=first e/four",
            "f=first f",
        ],
    },
    Case {
        name: "moved out of what is deleted",
        left: |d| {
            rename(d.join("d/sub"), d.join("sub"));
            remove_tree(d.join("d"));
        },
        right: |d| write(d.join("d/sub/three"), "edited on the right"),
        after: &["e/", "e/four=first e/four", "f=first f", "sub/", "sub/three=edited on the right"],
    },
    Case {
        name: "two files swapped and edited",
        left: |d| swap(d.join("f"), d.join("d/one")),
        right: |d| write(d.join("d/one"), "edited on the right"),
        after: &[
            "d/",
            "d/one=first f",
            "d/sub/",
            "d/sub/three=first d/sub/three",
            "d/two=first d/two",
            "e/",
            "e/four=first e/four",
            "f=edited on the right",
        ],
    },
    Case {
        name: "two files swapped, one renamed",
        left: |d| exchange(d.join("f"), d.join("d/one")),
        right: |d| rename(d.join("f"), d.join("g")),
        after: &[
            "d/",
            "d/one=first f",
            "d/sub/",
            "d/sub/three=first d/sub/three",
            "d/two=first d/two",
            "e/",
            "e/four=first e/four",
            "f=first d/one",
        ],
    },
    Case {
        name: "renamed, and swapped with another one there",
        left: |d| rename(d.join("f"), d.join("g")),
        right: |d| swap(d.join("f"), d.join("d/one")),
        after: &[
            "d/",
            "d/sub/",
            "d/sub/three=first d/sub/three",
            "d/two=first d/two",
            "e/",
            "e/four=first e/four",
            "f=first d/one",
            "g=first f",
        ],
    },
    Case {
        name: "two directories swapped, one filled and one edited in",
        left: |d| swap(d.join("d"), d.join("e")),
        right: |d| {
            plant(d.join("e/new"), "made on the right");
            write(d.join("d/two"), "edited on the right");
        },
        after: &[
            "d/",
            "d/four=first e/four",
            "d/new=made on the right",
            "e/",
            "e/one=first d/one",
            "e/sub/",
            "e/sub/three=first d/sub/three",
            "e/two=edited on the right",
            "f=first f",
        ],
    },
    Case {
        name: "three files in turn, one edited",
        left: |d| {
            swap(d.join("f"), d.join("d/one"));
            swap(d.join("f"), d.join("e/four"));
        },
        right: |d| write(d.join("e/four"), "edited on the right"),
        after: &[
            "d/",
            "d/one=first f",
            "d/sub/",
            "d/sub/three=first d/sub/three",
            "d/two=first d/two",
            "e/",
            "e/four=first d/one",
            "f=edited on the right",
        ],
    },
    Case {
        name: "one directory in the place of another that was renamed",
        left: |d| {
            rename(d.join("e"), d.join("old"));
            rename(d.join("d"), d.join("e"));
        },
        right: |d| {
            write(d.join("e/four"), "edited on the right");
            plant(d.join("d/new"), "made on the right");
        },
        after: &[
            "e/",
            "e/new=made on the right",
            "e/one=first d/one",
            "e/sub/",
            "e/sub/three=first d/sub/three",
            "e/two=first d/two",
            "f=first f",
            "old/",
            "old/four=edited on the right",
        ],
    },
    Case {
        name: "a directory unwrapped, and edited in",
        left: |d| unwrap(d),
        right: |d| write(d.join("d/sub/three"), "edited on the right"),
        after: &[
            "d.old/",
            "d.old/one=first d/one",
            "d.old/two=first d/two",
            "d/",
            "d/three=edited on the right",
            "e/",
            "e/four=first e/four",
            "f=first f",
        ],
    },
    Case {
        name: "a directory unwrapped on both",
        left: |d| unwrap(d),
        right: |d| unwrap(d),
        after: &[
            "d.old/",
            "d.old/one=first d/one",
            "d.old/two=first d/two",
            "d/",
            "d/three=first d/sub/three",
            "e/",
            "e/four=first e/four",
            "f=first f",
        ],
    },
    Case {
        name: "swapped on both",
        left: |d| swap(d.join("d"), d.join("e")),
        right: |d| exchange(d.join("d"), d.join("e")),
        after: &[
            "d/",
            "d/four=first e/four",
            "e/",
            "e/one=first d/one",
            "e/sub/",
            "e/sub/three=first d/sub/three",
            "e/two=first d/two",
            "f=first f",
        ],
    },
];

/// Gives the directory `d` the place of the one around it.
fn unwrap(at: &Path) {
    rename(at.join("d"), at.join("d.old"));
    rename(at.join("d.old/sub"), at.join("d"));
}

/// Exchanges two names as users do, by way of a third.
fn swap(a: impl AsRef<Path>, b: impl AsRef<Path>) {
    let aside = a.as_ref().with_extension("aside");
    rename(&a, &aside);
    rename(&b, &a);
    rename(&aside, &b);
}

/// A tree in the form of [`Case::after`].
fn listed(tree: &Tree, root: &Path, below: &str) -> Vec<String> {
    let at = root.join(below);
    let paths = tree.paths().into_iter().filter_map(|path| path.strip_prefix(&format!("{below}/")).map(str::to_owned));
    let mut all: Vec<String> = paths
        .map(|path| match at.join(&path).is_dir() {
            true => format!("{path}/"),
            false => format!("{path}={}", read(at.join(&path))),
        })
        .collect();
    all.sort();
    all
}

/// Carries bytes after so many milliseconds, in both directions.
const RELAY: &str = r#"
import os, subprocess, sys, threading, time, collections
delay = float(sys.argv[1]) / 1000
child = subprocess.Popen(sys.argv[2:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
def carry(source, sink):
    waiting, more = collections.deque(), threading.Condition()
    def write():
        while True:
            with more:
                more.wait_for(lambda: waiting)
                due, piece = waiting.popleft()
            time.sleep(max(0, due - time.monotonic()))
            if not piece:
                return os.close(sink)
            view = memoryview(piece)
            try:
                while view:
                    view = view[os.write(sink, view):]
            except OSError:
                return
    threading.Thread(target=write, daemon=True).start()
    carried = 0
    while True:
        piece = os.read(source, 1 << 16)
        carried += len(piece)
        with open(f"{sys.argv[0]}.{sink}", "w") as count:
            count.write(str(carried))
        with more:
            waiting.append((time.monotonic() + delay, piece))
            more.notify()
        if not piece:
            return
into = os.dup2(child.stdin.fileno(), 100)
child.stdin.close()
threading.Thread(target=carry, args=(0, into), daemon=True).start()
carry(child.stdout.fileno(), 1)
child.wait()
time.sleep(3 * delay)
"#;

/// Bytes that the relay has carried in both directions.
fn carried(pair: &Pair) -> u64 {
    // Of each descriptor that it writes to. A count that is being written is empty.
    let count = |sink: &str| {
        let at = pair.beside(&format!("relay.py.{sink}"));
        let text = || std::fs::read_to_string(&at).unwrap_or_default();
        assert!(crate::support::poll(crate::support::PATIENCE, || !text().is_empty()), "no count");
        text().parse::<u64>().unwrap_or(0)
    };
    count("100") + count("1")
}

/// A pair whose sides hear each other so much later; 0: at once, without a line between them.
fn pair_over(delay: u64) -> Pair {
    if delay == 0 { Pair::new() } else { pair_with_line(delay) }
}

fn pair_with_line(delay: u64) -> Pair {
    let pair = Pair::new();
    let relay = pair.beside("relay.py");
    write(&relay, RELAY);
    let (relay, right) = (relay.display().to_string(), pair.right.display().to_string());
    let psync = crate::support::PSYNC;
    let line = format!("python3 {relay} {delay} {psync} --agent-mode --stdio --root {right}");
    pair.with(&["--proxy-command", &line, "-r", "elsewhere"])
}

fn check(pair: &Pair, tree: &Tree, how: &str) {
    for (n, case) in CASES.iter().enumerate() {
        let found = listed(tree, &pair.left, &format!("case{n}"));
        assert_eq!(found, case.after, "{}, {how}{}", case.name, pair.story());
    }
}

fn plant_all(pair: &Pair) {
    (0..CASES.len()).for_each(|n| plant_tree(&pair.left.join(format!("case{n}"))));
}

#[test]
fn what_both_sides_moved_while_apart_is_there_once() {
    let delays = if has("python3") { vec![0, 30] } else { vec![0] };
    for delay in delays {
        let pair = pair_over(delay);
        plant_all(&pair);
        pair.sync();
        for (n, case) in CASES.iter().enumerate() {
            let at = format!("case{n}");
            (case.left)(&pair.left.join(&at));
            (case.right)(&pair.right.join(&at));
        }
        let tree = pair.sync();
        check(&pair, &tree, &format!("apart, {delay} ms"));
    }
}

#[test]
fn what_both_sides_move_at_once_is_there_once() {
    if !has("python3") {
        return missing("python3");
    }
    for delay in [30, 100] {
        let mut pair = pair_over(delay);
        plant_all(&pair);
        pair.run();
        pair.settle();
        // Both sides act before either hears of the other.
        for (n, case) in CASES.iter().enumerate() {
            let at = format!("case{n}");
            (case.left)(&pair.left.join(&at));
            (case.right)(&pair.right.join(&at));
        }
        let tree = pair.settle();
        check(&pair, &tree, &format!("live, {delay} ms"));
        pair.stop();
    }
}

#[test]
fn a_directory_that_is_handed_to_and_fro_is_moved() {
    let mut pair = Pair::start(&[]);
    for n in 0..50 {
        plant(pair.left.join(format!("b/{n}")), n.to_string());
    }
    mkdir(pair.left.join("a"));
    write(pair.left.join("note"), "a file that goes along");
    pair.settle();
    let inodes = |pair: &Pair| ["b/7", "note"].map(|at| std::fs::metadata(pair.right.join(at)).unwrap().ino());
    let (before, from) = (inodes(&pair), pair.action_lines().len());
    for _ in 0..3 {
        rename(pair.left.join("b"), pair.left.join("a/b"));
        rename(pair.left.join("note"), pair.left.join("a/note"));
        let there = |pair: &Pair| pair.right.join("a/b/49").exists() && pair.right.join("a/note").exists();
        assert!(crate::support::poll(crate::support::PATIENCE, || there(&pair)), "{}", pair.story());
        rename(pair.right.join("a/b"), pair.right.join("b"));
        rename(pair.right.join("a/note"), pair.right.join("note"));
        let back = |pair: &Pair| pair.left.join("b/49").exists() && pair.left.join("note").exists();
        assert!(crate::support::poll(crate::support::PATIENCE, || back(&pair)), "{}", pair.story());
    }
    pair.settle();
    assert_eq!(inodes(&pair), before, "sent again{}", pair.story());
    let others: Vec<String> =
        pair.action_lines().split_off(from).into_iter().filter(|line| !line.contains("action move")).collect();
    assert_eq!(others, [""; 0], "moves alone are wanted");
    pair.stop();
}

/// What users make change places: files, directories, files in a circle, a directory in the place of one that was renamed.
fn change_places(at: &Path) {
    swap(at.join("a"), at.join("b"));
    exchange(at.join("da"), at.join("db"));
    swap(at.join("c1"), at.join("c2"));
    swap(at.join("c2"), at.join("c3"));
    rename(at.join("new"), at.join("newest"));
    rename(at.join("old"), at.join("new"));
}

#[test]
fn directories_in_turn_take_along_what_the_other_side_makes_in_them() {
    let mut pair = Pair::new();
    for n in 0..3 {
        plant(pair.left.join(format!("day.{n}/{n}")), n.to_string());
    }
    pair.sync();
    pair.run();
    pair.settle();
    // Each gets the next one's name, and the first is made anew.
    for n in (0..3).rev() {
        rename(pair.left.join(format!("day.{n}")), pair.left.join(format!("day.{}", n + 1)));
    }
    plant(pair.left.join("day.0/today"), "made on the left");
    plant(pair.right.join("day.1/note"), "made on the right");
    let tree = pair.settle();
    let found: Vec<String> = tree.paths().into_iter().filter(|path| path.starts_with("day.")).collect();
    let files: Vec<String> = found.into_iter().filter(|path| pair.left.join(path).is_file()).collect();
    // The note was made before the right heard of it, or after: it lies in the directory that had the name then.
    let note = if files.contains(&"day.2/note".to_owned()) { "day.2/note" } else { "day.1/note" };
    let mut wanted = ["day.0/today", "day.1/0", "day.2/1", "day.3/2", note];
    wanted.sort_unstable();
    assert_eq!(files, wanted, "{}", pair.story());
    pair.stop();
}

#[test]
fn what_changes_places_is_moved_and_not_sent() {
    let before = ["a", "b", "da/1", "db/1", "c1", "c2", "c3", "old/1", "new/1"];
    // Where each of them is once they have changed places: on both sides the same object.
    let after = ["b", "a", "db/1", "da/1", "c3", "c1", "c2", "new/1", "newest/1"];
    let inodes = |root: &Path, names: &[&str]| -> Vec<u64> {
        names.iter().map(|name| std::fs::metadata(root.join(name)).unwrap().ino()).collect()
    };
    for (live, on_left) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut pair = Pair::new();
        before.iter().for_each(|name| plant(pair.left.join(name), name.as_bytes()));
        pair.sync();
        if live {
            pair.run();
            pair.settle();
        }
        let (left, right) = (inodes(&pair.left, &before), inodes(&pair.right, &before));
        let from = pair.action_lines().len();
        change_places(if on_left { &pair.left } else { &pair.right });
        if live {
            pair.settle();
            pair.stop();
        } else {
            pair.sync();
        }
        let how = format!("on the left: {on_left}, live: {live}");
        assert_eq!(inodes(&pair.left, &after), left, "{how}{}", pair.story());
        assert_eq!(inodes(&pair.right, &after), right, "{how}{}", pair.story());
        let others: Vec<String> =
            pair.action_lines().split_off(from).into_iter().filter(|line| !line.contains("action move")).collect();
        assert_eq!(others, [""; 0], "moves alone are wanted, {how}");
    }
}

/// What a rotation of logs does: each gets the next one's name, and a new one begins.
fn rotate(logs: &Path, count: usize, text: &str) {
    let log = |n: usize| logs.join(format!("log.{n}"));
    (1..=count).rev().filter(|n| log(*n).exists()).for_each(|n| rename(log(n), log(n + 1)));
    rename(logs.join("log"), log(1));
    write(logs.join("log"), text);
}

#[test]
fn rotated_logs_are_not_sent_again() {
    if !has("python3") {
        return missing("python3");
    }
    const LOGS: usize = 30;
    const SIZE: usize = 200_000;
    for delay in [0, 30, 100] {
        let mut pair = pair_with_line(delay);
        let noise = |seed: usize| -> String {
            let next = |x: &mut u64| {
                *x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                Some(char::from(b'!' + (*x >> 33) as u8 % 90))
            };
            let mut state = seed as u64;
            std::iter::from_fn(|| next(&mut state)).take(SIZE).collect()
        };
        for n in 1..=LOGS {
            plant(pair.left.join(format!("log/log.{n}")), noise(n));
        }
        write(pair.left.join("log/log"), "today");
        pair.run();
        pair.settle();
        assert!(carried(&pair) > (LOGS * SIZE / 2) as u64, "the line counts what passes");
        let rotated = |pair: &mut Pair, on_right: bool, how: &str| {
            let before = carried(pair);
            rotate(&if on_right { &pair.right } else { &pair.left }.join("log"), LOGS + 4, how);
            let tree = pair.settle();
            let bytes = carried(pair) - before;
            assert!(bytes < SIZE as u64, "{how}, {delay} ms: {bytes} bytes for thirty renames{}", pair.story());
            assert!(!tree.paths().iter().any(|path| path.contains("conflict")), "{how}{}", pair.story());
        };
        for (n, from) in [false, true].into_iter().enumerate() {
            rotated(&mut pair, from, &format!("night {n}"));
        }
        for n in 1..=LOGS {
            assert_eq!(read(pair.right.join(format!("log/log.{}", n + 2))), noise(n), "{n}");
        }
        pair.stop();
    }
}

#[test]
fn two_deletions_do_not_wait_for_each_others_creations() {
    let pair = Pair::new();
    for name in ["p/s/x/old", "p/t"] {
        plant(pair.left.join(name), "first");
    }
    pair.sync();
    write(pair.left.join("p/s/x/new"), "new");
    remove(pair.left.join("p/t"));
    remove_tree(pair.right.join("p/s/x"));
    newer(&pair.right.join("p/t"));
    let begun = std::time::Instant::now();
    let tree = pair.sync();
    assert!(begun.elapsed().as_secs() < 10, "{:?}{}", begun.elapsed(), pair.story());
    assert_eq!(tree.paths(), ["p", "p/s", "p/s/x", "p/s/x/new", "p/t"]);
}

fn newer(path: &Path) {
    write(path, "edited");
}
