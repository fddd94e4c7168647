//! The right side as a service: an agent that outlives its connections.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::line::Line;
use crate::support::service::{AGENT, Service};
use crate::support::users::*;
use crate::support::{NAME, PATIENCE, Pair, poll, process, run_to_end, tools};

/// A pair whose right side is a service, in sync over a line that can be cut.
fn pair_over_a_line(more: &str) -> (Pair, Service, Line) {
    let pair = Pair::new();
    let service = Service::start(&pair, more);
    let line = Line::new(&pair, &service.run);
    let command = Service::connect(&line.run);
    let mut pair = pair.with(&["--proxy-command", &command]);
    plant(pair.left.join("on the left/file"), "left\n");
    plant(pair.right.join("on the right/file"), "right\n");
    pair.run();
    pair.settle();
    (pair, service, line)
}

/// How often a side was scanned, as the brain's log has it.
fn scans(pair: &Pair) -> usize {
    let log = fs::read_to_string(&pair.log).unwrap_or_default();
    log.lines().filter(|line| line.contains("session: the ") && line.contains("side is scanned")).count()
}

#[test]
fn changes_travel_both_ways_through_a_socket() {
    let (mut pair, mut service, _line) = pair_over_a_line("");
    plant(pair.left.join("new/file"), "one\n");
    plant(pair.right.join("other/file"), vec![7; 300_000]);
    fs::remove_dir_all(pair.left.join("on the right")).unwrap();
    rename(pair.right.join("on the left"), pair.right.join("moved"));
    pair.settle();
    assert!(!pair.right.join("on the right").exists() && pair.left.join("moved/file").exists());
    pair.stop();
    // The agent goes on, and knows the next brain.
    assert_eq!(service.logged("the brain has stopped"), 1);
    write(pair.right.join("moved/file"), "while no brain was there\n");
    pair.run();
    pair.settle();
    assert_eq!(read(pair.left.join("moved/file")), "while no brain was there\n");
    assert_eq!(service.logged("scanned: "), 1, "{}", service.log());
    pair.stop();
    service.stop();
}

#[test]
fn a_reconnection_scans_nothing_and_brings_what_changed_meanwhile() {
    let (mut pair, mut service, line) = pair_over_a_line("");
    let many = 200;
    for side in pair.sides() {
        (0..many).for_each(|n| plant(side.join(format!("{}/{n}", side.ends_with("left"))), format!("{n}\n")));
    }
    pair.settle();
    assert_eq!((scans(&pair), service.logged("scanned: ")), (2, 1), "{}{}", service.log(), pair.story());
    for round in 1..=2 {
        line.cut();
        service.wait_logged("link down");
        assert!(pair.wait_said(PATIENCE, |line| line.contains("link down: ")), "{}", pair.story());
        // On each side: changed, new, in a new directory, deleted, renamed.
        for (side, own) in [(pair.left.clone(), "true"), (pair.right.clone(), "false")] {
            append(side.join(format!("{own}/1")), "more\n");
            write(side.join(format!("{own} new {round}")), "new\n");
            plant(side.join(format!("{own} dir {round}/deep/er")), "new\n");
            fs::remove_file(side.join(format!("{own}/{}", 10 + round))).unwrap();
            rename(side.join(format!("{own}/{}", 20 + round)), side.join(format!("{own}/renamed {round}")));
        }
        line.mend();
        pair.settle();
        assert_eq!(service.logged("link up"), 1 + round);
    }
    // The whole trees were looked at once, at the beginning.
    assert_eq!((scans(&pair), service.logged("scanned: ")), (2, 1), "{}{}", service.log(), pair.story());
    assert_eq!(service.logged("no scan: it has been watching"), 2);
    assert_eq!(read(pair.right.join("true/1")), "1\nmore\nmore\n");
    pair.stop();
    service.stop();
}

#[test]
fn a_killed_relay_is_replaced() {
    let (mut pair, mut service, _line) = pair_over_a_line("");
    for n in 0..3 {
        // The brain's child is the relay.
        process::kill_and_wait(&pair.processes()[1..]);
        write(pair.left.join(format!("left {n}")), "after\n");
        write(pair.right.join(format!("right {n}")), "after\n");
        pair.settle();
    }
    assert_eq!((scans(&pair), service.logged("scanned: ")), (2, 1), "{}{}", service.log(), pair.story());
    pair.stop();
    service.stop();
}

