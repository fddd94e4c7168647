//! Crashes in the worst moment, and lines and archives that are not what they were: a user's last word counts, nothing comes
//! back, and every halt says how to go on.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::users::*;
use crate::support::{NAME, PATIENCE, PSYNC, Pair, poll, process, tools};

/// Waits without a pause: what comes next must come the moment that the file is there.
fn spin(there: impl Fn() -> bool) -> bool {
    let end = Instant::now() + Duration::from_secs(20);
    while !there() {
        if Instant::now() > end {
            return false;
        }
    }
    true
}

fn names(root: &Path) -> Vec<String> {
    let entries = fs::read_dir(root).unwrap().flatten();
    let mut names: Vec<String> = entries.map(|e| e.file_name().into_string().unwrap()).collect();
    names.retain(|name| name != ".psync");
    names.sort();
    names
}

/// Files that psync has just placed on the right, what its user makes of each at once, and both sides killed then.
fn handed(what: &str, act: impl Fn(&Path), expected: &[(&str, &str)]) {
    let mut pair = Pair::start(&[]);
    write(pair.left.join("keep"), "x");
    pair.settle();
    for n in 0..6 {
        for root in pair.sides() {
            names(root).iter().filter(|name| *name != "keep").for_each(|name| {
                fs::remove_file(root.join(name)).or_else(|_| fs::remove_dir_all(root.join(name))).unwrap();
            });
        }
        pair.settle();
        save(pair.left.join("file"), format!("version {n} of the left\n"));
        let placed = pair.right.join("file");
        assert!(spin(|| placed.exists()), "{what} {n}: it never came{}", pair.story());
        act(&placed);
        pair.kill9_all();
        pair.run();
        pair.settle();
        for root in pair.sides() {
            let mut wanted: Vec<&str> = expected.iter().map(|(name, _)| *name).chain(["keep"]).collect();
            wanted.sort_unstable();
            assert_eq!(names(root), wanted, "{what} {n} in {root:?}{}", pair.story());
            for (name, start) in expected.iter().filter(|(name, _)| root.join(name).is_file()) {
                assert!(read(root.join(name)).starts_with(start), "{what} {n}: {name} in {root:?}{}", pair.story());
            }
        }
    }
    pair.stop();
}

#[test]
fn what_users_make_of_a_file_that_was_just_placed_counts_though_psync_is_killed() {
    handed("deleted", |file| remove(file), &[]);
    handed("renamed", |file| rename(file, file.with_file_name("mine")), &[("mine", "version")]);
    handed("replaced", |file| save(file, "the right's own"), &[("file", "the right's own")]);
    let into_a_directory = |file: &Path| {
        remove(file);
        mkdir(file);
        write(file.join("inside"), "x");
    };
    handed("a directory in its place", into_a_directory, &[("file", "")]);
}

/// A right side whose machine can lose its power: its boot has another number then.
struct Machine {
    boot: PathBuf,
    down: PathBuf,
    pid: PathBuf,
    /// The process through which all passes that the right hears.
    ear: PathBuf,
    script: PathBuf,
}

impl Machine {
    fn new(pair: &Pair) -> Machine {
        let at = |name: &str| pair.beside(name);
        let machine =
            Machine { boot: at("boot"), down: at("down"), pid: at("pid"), ear: at("ear"), script: at("agent.sh") };
        machine.boots(1);
        let text = format!(
            "#!/bin/sh\nexec unshare -m sh -c 'mount --bind {boot} /proc/sys/kernel/random/boot_id; while [ -e {down} ]; do sleep .05; done; \
             sh -c \"echo \\$\\$ > {ear}.new; mv {ear}.new {ear}; exec cat\" | \
             sh -c \"echo \\$\\$ > {pid}.new; mv {pid}.new {pid}; exec {PSYNC} --agent-mode --stdio --root {root} --log stderr\"'\n",
            ear = machine.ear.display(),
            pid = machine.pid.display(),
            boot = machine.boot.display(),
            down = machine.down.display(),
            root = pair.right.display(),
        );
        write(&machine.script, text);
        fs::set_permissions(&machine.script, fs::Permissions::from_mode(0o755)).unwrap();
        machine
    }

    fn boots(&self, number: u32) {
        let new = self.boot.with_extension("new");
        write(&new, format!("{number:08x}-0000-4000-8000-000000000000\n"));
        rename(new, &self.boot);
    }

