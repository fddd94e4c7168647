//! `psync status`: how the pairs of this host are.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use super::UsageError;
use super::absent::{Absent, Pairs};
use super::ask::look;
use super::console::print;
use super::exit::LOST;
use super::human;
use super::openmetrics;
use super::pair::{PairFile, names};
use crate::brain::status::{CheckStatus, LinkWord, SideStatus, State, Status, wall};
use crate::service::log::{escape, utc};

/// A pair is not running.
const DOWN: u8 = 1;
/// Paths are not synchronised.
pub const PROBLEMS: u8 = 3;
/// Between two looks with `--watch`.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
pub struct StatusOptions {
    /// The pair's name, or the path of its file; without it all pairs of this host
    pub pair: Option<String>,
    /// As JSON, an object for each pair
    #[arg(long, conflicts_with = "openmetrics")]
    pub json: bool,
    /// For Prometheus and node_exporter, in the text format
    #[arg(long)]
    pub openmetrics: bool,
    /// Show it again whenever it changes, until interrupted
    #[arg(long, conflicts_with = "openmetrics")]
    pub watch: bool,
}

pub fn main(options: &StatusOptions) -> Result<u8, UsageError> {
    let mut last = String::new();
    loop {
        let pairs = match &options.pair {
            Some(word) => {
                let pair = PairFile::known(word)?;
                BTreeMap::from([(pair.name.clone(), looked(&pair)?)])
            }
            None => all()?,
        };
        let text = match options {
            StatusOptions { openmetrics: true, .. } => openmetrics::text(&pairs),
            StatusOptions { json: true, .. } => json(&pairs),
            _ if pairs.is_empty() => "no pair is configured or runs\n".to_owned(),
            _ => pairs.iter().map(|(name, status)| describe(name, status)).collect(),
        };
        if !options.watch {
            print(&text);
            return Ok(code(&pairs));
        }
        if text != last && !print(&text) {
            return Ok(0);
        }
        last = text;
        thread::sleep(LOOK);
    }
}

fn looked(pair: &PairFile) -> Result<Result<Status, Absent>, UsageError> {
    Ok(look(pair)?.ok_or_else(|| Absent::of(pair)))
}

/// Every pair that has a file or a socket.
fn all() -> Result<Pairs, UsageError> {
    let mut pairs = Pairs::new();
    for name in names() {
        if let Ok(pair) = PairFile::of(&name) {
            let status = looked(&pair)?;
            pairs.insert(name, status);
        }
    }
    Ok(pairs)
}

/// The worst of all pairs: lost, not running, with problems, fine.
fn code(pairs: &Pairs) -> u8 {
    let worst = pairs.values().map(code_of).max_by_key(|code| [0, 2, 3, 1][usize::from(*code)]);
    worst.unwrap_or(DOWN)
}

/// The exit code for one.
fn code_of(status: &Result<Status, Absent>) -> u8 {
    match status {
        Ok(Status { state: State::Halted | State::Disconnected, .. }) => LOST,
        Ok(status) if status.problems_now > 0 => PROBLEMS,
        Ok(_) | Err(Absent::RightSide { serves: true, .. }) => 0,
        Err(Absent::RightSide { serves: false, .. }) => LOST,
        Err(Absent::NotRunning | Absent::Failed { .. }) => DOWN,
    }
}

fn json(pairs: &Pairs) -> String {
    let one = |(name, status): (&String, &Result<Status, Absent>)| match status {
        Ok(status) => serde_json::to_string(status).unwrap_or_default() + "\n",
        Err(absent) => {
            format!("{}\n", serde_json::json!({ "pair": name, "state": absent.word(), "text": absent.line() }))
        }
    };
    pairs.iter().map(one).collect()
}

/// For people: a paragraph for each pair.
fn describe(name: &str, status: &Result<Status, Absent>) -> String {
    let status = match status {
        Ok(status) => status,
        Err(absent) => {
            let mut text = String::new();
            escape(&mut text, &format!("{name}: {}", absent.line()));
            return text + "\n";
        }
    };
    let mut lines = vec![format!("{name}: {}", status.line())];
    let mut add = |what: &str, text: String| lines.push(format!("  {what:<10} {text}"));
    add("since", utc(status.since));
    if let Some(since) = status.paused {
        add("paused", format!("since {}", utc(since)));
    }
    add("link", link(status));
    add("left", side(&status.left));
    add("right", side(&status.right));
    add(
        "queue",
        format!("{} waiting, {} under way, oldest {:.1} s", status.queue, status.in_flight, status.lag_seconds),
    );
    let rates = status.rates;
    add(
        "rates",
        format!("{:.1} actions/s, {}/s", rates.actions_per_second, human::bytes(rates.bytes_per_second as u64)),
    );
    let totals = status.totals;
    add("total", format!("{} actions, {}", totals.actions, human::bytes(totals.bytes)));
    add("in sync", status.last_in_sync.map_or("never yet".to_owned(), utc));
    add("full sync", full_sync(status));
    add("check", check(status));
    add("problems", status.problems_now.to_string());
    for problem in &status.problems {
        lines.push(format!("    {}: {}", problem.path, problem.text));
    }
    lines.push(format!("  {:<10} {}", "conflicts", totals.conflicts));
    for conflict in &status.conflicts {
        let kept = match &conflict.copy {
            Some(copy) => format!("as {copy}"),
            None if conflict.untold => "under a name that was not heard".to_owned(),
            None => "in the trash".to_owned(),
        };
        let when = utc(conflict.when);
        lines.push(format!("    {when} {}: the {} version is kept {kept}", conflict.path, conflict.loser));
    }
    let mut text = String::new();
    for line in lines {
        escape(&mut text, &line);
        text.push('\n');
    }
    text
}

