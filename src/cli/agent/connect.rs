//! `psync-agent connect PAIR`: what sshd runs for a brain. Relays stdin and stdout to the agent's socket.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::super::UsageError;
use super::super::human::words;
use crate::config::valid_pair;
use crate::link::channel::stdio;
use crate::link::relay::relay;
use crate::model::readable;
use crate::service::control::agent_socket;

/// The whole command. Whatever goes wrong is one line; nothing but what the agent says goes to stdout.
pub fn run(arguments: &[OsString]) -> Result<(), UsageError> {
    let pair = match arguments {
        [pair] => pair
            .to_str()
            .filter(|pair| valid_pair(pair))
            .ok_or_else(|| UsageError(format!("`{}` is no name of a pair", readable(pair.as_encoded_bytes()))))?,
        _ => return Err(UsageError("connect takes the name of a pair, and nothing else".into())),
    };
    if let Some(asked) = std::env::var_os("SSH_ORIGINAL_COMMAND").as_deref().and_then(asked_pair)
        && asked != pair
    {
        let asked = readable(asked.as_bytes());
        return Err(UsageError(format!("this key is for the pair {pair}, not for {asked}")));
    }
    let socket = agent_socket(pair);
    let stream = UnixStream::connect(&socket).map_err(|e| UsageError(cannot(pair, &socket, &e)))?;
    let (stdin, stdout) = stdio().map_err(|e| UsageError(format!("stdin and stdout: {}", words(&e))))?;
    relay(&stream, stdin, stdout)
        .map_err(|e| UsageError(format!("the connection to the agent was lost: {}", words(&e))))
}

/// The pair that the other side's command names, if it runs this very command: what it asked for is not what the key
/// was made for.
fn asked_pair(command: &std::ffi::OsStr) -> Option<String> {
    let command = command.to_string_lossy();
    let words: Vec<&str> = command.split_whitespace().map(|word| word.trim_matches(['\'', '"'])).collect();
    match words.as_slice() {
        [program, "connect", pair] if Path::new(program).file_name()? == "psync-agent" => Some((*pair).to_owned()),
        _ => None,
    }
}

fn cannot(pair: &str, socket: &Path, error: &std::io::Error) -> String {
    let at = socket.display();
    let mend = format!("`systemctl enable --now psync-agent@{pair}.socket` makes it");
    match error.kind() {
        ErrorKind::NotFound => format!("no pair {pair} is served on this host: {at} does not exist ({mend})"),
        ErrorKind::PermissionDenied => {
            format!("no permission for the pair {pair}: {at} is for root and the group psync")
        }
        ErrorKind::ConnectionRefused => format!("nobody serves the pair {pair}: nobody listens on {at} ({mend} anew)"),
        _ => format!("{at}: {}", words(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_others_command_names_a_pair_only_if_it_is_this_command() {
        for (command, want) in [
            ("psync-agent connect web", Some("web")),
            ("/usr/bin/psync-agent  connect 'web'", Some("web")),
            ("psync-agent --stdio --root /", None),
            ("rsync connect web", None),
            ("", None),
        ] {
            assert_eq!(asked_pair(std::ffi::OsStr::new(command)).as_deref(), want, "{command}");
        }
    }

    #[test]
    fn anything_but_one_name_is_refused() {
        for arguments in [vec![], vec!["a", "b"], vec!["--help"], vec!["../x"], vec!["-a"]] {
            let words: Vec<OsString> = arguments.iter().map(OsString::from).collect();
            assert!(run(&words).is_err(), "{arguments:?}");
        }
    }
}
