//! A remote endpoint as a queue to send to and a stream of what arrives: two threads around a pair of pipes.
//!
//! Messages are sent in their order, and so are data; messages overtake data that wait. So a receiver must bear
//! late data of an action that a `Cancel` or `Result` has ended meanwhile.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::marker::PhantomData;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde::Serialize;

use super::again::{Arrived, Heard, Sent, read_number, write_number};
use super::codec::{self, Arrives, Lane};
use super::frame::{self, Kind};
use super::handshake::Hello;
use super::line::Line;
use super::outbox::{Next, Outbox};
use super::pack::{Packer, Unpacker};
use super::timed::{Timed, Waker, Woken};
use super::{Limits, LinkError};
use crate::model::readable;
use crate::pulse;

/// The longest reason that is given for turning the other side away.
const MAX_REASON: usize = 1024;
/// After a failed write the other side's last words are read for so long at most.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What arrives: one `Hello`, messages, one `Ended`. Without a `Hello` the `Ended` tells why there was none.
#[derive(Debug)]
pub enum Incoming<I> {
    Hello(Hello),
    Message(I),
    Ended(LinkError),
}

/// The sending end. Dropping it ends both threads and drops both pipes (but a write that is stuck lasts until
/// the other end goes: end the process or the socket behind it as well).
pub struct Channel<O> {
    ends: Ends,
    message: PhantomData<fn(O)>,
}

/// Ends the link when it is dropped.
struct Ends {
    outbox: Arc<Outbox>,
    waker: Arc<Waker>,
}

impl<O> Channel<O> {
    /// Sends `ours`, and from then on hands whatever arrives to `deliver`, in a thread of its own. While `deliver` waits,
    /// nothing is read, so the other side will wait as well. When it returns false, the link ends.
    /// `read` must hold no buffer of its own (see [`stdio`]).
    ///
    /// # Errors
    /// Only if the threads cannot be started; everything else arrives as [`Incoming::Ended`].
    pub fn start<I, R, W>(
        (read, write): (R, W),
        ours: Hello,
        limits: Limits,
        mut deliver: impl FnMut(Incoming<I>) -> bool + Send + 'static,
    ) -> Result<Channel<O>, LinkError>
    where
        I: Arrives,
        R: Read + AsFd + Send + 'static,
        W: Write + Send + 'static,
    {
        let start = LinkError::io("start the link");
        let waker = Arc::new(Waker::new().map_err(&start)?);
        let outbox = Arc::new(Outbox::new(limits.waiting));
        let ends = Ends { outbox: outbox.clone(), waker: waker.clone() };

        let (its_outbox, its_waker, hello) = (outbox.clone(), waker.clone(), ours.clone());
        let writer = move || {
            let _pulse = pulse::take("link-write");
            if let Err(error) = write_all(write, &hello, &its_outbox, &limits) {
                its_outbox.fail(error);
                its_waker.wake();
            }
        };
        thread::Builder::new().name("link-write".into()).spawn(writer).map_err(&start)?;

        let reader = move || {
            let _pulse = pulse::take("link-read");
            let asked = outbox.clone();
            let woken = move || match asked.has_failed() {
                true => Woken::Hurry(LAST_WORDS.min(limits.silence)),
                false => Woken::Stop,
            };
            let mut input = BufReader::with_capacity(64 << 10, Timed::new(read, limits.silence, waker, woken));
            let Err(error) = read_all(&mut input, &ours, limits.unpack, &outbox, &mut deliver) else { return };
            drop(input);
            // Whoever cannot be understood is still told who we are, before `deliver` takes the pipes away.
            outbox.wait_greeted(LAST_WORDS);
            let why = explain(error, &outbox, limits.silence);
            outbox.abort();
            pulse::lean(|| deliver(Incoming::Ended(why)));
        };
        thread::Builder::new().name("link-read".into()).spawn(reader).map_err(&start)?;
        Ok(Channel { ends, message: PhantomData })
    }

