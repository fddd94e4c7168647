//! Messages into frames and back: a checksum, and the message in postcard. The checksum is of the message as it was
//! made, whoever packs or passes the frame on its way.

use std::io::{BufReader, BufWriter, Read, Write};
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::protocol::survey::{Answer, Ask};
use crate::protocol::{Call, Reply, Request, Tunnel};

use super::LinkError;
use super::frame::{self, HEADER, Head, Kind};
use super::handshake::Role;

/// Bytes of the checksum: CRC-32, little-endian.
pub const SUM: usize = 4;

/// Tells contents on their way from all other messages, which may overtake them.
pub trait Lane {
    fn is_data(&self) -> bool;
}

impl Lane for Request {
    fn is_data(&self) -> bool {
        match self {
            Request::Data { .. } => true,
            Request::Rsync { piece, .. } => !matches!(piece, Tunnel::Taken(_)),
            _ => false,
        }
    }
}

impl Lane for Reply {
    fn is_data(&self) -> bool {
        match self {
            Reply::Data { .. } => true,
            Reply::Rsync { piece, .. } => !matches!(piece, Tunnel::Taken(_)),
            _ => false,
        }
    }
}

impl Lane for Ask {
    fn is_data(&self) -> bool {
        false
    }
}

impl Lane for Answer {
    fn is_data(&self) -> bool {
        false
    }
}

/// What whoever calls an agent says, and as whom.
pub trait Says: Serialize + Lane {
    /// Named by the first frame.
    const ROLE: Role;
    /// What is answered.
    type Hears: DeserializeOwned;
}

impl Says for Request {
    const ROLE: Role = Role::Brain;
    type Hears = Reply;
}

impl Says for Ask {
    const ROLE: Role = Role::Surveyor;
    type Hears = Answer;
}

/// What arrives at one end of a link.
pub trait Arrives: Sized {
    /// The message in a payload with this number, of somebody with that role.
    ///
    /// # Errors
    /// See [`decode_bound`].
    fn decode(speaker: Role, payload: &[u8], number: u32) -> Result<Self, LinkError>;
}

impl<T: DeserializeOwned> Arrives for T {
    fn decode(_speaker: Role, payload: &[u8], number: u32) -> Result<T, LinkError> {
        decode_bound(payload, number)
    }
}

impl Arrives for Call {
    fn decode(speaker: Role, payload: &[u8], number: u32) -> Result<Call, LinkError> {
        match speaker {
            Role::Brain => decode_bound(payload, number).map(Call::Session),
            Role::Surveyor => decode_bound(payload, number).map(Call::Survey),
            Role::Agent => Err(LinkError::Malformed("an agent calls nobody".into())),
        }
    }
}

/// One message as a whole frame.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, LinkError> {
    let wire = postcard::to_extend(message, vec![0; HEADER + SUM]);
    let mut wire = wire.map_err(|e| LinkError::Malformed(e.to_string()))?;
    seal(&mut wire[HEADER..]);
    let head = Head { length: wire.len() - HEADER, kind: Kind::Message, stream: 0 };
    wire[..HEADER].copy_from_slice(&head.encode()?);
    Ok(wire)
}

/// Puts the checksum before a message that has no number yet.
pub fn seal(payload: &mut [u8]) {
    if let Some((sum, message)) = payload.split_first_chunk_mut::<SUM>() {
        *sum = crc32fast::hash(message).to_le_bytes();
    }
}

/// Binds the checksum of an encoded message to its number: another number, and the message counts as broken.
pub fn bind(payload: &mut [u8], number: u32) {
    if let Some(sum) = payload.first_chunk_mut::<SUM>() {
        *sum = (u32::from_le_bytes(*sum) ^ spread(number)).to_le_bytes();
    }
}

/// Any two numbers differ in many bits of this, so that a flipped bit of the number is no flipped bit of the sum.
fn spread(number: u32) -> u32 {
    number.wrapping_mul(0x9e37_79b1)
}

/// The message in a payload that has no number. Bytes left over are an error, and so is a checksum that is not the
/// message's.
pub fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, LinkError> {
    decode_bound(payload, 0)
}

/// The message in a payload with this number.
pub fn decode_bound<T: DeserializeOwned>(payload: &[u8], number: u32) -> Result<T, LinkError> {
    let (sum, message) = payload.split_first_chunk::<SUM>().ok_or(LinkError::Broken)?;
    if crc32fast::hash(message) ^ spread(number) != u32::from_le_bytes(*sum) {
        return Err(LinkError::Broken);
    }
    match postcard::take_from_bytes(message) {
        Ok((message, [])) => Ok(message),
        Ok((_, rest)) => Err(LinkError::Malformed(format!("{} bytes too many", rest.len()))),
        Err(e) => Err(LinkError::Malformed(e.to_string())),
    }
}

/// Writes messages; they go on their way at [`Sender::flush`], or when enough have come together.
pub struct Sender<W: Write, T> {
    out: BufWriter<W>,
    message: PhantomData<fn(T)>,
}

