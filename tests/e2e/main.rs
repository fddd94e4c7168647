//! psync from outside: the release binary on real directories.
//!
//! `cargo test --release --test e2e` runs all; a word behind it picks tests by name. `PSYNC_KEEP=1` keeps the
//! directories of a failed test. Nothing here knows how psync works, only what it promises.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

mod acls;
mod agent;
mod check;
mod crashes;
mod delta;
mod dir_times;
mod doctor;
mod events;
mod git;
mod init;
mod initial;
mod inode;
mod input;
mod kills;
mod late;
mod live;
mod merges;
mod moves;
mod names;
mod neighbours;
mod own;
mod owners;
mod partaking;
mod places;
mod policy;
mod quiet_writes;
mod restless;
mod rights;
mod roots;
mod rsync;
mod saves;
mod service;
mod settings;
mod slices;
mod space;
mod ssh;
mod syscalls;
mod told;
mod trash;
mod visible;
mod writers;
mod xattrs;
