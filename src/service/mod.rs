//! What a service needs: logging, signals, systemd.

pub mod alert;
pub mod banned;
pub mod control;
pub mod events;
mod format;
pub mod journal;
pub mod log;
pub mod notify;
pub mod repeats;
pub mod signals;
pub mod watchdog;
