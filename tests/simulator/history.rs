//! A history: two trees, what users and faults do to them in phases, and the checks after each phase.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use psync::model::{Millis, RelPath, Side, Sides};
use psync::replica::memory::MemoryArchive;

use crate::choice::Choices;
use crate::clearing;
use crate::dir_times;
use crate::driver::{Pair, Turn};
use crate::model_disk::ModelDisk;
use crate::model_disk::state::{Features, ROOT};
use crate::plan::{Act, Fault, Item, Stage};
use crate::sight;
use crate::users::{Call, Maker, Running, Task};
use crate::world::World;
use crate::{attributes, rights, room};

/// Users are quiet for this long before the trees are compared.
const QUIET: Millis = 20 * 60 * 1000;
/// A phase that takes more turns than this does not come to rest.
const TURNS: u64 = 10_000;
/// One seed of so many, the one with this rest, is a history of users who work apart.
const APART: u64 = 7;
const APART_REST: u64 = 4;
/// One of so many of these, the one with this rest, is a history of users who hand files over instead.
const HANDED: u64 = 4;
const HANDED_REST: u64 = 2;
/// No queue of the model may grow beyond this.
const QUEUE: usize = 5_000;

/// Which disturbances a history may have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Profile {
    pub one_sided: bool,
    /// The users of each side work in a directory of their own, all the time, while processes are killed again and
    /// again: what is recorded on one side only is then never little.
    pub apart: bool,
    /// What the user of one side saves the user of the other deletes, renames or replaces the moment that it is there,
    /// and psync is killed.
    pub handed: bool,
    pub events: bool,
    pub crashes: bool,
    pub power: bool,
    pub disks: bool,
    pub snapshots: bool,
    pub features: bool,
    /// Somebody is after rights that others have.
    pub hostile: bool,
    /// Somebody keeps something to himself.
    pub private: bool,
    /// Nobody sees more there than here at any moment, in whatever order it is told.
    pub in_order: bool,
    /// Somebody removes nearly everything.
    pub clearing: Option<clearing::Counts>,
    /// Users of both sides give extended attributes to the same objects.
    pub attributed: bool,
    /// Users of both sides work in the same directories, and give them times.
    pub timed: bool,
    /// This side's disk is full, and stays so until all has come to rest.
    pub full: Option<Side>,
}

impl Profile {
    /// What disturbs the history, in a few words.
    pub fn words(&self) -> String {
        let all = [
            (self.one_sided, "one-sided"),
            (self.apart, "apart"),
            (self.handed, "handed"),
            (self.events, "events"),
            (self.crashes, "crashes"),
            (self.power, "power"),
            (self.disks, "disks"),
            (self.snapshots, "snapshots"),
            (self.features, "features"),
            (self.hostile, "hostile"),
            (self.private, "private"),
            (self.in_order, "in order"),
            (self.clearing.is_some(), "clearing"),
            (self.attributed, "attributed"),
            (self.timed, "timed"),
            (self.full.is_some(), "full"),
        ];
        let words: Vec<&str> = all.into_iter().filter(|(set, _)| *set).map(|(_, word)| word).collect();
        format!("({})", words.join(", "))
    }
}

#[derive(Debug, Clone)]
pub struct History {
    /// Seed of everything that is not users' doing: order of work, what a power cut keeps.
    pub schedule: u64,
    pub profile: Profile,
    pub features: Sides<Features>,
    /// What lies in the trees before psync comes.
    pub before: Vec<Task>,
    pub phases: Vec<Vec<Item>>,
}

