//! A value of every kind of message, with what an attacker would say in it.
//!
//! Each list is made from a `match` without a wildcard, and each structure is written with all its fields: a message, a
//! step or a field that is new does not compile before it is said here.

use std::sync::Arc;

use psync::model::{
    Attrs, Content, Entry, Hash, Kind, Name, OwnerNumber, Principal, Problem, ProblemKind, RelPath, Side, Time, Xattrs,
};
use psync::protocol::survey::Finding;
use psync::protocol::survey::Trashed;
use psync::protocol::{
    AncestorRow, Apply, Change, Data, DirTime, DirTimeSet, DirTimeWord, Displaced, Distrust, Expect, Hello, Kept,
    Known, Like, Moved, NewDirTime, Other, Outcome, Record, Remains, Reply, Request, Source, Start, Step, Sums, Tunnel,
    Way,
    survey::{Answer, Ask, Examination, Item},
};
use psync::replica::metadata::{ACL_ACCESS, ACL_DEFAULT, CAPABILITY, NTACL};
use serde_bytes::ByteBuf;

use crate::roll::Roll;

/// Stands in a made name for `.psync`, and becomes it on the wire (see [`forge`]): whatever this side's types
/// refuse, an attacker's do not.
pub const STANDS_FOR_OWN: &[u8] = b"%psync";

/// What goes over the line in place of a made message's bytes.
pub fn forge(bytes: &mut [u8]) {
    let mut at = 0;
    while let Some(found) = bytes[at..].windows(STANDS_FOR_OWN.len()).position(|part| part == STANDS_FOR_OWN) {
        at += found;
        bytes[at] = b'.';
    }
}

