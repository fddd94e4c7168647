//! A side is examined for `psync doctor`: here by this process, on another host as a check reaches it.

use super::sides::opening;
use super::trash::ask;
use crate::config::{RightCommand, Settings};
use crate::endpoint::message::survey::{Ask, Examination};
use crate::endpoint::survey::Survey;
use crate::link::failure::Explanation;
use crate::model::Side;

/// What the side says of itself; a right one on another host is reached by that command. The error says why it cannot be
/// reached.
pub fn examine(settings: &Settings, pair: &str, right: &RightCommand, side: Side) -> Result<Examination, Explanation> {
    if side == Side::Left || settings.is_local() {
        let opening = opening(settings, pair, side);
        return Ok(Survey::open(opening.root, pair, &opening.scope())?.examine());
    }
    let said = ask(settings, pair, right, side, &[Ask::Examine])?;
    said.examination.ok_or_else(|| "it does not answer".to_owned().into())
}
