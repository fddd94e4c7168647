//! A pair that worked, something outside that is not its business, and a process under attack.

use std::io::Read;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use psync::config::{Compress, SharedSettings};
use psync::link::handshake::Role;
use psync::protocol::survey::Answer;
use psync::protocol::{Hello, Reply, Request, Start};
use serde::de::DeserializeOwned;

use crate::support::service::AGENT;
use crate::support::users::*;
use crate::support::{NAME, PATIENCE, Pair, poll};
use crate::talk::Talk;
use crate::victims::Victims;

/// No side may take more, whatever the other one says, in KiB.
pub const MEMORY_MAX: u64 = 200 * 1024;

pub struct Scene {
    pub pair: Pair,
    pub victims: Victims,
}

impl Scene {
    /// Two equal trees; in both a link leads to the victims.
    pub fn new() -> Scene {
        Scene::with(|_| {})
    }

    /// The same, with what is planted before both sides meet.
    pub fn with(more: impl FnOnce(&Pair)) -> Scene {
        let pair = Pair::new();
        open_to_all(&pair.beside(""));
        let victims = Victims::new(pair.beside("victims"));
        plant(pair.left.join("f"), "contents\n");
        plant(pair.left.join("d/f"), "in a directory\n");
        plant(pair.left.join("d/e/f"), vec![b'x'; 300_000]);
        symlink("nowhere", pair.left.join("link"));
        symlink(&victims.dir, pair.left.join("out"));
        more(&pair);
        pair.sync();
        Scene { pair, victims }
    }

    /// After an attack: nothing outside was touched, and an honest partner is served. What a side holds is whatever the
    /// attacker, who had a partner's rights, made of it; so an administrator says that it is meant.
    pub fn assert_honest_again(&mut self, what: &str) {
        self.victims.assert_untouched(what);
        let new = self.pair.left.join("after the attack");
        write(&new, "honest\n");
        let once = self.pair.sync_with(&["--accept"]);
        if once.code() != 0 {
            let union = self.pair.sync_with(&["--accept", "--union"]);
            let both = format!("{}\n{}", once.stderr, union.stderr);
            assert_eq!(union.code(), 0, "{what}: no honest partner is served any more: {both}");
        }
        assert_eq!(read(self.pair.right.join("after the attack")), "honest\n", "{what}");
        self.victims.assert_untouched(what);
    }
}

