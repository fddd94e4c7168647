use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use tempfile::TempDir;

use super::super::archive::samples::{attrs, dir_row, file_row, name, path};
use super::super::archive::{Since, path_of, row_at};
use super::super::memory::MemoryArchive;
use super::*;
use crate::model::{Content, Entry, Principal, ROOT_NODE, RelPath};

const ROOT: (u64, Time) = (2, Time { secs: -5, nanos: 7 });

fn place() -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("archive.db");
    (dir, file)
}

fn reopen(file: &Path) -> SqliteArchive {
    let (archive, fresh) = SqliteArchive::open(file, (0, Time::default())).unwrap();
    assert!(!fresh);
    archive
}

fn words(result: Result<(SqliteArchive, bool), ArchiveError>) -> String {
    result.map(|_| ()).unwrap_err().to_string()
}

/// A small generator (xorshift), so that a seed names a history.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
    }
}

const NODES: u64 = 14;
const NAMES: [&[u8]; 5] = [b"a", b"b", b"\xff\xfe", b"a b", b"\xc3\xa9"];

fn any_name(dice: &mut Dice) -> Name {
    Name::new(NAMES[dice.roll(5) as usize]).unwrap()
}

fn any_row(dice: &mut Dice) -> Row {
    let node = 2 + dice.roll(NODES);
    let mut row = match dice.roll(3) {
        0 => dir_row(node, 0, "x", 0),
        _ => file_row(node, 0, "x", 0),
    };
    row.parent = 1 + dice.roll(NODES);
    row.name = any_name(dice);
    row.generation = dice.roll(30);
    let when = 10 * (1 + dice.roll(4) as i64);
    row.since = [Since::Always, Since::Made(when), Since::Came(when)][dice.roll(3) as usize];
    if dice.roll(4) == 0 {
        row.entry.content = Content::Link { target: (*b"../\xff").into() };
    }
    if dice.roll(4) == 0 {
        row.entry.attrs.xattrs.insert((*b"user.x").into(), (*b"\0\xff").into());
        row.entry.attrs.user = Principal::Name("wwwrun".into());
        row.achieved = Some(attrs(0o600));
    }
    if let Some(signature) = &mut row.signature {
        signature.ino = if dice.roll(2) == 0 { u64::MAX - dice.roll(3) } else { dice.roll(3) };
        signature.btime.secs -= dice.roll(2) as i64 * 10_000_000_000;
        if dice.roll(3) == 0 {
            signature.ctime = Time::default();
        }
    }
    if let Content::File { size, hash } = &mut row.entry.content {
        *size *= dice.roll(4).min(1);
        *hash = hash.filter(|_| dice.roll(4) > 0);
    }
    row
}

