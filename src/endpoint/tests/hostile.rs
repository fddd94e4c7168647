//! A brain that lies, before a real endpoint with a real tree.

use std::fs;
use std::path::Path;

use serde_bytes::ByteBuf;

use super::*;
use crate::protocol::{Expect, Hello, Known};

const FILES: usize = 600;

/// A side under attack, and the numbers that the brain uses.
struct Victim {
    root: tempfile::TempDir,
    endpoint: open::RealEndpoint,
    watcher: Arc<InotifyTree>,
    next: Generation,
    now: Millis,
}

impl Victim {
    /// A tree of a directory with many files, in sync; the side was started again since.
    fn new() -> Victim {
        let root = tempfile::tempdir().expect("root");
        fs::create_dir(root.path().join("all")).expect("made");
        (0..FILES).for_each(|n| fs::write(root.path().join(format!("all/{n}")), n.to_string()).expect("written"));
        let (endpoint, watcher) = opened(root.path());
        let mut victim = Victim { root, endpoint, watcher, next: 17, now: 2 };
        victim.ask(start());
        victim.ask(Request::Go { peer: [2; 16], scan: true, whole: false, doubt: false });
        let mut open = victim.work();
        let mut nodes = BTreeMap::from([(RelPath::root(), 1)]);
        while !open.is_empty() {
            for change in open {
                let generation = victim.number();
                let parent = change.path.parent().and_then(|above| nodes.get(&above).copied());
                nodes.insert(change.path.clone(), generation);
                let Change { path, seq, after: entry, .. } = change;
                let record = Record { path, parent, node: generation, seq, entry, from: None, exchanged: None };
                victim.ask(Request::Record { generation, record });
            }
            open = victim.work();
        }
        victim.restart();
        victim
    }

    fn restart(&mut self) {
        self.watcher.stop();
        let root = self.root.path().to_owned();
        // The archive is held by one alone.
        let elsewhere = tempfile::tempdir().expect("root");
        (self.endpoint, self.watcher) = opened(elsewhere.path());
        (self.endpoint, self.watcher) = opened(&root);
        self.ask(start());
        self.ask(go());
    }

    fn number(&mut self) -> Generation {
        self.next += 1;
        self.next
    }

    fn ask(&mut self, request: Request) -> Vec<Reply> {
        let mut out = Vec::new();
        self.now += 1;
        self.endpoint.handle(request, self.now, &mut out).expect("taken in");
        out
    }

    /// Works until nothing is left to do; what it reports. A halt is an error.
    fn work(&mut self) -> Vec<Change> {
        let said = self.replies();
        assert!(halt(&said).is_none(), "{said:?}");
        said.into_iter()
            .filter_map(|reply| if let Reply::Report(change) = reply { Some(change) } else { None })
            .collect()
    }

    fn replies(&mut self) -> Vec<Reply> {
        let mut out = Vec::new();
        for _ in 0..10_000 {
            self.now += 1;
            match self.endpoint.step(self.now, &mut out).expect("step") {
                Next::Now => {}
                _ => break,
            }
        }
        out
    }

    /// Its row and directory at a path.
    fn known(&mut self, at: &str) -> Known {
        let said = self.ask(Request::Examine { path: path(at), as_copy: false });
        let known =
            said.into_iter().find_map(|reply| if let Reply::Report(change) = reply { change.known } else { None });
        known.unwrap_or_else(|| panic!("{at} is not known"))
    }

    fn apply(&mut self, at: &str, node: Option<u64>, step: Step) {
        let generation = self.number();
        let apply = Apply { path: path(at), parent: None, node: node.unwrap_or(generation), step, joint: false };
        let said = self.ask(Request::Apply { generation, apply });
        assert!(said.iter().all(|reply| !matches!(reply, Reply::Halt { .. })) || said.len() == 1);
    }

    fn left(&self) -> usize {
        fs::read_dir(self.root.path().join("all")).map_or(0, Iterator::count)
    }

    fn refusal(&mut self) -> String {
        self.endpoint.take_refusal().expect("a refusal")
    }
}

