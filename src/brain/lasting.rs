//! Problems that last: each is told when it begins, when it is over, and once an hour in between, however often it is met, whatever
//! sessions begin and end meanwhile, and on whichever side it is. This is the one place that decides so.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::model::{RelPath, Side};
use crate::service::repeats::without_figures;

/// Between two tellings of one that lasts.
const AGAIN: Duration = Duration::from_secs(3600);
/// One that comes and goes is told so often in an hour, its ends included.
const TELLINGS: u32 = 6;
/// Problems that are known by path; of more each telling counts.
const MOST: usize = 100_000;
/// Of those that last so many are told by name at a time.
const NAMED: usize = 20;

#[derive(Debug, Default)]
pub struct Lasting {
    all: BTreeMap<(Side, RelPath), One>,
    /// Those that were met in this session and are not over.
    present: u64,
}

#[derive(Debug)]
struct One {
    text: String,
    since: Instant,
    /// When it was told last, and how often since the hour began in which it is told.
    told: Instant,
    hour: Instant,
    tellings: u32,
    /// It was met in this session.
    met: bool,
    over: bool,
    /// Its beginning was told, and its end was not.
    open: bool,
}

/// What of those that last is to be told now.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reminder {
    /// Path, words, and how long it lasts.
    pub named: Vec<(RelPath, String, Duration)>,
    /// So many more last as long.
    pub others: usize,
}

impl Lasting {
    /// A session begins. What lasts is met again, at the latest when that side scans.
    pub fn begin(&mut self) {
        self.all.values_mut().for_each(|one| one.met = false);
        self.present = 0;
    }

    /// A path has a problem, in these words. Whether that is to be told.
    pub fn meets(&mut self, side: Side, path: &RelPath, text: &str, now: Instant) -> bool {
        self.forget_old(now);
        let full = self.all.len() >= MOST;
        let Some(one) = self.all.get_mut(&(side, path.clone())) else {
            if !full {
                let one = One {
                    text: text.to_owned(),
                    since: now,
                    told: now,
                    hour: now,
                    tellings: 1,
                    met: true,
                    over: false,
                    open: true,
                };
                self.all.insert((side, path.clone()), one);
                self.present += 1;
            }
            return true;
        };
        // The same with other figures is no news: only the status shows it.
        let same = without_figures(&one.text).eq(without_figures(text));
        let begins = one.over;
        self.present += u64::from(!one.met || one.over);
        (one.met, one.over) = (true, false);
        text.clone_into(&mut one.text);
        if begins {
            one.since = now;
        }
        if same && !begins {
            return false;
        }
        let tell = one.may_tell(now);
        one.open |= tell;
        tell
    }

    /// The problem of a path is over. Whether that is to be told.
    pub fn is_over(&mut self, side: Side, path: &RelPath, now: Instant) -> bool {
        match self.all.get_mut(&(side, path.clone())) {
            Some(one) => {
                self.present -= u64::from(one.met && !one.over);
                one.end(now)
            }
            None => true,
        }
    }

    /// A side has scanned all in this session, and both are equal but for its problems: those of earlier ones that it did not
    /// meet again are over. The paths of which that is to be told.
    pub fn settle(&mut self, side: Side, now: Instant) -> Vec<RelPath> {
        let gone = self.all.iter_mut().filter(|((of, _), one)| *of == side && !one.met && !one.over);
        gone.filter_map(|((_, path), one)| one.end(now).then(|| path.clone())).collect()
    }

    /// Those that last and were not told for an hour.
    pub fn remind(&mut self, now: Instant) -> Reminder {
        let mut reminder = Reminder::default();
        for ((_, path), one) in &mut self.all {
            if one.over || !one.met || now.saturating_duration_since(one.told) < AGAIN {
                continue;
            }
            (one.told, one.hour, one.tellings, one.open) = (now, now, 1, true);
            if reminder.named.len() < NAMED {
                let lasts = now.saturating_duration_since(one.since);
                reminder.named.push((path.clone(), one.text.clone(), lasts));
            } else {
                reminder.others += 1;
            }
        }
        reminder
    }

    /// The problems of this session.
    pub fn present(&self) -> impl Iterator<Item = (Side, &RelPath, &str)> {
        let present = self.all.iter().filter(|(_, one)| one.met && !one.over);
        present.map(|((side, path), one)| (*side, path, one.text.as_str()))
    }

    /// Their number.
    pub fn number(&self) -> u64 {
        self.present
    }

    /// What is over and would be told again is no longer known.
    fn forget_old(&mut self, now: Instant) {
        if self.all.len() >= MOST {
            self.all.retain(|_, one| !one.over || now.saturating_duration_since(one.hour) < AGAIN);
        }
    }
}

