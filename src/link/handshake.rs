//! The first frame of either direction: who speaks, and which psync.
//!
//! Payload: `"psync", protocol u16 LE, length u8 and program version`, which every protocol must keep so that the
//! two versions can be named; then of this protocol `role u8, length u8 and name, pair` to the payload's end.

use std::io::{self, BufRead, Write};

use crate::model::readable;

use super::LinkError;
use super::frame::{self, HEADER, Head, Kind};

/// The version of the frames and messages. Two sides must have the same.
pub const PROTOCOL: u16 = 10;
const MAGIC: &[u8] = b"psync";
/// The longest first frame's payload.
const MAX_HELLO: usize = 1024;
/// How much of a stranger's words is quoted.
const QUOTED: usize = 300;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Role {
    Brain = 1,
    Agent = 2,
}

impl Role {
    fn word(self) -> &'static str {
        match self {
            Role::Brain => "a brain",
            Role::Agent => "an agent",
        }
    }
}

/// What one side says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The version of the program, for people.
    pub program: String,
    pub role: Role,
    /// Who speaks, for people: the host and the process.
    pub name: String,
    /// Empty: an agent that was started for one session and serves whoever started it.
    pub pair: String,
}

impl Hello {
    /// This program in that role.
    pub fn new(role: Role, pair: &str) -> Hello {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let name = format!("{host}, process {}", std::process::id());
        Hello { program: env!("CARGO_PKG_VERSION").into(), role, name, pair: pair.into() }
    }

    /// Writes the first frame and flushes it.
    pub fn send(&self, out: &mut impl Write) -> Result<(), LinkError> {
        let short = |text: &str| text.as_bytes()[..text.len().min(usize::from(u8::MAX))].to_vec();
        let (program, name) = (short(&self.program), short(&self.name));
        let mut payload = MAGIC.to_vec();
        payload.extend_from_slice(&PROTOCOL.to_le_bytes());
        payload.push(program.len() as u8);
        payload.extend_from_slice(&program);
        payload.push(self.role as u8);
        payload.push(name.len() as u8);
        payload.extend_from_slice(&name);
        payload.extend_from_slice(self.pair.as_bytes());
        if payload.len() > MAX_HELLO {
            return Err(LinkError::TooLong(payload.len()));
        }
        frame::write(out, Kind::Hello, 0, &payload)?;
        out.flush().map_err(LinkError::io("write to the link"))
    }

    /// Reads the other side's first frame.
    ///
    /// # Errors
    /// [`LinkError::NotPsync`] with the first words, if it is no psync; [`LinkError::Version`] if it is another one.
    pub fn receive(&self, input: &mut impl BufRead) -> Result<Hello, LinkError> {
        let mut got = Vec::new();
        // A text's first bytes make no header, so this does not wait for more than a stranger may have to say.
        let header = next(input, &mut got, HEADER)?;
        let head = header.try_into().ok().and_then(|header| Head::decode(&header).ok());
        let Some(head) = head.filter(|head| head.kind == Kind::Hello && head.length <= MAX_HELLO) else {
            return Err(stranger(input, got));
        };
        let payload = next(input, &mut got, head.length)?;
        if payload.len() < head.length {
            return Err(if payload.starts_with(MAGIC) { LinkError::Truncated } else { stranger(input, got) });
        }
        let Some(said) = payload.strip_prefix(MAGIC) else { return Err(stranger(input, got)) };
        self.understand(said)
    }

    fn understand(&self, said: &[u8]) -> Result<Hello, LinkError> {
        let short = || LinkError::Malformed("the first frame is too short".into());
        let (version, rest) = said.split_first_chunk::<2>().ok_or_else(short)?;
        let (length, rest) = rest.split_first().ok_or_else(short)?;
        let (program, rest) = rest.split_at_checked(usize::from(*length)).ok_or_else(short)?;
        let (theirs, their_program) = (u16::from_le_bytes(*version), readable(program));
        if theirs != PROTOCOL {
            let our_program = self.program.clone();
            return Err(LinkError::Version { ours: PROTOCOL, our_program, theirs, their_program });
        }
        let (role, rest) = rest.split_first().ok_or_else(short)?;
        let (length, rest) = rest.split_first().ok_or_else(short)?;
        let (name, pair) = rest.split_at_checked(usize::from(*length)).ok_or_else(short)?;
        let role = [Role::Brain, Role::Agent].into_iter().find(|known| *known as u8 == *role);
        let role = role.ok_or_else(|| LinkError::Malformed("neither a brain nor an agent".into()))?;
        if role == self.role {
            return Err(LinkError::SameRole(role.word()));
        }
        let pair = String::from_utf8(pair.into()).map_err(|_| LinkError::Malformed("the pair's name".into()))?;
        if pair != self.pair && !pair.is_empty() && !self.pair.is_empty() {
            return Err(LinkError::OtherPair { ours: self.pair.clone(), theirs: readable(pair.as_bytes()) });
        }
        Ok(Hello { program: their_program, role, name: readable(name), pair })
    }
}

