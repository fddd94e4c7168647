//! One run of rsync: its process, and the threads that carry its bytes. They tell the endpoint's thread what happens.
//!
//! ```text
//! source    rsync ◀─ stdin and stdout ─▶ psync-agent tunnel ◀─ socket ─▶ Run ─▶ link
//! receiver  link ─▶ Run ◀─ stdin and stdout ─▶ rsync --server
//! ```

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use rustix::fs::{FileType, Mode, OFlags, fstat, openat};
use serde_bytes::ByteBuf;

use crate::link::proxy::{self, Proxy};
use crate::link::relay;
use crate::model::{Generation, Hash, Name};
use crate::protocol::Tunnel;
use crate::pulse;
use crate::replica::reading::Reading;
use crate::replica::real::holes;
use crate::sys::confine::{Reach, confined};
use crate::sys::inherit::inherit;
use crate::transfer::INITIAL_CREDIT;

/// The most bytes in one piece.
const PIECE: u64 = 64 * 1024;
/// Lines of its words that are told.
const LINES: usize = 3;
/// A run that is over is noticed after so many bytes of reading.
const SLICE: u64 = 16 * 1024 * 1024;

/// What a run tells.
#[derive(Debug)]
pub struct Told {
    pub generation: Generation,
    /// Of this run.
    pub number: u64,
    pub what: What,
}

#[derive(Debug)]
pub enum What {
    /// For the rsync on the other side.
    Piece(Tunnel),
    Ended(Result<Contents, Failure>),
}

/// What was sent, or came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contents {
    pub size: u64,
    pub hash: Hash,
}

/// Why there is nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// rsync's exit code.
    pub code: Option<i32>,
    /// What it said, or what happened to it.
    pub text: String,
}

impl Failure {
    pub fn of(text: impl Into<String>) -> Failure {
        Failure { code: None, text: text.into() }
    }

    /// The file has changed or gone meanwhile, as rsync sees it.
    pub fn is_passing(&self) -> bool {
        matches!(self.code, Some(23 | 24))
    }
}

/// Where a run tells what happens, and under which numbers.
#[derive(Clone)]
pub struct Teller {
    pub generation: Generation,
    pub number: u64,
    pub post: Arc<dyn Fn(Told) + Send + Sync>,
}

impl Teller {
    fn tell(&self, what: What) {
        (self.post)(Told { generation: self.generation, number: self.number, what });
    }

    fn piece(&self, piece: Tunnel) {
        self.tell(What::Piece(piece));
    }
}

/// A running rsync. Dropping it ends it, and waits for that.
pub struct Run {
    pub number: u64,
    window: Arc<Window>,
    /// What goes to its stdin; `None` is the end.
    input: Option<Sender<Option<ByteBuf>>>,
    /// Closed to end it.
    call: Option<UnixStream>,
    threads: Vec<JoinHandle<()>>,
}

impl Run {
    /// The source's rsync, which sends the open file.
    pub fn client(file: OwnedFd, options: Vec<OsString>, teller: Teller) -> Result<Run, Failure> {
        let (ours, theirs) = UnixStream::pair().map_err(|e| failed("socketpair", &e))?;
        let program = File::open("/proc/self/exe").map_err(|e| failed("this program", &e))?;
        let contents = File::from(file.try_clone().map_err(|e| failed("the file", &e))?);
        let mut command = rsync()?;
        let its_program = PathBuf::from(command.get_program());
        let tunnel = program.try_clone().map_err(|e| failed("this program", &e))?;
        let (theirs, program) = (OwnedFd::from(theirs), OwnedFd::from(program));
        let shell = format!("/proc/self/fd/{} --agent-mode tunnel {}", program.as_raw_fd(), theirs.as_raw_fd());
        command.args(options).arg("-e").arg(shell).arg(format!("/proc/self/fd/{}", file.as_raw_fd())).arg("psync:x");
        inherit(&mut command, vec![file, program, theirs], None);
        // The rsync on the other host answers it: whatever that says, it reads this one file, writes nothing, and runs what
        // carries its bytes.
        let (reads, runs) = ([contents.as_fd()], [tunnel.as_fd()]);
        let reach = Reach { work: None, lists: &[], reads: &reads, program: &its_program, runs: &runs };
        let started = confined(reach, || start(&mut command)).map_err(|e| failed("confine rsync", &e))?;
        let (proxy, (mut stdout, stdin)) = started?;
        // Else the socket would never end.
        drop((command, stdin));
        let input = ours.try_clone().map_err(|e| failed("the socket", &e))?;
        let mut run = Run::new(teller.number);
        let window = run.window.clone();
        // First of all who ends the process: the other threads end with it.
        run.wait_for(proxy, teller.clone(), move || hash(&contents, &window).map(Some))?;
        // Nobody reads what it says beside its errors.
        run.spawn("rsync-stdout", move || drop(io::copy(&mut stdout, &mut io::sink())))?;
        let (window, told) = (run.window.clone(), teller.clone());
        run.spawn("rsync-out", move || {
            let mut from = ours;
            if let Ok(Some(arguments)) = relay::receive_words(&mut from) {
                told.piece(Tunnel::Arguments(arguments.into_iter().map(ByteBuf::from).collect()));
                carry(from, &window, &told);
            }
        })?;
        run.feed(SocketEnd(input), teller)?;
        Ok(run)
    }

