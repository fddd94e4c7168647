//! When a conflict is told, and what it names.

use super::*;
use crate::protocol::{Displaced, Kept};

/// What is told of conflicts.
fn told(effects: Vec<Effect>) -> Vec<(RelPath, Side, Kept)> {
    let conflicts = effects.into_iter().filter_map(|effect| match effect {
        Effect::Tell(News::Conflict { path, loser, kept, .. }) => Some((path, loser, kept)),
        _ => None,
    });
    conflicts.collect()
}

/// Both sides changed a file, the left last; what the right is asked to place, and under which name it shall keep its own.
fn meet(session: &mut Session) -> (Generation, Displaced) {
    let version = |seconds: i64, size| {
        let file = file(size);
        Some(Entry { attrs: Attrs { mtime: Time { secs: seconds, nanos: 0 }, ..file.attrs }, ..file })
    };
    let known = || Some(known(18, file(1)));
    let first = session.report(Side::Right, "a", Some(ROOT_NODE), known(), None, version(100, 2), 0);
    let [(Side::Left, generation, _, Step::Put { .. })] = first[..] else { panic!("{first:?}") };
    session.report(Side::Left, "a", Some(ROOT_NODE), known(), None, version(200, 3), 0);
    let asked = session.reply(Side::Left, Reply::Result { generation, outcome: Outcome::Refused }, 0);
    let [(Side::Right, generation, _, Step::Put { displaced, .. })] = &asked[..] else { panic!("{asked:?}") };
    (*generation, displaced.clone())
}

fn answer(session: &mut Session, generation: Generation, outcome: Outcome) -> Vec<Effect> {
    session.engine.handle(Input::Reply(Side::Right, Reply::Result { generation, outcome }), 0)
}

#[test]
fn a_conflict_is_told_once_by_the_name_that_the_copy_got() {
    for kept in [Kept::Beside(path("a (conflict right 1970-01-01 00.01.40 b4e9)")), Kept::Trash, Kept::Untold] {
        let mut session = Session::begin(10);
        let (generation, displaced) = meet(&mut session);
        assert!(matches!(displaced, Displaced::Copy(_)), "{displaced:?}");
        let done = || Outcome::Done { entry: None, kept: Some(kept.clone()) };
        let effects = answer(&mut session, generation, done());
        assert_eq!(told(effects), [(path("a"), Side::Right, kept.clone())]);
        assert_eq!(told(answer(&mut session, generation, done())), [], "told twice");
        assert_eq!(told(session.engine.handle(Input::Reply(Side::Left, Reply::Recorded { generation }), 0)), []);
    }
}

#[test]
fn of_a_conflict_that_was_refused_nothing_is_told() {
    let problem = Problem { path: path("a"), kind: ProblemKind::Io, detail: "no".into() };
    for outcome in [Outcome::Refused, Outcome::Busy, Outcome::Failed(problem)] {
        let mut session = Session::begin(10);
        let (generation, _) = meet(&mut session);
        assert_eq!(told(answer(&mut session, generation, outcome.clone())), [], "{outcome:?}");
    }
}

/// The side that has the winner tells nothing of the loser.
#[test]
fn only_the_losers_side_tells_where_it_is() {
    let mut session = Session::begin(10);
    let (generation, _) = meet(&mut session);
    let outcome = Outcome::Done { entry: None, kept: Some(Kept::Beside(path("elsewhere"))) };
    let reply = Reply::Result { generation, outcome };
    assert_eq!(told(session.engine.handle(Input::Reply(Side::Left, reply), 0)), []);
}
