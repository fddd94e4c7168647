//! What psync tells a user, and how often.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::mounts::mount;
use crate::support::users::*;
use crate::support::{PATIENCE, PSYNC, Pair, poll, process, run_to_end, tools};

/// How many lines of a text hold these words.
fn lines_with(text: &str, words: &str) -> usize {
    text.lines().filter(|line| line.contains(words)).count()
}

#[test]
fn owners_that_cannot_be_set_are_told_once_with_their_number() {
    if !process::is_root() || !tools::has("setpriv") {
        return tools::missing("root and setpriv");
    }
    let pair = Pair::new();
    for root in pair.sides() {
        chown(root, 65534, 65534);
    }
    for n in 0..7 {
        write(pair.left.join(format!("file{n}")), format!("{n}\n"));
        chown(pair.left.join(format!("file{n}")), 1234, 65534);
    }
    let above = pair.left.parent().unwrap();
    chown(above, 65534, 65534);
    // Nobody may be kept from reaching the program where it was built.
    let program = pair.beside("psync");
    tools::copy_program(PSYNC, &program);
    let as_nobody = |pair: &Pair| {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
            .arg(&program)
            .args(pair.arguments(&["-s"]));
        run_to_end(command)
    };
    let run = as_nobody(&pair);
    assert_eq!(run.code(), 0, "{}", run.stderr);
    let told = "right side: the owners of 7 objects could not be set";
    assert_eq!(lines_with(&run.stderr, told), 1, "{}", run.stderr);
    assert_eq!(lines_with(&run.stderr, "file0"), 0, "told for each file: {}", run.stderr);
    assert_eq!(lines_with(&run.stderr, "group"), 0, "{}", run.stderr);
    for n in 0..7 {
        assert_eq!(read(pair.right.join(format!("file{n}"))), format!("{n}\n"));
    }
    let again = as_nobody(&pair);
    assert_eq!((again.code(), lines_with(&again.stderr, "could not be set")), (0, 0), "{}", again.stderr);
}

#[test]
fn a_file_system_without_attributes_is_told_of_once() {
    let mut pair = Pair::new();
    let Some(_mounted) = mount("ramfs", &[], "psync-e2e".as_ref(), &pair.right) else { return };
    for n in 0..5 {
        write(pair.left.join(format!("file{n}")), format!("{n}\n"));
        set_xattr(pair.left.join(format!("file{n}")), "user.colour", b"blue");
    }
    pair.run();
    // With its attribute from its first moment on.
    let new = pair.beside("new");
    write(&new, "later\n");
    set_xattr(&new, "user.colour", b"red");
    rename(&new, pair.left.join("more"));
    assert!(poll(PATIENCE, || pair.right.join("more").exists()), "{}", pair.story());
    pair.stop();
    let said = pair.lines().join("\n");
    let told = "right side: extended attributes of 5 objects could not be set";
    assert_eq!(lines_with(&said, told), 1, "{said}");
    assert_eq!(lines_with(&said, "could not be set"), 1, "{said}");
    // What the right cannot hold is not taken from the left.
    let run = pair.sync_once();
    assert_eq!((run.code(), lines_with(&run.stderr, "could not be set")), (0, 0), "{}", run.stderr);
    assert_eq!(pair.actions_logged(), 6, "{}", pair.story());
}

#[test]
fn a_terminal_shows_how_far_the_initial_sync_is() {
    if !tools::has("script") {
        return;
    }
    let pair = Pair::new();
    for n in 0..20_000 {
        plant(pair.left.join(format!("dir{}/file{n}", n % 100)), noise(n, 2048));
    }
    let words: Vec<String> = [PSYNC.to_owned()].into_iter().chain(pair.arguments(&["-s"])).collect();
    let line = words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
    let mut command = Command::new("script");
    command.args(["-qec", &line, "/dev/null"]).env("TERM", "xterm").stdin(Stdio::null()).stdout(Stdio::piped());
    let mut script = command.spawn().unwrap();
    let mut terminal = script.stdout.take().unwrap();
    let parts = r"psync: copying: \d+ of \d+\+? files, [\d.]+ [KM]?i?B of [\d.]+ [KM]?i?B\+?, [\d.]+ [KM]?i?B/s, \d+:\d\d\+? left";
    let parts = regex::Regex::new(parts).unwrap();
    let (mut shown, mut piece) = (String::new(), [0; 4096]);
    while !parts.is_match(&shown)
        && let Ok(count @ 1..) = terminal.read(&mut piece)
    {
        shown += &String::from_utf8_lossy(&piece[..count]);
    }
    let script_id = script.id() as i32;
    let family = [process::children(script_id), vec![script_id]].concat();
    family.iter().for_each(|pid| process::send(*pid, Signal::SIGTERM));
    drop(terminal);
    script.wait().unwrap();
    let brains: Vec<i32> = family.into_iter().filter(|pid| *pid != script_id).collect();
    assert!(poll(PATIENCE, || !brains.iter().any(|pid| process::alive(*pid))), "psync does not end");
    assert!(parts.is_match(&shown), "no line with files, bytes, rate and time left:\n{}", shown.replace('\r', "\n"));
}

