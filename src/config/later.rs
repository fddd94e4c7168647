//! What the contract promises and this version cannot do yet. It is refused, never ignored.

use super::{Invalid, Settings, Transfer};

impl Settings {
    /// The first setting that asks an ad hoc run for something it cannot do. A line goes when its feature comes.
    pub fn not_yet(&self) -> Result<(), Invalid> {
        let asked = [("transfer", self.transfer == Transfer::Rsync, "contents cannot go through rsync")];
        if let Some(option) = self.extra().lacking {
            let why = format!("only rsync has `{option}`, and contents cannot go through rsync");
            return Err(Invalid::new("rsync_extra", format!("not available in this version: {why}")));
        }
        match asked.into_iter().find(|(_, asked, _)| *asked) {
            Some((key, _, why)) => Err(Invalid::new(key, format!("not available in this version: {why}"))),
            None => Ok(()),
        }
    }

    /// Lines to be told once about keys that no longer mean anything.
    pub fn moot(&self) -> Vec<String> {
        let tell = |key: &str| format!("{key} has no effect: echoes are recognised by state, not by time");
        let mut lines = Vec::new();
        if self.pending_lifetime.is_some() {
            lines.push(tell("pending_lifetime"));
        }
        if !self.pending_events.is_empty() {
            lines.push(tell("pending_events"));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_ask_for_nothing_that_is_missing() {
        assert_eq!(Settings::default().not_yet(), Ok(()));
        assert!(Settings::default().moot().is_empty());
    }

    #[test]
    fn what_is_missing_is_refused_by_name() {
        let settings = Settings { rsync_extra: vec!["--fsync".into()], ..Settings::default() };
        let error = settings.not_yet().expect_err("no rsync yet").to_string();
        assert_eq!(
            error,
            "rsync_extra: not available in this version: only rsync has `--fsync`, and contents cannot go through rsync"
        );
        let settings = Settings { pending_events: vec!["x".into()], ..Settings::default() };
        assert_eq!(settings.moot().len(), 1);
    }
}
