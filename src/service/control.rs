//! The control socket: one line of JSON asks, lines of JSON answer, and then the connection ends.
//!
//! Who may ask: root, the user that the server runs as, and the group `psync-operators`; the group `psync`, which reaches the
//! agents of this host, may not. The socket's mode says so, and the server looks at each peer itself. A request is bounded in length and time, and so is an answer.

use std::ffi::CString;
use std::fs::{self, Permissions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::{Gid, Group, Uid, User};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::signals::Stop;
use crate::pulse;

/// Whose members may ask.
pub const GROUP: &str = "psync-operators";
/// The longest request, in bytes.
const REQUEST_MAX: u64 = 16 * 1024;
/// The longest answer that a client takes.
const ANSWER_MAX: u64 = 16 * 1024 * 1024;
/// How long a peer may take to say its line, and to take the answer.
const PEER_TIME: Duration = Duration::from_secs(2);
/// How long a client waits for the answer.
const ANSWER_TIME: Duration = Duration::from_secs(20);
/// However quiet it is, the server looks up so often.
const IDLE: Duration = Duration::from_secs(1);

/// With this the names of agents' sockets begin.
pub const AGENT: &str = "agent-";
/// With this those of lines.
pub const LINK: &str = "link-";

/// Where sockets lie: the first directory of `RUNTIME_DIRECTORY`, which systemd sets for a unit with one, else
/// `/run/psync`.
pub fn directory() -> PathBuf {
    let named = std::env::var("RUNTIME_DIRECTORY").unwrap_or_default();
    match named.split(':').next() {
        Some(first) if first.starts_with('/') => first.into(),
        _ => "/run/psync".into(),
    }
}

/// The socket of a pair's brain.
pub fn socket_of(pair: &str) -> PathBuf {
    directory().join(format!("{pair}.sock"))
}

/// The socket of a pair's agent.
pub fn agent_socket(pair: &str) -> PathBuf {
    directory().join(format!("{AGENT}{pair}.sock"))
}

/// The socket of a pair's line, at its brain's side.
pub fn link_socket(pair: &str) -> PathBuf {
    directory().join(format!("{LINK}{pair}.sock"))
}

/// Who asks, as the kernel knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// Root, or the user that the server runs as.
    Owner,
    /// A member of [`GROUP`].
    Operator,
}

/// A server in a thread of its own. Dropping it takes the socket away.
pub struct Server {
    path: PathBuf,
}

impl Server {
    /// Listens at `path`, in a directory that is made if it is missing, until `stop`. `answer` makes the lines that
    /// answer one; it must not block for long.
    ///
    /// # Errors
    /// `AddrInUse` if somebody answers there already; what the system says else.
    pub fn start(
        path: &Path,
        stop: &Stop,
        answer: impl Fn(&str, Caller) -> Vec<String> + Send + 'static,
    ) -> io::Result<Server> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        if UnixStream::connect(path).is_ok() {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "psync runs for this pair already"));
        }
        match fs::remove_file(path) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        let listener = UnixListener::bind(path)?;
        let server = Server { path: path.to_owned() };
        // Without the right to give it away it stays the user's own.
        let group = Group::from_name(GROUP).ok().flatten().map(|group| group.gid);
        if let Some(gid) = group {
            let _ = nix::unistd::chown(path, None, Some(gid));
        }
        fs::set_permissions(path, Permissions::from_mode(0o660))?;
        listener.set_nonblocking(true)?;
        let stop = stop.clone();
        let serve = move || {
            let _pulse = pulse::take("control");
            while !stop.is_set() {
                let time = Timespec::try_from(IDLE).ok();
                let mut fds = [PollFd::new(&listener, PollFlags::IN)];
                let _ = pulse::rest(IDLE, || poll(&mut fds, time.as_ref()));
                if let Ok((peer, _)) = listener.accept() {
                    // A peer that goes away in between has no answer.
                    let _ = pulse::rest(ANSWER_TIME, || serve_one(peer, group, &answer));
                }
            }
        };
        thread::Builder::new().name("control".into()).spawn(serve)?;
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn serve_one(peer: UnixStream, group: Option<Gid>, answer: &impl Fn(&str, Caller) -> Vec<String>) -> io::Result<()> {
    peer.set_nonblocking(false)?;
    peer.set_write_timeout(Some(PEER_TIME))?;
    // Read in any case: who closes a socket with something unread takes its own answer back.
    let line = read_line(&peer)?;
    let lines = match (line, caller(&peer, group)?) {
        (_, None) => vec![refusal("only root and members of the group psync-operators may ask")],
        (Some(line), Some(caller)) => answer(&line, caller),
        (None, _) => vec![refusal("a request is one line of at most 16 KiB")],
    };
    let mut text = lines.join("\n");
    text.push('\n');
    (&peer).write_all(text.as_bytes())?;
    peer.shutdown(Shutdown::Write)?;
    let end = Instant::now() + PEER_TIME;
    let mut rest = [0; 4096];
    while Instant::now() < end && read_by(&peer, end, &mut rest)? > 0 {}
    Ok(())
}

