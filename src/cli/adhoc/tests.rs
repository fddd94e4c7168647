use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use super::super::console::tests::Written;
use super::*;
use crate::config::RightCommand;
use crate::service::banned;

/// Directories `a`, `b`, `a/in`, a file `f`, a link `to-a`, and files of configuration.
struct Stage {
    _temp: tempfile::TempDir,
    dir: PathBuf,
}

impl Stage {
    fn new() -> Stage {
        let temp = tempfile::tempdir().expect("dir");
        let dir = temp.path().canonicalize().expect("canonical");
        fs::create_dir_all(dir.join("a/in")).expect("a");
        fs::create_dir(dir.join("b")).expect("b");
        fs::write(dir.join("f"), "").expect("f");
        symlink("a", dir.join("to-a")).expect("link");
        Stage { _temp: temp, dir }
    }

    /// Runs with words in which `@` stands for the stage; the exit code and what was said.
    fn psync(&self, words: &str, run: Run) -> (u8, String) {
        let dir = self.dir.to_str().expect("text");
        let words = format!("psync {words}").replace('@', &format!("{dir}/"));
        let written = Written::default();
        let code = main_on(words.split_whitespace().map(OsString::from).collect(), written.console(false), run);
        (code, written.take().replace(&format!("{dir}/"), "@"))
    }
}

fn unreached(_: &Job, _: Arc<dyn Monitor>, _: Stop) -> Exit {
    panic!("nothing should run")
}

#[test]
fn errors_of_usage_are_one_line_and_exit_1() {
    let stage = Stage::new();
    for (words, want) in [
        ("", "SRCROOT and DSTROOT are missing (see --help)"),
        ("@a", "DSTROOT is missing (see --help)"),
        ("@a @b @c", "unexpected argument '@c' found (see --help)"),
        ("--exclude x @a @b", "unexpected argument '--exclude' found (a similar argument exists: '--excludes')"),
        ("-Z @a @b", "unexpected argument '-Z' found (see --help)"),
        ("-d 4 @a @b", "invalid value '4' for '--debug <LEVEL>': 4 is not in 0..=3 (see --help)"),
        ("-d x @a @b", "invalid value 'x' for '--debug <LEVEL>': invalid digit found in string (see --help)"),
        ("@a @b -e", "a value is required for '--excludes <REGEX>' but none was supplied (see --help)"),
        ("-e a(b @a @b", "-e, --excludes: bad regular expression `a(b` at position 2: unclosed group"),
        (
            "-t *x @a @b",
            "-t, --tempfiles: bad regular expression `*x` at position 1: repetition operator missing expression",
        ),
        ("-T a @a @b", "-T, --translate: `a` is not of the form FROM:TO"),
        (
            "--pair -x @a @b",
            "--pair: `-x` is no name of a pair: 1 to 64 of A-Z a-z 0-9 . _ -, not beginning with a dot or a dash",
        ),
        (
            "--pair x/y @a @b",
            "--pair: `x/y` is no name of a pair: 1 to 64 of A-Z a-z 0-9 . _ -, not beginning with a dot or a dash",
        ),
        ("@no @b", "left root @no: does not exist (--create-roots creates it)"),
        ("@a @no", "right root @no: does not exist (--create-roots creates it)"),
        ("-n --create-roots @a @no", "right root @no: does not exist, and a dry run creates nothing"),
        ("@a @f", "right root @f: is not a directory"),
        ("@a @to-a", "the roots are one directory: @a and @a"),
        ("@a @a/in", "the right root lies inside the left: @a/in is inside @a"),
        ("@a/in @a", "the left root lies inside the right: @a/in is inside @a"),
        ("--create-roots @a @a/new", "the right root lies inside the left: @a/new is inside @a"),
        ("-x -4 @a @b", "-x, --extra: `-4` is not allowed: nothing is known here of what it does to contents"),
        (
            "-x --rsh=sh @a @b",
            "-x, --extra: `--rsh=sh` is not allowed: what names paths or commands, deletes, or chooses files is psync's to decide",
        ),
        ("-r h @a b", "DSTROOT: b is not absolute"),
        ("-r=-oX @a @b", "-r, --remote-host: `-oX` begins with a dash"),
        ("--proxy-command %z @a @b", "--proxy-command: `%z` is none of %h %u %p %i %o %%"),
        ("--log @no/log @a @b", "--log: @no/log: No such file or directory"),
        ("--log @a/in/log @a @b", "the log would lie inside a root: @a/in/log is inside @a"),
        ("--config @none.toml @a @b", "@none.toml: cannot read: No such file or directory (os error 2)"),
    ] {
        assert_eq!(stage.psync(words, unreached), (1, format!("psync: {want}\n")), "{words}");
    }
    assert!(!stage.dir.join("a/new").exists() && !stage.dir.join("no").exists());
}

