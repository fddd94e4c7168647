//! Relative paths of bytes: the only kind of path that crosses the wire or reaches a file operation.

use std::cmp::Ordering;
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::words;

/// The longest name of one object, in bytes (`NAME_MAX` of every Linux file system).
pub const NAME_MAX: usize = 255;
/// The longest relative path, in bytes (`PATH_MAX` less its terminator).
pub const PATH_MAX: usize = 4095;
/// The directory at the top of every root that belongs to psync. No [`Name`] is this one, so no [`RelPath`] leads into it,
/// whoever it comes from: psync itself reaches it by a descriptor.
pub const OWN_DIR: &[u8] = b".psync";

/// Why a sequence of bytes is no path inside a root.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("the name is empty")]
    Empty,
    #[error("the name is '.' or '..'")]
    Dots,
    #[error("the name holds a slash or a NUL")]
    BadByte,
    #[error("the name '.psync' is psync's own, and never travels")]
    Own,
    #[error("the name is {0} bytes long, more than 255")]
    LongName(usize),
    #[error("the path is {0} bytes long, more than 4095")]
    LongPath(usize),
}

/// The name of one object in its directory: 1 to 255 bytes, no slash, no NUL, not `.`, `..` or `.psync`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<[u8]>);

impl Name {
    /// Checks `bytes` and keeps them.
    pub fn new(bytes: &[u8]) -> Result<Name, PathError> {
        check_name(bytes)?;
        Ok(Name(bytes.into()))
    }

    /// The name's bytes, in no particular encoding.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

fn check_name(bytes: &[u8]) -> Result<(), PathError> {
    match bytes {
        b"" => Err(PathError::Empty),
        b"." | b".." => Err(PathError::Dots),
        OWN_DIR => Err(PathError::Own),
        _ if bytes.len() > NAME_MAX => Err(PathError::LongName(bytes.len())),
        _ if bytes.iter().any(|b| matches!(b, b'/' | 0)) => Err(PathError::BadByte),
        _ => Ok(()),
    }
}

/// A path below a root: names joined by single slashes; the root itself is the empty path.
///
/// The order puts a directory right before all that lies below it, so that a subtree is one range.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RelPath(Arc<[u8]>);

impl RelPath {
    /// The root.
    pub fn root() -> RelPath {
        RelPath(Arc::from(&b""[..]))
    }

    /// Checks `bytes` and keeps them; the empty sequence is the root.
    pub fn new(bytes: &[u8]) -> Result<RelPath, PathError> {
        if bytes.is_empty() {
            return Ok(RelPath::root());
        }
        if bytes.len() > PATH_MAX {
            return Err(PathError::LongPath(bytes.len()));
        }
        bytes.split(|b| *b == b'/').try_for_each(check_name)?;
        Ok(RelPath(bytes.into()))
    }

    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The path of `name` in this directory; an error if it grows too long.
    pub fn join(&self, name: &Name) -> Result<RelPath, PathError> {
        if self.is_root() {
            return Ok(RelPath(name.0.clone()));
        }
        let length = self.0.len() + 1 + name.0.len();
        if length > PATH_MAX {
            return Err(PathError::LongPath(length));
        }
        let mut bytes = Vec::with_capacity(length);
        bytes.extend_from_slice(&self.0);
        bytes.push(b'/');
        bytes.extend_from_slice(&name.0);
        Ok(RelPath(bytes.into()))
    }

    /// Whether this directory is to be looked for from the root on, by whoever comes from the one above it. The kernel's way
    /// there is as long as the path: far down in a tree only every sixteenth is asked for so.
    pub fn is_landmark(&self) -> bool {
        const ALL: usize = 64;
        const EACH: usize = 16;
        let depth = self.0.iter().filter(|byte| **byte == b'/').count();
        depth < ALL || depth % EACH == 0
    }

    /// Whether a name in this directory may make its path too long.
    pub fn is_at_the_limit(&self) -> bool {
        self.0.len() + 1 + NAME_MAX > PATH_MAX
    }

    /// The path of these names, one below the other.
    pub fn of_names<'a>(names: impl Iterator<Item = &'a Name>) -> Result<RelPath, PathError> {
        let mut bytes = Vec::new();
        for name in names {
            if !bytes.is_empty() {
                bytes.push(b'/');
            }
            bytes.extend_from_slice(&name.0);
        }
        RelPath::new(&bytes)
    }

    /// How many bytes of this path name the same directories as the other one's first bytes.
    pub fn shared_length(&self, other: &RelPath) -> usize {
        let at = first_difference(&self.0, &other.0);
        let ends = |bytes: &[u8]| bytes.get(at).is_none_or(|byte| *byte == b'/');
        match ends(&self.0) && ends(&other.0) {
            true => at,
            false => self.0[..at].iter().rposition(|byte| *byte == b'/').unwrap_or(0),
        }
    }

