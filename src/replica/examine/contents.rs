//! Contents: what a look finds of what an object holds, and whether that is new.

use serde_bytes::ByteBuf;

use crate::model::{Content, Kind, Sameness};

use super::super::Replica;
use super::super::archive::{Archive, Row};
use super::super::disk::Disk;
use super::super::error::ReplicaError;
use super::super::read::{Contents, Doubt, Looked};
use super::super::spot::Spot;
use super::{Examined, How, Live};

/// What an object holds, as far as a look has found out.
pub(super) struct Held<File> {
    pub content: Content,
    /// It is not what the row says.
    pub new: bool,
    /// Of a file only the ctime moved.
    pub touched: bool,
    /// It was taken for what the row says, and is compared later.
    pub presumed: bool,
    /// It was read, or had been, as it is now.
    pub read: bool,
    /// The bytes of a small file.
    pub bytes: Option<ByteBuf>,
    /// What is to be read in place of the file.
    pub snapshot: Option<File>,
    /// Somebody has it open for writing.
    pub open: bool,
}

impl<File> Held<File> {
    fn of(content: Content, new: bool) -> Self {
        let (bytes, snapshot) = (None, None);
        Held { content, new, touched: false, presumed: false, read: false, bytes, snapshot, open: false }
    }
}

/// What is wanted of a file's contents.
#[derive(Debug, Clone, Copy, Default)]
struct Wish {
    /// Its hash, whatever its stat says.
    hash: bool,
    /// Its hash, if its stat shows no change.
    verify: bool,
    /// Its bytes, if it is new.
    bytes: bool,
    /// Where only the ctime moved it may be compared later.
    later: bool,
    /// It is larger than files may be that travel.
    too_large: bool,
}

/// What is to be done to know what a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// It is what the row says.
    Nothing,
    /// It passes for that, until there is time.
    Presume,
    /// Whether somebody is writing it.
    Look,
    /// All of it is read; `keep`: and kept.
    Read { keep: bool },
    /// It does not travel.
    TooLarge,
}

fn need(doubt: Doubt, wish: Wish) -> Need {
    let keep = wish.bytes && doubt != Doubt::Unchanged;
    let verified = wish.verify && doubt == Doubt::Unchanged;
    let read = wish.hash || keep || verified || matches!(doubt, Doubt::Read | Doubt::Touched);
    match doubt {
        Doubt::Touched if wish.later => Need::Presume,
        Doubt::Read | Doubt::Changed if wish.too_large => Need::TooLarge,
        Doubt::Unchanged if !read => Need::Nothing,
        _ if read => Need::Read { keep },
        _ => Need::Look,
    }
}

/// Whether contents that were read are new. A row without a hash, of a file that looks unchanged, takes this one. But a scan
/// that reads everything (`hash` and `verify`) tells of it: the other side's file, taken for equal unread, may be another.
fn is_new(known: Option<&Content>, found: &Content, doubt: Doubt, wish: Wish) -> bool {
    match known.map(|known| known.compare(found)) {
        Some(Sameness::Same) => false,
        Some(Sameness::Unknown) => doubt != Doubt::Unchanged || wish.hash && wish.verify,
        Some(Sameness::Differs) | None => true,
    }
}

impl<D: Disk, A: Archive> Replica<D, A> {
    /// Finds out what an object holds, and compares it with its row. The inner error ends the look.
    pub(super) fn see_contents(
        &mut self,
        at: Spot<D::Dir>,
        row: Option<&Row>,
        live: &Live,
        how: How,
    ) -> Result<Result<Held<D::File>, Examined>, ReplicaError> {
        let other_kind = row.is_none_or(|row| row.entry.kind() != live.kind);
        Ok(Ok(match live.kind {
            Kind::Dir => Held::of(Content::Dir, other_kind),
            Kind::Fifo => Held::of(Content::Fifo, other_kind),
            Kind::Link => {
                let content = Content::Link { target: live.target.clone().unwrap_or_default() };
                let new = row.is_none_or(|row| row.entry.content != content);
                Held::of(content, new)
            }
            Kind::File => return self.see_file(at, row, live, how),
        }))
    }

