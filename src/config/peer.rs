//! How the right side's agent is reached: a child process, or a proxy command.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use super::Settings;

/// What the brain runs to reach the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RightCommand {
    /// This program again, with these arguments.
    Child(Vec<OsString>),
    /// A line for `/bin/sh -c`.
    Proxy(OsString),
    /// This program again, which carries the link to this socket of the line's own process.
    Line(PathBuf),
}

/// The command of an ad hoc run with these settings, which have been checked.
///
/// A pair on one host runs the agent in a child; a host is reached by ssh, where the agent gets the settings as
/// an option; a proxy command of the user's own is taken as it is, and the agent behind it has settings of its own.
pub fn right_command(settings: &Settings, pair: &str, create_roots: bool) -> RightCommand {
    match (&settings.right.proxy_command, &settings.right.host) {
        (None, Some(_)) => {
            let mut remote = b"psync-agent".to_vec();
            for word in agent_arguments(settings, pair, create_roots) {
                remote.push(b' ');
                remote.extend(quote(word.as_bytes()));
            }
            let mut line = ssh(settings, pair).into_bytes();
            line.push(b' ');
            // Through two shells: ours and the host's.
            line.extend(quote(&remote));
            RightCommand::Proxy(OsString::from_vec(line))
        }
        _ => pair_command(settings, pair, create_roots),
    }
}

/// The command of a pair that both hosts have a file of: a host's agent is a service there, with the pair's file of
/// its own.
pub fn pair_command(settings: &Settings, pair: &str, create_roots: bool) -> RightCommand {
    match (&settings.right.proxy_command, &settings.right.host) {
        (Some(template), _) => RightCommand::Proxy(expand(template, settings, pair).into()),
        (None, Some(_)) => {
            let line = format!("{} psync-agent connect {}", ssh(settings, pair), expand("%i", settings, pair));
            RightCommand::Proxy(line.into())
        }
        (None, None) => {
            let mut args: Vec<OsString> = vec!["--agent-mode".into()];
            args.extend(agent_arguments(settings, pair, create_roots));
            RightCommand::Child(args)
        }
    }
}

/// The agent's side of an ad hoc run.
fn agent_arguments(settings: &Settings, pair: &str, create_roots: bool) -> Vec<OsString> {
    let shared = serde_json::to_string(&settings.shared).unwrap_or_default();
    let mut args: Vec<OsString> = vec!["--stdio".into(), "--root".into(), settings.right.root.clone().into()];
    args.extend(["--pair".into(), pair.into(), "--settings".into(), shared.into()]);
    if settings.is_local() {
        args.push("--pipe".into());
    }
    if create_roots {
        args.push("--create-roots".into());
    }
    args
}

/// `ssh` with all that comes before the command that it runs on the host.
///
/// It runs in a process group of its own, behind the terminal's: a question for a password or an unknown host would
/// stop it for ever, so it must not ask. In ssh the first value of an option counts: what would give the other host a
/// way back into this one, or let a stranger be it, is said before the user's own options. Two letters among these would
/// count all the same, and are taken back after them.
fn ssh(settings: &Settings, pair: &str) -> String {
    let port = if settings.right.port.is_some() { "-p %p " } else { "" };
    expand(&format!("exec ssh -T {SAFE} %o -a -x -o BatchMode=yes {port}-- %u@%h"), settings, pair)
}

/// No agent, no port and no command of this host for the other one, which must be known.
const SAFE: &str =
    "-o ForwardAgent=no -o ClearAllForwardings=yes -o PermitLocalCommand=no -o StrictHostKeyChecking=yes";

