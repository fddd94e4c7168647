//! What was propagated, an event a line, in a file beside the left side's archive (decision 0045).
//!
//! Two files of bounded size, `events` and the one before it, `events.1`. They are for people: nothing is decided by
//! them, and what cannot be written is lost, which is told once.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::replica::real::{OwnDir, Owned};

/// A file of so many bytes is put aside.
const FULL: u64 = 8 * 1024 * 1024;
/// A line is at most so long: two paths, escaped.
const LINE_MAX: u64 = 64 * 1024;

/// One propagated change, or a conflict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Seconds since 1970.
    pub when: u64,
    /// Where the change came from, `L` or `R`; of a conflict the side whose version lost.
    pub side: String,
    /// `RSYNC`, `MOVE`, `DELETE`, `META` or `CONFLICT`.
    pub method: String,
    /// Five hex digits, as in the log of both hosts.
    pub id: String,
    pub path: String,
    /// Where a moved object was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// What a conflict's loser is called now; `None`: it lies in the trash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy: Option<String>,
    /// It is kept, and under which name was not heard.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub untold: bool,
    /// Contents that were placed.
    #[serde(default)]
    pub bytes: u64,
}

/// The file, and the one before it, in the pair's own directory.
const FILE: &str = "events";
const BEFORE: &str = "events.1";

/// Where the events of a pair with this left root are, for messages.
pub fn events_of(root: &Path, pair: &str) -> PathBuf {
    root.join(".psync").join(pair).join(FILE)
}

/// The writer.
#[derive(Debug, Default)]
pub struct Events {
    own: Option<OwnDir>,
    file: Option<(File, u64)>,
    full: Option<u64>,
}

impl Events {
    /// From now on events go into this directory, which the left side has open.
    pub fn write_to(&mut self, own: Option<OwnDir>) {
        (self.own, self.file) = (own, None);
    }

    /// Adds an event. The file is opened when the first one comes, and again after an error.
    pub fn add(&mut self, event: &Event) -> io::Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        let written = self.write(&line);
        if written.is_err() {
            self.file = None;
        }
        written
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let own = self.own.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        let full = self.full.unwrap_or(FULL);
        if self.file.as_ref().is_some_and(|(_, size)| size + line.len() as u64 > full) {
            self.file = None;
            own.rename(FILE, BEFORE)?;
        }
        let (file, size) = match &mut self.file {
            Some(open) => open,
            None => {
                let file = own.append(FILE)?;
                let size = file.metadata()?.len();
                self.file.insert((file, size))
            }
        };
        file.write_all(line)?;
        *size += line.len() as u64;
        Ok(())
    }
}

/// The reader: all that is kept, and then what comes.
#[derive(Debug)]
pub struct Reader {
    root: PathBuf,
    pair: String,
    lines: Lines,
}

/// One of the files, as far as it was read.
#[derive(Debug)]
struct Lines {
    file: Option<BufReader<File>>,
    /// A line that has no end yet.
    part: Vec<u8>,
}

impl Reader {
    /// The kept events of the pair with this left root, the oldest first, and a reader that goes on behind them. No file is
    /// no event.
    pub fn open(root: &Path, pair: &str) -> io::Result<(Vec<Event>, Reader)> {
        let mut events = Vec::new();
        // Opened first: what is put aside meanwhile is read twice rather than not at all.
        let lines = Lines { file: open(root, pair, FILE)?, part: Vec::new() };
        let mut reader = Reader { root: root.to_path_buf(), pair: pair.to_owned(), lines };
        if let Some(old) = open(root, pair, BEFORE)? {
            Lines { file: Some(old), part: Vec::new() }.read(&mut events)?;
        }
        reader.lines.read(&mut events)?;
        events.dedup();
        Ok((events, reader))
    }

    /// What came since.
    pub fn more(&mut self) -> io::Result<Vec<Event>> {
        let mut events = Vec::new();
        self.lines.read(&mut events)?;
        let id = |file: &File| file.metadata().map(|m| (m.dev(), m.ino()));
        let now = open(&self.root, &self.pair, FILE)?;
        let moved = match (&self.lines.file, &now) {
            (Some(old), Some(new)) => id(old.get_ref())? != id(new.get_ref())?,
            (None, Some(_)) => true,
            (_, None) => false,
        };
        if moved {
            // What was added before it was put aside.
            self.lines.read(&mut events)?;
            self.lines = Lines { file: now, part: Vec::new() };
            self.lines.read(&mut events)?;
        }
        Ok(events)
    }
}

impl Lines {
    fn read(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        // A cut short file begins anew.
        if file.get_ref().metadata()?.len() < file.stream_position()? {
            file.seek(SeekFrom::Start(0))?;
            self.part.clear();
        }
        loop {
            let room = LINE_MAX.saturating_sub(self.part.len() as u64);
            let count = file.by_ref().take(room.max(1)).read_until(b'\n', &mut self.part)?;
            if count == 0 {
                return Ok(());
            }
            if self.part.last() != Some(&b'\n') {
                // Not yet whole, or no line of ours.
                if self.part.len() as u64 > LINE_MAX {
                    self.part.clear();
                }
                continue;
            }
            // A line that a crash cut, or that another version wrote, is passed over.
            events.extend(serde_json::from_slice::<Event>(&self.part));
            self.part.clear();
        }
    }
}