    fn see_file(
        &mut self,
        at: Spot<D::Dir>,
        row: Option<&Row>,
        live: &Live,
        how: How,
    ) -> Result<Result<Held<D::File>, Examined>, ReplicaError> {
        let size = live.stat.size;
        let doubt = self.doubt(row, &live.stat);
        // What was read once and told is not taken for what was agreed on again.
        let later = self.is_proven_later(row, size, how) && self.hash_told(at.path, live).is_none();
        let bytes = how.inline > 0 && size <= self.settings.inline_max.min(how.inline);
        let too_large = size > self.settings.max_size;
        let wish = Wish { hash: how.compare.hashes(), verify: how.compare.verifies(), bytes, later, too_large };
        let known = row.map(|row| &row.entry.content);
        let touched = doubt == Doubt::Touched;
        let (read, keep) = match need(doubt, wish) {
            Need::TooLarge => return Ok(Err(Examined::Problem(self.too_large(at.path, size)))),
            need @ (Need::Nothing | Need::Presume) => {
                let content = known.cloned().unwrap_or(Content::File { size, hash: None });
                return Ok(Ok(Held { touched, presumed: need == Need::Presume, ..Held::of(content, false) }));
            }
            Need::Look => (false, false),
            Need::Read { keep } => (true, keep),
        };
        let looked = match self.read_for_report(at, &live.stat, (read, keep), how)? {
            Contents::Busy => return Ok(Err(Examined::Busy)),
            Contents::Reading => return Ok(Err(Examined::Reading)),
            Contents::Found(looked) => looked,
        };
        let Looked { size, read, snapshot, open } = looked;
        // A snapshot tells nothing of what the file holds by now.
        let itself = snapshot.is_none();
        let Some((hash, bytes)) = read else {
            let hash = if itself { self.hash_told(at.path, live) } else { None };
            let held = Held::of(Content::File { size, hash }, true);
            return Ok(Ok(Held { touched, read: hash.is_some(), snapshot, open, ..held }));
        };
        let content = Content::File { size, hash: Some(hash) };
        let new = is_new(known, &content, doubt, wish);
        if too_large && new {
            return Ok(Err(Examined::Problem(self.too_large(at.path, live.stat.size))));
        }
        Ok(Ok(Held { touched, read: itself, bytes, snapshot, open, ..Held::of(content, new) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Hash;

    #[test]
    fn what_must_be_done_to_know_what_a_file_holds() {
        use Doubt::*;
        let plain = Wish::default();
        let (hash, verify) = (Wish { hash: true, ..plain }, Wish { verify: true, ..plain });
        let (bytes, later) = (Wish { bytes: true, ..plain }, Wish { later: true, ..plain });
        let too_large = Wish { too_large: true, ..plain };
        let (read, kept) = (Need::Read { keep: false }, Need::Read { keep: true });
        // By what the stat says:    unchanged      touched        worth reading   changed
        let table = [
            (plain, [Need::Nothing, read, read, Need::Look]),
            (hash, [read, read, read, read]),
            (verify, [read, read, read, Need::Look]),
            (bytes, [Need::Nothing, kept, kept, kept]),
            (later, [Need::Nothing, Need::Presume, read, Need::Look]),
            (too_large, [Need::Nothing, read, Need::TooLarge, Need::TooLarge]),
            (Wish { bytes: true, ..hash }, [read, kept, kept, kept]),
            (Wish { too_large: true, ..verify }, [read, read, Need::TooLarge, Need::TooLarge]),
        ];
        for (wish, needs) in table {
            assert_eq!([Unchanged, Touched, Read, Changed].map(|doubt| need(doubt, wish)), needs, "{wish:?}");
        }
    }

    #[test]
    fn what_was_read_is_new_or_not() {
        let file = |size, text: Option<&str>| Content::File { size, hash: text.map(|text| Hash::of(text.as_bytes())) };
        let plain = Wish::default();
        let scanned = Wish { hash: true, verify: true, ..plain };
        let found = file(3, Some("new"));
        for (known, doubt, wish, new) in [
            (None, Doubt::Changed, plain, true),
            (Some(Content::Dir), Doubt::Changed, plain, true),
            (Some(file(3, Some("old"))), Doubt::Unchanged, plain, true),
            (Some(file(3, Some("new"))), Doubt::Touched, plain, false),
            (Some(file(3, Some("new"))), Doubt::Unchanged, scanned, false),
            // A row that has no hash.
            (Some(file(3, None)), Doubt::Unchanged, plain, false),
            (Some(file(3, None)), Doubt::Unchanged, scanned, true),
            (Some(file(3, None)), Doubt::Touched, plain, true),
            (Some(file(4, None)), Doubt::Unchanged, plain, true),
        ] {
            assert_eq!(is_new(known.as_ref(), &found, doubt, wish), new, "{known:?} {doubt:?} {wish:?}");
        }
    }
}
