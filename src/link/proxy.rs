//! The process whose stdin and stdout reach an agent: a proxy command, or psync itself.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use crate::model::readable;

use super::LinkError;

/// What the words of a proxy command stand for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Values {
    /// `%h`
    pub host: String,
    /// `%u`; without one, `%u@` stands for nothing.
    pub user: Option<String>,
    /// `%p`; 22 if there is none.
    pub port: Option<u16>,
    /// `%i`
    pub pair: String,
    /// `%o`, several words.
    pub ssh_options: Vec<String>,
}

/// The shell command that a template stands for; `%%` is a percent sign. Every value is one word for the shell.
///
/// # Errors
/// An unknown `%x`; a host, user or pair that a command would take for an option.
pub fn expand(template: &str, values: &Values) -> Result<String, LinkError> {
    let mut command = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('%') {
        command.push_str(before);
        let mut letters = after.chars();
        let letter = letters.next();
        rest = letters.as_str();
        match (letter, &values.user) {
            (Some('%'), _) => command.push('%'),
            (Some('h'), _) => command.push_str(&word("host", &values.host)?),
            (Some('i'), _) => command.push_str(&word("pair", &values.pair)?),
            (Some('p'), _) => command.push_str(&values.port.unwrap_or(22).to_string()),
            (Some('u'), Some(user)) => command.push_str(&word("user", user)?),
            (Some('u'), None) => rest = rest.strip_prefix('@').unwrap_or(rest),
            (Some('o'), _) => {
                let words = values.ssh_options.iter().map(|option| quote(option));
                command.push_str(&words.collect::<Vec<_>>().join(" "));
            }
            (letter, _) => {
                let unknown: String = letter.into_iter().collect();
                let known = "%h (host), %u (user), %p (port), %i (pair), %o (ssh options) and %% are known";
                return Err(LinkError::Proxy(format!("'%{unknown}' in '{template}': {known}")));
            }
        }
    }
    command.push_str(rest);
    if command.contains('\0') {
        return Err(LinkError::Proxy("it holds a NUL".into()));
    }
    Ok(command)
}

/// A value as one word that no command takes for an option.
fn word(what: &str, value: &str) -> Result<String, LinkError> {
    match value.bytes().next() {
        None => Err(LinkError::Proxy(format!("the {what} is empty"))),
        Some(b'-') => Err(LinkError::Proxy(format!("the {what} '{value}' begins with a dash"))),
        Some(_) => Ok(quote(value)),
    }
}

/// One word for the shell.
fn quote(value: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-./:@%+=,".contains(&b);
    if !value.is_empty() && value.bytes().all(plain) {
        return value.into();
    }
    format!("'{}'", value.replace('\'', r"'\''"))
}

/// How a process is ended that does not end by itself.
const TERM: Duration = Duration::from_secs(2);
/// How long its last words are waited for, once it has ended.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// The longest line of a process's words that is logged as one.
const LINE: u64 = 4096;

/// A running process in a process group of its own, so that the terminal's interrupt reaches only the brain.
/// Dropping it ends it, kindly and then by force, with whatever else is in its group.
pub struct Proxy {
    child: Child,
    pidfd: OwnedFd,
    group: Pid,
    last_words: Arc<Mutex<String>>,
    silent: Receiver<()>,
    ended: bool,
}

/// A process, and the pipes from its stdout and to its stdin.
pub type Started = (Proxy, (ChildStdout, ChildStdin));

/// Runs `command` by `/bin/sh -c`. Each line that it says on stderr goes to `log`.
pub fn spawn(command: &str, log: impl FnMut(String) + Send + 'static) -> Result<Started, LinkError> {
    start(Command::new("/bin/sh").args(["-c", command]), log)
}

/// Runs a program itself, without a shell: an agent on the same host.
pub fn spawn_self(
    program: &Path,
    args: &[OsString],
    log: impl FnMut(String) + Send + 'static,
) -> Result<Started, LinkError> {
    start(Command::new(program).args(args), log)
}

fn start(command: &mut Command, log: impl FnMut(String) + Send + 'static) -> Result<Started, LinkError> {
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
    let last_words = Arc::new(Mutex::new(String::new()));
    let (done, silent) = sync_channel(1);
    let words = last_words.clone();
    // From here on the process ends with this value.
    let proxy = Proxy { child, pidfd, group, last_words, silent, ended: false };
    let listen = move || {
        listen(stderr, &words, log);
        _ = done.try_send(());
    };
    thread::Builder::new().name("proxy-stderr".into()).spawn(listen).map_err(failed)?;
    Ok((proxy, (stdout, stdin)))
}

