//! The commands.

pub mod adhoc;
pub mod agent;
pub mod alert;
pub mod console;
pub mod exit;
pub mod generator;
pub mod human;
pub mod monitor;
mod mounts;
mod options;
pub mod roots;

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

/// What both programs do: an agent if called `psync-agent` or told `--agent-mode`, else the ad hoc command.
pub fn main(brain: adhoc::Run, agent: agent::Run) -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let code = if is_agent(&args) {
        agent::main(args, agent)
    } else if args.get(1).is_some_and(|a| a == "alert") {
        alert::main(&args[2..])
    } else {
        adhoc::main(args, brain)
    };
    ExitCode::from(code)
}

fn is_agent(args: &[OsString]) -> bool {
    let called = args.first().and_then(|a| Path::new(a).file_name());
    called == Some(OsStr::new("psync-agent")) || args.get(1).is_some_and(|a| a == "--agent-mode")
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
