//! The files that are installed beside the programs, in step with the code.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use psync::config::{Settings, parse};
use psync::service::log::message_id;

fn file(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// A key of the example, dotted below a table; whether it stands behind a `#`, and whether that is no default.
struct Key {
    name: String,
    commented: bool,
    unset: bool,
}

/// The keys of a commented example, and the same text with every key alive.
fn example(text: &str) -> (Vec<Key>, String) {
    let (mut keys, mut alive, mut table) = (Vec::new(), String::new(), String::new());
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('[') {
            table = format!("{}.", name.trim_end_matches(']'));
        }
        // A comment has a blank behind its `#`, a key has none.
        let bare = line.strip_prefix('#').filter(|rest| !rest.starts_with(' ') && !rest.is_empty());
        let code = bare.unwrap_or(line);
        let key = code.split_once(" = ").filter(|_| !code.starts_with('#'));
        if let Some((name, _)) = key {
            let unset = code.ends_with("# not set by default");
            keys.push(Key { name: format!("{table}{name}"), commented: bare.is_some(), unset });
        }
        alive += if key.is_some() { code } else { line };
        alive.push('\n');
    }
    (keys, alive)
}

/// All keys that a file may have.
fn known() -> Vec<String> {
    let serde_json::Value::Object(all) = serde_json::to_value(Settings::default()).unwrap() else { panic!() };
    let mut keys = Vec::new();
    for (key, value) in all {
        match value {
            serde_json::Value::Object(below) => keys.extend(below.keys().map(|below| format!("{key}.{below}"))),
            _ => keys.push(key),
        }
    }
    keys.sort();
    keys
}

#[test]
fn the_example_configuration_has_every_key_with_its_default() {
    let text = file("conf/psync.toml");
    let (keys, alive) = example(&text);
    let mut names: Vec<String> = keys.iter().map(|key| key.name.clone()).collect();
    names.sort();
    assert_eq!(names, known(), "each key once");
    let live: Vec<&str> = keys.iter().filter(|key| !key.commented).map(|key| key.name.as_str()).collect();
    assert_eq!(live, ["left.root", "right.root"]);

    // As it stands: the defaults, and two roots.
    let (as_is, _) = parse(Path::new("conf/psync.toml"), &text).unwrap();
    as_is.check().unwrap();
    let mut defaults = Settings::default();
    defaults.left.root = "/srv/data".into();
    defaults.right.root = "/srv/data".into();
    assert_eq!(as_is, defaults);

    // With every key alive it is good, and differs only where it says that there is no default.
    let (all, _) = parse(Path::new("conf/psync.toml"), &alive).unwrap();
    all.check().unwrap();
    let mut differ = defaults.changes(&all).keys;
    let mut unset: Vec<String> = keys.iter().filter(|key| key.unset).map(|key| key.name.clone()).collect();
    differ.sort();
    unset.sort();
    assert_eq!(differ, unset);
}

#[test]
fn the_alert_command_of_the_example_sends_a_mail() {
    let (_, alive) = example(&file("conf/psync.toml"));
    let (settings, _) = parse(Path::new("conf/psync.toml"), &alive).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let sendmail = dir.path().join("sendmail");
    fs::write(&sendmail, format!("#!/bin/sh\n{{ echo \"$@\"; cat; }} > {}/sent\n", dir.path().display())).unwrap();
    fs::set_permissions(&sendmail, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = Command::new("/bin/sh");
    command
        .arg("-c")
        .arg(settings.alerts.command.unwrap())
        .env("PATH", format!("{}:/usr/bin:/bin", dir.path().display()));
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"pair p: psync-brain@p.service failed\n").unwrap();
    assert!(child.wait().unwrap().success());
    let sent = fs::read_to_string(dir.path().join("sent")).unwrap();
    let lines: Vec<&str> = sent.lines().collect();
    assert_eq!([lines[0], lines[2], lines[3]], ["-i root", "", "pair p: psync-brain@p.service failed"], "{sent}");
    assert!(lines[1].starts_with("Subject: psync on ") && lines.len() == 4, "{sent}");
}

