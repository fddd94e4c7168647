//! The line of a pair: a process of its own. What it may do and what the brain may not, as /proc shows it; that it comes back
//! whatever ends it; that what ssh says is told; and pairs with a slow line or a command of their own.

use std::fs;

use nix::sys::signal::Signal;

use crate::support::web::{
    AGENT, BRAIN, LINK, arrives, both_ways, configure, disconnected, in_sync, number, records, state, status, web,
    write,
};
use crate::support::{Host, Lab, until};

#[test]
fn the_brain_has_files_and_no_network_and_the_line_has_it_the_other_way_round() {
    let Some(lab) = web("timeout = 10") else { return };
    who_may_what(&lab);
    the_key_is_for_the_line_alone(&lab);
    whatever_ends_it_it_comes_back(&lab);
    its_end_is_no_failure(&lab);
    a_key_that_is_missing_is_told(&lab);
    the_services_that_check_use_it(&lab);
    the_doctor_knows_it(&lab);
    it_goes_with_the_brain(&lab);
}

/// A field of /proc/PID/status of a process that this machine knows by that id.
fn field(pid: i32, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name}")).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The interfaces of the network that a process sees.
fn interfaces(pid: i32) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap();
    text.lines().skip(2).map(|line| line.split(':').next().unwrap().trim().to_owned()).collect()
}

fn who_may_what(lab: &Lab) {
    let host = &lab.left;
    let (brain, line) = (host.pid_of(BRAIN), host.pid_of(LINK));
    assert_eq!(interfaces(brain), ["lo"]);
    assert!(interfaces(line).iter().any(|name| name != "lo"), "{:?}", interfaces(line));
    assert!(host.output(&format!("pgrep -x ssh -P {}", host.show(LINK, "MainPID"))).good, "ssh is a child of the line");
    assert!(!host.output(&format!("pgrep -x ssh -P {}", host.show(BRAIN, "MainPID"))).good, "and not of the brain");
    // CHOWN, DAC_OVERRIDE, FOWNER, FSETID, LEASE, SETFCAP; and nothing at all.
    assert_eq!(field(brain, "CapBnd"), "000000009000001b");
    assert_eq!((field(line, "CapBnd"), field(line, "CapEff")), ("0".repeat(16), "0".repeat(16)));
    for pid in [brain, line] {
        assert_eq!((field(pid, "NoNewPrivs"), field(pid, "Seccomp")), ("1".into(), "2".into()));
    }
    assert!(field(brain, "Uid").split(' ').all(|uid| uid == "0"));
    let uid = field(line, "Uid");
    assert!(uid.split(' ').all(|one| (61_184..=65_519).contains(&one.parse::<u32>().unwrap())), "{uid}");
    assert_eq!(host.sh(&format!("ps -o user:20= -p {}", host.show(LINK, "MainPID"))), "psync-l-web");
    assert_eq!(host.sh("stat -c '%a %U %G' /run/psync/link-web.sock"), "600 root root");
}

/// In the sandbox of a unit's running process.
fn inside(host: &Host, unit: &str, script: &str) -> crate::support::Done {
    let pid = host.show(unit, "MainPID");
    host.output(&format!("nsenter -t {pid} -m -n sh -c '{script}'"))
}

fn the_key_is_for_the_line_alone(lab: &Lab) {
    let host = &lab.left;
    for (unit, script, good) in [
        (BRAIN, "cat /etc/psync/ssh/web", false),
        (BRAIN, "ls /var/lib/psync/.ssh", false),
        (BRAIN, "touch /var/lib/psync/.ssh/authorized_keys", false),
        (BRAIN, "cat /run/credentials/psync-link@web.service/key", false),
        (BRAIN, "test -s /etc/shadow && cat /etc/shadow", false),
        (BRAIN, "touch /srv/web/.psync/web/x && rm /srv/web/.psync/web/x", true),
        (BRAIN, "cp /bin/true /srv/web/.psync/web/run && /srv/web/.psync/web/run", false),
        (LINK, "cat /etc/psync/web.toml", false),
        (LINK, "touch /srv/web/x", false),
        (LINK, "grep -q KEY /run/credentials/psync-link@web.service/key", true),
    ] {
        let done = inside(host, unit, script);
        assert_eq!(done.good, good, "{unit}: {script}: {}{}", done.stdout, done.stderr);
    }
    host.sh("rm -f /srv/web/.psync/web/run");
    // Nor does another user get at it.
    for user in ["psync", "nobody"] {
        let done =
            host.output(&format!("setpriv --reuid={user} --regid=nogroup --clear-groups cat /etc/psync/ssh/web"));
        assert!(!done.good, "{user} has read the key");
        let script = "IO::Socket::UNIX->new(Peer => \"/run/psync/link-web.sock\") or die $!";
        let called = host.output(&format!(
            "setpriv --reuid={user} --regid=nogroup --clear-groups perl -MIO::Socket::UNIX -e '{script}'"
        ));
        assert!(!called.good && called.stderr.contains("Permission denied"), "{user}: {}", called.stderr);
    }
}

