//! Killed in the middle of what takes many calls: trees that move and go in pieces where directories cannot be renamed (the lower
//! layer of an overlay), and links that are made anew under a project's quota.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use super::trace::{self, Victim, trace};
use crate::support::mounts::{Mounted, in_a_file, mount};
use crate::support::users::*;
use crate::support::{Pair, Tree, tools};

/// Calls that change a name: between these lies every state that a kill can leave.
const NAMES: &[&str] = &["renameat2", "renameat", "mkdirat", "unlinkat", "symlinkat"];
/// Kills of one scene, spread over its calls.
const KILLS: usize = 16;

/// A scene: where its file system is mounted, what users do, what must be there in the end.
struct Scene {
    mounted: fn(&Pair, usize) -> Option<Mounted>,
    prepare: fn(&Path),
    change: fn(&Path, &Path),
    wanted: &'static [(&'static str, &'static str)],
    gone: &'static [&'static str],
}

fn root(pair: &Pair, side: usize) -> &Path {
    pair.sides()[side]
}

/// Plays the scene with the special place on this side, and a kill at the n-th call of the victim.
fn play(scene: &Scene, side: usize, victim: Victim, kill_at: Option<usize>) -> Option<Vec<&'static str>> {
    let mut pair = Pair::new();
    (scene.prepare)(root(&pair, 1 - side));
    let _mounted = (scene.mounted)(&pair, side)?;
    if let Some(disk) = Some(pair.beside("disk")).filter(|disk| disk.exists()) {
        *[&mut pair.left, &mut pair.right][side] = disk.join("root");
    }
    pair.sync();
    (scene.change)(root(&pair, 1 - side), root(&pair, side));
    let traced = trace(&pair, victim, kill_at);
    let at = traced.calls.last().copied().unwrap_or_default();
    let result = catch_unwind(AssertUnwindSafe(|| {
        check(scene, &pair, &pair.sync());
        check(scene, &pair, &pair.sync());
    }));
    if let Err(panic) = result {
        let text = panic.downcast_ref::<String>().map_or("a failed check", String::as_str);
        panic!("side {side}, {victim:?} killed at call {kill_at:?} ({at}): {text}");
    }
    Some(traced.calls)
}

fn check(scene: &Scene, pair: &Pair, tree: &Tree) {
    for (path, text) in scene.wanted {
        let is = fs::read_to_string(pair.left.join(path)).ok();
        let all = tree.paths();
        assert!(is.as_deref() == Some(*text), "{path} is {is:?}, not {text:?}; there are {all:?}{}", pair.story());
    }
    let back: Vec<_> = scene.gone.iter().filter(|path| tree.has(path)).collect();
    assert!(back.is_empty(), "came back: {back:?} of {:?}{}", tree.paths(), pair.story());
    let copies: Vec<_> = tree.paths().iter().filter(|path| path.contains("(conflict")).cloned().collect();
    assert!(copies.is_empty(), "conflict copies: {copies:?}{}", pair.story());
    for root in pair.sides() {
        let stage: Vec<_> = fs::read_dir(Pair::own(root).join("stage")).into_iter().flatten().flatten().collect();
        assert!(stage.is_empty(), "left in the stage of {root:?}: {stage:?}{}", pair.story());
    }
}

