//! `psync alert UNIT`: what is told to the administrator. Run by `psync-alert@UNIT.service` when a unit of a pair has
//! failed, or its brain has halted.
//!
//! A halted brain goes on running, in a sandbox in which hardly any mail program works. So it leaves its message in a file
//! that `psync-halt@PAIR.path` waits for, and the command runs where it runs for a failed unit.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use slog::{Logger, debug, error};

use super::UsageError;
use super::ask::look;
use super::human::words;
use super::log_monitor::{LogMonitor, link_words};
use super::pair::PairFile;
use crate::brain::alarm::Alert;
use crate::brain::monitor::{LinkState, Monitor, Progress};
use crate::brain::status::State;
use crate::config::{self, valid_pair};
use crate::model::RelPath;
use crate::service::alert::alert;
use crate::service::repeats::Repeats;
use crate::service::{control, notify};

/// The unit that waits for the message of a halt.
const HALT: &str = "psync-halt";
const AGENT: &str = "psync-agent@";
/// With this the units of checks begin.
const CHECK: &str = "psync-check";
/// Between two alerts of an agent that say the same.
const AGAIN: Duration = Duration::from_secs(3600);

/// The whole command; the exit code.
pub fn main(unit: &str) -> Result<u8, UsageError> {
    let none = || UsageError(format!("alert: `{unit}` is no unit of a pair, as psync-brain@PAIR.service is"));
    let pair = PairFile::of(pair_of(unit).ok_or_else(none)?)?;
    let text = if unit.starts_with(HALT) {
        match taken(&pair.name) {
            // It was left by somebody who has not written it yet, and writes another one.
            Ok(text) if text.is_empty() => return Ok(0),
            Ok(text) => text,
            // Another one has told it.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(e) => return Err(UsageError(format!("{}: {}", message_of(&pair.name).display(), words(&e)))),
        }
    } else {
        message(unit, &pair.name, |name| std::env::var(name).ok())
    };
    // A check that could not be done is told by the brain that knows why, if that is why.
    let told_by_brain = unit.starts_with(CHECK)
        && std::env::var("MONITOR_EXIT_STATUS").is_ok_and(|status| status == "1")
        && matches!(look(&pair), Ok(Some(status)) if matches!(status.state, State::Disconnected | State::Halted));
    let told = told_by_brain || (unit.starts_with(AGENT) && told_lately(unit, &text));
    if !told {
        tell(&pair, &text);
    }
    Ok(0)
}

/// An agent that cannot serve fails whenever its brain calls, which may be every minute: it is told once an hour,
/// however it failed (of a unit that was started again meanwhile, systemd no longer says how).
fn told_lately(unit: &str, text: &str) -> bool {
    let path = control::directory().join(format!("{unit}.told"));
    let age = fs::metadata(&path).and_then(|stat| stat.modified()).ok().and_then(|when| when.elapsed().ok());
    if age.is_some_and(|age| age < AGAIN) {
        return true;
    }
    // If it cannot be noted, it is told too often.
    let _ = fs::write(&path, text);
    false
}

fn tell(pair: &PairFile, text: &str) {
    // An unreadable configuration may be what the alert is about.
    let command = config::load_unsettled(&pair.path).ok().and_then(|(settings, _)| settings.alerts.command);
    alert(command.as_deref(), &pair.name, text);
}

/// Where a brain leaves the message of a halt.
fn message_of(pair: &str) -> PathBuf {
    control::directory().join(format!("{pair}.halt"))
}

/// Takes the messages away, so that they are told once.
fn taken(pair: &str) -> io::Result<String> {
    let path = message_of(pair);
    let mut file = File::open(&path)?;
    flock(&file, FlockOperation::LockExclusive)?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    fs::remove_file(&path)?;
    Ok(text)
}

