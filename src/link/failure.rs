//! Why a link could not be had, in words that say what to do: from what ssh and the agent said on stderr, the
//! proxy command's exit status, and how the handshake ended.

use std::fmt;
use std::process::ExitStatus;

use super::LinkError;
use crate::config::HostKey;

/// Why something could not be had, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    pub what: String,
    /// Empty: nobody knows.
    pub cure: String,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cure.is_empty() {
            true => f.write_str(&self.what),
            false => write!(f, "{} ({})", self.what, self.cure),
        }
    }
}

impl From<String> for Explanation {
    fn from(what: String) -> Explanation {
        Explanation { what, cure: String::new() }
    }
}

/// What kept the brain from its agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    UnknownHostKey,
    ChangedHostKey,
    UnusableKey,
    Denied,
    NoSuchHost,
    Refused,
    TimedOut,
    Unreachable,
    SshOption,
    NoSsh,
    NoAgent,
    NoLogin,
    /// The agent said it itself: no such pair, no permission, a root that is not there.
    Agent,
    /// The agent serves another brain, or was stopped.
    TurnedAway,
    Version,
    OtherPair,
    NotPsync,
    /// It was there, and is no more.
    Lost,
    Other,
}

use Failure::*;

/// What a line on stderr means; the first row that has a match in any line counts, so the more telling come first.
/// All the parts of a row's text must be in one line, whatever their case.
const SAID: &[(Failure, &[&[&str]])] = &[
    (ChangedHostKey, &[&["remote host identification has changed"], &["host key for", "has changed"]]),
    (
        UnknownHostKey,
        &[&["host key is known for"], &["host key verification failed"], &["authenticity of host", "established"]],
    ),
    (
        UnusableKey,
        &[&["unprotected private key file"], &["load key", "bad permissions"], &["load key", "invalid format"]],
    ),
    (
        Denied,
        &[
            &["permission denied (publickey"],
            &["permission denied (password"],
            &["permission denied (keyboard"],
            &["permission denied (gssapi"],
            &["too many authentication failures"],
            &["permission denied, please try again"],
        ],
    ),
    (NoSuchHost, &[&["could not resolve hostname"]]),
    (Refused, &[&["connect to host", "connection refused"]]),
    (
        TimedOut,
        &[&["connect to host", "timed out"], &["timed out during banner exchange"], &["server host not responding"]],
    ),
    (Unreachable, &[&["no route to host"], &["network is unreachable"], &["host is down"]]),
    (SshOption, &[&["bad configuration option"], &["unknown option --"], &["command-line", "line 0"]]),
    (NoSsh, &[&["ssh: not found"], &["ssh: command not found"], &["command not found: ssh"]]),
    (NoAgent, &[&["psync-agent", "not found"], &["psync-agent", "no such file"], &["psync-agent", "cannot execute"]]),
    (
        NoLogin,
        &[
            &["account is currently not available"],
            &["account has expired"],
            &["remote command execution is not allowed"],
        ],
    ),
    (
        Lost,
        &[
            &["closed by remote host"],
            &["connection reset by"],
            &["broken pipe"],
            &["connection closed by"],
            &["kex_exchange_identification"],
            &["connection to", "closed"],
        ],
    ),
];

/// What to do about it.
fn advice(failure: Failure) -> (&'static str, &'static str) {
    match failure {
        UnknownHostKey => ("the host's key is not known here", ""),
        ChangedHostKey => ("the host's key is another one than before", ""),
        UnusableKey => ("the private key cannot be used", "it must belong to this user, with mode 0600"),
        Denied => (
            "the host lets nobody in with these keys",
            "put the public key into authorized_keys of that user; psync never asks for a password",
        ),
        NoSuchHost => ("the host's name is not known", "check `host`, or the name service"),
        Refused => ("nobody listens there", "is sshd running, and is it this port?"),
        TimedOut => ("the host does not answer", "is it up, and does a firewall let this port through?"),
        Unreachable => ("there is no way to the host", "check the network"),
        SshOption => ("ssh does not know an option", "check `ssh_options` and `proxy_command`"),
        NoSsh => ("there is no ssh on this host", "install an ssh client, or set `proxy_command`"),
        NoAgent => {
            ("there is no psync-agent on the other host", "install psync there, where the login's PATH finds it")
        }
        NoLogin => ("that login may not run a command", "give it a shell such as /bin/sh"),
        Version => ("the two versions of psync do not fit", "install the same on both hosts"),
        OtherPair => (
            "this key, socket or command leads to another pair",
            "check what the other host's authorized_keys says for this key",
        ),
        NotPsync => {
            ("what answers is no psync-agent", "a login script that prints something must not do so without a terminal")
        }
        Lost => ("the connection was lost", ""),
        Agent | TurnedAway | Other => ("", ""),
    }
}

