//! What values that come over the line must hold, whoever sends them. A side that keeps its word never fails these: each
//! failure is a lie or a fault of the program, and says in a few words what is wrong.

use super::{AncestorRow, Change, DIR_TIMES_MAX, Known};
use crate::model::{
    Attrs, Content, Entry, Generation, NodeId, OWN_DIR, OwnerNumber, Principal, ROOT_NODE, RelPath, Time, Xattrs, acls,
};

/// How far a number may be ahead of what this side knows: more actions than a pair has in its life.
pub const WINDOW: Generation = 1 << 40;
/// Nodes up to this are psync's own; of these only the root is ever spoken of.
pub const RESERVED: NodeId = 16;
/// The longest name of a user or a group.
const NAME_MAX: usize = 256;
/// The most bytes of an object's extended attributes: what both sides have of them at most, together.
const XATTRS_MAX: usize = 3 * 256 * 1024;
/// The most bytes of one of them; but POSIX ACLs have names in the place of numbers.
const XATTR_MAX: usize = 64 * 1024;
/// The most bytes of their names, each with its end: what the kernel lists of an object, of both sides and of what they
/// agreed on.
const NAMES_MAX: usize = 3 * 64 * 1024;
/// The longest target of a link.
const TARGET_MAX: usize = 4095;
/// So many objects lie below a directory at most.
const BELOW_MAX: u64 = 1 << 40;

/// What is wrong.
pub type Insane = &'static str;

/// Whether all of these hold.
macro_rules! hold {
    ($($holds:expr, $else:literal;)*) => {{
        $(if !($holds) {
            return Err($else);
        })*
        Ok(())
    }};
}

/// A path of the tree, not of psync's own directory in it.
pub fn path(path: &RelPath) -> Result<(), Insane> {
    let own = path.as_bytes().strip_prefix(OWN_DIR).is_some_and(|rest| rest.is_empty() || rest[0] == b'/');
    hold! { !own, "a path in psync's own directory"; }
}

/// The same of an object: not the root.
pub fn object(at: &RelPath) -> Result<(), Insane> {
    path(at)?;
    hold! { !at.is_root(), "the root in place of an object"; }
}

/// A node that an action or a row may have: made by this generation or before.
pub fn node(node: NodeId, generation: Generation) -> Result<(), Insane> {
    hold! { node > RESERVED && node <= generation, "a node that nobody gave"; }
}

/// The node of a directory that something lies in, which was made before.
pub fn parent(parent: NodeId, generation: Generation) -> Result<(), Insane> {
    hold! {
        parent == ROOT_NODE || parent > RESERVED && parent < generation, "a directory's node that nobody gave";
    }
}

pub fn entry(entry: &Entry) -> Result<(), Insane> {
    match &entry.content {
        Content::File { size, .. } if i64::try_from(*size).is_err() => Err("a size out of range"),
        Content::Link { target } if target.is_empty() || target.len() > TARGET_MAX || target.contains(&0) => {
            Err("a link's target that cannot be one")
        }
        Content::File { .. } | Content::Dir | Content::Link { .. } | Content::Fifo => attrs(&entry.attrs),
    }
}

fn attrs(attrs: &Attrs) -> Result<(), Insane> {
    principal(&attrs.user)?;
    principal(&attrs.group)?;
    xattrs(&attrs.xattrs)?;
    hold! {
        attrs.mode <= 0o7777, "a mode out of range";
        attrs.mtime.nanos < 1_000_000_000, "a time with more than a second of nanoseconds";
    }
}

fn principal(principal: &Principal) -> Result<(), Insane> {
    match principal {
        Principal::Id(_) => Ok(()),
        Principal::Name(name) if is_name(name) => Ok(()),
        Principal::Name(_) => Err("an owner's name that cannot be one"),
    }
}

/// Whether this can be the name of a user or a group.
pub fn is_name(name: &str) -> bool {
    (1..=NAME_MAX).contains(&name.len()) && !name.chars().any(char::is_control)
}

/// The time of a directory, which is not the root.
pub fn dir_time(node: NodeId, time: Time) -> Result<(), Insane> {
    hold! {
        node > RESERVED, "a directory's time of a node that nobody gave";
        time.nanos < 1_000_000_000, "a time with more than a second of nanoseconds";
    }
}

/// The same of those in one message.
pub fn dir_times(times: impl ExactSizeIterator<Item = (NodeId, Time)>) -> Result<(), Insane> {
    if times.len() > DIR_TIMES_MAX {
        return Err("more directories' times than one message has");
    }
    times.into_iter().try_for_each(|(node, time)| dir_time(node, time))
}

pub fn names(numbers: &[OwnerNumber]) -> Result<(), Insane> {
    hold! { numbers.iter().all(|number| is_name(&number.name)), "an owner's name that cannot be one"; }
}