    /// The directory that holds this path and the name in it; `None` for the root.
    pub fn split(&self) -> Option<(RelPath, Name)> {
        if self.is_root() {
            return None;
        }
        Some(match self.0.iter().rposition(|b| *b == b'/') {
            Some(at) => (RelPath(self.0[..at].into()), Name(self.0[at + 1..].into())),
            None => (RelPath::root(), Name(self.0.clone())),
        })
    }

    /// The directory that holds this path; `None` for the root.
    pub fn parent(&self) -> Option<RelPath> {
        self.split().map(|(parent, _)| parent)
    }

    /// The last name; `None` for the root.
    pub fn name(&self) -> Option<Name> {
        self.split().map(|(_, name)| name)
    }

    /// The names from the root down.
    pub fn names(&self) -> impl Iterator<Item = Name> + '_ {
        self.0.split(|b| *b == b'/').filter(|part| !part.is_empty()).map(|part| Name(part.into()))
    }

    /// Every directory above this path, the nearest first, the root last.
    pub fn ancestors(&self) -> impl Iterator<Item = RelPath> + '_ {
        std::iter::successors(self.parent(), RelPath::parent)
    }

    /// Every directory above this path but the root, the topmost first.
    pub fn above_from_top(&self) -> impl Iterator<Item = RelPath> + '_ {
        let slashes = self.0.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        slashes.map(|(at, _)| RelPath(self.0[..at].into()))
    }

    /// This path, or the directory above it, that is one name longer than its first `length` bytes, which end a name.
    pub fn one_longer(&self, length: usize) -> RelPath {
        let from = if length == 0 { 0 } else { (length + 1).min(self.0.len()) };
        let end = self.0[from..].iter().position(|byte| *byte == b'/').map_or(self.0.len(), |at| from + at);
        RelPath(self.0[..end].into())
    }

    /// The topmost directory above this path in an ordered set, of those that `wanted` takes. `next` answers the set's first
    /// path from one on. Takes few look-ups, however deep the path is.
    pub fn topmost_above<'a>(
        &self,
        next: impl Fn(&RelPath) -> Option<&'a RelPath>,
        wanted: impl Fn(&RelPath) -> bool,
    ) -> Option<&'a RelPath> {
        let mut from = self.one_longer(0);
        while from != *self {
            let found = next(&from)?;
            // What lies beside the way sorts before all that is further down on it.
            let length = match self.is_below(found) {
                true if wanted(found) => return Some(found),
                true => found.0.len(),
                false if found >= self => return None,
                false => self.shared_length(found),
            };
            from = self.one_longer(length);
        }
        None
    }

    /// The nearest directory above this path in an ordered set. `last` answers the set's last path up to a bound. Takes
    /// few look-ups, however deep the path is.
    pub fn nearest_above<'a>(&self, last: impl Fn(Bound<&RelPath>) -> Option<&'a RelPath>) -> Option<&'a RelPath> {
        let mut found = last(Bound::Excluded(self))?;
        while !self.is_below(found) {
            // All directories of the set that this path lies in hold what was found as well.
            let shared = self.shared_dir(found)?;
            found = last(Bound::Included(&shared))?;
        }
        Some(found)
    }

    /// The deepest directory that holds both; `None` if this is the root.
    fn shared_dir(&self, other: &RelPath) -> Option<RelPath> {
        if self.is_root() {
            return None;
        }
        let at = first_difference(&self.0, &other.0);
        let slash = self.0[..at].iter().rposition(|b| *b == b'/').unwrap_or(0);
        Some(RelPath(self.0[..slash].into()))
    }

    /// Whether this path lies strictly below `top`.
    pub fn is_below(&self, top: &RelPath) -> bool {
        if top.is_root() {
            return !self.is_root();
        }
        self.0.len() > top.0.len() && self.0.starts_with(&top.0) && self.0[top.0.len()] == b'/'
    }

    /// Whether this path is `top` or lies below it.
    pub fn is_within(&self, top: &RelPath) -> bool {
        self == top || self.is_below(top)
    }

    /// This path with the leading `from` replaced by `to`; `None` if it does not lie within `from`
    /// or the result is too long.
    pub fn rebase(&self, from: &RelPath, to: &RelPath) -> Option<RelPath> {
        if self == from {
            return Some(to.clone());
        }
        if !self.is_below(from) {
            return None;
        }
        let skip = if from.is_root() { 0 } else { from.0.len() + 1 };
        let mut bytes = to.0.to_vec();
        if !to.is_root() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(&self.0[skip..]);
        RelPath::new(&bytes).ok()
    }
}

