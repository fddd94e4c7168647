//! Landlock: processes that reach what they are given and nothing else, whoever they run as and whatever they are told.
//!
//! A process is confined as its parent's thread is when it starts it. So a thread confines itself, starts the process, and
//! ends; nothing has to happen between fork and exec.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::thread;

use landlock::{
    ABI, Access, AccessFs, AccessNet, PathBeneath, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr,
    RulesetError, RulesetStatus, Scope, path_beneath_rules,
};

/// The newest version of the kernel's interface whose rights are taken away; of an older kernel those that it knows.
const NEWEST: ABI = ABI::V6;
/// Programs and libraries of the system.
const SYSTEM: &[&str] = &["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64"];
/// What programs of the system want to read beside themselves.
const READ: &[&str] = &[
    "/etc/ld.so.cache",
    "/etc/ld.so.preload",
    "/etc/localtime",
    "/etc/nsswitch.conf",
    "/etc/passwd",
    "/etc/group",
    "/etc/ssl/openssl.cnf",
    "/dev/urandom",
    "/dev/random",
];

/// What a confined process reaches beside programs and libraries of the system. No network, and no process but those that
/// it starts itself.
#[derive(Clone, Copy)]
pub struct Reach<'a> {
    /// It may do everything below this directory; `None`: it writes nothing.
    pub work: Option<BorrowedFd<'a>>,
    /// It may list these directories, and those below them.
    pub lists: &'a [BorrowedFd<'a>],
    /// It may read these files.
    pub reads: &'a [BorrowedFd<'a>],
    /// It may run these programs, which may lie outside the system's directories.
    pub program: &'a Path,
    pub runs: &'a [BorrowedFd<'a>],
}

/// Does this work in a thread whose processes reach no more than that; what it starts stays confined. Where the kernel has
/// no Landlock, or not all of it, as far as it has.
///
/// # Errors
/// If the rules cannot be made, and nothing was done.
pub fn confined<T: Send>(reach: Reach<'_>, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let confine_and_work = || restrict(reach).map(|_| work());
        let thread = thread::Builder::new().name("confined".into()).spawn_scoped(scope, confine_and_work)?;
        thread.join().map_err(|_| io::Error::other("the confined thread has ended by itself"))?
    })
}

/// How far this kernel can confine a process, in words.
pub fn extent() -> (bool, &'static str) {
    let tried = thread::scope(|scope| {
        let probe = || rules().map_err(io::Error::other)?.restrict_self().map_err(io::Error::other);
        let thread = thread::Builder::new().name("confined".into()).spawn_scoped(scope, probe)?;
        thread.join().map_err(|_| io::Error::other("no answer"))?
    });
    match tried.map(|status| status.ruleset) {
        Ok(RulesetStatus::FullyEnforced) => (true, "the kernel confines it to what it needs"),
        Ok(RulesetStatus::PartiallyEnforced) => (true, "the kernel confines it, but knows no rule for the network"),
        Ok(RulesetStatus::NotEnforced) | Err(_) => {
            (false, "the kernel has no Landlock, so only the list of allowed arguments restrains it")
        }
    }
}

fn rules() -> Result<RulesetCreated, RulesetError> {
    Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()
}

