//! The user's terminal, or whatever stderr is: lines, and below them one line of progress that comes and goes.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::service::log::escape;

/// Shared by all that write to stderr, so that a line never lands in the progress. Errors of writing are ignored:
/// a terminal that has gone must not end the synchronisation.
#[derive(Clone)]
pub struct Console {
    shared: Arc<Mutex<Shared>>,
    terminal: bool,
}

struct Shared {
    out: Box<dyn Write + Send>,
    /// A line of progress stands on the terminal.
    drawn: bool,
}

/// Back to the start of the line, and erase it.
const CLEAR: &str = "\r\x1b[K";

impl Console {
    pub fn stderr() -> Console {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        Console::new(Box::new(io::stderr()), io::stderr().is_terminal() && !dumb)
    }

    /// `terminal`: whether a line can be drawn over.
    pub fn new(out: Box<dyn Write + Send>, terminal: bool) -> Console {
        Console { shared: Arc::new(Mutex::new(Shared { out, drawn: false })), terminal }
    }

    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Columns of the terminal, as it is now; `None`: it does not say.
    pub fn width(&self) -> Option<usize> {
        let size = rustix::termios::tcgetwinsize(io::stderr()).ok().filter(|_| self.terminal)?;
        (size.ws_col > 0).then_some(size.ws_col.into())
    }

    /// Writes one line, with no control characters but its end.
    pub fn line(&self, text: &str) {
        let mut line = String::new();
        escape(&mut line, text);
        line.push('\n');
        self.lock().put(&line);
    }

    /// Shows the line of progress in place of the last one. On a terminal only.
    pub fn draw(&self, text: &str) {
        if !self.terminal {
            return;
        }
        let mut shared = self.lock();
        // Without wrapping, so that a narrow terminal needs one line too.
        let _ = write!(shared.out, "{CLEAR}\x1b[?7l{text}\x1b[?7h").and_then(|()| shared.out.flush());
        shared.drawn = true;
    }

    /// Takes the line of progress away.
    pub fn clear(&self) {
        self.lock().put("");
    }

    /// For others who write whole lines, e.g. the log.
    pub fn writer(&self) -> Box<dyn Write + Send> {
        Box::new(Lines(self.clone()))
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn put(&mut self, text: &str) {
        let clear = if std::mem::take(&mut self.drawn) { CLEAR } else { "" };
        // By one write, so that other processes on the same terminal do not come in between.
        let _ = self.out.write_all(format!("{clear}{text}").as_bytes()).and_then(|()| self.out.flush());
    }
}

struct Lines(Console);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().put(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes to stdout; a closed pipe is no matter.
pub fn print(text: impl AsRef<[u8]>) -> bool {
    let mut out = io::stdout();
    out.write_all(text.as_ref()).and_then(|()| out.flush()).is_ok()
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// What was written, for tests.
    #[derive(Clone, Default)]
    pub struct Written(Arc<Mutex<Vec<u8>>>);

    impl Written {
        pub fn take(&self) -> String {
            let bytes = std::mem::take(&mut *self.0.lock().expect("lock"));
            String::from_utf8(bytes).expect("text")
        }

        pub fn console(&self, terminal: bool) -> Console {
            Console::new(Box::new(self.clone()), terminal)
        }
    }

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("lock").write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_takes_the_progress_away_first() {
        let written = Written::default();
        let console = written.console(true);
        console.draw("half");
        console.line("a\x1bb");
        console.line("next");
        console.draw("most");
        let _ = console.writer().write_all(b"log\n");
        console.clear();
        let draw = |text| format!("\r\x1b[K\x1b[?7l{text}\x1b[?7h");
        assert_eq!(written.take(), format!("{}\r\x1b[Ka\\x1bb\nnext\n{}\r\x1b[Klog\n", draw("half"), draw("most")));
    }

    #[test]
    fn nothing_is_drawn_where_nothing_can_be_erased() {
        let written = Written::default();
        let console = written.console(false);
        console.draw("half");
        console.line("a");
        assert_eq!(written.take(), "a\n");
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
    fn a_closed_pipe_is_no_matter() {
        let console = Console::new(Box::new(Closed), true);
        console.draw("half");
        console.line("a");
    }
}
