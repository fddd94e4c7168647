//! The house has one direction of imports (docs/design.md), and a few things that only some rooms may hold.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The modules from the top of the house to its ground. A module may use what lies below its own floor.
const FLOORS: &[&[&str]] = &[
    &["cli"],
    &["brain"],
    &["endpoint", "engine", "service"],
    &["replica", "transfer", "link", "watch"],
    &["filter", "config", "protocol", "model", "pulse", "sys"],
];

/// What a module may use beside what lies below it: (user, used). Each with its reason.
const ALLOWED: &[(&str, &str)] = &[
    // Everything speaks in the nouns, on its own floor too.
    ("filter", "model"),
    ("config", "model"),
    ("config", "filter"),
    ("protocol", "model"),
    // One side's contents come from its replica; events end in the replica that examines them.
    ("transfer", "replica"),
    ("watch", "replica"),
];

/// All that the engine may know: it decides, and others do.
const ENGINE: &[&str] = &["model", "protocol", "filter", "config"];

/// Pure: no file, no clock, no crate that does I/O.
const PURE: &[&str] = &["model", "protocol", "engine", "watch/coalesce.rs"];
const IMPURE: &[&str] = &[
    "std::fs",
    "std::net",
    "std::process",
    "std::thread",
    "std::os",
    "Instant",
    "SystemTime",
    "rustix::",
    "nix::",
    "libc::",
    "rusqlite::",
    "inotify::",
    "signal_hook::",
    "sd_notify::",
    "listenfd::",
    "println!",
    "eprintln!",
];

/// Lines of code, tests left out: about 300, rarely over 600.
const LONG: usize = 700;

struct Source {
    /// Below src/, as `engine/plan.rs`.
    path: String,
    /// The lines without comments and without the tests at the end.
    code: Vec<String>,
    lines: usize,
}

