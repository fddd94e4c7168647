//! `psync-brain` as systemd and administrators meet it: what it tells, what can be asked of it.

mod doctor;
mod house;
mod journal;
mod threads;
mod trash;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::users::*;
use crate::support::{PATIENCE, PSYNC, poll, process, run_to_end, tools};
use house::{House, PAIR, PSYNC_BRAIN};

#[test]
fn it_tells_systemd_what_it_does() {
    let mut house = House::new("");
    write(house.left.join("a"), "a\n");
    house.start(&[("WATCHDOG_USEC", "2000000")]);
    assert!(house.wait_told(|told| told == "READY=1"), "{}", house.story());
    assert!(house.wait_told(|told| told == "STATUS=in sync: 1 files"), "{}", house.story());
    assert!(house.told().iter().any(|told| told.starts_with("EXTEND_TIMEOUT_USEC=")), "{}", house.story());
    let ready = house.position("READY=1");
    assert!(house.position("EXTEND_TIMEOUT_USEC=") < ready, "{}", house.story());
    let signs = |house: &House| house.told().iter().filter(|told| *told == "WATCHDOG=1").count();
    assert!(poll(PATIENCE, || signs(&house) >= 5), "{}", house.story());

    process::send(house.pid(), Signal::SIGTERM);
    assert_eq!(house.wait_end(), Some(0), "{}", house.story());
    assert!(house.told().iter().any(|told| told == "STOPPING=1"), "{}", house.story());
    assert!(!house.socket().exists(), "the socket is left behind");
    let status = house.psync(&["status", house.config.to_str().unwrap()]);
    assert_eq!((status.code(), status.stdout.as_str()), (1, "web: not running\n"));
}

#[test]
fn a_reload_applies_what_it_can_and_nothing_of_what_it_cannot() {
    let mut house = House::new("debug = 0\n");
    house.start(&[]);
    house.wait_in_sync();
    let reload = |house: &House, text: &str, wanted: &str| {
        house.configure(text);
        let before = house.told().len();
        process::send(house.pid(), Signal::SIGHUP);
        let after = |house: &House| house.told()[before..].join("\n");
        assert!(poll(PATIENCE, || after(house).contains("READY=1")), "{}", house.story());
        let told = after(house);
        assert!(told.contains("RELOADING=1\nMONOTONIC_USEC="), "in one message: {told}");
        assert!(poll(PATIENCE, || house.said().contains(wanted)), "no word of {wanted}{}", house.story());
    };
    write(house.left.join("before"), "x");
    house.wait_for(|house| house.right.join("before").exists());
    assert!(!house.said().contains("action put"), "nobody wanted to know{}", house.story());

    reload(&house, "debug = 1\ndelete_delay = 0.1\n", "reloaded: debug, delete_delay");
    // The right side is called anew for it, and hears of it.
    house.wait_in_sync();
    write(house.left.join("after"), "x");
    house.wait_for(|house| house.right.join("after").exists());
    assert!(poll(PATIENCE, || house.said().contains("action put on the right side: after")), "{}", house.story());

    reload(&house, "debug = 0\nexcludes = 'x'\n", "excludes cannot change while psync runs");
    write(house.left.join("still"), "x");
    assert!(poll(PATIENCE, || house.said().contains("action put on the right side: still")), "{}", house.story());
    reload(&house, "debug = 0\nno_such_key = 1\n", "unknown key `no_such_key`");
    reload(&house, "debug = 1\ndelete_delay = 0.1\n", "reloaded: nothing has changed");
    // Where a log was rotated away, the new one takes what follows.
    rename(&house.log, house.beside("log.1"));
    reload(&house, "debug = 1\ndelete_delay = 0.2\n", "reloaded: delete_delay");
    house.stop();
}