fn halt(said: &[Reply]) -> Option<&str> {
    said.iter().find_map(|reply| if let Reply::Halt { reason } = reply { Some(&reason[..]) } else { None })
}

/// A directory with all that is in it: whatever number its node is given, and whatever was said to lie below it.
#[test]
fn a_tree_is_not_removed_because_a_brain_calls_it_small() {
    for lie in [false, true] {
        let mut victim = Victim::new();
        let known = victim.known("all");
        let node = if lie { Some(known.node - 1) } else { Some(known.node) };
        victim.apply("all", node, Step::Remove { expect: Expect::Row(known.generation), force: true });
        let said = victim.replies();
        let reason = halt(&said).unwrap_or_else(|| panic!("no halt: {said:?}"));
        assert!(reason.contains("more deletions would be too many within ten minutes"), "{reason}");
        assert!(reason.contains("--accept"), "{reason}");
        assert_eq!(victim.left(), FILES);
        // Nothing more is done in this session.
        victim.apply("all/1", Some(known.node + 1), Step::Remove { expect: Expect::Absent, force: false });
        assert!(victim.replies().iter().all(|reply| !matches!(reply, Reply::Result { .. })));
    }
}

/// One by one, after rows were given other nodes, or after other contents were put under the names.
#[test]
fn many_small_deletions_are_one_large_one() {
    for trick in ["none", "new rows", "new objects"] {
        let mut victim = Victim::new();
        let names: Vec<String> = (0..FILES).map(|n| format!("all/{n}")).collect();
        let above = victim.known("all").node;
        if trick != "none" {
            for name in &names {
                let known = victim.known(name);
                let (expect, entry) = (Expect::Row(known.generation), known.entry.clone());
                match trick {
                    "new rows" => {
                        let generation = victim.number();
                        let (path, parent, seq, from) = (path(name), Some(above), 0, None);
                        let record =
                            Record { path, parent, node: generation, seq, entry: Some(entry), from, exchanged: None };
                        victim.ask(Request::Record { generation, record });
                    }
                    _ => {
                        let bytes = ByteBuf::from(vec![b'x'; usize::try_from(entry.size()).expect("small")]);
                        let content = Content::File { size: entry.size(), hash: None };
                        let entry = Entry { content, ..entry };
                        let (source, displaced) = (Source::Inline(bytes), Displaced::Trash);
                        victim.apply(name, None, Step::Put { entry, expect, displaced, source });
                    }
                }
            }
            victim.work();
            assert_eq!(victim.left(), FILES, "{trick}");
        }
        let mut halted = None;
        for name in &names {
            if halted.is_some() {
                break;
            }
            let known = victim.known(name);
            victim.apply(name, Some(known.node), Step::Remove { expect: Expect::Row(known.generation), force: false });
            let said = victim.replies();
            halted = halt(&said).map(str::to_owned);
        }
        // Rows that nobody reported prove nothing: by them nothing is removed at all.
        let stopped = halted.is_some_and(|reason| reason.contains("too many"));
        assert!(stopped || trick == "new rows" && victim.left() == FILES, "{trick}: {} are left", victim.left());
        assert!(victim.left() >= FILES / 2 - 1, "{trick}: {} are left", victim.left());
    }
}

#[test]
fn what_the_administrator_accepts_is_removed_and_no_more() {
    let mut victim = Victim::new();
    let begin = |accept| {
        let Request::Start(start) = start() else { panic!("no start") };
        Request::Start(Start { accept, ..start })
    };
    victim.ask(begin(true));
    victim.ask(go());
    // Nothing is left here; the other side may still have a deletion to tell.
    victim.ask(Request::Ping { number: 1 });
    victim.now += 3000;
    assert!(victim.replies().contains(&Reply::Pong { number: 1 }));
    let known = victim.known("all");
    let remove = Step::Remove { expect: Expect::Row(known.generation), force: false };
    victim.apply("all", Some(known.node), remove);
    victim.work();
    assert!(!victim.root.path().join("all").exists());

    let mut victim = Victim::new();
    victim.ask(begin(true));
    victim.ask(go());
    victim.work();
    // Both sides are equal: what was accepted has been dealt with.
    victim.ask(Request::Settled);
    victim.work();
    let known = victim.known("all");
    victim.apply("all", Some(known.node), Step::Remove { expect: Expect::Row(known.generation), force: false });
    assert!(halt(&victim.replies()).is_some());
    assert_eq!(victim.left(), FILES);
}

