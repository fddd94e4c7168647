use serde_bytes::ByteBuf;

use super::*;
use crate::model::{Attrs, Hash, OwnerNumber, Principal, ROOT_NODE, Time, Xattrs};
use crate::protocol::{Displaced, Remains, Start};

/// What the side knows in these tests.
const OWN: Own = Own { generation: 1000, rows: 10, seq: 50 };

fn path(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).expect("a path")
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

fn holds(at: &str, zeros: &[(u64, u64)]) -> Request {
    Request::Holds { path: path(at), remains: Remains { size: 8292, hash: Hash([1; 32]), zeros: zeros.to_vec() } }
}

fn go() -> Request {
    Request::Go { peer: [2; 16], scan: true, whole: false, doubt: false }
}

fn entry(content: Content) -> Entry {
    let owner = Principal::Id(1000);
    let attrs = Attrs { mode: 0o644, user: owner.clone(), group: owner, mtime: Time::default(), xattrs: Xattrs::new() };
    Entry { content, attrs }
}

fn file(size: u64) -> Entry {
    entry(Content::File { size, hash: None })
}

fn apply(generation: Generation, change: impl FnOnce(&mut Apply)) -> Request {
    let step = Step::Put {
        entry: file(4),
        expect: Expect::Absent,
        displaced: Displaced::Trash,
        source: Source::Inline(ByteBuf::from(*b"text")),
    };
    let mut apply = Apply { path: path("d/f"), parent: Some(900), node: generation, step, joint: false };
    change(&mut apply);
    Request::Apply { generation, apply }
}

fn with_step(step: Step) -> Request {
    apply(1001, |apply| (apply.node, apply.step) = (900, step))
}

fn stream(generation: Generation, way: Way) -> Request {
    let source = match way {
        Way::Stream => Source::Stream,
        Way::Delta => Source::Delta,
        Way::Rsync => Source::Rsync,
    };
    let (expect, displaced) = (Expect::Absent, Displaced::Trash);
    apply(generation, |apply| apply.step = Step::Put { entry: file(1 << 30), expect, displaced, source })
}

fn record(generation: Generation, change: impl FnOnce(&mut Record)) -> Request {
    let entry = Some(file(4));
    let mut record =
        Record { path: path("f"), parent: Some(ROOT_NODE), node: 900, seq: 50, entry, from: None, exchanged: None };
    change(&mut record);
    Request::Record { generation, record }
}

fn row(node: NodeId, parent: NodeId, generation: Generation) -> AncestorRow {
    AncestorRow { node, parent, path: path("f"), generation, entry: Some(file(1)), joint: false }
}

fn data(generation: Generation, bytes: usize) -> Request {
    Request::Data { generation, data: Data::Chunk { offset: 0, bytes: ByteBuf::from(vec![0; bytes]) } }
}

fn supply(generation: Generation, seq: Seq, way: Way) -> Request {
    Request::Supply { generation, path: path("f"), seq, way }
}

fn tunnel(generation: Generation, piece: Tunnel) -> Request {
    Request::Rsync { generation, piece }
}

/// A session that is going.
fn going() -> Policy {
    let mut policy = Policy::new();
    for request in [start(), Request::Rows { above: 0 }, Request::Learn { rows: vec![row(17, 1, 900)] }, go()] {
        assert!(policy.admit(request.clone(), &OWN).is_ok(), "{request:?}");
    }
    policy
}

/// Why the last of these requests is refused; the others are let in.
fn refused(mut policy: Policy, mut requests: Vec<Request>) -> String {
    let last = requests.pop().expect("one");
    for request in requests {
        policy.admit(request.clone(), &OWN).unwrap_or_else(|refusal| panic!("{request:?}: {refusal:?}"));
    }
    let refusal = policy.admit(last.clone(), &OWN).err().unwrap_or_else(|| panic!("let in: {last:?}"));
    // After it nothing is taken in, and no second reason is given; but for the end and another session.
    assert_eq!(policy.admit(apply(5000, |_| {}), &OWN), Ok(None));
    assert_eq!(policy.admit(Request::Stop, &OWN), Ok(Some(Request::Stop)));
    assert!(policy.admit(start(), &OWN).is_ok_and(|request| request.is_some()));
    refusal.reason
}

