//! From the engine's news to the monitor and the log.

use std::collections::{BTreeMap, BTreeSet};

use slog::{debug, info, warn};

use super::Job;
use super::monitor::{Exit, Monitor};
use super::patience::{Patience, Verdict};
use super::progress::Count;
use crate::endpoint::message::{Reply, Request};
use crate::engine::News;
use crate::model::{Generation, Millis, ProblemKind, Side};
use crate::service::log::{EVENT_ID, METHOD, PATH, SIDE};

pub struct Teller<'a> {
    pub monitor: &'a dyn Monitor,
    job: &'a Job,
    /// `None` after the initial sync.
    count: Option<Count>,
    patience: Patience,
    /// Attributes that could not be set, by side and kind.
    not_set: BTreeMap<(Side, String), u64>,
    /// What is told once in a run, over all its sessions.
    told_once: &'a mut BTreeSet<String>,
    /// Actions told of in a dry run.
    planned: u64,
    unsynced: BTreeSet<(Side, crate::model::RelPath)>,
}

impl<'a> Teller<'a> {
    pub fn new(
        monitor: &'a dyn Monitor,
        job: &'a Job,
        synced: bool,
        told_once: &'a mut BTreeSet<String>,
    ) -> Teller<'a> {
        let count = (!synced).then(Count::default);
        let patience = Patience::new(u64::try_from(job.settings.etimeout.as_millis()).unwrap_or(u64::MAX));
        Teller {
            monitor,
            job,
            count,
            patience,
            not_set: BTreeMap::new(),
            told_once,
            planned: 0,
            unsynced: BTreeSet::new(),
        }
    }

    /// A side said something.
    pub fn heard(&mut self, side: Side, reply: &Reply, now: Millis) {
        if let Some(verdict) = self.patience.heard(side, reply, now) {
            self.tell_verdict(verdict);
        }
        if let Some(count) = &mut self.count {
            count.heard(side, reply);
        }
    }

    /// A side is asked for something.
    pub fn asked(&mut self, side: Side, request: &Request, now: Millis) {
        self.patience.asked(side, request, now);
        if let Some(count) = &mut self.count {
            count.asked(request);
        }
    }

    /// How a run ends that was asked to stop.
    pub fn exit(&self) -> Exit {
        Exit::Done
    }

    /// Looks for a side that has not moved for too long.
    pub fn check(&mut self, now: Millis) {
        for verdict in self.patience.check(now) {
            self.tell_verdict(verdict);
        }
    }

    fn tell_verdict(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Stuck { side, path, others } => {
                let (side, seconds) = (side.word(), self.job.settings.etimeout.as_secs_f64());
                let others = if others > 0 { format!(" ({others} more actions wait)") } else { String::new() };
                self.monitor.problem(&path, &format!("{side} side: no progress for {seconds} s{others}"));
            }
            Verdict::Moves { path } => self.monitor.solved(&path),
        }
    }

    pub fn news(&mut self, news: &News) {
        if let Some(count) = &mut self.count {
            count.news(news);
        }
        let log = &self.job.logger;
        match news {
            News::Scanning { .. } => {}
            News::InSync { files, bytes } => {
                self.tell_not_set();
                if self.count.take().is_some() {
                    match self.job.settings.dryrun {
                        true => self.monitor.note(&format!(
                            "{} dry run: {} actions would be done; nothing was changed",
                            self.job.pair, self.planned
                        )),
                        false => self.monitor.in_sync(*files, *bytes),
                    }
                }
            }
            News::Begun { generation, side, what, path, from, .. } => {
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
            News::NotSet { side, counts } => {
                for (what, count) in counts {
                    self.not_set.insert((*side, what.clone()), *count);
                }
            }
            News::Warning { what, text } => self.warn_once((*what).to_owned(), text),
            News::Halted { reason, advice } => self.monitor.halted(reason, advice),
            News::Note { side, text } => info!(log, "{text}"; SIDE => letter(*side)),
            News::Stopped if self.job.settings.dryrun => {}
            News::Stopped => info!(log, "stopped; everything is recorded"),
        }
    }

    /// Shows how far the initial sync is.
    pub fn progress(&self) {
        if let Some(count) = &self.count {
            self.monitor.progress(&count.progress());
        }
    }

    /// As rsync does: once for each kind, with the count, and never for each file.
    fn tell_not_set(&mut self) {
        for ((side, what), count) in std::mem::take(&mut self.not_set) {
            let key = format!("not set: {} {what}", side.word());
            let objects = if count == 1 { "1 object".to_owned() } else { format!("{count} objects") };
            let what = attribute(&what);
            let side = side.word();
            self.warn_once(
                key,
                &format!("{side} side: {what} of {objects} could not be set and stay as they are there"),
            );
        }
    }

    fn warn_once(&mut self, key: String, text: &str) {
        if self.told_once.insert(key) {
            self.monitor.warning(text);
        }
    }
}

/// The attribute that an endpoint names, in a user's words.
fn attribute(what: &str) -> &str {
    match what {
        "owner" => "the owners",
        "group" => "the groups",
        "mode" => "the modes",
        "mtime" => "the times",
        "acl" => "the ACLs",
        "xattr" => "extended attributes",
        "capability" => "the capabilities",
        other => other,
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
