//! Who else may rename what lies in a root, or the root itself: they could move psync's own directory away.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

use crate::protocol::survey::Finding;
use crate::replica::metadata::ACL_ACCESS;

use super::super::beneath;

const STICKY: u32 = 0o1000;
/// An entry of an ACL as the kernel has it, behind a header of four bytes: tag, permissions, id.
const ENTRY: usize = 8;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const WRITE: u16 = 2;

/// Whether others than psync's user may write in the root, or exchange it in a directory above.
pub fn others(root: BorrowedFd<'_>, path: &Path) -> Finding {
    let me = rustix::process::geteuid().as_raw();
    let check = "root's writers";
    match found(root, path, me) {
        Ok(who) if who.is_empty() => Finding::ok(check, "nobody but psync's user may rename what lies in it"),
        Ok(who) => Finding::wrong(
            check,
            format!("{}: they could move .psync away, and the pair would halt", who.join("; ")),
            "let psync's user own the root directory, with mode 755, and give users directories in it; \
             or leave it, if you trust them with that",
        ),
        Err(error) => Finding::wrong(check, format!("cannot be told: {error}"), "see who may write in the root"),
    }
}

fn found(root: BorrowedFd<'_>, path: &Path, me: u32) -> io::Result<Vec<String>> {
    let mut who: Vec<String> = writers(root, me)?.into_iter().map(|one| format!("{one} may write in it")).collect();
    for above in path.ancestors().skip(1) {
        let Ok(dir) = beneath::open_root(above) else { continue };
        // In a sticky directory everybody keeps what is his.
        if rustix::fs::fstat(&dir)?.st_mode & STICKY != 0 {
            continue;
        }
        let writers = writers(dir.as_fd(), me)?;
        who.extend(writers.into_iter().map(|one| format!("{one} may write in {}", above.display())));
    }
    Ok(who)
}

/// Who may write in a directory beside root and `me`.
fn writers(dir: BorrowedFd<'_>, me: u32) -> io::Result<Vec<String>> {
    let stat = rustix::fs::fstat(dir)?;
    let mut who = Vec::new();
    if stat.st_uid != me && stat.st_uid != 0 {
        who.push(format!("user {}, who owns it,", stat.st_uid));
    }
    if stat.st_mode & 0o002 != 0 {
        who.push("everybody".to_owned());
    }
    who.extend(groups_and_named(dir, &stat, me)?);
    Ok(who)
}

fn groups_and_named(dir: BorrowedFd<'_>, stat: &Stat, me: u32) -> io::Result<Vec<String>> {
    debug_assert!(FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
    let group = format!("group {}", stat.st_gid);
    // Without an ACL they are the group's; with one the mask, which bounds them all.
    if stat.st_mode & 0o020 == 0 {
        return Ok(Vec::new());
    }
    let mut buffer = vec![0; 64 * 1024];
    let acl = match rustix::fs::getxattr(beneath::proc_path(dir).as_str(), ACL_ACCESS, &mut buffer) {
        Ok(length) => &buffer[..length],
        Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(vec![group]),
        Err(error) => return Err(error.into()),
    };
    let entries = acl.get(4..).unwrap_or_default().chunks_exact(ENTRY).map(|entry| {
        let number = |at: usize| u16::from_le_bytes([entry[at], entry[at + 1]]);
        (number(0), number(2), u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]))
    });
    let entries: Vec<(u16, u16, u32)> = entries.collect();
    let masked = entries.iter().any(|(tag, permissions, _)| *tag == MASK && permissions & WRITE == 0);
    let writes = |(tag, permissions, id): &(u16, u16, u32)| match *tag {
        _ if masked || permissions & WRITE == 0 => None,
        USER if *id != me && *id != 0 => Some(format!("user {id}")),
        GROUP_OBJ => Some(group.clone()),
        GROUP => Some(format!("group {id}")),
        _ => None,
    };
    Ok(entries.iter().filter_map(writes).collect())
}
