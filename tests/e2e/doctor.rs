//! `psync doctor`: a pair that is well, and each thing that can be wrong with its remedy.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::mounts::mount;
use crate::support::service::{AGENT, Service};
use crate::support::sshd::{self, Sshd};
use crate::support::users::*;
use crate::support::{Depth, NAME, PSYNC, Pair, once, process, run_to_end, snapshot, tools};

/// The pair's file, with these lines at its top and these below `[right]`.
fn configure(pair: &Pair, top: &str, right: &str) -> String {
    let file = pair.beside(&format!("{NAME}.toml"));
    let (l, r) = (&pair.left, &pair.right);
    write(&file, format!("{top}[left]\nroot = {l:?}\n[right]\nroot = {r:?}\n{right}"));
    file.to_str().unwrap().to_owned()
}

/// What the doctor finds wrong: side, check, what is found.
fn wrong(file: &str) -> Vec<[String; 3]> {
    wrong_in(once(&["doctor", file, "--json"]))
}

fn wrong_in(once: crate::support::Once) -> Vec<[String; 3]> {
    let report: Value = serde_json::from_str(&once.stdout).unwrap_or_else(|e| panic!("{e}: {}", once.stderr));
    let checks = report["checks"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap_or("both").to_owned();
    let wrong: Vec<[String; 3]> = checks
        .iter()
        .filter(|check| check["ok"] == false)
        .map(|check| {
            assert!(!text(&check["mend"]).is_empty(), "no remedy: {check}");
            ["side", "check", "found"].map(|key| text(&check[key]))
        })
        .collect();
    assert_eq!(report["ok"], wrong.is_empty());
    assert_eq!(once.code(), i32::from(!wrong.is_empty()));
    wrong
}

/// There is exactly one thing wrong, and this is it.
fn only(file: &str, side: &str, check: &str, found: &str) {
    let wrong = wrong(file);
    assert_eq!(wrong.len(), 1, "{wrong:?}");
    assert_eq!([&wrong[0][0], &wrong[0][1]], [side, check], "{wrong:?}");
    assert!(wrong[0][2].contains(found), "{wrong:?}");
}

#[test]
fn a_pair_that_is_well_is_told_so_and_left_as_it_is() {
    let mut pair = Pair::new();
    let file = configure(&pair, "", "");
    plant(pair.left.join("dir/a"), "text\n");
    let before = pair.sides().map(|side| snapshot(side, Depth::Contents));
    let report = once(&["doctor", &file]);
    assert_eq!(report.code(), 0, "{}{}", report.stdout, report.stderr);
    for line in ["ok     both   configuration: ", "ok     left   leases: ", "ok     right  watches: 1 directories, "] {
        assert!(report.stdout.contains(line), "no {line:?} in\n{}", report.stdout);
    }
    assert!(report.stdout.ends_with(" checks, 0 wrong\n") && !report.stdout.contains("WRONG"), "{}", report.stdout);
    assert!(pair.sides().iter().all(|side| !side.join(".psync").exists()), "it leaves nothing behind");
    // Beside a running pair, which notices nothing.
    pair.run();
    pair.settle();
    let actions = pair.actions_logged();
    assert_eq!(wrong(&file), [[""; 3]; 0]);
    pair.settle();
    assert_eq!(pair.actions_logged(), actions, "{}", pair.story());
    assert!(pair.sides().map(|side| snapshot(side, Depth::Contents))[0] == before[0]);
    pair.stop();
    for side in pair.sides() {
        let left: Vec<_> = std::fs::read_dir(side.join(".psync")).unwrap().flatten().map(|e| e.file_name()).collect();
        assert_eq!(left, [NAME], "only the pair's own directory");
    }
}

#[test]
fn what_is_wrong_on_this_host_is_named_one_by_one() {
    let pair = Pair::new();
    let file = configure(&pair, "debgu = 1\n", "");
    only(&file, "both", "configuration", ":1: unknown key `debgu`; did you mean `debug`?");
    only(pair.beside("none.toml").to_str().unwrap(), "both", "configuration", "cannot read");

    let file = configure(&pair, "", "");
    rename(&pair.right, pair.beside("away"));
    only(&file, "right", "root", "does not exist");
    write(&pair.right, "");
    only(&file, "right", "root", "is not a directory");
    remove(&pair.right);
    rename(pair.beside("away"), &pair.right);

    pair.sync();
    remove_tree(pair.left.join(".psync"));
    only(&file, "both", "archives", "the left side has none, and the other has one");
    remove_tree(pair.right.join(".psync"));

    let inside = pair.left.join("inside");
    mkdir(&inside);
    write(&file, format!("[left]\nroot = {:?}\n[right]\nroot = {inside:?}\n", pair.left));
    only(&file, "both", "roots", "the right root lies inside the left");
}

#[test]
fn a_file_system_that_lacks_something_is_told() {
    let pair = Pair::new();
    let file = configure(&pair, "", "");
    let Some(_mounted) = mount("ramfs", &[], "psync-e2e".as_ref(), &pair.right) else { return };
    let wrong = wrong(&file);
    let has = |check: &str| wrong.iter().any(|[side, what, _]| side == "right" && what == check);
    assert!(has("extended attributes") && has("ACLs"), "{wrong:?}");
    assert!(wrong.iter().all(|[side, ..]| side == "right"), "{wrong:?}");
    assert!(!pair.right.join(".psync").exists());
}

#[test]
fn a_root_that_cannot_be_written_is_told() {
    let pair = Pair::new();
    let file = configure(&pair, "", "");
    let Some(_mounted) = mount("tmpfs", &["-o", "ro"], "psync-e2e".as_ref(), &pair.right) else { return };
    let wrong = wrong(&file);
    assert!(wrong.iter().any(|[side, check, _]| side == "right" && check == "root"), "{wrong:?}");
}

#[test]
fn too_few_watches_and_instances_are_told() {
    if !tools::has("unshare") {
        return;
    }
    let pair = Pair::new();
    let file = configure(&pair, "", "");
    for n in 0..20 {
        mkdir(pair.left.join(n.to_string()));
    }
    let limited = |name: &str, limit: u32| {
        let script = format!("echo {limit} > /proc/sys/user/{name} && exec {PSYNC} doctor {file} --json");
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "sh", "-c", &script]);
        run_to_end(command)
    };
    let few = limited("max_inotify_watches", 10);
    if few.stdout.is_empty() {
        return tools::missing(&format!("a user namespace ({})", few.stderr.trim()));
    }
    let few = wrong_in(few);
    assert!(
        few.iter().any(|[side, check, found]| {
            (side.as_str(), check.as_str()) == ("left", "watches")
                && found == "21 directories, 10 watches allowed (user.max_inotify_watches)"
        }),
        "{few:?}"
    );
    let none = wrong_in(limited("max_inotify_instances", 0));
    assert!(none.iter().any(|[_, check, _]| check == "inotify"), "{none:?}");
}

