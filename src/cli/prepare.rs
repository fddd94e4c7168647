//! What every run of a pair needs before it begins, in the foreground or as a service: roots that can be used, no other
//! pair in them, no banned program, and a log.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::UsageError;
use super::console::Console;
use super::human::words;
use super::neighbours::{self, Which};
use super::roots::{self, Root, Roots};
use crate::brain::monitor::Exit;
use crate::config::Settings;
use crate::service::banned;
use crate::service::log::{Log, Target};
use crate::service::signals::Stop;

/// Between two looks for a banned program.
const BANNED_EVERY: Duration = Duration::from_secs(5);

/// Who prepares a run, and what settings are called to whom he answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// `psync LEFT RIGHT`: people gave options. Whether missing roots are made; `None`: nobody was there to say so.
    AdHoc { create_roots: Option<bool> },
    /// `psync-brain PAIR`: all is said in the pair's file.
    Service,
}

impl Caller {
    fn program(self) -> &'static str {
        match self {
            Caller::AdHoc { .. } => "psync",
            Caller::Service => super::PSYNC_BRAIN,
        }
    }

    /// A key as it was given: as an option, or in the file.
    fn names(self, option: &'static str, key: &'static str) -> &'static str {
        match self {
            Caller::AdHoc { .. } => option,
            Caller::Service => key,
        }
    }

    /// Whether a root that is missing is made; `None`: there is no option for that.
    fn create_roots(self) -> Option<bool> {
        match self {
            Caller::AdHoc { create_roots } => create_roots,
            Caller::Service => None,
        }
    }
}

/// A pair that may run.
pub struct Prepared {
    /// As they were given; the roots of this host are canonical, and exist unless this is a dry run.
    pub settings: Settings,
    pub pair: String,
    pub target: Target,
    pub log: Log,
}

/// Prepares a run with these settings, which have been checked; `name` names the pair once its roots are known. `None`: a
/// banned program runs, which was told. What was found wrong is the error, and nothing was touched then but the log.
pub fn prepare(
    mut settings: Settings,
    name: impl FnOnce(&Settings) -> Result<String, UsageError>,
    caller: Caller,
    console: &Console,
) -> Result<Option<Prepared>, UsageError> {
    let roots = roots::of_settings(&settings, caller.create_roots())?;
    settings.left.root.clone_from(&roots.left.path);
    if let Some(right) = &roots.right {
        settings.right.root.clone_from(&right.path);
    }
    let pair = name(&settings)?;
    if caller == Caller::Service || !settings.shared.run.dryrun {
        neighbours::check(&neighbours::of_pair(&pair, &settings), Which::Used)?;
    }
    if banned_runs(&settings, caller, console)? {
        return Ok(None);
    }
    let (target, log) = log(&settings, &pair, &roots, caller, console)?;
    roots::create("left root", &roots.left)?;
    if let Some(right) = &roots.right {
        roots::create("right root", right)?;
    }
    Ok(Some(Prepared { settings, pair, target, log }))
}

fn banned_runs(settings: &Settings, caller: Caller, console: &Console) -> Result<bool, UsageError> {
    let Some(name) = &settings.program.banned else { return Ok(false) };
    let key = caller.names("-b, --banned", "banned");
    let runs = banned::running(name).map_err(|e| UsageError(format!("{key}: /proc cannot be read: {}", words(&e))))?;
    if runs {
        console.line(&format!("{}: {name} is running: nothing is done", caller.program()));
    }
    Ok(runs)
}

/// Starts the log, which lies in no root.
fn log(
    settings: &Settings,
    pair: &str,
    roots: &Roots,
    caller: Caller,
    console: &Console,
) -> Result<(Target, Log), UsageError> {
    let target = Target::of(&settings.program.log);
    if let Target::File(path) = &target {
        let local: Vec<&Root> = std::iter::once(&roots.left).chain(&roots.right).collect();
        roots::check_log_apart(path, &local)?;
    }
    let cannot = |e: io::Error| {
        let key = caller.names("--log", "log");
        UsageError(format!("{key}: {}: {}", settings.program.log, words(&e)))
    };
    let log = Log::start(&target, settings.shared.run.debug, pair, console.writer()).map_err(cannot)?;
    Ok((target, log))
}

/// After how long a silence a thread counts as stuck: it may meet a disk that takes several actions' time for one.
pub fn stuck_after(settings: &Settings) -> Duration {
    settings.shared.patience.etimeout * 4
}

/// The watch for a banned program beside a run; it ends with the run's [`Stop`].
pub struct Banned(Arc<AtomicBool>);

impl Banned {
    /// Looks for the program that the settings ban, if there is one, and stops the run when it comes.
    pub fn watch(settings: &Settings, stop: &Stop) -> io::Result<Banned> {
        Ok(Banned(match &settings.program.banned {
            Some(name) => banned::watch(name, BANNED_EVERY, stop)?,
            None => Arc::new(AtomicBool::new(false)),
        }))
    }

    /// How the run ended, if it was stopped for that.
    pub fn verdict(&self, ended: Exit) -> Exit {
        if ended == Exit::Done && self.0.load(Ordering::Acquire) { Exit::Banned } else { ended }
    }
}
