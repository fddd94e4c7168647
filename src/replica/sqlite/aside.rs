//! A damaged archive is kept beside the new one, for whoever wants to look into it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// So many damaged archives are kept, the newest ones.
const KEPT: usize = 3;
/// Between the archive's name and the time.
const MARK: &str = ".damaged-";
/// What SQLite keeps beside a database.
const BESIDE: [&str; 3] = ["-wal", "-journal", "-shm"];

/// Renames the file to `NAME.damaged-SECONDS`, and what belongs to it alike. Nothing lies under its name afterwards.
pub fn keep(file: &Path) -> io::Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    // Later than all that are there: the names are in the order of time.
    let last = kept(file)?.pop().map_or(0, |(seconds, _)| seconds + 1);
    let aside = with(file, &format!("{MARK}{:010}", now.max(last)));
    // The database last: if this is interrupted, it is found damaged once more.
    for suffix in BESIDE {
        rename(&with(file, suffix), &with(&aside, suffix))?;
    }
    rename(file, &aside)?;
    forget_oldest(file)
}

/// The archives that are kept aside, the oldest first, with the seconds in their names.
fn kept(file: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let (Some(dir), Some(name)) = (file.parent(), file.file_name()) else { return Ok(Vec::new()) };
    let start = format!("{}{MARK}", name.to_string_lossy());
    let seconds = |name: &str| {
        let digits = name.strip_prefix(&start).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
        digits.parse::<u64>().ok()
    };
    let mut kept = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        if let Some(seconds) = name.to_str().and_then(seconds) {
            kept.push((seconds, dir.join(name)));
        }
    }
    kept.sort();
    Ok(kept)
}

fn with(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Renames what may not be there.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn forget_oldest(file: &Path) -> io::Result<()> {
    for (_, old) in kept(file)?.iter().rev().skip(KEPT) {
        for suffix in BESIDE.iter().chain(&[""]) {
            match fs::remove_file(with(old, suffix)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_kept_with_what_belongs_to_them() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("archive.db");
        for n in 0..5 {
            fs::write(&file, format!("{n}")).unwrap();
            fs::write(with(&file, "-wal"), format!("log {n}")).unwrap();
            keep(&file).unwrap();
            assert!(!file.exists() && !with(&file, "-wal").exists());
        }
        fs::write(dir.path().join("archive.db.damaged-by-hand"), "mine").unwrap();
        let mut texts: Vec<String> =
            fs::read_dir(dir.path()).unwrap().map(|e| fs::read_to_string(e.unwrap().path()).unwrap()).collect();
        texts.sort();
        assert_eq!(texts, ["2", "3", "4", "log 2", "log 3", "log 4", "mine"]);
    }
}