#[test]
fn a_right_side_that_is_down_is_a_status_and_no_failed_start() {
    let mut house = House::new("");
    let flag = house.beside("reachable");
    let agent = format!("test -e {} && exec {PSYNC} --agent-mode --stdio --root", flag.display());
    house.right_behind(&format!("{agent} {} --pair {PAIR}", house.right.display()));
    write(house.left.join("a"), "a\n");
    house.start(&[]);
    assert!(house.wait_told(|told| told == "READY=1"), "{}", house.story());
    assert!(house.wait_told(|told| told.starts_with("STATUS=disconnected: ")), "{}", house.story());
    let status = house.psync(&["status", PAIR]);
    assert_eq!(status.code(), 2, "{}", status.stdout);
    assert!(status.stdout.contains("  link       "), "{}", status.stdout);
    let fullsync = house.psync(&["fullsync", PAIR]);
    assert!(fullsync.code() == 1 && fullsync.stderr.contains("a side is lost"), "{}", fullsync.stderr);
    write(&flag, "");
    house.wait_in_sync();
    assert_eq!(read(house.right.join("a")), "a\n");
    assert_eq!(house.psync(&["status", PAIR]).code(), 0);
    house.stop();
}

#[test]
fn the_status_for_people_scripts_and_metrics() {
    let mut house = House::new("max_size = 100\n");
    for n in 0..3 {
        write(house.left.join(format!("file{n}")), "12345");
    }
    write(house.left.join("large"), "1".repeat(101));
    house.start(&[]);
    house.wait_for(|house| {
        let status = house.status();
        status["state"] == "in-sync" && status["problems_now"] == 1 && status["files"] == 3
    });

    let text = house.psync(&["status", PAIR]);
    assert_eq!(text.code(), 3, "{}", text.stderr);
    assert!(text.stdout.starts_with("web: in sync: 3 files, 1 with problems\n"), "{}", text.stdout);
    for line in ["  link       up since ", "  problems   1\n    large: left side: ", "  conflicts  0\n"] {
        assert!(text.stdout.contains(line), "no {line:?} in:\n{}", text.stdout);
    }

    let status = house.status();
    assert_eq!((status["state"].as_str(), status["files"].as_u64()), (Some("in-sync"), Some(3)));
    assert_eq!((status["left"]["watches"].as_u64(), status["totals"]["bytes"].as_u64()), (Some(1), Some(15)));
    assert_eq!(status["pid"].as_i64(), Some(house.pid().into()));

    // Without a pair: all that run here.
    let metrics = house.psync(&["status", "--openmetrics"]);
    assert_eq!(metrics.code(), 3, "{}", metrics.stderr);
    for line in [
        "psync_up{pair=\"web\"} 1",
        "psync_state{pair=\"web\",psync_state=\"in-sync\"} 1",
        "psync_state{pair=\"web\",psync_state=\"halted\"} 0",
        "psync_files{pair=\"web\"} 3",
        "psync_problems{pair=\"web\"} 1",
        "psync_actions_total{pair=\"web\"} 3",
    ] {
        assert!(metrics.stdout.lines().any(|l| l == line), "no {line:?} in:\n{}", metrics.stdout);
    }
    assert!(metrics.stdout.ends_with("# EOF\n"));
    promtool_takes(&metrics.stdout);

    let second = house.brain().output().unwrap();
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(second.status.code() == Some(1) && said.contains("runs for this pair already"), "{said}");
    house.stop();
}

