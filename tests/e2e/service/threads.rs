//! One thread stopped on purpose: no sign of life may be told any more.

use std::time::{Duration, Instant};

use nix::sys::ptrace::{self, Options};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use super::house::House;
use crate::support::users::*;
use crate::support::{PATIENCE, Pair, poll, process};
use crate::syscalls::trace;

/// The thread of a process that has this name.
fn thread_of(process: i32, name: &str) -> Pid {
    let named = |tid: &i32| {
        let comm = std::fs::read_to_string(format!("/proc/{process}/task/{tid}/comm")).unwrap_or_default();
        comm.trim_end() == name
    };
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).unwrap().flatten();
    let mut ids = tasks.filter_map(|task| task.file_name().to_str()?.parse::<i32>().ok());
    Pid::from_raw(ids.find(named).unwrap_or_else(|| panic!("no thread {name} in {process}")))
}

/// A thread that stands still while this lives. Only the thread that made it may end it.
struct Stopped(Pid);

impl Stopped {
    fn stop(thread: Pid) -> Stopped {
        ptrace::seize(thread, Options::empty()).unwrap();
        ptrace::interrupt(thread).unwrap();
        waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
        Stopped(thread)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = ptrace::detach(self.0, None);
    }
}

#[test]
fn no_sign_of_life_while_a_thread_stands_still() {
    if !trace::allowed() {
        return;
    }
    let mut house = House::new("");
    house.start(&[("WATCHDOG_USEC", "1000000")]);
    house.wait_in_sync();
    let signs = |house: &House| house.told().iter().filter(|told| *told == "WATCHDOG=1").count();
    for name in ["left", "psync-watch", "psync-brain", "control"] {
        let before = signs(&house);
        assert!(poll(PATIENCE, || signs(&house) > before + 2), "no signs before {name} is stopped{}", house.story());
        let stopped = Stopped::stop(thread_of(house.pid(), name));
        // It may have announced a rest of some seconds. Then there must be silence, for much longer than systemd bears.
        let silent = poll(PATIENCE, || {
            let (before, start) = (signs(&house), Instant::now());
            while start.elapsed() < Duration::from_secs(3) && signs(&house) == before {
                std::thread::sleep(Duration::from_millis(50));
            }
            signs(&house) == before
        });
        assert!(silent, "it goes on telling that it lives without {name}{}", house.story());
        assert!(poll(PATIENCE, || house.said().contains("no sign of life")), "{}", house.story());
        drop(stopped);
        let silent = signs(&house);
        assert!(poll(PATIENCE, || signs(&house) > silent), "{name} lives again, and nobody is told{}", house.story());
    }
    house.stop();
}

#[test]
fn a_run_in_the_foreground_gives_up_a_thread_that_stands_still() {
    if !trace::allowed() {
        return;
    }
    let pair = Pair::new();
    let file = pair.beside("psync.toml");
    write(&file, "etimeout = 0.5\n");
    let mut pair = pair.with(&["--config", file.to_str().unwrap()]);
    pair.run();
    let brain = pair.processes()[0];
    let stopped = Stopped::stop(thread_of(brain, "left"));
    // The process ends when its tracer has let go of the thread.
    let given_up = pair.wait_said(PATIENCE, |line| line.contains("no sign of life of left"));
    assert!(given_up, "{}", pair.story());
    let flags = Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG);
    let gone = |thread: Pid| !matches!(waitpid(thread, flags), Ok(nix::sys::wait::WaitStatus::StillAlive));
    assert!(poll(PATIENCE, || gone(stopped.0)), "{}", pair.story());
    assert_eq!(pair.wait_end().code(), Some(5), "{}", pair.story());
    drop(stopped);
    assert!(!process::alive(brain));
}
