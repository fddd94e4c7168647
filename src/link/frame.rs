//! Frames: `length u32 LE, kind u8, stream u32 LE, payload`. The length is the payload's.

use std::io::{self, Read, Write};

use super::LinkError;

/// Bytes before the payload.
pub const HEADER: usize = 9;
/// The longest payload: a chunk of 1 MiB and what is said around it.
pub const MAX_PAYLOAD: usize = (1 << 20) + (64 << 10);

/// What a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The first of either direction, and only that.
    Hello = 1,
    /// One message of the endpoint's contract.
    Message = 2,
    /// A sign of life; the answer is [`Kind::Pong`].
    Ping = 3,
    Pong = 4,
    /// A message in zstd, see [`super::pack`].
    Packed = 5,
    /// Send again what has this number, and what followed it.
    Again = 7,
    /// The last of a direction: why the sender wants no more of the other, as text.
    Refusal = 6,
}

impl Kind {
    fn of(byte: u8) -> Result<Kind, LinkError> {
        [Kind::Hello, Kind::Message, Kind::Ping, Kind::Pong, Kind::Packed, Kind::Refusal, Kind::Again]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
            .ok_or(LinkError::UnknownKind(byte))
    }
}

/// What is known of a frame before its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    pub length: usize,
    pub kind: Kind,
    /// The number of a message; 0: it has none.
    pub stream: u32,
}

impl Head {
    /// Refuses payloads over the cap.
    pub fn encode(&self) -> Result<[u8; HEADER], LinkError> {
        let length = u32::try_from(self.length).ok().filter(|_| self.length <= MAX_PAYLOAD);
        let [a, b, c, d] = length.ok_or(LinkError::TooLong(self.length))?.to_le_bytes();
        let [e, f, g, h] = self.stream.to_le_bytes();
        Ok([a, b, c, d, self.kind as u8, e, f, g, h])
    }

    /// Refuses payloads over the cap, and unknown kinds.
    pub fn decode(bytes: &[u8; HEADER]) -> Result<Head, LinkError> {
        let [a, b, c, d, kind, e, f, g, h] = *bytes;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        if length > MAX_PAYLOAD {
            return Err(LinkError::TooLong(length));
        }
        Ok(Head { length, kind: Kind::of(kind)?, stream: u32::from_le_bytes([e, f, g, h]) })
    }
}

/// Writes one frame.
pub fn write(out: &mut impl Write, kind: Kind, stream: u32, payload: &[u8]) -> Result<(), LinkError> {
    let head = Head { length: payload.len(), kind, stream }.encode()?;
    out.write_all(&head).and_then(|()| out.write_all(payload)).map_err(LinkError::io("write to the link"))
}

/// Reads one frame, its payload into `payload` in place of what that held. `None`: the stream ended before it.
pub fn read(input: &mut impl Read, payload: &mut Vec<u8>) -> Result<Option<Head>, LinkError> {
    let mut bytes = [0; HEADER];
    match fill(input, &mut bytes)? {
        0 => return Ok(None),
        HEADER => {}
        _ => return Err(LinkError::Truncated),
    }
    let head = Head::decode(&bytes)?;
    payload.clear();
    // Grows with what arrives, not with what was announced.
    let got = input.take(head.length as u64).read_to_end(payload).map_err(LinkError::io("read from the link"))?;
    if got < head.length {
        return Err(LinkError::Truncated);
    }
    Ok(Some(head))
}

/// Reads until the buffer is full or the stream ends; the number of bytes read.
fn fill(input: &mut impl Read, buffer: &mut [u8]) -> Result<usize, LinkError> {
    let mut got = 0;
    while got < buffer.len() {
        match input.read(&mut buffer[got..]) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(LinkError::io("read from the link")(e)),
        }
    }
    Ok(got)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_comes_back_and_every_cut_is_seen() {
        let mut wire = Vec::new();
        write(&mut wire, Kind::Message, 7, b"payload").unwrap();
        let mut payload = b"old".to_vec();
        let head = read(&mut &wire[..], &mut payload).unwrap().unwrap();
        assert_eq!((head, &payload[..]), (Head { length: 7, kind: Kind::Message, stream: 7 }, &b"payload"[..]));
        assert!(matches!(read(&mut io::empty(), &mut payload), Ok(None)));
        for cut in 1..wire.len() {
            assert!(matches!(read(&mut &wire[..cut], &mut payload), Err(LinkError::Truncated)), "{cut}");
        }
    }

    #[test]
    fn what_is_too_long_or_unknown_is_refused_before_it_is_read() {
        let mut payload = Vec::new();
        let too_long = [0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0];
        assert!(matches!(read(&mut &too_long[..], &mut payload), Err(LinkError::TooLong(0xffff_ffff))));
        let unknown = [0, 0, 0, 0, 99, 0, 0, 0, 0];
        assert!(matches!(read(&mut &unknown[..], &mut payload), Err(LinkError::UnknownKind(99))));
        assert_eq!(payload.capacity(), 0);
        let big = vec![0; MAX_PAYLOAD + 1];
        assert!(matches!(write(&mut io::sink(), Kind::Message, 0, &big), Err(LinkError::TooLong(_))));
        write(&mut io::sink(), Kind::Message, 0, &big[1..]).unwrap();
    }
}
