//! Ledger: what the brain was told and has not answered, and what follows from that for what lies where.
//!
//! Several indexes speak of the same reports. They change here together, or not at all: see [`Ledger::check`].

use std::cell::{RefCell, RefMut};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;

use crate::model::{Attrs, Content, NodeId, RelPath, Sameness, Seq, Time};

use super::archive::Signature;
use super::resolve::Way;

/// An object, by inode and birth time.
pub(crate) type Object = (u64, Time);

/// Snapshots that are kept at a time; beyond that files are read themselves.
const SNAPSHOTS: usize = 256;

/// An object as it was when it was reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub signature: Signature,
    pub content: Content,
    /// The attributes that the object has here, not those that it stands for.
    pub attrs: Attrs,
    /// Whether a later write would have shown: a coarse clock gives two writes in a row one ctime.
    pub settled: bool,
    /// The contents are those of a snapshot, made after the signature was taken.
    pub snapshot: bool,
    /// The contents were not compared: they are taken for those of the row, or of another name.
    pub presumed: bool,
    /// The same of a file in its place of which only the ctime moved: it is compared before anything takes its place.
    pub touched: bool,
    /// Somebody had it open for writing: what he writes next may come without an event.
    pub open: bool,
}

impl Seen {
    /// The signature as a row may hold it: a ctime that proves nothing is left out.
    pub fn proof(&self) -> Signature {
        match (self.settled, self.snapshot) {
            (true, _) if self.presumed || self.open => Signature { ctime: Time::default(), ..self.signature },
            (true, _) => self.signature,
            (false, false) => Signature { ctime: Time::default(), ..self.signature },
            (false, true) => Signature { ctime: Time::default(), mtime: Time::default(), ..self.signature },
        }
    }

    /// Whether nothing changed that would be worth another report: a directory's own times and size do not count, nor a FIFO's.
    pub fn equals(&self, other: &Seen) -> bool {
        let object = |s: &Signature| (s.ino, s.btime, s.mode, s.uid, s.gid);
        let same = match self.content {
            Content::Dir | Content::Fifo => object(&self.signature) == object(&other.signature),
            _ => self.signature == other.signature,
        };
        // The hash is there or not as the reason for the look had it.
        let contents = self.content.compare(&other.content) != Sameness::Differs;
        same && contents && self.attrs == other.attrs
    }

    fn object(&self) -> Object {
        (self.signature.ino, self.signature.btime)
    }
}

/// A path that was reported and is not recorded yet.
#[derive(Debug, Clone)]
pub(crate) struct Reported {
    pub seq: Seq,
    /// What was there; `None`: nothing.
    pub seen: Option<Seen>,
    /// The node that came here from another path.
    pub moved: Option<NodeId>,
    /// Bytes that the report takes where it waits.
    weight: usize,
}

impl Reported {
    pub fn new(seq: Seq, seen: Option<Seen>, moved: Option<NodeId>) -> Reported {
        Reported { seq, seen, moved, weight: 0 }
    }
}

/// What was reported, by path, by node and by object.
pub(crate) struct Ledger<File> {
    reported: BTreeMap<RelPath, Reported>,
    /// The weights of all that is reported.
    weight: usize,
    /// Nodes whose objects lie elsewhere than their rows say.
    moved: HashMap<NodeId, RelPath>,
    objects: HashMap<Object, RelPath>,
    /// The contents of files that somebody was writing, where they are not read from the file itself.
    snapshots: HashMap<RelPath, (Seq, File)>,
    /// Paths whose object was reported under another name: they wait for what becomes of that report.
    waiting: HashMap<RelPath, Vec<RelPath>>,
    /// Objects at these paths count as new ones, though the archive knows them under other names.
    copies: HashMap<RelPath, Object>,
    /// Nodes that got their place in the archive by another's move, while their objects lie elsewhere.
    given: BTreeSet<NodeId>,
    /// From the root down to the directory that was asked for last.
    way: RefCell<Way>,
    /// The number of the last report.
    last: Seq,
}

