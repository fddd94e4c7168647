//! The units, and what the generator makes of a pair's file.

use crate::support::{Host, Lab, until};

fn pair(left: &str, right: &str, more: &str) -> String {
    format!("{more}\n[left]\nroot = {left:?}\n[right]\nroot = {right:?}\nhost = \"right\"\n")
}

/// What `systemd-analyze security` may say of a unit at most, in tenths.
const EXPOSURE: [(&str, u32); 6] = [
    ("psync-brain", 14),
    ("psync-agent", 14),
    ("psync-link", 12),
    ("psync-fullsync", 14),
    ("psync-check", 14),
    ("psync-checksum", 14),
];

#[test]
fn systemd_finds_nothing_wrong_with_them() {
    let Some(lab) = Lab::with_psync() else { return };
    let host = &lab.left;
    host.write(
        "/etc/psync/p.toml",
        &pair("/srv/data", "/srv/data", "samba_acls = true\nfullsync = [2, \"Mon 04:00\"]"),
    );
    host.sh("systemctl daemon-reload");
    let units = host.sh("ls /lib/systemd/system | grep ^psync | sed 's/@/@p/' | sed 's/psync-alert@p/psync-alert@psync-brain@p.service/'");
    assert_eq!(units.lines().count(), 14, "{units}");
    let words = units.replace('\n', " ");
    let said = host.sh(&format!("cd /lib/systemd/system; systemd-analyze verify --man=no {words} 2>&1"));
    assert_eq!(said, "");

    // As installed, and with what the generator adds, all capabilities of Samba's attributes included.
    for (unit, most) in EXPOSURE {
        host.sh(&format!(
            "systemd-analyze security --offline=yes --threshold={most} /lib/systemd/system/{unit}@.service"
        ));
        let with_samba = most + 5;
        host.sh(&format!("systemd-analyze security --threshold={with_samba} {unit}@p.service"));
    }
}

#[test]
fn the_pairs_file_sets_the_hours() {
    let Some(lab) = Lab::with_psync() else { return };
    let host = &lab.left;
    let timers = ["fullsync", "check", "checksum"].map(|name| format!("psync-{name}@p.timer"));
    let start = |host: &Host| host.sh(&format!("systemctl start {}", timers.join(" ")));
    let due = |host: &Host, timer: &str| {
        let all = host.show(timer, "TimersCalendar");
        let words = all.split("OnCalendar=").skip(1).map(|t| t.split(" ;").next().unwrap().trim().to_owned());
        words.collect::<Vec<_>>()
    };
    // Without a file the units' own.
    assert_eq!(due(host, &timers[0]), ["*-*-* 01:00:00"]);
    assert_eq!(due(host, &timers[1]), ["*-*-* 08..12,14..20:00/15:00"]);
    assert_eq!(due(host, &timers[2]), ["*-*-* 00:01:00"]);

    let set = "fullsync = [3, 13, 99, \"Sat 22:30\"]\ntimers.check = \"hourly\"\ntimers.checksum = \"\"";
    host.write("/etc/psync/p.toml", &pair("/srv/data", "/srv/data", set));
    host.sh("systemctl daemon-reload");
    start(host);
    // In any order.
    let mut hours = due(host, &timers[0]);
    hours.sort();
    assert_eq!(hours, ["*-*-* 03:00:00", "*-*-* 13:00:00", "Sat *-*-* 22:30:00"]);
    assert_eq!(due(host, &timers[1]), ["*-*-* *:00:00"]);
    let listed = host.sh("systemctl list-timers --no-legend 'psync-*'");
    assert!(listed.contains(&timers[0]) && listed.contains(&timers[1]), "{listed}");
    assert!(!listed.contains(&timers[2]), "a timer without a time is not started: {listed}");

    // A change shows as one that needs a daemon-reload, and counts after it.
    host.sh("sleep 1.1");
    host.write("/etc/psync/p.toml", &pair("/srv/data", "/srv/data", "fullsync = [5]"));
    assert_eq!(host.show(&timers[0], "NeedDaemonReload"), "yes");
    host.sh("systemctl daemon-reload");
    assert_eq!(due(host, &timers[0]), ["*-*-* 05:00:00"]);
    assert_eq!(host.sh("systemctl is-system-running"), "running");
}

