//! Pairs of moves: what both sides do to the same few objects at the same time, and where each must be afterwards.
//!
//! The oracle is strict. Each object is on both sides once, under the name that the rules give it, with what either side
//! wrote into it; there is no conflict copy; and what nobody wrote is the same object as before, moved and not sent again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::rc::Rc;

use psync::model::{Kind, RelPath, Side, Sides, Time};

use crate::choice::Choices;
use crate::driver::{Pair, RealPair, Turn};
use crate::history::{History, Profile, begin, run_phase, stage};
use crate::oracle::tree;
use crate::plan::Stage;
use crate::users::{Call, Running, Task, Text};

/// The pair comes to rest within this time, in milliseconds.
const REST: u64 = 5 * 60 * 1000;

/// From this seed on users set modes as well.
const MODES: u64 = 1 << 40;
/// And from this one on both sides had all of it before they met.
const MET: u64 = 1 << 41;
/// When they wrote it.
const THEN: Time = Time { secs: 1_600_000_000, nanos: 7 };

type Id = usize;

/// Where an object lies: its directory and its name there.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    dir: Id,
    name: String,
}

/// One side's tree as its users see it; object 0 is the root.
#[derive(Debug, Clone, Default)]
struct View {
    places: BTreeMap<Id, Place>,
    contents: BTreeMap<Id, String>,
    /// The modes that users gave.
    modes: BTreeMap<Id, u32>,
    /// Whose removal an object that is gone went with.
    gone: BTreeMap<Id, Id>,
    /// Names that were taken by another object.
    replaced: BTreeSet<Id>,
}

impl View {
    fn base() -> View {
        let mut view = View::default();
        for (id, dir, name, file) in [
            (1, 0, "d", false),
            (2, 0, "e", false),
            (3, 1, "s", false),
            (4, 0, "f", true),
            (5, 0, "g", true),
            (6, 1, "p", true),
            (7, 1, "q", true),
            (8, 3, "u", true),
            (9, 2, "v", true),
            (10, 2, "k", false),
        ] {
            view.places.insert(id, Place { dir, name: name.to_owned() });
            if file {
                view.contents.insert(id, format!("<first {name}>"));
            }
        }
        view
    }

    fn is_dir(&self, id: Id) -> bool {
        !self.contents.contains_key(&id)
    }

    /// The object itself and the directories above it, upwards; `None` if they run in a circle.
    fn above(&self, id: Id) -> Option<Vec<Id>> {
        let mut all = vec![id];
        while let Some(place) = self.places.get(all.last()?) {
            if all.contains(&place.dir) {
                return None;
            }
            all.push(place.dir);
        }
        Some(all)
    }

    fn path(&self, id: Id) -> RelPath {
        let above = self.above(id).expect("a tree");
        let names: Vec<&str> =
            above.iter().rev().filter_map(|id| self.places.get(id)).map(|p| p.name.as_str()).collect();
        RelPath::new(names.join("/").as_bytes()).expect("short names")
    }

    fn is_within(&self, id: Id, top: Id) -> bool {
        self.above(id).is_some_and(|above| above.contains(&top))
    }
}

/// The mode that an object has from the beginning: each its own, so that none can pass for another's.
fn mode(id: Id) -> u32 {
    [0, 0o755, 0o2750, 0o711, 0o640, 0o600, 0o755, 0o644, 0o664, 0o666, 0o2775][id]
}

/// What users do to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    Rename,
    MoveInto(Id),
    Edit,
    Chmod,
    Replace,
    Delete,
    Fill,
    Swap(Id),
}

