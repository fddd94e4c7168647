//! What an attack found once, said again by a hostile side: each is refused by what the side that acts knows itself.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use psync::link::handshake::Role;
use psync::model::{Attrs, Content, Entry, Principal, Time, Xattrs};
use psync::protocol::{
    AncestorRow, Apply, Change, Data, Displaced, Expect, Hello, Known, Reply, Request, Source, Step,
};
use psync::replica::metadata::CAPABILITY;
use serde_bytes::ByteBuf;

use crate::samples::path;
use crate::scene::{HostileAgent, HostileBrain, Scene, honest_hello};
use crate::support::service::Service;
use crate::support::users::*;
use crate::support::{NAME, PATIENCE, Pair, poll, process, tools};
use crate::talk::{Talk, WriteEnd};

/// Long enough on a busy machine, and nothing beside an hour.
const SOON: Duration = Duration::from_secs(20);

fn attrs(mode: u32) -> Attrs {
    let mtime = Time { secs: 1_600_000_000, nanos: 0 };
    Attrs { mode, user: Principal::Id(0), group: Principal::Id(0), mtime, xattrs: Xattrs::new() }
}

fn file(mode: u32, contents: &[u8]) -> Entry {
    Entry { content: Content::File { size: contents.len() as u64, hash: None }, attrs: attrs(mode) }
}

fn put(generation: u64, at: &[u8], entry: Entry, source: Source) -> Request {
    let step = Step::Put { entry, expect: Expect::Absent, displaced: Displaced::Trash, source };
    Request::Apply { generation, apply: Apply { path: path(at), parent: None, node: generation, step, joint: false } }
}

fn inline(contents: &[u8]) -> Source {
    Source::Inline(ByteBuf::from(contents.to_vec()))
}

/// All rows of an agent's archive.
fn rows(talk: &mut Talk<Reply>) -> Vec<AncestorRow> {
    talk.say(&Request::Rows { above: 0 });
    let mut all = Vec::new();
    talk.wait(PATIENCE, |reply| match reply {
        Reply::Rows { rows } => {
            all.extend(rows);
            None
        }
        Reply::RowsEnd => Some(()),
        _ => None,
    });
    all
}

/// The agent still does something else.
fn answers(talk: &mut Talk<Reply>) -> bool {
    talk.say(&Request::Ping { number: 4711 });
    talk.wait(SOON, |reply| (reply == Reply::Pong { number: 4711 }).then_some(())).is_some()
}

#[test]
fn a_piece_at_a_place_that_is_far_away_stops_nobody() {
    let mut scene = Scene::new();
    for (offset, size) in [(1 << 60, 10), (1 << 60, i64::MAX as u64), (u64::MAX - 3, 100), (1 << 43, 1 << 44)] {
        let mut brain = HostileBrain::new(&scene);
        let hello = brain.open();
        let generation = hello.generation + 10;
        let entry = Entry { content: Content::File { size, hash: None }, attrs: attrs(0o644) };
        brain.talk.say(&put(generation, b"far", entry, Source::Stream));
        let piece = Data::Chunk { offset, bytes: ByteBuf::from(vec![1; 10]) };
        brain.talk.say(&Request::Data { generation, data: piece });
        let goes_on = answers(&mut brain.talk);
        let ended = goes_on || brain.agent.wait_end(Duration::from_secs(2)).is_ok();
        assert!(ended, "after a piece at {offset} of {size} the agent neither answers nor ends the session");
        if goes_on {
            brain.end().unwrap();
        }
    }
    scene.assert_honest_again("a piece far away");
}