    /// The receiver's rsync, which makes the file of this name in an empty directory.
    pub fn server(
        directory: OwnedFd,
        name: &Name,
        basis: Option<OwnedFd>,
        arguments: Vec<OsString>,
        teller: Teller,
    ) -> Result<Run, Failure> {
        let mut command = rsync()?;
        command.args(arguments);
        let made = directory.try_clone().map_err(|e| failed("the directory", &e))?;
        let program = PathBuf::from(command.get_program());
        let old = basis.as_ref().and_then(|basis| old_contents(basis, name));
        let above = basis.as_ref().map(|basis| basis.try_clone()).transpose().map_err(|e| failed("the basis", &e))?;
        inherit(&mut command, basis.into_iter().collect(), Some(directory));
        // What it is told comes from the other host. It makes the file, reads the old contents, and reaches nothing else.
        // Where the kernel has no Landlock the list of arguments must do.
        let (lists, reads): (Vec<_>, Vec<_>) =
            (above.iter().map(AsFd::as_fd).collect(), old.iter().map(AsFd::as_fd).collect());
        let reach = Reach { work: Some(made.as_fd()), lists: &lists, reads: &reads, program: &program, runs: &[] };
        let started = confined(reach, || start(&mut command)).map_err(|e| failed("confine rsync", &e))?;
        let (proxy, (stdout, stdin)) = started?;
        let mut run = Run::new(teller.number);
        let (window, name) = (run.window.clone(), name.clone());
        run.wait_for(proxy, teller.clone(), move || {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            match openat(&made, name.as_bytes(), flags, Mode::empty()) {
                Ok(file) => hash(&File::from(file), &window).map(Some),
                Err(rustix::io::Errno::NOENT) => Ok(None),
                Err(error) => Err(error.into()),
            }
        })?;
        let (window, told) = (run.window.clone(), teller.clone());
        run.spawn("rsync-out", move || carry(stdout, &window, &told))?;
        run.feed(stdin, teller)?;
        Ok(run)
    }

    fn new(number: u64) -> Run {
        Run { number, window: Arc::default(), input: None, call: None, threads: Vec::new() }
    }

    fn spawn(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
        let thread = thread::Builder::new().name(name.into()).spawn(work).map_err(|e| failed("start a thread", &e))?;
        self.threads.push(thread);
        Ok(())
    }

    /// Writes what comes for it.
    fn feed(&mut self, mut to: impl Write + Send + 'static, teller: Teller) -> Result<(), Failure> {
        let (input, pieces): (_, Receiver<Option<ByteBuf>>) = channel();
        self.input = Some(input);
        self.spawn("rsync-in", move || {
            while let Ok(Some(bytes)) = pieces.recv() {
                if to.write_all(&bytes).and_then(|()| to.flush()).is_err() {
                    // It has ended; whoever waits for that will tell.
                    return;
                }
                teller.piece(Tunnel::Taken(bytes.len() as u64));
            }
        })
    }

    /// Waits for its end, or ends it when it is called back. `contents` reads what was sent or has come.
    fn wait_for(
        &mut self,
        mut proxy: Proxy,
        teller: Teller,
        contents: impl FnOnce() -> io::Result<Option<Contents>> + Send + 'static,
    ) -> Result<(), Failure> {
        let (call, heard) = UnixStream::pair().map_err(|e| failed("socketpair", &e))?;
        self.call = Some(call);
        self.spawn("rsync", move || {
            if !proxy.ends_before(heard.as_fd()) {
                return proxy.kill();
            }
            let status = proxy.end(std::time::Duration::ZERO);
            let ended = match status {
                Ok(status) if status.success() => match contents() {
                    Ok(Some(contents)) => Ok(contents),
                    Ok(None) => Err(Failure::of("rsync made no file")),
                    Err(error) => Err(failed("read what rsync sent", &error)),
                },
                Ok(status) => Err(told(status, proxy.said())),
                Err(error) => Err(Failure::of(error.to_string())),
            };
            teller.tell(What::Ended(ended));
        })
    }