/// One random change of both archives; they must agree on whether it is possible.
fn change(dice: &mut Dice, both: &mut [&mut dyn Archive; 2]) {
    let kind = dice.roll(13);
    let seed = dice.roll(u64::MAX >> 12) + 1;
    let [a, b] = both.each_mut().map(|archive| {
        let mut dice = Dice(seed);
        let done = match kind {
            0..=5 => return archive.put(&any_row(&mut dice)),
            6 => archive.drop_tree(1 + dice.roll(NODES)),
            7 => archive.bury(&Tombstone {
                node: 2 + dice.roll(NODES),
                parent: 1 + dice.roll(NODES),
                name: any_name(&mut dice),
                generation: dice.roll(30),
            }),
            8 if dice.roll(2) == 0 => archive.note_joint(2 + dice.roll(NODES), dice.roll(30)),
            8 => archive.forget_tombstones(dice.roll(30)),
            9 => {
                let row = any_row(&mut dice);
                let object = (u64::MAX - dice.roll(2), Time { secs: -1, nanos: 1 });
                let step = match dice.roll(6) {
                    4 => {
                        IntentStep::Pieces { from: RelPath::new(b"x").unwrap(), object, made: (dice.roll(9), object.1) }
                    }
                    3 => IntentStep::Attributes { before: row.entry.attrs.clone(), entry: row.entry, object },
                    0 => IntentStep::Remove { object },
                    1 => IntentStep::Move { from: RelPath::new(b"x/\xff").unwrap(), object },
                    5 => IntentStep::Exchange {
                        from: path("x"),
                        object,
                        other: dice.roll(9),
                        at: Some((path("y"), object)),
                        to: path("x"),
                    },
                    _ => IntentStep::Place {
                        achieved: None,
                        entry: row.entry,
                        staged: object,
                        victim: row.signature,
                        copy: Some(name("copy")),
                    },
                };
                let generation = dice.roll(8);
                let parent = row.parent.is_multiple_of(2).then_some(row.parent);
                archive.intend(&Intent { generation, node: row.node, path: path("a/b"), parent, stage: row.name, step })
            }
            10 => archive.settle(dice.roll(8)),
            12 => {
                let time = Time { secs: dice.roll(9) as i64 - 4, nanos: 5 };
                archive.set_dir_time(2 + dice.roll(NODES), (dice.roll(4) > 0).then_some(time))
            }
            _ if dice.roll(2) == 0 => archive.trash_remove(&any_name(&mut dice)),
            _ => archive.trash_add(&TrashItem {
                id: any_name(&mut dice),
                path: path("p"),
                since: dice.roll(3) as i64 - 1,
                size: dice.roll(100),
                reason: "deleted".into(),
                stamp: (dice.roll(2) == 0).then(|| Time { secs: dice.roll(9) as i64 - 4, nanos: 7 }),
                look: dice.roll(2) == 0,
            }),
        };
        done.map(|()| None)
    });
    assert_eq!(a.as_ref().ok(), b.as_ref().ok(), "{a:?} {b:?}");
}

/// Everything that an archive tells, but for its random id.
fn all_answers(archive: &impl Archive) -> String {
    let mut out = String::new();
    let mut say = |what: &dyn std::fmt::Debug| out.push_str(&format!("{what:?}\n"));
    say(&Identity { archive: [0; 16], ..archive.identity().unwrap() });
    say(&archive.count().unwrap());
    for node in 0..=NODES + 2 {
        say(&archive.node(node).unwrap());
        say(&archive.children(node).unwrap());
        say(&path_of(archive, node).unwrap());
        for name in NAMES {
            say(&archive.child(node, &Name::new(name).unwrap()).unwrap());
        }
    }
    for ino in [0, 1, 2, u64::MAX, u64::MAX - 1, u64::MAX - 2] {
        for ago in 0..2 {
            let btime = Time { secs: 1_700_000_001 - ago * 10_000_000_000, nanos: 999_999_999 };
            say(&archive.by_object(ino, btime).unwrap());
        }
    }
    for generation in [0, 1, 15, 28, u64::MAX] {
        say(&archive.rows_above(generation).unwrap());
        say(&archive.tombstones_above(generation).unwrap());
    }
    for text in ["a", "a/b", "a/a b/a", "b/b", ""] {
        say(&row_at(archive, &path(text)).unwrap());
    }
    (1..20).for_each(|node| say(&archive.dir_time(node).unwrap()));
    say(&archive.intents().unwrap());
    say(&archive.trash().unwrap());
    say(&archive.count_unproven().unwrap());
    say(&archive.files().unwrap());
    for (when, most) in [(0, 9), (10, 3), (20, 2), (25, u64::MAX), (40, 1), (50, 9)] {
        say(&archive.count_came(when, most).unwrap());
    }
    let mut node = 0;
    while let Some(row) = archive.unproven(node).unwrap() {
        assert!(row.node > node && row.is_unproven(), "{row:?}");
        say(&row);
        node = row.node;
    }
    out
}

