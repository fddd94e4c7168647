//! What creating an object in a directory would have given it: the ACLs that come of the directory's default ACL. An
//! object that is renamed in gets none of that from the kernel.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use crate::model::Kind;
use crate::replica::metadata::{ACL_ACCESS, ACL_DEFAULT};

use super::beneath;

/// Bytes of the version before the entries, and of an entry: tag, permissions, id.
const HEADER: usize = 4;
const ENTRY: usize = 8;

const USER_OBJ: u16 = 0x01;
const GROUP_OBJ: u16 = 0x04;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// Gives the object `name` what the default ACL of `parent` gives to one that is made there with this mode. False if it has
/// none, or if the ACL cannot be set here.
pub fn inherit(parent: BorrowedFd<'_>, dir: BorrowedFd<'_>, name: &[u8], kind: Kind, mode: u32) -> io::Result<bool> {
    if kind == Kind::Link {
        return Ok(false);
    }
    let mut buffer = [0; 64 * 1024];
    let default = match rustix::fs::getxattr(beneath::proc_path(parent).as_str(), ACL_DEFAULT, &mut buffer) {
        Ok(length) => &buffer[..length],
        Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    let pin = beneath::pin(dir, name)?;
    let path = beneath::proc_path(pin.as_fd());
    let set = |name: &[u8], value: &[u8]| rustix::fs::setxattr(path.as_str(), name, value, XattrFlags::empty());
    let done = match kind {
        Kind::Dir => set(ACL_DEFAULT, default).and_then(|()| set(ACL_ACCESS, &access(default, mode))),
        _ => set(ACL_ACCESS, &access(default, mode)),
    };
    match done {
        Ok(()) => Ok(true),
        Err(Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The access ACL of an object that is made with this mode, as the kernel has it: what the mode does not grant, its entry
/// for the owner, for others, and the mask (or without one the group's) do not grant either.
fn access(default: &[u8], mode: u32) -> Vec<u8> {
    let mut acl = default.to_vec();
    let tag = |entry: &[u8]| u16::from_le_bytes([entry[0], entry[1]]);
    let entries = acl.get(HEADER..).unwrap_or_default();
    let group = if entries.chunks_exact(ENTRY).any(|entry| tag(entry) == MASK) { MASK } else { GROUP_OBJ };
    for entry in acl.get_mut(HEADER..).unwrap_or_default().chunks_exact_mut(ENTRY) {
        let granted = match tag(entry) {
            USER_OBJ => mode >> 6,
            OTHER => mode,
            tag if tag == group => mode >> 3,
            _ => continue,
        };
        entry[2] &= (granted & 7) as u8;
        entry[3] = 0;
    }
    acl
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u16)]) -> Vec<u8> {
        let body = entries.iter().flat_map(|(tag, perm)| [tag.to_le_bytes(), perm.to_le_bytes(), [0xff; 2], [0xff; 2]]);
        [2_u32.to_le_bytes().to_vec(), body.flatten().collect()].concat()
    }

    #[test]
    fn the_mode_takes_away_and_adds_nothing() {
        type Entries = &'static [(u16, u16)];
        let cases: [(Entries, u32, Entries); 4] = [
            // Without a mask the group's entry is the group's.
            (&[(USER_OBJ, 7), (GROUP_OBJ, 5), (OTHER, 1)], 0o644, &[(USER_OBJ, 6), (GROUP_OBJ, 4), (OTHER, 0)]),
            (&[(USER_OBJ, 4), (GROUP_OBJ, 0), (OTHER, 0)], 0o777, &[(USER_OBJ, 4), (GROUP_OBJ, 0), (OTHER, 0)]),
            // With one it takes the group bits, and named entries and the group's stay.
            (
                &[(USER_OBJ, 7), (2, 7), (GROUP_OBJ, 5), (8, 6), (MASK, 7), (OTHER, 5)],
                0o640,
                &[(USER_OBJ, 6), (2, 7), (GROUP_OBJ, 5), (8, 6), (MASK, 4), (OTHER, 0)],
            ),
            (&[], 0o777, &[]),
        ];
        for (default, mode, wanted) in cases {
            assert_eq!(access(&acl(default), mode), acl(wanted), "{default:?} {mode:o}");
        }
        // No default ACL is as short as that, but nothing is read beyond its end.
        assert_eq!(access(&[2, 0], 0o777), [2, 0]);
    }
}