/// Names that a unit file has its own ideas about.
const ODD: &[&str] = &["/srv/a b", "/srv/100%i", "/srv/say \"so\" \\n 'or'", "/srv/Büro/日本 #;", "/srv/${HOME}$x"];

/// systemd takes a `$` in a mount's own path for a variable, so it cannot mount one there.
fn is_mount(root: &str) -> bool {
    !root.contains('$')
}

#[test]
fn systemd_reads_every_root_as_it_was_meant() {
    let Some(lab) = Lab::with_psync() else { return };
    let host = &lab.left;
    for (n, root) in ODD.iter().enumerate() {
        let (unit, quoted) = (format!("psync-brain@p{n}.service"), root.replace('\'', "'\\''"));
        host.write(&format!("/etc/psync/p{n}.toml"), &pair(root, "/srv/elsewhere", ""));
        // In place of the brain, in its sandbox, one who writes inside and beside the root.
        host.write(
            &format!("/usr/lib/writer{n}"),
            &format!("true > '{quoted}/in' && ! true 2> /dev/null > /srv/beside\n"),
        );
        host.write(
            &format!("/etc/systemd/system/{unit}.d/writer.conf"),
            &format!(
                "[Unit]\nWants=\n[Service]\nType=oneshot\nExecStart=\nExecStart=/bin/sh /usr/lib/writer{n}\n\
                 WatchdogSec=0\nRestart=no\n"
            ),
        );
        host.sh(&format!("mkdir -p '{quoted}'"));
        if !is_mount(root) {
            continue;
        }
        // The root is a mount, which nothing but the unit asks for.
        host.sh(&format!(
            "name=$(systemd-escape --path --suffix=mount '{quoted}')
             where=$(printf %s '{quoted}' | sed 's/%/%%/g')
             printf '[Mount]\nWhat=tmpfs\nType=tmpfs\nWhere=%s\n' \"$where\" > \"/etc/systemd/system/$name\""
        ));
    }
    host.write("/etc/psync/broken.toml", "[left]\nroot = 7\n");
    host.sh("systemctl daemon-reload");
    for (n, root) in ODD.iter().enumerate() {
        let (unit, quoted) = (format!("psync-brain@p{n}.service"), root.replace('\'', "'\\''"));
        let mounted = if is_mount(root) { "mountpoint" } else { "test -d" };
        let done = host.output(&format!("systemctl start {unit} && {mounted} '{quoted}' && test -e '{quoted}/in'"));
        assert!(done.good, "{root}: {}{}\n{}", done.stdout, done.stderr, host.journal(&unit));
        assert!(!host.path("/srv/beside").exists(), "{root}");
    }
    let told = host.sh("journalctl --sync; journalctl -t psync-generator -o cat --no-pager");
    assert!(told.contains("/etc/psync/broken.toml:2: left.root: "), "{told:?}");
}

/// A unit of the pair with another program in place of its own.
fn stand_in(host: &Host, unit: &str, program: &str) {
    let text = format!("[Service]\nExecStart=\nExecStart={program}\n");
    host.write(&format!("/etc/systemd/system/{unit}.d/stand-in.conf"), &text);
    host.sh("systemctl daemon-reload");
}