#[test]
fn what_changes_in_a_pause_waits_for_its_end() {
    let mut house = House::new("");
    house.start(&[]);
    house.wait_in_sync();
    let paused = house.psync(&["pause", PAIR]);
    assert_eq!((paused.code(), paused.stdout.as_str()), (0, "web: paused\n"), "{}", paused.stderr);
    assert!(house.wait_told(|told| told.starts_with("STATUS=paused")), "{}", house.story());
    for root in [&house.left, &house.right] {
        let side = root.file_name().unwrap().to_str().unwrap();
        write(root.join(format!("made on the {side}")), "x");
    }
    // Time enough for it to go wrong.
    std::thread::sleep(Duration::from_secs(2));
    let crossed =
        |house: &House| [house.left.join("made on the right").exists(), house.right.join("made on the left").exists()];
    assert_eq!(crossed(&house), [false; 2], "{}", house.story());
    assert_eq!(house.psync(&["status", PAIR]).code(), 0);
    let accepted = house.psync(&["resume", PAIR, "--accept"]);
    assert!(accepted.code() == 1 && accepted.stderr.contains("nothing to accept"), "{}", accepted.stderr);
    assert_eq!(house.psync(&["resume", PAIR]).stdout, "web: resumed\n");
    house.wait_for(|house| crossed(house) == [true; 2]);
    house.wait_in_sync();
    house.stop();
}

#[test]
fn a_halted_brain_stays_and_goes_on_when_the_deletions_are_accepted() {
    let mut house = House::new("");
    for n in 0..150 {
        plant(house.left.join(format!("dir{}/file{n}", n % 10)), format!("text {n}\n"));
    }
    write(house.left.join("kept"), "kept\n");
    house.start(&[]);
    house.wait_in_sync();
    // What a session itself has made does not count.
    house.stop();
    house.start(&[]);
    house.wait_in_sync();
    let files = |house: &House| walk(&house.right);
    assert_eq!(files(&house), 151);
    for n in 0..10 {
        remove_tree(house.left.join(format!("dir{n}")));
    }
    house.wait_for(|house| house.status()["state"] == "halted");
    assert!(house.wait_told(|told| told.starts_with("STATUS=halted: ")), "{}", house.story());
    let status = house.psync(&["status", PAIR]);
    assert_eq!(status.code(), 2);
    assert!(status.stdout.contains(&format!("psync resume {PAIR} --accept")), "what to type: {}", status.stdout);
    assert!(files(&house) >= 50, "only {} files are left{}", files(&house), house.story());
    assert_eq!(house.psync(&["fullsync", PAIR]).code(), 1);
    // What a unit waits for, and its alert takes away.
    let message = house.beside("run").join(format!("{PAIR}.halt"));
    house.wait_for(|_| message.exists());
    let text = read(&message);
    assert!(text.starts_with("pair web: halted: ") && text.contains("psync resume web --accept"), "{text}");
    let alert = format!("psync-halt@{PAIR}.path");
    for _ in 0..2 {
        assert_eq!(house.psync(&["alert", &alert]).code(), 0);
        assert!(!message.exists());
    }

    // To go on without a word changes nothing: it halts again.
    let before = files(&house);
    let links = house.status()["totals"]["links"].as_u64();
    assert_eq!(house.psync(&["resume", PAIR]).code(), 0);
    house.wait_for(|house| house.status()["state"] == "halted" && house.status()["totals"]["links"].as_u64() > links);
    assert!(files(&house) >= 50 && files(&house) <= before, "{}", house.story());
    house.wait_for(|_| message.exists());

    assert_eq!(house.psync(&["resume", PAIR, "--accept"]).code(), 0);
    house.wait_for(|house| files(house) == 1);
    house.wait_in_sync();
    assert_eq!(read(house.right.join("kept")), "kept\n");
    write(house.right.join("new"), "new\n");
    house.wait_for(|house| house.left.join("new").exists());
    house.stop();
}

#[test]
fn without_systemd_a_halt_runs_the_alert_command() {
    let mut house = House::new("");
    let alert = house.beside("alert");
    house.configure(&format!("alert_command = 'cat >> {0}; echo of $PSYNC_PAIR >> {0}'\n", alert.display()));
    write(house.left.join("a"), "a\n");
    let mut brain = Command::new(PSYNC_BRAIN);
    brain.arg(&house.config).env_remove("NOTIFY_SOCKET");
    house.start_alone(brain);
    house.wait_in_sync();
    rename(&house.right, house.beside("away"));
    house.wait_for(|house| house.status()["state"] == "halted");
    let text = || fs::read_to_string(&alert).unwrap_or_default();
    house.wait_for(|_| text().ends_with("of web\n"));
    assert!(text().starts_with("pair web: halted: ") && text().matches("of web").count() == 1, "{}", text());
    assert!(!house.beside("run").join(format!("{PAIR}.halt")).exists());
    house.stop();
}

