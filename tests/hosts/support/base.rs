//! A minimal Debian with what psync needs, made once.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::fcntl::{Flock, FlockArg};

use super::{directory, run};

const RELEASE: &str = "bookworm";
/// The package's dependencies are among them, since the hosts have no way to the archive.
const PACKAGES: &str = "systemd,systemd-sysv,libnss-systemd,dbus,openssh-server,openssh-client,rsync,acl,attr,iproute2,procps,logrotate,samba,smbclient";

/// The path of the tree. The first caller makes it, others wait.
pub fn tree() -> PathBuf {
    let digits = &blake3::hash(format!("{RELEASE} {PACKAGES} {SETTINGS}").as_bytes()).to_hex()[..12];
    let tree = directory().join(format!("base-{digits}"));
    fs::create_dir_all(directory()).unwrap();
    let lock = File::create(directory().join("base.lock")).unwrap();
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, e)| e).unwrap();
    if !tree.exists() {
        let made = directory().join("base-new");
        let _ = fs::remove_dir_all(&made);
        let log = directory().join("debootstrap.log");
        let out = File::create(&log).unwrap();
        let status = Command::new("debootstrap")
            .args(["--variant=minbase", &format!("--include={PACKAGES}"), RELEASE])
            .arg(&made)
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .status()
            .unwrap();
        assert!(status.success(), "debootstrap: {status}, see {}", log.display());
        run("chroot", &[made.to_str().unwrap(), "sh", "-ec", SETTINGS]);
        fs::rename(made, &tree).unwrap();
    }
    tree
}

/// What all hosts have in common.
const SETTINGS: &str = "
    printf '127.0.0.1 localhost\\n10.77.0.1 left\\n10.77.0.2 right\\n' > /etc/hosts
    rm -f /etc/resolv.conf
    # What the hosts have no use for, and what would fill the journals.
    systemctl mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer e2scrub_all.timer getty.target \
        console-getty.service systemd-networkd.service systemd-resolved.service
    # Those of a test that serves its roots by Samba are started by it.
    systemctl disable smbd.service nmbd.service
    systemctl mask samba-ad-dc.service
    mkdir -p /var/log/journal
";
