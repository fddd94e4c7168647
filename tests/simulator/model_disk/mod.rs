//! A file system in memory that behaves like Linux where it matters to psync: reused inode numbers, names and
//! contents that are durable each by themselves, leases, writers that outlive a rename, inotify events.
//!
//! - [`state`]: inodes, names, time
//! - [`calls`]: the trait `Disk`, as psync calls it
//! - [`user`]: the system calls of users' processes
//! - [`power`]: what a power cut leaves, snapshots
//! - [`notify`]: watches and events

pub mod calls;
pub mod notify;
pub mod power;
pub mod state;
#[cfg(test)]
mod tests;
pub mod user;

pub use calls::ModelDisk;
pub use state::{Body, Obj};
pub use user::{Fd, Opened};
