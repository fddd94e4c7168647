//! Where a file has data, and where holes.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

/// The first stretch of data at or after `offset` as (start, end); `None` if only a hole is left. Moves the descriptor's
/// own offset.
pub fn next_data(file: impl AsFd, offset: u64, size: u64) -> io::Result<Option<(u64, u64)>> {
    if offset >= size {
        return Ok(None);
    }
    let start = match rustix::fs::seek(&file, SeekFrom::Data(offset)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        // The file system knows no holes.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some((offset, size))),
        Err(error) => return Err(error.into()),
    };
    if start >= size {
        return Ok(None);
    }
    let end = match rustix::fs::seek(&file, SeekFrom::Hole(start)) {
        Ok(end) => end.min(size),
        // Cut shorter in between: reading will tell.
        Err(Errno::NXIO) => size,
        Err(error) => return Err(error.into()),
    };
    Ok((start < end).then_some((start, end)))
}
