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
    Notice = 5,
    Info = 6,
}

/// Sends one record with these fields. Never blocks: who calls may be what the journal waits for.
pub fn send(priority: Priority, identifier: &str, fields: &[(&str, &str)], message: &str) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to(record(priority, identifier, fields, message).as_bytes(), SOCKET).map(drop)
}

/// The journal's own format, a field a line; so no value may hold a line's end.
fn record(priority: Priority, identifier: &str, fields: &[(&str, &str)], message: &str) -> String {
    let mut text = format!("PRIORITY={}\n", priority as u8);
    let own = [("SYSLOG_IDENTIFIER", identifier), ("MESSAGE", message)];
    for (field, value) in fields.iter().copied().chain(own) {
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
        let text = record(Priority::Alert, "psync", &[("PSYNC_PAIR", "p")], "a\nPRIORITY=7");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..3], ["PRIORITY=1", "PSYNC_PAIR=p", "SYSLOG_IDENTIFIER=psync"]);
        assert!(lines.len() == 4 && lines[3].starts_with("MESSAGE=a"), "{text}");
    }
}
