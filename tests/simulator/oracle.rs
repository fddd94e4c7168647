//! Knows what users did, and says whether psync kept its promises (section 5 of the design).

use std::collections::{BTreeMap, BTreeSet, HashSet};

use psync::model::{Kind, Name, Principal, RelPath, Side, Sides, Time, Xattrs};

use crate::model_disk::state::{Body, Features, ROOT, State};
use crate::model_disk::{ModelDisk, Obj};
use crate::world::{Fact, What, World};

/// An object as users see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    pub kind: Option<Kind>,
    /// A file's contents or a link's target.
    pub contents: Vec<u8>,
    pub mode: u32,
    pub owner: (Principal, Principal),
    pub mtime: Time,
    pub xattrs: Xattrs,
}

pub type Tree = BTreeMap<RelPath, View>;

/// Everything that users see on one side.
pub fn tree(disk: &ModelDisk) -> Tree {
    let mut found = Tree::new();
    walk(disk, &disk.state(), ROOT, &RelPath::root(), &mut found);
    found
}

fn walk(disk: &ModelDisk, state: &State, dir: Obj, path: &RelPath, found: &mut Tree) {
    for (name, obj) in state.entries(dir).expect("a directory") {
        let at = path.join(name).expect("short names");
        found.insert(at.clone(), view(disk, state, *obj));
        if state.is_dir(*obj) {
            walk(disk, state, *obj, &at, found);
        }
    }
}

fn view(disk: &ModelDisk, state: &State, obj: Obj) -> View {
    let inode = state.inode(obj);
    let stat = state.stat(obj);
    View {
        // One that does not travel is nothing to compare.
        kind: stat.kind.filter(|kind| *kind != Kind::Fifo || state.features.fifos),
        contents: match &inode.body {
            Body::File(contents) => contents.clone(),
            Body::Link(target) => target.to_vec(),
            Body::Dir(_) | Body::Fifo => Vec::new(),
        },
        mode: stat.mode,
        owner: psync::replica::disk::Disk::principals(disk, stat.uid, stat.gid),
        mtime: if stat.kind == Some(Kind::File) { stat.mtime } else { Time::default() },
        xattrs: inode.meta.xattrs.clone(),
    }
}

/// What both sides can hold of an object.
pub fn common(view: &View, features: Sides<&Features>) -> View {
    let any = |has: fn(&Features) -> bool| features.into_values().any(has);
    let mut view = view.clone();
    if any(|side| side.whole_seconds) {
        view.mtime.nanos = 0;
    }
    if any(|side| side.no_xattrs) {
        view.xattrs.clear();
    }
    if any(|side| side.keeps_acls) {
        view.xattrs.retain(|name, _| !name.starts_with(b"system."));
    }
    if any(|side| side.drops_setgid) {
        view.mode &= !0o2000;
    }
    if any(|side| side.no_chown) || has_stranger(&view) {
        view.owner = (Principal::Id(0), Principal::Id(0));
    }
    // They belong to an owner and a group that one side cannot give, and do not join another's.
    if any(|side| side.no_chown) && view.kind != Some(Kind::Dir) {
        view.mode &= !0o6000;
    }
    view
}

/// Whether an object belongs to somebody whom only one side knows: carol is unknown on the right.
fn has_stranger(view: &View) -> bool {
    let unknown = |principal: &Principal| match principal {
        Principal::Name(name) => name.as_ref() == "carol",
        Principal::Id(id) => *id != 0,
    };
    unknown(&view.owner.0) || unknown(&view.owner.1)
}

#[derive(Default)]
pub struct Oracle {
    /// Finished versions that no user replaced or deleted.
    required: HashSet<Vec<u8>>,
    /// Those of them that were made after the trees had met: users still see them somewhere.
    seen: HashSet<Vec<u8>>,
    /// What users of a side replaced or deleted. One may do so while the other side's user has it open still: when he closes
    /// it he has added nothing to it.
    gone: HashSet<(Side, Vec<u8>)>,
    /// Both sides were equal, and psync remembers something of it.
    met: bool,
    /// What users did since both sides were last equal.
    facts: Vec<Fact>,
    /// All that users ever did to paths.
    ever: Vec<Fact>,
    /// The conflict copies that were seen before.
    copies: BTreeSet<RelPath>,
    /// A power cut or an old snapshot: deletions may have come undone.
    shaken: bool,
    /// The trees begin again, or one of them went back: what users saw before may be in the trash.
    reset: bool,
    /// What users did since both sides were equal before the last check.
    settled: Vec<Fact>,
    /// Names where users had a file all the time must not be without one on the other side.
    names: bool,
}

