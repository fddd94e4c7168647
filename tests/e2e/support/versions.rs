//! Contents that say what they are, so that a lost or a torn version is seen wherever it lies.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::users::noise;

/// One finished version of a file: who wrote it and its number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub name: String,
    pub number: u64,
}

impl Version {
    pub fn new(name: &str, number: u64) -> Version {
        Version { name: name.into(), number }
    }

    /// The version's contents: a line that names it, some bytes, a checksum of all that.
    pub fn contents(&self) -> Vec<u8> {
        let seed = self.number.wrapping_mul(31).wrapping_add(self.name.len() as u64);
        let length = [10, 1000, 5000, 70_000][(self.number % 4) as usize];
        let mut out = format!("{} {}\n", self.name, self.number).into_bytes();
        out.extend(noise(seed, length));
        let sum = blake3::hash(&out);
        out.extend_from_slice(sum.as_bytes());
        out
    }

    /// The version that these contents are; `None` if they are none, or not whole.
    pub fn parse(contents: &[u8]) -> Option<Version> {
        let (body, sum) = contents.split_at(contents.len().checked_sub(32)?);
        if blake3::hash(body).as_bytes() != sum {
            return None;
        }
        let line = body.split(|b| *b == b'\n').next()?;
        let (name, number) = std::str::from_utf8(line).ok()?.split_once(' ')?;
        Some(Version { name: name.into(), number: number.parse().ok()? })
    }
}

/// Every version that lies anywhere below a directory, whatever its name, and the files that hold none.
pub fn collect(directory: &Path) -> (BTreeSet<Version>, Vec<String>) {
    let (mut found, mut torn) = (BTreeSet::new(), Vec::new());
    let mut todo = vec![directory.to_owned()];
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                todo.push(path);
            } else if kind.is_file()
                && let Ok(contents) = fs::read(&path)
            {
                match Version::parse(&contents) {
                    Some(version) => drop(found.insert(version)),
                    None => torn.push(format!("{} ({} bytes)", path.display(), contents.len())),
                }
            }
        }
    }
    (found, torn)
}
