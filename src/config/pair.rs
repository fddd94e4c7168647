//! The name of a pair.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Where the pairs' files lie.
pub const CONFIGURATION: &str = "/etc/psync";

/// The file of a pair that is given by its name or by the path of such a file: what holds a slash or ends in `.toml`
/// is a path.
pub fn pair_file(pair: &OsStr) -> Result<PathBuf, String> {
    let path = Path::new(pair);
    if pair.as_bytes().contains(&b'/') || path.extension().is_some_and(|e| e == "toml") {
        return Ok(path.to_path_buf());
    }
    match pair.to_str().filter(|name| valid_pair(name)) {
        Some(name) => Ok(Path::new(CONFIGURATION).join(format!("{name}.toml"))),
        None => {
            let reserved = pair.to_str().filter(|name| RESERVED.iter().any(|reserved| name.starts_with(reserved)));
            let why = reserved.and_then(why_no_pair).map(|why| format!(": {why}")).unwrap_or_default();
            Err(format!("`{}` is no name of a pair and no path of its file{why}", pair.display()))
        }
    }
}

/// Whether this can name a pair; see [`why_no_pair`].
pub fn valid_pair(name: &str) -> bool {
    why_no_pair(name).is_none()
}

/// What psync's own sockets begin with, beside those of brains.
const RESERVED: [&str; 2] = ["agent-", "link-"];

/// Why this cannot name a pair. It is the name of a directory, a part of units' names, and of its brain's socket: that of a
/// pair `agent-web` would be the agent's socket of `web`.
pub fn why_no_pair(name: &str) -> Option<&'static str> {
    let plain = (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        && !name.starts_with(['.', '-']);
    if !plain {
        return Some("1 to 64 of A-Z a-z 0-9 . _ -, not beginning with a dot or a dash");
    }
    RESERVED.iter().any(|reserved| name.starts_with(reserved)).then_some(
        "names that begin with `agent-` or `link-` are those of psync's own sockets: rename the pair's file, and .psync/NAME in \
         both roots",
    )
}

/// The name of a pair that was given none: readable, and the same whenever the host and the roots are.
/// The roots should be canonical.
pub fn default_pair(left: &Path, host: Option<&str>, right: &Path) -> String {
    let mut hash = blake3::Hasher::new();
    for part in [left.as_os_str().as_bytes(), host.unwrap_or_default().as_bytes(), right.as_os_str().as_bytes()] {
        // A NUL is in none of them, so the parts cannot be mistaken for each other.
        hash.update(part).update(&[0]);
    }
    let digits = &hash.finalize().to_hex()[..8];
    let name = format!("{}-{}-{digits}", short(left), short(right));
    if valid_pair(&name) { name } else { format!("pair-{name}") }
}

/// The last element, of at most 24 characters that a name may have.
fn short(root: &Path) -> String {
    let name = root.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let plain: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' }).take(24).collect();
    let plain = plain.trim_start_matches(['.', '-']);
    if plain.is_empty() { "root".into() } else { plain.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_named_or_its_file_is() {
        for (given, want) in [
            ("web", Some("/etc/psync/web.toml")),
            ("./web", Some("./web")),
            ("web.toml", Some("web.toml")),
            ("/x/web.toml", Some("/x/web.toml")),
            ("a b", None),
            ("", None),
            ("..", None),
        ] {
            assert_eq!(pair_file(OsStr::new(given)).ok(), want.map(PathBuf::from), "{given:?}");
        }
    }

    #[test]
    fn names() {
        let longest = "x".repeat(64);
        for good in ["a", "fileserver", "A.b_c-9", "_x", longest.as_str()] {
            assert!(valid_pair(good), "{good:?}");
        }
        for (reserved, good) in
            [("agent-web", false), ("link-web", false), ("agents", true), ("agent", true), ("my-agent-x", true)]
        {
            assert_eq!(valid_pair(reserved), good, "{reserved}");
        }
        let why = pair_file(OsStr::new("agent-web")).expect_err("reserved");
        assert!(why.contains("own sockets: rename"), "{why}");
        let long = "x".repeat(65);
        for bad in ["", ".", "..", ".a", "-a", "a/b", "a b", "é", "a\n", long.as_str()] {
            assert!(!valid_pair(bad), "{bad:?}");
        }
    }

    #[test]
    fn default_names_are_stable_valid_and_differ() {
        let name = |l: &str, h, r: &str| default_pair(Path::new(l), h, Path::new(r));
        assert_eq!(name("/srv/data", None, "/backup/copy"), name("/srv/data", None, "/backup/copy"));
        assert!(name("/srv/data", None, "/backup/copy").starts_with("data-copy-"));
        assert_ne!(name("/a/x", None, "/b/y"), name("/a/x", Some("h"), "/b/y"));
        assert_ne!(name("/a/x", None, "/b/y"), name("/c/x", None, "/b/y"));
        let odd = "é \n".repeat(90);
        for (l, r) in [("/", "/"), ("/.x", "/-y"), (odd.as_str(), "/...")] {
            assert!(valid_pair(&name(l, None, r)), "{l:?} {r:?}");
        }
        assert!(name("/", None, "/a").starts_with("root-a-"));
        assert!(name("/agent", None, "/a").starts_with("pair-agent-a-"));
    }
}
