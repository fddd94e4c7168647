//! Users of no rights of their own who exchange names as fast as the kernel lets them, while psync, as root, works on the
//! same names. The right side's honest work makes psync act on the left, where they race.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, linkat, mkdirat, mknodat, open, openat, renameat_with,
    symlinkat, unlinkat,
};

use crate::roll::{Roll, bound, seed};
use crate::scene::{Attacked, MEMORY_MAX};
use crate::support::users::{plant, write};
use crate::support::{NAME, PATIENCE, PSYNC, Pair, poll, process, run_to_end, tools};
use crate::victims::Victims;

/// A user of nothing but what lies in the roots.
const USER: u32 = 54_321;
/// What the player is told by.
const PLAY: &str = "PSYNC_HOSTILE_PLAY";

/// What the player does: in `dir`, which it opens first, it exchanges `name` with one decoy after another.
#[derive(serde::Serialize, serde::Deserialize)]
struct Play {
    dir: PathBuf,
    name: PathBuf,
    victims: PathBuf,
    /// What it makes; the hard link is to a file that it may write.
    decoys: Vec<String>,
    /// Where it says how often, and hears that it is over.
    told: PathBuf,
    most: u64,
    seconds: u64,
}

const LINK_TO_FILE: &str = "link to a file";
const LINK_TO_DIR: &str = "link to a directory";
const HARD_LINK: &str = "hard link";
const FIFO: &str = "fifo";
const FILE: &str = "file";
const DIR: &str = "dir";

impl Play {
    /// Makes a decoy in the directory that is open, wherever that lies by now.
    fn make(&self, dir: impl AsFd, decoy: &str) -> rustix::io::Result<()> {
        let of = |name: &str| self.victims.join(name);
        match decoy {
            LINK_TO_FILE => symlinkat(of("f"), dir, decoy),
            LINK_TO_DIR => symlinkat(of("dir"), dir, decoy),
            HARD_LINK => linkat(CWD, of("shared"), dir, decoy, AtFlags::empty()),
            FIFO => mknodat(dir, decoy, FileType::Fifo, Mode::RWXU, 0),
            FILE => openat(dir, decoy, OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY, Mode::RWXU).map(drop),
            DIR => mkdirat(&dir, decoy, Mode::RWXU).and_then(|()| {
                let file = format!("{decoy}/f");
                openat(dir, file, OFlags::CREATE | OFlags::WRONLY, Mode::RWXU).map(drop)
            }),
            other => panic!("no decoy {other}"),
        }
    }

    /// The number of exchanges.
    fn run(&self) -> u64 {
        // Held open: what is moved to the trash meanwhile is raced for there.
        let enter = || open(&self.dir, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty());
        let mut dir = enter().unwrap();
        self.decoys.iter().for_each(|decoy| self.make(&dir, decoy).unwrap_or_else(|e| panic!("{decoy}: {e}")));
        fs::write(self.told.with_extension("ready"), "").unwrap();
        let end = Instant::now() + Duration::from_secs(self.seconds);
        let (mut count, mut since, mut tries, mut gone) = (0, 0, 0_u64, 0_u64);
        let over = || Instant::now() > end || self.told.with_extension("stop").exists();
        while count < self.most && (tries % 256 != 0 || !over()) {
            tries += 1;
            let decoy = &self.decoys[tries as usize % self.decoys.len()];
            // In, and out again: the name is never what it was for long.
            for _ in 0..2 {
                count +=
                    u64::from(renameat_with(&dir, &self.name, &dir, decoy.as_str(), RenameFlags::EXCHANGE).is_ok());
            }
            if tries % 1024 == 0 {
                // What psync took away is there again; most of it is, and then this fails.
                let made = self.decoys.iter().filter(|decoy| self.make(&dir, decoy).is_ok()).count();
                let decoy = &self.decoys[tries as usize / 1024 % self.decoys.len()];
                let named = renameat_with(&dir, decoy.as_str(), &dir, &self.name, RenameFlags::NOREPLACE).is_ok();
                let idle = count == since && made == 0 && !named;
                since = count;
                if idle {
                    // The directory itself is gone, or somebody else's.
                    gone += 1;
                    let _ = fs::rename(&self.dir, self.dir.with_extension(format!("old{}", gone % 64)));
                    let _ = fs::create_dir(&self.dir);
                    dir = enter().unwrap_or(dir);
                }
            }
        }
        fs::write(&self.told, count.to_string()).unwrap();
        count
    }
}

