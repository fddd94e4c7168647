//! Rounds: when a full sync and a one-time run are over though users never rest.

use super::*;

/// Hands in one input and lets both sides answer what follows, actions with `outcome`. Questions whether anything is left are
/// answered only if `rest`. What was applied, and what was told.
fn play(session: &mut Session, input: Input, now: Millis, outcome: &Outcome, rest: bool) -> (usize, Vec<News>) {
    let mut inputs = std::collections::VecDeque::from([input]);
    let (mut applied, mut told) = (0, Vec::new());
    while let Some(input) = inputs.pop_front() {
        for effect in session.engine.handle(input, now) {
            let (side, reply) = match effect {
                Effect::Send(side, Request::Ping { number }) if rest => (side, Reply::Pong { number }),
                Effect::Send(side, Request::Apply { generation, .. }) => {
                    applied += 1;
                    (side, Reply::Result { generation, outcome: outcome.clone() })
                }
                Effect::Send(side, Request::Record { generation, .. }) => (side, Reply::Recorded { generation }),
                Effect::Send(side, Request::Examine { path, .. }) => {
                    session.seqs += 1;
                    (side, Reply::Report(written(session.seqs, path)))
                }
                Effect::Tell(news) => {
                    told.push(news);
                    continue;
                }
                _ => continue,
            };
            inputs.push_back(Input::Reply(side, reply));
        }
    }
    (applied, told)
}

/// What a user wrote at a path.
fn written(seq: Seq, path: RelPath) -> Change {
    let (known, after) = (Some(known(17, file(1))), Some(file(seq + 1)));
    let (contents, parent) = (true, Some(ROOT_NODE));
    Change {
        seq,
        path,
        parent,
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

fn write(session: &mut Session, at: &str) -> Input {
    session.seqs += 1;
    Input::Reply(Side::Left, Reply::Report(written(session.seqs, path(at))))
}

fn begin(once: bool) -> Session {
    let mut session = Session::begin(9);
    session.engine.settings.once = once;
    session
}

fn end_scans(session: &mut Session) {
    for side in Side::BOTH {
        let done = Input::Reply(side, Reply::ScanDone { files: 3, bytes: 3 });
        play(session, done, 0, &Outcome::Done { entry: None, kept: None }, true);
    }
}

const DONE: Outcome = Outcome::Done { entry: None, kept: None };

fn is_problem(news: &News) -> bool {
    matches!(news, News::Problem { problem: Some(problem), .. } if problem.path == path("f") && problem.detail.contains("all the time"))
}

#[test]
fn a_one_time_run_leaves_alone_what_is_written_again_and_again() {
    for (once, outcome) in
        [(true, DONE), (true, Outcome::Refused), (true, Outcome::Busy), (false, DONE), (false, Outcome::Refused)]
    {
        let mut session = begin(once);
        let input = write(&mut session, "f");
        assert!(play(&mut session, input, 0, &outcome, true).0 > 0, "while the scans go on");
        end_scans(&mut session);
        let (mut applied, mut told) = (0, Vec::new());
        for now in (1000..60_000).step_by(500) {
            let input = match now % 1000 {
                0 if outcome == DONE => write(&mut session, "f"),
                _ if now == 1500 && outcome != DONE => write(&mut session, "f"),
                _ => Input::Tick,
            };
            let (count, news) = play(&mut session, input, now, &outcome, true);
            applied += count;
            told.extend(news);
        }
        let what = format!("once {once}, {outcome:?}: {applied} applied");
        assert_eq!(told.iter().filter(|news| is_problem(news)).count(), usize::from(once), "{what}");
        if once {
            // That something else was wrong with it, and is not any more, does not end that.
            let other = Problem { path: path("f"), kind: ProblemKind::Busy, detail: "open".to_owned() };
            for problem in [Some(other), None] {
                let reply = Input::Reply(Side::Left, Reply::Problem { path: path("f"), problem });
                let news = play(&mut session, reply, 60_000, &outcome, true).1;
                assert!(!news.iter().any(|news| matches!(news, News::Problem { .. })), "{what}: {news:?}");
            }
        }
        let ended = told.iter().any(|news| matches!(news, News::InSync { .. } | News::RoundOver { .. }));
        assert!(ended, "{what}: it never ends");
        match once {
            // What is refused may be too young: there are tries for some seconds, further and further apart.
            true if outcome == Outcome::Refused => assert!(applied <= 12, "{what}"),
            true => assert!(applied <= 9, "{what}"),
            false if outcome == DONE => assert!(applied > 50, "{what}: a running pair goes on"),
            false => assert!(applied > 9, "{what}: a running pair goes on"),
        }
    }
}

#[test]
fn a_round_is_over_though_there_is_always_something_new() {
    for once in [true, false] {
        let mut session = begin(once);
        // What the scans found is asked for and not answered yet; each moment somebody makes another file.
        session.engine.side(Side::Right).asked.insert(path("found"));
        end_scans(&mut session);
        let mut is_over = |from: Millis, until: Millis, rest: bool| {
            let mut told = Vec::new();
            for now in (from..until).step_by(100) {
                let mut input = write(&mut session, &format!("new{now}"));
                if let Input::Reply(_, Reply::Report(change)) = &mut input {
                    (change.known, change.after) = (None, Some(file(1)));
                }
                told.extend(play(&mut session, input, now, &DONE, rest).1);
                if now == 60_000 {
                    let found = Reply::Clean { path: path("found") };
                    told.extend(play(&mut session, Input::Reply(Side::Right, found), now, &DONE, rest).1);
                }
            }
            told.iter().any(|news| matches!(news, News::RoundOver { .. } | News::InSync { .. }))
        };
        assert!(!is_over(1_000, 60_000, true), "what was found is open");
        assert!(!is_over(60_000, 69_000, false), "it might come to rest");
        assert!(is_over(69_000, 72_000, false), "it never does");
    }
}
