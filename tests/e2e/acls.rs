//! ACLs: the left's count on both sides, and what comes from the right gets what its directory on the left gives.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::support::users::*;
use crate::support::{PATIENCE, Pair, poll, process, tools};

fn possible() -> bool {
    tools::has("setfacl") && process::is_root()
}

fn list(root: &Path, name: &str) -> String {
    tools::run(root, "getfacl", &["-cpn", name])
}

/// Makes objects as a user does, in a directory that may have a default ACL.
fn populate(dir: &Path) {
    fs::create_dir_all(dir.join("sub/inner")).unwrap();
    for (name, mode) in [("sub/inner/file", 0o644), ("sub/private", 0o600), ("plain", 0o664), ("program", 0o755)] {
        plant(dir.join(name), "contents\n");
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::set_permissions(dir.join("sub"), fs::Permissions::from_mode(0o750)).unwrap();
    std::os::unix::fs::symlink("plain", dir.join("link")).unwrap();
}

/// What `open` and `mkdir` with these modes give where a default ACL is.
fn reference(dir: &Path) {
    let script = "import os, sys
os.umask(0)
os.chdir(sys.argv[1])
os.mkdir('sub', 0o750); os.mkdir('sub/inner', 0o755)
for name, mode in (('sub/inner/file', 0o644), ('sub/private', 0o600), ('plain', 0o664), ('program', 0o755)):
    os.close(os.open(name, os.O_CREAT | os.O_WRONLY, mode))
";
    tools::run(dir, "python3", &["-c", script, dir.to_str().unwrap()]);
}

fn arrives_with_the_lefts_acls(default: &str) {
    if !possible() || !tools::has("python3") {
        return;
    }
    let names = ["sub", "sub/inner", "sub/inner/file", "sub/private", "plain", "program"];
    let mut pair = Pair::new();
    let by_hand = pair.beside("by-hand");
    for dir in [&by_hand, &pair.left.join("live"), &pair.left.join("before")] {
        mkdir(dir);
        tools::run(dir, "setfacl", &["-d", "-m", default, "."]);
    }
    reference(&by_hand);
    // At the first meeting the right has something that the left has not, and knows nothing of ACLs.
    mkdir(pair.right.join("before"));
    populate(&pair.right.join("before"));
    pair.run();
    pair.settle();
    // What is renamed in gets nothing from its directory.
    let made = pair.beside("made");
    populate(&made);
    for name in ["sub", "plain", "program", "link"] {
        rename(made.join(name), pair.right.join("live").join(name));
    }
    let there = pair.left.join("live/sub/inner/file");
    assert!(poll(PATIENCE, || there.exists()), "{}", pair.story());
    let tree = pair.settle();
    for dir in ["before", "live"] {
        for name in names {
            let wanted = list(&by_hand, name);
            for root in pair.sides() {
                let found = list(&root.join(dir), name);
                assert!(
                    found == wanted,
                    "{dir}/{name} in {}:\n{found}wanted:\n{wanted}{}",
                    root.display(),
                    pair.story()
                );
            }
        }
        assert!(tree.has(&format!("{dir}/link")));
    }
    // An edit on the right is no reason to give anything anew.
    tools::run(&pair.left, "setfacl", &["-b", "live/plain"]);
    pair.settle();
    append(pair.right.join("live/plain"), "more\n");
    assert!(poll(PATIENCE, || read(pair.left.join("live/plain")).ends_with("more\n")), "{}", pair.story());
    pair.settle();
    assert!(!list(&pair.left, "live/plain").contains("user:4711"), "{}", list(&pair.left, "live/plain"));
    pair.stop();
    // Nothing of that is a change.
    let before = pair.actions_logged();
    pair.sync();
    assert_eq!(pair.actions_logged(), before, "{:#?}", pair.action_lines());
}

#[test]
fn what_comes_from_the_right_gets_the_default_acl_of_the_left() {
    arrives_with_the_lefts_acls("u:4711:rwx,g:4712:r-x,o::---");
}

#[test]
fn a_default_acl_that_says_no_more_than_a_mode_gives_that_mode() {
    arrives_with_the_lefts_acls("u::rwx,g::r-x,o::---");
}

#[test]
fn a_full_sync_puts_the_lefts_acls_on_the_right() {
    if !possible() {
        return;
    }
    let mut pair = Pair::new();
    for name in ["file", "dir/with", "dir/without"] {
        plant(pair.left.join(name), "contents\n");
    }
    tools::run(&pair.left, "setfacl", &["-m", "u:4711:rw-", "dir/with"]);
    tools::run(&pair.left, "setfacl", &["-d", "-m", "u:4711:rwx", "dir"]);
    pair.run();
    pair.settle();
    let names = ["file", "dir", "dir/with", "dir/without"];
    let lists = |root: &Path| names.map(|name| list(root, name));
    let wanted = lists(&pair.left);
    // The mask stays what the group bits are, or it would be a change of the mode.
    tools::run(&pair.right, "setfacl", &["-n", "-m", "u:4712:r--,m::r--", "file", "dir/without"]);
    tools::run(&pair.right, "setfacl", &["-x", "u:4711", "-n", "dir/with"]);
    tools::run(&pair.right, "setfacl", &["-k", "dir"]);
    append(pair.right.join("dir/without"), "more\n");
    assert!(poll(PATIENCE, || read(pair.left.join("dir/without")).ends_with("more\n")), "{}", pair.story());
    assert!(lists(&pair.left) == wanted && lists(&pair.right) != wanted, "{:#?}", lists(&pair.right));
    pair.stop();
    let before = pair.actions_logged();
    pair.sync();
    assert!(lists(&pair.right) == wanted, "{:#?}\nwanted {wanted:#?}{}", lists(&pair.right), pair.story());
    assert!(lists(&pair.left) == wanted);
    assert_eq!(pair.actions_logged(), before, "{:#?}", pair.action_lines());
    // It is settled: the next one finds nothing.
    let told = || fs::read_to_string(&pair.log).unwrap().matches("the left's are back").count();
    assert_eq!(told(), 1, "{}", pair.story());
    pair.sync();
    assert_eq!(told(), 1, "{}", pair.story());
}

/// Who narrows a file and moves it at once leaves its ACL as it is, on both sides.
#[test]
fn an_acl_outlives_a_move_that_closes() {
    if !possible() {
        return;
    }
    let mut pair = Pair::new();
    plant(pair.left.join("o/f"), "contents\n");
    plant(pair.left.join("o/d/file"), "contents\n");
    tools::run(&pair.left, "setfacl", &["-m", "u:12345:---,g:12346:r-x", "o/f", "o/d"]);
    chmod(pair.left.join("o"), 0o700);
    pair.run();
    pair.settle();
    let roots = pair.sides().map(Path::to_owned);
    chmod(roots[0].join("o/f"), 0o650);
    rename(roots[0].join("o/f"), roots[0].join("f"));
    chmod(roots[0].join("o/d"), 0o750);
    rename(roots[0].join("o/d"), roots[0].join("d"));
    let arrived = || roots.iter().all(|root| root.join("f").exists() && root.join("d/file").exists());
    assert!(poll(PATIENCE, arrived), "{}", pair.story());
    let lists = || roots.each_ref().map(|root| ["f", "d"].map(|name| list(root, name)));
    let told = || {
        let [one, other] = lists();
        let whole = |list: &String| list.contains("user:12345:---") && list.contains("group:12346:r-x");
        one == other && one.iter().all(whole)
    };
    assert!(poll(PATIENCE, told), "{:?}{}", lists(), pair.story());
    pair.settle();
    assert!(told(), "{:?}{}", lists(), pair.story());
    pair.stop();
}
