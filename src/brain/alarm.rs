//! What an administrator is told without asking: what needs a hand, once for each cause, and once more when it is over.
//!
//! A halt is told at once. A lost side and paths that are not synchronised are told when they have lasted for
//! `alert_after`: most of them end by themselves before.

use std::collections::BTreeMap;
use std::time::Duration;

use super::status::{Halt, State, Status};
use crate::model::Millis;
use crate::service::log::utc;
use crate::service::repeats::without_figures;

/// Why somebody is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// The pair waits for an administrator.
    Halt,
    /// A side is not reached.
    Line,
    /// Paths are not synchronised.
    Problems,
}

/// What is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alert {
    pub cause: Cause,
    /// It has ended; else it has begun.
    pub over: bool,
    /// One line.
    pub text: String,
    /// What to do, if there is anything.
    pub advice: String,
}

/// A cause that lasts.
#[derive(Debug)]
struct Lasting {
    /// When it was seen first.
    seen: Millis,
    /// The same in seconds since 1970.
    since: u64,
    /// In which words it was told.
    told: Option<String>,
}

/// What lasts, and what of it was told.
#[derive(Debug, Default)]
pub struct Alarm {
    lasting: BTreeMap<Cause, Lasting>,
}

impl Alarm {
    /// What is to be told of the status as it is now.
    pub fn look(&mut self, status: &Status, after: Duration, now: Millis) -> Vec<Alert> {
        let after = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        let causes = [Cause::Halt, Cause::Line, Cause::Problems];
        causes.into_iter().filter_map(|cause| self.look_at(cause, status, after, now)).collect()
    }

    fn look_at(&mut self, cause: Cause, status: &Status, after: Millis, now: Millis) -> Option<Alert> {
        if is_on(cause, status) {
            let lasting =
                self.lasting.entry(cause).or_insert(Lasting { seen: now, since: since(cause, status), told: None });
            let due = cause == Cause::Halt || now >= lasting.seen.saturating_add(after);
            // Another halt is another cause; in how many words a line is lost is not.
            let word = if cause == Cause::Halt { which(status) } else { String::new() };
            if !due || lasting.told.as_ref() == Some(&word) {
                return None;
            }
            lasting.told = Some(word);
            let (text, advice) = begun(cause, status, lasting.since);
            return Some(Alert { cause, over: false, text, advice });
        }
        if !is_over(cause, status) {
            return None;
        }
        let Lasting { seen, told, .. } = self.lasting.remove(&cause)?;
        told?;
        let lasted = length(now.saturating_sub(seen) / 1000);
        let text = match cause {
            Cause::Halt => format!("goes on, after a halt of {lasted}"),
            Cause::Line => format!("{} is reached again, after {lasted}", lost_side(status)),
            Cause::Problems => "all paths are synchronised again".to_owned(),
        };
        Some(Alert { cause, over: true, text, advice: String::new() })
    }
}

fn is_on(cause: Cause, status: &Status) -> bool {
    match cause {
        Cause::Halt => status.state == State::Halted,
        Cause::Line => status.state == State::Disconnected,
        Cause::Problems => status.problems_now > 0,
    }
}

/// Whether it has ended for sure: while a side is called nobody knows.
fn is_over(cause: Cause, status: &Status) -> bool {
    let on = matches!(status.state, State::Scanning | State::Syncing | State::InSync | State::Paused);
    match cause {
        Cause::Halt => on,
        Cause::Line => on || status.state == State::Halted,
        // A new session is told of all problems anew, before both sides are equal.
        Cause::Problems => status.state == State::InSync,
    }
}

fn since(cause: Cause, status: &Status) -> u64 {
    match cause {
        Cause::Halt => status.halt.as_ref().map_or(status.since, |halt| halt.since),
        Cause::Line => status.since,
        Cause::Problems => super::status::wall(),
    }
}

/// Which halt it is: one that is found again with other figures is the same, one after a `resume` is not.
fn which(status: &Status) -> String {
    let figures_aside = |halt: &Halt| format!("{} {}", halt.since, without_figures(&halt.reason).collect::<String>());
    status.halt.as_ref().map(figures_aside).unwrap_or_default()
}

fn reason(status: &Status) -> String {
    status.halt.as_ref().map(|halt| halt.reason.clone()).unwrap_or_default()
}

/// Whom a lost line leads to.
fn lost_side(status: &Status) -> &str {
    status.right.host.as_deref().unwrap_or("the right side")
}