pub fn open_to_all(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// A process under attack: what it says, how much memory it takes, how it ends.
pub struct Attacked {
    child: Child,
    said: Arc<Mutex<Vec<u8>>>,
    most: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
}

impl Attacked {
    /// Runs the command with its stderr, and perhaps its stdin and stdout, in our hands.
    pub fn start(command: &mut Command) -> Attacked {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let (said, most, ended) =
            (Arc::<Mutex<Vec<u8>>>::default(), Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let mut stderr = child.stderr.take().unwrap();
        let to = said.clone();
        thread::spawn(move || {
            let mut piece = [0; 8192];
            while let Ok(length @ 1..) = stderr.read(&mut piece) {
                let mut said = to.lock().unwrap();
                // What is said first tells most.
                let room = (64_usize << 20).saturating_sub(said.len());
                said.extend_from_slice(&piece[..length.min(room)]);
            }
        });
        let (pid, to, over) = (child.id(), most.clone(), ended.clone());
        thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                to.fetch_max(peak(pid), Ordering::Relaxed);
                thread::sleep(Duration::from_millis(20));
            }
        });
        Attacked { child, said, most, ended }
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Its stdout and stdin, if they were piped.
    pub fn pipes(&mut self) -> (ChildStdout, ChildStdin) {
        (self.child.stdout.take().unwrap(), self.child.stdin.take().unwrap())
    }

    /// The most memory that it ever had, in KiB.
    pub fn peak(&self) -> u64 {
        self.most.load(Ordering::Relaxed).max(peak(self.child.id()))
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub fn said(&self) -> String {
        String::from_utf8_lossy(&self.said.lock().unwrap()).into_owned()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It does not end, or it panicked, or a signal ended it.
    pub fn wait_end(&mut self, patience: Duration) -> Result<ExitStatus, String> {
        let ended = poll(patience, || !self.is_running());
        if !ended {
            let _ = self.child.kill();
        }
        let status = self.child.wait().unwrap();
        let said = self.said();
        match status.code() {
            _ if !ended => Err(format!("it does not end within {patience:?}\n{said}")),
            _ if said.contains("panicked") => Err(format!("it panicked: {said}")),
            // 0 to 7 are those of the manual; Rust's own for a panic is 101.
            Some(0..=7) => Ok(status),
            _ => Err(format!("it ended with {status}\n{said}")),
        }
    }
}

impl Drop for Attacked {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The most memory that a process ever had, in KiB; 0: it is gone.
pub fn peak(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("VmHWM:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
}

/// A caller's part, played by this process, before a real agent on the pair's right root.
pub struct HostileCaller<I> {
    pub agent: Attacked,
    pub talk: Talk<I>,
}

/// Who calls for a session.
pub type HostileBrain = HostileCaller<Reply>;
/// Who calls for a survey.
pub type HostileSurveyor = HostileCaller<Answer>;

impl HostileBrain {
    pub fn new(scene: &Scene) -> HostileBrain {
        HostileBrain::with(scene, plain_settings())
    }

    pub fn with(scene: &Scene, settings: SharedSettings) -> HostileBrain {
        HostileCaller::call(scene, settings, Role::Brain)
    }

    /// The first words in good order, so that what follows is taken in. The agent's Hello.
    pub fn open(&mut self) -> Hello {
        let hello = open(&mut self.talk, start()).expect("a Hello");
        let peer = if hello.peer == [0; 16] { [7; 16] } else { hello.peer };
        self.talk.say(&Request::Go { peer, scan: false, whole: false, doubt: false });
        hello
    }
}

impl HostileSurveyor {
    pub fn new(scene: &Scene) -> HostileSurveyor {
        HostileCaller::call(scene, plain_settings(), Role::Surveyor)
    }
}

pub fn plain_settings() -> SharedSettings {
    let mut settings = SharedSettings::default();
    settings.transport.compress = Compress::None;
    settings.patience.timeout = Duration::from_secs(20);
    settings
}

impl<I: DeserializeOwned + Send + 'static> HostileCaller<I> {
    fn call(scene: &Scene, settings: SharedSettings, role: Role) -> HostileCaller<I> {
        let mut command = Command::new(AGENT);
        command.args(["--stdio", "--pair", NAME, "--settings", &serde_json::to_string(&settings).unwrap(), "--root"]);
        command.arg(&scene.pair.right).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut agent = Attacked::start(&mut command);
        let (stdout, stdin) = agent.pipes();
        let talk = Talk::begin(stdout, stdin, role, NAME);
        HostileCaller { agent, talk }
    }

    /// Hangs up and waits for the agent's end.
    pub fn end(mut self) -> Result<u64, String> {
        self.talk.hang_up();
        let talk = self.talk;
        let deaf = thread::spawn(move || talk.wait_end(PATIENCE));
        let ended = self.agent.wait_end(PATIENCE);
        let peak = self.agent.peak();
        deaf.join().unwrap();
        ended.map(|_| peak)
    }
}

pub fn start() -> Start {
    Start {
        pair: NAME.into(),
        incarnation: 1,
        accept: true,
        union: false,
        filters: [0; 32],
        dry_run: false,
        root: vec![],
    }
}

/// Says Start and waits for the agent's Hello.
pub fn open(talk: &mut Talk<Reply>, start: Start) -> Option<Hello> {
    talk.say(&Request::Start(start));
    talk.wait(PATIENCE, |reply| if let Reply::Hello(hello) = reply { Some(hello) } else { None })
}

/// The agent's part, played by this process, before a real brain on the pair's left root.
pub struct HostileAgent {
    pub brain: Attacked,
    listener: UnixListener,
}

impl HostileAgent {
    /// Where the brain calls, and the command by which it does.
    fn listen(scene: &Scene) -> (UnixListener, String, PathBuf) {
        let run = scene.pair.beside("run");
        std::fs::create_dir_all(&run).unwrap();
        let socket = run.join(format!("agent-{NAME}.sock"));
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        (listener, crate::support::service::Service::connect(&run), run)
    }

    /// Before a `psync-brain`, with these lines in the pair's file.
    pub fn as_service(scene: &Scene, lines: &str) -> HostileAgent {
        let (listener, file, run) = HostileAgent::listen_by_file(scene, lines);
        let mut command = Command::new(env!("CARGO_BIN_EXE_psync-brain"));
        command.arg(&file).args(["--log", "stderr"]).env("RUNTIME_DIRECTORY", &run);
        HostileAgent { brain: Attacked::start(command.stdin(Stdio::null()).stdout(Stdio::null())), listener }
    }

    /// Before a `psync check`.
    pub fn of_a_check(scene: &Scene) -> HostileAgent {
        let (listener, file, run) = HostileAgent::listen_by_file(scene, "");
        let mut command = Command::new(crate::support::PSYNC);
        command.arg("check").arg(&file).env("RUNTIME_DIRECTORY", &run);
        HostileAgent { brain: Attacked::start(command.stdin(Stdio::null()).stdout(Stdio::null())), listener }
    }

    /// Where whoever reads the pair's file calls, that file with these lines in it, and its directory.
    fn listen_by_file(scene: &Scene, lines: &str) -> (UnixListener, PathBuf, PathBuf) {
        let (listener, connect, run) = HostileAgent::listen(scene);
        let file = run.join(format!("{NAME}.toml"));
        let (left, right) = (&scene.pair.left, &scene.pair.right);
        let right = format!("root = {right:?}\nhost = 'other'\nproxy_command = {connect:?}\n");
        write(&file, format!("{lines}[left]\nroot = {left:?}\n[right]\n{right}"));
        (listener, file, run)
    }

    pub fn new(scene: &Scene, options: &[&str]) -> HostileAgent {
        let (listener, connect, _) = HostileAgent::listen(scene);
        let mut command = Command::new(crate::support::PSYNC);
        let more = [&["--proxy-command", &connect][..], options].concat();
        command.args(scene.pair.arguments(&more)).stdin(Stdio::null()).stdout(Stdio::null());
        HostileAgent { brain: Attacked::start(&mut command), listener }
    }

    /// The next call of the brain.
    pub fn accept(&mut self) -> Option<UnixStream> {
        self.accept_within(PATIENCE)
    }

    /// The same; `None` as well if it does not call within that time.
    pub fn accept_within(&mut self, patience: Duration) -> Option<UnixStream> {
        let mut call = None;
        poll(patience, || {
            call = self.listener.accept().ok().map(|(stream, _)| stream);
            call.is_some() || !self.brain.is_running()
        });
        let call = call?;
        call.set_nonblocking(false).unwrap();
        Some(call)
    }

    /// The next call, answered, with this hello when the brain asks.
    pub fn meet(&mut self, hello: &Hello) -> Option<Talk<Request>> {
        let call = self.accept()?;
        let mut talk = Talk::begin(call.try_clone().unwrap(), call, Role::Agent, NAME);
        talk.wait(PATIENCE, |request| matches!(request, Request::Start(_)).then_some(()))?;
        talk.say(&Reply::Hello(hello.clone()));
        Some(talk)
    }

    /// The same up to the moment when reports are taken in.
    pub fn meet_and_go(&mut self, hello: &Hello) -> Option<Talk<Request>> {
        let mut talk = self.meet(hello)?;
        talk.wait(PATIENCE, |request| matches!(request, Request::Rows { .. }).then_some(()))?;
        talk.say(&Reply::RowsEnd);
        talk.wait(PATIENCE, |request| matches!(request, Request::Go { .. }).then_some(()))?;
        Some(talk)
    }

    /// Ends the brain as a user would. Its peak in KiB.
    pub fn end(mut self) -> Result<u64, String> {
        crate::support::process::send(self.brain.pid(), nix::sys::signal::Signal::SIGTERM);
        let ended = self.brain.wait_end(PATIENCE);
        ended.map(|_| self.brain.peak())
    }
}

/// What the pair's honest agent says of its archive.
pub fn honest_hello(scene: &Scene) -> Hello {
    let mut brain = HostileBrain::new(scene);
    let hello = open(&mut brain.talk, start()).expect("a Hello");
    brain.end().expect("an honest end");
    hello
}
