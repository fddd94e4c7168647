//! `psync-brain PAIR`: a pair as a service, in the foreground.

use std::ffi::OsString;
use std::io;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use slog::{Logger, error, info, warn};

use super::alert::ServiceMonitor;
use super::console::{Console, print};
use super::exit;
use super::human::words;
use super::options::{self, Brain, Parsed};
use super::outside;
use super::pair::PairFile;
use super::prepare::{Banned, Caller, Prepared, prepare, stuck_after};
use super::{PSYNC_BRAIN, UsageError, waiting};
use crate::brain::desk::{Desk, Mandate, Order};
use crate::brain::monitor::Exit;
use crate::brain::status::State;
use crate::brain::{self, Job, control};
use crate::config::{self, RightCommand, Settings};
use crate::service::control::{Server, socket_of};
use crate::service::log::Log;
use crate::service::notify;
use crate::service::signals::{Stop, on_hangup, stop_on_signals};
use crate::service::watchdog::Watch;

/// How long the brain's thread may take to apply other settings.
const RELOAD: Duration = Duration::from_secs(20);

/// The whole command; the exit code.
pub fn main(args: Vec<OsString>) -> u8 {
    let console = Console::stderr();
    let result = match options::parse::<Brain>(args) {
        Ok(Parsed::Show(text)) => {
            print(text);
            return 0;
        }
        Ok(Parsed::Run(options)) => start(&options, &console),
        Err(e) => Err(e),
    };
    result.unwrap_or_else(|e| {
        console.line(&format!("{PSYNC_BRAIN}: {e}"));
        notify::status(&e.0);
        exit::USAGE
    })
}

fn start(options: &Brain, console: &Console) -> Result<u8, UsageError> {
    let pair = PairFile::of(&options.pair)?;
    let written = read(&pair, options)?;
    if let Some(missing) = waiting::missing(&written) {
        // A failure, so that systemd starts the next process.
        let over = waiting::wait(&pair, &written, &missing, console)?;
        return Ok(exit::code(if over { Exit::InitialSyncFailed } else { Exit::Done }));
    }
    let name = |_: &Settings| Ok(pair.name.clone());
    let Some(Prepared { settings, log, .. }) = prepare(written.clone(), name, Caller::Service, console)? else {
        return Ok(exit::code(Exit::Banned));
    };
    let logger = log.logger().clone();
    settings.moot().iter().for_each(|line| info!(logger, "{line}"));
    // The pair can work without them. What other units run may be forbidden in this one's sandbox, and is the doctor's to judge.
    let others = ["alert_command", "right.proxy_command"];
    let findings = outside::findings(&settings).into_iter().filter(|found| !others.contains(&found.key));
    findings.for_each(|found| warn!(logger, "{found}"));

    let desk = Arc::new(Desk::new(&pair.name, &settings, notify::status));
    desk.set_settings(&written);
    let right = pair.right(&settings);
    info!(logger, "the right side is reached {}", by(&right));
    let job = Job {
        settings,
        pair: pair.name.clone(),
        right,
        mandate: Mandate::default(),
        persistent: true,
        anew: notify::supervised(),
        pauses: brain::PAUSES,
        checksum: false,
        logger,
    };
    let socket = socket_of(&pair.name);
    let stop = Stop::new();
    let at_desk = desk.clone();
    let server =
        Server::start(&socket, &stop, move |line, caller| control::answer(&at_desk, line, caller)).map_err(|e| {
            UsageError(format!("{}: {} (RUNTIME_DIRECTORY names another place)", socket.display(), words(&e)))
        })?;
    let reload = Reload { pair, options: options.clone(), in_force: Mutex::new(written), desk: desk.clone(), log };
    let ended = supervised(&desk, &job, reload, &stop).unwrap_or_else(|e| {
        error!(job.logger, "cannot start: {}", words(&e));
        Exit::Internal
    });
    drop(server);
    if ended == Exit::Banned {
        warn!(job.logger, "stopped: a banned program is running");
    }
    Ok(exit::code(ended))
}