/// Reads `count` more bytes, fewer if the stream ends before; keeps all that was read in `got`.
fn next(input: &mut impl BufRead, got: &mut Vec<u8>, count: usize) -> Result<Vec<u8>, LinkError> {
    let start = got.len();
    while got.len() < start + count {
        let wanted = start + count - got.len();
        let taken = match input.fill_buf() {
            Ok([]) => break,
            Ok(there) => {
                let taken = there.len().min(wanted);
                got.extend_from_slice(&there[..taken]);
                taken
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            // Silence after the first words: quote them.
            Err(e) if e.kind() == io::ErrorKind::TimedOut && !got.is_empty() => break,
            Err(e) => return Err(LinkError::io("read from the link")(e)),
        };
        input.consume(taken);
    }
    Ok(got[start..].to_vec())
}

/// Quotes a stranger: what was read and the rest of its first line.
fn stranger(input: &mut impl BufRead, mut got: Vec<u8>) -> LinkError {
    while got.len() < QUOTED && !got.trim_ascii_start().contains(&b'\n') {
        if next(input, &mut got, 1).unwrap_or_default().is_empty() {
            break;
        }
    }
    // What follows the line may be frames of an agent behind it.
    let line = got.trim_ascii_start().split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = &line[..line.len().min(QUOTED)];
    LinkError::NotPsync { said: readable(line.trim_ascii()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn brain() -> Hello {
        Hello::new(Role::Brain, "web")
    }

    fn said(hello: &Hello) -> Vec<u8> {
        let mut wire = Vec::new();
        hello.send(&mut wire).unwrap();
        wire
    }

    fn answer(wire: &[u8]) -> String {
        brain().receive(&mut &wire[..]).unwrap_err().to_string()
    }

    #[test]
    fn two_sides_of_one_pair_meet() {
        for pair in ["web", ""] {
            let agent = Hello::new(Role::Agent, pair);
            assert_eq!(brain().receive(&mut &said(&agent)[..]).unwrap(), agent);
        }
        assert_eq!(answer(&said(&brain())), "the other side is a brain, as this one is");
        let other = said(&Hello::new(Role::Agent, "mail"));
        assert_eq!(answer(&other), "the other side serves the pair 'mail', not 'web'");
    }

    #[test]
    fn versions_that_differ_are_named() {
        let mut agent = said(&Hello { program: "9.9".into(), ..Hello::new(Role::Agent, "web") });
        agent[HEADER + MAGIC.len()] = 99;
        // What follows the program's version is the other protocol's business.
        agent.truncate(agent.len() - 4);
        agent[0] -= 4;
        let ours = env!("CARGO_PKG_VERSION");
        let expected =
            format!("the other side runs psync 9.9 (protocol 99), this one psync {ours} (protocol {PROTOCOL})");
        assert_eq!(answer(&agent), expected);
    }

    #[test]
    fn strangers_are_quoted() {
        let long = "x".repeat(1000);
        let cases: [(&[u8], &str); 8] = [
            (b"", "the other side ended before it said a word"),
            (b"hi\n", "the other side is no psync; it said \"hi\""),
            (b"bash: psync-agent: command not found\n", "\"bash: psync-agent: command not found\""),
            (b"\n\nWelcome to Debian\nmore\n", "\"Welcome to Debian\""),
            (b"Welcome\n\x1e\0\0\0\x01", "\"Welcome\""),
            (b"\x1b[1mred\xff\n", "\"\\x1b[1mred\\xff\""),
            (long.as_bytes(), &format!("\"{}\"", &long[..300])),
            (b"\x05\0\0\0\x01\0\0\0\0rsync", "rsync\""),
        ];
        for (wire, expected) in cases {
            let said = answer(wire);
            assert!(said.ends_with(expected), "{said}");
        }
    }

    #[test]
    fn every_cut_is_an_error() {
        let wire = said(&Hello::new(Role::Agent, ""));
        for cut in 0..wire.len() {
            assert!(brain().receive(&mut &wire[..cut]).is_err(), "{cut}");
        }
        // Every byte changed to every other: understood or refused, but no panic.
        for at in 0..wire.len() {
            for byte in 0..=255 {
                let mut broken = wire.clone();
                broken[at] = byte;
                _ = brain().receive(&mut &broken[..]);
            }
        }
        // A payload that is shorter than it says inside.
        for length in 0..wire.len() - HEADER {
            let mut short = wire[..HEADER + length].to_vec();
            short[0] = length as u8;
            assert!(brain().receive(&mut &short[..]).is_err(), "{length}");
        }
    }
}
