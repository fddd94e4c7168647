//! `psync-generator`: run by systemd at boot and on each `daemon-reload`, it turns the files of all pairs into
//! drop-ins of their units, so that one file says it all.

mod dropins;

use std::env;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::config::{self, CONFIGURATION, why_no_pair};
use crate::service::journal::{self, Priority};
use crate::service::log::{PAIR, escape};
use dropins::{DropIn, drop_ins};

/// Between the units' own files and an administrator's `override.conf`.
const NAME: &str = "50-psync.conf";

/// What happened to one pair that an administrator should hear of.
#[derive(Debug, PartialEq, Eq)]
struct Complaint {
    pair: String,
    message: String,
}

/// The whole command. systemd gives three directories, of which the first is for units of normal priority.
pub fn main() -> ExitCode {
    let Some(directory) = env::args_os().nth(1) else {
        eprintln!("usage: psync-generator DIRECTORY, as systemd.generator(7) says");
        return ExitCode::FAILURE;
    };
    let mut failed = false;
    match generate(Path::new(CONFIGURATION), Path::new(&directory), tell) {
        Ok(()) => {}
        Err(e) => {
            tell(&Complaint { pair: String::new(), message: e.to_string() });
            failed = true;
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Writes the drop-ins of every pair in `configuration` into `directory`. What is wrong with one pair is told, and
/// hurts no other. An error: nothing more can be written.
fn generate(configuration: &Path, directory: &Path, mut tell: impl FnMut(&Complaint)) -> io::Result<()> {
    for (pair, file) in pairs(configuration)? {
        let mut complain = |message: String| tell(&Complaint { pair: pair.clone(), message });
        match read(&pair, &file, &mut complain) {
            Ok(made) => {
                for drop_in in made {
                    write(directory, &drop_in)?;
                }
            }
            Err(message) => complain(message),
        }
    }
    Ok(())
}

/// The pairs' files, by name. A directory that does not exist holds none.
fn pairs(configuration: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", configuration.display()));
    let entries = match fs::read_dir(configuration) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(named(e)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(named)?.path();
        // Anything else could block the boot when it is opened.
        if path.extension().is_some_and(|e| e == "toml") && path.is_file() {
            let pair = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
            found.push((pair, path));
        }
    }
    found.sort();
    Ok(found)
}

fn read(pair: &str, file: &Path, complain: &mut impl FnMut(String)) -> Result<Vec<DropIn>, String> {
    if let Some(why) = why_no_pair(pair) {
        return Err(format!("{}: `{pair}` is no name of a pair: {why}", file.display()));
    }
    let (settings, _) = config::load(file).map_err(|e| e.to_string())?;
    settings.check().map_err(|e| format!("{}: {e}", file.display()))?;
    Ok(drop_ins(pair, file, &settings, complain))
}

fn write(directory: &Path, drop_in: &DropIn) -> io::Result<()> {
    let below = directory.join(format!("{}.d", drop_in.unit));
    let path = below.join(NAME);
    fs::create_dir_all(&below)
        .and_then(|()| fs::write(&path, &drop_in.text))
        .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
}

/// To the kernel's log, which is there before the journal is; in a container to the journal. And to stderr.
fn tell(complaint: &Complaint) {
    let mut line = String::new();
    escape(&mut line, &complaint.message);
    let _ = writeln!(io::stderr(), "psync-generator: {line}");
    let kernel = OpenOptions::new().write(true).open("/dev/kmsg");
    let written = kernel.and_then(|mut k| k.write_all(format!("<4>psync-generator: {line}\n").as_bytes()));
    if written.is_err() {
        let _ = journal::send(Priority::Warning, "psync-generator", &[(PAIR, &complaint.pair)], &complaint.message);
    }
}

#[cfg(test)]
mod tests;
