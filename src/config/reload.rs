//! What of a pair's settings may change while it runs.

use serde_json::Value;

use super::Settings;

/// Keys whose new values hold at once.
const AT_ONCE: &[&str] = &[
    "debug",
    "event_interval",
    "delete_delay",
    "open_wait",
    "force",
    "conflict",
    "conflict_copies",
    "trash_days",
    "max_delete",
    "bandwidth_limit",
    "itimeout",
    "maxtimeout",
    "alert_threshold",
    "alert_command",
    "alert_after",
    "separator",
    "pending_lifetime",
    "pending_events",
];

/// Keys that the units are made of: psync itself does nothing with them.
const UNITS: &[&str] = &["fullsync", "timers.check", "timers.checksum"];

/// What another file would change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// All keys that differ, dotted below a table.
    pub keys: Vec<String>,
    /// Those of them that need a restart.
    pub restart: Vec<String>,
    /// Those that systemd must read.
    pub units: Vec<String>,
}

impl Settings {
    /// What differs in `new`.
    pub fn changes(&self, new: &Settings) -> Changes {
        let (old, new) = (serde_json::to_value(self), serde_json::to_value(new));
        let (Ok(Value::Object(old)), Ok(Value::Object(new))) = (old, new) else { return Changes::default() };
        let mut keys = Vec::new();
        for (key, value) in &new {
            match (value, &old[key]) {
                (Value::Object(new), Value::Object(old)) => {
                    let differ = new.iter().filter(|(below, value)| old.get(*below) != Some(value));
                    keys.extend(differ.map(|(below, _)| format!("{key}.{below}")));
                }
                (new, old) if new != old => keys.push(key.clone()),
                _ => {}
            }
        }
        let among = |list: &[&str], key: &String| list.contains(&key.as_str());
        let units: Vec<String> = keys.iter().filter(|key| among(UNITS, key)).cloned().collect();
        let fixed = keys.iter().filter(|key| !among(AT_ONCE, key) && !among(UNITS, key));
        Changes { restart: fixed.cloned().collect(), units, keys }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_change_and_what_may_not() {
        type Change = fn(&mut Settings);
        let table: &[(Change, &[&str], &[&str])] = &[
            (|_| {}, &[], &[]),
            (|s| s.shared.run.debug = 3, &["debug"], &[]),
            (|s| s.shared.trash.days = 1, &["trash_days"], &[]),
            (|s| s.left.root = "/x".into(), &["left.root"], &["left.root"]),
            (|s| s.right.host = Some("h".into()), &["right.host"], &["right.host"]),
            (|s| s.shared.filters.excludes = "x".into(), &["excludes"], &["excludes"]),
            (|s| s.schedule.timers.check = "daily".into(), &["timers.check"], &[]),
            (|s| s.program.log = "/x".into(), &["log"], &["log"]),
        ];
        for (change, keys, restart) in table {
            let mut new = Settings::default();
            change(&mut new);
            let changes = Settings::default().changes(&new);
            assert_eq!((changes.keys, changes.restart), (owned(keys), owned(restart)));
        }
    }

    fn owned(keys: &[&str]) -> Vec<String> {
        keys.iter().map(|key| key.to_string()).collect()
    }

    #[test]
    fn the_lists_name_keys_that_exist() {
        let all = serde_json::to_value(Settings::default()).expect("plain data");
        for key in AT_ONCE.iter().chain(UNITS) {
            let pointer = format!("/{}", key.replace('.', "/"));
            assert!(all.pointer(&pointer).is_some(), "{key}");
        }
    }
}
