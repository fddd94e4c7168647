//! One side of the pair: all that is done to its tree and its memory, above the [`disk::Disk`] trait.
//!
//! In the order of a change: [`examine`] and [`scan`] find it; [`stage`], [`place`], [`remove`] and [`batch`] carry
//! out an action; [`record`] remembers; [`recover`] settles what a crash left open.

mod ahead;
pub mod archive;
pub mod batch;
mod dir_times;
pub mod disk;
mod distrust;
pub mod error;
pub mod examine;
pub mod expire;
mod home;
mod kept;
pub mod late;
pub mod memory;
pub mod metadata;
pub mod not_set;
mod own_acls;
mod partial;
pub mod place;
mod put_back;
mod read;
pub mod reading;
pub mod real;
pub mod record;
pub mod recover;
mod removals;
pub mod remove;
mod resolve;
pub mod rights;
mod room;
pub mod scan;
pub mod session;
pub mod special;
pub mod sqlite;
pub mod stage;
mod touched;
pub mod trash;
pub mod trash_list;
pub mod unproven;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::config::Share;
use crate::filter::Filter;
use crate::model::guard::Limit;
use crate::model::{Attrs, Content, Entry, Kind, NodeId, ROOT_NODE, RelPath, Sameness, Seq, Side, Time, merge};
use crate::protocol::Distrust;

use archive::{Archive, Identity, Signature};
use disk::Disk;

/// How a replica treats its files.
#[derive(Debug, Clone)]
pub struct Settings {
    pub side: Side,
    /// Contents up to this many bytes travel with their report.
    pub inline_max: u64,
    /// Put data and names on disk before they are confirmed.
    pub durable: bool,
    /// This side's ACLs are never reported: those of the other one count.
    pub keeps_acls: bool,
    /// No ACL is taken from the other side: an object has those that it has here, and a new one those that making it here
    /// would have given.
    pub gives_acls: bool,
    /// Owners do not travel: an object belongs to whom the one that it replaces belongs to, else to the owner of its
    /// directory.
    pub own_owners: bool,
    /// Wait for writers that still have a file open.
    pub wait_for_writers: bool,
    /// The most that the trash holds, in bytes or as a share of the file system; `None`: whatever comes.
    pub trash_max: Option<Share>,
    /// So much of a file that did not come to its end is kept for the next time.
    pub partial_min: u64,
    /// Files above this size neither travel nor are taken.
    pub max_size: u64,
    /// Files above this size are read in slices, and how much one slice is.
    pub read_slice: u64,
    /// Files above this size of which only the ctime moved are compared when nobody else has work.
    pub prove_later: u64,
    /// Deletions within ten minutes beyond which this side removes nothing more, whoever asks.
    pub max_delete: Limit,
    /// A directory that is to be removed may be removed whatever it holds.
    pub force: bool,
    /// Nothing may change: neither is a crash settled nor anything committed.
    pub dry_run: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            side: Side::Left,
            inline_max: 32 * 1024,
            durable: true,
            keeps_acls: false,
            gives_acls: false,
            own_owners: false,
            wait_for_writers: true,
            trash_max: None,
            partial_min: 8 * 1024 * 1024,
            max_size: u64::MAX,
            read_slice: 16 * 1024 * 1024,
            prove_later: 64 * 1024,
            max_delete: Limit::Off,
            force: false,
            dry_run: false,
        }
    }
}

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
    pub(crate) fn equals(&self, other: &Seen) -> bool {
        let object = |s: &Signature| (s.ino, s.btime, s.mode, s.uid, s.gid);
        let same = match self.content {
            Content::Dir | Content::Fifo => object(&self.signature) == object(&other.signature),
            _ => self.signature == other.signature,
        };
        // The hash is there or not as the reason for the look had it.
        let contents = self.content.compare(&other.content) != Sameness::Differs;
        same && contents && self.attrs == other.attrs
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
    pub weight: usize,
}

