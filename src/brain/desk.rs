//! What others may see of a running brain, and ask of it: a board with its status, a tray for orders.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::state::Facts;
use super::status::{Link, LinkWord, Rates, SideStatus, State, Status, wall};
use crate::config::Settings;
use crate::endpoint::heartbeat::Heartbeat;

/// What an administrator may ask.
#[derive(Debug, Clone, PartialEq)]
pub enum Order {
    /// Scan both sides now; with `checksum` read every file.
    FullSync {
        checksum: bool,
    },
    /// Look through both trashes now.
    Expire,
    Pause,
    /// Go on after a pause or a halt.
    Resume(Mandate),
    /// These settings hold from now on. They differ from the last ones only in what [`super::reload`] allows.
    Reload(Box<Settings>),
}

/// What an administrator takes for meant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mandate {
    /// Both roots are what they should be, and deletions are meant.
    pub accept: bool,
    /// With `accept`: the ancestors are unknown.
    pub union: bool,
}

/// What came of an order, in words.
pub type Answer = Result<String, String>;

/// An order and who waits for its answer.
pub struct Slip {
    pub order: Order,
    pub answer: Sender<Answer>,
}

/// Orders that may wait.
const ORDERS: usize = 64;
/// Between two lines of a status that changes with every file.
const CALM: Duration = Duration::from_secs(1);

type Wake = Box<dyn Fn() + Send>;
type Listener = Box<dyn Fn(&str) + Send>;

/// The desk in front of a brain.
pub struct Desk {
    board: Mutex<Board>,
    tray: Mutex<Tray>,
    heart: Mutex<Option<Arc<Heartbeat>>>,
}

struct Board {
    status: Status,
    facts: Facts,
    /// The settings in force, as they were read.
    settings: serde_json::Value,
    listener: Listener,
    /// The line that was told last, with its state and time.
    told: Option<(String, State, Instant)>,
}

#[derive(Default)]
struct Tray {
    slips: VecDeque<Slip>,
    wake: Option<Wake>,
}

impl Desk {
    /// `listener` is told the status in one line whenever it changes, from the brain's thread.
    pub fn new(pair: &str, settings: &Settings, listener: impl Fn(&str) + Send + 'static) -> Desk {
        let now = wall();
        let root = |path: &std::path::Path| path.display().to_string();
        let left = SideStatus { root: root(&settings.left.root), ..SideStatus::default() };
        let right =
            SideStatus { root: root(&settings.right.root), host: settings.right.host.clone(), ..SideStatus::default() };
        let status = Status {
            pair: pair.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started: now,
            state: State::Starting,
            since: now,
            halt: None,
            paused: None,
            link: Link { state: LinkWord::Down, since: now, reason: None, next_attempt: None },
            left,
            right,
            queue: 0,
            in_flight: 0,
            lag_seconds: 0.0,
            rates: Default::default(),
            totals: Default::default(),
            files: 0,
            bytes: 0,
            last_in_sync: None,
            full_sync: None,
            check: None,
            problems_now: 0,
            problems: Vec::new(),
            conflicts: Vec::new(),
        };
        let board = Board {
            status,
            facts: Facts::default(),
            settings: serde_json::to_value(settings).unwrap_or_default(),
            listener: Box::new(listener),
            told: None,
        };
        Desk { board: Mutex::new(board), tray: Mutex::default(), heart: Mutex::default() }
    }

    /// The status as it is now.
    pub fn status(&self) -> Status {
        self.board().status.clone()
    }

    /// Asks something of the brain, which is woken. `None`: too much waits already.
    pub fn ask(&self, order: Order) -> Option<Receiver<Answer>> {
        let (answer, answers) = channel();
        let mut tray = self.tray();
        if tray.slips.len() >= ORDERS {
            return None;
        }
        tray.slips.push_back(Slip { order, answer });
        if let Some(wake) = &tray.wake {
            wake();
        }
        Some(answers)
    }

