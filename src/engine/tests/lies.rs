//! A side that lies.

use super::*;
use crate::model::{Hash, OwnerNumber, Sides, Time};
use crate::protocol::{AncestorRow, Data, DirTime, DirTimeSet, Distrust, Remains, sane::WINDOW};

/// Whether the right side was put out, and why the pair halted.
fn put_out(effects: &[Effect]) -> Option<String> {
    let hung_up = effects.contains(&Effect::HangUp(Side::Right));
    let halted = effects.iter().find_map(|effect| match effect {
        Effect::Tell(News::Halted { reason, .. }) => Some(reason.clone()),
        _ => None,
    });
    halted.filter(|_| hung_up)
}

fn says(session: &mut Session, reply: Reply) -> Vec<Effect> {
    session.engine.handle(Input::Reply(Side::Right, reply), 20_000)
}

fn report(at: String, known: Option<Known>, after: Option<Entry>) -> Change {
    let contents = after.is_some();
    Change {
        seq: 1,
        path: path(&at),
        parent: Some(ROOT_NODE),
        known,
        moved: None,
        after,
        contents,
        touched: false,
        read: false,
        inline: None,
        like: None,
        below: 0,
        young: 0,
    }
}

fn doubt(number: u64, zeros: Vec<(u64, u64)>) -> Reply {
    let remains = Remains { size: 1 << 20, hash: Hash([0; 32]), zeros };
    Reply::Distrust { path: path(&format!("f{number}")), seq: number, why: Distrust::Remains(remains) }
}

/// A session in which the right's power has failed before.
fn after_a_power_cut() -> Session {
    let mut session = Session::begin(1000);
    session.engine.sides[Side::Right].hello.as_mut().expect("it said so").rebooted = true;
    session
}

#[test]
fn doubts_are_sound_and_have_an_end() {
    let mut session = after_a_power_cut();
    assert!(put_out(&says(&mut session, doubt(1, vec![(0, 4096)]))).is_none());
    let reason = put_out(&says(&mut session, doubt(2, vec![(4096, 1 << 20)]))).expect("no file has that");
    assert!(reason.contains("ranges"), "{reason}");
    let mut session = after_a_power_cut();
    let many: Vec<(u64, u64)> = (0..256).map(|n| (n * 4096, 1)).collect();
    let sent = (1..100_000).find(|n| put_out(&says(&mut session, doubt(*n, many.clone()))).is_some());
    // Sixteen thousand of four kilobytes.
    assert!(sent.is_some_and(|sent| sent > 10_000 && sent < 20_000), "{sent:?}");
}

#[test]
fn what_no_side_can_say_halts_the_pair_and_ends_the_link() {
    let late = AncestorRow { node: 20, parent: 1, path: path("f"), generation: 30, entry: Some(file(1)), joint: false };
    let mut odd = file(1);
    odd.attrs.mode = 0o200_000;
    for (reply, why) in [
        (
            Reply::Report(report("f".into(), Some(Known { generation: 500, ..known(1 << 60, file(1)) }), None)),
            "a node that nobody gave",
        ),
        (Reply::Report(report("f".into(), None, Some(odd))), "a mode out of range"),
        (Reply::Rows { rows: vec![late] }, "rows that nobody asked for"),
        (doubt(1, vec![]), "whose power did not fail"),
        (dir_times(2000, 1, 0), "a node that nobody gave"),
        (dir_times(ROOT_NODE, 1, 0), "a node that nobody gave"),
        (dir_times(20, 1, 1_000_000_000), "nanoseconds"),
        (dir_times(20, 257, 0), "more directories' times than one message has"),
        (Reply::DirTimesSet { outcomes: vec![(20, DirTimeSet::Done)] }, "nobody asked for"),
        (Reply::Names { numbers: vec![OwnerNumber { group: false, name: "a\nb".into(), id: 5 }] }, "owner's name"),
    ] {
        let mut session = Session::begin(1000);
        let reason = put_out(&says(&mut session, reply.clone())).unwrap_or_else(|| panic!("believed: {reply:?}"));
        assert!(reason.starts_with("right side: it said what cannot be: ") && reason.contains(why), "{reason}");
        assert!(session.engine.is_halted());
    }
}

#[test]
fn a_side_that_counts_far_ahead_is_not_followed() {
    for (side, far) in [(Side::Left, (1 << 63) - 1), (Side::Right, 1001 + WINDOW)] {
        let mut hellos = Sides::from_fn(|side| hello(side, 10, 9));
        hellos[side].generation = far;
        let mut engine = Engine::new(Session::begin(10).engine.settings.clone());
        engine.handle(Input::Start { incarnation: 1, accept: true, union: false }, 0);
        let (left, right) = hellos.split();
        engine.handle(Input::Reply(Side::Left, Reply::Hello(left)), 0);
        let effects = engine.handle(Input::Reply(Side::Right, Reply::Hello(right)), 0);
        let halted = effects.iter().find_map(|effect| match effect {
            Effect::Tell(News::Halted { reason, advice, .. }) => Some((reason.clone(), advice.clone())),
            _ => None,
        });
        let (reason, advice) = halted.expect("halted");
        assert!(reason.starts_with(&format!("the {} side counts far ahead", side.word())), "{reason}");
        assert!(advice.contains("--accept --union"), "{advice}");
        assert!(!effects.iter().any(|effect| matches!(effect, Effect::Send(_, Request::Rows { .. }))));
    }
}

