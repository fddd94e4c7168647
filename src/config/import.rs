//! The original's `config.py` as a pair's file.

mod python;

use std::fmt::Write;

use python::{Module, Value};

use super::{Settings, parse};

/// A file of the original, turned.
#[derive(Debug, PartialEq, Eq)]
pub struct Imported {
    /// The pair's file.
    pub toml: String,
    /// What became of each line, in the order of the file.
    pub report: Vec<Finding>,
}

/// What became of one line of the original.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    pub line: usize,
    /// The name that is assigned; of other statements the text.
    pub name: String,
    pub outcome: Outcome,
    pub detail: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It is in the file.
    Taken,
    /// It has no effect here, and why.
    Moot,
    /// Not a key: it may have helped to make others.
    Helper,
    /// It is not in the file and somebody has to look at it.
    Refused,
}

/// What a key of the original must be.
#[derive(Clone, Copy)]
enum Is {
    Flag,
    Whole,
    Seconds,
    Text,
    /// A text, or nothing.
    Optional,
    List,
    Hours,
}

/// Every key of the original's file, in the order of its manual.
const KEYS: &[(&str, Is)] = &[
    ("safesuffix", Is::Text),
    ("debug", Is::Whole),
    ("event_interval", Is::Seconds),
    ("force", Is::Flag),
    ("dryrun", Is::Flag),
    ("first_sync_only", Is::Flag),
    ("skip_initial_sync", Is::Flag),
    ("banned", Is::Optional),
    ("translate", Is::Optional),
    ("rsync_excludes", Is::List),
    ("rsync_extra", Is::List),
    ("inotify_extra", Is::List),
    ("tempfiles", Is::Text),
    ("excludes", Is::Text),
    ("separator", Is::Text),
    ("fullsync", Is::Hours),
    ("pending_lifetime", Is::Seconds),
    ("pending_events", Is::List),
    ("ssh_options", Is::List),
    ("rsync_event_recurse", Is::Flag),
    ("alert_threshold", Is::Whole),
    ("rsync_style", Is::Whole),
    ("acl_from_left_only", Is::Flag),
    ("timeout", Is::Seconds),
    ("itimeout", Is::Seconds),
    ("etimeout", Is::Seconds),
    ("maxtimeout", Is::Seconds),
];

/// Keys that are read, and mean nothing any more.
const MOOT: &[&str] = &["pending_lifetime", "pending_events"];

/// Turns the text of a `config.py`, without executing it. `file` is its name, for the comments.
///
/// The original got host and roots on its command line; they are left for the administrator to fill in.
pub fn import(file: &str, text: &str) -> Imported {
    let module: Module = python::read(text);
    let mut report = Vec::new();
    let mut keys = String::new();
    for (at, assignment) in module.assignments.iter().enumerate() {
        let (line, name) = (assignment.line, assignment.name.clone());
        let finding = |outcome, detail: String| Finding { line, name: name.clone(), outcome, detail };
        let Some((key, is)) = KEYS.iter().find(|(key, _)| *key == name) else {
            report.push(match &assignment.value {
                Ok(_) => finding(Outcome::Helper, "no key of psync".into()),
                Err(why) => finding(Outcome::Helper, format!("no key of psync, and not understood: {why}")),
            });
            continue;
        };
        if module.assignments[at + 1..].iter().any(|later| later.name == name) {
            report.push(finding(Outcome::Helper, "assigned again below".into()));
            continue;
        }
        match assignment.value.clone().and_then(|value| converted(value, *is)) {
            Ok(None) => report.push(finding(Outcome::Taken, "the default: unset".into())),
            Ok(Some(value)) => match usable(key, &value) {
                Ok(()) => {
                    let moot = MOOT.contains(key);
                    let _ = writeln!(keys, "{key} = {value}");
                    report.push(match moot {
                        true => finding(Outcome::Moot, "no effect: echoes are recognised by state, not by time".into()),
                        false => finding(Outcome::Taken, format!("{value}{}", advice(key, &value))),
                    });
                }
                Err(why) => {
                    comment(&mut keys, &format!("{file}:{line}: {why}\n{key} = {value}"));
                    report.push(finding(Outcome::Refused, why));
                }
            },
            Err(why) => {
                comment(&mut keys, &format!("{file}:{line}: {key} was not understood: {why}"));
                report.push(finding(Outcome::Refused, format!("not understood: {why}")));
            }
        }
    }
    for foreign in &module.foreign {
        let (line, name) = (foreign.line, foreign.text.trim().to_string());
        report.push(Finding { line, name, outcome: Outcome::Helper, detail: "not an assignment: left out".into() });
    }
    report.sort_by_key(|finding| finding.line);
    let toml = format!(
        "# Made from {file}. The roots and the host, which the original got on its command line, are to be filled in.\n\
         {keys}\n[left]\nroot = \"\"\n\n[right]\nroot = \"\"\n# host = \"\"\n"
    );
    Imported { toml, report }
}

