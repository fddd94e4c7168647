//! From the engine's news to the monitor and the log.

use slog::{debug, info, warn};

use super::Job;
use super::monitor::{Exit, Monitor, Phase, Progress};
use crate::engine::News;
use crate::model::{Generation, ProblemKind, Side};
use crate::service::log::{EVENT_ID, METHOD, PATH, SIDE};

pub struct Teller<'a> {
    pub monitor: &'a dyn Monitor,
    job: &'a Job,
    synced: bool,
    scanned: [(u64, u64); 2],
    copied: (u64, u64),
    /// Actions told of in a dry run.
    planned: u64,
    unsynced: std::collections::BTreeSet<(Side, crate::model::RelPath)>,
}

impl<'a> Teller<'a> {
    pub fn new(monitor: &'a dyn Monitor, job: &'a Job, synced: bool) -> Teller<'a> {
        Teller { monitor, job, synced, scanned: [(0, 0); 2], copied: (0, 0), planned: 0, unsynced: Default::default() }
    }

    /// How a run ends that was asked to stop.
    pub fn exit(&self) -> Exit {
        Exit::Done
    }

    pub fn news(&mut self, news: &News) {
        let log = &self.job.logger;
        match news {
            News::Scanning { side, files, bytes } => {
                self.scanned[usize::from(*side == Side::Right)] = (*files, *bytes);
                self.progress();
            }
            News::InSync { files, bytes } => {
                if !self.synced {
                    self.synced = true;
                    match self.job.settings.dryrun {
                        true => self.monitor.note(&format!(
                            "{} dry run: {} actions would be done; nothing was changed",
                            self.job.pair, self.planned
                        )),
                        false => self.monitor.in_sync(*files, *bytes),
                    }
                }
            }
            News::Begun { generation, side, what, path, from, bytes } => {
                if !self.synced {
                    self.copied.0 += u64::from(*what == "put");
                    self.copied.1 += bytes;
                    self.progress();
                }
                let from = from.as_ref().map(|from| format!(" from {from}")).unwrap_or_default();
                if self.job.settings.dryrun {
                    self.planned += 1;
                    info!(log, "would be done: action {what} on the {} side: {path}{from}", side.word();
                        METHOD => method(what), PATH => path.to_string(), SIDE => letter(*side),
                        EVENT_ID => event_id(*generation));
                    return;
                }
                debug!(log, "action {what} on the {} side: {path}{from}", side.word();
                    METHOD => method(what), PATH => path.to_string(), SIDE => letter(*side),
                    EVENT_ID => event_id(*generation));
            }
            News::Completed { generation, path } => {
                slog::trace!(log, "recorded {path}"; PATH => path.to_string(), EVENT_ID => event_id(*generation));
            }
            News::Conflict { path, loser, copy } => {
                let kept = match copy {
                    Some(copy) => format!("kept as {copy}"),
                    None => "kept in the trash".to_owned(),
                };
                warn!(log, "conflict: {path}: the {} version lost and is {kept}", loser.word(); PATH => path.to_string());
            }
            News::Problem { side, path, problem } => match problem {
                Some(problem) => {
                    let skipped = matches!(problem.kind, ProblemKind::Unsupported | ProblemKind::OtherFileSystem);
                    if !skipped {
                        self.unsynced.insert((*side, path.clone()));
                    }
                    self.monitor.problem(path, &format!("{} side: {}", side.word(), problem.detail));
                }
                None => {
                    self.unsynced.remove(&(*side, path.clone()));
                    self.monitor.solved(path);
                }
            },
            News::Halted { reason, advice } => self.monitor.halted(reason, advice),
            News::Note { side, text } => info!(log, "{text}"; SIDE => letter(*side)),
            News::Stopped if self.job.settings.dryrun => {}
            News::Stopped => info!(log, "stopped; everything is recorded"),
        }
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

fn method(what: &str) -> &'static str {
    match what {
        "put" => "RSYNC",
        "move" => "MOVE",
        "delete" => "DELETE",
        _ => "META",
    }
}

fn letter(side: Side) -> &'static str {
    match side {
        Side::Left => "L",
        Side::Right => "R",
    }
}

/// Five hex digits, the same on both sides.
fn event_id(generation: Generation) -> String {
    format!("{:05x}", generation & 0xf_ffff)
}