/// Does it in a side's view; what system calls that takes. `None`: it cannot be done there.
fn act(view: &mut View, id: Id, deed: Deed, tag: &str, next: &mut Id) -> Option<Vec<Call>> {
    let place = view.places.get(&id)?.clone();
    let path = view.path(id);
    let write = |path: &RelPath, text: &str| {
        let bytes = Text(text.as_bytes().to_vec());
        let open = Call::Open { path: path.clone(), create: true, truncate: true };
        vec![open, Call::WriteAt { offset: 0, bytes }, Call::Close]
    };
    *next += 1;
    let fresh = format!("{tag}{next}");
    match deed {
        Deed::Rename | Deed::MoveInto(_) | Deed::Swap(_) if view.replaced.contains(&id) => None,
        Deed::Swap(other) if view.replaced.contains(&other) => None,
        Deed::Rename => {
            view.places.insert(id, Place { name: fresh, ..place });
            Some(vec![Call::Rename(path, view.path(id))])
        }
        Deed::MoveInto(dir) => {
            let fits = view.is_dir(dir) && (dir == 0 || view.places.contains_key(&dir)) && !view.is_within(dir, id);
            if !fits || place.dir == dir {
                return None;
            }
            view.places.insert(id, Place { dir, name: place.name });
            Some(vec![Call::Rename(path, view.path(id))])
        }
        Deed::Edit | Deed::Replace if view.is_dir(id) => None,
        Deed::Edit => {
            view.contents.insert(id, fresh.clone());
            Some(write(&path, &fresh))
        }
        Deed::Chmod if view.replaced.contains(&id) => None,
        Deed::Chmod => {
            let mode = mode(id) ^ if view.is_dir(id) { 0o001 } else { 0o111 } ^ (*next as u32 % 2) << 1;
            view.modes.insert(id, mode);
            Some(vec![Call::Chmod(path, mode)])
        }
        // Of what it moved as well it has made another object.
        Deed::Replace if View::base().places.get(&id) != Some(&place) => None,
        Deed::Replace => {
            view.contents.insert(id, fresh.clone());
            view.replaced.insert(id);
            let mut calls = vec![Call::Unlink(path.clone())];
            calls.extend(write(&path, &fresh));
            Some(calls)
        }
        Deed::Delete => {
            let within: Vec<Id> = view.places.keys().copied().filter(|other| view.is_within(*other, id)).collect();
            for other in within {
                view.places.remove(&other);
                view.modes.remove(&other);
                view.gone.insert(other, id);
            }
            Some(vec![Call::RemoveAll(path)])
        }
        Deed::Fill if !view.is_dir(id) => None,
        Deed::Fill => {
            let new = *next + 100;
            view.places.insert(new, Place { dir: id, name: fresh.clone() });
            view.contents.insert(new, fresh.clone());
            Some(write(&view.path(new), &fresh))
        }
        Deed::Swap(other) => {
            let theirs = view.places.get(&other)?.clone();
            let nested = view.is_within(id, other) || view.is_within(other, id);
            if nested || view.is_dir(id) != view.is_dir(other) {
                return None;
            }
            let (from, to) = (path, view.path(other));
            view.places.insert(id, theirs);
            view.places.insert(other, place);
            let spare = RelPath::new(fresh.as_bytes()).expect("a name");
            let calls = [(&from, &spare), (&to, &from), (&spare, &to)];
            Some(calls.into_iter().map(|(from, to)| Call::Rename(from.clone(), to.clone())).collect())
        }
    }
}

