//! `psync [OPTIONS] SRCROOT DSTROOT`: a pair in the foreground.

use std::ffi::OsString;
use std::io;
use std::sync::Arc;

use slog::Logger;

use super::UsageError;
use super::console::{Console, print};
use super::exit;
use super::given;
use super::human::words;
use super::monitor::TerminalMonitor;
use super::options::{self, AdHoc, Parsed};
use super::pair::PairFile;
use super::prepare::{Banned, Caller, Prepared, prepare, stuck_after};
use crate::brain::Job;
use crate::brain::desk::Mandate;
use crate::brain::monitor::{Exit, Monitor};
use crate::config::{self, Origins, Settings};
use crate::service::signals::{Stop, stop_on_signals};
use crate::service::watchdog;

/// Runs a pair until it is done, cannot go on, or `Stop` is set.
pub type Run = fn(&Job, Arc<dyn Monitor>, Stop) -> Exit;

/// The whole command; the exit code.
pub fn main(args: Vec<OsString>, run: Run) -> u8 {
    main_on(args, Console::stderr(), run)
}

fn main_on(args: Vec<OsString>, console: Console, run: Run) -> u8 {
    let result = match options::parse::<AdHoc>(args) {
        Ok(Parsed::Show(text)) => {
            print(text);
            return 0;
        }
        Ok(Parsed::Run(options)) => start(&options, &console, run),
        Err(e) => Err(e),
    };
    result.unwrap_or_else(|e| {
        console.line(&format!("psync: {e}"));
        exit::USAGE
    })
}

fn start(options: &AdHoc, console: &Console, run: Run) -> Result<u8, UsageError> {
    let here = std::env::current_dir().map_err(|e| UsageError(format!("no current directory: {e}")))?;
    let (settings, origins) = given::settings(options, &here)?;
    let caller = Caller::AdHoc { create_roots: Some(options.create_roots).filter(|_| !options.as_service) };
    let name = |settings: &Settings| given::pair_name(options, settings);
    let Some(Prepared { settings, pair, target, log }) = prepare(settings, name, caller, console)? else {
        return Ok(exit::code(Exit::Banned));
    };
    let monitor = TerminalMonitor::new(&pair, console.clone(), log.logger().clone(), &target);
    settings.moot().iter().for_each(|line| monitor.note(line));
    origins_in_log(log.logger(), &origins);

    let right = match &options.config {
        Some(path) if options.as_service => PairFile { name: pair.clone(), path: path.clone() }.right(&settings),
        _ => config::right_command(&settings, &pair, options.create_roots),
    };
    let mandate = Mandate { accept: options.accept, union: options.union };
    let logger = log.logger().clone();
    let checksum = options.checksum;
    let pauses = crate::brain::PAUSES;
    let job = Job { settings, pair, right, mandate, persistent: false, anew: false, pauses, checksum, logger };
    let ended = supervised(&job, Arc::new(monitor), console, run).unwrap_or_else(|e| {
        console.line(&format!("psync: cannot start: {}", words(&e)));
        Exit::Internal
    });
    drop(job);
    drop(log);
    console.clear();
    if ended == Exit::Banned {
        console.line("psync: stopped: a banned program is running");
    }
    Ok(exit::code(ended))
}

/// The run, with the signals and the watch for a banned program around it.
fn supervised(job: &Job, monitor: Arc<dyn Monitor>, console: &Console, run: Run) -> io::Result<Exit> {
    let stop = Stop::new();
    stop_on_signals(&stop)?;
    let its_console = console.clone();
    let over = Stop::new();
    watchdog::over_threads(stuck_after(&job.settings), &over, move |names| {
        its_console.line(&format!("psync: stuck, and given up: no sign of life of {names}"));
        // Whoever is stuck may hold anything: what was recorded is durable, and the next start settles the rest.
        std::process::exit(exit::code(Exit::Internal).into());
    })?;
    let banned = Banned::watch(&job.settings, &stop)?;
    let ended = run(job, monitor, stop.clone());
    let ended = banned.verdict(ended);
    // The watches end with the run.
    stop.set();
    over.set();
    Ok(ended)
}

fn origins_in_log(logger: &Logger, origins: &Origins) {
    for (key, origin) in origins.iter() {
        slog::debug!(logger, "setting"; "key" => key.to_string(), "from" => origin.to_string());
    }
}

#[cfg(test)]
mod tests;