/// What kind of failure it is. `said`: the last lines on the proxy command's stderr. `status`: how it ended, if it
/// did by itself.
pub fn recognise(error: &LinkError, said: &[String], status: Option<ExitStatus>) -> (Failure, Option<String>) {
    match error {
        LinkError::Version { .. } => return (Version, Some(error.to_string())),
        LinkError::OtherPair { .. } => return (OtherPair, Some(error.to_string())),
        LinkError::TurnedAway(why) => return (TurnedAway, Some(why.clone())),
        _ => {}
    }
    // Some say on stdout what belongs on stderr.
    let strange = match error {
        LinkError::NotPsync { said } if !said.is_empty() => Some(said),
        _ => None,
    };
    for (failure, texts) in SAID {
        let line = said.iter().chain(strange).rev().find(|line| {
            // An agent that says what it lacks is there.
            if *failure == NoAgent && own_words(std::slice::from_ref(*line)).is_some() {
                return false;
            }
            let line = line.to_lowercase();
            texts.iter().any(|parts| parts.iter().all(|part| line.contains(part)))
        });
        if let Some(line) = line {
            // The agent's own words may hold any of these.
            let agent = own_words(said).filter(|_| *failure != NoAgent);
            return agent.map_or((*failure, Some(line.clone())), |words| (Agent, Some(words.into())));
        }
    }
    if let Some(words) = own_words(said) {
        return (Agent, Some(words.into()));
    }
    if status.and_then(|status| status.code()) == Some(127) {
        return (NoAgent, said.last().cloned());
    }
    match strange {
        Some(_) => (NotPsync, Some(error.to_string())),
        None => (Other, None),
    }
}

/// What a psync-agent, or the line's own process, said of itself.
fn own_words(said: &[String]) -> Option<&str> {
    let own = |line: &str| ["psync-agent: ", "psync-link: "].iter().any(|name| line.starts_with(name));
    let line = said.iter().rev().find(|line| own(line.as_str()))?;
    line.split_once(": ").map(|(_, words)| words).filter(|words| !words.contains("not found"))
}

