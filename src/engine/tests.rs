//! Sessions of the engine as a script: what the two sides say, and what is asked of them.

use super::*;
use crate::model::{Attrs, Content, Entry, Principal, Problem, ProblemKind, ROOT_NODE, Sides, Time};
use crate::protocol::{Change, Data, Expect, Hello, Known, Like, Moved, Outcome, Reply, Request, Source, Step};

mod conflicts;
mod former;
mod halves;
mod lies;
mod rounds;
mod young;

const HALF: guard::Limit = guard::Limit::Share { percent: 50, at_least: 100 };

/// An engine in the middle of a session of a pair with this many rows; both scans have begun.
struct Session {
    engine: Engine,
    seqs: Seq,
}

fn path(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).unwrap()
}

fn entry(content: Content) -> Entry {
    let (user, group) = (Principal::Id(1000), Principal::Id(1000));
    Entry { content, attrs: Attrs { mode: 0o755, user, group, mtime: Time::default(), xattrs: Default::default() } }
}

fn file(size: u64) -> Entry {
    entry(Content::File { size, hash: None })
}

fn known(node: NodeId, entry: Entry) -> Known {
    Known { node, generation: node, entry }
}

/// What is asked of a side.
type Asked = (Side, Generation, RelPath, Step);

fn hello(side: Side, rows: u64, top_entries: u64) -> Hello {
    let ids = Sides::new([1; 16], [2; 16]);
    let fresh = rows == 0;
    Hello {
        archive: ids[side],
        peer: if fresh { [0; 16] } else { ids[side.other()] },
        generation: if fresh { 0 } else { 1000 },
        confirmed: if fresh { 0 } else { 1000 },
        fresh,
        rebooted: false,
        rows,
        came: 0,
        top_entries,
        side: (!fresh).then_some(side),
        exchanged: false,
        filters: [0; 32],
        clock: 0,
        watching: false,
    }
}

impl Session {
    fn begin(rows: u64) -> Session {
        Session::of(Sides::from_fn(|side| hello(side, rows, 9))).0
    }

    /// The same, and what was asked of the sides last.
    fn of(hellos: Sides<Hello>) -> (Session, Vec<Effect>) {
        let mut engine = Engine::new(Settings {
            pair: "pair".into(),
            prefer: Prefer::Newest,
            copies: true,
            force: false,
            skip_initial: false,
            max_delete: HALF,
            delta_min: u64::MAX,
            rsync: false,
            dry_run: false,
            once: false,
            filters: [0; 32],
            right_root: Vec::new(),
            service: true,
        });
        engine.handle(Input::Start { incarnation: 1, accept: false, union: false }, 0);
        for (side, hello) in Side::BOTH.into_iter().zip(hellos.into_values()) {
            engine.handle(Input::Reply(side, Reply::Hello(hello)), 0);
        }
        let asked = Sides::from_fn(|side| engine.handle(Input::Reply(side, Reply::RowsEnd), 0));
        (Session { engine, seqs: 0 }, asked.into_values().flatten().collect())
    }

    /// Takes a reply; returns what is to be applied now.
    fn reply(&mut self, side: Side, reply: Reply, now: Millis) -> Vec<Asked> {
        self.input(Input::Reply(side, reply), now)
    }

    fn input(&mut self, input: Input, now: Millis) -> Vec<Asked> {
        let effects = self.engine.handle(input, now);
        let applies = effects.into_iter().filter_map(|effect| match effect {
            Effect::Send(side, Request::Apply { generation, apply }) => {
                Some((side, generation, apply.path, apply.step))
            }
            _ => None,
        });
        applies.collect()
    }

    #[allow(clippy::too_many_arguments)]
    fn report(
        &mut self,
        side: Side,
        at: &str,
        parent: Option<NodeId>,
        known: Option<Known>,
        moved: Option<Moved>,
        after: Option<Entry>,
        below: u64,
    ) -> Vec<Asked> {
        self.seqs += 1;
        let contents = moved.is_none();
        let (seq, path) = (self.seqs, path(at));
        let change = Change {
            seq,
            path,
            parent,
            known,
            moved,
            after,
            contents,
            touched: false,
            read: false,
            inline: None,
            like: None,
            below,
            young: 0,
        };
        self.reply(side, Reply::Report(change), 0)
    }

    fn scanned(&mut self, side: Side) -> Vec<Asked> {
        self.reply(side, Reply::ScanDone { files: 3, bytes: 3 }, 0)
    }
}

