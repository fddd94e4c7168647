//! Knows what users did, and says what is wrong with two trees.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::users::{Did, Note};
use crate::word;

/// What became of a version, as its users see it.
#[derive(Debug, Clone)]
struct State {
    /// Where it is; `None`: somebody deleted or replaced it.
    name: Option<String>,
    /// Who had the last word, and who wrote it.
    last: usize,
    writer: usize,
    synced: bool,
}

#[derive(Default)]
pub struct Diary {
    versions: BTreeMap<String, State>,
    /// The last version under each name, and who put it there.
    names: BTreeMap<String, String>,
    /// What was there when the round began, and was not touched.
    before: BTreeMap<String, String>,
}

impl Diary {
    pub fn new(roots: &[PathBuf; 2]) -> Diary {
        let before = files(&roots[0]).into_iter().map(|(name, contents)| (contents, name)).collect();
        Diary { before, ..Diary::default() }
    }

    pub fn learn(&mut self, notes: Vec<Note>) {
        for Note { side, did } in notes {
            match did {
                Did::Saved { name, version, synced } => {
                    if let Some(old) = self.names.insert(name.clone(), version.clone())
                        && let Some(state) = self.versions.get_mut(&old)
                        && state.name.as_ref() == Some(&name)
                    {
                        (state.name, state.last) = (None, side);
                    }
                    self.before.retain(|_, at| *at != name);
                    self.versions.insert(version, State { name: Some(name), last: side, writer: side, synced });
                }
                Did::Deleted { name, version } => {
                    self.names.remove(&name);
                    self.before.remove(&version);
                    if let Some(state) = self.versions.get_mut(&version) {
                        (state.name, state.last) = (None, side);
                    }
                }
                Did::Renamed { from, to, version } => {
                    self.names.remove(&from);
                    self.before.remove(&version);
                    self.names.insert(to.clone(), version.clone());
                    if let Some(state) = self.versions.get_mut(&version) {
                        (state.name, state.last) = (Some(to), side);
                    }
                }
            }
        }
    }

    /// What is not as it should be. `cut`: the sides whose power failed.
    pub fn check(&self, roots: &[PathBuf; 2], cut: [bool; 2]) -> Vec<String> {
        let mut wrong = Vec::new();
        for (side, root) in roots.iter().enumerate() {
            let there = files(root);
            let mut by_contents: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
            there.iter().for_each(|(name, contents)| by_contents.entry(contents).or_default().push(name));
            let whole: BTreeSet<&str> = self.versions.keys().chain(self.before.keys()).map(String::as_str).collect();
            for (version, at) in &self.before {
                if !by_contents.contains_key(version.as_str()) {
                    wrong.push(format!("{}: lost, and nobody touched it: {at}: {}", word(side), head(version)));
                }
            }
            for (version, state) in &self.versions {
                let found = by_contents.get(version.as_str());
                let fragile = cut[state.writer] && !state.synced || cut[state.last] && state.last != state.writer;
                match (&state.name, found) {
                    (Some(name), None) if !fragile => {
                        wrong.push(format!(
                            "{}: lost: {name}: {} (written on the {})",
                            word(side),
                            head(version),
                            word(state.writer)
                        ));
                    }
                    (Some(name), Some(found)) if cut == [false; 2] && found != &[name.as_str()] => {
                        wrong.push(format!("{}: {} is at {found:?}, not at {name}", word(side), head(version)));
                    }
                    (None, Some(found)) if cut == [false; 2] => {
                        wrong.push(format!("{}: back: {found:?}: {}", word(side), head(version)));
                    }
                    _ => {}
                }
            }
            // What a power cut leaves of a file that was not synced may be anything; without one all files are whole.
            for (name, contents) in there.iter().filter(|_| cut == [false; 2]) {
                if !whole.contains(contents.as_str()) && !name.ends_with(".tmp") {
                    wrong.push(format!("{}: nobody wrote this: {name}: {}", word(side), head(contents)));
                }
            }
        }
        wrong.truncate(20);
        wrong
    }
}

fn head(version: &str) -> String {
    format!("{:?} ({} bytes)", version.lines().next().unwrap_or_default(), version.len())
}

/// All files that users see, with their contents.
fn files(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![PathBuf::new()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(root.join(&dir)).unwrap().flatten() {
            let at = dir.join(entry.file_name());
            if at.as_os_str() == ".psync" {
                continue;
            }
            match entry.file_type().unwrap().is_dir() {
                true => dirs.push(at),
                false => {
                    let contents = fs::read(root.join(&at)).unwrap();
                    found.insert(at.display().to_string(), String::from_utf8_lossy(&contents).into_owned());
                }
            }
        }
    }
    found
}
