//! Shows that the simulator finds deliberate faults: each of `tests/sabotage/*.txt` breaks one thing that psync relies on,
//! and the simulator must notice within the histories that it plays every day.
//!
//! The sources hold no switches for this. They are copied, the copy gets all the faults, each behind the question
//! `crate::sabotaged(NAME)`, and one build of the copy serves them all: `PSYNC_SABOTAGE` names the fault in force.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// What the simulator plays by default: a fault must show within these.
const BUDGET: u64 = 40_000;
/// What the simulator plays: a fault must show in one of them.
const TESTS: [&str; 4] = [
    "random_histories",
    "what_both_sides_move_is_there_once",
    "a_directory_has_the_time_that_its_users_gave_it",
    "what_is_made_where_two_change_places_is_neither_of_them",
];
/// It plays these as well: histories that failed once. All of them are one part.
const FOUND: &str = "histories_that_failed_once";
/// Histories that the copy must pass when no fault is in force.
const CLEAN: u64 = 1_000;

/// Appended to the copy's lib.rs.
const SWITCH: &str = r#"
pub fn sabotaged(name: &str) -> bool {
    static ACTIVE: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    ACTIVE.get_or_init(|| std::env::var("PSYNC_SABOTAGE").ok()).as_deref() == Some(name)
}
"#;

/// One deliberate fault.
struct Sabotage {
    name: String,
    /// The test that shows it, if that is not the first of them: all of that is played before the rest of the others.
    shown_by: Option<String>,
    replacements: Vec<Replacement>,
}

/// A text that stands once in a file, and what takes its place.
#[derive(Debug, PartialEq)]
struct Replacement {
    file: String,
    old: String,
    new: String,
}

impl Sabotage {
    /// Lines beginning with `#` say what it breaks, `!` names the test that shows it, `@` a file below the root, `-` lines are
    /// the old text and `+` lines the new one. The sign and the space after it do not count; all other white space does.
    fn parse(name: &str, text: &str) -> Sabotage {
        let mut replacements: Vec<Replacement> = Vec::new();
        let mut shown_by = None;
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
            let (sign, rest) = line.split_at(1);
            let rest = rest.strip_prefix(' ').unwrap_or(rest);
            if sign == "!" {
                assert!(TESTS.contains(&rest), "{}: there is no test {rest}", mend(name));
                shown_by = Some(rest.to_owned());
                continue;
            }
            if sign == "@" {
                replacements.push(Replacement { file: rest.to_owned(), old: String::new(), new: String::new() });
                continue;
            }
            let last = replacements.last_mut().unwrap_or_else(|| panic!("{}: no file before {line:?}", mend(name)));
            let part = match sign {
                "-" => &mut last.old,
                "+" => &mut last.new,
                _ => panic!("{}: neither file, old nor new: {line:?}", mend(name)),
            };
            if !part.is_empty() {
                part.push('\n');
            }
            part.push_str(rest);
        }
        assert!(!replacements.is_empty(), "{}: it replaces nothing", mend(name));
        let question = format!("sabotaged(\"{name}\")");
        assert!(text.contains(&question), "{}: nothing asks {question}", mend(name));
        Sabotage { name: name.to_owned(), shown_by, replacements }
    }
}

fn mend(name: &str) -> String {
    format!("mend tests/sabotage/{name}.txt")
}

fn sabotages() -> Vec<Sabotage> {
    let mut files: Vec<PathBuf> = fs::read_dir(root().join("tests/sabotage"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "txt"))
        .collect();
    files.sort();
    let name = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
    files.iter().map(|path| Sabotage::parse(&name(path), &fs::read_to_string(path).unwrap())).collect()
}