    fn process(&self) -> i32 {
        read(&self.pid).trim().parse().unwrap()
    }

    /// The right hears nothing from here on.
    fn goes_deaf(&self) {
        process::send(read(&self.ear).trim().parse().unwrap(), Signal::SIGSTOP);
    }

    fn loses_power(&self) {
        write(&self.down, "");
        for process in [self.process(), read(&self.ear).trim().parse().unwrap()] {
            process::send(process, Signal::SIGKILL);
        }
    }
}

fn save_on_disk(path: &Path, contents: &str) {
    let new = path.with_extension("tmp");
    write(&new, contents);
    fs::File::open(&new).unwrap().sync_all().unwrap();
    rename(new, path);
    fs::File::open(path.parent().unwrap()).unwrap().sync_all().unwrap();
}

/// The right saves a file, the left records it and the right does not; the right goes on as `act` says, and loses its power.
fn saved_again_before_a_power_cut(act: impl Fn(&Path), check: impl Fn(&Pair)) {
    if !process::is_root() || !tools::has("unshare") {
        return tools::missing("root, unshare with a mount");
    }
    let pair = Pair::new();
    let machine = Machine::new(&pair);
    let script = machine.script.display().to_string();
    let mut pair = pair.with(&["--proxy-command", &script, "-r", "there"]);
    pair.run();
    for n in 0..3 {
        let (right, left) = (pair.right.join("file"), pair.left.join("file"));
        // What the left has recorded is to be recorded by the right as well, which does not hear of it.
        machine.goes_deaf();
        save_on_disk(&right, &format!("version one, {n}\n"));
        assert!(spin(|| fs::read(&left).is_ok_and(|c| c.starts_with(b"version one"))), "it never came{}", pair.story());
        let agent = machine.process();
        process::send(agent, Signal::SIGSTOP);
        std::thread::sleep(Duration::from_millis(400));
        act(&right);
        machine.loses_power();
        machine.boots(n + 2);
        std::thread::sleep(Duration::from_millis(300));
        remove(&machine.down);
        assert!(poll(PATIENCE, || process::alive(machine.process()) && machine.process() != agent));
        pair.settle();
        check(&pair);
        for name in names(&pair.right) {
            remove(pair.right.join(name));
        }
        pair.settle();
    }
    pair.stop();
}

#[test]
fn what_its_user_saved_last_outlives_a_power_cut() {
    let newer = "version two, newer, finished and on disk\n";
    saved_again_before_a_power_cut(
        |file| save_on_disk(file, newer),
        |pair| {
            for root in pair.sides() {
                assert_eq!(read(root.join("file")), newer, "{root:?}{}", pair.story());
            }
        },
    );
    // Shorter than the one that the left has, and no part of it.
    saved_again_before_a_power_cut(
        |file| save_on_disk(file, "two\n"),
        |pair| {
            for root in pair.sides() {
                assert_eq!(read(root.join("file")), "two\n", "{root:?}{}", pair.story());
            }
        },
    );
}

#[test]
fn what_a_power_cut_made_of_a_file_gives_way_to_the_whole_one() {
    let whole = |pair: &Pair| {
        for root in pair.sides() {
            assert!(read(root.join("file")).starts_with("version one, "), "{root:?}{}", pair.story());
            assert_eq!(names(root), ["file"], "{root:?}{}", pair.story());
        }
    };
    // Cut, and zeros in place of its end.
    saved_again_before_a_power_cut(|file| truncate(file, 4), whole);
    saved_again_before_a_power_cut(
        |file| {
            truncate(file, 0);
            truncate(file, 12);
        },
        whole,
    );
}

