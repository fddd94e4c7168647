//! What messages take in memory, about; rather more.

use crate::model::sane::Weight;
use crate::model::{Data, Kept, Outcome, Source, Step, Sums, Tunnel};

use super::survey::{Answer, Ask};
use super::{Reply, Request};

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
            Request::Check(Ask::Look { paths } | Ask::Hash { paths } | Ask::Keep { paths, .. }) => {
                paths.iter().map(|path| LISTED + path.as_bytes().len()).sum()
            }
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
            | Request::Expire
            | Request::Check(_) => 0,
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
            Reply::Checked(answer) => checked(answer),
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

fn checked(answer: &Answer) -> usize {
    let path = |path: &crate::model::RelPath| LISTED + path.as_bytes().len();
    match answer {
        Answer::Items { items } => items.iter().map(|item| 2 * LISTED + path(&item.path)).sum(),
        Answer::Hashes { hashes } => hashes.iter().map(|(at, _)| LISTED + path(at)).sum(),
        Answer::Trashed { items } => items.iter().map(|item| 2 * LISTED + path(&item.path)).sum(),
        Answer::Examined(_) | Answer::Special { .. } | Answer::Problem(_) | Answer::End | Answer::Failed { .. } => 0,
    }
}