fn xattrs(xattrs: &Xattrs) -> Result<(), Insane> {
    let bytes: usize = xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
    let names: usize = xattrs.keys().map(|name| name.len() + 1).sum();
    let named = |name: &[u8]| matches!(name, acls::ACL_ACCESS | acls::ACL_DEFAULT);
    let large = |name: &[u8], value: &[u8]| !named(name) && value.len() > XATTR_MAX;
    hold! {
        xattrs.keys().all(|name| travels(name)), "an extended attribute of a kind that does not travel";
        bytes <= XATTRS_MAX, "too many bytes of extended attributes";
        names <= NAMES_MAX, "more extended attributes than an object can have";
        !xattrs.iter().any(|(name, value)| large(name, value)), "an extended attribute that is too large";
    }
}

/// Whether any pair carries extended attributes of this name.
pub fn travels(name: &[u8]) -> bool {
    let user = name.len() > b"user.".len() && name.len() <= 255 && name.starts_with(b"user.") && !name.contains(&0);
    let special: [&[u8]; 4] =
        [b"system.posix_acl_access", b"system.posix_acl_default", b"security.capability", b"security.NTACL"];
    user || special.contains(&name)
}

/// A row that one archive tells the other.
pub fn row(row: &AncestorRow) -> Result<(), Insane> {
    // A tombstone's directory may be gone; then nothing is known of where it was.
    if row.entry.is_some() {
        object(&row.path)?
    } else {
        path(&row.path)?
    }
    node(row.node, row.generation)?;
    if row.parent != ROOT_NODE && (row.parent <= RESERVED || row.parent == row.node) {
        return Err("a row in a directory that nobody made");
    }
    row.entry.as_ref().map_or(Ok(()), entry)
}

/// A report, to one that gave no number from `next` on.
pub fn change(change: &Change, next: Generation) -> Result<(), Insane> {
    object(&change.path)?;
    let known = [change.known.as_ref(), change.moved.as_ref().map(|moved| &moved.known)];
    known.into_iter().flatten().try_for_each(|known| of_before(known, next))?;
    if let Some(above) = change.parent {
        parent(above, next)?;
    }
    if let Some(moved) = &change.moved {
        object(&moved.from)?;
    }
    if let Some(like) = &change.like {
        object(&like.from)?;
        node(like.node, like.generation)?;
    }
    change.after.as_ref().map_or(Ok(()), entry)?;
    let size = change.after.as_ref().map_or(0, Entry::size);
    hold! {
        change.seq > 0, "a report without a number";
        change.like.as_ref().is_none_or(|like| like.generation < next), "a generation that nobody gave";
        change.below < BELOW_MAX, "more objects below a directory than there can be";
        change.young <= change.below + 1, "more young objects than there are";
        change.inline.as_ref().is_none_or(|bytes| bytes.len() as u64 == size), "contents of another size than they have";
    }
}

