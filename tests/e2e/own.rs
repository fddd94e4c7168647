//! psync's own directory, and users who may write in the root: what they put in its place, and what they call it.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::users::*;
use crate::support::{Depth, NAME, PATIENCE, Pair, once, poll, process, snapshot, tools};

/// What psync keeps in `.psync/PAIR`, and what it makes there on the way.
const FILES: [&str; 11] = [
    "trash.list",
    "trash.new",
    "trash.list.new",
    "events",
    "events.1",
    "heartbeat",
    "reserve",
    "archive.db",
    "archive.db-wal",
    "archive.db-shm",
    "archive.db-journal",
];

/// Files outside of the roots that nobody may touch: contents, mode and times.
struct Victims(PathBuf);

impl Victims {
    fn make(pair: &Pair) -> Victims {
        let top = pair.beside("victims");
        for name in FILES {
            plant(top.join(name), format!("root:x:0:0:{name}\n"));
            chmod(top.join(name), 0o640);
            touch(top.join(name), 1_500_000_000, 7);
        }
        Victims(top)
    }

    fn assert_untouched(&self, story: &str) {
        assert_eq!(std::fs::read_dir(&self.0).unwrap().count(), FILES.len(), "something was made{story}");
        for name in FILES {
            let at = self.0.join(name);
            let stat = std::fs::metadata(&at).unwrap();
            let found = (read(&at), stat.mode() & 0o7777, stat.mtime(), stat.mtime_nsec(), stat.nlink());
            assert_eq!(found, (format!("root:x:0:0:{name}\n"), 0o640, 1_500_000_000, 7, 1), "{name}{story}");
        }
    }

    /// `.psync/PAIR` of links to them.
    fn plant_links(&self, root: &Path) {
        mkdirs(Pair::own(root));
        for name in FILES {
            symlink(self.0.join(name), Pair::own(root).join(name));
        }
    }
}

fn said_halt(pair: &mut Pair) -> bool {
    pair.wait_said(PATIENCE, |line| line.to_lowercase().contains("halt"))
}

/// Both sides are used after psync's own directory has another name.
fn use_both(pair: &Pair, round: usize) {
    for root in pair.sides() {
        let other = if root == pair.left { "left" } else { "right" };
        write(root.join(format!("new of {other} {round}")), "new\n");
    }
}

#[test]
fn links_in_the_place_of_its_own_directory_are_not_written_through() {
    for which in 0..2 {
        let mut pair = Pair::new();
        for n in 0..40 {
            write(pair.left.join(format!("file {n}")), format!("{n}\n"));
        }
        // A deleted file of this name would be a line of its own in what is written by name.
        write(pair.left.join("x\nhacker::0:0::\nx"), "name\n");
        pair.run();
        let victims = Victims::make(&pair);
        let (root, other) = (pair.sides()[which].to_owned(), pair.sides()[1 - which].to_owned());
        rename(root.join(".psync"), root.join("x"));
        victims.plant_links(&root);
        for gone in ["x\nhacker::0:0::\nx", "file 1", "file 2"] {
            remove(other.join(gone));
        }
        for n in 3..20 {
            write(other.join(format!("file {n}")), "changed\n");
        }
        use_both(&pair, 1);
        assert!(said_halt(&mut pair), "no word of a halt{}", pair.story());
        let told = pair.lines().join("\n");
        assert!(told.contains(".psync") && told.contains("moved"), "the reason does not say what happened: {told}");
        use_both(&pair, 2);
        std::thread::sleep(Duration::from_millis(1500));
        victims.assert_untouched(&pair.story());
        let here: Vec<_> = std::fs::read_dir(Pair::own(&root)).unwrap().flatten().map(|e| e.path()).collect();
        assert!(here.len() == FILES.len() && here.iter().all(|p| p.is_symlink()), "{here:?}{}", pair.story());
        let names = snapshot(&other, Depth::Stat);
        let carried: Vec<_> =
            names.paths().into_iter().filter(|p| *p == "x" || p.to_string().starts_with("x/")).collect();
        assert!(carried.is_empty(), "psync's own directory was carried over: {carried:?}{}", pair.story());
        pair.stop();
        // Nor are they when it starts on them.
        let again = pair.sync_once();
        assert!(again.code() != 0, "it works on a directory of links: {}", again.stderr);
        victims.assert_untouched(&pair.story());
        // The cure: the directory gets its name back.
        remove_tree(root.join(".psync"));
        rename(root.join("x"), root.join(".psync"));
        pair.sync();
        victims.assert_untouched(&pair.story());
    }
}

