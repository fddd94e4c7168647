//! Settings that change nothing.

use super::{Calendar, Settings};

impl Settings {
    /// Lines to be told once about what no longer means anything.
    pub fn moot(&self) -> Vec<String> {
        let echoes = |key: &str| format!("{key} has no effect: echoes are recognised by state, not by time");
        let mut lines = Vec::new();
        if self.pending.lifetime.is_some() {
            lines.push(echoes("pending_lifetime"));
        }
        if !self.pending.events.is_empty() {
            lines.push(echoes("pending_events"));
        }
        for hour in self.schedule.fullsync.iter().filter_map(|due| match due {
            Calendar::Hour(hour) if *hour > 23 && *hour != 99 => Some(hour),
            _ => None,
        }) {
            lines.push(format!("fullsync: no day has an hour {hour}: it is never due, as 99 is"));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Pending, Schedule};

    #[test]
    fn what_has_no_effect_is_told() {
        assert!(Settings::default().moot().is_empty());
        let settings =
            Settings { pending: Pending { events: vec!["x".into()], ..Pending::default() }, ..Settings::default() };
        let hours = [1, 23, 24, 25, 99].map(Calendar::Hour).to_vec();
        let schedule = Schedule { fullsync: hours, ..Schedule::default() };
        let never = Settings { schedule, ..Settings::default() }.moot();
        assert_eq!(never.len(), 2, "{never:?}");
        assert_eq!(never[1], "fullsync: no day has an hour 25: it is never due, as 99 is");
        assert_eq!(settings.moot(), ["pending_events has no effect: echoes are recognised by state, not by time"]);
    }
}
