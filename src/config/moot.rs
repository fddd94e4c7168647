//! Settings that change nothing.

use super::Settings;

impl Settings {
    /// Lines to be told once about what no longer means anything.
    pub fn moot(&self) -> Vec<String> {
        let echoes = |key: &str| format!("{key} has no effect: echoes are recognised by state, not by time");
        let mut lines = Vec::new();
        if self.pending_lifetime.is_some() {
            lines.push(echoes("pending_lifetime"));
        }
        if !self.pending_events.is_empty() {
            lines.push(echoes("pending_events"));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_effect_is_told() {
        assert!(Settings::default().moot().is_empty());
        let settings = Settings { pending_events: vec!["x".into()], ..Settings::default() };
        assert_eq!(settings.moot(), ["pending_events has no effect: echoes are recognised by state, not by time"]);
    }
}
