use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::model::{Hash, Name, RelPath};
use crate::protocol::{Data, Sums};
use crate::replica::archive::Signature;
use crate::replica::disk::{Disk, Own};
use crate::replica::real::{File, NoCover, RealDisk};

/// One way of contents from the file `new`, with what `old` holds, on a real disk.
struct Way {
    root: tempfile::TempDir,
    disk: RealDisk,
}

struct Carried {
    received: Received,
    contents: Vec<u8>,
    /// Bytes of contents and of sums that went over the line.
    literal: u64,
    sums: u64,
    copies: u64,
    blocks_on_disk: u64,
}

impl Way {
    fn new() -> Way {
        let root = tempfile::tempdir().expect("root");
        let disk = RealDisk::open(root.path(), "p", Arc::new(NoCover)).expect("disk");
        Way { root, disk }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.root.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).expect("written");
    }

    fn open(&self, name: &str) -> (File, u64) {
        let top = self.disk.open_dir(&RelPath::root()).expect("root");
        let file = self.disk.open_file(&top, &Name::new(name.as_bytes()).expect("name")).expect("opened");
        let size = self.disk.stat_file(&file).expect("stat").size;
        (file, size)
    }

    /// Carries the file `new` with the help of these; `meanwhile` is called once the sums are told.
    fn carry(&self, basis: &[&str], meanwhile: impl FnOnce(&Path)) -> Carried {
        let (file, _) = self.open("new");
        let signature = Signature::of(&self.disk.stat_file(&file).expect("stat"));
        let mut supply = Supply::new(file, signature, true);
        let stage = self.disk.own(Own::Stage).expect("stage");
        let name = Name::new(b"1.1").expect("name");
        let staged = self.disk.create(&stage, &name).expect("staged");
        let basis = Basis::new(basis.iter().map(|name| self.open(name)).collect());
        let mut receive = Receive::new(name.clone(), staged, signature.size, Some(basis));
        let (mut literal, mut sums_bytes, mut copies) = (0, 0, 0);
        let first = supply.step(&self.disk).expect("step");
        assert!(signature.size <= WHOLE || matches!(first, Supplied::Data(Data::Room { .. })));
        assert!(signature.size <= WHOLE || matches!(supply.step(&self.disk).expect("step"), Supplied::Wait));
        while receive.is_to_tell() {
            if let Some(sums) = receive.tell(&self.disk).expect("told") {
                if let Sums::Blocks { sums } = &sums {
                    sums_bytes += sums.len() as u64;
                }
                supply.hear(&sums);
            }
        }
        meanwhile(self.root.path());
        let received = loop {
            let data = match supply.step(&self.disk).expect("step") {
                Supplied::Data(data) | Supplied::Last(data) => data,
                Supplied::Wait => panic!("all credit was given back"),
            };
            match &data {
                Data::Chunk { bytes, .. } => literal += bytes.len() as u64,
                Data::Copy { .. } => copies += 1,
                _ => {}
            }
            match receive.take(&self.disk, &data).expect("taken") {
                Received::More { credit } => supply.add_credit(credit),
                end => break end,
            }
        };
        let at = self.root.path().join(".psync/p/stage/1.1");
        let contents = std::fs::read(&at).expect("staged file");
        let blocks_on_disk = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&at).expect("stat"));
        self.disk.discard(&stage, &name).expect("discarded");
        Carried { received, contents, literal, sums: sums_bytes, copies, blocks_on_disk }
    }
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut reader = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
    let mut bytes = vec![0; length];
    reader.fill(&mut bytes);
    bytes
}

const MIB: usize = 1 << 20;

fn splice(old: &[u8], at: usize, remove: usize, insert: &[u8]) -> Vec<u8> {
    [&old[..at], insert, &old[at + remove..]].concat()
}

