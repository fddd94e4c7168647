//! A right host, or its disk, that is not there: at boot, at the start, and for long.

use std::fs;
use std::time::{Duration, Instant};

use crate::support::web::{
    AGENT, BRAIN, arrives, both_ways, disconnected, in_sync, number, records, status, web, write,
};
use crate::support::{Lab, until};

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
    let down = |lab: &Lab| records(&lab.left, "MESSAGE_ID=6b0d0a7c3f1e4b0f9a53c1d5a1e6f203");
    let before = down(&lab).lines().count();
    until("it has called a few times", || down(&lab).lines().count() >= before + 4);
    let waits: Vec<u64> = down(&lab).lines().skip(before).filter_map(seconds).collect();
    assert!(waits.len() >= 4 && waits.windows(2).all(|pair| pair[1] >= pair[0]), "{waits:?}");
    assert_eq!(lab.left.show(BRAIN, "NRestarts"), "0");
    assert_eq!(lab.left.sh("systemctl is-system-running"), "running");
    assert!(number(&lab, "/link/next_attempt") > 0);

    // The right host boots, and its disk does not come.
    lab.line.restore();
    lab.right.start();
    lab.right.wait_until_running();
    arrives(&lab.right, "written while the right was off", "x");
    in_sync(&lab);
    both_ways(&lab, "after");

    // The other way round.
    lab.left.shut_down();
    write(&lab.right, "written while the left was off", "x");
    lab.left.start();
    lab.left.wait_until_running();
    arrives(&lab.left, "written while the left was off", "x");
    in_sync(&lab);
    a_disk_that_does_not_come(&mut lab);
}

/// Of `…; next attempt in 4 s`.
fn seconds(line: &str) -> Option<u64> {
    line.split("next attempt in ").nth(1)?.split(' ').next()?.parse().ok()
}

fn a_disk_that_does_not_come(lab: &mut Lab) {
    // The root lies on a mount of its own from now on; what is in it comes along.
    let right = &lab.right;
    right.sh(&format!("systemctl stop {AGENT} psync-agent@web.socket; mv /srv/web /srv/disk; mkdir /srv/web"));
    let mount =
        |how: &str| format!("[Mount]\nWhat=/srv/disk\nWhere=/srv/web\n{how}\n[Install]\nWantedBy=multi-user.target\n");
    right.write("/etc/systemd/system/srv-web.mount", &mount("Type=no-such-filesystem"));
    right.sh("systemctl daemon-reload; systemctl enable srv-web.mount 2> /dev/null");
    lab.right.shut_down();
    lab.right.start();
    assert_eq!(lab.right.wait_until_booted(), "degraded");

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
    right.write("/etc/systemd/system/srv-web.mount", &mount("Type=none\nOptions=bind"));
    right.sh("systemctl daemon-reload; systemctl start srv-web.mount");
    let there = right.path("/srv/disk/while the disk was away");
    until("it is on the disk", || fs::read_to_string(&there).is_ok_and(|text| text == "x"));
    in_sync(lab);
}