#[test]
fn the_result_of_a_check_is_in_the_status() {
    let mut house = House::new("");
    write(house.left.join("a"), "a\n");
    house.start(&[]);
    house.wait_in_sync();
    let text = |house: &House| house.psync(&["status", PAIR]).stdout;
    assert!(text(&house).contains("  check      none since the start\n"), "{}", text(&house));
    let config = house.config.to_str().unwrap().to_owned();
    assert_eq!(house.psync(&["check", &config]).code(), 0);
    let check = house.status()["check"].clone();
    assert_eq!((check["verdict"].as_str(), check["differences"].as_u64()), (Some("equal"), Some(0)), "{check}");
    house.psync(&["pause", PAIR]);
    write(house.left.join("b"), "b\n");
    assert_eq!(house.psync(&["check", &config]).code(), 3);
    assert!(text(&house).contains(", notice: 1 differences, 2 paths compared\n"), "{}", text(&house));
    let metrics = house.psync(&["status", PAIR, "--openmetrics"]).stdout;
    for line in [
        "psync_last_check{pair=\"web\",psync_last_check=\"notice\"} 1",
        "psync_last_check_differences{pair=\"web\"} 1",
        "psync_scans_total{pair=\"web\",side=\"right\"} 1",
    ] {
        assert!(metrics.lines().any(|l| l == line), "no {line} in:\n{metrics}");
    }
    house.psync(&["resume", PAIR]);
    house.wait_in_sync();
    house.stop();
}

#[test]
fn a_root_that_went_away_is_served_again_when_it_is_back() {
    for lost in ["left", "right"] {
        let mut house = House::new("");
        write(house.left.join("a"), "a\n");
        let mut brain = house.brain();
        // Without systemd there is no sandbox that hides what comes.
        brain.env_remove("NOTIFY_SOCKET");
        house.start_alone(brain);
        house.wait_in_sync();
        rename(house.beside(lost), house.beside("away"));
        house.wait_for(|house| house.status()["state"] == "halted");
        let status = house.psync(&["status", PAIR]);
        let why = format!("halted: {lost} side: the root was moved, deleted or unmounted (it goes on by itself");
        assert!(status.code() == 2 && status.stdout.contains(&why), "{}", status.stdout);
        rename(house.beside("away"), house.beside(lost));
        write(house.beside(lost).join("b"), "b\n");
        house.wait_in_sync();
        assert_eq!((read(house.right.join("a")), read(house.right.join("b"))), ("a\n".into(), "b\n".into()));
        write(house.right.join("c"), "c\n");
        house.wait_for(|house| house.left.join("c").exists());
        house.stop();
    }
}

#[test]
fn in_a_service_a_lost_left_root_is_for_the_next_process() {
    let mut house = House::new("");
    write(house.left.join("a"), "a\n");
    house.start(&[]);
    house.wait_in_sync();
    rename(&house.left, house.beside("away"));
    assert_eq!(house.wait_end(), Some(2), "{}", house.story());
    rename(house.beside("away"), &house.left);
    write(house.left.join("b"), "b\n");
    house.start(&[]);
    house.wait_in_sync();
    assert_eq!(read(house.right.join("b")), "b\n");
    house.stop();
}

