//! The package: what it brings, what it leaves alone, what is gone with it.

use std::collections::BTreeSet;
use std::fs;

use crate::support::{Host, Lab, newer, package, run};
use crate::tools;

const PAIR: &str = "[left]\nroot = \"/srv/data\"\n[right]\nroot = \"/srv/data\"\nhost = \"right\"\n";

/// The kernel's limits are the machine's, so they are put back.
struct Limits(Vec<(String, String)>);

const INOTIFY: &str = "/proc/sys/fs/inotify";

impl Limits {
    fn keep() -> Limits {
        let names = ["max_user_watches", "max_user_instances", "max_queued_events"];
        let paths = names.map(|name| format!("{INOTIFY}/{name}"));
        Limits(paths.map(|path| (path.clone(), fs::read_to_string(path).unwrap())).to_vec())
    }
}

impl Drop for Limits {
    fn drop(&mut self) {
        for (path, value) in &self.0 {
            let _ = fs::write(path, value);
        }
    }
}

#[test]
fn lintian_finds_neither_errors_nor_warnings() {
    if !["lintian", "dpkg-buildpackage", "dh"].into_iter().all(tools::has) {
        return;
    }
    let changes = package().with_extension("changes");
    let said = run("lintian", &["--allow-root", "--fail-on", "error,warning", changes.to_str().unwrap()]);
    assert_eq!(said, "");
}

#[test]
fn installed_it_is_all_there_and_nothing_runs() {
    let Some(lab) = Lab::boot() else { return };
    let limits = Limits::keep();
    lab.left.allow_sysctl();
    lab.left.install(package());

    let version = run("dpkg-deb", &["-f", package().to_str().unwrap(), "Version"]);
    assert_eq!(version.trim(), env!("CARGO_PKG_VERSION"), "debian/changelog and Cargo.toml");
    assert_eq!(lab.left.sh("psync --version"), format!("psync {}", env!("CARGO_PKG_VERSION")));

    // One executable, and a link to it for each other name.
    let programs = ["/usr/bin/psync*", "/lib/systemd/system-generators/psync*"].join(" ");
    assert_eq!(lab.left.sh(&format!("find {programs} -type f")), "/usr/bin/psync");
    assert_eq!(lab.left.sh(&format!("readlink -e {programs} | uniq -c | tr -s ' '")).trim(), "5 /usr/bin/psync");
    for program in ["psync-brain", "psync-agent", "psync-link"] {
        let want = format!("{program} {}", env!("CARGO_PKG_VERSION"));
        assert_eq!(lab.left.sh(&format!("{program} --version")), want);
    }

    assert_eq!(lab.left.sh("getent passwd psync | cut -d: -f6,7"), "/var/lib/psync:/bin/sh");
    assert_eq!(lab.left.sh("id -gn psync"), "psync");
    assert_eq!(lab.left.sh("getent group psync-operators | cut -d: -f1,4"), "psync-operators:");
    for (path, want) in [
        ("/run/psync", "755 root root"),
        ("/var/lib/psync", "750 root psync"),
        ("/var/lib/psync/.ssh", "750 root psync"),
        ("/etc/psync", "755 root root"),
        ("/etc/psync/ssh", "700 root root"),
        ("/var/log/psync", "750 root adm"),
    ] {
        assert_eq!(lab.left.sh(&format!("stat -c '%a %U %G' {path}")), want, "{path}");
    }
    for (name, want) in [("watches", "1048576"), ("instances", "1024")] {
        assert_eq!(lab.left.sh(&format!("cat {INOTIFY}/max_user_{name}")), want);
    }
    assert_eq!(lab.left.sh(&format!("cat {INOTIFY}/max_queued_events")), "131072");
    drop(limits);

    assert_eq!(
        lab.left.sh("systemctl is-enabled psync-brain.service; systemctl is-active psync-brain.service"),
        "enabled\nactive"
    );
    assert_eq!(lab.left.sh("systemctl list-units --all --plain --no-legend 'psync-*@*'"), "");
    assert_eq!(lab.left.sh("systemctl list-unit-files --state=enabled --no-legend 'psync-*@*' || true"), "");
    assert_eq!(lab.left.sh("systemctl is-system-running"), "running");
}

