//! The keys of a pair's file in groups: one type each, from the file to whatever obeys it, and to an agent as it is.
//!
//! The names of the keys are flat, as people write them; the groups are psync's own. What a key means is told in
//! psync.toml(5). [`crate::filter::Filters`] is the group of the filters, and lies with them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::values::{self, *};
use crate::filter::Translate;
use crate::model::guard::Limit;

/// How a run of either side goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Run {
    /// 0..=3: 1 operation, 2 every event and decision, 3 every message; 0.
    pub debug: u8,
    /// Log every action, change nothing, the archive included; false.
    pub dryrun: bool,
    /// What differs before the start is left alone and gets no ancestor; false.
    pub skip_initial_sync: bool,
    /// Whether an action is on disk before it counts as done; it is.
    pub durability: Durability,
}

impl Default for Run {
    fn default() -> Run {
        Run { debug: 0, dryrun: false, skip_initial_sync: false, durability: Durability::Full }
    }
}

/// When a change is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Timing {
    /// At most one transfer per path in this time; 1 s.
    #[serde(with = "values::seconds")]
    pub event_interval: Duration,
    /// How long a deletion waits for the re-creation that editors make; 0.3 s.
    #[serde(with = "values::seconds")]
    pub delete_delay: Duration,
    /// How long an open file waits for its close; 60 s.
    #[serde(with = "values::seconds")]
    pub open_wait: Duration,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            event_interval: Duration::from_secs(1),
            delete_delay: Duration::from_millis(300),
            open_wait: Duration::from_secs(60),
        }
    }
}

/// How changes are found, and which contents are told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Looks {
    /// Contents that change under one name are looked for under another; unset.
    pub translate: Option<Translate>,
    /// What to do with a file that somebody has open for writing; it waits.
    pub open_files: OpenFiles,
    /// Larger files neither travel nor are taken, in bytes, more than 0; `None`, the default: there are none.
    #[serde(with = "values::most")]
    pub max_size: Option<u64>,
    /// 1 echoes are verified by contents, 2 continuous, 3 contents wait for the next full sync; 2.
    #[serde(rename = "rsync_style")]
    pub style: u8,
    /// A change of a directory makes everything below it worth a look; false.
    #[serde(rename = "rsync_event_recurse")]
    pub recurse: bool,
    /// `-E NAME`: directories of that name are not watched, see [`Looks::unwatched`]; none.
    pub inotify_extra: Vec<String>,
}

impl Default for Looks {
    fn default() -> Looks {
        Looks {
            translate: None,
            open_files: OpenFiles::Wait,
            max_size: None,
            style: 2,
            recurse: false,
            inotify_extra: Vec::new(),
        }
    }
}

/// Whose attributes travel, and which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attributes {
    /// How owners and groups travel; by name.
    pub owner: Owner,
    /// ACLs (POSIX and Samba's) travel left to right only. Other extended attributes travel both ways. True.
    pub acl_from_left_only: bool,
    /// `security.NTACL` travels as well; false.
    pub samba_acls: bool,
}

impl Default for Attributes {
    fn default() -> Attributes {
        Attributes { owner: Owner::Names, acl_from_left_only: true, samba_acls: false }
    }
}

/// What the trash keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Trash {
    /// Days that it keeps an object; 0: only until the sync is durable; 7.
    #[serde(rename = "trash_days")]
    pub days: u32,
    /// The most that it holds, of the file system or in bytes; 10%.
    #[serde(rename = "trash_max", with = "values::share")]
    pub max: Share,
}

impl Default for Trash {
    fn default() -> Trash {
        Trash { days: 7, max: Share::Percent(10) }
    }
}

impl Trash {
    /// [`Trash::days`] in seconds.
    pub fn seconds(&self) -> u64 {
        u64::from(self.days) * 86_400
    }
}

/// What a side removes because the other one did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Removal {
    /// Deletions in ten minutes that halt the pair. A percentage counts the entries at the start of the ten minutes, and
    /// never halts for 100 deletions or fewer. 50%.
    #[serde(with = "values::share")]
    pub max_delete: Share,
    /// Directories are removed whatever they hold (it goes to the trash); false.
    pub force: bool,
}

impl Default for Removal {
    fn default() -> Removal {
        Removal { max_delete: Share::Percent(50), force: false }
    }
}