/// Logs line by line until the pipe ends; a longer line comes in pieces.
fn listen(stderr: impl Read, last_words: &Mutex<String>, mut log: impl FnMut(String)) {
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
        last_words.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&text);
        log(text);
    }
}

impl Proxy {
    /// The process's number, which is also its group's.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The last line that it said on stderr; empty if it said nothing.
    pub fn last_words(&self) -> String {
        self.last_words.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits so long for the process to end by itself (which most do when their stdin ends), then ends it.
    /// When this returns, its words have been logged.
    pub fn end(mut self, patience: Duration) -> Result<ExitStatus, LinkError> {
        self.finish(patience)
    }

    fn finish(&mut self, patience: Duration) -> Result<ExitStatus, LinkError> {
        self.ended = true;
        if !self.has_ended(patience) {
            _ = kill_process_group(self.group, Signal::TERM);
            self.has_ended(TERM);
        }
        // Not reaped yet, so the group's number is still its own.
        _ = kill_process_group(self.group, Signal::KILL);
        let status = self.child.wait().map_err(LinkError::io("wait for the proxy command"))?;
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
        if !self.ended {
            _ = self.finish(Duration::ZERO);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::process::ExitStatusExt;

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn templates_become_commands() {
        let values = Values {
            host: "files.example.org".into(),
            user: Some("psync".into()),
            port: Some(2222),
            pair: "web".into(),
            ssh_options: vec!["-o".into(), "ProxyCommand=nc %h 22; x".into(), "-4".into()],
        };
        let nobody = Values { user: None, port: None, ssh_options: vec![], ..values.clone() };
        let odd = Values { host: "a b'c".into(), ..values.clone() };
        let option = Values { host: "-oProxyCommand=x".into(), ..values.clone() };
        let cases = [
            (
                "ssh -T %o %u@%h psync-agent connect %i",
                &values,
                Ok("ssh -T -o 'ProxyCommand=nc %h 22; x' -4 psync@files.example.org psync-agent connect web"),
            ),
            ("ssh -T %o %u@%h agent %i", &nobody, Ok("ssh -T  files.example.org agent web")),
            ("nc %h %p # 100%%", &values, Ok("nc files.example.org 2222 # 100%")),
            ("nc %h %p", &nobody, Ok("nc files.example.org 22")),
            ("ssh %h", &odd, Ok(r"ssh 'a b'\''c'")),
            ("ssh %h", &option, Err("begins with a dash")),
            ("ssh %x", &values, Err("'%x' in 'ssh %x'")),
            ("ssh %\u{e9}", &values, Err("'%\u{e9}'")),
            ("ssh 100%", &values, Err("'%' in")),
            ("true", &values, Ok("true")),
        ];
        for (template, values, expected) in cases {
            match (expand(template, values), expected) {
                (Ok(command), Ok(expected)) => assert_eq!(command, expected),
                (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{error}"),
                (got, _) => panic!("{template}: {got:?}"),
            }
        }
    }

    fn logged(command: &str) -> (Started, Receiver<String>) {
        let (say, said) = sync_channel(100);
        (spawn(command, move |line| _ = say.try_send(line)).unwrap(), said)
    }

    #[test]
    fn a_process_echoes_and_ends_with_its_stdin() {
        let ((proxy, (mut stdout, mut stdin)), _) = logged("exec cat");
        stdin.write_all(b"hello").unwrap();
        drop(stdin);
        let mut back = String::new();
        stdout.read_to_string(&mut back).unwrap();
        assert_eq!(back, "hello");
        assert!(proxy.end(LONG).unwrap().success());
    }

    #[test]
    fn its_words_and_status_are_told() {
        let ((proxy, _), said) = logged("printf 'one\\n\\ntwo \\377\\nthree' >&2; exit 7");
        let start = Instant::now();
        while proxy.last_words() != "three" {
            assert!(start.elapsed() < LONG);
            thread::yield_now();
        }
        assert_eq!(proxy.end(LONG).unwrap().code(), Some(7));
        assert_eq!(said.iter().collect::<Vec<_>>(), ["one", r"two \xff", "three"]);
        assert!(spawn_self(Path::new("/no/such/program"), &[], drop).is_err());
    }

    #[test]
    fn a_stubborn_process_is_killed_with_its_children() {
        let ((proxy, (mut stdout, _stdin)), _) =
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
