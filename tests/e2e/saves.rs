//! How programs save. Each way leaves the document and nothing else, on both sides, without a conflict.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use crate::support::users::*;
use crate::support::{Pair, poll, tools};

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