impl One {
    fn may_tell(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.hour) >= AGAIN {
            (self.hour, self.tellings) = (now, 0);
        }
        if self.tellings >= TELLINGS {
            return false;
        }
        (self.tellings, self.told) = (self.tellings + 1, now);
        true
    }

    /// Whoever heard of the beginning hears of the end, and nobody else does.
    fn end(&mut self, now: Instant) -> bool {
        self.over = true;
        let tell = std::mem::take(&mut self.open);
        if tell {
            self.may_tell(now);
        }
        tell
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> RelPath {
        RelPath::new(name.as_bytes()).expect("a path")
    }

    /// What happens to one path, minute by minute, and what is told of it.
    #[test]
    fn a_problem_is_told_when_it_begins_when_it_ends_and_once_an_hour() {
        enum Do {
            Meets(&'static str),
            Over,
            Session,
            Settle,
            Look,
        }
        use Do::{Look, Meets, Over, Session, Settle};
        type Steps = &'static [(u64, Do, bool)];
        let cases: &[(&str, Steps)] = &[
            (
                "met again and again",
                &[(0, Meets("full"), true), (1, Meets("full"), false), (59, Look, false), (60, Look, true)],
            ),
            (
                "told once in each further hour",
                &[(0, Meets("full"), true), (60, Look, true), (61, Look, false), (120, Look, true)],
            ),
            ("other figures are no news", &[(0, Meets("3 MiB free"), true), (1, Meets("2 MiB free"), false)]),
            ("another reason is", &[(0, Meets("full"), true), (1, Meets("immutable"), true)]),
            (
                "it ends and begins",
                &[(0, Meets("full"), true), (1, Over, true), (2, Meets("full"), true), (3, Over, true)],
            ),
            (
                "what is over is not told again",
                &[(0, Meets("full"), true), (1, Over, true), (90, Look, false), (91, Over, false)],
            ),
            (
                "another session meets the same",
                &[(0, Meets("full"), true), (1, Session, false), (2, Meets("full"), false), (3, Settle, false)],
            ),
            (
                "another session does not meet it",
                &[(0, Meets("full"), true), (1, Session, false), (2, Settle, true), (3, Settle, false)],
            ),
            (
                "whether it lasts is not known before it is met again",
                &[
                    (0, Meets("full"), true),
                    (1, Session, false),
                    (61, Look, false),
                    (62, Meets("full"), false),
                    (63, Look, true),
                ],
            ),
        ];
        for (what, steps) in cases {
            let (mut lasting, begin) = (Lasting::default(), Instant::now());
            for (minute, step, told) in *steps {
                let now = begin + Duration::from_secs(60 * minute);
                let found = match step {
                    Meets(text) => lasting.meets(Side::Left, &path("a"), text, now),
                    Over => lasting.is_over(Side::Left, &path("a"), now),
                    Session => {
                        lasting.begin();
                        false
                    }
                    Settle => !lasting.settle(Side::Left, now).is_empty(),
                    Look => !lasting.remind(now).named.is_empty(),
                };
                assert_eq!(found, *told, "{what}, minute {minute}");
            }
        }
    }

    #[test]
    fn what_comes_and_goes_is_told_a_few_times_an_hour() {
        let (mut lasting, begin) = (Lasting::default(), Instant::now());
        let mut told = 0_u32;
        for second in 0..7200 {
            let now = begin + Duration::from_secs(second);
            told += match second % 4 {
                0 => u32::from(lasting.meets(Side::Right, &path("a"), "busy", now)),
                2 => u32::from(lasting.is_over(Side::Right, &path("a"), now)),
                _ => lasting.remind(now).named.len() as u32,
            };
        }
        assert!((4..=2 * TELLINGS + 4).contains(&told), "{told}");
    }

    #[test]
    fn many_are_told_by_their_number() {
        let (mut lasting, begin) = (Lasting::default(), Instant::now());
        for n in 0..500 {
            assert!(lasting.meets(Side::Left, &path(&n.to_string()), "full", begin));
            assert!(lasting.meets(Side::Right, &path(&n.to_string()), "full", begin));
        }
        let reminder = lasting.remind(begin + AGAIN);
        assert_eq!((reminder.named.len(), reminder.others), (NAMED, 1000 - NAMED));
        assert_eq!((lasting.present().count(), lasting.number()), (1000, 1000));
        lasting.is_over(Side::Left, &path("7"), begin);
        lasting.is_over(Side::Left, &path("7"), begin);
        assert_eq!(lasting.number(), 999);
        lasting.meets(Side::Left, &path("7"), "full", begin);
        assert_eq!((lasting.present().count(), lasting.number()), (1000, 1000));
        let reminder = lasting.remind(begin + 2 * AGAIN);
        assert_eq!((reminder.named.len(), reminder.others), (NAMED, 1000 - NAMED));
        assert_eq!(lasting.remind(begin + AGAIN), Reminder::default());
        lasting.begin();
        assert_eq!((lasting.present().count(), lasting.number()), (0, 0));
        assert_eq!(lasting.settle(Side::Left, begin + AGAIN).len(), 500);
    }
}
