//! What a service needs: logging, signals, systemd.

pub mod banned;
mod format;
pub mod log;
pub mod notify;
pub mod signals;