/// What a receiver of 100,000 bytes makes of the last of these pieces, and how large its file is then.
fn received(pieces: &[Data]) -> (Received, u64) {
    let way = Way::new();
    way.write("old", &noise(1, 2 * MIB));
    let stage = way.disk.own(Own::Stage).expect("stage");
    let name = Name::new(b"1.1").expect("name");
    let file = way.disk.create(&stage, &name).expect("staged");
    let mut receive = Receive::new(name.clone(), file, 100_000, Some(Basis::new(vec![way.open("old")])));
    let taken = pieces.iter().map(|piece| receive.take(&way.disk, piece).expect("taken")).last();
    (taken.expect("a piece"), way.disk.stat(&stage, &name).expect("stat").size)
}

#[test]
fn what_a_source_says_of_sizes_is_checked_before_anything_is_done() {
    let chunk = |offset, length| Data::Chunk { offset, bytes: vec![7; length].into() };
    let copy = |offset, from, length| Data::Copy { offset, from, length };
    let end = |size| Data::End { size, hash: Hash([0; 32]) };
    let more = |credit| Received::More { credit };
    for (pieces, result, size) in [
        (vec![chunk(0, 10)], more(10), 10),
        (vec![chunk(99_990, 10)], more(10), 100_000),
        (vec![chunk(99_991, 10)], Received::Broken, 0),
        (vec![chunk(1 << 60, 10)], Received::Broken, 0),
        (vec![chunk(u64::MAX, 10)], Received::Broken, 0),
        (vec![chunk(50, 10), chunk(59, 10)], Received::Broken, 60),
        (vec![copy(0, 0, 4096)], more(cost(4096)), 4096),
        (vec![copy(0, 0, 100_001)], Received::Broken, 0),
        (vec![copy(u64::MAX - 1, 0, 2)], Received::Broken, 0),
        (vec![copy(99_000, 0, u64::MAX)], Received::Broken, 0),
        (vec![copy(0, 1 << 60, 4096)], Received::Broken, 0),
        (vec![copy(0, u64::MAX, 4096)], Received::Broken, 0),
        (vec![Data::Whole { bytes: vec![7; 10].into() }], Received::Broken, 0),
        (vec![chunk(0, 10), Data::Whole { bytes: vec![7; 100_000].into() }], Received::Broken, 10),
        (vec![end(1 << 62)], Received::Broken, 0),
        (vec![end(0)], Received::Broken, 0),
    ] {
        let what = format!("{:.60}", format!("{pieces:?}"));
        let start = std::time::Instant::now();
        assert_eq!(received(&pieces), (result, size), "{what}");
        assert!(start.elapsed().as_secs() < 5, "{what}: work was done for it");
    }
}

#[test]
fn a_hole_of_15_tib_is_no_work_for_either_side() {
    let way = Way::new();
    let size = 15 << 40;
    for name in ["new", "old"] {
        way.write(name, b"");
        let file = std::fs::File::options().write(true).open(way.path(name)).expect("opened");
        if file.set_len(size).is_err() {
            // No file system for it: then nobody can make such a file there.
            return;
        }
        std::os::unix::fs::FileExt::write_all_at(&file, b"data", 1 << 42).expect("written");
    }
    let start = std::time::Instant::now();
    for delta in [false, true] {
        let (file, _) = way.open("new");
        let mut supply =
            Supply::new(file, Signature::of(&way.disk.stat_file(&way.open("new").0).expect("stat")), delta);
        let stage = way.disk.own(Own::Stage).expect("stage");
        let name = Name::new(b"1.1").expect("name");
        let basis = delta.then(|| Basis::new(vec![way.open("old")]));
        let mut receive = Receive::new(name.clone(), way.disk.create(&stage, &name).expect("staged"), size, basis);
        while receive.is_to_tell() {
            if let Some(sums) = receive.tell(&way.disk).expect("told") {
                supply.hear(&sums);
            }
        }
        let received = loop {
            match supply.step(&way.disk).expect("step") {
                Supplied::Data(data) | Supplied::Last(data) => match receive.take(&way.disk, &data).expect("taken") {
                    Received::More { credit } => supply.add_credit(credit),
                    end => break end,
                },
                Supplied::Wait => panic!("all credit was given back"),
            }
        };
        assert!(matches!(received, Received::Complete { size: all, .. } if all == size), "{received:?}");
        way.disk.discard(&stage, &name).expect("discarded");
    }
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
}