#[test]
fn the_old_name_of_what_moved_is_no_deletion() {
    let mut session = Session::begin(10);
    let dir = || known(18, entry(Content::Dir));
    // Right edited a file in the directory that left renamed; the edit is under way before left says so.
    let edit = session.report(Side::Right, "dir/a", Some(18), Some(known(19, file(14))), None, Some(file(20)), 0);
    let [(Side::Left, generation, _, Step::Put { .. })] = edit[..] else { panic!("{edit:?}") };
    assert!(session.scanned(Side::Right).is_empty());
    assert!(session.report(Side::Left, "dir", Some(1), Some(dir()), None, None, 3).is_empty());
    let moved = Moved { from: path("dir"), known: dir(), edited: false };
    let there = Some(entry(Content::Dir));
    assert!(session.report(Side::Left, "moved", Some(1), None, Some(moved), there, 0).is_empty());
    assert!(session.scanned(Side::Left).is_empty());
    // Both the deletion and the move waited for the edit, which is refused now.
    session.report(Side::Left, "dir/a", None, None, None, None, 0);
    let next = session.reply(Side::Left, Reply::Result { generation, outcome: Outcome::Refused }, 0);
    let removals = next.iter().filter(|(.., step)| matches!(step, Step::Remove { .. })).count();
    assert_eq!(removals, 0, "{next:?}");
    let moves =
        |(side, _, at, step): &Asked| *side == Side::Right && *at == path("moved") && matches!(step, Step::Move { .. });
    // The edit may be tried once more before it is understood that its directory has gone.
    let again = next.iter().find(|(_, _, at, _)| *at == path("dir/a")).map(|(_, generation, ..)| *generation);
    let last = match again {
        Some(generation) => {
            session.report(Side::Left, "dir/a", None, None, None, None, 0);
            session.reply(Side::Left, Reply::Result { generation, outcome: Outcome::Refused }, 0)
        }
        None => next,
    };
    assert!(last.iter().any(moves), "{last:?}");
    assert!(!last.iter().any(|(.., step)| matches!(step, Step::Remove { .. })), "{last:?}");
}

#[test]
fn a_renamed_tree_is_no_mass_deletion() {
    let mut session = Session::begin(1000);
    let dir = || known(18, entry(Content::Dir));
    session.scanned(Side::Right);
    // Something below is under way, so that the move has to wait.
    session.report(Side::Right, "dir/a", Some(18), Some(known(19, file(14))), None, Some(file(20)), 0);
    session.report(Side::Left, "dir", Some(1), Some(dir()), None, None, 900);
    let moved = Moved { from: path("dir"), known: dir(), edited: false };
    session.report(Side::Left, "moved", Some(1), None, Some(moved), Some(entry(Content::Dir)), 0);
    session.report(Side::Left, "old", Some(1), Some(known(20, file(1))), None, None, 0);
    // It does not wait for a move that waits itself.
    let done = session.scanned(Side::Left);
    assert!(!session.engine.is_halted());
    assert!(matches!(&done[..], [(Side::Right, _, at, Step::Remove { .. })] if *at == path("old")), "{done:?}");
}

#[test]
fn a_mass_deletion_halts() {
    let mut session = Session::begin(1000);
    session.scanned(Side::Right);
    session.report(Side::Left, "dir", Some(1), Some(known(18, entry(Content::Dir))), None, None, 900);
    session.report(Side::Left, "old", Some(1), Some(known(20, file(1))), None, None, 0);
    assert!(session.scanned(Side::Left).is_empty());
    assert!(session.engine.is_halted());
}

#[test]
fn a_saved_file_that_kept_its_old_one_is_copied_there_before_it_changes() {
    let mut session = Session::begin(10);
    Side::BOTH.into_iter().for_each(|side| assert!(session.scanned(side).is_empty()));
    let row = || known(19, file(50_000));
    let mut backup = |like: bool| {
        session.seqs += 1;
        let like = like.then(|| Like { from: path("a"), node: 19, generation: 19 });
        let (seq, path, after) = (session.seqs, path("a~"), Some(file(50_000)));
        let (parent, known, moved, inline) = (Some(1), None, None, None);
        let change = Change {
            seq,
            path,
            parent,
            known,
            moved,
            after,
            contents: true,
            touched: false,
            read: false,
            inline,
            like,
            below: 0,
            young: 0,
        };
        session.reply(Side::Left, Reply::Report(change), 0)
    };
    let copy = backup(true);
    let [(Side::Right, generation, _, Step::Put { source: Source::Held { from, known: 19, .. }, .. })] = &copy[..]
    else {
        panic!("{copy:?}")
    };
    assert_eq!(*from, path("a"));
    // The name itself waits until its old object is copied.
    assert!(session.report(Side::Left, "a", Some(1), Some(row()), None, Some(file(60_000)), 0).is_empty());
    // It is not there as it was: the contents are sent.
    let refused = Reply::Result { generation: *generation, outcome: Outcome::NoSource };
    let mut next = session.reply(Side::Right, refused, 0);
    next.sort_by(|a, b| a.2.cmp(&b.2));
    let sent = |step: &Step| matches!(step, Step::Put { source: Source::Stream, .. });
    assert!(
        matches!(&next[..], [(.., a, one), (.., b, two)] if *a == path("a") && *b == path("a~") && sent(one) && sent(two)),
        "{next:?}"
    );
}