#[test]
fn a_piece_at_a_place_that_is_far_away_stops_no_brain() {
    let mut scene = Scene::new();
    let hello = honest_hello(&scene);
    for offset in [1_u64 << 60, u64::MAX - 3] {
        let mut agent = HostileAgent::new(&scene, &[]);
        let mut talk = agent.meet_and_go(&hello).expect("a session");
        talk.say(&Reply::Report(change(1, "far", None, Some(file(0o644, &[0; 100_000])))));
        let asked = talk.wait(PATIENCE, |request| match request {
            Request::Supply { generation, .. } => Some(generation),
            _ => None,
        });
        let generation = asked.expect("it wants the contents");
        let data = Data::Chunk { offset, bytes: ByteBuf::from(vec![1; 10]) };
        talk.say(&Reply::Data { generation, data });
        // Its own users are served all the same: it ends in time, with the word of a stop.
        std::thread::sleep(Duration::from_millis(500));
        drop(talk);
        process::send(agent.brain.pid(), nix::sys::signal::Signal::SIGTERM);
        let ended = agent.brain.wait_end(SOON);
        assert!(ended.is_ok(), "after a piece at {offset}: {}", ended.unwrap_err());
    }
    scene.assert_honest_again("a piece far away");
}

fn change(seq: u64, name: &str, known: Option<Known>, after: Option<Entry>) -> Change {
    let (contents, read, below) = (true, false, 0);
    let path = path(name.as_bytes());
    Change {
        seq,
        path,
        parent: Some(1),
        known,
        moved: None,
        after,
        contents,
        touched: false,
        read,
        inline: None,
        like: None,
        below,
        young: 0,
    }
}

/// 600 files on both sides, since these met: what one side sent within ten minutes after that it may take back.
fn crowded() -> Scene {
    Scene::with(|pair| (0..600).for_each(|n| plant(pair.left.join(format!("many {n}")), format!("{n}\n"))))
}

fn left_of_many(root: &Path) -> usize {
    (0..600).filter(|n| root.join(format!("many {n}")).exists()).count()
}

#[test]
fn a_brain_cannot_empty_the_right_side() {
    type Claim = fn(AncestorRow) -> Apply;
    let honest: Claim = |row| {
        let step = Step::Remove { expect: Expect::Row(row.generation), force: false };
        Apply { path: row.path, parent: Some(row.parent), node: row.node, step, joint: false }
    };
    let forced: Claim = |row| {
        let step = Step::Remove { expect: Expect::Row(row.generation), force: true };
        Apply { path: row.path, parent: None, node: row.node, step, joint: false }
    };
    let moved: Claim = |row| {
        let entry = row.entry.clone().unwrap();
        let to = path(format!("d/{}", row.node).as_bytes());
        let step = Step::Move { from: row.path, known: row.generation, entry, expect: Expect::Absent };
        Apply { path: to, parent: None, node: row.node, step, joint: false }
    };
    // A move is no deletion, and takes nothing away.
    for (name, claim, moves) in [("removed", honest, false), ("forced", forced, false), ("moved", moved, true)] {
        let scene = crowded();
        let mut brain = HostileBrain::new(&scene);
        let hello =
            crate::scene::open(&mut brain.talk, psync::protocol::Start { accept: false, ..crate::scene::start() });
        let hello = hello.expect("a Hello");
        let rows = rows(&mut brain.talk);
        brain.talk.say(&Request::Go { peer: hello.peer, scan: false, whole: false, doubt: false });
        let many = rows.into_iter().filter(|row| row.path.as_bytes().starts_with(b"many") && row.entry.is_some());
        let mut count = 0;
        for (row, n) in many.zip(1..) {
            let apply = claim(row);
            if !brain.talk.say(&Request::Apply { generation: hello.generation + n, apply }) {
                break;
            }
            brain.talk.ears.drain();
            count += 1;
        }
        answers(&mut brain.talk);
        drop(brain.end());
        let left = left_of_many(&scene.pair.right);
        println!("{name}: {count} asked, {left} left");
        let kept = if moves { std::fs::read_dir(scene.pair.right.join("d")).unwrap().count() } else { 0 };
        assert!(left + kept >= 250, "{name}: of 600 files {left} are left");
    }
}

