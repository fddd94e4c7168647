//! The mounts that a root needs, as systemd knows them.
//!
//! A service behind a socket must not *require* a mount: when the mount fails, the service's start is cancelled before it
//! begins, the caller still waits at the socket, and systemd tries again without a pause until it gives the socket up. So
//! the service only wants its mounts, and asks for them itself.

use std::fmt::{self, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::human::words;

/// systemd knows no longer names.
const NAME_MAX: usize = 255;

/// The units of mounts on which the root could lie, the outermost first. Most of them are of no mount.
pub fn of(root: &Path) -> Vec<String> {
    let above = root.ancestors().filter(|path| path.parent().is_some());
    let mut units: Vec<String> = above.map(unit).filter(|unit| unit.len() <= NAME_MAX).collect();
    units.reverse();
    units
}

/// What `systemd-escape --path --suffix=mount` makes of a path.
fn unit(path: &Path) -> String {
    let mut name = String::new();
    for byte in path.as_os_str().as_bytes().iter().skip(1) {
        match byte {
            b'/' => name.push('-'),
            b'.' if name.is_empty() => name.push_str("\\x2e"),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b':' | b'_' | b'.' => name.push(char::from(*byte)),
            other => _ = write!(name, "\\x{other:02x}"),
        }
    }
    name + ".mount"
}

/// A mount of a root that systemd knows, and that is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    root: PathBuf,
    pub unit: String,
    /// Why, in systemd's word.
    state: String,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "root {}: {} is not mounted ({})", self.root.display(), self.unit, self.state)
    }
}

/// Whether all mounts of the root that systemd has a unit for are there; else which one is not.
pub fn all_mounted(root: &Path) -> Result<(), String> {
    missing(root)?.map_or(Ok(()), |missing| Err(missing.to_string()))
}

/// Whether a mount of the root came after this moment of the monotonic clock, in microseconds.
pub fn mounted_since(root: &Path, moment: u64) -> bool {
    let shown = show(root, "Id,ActiveState,ActiveEnterTimestampMonotonic").unwrap_or_default();
    has_come_since(&shown, moment)
}

fn has_come_since(shown: &str, moment: u64) -> bool {
    shown.split("\n\n").any(|paragraph| {
        let since = value(paragraph, "ActiveEnterTimestampMonotonic").and_then(|since| since.parse().ok());
        value(paragraph, "ActiveState") == Some("active") && since.is_some_and(|since: u64| since > moment)
    })
}

/// What systemd has of the units of the root's mounts: a paragraph for each.
fn show(root: &Path, properties: &str) -> Result<String, String> {
    let mut command = Command::new("systemctl");
    command.args(["show", &format!("--property={properties}"), "--"]).args(of(root));
    let output = command.output().map_err(|e| format!("systemctl show: {}", words(&e)))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("systemctl show: {}", said.lines().next().unwrap_or("it failed")));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn value<'s>(paragraph: &'s str, name: &str) -> Option<&'s str> {
    paragraph.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
}

/// The outermost mount of the root that is not there. An error: systemd cannot be asked.
pub fn missing(root: &Path) -> Result<Option<Missing>, String> {
    let shown = show(root, "Id,LoadState,ActiveState,Result")?;
    let found = first_missing(&shown);
    Ok(found.map(|(unit, state)| Missing { root: root.to_owned(), unit: unit.to_owned(), state: state.to_owned() }))
}

/// The first unit that is known and not mounted, of what `systemctl show` prints: a paragraph for each.
fn first_missing(shown: &str) -> Option<(&str, &str)> {
    shown.split("\n\n").find_map(|paragraph| {
        let value = |name: &str| value(paragraph, name);
        let (unit, loaded, active) = (value("Id")?, value("LoadState")?, value("ActiveState")?);
        let why = value("Result").filter(|result| *result != "success").unwrap_or(active);
        (loaded == "loaded" && active != "active").then_some((unit, why))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_units_of_a_path() {
        for (root, want) in [
            ("/", &[][..]),
            ("/srv", &["srv.mount"]),
            ("/srv/my data/.x", &["srv.mount", r"srv-my\x20data.mount", r"srv-my\x20data-.x.mount"]),
            ("/.a-b/ü", &[r"\x2ea\x2db.mount", r"\x2ea\x2db-\xc3\xbc.mount"]),
        ] {
            assert_eq!(of(Path::new(root)), want, "{root}");
        }
        assert_eq!(of(Path::new(&format!("/a/{}", "x".repeat(250)))), ["a.mount"]);
    }

    #[test]
    fn a_mount_that_came_later_is_told() {
        let unit = |state: &str, since: u64| {
            format!("Id=a.mount\nActiveState={state}\nActiveEnterTimestampMonotonic={since}\n")
        };
        assert!(!has_come_since("", 5) && !has_come_since(&unit("active", 5), 5));
        assert!(has_come_since(&[unit("active", 1), unit("active", 6)].join("\n"), 5));
        assert!(!has_come_since(&unit("inactive", 6), 5));
    }

    #[test]
    fn what_is_known_must_be_mounted() {
        let unit = |name: &str, loaded: &str, active: &str, result: &str| {
            format!("Result={result}\nId={name}.mount\nLoadState={loaded}\nActiveState={active}\n")
        };
        let all = |units: &[String]| first_missing(&units.join("\n")).map(|(unit, why)| format!("{unit} {why}"));
        let (fine, none) = (unit("a", "loaded", "active", "success"), unit("b", "not-found", "inactive", "success"));
        assert_eq!(all(&[]), None);
        assert_eq!(all(&[fine.clone(), none.clone()]), None);
        let failed = unit("c", "loaded", "failed", "exit-code");
        assert_eq!(all(&[fine.clone(), none, failed]).as_deref(), Some("c.mount exit-code"));
        // Its device did not come.
        assert_eq!(all(&[fine, unit("d", "loaded", "inactive", "success")]).as_deref(), Some("d.mount inactive"));
    }
}
