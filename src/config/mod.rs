//! From a file and options to settings, validated once.
//!
//! A pair's settings are one file, the same on both hosts; the command line overrides it. [`load`] reads the file,
//! [`Settings::check`] validates what came of both, and [`Origins`] remembers who said what, so that an error
//! names the file, the line and the key, or the option.

mod accept;
mod check;
mod groups;
mod import;
mod load;
mod moot;
mod nearest;
mod origin;
mod pair;
mod peer;
mod reload;
mod rsync;
mod settings;
mod shared;
mod ssh_files;
mod values;

pub use accept::{Accept, Accepted, Grants};
pub use check::Invalid;
pub use groups::{
    Absence, Alerts, Attributes, Conflicts, Looks, Patience, Pending, Program, Removal, Run, Schedule, Timers, Timing,
    Transport, Trash,
};
pub use import::{Finding, Imported, Outcome, import};
pub use load::{LoadError, load, load_unsettled, parse};
pub use nearest::nearest;
pub use origin::{Origin, Origins};
pub use pair::{CONFIGURATION, default_pair, pair_file, valid_pair, why_no_pair};
pub use peer::{RightCommand, pair_command, quote, right_command};
pub use reload::Changes;
pub use rsync::{Extra, is_plain};
pub use settings::{Left, Right, Settings};
pub use shared::SharedSettings;
pub use ssh_files::{HostKey, KNOWN_HOSTS, credential, host_key, ssh_files, with_ssh_files};
pub use values::{Calendar, Compress, ConflictCopies, ConflictRule, Durability, OpenFiles, Owner, Share, Transfer};

pub use crate::filter::{Filters, Links, Special, Translate};
