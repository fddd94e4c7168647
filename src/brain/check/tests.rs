//! Checks of two real directories, each behind a thread.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;

use super::*;
use crate::endpoint::survey::Survey;
use crate::filter::{Filter, Filters};
use crate::replica::real::{NoCover, RealDisk};

/// A side that answers in a thread of its own; `meddle` runs before each answer, and changes this side at most: the other
/// one may have answered by then.
fn station(root: &Path, meddle: impl Fn(&Ask) + Send + 'static) -> Station {
    let disk = RealDisk::open_dry(root, "p", Arc::new(NoCover)).expect("a root");
    let survey = Survey::new(disk, Filter::new(&Filters::default()).expect("filters"));
    let (asks, asked) = channel::<Ask>();
    let (emit, answers) = answers();
    thread::spawn(move || {
        for ask in asked {
            meddle(&ask);
            survey.answer(&ask, |answer| emit.send(answer).is_ok());
        }
    });
    Station { ask: Box::new(move |ask| asks.send(ask).map_err(|_| "gone".to_string())), answers }
}

struct Roots {
    left: tempfile::TempDir,
    right: tempfile::TempDir,
}

impl Roots {
    /// `NAME=TEXT` on each side, all with the same mtime.
    fn new(left: &str, right: &str) -> Roots {
        let roots = Roots { left: tempfile::tempdir().expect("left"), right: tempfile::tempdir().expect("right") };
        for (root, files) in [(&roots.left, left), (&roots.right, right)] {
            files.split_whitespace().for_each(|file| write(root.path(), file));
        }
        roots
    }

    fn check(&self, wanted: &Wanted) -> Vec<(String, What)> {
        self.check_with(wanted, |_| {})
    }

    fn check_with(&self, wanted: &Wanted, meddle: impl Fn(&Ask) + Send + 'static) -> Vec<(String, What)> {
        let sides = Sides::new(station(self.left.path(), |_| {}), station(self.right.path(), meddle));
        let findings = check(sides, wanted).expect("both answer");
        assert!(findings.problems.is_empty(), "{:?}", findings.problems);
        findings.differences.into_iter().map(|d| (d.path.to_string(), d.what)).collect()
    }
}

fn write(root: &Path, file: &str) {
    let (name, text) = file.split_once('=').expect(file);
    let path = root.join(name);
    fs::create_dir_all(path.parent().expect("a parent")).expect("made");
    fs::write(&path, text).expect("written");
    let time = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    fs::File::open(&path).and_then(|f| f.set_modified(time)).expect("timed");
}

fn wanted(checksum: Checksum) -> Wanted {
    Wanted { checksum, ..Wanted::default() }
}

#[test]
fn equal_trees_are_equal() {
    let roots = Roots::new("a=1 d/b=2", "a=1 d/b=2");
    for checksum in [Checksum::None, Checksum::Doubtful, Checksum::All] {
        assert_eq!(roots.check(&wanted(checksum)), []);
    }
}

#[test]
fn each_difference_is_named() {
    let roots = Roots::new("both=same only=1 size=1 text=abc old=1", "both=same size=22 text=xyz here=1 old=1");
    fs::File::open(roots.left.path().join("old"))
        .and_then(|f| f.set_modified(std::time::SystemTime::now()))
        .expect("set");
    let stat = [("here", What::OnlyRight), ("old", What::Time), ("only", What::OnlyLeft), ("size", What::Contents)];
    let named = |all: &[(&str, What)]| all.iter().map(|(n, w)| (n.to_string(), *w)).collect::<Vec<_>>();
    assert_eq!(roots.check(&wanted(Checksum::None)), named(&stat));
    // What is equal by stat is found by reading all; what differs in time alone is read and found to be equal.
    assert_eq!(roots.check(&wanted(Checksum::Doubtful)), named(&stat));
    let all = [&stat[..], &[("text", What::Contents)]].concat();
    assert_eq!(roots.check(&wanted(Checksum::All)), named(&all));
    let since = wanted(Checksum::All);
    let later = Wanted { newer: Some(i64::MAX), ..since };
    assert_eq!(roots.check(&later), named(&stat), "nothing is as new as that");
}

#[test]
fn other_contents_under_another_time_are_found_by_reading() {
    let roots = Roots::new("f=abc", "f=xyz");
    fs::File::open(roots.left.path().join("f"))
        .and_then(|f| f.set_modified(std::time::SystemTime::now()))
        .expect("set");
    assert_eq!(roots.check(&wanted(Checksum::None)), [("f".to_string(), What::Time)]);
    assert_eq!(roots.check(&wanted(Checksum::Doubtful)), [("f".to_string(), What::Contents)]);
}

#[test]
fn what_arrives_meanwhile_is_no_difference() {
    let roots = Roots::new("a=1 late=2", "a=1");
    let right = roots.right.path().to_owned();
    let arrive = move |ask: &Ask| {
        if matches!(ask, Ask::Look { .. }) {
            write(&right, "late=2");
        }
    };
    assert_eq!(roots.check_with(&Wanted::default(), arrive), []);
}

#[test]
fn a_side_that_goes_away_is_an_error_and_no_difference() {
    let roots = Roots::new("a=1", "a=1");
    let (emit, answers) = answers();
    drop(emit);
    let silent = Station { ask: Box::new(|_| Ok(())), answers };
    let error =
        check(Sides::new(station(roots.left.path(), |_| {}), silent), &Wanted::default()).expect_err("no answer");
    assert_eq!(error, "right side: the link ended");
}