#[test]
fn small_contents_come_with_the_scan_where_the_other_side_is_empty() {
    for (rows, [left, right], want) in [
        (0, [5, 0], [true, false]),
        (0, [0, 5], [false, true]),
        (0, [5, 5], [false, false]),
        // What the archives know is mostly on both sides.
        (10, [5, 9], [false, false]),
    ] {
        let (_, asked) = Session::of(Sides::new(hello(Side::Left, rows, left), hello(Side::Right, rows, right)));
        let wholes = asked.iter().filter_map(|effect| match effect {
            Effect::Send(_, Request::Go { whole, .. }) => Some(*whole),
            _ => None,
        });
        assert_eq!(wholes.collect::<Vec<_>>(), want, "{rows} rows, {left} and {right} entries");
    }
}

/// What is asked about a file that was reported in a directory as one without a node, after that was made.
fn asked_below_a_new_directory(meanwhile: impl FnOnce(&mut Session)) -> Vec<Effect> {
    let mut session = Session::begin(10);
    Side::BOTH.into_iter().for_each(|side| assert!(session.scanned(side).is_empty()));
    let made = session.report(Side::Left, "d", Some(ROOT_NODE), None, None, Some(entry(Content::Dir)), 0);
    let [(Side::Right, generation, ..)] = made[..] else { panic!("{made:?}") };
    let placed = Reply::Result { generation, outcome: Outcome::Done { entry: Some(entry(Content::Dir)), kept: None } };
    assert!(session.reply(Side::Right, placed, 0).is_empty());
    session.reply(Side::Left, Reply::Recorded { generation }, 0);
    meanwhile(&mut session);
    session.seqs += 1;
    let (seq, after) = (session.seqs, Some(file(0)));
    let (parent, known, moved, inline, like) = (None, None, None, None, None);
    let change = Change {
        seq,
        path: path("d/f"),
        parent,
        known,
        moved,
        after,
        contents: true,
        touched: false,
        read: false,
        inline,
        like,
        below: 0,
        young: 0,
    };
    session.engine.handle(Input::Reply(Side::Left, Reply::Report(change)), 0)
}

#[test]
fn what_was_reported_before_its_directory_had_a_node_is_not_asked_for_again() {
    let asked = asked_below_a_new_directory(|_| {});
    let applied = asked.iter().find_map(|effect| match effect {
        Effect::Send(Side::Right, Request::Apply { apply, .. }) => apply.parent,
        _ => None,
    });
    assert!(applied.is_some_and(|parent| parent != ROOT_NODE), "{asked:?}");
    // Once something has moved, a directory's name may be another's.
    let asked = asked_below_a_new_directory(|session| {
        let moved = Moved { from: path("old"), known: known(18, file(1)), edited: false };
        let moves = session.report(Side::Left, "new", Some(ROOT_NODE), None, Some(moved), Some(file(1)), 0);
        let [(Side::Right, generation, _, Step::Move { .. })] = moves[..] else { panic!("{moves:?}") };
        session.reply(
            Side::Right,
            Reply::Result { generation, outcome: Outcome::Done { entry: Some(file(1)), kept: None } },
            0,
        );
        session.reply(Side::Left, Reply::Recorded { generation }, 0);
    });
    assert!(matches!(asked[..], [Effect::Send(Side::Left, Request::Examine { .. })]), "{asked:?}");
}

/// A directory that is for its owner alone.
fn closed() -> Entry {
    let dir = entry(Content::Dir);
    Entry { attrs: Attrs { mode: 0o700, ..dir.attrs }, ..dir }
}

