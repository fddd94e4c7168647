//! What both sides share: one clock, the record of what users did, and the moments at which users may step in.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;

use psync::model::{Millis, RelPath, Side, Sides};

use crate::dir_times::Given;
use crate::sight::{Eyes, Place};

/// Something that users did, in the order in which it happened on both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// Number of the moment (see [`World::moment`]).
    pub at: u64,
    pub side: Side,
    pub what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A user's process closed a file with these contents: from now on they must not be lost.
    Finished(Vec<u8>),
    /// A user replaced or deleted an object with these contents, on the side where it saw them.
    Gone(Vec<u8>),
    /// A user changed what lies at this path, with all below it if `deep`.
    Touched { path: RelPath, deep: bool },
    /// A user removed this path or renamed it away.
    Deleted(RelPath),
    /// A user gave an object another name.
    Renamed { from: RelPath, to: RelPath },
}

/// When a name was left empty, and when something lay there again, in nanoseconds.
type Gap = (u64, Option<u64>);

/// The values of an attribute by path and name, on the left and on the right: that before users set it, and then each that
/// they set; empty: it was not there, or was taken away.
pub type Attributes = BTreeMap<(RelPath, &'static str), Sides<Vec<Vec<u8>>>>;

/// Called at each moment with the side whose replica is at work; `None`: nobody is.
pub type Hook = Rc<dyn Fn(Option<Side>)>;

#[derive(Default)]
pub struct World {
    /// Nanoseconds since the history's start; never goes back.
    nanos: Cell<u64>,
    moments: Cell<u64>,
    hook: RefCell<Option<Hook>>,
    in_hook: Cell<bool>,
    facts: RefCell<Vec<Fact>>,
    /// All contents that a file under a users' name may have.
    known: RefCell<HashSet<Vec<u8>>>,
    /// The rights that users gave to contents.
    granted: RefCell<HashSet<(Vec<u8>, String)>>,
    /// There is a user who is after rights: new objects are an ordinary user's.
    pub hostile: Cell<bool>,
    /// There is a user who keeps something to himself: the same.
    pub private: Cell<bool>,
    /// It is looked who can read what.
    pub sighted: Cell<bool>,
    /// What users have replaced, closed or removed is so on the other side before anything is opened above it.
    pub in_order: Cell<bool>,
    /// Who could read which contents by what users did.
    shown: RefCell<HashMap<Vec<u8>, Eyes>>,
    /// Where contents were last seen on each side.
    pub places: RefCell<BTreeMap<(Vec<u8>, Side), Place>>,
    /// The values of extended attributes that users saw and set on each side since somebody asked.
    xattrs: RefCell<Attributes>,
    /// The times that users gave directories.
    pub given: RefCell<Given>,
    violations: RefCell<Vec<String>>,
    /// When users last left a name empty.
    gaps: RefCell<HashMap<(Side, RelPath), Gap>>,
    /// Names that psync took a file away from, and when that had been made.
    vacated: RefCell<Vec<(Side, RelPath, u64)>>,
}

impl World {
    pub fn new() -> Rc<World> {
        let world = World::default();
        world.nanos.set(1_000_000_000);
        world.known.borrow_mut().insert(Vec::new());
        Rc::new(world)
    }

    pub fn nanos(&self) -> u64 {
        self.nanos.get()
    }

    pub fn now(&self) -> Millis {
        self.nanos.get() / 1_000_000
    }

    pub fn advance(&self, nanos: u64) {
        self.nanos.set(self.nanos.get() + nanos);
    }

    /// The clock goes on to this very millisecond, which lies ahead.
    pub fn advance_to(&self, millis: Millis) {
        assert!(self.now() < millis, "{millis} ms are over");
        self.nanos.set(millis * 1_000_000);
    }

    /// How many moments there have been.
    pub fn moment(&self) -> u64 {
        self.moments.get()
    }

    pub fn set_hook(&self, hook: Option<Hook>) {
        *self.hook.borrow_mut() = hook;
    }

    /// A point at which anything may happen: a user's call, a crash. Nothing is borrowed here.
    pub fn pause(&self, side: Option<Side>) {
        if self.in_hook.get() {
            return;
        }
        self.moments.set(self.moments.get() + 1);
        let hook = self.hook.borrow().clone();
        if let Some(hook) = hook {
            self.in_hook.set(true);
            hook(side);
            self.in_hook.set(false);
        }
    }

    pub fn note(&self, side: Side, what: What) {
        match &what {
            What::Finished(contents) => self.allow(contents),
            What::Gone(_) | What::Touched { .. } | What::Deleted(_) | What::Renamed { .. } => {}
        }
        self.facts.borrow_mut().push(Fact { at: self.moment(), side, what });
    }

    /// A user gave an extended attribute another value.
    pub fn set_xattr(&self, side: Side, path: &RelPath, name: &'static str, before: Vec<u8>, value: &[u8]) {
        let mut xattrs = self.xattrs.borrow_mut();
        let set = &mut xattrs.entry((path.clone(), name)).or_default()[side];
        if set.is_empty() {
            set.push(before);
        }
        set.push(value.to_vec());
    }

    /// What users set since the last call.
    pub fn take_xattrs(&self) -> Attributes {
        std::mem::take(&mut self.xattrs.borrow_mut())
    }

    /// Takes the facts since the last call.
    pub fn facts(&self) -> Vec<Fact> {
        std::mem::take(&mut self.facts.borrow_mut())
    }

    /// From now on a visible file may have these contents.
    pub fn allow(&self, contents: &[u8]) {
        if !self.known.borrow().contains(contents) {
            self.known.borrow_mut().insert(contents.to_vec());
        }
    }

    /// A user took away what lay at the path.
    pub fn emptied(&self, side: Side, path: &RelPath) {
        self.gaps.borrow_mut().insert((side, path.clone()), (self.nanos(), None));
    }

    /// A user took away what lay at the path for good: whatever comes there later is something else.
    pub fn left(&self, side: Side, path: &RelPath) {
        self.gaps.borrow_mut().insert((side, path.clone()), (self.nanos(), Some(u64::MAX)));
    }

    /// A user put something there.
    pub fn filled(&self, side: Side, path: &RelPath) {
        if let Some((_, filled)) = self.gaps.borrow_mut().get_mut(&(side, path.clone())) {
            filled.get_or_insert(self.nanos());
        }
    }

    /// How long a user last left the name empty, if something lies there again.
    pub fn gap(&self, side: Side, path: &RelPath) -> u64 {
        match self.gaps.borrow().get(&(side, path.clone())) {
            Some((emptied, Some(filled))) => filled - emptied,
            Some((_, None)) => u64::MAX,
            None => 0,
        }
    }

    /// psync took a file away from its name.
    pub fn vacate(&self, side: Side, path: RelPath, age: u64) {
        self.vacated.borrow_mut().push((side, path, age));
    }

    /// Takes the names that psync left empty since the last call.
    pub fn take_vacated(&self) -> Vec<(Side, RelPath, u64)> {
        std::mem::take(&mut self.vacated.borrow_mut())
    }

    /// A user gave this right to a file with these contents.
    pub fn grant(&self, contents: &[u8], right: String) {
        if self.hostile.get() {
            self.granted.borrow_mut().insert((contents.to_vec(), right));
        }
    }

    pub fn is_granted(&self, contents: &[u8], right: &str) -> bool {
        self.granted.borrow().contains(&(contents.to_vec(), right.to_owned()))
    }

    /// By what users did these can read a file with these contents.
    pub fn show(&self, contents: &[u8], eyes: Eyes) {
        *self.shown.borrow_mut().entry(contents.to_vec()).or_default() |= eyes;
    }

    /// Who ever could.
    pub fn who_read(&self, contents: &[u8]) -> Eyes {
        self.shown.borrow().get(contents).copied().unwrap_or_default()
    }

    pub fn is_known(&self, contents: &[u8]) -> bool {
        self.known.borrow().contains(contents)
    }

    /// An invariant broke; the history fails.
    /// `PSYNC_SIM_IGNORE` names kinds (the words before the colon) that are known and to be passed over.
    pub fn violation(&self, text: String) {
        let ignored = std::env::var("PSYNC_SIM_IGNORE").unwrap_or_default();
        if ignored.split(',').any(|kind| !kind.is_empty() && text.starts_with(kind)) {
            return;
        }
        self.violations.borrow_mut().push(text);
    }

    pub fn violations(&self) -> Vec<String> {
        self.violations.borrow().clone()
    }
}
