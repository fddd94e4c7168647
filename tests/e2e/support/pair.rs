//! A pair of directories and the program that keeps them equal.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::{Depth, PATIENCE, Tree, poll, process, snapshot};

/// The program under test: built with the profile of the tests, so `--release` tests the release binary.
pub const PSYNC: &str = env!("CARGO_BIN_EXE_psync");
/// The pair's name in every test.
pub const NAME: &str = "e2e";

/// How much the log tells: `PSYNC_DEBUG`, by default each action.
pub fn debug() -> String {
    std::env::var("PSYNC_DEBUG").unwrap_or_else(|_| "1".into())
}

/// Two roots in a directory of their own, and psync on them when it runs.
///
/// Dropping it kills what still runs and removes the directory; if the test failed it first prints the last
/// lines that psync said.
pub struct Pair {
    directory: Option<tempfile::TempDir>,
    pub left: PathBuf,
    pub right: PathBuf,
    pub log: PathBuf,
    options: Vec<String>,
    /// What runs the program; empty: nothing.
    through: Vec<String>,
    running: Option<Running>,
    said: Arc<Mutex<Vec<String>>>,
}

struct Running {
    brain: Child,
    reader: JoinHandle<()>,
    /// How many lines had been said before this start.
    from: usize,
}

/// One run to the end, by `-s` or because it was refused.
pub struct Once {
    pub status: ExitStatus,
    pub stderr: String,
    pub stdout: String,
}

impl Once {
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }
}

/// Runs psync with these arguments until it ends by itself, at most a minute.
pub fn once(arguments: &[&str]) -> Once {
    let mut command = Command::new(PSYNC);
    command.args(arguments);
    run_to_end(command)
}

/// Runs any command until it ends by itself, at most a minute.
pub fn run_to_end(mut command: Command) -> Once {
    let shown = format!("{command:?}");
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = child.id() as i32;
    let output = std::thread::spawn(move || child.wait_with_output().unwrap());
    let ended = poll(PATIENCE, || output.is_finished());
    if !ended {
        let family = [vec![pid], process::children(pid)].concat();
        family.iter().for_each(|p| process::send(*p, Signal::SIGKILL));
    }
    let output = output.join().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let once = Once { status: output.status, stderr: text(&output.stderr), stdout: text(&output.stdout) };
    assert!(ended, "did not end within {PATIENCE:?}: {shown}\n{}", once.stderr);
    once
}

impl Pair {
    /// Two empty roots; psync does not run yet.
    pub fn new() -> Pair {
        let directory = tempfile::Builder::new().prefix("psync-e2e-").tempdir().unwrap();
        let [left, right, log] = ["left", "right", "log"].map(|name| directory.path().join(name));
        fs::create_dir(&left).unwrap();
        fs::create_dir(&right).unwrap();
        let options = ["--pair", NAME, "-d", &debug(), "--log", log.to_str().unwrap()].map(String::from).to_vec();
        Pair {
            directory: Some(directory),
            left,
            right,
            log,
            options,
            through: Vec::new(),
            running: None,
            said: Arc::default(),
        }
    }

    /// The same pair with more options in all its runs.
    pub fn with(mut self, options: &[&str]) -> Pair {
        self.options.extend(options.iter().map(|o| o.to_string()));
        self
    }

    /// The same pair, with psync run by another program.
    pub fn through(mut self, command: &[&str]) -> Pair {
        self.through = command.iter().map(|c| c.to_string()).collect();
        self
    }

    /// The program under test, or what runs it.
    fn program(&self) -> Command {
        let Some((first, rest)) = self.through.split_first() else { return Command::new(PSYNC) };
        let mut command = Command::new(first);
        command.args(rest);
        command
    }

    /// The same pair without these options.
    pub fn without(mut self, options: &[&str]) -> Pair {
        self.options.retain(|option| !options.contains(&option.as_str()));
        self
    }

    /// Two empty roots, in sync and watched.
    pub fn start(options: &[&str]) -> Pair {
        let mut pair = Pair::new().with(options);
        pair.run();
        pair
    }

