//! `psync status`: how the pairs of this host are.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use super::UsageError;
use super::commands::{StatusOptions, look, print};
use super::human;
use super::openmetrics;
use super::pair::{PairFile, names};
use crate::brain::status::{CheckStatus, LinkWord, SideStatus, State, Status, wall};
use crate::service::log::{escape, utc};

/// A pair is not running.
const DOWN: u8 = 1;
/// A pair is halted or has lost a side.
pub const LOST: u8 = 2;
/// Between two looks with `--watch`.
const LOOK: Duration = Duration::from_secs(1);

/// The pairs that were asked for; `None`: that one is not running.
type Pairs = BTreeMap<String, Option<Status>>;

pub fn main(options: &StatusOptions) -> Result<u8, UsageError> {
    let mut last = String::new();
    loop {
        let pairs = match &options.pair {
            Some(word) => {
                let pair = PairFile::known(word)?;
                BTreeMap::from([(pair.name.clone(), look(&pair)?)])
            }
            None => all()?,
        };
        let text = match options {
            StatusOptions { openmetrics: true, .. } => openmetrics::text(&pairs),
            StatusOptions { json: true, .. } => json(&pairs),
            _ if pairs.is_empty() => "no pair is configured or runs\n".to_owned(),
            _ => pairs.iter().map(|(name, status)| describe(name, status.as_ref())).collect(),
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

/// Every pair that has a file or a socket.
fn all() -> Result<Pairs, UsageError> {
    let mut pairs = Pairs::new();
    for name in names() {
        if let Ok(pair) = PairFile::of(&name) {
            let status = look(&pair)?;
            pairs.insert(name, status);
        }
    }
    Ok(pairs)
}

/// The worst of all pairs: lost, not running, fine.
fn code(pairs: &Pairs) -> u8 {
    let one = |status: &Option<Status>| match status.as_ref().map(|status| status.state) {
        Some(State::Halted | State::Disconnected) => LOST,
        Some(_) => 0,
        None => DOWN,
    };
    if pairs.is_empty() { DOWN } else { pairs.values().map(one).max().unwrap_or(DOWN) }
}

fn json(pairs: &Pairs) -> String {
    let one = |(name, status): (&String, &Option<Status>)| match status {
        Some(status) => serde_json::to_string(status).unwrap_or_default() + "\n",
        None => format!("{}\n", serde_json::json!({ "pair": name, "state": "not-running" })),
    };
    pairs.iter().map(one).collect()
}

/// For people: a paragraph for each pair.
fn describe(name: &str, status: Option<&Status>) -> String {
    let Some(status) = status else { return format!("{name}: not running\n") };
    let mut lines = vec![format!("{name}: {}", status.line())];
    let mut add = |what: &str, text: String| lines.push(format!("  {what:<10} {text}"));
    add("since", utc(status.since));
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
        let kept = conflict.copy.as_ref().map_or("in the trash".to_owned(), |copy| format!("as {copy}"));
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
    let mut text = format!("{host}{}, scans: {}", side.root, side.scans);
    if side.scanning {
        text += &format!(", being read: {} files, {}", side.files, human::bytes(side.bytes));
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
        None => format!("runs since {}{how}", utc(sync.begun)),
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
        for (states, want) in [
            (vec![Some(State::InSync)], 0),
            (vec![Some(State::Syncing), Some(State::Paused)], 0),
            (vec![Some(State::InSync), None], 1),
            (vec![None, Some(State::Halted)], 2),
            (vec![Some(State::Disconnected)], 2),
            (vec![], 1),
        ] {
            let pairs: Pairs = states.iter().enumerate().map(|(n, s)| (n.to_string(), s.map(status))).collect();
            assert_eq!(code(&pairs), want, "{states:?}");
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
        let text = describe("p", Some(&status));
        assert!(text.contains("    a\\x0ab\\x1b: no\n") && text.starts_with("p: in sync: 0 files\n"), "{text}");
    }
}
