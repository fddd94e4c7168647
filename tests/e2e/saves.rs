//! How programs save. Each way leaves the document and nothing else, on both sides, without a conflict.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::users::*;
use crate::support::{PATIENCE, Pair, poll, tools};

type Save = fn(document: &Path, text: &str, round: usize);

fn beside(document: &Path, name: &str) -> std::path::PathBuf {
    document.with_file_name(name)
}

const WAYS: &[(&str, Save)] = &[
    ("in-place", |document, text, _| write(document, text)),
    ("truncate-and-write-slowly", |document, text, _| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(document).unwrap();
        for piece in text.as_bytes().chunks(40) {
            file.write_all(piece).unwrap();
        }
        file.sync_all().unwrap();
    }),
    // Write new, rename over: most of GNOME, `sed -i`, rsync.
    ("rename-over", |document, text, round| {
        let new = beside(document, &format!(".goutputstream-{round:06}"));
        write(&new, text);
        rename(new, document);
    }),
    // Word over Samba: new beside, old away, new in, old deleted, and a lock file all the while.
    ("office", |document, text, round| {
        let lock = beside(document, "~$office.docx");
        write(&lock, "owner");
        let (new, old) =
            (beside(document, &format!("~WRD{round:04}.x")), beside(document, &format!("~WRL{round:04}.x")));
        write(&new, text);
        if document.exists() {
            rename(document, &old);
        }
        rename(new, document);
        if old.exists() {
            remove(old);
        }
        remove(lock);
    }),
    // LibreOffice: a lock of its own, a temporary in the same directory, copied over the document.
    ("libre", |document, text, round| {
        let lock = beside(document, ".~lock.libre.docx#");
        write(&lock, "owner");
        let new = beside(document, &format!("lu{round}abc.x"));
        write(&new, text);
        rename(new, document);
        remove(lock);
    }),
    // vim with backup: a probe, the old one away as name~, the document written anew, the backup deleted.
    ("vim", |document, text, _| {
        let (probe, swap, backup) =
            (beside(document, "4913"), beside(document, ".vim.docx.swp"), beside(document, "vim.docx~"));
        write(&swap, "swap");
        write(&probe, "");
        remove(probe);
        if document.exists() {
            rename(document, &backup);
        }
        write(document, text);
        if backup.exists() {
            remove(backup);
        }
        remove(swap);
    }),
    // Emacs with backup-by-copying off: as vim, but the backup stays until the next save replaces it.
    ("backup-link", |document, text, round| {
        let backup = beside(document, &format!("#backup{round}#"));
        if document.exists() {
            hard_link(document, &backup);
        }
        let new = beside(document, &format!(".#new{round}"));
        write(&new, text);
        rename(new, document);
        if backup.exists() {
            remove(backup);
        }
    }),
    // Unlink and write again under the same name.
    ("delete-and-write", |document, text, _| {
        if document.exists() {
            remove(document);
        }
        write(document, text);
    }),
];

#[test]
fn saves_on_alternating_sides_make_no_conflict_and_leave_nothing() {
    let mut pair = Pair::start(&[]);
    let roots = pair.sides().map(Path::to_owned);
    for round in 0..6 {
        let (here, there) = (&roots[round % 2], &roots[(round + 1) % 2]);
        for (way, save) in WAYS {
            let name = format!("{way}.docx");
            let text = format!("{way} {round}\n").repeat(50);
            save(&here.join(&name), &text, round);
        }
        for (way, _) in WAYS {
            let text = format!("{way} {round}\n").repeat(50);
            let file = there.join(format!("{way}.docx"));
            let arrived = poll(Duration::from_secs(30), || std::fs::read(&file).is_ok_and(|t| t == text.as_bytes()));
            assert!(arrived, "{way} in round {round} did not arrive{}", pair.story());
        }
    }
    let tree = pair.settle();
    let mut wanted: Vec<_> = WAYS.iter().map(|(way, _)| format!("{way}.docx")).collect();
    wanted.sort();
    assert_eq!(tree.paths(), wanted, "{}", pair.story());
    pair.stop();
}

