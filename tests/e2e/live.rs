//! A running pair: every kind of change, on either side and on both at once.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use crate::support::users::*;
use crate::support::{Depth, Pair, poll, process, snapshot, tools};

/// One thing that a user does in a directory prepared by [`prepare`] and by the operations before it.
struct Operation {
    what: &'static str,
    run: fn(&Path),
    /// The most actions that carrying it over may take.
    most: usize,
    only: Only,
}

#[derive(Clone, Copy, PartialEq)]
enum Only {
    Anywhere,
    /// Extended attributes travel from left to right only.
    Left,
    /// Needs the rights of root.
    Root,
}

const fn op(what: &'static str, most: usize, run: fn(&Path)) -> Operation {
    Operation { what, run, most, only: Only::Anywhere }
}

const fn left(what: &'static str, most: usize, run: fn(&Path)) -> Operation {
    Operation { what, run, most, only: Only::Left }
}

const fn root(what: &'static str, most: usize, run: fn(&Path)) -> Operation {
    Operation { what, run, most, only: Only::Root }
}

fn prepare(at: &Path) {
    mkdirs(at);
    for name in ["one", "two", "three", "four", "five", "six", "seven"] {
        write(at.join(name), format!("the file {name}\n"));
    }
    write(at.join("block"), noise(7, 20_000));
    for (directory, files) in [("tree", 12), ("wood", 5), ("box", 2), ("bin", 1), ("heap", 3)] {
        for n in 0..files {
            plant(at.join(format!("{directory}/sub{}/file{n}", n % 3)), format!("{directory} {n}\n"));
        }
    }
    mkdir(at.join("nothing"));
    symlink("one", at.join("link"));
}

