//! The command line, and what it changes in the settings.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{ArgAction, Parser};

use super::UsageError;
use crate::config::{Invalid, Origin, Origins, Settings};

/// For the help: those of `commands.rs`, which tests that none is missing.
pub const COMMANDS: &str = "\
Commands of pairs that have a file, /etc/psync/PAIR.toml (`psync COMMAND --help` tells more):
  init PAIR -r HOST SRCROOT DSTROOT  Make the file and the key, print what to run on the right host
  doctor PAIR                        Say what is wrong with a pair, and how to mend it
  status [PAIR]                      What the pairs are doing
  pause PAIR, resume PAIR            Stop propagation, go on after a pause or a halt
  fullsync PAIR                      Rescan both sides and reconcile now
  check PAIR                         Compare both sides, change nothing
  trash PAIR list|restore|expire     What was replaced and deleted
  events PAIR, conflicts PAIR        What was propagated, what met
  config check|show|import           A pair's settings";

/// The words that are subcommands of psync, those included that no help names; `commands.rs` tests that they are all.
pub const SUBCOMMANDS: [&str; 12] = [
    "status",
    "fullsync",
    "pause",
    "resume",
    "check",
    "trash",
    "events",
    "conflicts",
    "init",
    "doctor",
    "config",
    "alert",
];

/// Whether the first word is a subcommand. A directory of that name is `./NAME`.
pub fn is_subcommand(args: &[OsString]) -> bool {
    args.get(1).is_some_and(|word| SUBCOMMANDS.iter().any(|name| word == name))
}

/// Keep two directories equal, both ways, in real time.
#[derive(Debug, Parser)]
#[command(name = "psync", version, disable_help_subcommand = true, args_override_self = false, after_help = COMMANDS)]
pub struct AdHoc {
    /// The left root: a directory of this host
    #[arg(value_name = "SRCROOT")]
    pub left: Option<PathBuf>,

    /// The right root: a directory of this host, or of the remote host
    #[arg(value_name = "DSTROOT")]
    pub right: Option<PathBuf>,

    /// The right host, [user@]host; without it both roots are local
    #[arg(short, long, value_name = "HOST")]
    pub remote_host: Option<String>,

    /// How much to log, 0 to 3: 1 operation, 2 every event and decision, 3 every message
    #[arg(short, long, value_name = "LEVEL", value_parser = clap::value_parser!(u8).range(0..=3))]
    pub debug: Option<u8>,

    /// Names that are temporary: never synchronised; a rename to a normal name counts as a write of that
    #[arg(short, long, value_name = "REGEX", allow_hyphen_values = true)]
    pub tempfiles: Option<String>,

    /// Paths left out of everything
    #[arg(short, long, value_name = "REGEX", allow_hyphen_values = true)]
    pub excludes: Option<String>,

    /// rsync pattern left out of full syncs; repeatable
    #[arg(long, value_name = "PATTERN", action = ArgAction::Append, allow_hyphen_values = true)]
    pub rsync_excludes: Vec<String>,

    /// Extra option for rsync, e.g. -x --bwlimit=5m; repeatable
    #[arg(short = 'x', long = "extra", value_name = "OPTION", action = ArgAction::Append, allow_hyphen_values = true)]
    pub extra: Vec<String>,

    /// Exit at once (code 6) when a process of that name runs
    #[arg(short, long, value_name = "NAME")]
    pub banned: Option<String>,

    /// Replace a path element in the paths of events; a TO of None removes it
    #[arg(short = 'T', long, value_name = "FROM:TO")]
    pub translate: Option<String>,

    /// Log every action, change nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,

    /// One full synchronisation, then exit
    #[arg(short, long)]
    pub sync_only: bool,

    /// Send only what changes from now on
    #[arg(short = 'k', long)]
    pub skip_initial_sync: bool,

    /// Remove non-empty directories, and move onto them, whatever they hold (it goes to the trash)
    #[arg(short, long)]
    pub force: bool,

    /// How to reach the agent; %h %u %p %i are replaced by host, user, port and pair
    #[arg(long, value_name = "CMD")]
    pub proxy_command: Option<String>,

    /// The pair's name (default: made from host and roots, or the file's if both roots come from it)
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    pub pair: Option<String>,

    /// Create a missing root
    #[arg(long)]
    pub create_roots: bool,

    /// Go on after a halt: both trees are as they should be, and deletions are meant
    #[arg(long)]
    pub accept: bool,

    /// With --accept: take both trees as if they had never met; what is on one side only is copied
    #[arg(long, requires = "accept")]
    pub union: bool,

    /// With --sync-only: read the contents of files that look unchanged as well
    #[arg(long, requires = "sync_only", hide = true)]
    pub checksum: bool,

    /// With --config: the right host's agent is a service with the same file
    #[arg(long, requires = "config", hide = true)]
    pub as_service: bool,

    /// Take the rest from this file; options win
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Where to log: auto (the journal under systemd, else stderr), journal, stderr, file (/var/log/psync/psync.log),
    /// or the path of a file
    #[arg(long, value_name = "TARGET")]
    pub log: Option<String>,
}