/// What both sides come to, by the rules; `None` where two objects would meet under one name.
fn agreed(base: &View, sides: &Sides<View>) -> Option<View> {
    let mut all = View::default();
    let ids: BTreeSet<Id> =
        [base].into_iter().chain(sides.values()).flat_map(|view| view.places.keys()).copied().collect();
    let moved = |side: Side, id: Id| sides[side].places.get(&id).filter(|place| base.places.get(&id) != Some(*place));
    let edited = |side: Side, id: Id| {
        let text = sides[side].contents.get(&id).filter(|_| sides[side].places.contains_key(&id));
        text.filter(|text| base.contents.get(&id) != Some(*text))
    };
    let mut alive = BTreeSet::new();
    for id in ids {
        let here = sides.as_ref().map(|view| view.places.get(&id));
        let lives = match here.split() {
            (Some(_), Some(_)) => true,
            (None, None) => false,
            _ if !base.places.contains_key(&id) => true,
            _ => {
                // Deleted on one side: what the other did to it, or to a directory above it that went as well, is newer.
                let other = if here[Side::Left].is_some() { Side::Left } else { Side::Right };
                let restored =
                    |above: &Id| moved(other, *above).is_some() && sides[other.other()].gone.contains_key(above);
                // Whether another mode is reason enough is no matter of moves.
                if sides[other].modes.contains_key(&id) {
                    return None;
                }
                edited(other, id).is_some() || sides[other].above(id)?.iter().any(restored)
            }
        };
        if lives {
            alive.insert(id);
        }
        let place = moved(Side::Left, id).or(moved(Side::Right, id)).or(base.places.get(&id))?.clone();
        all.places.insert(id, place);
        let texts = (edited(Side::Left, id), edited(Side::Right, id));
        if let (Some(_), Some(_)) = texts {
            return None;
        }
        if let Some(text) = texts.0.or(texts.1).or(base.contents.get(&id)) {
            all.contents.insert(id, text.clone());
        }
        match sides.as_ref().map(|view| view.modes.get(&id)).split() {
            (Some(_), Some(_)) => return None,
            (left, right) => all.modes.extend(left.or(right).map(|mode| (id, *mode))),
        }
    }
    // Directories that were moved into each other: the right's move is undone.
    while let Some(id) = all.places.keys().copied().find(|id| all.above(*id).is_none()) {
        let back = all.places.keys().copied().find(|at| {
            let only_right = moved(Side::Right, *at).is_some() && moved(Side::Left, *at).is_none();
            only_right && all.above(*at).is_none() && all.places[at] != base.places[at]
        });
        let _ = id;
        let back = back?;
        all.places.insert(back, base.places.get(&back)?.clone());
    }
    let needed: BTreeSet<Id> = alive.iter().flat_map(|id| all.above(*id).expect("no circle")).collect();
    all.places.retain(|id, _| needed.contains(id));
    all.contents.retain(|id, _| needed.contains(id));
    let paths: BTreeSet<RelPath> = all.places.keys().map(|id| all.path(*id)).collect();
    (paths.len() == all.places.len()).then_some(all)
}

/// Whether something that both sides moved was moved into a directory that the other side deleted, or something was moved
/// out of one that its side deleted and the other moved. Which of the names it has then depends on what is heard first, and
/// whether that directory stays.
fn is_open(base: &View, sides: &Sides<View>) -> bool {
    let moved = |side: Side, id: Id| sides[side].places.get(&id).filter(|place| base.places.get(&id) != Some(*place));
    let left_behind = |id: Id, side: Side| {
        let above = base.above(id).unwrap_or_default();
        let given_up = |dir: &Id| sides[side].gone.contains_key(dir) && moved(side.other(), *dir).is_some();
        moved(side, id).is_some() && above.iter().any(given_up)
    };
    if base.places.keys().any(|id| Side::BOTH.into_iter().any(|side| left_behind(*id, side))) {
        return true;
    }
    base.places.keys().filter(|id| Side::BOTH.into_iter().all(|side| moved(side, **id).is_some())).any(|id| {
        Side::BOTH.into_iter().any(|side| {
            let above = moved(side, *id).and_then(|place| sides[side].above(place.dir)).unwrap_or_default();
            above.iter().any(|dir| sides[side.other()].gone.contains_key(dir))
        })
    })
}

/// When the two sides act.
#[derive(Debug, Clone, Copy)]
enum When {
    /// While psync is stopped.
    Apart,
    /// So many milliseconds after each other, each message being so many on its way.
    Live { delay: u64, later: u64 },
    /// The first side acts, and so many milliseconds later the line is cut.
    Cut { delay: u64, later: u64 },
    /// Both act at once, and so many milliseconds later the other one makes something new.
    Late { delay: u64, later: u64 },
}

