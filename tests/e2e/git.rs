//! git in the tree: thousands of small files, locks, renames and packs, and a program that tells if a byte is wrong.

use std::path::Path;

use crate::support::tools::{has, run};
use crate::support::users::*;
use crate::support::{Pair, tools};

fn git(directory: &Path, arguments: &str) -> String {
    run(directory, "git", &arguments.split(' ').collect::<Vec<_>>())
}

/// Three hundred files in fifteen directories, changed a little for each `generation`.
fn edit(repository: &Path, generation: u64) {
    for n in (0..300u64).filter(|n| generation == 0 || n % 7 == generation % 7) {
        let lines: String =
            (0..20).map(|l| format!("line {l} of {n}, {}\n", if l < 10 { 0 } else { generation })).collect();
        plant(repository.join(format!("dir{}/file{n}.txt", n % 15)), lines);
    }
    write(repository.join(format!("only-{generation}")), format!("{generation}\n"));
}

fn commit(repository: &Path, generation: u64) {
    edit(repository, generation);
    git(repository, "add -A");
    git(repository, &format!("commit -q -m {generation}"));
}

/// Every repository is whole and clean on both sides.
fn check(pair: &mut Pair, repositories: &[&str], after: &str) {
    let tree = pair.settle();
    for root in pair.sides() {
        for name in repositories {
            let repository = root.join(name);
            let report = git(&repository, "fsck --strict --no-dangling");
            assert!(report.is_empty(), "after {after} in {repository:?}: {report}");
            let status = git(&repository, "--no-optional-locks status --porcelain");
            assert!(status.is_empty(), "after {after} in {repository:?}:\n{status}{}", pair.story());
        }
    }
    let strange: Vec<_> =
        tree.paths().into_iter().filter(|p| p.contains("(conflict") || p.ends_with(".lock")).collect();
    assert!(strange.is_empty(), "after {after}: {strange:?}");
}

#[test]
fn git_works_on_either_side() {
    if !tools::has("git") {
        return;
    }
    let mut pair = Pair::start(&[]);
    let [left, right] = [pair.left.join("repo"), pair.right.join("repo")];
    mkdir(&left);
    git(&left, "init -q -b main");
    commit(&left, 0);
    check(&mut pair, &["repo"], "the first commit");

    let mut generation = 0;
    for (repository, side) in [(&left, "left"), (&right, "right"), (&left, "left again")] {
        let next = generation + 1;
        git(repository, &format!("checkout -q -b topic{next}"));
        commit(repository, next);
        check(&mut pair, &["repo"], &format!("a commit on a branch, {side}"));

        git(repository, "checkout -q main");
        write(repository.join(format!("main-{next}")), "main goes on\n");
        git(repository, "add -A");
        git(repository, "commit -q -m main");
        git(repository, &format!("merge -q topic{next}"));
        check(&mut pair, &["repo"], &format!("a merge, {side}"));

        git(repository, &format!("checkout -q topic{next}"));
        git(repository, "checkout -q main");
        check(&mut pair, &["repo"], &format!("checkouts, {side}"));

        git(repository, "gc -q --prune=now");
        check(&mut pair, &["repo"], &format!("gc, {side}"));

        git(repository, &format!("branch -q -D topic{next}"));
        git(repository, "reset -q --hard HEAD~1");
        check(&mut pair, &["repo"], &format!("a reset, {side}"));
        generation = next;
    }
    pair.stop();
}

#[test]
fn clones_made_on_the_spot_arrive_whole() {
    if !has("git") {
        return;
    }
    let mut pair = Pair::new();
    let origin = pair.beside("origin");
    mkdir(&origin);
    git(&origin, "init -q -b main");
    for generation in 0..4 {
        commit(&origin, generation);
    }
    // One lies there before psync starts, two are made under its eyes, on both sides at once.
    git(&pair.left, "clone -q --no-hardlinks ../origin before");
    pair.run();
    std::thread::scope(|scope| {
        scope.spawn(|| git(&pair.left, "clone -q --no-hardlinks ../origin from-left"));
        scope.spawn(|| git(&pair.right, "clone -q --no-hardlinks ../origin from-right"));
    });
    check(&mut pair, &["before", "from-left", "from-right"], "cloning");

    // Work in two clones at the same time, one on each side.
    std::thread::scope(|scope| {
        scope.spawn(|| commit(&pair.left.join("from-right"), 5));
        scope.spawn(|| commit(&pair.right.join("from-left"), 6));
    });
    check(&mut pair, &["before", "from-left", "from-right"], "commits on both sides");
    pair.stop();
}
