//! Sight in the model: who could ever read which contents, and histories of a user who keeps something to himself.
//!
//! The oracle's rule: psync never shows contents to somebody who could not read them when users last did something. Who
//! may read a file is told by its own rights and by those of all directories above it, on either side. Where the sides
//! differ it is the users' last word that counts: what psync has not carried over yet does not open what they closed.

use psync::model::{Kind, RelPath, Side, Sides};

use crate::choice::Choices;
use crate::history::{History, Profile};
use crate::model_disk::state::{Body, ROOT, STAGE, State, TRASH};
use crate::model_disk::{ModelDisk, Obj};
use crate::plan::{Act, Fault, Item};
use crate::users::{Call, Maker, Task};

/// One seed of so many, the one with this rest, is such a history.
const EVERY: u64 = 13;
const REST: u64 = 8;

/// A set of those who look: one bit for each of [`WHO`].
pub type Eyes = u8;
const WHO: [&str; 3] = ["alice", "bob", "a stranger"];
const ALL: Eyes = 0b111;
const READ: u32 = 4;
const ENTER: u32 = 1;
/// Whatever a directory's rights were, with these it only opens.
const OPEN: u32 = 0o755;

impl State {
    /// Who has this right to an object. An owner can give it to himself.
    fn lets(&self, obj: Obj, right: u32) -> Eyes {
        let meta = &self.inode(obj).meta;
        let has = |who: &str| match (self.name_of(meta.uid), self.name_of(meta.gid)) {
            (Some(owner), _) if owner == who => true,
            (_, Some(group)) if group == who => meta.mode & (right << 3) != 0,
            _ => meta.mode & right != 0,
        };
        (0..).zip(WHO).filter(|(_, who)| has(who)).fold(0, |eyes, (bit, _)| eyes | 1 << bit)
    }

    fn enter(&self, dir: Obj) -> Eyes {
        match dir {
            // The root's rights do not travel.
            ROOT => ALL,
            STAGE | TRASH => self.lets(dir, ENTER),
            _ => self.lets(dir, ENTER) & self.enter_above(dir),
        }
    }

    fn enter_above(&self, obj: Obj) -> Eyes {
        self.inode(obj).names.iter().fold(0, |eyes, (dir, _)| eyes | self.enter(*dir))
    }

    /// Who can read a file now, under any of its names.
    fn readers(&self, file: Obj) -> Eyes {
        self.lets(file, READ) & self.enter_above(file)
    }

    /// psync made what lies at or below an object what it is now, or put it there.
    pub fn check_sight(&mut self, obj: Obj) {
        if !self.world.sighted.get() || !(self.is_within(obj, ROOT) || self.is_own_dir(obj)) {
            return;
        }
        let mut files = Vec::new();
        self.files_below(obj, &mut files);
        for (file, contents) in files.into_iter().filter(|(_, contents)| !contents.is_empty()) {
            let readers = self.readers(file);
            self.inode_mut(file).readers |= readers;
            let new = readers & !self.world.who_read(&contents);
            if new != 0 {
                let path = self.path_of(file).map_or_else(|| "psync's own".to_owned(), |path| path.to_string());
                let who: Vec<&str> =
                    (0..).zip(WHO).filter(|(bit, _)| new & 1 << bit != 0).map(|(_, who)| who).collect();
                let (side, text) = (self.side.word(), String::from_utf8_lossy(&contents[..contents.len().min(24)]));
                self.world.violation(format!("seen: {side} {path}: {} may read {text:?}", who.join(" and ")));
            }
        }
    }
}

/// Before a user's call: where both sides have the same rights, what users said has been dealt with.
pub fn agree(disks: &Sides<ModelDisk>) {
    if !disks[Side::Left].state().world.sighted.get() {
        return;
    }
    let (mut left, mut right) = (disks[Side::Left].state_mut(), disks[Side::Right].state_mut());
    let mut found = Vec::new();
    below(&left, ROOT, &RelPath::root(), &mut found);
    for (path, here) in found {
        let Ok(there) = right.resolve(&path) else { continue };
        let rights = |state: &State, obj| {
            let meta = &state.inode(obj).meta;
            (state.stat(obj).kind, meta.mode, state.name_of(meta.uid), state.name_of(meta.gid))
        };
        if rights(&left, here) == rights(&right, there) {
            left.inode_mut(here).told_rights = false;
            right.inode_mut(there).told_rights = false;
        }
    }
}