/// What happens in the history of a seed.
struct Case {
    when: When,
    /// Which side is the first to act.
    first: Side,
    deeds: Sides<Vec<(Id, Deed)>>,
    calls: Sides<Vec<Call>>,
    late: Vec<Call>,
    /// What each side deleted.
    deleted: Sides<BTreeMap<Id, Id>>,
    base: View,
    wanted: View,
    /// Each object must be there once, under whichever of its names.
    open: bool,
    /// Both sides had it all before they met.
    met: bool,
}

fn case(seed: u64) -> Option<Case> {
    let choices = Choices::seeded(seed);
    let base = View::base();
    let objects: Vec<Id> = base.places.keys().copied().collect();
    let focus = *choices.pick(&objects);
    let kinds = if seed < MODES { 12 } else { 14 };
    let when = match choices.below(4) {
        0 => When::Apart,
        1 => When::Live { delay: 0, later: 0 },
        2 => When::Live { delay: 30, later: choices.below(50) },
        _ => When::Live { delay: 100, later: choices.below(180) },
    };
    let first = if choices.one_in(2) { Side::Left } else { Side::Right };
    let mut sides = Sides::both(base.clone());
    let (mut deeds, mut calls) = (Sides::<Vec<_>>::default(), Sides::<Vec<_>>::default());
    let mut next = 0;
    for side in Side::BOTH {
        for turn in 0..1 + choices.below(3) {
            let id = if turn == 0 || choices.one_in(3) { focus } else { *choices.pick(&objects) };
            let other = *choices.pick(&objects);
            let deed = match choices.below(if turn == 0 { 9 } else { kinds }) {
                0..=3 => Deed::Rename,
                4 | 5 => Deed::MoveInto(*choices.pick(&[0, 1, 2, 3, 10])),
                6 => Deed::Edit,
                7 => Deed::Fill,
                8 => Deed::Delete,
                9 => Deed::Replace,
                10 => Deed::Swap(other),
                12 | 13 => Deed::Chmod,
                _ => Deed::Rename,
            };
            let tag = if side == Side::Left { "l" } else { "r" };
            if let Some(done) = act(&mut sides[side], id, deed, tag, &mut next) {
                calls[side].extend(done);
                deeds[side].push((id, deed));
            }
        }
    }
    let wanted = agreed(&base, &sides)?;
    let open = is_open(&base, &sides);
    let deleted = sides.map(|side| side.gone);
    let late = Vec::new();
    Some(Case { when, first, deeds, calls, late, deleted, base, wanted, open, met: seed >= MET })
}

impl Case {
    fn describe(&self) -> String {
        let mut out = format!("{:?}, {} first\n", self.when, self.first.word());
        for side in Side::BOTH {
            for (id, deed) in &self.deeds[side] {
                writeln!(out, "  {}: {} {deed:?}", side.word(), self.base.path(*id)).expect("a string");
            }
        }
        for side in Side::BOTH {
            writeln!(out, "  {}: {:?}", side.word(), self.calls[side]).expect("a string");
        }
        out
    }

    /// Objects that nobody wrote, and that are on both sides all the time: they are never sent again.
    fn kept(&self) -> impl Iterator<Item = Id> + '_ {
        let touched = |id: Id| {
            let all = self.deeds.values().flatten();
            all.filter(|(_, deed)| matches!(deed, Deed::Edit | Deed::Replace | Deed::Delete | Deed::Swap(_))).any(
                |(at, deed)| {
                    self.base.is_within(id, *at)
                        || *deed == Deed::Swap(id)
                        || matches!(deed, Deed::Swap(other) if self.base.is_within(id, *other))
                },
            )
        };
        // Nor does anything that lies in one that one side deleted: it is made again for it.
        let stays = |id: Id| {
            let above = self.wanted.above(id).unwrap_or_default();
            let gone = above.iter().any(|at| self.deleted.values().any(|gone| gone.contains_key(at)));
            self.base.places.contains_key(&id) && !gone
        };
        self.wanted.places.keys().copied().filter(move |id| stays(*id) && !touched(*id))
    }

    /// Objects that have their first mode.
    fn modes(&self) -> impl Iterator<Item = Id> + '_ {
        let replaced = |id: Id| self.deeds.values().flatten().any(|(at, deed)| *at == id && *deed == Deed::Replace);
        let all = self.wanted.places.keys().copied().filter(|_| !self.open);
        all.filter(move |id| self.base.places.contains_key(id) && !replaced(*id))
    }
}