/// Reads something, or the end, by that time.
fn read_by(peer: &UnixStream, end: Instant, buffer: &mut [u8]) -> io::Result<usize> {
    let left = end.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    peer.set_read_timeout(Some(left))?;
    (&mut &*peer).read(buffer)
}

fn refusal(text: &str) -> String {
    serde_json::json!({ "error": text }).to_string()
}

/// Reads one line within [`PEER_TIME`], however slowly it comes; `None` if it is none.
fn read_line(peer: &UnixStream) -> io::Result<Option<String>> {
    let end = Instant::now() + PEER_TIME;
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        let mut piece = [0; 4096];
        let count = read_by(peer, end, &mut piece)?;
        line.extend_from_slice(&piece[..count]);
        if count == 0 || line.len() as u64 > REQUEST_MAX {
            return Ok(None);
        }
    }
    Ok(String::from_utf8(line).ok().map(|line| line.trim_end().to_owned()))
}

/// Looks at who is there, as the kernel knows it.
fn caller(peer: &UnixStream, group: Option<Gid>) -> io::Result<Option<Caller>> {
    let peer = rustix::net::sockopt::socket_peercred(peer.as_fd())?;
    let (uid, gid) = (Uid::from_raw(peer.uid.as_raw()), Gid::from_raw(peer.gid.as_raw()));
    if uid.is_root() || uid == nix::unistd::geteuid() {
        return Ok(Some(Caller::Owner));
    }
    let is_operator = group.is_some_and(|group| gid == group || groups_of(uid, gid).contains(&group));
    Ok(is_operator.then_some(Caller::Operator))
}

/// The groups of a user, as the system's database has them.
fn groups_of(uid: Uid, gid: Gid) -> Vec<Gid> {
    let user = User::from_uid(uid).ok().flatten();
    let name = user.and_then(|user| CString::new(user.name).ok());
    name.and_then(|name| nix::unistd::getgrouplist(&name, gid).ok()).unwrap_or_default()
}

/// Asks the server at `path`. `NotFound` or `ConnectionRefused`: nobody is there.
pub fn ask(path: &Path, request: &str) -> io::Result<Vec<String>> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(ANSWER_TIME))?;
    stream.set_write_timeout(Some(PEER_TIME))?;
    stream.write_all(format!("{request}\n").as_bytes())?;
    let lines: Vec<String> = BufReader::new(stream.take(ANSWER_MAX)).lines().collect::<io::Result<_>>()?;
    if lines.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(lines) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> (tempfile::TempDir, PathBuf, Stop, Server) {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("run/p.sock");
        let stop = Stop::new();
        let answer = |line: &str, _: Caller| vec![format!("heard {line}"), "bye".to_owned()];
        let server = Server::start(&path, &stop, answer).expect("server");
        (directory, path, stop, server)
    }

    #[test]
    fn a_line_is_answered_and_the_socket_goes_with_the_server() {
        let (_directory, path, stop, server) = server();
        assert_eq!(fs::metadata(&path).expect("socket").permissions().mode() & 0o777, 0o660);
        assert_eq!(ask(&path, "one").expect("answer"), ["heard one", "bye"]);
        assert_eq!(ask(&path, "two").expect("answer"), ["heard two", "bye"]);
        let second = Server::start(&path, &stop, |_, _| Vec::new()).map(drop).expect_err("taken");
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
        stop.set();
        drop(server);
        assert!(!path.exists() && ask(&path, "three").is_err());
    }

    #[test]
    fn a_dead_socket_is_replaced() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("p.sock");
        drop(UnixListener::bind(&path).expect("bound"));
        let stop = Stop::new();
        let _server = Server::start(&path, &stop, |line, _| vec![line.to_owned()]).expect("server");
        assert_eq!(ask(&path, "here").expect("answer"), ["here"]);
        stop.set();
    }

    #[test]
    fn a_request_has_an_end() {
        let (_directory, path, stop, _server) = server();
        let lines = ask(&path, &"x".repeat(20_000)).expect("answer");
        assert!(lines[0].contains("at most 16 KiB"), "{lines:?}");
        let mut silent = UnixStream::connect(&path).expect("connected");
        // Who says nothing keeps nobody waiting for long.
        assert_eq!(ask(&path, "next").expect("answer"), ["heard next", "bye"]);
        let mut rest = String::new();
        assert_eq!(silent.read_to_string(&mut rest).unwrap_or(0), 0);
        stop.set();
    }
}
