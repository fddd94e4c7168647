//! The commands.

mod absent;
pub mod adhoc;
pub mod agent;
pub mod alert;
mod ask;
mod check;
mod commands;
mod config;
pub mod console;
mod doctor;
mod events;
pub mod exit;
pub mod generator;
mod given;
pub mod human;
mod init;
pub mod link;
mod log_monitor;
pub mod monitor;
mod mount_units;
mod mounts;
mod neighbours;
mod openmetrics;
mod options;
mod orders;
mod outside;
pub mod pair;
mod prepare;
pub mod programs;
pub mod roots;
pub mod service;
mod status;
mod trash;
mod waiting;

/// What the program of a pair's left side is called.
const PSYNC_BRAIN: &str = "psync-brain";

/// An error of usage or configuration: nothing was touched. One line, for `psync: LINE` and exit code 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);
