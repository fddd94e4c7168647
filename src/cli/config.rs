//! `psync config`: check a pair's file, show the settings in force, turn the original's `config.py`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Subcommand;

use super::UsageError;
use super::ask::in_force;
use super::console::{Console, print};
use super::exit;
use super::human::words;
use super::outside;
use super::pair::PairFile;
use crate::config::{self, Finding, Origins, Outcome, Settings};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Say whether a pair's file can be used; exit 1 with file, line and key if not
    Check {
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Print all settings in force, and where each came from
    Show {
        /// A name (/etc/psync/PAIR.toml), or the path of such a file
        #[arg(value_name = "PAIR")]
        pair: OsString,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the original's config.py as a pair's file, without executing it; what became of each line goes to stderr.
    /// Exit 1 if a line has to be looked at
    Import {
        #[arg(value_name = "CONFIG.PY")]
        file: PathBuf,
        /// The file and what became of each line as JSON, on stdout
        #[arg(long)]
        json: bool,
    },
}

/// The exit code.
pub fn main(command: Command, console: &Console) -> Result<u8, UsageError> {
    let mut out = Vec::new();
    let code = run(command, &mut out, console)?;
    print(&out);
    Ok(code)
}

fn run(command: Command, out: &mut Vec<u8>, console: &Console) -> Result<u8, UsageError> {
    match command {
        Command::Check { file, json } => Ok(check(&file, json, out)),
        Command::Show { pair, json } => show(&pair, json, out).map(|()| 0),
        Command::Import { file, json } => import(&file, json, out, console),
    }
}

/// The settings of a file, checked.
fn checked(file: &Path) -> Result<(Settings, Origins), UsageError> {
    let (settings, origins) = config::load(file).map_err(|e| UsageError(e.to_string()))?;
    settings.check().map_err(|e| UsageError(origins.explain(&e)))?;
    Ok((settings, origins))
}

/// The same, with what only this host can tell.
fn checked_here(file: &Path) -> Result<(Settings, Origins), UsageError> {
    let (settings, origins) = checked(file)?;
    let found: Vec<String> = outside::findings(&settings).iter().map(|found| origins.explain(found)).collect();
    if found.is_empty() { Ok((settings, origins)) } else { Err(UsageError(found.join("\n"))) }
}

fn check(file: &Path, json: bool, out: &mut Vec<u8>) -> u8 {
    let found = checked_here(file);
    let text = match (&found, json) {
        (Ok((settings, _)), false) => {
            let moot = settings.moot().into_iter().map(|line| format!("{}: {line}\n", file.display()));
            moot.chain([format!("{}: good\n", file.display())]).collect()
        }
        (Err(e), false) => format!("{e}\n"),
        (found, true) => {
            let error = found.as_ref().err().map(ToString::to_string);
            format!("{}\n", serde_json::json!({ "file": file, "good": error.is_none(), "error": error }))
        }
    };
    out.extend(text.as_bytes());
    if found.is_ok() { 0 } else { exit::USAGE }
}

/// Every key with its value and origin, as a file that would give the same settings.
fn show(pair: &OsString, json: bool, out: &mut Vec<u8>) -> Result<(), UsageError> {
    let file = match pair.to_str() {
        Some(word) => PairFile::known(word)?.path,
        None => config::pair_file(pair).map_err(UsageError)?,
    };
    let (settings, origins) = checked(&file)?;
    let all = serde_json::to_value(&settings).map_err(|e| UsageError(e.to_string()))?;
    // What a brain was started with, or was told since, may be another.
    let running = PairFile::of(&pair.to_string_lossy()).ok().and_then(|pair| in_force(&pair));
    let other: BTreeMap<String, serde_json::Value> = running.iter().flat_map(flattened).collect();
    let flat: BTreeMap<String, serde_json::Value> = flattened(&all).into_iter().collect();
    let differs = |key: &str| other.get(key).filter(|value| flat.get(key) != Some(value));
    let from = |key: &str| {
        let origin = origins.of(key).map_or_else(|| "default".to_string(), ToString::to_string);
        match differs(key) {
            Some(value) => format!("{origin}; the running brain has {value}"),
            None => origin,
        }
    };
    let text = if json { as_json(&all, from) } else { as_toml(&all, from) };
    out.extend(text.as_bytes());
    Ok(())
}

fn as_json(all: &serde_json::Value, from: impl Fn(&str) -> String) -> String {
    let flat = flattened(all).into_iter();
    let listed: Vec<_> =
        flat.map(|(key, value)| serde_json::json!({"key": key, "value": value, "from": from(&key)})).collect();
    format!("{}\n", serde_json::Value::Array(listed))
}

/// One key a line; keys that are unset are comments, tables come last.
fn as_toml(all: &serde_json::Value, from: impl Fn(&str) -> String) -> String {
    let (top, below): (Vec<_>, Vec<_>) = flattened(all).into_iter().partition(|(key, _)| !key.contains('.'));
    let mut text = String::new();
    let mut open = String::new();
    for (key, value) in top.into_iter().chain(below) {
        let (table, name) = key.rsplit_once('.').unwrap_or(("", &key));
        if table != open {
            text.push_str(&format!("\n[{table}]\n"));
            open = table.to_string();
        }
        let line = match toml::Value::try_from(&value) {
            Ok(value) => format!("{name} = {value}"),
            Err(_) => format!("# {name} is unset"),
        };
        text.push_str(&format!("{line:<50} # {}\n", from(&key)));
    }
    text
}

/// Dotted keys and their values.
fn flattened(all: &serde_json::Value) -> Vec<(String, serde_json::Value)> {
    let mut flat = Vec::new();
    for (key, value) in all.as_object().into_iter().flatten() {
        match value.as_object() {
            Some(table) => flat.extend(table.iter().map(|(below, value)| (format!("{key}.{below}"), value.clone()))),
            None => flat.push((key.clone(), value.clone())),
        }
    }
    flat
}

fn import(file: &Path, json: bool, out: &mut Vec<u8>, console: &Console) -> Result<u8, UsageError> {
    let bytes = fs::read(file).map_err(|e| UsageError(format!("{}: cannot read: {}", file.display(), words(&e))))?;
    let text = String::from_utf8_lossy(&bytes);
    let name = file.file_name().unwrap_or(file.as_os_str()).to_string_lossy();
    let imported = config::import(&name, &text);
    let refused = imported.report.iter().any(|finding| finding.outcome == Outcome::Refused);
    if json {
        let listed = serde_json::json!({ "toml": imported.toml, "report": imported.report });
        out.extend(format!("{listed}\n").as_bytes());
    } else {
        imported.report.iter().for_each(|finding| console.line(&told(&name, finding)));
        out.extend(imported.toml.as_bytes());
    }
    Ok(if refused { exit::USAGE } else { 0 })
}

fn told(file: &str, finding: &Finding) -> String {
    let outcome = match finding.outcome {
        Outcome::Taken => "taken",
        Outcome::Moot => "moot",
        Outcome::Helper => "left out",
        Outcome::Refused => "LOOK AT THIS",
    };
    format!("{file}:{}: {}: {outcome}: {}", finding.line, finding.name, finding.detail)
}

#[cfg(test)]
mod tests {
    use super::super::options::{self, Parsed};
    use super::*;

    #[derive(Debug, clap::Parser)]
    #[command(disable_help_subcommand = true)]
    struct Config {
        #[command(subcommand)]
        command: Command,
    }

    fn psync(args: &[&str]) -> (u8, String) {
        let args = std::iter::once(&"config").chain(args).map(OsString::from).collect();
        let mut out = Vec::new();
        let parsed = options::parse::<Config>(args).map(|parsed| match parsed {
            Parsed::Run(Config { command }) => command,
            Parsed::Show(text) => panic!("{text}"),
        });
        let code = parsed.and_then(|command| run(command, &mut out, &Console::stderr())).unwrap_or_else(|e| {
            out.extend(e.to_string().as_bytes());
            exit::USAGE
        });
        (code, String::from_utf8(out).expect("text"))
    }

    fn file(text: &str) -> (tempfile::TempDir, String) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("p.toml");
        fs::write(&path, text).expect("written");
        let path = path.to_str().expect("text").to_string();
        (dir, path)
    }

    const ROOTS: &str = "[left]\nroot = \"/l\"\n[right]\nroot = \"/r\"\n";

    #[test]
    fn check_names_file_line_and_key() {
        let (_dir, good) = file(&format!("pending_lifetime = 3\n{ROOTS}"));
        let (code, text) = psync(&["check", &good]);
        assert!(code == 0 && text.ends_with(": good\n") && text.contains("no effect"), "{text}");
        for (spoil, want) in [
            ("debgu = 1\n", ":1: unknown key `debgu`; did you mean `debug`?"),
            ("\ndebug = 7\n", ":2: debug: 7 is not in 0 to 3"),
            ("debug = \"x\"\n", ":1: debug: "),
            ("alert_command = \"nosuch\"\n", ":1: alert_command: nosuch: there is no such program here"),
            ("fullsync = [\"%n\"]\n", ":1: fullsync: \"%n\" is no calendar expression"),
        ] {
            let (_dir, bad) = file(&format!("{spoil}{ROOTS}"));
            let (code, text) = psync(&["check", &bad]);
            assert!(code == 1 && text.starts_with(&format!("{bad}{want}")), "{text}");
            let (code, text) = psync(&["check", "--json", &bad]);
            let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            assert!(code == 1 && json["good"] == false && json["error"].as_str().is_some_and(|e| e.contains(want)));
        }
        let (code, text) = psync(&["check", "/nonexistent/p.toml"]);
        assert!(code == 1 && text.starts_with("/nonexistent/p.toml: cannot read"), "{text}");
    }

    #[test]
    fn show_prints_a_file_that_gives_the_same_settings() {
        let (_dir, path) = file(&format!("debug = 2\nexcludes = 'a\"b'\nbanned = \"x\"\n{ROOTS}host = \"h\"\n"));
        let (code, text) = psync(&["show", &path]);
        assert_eq!(code, 0, "{text}");
        let (shown, _) = config::parse(Path::new("shown"), &text).expect("what is shown is a file");
        assert_eq!(shown, config::load(Path::new(&path)).expect("the file").0);
        let line = |key: &str| text.lines().find(|l| l.starts_with(key)).map(str::to_string).unwrap_or_default();
        assert!(line("debug = 2").ends_with(&format!("# {path}:1: debug")), "{text}");
        assert!(line("force = false").ends_with("# default"), "{text}");
        let (_, text) = psync(&["show", "--json", &path]);
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let host = json.as_array().and_then(|a| a.iter().find(|e| e["key"] == "right.host")).cloned();
        assert_eq!(host.map(|h| h["value"].clone()), Some("h".into()));
    }

    #[test]
    fn import_says_1_if_somebody_has_to_look() {
        let (_dir, good) = file("debug = 1\n");
        let (code, text) = psync(&["import", &good]);
        assert!(code == 0 && text.contains("\ndebug = 1\n"), "{text}");
        let (_dir, bad) = file("debug = f()\n");
        assert_eq!(psync(&["import", &bad]).0, 1);
        let (code, text) = psync(&["import", "--json", &bad]);
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert!(code == 1 && json["report"][0]["outcome"] == "refused", "{text}");
    }

    #[test]
    fn wrong_usage_is_one_line() {
        for args in [&["shwo"][..], &[], &["show"], &["show", "no such pair"], &["check"]] {
            let (code, text) = psync(args);
            assert!(code == 1 && text.trim_end().lines().count() == 1, "{args:?}: {text}");
        }
    }
}
