use std::sync::Arc;

use super::open::Opening;
use super::*;
use crate::config::{Durability, Filters, Links, Run, SharedSettings};
use crate::model::{Attrs, Content, Entry, Principal, Side, Time, Xattrs};
use crate::protocol::{AncestorRow, Change};
use crate::watch::coalesce::DEFAULT_LIMIT;
use crate::watch::inotify::InotifyTree;

fn path(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).expect("path")
}

mod hostile;

/// The right side, in a directory of its own.
fn right() -> (tempfile::TempDir, (open::RealEndpoint, Arc<InotifyTree>)) {
    let root = tempfile::tempdir().expect("root");
    let opened = opened(root.path());
    (root, opened)
}

fn opened(root: &std::path::Path) -> (open::RealEndpoint, Arc<InotifyTree>) {
    open::open(&opening(root, &plain()), 1, |_| {}).expect("opened")
}

fn opening<'a>(root: &'a std::path::Path, shared: &'a SharedSettings) -> Opening<'a> {
    Opening { root, pair: "p", side: Side::Right, shared, accept: Default::default(), dry_run: false, done: None }
}

fn plain() -> SharedSettings {
    let filters =
        Filters { excludes: String::new(), tempfiles: String::new(), safesuffix: ".x".into(), ..Filters::default() };
    let run = Run { durability: Durability::None, ..Run::default() };
    SharedSettings { filters, run, ..SharedSettings::default() }
}

fn row(node: u64, parent: u64, at: &str, generation: u64, content: Content) -> AncestorRow {
    let owner = Principal::Id(0);
    let attrs = Attrs { mode: 0o644, user: owner.clone(), group: owner, mtime: Time::default(), xattrs: Xattrs::new() };
    AncestorRow { node, parent, path: path(at), generation, entry: Some(Entry { content, attrs }), joint: false }
}

fn start() -> Request {
    let pair = "p".to_owned();
    Request::Start(Start {
        pair,
        incarnation: 1,
        accept: false,
        union: false,
        filters: [0; 32],
        dry_run: false,
        root: vec![],
    })
}

fn go() -> Request {
    Request::Go { peer: [2; 16], scan: false, whole: false, doubt: false }
}

/// What a side knows after it was taught these lists: node, name, generation, and whether it is there.
fn taught(lists: &[Vec<AncestorRow>]) -> Vec<(u64, String, u64, bool)> {
    let (_root, (mut endpoint, _watcher)) = right();
    let mut out = Vec::new();
    endpoint.handle(start(), 2, &mut out).expect("begun");
    for rows in lists {
        endpoint.handle(Request::Learn { rows: rows.clone() }, 2, &mut out).expect("learned");
    }
    endpoint.handle(go(), 2, &mut out).expect("gone");
    endpoint.handle(start(), 2, &mut out).expect("begun");
    endpoint.handle(Request::Rows { above: 0 }, 2, &mut out).expect("rows");
    let rows = out.into_iter().filter_map(|reply| if let Reply::Rows { rows } = reply { Some(rows) } else { None });
    rows.flatten().map(|row| (row.node, row.path.to_string(), row.generation, row.entry.is_some())).collect()
}

#[test]
fn what_is_replaced_under_its_name_leaves_a_tombstone() {
    let file = Content::File { size: 1, hash: None };
    let known = taught(&[vec![row(20, 1, "b", 20, file.clone())], vec![row(30, 1, "b", 30, file)]]);
    assert_eq!(known, [(30, "b".into(), 30, true), (20, "b".into(), 30, false)]);
}

#[test]
fn what_is_taught_to_have_moved_away_is_not_replaced() {
    let file = Content::File { size: 1, hash: None };
    let before = vec![row(20, 1, "b", 20, Content::Dir), row(21, 20, "b/f", 21, file.clone())];
    let known = taught(&[before, vec![row(30, 1, "b", 30, file), row(20, 1, "d", 40, Content::Dir)]]);
    assert_eq!(known, [(21, "d/f".into(), 21, true), (30, "b".into(), 30, true), (20, "d".into(), 40, true)]);
}