#[test]
fn the_catalog_explains_every_message() {
    let text = file("packaging/psync.catalog");
    let entries: Vec<&str> = text.split("\n-- ").skip(1).collect();
    let ids: Vec<&str> = entries.iter().map(|entry| entry.lines().next().unwrap().trim()).collect();
    let known: Vec<&str> = message_id::ALL.iter().map(|(_, id)| *id).collect();
    assert_eq!(ids, known);
    for (entry, (name, id)) in entries.iter().zip(message_id::ALL) {
        assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{name}");
        let (head, body) = entry.split_once("\n\n").unwrap_or_else(|| panic!("{name}: no text"));
        for field in ["Subject: ", "Defined-By: psync", "Documentation: "] {
            assert!(head.lines().any(|line| line.starts_with(field)), "{name}: no {field}");
        }
        assert!(body.trim().len() > 60, "{name}: nothing is explained");
    }
}

/// systemd's own reader takes the catalog.
#[test]
fn journalctl_reads_the_catalog() {
    let program = std::env::split_paths(&std::env::var_os("PATH").unwrap())
        .map(|directory| directory.join("journalctl"))
        .find(|path| path.exists());
    let Some(program) = program else {
        assert!(std::env::var_os("CI").is_none(), "journalctl is missing, and no test may be skipped here");
        return eprintln!("skipped: journalctl_reads_the_catalog needs journalctl");
    };
    let root = tempfile::tempdir().unwrap();
    let place = root.path().join("usr/lib/systemd/catalog");
    std::fs::create_dir_all(&place).unwrap();
    std::fs::write(place.join("psync.catalog"), file("packaging/psync.catalog")).unwrap();
    let run = |words: &[&str]| {
        let mut command = std::process::Command::new(&program);
        let output = command.arg("--root").arg(root.path()).args(words).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "journalctl {words:?}: {said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    run(&["--update-catalog"]);
    let listed = run(&["--list-catalog"]);
    for (name, id) in message_id::ALL {
        assert!(listed.contains(id), "{name} is not in:\n{listed}");
    }
}

/// One executable has all the names, and knows each of them.
#[test]
fn the_package_links_every_program_to_the_one_executable() {
    let links = file("debian/psync.links");
    let mut names = vec!["psync"];
    for line in links.lines() {
        let (target, link) = line.split_once(' ').unwrap();
        assert_eq!(target, "usr/bin/psync");
        names.push(link.rsplit('/').next().unwrap());
    }
    names.sort();
    let mut known: Vec<&str> = psync::cli::programs::PROGRAMS.iter().map(|(name, _)| *name).collect();
    known.sort();
    assert_eq!(names, known);
    for unit in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("units")).unwrap().flatten() {
        let text = fs::read_to_string(unit.path()).unwrap();
        for run in text.lines().filter_map(|line| line.strip_prefix("ExecStart=/usr/bin/")) {
            assert!(known.contains(&run.split(' ').next().unwrap()), "{}: {run}", unit.path().display());
        }
    }
}

/// Called by each of its names, through a link as the package makes it, it is that program.
#[test]
fn the_one_executable_acts_by_its_name() {
    let bin = tempfile::tempdir().unwrap();
    for (name, word, want) in [
        ("psync", "--version", "psync 0.1.0"),
        ("psync-brain", "--version", "psync-brain 0.1.0"),
        ("psync-agent", "--version", "psync-agent 0.1.0"),
        ("psync-link", "--version", "psync-link 0.1.0"),
        ("psync-generator", "", "usage: psync-generator DIRECTORY"),
        ("something-else", "--version", "psync 0.1.0"),
    ] {
        let link = bin.path().join(name);
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_psync"), &link).unwrap();
        let output = Command::new(&link).args(Some(word).filter(|word| !word.is_empty())).output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        let want = want.replace("0.1.0", env!("CARGO_PKG_VERSION"));
        assert!(said.starts_with(&want), "{name}: {said}");
    }
}

