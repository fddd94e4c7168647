//! The settings of a pair: plain data, every key of the file.

use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize};

use super::shared::group;
use super::{Absence, Alerts, Conflicts, Pending, Program, Schedule, SharedSettings};

/// All that is configured of a pair, in groups. `Default` is what holds where nothing is said; the roots must be said.
///
/// In the file all keys but those of `[left]`, `[right]` and `[timers]` lie side by side. Values are only what their types
/// promise until [`Settings::check`] has passed. Unknown keys are refused by [`super::parse`], not here.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Settings {
    pub left: Left,
    pub right: Right,
    /// What an agent must know as well.
    #[serde(flatten)]
    pub shared: SharedSettings,
    #[serde(flatten)]
    pub program: Program,
    #[serde(flatten)]
    pub conflicts: Conflicts,
    #[serde(flatten)]
    pub absence: Absence,
    #[serde(flatten)]
    pub alerts: Alerts,
    #[serde(flatten)]
    pub schedule: Schedule,
    #[serde(flatten)]
    pub pending: Pending,
}

/// The two tables of the sides.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Tables {
    left: Left,
    right: Right,
}

impl Settings {
    /// Each group takes its own of the keys, as in [`SharedSettings`]. Keys that no group knows are passed over.
    pub(super) fn of<'de, D: Deserializer<'de> + Clone>(keys: &D) -> Result<Settings, D::Error> {
        let Tables { left, right } = group(keys)?;
        Ok(Settings {
            left,
            right,
            shared: SharedSettings::of(keys)?,
            program: group(keys)?,
            conflicts: group(keys)?,
            absence: group(keys)?,
            alerts: group(keys)?,
            schedule: group(keys)?,
            pending: group(keys)?,
        })
    }
}

/// The side that runs the brain.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Left {
    pub root: PathBuf,
}

/// The other side.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Right {
    pub root: PathBuf,
    /// `None`: on this host.
    pub host: Option<String>,
    /// `None`: as ssh decides.
    pub user: Option<String>,
    pub port: Option<u16>,
    /// How to reach the agent; `%h %u %p %i %o` stand for host, user, port, pair and `ssh_options`.
    pub proxy_command: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of the contract, key by key; a key without a default there is absent here.
    #[test]
    fn defaults_are_those_of_the_contract() {
        let written = serde_json::to_value(Settings::default()).expect("plain data");
        let contract = r#"{
            "left": {"root": ""},
            "right": {"root": "", "host": null, "user": null, "port": null, "proxy_command": null},
            "safesuffix": ".psync.ignore", "debug": 0, "event_interval": 1.0, "delete_delay": 0.3,
            "force": false, "dryrun": false, "first_sync_only": false, "skip_initial_sync": false,
            "banned": null, "translate": null,
            "tempfiles": "\\.tmp$|\\.~tmp~|/~\\$", "excludes": "/Thumbs\\.db$",
            "conflict": "newest", "conflict_copies": "visible",
            "trash_days": 7, "trash_max": "10%", "max_size": "none", "max_delete": "50%",
            "links": "preserve", "special": "skip", "owner": "names", "durability": "full", "open_files": "wait", "open_wait": 60.0,
            "acl_from_left_only": true, "samba_acls": false,
            "accept_setuid": null, "accept_capabilities": null, "accept_owners": null,
            "timeout": 60.0, "itimeout": 300.0, "etimeout": 45.0, "maxtimeout": 900.0, "log": "auto",
            "ssh_options": ["-o", "ConnectTimeout=10"], "transfer": "auto", "compress": "auto", "bandwidth_limit": 0,
            "rsync_excludes": [], "rsync_extra": [], "rsync_event_recurse": false, "rsync_style": 2,
            "inotify_extra": [], "fullsync": [1],
            "timers": {"check": "*-*-* 08..12,14..20:00/15:00", "checksum": "*-*-* 00:01:00"},
            "alert_threshold": 10, "alert_command": null, "alert_after": "5m", "separator": ":",
            "pending_lifetime": null, "pending_events": []
        }"#;
        let contract: serde_json::Value = serde_json::from_str(contract).expect("JSON");
        assert_eq!(written, contract);
    }
}
