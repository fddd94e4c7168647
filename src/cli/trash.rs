//! `psync trash`: what lies in the trash of both sides, back into the tree with it, and away with what is old.

mod choose;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use clap::Subcommand;
use serde_json::{Value, json};

use super::UsageError;
use super::ask::{look, told};
use super::console::Console;
use super::console::print;
use super::human;
use super::pair::PairFile;
use crate::brain::control::Request;
use crate::brain::status::wall;
use crate::brain::trash::{Said, ask, expire_alone};
use crate::config::{self, Settings};
use crate::link::failure::Explanation;
use crate::model::{Kind, PathError, RelPath, Side};
use crate::protocol::survey::Ask;
use crate::protocol::survey::Trashed;
use crate::service::log::{escape, utc};
use choose::{Version, Written, choose};

/// Something could not be done, or a side could not be reached.
const FAILED: u8 = 1;
/// How long a running pair may take to discard what is due, and how often that is looked at.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(500);

#[derive(Debug, clap::Args)]
pub struct TrashOptions {
    /// The pair's name, or the path of its file; of a pair without a file the name that psync tells when it is in sync
    pub pair: String,
    /// The roots of a pair that has no file; a right one on another host is HOST:DIR
    #[arg(long, num_args = 2, value_names = ["LEFT", "RIGHT"])]
    pub roots: Option<Vec<PathBuf>>,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// What lies in the trash of both sides, the oldest first
    List {
        /// Only this path and what lies below it
        #[arg(value_name = "PATH")]
        path: Option<OsString>,
        /// A JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Put a version back to where it was, on the side where it lies; of a directory also what was deleted below it in one go
    Restore {
        /// Relative to the root
        #[arg(value_name = "PATH")]
        path: OsString,
        /// Not the newest, but the one with this ID
        #[arg(long, value_name = "ID")]
        version: Option<String>,
        /// To another place in the same root
        #[arg(long, value_name = "DEST")]
        to: Option<OsString>,
        /// A JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Discard now what is older than trash_days, and the oldest beyond trash_max
    Expire {
        /// As one JSON object
        #[arg(long)]
        json: bool,
    },
}

/// The exit code: 0 all was done, 1 not all of it.
pub fn main(options: &TrashOptions, console: &Console) -> Result<u8, UsageError> {
    let (pair, settings) = match &options.roots {
        Some(roots) => (PairFile::of(&options.pair)?, of_roots(roots)?),
        None => {
            let pair = PairFile::known(&options.pair)?;
            let (settings, origins) = config::load(&pair.path).map_err(|e| UsageError(e.to_string()))?;
            settings.check().map_err(|e| UsageError(origins.explain(&e)))?;
            (pair, settings)
        }
    };
    let adhoc = options.roots.is_some();
    let trash = Trash { pair, adhoc, settings, console, told: RefCell::default() };
    match &options.command {
        Command::List { path, json } => trash.list(path.as_deref(), *json),
        Command::Restore { path, version, to, json } => trash.restore(path, version.as_deref(), to.as_deref(), *json),
        Command::Expire { json } => trash.expire(*json),
    }
}

/// The settings of a pair without a file.
fn of_roots(roots: &[PathBuf]) -> Result<Settings, UsageError> {
    let mut settings = Settings::default();
    let [left, right] = roots else { return Err(UsageError("--roots takes LEFT and RIGHT".to_owned())) };
    let text = right.to_string_lossy();
    let far = text.split_once(':').filter(|(host, _)| !host.is_empty() && !host.contains('/'));
    let absolute = |path: &Path| std::path::absolute(path).map_err(|e| UsageError(format!("--roots: {e}")));
    settings.left.root = absolute(left)?;
    match far {
        Some((host, root)) => {
            let (user, host) = host.rsplit_once('@').map_or((None, host), |(user, host)| (Some(user), host));
            settings.right.user = user.map(str::to_owned);
            settings.right.host = Some(host.to_owned());
            settings.right.root = root.into();
        }
        None => settings.right.root = absolute(right)?,
    }
    settings.check().map_err(|e| UsageError(format!("--roots: {e}")))?;
    Ok(settings)
}

struct Trash<'a> {
    pair: PairFile,
    /// It has no file.
    adhoc: bool,
    settings: Settings,
    console: &'a Console,
    /// What was told of sides that cannot answer: once is enough.
    told: RefCell<BTreeSet<String>>,
}

impl Trash<'_> {
    fn ask(&self, side: Side, question: Ask) -> Result<Said, Explanation> {
        let right = match self.adhoc {
            true => config::right_command(&self.settings, &self.pair.name, false),
            false => self.pair.right(&self.settings),
        };
        ask(&self.settings, &self.pair.name, &right, side, &[question])
    }

