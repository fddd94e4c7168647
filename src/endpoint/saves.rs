//! Saves that rename the old file away and make a new one under its name. The name must never be without a file on the
//! other side: the old file goes there as a copy of what lies there already, and the name changes when its new object
//! is ready. So the move of a file whose old name is empty, and whose new one may be that of a backup, is told only when
//! that has lasted for a moment.

use std::collections::BTreeMap;

use crate::model::{Generation, Millis, RelPath};
use crate::protocol::{Apply, Data, Outcome, Reply};
use crate::replica::archive::{Archive, Signature};
use crate::replica::disk::Disk;
use crate::replica::error::ReplicaError;
use crate::replica::examine::How;
use crate::transfer::{Receive, Received, Supplied, Supply};

use super::transfers::size_of;
use super::{Endpoint, Incoming, fail};

/// How long a name may be empty between the two halves of a save.
const AT_ONCE: Millis = 20;
/// Moves that are held back at the same time.
const HELD_MAX: usize = 10_000;
/// Pieces that are copied in one slice of work, 128 KiB each.
const PIECES: usize = 32;

/// Files that have left their names a moment ago.
#[derive(Debug, Default)]
pub(super) struct Leavers {
    /// By where they are now: the names they had, and how long their moves are held back.
    held: BTreeMap<RelPath, (RelPath, Millis)>,
    /// The other way round.
    from: BTreeMap<RelPath, RelPath>,
}

impl Leavers {
    /// Until when the move of the file at `path` is held back, if it is the same move.
    fn hold(&mut self, path: &RelPath, from: RelPath, until: Millis) -> Millis {
        match self.held.get(path) {
            Some((old, until)) if *old == from => *until,
            // So many at once are no saves.
            _ if self.held.len() >= HELD_MAX => 0,
            _ => {
                self.from.insert(from.clone(), path.clone());
                self.held.insert(path.clone(), (from, until));
                until
            }
        }
    }

    fn forget(&mut self, path: &RelPath) {
        if let Some((from, _)) = self.held.remove(path)
            && self.from.get(&from) == Some(path)
        {
            self.from.remove(&from);
        }
    }

    pub(super) fn clear(&mut self) {
        self.held.clear();
        self.from.clear();
    }
}

impl<D: Disk, A: Archive> Endpoint<D, A> {
    /// Whether a move to `path` would be held back.
    pub(super) fn is_patient(&self, path: &RelPath, now: Millis) -> bool {
        self.leavers.held.get(path).is_none_or(|(_, until)| *until > now) && self.leavers.held.len() < HELD_MAX
    }

    /// Holds back the move of a file that has left `from` empty. False: it is to be told now.
    pub(super) fn hold_move(&mut self, path: &RelPath, from: RelPath, made: bool, now: Millis) -> bool {
        // A file that was made under that name a moment ago was never meant to stay there.
        let passing = !may_be_backup(&from, path) || made && self.coalescer.is_quiet(&from, now);
        let until = self.leavers.hold(path, from, if passing { now } else { now + AT_ONCE });
        let held = until > now;
        if held {
            self.coalescer.later(path, until, now);
        }
        held
    }

    /// The move is told, or was none.
    pub(super) fn release_move(&mut self, path: &RelPath) {
        self.leavers.forget(path);
    }

    /// Before a name is looked at that a file left a moment ago: that file, which is to be told first.
    pub(super) fn look_at_leaver(
        &mut self,
        path: &RelPath,
        how: How,
        now: Millis,
        out: &mut Vec<Reply>,
    ) -> Result<(), ReplicaError> {
        // Programs that rotate files leave one name after another: the last one in the row is told first.
        let mut row: Vec<RelPath> = Vec::new();
        while let Some(to) = self.leavers.from.remove(row.last().unwrap_or(path)) {
            row.push(to);
        }
        let how = How { inline: how.inline, ..How::default() };
        row.iter().rev().try_for_each(|to| self.look(to, how, now, out))
    }

    /// Begins to copy a file of this side into the stage; nothing is refused for want of it: the contents are sent then.
    pub(super) fn copy(
        &mut self,
        generation: Generation,
        apply: Apply,
        held: Option<(D::File, Signature)>,
        out: &mut Vec<Reply>,
    ) -> Result<(), ReplicaError> {
        let Some((file, signature)) = held else {
            out.push(Reply::Result { generation, outcome: Outcome::NoSource });
            return Ok(());
        };
        match self.replica.stage_file(generation, &apply.path, 0) {
            Ok((name, into)) => {
                let receive = Receive::new(name, into, size_of(&apply), None);
                self.incoming.insert(generation, Incoming::new(apply, Some(receive)));
                self.copies.insert(generation, Supply::new(file, signature, false));
            }
            Err(error) => fail(generation, error, out)?,
        }
        Ok(())
    }

