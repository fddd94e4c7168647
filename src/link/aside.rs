//! What a line's process says to a brain: what comes over the line, what ssh says beside it, and how it ended. In the other
//! direction there are bytes alone, and the end of the stream is the end of ssh's stdin.
//!
//! ```text
//! kind u8, length u32 LE, payload:   bytes of the line │ a line of words │ an exit code, i32 LE
//! ```

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};

/// The most bytes of one piece.
const PIECE: usize = 64 << 10;
/// The longest line of words; a longer one is cut.
const WORDS: usize = 4 << 10;
/// A socket holds no more than about that, since what is in it cannot be overtaken.
pub const IN_THE_SOCKET: usize = 64 << 10;

const BYTES: u8 = 1;
const SAID: u8 = 2;
const ENDED: u8 = 3;

/// The saying end. Several threads may use it.
pub struct Teller(Mutex<UnixStream>);

impl Teller {
    pub fn new(stream: UnixStream) -> Teller {
        Teller(Mutex::new(stream))
    }

    fn tell(&self, kind: u8, payload: &[u8]) -> io::Result<()> {
        let mut stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let [a, b, c, d] = u32::try_from(payload.len()).map_err(io::Error::other)?.to_le_bytes();
        // One system call for both.
        let mut whole = Vec::with_capacity(5 + payload.len());
        whole.extend_from_slice(&[kind, a, b, c, d]);
        whole.extend_from_slice(payload);
        stream.write_all(&whole)
    }

    /// A line, without its end.
    pub fn say(&self, words: &str) -> io::Result<()> {
        self.tell(SAID, &words.as_bytes()[..words.len().min(WORDS)])
    }

    /// The last word.
    pub fn ended(&self, code: i32) -> io::Result<()> {
        self.tell(ENDED, &code.to_le_bytes())
    }
}

/// What is written goes to the brain as what came over the line.
impl Write for &Teller {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = &bytes[..bytes.len().min(PIECE)];
        if !piece.is_empty() {
            self.tell(BYTES, piece)?;
        }
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Hears all of it: bytes go to `line`, words to `beside`, a line each. The exit code; `None`: the process ended without a
/// last word.
///
/// # Errors
/// What cannot be understood, and whatever reading or writing ends with.
pub fn hear(from: &mut impl Read, line: &mut impl Write, beside: &mut impl Write) -> io::Result<Option<i32>> {
    let mut payload = Vec::new();
    loop {
        let mut head = [0; 5];
        match from.read_exact(&mut head) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => return Ok(None),
            Err(e) => return Err(e),
        }
        let [kind, length @ ..] = head;
        let length = u32::from_le_bytes(length) as usize;
        let most = match kind {
            BYTES => PIECE,
            SAID => WORDS,
            ENDED => size_of::<i32>(),
            _ => return Err(ErrorKind::InvalidData.into()),
        };
        if length > most {
            return Err(ErrorKind::InvalidData.into());
        }
        payload.resize(length, 0);
        from.read_exact(&mut payload)?;
        match kind {
            BYTES => line.write_all(&payload).and_then(|()| line.flush())?,
            SAID => {
                payload.push(b'\n');
                beside.write_all(&payload)?;
            }
            _ => {
                let code = payload.as_slice().try_into().map_err(|_| io::Error::from(ErrorKind::InvalidData))?;
                return Ok(Some(i32::from_le_bytes(code)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    /// What is heard of a speaker.
    fn heard(speak: impl FnOnce(&Teller) + Send + 'static) -> (io::Result<Option<i32>>, Vec<u8>, Vec<u8>) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let speaker = thread::spawn(move || speak(&Teller::new(ours)));
        let (mut line, mut beside) = (Vec::new(), Vec::new());
        let end = hear(&mut theirs, &mut line, &mut beside);
        speaker.join().unwrap();
        (end, line, beside)
    }

    #[test]
    fn bytes_words_and_the_end_arrive_apart() {
        let long = vec![7; 3 * PIECE + 1];
        let wanted = long.clone();
        let (end, line, beside) = heard(move |teller| {
            (&mut &*teller).write_all(b"one").unwrap();
            teller.say("Permission denied").unwrap();
            (&mut &*teller).write_all(&long).unwrap();
            teller.say(&"x".repeat(WORDS + 5)).unwrap();
            teller.ended(-3).unwrap();
        });
        assert_eq!((end.unwrap(), line), (Some(-3), [b"one".to_vec(), wanted].concat()));
        assert_eq!(beside, [b"Permission denied\n".to_vec(), vec![b'x'; WORDS], b"\n".to_vec()].concat());
        let (end, line, _) = heard(|teller| (&mut &*teller).write_all(b"and no more").unwrap());
        assert_eq!((end.unwrap(), &line[..]), (None, &b"and no more"[..]));
    }

    #[test]
    fn what_is_too_long_or_unknown_is_refused_before_it_is_read() {
        for wire in [
            &[9, 0, 0, 0, 0][..],
            &[BYTES, 0xff, 0xff, 0xff, 0xff],
            &[BYTES, 1, 0, 1, 0],
            &[SAID, 1, 16, 0, 0],
            &[ENDED, 3, 0, 0, 0, 1, 2, 3],
            &[ENDED, 5, 0, 0, 0],
            &[BYTES, 5, 0, 0, 0, 1],
        ] {
            let (mut line, mut beside) = (Vec::new(), Vec::new());
            assert!(hear(&mut &wire[..], &mut line, &mut beside).is_err(), "{wire:?}");
            assert!(line.is_empty() && beside.is_empty());
        }
    }
}