fn whatever_ends_it_it_comes_back(lab: &Lab) {
    let host = &lab.left;
    let brain = host.show(BRAIN, "MainPID");
    let links = number(lab, "/totals/links");
    host.kill(LINK, Signal::SIGKILL);
    both_ways(lab, "after a kill of the line");
    host.sh(&format!("systemctl stop {LINK}"));
    both_ways(lab, "after a stop of the line");
    host.sh(&format!("systemctl restart {LINK}"));
    both_ways(lab, "after a restart of the line");
    host.kill_found(&format!("pgrep -x ssh -P {}", host.show(LINK, "MainPID")));
    both_ways(lab, "after a kill of ssh");
    lab.line.cut();
    write(host, "during a cut", "x");
    until("the cut is noticed", || state(lab) == "disconnected");
    lab.line.restore();
    arrives(&lab.right, "during a cut", "x");
    in_sync(lab);
    assert!(number(lab, "/totals/links") >= links + 5);
    assert_eq!(host.show(BRAIN, "MainPID"), brain);
    // A brain that is killed leaves no ssh behind.
    host.kill(BRAIN, Signal::SIGKILL);
    both_ways(lab, "after a kill of the brain");
    until("one ssh is left", || host.output("pgrep -c -x ssh").stdout.trim() == "1");
}

fn its_end_is_no_failure(lab: &Lab) {
    let host = &lab.left;
    host.sh(&format!("systemctl stop {BRAIN}"));
    until("nobody needs the line", || host.show(LINK, "ActiveState") != "active");
    until("its socket goes", || !host.output("test -e /run/psync/link-web.sock").good);
    assert_eq!(host.sh("pgrep -c -x ssh || true"), "0");
    host.sh(&format!("systemctl start {BRAIN}"));
    in_sync(lab);
    assert_eq!(host.sh("systemctl is-system-running"), "running");
}

fn a_key_that_is_missing_is_told(lab: &Lab) {
    let host = &lab.left;
    host.sh("mv /etc/psync/ssh/web /root/key");
    host.kill_found(&format!("pgrep -x ssh -P {}", host.show(LINK, "MainPID")));
    let words = "/etc/psync/ssh/web: there is no such file";
    disconnected(lab, words);
    until("the journal tells it", || records(host, "").contains(words));
    host.sh("mv /root/key /etc/psync/ssh/web");
    in_sync(lab);
}

fn the_services_that_check_use_it(lab: &Lab) {
    let host = &lab.left;
    for name in ["check", "checksum", "fullsync"] {
        host.sh(&format!("systemctl start psync-{name}@web.service"));
    }
    assert_eq!(status(lab)["check"]["verdict"], "equal");
    // Without a brain they have a line all the same.
    host.sh(&format!("systemctl stop {BRAIN}; systemctl start psync-check@web.service"));
    host.sh("systemctl start psync-fullsync@web.service");
    host.sh(&format!("systemctl start {BRAIN}"));
    in_sync(lab);
    // An administrator's own command goes the same way.
    host.sh("psync check web; psync trash web list");
}