#[test]
fn what_the_receiver_has_does_not_travel() {
    let old = noise(1, 5 * MIB + 1234);
    let other = noise(2, 3 * MIB);
    let some = noise(3, 5000);
    // What, the new contents, the most bytes of it that may travel.
    let block = blocks::block_size(old.len() as u64) as usize;
    let cases: &[(&str, Vec<u8>, usize)] = &[
        ("nothing changed", old.clone(), 0),
        ("one byte", splice(&old, MIB + 7, 1, b"!"), block),
        ("in the last, shorter block", splice(&old, old.len() - 9, 1, b"!"), block),
        ("over two blocks", splice(&old, 4 * block - 100, 200, &some[..200]), 2 * block),
        ("inserted in front", splice(&old, 0, 0, &some), some.len()),
        ("inserted", splice(&old, 2 * MIB + 11, 0, &some), some.len() + block),
        ("cut out", splice(&old, 2 * MIB + 11, 5000, b""), block),
        ("appended", splice(&old, old.len(), 0, &some), some.len() + block),
        ("cut short", old[..3 * MIB + 5].to_vec(), block),
        ("halves exchanged", [&old[2 * MIB..], &old[..2 * MIB]].concat(), 2 * block),
        ("all else", other.clone(), other.len()),
        ("nothing left", Vec::new(), 0),
        ("the old within others", [&other[..MIB + 3], &old[..], &other[MIB..]].concat(), other.len() + 3 + block),
    ];
    let way = Way::new();
    way.write("old", &old);
    for (what, new, most) in cases {
        way.write("new", new);
        let carried = way.carry(&["old"], |_| {});
        assert!(matches!(carried.received, Received::Complete { .. }), "{what}: {:?}", carried.received);
        assert!(carried.contents == *new, "{what}");
        assert!(carried.literal <= *most as u64, "{what}: {} of at most {most}", carried.literal);
        assert!(carried.sums <= 16 * old.len().div_ceil(block) as u64, "{what}: {} for sums", carried.sums);
    }
}

#[test]
fn two_files_help_as_one() {
    let way = Way::new();
    let new = noise(1, 3 * MIB + 77);
    way.write("new", &new);
    way.write("first", &new[..MIB + 500]);
    way.write("then", &new[2 * MIB..]);
    let carried = way.carry(&["first", "then"], |_| {});
    assert!(carried.contents == new && matches!(carried.received, Received::Complete { .. }));
    assert!(carried.literal < (MIB + 40_000) as u64 && carried.copies > 1, "{}", carried.literal);
    let carried = way.carry(&[], |_| {});
    assert!(carried.contents == new && carried.literal == new.len() as u64);
}

#[test]
fn a_basis_that_changes_meanwhile_is_caught_by_the_hash() {
    let way = Way::new();
    let old = noise(1, 2 * MIB);
    way.write("old", &old);
    way.write("new", &splice(&old, 100, 1, b"!"));
    let changed = way.carry(&["old"], |root| {
        let file = std::fs::OpenOptions::new().write(true).open(root.join("old")).expect("opened");
        std::os::unix::fs::FileExt::write_all_at(&file, b"other", MIB as u64).expect("written");
    });
    assert_eq!(changed.received, Received::Broken);
    let cut = way.carry(&["old"], |root| std::fs::write(root.join("old"), b"").expect("cut"));
    assert_eq!(cut.received, Received::Broken);
}

#[test]
fn a_file_that_changes_meanwhile_is_given_up() {
    let way = Way::new();
    let old = noise(1, 2 * MIB);
    way.write("old", &old);
    way.write("new", &old);
    let changed = way.carry(&["old"], |root| {
        let file = std::fs::OpenOptions::new().write(true).open(root.join("new")).expect("opened");
        std::os::unix::fs::FileExt::write_all_at(&file, b"other", MIB as u64).expect("written");
    });
    assert_eq!(changed.received, Received::Broken);
    way.write("new", &old);
    let cut = way.carry(&["old"], |root| std::fs::write(root.join("new"), b"short").expect("cut"));
    assert_eq!(cut.received, Received::Broken);
}