/// The failure in words, for the log, the status and the doctor. What the other side's psync said of itself begins with that
/// side's host, if it has one of its own.
pub fn explain(
    error: &LinkError,
    said: &[String],
    status: Option<ExitStatus>,
    key: &HostKey,
    host: Option<&str>,
) -> Explanation {
    let (failure, words) = recognise(error, said, status);
    let theirs = match failure {
        TurnedAway => true,
        // The line's process runs on this host.
        Agent => {
            words.as_ref().is_some_and(|words| said.iter().any(|l| l.strip_prefix("psync-agent: ") == Some(words)))
        }
        _ => false,
    };
    let words = match host.filter(|_| theirs) {
        Some(host) => words.map(|words| format!("{host}: {words}")),
        None => words,
    };
    let (what, cure) = advice(failure);
    let cure = match failure {
        UnknownHostKey => format!("as root or whoever runs this: `{}`; then compare the fingerprint", key.fetch),
        ChangedHostKey => format!("find out why; if it is right: `{}`, then `{}`", key.forget, key.fetch),
        _ => cure.to_owned(),
    };
    let what = match (what, words) {
        ("", Some(words)) => words,
        ("", None) => match said.last() {
            Some(last) => format!("{error} ({last})"),
            None => error.to_string(),
        },
        (what, Some(words)) => format!("{what}: {words}"),
        (what, None) => what.to_owned(),
    };
    Explanation { what, cure }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    fn key() -> HostKey {
        HostKey { fetch: "ssh-keyscan h >> /k".into(), forget: "ssh-keygen -R h -f /k".into() }
    }

    #[test]
    fn a_cure_is_a_field_of_its_own() {
        let said = ["psync-agent: root /srv/web: cannot be read: No such file or directory (os error 2)".to_string()];
        let told = explain(&LinkError::Ended, &said, ended(1), &key(), None);
        assert_eq!((told.what.contains("(os error 2)"), told.cure.as_str()), (true, ""));
        let said = ["Host key verification failed.".to_string()];
        let told = explain(&LinkError::Ended, &said, ended(255), &key(), None);
        assert!(told.cure.contains("`ssh-keyscan h >> /k`") && !told.what.contains("ssh-keyscan"), "{told}");
    }

    fn ended(code: i32) -> Option<ExitStatus> {
        Some(ExitStatus::from_raw(code << 8))
    }

    /// What OpenSSH 9.2 and the shells of Debian say, word for word.
    #[test]
    fn what_ssh_says_is_recognised() {
        let table: &[(Failure, i32, &str)] = &[
            (
                UnknownHostKey,
                255,
                "No ED25519 host key is known for [127.0.0.1]:2222 and you have requested strict checking.\n\
                 Host key verification failed.",
            ),
            (UnknownHostKey, 255, "Host key verification failed."),
            (
                ChangedHostKey,
                255,
                "@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@\n\
                 @    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\n\
                 @@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@\n\
                 IT IS POSSIBLE THAT SOMEONE IS DOING SOMETHING NASTY!\n\
                 Host key for [127.0.0.1]:2222 has changed and you have requested strict checking.\n\
                 Host key verification failed.",
            ),
            (Denied, 255, "psync@files2: Permission denied (publickey)."),
            (Denied, 255, "psync@files2: Permission denied (publickey,password,keyboard-interactive)."),
            (
                Denied,
                255,
                "Received disconnect from 192.0.2.1 port 22:2: Too many authentication failures\n\
                 Disconnected from 192.0.2.1 port 22",
            ),
            (
                UnusableKey,
                255,
                "@         WARNING: UNPROTECTED PRIVATE KEY FILE!          @\n\
                 Permissions 0644 for '/etc/psync/ssh/id_ed25519' are too open.\n\
                 It is required that your private key files are NOT accessible by others.\n\
                 This private key will be ignored.\n\
                 Load key \"/etc/psync/ssh/id_ed25519\": bad permissions\n\
                 psync@files2: Permission denied (publickey).",
            ),
            (NoSuchHost, 255, "ssh: Could not resolve hostname files9: Name or service not known"),
            (NoSuchHost, 255, "ssh: Could not resolve hostname files9: Temporary failure in name resolution"),
            (Refused, 255, "ssh: connect to host 127.0.0.1 port 2222: Connection refused"),
            (TimedOut, 255, "ssh: connect to host 192.0.2.1 port 22: Connection timed out"),
            (TimedOut, 255, "Connection timed out during banner exchange\nConnection to 127.0.0.1 port 2222 timed out"),
            (Unreachable, 255, "ssh: connect to host 192.0.2.1 port 22: No route to host"),
            (Unreachable, 255, "ssh: connect to host 192.0.2.1 port 22: Network is unreachable"),
            (SshOption, 255, "command-line: line 0: Bad configuration option: conecttimeout"),
            (NoSsh, 127, "/bin/sh: 1: exec: ssh: not found"),
            (NoAgent, 127, "bash: line 1: psync-agent: command not found"),
            (NoAgent, 127, "sh: 1: psync-agent: not found"),
            (NoAgent, 127, "zsh:1: command not found: psync-agent"),
            (NoAgent, 127, "bash: line 1: /opt/psync/psync-agent: No such file or directory"),
            (NoAgent, 127, "fish: Unknown command"),
            (Agent, 1, "psync-agent: no pair `web` is served here: /run/psync/agent-web.sock does not exist"),
            (Agent, 1, "psync-agent: root /srv/web: does not exist (--create-roots creates it)"),
            (Agent, 1, "psync-agent: /run/psync/agent-web.sock: permission denied"),
            (Lost, 255, "client_loop: send disconnect: Broken pipe"),
            (Lost, 255, "Connection to files2 closed by remote host."),
            (
                Lost,
                255,
                "kex_exchange_identification: read: Connection reset by peer\n\
                 Connection reset by 127.0.0.1 port 2222",
            ),
            (Other, 1, "something else"),
            (Other, 1, ""),
        ];
        for (want, code, text) in table {
            let said: Vec<String> = text.lines().map(String::from).collect();
            let (got, words) = recognise(&LinkError::Ended, &said, ended(*code));
            assert_eq!(got, *want, "{text}");
            let told = explain(&LinkError::Ended, &said, ended(*code), &key(), None);
            let line = told.to_string();
            assert!(words.is_none_or(|words| told.what.contains(&words)) && !line.contains('\n'), "{line}");
            // What it says in brackets itself is no cure.
            assert!(!told.cure.contains("os error") && told.cure.is_empty() == matches!(want, Agent | Lost | Other));
        }
    }

    #[test]
    fn the_handshake_tells_more_than_stderr() {
        let noise = ["Permission denied (publickey).".to_string()];
        let version = LinkError::Version { ours: 1, our_program: "0.1".into(), theirs: 2, their_program: "0.2".into() };
        let other = LinkError::OtherPair { ours: "web".into(), theirs: "mail".into() };
        let taken = LinkError::TurnedAway("files1 serves".into());
        let strange = LinkError::NotPsync { said: "Welcome to Debian".into() };
        let nologin = LinkError::NotPsync { said: "This account is currently not available.".into() };
        let nothing = LinkError::NotPsync { said: String::new() };
        for (error, said, want, text) in [
            (&version, &noise[..], Version, "psync 0.2 (protocol 2)"),
            (&other, &noise[..], OtherPair, "serves the pair 'mail', not 'web'"),
            (&taken, &noise[..], TurnedAway, "files1 serves"),
            (&strange, &[], NotPsync, "it said \"Welcome to Debian\""),
            (&nologin, &[], NoLogin, "give it a shell"),
            (&nothing, &noise[..], Denied, "lets nobody in"),
            (&nothing, &[], Other, "before it said a word"),
            (&LinkError::Silent(std::time::Duration::from_secs(60)), &[], Other, "nothing was heard"),
        ] {
            assert_eq!(recognise(error, said, None).0, want, "{error}");
            let line = explain(error, said, None, &key(), None).to_string();
            assert!(line.contains(text), "{line}");
        }
    }

    /// Two sentences that an agent says of itself hold words of others.
    #[test]
    fn an_agents_own_words_go_before_what_they_may_hold() {
        let said = ["psync-agent: /run/psync/agent-web.sock: Connection refused".to_string()];
        assert_eq!(recognise(&LinkError::Ended, &said, ended(1)).0, Agent);
        let line = |host| explain(&LinkError::Ended, &said, ended(1), &key(), host).to_string();
        assert_eq!(line(Some("files2")), "files2: /run/psync/agent-web.sock: Connection refused");
        assert_eq!(line(None), "/run/psync/agent-web.sock: Connection refused");
        let here = ["psync-link: /etc/psync/web.toml: cannot read".to_string()];
        let told = explain(&LinkError::Ended, &here, ended(1), &key(), Some("files2"));
        assert_eq!(told.to_string(), "/etc/psync/web.toml: cannot read");
        let said = ["psync-agent: the connection to the agent was lost: Broken pipe (os error 32)".to_string()];
        assert_eq!(recognise(&LinkError::Ended, &said, ended(1)).0, Agent);
    }
}
