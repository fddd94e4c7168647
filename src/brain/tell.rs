//! From the engine's news to the monitor, the log and the board.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use slog::{Logger, debug, info, warn};

use super::Job;
use super::desk::Desk;
use super::monitor::{Monitor, Phase, Progress};
use super::status::{ConflictStatus, FullSync, Halt, ProblemStatus, Rates, wall};
use crate::engine::News;
use crate::model::{RelPath, Side};
use crate::service::log::{EVENT_ID, MESSAGE_ID, METHOD, PATH, SIDE, event_id, message_id, method, side_letter};

/// Problems that are known by path; of more only the number of tellings counts.
const PROBLEMS: usize = 100_000;
/// Problems and conflicts that the board shows.
const SHOWN: (usize, usize) = (100, 20);
/// Rates are those of so long a time.
const WINDOW: Duration = Duration::from_secs(60);

pub struct Teller<'a> {
    monitor: &'a dyn Monitor,
    desk: &'a Desk,
    log: Logger,
    pair: String,
    dry_run: bool,
    /// Both sides were equal at some time in this run.
    pub synced: bool,
    scanned: [(u64, u64); 2],
    copied: (u64, u64),
    /// Actions told of in a dry run.
    planned: u64,
    unsynced: BTreeMap<(Side, RelPath), String>,
    full_syncs: u64,
    /// What was done, by the second in which it was.
    done: VecDeque<(Instant, u64, u64)>,
}

