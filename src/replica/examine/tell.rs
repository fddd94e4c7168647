//! Tell: what a look found becomes a report, or a new row where nothing is to be told.

use crate::model::{Attrs, Entry, Kind, NodeId, RelPath, Seq};
use crate::protocol::{Change, Known, Like};

use super::super::archive::{Archive, ArchiveError, Row, Signature, Since};
use super::super::disk::{Disk, Stat};
use super::super::error::ReplicaError;
use super::super::spot::Spot;
use super::super::{Replica, Reported, Seen};
use super::contents::Held;
use super::how::Why;
use super::{Examined, How};

/// An object as a look found it, compared with its row.
pub(super) struct Found<File> {
    pub stat: Stat,
    pub held: Held<File>,
    /// What it stands for.
    pub attrs: Attrs,
    /// They are not what the row says.
    pub new_attrs: bool,
    /// Rights that do not go with these contents, in words.
    pub dropped: Option<String>,
    /// The name whose contents it has.
    pub like: Option<Like>,
    pub seen: Seen,
}

/// A report of what lies at a path in a directory. What else there is to say of it is added.
pub(super) fn word(
    seq: Seq,
    (path, parent): (&RelPath, Option<NodeId>),
    row: Option<&Row>,
    after: Option<Entry>,
) -> Change {
    Change {
        seq,
        path: path.clone(),
        parent,
        known: row.map(known),
        moved: None,
        after,
        contents: false,
        touched: false,
        read: false,
        inline: None,
        like: None,
        below: 0,
        young: 0,
    }
}

pub(super) fn known(row: &Row) -> Known {
    Known { node: row.node, generation: row.generation, entry: row.entry.clone() }
}

impl<D: Disk, A: Archive> Replica<D, A> {
    /// The object is what its row says. Whoever asked is told so.
    pub(super) fn same(&mut self, at: Spot<D::Dir>, row: &Row, how: How, read: bool) -> Result<Examined, ReplicaError> {
        let path = at.path;
        self.forget_move_to(path)?;
        self.ledger.take(row.node);
        if !how.again {
            self.forget_report(path);
            return Ok(Examined::Same);
        }
        // Nothing that would have to be recorded: what is expected of it is its row.
        self.forget_report(path);
        let seq = self.ledger.number();
        let word = word(seq, (path, at.node), Some(row), Some(row.entry.clone()));
        Ok(Examined::Changed(Box::new(Change { read, ..word })))
    }

    /// Nothing lies there.
    pub(super) fn report_nothing(
        &mut self,
        path: &RelPath,
        parent: Option<NodeId>,
        row: Option<Row>,
    ) -> Result<Change, ArchiveError> {
        let seq = self.ledger.number();
        let below = self.replaced_below(row.as_ref(), None)?;
        self.distrust((path, seq), row.as_ref(), None, below.unseen);
        match row {
            Some(_) => self.set_reported(path, Reported::new(seq, None, None)),
            // Neither object nor row: there is nothing to record.
            None => self.forget_report(path),
        }
        let word = word(seq, (path, parent), row.as_ref(), None);
        Ok(Change { contents: true, below: below.all, young: below.young, ..word })
    }

    /// Touched, or learned from the other side, and equal: only the signature is new.
    pub(super) fn adopt(
        &mut self,
        at: Spot<D::Dir>,
        row: &Row,
        found: Found<D::File>,
        how: How,
    ) -> Result<Examined, ReplicaError> {
        let (path, Found { stat, held, attrs, seen, .. }) = (at.path, found);
        let kind = row.entry.kind();
        if how.compare.verifies() && row.signature == Some(seen.signature) && row.entry.content == held.content {
            return self.same(at, row, how, held.read);
        }
        if kind == Kind::Dir && row.signature.is_none_or(|s| !s.same_object(&stat)) {
            // Another directory than before: whatever lies in it is to be looked at.
            self.agenda.scan(path.clone());
        }
        // What was learned of the other archive after a crash was made here, else this side had known it.
        let since = match (row.signature, row.since) {
            (None, Since::Always) if row.node == row.generation => self.made(&stat.btime),
            _ => row.since,
        };
        let entry = Entry { content: held.content, attrs };
        let fresh = Row { signature: Some(seen.proof()), entry, since, ..row.clone() };
        if seen.presumed {
            self.reads.unproven.owe(path);
        }
        let moved_on = how.why == Why::Event && is_only_worked_in(row, &fresh);
        if fresh != *row && !moved_on {
            if !seen.presumed {
                self.sync_adopted(at, kind)?;
            }
            self.reads.unproven.note(&fresh);
            self.archive.put(&fresh)?;
        }
        self.ledger.forget_copy(path);
        self.compare_dir_time(path, &fresh, &stat)?;
        self.same(at, &fresh, how, held.read)
    }

    /// The object is new, or another one.
    pub(super) fn tell(
        &mut self,
        at: Spot<D::Dir>,
        row: Option<&Row>,
        found: Found<D::File>,
        how: How,
    ) -> Result<Examined, ReplicaError> {
        let (path, Found { stat, held, attrs, dropped, like, seen, .. }) = (at.path, found);
        let reported = self.ledger.get(path).filter(|reported| reported.moved.is_none());
        let told = reported.and_then(|reported| reported.seen.as_ref()).is_some_and(|told| told.equals(&seen));
        if told && !how.again {
            return Ok(Examined::Known);
        }
        if stat.nlink > 1 && stat.kind == Some(Kind::File) {
            self.look_at_links(&stat, path)?;
        }
        let below = self.replaced_below(row, stat.kind)?;
        if let Some(words) = dropped {
            self.news.note(format!("{path}: {words} was agreed on for other contents, and does not go with these"));
        }
        let seq = self.ledger.number();
        let after = Entry { content: held.content, attrs };
        self.distrust((path, seq), row, Some((at.place(), &after, held.new)), below.unseen);
        self.set_reported(path, Reported::new(seq, Some(seen), None));
        if let Some(snapshot) = held.snapshot {
            self.ledger.keep_snapshot(path, seq, snapshot);
        }
        Ok(Examined::Changed(Box::new(Change {
            contents: held.new,
            touched: held.touched,
            read: held.read,
            inline: held.bytes,
            like,
            below: below.all,
            young: below.young,
            ..word(seq, (path, at.node), row, Some(after))
        })))
    }
}

/// Whether a row differs only by what goes on in its directory.
fn is_only_worked_in(row: &Row, fresh: &Row) -> bool {
    let Some((old, new)) = row.signature.zip(fresh.signature) else { return false };
    let still = Signature { size: new.size, mtime: new.mtime, ctime: new.ctime, ..old };
    row.entry.kind() == Kind::Dir && still == new && Row { signature: fresh.signature, ..row.clone() } == *fresh
}