impl Oracle {
    /// Takes in what users did since the last call.
    pub fn learn(&mut self, world: &World) {
        for fact in world.facts() {
            match &fact.what {
                What::Finished(contents) if self.gone.contains(&(fact.side.other(), contents.clone())) => {}
                What::Finished(contents) => {
                    self.required.insert(contents.clone());
                    if self.met {
                        self.seen.insert(contents.clone());
                    }
                }
                What::Gone(contents) => {
                    if is_unique(contents) {
                        self.gone.insert((fact.side, contents.clone()));
                    }
                    self.required.remove(contents);
                    self.seen.remove(contents);
                }
                What::Touched { .. } | What::Deleted(_) | What::Renamed { .. } => {}
            }
            if matches!(fact.what, What::Touched { .. } | What::Renamed { .. }) {
                self.ever.push(fact.clone());
            }
            self.facts.push(fact);
        }
    }

    /// From here to the end of the phase deletions may come undone.
    pub fn shake(&mut self) {
        self.shaken = true;
        self.reset = true;
    }

    /// Whether it is looked for names without a file from now on. At a first scan, and where a fault may come in
    /// between, psync does not promise that there are none.
    pub fn watch_names(&mut self, on: bool) {
        self.names = on;
    }

    /// A save, in however many steps, leaves no gap on the other side: where users on the left had a name empty for less
    /// than 15 ms, psync does not take it away on the right. But for a file that had been made a moment before.
    pub fn check_names(&self, world: &World, disks: &Sides<ModelDisk>) {
        for (side, path, age) in world.take_vacated() {
            let other = side.other();
            let there = matches!(disks[other].user_body(&path), Some(Body::File(_)));
            if self.names && there && world.gap(other, &path) < 15_000_000 && age > 2_000_000_000 {
                world.violation(format!("missing name: {path} on the {}, where a user saves it", side.word()));
            }
        }
    }

    fn missing(&self, disks: &Sides<ModelDisk>) -> Vec<Vec<u8>> {
        let left = disks[Side::Left].state().all_contents();
        let right = disks[Side::Right].state().all_contents();
        let mut missing: Vec<Vec<u8>> =
            self.required.iter().filter(|v| !left.contains(*v) && !right.contains(*v)).cloned().collect();
        missing.sort();
        missing
    }

    /// The power failed on a side, or its volume went back: what was not `safe` there may be gone, nothing else.
    pub fn after_cut(&mut self, world: &World, disks: &Sides<ModelDisk>, safe: &BTreeSet<Vec<u8>>) {
        self.learn(world);
        self.shaken = true;
        // What users do not see any more the cut took; what they still see stays in their sight.
        let visible: HashSet<Vec<u8>> =
            disks.values().flat_map(|disk| tree(disk).into_values().map(|v| v.contents)).collect();
        self.seen.retain(|version| visible.contains(version));
        // What is in a stage alone was cut off before it was placed; if it was not safe elsewhere, it goes with the cut.
        let kept = disks.as_ref().map(|disk| disk.state().kept_contents());
        let staged: Vec<Vec<u8>> = self
            .required
            .iter()
            .filter(|v| kept.values().all(|k| !k.contains(*v)) && !safe.contains(*v))
            .cloned()
            .collect();
        for version in staged {
            self.required.remove(&version);
        }
        for lost in self.missing(disks) {
            if safe.contains(&lost) {
                world.violation(format!("lost by a power cut though on disk: {:?}", text(&lost)));
            }
            self.required.remove(&lost);
        }
    }

