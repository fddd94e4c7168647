//! `psync-agent`: the right side. `--stdio --root DIR` serves an ad hoc pair on the other end of a pipe, `serve PAIR` a
//! pair as a service, and `connect PAIR` carries a brain's line to that service.

mod connect;
mod line;
mod serve;
mod tunnel;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use slog::{Logger, debug};

use super::UsageError;
use super::console::{Console, print};
use super::exit;
use super::human::words;
use super::neighbours::{self, Tree, Which};
use super::options::{self, Agent, Parsed, Serve};
use super::roots::{self, Allowed};
use crate::brain::monitor::Exit;
use crate::config::{SharedSettings, valid_pair};
use crate::endpoint::agent::Served;
use crate::endpoint::open::Opening;
use crate::endpoint::service::End;
use crate::endpoint::{self, Done};
use crate::link::Limits;
use crate::model::Side;
use crate::service::log::{EVENT_ID, Log, METHOD, PATH, SIDE, Target, event_id, method, side_letter};
use crate::service::signals::{Stop, stop_on_term};

/// What an agent needs to serve.
#[derive(Debug, Clone)]
pub struct Job {
    /// Canonical, and it exists.
    pub root: PathBuf,
    /// The only pair that may be served; `None`: the one that the brain names.
    pub pair: Option<String>,
    pub settings: SharedSettings,
    pub logger: Logger,
    /// The brain is on this host, at the other end of a pipe.
    pub pipe: bool,
    /// Each action goes to the log as well.
    pub tells: bool,
}

/// Serves one brain on stdin and stdout until it says stop, the pipe ends, or `Stop` is set.
pub type Run = fn(&Job, Stop) -> Exit;

/// The whole command; the exit code. Only frames go to stdout.
pub fn main(args: Vec<OsString>, run: Run) -> u8 {
    main_on(args, Console::stderr(), run)
}

fn main_on(args: Vec<OsString>, console: Console, run: Run) -> u8 {
    let result = match args.get(1).and_then(|word| word.to_str()) {
        Some("--agent-mode") if args.get(2).is_some_and(|word| word == "tunnel") => tunnel::run(&args[3..]).map(|()| 0),
        Some("--agent-mode") if args.get(2).is_some_and(|word| word == "line") => line::run(&args[3..]),
        Some("connect") => connect::run(&args[2..]).map(|()| 0),
        Some("serve") => {
            // For clap the two words are one program.
            let args = args.iter().skip(1).cloned().collect();
            parsed::<Serve>(args, |options| serve::run(options, &console).map(|()| 0))
        }
        _ => parsed::<Agent>(args, |options| start(options, &console, run)),
    };
    result.unwrap_or_else(|e| {
        console.line(&format!("psync-agent: {e}"));
        exit::USAGE
    })
}

/// Parses and runs, or shows what was asked for.
fn parsed<T: clap::Parser>(
    args: Vec<OsString>,
    run: impl FnOnce(&T) -> Result<u8, UsageError>,
) -> Result<u8, UsageError> {
    match options::parse::<T>(args)? {
        Parsed::Run(options) => run(&options),
        Parsed::Show(text) => {
            print(text);
            Ok(0)
        }
    }
}

fn start(options: &Agent, console: &Console, run: Run) -> Result<u8, UsageError> {
    let settings = match &options.settings {
        Some(json) => SharedSettings::from_json(json).map_err(|e| UsageError(format!("--settings: {e}")))?,
        None => SharedSettings::default(),
    };
    settings.check().map_err(|e| UsageError(format!("--settings: {e}")))?;
    if let Some(pair) = &options.pair
        && !valid_pair(pair)
    {
        return Err(UsageError(format!("--pair: `{pair}` is no name of a pair")));
    }
    let path = std::path::absolute(&options.root).map_err(|e| UsageError(format!("--root: {e}")))?;
    let allowed = Allowed { create: options.create_roots, dry: settings.run.dryrun, option: true };
    let root = roots::check("root", &path, allowed)?;
    if let Some(pair) = options.pair.as_ref().filter(|_| !settings.run.dryrun) {
        apart(pair, &settings, &root.path)?;
    }
    let target = Target::of(&options.log);
    let log = Log::start(&target, settings.run.debug, options.pair.as_deref().unwrap_or_default(), console.writer())
        .map_err(|e| UsageError(format!("--log: {}: {}", options.log, words(&e))))?;
    roots::create("root", &root)?;

    let stop = Stop::new();
    if let Err(e) = stop_on_term(&stop) {
        console.line(&format!("psync-agent: cannot start: {}", words(&e)));
        return Ok(exit::code(Exit::Internal));
    }
    // What goes to stderr goes to the brain's log, which tells of both sides.
    let tells = target != Target::Stderr;
    let (pair, logger) = (options.pair.clone(), log.logger().clone());
    let job = Job { root: root.path, pair, settings, logger, pipe: options.pipe, tells };
    let ended = run(&job, stop);
    drop(job);
    drop(log);
    Ok(exit::code(ended))
}

