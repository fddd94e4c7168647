//! Other pairs on this host. Two trees that overlap would carry each other's changes in a circle, so a root lies in no other
//! pair's root, unless that pair excludes it. One root may be the left one of several pairs (a hub): then each has its own right side.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::given;
use super::mounts::{Location, locate};
use super::options::{self, AdHoc, Agent, Brain, Parsed, Serve};
use super::pair::PairFile;
use super::{UsageError, roots};
use crate::config::{self, CONFIGURATION, Settings, SharedSettings};
use crate::filter::{Filter, Filters};
use crate::model::RelPath;

/// What one pair does with one directory of this host.
#[derive(Debug, Clone)]
pub struct Tree {
    pub pair: String,
    /// Canonical, or what it will be once it is made.
    pub root: PathBuf,
    pub filters: Filters,
    /// Left root, how the right side is reached, right root; `None`: not known, as of an agent that a brain started.
    pub whole: Option<Whole>,
}

type Whole = (PathBuf, String, PathBuf);

/// Which of the configured pairs count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// All that have a file: for whoever sets up a pair, or looks for faults.
    Configured,
    /// Those that have worked on that root, which lies on the other host else.
    Used,
}

/// Both local trees of a pair, or its left one.
pub fn of_pair(pair: &str, settings: &Settings) -> Vec<Tree> {
    let mut trees = vec![tree(pair, settings, &settings.left.root)];
    if settings.is_local() {
        trees.push(tree(pair, settings, &settings.right.root));
    }
    trees
}

/// One tree of a pair.
pub fn tree(pair: &str, settings: &Settings, root: &Path) -> Tree {
    let reached = match (&settings.right.proxy_command, &settings.right.host) {
        (Some(command), _) => command.clone(),
        (None, Some(host)) => host.clone(),
        (None, None) => String::new(),
    };
    Tree {
        pair: pair.to_owned(),
        root: canonical(root),
        filters: settings.shared.filters.clone(),
        whole: Some((canonical(&settings.left.root), reached, settings.right.root.clone())),
    }
}

/// The path without links, as far as it exists.
fn canonical(path: &Path) -> PathBuf {
    for existing in path.ancestors() {
        if let (Ok(real), Ok(rest)) = (fs::canonicalize(existing), path.strip_prefix(existing)) {
            return real.join(rest).components().collect();
        }
    }
    path.to_owned()
}

/// Refuses a pair whose trees overlap those of another pair on this host.
pub fn check(own: &[Tree], which: Which) -> Result<(), UsageError> {
    let mut others = configured(Path::new(CONFIGURATION), which);
    others.extend(running(Path::new("/proc")));
    match own.iter().find_map(|own| others.iter().find_map(|other| overlap(own, other))) {
        Some(why) => Err(UsageError(why)),
        None => Ok(()),
    }
}

/// What is wrong with two trees, if anything is.
fn overlap(own: &Tree, other: &Tree) -> Option<String> {
    let (root, there, pair) = (own.root.display(), other.root.display(), &other.pair);
    if is_same(&own.root, &other.root) {
        let same = own.pair != other.pair && own.whole.is_some() && own.whole == other.whole;
        return same.then(|| {
            format!("root {root}: pair {pair} keeps the same two trees aligned: use that pair, or other roots")
        });
    }
    if let Some(below) = below(&other.root, &own.root) {
        return (!excludes(&other.filters, &below))
            .then(|| format!("root {root} lies in {there} of pair {pair}: exclude it there or use another"));
    }
    let below = below(&own.root, &other.root)?;
    (!excludes(&own.filters, &below))
        .then(|| format!("root {root} holds {there} of pair {pair}: exclude that directory here or use another root"))
}

fn is_same(a: &Path, b: &Path) -> bool {
    a == b || roots::same_directory(a, b) || matches!((locate(a), locate(b)), (Some(a), Some(b)) if a == b)
}

/// Where `inner` lies in `outer`, on their file system: psync leaves another one that is mounted in a root alone.
fn below(outer: &Path, inner: &Path) -> Option<PathBuf> {
    match (locate(outer), locate(inner)) {
        (Some(o), Some(i)) => Location::below(&o, &i),
        _ => inner.strip_prefix(outer).ok().map(Path::to_owned),
    }
}

fn excludes(filters: &Filters, path: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let (Ok(filter), Ok(path)) = (Filter::new(filters), RelPath::new(path.as_os_str().as_bytes())) else {
        return false;
    };
    filter.excluded(&path)
}

/// The trees of all pairs with a file in this directory. A file that cannot be read is another's trouble.
fn configured(directory: &Path, which: Which) -> Vec<Tree> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let files = entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "toml"));
    files.flat_map(|file| of_file(&file, which)).collect()
}

