//! Extended attributes travel both ways, each by its name; ACLs from left to right only, unless that is switched off.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::support::users::*;
use crate::support::{PATIENCE, Pair, poll, process, tools};

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";
const NTACL: &str = "security.NTACL";
const CAPABILITY: &str = "security.capability";
/// `cap_net_bind_service=ep`.
const BIND: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn possible() -> bool {
    tools::has("setfacl") && process::is_root()
}

fn get(path: impl AsRef<Path>, name: &str) -> Option<Vec<u8>> {
    let mut value = [0; 65536];
    let length = rustix::fs::lgetxattr(path.as_ref(), name, &mut value).ok()?;
    Some(value[..length].to_vec())
}

fn configured(lines: &str) -> Pair {
    let pair = Pair::new();
    let file = pair.beside("pair.toml");
    let [left, right] = pair.sides().map(|root| root.to_str().unwrap().to_owned());
    fs::write(&file, format!("{lines}\n[left]\nroot = {left:?}\n[right]\nroot = {right:?}\n")).unwrap();
    pair.with(&["--config", file.to_str().unwrap()])
}

/// An extended attribute, and how a user gives it to an object and takes it away.
struct Kind {
    name: &'static str,
    /// It says who may do what.
    acl: bool,
    dirs: bool,
    files: bool,
    give: fn(&Path, &str),
    take: fn(&Path, &str),
}

const KINDS: [Kind; 5] = [
    Kind {
        name: "user.psync.test",
        acl: false,
        dirs: true,
        files: true,
        give: |d, name| set_xattr(d.join(name), "user.psync.test", b"value"),
        take: |d, name| remove_xattr(d.join(name), "user.psync.test"),
    },
    Kind {
        name: CAPABILITY,
        acl: false,
        dirs: false,
        files: true,
        give: |d, name| set_xattr(d.join(name), CAPABILITY, &BIND),
        take: |d, name| remove_xattr(d.join(name), CAPABILITY),
    },
    Kind {
        name: ACCESS,
        acl: true,
        dirs: true,
        files: true,
        give: |d, name| drop(tools::run(d, "setfacl", &["-m", "u:4711:r", name])),
        take: |d, name| drop(tools::run(d, "setfacl", &["-b", name])),
    },
    Kind {
        name: DEFAULT,
        acl: true,
        dirs: true,
        files: false,
        give: |d, name| drop(tools::run(d, "setfacl", &["-d", "-m", "u:4711:rwx", name])),
        take: |d, name| drop(tools::run(d, "setfacl", &["-k", name])),
    },
    Kind {
        name: NTACL,
        acl: true,
        dirs: true,
        files: true,
        give: |d, name| set_xattr(d.join(name), NTACL, b"a Windows ACL"),
        take: |d, name| remove_xattr(d.join(name), NTACL),
    },
];

/// An object that gets one attribute on one side.
struct Case {
    object: String,
    kind: &'static Kind,
    /// On the left or on the right.
    side: usize,
    /// It is to come over.
    travels: bool,
}

fn cases(acl_from_left_only: bool) -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in &KINDS {
        for side in [0, 1] {
            for object in ["file", "dir"] {
                if (object == "file" && kind.files) || (object == "dir" && kind.dirs) {
                    let travels = side == 0 || !kind.acl || !acl_from_left_only;
                    let object = format!("{} of {object} {side}", kind.name);
                    cases.push(Case { object, kind, side, travels });
                }
            }
        }
    }
    cases
}

