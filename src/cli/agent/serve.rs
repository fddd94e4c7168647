//! `psync-agent serve PAIR`: the right side of a pair as a service, behind a socket that systemd made.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use listenfd::ListenFd;
use slog::Logger;

use super::super::UsageError;
use super::super::console::Console;
use super::super::exit;
use super::super::human::words;
use super::super::mount_units;
use super::super::options::Serve;
use super::super::pair::PairFile;
use super::super::prepare::stuck_after;
use super::done;
use crate::brain::monitor::Exit;
use crate::config::{self, Settings, SharedSettings};
use crate::endpoint::admit::Admission;
use crate::endpoint::open::Opening;
use crate::endpoint::service::{Beating, Elsewhere, Mounted, News, Service, Tell, turn_all_away};
use crate::link::Limits;
use crate::model::Side;
use crate::pulse;
use crate::service::log::{Log, MESSAGE_ID, Target, message_id};
use crate::service::notify;
use crate::service::signals::{Stop, stop_on_signals};
use crate::service::watchdog::Watch;

/// The whole command; returns after a signal, with everything recorded.
pub fn run(options: &Serve, console: &Console) -> Result<(), UsageError> {
    let PairFile { name: pair, path: file } = PairFile::of(&options.pair)?;
    let listener = listener(&pair);
    let settings = read(&file).inspect_err(|e| {
        if let Ok(listener) = &listener {
            let _ = turn_all_away(listener, &pair, &e.0);
        }
    })?;
    let listener = listener?;
    let target = Target::of(options.log.as_ref().unwrap_or(&settings.program.log));
    let log = Log::start(&target, settings.shared.run.debug, &pair, console.writer())
        .map_err(|e| UsageError(format!("{}: log: {}", file.display(), words(&e))))?;
    let stop = Stop::new();
    let cannot = |e: io::Error| UsageError(format!("cannot start: {}", words(&e)));
    stop_on_signals(&stop).map_err(cannot)?;

    let shared = &settings.shared;
    let opening = Opening {
        root: &settings.right.root,
        pair: &pair,
        side: Side::Right,
        shared,
        // Whoever reaches the socket has not the rights of this process.
        accept: shared.grants.accept(false),
        dry_run: shared.run.dryrun,
        done: Some(done(log.logger())),
    };
    let service = Service {
        opening,
        admission: Admission { user: settings.right.user.clone() },
        limits: Limits::of(shared),
        tell: teller(log.logger().clone()),
        mounted: usable(&pair, &settings.right.root, shared),
        elsewhere: elsewhere(file.clone(), &settings.right.root),
    };
    let beating = Beating::default();
    let _pulse = pulse::take("agent");
    notify::status("waiting for the brain");
    let watched = beating.clone();
    let watch = Watch {
        heart: move || watched.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        started: || true,
        patience: stuck_after(&settings),
        logger: log.logger().clone(),
    };
    watch.start(&stop, |_| std::process::exit(exit::code(Exit::Internal).into())).map_err(cannot)?;
    let ended = service.run(listener, &beating, |end| stop.on_stop(end));
    notify::stopping();
    ended.map_err(cannot)
}

fn read(file: &Path) -> Result<Settings, UsageError> {
    let (settings, origins) = config::load(file).map_err(|e| UsageError(e.to_string()))?;
    settings.check().map_err(|e| UsageError(origins.explain(&e)))?;
    Ok(settings)
}

/// Whether the root may be opened: no other pair on this host may have a part of it. If systemd started this process, the unit
/// waits for the root's mounts and does not need them, and the sandbox shows the root as it was at the start.
fn usable(pair: &str, root: &Path, settings: &SharedSettings) -> Mounted {
    let (pair, root, settings) = (pair.to_owned(), root.to_owned(), settings.clone());
    let supervised = notify::supervised();
    let (at_start, started) = (identity(&root), monotonic());
    Arc::new(move || {
        if supervised {
            in_sandbox(&root, at_start, started)?;
        }
        let there = std::fs::canonicalize(&root).unwrap_or_else(|_| root.clone());
        super::apart(&pair, &settings, &there).map_err(|e| e.to_string())
    })
}

