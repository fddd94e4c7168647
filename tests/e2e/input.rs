//! Bad input: one clear line that names it, the right exit code, and nothing touched.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::users::*;
use crate::support::{Pair, once, process, tools};

/// A place with what the cases need in it.
fn place() -> tempfile::TempDir {
    let place = tempfile::Builder::new().prefix("psync-e2e-").tempdir().unwrap();
    for name in ["left/sub", "right", "other"] {
        mkdirs(place.path().join(name));
    }
    write(place.path().join("left/file"), "left\n");
    write(place.path().join("plain"), "no directory\n");
    symlink("left", place.path().join("link-to-left"));
    symlink("nowhere", place.path().join("dangling"));
    place
}

/// The arguments, and what the line must name. A `@` at the start of an argument is the place.
const CASES: &[(&str, &[&str], &[&str])] = &[
    ("no left root", &["@/none", "@/right"], &["@/none"]),
    ("no right root", &["@/left", "@/none"], &["@/none"]),
    ("a dangling link", &["@/dangling", "@/right"], &["@/dangling"]),
    ("the right inside the left", &["@/left", "@/left/sub"], &["@/left/sub", "inside"]),
    ("the left inside the right", &["@/left/sub", "@/left"], &["@/left/sub", "inside"]),
    ("inside, and still to be made", &["--create-roots", "@/left", "@/left/new"], &["@/left/new", "inside"]),
    ("inside through a link", &["@/link-to-left/sub", "@/left"], &["sub", "inside"]),
    ("equal roots", &["@/left", "@/left"], &["@/left"]),
    ("equal roots, written otherwise", &["@/left", "@/right/../left/"], &["left"]),
    ("equal roots, through a link", &["@/left", "@/link-to-left"], &["left"]),
    ("a file for a left root", &["@/plain", "@/right"], &["@/plain", "director"]),
    ("a file for a right root", &["@/left", "@/plain"], &["@/plain", "director"]),
    ("a file on the way", &["--create-roots", "@/left", "@/plain/sub"], &["@/plain"]),
    ("a bad regex to exclude", &["-e", "a(b", "@/left", "@/right"], &["a(b"]),
    ("a bad regex of temporaries", &["-t", "[z-a]", "@/left", "@/right"], &["[z-a]"]),
    ("an unknown option", &["--frobnicate", "@/left", "@/right"], &["--frobnicate"]),
    ("an unknown short option", &["-Q", "@/left", "@/right"], &["-Q"]),
    ("a bad level", &["-d", "9", "@/left", "@/right"], &["9"]),
    ("a level that is no number", &["-d", "much", "@/left", "@/right"], &["much"]),
    ("a bad translation", &["-T", "nonsense", "@/left", "@/right"], &["nonsense"]),
    ("a bad pair name", &["--pair", "a/b", "@/left", "@/right"], &["a/b"]),
    ("a pair name that climbs", &["--pair", "..", "@/left", "@/right"], &[".."]),
    ("an option without its value", &["@/left", "@/right", "--pair"], &["--pair"]),
    ("one root only", &["@/left"], &["DST"]),
    ("three roots", &["@/left", "@/right", "@/other"], &["@/other"]),
    ("an empty root", &["", "@/right"], &[""]),
];

/// Everything below the place, psync's own directories included.
fn listing(place: &Path) -> Vec<PathBuf> {
    let text = tools::run(place, "find", &[".", "-printf", "%p %y %m %T@ %s\n"]);
    let mut lines: Vec<_> = text.lines().map(PathBuf::from).collect();
    lines.sort();
    lines
}

/// What is wrong with a refusal; empty if nothing.
fn flaws(code: i32, stderr: &str, stdout: &str, wanted: &[String]) -> String {
    let mut flaws = String::new();
    let lines = stderr.lines().filter(|line| !line.trim().is_empty()).count();
    if code != 1 {
        flaws += &format!("  exit code {code}, not 1\n");
    }
    if lines != 1 {
        flaws += &format!("  {lines} lines, not one\n");
    }
    if !stdout.is_empty() {
        flaws += "  something on stdout\n";
    }
    for name in wanted.iter().filter(|name| !stderr.contains(name.as_str())) {
        flaws += &format!("  does not name {name:?}\n");
    }
    if flaws.is_empty() { flaws } else { format!("{flaws}  stderr: {stderr}") }
}