/// Gives each object its attribute and takes it away again, with psync at work or stopped.
fn every_attribute(acl_from_left_only: bool, live: bool) {
    if !possible() {
        return tools::missing("root, setfacl");
    }
    let mut pair = configured(&format!("acl_from_left_only = {acl_from_left_only}\nsamba_acls = true"));
    let cases = cases(acl_from_left_only);
    for case in &cases {
        match case.object.contains(" of file") {
            true => plant(pair.left.join(&case.object), &case.object),
            false => mkdir(pair.left.join(&case.object)),
        }
    }
    pair.sync();
    if live {
        pair.run();
    }
    for (step, given) in [("given", true), ("taken", false)] {
        for case in &cases {
            if !given && get(pair.sides()[case.side].join(&case.object), case.kind.name).is_none() {
                assert!(!case.travels, "{} is gone", case.object);
                // The left's, which has none, are back.
                continue;
            }
            let change = if given { case.kind.give } else { case.kind.take };
            change(pair.sides()[case.side], &case.object);
        }
        if !live {
            assert_eq!(pair.sync_once().code(), 0, "{}", pair.story());
        }
        let wrong = |pair: &Pair| -> Vec<String> {
            let there = |case: &Case, side: usize| get(pair.sides()[side].join(&case.object), case.kind.name);
            let fine = |case: &&Case| match case.travels {
                true => there(case, 0) == there(case, 1) && there(case, case.side).is_some() == given,
                false => there(case, 0).is_none(),
            };
            cases.iter().filter(|case| !fine(case)).map(|case| case.object.clone()).collect()
        };
        let arrived = poll(PATIENCE, || wrong(&pair).is_empty() || !live);
        assert!(arrived && wrong(&pair).is_empty(), "{step}: {:#?}{}", wrong(&pair), pair.story());
        if live {
            // What must not come has had time to come.
            pair.settle_alone();
            assert_eq!(wrong(&pair), [""; 0], "{step}{}", pair.story());
        }
    }
    if live {
        pair.stop();
    }
    // Nothing of that is left to do.
    let before = pair.actions_logged();
    assert_eq!(pair.sync_once().code(), 0);
    assert_eq!(pair.actions_logged(), before, "{:#?}", pair.action_lines());
}

#[test]
fn acls_from_the_left_only_and_all_else_both_ways_live() {
    every_attribute(true, true);
}

#[test]
fn acls_from_the_left_only_and_all_else_both_ways_while_stopped() {
    every_attribute(true, false);
}

#[test]
fn all_attributes_both_ways_live() {
    every_attribute(false, true);
}

#[test]
fn all_attributes_both_ways_while_stopped() {
    every_attribute(false, false);
}

#[test]
fn each_attribute_is_merged_by_its_name() {
    for acl_from_left_only in [true, false] {
        let pair = configured(&format!("acl_from_left_only = {acl_from_left_only}"));
        for name in ["file", "dir/inner"] {
            plant(pair.left.join(name), "contents\n");
        }
        let objects = ["file", "dir"];
        for object in objects {
            for (name, value) in [("user.old", "old"), ("user.gone", "gone"), ("user.both", "0")] {
                set_xattr(pair.left.join(object), name, value.as_bytes());
            }
        }
        pair.sync();
        let change = |side: &Path, mine: &str| {
            for object in objects {
                set_xattr(side.join(object), &format!("user.{mine}"), mine.as_bytes());
                set_xattr(side.join(object), "user.both", mine.as_bytes());
            }
        };
        change(&pair.left, "left");
        change(&pair.right, "right");
        // Removed on one side, on either; and beside the contents of the other.
        objects.iter().for_each(|object| remove_xattr(pair.right.join(object), "user.gone"));
        objects.iter().for_each(|object| remove_xattr(pair.left.join(object), "user.old"));
        write(pair.left.join("file"), "other contents\n");
        let tree = pair.sync();
        for object in objects {
            let xattrs = &tree.get(object).unwrap().xattrs;
            let found: Vec<(String, String)> = xattrs
                .iter()
                .map(|(name, value)| [name, value].map(|bytes| String::from_utf8(bytes.clone()).unwrap()).into())
                .collect();
            let wanted = [("user.both", "left"), ("user.left", "left"), ("user.right", "right")];
            assert_eq!(found, wanted.map(|(name, value)| (name.into(), value.into())), "{object}{}", pair.story());
        }
        assert_eq!(read(pair.right.join("file")), "other contents\n");
        // And once more, with the contents of the right.
        set_xattr(pair.left.join("file"), "user.left", b"again");
        write(pair.right.join("file"), "contents of the right\n");
        let tree = pair.sync();
        assert_eq!(tree.get("file").unwrap().xattrs[&b"user.left"[..]], b"again");
        assert_eq!(read(pair.left.join("file")), "contents of the right\n");
    }
}

