//! What a brain says of itself when it is asked: plain data, the same for people, scripts and metrics.

use serde::{Deserialize, Serialize};

use crate::model::Side;

/// The state of a pair, and how it came to it. Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub pair: String,
    pub version: String,
    pub pid: u32,
    pub started: u64,
    pub state: State,
    /// Since when the state is what it is.
    pub since: u64,
    pub halt: Option<Halt>,
    /// Since when an administrator's pause lasts, in whatever state the pair is.
    #[serde(default)]
    pub paused: Option<u64>,
    pub link: Link,
    pub left: SideStatus,
    pub right: SideStatus,
    /// Changes that wait; while a side is lost, those that this side has seen.
    pub queue: u64,
    /// Actions under way.
    pub in_flight: u64,
    /// How long the oldest change waits that is not on both sides yet.
    pub lag_seconds: f64,
    pub rates: Rates,
    pub totals: Totals,
    /// Files that are on both sides as they were agreed on, and their bytes.
    pub files: u64,
    pub bytes: u64,
    pub last_in_sync: Option<u64>,
    pub full_sync: Option<FullSync>,
    /// The last check that ended since the start.
    pub check: Option<CheckStatus>,
    /// Paths that are not synchronised now.
    pub problems_now: u64,
    /// The first hundred of them, by side and path.
    pub problems: Vec<ProblemStatus>,
    /// The last twenty.
    pub conflicts: Vec<ConflictStatus>,
}

/// What a pair is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// The left root is being opened.
    Starting,
    /// The right side is called, or both sides compare what they know.
    Connecting,
    /// A tree is being read.
    Scanning,
    /// Changes are being carried over.
    Syncing,
    InSync,
    /// By an administrator's word.
    Paused,
    /// It waits for an administrator.
    Halted,
    /// A side is lost; it is called again.
    Disconnected,
    Stopping,
}

impl State {
    pub const ALL: [State; 9] = [
        State::Starting,
        State::Connecting,
        State::Scanning,
        State::Syncing,
        State::InSync,
        State::Paused,
        State::Halted,
        State::Disconnected,
        State::Stopping,
    ];

    pub fn word(self) -> &'static str {
        match self {
            State::Starting => "starting",
            State::Connecting => "connecting",
            State::Scanning => "scanning",
            State::Syncing => "syncing",
            State::InSync => "in sync",
            State::Paused => "paused",
            State::Halted => "halted",
            State::Disconnected => "disconnected",
            State::Stopping => "stopping",
        }
    }

    /// The word of JSON and of metrics.
    pub fn key(self) -> String {
        self.word().replace(' ', "-")
    }
}

/// Why nothing is propagated, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Halt {
    pub reason: String,
    pub advice: String,
    pub since: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkWord {
    Connecting,
    Up,
    Down,
}

/// The way to the right side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    pub state: LinkWord,
    pub since: u64,
    /// Why it is down.
    pub reason: Option<String>,
    /// When it is called again.
    pub next_attempt: Option<u64>,
}

/// One side.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SideStatus {
    /// `None`: this host.
    pub host: Option<String>,
    pub root: String,
    pub scanning: bool,
    /// How often the whole tree was read since the start.
    pub scans: u64,
    /// In this side's archive.
    pub files: u64,
    pub bytes: u64,
    /// Seen by the scan that runs, or by the last one.
    #[serde(default)]
    pub seen_files: u64,
    #[serde(default)]
    pub seen_bytes: u64,
    /// Files that were not compared with what was agreed on: both sides' were taken for equal unread, or only a look at the
    /// contents tells what was written since.
    #[serde(default)]
    pub unproven: u64,
    /// FIFOs, sockets and devices, which do not travel (but FIFOs with `special = "fifos"`).
    #[serde(default)]
    pub special: u64,
    /// Only of the left side: directories watched, events read, times that the kernel's queue overflowed.
    pub watches: Option<u64>,
    pub events: Option<u64>,
    pub overflows: Option<u64>,
}

/// Of the last seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    pub actions_per_second: f64,
    pub bytes_per_second: f64,
}

/// Since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    pub actions: u64,
    /// Contents that were placed.
    pub bytes: u64,
    pub conflicts: u64,
    pub problems: u64,
    pub links: u64,
    pub full_syncs: u64,
}

