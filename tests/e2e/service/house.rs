//! A pair's file, a place for its socket, and a systemd that listens.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::{Depth, PATIENCE, PSYNC, poll, process, run_to_end, snapshot};

pub const PSYNC_BRAIN: &str = env!("CARGO_BIN_EXE_psync-brain");
pub const PAIR: &str = "web";

pub struct House {
    directory: tempfile::TempDir,
    pub left: PathBuf,
    pub right: PathBuf,
    pub config: PathBuf,
    pub log: PathBuf,
    /// Where the right side is reached, if not in a child.
    behind: Option<String>,
    brain: Option<Child>,
    told: Arc<Mutex<Vec<String>>>,
    over: Arc<AtomicBool>,
}

impl House {
    /// Two empty roots, and a file with these lines.
    pub fn new(text: &str) -> House {
        let directory = tempfile::Builder::new().prefix("psync-e2e-").tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let (left, right, config, log) = (at("left"), at("right"), at(&format!("{PAIR}.toml")), at("log"));
        for new in [&left, &right, &at("run")] {
            fs::create_dir(new).unwrap();
        }
        let told: Arc<Mutex<Vec<String>>> = Arc::default();
        let over = Arc::new(AtomicBool::new(false));
        let socket = UnixDatagram::bind(at("notify")).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let (hears, ends) = (told.clone(), over.clone());
        std::thread::spawn(move || {
            let mut buffer = vec![0; 65536];
            while !ends.load(Ordering::Relaxed) {
                let Ok(length) = socket.recv(&mut buffer) else { continue };
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                hears.lock().unwrap().extend(text.lines().map(String::from));
            }
        });
        let house = House { directory, left, right, config, log, behind: None, brain: None, told, over };
        house.configure(text);
        house
    }

    pub fn beside(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn socket(&self) -> PathBuf {
        self.beside(&format!("run/{PAIR}.sock"))
    }

    /// Writes the pair's file.
    pub fn configure(&self, text: &str) {
        let quoted = |path: &Path| path.to_str().unwrap().to_owned();
        let behind = self.behind.as_ref().map(|command| format!("proxy_command = '{command}'\n")).unwrap_or_default();
        let text = format!(
            "log = '{}'\n{text}[left]\nroot = '{}'\n[right]\nroot = '{}'\n{behind}",
            quoted(&self.log),
            quoted(&self.left),
            quoted(&self.right)
        );
        fs::write(&self.config, text).unwrap();
    }

    pub fn right_behind(&mut self, command: &str) {
        self.behind = Some(command.to_owned());
        self.configure("");
    }

    /// The brain's command, with a systemd.
    pub fn brain(&self) -> Command {
        let mut command = Command::new(PSYNC_BRAIN);
        command.arg(&self.config).env("RUNTIME_DIRECTORY", self.beside("run"));
        command.env("NOTIFY_SOCKET", self.beside("notify")).stdin(Stdio::null()).stdout(Stdio::null());
        command.env_remove("WATCHDOG_USEC").env_remove("WATCHDOG_PID");
        command
    }

    pub fn start(&mut self, environment: &[(&str, &str)]) {
        let mut command = self.brain();
        command.envs(environment.iter().copied());
        command.stderr(fs::File::create(self.beside("stderr")).unwrap());
        self.brain = Some(command.spawn().unwrap());
    }

    /// Starts the brain by another command, without a systemd.
    pub fn start_alone(&mut self, mut command: Command) {
        command.env("RUNTIME_DIRECTORY", self.beside("run")).stdin(Stdio::null());
        command.stderr(fs::File::create(self.beside("stderr")).unwrap());
        self.brain = Some(command.spawn().unwrap());
    }

    /// Starts the brain by another command; false if that ends at once.
    pub fn start_as(&mut self, mut command: Command) -> bool {
        command.env("RUNTIME_DIRECTORY", self.beside("run")).env("NOTIFY_SOCKET", self.beside("notify"));
        command.stdin(Stdio::null()).stderr(fs::File::create(self.beside("stderr")).unwrap());
        let mut brain = command.spawn().unwrap();
        let mut ended = false;
        poll(PATIENCE, || {
            ended = brain.try_wait().unwrap().is_some();
            ended || self.told().iter().any(|told| told == "READY=1")
        });
        self.brain = Some(brain);
        !ended
    }

    pub fn pid(&self) -> i32 {
        self.brain.as_ref().unwrap().id() as i32
    }

    /// What systemd was told so far, line by line.
    pub fn told(&self) -> Vec<String> {
        self.told.lock().unwrap().clone()
    }

    pub fn wait_told(&self, wanted: impl Fn(&str) -> bool) -> bool {
        poll(PATIENCE, || self.told().iter().any(|told| wanted(told)))
    }

    /// Where a line that begins so was told first.
    pub fn position(&self, start: &str) -> usize {
        let told = self.told();
        told.iter().position(|line| line.starts_with(start)).unwrap_or_else(|| panic!("no {start}{}", self.story()))
    }

    pub fn wait_for(&self, wanted: impl Fn(&House) -> bool) {
        assert!(poll(PATIENCE, || wanted(self)), "it never came to be{}", self.story());
    }

    /// Waits until the brain says so and both trees are equal.
    pub fn wait_in_sync(&self) {
        self.wait_for(|house| house.status()["state"] == "in-sync");
        self.wait_for(|house| {
            let [left, right] = [&house.left, &house.right].map(|root| snapshot(root, Depth::Stat));
            left == right
        });
    }

    /// Runs a subcommand; the pair's name stands for the one of this house.
    pub fn psync(&self, words: &[&str]) -> crate::support::Once {
        let mut command = Command::new(PSYNC);
        command.args(words).env("RUNTIME_DIRECTORY", self.beside("run"));
        run_to_end(command)
    }

    /// `psync status --json`; nothing if it does not run.
    pub fn status(&self) -> serde_json::Value {
        serde_json::from_str(&self.psync(&["status", PAIR, "--json"]).stdout).unwrap_or_default()
    }

    /// The log.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits until the brain ends by itself; its code.
    pub fn wait_end(&mut self) -> Option<i32> {
        let mut brain = self.brain.take().unwrap();
        let ended = poll(PATIENCE, || brain.try_wait().unwrap().is_some());
        if !ended {
            let _ = brain.kill();
        }
        let status = brain.wait().unwrap();
        assert!(ended, "it does not end{}", self.story());
        status.code()
    }

    pub fn stop(&mut self) {
        process::send(self.pid(), Signal::SIGTERM);
        assert_eq!(self.wait_end(), Some(0), "{}", self.story());
    }

    /// For the message of a failure.
    pub fn story(&self) -> String {
        let said = self.said();
        let stderr = fs::read_to_string(self.beside("stderr")).unwrap_or_default();
        let tail = |text: &str| text.lines().rev().take(30).map(|l| format!("  {l}\n")).collect::<Vec<_>>();
        let last = |text: &str| tail(text).into_iter().rev().collect::<String>();
        let told = last(&self.told().join("\n"));
        format!("\n--- stderr:\n{}--- log:\n{}--- told:\n{told}---", last(&stderr), last(&said))
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(mut brain) = self.brain.take() {
            let pid = brain.id() as i32;
            let family: Vec<i32> = std::iter::once(pid).chain(process::children(pid)).collect();
            family.iter().for_each(|pid| process::send(*pid, Signal::SIGKILL));
            let _ = brain.wait();
        }
    }
}
