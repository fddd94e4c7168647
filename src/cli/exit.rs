//! Exit codes, a contract with scripts.

use crate::brain::monitor::Exit;

/// Wrong usage or configuration. A run of the brain cannot end so.
pub const USAGE: u8 = 1;

/// Of `psync status` and `psync fullsync`: a pair is halted or has lost a side.
pub const LOST: u8 = 2;

/// The code of an ended run.
pub fn code(exit: Exit) -> u8 {
    match exit {
        Exit::Done => 0,
        Exit::InitialSyncFailed => 2,
        Exit::LeftLost => 3,
        Exit::RightLost => 4,
        Exit::Internal => 5,
        Exit::Banned => 6,
        Exit::Halted => 7,
        Exit::ProblemsLeft => 8,
    }
}