impl History {
    /// The history of a seed.
    pub fn of(seed: u64) -> History {
        let choices = Choices::seeded(seed);
        if seed >= dir_times::TIMED {
            return dir_times::history(seed, &choices);
        }
        if seed >= sight::LEAVERS {
            return sight::leavers(seed, &choices);
        }
        if seed % APART == APART_REST && seed / APART % HANDED == HANDED_REST {
            return History::handed(seed, &choices);
        }
        if seed % APART == APART_REST {
            return History::apart(seed, &choices);
        }
        if rights::is_hostile(seed) {
            return rights::history(seed, &choices);
        }
        if sight::is_private(seed) {
            return sight::history(seed, &choices);
        }
        if clearing::is_clearing(seed) {
            return clearing::history(seed, &choices);
        }
        if attributes::is_attributed(seed) {
            return attributes::history(seed, &choices);
        }
        if room::is_full(seed) {
            return room::history(seed, &choices);
        }
        let profile = profile(&choices);
        let mut value = 0;
        let mut features = features(&choices, profile);
        if profile.features {
            // No matter of choice: what follows in the stream stays what it was.
            for (side, features) in (0..).zip(features.values_mut()) {
                features.clones = (seed >> side) & 1 == 0;
                features.sends_open = (seed >> 2) % 3 == side;
                features.layers = (seed >> 4) % 4 == side;
            }
        }
        // Nor is this.
        features.values_mut().for_each(|features| features.fifos = seed % 3 == 1);
        let mut maker = Maker { choices: &choices, value: &mut value, unique_sizes: true, home: None };
        let before = (0..choices.below(9))
            .map(|_| {
                let side = side(&choices, profile);
                Task { pace: 0, ..maker.task(side) }
            })
            .collect();
        maker.unique_sizes = false;
        let phases = (0..1 + choices.below(3)).map(|_| phase(&choices, profile, &mut maker)).collect();
        History { schedule: seed ^ 0x5eed, profile, features, before, phases }
    }

    /// A history of users who work apart from each other.
    fn apart(seed: u64, choices: &Choices) -> History {
        let profile = Profile { apart: true, crashes: true, events: choices.one_in(4), ..Profile::default() };
        let mut value = 0;
        let mut maker = Maker { choices, value: &mut value, unique_sizes: true, home: None };
        let before = Side::BOTH.map(|side| Task { side, pace: 0, calls: vec![Call::Mkdir(home(side))] }).to_vec();
        maker.unique_sizes = false;
        let phases = (0..1 + choices.below(2)).map(|_| busy_phase(choices, profile, &mut maker)).collect();
        History { schedule: seed ^ 0x5eed, profile, features: Default::default(), before, phases }
    }

    /// A history of users who take up at once what comes from the other side.
    fn handed(seed: u64, choices: &Choices) -> History {
        let power = choices.one_in(3);
        let profile = Profile { handed: true, crashes: !power, power, ..Profile::default() };
        let mut maker = Maker { choices, value: &mut 0, unique_sizes: false, home: None };
        let phases = (0..1 + choices.below(2)).map(|_| handed_phase(choices, profile, &mut maker)).collect();
        History { schedule: seed ^ 0x5eed, profile, features: Default::default(), before: vec![], phases }
    }

    /// For people: what can be left out while the failure stays.
    pub fn describe(&self) -> String {
        let mut out = format!("schedule {} {:?}\nfeatures {:?}\n", self.schedule, self.profile, self.features);
        for task in &self.before {
            out += &format!("before: {} {:?}\n", task.side.word(), task.calls);
        }
        for (i, phase) in self.phases.iter().enumerate() {
            for item in phase {
                out += &match &item.act {
                    Act::User(task) => {
                        format!(
                            "phase {i} at {}: {} (pace {}) {:?}\n",
                            item.at,
                            task.side.word(),
                            task.pace,
                            task.calls
                        )
                    }
                    Act::Fault(fault) => format!("phase {i} at {}: FAULT {fault:?}\n", item.at),
                };
            }
        }
        out
    }
}

/// The directory where the users of one side work, if they work apart.
pub fn home(side: Side) -> RelPath {
    RelPath::new(side.word().as_bytes()).expect("a short name")
}

fn handed_phase(choices: &Choices, profile: Profile, maker: &mut Maker) -> Vec<Item> {
    let mut at = 0;
    let mut items = Vec::new();
    for n in 0..3 + choices.below(6) {
        let side = if choices.one_in(2) { Side::Left } else { Side::Right };
        let path = RelPath::new(format!("file{n}").as_bytes()).expect("a short name");
        let (task, version) = maker.save(side, &path);
        items.push(Item { at, act: Act::User(task) });
        if profile.power {
            // He saves once more, and loses his power; or the other does.
            at += choices.below(40);
            items.push(Item { at, act: Act::User(maker.save(side, &path).0) });
            at += choices.below(12);
            let cut = if choices.one_in(5) { side.other() } else { side };
            items.push(Item { at, act: Act::Fault(Fault::PowerCut(cut)) });
        } else {
            items.push(Item { at, act: Act::User(maker.react(side.other(), &path, version)) });
        }
        at += match choices.below(3) {
            0 => choices.below(8),
            1 => choices.below(120),
            // After everything else is done.
            _ => 1_000_000,
        };
    }
    items
}

