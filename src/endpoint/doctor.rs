//! A side is examined: what `psync doctor` asks of each.

use std::fs;
use std::io::ErrorKind;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::filter::Filter;
use crate::protocol::survey::Examination;
use crate::protocol::survey::Finding;
use crate::replica::disk::Disk;
use crate::sys::confine::extent;
use crate::watch::inotify::InotifyTree;

/// The kernel's bounds on watches: of the machine, and of the user's namespace.
const WATCHES: [&str; 2] = ["/proc/sys/fs/inotify/max_user_watches", "/proc/sys/user/max_inotify_watches"];
const QUEUE: &str = "/proc/sys/fs/inotify/max_queued_events";
/// Fewer events than this, and a busy moment overflows.
const QUEUED: u64 = 16_384;

/// Looks at all that this side can tell by itself; with `rsync` at that program too.
pub fn examine<D: Disk>(disk: &D, filter: &Filter, rsync: bool) -> Examination {
    let mut findings = disk.probe();
    findings.push(instance());
    findings.extend(watches(disk.directories()));
    findings.push(queue());
    if rsync {
        findings.extend([program(), confinement()]);
    }
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Examination {
        program: env!("CARGO_PKG_VERSION").to_owned(),
        clock: i64::try_from(clock.as_millis()).unwrap_or(i64::MAX),
        root_rights: rustix::process::geteuid().is_root(),
        archive: disk.has_archive(),
        filters: filter.digest(),
        findings,
    }
}

fn instance() -> Finding {
    match InotifyTree::start(|_| {}, |_| false) {
        Ok(tree) => {
            tree.stop();
            Finding::ok("inotify", "can be had")
        }
        Err(error) => Finding::wrong(
            "inotify",
            format!("cannot be had: {error}"),
            "raise fs.inotify.max_user_instances (sysctl), and user.max_inotify_instances if that is less",
        ),
    }
}

fn watches((directories, all): (u64, bool)) -> Option<Finding> {
    let (limit, path) =
        WATCHES.iter().filter_map(|path| number(path).map(|limit| (limit, *path))).min_by_key(|(limit, _)| *limit)?;
    let key = path.trim_start_matches("/proc/sys/").replace('/', ".");
    let more = if all { "" } else { "more than " };
    let found = format!("{more}{directories} directories, {limit} watches allowed ({key})");
    // Others of the same user, the other side of a pair on this host among them, need some too.
    Some(match directories.saturating_add(directories / 10) > limit {
        true => Finding::wrong(
            "watches",
            found,
            format!("sysctl -w {key}={}, and in /etc/sysctl.d", directories * 2 + 8192),
        ),
        false => Finding::ok("watches", found),
    })
}

fn queue() -> Finding {
    match number(QUEUE) {
        Some(events) if events < QUEUED => Finding::wrong(
            "events",
            format!("{events} may wait (fs.inotify.max_queued_events)"),
            format!(
                "sysctl -w fs.inotify.max_queued_events={}, and in /etc/sysctl.d: an overflow costs a scan",
                QUEUED * 8
            ),
        ),
        Some(events) => Finding::ok("events", format!("{events} may wait")),
        None => Finding::ok("events", format!("{QUEUE} cannot be read")),
    }
}

/// The rsync of this host.
fn program() -> Finding {
    let wrong = |found: String| {
        Finding::wrong(
            "rsync",
            found,
            "install rsync on this host, or set transfer = \"stream\" in the pair's file on both",
        )
    };
    match Command::new("rsync").arg("--version").stdin(Stdio::null()).output() {
        Ok(said) if said.status.success() => {
            let text = String::from_utf8_lossy(&said.stdout);
            let words: Vec<&str> = text.lines().next().unwrap_or_default().split_whitespace().collect();
            Finding::ok("rsync", words.join(" "))
        }
        Ok(said) => wrong(format!("`rsync --version` fails: {}", said.status)),
        Err(error) if error.kind() == ErrorKind::NotFound => wrong("is not installed".to_owned()),
        Err(error) => wrong(format!("cannot be run: {error}")),
    }
}

/// How the rsync that receives is kept from all that does not concern it.
fn confinement() -> Finding {
    Finding::ok("rsync's sandbox", extent().1)
}

fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_watches_are_told_with_the_number_that_would_do() {
        let limit = number(WATCHES[0]).min(number(WATCHES[1])).expect("limits");
        assert!(watches((1, true)).expect("limits").ok);
        let wrong = watches((limit, true)).expect("limits");
        assert!(!wrong.ok && wrong.mend.contains(&format!("={}", limit * 2 + 8192)), "{wrong:?}");
    }
}
