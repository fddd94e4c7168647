//! What breaks while a pair is at work, and mends itself: lines, processes, threads.

use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::web::{AGENT, BRAIN, LINK, arrives, both_ways, in_sync, number, status, vanishes, web, write};
use crate::support::{Host, Lab, until};
use crate::threads::{Stopped, thread_of};

fn scans(lab: &Lab) -> [u64; 2] {
    ["left", "right"].map(|side| number(lab, &format!("/{side}/scans")))
}

/// Everything that is on either side is on both.
fn equal(lab: &Lab) {
    in_sync(lab);
    let listed =
        |host: &Host| host.sh("cd /srv/web && find . -name .psync -prune -o -type f -exec sha256sum {} + | sort -k 2");
    until("both trees are equal", || listed(&lab.left) == listed(&lab.right));
}

#[test]
fn a_pair_survives_what_breaks() {
    // So that a cut of half a minute is noticed.
    let Some(lab) = web("timeout = 10") else { return };
    let brain = lab.left.show(BRAIN, "MainPID");
    a_cut_of_half_a_minute(&lab);
    ssh_and_the_relay_are_killed(&lab);
    assert_eq!(lab.left.show(BRAIN, "MainPID"), brain, "nothing so far concerned the brain itself");
    units_are_restarted_and_killed(&lab);
    a_stuck_thread_of_the_brain(&lab);
    a_stuck_thread_of_the_agent(&lab);
    equal(&lab);
    for host in lab.hosts() {
        let stage = fs::read_dir(host.path("/srv/web/.psync/web/stage")).unwrap().count();
        assert_eq!(stage, 0, "left over on the {}", host.name);
    }
}

fn a_cut_of_half_a_minute(lab: &Lab) {
    for (host, own) in [(&lab.left, "l"), (&lab.right, "r")] {
        host.sh(&format!("mkdir /srv/web/{own}; for n in $(seq 50); do echo $n > /srv/web/{own}/$n; done"));
    }
    equal(lab);
    let (before, links) = (scans(lab), number(lab, "/totals/links"));
    lab.line.cut();
    for (host, own) in [(&lab.left, "l"), (&lab.right, "r")] {
        host.sh(&format!(
            "cd /srv/web; echo more >> {own}/1; rm {own}/2; mv {own}/3 {own}/moved; mkdir -p {own}/deep/er; echo new > {own}/deep/er/new"
        ));
    }
    // The length of the cut is what is tested.
    std::thread::sleep(Duration::from_secs(30));
    assert_eq!(status(lab)["state"], "disconnected");
    lab.line.restore();
    arrives(&lab.right, "l/deep/er/new", "new\n");
    arrives(&lab.left, "r/deep/er/new", "new\n");
    for (host, other) in [(&lab.left, "r"), (&lab.right, "l")] {
        arrives(host, &format!("{other}/1"), "1\nmore\n");
        arrives(host, &format!("{other}/moved"), "3\n");
        vanishes(host, &format!("{other}/2"));
    }
    equal(lab);
    assert!(number(lab, "/totals/links") > links, "it never noticed the cut");
    assert_eq!(scans(lab), before, "a tree was scanned again");
}

fn ssh_and_the_relay_are_killed(lab: &Lab) {
    let before = scans(lab);
    let line = || lab.left.show(LINK, "MainPID");
    for (host, script) in [
        (&lab.left, format!("pgrep -x ssh -P {}", line())),
        (&lab.left, line_itself()),
        (&lab.right, "pgrep -u psync -x psync-agent".to_owned()),
    ] {
        let links = number(lab, "/totals/links");
        host.kill_found(&script);
        both_ways(lab, &format!("after a kill on the {}", host.name));
        until("the new link is counted", || number(lab, "/totals/links") == links + 1);
    }
    let links = number(lab, "/totals/links");
    // A restart leaves the connections that there are alone, so they are ended as well.
    lab.right.sh("systemctl restart ssh; kill $(pgrep -u psync -x sshd)");
    both_ways(lab, "after a restart of sshd");
    until("the new link is counted", || number(lab, "/totals/links") == links + 1);
    assert_eq!(scans(lab), before);
}

/// The process that runs ssh for the brain; ssh goes with it.
fn line_itself() -> String {
    format!("systemctl show --value --property=MainPID {LINK}")
}

fn units_are_restarted_and_killed(lab: &Lab) {
    for (host, unit) in [(&lab.left, BRAIN), (&lab.right, AGENT)] {
        let (pid, restarts) = (host.show(unit, "MainPID"), host.show(unit, "NRestarts"));
        write(&lab.left, "meanwhile", unit);
        host.sh(&format!("systemctl restart {unit}"));
        arrives(&lab.right, "meanwhile", unit);
        both_ways(lab, &format!("after a restart of {unit}"));
        in_sync(lab);
        assert_ne!(host.show(unit, "MainPID"), pid);
        assert_eq!(host.show(unit, "NRestarts"), restarts);

        host.kill(unit, Signal::SIGKILL);
        both_ways(lab, &format!("after a kill of {unit}"));
        in_sync(lab);
        assert_eq!(host.show(unit, "ActiveState"), "active");
    }
    // One restart after a kill, not many.
    assert_eq!(lab.left.show(BRAIN, "NRestarts"), "1");
    assert!(lab.right.journal(AGENT).matches("Main process exited").count() <= 2, "{}", lab.right.journal(AGENT));
}

/// A unit whose watchdog waits for seconds only.
fn with_a_short_watchdog(host: &Host, unit: &str) {
    host.write(&format!("/etc/systemd/system/{unit}.d/watchdog.conf"), "[Service]\nWatchdogSec=3s\n");
    host.sh(&format!("systemctl daemon-reload; systemctl restart {unit}"));
}

/// Stops one thread of the unit's process, writes on both sides, and waits until systemd has ended the process.
fn stick(lab: &Lab, host: &Host, unit: &str, thread: &str) {
    in_sync(lab);
    let before = host.journal(unit).matches("Watchdog timeout").count();
    let stopped = Stopped::stop(thread_of(host.pid_of(unit), thread));
    for host in lab.hosts() {
        write(host, &format!("written on the {} while {thread} of {unit} stands still", host.name), "x");
    }
    until("systemd has lost its patience", || host.journal(unit).matches("Watchdog timeout").count() > before);
    until("the process is killed", || stopped.is_gone());
    drop(stopped);
    for (from, to) in [(&lab.left, &lab.right), (&lab.right, &lab.left)] {
        arrives(to, &format!("written on the {} while {thread} of {unit} stands still", from.name), "x");
    }
    equal(lab);
    assert_eq!(host.show(unit, "ActiveState"), "active");
}

fn a_stuck_thread_of_the_brain(lab: &Lab) {
    with_a_short_watchdog(&lab.left, BRAIN);
    let restarts: u32 = lab.left.show(BRAIN, "NRestarts").parse().unwrap();
    stick(lab, &lab.left, BRAIN, "left");
    assert_eq!(lab.left.show(BRAIN, "NRestarts"), (restarts + 1).to_string());
}

fn a_stuck_thread_of_the_agent(lab: &Lab) {
    with_a_short_watchdog(&lab.right, AGENT);
    stick(lab, &lab.right, AGENT, "psync-watch");
}