fn user(stage: &Stage, side: Side, calls: &[Call]) {
    let task = Task { side, pace: 0, calls: calls.to_vec() };
    let mut told = Vec::new();
    Running::new(task, 0).advance(&stage.disks, 0, true, &mut told);
    told.into_iter().for_each(|line| stage.trace.line(|| line));
}

/// Takes turns until this moment.
fn until(stage: &Stage, pair: &mut dyn Pair, end: u64) -> Result<(), String> {
    while stage.world.now() < end {
        if let Some(reason) = pair.halted() {
            return Err(format!("halts: {reason}"));
        }
        match pair.turn() {
            Turn::Worked => stage.world.advance(stage.choices.below(3_000_000)),
            Turn::Idle(next) => {
                let now = stage.world.now();
                stage.world.advance_to(next.map_or(end, |next| next.clamp(now + 1, end.max(now + 1))));
            }
        }
        if let Some(violation) = stage.world.violations().into_iter().next() {
            return Err(violation);
        }
    }
    Ok(())
}

fn inode(stage: &Stage, side: Side, path: &RelPath) -> Option<u64> {
    let state = stage.disk(side).state();
    state.resolve(path).ok().map(|obj| state.inode(obj).ino)
}

/// Plays the pair of moves of a seed; what is wrong afterwards.
pub fn play(seed: u64, keep_trace: bool) -> (Option<String>, Vec<String>) {
    let Some(case) = case(seed) else { return (None, Vec::new()) };
    play_case(seed, &case, keep_trace)
}

/// Plays a circle of three files, each of which gets the next one's name on one side, where the line is cut at a moment that the
/// seed says.
pub fn play_circle(seed: u64, keep_trace: bool) -> (Option<String>, Vec<String>) {
    let choices = Choices::seeded(seed);
    let when = When::Cut { delay: choices.below(40), later: choices.below(600) };
    let first = if choices.one_in(2) { Side::Left } else { Side::Right };
    let base = View::base();
    let ids = if choices.one_in(2) { [4, 5, 6] } else { [6, 4, 8] };
    let (mut wanted, mut calls) = (base.clone(), Sides::<Vec<Call>>::default());
    let spare = RelPath::new(b"spare").expect("a name");
    let [a, b, c] = ids.map(|id| base.path(id));
    let renames = [(&a, &spare), (&c, &a), (&b, &c), (&spare, &b)];
    calls[first].extend(renames.map(|(from, to)| Call::Rename(from.clone(), to.clone())));
    for (id, to) in [(ids[0], ids[1]), (ids[1], ids[2]), (ids[2], ids[0])] {
        wanted.places.insert(id, base.places[&to].clone());
    }
    let (deeds, deleted, late) = Default::default();
    play_case(
        seed,
        &Case { when, first, deeds, calls, late, deleted, base, wanted, open: false, met: false },
        keep_trace,
    )
}

