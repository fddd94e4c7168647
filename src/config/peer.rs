//! How the right side's agent is reached: a child process, or a proxy command.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::{AgentSettings, Settings};

/// What the brain runs to reach the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RightCommand {
    /// This program again, with these arguments.
    Child(Vec<OsString>),
    /// A line for `/bin/sh -c`.
    Proxy(OsString),
}

/// The command for these settings, which have been checked.
///
/// A pair on one host runs the agent in a child; a host is reached by ssh, where the agent gets the settings as
/// an option; a proxy command of the user's own is taken as it is, and the agent behind it has settings of its own.
pub fn right_command(settings: &Settings, pair: &str, create_roots: bool) -> RightCommand {
    let right = &settings.right;
    if let Some(template) = &right.proxy_command {
        return RightCommand::Proxy(expand(template, settings, pair).into());
    }
    let Some(host) = &right.host else {
        let mut args: Vec<OsString> = vec!["--agent-mode".into()];
        args.extend(agent_arguments(settings, pair, create_roots));
        return RightCommand::Child(args);
    };
    RightCommand::Proxy(ssh(settings, host, &agent_arguments(settings, pair, create_roots)))
}

/// The command of a pair that both hosts have a file of: a host's agent is a service there, with the pair's file of
/// its own.
pub fn pair_command(settings: &Settings, pair: &str, create_roots: bool) -> RightCommand {
    match (&settings.right.proxy_command, &settings.right.host) {
        (None, Some(_)) => {
            let port = if settings.right.port.is_some() { "-p %p " } else { "" };
            let login = if settings.right.user.is_some() { "%u@" } else { "" };
            let template = format!("exec ssh -T %o {port}-- {login}%h psync-agent connect %i");
            RightCommand::Proxy(expand(&template, settings, pair).into())
        }
        _ => right_command(settings, pair, create_roots),
    }
}

/// The agent's side of an ad hoc run.
fn agent_arguments(settings: &Settings, pair: &str, create_roots: bool) -> Vec<OsString> {
    let shared = serde_json::to_string(&AgentSettings::from(settings)).unwrap_or_default();
    let mut args: Vec<OsString> = vec!["--stdio".into(), "--root".into(), settings.right.root.clone().into()];
    args.extend(["--pair".into(), pair.into(), "--settings".into(), shared.into()]);
    if create_roots {
        args.push("--create-roots".into());
    }
    args
}

/// `ssh -T OPTIONS -- [USER@]HOST psync-agent …`. The agent's words go through two shells, ours and the host's.
fn ssh(settings: &Settings, host: &str, agent: &[OsString]) -> OsString {
    let mut remote = b"psync-agent".to_vec();
    for word in agent {
        remote.push(b' ');
        remote.extend(quote(word.as_bytes()));
    }
    let mut line = b"exec ssh -T".to_vec();
    let mut words: Vec<Vec<u8>> = settings.ssh_options.iter().map(|o| o.clone().into_bytes()).collect();
    if let Some(port) = settings.right.port {
        words.extend([b"-p".to_vec(), port.to_string().into_bytes()]);
    }
    let login = settings.right.user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
    words.extend([b"--".to_vec(), format!("{login}{host}").into_bytes(), remote]);
    for word in &words {
        line.push(b' ');
        line.extend(quote(word));
    }
    OsString::from_vec(line)
}

/// Puts the pair's words into a proxy command, each as one word of the shell.
fn expand(template: &str, settings: &Settings, pair: &str) -> String {
    let right = &settings.right;
    let me = || nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten().map(|u| u.name);
    let word = |text: &str| String::from_utf8_lossy(&quote(text.as_bytes())).into_owned();
    let mut line = String::new();
    let mut chars = template.chars();
    while let Some(c) = chars.next() {
        match (c, c == '%') {
            (_, false) => line.push(c),
            (_, true) => match chars.next() {
                Some('h') => line.push_str(&word(right.host.as_deref().unwrap_or("localhost"))),
                Some('u') => line.push_str(&word(&right.user.clone().or_else(me).unwrap_or_default())),
                Some('p') => line.push_str(&right.port.unwrap_or(22).to_string()),
                Some('i') => line.push_str(&word(pair)),
                Some('o') => {
                    let options: Vec<String> = settings.ssh_options.iter().map(|o| word(o)).collect();
                    line.push_str(&options.join(" "));
                }
                Some('%') | None => line.push('%'),
                Some(other) => line.extend(['%', other]),
            },
        }
    }
    line
}

