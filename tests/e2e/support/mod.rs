//! What every scenario needs: a running pair, a look at its trees, users who change them.

#![allow(dead_code, unused_imports)]

pub mod line;
pub mod mounts;
mod pair;
pub mod process;
pub mod service;
pub mod sshd;
pub mod threads;
pub mod tools;
pub mod tree;
pub mod users;
pub mod versions;

pub use pair::{NAME, Once, PSYNC, Pair, debug, once, run_to_end};
pub use tree::{Depth, Tree, snapshot};

use std::time::{Duration, Instant};

/// How long a pair may take to become equal before the test fails. Far more than it should need: the machine
/// may be busy with all the other tests.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Asks `done` again and again, without hurry, until it says yes. False if it never did.
pub fn poll(patience: Duration, mut done: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + patience;
    loop {
        if done() {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
