//! Who said what: the option or the line that a setting came from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Invalid;

/// Where a setting came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// As the user knows it, e.g. `--excludes`.
    Option(&'static str),
    /// `line` counts from 1.
    File { path: Arc<Path>, line: usize, key: String },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Option(name) => f.write_str(name),
            Origin::File { path, line, key } => write!(f, "{}:{line}: {key}", path.display()),
        }
    }
}

/// The origin of every setting that is not a default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins {
    by_key: BTreeMap<String, Origin>,
    file: Option<PathBuf>,
}

impl Origins {
    pub fn of_file(path: &Path) -> Origins {
        Origins { by_key: BTreeMap::new(), file: Some(path.to_path_buf()) }
    }

    /// An option replaces what the file said of the same key.
    pub fn insert(&mut self, key: impl Into<String>, origin: Origin) {
        self.by_key.insert(key.into(), origin);
    }

    pub fn of(&self, key: &str) -> Option<&Origin> {
        self.by_key.get(key)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Origin)> {
        self.by_key.iter().map(|(key, origin)| (key.as_str(), origin))
    }

    /// One line that names what is wrong and who said it.
    pub fn explain(&self, invalid: &Invalid) -> String {
        match (self.of(invalid.key), &self.file) {
            (Some(origin), _) => format!("{origin}: {}", invalid.message),
            (None, Some(file)) => format!("{}: {}: {}", file.display(), invalid.key, invalid.message),
            (None, None) => format!("{}: {}", invalid.key, invalid.message),
        }
    }
}
