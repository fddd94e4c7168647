//! What happens in a history from outside, and when: users' tasks and faults.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use psync::model::guard::Limit;
use psync::model::{RelPath, Side, Sides};
use psync::replica::memory::MemoryArchive;
use psync::watch::Event;

use crate::choice::Choices;
use crate::clearing::Old;
use crate::model_disk::ModelDisk;
use crate::model_disk::state::Volume;
use crate::oracle::Oracle;
use crate::users::{Running, Task};
use crate::world::World;

#[derive(Debug, Clone)]
pub enum Fault {
    /// psync's process on this side is killed; on the left the brain with it.
    Crash(Side),
    PowerCut(Side),
    LinkCut,
    /// Messages take this many milliseconds.
    Delay(u64),
    LoseEvents(Side),
    DoubleEvents(Side),
    ReorderEvents(Side),
    /// This side's clock jumps by so many seconds.
    ClockJump(Side, i64),
    /// From now on, or no longer, the disk is full.
    Full(Side, bool),
    /// From now on, or no longer, no inode is free, whatever room there is.
    NoInodes(Side, bool),
    /// psync may not open what lies at this path.
    Deny(Side, RelPath),
    /// The call after so many fails with EIO.
    Fail(Side, u32),
    /// The volume and its archive are kept as they are now.
    Snapshot(Side),
    /// They come back.
    Restore(Side),
}

#[derive(Debug, Clone)]
pub enum Act {
    User(Task),
    Fault(Fault),
}

/// Something that happens at a moment, counted from the start of its phase.
#[derive(Debug, Clone)]
pub struct Item {
    pub at: u64,
    pub act: Act,
}

/// What happened, line by line, for people; kept only where somebody will read it.
#[derive(Default)]
pub struct Trace {
    pub keep: bool,
    lines: RefCell<Vec<String>>,
}

impl Trace {
    pub fn line(&self, text: impl FnOnce() -> String) {
        if self.keep {
            self.lines.borrow_mut().push(text());
        }
    }

    pub fn take(&self) -> Vec<String> {
        self.lines.take()
    }
}

/// What faults do to the pair's processes and line, to be seen by the driver at its next turn.
#[derive(Default)]
pub struct Controls {
    pub cut: Cell<bool>,
    pub delay: Cell<u64>,
}

type Kept = Option<(Volume, MemoryArchive)>;

/// The stage on which a history plays.
pub struct Stage {
    pub world: Rc<World>,
    pub disks: Sides<ModelDisk>,
    pub archives: Sides<Rc<RefCell<MemoryArchive>>>,
    pub controls: Controls,
    pub oracle: RefCell<Oracle>,
    /// How much the brain passes on, and how much the sides remove.
    pub limits: (Limit, Limit),
    pub old: RefCell<Old>,
    pub choices: Choices,
    pub trace: Trace,
    /// How often the contents of each path were asked for in this phase.
    pub supplied: RefCell<BTreeMap<RelPath, u32>>,
    items: RefCell<VecDeque<Item>>,
    running: RefCell<Vec<Running>>,
    start: Cell<u64>,
    snapshots: RefCell<Sides<Kept>>,
}

impl Stage {
    pub fn new(
        disks: Sides<ModelDisk>,
        archives: Sides<MemoryArchive>,
        choices: Choices,
        keep_trace: bool,
        limits: (Limit, Limit),
    ) -> Rc<Stage> {
        let world = disks[Side::Left].state().world.clone();
        Rc::new(Stage {
            world,
            disks,
            archives: archives.map(|archive| Rc::new(RefCell::new(archive))),
            controls: Controls::default(),
            oracle: RefCell::default(),
            limits,
            old: RefCell::default(),
            choices,
            trace: Trace { keep: keep_trace, ..Trace::default() },
            supplied: RefCell::default(),
            items: RefCell::default(),
            running: RefCell::default(),
            start: Cell::new(0),
            snapshots: RefCell::default(),
        })
    }

    pub fn disk(&self, side: Side) -> &ModelDisk {
        &self.disks[side]
    }

    /// Begins a phase with these items, sorted by moment.
    pub fn load(&self, items: &[Item]) {
        self.supplied.borrow_mut().clear();
        *self.items.borrow_mut() = items.iter().cloned().collect();
        self.start.set(self.world.moment());
    }

    /// Whether nothing more will happen from outside.
    pub fn is_over(&self) -> bool {
        self.items.borrow().is_empty() && self.running.borrow().is_empty()
    }

    /// One moment: what is due happens. Called from inside psync's calls to its disks.
    pub fn tick(&self) {
        let now = self.world.moment() - self.start.get();
        loop {
            let item = match self.items.borrow_mut() {
                mut items if items.front().is_some_and(|item| item.at <= now) => items.pop_front(),
                _ => None,
            };
            let Some(item) = item else { break };
            self.act(item.act);
        }
        self.advance(false);
    }

