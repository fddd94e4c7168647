//! The archive: the ancestor of every path, and psync's memory of what it is about to do.
//!
//! Rows are keyed by (parent node, name), so that renaming a directory changes one row whatever lies below it.
//! Two implementations: [`super::sqlite::SqliteArchive`] in `ROOT/.psync/PAIR/archive.db` and [`super::memory::MemoryArchive`].

use serde::{Deserialize, Serialize};

use crate::model::{Attrs, Entry, Generation, Name, NodeId, PATH_MAX, ROOT_NODE, RelPath, Side, Time};

use super::disk::Stat;

/// An archive that cannot be read or written. Nothing is decided without an archive: the endpoint stops.
#[derive(Debug, Clone, thiserror::Error)]
#[error("archive: {operation}: {detail}")]
pub struct ArchiveError {
    pub operation: &'static str,
    pub detail: String,
    /// What the archive holds can be read no more, or makes no sense: to try again does not help.
    pub damaged: bool,
}

impl ArchiveError {
    /// One that another try may not meet.
    pub fn new(operation: &'static str, detail: impl Into<String>) -> ArchiveError {
        ArchiveError { operation, detail: detail.into(), damaged: false }
    }
}

/// The stat of the object that a row was recorded with: while it is unchanged, so is the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    pub ino: u64,
    pub btime: Time,
    pub size: u64,
    pub mtime: Time,
    pub ctime: Time,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

impl Signature {
    pub fn of(stat: &Stat) -> Signature {
        Signature {
            ino: stat.ino,
            btime: stat.btime,
            size: stat.size,
            mtime: stat.mtime,
            ctime: stat.ctime,
            mode: stat.mode,
            uid: stat.uid,
            gid: stat.gid,
        }
    }

    /// This object, and nothing of what it is: no stat equals it, since none has this mode.
    pub fn name_only(self) -> Signature {
        let never = Time::default();
        Signature { size: 0, mtime: never, ctime: never, mode: u32::MAX, uid: 0, gid: 0, ..self }
    }

    pub fn is_name_only(&self) -> bool {
        self.mode == u32::MAX
    }

    /// Whether `stat` is of the very same object, whatever became of it.
    pub fn same_object(&self, stat: &Stat) -> bool {
        (self.ino, self.btime) == (stat.ino, stat.btime)
    }
}

/// Since when an object is here, and who made it: what the guards against mass deletion ask. A new version of an object, and
/// what takes its place, is no younger than it was. Seconds since 1970.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Since {
    /// It was here when both sides met, or nobody knows.
    #[default]
    Always,
    /// Users of this side made it.
    Made(i64),
    /// It came from the other side.
    Came(i64),
}

impl Since {
    /// The age of what takes the place of an object of another node.
    pub fn after(self, former: Since) -> Since {
        if self == Since::Always { self } else { former }
    }

    /// As the archive's column has it: 0, what was made here above it, what came below it.
    pub fn number(self) -> i64 {
        match self {
            Since::Always => 0,
            Since::Made(when) => when.max(0),
            Since::Came(when) => -when.max(0),
        }
    }

    pub fn of_number(number: i64) -> Since {
        match number {
            0 => Since::Always,
            1.. => Since::Made(number),
            _ => Since::Came(number.saturating_neg()),
        }
    }
}

/// One ancestor: what both sides agreed on, and what this side made of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    pub node: NodeId,
    pub parent: NodeId,
    pub name: Name,
    pub generation: Generation,
    /// The agreed state.
    pub entry: Entry,
    /// The attributes that the object got on this side, where they are not the agreed ones.
    pub achieved: Option<Attrs>,
    /// `None`, or but the object's name: agreed with the other side, but not yet compared with what is here.
    pub signature: Option<Signature>,
    pub since: Since,
}

impl Row {
    /// The signature of the object as it was compared with the row.
    pub fn compared(&self) -> Option<Signature> {
        self.signature.filter(|signature| !signature.is_name_only())
    }

    /// The attributes that this side's object has if nobody changed it.
    pub fn live_attrs(&self) -> &Attrs {
        self.achieved.as_ref().unwrap_or(&self.entry.attrs)
    }

    /// Whether nothing proves that this side's file holds what was agreed on: both sides' files were taken for equal unread, or
    /// only a look at the contents tells what was written since.
    pub fn is_unproven(&self) -> bool {
        self.entry.size() > 0
            && self.signature.is_some_and(|seen| self.entry.hash().is_none() || seen.ctime == Time::default())
    }

