//! Contents that go through rsync.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;

use crate::support::line::Line;
use crate::support::service::Service;
use crate::support::users::*;
use crate::support::{PATIENCE, PSYNC, Pair, poll, process, tools};

const MIB: usize = 1 << 20;

/// The rsync of this machine; without one the tests are skipped.
fn real() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let found = std::env::split_paths(&path).map(|dir| dir.join("rsync")).find(|file| file.exists());
    if found.is_none() {
        tools::missing("rsync");
    }
    found
}

/// An rsync that stands before the real one: it counts the files that it sends and does what it is told to.
struct Rsync(PathBuf);

impl Rsync {
    fn before(pair: Pair, real: &Path) -> (Pair, Rsync) {
        let here = pair.beside("rsync");
        fs::create_dir(&here).unwrap();
        let dir = here.display();
        // It is confined as the real one is, and writes nothing: the test is told of each call, and says what is to be done.
        let script = format!(
            r#"#!/usr/bin/python3 -IS
import os, socket, sys
more = []
if sys.argv[1] != "--server":
    asked = socket.socket(socket.AF_UNIX)
    asked.connect("{dir}/asked")
    asked.sendall(b"?")
    word = asked.makefile().read().strip()
    asked.close()
    if word == "slow":
        more = ["--bwlimit=1m"]
    elif word:
        print("rsync: boom\nrsync error: some error", file=sys.stderr)
        sys.exit(int(word))
os.execv("{real}", ["{real}"] + more + sys.argv[1:])
"#,
            real = real.display()
        );
        let (listener, told) = (UnixListener::bind(here.join("asked")).unwrap(), here.clone());
        std::thread::spawn(move || {
            for call in listener.incoming() {
                let word = Rsync(told.clone()).answer();
                // Whoever was killed meanwhile hears nothing.
                let _ = call.and_then(|mut call| {
                    call.read_exact(&mut [0])?;
                    call.write_all(word.as_bytes())
                });
            }
        });
        let program = here.join("rsync");
        write(&program, script);
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let path = format!("PATH={dir}:{}", std::env::var("PATH").unwrap());
        (pair.through(&["env", &path, PSYNC]), Rsync(here))
    }

    /// Counts a call by a source, and says what it is to do.
    fn answer(&self) -> String {
        write(self.0.join("calls"), "x\n".repeat(self.calls() + 1));
        let mut failures: Vec<_> = fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().path()).collect();
        failures.retain(|path| path.file_stem().is_some_and(|stem| stem == "fail"));
        failures.sort();
        match failures.first() {
            Some(failure) => {
                let code = read(failure);
                remove(failure);
                code
            }
            None if self.0.join("slow").exists() => "slow".to_owned(),
            None => String::new(),
        }
    }

    /// How often it was called by a source.
    fn calls(&self) -> usize {
        fs::read_to_string(self.0.join("calls")).unwrap_or_default().lines().count()
    }

    fn be_slow(&self) {
        write(self.0.join("slow"), "");
    }

    fn be_fast(&self) {
        remove(self.0.join("slow"));
    }

    /// The client ends with these codes, one after the other, before it works again.
    fn fail(&self, codes: &[u8]) {
        for (n, code) in codes.iter().enumerate() {
            write(self.0.join(format!("fail.{n}")), code.to_string());
        }
    }
}

fn by_rsync(pair: Pair) -> Pair {
    let file = pair.beside("psync.toml");
    write(&file, "transfer = \"rsync\"\n");
    pair.with(&["--config", file.to_str().unwrap()])
}

/// All processes below these that are rsync.
fn rsyncs(above: &[i32]) -> Vec<i32> {
    let mut found = Vec::new();
    let mut look = above.to_vec();
    while let Some(pid) = look.pop() {
        look.extend(process::children(pid));
        if fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "rsync") {
            found.push(pid);
        }
    }
    found
}

fn stage(root: &Path) -> usize {
    fs::read_dir(Pair::own(root).join("stage")).unwrap().count()
}

/// What has arrived in the stages so far.
fn staged(pair: &Pair) -> u64 {
    fn bytes(directory: &Path) -> u64 {
        let entries = fs::read_dir(directory).map(|all| all.flatten().collect::<Vec<_>>()).unwrap_or_default();
        entries
            .iter()
            .map(|e| if e.path().is_dir() { bytes(&e.path()) } else { e.metadata().map_or(0, |m| m.len()) })
            .sum()
    }
    pair.sides().map(|side| bytes(&Pair::own(side).join("stage"))).iter().sum()
}