/// How the right side is reached, in words.
fn by(right: &RightCommand) -> String {
    match right {
        RightCommand::Child(_) => "by a child process".to_owned(),
        RightCommand::Line(socket) => format!("through {}", socket.display()),
        RightCommand::Proxy(_) => "by a command that this process runs: no socket of psync-link@ is there".to_owned(),
    }
}

/// The run, with all that watches over it.
fn supervised(desk: &Arc<Desk>, job: &Job, reload: Reload, stop: &Stop) -> io::Result<Exit> {
    stop_on_signals(stop)?;
    stop.on_stop(notify::stopping);
    let (at_heart, at_board) = (desk.clone(), desk.clone());
    let watch = Watch {
        heart: move || at_heart.heart(),
        started: move || at_board.status().state != State::Starting,
        patience: stuck_after(&job.settings),
        logger: job.logger.clone(),
    };
    // With a watchdog of systemd's the silence says it.
    watch.start(stop, |_| std::process::exit(exit::code(Exit::Internal).into()))?;
    let reload = Arc::new(reload);
    let again = reload.clone();
    on_hangup(move || again.run())?;
    let banned = Banned::watch(&job.settings, stop)?;
    let monitor = Arc::new(ServiceMonitor::new(&reload.pair, job.logger.clone()));
    let ended = brain::run_at(desk, job, monitor, stop.clone());
    // All that waits for it ends with the run.
    stop.set();
    let ended = banned.verdict(ended);
    reload.end();
    Ok(ended)
}

/// The pair's file under the options, checked.
fn read(pair: &PairFile, options: &Brain) -> Result<Settings, UsageError> {
    let (mut settings, origins) = config::load(&pair.path).map_err(|e| UsageError(e.to_string()))?;
    if let Some(level) = options.debug {
        settings.shared.run.debug = level;
    }
    if let Some(target) = &options.log {
        settings.program.log.clone_from(target);
    }
    settings.check().map_err(|e| UsageError(origins.explain(&e)))?;
    Ok(settings)
}

/// Reads the configuration again.
struct Reload {
    pair: PairFile,
    options: Brain,
    /// As it was read, not as it was completed.
    in_force: Mutex<Settings>,
    desk: Arc<Desk>,
    log: Log,
}

impl Reload {
    /// Applies what has changed, or nothing at all.
    fn run(&self) {
        notify::reloading();
        let logger = self.log.logger();
        if let Err(e) = self.log.reopen() {
            error!(logger, "the log cannot be opened anew: {}", words(&e));
        }
        match self.apply(logger) {
            Ok(text) => info!(logger, "reloaded: {text}"),
            Err(text) => error!(logger, "not reloaded, all settings stay as they were: {text}"),
        }
        notify::ready();
        // The line of the status is still what it was.
        notify::status(&self.desk.status().line());
    }

    fn apply(&self, logger: &Logger) -> Result<String, String> {
        let mut in_force = self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
        let new = read(&self.pair, &self.options).map_err(|e| e.to_string())?;
        let changes = in_force.changes(&new);
        if !changes.restart.is_empty() {
            let keys = changes.restart.join(", ");
            return Err(format!("{keys} cannot change while psync runs: restart psync-brain@{}", self.pair.name));
        }
        if !changes.units.is_empty() {
            warn!(logger, "{} has changed: `systemctl daemon-reload` makes the timers anew", changes.units.join(", "));
        }
        if changes.keys.is_empty() {
            return Ok("nothing has changed".to_owned());
        }
        let status = self.desk.status();
        let mut settings = new.clone();
        settings.left.root = status.left.root.into();
        if settings.is_local() {
            settings.right.root = status.right.root.into();
        }
        let answers = self.desk.ask(Order::Reload(Box::new(settings))).ok_or("too many orders wait")?;
        match answers.recv_timeout(RELOAD) {
            Ok(answer) => answer?,
            Err(RecvTimeoutError::Timeout) => return Err("the brain does not answer".to_owned()),
            Err(RecvTimeoutError::Disconnected) => return Err("the brain has ended".to_owned()),
        };
        self.log.set_debug(new.shared.run.debug);
        self.desk.set_settings(&new);
        *in_force = new;
        Ok(changes.keys.join(", "))
    }

    /// Writes what is left of the log, though a thread for the next reload still waits.
    fn end(&self) {
        self.log.close();
    }
}
