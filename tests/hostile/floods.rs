//! One kind of message, as fast as the line takes it. Neither side may take more than 200 MiB for it, nor end otherwise than
//! in order, nor be of no use to an honest partner afterwards.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use psync::config::Transfer;
use psync::link::frame::{self, Kind};
use psync::model::{Attrs, Content, Entry, Name, OwnerNumber, Principal, Problem, ProblemKind, Time, Xattrs};
use psync::protocol::{
    AncestorRow, Apply, Change, Data, Displaced, Expect, Outcome, Record, Reply, Request, Source, Step, Sums, Tunnel,
    Way, survey::Ask,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_bytes::ByteBuf;

use crate::roll::bound;
use crate::samples::path;
use crate::scene::{
    Attacked, HostileAgent, HostileBrain, HostileSurveyor, MEMORY_MAX, Scene, honest_hello, plain_settings,
};
use crate::support::NAME;
use crate::talk::{Talk, frame_of};

/// What a flood may cost at most: time, messages, bytes.
const MESSAGES: u64 = u64::MAX;
const BYTES: u64 = 1 << 30;
/// Floods at a time: they mostly wait for each other's ends.
const AT_ONCE: usize = 4;

fn time() -> Duration {
    Duration::from_secs(bound("PSYNC_HOSTILE_SECONDS", 4))
}

fn file(size: u64) -> Entry {
    let attrs = Attrs {
        mode: 0o644,
        user: Principal::Id(0),
        group: Principal::Id(0),
        mtime: Time { secs: 1_600_000_000, nanos: 0 },
        xattrs: Xattrs::new(),
    };
    Entry { content: Content::File { size, hash: None }, attrs }
}

fn numbered(n: u64) -> psync::model::RelPath {
    path(format!("flood {n}").as_bytes())
}

/// Generations that are near enough to be believed.
fn generation(n: u64) -> u64 {
    1000 + n
}

fn put(n: u64, size: u64, source: Source) -> Request {
    let step = Step::Put { entry: file(size), expect: Expect::Absent, displaced: Displaced::Trash, source };
    Request::Apply {
        generation: generation(n),
        apply: Apply { path: numbered(n), parent: Some(1), node: generation(n), step, joint: false },
    }
}

fn megabyte() -> ByteBuf {
    ByteBuf::from(vec![b'm'; 1 << 20])
}

fn owners(n: u64) -> Vec<OwnerNumber> {
    let one = |i| OwnerNumber { group: false, name: format!("user {n} {i} {}", "x".repeat(200)).into(), id: 5 };
    (0..1000).map(one).collect()
}

fn rows(n: u64, far: u64) -> Vec<AncestorRow> {
    let one = |i: u64| {
        let number = 1000 + n * 1000 + i + far;
        AncestorRow {
            node: number,
            parent: 1,
            path: numbered(number),
            generation: number,
            entry: Some(file(1)),
            joint: false,
        }
    };
    (0..1000).map(one).collect()
}

/// A message that takes a frame of nothing but zeros, packed: a thousandth of it on the line.
fn bomb(plain: &[u8]) -> Vec<u8> {
    let packed = zstd::bulk::compress(plain, 19).unwrap();
    let payload = [&(plain.len() as u32).to_le_bytes()[..], &packed].concat();
    let mut wire = Vec::new();
    frame::write(&mut wire, Kind::Packed, 0, &payload).unwrap();
    wire
}

fn packed_message<T: serde::Serialize>(message: &T) -> Vec<u8> {
    bomb(&frame_of(message).expect("it fits")[frame::HEADER..])
}

/// Which words come before the flood.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    /// A session that wants reports.
    Session,
    /// Nothing.
    Nothing,
}

/// What is said again and again.
type Make<T> = Box<dyn FnMut(u64) -> T + Send>;

enum What<T> {
    Message(Make<T>),
    /// Whole frames.
    Raw(Make<Vec<u8>>),
}

struct Flood<T> {
    name: &'static str,
    before: Before,
    /// Whether the attacker takes what is answered.
    hears: bool,
    what: What<T>,
}

fn of<T>(name: &'static str, make: impl FnMut(u64) -> T + Send + 'static) -> Flood<T> {
    Flood { name, before: Before::Session, hears: true, what: What::Message(Box::new(make)) }
}

fn raw<T>(name: &'static str, make: impl FnMut(u64) -> Vec<u8> + Send + 'static) -> Flood<T> {
    Flood { name, before: Before::Session, hears: true, what: What::Raw(Box::new(make)) }
}

impl<T> Flood<T> {
    fn deaf(self) -> Flood<T> {
        Flood { hears: false, ..self }
    }

    fn at_once(self) -> Flood<T> {
        Flood { before: Before::Nothing, ..self }
    }