#[test]
fn what_lies_in_a_directory_waits_until_both_sides_have_its_rights() {
    let mut session = Session::begin(10);
    Side::BOTH.into_iter().for_each(|side| assert!(session.scanned(side).is_empty()));
    let dir = || known(18, entry(Content::Dir));
    let closing = session.report(Side::Left, "d", Some(ROOT_NODE), Some(dir()), None, Some(closed()), 0);
    let [(Side::Right, generation, _, Step::SetAttrs { .. })] = closing[..] else { panic!("{closing:?}") };
    // New in it, below it, and moved into it; a neighbour's goes on.
    assert!(session.report(Side::Left, "d/s", Some(18), None, None, Some(file(0)), 0).is_empty());
    assert!(session.report(Side::Left, "d/e/s", Some(19), None, None, Some(file(0)), 0).is_empty());
    let moved = Moved { from: path("old"), known: known(20, file(1)), edited: false };
    assert!(session.report(Side::Left, "d/new", Some(18), None, Some(moved), Some(file(1)), 0).is_empty());
    assert_eq!(session.report(Side::Left, "dd", Some(ROOT_NODE), None, None, Some(file(0)), 0).len(), 1);
    let placed = Reply::Result { generation, outcome: Outcome::Done { entry: Some(closed()), kept: None } };
    session.reply(Side::Right, placed, 0);
    let asked = session.reply(Side::Left, Reply::Recorded { generation }, 0);
    let mut paths: Vec<String> = asked.iter().map(|(_, _, path, _)| path.to_string()).collect();
    paths.sort();
    assert_eq!(paths, ["d/e/s", "d/new", "d/s"]);
}

#[test]
fn what_lies_in_a_directory_that_moved_waits_for_the_word_of_its_new_rights() {
    let mut session = Session::begin(10);
    Side::BOTH.into_iter().for_each(|side| assert!(session.scanned(side).is_empty()));
    let moved = Moved { from: path("d"), known: known(18, entry(Content::Dir)), edited: true };
    let moves = session.report(Side::Left, "e", Some(ROOT_NODE), None, Some(moved), Some(entry(Content::Dir)), 0);
    let [(Side::Right, generation, _, Step::Move { .. })] = moves[..] else { panic!("{moves:?}") };
    assert!(session.report(Side::Left, "e/s", Some(18), None, None, Some(file(0)), 0).is_empty());
    let placed = Reply::Result { generation, outcome: Outcome::Done { entry: Some(entry(Content::Dir)), kept: None } };
    assert!(session.reply(Side::Right, placed, 0).is_empty());
    // It has its new name on both sides, and the left has not said yet which rights it has.
    assert!(session.reply(Side::Left, Reply::Recorded { generation }, 0).is_empty());
    let dir = Known { generation, ..known(18, entry(Content::Dir)) };
    let closing = session.report(Side::Left, "e", Some(ROOT_NODE), Some(dir), None, Some(closed()), 0);
    assert!(closing.iter().all(|(_, _, at, step)| *at == path("e") && matches!(step, Step::SetAttrs { .. })));
    let [(Side::Right, generation, ..)] = closing[..] else { panic!("{closing:?}") };
    let placed = Reply::Result { generation, outcome: Outcome::Done { entry: Some(closed()), kept: None } };
    session.reply(Side::Right, placed, 0);
    session.reply(Side::Left, Reply::Recorded { generation }, 0);
    assert!(session.engine.load().1 > 0 || !session.engine.sides[Side::Left].asked.is_empty(), "e/s was forgotten");
}

/// The paths that sides are asked to read.
fn hashed(effects: &[Effect]) -> Vec<Side> {
    let asked = effects.iter().filter_map(|effect| match effect {
        Effect::Send(side, Request::Hash { .. }) => Some(*side),
        _ => None,
    });
    asked.collect()
}

#[test]
fn both_files_are_read_before_one_is_made_setuid() {
    let mut session = Session::begin(10);
    for side in Side::BOTH {
        session.scanned(side);
    }
    let content =
        |text: &str| Content::File { size: text.len() as u64, hash: Some(crate::model::Hash::of(text.as_bytes())) };
    let of = |text: &str, mode: u32| {
        let mut entry = entry(content(text));
        entry.attrs.mode = mode;
        entry
    };
    let change = |seq, after: Entry, read| Change {
        seq,
        path: path("tool"),
        parent: Some(ROOT_NODE),
        known: Some(known(19, of("reviewed", 0o755))),
        moved: None,
        contents: after.content != content("reviewed"),
        touched: false,
        after: Some(after),
        read,
        inline: None,
        like: None,
        below: 0,
        young: 0,
    };
    let mut say = |side, reply, now| session.engine.handle(Input::Reply(side, reply), now);
    let granted = |seq, read| Reply::Report(change(seq, of("reviewed", 0o4755), read));
    // The archive's word is not enough, on either side.
    assert_eq!(hashed(&say(Side::Left, granted(1, false), 10)), Side::BOTH);
    assert_eq!(hashed(&say(Side::Left, granted(2, true), 11)), []);
    // Somebody writes it: the right has nothing to say for now, and is not asked without end.
    let clean = || Reply::Clean { path: path("tool") };
    assert_eq!(hashed(&say(Side::Right, clean(), 12)), [Side::Right]);
    for now in 13..20 {
        assert_eq!(hashed(&say(Side::Right, clean(), now)), []);
    }
    // Read, and another file: the bit is not for that.
    let other = Reply::Report(change(3, of("hostile!", 0o755), true));
    let effects = say(Side::Right, other, 30_000);
    let puts = effects.iter().filter_map(|effect| match effect {
        Effect::Send(Side::Left, Request::Apply { apply, .. }) => Some(&apply.step),
        _ => None,
    });
    let puts: Vec<_> = puts.collect();
    let [Step::Put { entry, .. }] = puts[..] else { panic!("{effects:?}") };
    assert_eq!(entry.attrs.mode, 0o755);
}

