//! What one archive tells the other when a session starts: its newer rows, in lists that fit a message.

use serde::{Deserialize, Serialize};

use crate::model::{Content, Entry, Generation, NodeId, Principal, RelPath};

/// One row as the archives exchange it: an ancestor, or with no entry a tombstone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AncestorRow {
    pub node: NodeId,
    pub parent: NodeId,
    /// Where the answering side has it; its last name is the row's name.
    pub path: RelPath,
    pub generation: Generation,
    pub entry: Option<Entry>,
    /// It is of an action that had something to do on both sides. Who lacks it has perhaps not done its part.
    pub joint: bool,
}

/// Rows that travel in one message have so many bytes at most, or are one row, which has less than this beside the
/// extended attributes that one object may have (`replica::metadata::XATTRS_MAX`).
const ROWS_BYTES: usize = 256 * 1024;

/// Cuts rows into lists of which each fits a message.
pub fn cut(rows: Vec<AncestorRow>) -> Vec<Vec<AncestorRow>> {
    let mut lists = Vec::new();
    let mut list = Vec::new();
    let mut bytes = 0;
    for row in rows {
        let size = wire_size(&row);
        if bytes + size > ROWS_BYTES && !list.is_empty() {
            lists.push(std::mem::take(&mut list));
            bytes = 0;
        }
        bytes += size;
        list.push(row);
    }
    if !list.is_empty() {
        lists.push(list);
    }
    lists
}

/// About as many bytes as a row takes on the wire, rather more.
fn wire_size(row: &AncestorRow) -> usize {
    const FIXED: usize = 192;
    let entry = row.entry.as_ref().map_or(0, |entry| {
        let target = if let Content::Link { target } = &entry.content { target.len() } else { 0 };
        let names =
            [&entry.attrs.user, &entry.attrs.group].map(|p| if let Principal::Name(n) = p { n.len() } else { 0 });
        let xattrs = entry.attrs.xattrs.iter().map(|(name, value)| name.len() + value.len() + 6).sum::<usize>();
        target + names.iter().sum::<usize>() + xattrs
    });
    FIXED + row.path.as_bytes().len() + entry
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::codec::encode;
    use crate::link::frame::MAX_PAYLOAD;
    use crate::protocol::{Change, Known, Moved, Reply, Request};
    use crate::replica::archive::samples::file_row;
    use crate::replica::metadata::XATTRS_MAX;

    fn row(node: u64, path_bytes: usize, xattrs: usize) -> AncestorRow {
        let names = vec![vec![b'n'; 255]; path_bytes / 256];
        let path = RelPath::new(&names.join(&b'/')).unwrap();
        let mut entry = file_row(node, 1, "x", node).entry;
        entry.attrs.user = Principal::Name("u".repeat(32).into());
        let values = std::iter::repeat_n(60_000, xattrs / 60_000).chain([xattrs % 60_000]);
        for (n, size) in values.filter(|size| *size > 0).enumerate() {
            let name = format!("user.{n}").into_bytes().into_boxed_slice();
            entry.attrs.xattrs.insert(name, vec![7; size].into());
        }
        AncestorRow { node, parent: 1, path, generation: node, entry: Some(entry), joint: false }
    }

    #[test]
    fn no_list_of_rows_exceeds_a_frame() {
        let long = (1..2000).map(|n| row(n, 4090, 0));
        let short = (2000..9000).map(|n| row(n, 256, 0));
        let rich = (9000..9100).map(|n| row(n, 256, 60_000));
        let richest = (9100..9110).map(|n| row(n, 4090, XATTRS_MAX));
        let rows: Vec<AncestorRow> = long.chain(short).chain(rich).chain(richest).collect();
        let lists = cut(rows.clone());
        for list in &lists {
            let frame = encode(&Reply::Rows { rows: list.clone() }).expect("it fits");
            // The estimate errs on the safe side.
            assert!(frame.len() <= list.iter().map(wire_size).sum::<usize>() + 16);
            encode(&Request::Learn { rows: list.clone() }).expect("it fits");
        }
        assert!(lists.len() < 100, "{} lists", lists.len());
        assert_eq!(lists.concat(), rows);
        assert!(cut(vec![]).is_empty());
    }

    #[test]
    fn a_report_with_the_most_attributes_fits_a_frame() {
        let AncestorRow { path, entry, .. } = row(5, 4090, XATTRS_MAX);
        let known = Known { node: 5, generation: 3, entry: entry.clone().unwrap() };
        let change = Change {
            seq: 1,
            path: path.clone(),
            parent: Some(1),
            known: Some(known.clone()),
            moved: Some(Moved { from: path, known, edited: true }),
            after: entry,
            contents: true,
            touched: false,
            read: false,
            inline: Some(serde_bytes::ByteBuf::from(vec![1; 32 * 1024])),
            like: None,
            below: 0,
            young: 0,
        };
        let frame = encode(&Reply::Report(change)).expect("it fits");
        assert!(frame.len() > 3 * XATTRS_MAX && frame.len() < MAX_PAYLOAD);
    }
}
