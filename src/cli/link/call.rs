//! One caller of a line: its ssh, and the bytes between the two.

use std::ffi::OsString;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;

use crate::config::{RightCommand, Settings, pair_command};
use crate::link::aside::{IN_THE_SOCKET, Teller};
use crate::link::{Limits, LinkError, proxy, repack};

/// So long ssh may take to end once one side has nothing more to say.
const PATIENCE: Duration = Duration::from_secs(5);
/// What it said last is waited for that long, after it has ended.
const LAST_BYTES: Duration = Duration::from_secs(2);
/// As ssh, when it has not got as far as the other host.
const NO_LINE: i32 = 255;

/// What is run for a caller, and how the line is used.
pub struct Line {
    command: OsString,
    limits: Limits,
}

impl Line {
    /// Of the pair's settings, whose right side is on another host.
    pub fn of(settings: &Settings, pair: &str) -> Line {
        let limits = Limits::of(&settings.shared);
        match pair_command(settings, pair, false) {
            RightCommand::Proxy(command) => Line { command, limits },
            // A local pair has no line; whoever is told to run this finds nothing behind it.
            RightCommand::Child(_) | RightCommand::Line(_) => Line { command: "exit 255".into(), limits },
        }
    }
}

/// Serves a caller until either side has ended.
pub fn attend(stream: UnixStream, line: &Result<Line, String>, is_room: bool) {
    let Ok(told) = stream.try_clone() else { return };
    let teller = Arc::new(Teller::new(told));
    let code = match line {
        _ if !may_call(&stream) => Err("only root may use this line".to_owned()),
        _ if !is_room => Err("too many use this line already".to_owned()),
        Err(why) => Err(why.clone()),
        Ok(line) => carry(&stream, &teller, line).map_err(|e| e.to_string()),
    };
    // A caller that has gone hears nothing.
    let code = code.unwrap_or_else(|why| {
        let _ = teller.say(&format!("psync-link: {why}"));
        NO_LINE
    });
    let _ = teller.ended(code);
    let _ = stream.shutdown(Shutdown::Both);
}

/// The socket's mode lets nobody but root in; the kernel says who it is.
fn may_call(stream: &UnixStream) -> bool {
    let peer = rustix::net::sockopt::socket_peercred(stream);
    peer.is_ok_and(|peer| peer.uid.is_root() || peer.uid == rustix::process::geteuid())
}

/// Runs ssh for the caller. Its exit code.
fn carry(stream: &UnixStream, teller: &Arc<Teller>, line: &Line) -> Result<i32, LinkError> {
    let io = |source| LinkError::Io { operation: "serve a caller", source };
    let _ = rustix::net::sockopt::set_socket_send_buffer_size(stream, IN_THE_SOCKET);
    let (call, heard) = UnixStream::pair().map_err(io)?;
    let (said, from_brain) = (teller.clone(), stream.try_clone().map_err(io)?);
    let command = String::from_utf8_lossy(line.command.as_bytes()).into_owned();
    let (mut proxy, (stdout, stdin)) = proxy::spawn(&command, move |words| drop(said.say(&words)))?;
    let waits = repack::waits();

    let (limits, its_waits, its_call) = (line.limits, waits.clone(), call.try_clone().map_err(io)?);
    let forth = move || {
        // A line that takes no more ends, and says why itself. With this ssh's stdin ends.
        let _ = repack::pack(from_brain, stdin, &limits, &its_waits);
        let _ = its_call.shutdown(Shutdown::Both);
    };
    thread::Builder::new().name("to-line".into()).spawn(forth).map_err(io)?;
    let (over, is_over) = sync_channel(1);
    let its_teller = teller.clone();
    let back = move || {
        if let Err(error) = repack::unpack(stdout, &*its_teller) {
            let _ = its_teller.say(&format!("psync-link: the other side: {error}"));
        }
        let _ = over.try_send(());
        let _ = call.shutdown(Shutdown::Both);
    };
    thread::Builder::new().name("from-line".into()).spawn(back).map_err(io)?;

    proxy.ends_before(heard.as_fd());
    let status = proxy.end(PATIENCE)?;
    waits.abort();
    // Somebody else may hold its stdout open, so this is no join.
    let _ = is_over.recv_timeout(LAST_BYTES);
    Ok(code(status))
}

/// As a shell gives it.
fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}