#[test]
fn an_agent_cannot_empty_the_left_side() {
    type Claim = fn(&AncestorRow) -> Known;
    let honest: Claim = |row| Known { node: row.node, generation: row.generation, entry: row.entry.clone().unwrap() };
    let young: Claim = |row| Known { node: 1 << 60, generation: row.generation, entry: row.entry.clone().unwrap() };
    for (name, claim) in [("honest", honest), ("young", young)] {
        let scene = crowded();
        let (rows, hello) = {
            let mut brain = HostileBrain::new(&scene);
            let hello = crate::scene::open(&mut brain.talk, crate::scene::start()).expect("a Hello");
            let rows = rows(&mut brain.talk);
            brain.end().unwrap();
            assert!(rows.len() >= 600, "the agent told {} rows", rows.len());
            (rows, hello)
        };
        let mut agent = HostileAgent::new(&scene, &[]);
        let hello = Hello { watching: true, ..hello };
        let mut talk = agent.meet_and_go(&hello).expect("a session");
        let many = rows.iter().filter(|row| row.path.as_bytes().starts_with(b"many") && row.entry.is_some());
        for (row, seq) in many.zip(1..) {
            let name = std::str::from_utf8(row.path.as_bytes()).unwrap();
            if !talk.say(&Reply::Report(change(seq, name, Some(claim(row)), None))) {
                break;
            }
            talk.ears.drain();
        }
        // It has time to do what it will do.
        let before = left_of_many(&scene.pair.left);
        poll(Duration::from_secs(5), || {
            talk.ears.drain();
            left_of_many(&scene.pair.left) == 0 && before > 0
        });
        drop(talk);
        drop(agent.end());
        let left = left_of_many(&scene.pair.left);
        println!("{name}: {left} left");
        assert!(left >= 250, "{name}: of 600 files {left} are left");
    }
}

/// The travelling form of an ACL that lets user 4711 do anything.
fn acl_for_everything() -> Box<[u8]> {
    use psync::replica::metadata::{acl::Acl, owners::Owners};
    let lines = [(0x01, 6, u32::MAX), (0x02, 7, 4711), (0x04, 4, u32::MAX), (0x10, 7, u32::MAX), (0x20, 0, u32::MAX)];
    let mut kernel = 2_u32.to_le_bytes().to_vec();
    for (tag, allowed, id) in lines {
        kernel.extend(u16::to_le_bytes(tag).into_iter().chain(u16::to_le_bytes(allowed)));
        kernel.extend(u32::to_le_bytes(id));
    }
    let acl = Acl::from_kernel(&kernel, &Owners::new(psync::config::Owner::Numeric)).unwrap();
    acl.to_portable().unwrap().into()
}

