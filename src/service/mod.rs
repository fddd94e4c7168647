//! What a service needs: logging, signals, systemd.

pub mod banned;
pub mod control;
mod format;
pub mod log;
pub mod notify;
pub mod signals;
pub mod watchdog;