const OPERATIONS: &[Operation] = &[
    op("create", 1, |d| write(d.join("new"), "new\n")),
    op("create an empty file", 1, |d| write(d.join("empty"), "")),
    op("create by a temporary name", 3, |d| save(d.join("saved"), "saved\n")),
    op("create a file of 9 MiB", 1, |d| write(d.join("big"), noise(1, 9 << 20))),
    op("append", 1, |d| append(d.join("one"), "more\n")),
    op("append to the big file", 1, |d| append(d.join("big"), "more\n")),
    op("write in place", 1, |d| write_at(d.join("block"), 8192, "in place")),
    op("write over", 1, |d| write(d.join("two"), "all new\n")),
    op("save over", 3, |d| save(d.join("two"), "all new again\n")),
    op("truncate", 1, |d| truncate(d.join("block"), 5000)),
    op("truncate to nothing", 1, |d| truncate(d.join("three"), 0)),
    op("extend by a hole", 1, |d| truncate(d.join("four"), 300_000)),
    op("chmod", 1, |d| chmod(d.join("one"), 0o640)),
    op("chmod to nothing and back", 2, |d| {
        chmod(d.join("one"), 0);
        chmod(d.join("one"), 0o755);
    }),
    op("chmod of a directory", 1, |d| chmod(d.join("tree"), 0o2750)),
    op("a time in the past", 1, |d| touch(d.join("one"), 1_000_000_000, 123_456_789)),
    op("a time before 1970", 1, |d| touch(d.join("one"), -86_400, 1)),
    op("a time in the future", 1, |d| touch(d.join("one"), 4_000_000_000, 999_999_999)),
    op("a write with the old time put back", 2, |d| {
        write(d.join("one"), "the file ONE\n");
        touch(d.join("one"), 4_000_000_000, 999_999_999);
    }),
    root("chown", 1, |d| chown(d.join("two"), 12_345, 23_456)),
    root("chown of a directory", 1, |d| chown(d.join("box"), 12_345, 23_456)),
    root("chown of a link", 1, |d| chown(d.join("link"), 12_345, 23_456)),
    root("setuid", 1, |d| chmod(d.join("two"), 0o4755)),
    left("setfattr", 1, |d| set_xattr(d.join("one"), "user.colour", b"green")),
    left("setfattr of 3000 bytes", 1, |d| set_xattr(d.join("one"), "user.much", &noise(3, 3000))),
    left("setfattr on a directory", 1, |d| set_xattr(d.join("tree"), "user.colour", b"blue")),
    left("write to a file with attributes", 1, |d| append(d.join("one"), "coloured\n")),
    left("setfattr -x", 1, |d| remove_xattr(d.join("one"), "user.colour")),
    op("a link", 1, |d| symlink("two", d.join("alias"))),
    op("a dangling link", 1, |d| symlink("no/such/file", d.join("dangling"))),
    op("an absolute link", 1, |d| symlink("/etc/hostname", d.join("absolute"))),
    op("a link to another place", 3, |d| {
        symlink("three", d.join("alias.new"));
        rename(d.join("alias.new"), d.join("alias"));
    }),
    op("a hard link", 1, |d| hard_link(d.join("five"), d.join("five-again"))),
    op("removal of one hard link", 2, |d| remove(d.join("five"))),
    op("mkdir", 1, |d| mkdir(d.join("fresh"))),
    op("mkdir -p and a file in it", 5, |d| plant(d.join("deep/er/and/deeper/still"), "here\n")),
    op("rename a file", 1, |d| rename(d.join("six"), d.join("half a dozen"))),
    op("rename a file into a directory", 1, |d| rename(d.join("half a dozen"), d.join("fresh/six"))),
    op("rename over a file", 2, |d| rename(d.join("new"), d.join("two"))),
    op("rename and write", 2, |d| {
        rename(d.join("seven"), d.join("7"));
        append(d.join("7"), "seven of nine\n");
    }),
    op("rename a tree", 1, |d| rename(d.join("tree"), d.join("arbre"))),
    op("rename a tree into another", 1, |d| rename(d.join("wood"), d.join("arbre/wood"))),
    // It leaves a directory that is closed to others, and opens when all in it is told.
    op("rename a tree and a file in it", 3, |d| {
        rename(d.join("arbre/wood"), d.join("wood"));
        rename(d.join("wood/sub0/file0"), d.join("wood/sub0/first"));
    }),
    op("swap two files", 6, |d| exchange(d.join("two"), d.join("three"))),
    op("swap two files by three renames", 6, |d| {
        rename(d.join("two"), d.join("aside"));
        rename(d.join("three"), d.join("two"));
        rename(d.join("aside"), d.join("three"));
    }),
    // It need not be found to be a swap: the trees may also be merged into each other, file by file.
    op("swap two trees", 60, |d| exchange(d.join("arbre"), d.join("wood"))),
    op("a ring of three", 8, |d| {
        rename(d.join("one"), d.join("aside"));
        rename(d.join("two"), d.join("one"));
        rename(d.join("three"), d.join("two"));
        rename(d.join("aside"), d.join("three"));
    }),
    op("a child takes its parent's place", 8, |d| {
        rename(d.join("deep/er"), d.join("er"));
        remove_tree(d.join("deep"));
        rename(d.join("er"), d.join("deep"));
    }),
    op("file to directory", 4, |d| {
        remove(d.join("block"));
        plant(d.join("block/inside"), "a directory now\n");
    }),
    op("directory to file", 4, |d| {
        remove_tree(d.join("box"));
        write(d.join("box"), "a file now\n");
    }),
    op("file to link", 2, |d| {
        remove(d.join("empty"));
        symlink("box", d.join("empty"));
    }),
    op("link to file", 2, |d| {
        remove(d.join("alias"));
        write(d.join("alias"), "a file now\n");
    }),
    op("directory to link and away", 3, |d| {
        rename(d.join("bin"), d.join("usr-bin"));
        symlink("usr-bin", d.join("bin"));
    }),
    op("link to directory", 4, |d| {
        remove(d.join("dangling"));
        plant(d.join("dangling/inside"), "a directory now\n");
    }),
    op("delete a file", 1, |d| remove(d.join("saved"))),
    op("delete a link", 1, |d| remove(d.join("absolute"))),
    op("delete an empty directory", 1, |d| {
        std::fs::remove_dir(d.join("nothing")).unwrap();
    }),
    op("delete a tree", 20, |d| remove_tree(d.join("heap"))),
    op("delete and make again", 1, |d| {
        remove(d.join("three"));
        write(d.join("three"), "back again\n");
    }),
    op("a file that does not stay", 3, |d| {
        write(d.join("gone"), "soon gone\n");
        remove(d.join("gone"));
        write(d.join("stays"), "stays\n");
    }),
    op("three hundred files at once", 304, |d| {
        for n in 0..300 {
            plant(d.join(format!("many/dir{}/file{n}", n % 3)), format!("one of many: {n}\n"));
        }
    }),
    op("rename them all", 1, |d| rename(d.join("many"), d.join("lots"))),
    op("delete them all", 310, |d| remove_tree(d.join("lots"))),
];