/// Puts the pair's words into a proxy command, each as one word of the shell. Without a user `%u@` stands for nothing,
/// and `%u` for who runs this.
fn expand(template: &str, settings: &Settings, pair: &str) -> String {
    let right = &settings.right;
    let me = || nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten().map(|u| u.name);
    let word = |text: &str| String::from_utf8_lossy(&quote(text.as_bytes())).into_owned();
    let mut line = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('%') {
        line.push_str(before);
        let mut letters = after.chars();
        let letter = letters.next();
        rest = letters.as_str();
        match letter {
            Some('h') => line.push_str(&word(right.host.as_deref().unwrap_or("localhost"))),
            Some('u') => match (&right.user, rest.strip_prefix('@')) {
                (None, Some(after)) => rest = after,
                (user, _) => line.push_str(&word(&user.clone().or_else(me).unwrap_or_default())),
            },
            Some('p') => line.push_str(&right.port.unwrap_or(22).to_string()),
            Some('i') => line.push_str(&word(pair)),
            Some('o') => {
                let options: Vec<String> = settings.program.ssh_options.iter().map(|o| word(o)).collect();
                line.push_str(&options.join(" "));
            }
            Some('%') | None => line.push('%'),
            // Refused by the check of the settings.
            Some(other) => line.extend(['%', other]),
        }
    }
    line.push_str(rest);
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
    match template.contains('\0') {
        true => Err("it holds a NUL".into()),
        false => Ok(()),
    }
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
    use crate::config::SharedSettings;

    fn settings() -> Settings {
        let mut settings = Settings::default();
        settings.left.root = "/l".into();
        settings.right.root = "/it's here".into();
        settings
    }

    fn proxy(command: RightCommand) -> String {
        match command {
            RightCommand::Proxy(line) => line.into_string().expect("text"),
            other => panic!("no proxy command: {other:?}"),
        }
    }

    #[test]
    fn a_local_right_is_a_child_of_this_program() {
        let RightCommand::Child(args) = right_command(&settings(), "p", true) else { panic!("no child") };
        assert_eq!(args[..6], ["--agent-mode", "--stdio", "--root", "/it's here", "--pair", "p"].map(OsString::from));
        assert_eq!(args[8..], ["--pipe", "--create-roots"]);
        let json = args[7].to_str().expect("text");
        assert_eq!(SharedSettings::from_json(json).expect("json"), settings().shared);
    }

    /// The words that the far shell makes of the line are those that were meant.
    #[test]
    fn ssh_carries_every_word_through_two_shells() {
        let mut settings = settings();
        settings.right.host = Some("host".into());
        settings.right.user = Some("me".into());
        settings.right.port = Some(2222);
        let line = proxy(right_command(&settings, "p", false));
        assert!(line.starts_with(
            &format!("exec ssh -T {SAFE} -o ConnectTimeout=10 -a -x -o BatchMode=yes -p 2222 -- me@host 'psync-agent --stdio --root ")
        ));
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
        assert_eq!(SharedSettings::from_json(words[6]).expect("json"), settings.shared);
        assert!(!words.contains(&"--pipe"));
    }

    #[test]
    fn a_pair_with_a_host_is_reached_at_its_service() {
        let mut settings = settings();
        settings.right.host = Some("files2".into());
        let ssh = format!("exec ssh -T {SAFE} -o ConnectTimeout=10 -a -x -o BatchMode=yes");
        assert_eq!(proxy(pair_command(&settings, "web", false)), format!("{ssh} -- files2 psync-agent connect web"));
        settings.right.user = Some("psync".into());
        settings.right.port = Some(2222);
        let want = format!("{ssh} -p 2222 -- psync@files2 psync-agent connect web");
        assert_eq!(proxy(pair_command(&settings, "web", false)), want);
        settings.right.host = None;
        assert!(matches!(pair_command(&settings, "web", false), RightCommand::Child(_)));
    }

    /// Asks the real ssh what it makes of it.
    #[test]
    fn no_option_of_the_users_own_opens_a_way_back() {
        let mut settings = settings();
        settings.right.host = Some("files2".into());
        let worst = [
            "-A",
            "-X",
            "-Y",
            "-oForwardAgent=yes",
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "PermitLocalCommand=yes",
            "-R8022:localhost:22",
            "-o",
            "ClearAllForwardings=no",
            "-o",
            "ForwardX11=yes",
            "-F",
            "none",
        ];
        settings.program.ssh_options = worst.map(str::to_owned).to_vec();
        for line in [proxy(pair_command(&settings, "web", false)), proxy(right_command(&settings, "web", false))] {
            let asked = line.replacen("exec ssh ", "exec ssh -G ", 1);
            let output = std::process::Command::new("sh").arg("-c").arg(asked).output().expect("sh");
            if output.status.code() == Some(127) {
                assert!(std::env::var_os("CI").is_none(), "ssh is missing");
                return eprintln!("skipped: ssh is missing");
            }
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let value =
                |key: &str| said.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(' ')).map(str::to_owned);
            for (key, wants) in [
                ("forwardagent", &["no"][..]),
                ("forwardx11", &["no"]),
                ("clearallforwardings", &["yes"]),
                ("permitlocalcommand", &["no"]),
                ("stricthostkeychecking", &["yes", "true"]),
                ("batchmode", &["yes"]),
            ] {
                let value = value(key).unwrap_or_default();
                assert!(wants.contains(&value.as_str()), "{key} {value}\n{said}");
            }
            assert!(!said.contains("remoteforward"), "{said}");
        }
    }

    #[test]
    fn a_proxy_command_gets_the_words_of_the_pair_each_as_one_word() {
        let mut all = settings();
        all.right.host = Some("h;x".into());
        all.right.user = Some("u".into());
        all.right.port = Some(2222);
        all.program.ssh_options = vec!["-o".into(), "ProxyCommand=nc %h 22; x".into(), "-4".into()];
        let nobody = settings();
        let odd = {
            let mut odd = settings();
            odd.right.host = Some("a b'c".into());
            odd
        };
        for (template, settings, want) in [
            (
                "ssh %o -p %p %u@%h agent %i 100%%",
                &all,
                "ssh -o 'ProxyCommand=nc %h 22; x' -4 -p 2222 u@'h;x' agent p 100%",
            ),
            ("ssh -p %p %u@%h", &nobody, "ssh -p 22 localhost"),
            ("ssh %h", &odd, r"ssh 'a b'\''c'"),
            ("true", &all, "true"),
        ] {
            let mut settings = settings.clone();
            settings.right.proxy_command = Some(template.into());
            assert_eq!(proxy(right_command(&settings, "p", false)), want);
            assert_eq!(proxy(pair_command(&settings, "p", false)), want);
        }
    }

    #[test]
    fn templates() {
        for (template, good) in
            [("a %h %%", true), ("", true), ("%x", false), ("%", false), ("100%", false), ("a\0", false)]
        {
            assert_eq!(check_template(template).is_ok(), good, "{template:?}");
        }
    }
}
