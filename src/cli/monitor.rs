//! Shows a user in front of a terminal, or a log that stderr goes to, what the brain does.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use slog::Logger;

use super::console::Console;
use super::human;
use super::log_monitor::{LogMonitor, link_words, round_over};
use crate::brain::alarm::Alert;
use crate::brain::monitor::{LinkState, Monitor, Phase, Progress};
use crate::model::{Millis, RelPath};
use crate::service::log::Target;

/// Between two drawings on a terminal.
const REDRAW: Millis = 200;
/// Between two lines where nothing can be drawn over.
const LINE: Millis = 10_000;
/// The rate is that of so long a time.
const WINDOW: Millis = 10_000;
/// A shorter time tells no rate.
const WINDOW_MIN: Millis = 1_000;

/// The monitor of a run in the foreground. What users should know goes to stderr, and to the log if that lies
/// elsewhere; never twice to the same place.
pub struct TerminalMonitor {
    pair: String,
    console: Console,
    log: LogMonitor,
    log_on_stderr: bool,
    start: Instant,
    meter: Mutex<Meter>,
}

impl TerminalMonitor {
    /// `target`: where `logger` writes.
    pub fn new(pair: &str, console: Console, logger: Logger, target: &Target) -> TerminalMonitor {
        let every = if console.is_terminal() { REDRAW } else { LINE };
        TerminalMonitor {
            pair: pair.to_string(),
            console,
            log: LogMonitor::new(logger),
            log_on_stderr: *target == Target::Stderr,
            start: Instant::now(),
            meter: Mutex::new(Meter::new(every)),
        }
    }

    fn progress_at(&self, now: Millis, progress: &Progress) {
        let width = self.console.width().unwrap_or(usize::MAX);
        let shown = self.meter.lock().unwrap_or_else(PoisonError::into_inner).line(now, progress, width);
        match shown {
            None => {}
            Some(line) if self.console.is_terminal() => self.console.draw(&line),
            Some(line) => self.console.line(&line),
        }
    }

    fn say(&self, text: &str) {
        self.console.line(&format!("psync: {text}"));
    }

    /// The record of the log stands for the line, where both would go to stderr.
    fn say_beside_log(&self, text: &str) {
        if !self.log_on_stderr {
            self.say(text);
        }
    }
}

impl Monitor for TerminalMonitor {
    fn progress(&self, progress: &Progress) {
        self.progress_at(u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX), progress);
    }

    fn in_sync(&self, files: u64, bytes: u64) {
        let text = format!("{} in sync: {files} files, {}", self.pair, human::bytes(bytes));
        self.say(&text);
        if !self.log_on_stderr {
            self.log.in_sync(files, bytes);
        }
    }

    fn round_over(&self, left: u64, files: u64, ends: bool) {
        self.say(&format!("{} {}", self.pair, round_over(left, files, ends)));
        if !self.log_on_stderr {
            self.log.round_over(left, files, ends);
        }
    }

    fn halted(&self, reason: &str, advice: &str) {
        self.log.halted(reason, advice);
        self.say_beside_log(&format!("{} halted: {reason} ({advice})", self.pair));
    }

    fn alert(&self, alert: &Alert) {
        self.log.alert(alert);
    }

    fn problem(&self, path: &RelPath, text: &str) {
        self.log.problem(path, text);
        self.say_beside_log(&format!("{path}: not synchronised: {text}"));
    }

    fn solved(&self, path: &RelPath) {
        self.log.solved(path);
        self.say_beside_log(&format!("{path}: synchronised again"));
    }

    fn note(&self, text: &str) {
        self.log.note(text);
        self.say_beside_log(text);
    }

    fn warning(&self, text: &str) {
        self.log.warning(text);
        self.say_beside_log(text);
    }

    fn link(&self, state: &LinkState) {
        self.log.link(state);
        // What is being called is said by what follows.
        if *state != LinkState::Connecting {
            self.say_beside_log(&link_words(state));
        }
    }
}

impl Drop for TerminalMonitor {
    fn drop(&mut self) {
        self.console.clear();
    }
}

/// Decides when progress is shown, and measures the rate. Pure.
struct Meter {
    every: Millis,
    last: Option<Millis>,
    phase: Option<Phase>,
    /// Time and bytes, the oldest first, at least `WINDOW` back if there is so much.
    samples: VecDeque<(Millis, u64)>,
}

impl Meter {
    fn new(every: Millis) -> Meter {
        Meter { every, last: None, phase: None, samples: VecDeque::new() }
    }