/// The file with all replacements that concern it; each old text must stand in it exactly once.
fn sabotaged(file: &str, text: &str, sabotages: &[Sabotage]) -> Result<String, String> {
    let mut found: BTreeMap<usize, (&str, &Replacement)> = BTreeMap::new();
    for sabotage in sabotages {
        for replacement in sabotage.replacements.iter().filter(|r| r.file == file) {
            let places: Vec<usize> = text.match_indices(&replacement.old).map(|(at, _)| at).collect();
            let [at] = places[..] else {
                let (mend, old) = (mend(&sabotage.name), &replacement.old);
                return Err(format!("{mend}: its text stands {} times in {file}, not once:\n{old}", places.len()));
            };
            if let Some((other, _)) = found.insert(at, (&sabotage.name, replacement)) {
                return Err(format!("{}: {other} replaces the same text in {file}", mend(&sabotage.name)));
            }
        }
    }
    let (mut out, mut done) = (String::new(), 0);
    for (at, (name, replacement)) in found {
        if at < done {
            return Err(format!("{}: its text overlaps another's in {file}", mend(name)));
        }
        out += &text[done..at];
        out += &replacement.new;
        done = at + replacement.old.len();
    }
    Ok(out + &text[done..])
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The manifest without what the simulator does not need: binaries, benches and the other tests' crates.
fn manifest() -> String {
    let text = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let mut all: toml::Table = text.parse().unwrap();
    for key in ["bin", "bench", "dev-dependencies", "lints", "profile"] {
        all.remove(key);
    }
    let package = all["package"].as_table_mut().unwrap();
    package.remove("default-run");
    // SQLite is not even called: what counts is that it is built fast.
    let lean = "[release]\nopt-level = 1\ndebug = false\n[release.package.libsqlite3-sys]\nopt-level = 0\n";
    let lean: toml::Table = lean.parse().unwrap();
    all.insert("profile".to_owned(), lean.into());
    all.insert("workspace".to_owned(), toml::Table::new().into());
    all.to_string()
}

/// Writes the copy; a file that is already as it should be keeps its time, so that little is built anew.
fn write_copy(copy: &Path, sabotages: &[Sabotage]) {
    let mut files = BTreeMap::new();
    files.insert("Cargo.toml".to_owned(), manifest());
    files.insert("Cargo.lock".to_owned(), fs::read_to_string(root().join("Cargo.lock")).unwrap());
    for top in ["src", "tests/simulator"] {
        for file in files_below(root(), top) {
            if !file.starts_with("src/bin/") {
                let text = fs::read_to_string(root().join(&file)).unwrap();
                files.insert(file, text);
            }
        }
    }
    for (file, text) in &mut files {
        *text = sabotaged(file, text, sabotages).unwrap_or_else(|error| panic!("{error}"));
    }
    for sabotage in sabotages {
        for Replacement { file, .. } in &sabotage.replacements {
            assert!(files.contains_key(file), "{}: there is no {file}", mend(&sabotage.name));
        }
    }
    *files.get_mut("src/lib.rs").unwrap() += SWITCH;
    for old in ["src", "tests"].iter().flat_map(|top| files_below(copy, top)) {
        if !files.contains_key(&old) {
            fs::remove_file(copy.join(old)).unwrap();
        }
    }
    // Cargo keeps its own lock file here, shortened to what the copy needs.
    let lock = files.remove("Cargo.lock").unwrap();
    let kept = copy.join("Cargo.lock.of");
    if fs::read_to_string(&kept).ok().as_ref() != Some(&lock) {
        fs::create_dir_all(copy).unwrap();
        fs::write(copy.join("Cargo.lock"), &lock).unwrap();
        fs::write(&kept, &lock).unwrap();
    }
    for (file, text) in files {
        let path = copy.join(file);
        if fs::read_to_string(&path).ok().as_ref() != Some(&text) {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }
}

/// All files below `top`, their paths from `base` on.
fn files_below(base: &Path, top: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(base.join(top)).into_iter().flatten().flatten() {
        let path = format!("{top}/{}", entry.file_name().to_str().unwrap());
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(files_below(base, &path)),
            false => found.push(path),
        }
    }
    found
}

/// Builds the copy's simulator and says where it is.
fn build(copy: &Path, target: &Path) -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // A target directory of its own: the outer cargo may hold the lock of the other.
    let built = Command::new(cargo)
        .args(["test", "--release", "--offline", "--test", "simulator", "--no-run", "--message-format=json"])
        .args(["--manifest-path".as_ref(), copy.join("Cargo.toml").as_os_str()])
        .args(["--target-dir".as_ref(), target.as_os_str()])
        .env_remove("RUSTFLAGS")
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let messages = String::from_utf8_lossy(&built.stdout);
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let (mut program, mut errors) = (None, String::new());
    for message in messages {
        if message["message"]["level"] == "error" {
            errors += message["message"]["rendered"].as_str().unwrap_or_default();
        }
        if message["target"]["name"] == "simulator" {
            program = message["executable"].as_str().map(PathBuf::from).or(program);
        }
    }
    assert!(
        built.status.success(),
        "the copy does not compile; mend the file of tests/sabotage that says so:\n{errors}"
    );
    program.expect("cargo says where the simulator is")
}

/// The first history that failed, and why.
#[derive(Debug)]
struct Failure {
    seed: u64,
    words: String,
}