/// What one side has no room for is not tried over and over, and at once when that is over.
#[test]
fn what_has_no_room_waits_for_it() {
    let full = |generation| {
        let problem = Problem { path: path("big"), kind: ProblemKind::NoSpace, detail: "the disk is full".into() };
        Reply::Result { generation, outcome: Outcome::Failed(problem) }
    };
    let put = |asked: &[Asked]| match asked {
        [] => None,
        [(Side::Right, generation, at, Step::Put { .. })] if *at == path("big") => Some(*generation),
        other => panic!("{other:?}"),
    };
    let mut session = Session::begin(10);
    Side::BOTH.into_iter().for_each(|side| assert!(session.scanned(side).is_empty()));
    let asked = session.report(Side::Left, "big", Some(1), None, None, Some(file(1 << 30)), 0);
    let (mut now, mut tries, mut waiting) = (0, 1, put(&asked));
    while now < 3_600_000 {
        if let Some(generation) = waiting.take() {
            assert!(put(&session.reply(Side::Right, full(generation), now)).is_none());
        }
        now = session.engine.next_due().expect("it is tried again").max(now + 1);
        waiting = put(&session.input(Input::Tick, now));
        tries += u32::from(waiting.is_some());
    }
    assert!((10..25).contains(&tries), "{tries} times in an hour");
    if let Some(generation) = waiting {
        session.reply(Side::Right, full(generation), now);
    }
    let generation = put(&session.reply(Side::Right, Reply::HasRoom, now)).expect("there is room");
    session.reply(Side::Right, full(generation), now);
    assert!(
        put(&session.reply(Side::Right, Reply::HasRoom, now)).is_none(),
        "who says so all the time is not believed"
    );
    now += 2_000;
    let generation = put(&session.reply(Side::Right, Reply::HasRoom, now)).expect("there is room once more");
    session.reply(Side::Right, full(generation), now);
    // Its user makes it larger: no better; smaller: that is worth a try.
    assert!(put(&session.report(Side::Left, "big", Some(1), None, None, Some(file(2 << 30)), 0)).is_none());
    let smaller = put(&session.report(Side::Left, "big", Some(1), None, None, Some(file(1 << 20)), 0));
    session.reply(Side::Right, full(smaller.expect("a smaller one")), now);
    // Gone: nobody wants it any more, and the problem is over.
    let over = |effect: &Effect| matches!(effect, Effect::Tell(News::Problem { problem: None, .. }));
    let told = session.engine.handle(Input::Reply(Side::Left, Reply::Clean { path: path("big") }), now);
    assert!(told.iter().any(over), "{told:?}");
    // In whatever words.
    assert!(put(&session.report(Side::Left, "big", Some(1), None, None, Some(file(1 << 30)), 0)).is_none());
    now += 400_000;
    let another = put(&session.input(Input::Tick, now)).expect("another one");
    session.reply(Side::Right, full(another), now);
    session.seqs += 1;
    let (seq, path) = (session.seqs, path("big"));
    let (known, moved, inline, like) = (None, None, None, None);
    let gone = Change {
        seq,
        path,
        parent: Some(1),
        known,
        moved,
        after: None,
        contents: true,
        touched: false,
        read: false,
        inline,
        like,
        below: 0,
        young: 0,
    };
    let told = session.engine.handle(Input::Reply(Side::Left, Reply::Report(gone)), now);
    assert!(told.iter().any(over), "{told:?}");
}