/// The player by itself; as a child of the other tests, with a play of theirs.
#[test]
fn a_player_exchanges_names() {
    if let Ok(play) = std::env::var(PLAY) {
        serde_json::from_str::<Play>(&play).unwrap().run();
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let victims = Victims::new(temp.path().join("victims"));
    let dir = temp.path().join("dir");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("name"), "").unwrap();
    let decoys = [LINK_TO_FILE, LINK_TO_DIR, HARD_LINK, FIFO, FILE, DIR].map(String::from).to_vec();
    let told = temp.path().join("told");
    let play = Play { dir, name: "name".into(), victims: victims.dir.clone(), decoys, told, most: 1000, seconds: 60 };
    assert!(play.run() >= 1000);
}

/// A pair whose trees belong to the user, with victims beside them.
struct Race {
    pair: Pair,
    victims: Victims,
    program: PathBuf,
    players: Vec<(Child, PathBuf)>,
    roll: Roll,
    begun: Instant,
}

fn seconds() -> u64 {
    bound("PSYNC_HOSTILE_SECONDS", 6)
}

fn most() -> u64 {
    bound("PSYNC_HOSTILE_EXCHANGES", u64::MAX)
}

impl Race {
    /// `None`: without root there is nobody to be.
    fn new(what: &str, options: &[&str]) -> Option<Race> {
        if !process::is_root() {
            tools::missing("root");
            return None;
        }
        let roll = Roll::new(seed(what));
        let pair = Pair::new().with(options);
        let program = pair.beside("player");
        // The user may not enter where tests are built.
        let exe = std::env::current_exe().unwrap();
        fs::hard_link(&exe, &program).unwrap_or_else(|_| tools::copy_program(&exe, &program));
        crate::scene::open_to_all(&pair.beside(""));
        let victims = Victims::new(pair.beside("victims"));
        plant(pair.left.join("d/f"), "contents\n");
        plant(pair.left.join("d/e/f"), "contents\n");
        plant(pair.left.join("t/name/f"), "contents\n");
        plant(pair.left.join("stays"), "");
        tools::run(&pair.left, "chown", &["-R", &format!("{USER}:{USER}"), "."]);
        tools::run(&pair.right, "chown", &[&format!("{USER}:{USER}"), "."]);
        pair.sync();
        fs::create_dir(pair.beside("told")).unwrap();
        fs::set_permissions(pair.beside("told"), fs::Permissions::from_mode(0o777)).unwrap();
        Some(Race { pair, victims, program, players: Vec::new(), roll, begun: Instant::now() })
    }