/// Plays histories up to the first that fails.
fn simulate(program: &Path, test: &str, fault: Option<&str>, from: u64, count: u64) -> Option<Failure> {
    let mut command = Command::new(program);
    command.args([test, "--exact", "--nocapture"]);
    command.env("PSYNC_SIM_FROM", from.to_string()).env("PSYNC_SIM_HISTORIES", count.to_string());
    command.env("PSYNC_SIM_FIRST", "1").env("PSYNC_SIM_SHRINK", "0");
    for other in ["PSYNC_SIM_SEED", "PSYNC_SIM_SECONDS", "PSYNC_SIM_IGNORE", "PSYNC_SABOTAGE"] {
        command.env_remove(other);
    }
    command.envs(fault.map(|name| ("PSYNC_SABOTAGE", name)));
    let played = command.output().unwrap();
    let told = String::from_utf8_lossy(&played.stdout);
    let failure = told.lines().find_map(|line| {
        let (seed, words) = line.strip_prefix("seed ")?.split_once(' ')?;
        Some(Failure { seed: seed.parse().ok()?, words: words.to_owned() })
    });
    assert_eq!(failure.is_none(), played.status.success(), "{}\n{told}", String::from_utf8_lossy(&played.stderr));
    failure
}

/// The first of these histories that fails with the fault and not without it.
fn find(program: &Path, test: &str, fault: &str, histories: Range<u64>) -> Option<Failure> {
    let Range { start: mut from, end } = histories;
    while from < end {
        let failure = simulate(program, test, Some(fault), from, end - from)?;
        if failure.seed < CLEAN || simulate(program, test, None, failure.seed, 1).is_none() {
            return Some(failure);
        }
        from = failure.seed + 1;
    }
    None
}

#[test]
fn every_sabotage_is_found_by_the_simulator() {
    let sabotages = sabotages();
    assert!(sabotages.len() >= 10);
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("sabotage");
    let copy = target.join("psync");
    let begun = Instant::now();
    write_copy(&copy, &sabotages);
    let program = build(&copy, &target);
    println!("built in {:.0?}", begun.elapsed());
    for test in TESTS.into_iter().chain([FOUND]) {
        if let Some(failure) = simulate(&program, test, None, 0, CLEAN) {
            panic!("the simulator fails without any sabotage (mend that first): {failure:?}");
        }
    }
    println!("without: {CLEAN} histories pass, {:.0?}", begun.elapsed());
    let (mut table, mut missed) = (String::new(), Vec::new());
    for Sabotage { name, shown_by, .. } in &sabotages {
        let since = Instant::now();
        let mut tests = TESTS;
        tests.sort_by_key(|test| shown_by.as_deref() != Some(*test));
        // Most show soon, in one test or the other: all of one is played only if the beginning of neither shows it.
        let random = |part: Range<u64>| tests.map(|test| (test, part.clone()));
        let mut parts = random(0..CLEAN).into_iter().chain([(FOUND, 0..1)]).chain(random(CLEAN..BUDGET));
        let found = parts.find_map(|(test, part)| Some((test, find(&program, test, name, part)?)));
        let line = match &found {
            Some((FOUND, Failure { seed, words })) => format!("found in the history {seed}: {words}"),
            Some((_, Failure { seed, words })) => format!("found after {} histories: {words}", seed + 1),
            None => format!("not found in {BUDGET} histories"),
        };
        writeln!(table, "{name}: {line} ({:.1?})", since.elapsed()).unwrap();
        missed.extend(found.is_none().then_some(name));
    }
    println!("{table}{:.0?} in all", begun.elapsed());
    assert!(missed.is_empty(), "the simulator does not notice {missed:?}\n{table}");
}

#[test]
fn a_sabotage_that_fits_no_more_is_named() {
    let text = "# why\n@ src/a.rs\n- old()\n+ if crate::sabotaged(\"x\") {\n+     old()\n+ }\n";
    let sabotages = [Sabotage::parse("x", text)];
    let new = "if crate::sabotaged(\"x\") {\n    old()\n}".to_owned();
    let wanted = Replacement { file: "src/a.rs".to_owned(), old: "old()".to_owned(), new: new.clone() };
    assert_eq!(sabotages[0].replacements, [wanted]);
    assert_eq!(sabotaged("src/a.rs", "a old() b", &sabotages).unwrap(), format!("a {new} b"));
    assert_eq!(sabotaged("src/b.rs", "a old() b", &sabotages).unwrap(), "a old() b");
    for text in ["nothing", "old() old()"] {
        let error = sabotaged("src/a.rs", text, &sabotages).unwrap_err();
        assert!(error.starts_with("mend tests/sabotage/x.txt: "), "{error}");
    }
}
