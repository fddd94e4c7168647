//! The link over a real ssh line to a real sshd, and what is said when there is none.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::service::{AGENT, Service};
use crate::support::sshd::{self, Sshd};
use crate::support::users::*;
use crate::support::{NAME, PATIENCE, PSYNC, Pair, poll, process, run_to_end};

/// What logins find in their environment.
fn environment(run: &Path) -> Vec<(String, String)> {
    let programs = Path::new(AGENT).parent().unwrap().display().to_string();
    let runtime = run.display().to_string();
    vec![("PATH".into(), format!("{programs}:/usr/bin:/bin")), ("RUNTIME_DIRECTORY".into(), runtime)]
}

fn start_sshd(pair: &Pair, run: &Path) -> Sshd {
    let environment = environment(run);
    let environment: Vec<(&str, &str)> = environment.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    Sshd::start(pair.beside("sshd"), &environment)
}

/// The proxy command of a pair, as the default is, with this key and these known hosts.
fn proxy(sshd: &Sshd, key: &str, known: &str, agent: &str) -> String {
    let options = sshd.options(key, known).join(" ");
    format!("exec ssh -T {options} -o BatchMode=yes -p {} -- {}@127.0.0.1 {agent}", sshd.port, sshd::user())
}

fn forced(pair: &str) -> String {
    format!("restrict,command=\"{AGENT} connect {pair}\"")
}

#[test]
fn a_pair_over_ssh_with_a_forced_command() {
    if !sshd::possible() {
        return;
    }
    let pair = Pair::new();
    let mut service = Service::start(&pair, "");
    let sshd = start_sshd(&pair, &service.run);
    sshd.allow(&forced(NAME));
    let command = proxy(&sshd, "good", "known_hosts", "psync-agent connect %i");
    let mut pair = pair.with(&["--proxy-command", &command]);
    plant(pair.left.join("a/file"), "left\n");
    plant(pair.right.join("b/file"), vec![7; 3_000_000]);
    pair.run();
    write(pair.left.join("a/file"), "left again\n");
    rename(pair.right.join("b"), pair.right.join("c"));
    pair.settle();
    // The line breaks: ssh is gone, and is started again.
    process::kill_and_wait(&pair.processes()[1..]);
    write(pair.left.join("meanwhile"), "left\n");
    write(pair.right.join("meanwhile too"), "right\n");
    pair.settle();
    assert_eq!(service.logged("scanned: "), 1, "{}", service.log());
    pair.stop();
    service.stop();
}

#[test]
fn an_ad_hoc_pair_over_ssh() {
    if !sshd::possible() {
        return;
    }
    let pair = Pair::new();
    let sshd = start_sshd(&pair, Path::new("/nonexistent"));
    sshd.allow("restrict");
    let file = pair.beside("psync.toml");
    let options = sshd.options("good", "known_hosts");
    write(&file, format!("ssh_options = {options:?}\n[right]\nport = {}\n", sshd.port));
    let host = format!("{}@127.0.0.1", sshd::user());
    let mut pair = pair.with(&["--config", file.to_str().unwrap(), "-r", &host]);
    plant(pair.left.join("it's \"here\"/file"), "left\n");
    plant(pair.right.join("b/file"), "right\n");
    pair.run();
    write(pair.right.join("it's \"here\"/file"), "right again\n");
    pair.settle();
    pair.stop();
    // A root that is not there is told by the agent, through ssh.
    let mut psync = Command::new(PSYNC);
    psync.args(["-s", "--config", file.to_str().unwrap(), "-r", &host]).arg(&pair.left).arg(pair.beside("no such"));
    let once = run_to_end(psync);
    assert_eq!(once.code(), 2, "{}", once.stderr);
    assert!(
        once.stderr.contains("link down: 127.0.0.1: root ") && once.stderr.contains("does not exist"),
        "{}",
        once.stderr
    );
}

/// Neither an option of the user's own nor one of a file lets a stranger be the other host.
#[test]
fn an_unknown_host_is_refused_whatever_else_is_said() {
    if !sshd::possible() {
        return;
    }
    let pair = Pair::new();
    let sshd = start_sshd(&pair, Path::new("/nonexistent"));
    sshd.allow("restrict");
    let file = pair.beside("psync.toml");
    let host = format!("{}@127.0.0.1", sshd::user());
    plant(pair.left.join("file"), "left\n");
    for (known, more, code) in [
        ("known_hosts", "StrictHostKeyChecking=no", 0),
        ("nobody_known", "StrictHostKeyChecking=no", 2),
        ("nobody_known", "StrictHostKeyChecking=accept-new", 2),
        ("nobody_known", "stricthostkeychecking off", 2),
    ] {
        let mut options = sshd.options("good", known);
        options.extend(["-A".into(), "-o".into(), more.into()]);
        write(&file, format!("ssh_options = {options:?}\n[right]\nport = {}\n", sshd.port));
        let mut psync = Command::new(PSYNC);
        psync.args(["-s", "--config", file.to_str().unwrap(), "-r", &host]).args([&pair.left, &pair.right]);
        let once = run_to_end(psync);
        assert_eq!(once.code(), code, "{known} {more}: {}", once.stderr);
        if code != 0 {
            assert!(once.stderr.contains("link down: the host's key is not known here"), "{more}: {}", once.stderr);
            assert!(once.stderr.contains("ssh-keyscan"), "what is to be done: {}", once.stderr);
        }
    }
    assert_eq!(fs::read(pair.beside("sshd").join("nobody_known")).unwrap(), b"", "it was accepted");
}

