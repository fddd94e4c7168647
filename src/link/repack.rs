//! A link as it passes through the line's process: frames, packed on the line and plain in the brain. So zstd meets what
//! comes from the other host where nobody's files are.

use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::sync::Arc;

use super::frame::{self, HEADER, Head, Kind};
use super::line::Line;
use super::outbox::Outbox;
use super::pack::{Packer, Unpacker};
use super::{Limits, LinkError};

/// So many bytes of somebody who is no psync are passed on: his first words, for a brain to quote.
const STRANGER: usize = 4 << 10;
/// The longest first frame.
const HELLO: usize = 1 << 10;

/// Passes on what comes over the line, its packed frames unpacked, until it ends.
///
/// # Errors
/// A frame that cannot be understood; or nobody takes what came.
pub fn unpack(from: impl Read, to: impl Write) -> Result<(), LinkError> {
    let (mut from, mut to) = (BufReader::with_capacity(64 << 10, from), BufWriter::with_capacity(64 << 10, to));
    if !first(&mut from, &mut to)? {
        return Ok(());
    }
    let (mut payload, mut unpacker) = (Vec::new(), Unpacker::default());
    while let Some(head) = frame::read(&mut from, &mut payload)? {
        match head.kind {
            Kind::Packed => {
                // What came broken is a message without a checksum to the brain, which asks for it again.
                let plain = unpacker.unpack(&payload).unwrap_or_default();
                frame::write(&mut to, Kind::Message, head.stream, plain)?;
            }
            Kind::Hello => return Err(LinkError::Unexpected(Kind::Hello)),
            kind => frame::write(&mut to, kind, head.stream, &payload)?,
        }
        if from.buffer().is_empty() {
            to.flush().map_err(LinkError::io("write to the brain"))?;
        }
    }
    to.flush().map_err(LinkError::io("write to the brain"))
}

/// Passes on the first frame, or the first words of a stranger. Whether frames follow.
fn first(from: &mut impl BufRead, to: &mut impl Write) -> Result<bool, LinkError> {
    let (read, write) = (LinkError::io("read from the link"), LinkError::io("write to the brain"));
    let (mut head, mut got, mut passed, mut wanted) = ([0; HEADER], 0, 0, STRANGER);
    // At once what is there: a stranger may wait for an answer.
    while passed < wanted {
        let there = match from.fill_buf() {
            Ok([]) => return Ok(false),
            Ok(there) => there,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(read(e)),
        };
        let most = if got < HEADER { HEADER - got } else { wanted - passed };
        let count = there.len().min(most);
        to.write_all(&there[..count]).and_then(|()| to.flush()).map_err(&write)?;
        if got < HEADER {
            head[got..got + count].copy_from_slice(&there[..count]);
            got += count;
            if got == HEADER {
                wanted = match Head::decode(&head) {
                    Ok(Head { kind: Kind::Hello, length, .. }) if length <= HELLO => HEADER + length,
                    _ => STRANGER,
                };
            }
        }
        passed += count;
        from.consume(count);
    }
    Ok(wanted != STRANGER)
}

/// Passes on what the brain says, packed where that pays on this line, and no faster than is allowed, until it ends.
/// Aborting `waits` ends a wait for the limit.
///
/// # Errors
/// A frame that cannot be understood; or the line takes no more.
pub fn pack(from: impl Read, to: impl Write, limits: &Limits, waits: &Arc<Outbox>) -> Result<(), LinkError> {
    let mut from = BufReader::with_capacity(64 << 10, from);
    let mut to = BufWriter::with_capacity(64 << 10, Line::new(to, limits, waits.clone()));
    let (mut payload, mut packer) = (Vec::new(), Packer::new(limits.compress));
    while let Some(head) = frame::read(&mut from, &mut payload)? {
        let mut whole = Vec::with_capacity(HEADER + payload.len());
        whole.extend_from_slice(&head.encode()?);
        whole.extend_from_slice(&payload);
        let whole = packer.pack(whole, to.get_ref().meter.rate());
        to.write_all(&whole).map_err(LinkError::io("write to the link"))?;
        if from.buffer().is_empty() {
            to.flush().map_err(LinkError::io("write to the link"))?;
        }
    }
    to.flush().map_err(LinkError::io("write to the link"))
}