/// The times of so many directories, from this node on.
fn dir_times(node: u64, count: u64, nanos: u32) -> Reply {
    let time = Time { secs: 5, nanos };
    Reply::DirTimes { times: (node..node + count).map(|node| DirTime { node, time }).collect() }
}

#[test]
fn directories_times_wait_within_bounds() {
    let begin = || {
        let mut session = Session::begin(1000);
        session.engine.next_generation = 1 << 20;
        session
    };
    let mut session = begin();
    let told = (0..1000).find(|n| put_out(&says(&mut session, dir_times(20 + n * 200, 200, 0))).is_some());
    assert_eq!(told, Some(10), "two thousand");
    // The same ones over and over are no more than that.
    let mut session = begin();
    for _ in 0..100 {
        assert!(put_out(&says(&mut session, dir_times(20, 256, 0))).is_none());
    }
    // The other side answers, and makes room.
    for n in 1..100 {
        let outcomes = (20..276).map(|node| (node + (n - 1) * 256, DirTimeSet::Done)).collect();
        let answered = Input::Reply(Side::Left, Reply::DirTimesSet { outcomes });
        let effects = session.engine.handle(answered, 20_000);
        let agreed = |effect: &Effect| matches!(effect, Effect::Send(Side::Right, Request::DirTimesAgreed { times }) if times.len() == 256);
        assert!(effects.iter().any(agreed), "{effects:?}");
        assert!(put_out(&says(&mut session, dir_times(20 + n * 256, 256, 0))).is_none());
    }
}

/// Neither reports nor lines fill the memory or the log.
#[test]
fn floods_have_an_end() {
    let mut session = Session::begin(1000);
    let long = "x".repeat(200);
    let mut sent = 0;
    while put_out(&says(&mut session, Reply::Report(report(format!("{sent}-{long}"), None, Some(file(1)))))).is_none() {
        sent += 1;
        assert!(sent < 1_000_000);
        assert!(session.engine.sides[Side::Right].weight <= 97 << 20);
    }
    assert!(sent > 50_000, "{sent}");

    let mut session = Session::begin(1000);
    let (mut told, mut sent) = (0, 0);
    loop {
        let effects = says(&mut session, Reply::Note { text: "words".into() });
        if put_out(&effects).is_some() {
            break;
        }
        told += effects.iter().filter(|effect| matches!(effect, Effect::Tell(News::Note { .. }))).count();
        sent += 1;
    }
    // Four megabytes of lines, each with what a log adds to it.
    assert!(told <= 40_000 && sent > 400_000, "{told} of {sent}");
}

#[test]
fn contents_that_came_along_are_asked_for_again_when_too_many_wait() {
    let mut session = Session::begin(1000);
    session.engine.handle(Input::Pause(true), 20_000);
    for n in 0..1000 {
        let inline = Some(serde_bytes::ByteBuf::from(vec![0; 32 * 1024]));
        let change = report(format!("f{n}"), None, Some(file(32 * 1024)));
        assert!(put_out(&says(&mut session, Reply::Report(Change { inline, ..change }))).is_none());
    }
    assert!(
        session.engine.sides[Side::Right].inline <= 17 << 20 && session.engine.sides[Side::Right].pending.len() == 1000
    );
}

#[test]
fn contents_without_credit_are_not_passed_on() {
    let mut session = Session::begin(0);
    let flight = super::super::flight::Flight::new(
        &path("f"),
        20,
        Some(file(1 << 30)),
        Sides::from_fn(|_| super::super::flight::Part::Nothing),
        Sides::both(None),
    );
    session.engine.flights.insert(20, flight);
    let chunk = |bytes| Reply::Data {
        generation: 20,
        data: Data::Chunk { offset: 0, bytes: serde_bytes::ByteBuf::from(vec![0; bytes]) },
    };
    assert!(put_out(&says(&mut session, chunk(Data::CREDIT as usize))).is_none());
    session.engine.handle(Input::Reply(Side::Left, Reply::Credit { generation: 20, bytes: 1000 }), 20_000);
    assert!(put_out(&says(&mut session, chunk(1000))).is_none());
    assert!(put_out(&says(&mut session, chunk(1))).is_some_and(|reason| reason.contains("credit")));
    let mut session = Session::begin(0);
    let flight = super::super::flight::Flight::new(
        &path("f"),
        20,
        None,
        Sides::from_fn(|_| super::super::flight::Part::Nothing),
        Sides::both(None),
    );
    session.engine.flights.insert(20, flight);
    let lie = Reply::Credit { generation: 20, bytes: u64::MAX };
    assert!(put_out(&says(&mut session, lie)).is_some_and(|reason| reason.contains("never sent")));
}
