//! `psync alert UNIT`: what is told to the administrator. Run by `psync-alert@UNIT.service` when a unit of a pair has failed.

use super::UsageError;
use super::pair::PairFile;
use crate::config::{self, valid_pair};
use crate::service::alert::alert;

/// The whole command; the exit code.
pub fn main(unit: &str) -> Result<u8, UsageError> {
    let none = || UsageError(format!("alert: `{unit}` is no unit of a pair, as psync-brain@PAIR.service is"));
    let pair = PairFile::of(pair_of(unit).ok_or_else(none)?)?;
    // An unreadable configuration may be what the alert is about.
    let command = config::load(&pair.path).ok().and_then(|(settings, _)| settings.alert_command);
    alert(command.as_deref(), &pair.name, &message(unit, &pair.name, |name| std::env::var(name).ok()));
    Ok(0)
}

/// `psync-brain@PAIR.service` → `PAIR`.
fn pair_of(unit: &str) -> Option<&str> {
    let (_, instance) = unit.strip_prefix("psync-")?.split_once('@')?;
    let (pair, _) = instance.rsplit_once('.')?;
    valid_pair(pair).then_some(pair)
}

/// What happened, in one line, and where to look. systemd tells how the unit ended in its `MONITOR_` variables.
fn message(unit: &str, pair: &str, variable: impl Fn(&str) -> Option<String>) -> String {
    let status = variable("MONITOR_EXIT_STATUS");
    let how = match (variable("MONITOR_SERVICE_RESULT").as_deref(), status.as_deref()) {
        (Some("exit-code"), Some("2")) if unit.starts_with("psync-check") => {
            "found that the two sides differ".to_string()
        }
        (Some("exit-code"), Some(status)) => format!("failed with exit code {status}"),
        (Some("signal" | "core-dump"), Some(signal)) => format!("was killed by SIG{signal}"),
        (Some("watchdog"), _) => "made no progress, and was killed".to_string(),
        (Some("start-limit-hit"), _) => "failed too often, and is not tried again".to_string(),
        (Some(result), _) => format!("failed ({result})"),
        (None, _) => "failed".to_string(),
    };
    let look = match variable("MONITOR_INVOCATION_ID") {
        Some(invocation) => format!("journalctl _SYSTEMD_INVOCATION_ID={invocation}"),
        None => format!("journalctl -u {unit}"),
    };
    format!("pair {pair}: {unit} {how}\n\nSee `systemctl status {unit}` and `{look}`.\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pair_of_a_unit() {
        for (unit, pair) in [
            ("psync-brain@web.service", Some("web")),
            ("psync-agent@a.b-c.socket", Some("a.b-c")),
            ("psync-brain.service", None),
            ("psync-brain@.service", None),
            ("psync-brain@../x.service", None),
            ("cron.service", None),
            ("", None),
        ] {
            assert_eq!(pair_of(unit), pair, "{unit}");
        }
    }

    #[test]
    fn messages_say_how_it_ended() {
        for (unit, result, status, want) in [
            ("psync-brain@p.service", "exit-code", "5", "failed with exit code 5"),
            ("psync-check@p.service", "exit-code", "2", "found that the two sides differ"),
            ("psync-checksum@p.service", "exit-code", "1", "failed with exit code 1"),
            ("psync-brain@p.service", "signal", "KILL", "was killed by SIGKILL"),
            ("psync-brain@p.service", "watchdog", "ABRT", "made no progress, and was killed"),
        ] {
            let variable = |name: &str| match name {
                "MONITOR_SERVICE_RESULT" => Some(result.to_string()),
                "MONITOR_EXIT_STATUS" => Some(status.to_string()),
                _ => None,
            };
            let text = message(unit, "p", variable);
            assert_eq!(text.lines().next(), Some(format!("pair p: {unit} {want}").as_str()));
        }
        let text = message("psync-agent@p.socket", "p", |_| None);
        assert!(text.starts_with("pair p: psync-agent@p.socket failed\n"), "{text}");
        assert!(text.contains("journalctl -u psync-agent@p.socket"), "{text}");
    }

    #[test]
    fn a_name_that_is_no_unit_is_an_error_of_usage() {
        let error = main("cron.service").expect_err("no unit of ours").to_string();
        assert_eq!(error, "alert: `cron.service` is no unit of a pair, as psync-brain@PAIR.service is");
    }
}
