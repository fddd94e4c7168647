//! Carries the bytes between stdin and stdout and a socket, and does nothing else.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread;

const PIECE: usize = 64 << 10;

/// Relays until the other end of the socket is closed. The end of `input` is passed on; what comes back after it still
/// arrives.
pub fn relay(stream: &UnixStream, mut input: impl Read + Send + 'static, mut output: impl Write) -> io::Result<()> {
    let mut there = stream.try_clone()?;
    let forth = move || {
        // A failure shows at the other end of the socket.
        let _ = carry(&mut input, &mut there);
        let _ = there.shutdown(Shutdown::Write);
    };
    thread::Builder::new().name("relay".into()).spawn(forth)?;
    let mut back = stream;
    carry(&mut back, &mut output)
}

/// Carries all until the end; each piece is on its way before the next is read.
fn carry(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        match from.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(n) => to.write_all(&piece[..n]).and_then(|()| to.flush())?,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// The most words that come before what is relayed, and the most bytes of one.
const WORDS: u32 = 64;
const WORD: u32 = 4096;

/// Sends words before anything is relayed: their number, and each with its length before it.
pub fn send_words(stream: &mut impl Write, words: &[&[u8]]) -> io::Result<()> {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes();
    let mut all = count(words.len()).to_vec();
    for word in words {
        all.extend(count(word.len()));
        all.extend(*word);
    }
    stream.write_all(&all)
}

/// Receives such words; `None`: the stream ended before them.
pub fn receive_words(stream: &mut impl Read) -> io::Result<Option<Vec<Vec<u8>>>> {
    let mut number = || {
        let mut bytes = [0; 4];
        match stream.read_exact(&mut bytes) {
            Ok(()) => Ok(Some(u32::from_le_bytes(bytes))),
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => Ok(None),
            Err(e) => Err(e),
        }
    };
    let Some(count) = number()? else { return Ok(None) };
    if count > WORDS {
        return Err(ErrorKind::InvalidData.into());
    }
    let mut words = Vec::new();
    for _ in 0..count {
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length);
        if length > WORD {
            return Err(ErrorKind::InvalidData.into());
        }
        let mut word = vec![0; length as usize];
        stream.read_exact(&mut word)?;
        words.push(word);
    }
    Ok(Some(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_before_what_is_relayed() {
        let mut sent = Vec::new();
        send_words(&mut sent, &[b"--server", b"", b"\xff"]).unwrap();
        sent.extend(b"rest");
        let mut from = &sent[..];
        assert_eq!(receive_words(&mut from).unwrap().unwrap(), [&b"--server"[..], b"", b"\xff"]);
        assert_eq!(from, b"rest");
        assert!(receive_words(&mut &b""[..]).unwrap().is_none());
        assert!(receive_words(&mut &b"\xff\xff\xff\xff"[..]).is_err());
        assert!(receive_words(&mut &b"\x01\0\0\0\xff\xff\xff\xff"[..]).is_err());
        assert!(receive_words(&mut &b"\x01\0\0\0\x02\0\0\0x"[..]).is_err());
    }

    #[test]
    fn both_ways_and_the_end_of_the_input_is_passed_on() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let far = thread::spawn(move || {
            let mut got = Vec::new();
            theirs.read_to_end(&mut got).unwrap();
            theirs.write_all(&got.iter().rev().copied().collect::<Vec<_>>()).unwrap();
            got.len()
        });
        let input: Vec<u8> = (0..200_000_u32).map(|n| n as u8).collect();
        let mut output = Vec::new();
        relay(&ours, io::Cursor::new(input.clone()), &mut output).unwrap();
        assert_eq!(far.join().unwrap(), input.len());
        assert!(output.iter().eq(input.iter().rev()));
    }
}
