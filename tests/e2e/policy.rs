//! What a side takes from the other one: rights to run as somebody else, and owners.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::support::users::*;
use crate::support::{PATIENCE, Pair, poll, process, tools};

/// A pair whose left takes what `accept` says; the right side, a child process, takes everything.
fn pair(accept: &str) -> Option<Pair> {
    if !process::is_root() || !tools::has("setcap") || !tools::has("getcap") {
        return None;
    }
    let pair = Pair::new();
    let file = pair.beside("psync.toml");
    write(&file, format!("{accept}\n"));
    let file = file.to_str().unwrap().to_owned();
    Some(pair.with(&["--config", &file]))
}

fn mode(path: impl AsRef<Path>) -> u32 {
    path.as_ref().metadata().map_or(0, |stat| stat.mode() & 0o7777)
}

fn owner(path: impl AsRef<Path>) -> (u32, u32) {
    path.as_ref().metadata().map_or((1, 1), |stat| (stat.uid(), stat.gid()))
}

/// Makes on one side all that gives rights; its directory is `mark`ed when all is there.
fn give(root: &Path) {
    for name in ["suid", "sgid", "caps"] {
        write(root.join(name), name);
        chmod(root.join(name), 0o755);
    }
    chmod(root.join("suid"), 0o4755);
    chmod(root.join("sgid"), 0o2755);
    tools::run(root, "setcap", &["cap_net_raw+ep", "caps"]);
    mkdir(root.join("dir"));
    chmod(root.join("dir"), 0o2775);
    mkdir(root.join("mark"));
}

/// Off, nothing of it is set on either side; told by kind and number; nothing comes back; and the side that gave keeps it.
#[test]
fn rights_that_are_not_accepted_are_left_out_and_told() {
    for left_gives in [true, false] {
        let Some(mut pair) = pair("accept_setuid = false\naccept_capabilities = false") else { return };
        pair.spawn();
        pair.wait_in_sync();
        let (from, to) = match left_gives {
            true => (pair.left.clone(), pair.right.clone()),
            false => (pair.right.clone(), pair.left.clone()),
        };
        give(&from);
        let came = poll(PATIENCE, || ["suid", "sgid", "caps", "mark"].iter().all(|name| to.join(name).exists()));
        assert!(came, "{}", pair.story());
        assert!(poll(PATIENCE, || mode(to.join("dir")) == 0o2775), "a directory is not meant{}", pair.story());
        pair.settle_alone();
        assert_eq!([mode(to.join("suid")), mode(to.join("sgid"))], [0o755, 0o755], "{}", pair.story());
        assert_eq!(tools::run(&to, "getcap", &["caps"]), "", "{}", pair.story());
        // It did not bounce.
        assert_eq!([mode(from.join("suid")), mode(from.join("sgid"))], [0o4755, 0o2755], "{}", pair.story());
        // Capabilities travel from left to right only.
        assert!(tools::run(&from, "getcap", &["caps"]).contains("cap_net_raw"), "{}", pair.story());
        // A bit that is set later on what is there already.
        write(from.join("later"), "later");
        assert!(poll(PATIENCE, || to.join("later").exists()), "{}", pair.story());
        chmod(from.join("later"), 0o4711);
        assert!(poll(PATIENCE, || mode(to.join("later")) == 0o711), "{:o}{}", mode(to.join("later")), pair.story());
        assert_eq!(mode(from.join("later")), 0o4711);
        let told = pair.wait_said(PATIENCE, |line| line.contains("accept_setuid"));
        assert!(told, "{}", pair.story());
        pair.stop();
    }
}

/// On, as between two local directories by themselves.
#[test]
fn rights_travel_between_two_local_directories() {
    for left_gives in [true, false] {
        let Some(mut pair) = pair("") else { return };
        pair.spawn();
        pair.wait_in_sync();
        let (from, to) = match left_gives {
            true => (pair.left.clone(), pair.right.clone()),
            false => (pair.right.clone(), pair.left.clone()),
        };
        give(&from);
        let came = poll(PATIENCE, || mode(to.join("suid")) == 0o4755 && mode(to.join("sgid")) == 0o2755);
        assert!(came, "{:o}{}", mode(to.join("suid")), pair.story());
        if left_gives {
            let came = poll(PATIENCE, || tools::run(&to, "getcap", &["caps"]).contains("cap_net_raw"));
            assert!(came, "{}", pair.story());
        }
        pair.stop();
    }
}

/// An owner that is not accepted is neither psync's own user, which is root, nor whom the other side says.
#[test]
fn owners_that_are_not_accepted_are_somebody_here() {
    let Some(mut pair) = pair("accept_owners = [\"4000-4999\"]") else { return };
    mkdir(pair.left.join("home"));
    chown(pair.left.join("home"), 4100, 4100);
    pair.spawn();
    pair.wait_in_sync();
    for (name, user) in [("home/hers", 4200), ("home/roots", 0), ("home/daemons", 2), ("roots", 0)] {
        write(pair.left.join(name), name);
        chown(pair.left.join(name), user, user);
    }
    mkdir(pair.left.join("mark"));
    let names = ["home/hers", "home/roots", "home/daemons", "roots", "mark"];
    assert!(poll(PATIENCE, || names.iter().all(|name| pair.right.join(name).exists())), "{}", pair.story());
    pair.settle_alone();
    assert_eq!(owner(pair.right.join("home/hers")), (4200, 4200), "{}", pair.story());
    assert_eq!(owner(pair.right.join("home/roots")), (4100, 4100), "whose the directory is{}", pair.story());
    assert_eq!(owner(pair.right.join("home/daemons")), (4100, 4100), "{}", pair.story());
    assert_eq!(
        owner(pair.right.join("roots")),
        (65_534, 65_534),
        "the root's own owner is none either{}",
        pair.story()
    );
    // Nothing bounced, and what is there keeps its owner whatever the other side says.
    assert_eq!(owner(pair.left.join("home/roots")), (0, 0), "{}", pair.story());
    chown(pair.left.join("home/hers"), 0, 0);
    write(pair.left.join("last"), "last");
    assert!(poll(PATIENCE, || pair.right.join("last").exists()), "{}", pair.story());
    pair.settle_alone();
    assert_eq!(owner(pair.right.join("home/hers")), (4200, 4200), "{}", pair.story());
    pair.stop();
}