#[test]
fn a_real_vim_and_a_real_sed() {
    if !tools::has("vim") {
        return;
    }
    let mut pair = Pair::start(&[]);
    write(pair.left.join("doc.txt"), "line\n");
    pair.settle();
    for round in 0..4 {
        let here = pair.sides()[round % 2].to_owned();
        let backup = if round < 2 { "backupcopy=no" } else { "backupcopy=yes" };
        let edit = format!("set {backup} backup writebackup | %s/$/{round}/ | wq");
        tools::run(&here, "vim", &["-u", "NONE", "-N", "-es", "-c", &edit, "doc.txt"]);
        pair.settle();
        tools::run(&here, "sed", &["-i", "s/^/>/", "doc.txt"]);
        pair.settle();
    }
    assert_eq!(read(pair.left.join("doc.txt")), ">>>>line0123\n");
    let names = pair.settle().paths();
    assert!(names.iter().all(|name| name == "doc.txt" || name == "doc.txt~"), "{names:?}");
    pair.stop();
}

#[test]
fn a_database_written_in_place() {
    if !tools::has("sqlite3") {
        return;
    }
    let mut pair = Pair::start(&[]);
    for round in 0..4 {
        let here = pair.sides()[round % 2].to_owned();
        let sql = format!("create table if not exists t(a, b); insert into t values({round}, hex(randomblob(9000)));");
        tools::run(&here, "sqlite3", &["data.db", &sql]);
        pair.settle();
    }
    for root in pair.sides() {
        let report = tools::run(root, "sqlite3", &["data.db", "pragma integrity_check; select count(*) from t;"]);
        assert_eq!(report, "ok\n4\n");
    }
    assert_eq!(pair.settle().paths(), ["data.db"]);
    pair.stop();
}

/// A document of one version: each line says which.
fn version(number: usize) -> String {
    format!("version {number:06}\n").repeat(3_000)
}

/// Saves that leave the name without a file for a moment; they tell when, and for how long.
type Gap = fn(document: &Path, text: &str) -> (Instant, Duration);

const GAPS: &[(&str, Gap)] = &[
    ("vim", |document, text| {
        let backup = beside(document, "vim.backup");
        let start = Instant::now();
        rename(document, &backup);
        let mut file = OpenOptions::new().write(true).create_new(true).open(document).unwrap();
        let gap = start.elapsed();
        file.write_all(text.as_bytes()).unwrap();
        drop(file);
        remove(backup);
        (start, gap)
    }),
    // The writer takes its time, and the backup stays.
    ("slow", |document, text| {
        let start = Instant::now();
        rename(document, document.with_extension("old"));
        let mut file = OpenOptions::new().write(true).create_new(true).open(document).unwrap();
        let gap = start.elapsed();
        for piece in text.as_bytes().chunks(text.len() / 8) {
            file.write_all(piece).unwrap();
            std::thread::sleep(Duration::from_millis(15));
        }
        (start, gap)
    }),
    ("office", |document, text| {
        let (new, old) = (document.with_extension("wrd"), document.with_extension("wrl"));
        write(&new, text);
        let start = Instant::now();
        rename(document, &old);
        rename(new, document);
        let gap = start.elapsed();
        remove(old);
        (start, gap)
    }),
    // The new one comes a few milliseconds later, as over a network.
    ("late", |document, text| {
        let (new, old) = (document.with_extension("new"), document.with_extension("bak"));
        write(&new, text);
        let start = Instant::now();
        rename(document, &old);
        std::thread::sleep(Duration::from_millis(4));
        rename(new, document);
        (start, start.elapsed())
    }),
];

/// Documents of each kind, and how often each is saved on each side.
const DOCUMENTS: usize = 6;
const ROUNDS: usize = 5;

