//! One side of the pair: all that is done to its tree and its memory, above the [`disk::Disk`] trait.
//!
//! In the order of a change: [`examine`] and [`scan`] find it; [`stage`], [`place`], [`remove`] and [`batch`] carry
//! out an action; [`record`] remembers; [`recover`] settles what a crash left open.

pub mod agenda;
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
mod ledger;
pub mod memory;
pub mod metadata;
pub mod news;
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
mod spot;
pub mod sqlite;
pub mod stage;
mod touched;
pub mod trash;
pub mod trash_list;
pub mod unproven;

use crate::config::Share;
use crate::filter::Filter;
use crate::model::guard::Limit;
use crate::model::{Content, Kind, ROOT_NODE, RelPath, Seq, Side, merge};

use archive::{Archive, Identity};
use disk::Disk;
pub(crate) use ledger::{Reported, Seen};

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

/// One side's tree and memory.
pub struct Replica<D: Disk, A: Archive> {
    disk: D,
    archive: A,
    filter: Filter,
    settings: Settings,
    identity: Identity,
    /// What the brain was told and has not answered.
    ledger: ledger::Ledger<D::File>,
    /// What is to be looked at besides what events tell of.
    agenda: agenda::Agenda,
    /// What the last power failure may have left.
    aftermath: distrust::Aftermath<D::File>,
    /// What is read slice by slice, and what is still to be read.
    reads: Reads<D::File>,
    /// What was removed.
    bin: Bin,
    /// What is being made.
    stage: Stage,
    /// The last batch, until it is finished.
    placed: batch::Unfinished<D::Dir, D::File>,
    dir_times: dir_times::DirTimes<D::Dir>,
    /// What people and the other side are told besides changes.
    news: news::News,
}

/// Files whose contents are wanted.
struct Reads<File> {
    files: reading::Readings<File>,
    unproven: unproven::Unproven,
}

/// What left its name here: how much of it there was, and what becomes of it.
struct Bin {
    removals: removals::Removals,
    formers: std::collections::VecDeque<trash::Former>,
    looks: late::Looks,
    expiry: expire::Expiry,
}

/// psync's own workshop.
#[derive(Default)]
struct Stage {
    /// Names were made with the numbers up to this one.
    counter: u64,
    kept: kept::Kept,
    room: room::Room,
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
        let bin = Bin {
            removals: removals::Removals::new(settings.max_delete),
            formers: Default::default(),
            looks: late::Looks::default(),
            expiry: expire::Expiry::default(),
        };
        Replica {
            disk,
            archive,
            filter,
            settings,
            identity: Identity::unknown(),
            ledger: ledger::Ledger::default(),
            agenda: agenda::Agenda::default(),
            aftermath: distrust::Aftermath::default(),
            reads: Reads { files: reading::Readings::default(), unproven: unproven::Unproven::default() },
            bin,
            stage: Stage::default(),
            placed: batch::Unfinished::default(),
            dir_times: dir_times::DirTimes::default(),
            news: news::News::default(),
        }
    }

    pub fn disk(&self) -> &D {
        &self.disk
    }

    pub fn filter(&self) -> &Filter {
        &self.filter
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// What psync's own work made worth a look.
    pub fn agenda(&self) -> &agenda::Agenda {
        &self.agenda
    }

    pub fn agenda_mut(&mut self) -> &mut agenda::Agenda {
        &mut self.agenda
    }

    pub fn news_mut(&mut self) -> &mut news::News {
        &mut self.news
    }

    /// Whether what is known of reports holds together; the error says what does not. For tests: nothing depends on it.
    pub fn check(&self) -> Result<(), String> {
        self.ledger.check()
    }

    /// Reads who the archive is, and settles what a crash left open.
    pub fn begin(&mut self) -> Result<(), error::ReplicaError> {
        self.identity = self.archive.identity()?;
        let met = self.identity.peer != [0; 16];
        self.aftermath.begin(met && self.identity.proven != self.disk.boot_id());
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
        self.forget_batch();
        self.ledger.begin_anew();
        self.aftermath.forget_learned();
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
        self.news.note(format!("the filters changed: {} paths do not take part any more", excluded.len()));
        self.commit()
    }

    /// Remembers that `path` was reported with this state.
    pub(crate) fn set_reported(&mut self, path: &RelPath, reported: Reported) {
        let waited = self.ledger.tell(path, reported);
        self.agenda.look_at_all(waited);
    }

    /// The path is not open any more.
    pub(crate) fn forget_report(&mut self, path: &RelPath) {
        let waited = self.ledger.forget(path);
        self.agenda.look_at_all(waited);
    }

    /// Remembers how many bytes the report of a path takes where it waits.
    pub fn weigh_report(&mut self, path: &RelPath, seq: Seq, weight: usize) {
        self.ledger.weigh(path, seq, weight);
    }

    /// Bytes that the open reports take where they wait.
    pub fn open_weight(&self) -> usize {
        self.ledger.weight()
    }

    /// What was reported below a tree that is gone is looked at again.
    pub(crate) fn forget_reports_below(&mut self, top: &RelPath) {
        for path in self.reported_below(top) {
            self.forget_report(&path);
            self.agenda.look(path);
        }
    }

    /// Whether the brain was told of a directory under this name, and has not answered yet.
    pub(crate) fn tells_a_directory(&self, path: &RelPath) -> bool {
        let seen = self.ledger.seen(path);
        seen.is_some_and(|seen| matches!(seen.content, Content::Dir))
    }

    /// Whether the brain was told that a directory lets in more people than its row says, and has not answered yet.
    pub(crate) fn tells_an_opening(&self, path: &RelPath) -> Result<bool, archive::ArchiveError> {
        let reported = self.ledger.get(path).filter(|reported| reported.moved.is_none());
        let Some(seen) = reported.and_then(|reported| reported.seen.as_ref()) else { return Ok(false) };
        let row = self.row_at(path)?;
        Ok(row.is_some_and(|row| {
            let told = merge::carried(&seen.attrs, row.live_attrs(), &row.entry.attrs);
            matches!(seen.content, Content::Dir) && merge::only_opens(&row.entry.attrs, &told)
        }))
    }
}