    /// Invariant 2, at any time.
    pub fn check_no_loss(&mut self, world: &World, disks: &Sides<ModelDisk>) {
        self.learn(world);
        for lost in self.missing(disks) {
            world.violation(format!("lost: {:?}", text(&lost)));
            self.required.remove(&lost);
        }
    }

    /// Everything that must hold when users are quiet and nothing is under way; then a new phase begins.
    pub fn check_quiet(&mut self, world: &World, disks: &Sides<ModelDisk>) {
        self.check_no_loss(world, disks);
        let trees = disks.as_ref().map(tree);
        self.check_equal(world, disks, &trees);
        self.check_seen(world, disks, &trees);
        if !self.shaken {
            Side::BOTH.into_iter().for_each(|side| self.check_resurrection(world, side, &trees));
        }
        // Where an unsupported object was in the way, the sides are not equal yet.
        let equal = trees.values().flat_map(|tree| tree.values()).all(|view| view.kind.is_some());
        self.met = equal && !trees[Side::Left].is_empty();
        if equal {
            self.settled = std::mem::take(&mut self.facts);
            self.shaken = false;
            self.reset = false;
        }
    }

    /// Invariant 4: what a user finished, and nobody replaced or deleted, is not in the trash alone. But for trees that
    /// meet for the first time, or begin again (the loser of a conflict goes there then), for temporary files, which
    /// go with their directory, and for disks without leases, where a file goes while somebody writes it.
    fn check_seen(&mut self, world: &World, disks: &Sides<ModelDisk>, trees: &Sides<Tree>) {
        if self.reset || disks.values().any(|disk| disk.state().features.no_leases) {
            self.seen.clear();
        }
        let visible: HashSet<&Vec<u8>> =
            trees.values().flat_map(|tree| tree.values()).map(|view| &view.contents).collect();
        if self.shaken {
            // What a power cut makes of a longer file looks like this one, and that one is there.
            self.seen.retain(|v| visible.contains(v) || !visible.iter().any(|whole| whole.starts_with(v)));
        }
        let temporary: HashSet<Vec<u8>> = disks.values().flat_map(|disk| disk.state().temporary_contents()).collect();
        let mut hidden: Vec<&Vec<u8>> =
            self.seen.iter().filter(|v| !visible.contains(v) && !temporary.contains(*v)).collect();
        hidden.sort();
        if let Some(hidden) = hidden.first() {
            world.violation(format!("wrong victim: {:?} is in the trash alone", text(hidden)));
        }
    }

    /// What a user deleted or replaced where psync had put it, and nobody touched on the other side since, is nowhere; and
    /// what he renamed is there once. However often psync was killed meanwhile.
    pub fn check_handed(&mut self, world: &World, disks: &Sides<ModelDisk>) {
        let facts = std::mem::take(&mut self.settled);
        let trees = disks.as_ref().map(tree);
        for (i, fact) in facts.iter().enumerate() {
            let What::Gone(contents) = &fact.what else { continue };
            let made = |made: &&Fact| made.side != fact.side && made.what == What::Finished(contents.clone());
            let Some(made) = facts[..i].iter().rposition(|fact| made(&fact)) else { continue };
            let path = facts[i..].iter().filter(|later| later.side == fact.side).find_map(|later| match &later.what {
                What::Touched { path, .. } | What::Deleted(path) => Some(path),
                _ => None,
            });
            let Some(path) = path else { continue };
            if facts[made..].iter().any(|later| later.side != fact.side && concerns(later, path)) {
                continue;
            }
            if let Some((at, _)) = trees.values().flatten().find(|(_, view)| view.contents == *contents) {
                world.violation(format!("came back: {:?}, as {at}: a user had it no more", text(contents)));
            }
        }
        for tree in trees.values() {
            let mut once = HashSet::new();
            let mut files = tree.iter().filter(|(_, view)| !view.contents.is_empty());
            if let Some((at, _)) = files.find(|(_, view)| !once.insert(&view.contents)) {
                world.violation(format!("twice: {at} is there under another name as well"));
            }
        }
    }

