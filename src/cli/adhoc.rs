//! `psync [OPTIONS] SRCROOT DSTROOT`: a pair in the foreground.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use slog::Logger;

use super::UsageError;
use super::console::Console;
use super::exit;
use super::human::words;
use super::monitor::TerminalMonitor;
use super::neighbours::{self, Which};
use super::options::{self, AdHoc, Parsed};
use super::pair::PairFile;
use super::roots::{self, Allowed, Root};
use crate::brain::Job;
use crate::brain::desk::Mandate;
use crate::brain::monitor::{Exit, Monitor};
use crate::config::{self, Origins, Settings};
use crate::service::log::{Log, Target};
use crate::service::signals::{Stop, stop_on_signals};
use crate::service::{banned, watchdog};

/// Between two looks for a banned program.
pub const BANNED_EVERY: Duration = Duration::from_secs(5);

/// Runs a pair until it is done, cannot go on, or `Stop` is set.
pub type Run = fn(&Job, Arc<dyn Monitor>, Stop) -> Exit;

/// The whole command; the exit code.
pub fn main(args: Vec<OsString>, run: Run) -> u8 {
    main_on(args, Console::stderr(), run)
}

fn main_on(args: Vec<OsString>, console: Console, run: Run) -> u8 {
    let result = match options::parse::<AdHoc>(args) {
        Ok(Parsed::Show(text)) => {
            let _ = io::stdout().write_all(text.as_bytes());
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
    let (mut settings, origins) = settings(options, &here)?;
    let roots = check_roots(&settings, Some(options.create_roots).filter(|_| !options.as_service))?;
    settings.left.root.clone_from(&roots.left.path);
    if let Some(right) = &roots.right {
        settings.right.root.clone_from(&right.path);
    }
    let pair = pair_name(options, &settings)?;
    if !settings.shared.run.dryrun {
        neighbours::check(&neighbours::of_pair(&pair, &settings), Which::Used)?;
    }
    if let Some(name) = &settings.program.banned
        && banned::running(name)
            .map_err(|e| UsageError(format!("-b, --banned: /proc cannot be read: {}", words(&e))))?
    {
        console.line(&format!("psync: {name} is running: nothing is done"));
        return Ok(exit::code(Exit::Banned));
    }

    let target = Target::of(&settings.program.log);
    if let Target::File(path) = &target {
        let local: Vec<&Root> = std::iter::once(&roots.left).chain(&roots.right).collect();
        roots::check_log_apart(path, &local)?;
    }
    let log = Log::start(&target, settings.shared.run.debug, &pair, console.writer())
        .map_err(|e| UsageError(format!("--log: {}: {}", settings.program.log, words(&e))))?;
    roots::create("left root", &roots.left)?;
    if let Some(right) = &roots.right {
        roots::create("right root", right)?;
    }
    let monitor = TerminalMonitor::new(&pair, console.clone(), log.logger.clone(), &target);
    settings.moot().iter().for_each(|line| monitor.note(line));
    origins_in_log(&log.logger, &origins);

    let right = match &options.config {
        Some(path) if options.as_service => PairFile { name: pair.clone(), path: path.clone() }.right(&settings),
        _ => config::right_command(&settings, &pair, options.create_roots),
    };
    let mandate = Mandate { accept: options.accept, union: options.union };
    let logger = log.logger.clone();
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
    let banned = match &job.settings.program.banned {
        Some(name) => banned::watch(name, BANNED_EVERY, &stop)?,
        None => Arc::new(AtomicBool::new(false)),
    };
    let ended = run(job, monitor, stop.clone());
    let ended = if ended == Exit::Done && banned.load(Ordering::Acquire) { Exit::Banned } else { ended };
    // The watches end with the run.
    stop.set();
    over.set();
    Ok(ended)
}

/// After how long a silence a thread counts as stuck: it may meet a disk that takes several actions' time for one.
pub fn stuck_after(settings: &Settings) -> Duration {
    settings.shared.patience.etimeout * 4
}

/// The file's settings under the command line's, checked.
fn settings(options: &AdHoc, here: &Path) -> Result<(Settings, Origins), UsageError> {
    let (mut settings, mut origins) = match &options.config {
        Some(file) => config::load_unsettled(&here.join(file)).map_err(|e| UsageError(e.to_string()))?,
        None => Default::default(),
    };
    options.apply(here, &mut settings, &mut origins).map_err(|e| UsageError(origins.explain(&e)))?;
    check_given(options, &settings)?;
    settings.settle(&mut origins).map_err(|e| UsageError(origins.explain(&e)))?;
    settings.check().map_err(|e| UsageError(origins.explain(&e)))?;
    Ok((settings, origins))
}

/// The pair and the settings of a process that was started with these options in this directory.
pub fn of_options(options: &AdHoc, here: &Path) -> Result<(String, Settings), UsageError> {
    let (mut settings, _) = settings(options, here)?;
    // As the process itself does, since the name is made from them.
    for root in [&mut settings.left.root, &mut settings.right.root] {
        if let Ok(canonical) = std::fs::canonicalize(&*root) {
            *root = canonical;
        }
    }
    Ok((pair_name(options, &settings)?, settings))
}

/// Both roots on the command line, or both in the file.
fn check_given(options: &AdHoc, settings: &Settings) -> Result<(), UsageError> {
    let given = |root: &Path| !root.as_os_str().is_empty();
    let missing = match (given(&settings.left.root), given(&settings.right.root)) {
        // With a file both or none: of one root alone it is not clear which was meant.
        (true, true) if options.left.is_some() == options.right.is_some() => return Ok(()),
        (false, false) => "SRCROOT and DSTROOT are missing",
        (false, true) => "SRCROOT is missing",
        (true, _) => "DSTROOT is missing",
    };
    Err(UsageError(format!("{missing} (see --help)")))
}

/// The roots of this host.
pub struct Roots {
    pub left: Root,
    /// `None`: on another host, whose agent looks.
    pub right: Option<Root>,
}

/// `create`: whether missing ones are created; `None`: a service, which has no option for that.
pub fn check_roots(settings: &Settings, create: Option<bool>) -> Result<Roots, UsageError> {
    let allowed = Allowed { create: create == Some(true), dry: settings.shared.run.dryrun, option: create.is_some() };
    let left = roots::check("left root", &settings.left.root, allowed)?;
    let right = match settings.is_local() {
        true => Some(roots::check("right root", &settings.right.root, allowed)?),
        false => None,
    };
    if let Some(right) = &right {
        roots::check_apart(&left, right)?;
    }
    Ok(Roots { left, right })
}

fn pair_name(options: &AdHoc, settings: &Settings) -> Result<String, UsageError> {
    match &options.pair {
        Some(name) => match config::why_no_pair(name) {
            None => Ok(name.clone()),
            Some(why) => Err(UsageError(format!("--pair: `{name}` is no name of a pair: {why}"))),
        },
        None => {
            // The archive of a file's pair is the one that `psync fullsync FILE` and all the others mean.
            let of_file = options.config.as_deref().filter(|_| options.left.is_none() && options.right.is_none());
            let stem = of_file.and_then(Path::file_stem).map(|stem| stem.to_string_lossy().into_owned());
            if let Some(name) = stem.filter(|name| config::valid_pair(name)) {
                return Ok(name);
            }
            let right = &settings.right;
            // A proxy command leads to a host too.
            let host = right.host.as_deref().or(right.proxy_command.as_deref());
            Ok(config::default_pair(&settings.left.root, host, &right.root))
        }
    }
}

fn origins_in_log(logger: &Logger, origins: &Origins) {
    for (key, origin) in origins.iter() {
        slog::debug!(logger, "setting"; "key" => key.to_string(), "from" => origin.to_string());
    }
}

#[cfg(test)]
mod tests;