/// What failed after its contents were sent is asked for by their hash the next time; and if the other side had them all the
/// time, nobody goes on sending them.
#[test]
fn contents_that_came_in_vain_are_known_by_their_hash() {
    let mut session = Session::begin(10);
    Side::BOTH.into_iter().for_each(|side| assert!(session.scanned(side).is_empty()));
    let asked = session.report(Side::Left, "big", Some(1), None, None, Some(file(1 << 20)), 0);
    let [(Side::Right, generation, _, Step::Put { entry, .. })] = &asked[..] else { panic!("{asked:?}") };
    assert_eq!(entry.hash(), None);
    let hash = crate::model::Hash([7; 32]);
    let end = Data::End { size: 1 << 20, hash };
    session.reply(Side::Left, Reply::Data { generation: *generation, data: end }, 0);
    let problem = Problem { path: path("big"), kind: ProblemKind::Io, detail: "no".into() };
    session.reply(Side::Right, Reply::Result { generation: *generation, outcome: Outcome::Failed(problem) }, 0);
    let asked = session.input(Input::Tick, 5_000);
    let [(Side::Right, generation, _, Step::Put { entry, .. })] = &asked[..] else { panic!("{asked:?}") };
    assert_eq!(entry.hash(), Some(hash));
    let (generation, outcome) = (*generation, Outcome::Done { entry: Some(entry.clone()), kept: None });
    let effects = session.engine.handle(Input::Reply(Side::Right, Reply::Result { generation, outcome }), 5_000);
    let cancelled = |effect: &Effect| matches!(effect, Effect::Send(Side::Left, Request::Cancel { .. }));
    assert!(effects.iter().any(cancelled), "{effects:?}");
}

/// A session in which both sides have the file `a`, and are scanned.
fn with_a_file() -> (Session, impl Fn(&mut Session, Side, &str) -> Vec<Asked>) {
    let mut session = Session::begin(10);
    Side::BOTH.into_iter().for_each(|side| assert!(session.scanned(side).is_empty()));
    let moved_to = |session: &mut Session, side: Side, at: &str| {
        let moved = Moved { from: path("a"), known: known(18, file(1)), edited: false };
        session.report(side, at, Some(ROOT_NODE), None, Some(moved), Some(file(1)), 0)
    };
    (session, moved_to)
}

#[test]
fn of_two_names_the_lefts_wins_whichever_report_was_acted_on_first() {
    for first in Side::BOTH {
        let (mut session, moved_to) = with_a_file();
        let name = |side: Side| if side == Side::Left { "l" } else { "r" };
        let second = first.other();
        let begun = moved_to(&mut session, first, name(first));
        let [(on, generation, _, Step::Move { .. })] = &begun[..] else { panic!("{begun:?}") };
        assert_eq!(*on, second);
        // The other side had renamed it as well, and says so before, or after, it is asked.
        assert_eq!(moved_to(&mut session, second, name(second)), []);
        session.report(second, "a", Some(ROOT_NODE), Some(known(18, file(1))), None, None, 0);
        let refused = Reply::Result { generation: *generation, outcome: Outcome::Refused };
        assert_eq!(
            session.reply(second, refused, 0),
            [],
            "{first:?} is asked again: nothing goes on before it answers"
        );
        let settled = moved_to(&mut session, first, name(first));
        let [(Side::Right, _, at, Step::Move { from, .. })] = &settled[..] else { panic!("{settled:?}") };
        assert_eq!((at, from), (&path("l"), &path("r")), "{first:?} first");
    }
}

#[test]
fn where_the_right_deleted_the_directory_its_own_name_wins() {
    let (mut session, moved_to) = with_a_file();
    let dir = known(19, entry(Content::Dir));
    // The deletion waits for what was moved out of the directory, or it would take that along.
    let moved = Moved { from: path("d/a"), known: known(20, file(1)), edited: false };
    let held = moved_to(&mut session, Side::Left, "d/l");
    let [(Side::Right, generation, ..)] = held[..] else { panic!("{held:?}") };
    session.report(Side::Right, "d", Some(ROOT_NODE), Some(dir), None, None, 1);
    assert_eq!(session.report(Side::Right, "d.a", Some(ROOT_NODE), None, Some(moved), Some(file(1)), 0).len(), 1);
    assert_eq!(moved_to(&mut session, Side::Right, "r"), []);
    session.reply(Side::Right, Reply::Result { generation, outcome: Outcome::Refused }, 0);
    assert_eq!(moved_to(&mut session, Side::Left, "d/l"), [], "the directory may have another name there");
    let (number, _) = session.engine.sides[Side::Right].inquiry.expect("asked");
    let settled = session.reply(Side::Right, Reply::Pong { number }, 0);
    let [(Side::Left, _, at, Step::Move { from, .. })] = &settled[..] else { panic!("{settled:?}") };
    assert_eq!((at, from), (&path("r"), &path("d/l")));
}

