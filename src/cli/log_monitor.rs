//! What the brain does, as records of the log.

use slog::{Logger, error, info, warn};

use crate::brain::alarm::Alert;
use crate::brain::monitor::{LinkState, Monitor, Progress};
use crate::model::RelPath;
use crate::service::log::{MESSAGE_ID, PATH, SIDE, message_id};

/// The monitor of a service; that of a terminal logs by it as well.
pub struct LogMonitor {
    logger: Logger,
}

impl LogMonitor {
    pub fn new(logger: Logger) -> LogMonitor {
        LogMonitor { logger }
    }

    pub fn logger(&self) -> &Logger {
        &self.logger
    }
}

impl Monitor for LogMonitor {
    fn progress(&self, _: &Progress) {}

    fn in_sync(&self, files: u64, bytes: u64) {
        info!(self.logger, "in sync";
            MESSAGE_ID => message_id::IN_SYNC, SIDE => "B", "files" => files, "bytes" => bytes);
    }

    fn round_over(&self, left: u64, files: u64, ends: bool) {
        info!(self.logger, "{}", round_over(left, files, ends); SIDE => "B");
    }

    fn halted(&self, reason: &str, advice: &str) {
        error!(self.logger, "halted: {}", reason;
            MESSAGE_ID => message_id::HALT, SIDE => "B", "advice" => advice.to_string());
    }

    /// Who reads a log, or sits at a terminal, has been told.
    fn alert(&self, _: &Alert) {}

    fn problem(&self, path: &RelPath, text: &str) {
        warn!(self.logger, "not synchronised: {}", text; MESSAGE_ID => message_id::PROBLEM, PATH => path.to_string());
    }

    fn solved(&self, path: &RelPath) {
        info!(self.logger, "synchronised again"; PATH => path.to_string());
    }

    fn note(&self, text: &str) {
        info!(self.logger, "{}", text);
    }

    fn warning(&self, text: &str) {
        warn!(self.logger, "{}", text);
    }

    fn link(&self, state: &LinkState) {
        match state {
            // Said by what follows.
            LinkState::Connecting => {}
            LinkState::Up => info!(self.logger, "{}", link_words(state); MESSAGE_ID => message_id::LINK_UP),
            LinkState::Down { .. } => self.link_down(&link_words(state)),
        }
    }
}

impl LogMonitor {
    pub fn link_down(&self, text: &str) {
        warn!(self.logger, "{}", text; MESSAGE_ID => message_id::LINK_DOWN);
    }
}

/// The link's state as it is told; nothing while it is called.
pub fn link_words(state: &LinkState) -> String {
    match state {
        LinkState::Connecting => String::new(),
        LinkState::Up => "link up".to_string(),
        LinkState::Down { reason, retry: None } => format!("link down: {reason}"),
        LinkState::Down { reason, retry: Some(seconds) } => format!("link down: {reason}; next attempt in {seconds} s"),
    }
}

/// That a run has come to its end though users do not rest, in words.
pub fn round_over(left: u64, files: u64, ends: bool) -> String {
    let rest = if ends { "left to the next run" } else { "on the way" };
    let changes = match left {
        0 => String::new(),
        1 => format!(", and 1 change since then is {rest}"),
        left => format!(", and {left} changes since then are {rest}"),
    };
    format!("has dealt with all that was found: {files} files; users do not rest{changes}")
}
