//! What the filters are made of: the keys of a pair's file that say what takes part.

use serde::{Deserialize, Serialize};

/// Which objects take part. Both sides must have the same, see [`super::Filter::digest`].
///
/// The expressions are regular ones, not case-sensitive, searched in `/` + path; an empty one matches nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Filters {
    /// Names that end in it are never synchronised, and psync's own scratch names do: 1 to 64 bytes of a name;
    /// `.psync.ignore`.
    pub safesuffix: String,
    /// Names that are temporary: not synchronised under that name; `\.tmp$|\.~tmp~|/~\$`.
    pub tempfiles: String,
    /// Paths left out of everything; `/Thumbs\.db$`.
    pub excludes: String,
    /// Left out of full syncs, in rsync's language; none.
    #[serde(deserialize_with = "texts::deserialize")]
    pub rsync_excludes: Vec<String>,
    /// What happens to symbolic links; they are preserved.
    pub links: Links,
    /// What happens to FIFOs, sockets and devices; they are skipped.
    pub special: Special,
}

impl Default for Filters {
    fn default() -> Filters {
        Filters {
            safesuffix: ".psync.ignore".into(),
            tempfiles: r"\.tmp$|\.~tmp~|/~\$".into(),
            excludes: r"/Thumbs\.db$".into(),
            rsync_excludes: Vec::new(),
            links: Links::Preserve,
            special: Special::Skip,
        }
    }
}

/// What happens to symbolic links.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Links {
    Preserve,
    /// The referent travels as a file.
    Follow,
    Skip,
}

/// What happens to FIFOs, sockets and devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Special {
    /// None of them travels.
    Skip,
    /// FIFOs travel, the others do not.
    Fifos,
}

/// A list of texts, or one text, as people write patterns.
pub mod texts {
    use serde::{Deserialize, Deserializer};

    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a text or a list of texts")]
    enum Texts {
        One(String),
        Many(Vec<String>),
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
        Ok(match Texts::deserialize(d)? {
            Texts::One(text) if text.is_empty() => Vec::new(),
            Texts::One(text) => vec![text],
            Texts::Many(texts) => texts,
        })
    }
}