#[test]
fn errors_of_the_file_name_file_line_and_key() {
    let stage = Stage::new();
    let file = stage.dir.join("p.toml");
    for (text, want) in [
        ("debug = 1\nexclude = 'x'\n", "2: unknown key `exclude`; did you mean `excludes`?"),
        ("colour = 'x'\n", "1: unknown key `colour`"),
        ("\n[right]\nrot = '/x'\n", "3: unknown key `right.rot`; did you mean `right.root`?"),
        (
            "[right]\n\ndebug = 2\n",
            "3: unknown key `right.debug`; `debug` is no part of [right]: put it above the first [table]",
        ),
        ("root = '/x'\n", "1: unknown key `root`; did you mean `left.root`?"),
        ("[rigth]\nroot = '/x'\n", "1: unknown key `rigth`; did you mean `right`?"),
        ("# x\ndebug = 'x'\n", "2: debug: invalid type: string \"x\", expected a whole number, 0 to 255"),
        ("timeout = '1'\n", "1: timeout: invalid type: string \"1\", expected a number of seconds, 0 or more"),
        ("timeout = -1\n", "1: timeout: invalid value: integer `-1`, expected a number of seconds, 0 or more"),
        ("force = 1\n", "1: force: invalid type: integer `1`, expected true or false"),
        ("conflict = 'both'\n", "1: conflict: unknown value `both`, expected one of `newest`, `left`, `right`"),
        ("trash_max = '101%'\n", "1: trash_max: 101% is over 100%"),
        ("translate = 'a'\n", "1: translate: `a` is not of the form FROM:TO"),
        (
            "[right]\nport = 70000\n",
            "2: right.port: invalid value: integer `70000`, expected a whole number, 0 to 65535",
        ),
        ("right = 5\n", "1: right: invalid type: integer `5`, expected a table"),
        ("fullsync = [true]\n", "1: fullsync: expected an hour or a calendar expression"),
        ("\n\nexcludes = 'a)'\n", "3: excludes: bad regular expression `a)` at position 2: unopened group"),
        ("debug = 9\n", "1: debug: 9 is not in 0 to 3"),
        ("[left]\nroot = 'x'\n[right]\nroot = '/y'\n", "2: left.root: x is not absolute"),
        (
            "transfer = 'stream'\nrsync_extra = ['-z', '--fsync']\n",
            "2: rsync_extra: only rsync has `--fsync`, and transfer = \"stream\" never uses it",
        ),
        ("a = \n", "1: "),
        ("debug = 1\ndebug = 2\n", "2: duplicate key"),
    ] {
        fs::write(&file, text).expect("write");
        let roots = if text.contains("[left]") { "" } else { "@a @b" };
        let (code, said) = stage.psync(&format!("--config @p.toml {roots}"), unreached);
        let want = format!("psync: @p.toml:{want}");
        // Of syntax errors the words are the parser's.
        let same = if want.ends_with("key") || want.ends_with(": ") {
            said.starts_with(&want)
        } else {
            said == want.clone() + "\n"
        };
        assert!(code == 1 && same && said.lines().count() == 1, "{text:?}:\n{said}{want}");
    }
}