#[test]
fn a_brain_that_always_fails_is_given_up_and_told_once() {
    let Some(lab) = Lab::with_psync() else { return };
    let host = &lab.left;
    let unit = "psync-brain@p.service";
    host.sh("mkdir /srv/data");
    let command = "alert_command = \"cat >> /srv/alert; echo of $PSYNC_PAIR >> /srv/alert\"";
    host.write("/etc/psync/p.toml", &pair("/srv/data", "/srv/data", command));
    stand_in(host, unit, "/bin/sh -c 'exit 5'");
    host.write("/etc/systemd/system/psync-brain@p.service.d/soon.conf", "[Service]\nRestartSec=100ms\n");
    host.sh("systemctl daemon-reload");
    host.output(&format!("systemctl start {unit}"));
    until("it is given up", || host.show(unit, "ActiveState") == "failed");
    let starts = host.journal(unit).matches("Main process exited").count();
    assert!((2..=10).contains(&starts), "{starts} starts");
    let alert = || std::fs::read_to_string(host.path("/srv/alert")).unwrap_or_default();
    until("the command has got the message", || alert().ends_with("of p\n"));
    let text = alert();
    assert!(text.starts_with("pair p: psync-brain@p.service failed with exit code 5\n"), "{text}");
    assert_eq!(text.matches("of p").count(), 1, "{text}");

    // A wrong configuration is not tried twice; without a command the journal has it.
    host.write("/etc/psync/p.toml", &pair("/srv/data", "/srv/data", ""));
    stand_in(host, unit, "/bin/sh -c 'exit 1'");
    host.sh(&format!("systemctl reset-failed {unit}"));
    host.output(&format!("systemctl start {unit}"));
    until("it is failed", || host.show(unit, "ActiveState") == "failed");
    assert_eq!(host.show(unit, "NRestarts"), "0");
    let priority_alert = || host.sh("journalctl --sync; journalctl -p alert..alert PSYNC_PAIR=p -o cat --no-pager");
    until("the journal has an alert", || !priority_alert().is_empty());
    assert_eq!(priority_alert(), "pair p: psync-brain@p.service failed with exit code 1");
}

#[test]
fn a_check_that_finds_differences_is_an_alert_and_a_notice_is_none() {
    let Some(lab) = Lab::with_psync() else { return };
    let host = &lab.left;
    host.write("/etc/psync/p.toml", &pair("/srv/data", "/srv/data", "alert_command = \"cat > /srv/alert\""));
    let alert = || std::fs::read_to_string(host.path("/srv/alert")).unwrap_or_default();
    stand_in(host, "psync-checksum@p.service", "/bin/sh -c 'exit 3'");
    host.sh("systemctl start psync-checksum@p.service");
    stand_in(host, "psync-check@p.service", "/bin/sh -c 'exit 2'");
    assert!(!host.output("systemctl start psync-check@p.service").good);
    until("the alert is there", || !alert().is_empty());
    assert!(alert().starts_with("pair p: psync-check@p.service found that the two sides differ"), "{}", alert());
}

#[test]
fn the_socket_lets_psync_in_and_nobody_else() {
    let Some(lab) = Lab::with_psync() else { return };
    let host = &lab.right;
    host.sh("mkdir /srv/data");
    host.write("/etc/psync/p.toml", &pair("/srv/data", "/srv/data", ""));
    // One that answers on the socket, in place of the agent.
    let answer = "/bin/sh -c 'systemd-notify --ready; read x <&3; exec sleep 1000'";
    stand_in(host, "psync-agent@p.service", answer);
    host.write("/etc/systemd/system/psync-agent@p.service.d/any.conf", "[Service]\nNotifyAccess=all\nWatchdogSec=0\n");
    host.sh("systemctl daemon-reload; systemctl enable --now psync-agent@p.socket");
    assert_eq!(host.sh("stat -c '%a %U %G' /run/psync/agent-p.sock"), "660 root psync");
    let connect = |user: &str| {
        let script = "import socket; socket.socket(socket.AF_UNIX).connect(\"/run/psync/agent-p.sock\")";
        host.output(&format!(
            "setpriv --reuid={user} --regid={user} --init-groups perl -MIO::Socket::UNIX -e \
            'IO::Socket::UNIX->new(Peer => \"/run/psync/agent-p.sock\") or die $!' # {script}"
        ))
    };
    assert!(!connect("nobody").good);
    assert!(connect("psync").good);
    until("the agent was started", || host.show("psync-agent@p.service", "ActiveState") == "active");
    host.sh("systemctl stop psync-agent@p.socket psync-agent@p.service; test ! -e /run/psync/agent-p.sock");
}