#[test]
fn holes_stay_holes() {
    let way = Way::new();
    let make = |name: &str, size: u64, data: &[(u64, Vec<u8>)]| {
        let file = std::fs::File::create(way.path(name)).expect("made");
        file.set_len(size).expect("length");
        for (at, bytes) in data {
            std::os::unix::fs::FileExt::write_all_at(&file, bytes, *at).expect("written");
        }
    };
    let size = 64 * MIB as u64;
    let middle = (size / 2, noise(1, 300_000));
    make("old", size, &[(0, noise(2, 5000)), middle.clone()]);
    make("new", size, &[(0, noise(3, 5000)), middle, (size - 9000, noise(4, 100))]);
    let carried = way.carry(&["old"], |_| {});
    assert!(carried.contents == std::fs::read(way.path("new")).expect("read"));
    assert!(carried.literal < 64 * 1024, "{}", carried.literal);
    assert!(carried.blocks_on_disk < 2 * 300_000 / 512, "{} blocks", carried.blocks_on_disk);
}

/// Whatever the receiver says it has, the source sends what makes the whole, or nothing passes.
#[test]
fn sums_that_make_no_sense_mean_no_basis() {
    let bytes = |count: usize| serde_bytes::ByteBuf::from(vec![7; count]);
    let basis = |block, size| Sums::Basis { block, size };
    let wrong: &[&[Sums]] = &[
        &[basis(0, 100)],
        &[basis(63, 100)],
        &[basis(1 << 25, 100)],
        &[basis(64, u64::MAX)],
        &[basis(64, 0)],
        &[basis(64, 64), Sums::Blocks { sums: bytes(16) }, basis(64, 0)],
        &[basis(64, 128), basis(64, 128)],
        &[basis(64, 100), Sums::Blocks { sums: bytes(32) }, basis(64, 128)],
        &[basis(64, 128), Sums::Blocks { sums: bytes(32) }, basis(128, 128)],
        &[basis(64, 128), Sums::Blocks { sums: bytes(48) }],
        &[basis(64, 128), Sums::Blocks { sums: bytes(31) }],
        &[basis(64, 128), Sums::Blocks { sums: bytes(16) }, Sums::End],
        &[Sums::Blocks { sums: bytes(16) }],
    ];
    for told in wrong {
        let mut blocks = blocks::Blocks::new();
        let (last, before) = told.split_last().expect("some");
        assert!(before.iter().all(|sums| blocks.hear(sums) == Some(false)), "{told:?}");
        assert_eq!(blocks.hear(last), None, "{told:?}");
    }
}

#[test]
fn sums_take_as_much_room_as_a_block() {
    for (bytes, block) in [(1, 64), (1 << 20, 4096), (1 << 30, 1 << 17), (1 << 40, 1 << 23), (u64::MAX, 1 << 24)] {
        assert_eq!(blocks::block_size(bytes), block, "{bytes}");
    }
}

/// Contents that have one weak sum and not the strong one cost no more than a few strong sums.
#[test]
fn contents_made_to_look_alike_are_given_up() {
    // All windows of zeros have the weak sum 0; so does the block of the basis, whose strong sum is another's.
    let (block, size) = (4096, 4096 * 256);
    let mut blocks = blocks::Blocks::new();
    blocks.hear(&Sums::Basis { block, size: size as u64 });
    let false_sum = [vec![0; 4], vec![9; 12]].concat();
    blocks.hear(&Sums::Blocks { sums: serde_bytes::ByteBuf::from(false_sum.repeat(256)) });
    blocks.hear(&Sums::End);
    let mut windows = 0;
    let window = vec![0; 8192];
    while blocks.search(&window).is_none() && windows < 10 {
        windows += 1;
    }
    assert!(blocks.has_given_up());
}
