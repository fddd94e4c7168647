//! What an administrator must hear of at once: the pair's `alert_command`, or the journal at priority alert.

use std::io::{self, Write};
use std::process::{Command, Stdio};

use super::journal::{self, Priority};
use super::log::PAIR;

/// Why the command did not take the message.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("alert_command: {0}")]
    Io(#[from] io::Error),
    #[error("alert_command: {0}")]
    Ended(std::process::ExitStatus),
}

/// Hands the message to the command, or where there is none, or it fails, to the journal and to stderr.
pub fn alert(command: Option<&str>, pair: &str, message: &str) {
    let failed = match command.map(|command| run(command, pair, message)) {
        Some(Ok(())) => return,
        Some(Err(e)) => format!(" ({e})"),
        None => String::new(),
    };
    let line = format!("{}{failed}", message.lines().next().unwrap_or_default());
    if journal::send(Priority::Alert, "psync", &[(PAIR, pair)], &line).is_err() {
        let _ = writeln!(io::stderr(), "psync: {line}");
    }
}

/// Runs the command in a shell, with the message on its stdin and the pair's name in its environment.
fn run(command: &str, pair: &str, message: &str) -> Result<(), CommandError> {
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(command).env("PSYNC_PAIR", pair).stdin(Stdio::piped());
    let mut child = shell.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command that does not read all of it is as good.
        match stdin.write_all(message.as_bytes()) {
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe => return Err(e.into()),
            _ => {}
        }
    }
    let status = child.wait()?;
    if status.success() { Ok(()) } else { Err(CommandError::Ended(status)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_gets_the_message_and_the_pair() {
        let temp = tempfile::tempdir().expect("dir");
        let out = temp.path().join("out");
        let command = format!("{{ cat; echo \"of $PSYNC_PAIR\"; }} > {}", out.display());
        run(&command, "web", "line\nmore\n").expect("it runs");
        assert_eq!(std::fs::read_to_string(out).expect("written"), "line\nmore\nof web\n");
    }

    #[test]
    fn a_command_that_fails_is_told_and_one_that_reads_nothing_is_not() {
        assert_eq!(run("exit 3", "p", "m").expect_err("3").to_string(), "alert_command: exit status: 3");
        run("exec true", "p", &"long ".repeat(100_000)).expect("it may leave the message");
    }
}