    /// The names that what lay at a path got since, one after another, and all that came there.
    pub fn later_names(&self, path: &RelPath) -> BTreeSet<RelPath> {
        let mut names = BTreeSet::from([path.clone()]);
        for fact in &self.ever {
            let What::Renamed { from, to } = &fact.what else { continue };
            let after: Vec<RelPath> = names.iter().filter_map(|name| name.rebase(from, to)).collect();
            names.extend(after);
        }
        names.remove(path);
        names
    }

    /// No version meets itself: of a path that the users of one side alone ever touched there is no conflict copy.
    pub fn check_copies(&mut self, world: &World, disks: &Sides<ModelDisk>) {
        for path in disks.values().flat_map(|disk| tree(disk).into_keys()) {
            let Some(original) = copied(&path) else { continue };
            if !self.copies.insert(path.clone()) {
                continue;
            }
            let names = possible_names(&self.ever, &original);
            let touched = Sides::from_fn(|side| {
                self.ever.iter().any(|fact| fact.side == side && names.iter().any(|name| concerns(fact, name)))
            });
            if touched != Sides::both(true) {
                world.violation(format!("needless copy: {path}: the users of one side alone wrote it"));
            }
        }
    }

    fn check_equal(&self, world: &World, disks: &Sides<ModelDisk>, trees: &Sides<Tree>) {
        let states = disks.as_ref().map(ModelDisk::state);
        let features = states.as_ref().map(|state| &state.features);
        let odd = odd_paths(trees);
        let paths: BTreeSet<&RelPath> = trees.values().flat_map(|tree| tree.keys()).collect();
        for path in paths {
            // An unsupported kind is a reported problem, and so is what it is in the way of.
            if is_temporary(path) || odd.iter().any(|odd| path.is_within(odd) || odd.is_below(path)) {
                continue;
            }
            let mut seen = trees.as_ref().map(|tree| tree.get(path).map(|view| common(view, features)));
            // Where one side cannot hold the other's owner, it keeps the one that it had; and what belongs to an owner does
            // not join another's, as above.
            if trees.values().filter_map(|tree| tree.get(path)).any(has_stranger) {
                for view in seen.values_mut().flatten() {
                    view.owner = (Principal::Id(0), Principal::Id(0));
                    if view.kind != Some(Kind::Dir) {
                        view.mode &= !0o6000;
                    }
                }
            }
            if seen[Side::Left] != seen[Side::Right] {
                world.violation(format!(
                    "not equal: {path}: left {}, right {}",
                    told(&seen[Side::Left]),
                    told(&seen[Side::Right])
                ));
            }
        }
    }

    /// A directory has one time on both sides, as far as both can hold it and psync may set it.
    pub fn check_dir_times(&self, world: &World, disks: &Sides<ModelDisk>) {
        let trees = disks.as_ref().map(tree);
        let states = disks.as_ref().map(ModelDisk::state);
        let whole = states.values().any(|state| state.features.whole_seconds);
        let odd = odd_paths(&trees);
        for path in trees[Side::Left].keys().filter(|path| trees[Side::Right].contains_key(*path)) {
            let found = states.as_ref().map(|state| state.resolve(path).expect("it was listed"));
            let settable = states.values().zip(found.into_values()).all(|(state, obj)| {
                let inode = state.inode(obj);
                state.is_dir(obj) && !inode.denied && (!state.features.no_chown || inode.meta.uid == state.me())
            });
            let out = is_temporary(path) || odd.iter().any(|odd| path.is_within(odd) || odd.is_below(path));
            if !settable || out {
                continue;
            }
            let times = Sides::from_fn(|side| {
                let time = states[side].inode(found[side]).meta.mtime;
                if whole { Time { nanos: 0, ..time } } else { time }
            });
            if times[Side::Left] != times[Side::Right] {
                world.violation(format!(
                    "directory time: {path}: left {:?}, right {:?}",
                    times[Side::Left],
                    times[Side::Right]
                ));
            }
        }
    }

