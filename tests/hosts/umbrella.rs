//! `psync-brain.service` stands for all pairs of a host. The pairs here have both roots on it.

use crate::support::{Host, Lab, until};

const PAIRS: [&str; 2] = ["one", "two"];

fn states(host: &Host) -> Vec<String> {
    PAIRS.iter().map(|pair| host.show(&format!("psync-brain@{pair}.service"), "ActiveState")).collect()
}

fn start_of(host: &Host, pair: &str) -> String {
    host.show(&format!("psync-brain@{pair}.service"), "InvocationID")
}

#[test]
fn it_starts_stops_and_reloads_all_enabled_pairs() {
    let Some(lab) = Lab::with_psync() else { return };
    let host = &lab.left;
    for pair in PAIRS {
        host.sh(&format!("mkdir -p '/srv/{pair} l' /srv/{pair}-r"));
        host.write(
            &format!("/etc/psync/{pair}.toml"),
            &format!("[left]\nroot = \"/srv/{pair} l\"\n[right]\nroot = \"/srv/{pair}-r\"\n"),
        );
    }
    host.sh("systemctl daemon-reload; systemctl enable --now psync-brain@one psync-brain@two");
    // Ready; the sandbox lets it write both roots, whatever their names.
    assert_eq!(states(host), ["active", "active"]);
    host.sh("echo x > '/srv/one l/x'");
    until("it is on the other side", || host.path("/srv/one-r/x").exists());

    // A reload reaches the pairs, and restarts none.
    let before = start_of(host, "one");
    host.sh("systemctl reload psync-brain");
    for pair in PAIRS {
        until("the brain has read its file again", || {
            host.journal(&format!("psync-brain@{pair}")).contains("reloaded")
        });
    }
    assert_eq!(start_of(host, "one"), before);

    host.sh("systemctl stop psync-brain");
    until("both have stopped", || states(host) == ["inactive", "inactive"]);
    host.sh("systemctl start psync-brain");
    until("both run again", || states(host) == ["active", "active"]);
    let before = start_of(host, "one");
    host.sh("systemctl restart psync-brain");
    until("both run again", || states(host) == ["active", "active"]);
    assert_ne!(start_of(host, "one"), before);

    // A pair that is not enabled is not started, and one that fails takes none with it.
    host.sh("systemctl stop psync-brain; systemctl disable psync-brain@two");
    until("both have stopped again", || states(host) == ["inactive", "inactive"]);
    host.write("/etc/psync/one.toml", "[left]\nroot = 7\n");
    host.sh("systemctl daemon-reload; systemctl start psync-brain; systemctl start psync-brain@two");
    until("the broken one has failed", || states(host) == ["failed", "active"]);
    assert_eq!(host.sh("systemctl is-active psync-brain.service"), "active");
    assert_eq!(host.show("psync-brain@one.service", "NRestarts"), "0");

    // Killed, it is started again.
    host.kill("psync-brain@two.service", nix::sys::signal::Signal::SIGKILL);
    until("it is started again", || {
        host.show("psync-brain@two.service", "NRestarts") == "1" && states(host)[1] == "active"
    });
}
