//! Directories first: nobody may see on the other side, be it for a moment, what the rights of a directory keep from him
//! here.
//!
//! A directory whose rights changed may be quiet, or its event may not have come yet, when something new in it is
//! reported. So each report has the directories above it looked at, after it was made and before it is said: by their
//! live rights, not by events. What differs is reported first, and the engine lets nothing pass below it until both
//! sides have it. That takes three system calls for each directory above the reports of one slice of work.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Kind, Millis, RelPath};
use crate::protocol::Reply;
use crate::replica::archive::Archive;
use crate::replica::disk::Disk;
use crate::replica::error::ReplicaError;
use crate::replica::examine::How;
use crate::replica::rights::Differs;

use super::Endpoint;

/// What lies in a directory of which nothing could be told is looked at again after so long, in milliseconds.
const SOON: Millis = 50;

impl<D: Disk, A: Archive> Endpoint<D, A> {
    /// The same for all that is about to be said, what waited for the end of a batch included: that is said first.
    pub(super) fn all_directories_first(&mut self, said: &mut Vec<Reply>, now: Millis) -> Result<(), ReplicaError> {
        forget_gone_by(said);
        let mut free = std::mem::take(&mut self.free);
        let waiting = above(free.iter().filter_map(brings));
        let known = |reply: &mut Reply| speaks_of(reply).is_some_and(|path| waiting.contains(path));
        free.extend(said.extract_if(.., known));
        let done = self.directories_first(&mut free, now);
        self.free = free;
        forget_older(said, &done?);
        self.directories_first(said, now).map(drop)
    }

    /// Puts reports of directories before those of what lies in them. What lies in a directory of which nothing can be
    /// told waits for the end of that. The answer is what was said of directories.
    fn directories_first(&mut self, said: &mut Vec<Reply>, now: Millis) -> Result<BTreeSet<RelPath>, ReplicaError> {
        let above = above(said.iter().filter_map(brings));
        if above.is_empty() {
            return Ok(BTreeSet::new());
        }
        let other = self.replica.with_other_rights(&above)?;
        let left: Vec<RelPath> =
            other.iter().filter(|(_, how)| **how == Differs::Left).map(|(path, _)| path.clone()).collect();
        let mut changed: BTreeSet<RelPath> = other.into_keys().collect();
        for path in &above {
            if self.coalescer.take_now(path) | self.replica.agenda_mut().take_look(path) {
                changed.insert(path.clone());
            }
        }
        let mut before = Vec::new();
        for path in &changed {
            // Its event may have been taken out of its turn: what it asked for is done here.
            self.look_at_dirty(path, How::default(), now, &mut before)?;
            if self.troubles.contains_key(path) {
                self.hold_back(path, said)?;
            }
        }
        // Where another directory lies that only opens, what lies in it goes first, be that told now or later.
        let opening: BTreeSet<RelPath> =
            before.iter().filter(|reply| opens(reply)).filter_map(speaks_of).cloned().collect();
        let left = left.into_iter().filter(|top| !self.openings.holds(top) && !opening.contains(top));
        let gone: Vec<RelPath> = before.iter().filter_map(no_directory).cloned().chain(left).collect();
        for top in gone {
            // It was found through a directory that has left this name: it lies elsewhere, perhaps where fewer may see it.
            for path in self.hold_back(&top, said)? {
                self.coalescer.later(&path, now, now);
            }
        }
        let told: BTreeSet<RelPath> = before.iter().filter_map(speaks_of).cloned().collect();
        // They were looked at before their rights changed.
        forget_older(said, &told);
        forget_gone_by(said);
        // What opens comes last: nobody waits for it, and it waits for what is told before it.
        let mut last: Vec<Reply> = before.extract_if(.., |reply| opens(reply)).collect();
        last.extend(said.extract_if(.., |reply| opens(reply)));
        if !changed.is_empty() {
            self.hold_back_below_untold(&above, said, now)?;
        }
        let first = said.iter().position(|reply| brings(reply).is_some()).unwrap_or(said.len());
        said.splice(first..first, before);
        in_order(said, &above);
        said.extend(last);
        Ok(told)
    }

    /// A directory whose rights are other than the other side was told, and of which nothing could be told now: what lies
    /// in it waits.
    fn hold_back_below_untold(
        &mut self,
        above: &BTreeSet<RelPath>,
        said: &mut [Reply],
        now: Millis,
    ) -> Result<(), ReplicaError> {
        let other = self.replica.with_other_rights(above)?;
        for (top, _) in other.into_iter().filter(|(_, how)| *how == Differs::Rights { told: true }) {
            if self.openings.holds(&top) {
                continue;
            }
            for path in self.hold_back(&top, said)? {
                self.coalescer.later(&path, now + SOON, now);
            }
        }
        Ok(())
    }