    /// Both sides' versions, the oldest first; and whether both sides have answered. What keeps one from it is told.
    fn versions(&self) -> (Vec<Version>, bool) {
        let mut versions = Vec::new();
        let mut whole = true;
        for side in Side::BOTH {
            match self.ask(side, Ask::Trash) {
                Ok(said) => versions.extend(said.items.into_iter().map(|item| Version::new(side, item))),
                Err(reason) => {
                    whole = false;
                    let line = format!("psync: {}: {} side: {reason}", self.pair.name, side.word());
                    if self.told.borrow_mut().insert(line.clone()) {
                        self.console.line(&line);
                    }
                }
            }
        }
        versions.sort_by(|a, b| a.age().cmp(&b.age()).then_with(|| a.item.path.cmp(&b.item.path)));
        (versions, whole)
    }

    fn list(&self, path: Option<&OsStr>, json: bool) -> Result<u8, UsageError> {
        let path = path.map(|path| self.written(path)).transpose()?;
        let (versions, whole) = self.versions();
        let shown: Vec<&Version> =
            versions.iter().filter(|v| path.as_ref().is_none_or(|p| p.holds(&v.item.path))).collect();
        if let (Some(path), [], true) = (&path, &shown[..], whole) {
            return Err(self.nothing(path, &versions));
        }
        let line = |version: &&Version| match json {
            true => format!("{}\n", as_json(version)),
            false => as_line(version),
        };
        print(shown.iter().map(line).collect::<String>());
        Ok(if whole { 0 } else { FAILED })
    }

    fn restore(&self, path: &OsStr, version: Option<&str>, to: Option<&OsStr>, json: bool) -> Result<u8, UsageError> {
        let path = self.written(path)?;
        let to = to.map(|to| self.destination(to)).transpose()?;
        let (versions, whole) = self.versions();
        let chosen = match choose(&versions, &path, version) {
            Ok(chosen) => chosen,
            Err(None) if !whole => return Ok(FAILED),
            Err(None) => return Err(self.nothing(&path, &versions)),
            Err(Some(why)) => return Err(UsageError(format!("{}: {}: {why}", self.pair.name, shown(&path)))),
        };
        let mut restored = 0;
        // What lies above comes first.
        for version in &chosen {
            let Some(to) = target(version, &chosen, to.as_ref()) else { continue };
            match self.restore_one(version, &to) {
                Ok(()) => {
                    restored += 1;
                    print(told_of(version, &to, json));
                }
                Err(reason) => {
                    self.console.line(&format!("psync: {}: {} side: {reason}", self.pair.name, version.side.word()));
                }
            }
        }
        Ok(if restored == chosen.len() { 0 } else { FAILED })
    }

    fn restore_one(&self, version: &Version, to: &RelPath) -> Result<(), String> {
        let question = Ask::Restore { id: version.item.id.clone(), below: version.below.clone(), to: to.clone() };
        let Said { problems, .. } = self.ask(version.side, question).map_err(|e| e.to_string())?;
        match problems.into_iter().next() {
            Some(problem) => Err(format!("{}: {}", problem.path, problem.detail)),
            None => Ok(()),
        }
    }

    fn expire(&self, json: bool) -> Result<u8, UsageError> {
        let (before, mut whole) = self.versions();
        if look(&self.pair)?.is_some() {
            told(&self.pair, Request::Expire {})?;
            self.wait_for_expiry();
        } else {
            let local = Side::BOTH.into_iter().filter(|side| *side == Side::Left || self.settings.is_local());
            for side in local {
                if let Err(reason) = expire_alone(&self.settings, &self.pair.name, side) {
                    whole = false;
                    self.console.line(&format!("psync: {}: {} side: {reason}", self.pair.name, side.word()));
                }
            }
            if !self.settings.is_local() {
                whole = false;
                let why = "its trash expires while the pair runs, and it does not";
                self.console.line(&format!("psync: {}: right side: {why}", self.pair.name));
            }
        }
        let (after, _) = self.versions();
        let gone: Vec<&Version> = before.iter().filter(|version| !after.contains(version)).collect();
        let bytes: u64 = gone.iter().map(|version| version.item.size).sum();
        let (count, left) = (gone.len(), after.len());
        print(match json {
            true => {
                let told = json!({ "pair": self.pair.name, "discarded": count, "bytes": bytes, "kept": left });
                format!("{told}\n")
            }
            false => {
                let size = human::bytes(bytes);
                format!("{}: {count} versions discarded ({size}), {left} kept\n", self.pair.name)
            }
        });
        Ok(if whole { 0 } else { FAILED })
    }