fn open(root: &Path, pair: &str, name: &str) -> io::Result<Option<BufReader<File>>> {
    match OwnDir::find_at(root, pair, Owned::Any).and_then(|own| own.open(name)) {
        Ok(file) => Ok(Some(BufReader::new(file))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// One path that was changed on both sides within so many seconds: the two events, the later one second.
pub fn double_edits(events: &[Event], gap: u64) -> Vec<(&Event, &Event)> {
    let mut last = std::collections::HashMap::<&str, &Event>::new();
    let mut found = Vec::new();
    for event in events.iter().filter(|event| event.method == "RSYNC") {
        if let Some(earlier) = last.insert(&event.path, event)
            && earlier.side != event.side
            && event.when.abs_diff(earlier.when) <= gap
        {
            found.push((earlier, event));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;

    fn writer(root: &Path) -> Events {
        let mut writer = Events::default();
        writer.write_to(Some(OwnDir::find_at(root, "p", Owned::Mine).expect("psync's own")));
        writer
    }

    fn event(when: u64, side: &str, method: &str, path: &str) -> Event {
        Event {
            when,
            side: side.into(),
            method: method.into(),
            id: "0000a".into(),
            path: path.into(),
            from: None,
            copy: None,
            untold: false,
            bytes: 1,
        }
    }

    #[test]
    fn what_was_written_is_read_in_order_and_then_what_comes() {
        let dir = tempfile::tempdir().expect("a directory");
        let own = dir.path().join(".psync/p");
        std::fs::create_dir_all(&own).expect("made");
        let path = own.join("events");
        let (none, _) = Reader::open(dir.path(), "p").expect("no file is no error");
        assert_eq!(none, []);
        let mut writer = writer(dir.path());
        writer.full = Some(2000);
        let all: Vec<Event> = (0..60).map(|n| event(n, "L", "RSYNC", &format!("file {n}"))).collect();
        all[..10].iter().for_each(|event| writer.add(event).expect("written"));
        let (kept, mut reader) = Reader::open(dir.path(), "p").expect("read");
        assert_eq!(kept, all[..10]);
        let mut followed = Vec::new();
        for event in &all[10..] {
            writer.add(event).expect("written");
            followed.extend(reader.more().expect("read"));
        }
        assert_eq!(followed, all[10..], "over the change of files");
        assert!(path.metadata().expect("there").len() <= 2000 && own.join(BEFORE).exists());
        // Bounded: of what is older nothing is kept.
        let (kept, _) = Reader::open(dir.path(), "p").expect("read");
        assert!(kept.len() < 60 && all.ends_with(&kept), "{}", kept.len());
    }

    #[test]
    fn what_is_no_event_is_passed_over() {
        let dir = tempfile::tempdir().expect("a directory");
        let own = dir.path().join(".psync/p");
        std::fs::create_dir_all(&own).expect("made");
        let path = own.join("events");
        let mut writer = writer(dir.path());
        writer.add(&event(1, "L", "RSYNC", "one")).expect("written");
        let mut file = OpenOptions::new().append(true).open(&path).expect("open");
        file.write_all(b"{\"when\":1,\"si\n\nnonsense\n").expect("written");
        file.write_all(&vec![b'x'; 3 * LINE_MAX as usize]).expect("written");
        file.write_all(b"\n").expect("written");
        writer.add(&event(2, "R", "MOVE", "two")).expect("written");
        let (kept, mut reader) = Reader::open(dir.path(), "p").expect("read");
        assert_eq!(kept, [event(1, "L", "RSYNC", "one"), event(2, "R", "MOVE", "two")]);
        // A line that is being written.
        file.write_all(b"{\"when\":3,\"side\":\"L\",\"method\":\"META\",").expect("written");
        assert_eq!(reader.more().expect("read"), []);
        file.write_all(b"\"id\":\"0000a\",\"path\":\"three\",\"bytes\":1}\n").expect("written");
        assert_eq!(reader.more().expect("read"), [event(3, "L", "META", "three")]);
    }

    #[test]
    fn a_path_that_both_sides_changed_within_the_gap() {
        let events = [
            event(0, "L", "RSYNC", "a"),
            event(10, "L", "RSYNC", "a"),
            event(20, "R", "RSYNC", "b"),
            event(500, "R", "RSYNC", "a"),
            event(600, "L", "META", "b"),
            event(700, "L", "RSYNC", "b"),
        ];
        let paths = |gap| double_edits(&events, gap).iter().map(|(_, event)| event.path.clone()).collect::<Vec<_>>();
        assert_eq!(paths(900), ["a", "b"]);
        assert_eq!(paths(490), ["a"]);
        assert_eq!(paths(100), [""; 0]);
    }
}