    /// Takes back what would be said of what lies below a directory, and tells what that was. When its trouble ends all of
    /// it is scanned.
    fn hold_back(&mut self, top: &RelPath, said: &mut [Reply]) -> Result<Vec<RelPath>, ReplicaError> {
        let mut held = Vec::new();
        for reply in said {
            if let Some(path) = brings(reply).filter(|path| path.is_below(top)).cloned() {
                self.replica.withdraw_report(&path)?;
                *reply = Reply::Clean { path: path.clone() };
                held.push(path);
            }
        }
        Ok(held)
    }
}

/// Leaves out what was said of these paths: they were looked at once more since.
fn forget_older(said: &mut Vec<Reply>, paths: &BTreeSet<RelPath>) {
    if !paths.is_empty() {
        said.retain(|reply| !speaks_of(reply).is_some_and(|path| paths.contains(path)));
    }
}

/// Whether all that a reply tells is that a directory lets more people in.
fn opens(reply: &Reply) -> bool {
    matches!(reply, Reply::Report(change) if change.only_opens())
}

/// Leaves out openings, and words that nothing is to be told, that a later word on the same path follows: once directories are
/// put in their order they would be the last word.
fn forget_gone_by(said: &mut Vec<Reply>) {
    let passes = |reply: &Reply| opens(reply) || matches!(reply, Reply::Clean { .. });
    if !said.iter().any(passes) {
        return;
    }
    let mut last: BTreeMap<RelPath, usize> = BTreeMap::new();
    for (at, reply) in said.iter().enumerate() {
        if let Some(path) = speaks_of(reply) {
            last.insert(path.clone(), at);
        }
    }
    let mut at = 0;
    said.retain(|reply| {
        let gone_by =
            passes(reply) && speaks_of(reply).is_some_and(|path| last.get(path).is_some_and(|last| *last > at));
        at += 1;
        !gone_by
    });
}

/// A report of a directory goes before those of what lies in it, wherever it was found. Each reply is looked at once, and each
/// directory once, however many there are of both.
fn in_order(said: &mut [Reply], dirs: &BTreeSet<RelPath>) {
    // The first report of something in a directory, and the last one of the directory itself.
    let mut first: BTreeMap<RelPath, usize> = BTreeMap::new();
    let mut own: BTreeMap<&RelPath, usize> = BTreeMap::new();
    for (at, reply) in said.iter().enumerate() {
        let Some(path) = brings(reply) else { continue };
        if let Some(dir) = dirs.get(path) {
            own.insert(dir, at);
        }
        let mut above = path.parent();
        // Where one is known, so are those above it.
        while let Some(dir) = above.filter(|dir| !dir.is_root() && !first.contains_key(dir)) {
            above = dir.parent();
            first.insert(dir, at);
        }
    }
    // Directories that move to one place are in the order of their paths there: the upper ones first.
    let mut keys: Vec<(usize, Option<&RelPath>)> = (0..said.len()).map(|at| (at, None)).collect();
    let mut late = false;
    for (dir, at) in own {
        if let Some(first) = first.get(dir).filter(|first| *first < &at) {
            keys[at] = (*first, Some(dir));
            late = true;
        }
    }
    if !late {
        return;
    }
    let order =
        |(at, dir): &(usize, Option<&RelPath>)| (*at, dir.is_none(), dir.map(RelPath::as_bytes).map(<[u8]>::len));
    let taken = said.iter_mut().map(|reply| std::mem::replace(reply, Reply::Stopped));
    let mut sorted: Vec<_> = keys.iter().map(order).zip(taken).collect();
    sorted.sort_by_key(|(key, _)| *key);
    for (place, (_, reply)) in said.iter_mut().zip(sorted) {
        *place = reply;
    }
}

/// The path whose state a reply tells.
fn speaks_of(reply: &Reply) -> Option<&RelPath> {
    match reply {
        Reply::Report(change) => Some(&change.path),
        Reply::Clean { path } => Some(path),
        _ => None,
    }
}

/// The path of a report that no directory is there.
fn no_directory(reply: &Reply) -> Option<&RelPath> {
    match reply {
        Reply::Report(change) if change.after.as_ref().is_none_or(|entry| entry.kind() != Kind::Dir) => {
            Some(&change.path)
        }
        _ => None,
    }
}

/// The path of a report that something is there.
fn brings(reply: &Reply) -> Option<&RelPath> {
    #[cfg(test)]
    tests::LOOKS.set(tests::LOOKS.get() + 1);
    match reply {
        Reply::Report(change) if change.after.is_some() => Some(&change.path),
        _ => None,
    }
}

