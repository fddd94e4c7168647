//! What an administrator asks of a running session: a full sync, a pause, other rules.

use std::collections::BTreeSet;

use crate::model::{Millis, RelPath, Side};
use crate::protocol::Request;

use super::guard::Guard;
use super::{Engine, News, Phase, Settings};

impl Settings {
    /// What an administrator does to go on after a halt, with these options.
    pub fn go_on(&self, options: &str) -> String {
        let options = if options.is_empty() { String::new() } else { format!(" {options}") };
        match self.service {
            true => format!("`psync resume {}{options}`", self.pair),
            false if options.is_empty() => "end this run and start again".to_owned(),
            false => format!("end this run and start again with{options}"),
        }
    }
}

impl Engine {
    /// A side wants no more. What it names to go on with is all that its words decide.
    pub(super) fn halt_by(&mut self, side: Side, reason: &str) {
        let advice = match reason.contains("--accept") {
            true => format!("nothing more is changed; to take the deletions: {}", self.settings.go_on("--accept")),
            false => format!("nothing more is changed; mend that, then go on: {}", self.settings.go_on("")),
        };
        self.halt(format!("{} side: {reason}", side.word()), advice);
    }

    /// Nothing more begins, until an administrator says so.
    pub(super) fn halt(&mut self, reason: String, advice: String) {
        self.halt_until(reason, advice, None);
    }

    /// The same; it goes on by itself once this side's root is there.
    pub(super) fn halt_until(&mut self, reason: String, advice: String, away: Option<Side>) {
        if self.phase != Phase::Halted {
            self.phase = Phase::Halted;
            self.tell(News::Halted { reason, advice, away });
        }
    }

    /// Both sides are to be scanned, once the scans that run are over. With `checksum` every file is read.
    pub(super) fn want_scan(&mut self, checksum: bool) {
        self.scan_wanted = Some(checksum || self.scan_wanted == Some(true));
        self.in_sync = false;
        self.try_again();
        // An explicit full sync deals with what differed at the start as well.
        self.settings.skip_initial = false;
    }

    /// Begins the scan that is wanted. A scan that still runs must end first: its end would be taken for this one's.
    pub(super) fn begin_wanted_scan(&mut self) {
        if self.phase != Phase::Running || self.paused || self.sides.values().any(|s| s.cursor.is_some()) {
            return;
        }
        let Some(checksum) = self.scan_wanted.take() else { return };
        self.round.begin();
        for side in Side::BOTH {
            self.send(side, Request::Scan { checksum });
            self.sides[side].cursor = Some(RelPath::root());
        }
    }

    /// Stops or starts propagation. What is under way is finished; what users change meanwhile waits on their side.
    pub(super) fn pause(&mut self, on: bool) {
        self.paused = on;
        self.in_sync = false;
        if self.phase == Phase::Running {
            self.hold(on);
        }
        if !on {
            self.try_again();
            self.resume_dir_times();
        }
    }

    /// Whatever failed, was refused or has no room is tried at once: an administrator may have mended it. The sides do the same
    /// with what they cannot report, when they scan or are no longer held.
    fn try_again(&mut self) {
        let mut paths: BTreeSet<RelPath> = self.strikes.keys().cloned().collect();
        for state in self.sides.values_mut() {
            paths.extend(state.failed.iter().chain(&state.problems).cloned());
            paths.extend(std::mem::take(&mut state.short).into_keys());
        }
        paths.iter().for_each(|path| self.forgive(path));
    }

    /// Tells both sides whether they may report.
    pub(super) fn hold(&mut self, on: bool) {
        for side in Side::BOTH {
            self.send(side, Request::Hold { on });
        }
    }

    /// A side tells how many files its archive has.
    pub(super) fn tally(&mut self, side: Side, files: u64, bytes: u64) {
        if side == Side::Left && !self.settings.dry_run {
            self.holds = (files, bytes);
        }
        self.tell(News::Tally { side, files, bytes });
    }

    /// Other rules, from now on.
    pub fn set_settings(&mut self, settings: Settings) {
        self.guard.set_limit(settings.max_delete);
        let skip_initial = self.settings.skip_initial;
        self.settings = Settings { skip_initial, ..settings };
    }

    /// What the guard has counted, for the next session.
    pub fn guard(&self) -> Guard {
        self.guard.clone()
    }

    /// Takes over what the guard of an earlier session has counted.
    pub fn inherit(&mut self, guard: Guard) {
        self.guard = guard;
        self.guard.set_limit(self.settings.max_delete);
    }

    /// Whether both sides are equal, as far as is known.
    pub fn is_in_sync(&self) -> bool {
        self.in_sync
    }

    /// Whether changes are carried over, once the sides have exchanged what they know.
    pub fn is_running(&self) -> bool {
        self.phase == Phase::Running
    }

    /// Whether this side is being scanned.
    pub fn is_scanning(&self, side: Side) -> bool {
        self.phase == Phase::Running && self.sides[side].cursor.is_some()
    }

    /// When the oldest change was reported that is not on both sides yet; those with a problem do not count. Looks at
    /// all of them.
    pub fn oldest(&self) -> Option<Millis> {
        let waiting = self.sides.values().flat_map(|s| &s.pending);
        let waiting = waiting.filter(|(path, _)| !self.has_problem(path)).map(|(_, pending)| pending.since);
        waiting.chain(self.flights.values().map(|flight| flight.since)).min()
    }
}
