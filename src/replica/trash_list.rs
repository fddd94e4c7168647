//! The list of what lies in the trash, in a file beside the archive: for whoever looks while psync runs, since the archive
//! is held by one process alone. It follows the archive, and is made anew from it whenever that is opened.
//!
//! A record is `ID TAB SINCE TAB SIZE TAB REASON TAB PATH NUL`; of two with one ID the later counts. Control characters and
//! backslashes are written as `\xNN`, so that no name makes a line or a record of its own. What has left the trash may still
//! be listed: whoever reads it looks for the object.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use crate::model::{Name, RelPath};

use super::archive::TrashItem;
use super::real::OwnDir;

/// Its name in the pair's own directory.
pub const FILE: &str = "trash.list";
/// What it is made anew under.
const NEW: &str = "trash.new";

/// Records that are written before the file is made anew, beside twice those that it had then.
const SLACK: usize = 10_000;

/// Commits between two tries to write it on a disk that has no room for it: the whole list is read for each.
const REST: u32 = 64;

/// What the list says of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub path: RelPath,
    pub since: i64,
    pub size: u64,
    pub reason: String,
}

/// Reads the file's records; one that was cut off is left out.
pub fn read(bytes: &[u8]) -> BTreeMap<Name, Listed> {
    let whole = bytes.iter().rposition(|b| *b == 0).map_or(&bytes[..0], |end| &bytes[..end]);
    whole.split(|b| *b == 0).filter_map(parse).collect()
}

fn parse(record: &[u8]) -> Option<(Name, Listed)> {
    let mut fields = record.splitn(5, |b| *b == b'\t');
    let mut text = || fields.next().and_then(|field| std::str::from_utf8(field).ok());
    let (id, since, size, reason) = (text()?, text()?.parse().ok()?, text()?.parse().ok()?, text()?.to_owned());
    let path = RelPath::new(&plain(fields.next()?)).ok()?;
    Some((Name::new(id.as_bytes()).ok()?, Listed { path, since, size, reason }))
}

fn record(item: &TrashItem, to: &mut Vec<u8>) {
    let TrashItem { id, path, since, size, reason, .. } = item;
    to.extend_from_slice(id.as_bytes());
    to.extend_from_slice(format!("\t{since}\t{size}\t{}\t", reason.replace(char::is_control, " ")).as_bytes());
    for byte in path.as_bytes() {
        match byte {
            0..0x20 | 0x7f | b'\\' => to.extend_from_slice(format!("\\x{byte:02x}").as_bytes()),
            byte => to.push(*byte),
        }
    }
    to.push(0);
}

/// The bytes that were written like that.
fn plain(written: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(written.len());
    let mut rest = written;
    while let Some((first, more)) = rest.split_first() {
        let escaped = || {
            let digits = rest.strip_prefix(b"\\x")?.get(..2)?;
            u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
        };
        match escaped() {
            Some(byte) => {
                bytes.push(byte);
                rest = &rest[4..];
            }
            None => {
                bytes.push(*first);
                rest = more;
            }
        }
    }
    bytes
}

/// Whether the file's records, which are whole, are these items and nothing else.
fn says(bytes: &[u8], items: &[TrashItem]) -> bool {
    let listed = |item: &TrashItem| {
        let TrashItem { id, path, since, size, reason, .. } = item.clone();
        (id, Listed { path, since, size, reason })
    };
    bytes.last().is_none_or(|last| *last == 0) && read(bytes) == items.iter().map(listed).collect()
}

/// The file, as the archive writes it. What cannot be written is no failure: the archive knows, and the next opening
/// makes the file anew.
#[derive(Debug)]
pub struct TrashList {
    own: OwnDir,
    /// Records of the transaction under way.
    pending: Vec<u8>,
    pending_count: usize,
    /// Records in the file.
    count: usize,
    /// So many, and it is made anew; 0: at once.
    full_at: usize,
    /// It could not be written: so many commits go by before the next try.
    rest: u32,
}

impl TrashList {
    /// The list beside the archive, brought up to date. Without a file there is nothing to list.
    pub fn beside(own: OwnDir, items: &[TrashItem]) -> TrashList {
        let mut list = TrashList { own, pending: Vec::new(), pending_count: 0, count: 0, full_at: 0, rest: 0 };
        let mut there = Vec::new();
        if list.own.open(FILE).and_then(|mut file| file.read_to_end(&mut there)).is_err() {
            there.clear();
        }
        match says(&there, items) {
            // A dry run, too, must find nothing changed.
            true => (list.count, list.full_at) = (there.iter().filter(|b| **b == 0).count(), 2 * items.len() + SLACK),
            false => list.renew(items),
        }
        list
    }

    pub fn add(&mut self, item: &TrashItem) {
        record(item, &mut self.pending);
        self.pending_count += 1;
    }

    /// Writes what the transaction brought, after its commit.
    pub fn flush(&mut self, all: impl FnOnce() -> Vec<TrashItem>) {
        if self.pending_count == 0 {
            return;
        }
        if self.rest > 0 {
            self.rest -= 1;
            (self.pending_count, self.full_at) = (0, 0);
            return self.pending.clear();
        }
        let count = self.count + self.pending_count;
        let appended = count <= self.full_at && self.append().is_ok();
        self.pending.clear();
        (self.count, self.pending_count) = (count, 0);
        if !appended {
            self.renew(&all());
        }
    }

    fn append(&self) -> io::Result<()> {
        if !self.own.has(FILE) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.own.append(FILE)?.write_all(&self.pending)
    }