/// A pair as a service: the left side, and the way to the right one.
#[derive(Debug, Clone, Parser)]
#[command(name = "psync-brain", version, disable_help_subcommand = true)]
pub struct Brain {
    /// The pair's name, for /etc/psync/PAIR.toml, or the path of such a file
    pub pair: String,

    /// How much to log, 0 to 3, whatever the file says
    #[arg(short, long, value_name = "LEVEL", value_parser = clap::value_parser!(u8).range(0..=3))]
    pub debug: Option<u8>,

    /// Where to log, whatever the file says: auto (the journal under systemd, else stderr), journal, stderr, or a file
    #[arg(long, value_name = "TARGET")]
    pub log: Option<String>,
}

/// The agent, as a brain or ssh starts it.
#[derive(Debug, Parser)]
#[command(name = "psync-agent", version, disable_help_subcommand = true, after_help = AGENT_COMMANDS)]
pub struct Agent {
    /// Told by psync when it runs itself as an agent
    #[arg(long, hide = true)]
    pub agent_mode: bool,

    /// Serve one brain on stdin and stdout
    #[arg(long, required = true)]
    pub stdio: bool,

    /// The directory to serve; nothing outside can be reached
    #[arg(long, value_name = "DIR")]
    pub root: PathBuf,

    /// The only pair to serve (default: the one that the brain names)
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    pub pair: Option<String>,

    /// Create a missing root
    #[arg(long)]
    pub create_roots: bool,

    /// The settings that both sides share, as JSON
    #[arg(long, value_name = "JSON")]
    pub settings: Option<String>,

    /// Told by psync when the brain is on this host: stdin and stdout are no line, and nothing is packed
    #[arg(long, hide = true)]
    pub pipe: bool,

    /// Where to log: auto, journal, stderr, or a file
    #[arg(long, value_name = "TARGET", default_value = "stderr")]
    pub log: String,
}

/// The agent of a pair, as systemd starts it.
#[derive(Debug, Parser)]
#[command(name = "psync-agent serve", version, disable_help_subcommand = true)]
pub struct Serve {
    /// The pair's name, for /etc/psync/PAIR.toml, or the path of such a file
    #[arg(value_name = "PAIR")]
    pub pair: String,

    /// Where to log: auto, journal, stderr, or a file (default: as the pair's file says)
    #[arg(long, value_name = "TARGET")]
    pub log: Option<String>,
}

const AGENT_COMMANDS: &str = "\
Other commands:
  psync-agent serve PAIR    Serve a pair as a service, on the socket that systemd hands over
  psync-agent connect PAIR  Carry stdin and stdout to the socket of that service: what ssh runs";

/// What came of a command line.
#[derive(Debug)]
pub enum Parsed<T> {
    Run(T),
    /// Help or the version was asked for.
    Show(String),
}

/// Parses, with one line for what is wrong.
pub fn parse<T: Parser>(args: Vec<OsString>) -> Result<Parsed<T>, UsageError> {
    match T::try_parse_from(args) {
        Ok(options) => Ok(Parsed::Run(options)),
        Err(e) if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            Ok(Parsed::Show(e.render().to_string()))
        }
        Err(e) => Err(UsageError(one_line(&e.render().to_string()))),
    }
}

/// clap's paragraphs: the error, perhaps tips, the usage. Kept are the error and the first tip.
fn one_line(rendered: &str) -> String {
    let joined = |paragraph: &str| paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut paragraphs = rendered.split("\n\n").map(joined);
    let first = paragraphs.next().unwrap_or_default();
    let error = first.strip_prefix("error: ").unwrap_or(&first).to_string();
    match paragraphs.find(|p| p.starts_with("tip: a similar")) {
        Some(tip) => format!("{error} ({})", &tip["tip: ".len()..]),
        None => format!("{error} (see --help)"),
    }
}

