//! The commands.

mod absent;
pub mod adhoc;
pub mod agent;
pub mod alert;
mod check;
mod commands;
mod config;
pub mod console;
mod doctor;
mod events;
pub mod exit;
pub mod generator;
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
mod outside;
pub mod pair;
pub mod roots;
pub mod service;
mod status;
mod trash;
mod waiting;

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

/// What the program of a pair's left side is called.
const PSYNC_BRAIN: &str = "psync-brain";

/// What all programs do: an agent if called `psync-agent` or told `--agent-mode`, a service if called `psync-brain`,
/// else a subcommand, or the ad hoc command.
pub fn main(brain: adhoc::Run, agent: agent::Run) -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let code = if is_agent(&args) {
        agent::main(args, agent)
    } else if called(&args) == Some(OsStr::new(PSYNC_BRAIN)) {
        service::main(args)
    } else if commands::is_one(&args) {
        commands::main(args, brain)
    } else {
        adhoc::main(args, brain)
    };
    ExitCode::from(code)
}

fn called(args: &[OsString]) -> Option<&OsStr> {
    args.first().and_then(|a| Path::new(a).file_name())
}

fn is_agent(args: &[OsString]) -> bool {
    called(args) == Some(OsStr::new("psync-agent")) || args.get(1).is_some_and(|a| a == "--agent-mode")
}

/// An error of usage or configuration: nothing was touched. One line, for `psync: LINE` and exit code 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_is_told_by_its_name_or_the_first_option() {
        for (args, want) in [
            (vec!["psync-agent"], true),
            (vec!["/usr/bin/psync-agent", "--stdio"], true),
            (vec!["psync", "--agent-mode", "--stdio"], true),
            (vec!["psync", "a", "--agent-mode"], false),
            (vec!["/opt/psync-agent/psync", "a", "b"], false),
            (vec![], false),
        ] {
            let args: Vec<OsString> = args.into_iter().map(OsString::from).collect();
            assert_eq!(is_agent(&args), want, "{args:?}");
        }
    }
}