    /// Says it until the bound, or until the other side ends it or takes too much.
    fn run<I>(&mut self, talk: &mut Talk<I>, attacked: &Attacked) -> u64
    where
        T: Serialize,
        I: DeserializeOwned + Send + 'static,
    {
        let Talk { mouth, ears } = talk;
        let (what, stop) = (&mut self.what, AtomicBool::new(false));
        let stopped = &stop;
        let flood = move || {
            let mut bytes = 0;
            for n in 0..MESSAGES {
                let frame = match what {
                    What::Message(make) => frame_of(&make(n)).expect("it fits"),
                    What::Raw(make) => make(n),
                };
                bytes += frame.len() as u64;
                if bytes > BYTES || stopped.load(Ordering::Relaxed) || mouth.raw(&frame).is_err() {
                    return n;
                }
            }
            MESSAGES
        };
        std::thread::scope(|scope| {
            let flood = scope.spawn(flood);
            let end = Instant::now() + time();
            while !flood.is_finished() {
                let over = Instant::now() > end || attacked.peak() > MEMORY_MAX;
                stop.store(over, Ordering::Relaxed);
                // One that is deaf takes what waits once it is over, or its own words would never be taken.
                if self.hears || over {
                    ears.drain();
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            flood.join().unwrap()
        })
    }
}

/// What an agent is told.
fn requests() -> Vec<Flood<Request>> {
    let chunk = |n: u64, offset: u64| {
        let data = Data::Chunk { offset, bytes: ByteBuf::from(vec![1; 16]) };
        Request::Data { generation: generation(n), data }
    };
    vec![
        of("apply, contents to come", |n| put(n, 1 << 20, Source::Stream)),
        of("apply, a delta to come", |n| put(n, 1 << 20, Source::Delta)),
        of("apply, an rsync to come", |n| put(n, 1 << 20, Source::Rsync)),
        of("apply, contents in it", |n| {
            let expect = Expect::Row(77);
            let source = Source::Inline(ByteBuf::from(vec![b'i'; 60_000]));
            let step = Step::Put { entry: file(60_000), expect, displaced: Displaced::Trash, source };
            Request::Apply {
                generation: generation(n),
                apply: Apply { path: path(b"f"), parent: None, node: 2, step, joint: false },
            }
        }),
        of("apply, attributes", |n| {
            let step = Step::SetAttrs { entry: file(9), expect: Expect::Row(77) };
            Request::Apply {
                generation: generation(n),
                apply: Apply { path: path(b"f"), parent: None, node: 2, step, joint: false },
            }
        }),
        of("apply, remove", |n| {
            let step = Step::Remove { expect: Expect::Report(n), force: false };
            Request::Apply {
                generation: generation(n),
                apply: Apply { path: numbered(n), parent: None, node: n, step, joint: false },
            }
        }),
        of("apply, held", |n| put(n, 9, Source::Held { from: path(b"f"), node: 2, known: 1 })),
        of("record", |n| {
            let record = Record {
                path: numbered(n),
                parent: None,
                node: n,
                seq: n,
                entry: Some(file(1)),
                from: Some(numbered(n + 1)),
                exchanged: None,
            };
            Request::Record { generation: generation(n), record }
        }),
        of("learn", |n| Request::Learn { rows: rows(n, 0) }),
        of("learn, far ahead", |n| Request::Learn { rows: rows(n, 1 << 41) }),
        of("names", |n| Request::Names { numbers: owners(n) }),
        of("data of nothing", |_| Request::Data { generation: 5, data: Data::Chunk { offset: 0, bytes: megabyte() } }),
        of("copies", |n| match n {
            0 => put(0, 1 << 30, Source::Delta),
            _ => Request::Data { generation: generation(0), data: Data::Copy { offset: n, from: n, length: 1 } },
        }),
        of("holes", move |n| match n {
            0 => put(0, i64::MAX as u64, Source::Stream),
            _ => chunk(0, n << 30),
        }),
        of("sums", |n| match n {
            0 => Request::Supply { generation: 1000, path: path(b"d/e/f"), seq: 1, way: Way::Delta },
            n if n % 2 == 1 => Request::Sums { generation: 1000, sums: Sums::Basis { block: 64, size: 1 << 40 } },
            _ => Request::Sums { generation: 1000, sums: Sums::Blocks { sums: megabyte() } },
        }),
        of("a tunnel's bytes", |n| match n {
            0 => put(0, 1 << 30, Source::Rsync),
            1 => Request::Rsync { generation: 1000, piece: Tunnel::Arguments(vec![]) },
            _ => Request::Rsync { generation: 1000, piece: Tunnel::Bytes(megabyte()) },
        }),
        of("supply", |n| Request::Supply { generation: generation(n), path: path(b"d/e/f"), seq: 1, way: Way::Stream }),
        of("credit", |n| Request::Credit { generation: n, bytes: u64::MAX }),
        of("cancel", |n| Request::Cancel { generation: n }),
        of("hash", |_| Request::Hash { path: path(b"d/e/f") }).deaf(),
        of("examine", |n| Request::Examine { path: numbered(n), as_copy: true }),
        of("examine", |_| Request::Examine { path: path(b"d"), as_copy: true }).deaf(),
        of("rows", |_| Request::Rows { above: 0 }).deaf(),
        of("ping", |n| Request::Ping { number: n }).deaf(),
        of("hold", |n| Request::Hold { on: n % 2 == 0 }),
        of("scan", |_| Request::Scan { checksum: true }).deaf(),
        of("expire", |_| Request::Expire),
        of("settled", |_| Request::Settled),
        of("confirm", |n| Request::Confirm { upto: n }),
        of("start", |n| Request::Start(psync::protocol::Start { incarnation: n + 2, ..crate::scene::start() })).deaf(),
        raw("packed", |_| {
            packed_message(&Request::Data {
                generation: 5,
                data: Data::Whole { bytes: ByteBuf::from(vec![0; 1 << 20]) },
            })
        }),
        raw("pings of the link", |_| [0, 0, 0, 0, Kind::Ping as u8, 0, 0, 0, 0].repeat(100)).deaf(),
    ]
}

/// What an agent is asked in a survey.
fn asks() -> Vec<Flood<Ask>> {
    let look = |n: u64| Ask::Look { paths: (0..20_000).map(|i| numbered(n * 20_000 + i)).collect() };
    vec![
        of("survey: list", |_| Ask::List).deaf(),
        of("survey: look", look).deaf(),
        of("survey: hash", |_| Ask::Hash { paths: vec![path(b"d/e/f"); 1000] }).deaf(),
        of("survey: keep", |n| Ask::Keep {
            name: Name::new(format!("1-0-{n}").as_bytes()).unwrap(),
            paths: vec![numbered(n); 1000],
        })
        .deaf(),
        of("survey: trash", |_| Ask::Trash).deaf(),
        of("survey: alive", |_| Ask::Alive).deaf(),
    ]
}

fn report(n: u64, seq: u64) -> Reply {
    let entry = Entry { content: Content::Dir, ..file(0) };
    Reply::Report(Change {
        seq,
        path: numbered(n),
        parent: Some(1),
        known: None,
        moved: None,
        after: Some(entry),
        contents: true,
        touched: false,
        read: false,
        inline: None,
        like: None,
        below: 0,
        young: 0,
    })
}

fn large_report(n: u64) -> Reply {
    let Reply::Report(change) = report(n, n) else { unreachable!() };
    let inline = Some(ByteBuf::from(vec![b'l'; 60_000]));
    Reply::Report(Change { after: Some(file(60_000)), inline, parent: Some(n + 1_000_000), ..change })
}

/// What a brain is told.
fn replies() -> Vec<Flood<Reply>> {
    let problem = |n| Problem { path: numbered(n), kind: ProblemKind::Io, detail: "x".repeat(1000) };
    vec![
        of("rows", |n| Reply::Rows { rows: rows(n, 0) }).at_once(),
        of("rows, later", |n| Reply::Rows { rows: rows(n, 0) }),
        of("names", |n| Reply::Names { numbers: owners(n) }),
        of("room", |_| Reply::HasRoom),
        of("notes", |n| Reply::Note { text: format!("{n} {}", "note ".repeat(1300)) }),
        of("reports", |n| report(n, n)),
        of("reports of one path", |n| report(1, n)),
        of("reports with contents", large_report),
        of("problems", move |n| Reply::Problem { path: numbered(n), problem: Some(problem(n)) }),
        of("what is not set", |n| Reply::NotSet { counts: (0..1000).map(|i| (format!("kind {n} {i}"), 1)).collect() }),
        of("data of nothing", |_| Reply::Data { generation: 5, data: Data::Chunk { offset: 0, bytes: megabyte() } }),
        of("sums of nothing", |_| Reply::Sums { generation: 5, sums: Sums::Blocks { sums: megabyte() } }),
        of("a tunnel's bytes", |_| Reply::Rsync { generation: 5, piece: Tunnel::Bytes(megabyte()) }),
        of("credit", |n| Reply::Credit { generation: n, bytes: u64::MAX }),
        of("pong", |n| Reply::Pong { number: n }),
        of("cursor", |n| Reply::Cursor { path: numbered(n), files: u64::MAX, bytes: u64::MAX }),
        of("scanned", |_| Reply::ScanDone { files: u64::MAX, bytes: u64::MAX }),
        of("lost", |n| Reply::Lost { scope: numbered(n), reason: "r".repeat(6000) }),
        of("results", |n| Reply::Result { generation: n, outcome: Outcome::Done { entry: Some(file(n)), kept: None } }),
        of("recorded", |n| Reply::Recorded { generation: n }),
        of("clean", |n| Reply::Clean { path: numbered(n) }),
        of("halts", |n| Reply::Halt { reason: format!("{n} {}", "why ".repeat(1500)) }),
        of("hello", |_| Reply::Hello(crate::samples::Maker::new(crate::roll::Roll::new(1), NAME).hello())),
        of("stopped", |_| Reply::Stopped),
        raw("packed", |_| {
            packed_message(&Reply::Data { generation: 5, data: Data::Whole { bytes: ByteBuf::from(vec![0; 1 << 20]) } })
        }),
    ]
}

/// Runs all, some at a time; what went wrong with which.
fn run_all<T: Send>(floods: Vec<Flood<T>>, run: impl Fn(&mut Flood<T>) -> Result<String, String> + Sync) {
    let only = std::env::var("PSYNC_HOSTILE_FLOOD").unwrap_or_default();
    let waiting = Mutex::new(floods.into_iter().filter(|flood| flood.name.contains(&only)).collect::<Vec<_>>());
    assert!(!waiting.lock().unwrap().is_empty(), "no flood is called `{only}`");
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some(mut flood) = waiting.lock().unwrap().pop() else { return };
                    let name = format!("{}{}", flood.name, if flood.hears { "" } else { ", deaf" });
                    let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&mut flood)));
                    let ran = ran.unwrap_or_else(|_| Err("an assertion failed, see above".into()));
                    match ran {
                        Ok(told) => println!("{name}: {told}"),
                        Err(why) => {
                            println!("{name}: FAILED: {why:.2000}");
                            failed.lock().unwrap().push(name);
                        }
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{} floods got through: {failed:?}", failed.len());
}