fn busy_phase(choices: &Choices, profile: Profile, maker: &mut Maker) -> Vec<Item> {
    let mut at = 0;
    let mut items = Vec::new();
    for _ in 0..20 + choices.below(40) {
        at += match choices.below(12) {
            0..=6 => choices.below(4),
            7..=10 => choices.below(60),
            _ => choices.below(600),
        };
        let side = if choices.one_in(2) { Side::Left } else { Side::Right };
        let act = match choices.below(12) {
            0 => Act::Fault(Fault::Crash(side)),
            1 => {
                items.push(Item { at, act: Act::Fault(Fault::Crash(side.other())) });
                Act::Fault(Fault::Crash(side))
            }
            2 => match fault(choices, profile) {
                Some(fault) => Act::Fault(fault),
                None => Act::Fault(Fault::LinkCut),
            },
            _ => {
                maker.home = Some(home(side));
                Act::User(maker.task(side))
            }
        };
        items.push(Item { at, act });
    }
    items
}

fn side(choices: &Choices, profile: Profile) -> Side {
    let left = choices.one_in(2);
    if left || profile.one_sided { Side::Left } else { Side::Right }
}

fn profile(choices: &Choices) -> Profile {
    let disturbed = !choices.one_in(4);
    let some = |n: u64| choices.one_in(n) && disturbed;
    Profile {
        one_sided: choices.one_in(6),
        apart: false,
        handed: false,
        events: some(3),
        crashes: some(3),
        power: some(4),
        disks: some(5),
        snapshots: some(16),
        features: some(4),
        hostile: false,
        private: false,
        in_order: false,
        clearing: None,
        attributed: false,
        timed: false,
        full: None,
    }
}

fn features(choices: &Choices, profile: Profile) -> Sides<Features> {
    Sides::from_fn(|_| {
        let some = |n: u64| choices.one_in(n) && profile.features;
        Features {
            coarse_clock: some(3),
            whole_seconds: some(5),
            no_chown: some(4),
            no_xattrs: some(4),
            drops_setgid: some(4),
            no_leases: some(4),
            layers: false,
            clones: false,
            sends_open: false,
            keeps_acls: false,
            gives_acls: false,
            fifos: false,
        }
    })
}

fn phase(choices: &Choices, profile: Profile, maker: &mut Maker) -> Vec<Item> {
    let mut at = 0;
    (0..1 + choices.below(10))
        .map(|_| {
            at += match choices.below(6) {
                0 | 1 => choices.below(4),
                2 | 3 => choices.below(60),
                4 => choices.below(600),
                // After everything else is done.
                _ => 1_000_000,
            };
            let act = match fault(choices, profile) {
                Some(fault) => Act::Fault(fault),
                None => Act::User(maker.task(side(choices, profile))),
            };
            Item { at, act }
        })
        .collect()
}

fn fault(choices: &Choices, profile: Profile) -> Option<Fault> {
    let any = if choices.one_in(2) { Side::Left } else { Side::Right };
    let fault = match choices.below(24) {
        0 if profile.events => Fault::LoseEvents(any),
        1 if profile.events => Fault::DoubleEvents(any),
        2 if profile.events => Fault::ReorderEvents(any),
        3 if profile.events => Fault::Delay(choices.below(2_000)),
        4 if profile.events && !profile.features => Fault::ClockJump(any, choices.below(7_200) as i64 - 3_600),
        5 | 6 if profile.crashes => Fault::Crash(any),
        7 | 8 if profile.crashes => Fault::LinkCut,
        9 | 10 if profile.power => Fault::PowerCut(any),
        11 if profile.disks => Fault::Full(any, choices.one_in(2)),
        12 if profile.disks => {
            let (choices, value) = (choices.clone(), &mut 0);
            Fault::Deny(any, Maker { choices: &choices, value, unique_sizes: false, home: None }.path())
        }
        13 if profile.disks => Fault::Fail(any, choices.below(40) as u32),
        14 | 15 if profile.snapshots => Fault::Snapshot(any),
        16 if profile.snapshots => Fault::Restore(any),
        _ => return None,
    };
    Some(fault)
}

/// How a history went.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub failure: Option<String>,
    pub trace: Vec<String>,
}