/// What [`pack`] takes to end its waits.
pub fn waits() -> Arc<Outbox> {
    Arc::new(Outbox::new(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Compress;
    use crate::link::handshake::{Hello, Role};

    fn hello() -> Vec<u8> {
        let mut wire = Vec::new();
        Hello::new(Role::Agent, "web").send(&mut wire).unwrap();
        wire
    }

    fn frames(wire: &[u8]) -> Vec<(Kind, Vec<u8>)> {
        let (mut from, mut all, mut payload) = (wire, Vec::new(), Vec::new());
        while let Some(head) = frame::read(&mut from, &mut payload).unwrap() {
            all.push((head.kind, payload.clone()));
        }
        all
    }

    fn packed(wire: &[u8], compress: Compress) -> Vec<u8> {
        let mut out = Vec::new();
        pack(wire, &mut out, &Limits { compress, ..Limits::default() }, &waits()).unwrap();
        out
    }

    fn plain(wire: &[u8]) -> (Vec<u8>, Result<(), LinkError>) {
        let mut out = Vec::new();
        let end = unpack(wire, &mut out);
        (out, end)
    }

    /// What a brain says is packed on the line, and plain again for the next brain.
    #[test]
    fn packed_on_the_line_and_plain_on_either_side_of_it() {
        let mut said = hello();
        for (kind, payload) in [
            (Kind::Message, vec![b'x'; 100_000]),
            (Kind::Ping, vec![]),
            (Kind::Message, b"short".to_vec()),
            (Kind::Message, vec![0; frame::MAX_PAYLOAD]),
            (Kind::Refusal, b"taken over".to_vec()),
        ] {
            frame::write(&mut said, kind, 0, &payload).unwrap();
        }
        let line = packed(&said, Compress::Zstd);
        assert!(line.len() < said.len() / 10, "{}", line.len());
        assert_eq!(frames(&line).iter().filter(|(kind, _)| *kind == Kind::Packed).count(), 2);
        let (back, end) = plain(&line);
        assert!(end.is_ok() && back == said);
        assert_eq!(packed(&said, Compress::None), said);
    }

    #[test]
    fn strangers_are_passed_on_as_far_as_they_are_quoted() {
        for wire in [&b""[..], b"hi", b"Welcome to Debian\n", b"bash: psync-agent: command not found\n"] {
            let (back, end) = plain(wire);
            assert!(end.is_ok() && back == wire, "{wire:?}");
        }
        let mut flood = vec![b'x'; 1 << 20];
        assert_eq!(plain(&flood).0.len(), STRANGER);
        // A first frame of another kind, and one that is too long for a greeting.
        flood[..HEADER].copy_from_slice(&[0, 0, 1, 0, Kind::Packed as u8, 0, 0, 0, 0]);
        assert_eq!(plain(&flood).0.len(), STRANGER);
        flood[..HEADER].copy_from_slice(&[0, 0, 1, 0, Kind::Hello as u8, 0, 0, 0, 0]);
        assert_eq!(plain(&flood).0.len(), STRANGER);
    }

    /// No brain gets a packed frame, nor one that is longer than a frame may be.
    #[test]
    fn what_cannot_be_unpacked_is_a_broken_message_and_what_is_no_frame_ends_the_line() {
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
        let lying = [&1000_u32.to_le_bytes()[..], &bomb].concat();
        for payload in [lying, vec![1, 2]] {
            let (mut wire, mut broken) = (hello(), hello());
            frame::write(&mut wire, Kind::Packed, 7, &payload).unwrap();
            frame::write(&mut broken, Kind::Message, 7, &[]).unwrap();
            let (back, end) = plain(&wire);
            assert!(end.is_ok() && back == broken);
        }
        let mut twice = hello();
        frame::write(&mut twice, Kind::Hello, 0, &[]).unwrap();
        let (back, end) = plain(&twice);
        assert!(end.is_err() && back == hello());
        for bad in [&[0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0][..], &[0, 0, 0, 0, 99, 0, 0, 0, 0], &[1, 0]] {
            let (back, end) = plain(&[&hello()[..], bad].concat());
            assert!(end.is_err() && back == hello(), "{bad:?}");
        }
    }
}