impl<'a> Teller<'a> {
    pub fn new(monitor: &'a dyn Monitor, desk: &'a Desk, job: &Job) -> Teller<'a> {
        Teller {
            monitor,
            desk,
            log: job.logger.clone(),
            pair: job.pair.clone(),
            dry_run: job.settings.dryrun,
            synced: false,
            scanned: [(0, 0); 2],
            copied: (0, 0),
            planned: 0,
            unsynced: BTreeMap::new(),
            full_syncs: 0,
            done: VecDeque::new(),
        }
    }

    /// A session begins: both sides tell their problems anew, and those that both scan are a full sync.
    pub fn begin(&mut self) {
        self.scanned = [(0, 0); 2];
        self.unsynced.clear();
        self.show_problems();
        self.desk.update(|status| {
            let first = FullSync { number: 0, begun: wall(), ended: None, checksum: false };
            status.full_sync.get_or_insert(first);
        });
    }

    /// An administrator says to go on after a halt.
    pub fn resumed(&mut self) {
        info!(self.log, "going on after the halt");
        self.desk.update(|status| status.halt = None);
    }

    pub fn next_full_sync(&mut self) -> u64 {
        self.full_syncs += 1;
        self.full_syncs
    }

    pub fn news(&mut self, news: &News) {
        match news {
            News::Scanning { side, files, bytes } => self.scanning(*side, *files, *bytes),
            News::InSync { files, bytes } => self.in_sync(*files, *bytes),
            News::Begun { .. } => self.begun(news),
            News::Completed { generation, path, bytes } => {
                self.count(*bytes);
                slog::trace!(self.log, "recorded {path}"; PATH => path.to_string(), EVENT_ID => event_id(*generation));
            }
            News::Conflict { generation, path, loser, copy } => {
                let kept = match copy {
                    Some(copy) => format!("kept as {copy}"),
                    None => "kept in the trash".to_owned(),
                };
                warn!(self.log, "conflict: {path}: the {} version lost and is {kept}", loser.word();
                    MESSAGE_ID => message_id::CONFLICT, PATH => path.to_string(), SIDE => side_letter(*loser),
                    EVENT_ID => event_id(*generation));
                let conflict = ConflictStatus {
                    when: wall(),
                    path: path.to_string(),
                    loser: loser.word().to_owned(),
                    copy: copy.as_ref().map(ToString::to_string),
                };
                self.desk.update(|status| {
                    status.totals.conflicts += 1;
                    status.conflicts.push(conflict);
                    let many = status.conflicts.len().saturating_sub(SHOWN.1);
                    status.conflicts.drain(..many);
                });
            }
            News::Problem { side, path, problem } => {
                let text = problem.as_ref().map(|problem| format!("{} side: {}", side.word(), problem.detail));
                self.problem(*side, path, text);
            }
            News::Halted { reason, advice } => {
                let halt = Halt { reason: reason.clone(), advice: advice.clone(), since: wall() };
                self.desk.update(|status| status.halt = Some(halt));
                self.monitor.halted(reason, advice);
            }
            News::Note { side, text } => info!(self.log, "{text}"; SIDE => side_letter(*side)),
            News::Lost { side, scope, reason } => {
                warn!(self.log, "events below {scope} were lost ({reason}): scanning it again";
                    MESSAGE_ID => message_id::OVERFLOW, SIDE => side_letter(*side), PATH => scope.to_string());
            }
            News::Stopped if self.dry_run => {}
            News::Stopped => info!(self.log, "stopped; everything is recorded"),
        }
    }

    /// What was done in the last minute, by the second.
    pub fn rates(&mut self) -> Rates {
        while self.done.front().is_some_and(|(when, ..)| when.elapsed() > WINDOW) {
            self.done.pop_front();
        }
        let (actions, bytes) = self.done.iter().fold((0, 0), |sum, (_, a, b)| (sum.0 + a, sum.1 + b));
        let seconds = WINDOW.as_secs_f64();
        Rates { actions_per_second: actions as f64 / seconds, bytes_per_second: bytes as f64 / seconds }
    }

    fn count(&mut self, bytes: u64) {
        match self.done.back_mut().filter(|(when, ..)| when.elapsed() < Duration::from_secs(1)) {
            Some((_, actions, sum)) => (*actions, *sum) = (*actions + 1, *sum + bytes),
            None => self.done.push_back((Instant::now(), 1, bytes)),
        }
        self.desk.update(|status| {
            status.totals.actions += 1;
            status.totals.bytes += bytes;
        });
    }

    fn scanning(&mut self, side: Side, files: u64, bytes: u64) {
        self.scanned[usize::from(side == Side::Right)] = (files, bytes);
        self.desk.update(|status| {
            let side = status.side(side);
            (side.files, side.bytes) = (files, bytes);
        });
        self.progress();
    }

    fn in_sync(&mut self, files: u64, bytes: u64) {
        let now = wall();
        let mut ended = None;
        self.desk.update(|status| {
            (status.files, status.bytes, status.last_in_sync) = (files, bytes, Some(now));
            if let Some(sync) = status.full_sync.as_mut().filter(|sync| sync.ended.is_none()) {
                sync.ended = Some(now);
                status.totals.full_syncs += 1;
                ended = Some(sync.clone());
            }
        });
        if let Some(sync) = ended.filter(|_| !self.dry_run) {
            let how = if sync.checksum { ", with checksums" } else { "" };
            info!(self.log, "full sync done{how}: {files} files, {} s", now.saturating_sub(sync.begun);
                MESSAGE_ID => message_id::FULL_SYNC, SIDE => "B");
        }
        if self.synced {
            return;
        }
        self.synced = true;
        match self.dry_run {
            true => self
                .monitor
                .note(&format!("{} dry run: {} actions would be done; nothing was changed", self.pair, self.planned)),
            false => self.monitor.in_sync(files, bytes),
        }
    }

    fn begun(&mut self, news: &News) {
        let News::Begun { generation, side, what, path, from, bytes } = news else { return };
        if !self.synced {
            self.copied.0 += u64::from(*what == "put");
            self.copied.1 += bytes;
            self.progress();
        }
        let from = from.as_ref().map(|from| format!(" from {from}")).unwrap_or_default();
        let word = side.word();
        if self.dry_run {
            self.planned += 1;
            info!(self.log, "would be done: action {what} on the {word} side: {path}{from}";
                METHOD => method(what), PATH => path.to_string(), SIDE => side_letter(*side),
                EVENT_ID => event_id(*generation));
            return;
        }
        debug!(self.log, "action {what} on the {word} side: {path}{from}";
            METHOD => method(what), PATH => path.to_string(), SIDE => side_letter(*side),
            EVENT_ID => event_id(*generation));
    }

    /// A problem is told once, however often it is met.
    fn problem(&mut self, side: Side, path: &RelPath, text: Option<String>) {
        let key = (side, path.clone());
        match text {
            Some(text) => {
                if self.unsynced.get(&key) == Some(&text) {
                    return;
                }
                self.monitor.problem(path, &text);
                self.desk.update(|status| status.totals.problems += 1);
                if self.unsynced.len() < PROBLEMS {
                    self.unsynced.insert(key, text);
                }
            }
            None => {
                self.unsynced.remove(&key);
                self.monitor.solved(path);
            }
        }
        self.show_problems();
    }

    fn show_problems(&self) {
        let shown = self.unsynced.iter().take(SHOWN.0).map(|((side, path), text)| ProblemStatus {
            side: side.word().to_owned(),
            path: path.to_string(),
            text: text.clone(),
        });
        let (shown, number) = (shown.collect(), self.unsynced.len() as u64);
        self.desk.update(|status| (status.problems, status.problems_now) = (shown, number));
    }

    fn progress(&self) {
        if self.synced {
            return;
        }
        let [left, right] = self.scanned;
        let copying = self.copied.0 > 0;
        let (files, bytes) = if copying { self.copied } else { left.max(right) };
        let phase = if copying { Phase::Copy } else { Phase::Scan };
        self.monitor.progress(&Progress { phase, files, bytes, files_total: None, bytes_total: None });
    }
}
