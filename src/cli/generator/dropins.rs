//! The drop-ins of one pair's units, from its settings. Pure text.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::super::mount_units;
use super::super::outside::on_calendar;
use crate::config::{Calendar, Settings, credential, ssh_files};
use crate::service::log::Target;

/// An addition to one unit.
#[derive(Debug, PartialEq, Eq)]
pub struct DropIn {
    pub unit: String,
    pub text: String,
}

/// What the units of both sides hide beside what their sandbox does anyway.
const HIDDEN: &[&str] = &[
    "/etc/shadow",
    "/etc/shadow-",
    "/etc/gshadow",
    "/etc/gshadow-",
    "/etc/sudoers",
    "/etc/sudoers.d",
    "/boot",
    "/etc/psync/ssh",
    "/var/lib/psync",
];

/// Where the units run programs from. Nothing else may be run, a root least of all.
const RUN_FROM: &[&str] = &["/usr", "/bin", "/lib", "/lib32", "/lib64"];

/// The services that work on the left root, as the brain does.
const LEFT: [&str; 4] = ["psync-brain", "psync-fullsync", "psync-check", "psync-checksum"];

/// All drop-ins of the pair. The file is the same on both hosts, and which side this host is shows only in what the
/// administrator enables; so both sides get theirs. What cannot be written into a unit is told and left out.
pub fn drop_ins(pair: &str, file: &Path, settings: &Settings, complain: &mut impl FnMut(String)) -> Vec<DropIn> {
    let mut made = Vec::new();
    let mut add = |unit: String, unit_lines: String, section: &str, lines: String| {
        let source = file.display();
        let text = format!("# From {source}\n\n[Unit]\nSourcePath={source}\n{unit_lines}\n[{section}]\n{lines}");
        made.push(DropIn { unit, text });
    };

    let mut complain_of = |message: String| complain(format!("{}: {message}", file.display()));
    let mut local = vec![settings.left.root.as_path()];
    if settings.is_local() {
        local.push(&settings.right.root);
    }
    let left = sandbox(&local, settings, &mut complain_of);
    for name in LEFT {
        // The brain waits for a mount that has failed; the others are tried again at their next hour. With PartOf= a mount
        // that is stopped stops it; with StopPropagatedFrom= one that fails again, while it waits, would too.
        let mounts = if name == "psync-brain" { wanted_mounts(&local, "PartOf") } else { left.mounts.clone() };
        let mut service = left.service.clone();
        if settings.program.banned.is_some() {
            service.push_str("# A banned program may be anybody's.\nProtectProc=default\n");
        }
        add(format!("{name}@{pair}.service"), mounts, "Service", service);
    }
    let right = sandbox(&[&settings.right.root], settings, &mut complain_of);
    add(
        format!("psync-agent@{pair}.service"),
        wanted_mounts(&[&settings.right.root], "StopPropagatedFrom"),
        "Service",
        right.service,
    );

    if !settings.is_local() {
        add(format!("psync-link@{pair}.service"), String::new(), "Service", line(pair, settings, &mut complain_of));
    }

    let expression = |text: &String| vec![Calendar::Expression(text.clone())];
    for (key, name, due) in [
        ("fullsync", "psync-fullsync", settings.schedule.fullsync.clone()),
        ("timers.check", "psync-check", expression(&settings.schedule.timers.check)),
        ("timers.checksum", "psync-checksum", expression(&settings.schedule.timers.checksum)),
    ] {
        let times: Vec<String> = due
            .iter()
            .filter_map(|calendar| {
                on_calendar(calendar).unwrap_or_else(|why| {
                    complain_of(format!("{key}: {why}"));
                    None
                })
            })
            .collect();
        // A timer without any time is an error to systemd; one whose condition fails is simply not started.
        let never =
            if times.is_empty() { "# No time is given: it never starts.\nConditionPathExists=!/\n" } else { "" };
        // The first line takes the unit's own calendar away.
        let mut lines = if times.is_empty() { String::new() } else { "OnCalendar=\n".to_string() };
        lines.extend(times.iter().map(|time| format!("OnCalendar={time}\n")));
        add(format!("{name}@{pair}.timer"), never.to_string(), "Timer", lines);
    }
    made
}

/// The mounts are there before the service starts, or it says itself what is missing; see [`mount_units`].
fn wanted_mounts(roots: &[&Path], stops: &str) -> String {
    let mut units: Vec<String> = roots.iter().flat_map(|root| mount_units::of(root)).collect();
    let mut seen = BTreeSet::new();
    units.retain(|unit| seen.insert(unit.clone()));
    let units = units.join(" ");
    match units.is_empty() {
        true => String::new(),
        false => format!("Wants={units}\nAfter={units}\n{stops}={units}\n"),
    }
}

/// What a service needs to reach its roots.
struct Sandbox {
    mounts: String,
    service: String,
}

