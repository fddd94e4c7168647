//! How far the initial sync is, counted from what passes through the brain.

use std::collections::BTreeMap;

use super::monitor::{Phase, Progress};
use crate::engine::News;
use crate::model::{Generation, Kind, RelPath, Side, Sides};
use crate::protocol::{Data, Reply, Request};

/// Counts what was found, what of it is to be carried, and what is done. Dropped after the initial sync.
#[derive(Debug, Default)]
pub struct Count {
    /// Files and bytes seen by the scans.
    scanned: Sides<(u64, u64)>,
    scans_done: Sides<bool>,
    /// Files that were reported, with their sizes, and may have to be carried.
    found: BTreeMap<RelPath, u64>,
    /// Files under way.
    carried: BTreeMap<RelPath, Carried>,
    generations: BTreeMap<Generation, RelPath>,
    done: (u64, u64),
    /// Bytes of `found`, of `carried`, and of `carried` those that have passed.
    bytes: (u64, u64, u64),
}

#[derive(Debug)]
struct Carried {
    generation: Generation,
    size: u64,
    passed: u64,
}

impl Count {
    /// A side said something.
    pub fn heard(&mut self, side: Side, reply: &Reply) {
        match reply {
            Reply::Report(change) => {
                self.lose(&change.path);
                if let Some(after) = &change.after
                    && change.contents
                    && after.kind() == Kind::File
                {
                    self.bytes.0 += after.size();
                    self.found.insert(change.path.clone(), after.size());
                }
            }
            Reply::Clean { path } => self.lose(path),
            Reply::ScanDone { .. } => self.scans_done[side] = true,
            _ => {}
        }
    }

    /// A side is asked for something.
    pub fn asked(&mut self, request: &Request) {
        let Request::Data { generation, data } = request else { return };
        let bytes = match data {
            Data::Chunk { bytes, .. } | Data::Whole { bytes } => bytes.len() as u64,
            Data::Copy { length, .. } => *length,
            Data::Room { .. } | Data::End { .. } | Data::Abort => 0,
        };
        let carried = self.generations.get(generation).and_then(|path| self.carried.get_mut(path));
        if let Some(carried) = carried {
            let passed = bytes.min(carried.size - carried.passed);
            carried.passed += passed;
            self.bytes.2 += passed;
        }
    }

    pub fn news(&mut self, news: &News) {
        match news {
            News::Scanning { side, files, bytes } => {
                self.scanned[*side] = (*files, *bytes);
            }
            News::Begun { generation, what: "put", path, bytes, .. } => {
                // What was refused and is tried again counts once.
                let file = self.found.contains_key(path) || self.carried.contains_key(path);
                self.lose(path);
                self.land(path);
                if file {
                    self.bytes.1 += bytes;
                    self.generations.insert(*generation, path.clone());
                    let carried = Carried { generation: *generation, size: *bytes, passed: 0 };
                    self.carried.insert(path.clone(), carried);
                }
            }
            News::Completed { path, .. } => {
                self.lose(path);
                if let Some(size) = self.land(path) {
                    self.done = (self.done.0 + 1, self.done.1 + size);
                }
            }
            _ => {}
        }
    }

    fn lose(&mut self, path: &RelPath) {
        self.bytes.0 -= self.found.remove(path).unwrap_or(0);
    }

    /// The file is not under way any more; its size, if it was.
    fn land(&mut self, path: &RelPath) -> Option<u64> {
        let Carried { generation, size, passed } = self.carried.remove(path)?;
        self.generations.remove(&generation);
        self.bytes = (self.bytes.0, self.bytes.1 - size, self.bytes.2 - passed);
        Some(size)
    }

    pub fn progress(&self) -> Progress {
        let more = self.scans_done != Sides::both(true);
        if self.done.0 == 0 && self.carried.is_empty() {
            let (files, bytes) = self.scanned[Side::Left].max(self.scanned[Side::Right]);
            return Progress { phase: Phase::Scan, files, bytes, files_total: None, bytes_total: None, more };
        }
        let to_come = (self.found.len() + self.carried.len()) as u64;
        Progress {
            phase: Phase::Copy,
            files: self.done.0,
            bytes: self.done.1 + self.bytes.2,
            files_total: Some(self.done.0 + to_come),
            bytes_total: Some(self.done.1 + self.bytes.0 + self.bytes.1),
            more,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Attrs, Content, Entry, Principal, Time, Xattrs};
    use crate::protocol::Change;
    use serde_bytes::ByteBuf;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).expect("a path")
    }

    fn report(at: &str, size: u64) -> Reply {
        let (user, group) = (Principal::Id(0), Principal::Id(0));
        let attrs = Attrs { mode: 0o644, user, group, mtime: Time::default(), xattrs: Xattrs::new() };
        Reply::Report(Change {
            seq: 1,
            path: path(at),
            parent: None,
            known: None,
            moved: None,
            after: Some(Entry { content: Content::File { size, hash: None }, attrs }),
            contents: true,
            touched: false,
            read: false,
            inline: None,
            like: None,
            below: 0,
            young: 0,
        })
    }

    fn begun(generation: Generation, at: &str, bytes: u64) -> News {
        News::Begun { generation, side: Side::Right, what: "put", path: path(at), from: None, bytes, loses: false }
    }

    fn shown(count: &Count) -> (u64, Option<u64>, u64, Option<u64>, bool) {
        let p = count.progress();
        (p.files, p.files_total, p.bytes, p.bytes_total, p.more)
    }

    #[test]
    fn files_are_counted_from_their_report_to_their_record() {
        let mut count = Count::default();
        count.news(&News::Scanning { side: Side::Left, files: 7, bytes: 70 });
        assert_eq!(shown(&count), (7, None, 70, None, true));
        for (at, size) in [("a", 100), ("b", 50), ("equal", 1000)] {
            count.heard(Side::Left, &report(at, size));
        }
        count.heard(Side::Right, &report("equal", 1000));
        count.news(&begun(20, "a", 100));
        assert_eq!(shown(&count), (0, Some(3), 0, Some(1150), true));

        // Both had it: nothing is carried.
        count.news(&News::Completed { generation: 19, path: path("equal"), bytes: 0 });
        let data = Data::Chunk { offset: 0, bytes: ByteBuf::from(vec![0; 60]) };
        count.asked(&Request::Data { generation: 20, data });
        assert_eq!(shown(&count), (0, Some(2), 60, Some(150), true));

        // Refused and tried again: what had passed is void.
        count.news(&begun(21, "a", 100));
        assert_eq!(shown(&count), (0, Some(2), 0, Some(150), true));
        count.news(&News::Completed { generation: 21, path: path("a"), bytes: 100 });
        count.heard(Side::Left, &Reply::Clean { path: path("b") });
        count.heard(Side::Left, &Reply::ScanDone { files: 3, bytes: 1150 });
        count.heard(Side::Right, &Reply::ScanDone { files: 3, bytes: 1150 });
        assert_eq!(shown(&count), (1, Some(1), 100, Some(100), false));
    }
}