#[test]
fn all_contents_go_through_rsync_both_ways() {
    let Some(real) = real() else { return };
    let (pair, rsync) = Rsync::before(by_rsync(Pair::new()), &real);
    let mut pair = pair;
    let long = "n".repeat(255);
    let names: Vec<&OsStr> = [b"small".as_slice(), b"-e sh", b"a b'c\"d", b"new\nline", b"\xff\xfe", b"*", b"~"]
        .into_iter()
        .chain([long.as_bytes()])
        .map(OsStr::from_bytes)
        .collect();
    for (n, side) in pair.sides().into_iter().enumerate() {
        let dir = side.join(format!("before{n}"));
        for name in &names {
            plant(dir.join(name), format!("{name:?} {n}\n"));
        }
    }
    pair.run();
    assert_eq!(rsync.calls(), 2 * names.len(), "each file by one rsync{}", pair.story());
    let mut files = 2 * names.len();
    for (n, side) in [pair.left.clone(), pair.right.clone()].into_iter().enumerate() {
        let at = |name: &str| side.join(format!("{name}{n}"));
        write(at("small"), "small\n");
        write(at("big"), noise(n as u64, 3 * MIB));
        write(at("empty"), "");
        // Made elsewhere, so that each is sent once.
        let new = pair.beside("new");
        write(&new, "#!/bin/sh\n");
        chmod(&new, 0o750);
        rename(&new, at("tool"));
        write(&new, "");
        truncate(&new, 20 * MIB as u64);
        write_at(&new, 10 * MIB as u64, "in the middle");
        rename(&new, at("hole"));
        pair.settle();
        files += 4;
        assert_eq!(rsync.calls(), files, "{}", pair.story());
        for side in pair.sides() {
            let blocks = fs::metadata(side.join(format!("hole{n}"))).unwrap().blocks();
            assert!(blocks * 512 < 2 * MIB as u64, "the hole is filled: {blocks} blocks");
        }
        write(at("small"), "another\n");
        write(&new, [noise(9, 5), noise(n as u64, 3 * MIB)].concat());
        rename(&new, at("big"));
        pair.settle();
        files += 2;
        // A rename, a deletion and attributes are none of rsync's business.
        rename(at("big"), at("moved"));
        remove(at("small"));
        chmod(at("tool"), 0o700);
        pair.settle();
        assert_eq!(rsync.calls(), files, "{}", pair.story());
    }
    for side in pair.sides() {
        assert_eq!(stage(side), 0);
    }
    pair.stop();
}

#[test]
fn of_a_changed_big_file_rsync_sends_the_change() {
    if real().is_none() {
        return;
    }
    let pair = by_rsync(Pair::new());
    let mut service = Service::start(&pair, "transfer = \"rsync\"\n");
    let line = Line::new(&pair, &service.run);
    let command = Service::connect(&line.run);
    let mut pair = pair.with(&["--proxy-command", &command]);
    write(pair.left.join("big"), noise(1, 12 * MIB));
    pair.run();
    pair.settle();
    for side in [pair.left.clone(), pair.right.clone()] {
        write(side.join("big"), noise(1, 12 * MIB));
        pair.settle();
        for what in ["in place", "in front"] {
            let before = line.carried();
            match what {
                "in place" => write_at(side.join("big"), 5 * MIB as u64 + 3, "in place"),
                _ => {
                    let new = side.with_file_name("new");
                    write(&new, [noise(2, 10_000), fs::read(side.join("big")).unwrap()].concat());
                    rename(new, side.join("big"));
                }
            }
            pair.settle();
            let carried: u64 = line.carried().iter().zip(before).map(|(now, before)| now - before).sum();
            assert!(carried < 200_000, "{what} in {side:?}: {carried} bytes on the line{}", pair.story());
        }
    }
    pair.stop();
    service.stop();
}

#[test]
fn an_option_that_only_rsync_has_makes_rsync_the_mover() {
    let Some(real) = real() else { return };
    for (extra, wanted) in
        [(&["-x", "-S", "-x", "--fsync"][..], true), (&["-x", "--cc=md5", "-x", "-z"], true), (&["-x", "-WaS"], false)]
    {
        let (pair, rsync) = Rsync::before(Pair::new().with(extra), &real);
        let mut pair = pair;
        pair.run();
        for side in [pair.left.clone(), pair.right.clone()] {
            write(side.join("zeros"), vec![0; 8 * MIB]);
            pair.settle();
            remove(side.join("zeros"));
            pair.settle();
        }
        write(pair.left.join("zeros"), vec![0; 8 * MIB]);
        pair.settle();
        assert_eq!(rsync.calls() > 0, wanted, "{extra:?}{}", pair.story());
        if extra.contains(&"-S") && wanted {
            let blocks = fs::metadata(pair.right.join("zeros")).unwrap().blocks();
            assert!(blocks * 512 < MIB as u64, "--sparse was not heard of: {blocks} blocks");
        }
        pair.stop();
    }
}