fn comment(keys: &mut String, text: &str) {
    text.lines().for_each(|line| _ = writeln!(keys, "# {line}"));
}

/// The value as the pair's file has it; `None` if the key is better left out.
fn converted(value: Value, is: Is) -> Result<Option<toml::Value>, String> {
    let wanted = |what: &str| Err(format!("it should be {what}"));
    let texts = |all: Vec<Value>| {
        let all = all.into_iter().map(|value| match value {
            Value::Text(text) => Some(toml::Value::String(text)),
            _ => None,
        });
        all.collect::<Option<Vec<_>>>().map(toml::Value::Array)
    };
    let made = match (is, value) {
        (Is::Flag, Value::Bool(flag)) => toml::Value::Boolean(flag),
        (Is::Flag, Value::Int(n @ (0 | 1))) => toml::Value::Boolean(n == 1),
        (Is::Flag, Value::None) => toml::Value::Boolean(false),
        (Is::Flag, _) => return wanted("True, False, 1 or 0"),
        (Is::Whole, Value::Int(n)) => toml::Value::Integer(n),
        (Is::Whole, Value::Bool(flag)) => toml::Value::Integer(i64::from(flag)),
        (Is::Whole, _) => return wanted("a whole number"),
        (Is::Seconds, Value::Int(n)) => toml::Value::Integer(n),
        (Is::Seconds, Value::Float(n)) => toml::Value::Float(n),
        (Is::Seconds, _) => return wanted("a number of seconds"),
        (Is::Optional | Is::Text, Value::Text(text)) if text.is_empty() && matches!(is, Is::Optional) => {
            return Ok(None);
        }
        (Is::Optional, Value::None | Value::Bool(false) | Value::Int(0)) => return Ok(None),
        (Is::Optional | Is::Text, Value::Text(text)) => toml::Value::String(text),
        (Is::Optional | Is::Text, _) => return wanted("a text"),
        (Is::List, Value::Text(text)) => {
            // The original puts these on command lines, where blanks part the words.
            toml::Value::Array(text.split_whitespace().map(toml::Value::from).collect())
        }
        (Is::List, Value::None) => toml::Value::Array(Vec::new()),
        (Is::List, Value::List(all)) => match texts(all) {
            Some(list) => list,
            None => return wanted("a list of texts"),
        },
        (Is::List, _) => return wanted("a list of texts"),
        (Is::Hours, Value::Int(n)) => toml::Value::Array(vec![n.into()]),
        (Is::Hours, Value::None) => toml::Value::Array(Vec::new()),
        (Is::Hours, Value::List(all)) => {
            let hours = all.into_iter().map(|value| match value {
                Value::Int(hour) => Some(toml::Value::Integer(hour)),
                Value::Text(hour) => hour.trim().parse().ok().map(toml::Value::Integer),
                _ => None,
            });
            match hours.collect::<Option<Vec<_>>>() {
                Some(hours) => toml::Value::Array(hours),
                None => return wanted("a list of hours"),
            }
        }
        (Is::Hours, _) => return wanted("a list of hours"),
    };
    Ok(Some(made))
}

/// Whether the key can have this value here.
fn usable(key: &str, value: &toml::Value) -> Result<(), String> {
    let file = std::path::Path::new("");
    let (settings, origins) = parse(file, &format!("{key} = {value}\n")).map_err(|e| plain(&e.to_string()))?;
    let roots = Settings { left: super::Left { root: "/l".into() }, ..settings };
    let whole = Settings { right: super::Right { root: "/r".into(), ..Default::default() }, ..roots };
    whole.check().map_err(|e| plain(&origins.explain(&e)))
}

/// The message without the place in a file that nobody has.
fn plain(message: &str) -> String {
    message.trim_start_matches(":1: ").to_string()
}

