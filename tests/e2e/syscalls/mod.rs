//! Killed at every system call that changes something, one after the other, on each side.
//!
//! A short scenario is prepared, then `psync -s` runs under the tracer, which kills one of the two processes as it
//! enters its n-th changing call; then psync runs undisturbed, and the result must be exactly what it would have
//! been. `PSYNC_KILL_AT=N` does it for one n only.

mod pieces;
pub mod trace;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use crate::support::users::*;
use crate::support::{Pair, Tree};
use trace::{Victim, trace};

fn prepare(left: &Path) {
    for name in
        ["keep.txt", "edit.txt", "gone.txt", "gone too.txt", "both.txt", "mode.txt", "dir/a", "dir/sub/b", "old.txt"]
    {
        plant(left.join(name), format!("base of {name}\n"));
    }
    symlink("keep.txt", left.join("link"));
    write(left.join("saved.doc"), noise(6, 50_000));
}

fn change(left: &Path, right: &Path) {
    write(left.join("new left.txt"), "new on the left\n");
    write(left.join("big"), noise(5, 300_000));
    write(left.join("edit.txt"), "edited on the left\n");
    remove(left.join("gone.txt"));
    rename(left.join("dir"), left.join("moved"));
    chmod(left.join("mode.txt"), 0o600);
    remove(left.join("link"));
    symlink("edit.txt", left.join("link"));
    rename(left.join("saved.doc"), left.join("saved.doc~"));
    write(left.join("saved.doc"), noise(7, 60_000));
    write(left.join("both.txt"), "left, older\n");
    touch(left.join("both.txt"), 1_577_934_245, 0);

    plant(right.join("made/new right.txt"), "new on the right\n");
    write(right.join("dir/a"), "edited on the right\n");
    remove(right.join("gone too.txt"));
    rename(right.join("old.txt"), right.join("older.txt"));
    write(right.join("both.txt"), "right, newer\n");
    touch(right.join("both.txt"), 1_577_934_246, 0);
}

const WANTED: &[(&str, &str)] = &[
    ("both (conflict left 2020-01-02 03.04.05).txt", "left, older\n"),
    ("both.txt", "right, newer\n"),
    ("edit.txt", "edited on the left\n"),
    ("keep.txt", "base of keep.txt\n"),
    ("made/new right.txt", "new on the right\n"),
    ("mode.txt", "base of mode.txt\n"),
    ("moved/a", "edited on the right\n"),
    ("moved/sub/b", "base of dir/sub/b\n"),
    ("new left.txt", "new on the left\n"),
    ("older.txt", "base of old.txt\n"),
];

fn check(pair: &Pair, tree: &Tree) {
    let mut paths: Vec<_> = WANTED.iter().map(|(path, _)| path.to_string()).collect();
    paths.extend(["big", "link", "made", "moved", "moved/sub", "saved.doc", "saved.doc~"].map(String::from));
    paths.sort();
    let found: Vec<String> = tree.paths().iter().map(ToString::to_string).collect();
    let missing: Vec<_> = paths.iter().filter(|path| !found.contains(path)).collect();
    assert!(missing.is_empty(), "missing {missing:?}{}", pair.story());
    for (path, text) in WANTED {
        let is = read(pair.left.join(path));
        assert!(is == *text, "{path} is {is:?}, not {text:?}; there are {found:?}{}", pair.story());
    }
    assert!(std::fs::read(pair.left.join("big")).unwrap() == noise(5, 300_000), "big is torn");
    let saved = [("saved.doc~", noise(6, 50_000)), ("saved.doc", noise(7, 60_000))];
    assert!(saved.iter().all(|(name, is)| std::fs::read(pair.left.join(name)).unwrap() == *is), "a save is torn");
    assert_eq!(tree.get("mode.txt").unwrap().mode, 0o600);
    assert_eq!(tree.get("link").unwrap().target, b"edit.txt");
    let back: Vec<_> = found.iter().filter(|path| !paths.contains(path)).collect();
    assert!(back.is_empty(), "came back: {back:?}{}", pair.story());
    for root in pair.sides() {
        let stage = std::fs::read_dir(Pair::own(root).join("stage")).into_iter().flatten().count();
        assert_eq!(stage, 0, "something was left in the stage of {root:?}{}", pair.story());
    }
}

/// The whole scenario with a kill at the n-th call. Returns the changing calls that the victim made.
fn scenario(victim: Victim, kill_at: Option<usize>) -> Vec<&'static str> {
    let pair = Pair::new();
    prepare(&pair.left);
    pair.sync();
    change(&pair.left, &pair.right);
    let traced = trace(&pair, victim, kill_at);
    if kill_at.is_none() {
        assert_eq!(traced.code, Some(0), "the undisturbed run failed: {}", read(pair.beside("stderr")));
        check(&pair, &pair.assert_equal());
    }
    let at = traced.calls.last().copied().unwrap_or_default();
    let result = catch_unwind(AssertUnwindSafe(|| {
        check(&pair, &pair.sync());
        if kill_at.is_none_or(|n| n % 8 == 0) {
            check(&pair, &pair.sync());
        }
    }));
    if let Err(panic) = result {
        let text = panic.downcast_ref::<String>().map_or("a failed check", String::as_str);
        panic!("killed at call {kill_at:?} ({at}): {text}");
    }
    traced.calls
}

fn at_every_call(victim: Victim) {
    if !trace::allowed() {
        return;
    }
    if let Some(n) = std::env::var("PSYNC_KILL_AT").ok().and_then(|n| n.parse().ok()) {
        scenario(victim, Some(n));
        return;
    }
    let calls = scenario(victim, None);
    assert!(calls.len() > 20, "only {calls:?}");
    println!("{victim:?}: {} calls that change something: {}", calls.len(), tally(&calls));
    let mut failures = Vec::new();
    for n in 1..=calls.len() {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| scenario(victim, Some(n)))) {
            failures.push(panic.downcast_ref::<String>().cloned().unwrap_or_default());
        }
        assert!(failures.len() < 5, "{victim:?}, {} of {n} kills:\n{}", failures.len(), failures.join("\n\n"));
    }
    let total = calls.len();
    assert!(failures.is_empty(), "{victim:?}, {} of {total} kills:\n{}", failures.len(), failures.join("\n\n"));
}

/// `12 renameat2, 3 mkdirat, ...`
fn tally(calls: &[&'static str]) -> String {
    let mut counts = std::collections::BTreeMap::new();
    calls.iter().for_each(|call| *counts.entry(call).or_insert(0) += 1);
    counts.into_iter().map(|(call, count)| format!("{count} {call}")).collect::<Vec<_>>().join(", ")
}

#[test]
fn the_left_killed_at_every_call_that_changes_something() {
    at_every_call(Victim::Left);
}

#[test]
fn the_right_killed_at_every_call_that_changes_something() {
    at_every_call(Victim::Right);
}