fn the_doctor_knows_it(lab: &Lab) {
    let host = &lab.left;
    let report = host.output("psync doctor web");
    assert!(report.good, "{}", report.stdout);
    for words in ["line: psync-link@web, at /run/psync/link-web.sock", "ssh file: /etc/psync/ssh/web"] {
        assert!(report.stdout.contains(words), "no {words} in {}", report.stdout);
    }
    host.sh("chmod 0644 /etc/psync/ssh/web");
    let report = host.output("psync doctor web").stdout;
    assert!(report.contains("/etc/psync/ssh/web: a private key with mode 0644"), "{report}");
    host.sh("chmod 0600 /etc/psync/ssh/web; echo '# a comment' >> /var/lib/psync/known_hosts");
    let report = host.output("psync doctor web").stdout;
    assert!(report.contains("to mend it: systemctl restart psync-link@web"), "{report}");
    host.sh("systemctl restart psync-link@web");
    in_sync(lab);
    until("the doctor is content", || host.output("psync doctor web").good);
}

fn it_goes_with_the_brain(lab: &Lab) {
    lab.left.sh(&format!("systemctl restart {BRAIN}"));
    both_ways(lab, "after a restart of the brain");
    lab.left.sh("systemctl restart psync-brain");
    both_ways(lab, "after a restart of all brains");
}

/// On a line that is limited, what goes over it is packed, and unpacked before the brain: where it was asked for, and where
/// the line's process finds by itself that the line is slow.
#[test]
fn a_slow_line_is_packed() {
    let Some(lab) = web("bandwidth_limit = 300000\ncompress = \"zstd\"") else { return };
    words_are_packed(&lab, "asked");
    for host in [&lab.left, &lab.right] {
        configure(host, "bandwidth_limit = 300000\ncompress = \"auto\"");
    }
    lab.right.sh(&format!("systemctl stop {AGENT}"));
    lab.left.sh(&format!("systemctl restart {BRAIN}"));
    in_sync(&lab);
    words_are_packed(&lab, "found");
}

fn words_are_packed(lab: &Lab, how: &str) {
    let text = "the same words again and again\n".repeat(100_000);
    for (from, to) in [(&lab.left, &lab.right), (&lab.right, &lab.left)] {
        let (before, name) = (lab.line.bytes(), format!("{how}-{}", from.name));
        write(from, &name, &text);
        arrives(to, &name, &text);
        let after = lab.line.bytes();
        let crossed = (after.0 - before.0) + (after.1 - before.1);
        assert!(crossed < text.len() as u64 / 4, "{how}: {crossed} bytes for {} from {}", text.len(), from.name);
    }
    in_sync(lab);
}

/// A pair whose line is a command of the administrator's own, with a file of the pair's in it; and a program that it must
/// not run beside.
#[test]
fn a_command_of_ones_own_and_a_banned_program() {
    let Some(lab) = web("banned = \"forbidden\"") else { return };
    let host = &lab.left;
    host.write(
        "/usr/local/bin/to-the-right",
        "#!/bin/sh\necho \"as $(id -un)\" >&2\nexec ssh -T -o BatchMode=yes -o UserKnownHostsFile=\"$2\" -i \"$1\" -- psync@files2 psync-agent connect web\n",
    );
    host.sh("chmod 755 /usr/local/bin/to-the-right");
    let text = fs::read_to_string(host.path("/etc/psync/web.toml")).unwrap();
    let own = "[right]\nproxy_command = \"to-the-right /etc/psync/ssh/web /var/lib/psync/known_hosts\"";
    host.write("/etc/psync/web.toml", &text.replace("[right]", own));
    host.sh(&format!("systemctl daemon-reload; systemctl restart {BRAIN}"));
    in_sync(&lab);
    both_ways(&lab, "through a command of one's own");
    until("its words are in the journal", || records(host, "").contains("as psync-l-web"));

    // Whoever runs it: the brain sees it, and stops.
    host.sh("cp /bin/sleep /usr/local/bin/forbidden");
    host.sh("systemd-run --unit=forbidden --uid=nobody /usr/local/bin/forbidden 1000");
    until("the brain has stopped", || host.show(BRAIN, "ActiveState") == "failed");
    assert_eq!(host.show(BRAIN, "ExecMainStatus"), "6");
    host.sh(&format!("systemctl stop forbidden; systemctl reset-failed {BRAIN}; systemctl start {BRAIN}"));
    in_sync(&lab);
    // A change of the file that needs nothing but a reload.
    configure(host, "banned = \"forbidden\"\ntrash_days = 3");
    host.sh(&format!("systemctl reload {BRAIN}"));
    both_ways(&lab, "after a reload");
}
