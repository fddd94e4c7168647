//! `--agent-mode line SOCKET`: what a brain runs to reach the right side through the line's own process. It carries bytes, and
//! gives what ssh said beside them as its own words and ssh's exit code as its own.

use std::ffi::OsString;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;

use super::super::UsageError;
use super::super::human::words;
use crate::link::aside::{IN_THE_SOCKET, hear};
use crate::link::channel::stdio;

/// As ssh, when it has not got as far as the other host.
const NO_LINE: u8 = 255;

/// The whole command; the exit code.
pub fn run(arguments: &[OsString]) -> Result<u8, UsageError> {
    let [socket] = arguments else { return Err(UsageError("line is for the brain of a pair".into())) };
    let socket = Path::new(socket);
    let (stdin, stdout) = stdio().map_err(|e| UsageError(format!("stdin and stdout: {}", words(&e))))?;
    Ok(carry(socket, stdin, stdout, io::stderr()))
}

fn carry(socket: &Path, mut stdin: impl Read + Send + 'static, mut stdout: impl Write, mut stderr: impl Write) -> u8 {
    let carried = UnixStream::connect(socket).map_err(|e| cannot(socket, &e)).and_then(|mut stream| {
        let lost = |e: io::Error| format!("the line's process ended: {}", words(&e));
        // Without it there is only more in the socket.
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(&stream, IN_THE_SOCKET);
        let mut there = stream.try_clone().map_err(lost)?;
        let forth = move || {
            // A failure shows at the other end.
            let _ = io::copy(&mut stdin, &mut there);
            let _ = there.shutdown(Shutdown::Write);
        };
        thread::Builder::new().name("line".into()).spawn(forth).map_err(lost)?;
        hear(&mut stream, &mut stdout, &mut stderr).map_err(lost)
    });
    match carried {
        Ok(Some(code)) => u8::try_from(code).unwrap_or(NO_LINE),
        // It was ended, and said no more.
        Ok(None) => NO_LINE,
        Err(why) => {
            let _ = writeln!(stderr, "psync-link: {why}");
            NO_LINE
        }
    }
}

fn cannot(socket: &Path, error: &io::Error) -> String {
    let at = socket.display();
    match error.kind() {
        ErrorKind::NotFound => format!("there is no line: {at} does not exist (psync-brain@PAIR brings it with it)"),
        ErrorKind::PermissionDenied => format!("no permission for the line: {at} is for root alone"),
        ErrorKind::ConnectionRefused => format!("there is no line: nobody listens on {at} (restart psync-brain@PAIR)"),
        _ => format!("{at}: {}", words(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::aside::Teller;
    use std::os::unix::net::UnixListener;

    #[test]
    fn bytes_words_and_code_of_the_other_end_are_its_own() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("link-web.sock");
        let listener = UnixListener::bind(&path).expect("listen");
        let far = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a call");
            let mut got = Vec::new();
            stream.read_to_end(&mut got).expect("read");
            let teller = Teller::new(stream);
            (&teller).write_all(&got).expect("bytes");
            teller.say("Permission denied").expect("words");
            teller.ended(7).expect("an end");
        });
        let (mut out, mut err) = (Vec::new(), Vec::new());
        assert_eq!(carry(&path, &b"there and back"[..], &mut out, &mut err), 7);
        far.join().expect("the other end");
        assert_eq!((&out[..], &err[..]), (&b"there and back"[..], &b"Permission denied\n"[..]));
    }

    #[test]
    fn a_line_that_is_not_there_is_told() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("link-web.sock");
        let mut said = Vec::new();
        assert_eq!(carry(&path, io::empty(), io::sink(), &mut said), NO_LINE);
        assert!(String::from_utf8_lossy(&said).starts_with("psync-link: there is no line: "), "{said:?}");
        drop(UnixListener::bind(&path).expect("bound"));
        said.clear();
        assert_eq!(carry(&path, io::empty(), io::sink(), &mut said), NO_LINE);
        assert!(String::from_utf8_lossy(&said).contains("nobody listens"), "{said:?}");
    }
}