impl Removal {
    /// The guard's limit.
    pub fn limit(&self) -> Limit {
        match self.max_delete {
            Share::Percent(0) => Limit::Off,
            Share::Percent(percent) => Limit::Share { percent: u64::from(percent), at_least: 100 },
            Share::Amount(number) => Limit::Number(number),
        }
    }
}

/// How contents get over the line. What `rsync_extra` says of it is asked by [`Transport::extra`] and its neighbours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Transport {
    /// What moves them; auto.
    pub transfer: Transfer,
    /// Whether they are compressed; auto.
    pub compress: Compress,
    /// Bytes per second that a side sends at most; 0, the default: as many as the line takes.
    pub bandwidth_limit: u64,
    /// Options for rsync, of which psync obeys those that it has itself; none.
    pub rsync_extra: Vec<String>,
}

impl Default for Transport {
    fn default() -> Transport {
        Transport { transfer: Transfer::Auto, compress: Compress::Auto, bandwidth_limit: 0, rsync_extra: Vec::new() }
    }
}

/// How long both sides are patient with each other; each more than 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Patience {
    /// Silence on the link after which the other side counts as gone; 60 s.
    #[serde(with = "values::seconds")]
    pub timeout: Duration,
    /// One action without progress; 45 s.
    #[serde(with = "values::seconds")]
    pub etimeout: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience { timeout: Duration::from_secs(60), etimeout: Duration::from_secs(45) }
    }
}

/// What concerns the programs of one host alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Program {
    /// Exit when both sides are equal; false.
    pub first_sync_only: bool,
    /// Exit while a process of this name runs on the left; unset.
    pub banned: Option<String>,
    /// `auto`, `journal`, `stderr`, `file` or the absolute path of a file; auto.
    pub log: String,
    /// Put into the proxy command as `%o`; a connection is given up after 10 s.
    pub ssh_options: Vec<String>,
    /// Between the fields of `psync events`; a colon.
    pub separator: String,
}

impl Default for Program {
    fn default() -> Program {
        Program {
            first_sync_only: false,
            banned: None,
            log: "auto".into(),
            ssh_options: vec!["-o".into(), "ConnectTimeout=10".into()],
            separator: ":".into(),
        }
    }
}

/// How long a side may be away, as the brain sees it; each more than 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Absence {
    /// For a side to become ready; 300 s.
    #[serde(with = "values::seconds")]
    pub itimeout: Duration,
    /// A side lost for longer than this ends an ad hoc run; 900 s.
    #[serde(with = "values::seconds")]
    pub maxtimeout: Duration,
}

impl Default for Absence {
    fn default() -> Absence {
        Absence { itimeout: Duration::from_secs(300), maxtimeout: Duration::from_secs(900) }
    }
}

/// What becomes of two versions of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Conflicts {
    /// Which one keeps the name; the newer one.
    #[serde(rename = "conflict")]
    pub rule: ConflictRule,
    /// Where the other one is kept; beside the winner.
    #[serde(rename = "conflict_copies")]
    pub copies: ConflictCopies,
}

impl Default for Conflicts {
    fn default() -> Conflicts {
        Conflicts { rule: ConflictRule::Newest, copies: ConflictCopies::Visible }
    }
}

/// What an administrator hears of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Alerts {
    /// Differences from which on a check is an alert; 10.
    #[serde(rename = "alert_threshold")]
    pub threshold: u64,
    /// A line of the shell, run with the message on its stdin; unset.
    #[serde(rename = "alert_command")]
    pub command: Option<String>,
    /// A lost side and paths that are not synchronised are told after so long; five minutes.
    #[serde(rename = "alert_after", with = "values::span")]
    pub after: Duration,
}

impl Default for Alerts {
    fn default() -> Alerts {
        Alerts { threshold: 10, command: None, after: Duration::from_secs(300) }
    }
}

/// What systemd's timers do; psync itself does nothing with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Schedule {
    /// When a full sync is due; at one o'clock.
    pub fullsync: Vec<Calendar>,
    pub timers: Timers,
}

impl Default for Schedule {
    fn default() -> Schedule {
        Schedule { fullsync: vec![Calendar::Hour(1)], timers: Timers::default() }
    }
}

/// When the checks run: calendar expressions of systemd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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

/// Keys of the original that have no effect: echoes are recognised by state. Accepted, and told once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pending {
    #[serde(rename = "pending_lifetime", with = "values::optional_seconds")]
    pub lifetime: Option<Duration>,
    #[serde(rename = "pending_events", deserialize_with = "crate::filter::texts::deserialize")]
    pub events: Vec<String>,
}
