//! Stopped, changed on both sides, started again: every cell of the table of reconciliation, on real trees.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::support::users::*;
use crate::support::{Depth, Pair, Tree, snapshot};

/// One case, in a directory of its own. What it expects is written as `path=text` for files, `path/` for
/// directories and `path@target` for links, sorted.
struct Case {
    name: &'static str,
    before: fn(&Path),
    left: fn(&Path),
    right: fn(&Path),
    after: &'static [&'static str],
    /// Whether swapping the sides gives the same.
    symmetric: bool,
}

const NONE: fn(&Path) = |_| {};

fn file(at: &Path) {
    write(at.join("f.txt"), "base");
}

fn tree(at: &Path) {
    for name in ["d/one", "d/two", "d/sub/three"] {
        plant(at.join(name), "base");
    }
}

fn older(path: impl AsRef<Path>, text: &str) {
    write(path.as_ref(), text);
    touch(path, 1_577_934_245, 0); // 2020-01-02 03:04:05 UTC
}

fn newer(path: impl AsRef<Path>, text: &str) {
    write(path.as_ref(), text);
    touch(path, 1_577_934_246, 7);
}

const CASES: &[Case] = &[
    Case {
        name: "edited",
        before: file,
        left: |d| write(d.join("f.txt"), "edited"),
        right: NONE,
        after: &["f.txt=edited"],
        symmetric: true,
    },
    Case {
        name: "deleted",
        before: tree,
        left: |d| remove(d.join("d/one")),
        right: NONE,
        after: &["d/", "d/sub/", "d/sub/three=base", "d/two=base"],
        symmetric: true,
    },
    Case {
        name: "tree deleted",
        before: tree,
        left: |d| remove_tree(d.join("d")),
        right: NONE,
        after: &[],
        symmetric: true,
    },
    Case {
        name: "deleted on both",
        before: tree,
        left: |d| remove_tree(d.join("d")),
        right: |d| remove_tree(d.join("d")),
        after: &[],
        symmetric: true,
    },
    Case {
        name: "the same edit on both",
        before: file,
        left: |d| older(d.join("f.txt"), "the same"),
        right: |d| newer(d.join("f.txt"), "the same"),
        after: &["f.txt=the same"],
        symmetric: true,
    },
    Case {
        name: "edited and deleted",
        before: file,
        left: |d| write(d.join("f.txt"), "edited"),
        right: |d| remove(d.join("f.txt")),
        after: &["f.txt=edited"],
        symmetric: true,
    },
    Case {
        name: "edited in a tree that was deleted",
        before: tree,
        left: |d| write(d.join("d/sub/three"), "edited"),
        right: |d| remove_tree(d.join("d")),
        after: &["d/", "d/sub/", "d/sub/three=edited"],
        symmetric: true,
    },
    Case {
        name: "new in a tree that was deleted",
        before: tree,
        left: |d| write(d.join("d/sub/new"), "new"),
        right: |d| remove_tree(d.join("d")),
        after: &["d/", "d/sub/", "d/sub/new=new"],
        symmetric: true,
    },
    Case {
        name: "conflict, the left is older",
        before: file,
        left: |d| older(d.join("f.txt"), "from left"),
        right: |d| newer(d.join("f.txt"), "from right"),
        after: &["f (conflict left 2020-01-02 03.04.05).txt=from left", "f.txt=from right"],
        symmetric: false,
    },
    Case {
        name: "conflict, the right is older",
        before: file,
        left: |d| newer(d.join("f.txt"), "from left"),
        right: |d| older(d.join("f.txt"), "from right"),
        after: &["f (conflict right 2020-01-02 03.04.05).txt=from right", "f.txt=from left"],
        symmetric: false,
    },
    Case {
        name: "conflict of new files",
        before: NONE,
        left: |d| older(d.join(".rc"), "from left"),
        right: |d| newer(d.join(".rc"), "from right"),
        after: &[".rc (conflict left 2020-01-02 03.04.05)=from left", ".rc=from right"],
        symmetric: false,
    },
    Case {
        name: "directories made on both",
        before: NONE,
        left: |d| plant(d.join("d/left"), "left"),
        right: |d| plant(d.join("d/right"), "right"),
        after: &["d/", "d/left=left", "d/right=right"],
        symmetric: true,
    },
    Case {
        name: "directory and file",
        before: NONE,
        left: |d| plant(d.join("x/inside"), "inside"),
        right: |d| older(d.join("x"), "a file"),
        after: &["x (conflict right 2020-01-02 03.04.05)=a file", "x/", "x/inside=inside"],
        symmetric: false,
    },
    Case {
        name: "file and directory",
        before: NONE,
        left: |d| older(d.join("x"), "a file"),
        right: |d| plant(d.join("x/inside"), "inside"),
        after: &["x (conflict left 2020-01-02 03.04.05)=a file", "x/", "x/inside=inside"],
        symmetric: false,
    },
    Case {
        name: "moved",
        before: file,
        left: |d| rename(d.join("f.txt"), d.join("g.txt")),
        right: NONE,
        after: &["g.txt=base"],
        symmetric: true,
    },
    Case {
        name: "tree moved",
        before: tree,
        left: |d| rename(d.join("d"), d.join("e")),
        right: NONE,
        after: &["e/", "e/one=base", "e/sub/", "e/sub/three=base", "e/two=base"],
        symmetric: true,
    },
    Case {
        name: "moved and edited there",
        before: file,
        left: |d| rename(d.join("f.txt"), d.join("g.txt")),
        right: |d| write(d.join("f.txt"), "edited"),
        after: &["g.txt=edited"],
        symmetric: true,
    },
    Case {
        name: "tree moved and a file edited in it",
        before: tree,
        left: |d| rename(d.join("d"), d.join("e")),
        right: |d| write(d.join("d/sub/three"), "edited"),
        after: &["e/", "e/one=base", "e/sub/", "e/sub/three=edited", "e/two=base"],
        symmetric: true,
    },
    Case {
        name: "tree moved and a file made in it",
        before: tree,
        left: |d| rename(d.join("d"), d.join("e")),
        right: |d| write(d.join("d/sub/new"), "new"),
        after: &["e/", "e/one=base", "e/sub/", "e/sub/new=new", "e/sub/three=base", "e/two=base"],
        symmetric: true,
    },
    Case {
        name: "moved onto a name that is taken",
        before: file,
        left: |d| {
            older(d.join("f.txt"), "base");
            rename(d.join("f.txt"), d.join("g.txt"));
        },
        right: |d| newer(d.join("g.txt"), "taken"),
        after: &["g (conflict left 2020-01-02 03.04.05).txt=base", "g.txt=taken"],
        symmetric: false,
    },
    Case {
        name: "moved to two names",
        before: file,
        left: |d| rename(d.join("f.txt"), d.join("left.txt")),
        right: |d| rename(d.join("f.txt"), d.join("right.txt")),
        after: &["left.txt=base"],
        symmetric: false,
    },
    Case {
        name: "moved and deleted",
        before: file,
        left: |d| rename(d.join("f.txt"), d.join("g.txt")),
        right: |d| remove(d.join("f.txt")),
        after: &["g.txt=base"],
        symmetric: true,
    },
    Case {
        name: "moved into each other",
        before: |d| {
            plant(d.join("A/a"), "a");
            plant(d.join("B/b"), "b");
        },
        left: |d| rename(d.join("A"), d.join("B/A")),
        right: |d| rename(d.join("B"), d.join("A/B")),
        after: &["B/", "B/A/", "B/A/a=a", "B/b=b"],
        symmetric: false,
    },
    Case {
        name: "swapped",
        before: |d| {
            write(d.join("a"), "a");
            write(d.join("b"), "b");
        },
        left: |d| exchange(d.join("a"), d.join("b")),
        right: NONE,
        after: &["a=b", "b=a"],
        symmetric: true,
    },
    Case {
        name: "attributes and contents",
        before: |d| {
            write(d.join("f.txt"), "base");
            chmod(d.join("f.txt"), 0o644);
        },
        left: |d| chmod(d.join("f.txt"), 0o600),
        right: |d| write(d.join("f.txt"), "edited"),
        after: &["f.txt=edited 0600"],
        symmetric: true,
    },
    Case {
        name: "link instead of file",
        before: file,
        left: |d| {
            remove(d.join("f.txt"));
            symlink("elsewhere", d.join("f.txt"));
        },
        right: NONE,
        after: &["f.txt@elsewhere"],
        symmetric: true,
    },
    Case {
        name: "directory instead of file",
        before: file,
        left: |d| {
            remove(d.join("f.txt"));
            plant(d.join("f.txt/in"), "in");
        },
        right: NONE,
        after: &["f.txt/", "f.txt/in=in"],
        symmetric: true,
    },
];

