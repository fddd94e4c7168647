//! Power cuts and kills on real file systems, under users of both sides who also hand files over to each other.
//!
//! Each side is a file system in an image of its own. A power cut copies the image while everything is stopped as it stands,
//! and goes on with the copy under another boot id: what was only in memory is gone. A kill ends psync's processes.
//! `PSYNC_TORTURE=CUTS,KILLS` says how many of each; `PSYNC_SEED` is what a run prints; `PSYNC_TORTURE_FS=xfs` one file system.
//! Needs root, loop devices and `unshare`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../e2e/support/mod.rs"]
mod support;

mod machine;
mod oracle;
mod users;

use std::time::{Duration, Instant};

use machine::{Lab, SIDES};
use support::users::Random;
use support::{process, tools};

/// Kinds, `mkfs` options, mount options and size in MiB.
const FILE_SYSTEMS: [(&str, &str, &[&str], &str, u64); 4] = [
    ("ext4", "ext4", &["-q", "-m", "0"], "loop", 96),
    ("writeback", "ext4", &["-q", "-m", "0"], "loop,data=writeback", 96),
    ("xfs", "xfs", &["-q"], "loop", 320),
    ("btrfs", "btrfs", &["-q"], "loop", 192),
];

/// Rounds on the same file systems: more would fill them, and what has no room cannot be equal.
const ROUNDS_OF_A_LAB: usize = 14;

/// What ends the work of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The power fails on these sides.
    Cut([bool; 2]),
    /// psync is killed on these sides.
    Kill([bool; 2]),
}

fn numbers() -> (u64, u64) {
    let asked = std::env::var("PSYNC_TORTURE").unwrap_or_else(|_| "4,8".into());
    let (cuts, kills) = asked.split_once(',').expect("PSYNC_TORTURE=CUTS,KILLS");
    (cuts.trim().parse().unwrap(), kills.trim().parse().unwrap())
}

/// The rounds of a run, in an order of chance.
fn rounds(random: &mut Random) -> Vec<End> {
    let (cuts, kills) = numbers();
    let which = |random: &mut Random| [[true, false], [false, true], [true, true]][random.below(3) as usize];
    let mut all: Vec<End> = (0..cuts).map(|_| End::Cut(which(random))).collect();
    all.extend((0..kills).map(|_| End::Kill(which(random))));
    for n in (1..all.len()).rev() {
        all.swap(n, random.below(n as u64 + 1) as usize);
    }
    all
}

#[test]
fn power_cuts_and_kills_lose_nothing_and_bring_nothing_back() {
    if !process::is_root() || !tools::has("unshare") || !tools::has("mount") {
        return tools::missing("root, mount, unshare");
    }
    let seed = std::env::var("PSYNC_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        now.as_secs()
    });
    println!("PSYNC_SEED={seed}");
    let only = std::env::var("PSYNC_TORTURE_FS").ok();
    let wanted: Vec<_> =
        FILE_SYSTEMS.iter().filter(|(name, ..)| only.as_deref().is_none_or(|only| only == *name)).collect();
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let all = rounds(&mut random);
    let share = all.len().div_ceil(wanted.len());
    for ((name, kind, make, options, size), rounds) in wanted.into_iter().zip(all.chunks(share)) {
        let begun = Instant::now();
        let mut lab = None;
        for (n, end) in rounds.iter().enumerate() {
            if n % ROUNDS_OF_A_LAB == 0 {
                drop(lab.take());
                lab = Lab::new(kind, make, options, *size);
            }
            let Some(lab) = &mut lab else { break };
            let seed = seed.wrapping_add(n as u64 * 1000);
            if let Err(wrong) = round(lab, *end, seed) {
                let kept = lab.keep();
                panic!(
                    "{name}, round {n}, {end:?} (PSYNC_SEED={seed}):\n{}\nkept: {}",
                    wrong.join("\n"),
                    kept.display()
                );
            }
        }
        println!("{name}: {} rounds in {:?}", rounds.len(), begun.elapsed());
    }
}

/// Users work on both sides until the end comes in their midst; then psync starts again, and all is looked at.
fn round(lab: &mut Lab, end: End, seed: u64) -> Result<(), Vec<String>> {
    lab.start();
    lab.settle().map_err(|why| vec![why])?;
    let mut diary = oracle::Diary::new(&lab.roots());
    let mut random = Random(seed | 1);
    let pause = Duration::from_millis(300 + random.below(1500));
    let notes = users::work(lab.roots(), seed, pause, |stopped| match end {
        End::Cut(sides) => lab.cut(sides, stopped),
        End::Kill(sides) => lab.kill(sides),
    });
    diary.learn(notes);
    lab.start();
    lab.settle().map_err(|why| vec![why])?;
    let cut = if let End::Cut(sides) = end { sides } else { [false; 2] };
    let wrong = diary.check(&lab.roots(), cut);
    lab.stop();
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(wrong),
    }
}

/// Which side is which, in words.
fn word(side: usize) -> &'static str {
    SIDES[side]
}