/// Adds a message to those that were not taken away yet.
fn leave(path: &Path, text: &str) -> io::Result<()> {
    // The path unit must not see a file with half a message, nor may one be added to a file that was just taken away.
    loop {
        let mut file = File::options().append(true).create(true).open(path)?;
        flock(&file, FlockOperation::LockExclusive)?;
        let (held, there) = (file.metadata()?, fs::metadata(path));
        if there.is_ok_and(|there| there.ino() == held.ino() && there.dev() == held.dev()) {
            let between = if held.len() > 0 { "\n" } else { "" };
            return file.write_all(format!("{between}{text}").as_bytes());
        }
    }
}

/// What a service's brain tells: to the log, and halts to the administrator.
pub struct ServiceMonitor {
    log: LogMonitor,
    pair: PairFile,
    /// Why the right side was not reached, since it was there last.
    calls: Mutex<Repeats>,
}

impl ServiceMonitor {
    pub fn new(pair: &PairFile, logger: Logger) -> ServiceMonitor {
        ServiceMonitor { log: LogMonitor::new(logger), pair: pair.clone(), calls: Mutex::default() }
    }

    /// The pair cannot even begin; it goes on by itself.
    pub fn waits(&self, reason: &str) {
        let name = &self.pair.name;
        self.send(format!(
            "pair {name}: waits: {reason}\n\nIt goes on by itself once that is there. See `psync status {name}`.\n"
        ));
    }

    /// What it waited for is there.
    pub fn is_over(&self) {
        let name = &self.pair.name;
        self.send(format!("pair {name}: goes on: the root is there\n\nSee `psync status {name}`.\n"));
    }

    fn send(&self, text: String) {
        if !notify::supervised() {
            // The command may take its time, which the brain has not.
            let pair = self.pair.clone();
            let _ = std::thread::Builder::new().name("alert".into()).spawn(move || tell(&pair, &text));
        } else if let Err(e) = leave(&message_of(&self.pair.name), &text) {
            let name = &self.pair.name;
            error!(self.log.logger(), "the alert: {}: {}", message_of(name).display(), words(&e));
            alert(None, name, &text);
        }
    }
}

impl Monitor for ServiceMonitor {
    fn progress(&self, progress: &Progress) {
        self.log.progress(progress);
    }

    fn in_sync(&self, files: u64, bytes: u64) {
        self.log.in_sync(files, bytes);
    }

    fn round_over(&self, left: u64, files: u64, ends: bool) {
        self.log.round_over(left, files, ends);
    }

    fn halted(&self, reason: &str, advice: &str) {
        self.log.halted(reason, advice);
    }

    fn alert(&self, alert: &Alert) {
        let name = &self.pair.name;
        let advice = if alert.advice.is_empty() { String::new() } else { format!("{}\n\n", alert.advice) };
        self.send(format!("pair {name}: {}\n\n{advice}See `psync status {name}`.\n", alert.text));
    }

    fn problem(&self, path: &RelPath, text: &str) {
        self.log.problem(path, text);
    }

    fn solved(&self, path: &RelPath) {
        self.log.solved(path);
    }

    fn note(&self, text: &str) {
        self.log.note(text);
    }

    fn warning(&self, text: &str) {
        self.log.warning(text);
    }

    fn link(&self, state: &LinkState) {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        match state {
            LinkState::Connecting => {}
            LinkState::Up => {
                calls.forget();
                self.log.link(state);
            }
            LinkState::Down { reason, .. } => match calls.worth(reason, Instant::now()) {
                None => debug!(self.log.logger(), "{}", link_words(state)),
                Some(0) => self.log.link(state),
                Some(others) => self.log.link_down(&format!("{}, after {others} others in vain", link_words(state))),
            },
        }
    }
}

/// `psync-brain@PAIR.service` → `PAIR`.
fn pair_of(unit: &str) -> Option<&str> {
    let (_, instance) = unit.strip_prefix("psync-")?.split_once('@')?;
    let (pair, _) = instance.rsplit_once('.')?;
    valid_pair(pair).then_some(pair)
}

