//! `sync_file_range`: begins to write a file's data without waiting for it.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd};

/// Begins to write the file's dirty pages. A hint: it proves nothing about what is on disk, so its failure is of no
/// account; `fsync` follows.
pub fn begin(file: BorrowedFd<'_>) {
    // SAFETY: the call takes numbers only and touches no memory of ours; the descriptor is borrowed, hence open.
    let _ = unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
}
