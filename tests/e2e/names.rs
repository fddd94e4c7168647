//! Names of every legal kind.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use crate::support::mounts::mount;
use crate::support::users::*;
use crate::support::{Pair, tree};

pub fn names() -> Vec<OsString> {
    let mut names: Vec<Vec<u8>> = [
        "new\nline",
        "tab\there",
        "quote\"d",
        "apostro'phe",
        "back\\slash",
        "-dash",
        "--delete",
        "trailing space ",
        " leading space",
        "co:lon",
        "semi;colon",
        "st*r",
        "qu?estion",
        "$HOME",
        "`ls`",
        "%s%n",
        "...",
        "..hidden",
        ".hidden",
        "~",
        "#hash#",
        "a|b",
        "<html>",
        "{brace}",
        "[bracket]",
        "ünïcödé",
        "日本語",
        "e\u{301}",
        "\u{e9}",
        "\u{202e}rtl",
        "emoji 🦀",
        "CON",
        "a.",
        "bell\x07",
        "del\x7f",
        "escape\x1b[31m",
        "cr\rlf",
        "report (conflict left 2020-01-02 03.04.05).txt",
        ".file.AbC123",
        ".psync.d",
        "psync",
        "x.psync",
    ]
    .iter()
    .map(|n| n.as_bytes().to_vec())
    .collect();
    names.push(b"not utf-8 \xff\xfe".to_vec());
    names.push(b"\x80".to_vec());
    names.push(vec![0xE4, 0xF6, 0xFC]);
    names.push((1..=255u8).filter(|b| *b != b'/').take(120).collect());
    names.push(vec![b'n'; 255]);
    names.push(vec![0xC3; 255]);
    names.push([vec![b'x'; 251], b".txt".to_vec()].concat());
    names.into_iter().map(OsString::from_vec).collect()
}

/// A file, a link and a directory of each name, with something in it.
fn make(at: &Path) {
    for kind in ["files", "links", "dirs"] {
        mkdirs(at.join(kind));
    }
    for name in names() {
        let shown = tree::show(name.as_bytes());
        write(at.join("files").join(&name), format!("contents of {shown}\n"));
        symlink(&name, at.join("links").join(&name));
        plant(at.join("dirs").join(&name).join(&name), shown);
    }
}

#[test]
fn names_of_every_legal_kind() {
    let mut pair = Pair::new();
    make(&pair.left.join("initial-left"));
    make(&pair.right.join("initial-right"));
    pair.run();
    make(&pair.left.join("live-left"));
    make(&pair.right.join("live-right"));
    let count = 4 * (4 + names().len() * 4);
    let tree = pair.settle();
    assert_eq!(tree.0.len(), count);

    for (root, at) in pair.sides().map(Path::to_owned).iter().zip(["live-right", "live-left"]) {
        for name in names() {
            append(root.join(at).join("files").join(&name), "edited\n");
            remove(root.join(at).join("links").join(&name));
            rename(root.join(at).join("dirs").join(&name), root.join(at).join("links").join(&name));
        }
    }
    let tree = pair.settle();
    assert_eq!(tree.0.len(), count - 2 * names().len());
    pair.stop();
}

#[test]
fn conflicts_of_names_of_every_legal_kind() {
    let pair = Pair::new();
    for name in names() {
        write(pair.left.join(&name), "base\n");
    }
    pair.sync();
    for name in names() {
        write(pair.left.join(&name), "left, older\n");
        touch(pair.left.join(&name), 1_577_934_245, 0);
        write(pair.right.join(&name), "right, newer\n");
        touch(pair.right.join(&name), 1_577_934_246, 0);
    }
    let tree = pair.sync();
    assert_eq!(tree.0.len(), 2 * names().len(), "{:?}", tree.paths());
    for name in names() {
        assert_eq!(read(pair.left.join(&name)), "right, newer\n");
    }
    let copies = tree.paths().into_iter().filter(|p| p.contains("(conflict left 2020-01-02 03.04.05"));
    assert!(copies.count() >= names().len(), "{:?}", tree.paths());
    // A leading dot starts no extension.
    assert!(tree.has(".hidden (conflict left 2020-01-02 03.04.05)"), "{:?}", tree.paths());
}

#[test]
fn deep_and_long_paths() {
    let mut pair = Pair::start(&[]);
    let name = "d".repeat(60);
    let mut deep = pair.left.clone();
    for _ in 0..50 {
        deep.push(&name);
        mkdir(&deep);
    }
    write(deep.join(OsStr::new("bottom")), "bottom\n");
    let tree = pair.settle();
    assert_eq!(tree.0.len(), 51);
    rename(pair.right.join(&name), pair.right.join("top"));
    let tree = pair.settle();
    assert!(tree.has("top") && !tree.has(&name));
    pair.stop();
}

#[test]
fn rows_with_long_names_and_large_attributes_are_exchanged() {
    let mut pair = Pair::new();
    // Other file systems hold less.
    let options = ["-o", "size=256m"];
    let Some(_left) = mount("tmpfs", &options, "psync-e2e".as_ref(), &pair.left) else { return };
    let Some(_right) = mount("tmpfs", &options, "psync-e2e".as_ref(), &pair.right) else { return };
    let long = |letter: &str| letter.repeat(255);
    for n in 0..40 {
        let name = format!("{n:03}{}", "n".repeat(252));
        plant(pair.left.join(&name), format!("{n}\n"));
        set_xattr(pair.left.join(&name), "user.large", &noise(n, 60_000));
    }
    let deep = pair.left.join((0..12).map(|_| long("d")).collect::<Vec<_>>().join("/"));
    for n in 0..300 {
        plant(deep.join(format!("{n:03}{}", "f".repeat(252))), format!("{n}\n"));
    }
    pair.run();
    // What was confirmed last is not on disk: the archives exchange their rows.
    pair.kill9_all();
    pair.run();
    pair.settle();
    pair.stop();
    let once = pair.sync_once();
    assert_eq!(once.code(), 0, "{}", once.stderr);
    let large = format!("039{}", "n".repeat(252));
    let tree = pair.assert_equal();
    assert!(tree.has(&large), "{:?}", tree.paths().len());
}