impl Outcome {
    /// The failure's kind: what a shorter history must show as well.
    pub fn kind(&self) -> Option<&str> {
        self.failure.as_ref().map(|text| text.split(':').next().unwrap_or_default())
    }

    pub fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.trace.hash(&mut hasher);
        hasher.finish()
    }
}

pub type Build = fn(Rc<Stage>) -> Box<dyn Pair>;

/// Plays a history with the pair that `build` makes.
pub fn play(history: &History, build: Build, keep_trace: bool) -> Outcome {
    let stage = stage(history, keep_trace);
    let result = catch_unwind(AssertUnwindSafe(|| play_on(&stage, history, build)));
    stage.world.set_hook(None);
    let failure = match result {
        Ok(failure) => failure,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()));
            Some(format!("panic: {}", text.unwrap_or_default()))
        }
    };
    Outcome { failure, trace: stage.trace.take() }
}

pub fn stage(history: &History, keep_trace: bool) -> Rc<Stage> {
    let world = World::new();
    world.hostile.set(history.profile.hostile);
    world.private.set(history.profile.private);
    world.sighted.set(history.profile.private);
    world.in_order.set(history.profile.in_order);
    let choices = Choices::seeded(history.schedule);
    let disk = |side: Side| {
        let features = history.features[side].clone();
        ModelDisk::new(side, world.clone(), features, choices.clone())
    };
    let disks = Sides::from_fn(disk);
    let archives = Sides::from_fn(|side| {
        let state = disks[side].state();
        let root = state.inode(ROOT);
        MemoryArchive::new([side as u8 + 1; 16], (root.ino, root.btime))
    });
    Stage::new(disks, archives, choices, keep_trace, clearing::limits(history.profile))
}

fn play_on(stage: &Rc<Stage>, history: &History, build: Build) -> Option<String> {
    for task in &history.before {
        let mut told = Vec::new();
        Running::new(task.clone(), 0).advance(&stage.disks, 0, true, &mut told);
        told.into_iter().for_each(|line| stage.trace.line(|| line));
    }
    begin(stage);
    let mut pair = build(stage.clone());
    let undisturbed = Profile { one_sided: true, ..Profile::default() };
    for (i, items) in history.phases.iter().enumerate() {
        stage.trace.line(|| format!("--- phase {i}"));
        stage.load(items);
        if history.profile.clearing.is_some() && i > 0 {
            stage.old.borrow_mut().begin(stage, items);
        }
        stage.oracle.borrow_mut().watch_names(i > 0 && history.profile == undisturbed && pair.keeps_names());
        if let Err(failure) = run_phase(stage, pair.as_mut(), history.profile) {
            return Some(failure);
        }
        if history.profile.hostile {
            // Files that only look equal may stay so, and deletions come to nothing where others grant.
            stage.oracle.borrow_mut().check_no_loss(&stage.world, &stage.disks);
            stage.disks.values().for_each(|disk| disk.state().check_rights(ROOT));
        } else {
            stage.oracle.borrow_mut().check_quiet(&stage.world, &stage.disks);
            if pair.keeps_dir_times() {
                stage.oracle.borrow().check_dir_times(&stage.world, &stage.disks);
            }
        }
        check_echo(stage, history);
        if history.profile.timed {
            dir_times::check(stage, !history.profile.crashes);
        }
        if history.profile.attributed {
            attributes::check(stage);
        }
        if !(history.profile.hostile
            || history.profile.power
            || history.profile.snapshots
            || history.profile.disks
            || history.profile.features)
        {
            stage.oracle.borrow_mut().check_copies(&stage.world, &stage.disks);
        }
        if history.profile.handed && history.profile.crashes {
            stage.oracle.borrow_mut().check_handed(&stage.world, &stage.disks);
        }
        if let Some(violation) = stage.world.violations().into_iter().next() {
            return Some(violation);
        }
    }
    None
}

/// What lies there now lay there before psync comes; from here on users step in at its calls.
pub fn begin(stage: &Rc<Stage>) {
    stage.disks.values().for_each(|disk| {
        let state = &mut *disk.state_mut();
        state.write_back(0);
        state.events.clear();
        state.visible_changes = 0;
    });
    // What lay there before psync came is not of this very moment.
    stage.world.advance(10_000_000_000);
    let hooked = Rc::downgrade(stage);
    stage.world.set_hook(Some(Rc::new(move |_| {
        if let Some(stage) = hooked.upgrade() {
            stage.tick();
        }
    })));
}