#[test]
fn each_way_to_fail_has_its_words() {
    if !sshd::possible() {
        return;
    }
    let pair = Pair::new();
    let mut service = Service::start(&pair, "");
    let sshd = start_sshd(&pair, &service.run);
    let nobody_listens = {
        let mut command = proxy(&sshd, "good", "known_hosts", "psync-agent connect %i");
        let free = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        command = command.replace(&format!("-p {}", sshd.port), &format!("-p {free}"));
        command
    };
    let through = |key, known, agent| proxy(&sshd, key, known, agent);
    let connect = "psync-agent connect %i";
    let table: Vec<(&str, String, String, &str)> = vec![
        (
            "a key that nobody knows",
            forced(NAME),
            through("stranger", "known_hosts", connect),
            "the host lets nobody in with these keys",
        ),
        ("an unknown host", forced(NAME), through("good", "nobody_known", connect), "the host's key is not known here"),
        ("nobody listens", forced(NAME), nobody_listens, "nobody listens there"),
        (
            "a key for one pair, a command for another",
            forced("other"),
            through("good", "known_hosts", connect),
            "this key is for the pair other, not for e2e",
        ),
        (
            "a pair that is not served",
            forced("other"),
            through("good", "known_hosts", "hello"),
            "no pair other is served on this host",
        ),
        (
            "a login without an agent",
            "restrict,command=\"PATH=/nonexistent; psync-agent connect e2e\"".into(),
            through("good", "known_hosts", connect),
            "there is no psync-agent on the other host",
        ),
        (
            "a login that prints something",
            format!("restrict,command=\"echo Welcome; {AGENT} connect e2e\""),
            through("good", "known_hosts", connect),
            "what answers is no psync-agent: the other side is no psync; it said \"Welcome\"",
        ),
    ];
    for (case, options, command, words) in &table {
        sshd.allow(options);
        let once = pair.sync_with(&["--proxy-command", command]);
        assert_eq!(once.code(), 2, "{case}: {}", once.stderr);
        assert!(once.stderr.contains(&format!("link down: {words}")), "{case}: {}", once.stderr);
    }
    // What ssh says is in the log, line by line.
    let log = fs::read_to_string(&pair.log).unwrap();
    for line in ["right: Host key verification failed.", "127.0.0.1: Permission denied (publickey)."] {
        assert!(log.contains(line), "{log}");
    }
    // The same key and socket, but the brain means another pair.
    sshd.allow(&forced(NAME));
    let mut psync = Command::new(PSYNC);
    psync.args(["-s", "--pair", "mail", "--proxy-command", &through("good", "known_hosts", "whatever")]);
    psync.args([&pair.left, &pair.right]);
    let once = run_to_end(psync);
    assert_eq!(once.code(), 2, "{}", once.stderr);
    let words = "leads to another pair: the other side serves the pair 'e2e', not 'mail'";
    assert!(once.stderr.contains(words), "{}", once.stderr);
    // After all that it still works, and another host key is noticed.
    let good = pair.sync_with(&["--proxy-command", &through("good", "known_hosts", connect)]);
    assert_eq!(good.code(), 0, "{}", good.stderr);
    let known = pair.beside("sshd").join("known_hosts");
    let stranger = fs::read_to_string(pair.beside("sshd").join("stranger.pub")).unwrap();
    fs::write(&known, format!("[127.0.0.1]:{} {stranger}", sshd.port)).unwrap();
    let once = pair.sync_with(&["--proxy-command", &through("good", "known_hosts", connect)]);
    assert!(once.code() == 2 && once.stderr.contains("is another one than before"), "{}", once.stderr);
    service.stop();
}

#[test]
fn an_sshd_that_goes_away_is_waited_for() {
    if !sshd::possible() {
        return;
    }
    let pair = Pair::new();
    let mut service = Service::start(&pair, "");
    let mut sshd = start_sshd(&pair, &service.run);
    sshd.allow(&forced(NAME));
    let command = proxy(&sshd, "good", "known_hosts", "psync-agent connect %i");
    let mut pair = pair.with(&["--proxy-command", &command]);
    pair.run();
    sshd.stop();
    process::kill_and_wait(&pair.processes()[1..]);
    let refused = |line: &str| line.contains("link down: nobody listens there") && line.contains("next attempt in");
    assert!(pair.wait_said(PATIENCE, refused), "{}", pair.story());
    write(pair.left.join("file"), "left\n");
    sshd.again();
    assert!(poll(PATIENCE, || pair.right.join("file").exists()), "{}", pair.story());
    pair.settle();
    pair.stop();
    service.stop();
}