#[test]
fn both_archives_tell_the_same_of_any_history() {
    for seed in 1..=4 {
        let (_dir, file) = place();
        let (mut real, fresh) = SqliteArchive::open(&file, ROOT).unwrap();
        assert!(fresh);
        let mut model = MemoryArchive::new(real.identity().unwrap().archive, ROOT);
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15 ^ seed);
        for step in 0..400 {
            match dice.roll(40) {
                0..=3 => {
                    real.commit().unwrap();
                    model.commit().unwrap();
                }
                4 => {
                    drop(real);
                    real = reopen(&file);
                    model = model.crash();
                }
                5 => {
                    let generation = dice.roll(1000);
                    let identity = Identity { generation, peer: [3; 16], ..model.identity().unwrap() };
                    real.set_identity(&identity).unwrap();
                    model.set_identity(&identity).unwrap();
                }
                _ => change(&mut dice, &mut [&mut real, &mut model]),
            }
            if dice.roll(8) == 0 {
                let (real, model) = (all_answers(&real), all_answers(&model));
                let differs = real.lines().zip(model.lines()).find(|(a, b)| a != b);
                assert_eq!(differs, None, "seed {seed} step {step}");
            }
        }
    }
}

#[test]
fn what_is_unproven_is_found_by_its_index() {
    let (_dir, file) = place();
    let (archive, _) = SqliteArchive::open(&file, ROOT).unwrap();
    for sql in [&*statements::UNPROVEN, &*statements::COUNT_UNPROVEN] {
        let sql = format!("EXPLAIN QUERY PLAN {}", sql.replace("?1", "1"));
        let plan: String = archive.connection.query_row(&sql, [], |row| row.get(3)).unwrap();
        assert!(plan.contains("rows_unproven"), "{plan}");
    }
}

#[test]
fn a_second_opening_is_refused() {
    let (_dir, file) = place();
    let (archive, _) = SqliteArchive::open(&file, ROOT).unwrap();
    assert!(words(SqliteArchive::open(&file, ROOT)).contains("in use by another psync"));
    drop(archive);
    reopen(&file);
}

#[test]
fn foreign_newer_and_damaged_files_are_refused_and_left_alone() {
    let (dir, file) = place();
    let with = |sql: &str| {
        let other = dir.path().join("other.db");
        _ = std::fs::remove_file(&other);
        Connection::open(&other).unwrap().execute_batch(sql).unwrap();
        std::fs::read(other).unwrap()
    };
    let (mut archive, _) = SqliteArchive::open(&file, ROOT).unwrap();
    (2..200).for_each(|n| _ = archive.put(&file_row(n, ROOT_NODE, &format!("{n}"), n)).unwrap());
    archive.commit().unwrap();
    drop(archive);
    let whole = std::fs::read(&file).unwrap();
    let newer = [&whole[..60], &99u32.to_be_bytes(), &whole[64..]].concat();
    let older = [&whole[..60], &0u32.to_be_bytes(), &whole[64..]].concat();
    let no_pages = [&whole[..100], &vec![0x55; whole.len() - 100][..]].concat();
    let cases: [(&str, Vec<u8>, &str); 9] = [
        ("text", b"not a database, but somebody's only copy of a letter".repeat(30), "no archive of psync"),
        ("short text", b"hello".to_vec(), "no archive of psync"),
        ("one byte", b"h".to_vec(), "no archive of psync"),
        ("zeros", vec![0; 8192], "no archive of psync"),
        ("another program", with("CREATE TABLE t (x)"), "another program's database"),
        ("another program's empty one", with("PRAGMA user_version = 5"), "another program's database"),
        ("newer", newer, "newer psync (schema 99, this one knows 6)"),
        ("older than any", older, "another program's database"),
        ("overwritten", no_pages, "damaged"),
    ];
    for (what, bytes, expected) in cases {
        std::fs::write(&file, &bytes).unwrap();
        let opened = SqliteArchive::open(&file, ROOT);
        assert!(opened.is_err(), "{what}");
        let said = words(opened);
        assert!(said.contains(expected), "{what}: {said}");
        assert!(said.contains("archive.db"), "{what}: {said}");
        assert!(std::fs::read(&file).unwrap() == bytes, "{what}: the file was changed");
    }
    // An archive that lost its end opens or not, but says so at the latest when the rows are read.
    std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    let read = SqliteArchive::open(&file, ROOT).and_then(|(archive, _)| archive.rows_above(0));
    assert!(read.is_err());
}

