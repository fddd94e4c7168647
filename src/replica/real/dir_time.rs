//! The mtime of a directory, which every name that comes or goes in it changes.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, StatxFlags, Timespec, Timestamps, UTIME_OMIT};

use crate::model::Time;

/// Sets it if it is `from` still; whether it was. The kernel has no such exchange: what a user does between these two calls,
/// some microseconds, is overwritten.
pub fn set(dir: BorrowedFd<'_>, from: Time, to: Time) -> io::Result<bool> {
    let stat = rustix::fs::statx(dir, c"", AtFlags::EMPTY_PATH, StatxFlags::MTIME)?;
    if (Time { secs: stat.stx_mtime.tv_sec, nanos: stat.stx_mtime.tv_nsec }) != from {
        return Ok(false);
    }
    // Numbers beyond a second have meanings of their own to the kernel.
    if to.nanos >= 1_000_000_000 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a time with more than a second of nanoseconds"));
    }
    rustix::fs::futimens(
        dir,
        &Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: to.secs, tv_nsec: to.nanos.into() },
        },
    )?;
    Ok(true)
}
