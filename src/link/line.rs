//! The way out onto the line: holds the rate down to a limit, and measures how fast the line takes what is written.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Limits;
use super::outbox::Outbox;
use crate::pulse;

/// With a limit, so many slices are written in a second: the other side hears something all the time.
const SLICES: u64 = 10;
/// The smallest slice.
const SLICE_MIN: u64 = 256;
/// A measurement ends with so many bytes, several times what a pipe holds without a reader,
const SAMPLE_BYTES: u64 = 512 << 10;
/// or after so long a wait.
const SAMPLE_WAIT: Duration = Duration::from_millis(500);

/// How fast the line is, as far as it holds the writer up. Pure.
#[derive(Debug, Default)]
pub struct Meter {
    bytes: u64,
    waited: Duration,
    rate: Option<u64>,
}

impl Meter {
    /// So many bytes were taken after so long a wait.
    fn add(&mut self, bytes: u64, waited: Duration) {
        self.bytes += bytes;
        self.waited += waited;
        if self.bytes < SAMPLE_BYTES && self.waited < SAMPLE_WAIT {
            return;
        }
        let micros = u64::try_from(self.waited.as_micros()).unwrap_or(u64::MAX).max(1);
        self.rate = Some(self.bytes.saturating_mul(1_000_000) / micros);
        (self.bytes, self.waited) = (0, Duration::ZERO);
    }

    /// Bytes per second of waiting, lately; `None` before the first measurement. Whoever never waits for the line
    /// finds it as fast as memory.
    pub fn rate(&self) -> Option<u64> {
        self.rate
    }
}

/// A writer onto the line.
pub struct Line<W> {
    write: W,
    /// Bytes per second; 0: none.
    limit: u64,
    /// With a limit: when the next slice may go.
    free: Instant,
    /// Who takes nothing for that long has fallen silent as well, and the link ends.
    silence: Duration,
    outbox: Arc<Outbox>,
    pub meter: Meter,
}

impl<W: Write> Line<W> {
    /// `outbox` ends a wait when the link ends.
    pub fn new(write: W, limits: &Limits, outbox: Arc<Outbox>) -> Line<W> {
        let (limit, silence) = (limits.bandwidth, limits.silence);
        Line { write, limit, free: Instant::now(), silence, outbox, meter: Meter::default() }
    }
}

impl<W: Write> Write for Line<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let start = Instant::now();
        let mut slice = bytes;
        if self.limit > 0 {
            let most = usize::try_from((self.limit / SLICES).max(SLICE_MIN)).unwrap_or(usize::MAX);
            slice = &bytes[..bytes.len().min(most)];
            let wait = self.free.saturating_duration_since(start);
            if pulse::rest(wait, || self.outbox.is_aborted_within(wait)) {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
        }
        let written = pulse::rest(self.silence, || self.write.write(slice))?;
        let end = Instant::now();
        self.meter.add(written as u64, end - start);
        if let Some(micros) = (written as u64).saturating_mul(1_000_000).checked_div(self.limit) {
            // What was not used in the past is lost: a quiet hour earns no burst.
            self.free = self.free.max(start) + Duration::from_micros(micros);
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_meter_tells_the_rate_of_a_line_that_holds_the_writer_up() {
        let mut meter = Meter::default();
        meter.add(100 << 10, Duration::from_millis(10));
        assert_eq!(meter.rate(), None);
        // 512 KiB in 512 ms of waiting, whatever time lies between.
        meter.add(412 << 10, Duration::from_millis(502));
        assert_eq!(meter.rate(), Some(1024 * 1000));
        // So slow a line that the bytes do not come together.
        meter.add(5000, Duration::from_millis(500));
        assert_eq!(meter.rate(), Some(10_000));
        meter.add(1 << 20, Duration::ZERO);
        assert_eq!(meter.rate(), Some((1 << 20) * 1_000_000));
    }

    #[test]
    fn a_limit_is_kept_and_a_wait_ends_with_the_link() {
        let outbox = Arc::new(Outbox::new(1000));
        let limited = |bandwidth| Limits { bandwidth, ..Limits::default() };
        let mut line = Line::new(Vec::new(), &limited(100_000), outbox.clone());
        let start = Instant::now();
        line.write_all(&[7; 60_000]).unwrap();
        // The last slice of 10,000 bytes went when the five before it were paid for.
        assert!(start.elapsed() >= Duration::from_millis(500), "{:?}", start.elapsed());
        assert_eq!(line.write.len(), 60_000);
        assert!(line.meter.rate().is_none_or(|rate| rate < 200_000));
        let mut slow = Line::new(Vec::new(), &limited(1), outbox.clone());
        // Free again in a hundred seconds.
        assert_eq!(slow.write(&[7; 100]).unwrap(), 100);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| slow.write(&[7; 100]).unwrap_err().kind());
            outbox.abort();
            assert_eq!(writer.join().unwrap(), io::ErrorKind::ConnectionAborted);
        });
    }
}
