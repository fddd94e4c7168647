//! Between the archive's values and the columns of its tables.

use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use rusqlite::{ErrorCode, Row as Columns, ToSql};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::model::{Attrs, Content, Entry, Hash, Name, Principal, RelPath, Side, Time, Xattrs};

use super::super::archive::{Identity, Intent, Row, Signature, Since, Tombstone, TrashItem};

/// Why a statement failed, or what it read is no archive's.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("{0}")]
    Sql(#[from] rusqlite::Error),
    #[error("corrupt: {0}")]
    Corrupt(String),
    #[error("{0}")]
    Other(String),
}

impl Fault {
    /// Whether it comes from what the file holds: to try again does not help.
    pub fn is_damage(&self) -> bool {
        match self {
            Fault::Corrupt(_) => true,
            // The last: a table or a column is not there.
            Fault::Sql(error) => matches!(
                error.sqlite_error_code(),
                Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::Unknown)
            ),
            Fault::Other(_) => false,
        }
    }
}

/// A column that holds what it must not.
fn corrupt(column: usize, what: &str) -> Fault {
    Fault::Corrupt(format!("column {column} holds no {what}"))
}

/// Numbers below 2^63; `Row::check` and its kin have refused others before.
pub fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Inode numbers use all 64 bits on some file systems and are only compared for equality.
pub fn bits(ino: u64) -> i64 {
    ino.cast_signed()
}

pub fn blob<T: Serialize>(value: &T) -> Result<Vec<u8>, Fault> {
    postcard::to_stdvec(value).map_err(|e| Fault::Other(format!("encode: {e}")))
}

fn unblob<T: DeserializeOwned>(columns: &Columns<'_>, at: usize) -> Result<Option<T>, Fault> {
    match columns.get_ref(at)? {
        ValueRef::Null => Ok(None),
        ValueRef::Blob(bytes) => postcard::from_bytes(bytes).map(Some).map_err(|_| corrupt(at, "known structure")),
        _ => Err(corrupt(at, "blob")),
    }
}

pub fn number(columns: &Columns<'_>, at: usize) -> Result<u64, Fault> {
    u64::try_from(columns.get::<_, i64>(at)?).map_err(|_| corrupt(at, "number"))
}

fn small(columns: &Columns<'_>, at: usize) -> Result<u32, Fault> {
    u32::try_from(columns.get::<_, i64>(at)?).map_err(|_| corrupt(at, "number of 32 bits"))
}

pub fn time(columns: &Columns<'_>, at: usize) -> Result<Time, Fault> {
    Ok(Time { secs: columns.get(at)?, nanos: small(columns, at + 1)? })
}

fn bytes<'a>(columns: &'a Columns<'_>, at: usize) -> Result<&'a [u8], Fault> {
    match columns.get_ref(at)? {
        ValueRef::Blob(bytes) => Ok(bytes),
        _ => Err(corrupt(at, "blob")),
    }
}

fn array<const N: usize>(columns: &Columns<'_>, at: usize) -> Result<[u8; N], Fault> {
    bytes(columns, at)?.try_into().map_err(|_| corrupt(at, "value of the right length"))
}

fn name(columns: &Columns<'_>, at: usize) -> Result<Name, Fault> {
    Name::new(bytes(columns, at)?).map_err(|_| corrupt(at, "name"))
}

fn path(columns: &Columns<'_>, at: usize) -> Result<RelPath, Fault> {
    RelPath::new(bytes(columns, at)?).map_err(|_| corrupt(at, "path"))
}

/// A user or a group as a column: text for a name, an integer for a number.
pub struct Who<'a>(pub &'a Principal);

impl ToSql for Who<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self.0 {
            Principal::Id(id) => ToSqlOutput::Owned(Value::Integer((*id).into())),
            Principal::Name(name) => ToSqlOutput::Borrowed(ValueRef::Text(name.as_bytes())),
        })
    }
}

