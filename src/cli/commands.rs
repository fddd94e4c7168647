//! `psync SUBCOMMAND`: one dispatch for all; here too what is asked of a running brain.

use std::ffi::OsString;
use std::io::{self, Write};
use std::thread;
use std::time::{Duration, Instant};

use clap::{CommandFactory, Parser, Subcommand};

use super::check::CheckOptions;
use super::console::Console;
use super::doctor::DoctorOptions;
use super::events::{self, ConflictOptions, EventOptions};
use super::human::words;
use super::init::InitOptions;
use super::options::{self, Parsed};
use super::pair::PairFile;
use super::trash::TrashOptions;
use super::{UsageError, adhoc, alert, check, config, doctor, exit, init, status, trash};
use crate::brain::control::{Reply, Request};
use crate::brain::monitor::Exit;
use crate::brain::status::{State, Status};
use crate::service::control::{ask, socket_of};

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

#[derive(Debug, clap::Args)]
pub struct StatusOptions {
    /// The pair's name, or the path of its file; without it all pairs of this host
    pub pair: Option<String>,
    /// As JSON, an object for each pair
    #[arg(long, conflicts_with = "openmetrics")]
    pub json: bool,
    /// For Prometheus and node_exporter, in the text format
    #[arg(long)]
    pub openmetrics: bool,
    /// Show it again whenever it changes, until interrupted
    #[arg(long, conflicts_with = "openmetrics")]
    pub watch: bool,
}

/// Between two looks at a full sync that runs.
const LOOK: Duration = Duration::from_millis(300);
/// How long whoever resumed a pair waits to hear what is left.
const SOON: Duration = Duration::from_secs(10);
/// Paths that are named in one line.
const NAMED: usize = 5;