    /// A directory beside the roots, for the test's own use.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.directory.as_ref().unwrap().path().join(name)
    }

    pub fn sides(&self) -> [&Path; 2] {
        [&self.left, &self.right]
    }

    /// `.psync/PAIR` of a root.
    pub fn own(root: &Path) -> PathBuf {
        root.join(".psync").join(NAME)
    }

    /// The whole command line but for the program, with `more` options before the roots.
    pub fn arguments(&self, more: &[&str]) -> Vec<String> {
        let roots = [&self.left, &self.right].map(|r| r.to_str().unwrap().to_owned());
        self.options.iter().cloned().chain(more.iter().map(|m| m.to_string())).chain(roots).collect()
    }

    /// Starts psync and does not wait.
    pub fn spawn(&mut self) {
        assert!(self.running.is_none(), "psync runs already");
        let from = self.said.lock().unwrap().len();
        let mut command = self.program();
        command.args(self.arguments(&[])).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut brain = command.spawn().unwrap();
        let stderr = BufReader::new(brain.stderr.take().unwrap());
        let said = self.said.clone();
        let reader = std::thread::spawn(move || {
            for line in stderr.split(b'\n').map_while(Result::ok) {
                said.lock().unwrap().push(String::from_utf8_lossy(&line).into_owned());
            }
        });
        self.running = Some(Running { brain, reader, from });
    }

    /// Starts psync and waits until it says that both sides are in sync.
    pub fn run(&mut self) {
        self.spawn();
        self.wait_in_sync();
    }

    /// Waits for the "in sync" line of the present run.
    pub fn wait_in_sync(&mut self) {
        if !self.wait_said(PATIENCE, |line| line.contains(" in sync: ")) {
            panic!("psync never said that it is in sync{}", self.story());
        }
    }

    /// Waits until a line of the present run satisfies `wanted`, or psync ends. False if no line did.
    pub fn wait_said(&mut self, patience: Duration, wanted: impl Fn(&str) -> bool) -> bool {
        let mut found = false;
        poll(patience, || {
            // Asked before the lines are read: what is said before the end is not missed.
            let ended = !self.is_running();
            found = self.lines().iter().any(|line| wanted(line));
            found || ended
        });
        found
    }

    /// What the present (or the last) run said on stderr.
    pub fn lines(&self) -> Vec<String> {
        let said = self.said.lock().unwrap();
        said[self.running.as_ref().map_or(0, |r| r.from)..].to_vec()
    }

    pub fn is_running(&mut self) -> bool {
        match &mut self.running {
            Some(running) => running.brain.try_wait().unwrap().is_none() || !running.reader.is_finished(),
            None => false,
        }
    }

    /// The brain's process and its children's: the agent.
    pub fn processes(&self) -> Vec<i32> {
        let Some(running) = &self.running else { return Vec::new() };
        let brain = running.brain.id() as i32;
        std::iter::once(brain).chain(process::children(brain)).collect()
    }

    /// Ends psync as a user would: it must go quickly, say 0, and leave no process behind.
    pub fn stop(&mut self) {
        let family = self.processes();
        process::send(family[0], Signal::SIGTERM);
        let status = self.wait_end();
        assert!(status.code() == Some(0), "SIGTERM ended psync with {status}{}", self.story());
        let gone = poll(Duration::from_secs(10), || !family.iter().any(|p| process::alive(*p)));
        assert!(gone, "the agent outlived psync{}", self.story());
        for root in self.sides() {
            let stage = Pair::own(root).join("stage");
            let left: Vec<_> =
                fs::read_dir(&stage).map(|d| d.flatten().map(|e| e.path()).collect()).unwrap_or_default();
            assert!(left.is_empty(), "a clean stop left {left:?} in the stage{}", self.story());
        }
    }

    /// Waits until psync ends by itself.
    pub fn wait_end(&mut self) -> ExitStatus {
        if !poll(PATIENCE, || !self.is_running()) {
            panic!("psync does not end{}", self.story());
        }
        let mut running = self.running.take().unwrap();
        let _ = running.reader.join();
        running.brain.wait().unwrap()
    }

    /// Kills brain and agent with SIGKILL, as they stand.
    pub fn kill9_all(&mut self) {
        process::kill_and_wait(&self.processes());
        let status = self.wait_end();
        assert!(status.signal() == Some(9), "psync had ended before it was killed: {status}{}", self.story());
    }

    /// One full synchronisation with `-s`.
    pub fn sync_once(&self) -> Once {
        self.sync_with(&[])
    }

    /// The same with more options.
    pub fn sync_with(&self, more: &[&str]) -> Once {
        let arguments = self.arguments(&[&["-s"], more].concat());
        let mut command = self.program();
        command.args(&arguments);
        let once = run_to_end(command);
        self.said.lock().unwrap().extend(once.stderr.lines().map(String::from));
        once
    }

    /// One full synchronisation that must succeed and leave both trees equal.
    pub fn sync(&self) -> Tree {
        let once = self.sync_once();
        assert!(once.code() == 0, "-s ended with {}{}", once.status, self.story());
        self.assert_equal()
    }

    /// Both trees are equal now.
    pub fn assert_equal(&self) -> Tree {
        let [left, right] = self.sides().map(|root| snapshot(root, Depth::Contents));
        assert!(left == right, "the trees differ:\n{}{}", left.differences(&right, ("left", "right")), self.story());
        left
    }

    /// Waits until both trees are equal, contents and all.
    pub fn wait_equal(&mut self) -> Tree {
        let equal = |pair: &Pair, depth| {
            let [left, right] = pair.sides().map(|root| snapshot(root, depth));
            (left == right).then_some(left)
        };
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if equal(self, Depth::Stat).is_some()
                && let Some(tree) = equal(self, Depth::Contents)
            {
                return tree;
            }
            if self.running.is_some() && !self.is_running() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.assert_equal()
    }

    /// Waits until both trees are equal and nothing has happened for a while: no action logged, no tree changed.
    pub fn settle(&mut self) -> Tree {
        let end = Instant::now() + PATIENCE;
        loop {
            let tree = self.wait_equal();
            let actions = self.actions_logged();
            let start = Instant::now();
            let quiet = |pair: &Pair| pair.actions_logged() == actions;
            while start.elapsed() < Duration::from_millis(1200) && quiet(self) {
                std::thread::sleep(Duration::from_millis(50));
            }
            if quiet(self) && self.wait_equal() == tree {
                return tree;
            }
            assert!(Instant::now() < end, "the pair never comes to rest{}", self.story());
        }
    }

    /// How many actions psync has applied so far, on both sides together, over all its runs.
    pub fn actions_logged(&self) -> usize {
        self.action_lines().len()
    }

    /// How many more than `before`, once the log, which is written beside the work, has come to rest.
    pub fn actions_logged_since(&self, before: usize) -> usize {
        let (mut last, mut seen) = (before, 0);
        poll(PATIENCE, || {
            let now = self.actions_logged();
            seen = if now == last { seen + 1 } else { 0 };
            last = now;
            now > before && seen > 20
        });
        last - before
    }

    /// The lines of the log that tell of an applied action.
    pub fn action_lines(&self) -> Vec<String> {
        let log = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&log).lines().filter(|line| line.contains("action")).map(String::from).collect()
    }

    /// What psync said and did last, for the message of a failure.
    pub fn story(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let tail = |lines: Vec<&str>| lines[lines.len().saturating_sub(60)..].join("\n  ");
        let said = self.said.lock().unwrap();
        let said = tail(said.iter().map(String::as_str).collect());
        format!("\n--- stderr:\n  {said}\n--- log:\n  {}\n---", tail(log.lines().collect()))
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        if let Some(mut running) = self.running.take() {
            let brain = running.brain.id() as i32;
            let family: Vec<i32> = std::iter::once(brain).chain(process::children(brain)).collect();
            family.iter().for_each(|pid| process::send(*pid, Signal::SIGKILL));
            let _ = running.brain.wait();
            let _ = running.reader.join();
        }
        if std::thread::panicking()
            && std::env::var_os("PSYNC_KEEP").is_some()
            && let Some(directory) = self.directory.take()
        {
            eprintln!("kept: {}", directory.keep().display());
        }
    }
}