/// Confines this thread.
fn restrict(reach: Reach<'_>) -> io::Result<RulesetStatus> {
    let all = AccessFs::from_all(NEWEST);
    let program = AccessFs::Execute | AccessFs::ReadFile;
    let run = program | AccessFs::ReadDir;
    let made = || -> Result<RulesetCreated, RulesetError> {
        rules()?
            .add_rules(reach.work.iter().map(|fd| Ok::<_, RulesetError>(PathBeneath::new(*fd, all))))?
            .add_rules(path_beneath_rules(SYSTEM, run))?
            .add_rules(path_beneath_rules([reach.program], run))?
            .add_rules(path_beneath_rules(READ, AccessFs::ReadFile))?
            .add_rules(path_beneath_rules(["/dev/null"], AccessFs::ReadFile | AccessFs::WriteFile))?
            .add_rules(reach.runs.iter().map(|fd| Ok::<_, RulesetError>(PathBeneath::new(*fd, program))))?
            .add_rules(reach.lists.iter().map(|fd| Ok::<_, RulesetError>(PathBeneath::new(*fd, AccessFs::ReadDir))))?
            .add_rules(reach.reads.iter().map(|fd| Ok::<_, RulesetError>(PathBeneath::new(*fd, AccessFs::ReadFile))))
    };
    let made = made().map_err(io::Error::other)?;
    Ok(made.restrict_self().map_err(io::Error::other)?.ruleset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::process::{Command, Output};

    /// Runs a script in a directory `work`, confined; beside it lie `old`, `basis` and `secret`.
    fn run(dir: &Path, script: &str) -> Option<Output> {
        if !extent().0 {
            eprintln!("skipped: the kernel has no Landlock");
            return None;
        }
        let work = dir.join("work");
        std::fs::create_dir_all(&work).expect("mkdir");
        for name in ["old", "basis", "secret"] {
            std::fs::write(dir.join(name), name).expect("write");
        }
        let open = |name: &str| std::fs::File::open(dir.join(name)).expect("open");
        let (inside, above, basis) = (open("work"), open("."), open("basis"));
        let reach = Reach {
            work: Some(inside.as_fd()),
            lists: &[above.as_fd()],
            reads: &[basis.as_fd()],
            program: Path::new("/bin/sh"),
            runs: &[],
        };
        let start = || Command::new("/bin/sh").current_dir(&work).args(["-c", script]).output().expect("sh");
        Some(confined(reach, start).expect("confined"))
    }

    fn names(path: &Path) -> Vec<std::ffi::OsString> {
        let mut names: Vec<_> = std::fs::read_dir(path).expect("list").map(|e| e.expect("entry").file_name()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_confined_child_writes_in_its_directory_alone() {
        let dir = tempfile::tempdir().expect("dir");
        let script = "echo x > new; mv new own; echo x > ../out; rm ../old; mv own ../; : > ../basis; chmod 600 own";
        if run(dir.path(), script).is_none() {
            return;
        }
        assert_eq!(names(&dir.path().join("work")), ["own"]);
        assert_eq!(names(dir.path()), ["basis", "old", "secret", "work"]);
        assert_eq!(std::fs::read(dir.path().join("basis")).expect("read"), b"basis");
    }

    #[test]
    fn a_confined_child_reads_its_basis_and_nothing_else() {
        let dir = tempfile::tempdir().expect("dir");
        let script =
            "cat ../basis; cat ../secret; cat /etc/hostname; cat /etc/shadow; cat /proc/version; ls .. | wc -l";
        let Some(output) = run(dir.path(), script) else { return };
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(said.split_whitespace().collect::<Vec<_>>(), ["basis4"], "{output:?}");
    }

    #[test]
    fn a_confined_child_reaches_no_network_and_no_process_outside() {
        let dir = tempfile::tempdir().expect("dir");
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("listen");
        let port = listener.local_addr().expect("address").port();
        let script =
            format!("bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port}' 2>&1; kill -CONT {} 2>&1", std::process::id());
        let Some(output) = run(dir.path(), &script) else { return };
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains("Permission denied"), "{output:?}");
        // The last command's: kill.
        assert!(!output.status.success() || !extent().1.ends_with("what it needs"), "{output:?}");
    }

    #[test]
    fn who_has_no_directory_of_its_own_reads_what_it_is_given() {
        if !extent().0 {
            eprintln!("skipped: the kernel has no Landlock");
            return;
        }
        let dir = tempfile::tempdir().expect("dir");
        std::fs::write(dir.path().join("given"), "given").expect("write");
        std::fs::write(dir.path().join("secret"), "secret").expect("write");
        std::fs::copy("/bin/true", dir.path().join("program")).expect("a program");
        let open = |name: &str| std::fs::File::open(dir.path().join(name)).expect("open");
        let (given, program) = (open("given"), open("program"));
        let (reads, runs) = ([given.as_fd()], [program.as_fd()]);
        let reach = Reach { work: None, lists: &[], reads: &reads, program: Path::new("/bin/sh"), runs: &runs };
        let script = "cat given; cat secret; echo x > new; echo y > given; ./program && echo ran; cp /bin/true t; ls";
        let mut command = Command::new("/bin/sh");
        let output = confined(reach, || command.current_dir(dir.path()).args(["-c", script]).output().expect("sh"));
        let output = output.expect("confined");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "givenran\n", "{output:?}");
        assert_eq!(names(dir.path()), ["given", "program", "secret"]);
    }

    #[test]
    fn the_thread_that_asks_stays_free() {
        let dir = tempfile::tempdir().expect("dir");
        if run(dir.path(), "true").is_some() {
            std::fs::write(dir.path().join("later"), "x").expect("this thread may write anywhere");
        }
    }
}