/// What happened, in one line, and where to look. systemd tells how the unit ended in its `MONITOR_` variables.
fn message(unit: &str, pair: &str, variable: impl Fn(&str) -> Option<String>) -> String {
    let status = variable("MONITOR_EXIT_STATUS");
    let how = match (variable("MONITOR_SERVICE_RESULT").as_deref(), status.as_deref()) {
        (Some("exit-code"), Some("2")) if unit.starts_with("psync-check") => {
            "found that the two sides differ".to_string()
        }
        (Some("exit-code"), Some("1")) if unit.starts_with(CHECK) => "could not compare the two sides".to_string(),
        (Some("exit-code"), Some(status)) => format!("failed with exit code {status}"),
        (Some("signal" | "core-dump"), Some(signal)) => format!("was killed by SIG{signal}"),
        (Some("watchdog"), _) => "made no progress, and was killed".to_string(),
        (Some("start-limit-hit"), _) => "failed too often, and is not tried again".to_string(),
        // `success`: it was started again since, and that is what systemd speaks of.
        (Some(result), _) if result != "success" => format!("failed ({result})"),
        _ => "failed".to_string(),
    };
    let look = match variable("MONITOR_INVOCATION_ID") {
        Some(invocation) => format!("journalctl _SYSTEMD_INVOCATION_ID={invocation}"),
        None => format!("journalctl -u {unit}"),
    };
    format!("pair {pair}: {unit} {how}\n\nSee `systemctl status {unit}` and `{look}`.\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pair_of_a_unit() {
        for (unit, pair) in [
            ("psync-brain@web.service", Some("web")),
            ("psync-agent@a.b-c.socket", Some("a.b-c")),
            ("psync-brain.service", None),
            ("psync-brain@.service", None),
            ("psync-brain@../x.service", None),
            ("cron.service", None),
            ("", None),
        ] {
            assert_eq!(pair_of(unit), pair, "{unit}");
        }
    }

    #[test]
    fn messages_say_how_it_ended() {
        for (unit, result, status, want) in [
            ("psync-brain@p.service", "exit-code", "5", "failed with exit code 5"),
            ("psync-check@p.service", "exit-code", "2", "found that the two sides differ"),
            ("psync-checksum@p.service", "exit-code", "1", "could not compare the two sides"),
            ("psync-brain@p.service", "signal", "KILL", "was killed by SIGKILL"),
            ("psync-brain@p.service", "watchdog", "ABRT", "made no progress, and was killed"),
            ("psync-agent@p.service", "success", "0", "failed"),
        ] {
            let variable = |name: &str| match name {
                "MONITOR_SERVICE_RESULT" => Some(result.to_string()),
                "MONITOR_EXIT_STATUS" => Some(status.to_string()),
                _ => None,
            };
            let text = message(unit, "p", variable);
            assert_eq!(text.lines().next(), Some(format!("pair p: {unit} {want}").as_str()));
        }
        let text = message("psync-agent@p.socket", "p", |_| None);
        assert!(text.starts_with("pair p: psync-agent@p.socket failed\n"), "{text}");
        assert!(text.contains("journalctl -u psync-agent@p.socket"), "{text}");
    }

    #[test]
    fn messages_wait_for_each_other() {
        let temp = tempfile::tempdir().expect("dir");
        let path = temp.path().join("web.halt");
        leave(&path, "one\n").expect("left");
        leave(&path, "two\n").expect("left");
        assert_eq!(fs::read_to_string(&path).expect("there"), "one\n\ntwo\n");
    }

    #[test]
    fn a_name_that_is_no_unit_is_an_error_of_usage() {
        let error = main("cron.service").expect_err("no unit of ours").to_string();
        assert_eq!(error, "alert: `cron.service` is no unit of a pair, as psync-brain@PAIR.service is");
    }
}
