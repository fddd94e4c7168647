//! The files that a pair's ssh reads: keys and known hosts. The line's process may read no others, and gets copies of these
//! from systemd; so their names in `ssh_options` and `proxy_command` are put in the place of other names here.

use std::path::Path;

use super::Settings;

/// Where brains find the keys of the hosts that they call.
pub const KNOWN_HOSTS: &str = "/var/lib/psync/known_hosts";
/// Where the keys of pairs lie, each under its pair's name.
const KEYS: &str = "/etc/psync/ssh/";

/// Options of ssh whose values are files to be read.
const NAMED: &[&str] =
    &["identityfile", "certificatefile", "userknownhostsfile", "globalknownhostsfile", "revokedhostkeys"];
/// The same as letters.
const LETTERS: &[&str] = &["-i", "-F"];

/// What systemd calls its copy of a file of the pair.
pub fn credential(pair: &str, file: &str) -> String {
    if file == KNOWN_HOSTS {
        return "known_hosts".to_owned();
    }
    if file.strip_prefix(KEYS) == Some(pair) {
        return "key".to_owned();
    }
    let digest = blake3::hash(file.as_bytes()).to_hex();
    format!("file-{}", &digest[..16])
}

/// The files that ssh is to read, each once, in the order of their names' first places.
pub fn ssh_files(settings: &Settings) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    with_ssh_files(settings, |file| {
        if !found.iter().any(|known| known == file) {
            found.push(file.to_owned());
        }
        None
    });
    found
}

/// The settings with other names for the files that ssh is to read: `renamed` says which; `None` leaves one as it is.
pub fn with_ssh_files(settings: &Settings, mut renamed: impl FnMut(&str) -> Option<String>) -> Settings {
    let mut settings = settings.clone();
    let mut words = settings.program.ssh_options.iter_mut();
    while let Some(word) = words.next() {
        if LETTERS.contains(&word.as_str()) {
            if let Some(value) = words.next() {
                *value = rename(value, &mut renamed);
            }
        } else if word == "-o" {
            if let Some(option) = words.next() {
                *option = rename_in_option(option, &mut renamed);
            }
        } else if let Some(option) = word.strip_prefix("-o") {
            *word = format!("-o{}", rename_in_option(option, &mut renamed));
        } else if let Some((letter, value)) = word.split_at_checked(2).filter(|(letter, _)| LETTERS.contains(letter)) {
            *word = format!("{letter}{}", rename(value, &mut renamed));
        }
    }
    if let Some(line) = &settings.right.proxy_command {
        // A line for the shell: what is known by its place in the file system is a file of the pair's.
        let ours = |file: &str| file == KNOWN_HOSTS || file.strip_prefix(KEYS).is_some_and(|name| !name.is_empty());
        settings.right.proxy_command = Some(rename_words(line, &mut |file| match ours(file) {
            true => renamed(file),
            false => None,
        }));
    }
    settings
}

/// Lines for a shell that put the right host's key where the pair's ssh looks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostKey {
    /// Adds the one that the host has.
    pub fetch: String,
    /// Takes the old one away.
    pub forget: String,
}

/// Those of a pair, with its own file of known hosts.
pub fn host_key(settings: &Settings) -> HostKey {
    let host = settings.right.host.as_deref().unwrap_or("HOST");
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    let word = |text: &str| String::from_utf8_lossy(&super::quote(text.as_bytes())).into_owned();
    let (port, name) = match settings.right.port {
        Some(port) if port != 22 => (format!("-p {port} "), format!("[{host}]:{port}")),
        _ => (String::new(), host.to_owned()),
    };
    let file = match known_hosts(settings) {
        // For the shell to find.
        None => "~/.ssh/known_hosts".to_owned(),
        Some(file) => word(&file),
    };
    HostKey {
        fetch: format!("ssh-keyscan {port}{} >> {file}", word(host)),
        forget: format!("ssh-keygen -R {} -f {file}", word(&name)),
    }
}

/// The file that `UserKnownHostsFile` names, its first one; `None`: ssh's own default.
fn known_hosts(settings: &Settings) -> Option<String> {
    let words = settings.program.ssh_options.iter().map(String::as_str);
    let line = settings.right.proxy_command.as_deref().unwrap_or_default().split_whitespace();
    words.chain(line).find_map(|word| {
        let word = word.strip_prefix("-o").unwrap_or(word).trim_start();
        let end = word.find(|c: char| c == '=' || c.is_whitespace())?;
        let (key, value) = word.split_at(end);
        let value = value.trim_start_matches(|c: char| c == '=' || c.is_whitespace()).trim_matches('"');
        let first = value.split_whitespace().next().filter(|_| key.eq_ignore_ascii_case("UserKnownHostsFile"))?;
        Some(first.to_owned())
    })
}

fn rename(file: &str, renamed: &mut impl FnMut(&str) -> Option<String>) -> String {
    let bare = file.trim_matches('"');
    match Path::new(bare).is_absolute() {
        true => renamed(bare).unwrap_or_else(|| file.to_owned()),
        false => file.to_owned(),
    }
}