#[test]
fn an_empty_file_becomes_an_archive_and_keeps_its_identity() {
    let (dir, file) = place();
    std::fs::write(&file, b"").unwrap();
    let (archive, fresh) = SqliteArchive::open(&file, ROOT).unwrap();
    let identity = archive.identity().unwrap();
    assert!(fresh && identity.archive != [0; 16] && identity.root == ROOT && identity.generation == 0);
    drop(archive);
    assert_eq!(reopen(&file).identity().unwrap(), identity);
    let second = dir.path().join("second.db");
    let (second, _) = SqliteArchive::open(&second, ROOT).unwrap();
    assert_ne!(second.identity().unwrap().archive, identity.archive);
    assert!(SqliteArchive::open(&dir.path().join("no/such/directory"), ROOT).is_err());
}

#[test]
fn an_archive_of_an_older_psync_is_brought_up_to_date() {
    let (_dir, file) = place();
    let (mut archive, _) = SqliteArchive::open(&file, ROOT).unwrap();
    archive.put(&file_row(2, ROOT_NODE, "kept", 1)).unwrap();
    for (node, parent) in [(3, ROOT_NODE), (4, 3), (5, 4)] {
        archive.put(&dir_row(node, parent, &format!("d{node}"), 1)).unwrap();
    }
    archive.put(&file_row(6, 5, "deep", 1)).unwrap();
    archive.commit().unwrap();
    drop(archive);
    // What had psync's own name below the top took part then.
    let old = "UPDATE rows SET name = x'2e7073796e63' WHERE node = 4;
        INSERT INTO tombstones VALUES (9, 3, x'2e7073796e63', 1);
        ALTER TABLE intents DROP COLUMN parent;
        INSERT INTO intents VALUES (7, 6, CAST('d3/.psync/x' AS BLOB), x'61', 'place', x'00');
        DROP TABLE trash;
        CREATE TABLE trash (id BLOB PRIMARY KEY, path BLOB NOT NULL, since INTEGER NOT NULL, size INTEGER NOT NULL,
                            reason TEXT NOT NULL) WITHOUT ROWID;
        INSERT INTO trash VALUES (x'61', CAST('b/.psync/c' AS BLOB), 5, 6, 'deleted');
        ALTER TABLE meta DROP COLUMN proven;
        ALTER TABLE meta DROP COLUMN met;
        ALTER TABLE rows DROP COLUMN since;
        ALTER TABLE rows DROP COLUMN dir_mtime;
        ALTER TABLE rows DROP COLUMN dir_mtime_ns;
        DROP TABLE joint;
        INSERT INTO intents VALUES (8, 2, x'62', x'63', 'remove', x'02050000');
        UPDATE meta SET boot = x'00112233445566778899aabbccddeeff';
        PRAGMA user_version = 1;";
    Connection::open(&file).unwrap().execute_batch(old).unwrap();
    for _ in 0..2 {
        let archive = reopen(&file);
        let [item] = &archive.trash().unwrap()[..] else { panic!("{:?}", archive.trash()) };
        assert_eq!((item.stamp, item.look, item.size, item.path.is_root()), (None, false, 6, true));
        assert_eq!(archive.count().unwrap(), 2);
        assert_eq!(archive.rows_above(0).unwrap().iter().map(|row| row.node).collect::<Vec<_>>(), [2, 3]);
        let [intent] = &archive.intents().unwrap()[..] else { panic!("{:?}", archive.intents()) };
        assert_eq!((intent.generation, intent.parent), (8, None));
        assert!(archive.node(6).unwrap().is_none());
        assert!(archive.tombstones_above(0).unwrap().is_empty());
        // What was recorded in that boot was compared in it as well, as far as the older psync knew.
        let identity = archive.identity().unwrap();
        assert_eq!((identity.proven, identity.boot[15]), (identity.boot, 0xff));
    }
}

