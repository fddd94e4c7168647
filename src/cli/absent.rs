//! A pair of this host whose brain does not answer: why, and what this host is for it.

use std::collections::BTreeMap;
use std::process::Command;

use super::pair::PairFile;
use crate::brain::status::Status;
use crate::config;
use crate::service::control::agent_socket;

/// What stands in the place of a status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Absent {
    /// No brain runs, and none has failed.
    NotRunning,
    /// Its unit has failed: since when and why, as systemd has it.
    Failed { since: String, why: String },
    /// This host is the right side of the pair; the brain runs on the other one.
    RightSide {
        /// What its agent does.
        agent: String,
        /// The agent could serve.
        serves: bool,
    },
}

/// Pairs by their names, each with its status, or why it has none.
pub type Pairs = BTreeMap<String, Result<Status, Absent>>;

impl Absent {
    /// Looks at what is known of the pair on this host.
    pub fn of(pair: &PairFile) -> Absent {
        if let Some((agent, serves)) = right_side(pair) {
            return Absent::RightSide { agent, serves };
        }
        let unit = format!("psync-brain@{}.service", pair.name);
        failed(&show(&unit)).map_or(Absent::NotRunning, |(since, why)| Absent::Failed { since, why })
    }

    /// In one word, as JSON has it.
    pub fn word(&self) -> &'static str {
        match self {
            Absent::NotRunning => "not-running",
            Absent::Failed { .. } => "failed",
            Absent::RightSide { .. } => "right-side",
        }
    }

    /// In one line.
    pub fn line(&self) -> String {
        match self {
            Absent::NotRunning => "not running".to_owned(),
            Absent::Failed { since, why } => format!("failed since {since}: {why}"),
            Absent::RightSide { agent, .. } => {
                format!("this host is the right side, {agent}; ask the host of its brain for the rest")
            }
        }
    }
}

/// Whether this host is the right side of a pair of two hosts, by the socket at which its agent is called; and what that does.
pub fn right_side(pair: &PairFile) -> Option<(String, bool)> {
    let (settings, _) = config::load(&pair.path).ok()?;
    if settings.is_local() || !agent_socket(&pair.name).exists() {
        return None;
    }
    let root = &settings.right.root;
    if !root.is_dir() {
        return Some((format!("which cannot serve: root {} does not exist", root.display()), false));
    }
    let shown = show(&format!("psync-agent@{}.service", pair.name));
    let value = |name: &str| value(&shown, name);
    Some(match (value("ActiveState"), value("StatusText")) {
        (Some("active"), Some(text)) if text.starts_with("cannot serve") => (format!("which {text}"), false),
        (Some("active"), Some(text)) => (text.to_owned(), true),
        (Some("active"), None) => ("serving".to_owned(), true),
        (Some("failed"), text) => (format!("whose agent failed: {}", text.unwrap_or("see its journal")), false),
        _ => ("waiting for a call".to_owned(), true),
    })
}

/// Whether the unit has failed: since when, and why, of what `systemctl show` prints.
fn failed(shown: &str) -> Option<(String, String)> {
    let state = value(shown, "ActiveState")?;
    let result = value(shown, "Result").filter(|result| *result != "success");
    // Between two tries it is no less failed.
    let again = state == "activating" && value(shown, "SubState") == Some("auto-restart");
    if state != "failed" && !(again && result.is_some()) {
        return None;
    }
    let since = value(shown, "StateChangeTimestamp").unwrap_or("an unknown time").to_owned();
    let how = match (result, value(shown, "ExecMainStatus")) {
        (Some("exit-code"), Some(code)) => format!("exit code {code}"),
        (Some("start-limit-hit"), _) => "too many tries in vain".to_owned(),
        (Some(result), _) => result.to_owned(),
        (None, _) => "no reason is known".to_owned(),
    };
    let why = match value(shown, "StatusText") {
        Some(text) => format!("{text} ({how})"),
        None => how,
    };
    Some((since, if again { format!("{why}; it is tried again") } else { why }))
}

/// A property that has a value.
fn value<'s>(shown: &'s str, name: &str) -> Option<&'s str> {
    let value = shown.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    value.map(str::trim).filter(|value| !value.is_empty())
}

/// Empty where systemd cannot be asked.
fn show(unit: &str) -> String {
    const WANTED: &str = "--property=ActiveState,SubState,Result,ExecMainStatus,StatusText,StateChangeTimestamp";
    let shown = Command::new("systemctl").args(["show", WANTED, "--", unit]).output();
    shown.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_unit_says_since_when_and_why() {
        let shown = "ActiveState=failed\nSubState=failed\nResult=exit-code\nExecMainStatus=1\n\
            StatusText=/etc/psync/web.toml:1: unknown key `colour`\nStateChangeTimestamp=Sat 2026-11-28 10:00:00 UTC\n";
        let (since, why) = failed(shown).expect("failed");
        assert_eq!(since, "Sat 2026-11-28 10:00:00 UTC");
        assert_eq!(why, "/etc/psync/web.toml:1: unknown key `colour` (exit code 1)");
        let again = "ActiveState=activating\nSubState=auto-restart\nResult=signal\nStateChangeTimestamp=now\n";
        assert_eq!(failed(again).expect("failed").1, "signal; it is tried again");
        for fine in ["ActiveState=active\nResult=success\n", "ActiveState=inactive\nResult=success\n", ""] {
            assert_eq!(failed(fine), None);
        }
    }
}
