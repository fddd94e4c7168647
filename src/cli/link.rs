//! `psync-link PAIR`: the line of a pair as a process of its own, behind a socket that systemd made. It runs ssh, or the
//! pair's proxy command, once for each caller, with the pair's key and without any right to the users' files.
//!
//! ```text
//! brain ─▶ relay ─ socket ─▶ pack ─▶ ssh        bytes of frames, plain on the left of it
//!       ◀─ relay ─ socket ◀─ unpack ◀─ ssh      and what ssh says, and its exit code
//! ```
//!
//! Of a caller it believes nothing: which host is called, as whom and with which key is in the pair's file.

mod call;

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use listenfd::ListenFd;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::console::Console;
use super::human::words;
use super::pair::PairFile;
use super::{UsageError, exit};
use crate::config::{self, KNOWN_HOSTS, Settings, credential, ssh_files, with_ssh_files};
use call::Line;

/// What stands in the place of a file that systemd did not find.
const MISSING: &[u8] = b"-";
/// So many callers at a time: a brain, and those who check beside it.
const CALLERS: usize = 12;
/// Nobody has called for so long: the next call starts it again, with the files as they are then.
const IDLE: Duration = Duration::from_secs(10);

/// The whole command.
pub fn main() -> ExitCode {
    let console = Console::stderr();
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    match start(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            console.line(&format!("psync-link: {e}"));
            ExitCode::from(exit::USAGE)
        }
    }
}

fn start(arguments: &[OsString]) -> Result<(), UsageError> {
    let word = match arguments {
        [word] if word == "--version" || word == "-V" => {
            let _ = writeln!(io::stdout(), "psync-link {}", env!("CARGO_PKG_VERSION"));
            return Ok(());
        }
        [word] => word.to_str().ok_or_else(|| UsageError("the pair's name is not UTF-8".into()))?,
        _ => return Err(UsageError("takes the name of a pair, and nothing else (see psync-link(8))".into())),
    };
    let pair = PairFile::of(word)?;
    let copies = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    let listener = listener(&pair.name)?;
    // Whoever calls hears what is wrong.
    serve(&listener, Arc::new(line(&pair, copies.as_deref()))).map_err(|e| UsageError(words(&e)))
}

/// The one socket that systemd handed over.
fn listener(pair: &str) -> Result<UnixListener, UsageError> {
    let mut handed = ListenFd::from_env();
    let how = format!("psync-link@{pair}.socket hands it over");
    match (handed.len(), handed.take_unix_listener(0)) {
        (1, Ok(Some(listener))) => Ok(listener),
        (1, Err(e)) => Err(UsageError(format!("what was handed over is no unix socket: {}", words(&e)))),
        (number, _) => Err(UsageError(format!("{number} sockets were handed over, and one is wanted: {how}"))),
    }
}

/// The line as the pair's file says it. The error is for callers.
fn line(pair: &PairFile, copies: Option<&Path>) -> Result<Line, String> {
    let shown = pair.path.display().to_string();
    let file = copies.map_or_else(|| pair.path.clone(), |copies| copies.join("conf"));
    if copies.is_some() && is_missing(&file) {
        return Err(format!("{shown}: there is no such file"));
    }
    let told = |text: String| text.replace(&file.display().to_string(), &shown);
    let (settings, origins) = config::load(&file).map_err(|e| told(e.to_string()))?;
    settings.check().map_err(|e| told(origins.explain(&e)))?;
    if settings.is_local() {
        return Err(format!("{shown}: its right side is on this host, and there is no line"));
    }
    match copies {
        Some(copies) => Ok(Line::of(&with_copies(&settings, &pair.name, copies)?, &pair.name)),
        None => Ok(Line::of(&settings, &pair.name)),
    }
}

/// The settings with the copies of the files in place of files that this process cannot read.
fn with_copies(settings: &Settings, pair: &str, copies: &Path) -> Result<Settings, String> {
    let copy_of = |file: &str| copies.join(credential(pair, file));
    // Without known hosts ssh says itself that it knows nobody. Of others it would say that they hold no key.
    let missing =
        |file: &&String| *file != KNOWN_HOSTS && is_missing(&copy_of(file)) && !Path::new(file.as_str()).exists();
    if let Some(file) = ssh_files(settings).iter().find(missing) {
        return Err(format!("{file}: there is no such file, or `systemctl daemon-reload` was forgotten"));
    }
    Ok(with_ssh_files(settings, |file| {
        let copy = copy_of(file);
        (!is_missing(&copy)).then(|| copy.display().to_string())
    }))
}

fn is_missing(copy: &Path) -> bool {
    let read = |file: fs::File| {
        let mut start = Vec::new();
        file.take(MISSING.len() as u64 + 1).read_to_end(&mut start).map(|_| start)
    };
    fs::File::open(copy).and_then(read).map_or(true, |start| start == MISSING)
}

/// Serves callers, each in a thread, until the last one has gone, or nobody comes.
fn serve(listener: &UnixListener, line: Arc<Result<Line, String>>) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let (gone, their_end) = UnixStream::pair()?;
    let callers = Arc::new(AtomicUsize::new(0));
    let mut served = false;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                served = true;
                let caller = Caller::of(&callers, their_end.try_clone()?);
                let line = line.clone();
                let serve = move || {
                    // All of it, not its number alone: as long as this lives the caller counts.
                    let caller = caller;
                    call::attend(stream, &line, caller.number <= CALLERS);
                };
                // Without a thread the caller sees the end, and calls again.
                drop(thread::Builder::new().name("caller".into()).spawn(serve));
                continue;
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted || e.kind() == io::ErrorKind::ConnectionAborted => {
                continue;
            }
            Err(e) => return Err(e),
        }
        let none = callers.load(Ordering::Acquire) == 0;
        if none && served {
            return Ok(());
        }
        let patience = if none { Timespec::try_from(IDLE).ok() } else { None };
        let mut either = [PollFd::new(listener, PollFlags::IN), PollFd::new(&gone, PollFlags::IN)];
        match poll(&mut either, patience.as_ref()) {
            Ok(0) => return Ok(()),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        if !either[1].revents().is_empty() {
            let _ = (&gone).read(&mut [0; 64]);
        }
    }
}

/// Counts a caller for as long as it lives.
struct Caller {
    callers: Arc<AtomicUsize>,
    number: usize,
    wake: UnixStream,
}

impl Caller {
    fn of(callers: &Arc<AtomicUsize>, wake: UnixStream) -> Caller {
        let number = callers.fetch_add(1, Ordering::AcqRel) + 1;
        Caller { callers: callers.clone(), number, wake }
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.callers.fetch_sub(1, Ordering::AcqRel);
        let _ = (&self.wake).write(&[0]);
    }
}

#[cfg(test)]
mod tests;