#[test]
fn rsync_is_looked_for_where_contents_go_through_it() {
    if !tools::has("rsync") {
        return;
    }
    let pair = Pair::new();
    let file = configure(&pair, "", "");
    assert!(!once(&["doctor", &file]).stdout.contains("rsync:"), "nobody needs it");
    let file = configure(&pair, "transfer = 'rsync'\n", "");
    let report = once(&["doctor", &file]);
    assert_eq!(report.code(), 0, "{}", report.stdout);
    for side in ["left ", "right"] {
        assert!(report.stdout.contains(&format!("ok     {side}  rsync: rsync version ")), "{}", report.stdout);
    }
    let mut command = Command::new(PSYNC);
    command.args(["doctor", &file, "--json"]).env("PATH", pair.beside("nothing"));
    let wrong = wrong_in(run_to_end(command));
    assert_eq!(wrong, ["left", "right"].map(|side| [side, "rsync", "is not installed"].map(str::to_owned)));
}

/// A pair whose right side is an agent behind this command.
fn behind(pair: &Pair, command: &str) -> String {
    configure(pair, "", &format!("host = \"files2\"\nproxy_command = {command:?}\n"))
}

#[test]
fn an_agent_is_examined_over_its_socket_and_missed_if_it_is_not_there() {
    let pair = Pair::new();
    let mut service = Service::start(&pair, "");
    let file = behind(&pair, &Service::connect(&service.run));
    let report = once(&["doctor", &file]);
    assert_eq!(report.code(), 0, "{}{}", report.stdout, report.stderr);
    for line in ["ok     right  link: an agent answers\n", "ok     both   clocks: agree\n", "ok     right  leases: "] {
        assert!(report.stdout.contains(line), "no {line:?} in\n{}", report.stdout);
    }
    assert_eq!(service.logged("link up"), 0, "this is no session:\n{}", service.log());
    // Another file there than here.
    service.stop();
    let file = configure(
        &pair,
        "excludes = 'x'\n",
        &format!("host = \"h\"\nproxy_command = {:?}\n", Service::connect(&service.run)),
    );
    service.again();
    only(&file, "both", "filters", "differ");
    // The agent's root is gone.
    rename(&pair.right, pair.beside("away"));
    let file = behind(&pair, &Service::connect(&service.run));
    only(&file, "right", "link", "No such file or directory");
    rename(pair.beside("away"), &pair.right);
    service.stop();
    let nowhere = Service::connect(Path::new("/nonexistent"));
    only(&behind(&pair, &nowhere), "right", "link", "/nonexistent/agent-e2e.sock");
    only(&behind(&pair, "exec false"), "right", "link", "");
}

