//! Where a pair's file and sockets lie.

use std::env;
use std::path::{Path, PathBuf};

use super::valid_pair;

/// A pair by its name and its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    pub pair: String,
    pub file: PathBuf,
}

/// Finds `NAME`, whose file is `/etc/psync/NAME.toml`, or a path to such a file (whatever has a slash in it).
/// `PSYNC_CONFIG_DIR` names another directory than `/etc/psync`.
pub fn locate(named: &str) -> Result<Located, String> {
    locate_in(&dir("PSYNC_CONFIG_DIR", "/etc/psync"), named)
}

fn locate_in(directory: &Path, named: &str) -> Result<Located, String> {
    let unnamed = |name: &str| {
        format!("`{name}` is no name of a pair: 1 to 64 of A-Z a-z 0-9 . _ -, not beginning with a dot or a dash")
    };
    if !named.contains('/') {
        return match valid_pair(named) {
            true => Ok(Located { pair: named.into(), file: directory.join(format!("{named}.toml")) }),
            false => Err(unnamed(named)),
        };
    }
    let name = Path::new(named).file_name().and_then(|name| name.to_str()).unwrap_or_default();
    match name.strip_suffix(".toml") {
        Some(pair) if valid_pair(pair) => Ok(Located { pair: pair.into(), file: named.into() }),
        Some(pair) => Err(unnamed(pair)),
        None => Err(format!("{named}: the name of a pair's file ends in .toml")),
    }
}

/// The socket of a pair's agent, in `/run/psync`, or in the directory that `PSYNC_RUNTIME_DIR` names.
pub fn agent_socket(pair: &str) -> PathBuf {
    dir("PSYNC_RUNTIME_DIR", "/run/psync").join(format!("agent-{pair}.sock"))
}

fn dir(variable: &str, usual: &str) -> PathBuf {
    env::var_os(variable).filter(|value| !value.is_empty()).map_or_else(|| usual.into(), PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_a_name_or_a_file() {
        for (named, want) in [
            ("web", Ok(("web", "/etc/psync/web.toml"))),
            ("./web.toml", Ok(("web", "./web.toml"))),
            ("/srv/x/a.b.toml", Ok(("a.b", "/srv/x/a.b.toml"))),
            ("..", Err("`..` is no name of a pair")),
            ("", Err("`` is no name of a pair")),
            ("/srv/web", Err("/srv/web: the name of a pair's file ends in .toml")),
            ("/srv/.toml", Err("`` is no name of a pair")),
            ("/srv/a b.toml", Err("`a b` is no name of a pair")),
        ] {
            match (locate_in(Path::new("/etc/psync"), named), want) {
                (Ok(got), Ok((pair, file))) => {
                    assert_eq!((got.pair.as_str(), got.file.as_path()), (pair, Path::new(file)))
                }
                (Err(got), Err(want)) => assert!(got.starts_with(want), "{got}"),
                (got, want) => panic!("{named}: {got:?}, not {want:?}"),
            }
        }
    }
}
