//! Which paths psync leaves alone: excludes, temporary names, its own.

mod pattern;
mod rsync;
mod settings;
mod translate;

use std::sync::{Mutex, PoisonError};

use crate::model::{Kind, RelPath};

pub use pattern::FilterError;
use pattern::Pattern;
pub use rsync::Excludes;
pub use settings::{Filters, Links, Special, texts};
pub use translate::Translate;

/// The filters in force. Both sides must have the same, see [`Filter::digest`].
#[derive(Debug, Clone)]
pub struct Filter {
    excludes: Pattern,
    tempfiles: Pattern,
    safesuffix: Box<[u8]>,
    skip_links: bool,
    skip_fifos: bool,
    rsync_excludes: Excludes,
    digest: [u8; 32],
    not_excluded: Clean,
    not_temporary: Clean,
}

impl Filter {
    /// An error names the key and what is wrong with its value.
    pub fn new(settings: &Filters) -> Result<Filter, FilterError> {
        let suffix = settings.safesuffix.as_bytes();
        if suffix.is_empty() || suffix.len() > 64 || suffix.iter().any(|b| matches!(b, b'/' | 0)) {
            return Err(FilterError::Suffix);
        }
        Ok(Filter {
            excludes: Pattern::new("excludes", &settings.excludes)?,
            tempfiles: Pattern::new("tempfiles", &settings.tempfiles)?,
            safesuffix: suffix.into(),
            skip_links: settings.links == Links::Skip,
            skip_fifos: settings.special == Special::Skip,
            rsync_excludes: Excludes::new(&settings.rsync_excludes)?,
            digest: digest(settings),
            not_excluded: Clean::default(),
            not_temporary: Clean::default(),
        })
    }

    /// Whether the path, or a directory above it, is left out of everything.
    pub fn excluded(&self, path: &RelPath) -> bool {
        self.excluded_itself(path) || !self.not_excluded.holds(path, |above| self.excluded_itself(above))
    }

    /// As [`Filter::excluded`], for a path whose directories are known not to be.
    pub fn excluded_itself(&self, path: &RelPath) -> bool {
        path.as_bytes().ends_with(&self.safesuffix) || self.excludes.matches(path)
    }

    /// Whether the path, or a directory above it, has a temporary name.
    pub fn temporary(&self, path: &RelPath) -> bool {
        self.temporary_itself(path) || !self.not_temporary.holds(path, |above| self.temporary_itself(above))
    }

    /// As [`Filter::temporary`], for a path whose directories are known not to be.
    pub fn temporary_itself(&self, path: &RelPath) -> bool {
        self.tempfiles.matches(path)
    }

    /// Whether objects of this kind are left out wherever they lie.
    pub fn skips(&self, kind: Option<Kind>) -> bool {
        self.skip_links && kind == Some(Kind::Link) || self.skip_fifos && kind == Some(Kind::Fifo)
    }

    /// Whether a full sync leaves the object as it is, on either side.
    pub fn left_out(&self, path: &RelPath, is_dir: bool) -> bool {
        self.rsync_excludes.leave_out(path, is_dir)
    }

    /// The same for equal settings only.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }
}

/// The last directory that a filter lets through, with all above it: what is asked of next lies near it. So a path costs
/// one comparison, however deep it lies.
#[derive(Debug)]
struct Clean(Mutex<RelPath>);

impl Default for Clean {
    fn default() -> Clean {
        Clean(Mutex::new(RelPath::root()))
    }
}

impl Clone for Clean {
    fn clone(&self) -> Clean {
        Clean::default()
    }
}

impl Clean {
    /// Whether no directory above the path is caught.
    fn holds(&self, path: &RelPath, is_caught: impl Fn(&RelPath) -> bool) -> bool {
        let Some(parent) = path.parent() else { return true };
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut at = Some(parent.clone());
        while let Some(dir) = at.filter(|dir| !last.is_within(dir)) {
            if is_caught(&dir) {
                return false;
            }
            at = dir.parent();
        }
        if !last.is_within(&parent) {
            *last = parent;
        }
        true
    }
}

