//! `psync check`: compares both sides of a pair, whether or not psync is at work on it, and changes nothing.
//! What comes of it is in the journal, and in the status of the pair's brain if one runs.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::UsageError;
use super::ask::told;
use super::console::{Console, print};
use super::human;
use super::pair::PairFile;
use crate::brain::check::compare::{Closely, Difference, What};
use crate::brain::check::{Checksum, Findings, Wanted, check, stations};
use crate::brain::control::{NOT_NOTED, Request};
use crate::brain::status::{CheckStatus, Verdict, wall};
use crate::config::{self, Owner, Settings};
use crate::model::{Kind, Name, Problem, Side, Sides};
use crate::protocol::survey::Item;
use crate::service::journal::{self, Priority};
use crate::service::log::{MESSAGE_ID, PAIR, SIDE, escape, message_id, utc};

/// It could not be done.
const FAILED: u8 = 1;
/// A file differs, or too much does.
const ALERT: u8 = 2;
/// Something differs, or could not be looked at.
const NOTICE: u8 = 3;

#[derive(Debug, clap::Args)]
pub struct CheckOptions {
    /// The pair's name, or the path of its file
    pub pair: String,
    /// By sizes alone; says nothing and exits with 0 unless there is something alarming
    #[arg(short, long)]
    pub lite: bool,
    /// With --lite: exit with 1 all the same if it could not be done, and say why
    #[arg(long, requires = "lite")]
    pub strict: bool,
    /// Read the files of equal size whose times differ
    #[arg(short, long)]
    pub checksum: bool,
    /// With --checksum: read every file
    #[arg(long, requires = "checksum")]
    pub all: bool,
    /// Only what is on both sides
    #[arg(short, long)]
    pub modified_only: bool,
    /// With --checksum: read only files that changed in the last MIN minutes
    #[arg(short, long, value_name = "MIN", requires = "checksum")]
    pub newer: Option<u32>,
    /// Leave symbolic links out
    #[arg(short = 'X', long)]
    pub nolinks: bool,
    /// Compare the times of directories as well
    #[arg(short, long, conflicts_with = "lite")]
    pub times: bool,
    /// Copy the files that differ to the trash of their side
    #[arg(short, long)]
    pub backup: bool,
    /// As one JSON object
    #[arg(long)]
    pub json: bool,
}

/// The exit code: 0 equal, 1 could not, 2 alert, 3 notice; with `--lite` 1 and 3 become 0, with `--strict` only 3.
pub fn main(options: &CheckOptions, console: &Console) -> Result<u8, UsageError> {
    let pair = PairFile::known(&options.pair)?;
    let (settings, origins) = config::load(&pair.path).map_err(|e| UsageError(e.to_string()))?;
    settings.check().map_err(|e| UsageError(origins.explain(&e)))?;
    let found = compared(&settings, &pair, &wanted(options, &settings));
    let verdict = found.as_ref().map_or(Verdict::Failed, |found| judge(found, settings.alerts.threshold));
    if let Some(refused) = note(&pair, verdict, &found) {
        console.line(&format!("psync: {refused}"));
    }
    let told = verdict == Verdict::Alert || (options.strict && verdict == Verdict::Failed);
    let quiet = options.lite && !told;
    if options.json {
        print(format!("{}\n", as_json(&pair.name, verdict, &found)));
    } else if !quiet {
        match &found {
            Ok(found) => _ = print(as_text(&pair.name, found)),
            Err(reason) => console.line(&format!("psync: {}: {reason}", pair.name)),
        }
    }
    Ok(if quiet { 0 } else { code(verdict) })
}

fn code(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Equal => 0,
        Verdict::Failed => FAILED,
        Verdict::Alert => ALERT,
        Verdict::Notice => NOTICE,
    }
}

/// For the journal and the brain. Neither need be there.
fn note(pair: &PairFile, verdict: Verdict, found: &Result<Findings, String>) -> Option<String> {
    let (differences, text) = match found {
        Ok(found) => (found.differences.len() as u64, summary(found)),
        Err(reason) => (0, format!("it could not be done: {reason}")),
    };
    let priority = match verdict {
        Verdict::Equal => Priority::Info,
        Verdict::Notice => Priority::Notice,
        Verdict::Alert | Verdict::Failed => Priority::Warning,
    };
    let fields = [(PAIR, pair.name.as_str()), (SIDE, "B"), (MESSAGE_ID, message_id::CHECK)];
    let _ = journal::send(priority, "psync", &fields, &format!("check: {}: {text}", verdict.word()));
    let check = CheckStatus { ended: wall(), verdict, differences, text };
    // Nobody listens: nothing to say. Who may not have it noted hears that.
    match told(pair, Request::Checked { check }) {
        Err(error) if error.0.contains(NOT_NOTED) => Some(error.0),
        _ => None,
    }
}