/// `Key=value` or `Key value`, as `-o` takes it.
fn rename_in_option(option: &str, renamed: &mut impl FnMut(&str) -> Option<String>) -> String {
    let end = option.find(|c: char| c == '=' || c.is_whitespace()).unwrap_or(option.len());
    let (key, value) = option.split_at(end);
    match NAMED.contains(&key.to_ascii_lowercase().as_str()) {
        true => format!("{key}{}", rename_words(value, renamed)),
        false => option.to_owned(),
    }
}

/// Each absolute path that stands as a word in the text.
fn rename_words(text: &str, renamed: &mut impl FnMut(&str) -> Option<String>) -> String {
    let ends = |c: char| c.is_whitespace() || "\"'=;&|()<>,`".contains(c);
    let mut all = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(|c| !ends(c)) {
        let (before, from) = rest.split_at(start);
        let (word, after) = from.split_at(from.find(ends).unwrap_or(from.len()));
        all.push_str(before);
        all.push_str(&rename(word, renamed));
        rest = after;
    }
    all + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hosts_key_goes_into_the_pairs_own_file() {
        for (options, host, port, fetch, forget) in [
            (&[][..], "h", None, "ssh-keyscan h >> ~/.ssh/known_hosts", "ssh-keygen -R h -f ~/.ssh/known_hosts"),
            (
                &["-i", "/k", "-o", "UserKnownHostsFile=/var/lib/psync/known_hosts"],
                "u@h",
                Some(22),
                "ssh-keyscan h >> /var/lib/psync/known_hosts",
                "ssh-keygen -R h -f /var/lib/psync/known_hosts",
            ),
            (
                &["-ouserknownhostsfile \"/my /other\""],
                "h",
                Some(2222),
                "ssh-keyscan -p 2222 h >> /my",
                "ssh-keygen -R '[h]:2222' -f /my",
            ),
        ] {
            let mut settings = settings(options, None);
            (settings.right.host, settings.right.port) = (Some(host.to_owned()), port);
            let key = host_key(&settings);
            assert_eq!((key.fetch.as_str(), key.forget.as_str()), (fetch, forget));
        }
        let settings = settings(&[], Some("ssh -o UserKnownHostsFile=/p %u@%h psync-agent connect %i"));
        assert!(host_key(&settings).fetch.ends_with(" >> /p"));
    }

    fn settings(options: &[&str], proxy: Option<&str>) -> Settings {
        let ssh_options = options.iter().map(|word| (*word).to_owned()).collect();
        let mut settings = Settings::default();
        settings.program.ssh_options = ssh_options;
        settings.right.proxy_command = proxy.map(str::to_owned);
        settings
    }

    #[test]
    fn files_are_known_by_their_options() {
        for (options, want) in [
            (&["-i", "/etc/psync/ssh/web", "-o", "ConnectTimeout=10"][..], &["/etc/psync/ssh/web"][..]),
            (&["-i/k", "-F", "/c", "-o", "identityfile=/i", "-oCertificateFile /c"], &["/k", "/c", "/i"]),
            (&["-o", "UserKnownHostsFile=/a /b", "-o", "UserKnownHostsFile \"/d\""], &["/a", "/b", "/d"]),
            (&["-o", "ProxyCommand=/usr/bin/nc %h 22", "-o", "ControlPath=/x", "-J", "/y"], &[]),
            (&["-i", "~/.ssh/id", "-o", "IdentityFile=none", "-i"], &[]),
            (&["-i", "/twice", "-i", "/twice"], &["/twice"]),
        ] {
            assert_eq!(ssh_files(&settings(options, None)), want, "{options:?}");
        }
        let line = "ssh -i /etc/psync/ssh/web -oUserKnownHostsFile=/var/lib/psync/known_hosts %o x | /usr/bin/tee '/etc/psync/ssh/b'";
        let found = ssh_files(&settings(&[], Some(line)));
        assert_eq!(found, ["/etc/psync/ssh/web", "/var/lib/psync/known_hosts", "/etc/psync/ssh/b"]);
    }

    #[test]
    fn they_get_other_names_and_nothing_else_changes() {
        let before = settings(
            &["-i", "/k", "-o", "UserKnownHostsFile=/a /k", "-o", "ProxyCommand=cat /k", "-i\"/k\"", "-4"],
            Some("x '/etc/psync/ssh/web' /k %%"),
        );
        let after = with_ssh_files(&before, |file| (file != "/a").then(|| format!("/run{file}")));
        let want =
            ["-i", "/run/k", "-o", "UserKnownHostsFile=/a /run/k", "-o", "ProxyCommand=cat /k", "-i/run/k", "-4"];
        assert_eq!(after.program.ssh_options, want);
        assert_eq!(after.right.proxy_command.as_deref(), Some("x '/run/etc/psync/ssh/web' /k %%"));
        assert_eq!(with_ssh_files(&before, |_| None), before);
    }

    #[test]
    fn copies_have_names_of_their_own() {
        assert_eq!(credential("web", "/etc/psync/ssh/web"), "key");
        assert_eq!(credential("web", KNOWN_HOSTS), "known_hosts");
        let (a, b) = (credential("web", "/etc/psync/ssh/mail"), credential("web", "/root/.ssh/id"));
        assert!(a != b && a.starts_with("file-") && a.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'));
    }
}