/// One side's tree and memory.
pub struct Replica<D: Disk, A: Archive> {
    pub(crate) disk: D,
    pub(crate) archive: A,
    pub(crate) filter: Filter,
    pub(crate) settings: Settings,
    pub(crate) identity: Identity,
    /// What the brain was told and has not confirmed: the open paths.
    pub(crate) reported: BTreeMap<RelPath, Reported>,
    /// The weights of all that is reported.
    open_weight: usize,
    /// Nodes whose objects lie elsewhere than their rows say, as reported.
    pub(crate) moved: HashMap<NodeId, RelPath>,
    /// From the root down to the directory that was asked for last.
    way: std::cell::RefCell<resolve::Way>,
    /// Objects at these paths that count as new ones, though the archive knows them under other names.
    pub(crate) copies: HashMap<RelPath, (u64, Time)>,
    /// The objects of these reports, by inode and birth time.
    pub(crate) reported_objects: HashMap<(u64, Time), RelPath>,
    /// The contents of reported files that somebody was writing, where they are not read from the file itself.
    pub(crate) snapshots: HashMap<RelPath, (Seq, D::File)>,
    /// Paths whose object was reported under another name that is not recorded yet: they wait for that.
    pub(crate) waiting: HashMap<RelPath, Vec<RelPath>>,
    /// Paths that psync's own work made worth a look.
    pub(crate) dirty: BTreeSet<RelPath>,
    /// Those of them where a node lies that has changed places: looked at first, or another object in its place would pass for it.
    pub(crate) told_again: BTreeSet<RelPath>,
    /// Nodes that got their place in the archive by another's move, while their objects lie elsewhere.
    pub(crate) given: BTreeSet<NodeId>,
    /// Paths that were reported, and whose objects turned up under other names.
    pub(crate) vanished: BTreeSet<RelPath>,
    /// Directories that must be scanned (they are new, or their events were lost).
    pub(crate) unscanned: BTreeSet<RelPath>,
    /// The machine was booted since the tree was last known to be what the archive says.
    pub(crate) rebooted: bool,
    /// The whole tree was compared with the archive since this replica was opened.
    pub(crate) compared: bool,
    /// Nodes that the other side knew better, while this one is not proven after a boot, and what it had recorded of them.
    pub(crate) learned: HashMap<NodeId, Option<Entry>>,
    /// Reports that may be what a power failure left, to be told before them.
    pub(crate) distrusts: Vec<(RelPath, Seq, Distrust)>,
    pub(crate) not_set: not_set::Counts,
    pub(crate) removals: removals::Removals,
    /// The owners and groups of what was scanned.
    pub(crate) owners_met: std::collections::HashSet<(u32, u32)>,
    /// Lines for the log.
    pub(crate) notes: Vec<String>,
    pub(crate) looks: late::Looks,
    readings: reading::Readings<D::File>,
    comparisons: distrust::Comparisons<D::File>,
    /// Bytes that may still be read in this slice of work.
    budget: std::cell::Cell<u64>,
    unproven: unproven::Unproven,
    pub(crate) formers: std::collections::VecDeque<trash::Former>,
    pub(crate) expiry: expire::Expiry,
    room: room::Room,
    kept: kept::Kept,
    dir_times: dir_times::DirTimes<D::Dir>,
    pub(crate) specials: special::Specials,
    /// ACLs of the other side that were left out.
    foreign_acls: u32,
    /// The last batch, until it is finished.
    pub(crate) placed: batch::Unfinished<D::Dir, D::File>,
    pub(crate) stage_counter: u64,
    pub(crate) next_seq: Seq,
}

impl<D: Disk, A: Archive> Replica<D, A> {
    /// Takes over a tree and its memory; settles what a crash left open.
    pub fn open(disk: D, archive: A, filter: Filter, settings: Settings) -> Result<Self, error::ReplicaError> {
        let mut replica = Replica::new(disk, archive, filter, settings);
        replica.begin()?;
        Ok(replica)
    }

    /// A replica that has not looked into its archive yet: to be begun before all else.
    pub fn new(disk: D, archive: A, filter: Filter, settings: Settings) -> Self {
        let identity = Identity::unknown();
        let removals = removals::Removals::new(settings.max_delete);
        Replica {
            disk,
            archive,
            filter,
            settings,
            identity,
            reported: BTreeMap::new(),
            open_weight: 0,
            moved: HashMap::new(),
            way: Default::default(),
            copies: HashMap::new(),
            reported_objects: HashMap::new(),
            snapshots: HashMap::new(),
            waiting: HashMap::new(),
            dirty: BTreeSet::new(),
            told_again: BTreeSet::new(),
            given: BTreeSet::new(),
            vanished: BTreeSet::new(),
            unscanned: BTreeSet::new(),
            rebooted: false,
            compared: false,
            learned: HashMap::new(),
            distrusts: Vec::new(),
            not_set: not_set::Counts::default(),
            removals,
            owners_met: Default::default(),
            notes: Vec::new(),
            looks: late::Looks::default(),
            readings: reading::Readings::default(),
            comparisons: distrust::Comparisons::default(),
            budget: std::cell::Cell::new(u64::MAX),
            unproven: unproven::Unproven::default(),
            formers: Default::default(),
            expiry: expire::Expiry::default(),
            room: room::Room::default(),
            kept: kept::Kept::default(),
            dir_times: dir_times::DirTimes::default(),
            specials: special::Specials::default(),
            foreign_acls: 0,
            placed: batch::Unfinished::default(),
            stage_counter: 0,
            next_seq: 1,
        }
    }

    /// Reads who the archive is, and settles what a crash left open.
    pub fn begin(&mut self) -> Result<(), error::ReplicaError> {
        self.identity = self.archive.identity()?;
        let met = self.identity.peer != [0; 16];
        self.rebooted = met && self.identity.proven != self.disk.boot_id();
        if !self.settings.dry_run {
            self.recover()?;
            self.forget_excluded()?;
            self.resume_looks()?;
        }
        Ok(())
    }

