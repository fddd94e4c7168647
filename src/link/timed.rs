//! Reading with a limit to the other side's silence, and with a way to wake the reader.

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::pulse;

/// Interrupts a [`Timed`] reader from another thread, for good.
pub struct Waker(OwnedFd);

impl Waker {
    pub fn new() -> io::Result<Waker> {
        Ok(Waker(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    pub fn wake(&self) {
        // It fails only if it was woken already, 2^64 times.
        _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What a woken reader does.
pub enum Woken {
    /// Fail at once with `ConnectionAborted`.
    Stop,
    /// Read on what is there, but wait no longer than this for more.
    Hurry(Duration),
}

/// A reader that fails with `TimedOut` when nothing arrives for so long.
pub struct Timed<R, F> {
    input: R,
    silence: Duration,
    waker: std::sync::Arc<Waker>,
    woken: Option<F>,
}

impl<R: Read + AsFd, F: FnOnce() -> Woken> Timed<R, F> {
    pub fn new(input: R, silence: Duration, waker: std::sync::Arc<Waker>, woken: F) -> Self {
        Timed { input, silence, waker, woken: Some(woken) }
    }

    /// Waits until there is something to read, or the end.
    fn wait(&mut self) -> io::Result<()> {
        let mut until = Instant::now() + self.silence;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let time = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
            let mut fds = [PollFd::new(&self.input, PollFlags::IN), PollFd::new(&*self.waker, PollFlags::IN)];
            let watched = if self.woken.is_some() { 2 } else { 1 };
            match pulse::rest(left, || poll(&mut fds[..watched], Some(&time))) {
                Err(rustix::io::Errno::INTR) => continue,
                Err(e) => return Err(e.into()),
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(_) => {}
            }
            let (ready, woken) = (!fds[0].revents().is_empty(), !fds[1].revents().is_empty());
            if woken && let Some(decide) = self.woken.take() {
                match decide() {
                    Woken::Stop => return Err(io::ErrorKind::ConnectionAborted.into()),
                    Woken::Hurry(silence) => {
                        self.silence = silence;
                        until = until.min(Instant::now() + silence);
                    }
                }
            }
            if ready {
                return Ok(());
            }
        }
    }
}

impl<R: Read + AsFd, F: FnOnce() -> Woken> Read for Timed<R, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.wait()?;
        self.input.read(buffer)
    }
}