impl<File> Default for Ledger<File> {
    fn default() -> Self {
        Ledger {
            reported: BTreeMap::new(),
            weight: 0,
            moved: HashMap::new(),
            objects: HashMap::new(),
            snapshots: HashMap::new(),
            waiting: HashMap::new(),
            copies: HashMap::new(),
            given: BTreeSet::new(),
            way: RefCell::default(),
            last: 1,
        }
    }
}

/// What a ledger held that begins anew.
pub(crate) struct Reopened {
    /// Nodes that had moved, and where: their old names speak for themselves again.
    pub moves: Vec<(NodeId, RelPath)>,
    /// What was reported, and what waited for that.
    pub paths: Vec<RelPath>,
}

impl<File> Ledger<File> {
    /// The number for the next report.
    pub fn number(&mut self) -> Seq {
        self.last += 1;
        self.last
    }

    /// The number of the last report.
    pub fn last(&self) -> Seq {
        self.last
    }

    /// Notes that a path was reported, in place of what was told of it before. The answer is what waited for that.
    #[must_use]
    pub fn tell(&mut self, path: &RelPath, reported: Reported) -> Vec<RelPath> {
        let waited = self.forget(path);
        if let Some(node) = reported.moved {
            self.moved.insert(node, path.clone());
            self.way.get_mut().forget();
        }
        if let Some(seen) = &reported.seen {
            self.objects.insert(seen.object(), path.clone());
        }
        self.weight += reported.weight;
        self.reported.insert(path.clone(), reported);
        self.debug_check(path);
        waited
    }

    /// The path is not open any more. The answer is what waited for that.
    #[must_use]
    pub fn forget(&mut self, path: &RelPath) -> Vec<RelPath> {
        let Some(reported) = self.reported.remove(path) else { return Vec::new() };
        self.weight -= reported.weight;
        self.snapshots.remove(path);
        if let Some(node) = reported.moved.filter(|node| self.moved.get(node) == Some(path)) {
            self.settle_move(node);
        }
        if let Some(object) = reported.seen.as_ref().map(Seen::object)
            && self.objects.get(&object) == Some(path)
        {
            self.objects.remove(&object);
        }
        let waited = self.waiting.remove(path).unwrap_or_default();
        self.debug_check(path);
        waited
    }

    /// A node's row says where it is, or says it in a moment. The answer is where it was reported.
    pub fn settle_move(&mut self, node: NodeId) -> Option<RelPath> {
        let at = self.moved.remove(&node);
        if at.is_some() {
            self.way.get_mut().forget();
        }
        at
    }

    /// Nobody knows of any report any more. What counts as a copy, or was given its place, still does, and numbers go on.
    pub fn reopen(&mut self) -> Reopened {
        let old = std::mem::take(self);
        (self.last, self.copies, self.given) = (old.last, old.copies, old.given);
        let waited = old.waiting.into_values().flatten();
        Reopened { moves: old.moved.into_iter().collect(), paths: old.reported.into_keys().chain(waited).collect() }
    }

    /// The archive is another one: nothing of what was known holds. Numbers go on.
    pub fn begin_anew(&mut self) {
        *self = Ledger { last: self.last, ..Ledger::default() };
    }

    // What was told.

    pub fn get(&self, path: &RelPath) -> Option<&Reported> {
        self.reported.get(path)
    }

    /// The report of a path, if it still is the one with this number.
    pub fn numbered(&self, path: &RelPath, seq: Seq) -> Option<&Reported> {
        self.reported.get(path).filter(|reported| reported.seq == seq)
    }

    /// What was reported to lie at a path.
    pub fn seen(&self, path: &RelPath) -> Option<&Seen> {
        self.reported.get(path)?.seen.as_ref()
    }