#[test]
fn without_an_rsync_the_file_has_a_problem_until_there_is_one() {
    let Some(real) = real() else { return };
    let pair = by_rsync(Pair::new());
    let here = pair.beside("programs");
    fs::create_dir(&here).unwrap();
    let mut pair = pair.through(&["env", &format!("PATH={}", here.display()), PSYNC]);
    pair.run();
    write(pair.left.join("file"), "text\n");
    let told = |line: &str| line.contains("file") && line.contains("rsync is not installed");
    assert!(pair.wait_said(PATIENCE, told), "{}", pair.story());
    // The rest goes on.
    mkdir(pair.right.join("directory"));
    assert!(poll(PATIENCE, || pair.left.join("directory").is_dir()), "{}", pair.story());
    symlink(real, here.join("rsync"));
    pair.settle();
    assert_eq!(pair.lines().iter().filter(|line| told(line)).count(), 1, "told more than once{}", pair.story());
    pair.stop();
}

/// Either rsync talks to one of the other host. The receiver's reads the file that it replaces, the source's the one that it
/// sends, and neither any other of the users'; the source's writes nothing.
#[test]
fn neither_rsync_reads_more_than_its_own_file() {
    let Some(real) = real() else { return };
    if !psync::sys::confine::extent().0 {
        return tools::missing("Landlock");
    }
    let pair = by_rsync(Pair::new());
    let here = pair.beside("programs");
    fs::create_dir(&here).unwrap();
    plant(pair.left.join("neighbour"), "a neighbour's\n");
    plant(pair.right.join("neighbour"), "a neighbour's\n");
    write(pair.beside("secret"), "a secret\n");
    let [left, right] = [pair.left.join("neighbour"), pair.right.join("neighbour")];
    let script = format!(
        r#"#!/bin/sh
for file in {secret} {left} {right} /etc/shadow /etc/hostname; do
    if cat "$file" > /dev/null 2>&1; then echo "it reads $file" >&2; exit 66; fi
done
if [ "$1" != --server ]; then
    for file in {secret} {left} {right}.new /tmp/.psync-$$; do
        if echo x 2> /dev/null > "$file"; then echo "it reads and writes $file" >&2; exit 68; fi
    done
else
    for word; do case $word in --copy-dest=*) cat "${{word#*=}}/changed" > /dev/null || exit 67 ;; esac; done
fi
exec {real} "$@"
"#,
        secret = pair.beside("secret").display(),
        left = left.display(),
        right = right.display(),
        real = real.display()
    );
    write(here.join("rsync"), script);
    fs::set_permissions(here.join("rsync"), fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("PATH={}:{}", here.display(), std::env::var("PATH").unwrap());
    let mut pair = pair.through(&["env", &path, PSYNC]);
    pair.run();
    for side in [pair.left.clone(), pair.right.clone()] {
        write(side.join("changed"), noise(3, 2 * MIB));
        pair.settle();
        write(side.join("changed"), [noise(9, 5), noise(3, 2 * MIB)].concat());
        pair.settle();
    }
    assert!(!pair.story().contains("it reads"), "{}", pair.story());
    pair.stop();
}

#[test]
fn rsyncs_exit_codes() {
    let Some(real) = real() else { return };
    let (pair, rsync) = Rsync::before(by_rsync(Pair::new()), &real);
    let mut pair = pair;
    pair.run();
    for (n, (codes, told)) in [
        // Gone or changed meanwhile: looked at again, without a word.
        (&[23][..], false),
        (&[24, 23], false),
        // That lasts.
        (&[23, 23, 23], true),
        (&[5], true),
        (&[12, 30], true),
    ]
    .into_iter()
    .enumerate()
    {
        for side in [pair.left.clone(), pair.right.clone()] {
            let name = format!("file{n}{}", side.file_name().unwrap().display());
            rsync.fail(codes);
            write(side.join(&name), format!("{n}\n"));
            pair.settle();
            let problems: Vec<String> = pair.lines().into_iter().filter(|line| line.contains(&name)).collect();
            let last = codes.last().unwrap();
            let words = format!("rsync ended with code {last}: rsync: boom; rsync error: some error");
            assert_eq!(problems.iter().any(|line| line.contains("rsync: boom")), told, "{codes:?}{}", pair.story());
            if codes.len() == 1 && told {
                assert!(problems.iter().any(|line| line.contains(&words)), "{problems:?}");
            }
        }
    }
    pair.stop();
}

