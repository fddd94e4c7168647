//! rsync as a mover of contents: what it is told on either side.
//!
//! The source's rsync is the client. It computes the arguments of its partner, as it would for ssh; the receiver takes
//! what is on a list here, and says itself where the contents come from and go to.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use serde_bytes::ByteBuf;

use crate::config::is_plain;
use crate::model::{Name, readable};

/// Options of one letter that the receiving rsync may have: `--ignore-times`, `--sparse`, `--whole-file`, `--compress`.
const LETTERS: &[u8] = b"ISWz";
/// Options of a word.
const WORDS: &[&str] = &["--preallocate", "--fsync", "--old-compress", "--new-compress", "--no-whole-file", "--no-W"];
/// Options of a word and a value.
const VALUES: &[&str] = &[
    "--bwlimit",
    "--timeout",
    "--checksum-choice",
    "--checksum-seed",
    "--compress-choice",
    "--compress-level",
    "--skip-compress",
    "--block-size",
    "--max-alloc",
];
/// Seconds of silence between the two after which they give up.
const TIMEOUT: &str = "--timeout=300";

/// The options of the client, before what it sends and where to: psync's own, and those of the configuration.
pub fn client_options(words: &[String], has_holes: bool) -> Vec<OsString> {
    // What is sent is named by a link of /proc that leads to the open file. Whether to send it is decided.
    let mut options: Vec<OsString> = ["--copy-links", "--ignore-times", TIMEOUT].map(OsString::from).to_vec();
    if has_holes {
        options.push("--sparse".into());
    }
    options.extend(words.iter().map(OsString::from));
    options
}

/// The arguments of the server, from those that the client on the other side computed: `--server` and the options that are
/// allowed, then `basis`, a directory that may hold the old contents under that name, and the name in the directory that it
/// runs in. The error is what is not allowed.
pub fn server_arguments(computed: &[ByteBuf], basis: Option<&OsStr>, name: &Name) -> Result<Vec<OsString>, String> {
    let mut arguments: Vec<OsString> = vec!["--server".into()];
    let mut given = computed.iter().map(|word| word.as_slice());
    if given.next() != Some(b"--server") {
        return Err("`--server` is missing".to_owned());
    }
    for word in given.by_ref() {
        if word == b"." {
            break;
        }
        if !is_allowed(word) {
            return Err(format!("`{}`", readable(word)));
        }
        arguments.push(OsStr::from_bytes(word).to_owned());
    }
    if given.count() != 1 {
        return Err("more or less than one destination".to_owned());
    }
    if let Some(basis) = basis {
        arguments.push([OsStr::new("--copy-dest="), basis].into_iter().collect());
    }
    arguments.push(".".into());
    arguments.push([OsStr::new("./"), OsStr::from_bytes(name.as_bytes())].into_iter().collect());
    Ok(arguments)
}