fn begun(cause: Cause, status: &Status, since: u64) -> (String, String) {
    let since = utc(since);
    match cause {
        Cause::Halt => {
            let advice = status.halt.as_ref().map(|halt| halt.advice.clone()).unwrap_or_default();
            (format!("halted: {}", reason(status)), advice)
        }
        Cause::Line => {
            let why = status.link.reason.as_deref().unwrap_or("no answer");
            let mine = why.starts_with("left side");
            let what = if mine { "this side is lost".to_owned() } else { format!("{} not reached", lost_side(status)) };
            let waiting = match status.queue {
                0 if !status.sees_changes() => "What waits here is known once both sides meet.".to_owned(),
                0 => "Nothing waits here.".to_owned(),
                1 => format!("1 change waits here since {}.", utc(waiting_since(status))),
                many => format!("{many} changes wait here, the oldest since {}.", utc(waiting_since(status))),
            };
            (format!("{what} since {since}: {why}. {waiting}"), "It goes on by itself once that is mended.".to_owned())
        }
        Cause::Problems => {
            let first = status.problems.first().map(|p| format!(": {}: {}", p.path, p.text)).unwrap_or_default();
            let text = match status.problems_now {
                1 => format!("1 path is not synchronised since {since}{first}"),
                many => format!("{many} paths are not synchronised, since {since}{first}"),
            };
            let mend = format!("Mend what is named; `psync fullsync {}` tries all of them at once.", status.pair);
            (text, mend)
        }
    }
}

/// By the clock, when the oldest change came that waits.
fn waiting_since(status: &Status) -> u64 {
    super::status::wall().saturating_sub(status.lag_seconds as u64)
}

/// A time in the largest unit that fits.
fn length(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::brain::desk::Desk;
    use crate::brain::status::ProblemStatus;
    use crate::config::Settings;

    const AFTER: Duration = Duration::from_secs(300);

    fn status(state: State) -> Status {
        let mut status = Desk::new("web", &Settings::default(), |_| {}).status();
        status.state = state;
        status.right.host = Some("files2".to_owned());
        status
    }

    fn minutes(n: u64) -> Millis {
        n * 60_000
    }

    #[test]
    fn a_lost_line_is_told_once_and_when_it_is_over() {
        let mut alarm = Alarm::default();
        let mut lost = status(State::Disconnected);
        lost.link.reason = Some("No route to host".to_owned());
        (lost.queue, lost.lag_seconds) = (1, 200.0);
        for minute in 0..5 {
            assert_eq!(alarm.look(&lost, AFTER, minutes(minute)), [], "{minute}");
        }
        let told = alarm.look(&lost, AFTER, minutes(5));
        assert_eq!((told.len(), told[0].cause, told[0].over), (1, Cause::Line, false));
        let text = &told[0].text;
        assert!(
            text.starts_with("files2 not reached since ") && text.contains(": No route to host. 1 change waits"),
            "{text}"
        );
        lost.link.reason = Some("Connection refused".to_owned());
        assert_eq!(alarm.look(&lost, AFTER, minutes(60)), []);
        // It is called, and both sides compare what they know: nobody knows yet.
        assert_eq!(alarm.look(&status(State::Connecting), AFTER, minutes(61)), []);
        let over = alarm.look(&status(State::Syncing), AFTER, minutes(62));
        assert_eq!((over.len(), over[0].over), (1, true));
        assert_eq!(over[0].text, "files2 is reached again, after 62 min");
        assert_eq!(alarm.look(&status(State::InSync), AFTER, minutes(63)), []);
    }

    #[test]
    fn what_ends_before_its_time_is_not_told() {
        let mut alarm = Alarm::default();
        for turn in 0..10 {
            assert_eq!(alarm.look(&status(State::Disconnected), AFTER, minutes(10 * turn)), []);
            assert_eq!(alarm.look(&status(State::InSync), AFTER, minutes(10 * turn + 4)), []);
        }
    }

    #[test]
    fn each_halt_is_told_at_once() {
        let mut alarm = Alarm::default();
        let mut halted = status(State::Halted);
        let halt = |reason: &str| Some(Halt { reason: reason.to_owned(), advice: "resume".to_owned(), since: 1 });
        halted.halt = halt("the root is empty");
        let told = alarm.look(&halted, AFTER, 1);
        assert_eq!((told[0].text.as_str(), told[0].advice.as_str()), ("halted: the root is empty", "resume"));
        assert_eq!(alarm.look(&halted, AFTER, 2), []);
        halted.halt = halt("another, 4 files");
        assert_eq!(alarm.look(&halted, AFTER, 3).len(), 1);
        // Found again at the next call.
        halted.halt = halt("another, 5 files");
        assert_eq!(alarm.look(&halted, AFTER, 3), []);
        assert_eq!(alarm.look(&status(State::Connecting), AFTER, 4), []);
        assert_eq!(alarm.look(&status(State::Scanning), AFTER, 5)[0].text, "goes on, after a halt of 0 s");
    }

    #[test]
    fn problems_that_last_are_told_and_survive_a_new_session() {
        let mut alarm = Alarm::default();
        let mut troubled = status(State::InSync);
        troubled.problems_now = 1;
        troubled.problems = vec![ProblemStatus { side: "left".into(), path: "a".into(), text: "no room".into() }];
        assert_eq!(alarm.look(&troubled, AFTER, minutes(1)), []);
        let told = alarm.look(&troubled, AFTER, minutes(6));
        assert!(told[0].text.ends_with(": a: no room") && told[0].text.starts_with("1 path is not"), "{told:?}");
        // A new session has not met it yet.
        assert_eq!(alarm.look(&status(State::Syncing), AFTER, minutes(7)), []);
        assert_eq!(alarm.look(&troubled, AFTER, minutes(8)), []);
        assert!(alarm.look(&status(State::InSync), AFTER, minutes(9))[0].over);
    }
}