#[test]
fn another_directory_in_the_place_of_a_lost_root_is_not_taken_for_it() {
    for lost in ["left", "right"] {
        let mut house = House::new("");
        write(house.left.join("a"), "a\n");
        let mut brain = house.brain();
        brain.env_remove("NOTIFY_SOCKET");
        house.start_alone(brain);
        house.wait_in_sync();
        rename(house.beside(lost), house.beside("away"));
        mkdir(house.beside(lost));
        house.wait_for(|house| {
            let status = house.status();
            let reason = status.pointer("/halt/reason").and_then(|reason| reason.as_str()).unwrap_or_default();
            status["state"] == "halted" && reason.contains("no archive of this pair")
        });
        let kept = if lost == "left" { &house.right } else { &house.left };
        assert_eq!(read(kept.join("a")), "a\n");
        assert_eq!(walk(&house.beside(lost)), 0);
        house.stop();
    }
}

/// The number of files in a tree, psync's own left out.
fn walk(directory: &std::path::Path) -> usize {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten().filter(|entry| entry.file_name() != ".psync");
    entries.map(|entry| if entry.path().is_dir() { walk(&entry.path()) } else { 1 }).sum()
}

#[test]
fn a_full_sync_finds_what_no_event_told_of() {
    let mut house = House::new("");
    // The kernel tells the directory through which a file is written, and nobody else.
    let (small, big) = (house.beside("small"), house.beside("big"));
    write(&small, "one\n");
    let size = 65 << 20;
    fs::File::create(&big).unwrap().set_len(size).unwrap();
    write_at(&big, 0, "one");
    hard_link(&small, house.left.join("small"));
    hard_link(&big, house.left.join("big"));
    house.start(&[]);
    house.wait_in_sync();

    let changed = |path: &std::path::Path, text: &str| {
        let before = fs::metadata(path).unwrap();
        write_at(path, 0, text);
        touch(path, before.mtime(), before.mtime_nsec());
    };
    changed(&small, "two");
    changed(&big, "two");
    write(house.left.join("mark"), "");
    house.wait_for(|house| house.right.join("mark").exists());
    let head = |path: std::path::PathBuf| {
        use std::io::Read;
        let mut head = [0; 3];
        fs::File::open(path).unwrap().read_exact(&mut head).unwrap();
        String::from_utf8_lossy(&head).into_owned()
    };
    let there = |house: &House| ["small", "big"].map(|name| head(house.right.join(name)));
    assert_eq!(there(&house), ["one", "one"], "the test is wrong: something told of it");

    let done = house.psync(&["fullsync", PAIR]);
    assert!(done.code() == 0 && done.stdout.starts_with("web: full sync done: 3 files"), "{}", done.stderr);
    // Size and mtime are what they were: the ctime alone says that both are to be read.
    assert_eq!(there(&house), ["two", "two"], "{}", house.story());
    let done = house.psync(&["fullsync", PAIR, "--checksum", "--json"]);
    assert!(done.code() == 0 && done.stdout.contains("\"ok\":true"), "{}{}", done.stdout, done.stderr);
    assert_eq!(there(&house), ["two", "two"], "{}", house.story());
    let status = house.status();
    assert_eq!((status["full_sync"]["number"].as_u64(), &status["full_sync"]["checksum"]), (Some(2), &true.into()));
    house.stop();

    // The same by itself.
    changed(&big, "six");
    write(house.left.join("small"), "new\n");
    let done = house.psync(&["fullsync", house.config.to_str().unwrap(), "--checksum"]);
    assert_eq!(done.code(), 0, "{}", done.stderr);
    assert_eq!(there(&house), ["new", "six"], "{}", done.stderr);
}