fn of_file(file: &Path, which: Which) -> Vec<Tree> {
    let name = file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let Some((settings, _)) = config::valid_pair(&name).then(|| config::load(file).ok()).flatten() else {
        return Vec::new();
    };
    let [left, right] = [&settings.left.root, &settings.right.root].map(|root| tree(&name, &settings, root));
    let used = |tree: &Tree| tree.root.join(".psync").join(&name).is_dir();
    // The same file lies on both hosts: what tells them apart is where the pair's archive is.
    let here = match (settings.is_local(), which) {
        (true, _) => vec![left, right],
        (false, Which::Used) => [left, right].into_iter().filter(used).collect(),
        (false, Which::Configured) if used(&right) && !used(&left) => vec![right],
        (false, Which::Configured) => [Some(left), Some(right).filter(used)].into_iter().flatten().collect(),
    };
    here.into_iter().filter(|tree| tree.root.is_absolute()).collect()
}

/// The trees of all psync processes of root and of this user. What another user's process says of itself is no reason to refuse
/// anything.
fn running(proc: &Path) -> Vec<Tree> {
    let own = rustix::process::geteuid().as_raw();
    let me = std::process::id().to_string();
    let mut found = Vec::new();
    for entry in fs::read_dir(proc).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let number = name.to_str().is_some_and(|name| name.bytes().all(|b| b.is_ascii_digit()) && name != me);
        if !number || !fs::metadata(&path).is_ok_and(|meta| meta.uid() == 0 || meta.uid() == own) {
            continue;
        }
        let comm = fs::read(path.join("comm")).unwrap_or_default();
        if !comm.starts_with(b"psync") {
            continue;
        }
        let line = fs::read(path.join("cmdline")).unwrap_or_default();
        let args = line.split(|b| *b == 0).filter(|word| !word.is_empty());
        let args: Vec<OsString> = args.map(|word| OsString::from_vec(word.to_vec())).collect();
        found.extend(of_process(args, fs::read_link(path.join("cwd")).ok().as_deref()));
    }
    found
}