/// The last scan of both sides, or the one that is wanted or runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FullSync {
    /// 0: the one at the start.
    pub number: u64,
    pub begun: u64,
    pub ended: Option<u64>,
    pub checksum: bool,
}

/// What a check came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Equal,
    /// Something differs that will mend itself, or is not alarming.
    Notice,
    Alert,
    /// It could not be done.
    Failed,
}

impl Verdict {
    pub const ALL: [Verdict; 4] = [Verdict::Equal, Verdict::Notice, Verdict::Alert, Verdict::Failed];

    pub fn word(self) -> &'static str {
        match self {
            Verdict::Equal => "equal",
            Verdict::Notice => "notice",
            Verdict::Alert => "alert",
            Verdict::Failed => "failed",
        }
    }
}

/// What a check has found, told by the process that made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckStatus {
    pub ended: u64,
    pub verdict: Verdict,
    pub differences: u64,
    /// In one line: how many paths differ, or why it could not be done.
    pub text: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemStatus {
    pub side: String,
    pub path: String,
    pub text: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConflictStatus {
    pub when: u64,
    pub path: String,
    pub loser: String,
    /// Where it is kept; `None`: in the trash.
    pub copy: Option<String>,
    /// It is kept, and under which name was not heard.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub untold: bool,
}

impl Status {
    pub fn side(&mut self, side: Side) -> &mut SideStatus {
        match side {
            Side::Left => &mut self.left,
            Side::Right => &mut self.right,
        }
    }

    /// Whether the full sync that was begun goes on. It does not while a side is lost, or the pair is halted or paused.
    pub fn syncs_fully(&self) -> bool {
        let under_way = matches!(self.state, State::Connecting | State::Scanning | State::Syncing | State::InSync);
        under_way && self.full_sync.as_ref().is_some_and(|sync| sync.ended.is_none())
    }

    /// Whether the left's changes are counted: it is watched from its first scan on, which begins when both sides meet.
    pub fn sees_changes(&self) -> bool {
        self.left.watches != Some(0)
    }

    /// The status in one line, for systemd.
    pub fn line(&self) -> String {
        let state = self.state.word();
        // Beside the state, since it outlives a lost line and a restart.
        let paused = || match self.paused {
            Some(_) => format!("; paused as well (`psync resume {}` ends that)", self.pair),
            None => String::new(),
        };
        match self.state {
            State::Halted => {
                let advice = |halt: &Halt| match halt.advice.as_str() {
                    "" => String::new(),
                    advice => format!(" ({advice})"),
                };
                let why = self.halt.as_ref().map(|halt| format!(": {}{}", halt.reason, advice(halt)));
                format!("{state}{}", why.unwrap_or_default())
            }
            State::Disconnected => {
                let why = self.link.reason.as_ref().map(|reason| format!(": {reason}"));
                let waiting = match self.queue {
                    0 if !self.sees_changes() => "; what waits here is known once both sides meet".to_owned(),
                    0 => String::new(),
                    waiting => format!("; {waiting} waiting here"),
                };
                format!("{state}{}; trying again{waiting}{}", why.unwrap_or_default(), paused())
            }
            State::Scanning => {
                format!("{state}: {} files on the left, {} on the right", self.left.seen_files, self.right.seen_files)
            }
            State::Syncing => format!("{state}: {} waiting, {} under way", self.queue, self.in_flight),
            State::InSync => {
                let some = |count, words: &str| if count > 0 { format!(", {count} {words}") } else { String::new() };
                let problems = some(self.problems_now, "with problems");
                let unproven = some(self.left.unproven.max(self.right.unproven), "not compared yet");
                format!("{state}: {} files{problems}{unproven}", self.files)
            }
            State::Paused => format!("{state} (`psync resume {}` goes on)", self.pair),
            State::Starting | State::Connecting => format!("{state}{}", paused()),
            State::Stopping => state.to_owned(),
        }
    }
}

/// Seconds since 1970.
pub fn wall() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map(|d| d.as_secs()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_has_its_word() {
        for state in State::ALL {
            let kebab = serde_json::to_value(state).expect("a word");
            assert_eq!(kebab.as_str().expect("text").replace('-', " "), state.word());
        }
        for verdict in Verdict::ALL {
            assert_eq!(serde_json::to_value(verdict).expect("a word"), verdict.word());
        }
    }
}