    /// Nobody does anything: the next item or the next step of a task comes at once.
    pub fn hurry(&self) {
        let next = self.items.borrow_mut().pop_front();
        match next {
            Some(item) if self.running.borrow().is_empty() => {
                // Later items keep their distance from this one.
                let now = self.world.moment() - self.start.get();
                if item.at > now {
                    self.items.borrow_mut().iter_mut().for_each(|later| later.at -= item.at - now);
                }
                self.act(item.act);
                self.advance(false);
            }
            other => {
                other.into_iter().for_each(|item| self.items.borrow_mut().push_front(item));
                self.advance(true);
            }
        }
    }

    fn advance(&self, hurry: bool) {
        let Ok(mut running) = self.running.try_borrow_mut() else { return };
        let moment = self.world.moment();
        let mut told = Vec::new();
        for task in running.iter_mut() {
            task.advance(&self.disks, moment, hurry, &mut told);
        }
        running.retain(|task| !task.is_over());
        told.into_iter().for_each(|line| self.trace.line(|| line));
    }

    fn act(&self, act: Act) {
        match act {
            Act::User(task) => self.running.borrow_mut().push(Running::new(task, self.world.moment())),
            Act::Fault(fault) => {
                self.trace.line(|| format!("    FAULT {fault:?}"));
                self.fault(fault);
            }
        }
    }

    fn fault(&self, fault: Fault) {
        match fault {
            Fault::Crash(side) => self.disk(side).state_mut().kill(),
            Fault::PowerCut(side) => self.power_cut(side),
            Fault::LinkCut => self.controls.cut.set(true),
            Fault::Delay(ms) => self.controls.delay.set(ms),
            Fault::LoseEvents(side) => {
                let events = &mut self.disk(side).state_mut().events;
                events.retain(|_| !self.choices.one_in(2));
                events.push_back(Event::Lost { scope: RelPath::root(), reason: "overflow" });
            }
            Fault::DoubleEvents(side) => {
                let events = &mut self.disk(side).state_mut().events;
                let twice: Vec<Event> = events.drain(..).flat_map(|event| [event.clone(), event]).collect();
                events.extend(twice);
            }
            Fault::ReorderEvents(side) => {
                let events = &mut self.disk(side).state_mut().events;
                for i in (1..events.len()).rev() {
                    events.swap(i, self.choices.below(i as u64 + 1) as usize);
                }
            }
            Fault::ClockJump(side, seconds) => self.disk(side).state_mut().clock_offset += seconds * 1_000_000_000,
            Fault::Full(side, full) => self.disk(side).state_mut().no_space = full,
            Fault::NoInodes(side, none) => self.disk(side).state_mut().no_inodes = none,
            Fault::Deny(side, path) => {
                let state = &mut *self.disk(side).state_mut();
                if let Ok(obj) = state.resolve(&path) {
                    state.inode_mut(obj).denied = true;
                }
            }
            Fault::Fail(side, calls) => self.disk(side).state_mut().fail_in = Some(calls),
            Fault::Snapshot(side) => {
                let volume = self.disk(side).state().volume.clone();
                let archive = self.archives[side].borrow().crash();
                self.snapshots.borrow_mut()[side] = Some((volume, archive));
            }
            Fault::Restore(side) => self.restore(side),
        }
    }

    fn power_cut(&self, side: Side) {
        let disk = self.disk(side);
        let safe = disk.state().durable_contents();
        self.oracle.borrow_mut().learn(&self.world);
        disk.state_mut().power_cut();
        self.forget_processes(side);
        self.oracle.borrow_mut().after_cut(&self.world, &self.disks, &safe);
    }

    fn restore(&self, side: Side) {
        let kept = self.snapshots.borrow()[side].clone();
        let Some((volume, archive)) = kept else { return };
        self.oracle.borrow_mut().learn(&self.world);
        self.disk(side).state_mut().restore(&volume);
        *self.archives[side].borrow_mut() = archive;
        self.forget_processes(side);
        self.oracle.borrow_mut().after_cut(&self.world, &self.disks, &Default::default());
        self.oracle.borrow_mut().shake();
    }

    /// Users' processes end with their machine.
    fn forget_processes(&self, side: Side) {
        if let Ok(mut running) = self.running.try_borrow_mut() {
            running.retain(|task| task.side() != side);
        }
    }

    /// Takes back the faults that would keep the pair from becoming equal.
    pub fn heal(&self) {
        self.controls.delay.set(0);
        for disk in self.disks.values() {
            let state = &mut *disk.state_mut();
            state.no_space = false;
            state.no_inodes = false;
            state.fail_in = None;
            state.volume.inodes.values_mut().for_each(|inode| inode.denied = false);
        }
    }
}