fn sandbox(roots: &[&Path], settings: &Settings, complain: &mut impl FnMut(String)) -> Sandbox {
    let (mut mounts, mut service) = (String::new(), String::new());
    for root in roots {
        match quoted("", root) {
            Ok(word) => mounts.push_str(&format!("RequiresMountsFor={word}\n")),
            Err(why) => complain(why),
        }
    }
    let mut written: Vec<PathBuf> = roots.iter().map(|r| r.to_path_buf()).collect();
    // The file may be rotated away, so it is the directory that must be writable.
    if let Target::File(file) = Target::of(&settings.program.log) {
        written.extend(file.parent().map(Path::to_path_buf));
    }
    for path in &written {
        // With a dash: psync itself says what is missing, in words better than those of a failed mount.
        if let Ok(word) = quoted("-", path) {
            service.push_str(&format!("ReadWritePaths={word}\n"));
            // A mount of its own, which the unit's `NoExecPaths=/` does not cover.
            if !RUN_FROM.iter().any(|programs| path.starts_with(programs)) {
                service.push_str(&format!("NoExecPaths={word}\n"));
            }
        }
    }
    service.extend(uncovered(&written).into_iter().map(|line| line + "\n"));
    if settings.shared.attributes.samba_acls {
        // The kernel asks for it when security.NTACL is written.
        service.push_str("CapabilityBoundingSet=CAP_SYS_ADMIN\n");
    }
    Sandbox { mounts, service }
}

/// The line of the pair: a user of its own, since one user's processes can look into each other, and the files of ssh that
/// the unit does not name.
fn line(pair: &str, settings: &Settings, complain: &mut impl FnMut(String)) -> String {
    let mut lines = format!("User={}\n", line_user(pair));
    for file in ssh_files(settings) {
        let id = credential(pair, &file);
        if !id.starts_with("file-") {
            continue;
        }
        if file.chars().any(char::is_control) || file.split('/').any(|part| part == "..") {
            complain(format!("ssh_options: {file:?}: no unit can name this file"));
            continue;
        }
        // A missing one is told when the line is used.
        lines.push_str(&format!("LoadCredential={id}:{}\nSetCredential={id}:-\n", file.replace('%', "%%")));
    }
    lines
}

/// A name that a user may have, at most 31 bytes, and nobody else has.
fn line_user(pair: &str) -> String {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
    match pair.len() <= 20 && pair.bytes().all(plain) {
        true => format!("psync-l-{pair}"),
        // With a dash before it no pair's name makes the same.
        false => format!("psync-l-_{}", &blake3::hash(pair.as_bytes()).to_hex()[..20]),
    }
}

/// What the units hide, taken back where a path lies in it.
fn uncovered(paths: &[PathBuf]) -> Vec<String> {
    let mut lines = Vec::new();
    let below = |hidden: &[&str]| paths.iter().any(|p| hidden.iter().any(|h| p.starts_with(h)));
    let above = |hidden: &[&str]| paths.iter().any(|p| hidden.iter().any(|h| Path::new(h).starts_with(p)));
    let homes = ["/home", "/root", "/run/user"];
    if above(&homes) {
        lines.push("ProtectHome=no".to_string());
    } else if below(&homes) {
        lines.push("ProtectHome=read-only".to_string());
    }
    for (hidden, line) in [(["/tmp", "/var/tmp"].as_slice(), "PrivateTmp=no"), (&["/dev"], "PrivateDevices=no")] {
        if above(hidden) || below(hidden) {
            lines.push(line.to_string());
        }
    }
    let covers = |one: &&&str| above(&[one]) || below(&[one]);
    if HIDDEN.iter().any(|one| covers(&one)) {
        // The first line takes the unit's own list away.
        let rest: Vec<String> = HIDDEN.iter().filter(|one| !covers(one)).map(|one| format!("-{one}")).collect();
        lines.extend(["InaccessiblePaths=".to_string(), format!("InaccessiblePaths={}", rest.join(" "))]);
    }
    lines
}

/// A path as one word of a unit's list, after a prefix.
fn quoted(prefix: &str, path: &Path) -> Result<String, String> {
    let text = path.to_str().ok_or_else(|| format!("{}: is not UTF-8", path.display()))?;
    if text.chars().any(char::is_control) {
        return Err(format!("{text:?}: no unit can name a path with a control character in it"));
    }
    // systemd takes no path that it would have to resolve.
    if text.split('/').any(|part| part == "..") {
        return Err(format!("{text}: contains `..`"));
    }
    let mut word = format!("\"{prefix}");
    for c in text.chars() {
        match c {
            '"' | '\\' => word.extend(['\\', c]),
            '%' => word.push_str("%%"),
            _ => word.push(c),
        }
    }
    word.push('"');
    Ok(word)
}