/// Plays a name that one side gave to another object, whose own old name a new file gets on the other side while the two change
/// places: that file is none of them.
pub fn play_stranger(seed: u64, keep_trace: bool) -> (Option<String>, Vec<String>) {
    let choices = Choices::seeded(seed);
    let when = When::Late { delay: choices.below(40), later: choices.below(500) };
    let base = View::base();
    let (f, g) = (base.path(4), base.path(5));
    let path = |name: &str| RelPath::new(name.as_bytes()).expect("a name");
    let mut wanted = base.clone();
    let mut calls = Sides::<Vec<Call>>::default();
    let first = if choices.one_in(2) { Side::Left } else { Side::Right };
    let there = if first == Side::Left { "c" } else { "r" };
    calls[first] = vec![Call::Rename(g.clone(), path("c")), Call::Rename(f.clone(), g.clone())];
    // The other side moves it as well, and the left's name counts; or it puts the one in the other's place.
    let stays = choices.one_in(2);
    calls[first.other()] = match stays {
        true => vec![Call::Rename(g.clone(), path("r"))],
        false => vec![Call::Rename(f.clone(), g.clone())],
    };
    let there = if stays { there } else { "c" };
    wanted.places.insert(4, Place { dir: 0, name: "g".to_owned() });
    wanted.places.insert(5, Place { dir: 0, name: there.to_owned() });
    wanted.places.insert(100, Place { dir: 0, name: "f".to_owned() });
    wanted.contents.insert(100, "stranger".to_owned());
    let bytes = Text(b"stranger".to_vec());
    let late =
        vec![Call::Open { path: f, create: true, truncate: true }, Call::WriteAt { offset: 0, bytes }, Call::Close];
    let deleted = Sides::from_fn(|side| match stays || side == first {
        true => BTreeMap::new(),
        false => BTreeMap::from([(5, 5)]),
    });
    let deeds = Default::default();
    play_case(
        seed,
        &Case { when, first, deeds, calls, late, deleted, base, wanted, open: false, met: false },
        keep_trace,
    )
}

fn play_case(seed: u64, case: &Case, keep_trace: bool) -> (Option<String>, Vec<String>) {
    let history = History {
        schedule: seed ^ 0x6d6f7665,
        profile: Profile::default(),
        features: Default::default(),
        before: Vec::new(),
        phases: Vec::new(),
    };
    let stage = stage(&history, keep_trace);
    let wrong = play_on(&stage, &history, case).err().map(|wrong| format!("{wrong}\n{}", case.describe()));
    stage.world.set_hook(None);
    (wrong, stage.trace.take())
}

/// The same of users who set modes as well.
pub fn play_with_modes(seed: u64, keep_trace: bool) -> (Option<String>, Vec<String>) {
    play(MODES + seed, keep_trace)
}

/// The same of what both sides had before they met: nobody has read the files then.
pub fn play_met(seed: u64, keep_trace: bool) -> (Option<String>, Vec<String>) {
    play(MET + seed, keep_trace)
}

