//! What an administrator does with a pair, and sees of it: timers, checks, full syncs, reloads, the journal, halts.

use std::fs;

use psync::service::log::message_id;

use crate::support::web::{
    BRAIN, LINK, arrives, configure, in_sync, number, records, state, status, vanishes, web, write,
};
use crate::support::{Host, Lab, until};

const SETTINGS: &str =
    "debug = 1\nfullsync = [3, 13]\nalert_command = \"cat >> /srv/alert; echo of $PSYNC_PAIR >> /srv/alert\"";

fn alert(host: &Host) -> String {
    fs::read_to_string(host.path("/srv/alert")).unwrap_or_default()
}

/// The message ids that catalog entries explain.
fn told(host: &Host, id: &str) -> String {
    records(host, &format!("MESSAGE_ID={id}"))
}

#[test]
fn what_an_administrator_does_and_sees() {
    let Some(lab) = web(SETTINGS) else { return };
    the_doctor_finds_nothing_wrong(&lab);
    what_was_deleted_comes_back(&lab);
    the_journals_of_both_hosts_tell_of_one_change(&lab);
    the_timers_services_do_their_work(&lab);
    a_check_that_finds_differences_is_told(&lab);
    the_timers_fire(&lab);
    a_reload_changes_what_it_can(&lab);
    a_halt_is_told_once(&lab);
}

/// The agent examines itself in its sandbox; afterwards nothing of it is there.
fn the_doctor_finds_nothing_wrong(lab: &Lab) {
    let report = lab.left.output("psync doctor web");
    assert!(report.good && report.stdout.contains("right  link: an agent answers"), "{}", report.stdout);
    for host in lab.hosts() {
        assert_eq!(host.sh("ls -A /srv/web/.psync"), "web");
    }
    lab.right.sh("systemctl stop psync-agent@web.socket psync-agent@web.service");
    let report = lab.left.output("psync doctor web");
    assert!(!report.good && report.stdout.contains("WRONG  right  link: "), "{}", report.stdout);
    lab.right.sh("systemctl start psync-agent@web.socket");
    until("the doctor is content", || lab.left.output("psync doctor web").good);
    in_sync(lab);
}

fn what_was_deleted_comes_back(lab: &Lab) {
    for (from, to) in [(&lab.left, &lab.right), (&lab.right, &lab.left)] {
        write(from, "restored", "x");
        arrives(to, "restored", "x");
        fs::remove_file(from.path("/srv/web/restored")).unwrap();
        vanishes(to, "restored");
        let listed = || lab.left.output("psync trash web list").stdout;
        until("it lies in the trash", || {
            listed().lines().any(|line| line.starts_with(to.name) && line.ends_with("  restored"))
        });
        lab.left.sh("psync trash web restore restored");
        arrives(from, "restored", "x");
        fs::remove_file(from.path("/srv/web/restored")).unwrap();
        vanishes(to, "restored");
    }
    lab.left.sh("psync trash web expire");
    in_sync(lab);
}

fn the_journals_of_both_hosts_tell_of_one_change(lab: &Lab) {
    for (from, to, name) in [(&lab.left, &lab.right, "left's"), (&lab.right, &lab.left, "right's")] {
        write(from, name, "x");
        arrives(to, name, "x");
        in_sync(lab);
        let ids = lab.left.sh(&format!(
            "journalctl --sync; journalctl -q -o json --output-fields=PSYNC_EVENT_ID PSYNC_PAIR=web PSYNC_PATH=\"{name}\""
        ));
        let record: serde_json::Value = serde_json::from_str(ids.lines().next().unwrap()).unwrap();
        let id = record["PSYNC_EVENT_ID"].as_str().unwrap();
        for host in lab.hosts() {
            until("the journal tells of the change", || records(host, &format!("PSYNC_EVENT_ID={id}")).contains(name));
        }
    }
}

fn the_timers_services_do_their_work(lab: &Lab) {
    let host = &lab.left;
    let scans = ["left", "right"].map(|side| number(lab, &format!("/{side}/scans")));
    host.sh("systemctl start psync-fullsync@web.service");
    assert_eq!(number(lab, "/full_sync/number"), 1);
    assert!(number(lab, "/full_sync/ended") > 0);
    assert_eq!(["left", "right"].map(|side| number(lab, &format!("/{side}/scans"))), scans.map(|before| before + 1));
    assert!(told(host, message_id::FULL_SYNC).lines().count() >= 2, "the first one, and this");

    for (n, name) in ["check", "checksum"].iter().enumerate() {
        host.sh(&format!("systemctl start psync-{name}@web.service"));
        assert_eq!(status(lab)["check"]["verdict"], "equal");
        let told = told(host, message_id::CHECK);
        let lines: Vec<&str> = told.lines().collect();
        assert!(lines.len() == n + 1 && lines[n].starts_with("check: equal: 0 differences, "), "{told}");
    }
    let text = host.sh("psync status web");
    for word in
        ["state", "link", "left", "right", "queue", "rates", "total", "full sync", "check", "problems", "conflicts"]
    {
        assert!(word == "state" || text.contains(&format!("\n  {word}")), "no {word} in {text}");
    }
    let metrics = host.sh("psync status web --openmetrics");
    for line in
        ["psync_last_check{pair=\"web\",psync_last_check=\"equal\"} 1", "psync_full_syncs_total{pair=\"web\"} 2"]
    {
        assert!(metrics.lines().any(|l| l == line), "no {line} in {metrics}");
    }
}