    pub fn holds(&self, path: &RelPath) -> bool {
        self.reported.contains_key(path)
    }

    /// Whether it was reported that nothing lies at a path.
    pub fn told_gone(&self, path: &RelPath) -> bool {
        self.reported.get(path).is_some_and(|reported| reported.seen.is_none())
    }

    pub fn is_empty(&self) -> bool {
        self.reported.is_empty()
    }

    pub fn len(&self) -> usize {
        self.reported.len()
    }

    /// What was reported of a path, and of all below it.
    pub fn within(&self, top: &RelPath) -> Vec<RelPath> {
        let from = self.reported.range(top.clone()..).map(|(path, _)| path);
        from.take_while(|path| path.is_within(top)).cloned().collect()
    }

    /// Remembers how many bytes a report takes where it waits.
    pub fn weigh(&mut self, path: &RelPath, seq: Seq, weight: usize) {
        if let Some(reported) = self.reported.get_mut(path).filter(|reported| reported.seq == seq) {
            self.weight = self.weight - reported.weight + weight;
            reported.weight = weight;
        }
    }

    /// Bytes that the open reports take where they wait.
    pub fn weight(&self) -> usize {
        self.weight
    }

    // What moved.

    /// The node that was reported to have come to a path.
    pub fn came_to(&self, path: &RelPath) -> Option<NodeId> {
        self.reported.get(path)?.moved
    }

    /// Where a node's object was reported to lie.
    pub fn moved_to(&self, node: NodeId) -> Option<&RelPath> {
        self.moved.get(&node)
    }

    /// Whether a node's object was reported to lie somewhere else than at a path.
    pub fn is_elsewhere(&self, node: NodeId, path: &RelPath) -> bool {
        self.moved.get(&node).is_some_and(|now| now != path)
    }

    pub fn moves(&self) -> impl Iterator<Item = (NodeId, &RelPath)> {
        self.moved.iter().map(|(node, path)| (*node, path))
    }

    pub fn has_moves(&self) -> bool {
        !self.moved.is_empty()
    }

    /// The deepest of this directory and those above it that came here from another path.
    pub fn moved_above(&self, dir: &RelPath) -> Option<(NodeId, &RelPath)> {
        /// So many are looked through one by one.
        const FEW: usize = 64;
        if self.moved.len() <= FEW {
            let within = self.moves().filter(|(_, path)| dir.is_within(path));
            return within.max_by_key(|(_, path)| path.as_bytes().len());
        }
        let moved = |path: &RelPath| {
            let (path, reported) = self.reported.get_key_value(path)?;
            Some((reported.moved?, path))
        };
        let mut at = Some(dir);
        while let Some(path) = at {
            if let Some(found) = moved(path) {
                return Some(found);
            }
            at = path.nearest_above(|to| self.reported.range((Bound::Unbounded, to)).next_back().map(|(path, _)| path));
        }
        None
    }