fn of_before(known: &Known, next: Generation) -> Result<(), Insane> {
    node(known.node, known.generation)?;
    entry(&known.entry)?;
    hold! { known.generation < next, "a generation that nobody gave"; }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Hash;
    use crate::protocol::{Like, Moved};

    fn good() -> Entry {
        let attrs = Attrs {
            mode: 0o644,
            user: Principal::Name("DOM\\Ann Lee".into()),
            group: Principal::Id(7),
            mtime: Time { secs: -1, nanos: 999_999_999 },
            xattrs: Xattrs::from([(b"user.x".to_vec().into(), b"y".to_vec().into())]),
        };
        Entry { content: Content::File { size: 5, hash: Some(Hash([1; 32])) }, attrs }
    }

    fn link(target: &[u8]) -> Content {
        Content::Link { target: target.into() }
    }

    #[test]
    fn entries() {
        assert_eq!(entry(&good()), Ok(()));
        type Spoil = fn(&mut Entry);
        let table: &[(Spoil, Insane)] = &[
            (|e| e.content = Content::File { size: 1 << 63, hash: None }, "a size out of range"),
            (|e| e.content = link(b""), "a link's target that cannot be one"),
            (|e| e.content = link(b"a\0b"), "a link's target that cannot be one"),
            (|e| e.content = link(&[b'a'; 4096]), "a link's target that cannot be one"),
            (|e| e.attrs.mode = 0o10000, "a mode out of range"),
            (|e| e.attrs.mtime.nanos = 1_000_000_000, "a time with more than a second of nanoseconds"),
            (|e| e.attrs.user = Principal::Name("".into()), "an owner's name that cannot be one"),
            (|e| e.attrs.user = Principal::Name("a\0".into()), "an owner's name that cannot be one"),
            (|e| e.attrs.group = Principal::Name("a\nb".into()), "an owner's name that cannot be one"),
            (|e| e.attrs.group = Principal::Name("a".repeat(257).into()), "an owner's name that cannot be one"),
            (|e| put(e, b"trusted.x", 1), "an extended attribute of a kind that does not travel"),
            (|e| put(e, b"security.selinux", 1), "an extended attribute of a kind that does not travel"),
            (|e| put(e, b"user.", 1), "an extended attribute of a kind that does not travel"),
            (
                |e| put(e, &[&b"user."[..], &[b'x'; 251]].concat(), 1),
                "an extended attribute of a kind that does not travel",
            ),
            (|e| put(e, b"system.posix_acl_default", XATTRS_MAX), "too many bytes of extended attributes"),
            (|e| put(e, b"user.y", XATTR_MAX + 1), "an extended attribute that is too large"),
            (
                |e| (0..40_000).for_each(|n| put(e, format!("user.{n}").as_bytes(), 0)),
                "more extended attributes than an object can have",
            ),
        ];
        for (spoil, want) in table {
            let mut bad = good();
            spoil(&mut bad);
            assert_eq!(entry(&bad), Err(*want));
        }
    }

    fn put(entry: &mut Entry, name: &[u8], bytes: usize) {
        entry.attrs.xattrs.insert(name.into(), vec![0; bytes].into());
    }

    fn at(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).expect("a path")
    }

    #[test]
    fn reports() {
        let known = || Known { node: 20, generation: 30, entry: good() };
        let plain = Change {
            seq: 1,
            path: at("d/f"),
            parent: Some(18),
            known: Some(known()),
            moved: Some(Moved { from: at("e"), known: known(), edited: false }),
            after: Some(good()),
            contents: true,
            touched: false,
            read: true,
            inline: Some(serde_bytes::ByteBuf::from(*b"hello")),
            like: Some(Like { from: at("g"), node: 19, generation: 30 }),
            below: 7,
            young: 8,
        };
        assert_eq!(change(&plain, 31), Ok(()));
        type Spoil = fn(&mut Change);
        let table: &[(Spoil, Insane)] = &[
            (|c| c.seq = 0, "a report without a number"),
            (|c| c.path = RelPath::root(), "the root in place of an object"),
            (|c| c.parent = Some(1 << 60), "a directory's node that nobody gave"),
            (|c| c.parent = Some(0), "a directory's node that nobody gave"),
            // A young node would weigh nothing before the guard.
            (|c| known_of(c).node = 1 << 60, "a node that nobody gave"),
            (|c| known_of(c).node = ROOT_NODE, "a node that nobody gave"),
            (|c| known_of(c).generation = 31, "a generation that nobody gave"),
            (|c| known_of(c).entry.attrs.mode = 0o200_000, "a mode out of range"),
            (|c| moved_of(c).known.generation = u64::MAX, "a generation that nobody gave"),
            (|c| moved_of(c).from = RelPath::root(), "the root in place of an object"),
            (|c| like_of(c).node = 31, "a node that nobody gave"),
            (|c| like_of(c).generation = 31, "a generation that nobody gave"),
            (|c| c.below = u64::MAX, "more objects below a directory than there can be"),
            (|c| c.young = 9, "more young objects than there are"),
            (|c| c.inline = Some(serde_bytes::ByteBuf::from(*b"hell")), "contents of another size than they have"),
            (|c| c.after = None, "contents of another size than they have"),
        ];
        for (spoil, want) in table {
            let mut bad = plain.clone();
            spoil(&mut bad);
            assert_eq!(change(&bad, 31), Err(*want));
        }
    }

    fn known_of(change: &mut Change) -> &mut Known {
        change.known.as_mut().expect("known")
    }

    fn moved_of(change: &mut Change) -> &mut Moved {
        change.moved.as_mut().expect("moved")
    }

    fn like_of(change: &mut Change) -> &mut Like {
        change.like.as_mut().expect("like")
    }

    #[test]
    fn rows_and_paths() {
        let plain =
            AncestorRow { node: 20, parent: 1, path: at("f"), generation: 21, entry: Some(good()), joint: false };
        assert_eq!(row(&plain), Ok(()));
        assert_eq!(row(&AncestorRow { path: RelPath::root(), entry: None, ..plain.clone() }), Ok(()));
        for bad in [
            AncestorRow { node: 1, ..plain.clone() },
            AncestorRow { node: 16, ..plain.clone() },
            AncestorRow { node: 22, ..plain.clone() },
            AncestorRow { parent: 0, ..plain.clone() },
            AncestorRow { parent: 20, ..plain.clone() },
            AncestorRow { path: RelPath::root(), ..plain },
        ] {
            assert!(row(&bad).is_err(), "{bad:?}");
        }
        assert!(path(&at(".psyncx")).is_ok() && path(&at("d")).is_ok());
    }
}