/// The tree in the notation of [`Case::after`].
fn notation(root: &Path, tree: &Tree, modes: bool) -> Vec<String> {
    let line = |(path, node): (&Vec<u8>, &crate::support::tree::Node)| {
        let path = String::from_utf8(path.clone()).unwrap();
        match node.kind {
            'd' => format!("{path}/"),
            'l' => format!("{path}@{}", String::from_utf8_lossy(&node.target)),
            _ if modes => format!("{path}={} {:04o}", read(root.join(&path)), node.mode),
            _ => format!("{path}={}", read(root.join(&path))),
        }
    };
    let mut lines: Vec<_> = tree.0.iter().map(line).collect();
    lines.sort();
    lines
}

/// Puts every case (and its mirror image) into one pair, changes both sides while psync is `stopped` or at the
/// same moment while it runs, and compares.
#[test]
fn changed_on_both_sides_while_stopped() {
    let mut pair = Pair::new();
    let [left, right] = [pair.left.clone(), pair.right.clone()];
    for case in CASES {
        for root in [left.join(case.name), left.join(format!("mirror {}", case.name))] {
            mkdir(&root);
            (case.before)(&root);
        }
    }
    pair.run();
    pair.stop();
    for case in CASES {
        (case.left)(&left.join(case.name));
        (case.right)(&right.join(case.name));
        if case.symmetric {
            let mirror = format!("mirror {}", case.name);
            (case.left)(&right.join(&mirror));
            (case.right)(&left.join(&mirror));
        }
    }
    pair.run();
    let tree = pair.assert_equal();
    let mut wrong = String::new();
    for case in CASES {
        let mirror = case.symmetric.then(|| format!("mirror {}", case.name));
        for directory in [Some(case.name.to_owned()), mirror].into_iter().flatten() {
            let modes = case.after.iter().any(|line| line.ends_with(" 0600"));
            let is = notation(&left.join(&directory), &tree.below(&directory), modes);
            if is != case.after {
                wrong += &format!("{directory}:\n  wanted {:?}\n  found  {is:?}\n", case.after);
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}{}", pair.story());
    pair.stop();
    let again = pair.sync();
    assert!(again == tree, "a restart brought something back:\n{}", tree.differences(&again, ("first", "again")));
}

#[test]
fn moves_while_stopped_are_moves() {
    let mut pair = Pair::new();
    for n in 0..30 {
        plant(pair.left.join(format!("old/sub/file{n}")), noise(n, 2000));
    }
    write(pair.left.join("one"), noise(77, 300_000));
    pair.run();
    pair.stop();
    let inode = |path: &str| std::fs::metadata(pair.right.join(path)).unwrap().ino();
    let before = (inode("old"), inode("old/sub/file7"), inode("one"));
    rename(pair.left.join("old"), pair.left.join("new"));
    mkdir(pair.left.join("dir"));
    rename(pair.left.join("one"), pair.left.join("dir/1"));
    let actions = pair.actions_logged();
    pair.sync();
    assert_eq!(before, (inode("new"), inode("new/sub/file7"), inode("dir/1")), "copied instead of moved");
    assert!(pair.actions_logged() - actions <= 3, "{:#?}", &pair.action_lines()[actions..]);
}

#[test]
fn deletions_stay_deleted_over_many_restarts() {
    let mut pair = Pair::new();
    for n in 0..40 {
        plant(pair.left.join(format!("d{}/f{n}", n % 4)), "text");
    }
    pair.run();
    pair.stop();
    for round in 0..6 {
        let root = pair.sides()[round % 2].to_owned();
        remove(root.join(format!("d1/f{}", 1 + 4 * round)));
        let want = snapshot(&root, Depth::Contents).paths();
        assert_eq!(pair.sync().paths(), want, "round {round}");
    }
    // While it runs, and stopped at once: what the stop cut off is done at the next start.
    for round in 0..4 {
        pair.run();
        let root = pair.sides()[round % 2].to_owned();
        remove(root.join(format!("d2/f{}", 2 + 4 * round)));
        write(root.join(format!("d3/new{round}")), "new");
        let want = snapshot(&root, Depth::Contents).paths();
        pair.stop();
        assert_eq!(pair.sync().paths(), want, "round {round}");
    }
}

#[test]
fn both_sides_change_one_file_at_once_while_it_runs() {
    let mut pair = Pair::start(&[]);
    for n in 0..20 {
        write(pair.left.join(format!("f{n}.txt")), "base");
    }
    pair.settle();
    std::thread::scope(|scope| {
        for (root, side) in [(&pair.left, "left"), (&pair.right, "right")] {
            scope.spawn(move || (0..20).for_each(|n| write(root.join(format!("f{n}.txt")), format!("{side} {n}"))));
        }
    });
    let tree = pair.settle();
    let all: Vec<String> = tree.paths().iter().map(|path| read(pair.left.join(path))).collect();
    for n in 0..20 {
        for side in ["left", "right"] {
            // A version may also have been replaced after it had arrived: then the trash holds it.
            let text = format!("{side} {n}");
            let kept = all.contains(&text) || in_trash(&pair, &text);
            assert!(kept, "{text:?} is lost{}", pair.story());
        }
    }
    pair.stop();
}

fn in_trash(pair: &Pair, text: &str) -> bool {
    let mut todo: Vec<_> = pair.sides().map(|root| Pair::own(root).join("trash")).to_vec();
    while let Some(directory) = todo.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                todo.push(entry.path());
            } else if std::fs::read(entry.path()).is_ok_and(|t| t == text.as_bytes()) {
                return true;
            }
        }
    }
    false
}