impl AdHoc {
    /// Puts what was said on the command line over what the file said. Relative roots are those of `here`.
    pub fn apply(&self, here: &Path, settings: &mut Settings, origins: &mut Origins) -> Result<(), Invalid> {
        let mut said = |key: &str, option| origins.insert(key, Origin::Option(option));
        if let Some(left) = &self.left {
            settings.left.root = here.join(left);
            said("left.root", "SRCROOT");
        }
        if let Some(host) = &self.remote_host {
            let (user, name) = host.rsplit_once('@').map_or((None, host.as_str()), |(u, h)| (Some(u), h));
            settings.right.host = Some(name.to_string());
            said("right.host", "-r, --remote-host");
            if let Some(user) = user {
                settings.right.user = Some(user.to_string());
                said("right.user", "-r, --remote-host");
            }
        }
        if let Some(command) = &self.proxy_command {
            settings.right.proxy_command = Some(command.clone());
            said("right.proxy_command", "--proxy-command");
        }
        if let Some(right) = &self.right {
            // Of another host it must be absolute: here is not there.
            let local = settings.is_local();
            settings.right.root = if local { here.join(right) } else { right.clone() };
            said("right.root", "DSTROOT");
        }
        if let Some(level) = self.debug {
            settings.shared.run.debug = level;
            said("debug", "-d, --debug");
        }
        for (value, target, key, option) in [
            (&self.tempfiles, &mut settings.shared.filters.tempfiles, "tempfiles", "-t, --tempfiles"),
            (&self.excludes, &mut settings.shared.filters.excludes, "excludes", "-e, --excludes"),
        ] {
            if let Some(value) = value {
                target.clone_from(value);
                said(key, option);
            }
        }
        for (values, target, key, option) in [
            (&self.rsync_excludes, &mut settings.shared.filters.rsync_excludes, "rsync_excludes", "--rsync-excludes"),
            (&self.extra, &mut settings.shared.transport.rsync_extra, "rsync_extra", "-x, --extra"),
        ] {
            if !values.is_empty() {
                target.clone_from(values);
                said(key, option);
            }
        }
        for (given, target, key, option) in [
            (self.dry_run, &mut settings.shared.run.dryrun, "dryrun", "-n, --dry-run"),
            (self.sync_only, &mut settings.program.first_sync_only, "first_sync_only", "-s, --sync-only"),
            (
                self.skip_initial_sync,
                &mut settings.shared.run.skip_initial_sync,
                "skip_initial_sync",
                "-k, --skip-initial-sync",
            ),
            (self.force, &mut settings.shared.removal.force, "force", "-f, --force"),
        ] {
            if given {
                *target = true;
                said(key, option);
            }
        }
        if let Some(name) = &self.banned {
            settings.program.banned = Some(name.clone());
            said("banned", "-b, --banned");
        }
        if let Some(target) = &self.log {
            said("log", "--log");
            settings.program.log = match target.as_str() {
                "auto" | "journal" | "stderr" | "file" | "" => target.clone(),
                file => here
                    .join(file)
                    .into_os_string()
                    .into_string()
                    .map_err(|path| Invalid::new("log", format!("{} is not UTF-8", path.to_string_lossy())))?,
            };
        }
        if let Some(text) = &self.translate {
            said("translate", "-T, --translate");
            settings.shared.looks.translate =
                Some(text.parse().map_err(|message: String| Invalid::new("translate", message))?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Links;

    #[test]
    fn clap_itself_is_content() {
        use clap::CommandFactory;
        AdHoc::command().debug_assert();
        Agent::command().debug_assert();
        Brain::command().debug_assert();
        Serve::command().debug_assert();
    }

    #[test]
    fn options_win_over_the_file() {
        let text = "debug = 1\nforce = true\nexcludes = 'x'\n[left]\nroot = '/l'\n[right]\nroot = '/r'\nuser = 'u'\n";
        let (mut settings, mut origins) = crate::config::parse(Path::new("p.toml"), text).expect("good");
        let args = ["psync", "--debug", "3", "-r", "me@h", "-x", "--bwlimit=5m", "-x", "-L", "-T", "a:None", "rel"];
        let Parsed::Run(options) = parse::<AdHoc>(args.map(OsString::from).to_vec()).expect("parsed") else {
            panic!("help")
        };
        options.apply(Path::new("/here"), &mut settings, &mut origins).expect("applied");
        assert_eq!(
            (settings.shared.run.debug, settings.shared.removal.force, settings.shared.filters.excludes.as_str()),
            (3, true, "x")
        );
        assert_eq!((settings.right.host.as_deref(), settings.right.user.as_deref()), (Some("h"), Some("me")));
        assert_eq!(settings.shared.transport.rsync_extra, ["--bwlimit=5m", "-L"]);
        assert_eq!(settings.left.root, Path::new("/here/rel"));
        assert_eq!(settings.shared.looks.translate.expect("set").to_string(), "a:None");
        assert_eq!(origins.of("debug"), Some(&Origin::Option("-d, --debug")));
        assert_eq!(origins.of("force").expect("told").to_string(), "p.toml:2: force");
    }

    #[test]
    fn an_option_of_rsync_becomes_a_setting() {
        let given = |text: &str, extra: &str| {
            let (mut settings, mut origins) = crate::config::parse(Path::new("p.toml"), text).expect("good");
            let args = ["psync", "-x", extra, "a", "b"].map(OsString::from).to_vec();
            let Parsed::Run(options) = parse::<AdHoc>(args).expect("parsed") else { panic!("help") };
            options.apply(Path::new("/here"), &mut settings, &mut origins).expect("applied");
            settings.settle(&mut origins).map_err(|e| origins.explain(&e)).map(|()| settings.shared.filters.links)
        };
        // The option takes the place of the file's options.
        assert_eq!(given("rsync_extra = ['-L']\n", "-v"), Ok(Links::Preserve));
        assert_eq!(given("rsync_extra = ['--no-links']\n", "-L"), Ok(Links::Follow));
        let want = "-x, --extra: `-L` means links = \"follow\", and p.toml:1: links = \"skip\"";
        assert_eq!(given("links = 'skip'\n", "-L"), Err(want.to_owned()));
    }
}