    fn line(&mut self, now: Millis, p: &Progress, width: usize) -> Option<String> {
        self.sample(now, p);
        // On a terminal at once, in a log only what takes its time.
        let due = self.last.map_or(if self.every == REDRAW { 0 } else { self.every }, |last| last + self.every);
        if now < due {
            return None;
        }
        self.last = Some(now);
        Some(describe(p, self.rate(), width))
    }

    fn sample(&mut self, now: Millis, p: &Progress) {
        if self.phase.replace(p.phase) != Some(p.phase) {
            self.samples.clear();
        }
        // Ten a second are enough for a rate.
        if self.samples.back().is_none_or(|(at, _)| now >= at + 100) {
            self.samples.push_back((now, p.bytes));
        }
        while self.samples.get(1).is_some_and(|(at, _)| at + WINDOW <= now) {
            self.samples.pop_front();
        }
    }

    /// Bytes per second.
    fn rate(&self) -> Option<u64> {
        let (first, last) = (self.samples.front()?, self.samples.back()?);
        let time = last.0 - first.0;
        let bytes = u128::from(last.1.saturating_sub(first.1));
        (time >= WINDOW_MIN).then(|| u64::try_from(bytes * 1000 / u128::from(time)).unwrap_or(u64::MAX))
    }
}

/// The line of progress in at most `width` columns. What a narrow terminal has no room for is left out, the time that is left last:
/// a terminal that cuts a line takes its end away, which is the best part of this one.
fn describe(p: &Progress, rate: Option<u64>, width: usize) -> String {
    let more = if p.more { "+" } else { "" };
    let of =
        |done: String, total: Option<String>| total.map_or(done.clone(), |total| format!("{done} of {total}{more}"));
    let files = format!("{} files", of(p.files.to_string(), p.files_total.map(|n| n.to_string())));
    let size = of(human::bytes(p.bytes), p.bytes_total.map(human::bytes));
    let part = p.bytes_total.filter(|total| *total > 0).map(|total| {
        let percent = u128::from(p.bytes.min(total)) * 100 / u128::from(total);
        format!("{percent} % of {}{more}", human::bytes(total))
    });
    let part = part.unwrap_or_else(|| human::bytes(p.bytes));
    let speed = rate.map(|rate| format!("{}/s", human::bytes(rate)));
    let left = rate
        .zip(p.bytes_total)
        .filter(|(rate, _)| *rate > 0)
        .map(|(rate, total)| format!("{}{more} left", human::duration(total.saturating_sub(p.bytes).div_ceil(rate))));
    let word = match p.phase {
        Phase::Scan => "reading",
        Phase::Copy => "copying",
    };
    let (speed, left) = match p.phase {
        Phase::Scan => (None, None),
        Phase::Copy => (speed, left),
    };
    let (begin, short) = (format!("psync: {word}: "), format!("{word}: "));
    let [all, some, few, fewest] = [
        (begin, vec![Some(files.clone()), Some(size.clone()), speed.clone(), left.clone()]),
        (short.clone(), vec![Some(files.clone()), Some(part.clone()), speed.clone(), left.clone()]),
        (short, vec![Some(part.clone()), speed.clone(), left.clone()]),
        (String::new(), vec![Some(part.clone()), left.clone()]),
    ]
    .map(|(begin, parts)| begin + &parts.into_iter().flatten().collect::<Vec<_>>().join(", "));
    let last = left.unwrap_or(part);
    let fits = |line: &String| line.chars().count() <= width;
    let found = [all, some, few, fewest, last.clone()].into_iter().find(fits);
    found.unwrap_or_else(|| last.chars().take(width).collect())
}

#[cfg(test)]
mod tests {
    use super::super::console::tests::Written;
    use super::*;
    use slog::o;

    const MIB: u64 = 1 << 20;

    fn copying(bytes: u64) -> Progress {
        let (files_total, bytes_total) = (Some(10), Some(100 * MIB));
        Progress { phase: Phase::Copy, files: bytes / (10 * MIB), bytes, files_total, bytes_total, more: false }
    }

    fn monitor(written: &Written, terminal: bool, target: Target) -> TerminalMonitor {
        TerminalMonitor::new("docs", written.console(terminal), Logger::root(slog::Discard, o!()), &target)
    }

