//! `psync SUBCOMMAND`: one dispatch for all.

use std::ffi::OsString;

use clap::{Parser, Subcommand};

use super::check::CheckOptions;
use super::console::{Console, print};
use super::doctor::DoctorOptions;
use super::events::{self, ConflictOptions, EventOptions};
use super::init::InitOptions;
use super::options::{self, Parsed};
use super::orders::{full_sync, order, resume};
use super::pair::PairFile;
use super::status::StatusOptions;
use super::trash::TrashOptions;
use super::{UsageError, adhoc, alert, check, config, doctor, exit, init, status, trash};
use crate::brain::control::Request;

/// A subcommand of psync.
#[derive(Debug, Parser)]
#[command(name = "psync", version, disable_help_subcommand = true)]
struct Psync {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// What the pairs are doing: exit 0 in sync or on the way to it, 1 not running, 2 halted or disconnected, 3 paths are not
    /// synchronised
    Status(StatusOptions),

    /// Rescan both sides, try again what was not synchronised, and reconcile now, by the running brain or without one: exit 8
    /// if something is left
    Fullsync {
        /// The pair's name, or the path of its file
        pair: String,
        /// Read the contents of files that look unchanged as well
        #[arg(long)]
        checksum: bool,
        /// Tell what came of it as JSON
        #[arg(long)]
        json: bool,
    },

    /// Stop propagation until `psync resume`, over restarts as well
    Pause {
        /// The pair's name, or the path of its file
        pair: String,
        #[arg(long, hide = true)]
        json: bool,
    },

    /// Go on after a pause or a halt, and try again what was not synchronised: exit 8 if something is left
    Resume {
        /// The pair's name, or the path of its file
        pair: String,
        /// Both trees are as they should be, and deletions are meant
        #[arg(long)]
        accept: bool,
        /// With --accept: take both trees as if they had never met; what is on one side only is copied
        #[arg(long, requires = "accept")]
        union: bool,
        #[arg(long, hide = true)]
        json: bool,
    },

    /// Compare both sides and change nothing: exit 0 equal, 1 could not, 2 alert, 3 notice
    Check(CheckOptions),

    /// What was replaced and deleted: list it, restore it, discard what is old
    Trash(TrashOptions),

    /// What was propagated, one line each
    Events(EventOptions),

    /// Conflicts, and paths that were changed on both sides shortly after each other: exit 1 if there are any
    Conflicts(ConflictOptions),

    /// Make a pair's file and its SSH key, and print what to run on the right host
    Init(InitOptions),

    /// Look at everything that a pair needs, and say how to mend what is wrong: exit 0 all is well, 1 something is wrong
    Doctor(DoctorOptions),

    /// Check, show or import a pair's configuration
    Config {
        #[command(subcommand)]
        command: config::Command,
    },

    /// What psync-alert@UNIT.service runs when a unit has failed
    #[command(hide = true)]
    Alert { unit: String },
}

/// The whole command; the exit code.
pub fn main(args: Vec<OsString>, run: adhoc::Run) -> u8 {
    let console = Console::stderr();
    let result = match options::parse::<Psync>(args) {
        Ok(Parsed::Show(text)) => {
            print(text);
            return 0;
        }
        Ok(Parsed::Run(Psync { command })) => carry_out(command, &console, run),
        Err(e) => Err(e),
    };
    result.unwrap_or_else(|e| {
        console.line(&format!("psync: {e}"));
        exit::USAGE
    })
}

fn carry_out(command: Command, console: &Console, run: adhoc::Run) -> Result<u8, UsageError> {
    match command {
        Command::Status(options) => status::main(&options),
        Command::Fullsync { pair, checksum, json } => full_sync(&PairFile::known(&pair)?, checksum, json, run),
        Command::Pause { pair, json } => order(&PairFile::known(&pair)?, Request::Pause {}, json),
        Command::Resume { pair, accept, union, json } => {
            resume(&PairFile::known(&pair)?, Request::Resume { accept, union }, json)
        }
        Command::Check(options) => check::main(&options, console),
        Command::Trash(options) => trash::main(&options, console),
        Command::Events(options) => events::events(&options),
        Command::Conflicts(options) => events::conflicts(&options),
        Command::Init(options) => init::main(&options),
        Command::Doctor(options) => doctor::main(&options),
        Command::Config { command } => config::main(command, console),
        Command::Alert { unit } => alert::main(&unit),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn clap_itself_is_content() {
        Psync::command().debug_assert();
    }

    #[test]
    fn the_help_names_every_command() {
        for command in Psync::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let name = format!(" {} ", command.get_name());
            assert!(options::COMMANDS.contains(&name), "no{name}in the help");
        }
    }

    #[test]
    fn every_subcommand_is_told_by_its_word() {
        let names: Vec<String> = Psync::command().get_subcommands().map(|c| c.get_name().to_owned()).collect();
        assert_eq!(names, options::SUBCOMMANDS);
        let args = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        let is_one = |words: &[&str]| options::is_subcommand(&args(words));
        assert!(is_one(&["psync", "status"]) && is_one(&["psync", "resume", "p", "--accept"]));
        assert!(!is_one(&["psync", "./status", "b"]) && !is_one(&["psync"]));
    }
}