/// How much of the system each service could reach, as systemd counts it. A line that opens a sandbox is seen here.
#[test]
fn the_units_stay_closed() {
    for (unit, most) in [
        ("psync-brain@", 1.4),
        ("psync-agent@", 1.4),
        ("psync-link@", 1.2),
        ("psync-fullsync@", 1.4),
        ("psync-check@", 1.4),
        ("psync-checksum@", 1.4),
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("units/{unit}.service"));
        let asked =
            Command::new("systemd-analyze").args(["security", "--no-pager", "--offline=yes"]).arg(&path).output();
        let Ok(said) = asked else {
            assert!(std::env::var_os("CI").is_none(), "systemd-analyze is missing, and no test may be skipped here");
            return eprintln!("skipped: the_units_stay_closed needs systemd-analyze");
        };
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        let overall =
            text.lines().find(|line| line.contains("Overall exposure level")).unwrap_or_else(|| panic!("{text}"));
        let number = overall.rsplit(": ").next().unwrap().split(' ').next().unwrap();
        assert!(number.parse::<f64>().unwrap() <= most, "{unit}: {overall}");
    }
}

/// What no number of systemd's tells: network for the line alone, the key for the line alone, bounds for all.
#[test]
fn the_units_share_out_what_the_pair_needs() {
    let words = |unit: &str, key: &str| -> Vec<String> {
        let text = file(&format!("units/{unit}.service"));
        let values =
            text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect::<Vec<_>>().join(" ");
        values.split_whitespace().map(str::to_owned).collect()
    };
    for unit in ["psync-brain@", "psync-agent@", "psync-fullsync@", "psync-check@", "psync-checksum@"] {
        assert_eq!(words(unit, "RestrictAddressFamilies"), ["AF_UNIX"], "{unit}");
        assert_eq!(words(unit, "PrivateNetwork"), ["yes"], "{unit}");
        assert_eq!(words(unit, "IPAddressDeny"), ["any"], "{unit}");
        for hidden in ["-/etc/shadow", "-/etc/sudoers", "-/boot", "-/etc/psync/ssh", "-/var/lib/psync"] {
            assert!(words(unit, "InaccessiblePaths").iter().any(|path| path == hidden), "{unit} shows {hidden}");
        }
        assert!(!words(unit, "ReadWritePaths").iter().any(|path| path.contains("/var/lib")), "{unit}");
    }
    for unit in ["psync-brain@", "psync-agent@", "psync-link@", "psync-fullsync@", "psync-check@", "psync-checksum@"] {
        for key in ["MemoryMax", "TasksMax"] {
            assert_eq!(words(unit, key).len(), 1, "{unit}: {key}");
        }
        assert_eq!(words(unit, "DevicePolicy"), ["closed"], "{unit}");
        // What may be written is a mount of its own, which the first one does not cover.
        let never_run = words(unit, "NoExecPaths");
        assert_eq!(never_run[0], "/", "{unit}");
        assert!(words(unit, "ReadWritePaths").iter().all(|path| never_run.contains(path)), "{unit}");
        assert!(words(unit, "ExecPaths").iter().all(|path| !path.contains("/srv") && path != "/"), "{unit}");
    }
    assert_eq!(words("psync-link@", "DynamicUser"), ["yes"]);
    assert_eq!(words("psync-link@", "CapabilityBoundingSet"), [""; 0]);
    let loaded = words("psync-link@", "LoadCredential");
    assert_eq!(loaded, ["conf:/etc/psync/%i.toml", "key:/etc/psync/ssh/%i", "known_hosts:/var/lib/psync/known_hosts"]);
}
