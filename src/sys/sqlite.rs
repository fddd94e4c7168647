//! SQLite opens files by a path that it has freed of links first. The path of a descriptor, `/proc/self/fd/N/archive.db`, is
//! to stay as it is: it leads to the directory that psync holds, whatever name that has by then.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int};
use std::io;
use std::sync::OnceLock;

use rusqlite::ffi;

/// Makes SQLite take the links of `/proc/self/fd` for the directories that they lead to, in this process; all other links
/// are to it what they were.
pub fn keep_descriptors() -> io::Result<()> {
    static DONE: OnceLock<bool> = OnceLock::new();
    match DONE.get_or_init(set) {
        true => Ok(()),
        false => Err(io::Error::new(io::ErrorKind::Unsupported, "this SQLite lets nobody look at paths for it")),
    }
}

fn set() -> bool {
    // SAFETY: a null name asks for the default file system of SQLite, which lives as long as the process.
    let Some(vfs) = (unsafe { ffi::sqlite3_vfs_find(std::ptr::null()).as_mut() }) else { return false };
    let Some(set) = vfs.xSetSystemCall.filter(|_| vfs.iVersion >= 3) else { return false };
    // SAFETY: SQLite keeps the pointer as one to any function, and casts it back to the type of lstat(2) to call it.
    let look = unsafe {
        std::mem::transmute::<unsafe extern "C" fn(*const c_char, *mut libc::stat) -> c_int, unsafe extern "C" fn()>(
            look,
        )
    };
    // SAFETY: the file system is SQLite's own, the name ends with a NUL, and the function stays for ever.
    unsafe { set(vfs, c"lstat".as_ptr(), Some(look)) == ffi::SQLITE_OK }
}

/// lstat(2), but for the links of /proc to what this process has open.
unsafe extern "C" fn look(path: *const c_char, found: *mut libc::stat) -> c_int {
    // SAFETY: SQLite gives what it would give to lstat: a path that ends with a NUL, and room for the answer.
    unsafe {
        match leads_to_descriptor(CStr::from_ptr(path).to_bytes()) {
            true => libc::stat(path, found),
            false => libc::lstat(path, found),
        }
    }
}

fn leads_to_descriptor(path: &[u8]) -> bool {
    match path.strip_prefix(b"/proc/self") {
        Some(b"") => true,
        Some(rest) => rest.strip_prefix(b"/fd/").is_some_and(|n| !n.is_empty() && n.iter().all(u8::is_ascii_digit)),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_descriptors_are_followed() {
        for path in [&b"/proc/self"[..], b"/proc/self/fd/0", b"/proc/self/fd/123"] {
            assert!(leads_to_descriptor(path));
        }
        for path in [&b"/proc"[..], b"/proc/self/fd", b"/proc/self/fd/", b"/proc/self/fd/1/a", b"/proc/self/exe", b"/a"]
        {
            assert!(!leads_to_descriptor(path));
        }
        assert!(keep_descriptors().is_ok());
    }
}
