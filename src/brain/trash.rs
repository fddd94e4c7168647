//! Both sides' trash, for `psync trash`: reached as a check reaches them, beside whatever runs.

use std::sync::mpsc::Receiver;

use super::check::stations;
use super::sides::opening;
use crate::config::{RightCommand, Settings};
use crate::link::failure::Explanation;
use crate::model::{Problem, Side};
use crate::protocol::survey::Trashed;
use crate::protocol::survey::{Answer, Ask, Examination};

/// What a side said.
#[derive(Debug, Default)]
pub struct Said {
    pub items: Vec<Trashed>,
    pub problems: Vec<Problem>,
    pub examination: Option<Examination>,
}

/// Asks one side these questions, one after the other; the right one by that command. The error says why it cannot answer.
pub fn ask(
    settings: &Settings,
    pair: &str,
    right: &RightCommand,
    side: Side,
    asks: &[Ask],
) -> Result<Said, Explanation> {
    let (mut station, far) = match side {
        Side::Left => (stations::left(settings, pair), None),
        Side::Right => {
            let reached = stations::right(settings, pair, right);
            reached.map(|(station, far)| (station, Some(far))).map_err(|e| Explanation::from(e.to_string()))?
        }
    };
    let mut said = Said::default();
    let examines = asks.iter().any(|ask| matches!(ask, Ask::Examine { .. }));
    let mut answered = match side {
        // An examination tells of another root beside all else.
        Side::Right if !examines => stations::serves(&mut station, &settings.right.root),
        _ => Ok(()),
    };
    for ask in asks {
        if answered.is_err() {
            break;
        }
        answered = (station.ask)(ask.clone()).and_then(|()| take(&station.answers, &mut said));
    }
    drop(station);
    let lost = far.and_then(stations::Far::end);
    match (answered, lost) {
        (Ok(()), _) => Ok(said),
        (Err(_), Some(lost)) => Err(lost),
        (Err(reason), None) => Err(reason.into()),
    }
}

fn take(answers: &Receiver<Answer>, said: &mut Said) -> Result<(), String> {
    loop {
        match answers.recv() {
            Ok(Answer::End) => return Ok(()),
            Ok(Answer::Examined(found)) => said.examination = Some(found),
            Ok(Answer::Trashed { items }) => said.items.extend(items),
            Ok(Answer::Problem(problem)) => said.problems.push(problem),
            Ok(Answer::Failed { reason }) => return Err(reason),
            Ok(Answer::Items { .. } | Answer::Hashes { .. } | Answer::Special { .. }) => {}
            Err(_) => return Err("the link ended".to_owned()),
        }
    }
}

/// Discards what is old or too much in the trash of a side whose root is on this host and at which nothing is at work.
/// Nothing happens if the pair has never run there.
pub fn expire_alone(settings: &Settings, pair: &str, side: Side) -> Result<(), String> {
    crate::endpoint::expire::alone(&opening(settings, pair, side))
}