#[test]
fn filters_that_differ_are_told_of() {
    let mut pair = Pair::new();
    write(pair.left.join("file"), "text\n");
    let proxy = format!("'{PSYNC}' --agent-mode --stdio --root '{}'", pair.right.display());
    let same = ["--proxy-command", proxy.as_str()];
    let run = pair.sync_with(&same);
    assert_eq!((run.code(), lines_with(&run.stderr, "filters")), (0, 0), "{}", run.stderr);
    let run = pair.sync_with(&[&same[..], &["-e", r"\.mine$"]].concat());
    assert_eq!(run.code(), 0, "{}", run.stderr);
    assert_eq!(lines_with(&run.stderr, "the filters of the two sides differ"), 1, "{}", run.stderr);
    pair.run();
    pair.stop();
}

#[test]
fn a_side_that_does_not_move_is_a_problem_until_it_does() {
    let pair = Pair::new();
    let config = pair.beside("psync.toml");
    write(&config, "etimeout = 1\n");
    let mut pair = pair.with(&["--config", config.to_str().unwrap()]);
    pair.run();
    let agent = pair.processes()[1];
    process::send(agent, Signal::SIGSTOP);
    write(pair.left.join("stuck"), "text\n");
    let patience = Duration::from_secs(30);
    let told =
        pair.wait_said(patience, |line| line.contains("stuck: not synchronised: right side: no progress for 1 s"));
    process::send(agent, Signal::SIGCONT);
    assert!(told, "nobody is told of a side that hangs{}", pair.story());
    assert!(pair.wait_said(patience, |line| line.contains("stuck: synchronised again")), "{}", pair.story());
    pair.settle();
    pair.stop();
}

#[test]
fn a_problem_that_lasts_is_told_once_however_often_the_line_breaks() {
    let pair = Pair::new();
    let config = pair.beside("psync.toml");
    write(&config, "max_size = 1000\n");
    let mut pair = pair.with(&["--config", config.to_str().unwrap()]);
    for large in [pair.left.join("of the left"), pair.right.join("of the right")] {
        write(large, "1".repeat(1001));
    }
    pair.run();
    let told = |pair: &Pair, what: &str| pair.lines().iter().filter(|line| line.contains(what)).count();
    let ups = |pair: &Pair| told(pair, "link up");
    let not = ["of the left: not synchronised", "of the right: not synchronised"];
    for what in not {
        assert!(poll(PATIENCE, || told(&pair, what) == 1), "{what}{}", pair.story());
    }
    for n in 0..3 {
        let before = ups(&pair);
        let agent = process::children(pair.processes()[0])[0];
        process::send(agent, Signal::SIGKILL);
        assert!(poll(PATIENCE, || ups(&pair) > before), "the right side is not called again{}", pair.story());
        let name = format!("file {n}");
        write(pair.left.join(&name), &name);
        assert!(poll(PATIENCE, || pair.right.join(&name).exists()), "{}", pair.story());
    }
    for what in not {
        assert_eq!(told(&pair, what), 1, "{what}{}", pair.story());
    }
    remove(pair.left.join("of the left"));
    remove(pair.right.join("of the right"));
    for name in ["of the left", "of the right"] {
        let over = format!("{name}: synchronised again");
        assert!(poll(PATIENCE, || told(&pair, &over) == 1), "{over}{}", pair.story());
    }
    pair.stop();
}
