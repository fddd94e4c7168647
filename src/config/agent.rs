//! What an agent must know of the pair's settings.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::check::{check_filters, check_patterns};
use super::{Accept, Compress, Durability, Invalid, Links, OpenFiles, Owner, Settings, Share, Special, Translate};

/// The settings that both sides must share, as the brain hands them to an agent that it starts itself:
/// `psync-agent --settings JSON`. An agent with a configuration of its own makes it from that.
///
/// Plain data: any serde format carries it. Times are milliseconds. An agent refuses a field that it does not
/// know, since it would be a wish ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentSettings {
    pub safesuffix: String,
    /// 0..=3
    pub debug: u8,
    /// Empty: none.
    pub tempfiles: String,
    /// Empty: none.
    pub excludes: String,
    pub rsync_excludes: Vec<String>,
    pub translate: Option<Translate>,
    pub event_interval: u64,
    pub delete_delay: u64,
    pub open_files: OpenFiles,
    pub open_wait: u64,
    pub force: bool,
    pub max_delete: Share,
    pub dryrun: bool,
    pub skip_initial_sync: bool,
    pub links: Links,
    pub special: Special,
    pub owner: Owner,
    pub acl_from_left_only: bool,
    pub samba_acls: bool,
    /// What the brain may give objects here.
    pub accept: Accept,
    /// Names of directories that are not watched.
    pub unwatched: Vec<String>,
    /// 1..=3
    pub rsync_style: u8,
    pub rsync_event_recurse: bool,
    pub durability: Durability,
    pub trash_days: u32,
    pub trash_max: Share,
    /// Larger files neither travel nor are taken, in bytes; `None`: there are none.
    pub max_size: Option<u64>,
    /// Silence of the brain after which it counts as gone.
    pub timeout: u64,
    /// One action without progress.
    pub etimeout: u64,
    /// What the agent sends.
    pub compress: Compress,
    /// Bytes per second that the agent sends at most; 0: as many as the line takes.
    pub bandwidth_limit: u64,
    /// Contents go through rsync.
    pub rsync: bool,
    /// What rsync is given beside psync's own options.
    pub rsync_words: Vec<String>,
}

impl From<&Settings> for AgentSettings {
    fn from(s: &Settings) -> AgentSettings {
        let extra = s.extra();
        let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        AgentSettings {
            safesuffix: s.safesuffix.clone(),
            debug: s.debug,
            tempfiles: s.tempfiles.clone(),
            excludes: s.excludes.clone(),
            rsync_excludes: s.rsync_excludes.clone(),
            translate: s.translate.clone(),
            event_interval: millis(s.event_interval),
            delete_delay: millis(s.delete_delay),
            open_files: s.open_files,
            open_wait: millis(s.open_wait),
            force: s.force,
            max_delete: s.max_delete,
            dryrun: s.dryrun,
            skip_initial_sync: s.skip_initial_sync,
            links: s.links,
            special: s.special,
            owner: s.owner,
            acl_from_left_only: s.acl_from_left_only,
            samba_acls: s.samba_acls,
            // An agent that a brain starts has no more rights than whoever started that.
            accept: s.accept(true),
            unwatched: s.unwatched().unwrap_or_default(),
            rsync_style: s.rsync_style,
            rsync_event_recurse: s.rsync_event_recurse,
            durability: s.durability,
            trash_days: s.trash_days,
            trash_max: s.trash_max,
            max_size: s.max_size,
            timeout: millis(s.timeout),
            etimeout: millis(s.etimeout),
            compress: extra.compress.unwrap_or(s.compress),
            bandwidth_limit: extra.bandwidth_limit.unwrap_or(s.bandwidth_limit),
            rsync: s.uses_rsync(),
            rsync_words: extra.words,
        }
    }
}

impl AgentSettings {
    /// Whether an agent can use them; a brain's have been checked, others' have not.
    pub fn check(&self) -> Result<(), Invalid> {
        check_filters(&self.tempfiles, &self.excludes, &self.safesuffix)?;
        check_patterns(&self.rsync_excludes)
    }
}

impl Default for AgentSettings {
    fn default() -> AgentSettings {
        AgentSettings::from(&Settings::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_carry_it() {
        let settings = AgentSettings { translate: "a:b".parse().ok(), ..AgentSettings::default() };
        let json = serde_json::to_string(&settings).expect("plain data");
        assert_eq!(serde_json::from_str::<AgentSettings>(&json).expect("json"), settings);
        let bytes = postcard::to_stdvec(&settings).expect("plain data");
        assert_eq!(postcard::from_bytes::<AgentSettings>(&bytes).expect("postcard"), settings);
    }
}
