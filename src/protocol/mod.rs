//! The contract of a side: what may be said to it, and what it says. Plain values, the same within a process and over the
//! link to the other host.
//!
//! | who speaks | says | hears |
//! |---|---|---|
//! | the brain, in a session | [`Request`] | [`Reply`] |
//! | a check, the doctor, `psync trash`: a survey | [`survey::Ask`] | [`survey::Answer`] |
//!
//! What a value must hold whoever sends it is judged by [`sane`]; what it takes in memory is its [`Weight`].

mod action;
mod change;
mod contents;
mod dir_time;
mod distrust;
mod rows;
pub mod sane;
mod session;
pub mod survey;
mod weight;

pub use action::{Apply, Displaced, Expect, Kept, Other, Outcome, Record, Step};
pub use change::{Change, Known, Like, Moved};
pub use contents::{Data, Source, Sums, Tunnel, Way};
pub use dir_time::{DIR_TIMES_MAX, DirTime, DirTimeSet, DirTimeWord, NewDirTime};
pub use distrust::{Distrust, Remains};
pub use rows::{AncestorRow, cut};
pub use session::{Hello, Reply, Request, Start};
pub use weight::Weight;

/// What a caller says, of the one protocol that its link's first frame names.
#[derive(Debug, Clone, PartialEq)]
pub enum Call {
    Session(Request),
    Survey(survey::Ask),
}