#[test]
fn of_two_names_the_rights_counts_if_it_will_not_have_the_lefts() {
    let (mut session, moved_to) = with_a_file();
    let first = moved_to(&mut session, Side::Right, "r");
    moved_to(&mut session, Side::Left, "l");
    session.reply(Side::Left, Reply::Result { generation: first[0].1, outcome: Outcome::Refused }, 0);
    let mut asked = moved_to(&mut session, Side::Right, "r");
    let (mut now, mut refused) = (0, 0);
    let settled = loop {
        let Some((Side::Right, generation, at, Step::Move { .. })) = asked.first().cloned() else { break asked };
        assert_eq!(at, path("l"));
        refused += 1;
        now += 60_000;
        assert!(refused < 20, "without end");
        asked = session.reply(Side::Right, Reply::Result { generation, outcome: Outcome::Refused }, now);
        asked.extend(moved_to(&mut session, Side::Right, "r"));
        asked.extend(moved_to(&mut session, Side::Left, "l"));
        now += 60_000;
        asked.extend(session.input(Input::Tick, now));
    };
    assert!(refused > 3, "{refused}");
    let [(Side::Left, _, at, Step::Move { from, .. })] = &settled[..] else { panic!("{settled:?}") };
    assert_eq!((at, from), (&path("r"), &path("l")), "it is not sent as a new object");
}

#[test]
fn two_that_changed_places_are_exchanged_by_one_action() {
    for mover in Side::BOTH {
        let (mut session, _) = with_a_file();
        let moved = |session: &mut Session, at: &str, node: NodeId, from: &str, over: Option<NodeId>| {
            let moved = Moved { from: path(from), known: known(node, file(1)), edited: false };
            let over = over.map(|node| known(node, file(1)));
            session.report(mover, at, Some(ROOT_NODE), over, Some(moved), Some(file(1)), 0)
        };
        // The first word does not tell what became of the other: its side is asked whether more is to come.
        assert_eq!(moved(&mut session, "b", 18, "a", Some(19)), []);
        assert!(session.engine.sides[mover].inquiry.is_some());
        let begun = moved(&mut session, "a", 19, "b", None);
        let [(on, generation, at, Step::Exchange { from, other, .. })] = &begun[..] else { panic!("{begun:?}") };
        let given = (other.at.as_ref().expect("goes as well"), &other.to);
        let (one, two) = (path("a"), path("b"));
        let whole = if *at == one { (&two, (&one, &two)) } else { (&one, (&two, &one)) };
        assert_eq!((*on, (from, given)), (mover.other(), whole));
        // Both are recorded as one.
        let done = Outcome::Done { entry: Some(file(1)), kept: None };
        let effects =
            session.engine.handle(Input::Reply(*on, Reply::Result { generation: *generation, outcome: done }), 0);
        let recorded = effects.iter().find_map(|effect| match effect {
            Effect::Send(side, Request::Record { record, .. }) => Some((*side, record.exchanged)),
            _ => None,
        });
        assert_eq!(recorded, Some((mover, Some(other.node))));
    }
}

#[test]
fn what_a_name_was_taken_from_goes_to_the_trash_once_its_side_has_said_all() {
    let (mut session, _) = with_a_file();
    let moved = Moved { from: path("b"), known: known(19, file(1)), edited: false };
    let over = Some(known(18, file(1)));
    assert_eq!(session.report(Side::Right, "a", Some(ROOT_NODE), over, Some(moved), Some(file(1)), 0), []);
    let (number, _) = session.engine.sides[Side::Right].inquiry.expect("asked");
    let begun = session.reply(Side::Right, Reply::Pong { number }, 0);
    let [(Side::Left, _, _, Step::Move { expect: Expect::Row(18), .. })] = &begun[..] else { panic!("{begun:?}") };
}

#[test]
fn whose_names_have_numbers_of_users_is_no_user_of_the_systems() {
    let mut session = Session::begin(10);
    let alice = Principal::Name("alice".into());
    assert!(session.engine.numbers.is_system(false, &alice), "nobody has told");
    let numbers = vec![crate::model::OwnerNumber { group: false, name: "alice".into(), id: 1000 }];
    session.reply(Side::Right, Reply::Names { numbers }, 0);
    assert!(!session.engine.numbers.is_system(false, &alice));
}