#[test]
fn an_agent_that_is_stopped_or_killed_comes_back() {
    let (mut pair, mut service, _line) = pair_over_a_line("");
    service.stop();
    assert!(pair.wait_said(PATIENCE, |line| line.contains("link down: the agent was stopped")), "{}", pair.story());
    let stage = Pair::own(&pair.right).join("stage");
    assert_eq!(fs::read_dir(stage).unwrap().count(), 0, "a clean stop leaves an empty stage");
    write(pair.left.join("file"), "left\n");
    write(pair.right.join("other"), "right\n");
    fs::remove_dir_all(pair.right.join("on the left")).unwrap();
    service.again();
    pair.settle();
    assert!(!pair.left.join("on the left").exists());
    // As systemd sees a crash.
    process::kill_and_wait(&[service.pid()]);
    let mut crashed = service;
    crashed.forget();
    write(pair.right.join("other"), "after the crash\n");
    crashed.again();
    pair.settle();
    assert_eq!(read(pair.left.join("other")), "after the crash\n");
    pair.stop();
    crashed.stop();
}

#[test]
fn of_two_brains_the_one_that_began_later_is_served() {
    let (mut pair, mut service, line) = pair_over_a_line("");
    let other = pair.beside("another left");
    fs::create_dir(&other).unwrap();
    let command = Service::connect(&line.run);
    let words = ["--pair", NAME, "--proxy-command", &command, other.to_str().unwrap(), pair.right.to_str().unwrap()];
    let mut second = Command::new(crate::support::PSYNC);
    let mut second = second.args(words).stderr(std::process::Stdio::null()).spawn().unwrap();
    let taken = |line: &str| line.contains("link down: another brain has taken over: ") && line.contains("process ");
    assert!(pair.wait_said(PATIENCE, taken), "{}", pair.story());
    let refused = |line: &str| line.contains("link down: the agent serves another brain that began later: ");
    assert!(pair.wait_said(PATIENCE, refused), "{}", pair.story());
    service.wait_logged("turned away");
    // It is not the left side that this right side was paired with, so it touches nothing.
    assert_eq!(fs::read_dir(&other).unwrap().count(), 1, "only its .psync");
    process::send(second.id() as i32, Signal::SIGTERM);
    assert!(poll(PATIENCE, || second.try_wait().unwrap().is_some()));
    write(pair.left.join("file"), "the first is back\n");
    pair.settle();
    pair.stop();
    service.stop();
}

#[test]
fn another_pairs_archive_is_no_start() {
    let (mut pair, mut service, line) = pair_over_a_line("");
    pair.stop();
    let other = pair.beside("another left");
    fs::create_dir(&other).unwrap();
    plant(other.join("file"), "x\n");
    let mut psync = Command::new(crate::support::PSYNC);
    psync.args(["-s", "--pair", NAME, "--proxy-command", &Service::connect(&line.run)]).args([&other, &pair.right]);
    let once = run_to_end(psync);
    assert_eq!(once.code(), 7, "{}", once.stderr);
    assert!(
        once.stderr.contains("the left side has no archive of this pair, the right side has one"),
        "{}",
        once.stderr
    );
    assert!(!pair.right.join("file").exists() && !other.join("on the left").exists());
    service.stop();
}

#[test]
fn a_root_that_is_not_there_is_told_and_served_when_it_comes() {
    let (mut pair, mut service, _line) = pair_over_a_line("");
    pair.stop();
    let away = pair.beside("away");
    fs::rename(&pair.right, &away).unwrap();
    let once = pair.sync_once();
    assert_eq!(once.code(), 7, "{}", pair.story());
    assert!(
        once.stderr.contains("halted: right side: root ") && once.stderr.contains("No such file"),
        "{}",
        once.stderr
    );
    fs::rename(&away, &pair.right).unwrap();
    write(pair.right.join("file"), "back\n");
    pair.sync();
    assert_eq!(read(pair.left.join("file")), "back\n");
    service.stop();
}