    /// Lets the user play in a directory of the left root, by name.
    fn play(&mut self, dir: PathBuf, name: &str, decoys: &[&str]) {
        let told = self.pair.beside("told").join(self.players.len().to_string());
        // Whatever came before it was no race.
        self.begun = Instant::now();
        // A long run is bounded by its exchanges.
        let seconds = if most() == u64::MAX { seconds() + 60 } else { 86_400 };
        let decoys = decoys.iter().map(|decoy| (*decoy).to_owned()).collect();
        let (victims, told_here) = (self.victims.dir.clone(), told.clone());
        let play = Play { dir, name: name.into(), victims, decoys, told: told_here, most: most(), seconds };
        let mut command = Command::new(&self.program);
        command.args(["--exact", "races::a_player_exchanges_names", "--nocapture", "--test-threads=1"]);
        command.env(PLAY, serde_json::to_string(&play).unwrap()).env("TMPDIR", "/tmp").current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).gid(USER).uid(USER);
        let ready = told.with_extension("ready");
        let mut player = command.spawn().unwrap();
        // The next one would race for the way to his own directory.
        let plays = poll(PATIENCE, || ready.exists() || player.try_wait().unwrap().is_some());
        assert!(plays && ready.exists(), "a player does not begin");
        self.players.push((player, told));
    }

    /// Whether the race goes on: for a time, or until the players have had their number.
    fn goes_on(&mut self) -> bool {
        match most() {
            u64::MAX => self.begun.elapsed() < Duration::from_secs(seconds()),
            _ => self.players.iter_mut().any(|(player, _)| player.try_wait().unwrap().is_none()),
        }
    }

    /// Ends the players; nothing outside was touched, and they did play.
    fn end(mut self, what: &str) {
        let mut sum = 0;
        for (player, told) in &mut self.players {
            fs::write(told.with_extension("stop"), "").unwrap();
            assert!(poll(PATIENCE, || player.try_wait().unwrap().is_some()), "a player does not end");
            sum += fs::read_to_string(told).unwrap_or_default().parse::<u64>().unwrap_or(0);
        }
        println!("{what}: {sum} exchanges in {:?}", self.begun.elapsed());
        self.victims.assert_untouched(what);
        assert!(sum > 1000, "{what}: only {sum} exchanges");
    }

    /// The directory of a path on the right side, as an honest user knows it: one that follows none of the links that came
    /// from the other side. What lies in the way of a directory gives way.
    fn honest_dir(&self, path: &str) -> Option<(PathBuf, OwnedFd)> {
        let parts: Vec<&str> = path.split('/').collect();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut dir = open(&self.pair.right, flags, Mode::empty()).ok()?;
        for part in &parts[..parts.len() - 1] {
            dir = openat(&dir, *part, flags, Mode::empty())
                .or_else(|_| {
                    let _ = unlinkat(&dir, *part, AtFlags::empty());
                    mkdirat(&dir, *part, Mode::from_raw_mode(0o755))?;
                    openat(&dir, *part, flags, Mode::empty())
                })
                .ok()?;
        }
        Some((PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(parts.last()?), dir))
    }

    /// One piece of honest work on a name of the right side.
    fn work(&mut self, path: &str) {
        let Some((file, dir)) = self.honest_dir(path) else { return };
        let moved = self.pair.right.join("moved");
        let write = |file: &Path, text: &str| {
            use std::os::unix::fs::OpenOptionsExt;
            let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
            let options = fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .custom_flags(flags.bits() as i32)
                .open(file);
            options.and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()))
        };
        let changed = |mode: u32| {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
            Ok(rustix::fs::fchmod(open(&file, flags, Mode::empty())?, Mode::from_raw_mode(mode))?)
        };
        let temporary = file.with_extension("tmp");
        let _: std::io::Result<()> = match self.roll.below(9) {
            0 => write(&file, &format!("{}\n", self.roll.number())),
            1 => changed(*self.roll.pick(&[0o600, 0o644, 0o666, 0o755])),
            2 => std::os::unix::fs::lchown(&file, Some(*self.roll.pick(&[USER, 1000])), None),
            3 => fs::remove_file(&file),
            4 => fs::remove_dir_all(&file).and_then(|()| write(&file, "was a directory\n")),
            5 => write(&file, "new\n"),
            6 => fs::rename(&file, moved),
            7 => fs::rename(moved, &file),
            _ => write(&temporary, "saved\n").and_then(|()| fs::rename(&temporary, &file)),
        };
        drop(dir);
    }

    /// Runs psync on the pair, and the honest side's work on these names, as long as the race goes on.
    fn live(mut self, what: &str, paths: &[&str]) {
        let mut command = Command::new(PSYNC);
        command.args(self.pair.arguments(&[])).stdin(Stdio::null()).stdout(Stdio::null());
        let mut psync = Attacked::start(&mut command);
        while self.goes_on() {
            let path = *self.roll.pick(paths);
            self.work(path);
            thread::sleep(Duration::from_millis(3));
            assert!(psync.is_running(), "{what}: psync ended: {}", psync.said());
        }
        process::send(psync.pid(), nix::sys::signal::Signal::SIGTERM);
        psync.wait_end(PATIENCE).unwrap_or_else(|why| panic!("{what}: {why}"));
        assert!(psync.peak() < MEMORY_MAX);
        self.end(what);
    }

    /// Runs a command again and again as long as the race goes on.
    fn again_and_again(mut self, what: &str, codes: &[i32], command: impl Fn(&Pair) -> Command, paths: &[&str]) {
        let mut runs = 0;
        while self.goes_on() {
            for _ in 0..3 {
                let path = *self.roll.pick(paths);
                self.work(path);
            }
            let once = run_to_end(command(&self.pair));
            assert!(
                codes.contains(&once.code()) && !once.stderr.contains("panicked"),
                "{what}: {} {}",
                once.status,
                once.stderr
            );
            runs += 1;
        }
        println!("{what}: {runs} runs");
        self.end(what);
    }

    fn file(&self, more: &str) -> String {
        let file = self.pair.beside(&format!("{NAME}.toml"));
        let (left, right) = (&self.pair.left, &self.pair.right);
        write(&file, format!("{more}[left]\nroot = {left:?}\n[right]\nroot = {right:?}\n"));
        file.to_str().unwrap().to_owned()
    }
}