    /// Refuses what no archive can hold: a row of the root, a node in itself, a number of 2^63 or more.
    pub fn check(&self) -> Result<(), ArchiveError> {
        let detail = if self.node == ROOT_NODE {
            "the root has no row".to_owned()
        } else if self.node == self.parent {
            format!("node {} cannot lie in itself", self.node)
        } else {
            let highest = self.node.max(self.parent).max(self.generation).max(self.entry.size());
            return check_number(highest.max(self.signature.map_or(0, |s| s.size)));
        };
        Err(ArchiveError::new("put", detail))
    }
}

/// Refuses a node, generation or size of 2^63 or more.
pub fn check_number(number: u64) -> Result<(), ArchiveError> {
    match i64::try_from(number) {
        Ok(_) => Ok(()),
        Err(_) => Err(ArchiveError::new("check", format!("the number {number} is out of range"))),
    }
}

/// A deletion that both sides may not have confirmed yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    pub node: NodeId,
    pub parent: NodeId,
    pub name: Name,
    pub generation: Generation,
}

/// What an intent will do to the names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum IntentStep {
    /// The staged object (ino, btime) goes to the path; what it displaces to `copy` beside it, or to the trash.
    Place { entry: Entry, achieved: Option<Attrs>, staged: (u64, Time), victim: Option<Signature>, copy: Option<Name> },
    /// The node's object (ino, btime) goes from one path to the other.
    Move { from: RelPath, object: (u64, Time) },
    /// The node's object (ino, btime) goes to the trash.
    Remove { object: (u64, Time) },
    /// The object (ino, btime), which had other attributes before, gets those of the entry.
    Attributes { entry: Entry, before: Attrs, object: (u64, Time) },
    /// The node's directory (ino, btime), which cannot be renamed, goes from one path to the other in pieces, into one that was made
    /// for it (ino, btime).
    Pieces { from: RelPath, object: (u64, Time), made: (u64, Time) },
    /// As `Move`, of one that goes with this narrower mode.
    ClosedMove { from: RelPath, object: (u64, Time), mode: u32 },
    /// What went wrong is over and told. An object of users' lies in the stage: that goes to the trash, and nothing else is done.
    Stranded,
    /// The node's object (ino, btime) goes from one path to the other, and the other node's from `at` to `to`, if that goes as well;
    /// their rows change places.
    Exchange { from: RelPath, object: (u64, Time), other: NodeId, at: Option<(RelPath, (u64, Time))>, to: RelPath },
}

/// What is about to happen to one path, on disk before it happens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    pub generation: Generation,
    pub node: NodeId,
    pub path: RelPath,
    /// The directory that the name is in, as the action means it; `None`: the one that the path leads to.
    pub parent: Option<NodeId>,
    /// The name in the stage of the new object, or of the one on its way out.
    pub stage: Name,
    pub step: IntentStep,
}

/// One object in the trash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrashItem {
    /// Its name in the trash directory.
    pub id: Name,
    /// Where it was.
    pub path: RelPath,
    /// Seconds since 1970 when it came.
    pub since: i64,
    pub size: u64,
    /// Why it is here: `replaced`, `deleted`, `late write`, ...
    pub reason: String,
    /// What is written into it later shows against this: a file's mtime when it came; for a directory the moment of the
    /// file system's clock at which all that is in it had been seen. `None`: not known.
    pub stamp: Option<Time>,
    /// Whether it is still to be looked at for late writes.
    pub look: bool,
}

/// Who this archive belongs to, and how far it got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Random, made with the archive.
    pub archive: [u8; 16],
    /// The other side's archive; zeros before the first meeting.
    pub peer: [u8; 16],
    /// The highest generation that this archive has recorded.
    pub generation: Generation,
    /// Both archives hold every generation up to this one.
    pub confirmed: Generation,
    /// The machine's boot at the last record.
    pub boot: [u8; 16],
    /// The last boot in which the whole tree was compared with the archive, and nothing was left open. What the power took
    /// in a later one may not have been found yet.
    pub proven: [u8; 16],
    /// Inode and birth time of the root when the archive was made.
    pub root: (u64, Time),
    /// Which side of the pair this is; `None` before the first meeting.
    pub side: Option<Side>,
    /// Digest of the filters that were in force.
    pub filters: [u8; 32],
    /// Milliseconds since 1970 when it met its peer: what was here then counts as old. Below 0 until both have been equal once.
    pub met: i64,
}