#[test]
fn a_dry_run_changes_nothing_behind_a_socket_either() {
    let (mut pair, mut service, _line) = pair_over_a_line("");
    pair.stop();
    write(pair.left.join("file"), "new\n");
    let archive = || fs::read(Pair::own(&pair.right).join("archive.db")).unwrap();
    // The first one closes the archive that the agent has open, which tidies it up.
    for before in [None, Some(archive())] {
        let before = before.map(|_| archive());
        let once = pair.sync_with(&["-n"]);
        assert_eq!(once.code(), 0, "{}", pair.story());
        assert!(!pair.right.join("file").exists());
        assert!(before.is_none_or(|before| before == archive()), "the archive was changed");
    }
    pair.sync();
    service.stop();
}

#[test]
fn a_right_side_that_is_lost_for_too_long_ends_the_run() {
    let (mut pair, mut service, line) = pair_over_a_line("");
    pair.stop();
    let file = pair.beside("psync.toml");
    write(&file, "maxtimeout = 2\n");
    let mut pair = pair.with(&["--config", file.to_str().unwrap()]);
    pair.run();
    line.cut();
    let status = pair.wait_end();
    assert_eq!(status.code(), Some(4), "{}", pair.story());
    let tries = pair.lines().iter().filter(|line| line.contains("next attempt in")).count();
    assert!((2..=4).contains(&tries), "{tries} tries{}", pair.story());
    line.mend();
    write(pair.left.join("file"), "later\n");
    pair.sync();
    service.stop();
}

#[test]
fn filters_that_differ_are_told() {
    let (mut pair, mut service, _line) = pair_over_a_line("excludes = 'private'");
    assert!(pair.lines().iter().any(|line| line.contains("the filters of the two sides differ")), "{}", pair.story());
    pair.stop();
    service.stop();
}

#[test]
fn who_may_not_use_the_socket_is_told_so() {
    if !process::is_root() {
        return tools::missing("root");
    }
    if !tools::has("setpriv") {
        return;
    }
    let (mut pair, mut service, _line) = pair_over_a_line("");
    pair.stop();
    let socket = service.run.join(format!("agent-{NAME}.sock"));
    let open = |path: &std::path::Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    open(&pair.beside(""), 0o755);
    let agent = pair.beside("psync-agent");
    tools::copy_program(AGENT, &agent);
    let as_nobody = format!(
        "RUNTIME_DIRECTORY={} exec setpriv --reuid 65534 --regid 65534 --clear-groups {} connect %i",
        service.run.display(),
        agent.display()
    );
    for (mode, words) in [
        // The file system keeps them out.
        (0o660, "no permission for the pair e2e: "),
        // The agent does, who asks the kernel.
        (0o666, "nobody may not use this agent: only root, the pair's own user and members of the group psync"),
    ] {
        open(&socket, mode);
        let mut psync = Command::new(crate::support::PSYNC);
        psync.args(["-s", "--pair", NAME, "--proxy-command", &as_nobody]).args(pair.sides());
        let once = run_to_end(psync);
        assert_eq!(once.code(), 2, "{}", once.stderr);
        assert!(once.stderr.contains(words), "{}", once.stderr);
    }
    service.wait_logged("turned away: a caller: nobody may not use this agent");
    service.stop();
}

#[test]
fn connect_does_one_thing() {
    let run = |arguments: &[&str], asked: Option<&str>| {
        let mut command = Command::new(AGENT);
        command.args(arguments).env("RUNTIME_DIRECTORY", "/nonexistent");
        asked.map(|asked| command.env("SSH_ORIGINAL_COMMAND", asked));
        let once = run_to_end(command);
        assert!(once.code() == 1 && once.stdout.is_empty() && once.stderr.lines().count() == 1, "{}", once.stderr);
        once.stderr
    };
    let nobody = "psync-agent: no pair web is served on this host: /nonexistent/agent-web.sock does not exist";
    for (arguments, asked, words) in [
        (&["connect", "web"][..], None, nobody),
        (&["connect", "web"], Some("psync-agent connect web"), nobody),
        (&["connect", "web"], Some("rm -rf /"), nobody),
        (
            &["connect", "web"],
            Some("psync-agent connect mail"),
            "psync-agent: this key is for the pair web, not for mail",
        ),
        (&["connect", "../web"], None, "psync-agent: `../web` is no name of a pair"),
        (&["connect", "web", "--root", "/"], None, "psync-agent: connect takes the name of a pair, and nothing else"),
        (&["connect"], None, "psync-agent: connect takes the name of a pair"),
        (&["serve", "web", "x"], None, "psync-agent: unexpected argument 'x' found"),
        (&["serve", "/nonexistent/web.toml"], None, "psync-agent: /nonexistent/web.toml: cannot read"),
    ] {
        let said = run(arguments, asked);
        assert!(said.starts_with(words), "{arguments:?}: {said}");
    }
}