impl Drop for Race {
    fn drop(&mut self) {
        for (player, _) in &mut self.players {
            let _ = player.kill();
            let _ = player.wait();
        }
    }
}

#[test]
fn the_name_of_a_file_is_raced_for() {
    let Some(mut race) = Race::new("file", &[]) else { return };
    let dir = race.pair.left.join("d");
    race.play(dir, "f", &[LINK_TO_FILE, HARD_LINK, FIFO, FILE, DIR, LINK_TO_DIR]);
    race.live("file", &["d/f"]);
}

#[test]
fn the_name_of_a_directory_is_raced_for() {
    let Some(mut race) = Race::new("directory", &[]) else { return };
    let root = race.pair.left.clone();
    race.play(root, "d", &[LINK_TO_DIR, DIR, LINK_TO_FILE, FIFO]);
    race.live("directory", &["d/f", "d/e/f", "d/e"]);
}

#[test]
fn names_are_raced_for_while_contents_go_through_rsync() {
    if !tools::has("rsync") {
        return;
    }
    let Some(mut race) = Race::new("rsync", &["-x=-z"]) else { return };
    let (root, dir) = (race.pair.left.clone(), race.pair.left.join("d/e"));
    race.play(dir, "f", &[LINK_TO_FILE, HARD_LINK, FIFO]);
    race.play(root, "d", &[LINK_TO_DIR, DIR]);
    race.live("rsync", &["d/f", "d/e/f"]);
}

#[test]
fn what_is_in_the_trash_already_is_raced_for() {
    // It is thrown away at once: nothing may be kept.
    let Some(mut race) = Race::new("trash", &[]) else { return };
    let config = race.pair.beside("more.toml");
    write(&config, "trash_max = \"0%\"\n");
    let dir = race.pair.left.join("t");
    race.play(dir, "name", &[HARD_LINK, LINK_TO_DIR, DIR, LINK_TO_FILE, FIFO]);
    race.pair = std::mem::replace(&mut race.pair, Pair::new()).with(&["--config", config.to_str().unwrap()]);
    race.live("trash", &["t", "t/name", "t/name/f"]);
}

#[test]
fn a_full_synchronisation_is_raced_against() {
    let Some(mut race) = Race::new("full sync", &[]) else { return };
    let (root, dir) = (race.pair.left.clone(), race.pair.right.join("d/e"));
    race.play(dir, "f", &[LINK_TO_FILE, HARD_LINK, DIR]);
    race.play(root, "d", &[LINK_TO_DIR, DIR, FIFO]);
    let command = |pair: &Pair| {
        let mut command = Command::new("timeout");
        // As long as somebody changes names all the time the two sides are never equal.
        command.args(["--foreground", "--preserve-status", "2", PSYNC]).args(pair.arguments(&["-s", "--accept"]));
        command
    };
    // 5: something could not be synchronised.
    race.again_and_again("full sync", &[0, 3, 5], command, &["d/f", "stays", "t/name/f"]);
}