fn a_check_that_finds_differences_is_told(lab: &Lab) {
    let host = &lab.left;
    // More than alert_threshold, and kept from the other side.
    host.sh("psync pause web");
    (0..12).for_each(|n| write(host, &format!("more{n}"), "x"));
    let unit = "psync-check@web.service";
    assert!(!host.output(&format!("systemctl start {unit}")).good);
    until("the command has got the message", || alert(host).ends_with("of web\n"));
    assert!(alert(host).starts_with(&format!("pair web: {unit} found that the two sides differ\n")), "{}", alert(host));
    let check = status(lab)["check"].clone();
    assert_eq!((check["verdict"].as_str(), check["differences"].as_u64()), (Some("alert"), Some(12)), "{check}");
    assert!(told(host, message_id::CHECK).contains("check: alert: 12 differences, "));
    host.sh(&format!("psync resume web; systemctl reset-failed {unit}; rm /srv/alert"));
    in_sync(lab);
}

fn the_timers_fire(lab: &Lab) {
    let host = &lab.left;
    for expression in ["*-*-* 03:00:00", "*-*-* 13:00:00"] {
        host.sh(&format!("systemd-analyze calendar '{expression}'"));
        assert!(host.show("psync-fullsync@web.timer", "TimersCalendar").contains(expression));
    }
    let next = host.sh("systemctl list-timers --no-legend psync-fullsync@web.timer");
    assert!(next.contains(" 03:00:00 ") || next.contains(" 13:00:00 "), "{next}");

    // What falls due within a minute may wait for its end; here it must not.
    host.write("/etc/systemd/system/psync-check@.timer.d/now.conf", "[Timer]\nAccuracySec=100ms\n");
    let before = number(lab, "/check/ended");
    configure(host, &format!("{SETTINGS}\ntimers.check = \"*:*:0/2\""));
    until("a timer has fired", || number(lab, "/check/ended") > before && status(lab)["check"]["verdict"] == "equal");
    assert_eq!(host.show("psync-check@web.service", "Result"), "success");
    configure(host, SETTINGS);
    let fires = |host: &Host| host.show("psync-check@web.timer", "TimersCalendar").contains("0/2");
    assert!(!fires(host));
}

fn a_reload_changes_what_it_can(lab: &Lab) {
    let host = &lab.left;
    let pid = host.show(BRAIN, "MainPID");
    configure(host, &format!("{SETTINGS}\ndelete_delay = 0.1"));
    host.sh(&format!("systemctl reload {BRAIN}"));
    until("it is reloaded", || records(host, "").contains("reloaded: delete_delay"));
    configure(host, &format!("{SETTINGS}\nno_such_key = 1"));
    host.sh(&format!("systemctl reload {BRAIN}"));
    until("it is refused", || {
        records(host, "").contains("not reloaded, all settings stay as they were: /etc/psync/web.toml:")
    });
    assert_eq!(host.show(BRAIN, "MainPID"), pid);
    write(host, "after the reload", "x");
    arrives(&lab.right, "after the reload", "x");
    configure(host, SETTINGS);
    host.sh(&format!("systemctl reload {BRAIN}"));
}

fn a_halt_is_told_once(lab: &Lab) {
    let host = &lab.left;
    // Of the other host's users: what the host's own made of late, they may remove.
    lab.right.sh("mkdir /srv/web/many; for n in $(seq 150); do echo $n > /srv/web/many/$n; done");
    in_sync(lab);
    // An alert is a unit of its own, outside the brain's sandbox.
    configure(host, &SETTINGS.replace("cat >>", "touch /root/seen; cat >>"));
    host.sh("rm -r /srv/web/many /srv/web/more*");
    until("the pair is halted", || state(lab) == "halted");
    until("the command has got the message", || alert(host).ends_with("of web\n"));
    let first = alert(host);
    assert!(first.starts_with("pair web: halted: "), "{first}");
    assert!(first.contains("psync resume web --accept"), "{first}");
    assert!(host.path("/root/seen").exists());
    assert!(!told(host, message_id::HALT).is_empty());
    assert!(host.show(BRAIN, "StatusText").starts_with("halted: "));

    // The line is lost, and comes back: it is the same halt.
    let links = number(lab, "/totals/links");
    host.kill_found(&format!("pgrep -x ssh -P {}", host.show(LINK, "MainPID")));
    until("it is halted again", || number(lab, "/totals/links") > links && state(lab) == "halted");
    host.sh("psync resume web --accept");
    vanishes(&lab.right, "many");
    in_sync(lab);
    let rest = || alert(host).strip_prefix(&first).map(str::to_owned).unwrap_or_default();
    until("its end is told", || rest().ends_with("of web\n"));
    assert!(rest().contains("pair web: goes on, after a halt of ") && !rest().contains("halted:"), "{}", rest());
    assert!(status(lab)["halt"].is_null());
    assert_eq!(host.sh("systemctl is-system-running"), "running");
}
