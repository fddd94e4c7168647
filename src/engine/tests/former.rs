//! A new directory in the place of one that was moved away.

use super::*;

/// The left moved the directory `a` to `there`, and made another one in its place; the right refused the move. What is asked then.
fn refused(there: &str) -> (Session, Vec<Effect>) {
    let mut session = Session::begin(10);
    for side in Side::BOTH {
        session.scanned(side);
    }
    let dir = || Some(entry(Content::Dir));
    let (agreed, parent) = (Some(known(18, entry(Content::Dir))), Some(ROOT_NODE));
    let mut private = entry(Content::Dir);
    private.attrs.mode = 0o700;
    let moved = || Some(Moved { from: path("a"), known: known(18, entry(Content::Dir)), edited: false });
    session.report(Side::Left, "a", parent, None, None, Some(private), 0);
    let first = session.engine.flights.keys().next().copied().expect("it is tried at once");
    session.report(Side::Left, there, parent, None, moved(), dir(), 0);
    session.report(Side::Right, "a", parent, agreed, None, dir(), 0);
    let refused = Reply::Result { generation: first, outcome: Outcome::Refused };
    let effects = session.engine.handle(Input::Reply(Side::Right, refused), 0);
    (session, effects)
}

fn sets(effects: &[Effect]) -> bool {
    let set = |effect: &Effect| match effect {
        Effect::Send(_, Request::Apply { apply, .. }) => matches!(apply.step, Step::SetAttrs { .. }),
        _ => false,
    };
    effects.iter().any(set)
}

#[test]
fn the_move_goes_first() {
    let (_, effects) = refused("b");
    assert!(!sets(&effects), "{effects:?}");
    let moves = |effect: &Effect| match effect {
        Effect::Send(Side::Right, Request::Apply { apply, .. }) => matches!(apply.step, Step::Move { .. }),
        _ => false,
    };
    assert!(effects.iter().any(moves), "{effects:?}");
}

#[test]
fn what_was_moved_into_the_new_one_is_new_itself() {
    let (_, effects) = refused("a/b");
    assert!(!sets(&effects), "{effects:?}");
    let asked: Vec<_> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Send(Side::Left, Request::Examine { path, as_copy }) => Some((path.clone(), *as_copy)),
            _ => None,
        })
        .collect();
    assert_eq!(asked, [(path("a/b"), true), (path("a"), false)]);
}