/// After a user's call: who can read what now, and who will when both sides are alike.
pub fn learn(disks: &Sides<ModelDisk>, call: &Call) {
    let world = disks[Side::Left].state().world.clone();
    if !world.sighted.get() {
        return;
    }
    let mut places = world.places.borrow_mut();
    if let Call::Rename(from, to) = call {
        let rebased = |path: &RelPath| if path == from { Some(to.clone()) } else { path.rebase(from, to) };
        places.values_mut().for_each(|place| place.path = rebased(&place.path).unwrap_or_else(|| place.path.clone()));
    }
    for disk in disks.values() {
        let mut found = Vec::new();
        below(&disk.state(), ROOT, &RelPath::root(), &mut found);
        for (path, obj) in found {
            let mut state = disk.state_mut();
            let Body::File(contents) = state.inode(obj).body.clone() else { continue };
            let (side, now, itself) = (state.side, state.readers(obj), state.lets(obj, READ));
            drop(state);
            let eyes = now | joined(disks, side, &path) & joined_file(disks, side, &path);
            state = disk.state_mut();
            state.inode_mut(obj).readers = eyes;
            world.show(&contents, eyes);
            let place = places.entry((contents, side)).or_insert(Place { path: path.clone(), itself });
            (place.path, place.itself) = (path, place.itself | itself);
        }
        // Who writes to what psync took away shows it to those who could read it where it lay.
        let state = disk.state();
        for obj in state.user_files.values().map(|file| file.obj()).filter(|obj| !state.is_within(*obj, ROOT)) {
            if let Body::File(contents) = &state.inode(obj).body {
                world.show(contents, state.inode(obj).readers);
            }
        }
    }
    // What users have replaced, closed or removed since may still be on its way. It is so before a directory above it opens to
    // everybody; who closes to some and opens to others, or makes a directory again, is not promised that order, but for
    // what leaves a closed place.
    let keeps_order = match call {
        Call::Chmod(_, mode) => *mode == OPEN,
        Call::Chown(..) | Call::Rename(..) | Call::Mkdir(_) => false,
        _ => true,
    };
    if keeps_order || world.in_order.get() {
        return;
    }
    for ((contents, side), place) in places.iter() {
        world.show(contents, joined(disks, *side, &place.path) & place.itself);
    }
}

/// Where contents were last seen on a side.
pub struct Place {
    /// The name that they would have now.
    path: RelPath,
    /// Who ever could read the file itself.
    itself: Eyes,
}

/// Who will be able to come to `path` on a side once both sides are alike.
fn joined(disks: &Sides<ModelDisk>, side: Side, path: &RelPath) -> Eyes {
    let dirs = path.ancestors().filter(|dir| !dir.is_root());
    dirs.fold(ALL, |eyes, dir| eyes & joined_rights(disks, side, &dir, Kind::Dir, ENTER))
}

fn joined_file(disks: &Sides<ModelDisk>, side: Side, path: &RelPath) -> Eyes {
    joined_rights(disks, side, path, Kind::File, READ)
}

/// Whom the object at `path` lets in by the users' last word, or now on this side.
fn joined_rights(disks: &Sides<ModelDisk>, side: Side, path: &RelPath, kind: Kind, right: u32) -> Eyes {
    let words = disks.as_ref().map(|disk| {
        let state = disk.state();
        let obj = state.resolve(path).ok().filter(|obj| state.stat(*obj).kind == Some(kind))?;
        Some((state.inode(obj).told_rights, state.lets(obj, right)))
    });
    let told = words.values().flatten().any(|(told, _)| *told);
    let said = words.values().flatten().filter(|word| word.0 || !told).chain(&words[side]);
    said.fold(0, |all, (_, eyes)| all | eyes)
}

fn below(state: &State, dir: Obj, path: &RelPath, found: &mut Vec<(RelPath, Obj)>) {
    for (name, obj) in state.entries(dir).expect("a directory") {
        let at = path.join(name).expect("short names");
        found.push((at.clone(), *obj));
        if state.is_dir(*obj) {
            below(state, *obj, &at, found);
        }
    }
}

/// Whether a seed's history is one of somebody who keeps something to himself.
pub fn is_private(seed: u64) -> bool {
    seed % EVERY == REST
}

