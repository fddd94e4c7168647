//! Rights belong to the contents that they were granted to: what one side may do with a file never joins what the other
//! side's users wrote into it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::support::users::*;
use crate::support::{PATIENCE, Pair, poll, process, tools};

/// Two ordinary users without names.
const ALICE: u32 = 5001;
const BOB: u32 = 5002;
/// Of one length: size and time do not tell them apart.
const REVIEWED: &str = "#!/bin/sh\necho reviewed\n";
const HOSTILE: &str = "#!/bin/sh\necho hostile!\n";
/// In seconds since 1970: what lay there long before psync came.
const LONG_AGO: i64 = 1_500_000_000;
const CAPABILITY: &str = "security.capability";
/// `cap_setuid=ep`.
const SETUID: [u8; 20] = [1, 0, 0, 2, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// What is done to one root, in which `tool` lies.
struct Deed {
    name: &'static str,
    how: fn(&Path),
}

/// What root grants to the reviewed program on one side.
const GRANTS: &[Deed] = &[
    Deed {
        name: "root, setuid",
        how: |d| {
            chown(d.join("tool"), 0, 0);
            chmod(d.join("tool"), 0o4755);
        },
    },
    Deed { name: "root", how: |d| chown(d.join("tool"), 0, ALICE) },
    Deed { name: "the group root", how: |d| chown(d.join("tool"), ALICE, 0) },
    Deed {
        name: "the group root, setgid",
        how: |d| {
            chown(d.join("tool"), ALICE, 0);
            chmod(d.join("tool"), 0o2755);
        },
    },
    Deed { name: "a system user", how: |d| chown(d.join("tool"), 998, ALICE) },
    Deed {
        name: "another user, setuid",
        how: |d| {
            chown(d.join("tool"), BOB, BOB);
            chmod(d.join("tool"), 0o6755);
        },
    },
    Deed { name: "setuid", how: |d| chmod(d.join("tool"), 0o4755) },
    Deed { name: "setgid", how: |d| chmod(d.join("tool"), 0o2755) },
    Deed { name: "a capability", how: |d| set_xattr(d.join("tool"), CAPABILITY, &SETUID) },
];

/// How its user on the other side puts something else in its place.
const ATTACKS: &[Deed] = &[
    Deed { name: "written", how: |d| write(d.join("tool"), HOSTILE) },
    Deed { name: "written, dated from the future", how: |d| dated(&d.join("tool"), 4_000_000_000) },
    Deed { name: "written, dated as it was", how: |d| dated(&d.join("tool"), LONG_AGO) },
    Deed {
        name: "replaced",
        how: |d| {
            hostile(&d.join("new"), LONG_AGO);
            rename(d.join("new"), d.join("tool"));
        },
    },
    Deed {
        name: "written, dated as it was, and renamed",
        how: |d| {
            dated(&d.join("tool"), LONG_AGO);
            rename(d.join("tool"), d.join("moved"));
        },
    },
    Deed {
        name: "linked and written",
        how: |d| {
            hard_link(d.join("tool"), d.join("link"));
            dated(&d.join("tool"), LONG_AGO);
        },
    },
    Deed {
        name: "replaced by a link",
        how: |d| {
            remove(d.join("tool"));
            symlink("/etc/hostname", d.join("tool"));
            chown(d.join("tool"), ALICE, ALICE);
        },
    },
];

fn dated(path: &Path, time: i64) {
    write(path, HOSTILE);
    touch(path, time, 0);
}

fn hostile(path: &Path, time: i64) {
    write(path, HOSTILE);
    chown(path, ALICE, ALICE);
    chmod(path, 0o755);
    touch(path, time, 0);
}

fn reviewed(path: &Path) {
    write(path, REVIEWED);
    chown(path, ALICE, ALICE);
    chmod(path, 0o755);
    touch(path, LONG_AGO, 0);
}

fn capability(path: &Path) -> bool {
    let mut value = [0; 64];
    rustix::fs::lgetxattr(path, CAPABILITY, &mut value).is_ok()
}

/// All files of a tree but psync's own.
fn files(root: &Path) -> Vec<PathBuf> {
    let names = fs::read_dir(root).unwrap().flatten().map(|e| e.path());
    let all = names.filter(|p| !p.ends_with(".psync")).collect::<Vec<_>>();
    let below = |p: PathBuf| match p.symlink_metadata().is_ok_and(|m| m.is_dir()) {
        true => files(&p),
        false => vec![p],
    };
    all.into_iter().flat_map(below).collect()
}

/// What alice wrote has no right that she could not give: on neither side, under no name.
fn harmless(pair: &Pair, what: &str) {
    for path in pair.sides().into_iter().flat_map(files) {
        let meta = path.symlink_metadata().unwrap();
        let hers = meta.is_symlink() || fs::read(&path).unwrap().starts_with(HOSTILE.as_bytes());
        if !hers {
            continue;
        }
        let (uid, gid, mode) = (meta.uid(), meta.gid(), meta.mode());
        let fine = uid >= 1000 && gid >= 1000 && (meta.is_symlink() || mode & 0o6000 == 0 && !capability(&path));
        let caps = capability(&path);
        assert!(fine, "{what}: {path:?} is {uid}:{gid} {mode:o}, capability {caps}{}", pair.story());
    }
}

/// Nothing is done any more. The trees need not be equal: files that look equal may never have been read, and a change
/// through one hard link is found late under the others.
fn rests(pair: &Pair) {
    let calm = || {
        let before = pair.actions_logged();
        std::thread::sleep(std::time::Duration::from_millis(1500));
        pair.actions_logged() == before
    };
    assert!(poll(PATIENCE, calm), "{}", pair.story());
}

/// On both sides both versions are kept, each somewhere.
fn kept(pair: &Pair, what: &str) {
    for root in pair.sides() {
        let all: Vec<String> = files(root).iter().filter(|p| p.is_file()).map(read).collect();
        for version in [REVIEWED, HOSTILE] {
            assert!(all.iter().any(|text| text == version), "{what}: {version:?} is lost{}", pair.story());
        }
    }
}

/// Two roots with the reviewed program, each attack and grant in a directory of its own.
fn stage(pair: &Pair, grants: &[Deed], attacks: &[Deed]) {
    for (g, a) in each(grants, attacks) {
        for root in pair.sides() {
            let at = root.join(format!("{g}.{a}"));
            mkdirs(&at);
            chown(&at, ALICE, ALICE);
            reviewed(&at.join("tool"));
        }
    }
}

fn each(grants: &[Deed], attacks: &[Deed]) -> Vec<(usize, usize)> {
    (0..grants.len()).flat_map(|g| (0..attacks.len()).map(move |a| (g, a))).collect()
}

fn act(granting: &Path, attacked: &Path, grants: &[Deed], attacks: &[Deed], order: bool) {
    for (g, a) in each(grants, attacks) {
        let name = format!("{g}.{a}");
        let grant = || (grants[g].how)(&granting.join(&name));
        let attack = || (attacks[a].how)(&attacked.join(&name));
        if order {
            grant();
            attack();
        } else {
            attack();
            grant();
        }
    }
}

/// Names the case that a path belongs to.
fn told(grants: &[Deed], attacks: &[Deed]) -> String {
    let list = |deeds: &[Deed]| deeds.iter().enumerate().map(|(n, d)| format!("{n} {}", d.name)).collect::<Vec<_>>();
    format!("grants {:?}, attacks {:?}", list(grants), list(attacks))
}

#[test]
fn rights_given_while_psync_is_stopped_never_join_the_others_contents() {
    if !process::is_root() {
        return;
    }
    let what = told(GRANTS, ATTACKS);
    for granting in [0, 1] {
        for known in ["taken for equal unread", "carried"] {
            let mut pair = Pair::new();
            stage(&pair, GRANTS, ATTACKS);
            if known == "carried" {
                // Nothing is taken for equal: all comes from the left.
                fs::remove_dir_all(&pair.right).unwrap();
                mkdir(&pair.right);
            }
            pair.run();
            pair.stop();
            let (giver, taker) = (pair.sides()[granting].to_owned(), pair.sides()[1 - granting].to_owned());
            act(&giver, &taker, GRANTS, ATTACKS, granting == 0);
            pair.run();
            rests(&pair);
            harmless(&pair, &format!("{known}, given on {giver:?}: {what}"));
            pair.stop();
        }
    }
}

#[test]
fn a_file_given_to_the_system_and_written_on_the_other_side_is_kept_in_both_versions() {
    if !process::is_root() {
        return;
    }
    let mut pair = Pair::new();
    reviewed(&pair.left.join("tool"));
    pair.run();
    pair.stop();
    (GRANTS[0].how)(&pair.left);
    write(pair.right.join("tool"), HOSTILE);
    pair.run();
    pair.settle();
    harmless(&pair, "tool");
    kept(&pair, "tool");
    // Root's version keeps the name and its owner, and no more than that.
    for root in pair.sides() {
        let meta = root.join("tool").metadata().unwrap();
        assert_eq!((meta.uid(), meta.mode() & 0o7777), (0, 0o755), "{}", pair.story());
        assert_eq!(read(root.join("tool")), REVIEWED);
    }
    // Granted once more, it comes over: now both sides have the contents that root looked at.
    chmod(pair.left.join("tool"), 0o4755);
    let came = poll(PATIENCE, || pair.right.join("tool").metadata().unwrap().mode() & 0o7777 == 0o4755);
    assert!(came, "{}", pair.story());
    harmless(&pair, "granted again");
}

#[test]
fn a_dropped_bit_is_told_with_its_path() {
    if !process::is_root() {
        return;
    }
    let mut pair = Pair::new();
    reviewed(&pair.left.join("tool"));
    pair.run();
    pair.stop();
    chmod(pair.left.join("tool"), 0o4755);
    write(pair.right.join("tool"), HOSTILE);
    pair.run();
    pair.settle();
    harmless(&pair, "tool");
    assert_eq!(files(&pair.left).len(), 1, "no conflict: {}", pair.story());
    let log = read(&pair.log);
    assert!(log.lines().any(|l| l.contains("setuid") && l.contains("tool")), "{}", pair.story());
}

#[test]
fn granted_while_psync_runs_to_files_that_only_look_equal() {
    if !process::is_root() {
        return;
    }
    // Met for the first time: equal in size and time, never read.
    for (meeting, granting) in [("before", 0), ("before", 1), ("after", 0), ("after", 1)] {
        let mut pair = Pair::new();
        for (n, root) in pair.sides().into_iter().enumerate() {
            for g in 0..GRANTS.len() {
                let at = root.join(g.to_string());
                mkdirs(&at);
                match n == granting {
                    true => reviewed(&at.join("tool")),
                    false => hostile(&at.join("tool"), LONG_AGO),
                }
            }
        }
        let grant = |pair: &Pair| {
            let root = pair.sides()[granting].to_owned();
            for (g, grant) in GRANTS.iter().enumerate() {
                (grant.how)(&root.join(g.to_string()));
            }
        };
        if meeting == "before" {
            grant(&pair);
        }
        pair.run();
        if meeting == "after" {
            grant(&pair);
        }
        rests(&pair);
        harmless(&pair, &format!("granted {meeting} the first meeting on side {granting}"));
        pair.stop();
        assert_eq!(pair.sync_with(&["--accept", "--union"]).code(), 0, "{}", pair.story());
        harmless(&pair, &format!("united again, {meeting}, {granting}"));
    }
}

#[test]
fn with_skip_initial_sync_the_other_sides_file_is_not_known() {
    if !process::is_root() {
        return;
    }
    for granting in [0, 1] {
        let mut pair = Pair::new();
        stage(&pair, GRANTS, &ATTACKS[..1]);
        pair.run();
        pair.stop();
        let attacked = pair.sides()[1 - granting].to_owned();
        for g in 0..GRANTS.len() {
            dated(&attacked.join(format!("{g}.0/tool")), LONG_AGO);
        }
        let mut pair = pair.with(&["--skip-initial-sync"]);
        pair.run();
        let giver = pair.sides()[granting].to_owned();
        for (g, grant) in GRANTS.iter().enumerate() {
            (grant.how)(&giver.join(format!("{g}.0")));
        }
        // Left alone were the contents; what is granted now brings them to light.
        rests(&pair);
        harmless(&pair, &format!("granted on side {granting}"));
    }
}

#[test]
fn a_large_file_that_looks_unchanged_is_read_before_anything_is_granted_to_it() {
    if !process::is_root() {
        return;
    }
    const SIZE: u64 = 65 * 1024 * 1024;
    for granting in [0, 1] {
        let mut pair = Pair::new();
        reviewed(&pair.left.join("tool"));
        truncate(pair.left.join("tool"), SIZE);
        touch(pair.left.join("tool"), LONG_AGO, 0);
        pair.run();
        let (giver, taker) = (pair.sides()[granting].to_owned(), pair.sides()[1 - granting].to_owned());
        // Else what was written would be there before anything is granted.
        pair.stop();
        write_at(taker.join("tool"), 0, HOSTILE);
        touch(taker.join("tool"), LONG_AGO, 0);
        chown(giver.join("tool"), 0, 0);
        chmod(giver.join("tool"), 0o4755);
        pair.run();
        pair.settle();
        harmless(&pair, &format!("granted on side {granting}"));
    }
}

#[test]
fn a_capability_goes_with_the_contents_that_it_was_granted_to() {
    if !process::is_root() {
        return;
    }
    let mut pair = Pair::new();
    for name in ["written", "saved", "kept"] {
        mkdir(pair.left.join(name));
        reviewed(&pair.left.join(name).join("tool"));
        set_xattr(pair.left.join(name).join("tool"), CAPABILITY, &SETUID);
    }
    pair.run();
    assert!(poll(PATIENCE, || capability(&pair.right.join("kept/tool"))), "{}", pair.story());
    // The kernel takes it from what is written.
    write(pair.right.join("written/tool"), HOSTILE);
    save(pair.right.join("saved/tool"), HOSTILE);
    let came = |name: &str| read(pair.left.join(name).join("tool")) == HOSTILE;
    assert!(poll(PATIENCE, || came("written") && came("saved")), "{}", pair.story());
    for root in pair.sides() {
        for name in ["written", "saved"] {
            assert!(!capability(&root.join(name).join("tool")), "{name} in {root:?}{}", pair.story());
        }
        assert!(capability(&root.join("kept/tool")), "{}", pair.story());
    }
    // Nor does a full sync give it back.
    pair.stop();
    pair.run();
    pair.settle();
    for root in pair.sides() {
        assert!(!capability(&root.join("written/tool")) && !capability(&root.join("saved/tool")), "{}", pair.story());
    }
}

#[test]
fn ordinary_users_change_owner_and_mode_while_the_other_side_edits() {
    if !process::is_root() {
        return;
    }
    let mut pair = Pair::new();
    for n in 0..20 {
        reviewed(&pair.left.join(format!("f{n}")));
    }
    pair.run();
    pair.stop();
    for n in 0..20 {
        let (owner, editor) = if n % 2 == 0 { (&pair.left, &pair.right) } else { (&pair.right, &pair.left) };
        chown(owner.join(format!("f{n}")), BOB, BOB);
        chmod(owner.join(format!("f{n}")), 0o640);
        write(editor.join(format!("f{n}")), HOSTILE);
    }
    pair.run();
    pair.settle();
    for root in pair.sides() {
        assert_eq!(files(root).len(), 20, "no conflict copies{}", pair.story());
        for n in 0..20 {
            let path = root.join(format!("f{n}"));
            let meta = path.metadata().unwrap();
            assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (BOB, BOB, 0o640), "{path:?}{}", pair.story());
            assert_eq!(read(&path), HOSTILE);
        }
    }
}