#[test]
fn what_ssh_cannot_do_is_told_with_its_remedy() {
    if !sshd::possible() {
        return;
    }
    let pair = Pair::new();
    let mut service = Service::start(&pair, "");
    let programs = Path::new(AGENT).parent().unwrap().display().to_string();
    let environment =
        [("PATH", format!("{programs}:/usr/bin:/bin")), ("RUNTIME_DIRECTORY", service.run.display().to_string())];
    let environment: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut sshd = Sshd::start(pair.beside("sshd"), &environment);
    sshd.allow(&format!("restrict,command=\"{AGENT} connect {NAME}\""));
    let with = |sshd: &Sshd, key: &str, known: &str| {
        let options = format!("ssh_options = {:?}\n", sshd.options(key, known));
        configure(&pair, &options, &format!("host = \"127.0.0.1\"\nuser = {:?}\nport = {}\n", sshd::user(), sshd.port))
    };
    assert_eq!(wrong(&with(&sshd, "good", "known_hosts")), [[""; 3]; 0]);
    only(&with(&sshd, "stranger", "known_hosts"), "right", "link", "the host lets nobody in with these keys");
    only(&with(&sshd, "good", "nobody_known"), "right", "link", "the host's key is not known here");
    sshd.allow(&format!("restrict,command=\"{AGENT} connect other\""));
    only(&with(&sshd, "good", "known_hosts"), "right", "link", "this key is for the pair other, not for e2e");
    sshd.allow("restrict,command=\"echo hello\"");
    only(&with(&sshd, "good", "known_hosts"), "right", "link", "psync-agent");
    sshd.stop();
    only(&with(&sshd, "good", "known_hosts"), "right", "link", "nobody listens there");
    service.stop();
}

#[test]
fn another_users_pair_is_told() {
    if !process::is_root() || !tools::has("setpriv") {
        return;
    }
    let pair = Pair::new();
    let file = configure(&pair, "", "");
    pair.sync();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", PSYNC, "doctor", &file, "--json"]);
    for path in [pair.left.parent().unwrap(), &pair.left, &pair.right] {
        chmod(path, 0o755);
    }
    let wrong = wrong_in(run_to_end(command));
    for side in ["left", "right"] {
        assert!(wrong.iter().any(|[s, check, _]| s == side && (check == ".psync" || check == "root")), "{wrong:?}");
    }
}