#[test]
fn what_an_honest_brain_asks_is_let_in() {
    let mut policy = going();
    for request in [
        apply(1001, |_| {}),
        record(1002, |_| {}),
        // Of two sides that both have something to do, one waits: an older number comes later.
        apply(1004, |apply| apply.node = 17),
        apply(1003, |apply| apply.parent = Some(1001)),
        stream(1005, Way::Delta),
        data(1005, CHUNK),
        Request::Cancel { generation: 1005 },
        // Late words of it.
        data(1005, CHUNK),
        Request::Credit { generation: 1005, bytes: 1 << 40 },
        supply(1006, 50, Way::Stream),
        Request::Sums { generation: 1006, sums: Sums::End },
        stream(1007, Way::Rsync),
        tunnel(1007, Tunnel::Arguments(vec![ByteBuf::from(*b"--server")])),
        tunnel(1007, Tunnel::Bytes(ByteBuf::from(vec![0; 1000]))),
        Request::Data { generation: 1007, data: Data::End { size: 1, hash: Hash([0; 32]) } },
        with_number(1008, Step::Remove { expect: Expect::Report(50), force: false }),
        with_number(1009, Step::SetAttrs { entry: file(9), expect: Expect::Row(1001) }),
        Request::Examine { path: path("x"), as_copy: false },
        Request::Hash { path: path("x") },
        holds("x", &[(0, 4096), (8192, 100)]),
        Request::Confirm { upto: 1000 },
        Request::Ping { number: 1 },
        Request::Hold { on: true },
        Request::Settled,
        Request::Scan { checksum: false },
        Request::Expire,
        Request::Names { numbers: vec![OwnerNumber { group: true, name: "DOM\\domain users".into(), id: 7 }] },
    ] {
        assert_eq!(policy.admit(request.clone(), &OWN), Ok(Some(request)));
    }
}

fn with_number(generation: Generation, step: Step) -> Request {
    apply(generation, |apply| (apply.node, apply.step) = (900, step))
}

#[test]
fn each_request_that_cannot_be_is_refused() {
    let link = |target: &[u8]| entry(Content::Link { target: target.into() });
    let put =
        |entry, source| with_step(Step::Put { entry, expect: Expect::Absent, displaced: Displaced::Trash, source });
    let remove = |expect| with_step(Step::Remove { expect, force: false });
    let held = |node| Source::Held { from: path("g"), node, known: 900 };
    let mode = |mode| {
        let mut entry = file(4);
        entry.attrs.mode = mode;
        entry
    };
    let bytes = |count| Tunnel::Bytes(ByteBuf::from(vec![0; count]));
    for (requests, why) in [
        // The phase.
        (vec![Request::Rows { above: 0 }], "not at this time"),
        (vec![Request::Learn { rows: vec![] }], "not at this time"),
        (vec![go()], "not at this time"),
        // Numbers.
        (vec![apply(1000, |_| {})], "settled"),
        (vec![apply(0, |_| {})], "settled"),
        (vec![apply(1001 + WINDOW, |_| {})], "far ahead"),
        (vec![apply(u64::MAX, |_| {})], "far ahead"),
        (vec![apply(1001, |_| {}), apply(1001, |_| {})], "second time"),
        (vec![apply(1001, |_| {}), record(1001, |_| {})], "second time"),
        (vec![record((1 << 63) - 1, |_| {})], "far ahead"),
        (vec![supply(1 << 62, 1, Way::Stream)], "far ahead"),
        (vec![Request::Confirm { upto: 1001 }], "does not hold"),
        (vec![Request::Confirm { upto: (1 << 63) - 1 }], "does not hold"),
        // Nodes.
        (vec![apply(1001, |apply| apply.node = 1 << 60)], "a node that nobody gave"),
        (vec![apply(1001, |apply| apply.node = ROOT_NODE)], "a node that nobody gave"),
        (vec![apply(1001, |apply| apply.node = 1002)], "a node that nobody gave"),
        (vec![apply(1001, |apply| apply.parent = Some(1001))], "directory's node"),
        (vec![apply(1001, |apply| apply.parent = Some(0))], "directory's node"),
        (vec![record(1001, |record| record.node = 16)], "a node that nobody gave"),
        (vec![record(1001, |record| record.parent = Some(1 << 40))], "directory's node"),
        // Paths.
        (vec![apply(1001, |apply| apply.path = RelPath::root())], "the root"),
        (vec![record(1001, |record| record.from = Some(RelPath::root()))], "the root"),
        (vec![Request::Hash { path: RelPath::root() }], "the root"),
        (vec![holds("", &[])], "the root"),
        // What lies in a file.
        (vec![holds("x", &[(8192, 101)])], "ranges that no file has"),
        (vec![holds("x", &[(4096, 1), (0, 1)])], "ranges that no file has"),
        // What is expected.
        (vec![remove(Expect::Report(51))], "never made"),
        (vec![remove(Expect::Report(0))], "never made"),
        (vec![remove(Expect::Row(1001))], "younger"),
        (vec![record(1001, |record| record.seq = 51)], "never made"),
        (vec![supply(1001, 51, Way::Stream)], "never made"),
        // Entries and contents.
        (vec![put(file(1 << 63), Source::Stream)], "size"),
        (vec![put(file(5), Source::Inline(ByteBuf::from(*b"text")))], "another size"),
        (vec![put(file(5), Source::Nothing)], "without contents"),
        (vec![put(entry(Content::Dir), Source::Stream)], "no file"),
        (vec![put(link(b""), Source::Nothing)], "target"),
        (vec![put(link(b"a\0"), Source::Nothing)], "target"),
        (vec![put(file(5), held(901))], "a node that nobody gave"),
        (vec![put(mode(0o10_000), Source::Stream)], "mode"),
        (vec![with_step(Step::SetAttrs { entry: mode(1 << 31), expect: Expect::Absent })], "mode"),
        (vec![record(1001, |record| record.entry = Some(mode(1 << 20)))], "mode"),
        // Contents and credit.
        (vec![apply(1001, |_| {}), data(1001, 1)], "not announced"),
        (vec![stream(1001, Way::Stream), data(1001, CHUNK + 1)], "too long"),
        (
            [vec![stream(1001, Way::Stream)], vec![data(1001, CHUNK); 4], vec![data(1001, 1)]].concat(),
            "more bytes than this side has room for",
        ),
        (vec![supply(1001, 1, Way::Stream), supply(1001, 1, Way::Stream)], "twice"),
        (vec![supply(1001, 1, Way::Stream), Request::Credit { generation: 1001, bytes: 1 }], "never sent"),
        (vec![stream(1001, Way::Stream), tunnel(1001, bytes(1))], "nobody runs"),
        (vec![stream(1001, Way::Rsync), tunnel(1001, bytes(INITIAL_CREDIT as usize + 1))], "room"),
        (vec![stream(1001, Way::Rsync), tunnel(1001, Tunnel::Taken(1))], "never sent"),
        (vec![supply(1001, 1, Way::Rsync), tunnel(1001, Tunnel::Taken(u64::MAX))], "never sent"),
        (vec![stream(1001, Way::Rsync), data(1001, 5)], "beside rsync's"),
        (vec![stream(1001, Way::Rsync), tunnel(1001, Tunnel::Arguments(vec![ByteBuf::new(); 65]))], "more arguments"),
        (
            vec![
                stream(1001, Way::Rsync),
                tunnel(1001, Tunnel::Arguments(vec![])),
                tunnel(1001, Tunnel::Arguments(vec![])),
            ],
            "second time",
        ),
        (
            vec![Request::Names { numbers: vec![OwnerNumber { group: false, name: "a\0".into(), id: 1 }] }],
            "owner's name",
        ),
    ] {
        let shown = format!("{:?}", requests.last());
        let reason = refused(going(), requests);
        assert!(reason.contains(why), "{shown}: {reason}");
    }
}