#[test]
fn contents_of_what_equals_its_row_are_supplied() {
    let (_root, (mut endpoint, _watcher)) = right();
    let mut ask = |request| {
        let mut out = Vec::new();
        endpoint.handle(request, 2, &mut out).expect("taken in");
        endpoint.step(3, &mut out).expect("done");
        out
    };
    ask(start());
    ask(go());
    let entry = row(20, 1, "f", 20, Content::File { size: 4, hash: None }).entry.expect("an entry");
    let source = Source::Inline(serde_bytes::ByteBuf::from(*b"text"));
    let step = Step::Put { entry, source, expect: crate::protocol::Expect::Absent, displaced: Displaced::Trash };
    let done = ask(Request::Apply {
        generation: 20,
        apply: Apply { path: path("f"), parent: Some(1), node: 20, step, joint: false },
    });
    assert!(done.iter().any(|r| matches!(r, Reply::Result { outcome: Outcome::Done { .. }, .. })), "{done:?}");
    let looked = ask(Request::Examine { path: path("f"), as_copy: false });
    let seq = looked.iter().find_map(|r| if let Reply::Report(change) = r { Some(change.seq) } else { None });
    let seq = seq.unwrap_or_else(|| panic!("no report: {looked:?}"));
    let sent = ask(Request::Supply { generation: 21, path: path("f"), seq, way: Way::Stream });
    let data = sent.iter().find_map(|r| if let Reply::Data { data, .. } = r { Some(data) } else { None });
    assert!(matches!(data, Some(Data::Whole { .. })), "{sent:?}");
}

/// The other side's time is set where users left what both sides agreed on, or what this side told; and nowhere else.
#[test]
fn a_time_that_users_gave_a_directory_meanwhile_stays() {
    use crate::protocol::{DirTimeSet, NewDirTime};
    let (root, (mut endpoint, _watcher)) = right();
    let mut now = 2;
    let mut ask = |request| {
        let mut out = Vec::new();
        now += 5_000;
        endpoint.handle(request, now, &mut out).expect("taken in");
        endpoint.step(now + 1, &mut out).expect("done");
        out
    };
    ask(start());
    ask(go());
    let entry = row(20, 1, "d", 20, Content::Dir).entry.expect("an entry");
    let step = Step::Put {
        entry,
        source: Source::Nothing,
        expect: crate::protocol::Expect::Absent,
        displaced: Displaced::Trash,
    };
    ask(Request::Apply {
        generation: 20,
        apply: Apply { path: path("d"), parent: Some(1), node: 20, step, joint: false },
    });
    let dir = std::fs::File::open(root.path().join("d")).expect("there");
    let since = |seconds| std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
    let found = || dir.metadata().and_then(|stat| stat.modified()).expect("a time");
    let time = |secs| Time { secs, nanos: 0 };
    let mut set = |secs, told| {
        let times = vec![NewDirTime { node: 20, time: time(secs), told }];
        let said = ask(Request::SetDirTimes { times });
        let set =
            said.into_iter().find_map(|r| if let Reply::DirTimesSet { outcomes } = r { Some(outcomes) } else { None });
        set.expect("an answer")
    };
    assert_eq!((set(1_000, None), found()), (vec![(20, DirTimeSet::Done)], since(1_000)), "psync made it");
    dir.set_modified(since(2_000)).expect("set");
    let differs = vec![(20, DirTimeSet::Differs(time(2_000)))];
    assert_eq!((set(3_000, None), found()), (differs.clone(), since(2_000)), "it was another one");
    assert_eq!((set(3_000, Some(time(1_500))), found()), (differs, since(2_000)), "and not this");
    assert_eq!((set(3_000, Some(time(2_000))), found()), (vec![(20, DirTimeSet::Done)], since(3_000)));
    std::fs::remove_dir(root.path().join("d")).expect("removed");
    assert_eq!(set(4_000, None), [(20, DirTimeSet::Gone)]);
}

