//! A right host, or its disk, that is not there: at boot, at the start, and for long.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::{Duration, Instant};

use psync::service::log::message_id::LINK_DOWN;

use crate::support::web::{
    AGENT, BRAIN, arrives, both_ways, disconnected, in_sync, number, records, status, web, write,
};
use crate::support::{Host, Lab, until};

#[test]
fn a_right_host_that_is_away_is_waited_for() {
    // What would end a run in the foreground soon.
    let Some(mut lab) = web("maxtimeout = 3\nitimeout = 5") else { return };
    both_ways(&lab, "before");
    lab.right.shut_down();
    lab.line.cut();

    // At boot.
    lab.left.reboot();
    assert_eq!(lab.left.show(BRAIN, "ActiveState"), "active");
    until("the status says so", || status(&lab)["state"] == "disconnected");
    write(&lab.left, "written while the right was off", "x");
    // At the start.
    let begun = Instant::now();
    lab.left.sh(&format!("systemctl stop {BRAIN}; systemctl start {BRAIN}"));
    assert!(begun.elapsed() < Duration::from_secs(20), "the start waited for the right host");
    // For long: many times what a run in the foreground bears.
    let mut calls = vec![0];
    until("it has called a few times", || {
        let next = status(&lab).pointer("/link/next_attempt").and_then(|at| at.as_u64()).unwrap_or(0);
        if next > calls[calls.len() - 1] {
            calls.push(next);
        }
        calls.len() >= 6
    });
    let waits: Vec<u64> = calls[1..].windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(waits.windows(2).all(|pair| pair[1] + 1 >= pair[0]), "{waits:?}");
    a_reason_is_told_once(&lab);
    let memory = resident(&lab);
    people_go_on_working(&lab.left);
    assert_eq!(lab.left.show(BRAIN, "NRestarts"), "0");
    assert_eq!(lab.left.sh("systemctl is-system-running"), "running");
    assert!(number(&lab, "/link/next_attempt") > 0);
    let grown = resident(&lab).saturating_sub(memory);
    assert!(grown <= 24, "{grown} MiB for {FILES} files that wait");

    // The right host boots.
    lab.line.restore();
    lab.right.start();
    lab.right.wait_until_running();
    arrives(&lab.right, "written while the right was off", "x");
    all_of_it_arrives(&lab);
    // The one with which a start begins.
    assert_eq!(number(&lab, "/left/scans"), 1, "the left was scanned again");
    both_ways(&lab, "after");

    // The other way round.
    lab.left.shut_down();
    write(&lab.right, "written while the left was off", "x");
    lab.left.start();
    lab.left.wait_until_running();
    arrives(&lab.left, "written while the left was off", "x");
    in_sync(&lab);
    a_disk_of_the_right_that_does_not_come(&mut lab);
}

/// However often the right host is called, the journal has a line for each new reason, and not for each call.
fn a_reason_is_told_once(lab: &Lab) {
    let told = records(&lab.left, &format!("MESSAGE_ID={LINK_DOWN} --boot"));
    let reason = |line: &str| line.split("; next attempt").next().unwrap_or_default().to_owned();
    let start = told.lines().filter(|line| line.contains("next attempt in 1 s")).count();
    let reasons: BTreeSet<String> = told.lines().map(reason).collect();
    assert!(told.lines().count() <= reasons.len() * start.max(1), "{told}");
    let said = records(&lab.left, "--boot");
    let same = said.lines().fold(BTreeMap::<&str, usize>::new(), |mut all, line| {
        *all.entry(line).or_default() += 1;
        all
    });
    // The brain was started twice.
    assert!(same.values().all(|times| *times <= 2), "{same:#?}");
}

const FILES: usize = 10_000;

/// More than fits into any queue, in directories of a hundred, some of it renamed and deleted again.
fn people_go_on_working(host: &Host) {
    host.sh(&format!(
        "mkdir /srv/web/much; cd /srv/web/much
         for d in $(seq {}); do mkdir $d; for f in $(seq 100); do echo $d $f > $d/$f; done; done
         mv 1 first; rm -r 2; echo more >> 3/1",
        FILES / 100
    ));
}

/// MiB of the brain's memory.
fn resident(lab: &Lab) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", lab.left.pid_of(BRAIN))).unwrap();
    let kib = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("its memory").trim();
    kib.split(' ').next().unwrap().parse::<u64>().unwrap() / 1024
}

fn all_of_it_arrives(lab: &Lab) {
    let count = |host: &Host| host.sh("find /srv/web/much -type f 2> /dev/null | wc -l").parse().unwrap_or(0);
    until("all files are there", || count(&lab.right) == FILES - 100);
    arrives(&lab.right, "much/first/7", "1 7\n");
    arrives(&lab.right, "much/3/1", "3 1\nmore\n");
    in_sync(lab);
}