impl Identity {
    /// Of an archive that was not looked into.
    pub fn unknown() -> Identity {
        Identity {
            archive: [0; 16],
            peer: [0; 16],
            generation: 0,
            confirmed: 0,
            boot: [0; 16],
            proven: [0; 16],
            root: (0, Time::default()),
            side: None,
            filters: [0; 32],
            met: 0,
        }
    }
}

/// One side's memory. A change that fails for the archive's own reasons (disk full, I/O error) ends its use: all
/// changes since the last commit are gone, every later call fails, and the endpoint opens it again as after a crash.
///
/// Changes are seen by later reads at once and are durable after [`Archive::commit`];
/// all changes since the last commit become durable together or not at all.
pub trait Archive {
    fn identity(&self) -> Result<Identity, ArchiveError>;
    fn set_identity(&mut self, identity: &Identity) -> Result<(), ArchiveError>;

    fn child(&self, parent: NodeId, name: &Name) -> Result<Option<Row>, ArchiveError>;
    /// The node of the same row, for those who want no more of it.
    fn child_node(&self, parent: NodeId, name: &Name) -> Result<Option<NodeId>, ArchiveError> {
        Ok(self.child(parent, name)?.map(|row| row.node))
    }
    fn node(&self, node: NodeId) -> Result<Option<Row>, ArchiveError>;
    /// The rows in a directory, sorted by name.
    fn children(&self, parent: NodeId) -> Result<Vec<Row>, ArchiveError>;
    /// The rows whose signature names this object, sorted by node.
    fn by_object(&self, ino: u64, btime: Time) -> Result<Vec<Row>, ArchiveError>;
    /// The row that is [`Row::is_unproven`] of the lowest node above this one.
    fn unproven(&self, above: NodeId) -> Result<Option<Row>, ArchiveError>;
    /// The number of such rows.
    fn count_unproven(&self) -> Result<u64, ArchiveError>;
    /// How many of the rows of the `most` newest nodes are [`Since::Came`], then or later.
    fn count_came(&self, when: i64, most: u64) -> Result<u64, ArchiveError>;
    /// The number of rows.
    fn count(&self) -> Result<u64, ArchiveError>;
    /// The number of rows of files, and the bytes of these.
    fn files(&self) -> Result<(u64, u64), ArchiveError>;

    /// Adds or replaces the row of `row.node`; a row of another node under the same name is dropped with its subtree.
    /// The node leaves its old place first: it and what lies below it survive the drop of a directory above it.
    /// The node of the row that was dropped.
    fn put(&mut self, row: &Row) -> Result<Option<NodeId>, ArchiveError>;
    /// Drops the row of a node and all rows below it. No tombstone. For [`ROOT_NODE`]: all rows.
    fn drop_tree(&mut self, node: NodeId) -> Result<(), ArchiveError>;
    /// Adds a tombstone, in place of an earlier one of the same node.
    fn bury(&mut self, tombstone: &Tombstone) -> Result<(), ArchiveError>;

    /// The time that both sides agreed on for this node's directory, as this side holds it; `None`: on none yet.
    fn dir_time(&self, node: NodeId) -> Result<Option<Time>, ArchiveError>;
    /// Keeps such a time, or none. It stays whatever is put of the node, and goes with its row. Nothing if there is no row.
    fn set_dir_time(&mut self, node: NodeId, time: Option<Time>) -> Result<(), ArchiveError>;

    /// The rows with a higher generation, sorted by generation, then by node.
    fn rows_above(&self, generation: Generation) -> Result<Vec<Row>, ArchiveError>;
    /// The tombstones with a higher generation, sorted by generation, then by node.
    fn tombstones_above(&self, generation: Generation) -> Result<Vec<Tombstone>, ArchiveError>;
    /// Forgets the tombstones up to this generation, and which actions up to it were joint.
    fn forget_tombstones(&mut self, upto: Generation) -> Result<(), ArchiveError>;

    /// Notes that the action of this generation has something to do on both sides; of each node the last one is known.
    fn note_joint(&mut self, node: NodeId, generation: Generation) -> Result<(), ArchiveError>;
    /// The last such action on a node that is known, be it that its row is of another one by now.
    fn joint(&self, node: NodeId) -> Result<Option<Generation>, ArchiveError>;

