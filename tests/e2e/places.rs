//! Places where an object cannot be put, moved or taken away the ordinary way.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::support::mounts::{Mounted, in_a_file, mount, small_ext4};

use crate::support::users::*;
use crate::support::{Depth, NAME, PATIENCE, PSYNC, Pair, once, poll, process, snapshot, tools};

/// Retries of what failed wait up to a minute.
const LONG: Duration = Duration::from_secs(180);
const USER: u32 = 4711;

fn conflicts(pair: &mut Pair) -> Vec<String> {
    let tree = pair.settle();
    tree.paths().iter().map(ToString::to_string).filter(|path| path.contains("(conflict ")).collect()
}

fn equal(pair: &Pair) -> bool {
    let [left, right] = pair.sides().map(|root| snapshot(root, Depth::Stat));
    left == right
}

// ---- quotas by project

/// Puts what lies there under a project's quota, and what is made in it.
fn give_project(at: &Path, number: &str) -> bool {
    let mut all = vec![at.to_owned()];
    while let Some(path) = all.pop() {
        if path.is_symlink() {
            continue;
        }
        let is_dir = path.is_dir();
        let flag: &[&str] = if is_dir { &["-p", number, "+P"] } else { &["-p", number] };
        let done = Command::new("chattr").args(flag).arg(&path).output().is_ok_and(|out| out.status.success());
        if !done {
            tools::missing("projects on this file system");
            return false;
        }
        if is_dir {
            all.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    true
}

fn project_of(at: &Path) -> String {
    let shown = tools::run(Path::new("/"), "lsattr", &["-d", "-p", at.to_str().unwrap()]);
    shown.split_whitespace().next().unwrap_or_default().to_owned()
}

#[test]
fn what_comes_under_a_projects_quota_is_placed_and_counted() {
    if !tools::has("chattr") || !tools::has("lsattr") {
        return;
    }
    let mut pair = Pair::new();
    let disk = pair.beside("disk");
    let Some(_mounted) = in_a_file("xfs", &["-q"], &disk, 320) else { return };
    pair.right = disk.join("root");
    mkdir(&pair.right);
    for name in ["dept/old", "dept/both", "outside", "tree/sub/deep", "tree/file"] {
        plant(pair.left.join(name), format!("{name}\n"));
    }
    symlink("old", pair.left.join("dept/link"));
    pair.run();
    pair.settle();
    if !give_project(&pair.right.join("dept"), "42") {
        return;
    }
    let dept = pair.left.join("dept");
    write(dept.join("new"), "new\n");
    write(dept.join("big"), noise(1, 3 << 20));
    plant(dept.join("made/deep/file"), "in a new tree\n");
    write(dept.join("old"), "changed\n");
    rename(pair.left.join("outside"), dept.join("inside"));
    rename(pair.left.join("tree"), dept.join("tree"));
    symlink("new", dept.join("another link"));
    remove(dept.join("link"));
    symlink("both", dept.join("link"));
    chmod(dept.join("both"), 0o600);
    let through = poll(LONG, || equal(&pair));
    assert!(through, "what comes into the directory does not arrive{}", pair.story());
    for name in ["new", "big", "made/deep/file", "old", "inside", "tree", "tree/sub", "tree/sub/deep"] {
        assert_eq!(project_of(&pair.right.join("dept").join(name)), "42", "the quota does not count {name}");
    }
    // From the other side, out of it again, and away.
    write(pair.right.join("dept/of the right"), "right\n");
    rename(dept.join("tree"), pair.left.join("tree"));
    rename(dept.join("inside"), pair.left.join("outside"));
    remove_tree(dept.join("made"));
    remove(dept.join("link"));
    assert!(poll(LONG, || equal(&pair) && dept.join("of the right").exists()), "{}", pair.story());
    let paths = pair.settle();
    assert!(!paths.has("dept/made") && !paths.has("dept/tree") && paths.has("tree/sub/deep"), "{}", pair.story());
    assert_eq!(read(pair.right.join("dept/old")), "changed\n");
    // Both sides change one file: the loser stays beside the winner, there as well.
    pair.stop();
    write(dept.join("both"), "of the left\n");
    write(pair.right.join("dept/both"), "of the right, longer\n");
    pair.run();
    assert_eq!(conflicts(&mut pair).len(), 1, "{}", pair.story());
    assert!(!pair.lines().iter().any(|line| line.contains("not synchronised")), "{}", pair.story());
    pair.stop();
}

#[test]
fn projects_within_a_project_take_links_and_trees_and_let_them_go() {
    if !tools::has("chattr") || !tools::has("lsattr") {
        return;
    }
    let mut pair = Pair::new();
    let disk = pair.beside("disk");
    let Some(_mounted) = in_a_file("xfs", &["-q"], &disk, 320) else { return };
    let _thawed = Thawed(disk.clone());
    pair.right = disk.join("root");
    mkdir(&pair.right);
    for dir in ["dept", "dept/team", "other"] {
        for name in ["file", "tree/sub/deep", "tree/frozen"] {
            plant(pair.right.join(dir).join(name), format!("{dir} {name}\n"));
        }
        for name in ["gone", "replaced", "moved", "tree/link"] {
            symlink("file", pair.right.join(dir).join(name));
        }
    }
    // The root's project reaches psync's own directories as well.
    for (dir, number) in [("", "10"), ("dept", "42"), ("dept/team", "43")] {
        if !give_project(&pair.right.join(dir), number) {
            return;
        }
    }
    pair.run();
    pair.settle();
    let left = |name: &str| pair.left.join(name);
    for dir in ["dept", "dept/team", "other"] {
        remove(left(dir).join("gone"));
        remove(left(dir).join("replaced"));
        symlink("tree", left(dir).join("replaced"));
    }
    rename(left("dept/moved"), left("other/of dept"));
    rename(left("other/moved"), left("dept/team/of other"));
    rename(left("dept/team/moved"), left("dept/of team"));
    assert!(poll(PATIENCE, || equal(&pair)), "links do not go{}", pair.story());
    // Trees, one with what cannot get another project.
    chattr("+i", &pair.right.join("other/tree/frozen"));
    rename(left("other/tree"), left("dept/team/tree of other"));
    rename(left("dept/tree"), left("other/tree of dept"));
    assert!(poll(PATIENCE, || equal(&pair)), "trees do not move{}", pair.story());
    assert_eq!(project_of(&pair.right.join("dept/team/tree of other/sub/deep")), "43");
    chattr("-i", &pair.right.join("dept/team/tree of other/frozen"));
    // A directory with a project of its own moves into another's, and goes.
    rename(left("dept/team"), left("team"));
    rename(left("other"), left("team/other"));
    assert!(poll(PATIENCE, || equal(&pair)), "a project's directory does not move{}", pair.story());
    remove_tree(left("team"));
    remove_tree(left("dept"));
    symlink("nowhere", left("dept"));
    assert!(poll(PATIENCE, || equal(&pair)), "{}", pair.story());
    assert!(!pair.lines().iter().any(|line| line.contains("not synchronised")), "{}", pair.story());
    pair.settle();
    pair.stop();
}

// ---- an overlay

#[test]
fn directories_of_an_overlays_lower_layer_move_and_go() {
    let mut pair = Pair::new();
    let at = pair.beside("layers");
    let [lower, upper, work] = ["lower", "upper", "work"].map(|name| at.join(name));
    for dir in [&lower, &upper, &work, &pair.right] {
        mkdirs(dir);
    }
    for name in ["cache/a/1", "cache/a/2", "cache/junk.tmp", "old/b/1", "old/b/c/2", "old/3", "stays/1", "up/1"] {
        plant(lower.join(name), format!("{name}\n"));
    }
    for name in ["", "cache", "old/b"] {
        chmod(lower.join(name), 0o755);
    }
    chmod(lower.join("old/b/c"), 0o2750);
    tools::run(Path::new("/"), "cp", &["-aT", lower.to_str().unwrap(), pair.left.to_str().unwrap()]);
    let [l, u, w] = [&lower, &upper, &work].map(|dir| dir.to_str().unwrap().to_owned());
    let layers = format!("lowerdir={l},upperdir={u},workdir={w},redirect_dir=off");
    let Some(_mounted) = mount("overlay", &["-o", &layers], Path::new("overlay"), &pair.right) else { return };
    pair.run();
    pair.settle();
    let log = pair.log.clone();
    let sent = || with_contents(&log);
    let before = sent();
    remove_tree(pair.left.join("cache"));
    rename(pair.left.join("old"), pair.left.join("new"));
    assert!(poll(LONG, || equal(&pair)), "the directories do not move and go{}", pair.story());
    let tree = pair.settle();
    assert!(tree.has("new/b/c/2") && !tree.has("old") && !tree.has("cache"), "{:?}{}", tree.paths(), pair.story());
    assert_eq!(read(pair.right.join("new/b/c/2")), "old/b/c/2\n");
    assert_eq!(fs::metadata(pair.right.join("new/b/c")).unwrap().mode() & 0o7777, 0o2750);
    assert_eq!(sent(), before, "contents that lie there already were sent again{}", pair.story());
    let kept = fs::read_dir(Pair::own(&pair.right).join("trash")).unwrap().count();
    assert!(kept >= 2, "what was deleted is not kept: {kept}");
    // It is the same directory to psync as before, and so is what lies in it.
    write(pair.left.join("new/b/1"), "edited\n");
    rename(pair.left.join("new/b"), pair.left.join("up/b"));
    assert!(poll(LONG, || equal(&pair)), "{}", pair.story());
    write(pair.right.join("up/b/c/2"), "edited on the right\n");
    assert!(poll(LONG, || equal(&pair) && pair.left.join("up/b").exists()), "{}", pair.story());
    let tree = pair.settle();
    assert_eq!(
        (read(pair.right.join("up/b/1")), read(pair.left.join("up/b/c/2"))),
        ("edited\n".into(), "edited on the right\n".into())
    );
    assert!(!tree.paths().iter().any(|path| path.to_string().contains("(conflict ")), "{:?}", tree.paths());
    pair.stop();
    pair.sync();
}

/// Actions of the log that carried contents.
fn with_contents(log: &Path) -> usize {
    fs::read_to_string(log).unwrap_or_default().lines().filter(|line| line.contains("action put ")).count()
}

// ---- read-only directories of an ordinary user

/// A pair that belongs to a user, and psync run as that user.
pub fn of_a_user() -> Option<Pair> {
    if !process::is_root() || !tools::has("setpriv") {
        return None;
    }
    let pair = Pair::new();
    let program = pair.beside("psync");
    tools::copy_program(PSYNC, &program);
    chmod(program.parent().unwrap(), 0o755);
    let runtime = pair.beside("run");
    mkdir(&runtime);
    File::create(&pair.log).unwrap();
    for path in [&pair.left, &pair.right, &runtime, &pair.log] {
        chown(path, USER, USER);
    }
    let (user, runtime) = (USER.to_string(), format!("RUNTIME_DIRECTORY={}", runtime.display()));
    let ids = ["--reuid", &user, "--regid", &user, "--clear-groups", "--inh-caps=-all"];
    let through = [&["env", &runtime, "setpriv"], &ids[..], &[program.to_str().unwrap()]].concat();
    Some(pair.through(&through))
}

fn give(at: &Path) {
    tools::run(Path::new("/"), "chown", &["-R", &format!("{USER}:{USER}"), at.to_str().unwrap()]);
}

/// A module as a cache of modules has it: read-only files in read-only directories.
fn module(at: &Path) {
    plant(at.join("x.go"), "package x\n");
    plant(at.join("sub/y.go"), "package sub\n");
    give(at.parent().unwrap());
    for (name, mode) in [("x.go", 0o444), ("sub/y.go", 0o444), ("sub", 0o555), ("", 0o555)] {
        chmod(at.join(name), mode);
    }
}

fn notes(root: &Path) -> Vec<PathBuf> {
    let all = fs::read_dir(Pair::own(root)).unwrap().map(|entry| entry.unwrap().path());
    all.filter(|path| path.to_string_lossy().contains("raised-")).collect()
}

#[test]
fn a_users_read_only_trees_are_made_changed_moved_and_deleted() {
    let Some(mut pair) = of_a_user() else { return };
    module(&pair.left.join("mod/lib@1"));
    pair.run();
    pair.settle();
    module(&pair.left.join("mod/lib@2"));
    // As root may, without touching the directory's mode.
    let lib = pair.left.join("mod/lib@1");
    write(lib.join("z.go"), "more\n");
    give(&lib);
    chmod(lib.join("z.go"), 0o444);
    write(lib.join("x.go"), "package x // edited\n");
    assert!(poll(LONG, || equal(&pair)), "{}", pair.story());
    // An extended attribute takes the right to write as well.
    set_xattr(pair.left.join("mod/lib@2/sub"), "user.note", b"1");
    set_xattr(pair.left.join("mod/lib@2/x.go"), "user.note", b"1");
    pair.settle();
    for name in ["sub", "x.go"] {
        let there =
            || rustix::fs::getxattr(pair.right.join("mod/lib@2").join(name), "user.note", &mut [0_u8; 8]).is_ok();
        assert!(poll(PATIENCE, there), "{name}{}", pair.story());
    }
    // Within, into another directory, and away; and back out of the other side's hands.
    rename(lib.join("sub"), pair.left.join("mod/lib@2/moved"));
    mkdir(pair.left.join("kept"));
    give(&pair.left.join("kept"));
    rename(pair.left.join("mod/lib@2"), pair.left.join("kept/lib@2"));
    remove(pair.right.join("mod/lib@1/z.go"));
    assert!(poll(LONG, || equal(&pair) && !lib.join("z.go").exists()), "{}", pair.story());
    remove_tree(lib);
    assert!(poll(LONG, || equal(&pair)), "{}", pair.story());
    let tree = pair.settle();
    assert!(tree.has("kept/lib@2/moved/y.go") && !tree.has("mod/lib@1"), "{:?}", tree.paths());
    for root in pair.sides() {
        for name in ["kept/lib@2", "kept/lib@2/sub", "kept/lib@2/moved"] {
            assert_eq!(fs::metadata(root.join(name)).unwrap().permissions().mode() & 0o7777, 0o555, "{root:?} {name}");
        }
        assert_eq!(notes(root), Vec::<PathBuf>::new());
    }
    assert!(!pair.lines().iter().any(|line| line.contains("not synchronised")), "{}", pair.story());
    pair.stop();
}

#[test]
fn read_only_directories_far_below_the_root_are_written_to() {
    let Some(mut pair) = of_a_user() else { return };
    let disk = pair.beside("disk");
    // Its links hold 1024 bytes.
    let Some(_mounted) = in_a_file("xfs", &["-q"], &disk, 320) else { return };
    pair.right = disk.join("root");
    mkdir(&pair.right);
    give(&pair.right);
    let name = "n".repeat(200);
    let far = (0..7).fold(pair.left.join("top"), |at, _| at.join(&name));
    for file in ["in/file", "gone", "edited"] {
        plant(far.join(file), format!("{file}\n"));
    }
    give(&pair.left.join("top"));
    chmod(far.join("in"), 0o500);
    for dir in far.ancestors().take(8) {
        chmod(dir, 0o555);
    }
    pair.run();
    assert!(poll(PATIENCE, || equal(&pair)), "{}", pair.story());
    // As root may, without touching the directory's mode.
    write(far.join("edited"), "edited anew\n");
    write(far.join("new"), "new\n");
    give(&far.join("new"));
    remove(far.join("gone"));
    rename(far.join("in"), pair.left.join("top/out"));
    assert!(poll(PATIENCE, || equal(&pair)), "{}", pair.story());
    let there = pair.right.join("top/out");
    assert!(there.join("file").exists() && fs::metadata(there).unwrap().mode() & 0o7777 == 0o500, "{}", pair.story());
    assert_eq!(notes(&pair.right), Vec::<PathBuf>::new());
    pair.settle();
    pair.stop();
}

#[test]
fn read_only_directories_keep_their_modes_however_psync_is_killed() {
    let Some(mut pair) = of_a_user() else { return };
    let home = pair.left.join("mod");
    module(&home.join("lib"));
    pair.run();
    pair.settle();
    for round in 0..12_u64 {
        let lib = home.join("lib");
        for n in 0..60 {
            let file = lib.join(format!("r{round} f{n}"));
            write(&file, "a file\n");
            chown(&file, USER, USER);
        }
        if round > 0 {
            (0..60).for_each(|n| remove(lib.join(format!("r{} f{n}", round - 1))));
        }
        // Somewhere in the middle of that.
        let seen = || fs::read_dir(pair.right.join("mod/lib")).map_or(0, Iterator::count) as u64;
        let begun = format!("r{round} f{}", round * 5);
        poll(PATIENCE, || pair.right.join("mod/lib").join(&begun).exists() || seen() == 0);
        pair.kill9_all();
        pair.run();
    }
    assert!(poll(LONG, || equal(&pair)), "{}", pair.story());
    pair.settle();
    for root in pair.sides() {
        for name in ["mod/lib", "mod/lib/sub"] {
            assert_eq!(fs::metadata(root.join(name)).unwrap().permissions().mode() & 0o7777, 0o555, "{root:?} {name}");
        }
        assert_eq!(notes(root), Vec::<PathBuf>::new());
    }
    pair.stop();
}

// ---- attributes without room

#[test]
fn an_attribute_without_room_keeps_nothing_else_back() {
    let mut pair = Pair::new();
    let (large, small) = (pair.beside("large"), pair.beside("small"));
    let Some(_large) = in_a_file("xfs", &["-q"], &large, 320) else { return };
    let Some(_small) = small_ext4(&small, 64) else { return };
    (pair.left, pair.right) = (large.join("root"), small.join("root"));
    mkdir(&pair.left);
    mkdir(&pair.right);
    write(pair.left.join("photo.jpg"), "contents\n");
    set_xattr(pair.left.join("photo.jpg"), "user.preview", &[b'x'; 20_000]);
    set_xattr(pair.left.join("photo.jpg"), "user.small", b"fits");
    write(pair.left.join("later"), "later\n");
    mkdir(pair.left.join("dir"));
    set_xattr(pair.left.join("dir"), "user.preview", &[b'x'; 20_000]);
    pair.run();
    let value = |path: PathBuf, name: &str| -> Option<Vec<u8>> {
        let mut buffer = vec![0; 64 << 10];
        let length = rustix::fs::getxattr(&path, name, &mut buffer).ok()?;
        buffer.truncate(length);
        Some(buffer)
    };
    let right = pair.right.clone();
    let on_right = |name: &str, attribute: &str| value(right.join(name), attribute);
    let holds = |name: &str, text: &str| fs::read_to_string(right.join(name)).is_ok_and(|found| found == text);
    assert!(poll(PATIENCE, || holds("photo.jpg", "contents\n") && right.join("dir").is_dir()), "{}", pair.story());
    assert_eq!(on_right("photo.jpg", "user.small"), Some(b"fits".to_vec()));
    write(pair.left.join("photo.jpg"), "contents, edited\n");
    set_xattr(pair.left.join("later"), "user.preview", &[b'y'; 30_000]);
    assert!(poll(PATIENCE, || holds("photo.jpg", "contents, edited\n")), "{}", pair.story());
    write(pair.left.join("later"), "later, edited\n");
    assert!(poll(PATIENCE, || holds("later", "later, edited\n")), "{}", pair.story());
    let told = || fs::read_to_string(&pair.log).unwrap();
    assert!(told().contains("user.preview (20000 bytes) is not set"), "{}", pair.story());
    let at_rest = told().matches(" action ").count();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(told().matches(" action ").count(), at_rest, "it is tried again and again{}", pair.story());
    let lines = told().lines().filter(|line| line.contains("not synchronised") || line.contains("No space")).count();
    assert_eq!(lines, 0, "it is told as a full disk{}", pair.story());
    // As soon as it fits it is set.
    set_xattr(pair.left.join("photo.jpg"), "user.preview", b"a small one");
    let there = || on_right("photo.jpg", "user.preview") == Some(b"a small one".to_vec());
    assert!(poll(PATIENCE, there), "{}", pair.story());
    // One that has room as soon as another one is gone.
    set_xattr(pair.left.join("later"), "user.preview", &[b'a'; 600]);
    assert!(poll(PATIENCE, || on_right("later", "user.preview").is_some_and(|v| v.len() == 600)), "{}", pair.story());
    pair.stop();
    remove_xattr(pair.left.join("later"), "user.preview");
    set_xattr(pair.left.join("later"), "user.another", &[b'b'; 700]);
    pair.run();
    assert!(poll(PATIENCE, || on_right("later", "user.another").is_some_and(|v| v.len() == 700)), "{}", pair.story());
    pair.stop();
}

// ---- a mount whose server is away

/// A mounted file system that says hello, and then nothing any more.
struct Dead {
    _device: File,
    _mounted: Mounted,
}

fn dead_mount(at: &Path) -> Option<Dead> {
    let Ok(mut device) = OpenOptions::new().read(true).write(true).open("/dev/fuse") else {
        tools::missing("/dev/fuse");
        return None;
    };
    // For the program that mounts it.
    rustix::io::fcntl_setfd(&device, rustix::io::FdFlags::empty()).unwrap();
    let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
    let mounted = mount("fuse", &["-i", "-o", &options], Path::new("dead"), at);
    rustix::io::fcntl_setfd(&device, rustix::io::FdFlags::CLOEXEC).unwrap();
    let mounted = mounted?;
    let mut request = vec![0; 1 << 20];
    let length = device.read(&mut request).unwrap();
    assert!(length >= 16 && request[4..8] == 26_u32.to_le_bytes(), "no greeting");
    let mut body = Vec::new();
    [7_u32, 31, 0, 0].iter().for_each(|n| body.extend(n.to_le_bytes()));
    [0_u16, 0].iter().for_each(|n| body.extend(n.to_le_bytes()));
    [65_536_u32, 1].iter().for_each(|n| body.extend(n.to_le_bytes()));
    body.extend([0; 36]);
    let mut answer = Vec::new();
    answer.extend((16 + body.len() as u32).to_le_bytes());
    answer.extend(0_i32.to_le_bytes());
    answer.extend(&request[8..16]);
    answer.extend(body);
    device.write_all(&answer).unwrap();
    Some(Dead { _device: device, _mounted: mounted })
}

#[test]
fn a_dead_mount_keeps_nothing_waiting() {
    for which in 0..2 {
        let mut pair = Pair::new();
        let root = pair.sides()[which].to_owned();
        let other = pair.sides()[1 - which].to_owned();
        for side in pair.sides() {
            plant(side.join("data/near/one"), "one\n");
            touch(side.join("data/near/one"), 1_700_000_000, 0);
        }
        mkdirs(root.join("data/remote"));
        pair.run();
        pair.settle();
        let arrives = |pair: &Pair, from: &Path, to: &Path, name: &str| {
            plant(from.join(name), format!("{name}\n"));
            let there =
                poll(PATIENCE, || fs::read_to_string(to.join(name)).is_ok_and(|text| text == format!("{name}\n")));
            assert!(there, "{name} does not arrive beside a dead mount on side {which}{}", pair.story());
        };
        let Some(dead) = dead_mount(&root.join("data/remote")) else { return };
        for name in ["data/near/two", "data/beside", "data/new/x", "top"] {
            arrives(&pair, &root, &other, name);
        }
        for name in ["data/of the other", "data/near/of the other"] {
            arrives(&pair, &other, &root, name);
        }
        // What changes the directory above is a look at all that lies beside the mount.
        chmod(root.join("data"), 0o750);
        let mode = || fs::metadata(other.join("data")).unwrap().mode() & 0o7777 == 0o750;
        assert!(poll(PATIENCE, mode), "{}", pair.story());
        pair.stop();
        plant(root.join("data/near/three"), "three\n");
        pair.run();
        assert!(other.join("data/near/three").exists(), "{}", pair.story());
        arrives(&pair, &root, &other, "data/near/four");
        let told = pair.lines().iter().any(|line| line.contains("data/remote") && line.contains("another file system"));
        assert!(told, "nobody is told of the mount{}", pair.story());
        assert!(other.join("data/remote").is_dir(), "what is not seen was taken for deleted{}", pair.story());
        pair.stop();
        drop(dead);
        pair.sync();
    }
}

#[test]
fn a_check_and_the_doctor_pass_by_a_dead_mount() {
    let pair = Pair::new();
    let config = pair.beside(&format!("{NAME}.toml"));
    write(&config, format!("[left]\nroot = {:?}\n[right]\nroot = {:?}\n", pair.left, pair.right));
    plant(pair.left.join("data/one"), "one\n");
    mkdirs(pair.left.join("data/remote"));
    pair.sync();
    let Some(_dead) = dead_mount(&pair.left.join("data/remote")) else { return };
    // Each ends within a minute, or that is the failure.
    let config = config.to_str().unwrap();
    let check = once(&["check", config]);
    let named = |text: &str| check.stdout.lines().filter(|line| line.starts_with(text)).count();
    assert!(named("data/one") == 0 && named("data/remote") == 1, "{}{}", check.stdout, check.stderr);
    let doctor = once(&["doctor", config]);
    assert!(doctor.stdout.contains("left"), "{}{}", doctor.stdout, doctor.stderr);
}

// ---- a subvolume below the root

#[test]
fn a_subvolume_below_the_root_is_left_out_and_told() {
    if !tools::has("btrfs") {
        return;
    }
    for side in 0..2 {
        let mut pair = Pair::new();
        let disk = pair.beside("disk");
        let Some(_mounted) = in_a_file("btrfs", &["-q"], &disk, 400) else { return };
        *[&mut pair.left, &mut pair.right][side] = disk.join("root");
        let (here, there) = (pair.sides()[side].to_owned(), pair.sides()[1 - side].to_owned());
        mkdir(&here);
        for name in ["home/old", "home/kept", "beside/file"] {
            plant(here.join(name), format!("{name}\n"));
        }
        pair.run();
        pair.settle();
        pair.stop();
        // A directory becomes a subvolume, as `btrfs subvolume create` and a copy make it; and one is new.
        let create =
            |name: &str| tools::run(&here, "btrfs", &["subvolume", "create", here.join(name).to_str().unwrap()]);
        rename(here.join("home"), disk.join("was home"));
        create("home");
        create("new");
        plant(here.join("home/old"), "home/old\n");
        plant(here.join("new/file"), "new\n");
        pair.run();
        plant(here.join("beside/another"), "another\n");
        plant(there.join("beside/of the other"), "of the other\n");
        plant(there.join("home/of the other"), "of the other\n");
        plant(there.join("new/of the other"), "of the other\n");
        let through = || there.join("beside/another").exists() && here.join("beside/of the other").exists();
        assert!(poll(PATIENCE, through), "what lies beside waits{}", pair.story());
        let told = |name: &str| {
            pair.lines()
                .iter()
                .any(|line| line.contains(&format!("{name}: not synchronised")) && line.contains("subvolume"))
        };
        assert!(poll(PATIENCE, || told("home") && told("new")), "nobody is told of the subvolumes{}", pair.story());
        assert_eq!(read(there.join("home/kept")), "home/kept\n", "what is not seen was taken for deleted");
        pair.stop();
        pair.sync_once();
        assert!(there.join("home/kept").exists() && there.join("home/of the other").exists(), "{}", pair.story());
        assert!(here.join("new/file").exists() && !here.join("new/of the other").exists(), "{}", pair.story());
    }
}

// ---- immutable and append-only

fn chattr(option: &str, at: &Path) -> bool {
    let done = Command::new("chattr").arg(option).arg(at).output().is_ok_and(|out| out.status.success());
    if !done {
        tools::missing("chattr +i on this file system");
    }
    done
}

/// Takes the flags away, whatever becomes of the test.
struct Thawed(PathBuf);

impl Drop for Thawed {
    fn drop(&mut self) {
        let _ = Command::new("chattr").args(["-R", "-i", "-a"]).arg(&self.0).output();
    }
}

#[test]
fn what_is_immutable_is_told_with_the_cure_and_comes_when_the_flag_goes() {
    if !process::is_root() || !tools::has("chattr") {
        return;
    }
    let mut pair = Pair::new();
    let _thawed = Thawed(pair.left.parent().unwrap().to_owned());
    for name in ["f", "log", "mode", "dir/x", "dir/y", "dir/z", "tree/deep/file", "grows/old", "gone/file"] {
        plant(pair.left.join(name), format!("{name}\n"));
    }
    pair.run();
    pair.settle();
    let right = pair.right.clone();
    let frozen =
        [("+i", "f"), ("+a", "log"), ("+i", "mode"), ("+i", "dir"), ("+i", "tree"), ("+a", "grows"), ("+i", "gone")];
    if !frozen.iter().all(|(option, name)| chattr(option, &right.join(name))) {
        return;
    }
    let before = fs::read_to_string(&pair.log).unwrap().lines().count();
    write(pair.left.join("f"), "f, new\n");
    append(pair.left.join("log"), "more\n");
    chmod(pair.left.join("mode"), 0o600);
    write(pair.left.join("dir/new"), "new\n");
    remove(pair.left.join("dir/x"));
    rename(pair.left.join("dir/y"), pair.left.join("dir/why"));
    write(pair.left.join("dir/z"), "z, new\n");
    rename(pair.left.join("tree"), pair.left.join("moved"));
    rename(pair.left.join("grows/old"), pair.left.join("grows/new"));
    remove_tree(pair.left.join("gone"));
    write(pair.left.join("beside"), "beside\n");
    assert!(poll(PATIENCE, || right.join("beside").exists()), "{}", pair.story());
    let lines = |pair: &Pair| -> Vec<String> {
        let log = fs::read_to_string(&pair.log).unwrap();
        log.lines().skip(before).filter(|line| !line.contains(" DEBUG ")).map(String::from).collect()
    };
    for (name, cure) in [
        ("f", "-i"),
        ("log", "-a"),
        ("mode", "-i"),
        ("dir/new", "-i"),
        ("dir/why", "-i"),
        ("moved", "-i"),
        ("grows/new", "-a"),
        ("gone", "-i"),
    ] {
        let told = |line: &String| line.contains(&format!("path={name}")) && line.contains(&format!("`chattr {cure}`"));
        assert!(poll(PATIENCE, || lines(&pair).iter().any(told)), "{name} is not told with its cure{}", pair.story());
    }
    // Long enough for several tries of each.
    std::thread::sleep(Duration::from_secs(12));
    assert!(lines(&pair).len() <= 30, "a flood: {:#?}", lines(&pair));
    assert!(read(pair.left.join("f")) == "f, new\n" && pair.left.join("moved/deep/file").exists(), "{}", pair.story());
    for (_, name) in frozen {
        chattr("-i", &right.join(name));
        chattr("-a", &right.join(name));
    }
    assert!(poll(LONG, || equal(&pair)), "the flags are gone, and nothing comes{}", pair.story());
    assert_eq!(conflicts(&mut pair), Vec::<String>::new(), "{}", pair.story());
    pair.stop();
}
