//! What one side alone has done of an action that has something to do on both.

use super::*;
use crate::model::Hash;
use crate::protocol::{AncestorRow, Reply};

fn with(xattrs: &[&str]) -> Entry {
    let file = file(3);
    let xattrs = xattrs.iter().map(|name| (name.as_bytes().into(), (*b"1").into())).collect();
    let content = Content::File { size: 3, hash: Some(Hash::of(b"abc")) };
    Entry { content, attrs: Attrs { xattrs, ..file.attrs } }
}

/// A session in which the left tells a row of a joint action that the right lacks; what both sides are asked then.
fn half(joint: bool) -> (Session, Vec<Effect>) {
    let mut engine = Engine::new(Session::begin(10).engine.settings);
    engine.handle(Input::Start { incarnation: 1, accept: false, union: false }, 0);
    for side in Side::BOTH {
        engine.handle(Input::Reply(side, Reply::Hello(hello(side, 10, 5))), 0);
    }
    let entry = Some(with(&["user.a", "user.b"]));
    let row = AncestorRow { node: 18, parent: ROOT_NODE, path: path("f"), generation: 30, entry, joint };
    engine.handle(Input::Reply(Side::Left, Reply::Rows { rows: vec![row] }), 0);
    let effects = Side::BOTH.map(|side| engine.handle(Input::Reply(side, Reply::RowsEnd), 0));
    (Session { engine, seqs: 0 }, effects.into_iter().flatten().collect())
}

fn asked(effects: &[Effect]) -> Vec<Side> {
    let asked = effects.iter().filter_map(|effect| match effect {
        Effect::Send(side, Request::Examine { path: at, .. }) if *at == path("f") => Some(*side),
        _ => None,
    });
    asked.collect()
}

#[test]
fn both_sides_are_asked_for_what_one_of_them_may_not_have_done() {
    assert_eq!(asked(&half(false).1), []);
    let (mut session, effects) = half(true);
    assert_eq!(asked(&effects), Side::BOTH);
    // The right has b alone, which its users set: a was still to come, and c came since.
    let agreed = Known { node: 18, generation: 30, entry: with(&["user.a", "user.b"]) };
    let former = known(18, with(&[]));
    let root = Some(ROOT_NODE);
    assert_eq!(session.report(Side::Left, "f", root, Some(agreed.clone()), None, Some(agreed.entry), 0), []);
    let asked = session.report(Side::Right, "f", root, Some(former), None, Some(with(&["user.b", "user.c"])), 0);
    let all = with(&["user.a", "user.b", "user.c"]);
    let sets = |step: &Step| matches!(step, Step::SetAttrs { entry, .. } if entry.attrs == all.attrs);
    let told: Vec<_> = asked.iter().map(|(side, _, _, step)| (*side, sets(step))).collect();
    assert_eq!(told, [(Side::Left, true), (Side::Right, true)], "{asked:?}");
}

#[test]
fn nothing_is_confirmed_beyond_what_one_side_alone_has_done() {
    for joint in [false, true] {
        let (mut session, _) = half(joint);
        session.scanned(Side::Left);
        session.scanned(Side::Right);
        let new = session.report(Side::Left, "new", Some(ROOT_NODE), None, None, Some(file(0)), 0);
        let [(Side::Right, generation, ..)] = new[..] else { panic!("{new:?}") };
        let done = Reply::Result { generation, outcome: Outcome::Done { entry: None, kept: None } };
        session.reply(Side::Right, done, 0);
        let recorded = Input::Reply(Side::Left, Reply::Recorded { generation });
        let confirms = |effect: &Effect| matches!(effect, Effect::Send(_, Request::Confirm { .. }));
        assert_eq!(session.engine.handle(recorded, 0).iter().any(confirms), !joint);
    }
}
