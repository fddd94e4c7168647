//! Settings that change what is done, each by its effect.

use crate::support::users::*;
use crate::support::{PATIENCE, Pair, poll};

fn trashed(pair: &Pair) -> usize {
    std::fs::read_dir(Pair::own(&pair.right).join("trash")).map_or(0, |entries| entries.count())
}

#[test]
fn the_trash_keeps_what_was_replaced_for_trash_days() {
    for (days, kept) in [(7, true), (0, false)] {
        let pair = Pair::new();
        let file = pair.beside("psync.toml");
        write(&file, format!("trash_days = {days}\n"));
        let mut pair = pair.with(&["--config", file.to_str().unwrap()]);
        write(pair.left.join("file"), "one\n");
        pair.run();
        write(pair.left.join("file"), "two, longer\n");
        let replaced = poll(PATIENCE, || read(pair.right.join("file")) == "two, longer\n");
        assert!(replaced, "{}", pair.story());
        if kept {
            assert!(poll(PATIENCE, || trashed(&pair) == 1), "{} in the trash{}", trashed(&pair), pair.story());
        } else {
            assert!(poll(PATIENCE, || trashed(&pair) == 0), "{} in the trash{}", trashed(&pair), pair.story());
        }
        pair.stop();
    }
}

/// Two edits of one file meet: whose version gets the name, and what becomes of the other.
#[test]
fn each_conflict_mode_says_whose_version_gets_the_name() {
    let (early, late) = (1_700_000_000, 1_700_000_100);
    for (setting, [left, right], wins) in [
        ("conflict = 'newest'", [late, early], "left"),
        ("conflict = 'newest'", [early, late], "right"),
        ("conflict = 'left'", [early, late], "left"),
        ("conflict = 'right'", [late, early], "right"),
        ("conflict_copies = 'trash'", [early, late], "right"),
    ] {
        let pair = Pair::new();
        let file = pair.beside("psync.toml");
        write(&file, setting);
        let pair = pair.with(&["--config", file.to_str().unwrap()]);
        write(pair.left.join("report.txt"), "as agreed\n");
        pair.sync();
        for (root, side, time) in [(&pair.left, "left", left), (&pair.right, "right", right)] {
            write(root.join("report.txt"), format!("of the {side}\n"));
            touch(root.join("report.txt"), time, 0);
        }
        let tree = pair.sync();
        let loses = if wins == "left" { "right" } else { "left" };
        assert_eq!(read(pair.left.join("report.txt")), format!("of the {wins}\n"), "{setting}{}", pair.story());
        let copies: Vec<String> = tree.paths().into_iter().filter(|path| path != "report.txt").collect();
        if setting.starts_with("conflict_copies") {
            assert!(copies.is_empty(), "{setting}: {copies:?}");
            let kept = std::fs::read_dir(Pair::own(&pair.left).join("trash")).unwrap();
            let kept: Vec<String> = kept.map(|entry| read(entry.unwrap().path())).collect();
            assert_eq!(kept, [format!("of the {loses}\n")], "{setting}{}", pair.story());
        } else {
            assert!(copies.len() == 1 && copies[0].starts_with(&format!("report (conflict {loses} ")), "{copies:?}");
            assert_eq!(read(pair.left.join(&copies[0])), format!("of the {loses}\n"), "{setting}");
        }
    }
}

#[test]
fn a_right_side_that_never_gets_ready_fails_the_start() {
    let pair = Pair::new();
    let file = pair.beside("psync.toml");
    write(&file, "itimeout = 1\n");
    let pair = pair.with(&["--config", file.to_str().unwrap(), "--proxy-command", "exec sleep 100"]);
    let start = std::time::Instant::now();
    let once = pair.sync_once();
    assert_eq!(once.code(), 2, "{}", once.stderr);
    assert!(start.elapsed() >= std::time::Duration::from_secs(1) && !once.stderr.is_empty(), "{}", once.stderr);
}

#[test]
fn translate_looks_for_contents_under_another_name() {
    let mut pair = Pair::start(&["-T", "seen:real"]);
    plant(pair.left.join("seen/file"), "one\n");
    plant(pair.left.join("real/file"), "one\n");
    pair.settle();
    // What is written under the one name is looked for under the other, where nothing changed.
    append(pair.left.join("seen/file"), "two\n");
    for n in 0..3 {
        write(pair.left.join(format!("mark{n}")), "later\n");
        assert!(poll(PATIENCE, || pair.right.join(format!("mark{n}")).exists()), "{}", pair.story());
    }
    assert_eq!(read(pair.right.join("seen/file")), "one\n", "{}", pair.story());
    pair.stop();
    // The scan of the next start asks no names.
    assert_eq!(read(pair.right.join("seen/file")), "one\n");
    pair.sync();
    assert_eq!(read(pair.right.join("seen/file")), "one\ntwo\n", "{}", pair.story());
}

#[test]
fn rsync_excludes_are_left_out_of_full_syncs_and_travel_live() {
    let options = ["--rsync-excludes", "/cache/", "--rsync-excludes", "*.iso"];
    let mut pair = Pair::new().with(&options);
    plant(pair.left.join("cache/old"), "left\n");
    plant(pair.left.join("kept/cache/old"), "not at the top\n");
    plant(pair.left.join("kept/big.iso"), "left\n");
    plant(pair.right.join("kept/right.iso"), "right\n");
    plant(pair.right.join("cache/other"), "right\n");
    pair.run();
    let there = |pair: &Pair, name: &str| pair.right.join(name).exists();
    assert!(there(&pair, "kept/cache/old"), "{}", pair.story());
    assert!(!there(&pair, "cache/old") && !there(&pair, "kept/big.iso"), "{}", pair.story());
    assert!(!pair.left.join("kept/right.iso").exists() && !pair.left.join("cache/other").exists());
    // What happens while psync runs travels.
    write(pair.left.join("kept/live.iso"), "live\n");
    write(pair.right.join("kept/right.iso"), "right, changed\n");
    assert!(
        poll(PATIENCE, || there(&pair, "kept/live.iso") && pair.left.join("kept/right.iso").exists()),
        "{}",
        pair.story()
    );
    pair.stop();
    // What happens while it does not run is left as it is: neither a deletion nor a change is found.
    remove(pair.right.join("kept/live.iso"));
    write(pair.left.join("kept/right.iso"), "right, changed again\n");
    write(pair.left.join("kept/other"), "other\n");
    pair.run();
    assert!(there(&pair, "kept/other") && pair.left.join("kept/live.iso").exists(), "{}", pair.story());
    assert_eq!(read(pair.right.join("kept/right.iso")), "right, changed\n", "{}", pair.story());
    pair.stop();
    // Without the patterns all is met again.
    let mut pair = pair.without(&options);
    pair.run();
    pair.settle();
    assert!(
        there(&pair, "cache/old") && there(&pair, "kept/big.iso") && !there(&pair, "kept/live.iso"),
        "{}",
        pair.story()
    );
    assert_eq!(read(pair.right.join("kept/right.iso")), "right, changed again\n");
    pair.stop();
}