/// What was taken out of its name and cannot go to the trash waits in the stage: the next start must not throw it away.
#[test]
fn what_could_not_go_to_the_trash_is_there_after_the_next_start() {
    let (root, (mut endpoint, watcher)) = right();
    let mut out = Vec::new();
    let mut ask = |request| {
        endpoint.handle(request, 2, &mut out).expect("taken in");
        endpoint.step(3, &mut out).expect("done");
        std::mem::take(&mut out)
    };
    ask(start());
    ask(go());
    let entry = row(20, 1, "f", 20, Content::File { size: 4, hash: None }).entry.expect("an entry");
    let source = Source::Inline(serde_bytes::ByteBuf::from(*b"text"));
    let step = Step::Put { entry, source, expect: crate::protocol::Expect::Absent, displaced: Displaced::Trash };
    ask(Request::Apply {
        generation: 20,
        apply: Apply { path: path("f"), parent: Some(1), node: 20, step, joint: false },
    });
    let trash = root.path().join(".psync/p/trash");
    let held = |name: &str| {
        let entries = std::fs::read_dir(root.path().join(".psync/p").join(name)).into_iter().flatten().flatten();
        entries.filter(|entry| std::fs::read(entry.path()).is_ok_and(|bytes| bytes == b"text")).count()
    };
    // Every name that is to come into it is refused from now on.
    std::fs::remove_dir_all(&trash).expect("removed");
    let step = Step::Remove { expect: crate::protocol::Expect::Row(20), force: false };
    let removed = ask(Request::Apply {
        generation: 21,
        apply: Apply { path: path("f"), parent: Some(1), node: 20, step, joint: false },
    });
    let failed = |reply: &Reply| matches!(reply, Reply::Result { outcome: Outcome::Failed(_), .. });
    assert!(removed.iter().any(failed), "{removed:?}");
    assert!(!root.path().join("f").exists() && held("stage") == 1, "{removed:?}");
    watcher.stop();
    drop(endpoint);
    let (_endpoint, _watcher) = opened(root.path());
    assert_eq!((held("stage"), held("trash")), (0, 1), "it was thrown away");
}

/// Who makes something and removes it again takes nothing of others, be it gone before the other side's word of it came.
#[test]
fn what_is_gone_before_it_is_recorded_was_young() {
    for early in [true, false] {
        let (root, (mut endpoint, _watcher)) = right();
        let mut now = 0;
        let mut ask = |request| -> Vec<Change> {
            // Long enough for whatever waits.
            now += 10_000;
            let mut out = Vec::new();
            endpoint.handle(request, now, &mut out).expect("taken in");
            for n in 1..4 {
                endpoint.step(now + n * 1000, &mut out).expect("done");
            }
            out.into_iter().filter_map(|r| if let Reply::Report(change) = r { Some(change) } else { None }).collect()
        };
        ask(start());
        ask(go());
        // What is made in the very tick of their meeting was there before.
        std::thread::sleep(std::time::Duration::from_millis(20));
        let file = root.path().join("f");
        std::fs::write(&file, "text").expect("written");
        let look = || Request::Examine { path: path("f"), as_copy: false };
        let made = ask(look()).pop().expect("reported");
        if early {
            std::fs::remove_file(&file).expect("removed");
            ask(look());
        }
        let (parent, node, seq, entry) = (Some(1), 20, made.seq, made.after);
        let record = Record { path: path("f"), parent, node, seq, entry, from: None, exchanged: None };
        let mut told = ask(Request::Record { generation: 20, record });
        if !early {
            std::fs::remove_file(&file).expect("removed");
        }
        told.extend(ask(look()));
        let gone = told.iter().find(|change| change.known.is_some() && change.after.is_none());
        assert_eq!(gone.map(|change| (change.below, change.young)), Some((0, 1)), "early {early}: {told:?}");
    }
}

/// Who removes a file and then opens the directory above it counts on that order, be both due at the same moment.
#[test]
fn a_directory_opens_after_what_was_removed_in_it_and_is_due_with_it() {
    use std::os::unix::fs::PermissionsExt;
    let (root, (mut endpoint, _watcher)) = right();
    let ask = |endpoint: &mut open::RealEndpoint, request| {
        let mut out = Vec::new();
        endpoint.handle(request, 2, &mut out).expect("taken in");
        endpoint.step(3, &mut out).expect("done");
    };
    ask(&mut endpoint, start());
    ask(&mut endpoint, go());
    let objects = [("d", 20, 1, Content::Dir, 0o700), ("d/s", 21, 20, Content::File { size: 4, hash: None }, 0o644)];
    for (at, node, parent, content, mode) in objects {
        let mut entry = row(node, parent, at, node, content).entry.expect("an entry");
        entry.attrs.mode = mode;
        let source = match entry.kind() {
            crate::model::Kind::File => Source::Inline(serde_bytes::ByteBuf::from(*b"text")),
            _ => Source::Nothing,
        };
        let step = Step::Put { entry, source, expect: crate::protocol::Expect::Absent, displaced: Displaced::Trash };
        let apply = Apply { path: path(at), parent: Some(parent), node, step, joint: false };
        ask(&mut endpoint, Request::Apply { generation: node, apply });
    }
    std::fs::remove_file(root.path().join("d/s")).expect("removed");
    std::fs::set_permissions(root.path().join("d"), std::fs::Permissions::from_mode(0o755)).expect("opened");
    for at in ["d", "d/s"] {
        endpoint.coalescer.event(path(at), crate::watch::Hint::Attributes, 10);
    }
    // Between these both waits are over, that of the opening and that of the deletion.
    let told: Vec<Vec<String>> = [2_000, 4_000, 4_100, 4_200]
        .map(|now| {
            let mut out = Vec::new();
            endpoint.step(now, &mut out).expect("done");
            let reports = out.into_iter();
            reports
                .filter_map(|r| if let Reply::Report(change) = r { Some(change.path.to_string()) } else { None })
                .collect()
        })
        .into();
    assert_eq!(told, [vec![], vec!["d/s".to_owned()], vec!["d".to_owned()], vec![]]);
}

