//! What was propagated, as `psync events` and `psync conflicts` tell it.

use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use crate::support::users::*;
use crate::support::{NAME, Once, PATIENCE, PSYNC, Pair, poll, run_to_end};

/// The pair's file, which these commands need.
fn file(pair: &Pair, lines: &str) -> String {
    let file = pair.beside(&format!("{NAME}.toml"));
    let [left, right] = [&pair.left, &pair.right].map(|root| root.display());
    write(&file, format!("{lines}[left]\nroot = \"{left}\"\n[right]\nroot = \"{right}\"\n"));
    file.to_str().unwrap().to_owned()
}

fn psync(arguments: &[&str]) -> Once {
    let mut command = Command::new(PSYNC);
    command.args(arguments);
    run_to_end(command)
}

#[test]
fn what_was_propagated_is_listed_and_followed() {
    let mut pair = Pair::start(&[]);
    let of = file(&pair, "separator = \"|\"\n");
    let none = psync(&["events", &of]);
    assert_eq!((none.code(), none.stdout.as_str()), (0, ""), "{}", none.stderr);
    let mut follower =
        Command::new(PSYNC).args(["events", "-f", "--json", &of]).stdout(Stdio::piped()).spawn().unwrap();

    write(pair.left.join("one"), "one\n");
    assert!(poll(PATIENCE, || pair.right.join("one").exists()), "{}", pair.story());
    // Recorded on both sides: else it is a new object under another name.
    assert!(poll(PATIENCE, || psync(&["events", &of]).stdout.contains("|one")), "{}", pair.story());
    rename(pair.right.join("one"), pair.right.join("two"));
    assert!(poll(PATIENCE, || pair.left.join("two").exists()), "{}", pair.story());
    assert!(poll(PATIENCE, || psync(&["events", &of]).stdout.contains("|MOVE|")), "{}", pair.story());
    remove(pair.left.join("two"));
    assert!(poll(PATIENCE, || !pair.right.join("two").exists()), "{}", pair.story());

    let fields = |line: &str| line.split('|').map(str::to_owned).collect::<Vec<_>>();
    let lines = || psync(&["events", &of]).stdout.lines().map(fields).collect::<Vec<_>>();
    assert!(poll(PATIENCE, || lines().iter().any(|l| l[2] == "DELETE")), "{:?}{}", lines(), pair.story());
    let lines = lines();
    let find = |method: &str| lines.iter().find(|l| l[2] == method).unwrap_or_else(|| panic!("{method}: {lines:?}"));
    let put = find("RSYNC");
    assert_eq!((put[1].as_str(), put[4].as_str(), put.len()), ("L", "one", 5), "{put:?}");
    assert!(put[0].len() == 20 && put[3].len() == 5, "{put:?}");
    let moved = find("MOVE");
    assert_eq!((moved[1].as_str(), moved[4].as_str(), moved[5].as_str()), ("R", "two", "one"), "{moved:?}");
    assert_eq!(find("DELETE")[1], "L");
    pair.stop();

    // Whoever follows has seen the same.
    let pid = follower.id() as i32;
    let (mut out, heard) = (follower.stdout.take().unwrap(), Arc::new(Mutex::new(Vec::new())));
    let hears = heard.clone();
    let read = std::thread::spawn(move || {
        let mut piece = [0; 4096];
        while let Ok(count @ 1..) = out.read(&mut piece) {
            hears.lock().unwrap().extend_from_slice(&piece[..count]);
        }
    });
    let text = || String::from_utf8(heard.lock().unwrap().clone()).unwrap();
    let seen = || text().lines().filter(|l| serde_json::from_str::<serde_json::Value>(l).is_ok()).count();
    assert!(poll(PATIENCE, || seen() >= lines.len()), "{}", text());
    crate::support::process::send(pid, nix::sys::signal::Signal::SIGTERM);
    follower.wait().unwrap();
    read.join().unwrap();
    assert_eq!(seen(), lines.len(), "{}", text());
}

