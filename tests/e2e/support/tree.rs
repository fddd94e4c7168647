//! What a user can see of a tree, for comparing two.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::fmt::{self, Write};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// psync's own directory at a root's top.
pub const OWN: &str = ".psync";

/// How closely files are looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// What a stat tells.
    Stat,
    /// Contents as well.
    Contents,
}

/// One object as users see it.
#[derive(Clone, PartialEq, Eq)]
pub struct Node {
    pub kind: char,
    pub size: u64,
    pub contents: String,
    pub mode: u32,
    pub owner: (u32, u32),
    /// Nanoseconds since 1970 of a file; directories' and links' times are no state.
    pub mtime: i128,
    pub target: Vec<u8>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:04o} {}:{}", self.kind, self.mode, self.owner.0, self.owner.1)?;
        match self.kind {
            'f' => write!(f, " {} B {} at {}", self.size, self.contents, self.mtime)?,
            'l' => write!(f, " -> {}", show(&self.target))?,
            _ => {}
        }
        self.xattrs.iter().try_for_each(|(name, value)| write!(f, " {}={}", show(name), show(value)))
    }
}

/// All objects below a root by relative path, psync's own left out, and with them what psync cannot carry.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Tree(pub BTreeMap<Vec<u8>, Node>);

pub fn show(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

impl Tree {
    pub fn get(&self, path: &str) -> Option<&Node> {
        self.0.get(path.as_bytes())
    }

    pub fn has(&self, path: &str) -> bool {
        self.get(path).is_some()
    }

    /// The paths, as text.
    pub fn paths(&self) -> Vec<String> {
        self.0.keys().map(|path| show(path)).collect()
    }

    /// The part of the tree below a directory, by the path from there.
    pub fn below(&self, directory: &str) -> Tree {
        let start = format!("{directory}/").into_bytes();
        let part = self.0.iter().filter_map(|(p, n)| Some((p.strip_prefix(&start[..])?.to_vec(), n.clone())));
        Tree(part.collect())
    }

    /// The same without what cannot be foreseen: files' times.
    pub fn without_times(&self) -> Tree {
        let timeless = |(path, node): (&Vec<u8>, &Node)| (path.clone(), Node { mtime: 0, ..node.clone() });
        Tree(self.0.iter().map(timeless).collect())
    }

    /// The same without what `left_out` names, by path, and what lies below it.
    pub fn without(&self, left_out: impl Fn(&[u8]) -> bool) -> Tree {
        let above = |path: &[u8]| {
            let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| end);
            ends.chain([path.len()]).any(|end| left_out(&path[..end]))
        };
        Tree(self.0.iter().filter(|(path, _)| !above(path)).map(|(path, node)| (path.clone(), node.clone())).collect())
    }

    /// The first differences, a few lines for each; empty if there are none.
    pub fn differences(&self, other: &Tree, names: (&str, &str)) -> String {
        let mut out = String::new();
        let mut count = 0;
        let mut paths: Vec<_> = self.0.keys().chain(other.0.keys()).collect();
        paths.sort();
        paths.dedup();
        for path in paths {
            let (a, b) = (self.0.get(path), other.0.get(path));
            if a == b {
                continue;
            }
            count += 1;
            if count <= 25 {
                let side = |node: Option<&Node>| node.map_or("(nothing)".into(), |n| format!("{n:?}"));
                let (here, there) = (side(a), side(b));
                writeln!(out, "  {}\n    {:5} {here}\n    {:5} {there}", show(path), names.0, names.1).unwrap();
            }
        }
        if count > 25 {
            writeln!(out, "  ... {count} differences in all").unwrap();
        }
        out
    }
}

/// Walks a tree while it may change: what vanishes on the way is left out.
pub fn snapshot(root: &Path, depth: Depth) -> Tree {
    let mut tree = Tree::default();
    walk(root, &mut Vec::new(), depth, &mut tree.0);
    tree
}

fn walk(root: &Path, at: &mut Vec<u8>, depth: Depth, out: &mut BTreeMap<Vec<u8>, Node>) {
    let directory = root.join(OsStr::from_bytes(at));
    let Ok(names) = fs::read_dir(&directory) else { return };
    for name in names.flatten() {
        let name = name.file_name().into_vec();
        if at.is_empty() && name == OWN.as_bytes() {
            continue;
        }
        let length = at.len();
        if length > 0 {
            at.push(b'/');
        }
        at.extend_from_slice(&name);
        if let Ok(Some(node)) = look(&root.join(OsStr::from_bytes(at)), depth) {
            let is_dir = node.kind == 'd';
            out.insert(at.clone(), node);
            if is_dir {
                walk(root, at, depth, out);
            }
        }
        at.truncate(length);
    }
}

fn look(path: &Path, depth: Depth) -> io::Result<Option<Node>> {
    let meta = fs::symlink_metadata(path)?;
    let kind = meta.file_type();
    if kind.is_fifo() || kind.is_socket() || kind.is_block_device() || kind.is_char_device() {
        return Ok(None);
    }
    let letter = if kind.is_dir() {
        'd'
    } else if kind.is_symlink() {
        'l'
    } else {
        'f'
    };
    let file = letter == 'f';
    Ok(Some(Node {
        kind: letter,
        size: if file { meta.len() } else { 0 },
        contents: if file && depth == Depth::Contents { hash(path)? } else { String::new() },
        mode: if letter == 'l' { 0 } else { meta.mode() & 0o7777 },
        owner: (meta.uid(), meta.gid()),
        mtime: if file { i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec()) } else { 0 },
        target: if letter == 'l' { fs::read_link(path)?.into_os_string().into_vec() } else { Vec::new() },
        xattrs: if letter == 'l' { BTreeMap::new() } else { xattrs(path) },
    }))
}

fn hash(path: &Path) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    io::copy(&mut fs::File::open(path)?, &mut hasher)?;
    Ok(hasher.finalize().to_hex()[..12].to_owned())
}

/// `user.*` attributes and ACLs.
fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 65536];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    let names =
        names[..length].split(|b| *b == 0).filter(|n| n.starts_with(b"user.") || n.starts_with(b"system.posix"));
    let value = |name: &[u8]| {
        let mut value = vec![0; 65536];
        let length = rustix::fs::lgetxattr(path, CString::new(name).unwrap(), &mut value[..]).ok()?;
        Some((name.to_vec(), value[..length].to_vec()))
    };
    names.filter_map(value).collect()
}
