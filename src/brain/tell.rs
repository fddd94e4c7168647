//! From the engine's news to the monitor, the log and the board.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::{Duration, Instant};

use slog::{Logger, debug, info, warn};

use super::Job;
use super::desk::Desk;
use super::lasting::Lasting;
use super::ledger::Ledger;
use super::monitor::Monitor;
use super::patience::{Patience, Verdict};
use super::progress::Count;
use super::rates::Meter;
use super::status::{ConflictStatus, FullSync, Halt, ProblemStatus, Rates, wall};
use crate::config::Settings;
use crate::engine::News;
use crate::model::{Generation, Millis, RelPath, Side, millis};
use crate::protocol::{Kept, Reply, Request};
use crate::replica::disk::{CAPABILITY_REFUSED, GROUP_REFUSED, OWNER_REFUSED, SETUID_REFUSED};
use crate::replica::real::OwnDir;
use crate::service::events::Event;
use crate::service::log::{EVENT_ID, MESSAGE_ID, METHOD, PATH, SIDE, event_id, message_id, method, side_letter};
use crate::service::repeats::{Repeats, without_figures};

/// Different notes of endpoints in an hour.
const NOTES: usize = 4096;
/// Problems that last are looked through so often.
const LOOK: Duration = Duration::from_secs(60);
/// Problems and conflicts that the board shows.
const SHOWN: (usize, usize) = (100, 20);

pub struct Teller<'a> {
    monitor: &'a dyn Monitor,
    desk: &'a Desk,
    log: Logger,
    about: About,
    /// The halt ends by itself once both sides exchange what they know; another one only when they are equal, since it may be
    /// found again before.
    passes: bool,
    syncs: Syncs,
    patience: Patience,
    problems: Lasting,
    /// When the problems that last are looked through again.
    next_look: Instant,
    once: Once,
    meter: Meter,
    ledger: Ledger,
}

/// Which run is told of.
struct About {
    pair: String,
    /// The right side's host, if it has one of its own.
    host: Option<String>,
    dry_run: bool,
    /// A halt is waited out.
    persistent: bool,
    /// The run ends when what its scans found is dealt with.
    one_time: bool,
}

impl About {
    fn of(job: &Job) -> About {
        let dry_run = job.settings.shared.run.dryrun;
        About {
            pair: job.pair.clone(),
            host: job.settings.right.host.clone(),
            dry_run,
            persistent: job.persistent,
            one_time: job.settings.program.first_sync_only || dry_run,
        }
    }
}

/// How far the run's full syncs are.
#[derive(Default)]
struct Syncs {
    /// How many were asked for.
    number: u64,
    /// How far the initial one is, in a session before its end.
    count: Option<Count>,
    /// Sides that scan, or have in this session.
    scanned: BTreeSet<Side>,
    /// Both sides were equal at some time in this run, or what they differed in at its beginning is dealt with.
    synced: bool,
    /// That both sides are equal was told in this run.
    told_equal: bool,
    /// Actions told of in a dry run.
    planned: u64,
}

/// What is told once, however often it is heard.
struct Once {
    /// In a run, over all its sessions.
    told: BTreeSet<String>,
    /// What endpoints note.
    notes: Repeats,
    halts: Repeats,
    /// Attributes that could not be set, by side and kind.
    not_set: BTreeMap<(Side, String), u64>,
}

