//! The log: to the journal, to stderr or to a file.
//!
//! | debug | what is logged | how it is said |
//! |---|---|---|
//! | 0 | what operators should know | `info!` and above |
//! | 1 | the course of operation | `debug!` |
//! | 2 | every event and decision | `trace!` |
//! | 3 | every message | `trace!(log, #MESSAGE, …)` |
//!
//! Records are written by a thread of their own; who logs waits only when it falls far behind. What cannot be
//! written is lost: a full disk or a closed pipe must not stop the synchronisation.

use std::env;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use slog::{Drain, Level, Logger, Never, OwnedKV, OwnedKVList, Record, SendSyncRefUnwindSafeKV, o};
use slog_async::{Async, AsyncGuard, OverflowStrategy};
use slog_journald::JournaldDrain;

use super::format;
pub use super::format::{escape, utc};
use crate::model::{Generation, Side};

/// The tag of a record that tells of one message: only debug level 3 shows it.
pub const MESSAGE: &str = "message";

/// The journal's fields, used as keys. Values must be UTF-8: a path as it is displayed.
pub const PAIR: &str = "PSYNC_PAIR";
/// `L`, `R` or `B`.
pub const SIDE: &str = "PSYNC_SIDE";
/// `RSYNC`, `MOVE`, `DELETE` or `META`.
pub const METHOD: &str = "PSYNC_METHOD";
pub const PATH: &str = "PSYNC_PATH";
/// Five hex digits, the same on both hosts.
pub const EVENT_ID: &str = "PSYNC_EVENT_ID";

/// The key of a fixed identity, one of [`message_id`], of a kind of record; only the journal shows it.
pub const MESSAGE_ID: &str = "MESSAGE_ID";

/// Five hex digits of an action's number, the same on both sides.
pub fn event_id(generation: Generation) -> String {
    format!("{:05x}", generation & 0xf_ffff)
}

/// The value of [`SIDE`].
pub fn side_letter(side: Side) -> &'static str {
    match side {
        Side::Left => "L",
        Side::Right => "R",
    }
}

/// The value of [`METHOD`] for what an action does.
pub fn method(what: &str) -> &'static str {
    match what {
        "put" => "RSYNC",
        // No contents cross.
        "move" | "copy" => "MOVE",
        "delete" => "DELETE",
        _ => "META",
    }
}

/// What operators act on. packaging/psync.catalog explains each.
pub mod message_id {
    pub const IN_SYNC: &str = "6b0d0a7c3f1e4b0f9a53c1d5a1e6f201";
    pub const LINK_UP: &str = "6b0d0a7c3f1e4b0f9a53c1d5a1e6f202";
    pub const LINK_DOWN: &str = "6b0d0a7c3f1e4b0f9a53c1d5a1e6f203";
    pub const HALT: &str = "6b0d0a7c3f1e4b0f9a53c1d5a1e6f204";
    pub const PROBLEM: &str = "6b0d0a7c3f1e4b0f9a53c1d5a1e6f205";
    pub const CONFLICT: &str = "6b0d0a7c3f1e4b0f9a53c1d5a1e6f206";
    pub const FULL_SYNC: &str = "6b0d0a7c3f1e4b0f9a53c1d5a1e6f207";
    pub const CHECK: &str = "6b0d0a7c3f1e4b0f9a53c1d5a1e6f208";
    pub const OVERFLOW: &str = "6b0d0a7c3f1e4b0f9a53c1d5a1e6f209";

    /// All of them, by name.
    pub const ALL: &[(&str, &str)] = &[
        ("in sync", IN_SYNC),
        ("link up", LINK_UP),
        ("link down", LINK_DOWN),
        ("halt", HALT),
        ("problem", PROBLEM),
        ("conflict", CONFLICT),
        ("full sync", FULL_SYNC),
        ("check result", CHECK),
        ("overflow", OVERFLOW),
    ];
}

/// What `log = "file"` means.
pub const FILE: &str = "/var/log/psync/psync.log";
const JOURNAL_SOCKET: &str = "/run/systemd/journal/socket";
/// Records that may wait for the writer.
const QUEUE: usize = 4096;

/// Where the log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Journal,
    Stderr,
    File(PathBuf),
}

