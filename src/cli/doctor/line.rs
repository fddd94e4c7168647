//! What `psync doctor` says of the line to another host: who runs ssh, and the files that ssh reads.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::super::human::words;
use super::super::pair::PairFile;
use crate::config::{RightCommand, Settings, credential, ssh_files};
use crate::protocol::survey::Finding;

/// Where systemd keeps the copies of files that units were given.
const COPIES: &str = "/run/credentials";

/// All of it; nothing of a pair whose right side is on this host.
pub fn findings(pair: &PairFile, settings: &Settings) -> Vec<Finding> {
    if settings.is_local() {
        return Vec::new();
    }
    let name = &pair.name;
    let by_itself = match pair.right(settings) {
        RightCommand::Line(socket) => Finding::ok("line", format!("psync-link@{name}, at {}", socket.display())),
        _ => {
            Finding::ok("line", "whoever needs it starts ssh: there is no socket of psync-link@ that this user may use")
        }
    };
    let copies = Path::new(COPIES).join(format!("psync-link@{name}.service"));
    let files = ssh_files(settings);
    let mut found = vec![by_itself];
    found.extend(files.iter().filter_map(|file| one(pair, Path::new(file), &copies.join(credential(name, file)))));
    found
}

/// A file of ssh's. Nothing if this user cannot look at it.
fn one(pair: &PairFile, file: &Path, copy: &Path) -> Option<Finding> {
    let (check, shown) = ("ssh file", file.display());
    let meta = match fs::metadata(file) {
        Ok(meta) => meta,
        Err(e) if e.kind() == ErrorKind::PermissionDenied => return None,
        Err(e) => {
            let mend = "make it (`psync init` makes a key), or correct `ssh_options`";
            return Some(Finding::wrong(check, format!("{shown}: {}", words(&e)), mend));
        }
    };
    let own = meta.uid() == 0 || meta.uid() == rustix::process::geteuid().as_raw();
    let text = fs::read(file).ok()?;
    let secret = text.windows(11).any(|words| words == b"PRIVATE KEY");
    if secret && (!own || meta.mode() & 0o077 != 0) {
        let found = format!("{shown}: a private key with mode {:04o} of user {}", meta.mode() & 0o7777, meta.uid());
        return Some(Finding::wrong(check, found, format!("chown root:root {shown}; chmod 0600 {shown}")));
    }
    // A line in use keeps the copies that it began with.
    if fs::read(copy).is_ok_and(|copied| copied != text) {
        let found = format!("{shown}: was changed, and the line that is in use began with the former one");
        return Some(Finding::wrong(check, found, format!("systemctl restart psync-link@{}", pair.name)));
    }
    Some(Finding::ok(check, shown.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_that_is_missing_open_or_outdated_is_told() {
        let dir = tempfile::tempdir().expect("dir");
        let pair = PairFile { name: "web".into(), path: "/etc/psync/web.toml".into() };
        let (key, copy) = (dir.path().join("key"), dir.path().join("copy"));
        let found = || one(&pair, &key, &copy).expect("told");
        assert!(found().found.contains("No such file") && !found().ok, "{:?}", found());
        fs::write(&key, "-----BEGIN OPENSSH PRIVATE KEY-----\n").expect("write");
        let mode = |mode| fs::set_permissions(&key, fs::Permissions::from_mode(mode)).expect("chmod");
        mode(0o640);
        assert!(found().found.contains("a private key with mode 0640") && !found().ok, "{:?}", found());
        mode(0o600);
        assert!(found().ok);
        fs::write(&copy, "another").expect("write");
        assert_eq!(found().mend, "systemctl restart psync-link@web");
        fs::copy(&key, &copy).expect("copy");
        assert!(found().ok);
        // What everybody may know has any mode.
        fs::write(&key, "files2 ssh-ed25519 AAAA\n").expect("write");
        fs::copy(&key, &copy).expect("copy");
        mode(0o644);
        assert!(found().ok);
    }
}