#[test]
fn an_archive_of_the_version_before_is_brought_up_to_date() {
    let (_dir, file) = place();
    let (mut archive, _) = SqliteArchive::open(&file, ROOT).unwrap();
    let before = file_row(2, ROOT_NODE, "kept", 1);
    archive.put(&Row { since: Since::Came(1_700_000_000), ..before.clone() }).unwrap();
    archive.commit().unwrap();
    drop(archive);
    let old = "ALTER TABLE meta DROP COLUMN met; ALTER TABLE rows DROP COLUMN since; PRAGMA user_version = 3;";
    Connection::open(&file).unwrap().execute_batch(&format!("{NO_JOINT} {NO_DIR_TIMES} {old}")).unwrap();
    for _ in 0..2 {
        let archive = reopen(&file);
        assert_eq!(archive.node(2).unwrap(), Some(Row { since: Since::Always, ..before.clone() }));
        assert_eq!(archive.identity().unwrap().met, 0);
    }
}

/// What schema 6 has and the one before had not.
const NO_JOINT: &str = "DROP TABLE joint;";
/// The same of schema 5.
const NO_DIR_TIMES: &str = "ALTER TABLE rows DROP COLUMN dir_mtime; ALTER TABLE rows DROP COLUMN dir_mtime_ns;";

#[test]
fn an_archive_from_before_directories_times_knows_of_none() {
    let (_dir, file) = place();
    let (mut archive, _) = SqliteArchive::open(&file, ROOT).unwrap();
    archive.put(&dir_row(2, ROOT_NODE, "d", 1)).unwrap();
    archive.set_dir_time(2, Some(Time { secs: 5, nanos: 6 })).unwrap();
    archive.commit().unwrap();
    drop(archive);
    assert_eq!(reopen(&file).dir_time(2).unwrap(), Some(Time { secs: 5, nanos: 6 }));
    let old = format!("{NO_JOINT} {NO_DIR_TIMES} PRAGMA user_version = 4;");
    Connection::open(&file).unwrap().execute_batch(&old).unwrap();
    let mut archive = reopen(&file);
    assert_eq!((archive.dir_time(2).unwrap(), archive.count().unwrap()), (None, 1));
    archive.set_dir_time(2, Some(Time { secs: -7, nanos: 8 })).unwrap();
    archive.put(&dir_row(2, ROOT_NODE, "renamed", 3)).unwrap();
    assert_eq!(archive.dir_time(2).unwrap(), Some(Time { secs: -7, nanos: 8 }), "it stays whatever is put of the node");
    archive.drop_tree(2).unwrap();
    archive.set_dir_time(2, Some(Time { secs: 9, nanos: 9 })).unwrap();
    archive.put(&dir_row(2, ROOT_NODE, "d", 4)).unwrap();
    assert_eq!(archive.dir_time(2).unwrap(), None, "it goes with the row");
}

#[test]
fn after_a_failed_change_nothing_more_is_taken() {
    let (_dir, file) = place();
    let (mut archive, _) = SqliteArchive::open(&file, ROOT).unwrap();
    archive.put(&file_row(2, ROOT_NODE, "kept", 1)).unwrap();
    archive.commit().unwrap();
    archive.put(&file_row(3, ROOT_NODE, "lost", 2)).unwrap();
    // No room for more pages: the disk is full.
    let pages: i64 = archive.connection.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
    archive.connection.execute_batch(&format!("PRAGMA max_page_count = {pages}")).unwrap();
    let long = "n".repeat(200);
    let full = (4..2000).map(|n| archive.put(&file_row(n, n + 5000, &long, 3))).find(Result::is_err);
    assert!(full.unwrap().unwrap_err().to_string().contains("full"));
    assert!(archive.put(&file_row(5, ROOT_NODE, "no", 4)).unwrap_err().to_string().contains("failed before"));
    assert!(archive.commit().is_err() && archive.node(2).is_err() && archive.count().is_err());
    drop(archive);
    let archive = reopen(&file);
    assert_eq!(archive.rows_above(0).unwrap().len(), 1);
    assert_eq!(archive.count().unwrap(), 1);
}

