//! Clocks: how finely the file system tells changes apart, and which run of the machine this is.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::time::{ClockId, clock_gettime};

use crate::model::Time;

/// Two writes with a stat in between get different times, from Linux 6.13 on. Tried often enough that with a clock of
/// even 1 ms two rounds fall into one tick.
const ROUNDS: u8 = 40;

/// How long after a stat one may still ask whether it is settled, in seconds.
const MARGIN: i64 = 1;

/// Tries, on a short-lived file in `dir`, whether every change shows in the stat.
pub fn is_fine(dir: BorrowedFd<'_>) -> io::Result<bool> {
    match tried(dir) {
        // Nobody is kept out for want of a byte to try it with.
        Err(error) if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => Ok(false),
        other => other,
    }
}

fn tried(dir: BorrowedFd<'_>) -> io::Result<bool> {
    let name = format!("clock-{}", std::process::id());
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, name.as_str(), flags, Mode::RUSR | Mode::WUSR)?;
    rustix::fs::unlinkat(dir, name.as_str(), AtFlags::empty())?;
    let mut before = None;
    for round in 0..ROUNDS {
        rustix::io::pwrite(&file, &[round], 0)?;
        let stat = rustix::fs::statx(&file, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
        let now = (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec);
        if before == Some(now) {
            return Ok(false);
        }
        before = Some(now);
    }
    Ok(true)
}

/// Whether a change could still get this very ctime: it lies in the tick of the coarse clock that was running when
/// the object was looked at, at most a second ago. A file system that stores no fractions has ticks of a second.
pub fn is_recent(ctime: Time) -> bool {
    let now = clock_gettime(ClockId::RealtimeCoarse);
    let tick = if ctime.nanos == 0 { 1 } else { 0 };
    let (secs, nanos) = (now.tv_sec - MARGIN - tick, u32::try_from(now.tv_nsec).unwrap_or(0));
    ctime >= Time { secs, nanos }
}

/// The kernel's name for this run of the machine; zeros where it tells none.
pub fn boot_id() -> [u8; 16] {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .ok()
        .and_then(|text| parse_uuid(&text))
        .unwrap_or_default()
}

/// The time since 1970; before it, in whole seconds.
pub fn wall() -> Time {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => Time { secs: i64::try_from(since.as_secs()).unwrap_or(i64::MAX), nanos: since.subsec_nanos() },
        Err(before) => {
            Time { secs: i64::try_from(before.duration().as_secs()).map_or(i64::MIN, |secs| -secs), nanos: 0 }
        }
    }
}

fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let digits: Option<Vec<u8>> = text
        .trim_end()
        .chars()
        .filter(|c| *c != '-')
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect();
    let (pairs, rest) = digits.as_deref()?.as_chunks::<2>();
    let bytes: Vec<u8> = pairs.iter().map(|[high, low]| high << 4 | low).collect();
    if rest.is_empty() { bytes.try_into().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids() {
        let uuid = "00112233-4455-6677-8899-aabbccddeeff\n";
        let bytes = [0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff];
        assert_eq!(parse_uuid(uuid), Some(bytes));
        for bad in ["", "xy", &uuid[1..], "0011"] {
            assert_eq!(parse_uuid(bad), None, "{bad:?}");
        }
        assert_ne!(boot_id(), [0; 16]);
        assert_eq!(boot_id(), boot_id());
    }

    #[test]
    fn what_is_recent() {
        let now = wall().secs;
        // The last one was looked at in its second's last moment, a second ago.
        let all = [(now + 5, 7, true), (now, 7, true), (now - 10, 7, false), (-5, 0, false), (now - 1, 0, true)];
        for (secs, nanos, expected) in all {
            assert_eq!(is_recent(Time { secs, nanos }), expected, "{}", secs - now);
        }
    }
}