fn operations(left_side: bool) -> impl Iterator<Item = &'static Operation> {
    OPERATIONS.iter().filter(move |operation| match operation.only {
        Only::Anywhere => true,
        Only::Left => left_side,
        Only::Root => process::is_root(),
    })
}

/// Does every operation on one side. After each, the other side shows what the first one shows, and the first
/// one still shows what the user left there; and nothing is sent twice.
fn every_operation_on(left_side: bool) {
    let mut pair = Pair::start(&[]);
    let place = if left_side { pair.left.join("w") } else { pair.right.join("w") };
    let root = place.parent().unwrap().to_owned();
    prepare(&place);
    pair.settle();
    for operation in operations(left_side) {
        let before = pair.actions_logged();
        (operation.run)(&place);
        let wanted = snapshot(&root, Depth::Contents);
        let tree = pair.wait_equal();
        let changed = wanted.differences(&tree, ("made", "is"));
        assert!(tree == wanted, "{}: the user's own side changed:\n{changed}{}", operation.what, pair.story());
        let actions = pair.actions_logged_since(before);
        assert!(actions >= 1, "{}: nothing was logged{}", operation.what, pair.story());
        let lines = pair.action_lines()[before..].join("\n");
        assert!(actions <= operation.most, "{}: {actions} actions:\n{lines}", operation.what);
    }
    let actions = pair.actions_logged();
    let tree = pair.settle();
    let echoes = pair.action_lines()[actions..].join("\n");
    // The last deletion may take a while to be counted; an echo of anything else may not.
    assert!(echoes.lines().all(|line| line.contains("lots")), "actions after all was equal:\n{echoes}");
    assert!(tree.paths().iter().all(|p| !p.contains("(conflict")), "a conflict: {:?}", tree.paths());
    pair.stop();
}

#[test]
fn every_operation_on_the_left() {
    every_operation_on(true);
}

#[test]
fn every_operation_on_the_right() {
    every_operation_on(false);
}

#[test]
fn every_operation_on_both_sides_at_once_without_waiting() {
    let mut pair = Pair::start(&[]);
    let reference = pair.beside("reference");
    for (root, name) in [(pair.left.clone(), "of-left"), (pair.right.clone(), "of-right")] {
        prepare(&root.join(name));
        prepare(&reference.join(name));
    }
    pair.settle();
    std::thread::scope(|scope| {
        for (root, name, left_side) in [(&pair.left, "of-left", true), (&pair.right, "of-right", false)] {
            let reference = &reference;
            scope.spawn(move || {
                for operation in operations(left_side) {
                    (operation.run)(&root.join(name));
                    (operation.run)(&reference.join(name));
                }
            });
        }
    });
    let tree = pair.settle().without_times();
    let wanted = snapshot(&reference, Depth::Contents).without_times();
    assert!(tree == wanted, "not what the users made:\n{}{}", wanted.differences(&tree, ("made", "is")), pair.story());
    pair.stop();
}

#[test]
fn both_sides_fill_the_same_directories() {
    let mut pair = Pair::start(&[]);
    std::thread::scope(|scope| {
        for (root, side) in [(&pair.left, "left"), (&pair.right, "right")] {
            scope.spawn(move || {
                for n in 0..400 {
                    plant(root.join(format!("a{}/b{}/{side}-{n}", n % 7, n % 3)), format!("{side} {n}\n"));
                }
            });
        }
    });
    let tree = pair.settle();
    let files = tree.0.values().filter(|node| node.kind == 'f').count();
    assert_eq!(files, 800, "{:?}", tree.paths());
    assert_eq!(tree.0.len(), 800 + 7 + 21, "{:?}", tree.paths());
    pair.stop();
}

