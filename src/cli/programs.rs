//! The programs, each as its story. They are one executable, which acts by the name that it is called by: the package
//! installs it once, and links the other names to it.

use std::env::args_os;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

use super::{PSYNC_BRAIN, adhoc, agent, commands, generator, link, options, service};
use crate::brain;

/// A program's name, and what it does.
type Program = (&'static str, fn() -> ExitCode);

/// All programs. Whatever else the executable is called, it is [`psync`].
pub const PROGRAMS: [Program; 5] = [
    ("psync", psync),
    (PSYNC_BRAIN, psync_brain),
    ("psync-agent", psync_agent),
    ("psync-link", psync_link),
    ("psync-generator", psync_generator),
];

/// The executable: the program that it is called as.
pub fn main() -> ExitCode {
    let args: Vec<OsString> = args_os().collect();
    let known = PROGRAMS.iter().find(|(name, _)| called(&args) == Some(OsStr::new(name)));
    known.map_or_else(psync, |(_, program)| program())
}

/// `psync`: a subcommand, or two roots to keep equal in the foreground.
pub fn psync() -> ExitCode {
    let args: Vec<OsString> = args_os().collect();
    ExitCode::from(match () {
        () if is_own_agent(&args) => agent::main(args, agent::serve),
        () if options::is_subcommand(&args) => commands::main(args, brain::run),
        () => adhoc::main(args, brain::run),
    })
}

/// `psync-brain PAIR`: the left side of a pair, as a service.
pub fn psync_brain() -> ExitCode {
    let args: Vec<OsString> = args_os().collect();
    ExitCode::from(if is_own_agent(&args) { agent::main(args, agent::serve) } else { service::main(args) })
}

/// `psync-agent`: the right side, at the other end of a line.
pub fn psync_agent() -> ExitCode {
    ExitCode::from(agent::main(args_os().collect(), agent::serve))
}

/// `psync-link PAIR`: the line to the right host.
pub fn psync_link() -> ExitCode {
    link::main()
}

/// `psync-generator DIRECTORY`: what systemd has to know of the pairs.
pub fn psync_generator() -> ExitCode {
    generator::main()
}

/// The name by which the executable is called, whatever lies before it.
fn called(args: &[OsString]) -> Option<&OsStr> {
    args.first().and_then(|name| Path::new(name).file_name())
}

/// Whether a brain runs itself once more, for a right side on this host or for its line.
fn is_own_agent(args: &[OsString]) -> bool {
    args.get(1).is_some_and(|word| word == "--agent-mode")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_the_last_part_of_the_first_word() {
        for (args, name, own_agent) in [
            (vec!["psync-agent"], Some("psync-agent"), false),
            (vec!["/usr/bin/psync-agent", "--stdio"], Some("psync-agent"), false),
            (vec!["psync", "--agent-mode", "--stdio"], Some("psync"), true),
            (vec!["psync", "a", "--agent-mode"], Some("psync"), false),
            (vec!["/opt/psync-agent/psync", "a", "b"], Some("psync"), false),
            (vec![], None, false),
        ] {
            let args: Vec<OsString> = args.into_iter().map(OsString::from).collect();
            assert_eq!((called(&args), is_own_agent(&args)), (name.map(OsStr::new), own_agent), "{args:?}");
        }
    }
}
