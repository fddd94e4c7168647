//! A check: both trees are listed side by side and compared, and nothing is changed.
//!
//! People go on working meanwhile, and psync as well, so what differs is looked at again after a moment: what is on its
//! way has arrived by then.

pub mod compare;
pub mod stations;

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use compare::{Both, Closely, Difference, What, compare};

use crate::model::{Hash, Kind, Name, Problem, RelPath, Side, Sides};
use crate::protocol::survey::{Answer, Ask, Item};

/// What is to be compared.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    pub closely: Closely,
    pub checksum: Checksum,
    /// Only files that changed since, in seconds since 1970, are read.
    pub newer: Option<i64>,
    /// Files that differ are copied to the trash, below a directory of this name.
    pub keep: Option<Name>,
}

/// Which files are read on both sides.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Checksum {
    #[default]
    None,
    /// Those of equal size whose times differ.
    Doubtful,
    /// All of equal size.
    All,
}

/// What a check found.
#[derive(Debug, Default)]
pub struct Findings {
    /// Paths that are on either side.
    pub compared: u64,
    /// Files whose contents were to be read on both sides.
    pub read: u64,
    /// Files that differ and were to be copied to the trash.
    pub kept: u64,
    /// FIFOs, sockets and devices that do not travel, on the left and on the right.
    pub special: Sides<u64>,
    /// By path.
    pub differences: Vec<Difference>,
    pub problems: Vec<(Side, Problem)>,
}

/// A side as a check reaches it: questions go in, answers come out, in order.
pub struct Station {
    pub ask: Box<dyn FnMut(Ask) -> Result<(), String> + Send>,
    pub answers: Receiver<Answer>,
}

/// Differences that are kept and looked at again; more are counted as they were found.
const KEPT: usize = 100_000;
/// How often, and how long after the last look, what differs is looked at again.
const LOOKS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(1500);
/// Paths in one question.
const ASKED: usize = 500;

/// Compares two sides. The error says which side could not answer, and why.
pub fn check(sides: Sides<Station>, wanted: &Wanted) -> Result<Findings, String> {
    let mut check = Check { sides, wanted, findings: Findings::default(), differing: BTreeMap::new() };
    let mut to_read = check.list()?;
    check.look_again()?;
    let timed = check.differing.values().filter(|d| d.what == What::Time && check.reads(&d.left, &d.right));
    to_read.extend(timed.map(|d| d.path.clone()));
    let unequal: Vec<RelPath> = check.read(&to_read)?.into_iter().map(|(path, _)| path).collect();
    check.findings.read = to_read.len() as u64;
    check.read_again(&unequal)?;
    check.keep()?;
    check.findings.differences = check.differing.into_values().collect();
    Ok(check.findings)
}

struct Check<'a> {
    sides: Sides<Station>,
    wanted: &'a Wanted,
    findings: Findings,
    differing: BTreeMap<RelPath, Difference>,
}

type Seen = BTreeMap<RelPath, Item>;
type Hashes = BTreeMap<RelPath, Option<Hash>>;

