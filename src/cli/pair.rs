//! A pair by its name or its file.

use std::path::{Path, PathBuf};

use super::UsageError;
use crate::config::valid_pair;

/// Where the files of pairs lie.
pub const DIRECTORY: &str = "/etc/psync";

/// A pair's name and its file, which need not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairFile {
    pub name: String,
    pub path: PathBuf,
}

impl PairFile {
    /// From PAIR: a name stands for `/etc/psync/NAME.toml`; what holds a slash or ends in `.toml` is a file's path, and
    /// its stem the pair's name.
    pub fn of(word: &str) -> Result<PairFile, UsageError> {
        let (name, path) = match word.contains('/') || word.ends_with(".toml") {
            false => (word.to_owned(), Path::new(DIRECTORY).join(format!("{word}.toml"))),
            true => {
                let path = std::path::absolute(word).map_err(|e| UsageError(format!("{word}: {e}")))?;
                let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
                (stem.unwrap_or_default(), path)
            }
        };
        match valid_pair(&name) {
            true => Ok(PairFile { name, path }),
            false => Err(UsageError(format!(
                "{word}: `{name}` is no name of a pair: 1 to 64 of A-Z a-z 0-9 . _ -, not beginning with a dot or a dash"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_files() {
        for (word, want) in [
            ("web", Some(("web", "/etc/psync/web.toml"))),
            ("web.1", Some(("web.1", "/etc/psync/web.1.toml"))),
            ("/x/mail.toml", Some(("mail", "/x/mail.toml"))),
            ("/x/mail.conf", Some(("mail", "/x/mail.conf"))),
            ("-x", None),
            ("/", None),
            ("", None),
        ] {
            let want = want.map(|(name, path)| PairFile { name: name.into(), path: path.into() });
            assert_eq!(PairFile::of(word).ok(), want, "{word}");
        }
        let here = PairFile::of("web.toml").expect("a file");
        assert!(here.name == "web" && here.path.is_absolute());
    }
}
