//! A side that says what it likes: frames over any pair of pipes, without psync's own bounds.

use std::io::{self, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use psync::link::codec;
use psync::link::frame::{self, Kind};
use psync::link::handshake::{Hello, Role};
use psync::link::pack::Unpacker;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::samples::forge;

/// What the other side said.
#[derive(Debug)]
pub enum Heard<I> {
    Hello,
    Message(I),
    /// Its last word.
    Refused,
    /// The stream ended, or made no sense.
    End,
}

/// One end of a line. What arrives and is not asked for waits in the pipes: whoever does not listen is deaf.
pub struct Talk<I> {
    pub mouth: Mouth,
    pub ears: Ears<I>,
}

/// What is said goes here.
pub struct Mouth(Option<Box<dyn Write + Send>>);

/// The writing end of a socket that is read elsewhere: the other side sees the end of the stream when this is dropped.
pub struct WriteEnd(pub UnixStream);

impl Write for WriteEnd {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for WriteEnd {
    fn drop(&mut self) {
        let _ = self.0.shutdown(std::net::Shutdown::Write);
    }
}

/// What is heard comes here.
pub struct Ears<I>(Receiver<Heard<I>>);

impl Mouth {
    /// Any bytes.
    pub fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        let out = self.0.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        out.write_all(bytes).and_then(|()| out.flush())
    }

    /// Says a message, with forged names in it. False: nobody takes it any more.
    pub fn say<T: Serialize>(&mut self, message: &T) -> bool {
        let Some(frame) = frame_of(message) else { return true };
        self.raw(&frame).is_ok()
    }
}

impl<I> Ears<I> {
    /// The next thing that is heard; `None`: nothing within that time.
    pub fn next(&self, patience: Duration) -> Option<Heard<I>> {
        self.0.recv_timeout(patience).ok()
    }

    /// Takes what has arrived and throws it away.
    pub fn drain(&self) {
        while self.0.try_recv().is_ok() {}
    }
}

impl<I: DeserializeOwned + Send + 'static> Talk<I> {
    /// Says the first frame and begins to listen.
    pub fn begin(
        read: impl Read + Send + 'static,
        write: impl Write + Send + 'static,
        role: Role,
        pair: &str,
    ) -> Talk<I> {
        let (say, heard) = sync_channel(64);
        let hello = Hello::new(role, pair);
        let ours = hello.clone();
        let listen = move || {
            let mut input = BufReader::with_capacity(64 << 10, read);
            let end = loop_over(&mut input, &ours, |one| say.send(one).is_ok());
            let _ = say.send(end);
        };
        thread::Builder::new().name("listen".into()).spawn(listen).expect("a thread");
        let mut talk = Talk { mouth: Mouth(Some(Box::new(write))), ears: Ears(heard) };
        let mut first = Vec::new();
        hello.send(&mut first).expect("a vector");
        let _ = talk.raw(&first);
        talk
    }

    /// Says a message, with forged names in it. False: nobody takes it any more.
    pub fn say<T: Serialize>(&mut self, message: &T) -> bool {
        self.mouth.say(message)
    }

    pub fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.mouth.raw(bytes)
    }

    /// Waits for a message that `wanted` takes; all others are passed over. `None`: the line ended, or it took too long.
    pub fn wait<T>(&self, patience: Duration, mut wanted: impl FnMut(I) -> Option<T>) -> Option<T> {
        let end = Instant::now() + patience;
        loop {
            match self.ears.next(end.saturating_duration_since(Instant::now()))? {
                Heard::Message(message) => {
                    if let Some(found) = wanted(message) {
                        return Some(found);
                    }
                }
                Heard::Hello => {}
                Heard::Refused | Heard::End => return None,
            }
        }
    }

    /// Ends this direction; what the other side still says can be heard.
    pub fn hang_up(&mut self) {
        self.mouth = Mouth(None);
    }

    /// Waits for the other side's end. False: it goes on.
    pub fn wait_end(&self, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        loop {
            match self.ears.0.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(Heard::End) | Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return true,
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => return false,
                Ok(_) => {}
            }
        }
    }
}

/// A message as a frame with forged names; `None`: it fits no frame.
pub fn frame_of<T: Serialize>(message: &T) -> Option<Vec<u8>> {
    let mut frame = codec::encode(message).ok()?;
    forge(&mut frame[frame::HEADER + codec::SUM..]);
    codec::seal(&mut frame[frame::HEADER..]);
    Some(frame)
}

fn loop_over<I: DeserializeOwned>(
    input: &mut BufReader<impl Read>,
    ours: &Hello,
    mut say: impl FnMut(Heard<I>) -> bool,
) -> Heard<I> {
    let mut unpacker = Unpacker::default();
    let mut payload = Vec::new();
    match ours.receive(input) {
        Ok(_) => {
            say(Heard::Hello);
        }
        Err(_) => return Heard::End,
    }
    loop {
        let head = match frame::read(input, &mut payload) {
            Ok(Some(head)) => head,
            Ok(None) => return Heard::End,
            Err(_) => return Heard::End,
        };
        let plain = match head.kind {
            Kind::Packed => match unpacker.unpack(&payload) {
                Ok(plain) => plain,
                Err(_) => return Heard::End,
            },
            Kind::Message => &payload,
            Kind::Refusal => {
                say(Heard::Refused);
                continue;
            }
            Kind::Ping | Kind::Pong | Kind::Hello | Kind::Again => continue,
        };
        match codec::decode_bound(plain, head.stream) {
            Ok(message) => {
                if !say(Heard::Message(message)) {
                    return Heard::End;
                }
            }
            Err(_) => return Heard::End,
        }
    }
}