impl<W: Write, T: Serialize> Sender<W, T> {
    pub fn new(out: W) -> Self {
        Sender { out: BufWriter::with_capacity(64 << 10, out), message: PhantomData }
    }

    pub fn send(&mut self, message: &T) -> Result<(), LinkError> {
        self.out.write_all(&encode(message)?).map_err(LinkError::io("write to the link"))
    }

    pub fn flush(&mut self) -> Result<(), LinkError> {
        self.out.flush().map_err(LinkError::io("write to the link"))
    }
}

/// Reads messages, and passes over pings and pongs.
pub struct Receiver<R: Read, T> {
    input: BufReader<R>,
    payload: Vec<u8>,
    message: PhantomData<fn() -> T>,
}

impl<R: Read, T: DeserializeOwned> Receiver<R, T> {
    pub fn new(input: R) -> Self {
        Receiver { input: BufReader::with_capacity(64 << 10, input), payload: Vec::new(), message: PhantomData }
    }

    /// Waits for the next message; `None`: the stream ended.
    pub fn receive(&mut self) -> Result<Option<T>, LinkError> {
        loop {
            match frame::read(&mut self.input, &mut self.payload)?.map(|head| head.kind) {
                None => return Ok(None),
                Some(Kind::Message) => return decode(&self.payload).map(Some),
                Some(Kind::Ping | Kind::Pong) => {}
                Some(kind) => return Err(LinkError::Unexpected(kind)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Hash, RelPath};
    use crate::protocol::Data;
    use crate::replica::archive::samples::file_row;
    use serde_bytes::ByteBuf;

    fn samples() -> Vec<Reply> {
        let path = RelPath::new(b"a/\xff").unwrap();
        let known = file_row(5, 4, "x", 3);
        let after = Some(known.entry.clone());
        let known = crate::protocol::Known { node: 5, generation: 3, entry: known.entry };
        let change = crate::protocol::Change {
            seq: 1,
            path: path.clone(),
            parent: Some(1),
            known: Some(known.clone()),
            moved: Some(crate::protocol::Moved { from: path.clone(), known, edited: true }),
            after,
            contents: true,
            touched: false,
            read: false,
            inline: Some(ByteBuf::from(b"hello".to_vec())),
            like: None,
            below: 0,
            young: 0,
        };
        let chunk = Data::Chunk { offset: u64::MAX, bytes: ByteBuf::from(vec![0xaa; 1 << 20]) };
        vec![
            Reply::Clean { path },
            Reply::Report(change),
            Reply::Data { generation: 9, data: chunk },
            Reply::Data { generation: 9, data: Data::End { size: 0, hash: Hash([1; 32]) } },
            Reply::Stopped,
        ]
    }

    fn wire() -> Vec<u8> {
        let mut wire = Vec::new();
        let mut sender = Sender::new(&mut wire);
        samples().iter().for_each(|message| sender.send(message).unwrap());
        sender.flush().unwrap();
        drop(sender);
        wire
    }

    #[test]
    fn messages_come_back_in_order() {
        let wire = wire();
        let mut receiver = Receiver::<_, Reply>::new(&wire[..]);
        for expected in samples() {
            assert_eq!(receiver.receive().unwrap(), Some(expected));
        }
        assert_eq!(receiver.receive().unwrap(), None);
    }

    #[test]
    fn bytes_left_over_and_messages_over_the_cap_are_refused() {
        let summed = |message: &[u8]| [&crc32fast::hash(message).to_le_bytes()[..], message].concat();
        assert_eq!(decode::<u8>(&summed(&[1])).unwrap(), 1);
        assert!(matches!(decode::<u8>(&summed(&[1, 2])), Err(LinkError::Malformed(_))));
        assert!(matches!(decode::<u8>(&[1, 2]), Err(LinkError::Broken)));
        let huge = Reply::Note { text: "x".repeat(frame::MAX_PAYLOAD) };
        assert!(matches!(encode(&huge), Err(LinkError::TooLong(_))));
    }

    /// Reads whatever it is given until an end or an error; the number of messages.
    fn drain(wire: &[u8]) -> usize {
        let mut receiver = Receiver::<_, Reply>::new(wire);
        std::iter::from_fn(|| receiver.receive().ok().flatten()).count()
    }

    #[test]
    fn garbage_never_panics() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut roll = move |sides: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as usize % sides
        };
        let small: Vec<Reply> = samples().into_iter().filter(|m| encode(m).unwrap().len() < 4096).collect();
        let wire: Vec<u8> = small.iter().flat_map(|message| encode(message).unwrap()).collect();
        for _ in 0..3000 {
            let mut broken = wire.clone();
            for _ in 0..=roll(4) {
                let at = roll(broken.len());
                broken[at] = roll(256) as u8;
            }
            broken.truncate(roll(broken.len() + 1));
            assert!(drain(&broken) <= small.len());
            // Pure noise, once with a plausible header.
            let mut noise: Vec<u8> = (0..roll(300)).map(|_| roll(256) as u8).collect();
            drain(&noise);
            noise.splice(0..0, [noise.len() as u8, 0, 0, 0, 2, 0, 0, 0, 0]);
            drain(&noise);
        }
    }
}
