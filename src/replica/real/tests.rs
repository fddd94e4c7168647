//! The trait on real directories: ext4 or whatever holds the temporary ones, and tmpfs.

use crate::config::{Links, Owner};
use crate::replica::metadata::owners::Owners;
use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use super::*;
use crate::model::Time;

struct Lab {
    top: tempfile::TempDir,
    disk: RealDisk,
}

impl Lab {
    fn new() -> Lab {
        Lab::over(tempfile::tempdir().expect("a directory"))
    }

    /// One where temporary directories lie, one on tmpfs if there is one.
    fn all() -> Vec<Lab> {
        let shm = tempfile::tempdir_in("/dev/shm").ok();
        std::iter::once(Lab::new()).chain(shm.map(Lab::over)).collect()
    }

    fn over(top: tempfile::TempDir) -> Lab {
        let disk = RealDisk::open(top.path(), "pair", Arc::new(NoCover)).expect("a disk");
        Lab { top, disk }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.top.path().join(path)
    }

    fn root(&self) -> Dir {
        self.dir("")
    }

    fn dir(&self, path: &str) -> Dir {
        self.disk.open_dir(&rel(path)).expect("a directory")
    }

    fn stage(&self) -> Dir {
        self.disk.own(Own::Stage).expect("the stage")
    }

    fn in_stage(&self, name: &str) -> PathBuf {
        self.disk.own_dir().expect("open").shown().join("stage").join(name)
    }

    fn names(&self, dir: &Dir) -> Vec<String> {
        self.disk.list(dir).expect("a list").iter().map(|(name, _)| name.to_string()).collect()
    }
}

fn rel(path: &str) -> RelPath {
    RelPath::new(path.as_bytes()).expect("a path")
}

