//! Who must not come in, and what is wrong on one host: said in the status and the journals, and no storm of tries.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use psync::link::frame::{Kind, write as write_frame};
use psync::service::log::message_id;

use crate::support::web::{AGENT, BRAIN, LINK, both_ways, disconnected, in_sync, number, records, web};
use crate::support::{Lab, until};

#[test]
fn what_is_wrong_is_said_and_tried_again_with_patience() {
    let Some(lab) = web("") else { return };
    let brain = lab.left.show(BRAIN, "MainPID");
    for (words, on_the_left, break_it, mend_it, ssh_says) in [
        (
            "the host lets nobody in with these keys",
            true,
            "mv /etc/psync/ssh/web* /root/; ssh-keygen -q -t ed25519 -N '' -f /etc/psync/ssh/web",
            "mv /root/web* /etc/psync/ssh/",
            "Permission denied (publickey",
        ),
        (
            "the host's key is not known here",
            true,
            "mv /var/lib/psync/known_hosts /root/known",
            "mv /root/known /var/lib/psync/known_hosts",
            "Host key verification failed",
        ),
        (
            "the host's key is another one than before",
            true,
            "cp /var/lib/psync/known_hosts /root/known; echo \"files2 $(cat /etc/psync/ssh/web.pub)\" > /var/lib/psync/known_hosts",
            "mv /root/known /var/lib/psync/known_hosts",
            "REMOTE HOST IDENTIFICATION HAS CHANGED",
        ),
        (
            "no pair web is served on this host",
            false,
            "systemctl stop psync-agent@web.socket psync-agent@web.service",
            "systemctl start psync-agent@web.socket",
            "no pair web is served on this host",
        ),
    ] {
        let host = if on_the_left { &lab.left } else { &lab.right };
        host.sh(break_it);
        // The right host hangs up by itself when its service is stopped.
        if on_the_left {
            hang_up(&lab);
        }
        disconnected(&lab, words);
        told_in_the_journal(&lab, words);
        until("what ssh says is in the journal", || records(&lab.left, "").contains(ssh_says));
        assert!(lab.left.output("psync status web").stdout.contains(words));
        assert!(lab.left.show(BRAIN, "StatusText").contains(words));
        host.sh(mend_it);
        in_sync(&lab);
    }
    a_pair_without_a_file(&lab);
    another_protocol(&lab);
    two_brains(&lab);
    both_ways(&lab, "in the end");
    assert_eq!(lab.left.show(BRAIN, "MainPID"), brain, "the brain was started again");
    for host in lab.hosts() {
        assert_eq!(host.sh("systemctl is-system-running"), "running");
    }
}

/// Ends the connection; the brain calls again.
fn hang_up(lab: &Lab) {
    lab.left.kill_found(&format!("pgrep -x ssh -P {}", lab.left.show(LINK, "MainPID")));
}

fn told_in_the_journal(lab: &Lab, words: &str) {
    let told = || records(&lab.left, &format!("MESSAGE_ID={}", message_id::LINK_DOWN));
    until(&format!("the journal tells {words:?}"), || told().contains(words));
}

fn a_pair_without_a_file(lab: &Lab) {
    let host = &lab.right;
    host.sh(&format!("mv /etc/psync/web.toml /root/; systemctl stop {AGENT}"));
    let words = "/etc/psync/web.toml: cannot read";
    disconnected(lab, words);
    told_in_the_journal(lab, words);
    until("the journal of the right tells it", || host.journal(AGENT).contains(words));
    // However often the brain calls, there is one alert, and the socket stays.
    until("the brain calls again", || host.journal(AGENT).matches("Main process exited").count() >= 3);
    let alerts = host.sh("journalctl --sync; journalctl -q -o cat -p alert..alert PSYNC_PAIR=web");
    assert_eq!(alerts.lines().count(), 1, "{alerts}");
    assert!(alerts.starts_with(&format!("pair web: {AGENT} failed")), "{alerts}");
    assert_eq!(host.show("psync-agent@web.socket", "ActiveState"), "active");
    host.sh(&format!("mv /root/web.toml /etc/psync/; systemctl daemon-reload; systemctl reset-failed {AGENT}"));
    in_sync(lab);
}

fn another_protocol(lab: &Lab) {
    let host = &lab.right;
    let mut hello = Vec::new();
    let said = [b"psync".as_slice(), &99_u16.to_le_bytes(), &[5], b"9.9.9"].concat();
    write_frame(&mut hello, Kind::Hello, 0, &said).unwrap();
    std::fs::write(host.path("/var/lib/psync/hello"), hello).unwrap();
    // In place of the agent's relay.
    host.write("/usr/local/bin/psync-agent", "#!/bin/sh\ncat /var/lib/psync/hello; exec sleep 20\n");
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(host.path("/usr/local/bin/psync-agent"), mode).unwrap();
    host.sh(
        "sed -i 's|command=\"psync-agent|command=\"/usr/local/bin/psync-agent|' /var/lib/psync/.ssh/authorized_keys",
    );
    hang_up(lab);
    let words = "the two versions of psync do not fit";
    disconnected(lab, words);
    disconnected(lab, "9.9.9");
    told_in_the_journal(lab, words);
    host.sh("sed -i 's|/usr/local/bin/psync-agent|psync-agent|' /var/lib/psync/.ssh/authorized_keys; rm /usr/local/bin/psync-agent");
    in_sync(lab);
}

fn two_brains(lab: &Lab) {
    // On the same host the second one does not start.
    let second = lab.left.output("psync-brain web");
    assert!(!second.good && second.stderr.contains("runs for this pair already"), "{}", second.stderr);

    // On another one it takes over, and finds that it is not the partner of this root.
    let host = &lab.right;
    host.sh("mkdir -p /srv/other");
    host.sh(
        "systemd-run --unit=second psync --pair web --proxy-command 'psync-agent connect %i' --log journal /srv/other /srv/web",
    );
    for words in ["another brain has taken over: ", "the agent serves another brain that began later: "] {
        told_in_the_journal(lab, words);
    }
    until("the agent tells it", || records(host, "").contains("turned away: "));
    // Not a call after another: it waits longer and longer.
    let calls = || records(host, "").matches("turned away: ").count();
    let before = calls();
    std::thread::sleep(Duration::from_secs(5));
    assert!(calls() - before <= 4, "{} calls in 5 s", calls() - before);
    host.sh("systemctl stop second");
    in_sync(lab);
    assert_eq!(host.sh("ls /srv/other"), "", "the second one carried something");
    assert!(number(lab, "/totals/links") > 1);
}