    fn renew(&mut self, items: &[TrashItem]) {
        let mut bytes = Vec::new();
        items.iter().for_each(|item| record(item, &mut bytes));
        self.count = items.len();
        let made = self.replace(&bytes).is_ok();
        self.full_at = if made { 2 * items.len() + SLACK } else { 0 };
        self.rest = if made { 0 } else { REST };
    }

    fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        self.own.replace(NEW)?.write_all(bytes)?;
        self.own.rename(NEW, FILE)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn item(id: &str, path: &[u8], since: i64) -> TrashItem {
        let (id, path) = (Name::new(id.as_bytes()).unwrap(), RelPath::new(path).unwrap());
        TrashItem { id, path, since, size: 7, reason: "late write".into(), stamp: None, look: false }
    }

    #[test]
    fn what_is_written_is_read_whatever_the_names_are() {
        let dir = tempfile::tempdir().unwrap();
        let own = OwnDir::alone(dir.path()).unwrap();
        let first = [item("1-1-1", b"a\tb\n\xff/c d\\x41\\\\", 5), item("1-2-1", b"", 6)];
        let mut list = TrashList::beside(own.clone(), &first);
        let there = || read(&fs::read(dir.path().join(FILE)).unwrap());
        assert_eq!(there().len(), 2);
        assert_eq!(there()[&first[0].id].path, first[0].path);
        let later = item("1-3-1", b"x", 9);
        list.add(&later);
        list.add(&item("1-1-1", b"y", 5));
        assert_eq!(there().len(), 2, "not before the commit");
        list.flush(|| panic!("it is appended"));
        assert_eq!(
            there()[&later.id],
            Listed { path: later.path.clone(), since: 9, size: 7, reason: "late write".into() }
        );
        assert_eq!(there()[&first[0].id].path.as_bytes(), b"y");
        // Opened again it is left as it is, unless it says something else.
        let before = fs::read(dir.path().join(FILE)).unwrap();
        let now = [item("1-1-1", b"y", 5), first[1].clone(), later.clone()];
        TrashList::beside(own.clone(), &now);
        assert_eq!(fs::read(dir.path().join(FILE)).unwrap(), before);
        TrashList::beside(own.clone(), &now[1..]);
        assert_eq!(there().len(), 2);
        TrashList::beside(own.clone(), &now);
        // A record that was cut off, and garbage, are passed over.
        let mut bytes = fs::read(dir.path().join(FILE)).unwrap();
        bytes.extend_from_slice(b"rubbish\0\0\t\t\0");
        bytes.extend_from_slice(b"1-4-1\t1\t1\tdeleted\tcut of");
        assert_eq!(read(&bytes), there());
        assert!(read(b"").is_empty() && read(b"no end").is_empty());
    }

    #[test]
    fn what_could_not_be_written_is_written_later() {
        let dir = tempfile::tempdir().unwrap();
        // A directory has the name of the new file: nothing can be written in its place.
        fs::create_dir_all(dir.path().join(NEW)).unwrap();
        let mut list = TrashList::beside(OwnDir::alone(dir.path()).unwrap(), &[]);
        let one = item("1-1-1", b"x", 5);
        let mut asked = 0;
        list.full_at = 0;
        for _ in 0..REST + 1 {
            list.add(&one);
            list.flush(|| {
                asked += 1;
                vec![one.clone()]
            });
        }
        assert_eq!(asked, 1, "the list is not read for each commit");
        fs::remove_dir(dir.path().join(NEW)).unwrap();
        list.add(&one);
        list.flush(|| vec![one.clone(), item("2-1-1", b"z", 6)]);
        assert_eq!(read(&fs::read(dir.path().join(FILE)).unwrap()).len(), 2);
    }

    #[test]
    fn nothing_of_others_is_written_to_and_no_name_makes_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        let forged = item("1-1-1", b"x\nhacker::0:0::/:/bin/sh\n1-2-2\t1\t1\tdeleted\tgone\r", 5);
        for planted in ["a link", "another name"] {
            fs::write(&victim, "root:x:0:0\n").unwrap();
            for name in [FILE, NEW] {
                let _ = fs::remove_file(dir.path().join(name));
                match planted {
                    "a link" => std::os::unix::fs::symlink(&victim, dir.path().join(name)).unwrap(),
                    _ => fs::hard_link(&victim, dir.path().join(name)).unwrap(),
                }
            }
            let mut list = TrashList::beside(OwnDir::alone(dir.path()).unwrap(), &[]);
            for _ in 0..3 {
                list.add(&forged);
                list.flush(|| vec![forged.clone()]);
            }
            assert_eq!(fs::read(&victim).unwrap(), b"root:x:0:0\n", "{planted}");
            let bytes = fs::read(dir.path().join(FILE)).unwrap();
            assert!(!bytes.contains(&b'\n') && !bytes.contains(&b'\r'), "{planted}");
            assert_eq!(read(&bytes)[&forged.id].path, forged.path, "{planted}");
        }
    }

    #[test]
    fn it_does_not_grow_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let mut list = TrashList::beside(OwnDir::alone(dir.path()).unwrap(), &[]);
        let one = item("1-1-1", b"x", 5);
        for _ in 0..SLACK + 3 {
            list.add(&one);
            list.flush(|| vec![one.clone()]);
        }
        assert_eq!(fs::read(dir.path().join(FILE)).unwrap().iter().filter(|b| **b == 0).count(), 1);
        // What could not be written is written with the next.
        fs::remove_file(dir.path().join(FILE)).unwrap();
        list.add(&one);
        list.flush(|| vec![one.clone(), item("2-1-1", b"z", 6)]);
        assert_eq!(read(&fs::read(dir.path().join(FILE)).unwrap()).len(), 2);
    }
}