/// The unit of a mount on a host's root, which works or does not.
fn mount_on_root(host: &Host, works: bool) {
    let how = if works { "Type=none\nOptions=bind" } else { "Type=no-such-filesystem" };
    let unit = format!("[Mount]\nWhat=/srv/disk\nWhere=/srv/web\n{how}\n[Install]\nWantedBy=multi-user.target\n");
    host.write("/etc/systemd/system/srv-web.mount", &unit);
    host.sh("systemctl daemon-reload");
}

/// The root lies on a mount of its own from now on, which does not come at boot; what is in it comes along.
fn boot_without_the_disk(host: &mut Host, stop: &str) {
    host.sh(&format!("systemctl stop {stop}; mv /srv/web /srv/disk; mkdir /srv/web"));
    mount_on_root(host, false);
    host.sh("systemctl enable srv-web.mount 2> /dev/null");
    host.shut_down();
    host.start();
    assert_eq!(host.wait_until_booted(), "degraded");
}

fn a_disk_of_the_right_that_does_not_come(lab: &mut Lab) {
    boot_without_the_disk(&mut lab.right, &format!("{AGENT} psync-agent@web.socket"));
    let right = &lab.right;
    disconnected(lab, "root /srv/web: srv-web.mount is not mounted (exit-code)");
    let turned_away = |lab: &Lab| lab.right.journal(AGENT).matches("turned away: ").count();
    until("the brain has called a few times", || turned_away(lab) >= 3);
    assert_eq!(right.show("psync-agent@web.socket", "ActiveState"), "active");
    assert_eq!(right.show(AGENT, "Result"), "success");
    assert_eq!(fs::read_dir(right.path("/srv/web")).unwrap().count(), 0, "something was written below the mount point");
    let checked = lab.left.output("psync check web");
    assert!(checked.stderr.contains("srv-web.mount is not mounted"), "{}{}", checked.stdout, checked.stderr);
    write(&lab.left, "while the disk was away", "x");

    // Mended, the pair needs no hand.
    mount_on_root(right, true);
    let there = right.path("/srv/disk/while the disk was away");
    until("it is on the disk", || fs::read_to_string(&there).is_ok_and(|text| text == "x"));
    in_sync(lab);
}

#[test]
fn a_disk_of_the_left_that_does_not_come_is_waited_for() {
    let Some(mut lab) = web("alert_command = \"cat >> /srv/alert\"") else { return };
    both_ways(&lab, "before");
    boot_without_the_disk(&mut lab.left, BRAIN);
    let left = &lab.left;
    let reason = "root /srv/web: srv-web.mount is not mounted (exit-code)";
    disconnected(&lab, reason);
    // Waiting is no failure: it can be seen, told, and stopped.
    assert_eq!(left.show(BRAIN, "ActiveState"), "active");
    assert!(left.show(BRAIN, "StatusText").contains(reason), "{}", left.show(BRAIN, "StatusText"));
    assert_eq!(left.output("psync status web").code, 2);
    let alert = || fs::read_to_string(left.path("/srv/alert")).unwrap_or_default();
    until("the alert is delivered", || !alert().is_empty());
    let told = alert();
    assert!(told.starts_with(&format!("pair web: waits: {reason}\n")), "{told}");
    let refused = left.output("psync fullsync web");
    assert!(!refused.good && refused.stderr.contains("not there yet"), "{}{}", refused.stdout, refused.stderr);
    left.sh(&format!("systemctl stop {BRAIN}"));
    assert_eq!(left.show(BRAIN, "Result"), "success");
    left.sh(&format!("systemctl start {BRAIN}"));
    disconnected(&lab, reason);
    write(&lab.right, "while the disk was away", "x");
    let mounts = || left.sh("journalctl --sync; journalctl -q -o cat --boot -u srv-web.mount");
    let asked = mounts().lines().count();
    until("the mount is tried again", || mounts().lines().count() > asked);
    assert_eq!(fs::read_dir(left.path("/srv/web")).unwrap().count(), 0, "something was written below the mount point");
    assert_eq!(left.show(BRAIN, "NRestarts"), "0");

    // Mended, the pair needs no hand: nobody but the brain asks for the mount.
    mount_on_root(left, true);
    let there = left.path("/srv/disk/while the disk was away");
    until("it is on the disk", || fs::read_to_string(&there).is_ok_and(|text| text == "x"));
    in_sync(&lab);
    assert_eq!(left.show(BRAIN, "NRestarts"), "1");
    assert_eq!(left.sh("systemctl is-system-running"), "running");
    let alerts = alert().matches("waits: ").count();
    assert!(alerts <= 2, "{}", alert());

    // An administrator who takes the disk away stops the pair.
    left.sh("systemctl stop srv-web.mount");
    until("the brain has stopped", || left.show(BRAIN, "ActiveState") == "inactive");
}
