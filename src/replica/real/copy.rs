//! Bytes from one file to another, within the kernel where that works: XFS and btrfs then share them.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

const BUFFER: usize = 256 * 1024;

/// Copies `length` bytes; false if the source has fewer.
pub fn range(from: (&File, u64), to: (&File, u64), length: u64) -> io::Result<bool> {
    let (mut at, mut to_at) = (from.1, to.1);
    let end = at + length;
    while at < end {
        let wanted = usize::try_from(end - at).unwrap_or(usize::MAX).min(1 << 30);
        match rustix::fs::copy_file_range(from.0, Some(&mut at), to.0, Some(&mut to_at), wanted) {
            Ok(0) => return Ok(false),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::NOSYS | Errno::INVAL | Errno::OPNOTSUPP) => {
                return by_hand((from.0, at), (to.0, to_at), end - at);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

/// Whether the file system of this directory lets two files share blocks: tried on two without a name.
pub fn is_shared(dir: BorrowedFd<'_>) -> bool {
    let make = || {
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        rustix::fs::openat(dir, c".", flags, Mode::RUSR | Mode::WUSR).map(File::from)
    };
    let (Ok(from), Ok(to)) = (make(), make()) else { return false };
    from.write_all_at(&[1; 4096], 0).is_ok() && rustix::fs::ioctl_ficlone(&to, &from).is_ok()
}

fn by_hand(from: (&File, u64), to: (&File, u64), length: u64) -> io::Result<bool> {
    let mut buffer = vec![0; BUFFER];
    let mut done = 0;
    while done < length {
        let wanted = usize::try_from(length - done).unwrap_or(usize::MAX).min(BUFFER);
        match from.0.read_at(&mut buffer[..wanted], from.1 + done) {
            Ok(0) => return Ok(false),
            Ok(count) => {
                to.0.write_all_at(&buffer[..count], to.1 + done)?;
                done += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_copy_the_same() {
        let dir = tempfile::tempdir().expect("dir");
        let text: Vec<u8> = (0..700_000_u32).map(|n| (n * 7 % 251) as u8).collect();
        std::fs::write(dir.path().join("from"), &text).expect("written");
        let from = File::open(dir.path().join("from")).expect("opened");
        for way in [range, by_hand] {
            let path = dir.path().join("to");
            let to = File::create_new(&path).expect("made");
            assert!(way((&from, 100), (&to, 50), 600_000).expect("copied"));
            let got = std::fs::read(&path).expect("read");
            assert_eq!((&got[..50], &got[50..]), (&[0; 50][..], &text[100..600_100]));
            assert!(!way((&from, 699_990), (&to, 0), 11).expect("tried"));
            std::fs::remove_file(path).expect("removed");
        }
    }
}