    #[test]
    fn a_terminal_is_drawn_at_most_five_times_a_second() {
        let written = Written::default();
        let monitor = monitor(&written, true, Target::Stderr);
        for now in 0..=2000 {
            monitor.progress_at(now, &copying(now * MIB / 100));
        }
        let text = written.take();
        let drawn: Vec<&str> = text.split("\r\x1b[K").skip(1).collect();
        assert_eq!(drawn.len(), 11);
        assert_eq!(drawn[0], "\x1b[?7lpsync: copying: 0 of 10 files, 0 B of 100.0 MiB\x1b[?7h");
        assert_eq!(
            drawn[10],
            "\x1b[?7lpsync: copying: 2 of 10 files, 20.0 MiB of 100.0 MiB, 10.0 MiB/s, 0:08 left\x1b[?7h"
        );
        monitor.in_sync(10, 100 * MIB);
        assert_eq!(written.take(), "\r\x1b[Kpsync: docs in sync: 10 files, 100.0 MiB\n");
    }

    #[test]
    fn elsewhere_a_line_every_ten_seconds() {
        let written = Written::default();
        let monitor = monitor(&written, false, Target::Stderr);
        for now in (0..=25_000).step_by(50) {
            let scan = Progress {
                phase: Phase::Scan,
                files: now,
                bytes: now,
                files_total: None,
                bytes_total: None,
                more: true,
            };
            monitor.progress_at(now, &scan);
        }
        let want = ["psync: reading: 10000 files, 9.8 KiB", "psync: reading: 20000 files, 19.5 KiB"];
        assert_eq!(written.take().lines().collect::<Vec<_>>(), want);
    }

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let mut meter = Meter::new(REDRAW);
        for now in (0..60_000).step_by(10) {
            // Fast for 30 s, then stalled.
            meter.sample(now, &copying(now.min(30_000) * 1000));
        }
        assert_eq!(meter.rate(), Some(0));
        assert!(meter.samples.len() < 110);
        assert_eq!(
            describe(&copying(MIB), Some(0), usize::MAX),
            "psync: copying: 0 of 10 files, 1.0 MiB of 100.0 MiB, 0 B/s"
        );
    }

    #[test]
    fn while_the_trees_are_read_the_totals_are_no_more_than_known() {
        let progress = Progress { more: true, ..copying(20 * MIB) };
        let want = "psync: copying: 2 of 10+ files, 20.0 MiB of 100.0 MiB+, 1.0 MiB/s, 1:20+ left";
        assert_eq!(describe(&progress, Some(MIB), usize::MAX), want);
    }

    #[test]
    fn a_narrow_terminal_loses_what_matters_least() {
        let large = Progress {
            files: 18_311,
            files_total: Some(20_007),
            bytes_total: Some(540 * MIB),
            more: true,
            ..copying(415 * MIB)
        };
        for (width, want) in [
            (200, "psync: copying: 18311 of 20007+ files, 415.0 MiB of 540.0 MiB+, 41.7 MiB/s, 0:03+ left"),
            (80, "copying: 18311 of 20007+ files, 76 % of 540.0 MiB+, 41.7 MiB/s, 0:03+ left"),
            (60, "copying: 76 % of 540.0 MiB+, 41.7 MiB/s, 0:03+ left"),
            (40, "76 % of 540.0 MiB+, 0:03+ left"),
            (20, "0:03+ left"),
            (4, "0:03"),
        ] {
            assert_eq!(describe(&large, Some(43_725_619), width), want, "{width}");
        }
        for width in 1..100 {
            for rate in [None, Some(0), Some(1), Some(u64::MAX)] {
                for phase in [Phase::Scan, Phase::Copy] {
                    let line = describe(&Progress { phase, ..large }, rate, width);
                    assert!(!line.is_empty() && line.chars().count() <= width, "{width}: {line}");
                }
            }
        }
    }

    #[test]
    fn what_is_said_once_is_said_once() {
        let path = RelPath::new(b"a\nb").expect("path");
        let written = Written::default();
        let beside = monitor(&written, false, Target::Journal);
        beside.problem(&path, "no space");
        beside.solved(&path);
        beside.halted("the root is empty", "psync resume docs");
        beside.note("hello");
        beside.link(&LinkState::Connecting);
        beside.link(&LinkState::Down { reason: "ssh ended".into(), retry: Some(5) });
        beside.in_sync(1, 1);
        let want = "psync: a\\x0ab: not synchronised: no space\npsync: a\\x0ab: synchronised again\n\
            psync: docs halted: the root is empty (psync resume docs)\npsync: hello\n\
            psync: link down: ssh ended; next attempt in 5 s\npsync: docs in sync: 1 files, 1 B\n";
        assert_eq!(written.take(), want);

        let same = monitor(&written, false, Target::Stderr);
        same.note("hello");
        same.in_sync(1, 1);
        assert_eq!(written.take(), "psync: docs in sync: 1 files, 1 B\n");
    }
}