fn digest(settings: &Filters) -> [u8; 32] {
    let Filters { safesuffix, tempfiles, excludes, rsync_excludes, links, special } = settings;
    let mut hasher = blake3::Hasher::new();
    let links = if *links == Links::Skip { "skip" } else { "" };
    let patterns = rsync_excludes.iter().map(|pattern| ("rsync_excludes", pattern.as_str()));
    let others =
        [("excludes", excludes.as_str()), ("tempfiles", tempfiles), ("safesuffix", safesuffix), ("links", links)];
    let fifos = (*special == Special::Fifos).then_some(("special", "fifos"));
    for (key, value) in others.into_iter().chain(fifos).chain(patterns) {
        for part in [key, value] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
    }
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(bytes: &[u8]) -> RelPath {
        RelPath::new(bytes).expect("a valid path")
    }

    fn filter(excludes: &str, tempfiles: &str) -> Filter {
        let settings = Filters { excludes: excludes.into(), tempfiles: tempfiles.into(), ..Filters::default() };
        Filter::new(&settings).expect("valid settings")
    }

    #[test]
    fn the_defaults() {
        let filter = Filter::new(&Filters::default()).expect("valid defaults");
        let table: &[(&[u8], bool, bool)] = &[
            (b"", false, false),
            (b"a/b", false, false),
            (b"Thumbs.db", true, false),
            (b"a/thumbs.DB", true, false),
            (b"a/xThumbs.db", false, false),
            (b"a/Thumbs.db.txt", false, false),
            (b"Thumbs.db/below", true, false),
            (b".psyncx", false, false),
            (b"f.psync.ignore", true, false),
            (b"d.psync.ignore/f", true, false),
            (b"f.psync.ignored", false, false),
            (b"a.tmp", false, true),
            (b"a.TMP", false, true),
            (b"a.tmp/f", false, true),
            (b"a.tmp.txt", false, false),
            (b"x.~tmp~", false, true),
            (b"x/.~tmp~/f", false, true),
            (b"~$letter.docx", false, true),
            (b"d/~$letter.docx", false, true),
            (b"d/x~$letter.docx", false, false),
            (b"\xff\xfe.tmp", false, true),
            (b".notes.backup", false, false),
        ];
        for (bytes, excluded, temporary) in table {
            let path = path(bytes);
            assert_eq!((filter.excluded(&path), filter.temporary(&path)), (*excluded, *temporary), "{path}");
        }
    }

    #[test]
    fn expressions() {
        let table: &[(&str, &[u8], bool)] = &[
            ("", b"a", false),
            ("^/top$", b"top", true),
            ("^/top$", b"a/top", false),
            ("^/top$", b"top/below", true),
            ("/cache/", b"a/cache/b", true),
            ("/cache/", b"a/cache", false),
            ("ÄPFEL", "korb/äpfel".as_bytes(), true),
            ("^/x.*y$", b"x\xff\ny", true),
            ("^/x.y$", b"x\xffy", true),
            (r"(?-u:\xff)", b"x\xffy", true),
            ("a$", b"a\n", false),
            ("(?-i)ABC", b"abc", false),
        ];
        for (pattern, bytes, expected) in table {
            assert_eq!(filter(pattern, "").excluded(&path(bytes)), *expected, "{pattern} {:?}", path(bytes));
        }
    }

    #[test]
    fn errors_name_key_and_position() {
        let table = [
            ("a(b", "", "excludes: unclosed group at character 2"),
            ("", "ä*?b[z-a]", "tempfiles: invalid character class range, the start must be <= the end at character 6"),
            ("x{2,1}", "", "excludes: invalid repetition count range, the start must be <= the end at character 2"),
            ("", r"\p{Nowhere}", "tempfiles: Unicode property not found at character 1"),
            ("(?:x{1000}){1000}", "", "excludes: the expression is too large when compiled"),
        ];
        for (excludes, tempfiles, expected) in table {
            let settings = Filters { excludes: excludes.into(), tempfiles: tempfiles.into(), ..Filters::default() };
            let error = Filter::new(&settings).map(|_| ()).map_err(|e| e.to_string());
            assert_eq!(error, Err(expected.to_owned()));
        }
        for suffix in ["", "a/b", "\0"] {
            let settings = Filters { safesuffix: suffix.into(), ..Filters::default() };
            assert_eq!(Filter::new(&settings).map(|_| ()), Err(FilterError::Suffix), "{suffix:?}");
        }
    }

    #[test]
    fn the_digest_tells_settings_apart() {
        let digests = [filter("a", "b"), filter("ab", ""), filter("b", "a"), filter("a", "b")].map(|f| f.digest());
        assert_eq!(digests[0], digests[3]);
        assert!(digests[0] != digests[1] && digests[1] != digests[2] && digests[0] != digests[2]);
    }
}