/// A history of alice, who closes and opens directories on one side, and of those who share her tree.
///
/// Only she gives rights: whose word counts where both sides gave some is not asked here. In one of two histories the other
/// side only removes; in the others both sides write, and nothing is renamed into another directory.
pub fn history(seed: u64, choices: &Choices) -> History {
    let (crashes, events) = (choices.one_in(3), choices.one_in(3));
    let profile = Profile { private: true, crashes, events, ..Profile::default() };
    let keeper = if choices.one_in(2) { Side::Left } else { Side::Right };
    let alone = choices.one_in(2);
    let mut value = 0;
    let mut maker = Maker { choices, value: &mut value, unique_sizes: false, home: None };
    let mut before = Vec::new();
    for dir in DIRS {
        let mut calls = vec![Call::Mkdir(path(dir))];
        if choices.one_in(3) {
            calls.push(Call::Chmod(path(dir), 0o700));
        }
        for file in FILES {
            calls.extend(
                choices
                    .one_in(2)
                    .then(|| maker.write_calls(&path(&format!("{dir}/{file}")), true))
                    .into_iter()
                    .flatten(),
            );
        }
        before.push(Task { side: keeper, pace: 0, calls });
    }
    let phases = (0..1 + choices.below(3)).map(|_| phase(choices, profile, keeper, alone, &mut maker)).collect();
    History { schedule: seed ^ 0x5eed, profile, features: Default::default(), before, phases }
}

/// Seeds from here on are histories of what leaves a closed place. Those below would be others if they had a share in them.
pub const LEAVERS: u64 = 1 << 40;

/// A history of alice, who closes what lies in a directory of hers that is closed to all, or removes it, and moves it to where
/// all may look; in one of five it stays, and the directory opens.
pub fn leavers(seed: u64, choices: &Choices) -> History {
    let (crashes, events) = (choices.one_in(4), choices.one_in(4));
    let profile = Profile { private: true, in_order: true, crashes, events, ..Profile::default() };
    let opens = (seed % 5 == 4).then_some([OPEN, 0o711, 0o750][(seed / 5 % 3) as usize]);
    let side = if choices.one_in(2) { Side::Left } else { Side::Right };
    let mut value = 0;
    let mut maker = Maker { choices, value: &mut value, unique_sizes: false, home: None };
    let mut calls = vec![Call::Mkdir(path("o")), Call::Chmod(path("o"), *choices.pick(&[0o700, 0o750, 0o710]))];
    calls.extend(["o/in", "o/in/deep"].map(|dir| Call::Mkdir(path(dir))));
    for file in ["o/s", "o/in/s", "o/in/deep/s"] {
        calls.extend(maker.write_calls(&path(file), true));
    }
    let before = vec![Task { side, pace: 0, calls }];
    let mut at = 1_000_000;
    let mut items = Vec::new();
    for moved in 0..1 + choices.below(3) {
        at += *choices.pick(&[0, 3, 60, 1_000_000]);
        let top = path(choices.pick::<&str>(&["o/in", "o/in", "o/s", "o/in/deep", "o/in/s"]));
        let mut calls = Vec::new();
        for _ in 0..1 + choices.below(3) {
            let file = path(choices.pick::<&str>(&["o/s", "o/in/s", "o/in/deep/s"]));
            match choices.below(5) {
                0 | 1 => calls.push(Call::Chmod(top.clone(), *choices.pick(&[0o700, 0o600, 0o750]))),
                2 => calls.push(Call::Chmod(file, 0o600)),
                3 => calls.push(Call::Unlink(file)),
                _ => calls.extend(maker.write_calls(&file, true)),
            }
        }
        // That contents of the same size and time are others is found after the move only.
        calls.retain(|call| !matches!(call, Call::PutTimeBack));
        match opens {
            Some(mode) => {
                calls.insert(0, Call::Chmod(path("o"), 0o700));
                calls.push(Call::Chmod(path("o"), mode));
            }
            None => calls.push(Call::Rename(top, path(&format!("p{moved}")))),
        }
        items.push(Item { at, act: Act::User(Task { side, pace: *choices.pick(&[0, 0, 1, 10]), calls }) });
        if profile.crashes {
            at += choices.below(300);
            let fault = match choices.below(3) {
                0 => Fault::LinkCut,
                1 => Fault::Crash(Side::Left),
                _ => Fault::Crash(Side::Right),
            };
            items.push(Item { at, act: Act::Fault(fault) });
        }
        if profile.events {
            items.push(Item { at, act: Act::Fault(Fault::LoseEvents(side)) });
        }
    }
    History { schedule: seed ^ 0x5eed, profile, features: Default::default(), before, phases: vec![items] }
}

const DIRS: [&str; 4] = ["d", "d/in", "o", "o/in"];
const FILES: [&str; 2] = ["s", "t"];

fn path(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).expect("a name")
}

fn phase(choices: &Choices, profile: Profile, keeper: Side, alone: bool, maker: &mut Maker) -> Vec<Item> {
    let mut at = 0;
    (0..2 + choices.below(10))
        .map(|_| {
            at += *choices.pick(&[0, 1, 3, 20, 60, 300, 1_000_000]);
            let act = match choices.below(12) {
                0 if profile.crashes => Act::Fault(Fault::Crash(*choices.pick(&Side::BOTH))),
                1 if profile.crashes => Act::Fault(Fault::LinkCut),
                2 if profile.events => Act::Fault(Fault::LoseEvents(keeper)),
                3 if profile.events => Act::Fault(Fault::ReorderEvents(keeper)),
                4 | 5 => Act::User(others(choices, keeper.other(), alone, maker)),
                _ => Act::User(keepers(choices, keeper, alone, maker)),
            };
            Item { at, act }
        })
        .collect()
}