    /// The same sending end, for messages of another kind: an agent learns by the first frame which ones are understood.
    pub fn speak<P>(self) -> Channel<P> {
        Channel { ends: self.ends, message: PhantomData }
    }
}

impl<O: Serialize + Lane> Channel<O> {
    /// Queues a message; waits while too many bytes wait. Whoever also has to take what arrives uses
    /// [`Channel::try_send`], or two sides may wait for each other.
    ///
    /// # Errors
    /// [`LinkError::Closed`] after the end, [`LinkError::TooLong`] for a message that fits no frame.
    pub fn send(&self, message: &O) -> Result<(), LinkError> {
        self.ends.outbox.put(codec::encode(message)?, message.is_data(), true).map(drop)
    }

    /// Queues a message if there is room for it now; whether there was.
    pub fn try_send(&self, message: &O) -> Result<bool, LinkError> {
        let back = self.ends.outbox.put(codec::encode(message)?, message.is_data(), false)?;
        Ok(back.is_none())
    }
}

impl<O> Channel<O> {
    /// Takes no more messages. What waits is written, then the other side sees the end of the stream; what it says
    /// until its own end still arrives.
    pub fn close(&self) {
        self.ends.outbox.close();
    }
}

impl<O> Channel<O> {
    /// Ends the link in favour of a last word: what waits is dropped, the other side sees
    /// [`LinkError::TurnedAway`] with this reason.
    pub fn turn_away(&self, reason: &str) {
        let mut end = reason.len().min(MAX_REASON);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        let mut frame = Vec::new();
        if frame::write(&mut frame, Kind::Refusal, 0, &reason.as_bytes()[..end]).is_ok() {
            self.ends.outbox.close_with(frame);
        }
    }

    /// Ends the link at once; whoever waits in [`Channel::send`] goes on with an error.
    pub fn abort(&self) {
        self.ends.abort();
    }
}

impl Ends {
    fn abort(&self) {
        self.outbox.abort();
        self.waker.wake();
    }
}

impl<O> std::fmt::Debug for Channel<O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Channel")
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        self.abort();
    }
}

/// This process's stdin and stdout as the pipes of a channel. The other side sees the end of the stream when the process
/// ends, not before.
pub fn stdio() -> io::Result<(File, File)> {
    let (stdin, stdout) = (io::stdin(), io::stdout());
    Ok((stdin.as_fd().try_clone_to_owned()?.into(), stdout.as_fd().try_clone_to_owned()?.into()))
}

/// The writer's life: the first frame, then what waits, a ping when nothing does.
fn write_all(write: impl Write, ours: &Hello, outbox: &Arc<Outbox>, limits: &Limits) -> Result<(), LinkError> {
    let line = Line::new(write, limits, outbox.clone());
    let mut out = BufWriter::with_capacity(64 << 10, line);
    let mut packer = Packer::new(limits.compress);
    let mut sent = Sent::default();
    ours.send(&mut out)?;
    outbox.greeted();
    loop {
        let next = pulse::rest(limits.ping_every, || outbox.next(limits.ping_every));
        if write_one(&mut out, next, outbox, &mut packer, &mut sent)? {
            return Ok(());
        }
    }
}

/// Writes one thing; true if it was the end.
fn write_one<W: Write>(
    out: &mut BufWriter<Line<W>>,
    next: Next,
    outbox: &Outbox,
    packer: &mut Packer,
    sent: &mut Sent,
) -> Result<bool, LinkError> {
    let io = LinkError::io("write to the link");
    let end = next == Next::End;
    match next {
        Next::Frame(mut frame) => {
            sent.number(&mut frame);
            let frame = packer.pack(frame, out.get_ref().meter.rate());
            out.write_all(&frame).map_err(&io)?;
            sent.keep(frame);
        }
        Next::Pong => frame::write(out, Kind::Pong, 0, &[])?,
        Next::Idle => frame::write(out, Kind::Ping, 0, &write_number(sent.last()))?,
        Next::Ask(number) => frame::write(out, Kind::Again, 0, &write_number(number))?,
        Next::Again(number) => {
            for frame in sent.since(number).ok_or(LinkError::Broken)? {
                out.write_all(frame).map_err(&io)?;
            }
        }
        Next::End => {}
    }
    if end || outbox.is_empty() {
        out.flush().map_err(&io)?;
    }
    Ok(end)
}

