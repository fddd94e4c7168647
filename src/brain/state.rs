//! Which state a pair is in: decided here and nowhere else. The status, its JSON, the metrics, systemd's line and the alerts are
//! views of what is decided here.

use super::status::State;

/// What a brain knows of itself. Whoever finds one of these out notes it at the desk; the state follows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Facts {
    /// The left root is open, and watched.
    pub opened: bool,
    /// A side was lost, and did not answer since.
    pub lost: bool,
    /// Both sides' endpoints answered, and the session goes on.
    pub met: bool,
    /// The pair waits for an administrator.
    pub halted: bool,
    /// An administrator said to pause.
    pub paused: bool,
    pub stopping: bool,
    /// The sides have exchanged what they know: changes are carried over.
    pub running: bool,
    /// Of either side.
    pub scanning: bool,
    pub in_sync: bool,
}

impl Facts {
    /// The state. What a user must act on goes before what goes on by itself.
    pub fn state(&self) -> State {
        match *self {
            Facts { stopping: true, .. } => State::Stopping,
            Facts { halted: true, .. } => State::Halted,
            Facts { lost: true, .. } => State::Disconnected,
            Facts { opened: false, .. } => State::Starting,
            Facts { met: false, .. } => State::Connecting,
            Facts { paused: true, .. } => State::Paused,
            Facts { running: false, .. } => State::Connecting,
            Facts { in_sync: true, .. } => State::InSync,
            Facts { scanning: true, .. } => State::Scanning,
            _ => State::Syncing,
        }
    }

    /// A side is lost: what the session knew counts no more.
    pub fn lose(&mut self) {
        self.lost = true;
        self.end_session();
    }

    /// The session is over.
    pub fn end_session(&mut self) {
        (self.met, self.running, self.scanning, self.in_sync) = (false, false, false, false);
    }

    /// Both sides answered.
    pub fn meet(&mut self) {
        (self.lost, self.met) = (false, true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_follows_from_the_facts() {
        let on = Facts { opened: true, met: true, running: true, ..Facts::default() };
        for (facts, want) in [
            (Facts::default(), State::Starting),
            (Facts { opened: true, ..Facts::default() }, State::Connecting),
            (Facts { opened: true, met: true, ..Facts::default() }, State::Connecting),
            (Facts { lost: true, ..Facts::default() }, State::Disconnected),
            (Facts { lost: true, opened: true, paused: true, ..Facts::default() }, State::Disconnected),
            (Facts { lost: true, opened: true, halted: true, ..Facts::default() }, State::Halted),
            (on, State::Syncing),
            (Facts { scanning: true, ..on }, State::Scanning),
            (Facts { in_sync: true, ..on }, State::InSync),
            (Facts { in_sync: true, paused: true, ..on }, State::Paused),
            (Facts { running: false, paused: true, ..on }, State::Paused),
            (Facts { halted: true, paused: true, ..on }, State::Halted),
            (Facts { stopping: true, halted: true, lost: true, ..on }, State::Stopping),
        ] {
            assert_eq!(facts.state(), want, "{facts:?}");
        }
    }

    #[test]
    fn a_lost_side_stays_lost_until_both_answer() {
        let mut facts = Facts { opened: true, met: true, running: true, in_sync: true, ..Facts::default() };
        facts.lose();
        assert_eq!(facts, Facts { opened: true, lost: true, ..Facts::default() });
        facts.end_session();
        assert_eq!(facts.state(), State::Disconnected);
        facts.meet();
        assert_eq!(facts.state(), State::Connecting);
    }
}