#[test]
fn people_can_read_the_listing() {
    let (_dir, file) = place();
    let (mut archive, _) = SqliteArchive::open(&file, ROOT).unwrap();
    archive.put(&dir_row(2, ROOT_NODE, "d", 1)).unwrap();
    let entry = Entry { content: Content::Link { target: (*b"../t").into() }, attrs: attrs(0) };
    archive.put(&Row { entry, ..file_row(4, 2, "link", 3) }).unwrap();
    archive.put(&file_row(3, 2, "f\u{e9}", 2)).unwrap();
    archive.commit().unwrap();
    let sql =
        "SELECT concat_ws(' ', path, kind, size, mtime, mode, user, \"group\", target) FROM listing ORDER BY path";
    let lines = select(&archive.connection, sql, [], |columns| Ok(columns.get::<_, String>(0)?)).unwrap();
    assert_eq!(
        lines,
        [
            "d d 1970-01-01 00:00:00 0755 0 users",
            "d/f\u{e9} f 5 2023-11-14 22:13:20 0640 0 users",
            "d/link l 2023-11-14 22:13:20 0000 0 users ../t",
        ]
    );
}

#[test]
fn a_hundred_thousand_rows() {
    const ROWS: u64 = 100_000;
    let (_dir, file) = place();
    let (mut archive, _) = SqliteArchive::open(&file, ROOT).unwrap();
    let rate = |what: &str, start: Instant| {
        println!("{what}: {:.0} thousand/s", ROWS as f64 / start.elapsed().as_secs_f64() / 1000.0);
    };
    let row = |n: u64| match n % 50 {
        0 => dir_row(n + 2, ROOT_NODE, &format!("directory {n}"), n + 1),
        _ => file_row(n + 2, n / 50 * 50 + 2, &format!("file {n}.txt"), n + 1),
    };
    for what in ["put", "put again"] {
        let start = Instant::now();
        for n in 0..ROWS {
            archive.put(&row(n)).unwrap();
            if n % 1000 == 999 {
                archive.commit().unwrap();
            }
        }
        rate(what, start);
    }
    let start = Instant::now();
    for n in 0..ROWS {
        let row = row(n);
        assert_eq!(archive.child(row.parent, &row.name).unwrap().unwrap().node, n + 2);
    }
    rate("child", start);
    let start = Instant::now();
    let none = |n: &u64| archive.child(n / 50 * 50 + 2, &name("not there")).unwrap().is_none();
    assert_eq!((0..ROWS).filter(none).count() as u64, ROWS);
    rate("no child", start);
    let start = Instant::now();
    assert_eq!(archive.count_came(0, ROWS).unwrap(), 0);
    rate("count what came", start);
    let start = Instant::now();
    let listed: usize = (0..ROWS / 50).map(|n| archive.children(n * 50 + 2).unwrap().len()).sum();
    assert_eq!(listed as u64, ROWS - ROWS / 50);
    rate("children", start);
    let start = Instant::now();
    (1..ROWS / 50).for_each(|n| archive.drop_tree(n * 50 + 2).unwrap());
    archive.commit().unwrap();
    rate("drop", start);
    assert_eq!(archive.count().unwrap(), 50);
    println!("file: {} KiB", std::fs::metadata(&file).unwrap().len() / 1024);
}

