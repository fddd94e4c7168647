//! A brain whose root, or the mount that it lies on, is not there. It waits, tells why, and ends when that has come: its
//! sandbox was made without it, so only a new process can use it, which systemd starts.

use std::fmt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use slog::{Logger, info, warn};

use super::UsageError;
use super::alert::ServiceMonitor;
use super::console::Console;
use super::human::words;
use super::mount_units;
use super::pair::PairFile;
use super::prepare::stuck_after;
use crate::brain::desk::Desk;
use crate::brain::status::State;
use crate::brain::{control, waiting};
use crate::config::Settings;
use crate::endpoint::heartbeat::Heartbeat;
use crate::service::control::{Server, socket_of};
use crate::service::log::{Log, Target};
use crate::service::notify;
use crate::service::signals::{Stop, on_hangup, stop_on_signals};
use crate::service::watchdog::Watch;

/// What a root of this host lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    Mount(mount_units::Missing),
    Root(PathBuf),
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Missing::Mount(mount) => mount.fmt(f),
            Missing::Root(root) => write!(f, "root {} does not exist", root.display()),
        }
    }
}

/// Whether a root of this host, or a mount of it, is missing. In another sandbox it can be written to when it comes, so only
/// a service that systemd starts anew waits.
pub fn missing(settings: &Settings) -> Option<Missing> {
    if !notify::supervised() {
        return None;
    }
    let right = settings.is_local().then_some(&settings.right.root);
    let roots = || std::iter::once(&settings.left.root).chain(right);
    // If systemd does not answer, what is wrong shows when the root is opened.
    let mount = roots().filter_map(|root| mount_units::missing(root).ok().flatten()).next();
    let gone = |root: &&PathBuf| std::fs::metadata(root).is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound);
    mount.map(Missing::Mount).or_else(|| roots().find(gone).map(|root| Missing::Root(root.clone())))
}

/// Waits; true if the root has come, or the file is to be read again.
pub fn wait(pair: &PairFile, settings: &Settings, first: &Missing, console: &Console) -> Result<bool, UsageError> {
    // Not to a file: it may lie where the mount is missing.
    let log = Log::start(&Target::of("journal"), settings.shared.run.debug, &pair.name, console.writer())
        .map_err(|e| UsageError(format!("log: journal: {}", words(&e))))?;
    let logger = log.logger().clone();
    let cannot = |e: std::io::Error| UsageError(format!("cannot start: {}", words(&e)));
    let desk = Arc::new(Desk::new(&pair.name, settings, notify::status));
    let stop = Stop::new();
    stop_on_signals(&stop).map_err(cannot)?;
    stop.on_stop(notify::stopping);
    let socket = socket_of(&pair.name);
    let at_desk = desk.clone();
    let _server = Server::start(&socket, &stop, move |line, caller| control::answer(&at_desk, line, caller))
        .map_err(|e| UsageError(format!("{}: {}", socket.display(), words(&e))))?;
    let at_board = desk.clone();
    let watch = Watch {
        heart: || None::<Arc<Heartbeat>>,
        started: move || at_board.status().state != State::Starting,
        patience: stuck_after(settings),
        logger: logger.clone(),
    };
    let stuck = |_: &str| std::process::exit(super::exit::code(crate::brain::monitor::Exit::Internal).into());
    watch.start(&stop, stuck).map_err(cannot)?;
    // Another file may have another root: it is read by the next process.
    let hangup = Stop::new();
    let (hung_up, ends) = (hangup.clone(), stop.clone());
    on_hangup(move || {
        notify::reloading();
        notify::ready();
        hung_up.set();
        ends.set();
    })
    .map_err(cannot)?;
    let monitor = ServiceMonitor::new(pair, logger.clone());
    monitor.waits(&first.to_string());
    let there = waiting::until_there(&desk, &monitor, &stop, || {
        let missing = missing(settings)?;
        if let Missing::Mount(mount) = &missing {
            ask_for(&mount.unit, &logger);
        }
        Some(missing.to_string())
    });
    if there {
        info!(logger, "the root is there: starting anew");
        monitor.is_over();
    }
    stop.set();
    Ok(there || hangup.is_set())
}

/// A mount that has failed is tried again by nobody else.
fn ask_for(unit: &str, logger: &Logger) {
    let asked = Command::new("systemctl").args(["start", "--no-block", "--no-ask-password", "--", unit]).output();
    if let Err(e) = asked {
        warn!(logger, "systemctl start {unit}: {}", words(&e));
    }
}