/// Every file of the host, but what apt, dpkg and logs have of their own.
fn files(host: &Host) -> BTreeSet<String> {
    // What lies in a root is the users'.
    let listed = host.sh(
        "find / -xdev \\( -path /proc -o -path /sys -o -path /dev -o -path /tmp -o -path /root -o -path /var/lib/dpkg \
         -o -path /var/lib/apt -o -path /var/cache -o -path /var/log/journal -o -path /var/log/apt -o -path /var/tmp \\) -prune \
         -o -print; find /run/psync /run/systemd/generator 2> /dev/null; ls -d /etc/psync 2> /dev/null || true",
    );
    listed.lines().map(str::to_owned).collect()
}

#[test]
fn removed_it_stops_and_purged_it_is_gone_but_for_the_users_data() {
    let Some(lab) = Lab::boot() else { return };
    let host = &lab.right;
    host.sh("mkdir /srv/data; echo precious > /srv/data/file; mkdir -p /srv/data/.psync/web/trash");
    let before = files(host);
    let users = host.sh("getent passwd; getent group");

    host.install(package());
    host.write("/etc/psync/web.toml", PAIR);
    host.sh("systemctl daemon-reload");
    host.sh("systemctl enable --now psync-agent@web.socket; systemctl enable psync-brain@web.service");
    host.sh("systemctl start psync-fullsync@web.timer");
    host.write("/etc/psync/ssh/id_ed25519", "a key");
    host.write("/var/lib/psync/known_hosts", "a host");

    host.sh("apt-get remove -q -y psync 2>&1");
    assert_eq!(host.sh("systemctl list-units --plain --no-legend --state=active 'psync*'"), "");
    assert_eq!(host.sh("cat /etc/psync/web.toml"), PAIR.trim_end());

    // Removed and installed again, the enabled pairs are as before.
    host.install(package());
    assert_eq!(host.sh("systemctl is-enabled psync-agent@web.socket psync-brain@web.service"), "enabled\nenabled");

    // A connection of its user is still open, and does not go when it is asked to.
    host.sh("setpriv --reuid psync --regid psync --clear-groups setsid sh -c 'trap \"\" TERM; sleep 1000; :' \
         > /dev/null 2>&1 < /dev/null &");
    host.sh("until pgrep -u psync sh; do sleep 0.1; done");
    host.sh("apt-get purge -q -y psync 2>&1");
    let after = files(host);
    let (left, gone): (Vec<_>, Vec<_>) = (after.difference(&before).collect(), before.difference(&after).collect());
    assert!(left.is_empty() && gone.is_empty(), "left behind: {left:#?}, gone: {gone:#?}");
    assert_eq!(host.sh("getent passwd; getent group"), users);
    assert_eq!(host.sh("cat /srv/data/file"), "precious");
    assert_eq!(host.sh("systemctl list-units --all --plain --no-legend --state=failed,active 'psync*'"), "");
}

#[test]
fn an_upgrade_keeps_what_is_configured_and_running() {
    let Some(lab) = Lab::with_psync() else { return };
    let host = &lab.right;
    lab.configure("web", PAIR);
    host.sh("mkdir /srv/data; systemctl enable --now psync-agent@web.socket");
    let newer = newer();
    host.install(&newer);
    fs::remove_file(newer).unwrap();
    let installed = host.sh("dpkg-query -W -f '${Status} ${Version}' psync");
    assert_eq!(installed, format!("install ok installed {}+newer", env!("CARGO_PKG_VERSION")));
    assert_eq!(host.sh("systemctl is-active psync-agent@web.socket psync-brain.service"), "active\nactive");
    assert_eq!(host.sh("cat /etc/psync/web.toml"), PAIR.trim_end());
    assert_eq!(host.sh("systemctl is-system-running"), "running");
}