fn wanted(options: &CheckOptions, settings: &Settings) -> Wanted {
    let closely = Closely {
        lite: options.lite,
        modified_only: options.modified_only,
        no_links: options.nolinks,
        no_owners: settings.shared.attributes.owner == Owner::Ignore,
        dir_times: options.times,
    };
    let checksum = match (options.checksum, options.all) {
        (false, _) => Checksum::None,
        (true, false) => Checksum::Doubtful,
        (true, true) => Checksum::All,
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let since = |minutes: u32| i64::try_from(now.saturating_sub(u64::from(minutes) * 60)).unwrap_or(0);
    // No action has the number 0: so it is told from what psync put there.
    let keep =
        options.backup.then(|| Name::new(format!("{now:x}-0-{:x}", std::process::id()).as_bytes()).ok()).flatten();
    Wanted { closely, checksum, newer: options.newer.map(since), keep }
}

/// The error says what kept it from being done.
fn compared(settings: &Settings, pair: &PairFile, wanted: &Wanted) -> Result<Findings, String> {
    let whose = settings.right.host.as_deref().unwrap_or("right side");
    let named = |text: String| if text.starts_with(&format!("{whose}: ")) { text } else { format!("{whose}: {text}") };
    let (mut right, far) =
        stations::right(settings, &pair.name, &pair.right(settings)).map_err(|e| named(e.to_string()))?;
    let found = match stations::serves(&mut right, &settings.right.root).map_err(named) {
        Ok(()) => check(Sides::new(stations::left(settings, &pair.name), right), wanted),
        Err(other) => {
            drop(right);
            Err(other)
        }
    };
    let lost = far.end();
    match (found, lost) {
        (Err(_), Some(lost)) => Err(named(lost.to_string())),
        (found, _) => found,
    }
}

fn judge(found: &Findings, alert_threshold: u64) -> Verdict {
    let counted = found.differences.iter().filter(|d| d.what != What::Attributes).count() as u64;
    if found.differences.iter().any(|d| d.what.is_alarming()) || (counted > 0 && counted >= alert_threshold) {
        Verdict::Alert
    } else if found.differences.is_empty() && found.problems.is_empty() {
        Verdict::Equal
    } else {
        Verdict::Notice
    }
}

fn as_text(pair: &str, found: &Findings) -> String {
    let mut lines: Vec<String> = found.differences.iter().map(line).collect();
    lines.extend(
        found.problems.iter().map(|(side, problem)| format!("{}: {}", problem.path, problem_words(*side, problem))),
    );
    lines.push(format!("{pair}: {}", summary(found)));
    let mut text = String::new();
    for line in lines {
        escape(&mut text, &line);
        text.push('\n');
    }
    text
}

fn summary(found: &Findings) -> String {
    let mut summary = format!("{} differences, {} paths compared", found.differences.len(), found.compared);
    if found.read > 0 {
        summary += &format!(", {} files read", found.read);
    }
    if found.kept > 0 {
        summary += &format!(", {} files copied to the trash", found.kept);
    }
    let (left, right) = found.special.split();
    if left > 0 || right > 0 {
        summary += &format!(", {left} special files on the left and {right} on the right do not travel");
    }
    if !found.problems.is_empty() {
        summary += &format!(", {} could not be looked at", found.problems.len());
    }
    summary
}

fn problem_words(side: Side, problem: &Problem) -> String {
    format!("{} side: {}", side.word(), problem.detail)
}

fn line(difference: &Difference) -> String {
    let Difference { path, what, left, right } = difference;
    let both = || {
        let [left, right] = [left, right].map(|item| item.as_ref().map_or("gone".to_owned(), described));
        format!(" (left {left}; right {right})")
    };
    let one = |item: &Option<Item>| item.as_ref().map(|item| format!(" ({})", described(item))).unwrap_or_default();
    match what {
        What::OnlyLeft => format!("{path}: only on the left{}", one(left)),
        What::OnlyRight => format!("{path}: only on the right{}", one(right)),
        What::Contents if left.is_none() && right.is_none() => format!("{path}: contents differ"),
        What::Kind => format!("{path}: of different kinds{}", both()),
        What::Contents => format!("{path}: contents differ{}", both()),
        What::Target => format!("{path}: targets differ{}", both()),
        What::Time => {
            let [left, right] = [left, right].map(|item| item.as_ref().map_or("gone".to_owned(), timed));
            format!("{path}: times differ (left {left}; right {right})")
        }
        What::Attributes => format!("{path}: modes, owners or extended attributes differ{}", both()),
    }
}

/// A file or a directory with its time.
fn timed(item: &Item) -> String {
    match item.kind {
        Kind::Dir => format!("directory, {}", when(item)),
        _ => described(item),
    }
}

fn when(item: &Item) -> String {
    u64::try_from(item.mtime.secs).map_or_else(|_| item.mtime.secs.to_string(), utc)
}

/// What tells one version from the other.
fn described(item: &Item) -> String {
    match item.kind {
        Kind::File => format!("{}, {}, mode {:04o}", human::bytes(item.size), when(item), item.mode),
        Kind::Dir => format!("directory, mode {:04o}", item.mode),
        Kind::Link => format!("link to {}", target(item)),
        Kind::Fifo => format!("FIFO, mode {:04o}", item.mode),
    }
}

fn target(item: &Item) -> String {
    String::from_utf8_lossy(item.target.as_deref().unwrap_or_default()).into_owned()
}

fn as_json(pair: &str, verdict: Verdict, found: &Result<Findings, String>) -> Value {
    let result = verdict.word();
    match found {
        Err(reason) => json!({ "pair": pair, "result": result, "error": reason }),
        Ok(found) => {
            let differences: Vec<Value> = found.differences.iter().map(difference_json).collect();
            let problem = |(side, problem): &(Side, Problem)| json!({ "side": side.word(), "path": problem.path.to_string(), "text": problem.detail });
            let problems: Vec<Value> = found.problems.iter().map(problem).collect();
            json!({ "pair": pair, "result": result, "compared": found.compared, "read": found.read,
                "special": <[u64; 2]>::from(found.special.split()), "differences": differences, "problems": problems })
        }
    }
}

fn difference_json(difference: &Difference) -> Value {
    let item = |item: &Option<Item>| {
        item.as_ref().map(|item| {
            let kind = match item.kind {
                Kind::File => "file",
                Kind::Dir => "directory",
                Kind::Link => "link",
                Kind::Fifo => "fifo",
            };
            let target = item.target.is_some().then(|| target(item));
            let mtime = matches!(item.kind, Kind::File | Kind::Dir).then_some(item.mtime.secs);
            json!({ "kind": kind, "size": item.size, "mtime": mtime, "mode": item.mode, "target": target })
        })
    };
    let (left, right) = (item(&difference.left), item(&difference.right));
    json!({ "path": difference.path.to_string(), "what": difference.what, "left": left, "right": right })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RelPath;

    fn found(whats: &[What]) -> Findings {
        let path = RelPath::new(b"a\n").expect("a path");
        let one = |what: &What| Difference { path: path.clone(), what: *what, left: None, right: None };
        Findings { differences: whats.iter().map(one).collect(), ..Findings::default() }
    }

    #[test]
    fn what_differs_is_judged() {
        for (whats, threshold, want) in [
            (&[][..], 10, Verdict::Equal),
            (&[], 0, Verdict::Equal),
            (&[What::OnlyLeft], 10, Verdict::Notice),
            (&[What::OnlyLeft, What::OnlyRight], 2, Verdict::Alert),
            (&[What::Time, What::Attributes], 2, Verdict::Notice),
            (&[What::Attributes, What::Attributes], 1, Verdict::Notice),
            (&[What::Contents], 10, Verdict::Alert),
            (&[What::Kind], 10, Verdict::Alert),
            (&[What::Target], 10, Verdict::Alert),
        ] {
            assert_eq!(judge(&found(whats), threshold), want, "{whats:?} {threshold}");
        }
    }

    #[test]
    fn nothing_in_a_name_breaks_the_lines() {
        let text = as_text("p", &found(&[What::Contents]));
        assert_eq!(text, "a\\x0a: contents differ\np: 1 differences, 0 paths compared\n");
    }
}