impl Source {
    /// The module at the top: `engine`.
    fn module(&self) -> &str {
        self.path.split('/').next().unwrap().trim_end_matches(".rs")
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut todo = vec![root.clone()];
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(directory).unwrap().flatten() {
            let path: PathBuf = entry.path();
            if path.is_dir() {
                todo.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let below = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                if below.ends_with("/tests.rs") || below.contains("/tests/") {
                    continue;
                }
                let text = fs::read_to_string(&path).unwrap();
                let code = code(&text);
                found.push(Source { path: below, lines: text.lines().count(), code });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(found.len() > 10);
    found
}

/// Drops comments, and everything from `#[cfg(test)]` before a `mod` with a body on.
fn code(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let tests = (0..lines.len()).find(|n| {
        lines[*n].trim() == "#[cfg(test)]"
            && lines.get(n + 1).is_some_and(|l| l.contains("mod ") && l.trim_end().ends_with('{'))
    });
    let code = &lines[..tests.unwrap_or(lines.len())];
    code.iter().map(|line| line.split("//").next().unwrap().to_owned()).collect()
}

/// The paths behind every `crate::`, the braces of a `use` resolved as far as the second name.
fn uses(code: &[String]) -> BTreeSet<String> {
    let text = code.join("\n");
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices("crate::") {
        let before = text[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = &text[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(group) => found.extend(members(group)),
            None => drop(found.insert(first_two(rest))),
        }
    }
    found
}

/// `a::b::c` → `a::b`.
fn first_two(path: &str) -> String {
    let end = path.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':').unwrap_or(path.len());
    path[..end].split("::").filter(|part| !part.is_empty()).take(2).collect::<Vec<_>>().join("::")
}

/// The members of a group of imports, up to its closing brace.
fn members(group: &str) -> Vec<String> {
    let (mut depth, mut start, mut found) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                let member = first_two(group[start..at].trim());
                if !member.is_empty() {
                    found.push(member);
                }
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    found
}

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

/// Whether files of a module may use this path.
fn may_use(user: &str, used: &str) -> bool {
    let module = used.split("::").next().unwrap();
    if user == module || user == "lib" {
        return true;
    }
    if user == "engine" {
        return ENGINE.iter().any(|allowed| used == *allowed || module == *allowed);
    }
    if ALLOWED.iter().any(|(a, b)| *a == user && (*b == module || used.starts_with(b))) {
        return true;
    }
    match (floor(user), floor(module)) {
        (Some(user), Some(module)) => user < module,
        // Not a module but an item at the top, or a binary, which stands above all.
        (_, None) | (None, _) => true,
    }
}

#[test]
fn imports_point_one_way() {
    let mut wrong = Vec::new();
    for source in sources() {
        if source.path.starts_with("bin/") {
            continue;
        }
        let module = source.module();
        assert!(floor(module).is_some() || module == "lib", "{}: on which floor is {module}?", source.path);
        let used = uses(&source.code).into_iter().filter(|used| !may_use(module, used));
        wrong.extend(used.map(|used| format!("{} uses crate::{used}", source.path)));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_model_stands_alone() {
    for source in sources().iter().filter(|s| s.module() == "model") {
        let strange: Vec<_> = uses(&source.code).into_iter().filter(|used| !used.starts_with("model")).collect();
        assert!(strange.is_empty(), "{} uses {strange:?}", source.path);
    }
}

#[test]
fn what_is_pure_touches_neither_files_nor_the_clock() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|s| PURE.iter().any(|p| s.path.starts_with(p))) {
        for line in &source.code {
            wrong.extend(IMPURE.iter().filter(|word| mentions(line, word)).map(|_| format!("{}: {line}", source.path)));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Whether the word stands in the line and is not the end of a longer one.
fn mentions(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        !part(before) && (word.ends_with(':') || word.ends_with('!') || !part(after))
    })
}

/// Which other files of `cli` each of its files uses, its own parts among itself.
fn cli() -> BTreeMap<String, BTreeSet<String>> {
    let sources = sources();
    let within: Vec<(Vec<&str>, &Source)> = sources
        .iter()
        .filter_map(|s| Some((s.path.strip_prefix("cli/")?.trim_end_matches(".rs").split('/').collect(), s)))
        .filter(|(path, _): &(Vec<&str>, _)| path != &["mod"])
        .collect();
    let names: BTreeSet<&str> = within.iter().map(|(path, _)| path[0]).collect();
    let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (path, source) in &within {
        // From a part of a file, cli is as many steps up as it lies deep.
        let up = "super::".repeat(path.len());
        let text = source.code.join("\n");
        let used = text.match_indices(&up).filter(|(at, _)| !text[..*at].ends_with("super::"));
        let used = used.flat_map(|(at, _)| match text[at + up.len()..].strip_prefix('{') {
            Some(group) => members(group),
            None => vec![first_two(&text[at + up.len()..])],
        });
        let used = used.map(|used| used.split("::").next().unwrap().to_owned());
        let used = used.filter(|used| names.contains(used.as_str()) && used != path[0]);
        graph.entry(path[0].to_owned()).or_default().extend(used);
    }
    graph
}

#[test]
fn the_commands_import_each_other_in_no_circle() {
    let mut graph = cli();
    assert!(graph["commands"].contains("status") && graph["agent"].contains("options"), "nothing was read: {graph:?}");
    // Again and again what uses nothing more that is left; in the end circles are left, and what leads into one.
    while let Some(free) = graph.iter().find(|(_, used)| used.is_empty()).map(|(file, _)| file.clone()) {
        graph.remove(&free);
        graph.values_mut().for_each(|used| _ = used.remove(&free));
    }
    assert!(graph.is_empty(), "in circles, or above one: {graph:#?}");
}

#[test]
fn unsafe_lies_in_sys_alone_and_says_why() {
    for source in sources() {
        let path = &source.path;
        // An option of rsync's has the word in its name.
        let holds = source.code.iter().any(|l| mentions(&l.replace("-unsafe-", ""), "unsafe"));
        assert!(!holds || path.starts_with("sys/") || path == "sys.rs", "{path} holds unsafe code");
        if !holds {
            continue;
        }
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(path)).unwrap();
        let blocks = source.code.iter().filter(|l| l.contains("unsafe {")).count();
        let reasons = text.matches("SAFETY").count();
        assert!(reasons >= blocks, "{path}: {blocks} unsafe blocks, {reasons} reasons");
    }
}

#[test]
fn no_file_is_long() {
    let long: Vec<_> = sources().iter().filter(|s| s.code.len() > LONG).map(|s| (s.path.clone(), s.lines)).collect();
    assert!(long.is_empty(), "over {LONG} lines without their tests: {long:?}");
}

#[test]
fn the_reader_of_imports_reads() {
    let code = [
        "use crate::model::{RelPath, Entry};",
        "use crate::{config::Settings, filter, watch::{Event, coalesce::Dirty}};",
        "let x = crate::protocol::Reply::Stopped;",
        "use other_crate::thing;",
    ];
    let found = uses(&code.map(String::from));
    let wanted = ["config::Settings", "filter", "model", "protocol::Reply", "watch"];
    assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), wanted);
    assert!(!may_use("model", "engine::plan") && !may_use("link", "endpoint::local") && !may_use("engine", "replica"));
    assert!(
        may_use("link", "protocol::Reply")
            && !may_use("model", "protocol")
            && may_use("brain", "engine")
            && may_use("replica", "model")
    );
    assert!(mentions("use std::time::Instant;", "Instant") && !mentions("Instantly", "Instant"));
}