#[test]
fn its_own_directory_travels_under_no_name() {
    for which in 0..2 {
        let mut pair = Pair::start(&[]);
        plant(pair.left.join("dir/file"), "1\n");
        remove(pair.left.join("dir/file"));
        plant(pair.left.join("dir/other"), "2\n");
        pair.settle();
        let (root, other) = (pair.sides()[which].to_owned(), pair.sides()[1 - which].to_owned());
        let before = snapshot(&other, Depth::Contents);
        rename(root.join(".psync"), root.join("dir/aside"));
        assert!(said_halt(&mut pair), "no word of a halt{}", pair.story());
        std::thread::sleep(Duration::from_millis(1500));
        assert_eq!(snapshot(&other, Depth::Contents).paths(), before.paths(), "{}", pair.story());
        pair.stop();
        rename(root.join("dir/aside"), root.join(".psync"));
        pair.sync();
    }
}

#[test]
fn its_own_directory_out_of_the_root_is_missed_at_once() {
    for which in 0..2 {
        let mut pair = Pair::start(&[]);
        let root = pair.sides()[which].to_owned();
        rename(root.join(".psync"), pair.beside("elsewhere"));
        assert!(said_halt(&mut pair), "no word of a halt{}", pair.story());
        pair.stop();
    }
}

#[test]
fn the_directory_of_the_pair_alone_is_missed_as_well() {
    for which in 0..2 {
        let mut pair = Pair::start(&[]);
        let root = pair.sides()[which].to_owned();
        rename(Pair::own(&root), root.join(".psync/other"));
        mkdir(Pair::own(&root));
        // Nothing tells of what happens in there; the next batch finds it.
        use_both(&pair, 1);
        assert!(said_halt(&mut pair), "no word of a halt{}", pair.story());
        assert_eq!(std::fs::read_dir(Pair::own(&root)).unwrap().count(), 0, "{}", pair.story());
        pair.stop();
    }
}

#[test]
fn a_directory_of_that_name_travels_from_nowhere() {
    let mut pair = Pair::start(&[]);
    for root in pair.sides() {
        plant(root.join("a/.psync/own/file"), format!("{root:?}"));
        plant(root.join("a/b/.psync"), "a file of that name\n");
        plant(root.join("a/.psync.d/file"), "another name\n");
    }
    rename(pair.left.join("a/.psync.d"), pair.left.join("a/moved"));
    plant(pair.left.join("c/.psync/file"), "left alone\n");
    rename(pair.left.join("c/.psync"), pair.left.join("c/shown"));
    rename(pair.left.join("a/moved"), pair.left.join("a/.psync.e"));
    assert!(poll(PATIENCE, || pair.right.join("c/shown/file").exists()), "{}", pair.story());
    assert!(poll(PATIENCE, || pair.right.join("a/.psync.e/file").exists()), "{}", pair.story());
    // A name that stops to travel goes away on the other side.
    rename(pair.left.join("c/shown"), pair.left.join("c/.psync"));
    assert!(poll(PATIENCE, || !pair.right.join("c/shown").exists()), "{}", pair.story());
    assert!(!pair.right.join("c/.psync").exists() && pair.left.join("c/.psync/file").exists(), "{}", pair.story());
    for root in pair.sides() {
        assert_eq!(read(root.join("a/.psync/own/file")), format!("{root:?}"));
    }
    // It never keeps a directory that is deleted on the other side.
    remove_tree(pair.right.join("a"));
    assert!(poll(PATIENCE, || !pair.left.join("a").exists()), "{}", pair.story());
    pair.stop();
}

#[test]
fn names_forge_no_line_of_what_psync_writes() {
    let mut pair = Pair::new();
    let name = "x\n1-1-1\t1\t1\tdeleted\t/etc/passwd\n{\"when\":1,\"side\":\"L\",\"method\":\"RSYNC\"}\ny";
    write(pair.left.join("x"), "1\n");
    let odd = pair.left.join(name.replace('/', "|"));
    write(&odd, "2\n");
    pair.run();
    remove(&odd);
    remove(pair.left.join("x"));
    assert!(poll(PATIENCE, || std::fs::read_dir(&pair.right).unwrap().count() == 1), "{}", pair.story());
    pair.settle();
    pair.stop();
    for root in pair.sides() {
        for file in ["trash.list", "events"] {
            let Ok(bytes) = std::fs::read(Pair::own(root).join(file)) else { continue };
            for line in String::from_utf8_lossy(&bytes).split(['\n', '\0']) {
                assert!(!line.starts_with("1-1-1\t") && !line.starts_with("{\"when\":1,"), "{file}: {line:?}");
            }
        }
    }
    let list = std::fs::read(Pair::own(&pair.right).join("trash.list")).unwrap();
    assert!(!list.contains(&b'\n'), "a name has a line of its own: {}", String::from_utf8_lossy(&list));
}