/// What alice does.
fn keepers(choices: &Choices, side: Side, alone: bool, maker: &mut Maker) -> Task {
    let dir = *choices.pick(&DIRS);
    let name = |dir: &str| path(&format!("{dir}/{}", choices.pick(&FILES)));
    let (top, file) = (path(dir), name(dir));
    let closed = *choices.pick(&[0o700, 0o700, 0o700, 0o750, 0o710]);
    let mut calls = Vec::new();
    match choices.below(16) {
        // What is closed gets something new, or newly written, a moment later.
        0..=3 => {
            calls.push(Call::Chmod(top, closed));
            calls.extend(maker.write_calls(&file, true));
        }
        4 => {
            let parent = top.parent().filter(|above| !above.is_root());
            calls.extend(parent.map(|above| Call::Chmod(above, closed)));
            calls.extend(maker.write_calls(&file, true));
        }
        // Removed and made again, with other rights.
        5 => {
            calls.extend([Call::RemoveAll(top.clone()), Call::Mkdir(top.clone()), Call::Chmod(top, closed)]);
            calls.extend(maker.write_calls(&file, true));
        }
        6 => {
            calls.push(Call::Chmod(file.clone(), 0o600));
            calls.extend(maker.write_calls(&file, *choices.pick(&[true, false])));
        }
        7 => calls.push(Call::Chmod(top, *choices.pick(&[0o755, 0o711]))),
        8 => {
            let user = *choices.pick(&["alice", "bob"]);
            calls.push(Call::Chown(if choices.one_in(2) { top } else { file.clone() }, user));
            calls.extend(maker.write_calls(&file, true));
        }
        9 => {
            let temporary = path(&format!("{file}.tmp"));
            calls.extend(maker.write_calls(&temporary, true));
            calls.push(Call::Rename(temporary, file));
        }
        10 => {
            let other = if alone { name(choices.pick::<&str>(&DIRS)) } else { name(dir) };
            calls.push(Call::Rename(file, other));
        }
        11 if alone => {
            // Another place, other rights.
            let other = path(choices.pick::<&str>(&["d/in", "o/in", "p", "d/q"]));
            calls.push(Call::Rename(top, other.clone()));
            calls.push(Call::Chmod(other.clone(), closed));
            calls.extend(maker.write_calls(&name(&other.to_string()), true));
        }
        12 => calls.push(if choices.one_in(2) { Call::Unlink(file) } else { Call::RemoveAll(top) }),
        13 | 14 => {
            // Written late.
            calls.push(Call::Open { path: file, create: true, truncate: false });
            calls.push(Call::Sleep(choices.below(300)));
            calls.extend([Call::WriteAt { offset: 0, bytes: maker.value() }, Call::Close]);
        }
        _ => {
            calls.extend([Call::Mkdir(top.clone()), Call::Chmod(top, closed)]);
            calls.extend(maker.write_calls(&file, true));
        }
    }
    Task { side, pace: *choices.pick(&[0, 0, 1, 3, 10]), calls }
}

/// What others do on the other side; if alice is the only one who writes they only remove.
fn others(choices: &Choices, side: Side, alone: bool, maker: &mut Maker) -> Task {
    let dir = *choices.pick(&DIRS);
    let name = || path(&format!("{dir}/{}", choices.pick(&FILES)));
    let (top, file) = (path(dir), name());
    let mut calls = Vec::new();
    match choices.below(if alone { 4 } else { 9 }) {
        0 | 1 => calls.push(Call::Unlink(file)),
        2 => calls.push(Call::RemoveAll(top)),
        3 => calls.push(Call::Rmdir(top)),
        4 | 5 => calls.extend(maker.write_calls(&file, true)),
        6 => calls.push(Call::Rename(file, name())),
        7 => {
            calls.push(Call::Open { path: file, create: false, truncate: false });
            calls.push(Call::Sleep(choices.below(300)));
            calls.extend([Call::WriteAt { offset: 0, bytes: maker.value() }, Call::Close]);
        }
        _ => {
            calls.push(Call::Mkdir(top));
            calls.extend(maker.write_calls(&file, true));
        }
    }
    Task { side, pace: *choices.pick(&[0, 0, 1, 10]), calls }
}
