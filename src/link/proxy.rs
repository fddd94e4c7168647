//! The process whose stdin and stdout reach an agent: a proxy command, or psync itself.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use crate::model::readable;

use super::LinkError;

/// How a process is ended that does not end by itself.
const TERM: Duration = Duration::from_secs(2);
/// How long its last words are waited for, once it has ended.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// The longest line of a process's words that is logged as one.
const LINE: u64 = 4096;
/// So many of its last lines are kept: ssh's longest warning.
const KEPT: usize = 20;

/// A running process in a process group of its own, so that the terminal's interrupt reaches only the brain.
/// Dropping it ends it, kindly and then by force, with whatever else is in its group.
pub struct Proxy {
    child: Child,
    pidfd: OwnedFd,
    group: Pid,
    said: Arc<Mutex<VecDeque<String>>>,
    silent: Receiver<()>,
    ended: Option<ExitStatus>,
}

/// A process, and the pipes from its stdout and to its stdin.
pub type Started = (Proxy, (ChildStdout, ChildStdin));

/// Runs `command` by `/bin/sh -c`. Each line that it says on stderr goes to `log`.
pub fn spawn(command: &str, log: impl FnMut(String) + Send + 'static) -> Result<Started, LinkError> {
    start(Command::new("/bin/sh").args(["-c", command]), log)
}

/// Runs a program itself, without a shell: an agent on the same host.
pub fn spawn_self(args: &[OsString], log: impl FnMut(String) + Send + 'static) -> Result<Started, LinkError> {
    let program = std::env::current_exe().map_err(|e| LinkError::Proxy(format!("this program: {e}")))?;
    let mut command = Command::new(&program);
    // Other names are links to the executable: the child goes by the name that this process was called by.
    command.arg0(std::env::args_os().next().unwrap_or_else(|| program.into_os_string()));
    start(command.args(args), log)
}

/// Runs a command that is not a line of the link's own.
pub fn start(command: &mut Command, log: impl FnMut(String) + Send + 'static) -> Result<Started, LinkError> {
    let name = command.get_program().to_string_lossy().into_owned();
    let failed = |error: io::Error| LinkError::Proxy(format!("{name}: {error}"));
    // What systemd wants to hear, it wants to hear from this process.
    for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
        command.env_remove(name);
    }
    command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let handle = i32::try_from(child.id()).ok().and_then(Pid::from_raw).map(|group| {
        let pidfd = pidfd_open(group, PidfdFlags::empty());
        pidfd.map(|pidfd| (group, pidfd))
    });
    let (Some(Ok((group, pidfd))), (Some(stdin), Some(stdout), Some(stderr))) = (handle, pipes) else {
        _ = child.kill();
        _ = child.wait();
        return Err(LinkError::Proxy(format!("{name}: no descriptor of the process (pidfd_open)")));
    };
    let said = Arc::new(Mutex::new(VecDeque::new()));
    let (done, silent) = sync_channel(1);
    let words = said.clone();
    // From here on the process ends with this value.
    let proxy = Proxy { child, pidfd, group, said, silent, ended: None };
    let listen = move || {
        listen(stderr, &words, log);
        _ = done.try_send(());
    };
    thread::Builder::new().name("proxy-stderr".into()).spawn(listen).map_err(failed)?;
    Ok((proxy, (stdout, stdin)))
}

/// Logs line by line until the pipe ends; a longer line comes in pieces.
fn listen(stderr: impl Read, said: &Mutex<VecDeque<String>>, mut log: impl FnMut(String)) {
    let mut stderr = BufReader::new(stderr);
    let mut line = Vec::new();
    loop {
        line.clear();
        match stderr.by_ref().take(LINE).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = readable(line.trim_ascii_end());
        if text.is_empty() {
            continue;
        }
        let mut kept = said.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(text.clone());
        drop(kept);
        log(text);
    }
}

impl Proxy {
    /// The process's number, which is also its group's.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The last lines that it said on stderr.
    pub fn said(&self) -> Vec<String> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Waits until the process has ended, or the other end of `call` is closed. Whether it has ended.
    pub fn ends_before(&self, call: BorrowedFd<'_>) -> bool {
        loop {
            let mut either = [PollFd::new(&self.pidfd, PollFlags::IN), PollFd::from_borrowed_fd(call, PollFlags::IN)];
            match poll(&mut either, None) {
                Err(rustix::io::Errno::INTR) => {}
                answer => return answer.is_ok() && !either[0].revents().is_empty(),
            }
        }
    }

