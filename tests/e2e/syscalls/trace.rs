//! A tracer that counts the calls of one side that change something, and kills it as it enters the n-th.
//!
//! strace counts for each thread and each call by itself, so that it cannot stop at "the n-th of all"; hence this.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::support::{NAME, PSYNC, Pair, debug, process, tools};

/// Which side is killed: the brain's process, which holds the left endpoint, or the agent's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Victim {
    Left,
    Right,
}

pub struct Traced {
    /// The victim's calls that change something, in order, up to the one that it did not live to make.
    pub calls: Vec<&'static str>,
    /// The exit code of psync; `None` if a signal ended it.
    pub code: Option<i32>,
}

/// How to tell whether a call changes a file.
#[derive(Clone, Copy)]
enum Counts {
    Always,
    /// If its first argument is a descriptor of a file.
    OnFile,
    /// If the flags in this argument create or truncate.
    Creates(usize),
    /// The same, the flags being the first field of what this argument points at.
    CreatesBy(usize),
}

const CALLS: &[(libc::c_long, &str, Counts)] = &[
    (libc::SYS_renameat2, "renameat2", Counts::Always),
    (libc::SYS_renameat, "renameat", Counts::Always),
    (libc::SYS_unlinkat, "unlinkat", Counts::Always),
    (libc::SYS_mkdirat, "mkdirat", Counts::Always),
    (libc::SYS_symlinkat, "symlinkat", Counts::Always),
    (libc::SYS_linkat, "linkat", Counts::Always),
    (libc::SYS_openat, "openat", Counts::Creates(2)),
    (libc::SYS_openat2, "openat2", Counts::CreatesBy(2)),
    (libc::SYS_write, "write", Counts::OnFile),
    (libc::SYS_writev, "writev", Counts::OnFile),
    (libc::SYS_pwrite64, "pwrite64", Counts::OnFile),
    (libc::SYS_ftruncate, "ftruncate", Counts::Always),
    (libc::SYS_fallocate, "fallocate", Counts::Always),
    (libc::SYS_copy_file_range, "copy_file_range", Counts::Always),
    (libc::SYS_fsync, "fsync", Counts::Always),
    (libc::SYS_fdatasync, "fdatasync", Counts::Always),
    (libc::SYS_syncfs, "syncfs", Counts::Always),
    (libc::SYS_fchmod, "fchmod", Counts::Always),
    (libc::SYS_fchmodat, "fchmodat", Counts::Always),
    (libc::SYS_fchown, "fchown", Counts::Always),
    (libc::SYS_fchownat, "fchownat", Counts::Always),
    (libc::SYS_utimensat, "utimensat", Counts::Always),
    (libc::SYS_setxattr, "setxattr", Counts::Always),
    (libc::SYS_lsetxattr, "lsetxattr", Counts::Always),
    (libc::SYS_fsetxattr, "fsetxattr", Counts::Always),
    (libc::SYS_fremovexattr, "fremovexattr", Counts::Always),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_rename, "rename", Counts::Always),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_unlink, "unlink", Counts::Always),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_rmdir, "rmdir", Counts::Always),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mkdir, "mkdir", Counts::Always),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_symlink, "symlink", Counts::Always),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open, "open", Counts::Creates(1)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_chmod, "chmod", Counts::Always),
];

/// After the agent alone was killed: how long psync may go on by itself.
const ALONE: Duration = Duration::from_secs(20);

/// Whether this machine lets a process trace its child.
pub fn allowed() -> bool {
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    let pid = Pid::from_raw(child.id() as i32);
    let allowed = ptrace::seize(pid, Options::empty()).is_ok();
    let _ = child.kill();
    let _ = child.wait();
    if !allowed {
        tools::missing("the right to trace (ptrace)");
    }
    allowed
}

/// Runs `psync -s` on the pair's roots; its stderr goes to the file `stderr` beside them.
pub fn trace(pair: &Pair, victim: Victim, kill_at: Option<usize>) -> Traced {
    // The kernel ties a tracee to the thread that traces it, and the tests' other children must not be reaped here.
    std::thread::scope(|scope| scope.spawn(|| Tracer::run(pair, victim, kill_at)).join().unwrap())
}

struct Tracer {
    brain: Pid,
    victim: Victim,
    kill_at: Option<usize>,
    calls: Vec<&'static str>,
    /// The process of each thread.
    processes: HashMap<Pid, i32>,
}