/// Whether the first word is a subcommand. A directory of that name is `./NAME`.
pub fn is_one(args: &[OsString]) -> bool {
    args.get(1).is_some_and(|word| Psync::command().get_subcommands().any(|command| word == command.get_name()))
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

/// An order that is done when it is answered.
fn order(pair: &PairFile, request: Request, json: bool) -> Result<u8, UsageError> {
    let text = told(pair, request)?;
    tell(pair, &text, json, true);
    Ok(0)
}

/// Goes on, and says what cannot be synchronised all the same, if that is known soon.
fn resume(pair: &PairFile, request: Request, json: bool) -> Result<u8, UsageError> {
    let text = told(pair, request)?;
    let begun = Instant::now();
    loop {
        thread::sleep(LOOK);
        let status = look(pair)?;
        let waits = |status: &Status| matches!(status.state, State::InSync | State::Halted | State::Disconnected);
        if status.as_ref().is_none_or(waits) || begun.elapsed() > SOON {
            let (left, code) = status.as_ref().map_or((String::new(), 0), left);
            tell(pair, &format!("{text}{left}"), json, code == 0);
            return Ok(code);
        }
    }
}

/// What is not synchronised, for the end of a line; and the exit code.
fn left(status: &Status) -> (String, u8) {
    let named: Vec<String> = status.problems.iter().take(NAMED).map(|p| format!("{}: {}", p.path, p.text)).collect();
    let more = status.problems_now.saturating_sub(named.len() as u64);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    let code = exit::code(Exit::ProblemsLeft);
    match status.problems_now {
        0 => (String::new(), 0),
        1 => (format!("; 1 path is not synchronised: {}", named.join("; ")), code),
        many => (format!("; {many} paths are not synchronised: {}{more}", named.join("; ")), code),
    }
}

/// Asks for a full sync and waits for its end; without a brain it is done here.
fn full_sync(pair: &PairFile, checksum: bool, json: bool, run: adhoc::Run) -> Result<u8, UsageError> {
    let before = match look(pair)? {
        Some(status) => status,
        None => return Ok(alone(pair, checksum, run)),
    };
    told(pair, Request::FullSync { checksum })?;
    let earlier = before.full_sync.map_or(0, |sync| sync.number);
    let begun = Instant::now();
    loop {
        thread::sleep(LOOK);
        let Some(status) = look(pair)? else {
            return Err(UsageError(format!("{}: the brain has ended before the full sync did", pair.name)));
        };
        let done = status.full_sync.as_ref().is_some_and(|sync| sync.number > earlier && sync.ended.is_some());
        if done {
            let (left, code) = left(&status);
            let text = format!("full sync done: {} files in {} s{left}", status.files, begun.elapsed().as_secs());
            tell(pair, &text, json, code == 0);
            return Ok(code);
        }
        if matches!(status.state, State::Halted | State::Disconnected | State::Paused) {
            tell(pair, &format!("the full sync does not end: {}", status.line()), json, false);
            return Ok(status::LOST);
        }
    }
}

/// `psync -s` on the pair's file.
fn alone(pair: &PairFile, checksum: bool, run: adhoc::Run) -> u8 {
    let mut args: Vec<OsString> = ["psync", "-s", "--as-service", "--pair", &pair.name].map(OsString::from).to_vec();
    if checksum {
        args.push("--checksum".into());
    }
    args.extend(["--config".into(), pair.path.clone().into()]);
    adhoc::main(args, run)
}

/// What the brain says to a request; its refusal is an error.
pub fn told(pair: &PairFile, request: Request) -> Result<String, UsageError> {
    match talk(pair, request)? {
        Some(Reply::Ok(text)) => Ok(text),
        Some(Reply::Error(text)) => Err(UsageError(format!("{}: {text}", pair.name))),
        Some(Reply::Status(_) | Reply::Settings(_)) => {
            Err(UsageError(format!("{}: the answer makes no sense", pair.name)))
        }
        None => {
            Err(UsageError(format!("{}: not running (no answer at {})", pair.name, socket_of(&pair.name).display())))
        }
    }
}

/// The status of a pair's brain; `None` if none runs.
pub fn look(pair: &PairFile) -> Result<Option<Status>, UsageError> {
    match talk(pair, Request::Status {})? {
        Some(Reply::Status(status)) => Ok(Some(*status)),
        Some(Reply::Error(text)) => Err(UsageError(format!("{}: {text}", pair.name))),
        Some(Reply::Ok(_) | Reply::Settings(_)) => Err(UsageError(format!("{}: the answer makes no sense", pair.name))),
        None => Ok(None),
    }
}

/// The settings that a pair's brain has in force; `None` if none runs, or it does not tell.
pub fn in_force(pair: &PairFile) -> Option<serde_json::Value> {
    match talk(pair, Request::Settings {}) {
        Ok(Some(Reply::Settings(settings))) => Some(settings),
        _ => None,
    }
}

fn talk(pair: &PairFile, request: Request) -> Result<Option<Reply>, UsageError> {
    let named = |what: String| UsageError(format!("{}: {what}", pair.name));
    let line = serde_json::to_string(&request).map_err(|e| named(e.to_string()))?;
    let lines = match ask(&socket_of(&pair.name), &line) {
        Ok(lines) => lines,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => return Ok(None),
        Err(e) => return Err(named(format!("{}: {}", socket_of(&pair.name).display(), words(&e)))),
    };
    let reply = lines.first().and_then(|line| serde_json::from_str(line).ok());
    reply.map(Some).ok_or_else(|| named("the answer makes no sense".to_owned()))
}

fn tell(pair: &PairFile, text: &str, json: bool, ok: bool) {
    let line = match json {
        true => serde_json::json!({ "pair": pair.name, "ok": ok, "text": text }).to_string(),
        false => format!("{}: {text}", pair.name),
    };
    print(format!("{line}\n"));
}

/// Writes to stdout; a closed pipe is no matter.
pub fn print(text: impl AsRef<[u8]>) -> bool {
    let mut out = io::stdout();
    out.write_all(text.as_ref()).and_then(|()| out.flush()).is_ok()
}

#[cfg(test)]
mod tests {
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
    fn subcommands_are_told_by_the_first_word() {
        let args = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        assert!(is_one(&args(&["psync", "status"])) && is_one(&args(&["psync", "resume", "p", "--accept"])));
        assert!(!is_one(&args(&["psync", "./status", "b"])) && !is_one(&args(&["psync"])));
    }
}
