//! `owner`, with users of other numbers on the two sides: the agent sees another /etc/passwd.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use psync::config::{Owner, SharedSettings};

use crate::support::users::*;
use crate::support::{PATIENCE, PSYNC, Pair, poll, process, tools};

/// Numbers of `one` and `two` on the left, and of `one` on the right. `two` is unknown there, and so is its number;
/// `three`'s number is somebody else's there.
const PASSWD: [&str; 2] = [
    "root:x:0:0::/:/bin/sh\none:x:4101:4101::/:/bin/sh\ntwo:x:4102:4102::/:/bin/sh\nthree:x:4103:4103::/:/bin/sh\n",
    "root:x:0:0::/:/bin/sh\none:x:4201:4201::/:/bin/sh\nelse:x:4103:4103::/:/bin/sh\n",
];
const GROUP: [&str; 2] =
    ["root:x:0:\none:x:4101:\ntwo:x:4102:\nthree:x:4103:\n", "root:x:0:\none:x:4201:\nelse:x:4103:\n"];

/// A pair whose sides have users of their own; `None` where that cannot be had.
fn pair(owner: &str) -> Option<Pair> {
    let mounts =
        || std::process::Command::new("unshare").args(["-m", "true"]).output().is_ok_and(|o| o.status.success());
    if !process::is_root() || !tools::has("unshare") || !tools::has("setfacl") {
        return None;
    }
    if !mounts() {
        tools::missing("unshare -m");
        return None;
    }
    let pair = Pair::new();
    let mode = match owner {
        "numeric" => Owner::Numeric,
        "ignore" => Owner::Ignore,
        _ => Owner::Names,
    };
    let mut settings = SharedSettings::default();
    settings.attributes.owner = mode;
    let settings = serde_json::to_string(&settings).unwrap();
    let right = pair.right.to_str().unwrap();
    let agent = format!("{PSYNC} --agent-mode --stdio --root {right} --pair e2e --settings '{settings}'");
    write(pair.beside("agent"), format!("#!/bin/sh\n{}exec {agent}\n", users(&pair, 1)));
    write(pair.beside("brain"), format!("#!/bin/sh\n{}exec {PSYNC} \"$@\"\n", users(&pair, 0)));
    for script in ["agent", "brain"] {
        chmod(pair.beside(script), 0o755);
    }
    let file = pair.beside("psync.toml");
    write(&file, format!("owner = \"{owner}\"\n"));
    let proxy = format!("unshare -m {}", pair.beside("agent").display());
    let brain = pair.beside("brain");
    Some(pair.with(&["--config", file.to_str().unwrap(), "--proxy-command", &proxy]).through(&[
        "unshare",
        "-m",
        brain.to_str().unwrap(),
    ]))
}

/// Lines of a script that put a side's users in place of the machine's.
fn users(pair: &Pair, side: usize) -> String {
    let mut lines = String::from("set -e\n");
    for (name, text) in [("passwd", PASSWD[side]), ("group", GROUP[side])] {
        let file = pair.beside(&format!("{name}-{side}"));
        write(&file, text);
        lines.push_str(&format!("mount --bind {} /etc/{name}\n", file.display()));
    }
    lines
}

fn owner(path: impl AsRef<Path>) -> (u32, u32) {
    path.as_ref().symlink_metadata().map(|m| (m.uid(), m.gid())).unwrap_or((u32::MAX, u32::MAX))
}

fn waits(pair: &Pair, path: impl AsRef<Path>, want: (u32, u32)) {
    let path = path.as_ref();
    let came = poll(PATIENCE, || owner(path) == want);
    assert!(came, "{path:?} belongs to {:?}, not to {want:?}{}", owner(path), pair.story());
}

/// What `getfacl` says of the users in a list, by number.
fn listed(root: &Path, name: &str) -> Vec<String> {
    let text = tools::run(root, "getfacl", &["-n", name]);
    text.lines().filter(|l| l.starts_with("user:") && !l.starts_with("user::")).map(String::from).collect()
}

