//! An sshd of the test's own, on loopback, with its own keys, configuration and port.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::{PATIENCE, poll, process, tools};

const SSHD: &str = "/usr/sbin/sshd";

pub struct Sshd {
    directory: PathBuf,
    pub port: u16,
    daemon: Option<Child>,
}

/// Whether there is all that an sshd needs; says what is missing.
pub fn possible() -> bool {
    if !tools::has("ssh") || !tools::has("ssh-keygen") {
        return false;
    }
    if !Path::new(SSHD).exists() {
        tools::missing(SSHD);
        return false;
    }
    // An sshd that is started by root insists on it.
    if process::is_root() && fs::create_dir_all("/run/sshd").is_err() {
        tools::missing("/run/sshd");
        return false;
    }
    true
}

pub fn user() -> String {
    nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap().name
}

impl Sshd {
    /// Starts one in a directory that does not exist yet. `environment`: what logins find set.
    pub fn start(directory: PathBuf, environment: &[(&str, &str)]) -> Sshd {
        fs::create_dir(&directory).unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).unwrap();
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let at = |name: &str| directory.join(name).display().to_string();
        for key in ["host", "good", "stranger"] {
            tools::run(&directory, "ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &at(key)]);
        }
        let set: Vec<String> = environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nPidFile none\nAuthorizedKeysFile {}\nStrictModes no\n\
             UsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n\
             SetEnv {}\n",
            at("host"),
            at("authorized_keys"),
            set.join(" ")
        );
        fs::write(at("config"), config).unwrap();
        let host = fs::read_to_string(at("host.pub")).unwrap();
        fs::write(at("known_hosts"), format!("[127.0.0.1]:{port} {host}")).unwrap();
        fs::write(at("nobody_known"), "").unwrap();
        let mut sshd = Sshd { directory, port, daemon: None };
        sshd.again();
        sshd
    }

    /// Starts it, which does not run.
    pub fn again(&mut self) {
        assert!(self.daemon.is_none());
        let at = |name: &str| self.directory.join(name);
        let log = fs::OpenOptions::new().create(true).append(true).open(at("log")).unwrap();
        let mut command = Command::new(SSHD);
        command.args(["-D", "-e", "-f"]).arg(at("config")).stdin(Stdio::null()).stderr(log);
        self.daemon = Some(command.spawn().unwrap());
        let up = poll(PATIENCE, || TcpStream::connect(("127.0.0.1", self.port)).is_ok());
        assert!(up, "sshd does not listen:\n{}", self.log());
    }

    /// Ends it; connections that are open go on.
    pub fn stop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }

    /// Lets the good key in; `options` are those before it in authorized_keys.
    pub fn allow(&self, options: &str) {
        let key = fs::read_to_string(self.directory.join("good.pub")).unwrap();
        fs::write(self.directory.join("authorized_keys"), format!("{options} {key}")).unwrap();
    }

    /// The options for an ssh that knows only this host and this key.
    pub fn options(&self, key: &str, known_hosts: &str) -> Vec<String> {
        let at = |name: &str| self.directory.join(name).display().to_string();
        let mut options = vec!["-F".to_owned(), "none".to_owned()];
        for option in [
            format!("UserKnownHostsFile={}", at(known_hosts)),
            "GlobalKnownHostsFile=/dev/null".into(),
            format!("IdentityFile={}", at(key)),
            "IdentitiesOnly=yes".into(),
            "IdentityAgent=none".into(),
            "ConnectTimeout=30".into(),
        ] {
            options.extend(["-o".to_owned(), option]);
        }
        options
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.stop();
        if std::thread::panicking() {
            eprintln!("--- sshd:\n{}", self.log());
        }
    }
}