/// What a process works on, by its command line.
fn of_process(args: Vec<OsString>, cwd: Option<&Path>) -> Vec<Tree> {
    let program = args.first().map(Path::new).and_then(Path::file_name).unwrap_or_default().to_owned();
    let file = |word: &str| PairFile::of(word).map(|pair| pair.path);
    match (program.to_str(), args.get(1).and_then(|word| word.to_str())) {
        (Some("psync-brain"), _) => match options::parse::<Brain>(args) {
            Ok(Parsed::Run(options)) => file(&options.pair).map_or(Vec::new(), |file| of_file(&file, Which::Used)),
            _ => Vec::new(),
        },
        (Some("psync-agent"), Some("serve")) => match options::parse::<Serve>(args[1..].to_vec()) {
            Ok(Parsed::Run(options)) => file(&options.pair).map_or(Vec::new(), |file| of_file(&file, Which::Used)),
            _ => Vec::new(),
        },
        (Some("psync"), Some("--agent-mode")) => of_agent([&args[..1], &args[2..]].concat(), cwd),
        (Some("psync-agent"), _) => of_agent(args, cwd),
        // `psync check data` names no roots.
        (Some("psync"), _) if options::is_subcommand(&args) => Vec::new(),
        (Some("psync"), _) => match (options::parse::<AdHoc>(args), cwd) {
            (Ok(Parsed::Run(options)), Some(cwd)) => {
                given::of_options(&options, cwd).map(|(pair, settings)| of_pair(&pair, &settings)).unwrap_or_default()
            }
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}

fn of_agent(args: Vec<OsString>, cwd: Option<&Path>) -> Vec<Tree> {
    let Ok(Parsed::Run(agent)) = options::parse::<Agent>(args) else { return Vec::new() };
    let given = agent.settings.as_deref().and_then(|json| SharedSettings::from_json(json).ok());
    let root = match cwd {
        _ if agent.root.is_absolute() => agent.root.clone(),
        Some(cwd) => cwd.join(&agent.root),
        None => return Vec::new(),
    };
    let filters = given.unwrap_or_default().filters;
    let tree = |pair| Tree { pair, root: canonical(&root), filters, whole: None };
    agent.pair.map(tree).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::slice::from_ref;

    const NONE: [PathBuf; 0] = [];

    fn of(pair: &str, root: &Path, excludes: &str, right: (&str, &str)) -> Tree {
        let mut settings = Settings::default();
        settings.shared.filters.excludes = excludes.to_owned();
        settings.left.root = root.to_owned();
        settings.right.root = right.1.into();
        settings.right.host = Some(right.0.to_owned());
        tree(pair, &settings, root)
    }

    #[test]
    fn what_overlaps() {
        let temp = tempfile::tempdir().expect("dir");
        let dir = temp.path().canonicalize().expect("canonical");
        let data = dir.join("data");
        fs::create_dir_all(data.join("sub/deep")).expect("dirs");
        symlink(data.join("sub"), dir.join("link")).expect("link");
        let outer = of("data", &data, "", ("h", "/r"));
        let careful = of("data", &data, "^/sub(/|$)", ("h", "/r"));
        let said =
            |own: &Tree, other: &Tree| overlap(own, other).map(|why| why.replace(dir.to_str().expect("text"), "DIR"));
        let lies = "root DIR/data/sub lies in DIR/data of pair data: exclude it there or use another";
        for root in [data.join("sub"), dir.join("link"), dir.join("data/../data/sub")] {
            let own = of("sub", &root, "", ("h", "/s"));
            assert_eq!(said(&own, &outer).as_deref(), Some(lies), "{root:?}");
            assert_eq!(said(&own, &careful), None, "{root:?}");
        }
        let deep = of("deep", &data.join("sub/deep/not-yet"), "", ("h", "/s"));
        assert!(said(&deep, &outer).is_some() && said(&deep, &careful).is_none());
        // The other way round.
        let inner = of("sub", &data.join("sub"), "", ("h", "/s"));
        let holds = "root DIR/data holds DIR/data/sub of pair sub: exclude that directory here or use another root";
        assert_eq!((said(&outer, &inner).as_deref(), said(&careful, &inner)), (Some(holds), None));
        // A neighbour with the same beginning of its name.
        assert_eq!(said(&of("x", &dir.join("data2"), "", ("h", "/s")), &outer), None);
        // A hub, and the same pair twice.
        assert_eq!(said(&of("hub", &data, "", ("h2", "/r")), &outer), None);
        assert_eq!(said(&of("hub", &data, "", ("h", "/r2")), &outer), None);
        let twice = "root DIR/data: pair data keeps the same two trees aligned: use that pair, or other roots";
        assert_eq!(said(&of("twice", &data, "", ("h", "/r")), &outer).as_deref(), Some(twice));
        assert_eq!(said(&outer, &outer.clone()), None, "itself");
    }

    #[test]
    fn files_count_where_their_pair_is() {
        let temp = tempfile::tempdir().expect("dir");
        let dir = temp.path().canonicalize().expect("canonical");
        let (left, right) = (dir.join("l"), dir.join("r"));
        let host = "host = \"h\"\n";
        let text = |host: &str| format!("[left]\nroot = {left:?}\n[right]\nroot = {right:?}\n{host}");
        let roots = |which| {
            let mut roots: Vec<_> = configured(&dir, which).into_iter().map(|tree| tree.root).collect();
            roots.sort();
            roots
        };
        let file = dir.join("p.toml");
        fs::write(&file, text("")).expect("written");
        assert_eq!(roots(Which::Used), [left.clone(), right.clone()], "both are here");
        fs::write(&file, text(host)).expect("written");
        assert_eq!(roots(Which::Used), NONE);
        assert_eq!(roots(Which::Configured), from_ref(&left));
        fs::create_dir_all(right.join(".psync/p")).expect("made");
        assert_eq!(roots(Which::Used), from_ref(&right));
        assert_eq!(roots(Which::Configured), from_ref(&right), "it is the right host");
        fs::create_dir_all(left.join(".psync/p")).expect("made");
        assert_eq!(roots(Which::Used), [left.clone(), right.clone()]);
        fs::write(&file, "[left\n").expect("written");
        assert_eq!(roots(Which::Configured), NONE);
    }

    #[test]
    fn processes_by_their_command_lines() {
        let of = |words: &[&str]| {
            let trees = of_process(words.iter().map(OsString::from).collect(), Some(Path::new("/cwd")));
            trees.into_iter().map(|tree| (tree.pair, tree.root)).collect::<Vec<_>>()
        };
        let pair = config::default_pair(Path::new("/no/l"), None, Path::new("/cwd/r"));
        let both = vec![(pair.clone(), PathBuf::from("/no/l")), (pair, PathBuf::from("/cwd/r"))];
        assert_eq!(of(&["/usr/bin/psync", "/no/l", "r"]), both);
        let remote = of(&["psync", "--pair", "p", "-r", "h", "/no/l", "/no/r"]);
        assert_eq!(remote, [("p".to_owned(), PathBuf::from("/no/l"))]);
        let agent = [("p".to_owned(), PathBuf::from("/no/r"))];
        assert_eq!(of(&["psync-agent", "--stdio", "--root", "/no/r", "--pair", "p"]), agent);
        assert_eq!(of(&["psync", "--agent-mode", "--stdio", "--root", "/no/r", "--pair", "p"]), agent);
        for words in
            [&["psync", "check", "data"][..], &["psync"], &["psync-agent", "connect", "p"], &["sh", "/l", "/r"], &[]]
        {
            assert_eq!(of(words), [], "{words:?}");
        }
    }
}
