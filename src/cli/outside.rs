//! What settings name and psync itself does not know: systemd's calendars, and programs. Only this host can tell whether they are
//! any good.

use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::Access;

use crate::config::{Calendar, Invalid, Settings, Timers, Transfer};

/// What cannot be used on this host, and why.
pub fn findings(settings: &Settings) -> Vec<Invalid> {
    let mut found = Vec::new();
    for due in &settings.schedule.fullsync {
        if let Err(why) = on_calendar(due) {
            found.push(Invalid::new("fullsync", why));
        }
    }
    let usual = Timers::default();
    for (key, text, usual) in [
        ("timers.check", &settings.schedule.timers.check, &usual.check),
        ("timers.checksum", &settings.schedule.timers.checksum, &usual.checksum),
    ] {
        if text != usual
            && let Err(why) = on_calendar(&Calendar::Expression(text.clone()))
        {
            found.push(Invalid::new(key, why));
        }
    }
    let mut programs = vec![("alert_command", settings.alerts.command.as_deref())];
    programs.push(("right.proxy_command", settings.right.proxy_command.as_deref()));
    if settings.shared.transport.transfer == Transfer::Rsync {
        programs.push(("transfer", Some("rsync")));
    }
    for (key, command) in programs {
        if let Some(why) = command.and_then(missing) {
            found.push(Invalid::new(key, why));
        }
    }
    found
}

/// The value of `OnCalendar=`; `None`: never. systemd is asked where it is there.
pub fn on_calendar(calendar: &Calendar) -> Result<Option<String>, String> {
    match calendar {
        Calendar::Hour(hour) => Ok((*hour < 24).then(|| format!("*-*-* {hour:02}:00:00"))),
        Calendar::Expression(text) => {
            let text = text.trim();
            let known = |c: char| c.is_ascii_alphanumeric() || " *:,./~_+-".contains(c);
            match text {
                "" => Ok(None),
                t if t.chars().all(known) && !t.starts_with('-') => asked(t)
                    .map_or(Ok(Some(t.to_string())), |why| Err(format!("`{t}` is no calendar expression ({why})"))),
                t => Err(format!("{t:?} is no calendar expression")),
            }
        }
    }
}

/// Why systemd does not take an expression; `None` also where nobody can be asked.
fn asked(text: &str) -> Option<String> {
    let mut analyze = Command::new("systemd-analyze");
    let output = analyze.args(["calendar", text]).env("LC_ALL", "C").stdin(Stdio::null()).output().ok()?;
    let said = String::from_utf8_lossy(&output.stderr);
    // It may fail for reasons of its own, as in a sandbox.
    let line = said.lines().find(|line| line.contains("Failed to parse calendar"))?;
    (!output.status.success()).then(|| format!("systemd-analyze calendar: {}", line.trim()))
}

/// What is wrong with the program that a shell's command line begins with. What only the shell can tell is left to it.
fn missing(command: &str) -> Option<String> {
    let word = command.split_whitespace().find(|word| !is_assignment(word))?;
    if word.contains(|c: char| "$`(){}[]|&;<>\"'\\*?=~!#".contains(c)) {
        return None;
    }
    if word.contains('/') {
        let path = Path::new(word);
        let runs = path.is_file() && rustix::fs::access(path, Access::EXEC_OK).is_ok();
        // Where a relative one lies depends on who starts it.
        return (path.is_absolute() && !runs).then(|| format!("{word}: is no program that can be run here"));
    }
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "command -v -- \"$1\"", "sh", word]).stdin(Stdio::null()).stdout(Stdio::null());
    let found = shell.stderr(Stdio::null()).status().ok()?.success();
    (!found).then(|| format!("{word}: there is no such program here"))
}

fn is_assignment(word: &str) -> bool {
    word.split_once('=')
        .is_some_and(|(name, _)| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_there_or_not() {
        for (command, want) in [
            ("cat", None),
            ("/bin/sh -c true", None),
            ("  A=b cat x", None),
            ("exec cat", None),
            ("nosuch", Some("nosuch: there is no such program here")),
            ("nosuch-either --to x | cat", Some("nosuch-either: there is no such program here")),
            ("/etc/passwd", Some("/etc/passwd: is no program that can be run here")),
            ("/no/such", Some("/no/such: is no program that can be run here")),
            ("{ cat; } > x", None),
            ("\"$HOME/bin/x\"", None),
            ("", None),
        ] {
            assert_eq!(missing(command).as_deref(), want, "{command}");
        }
    }

    #[test]
    fn calendars_are_systemds() {
        let never = |hour| on_calendar(&Calendar::Hour(hour));
        assert_eq!((never(99), never(25), never(24)), (Ok(None), Ok(None), Ok(None)));
        assert_eq!(never(7), Ok(Some("*-*-* 07:00:00".to_owned())));
        let of = |text: &str| on_calendar(&Calendar::Expression(text.to_owned()));
        for good in ["hourly", "Mon *-*-* 04:30", "*-*-* 08..12,14..20:00/15:00", "Sat *-*~7/1 02:00 Europe/Berlin"] {
            assert_eq!(of(good), Ok(Some(good.to_owned())));
        }
        assert_eq!(of(" "), Ok(None));
        if Command::new("systemd-analyze").arg("--version").output().is_err() {
            return eprintln!("skipped: bad calendars: no systemd-analyze");
        }
        for bad in ["hourlyy", "25:00", "*-13-*", "--help", "Mon..", "1"] {
            assert!(of(bad).is_err_and(|why| why.contains("no calendar expression")), "{bad}");
        }
    }

    #[test]
    fn every_key_is_named() {
        let mut settings = Settings::default();
        settings.alerts.command = Some("nosuch".into());
        settings.schedule.fullsync = vec![Calendar::Hour(25), Calendar::Expression("%n".into())];
        settings.schedule.timers.check = "*:0\nOnBootSec=1".into();
        settings.right.proxy_command = Some("/no/ssh %h".into());
        let keys: Vec<&str> = findings(&settings).iter().map(|found| found.key).collect();
        assert_eq!(keys, ["fullsync", "timers.check", "alert_command", "right.proxy_command"]);
        assert_eq!(findings(&Settings::default()), []);
    }
}