#[test]
fn a_directory_of_its_name_that_is_anothers_is_refused() {
    if !process::is_root() {
        return tools::missing("root");
    }
    for planted in ["anothers", "writable", "a link", "a file", "archive is a link", "archive has other names"] {
        let pair = Pair::new();
        let (own, outside) = (Pair::own(&pair.right), pair.beside("outside"));
        mkdir(&outside);
        write(outside.join("empty"), "");
        match planted {
            "anothers" => {
                mkdirs(&own);
                chown(pair.right.join(".psync"), 4101, 4101);
            }
            "writable" => {
                mkdirs(&own);
                chmod(pair.right.join(".psync"), 0o770);
            }
            "a link" => symlink(&outside, pair.right.join(".psync")),
            "a file" => write(pair.right.join(".psync"), "file\n"),
            "archive is a link" => {
                mkdirs(&own);
                symlink(outside.join("empty"), own.join("archive.db"));
            }
            _ => {
                mkdirs(&own);
                hard_link(outside.join("empty"), own.join("archive.db"));
            }
        }
        write(pair.left.join("file"), "1\n");
        let once = pair.sync_once();
        assert!(once.code() != 0, "{planted}: it went on: {}", once.stderr);
        assert!(once.stderr.contains(".psync"), "{planted}: {}", once.stderr);
        assert_eq!(std::fs::metadata(outside.join("empty")).unwrap().len(), 0, "{planted}");
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1, "{planted}");
    }
}

#[test]
fn a_link_never_leads_into_it() {
    let pair = Pair::new();
    let file = pair.beside("psync.toml");
    write(&file, "links = \"follow\"\n");
    let mut pair = pair.with(&["--config", file.to_str().unwrap()]);
    write(pair.left.join("file"), "1\n");
    pair.run();
    mkdirs(pair.left.join("dir/.psync"));
    write(pair.left.join("dir/.psync/secret"), "secret\n");
    symlink("dir/.psync/secret", pair.left.join("to nested"));
    symlink(format!(".psync/{NAME}/archive.db"), pair.left.join("to own"));
    symlink("file", pair.left.join("to file"));
    assert!(poll(PATIENCE, || pair.right.join("to file").exists()), "{}", pair.story());
    std::thread::sleep(Duration::from_millis(1200));
    for name in ["to nested", "to own"] {
        assert!(!pair.right.join(name).exists(), "{name} was followed{}", pair.story());
    }
}

#[test]
fn doctor_tells_of_a_root_that_others_may_write() {
    if !process::is_root() {
        return tools::missing("root");
    }
    let said = |pair: &Pair| {
        let file = pair.beside("e2e.toml");
        write(&file, format!("[left]\nroot = {:?}\n[right]\nroot = {:?}\n", pair.left, pair.right));
        let once = once(&["doctor", file.to_str().unwrap()]);
        once.stdout + &once.stderr
    };
    let told = |pair: &Pair| said(pair).lines().any(|line| line.contains("may write in it") && line.contains("right"));
    let pair = Pair::new();
    assert!(!told(&pair), "{}", said(&pair));
    for mode in [0o775, 0o757, 0o1777] {
        chmod(&pair.right, mode);
        assert!(told(&pair), "{mode:o}: {}", said(&pair));
    }
    chmod(&pair.right, 0o755);
    chown(&pair.right, 4101, 0);
    assert!(told(&pair) && said(&pair).contains(".psync"), "{}", said(&pair));
    chown(&pair.right, 0, 0);
    assert!(!told(&pair), "{}", said(&pair));
    if tools::has("setfacl") {
        tools::run(Path::new("/"), "setfacl", &["-m", "u:4101:rwx", pair.right.to_str().unwrap()]);
        assert!(told(&pair), "an ACL: {}", said(&pair));
    }
}