#[test]
fn what_came_out_of_a_moved_directory_is_moved_from_its_agreed_name() {
    let mut session = Session::begin(10);
    Side::BOTH.into_iter().for_each(|side| assert!(session.scanned(side).is_empty()));
    let mut moved = |at: &str, from: &str, node: NodeId| {
        let known = known(node, entry(Content::Dir));
        let moved = Moved { from: path(from), known, edited: false };
        session.report(Side::Left, at, Some(ROOT_NODE), None, Some(moved), Some(entry(Content::Dir)), 0)
    };
    // d/s went to s, and d into it; then it is reported once more, by where it came from as things are.
    let first = moved("s/d", "d", 17);
    assert_eq!((first.len(), moved("s", "s/d/s", 20)), (1, vec![]), "the first one is under way");
    let refused = Reply::Result { generation: first[0].1, outcome: Outcome::Refused };
    let done = session.reply(Side::Right, refused, 0);
    let [(Side::Right, _, at, Step::Move { from, .. })] = &done[..] else { panic!("{done:?}") };
    assert_eq!((at, from), (&path("s"), &path("d/s")));
}

#[test]
fn in_sync_but_for_what_a_problem_keeps_waiting() {
    let mut session = Session::begin(10);
    Side::BOTH.into_iter().for_each(|side| assert!(session.scanned(side).is_empty()));
    let dir = entry(Content::Dir);
    let made = session.report(Side::Left, "d", Some(ROOT_NODE), None, None, Some(dir), 0);
    let problem =
        crate::model::Problem { path: path("d"), kind: crate::model::ProblemKind::NoSpace, detail: String::new() };
    session.reply(Side::Right, Reply::Result { generation: made[0].1, outcome: Outcome::Failed(problem) }, 0);
    let moved = Moved { from: path("a"), known: known(18, file(1)), edited: false };
    session.report(Side::Left, "d/a", None, None, Some(moved), Some(file(1)), 0);
    session.report(Side::Left, "a", Some(ROOT_NODE), Some(known(18, file(1))), None, None, 0);
    assert!(session.engine.settling.is_some(), "both sides are asked whether anything is left");
}

#[test]
fn what_is_gone_is_deleted_once_its_side_has_nothing_left_to_look_at() {
    let (mut session, moved_to) = with_a_file();
    let begun = moved_to(&mut session, Side::Left, "l");
    session.report(Side::Right, "a", Some(ROOT_NODE), Some(known(18, file(1))), None, None, 0);
    session.reply(Side::Right, Reply::Result { generation: begun[0].1, outcome: Outcome::Refused }, 0);
    assert_eq!(moved_to(&mut session, Side::Left, "l"), []);
    let asked = session.engine.handle(Input::Tick, moves::LOST_WAIT);
    let [Effect::Send(Side::Right, Request::Ping { number })] = asked[..] else { panic!("{asked:?}") };
    assert!(session.engine.handle(Input::Tick, 60_000).is_empty(), "however long that takes");
    let lost = session.engine.handle(Input::Reply(Side::Right, Reply::Pong { number }), 60_000);
    let as_copy = |effect: &Effect| matches!(effect, Effect::Send(Side::Left, Request::Examine { as_copy: true, .. }));
    assert!(lost.iter().any(as_copy), "{lost:?}");
}

#[test]
fn deletions_wait_for_nothing_that_waits_itself() {
    let mut session = Session::begin(10);
    Side::BOTH.into_iter().for_each(|side| assert!(session.scanned(side).is_empty()));
    let new = |session: &mut Session, at: &str, size: u64| {
        session.report(Side::Left, at, Some(ROOT_NODE), None, None, Some(file(size)), 0)
    };
    let gone = |session: &mut Session, at: &str, node: NodeId| {
        session.report(Side::Left, at, Some(ROOT_NODE), Some(known(node, file(1))), None, None, 0)
    };
    let small = new(&mut session, "small", 10);
    assert_eq!(gone(&mut session, "one", 20), [], "it waits for what is on its way");
    let placed =
        |asked: &[Asked]| Reply::Result { generation: asked[0].1, outcome: Outcome::Done { entry: None, kept: None } };
    session.reply(Side::Right, placed(&small), 0);
    let next = session.input(Input::Reply(Side::Left, Reply::Recorded { generation: small[0].1 }), 0);
    assert!(matches!(&next[..], [(Side::Right, _, at, Step::Remove { .. })] if *at == path("one")), "{next:?}");
    // Neither for a large file, nor for one with a problem.
    new(&mut session, "large", 1 << 30);
    assert_eq!(gone(&mut session, "two", 21).len(), 1);
    let odd = new(&mut session, "odd", 10);
    let problem =
        crate::model::Problem { path: path("odd"), kind: crate::model::ProblemKind::NoSpace, detail: String::new() };
    session.reply(Side::Right, Reply::Result { generation: odd[0].1, outcome: Outcome::Failed(problem) }, 0);
    assert_eq!(gone(&mut session, "three", 22).len(), 1);
}