#[test]
fn absurd_numbers_are_refused_and_leave_nothing_behind() {
    const FAR: Generation = (1 << 63) - 1;
    let file = || row(20, 1, "f", 20, Content::File { size: 1, hash: None });
    let record =
        |entry| Record { path: path("f"), parent: Some(1), node: 20, seq: 0, entry, from: None, exchanged: None };
    let asks: [(&str, Vec<Request>); 4] = [
        ("learn", vec![start(), Request::Learn { rows: vec![AncestorRow { generation: FAR, ..file() }] }, go()]),
        ("record", vec![start(), go(), Request::Record { generation: FAR, record: record(file().entry) }]),
        ("confirm", vec![start(), go(), Request::Confirm { upto: FAR }]),
        ("apply", vec![start(), go(), removal(FAR)]),
    ];
    for (what, asks) in asks {
        let (root, (mut endpoint, watcher)) = right();
        let mut out = Vec::new();
        for request in asks {
            endpoint.handle(request, 2, &mut out).expect("no failure");
        }
        let reason = endpoint.take_refusal().unwrap_or_else(|| panic!("{what}: {out:?}"));
        assert!(reason.contains("far ahead") || reason.contains("does not hold"), "{what}: {reason}");
        endpoint.step(3, &mut out).expect("step");
        endpoint.part(4).expect("parted");
        watcher.stop();
        drop(endpoint);
        assert_eq!(hello_of(root.path()).generation, 0, "{what}");
    }
}

fn removal(generation: Generation) -> Request {
    let step = Step::Remove { expect: Expect::Absent, force: false };
    Request::Apply { generation, apply: Apply { path: path("f"), parent: None, node: 20, step, joint: false } }
}

fn hello_of(root: &Path) -> Hello {
    let (mut endpoint, _watcher) = opened(root);
    let mut out = Vec::new();
    endpoint.handle(start(), 2, &mut out).expect("begun");
    out.into_iter().find_map(|reply| if let Reply::Hello(hello) = reply { Some(hello) } else { None }).expect("a hello")
}

#[test]
fn rows_that_lie_in_each_other_are_not_learned() {
    let (_root, (mut endpoint, _watcher)) = right();
    let mut out = Vec::new();
    let dirs = [row(20, 21, "a/b", 30, Content::Dir), row(21, 20, "a/b/a", 30, Content::Dir)];
    for request in
        [start(), Request::Learn { rows: dirs[..1].to_vec() }, Request::Learn { rows: dirs[1..].to_vec() }, go()]
    {
        endpoint.handle(request, 2, &mut out).expect("no failure");
    }
    assert!(endpoint.take_refusal().expect("refused").contains("lie in each other"));
    endpoint.handle(start(), 3, &mut out).expect("begun");
    out.clear();
    endpoint.handle(Request::Rows { above: 0 }, 3, &mut out).expect("rows");
    assert_eq!(out, [Reply::RowsEnd]);
}

#[test]
fn a_flood_of_actions_ends_the_session() {
    let mut victim = Victim::new();
    let entry = victim.known("all/1").entry;
    let mut asked = 0;
    while victim.endpoint.refused.is_none() {
        let content = Content::File { size: 1 << 20, hash: None };
        let entry = Entry { content, ..entry.clone() };
        let (expect, displaced, source) = (Expect::Absent, Displaced::Trash, Source::Stream);
        victim.apply(&format!("new{asked}"), None, Step::Put { entry, expect, displaced, source });
        asked += 1;
        assert!(asked < 10_000);
    }
    assert!(victim.refusal().contains("more actions") && asked == 4097, "{asked}");
    // Another session is served.
    victim.endpoint.part(victim.now).expect("parted");
    assert!(victim.ask(start()).iter().any(|reply| matches!(reply, Reply::Hello(_))));
}