impl Check<'_> {
    /// Lists both sides at the same time. Returns the files that seem equal and are to be read all the same.
    fn list(&mut self) -> Result<Vec<RelPath>, String> {
        self.ask(&Ask::List)?;
        let wanted = self.wanted;
        let mut to_read = Vec::new();
        let (mut left, mut right) = self.sides.as_ref().map(|side| Listed::of(&side.answers)).split();
        for (l, r) in Both::new(&mut left, &mut right) {
            self.findings.compared += 1;
            let Some(path) = l.as_ref().or(r.as_ref()).map(|item| item.path.clone()) else { continue };
            match compare(l.as_ref(), r.as_ref(), wanted.closely) {
                Some(_) if self.differing.len() >= KEPT => {
                    return Err(format!("more than {KEPT} differences: these are two different trees"));
                }
                Some(what) => _ = self.differing.insert(path.clone(), Difference { path, what, left: l, right: r }),
                None if wanted.checksum == Checksum::All && wanted.reads(&l, &r) => to_read.push(path),
                None => {}
            }
        }
        self.findings.special = Sides::new(left.special, right.special);
        for (side, listed) in Side::BOTH.into_iter().zip([left, right]) {
            self.findings.problems.extend(listed.problems.into_iter().map(|problem| (side, problem)));
            if let Some(reason) = listed.failed {
                return Err(format!("{} side: {reason}", side.word()));
            }
        }
        Ok(to_read)
    }

    /// Looks again at all that differs, until it meets or stands still on both sides.
    fn look_again(&mut self) -> Result<(), String> {
        for _ in 0..LOOKS {
            if self.differing.is_empty() {
                break;
            }
            thread::sleep(PAUSE);
            let mut moving = false;
            for (path, before) in self.compare_again(self.differing.keys().cloned().collect())? {
                let after = self.differing.get(&path);
                moving |= after.is_none_or(|now| (&now.left, &now.right) != (&before.left, &before.right));
            }
            if !moving {
                break;
            }
        }
        Ok(())
    }

    /// What is there now at these paths becomes what differs; returns what differed there before.
    fn compare_again(&mut self, paths: Vec<RelPath>) -> Result<Vec<(RelPath, Difference)>, String> {
        let mut before = Vec::new();
        for paths in paths.chunks(ASKED) {
            let mut seen = Sides::both(Seen::new());
            self.answers(&Ask::Look { paths: paths.to_vec() }, |side, answer| {
                if let Answer::Items { items } = answer {
                    seen[side].extend(items.into_iter().map(|item| (item.path.clone(), item)));
                }
            })?;
            for path in paths {
                let (left, right) = seen.as_mut().map(|seen| seen.remove(path)).split();
                let what = compare(left.as_ref(), right.as_ref(), self.wanted.closely);
                let old = match what {
                    Some(what) => {
                        let now = Difference { path: path.clone(), what, left, right };
                        self.differing.insert(path.clone(), now)
                    }
                    None => self.differing.remove(path),
                };
                before.extend(old.map(|old| (path.clone(), old)));
            }
        }
        Ok(before)
    }

    /// Reads files on both sides at the same time. Returns those whose contents differ, and those that could not be read
    /// on both (with false).
    fn read(&mut self, paths: &[RelPath]) -> Result<Vec<(RelPath, bool)>, String> {
        let mut unequal = Vec::new();
        for paths in paths.chunks(ASKED) {
            let mut hashes = Sides::both(Hashes::new());
            self.answers(&Ask::Hash { paths: paths.to_vec() }, |side, answer| {
                if let Answer::Hashes { hashes: more } = answer {
                    hashes[side].extend(more);
                }
            })?;
            for path in paths {
                let (left, right) = hashes.as_ref().map(|hashes| hashes.get(path).copied().flatten()).split();
                if left.is_none() || left != right {
                    unequal.push((path.clone(), left.is_some() && right.is_some()));
                }
            }
        }
        Ok(unequal)
    }

    /// Files that were unequal are read once more: somebody may have been writing.
    fn read_again(&mut self, unequal: &[RelPath]) -> Result<(), String> {
        if unequal.is_empty() {
            return Ok(());
        }
        thread::sleep(PAUSE);
        let still = self.read(unequal)?;
        self.compare_again(unequal.to_vec())?;
        for (path, read) in still {
            // What could not be read is what its stat says.
            if read {
                let unseen = Difference { path: path.clone(), what: What::Contents, left: None, right: None };
                let difference = self.differing.entry(path).or_insert(unseen);
                if matches!(difference.what, What::Time | What::Attributes) {
                    difference.what = What::Contents;
                }
            }
        }
        Ok(())
    }

    /// Has each side copy what it holds of the files that differ.
    fn keep(&mut self) -> Result<(), String> {
        let Some(name) = &self.wanted.keep else { return Ok(()) };
        let differing = self.differing.values().filter(|d| d.what != What::Attributes);
        let paths: Vec<RelPath> = differing.filter(|d| d.is_of_files()).map(|d| d.path.clone()).collect();
        for paths in paths.chunks(ASKED) {
            self.answers(&Ask::Keep { name: name.clone(), paths: paths.to_vec() }, |_, _| {})?;
        }
        self.findings.kept = paths.len() as u64;
        Ok(())
    }

    fn reads(&self, left: &Option<Item>, right: &Option<Item>) -> bool {
        self.wanted.checksum != Checksum::None && self.wanted.reads(left, right)
    }

    fn ask(&mut self, ask: &Ask) -> Result<(), String> {
        for (side, station) in Side::BOTH.into_iter().zip(self.sides.values_mut()) {
            (station.ask)(ask.clone()).map_err(|reason| format!("{} side: {reason}", side.word()))?;
        }
        Ok(())
    }

    /// Asks both sides and takes their whole answers; `take` is told which side speaks.
    fn answers(&mut self, ask: &Ask, mut take: impl FnMut(Side, Answer)) -> Result<(), String> {
        self.ask(ask)?;
        for side in Side::BOTH {
            loop {
                match self.sides[side].answers.recv() {
                    Ok(Answer::End) => break,
                    Ok(Answer::Failed { reason }) => return Err(format!("{} side: {reason}", side.word())),
                    Ok(Answer::Problem(problem)) => self.findings.problems.push((side, problem)),
                    Ok(answer) => take(side, answer),
                    Err(_) => return Err(format!("{} side: the link ended", side.word())),
                }
            }
        }
        Ok(())
    }
}

impl Wanted {
    /// Whether these are two files whose contents may be read.
    fn reads(&self, left: &Option<Item>, right: &Option<Item>) -> bool {
        let (Some(left), Some(right)) = (left, right) else { return false };
        let changed = left.changed.max(right.changed);
        left.kind == Kind::File && left.size > 0 && self.newer.is_none_or(|since| changed >= since)
    }
}

/// One side's list as it arrives.
struct Listed<'a> {
    answers: &'a Receiver<Answer>,
    items: std::vec::IntoIter<Item>,
    ended: bool,
    failed: Option<String>,
    problems: Vec<Problem>,
    special: u64,
}

impl<'a> Listed<'a> {
    fn of(answers: &'a Receiver<Answer>) -> Listed<'a> {
        Listed { answers, items: Vec::new().into_iter(), ended: false, failed: None, problems: Vec::new(), special: 0 }
    }
}

impl Iterator for &mut Listed<'_> {
    type Item = Item;

    fn next(&mut self) -> Option<Item> {
        loop {
            if let Some(item) = self.items.next() {
                return Some(item);
            }
            if self.ended {
                return None;
            }
            match self.answers.recv() {
                Ok(Answer::Items { items }) => self.items = items.into_iter(),
                Ok(Answer::Problem(problem)) => self.problems.push(problem),
                Ok(Answer::Special { files }) => self.special = files,
                Ok(Answer::Hashes { .. } | Answer::Trashed { .. } | Answer::Examined(_)) => {}
                Ok(Answer::End) => self.ended = true,
                Ok(Answer::Failed { reason }) => (self.ended, self.failed) = (true, Some(reason)),
                Err(_) => (self.ended, self.failed) = (true, Some("the link ended".into())),
            }
        }
    }
}

/// A queue of answers that holds a side back while the other lags behind: memory is bounded.
pub fn answers() -> (SyncSender<Answer>, Receiver<Answer>) {
    sync_channel(64)
}

#[cfg(test)]
mod tests;
