//! The settings of a pair: plain data, every key of the file.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::values::{self, *};

/// All that is configured of a pair. `Default` is what holds where nothing is said; the roots must be said.
///
/// The names of the fields are the names of the keys. Values are only what their types promise until
/// [`Settings::check`] has passed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    pub left: Left,
    pub right: Right,

    /// Names that end in it are never synchronised; scratch names end in it.
    pub safesuffix: String,
    /// 0..=3: 1 operation, 2 every event and decision, 3 every message.
    pub debug: u8,
    /// At most one transfer per path in this time.
    #[serde(with = "values::seconds")]
    pub event_interval: Duration,
    /// How long a deletion waits for the re-creation that editors make.
    #[serde(with = "values::seconds")]
    pub delete_delay: Duration,
    /// Remove directories whatever they hold (it goes to the trash).
    pub force: bool,
    /// Log every action, change nothing, the archive included.
    pub dryrun: bool,
    /// Exit when both sides are equal.
    pub first_sync_only: bool,
    /// What differs before the start is left alone and gets no ancestor.
    pub skip_initial_sync: bool,
    /// Exit while a process of this name runs on the left.
    pub banned: Option<String>,
    #[serde(with = "values::translate")]
    pub translate: Option<Translate>,
    /// Names that are temporary: a regular expression, not case-sensitive, searched in `/` + path. Empty: none.
    pub tempfiles: String,
    /// Paths left out of everything; matched as `tempfiles`. Empty: none.
    pub excludes: String,

    pub conflict: ConflictRule,
    pub conflict_copies: ConflictCopies,
    /// Days that the trash keeps an object; 0: only until the sync is durable.
    pub trash_days: u32,
    /// Of the file system, or bytes.
    #[serde(with = "values::share")]
    pub trash_max: Share,
    /// Larger files neither travel nor are taken, in bytes; `None`: there are none.
    #[serde(with = "values::most")]
    pub max_size: Option<u64>,
    /// Deletions in ten minutes that halt the pair. A percentage counts the entries at the start of the ten
    /// minutes, and never halts for 100 deletions or fewer.
    #[serde(with = "values::share")]
    pub max_delete: Share,
    pub links: Links,
    pub special: Special,
    pub owner: Owner,
    pub durability: Durability,
    pub open_files: OpenFiles,
    /// How long an open file waits for its close.
    #[serde(with = "values::seconds")]
    pub open_wait: Duration,
    /// ACLs (POSIX and Samba's) travel left to right only. Other extended attributes travel both ways.
    pub acl_from_left_only: bool,
    pub samba_acls: bool,
    /// Whether the other side may give files the setuid and setgid bits here. `None`: only where both roots are on this
    /// host.
    pub accept_setuid: Option<bool>,
    /// The same of capabilities.
    pub accept_capabilities: Option<bool>,
    /// Whom the other side may give objects here: names, `@GROUP`, numbers and ranges. `None`: anybody.
    pub accept_owners: Option<Vec<String>>,

    /// Between signs of life on the link.
    #[serde(with = "values::seconds")]
    pub timeout: Duration,
    /// For a side to become ready.
    #[serde(with = "values::seconds")]
    pub itimeout: Duration,
    /// One action without progress.
    #[serde(with = "values::seconds")]
    pub etimeout: Duration,
    /// A side lost for longer than this ends an ad hoc run.
    #[serde(with = "values::seconds")]
    pub maxtimeout: Duration,
    /// `auto`, `journal`, `stderr` or the absolute path of a file.
    pub log: String,

    /// Put into the proxy command as `%o`.
    pub ssh_options: Vec<String>,
    pub transfer: Transfer,
    pub compress: Compress,
    /// Bytes per second; 0: none.
    pub bandwidth_limit: u64,
    #[serde(deserialize_with = "values::texts::deserialize")]
    pub rsync_excludes: Vec<String>,
    pub rsync_extra: Vec<String>,
    pub rsync_event_recurse: bool,
    /// 1 echoes are verified by contents, 2 continuous, 3 contents wait for the next full sync.
    pub rsync_style: u8,
    /// `-E NAME`: directories of that name are not watched.
    pub inotify_extra: Vec<String>,

    pub fullsync: Vec<Calendar>,
    pub timers: Timers,
    /// Differences from which on a check is an alert.
    pub alert_threshold: u64,
    /// Run with the message on its stdin.
    pub alert_command: Option<String>,
    /// A lost side and paths that are not synchronised are told after so long.
    #[serde(with = "values::span")]
    pub alert_after: Duration,
    /// Between the fields of `psync events`.
    pub separator: String,

    /// Has no effect: echoes are recognised by state. Accepted, and told once.
    #[serde(with = "values::optional_seconds")]
    pub pending_lifetime: Option<Duration>,
    /// Has no effect, as `pending_lifetime`.
    #[serde(deserialize_with = "values::texts::deserialize")]
    pub pending_events: Vec<String>,
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

/// When the checks run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timers {
    pub check: String,
    pub checksum: String,
}

impl Default for Timers {
    fn default() -> Timers {
        Timers { check: "*-*-* 08..12,14..20:00/15:00".into(), checksum: "*-*-* 00:01:00".into() }
    }
}

impl Default for Settings {
    fn default() -> Settings {
        let seconds = Duration::from_secs;
        Settings {
            left: Left::default(),
            right: Right::default(),
            safesuffix: ".psync.ignore".into(),
            debug: 0,
            event_interval: seconds(1),
            delete_delay: Duration::from_millis(300),
            force: false,
            dryrun: false,
            first_sync_only: false,
            skip_initial_sync: false,
            banned: None,
            translate: None,
            tempfiles: r"\.tmp$|\.~tmp~|/~\$".into(),
            excludes: r"/Thumbs\.db$".into(),
            conflict: ConflictRule::Newest,
            conflict_copies: ConflictCopies::Visible,
            trash_days: 7,
            trash_max: Share::Percent(10),
            max_size: None,
            max_delete: Share::Percent(50),
            links: Links::Preserve,
            special: Special::Skip,
            owner: Owner::Names,
            durability: Durability::Full,
            open_files: OpenFiles::Wait,
            open_wait: seconds(60),
            acl_from_left_only: true,
            samba_acls: false,
            accept_setuid: None,
            accept_capabilities: None,
            accept_owners: None,
            timeout: seconds(60),
            itimeout: seconds(300),
            etimeout: seconds(45),
            maxtimeout: seconds(900),
            log: "auto".into(),
            ssh_options: vec!["-o".into(), "ConnectTimeout=10".into()],
            transfer: Transfer::Auto,
            compress: Compress::Auto,
            bandwidth_limit: 0,
            rsync_excludes: Vec::new(),
            rsync_extra: Vec::new(),
            rsync_event_recurse: false,
            rsync_style: 2,
            inotify_extra: Vec::new(),
            fullsync: vec![Calendar::Hour(1)],
            timers: Timers::default(),
            alert_threshold: 10,
            alert_command: None,
            alert_after: seconds(300),
            separator: ":".into(),
            pending_lifetime: None,
            pending_events: Vec::new(),
        }
    }
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
