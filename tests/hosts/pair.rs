//! A pair between two hosts, set up by the commands of the README and nothing else.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::sys::signal::Signal;

use crate::support::{Host, Lab, package, until};

/// The blocks of commands of the README's section, each with the host that its first line names.
fn readme() -> Vec<(String, String)> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let section = text.split("\n## Two servers\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let blocks = section.split("```sh\n").skip(1).map(|block| {
        let block = block.split("```").next().unwrap();
        let (first, rest) = block.split_once('\n').unwrap();
        (first.strip_prefix("# on ").unwrap().to_owned(), rest.to_owned())
    });
    blocks.collect()
}

/// The pair `web`, running on both hosts.
fn web() -> Option<Lab> {
    let lab = Lab::boot()?;
    for host in lab.hosts() {
        host.sh("sed -i 's/ left$/ left files1/; s/ right$/ right files2/' /etc/hosts");
        fs::copy(package(), host.path("/root").join(package().file_name().unwrap())).unwrap();
    }
    for (place, script) in readme() {
        let key = fs::read_to_string(lab.left.path("/etc/psync/ssh/web.pub")).unwrap_or_default();
        let script = script.replace("PUBLIC-KEY", key.trim());
        let hosts = match place.as_str() {
            "both" => vec![&lab.left, &lab.right],
            "the left" => vec![&lab.left],
            "the right" => vec![&lab.right],
            other => panic!("where is {other}?"),
        };
        for host in hosts {
            host.sh(&format!("set -e; export DEBIAN_FRONTEND=noninteractive; cd /root\n{script}"));
        }
    }
    in_sync(&lab);
    Some(lab)
}

fn in_sync(lab: &Lab) {
    until("the pair is in sync", || status(&lab.left) == "in sync");
}

/// The state that `psync status` tells, in words.
fn status(host: &Host) -> String {
    let done = host.output("psync status web --json");
    let value: serde_json::Value = serde_json::from_str(&done.stdout).unwrap_or_default();
    let state = value.get("state").or_else(|| value.get(0).and_then(|v| v.get("state")));
    state.and_then(|s| s.as_str()).unwrap_or_default().replace(['-', '_'], " ")
}

/// Waits until the file is on that host, with these contents.
fn arrives(host: &Host, name: &str, contents: &str) {
    let path = host.path("/srv/web").join(name);
    until(&format!("{name} is on the {}", host.name), || fs::read_to_string(&path).is_ok_and(|text| text == contents));
}

fn vanishes(host: &Host, name: &str) {
    let path = host.path("/srv/web").join(name);
    until(&format!("{name} is gone from the {}", host.name), || fs::symlink_metadata(&path).is_err());
}

fn write(host: &Host, name: &str, contents: &str) {
    fs::write(host.path("/srv/web").join(name), contents).unwrap();
}

#[test]
fn set_up_as_the_readme_says_it_syncs_both_ways() {
    let Some(lab) = web() else { return };
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
    until("owners and modes arrive", || right.sh(modes) == left.sh(modes));
    assert_eq!(right.sh(modes), "2775 root games\n4755 games games");

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
    let Some(mut lab) = web() else { return };
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

    for (n, unit) in ["psync-brain@web", "psync-agent@web"].iter().enumerate() {
        let host = if n == 0 { &lab.left } else { &lab.right };
        host.kill(&format!("{unit}.service"), Signal::SIGKILL);
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
    let Some(lab) = web() else { return };
    let newer = crate::support::newer();
    let before = lab.hosts().map(|host| host.show(&unit_of(host), "MainPID"));
    for host in lab.hosts() {
        host.install(&newer);
    }
    fs::remove_file(newer).unwrap();
    write(&lab.left, "after", "upgrade");
    arrives(&lab.right, "after", "upgrade");
    for (host, before) in lab.hosts().into_iter().zip(before) {
        let unit = unit_of(host);
        assert_ne!(host.show(&unit, "MainPID"), before, "{unit} runs the old program");
        assert_eq!(host.show(&unit, "ActiveState"), "active");
    }
}

fn unit_of(host: &Host) -> String {
    format!("psync-{}@web.service", if host.name == "left" { "brain" } else { "agent" })
}
