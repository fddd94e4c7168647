use std::time::Duration;

use proptest::prelude::*;

use super::*;
use Hint::*;

const TIMING: Timing = Timing {
    event_interval: Duration::from_millis(1000),
    delete_delay: Duration::from_millis(300),
    open_wait: Duration::from_millis(60_000),
};

fn path(s: &str) -> RelPath {
    RelPath::new(s.as_bytes()).expect("a valid path")
}

/// What is handed out at `now`, in order.
fn drain(c: &mut Coalescer, now: Millis) -> Vec<String> {
    std::iter::from_fn(|| c.ready(now)).map(|p| p.to_string()).collect()
}

#[test]
fn a_path_that_is_looked_at_now_is_clean_whatever_it_waited_for() {
    let path = |text: &str| RelPath::new(text.as_bytes()).unwrap();
    let timing = TIMING;
    let mut coalescer = Coalescer::new(timing);
    coalescer.sent(&path("d"), 0);
    coalescer.event(path("d"), Hint::Attributes, 10);
    assert_eq!(coalescer.ready(10), None, "it is quiet");
    assert!(coalescer.take_now(&path("d")) && !coalescer.take_now(&path("d")));
    assert_eq!((coalescer.next_due(), coalescer.is_empty()), (None, true));
    // What happens to it afterwards still waits for the end of the quiet period.
    coalescer.event(path("d"), Hint::Attributes, 20);
    assert_eq!(coalescer.next_due(), Some(1000));
}

#[test]
fn when_a_path_is_due() {
    /// Events of one path with their times, and when it is due after the last.
    type Row<'a> = (&'a str, &'a [(Hint, Millis)], Millis);
    let table: &[Row] = &[
        ("made: at once", &[(Appeared, 0)], 0),
        ("closed: at once", &[(Closed, 5)], 5),
        ("chmod: at once", &[(Attributes, 5)], 5),
        ("truncate(2): after a short quiet", &[(Written, 0)], 50),
        ("writes put it off", &[(Written, 0), (Written, 40), (Written, 80)], 130),
        ("but no longer than the interval", &[(Written, 0), (Written, 970)], 1000),
        ("the close ends it", &[(Written, 0), (Closed, 10)], 10),
        ("chmod while writing", &[(Written, 0), (Attributes, 10)], 10),
        ("made and written: still at once", &[(Appeared, 0), (Written, 10)], 0),
        ("deleted: waits", &[(Vanished, 0)], 300),
        ("made again: at once", &[(Vanished, 0), (Appeared, 200)], 200),
        ("any event of what was deleted", &[(Vanished, 0), (Written, 200)], 200),
        ("made and deleted: waits", &[(Appeared, 0), (Vanished, 10)], 310),
        ("written and deleted: waits", &[(Written, 0), (Vanished, 10)], 310),
        ("comes and goes", &[(Appeared, 0), (Vanished, 10), (Appeared, 900), (Vanished, 910)], 1000),
        ("later events keep the first time", &[(Closed, 0), (Closed, 500)], 0),
    ];
    for (what, events, due) in table {
        let mut c = Coalescer::new(TIMING);
        for (hint, now) in *events {
            c.event(path("f"), *hint, *now);
        }
        assert_eq!(c.next_due(), Some(*due), "{what}");
        assert!(*due == 0 || c.ready(due - 1).is_none(), "{what}: early");
        assert_eq!(c.ready(*due), Some(path("f")), "{what}");
        assert!(c.is_empty(), "{what}");
    }
}

#[test]
fn what_was_sent_is_quiet_until_the_interval_ends() {
    let table: &[(&[(Hint, Millis)], Millis)] = &[
        (&[(Closed, 100)], 1000),
        (&[(Written, 100)], 1000),
        (&[(Written, 990)], 1040),
        (&[(Vanished, 100)], 1000),
        (&[(Vanished, 900)], 1200),
        (&[(Vanished, 900), (Appeared, 950)], 1000),
        (&[(Closed, 1000)], 1000),
        (&[(Closed, 1700)], 1700),
    ];
    for (events, due) in table {
        let mut c = Coalescer::new(TIMING);
        c.event(path("f"), Closed, 0);
        assert_eq!(c.ready(0), Some(path("f")));
        c.sent(&path("f"), 0);
        for (hint, now) in *events {
            c.event(path("f"), *hint, *now);
        }
        assert_eq!(c.next_due(), Some(*due), "{events:?}");
        assert_eq!(c.ready(due - 1), None, "{events:?}");
        assert_eq!(c.ready(*due), Some(path("f")), "{events:?}");
    }
}