#[test]
fn bad_input_is_refused_in_one_line() {
    let mut wrong = String::new();
    for (what, arguments, names) in CASES {
        let place = place();
        let at = place.path().to_str().unwrap();
        let fill = |text: &&str| text.strip_prefix('@').map_or(text.to_string(), |rest| format!("{at}{rest}"));
        let arguments: Vec<String> = arguments.iter().map(fill).collect();
        let before = listing(place.path());
        let once = once(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        let names: Vec<String> = names.iter().map(fill).collect();
        let mut flaws = flaws(once.code(), &once.stderr, &once.stdout, &names);
        if listing(place.path()) != before {
            flaws += "  something was touched\n";
        }
        if !flaws.is_empty() {
            wrong += &format!("{what}: {arguments:?}\n{flaws}\n");
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// A copy of the program where everybody may run it, and a command that runs it as nobody.
fn as_nobody(place: &Path, arguments: &[&str]) -> Command {
    let program = place.join("psync");
    tools::copy_program(env!("CARGO_BIN_EXE_psync"), &program);
    chmod(place, 0o755);
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program).args(arguments);
    command
}

#[test]
fn an_unreadable_root_is_refused() {
    if process::is_root() && !tools::has("setpriv") {
        return;
    }
    for which in ["left", "right"] {
        let place = place();
        let [left, right] = ["left", "right"].map(|side| place.path().join(side));
        let arguments = ["-s", left.to_str().unwrap(), right.to_str().unwrap()];
        let closed = place.path().join(which);
        let run = if process::is_root() {
            let command = as_nobody(place.path(), &arguments);
            for root in [&left, &right] {
                chown(root, 65534, 65534);
            }
            chown(&closed, 0, 0);
            chmod(&closed, 0o700);
            crate::support::run_to_end(command)
        } else {
            chmod(&closed, 0);
            once(&arguments)
        };
        std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).unwrap();
        let flaws = flaws(run.code(), &run.stderr, &run.stdout, &[closed.to_str().unwrap().to_owned()]);
        assert!(flaws.is_empty(), "{which}:\n{flaws}");
        for root in [&left, &right] {
            assert!(!root.join(".psync").exists(), "{root:?} was touched");
        }
    }
}

#[test]
fn without_root_it_works_on_what_is_ones_own() {
    if !process::is_root() || !tools::has("setpriv") {
        return;
    }
    let place = place();
    let [left, right] = ["left", "right"].map(|side| place.path().join(side));
    let arguments = ["-s", left.to_str().unwrap(), right.to_str().unwrap()];
    let command = as_nobody(place.path(), &arguments);
    write(left.join("mine"), "mine\n");
    for path in [&left, &right, &left.join("mine"), &left.join("sub"), &left.join("file")] {
        chown(path, 65534, 65534);
    }
    // A file that cannot be read and one whose owner cannot be set are problems of their own.
    write(left.join("foreign"), "root's, readable\n");
    write(left.join("closed"), "root's\n");
    chmod(left.join("closed"), 0o600);
    let run = crate::support::run_to_end(command);
    // Done, with problems left.
    assert_eq!(run.code(), 8, "{}", run.stderr);
    assert_eq!(read(right.join("mine")), "mine\n");
    assert_eq!(read(right.join("foreign")), "root's, readable\n");
    assert!(!right.join("closed").exists());
    assert!(run.stderr.contains("closed"), "an unreadable file is not told of: {}", run.stderr);
}

#[test]
fn help_and_version_say_what_they_are() {
    for option in ["--help", "--version"] {
        let run = once(&[option]);
        assert_eq!(run.code(), 0, "{}", run.stderr);
        assert!(run.stdout.contains("psync"), "{}", run.stdout);
    }
}

#[test]
fn a_second_psync_on_the_same_pair_is_refused() {
    let mut pair = Pair::start(&[]);
    write(pair.left.join("file"), "text\n");
    pair.settle();
    let second = pair.sync_once();
    assert_ne!(second.code(), 0, "two at once: {}", second.stderr);
    assert!(!second.stderr.trim().is_empty());
    write(pair.right.join("file"), "the first goes on\n");
    pair.settle();
    pair.stop();
}

#[test]
fn a_banned_program_ends_it() {
    let mut pair = Pair::new();
    let sleeper = pair.beside("bannedprog");
    tools::copy_program("/bin/sleep", &sleeper);
    write(pair.left.join("file"), "text\n");
    let mut running = Command::new(&sleeper).arg("100").spawn().unwrap();
    let once = pair.sync_with(&["-b", "bannedprog"]);
    let _ = running.kill();
    let _ = running.wait();
    assert_eq!(once.code(), 6, "{}", once.stderr);
    assert!(once.stderr.contains("bannedprog"), "{}", once.stderr);
    assert!(!pair.right.join("file").exists());
    assert!(!pair.is_running());
}
