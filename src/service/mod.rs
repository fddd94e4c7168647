//! What a service needs: logging, signals, systemd.

pub mod alert;
pub mod banned;
mod format;
pub mod journal;
pub mod log;
pub mod signals;