/// Refuses a root that overlaps one of another pair on this host.
fn apart(pair: &str, settings: &SharedSettings, root: &Path) -> Result<(), UsageError> {
    let filters = settings.filters.clone();
    let own = Tree { pair: pair.to_owned(), root: root.to_owned(), filters, whole: None };
    neighbours::check(&[own], Which::Used)
}

/// Serves the root of the job on stdin and stdout.
pub fn serve(job: &Job, stop: Stop) -> Exit {
    let opening = Opening {
        root: &job.root,
        pair: job.pair.as_deref().unwrap_or_default(),
        side: Side::Right,
        shared: &job.settings,
        // An agent that a brain starts has no more rights than whoever started that.
        accept: job.settings.grants.accept(true),
        dry_run: job.settings.run.dryrun,
        done: job.tells.then(|| done(&job.logger)),
    };
    let limits = if job.pipe { Limits::of_pipe(&job.settings) } else { Limits::of(&job.settings) };
    let on_stop = |end: End| stop.on_stop(end);
    match endpoint::agent::serve_stdio(&opening, job.pair.as_deref(), limits, on_stop) {
        Served::Done => Exit::Done,
        Served::Lost(error) => {
            slog::info!(job.logger, "the brain is gone: {error}");
            Exit::LeftLost
        }
        Served::Failed(reason) => {
            slog::error!(job.logger, "{reason}");
            Exit::Internal
        }
    }
}

/// Logs what was done on the right, under the numbers that the brain logs as well.
fn done(logger: &Logger) -> Done {
    let logger = logger.clone();
    Done(Arc::new(move |generation, what, path| {
        debug!(logger, "done: {what}: {path}"; METHOD => method(what), PATH => path.to_string(),
            SIDE => side_letter(Side::Right), EVENT_ID => event_id(generation));
    }))
}

#[cfg(test)]
mod tests {
    use super::super::console::tests::Written;
    use super::*;

    fn agent(words: &[&str], run: Run) -> (u8, String) {
        let written = Written::default();
        let args = std::iter::once(&"psync-agent").chain(words).map(OsString::from).collect();
        (main_on(args, written.console(false), run), written.take())
    }

    #[test]
    fn errors_are_one_line_and_exit_1() {
        fn unreached(_: &Job, _: Stop) -> Exit {
            panic!("nothing should run")
        }
        let unknown = serde_json::to_string(&SharedSettings::default()).expect("JSON").replacen('{', "{\"new\":1,", 1);
        for (words, want) in [
            (vec![], "the following required arguments were not provided: --stdio --root <DIR> (see --help)"),
            (vec!["--stdio", "--root", "/no/such"], "root /no/such: does not exist (--create-roots creates it)"),
            (vec!["--stdio", "--root", "/", "--pair", ".x"], "--pair: `.x` is no name of a pair"),
            (vec!["--stdio", "--root", "/", "--settings", "{"], "--settings: EOF while parsing an object at line 1"),
            (vec!["--stdio", "--root", "/", "--settings", &unknown], "--settings: unknown field `new`"),
        ] {
            let (code, said) = agent(&words, unreached);
            assert!(code == 1 && said.starts_with(&format!("psync-agent: {want}")), "{words:?}: {said}");
            assert_eq!(said.lines().count(), 1);
        }
        let mut bad = SharedSettings::default();
        bad.filters.excludes = "(".into();
        let json = serde_json::to_string(&bad).expect("JSON");
        let (code, said) = agent(&["--stdio", "--root", "/", "--settings", &json], unreached);
        let want = "psync-agent: --settings: excludes: bad regular expression `(` at position 1: unclosed group\n";
        assert_eq!((code, said.as_str()), (1, want));
    }

    #[test]
    fn a_child_of_the_brain_understands_its_words() {
        fn run(job: &Job, _: Stop) -> Exit {
            assert_eq!((job.pair.as_deref(), job.settings.run.debug), (Some("p"), 2));
            assert!(job.root.is_dir());
            Exit::Done
        }
        let temp = tempfile::tempdir().expect("dir");
        let mut settings = crate::config::Settings::default();
        settings.shared.run.debug = 2;
        settings.right.root = temp.path().join("new");
        let crate::config::RightCommand::Child(args) = crate::config::right_command(&settings, "p", true) else {
            panic!("no child")
        };
        let words: Vec<&str> = args.iter().map(|a| a.to_str().expect("text")).collect();
        assert_eq!(agent(&words, run), (0, String::new()));
    }
}