    /// Keeps a damaged archive aside and begins an empty one: nothing is known of the tree then.
    pub fn begin_anew(&mut self) -> Result<(), error::ReplicaError> {
        self.archive.begin_anew()?;
        self.placed = batch::Unfinished::default();
        self.reported.clear();
        self.reported_objects.clear();
        self.moved.clear();
        self.copies.clear();
        self.waiting.clear();
        self.learned.clear();
        self.begin()
    }

    /// What other filters than before leave out is forgotten, so that it is met as unknown if it ever takes part again.
    /// The objects themselves stay.
    fn forget_excluded(&mut self) -> Result<(), error::ReplicaError> {
        let filters = self.filter.digest();
        if self.identity.filters == filters {
            return Ok(());
        }
        self.identity.filters = filters;
        let mut excluded = Vec::new();
        let mut dirs = vec![(ROOT_NODE, RelPath::root())];
        while let Some((node, path)) = dirs.pop() {
            for row in self.archive.children(node)? {
                let Ok(below) = path.join(&row.name) else { continue };
                let kind = row.entry.kind();
                if self.filter.excluded_itself(&below)
                    || self.filter.temporary_itself(&below)
                    || self.filter.skips(Some(kind))
                {
                    excluded.push(row.node);
                } else if kind == Kind::Dir {
                    dirs.push((row.node, below));
                }
            }
        }
        if excluded.is_empty() {
            return Ok(());
        }
        for node in &excluded {
            self.leave_way(*node);
            self.archive.drop_tree(*node)?;
        }
        self.notes.push(format!("the filters changed: {} paths do not take part any more", excluded.len()));
        self.commit()
    }

    /// Remembers that `path` was reported with this state.
    pub(crate) fn set_reported(&mut self, path: &RelPath, reported: Reported) {
        self.forget_report(path);
        if let Some(node) = reported.moved {
            self.moved.insert(node, path.clone());
            self.way.get_mut().forget();
        }
        if let Some(seen) = &reported.seen {
            self.reported_objects.insert((seen.signature.ino, seen.signature.btime), path.clone());
        }
        self.open_weight += reported.weight;
        self.reported.insert(path.clone(), reported);
    }

    /// Remembers how many bytes the report of a path takes where it waits.
    pub fn weigh_report(&mut self, path: &RelPath, seq: Seq, weight: usize) {
        if let Some(reported) = self.reported.get_mut(path).filter(|reported| reported.seq == seq) {
            self.open_weight = self.open_weight - reported.weight + weight;
            reported.weight = weight;
        }
    }

    /// Bytes that the open reports take where they wait.
    pub fn open_weight(&self) -> usize {
        self.open_weight
    }

    /// What was reported below a tree that is gone is looked at again.
    pub(crate) fn forget_reports_below(&mut self, top: &RelPath) {
        let below: Vec<RelPath> = self
            .reported
            .range(top.clone()..)
            .map(|(p, _)| p)
            .take_while(|p| p.is_within(top))
            .filter(|p| *p != top)
            .cloned()
            .collect();
        for path in below {
            self.forget_report(&path);
            self.dirty.insert(path);
        }
    }

    /// Whether the brain was told of a directory under this name, and has not answered yet.
    pub(crate) fn tells_a_directory(&self, path: &RelPath) -> bool {
        let seen = self.reported.get(path).and_then(|reported| reported.seen.as_ref());
        seen.is_some_and(|seen| matches!(seen.content, Content::Dir))
    }

    /// Whether the brain was told that a directory lets in more people than its row says, and has not answered yet.
    pub(crate) fn tells_an_opening(&self, path: &RelPath) -> Result<bool, archive::ArchiveError> {
        let reported = self.reported.get(path).filter(|reported| reported.moved.is_none());
        let Some(seen) = reported.and_then(|reported| reported.seen.as_ref()) else { return Ok(false) };
        let row = self.row_at(path)?;
        Ok(row.is_some_and(|row| {
            let told = merge::carried(&seen.attrs, row.live_attrs(), &row.entry.attrs);
            matches!(seen.content, Content::Dir) && merge::only_opens(&row.entry.attrs, &told)
        }))
    }

    /// The path is not open any more.
    pub(crate) fn forget_report(&mut self, path: &RelPath) {
        let Some(reported) = self.reported.remove(path) else { return };
        self.open_weight -= reported.weight;
        self.snapshots.remove(path);
        if let Some(node) = reported.moved
            && self.moved.get(&node) == Some(path)
        {
            self.moved.remove(&node);
            self.way.get_mut().forget();
        }
        if let Some(seen) = &reported.seen {
            let object = (seen.signature.ino, seen.signature.btime);
            if self.reported_objects.get(&object) == Some(path) {
                self.reported_objects.remove(&object);
            }
        }
        if let Some(waiting) = self.waiting.remove(path) {
            self.dirty.extend(waiting);
        }
    }
}
