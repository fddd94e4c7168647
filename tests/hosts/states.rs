//! Every state that a pair can be in: status, JSON, metrics, systemd's line, the journal and the alerts say the same of it.

use std::fs;

use nix::sys::signal::Signal;
use psync::link::frame::{Kind, write as write_frame};
use psync::service::log::message_id;

use crate::support::web::{
    AGENT, BRAIN, LINK, arrives, configure, in_sync, number, records, state, status, vanishes, web, write,
};
use crate::support::{Lab, until};

const SETTINGS: &str = "alert_after = 3\ntimeout = 6\nitimeout = 10\nalert_command = \"cat >> /srv/alert\"";

#[test]
fn every_state_is_told_alike_everywhere() {
    let Some(lab) = web(SETTINGS) else { return };
    the_counts_are_those_of_the_archives(&lab);
    behind(&lab);
    paused(&lab);
    a_line_that_is_down(&lab);
    a_start_without_the_line(&lab);
    problems_are_tried_at_once(&lab);
    another_version(&lab);
    a_pair_that_the_right_does_not_know(&lab);
    another_root_on_the_right(&lab);
    the_root_of_the_right_is_missing(&lab);
    the_root_of_the_left_is_missing(&lab);
    a_root_is_lost_while_it_is_served(&lab);
    what_the_right_host_says(&lab);
    stopped_and_failed(&lab);
    a_first_sync_and_a_full_disk(&lab);
}

fn alerts(lab: &Lab) -> String {
    fs::read_to_string(lab.left.path("/srv/alert")).unwrap_or_default()
}

