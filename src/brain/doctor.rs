//! A side is examined for `psync doctor`: here by this process, on another host as a check reaches it.

use std::os::unix::ffi::OsStrExt;

use super::sides::opening;
use super::trash::ask;
use crate::config::{RightCommand, Settings};
use crate::endpoint::survey::Survey;
use crate::link::failure::Explanation;
use crate::model::Side;
use crate::protocol::survey::{Ask, Examination};

/// What the side says of itself; a right one on another host is reached by that command. The error says why it cannot be
/// reached.
pub fn examine(settings: &Settings, pair: &str, right: &RightCommand, side: Side) -> Result<Examination, Explanation> {
    if side == Side::Left || settings.is_local() {
        return examine_here(settings, pair, side).map_err(Into::into);
    }
    let said = ask(
        settings,
        pair,
        right,
        side,
        &[Ask::Examine { root: settings.right.root.as_os_str().as_bytes().to_vec() }],
    )?;
    said.examination.ok_or_else(|| "it does not answer".to_owned().into())
}

/// The same of a side whose root is on this host.
pub fn examine_here(settings: &Settings, pair: &str, side: Side) -> Result<Examination, String> {
    let opening = opening(settings, pair, side);
    Ok(Survey::open(opening.root, pair, &opening.scope())?.examine())
}
