//! Programs that some scenarios need.

use std::path::Path;
use std::process::{Command, Stdio};

/// Whether the program is there. On the build server a missing one is a failure; elsewhere the test is skipped,
/// with a line that says so.
pub fn has(program: &str) -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|directory| directory.join(program).exists()));
    if !found {
        missing(program);
    }
    found
}

/// Says that a test cannot run here for want of `what`.
pub fn missing(what: &str) {
    assert!(std::env::var_os("CI").is_none(), "{what} is missing, and no test may be skipped here");
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    eprintln!("skipped: {test} needs {what}");
}

/// Runs a program in a directory; it must succeed. Returns what it printed.
pub fn run(directory: &Path, program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(directory).stdin(Stdio::null());
    for (name, value) in GIT {
        command.env(name, value);
    }
    let output = command.output().unwrap_or_else(|e| panic!("{program}: {e}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?} in {directory:?}: {}\n{text}{errors}", output.status);
    text
}

/// Copies a program that is to be run. Another process writes it: a child that another test starts meanwhile would inherit
/// the descriptor of ours, and what is open for writing cannot be run.
pub fn copy_program(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    let status = Command::new("cp").arg(from.as_ref()).arg(to.as_ref()).status();
    assert!(status.is_ok_and(|status| status.success()), "cp {:?} {:?}", from.as_ref(), to.as_ref());
}

/// A git that knows nothing of this machine.
const GIT: [(&str, &str); 9] = [
    ("HOME", "/nonexistent"),
    ("GIT_CONFIG_NOSYSTEM", "1"),
    ("GIT_CONFIG_GLOBAL", "/dev/null"),
    ("GIT_AUTHOR_NAME", "A"),
    ("GIT_AUTHOR_EMAIL", "a@example.org"),
    ("GIT_COMMITTER_NAME", "A"),
    ("GIT_COMMITTER_EMAIL", "a@example.org"),
    ("GIT_MERGE_AUTOEDIT", "no"),
    ("LC_ALL", "C"),
];