/// Whether the root is what this process's sandbox was made with.
fn in_sandbox(root: &Path, at_start: Option<(u64, u64)>, started: u64) -> Result<(), String> {
    mount_units::all_mounted(root)?;
    let shown = root.display();
    match identity(root) {
        None => Err(format!("root {shown} does not exist")),
        // In this sandbox it can only be read.
        there if there != at_start => Err(format!("root {shown} came after this process, and is looked at anew")),
        Some(_) if mount_units::mounted_since(root, started) => {
            Err(format!("root {shown} was mounted after this process began, and is looked at anew"))
        }
        Some(_) => Ok(()),
    }
}

/// Whether the pair's file names another root than this one by now. One that cannot be read names none.
fn elsewhere(file: PathBuf, root: &Path) -> Elsewhere {
    let root = root.to_owned();
    Arc::new(move || read(&file).is_ok_and(|settings| !settings.right.root.components().eq(root.components())))
}

/// Which directory lies there; `None`: none.
fn identity(root: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(root).ok().filter(|stat| stat.is_dir()).map(|stat| (stat.dev(), stat.ino()))
}

/// Microseconds of the clock by which systemd tells when a unit became active.
fn monotonic() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1000
}

/// The one socket that systemd handed over.
fn listener(pair: &str) -> Result<UnixListener, UsageError> {
    let mut handed = ListenFd::from_env();
    let how = format!("psync-agent@{pair}.socket hands it over");
    match (handed.len(), handed.take_unix_listener(0)) {
        (1, Ok(Some(listener))) => {
            listener.set_nonblocking(false).map_err(|e| UsageError(format!("the socket: {}", words(&e))))?;
            Ok(listener)
        }
        (0, _) => Err(UsageError(format!("there is no socket to listen on (LISTEN_FDS): {how}"))),
        (1, Err(e)) => Err(UsageError(format!("what was handed over is no unix socket: {}", words(&e)))),
        (number, _) => Err(UsageError(format!("{number} sockets were handed over, and one is wanted: {how}"))),
    }
}

/// News into the log, and what systemd shows.
fn teller(log: Logger) -> Tell {
    Arc::new(move |news| match news {
        News::Begun { who, watching } => {
            let scan = if watching { "no scan: it has been watching" } else { "a scan follows" };
            notify::status(&format!("serving {who}"));
            slog::info!(log, "link up: {who}"; MESSAGE_ID => message_id::LINK_UP);
            slog::debug!(log, "session: {scan}");
        }
        News::Parted { who, why } => {
            notify::status(&format!("waiting for the brain; watching. {who} is gone: {why}"));
            slog::info!(log, "link down: {who}: {why}"; MESSAGE_ID => message_id::LINK_DOWN);
        }
        News::Stopped => {
            notify::status("waiting for the brain; watching. It was stopped");
            slog::info!(log, "the brain has stopped; everything is recorded");
        }
        News::TurnedAway { who, why } => slog::warn!(log, "turned away: {who}: {why}"),
        News::Refused { who, why } => {
            notify::status(&format!("waiting for the brain; watching. {who} was put out: {why}"));
            slog::error!(log, "refused: {who}: {why}"; MESSAGE_ID => message_id::LINK_DOWN);
        }
        News::Scanned { files, bytes } => slog::debug!(log, "scanned: {files} files"; "bytes" => bytes),
        News::Note(text) => slog::info!(log, "{text}"),
        News::Failed(reason) => {
            notify::status(&format!("cannot serve: {reason}"));
            slog::error!(log, "{reason}"; MESSAGE_ID => message_id::HALT);
        }
    })
}
