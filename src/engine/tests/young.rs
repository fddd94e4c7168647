//! Who removes what he made himself a moment ago is no disaster; who only says so is.

use super::*;

/// A pair of a thousand entries, of which so many came to the left of late.
fn begin(came: u64) -> Session {
    let (mut left, right) = (hello(Side::Left, 1000, 9), hello(Side::Right, 1000, 9));
    left.came = came;
    let (mut session, _) = Session::of(Sides::new(left, right));
    session.scanned(Side::Right);
    session.scanned(Side::Left);
    session
}

/// The right side says that a directory is gone with 900 objects, so many of them made a moment ago.
fn remove(session: &mut Session, at: &str, young: u64) -> Vec<Asked> {
    session.seqs += 1;
    let (seq, path, known) = (session.seqs, path(at), Some(known(18, entry(Content::Dir))));
    let change = Change {
        seq,
        path,
        parent: Some(1),
        known,
        moved: None,
        after: None,
        contents: true,
        touched: false,
        read: false,
        inline: None,
        like: None,
        below: 900,
        young,
    };
    session.reply(Side::Right, Reply::Report(change), 0)
}

/// The right side makes so many directories, and the left takes them.
fn make(session: &mut Session, count: u64) {
    for n in 0..count {
        let there = Some(entry(Content::Dir));
        let asked = session.report(Side::Right, &format!("new{n}"), Some(1), None, None, there, 0);
        let [(Side::Left, generation, ..)] = asked[..] else { panic!("{asked:?}") };
        let placed =
            Reply::Result { generation, outcome: Outcome::Done { entry: Some(entry(Content::Dir)), kept: None } };
        session.reply(Side::Left, placed, 0);
        session.reply(Side::Right, Reply::Recorded { generation }, 0);
    }
}

/// What the deleting side made itself is its own matter, whatever the size of the tree, as far as the other side has so much of
/// it. The rest counts.
#[test]
fn what_a_side_made_itself_it_may_delete() {
    for (young, came, halts) in [
        (901, 901, false),
        (901, u64::MAX, false),
        (850, 850, false),
        (300, 901, true),
        (0, 901, true),
        (901, 401, false),
        (901, 400, true),
        (901, 0, true),
    ] {
        let mut session = begin(came);
        remove(&mut session, "dir", young);
        assert_eq!(session.engine.is_halted(), halts, "{young} of 901, {came} came");
    }
}

#[test]
fn what_was_made_in_this_session_came_too() {
    for (made, halts) in [(500, false), (300, true)] {
        let mut session = begin(0);
        make(&mut session, made);
        remove(&mut session, "dir", 901);
        // The tree has grown meanwhile, and its size at the beginning counts.
        assert_eq!(session.engine.is_halted(), halts, "{made}");
    }
}

/// It is taken once for each object, however often that is tried.
#[test]
fn what_is_refused_is_not_used_up_and_what_is_gone_is() {
    let mut session = begin(901);
    let mut asked = remove(&mut session, "dir", 901);
    for n in 1..=5 {
        let [(Side::Left, generation, ..)] = asked[..] else { panic!("{asked:?}") };
        session.reply(Side::Left, Reply::Result { generation, outcome: Outcome::Busy }, (n - 1) * 61_000 + 1);
        asked = session.input(Input::Tick, n * 61_000);
        assert!(!session.engine.is_halted(), "try {n}");
    }
    let [(Side::Left, generation, ..)] = asked[..] else { panic!("{asked:?}") };
    session.reply(
        Side::Left,
        Reply::Result { generation, outcome: Outcome::Done { entry: None, kept: None } },
        305_001,
    );
    session.reply(Side::Right, Reply::Recorded { generation }, 305_002);
    remove(&mut session, "another", 901);
    assert!(session.engine.is_halted());
}

/// A program that cleans up while its files are still on their way: its directory waits for them, and is counted once.
#[test]
fn what_waits_for_its_turn_is_not_counted_meanwhile() {
    let mut session = begin(0);
    let report = |session: &mut Session, at: &str, below: u64| {
        let dir = (below > 0).then(|| known(18, entry(Content::Dir)));
        let there = dir.is_none().then(|| file(10));
        session.report(Side::Right, at, Some(18), dir, None, there, below)
    };
    let asked: Vec<Asked> = (0..30).flat_map(|n| report(&mut session, &format!("dir/{n}"), 0)).collect();
    assert_eq!(asked.len(), 30);
    assert!(report(&mut session, "dir", 99).is_empty());
    for (_, generation, ..) in asked {
        session.reply(Side::Left, Reply::Result { generation, outcome: Outcome::NoSource }, 0);
        assert!(!session.engine.is_halted(), "a hundred of a thousand");
    }
}

/// An alert says what to do, in every case, and what whoever runs it can do.
#[test]
fn no_advice_is_empty() {
    for service in [true, false] {
        for (reason, want) in [("the root was moved", "then go on: "), ("too many (--accept takes them)", "--accept")] {
            let mut session = Session::begin(10);
            session.engine.settings.service = service;
            let halt = Reply::Halt { reason: reason.to_owned() };
            let effects = session.engine.handle(Input::Reply(Side::Right, halt), 1);
            let advice = effects.iter().find_map(|effect| match effect {
                Effect::Tell(News::Halted { advice, .. }) => Some(advice.clone()),
                _ => None,
            });
            let advice = advice.expect("halted");
            assert!(advice.contains(want) && advice.contains("`psync resume pair") == service, "{advice}");
        }
    }
}
