//! Reading a pair's file.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use super::nearest::nearest;
use super::{Origin, Origins, Settings};

/// Why a file gave no settings. Each message names the file, and the line and key where there is one.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("{}: cannot read: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}:{line}: {message}", path.display())]
    Syntax { path: PathBuf, line: usize, message: String },
    #[error("{}:{line}: unknown key `{key}`{hint}", path.display())]
    UnknownKey { path: PathBuf, line: usize, key: String, hint: String },
    #[error("{}:{line}: {key}: {message}", path.display())]
    Value { path: PathBuf, line: usize, key: String, message: String },
    /// A whole line.
    #[error("{0}")]
    Unsettled(String),
}

/// Reads the file of a pair that no options are said of. What is in it has the right types, and is not yet checked
/// further.
pub fn load(path: &Path) -> Result<(Settings, Origins), LoadError> {
    let (mut settings, mut origins) = load_unsettled(path)?;
    match settings.settle(&mut origins) {
        Ok(()) => Ok((settings, origins)),
        Err(invalid) => Err(LoadError::Unsettled(origins.explain(&invalid))),
    }
}

/// Reads the file of a pair that options may still be said of; then comes [`Settings::settle`].
pub fn load_unsettled(path: &Path) -> Result<(Settings, Origins), LoadError> {
    let text = fs::read_to_string(path).map_err(|source| LoadError::Read { path: path.to_path_buf(), source })?;
    parse(path, &text)
}

/// As [`load`], of a text; `path` is only for the messages.
pub fn parse(path: &Path, text: &str) -> Result<(Settings, Origins), LoadError> {
    let syntax = |e: toml::de::Error| {
        let line = e.span().map_or(1, |span| line_of(text, span.start));
        LoadError::Syntax { path: path.to_path_buf(), line, message: one_line(e.message()) }
    };
    let lines = key_lines(text).map_err(syntax)?;
    let table: Table = toml::from_str(text).map_err(syntax)?;

    let schema = Schema::new();
    for (key, line) in &lines {
        if !schema.knows(key) {
            let (path, key, hint) = (path.to_path_buf(), key.clone(), schema.hint(key));
            return Err(LoadError::UnknownKey { path, line: *line, key, hint });
        }
    }
    // Each key by itself, so that the error is that key's.
    for (key, alone) in single_keys(&table) {
        if let Err(e) = Settings::of(&Value::Table(alone)) {
            let line = lines.get(&key).copied().unwrap_or(1);
            return Err(LoadError::Value { path: path.to_path_buf(), line, key, message: in_plain_words(e.message()) });
        }
    }
    let settings = Settings::of(&Value::Table(table)).map_err(syntax)?;

    let mut origins = Origins::of_file(path);
    let shared: Arc<Path> = path.into();
    for (key, line) in lines {
        origins.insert(key.clone(), Origin::File { path: shared.clone(), line, key });
    }
    Ok((settings, origins))
}

/// The keys that exist, taken from the settings themselves.
struct Schema {
    keys: BTreeMap<String, Vec<String>>,
}

impl Schema {
    fn new() -> Schema {
        let mut keys = BTreeMap::new();
        if let Ok(serde_json::Value::Object(top)) = serde_json::to_value(Settings::default()) {
            for (key, value) in top {
                let below = value.as_object().map(|o| o.keys().cloned().collect()).unwrap_or_default();
                keys.insert(key, below);
            }
        }
        Schema { keys }
    }

    fn knows(&self, key: &str) -> bool {
        match key.split_once('.') {
            None => self.keys.contains_key(key),
            Some((table, below)) => self.keys.get(table).is_some_and(|keys| keys.iter().any(|k| k == below)),
        }
    }

    /// What the writer may have meant, as the end of a sentence.
    fn hint(&self, key: &str) -> String {
        let all = self.keys.iter().flat_map(|(key, below)| {
            let below = below.iter().map(move |b| format!("{key}.{b}"));
            std::iter::once(key.clone()).chain(below)
        });
        let all: Vec<String> = all.collect();
        if let Some((table, below)) = key.split_once('.')
            && self.knows(below)
        {
            return format!("; `{below}` is no part of [{table}]: put it above the first [table]");
        }
        let last = |k: &str| k.rsplit('.').next().unwrap_or_default().to_string();
        let found = nearest(key, all.iter().map(String::as_str));
        let found = found.map(str::to_string).or_else(|| all.iter().find(|k| last(k) == last(key)).cloned());
        found.map(|k| format!("; did you mean `{k}`?")).unwrap_or_default()
    }
}

/// The line of each key, dotted below a table, from 1.
fn key_lines(text: &str) -> Result<BTreeMap<String, usize>, toml::de::Error> {
    let mut lines = BTreeMap::new();
    for (key, value) in DeTable::parse(text)?.get_ref() {
        let name = key.get_ref().to_string();
        if let DeValue::Table(table) = value.get_ref() {
            for (below, _) in table {
                lines.insert(format!("{name}.{}", below.get_ref()), line_of(text, below.span().start));
            }
        }
        lines.insert(name, line_of(text, key.span().start));
    }
    Ok(lines)
}

/// Each key with its value, in a table of its own.
fn single_keys(table: &Table) -> Vec<(String, Table)> {
    let alone = |key: &str, value: Value| Table::from_iter([(key.to_string(), value)]);
    let mut all = Vec::new();
    for (key, value) in table {
        match value {
            Value::Table(below) => {
                for (k, v) in below {
                    let inner = Value::Table(alone(k, v.clone()));
                    all.push((format!("{key}.{k}"), alone(key, inner)));
                }
                if below.is_empty() {
                    all.push((key.clone(), alone(key, value.clone())));
                }
            }
            _ => all.push((key.clone(), alone(key, value.clone()))),
        }
    }
    all
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.as_bytes().iter().take(offset).filter(|b| **b == b'\n').count()
}

fn one_line(message: &str) -> String {
    message.lines().map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join("; ")
}

/// serde's words name Rust's types; administrators know numbers and lists.
fn in_plain_words(message: &str) -> String {
    let mut plain = one_line(message);
    for (from, to) in [
        ("expected u8", "expected a whole number, 0 to 255"),
        ("expected u16", "expected a whole number, 0 to 65535"),
        ("expected u32", "expected a whole number"),
        ("expected u64", "expected a whole number"),
        ("expected a boolean", "expected true or false"),
        ("expected a string", "expected a text in quotes"),
        ("expected path string", "expected a path in quotes"),
        ("expected a sequence", "expected a list"),
        ("data did not match any variant of untagged enum Calendar", "expected an hour or a calendar expression"),
        ("unknown variant", "unknown value"),
        ("expected struct Left", "expected a table"),
        ("expected struct Right", "expected a table"),
        ("expected struct Timers", "expected a table"),
    ] {
        if plain.contains(from) && !plain.contains(to) {
            plain = plain.replace(from, to);
        }
    }
    plain
}