/// All directories above these paths, but for the root: its rights do not travel.
fn above<'a>(paths: impl Iterator<Item = &'a RelPath>) -> BTreeSet<RelPath> {
    let mut found = BTreeSet::new();
    let mut last = None;
    for path in paths {
        let parent = path.parent();
        if parent == last {
            continue;
        }
        let mut at = parent.clone();
        while let Some(dir) = at.filter(|dir| !dir.is_root() && !found.contains(dir)) {
            at = dir.parent();
            found.insert(dir);
        }
        last = parent;
    }
    found
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        /// How often a reply was asked for its path.
        pub(super) static LOOKS: Cell<usize> = const { Cell::new(0) };
    }

    #[test]
    fn each_directory_once_and_never_the_root() {
        let path = |text: &str| RelPath::new(text.as_bytes()).expect("a path");
        let paths = ["a/b/c", "a/b/d", "a/e", "f", "a/b/g/h"].map(path);
        let found: Vec<String> = above(paths.iter()).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["a", "a/b", "a/b/g"]);
    }

    fn report(seq: u64, at: &str) -> Reply {
        let owner = crate::model::Principal::Id(0);
        let (time, xattrs) = (crate::model::Time::default(), crate::model::Xattrs::new());
        let attrs = crate::model::Attrs { mode: 0o700, user: owner.clone(), group: owner, mtime: time, xattrs };
        Reply::Report(crate::protocol::Change {
            seq,
            path: RelPath::new(at.as_bytes()).expect("a path"),
            parent: None,
            known: None,
            moved: None,
            after: Some(crate::model::Entry { content: crate::model::Content::Dir, attrs }),
            contents: true,
            touched: false,
            read: false,
            inline: None,
            like: None,
            below: 0,
            young: 0,
        })
    }

    fn told(said: &[Reply]) -> Vec<String> {
        let path = |reply: &Reply| brings(reply).map_or_else(|| "-".to_owned(), ToString::to_string);
        said.iter().map(path).collect()
    }

    #[test]
    fn a_directory_goes_before_what_lies_in_it_and_all_else_keeps_its_place() {
        let mut said = vec![
            Reply::Stopped,
            report(1, "x"),
            report(2, "a/b/c"),
            report(3, "y"),
            report(4, "a/b"),
            Reply::Stopped,
            report(5, "a"),
            report(6, "a/d"),
        ];
        let dirs = above(said.iter().filter_map(brings));
        in_order(&mut said, &dirs);
        assert_eq!(told(&said), ["-", "x", "a", "a/b", "a/b/c", "y", "-", "a/d"]);
    }

    /// What each reply is asked for its path: linear in the reports, not in reports times directories.
    #[test]
    fn many_directories_are_put_in_order_in_one_go() {
        let count = 2_000;
        // Each directory is found after a file in it.
        let mut said: Vec<Reply> = (0..count)
            .flat_map(|n| [report(2 * n + 1, &format!("a/d{n:04}/f")), report(2 * n + 2, &format!("a/d{n:04}"))])
            .collect();
        said.push(report(2 * count + 1, "a"));
        let dirs = above(said.iter().filter_map(brings));
        LOOKS.set(0);
        in_order(&mut said, &dirs);
        assert!(LOOKS.get() <= 2 * said.len(), "{} looks at {} reports", LOOKS.get(), said.len());
        let told = told(&said);
        assert_eq!(told[..5], ["a", "a/d0000", "a/d0000/f", "a/d0001", "a/d0001/f"]);
        assert_eq!(told.len(), 4_001);
    }

    /// A report of a directory whose mode was 0700.
    fn opening(seq: u64, at: &str, mode: u32) -> Reply {
        let Reply::Report(mut change) = report(seq, at) else { unreachable!("it is a report") };
        let mut after = change.after.clone().expect("a directory");
        let known = crate::protocol::Known { node: 17, generation: 17, entry: after.clone() };
        after.attrs.mode = mode;
        (change.known, change.after) = (Some(known), Some(after));
        Reply::Report(change)
    }

    #[test]
    fn an_opening_that_a_later_word_has_gone_by_is_not_the_last_one() {
        let clean = Reply::Clean { path: RelPath::new(b"e").expect("a path") };
        let mut said = vec![
            opening(1, "a", 0o755),
            report(2, "a"),
            report(3, "a/b"),
            opening(4, "c", 0o755),
            opening(5, "e", 0o711),
        ];
        said.extend([clean, opening(6, "d", 0o700)]);
        forget_gone_by(&mut said);
        assert_eq!(told(&said), ["a", "a/b", "c", "-", "d"]);
        let Reply::Report(change) = &said[0] else { panic!("a report") };
        assert_eq!(change.seq, 2);
    }

    #[test]
    fn that_there_is_nothing_to_tell_is_not_the_last_word_where_a_later_one_goes_first() {
        let clean = |at: &str| Reply::Clean { path: RelPath::new(at.as_bytes()).expect("a path") };
        let mut said = vec![clean("a"), report(1, "a"), report(2, "b"), clean("b"), clean("c")];
        forget_gone_by(&mut said);
        assert_eq!(told(&said), ["a", "b", "-", "-"]);
    }

    #[test]
    fn what_was_looked_at_once_more_is_told_as_it_is_by_then() {
        let mut said = vec![report(1, "a"), report(2, "a/b"), report(3, "c")];
        let again = BTreeSet::from([RelPath::new(b"a").expect("a path")]);
        forget_older(&mut said, &again);
        assert_eq!(told(&said), ["a/b", "c"]);
        // That there is nothing to tell is a word as well.
        let mut said = vec![Reply::Clean { path: RelPath::new(b"a").expect("a path") }, report(2, "b")];
        forget_older(&mut said, &again);
        assert_eq!(told(&said), ["b"]);
    }
}
