//! A brain whose right side is away for hours, played in a minute: it is called hundreds of times, as often as in five hours at
//! one call a minute, while users go on working.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use psync::brain::alarm::Alert;
use psync::brain::desk::{Desk, Mandate};
use psync::brain::monitor::{Exit, LinkState, Monitor, Progress};
use psync::brain::status::State;
use psync::brain::{Job, run_at};
use psync::cli::alert::ServiceMonitor;
use psync::cli::pair::PairFile;
use psync::config::{RightCommand, Settings};
use psync::model::RelPath;
use psync::service::signals::Stop;
use slog::{Drain, Logger, OwnedKVList, Record, o};

const CALLS: usize = 300;
const DIRECTORIES: usize = 100;
const FILES: usize = 10_000;
const PATIENCE: Duration = Duration::from_secs(300);

/// A log that keeps its lines, but for those of debugging.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Drain for Lines {
    type Ok = ();
    type Err = slog::Never;

    fn log(&self, record: &Record<'_>, _: &OwnedKVList) -> Result<(), slog::Never> {
        if record.level().is_at_least(slog::Level::Info) {
            self.0.lock().unwrap().push(record.msg().to_string());
        }
        Ok(())
    }
}

impl Lines {
    fn now(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// A service's monitor, and the calls counted.
struct Counting {
    inner: ServiceMonitor,
    failed: Mutex<usize>,
}

impl Monitor for Counting {
    fn progress(&self, progress: &Progress) {
        self.inner.progress(progress);
    }
    fn in_sync(&self, files: u64, bytes: u64) {
        self.inner.in_sync(files, bytes);
    }
    fn round_over(&self, left: u64, files: u64, ends: bool) {
        self.inner.round_over(left, files, ends);
    }
    fn halted(&self, reason: &str, advice: &str) {
        self.inner.halted(reason, advice);
    }
    fn alert(&self, alert: &Alert) {
        self.inner.alert(alert);
    }
    fn problem(&self, path: &RelPath, text: &str) {
        self.inner.problem(path, text);
    }
    fn solved(&self, path: &RelPath) {
        self.inner.solved(path);
    }
    fn note(&self, text: &str) {
        self.inner.note(text);
    }
    fn warning(&self, text: &str) {
        self.inner.warning(text);
    }
    fn link(&self, state: &LinkState) {
        if matches!(state, LinkState::Down { .. }) {
            *self.failed.lock().unwrap() += 1;
        }
        self.inner.link(state);
    }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    seen(what, || if done() { Ok(()) } else { Err(()) });
}

/// Waits until `look` is content; tells what it saw last where it never is.
fn seen<T: std::fmt::Debug>(what: &str, mut look: impl FnMut() -> Result<(), T>) {
    let end = Instant::now() + PATIENCE;
    while let Err(last) = look() {
        assert!(Instant::now() < end, "still not after {PATIENCE:?}: {what}: {last:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// What this process holds: threads, open files, KiB of memory of its own.
fn held() -> [usize; 3] {
    let count = |directory: &str| fs::read_dir(directory).unwrap().count();
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let anonymous = status.lines().find_map(|l| l.strip_prefix("RssAnon:")).unwrap();
    let kib = anonymous.trim().split(' ').next().unwrap().parse().unwrap();
    [count("/proc/self/task"), count("/proc/self/fd"), kib]
}

fn work(left: &Path, round: usize) {
    for n in 0..FILES {
        let directory = left.join(format!("d{}", n % DIRECTORIES));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(format!("f{n}")), format!("{round} {n}")).unwrap();
    }
}

fn files(root: &Path) -> usize {
    (0..DIRECTORIES).map(|n| fs::read_dir(root.join(format!("d{n}"))).map_or(0, |all| all.count())).sum()
}

#[test]
fn a_right_side_that_is_away_for_hours_costs_nothing_and_gets_everything() {
    let scratch = tempfile::tempdir().unwrap();
    let [left, right] = ["left", "right"].map(|side| scratch.path().join(side));
    for root in [&left, &right] {
        fs::create_dir(root).unwrap();
    }
    let there: PathBuf = scratch.path().join("there");
    // ssh, as long as the host is off.
    let program = env!("CARGO_BIN_EXE_psync");
    let command = format!(
        "test -e {} || {{ echo 'ssh: connect to host files2 port 22: No route to host' >&2; exit 255; }}; \
         exec {program} --agent-mode --stdio --root {} --pair patience",
        there.display(),
        right.display()
    );
    let mut settings = Settings::default();
    settings.alerts.command = Some("false".to_owned());
    settings.left.root.clone_from(&left);
    settings.right.root.clone_from(&right);
    settings.right.host = Some("files2".to_owned());

    let lines = Lines::default();
    let logger = Logger::root(lines.clone().fuse(), o!());
    let monitor = Arc::new(Counting {
        inner: ServiceMonitor::new(&PairFile::of("patience").unwrap(), logger.clone()),
        failed: Mutex::default(),
    });
    let desk = Arc::new(Desk::new("patience", &settings, |_| {}));
    let job = Job {
        settings,
        pair: "patience".to_owned(),
        right: RightCommand::Proxy(command.into()),
        mandate: Mandate::default(),
        persistent: true,
        anew: false,
        // A minute and a second, a thousand times as fast.
        pauses: (Duration::from_millis(1), Duration::from_millis(60)),
        checksum: false,
        logger,
    };
    let stop = Stop::new();
    let (at_desk, heard, ends) = (desk.clone(), monitor.clone(), stop.clone());
    let brain = thread::spawn(move || run_at(&at_desk, &job, heard, ends));

    let failed = || *monitor.failed.lock().unwrap();
    until("it has called a few times", || failed() >= 20);
    // The same files again and again, as in an office.
    work(&left, 0);
    let before = held();
    for round in 1..4 {
        work(&left, round);
        let goal = failed() + CALLS / 4;
        until("it has called for hours", || failed() >= goal);
    }
    until("it has called for long enough", || failed() >= CALLS);
    // Between two calls, when nothing of the last one is left: a busy machine ends the threads of a call late. What is never
    // given back grows with each of the calls, and is there between all of them.
    let most = [before[0] + 8, before[1] + 16, before[2] + 16 * 1024];
    seen("it holds no more than before the calls", || {
        let after = held();
        if after.iter().zip(most).all(|(now, most)| *now <= most) { Ok(()) } else { Err((before, after)) }
    });
    assert_eq!(desk.status().state, State::Disconnected);
    let told = lines.now();
    let about = told.iter().filter(|line| line.contains("No route to host")).count();
    assert!((1..=3).contains(&about) && told.len() < 20, "{} calls, {} lines: {told:#?}", failed(), told.len());

    fs::write(&there, "").unwrap();
    until("both sides are equal", || desk.status().state == State::InSync && files(&right) == FILES);
    for n in [0, 1, FILES - 1] {
        let name = format!("d{}/f{n}", n % DIRECTORIES);
        assert_eq!(fs::read_to_string(right.join(&name)).unwrap(), format!("3 {n}"), "{name}");
    }
    // Watched all the time: it was read once, when it was opened.
    assert_eq!(desk.status().left.scans, 1);
    stop.set();
    assert_eq!(brain.join().unwrap(), Exit::Done);
}
