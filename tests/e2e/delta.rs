//! Big files that the other side has already, in part: what of them travels.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::signal::Signal;

use crate::support::line::Line;
use crate::support::service::Service;
use crate::support::users::*;
use crate::support::{PATIENCE, Pair, poll, process};

const MIB: usize = 1 << 20;

/// A pair over a line that counts, with nothing packed: noise would hardly get smaller anyway.
fn pair_over_a_line() -> (Pair, Service, Line) {
    let pair = Pair::new();
    let service = Service::start(&pair, "");
    let line = Line::new(&pair, &service.run);
    let command = Service::connect(&line.run);
    (pair.with(&["--proxy-command", &command]), service, line)
}

/// By a new file that comes from outside the root: one that is made within would be carried over itself.
fn insert_in_front(path: &Path, bytes: &[u8]) {
    let beside = path.parent().unwrap().with_file_name("new");
    write(&beside, [bytes, &fs::read(path).unwrap()].concat());
    rename(beside, path);
}

#[test]
fn of_a_changed_big_file_only_the_change_travels() {
    let (mut pair, mut service, line) = pair_over_a_line();
    write(pair.left.join("big"), noise(1, 24 * MIB));
    pair.run();
    pair.settle();
    type Change = fn(&Path);
    // What is done, and the most bytes that it may cost on the line, both ways together.
    let changes: &[(&str, Change, u64)] = &[
        ("in place", |at| write_at(at, 10 * MIB as u64 + 5, "in place"), 100_000),
        ("appended", |at| append(at, noise(2, 100_000)), 200_000),
        ("inserted in front", |at| insert_in_front(at, &noise(3, 100_000)), 200_000),
        ("cut shorter", |at| truncate(at, 20 * MIB as u64 + 17), 100_000),
        (
            "in place twice",
            |at| {
                write_at(at, 3, "here");
                write_at(at, 17 * MIB as u64, "and there");
            },
            150_000,
        ),
        ("all else", |at| write(at, noise(4, 5 * MIB)), 5 * MIB as u64 + 200_000),
        ("a hole at the end", |at| truncate(at, 40 * MIB as u64), 100_000),
    ];
    for side in [pair.left.clone(), pair.right.clone()] {
        write(side.join("big"), noise(1, 24 * MIB));
        pair.settle();
        for (what, change, most) in changes {
            let before = line.carried();
            change(&side.join("big"));
            pair.settle();
            let carried: u64 = line.carried().iter().zip(before).map(|(now, before)| now - before).sum();
            assert!(carried <= *most, "{what} in {side:?}: {carried} bytes on the line{}", pair.story());
        }
        for side in pair.sides() {
            let blocks = fs::metadata(side.join("big")).unwrap().blocks();
            assert!(blocks * 512 < 6 * MIB as u64, "the hole is filled: {blocks} blocks");
        }
    }
    pair.stop();
    service.stop();
}

/// Cut in the middle, a big file goes on where it was: by a cut of the line, a killed agent, a killed brain.
#[test]
fn a_big_file_that_was_cut_off_does_not_begin_again() {
    for (what, direction) in [("line", 0), ("line", 1), ("agent", 0), ("brain", 0), ("brain", 1)] {
        let (mut pair, mut service, line) = pair_over_a_line();
        pair.run();
        pair.settle();
        let size = 48 * MIB as u64;
        line.slow_down(40_000_000);
        let from = [&pair.left, &pair.right][direction].clone();
        let start = line.carried()[direction];
        write(from.join("big"), noise(1, size as usize));
        let half = poll(PATIENCE, || line.carried()[direction] - start >= size / 2);
        assert!(half, "{what}: half of it never came{}", pair.story());
        match what {
            "line" => line.cut(),
            "agent" => {
                process::send(service.pid(), Signal::SIGKILL);
                service.forget();
                service.again();
            }
            _ => {
                pair.kill9_all();
            }
        }
        line.slow_down(0);
        line.mend();
        let before = line.carried()[direction];
        if what == "brain" {
            pair.run();
        }
        pair.settle();
        let carried = line.carried()[direction] - before;
        // Half of it, what was in the pipes, and the sums.
        assert!(carried < size * 7 / 10, "{what} {direction}: {carried} more bytes for {size}{}", pair.story());
        for side in pair.sides() {
            let stage = fs::read_dir(Pair::own(side).join("stage")).unwrap().count();
            assert_eq!(stage, 0, "{what} {direction}: something is left in the stage of {side:?}");
        }
        pair.stop();
        service.stop();
    }
}
