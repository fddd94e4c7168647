//! A survey: what a check asks of a side, to look, and to change nothing that users see. And what `psync trash` and
//! `psync doctor` ask.
//!
//! It has a link of its own, beside the session that may go on.

use serde::{Deserialize, Serialize};

use crate::model::{Hash, Kind, Name, Principal, Problem, RelPath, Time, words};

/// One question; each is answered in full before the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// All objects that travel, in the order of paths.
    List,
    /// These again, in the order given; those that are gone are left out.
    Look { paths: Vec<RelPath> },
    /// The hashes of these files' contents.
    Hash { paths: Vec<RelPath> },
    /// Copy these files into the trash, below a directory of this name. Answered with problems alone.
    Keep { name: Name, paths: Vec<RelPath> },
    /// All that lies in the trash.
    Trash,
    /// Move this object of the trash to `to`, where nothing lies: a user's change. `below`: the object in it that is meant.
    /// Answered with a problem, or with nothing.
    Restore { id: Name, below: Option<RelPath>, to: RelPath },
    /// Whether this side serves that root for the pair. Answered with nothing, or with a failure.
    Serves {
        #[serde(with = "serde_bytes")]
        root: Vec<u8>,
    },
    /// All that this side can tell of itself. `root`: the one that it has by the file of whoever asks; empty: none is named.
    Examine {
        #[serde(with = "serde_bytes")]
        root: Vec<u8>,
    },
    /// No question: whoever asks is still there, and has nothing to ask for now. Not answered.
    Alive,
}

/// A piece of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    Items {
        items: Vec<Item>,
    },
    /// `None`: it cannot be read now, or changed meanwhile.
    Hashes {
        hashes: Vec<(RelPath, Option<Hash>)>,
    },
    Trashed {
        items: Vec<Trashed>,
    },
    Examined(Examination),
    /// So many FIFOs, sockets and devices lie there that do not travel; of a list, before its end.
    Special {
        files: u64,
    },
    /// What cannot be looked at.
    Problem(Problem),
    /// The whole answer was given.
    End,
    /// There will be no answer.
    Failed {
        #[serde(deserialize_with = "words::text")]
        reason: String,
    },
}

/// What a side tells of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Examination {
    /// The version of the program.
    #[serde(deserialize_with = "words::text")]
    pub program: String,
    /// Milliseconds since 1970, when this was written.
    pub clock: i64,
    /// It runs as root.
    pub root_rights: bool,
    /// The pair has an archive there.
    pub archive: bool,
    /// Digest of the filters in force.
    pub filters: [u8; 32],
    pub findings: Vec<Finding>,
}

/// One object as a check sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    pub path: RelPath,
    pub kind: Kind,
    /// A file's size in bytes, 0 of other kinds.
    pub size: u64,
    /// Of a file or a directory; zero of other kinds.
    pub mtime: Time,
    /// When anything about it was changed last, in seconds since 1970.
    pub changed: i64,
    /// Permission bits; 0 of links.
    pub mode: u32,
    pub user: Principal,
    pub group: Principal,
    /// Of a link.
    pub target: Option<Box<[u8]>>,
    /// A hash of the extended attributes that travel both ways, names and values; `None`: it has none.
    pub xattrs: Option<Hash>,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What was looked at, in a word or two.
    #[serde(deserialize_with = "words::text")]
    pub check: String,
    pub ok: bool,
    /// How it is.
    #[serde(deserialize_with = "words::text")]
    pub found: String,
    /// What mends it; empty if nothing is wrong.
    #[serde(deserialize_with = "words::text")]
    pub mend: String,
}

impl Finding {
    pub fn ok(check: &str, found: impl Into<String>) -> Finding {
        Finding { check: check.to_owned(), ok: true, found: found.into(), mend: String::new() }
    }

    pub fn wrong(check: &str, found: impl Into<String>, mend: impl Into<String>) -> Finding {
        Finding { check: check.to_owned(), ok: false, found: found.into(), mend: mend.into() }
    }
}

/// A version in the trash, as others than the replica see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trashed {
    /// Its name in the trash directory.
    pub id: Name,
    /// Where it was; the root if that is not known.
    pub path: RelPath,
    /// Seconds since 1970 when it came.
    pub since: i64,
    /// Bytes; of a directory those of all files in it, where they are counted.
    pub size: u64,
    #[serde(deserialize_with = "words::text")]
    pub reason: String,
    pub kind: Kind,
    /// Copied by a check: the object lies at `path` below the directory `id`.
    pub copied: bool,
}