#[test]
fn a_name_that_is_saved_is_never_missing_nor_torn_on_the_other_side() {
    let mut pair = Pair::new();
    let names: Vec<(String, Gap)> = GAPS
        .iter()
        .flat_map(|(kind, save)| (0..DOCUMENTS).map(move |n| (format!("{kind}{n}/document.txt"), *save)))
        .collect();
    for (name, _) in &names {
        plant(pair.left.join(name), version(0));
    }
    pair.run();
    pair.settle();
    let roots = pair.sides().map(Path::to_owned);
    let (mut number, mut slow, mut looks) = (0, 0, 0);
    for (here, there) in [(&roots[0], &roots[1]), (&roots[1], &roots[0])] {
        let over = AtomicBool::new(false);
        let (seen, gaps) = std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let (mut missing, mut looks) = (Vec::new(), 0);
                while !over.load(Ordering::Relaxed) {
                    for (at, (name, _)) in names.iter().enumerate() {
                        looks += 1;
                        match std::fs::read_to_string(there.join(name)) {
                            Ok(text) => {
                                assert!(text == version(text[8..14].parse().unwrap()), "{name} is torn: {text}")
                            }
                            Err(_) => missing.push((at, Instant::now())),
                        }
                    }
                }
                (missing, looks)
            });
            let mut gaps = Vec::new();
            for _ in 0..ROUNDS {
                number += 1;
                let text = version(number);
                for (at, (name, save)) in names.iter().enumerate() {
                    let (start, gap) = save(&here.join(name), &text);
                    gaps.push((at, start, gap));
                }
                for (name, _) in &names {
                    let came = || std::fs::read_to_string(there.join(name)).is_ok_and(|is| is == text);
                    assert!(poll(PATIENCE, came), "{name} did not come{}", pair.story());
                }
            }
            over.store(true, Ordering::Relaxed);
            (reader.join().unwrap(), gaps)
        });
        looks += seen.1;
        // Where the machine kept a writer waiting between its two calls, users missed the file there as well.
        let long = |gap: &&(usize, Instant, Duration)| gap.2 >= Duration::from_millis(15);
        slow += gaps.iter().filter(long).count();
        for (at, when) in seen.0 {
            let excused = gaps.iter().filter(long).any(|(of, start, _)| *of == at && *start <= when);
            assert!(excused, "{} was missing{}", names[at].0, pair.story());
        }
    }
    let saves = 2 * ROUNDS * names.len();
    println!("{saves} saves, {slow} of them too slow to count, {looks} looks");
    assert!(slow < saves / 2, "the machine is too slow for this: {slow} of {saves}");
    pair.settle();
    pair.stop();
}

/// What a process has written so far, to files and pipes.
fn written(pid: i32) -> u64 {
    let io = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
    io.lines().find_map(|line| line.strip_prefix("wchar: ")).unwrap().parse().unwrap()
}

#[test]
fn the_contents_of_an_old_file_that_a_save_keeps_do_not_cross_again() {
    const BIG: usize = 12_000_000;
    let mut pair = Pair::new();
    for side in ["left", "right"] {
        write(pair.left.join(side), noise(1, BIG));
    }
    pair.run();
    pair.settle();
    for (side, here) in [("left", pair.left.clone()), ("right", pair.right.clone())] {
        let process = pair.processes()[usize::from(side == "right")];
        let before = written(process);
        rename(here.join(side), here.join(format!("{side}~")));
        write(here.join(side), "new\n");
        pair.settle();
        let crossed = written(process) - before;
        assert!(crossed < BIG as u64 / 4, "{side}: {crossed} bytes were written{}", pair.story());
        let copied = pair.action_lines().iter().filter(|line| line.contains(&format!(": {side}~"))).count();
        assert_eq!(copied, 1, "{:?}", pair.action_lines());
        assert!(std::fs::read(here.join(format!("{side}~"))).unwrap() == noise(1, BIG));
    }
    // Nothing new comes for the old name after all.
    for (side, here) in [("left", pair.left.clone()), ("right", pair.right.clone())] {
        rename(here.join(format!("{side}~")), here.join("moved"));
        write(here.join(format!("{side}~")), "begun");
        std::thread::sleep(Duration::from_millis(60));
        remove(here.join(format!("{side}~")));
        let tree = pair.settle();
        assert!(tree.get("moved").is_some() && tree.get(&format!("{side}~")).is_none(), "{:?}", tree.paths());
        remove(here.join("moved"));
        pair.settle();
    }
    pair.stop();
}