/// Not a test by itself: the process that [`a_killed_process_leaves_what_it_committed`] kills.
#[test]
fn child_that_is_killed() {
    let Some(file) = std::env::var_os("PSYNC_TEST_ARCHIVE") else { return };
    let (mut archive, _) = SqliteArchive::open(Path::new(&file), ROOT).unwrap();
    (2..2000).for_each(|n| _ = archive.put(&file_row(n, ROOT_NODE, &format!("{n}"), n)).unwrap());
    archive.commit().unwrap();
    // Enough to overflow the cache, so that a part lies in the log already.
    (2000..60_000).for_each(|n| _ = archive.put(&file_row(n, ROOT_NODE, &format!("{n}"), n)).unwrap());
    archive.drop_tree(2).unwrap();
    println!("in the middle");
    std::io::stdout().flush().unwrap();
    // Until it is killed, or its parent is gone.
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

#[test]
fn a_killed_process_leaves_what_it_committed() {
    let (_dir, file) = place();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "replica::sqlite::tests::child_that_is_killed", "--nocapture"])
        .env("PSYNC_TEST_ARCHIVE", &file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("in the middle")));
    assert!(words(SqliteArchive::open(&file, ROOT)).contains("in use by another psync"));
    child.kill().unwrap();
    child.wait().unwrap();
    let mut archive = reopen(&file);
    assert_eq!(archive.count().unwrap(), 1998);
    assert_eq!(archive.rows_above(0).unwrap().len(), 1998);
    assert_eq!(archive.node(2).unwrap(), Some(file_row(2, ROOT_NODE, "2", 2)));
    archive.put(&file_row(9999, ROOT_NODE, "more", 9999)).unwrap();
    archive.commit().unwrap();
    drop(archive);
    assert_eq!(reopen(&file).count().unwrap(), 1999);
}

#[test]
fn it_stays_in_its_directory_whatever_that_is_called_by_then() {
    let top = TempDir::new().unwrap();
    let (own, aside, victims) = (top.path().join("own"), top.path().join("aside"), top.path().join("victims"));
    std::fs::create_dir_all(&own).unwrap();
    std::fs::create_dir_all(&victims).unwrap();
    let (mut archive, fresh) = SqliteArchive::open_in(&OwnDir::alone(&own).unwrap(), ROOT).unwrap();
    assert!(fresh);
    archive.put(&file_row(2, ROOT_NODE, "one", 1)).unwrap();
    archive.commit().unwrap();
    std::fs::rename(&own, &aside).unwrap();
    std::fs::create_dir(&own).unwrap();
    for name in ["archive.db", "archive.db-wal", "archive.db-journal", "archive.db-shm", "trash.list"] {
        std::fs::write(victims.join(name), "").unwrap();
        std::os::unix::fs::symlink(victims.join(name), own.join(name)).unwrap();
    }
    // So much that the log is carried over into the file, and what psync does when it closes it.
    for n in 3..3000 {
        archive.put(&file_row(n, ROOT_NODE, &format!("{n:0200}"), n)).unwrap();
        if n % 100 == 0 {
            archive.commit().unwrap();
        }
    }
    archive.commit().unwrap();
    archive.save_room();
    drop(archive);
    for entry in std::fs::read_dir(&victims).unwrap() {
        assert_eq!(entry.unwrap().metadata().unwrap().len(), 0);
    }
    assert_eq!(std::fs::read_dir(&own).unwrap().count(), 5);
    assert_eq!(reopen(&aside.join("archive.db")).count().unwrap(), 2998);
    // Nor is it opened through what was planted.
    for suffix in ["", "-wal", "-journal"] {
        std::fs::remove_dir_all(&own).unwrap();
        std::fs::create_dir(&own).unwrap();
        std::os::unix::fs::symlink(victims.join("archive.db"), own.join(format!("archive.db{suffix}"))).unwrap();
        let refused = words(SqliteArchive::open_in(&OwnDir::alone(&own).unwrap(), ROOT));
        assert!(refused.contains("is a link"), "{refused}");
    }
    assert_eq!(std::fs::metadata(victims.join("archive.db")).unwrap().len(), 0);
}