fn link(status: &Status) -> String {
    let link = &status.link;
    let word = match link.state {
        LinkWord::Up => "up",
        LinkWord::Down => "down",
        LinkWord::Connecting => "connecting",
    };
    let mut text = format!("{word} since {}", utc(link.since));
    if let Some(reason) = &link.reason {
        text += &format!(": {reason}");
    }
    if let Some(next) = link.next_attempt {
        text += &format!("; next attempt in {} s", next.saturating_sub(wall()));
    }
    text
}

fn side(side: &SideStatus) -> String {
    let host = side.host.as_ref().map(|host| format!("{host}:")).unwrap_or_default();
    let (files, bytes) = (side.files, human::bytes(side.bytes));
    let mut text = format!("{host}{}, {files} files, {bytes}, scans: {}", side.root, side.scans);
    if side.scanning {
        text += &format!(", being read: {} files, {}", side.seen_files, human::bytes(side.seen_bytes));
    }
    if side.special > 0 {
        text += &format!(", {} special files that do not travel", side.special);
    }
    if let Some(watches) = side.watches {
        text += &format!(", {watches} directories watched");
    }
    text
}

fn full_sync(status: &Status) -> String {
    let Some(sync) = &status.full_sync else { return "never yet".to_owned() };
    let how = if sync.checksum { ", with checksums" } else { "" };
    match sync.ended {
        Some(ended) => format!("{}, {} s{how}", utc(ended), ended.saturating_sub(sync.begun)),
        None if status.syncs_fully() => format!("runs since {}{how}", utc(sync.begun)),
        None => format!("waits since {}{how}: {}", utc(sync.begun), status.state.word()),
    }
}

fn check(status: &Status) -> String {
    let told = |check: &CheckStatus| format!("{}, {}: {}", utc(check.ended), check.verdict.word(), check.text);
    status.check.as_ref().map_or("none since the start".to_owned(), told)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::brain::desk::Desk;
    use crate::config::Settings;

    fn status(state: State) -> Status {
        Status { state, ..Desk::new("p", &Settings::default(), |_| {}).status() }
    }

    #[test]
    fn the_code_is_that_of_the_worst() {
        let with_problems = |state| Status { problems_now: 1, ..status(state) };
        let fine = || Ok(status(State::InSync));
        let gone = || Err(Absent::NotRunning);
        let right = |serves| Err(Absent::RightSide { agent: "x".into(), serves });
        for (all, want) in [
            (vec![fine()], 0),
            (vec![Ok(status(State::Syncing)), Ok(status(State::Paused))], 0),
            (vec![fine(), Ok(with_problems(State::InSync))], 3),
            (vec![Ok(with_problems(State::InSync)), gone()], 1),
            (vec![Ok(with_problems(State::InSync)), Ok(status(State::Halted)), gone()], 2),
            (vec![Ok(with_problems(State::Disconnected))], 2),
            (vec![fine(), gone()], 1),
            (vec![Err(Absent::Failed { since: "now".into(), why: "x".into() }), fine()], 1),
            (vec![right(true), fine()], 0),
            (vec![right(false), gone()], 2),
            (vec![], 1),
        ] {
            let pairs: Pairs = all.into_iter().enumerate().map(|(n, s)| (n.to_string(), s)).collect();
            assert_eq!(code(&pairs), want, "{pairs:?}");
        }
    }

    #[test]
    fn a_full_sync_runs_only_where_something_runs() {
        let sync = crate::brain::status::FullSync { number: 1, begun: 0, ended: None, checksum: false };
        let told = |state| full_sync(&Status { full_sync: Some(sync.clone()), ..status(state) });
        assert_eq!(told(State::Scanning), format!("runs since {}", utc(0)));
        for state in [State::Halted, State::Disconnected, State::Paused] {
            assert_eq!(told(state), format!("waits since {}: {}", utc(0), state.word()));
        }
    }

    #[test]
    fn nothing_in_a_name_breaks_the_lines() {
        let mut status = status(State::InSync);
        status.problems = vec![crate::brain::status::ProblemStatus {
            side: "left".into(),
            path: "a\nb\x1b".into(),
            text: "no".into(),
        }];
        let text = describe("p", &Ok(status));
        assert!(text.contains("    a\\x0ab\\x1b: no\n") && text.starts_with("p: in sync: 0 files\n"), "{text}");
    }
}