#[test]
fn a_file_that_is_empty_after_a_power_cut_keeps_the_other_sides_version_beside_it() {
    if !process::is_root() || !tools::has("unshare") {
        return tools::missing("root, unshare with a mount");
    }
    let pair = Pair::new();
    let machine = Machine::new(&pair);
    let script = machine.script.display().to_string();
    let mut pair = pair.with(&["--proxy-command", &script, "-r", "there"]);
    write(pair.left.join("letter"), "a whole letter\n");
    let image = [vec![b'i'; 4096], vec![b'j'; 4096]].concat();
    write(pair.left.join("image"), &image);
    pair.run();
    pair.settle();
    let agent = machine.process();
    machine.loses_power();
    // Saved anew and not synced: what is left is the name, or the first block and zeros.
    write(pair.right.join("letter"), "");
    write(pair.right.join("image"), [&image[..4096], &[0; 4096][..]].concat());
    machine.boots(2);
    remove(&machine.down);
    assert!(poll(PATIENCE, || process::alive(machine.process()) && machine.process() != agent));
    let copies = |root: &Path| names(root).iter().filter(|name| name.contains("(conflict left")).count();
    assert!(poll(PATIENCE, || pair.sides().iter().all(|root| copies(root) == 2)), "no copies{}", pair.story());
    pair.settle();
    for root in pair.sides() {
        for name in names(root).iter().filter(|name| name.contains("(conflict")) {
            let expected = if name.starts_with("letter") { b"a whole letter\n".to_vec() } else { image.clone() };
            assert_eq!(fs::read(root.join(name)).unwrap(), expected, "{name} in {root:?}");
        }
    }
    assert!(fs::read_to_string(&pair.log).unwrap().contains("conflict"), "nothing was said{}", pair.story());
    pair.stop();
}