impl Target {
    /// Of the setting `log`: `auto` is the journal if stderr is connected to it, as systemd tells a service.
    pub fn of(setting: &str) -> Target {
        match setting {
            "journal" => Target::Journal,
            "stderr" => Target::Stderr,
            "auto" if stderr_is_journal() => Target::Journal,
            "auto" => Target::Stderr,
            "file" => Target::File(FILE.into()),
            path => Target::File(path.into()),
        }
    }
}

/// `JOURNAL_STREAM` names the device and inode of the stream; a redirected stderr is another one.
fn stderr_is_journal() -> bool {
    let Ok(named) = env::var("JOURNAL_STREAM") else { return false };
    let Ok(stat) = rustix::fs::fstat(io::stderr()) else { return false };
    named == format!("{}:{}", stat.st_dev, stat.st_ino)
}

/// A running log. Dropping it writes what is left.
pub struct Log {
    logger: Logger,
    file: Option<Arc<LogFile>>,
    debug: Arc<AtomicU8>,
    guard: Mutex<Option<AsyncGuard>>,
}

impl Log {
    /// Where records go in.
    pub fn logger(&self) -> &Logger {
        &self.logger
    }

    /// Starts a log. `stderr` takes the lines of [`Target::Stderr`], so that the owner of a terminal can clear its
    /// progress first. Fails if the file cannot be opened or there is no journal.
    pub fn start(target: &Target, debug: u8, pair: &str, stderr: Box<dyn Write + Send>) -> io::Result<Log> {
        let mut file = None;
        let debug = Arc::new(AtomicU8::new(debug));
        let (logger, guard) = match target {
            Target::Journal => {
                std::fs::metadata(JOURNAL_SOCKET)?;
                let values = o!("SYSLOG_IDENTIFIER" => identifier(), PAIR => pair.to_string());
                queued(JournaldDrain::default().ignore_res(), &debug, values)
            }
            Target::Stderr => queued(Lines(Mutex::new(stderr)), &debug, o!()),
            Target::File(path) => {
                let opened = Arc::new(LogFile::open(path)?);
                file = Some(opened.clone());
                let lines = Lines(Mutex::new(Box::new(SharedFile(opened))));
                queued(lines, &debug, o!(PAIR => pair.to_string()))
            }
        };
        Ok(Log { logger, file, debug, guard: Mutex::new(Some(guard)) })
    }

    /// Writes what is left, and ends. For who cannot drop it.
    pub fn close(&self) {
        drop(self.guard.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Logs so much from now on.
    pub fn set_debug(&self, debug: u8) {
        self.debug.store(debug, Ordering::Relaxed);
    }

    /// Opens the file anew, under the name it had: it was rotated away. Nothing for the other targets.
    pub fn reopen(&self) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), |file| file.reopen())
    }
}

/// What `journalctl -t` finds: the name by which this program was called.
fn identifier() -> String {
    let called = env::args_os().next().map(PathBuf::from);
    let name = called.and_then(|path| Some(path.file_name()?.to_str()?.to_owned()));
    name.filter(|name| name.starts_with("psync")).unwrap_or_else(|| "psync".to_owned())
}

fn shown(record: &Record, debug: u8) -> bool {
    let needed = match record.level() {
        Level::Critical | Level::Error | Level::Warning | Level::Info => 0,
        Level::Debug => 1,
        Level::Trace if record.tag() == MESSAGE => 3,
        Level::Trace => 2,
    };
    debug >= needed
}

/// The logger in front, the drain behind a queue. What is not shown never enters the queue.
fn queued<D, V>(drain: D, debug: &Arc<AtomicU8>, values: OwnedKV<V>) -> (Logger, AsyncGuard)
where
    D: Drain<Ok = (), Err = Never> + Send + UnwindSafe + RefUnwindSafe + 'static,
    V: SendSyncRefUnwindSafeKV + 'static,
{
    let builder = Async::new(drain).chan_size(QUEUE).overflow_strategy(OverflowStrategy::Block);
    let (queue, guard) = builder.thread_name("log".into()).build_with_guard();
    let debug = debug.clone();
    let shown = queue.filter(move |record| shown(record, debug.load(Ordering::Relaxed))).ignore_res();
    (Logger::root(shown, values), guard)
}