#[test]
fn an_event_between_ready_and_sent_waits_too() {
    let mut c = Coalescer::new(TIMING);
    c.event(path("f"), Closed, 0);
    assert_eq!(c.ready(0), Some(path("f")));
    c.event(path("f"), Closed, 5);
    c.sent(&path("f"), 10);
    assert_eq!(c.next_due(), Some(1010));
}

#[test]
fn an_open_file_is_polled_and_sent_in_the_end() {
    let mut c = Coalescer::new(Timing { open_wait: Duration::from_millis(5000), ..TIMING });
    c.event(path("f"), Appeared, 0);
    let mut looks = Vec::new();
    let end = loop {
        let now = c.next_due().expect("it stays dirty");
        assert_eq!(c.ready(now), Some(path("f")));
        looks.push(now);
        c.event(path("f"), Written, now);
        c.dirty.clear(); // as if the write had come before the look
        c.queue.clear();
        if c.busy(&path("f"), now) {
            break now;
        }
        c.event(path("f"), Written, now + 1);
        c.event(path("f"), Attributes, now + 1);
    };
    assert_eq!(looks, [0, 100, 300, 700, 1500, 2500, 3500, 4500, 5000]);
    assert_eq!(end, 5000);
    assert!(!c.busy(&path("f"), 6000), "a new wait begins");
}

#[test]
fn the_close_of_an_open_file() {
    let mut c = Coalescer::new(TIMING);
    c.event(path("f"), Appeared, 0);
    assert_eq!(c.ready(0), Some(path("f")));
    assert!(!c.busy(&path("f"), 0));
    c.event(path("f"), Closed, 20);
    assert_eq!(c.next_due(), Some(20));
    assert_eq!(c.ready(20), Some(path("f")));
    c.sent(&path("f"), 20);
    assert!(c.open.values.is_empty());

    // A close that came while the file was examined counts.
    c.event(path("g"), Appeared, 2000);
    assert_eq!(c.ready(2000), Some(path("g")));
    c.event(path("g"), Closed, 2001);
    assert!(!c.busy(&path("g"), 2002));
    assert_eq!(c.next_due(), Some(2001));
}

#[test]
fn directories_before_what_lies_below_them() {
    let mut c = Coalescer::new(TIMING);
    for (name, now) in [("a/b/c", 0), ("x", 1), ("a/b", 2), ("a/b c", 3), ("a", 4), ("later/f", 5)] {
        c.event(path(name), Appeared, now);
    }
    c.event(path("later"), Vanished, 5);
    assert_eq!(drain(&mut c, 10), ["a", "a/b", "a/b/c", "x", "a/b c", "later/f"]);
    assert_eq!(drain(&mut c, 305), ["later"]);
}

#[test]
fn a_moved_directory_takes_its_dirty_paths_along() {
    let mut c = Coalescer::new(TIMING);
    for name in ["a", "a/1", "a/b/2", "a b"] {
        c.event(path(name), Closed, 0);
    }
    c.sent(&path("a/q"), 0);
    c.event(path("z/1"), Vanished, 0);
    c.moved(&path("a"), &path("z"));
    assert_eq!(drain(&mut c, 0), ["a", "a b", "z/1", "z/b/2"]);
    c.event(path("z/q"), Closed, 10);
    assert_eq!(c.next_due(), Some(1000));

    // A path that grows too long is covered by a scan.
    let deep = vec!["0123456789"; 300].join("/");
    c.event(path(&format!("a/{deep}")), Closed, 0);
    c.moved(&path("a"), &path(&deep));
    assert_eq!(c.take_scopes(), [path(&deep)]);

    // Scopes go along, and what a scope covered is covered at its new place.
    c.add_scope(path("s/t/u"));
    c.moved(&path("s/t"), &path("v"));
    assert_eq!(c.take_scopes(), [path("v/u")]);
    c.add_scope(path("s"));
    c.moved(&path("s/t"), &path("v"));
    assert_eq!(c.take_scopes(), [path("s"), path("v")]);
}

#[test]
fn forget_and_clean() {
    let mut c = Coalescer::new(TIMING);
    c.sent(&path("f"), 0);
    c.event(path("f"), Closed, 0);
    c.forget(&path("f"));
    assert_eq!((c.len(), c.next_due()), (0, None));
    c.event(path("f"), Closed, 1);
    assert_eq!(c.next_due(), Some(1));
    c.busy(&path("f"), 1);
    c.clean(&path("f"));
    assert_eq!(c.len(), 1);
    assert!(c.open.values.is_empty());
}

