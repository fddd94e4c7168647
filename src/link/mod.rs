//! The line to the other host: frames over any pair of pipes, and the command that makes the pipes.
//!
//! ```text
//! send ─▶ codec ─▶ outbox (messages before data) ─▶ pack ─▶ line (limit) ─▶ proxy command's stdin ┄▶ agent
//! deliver ◀─ codec ◀─ unpack ◀─ frame ◀─ timed (silence) ◀── proxy command's stdout ◀┄ agent
//! ```

mod again;
pub mod aside;
pub mod channel;
pub mod codec;
pub mod failure;
pub mod frame;
pub mod handshake;
mod line;
mod outbox;
pub mod pack;
pub mod proxy;
pub mod relay;
pub mod repack;
mod timed;

use std::io;
use std::time::Duration;

use crate::config::{Compress, SharedSettings};

/// Why a link cannot be had, or ended.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("{operation}: {source}")]
    Io { operation: &'static str, source: io::Error },
    #[error("a frame of {0} bytes, more than {max}", max = frame::MAX_PAYLOAD)]
    TooLong(usize),
    #[error("the stream ended in the middle of a frame")]
    Truncated,
    #[error("a frame of the unknown kind {0}")]
    UnknownKind(u8),
    #[error("a frame that does not belong here: {0:?}")]
    Unexpected(frame::Kind),
    #[error(
        "a frame came broken, its checksum does not fit: something between the two sides changes what passes \
         (ssh would notice; a proxy command without it may not)"
    )]
    Broken,
    #[error("a message that makes no sense: {0}")]
    Malformed(String),
    /// What came in place of the first frame, made printable; empty: the stream ended without a byte.
    #[error("{}", not_psync(said))]
    NotPsync { said: String },
    #[error(
        "the other side runs psync {their_program} (protocol {theirs}), this one psync {our_program} (protocol {ours})"
    )]
    Version { ours: u16, our_program: String, theirs: u16, their_program: String },
    /// Neither calls the other, or each of them does.
    #[error("{}", no_partner(ours, theirs))]
    NoPartner { ours: &'static str, theirs: &'static str },
    #[error("the other side serves the pair '{theirs}', not '{ours}'")]
    OtherPair { ours: String, theirs: String },
    #[error("nothing was heard of the other side for {} s", .0.as_secs())]
    Silent(Duration),
    /// The other side wants no more of this one, in its words.
    #[error("{0}")]
    TurnedAway(String),
    /// The stream ended between two frames.
    #[error("the other side ended the connection")]
    Ended,
    #[error("the connection was closed")]
    Closed,
    #[error("proxy command: {0}")]
    Proxy(String),
}

fn no_partner(ours: &str, theirs: &str) -> String {
    match ours == theirs {
        true => format!("the other side is {theirs}, as this one is"),
        false => format!("the other side is {theirs}, and this one {ours}"),
    }
}

fn not_psync(said: &str) -> String {
    match said {
        "" => "the other side ended before it said a word".into(),
        said => format!("the other side is no psync; it said \"{said}\""),
    }
}

impl LinkError {
    fn io(operation: &'static str) -> impl Fn(io::Error) -> LinkError {
        move |source| LinkError::Io { operation, source }
    }
}

/// The intervals and sizes of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// When nothing else was sent for so long, a ping is.
    pub ping_every: Duration,
    /// When nothing arrived for so long, the link has ended. Several times the other side's `ping_every`.
    pub silence: Duration,
    /// Bytes that wait to be written, of messages and of data each.
    pub waiting: usize,
    /// What this side sends.
    pub compress: Compress,
    /// Bytes per second that this side sends at most; 0: as many as the line takes.
    pub bandwidth: u64,
    /// Whether this side takes packed frames. A brain behind a line's process does not: that has unpacked them.
    pub unpack: bool,
}

impl Limits {
    /// Those of a link between two hosts.
    pub fn of(shared: &SharedSettings) -> Limits {
        let (compress, bandwidth) = (shared.transport.packs(), shared.transport.rate());
        Limits { compress, bandwidth, ..Limits::after_silence(shared.patience.timeout) }
    }

    /// The same over a pipe: it is faster than any compressor, and not what a bandwidth is limited for.
    pub fn of_pipe(shared: &SharedSettings) -> Limits {
        Limits { compress: Compress::None, ..Limits::after_silence(shared.patience.timeout) }
    }

    /// Those of a link that counts as ended after such a silence.
    pub fn after_silence(silence: Duration) -> Limits {
        let silence = silence.max(Duration::from_secs(1));
        Limits { silence, ping_every: silence / 6, ..Limits::default() }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            ping_every: Duration::from_secs(10),
            silence: Duration::from_secs(60),
            waiting: 4 << 20,
            compress: Compress::Auto,
            bandwidth: 0,
            unpack: true,
        }
    }
}
