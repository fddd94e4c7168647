//! Contents on their way: [`Supply`] reads them on the source, [`Receive`] writes them on the other side.
//!
//! A supply sends what its credit allows; the receiver gives credit for what it has written. So a slow disk or line
//! holds back the reader, and no queue grows with the size of a file.
//!
//! What the receiver has already is its [`Basis`]: it tells the sums of its blocks, and the source sends what is not among
//! them ([`delta`]).

mod basis;
mod blocks;
mod delta;
mod receive;
pub mod rsync;
mod supply;
#[cfg(test)]
mod tests;

pub use basis::Basis;
pub use blocks::Blocks;
pub use receive::{Receive, Received};
pub use supply::{Supplied, Supply, data_in, holds_still};

/// The bytes that a supply may send before the receiver's first word.
pub const INITIAL_CREDIT: u64 = crate::protocol::Data::CREDIT;
/// The most bytes in one chunk.
pub const CHUNK: usize = 128 * 1024;
/// Files up to this size travel in one piece.
pub const WHOLE: u64 = crate::protocol::Data::WHOLE_MAX;

/// The credit that a copy within the receiver takes: it costs no line, but its time.
fn cost(length: u64) -> u64 {
    crate::protocol::Data::cost_of_copy(length)
}