#[test]
fn what_lay_there_before_keeps_the_attributes_of_both_sides() {
    let pair = Pair::new();
    for (side, mine) in pair.sides().into_iter().zip(["left", "right"]) {
        for name in ["file", "newer-right", "dir/inner"] {
            plant(side.join(name), "contents\n");
            touch(side.join(name), if name == "newer-right" && mine == "right" { 2_000_000 } else { 1_000_000 }, 0);
        }
        for name in ["file", "newer-right", "dir"] {
            set_xattr(side.join(name), &format!("user.{mine}"), b"1");
            set_xattr(side.join(name), "user.both", mine.as_bytes());
        }
    }
    let tree = pair.sync();
    for (name, winner) in [("file", "left"), ("newer-right", "right"), ("dir", "left")] {
        let xattrs = &tree.get(name).unwrap().xattrs;
        assert_eq!(xattrs.len(), 3, "{name}: {xattrs:?}");
        assert_eq!(xattrs[&b"user.both"[..]], winner.as_bytes(), "{name}");
    }
}

#[test]
fn both_sides_give_attributes_to_the_same_objects_at_the_same_time() {
    let mut pair = Pair::new();
    for name in ["file", "dir/inner", "busy"] {
        plant(pair.left.join(name), "contents\n");
    }
    pair.run();
    pair.settle();
    // ext4 has one block for all of them.
    let objects = ["file", "dir", "busy"];
    const EACH: usize = 40;
    std::thread::scope(|scope| {
        for (side, mine) in pair.sides().into_iter().zip(["l", "r"]) {
            scope.spawn(move || {
                for n in 0..EACH {
                    objects.iter().for_each(|name| set_xattr(side.join(name), &format!("user.{mine}{n}"), b"1"));
                    if mine == "l" {
                        append(side.join("busy"), "more\n");
                    }
                    std::thread::sleep(Duration::from_millis(7 * (n as u64 % 9)));
                }
            });
        }
    });
    let all = |root: &Path, name: &str| {
        let there = |mine| (0..EACH).filter(|n| get(root.join(name), &format!("user.{mine}{n}")).is_some()).count();
        (there("l"), there("r"))
    };
    for name in objects {
        let arrived = poll(PATIENCE, || pair.sides().into_iter().all(|root| all(root, name) == (EACH, EACH)));
        let found = pair.sides().map(|root| all(root, name));
        assert!(arrived, "{name}: {found:?} of {EACH} of each side{}", pair.story());
    }
    pair.settle();
    pair.stop();
}