#[test]
fn one_file_written_in_turns_makes_no_conflict() {
    let mut pair = Pair::start(&[]);
    let [left, right] = [pair.left.join("file"), pair.right.join("file")];
    for round in 0..20 {
        let (here, there) = if round % 2 == 0 { (&left, &right) } else { (&right, &left) };
        let text = format!("round {round}\n");
        if round % 4 < 2 {
            write(here, &text);
        } else {
            save(here, &text);
        }
        let arrived = poll(Duration::from_secs(30), || std::fs::read(there).is_ok_and(|t| t == text.as_bytes()));
        assert!(arrived, "round {round} did not arrive{}", pair.story());
    }
    let tree = pair.settle();
    assert_eq!(tree.paths(), ["file"]);
    // A save may be carried over as it happens: the new file, then the rename.
    assert!(pair.actions_logged() <= 40, "{:#?}", pair.action_lines());
    pair.stop();
}

#[test]
fn holes_stay_holes() {
    let mut pair = Pair::start(&[]);
    let file = pair.left.join("sparse");
    write(&file, "head");
    truncate(&file, 200 << 20);
    write_at(&file, 100 << 20, "middle");
    pair.wait_equal();
    let there = std::fs::metadata(pair.right.join("sparse")).unwrap();
    assert!(there.blocks() * 512 < 1 << 20, "{} bytes on disk for two blocks of data", there.blocks() * 512);
    pair.stop();
}

#[test]
fn a_write_through_one_hard_link_shows_under_the_other_names() {
    let mut pair = Pair::start(&[]);
    plant(pair.left.join("one/file"), "once\n");
    mkdir(pair.left.join("two"));
    hard_link(pair.left.join("one/file"), pair.left.join("two/same"));
    pair.settle();
    append(pair.left.join("one/file"), "twice\n");
    let tree = pair.settle();
    assert_eq!(read(pair.right.join("two/same")), "once\ntwice\n", "{:?}", tree.paths());
    pair.stop();
}

#[test]
fn acls_travel_from_left_to_right_only() {
    if !tools::has("setfacl") || !process::is_root() {
        return;
    }
    let mut pair = Pair::start(&[]);
    write(pair.left.join("file"), "with a list\n");
    tools::run(&pair.left, "setfacl", &["-m", "u:4711:r", "file"]);
    let tree = pair.wait_equal();
    assert!(tree.get("file").unwrap().xattrs.contains_key(&b"system.posix_acl_access"[..]));

    tools::run(&pair.right, "setfacl", &["-m", "u:4712:rw", "file"]);
    append(pair.right.join("file"), "and more\n");
    let arrived = poll(Duration::from_secs(30), || read(pair.left.join("file")).contains("more"));
    assert!(arrived, "the edit did not arrive{}", pair.story());
    let list = tools::run(&pair.left, "getfacl", &["-n", "file"]);
    assert!(list.contains("user:4711:r--") && !list.contains("4712"), "{list}");
    pair.stop();
}

#[test]
fn what_cannot_be_carried_keeps_nothing_else_back() {
    let mut pair = Pair::start(&[]);
    tools::run(&pair.left, "mkfifo", &["pipe"]);
    plant(pair.left.join("dir/file"), "beside\n");
    tools::run(&pair.left, "mkfifo", &["dir/pipe"]);
    write(pair.left.join("after"), "after\n");
    let tree = pair.settle();
    assert_eq!(tree.paths(), ["after", "dir", "dir/file"]);
    assert!(!pair.right.join("pipe").exists(), "a pipe was carried over");
    // It does not hold its directory either.
    remove(pair.right.join("dir/file"));
    std::fs::remove_dir(pair.right.join("dir")).unwrap();
    assert_eq!(pair.settle().paths(), ["after"]);
    pair.stop();
}