/// Writes records as lines, each by one write.
struct Lines(Mutex<Box<dyn Write + Send>>);

impl Drain for Lines {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record, values: &OwnedKVList) -> Result<(), Never> {
        let line = format::line(SystemTime::now(), record, values);
        let mut out = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
        Ok(())
    }
}

impl UnwindSafe for Lines {}
impl RefUnwindSafe for Lines {}

struct LogFile {
    path: PathBuf,
    file: Mutex<File>,
}

impl LogFile {
    fn open(path: &Path) -> io::Result<LogFile> {
        Ok(LogFile { path: path.to_path_buf(), file: Mutex::new(open_for_append(path)?) })
    }

    fn reopen(&self) -> io::Result<()> {
        let file = open_for_append(&self.path)?;
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = file;
        Ok(())
    }
}

fn open_for_append(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().append(true).create(true).mode(0o640).open(path)?;
    if file.metadata()?.mode() & 0o170000 == 0o040000 {
        return Err(io::Error::from(io::ErrorKind::IsADirectory));
    }
    Ok(file)
}

struct SharedFile(Arc<LogFile>);

impl Write for SharedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.file.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slog::{debug, info, trace, warn};

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("lock").write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(level: u8, say: impl Fn(&Logger)) -> Vec<String> {
        let buffer = Buffer::default();
        let log = Log::start(&Target::Stderr, level, "p", Box::new(buffer.clone())).expect("log");
        say(log.logger());
        drop(log);
        let text = String::from_utf8(buffer.0.lock().expect("lock").clone()).expect("text");
        // The time is left out.
        text.lines().map(|l| l.split_once(' ').expect("time").1.to_string()).collect()
    }

    #[test]
    fn one_line_a_record_with_all_its_values() {
        let lines = logged(0, |log| {
            let log = log.new(o!("outer" => 1));
            info!(log, "two\nlines"; PATH => "a b\x1b", EVENT_ID => "0001f", "q" => "\"");
            warn!(log, "next"; MESSAGE_ID => message_id::HALT);
        });
        assert_eq!(
            lines,
            ["INFO  two\\x0alines path=\"a b\\x1b\" event_id=0001f q=\"\\\"\" outer=1", "WARN  next outer=1"]
        );
    }

    #[test]
    fn each_debug_level_shows_more() {
        for level in 0..=3 {
            let lines = logged(level, |log| {
                info!(log, "0");
                debug!(log, "1");
                trace!(log, "2");
                trace!(log, #MESSAGE, "3");
            });
            assert_eq!(lines.len(), usize::from(level) + 1, "{lines:?}");
        }
    }

    #[test]
    fn a_file_is_appended_to_and_can_be_reopened() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("log");
        std::fs::write(&path, "before\n").expect("write");
        let log = Log::start(&Target::File(path.clone()), 0, "p", Box::new(io::sink())).expect("log");
        info!(log.logger(), "one");
        drop(log);
        assert!(std::fs::read_to_string(&path).expect("read").starts_with("before\n"));

        let log = Log::start(&Target::File(path.clone()), 0, "p", Box::new(io::sink())).expect("log");
        std::fs::rename(&path, dir.path().join("log.1")).expect("rotate");
        log.reopen().expect("reopen");
        info!(log.logger(), "two");
        drop(log);
        let text = std::fs::read_to_string(&path).expect("read");
        assert!(text.ends_with(" INFO  two pair=p\n") && text.lines().count() == 1, "{text:?}");
    }

    #[test]
    fn targets() {
        assert_eq!(Target::of("stderr"), Target::Stderr);
        assert_eq!(Target::of("journal"), Target::Journal);
        assert_eq!(Target::of("file"), Target::File("/var/log/psync/psync.log".into()));
        assert_eq!(Target::of("/var/log/x"), Target::File("/var/log/x".into()));
        let missing = Target::File("/nowhere/at/all".into());
        assert!(Log::start(&missing, 0, "p", Box::new(io::sink())).is_err());
    }

    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }

    #[test]
    fn a_closed_pipe_stops_nobody() {
        let log = Log::start(&Target::Stderr, 0, "p", Box::new(Closed)).expect("log");
        info!(log.logger(), "lost");
    }
}