#[test]
fn too_many_paths_become_scopes() {
    let mut c = Coalescer::with_limit(TIMING, 100);
    c.event(path("far/away"), Closed, 0);
    c.event(path("crowd"), Vanished, 0);
    for i in 0..1000 {
        c.event(path(&format!("crowd/{i}")), Closed, 0);
        assert!(c.len() <= 101);
    }
    assert_eq!(c.take_scopes(), [path("crowd")]);
    assert_eq!(drain(&mut c, 300), ["far/away", "crowd"]);

    // A scope that was taken covers nothing any more.
    c.event(path("crowd/1"), Closed, 400);
    assert_eq!(drain(&mut c, 400), ["crowd/1"]);

    for i in 0..1000 {
        c.event(path(&format!("sparse/{i}/f")), Closed, 0);
        assert!(c.len() <= 151, "{}", c.len());
    }
    assert_eq!(c.take_scopes(), [path("sparse")]);
}

#[test]
fn quiet_periods_and_open_files_leave_nothing_behind() {
    let mut c = Coalescer::with_limit(TIMING, 100);
    for i in 0..1000 {
        c.sent(&path(&format!("s{i}")), 0);
        c.busy(&path(&format!("b{i}")), 0);
        assert!(c.quiet.values.len() <= 100 && c.open.values.len() <= 100);
    }
    c.take_scopes();
    drain(&mut c, 2000);
    assert!(c.quiet.values.is_empty());
    drain(&mut c, 200_000);
    assert!(c.open.values.is_empty());
    assert!(c.is_empty());
}

const NAMES: [&str; 9] = ["a", "a/b", "a/b/1", "a/b/2", "a/c/1", "d", "e/f/g", "e/f/h", "e/i"];

#[derive(Debug, Clone)]
enum Op {
    Event(usize, Hint),
    Advance(Millis),
    /// Take what is due; 0: sent, 1: busy, 2: clean.
    Take(u8),
}

fn op() -> impl Strategy<Value = Op> {
    let hint = prop::sample::select(vec![Appeared, Vanished, Written, Closed, Attributes]);
    prop_oneof![
        4 => (0..NAMES.len(), hint).prop_map(|(i, h)| Op::Event(i, h)),
        2 => (1..700u64).prop_map(Op::Advance),
        3 => (0..3u8).prop_map(Op::Take),
    ]
}

proptest! {
    #[test]
    fn nothing_is_lost_and_nothing_comes_too_often(ops in prop::collection::vec(op(), 1..200), limit in 1..12usize) {
        let mut c = Coalescer::with_limit(Timing { open_wait: Duration::from_millis(2000), ..TIMING }, limit);
        let mut now = 0;
        // Paths that must still be handed out, and when each was sent.
        let mut owed: BTreeSet<RelPath> = BTreeSet::new();
        let mut sent: BTreeMap<RelPath, Millis> = BTreeMap::new();
        let take = |c: &mut Coalescer, owed: &mut BTreeSet<RelPath>, sent: &mut BTreeMap<RelPath, Millis>, now, how| {
            for scope in c.take_scopes() {
                owed.retain(|p| !p.is_below(&scope));
            }
            let Some(path) = c.ready(now) else { return Ok(()) };
            owed.remove(&path);
            match how {
                1 if !c.busy(&path, now) => {
                    owed.insert(path);
                }
                2 => c.clean(&path),
                _ => {
                    c.sent(&path, now);
                    let before = sent.insert(path.clone(), now);
                    // A bounded memory may forget a quiet period, but only beyond the limit.
                    prop_assert!(limit < NAMES.len() || before.is_none_or(|t| now - t >= 1000), "{path} too early");
                }
            }
            Ok(())
        };
        for op in ops {
            match op {
                Op::Event(i, hint) => {
                    c.event(path(NAMES[i]), hint, now);
                    owed.insert(path(NAMES[i]));
                }
                Op::Advance(by) => now += by,
                Op::Take(how) => take(&mut c, &mut owed, &mut sent, now, how)?,
            }
            prop_assert!(c.len() <= limit + limit.div_ceil(2) + 1);
            prop_assert_eq!(c.dirty.len(), c.queue.len());
        }
        while let Some(due) = c.next_due() {
            prop_assert!(due <= now + 3000, "due {} at {}", due, now);
            now = now.max(due);
            take(&mut c, &mut owed, &mut sent, now, 0)?;
        }
        for scope in c.take_scopes() {
            owed.retain(|p| !p.is_below(&scope));
        }
        prop_assert!(owed.is_empty(), "lost: {owed:?}");
    }
}