#[test]
fn a_copy_of_what_a_link_leads_to_lets_others_go_first() {
    let root = tempfile::tempdir().expect("root");
    let far = root.path().join("far");
    let contents: Vec<u8> = (0..24_000_000_u32).map(|n| (n * 7 % 251) as u8).collect();
    std::fs::write(&far, &contents).expect("written");
    std::os::unix::fs::symlink("far", root.path().join("f")).expect("a link");
    let mut shared = plain();
    shared.filters.links = Links::Follow;
    let opening = opening(root.path(), &shared);
    let (mut endpoint, _watcher) = open::open(&opening, 1, |_| {}).expect("opened");
    let mut said = Vec::new();
    endpoint.handle(start(), 2, &mut said).expect("begun");
    endpoint.handle(go(), 2, &mut said).expect("gone");
    while !said.iter().any(|reply| matches!(reply, Reply::ScanDone { .. })) {
        endpoint.step(3, &mut said).expect("a step");
    }
    let of_link =
        |reply| if let Reply::Report(change) = reply { Some(change).filter(|c| c.path == path("f")) } else { None };
    let change = said.into_iter().find_map(of_link);
    let Change { seq, after: Some(mut entry), .. } = change.expect("a report") else { panic!("nothing is there") };
    let mut out = Vec::new();
    let record = Record {
        path: path("f"),
        from: None,
        exchanged: None,
        node: 20,
        parent: Some(1),
        seq,
        entry: Some(entry.clone()),
    };
    let record = Request::Record { generation: 20, record };
    endpoint.handle(record, 4, &mut out).expect("taken in");
    endpoint.step(4, &mut out).expect("a step");
    assert!(out.iter().any(|reply| matches!(reply, Reply::Recorded { generation: 20 })), "{out:?}");

    entry.attrs.mode = 0o600;
    let step = Step::SetAttrs { entry, expect: crate::protocol::Expect::Row(20) };
    let apply = Apply { path: path("f"), parent: Some(1), node: 20, step, joint: false };
    endpoint.handle(Request::Apply { generation: 21, apply }, 5, &mut out).expect("taken in");
    endpoint.step(5, &mut out).expect("a step");
    let small = row(22, 1, "g", 22, Content::File { size: 4, hash: None }).entry.expect("an entry");
    let source = Source::Inline(serde_bytes::ByteBuf::from(*b"text"));
    let step = Step::Put { entry: small, source, expect: crate::protocol::Expect::Absent, displaced: Displaced::Trash };
    let apply = Apply { path: path("g"), parent: Some(1), node: 22, step, joint: false };
    endpoint.handle(Request::Apply { generation: 22, apply }, 6, &mut out).expect("taken in");
    let results = |out: &[Reply]| {
        let of = |reply: &Reply| if let Reply::Result { generation, .. } = reply { Some(*generation) } else { None };
        out.iter().filter_map(of).collect::<Vec<_>>()
    };
    let mut steps = 0;
    while results(&out).len() < 2 {
        endpoint.step(7, &mut out).expect("a step");
        steps += 1;
        assert!(steps < 10_000, "{out:?}");
    }
    assert_eq!(results(&out), [22, 21], "{out:?}");
    assert!(std::fs::symlink_metadata(root.path().join("f")).expect("there").is_file());
    assert!(std::fs::read(root.path().join("f")).expect("read") == contents);
    let mode = |path: &std::path::Path| {
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(path).expect("there").permissions())
    };
    assert_eq!((mode(&root.path().join("f")) & 0o777, mode(&far) & 0o600), (0o600, 0o600));
}