impl Tracer {
    #[expect(clippy::zombie_processes, reason = "the tracer waits for all of them")]
    fn run(pair: &Pair, victim: Victim, kill_at: Option<usize>) -> Traced {
        // The shell waits for a line, so that it can be seized before psync starts.
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "read line; exec \"$@\" </dev/null",
            "sh",
            PSYNC,
            "--pair",
            NAME,
            "-d",
            &debug(),
            "-s",
            "--log",
        ]);
        command.arg(&pair.log);
        command.args(pair.sides()).stdin(Stdio::piped()).stdout(Stdio::null());
        command.stderr(fs::File::create(pair.beside("stderr")).unwrap());
        let mut child = command.spawn().unwrap();
        let brain = Pid::from_raw(child.id() as i32);
        let options = Options::PTRACE_O_TRACESYSGOOD
            | Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_TRACEFORK
            | Options::PTRACE_O_TRACEVFORK
            | Options::PTRACE_O_TRACEEXEC
            | Options::PTRACE_O_EXITKILL;
        ptrace::seize(brain, options).unwrap();
        ptrace::interrupt(brain).unwrap();
        child.stdin.take().unwrap().write_all(b"\n").unwrap();
        let mut tracer = Tracer { brain, victim, kill_at, calls: Vec::new(), processes: HashMap::new() };
        let done = AtomicBool::new(false);
        let code = std::thread::scope(|scope| {
            scope.spawn(|| watch(brain.as_raw(), &done));
            let code = tracer.follow();
            done.store(true, Ordering::Relaxed);
            code
        });
        Traced { calls: tracer.calls, code }
    }

    /// Lets all processes run from stop to stop until the last is gone.
    fn follow(&mut self) -> Option<i32> {
        let mut code = None;
        loop {
            let (pid, signal) = match waitpid(None, Some(WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD)) {
                Err(Errno::ECHILD) => return code,
                Err(Errno::EINTR) => continue,
                Err(error) => panic!("waitpid: {error}"),
                Ok(WaitStatus::Exited(pid, status)) => {
                    if pid == self.brain {
                        code = Some(status);
                    }
                    continue;
                }
                Ok(WaitStatus::PtraceSyscall(pid)) => {
                    self.stopped_at_call(pid);
                    (pid, None)
                }
                Ok(WaitStatus::Stopped(pid, signal)) => (pid, Some(signal)),
                Ok(WaitStatus::PtraceEvent(pid, _, _)) => (pid, None),
                Ok(_) => continue,
            };
            // It may have been killed meanwhile.
            let _ = ptrace::syscall(pid, signal);
        }
    }

    fn stopped_at_call(&mut self, thread: Pid) {
        const ENTRY: u8 = 1;
        if !ptrace::syscall_info(thread).is_ok_and(|info| info.op == ENTRY) {
            return;
        }
        let process = *self.processes.entry(thread).or_insert_with(|| process_of(thread));
        let of_left = process == self.brain.as_raw();
        if of_left != (self.victim == Victim::Left) {
            return;
        }
        let Some(name) = changing(thread, process) else { return };
        if self.kill_at.is_some_and(|n| self.calls.len() >= n) {
            return;
        }
        self.calls.push(name);
        if self.kill_at == Some(self.calls.len()) {
            process::send(process, Signal::SIGKILL);
            // Mostly both die at once. Now and then the brain is left alone, to see what it does about it.
            if !of_left && !self.calls.len().is_multiple_of(10) {
                process::send(self.brain.as_raw(), Signal::SIGKILL);
            }
        }
    }
}

/// Kills psync if it does not end in time.
fn watch(brain: i32, done: &AtomicBool) {
    let start = Instant::now();
    while !done.load(Ordering::Relaxed) {
        if start.elapsed() > ALONE {
            process::children(brain).iter().for_each(|p| process::send(*p, Signal::SIGKILL));
            process::send(brain, Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn process_of(thread: Pid) -> i32 {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("Tgid:"));
    line.and_then(|l| l.trim().parse().ok()).unwrap_or(thread.as_raw())
}

/// The name of the call that the thread is entering, if it changes something.
fn changing(thread: Pid, process: i32) -> Option<&'static str> {
    // The call's number, and its arguments in hexadecimal.
    let text = fs::read_to_string(format!("/proc/{thread}/syscall")).ok()?;
    let mut words = text.split_whitespace();
    let number: libc::c_long = words.next()?.parse().ok()?;
    let arguments: Vec<u64> = words.map_while(|w| u64::from_str_radix(w.trim_start_matches("0x"), 16).ok()).collect();
    let (_, name, counts) = CALLS.iter().find(|(nr, ..)| *nr == number)?;
    let creates = |flags: u64| flags & (libc::O_CREAT | libc::O_TRUNC) as u64 != 0;
    let counts = match *counts {
        Counts::Always => true,
        Counts::OnFile => on_file(process, *arguments.first()?),
        Counts::Creates(at) => creates(*arguments.get(at)?),
        Counts::CreatesBy(at) => creates(ptrace::read(thread, *arguments.get(at)? as *mut _).ok()? as u64),
    };
    counts.then_some(*name)
}

fn on_file(process: i32, descriptor: u64) -> bool {
    let target = fs::read_link(format!("/proc/{process}/fd/{descriptor}"));
    descriptor > 2 && target.is_ok_and(|path| path.starts_with("/") && !path.starts_with("/dev"))
}