#[test]
fn acls_of_both_sides_are_merged_and_the_left_wins() {
    if !possible() {
        return tools::missing("root, setfacl");
    }
    let mut pair = configured("acl_from_left_only = false\nsamba_acls = true");
    for name in ["both", "mode", "contents", "dir/inner", "apart/inner"] {
        plant(pair.left.join(name), "contents\n");
        chmod(pair.left.join(name), 0o640);
    }
    pair.sync();
    let [left, right] = pair.sides().map(Path::to_path_buf);
    tools::run(&left, "setfacl", &["-m", "u:4711:r", "both"]);
    tools::run(&right, "setfacl", &["-m", "u:4712:rw", "both"]);
    // The mode of the one and the ACL of the other.
    chmod(left.join("mode"), 0o600);
    tools::run(&right, "setfacl", &["-m", "u:4712:r", "mode"]);
    write(left.join("contents"), "of the left\n");
    tools::run(&right, "setfacl", &["-m", "u:4712:r", "contents"]);
    // Each is one attribute.
    tools::run(&left, "setfacl", &["-d", "-m", "u:4711:rwx", "dir"]);
    tools::run(&right, "setfacl", &["-m", "u:4712:r", "dir"]);
    set_xattr(right.join("dir"), NTACL, b"of the right");
    tools::run(&left, "setfacl", &["-d", "-m", "u:4711:rwx", "apart"]);
    tools::run(&right, "setfacl", &["-d", "-m", "u:4712:rwx", "apart"]);
    pair.run();
    pair.settle();
    let list = |name: &str| tools::run(&right, "getfacl", &["-cpn", name]);
    let both = list("both");
    assert!(both.contains("user:4711:r--") && !both.contains("4712"), "{both}{}", pair.story());
    // Nobody but the owner was to read it, so the ACL gives nothing beyond that.
    let mode = list("mode");
    assert!(mode.contains("user:4712:r--") && mode.contains("mask::---"), "{mode}{}", pair.story());
    let contents = list("contents");
    assert!(contents.contains("user:4712:r--") && read(right.join("contents")) == "of the left\n", "{contents}");
    let dir = list("dir");
    assert!(dir.contains("default:user:4711:rwx") && dir.contains("\nuser:4712:r--"), "{dir}{}", pair.story());
    assert_eq!(get(left.join("dir"), NTACL).unwrap(), b"of the right");
    let apart = list("apart");
    assert!(apart.contains("default:user:4711:rwx") && !apart.contains("4712"), "{apart}{}", pair.story());
    // What is made in a directory with a default ACL has it on the other side as well, whoever made it.
    for (side, name) in [(&left, "dir/new left"), (&right, "dir/new right")] {
        write(side.join(name), "new\n");
    }
    pair.settle();
    for name in ["dir/new left", "dir/new right"] {
        assert!(list(name).contains("user:4711:rwx"), "{}{}", list(name), pair.story());
    }
    pair.stop();
    let before = pair.actions_logged();
    pair.sync();
    assert_eq!(pair.actions_logged(), before, "{:#?}", pair.action_lines());
}

#[test]
fn an_acl_that_a_user_sets_on_a_directory_outlives_what_comes_from_the_other_side() {
    if !possible() {
        return tools::missing("root, setfacl");
    }
    let mut pair = Pair::new();
    (0..8).for_each(|n| plant(pair.left.join(format!("dir{n}/inner")), "contents\n"));
    pair.run();
    pair.settle();
    for round in 0..8 {
        let dir = format!("dir{round}");
        // Reported at once; what follows waits until the quiet period is over, and then another side's change is there.
        set_xattr(pair.left.join(&dir), "user.first", b"1");
        assert!(poll(PATIENCE, || get(pair.right.join(&dir), "user.first").is_some()), "{}", pair.story());
        tools::run(&pair.left, "setfacl", &["-m", "u:4711:rwx", &dir]);
        set_xattr(pair.left.join(&dir), "user.second", b"2");
        set_xattr(pair.right.join(&dir), "user.right", b"3");
        assert!(poll(PATIENCE, || get(pair.left.join(&dir), "user.right").is_some()), "{}", pair.story());
        let all =
            |root: &Path| [ACCESS, "user.first", "user.second", "user.right"].map(|name| get(root.join(&dir), name));
        let arrived = poll(PATIENCE, || pair.sides().into_iter().all(|root| all(root).iter().all(Option::is_some)));
        assert!(arrived, "{dir}: {:?}{}", pair.sides().map(all), pair.story());
    }
    pair.settle();
    pair.stop();
}