#[test]
fn conflicts_and_double_edits_are_listed() {
    let mut pair = Pair::start(&[]);
    let of = file(&pair, "");
    write(pair.left.join("turns"), "left\n");
    pair.settle();
    let none = psync(&["conflicts", &of]);
    assert_eq!((none.code(), none.stdout.as_str()), (0, ""), "{}", none.stderr);
    write(pair.right.join("turns"), "and then the right\n");
    assert!(poll(PATIENCE, || read(pair.left.join("turns")).contains("right")), "{}", pair.story());
    let listed = || psync(&["conflicts", &of]);
    assert!(poll(PATIENCE, || listed().code() == 1), "{}{}", listed().stdout, pair.story());
    let double = listed();
    assert_eq!(double.stdout.lines().count(), 1, "{}", double.stdout);
    assert!(double.stdout.contains(":R:DOUBLE:") && double.stdout.contains(":turns:"), "{}", double.stdout);

    pair.stop();
    write(pair.left.join("both"), "left, and longer\n");
    write(pair.right.join("both"), "right\n");
    pair.run();
    let met = || psync(&["conflicts", "--gap", "0", "--json", &of]);
    let has = |once: &Once| once.stdout.contains("\"CONFLICT\"") && once.stdout.contains("\"both\"");
    assert!(poll(PATIENCE, || has(&met())), "{}{}", met().stdout, pair.story());
    assert_eq!(met().code(), 1);
    pair.stop();
}

/// The names under which the log says that something is kept.
fn names_told(pair: &Pair) -> Vec<String> {
    let log = std::fs::read_to_string(&pair.log).unwrap_or_default();
    let told = log.lines().filter_map(|line| line.split_once("kept as "));
    told.filter_map(|(_, name)| name.split_inclusive(".txt").next()).map(str::to_owned).collect()
}

#[test]
fn a_conflict_is_told_by_the_name_that_its_copy_has() {
    let mut pair = Pair::start(&[]);
    let of = file(&pair, "");
    // The name that the copy would have is another file's.
    let taken = "plan (conflict left 2020-01-02 03.04.05).txt";
    write(pair.left.join(taken), "somebody else's\n");
    write(pair.left.join("plan.txt"), "base\n");
    pair.settle();
    pair.stop();
    write(pair.left.join("plan.txt"), "left, older\n");
    touch(pair.left.join("plan.txt"), 1_577_934_245, 0);
    write(pair.right.join("plan.txt"), "right, newer\n");
    touch(pair.right.join("plan.txt"), 1_577_934_246, 0);

    // What is only planned names nothing that is not there.
    let before = names_told(&pair).len();
    let planned = pair.sync_with(&["-n"]);
    assert!(planned.stderr.contains("dry run: "), "{}", planned.stderr);
    let told = names_told(&pair).split_off(before);
    assert_eq!(told, [""; 0], "a dry run keeps nothing{}", pair.story());
    assert!(!planned.stderr.contains("kept as"), "{}", planned.stderr);

    pair.run();
    let tree = pair.settle();
    pair.stop();
    assert_eq!(read(pair.left.join(taken)), "somebody else's\n");
    let is_copy = |path: &String| path.starts_with("plan (conflict left 2020-01-02 03.04.05 ");
    let copies: Vec<_> = tree.paths().into_iter().filter(is_copy).collect();
    let [copy] = &copies[..] else { panic!("{:?}", tree.paths()) };
    assert_eq!(read(pair.left.join(copy)), "left, older\n");

    let log = std::fs::read_to_string(&pair.log).unwrap();
    let lost = log.lines().filter(|line| line.contains("plan.txt: the left version lost and is kept as"));
    assert_eq!(lost.count(), 1, "{}", pair.story());
    let told = names_told(&pair);
    assert!(!told.is_empty() && told.iter().all(|name| name == copy), "{told:?}{}", pair.story());
    let met = psync(&["conflicts", "--gap", "0", "--json", &of]);
    let met: Vec<serde_json::Value> = met.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(met.len() == 1 && met[0]["copy"] == copy.as_str() && met[0]["side"] == "L", "{met:?}");
}