fn principal(columns: &Columns<'_>, at: usize) -> Result<Principal, Fault> {
    match columns.get_ref(at)? {
        ValueRef::Integer(_) => Ok(Principal::Id(small(columns, at)?)),
        ValueRef::Text(text) => {
            let text = std::str::from_utf8(text).map_err(|_| corrupt(at, "user or group"))?;
            Ok(Principal::Name(text.into()))
        }
        _ => Err(corrupt(at, "user or group")),
    }
}

/// The columns of `rows` in the order in which all statements name them.
pub const ROW: &str = r#"node, parent, name, generation, kind, size, hash, target, mode, user, "group", mtime, mtime_ns,
    xattrs, achieved, ino, btime, btime_ns, seen_size, seen_mtime, seen_mtime_ns, seen_ctime, seen_ctime_ns,
    seen_mode, seen_uid, seen_gid, since"#;

/// Binds a row to the parameters of a statement, in the order of [`ROW`].
pub fn bind_row(statement: &mut rusqlite::Statement<'_>, row: &Row) -> Result<(), Fault> {
    let Entry { content, attrs } = &row.entry;
    let (kind, size, hash, target) = match content {
        Content::File { size, hash } => ("f", Some(int(*size)), hash.as_ref().map(|hash| &hash.0[..]), None),
        Content::Dir => ("d", None, None, None),
        Content::Link { target } => ("l", None, None, Some(&target[..])),
        Content::Fifo => ("p", None, None, None),
    };
    let xattrs = if attrs.xattrs.is_empty() { None } else { Some(blob(&attrs.xattrs)?) };
    let achieved = row.achieved.as_ref().map(blob).transpose()?;
    statement.raw_bind_parameter(1, int(row.node))?;
    statement.raw_bind_parameter(2, int(row.parent))?;
    statement.raw_bind_parameter(3, row.name.as_bytes())?;
    statement.raw_bind_parameter(4, int(row.generation))?;
    statement.raw_bind_parameter(5, kind)?;
    statement.raw_bind_parameter(6, size)?;
    statement.raw_bind_parameter(7, hash)?;
    statement.raw_bind_parameter(8, target)?;
    statement.raw_bind_parameter(9, attrs.mode)?;
    statement.raw_bind_parameter(10, Who(&attrs.user))?;
    statement.raw_bind_parameter(11, Who(&attrs.group))?;
    statement.raw_bind_parameter(12, attrs.mtime.secs)?;
    statement.raw_bind_parameter(13, attrs.mtime.nanos)?;
    statement.raw_bind_parameter(14, xattrs)?;
    statement.raw_bind_parameter(15, achieved)?;
    statement.raw_bind_parameter(27, row.since.number())?;
    let Some(seen) = &row.signature else {
        return (16..=26).try_for_each(|at| Ok(statement.raw_bind_parameter(at, None::<i64>)?));
    };
    statement.raw_bind_parameter(16, bits(seen.ino))?;
    statement.raw_bind_parameter(17, seen.btime.secs)?;
    statement.raw_bind_parameter(18, seen.btime.nanos)?;
    statement.raw_bind_parameter(19, int(seen.size))?;
    statement.raw_bind_parameter(20, seen.mtime.secs)?;
    statement.raw_bind_parameter(21, seen.mtime.nanos)?;
    statement.raw_bind_parameter(22, seen.ctime.secs)?;
    statement.raw_bind_parameter(23, seen.ctime.nanos)?;
    statement.raw_bind_parameter(24, seen.mode)?;
    statement.raw_bind_parameter(25, seen.uid)?;
    statement.raw_bind_parameter(26, seen.gid)?;
    Ok(())
}

