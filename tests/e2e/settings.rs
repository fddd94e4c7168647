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