fn at_many_calls(scene: &Scene) {
    if !trace::allowed() {
        return;
    }
    let only: Option<usize> = std::env::var("PSYNC_KILL_AT").ok().and_then(|n| n.parse().ok());
    let mut failures = Vec::new();
    for (side, victim) in [(1, Victim::Right), (0, Victim::Left), (1, Victim::Left)] {
        let Some(calls) = play(scene, side, victim, None) else { return };
        let named: Vec<usize> = (0..calls.len()).filter(|n| NAMES.contains(&calls[*n])).map(|n| n + 1).collect();
        let step = named.len().div_ceil(KILLS).max(1);
        for n in named.into_iter().step_by(step).filter(|n| only.is_none_or(|only| only == *n)) {
            let played = catch_unwind(AssertUnwindSafe(|| play(scene, side, victim, Some(n))));
            if let Err(panic) = played {
                failures.push(panic.downcast_ref::<String>().cloned().unwrap_or_default());
            }
            assert!(failures.len() < 3, "{} failures:\n{}", failures.len(), failures.join("\n\n"));
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n\n"));
}

/// An overlay whose lower layer holds what the other side has.
fn overlay(pair: &Pair, side: usize) -> Option<Mounted> {
    let at = pair.beside("layers");
    let [lower, upper, work] = ["lower", "upper", "work"].map(|name| at.join(name));
    for dir in [&lower, &upper, &work] {
        mkdirs(dir);
    }
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    tools::run(Path::new("/"), "cp", &["-aT", &text(root(pair, 1 - side)), &text(&lower)]);
    let layers =
        format!("lowerdir={},upperdir={},workdir={},redirect_dir=off", text(&lower), text(&upper), text(&work));
    mount("overlay", &["-o", &layers], Path::new("overlay"), root(pair, side))
}

fn two_trees(at: &Path) {
    for name in [
        "old/1",
        "old/2",
        "old/b/3",
        "old/b/4",
        "old/b/c/5",
        "old/z",
        "going/1",
        "going/sub/2",
        "going/sub/3",
        "going/z",
        "stays",
    ] {
        plant(at.join(name), format!("{name}\n"));
    }
    chmod(at.join("old/b"), 0o750);
}

#[test]
fn a_tree_that_moves_in_pieces_is_there_once_whenever_psync_is_killed() {
    at_many_calls(&Scene {
        mounted: overlay,
        prepare: two_trees,
        change: |from, _| rename(from.join("old"), from.join("new")),
        wanted: &[
            ("new/1", "old/1\n"),
            ("new/2", "old/2\n"),
            ("new/b/3", "old/b/3\n"),
            ("new/b/4", "old/b/4\n"),
            ("new/b/c/5", "old/b/c/5\n"),
            ("new/z", "old/z\n"),
            ("going/sub/2", "going/sub/2\n"),
        ],
        gone: &["old"],
    });
}

#[test]
fn a_tree_that_goes_in_pieces_is_gone_whenever_psync_is_killed() {
    at_many_calls(&Scene {
        mounted: overlay,
        prepare: two_trees,
        change: |from, _| remove_tree(from.join("going")),
        wanted: &[("old/b/c/5", "old/b/c/5\n"), ("stays", "stays\n")],
        gone: &["going"],
    });
}

/// Somebody takes the deletion back before psync runs again: what had gone in pieces comes back from him.
#[test]
fn what_had_gone_in_pieces_is_no_deletion_of_a_users() {
    if !trace::allowed() {
        return;
    }
    for n in 0..60 {
        let pair = Pair::new();
        two_trees(&pair.left);
        let Some(_mounted) = overlay(&pair, 1) else { return };
        pair.sync();
        let aside = pair.beside("aside");
        rename(pair.left.join("going"), &aside);
        let traced = trace(&pair, Victim::Right, Some(20 + n));
        if traced.calls.len() < 20 + n {
            break;
        }
        if !NAMES.contains(traced.calls.last().unwrap()) {
            continue;
        }
        rename(&aside, pair.left.join("going"));
        let tree = pair.sync();
        let there = ["going/1", "going/sub/2", "going/sub/3", "going/z"].iter().filter(|name| tree.has(name)).count();
        // Unless it was carried out and known to be so: then it is a new tree.
        assert_eq!(there, 4, "killed at call {}: {:?}{}", 20 + n, tree.paths(), pair.story());
    }
}

// ---- links under a project's quota

fn project(pair: &Pair, side: usize) -> Option<Mounted> {
    if !tools::has("chattr") {
        return None;
    }
    let disk = pair.beside("disk");
    let mounted = in_a_file("xfs", &["-q"], &disk, 320)?;
    let here = disk.join("root");
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    tools::run(Path::new("/"), "cp", &["-a", &text(root(pair, 1 - side)), &text(&here)]);
    tools::run(Path::new("/"), "chattr", &["-p", "42", "+P", &text(&here.join("dept"))]);
    Some(mounted)
}

#[test]
fn a_link_that_is_made_anew_is_whole_whenever_psync_is_killed() {
    at_many_calls(&Scene {
        mounted: project,
        prepare: |at| {
            plant(at.join("dept/file"), "file\n");
            plant(at.join("dept/other"), "other\n");
            symlink("file", at.join("dept/link"));
        },
        change: |from, _| {
            remove(from.join("dept/link"));
            symlink("other", from.join("dept/link"));
            chown_link(from.join("dept/link"), 4711);
            symlink("other", from.join("dept/new"));
            chown_link(from.join("dept/new"), 4711);
        },
        wanted: &[("dept/link", "other\n"), ("dept/new", "other\n")],
        gone: &[],
    });
}

fn chown_link(at: impl AsRef<Path>, user: u32) {
    std::os::unix::fs::lchown(at, Some(user), Some(user)).unwrap();
}
