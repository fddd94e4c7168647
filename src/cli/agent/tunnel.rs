//! `--agent-mode tunnel FD HOST rsync --server ...`: what the rsync that psync runs takes for ssh. It hands the arguments of
//! rsync's partner to psync, over a socket that it was born with, and carries bytes. It runs nothing.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;

use super::super::UsageError;
use super::super::human::words;
use crate::link::channel::stdio;
use crate::link::relay::{relay, send_words};
use crate::sys::inherit::inherited;

/// The whole command.
pub fn run(arguments: &[OsString]) -> Result<(), UsageError> {
    let wrong = || UsageError("tunnel is for the rsync that psync runs".into());
    let [number, _host, program, partner @ ..] = arguments else { return Err(wrong()) };
    let number = number.to_str().and_then(|number| number.parse().ok()).ok_or_else(wrong)?;
    if program != "rsync" {
        return Err(wrong());
    }
    let lost = |e| UsageError(format!("tunnel: {}", words(&e)));
    let mut stream = UnixStream::from(inherited(number).map_err(lost)?);
    let partner: Vec<&[u8]> = partner.iter().map(|word| word.as_bytes()).collect();
    send_words(&mut stream, &partner).map_err(lost)?;
    let (stdin, stdout) = stdio().map_err(lost)?;
    relay(&stream, stdin, stdout).map_err(lost)
}
