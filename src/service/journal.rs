//! One record straight to the journal, for programs that have no log running.

use std::io;
use std::os::unix::net::UnixDatagram;

use super::format::escape;

const SOCKET: &str = "/run/systemd/journal/socket";

/// As syslog has it; lower is worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    Alert = 1,
    Warning = 4,
}

/// Sends one record. Never blocks: who calls may be what the journal waits for.
pub fn send(priority: Priority, identifier: &str, pair: &str, message: &str) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to(record(priority, identifier, pair, message).as_bytes(), SOCKET).map(drop)
}

/// The journal's own format, a field a line; so no value may hold a line's end.
fn record(priority: Priority, identifier: &str, pair: &str, message: &str) -> String {
    let mut text = format!("PRIORITY={}\n", priority as u8);
    for (field, value) in [("SYSLOG_IDENTIFIER", identifier), ("PSYNC_PAIR", pair), ("MESSAGE", message)] {
        text.push_str(field);
        text.push('=');
        escape(&mut text, value);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_makes_a_field_of_its_own() {
        let text = record(Priority::Alert, "psync", "p", "a\nPRIORITY=7");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..3], ["PRIORITY=1", "SYSLOG_IDENTIFIER=psync", "PSYNC_PAIR=p"]);
        assert!(lines.len() == 4 && lines[3].starts_with("MESSAGE=a"), "{text}");
    }
}
