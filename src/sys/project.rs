//! A project of a file system with quotas by projects: a number that each inode has, and that directories hand down.
#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `struct fsxattr` of linux/fs.h.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Fsxattr {
    xflags: u32,
    extsize: u32,
    nextents: u32,
    projid: u32,
    cowextsize: u32,
    pad: [u8; 8],
}

/// `_IOR('X', 31, struct fsxattr)`
const FS_IOC_FSGETXATTR: libc::Ioctl = 0x801c_581f_u32 as libc::Ioctl;
/// `_IOW('X', 32, struct fsxattr)`
const FS_IOC_FSSETXATTR: libc::Ioctl = 0x401c_5820_u32 as libc::Ioctl;
const FS_XFLAG_PROJINHERIT: u32 = 0x200;

/// The project of an inode, and whether a directory hands it down to what is made in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Project {
    pub number: u32,
    pub inherit: bool,
}

/// The project of an object that is open, and not by `O_PATH`. An error where the file system has none.
pub fn get(fd: BorrowedFd<'_>) -> io::Result<Project> {
    let found = read(fd)?;
    Ok(Project { number: found.projid, inherit: found.xflags & FS_XFLAG_PROJINHERIT != 0 })
}

/// Gives the object a project; a file hands nothing down.
pub fn set(fd: BorrowedFd<'_>, project: Project) -> io::Result<()> {
    let now = read(fd)?;
    let flag = if project.inherit { FS_XFLAG_PROJINHERIT } else { 0 };
    let wanted = Fsxattr { xflags: now.xflags & !FS_XFLAG_PROJINHERIT | flag, projid: project.number, ..now };
    // SAFETY: the kernel reads the structure, which lives as long as the call; the descriptor is borrowed, hence open.
    match unsafe { libc::ioctl(fd.as_raw_fd(), FS_IOC_FSSETXATTR, &raw const wanted) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn read(fd: BorrowedFd<'_>) -> io::Result<Fsxattr> {
    let mut found = MaybeUninit::<Fsxattr>::zeroed();
    // SAFETY: the kernel writes no more than the structure, which is ours for the call; the descriptor is borrowed, hence open.
    match unsafe { libc::ioctl(fd.as_raw_fd(), FS_IOC_FSGETXATTR, found.as_mut_ptr()) } {
        // SAFETY: it was zeroed, and any bytes are a valid value of these numbers.
        0 => Ok(unsafe { found.assume_init() }),
        _ => Err(io::Error::last_os_error()),
    }
}