    /// Until nothing is overdue, or what is overdue stays: somebody has it open.
    fn wait_for_expiry(&self) {
        let begun = Instant::now();
        let days = i64::from(self.settings.shared.trash.days) * 86_400;
        let before = i64::try_from(wall()).unwrap_or(i64::MAX).saturating_sub(days);
        let mut last = usize::MAX;
        while begun.elapsed() < PATIENCE {
            thread::sleep(LOOK);
            let (versions, _) = self.versions();
            let due = versions.iter().filter(|version| version.item.since <= before).count();
            if due == 0 || versions.len() == last {
                break;
            }
            last = versions.len();
        }
    }

    /// A path that a user wrote: as its bytes are, as it is listed, or with one of the roots before it.
    fn written(&self, word: &OsStr) -> Result<Written, UsageError> {
        let below = [&self.settings.left.root, &self.settings.right.root]
            .into_iter()
            .find_map(|root| Path::new(word).strip_prefix(root).ok())
            .unwrap_or(Path::new(word));
        let bytes = below.as_os_str().as_bytes();
        let bytes = bytes.strip_prefix(b"./").unwrap_or(bytes);
        let bytes = bytes.strip_suffix(b"/").unwrap_or(bytes);
        let path = match if bytes == b"." { Ok(RelPath::root()) } else { RelPath::new(bytes) } {
            Ok(path) => Some(path),
            Err(PathError::LongName(_) | PathError::LongPath(_)) => None,
            Err(e) => return Err(UsageError(format!("{}: no path below the root: {e}", word.display()))),
        };
        Ok(Written { word: String::from_utf8_lossy(bytes).into_owned(), path })
    }

    /// Where a version is to be put instead.
    fn destination(&self, word: &OsStr) -> Result<RelPath, UsageError> {
        match self.written(word)?.path {
            Some(path) if path.is_root() => {
                Err(UsageError("--to: the root itself is no place for a version".to_owned()))
            }
            Some(path) => Ok(path),
            None => Err(UsageError(format!("--to: {}: too long for a path", word.display()))),
        }
    }

    fn nothing(&self, path: &Written, versions: &[Version]) -> UsageError {
        let names: Vec<String> = versions.iter().map(|version| version.item.path.to_string()).collect();
        let hint = config::nearest(&path.word, names.iter().map(String::as_str));
        let hint = hint.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        UsageError(format!("{}: {}: nothing of that path lies in the trash{hint}", self.pair.name, shown(path)))
    }
}

fn shown(path: &Written) -> String {
    path.path.as_ref().map_or_else(|| path.word.clone(), ToString::to_string)
}

/// Where a chosen version goes: to its path, or with `--to` as far below that as it lies below the first.
fn target(version: &Version, chosen: &[Version], to: Option<&RelPath>) -> Option<RelPath> {
    let path = &version.item.path;
    match to {
        None => Some(path.clone()),
        Some(to) => path.rebase(&chosen.first()?.item.path, to),
    }
}

fn as_line(version: &Version) -> String {
    let Trashed { id, path, since, size, reason, kind, .. } = &version.item;
    let when = u64::try_from(*since).map_or_else(|_| since.to_string(), utc);
    let slash = if *kind == Kind::Dir { "/" } else { "" };
    let size = human::bytes(*size);
    let mut line = String::new();
    escape(&mut line, &format!("{:<5}  {when}  {size:>10}  {reason}  {id}  {path}{slash}", version.side.word()));
    line + "\n"
}

fn as_json(version: &Version) -> Value {
    let Trashed { id, path, since, size, reason, kind, .. } = &version.item;
    json!({ "side": version.side.word(), "time": since, "size": size, "why": reason, "kind": kind_word(*kind),
        "path": path.to_string(), "id": id.to_string() })
}

fn kind_word(kind: Kind) -> &'static str {
    match kind {
        Kind::File => "file",
        Kind::Dir => "directory",
        Kind::Link => "link",
        Kind::Fifo => "fifo",
    }
}

fn told_of(version: &Version, to: &RelPath, json: bool) -> String {
    let side = version.side.word();
    match json {
        true => {
            let mut object = as_json(version);
            object["restored"] = Value::from(to.to_string());
            format!("{object}\n")
        }
        false => {
            let when = u64::try_from(version.item.since).map_or_else(|_| version.item.since.to_string(), utc);
            let mut line = String::new();
            escape(&mut line, &format!("{to}: restored on the {side}, from the trash of {when}"));
            line + "\n"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_whatever_the_name_is() {
        let item = Trashed {
            id: crate::model::Name::new(b"6927-5-1").unwrap(),
            path: RelPath::new(b"a\nb/\xff").unwrap(),
            since: 0,
            size: 2048,
            reason: "deleted".into(),
            kind: Kind::Dir,
            copied: false,
        };
        let version = Version::new(Side::Right, item);
        let want = "right  1970-01-01 00:00:00Z     2.0 KiB  deleted  6927-5-1  a\\x0ab/\\xff/\n";
        assert_eq!(as_line(&version), want);
        assert_eq!(as_json(&version)["path"], "a\\x0ab/\\xff");
    }
}