    /// Ends it at once, by force.
    pub fn kill(&mut self) {
        if self.ended.is_none() {
            _ = kill_process_group(self.group, Signal::KILL);
            self.ended = self.child.wait().ok();
        }
    }

    /// Waits so long for the process to end by itself (which most do when their stdin ends), then ends it.
    /// When this returns, its words have been logged, and [`Proxy::said`] has them.
    pub fn end(&mut self, patience: Duration) -> Result<ExitStatus, LinkError> {
        self.finish(patience)
    }

    fn finish(&mut self, patience: Duration) -> Result<ExitStatus, LinkError> {
        if let Some(status) = self.ended {
            return Ok(status);
        }
        if !self.has_ended(patience) {
            _ = kill_process_group(self.group, Signal::TERM);
            self.has_ended(TERM);
        }
        // Not reaped yet, so the group's number is still its own.
        _ = kill_process_group(self.group, Signal::KILL);
        let status = self.child.wait().map_err(LinkError::io("wait for the proxy command"))?;
        self.ended = Some(status);
        // Somebody else may hold its stderr open (ssh's ControlPersist), so this is no join.
        _ = self.silent.recv_timeout(LAST_WORDS);
        Ok(status)
    }

    /// Waits at most so long for the end of the process; leaves it a zombie.
    fn has_ended(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let time = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
            match poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], Some(&time)) {
                Err(rustix::io::Errno::INTR) => {}
                answer => return answer.is_ok_and(|ready| ready > 0),
            }
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        _ = self.finish(Duration::ZERO);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::process::ExitStatusExt;

    const LONG: Duration = Duration::from_secs(30);

    fn logged(command: &str) -> (Started, Receiver<String>) {
        let (say, said) = sync_channel(100);
        (spawn(command, move |line| _ = say.try_send(line)).unwrap(), said)
    }

    #[test]
    fn a_process_echoes_and_ends_with_its_stdin() {
        let ((mut proxy, (mut stdout, mut stdin)), _) = logged("exec cat");
        stdin.write_all(b"hello").unwrap();
        drop(stdin);
        let mut back = String::new();
        stdout.read_to_string(&mut back).unwrap();
        assert_eq!(back, "hello");
        assert!(proxy.end(LONG).unwrap().success());
    }

    #[test]
    fn its_words_and_status_are_told() {
        let ((mut proxy, _), said) = logged("printf 'one\\n\\ntwo \\377\\nthree' >&2; exit 7");
        let start = Instant::now();
        while proxy.said().last().is_none_or(|line| line != "three") {
            assert!(start.elapsed() < LONG);
            thread::yield_now();
        }
        assert_eq!(proxy.end(LONG).unwrap().code(), Some(7));
        assert_eq!(said.iter().collect::<Vec<_>>(), ["one", r"two \xff", "three"]);
        assert!(super::start(&mut Command::new("/no/such/program"), drop).is_err());
    }

    #[test]
    fn a_stubborn_process_is_killed_with_its_children() {
        let ((mut proxy, (mut stdout, _stdin)), _) =
            logged("trap '' TERM; sleep 1000 & echo ready; while :; do wait; sleep 1000; done");
        stdout.read_exact(&mut [0; 6]).unwrap();
        let start = Instant::now();
        assert_eq!(proxy.end(Duration::ZERO).unwrap().signal(), Some(9));
        assert!(start.elapsed() < LONG);
        // The pipe ends only when the sleeping grandchildren are gone as well.
        assert_eq!(stdout.read_to_end(&mut Vec::new()).unwrap(), 0);
    }

    #[test]
    fn a_dropped_process_is_ended_and_reaped_and_has_a_group_of_its_own() {
        let ((proxy, (mut stdout, _stdin)), _) = logged("echo ready; exec sleep 1000");
        stdout.read_exact(&mut [0; 6]).unwrap();
        let id = Pid::from_raw(proxy.id() as i32).unwrap();
        assert_eq!(rustix::process::getpgid(Some(id)).unwrap(), id);
        drop(proxy);
        assert_eq!(rustix::process::test_kill_process(id), Err(rustix::io::Errno::SRCH));
    }
}