/// Waits until all that tell the state agree on it, and each has these words.
fn agree(lab: &Lab, state: &str, code: i32, words: &str) {
    let metric = format!("psync_state{{pair=\"web\",psync_state=\"{}\"}} 1", state.replace('-', " "));
    let mut last = String::new();
    let mut agreed = || {
        let text = lab.left.output("psync status web");
        let first = text.stdout.lines().next().unwrap_or_default().to_owned();
        let metrics = lab.left.output("psync status web --openmetrics").stdout;
        let systemd = lab.left.show(BRAIN, "StatusText");
        let json = status(lab);
        last = format!("exit {}: {first}\nsystemd: {systemd}\njson: {json}", text.code);
        text.code == code
            && json["state"] == state
            && first.contains(words)
            && systemd.contains(words)
            && metrics.lines().any(|line| line == metric || line.replace(state, &state.replace('-', " ")) == metric)
    };
    let end = std::time::Instant::now() + std::time::Duration::from_secs(150);
    while !agreed() {
        assert!(std::time::Instant::now() < end, "they do not agree on {state} with {words:?}:\n{last}");
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
}

/// The numbers of files of the pair and of both sides are so many, whatever happened.
fn files(lab: &Lab, want: u64) {
    let mut last = (0, 0, 0);
    let mut counted = || {
        last = (number(lab, "/files"), number(lab, "/left/files"), number(lab, "/right/files"));
        last == (want, want, want) && state(lab) == "in-sync"
    };
    let end = std::time::Instant::now() + std::time::Duration::from_secs(90);
    while !counted() {
        assert!(std::time::Instant::now() < end, "{want} files, and told were {last:?}: {}", status(lab));
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    let metrics = lab.left.output("psync status web --openmetrics").stdout;
    assert!(metrics.contains(&format!("psync_files{{pair=\"web\"}} {want}\n")), "{metrics}");
}

fn the_counts_are_those_of_the_archives(lab: &Lab) {
    let there = number(lab, "/files");
    lab.left.sh("cd /srv/web; mkdir many; for n in $(seq 40); do echo $n > many/$n; done");
    files(lab, there + 40);
    lab.right.sh("rm -r /srv/web/many/1*");
    vanishes(&lab.left, "many/1");
    let now = there + 40 - 11;
    files(lab, now);
    // Neither a new session nor another process on either host counts anew.
    lab.right.sh(&format!("systemctl restart {AGENT}"));
    until("a session begins anew", || number(lab, "/totals/links") >= 2);
    files(lab, now);
    lab.left.sh(&format!("systemctl restart {BRAIN}"));
    files(lab, now);
    agree(lab, "in-sync", 0, &format!("in sync: {now} files"));
}

fn behind(lab: &Lab) {
    lab.right.kill(AGENT, Signal::SIGSTOP);
    write(&lab.left, "behind", "x");
    until("the status says how far it is behind", || {
        let status = status(lab);
        status["state"] == "syncing" && status["lag_seconds"].as_f64().is_some_and(|lag| lag >= 1.0)
    });
    lab.right.kill(AGENT, Signal::SIGCONT);
    arrives(&lab.right, "behind", "x");
    in_sync(lab);
}

fn paused(lab: &Lab) {
    lab.left.sh("psync pause web");
    agree(lab, "paused", 0, "paused");
    write(&lab.left, "in a pause", "x");
    until("what waits is counted", || number(lab, "/queue") >= 1);
    // Another process knows it.
    lab.left.sh(&format!("systemctl restart {BRAIN}"));
    agree(lab, "paused", 0, "paused");
    assert!(records(&lab.left, "--boot").contains("paused since "), "nothing told of it at the start");
    lab.line.cut();
    agree(lab, "disconnected", 2, "paused as well");
    assert!(lab.left.sh("psync status web || true").contains("  paused     since "));
    assert!(!lab.right.path("/srv/web/in a pause").exists());
    lab.line.restore();
    agree(lab, "paused", 0, "paused");
    lab.left.sh("psync resume web");
    arrives(&lab.right, "in a pause", "x");
    lab.left.sh(&format!("systemctl restart {BRAIN}"));
    in_sync(lab);
    until("the line's alert is over", || {
        alerts(lab).contains("is reached again") || !alerts(lab).contains("not reached")
    });
    lab.left.sh("rm -f /srv/alert");
}

fn a_line_that_is_down(lab: &Lab) {
    lab.line.cut();
    agree(lab, "disconnected", 2, "disconnected");
    write(&lab.left, "while the line was down", "x");
    until("what waits is counted, with its age", || {
        let status = status(lab);
        status["queue"].as_u64() >= Some(1) && status["lag_seconds"].as_f64().is_some_and(|lag| lag >= 2.0)
    });
    agree(lab, "disconnected", 2, "1 waiting here");
    let metrics = lab.left.output("psync status web --openmetrics").stdout;
    let lag = metrics.lines().find_map(|line| line.strip_prefix("psync_lag_seconds{pair=\"web\"} ")).unwrap();
    assert!(lag.parse::<f64>().unwrap() >= 2.0, "{metrics}");
    until("it is told", || alerts(lab).contains("not reached since "));
    assert!(alerts(lab).starts_with("pair web: files2 not reached since "), "{}", alerts(lab));
    let full = lab.left.sh("psync status web || true");
    assert!(!full.contains("runs since"), "a full sync runs while nothing does: {full}");
    // The hour's check says that it could not look, and tells nobody once more.
    let checked = lab.left.output("systemctl start psync-check@web.service");
    assert!(!checked.good, "the check was well: {}{}", checked.stdout, checked.stderr);
    let doctor = lab.left.output("psync doctor web");
    assert!(!doctor.good && doctor.stdout.contains("state: disconnected"), "{}", doctor.stdout);
    lab.line.restore();
    arrives(&lab.right, "while the line was down", "x");
    until("its end is told", || alerts(lab).contains("files2 is reached again, after "));
    in_sync(lab);
    assert_eq!(alerts(lab).matches("pair web:").count(), 2, "{}", alerts(lab));
    assert_eq!(status(lab)["lag_seconds"], 0.0);
    assert_eq!(
        lab.left.sh("systemctl start psync-check@web.service; systemctl is-failed psync-check@web.service || true"),
        "inactive"
    );
    lab.left.sh("rm -f /srv/alert");
}

/// What waits since before the start nobody knows before both sides can be compared; what the left has is known.
fn a_start_without_the_line(lab: &Lab) {
    let there = number(lab, "/files");
    lab.line.cut();
    lab.left.sh(&format!("systemctl restart {BRAIN}"));
    agree(lab, "disconnected", 2, "disconnected");
    until("the left's files are counted", || number(lab, "/files") == there && number(lab, "/left/files") == there);
    write(&lab.left, "without the line", "x");
    agree(lab, "disconnected", 2, "what waits here is known once both sides meet");
    until("it is told", || alerts(lab).contains("files2 not reached since "));
    lab.line.restore();
    arrives(&lab.right, "without the line", "x");
    until("its end is told", || alerts(lab).contains("files2 is reached again, after "));
    files(lab, there + 1);
    lab.left.sh("rm -f /srv/alert");
}

fn another_version(lab: &Lab) {
    let right = &lab.right;
    let mut hello = Vec::new();
    let said = [b"psync".as_slice(), &99_u16.to_le_bytes(), &[5], b"9.9.9"].concat();
    write_frame(&mut hello, Kind::Hello, 0, &said).unwrap();
    fs::write(right.path("/var/lib/psync/hello"), hello).unwrap();
    // In place of the agent's relay.
    right.write("/usr/local/bin/psync-agent", "#!/bin/sh\ncat /var/lib/psync/hello; exec sleep 20\n");
    let keys = "/var/lib/psync/.ssh/authorized_keys";
    right.sh(&format!(
        "chmod 755 /usr/local/bin/psync-agent; sed -i 's|command=\"psync-agent|command=\"/usr/local/bin/psync-agent|' {keys}"
    ));
    lab.left.sh(&format!("systemctl stop {LINK}"));
    agree(lab, "disconnected", 2, "the two versions of psync do not fit");
    until("it is told", || alerts(lab).contains("the two versions of psync do not fit"));
    right.sh(&format!("sed -i 's|/usr/local/bin/psync-agent|psync-agent|' {keys}; rm /usr/local/bin/psync-agent"));
    in_sync(lab);
    until("its end is told", || alerts(lab).contains("files2 is reached again"));
    lab.left.sh("rm -f /srv/alert");
}

fn a_pair_that_the_right_does_not_know(lab: &Lab) {
    let right = &lab.right;
    right.sh(&format!("mv /etc/psync/web.toml /root/known.toml; systemctl stop {AGENT}"));
    agree(lab, "disconnected", 2, "files2: /etc/psync/web.toml: cannot read");
    until("it is told", || alerts(lab).contains("files2: /etc/psync/web.toml: cannot read"));
    right.sh(&format!(
        "mv /root/known.toml /etc/psync/web.toml; systemctl daemon-reload; systemctl reset-failed {AGENT}"
    ));
    in_sync(lab);
    until("its end is told", || alerts(lab).contains("files2 is reached again"));
    lab.left.sh("rm -f /srv/alert");
}

fn a_root_is_lost_while_it_is_served(lab: &Lab) {
    let (left, right) = (&lab.left, &lab.right);
    right.sh("mv /srv/web /srv/away");
    agree(lab, "halted", 2, "halted: files2: the root was moved, deleted or unmounted");
    until("the alert is delivered", || alerts(lab).contains("pair web: halted: files2: the root was moved"));
    write(left, "while the right lacked its root", "x");
    right.sh("mv /srv/away /srv/web");
    arrives(right, "while the right lacked its root", "x");
    agree(lab, "in-sync", 0, "in sync");
    until("its end is told", || alerts(lab).contains("pair web: goes on, after a halt"));
    left.sh("rm -f /srv/alert");

    left.sh("mv /srv/web /srv/away");
    agree(lab, "disconnected", 2, "root /srv/web does not exist");
    until("the alert is delivered", || alerts(lab).contains("pair web: waits: root /srv/web does not exist"));
    write(right, "while the left lacked its root", "x");
    left.sh("mv /srv/away /srv/web");
    arrives(left, "while the left lacked its root", "x");
    until("its end is told", || alerts(lab).contains("pair web: goes on: the root is there"));
    agree(lab, "in-sync", 0, "in sync");
    left.sh("rm -f /srv/alert");
}

/// The sides meet for the first time, and the right one's disk is small.
fn a_first_sync_and_a_full_disk(lab: &Lab) {
    let (left, right) = (&lab.left, &lab.right);
    left.sh(&format!(
        "systemctl stop {BRAIN}; rm -r /srv/web/.psync; mkdir /srv/web/first; cd /srv/web/first; seq 6000 | xargs touch"
    ));
    right.sh(&format!(
        "systemctl stop {AGENT}; mv /srv/web /srv/old; mkdir /srv/web
         mount -t tmpfs -o size=24m,nr_inodes=40k tmpfs /srv/web; chown --reference=/srv/old /srv/web; chmod --reference=/srv/old /srv/web"
    ));
    // It takes a while.
    configure(left, &format!("{SETTINGS}\nbandwidth_limit = 300000"));
    left.sh(&format!("dd if=/dev/urandom of=/srv/web/first/long bs=1M count=4 status=none; systemctl start {BRAIN}"));
    agree(lab, "syncing", 0, "syncing");
    assert!(status(lab)["last_in_sync"].is_null() || state(lab) == "in-sync", "{}", status(lab));
    in_sync(lab);
    left.sh("dd if=/dev/urandom of=/srv/web/large bs=1M count=40 status=none");
    agree(lab, "in-sync", 3, "1 with problems");
    let text = status(lab).pointer("/problems/0/text").and_then(|text| text.as_str()).unwrap_or_default().to_owned();
    assert!(text.starts_with("files2: ") && text.contains("free"), "{text}");
    until("it is told", || alerts(lab).contains("1 path is not synchronised since "));
    left.sh("rm /srv/web/large");
    until("its end is told", || alerts(lab).contains("all paths are synchronised again"));
    agree(lab, "in-sync", 0, "in sync");
    left.sh(&format!("systemctl stop {BRAIN}"));
    right.sh(&format!("systemctl stop {AGENT}; umount /srv/web"));
}

fn problems_are_tried_at_once(lab: &Lab) {
    write(&lab.left, "kept", "1");
    arrives(&lab.right, "kept", "1");
    in_sync(lab);
    lab.right.sh("chattr +i /srv/web/kept");
    write(&lab.left, "kept", "2");
    agree(lab, "in-sync", 3, "1 with problems");
    let text = status(lab).pointer("/problems/0/text").and_then(|text| text.as_str()).unwrap_or_default().to_owned();
    assert!(text.starts_with("files2: "), "{text}");
    until("it is told", || alerts(lab).contains("1 path is not synchronised since "));
    let left = lab.left.output("psync fullsync web");
    assert!(left.code == 8 && left.stdout.contains("1 path is not synchronised: kept: files2: "), "{}", left.stdout);
    // It waits for longer and longer by now; an administrator does not.
    std::thread::sleep(std::time::Duration::from_secs(10));
    lab.right.sh("chattr -i /srv/web/kept");
    let left = lab.left.output("psync fullsync web");
    assert!(left.code == 0, "{}{}", left.stdout, left.stderr);
    assert_eq!(fs::read_to_string(lab.right.path("/srv/web/kept")).unwrap(), "2");
    until("its end is told", || alerts(lab).contains("all paths are synchronised again"));
    agree(lab, "in-sync", 0, "in sync");
    lab.left.sh("rm -f /srv/alert");
}

fn another_root_on_the_right(lab: &Lab) {
    let right = &lab.right;
    right.sh(&format!(
        "mkdir /srv/other; cp /etc/psync/web.toml /root/web.toml
         awk '/^\\[right\\]/ {{ right = 1 }} right && /^root/ {{ $0 = \"root = \\\"/srv/other\\\"\" }} {{ print }}' /root/web.toml > /etc/psync/web.toml
         systemctl daemon-reload; systemctl stop {AGENT}"
    ));
    agree(lab, "halted", 2, "files2 serves /srv/other for pair web, this file says /srv/web");
    until("the alert is delivered", || alerts(lab).contains("pair web: halted: files2 serves /srv/other"));
    let doctor = lab.left.output("psync doctor web");
    assert!(!doctor.good && doctor.stdout.contains("root: /srv/other is served here"), "{}", doctor.stdout);
    for asked in ["psync check web", "psync trash web list"] {
        let said = lab.left.output(asked);
        let other = "/srv/other is served here, the other host's file says /srv/web";
        assert!(said.code == 1 && said.stderr.contains(other), "{asked}: {}{}", said.stdout, said.stderr);
    }
    assert_eq!(fs::read_dir(right.path("/srv/other")).unwrap().count(), 0, "something was written there");
    let told = records(&lab.left, &format!("MESSAGE_ID={} --boot", message_id::HALT));
    assert!(told.contains("halted: files2 serves /srv/other"), "{told}");
    right.sh(&format!(
        "cp /root/web.toml /etc/psync/web.toml; systemctl daemon-reload; systemctl stop {AGENT}; rmdir /srv/other"
    ));
    in_sync(lab);
    until("its end is told", || alerts(lab).contains("pair web: goes on, after a halt"));
    // The same directory by another path is no other one.
    right.sh(&format!("ln -s /srv/web /srv/link; sed -i 's|^root = \"/srv/web\"|root = \"/srv/link/\"|' /etc/psync/web.toml; systemctl stop {AGENT}; systemctl daemon-reload"));
    write(&lab.left, "by a link", "x");
    arrives(right, "by a link", "x");
    right.sh(&format!("cp /root/web.toml /etc/psync/web.toml; systemctl daemon-reload; systemctl stop {AGENT}"));
    in_sync(lab);
    lab.left.sh("rm -f /srv/alert");
}

fn the_root_of_the_right_is_missing(lab: &Lab) {
    let right = &lab.right;
    right.sh(&format!("systemctl stop {AGENT}; mv /srv/web /srv/away"));
    agree(lab, "disconnected", 2, "files2: root /srv/web does not exist");
    until("it is told", || alerts(lab).contains("files2: root /srv/web does not exist"));
    let there = right.output("psync status web");
    assert!(there.code == 2 && there.stdout.contains("root /srv/web does not exist"), "{}", there.stdout);
    write(&lab.left, "while it was away", "x");
    right.sh("mv /srv/away /srv/web");
    // In the unit's sandbox as well.
    arrives(right, "while it was away", "x");
    agree(lab, "in-sync", 0, "in sync");
    until("its end is told", || alerts(lab).contains("files2 is reached again"));
    lab.left.sh("rm -f /srv/alert");
}

fn the_root_of_the_left_is_missing(lab: &Lab) {
    let left = &lab.left;
    left.sh(&format!("systemctl stop {BRAIN}; mv /srv/web /srv/away; systemctl start {BRAIN}"));
    agree(lab, "disconnected", 2, "root /srv/web does not exist");
    write(&lab.right, "while the left was away", "x");
    left.sh("mv /srv/away /srv/web");
    arrives(left, "while the left was away", "x");
    agree(lab, "in-sync", 0, "in sync");
    left.sh("rm -f /srv/alert");
}

fn what_the_right_host_says(lab: &Lab) {
    let said = lab.right.output("psync status web");
    assert!(said.code == 0 && said.stdout.starts_with("web: this host is the right side, serving "), "{}", said.stdout);
    let json: serde_json::Value = serde_json::from_str(&lab.right.output("psync status web --json").stdout).unwrap();
    assert_eq!(json["state"], "right-side");
    let events = lab.right.output("psync events web");
    assert!(!events.good && events.stderr.contains("right side"), "{}{}", events.stdout, events.stderr);
    let doctor = lab.right.output("psync doctor web");
    assert!(doctor.good && doctor.stdout.contains("this host is the right side"), "{}", doctor.stdout);
    assert!(!doctor.stdout.contains("systemctl start psync-brain"), "{}", doctor.stdout);
}

fn stopped_and_failed(lab: &Lab) {
    let left = &lab.left;
    // What the file says, and what the brain has.
    configure(left, &format!("{SETTINGS}\ntrash_days = 3"));
    let shown = left.sh("psync config show web");
    assert!(
        shown.lines().any(|l| l.starts_with("trash_days = 3") && l.ends_with("; the running brain has 7")),
        "{shown}"
    );
    left.sh(&format!("systemctl reload {BRAIN}"));
    until("it is in force", || !left.sh("psync config show web").contains("the running brain has"));

    left.sh(&format!("systemctl stop {BRAIN}"));
    let said = left.output("psync status web");
    assert!(said.code == 1 && said.stdout == "web: not running\n", "{}", said.stdout);
    configure(left, "colour = 1");
    left.output(&format!("systemctl start {BRAIN}"));
    let said = left.output("psync status web");
    assert!(
        said.code == 1 && said.stdout.starts_with("web: failed since ") && said.stdout.contains("colour"),
        "{}",
        said.stdout
    );
    let json: serde_json::Value = serde_json::from_str(&left.output("psync status web --json").stdout).unwrap();
    assert_eq!(json["state"], "failed");
    assert!(left.output("psync status web --openmetrics").stdout.contains("psync_up{pair=\"web\"} 0\n"));
    configure(left, SETTINGS);
    left.sh(&format!("systemctl reset-failed {BRAIN}; systemctl start {BRAIN}"));
    in_sync(lab);
}