/// Reads the columns of [`ROW`].
pub fn read_row(columns: &Columns<'_>) -> Result<Row, Fault> {
    let content = match columns.get_ref(4)? {
        ValueRef::Text(b"f") => {
            let hash = match columns.get_ref(6)? {
                ValueRef::Null => None,
                _ => Some(Hash(array(columns, 6)?)),
            };
            Content::File { size: number(columns, 5)?, hash }
        }
        ValueRef::Text(b"d") => Content::Dir,
        ValueRef::Text(b"l") => Content::Link { target: bytes(columns, 7)?.into() },
        ValueRef::Text(b"p") => Content::Fifo,
        _ => return Err(corrupt(4, "kind")),
    };
    let attrs = Attrs {
        mode: small(columns, 8)?,
        user: principal(columns, 9)?,
        group: principal(columns, 10)?,
        mtime: time(columns, 11)?,
        xattrs: unblob::<Xattrs>(columns, 13)?.unwrap_or_default(),
    };
    let signature = match columns.get_ref(15)? {
        ValueRef::Null => None,
        _ => Some(Signature {
            ino: columns.get::<_, i64>(15)?.cast_unsigned(),
            btime: time(columns, 16)?,
            size: number(columns, 18)?,
            mtime: time(columns, 19)?,
            ctime: time(columns, 21)?,
            mode: small(columns, 23)?,
            uid: small(columns, 24)?,
            gid: small(columns, 25)?,
        }),
    };
    Ok(Row {
        node: number(columns, 0)?,
        parent: number(columns, 1)?,
        name: name(columns, 2)?,
        generation: number(columns, 3)?,
        entry: Entry { content, attrs },
        achieved: unblob(columns, 14)?,
        signature,
        since: Since::of_number(columns.get(26)?),
    })
}

/// A side as the column has it: 0 unknown, 1 left, 2 right.
pub fn side_number(side: Option<Side>) -> i64 {
    match side {
        None => 0,
        Some(Side::Left) => 1,
        Some(Side::Right) => 2,
    }
}

fn read_side(columns: &Columns<'_>) -> Result<Option<Side>, Fault> {
    match columns.get::<_, i64>(9)? {
        0 => Ok(None),
        1 => Ok(Some(Side::Left)),
        2 => Ok(Some(Side::Right)),
        other => Err(Fault::Corrupt(format!("side {other}"))),
    }
}

/// Reads archive, peer, generation, confirmed, boot, root_ino, root_btime, root_btime_ns, filters, side, proven, met.
pub fn read_identity(columns: &Columns<'_>) -> Result<Identity, Fault> {
    Ok(Identity {
        archive: array(columns, 0)?,
        peer: array(columns, 1)?,
        generation: number(columns, 2)?,
        confirmed: number(columns, 3)?,
        boot: array(columns, 4)?,
        root: (columns.get::<_, i64>(5)?.cast_unsigned(), time(columns, 6)?),
        filters: array(columns, 8)?,
        side: read_side(columns)?,
        proven: array(columns, 10)?,
        met: columns.get(11)?,
    })
}

/// Reads node, parent, name, generation.
pub fn read_tombstone(columns: &Columns<'_>) -> Result<Tombstone, Fault> {
    Ok(Tombstone {
        node: number(columns, 0)?,
        parent: number(columns, 1)?,
        name: name(columns, 2)?,
        generation: number(columns, 3)?,
    })
}

/// Reads generation, node, path, stage, step, parent.
pub fn read_intent(columns: &Columns<'_>) -> Result<Intent, Fault> {
    Ok(Intent {
        generation: number(columns, 0)?,
        node: number(columns, 1)?,
        path: path(columns, 2)?,
        stage: name(columns, 3)?,
        step: unblob(columns, 4)?.ok_or_else(|| corrupt(4, "step"))?,
        parent: if columns.get::<_, Option<i64>>(5)?.is_some() { Some(number(columns, 5)?) } else { None },
    })
}

/// Reads id, path, since, size, reason, stamp, stamp_ns, look.
pub fn read_trash(columns: &Columns<'_>) -> Result<TrashItem, Fault> {
    Ok(TrashItem {
        id: name(columns, 0)?,
        path: path(columns, 1)?,
        since: columns.get(2)?,
        size: number(columns, 3)?,
        reason: columns.get(4)?,
        stamp: if columns.get::<_, Option<i64>>(5)?.is_some() { Some(time(columns, 5)?) } else { None },
        look: columns.get(7)?,
    })
}