#[test]
fn what_was_taken_for_equal_unread_is_read_by_a_full_sync_with_checksums() {
    let mut house = House::new("");
    let put = |path: std::path::PathBuf, text: &str| {
        plant(&path, text);
        touch(&path, 1_000_000_000, 7);
    };
    for n in 0..300 {
        for root in [&house.left, &house.right] {
            put(root.join(format!("d{}/f{n}", n % 10)), &format!("the same {n}"));
        }
    }
    put(house.left.join("d0/alike"), "what left has");
    put(house.right.join("d0/alike"), "what is right");
    house.start(&[]);
    house.wait_in_sync();
    // Some seconds later it is read without being asked for.
    let done = house.psync(&["fullsync", PAIR, "--checksum"]);
    assert_eq!(done.code(), 0, "{}{}", done.stderr, house.story());
    // The left's on a tie, and the other beside it; of all the others nothing was sent.
    for root in [&house.left, &house.right] {
        assert_eq!(read(root.join("d0/alike")), "what left has", "{}", house.story());
        assert_eq!(
            read(root.join("d0/alike (conflict right 2001-09-09 01.46.40)")),
            "what is right",
            "{}",
            house.story()
        );
        assert_eq!(walk(root), 302);
    }
    assert_eq!(house.status()["totals"]["conflicts"], 1, "told once{}", house.story());
    let done = house.psync(&["check", house.config.to_str().unwrap(), "-c", "--all"]);
    assert_eq!(done.code(), 0, "{}{}", done.stdout, done.stderr);
    let done = house.psync(&["fullsync", PAIR, "--checksum"]);
    assert_eq!(done.code(), 0, "{}", done.stderr);
    assert_eq!(walk(&house.left), 302, "{}", house.story());
    house.stop();
}

#[test]
fn another_user_is_refused_at_the_socket() {
    if !process::is_root() || !tools::has("setpriv") {
        return;
    }
    let mut house = House::new("");
    house.start(&[]);
    house.wait_in_sync();
    let program = house.beside("psync");
    tools::copy_program(PSYNC, &program);
    chmod(house.beside(""), 0o755);
    let run = house.socket().parent().unwrap().to_owned();
    chmod(&run, 0o755);
    let as_nobody = |words: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program).args(words);
        command.env("RUNTIME_DIRECTORY", &run);
        run_to_end(command)
    };
    assert_eq!(fs::metadata(house.socket()).unwrap().permissions().mode() & 0o777, 0o660);
    let by_mode = as_nobody(&["status", PAIR]);
    assert!(by_mode.code() == 1 && by_mode.stderr.contains("Permission denied"), "{}", by_mode.stderr);
    // The brain looks for itself who is there.
    chmod(house.socket(), 0o666);
    for words in [["status", PAIR], ["pause", PAIR]] {
        let refused = as_nobody(&words);
        assert!(refused.code() == 1 && refused.stderr.contains("only root and members"), "{}", refused.stderr);
        assert_eq!(refused.stdout, "");
    }
    assert_eq!(house.status()["state"], "in-sync");
    house.stop();
}

#[test]
fn a_bad_start_is_one_line_and_exit_1() {
    let house = House::new("");
    let none = house.beside("none.toml");
    for (argument, wanted) in [
        (none.to_str().unwrap(), "none.toml: cannot read"),
        ("no-such-pair-here", "/etc/psync/no-such-pair-here.toml: cannot read"),
        ("a/.b", "is no name of a pair"),
    ] {
        let mut command = Command::new(PSYNC_BRAIN);
        command.arg(argument).env("RUNTIME_DIRECTORY", house.beside("run"));
        let once = run_to_end(command);
        assert!(once.code() == 1 && once.stderr.contains(wanted), "{argument}: {}", once.stderr);
        assert_eq!(once.stderr.lines().count(), 1, "{}", once.stderr);
    }
    remove_tree(&house.left);
    // A service that systemd starts waits for it.
    let mut brain = house.brain();
    brain.env_remove("NOTIFY_SOCKET");
    let once = run_to_end(brain);
    assert!(once.code() == 1 && once.stderr.contains("does not exist"), "{}", once.stderr);
}

/// The parser of node_exporter, and its rules for names.
fn promtool_takes(metrics: &str) {
    use std::io::Write;
    if !crate::support::tools::has("promtool") {
        return eprintln!("skipped: promtool check metrics");
    }
    let mut promtool = std::process::Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut child = promtool.spawn().unwrap();
    child.stdin.take().unwrap().write_all(metrics.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success() && said.is_empty(), "{said}\n{metrics}");
}