    /// Adds an intent, in place of an earlier one of the same generation.
    fn intend(&mut self, intent: &Intent) -> Result<(), ArchiveError>;
    fn settle(&mut self, generation: Generation) -> Result<(), ArchiveError>;
    /// The open intents, sorted by generation.
    fn intents(&self) -> Result<Vec<Intent>, ArchiveError>;

    /// Adds an item, or replaces the one of that id.
    fn trash_add(&mut self, item: &TrashItem) -> Result<(), ArchiveError>;
    fn trash_remove(&mut self, id: &Name) -> Result<(), ArchiveError>;
    /// All items, the oldest first, those of one second by id.
    fn trash(&self) -> Result<Vec<TrashItem>, ArchiveError>;

    /// Makes all changes since the last commit durable, as one.
    fn commit(&mut self) -> Result<(), ArchiveError>;
    /// Keeps a damaged archive aside, if there is a file, and begins an empty one in its place, with another id.
    fn begin_anew(&mut self) -> Result<(), ArchiveError> {
        Err(ArchiveError::new("begin anew", "this archive cannot be replaced"))
    }
    /// On a full disk, after a commit: brings what it stores into as little room as it can, so that the next commit needs
    /// no more.
    fn save_room(&mut self) {}
}

/// Where the archive has a node: the root for [`ROOT_NODE`]; `None` if the node or a directory above it has no row,
/// if the rows lead in a circle, or if the path would be longer than [`PATH_MAX`].
pub fn path_of(archive: &(impl Archive + ?Sized), node: NodeId) -> Result<Option<RelPath>, ArchiveError> {
    let mut names = Vec::new();
    let mut at = node;
    while at != ROOT_NODE {
        // Every name takes a byte and a slash: a longer chain is a circle or no legal path.
        if names.len() > PATH_MAX / 2 {
            return Ok(None);
        }
        let Some(row) = archive.node(at)? else { return Ok(None) };
        names.push(row.name);
        at = row.parent;
    }
    let mut path = Vec::new();
    for name in names.iter().rev() {
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name.as_bytes());
    }
    Ok(RelPath::new(&path).ok())
}

/// The row at a path; `None` for the root, which has no row.
pub fn row_at(archive: &(impl Archive + ?Sized), path: &RelPath) -> Result<Option<Row>, ArchiveError> {
    let mut found: Option<Row> = None;
    for name in path.names() {
        let parent = found.map_or(ROOT_NODE, |row| row.node);
        found = archive.child(parent, &name)?;
        if found.is_none() {
            return Ok(None);
        }
    }
    Ok(found)
}

#[cfg(test)]
pub(crate) mod samples {
    use super::*;
    use crate::model::{Content, Hash, Principal, Xattrs};

    pub fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).unwrap()
    }

    pub fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    pub fn attrs(mode: u32) -> Attrs {
        let mtime = Time { secs: 1_700_000_000, nanos: 5 };
        Attrs { mode, user: Principal::Id(0), group: Principal::Name("users".into()), mtime, xattrs: Xattrs::new() }
    }

    pub fn dir_row(node: NodeId, parent: NodeId, named: &str, generation: Generation) -> Row {
        let entry = Entry { content: Content::Dir, attrs: Attrs { mtime: Time::default(), ..attrs(0o755) } };
        Row {
            node,
            parent,
            name: name(named),
            generation,
            entry,
            achieved: None,
            signature: None,
            since: Since::Always,
        }
    }

    /// A file whose inode number is its node's.
    pub fn file_row(node: NodeId, parent: NodeId, named: &str, generation: Generation) -> Row {
        let attrs = attrs(0o640);
        let time = Time { secs: 1_700_000_001, nanos: 999_999_999 };
        let signature = Signature {
            ino: node,
            btime: time,
            size: 5,
            mtime: attrs.mtime,
            ctime: time,
            mode: 0o640,
            uid: 0,
            gid: 100,
        };
        let content = Content::File { size: 5, hash: Some(Hash::of(b"hello")) };
        let entry = Entry { content, attrs };
        Row {
            node,
            parent,
            name: name(named),
            generation,
            entry,
            achieved: None,
            signature: Some(signature),
            since: Since::Made(7),
        }
    }
}