/// A proxy command that changes the first bytes `MARKER` that pass to the right, once in each connection.
fn flipping(pair: &Pair) -> String {
    let script = pair.beside("relay.py");
    let text = format!(
        r#"import os, subprocess, threading
agent = subprocess.Popen(["{PSYNC}", "--agent-mode", "--stdio", "--root", "{root}", "--log", "stderr"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
left = 1
def pump(source, target, down):
    global left
    while True:
        piece = os.read(source, 1 << 20)
        if not piece:
            break
        if down and left and b"MARKER" in piece:
            left -= 1
            piece = piece.replace(b"MARKER", b"MARKEX", 1)
            open("{flipped}", "a").write("flipped\n")
        while piece:
            piece = piece[os.write(target, piece):]
    os.close(target)
threading.Thread(target=pump, args=(0, agent.stdin.fileno(), True), daemon=True).start()
pump(agent.stdout.fileno(), 1, False)
"#,
        root = pair.right.display(),
        flipped = pair.beside("flipped").display(),
    );
    write(&script, text);
    format!("python3 {}", script.display())
}

#[test]
fn a_byte_that_a_line_changes_is_never_placed() {
    if !tools::has("python3") {
        return tools::missing("python3");
    }
    let noise = crate::support::users::noise(7, 300_000);
    let big = [&noise[..200_000], b"MARKER", &noise[200_000..]].concat();
    let cases: [(&str, &str, Vec<u8>); 3] = [
        ("contents that travel with their report", "file", [&[b'x'; 100][..], b"MARKER", &[b'y'; 100]].concat()),
        ("contents that are streamed", "file", big),
        ("a name", "MARKERfile", b"hello".to_vec()),
    ];
    for (what, name, contents) in cases {
        let pair = Pair::new();
        let line = flipping(&pair);
        let mut pair = pair.with(&["--proxy-command", &line, "-r", "there"]);
        pair.run();
        let (left, right, flipped) = (pair.left.join(name), pair.right.clone(), pair.beside("flipped"));
        save(&left, &contents);
        let mut seen = Vec::new();
        let arrived = poll(PATIENCE, || {
            seen.extend(names(&right));
            right.join(name).exists()
        });
        assert!(arrived, "{what}: it never came{}", pair.story());
        assert!(flipped.exists(), "{what}: nothing was flipped");
        pair.settle();
        // The name under which it is written shows on the other side where the disk takes long to sync it.
        seen.retain(|seen| *seen != format!(".new-{name}"));
        seen.extend(names(&right));
        seen.sort();
        seen.dedup();
        assert_eq!(seen, [name], "{what}: other names were there{}", pair.story());
        assert!(fs::read(right.join(name)).unwrap() == contents, "{what}: other contents{}", pair.story());
        pair.stop();
    }
}

/// What may become of an archive's file.
type Damage = fn(&Path);

fn damages() -> Vec<(&'static str, Damage)> {
    fn change(file: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = fs::read(file).unwrap();
        change(&mut bytes);
        fs::write(file, bytes).unwrap();
    }
    vec![
        ("zeroed", |file| change(file, |bytes| bytes.fill(0))),
        ("cut in half", |file| change(file, |bytes| bytes.truncate(bytes.len() / 2))),
        ("text", |file| fs::write(file, "no archive at all\n".repeat(100)).unwrap()),
        ("garbage in the middle", |file| {
            change(file, |bytes| {
                let pages = bytes.len() / 4096;
                (1..pages).for_each(|page| bytes[page * 4096..page * 4096 + 600].fill(0x55));
            });
        }),
        ("a page of rows is garbage, and only that", |file| {
            // The last page with rows in it: it is met when they are read, not at the opening.
            let find = "SELECT max(pageno) FROM dbstat WHERE name = 'rows' AND pagetype = 'leaf'";
            let page = rusqlite::Connection::open(file).unwrap().query_row(find, [], |row| row.get::<_, i64>(0));
            let page = usize::try_from(page.unwrap_or(4)).unwrap() - 1;
            change(file, |bytes| bytes[page * 4096..page * 4096 + 4096].fill(0x55));
        }),
        ("a table is missing", |file| {
            rusqlite::Connection::open(file).unwrap().execute_batch("DROP TABLE tombstones").unwrap();
        }),
        ("a row that makes no sense", |file| {
            rusqlite::Connection::open(file).unwrap().execute_batch("UPDATE rows SET kind = 'x'").unwrap();
        }),
    ]
}

#[test]
fn a_damaged_archive_halts_and_says_how_to_go_on() {
    for (n, (what, damage)) in damages().into_iter().enumerate() {
        let mut pair = Pair::new();
        for n in 0..60 {
            plant(pair.left.join(format!("dir{}/file{n}", n % 5)), format!("text {n}\n"));
        }
        pair.run();
        pair.settle();
        pair.stop();
        let root = pair.sides()[n % 2].to_owned();
        let own = Pair::own(&root);
        damage(&own.join("archive.db"));
        // Since then one file is another, and one is new.
        save(root.join("dir0/file0"), "changed\n");
        write(root.join("new"), "new\n");
        let once = pair.sync_once();
        assert_eq!(once.code(), 7, "{what}: {}{}", once.stderr, pair.story());
        for words in ["archive", "--accept --union"] {
            assert!(once.stderr.contains(words), "{what}: {words:?} is not in\n{}", once.stderr);
        }
        let once = pair.sync_with(&["--accept"]);
        assert_eq!(once.code(), 7, "{what}: --accept alone: {}", once.stderr);
        let once = pair.sync_with(&["--accept", "--union"]);
        assert_eq!(once.code(), 0, "{what}: {}{}", once.stderr, pair.story());
        pair.assert_equal();
        assert_eq!(read(pair.left.join("new")), "new\n", "{what}");
        assert_eq!(read(pair.right.join("dir0/file0")), "changed\n", "{what}");
        // With what belonged to it, which has another end.
        let is_kept =
            |name: &&String| name.starts_with("archive.db.damaged-") && name.ends_with(|c: char| c.is_ascii_digit());
        let kept = names(&own).iter().filter(is_kept).count();
        // A row that makes no sense goes with all the others; the file is whole.
        assert!(kept == 1 || what == "a row that makes no sense", "{what}: {kept} kept aside: {:?}", names(&own));
        // From now on as ever.
        remove(pair.left.join("new"));
        pair.sync();
        assert!(!pair.right.join("new").exists(), "{what}: it is back");
    }
}

#[test]
fn archives_that_changed_places_halt_and_say_how_to_go_on() {
    let mut pair = Pair::new();
    for n in 0..20 {
        plant(pair.left.join(format!("file{n}")), format!("text {n}\n"));
    }
    pair.run();
    pair.settle();
    pair.stop();
    let [left, right] = pair.sides().map(|root| Pair::own(root).join("archive.db"));
    let beside = pair.beside("archive");
    rename(&left, &beside);
    rename(&right, &left);
    rename(&beside, &right);
    let once = pair.sync_once();
    assert_eq!(once.code(), 7, "{}{}", once.stderr, pair.story());
    assert!(once.stderr.contains("--accept --union") && once.stderr.contains(NAME), "{}", once.stderr);
    let once = pair.sync_with(&["--accept", "--union"]);
    assert_eq!(once.code(), 0, "{}{}", once.stderr, pair.story());
    pair.assert_equal();
    write(pair.left.join("file0"), "after that\n");
    pair.sync();
}
