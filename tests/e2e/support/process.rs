//! Processes by what /proc says of them.

use std::fs;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::poll;

/// The state letter and the parent of a process; `None` if there is no such process.
fn stat(pid: i32) -> Option<(char, i32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.get(text.rfind(')')? + 2..)?.split(' ');
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

/// The living children of a process.
pub fn children(parent: i32) -> Vec<i32> {
    let all = fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    all.filter(|pid| matches!(stat(*pid), Some((state, p)) if p == parent && state != 'Z')).collect()
}

/// Whether a process still runs (a zombie does not).
pub fn alive(pid: i32) -> bool {
    stat(pid).is_some_and(|(state, _)| state != 'Z' && state != 'X')
}

pub fn send(pid: i32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid), signal);
}

/// Kills the processes and waits until they are gone.
pub fn kill_and_wait(pids: &[i32]) {
    pids.iter().for_each(|pid| send(*pid, Signal::SIGKILL));
    assert!(poll(Duration::from_secs(20), || !pids.iter().any(|p| alive(*p))), "{pids:?} survive SIGKILL");
}

/// Resident memory of a process in KiB, without the pages it shares with files.
pub fn memory_kib(pid: i32) -> (u64, u64) {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find(|l| l.starts_with(name));
        line.and_then(|l| l.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
    };
    (field("VmRSS:"), field("RssAnon:"))
}

pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}