/// Whether [`expand`] knows all that is marked by `%`.
pub(super) fn check_template(template: &str) -> Result<(), String> {
    let mut chars = template.chars();
    while let Some(c) = chars.next() {
        if c == '%' {
            match chars.next() {
                Some('h' | 'u' | 'p' | 'i' | 'o' | '%') => {}
                other => {
                    let mark: String = std::iter::once('%').chain(other).collect();
                    return Err(format!("`{mark}` is none of %h %u %p %i %o %%"));
                }
            }
        }
    }
    Ok(())
}

/// One word of the shell, whatever is in it.
pub fn quote(word: &[u8]) -> Vec<u8> {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"-_./=:,@+".contains(b);
    if !word.is_empty() && word.iter().all(plain) {
        return word.to_vec();
    }
    let mut quoted = vec![b'\''];
    for b in word {
        match b {
            b'\'' => quoted.extend(b"'\\''"),
            other => quoted.push(*other),
        }
    }
    quoted.push(b'\'');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        let mut settings = Settings::default();
        settings.left.root = "/l".into();
        settings.right.root = "/it's here".into();
        settings
    }

    fn proxy(command: RightCommand) -> String {
        match command {
            RightCommand::Proxy(line) => line.into_string().expect("text"),
            RightCommand::Child(args) => panic!("a child: {args:?}"),
        }
    }

    #[test]
    fn a_local_right_is_a_child_of_this_program() {
        let RightCommand::Child(args) = right_command(&settings(), "p", true) else { panic!("no child") };
        assert_eq!(args[..6], ["--agent-mode", "--stdio", "--root", "/it's here", "--pair", "p"].map(OsString::from));
        assert_eq!(args.last().expect("args"), "--create-roots");
        let json = args[7].to_str().expect("text");
        assert_eq!(serde_json::from_str::<AgentSettings>(json).expect("json"), AgentSettings::from(&settings()));
    }

    /// The words that the far shell makes of the line are those that were meant.
    #[test]
    fn ssh_carries_every_word_through_two_shells() {
        let mut settings = settings();
        settings.right.host = Some("host".into());
        settings.right.user = Some("me".into());
        settings.right.port = Some(2222);
        let line = proxy(right_command(&settings, "p", false));
        assert!(line.starts_with("exec ssh -T -o ConnectTimeout=10 -p 2222 -- me@host 'psync-agent --stdio --root "));
        // An ssh that hands its last word to another shell, as sshd does, which prints the agent's words.
        let fake = r#"
            ssh() {
                while [ "$1" != -- ]; do shift; done
                sh -c "printf '%s\n' ${3#psync-agent}"
            }
        "#;
        let script = format!("{fake}{}", line.replacen("exec ", "", 1));
        let out = std::process::Command::new("sh").arg("-c").arg(script).output().expect("sh");
        let text = String::from_utf8(out.stdout).expect("text");
        let words: Vec<&str> = text.lines().collect();
        assert_eq!(words[..5], ["--stdio", "--root", "/it's here", "--pair", "p"]);
        assert_eq!(serde_json::from_str::<AgentSettings>(words[6]).expect("json"), AgentSettings::from(&settings));
    }

    #[test]
    fn a_proxy_command_gets_the_words_of_the_pair() {
        let mut settings = settings();
        settings.right.host = Some("h;x".into());
        settings.right.user = Some("u".into());
        settings.right.proxy_command = Some("ssh %o -p %p %u@%h agent %i 100%%".into());
        let line = proxy(right_command(&settings, "p", false));
        assert_eq!(line, "ssh -o ConnectTimeout=10 -p 22 u@'h;x' agent p 100%");
    }

    #[test]
    fn templates() {
        for (template, good) in [("a %h %%", true), ("", true), ("%x", false), ("%", false), ("100%", false)] {
            assert_eq!(check_template(template).is_ok(), good, "{template:?}");
        }
    }
}