#[test]
fn a_service_without_a_socket_does_not_start() {
    let pair = Pair::new();
    let file = pair.beside("web.toml");
    write(&file, format!("[left]\nroot = {:?}\n[right]\nroot = {:?}\n", pair.left, pair.right));
    let mut command = Command::new(AGENT);
    command.args(["serve", file.to_str().unwrap()]);
    let once = run_to_end(command);
    let want = "psync-agent: there is no socket to listen on (LISTEN_FDS): psync-agent@web.socket hands it over\n";
    assert_eq!((once.code(), once.stderr.as_str()), (1, want));
}

#[test]
fn a_slow_line_carries_fewer_bytes_than_the_files_have() {
    let (mut pair, mut service, line) = pair_over_a_line("");
    line.slow_down(3_000_000);
    let text: String = (0..400_000).map(|n| format!("line {n}\n")).collect();
    for (direction, from) in [(0, pair.left.clone()), (1, pair.right.clone())] {
        let before = line.carried()[direction];
        write(from.join(format!("text {direction}")), &text);
        pair.settle();
        let carried = line.carried()[direction] - before;
        let whole = text.len() as u64;
        assert!(carried < whole * 6 / 10, "{carried} bytes on the line for {whole}{}", pair.story());
    }
    pair.stop();
    service.stop();
}

#[test]
fn compression_can_be_had_always_and_never() {
    let text: String = (0..100_000).map(|n| format!("line {n}\n")).collect();
    let whole = text.len() as u64;
    for (setting, most, least) in [("zstd", whole * 5 / 10, 0), ("none", u64::MAX, whole)] {
        let lines = format!("compress = '{setting}'\n");
        let (mut pair, mut service, line) = pair_over_a_line(&lines);
        pair.stop();
        let file = pair.beside("psync.toml");
        write(&file, &lines);
        let mut pair = pair.with(&["--config", file.to_str().unwrap()]);
        pair.run();
        for (direction, from) in [(0, pair.left.clone()), (1, pair.right.clone())] {
            let before = line.carried()[direction];
            write(from.join(format!("text {direction}")), &text);
            pair.settle();
            let carried = line.carried()[direction] - before;
            assert!((least..=most).contains(&carried), "{setting}: {carried} bytes for {whole}");
        }
        pair.stop();
        service.stop();
    }
}

#[test]
fn a_bandwidth_limit_holds_in_both_directions_and_lets_small_things_through() {
    let limit = 300_000;
    let lines = format!("compress = 'none'\nbandwidth_limit = {limit}\n");
    let (mut pair, mut service, line) = pair_over_a_line(&lines);
    pair.stop();
    let file = pair.beside("psync.toml");
    write(&file, &lines);
    let mut pair = pair.with(&["--config", file.to_str().unwrap()]);
    pair.run();
    for (direction, from) in [(0, pair.left.clone()), (1, pair.right.clone())] {
        let (start, before) = (Instant::now(), line.carried()[direction]);
        write(from.join(format!("big {direction}")), vec![7; 900_000]);
        pair.settle();
        let (carried, time) = (line.carried()[direction] - before, start.elapsed());
        assert!(carried >= 900_000, "{carried}");
        // One slice of a tenth of a second may go ahead of its time.
        let least = Duration::from_secs_f64(carried as f64 / f64::from(limit)) - Duration::from_millis(200);
        assert!(time >= least, "{carried} bytes in {time:?}, less than {least:?}");
    }
    pair.stop();
    service.stop();
}