impl<'a> Teller<'a> {
    pub fn new(monitor: &'a dyn Monitor, desk: &'a Desk, job: &Job) -> Teller<'a> {
        let about = About::of(job);
        let once = Once {
            told: BTreeSet::new(),
            notes: Repeats::of(NOTES),
            halts: Repeats::default(),
            not_set: BTreeMap::new(),
        };
        Teller {
            monitor,
            desk,
            log: job.logger.clone(),
            passes: false,
            syncs: Syncs::default(),
            patience: Patience::new(etimeout(&job.settings)),
            problems: Lasting::default(),
            next_look: Instant::now(),
            once,
            meter: Meter::default(),
            ledger: Ledger::new(about.dry_run),
            about,
        }
    }

    /// Whether both sides were equal at some time in this run, or what they differed in at its beginning is dealt with.
    pub fn synced(&self) -> bool {
        self.syncs.synced
    }

    /// A session begins: both sides tell their problems anew, and those that both scan are a full sync.
    pub fn begin(&mut self, settings: &Settings) {
        self.syncs.count = (!self.syncs.synced).then(Count::default);
        self.patience = Patience::new(etimeout(settings));
        self.once.not_set.clear();
        self.problems.begin();
        self.syncs.scanned.clear();
        self.show_problems();
        self.desk.update(|status| {
            let first = FullSync { number: 0, begun: wall(), ended: None, checksum: false };
            status.full_sync.get_or_insert(first);
        });
    }

    /// An administrator says to go on after a halt.
    pub fn resumed(&mut self) {
        info!(self.log, "going on after the halt");
        self.once.halts.forget();
        self.end_halt();
    }

    /// The sides exchange what they know, and changes are carried over.
    pub fn goes_on(&mut self) {
        if self.passes {
            self.end_halt();
        }
    }

    fn end_halt(&mut self) {
        self.passes = false;
        self.desk.know(|facts, status| (facts.halted, status.halt) = (false, None));
    }

    /// Whose words follow: a host has a name.
    fn who(&self, side: Side) -> String {
        match (&self.about.host, side) {
            (Some(host), Side::Right) => host.clone(),
            _ => format!("{} side", side.word()),
        }
    }

    /// The same for what the engine said, which knows no names.
    fn named(&self, text: &str) -> String {
        match (&self.about.host, text.strip_prefix("right side")) {
            (Some(host), Some(rest)) => format!("{host}{rest}"),
            _ => text.to_owned(),
        }
    }

    pub fn next_full_sync(&mut self) -> u64 {
        self.syncs.number += 1;
        self.syncs.number
    }

    /// A side said something.
    pub fn heard(&mut self, side: Side, reply: &Reply, now: Millis) {
        if let Some(verdict) = self.patience.heard(side, reply, now) {
            self.verdict(verdict);
        }
        if let Some(count) = &mut self.syncs.count {
            count.heard(side, reply);
        }
        for (generation, path) in self.ledger.heard(side, reply) {
            self.conflict(generation, &path, side, &Kept::Untold);
        }
    }

    /// A side is asked for something.
    pub fn asked(&mut self, side: Side, request: &Request, now: Millis) {
        if let Request::Go { scan, .. } = request {
            let what = if *scan { "is scanned" } else { "has been watching: no scan" };
            debug!(self.log, "session: the {} side {what}", side.word(); SIDE => side_letter(side));
        }
        if matches!(request, Request::Go { scan: true, .. } | Request::Scan { .. }) {
            self.syncs.scanned.insert(side);
            self.desk.update(|status| status.side(side).scans += 1);
        }
        if let Request::Data { generation, data } = request {
            self.meter.passed(*generation, data, Instant::now());
        }
        self.patience.asked(side, request, now);
        if let Some(count) = &mut self.syncs.count {
            count.asked(request);
        }
    }

    /// Shows how far the initial sync is, and looks for a side that has not moved for too long.
    pub fn look(&mut self, now: Millis) {
        if let Some(count) = &self.syncs.count {
            self.monitor.progress(&count.progress());
        }
        for verdict in self.patience.check(now) {
            self.verdict(verdict);
        }
        self.remind();
    }

    fn verdict(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Stuck { side, path, others, waited } => {
                let (who, seconds) = (self.who(side), waited as f64 / 1000.0);
                let others = if others > 0 { format!(" ({others} more actions wait)") } else { String::new() };
                self.problem(side, &path, Some(format!("{who}: no progress for {seconds} s{others}")));
            }
            Verdict::Moves { side, path } => self.problem(side, &path, None),
        }
    }

    pub fn news(&mut self, news: &News) {
        if let Some(count) = &mut self.syncs.count {
            count.news(news);
        }
        match news {
            News::Scanning { side, files, bytes } => self.scanning(*side, *files, *bytes),
            News::InSync { files, bytes } => self.in_sync(*files, *bytes),
            News::RoundOver { left, files, bytes } => self.round_over(*left, *files, *bytes),
            News::Begun { .. } => self.begun(news),
            News::Completed { generation, path, bytes } => {
                self.completed(*generation, *bytes);
                let written = self.ledger.completed(*generation, *bytes);
                self.written(written);
                slog::trace!(self.log, "recorded {path}"; PATH => path.to_string(), EVENT_ID => event_id(*generation));
            }
            News::Conflict { generation, path, loser, kept } => self.conflict(*generation, path, *loser, kept),
            News::Dropped { generation, path, what } => {
                warn!(self.log, "{path}: {what} was granted to other contents, and is dropped";
                    PATH => path.to_string(), EVENT_ID => event_id(*generation));
                self.warn_once(
                    "dropped".to_owned(),
                    "setuid, setgid or capabilities were granted to other contents than \
                    those that lie there now, and are dropped: the log names the files",
                );
            }
            News::Problem { side, path, problem } => {
                let text = problem.as_ref().map(|problem| format!("{}: {}", self.who(*side), problem.detail));
                self.problem(*side, path, text);
            }
            News::NotSet { side, counts } => {
                self.once.not_set.extend(counts.iter().map(|(what, count)| ((*side, what.clone()), *count)));
            }
            News::Unproven { side, files } => self.desk.update(|status| status.side(*side).unproven = *files),
            News::Special { side, files } => self.desk.update(|status| status.side(*side).special = *files),
            News::Warning { what, text } => self.warn_once((*what).to_owned(), text),
            News::Halted { reason, advice, away } => {
                let reason = self.named(reason);
                self.passes = away.is_some();
                let advice = match away.filter(|_| self.about.persistent && advice.is_empty()) {
                    Some(_) => "it goes on by itself once that is mended",
                    None => advice,
                };
                let halt = Halt { reason: reason.clone(), advice: advice.to_owned(), since: wall() };
                self.desk.know(|facts, status| {
                    facts.halted = true;
                    // A halted pair whose link was lost meanwhile finds the same again.
                    let same = |before: &Halt| without_figures(&before.reason).eq(without_figures(&halt.reason));
                    let since = status.halt.as_ref().filter(|before| same(before)).map_or(halt.since, |b| b.since);
                    status.halt = Some(Halt { since, ..halt });
                });
                // A side that cannot go on says the same at each call.
                let words: String = without_figures(&reason).collect();
                if self.once.halts.worth(&words, Instant::now()).is_some() {
                    self.monitor.halted(&reason, advice);
                }
            }
            News::Tally { side, files, bytes } => self.desk.update(|status| {
                let of = status.side(*side);
                (of.files, of.bytes) = (*files, *bytes);
                if *side == Side::Left {
                    (status.files, status.bytes) = (*files, *bytes);
                }
            }),
            News::Note { side, text } => {
                let key = format!("{} {text}", side.word());
                match self.once.notes.worth(&key, Instant::now()) {
                    None => {}
                    Some(0) => info!(self.log, "{text}"; SIDE => side_letter(*side)),
                    Some(more) => {
                        info!(self.log, "{text} (and {more} times what was told before)"; SIDE => side_letter(*side));
                    }
                }
            }
            News::Lost { side, scope, reason } => {
                warn!(self.log, "events below {scope} were lost ({reason}): scanning it again";
                    MESSAGE_ID => message_id::OVERFLOW, SIDE => side_letter(*side), PATH => scope.to_string());
            }
            News::Stopped if self.about.dry_run => {}
            News::Stopped => info!(self.log, "stopped; everything is recorded"),
        }
    }

    /// What is done at the moment.
    pub fn rates(&mut self) -> Rates {
        self.meter.rates(Instant::now())
    }

    fn completed(&mut self, generation: Generation, bytes: u64) {
        self.meter.completed(generation, bytes, Instant::now());
        self.desk.update(|status| {
            status.totals.actions += 1;
            status.totals.bytes += bytes;
        });
    }

    fn scanning(&self, side: Side, files: u64, bytes: u64) {
        self.desk.update(|status| {
            let side = status.side(side);
            (side.seen_files, side.seen_bytes) = (files, bytes);
        });
    }

    fn in_sync(&mut self, files: u64, bytes: u64) {
        let now = wall();
        self.desk.update(|status| {
            (status.files, status.bytes, status.last_in_sync) = (files, bytes, Some(now));
        });
        self.end_full_sync(files);
        if !std::mem::replace(&mut self.syncs.told_equal, true) {
            match self.about.dry_run {
                true => self.tell_planned(),
                false => self.monitor.in_sync(files, bytes),
            }
        }
    }

    /// What the scans found is dealt with, and users do not rest.
    fn round_over(&mut self, left: u64, files: u64, bytes: u64) {
        self.desk.update(|status| (status.files, status.bytes) = (files, bytes));
        if self.end_full_sync(files) {
            self.monitor.round_over(left, files, self.about.one_time);
            self.tell_planned();
        }
    }

    /// Of a dry run what it would have done.
    fn tell_planned(&self) {
        if self.about.dry_run {
            let text = format!(
                "{} dry run: {} actions would be done; nothing was changed",
                self.about.pair, self.syncs.planned
            );
            self.monitor.note(&text);
        }
    }

    /// Whether a path is not synchronised for now.
    pub fn has_problems(&self) -> bool {
        self.problems.number() > 0
    }

    /// Both sides were scanned, and what was found is dealt with. True if it is the first time in this run.
    fn end_full_sync(&mut self, files: u64) -> bool {
        let now = wall();
        let mut ended = None;
        self.desk.update(|status| {
            if let Some(sync) = status.full_sync.as_mut().filter(|sync| sync.ended.is_none()) {
                sync.ended = Some(now);
                status.totals.full_syncs += 1;
                ended = Some(sync.clone());
            }
        });
        if let Some(sync) = ended.filter(|_| !self.about.dry_run) {
            let how = if sync.checksum { ", with checksums" } else { "" };
            info!(self.log, "full sync done{how}: {files} files, {} s", now.saturating_sub(sync.begun);
                MESSAGE_ID => message_id::FULL_SYNC, SIDE => "B");
        }
        self.tell_not_set();
        self.end_halt();
        self.once.halts.forget();
        for side in std::mem::take(&mut self.syncs.scanned) {
            for path in self.problems.settle(side, Instant::now()) {
                self.monitor.solved(&path);
            }
        }
        self.syncs.count = None;
        !std::mem::replace(&mut self.syncs.synced, true)
    }

    /// The left side is open: the pair's events go into its directory.
    pub fn keep_events_in(&mut self, own: Option<OwnDir>) {
        self.ledger.keep_in(own);
    }

    /// Tells once that the pair's events cannot be written.
    fn written(&mut self, written: io::Result<()>) {
        if let Err(error) = written {
            self.warn_once("events".to_owned(), &format!("the pair's events cannot be written: {error}"));
        }
    }

    fn begun(&mut self, news: &News) {
        let News::Begun { generation, side, what, path, from, loses, .. } = news else { return };
        let event = Event {
            when: wall(),
            side: side_letter(side.other()).to_owned(),
            method: method(what).to_owned(),
            id: event_id(*generation),
            path: path.to_string(),
            from: from.as_ref().map(ToString::to_string),
            copy: None,
            untold: false,
            bytes: 0,
        };
        self.ledger.begins(*generation, path, event, loses.then_some(*side));
        let from = from.as_ref().map(|from| format!(" from {from}")).unwrap_or_default();
        let word = side.word();
        if self.about.dry_run {
            self.syncs.planned += 1;
            info!(self.log, "would be done: action {what} on the {word} side: {path}{from}";
                METHOD => method(what), PATH => path.to_string(), SIDE => side_letter(*side),
                EVENT_ID => event_id(*generation));
            if *loses {
                warn!(self.log, "would be done: conflict: {path}: the {word} version would lose and be kept";
                    PATH => path.to_string(), SIDE => side_letter(*side), EVENT_ID => event_id(*generation));
            }
            return;
        }
        debug!(self.log, "action {what} on the {word} side: {path}{from}";
            METHOD => method(what), PATH => path.to_string(), SIDE => side_letter(*side),
            EVENT_ID => event_id(*generation));
    }

    /// A version has lost its name, and is kept on its side.
    fn conflict(&mut self, generation: Generation, path: &RelPath, loser: Side, kept: &Kept) {
        let (copy, untold) = match kept {
            Kept::Beside(copy) => (Some(copy.to_string()), false),
            Kept::Trash => (None, false),
            Kept::Untold => (None, true),
        };
        let at = match (&copy, untold) {
            (Some(copy), _) => format!("kept as {copy}"),
            (None, false) => "kept in the trash".to_owned(),
            (None, true) => "kept; under which name was not heard".to_owned(),
        };
        let (when, path, id, side) = (wall(), path.to_string(), event_id(generation), side_letter(loser));
        warn!(self.log, "conflict: {path}: the {} version lost and is {at}", loser.word();
            MESSAGE_ID => message_id::CONFLICT, PATH => path.clone(), SIDE => side, EVENT_ID => id.clone());
        let loser = loser.word().to_owned();
        let conflict = ConflictStatus { when, path: path.clone(), loser, copy: copy.clone(), untold };
        let (side, method) = (side.to_owned(), "CONFLICT".to_owned());
        let event = Event { when, side, method, id, path, from: None, copy, untold, bytes: 0 };
        let written = self.ledger.conflict(generation, event);
        self.written(written);
        self.desk.update(|status| {
            status.totals.conflicts += 1;
            status.conflicts.push(conflict);
            let many = status.conflicts.len().saturating_sub(SHOWN.1);
            status.conflicts.drain(..many);
        });
    }

    /// A path has a problem, or has none any more. How often that is told is [`Lasting`]'s.
    fn problem(&mut self, side: Side, path: &RelPath, text: Option<String>) {
        let now = Instant::now();
        match text {
            Some(text) => {
                if self.problems.meets(side, path, &text, now) {
                    self.monitor.problem(path, &text);
                    self.desk.update(|status| status.totals.problems += 1);
                }
            }
            None => {
                if self.problems.is_over(side, path, now) {
                    self.monitor.solved(path);
                }
            }
        }
        self.show_problems();
    }

    /// Tells of the problems that last, once an hour each.
    fn remind(&mut self) {
        let now = Instant::now();
        if now < self.next_look {
            return;
        }
        self.next_look = now + LOOK;
        let reminder = self.problems.remind(now);
        for (path, text, lasts) in reminder.named {
            self.monitor.problem(&path, &format!("{text} (for {})", in_words(lasts)));
        }
        if reminder.others > 0 {
            self.monitor.note(&format!("{} more paths are not synchronised: see `psync status`", reminder.others));
        }
    }

    fn show_problems(&self) {
        let shown = self.problems.present().take(SHOWN.0).map(|(side, path, text)| ProblemStatus {
            side: side.word().to_owned(),
            path: path.to_string(),
            text: text.to_owned(),
        });
        let (shown, number) = (shown.collect(), self.problems.number());
        self.desk.update(|status| (status.problems, status.problems_now) = (shown, number));
    }

    /// As rsync does: once for each kind, with the count, and never for each file.
    fn tell_not_set(&mut self) {
        for ((side, what), count) in std::mem::take(&mut self.once.not_set) {
            let key = format!("not set: {} {what}", side.word());
            let who = self.who(side);
            let objects = if count == 1 { "1 object".to_owned() } else { format!("{count} objects") };
            let what = attribute(&what);
            let text = format!("{who}: {what} of {objects} could not be set and stay as they are there");
            self.warn_once(key, &text);
        }
    }

    fn warn_once(&mut self, key: String, text: &str) {
        if self.once.told.insert(key) {
            self.monitor.warning(text);
        }
    }
}

fn etimeout(settings: &Settings) -> Millis {
    millis(settings.shared.patience.etimeout)
}

/// How long something lasts.
fn in_words(time: Duration) -> String {
    match time.as_secs() / 3600 {
        hours @ 0..48 => format!("{hours} h"),
        hours => format!("{} days", hours / 24),
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
        SETUID_REFUSED => "the setuid and setgid bits (see accept_setuid)",
        CAPABILITY_REFUSED => "the capabilities (see accept_capabilities)",
        OWNER_REFUSED => "the owners (see accept_owners)",
        GROUP_REFUSED => "the groups (see accept_owners)",
        other => other,
    }
}