/// An endpoint that nobody talks to keeps in mind where something happened, and no more than it must.
#[test]
fn what_is_kept_while_no_brain_is_there_is_bounded() {
    for hint in [Hint::Appeared, Hint::Vanished] {
        let (_root, (mut endpoint, _watcher)) = right();
        for n in 0..3 * DEFAULT_LIMIT {
            let path = path(&format!("{}/{n}", n / 1000));
            endpoint.event(Event::Dirty { path, hint }, 2);
            // The scopes come on top of the paths.
            let (noted, dirty) = (endpoint.appeared.len().max(endpoint.vanished.len()), endpoint.coalescer.len());
            assert!(noted <= 2 * DEFAULT_LIMIT && dirty <= DEFAULT_LIMIT + 1000, "{n}: {noted} {dirty}");
            if n % 10_000 == 0 {
                // Nothing is done with it, whatever time goes by.
                let mut out = Vec::new();
                endpoint.step(3, &mut out).expect("step");
                assert!(out.is_empty(), "{out:?}");
            }
        }
        // What is not kept by itself lies within a scope that will be scanned.
        assert!(endpoint.coalescer.is_dirty(&path("299/299999")) || !endpoint.coalescer.take_scopes().is_empty());
    }
}

#[test]
fn a_copy_is_told_before_the_name_that_it_copies() {
    let report = |at: &str, like: Option<&str>| {
        let like = like.map(|from| crate::protocol::Like { from: path(from), node: 7, generation: 7 });
        let (known, moved, after, inline) = (None, None, None, None);
        let path = path(at);
        Reply::Report(crate::protocol::Change {
            seq: 1,
            path,
            parent: None,
            known,
            moved,
            after,
            contents: true,
            touched: false,
            read: false,
            inline,
            like,
            below: 0,
            young: 0,
        })
    };
    let mut replies =
        vec![report("a", None), Reply::Stopped, report("d", None), report("d/a~", Some("a")), report("x", Some("y"))];
    saves::copies_first(&mut replies);
    let told: Vec<String> = replies
        .iter()
        .map(|reply| if let Reply::Report(change) = reply { change.path.to_string() } else { String::new() })
        .collect();
    assert_eq!(told, ["", "d", "d/a~", "a", "x"]);
}

/// A directory went away and came back while it was quiet, with something new in it that no event told of. It is looked at
/// before its time, since a file in it is told; it is scanned all the same.
#[test]
fn a_directory_that_is_looked_at_before_its_time_is_scanned_all_the_same() {
    let (root, (mut endpoint, _watcher)) = right();
    std::fs::create_dir(root.path().join("d")).expect("a directory");
    let mut out = Vec::new();
    endpoint.handle(start(), 2, &mut out).expect("begun");
    endpoint.handle(go(), 2, &mut out).expect("gone");
    endpoint.handle(Request::Examine { path: path("d"), as_copy: false }, 3, &mut out).expect("looked at");
    endpoint.step(3, &mut out).expect("done");
    let report = out.drain(..).find_map(|reply| if let Reply::Report(change) = reply { Some(change) } else { None });
    let Change { seq, after, .. } = report.expect("a report of the directory");
    let record = crate::protocol::Record {
        path: path("d"),
        parent: Some(1),
        node: 20,
        seq,
        entry: after,
        from: None,
        exchanged: None,
    };
    endpoint.handle(Request::Record { generation: 20, record }, 4, &mut out).expect("recorded");
    endpoint.step(4, &mut out).expect("done");
    assert!(out.iter().any(|reply| matches!(reply, Reply::Recorded { generation: 20 })), "{out:?}");
    // It is quiet for a second. The events of its names are not read yet when a file in it is due.
    for name in ["told", "untold"] {
        std::fs::write(root.path().join("d").join(name), name).expect("a file");
    }
    for (at, hint) in
        [("d", Hint::Vanished), ("d", Hint::Appeared), ("d/told", Hint::Appeared), ("d/told", Hint::Closed)]
    {
        endpoint.event(Event::Dirty { path: path(at), hint }, 10);
    }
    let mut told = Vec::new();
    for now in (10..4_000).step_by(10) {
        let mut out = Vec::new();
        endpoint.step(now, &mut out).expect("done");
        told.extend(out.into_iter().filter_map(|reply| match reply {
            Reply::Report(change) => Some(change.path.to_string()),
            _ => None,
        }));
    }
    assert_eq!(told, ["d/told", "d/untold"]);
}
