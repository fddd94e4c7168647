//! The stage itself: what the other tests rely on.

use crate::support::{Lab, until};

#[test]
fn two_hosts_boot_talk_and_lose_each_other() {
    let Some(mut lab) = Lab::boot() else { return };
    // A file of one side's data is seen by the driver outside, and the other way round.
    lab.left.sh("echo inside > /srv/a");
    assert_eq!(std::fs::read_to_string(lab.left.path("/srv/a")).unwrap(), "inside\n");

    let reaches = |lab: &Lab| lab.left.output("timeout 5 bash -c 'exec 3<>/dev/tcp/right/22 && head -c 4 <&3'").stdout;
    until("sshd answers", || reaches(&lab) == "SSH-");
    let before = lab.line.bytes();
    reaches(&lab);
    let after = lab.line.bytes();
    assert!(after.0 > before.0 && after.1 > before.1, "{before:?} {after:?}");
    lab.line.cut();
    assert_eq!(reaches(&lab), "");
    lab.line.restore();
    until("sshd answers again", || reaches(&lab) == "SSH-");

    lab.left.sh("systemd-run --unit=sleeper -p Restart=always -p RestartSec=0 sleep 1000");
    let first = lab.left.pid_of("sleeper");
    lab.left.kill("sleeper", nix::sys::signal::Signal::SIGKILL);
    until("systemd starts it again", || {
        lab.left.show("sleeper", "MainPID") != "0" && lab.left.show("sleeper", "NRestarts") == "1"
    });
    assert_ne!(lab.left.pid_of("sleeper"), first);
    assert!(lab.left.journal("sleeper").contains("status=9/KILL"));

    for reboot in [|lab: &mut Lab| lab.left.reboot(), |lab: &mut Lab| lab.left.crash()] {
        let boot = lab.left.sh("systemctl show --value -p UserspaceTimestampMonotonic");
        reboot(&mut lab);
        assert_ne!(lab.left.sh("systemctl show --value -p UserspaceTimestampMonotonic"), boot);
        assert_eq!(lab.left.sh("cat /srv/a"), "inside");
    }
}
