//! Whether a program runs that must not run together with psync.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::signals::Stop;

/// The kernel's own name of a process is cut to so many bytes.
const COMM_MAX: usize = 15;

/// Whether a process of that name runs: its own name, or the last element of how it was called. This process
/// does not count. Processes that hide from this user are not seen.
pub fn running(name: &str) -> io::Result<bool> {
    let own = std::process::id().to_string();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let pid = entry.file_name();
        let Some(pid) = pid.to_str() else { continue };
        if pid.bytes().all(|b| b.is_ascii_digit()) && pid != own && is_called(&entry.path(), name) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A process that has gone meanwhile is called nothing.
fn is_called(process: &Path, name: &str) -> bool {
    let comm = fs::read(process.join("comm")).unwrap_or_default();
    if name.len() <= COMM_MAX && comm.strip_suffix(b"\n").unwrap_or(&comm) == name.as_bytes() {
        return true;
    }
    let line = fs::read(process.join("cmdline")).unwrap_or_default();
    let called = line.split(|b| *b == 0).next().unwrap_or_default();
    called.rsplit(|b| *b == b'/').next().unwrap_or_default() == name.as_bytes()
}

/// Looks again and again until `stop`; sets `stop` when the program runs. The flag tells whether it did.
pub fn watch(name: &str, every: Duration, stop: &Stop) -> io::Result<Arc<AtomicBool>> {
    let found = Arc::new(AtomicBool::new(false));
    let (name, stop, flag) = (name.to_string(), stop.clone(), found.clone());
    thread::Builder::new().name("banned".into()).spawn(move || {
        while !stop.wait(every) {
            // What cannot be looked at now may be seen next time.
            if running(&name).unwrap_or(false) {
                flag.store(true, Ordering::Release);
                stop.set();
            }
        }
    })?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command};
    use std::time::Instant;

    struct Running(Child);

    impl Drop for Running {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn start(name: &str) -> Running {
        Running(Command::new("/bin/sleep").arg0(format!("/opt/x/{name}")).arg("600").spawn().expect("sleep"))
    }

    fn soon(mut holds: impl FnMut() -> bool) -> bool {
        let end = Instant::now() + Duration::from_secs(20);
        while Instant::now() < end {
            if holds() {
                return true;
            }
            thread::yield_now();
        }
        false
    }

    #[test]
    fn sees_a_process_by_the_name_it_was_called() {
        let name = format!("psync-banned-test-{}", std::process::id());
        assert!(!running(&name).expect("proc"));
        let child = start(&name);
        assert!(soon(|| running(&name).expect("proc")));
        drop(child);
        assert!(soon(|| !running(&name).expect("proc")));
    }

    #[test]
    fn watching_sets_the_stop() {
        let name = format!("psync-banned-watch-{}", std::process::id());
        let stop = Stop::new();
        let found = watch(&name, Duration::from_millis(10), &stop).expect("thread");
        assert!(!found.load(Ordering::Acquire));
        let _child = start(&name);
        assert!(stop.wait(Duration::from_secs(20)) && found.load(Ordering::Acquire));
    }
}