/// Where two sequences differ first, or the shorter one ends.
fn first_difference(a: &[u8], b: &[u8]) -> usize {
    const WIDE: usize = 64;
    let length = a.len().min(b.len());
    let (a, b) = (&a[..length], &b[..length]);
    // Deep paths have much in common: that is compared many bytes at a time.
    let equal = a.chunks_exact(WIDE).zip(b.chunks_exact(WIDE)).take_while(|(a, b)| a == b).count() * WIDE;
    equal + a[equal..].iter().zip(&b[equal..]).take_while(|(a, b)| a == b).count()
}

impl Ord for RelPath {
    fn cmp(&self, other: &RelPath) -> Ordering {
        // A slash sorts before every other byte; NUL cannot occur.
        let weight = |b: &u8| if *b == b'/' { 0 } else { *b };
        let at = first_difference(&self.0, &other.0);
        self.0.get(at).map(weight).cmp(&other.0.get(at).map(weight))
    }
}

impl PartialOrd for RelPath {
    fn partial_cmp(&self, other: &RelPath) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Bytes for people: valid UTF-8 as it is, control characters and other bytes as `\xNN`, marks that turn the text round as
/// `\u{NNNN}`, a backslash doubled.
pub fn readable(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                c => words::push(&mut out, c),
            }
        }
        for b in chunk.invalid() {
            out.push_str(&format!("\\x{b:02x}"));
        }
    }
    out
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_root() { "." } else { "" })?;
        f.write_str(&readable(&self.0))
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&readable(&self.0))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for RelPath {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for RelPath {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<RelPath, D::Error> {
        let bytes = serde_bytes::ByteBuf::deserialize(d)?;
        RelPath::new(&bytes).map_err(serde::de::Error::custom)
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Name, D::Error> {
        let bytes = serde_bytes::ByteBuf::deserialize(d)?;
        Name::new(&bytes).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(s: &str) -> RelPath {
        RelPath::new(s.as_bytes()).expect("a valid path")
    }

    #[test]
    fn refuses_what_could_leave_the_root() {
        for bad in ["/a", "a/", "a//b", ".", "..", "a/../b", "a/./b", "a\0b"] {
            assert!(RelPath::new(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert_eq!(RelPath::new(&[b'x'; 256]), Err(PathError::LongName(256)));
        assert!(RelPath::new(&[b'x'; 255]).is_ok());
        let long = vec!["abcdefg"; 513].join("/");
        assert_eq!(RelPath::new(long.as_bytes()), Err(PathError::LongPath(4103)));
    }

    #[test]
    fn psyncs_own_directory_has_no_path_and_comes_over_no_line() {
        for bad in [".psync", ".psync/pair/archive.db", "a/.psync", "a/.psync/b"] {
            assert_eq!(RelPath::new(bad.as_bytes()), Err(PathError::Own), "{bad}");
            let encoded = postcard::to_allocvec(&serde_bytes::Bytes::new(bad.as_bytes())).expect("bytes");
            assert!(postcard::from_bytes::<RelPath>(&encoded).is_err(), "{bad}");
        }
        assert_eq!(Name::new(b".psync"), Err(PathError::Own));
        let encoded = postcard::to_allocvec(&serde_bytes::Bytes::new(b".psync")).expect("bytes");
        assert!(postcard::from_bytes::<Name>(&encoded).is_err());
        for fine in [".psync.d", "x.psync", ".psyncs", "psync", ".PSYNC", "a/.psync~/b"] {
            assert!(RelPath::new(fine.as_bytes()).is_ok(), "{fine}");
        }
    }

    #[test]
    fn a_directory_sorts_right_before_its_subtree() {
        let mut all = ["a b", "a/z", "a", "a-c", "a/b/c", "b", "a/b", ""].map(path);
        all.sort();
        assert_eq!(all, ["", "a", "a/b", "a/b/c", "a/z", "a b", "a-c", "b"].map(path));
    }

    proptest::proptest! {
        #[test]
        fn order_and_directories_above_are_what_a_walk_says(
            names in proptest::collection::vec(proptest::collection::vec("[a-c+/]{1}[a-c]{0,2}", 1..6), 1..12),
            prefix in 0..200_usize,
        ) {
            // With a long way in common, which is compared many bytes at a time.
            let top = vec!["x"; prefix].join("/");
            let paths: Vec<RelPath> = names.iter().filter_map(|names| {
                RelPath::new(format!("{top}/{}", names.join("/").replace("//", "/")).trim_matches('/').as_bytes()).ok()
            }).collect();
            let weights = |p: &RelPath| p.0.iter().map(|b| if *b == b'/' { 0 } else { *b }).collect::<Vec<_>>();
            let set: std::collections::BTreeSet<RelPath> = paths.iter().skip(1).cloned().collect();
            for path in &paths {
                for other in &paths {
                    proptest::prop_assert_eq!(path.cmp(other), weights(path).cmp(&weights(other)));
                }
                let last = |to: Bound<&RelPath>| set.range((Bound::Unbounded, to)).next_back();
                let wanted = path.ancestors().find(|above| set.contains(above));
                proptest::prop_assert_eq!(path.nearest_above(last).cloned(), wanted);
            }
        }
    }

    #[test]
    fn within_below_and_rebase() {
        assert!(path("a/b").is_below(&path("a")) && !path("ab").is_below(&path("a")));
        assert!(path("a").is_within(&path("a")) && path("a").is_below(&RelPath::root()));
        assert_eq!(path("a/b/c").rebase(&path("a"), &path("x/y")), Some(path("x/y/b/c")));
        assert_eq!(path("a/b").rebase(&RelPath::root(), &path("x")), Some(path("x/a/b")));
        assert_eq!(path("ab").rebase(&path("a"), &path("x")), None);
        assert_eq!(path("a/b/c").ancestors().collect::<Vec<_>>(), ["a/b", "a", ""].map(path));
        assert_eq!(path("a/b/c").above_from_top().collect::<Vec<_>>(), ["a", "a/b"].map(path));
    }

    #[test]
    fn the_topmost_above_is_what_a_walk_from_the_top_finds() {
        let all =
            ["a", "a/a", "a/a/b", "a/a/b/c", "a/a/b/c/d", "a/ab", "a/b", "a-", "ab", "b", "a/a/b/a", "a/a/b/c/d/e"];
        let all: Vec<RelPath> = all.into_iter().map(path).collect();
        for bits in 0_u32..1 << all.len() {
            let chosen = all.iter().enumerate().filter(|(at, _)| bits & 1 << at != 0).map(|(_, path)| path.clone());
            let set: std::collections::BTreeSet<RelPath> = chosen.collect();
            let wanted = |path: &RelPath| path.as_bytes().len() != 3;
            for path in &all {
                let slow = path.above_from_top().find(|above| set.contains(above) && wanted(above));
                let found = path.topmost_above(|from| set.range(from..).next(), wanted);
                assert_eq!(found, slow.as_ref(), "{path} in {set:?}");
            }
        }
    }

    #[test]
    fn landmarks_are_all_that_is_not_deep_and_some_below() {
        let deep = |depth: usize| path(&vec!["d"; depth].join("/"));
        assert!(RelPath::root().is_landmark() && (1..=64).all(|depth| deep(depth).is_landmark()));
        let below: Vec<usize> = (65..=100).filter(|depth| deep(*depth).is_landmark()).collect();
        assert_eq!(below, [65, 81, 97]);
        assert!(
            !path(&"x".repeat(255)).is_at_the_limit() && deep(1921).is_at_the_limit() && !deep(1920).is_at_the_limit()
        );
    }

    #[test]
    fn what_two_paths_share_is_whole_names() {
        for (a, b, shared) in [
            ("a/b/c", "a/b/c", "a/b/c"),
            ("a/b/c", "a/b", "a/b"),
            ("a/b", "a/b/c", "a/b"),
            ("a/bc", "a/b", "a"),
            ("a/b", "a/c", "a"),
            ("ab", "a", ""),
            ("a", "b/a", ""),
        ] {
            assert_eq!(path(a).shared_length(&path(b)), shared.len(), "{a} and {b}");
        }
        assert_eq!(RelPath::root().shared_length(&path("a")), 0);
        let names = path("a/bc/d").names().collect::<Vec<_>>();
        assert_eq!(RelPath::of_names(names.iter()), Ok(path("a/bc/d")));
        assert_eq!(RelPath::of_names([].iter()), Ok(RelPath::root()));
        let long = Name::new(&[b'x'; 255]).unwrap();
        assert!(RelPath::of_names(std::iter::repeat_n(&long, 17)).is_err());
    }

    #[test]
    fn display_hides_no_byte() {
        let p = RelPath::new(b"a\n\xff\\").expect("legal");
        assert_eq!(p.to_string(), "a\\x0a\\xff\\\\");
        // What turns the text round would show another name than there is: `invoicefdp.exe` as `invoiceexe.pdf`.
        for mark in
            "\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2066}\u{2067}\u{2068}\u{2069}\u{200e}\u{200f}\u{61c}".chars()
        {
            let shown = format!("invoice\\u{{{:x}}}fdp.exe \u{5d0}\u{e9}", u32::from(mark));
            assert_eq!(readable(format!("invoice{mark}fdp.exe \u{5d0}\u{e9}").as_bytes()), shown);
        }
    }
}
