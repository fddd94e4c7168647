//! A pair by its name or its file.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use super::UsageError;
use crate::config::{CONFIGURATION, RightCommand, Settings, pair_command, pair_file, why_no_pair};
use crate::service::control::{AGENT, LINK, directory, link_socket, socket_of};

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

impl PairFile {
    /// As [`PairFile::of`], of a pair that has a file or runs. The error names those that there are.
    pub fn known(word: &str) -> Result<PairFile, UsageError> {
        let pair = PairFile::of(word)?;
        let is_name = !word.contains('/') && pair.path.parent() == Some(Path::new(CONFIGURATION));
        if !is_name || pair.path.exists() || socket_of(&pair.name).exists() {
            return Ok(pair);
        }
        let there = match &names()[..] {
            [] => "nor any other (`psync init` sets one up)".to_owned(),
            [one] => format!("there is {one}"),
            all => format!("there are {}", all.join(", ")),
        };
        Err(UsageError(format!("no pair {} here; {there}", pair.name)))
    }
}

/// Every pair that has a file or a socket, sorted.
pub fn names() -> Vec<String> {
    let mut names = stems(Path::new(CONFIGURATION), "toml");
    names.extend(stems(&directory(), "sock").into_iter().filter(|name| !AGENTS.iter().any(|a| name.starts_with(a))));
    names.retain(|name| why_no_pair(name).is_none());
    names.sort();
    names.dedup();
    names
}

/// What the names of the sockets of agents and lines begin with.
const AGENTS: [&str; 2] = [AGENT, LINK];

fn stems(directory: &Path, extension: &str) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == extension));
    paths.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect()
}

impl PairFile {
    /// What leads to the pair's right side from this host.
    pub fn right(&self, settings: &Settings) -> RightCommand {
        match self.line(settings) {
            Some(socket) => RightCommand::Line(socket),
            None => pair_command(settings, &self.name, false),
        }
    }

    /// The socket of the line's own process, which reads /etc/psync/PAIR.toml: if this is that pair, its right side is on
    /// another host, and this user may use the socket. Who has none starts ssh himself.
    fn line(&self, settings: &Settings) -> Option<PathBuf> {
        let installed = self.path == Path::new(CONFIGURATION).join(format!("{}.toml", self.name));
        let socket = link_socket(&self.name);
        let usable = || rustix::fs::access(&socket, rustix::fs::Access::WRITE_OK).is_ok();
        (installed && !settings.is_local() && usable()).then_some(socket)
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