/// Declares two functions: all kinds of a type, one value each, and one value of any kind.
macro_rules! kinds {
    ($(#[$doc:meta])* $all:ident, $one:ident: $type:ty, $with:ident { $($pattern:pat => $make:expr,)+ }) => {
        $(#[$doc])*
        pub fn $all($with: &mut Maker) -> Vec<$type> {
            // Refuses to compile while a kind is missing.
            let kind = |value: &$type| match value {
                $($pattern => stringify!($pattern),)+
            };
            let made: Vec<$type> = vec![$($make),+];
            let named = [$(stringify!($pattern)),+];
            assert!(made.iter().map(kind).eq(named), "a maker makes another kind than it says");
            made
        }

        pub fn $one($with: &mut Maker) -> $type {
            let count = [$(stringify!($pattern)),+].len();
            let mut wanted = $with.roll.below(count);
            $(
                if wanted == 0 {
                    return $make;
                }
                wanted = wanted.wrapping_sub(1);
            )+
            unreachable!("one of {count}, {wanted}")
        }
    };
}

/// Makes values; knows names, nodes and numbers that mean something to the other side.
#[derive(Debug, Clone)]
pub struct Maker {
    pub roll: Roll,
    pub pair: String,
    /// Names in the root.
    pub paths: Vec<RelPath>,
    /// Nodes and generations that exist.
    pub numbers: Vec<u64>,
    /// The archives' identities, so that a session can go on.
    pub peer: [u8; 16],
    pub archive: [u8; 16],
    /// Numbers only from those that a session in good order could use.
    pub modest: bool,
}

pub fn path(bytes: &[u8]) -> RelPath {
    RelPath::new(bytes).expect("a path")
}

impl Maker {
    pub fn new(roll: Roll, pair: &str) -> Maker {
        let mut paths: Vec<RelPath> = [
            &b""[..],
            b"f",
            b"d",
            b"d/f",
            b"d/e/f",
            b"new",
            b"out",
            b"out/secret",
            b"out/dir/inner",
            b"link",
            b"%psync",
            b"%psync/e2e",
            b"%psync/e2e/archive.db",
            b"%psync/e2e/trash.list",
            b"%psync/e2e/trash",
            b"%psync/e2e/stage/1.1",
            b"d/%psync",
            b"d/%psync/e2e/archive.db",
            b"\x1b]0;title\x07",
            b"line\nbreak\ttab",
            b"\xff\xfe",
            b"-rf",
            b"d/\xe2\x80\xae",
        ]
        .map(path)
        .to_vec();
        paths.push(path(&[b'n'; 255]));
        paths.push(path(&vec![&b"a"[..]; 2048].join(&b'/')));
        paths.push(path(&vec![vec![b'x'; 255]; 15].join(&b'/')));
        let numbers = (0..40).collect();
        Maker { roll, pair: pair.into(), paths, numbers, peer: [7; 16], archive: [9; 16], modest: false }
    }

    pub fn u64(&mut self) -> u64 {
        let known = *self.roll.pick(&self.numbers);
        if self.modest || self.roll.once_in(3) {
            return known;
        }
        let near = known.wrapping_add(self.roll.number() % 5).wrapping_sub(2);
        *self.roll.pick(&[
            0,
            1,
            near,
            1 << 20,
            u64::from(u32::MAX),
            1 << 32,
            1 << 40,
            1 << 60,
            i64::MAX as u64 - 1,
            i64::MAX as u64,
            1 << 63,
            u64::MAX - 1,
            u64::MAX,
        ])
    }

    fn i64(&mut self) -> i64 {
        *self.roll.pick(&[0, 1, -1, 1_700_000_000, i64::MAX, i64::MIN, 1 << 40])
    }

    fn u32(&mut self) -> u32 {
        *self.roll.pick(&[0, 1, 0o644, 0o755, 0o4755, 0o6777, 0o7777, 1000, 65534, u32::MAX, 1 << 31])
    }

    fn bool(&mut self) -> bool {
        self.roll.once_in(2)
    }

    pub fn path(&mut self) -> RelPath {
        self.roll.pick(&self.paths).clone()
    }

    fn name(&mut self) -> Name {
        let names: [&[u8]; 8] = [b"f", b"%psync", b"1.1", b"archive.db", b"\n", b"\x1b[2J", b"\xff", b"-e"];
        let name = if self.roll.once_in(8) { &[b'n'; 255][..] } else { *self.roll.pick(&names) };
        Name::new(name).expect("a name")
    }

    fn text(&mut self) -> String {
        let texts = ["", "x", "\x1b]0;title\x07\n<0>forged: a line", "\u{202e}\u{0}", "{\"a\":1}"];
        if self.roll.once_in(6) { "long ".repeat(4000) } else { (*self.roll.pick(&texts)).into() }
    }

    fn bytes(&mut self) -> ByteBuf {
        let length = *self.roll.pick(&[0, 1, 5, 16, 31, 4096, 65_536, 1 << 20]);
        let first = self.roll.number() as u8;
        ByteBuf::from((0..length).map(|n| first.wrapping_add((n / 7) as u8)).collect::<Vec<u8>>())
    }

    fn hash(&mut self) -> Hash {
        *self.roll.pick(&[Hash([0; 32]), Hash([0xff; 32]), Hash::of(b""), Hash::of(b"contents\n")])
    }

    fn array(&mut self) -> [u8; 32] {
        *self.roll.pick(&[[0; 32], [0xff; 32]])
    }

    fn some<T>(&mut self, make: impl FnOnce(&mut Maker) -> T) -> Option<T> {
        if self.bool() { Some(make(self)) } else { None }
    }

    fn few<T>(&mut self, mut make: impl FnMut(&mut Maker) -> T) -> Vec<T> {
        let count = *self.roll.pick(&[0, 1, 2, 5]);
        (0..count).map(|_| make(self)).collect()
    }

    fn time(&mut self) -> Time {
        Time { secs: self.i64(), nanos: *self.roll.pick(&[0, 999_999_999, 1_000_000_000, u32::MAX]) }
    }

    fn xattrs(&mut self) -> Xattrs {
        let mut all = Xattrs::new();
        // cap_setuid+ep, as the kernel has it.
        let capability: &[u8] = &[1, 0, 0, 2, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let names = [
            &b"user.x"[..],
            ACL_ACCESS,
            ACL_DEFAULT,
            CAPABILITY,
            NTACL,
            b"trusted.x",
            b"security.ima",
            b"",
            b"user.a\0b",
        ];
        for _ in 0..self.roll.below(4) {
            let name = (*self.roll.pick(&names)).to_vec();
            let value = if self.bool() { capability.to_vec() } else { self.bytes().into_vec() };
            if value.len() <= 65_536 {
                all.insert(name.into(), value.into());
            }
        }
        all
    }

    pub fn attrs(&mut self) -> Attrs {
        Attrs {
            mode: self.u32(),
            user: principal(self),
            group: principal(self),
            mtime: self.time(),
            xattrs: self.xattrs(),
        }
    }

    pub fn entry(&mut self) -> Entry {
        Entry { content: content(self), attrs: self.attrs() }
    }

    pub fn apply(&mut self) -> Apply {
        Apply {
            path: self.path(),
            parent: self.some(Maker::u64),
            node: self.u64(),
            step: step(self),
            joint: self.bool(),
        }
    }

    pub fn record(&mut self) -> Record {
        Record {
            path: self.path(),
            parent: self.some(Maker::u64),
            node: self.u64(),
            seq: self.u64(),
            entry: self.some(Maker::entry),
            from: self.some(Maker::path),
            exchanged: self.some(Maker::u64),
        }
    }

    pub fn row(&mut self) -> AncestorRow {
        AncestorRow {
            node: self.u64(),
            parent: self.u64(),
            path: self.path(),
            generation: self.u64(),
            entry: self.some(Maker::entry),
            joint: self.bool(),
        }
    }

    pub fn known(&mut self) -> Known {
        Known { node: self.u64(), generation: self.u64(), entry: self.entry() }
    }

    pub fn change(&mut self) -> Change {
        Change {
            seq: self.u64(),
            path: self.path(),
            parent: self.some(Maker::u64),
            known: self.some(Maker::known),
            moved: self.some(|m| Moved { from: m.path(), known: m.known(), edited: m.bool() }),
            after: self.some(Maker::entry),
            contents: self.bool(),
            touched: self.bool(),
            read: self.bool(),
            inline: self.some(|m| {
                let mut bytes = m.bytes();
                bytes.truncate(65_536);
                bytes
            }),
            like: self.some(|m| Like { from: m.path(), node: m.u64(), generation: m.u64() }),
            below: self.u64(),
            young: self.u64(),
        }
    }

    pub fn owner(&mut self) -> OwnerNumber {
        OwnerNumber { group: self.bool(), name: self.text().into(), id: self.u32() }
    }

    pub fn problem(&mut self) -> Problem {
        Problem { path: self.path(), kind: problem_kind(self), detail: self.text() }
    }

    pub fn start(&mut self) -> Start {
        let others = ["", "..", "other", "e2e/../../x", "\n"];
        Start {
            pair: if self.roll.once_in(4) { (*self.roll.pick(&others)).into() } else { self.pair.clone() },
            incarnation: self.u64(),
            accept: self.bool(),
            union: self.bool(),
            filters: self.array(),
            dry_run: self.roll.once_in(4),
            root: if self.roll.once_in(4) { b"/etc/../\xff\n".to_vec() } else { vec![] },
        }
    }

    pub fn hello(&mut self) -> Hello {
        Hello {
            archive: self.archive,
            peer: self.peer,
            generation: self.u64(),
            confirmed: self.u64(),
            fresh: self.bool(),
            rebooted: self.bool(),
            rows: self.u64(),
            came: self.u64(),
            top_entries: self.u64(),
            side: self.some(|m| *m.roll.pick(&Side::BOTH)),
            exchanged: self.bool(),
            filters: self.array(),
            clock: self.i64(),
            watching: self.bool(),
        }
    }

    fn trashed(&mut self) -> Trashed {
        Trashed {
            id: self.name(),
            path: self.path(),
            since: self.i64(),
            size: self.u64(),
            reason: self.text(),
            kind: kind(self),
            copied: self.bool(),
        }
    }

    fn item(&mut self) -> Item {
        Item {
            path: self.path(),
            kind: kind(self),
            size: self.u64(),
            mtime: self.time(),
            changed: self.i64(),
            mode: self.u32(),
            user: principal(self),
            group: principal(self),
            target: self.some(|_| Box::from(&b"../../etc/passwd"[..])),
            xattrs: self.some(|m| m.hash()),
        }
    }

    fn examination(&mut self) -> Examination {
        Examination {
            program: self.text(),
            clock: self.i64(),
            root_rights: self.bool(),
            archive: self.bool(),
            filters: self.array(),
            findings: self.few(|m| Finding { check: m.text(), ok: m.bool(), found: m.text(), mend: m.text() }),
        }
    }
}

kinds! {
    /// Kinds of objects.
    all_kinds, kind: Kind, m {
        Kind::File => { let _ = &m; Kind::File },
        Kind::Dir => Kind::Dir,
        Kind::Link => Kind::Link,
        Kind::Fifo => Kind::Fifo,
    }
}

kinds! {
    principals, principal: Principal, m {
        Principal::Id(_) => Principal::Id(m.u32()),
        Principal::Name(_) => Principal::Name(Arc::from(*m.roll.pick(&["root", "", "nobody", "no such user", "shadow\n"]))),
    }
}

kinds! {
    contents, content: Content, m {
        Content::File { .. } => Content::File { size: m.u64(), hash: m.some(Maker::hash) },
        Content::Dir => Content::Dir,
        Content::Fifo => Content::Fifo,
        Content::Link { .. } => Content::Link {
            target: Box::from(*m.roll.pick(&[&b"../victims/secret"[..], b"/etc/passwd", b"", b"x\0y", &[b't'; 5000]])),
        },
    }
}

kinds! {
    problem_kinds, problem_kind: ProblemKind, m {
        ProblemKind::Unreadable => { let _ = &m; ProblemKind::Unreadable },
        ProblemKind::Unsupported => ProblemKind::Unsupported,
        ProblemKind::OtherFileSystem => ProblemKind::OtherFileSystem,
        ProblemKind::NoSpace => ProblemKind::NoSpace,
        ProblemKind::Busy => ProblemKind::Busy,
        ProblemKind::TooLong => ProblemKind::TooLong,
        ProblemKind::TooLarge => ProblemKind::TooLarge,
        ProblemKind::Unwatched => ProblemKind::Unwatched,
        ProblemKind::Io => ProblemKind::Io,
    }
}

kinds! {
    expectations, expect: Expect, m {
        Expect::Absent => { let _ = &m; Expect::Absent },
        Expect::Row(_) => Expect::Row(m.u64()),
        Expect::Report(_) => Expect::Report(m.u64()),
    }
}

kinds! {
    displacements, displaced: Displaced, m {
        Displaced::Trash => { let _ = &m; Displaced::Trash },
        Displaced::Copy(_) => Displaced::Copy(m.name()),
    }
}

kinds! {
    sources, source: Source, m {
        Source::Nothing => { let _ = &m; Source::Nothing },
        Source::Inline(_) => Source::Inline(m.bytes()),
        Source::Stream => Source::Stream,
        Source::Delta => Source::Delta,
        Source::Rsync => Source::Rsync,
        Source::Held { .. } => Source::Held { from: m.path(), node: m.u64(), known: m.u64() },
    }
}

kinds! {
    ways, way: Way, m {
        Way::Stream => { let _ = &m; Way::Stream },
        Way::Delta => Way::Delta,
        Way::Rsync => Way::Rsync,
    }
}

kinds! {
    tunnels, tunnel: Tunnel, m {
        Tunnel::Arguments(_) => Tunnel::Arguments(arguments(m)),
        Tunnel::Bytes(_) => Tunnel::Bytes(m.bytes()),
        Tunnel::Taken(_) => Tunnel::Taken(m.u64()),
        Tunnel::End => Tunnel::End,
    }
}

/// What an attacker would have rsync do.
pub fn arguments(m: &mut Maker) -> Vec<ByteBuf> {
    let words = [
        "--server",
        "-Ie.LsfxCIvu",
        ".",
        "x",
        "--sender",
        "--daemon",
        "--config=/etc/x",
        "--copy-dest=/",
        "--log-file=/x",
        "--write-devices",
        "-B4096",
        "--timeout=../3",
        "--remove-source-files",
        "/etc/passwd",
        "",
        "--",
        "-e",
    ];
    let count = m.roll.below(7);
    let mut all = vec![ByteBuf::from(&b"--server"[..])];
    all.extend((0..count).map(|_| ByteBuf::from(m.roll.pick(&words).as_bytes())));
    all
}

kinds! {
    steps, step: Step, m {
        Step::Put { .. } => Step::Put { entry: m.entry(), expect: expect(m), displaced: displaced(m), source: source(m) },
        Step::SetAttrs { .. } => Step::SetAttrs { entry: m.entry(), expect: expect(m) },
        Step::Move { .. } => Step::Move { from: m.path(), known: m.u64(), entry: m.entry(), expect: expect(m) },
        Step::Exchange { .. } => {
            let other = Other { node: m.u64(), known: m.u64(), at: m.some(Maker::path), to: m.path(), stays: m.bool() };
            Step::Exchange { from: m.path(), known: m.u64(), other }
        },
        Step::Remove { .. } => Step::Remove { expect: expect(m), force: m.bool() },
    }
}

kinds! {
    all_data, data: Data, m {
        Data::Room { .. } => Data::Room { bytes: m.u64() },
        Data::Chunk { .. } => Data::Chunk { offset: m.u64(), bytes: m.bytes() },
        Data::Copy { .. } => Data::Copy { offset: m.u64(), from: m.u64(), length: m.u64() },
        Data::Whole { .. } => Data::Whole { bytes: m.bytes() },
        Data::End { .. } => Data::End { size: m.u64(), hash: m.hash() },
        Data::Abort => Data::Abort,
    }
}

kinds! {
    all_sums, sums: Sums, m {
        Sums::Basis { .. } => Sums::Basis { block: m.u64(), size: m.u64() },
        Sums::Blocks { .. } => Sums::Blocks { sums: m.bytes() },
        Sums::End => Sums::End,
    }
}

kinds! {
    keepings, kept: Kept, m {
        Kept::Beside(_) => Kept::Beside(m.path()),
        Kept::Trash => Kept::Trash,
        Kept::Untold => Kept::Untold,
    }
}

kinds! {
    outcomes, outcome: Outcome, m {
        Outcome::Done { .. } => Outcome::Done { entry: m.some(Maker::entry), kept: m.some(kept) },
        Outcome::Refused => Outcome::Refused,
        Outcome::Busy => Outcome::Busy,
        Outcome::NoSource => Outcome::NoSource,
        Outcome::Failed(_) => Outcome::Failed(m.problem()),
    }
}

kinds! {
    time_words, time_word: DirTimeWord, m {
        DirTimeWord::Agreed(_) => DirTimeWord::Agreed(m.time()),
        DirTimeWord::Gone => { let _ = &m; DirTimeWord::Gone },
        DirTimeWord::Left => DirTimeWord::Left,
    }
}

kinds! {
    times_set, time_set: DirTimeSet, m {
        DirTimeSet::Done => { let _ = &m; DirTimeSet::Done },
        DirTimeSet::Differs(_) => DirTimeSet::Differs(m.time()),
        DirTimeSet::Gone => DirTimeSet::Gone,
    }
}

kinds! {
    /// Every kind of question.
    asks, ask: Ask, m {
        Ask::List => { let _ = &m; Ask::List },
        Ask::Look { .. } => Ask::Look { paths: m.few(Maker::path) },
        Ask::Hash { .. } => Ask::Hash { paths: m.few(Maker::path) },
        Ask::Keep { .. } => Ask::Keep { name: m.name(), paths: m.few(Maker::path) },
        Ask::Trash => Ask::Trash,
        Ask::Restore { .. } => Ask::Restore { id: m.name(), below: m.some(Maker::path), to: m.path() },
        Ask::Serves { .. } => Ask::Serves { root: b"/srv/\xff".to_vec() },
        Ask::Examine { .. } => Ask::Examine { root: b"/etc".to_vec() },
        Ask::Alive => Ask::Alive,
    }
}

kinds! {
    /// Every kind of answer.
    answers, answer: Answer, m {
        Answer::Items { .. } => Answer::Items { items: m.few(Maker::item) },
        Answer::Hashes { .. } => Answer::Hashes { hashes: m.few(|m| (m.path(), m.some(Maker::hash))) },
        Answer::Trashed { .. } => Answer::Trashed { items: m.few(Maker::trashed) },
        Answer::Examined(_) => Answer::Examined(m.examination()),
        Answer::Special { .. } => Answer::Special { files: m.u64() },
        Answer::Problem(_) => Answer::Problem(m.problem()),
        Answer::End => Answer::End,
        Answer::Failed { .. } => Answer::Failed { reason: m.text() },
    }
}

fn remains(m: &mut Maker) -> Remains {
    Remains { size: m.u64(), hash: m.hash(), zeros: m.few(|m| (m.u64(), m.u64())) }
}

kinds! {
    distrusts, distrust: Distrust, m {
        Distrust::Older => { let _ = &m; Distrust::Older },
        Distrust::Remains(_) => Distrust::Remains(remains(m)),
        Distrust::Unknown => Distrust::Unknown,
        Distrust::Emptied => Distrust::Emptied,
    }
}

kinds! {
    /// Every kind of request.
    requests, request: Request, m {
        Request::Start(_) => Request::Start(m.start()),
        Request::Rows { .. } => Request::Rows { above: m.u64() },
        Request::Learn { .. } => Request::Learn { rows: m.few(Maker::row) },
        Request::Go { .. } => Request::Go { peer: m.peer, scan: m.bool(), whole: m.bool(), doubt: m.bool() },
        Request::Apply { .. } => Request::Apply { generation: m.u64(), apply: m.apply() },
        Request::Record { .. } => Request::Record { generation: m.u64(), record: m.record() },
        Request::Examine { .. } => Request::Examine { path: m.path(), as_copy: m.bool() },
        Request::Supply { .. } => Request::Supply { generation: m.u64(), path: m.path(), seq: m.u64(), way: way(m) },
        Request::Rsync { .. } => Request::Rsync { generation: m.u64(), piece: tunnel(m) },
        Request::Sums { .. } => Request::Sums { generation: m.u64(), sums: sums(m) },
        Request::Data { .. } => Request::Data { generation: m.u64(), data: data(m) },
        Request::Credit { .. } => Request::Credit { generation: m.u64(), bytes: m.u64() },
        Request::Cancel { .. } => Request::Cancel { generation: m.u64() },
        Request::Hash { .. } => Request::Hash { path: m.path() },
        Request::Holds { .. } => Request::Holds { path: m.path(), remains: remains(m) },
        Request::Confirm { .. } => Request::Confirm { upto: m.u64() },
        Request::Scan { .. } => Request::Scan { checksum: m.bool() },
        Request::Ping { .. } => Request::Ping { number: m.u64() },
        Request::Stop => Request::Stop,
        Request::Hold { .. } => Request::Hold { on: m.bool() },
        Request::SetDirTimes { .. } => Request::SetDirTimes {
            times: m.few(|m| NewDirTime { node: m.u64(), time: m.time(), told: m.some(Maker::time) }),
        },
        Request::DirTimesAgreed { .. } => {
            Request::DirTimesAgreed { times: m.few(|m| (m.u64(), time_word(m))) }
        },
        Request::Names { .. } => Request::Names { numbers: m.few(Maker::owner) },
        Request::Settled => Request::Settled,
        Request::Expire => Request::Expire,
    }
}

kinds! {
    /// Every kind of reply.
    replies, reply: Reply, m {
        Reply::Hello(_) => Reply::Hello(m.hello()),
        Reply::Halt { .. } => Reply::Halt { reason: m.text() },
        Reply::Away { .. } => Reply::Away { reason: m.text() },
        Reply::OtherRoot { .. } => Reply::OtherRoot { root: b"/srv/\xff\n".to_vec() },
        Reply::Rows { .. } => Reply::Rows { rows: m.few(Maker::row) },
        Reply::RowsEnd => Reply::RowsEnd,
        Reply::Report(_) => Reply::Report(m.change()),
        Reply::Damaged { .. } => Reply::Damaged { detail: m.text() },
        Reply::Distrust { .. } => Reply::Distrust { path: m.path(), seq: m.u64(), why: distrust(m) },
        Reply::Holds { .. } => Reply::Holds { path: m.path(), is_part: m.bool() },
        Reply::Clean { .. } => Reply::Clean { path: m.path() },
        Reply::Cursor { .. } => Reply::Cursor { path: m.path(), files: m.u64(), bytes: m.u64() },
        Reply::ScanDone { .. } => Reply::ScanDone { files: m.u64(), bytes: m.u64() },
        Reply::Result { .. } => Reply::Result { generation: m.u64(), outcome: outcome(m) },
        Reply::Recorded { .. } => Reply::Recorded { generation: m.u64() },
        Reply::Data { .. } => Reply::Data { generation: m.u64(), data: data(m) },
        Reply::Credit { .. } => Reply::Credit { generation: m.u64(), bytes: m.u64() },
        Reply::Sums { .. } => Reply::Sums { generation: m.u64(), sums: sums(m) },
        Reply::Rsync { .. } => Reply::Rsync { generation: m.u64(), piece: tunnel(m) },
        Reply::Problem { .. } => Reply::Problem { path: m.path(), problem: m.some(Maker::problem) },
        Reply::NotSet { .. } => Reply::NotSet { counts: m.few(|m| (m.text(), m.u64())) },
        Reply::Unproven { .. } => Reply::Unproven { files: m.u64() },
        Reply::Special { .. } => Reply::Special { files: m.u64() },
        Reply::Tally { .. } => Reply::Tally { files: m.u64(), bytes: m.u64() },
        Reply::DirTimes { .. } => Reply::DirTimes { times: m.few(|m| DirTime { node: m.u64(), time: m.time() }) },
        Reply::DirTimesSet { .. } => Reply::DirTimesSet { outcomes: m.few(|m| (m.u64(), time_set(m))) },
        Reply::Note { .. } => Reply::Note { text: m.text() },
        Reply::HasRoom => Reply::HasRoom,
        Reply::Pong { .. } => Reply::Pong { number: m.u64() },
        Reply::Names { .. } => Reply::Names { numbers: m.few(Maker::owner) },
        Reply::Stopped => Reply::Stopped,
        Reply::Lost { .. } => Reply::Lost { scope: m.path(), reason: m.text() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use psync::link::codec;
    use psync::link::frame::HEADER;

    /// Every kind travels, is understood, and no forged name is lost on the way.
    /// It is understood, and is the same again from then on: words for people are cut and escaped where they arrive.
    fn travels<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(frame: &[u8]) {
        let message: T = codec::decode(&frame[HEADER..]).unwrap();
        let again = codec::encode(&message).unwrap();
        assert_eq!(again[HEADER + codec::SUM], frame[HEADER + codec::SUM], "another kind");
        assert_eq!(codec::decode::<T>(&again[HEADER..]).unwrap(), message);
    }

    #[test]
    fn every_kind_of_everything_is_made_and_travels() {
        let maker = &mut Maker::new(Roll::new(crate::roll::seed("samples")), "e2e");
        for _ in 0..50 {
            let parts = [
                all_kinds(maker).len(),
                principals(maker).len(),
                contents(maker).len(),
                problem_kinds(maker).len(),
                expectations(maker).len(),
                displacements(maker).len(),
                sources(maker).len(),
                ways(maker).len(),
                tunnels(maker).len(),
                steps(maker).len(),
                all_data(maker).len(),
                all_sums(maker).len(),
                keepings(maker).len(),
                outcomes(maker).len(),
                distrusts(maker).len(),
                times_set(maker).len(),
                time_words(maker).len(),
            ];
            assert!(parts.iter().all(|kinds| *kinds >= 2), "{parts:?}");
            for request in requests(maker) {
                if let Ok(frame) = codec::encode(&request) {
                    travels::<Request>(&frame);
                }
            }
            for reply in replies(maker) {
                if let Ok(frame) = codec::encode(&reply) {
                    travels::<Reply>(&frame);
                }
            }
            for ask in asks(maker) {
                travels::<Ask>(&codec::encode(&ask).unwrap());
            }
            for answer in answers(maker) {
                travels::<Answer>(&codec::encode(&answer).unwrap());
            }
        }
    }

    #[test]
    fn a_name_that_stands_for_psyncs_own_becomes_it_on_the_wire() {
        let request = Request::Hash { path: path(b"%psync/e2e/%psync") };
        let frame = crate::talk::frame_of(&request).unwrap();
        assert!(frame.ends_with(b".psync/e2e/.psync"));
    }
}