#[test]
fn the_loser_is_stripped_as_a_copy_where_it_has_other_names() {
    if !process::is_root() {
        return;
    }
    // The right wins whatever the time: root's file on the left, with a name outside the tree, is what is displaced.
    let pair = Pair::new();
    let file = pair.beside("psync.toml");
    write(&file, "conflict = \"right\"\n");
    let mut pair = pair.with(&["--config", file.to_str().unwrap()]);
    reviewed(&pair.left.join("tool"));
    pair.run();
    pair.stop();
    write(pair.left.join("tool"), "#!/bin/sh\necho reviewed again\n");
    chown(pair.left.join("tool"), 0, 0);
    chmod(pair.left.join("tool"), 0o4755);
    hard_link(pair.left.join("tool"), pair.beside("outside"));
    write(pair.right.join("tool"), HOSTILE);
    pair.run();
    pair.settle();
    harmless(&pair, "tool");
    assert_eq!(pair.beside("outside").metadata().unwrap().mode() & 0o7777, 0o4755, "{}", pair.story());
    let copies: Vec<PathBuf> =
        files(&pair.left).into_iter().filter(|p| p.display().to_string().contains("(conflict")).collect();
    assert_eq!(copies.len(), 1, "{copies:?}{}", pair.story());
    let copy = copies[0].metadata().unwrap();
    assert_eq!((copy.uid(), copy.mode() & 0o7777), (0, 0o755), "{}", pair.story());
    assert_eq!(read(&copies[0]), "#!/bin/sh\necho reviewed again\n");
}

