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

#[cfg(test)]
mod tests {
    use super::*;

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