    /// Goes on with the oldest copy. True if there is more to do at once.
    pub(super) fn step_copies(&mut self, out: &mut Vec<Reply>) -> Result<bool, ReplicaError> {
        for _ in 0..PIECES {
            let Some(mut entry) = self.copies.first_entry() else { break };
            let generation = *entry.key();
            if self.incoming.get(&generation).is_none_or(|incoming| incoming.receive.is_none()) {
                entry.remove();
                continue;
            }
            let supply = entry.get_mut();
            let taken = match supply.step(self.replica.disk()) {
                Ok(Supplied::Data(Data::Room { bytes })) => {
                    self.announce(generation, bytes, out)?;
                    continue;
                }
                Ok(Supplied::Data(data) | Supplied::Last(data)) => {
                    if !self.goes_on(generation, &data, out)? {
                        continue;
                    }
                    let receive = self.incoming.get_mut(&generation).and_then(|incoming| incoming.receive.as_mut());
                    receive.map_or(Ok(Received::Broken), |receive| receive.take(self.replica.disk(), &data))
                }
                Ok(Supplied::Wait) => Ok(Received::Broken),
                Err(error) => Err(error),
            };
            if let (Ok(Received::More { credit }), Some(supply)) = (&taken, self.copies.get_mut(&generation)) {
                supply.add_credit(*credit);
                continue;
            }
            self.copies.remove(&generation);
            self.end_receiving(generation, taken, false, out)?;
        }
        Ok(!self.copies.is_empty())
    }
}

/// Whether a file that was renamed so may be the old one of a save: programs mark it at an end of its name (`report.doc~`,
/// `#report.doc#`, `.report.doc`), or change or drop its extension (`report.bak`, `D8E4A900`). What people rename keeps it.
fn may_be_backup(from: &RelPath, to: &RelPath) -> bool {
    let (Some(from), Some(to)) = (from.name(), to.name()) else { return false };
    let (from, to) = (from.as_bytes(), to.as_bytes());
    let is_mark = |byte: &&u8| matches!(byte, b'~' | b'#' | b'.');
    let marked = |end: fn(&[u8]) -> Option<&u8>| end(to).filter(is_mark).is_some_and(|mark| end(from) != Some(mark));
    marked(<[u8]>::first) || marked(<[u8]>::last) || extension(from) != extension(to)
}

/// What follows the last dot, but for a leading one.
fn extension(name: &[u8]) -> Option<&[u8]> {
    let dot = name.iter().rposition(|byte| *byte == b'.').filter(|at| *at > 0)?;
    Some(&name[dot + 1..])
}

/// Of reports of one moment that of a copy goes before that of the name whose file it copies.
pub(super) fn copies_first(reports: &mut [Reply]) {
    for copy in 1..reports.len() {
        let Reply::Report(change) = &reports[copy] else { continue };
        let Some(like) = &change.like else { continue };
        let original = |reply: &Reply| matches!(reply, Reply::Report(other) if other.path == like.from);
        if let Some(at) = reports[..copy].iter().position(original) {
            reports[at..=copy].rotate_left(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_backups() {
        for (from, to, backup) in [
            ("report.doc", "report.doc~", true),
            ("report.doc", "#report.doc#", true),
            ("report.doc", ".report.doc", true),
            ("report.doc", "report.bak", true),
            ("report.doc", "~WRL0003.tmp", true),
            ("book.xls", "D8E4A900", true),
            ("Makefile", "Makefile~", true),
            ("Makefile", "Makefile.old", true),
            ("a/Makefile", "backup/Makefile~", true),
            ("log", "log.1", true),
            ("report.doc", "final.doc", false),
            ("report.doc", "archive/report.doc", false),
            ("Makefile", "Makefile2", false),
            (".profile", ".bash_profile", false),
            ("~draft", "~draft2", false),
            (".hidden.txt", "shown.txt", false),
        ] {
            let path = |text: &str| RelPath::new(text.as_bytes()).expect("a path");
            assert_eq!(may_be_backup(&path(from), &path(to)), backup, "{from} -> {to}");
        }
    }
}
