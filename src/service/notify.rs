//! What systemd is told, by the socket that it names in `NOTIFY_SOCKET`; without one nothing is told.
//!
//! A message that cannot be sent is lost: systemd's own timeouts are the answer to that.

use std::time::Duration;

use sd_notify::NotifyState;

/// Whether a service manager started this process.
pub fn supervised() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// The service has started, or its configuration was read again.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// One line that says what the service does. Control characters become blanks.
pub fn status(line: &str) {
    let line: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    tell(&[NotifyState::Status(&line)]);
}

/// The service begins to end.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// A sign of life.
pub fn watchdog() {
    tell(&[NotifyState::Watchdog]);
}

/// Starting or stopping takes up to so much longer from now on.
pub fn extend(time: Duration) {
    tell(&[NotifyState::ExtendTimeoutUsec(u32::try_from(time.as_micros()).unwrap_or(u32::MAX))]);
}

/// The configuration is being read again; [`ready`] says that this is over, whatever came of it.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        // In one message: systemd wants to know when the reload began.
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// How often systemd wants a sign of life at least; `None`: not at all.
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|interval| !interval.is_zero())
}

fn tell(states: &[NotifyState<'_>]) {
    drop(sd_notify::notify(states));
}