#[test]
fn a_check_that_keeps_copies_is_raced_against() {
    let Some(mut race) = Race::new("check", &[]) else { return };
    let file = race.file("");
    let (root, dir) = (race.pair.left.clone(), race.pair.left.join("d/e"));
    race.play(dir, "f", &[LINK_TO_FILE, HARD_LINK, FIFO]);
    race.play(root, "d", &[LINK_TO_DIR, DIR, FIFO]);
    let command = move |_: &Pair| {
        let mut command = Command::new(PSYNC);
        command.args(["check", &file, "-b", "-c", "-n", "1"]);
        command
    };
    race.again_and_again("check", &[0, 1, 2, 3, 4], command, &["d/f", "d/e/f", "t/name/f"]);
}

#[test]
fn the_way_back_from_the_trash_is_raced_for() {
    let Some(mut race) = Race::new("restore", &[]) else { return };
    let file = race.file("");
    // Something to be restored: many versions of one file.
    for version in 0..30 {
        write(race.pair.left.join("d/e/f"), format!("version {version}\n"));
        std::os::unix::fs::chown(race.pair.left.join("d/e/f"), Some(USER), Some(USER)).unwrap();
        race.pair.sync();
    }
    fs::remove_file(race.pair.left.join("d/e/f")).unwrap();
    race.pair.sync();
    let (root, dir) = (race.pair.right.clone(), race.pair.right.join("d"));
    race.play(dir, "e", &[LINK_TO_DIR, DIR, FIFO]);
    race.play(root, "d", &[LINK_TO_DIR, DIR]);
    let restored = AtomicBool::new(false);
    let mut runs = 0;
    while race.goes_on() {
        let listed = run_to_end({
            let mut command = Command::new(PSYNC);
            command.args(["trash", &file, "list", "--json"]);
            command
        });
        let ids: Vec<String> = listed
            .stdout
            .lines()
            .filter_map(|line| {
                let version: serde_json::Value = serde_json::from_str(line).ok()?;
                Some(version["id"].as_str()?.to_owned())
            })
            .collect();
        for id in ids.iter().take(20) {
            let mut command = Command::new(PSYNC);
            command.args(["trash", &file, "restore", id]);
            let once = run_to_end(command);
            assert!(!once.stderr.contains("panicked"), "{}", once.stderr);
            restored.fetch_or(once.code() == 0, Ordering::Relaxed);
            if let Some((file, _dir)) = race.honest_dir("d/e/f") {
                let _ = fs::remove_file(file);
            }
            runs += 1;
            if !race.goes_on() {
                break;
            }
        }
        assert!(runs > 0 || !ids.is_empty(), "nothing is listed: {}{}", listed.stdout, listed.stderr);
    }
    println!("restore: {runs} runs");
    assert!(runs > 5, "nothing was restored");
    race.end("restore");
}

#[test]
fn mounts_in_a_users_own_namespace_change_nothing() {
    let Some(mut race) = Race::new("mounts", &[]) else { return };
    if !tools::has("unshare") {
        return;
    }
    let script = format!(
        "mount --bind {victims}/dir {left}/d/e && mount --bind {victims}/f {left}/d/f && echo mounted && exec sleep 600",
        victims = race.victims.dir.display(),
        left = race.pair.left.display()
    );
    let mut command = Command::new("unshare");
    command.args(["-Urm", "sh", "-c", &script]).gid(USER).uid(USER).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut holder = command.spawn().unwrap();
    let mut said = String::new();
    let stdout = holder.stdout.take().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut said).unwrap();
    if said != "mounted\n" {
        let _ = holder.wait();
        return tools::missing("a user namespace with mounts");
    }
    // The binds opened the victims' directories in passing; that was not psync.
    race.victims.forget();
    let root = race.pair.left.clone();
    race.play(root, "d", &[LINK_TO_DIR, DIR]);
    let pid = holder.id() as i32;
    let _guard = Guard(pid);
    race.live("mounts", &["d/f", "d/e/f", "d/e", "d"]);
    let _ = process::alive(pid);
    process::send(pid, nix::sys::signal::Signal::SIGKILL);
    let _ = holder.wait();
}

struct Guard(i32);

impl Drop for Guard {
    fn drop(&mut self) {
        process::send(self.0, nix::sys::signal::Signal::SIGKILL);
    }
}

