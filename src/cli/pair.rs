//! A pair by its name or its file.

use std::ffi::OsStr;
use std::path::PathBuf;

use super::UsageError;
use crate::config::{pair_file, why_no_pair};

/// A pair's name and its file, which need not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairFile {
    pub name: String,
    pub path: PathBuf,
}

impl PairFile {
    /// From PAIR: a name, or the path of a file whose stem is the pair's name.
    pub fn of(word: &str) -> Result<PairFile, UsageError> {
        let file = pair_file(OsStr::new(word)).map_err(UsageError)?;
        let path = std::path::absolute(file).map_err(|e| UsageError(format!("{word}: {e}")))?;
        let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        match why_no_pair(&name) {
            None => Ok(PairFile { name, path }),
            Some(why) => Err(UsageError(format!("{word}: `{name}` is no name of a pair: {why}"))),
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
