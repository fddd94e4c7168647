//! Threads that are stopped on purpose.

use nix::sys::ptrace::{self, Options};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// The thread of a process that has this name.
pub fn thread_of(process: i32, name: &str) -> Pid {
    let named = |tid: &i32| {
        let comm = std::fs::read_to_string(format!("/proc/{process}/task/{tid}/comm")).unwrap_or_default();
        comm.trim_end() == name
    };
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).unwrap().flatten();
    let mut ids = tasks.filter_map(|task| task.file_name().to_str()?.parse::<i32>().ok());
    Pid::from_raw(ids.find(named).unwrap_or_else(|| panic!("no thread {name} in {process}")))
}

/// A thread that stands still while this lives. Only the thread that made it may end it.
pub struct Stopped(Pid);

impl Stopped {
    pub fn stop(thread: Pid) -> Stopped {
        ptrace::seize(thread, Options::empty()).unwrap();
        ptrace::interrupt(thread).unwrap();
        waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
        Stopped(thread)
    }

    /// Whether it was killed. Its process does not end before this was asked.
    pub fn is_gone(&self) -> bool {
        let flags = Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG);
        !matches!(waitpid(self.0, flags), Ok(WaitStatus::StillAlive))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = ptrace::detach(self.0, None);
    }
}