/// Invariant 5, where users were on the left alone, or alone in a directory: psync changed nothing there.
fn check_echo(stage: &Stage, history: &History) {
    let changes = stage.disk(Side::Left).state().visible_changes;
    let profile = history.profile;
    if profile.one_sided && !profile.power && !profile.snapshots && changes > 0 {
        stage.world.violation(format!("echo: {changes} changes on the side where the users are"));
    }
    for side in Side::BOTH.into_iter().filter(|_| profile.apart) {
        let changed = stage.disk(side).state().changed_at_home.clone();
        if let Some(path) = changed {
            stage.world.violation(format!("echo: psync changed {path}, where the {} users are alone", side.word()));
        }
    }
}

/// Until everything has happened and nothing is under way any more.
pub fn run_phase(stage: &Stage, pair: &mut dyn Pair, profile: Profile) -> Result<(), String> {
    let mut quiet_since = stage.world.now();
    let mut traffic = pair.traffic();
    let (mut resumed, mut scanned) = (0, false);
    let mut full = profile.full;
    for turn in 0.. {
        stage.world.pause(None);
        if let Some(violation) = stage.world.violations().into_iter().next() {
            return Err(violation);
        }
        if turn > TURNS {
            return Err("never quiet: the pair goes on working".to_string());
        }
        check_bounds(stage)?;
        let worked = pair.turn();
        stage.oracle.borrow().check_names(&stage.world, &stage.disks);
        stage.old.borrow().check(stage);
        if let Some(reason) = pair.halted() {
            stage.trace.line(|| format!("    HALT {reason}"));
            resumed += 1;
            if reason.contains("rolled back") && !profile.snapshots {
                return Err(format!("false halt: {reason}"));
            }
            if resumed > 20 {
                return Err(format!("halts: again and again: {reason}"));
            }
            stage.oracle.borrow_mut().check_no_loss(&stage.world, &stage.disks);
            stage.old.borrow_mut().accept();
            pair.resume();
        }
        if !stage.is_over() || pair.traffic() != traffic {
            (quiet_since, traffic) = (stage.world.now(), pair.traffic());
        }
        match worked {
            Turn::Worked => stage.world.advance(stage.choices.below(3_000_000)),
            Turn::Idle(_) if !stage.is_over() => stage.hurry(),
            Turn::Idle(_) if stage.world.now() >= quiet_since + QUIET && full.is_some() => {
                if let Some(side) = full.take() {
                    room::check(stage, side)?;
                }
                quiet_since = stage.world.now();
            }
            // A change through one hard link makes no event for the others: they wait for the next full sync.
            Turn::Idle(_) if stage.world.now() >= quiet_since + QUIET && !scanned && has_hard_links(stage) => {
                (scanned, quiet_since) = (true, stage.world.now());
                pair.full_sync();
            }
            Turn::Idle(_) if stage.world.now() >= quiet_since + QUIET => return Ok(()),
            Turn::Idle(until) => wait(stage, until, quiet_since),
        }
        if stage.is_over() && full.is_none() {
            stage.heal();
        }
    }
    Ok(())
}

/// Time passes until the pair has something to do; the kernel writes back what is old.
fn wait(stage: &Stage, until: Option<Millis>, quiet_since: Millis) {
    let now = stage.world.now();
    let end = quiet_since + QUIET;
    let to = until.map_or(end, |until| until.clamp(now + 1, end.max(now + 1)));
    stage.world.advance((to - now) * 1_000_000);
    for disk in stage.disks.values() {
        disk.state_mut().write_back(if to > now + 30_000 { 0 } else { 5_000_000_000 });
    }
}

fn has_hard_links(stage: &Stage) -> bool {
    // Also when the other name is gone by now: what was written through it may have come after the last look.
    stage.disks.values().any(|disk| disk.state().linked)
}

/// Invariant 9, as far as the model sees it.
fn check_bounds(stage: &Stage) -> Result<(), String> {
    for disk in stage.disks.values() {
        let state = disk.state();
        let handles: u32 = state.volume.inodes.values().map(|inode| inode.handles).sum();
        if state.events.len() > QUEUE || handles > 512 {
            return Err(format!("unbounded: {} events, {handles} open files", state.events.len()));
        }
    }
    Ok(())
}