    /// Invariant 3: what users deleted on `side`, and nobody touched on the other, is nowhere.
    fn check_resurrection(&self, world: &World, side: Side, trees: &Sides<Tree>) {
        let odd = odd_paths(trees);
        for (i, fact) in self.facts.iter().enumerate() {
            let What::Deleted(path) = &fact.what else { continue };
            let again = self.facts[i + 1..].iter().any(|later| concerns(later, path));
            // What the others knew it by: an edit of it wins over its deletion, under the name that it had in between.
            let names = earlier_names(&self.facts[..i], |of| of == side, path);
            let other =
                self.facts.iter().any(|fact| fact.side != side && names.iter().any(|name| concerns(fact, name)));
            // Where an unsupported object took the place of a directory, that is a reported problem: what lay in the
            // directory stays on the other side until the name is free.
            let hidden = odd.iter().any(|odd| path.is_within(odd));
            if fact.side != side || again || other || hidden || is_temporary(path) {
                continue;
            }
            for (tree, where_) in trees.values().zip(Side::BOTH) {
                // A directory stays for what others had put into it, under whatever name it had on their side.
                let holds = tree.keys().any(|other| other.is_below(path));
                if tree.get(path).is_some_and(|view| view.kind.is_some()) && !holds {
                    world.violation(format!("{path}, deleted on the {}, is on the {}", side.word(), where_.word()));
                }
            }
        }
    }
}

/// Whether contents begin with a whole mark of a user's: no two of them write the same.
fn is_unique(contents: &[u8]) -> bool {
    contents.first() == Some(&b'<') && contents.get(6) == Some(&b'>')
}

/// Whether somebody changed what lies at the path, below it, or a tree that it lies in.
fn concerns(fact: &Fact, path: &RelPath) -> bool {
    match &fact.what {
        What::Touched { path: touched, deep } => {
            touched == path || touched.is_below(path) || (*deep && path.is_below(touched))
        }
        _ => false,
    }
}

/// What a conflict copy is a copy of.
fn copied(path: &RelPath) -> Option<RelPath> {
    let (above, name) = path.split()?;
    let name = String::from_utf8_lossy(name.as_bytes()).into_owned();
    let (base, rest) = name.split_once(" (conflict ")?;
    let extension = rest.split_once(')')?.1;
    above.join(&Name::new(format!("{base}{extension}").as_bytes()).ok()?).ok()
}

/// The names that the object at `path` had on the sides that `of` lets through, the last one first.
fn earlier_names(facts: &[Fact], of: impl Fn(Side) -> bool, path: &RelPath) -> Vec<RelPath> {
    let mut names = vec![path.clone()];
    for fact in facts.iter().rev().filter(|fact| of(fact.side)) {
        let What::Renamed { from, to } = &fact.what else { continue };
        let now = names.last().expect("one at least");
        let before = if now == to { Some(from.clone()) } else { now.rebase(to, from) };
        names.extend(before.filter(|before| before != now));
    }
    names
}

/// The names that any object had that ever came to `path`.
fn possible_names(facts: &[Fact], path: &RelPath) -> BTreeSet<RelPath> {
    let mut names = BTreeSet::from([path.clone()]);
    for fact in facts.iter().rev() {
        let What::Renamed { from, to } = &fact.what else { continue };
        let before: Vec<RelPath> = names.iter().filter_map(|name| name.rebase(to, from)).collect();
        names.extend(before);
    }
    names
}

/// Where objects lie that are of no kind that travels.
fn odd_paths(trees: &Sides<Tree>) -> BTreeSet<&RelPath> {
    trees.values().flatten().filter(|(_, view)| view.kind.is_none()).map(|(path, _)| path).collect()
}

/// Whether the path is left alone, as the default filters have it.
fn is_temporary(path: &RelPath) -> bool {
    path.names().any(|name| name.as_bytes().ends_with(b".tmp"))
}

fn text(contents: &[u8]) -> String {
    String::from_utf8_lossy(&contents[..contents.len().min(24)]).into_owned()
}

fn told(view: &Option<View>) -> String {
    let Some(view) = view else { return "nothing".to_string() };
    format!(
        "{:?} {:?} {:o} {:?}:{:?} {}.{:09} {:?}",
        view.kind,
        text(&view.contents),
        view.mode,
        view.owner.0,
        view.owner.1,
        view.mtime.secs,
        view.mtime.nanos,
        view.xattrs.values().map(|value| text(value)).collect::<Vec<_>>()
    )
}
