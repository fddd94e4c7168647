//! Before a brain can begin: what its roots lie on is not there yet.

use std::time::{Duration, Instant};

use super::desk::{Desk, Slip};
use super::monitor::{LinkState, Monitor};
use super::{PAUSES, pulse, show_link};
use crate::service::signals::Stop;

/// How long a look may take.
const LOOK: Duration = Duration::from_secs(60);
/// How long who asks at the desk may wait.
const DESK: Duration = Duration::from_millis(250);

/// Waits until `missing` finds nothing any more; the desk tells of it meanwhile. False: stopped before that.
pub fn until_there(desk: &Desk, monitor: &dyn Monitor, stop: &Stop, missing: impl Fn() -> Option<String>) -> bool {
    let _pulse = pulse::take("brain");
    let mut pause = PAUSES.0;
    while let Some(reason) = pulse::rest(LOOK, &missing) {
        let state = LinkState::Down { reason, retry: Some(pause.as_secs()) };
        show_link(desk, &state);
        monitor.link(&state);
        let until = Instant::now() + pause;
        while Instant::now() < until {
            if pulse::rest(DESK, || stop.wait(DESK)) {
                return false;
            }
            while let Some(Slip { answer, .. }) = desk.next_order() {
                drop(answer.send(Err("the left root is not there yet".to_owned())));
            }
        }
        pause = (pause * 2).min(PAUSES.1);
    }
    !stop.is_set()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::super::alarm::Alert;
    use super::super::desk::Order;
    use super::super::monitor::Progress;
    use super::super::status::State;
    use super::*;
    use crate::config::Settings;
    use crate::model::RelPath;

    /// Hears why.
    #[derive(Default)]
    struct Ear(Mutex<Vec<String>>);

    impl Monitor for Ear {
        fn progress(&self, _: &Progress) {}
        fn in_sync(&self, _: u64, _: u64) {}
        fn round_over(&self, _: u64, _: u64, _: bool) {}
        fn halted(&self, _: &str, _: &str) {}
        fn alert(&self, _: &Alert) {}
        fn problem(&self, _: &RelPath, _: &str) {}
        fn solved(&self, _: &RelPath) {}
        fn note(&self, _: &str) {}
        fn warning(&self, _: &str) {}
        fn link(&self, state: &LinkState) {
            self.0.lock().unwrap().push(format!("{state:?}"));
        }
    }

    #[test]
    fn it_waits_with_the_reason_in_the_status_and_answers() {
        let desk = Desk::new("p", &Settings::default(), |_| {});
        let (ear, stop, looks) = (Ear::default(), Stop::new(), AtomicU32::new(0));
        let answers = desk.ask(Order::Pause).unwrap();
        let there = until_there(&desk, &ear, &stop, || {
            let look = looks.fetch_add(1, Ordering::Relaxed);
            (look < 1).then(|| "srv.mount is not mounted".to_owned())
        });
        assert!(there);
        assert_eq!(desk.status().state, State::Disconnected);
        assert_eq!(desk.status().link.reason.as_deref(), Some("srv.mount is not mounted"));
        assert!(answers.recv().unwrap().is_err());
        assert_eq!(ear.0.lock().unwrap().len(), 1);

        stop.set();
        assert!(!until_there(&desk, &ear, &stop, || Some("never".to_owned())));
    }
}