fn play_on(stage: &Rc<Stage>, history: &History, case: &Case) -> Result<(), String> {
    let mut ids: Vec<Id> = case.base.places.keys().copied().collect();
    ids.sort_by_key(|id| case.base.path(*id));
    let wrote: &[Side] = if case.met { &Side::BOTH } else { &[Side::Left] };
    for (id, side) in ids.iter().flat_map(|id| wrote.iter().map(|side| (*id, *side))) {
        let path = case.base.path(id);
        match case.base.contents.get(&id) {
            None => user(stage, side, &[Call::Mkdir(path)]),
            Some(text) => {
                let bytes = Text(text.as_bytes().to_vec());
                let open = Call::Open { path: path.clone(), create: true, truncate: true };
                let write = Call::WriteAt { offset: 0, bytes };
                user(stage, side, &[open, write, Call::Close, Call::Utimes(path, THEN)]);
            }
        }
        user(stage, side, &[Call::Chmod(case.base.path(id), mode(id))]);
    }
    begin(stage);
    let mut pair = RealPair::new(stage.clone());
    stage.load(&[]);
    run_phase(stage, &mut pair, history.profile)?;
    let kept: Vec<(Id, Side, Option<u64>)> =
        case.kept().flat_map(|id| Side::BOTH.map(|side| (id, side, inode(stage, side, &case.base.path(id))))).collect();
    let (first, second) = (case.first, case.first.other());
    stage.trace.line(|| "--- both sides act".to_owned());
    match case.when {
        When::Apart => {
            drop(pair);
            for side in [first, second] {
                user(stage, side, &case.calls[side]);
            }
            stage.world.advance(10_000_000_000);
            pair = RealPair::new(stage.clone());
        }
        When::Live { delay, later } => {
            stage.controls.delay.set(delay);
            user(stage, first, &case.calls[first]);
            let due = stage.world.now() + later;
            until(stage, &mut pair, due)?;
            user(stage, second, &case.calls[second]);
        }
        When::Cut { delay, later } => {
            stage.controls.delay.set(delay);
            user(stage, first, &case.calls[first]);
            let due = stage.world.now() + later;
            until(stage, &mut pair, due)?;
            stage.controls.cut.set(true);
        }
        When::Late { delay, later } => {
            stage.controls.delay.set(delay);
            for side in [first, second] {
                user(stage, side, &case.calls[side]);
            }
            let due = stage.world.now() + later;
            until(stage, &mut pair, due)?;
            if inode(stage, second, &case.base.path(4)).is_some() {
                // The name is not free yet.
                return Ok(());
            }
            user(stage, second, &case.late);
        }
    }
    let end = stage.world.now() + REST;
    until(stage, &mut pair, end)?;
    stage.controls.delay.set(0);
    check(stage, case, &kept)
}

fn check(stage: &Stage, case: &Case, kept: &[(Id, Side, Option<u64>)]) -> Result<(), String> {
    let wanted: BTreeMap<RelPath, String> = case
        .wanted
        .places
        .keys()
        .map(|id| (case.wanted.path(*id), case.wanted.contents.get(id).map_or("/".to_owned(), String::clone)))
        .collect();
    let mut trees = Vec::new();
    for side in Side::BOTH {
        let found: BTreeMap<RelPath, String> = tree(stage.disk(side))
            .into_iter()
            .map(|(path, view)| {
                let dir = view.kind == Some(Kind::Dir);
                (path, if dir { "/".to_owned() } else { String::from_utf8_lossy(&view.contents).into_owned() })
            })
            .collect();
        if case.open {
            let files = |tree: &BTreeMap<RelPath, String>| {
                let mut all: Vec<String> = tree.values().filter(|text| *text != "/").cloned().collect();
                all.sort();
                all
            };
            if files(&found) != files(&wanted) {
                return Err(format!("{}: {found:?} instead of {wanted:?}, or other names", side.word()));
            }
            trees.push(found);
            continue;
        }
        let missing: Vec<_> = wanted.iter().filter(|(path, text)| found.get(*path) != Some(*text)).collect();
        let needless: Vec<_> = found.iter().filter(|(path, text)| wanted.get(*path) != Some(*text)).collect();
        if !missing.is_empty() || !needless.is_empty() {
            return Err(format!("{}: not there {missing:?}, there instead {needless:?}", side.word()));
        }
    }
    for (id, side) in case.modes().flat_map(|id| Side::BOTH.map(|side| (id, side))) {
        let path = case.wanted.path(id);
        let found = tree(stage.disk(side)).get(&path).map_or(0, |view| view.mode);
        let wanted = case.wanted.modes.get(&id).copied().unwrap_or(mode(id));
        if found != wanted {
            return Err(format!("{path} has the mode {found:04o} on the {}, and not {wanted:04o}", side.word()));
        }
    }
    if case.open {
        let equal = trees[0] == trees[1];
        return if equal { Ok(()) } else { Err(format!("not equal: {trees:?}")) };
    }
    for (id, side, before) in kept {
        let path = case.wanted.path(*id);
        if inode(stage, *side, &path) != *before {
            return Err(format!(
                "sent again: {} is another object on the {}, now {path}",
                case.base.path(*id),
                side.word()
            ));
        }
    }
    Ok(())
}