#[test]
fn before_the_sides_have_met_nothing_is_done() {
    let asks: [fn() -> Request; 15] = [
        || new_time(20, 1, 0),
        || Request::DirTimesAgreed { times: vec![(20, DirTimeWord::Gone)] },
        || apply(1001, |_| {}),
        || record(1001, |_| {}),
        || supply(1001, 1, Way::Stream),
        || data(1001, 1),
        || Request::Cancel { generation: 1001 },
        || Request::Confirm { upto: 1 },
        || Request::Scan { checksum: true },
        || Request::Hold { on: true },
        || Request::Settled,
        || Request::Ping { number: 1 },
        || Request::Hash { path: path("f") },
        || holds("f", &[]),
        || Request::Examine { path: path("f"), as_copy: false },
    ];
    for ask in asks {
        for before in [vec![], vec![start()]] {
            let reason = refused(Policy::new(), [before, vec![ask()]].concat());
            assert!(reason.contains("not at this time"), "{reason}");
        }
    }
    let rows = || Request::Rows { above: 0 };
    for (request, why) in [
        (Request::Go { peer: [0; 16], scan: false, whole: false, doubt: false }, "identity"),
        (Request::Learn { rows: vec![row(1, 1, 900)] }, "a node"),
        (Request::Learn { rows: vec![row(901, 1, 900)] }, "a node"),
        (Request::Learn { rows: vec![row(20, 20, 900)] }, "directory"),
        (Request::Learn { rows: vec![row(20, 1, (1 << 63) - 1)] }, "far ahead"),
    ] {
        let reason = refused(Policy::new(), vec![start(), request]);
        assert!(reason.contains(why), "{reason}");
    }
    assert!(refused(Policy::new(), vec![start(), rows(), rows()]).contains("second time"));
}

/// So many directories are to get a time.
fn new_time(node: u64, count: usize, nanos: u32) -> Request {
    let time = Time { secs: 5, nanos };
    Request::SetDirTimes { times: vec![NewDirTime { node, time, told: Some(time) }; count] }
}