#[test]
fn a_good_run_gets_checked_settings_and_tells_what_it_is_told() {
    fn run(job: &Job, monitor: Arc<dyn Monitor>, stop: Stop) -> Exit {
        assert!(job.settings.left.root.is_absolute() && job.settings.left.root.ends_with("a"));
        assert!(job.settings.right.root.is_dir());
        assert!(job.settings.program.first_sync_only && !stop.is_set());
        let RightCommand::Child(args) = &job.right else { panic!("not local") };
        assert_eq!(args[3], job.settings.right.root);
        monitor.in_sync(3, 12_897_485);
        Exit::Done
    }
    let stage = Stage::new();
    let (code, said) = stage.psync("-s --pair docs --create-roots @to-a @new/root", run);
    assert_eq!((code, said.as_str()), (0, "psync: docs in sync: 3 files, 12.3 MiB\n"));
    assert!(stage.dir.join("new/root").is_dir());
}

#[test]
fn the_roots_may_come_from_the_file() {
    fn run(job: &Job, _: Arc<dyn Monitor>, _: Stop) -> Exit {
        assert!(job.settings.left.root.ends_with("a") && job.settings.right.root.ends_with("b"));
        assert_eq!((job.settings.shared.run.debug, job.settings.conflicts.rule), (1, config::ConflictRule::Left));
        assert_eq!(job.pair, "p");
        Exit::Done
    }
    let stage = Stage::new();
    let root = |name: &str| stage.dir.join(name).display().to_string();
    let text = format!("conflict='left'\n[left]\nroot='{}'\n[right]\nroot='{}'\n", root("a"), root("b"));
    fs::write(stage.dir.join("p.toml"), text).expect("write");
    let log = stage.dir.join("log");
    let (code, said) = stage.psync("--config @p.toml -d 1 --log @log", run);
    assert_eq!((code, said.as_str()), (0, ""));
    assert!(fs::read_to_string(log).expect("log").contains("from=\"-d, --debug\""));
    let (code, said) = stage.psync("--config @p.toml @a", unreached);
    assert_eq!((code, said.as_str()), (1, "psync: DSTROOT is missing (see --help)\n"));
}

#[test]
fn ends_are_exit_codes() {
    macro_rules! ends {
        ($($exit:ident => $code:expr),*) => {[$({
            fn run(_: &Job, _: Arc<dyn Monitor>, _: Stop) -> Exit { Exit::$exit }
            (run as Run, $code)
        }),*]};
    }
    let stage = Stage::new();
    let table = ends![Done => 0, InitialSyncFailed => 2, LeftLost => 3, RightLost => 4, Internal => 5, Banned => 6,
        Halted => 7];
    for (run, code) in table {
        assert_eq!(stage.psync("@a @b", run).0, code);
    }
}

#[test]
fn a_banned_program_ends_it_before_anything_is_done() {
    use std::os::unix::process::CommandExt;
    let name = format!("psync-banned-run-{}", std::process::id());
    let mut child = std::process::Command::new("/bin/sleep").arg0(&name).arg("600").spawn().expect("sleep");
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !banned::running(&name).expect("proc") && std::time::Instant::now() < end {
        std::thread::yield_now();
    }
    let stage = Stage::new();
    let (code, said) = stage.psync(&format!("--create-roots -b {name} @a @new"), unreached);
    let _ = child.kill();
    let _ = child.wait();
    assert_eq!((code, said), (6, format!("psync: {name} is running: nothing is done\n")));
    assert!(!stage.dir.join("new").exists());
}

#[test]
fn a_remote_right_is_not_looked_at_here() {
    fn run(job: &Job, _: Arc<dyn Monitor>, _: Stop) -> Exit {
        let RightCommand::Proxy(line) = &job.right else { panic!("no proxy") };
        let line = line.to_str().expect("text");
        assert!(
            line.starts_with(
                "exec ssh -T -o ForwardAgent=no -o ClearAllForwardings=yes -o PermitLocalCommand=no \
                 -o StrictHostKeyChecking=yes -o ConnectTimeout=10 -a -x -o BatchMode=yes -- me@h \
                 'psync-agent --stdio --root /no/such"
            ),
            "{line}"
        );
        assert!(line.contains("--create-roots"));
        Exit::Done
    }
    let stage = Stage::new();
    let dir = stage.dir.display();
    let words = ["psync", "-r", "me@h", "--create-roots", &format!("{dir}/a"), "/no/such"].map(OsString::from);
    assert_eq!(main_on(words.to_vec(), Written::default().console(false), run), 0);
}
