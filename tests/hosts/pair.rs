//! A pair between two hosts, set up by the commands of the README and nothing else.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::Signal;

use crate::support::web::{AGENT, BRAIN, arrives, in_sync, vanishes, web, write};
use crate::support::{Host, until};

#[test]
fn set_up_as_the_readme_says_it_syncs_both_ways() {
    let Some(lab) = web("") else { return };
    let (left, right) = (&lab.left, &lab.right);
    write(left, "from-left", "l");
    write(right, "from-right", "r");
    arrives(right, "from-left", "l");
    arrives(left, "from-right", "r");
    fs::remove_file(left.path("/srv/web/from-right")).unwrap();
    vanishes(right, "from-right");

    // What a sandbox could forbid: another owner, a setgid directory, a set-uid file.
    left.sh("mkdir /srv/web/shared && chgrp games /srv/web/shared && chmod 2775 /srv/web/shared");
    left.sh("cp /bin/true /srv/web/shared/suid && chown games /srv/web/shared/suid && chmod 4755 /srv/web/shared/suid");
    let modes = "stat -c '%a %U %G' /srv/web/shared /srv/web/shared/suid 2> /dev/null || true";
    // The bit is the other host's to accept.
    let without = left.sh(modes).replace("4755 games", "755 games");
    until("owners and modes arrive", || right.sh(modes) == without);
    until("the bit that is not set is told", || left.journal(BRAIN).contains("accept_setuid"));
    right.sh("sed -i '1i accept_setuid = true' /etc/psync/web.toml && systemctl restart psync-agent@web");
    left.sh("chmod 4711 /srv/web/shared/suid");
    until("it arrives where it is accepted", || right.sh(modes) == left.sh(modes));
    assert_eq!(right.sh(modes), "2775 root games\n4711 games games");

    let timers = left.sh("systemctl list-timers --no-legend 'psync-*'");
    assert_eq!(timers.lines().count(), 3, "{timers}");
    for host in lab.hosts() {
        assert_eq!(host.sh("systemctl is-system-running"), "running");
    }
    // Stopped, the timers stop with it.
    left.sh("systemctl stop psync-brain@web");
    assert_eq!(left.sh("systemctl list-timers --no-legend 'psync-*'"), "");
    assert_eq!(left.show("psync-brain@web", "Result"), "success");
}

#[test]
fn cut_and_killed_and_rebooted_it_comes_back() {
    let Some(mut lab) = web("") else { return };
    write(&lab.left, "a", "1");
    arrives(&lab.right, "a", "1");

    lab.line.cut();
    write(&lab.left, "b", "left");
    write(&lab.right, "c", "right");
    fs::remove_file(lab.right.path("/srv/web/a")).unwrap();
    lab.line.restore();
    arrives(&lab.right, "b", "left");
    arrives(&lab.left, "c", "right");
    vanishes(&lab.left, "a");

    for (n, unit) in [BRAIN, AGENT].iter().enumerate() {
        let host = if n == 0 { &lab.left } else { &lab.right };
        host.kill(unit, Signal::SIGKILL);
        let name = format!("after-kill-{n}");
        write(&lab.left, &name, "x");
        arrives(&lab.right, &name, "x");
    }

    lab.right.reboot();
    write(&lab.right, "d", "rebooted");
    arrives(&lab.left, "d", "rebooted");
    lab.left.crash();
    write(&lab.left, "e", "crashed");
    arrives(&lab.right, "e", "crashed");
    in_sync(&lab);
    assert_eq!(fs::metadata(lab.right.path("/srv/web/e")).unwrap().permissions().mode() & 0o777, 0o644);
}

#[test]
fn an_upgrade_of_both_hosts_goes_unnoticed() {
    let Some(lab) = web("") else { return };
    let newer = crate::support::newer();
    let before = lab.hosts().map(|host| host.show(unit_of(host), "MainPID"));
    for host in lab.hosts() {
        host.install(&newer);
    }
    fs::remove_file(newer).unwrap();
    write(&lab.left, "after", "upgrade");
    arrives(&lab.right, "after", "upgrade");
    for (host, before) in lab.hosts().into_iter().zip(before) {
        let unit = unit_of(host);
        assert_ne!(host.show(unit, "MainPID"), before, "{unit} runs the old program");
        assert_eq!(host.show(unit, "ActiveState"), "active");
    }
}

fn unit_of(host: &Host) -> &'static str {
    if host.name == "left" { BRAIN } else { AGENT }
}