/// A name in the tree of a file that lies outside: its owner and mode are not the tree's business.
#[test]
fn a_hard_link_to_what_lies_outside_gives_nobody_its_rights() {
    type Change = fn(&std::path::Path);
    let changes: [(&str, Change); 6] = [
        ("mode", |file| fs::set_permissions(file, fs::Permissions::from_mode(0o777)).unwrap()),
        ("owner", |file| std::os::unix::fs::chown(file, Some(USER), None).unwrap()),
        ("group", |file| std::os::unix::fs::chown(file, None, Some(USER)).unwrap()),
        ("both", |file| {
            std::os::unix::fs::chown(file, Some(USER), Some(USER)).unwrap();
            fs::set_permissions(file, fs::Permissions::from_mode(0o4777)).unwrap();
        }),
        ("another file of equal contents", |file| {
            let contents = fs::read(file).unwrap();
            fs::remove_file(file).unwrap();
            fs::write(file, contents).unwrap();
            std::os::unix::fs::chown(file, Some(USER), Some(USER)).unwrap();
            crate::support::users::touch(file, 1_500_000_000, 0);
        }),
        ("time", |file| crate::support::users::touch(file, 1_400_000_000, 0)),
    ];
    for (name, change) in changes {
        let Some(mut race) = Race::new("hard link", &[]) else { return };
        for (from, to) in
            [(race.pair.left.clone(), race.pair.right.clone()), (race.pair.right.clone(), race.pair.left.clone())]
        {
            let file = "d/a name of theirs";
            let linked = run_to_end({
                let mut command = Command::new("ln");
                command.arg(race.victims.of("shared")).arg(from.join(file)).gid(USER).uid(USER);
                command
            });
            assert_eq!(linked.code(), 0, "{}", linked.stderr);
            race.pair.sync();
            change(&to.join(file));
            race.pair.sync();
            race.victims.assert_untouched(&format!("hard link, {name}, to {from:?}"));
            fs::remove_file(from.join(file)).unwrap();
            fs::remove_file(to.join(file)).unwrap();
            race.pair.sync();
        }
    }
}

/// psync's own directory in a root that a user may write: under its name lies another one, with links in it.
#[test]
fn psyncs_own_directory_is_exchanged() {
    let Some(mut race) = Race::new("own directory", &[]) else { return };
    let mut command = Command::new(PSYNC);
    command.args(race.pair.arguments(&[])).stdin(Stdio::null()).stdout(Stdio::null());
    let mut psync = Attacked::start(&mut command);
    assert!(poll(PATIENCE, || psync.said().contains(" in sync: ")), "{}", psync.said());
    for (side, aside) in
        [(race.pair.left.clone(), "aside of the left"), (race.pair.right.clone(), "aside of the right")]
    {
        let script = format!(
            "cd {root} && mv .psync '{aside}' && mkdir -p .psync/{NAME}/trash .psync/{NAME}/stage && cd .psync/{NAME} && \
             for name in trash.list events events.1 heartbeat archive.db archive.db-wal archive.db-journal lock; do ln -s {victim} $name; done; \
             rmdir stage trash; ln -s {dir} stage; ln -s {dir} trash",
            root = side.display(),
            victim = race.victims.of("passwd").display(),
            dir = race.victims.of("dir").display(),
        );
        let mut command = Command::new("sh");
        command.args(["-c", &script]).gid(USER).uid(USER);
        let once = run_to_end(command);
        assert_eq!(once.code(), 0, "{}", once.stderr);
    }
    let end = Instant::now() + Duration::from_secs(seconds().min(20));
    while Instant::now() < end && psync.is_running() {
        for path in ["d/f", "hacker::0:0::\n/bin/sh", "stays", "d/e/f"] {
            race.work(path);
        }
        thread::sleep(Duration::from_millis(20));
    }
    race.victims.assert_untouched("own directory");
    let carried = [race.pair.right.join("aside of the left"), race.pair.left.join("aside of the right")];
    assert!(!carried.iter().any(|aside| aside.exists()), "what was psync's own travelled: {carried:?}");
    process::send(psync.pid(), nix::sys::signal::Signal::SIGTERM);
    psync.wait_end(PATIENCE).unwrap_or_else(|why| panic!("{why}"));
    race.victims.assert_untouched("own directory");
}