#[test]
fn owners_travel_by_name() {
    let Some(mut pair) = pair("names") else { return };
    pair.run();
    for (name, id) in [("one", 4101), ("two", 4102), ("three", 4103)] {
        write(pair.left.join(name), name);
        chown(pair.left.join(name), id, id);
        tools::run(&pair.left, "setfacl", &["-m", &format!("u:{id}:rw"), name]);
    }
    waits(&pair, pair.right.join("one"), (4201, 4201));
    // A name that is unknown there has the number of this side, where that is nobody's.
    waits(&pair, pair.right.join("two"), (4102, 4102));
    let acl = |name: &str, want: &[&str]| {
        let came = poll(PATIENCE, || listed(&pair.right, name) == want);
        assert!(came, "{name}: {:?}{}", listed(&pair.right, name), pair.story());
    };
    acl("one", &["user:4201:rw-"]);
    acl("two", &["user:4102:rw-"]);
    // It must not be given to whoever has the number there.
    write(pair.left.join("mark"), "later\n");
    assert!(poll(PATIENCE, || pair.right.join("mark").exists() && pair.right.join("three").exists()));
    assert_eq!(owner(pair.right.join("three")), (0, 0), "{}", pair.story());
    assert_eq!(listed(&pair.right, "three"), [""; 0]);

    // The other way round, and an edit of what has no name there changes no owner here.
    write(pair.right.join("back"), "back\n");
    chown(pair.right.join("back"), 4201, 4201);
    append(pair.right.join("two"), " and more");
    append(pair.right.join("three"), " and more");
    waits(&pair, pair.left.join("back"), (4101, 4101));
    let edited = |name: &str| read(pair.left.join(name)).ends_with("more");
    assert!(poll(PATIENCE, || edited("two") && edited("three")), "{}", pair.story());
    assert_eq!(owner(pair.left.join("two")), (4102, 4102));
    assert_eq!(owner(pair.left.join("three")), (4103, 4103));
    pair.stop();
    let before = pair.actions_logged();
    assert_eq!(pair.sync_once().code(), 0, "{}", pair.story());
    assert_eq!(pair.actions_logged(), before, "owners made work{}", pair.story());
}

#[test]
fn owners_travel_by_number() {
    let Some(mut pair) = pair("numeric") else { return };
    pair.run();
    write(pair.left.join("one"), "one\n");
    chown(pair.left.join("one"), 4101, 4101);
    tools::run(&pair.left, "setfacl", &["-m", "u:4101:rw", "one"]);
    waits(&pair, pair.right.join("one"), (4101, 4101));
    let came = poll(PATIENCE, || listed(&pair.right, "one") == ["user:4101:rw-"]);
    assert!(came, "{:?}{}", listed(&pair.right, "one"), pair.story());
    chown(pair.right.join("one"), 4201, 4201);
    waits(&pair, pair.left.join("one"), (4201, 4201));
    pair.stop();
}

#[test]
fn owners_are_left_alone() {
    let Some(mut pair) = pair("ignore") else { return };
    mkdir(pair.left.join("dir"));
    mkdir(pair.right.join("dir"));
    chown(pair.right.join("dir"), 4300, 4301);
    write(pair.left.join("old"), "old\n");
    write(pair.right.join("old"), "old\n");
    touch(pair.left.join("old"), 1_000_000, 0);
    touch(pair.right.join("old"), 1_000_000, 0);
    chown(pair.right.join("old"), 4302, 4303);
    pair.run();
    // What is replaced keeps its owner; what is new belongs to whom its directory belongs.
    write(pair.left.join("old"), "replaced, and longer\n");
    plant(pair.left.join("dir/deep/new"), "new\n");
    chown(pair.left.join("dir/deep/new"), 4101, 4101);
    let came = poll(PATIENCE, || {
        pair.right.join("dir/deep/new").exists() && read(pair.right.join("old")).starts_with("replaced")
    });
    assert!(came, "{}", pair.story());
    assert_eq!(owner(pair.right.join("old")), (4302, 4303), "{}", pair.story());
    assert_eq!(owner(pair.right.join("dir/deep")), (4300, 4301), "{}", pair.story());
    assert_eq!(owner(pair.right.join("dir/deep/new")), (4300, 4301), "{}", pair.story());
    // No program runs with the rights of whoever it belongs to here.
    chmod(pair.left.join("old"), 0o4755);
    let came = poll(PATIENCE, || pair.right.join("old").metadata().unwrap().mode() & 0o7777 == 0o755);
    assert!(came, "{:o}{}", pair.right.join("old").metadata().unwrap().mode(), pair.story());
    // A change of owner is no change.
    let before = pair.settle_alone();
    chown(pair.left.join("dir/deep/new"), 4102, 4102);
    mkdir(pair.left.join("mark"));
    assert!(poll(PATIENCE, || pair.right.join("mark").exists()), "{}", pair.story());
    assert_eq!(owner(pair.right.join("dir/deep/new")), (4300, 4301));
    assert_eq!(pair.settle_alone(), before + 1, "{}", pair.story());
    pair.stop();
}

impl Pair {
    /// Waits until no action was logged for a while; how many there were.
    pub fn settle_alone(&self) -> usize {
        let mut last = self.actions_logged();
        loop {
            std::thread::sleep(Duration::from_millis(1200));
            match self.actions_logged() {
                now if now == last => return now,
                now => last = now,
            }
        }
    }
}