#[test]
fn fifos_travel_if_somebody_wants_them() {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let mut pair = configured("special = \"fifos\"");
    let is_fifo = |path: &Path| fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_fifo());
    let [left, right] = pair.sides().map(Path::to_path_buf);
    tools::run(&left, "mkfifo", &["-m", "640", "before"]);
    plant(left.join("dir/file"), "a file\n");
    write(left.join("becomes a file"), "still a file\n");
    pair.run();
    assert!(poll(PATIENCE, || is_fifo(&right.join("before"))), "{}", pair.story());
    tools::run(&right, "mkfifo", &["-m", "600", "dir/live"]);
    assert!(poll(PATIENCE, || is_fifo(&left.join("dir/live"))), "{}", pair.story());
    let mode = |path: &Path| fs::symlink_metadata(path).map(|meta| meta.mode() & 0o7777).unwrap_or(0);
    chmod(right.join("before"), 0o666);
    assert!(poll(PATIENCE, || mode(&left.join("before")) == 0o666), "{}", pair.story());
    // What goes through it concerns nobody.
    let before = pair.settle_alone();
    let pipe = left.join("before");
    let there = std::thread::spawn({
        let pipe = pipe.clone();
        move || std::process::Command::new("cat").arg(pipe).output()
    });
    write(&pipe, "through the pipe\n");
    assert_eq!(there.join().unwrap().unwrap().stdout, b"through the pipe\n");
    assert_eq!(pair.settle_alone(), before, "{}", pair.story());
    // Renamed, removed, in the place of a file and back.
    rename(left.join("before"), left.join("dir/renamed"));
    assert!(poll(PATIENCE, || is_fifo(&right.join("dir/renamed")) && !right.join("before").exists()));
    remove(right.join("dir/renamed"));
    assert!(poll(PATIENCE, || !left.join("dir/renamed").exists()), "{}", pair.story());
    remove(left.join("becomes a file"));
    tools::run(&left, "mkfifo", &["becomes a file"]);
    assert!(poll(PATIENCE, || is_fifo(&right.join("becomes a file"))), "{}", pair.story());
    let trash = fs::read_dir(Pair::own(&right).join("trash")).unwrap().flatten().map(|entry| entry.path());
    assert!(
        trash.filter(|path| path.is_file()).any(|path| read(path) == "still a file\n"),
        "the file is not in the trash"
    );
    remove(right.join("becomes a file"));
    write(right.join("becomes a file"), "a file again\n");
    let again = || fs::read(left.join("becomes a file")).is_ok_and(|text| text == b"a file again\n");
    assert!(poll(PATIENCE, || !is_fifo(&left.join("becomes a file")) && again()), "{}", pair.story());
    // Sockets stay.
    let _socket = std::os::unix::net::UnixListener::bind(left.join("socket")).unwrap();
    write(left.join("after"), "after\n");
    assert!(poll(PATIENCE, || right.join("after").exists()), "{}", pair.story());
    pair.settle_alone();
    assert!(!right.join("socket").exists());
    pair.stop();
    let before = pair.actions_logged();
    assert_eq!(pair.sync_once().code(), 0);
    assert_eq!(pair.actions_logged(), before, "{:#?}", pair.action_lines());
}

#[test]
fn a_special_file_in_the_place_of_a_file_takes_nothing_away() {
    let mut pair = Pair::new();
    plant(pair.left.join("dir/file"), "a file\n");
    write(pair.left.join("waits"), "waits\n");
    pair.run();
    pair.settle();
    let [left, right] = pair.sides().map(Path::to_path_buf);
    // Alone it is no problem of anybody's.
    tools::run(&left, "mkfifo", &["dir/alone"]);
    remove(left.join("dir/file"));
    tools::run(&left, "mkfifo", &["dir/file"]);
    assert!(poll(PATIENCE, || pair.story().contains("not a file, directory or link")), "{}", pair.story());
    assert!(!pair.story().contains("dir/alone"), "{}", pair.story());
    // What comes to the name of one is told, and waits.
    tools::run(&left, "mkfifo", &["taken"]);
    write(right.join("taken"), "of the right\n");
    assert!(poll(PATIENCE, || pair.story().contains("taken: not synchronised")), "{}", pair.story());
    pair.settle_alone();
    assert_eq!(read(right.join("dir/file")), "a file\n");
    assert_eq!(read(right.join("taken")), "of the right\n");
    // Once it is gone all goes on.
    remove(left.join("taken"));
    assert!(
        poll(PATIENCE, || fs::read(left.join("taken")).is_ok_and(|text| text == b"of the right\n")),
        "{}",
        pair.story()
    );
    remove(left.join("dir/file"));
    write(left.join("dir/file"), "written anew\n");
    assert!(poll(PATIENCE, || read(right.join("dir/file")) == "written anew\n"), "{}", pair.story());
    remove(left.join("dir/alone"));
    pair.settle();
    pair.stop();
}