fn judged(peak: u64, sent: u64) -> Result<String, String> {
    match peak > MEMORY_MAX {
        true => Err(format!("{} MiB after {sent} messages", peak >> 10)),
        false => Ok(format!("{sent} messages, {} MiB", peak >> 10)),
    }
}

#[test]
fn an_agent_bears_every_flood() {
    run_all(requests(), |flood| {
        let mut scene = Scene::new();
        let mut settings = plain_settings();
        if flood.name.contains("rsync") || flood.name.contains("tunnel") {
            settings.transport.transfer = Transfer::Rsync;
        }
        let mut brain = HostileBrain::with(&scene, settings);
        if flood.before == Before::Session {
            brain.open();
        }
        let sent = flood.run(&mut brain.talk, &brain.agent);
        let over = brain.agent.peak();
        if over > MEMORY_MAX {
            return judged(over, sent);
        }
        let peak = brain.end()?;
        scene.assert_honest_again(flood.name);
        judged(peak, sent)
    });
}

#[test]
fn an_agent_bears_every_flood_of_a_survey() {
    run_all(asks(), |flood| {
        let mut scene = Scene::new();
        let mut surveyor = HostileSurveyor::new(&scene);
        let sent = flood.run(&mut surveyor.talk, &surveyor.agent);
        let over = surveyor.agent.peak();
        if over > MEMORY_MAX {
            return judged(over, sent);
        }
        let peak = surveyor.end()?;
        scene.assert_honest_again(flood.name);
        judged(peak, sent)
    });
}

#[test]
fn a_brain_bears_every_flood() {
    /// So much may the log and what is said on stderr grow.
    const LOG_MAX: u64 = 20 << 20;
    run_all(replies(), |flood| {
        let mut scene = Scene::new();
        let hello = honest_hello(&scene);
        let mut agent = HostileAgent::new(&scene, &[]);
        let met = match flood.before {
            Before::Nothing => agent.meet(&hello),
            Before::Session => agent.meet_and_go(&hello),
        };
        let Some(mut talk) = met else { return Err(format!("the brain does not come: {}", agent.brain.said())) };
        let sent = flood.run(&mut talk, &agent.brain);
        drop(talk);
        let over = agent.brain.peak();
        if over > MEMORY_MAX {
            return judged(over, sent);
        }
        let said = agent.brain.said().len() as u64;
        let peak = agent.end()?;
        let log = said + std::fs::metadata(&scene.pair.log).map_or(0, |stat| stat.len());
        if log > LOG_MAX {
            return Err(format!("{} MiB of log after {sent} messages", log >> 20));
        }
        scene.assert_honest_again(flood.name);
        judged(peak, sent)
    });
}
