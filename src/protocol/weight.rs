//! What messages take in memory, about; rather more.

use super::survey::Ask;
use super::{AncestorRow, Change, Data, Kept, Known, Outcome, Reply, Request, Source, Step, Sums, Tunnel};
use crate::model::{Content, Entry, Principal};

/// About as many bytes as a value takes in memory, rather more.
pub trait Weight {
    fn weight(&self) -> usize;
}

/// Of a message without anything of its own.
const BARE: usize = 128;
/// Of a path or a name in a list, beside its bytes.
const LISTED: usize = 64;

fn data(data: &Data) -> usize {
    match data {
        Data::Chunk { bytes, .. } | Data::Whole { bytes } => bytes.len(),
        Data::Room { .. } | Data::Copy { .. } | Data::End { .. } | Data::Abort => 0,
    }
}

fn tunnel(piece: &Tunnel) -> usize {
    match piece {
        Tunnel::Arguments(words) => words.iter().map(|word| LISTED + word.len()).sum(),
        Tunnel::Bytes(bytes) => bytes.len(),
        Tunnel::Taken(_) | Tunnel::End => 0,
    }
}

fn sums(sums: &Sums) -> usize {
    if let Sums::Blocks { sums } = sums { sums.len() } else { 0 }
}

fn step(step: &Step) -> usize {
    match step {
        Step::Put { entry, source, .. } => {
            entry.weight() + if let Source::Inline(b) = source { b.len() } else { LISTED }
        }
        Step::SetAttrs { entry, .. } | Step::Move { entry, .. } => LISTED + entry.weight(),
        Step::Exchange { from, other, .. } => {
            let at = other.at.as_ref().map_or(0, |at| at.as_bytes().len());
            LISTED + from.as_bytes().len() + at + other.to.as_bytes().len()
        }
        Step::Remove { .. } => 0,
    }
}

impl Weight for Entry {
    fn weight(&self) -> usize {
        let target = if let Content::Link { target } = &self.content { target.len() } else { 0 };
        let xattrs = self.attrs.xattrs.iter().map(|(name, value)| name.len() + value.len() + 96).sum::<usize>();
        let owners =
            [&self.attrs.user, &self.attrs.group].map(|p| if let Principal::Name(n) = p { n.len() } else { 0 });
        192 + target + xattrs + owners.iter().sum::<usize>()
    }
}

impl Weight for AncestorRow {
    fn weight(&self) -> usize {
        96 + self.path.as_bytes().len() + self.entry.as_ref().map_or(0, Weight::weight)
    }
}

impl Weight for Change {
    fn weight(&self) -> usize {
        let known = |known: &Known| 32 + known.entry.weight();
        let moved = self.moved.as_ref().map_or(0, |m| m.from.as_bytes().len() + known(&m.known));
        let after = self.after.as_ref().map_or(0, Weight::weight);
        let inline = self.inline.as_ref().map_or(0, |bytes| bytes.len());
        // The path stands in several tables.
        256 + 3 * self.path.as_bytes().len() + self.known.as_ref().map_or(0, known) + moved + after + inline
    }
}

impl Weight for Request {
    fn weight(&self) -> usize {
        BARE + match self {
            Request::Learn { rows } => rows.iter().map(Weight::weight).sum(),
            Request::Apply { apply, .. } => apply.path.as_bytes().len() + step(&apply.step),
            Request::Record { record, .. } => {
                record.path.as_bytes().len() + record.entry.as_ref().map_or(0, Weight::weight)
            }
            Request::Examine { path, .. } | Request::Hash { path } | Request::Supply { path, .. } => {
                path.as_bytes().len()
            }
            Request::Holds { path, remains } => path.as_bytes().len() + remains.weight(),
            Request::Rsync { piece, .. } => tunnel(piece),
            Request::Sums { sums: told, .. } => sums(told),
            Request::Data { data: piece, .. } => data(piece),
            Request::Names { numbers } => numbers.iter().map(|number| LISTED + number.name.len()).sum(),
            Request::SetDirTimes { times } => size_of_val(&times[..]),
            Request::DirTimesAgreed { times } => size_of_val(&times[..]),
            Request::Start(_)
            | Request::Rows { .. }
            | Request::Go { .. }
            | Request::Credit { .. }
            | Request::Cancel { .. }
            | Request::Confirm { .. }
            | Request::Scan { .. }
            | Request::Ping { .. }
            | Request::Stop
            | Request::Hold { .. }
            | Request::Settled
            | Request::Expire => 0,
        }
    }
}

impl Weight for Reply {
    fn weight(&self) -> usize {
        BARE + match self {
            Reply::Rows { rows } => rows.iter().map(Weight::weight).sum(),
            Reply::Report(change) => change.weight(),
            Reply::Data { data: piece, .. } => data(piece),
            Reply::Sums { sums: told, .. } => sums(told),
            Reply::Rsync { piece, .. } => tunnel(piece),
            Reply::Names { numbers } => numbers.iter().map(|number| LISTED + number.name.len()).sum(),
            Reply::Distrust { path, why, .. } => path.as_bytes().len() + why.weight(),
            Reply::Holds { path, .. } | Reply::Clean { path } | Reply::Cursor { path, .. } => path.as_bytes().len(),
            Reply::Result { outcome: Outcome::Done { kept: Some(Kept::Beside(path)), .. }, .. } => {
                path.as_bytes().len()
            }
            Reply::Problem { path, .. } => path.as_bytes().len() * 2,
            Reply::Halt { reason: text }
            | Reply::Away { reason: text }
            | Reply::Damaged { detail: text }
            | Reply::Note { text }
            | Reply::Lost { reason: text, .. } => text.len(),
            Reply::OtherRoot { root } => root.len(),
            Reply::DirTimes { times } => size_of_val(&times[..]),
            Reply::DirTimesSet { outcomes } => size_of_val(&outcomes[..]),
            Reply::Hello(_)
            | Reply::RowsEnd
            | Reply::ScanDone { .. }
            | Reply::Result { .. }
            | Reply::Recorded { .. }
            | Reply::Credit { .. }
            | Reply::NotSet { .. }
            | Reply::Unproven { .. }
            | Reply::Special { .. }
            | Reply::Tally { .. }
            | Reply::Pong { .. }
            | Reply::HasRoom
            | Reply::Stopped => 0,
        }
    }
}

impl Weight for Ask {
    fn weight(&self) -> usize {
        BARE + match self {
            Ask::Look { paths } | Ask::Hash { paths } | Ask::Keep { paths, .. } => {
                paths.iter().map(|path| LISTED + path.as_bytes().len()).sum()
            }
            Ask::Restore { below, to, .. } => {
                to.as_bytes().len() + below.as_ref().map_or(0, |below| below.as_bytes().len())
            }
            Ask::Serves { root } | Ask::Examine { root } => root.len(),
            Ask::List | Ask::Trash | Ask::Alive => 0,
        }
    }
}
