//! Two hosts with systemd of their own, joined by a line, with the built package on both.
//!
//! They know nothing of how psync works, only what it promises its administrators. Needs root, systemd-nspawn and
//! debootstrap (docs/testing.md).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../e2e/support/tools.rs"]
#[allow(dead_code)]
mod tools;

#[path = "../e2e/support/threads.rs"]
mod threads;

mod support;

mod administrator;
mod away;
mod day;
mod faults;
mod lab;
mod link;
mod owners;
mod package;
mod pair;
mod refused;
mod rsync;
mod samba;
mod states;
mod umbrella;
mod units;