    /// The heartbeat of the left side, while it is open.
    pub fn heart(&self) -> Option<Arc<Heartbeat>> {
        self.heart.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_heart(&self, heart: Option<Heartbeat>) {
        *self.heart.lock().unwrap_or_else(PoisonError::into_inner) = heart.map(Arc::new);
    }

    /// Calls `wake` when an order comes in.
    pub(super) fn on_order(&self, wake: impl Fn() + Send + 'static) {
        self.tray().wake = Some(Box::new(wake));
    }

    pub(super) fn next_order(&self) -> Option<Slip> {
        self.tray().slips.pop_front()
    }

    /// The settings in force, as they were read.
    pub fn settings(&self) -> serde_json::Value {
        self.board().settings.clone()
    }

    /// From now on these are in force.
    pub fn set_settings(&self, settings: &Settings) {
        self.board().settings = serde_json::to_value(settings).unwrap_or_default();
    }

    /// What the brain knows of itself.
    pub(super) fn facts(&self) -> Facts {
        self.board().facts
    }

    /// Changes what the status tells beside the state, and tells the listener if that made another line of it.
    pub(super) fn update(&self, change: impl FnOnce(&mut Status)) {
        self.know(|_, status| change(status));
    }

    /// Changes what the brain knows of itself, from which the state follows, and the rest of the status with it.
    pub(super) fn know(&self, change: impl FnOnce(&mut Facts, &mut Status)) {
        let mut board = self.board();
        let Board { status, facts, .. } = &mut *board;
        change(facts, status);
        let state = facts.state();
        if status.state != state {
            (status.state, status.since) = (state, wall());
        }
        if !facts.paused {
            status.paused = None;
        } else if status.paused.is_none() {
            status.paused = Some(wall());
        }
        if !facts.met {
            // Nothing is under way where there is no session.
            (status.left.scanning, status.right.scanning) = (false, false);
            (status.in_flight, status.rates) = (0, Rates::default());
        }
        board.tell();
    }

    /// Looks at the status without taking a copy of it.
    pub(super) fn read<T>(&self, look: impl FnOnce(&Status) -> T) -> T {
        look(&self.board().status)
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tray(&self) -> MutexGuard<'_, Tray> {
        self.tray.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Board {
    /// A busy pair goes in and out of sync with every file: that is told with calm.
    fn tell(&mut self) {
        let line = self.status.line();
        let state = self.status.state;
        let lively = |state| matches!(state, State::Syncing | State::InSync | State::Scanning);
        let hold = self.told.as_ref().is_some_and(|(told, last, when)| {
            *told == line || (lively(*last) && (lively(state) || *last == state) && when.elapsed() < CALM)
        });
        if !hold {
            (self.listener)(&line);
            self.told = Some((line, state, Instant::now()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_told_once_and_what_matters_at_once() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let listener = told.clone();
        let desk =
            Desk::new("p", &Settings::default(), move |line| listener.lock().expect("lock").push(line.to_owned()));
        let on = Facts { opened: true, met: true, running: true, ..Facts::default() };
        let know = |next: Facts| desk.know(|facts, _| *facts = next);
        know(Facts { opened: true, ..Facts::default() });
        know(Facts { opened: true, ..Facts::default() });
        know(Facts { in_sync: true, ..on });
        know(on);
        desk.update(|status| status.queue = 7);
        know(Facts { paused: true, ..on });
        let told = told.lock().expect("lock").clone();
        assert_eq!(told, ["connecting", "in sync: 0 files", "paused (`psync resume p` goes on)"]);
        assert!(desk.status().paused.is_some());
    }

    #[test]
    fn the_tray_is_bounded() {
        let desk = Desk::new("p", &Settings::default(), |_| {});
        assert!((0..ORDERS).all(|_| desk.ask(Order::Pause).is_some()) && desk.ask(Order::Pause).is_none());
        assert!(desk.next_order().is_some() && desk.ask(Order::Pause).is_some());
    }
}