    /// The way that was gone last.
    pub fn way(&self) -> RefMut<'_, Way> {
        self.way.borrow_mut()
    }

    /// A row is gone with all below it, or gets another place.
    pub fn leave_way(&mut self, node: NodeId) {
        self.way.get_mut().leave(node);
    }

    // What lies under several names.

    /// Where an object was reported.
    pub fn object_at(&self, object: Object) -> Option<&RelPath> {
        self.objects.get(&object)
    }

    /// A path waits for what becomes of the report of another.
    pub fn wait_for(&mut self, other: &RelPath, path: &RelPath) {
        if self.holds(other) {
            self.waiting.entry(other.clone()).or_default().push(path.clone());
        }
    }

    /// The object at a path counts as a new one.
    pub fn copied(&mut self, path: &RelPath, object: Object) {
        self.copies.insert(path.clone(), object);
    }

    /// This object lies at a path now: what counted as a copy there may have been another one.
    pub fn meet(&mut self, path: &RelPath, object: Object) {
        if self.copies.get(path).is_some_and(|copy| *copy != object) {
            self.copies.remove(path);
        }
    }

    pub fn forget_copy(&mut self, path: &RelPath) {
        self.copies.remove(path);
    }

    pub fn is_copy(&self, path: &RelPath) -> bool {
        self.copies.contains_key(path)
    }

    /// A node got its place in the archive by another's move, and its object lies elsewhere.
    pub fn give(&mut self, node: NodeId) {
        self.given.insert(node);
    }

    /// The node's row speaks of what its users did, or of what lies there.
    pub fn take(&mut self, node: NodeId) {
        self.given.remove(&node);
    }

    pub fn is_given(&self, node: NodeId) -> bool {
        self.given.contains(&node)
    }

    // What is read in place of a file.

    /// Whether one more snapshot may be kept.
    pub fn takes_snapshots(&self) -> bool {
        self.snapshots.len() < SNAPSHOTS
    }

    /// Keeps a snapshot for as long as its report is open.
    pub fn keep_snapshot(&mut self, path: &RelPath, seq: Seq, snapshot: File) {
        if self.numbered(path, seq).is_some() {
            self.snapshots.insert(path.clone(), (seq, snapshot));
        }
    }

    pub fn snapshot(&self, path: &RelPath, seq: Seq) -> Option<&File> {
        self.snapshots.get(path).filter(|(of, _)| *of == seq).map(|(_, snapshot)| snapshot)
    }

    /// What must hold at every moment: each index leads to a report that says so, and the weights add up. The error names what
    /// does not.
    pub fn check(&self) -> Result<(), String> {
        let wrong = |index: &str, path: &RelPath| Err(format!("ledger: {index}: no report of {path} says so"));
        for (node, path) in &self.moved {
            if self.came_to(path) != Some(*node) {
                return wrong("moves", path);
            }
        }
        for (object, path) in &self.objects {
            if self.seen(path).map(Seen::object) != Some(*object) {
                return wrong("objects", path);
            }
        }
        for (path, (seq, _)) in &self.snapshots {
            if self.numbered(path, *seq).is_none() {
                return wrong("snapshots", path);
            }
        }
        for path in self.waiting.keys() {
            if !self.holds(path) {
                return wrong("waiting", path);
            }
        }
        let weight: usize = self.reported.values().map(|reported| reported.weight).sum();
        if weight != self.weight {
            return Err(format!("ledger: {weight} bytes are counted as {}", self.weight));
        }
        Ok(())
    }

    /// The same for one path, after it changed.
    fn debug_check(&self, path: &RelPath) {
        if cfg!(debug_assertions) {
            let report = self.reported.get(path);
            let object = report.and_then(|report| Some(report.seen.as_ref()?.object()));
            debug_assert!(self.snapshots.get(path).is_none_or(|(seq, _)| report.is_some_and(|r| r.seq == *seq)));
            debug_assert!(report.is_some() || !self.waiting.contains_key(path));
            debug_assert!(report.is_none() || object.is_none_or(|object| self.objects.contains_key(&object)));
            debug_assert!(report.and_then(|r| r.moved).is_none_or(|node| self.moved.contains_key(&node)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Principal, Xattrs};

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).expect("a path")
    }

    fn seen(ino: u64) -> Seen {
        let zero = Time::default();
        let signature = Signature { ino, btime: zero, size: 0, mtime: zero, ctime: zero, mode: 0o644, uid: 0, gid: 0 };
        Seen {
            signature,
            content: Content::Dir,
            attrs: Attrs {
                mode: 0o644,
                user: Principal::Id(0),
                group: Principal::Id(0),
                mtime: zero,
                xattrs: Xattrs::new(),
            },
            settled: true,
            snapshot: false,
            presumed: false,
            touched: false,
            open: false,
        }
    }

    /// What happens to a ledger.
    enum Deed {
        /// A report of an object, or of nothing; of a node that came there.
        Tell(&'static str, Option<u64>, Option<NodeId>),
        Forget(&'static str),
        Wait(&'static str, &'static str),
        Snapshot(&'static str),
        Weigh(&'static str, usize),
        Settle(NodeId),
        Reopen,
    }

    #[test]
    fn all_indexes_agree_whatever_happens() {
        use Deed::*;
        // What happens; what waited for that; then: the reports, the moves, the objects, the weight.
        let table: &[(Deed, &[&str], &str)] = &[
            (Tell("a", Some(1), None), &[], "a | | 1:a | 0"),
            (Wait("a", "b"), &[], "a | | 1:a | 0"),
            (Wait("never told", "b"), &[], "a | | 1:a | 0"),
            (Snapshot("a"), &[], "a | | 1:a | 0"),
            (Weigh("a", 5), &[], "a | | 1:a | 5"),
            (Tell("d/a", Some(1), Some(7)), &[], "a d/a | 7:d/a | 1:d/a | 5"),
            (Weigh("d/a", 3), &[], "a d/a | 7:d/a | 1:d/a | 8"),
            // What is told anew lets go what waited.
            (Tell("a", None, None), &["b"], "a d/a | 7:d/a | 1:d/a | 3"),
            // It moved on: the old report says no more where the node is.
            (Tell("e", Some(1), Some(7)), &[], "a d/a e | 7:e | 1:e | 3"),
            (Forget("d/a"), &[], "a e | 7:e | 1:e | 0"),
            (Settle(7), &[], "a e | | 1:e | 0"),
            (Forget("e"), &[], "a | | | 0"),
            (Forget("e"), &[], "a | | | 0"),
            (Tell("f", Some(2), Some(8)), &[], "a f | 8:f | 2:f | 0"),
            (Reopen, &["a", "f"], "| | | 0"),
        ];
        let mut ledger: Ledger<()> = Ledger::default();
        for (at, (deed, waited, then)) in table.iter().enumerate() {
            let mut found = Vec::new();
            match deed {
                Tell(at, object, moved) => {
                    let seq = ledger.number();
                    found = ledger.tell(&path(at), Reported::new(seq, object.map(seen), *moved));
                }
                Forget(at) => found = ledger.forget(&path(at)),
                Wait(other, at) => ledger.wait_for(&path(other), &path(at)),
                Snapshot(at) => ledger.keep_snapshot(&path(at), ledger.last(), ()),
                Weigh(at, weight) => {
                    let seq = ledger.get(&path(at)).expect("a report").seq;
                    ledger.weigh(&path(at), seq, *weight);
                }
                Settle(node) => drop(ledger.settle_move(*node)),
                Reopen => found = ledger.reopen().paths,
            }
            assert_eq!(ledger.check(), Ok(()), "step {at}");
            let found: Vec<String> = found.iter().map(RelPath::to_string).collect();
            assert_eq!(found, *waited, "step {at}");
            let reports: Vec<String> = ledger.reported.keys().map(RelPath::to_string).collect();
            let moves: Vec<String> = ledger.moved.iter().map(|(node, path)| format!("{node}:{path}")).collect();
            let objects: Vec<String> =
                ledger.objects.iter().map(|(object, path)| format!("{}:{path}", object.0)).collect();
            let state =
                format!("{} | {} | {} | {}", reports.join(" "), moves.join(" "), objects.join(" "), ledger.weight);
            let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
            assert_eq!(words(&state), words(then), "step {at}");
        }
    }

    #[test]
    fn a_copy_is_one_object() {
        let mut ledger: Ledger<()> = Ledger::default();
        ledger.copied(&path("a"), (1, Time::default()));
        ledger.meet(&path("a"), (1, Time::default()));
        assert!(ledger.is_copy(&path("a")));
        ledger.meet(&path("a"), (2, Time::default()));
        assert!(!ledger.is_copy(&path("a")));
    }
}