/// The reader's life. Ends with the reason, or without one when nobody wants to know any more.
fn read_all<I: Arrives>(
    input: &mut BufReader<impl Read>,
    ours: &Hello,
    unpack: bool,
    outbox: &Outbox,
    deliver: &mut impl FnMut(Incoming<I>) -> bool,
) -> Result<(), LinkError> {
    let hello = ours.receive(input)?;
    let speaker = hello.role;
    let mut wanted = pulse::lean(|| deliver(Incoming::Hello(hello)));
    let mut payload = Vec::new();
    let (mut unpacker, mut heard) = (Unpacker::default(), Heard::default());
    while wanted {
        let head = frame::read(input, &mut payload)?.ok_or(LinkError::Ended)?;
        match head.kind {
            Kind::Packed if !unpack => return Err(LinkError::Unexpected(Kind::Packed)),
            Kind::Message | Kind::Packed => {
                let plain = match head.kind {
                    Kind::Packed => unpacker.unpack(&payload),
                    _ => Ok(&payload[..]),
                };
                let message = match plain.and_then(|plain| I::decode(speaker, plain, head.stream)) {
                    // Not numbered: it cannot be asked for.
                    Ok(message) if head.stream == 0 => Some(message),
                    Ok(message) => match heard.arrived(head.stream, payload.len(), true)? {
                        Arrived::Take => Some(message),
                        other => ask(outbox, &other),
                    },
                    Err(LinkError::Malformed(_) | LinkError::TooLong(_)) if head.kind == Kind::Packed => {
                        ask(outbox, &heard.arrived(head.stream, payload.len(), false)?)
                    }
                    Err(LinkError::Broken) => ask(outbox, &heard.arrived(head.stream, payload.len(), false)?),
                    Err(error) => return Err(error),
                };
                if let Some(message) = message {
                    wanted = pulse::lean(|| deliver(Incoming::Message(message)));
                }
            }
            // A broken one is asked once more, at the latest when this side has nothing else to say.
            Kind::Again => drop(read_number(&payload).map(|number| outbox.asked(number))),
            Kind::Ping if payload.is_empty() => outbox.pong(),
            Kind::Ping => match read_number(&payload) {
                Some(last) => {
                    outbox.pong();
                    ask::<()>(outbox, &heard.rests(last)?);
                }
                // It was another frame.
                None => drop(ask::<()>(outbox, &heard.arrived(0, payload.len(), false)?)),
            },
            Kind::Pong if !payload.is_empty() => drop(ask::<()>(outbox, &heard.arrived(0, payload.len(), false)?)),
            Kind::Pong => {}
            Kind::Refusal if std::str::from_utf8(&payload).is_err() => return Err(LinkError::Broken),
            Kind::Refusal => return Err(LinkError::TurnedAway(readable(&payload))),
            Kind::Hello => return Err(LinkError::Unexpected(Kind::Hello)),
        }
    }
    outbox.abort();
    Ok(())
}

/// Asks for a message again, if that is what its arrival asks for. There is no message to be taken.
fn ask<T>(outbox: &Outbox, arrived: &Arrived) -> Option<T> {
    if let Arrived::Ask(number) = arrived {
        outbox.ask(*number);
    }
    None
}

/// The reason in the words that help: a failed write explains what the reader saw of it.
fn explain(error: LinkError, outbox: &Outbox, silence: Duration) -> LinkError {
    let LinkError::Io { source, .. } = &error else { return error };
    match (source.kind(), outbox.failure()) {
        (io::ErrorKind::TimedOut | io::ErrorKind::ConnectionAborted, Some(failure)) => failure,
        (io::ErrorKind::TimedOut, None) => LinkError::Silent(silence),
        (io::ErrorKind::ConnectionAborted, None) => LinkError::Closed,
        _ => error,
    }
}

#[cfg(test)]
mod tests;