    /// What the rsync on the other side says to this one.
    pub fn hear(&self, piece: Tunnel) {
        let Some(input) = &self.input else { return };
        match piece {
            Tunnel::Bytes(bytes) => drop(input.send(Some(bytes))),
            Tunnel::End => drop(input.send(None)),
            Tunnel::Taken(bytes) => self.window.widen(bytes),
            Tunnel::Arguments(_) => {}
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.window.close();
        drop(self.call.take());
        drop(self.input.take());
        // The process is killed, so no pipe can hold them.
        for thread in self.threads.drain(..) {
            pulse::lean(|| drop(thread.join()));
        }
    }
}

/// The file of this name in the directory, if it is a plain one: what rsync may read there.
fn old_contents(directory: &OwnedFd, name: &Name) -> Option<OwnedFd> {
    let file =
        openat(directory, name.as_bytes(), OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let plain = fstat(&file).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_file());
    plain.then_some(file)
}

/// rsync without a word of this process's environment: there are variables that change what it does.
fn rsync() -> Result<Command, Failure> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/local/bin:/usr/bin:/bin"));
    let program = program(&path).ok_or_else(|| {
        let path = path.to_string_lossy();
        Failure::of(format!(
            "rsync is not installed (nothing of that name in {path}): install it on both hosts, or set transfer = \"stream\""
        ))
    })?;
    let mut command = Command::new(program);
    // The arguments of its partner must come as words, where they are checked.
    command.env_clear().env("PATH", path).env("RSYNC_PROTECT_ARGS", "0");
    Ok(command)
}

fn program(path: &OsStr) -> Option<PathBuf> {
    let runs = |file: &PathBuf| file.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    let dirs = path.as_bytes().split(|byte| *byte == b':').filter(|dir| dir.starts_with(b"/"));
    dirs.map(|dir| Path::new(OsStr::from_bytes(dir)).join("rsync")).find(runs)
}

fn start(command: &mut Command) -> Result<proxy::Started, Failure> {
    proxy::start(command, drop).map_err(|error| Failure::of(error.to_string()))
}

fn failed(what: &str, error: &io::Error) -> Failure {
    Failure::of(format!("{what}: {error}"))
}

/// rsync's words, the last few lines of them, or what ended it.
fn told(status: ExitStatus, said: Vec<String>) -> Failure {
    let said = VecDeque::from(said);
    let first = said.len().saturating_sub(LINES);
    let words: Vec<String> = said.into_iter().skip(first).collect();
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with code {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    };
    let text = if words.is_empty() { format!("rsync {how}") } else { format!("rsync {how}: {}", words.join("; ")) };
    Failure { code: status.code(), text }
}

/// Passes on what it says, as much as the other side takes, until it ends.
fn carry(mut from: impl Read, window: &Window, teller: &Teller) {
    loop {
        let Some(room) = window.room() else { return };
        let mut bytes = vec![0; room.min(PIECE) as usize];
        match from.read(&mut bytes) {
            Ok(0) => return teller.piece(Tunnel::End),
            Ok(count) => {
                bytes.truncate(count);
                window.narrow(count as u64);
                teller.piece(Tunnel::Bytes(ByteBuf::from(bytes)));
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return teller.piece(Tunnel::End),
        }
    }
}

/// Reads a file to its end, unless the run is over.
fn hash(file: &File, window: &Window) -> io::Result<Contents> {
    let size = file.metadata()?.len();
    let mut reading = Reading::new(size);
    loop {
        if window.is_closed() {
            return Err(ErrorKind::Interrupted.into());
        }
        let next_data = |offset, size| holes::next_data(file, offset, size);
        let read_at = |offset, bytes: &mut [u8]| match file.read_exact_at(bytes, offset) {
            Ok(()) => Ok(bytes.len()),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(0),
            Err(error) => Err(error),
        };
        if let Some(hash) = reading.go_on_with(next_data, read_at, SLICE, &mut |_, _| Ok(()))? {
            return Ok(Contents { size, hash });
        }
    }
}

/// The writing end of a socket: the process sees the end of its stdin when this is dropped.
struct SocketEnd(UnixStream);

impl Write for SocketEnd {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for SocketEnd {
    fn drop(&mut self) {
        drop(self.0.shutdown(Shutdown::Write));
    }
}

/// How much may be sent.
struct Window {
    /// `None`: closed.
    room: Mutex<Option<u64>>,
    changed: Condvar,
}

impl Default for Window {
    fn default() -> Window {
        Window { room: Mutex::new(Some(INITIAL_CREDIT)), changed: Condvar::new() }
    }
}

impl Window {
    /// Waits until something may be sent. `None`: nothing will be.
    fn room(&self) -> Option<u64> {
        let mut room = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        while *room == Some(0) {
            room = self.changed.wait(room).unwrap_or_else(PoisonError::into_inner);
        }
        *room
    }

    fn change(&self, change: impl FnOnce(u64) -> Option<u64>) {
        let mut room = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        *room = room.and_then(change);
        self.changed.notify_all();
    }

    fn narrow(&self, bytes: u64) {
        self.change(|room| Some(room.saturating_sub(bytes)));
    }

    fn widen(&self, bytes: u64) {
        self.change(|room| Some(room.saturating_add(bytes)));
    }

    fn close(&self) {
        self.change(|_| None);
    }

    fn is_closed(&self) -> bool {
        self.room.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }
}