#[test]
fn group_bits_without_their_acl_are_the_groups() {
    if !process::is_root() || !tools::has("setfacl") {
        return;
    }
    let mut pair = Pair::new();
    let secret = |path: &Path| {
        write(path, "secret");
        chmod(path, 0o600);
    };
    secret(&pair.left.join("known"));
    pair.run();
    let mode = |path: PathBuf| path.symlink_metadata().map(|m| m.mode() & 0o7777).unwrap_or(0);
    tools::run(&pair.right, "setfacl", &["-m", &format!("u:{BOB}:r"), "known"]);
    secret(&pair.right.join("draft"));
    tools::run(&pair.right, "setfacl", &["-m", &format!("u:{BOB}:r"), "draft"]);
    rename(pair.right.join("draft"), pair.right.join("new"));
    assert!(poll(PATIENCE, || pair.left.join("new").exists()), "{}", pair.story());
    append(pair.right.join("known"), " and more");
    assert!(poll(PATIENCE, || read(pair.left.join("known")).ends_with("more")), "{}", pair.story());
    std::thread::sleep(std::time::Duration::from_millis(1500));
    for name in ["known", "new"] {
        let found = mode(pair.left.join(name));
        assert_eq!(found, 0o600, "{name} is {found:o} on the left{}", pair.story());
    }
    // Bob may read them where he was let in, and still does.
    let acl = tools::run(&pair.right, "getfacl", &["-cn", "new"]);
    assert!(acl.contains(&format!("user:{BOB}:r--")), "{acl}");
    // A copy that a check keeps has no ACL: nor has the group what the mask lets others do.
    pair.stop();
    write(pair.left.join("known"), "elsewhere");
    tools::run(&pair.right, "setfacl", &["-m", &format!("u:{BOB}:rw"), "known"]);
    let file = pair.beside("e2e.toml");
    let roots = [&pair.left, &pair.right].map(|r| r.display().to_string());
    write(&file, format!("[left]\nroot = \"{}\"\n[right]\nroot = \"{}\"\n", roots[0], roots[1]));
    crate::support::once(&["check", file.to_str().unwrap(), "-b"]);
    let copies: Vec<PathBuf> = files(&Pair::own(&pair.right).join("trash"));
    assert!(!copies.is_empty(), "nothing was kept");
    for copy in copies.iter().filter(|p| p.ends_with("known")) {
        assert_eq!(mode(copy.clone()), 0o600, "{copy:?}");
    }
}
