//! What an object is: the state that both sides compare, agree on and record.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A hash of a file's whole contents: BLAKE3, which leaves out blocks of zeros (see [`super::Hasher`]).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// The hash of `contents`.
    pub fn of(contents: &[u8]) -> Hash {
        if (contents.len() as u64) < super::hasher::BLOCK {
            return Hash(*blake3::hash(contents).as_bytes());
        }
        let mut hasher = super::Hasher::new();
        hasher.update(contents);
        hasher.finish()
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// A point in time: seconds since 1970 (negative before) and nanoseconds, 0 to 999,999,999.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Time {
    pub secs: i64,
    pub nanos: u32,
}

/// The kinds that psync carries. Sockets and devices are not among them, and FIFOs only with `special = "fifos"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Kind {
    File,
    Dir,
    Link,
    Fifo,
}

/// A user or a group as it travels: by name where it has one, else by number.
/// Number 0 always travels as a number, as rsync does it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Principal {
    Id(u32),
    Name(Arc<str>),
}

/// Which number a name has on the side that says so.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OwnerNumber {
    /// Of a group, not of a user.
    pub group: bool,
    pub name: Arc<str>,
    pub id: u32,
}

/// Extended attributes by name, ACLs included (as `system.posix_acl_access` and `..._default`,
/// their value being the portable form of `replica::metadata`, not the kernel's).
pub type Xattrs = BTreeMap<Box<[u8]>, Box<[u8]>>;

/// The attributes that travel. Each is merged by itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Attrs {
    /// Permission bits, setuid, setgid and sticky: `0..=0o7777`; 0 for links.
    pub mode: u32,
    pub user: Principal,
    pub group: Principal,
    /// Modification time of a file; zero for other kinds, whose times are no state.
    pub mtime: Time,
    pub xattrs: Xattrs,
}

/// What makes an object's contents.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Content {
    /// A file of `size` bytes. The hash is unknown until somebody had a reason to read the file.
    File {
        size: u64,
        hash: Option<Hash>,
    },
    Dir,
    /// A symbolic link and its target's bytes.
    Link {
        target: Box<[u8]>,
    },
    /// A FIFO, whose contents are on their way from one process to another: they are nobody's to carry.
    Fifo,
}

/// One object's state.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Entry {
    pub content: Content,
    pub attrs: Attrs,
}

/// What comparing two contents can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sameness {
    Same,
    Differs,
    /// Files of equal size, and a hash is missing.
    Unknown,
}

impl Entry {
    pub fn kind(&self) -> Kind {
        match self.content {
            Content::File { .. } => Kind::File,
            Content::Dir => Kind::Dir,
            Content::Link { .. } => Kind::Link,
            Content::Fifo => Kind::Fifo,
        }
    }

    /// A file's size in bytes, 0 for other kinds.
    pub fn size(&self) -> u64 {
        match self.content {
            Content::File { size, .. } => size,
            _ => 0,
        }
    }

    pub fn hash(&self) -> Option<Hash> {
        match self.content {
            Content::File { hash, .. } => hash,
            _ => None,
        }
    }
}

impl Content {
    /// Whether it is a file's, and nobody has read it.
    pub fn is_unread(&self) -> bool {
        matches!(self, Content::File { size: 1.., hash: None })
    }

    /// Compares contents alone, attributes left out.
    pub fn compare(&self, other: &Content) -> Sameness {
        match (self, other) {
            (Content::File { size: a, .. }, Content::File { size: b, .. }) if a != b => Sameness::Differs,
            (Content::File { hash: Some(a), .. }, Content::File { hash: Some(b), .. }) => {
                if a == b {
                    Sameness::Same
                } else {
                    Sameness::Differs
                }
            }
            (Content::File { size: 0, .. }, Content::File { .. }) => Sameness::Same,
            (Content::File { .. }, Content::File { .. }) => Sameness::Unknown,
            (a, b) if a == b => Sameness::Same,
            _ => Sameness::Differs,
        }
    }
}
