//! The right side of a pair as a service: `psync-agent serve`, with a socket that is handed over as systemd does it.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;

use super::{NAME, PATIENCE, Pair, poll, process};

pub const AGENT: &str = env!("CARGO_BIN_EXE_psync-agent");

/// The agent of a pair, and the directories with its socket, its file and its log.
pub struct Service {
    /// Where `RUNTIME_DIRECTORY` points.
    pub run: PathBuf,
    file: PathBuf,
    pub log: PathBuf,
    /// Kept as systemd keeps it: while the agent is down, callers wait.
    listener: UnixListener,
    agent: Option<Child>,
}

impl Service {
    /// Starts the agent of the pair's right root; `more` are lines at the top of its file.
    pub fn start(pair: &Pair, more: &str) -> Service {
        let [run, config, log] = ["run", "etc", "agent.log"].map(|name| pair.beside(name));
        let file = config.join(format!("{NAME}.toml"));
        fs::create_dir(&run).unwrap();
        fs::create_dir(&config).unwrap();
        let listener = UnixListener::bind(run.join(format!("agent-{NAME}.sock"))).unwrap();
        let (left, right) = (&pair.left, &pair.right);
        let text = format!("debug = 1\nlog = {log:?}\n{more}\n[left]\nroot = {left:?}\n[right]\nroot = {right:?}\n");
        fs::write(&file, text).unwrap();
        let mut service = Service { run, file, log, listener, agent: None };
        service.again();
        service
    }

    /// Starts the agent, which does not run.
    pub fn again(&mut self) {
        assert!(self.agent.is_none());
        let socket: OwnedFd = self.listener.try_clone().unwrap().into();
        let mut command = Command::new("/bin/sh");
        // The first descriptor that systemd hands over is 3.
        command.args(["-c", r#"LISTEN_FDS=1 LISTEN_PID=$$ exec "$@" 3<&0 < /dev/null"#, "sh", AGENT, "serve"]);
        command.arg(&self.file).stdin(Stdio::from(socket));
        self.agent = Some(command.spawn().unwrap());
    }

    /// The proxy command that reaches the service by `psync-agent connect`, from the socket in `run`.
    pub fn connect(run: &Path) -> String {
        format!("RUNTIME_DIRECTORY={} exec {AGENT} connect %i", run.display())
    }

    pub fn pid(&self) -> i32 {
        self.agent.as_ref().expect("it runs").id() as i32
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// How many lines of the log hold these words.
    pub fn logged(&self, words: &str) -> usize {
        self.log().lines().filter(|line| line.contains(words)).count()
    }

    /// Waits until the log holds these words.
    pub fn wait_logged(&self, words: &str) {
        assert!(poll(PATIENCE, || self.logged(words) > 0), "the agent never says `{words}`:\n{}", self.log());
    }

    /// The agent was killed.
    pub fn forget(&mut self) {
        self.agent.take().unwrap().wait().unwrap();
    }

    /// Ends the agent as systemd does: at once, and with 0.
    pub fn stop(&mut self) {
        process::send(self.pid(), Signal::SIGTERM);
        let mut agent = self.agent.take().unwrap();
        let ended = poll(PATIENCE, || agent.try_wait().unwrap().is_some());
        assert!(ended, "the agent does not end:\n{}", self.log());
        let status = agent.wait().unwrap();
        assert_eq!(status.code(), Some(0), "the agent ended with {status}:\n{}", self.log());
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- agent:\n{}", self.log());
        }
    }
}