/// What an administrator should know of a value that was taken.
fn advice(key: &str, value: &toml::Value) -> &'static str {
    match key {
        "excludes" if value.as_str().is_some_and(|v| v.contains(r"\.")) => {
            " (the original hid rsync's temporaries, and users' dot files with them; here psync's own lie elsewhere)"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGINAL: &str = r#"
# psync settings
import os
safesuffix = ".psync.ignore"
debug = 1
event_interval = 5
force = 0
dryrun = False
banned = None
translate = ""
rsync_excludes = ["*.iso", "/cache"]
rsync_extra = ["--bwlimit=5m"] + []
tempfiles = "\.tmp$" + "|" \
    r"/~\$"
excludes = ("/\..*\.......$" "|/Thumbs\.db$")
fullsync = [1, 13]
pending_lifetime = 60
pending_events = "CLOSE_WRITE MOVED_TO"
base = 60
timeout = base
itimeout = timeout*5
etimeout = timeout*0.75
maxtimeout = max(timeout, 900)
ssh_options = ("-o", "ConnectTimeout=10")
rsync_style = 7
acl_from_left_only = True
"#;

    #[test]
    fn a_whole_file() {
        let Imported { toml, report } = import("config.py", ORIGINAL);
        let found = |name: &str| report.iter().find(|f| f.name == name).map(|f| (f.line, f.outcome, f.detail.as_str()));
        assert_eq!(found("import os"), Some((3, Outcome::Helper, "not an assignment: left out")));
        assert_eq!(found("itimeout"), Some((21, Outcome::Taken, "300")));
        assert_eq!(found("etimeout"), Some((22, Outcome::Taken, "45.0")));
        assert_eq!(found("translate"), Some((10, Outcome::Taken, "the default: unset")));
        assert_eq!(found("base"), Some((19, Outcome::Helper, "no key of psync")));
        let why = "not understood: `max` would have to be executed";
        assert_eq!(found("maxtimeout"), Some((23, Outcome::Refused, why)));
        assert_eq!(found("rsync_style"), Some((25, Outcome::Refused, "rsync_style: 7 is not in 1 to 3")));
        assert!(found("pending_lifetime").is_some_and(|f| f.1 == Outcome::Moot));

        let path = std::path::Path::new("p.toml");
        let (settings, _) = parse(path, &toml).expect("a pair's file");
        assert_eq!(settings.shared.filters.tempfiles, r"\.tmp$|/~\$");
        assert_eq!(settings.shared.filters.excludes, r"/\..*\.......$|/Thumbs\.db$");
        assert_eq!(settings.absence.itimeout.as_secs(), 300);
        assert_eq!(
            settings.absence.maxtimeout,
            Settings::default().absence.maxtimeout,
            "the default where nothing was understood"
        );
        assert_eq!(settings.shared.filters.rsync_excludes, ["*.iso", "/cache"]);
        assert_eq!(settings.pending.events, ["CLOSE_WRITE", "MOVED_TO"]);
        assert_eq!(settings.program.ssh_options, ["-o", "ConnectTimeout=10"]);
        assert!(toml.contains("# config.py:25: rsync_style: 7 is not in 1 to 3\n# rsync_style = 7\n"), "{toml}");
    }

    #[test]
    fn every_key_of_the_original_is_a_key_here() {
        for (key, is) in KEYS {
            let sample = match is {
                Is::Flag => "True",
                Is::Whole | Is::Seconds => "2",
                Is::Text => "'xyz'",
                Is::Optional if *key == "translate" => "'a:b'",
                Is::Optional => "'name'",
                Is::List if *key == "inotify_extra" => "['-E', 'cache']",
                Is::List if *key == "rsync_extra" => "['--bwlimit', '5m']",
                Is::List => "['-o', 'x']",
                Is::Hours => "[99]",
            };
            let Imported { report, .. } = import("config.py", &format!("{key} = {sample}\n"));
            assert!(matches!(report[0].outcome, Outcome::Taken | Outcome::Moot), "{key}: {report:?}");
        }
    }

    #[test]
    fn what_cannot_be_a_value_is_refused_with_the_reason() {
        for (source, want) in [
            ("debug = 9", "debug: 9 is not in 0 to 3"),
            ("timeout = -1", "timeout: "),
            ("timeout = 0", "timeout: must be more than 0 seconds"),
            ("force = 2", "not understood: it should be True, False, 1 or 0"),
            ("fullsync = 'x'", "not understood: it should be a list of hours"),
            ("rsync_extra = [1]", "not understood: it should be a list of texts"),
            (r"excludes = '(?!a)'", "excludes: bad regular expression"),
            ("translate = 'a'", "translate: "),
        ] {
            let Imported { report, toml } = import("c.py", source);
            assert!(report[0].outcome == Outcome::Refused && report[0].detail.starts_with(want), "{report:?}");
            assert!(toml.contains("# c.py:1: "), "{toml}");
            parse(std::path::Path::new("p"), &toml).expect("what was refused is a comment");
        }
        let twice = import("c.py", "debug = 9\ndebug = 1\n");
        assert!(twice.report[0].outcome == Outcome::Helper && twice.report[1].outcome == Outcome::Taken);
    }
}