#[test]
fn an_agent_has_no_say_in_the_acls_of_the_left() {
    const ACCESS: &[u8] = b"system.posix_acl_access";
    const DEFAULT: &[u8] = b"system.posix_acl_default";
    if !tools::has("setfacl") || !process::is_root() {
        return tools::missing("root, setfacl");
    }
    let mut scene = Scene::new();
    let left = scene.pair.left.clone();
    for name in ["open", "closed", "wiped", "claimed"] {
        plant(left.join(name), "contents\n");
        chmod(left.join(name), 0o640);
    }
    tools::run(&left, "setfacl", &["-m", "u:4711:---", "closed", "wiped"]);
    mkdir(left.join("dir"));
    scene.pair.sync();
    let (rows, hello) = {
        let mut brain = HostileBrain::new(&scene);
        let hello = crate::scene::open(&mut brain.talk, crate::scene::start()).expect("a Hello");
        let rows = rows(&mut brain.talk);
        brain.end().unwrap();
        (rows, hello)
    };
    let mut agent = HostileAgent::new(&scene, &[]);
    let hello = Hello { watching: true, ..hello };
    let mut talk = agent.meet_and_go(&hello).expect("a session");
    let known = |name: &str| {
        let row = rows.iter().find(|row| row.path.as_bytes() == name.as_bytes()).unwrap();
        Known { node: row.node, generation: row.generation, entry: row.entry.clone().unwrap() }
    };
    let mut say = |seq: u64, name: &str, known: Known, acl: Option<&[u8]>| {
        let mut after = known.entry.clone();
        after.attrs.mode |= 0o060;
        after.attrs.xattrs.remove(ACCESS);
        after.attrs.xattrs.extend(acl.map(|acl| (acl.into(), acl_for_everything())));
        let change = Change { contents: false, ..change(seq, name, Some(known), Some(after)) };
        talk.say(&Reply::Report(change));
    };
    say(1, "open", known("open"), Some(ACCESS));
    say(2, "closed", known("closed"), Some(ACCESS));
    say(3, "wiped", known("wiped"), None);
    say(4, "dir", known("dir"), Some(DEFAULT));
    // As if that had been agreed on.
    let mut claimed = known("claimed");
    claimed.entry.attrs.xattrs.insert(ACCESS.into(), acl_for_everything());
    say(5, "claimed", claimed, Some(ACCESS));
    let mut new = file(0o640, b"new\n");
    new.attrs.xattrs.insert(ACCESS.into(), acl_for_everything());
    let inline = Some(ByteBuf::from(b"new\n".to_vec()));
    talk.say(&Reply::Report(Change { inline, ..change(6, "new", None, Some(new)) }));
    let mode = |name: &str| std::fs::metadata(left.join(name)).map_or(0, |meta| meta.permissions().mode());
    let done = poll(PATIENCE, || {
        talk.ears.drain();
        let files = ["open", "closed", "wiped", "claimed", "dir"];
        files.iter().all(|name| mode(name) & 0o060 == 0o060) && left.join("new").exists()
    });
    let lists = ["open", "closed", "wiped", "claimed", "dir", "new"]
        .map(|name| tools::run(&left, "getfacl", &["-cpn", name]).replace('\n', " "));
    assert!(done, "{lists:?}\n{}", agent.brain.said());
    for (list, wanted) in lists.iter().zip([false, true, true, false, false, false]) {
        assert!(!list.contains("4711:rwx") && list.contains("user:4711:---") == wanted, "{lists:?}");
    }
    drop(talk);
    drop(agent.end());
    scene.assert_honest_again("ACLs from the right");
}

