//! An administrator's pause. It outlives the process: a reboot in the middle of a maintenance does not end that.
//!
//! The file `ROOT/.psync/PAIR/paused` on the left holds since when, in seconds since 1970. While the left side is not open the
//! pause is kept in mind, and written as soon as it is.

use std::io::{self, Read, Write};

use super::Brain;
use super::desk::Answer;
use super::sides::Left;
use super::status::wall;
use crate::replica::real::OwnDir;

const FILE: &str = "paused";

/// Whether the pair is paused, as far as is known.
#[derive(Debug, Default)]
pub(super) struct Pause {
    on: bool,
    /// What was asked before the left side was open, and is still to be written.
    unwritten: bool,
}

/// Since when it lasts, by its file; `None`: there is none.
fn read(own: &OwnDir) -> io::Result<Option<u64>> {
    if !own.has(FILE) {
        return Ok(None);
    }
    let mut text = String::new();
    // Whatever it holds, it is there.
    own.open(FILE)?.take(64).read_to_string(&mut text)?;
    Ok(Some(text.trim().parse().unwrap_or_else(|_| wall())))
}

fn write(own: &OwnDir, since: Option<u64>) -> io::Result<()> {
    match since {
        Some(since) => {
            let new = "paused.new";
            let mut file = own.replace(new)?;
            writeln!(file, "{since}")?;
            file.sync_all()?;
            drop(file);
            own.rename(new, FILE)
        }
        None => own.remove(FILE),
    }
}

impl Brain<'_> {
    pub(super) fn is_paused(&self) -> bool {
        self.paused.on
    }

    /// Begins or ends a pause, by an administrator's word.
    pub(super) fn pause(&mut self, on: bool, left: Option<&Left>) -> Answer {
        self.paused = Pause { on, unwritten: true };
        let now = wall();
        self.desk.know(|facts, status| {
            facts.paused = on;
            if on {
                status.paused.get_or_insert(now);
            }
        });
        let said = if on { "paused" } else { "resumed" };
        match left.map(|left| self.write_pause(left)) {
            Some(Err(error)) => {
                let text = format!("{said}, but a restart will not know of it: {FILE}: {error}");
                self.monitor.warning(&text);
                Ok(text)
            }
            _ => Ok(said.to_owned()),
        }
    }

    fn write_pause(&mut self, left: &Left) -> io::Result<()> {
        self.paused.unwritten = false;
        // An ad hoc run ends before anybody could resume it; a dry run writes nothing.
        let Some(own) = left.own_dir().filter(|_| self.job.persistent) else { return Ok(()) };
        let since = self.desk.read(|status| status.paused).filter(|_| self.paused.on);
        write(&own, since)
    }

    /// The left side is open: a pause of an earlier run goes on, and one of this run is written.
    pub(super) fn keep_pause(&mut self, left: &Left) {
        let Some(own) = left.own_dir().filter(|_| self.job.persistent) else { return };
        let kept = match self.paused.unwritten {
            true => self.write_pause(left),
            false if self.paused.on => Ok(()),
            false => read(&own).map(|since| {
                let Some(since) = since else { return };
                self.paused.on = true;
                self.desk.know(|facts, status| (facts.paused, status.paused) = (true, Some(since)));
                let when = crate::service::log::utc(since);
                self.monitor.note(&format!(
                    "paused since {when}, before this start (`psync resume {}` goes on)",
                    self.job.pair
                ));
            }),
        };
        if let Err(error) = kept {
            self.monitor.warning(&format!("whether the pair is paused: {FILE}: {error}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::real::Owned;

    #[test]
    fn the_file_says_since_when() {
        let root = tempfile::tempdir().expect("root");
        std::fs::create_dir_all(root.path().join(".psync/p")).expect("own directory");
        let own = OwnDir::find_at(root.path(), "p", Owned::Mine).expect("own directory");
        assert_eq!(read(&own).expect("none"), None);
        write(&own, None).expect("nothing to remove");
        write(&own, Some(1_700_000_000)).expect("written");
        write(&own, Some(1_700_000_001)).expect("written again");
        assert_eq!(read(&own).expect("there"), Some(1_700_000_001));
        std::fs::write(root.path().join(".psync/p/paused"), "").expect("emptied");
        assert!(read(&own).expect("there").is_some(), "a full disk does not end a pause");
        write(&own, None).expect("removed");
        assert_eq!(read(&own).expect("none"), None);
    }
}