fn name(name: &str) -> Name {
    Name::new(name.as_bytes()).expect("a name")
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn kind_of<T>(result: io::Result<T>) -> Option<io::ErrorKind> {
    result.err().map(|error| error.kind())
}

/// The attributes of a file that nobody touched, owned by whoever runs the test.
fn attrs(mode: u32) -> Attrs {
    let owners = Owners::default();
    Attrs {
        mode,
        user: owners.principal(Class::User, rustix::process::geteuid().as_raw()),
        group: owners.principal(Class::Group, rustix::process::getegid().as_raw()),
        mtime: Time { secs: -86_400, nanos: 123_456_789 },
        xattrs: Xattrs::new(),
    }
}

fn with_xattrs<const N: usize>(attrs: Attrs, xattrs: [(&[u8], &[u8]); N]) -> Attrs {
    Attrs { xattrs: xattrs.into_iter().map(|(name, value)| (name.into(), value.into())).collect(), ..attrs }
}

/// Runs a tool; false, and a line, if it is not installed.
fn ran(tool: &str, arguments: &[&str]) -> bool {
    match Command::new(tool).args(arguments).output() {
        Ok(output) => {
            assert!(output.status.success(), "{tool}: {}", String::from_utf8_lossy(&output.stderr));
            true
        }
        Err(_) => {
            println!("skipped: {tool} is missing");
            false
        }
    }
}

#[test]
fn a_disk_goes_wherever_its_owner_wants() {
    fn wants<T: Send + Sync>() {}
    wants::<RealDisk>();
}

#[test]
fn own_directories_are_made_private_and_found_again() {
    let top = tempfile::tempdir().expect("a directory");
    fs::set_permissions(top.path(), fs::Permissions::from_mode(0o2777)).expect("setgid");
    let lab = Lab::over(top);
    for path in [".psync", ".psync/pair", ".psync/pair/stage", ".psync/pair/trash"] {
        assert_eq!(fs::metadata(lab.at(path)).expect("there").mode() & 0o7777, 0o700, "{path}");
    }
    assert_eq!(
        lab.disk.own_dir().expect("open").shown(),
        fs::canonicalize(lab.top.path()).expect("a path").join(".psync/pair")
    );
    fs::write(lab.in_stage("kept"), b"x").expect("a file");
    fs::set_permissions(lab.at(".psync"), fs::Permissions::from_mode(0o755)).expect("opened up");
    let again = Lab::over(lab.top);
    assert_eq!(again.names(&again.stage()), ["kept"]);
    assert_eq!(fs::metadata(again.at(".psync")).expect("there").mode() & 0o7777, 0o700);
    let stat = again.disk.root_identity().expect("a stat");
    assert_eq!((stat.ino, stat.foreign), (fs::metadata(again.top.path()).expect("there").ino(), false));
}

#[test]
fn its_own_directory_is_known_by_its_inode() {
    let lab = Lab::new();
    fs::write(lab.in_stage("mine"), b"x").expect("a file");
    assert_eq!(lab.disk.own_is_there(), Ok(()));
    fs::create_dir(lab.at("dir")).expect("a directory");
    for place in ["aside", "dir/aside"] {
        fs::rename(lab.at(".psync"), lab.at(place)).expect("renamed");
        for planted in [false, true] {
            if planted {
                fs::create_dir_all(lab.at(".psync/pair")).expect("planted");
            }
            let told = lab.disk.own_is_there().expect_err("gone");
            assert!(told.contains(".psync/pair") && told.contains("put it back"), "{told}");
            let path = rel(place);
            let dir = path.parent().filter(|p| !p.is_root()).map_or(lab.root(), |_| lab.dir("dir"));
            let last = path.name().expect("a name");
            assert_eq!(kind_of(lab.disk.stat(&dir, &last)), Some(io::ErrorKind::NotFound));
            assert_eq!(kind_of(lab.disk.open_dir(&path)), Some(io::ErrorKind::NotFound));
            assert_eq!(kind_of(lab.disk.open_child(&dir, &last, &path)), Some(io::ErrorKind::NotFound));
            let pin = lab.disk.pin(&dir, &last).expect("a pin");
            assert_eq!(kind_of(lab.disk.stat_pin(&pin)), Some(io::ErrorKind::NotFound));
            assert!(!lab.names(&dir).contains(&"aside".to_owned()));
            assert!(!lab.disk.list_many(&[dir])[0].as_ref().expect("a list").iter().any(|(name, _)| *name == last));
        }
        // What is psync's stays so: by what it has open.
        assert_eq!(lab.names(&lab.stage()), ["mine"]);
        fs::remove_dir_all(lab.at(".psync")).expect("removed");
        fs::rename(lab.at(place), lab.at(".psync")).expect("back");
        assert_eq!(lab.disk.own_is_there(), Ok(()));
    }
    fs::rename(lab.at(".psync/pair"), lab.at(".psync/other")).expect("renamed");
    assert!(lab.disk.own_is_there().is_err());
}

#[test]
fn what_is_pinned_stays_the_same_object_whatever_its_name_is() {
    for lab in Lab::all() {
        for (kind, make) in [
            (Kind::File, (|at| fs::write(at, b"x").expect("a file")) as fn(&Path)),
            (Kind::Dir, |at| fs::create_dir(at).expect("a directory")),
        ] {
            let (mine, other) = (lab.at(&format!("mine {kind:?}")), lab.at(&format!("other {kind:?}")));
            make(&mine);
            make(&other);
            let last = name(mine.file_name().and_then(OsStr::to_str).expect("text"));
            let pin = lab.disk.pin(&lab.root(), &last).expect("a pin");
            let before = lab.disk.stat_pin(&pin).expect("a stat");
            fs::rename(&mine, lab.at("away")).expect("renamed");
            fs::rename(&other, &mine).expect("renamed");
            let untouched = fs::metadata(&mine).expect("there").mode();
            lab.disk.set_pinned_attrs(&pin, kind, &attrs(0o700), &Xattrs::new()).expect("set");
            assert_eq!(fs::metadata(&mine).expect("there").mode(), untouched);
            assert_eq!(fs::metadata(lab.at("away")).expect("there").mode() & 0o7777, 0o700);
            let opened = lab.disk.open_pinned(&pin).and_then(|file| lab.disk.stat_file(&file));
            match kind {
                Kind::File => assert_eq!(opened.expect("open").ino, before.ino),
                _ => assert_eq!(kind_of(opened), Some(io::ErrorKind::InvalidInput)),
            }
            let wrong = if kind == Kind::File { Kind::Dir } else { Kind::File };
            let set = lab.disk.set_pinned_attrs(&pin, wrong, &attrs(0o777), &Xattrs::new());
            assert_eq!(kind_of(set), Some(io::ErrorKind::InvalidInput));
            fs::rename(lab.at("away"), &other).expect("renamed");
        }
        rustix::fs::mkfifoat(lab.root(), c"fifo", Mode::RWXU).expect("a FIFO");
        symlink("mine File", lab.at("link")).expect("a link");
        for odd in ["fifo", "link"] {
            let pin = lab.disk.pin(&lab.root(), &name(odd)).expect("a pin");
            assert_eq!(kind_of(lab.disk.open_pinned(&pin)), Some(io::ErrorKind::InvalidInput), "{odd}");
            let set = lab.disk.set_pinned_attrs(&pin, Kind::File, &attrs(0o777), &Xattrs::new());
            assert_eq!(kind_of(set), Some(io::ErrorKind::InvalidInput), "{odd}");
        }
    }
}

#[test]
fn what_open_refuses() {
    let top = tempfile::tempdir().expect("a directory");
    let open = |pair: &str| kind_of(RealDisk::open(top.path(), pair, Arc::new(NoCover)));
    for bad in ["", ".", "..", "a/b", "../x"] {
        assert_eq!(open(bad), Some(io::ErrorKind::InvalidInput), "{bad:?}");
    }
    symlink("/tmp", top.path().join(".psync")).expect("a link");
    assert_eq!(open("pair"), Some(io::ErrorKind::NotADirectory), "a link in place of our own directory");
    fs::remove_file(top.path().join(".psync")).expect("removed");
    if is_root() {
        fs::create_dir(top.path().join(".psync")).expect("a directory");
        std::os::unix::fs::chown(top.path().join(".psync"), Some(12345), None).expect("given away");
        assert_eq!(open("pair"), Some(io::ErrorKind::PermissionDenied), "a user's directory");
    }
    let missing = RealDisk::open(&top.path().join("missing"), "pair", Arc::new(NoCover));
    assert_eq!(kind_of(missing), Some(io::ErrorKind::NotFound));
}

#[test]
fn lists_every_name_with_its_state_and_not_our_own() {
    for lab in Lab::all() {
        let long = "x".repeat(255);
        let odd = [&b"a\nb"[..], b"\xff\xfe", b"-rf", b" ", b"*", b"\\", long.as_bytes()];
        for bytes in odd {
            fs::write(lab.top.path().join(OsStr::from_bytes(bytes)), b"12345").expect("a file");
        }
        fs::create_dir_all(lab.at("dir/.psync")).expect("a directory");
        symlink("/nowhere", lab.at("link")).expect("a link");
        rustix::fs::mkfifoat(lab.root(), c"fifo", Mode::RWXU).expect("a FIFO");
        let list = lab.disk.list(&lab.root()).expect("a list");
        assert!(list.is_sorted_by(|a, b| a.0 < b.0));
        let mut names: Vec<&[u8]> = list.iter().map(|(name, _)| name.as_bytes()).collect();
        let mut expected = odd.to_vec();
        expected.extend([&b"dir"[..], b"link", b"fifo"]);
        expected.sort_unstable();
        names.sort_unstable();
        assert_eq!(names, expected);
        for (name, stat) in &list {
            let kind = match name.as_bytes() {
                b"dir" => Some(Kind::Dir),
                b"link" => Some(Kind::Link),
                b"fifo" => Some(Kind::Fifo),
                _ => Some(Kind::File),
            };
            assert_eq!(stat.kind, kind, "{name}");
            assert!(!stat.foreign && (stat.kind != Some(Kind::File) || stat.size == 5), "{name}");
            assert_eq!(lab.disk.stat(&lab.root(), name).expect("a stat"), *stat, "{name}");
        }
        assert_eq!(lab.names(&lab.dir("dir")), [""; 0], "the name is psync's wherever it is");
    }
}

#[test]
fn lists_many_in_their_order() {
    let lab = Lab::new();
    let dirs: Vec<Dir> = (0..100)
        .map(|n| {
            let path = format!("d{n}");
            fs::create_dir(lab.at(&path)).expect("a directory");
            fs::write(lab.at(&format!("{path}/f{n}")), b"").expect("a file");
            lab.dir(&path)
        })
        .collect();
    fs::remove_file(lab.at("d7/f7")).expect("removed");
    fs::remove_dir(lab.at("d7")).expect("removed");
    for count in [0, 1, 3, 100] {
        let lists = lab.disk.list_many(&dirs[..count]);
        assert_eq!(lists.len(), count);
        for (n, list) in lists.into_iter().enumerate() {
            // Of a removed directory some file systems say that it is empty, and some that it is not there.
            let names = list.unwrap_or_default();
            let expected = if n == 7 { vec![] } else { vec![name(&format!("f{n}"))] };
            assert_eq!(names.into_iter().map(|(name, _)| name).collect::<Vec<_>>(), expected, "d{n}");
        }
    }
}

#[test]
fn a_directory_is_read_anew_each_time_and_keeps_its_identity() {
    for lab in Lab::all() {
        fs::create_dir(lab.at("d")).expect("a directory");
        let dir = lab.dir("d");
        assert!(lab.names(&dir).is_empty());
        fs::write(lab.at("d/a"), b"").expect("a file");
        assert_eq!(lab.names(&dir), ["a"]);
        let before = lab.disk.stat_dir(&dir).expect("a stat");
        fs::rename(lab.at("d"), lab.at("e")).expect("renamed");
        fs::write(lab.at("e/b"), b"").expect("a file");
        assert_eq!(lab.names(&dir), ["a", "b"]);
        let after = lab.disk.stat_dir(&dir).expect("a stat");
        assert_eq!((before.ino, before.btime), (after.ino, after.btime));
        assert_eq!(kind_of(lab.disk.open_dir(&rel("d"))), Some(io::ErrorKind::NotFound));
    }
}

#[test]
fn no_path_leads_through_a_link() {
    let lab = Lab::new();
    fs::create_dir_all(lab.at("a/b")).expect("directories");
    fs::write(lab.at("a/f"), b"x").expect("a file");
    symlink("a", lab.at("l")).expect("a link");
    symlink("/", lab.at("out")).expect("a link");
    for path in ["l", "l/b", "out/etc", "a/f", "a/f/g"] {
        assert_eq!(kind_of(lab.disk.open_dir(&rel(path))), Some(io::ErrorKind::NotADirectory), "{path}");
    }
    assert_eq!(kind_of(lab.disk.open_file(&lab.root(), &name("l"))), Some(io::ErrorKind::InvalidInput));
    assert_eq!(lab.disk.stat(&lab.root(), &name("l")).expect("a stat").kind, Some(Kind::Link));
    assert_eq!(&*lab.disk.read_link(&lab.root(), &name("l")).expect("a target"), b"a");
}

#[test]
fn another_file_system_is_told_and_not_entered() {
    if !is_root() {
        return println!("skipped: takes root");
    }
    let lab = Lab::new();
    fs::create_dir_all(lab.at("d/mnt/in")).expect("directories");
    fs::create_dir_all(lab.at("d/same")).expect("directories");
    let (mnt, same) = (lab.at("d/mnt"), lab.at("d/same"));
    let (mnt, same) = (mnt.to_str().expect("text"), same.to_str().expect("text"));
    struct Mounted(Vec<String>);
    impl Drop for Mounted {
        fn drop(&mut self) {
            self.0.iter().for_each(|path| drop(Command::new("umount").arg(path).status()));
        }
    }
    if !Command::new("mount").args(["-t", "tmpfs", "psync-test", mnt]).status().is_ok_and(|s| s.success()) {
        return println!("skipped: cannot mount");
    }
    let mut mounted = Mounted(vec![mnt.into()]);
    if Command::new("mount").args(["--bind", same, same]).status().is_ok_and(|s| s.success()) {
        mounted.0.push(same.into());
    }
    fs::create_dir(lab.at("d/mnt/x")).expect("a directory");
    for (name, stat) in lab.disk.list(&lab.dir("d")).expect("a list") {
        assert!(stat.foreign, "{name}");
        let path = rel("d").join(&name).expect("short");
        assert_eq!(kind_of(lab.disk.open_dir(&path)), Some(io::ErrorKind::CrossesDevices), "{name}");
        let pinned = lab.disk.pin(&lab.dir("d"), &name);
        assert_eq!(kind_of(pinned), Some(io::ErrorKind::CrossesDevices), "{name}");
    }
    assert_eq!(kind_of(lab.disk.open_dir(&rel("d/mnt/x"))), Some(io::ErrorKind::CrossesDevices));
    // Nor is it emptied when what holds it is discarded.
    lab.disk.make_dir(&lab.stage(), &name("t")).expect("a directory");
    let inner = lab.in_stage("t/mnt");
    fs::create_dir(&inner).expect("a directory");
    let inner = inner.to_str().expect("text");
    assert!(ran("mount", &["-t", "tmpfs", "psync-test", inner]));
    mounted.0.push(inner.into());
    fs::write(lab.in_stage("t/mnt/kept"), b"x").expect("a file");
    assert!(lab.disk.discard(&lab.stage(), &name("t")).is_err());
    assert!(lab.in_stage("t/mnt/kept").exists());
    drop(mounted);
    lab.disk.discard(&lab.stage(), &name("t")).expect("discarded");
    // A root that is itself the top of a mount is no stranger to itself.
    let top = tempfile::tempdir().expect("a directory");
    assert!(ran("mount", &["-t", "tmpfs", "psync-test", top.path().to_str().expect("text")]));
    let _mounted = Mounted(vec![top.path().to_str().expect("text").into()]);
    let disk = RealDisk::open(top.path(), "pair", Arc::new(NoCover)).expect("a disk");
    assert!(!disk.root_identity().expect("a stat").foreign);
    assert!(!disk.stat_dir(&disk.own(Own::Stage).expect("the stage")).expect("a stat").foreign);
    drop(disk);
}

#[test]
fn contents_are_written_and_read_with_their_holes() {
    for lab in Lab::all() {
        let stage = lab.stage();
        let file = lab.disk.create(&stage, &name("s")).expect("a file");
        assert_eq!(lab.disk.stat_file(&file).expect("a stat").mode, 0o600);
        assert_eq!(kind_of(lab.disk.create(&stage, &name("s"))), Some(io::ErrorKind::AlreadyExists));
        let (mib, size) = (1 << 20, 4 << 20);
        lab.disk.set_len(&file, size).expect("a size");
        lab.disk.write_at(&file, mib, &[7; 65536]).expect("written");
        lab.disk.write_at(&file, 3 * mib, b"end").expect("written");
        lab.disk.sync_files(&[&file]).expect("synced");
        let mut stretches = Vec::new();
        let mut at = 0;
        while let Some((start, end)) = lab.disk.next_data(&file, at, size).expect("an answer") {
            stretches.push((start, end));
            at = end;
        }
        assert_eq!(stretches, [(mib, mib + 65536), (3 * mib, 3 * mib + 4096)]);
        assert_eq!(lab.disk.next_data(&file, size, size).expect("an answer"), None);
        let mut buffer = [1; 8];
        assert_eq!(lab.disk.read_at(&file, 3 * mib, &mut buffer).expect("read"), 8);
        assert_eq!(&buffer, b"end\0\0\0\0\0");
        assert_eq!(lab.disk.read_at(&file, size - 3, &mut buffer).expect("read"), 3);
        assert_eq!(lab.disk.read_at(&file, size, &mut buffer).expect("read"), 0);
        let reader = lab.disk.open_file(&stage, &name("s")).expect("open");
        assert!(lab.disk.write_at(&reader, 0, b"x").is_err(), "users' files are never written in place");
    }
}

#[test]
fn only_own_directories_are_written_to() {
    let lab = Lab::new();
    fs::create_dir(lab.at("d")).expect("a directory");
    let denied = Some(io::ErrorKind::PermissionDenied);
    for dir in [lab.root(), lab.dir("d")] {
        assert_eq!(kind_of(lab.disk.create(&dir, &name("x"))), denied);
        assert_eq!(kind_of(lab.disk.make_dir(&dir, &name("x"))), denied);
        assert_eq!(kind_of(lab.disk.make_link(&dir, &name("x"), b"y")), denied);
        assert_eq!(kind_of(lab.disk.discard(&dir, &name("d"))), denied);
        assert_eq!(kind_of(lab.disk.set_attrs(&dir, &name("d"), Kind::Dir, &attrs(0o755))), denied);
    }
    lab.disk.make_dir(&lab.stage(), &name("t")).expect("a directory");
    let inner = lab.disk.open_child(&lab.stage(), &name("t"), &rel("t")).expect("open");
    lab.disk.create(&inner, &name("x")).expect("a file");
}

#[test]
fn renames_never_replace_and_exchanges_want_both() {
    for lab in Lab::all() {
        let (root, stage) = (lab.root(), lab.stage());
        let (old, new) = (name("old"), name("new"));
        drop(lab.disk.create(&stage, &new).expect("a file"));
        fs::write(lab.at("old"), b"theirs").expect("a file");
        let taken = lab.disk.rename((&stage, &new), (&root, &old));
        assert_eq!(kind_of(taken), Some(io::ErrorKind::AlreadyExists));
        let missing = lab.disk.exchange((&stage, &new), (&root, &name("none")));
        assert_eq!(kind_of(missing), Some(io::ErrorKind::NotFound));
        lab.disk.exchange((&stage, &new), (&root, &old)).expect("exchanged");
        assert_eq!(fs::read(lab.in_stage("new")).expect("there"), b"theirs");
        assert_eq!(fs::read(lab.at("old")).expect("there"), b"");
        lab.disk.rename((&stage, &new), (&root, &new)).expect("renamed");
        lab.disk.sync_dirs(&[&root, &stage, &root]).expect("synced");
        assert_eq!(lab.names(&root), ["new", "old"]);
    }
}

#[test]
fn batches_are_synced_one_way_or_the_other() {
    let lab = Lab::new();
    let files: Vec<File> =
        (0..40).map(|n| lab.disk.create(&lab.stage(), &name(&n.to_string())).expect("a file")).collect();
    for round in 0..6 {
        files.iter().for_each(|file| lab.disk.write_at(file, 0, &[round; 5000]).expect("written"));
        lab.disk.sync_files(&files.iter().collect::<Vec<_>>()).expect("synced");
    }
    lab.disk.sync_files(&[]).expect("nothing to do");
    lab.disk.sync_dirs(&[]).expect("nothing to do");
}

#[test]
fn leases() {
    for lab in Lab::all() {
        fs::write(lab.at("f"), b"x").expect("a file");
        let open = || lab.disk.open_file(&lab.root(), &name("f")).expect("open");
        let ask = |file: &File, lease| lab.disk.lease(file, lease).expect("an answer");
        let file = open();
        let writer = OpenOptions::new().append(true).open(lab.at("f")).expect("a writer");
        assert_eq!(ask(&file, Lease::Read), Leased::Refused);
        drop(writer);
        if ask(&file, Lease::Read) == Leased::Unsupported {
            println!("skipped: no leases here");
            continue;
        }
        assert!(lab.disk.lease_holds(&file, Lease::Read));
        let path = lab.at("f");
        let writer = std::thread::spawn(move || OpenOptions::new().append(true).open(path).map(drop));
        let limit = Instant::now() + Duration::from_secs(20);
        while lab.disk.lease_holds(&file, Lease::Read) {
            assert!(Instant::now() < limit, "the writer never came");
            std::thread::yield_now();
        }
        assert!(!writer.is_finished());
        lab.disk.release(&file);
        writer.join().expect("no panic").expect("the writer got in");

        let own = lab.disk.create(&lab.stage(), &name("own")).expect("a file");
        assert_eq!(ask(&own, Lease::Write), Leased::Granted);
        assert!(lab.disk.lease_holds(&own, Lease::Write));
        let blocked = lab.disk.open_file(&lab.stage(), &name("own"));
        assert_eq!(kind_of(blocked), Some(io::ErrorKind::WouldBlock), "nobody waits for a lease holder");
        assert!(!lab.disk.lease_holds(&own, Lease::Write));
    }
}

#[test]
fn attributes_of_each_kind() {
    for lab in Lab::all() {
        let stage = lab.stage();
        drop(lab.disk.create(&stage, &name("f")).expect("a file"));
        lab.disk.make_dir(&stage, &name("d")).expect("a directory");
        lab.disk.make_link(&stage, &name("l"), b"\xff target").expect("a link");
        let wanted = with_xattrs(attrs(0o4751), [(b"user.a", b"1"), (b"user.b", &[0; 1000])]);
        for (object, kind) in [("f", Kind::File), ("d", Kind::Dir)] {
            let object = name(object);
            let set = |wanted: &Attrs| lab.disk.set_attrs(&stage, &object, kind, wanted).expect("set");
            // Some tmpfs hold no user xattrs; then they are told.
            let told = set(&wanted);
            let held = lab.disk.xattrs(&stage, &object, kind).expect("xattrs");
            if told == NotSet::default() {
                assert_eq!(held, wanted.xattrs);
            } else {
                assert_eq!((told.what, held), (vec!["xattr"], Xattrs::new()));
            }
            let stat = lab.disk.stat(&stage, &object).expect("a stat");
            assert_eq!(stat.mode, 0o4751);
            assert_eq!(stat.mtime == wanted.mtime, kind == Kind::File, "a directory's times are no state");
            set(&wanted);
            assert_eq!(lab.disk.stat(&stage, &object).expect("a stat").mode, 0o4751);
            // Less than before.
            assert_eq!(set(&attrs(0)), NotSet::default());
            assert_eq!(lab.disk.stat(&stage, &object).expect("a stat").mode, 0);
            if is_root() {
                assert!(lab.disk.xattrs(&stage, &object, kind).expect("xattrs").is_empty());
            }
        }
        let link = lab.disk.set_attrs(&stage, &name("l"), Kind::Link, &attrs(0)).expect("set");
        assert_eq!(link, NotSet::default());
        assert_eq!(&*lab.disk.read_link(&stage, &name("l")).expect("a target"), b"\xff target");
        assert!(lab.disk.xattrs(&stage, &name("l"), Kind::Link).expect("xattrs").is_empty());
        let other_kind = lab.disk.set_attrs(&stage, &name("l"), Kind::File, &attrs(0));
        assert_eq!(kind_of(other_kind), Some(io::ErrorKind::InvalidInput));
        let bad = Attrs { mtime: Time { secs: 0, nanos: 0x3fff_ffff }, ..attrs(0o600) };
        assert_eq!(
            kind_of(lab.disk.set_attrs(&stage, &name("f"), Kind::File, &bad)),
            Some(io::ErrorKind::InvalidInput)
        );
    }
}

#[test]
fn an_open_file_gets_what_its_name_would() {
    for lab in Lab::all() {
        let stage = lab.stage();
        for mode in [0, 0o444, 0o640, 0o666, 0o4751] {
            let wanted = with_xattrs(attrs(mode), [(b"user.a", b"1"), (b"user.b", &[0; 1000])]);
            let [a, b] = [format!("open{mode}"), format!("name{mode}")].map(|text| name(&text));
            let open = lab.disk.create_for(&stage, &a, mode).expect("a file");
            drop(lab.disk.create(&stage, &b).expect("a file"));
            let told = lab.disk.set_file_attrs(&open, (&stage, &a), &wanted).expect("set");
            assert_eq!(told, lab.disk.set_attrs(&stage, &b, Kind::File, &wanted).expect("set"));
            let found = |name: &Name| {
                let stat = lab.disk.stat(&stage, name).expect("a stat");
                (stat.mode, stat.mtime, stat.uid, lab.disk.xattrs(&stage, name, Kind::File).ok())
            };
            assert_eq!(found(&a), found(&b));
            assert_eq!(found(&a).0, mode);
            assert_eq!(lab.disk.file_xattrs(&open, (&stage, &a)).ok(), found(&a).3);
            // Less than before.
            let told = lab.disk.set_file_attrs(&open, (&stage, &a), &attrs(0o600)).expect("set");
            assert_eq!((told, found(&a).0), (NotSet::default(), 0o600));
        }
    }
}

#[test]
fn a_second_setting_touches_nothing() {
    let lab = Lab::new();
    drop(lab.disk.create(&lab.stage(), &name("f")).expect("a file"));
    let wanted = with_xattrs(attrs(0o640), [(b"user.a", b"1")]);
    let set = || lab.disk.set_attrs(&lab.stage(), &name("f"), Kind::File, &wanted).expect("set");
    set();
    let before = lab.disk.stat(&lab.stage(), &name("f")).expect("a stat");
    assert_eq!(set(), NotSet::default());
    assert_eq!(lab.disk.stat(&lab.stage(), &name("f")).expect("a stat"), before, "ctime too");
}

#[test]
fn owners_that_are_not_known_here() {
    let lab = Lab::new();
    drop(lab.disk.create(&lab.stage(), &name("f")).expect("a file"));
    let before = lab.disk.stat(&lab.stage(), &name("f")).expect("a stat");
    let stranger = Principal::Name("no-such-one".into());
    let wanted = Attrs { user: stranger.clone(), group: stranger, ..attrs(0o6755) };
    let told = lab.disk.set_attrs(&lab.stage(), &name("f"), Kind::File, &wanted).expect("set");
    assert_eq!(told.what, ["owner", "group", "mode"]);
    let stat = lab.disk.stat(&lab.stage(), &name("f")).expect("a stat");
    assert_eq!((stat.uid, stat.gid), (before.uid, before.gid));
    assert_eq!(stat.mode, 0o755, "no setuid program of somebody else's");
}

#[test]
fn owners_and_capabilities() {
    let lab = Lab::new();
    drop(lab.disk.create(&lab.stage(), &name("f")).expect("a file"));
    // cap_net_raw=ep
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let ids = Attrs { user: Principal::Id(54_321), group: Principal::Id(54_322), ..attrs(0o6755) };
    let wanted = with_xattrs(ids, [(b"security.capability", &capability)]);
    let set = |wanted: &Attrs| lab.disk.set_attrs(&lab.stage(), &name("f"), Kind::File, wanted).expect("set").what;
    if !is_root() {
        assert_eq!(set(&wanted), ["group", "owner", "mode", "capability"]);
        return;
    }
    assert_eq!(set(&wanted), Vec::<&str>::new());
    let stat = lab.disk.stat(&lab.stage(), &name("f")).expect("a stat");
    assert_eq!((stat.uid, stat.gid, stat.mode), (54_321, 54_322, 0o6755));
    let held = || lab.disk.xattrs(&lab.stage(), &name("f"), Kind::File).expect("xattrs");
    assert_eq!(held(), wanted.xattrs);
    assert_eq!(lab.disk.principals(54_321, 0), (Principal::Id(54_321), Principal::Id(0)));
    // The change of owner drops both; they are put back.
    let wanted = Attrs { user: Principal::Id(54_323), ..wanted };
    assert_eq!(set(&wanted), Vec::<&str>::new());
    assert_eq!((held(), lab.disk.stat(&lab.stage(), &name("f")).expect("a stat").mode), (wanted.xattrs, 0o6755));
    set(&attrs(0o600));
    assert!(held().is_empty());
}

#[test]
fn acls_there_and_back() {
    let lab = Lab::new();
    fs::create_dir(lab.at("d")).expect("a directory");
    fs::write(lab.at("f"), b"x").expect("a file");
    let (d, f) = (lab.at("d"), lab.at("f"));
    let (d, f) = (d.to_str().expect("text"), f.to_str().expect("text"));
    if !ran("setfacl", &["-m", "u:daemon:rw,u:54321:---,g:daemon:r,g::-,m::rw", f])
        || !ran("setfacl", &["-m", "u:daemon:rwx,d:u:54321:rx,d:g::-", d])
        || !ran("getfacl", &["--version"])
    {
        return;
    }
    let shown = |path: &str| {
        let output = Command::new("getfacl").args(["-c", "-p", path]).output().expect("getfacl");
        String::from_utf8(output.stdout).expect("text")
    };
    lab.disk.make_dir(&lab.stage(), &name("d")).expect("a directory");
    drop(lab.disk.create(&lab.stage(), &name("f")).expect("a file"));
    for (object, kind, path, count) in [("d", Kind::Dir, d, 2), ("f", Kind::File, f, 1)] {
        let object = name(object);
        let xattrs = lab.disk.xattrs(&lab.root(), &object, kind).expect("xattrs");
        assert_eq!(xattrs.len(), count);
        let mode = lab.disk.stat(&lab.root(), &object).expect("a stat").mode;
        let wanted = Attrs { xattrs, ..attrs(mode) };
        let told = lab.disk.set_attrs(&lab.stage(), &object, kind, &wanted).expect("set");
        assert_eq!(told, NotSet::default());
        let copy = lab.in_stage(&object.to_string());
        assert_eq!(shown(copy.to_str().expect("text")), shown(path));
        assert_eq!(lab.disk.xattrs(&lab.stage(), &object, kind).expect("xattrs"), wanted.xattrs);
        let before = lab.disk.stat(&lab.stage(), &object).expect("a stat");
        lab.disk.set_attrs(&lab.stage(), &object, kind, &wanted).expect("set");
        assert_eq!(lab.disk.stat(&lab.stage(), &object).expect("a stat"), before, "nothing to do the second time");
        lab.disk.set_attrs(&lab.stage(), &object, kind, &attrs(0o750)).expect("set");
        assert!(lab.disk.xattrs(&lab.stage(), &object, kind).expect("xattrs").is_empty());
        assert_eq!(lab.disk.stat(&lab.stage(), &object).expect("a stat").mode, 0o750);
    }
    let bad = with_xattrs(attrs(0o600), [(b"system.posix_acl_access", b"\x01\x02")]);
    let set = lab.disk.set_attrs(&lab.stage(), &name("f"), Kind::File, &bad);
    assert_eq!(kind_of(set), Some(io::ErrorKind::InvalidData));
}

#[test]
fn a_default_acl_that_came_since_the_look_stays() {
    let lab = Lab::new();
    fs::create_dir(lab.at("d")).expect("a directory");
    let (d, root) = (lab.at("d"), lab.root());
    let xattrs = || lab.disk.xattrs(&root, &name("d"), Kind::Dir).expect("xattrs");
    let seen = xattrs();
    if !ran("setfacl", &["-m", "u:daemon:rwx,d:u:54321:rx,d:g::-", d.to_str().expect("text")]) {
        return;
    }
    let set = |held: &Xattrs| {
        let pin = lab.disk.pin(&root, &name("d")).expect("a pin");
        lab.disk.set_pinned_attrs(&pin, Kind::Dir, &attrs(0o750), held).expect("set");
        xattrs().into_keys().collect::<Vec<_>>()
    };
    assert_eq!(set(&seen), [Box::from(crate::replica::metadata::ACL_DEFAULT)]);
    // Seen as it is: it is to go.
    assert!(set(&xattrs()).is_empty());
}

#[test]
fn a_default_acl_of_the_root_does_not_reach_the_stage() {
    let top = tempfile::tempdir().expect("a directory");
    if !ran("setfacl", &["-m", "d:u:54321:rwx,d:o::rwx", top.path().to_str().expect("text")]) {
        return;
    }
    let lab = Lab::over(top);
    let file = lab.disk.create(&lab.stage(), &name("f")).expect("a file");
    assert_eq!(lab.disk.stat_file(&file).expect("a stat").mode, 0o600);
    assert!(lab.disk.xattrs(&lab.stage(), &name("f"), Kind::File).expect("xattrs").is_empty());
    assert!(super::attrs::read_open(lab.stage().as_fd(), &lab.disk.rules).expect("xattrs").is_empty());
}

#[test]
fn what_does_not_travel_is_neither_read_nor_touched() {
    if !is_root() {
        return println!("skipped: takes root");
    }
    let mut lab = Lab::new();
    lab.disk = lab.disk.with_rules(Rules::new(Owner::Names, true), Links::Preserve);
    drop(lab.disk.create(&lab.stage(), &name("f")).expect("a file"));
    let path = lab.in_stage("f");
    rustix::fs::setxattr(&path, c"trusted.x", b"1", rustix::fs::XattrFlags::empty()).expect("set");
    let wanted = with_xattrs(attrs(0o600), [(b"user.a", b""), (b"trusted.y", b"2"), (b"security.NTACL", b"3")]);
    let told = lab.disk.set_attrs(&lab.stage(), &name("f"), Kind::File, &wanted).expect("set");
    assert_eq!(told, NotSet::default());
    let held = lab.disk.xattrs(&lab.stage(), &name("f"), Kind::File).expect("xattrs");
    assert_eq!(held.keys().map(|k| &**k).collect::<Vec<_>>(), [&b"security.NTACL"[..], b"user.a"]);
    let mut value = [0; 8];
    assert_eq!(rustix::fs::getxattr(&path, c"trusted.x", &mut value), Ok(1));
    assert_eq!(rustix::fs::getxattr(&path, c"trusted.y", &mut value), Err(Errno::NODATA));
}

#[test]
fn discards_trees_of_any_depth_and_mode() {
    for lab in Lab::all() {
        let stage = lab.stage();
        lab.disk.make_dir(&stage, &name("t")).expect("a directory");
        // Names that the numbering could meet, modes that forbid, and a link to what must stay.
        fs::write(lab.at("kept"), b"x").expect("a file");
        for n in 0..20 {
            fs::create_dir_all(lab.in_stage(&format!("t/{n}/{n}/{}", n + 1))).expect("directories");
            fs::write(lab.in_stage(&format!("t/{n}/{n}/file")), b"x").expect("a file");
        }
        let kept = lab.at("");
        symlink(&kept, lab.in_stage("t/link")).expect("a link");
        symlink(&kept, lab.in_stage("t/3/link")).expect("a link");
        for path in ["t/4/4/5", "t/4/4", "t/4", "t"] {
            fs::set_permissions(lab.in_stage(path), fs::Permissions::from_mode(0o000)).expect("forbidden");
        }
        lab.disk.discard(&stage, &name("t")).expect("discarded");
        assert!(lab.names(&stage).is_empty() && lab.at("kept").exists());
        assert_eq!(kind_of(lab.disk.discard(&stage, &name("t"))), Some(io::ErrorKind::NotFound));

        // Deeper than a path or the descriptors reach.
        lab.disk.make_dir(&stage, &name("deep")).expect("a directory");
        let mut here = beneath::open_dir(stage.as_fd(), b"deep").expect("open");
        for _ in 0..3000 {
            rustix::fs::mkdirat(&here, c"d", Mode::RWXU).expect("a directory");
            rustix::fs::symlinkat(c"x", &here, c"l").expect("a link");
            here = beneath::open_dir(here.as_fd(), b"d").expect("open");
        }
        drop(here);
        lab.disk.discard(&stage, &name("deep")).expect("discarded");

        drop(lab.disk.create(&stage, &name("f")).expect("a file"));
        lab.disk.make_link(&stage, &name("l"), b"f").expect("a link");
        lab.disk.discard(&stage, &name("l")).expect("discarded");
        assert_eq!(lab.names(&stage), ["f"]);
        lab.disk.discard(&stage, &name("f")).expect("discarded");
    }
}

#[test]
fn every_change_shows_or_is_told_to_be_unsettled() {
    for lab in Lab::all() {
        let file = lab.disk.create(&lab.stage(), &name("f")).expect("a file");
        let mut before = lab.disk.stat_file(&file).expect("a stat");
        for n in 0..500_u32 {
            lab.disk.write_at(&file, 0, &n.to_le_bytes()).expect("written");
            let now = lab.disk.stat_file(&file).expect("a stat");
            assert!(now.ctime != before.ctime || lab.disk.unsettled(&before), "round {n}");
            before = now;
        }
    }
}

#[test]
fn directories_are_handed_to_the_watcher() {
    #[derive(Default)]
    struct Seen(Mutex<Vec<(RelPath, u64)>>);
    impl Cover for Seen {
        fn cover(&self, path: &RelPath, dir: BorrowedFd<'_>) -> io::Result<()> {
            self.0.lock().expect("no panic").push((path.clone(), rustix::fs::fstat(dir)?.st_ino));
            Ok(())
        }
    }
    let top = tempfile::tempdir().expect("a directory");
    fs::create_dir(top.path().join("d")).expect("a directory");
    let seen = Arc::new(Seen::default());
    let disk = RealDisk::open(top.path(), "pair", seen.clone()).expect("a disk");
    let dir = disk.open_dir(&rel("d")).expect("open");
    disk.watch(&dir, &rel("d")).expect("watched");
    let ino = fs::metadata(top.path().join("d")).expect("there").ino();
    assert_eq!(*seen.0.lock().expect("no panic"), [(rel("d"), ino)]);
    assert!(disk.wall_clock() > 1_600_000_000 && disk.boot_id() != [0; 16]);
}
