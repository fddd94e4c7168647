//! One thread stopped on purpose: no sign of life may be told any more.

use std::time::{Duration, Instant};

use super::house::House;
use crate::support::threads::{Stopped, thread_of};
use crate::support::users::*;
use crate::support::{PATIENCE, Pair, poll, process};
use crate::syscalls::trace;

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
    assert!(poll(PATIENCE, || stopped.is_gone()), "{}", pair.story());
    assert_eq!(pair.wait_end().code(), Some(5), "{}", pair.story());
    drop(stopped);
    assert!(!process::alive(brain));
}
