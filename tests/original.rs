//! docs/original.md: every test that it names is one, and every option and key of the original has its row.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn document() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/original.md")).expect("the document")
}

/// Rows of tables as cells, without the heads. A `\|` is no border.
fn rows(text: &str) -> Vec<Vec<String>> {
    let cells = |line: &str| -> Vec<String> {
        let line = line.replace("\\|", "\u{1}");
        line.trim_matches('|').split('|').map(|cell| cell.trim().replace('\u{1}', "|")).collect()
    };
    let lines: Vec<&str> = text.lines().collect();
    let is_row = |n: usize| lines[n].starts_with('|') && !lines[n].starts_with("|---");
    let is_head = |n: usize| lines.get(n + 1).is_some_and(|next| next.starts_with("|---"));
    (0..lines.len()).filter(|n| is_row(*n) && !is_head(*n)).map(|n| cells(lines[n])).collect()
}

/// What stands between backticks.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// The names of all tests of the repository.
fn tests() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut directories =
        vec!["src", "tests"].into_iter().map(|d| Path::new(env!("CARGO_MANIFEST_DIR")).join(d)).collect::<Vec<_>>();
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).expect("a directory").flatten() {
            let path = entry.path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).expect("a source");
                let after = text.split("#[test]").skip(1);
                let name = |rest: &str| rest.split_once("fn ")?.1.split(['(', '<']).next().map(str::to_owned);
                found.extend(after.filter_map(name));
            }
        }
    }
    found
}

#[test]
fn every_row_names_tests_that_exist() {
    let (text, tests) = (document(), tests());
    let rows = rows(&text);
    assert!(rows.len() > 60 && tests.len() > 300, "{} rows, {} tests", rows.len(), tests.len());
    for row in rows {
        assert_eq!(row.len(), 3, "{row:?}");
        let named = quoted(&row[2]);
        assert!(!named.is_empty(), "no test is named: {row:?}");
        for name in named {
            assert!(tests.contains(name), "there is no test `{name}`: {row:?}");
        }
    }
}

#[test]
fn every_option_and_key_has_its_row() {
    let options = [
        "--help",
        "--remote-host",
        "--debug",
        "--tempfiles",
        "--excludes",
        "--rsync-excludes",
        "--extra",
        "--banned",
        "--translate",
        "--dry-run",
        "--sync-only",
        "--skip-initial-sync",
        "--force",
    ];
    let keys = [
        "safesuffix",
        "debug",
        "event_interval",
        "force",
        "dryrun",
        "first_sync_only",
        "skip_initial_sync",
        "banned",
        "translate",
        "rsync_excludes",
        "rsync_extra",
        "inotify_extra",
        "tempfiles",
        "excludes",
        "separator",
        "fullsync",
        "pending_lifetime",
        "pending_events",
        "ssh_options",
        "rsync_event_recurse",
        "alert_threshold",
        "rsync_style = 1",
        "rsync_style = 2",
        "rsync_style = 3",
        "acl_from_left_only",
        "timeout",
        "itimeout",
        "etimeout",
        "maxtimeout",
    ];
    let text = document();
    let rows = rows(&text);
    let first: BTreeSet<&str> = rows.iter().flat_map(|row| quoted(&row[0])).collect();
    for word in options.iter().chain(&keys) {
        assert!(first.contains(word), "`{word}` has no row");
    }
}