fn is_allowed(word: &[u8]) -> bool {
    if let Some(letters) = word.strip_prefix(b"-").filter(|rest| !rest.starts_with(b"-")) {
        if let Some(number) = letters.strip_prefix(b"B") {
            return !number.is_empty() && number.iter().all(u8::is_ascii_digit);
        }
        // Behind the `e`, which names a shell to a client, are the protocol's version and the client's abilities.
        let cut = letters.iter().position(|letter| *letter == b'e').unwrap_or(letters.len());
        let (options, abilities) = letters.split_at(cut);
        let able = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'.';
        return options.iter().all(|letter| LETTERS.contains(letter)) && abilities.iter().all(able);
    }
    let Ok(word) = std::str::from_utf8(word) else { return false };
    match word.split_once('=') {
        Some((name, value)) => VALUES.contains(&name) && value.bytes().all(is_plain),
        None => WORDS.contains(&word),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(words: &[&str], basis: Option<&str>) -> Result<Vec<String>, String> {
        let words: Vec<ByteBuf> = words.iter().map(|word| ByteBuf::from(word.as_bytes())).collect();
        let name = Name::new(b"-n a").expect("a name");
        let arguments = server_arguments(&words, basis.map(OsStr::new), &name)?;
        Ok(arguments.into_iter().map(|word| word.into_string().expect("text")).collect())
    }

    #[test]
    fn only_options_about_contents_reach_the_server_and_no_path() {
        for (words, want) in [
            (&["--server", "-Ie.LsfxCIvu", ".", "x"][..], Ok("--server -Ie.LsfxCIvu . ./-n a")),
            (
                &["--server", "-ISze31.1LsfxCIvu", "--timeout=300", ".", "/etc/x"],
                Ok("--server -ISze31.1LsfxCIvu --timeout=300 . ./-n a"),
            ),
            (&["--server", "-Ie.iLsfxCIvu", "-B4096", ".", "."], Ok("--server -Ie.iLsfxCIvu -B4096 . ./-n a")),
            (
                &["--server", "--checksum-choice=md5", "--new-compress", ".", "x"],
                Ok("--server --checksum-choice=md5 --new-compress . ./-n a"),
            ),
            (&["--server", "--skip-compress=gz/jpg", ".", "x"], Ok("--server --skip-compress=gz/jpg . ./-n a")),
            (&[], Err("`--server` is missing")),
            (&["-Ie.x", ".", "x"], Err("`--server` is missing")),
            (&["--server", "--sender", "-Ie.x", ".", "x"], Err("`--sender`")),
            (&["--server", "--daemon", ".", "x"], Err("`--daemon`")),
            (&["--server", "--config=/etc/x", ".", "x"], Err("`--config=/etc/x`")),
            (&["--server", "-s", ".", "x"], Err("`-s`")),
            (&["--server", "-bIe.x", ".", "x"], Err("`-bIe.x`")),
            (&["--server", "-Ie.x /bin/sh", ".", "x"], Err("`-Ie.x /bin/sh`")),
            (&["--server", "-B4096/", ".", "x"], Err("`-B4096/`")),
            (&["--server", "--delete", ".", "x"], Err("`--delete`")),
            (&["--server", "--remove-source-files", ".", "x"], Err("`--remove-source-files`")),
            (&["--server", "--copy-dest=/root", ".", "x"], Err("`--copy-dest=/root`")),
            (&["--server", "--link-dest", "/root", ".", "x"], Err("`--link-dest`")),
            (&["--server", "--temp-dir=/tmp", ".", "x"], Err("`--temp-dir=/tmp`")),
            (&["--server", "--partial-dir=x", ".", "x"], Err("`--partial-dir=x`")),
            (&["--server", "--log-file=/x", ".", "x"], Err("`--log-file=/x`")),
            (&["--server", "--log-format=X", ".", "x"], Err("`--log-format=X`")),
            (&["--server", "--write-devices", ".", "x"], Err("`--write-devices`")),
            (&["--server", "--inplace", ".", "x"], Err("`--inplace`")),
            (&["--server", "--files-from=-", ".", "x"], Err("`--files-from=-`")),
            (&["--server", "--timeout=1 x", ".", "x"], Err("`--timeout=1 x`")),
            (&["--server", "--timeout", "1", ".", "x"], Err("`--timeout`")),
            (&["--server", "/etc", ".", "x"], Err("`/etc`")),
            (&["--server", "", ".", "x"], Err("``")),
            (&["--server", "--", ".", "x"], Err("`--`")),
            (&["--server", "-Ie.x", ".", "x", "y"], Err("more or less than one destination")),
            (&["--server", "-Ie.x", "."], Err("more or less than one destination")),
            (&["--server", "-Ie.x"], Err("more or less than one destination")),
        ] {
            assert_eq!(
                checked(words, None).map(|all| all.join(" ")),
                want.map(str::to_owned).map_err(str::to_owned),
                "{words:?}"
            );
        }
        let with_basis = checked(&["--server", "-Ie.x", ".", "x"], Some("/proc/self/fd/7")).expect("allowed");
        assert_eq!(with_basis, ["--server", "-Ie.x", "--copy-dest=/proc/self/fd/7", ".", "./-n a"]);
    }

    /// Each option that `rsync_extra` may hold, through the rsync that is installed: what it computes for its partner is
    /// allowed there.
    #[test]
    fn what_the_configuration_allows_the_other_side_takes() {
        let dir = tempfile::tempdir().expect("dir");
        let (shell, said) = (dir.path().join("shell"), dir.path().join("said"));
        std::fs::write(&shell, format!("#!/bin/sh\nshift 2\nprintf '%s\\n' \"$@\" > {}\n", said.display()))
            .expect("script");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&shell, mode).expect("chmod");
        for extra in [
            &[][..],
            &["-S", "--preallocate", "--fsync"],
            &["-z", "--compress-level=3", "--skip-compress=gz/jpg"],
            &["-zW"],
            &["--zc=lz4", "--cc=md5", "--checksum-seed=5"],
            &["--compress-choice=zstd", "--old-compress"],
            &["--new-compress", "-B", "4096"],
            &["--block-size=8192", "--timeout=7", "--max-alloc=2g"],
            &["--no-compress", "--no-whole-file"],
        ] {
            let rsync_extra = extra.iter().map(|word| (*word).to_owned()).collect();
            let settings = crate::config::Transport { rsync_extra, ..Default::default() };
            let words = crate::config::Extra::of(&settings).expect("allowed").words;
            let ran = std::process::Command::new("rsync")
                .args(client_options(&words, true))
                .arg("-e")
                .arg(&shell)
                .args(["/proc/self/exe", "psync:x"])
                .env("RSYNC_PROTECT_ARGS", "0")
                .output();
            let Ok(ran) = ran else {
                assert!(std::env::var_os("CI").is_none(), "rsync is missing");
                eprintln!("skipped: rsync is missing");
                return;
            };
            let computed = std::fs::read_to_string(&said);
            let computed = computed.unwrap_or_else(|_| panic!("{extra:?}: {}", String::from_utf8_lossy(&ran.stderr)));
            let computed: Vec<&str> = computed.lines().collect();
            assert!(checked(&computed, None).is_ok(), "{extra:?}: {computed:?}: {:?}", checked(&computed, None));
            std::fs::remove_file(&said).expect("said");
        }
    }
}