#[test]
fn what_is_psyncs_own_cannot_be_reached_by_name() {
    let mut scene = Scene::new();
    let own = Pair::own(&scene.pair.right);
    let names = |dir: &Path| -> Vec<String> {
        let mut names: Vec<String> =
            std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let before = names(&own);
    let row = |node: u64, parent: u64, at: &[u8], dir: bool| {
        let content = if dir { Content::Dir } else { Content::File { size: 1, hash: None } };
        let entry = Some(Entry { content, attrs: attrs(0o644) });
        AncestorRow { node, parent, path: path(at), generation: node, entry, joint: false }
    };
    type Say = Box<dyn Fn(u64) -> Vec<Request>>;
    let learn = move |g: u64| {
        let rows = vec![
            row(g + 1, 1, b"%psync", true),
            row(g + 2, g + 1, b"%psync/e2e", true),
            row(g + 3, g + 2, b"%psync/e2e/archive.db", false),
            row(g + 4, g + 2, b"%psync/e2e/trash.list", false),
        ];
        Request::Learn { rows }
    };
    let step = |step: Step, at: &[u8], node: u64, g: u64| Request::Apply {
        generation: g,
        apply: Apply { path: path(at), parent: None, node, step, joint: false },
    };
    let attacks: Vec<(&str, Say)> = vec![
        ("put", Box::new(|g| vec![put(g + 9, b"%psync/e2e/planted", file(0o644, b"x"), inline(b"x"))])),
        ("put below", Box::new(|g| vec![put(g + 9, b"%psync/e2e/trash/planted", file(0o644, b"x"), inline(b"x"))])),
        (
            "moved away",
            Box::new(move |g| {
                let (from, entry) = (path(b"%psync/e2e/archive.db"), file(0o644, b"x"));
                let away = Step::Move { from, known: g + 3, entry, expect: Expect::Absent };
                vec![learn(g), step(away, b"stolen.db", g + 3, g + 9)]
            }),
        ),
        (
            "removed",
            Box::new(move |g| {
                let gone = Step::Remove { expect: Expect::Row(g + 2), force: true };
                vec![learn(g), step(gone, b"%psync/e2e", g + 2, g + 9)]
            }),
        ),
        (
            "rights",
            Box::new(move |g| {
                let entry = Entry { content: Content::Dir, attrs: attrs(0o777) };
                vec![learn(g), step(Step::SetAttrs { entry, expect: Expect::Row(g + 1) }, b"%psync", g + 1, g + 9)]
            }),
        ),
        (
            "copied out",
            Box::new(move |g| {
                let held = Source::Held { from: path(b"%psync/e2e/archive.db"), node: g + 3, known: g + 3 };
                vec![learn(g), put(g + 9, b"stolen.db", file(0o644, b"x"), held)]
            }),
        ),
        ("examined", Box::new(|_| vec![Request::Examine { path: path(b"%psync/e2e/archive.db"), as_copy: true }])),
        ("another pair's", Box::new(|g| vec![put(g + 9, b"%psync/other", file(0o644, b"x"), inline(b"x"))])),
        ("deep", Box::new(|g| vec![put(g + 9, b"d/%psync", file(0o644, b"x"), inline(b"x"))])),
    ];
    for (name, say) in attacks {
        let mut brain = HostileBrain::new(&scene);
        let hello = brain.open();
        say(hello.generation).iter().all(|request| brain.talk.say(request));
        brain.talk.say(&Request::Ping { number: 4711 });
        let told = brain.talk.wait(SOON, |reply| match reply {
            Reply::Report(change) if change.path.as_bytes().starts_with(b".psync") => Some(true),
            Reply::Pong { number: 4711 } => Some(false),
            _ => None,
        });
        assert_ne!(told, Some(true), "{name}: it tells of what is psync's own");
        drop(brain.end());
        assert_eq!(names(&own), before, "{name}");
        assert!(!scene.pair.right.join("stolen.db").exists(), "{name}: stolen");
        assert_eq!(names(&scene.pair.right.join(".psync")), [NAME], "{name}");
        assert!(!scene.pair.right.join("d/.psync").exists(), "{name}: a directory of psync's in the tree");
        let mode = std::fs::metadata(scene.pair.right.join(".psync")).unwrap().permissions().mode();
        assert_eq!(mode & 0o077 & !0o055, 0, "{name}: others may write it: {mode:o}");
    }
    scene.assert_honest_again("psync's own");
}

#[test]
fn a_generation_from_the_end_of_time_poisons_no_archive() {
    for generation in [i64::MAX as u64, i64::MAX as u64 - 1, 1 << 62, u64::MAX] {
        let mut scene = Scene::new();
        let mut brain = HostileBrain::new(&scene);
        brain.open();
        let entry = Some(file(0o644, b"x"));
        let row =
            AncestorRow { node: 77, parent: 1, path: path(b"poison"), generation, entry: entry.clone(), joint: false };
        brain.talk.say(&Request::Learn { rows: vec![row] });
        let gone =
            AncestorRow { node: 78, parent: 1, path: path(b"poison too"), generation, entry: None, joint: false };
        brain.talk.say(&Request::Learn { rows: vec![gone] });
        brain.talk.say(&put(generation, b"poisoned", file(0o644, b"x"), inline(b"x")));
        brain.talk.say(&Request::Confirm { upto: generation });
        answers(&mut brain.talk);
        drop(brain.end());
        scene.assert_honest_again(&format!("generation {generation}, from a brain"));
    }
    for generation in [i64::MAX as u64, i64::MAX as u64 - 1, 1 << 62, u64::MAX] {
        let mut scene = Scene::new();
        let honest = honest_hello(&scene);
        for hello in
            [Hello { generation, ..honest.clone() }, Hello { generation, confirmed: generation, ..honest.clone() }]
        {
            let mut agent = HostileAgent::new(&scene, &["--accept"]);
            if let Some(mut talk) = agent.meet(&hello) {
                let entry = Some(file(0o644, b"x"));
                let row = AncestorRow { node: 77, parent: 1, path: path(b"poison"), generation, entry, joint: false };
                talk.say(&Reply::Rows { rows: vec![row] });
                talk.say(&Reply::RowsEnd);
                talk.say(&Reply::Report(change(1, "poison", None, None)));
                talk.wait(Duration::from_secs(2), |request: Request| matches!(request, Request::Stop).then_some(()));
            }
            drop(agent.end());
        }
        scene.assert_honest_again(&format!("generation {generation}, from an agent"));
    }
}

#[test]
fn nobody_at_the_socket_gets_a_setuid_program_or_a_capability() {
    if !process::is_root() {
        return tools::missing("root");
    }
    let mut scene = Scene::new();
    let mut service = Service::start(&scene.pair, "");
    let socket = service.run.join(format!("agent-{NAME}.sock"));
    let with = |mode: u32, capability: bool| {
        let mut entry = file(mode, b"#!/bin/sh\n");
        if capability {
            // cap_setuid+ep
            let value = [1, 0, 0, 2, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            entry.attrs.xattrs.insert(CAPABILITY.into(), Box::from(&value[..]));
        }
        entry
    };
    type Say = Box<dyn Fn(u64) -> Vec<Request>>;
    let then = |g: u64, entry: Entry| {
        let step = Step::SetAttrs { entry, expect: Expect::Row(g) };
        Request::Apply {
            generation: g + 1,
            apply: Apply { path: path(b"evil"), parent: None, node: g, step, joint: false },
        }
    };
    let plain = move || with(0o755, false);
    let attacks: Vec<(&str, Say)> = vec![
        ("setuid", Box::new(move |g| vec![put(g, b"evil", with(0o4755, false), inline(b"#!/bin/sh\n"))])),
        ("setgid", Box::new(move |g| vec![put(g, b"evil", with(0o2755, false), inline(b"#!/bin/sh\n"))])),
        ("capability", Box::new(move |g| vec![put(g, b"evil", with(0o755, true), inline(b"#!/bin/sh\n"))])),
        (
            "setuid, later",
            Box::new(move |g| vec![put(g, b"evil", plain(), inline(b"#!/bin/sh\n")), then(g, with(0o6755, false))]),
        ),
        (
            "capability, later",
            Box::new(move |g| vec![put(g, b"evil", plain(), inline(b"#!/bin/sh\n")), then(g, with(0o755, true))]),
        ),
        (
            "setuid, moved",
            Box::new(move |g| {
                let step =
                    Step::Move { from: path(b"evil"), known: g, entry: with(0o4755, false), expect: Expect::Absent };
                let apply = Apply { path: path(b"evil moved"), parent: None, node: g, step, joint: false };
                vec![put(g, b"evil", plain(), inline(b"#!/bin/sh\n")), Request::Apply { generation: g + 1, apply }]
            }),
        ),
        (
            "setuid, held",
            Box::new(move |g| {
                let held = Source::Held { from: path(b"evil"), node: g, known: g };
                vec![
                    put(g, b"evil", plain(), inline(b"#!/bin/sh\n")),
                    put(g + 1, b"evil copy", with(0o4755, false), held),
                ]
            }),
        ),
    ];
    for (at, (name, say)) in (1..).zip(attacks) {
        let call = UnixStream::connect(&socket).unwrap();
        let mut talk: Talk<Reply> = Talk::begin(call.try_clone().unwrap(), WriteEnd(call), Role::Brain, NAME);
        let start = psync::protocol::Start { incarnation: at, ..crate::scene::start() };
        let hello = crate::scene::open(&mut talk, start).expect("a Hello");
        talk.say(&Request::Go { peer: hello.peer, scan: false, whole: false, doubt: false });
        say(hello.generation + 10).iter().all(|request| talk.say(request));
        answers(&mut talk);
        talk.hang_up();
        assert!(talk.wait_end(PATIENCE), "{name}: the service does not let go of a brain that has hung up");
        for found in ["evil", "evil moved", "evil copy"].map(|name| scene.pair.right.join(name)) {
            let Ok(stat) = std::fs::symlink_metadata(&found) else { continue };
            let mode = stat.permissions().mode();
            assert_eq!(mode & 0o6000, 0, "{name}: {found:?} has mode {mode:o}");
            let mut value = [0; 64];
            let capability = rustix::fs::lgetxattr(&found, "security.capability", &mut value[..]);
            assert!(capability.is_err(), "{name}: {found:?} has a capability");
            std::fs::remove_file(found).unwrap();
        }
    }
    service.stop();
    scene.assert_honest_again("setuid");
}

/// What the other side gives as a reason ends in people's mail and terminals.
#[test]
fn the_reason_of_a_halt_is_one_line_of_print() {
    let scene = Scene::new();
    let hello = honest_hello(&scene);
    let told = scene.pair.beside("told");
    let evil = "\x1b]0;title\x07\x1b[2J\nSubject: forged\n\u{9b}31m\u{202e}";
    let mut agent = HostileAgent::as_service(&scene, &format!("alert_command = \"cat >> {}\"\n", told.display()));
    let mut talk = agent.meet(&hello).unwrap_or_else(|| panic!("no call: {}", agent.brain.said()));
    talk.say(&Reply::Halt { reason: evil.into() });
    let came = poll(PATIENCE, || std::fs::read(&told).is_ok_and(|told| !told.is_empty()));
    assert!(came, "no alert: {}", agent.brain.said());
    std::thread::sleep(Duration::from_millis(300));
    let alert = std::fs::read_to_string(&told).unwrap();
    drop(agent.end());
    let forged = |text: &str| {
        text.chars().any(|c| c == '\u{202e}' || c.is_control() && c != '\n')
            || text.lines().any(|l| l.starts_with("Subject: forged"))
    };
    assert!(!forged(&alert), "the alert: {alert:?}");
}

/// What was to be told to a brain that is gone is no reason to fall over.
#[test]
fn a_brain_that_hangs_up_behind_its_questions_ends_no_service() {
    let mut scene = Scene::new();
    let mut service = Service::start(&scene.pair, "");
    let socket = service.run.join(format!("agent-{NAME}.sock"));
    for incarnation in 1..=10 {
        let call = UnixStream::connect(&socket).unwrap();
        let mut talk: Talk<Reply> = Talk::begin(call.try_clone().unwrap(), WriteEnd(call), Role::Brain, NAME);
        let start = psync::protocol::Start { incarnation, ..crate::scene::start() };
        let hello = crate::scene::open(&mut talk, start).expect("a Hello");
        talk.say(&Request::Go { peer: hello.peer, scan: false, whole: false, doubt: false });
        // Each is answered at once, and all are there before the first answer is sent.
        for n in 0..300 {
            talk.say(&put(hello.generation + 1 + n, b"d/%psync", file(0o644, b"x"), inline(b"x")));
            talk.say(&Request::Examine { path: path(format!("d/{n}").as_bytes()), as_copy: false });
        }
        talk.hang_up();
        assert!(talk.wait_end(PATIENCE), "{}", service.log());
    }
    service.stop();
    scene.assert_honest_again("hung up");
}