#[test]
fn times_of_directories_are_sane() {
    let mut policy = going();
    policy.admit(new_time(20, 256, 5), &OWN).expect("let in");
    policy.admit(Request::DirTimesAgreed { times: vec![(20, DirTimeWord::Left); 256] }, &OWN).expect("let in");
    let nanos = DirTimeWord::Agreed(Time { secs: 5, nanos: 1_000_000_000 });
    for (request, why) in [
        (new_time(20, 257, 0), "more directories' times than one message has"),
        (new_time(1, 1, 0), "a node that nobody gave"),
        (new_time(20, 1, 1_000_000_000), "nanoseconds"),
        (
            Request::DirTimesAgreed { times: vec![(20, DirTimeWord::Left); 257] },
            "more directories' times than one message has",
        ),
        (Request::DirTimesAgreed { times: vec![(1, DirTimeWord::Gone)] }, "a node that nobody gave"),
        (Request::DirTimesAgreed { times: vec![(20, nanos)] }, "nanoseconds"),
    ] {
        let reason = refused(going(), vec![request]);
        assert!(reason.contains("times of directories") && reason.contains(why), "{reason}");
    }
}

/// Rows up to a bound that grows with this side's own.
#[test]
fn no_more_is_taught_than_one_archive_can_miss() {
    let mut policy = Policy::new();
    policy.admit(start(), &OWN).expect("begun");
    let lesson = Request::Learn { rows: vec![row(17, 1, 900); 1000] };
    let taken = (0..1000).take_while(|_| policy.admit(lesson.clone(), &OWN).is_ok()).count();
    assert!((50..200).contains(&taken), "{taken}");
    let mut policy = Policy::new();
    let large = Own { rows: 10_000_000, ..OWN };
    policy.admit(start(), &large).expect("begun");
    assert!((0..1000).all(|_| policy.admit(lesson.clone(), &large).is_ok()));
}

#[test]
fn what_is_open_is_bounded_and_answers_make_room() {
    let mut policy = going();
    let mut next = 1001..;
    for generation in next.by_ref().take(OPEN_MAX) {
        policy.admit(stream(generation, Way::Stream), &OWN).expect("so many are let in");
    }
    policy.said(&Reply::Result { generation: 1001, outcome: crate::protocol::Outcome::Refused });
    policy.admit(stream(next.next().expect("a number"), Way::Stream), &OWN).expect("one was answered");
    let reason = refused(policy, vec![stream(9000, Way::Stream)]);
    assert!(reason.contains("more actions"), "{reason}");

    let mut policy = going();
    for generation in 1001..1001 + OPEN_MAX as u64 {
        policy.admit(record(generation, |_| {}), &OWN).expect("so many are let in");
    }
    policy.said(&Reply::Recorded { generation: 1001 });
    policy.admit(record(9000, |_| {}), &OWN).expect("one was answered");
    assert!(refused(policy, vec![record(9001, |_| {})]).contains("more records"));

    let supplies =
        (1001..1001 + SUPPLIES_MAX as u64 + 1).map(|generation| supply(generation, 1, Way::Stream)).collect();
    assert!(refused(going(), supplies).contains("more contents"));
}

#[test]
fn credit_is_counted_in_both_directions() {
    let mut policy = going();
    policy.admit(stream(1001, Way::Stream), &OWN).expect("let in");
    for _ in 0..100 {
        policy.admit(data(1001, CHUNK), &OWN).expect("there is room");
        policy.said(&Reply::Credit { generation: 1001, bytes: CHUNK as u64 });
    }
    policy.admit(supply(1002, 50, Way::Stream), &OWN).expect("let in");
    let sent = Data::Chunk { offset: 0, bytes: ByteBuf::from(vec![0; CHUNK]) };
    policy.said(&Reply::Data { generation: 1002, data: sent });
    let credit = |bytes| Request::Credit { generation: 1002, bytes };
    policy.admit(credit(CHUNK as u64), &OWN).expect("as much as was sent");
    assert!(refused(policy, vec![credit(1)]).contains("never sent"));
}

#[test]
fn the_sums_of_all_files_together_are_bounded() {
    let mut policy = going();
    let sums = |generation| Request::Sums { generation, sums: Sums::Blocks { sums: ByteBuf::from(vec![0; 1 << 20]) } };
    for generation in 1001..1101 {
        policy.admit(supply(generation, 50, Way::Delta), &OWN).expect("let in");
        policy.admit(sums(generation), &OWN).expect("let in");
        assert_eq!(policy.goes_whole(generation), generation > 1064, "{generation}");
    }
    policy.said(&Reply::Data { generation: 1001, data: Data::Abort });
    assert!(!policy.goes_whole(9999));
}