/// Each way to end in the middle: nothing torn, nothing left over, and done in the end.
#[test]
fn cut_off_in_the_middle() {
    let Some(real) = real() else { return };
    for what in ["client", "server", "source changes", "source goes", "cancelled by a conflict"] {
        let (pair, rsync) = Rsync::before(by_rsync(Pair::new()), &real);
        let mut pair = pair;
        write(pair.left.join("big"), "old\n");
        pair.run();
        rsync.be_slow();
        write(pair.left.join("big"), noise(1, 6 * MIB));
        assert!(poll(PATIENCE, || staged(&pair) > MIB as u64), "{what}: it never began{}", pair.story());
        rsync.be_fast();
        let running = rsyncs(&pair.processes());
        let server = |pid: &i32| {
            fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|words| words.split(|b| *b == 0).any(|w| w == b"--server"))
        };
        match what {
            "client" => {
                running.iter().filter(|pid| !server(pid)).for_each(|pid| process::send(*pid, Signal::SIGKILL));
            }
            "server" => {
                let pid = running.iter().find(|pid| server(pid)).unwrap();
                process::send(*pid, Signal::SIGKILL);
            }
            "source changes" => append(pair.left.join("big"), "more\n"),
            "source goes" => remove(pair.left.join("big")),
            _ => {
                write(pair.right.join("big"), "the right's\n");
                touch(pair.right.join("big"), 4_000_000_000, 0);
            }
        }
        // Whatever is seen there is whole.
        let seen = |bytes: &[u8]| {
            let versions = [
                b"old\n".to_vec(),
                b"the right's\n".to_vec(),
                noise(1, 6 * MIB),
                [noise(1, 6 * MIB), b"more\n".to_vec()].concat(),
            ];
            versions.iter().any(|version| version == bytes)
        };
        let end = std::time::Instant::now() + std::time::Duration::from_secs(3);
        while std::time::Instant::now() < end {
            if let Ok(bytes) = fs::read(pair.right.join("big")) {
                assert!(
                    seen(&bytes) || bytes.is_empty() && what.contains("conflict"),
                    "{what}: torn: {} bytes",
                    bytes.len()
                );
            }
        }
        pair.settle();
        for side in pair.sides() {
            assert_eq!(stage(side), 0, "{what}: something is left in the stage of {side:?}");
        }
        assert_eq!(rsyncs(&pair.processes()).len(), 0, "{what}: rsyncs are left{}", pair.story());
        let dead = pair.processes().iter().map(|pid| zombies(*pid)).sum::<usize>();
        assert_eq!(dead, 0, "{what}: zombies are left");
        pair.stop();
    }
}

/// How many children of a process nobody has waited for.
fn zombies(parent: i32) -> usize {
    let all = fs::read_dir("/proc").unwrap().flatten().filter_map(|e| fs::read_to_string(e.path().join("stat")).ok());
    all.filter(|stat| {
        let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
        fields[0] == "Z" && fields[1] == parent.to_string()
    })
    .count()
}

/// With the line and with psync its rsyncs go, on both hosts.
#[test]
fn no_rsync_outlives_the_session() {
    let Some(real) = real() else { return };
    for (what, direction) in [("line", 0), ("line", 1), ("stop", 0), ("kill", 1)] {
        let (pair, rsync) = Rsync::before(by_rsync(Pair::new()), &real);
        let mut service = Service::start(&pair, "transfer = \"rsync\"\n");
        let line = Line::new(&pair, &service.run);
        let command = Service::connect(&line.run);
        let mut pair = pair.with(&["--proxy-command", &command]);
        pair.run();
        rsync.be_slow();
        line.slow_down(1_000_000);
        let from = [&pair.left, &pair.right][direction].clone();
        write(from.join("big"), noise(1, 8 * MIB));
        assert!(poll(PATIENCE, || staged(&pair) > MIB as u64), "{what}: it never began{}", pair.story());
        let family = [pair.processes(), vec![service.pid()]].concat();
        let running = rsyncs(&family);
        assert!(running.len() >= 3, "{what}: {running:?}");
        match what {
            "line" => line.cut(),
            "stop" => process::send(pair.processes()[0], Signal::SIGTERM),
            _ => pair.kill9_all(),
        }
        if what == "stop" {
            pair.wait_end();
        }
        let gone = poll(PATIENCE, || !running.iter().any(|pid| process::alive(*pid)));
        assert!(gone, "{what} {direction}: rsyncs live on{}", pair.story());
        rsync.be_fast();
        line.slow_down(0);
        line.mend();
        if what != "line" {
            pair.run();
        }
        pair.settle();
        for side in pair.sides() {
            assert_eq!(stage(side), 0, "{what} {direction}: something is left in the stage of {side:?}");
        }
        pair.stop();
        service.stop();
    }
}
