//! What must hold of the roots before anything runs. Nothing is touched by looking.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::Access;

use super::UsageError;
use super::human::words;
use super::mounts::locate;
use crate::config::Settings;

/// A root that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// Canonical, or what it will be once it is created.
    pub path: PathBuf,
    pub exists: bool,
}

/// What may be done to a root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowed {
    /// A missing root will be created.
    pub create: bool,
    /// A dry run: nothing will be written.
    pub dry: bool,
    /// Who asks has an option that creates roots: a run in the foreground.
    pub option: bool,
}

impl Allowed {
    /// Only to look.
    pub const NOTHING: Allowed = Allowed { create: false, dry: true, option: false };
}

/// Checks one root of this host. `which`: how to call it, e.g. `left root`.
pub fn check(which: &str, path: &Path, allowed: Allowed) -> Result<Root, UsageError> {
    let named = |what: String| UsageError(format!("{which} {}: {what}", path.display()));
    match fs::canonicalize(path) {
        Ok(canonical) => {
            readable(&canonical).map_err(named)?;
            if !allowed.dry && rustix::fs::access(&canonical, Access::WRITE_OK).is_err() {
                return Err(named("cannot be written".into()));
            }
            Ok(Root { path: canonical, exists: true })
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            if fs::symlink_metadata(path).is_ok() {
                return Err(named("is a link to nowhere".into()));
            }
            match allowed {
                Allowed { create: false, option: false, .. } => {
                    Err(named("does not exist (make it, or mount it)".into()))
                }
                Allowed { create: false, .. } => Err(named("does not exist (--create-roots creates it)".into())),
                Allowed { dry: true, .. } => Err(named("does not exist, and a dry run creates nothing".into())),
                _ => Ok(Root { path: future(path).map_err(named)?, exists: false }),
            }
        }
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => Err(named("is not a directory".into())),
        Err(e) => Err(named(format!("cannot be read: {}", words(&e)))),
    }
}

/// The roots of this host.
pub struct Roots {
    pub left: Root,
    /// `None`: on another host, whose agent looks.
    pub right: Option<Root>,
}

/// Checks the roots of this host. `create`: whether missing ones are created; `None`: a service, which has no option for that.
pub fn of_settings(settings: &Settings, create: Option<bool>) -> Result<Roots, UsageError> {
    let allowed = Allowed { create: create == Some(true), dry: settings.shared.run.dryrun, option: create.is_some() };
    let left = check("left root", &settings.left.root, allowed)?;
    let right = match settings.is_local() {
        true => Some(check("right root", &settings.right.root, allowed)?),
        false => None,
    };
    if let Some(right) = &right {
        check_apart(&left, right)?;
    }
    Ok(Roots { left, right })
}

/// Refuses two roots of this host that are one directory, or one of which holds the other.
pub fn check_apart(left: &Root, right: &Root) -> Result<(), UsageError> {
    let (l, r) = (left.path.display(), right.path.display());
    if left.path == right.path || same_directory(&left.path, &right.path) {
        return Err(UsageError(format!("the roots are one directory: {l} and {r}")));
    }
    if holds(&left.path, &right.path) {
        return Err(UsageError(format!("the right root lies inside the left: {r} is inside {l}")));
    }
    if holds(&right.path, &left.path) {
        return Err(UsageError(format!("the left root lies inside the right: {l} is inside {r}")));
    }
    Ok(())
}

/// Refuses a log inside a root: each of its lines would be a change to be synchronised, and logged.
pub fn check_log_apart(log: &Path, roots: &[&Root]) -> Result<(), UsageError> {
    let dir = log.parent().and_then(|dir| fs::canonicalize(dir).ok());
    match roots.iter().find(|root| dir.as_ref().is_some_and(|dir| holds(&root.path, dir))) {
        Some(root) => Err(UsageError(format!(
            "the log would lie inside a root: {} is inside {}",
            log.display(),
            root.path.display()
        ))),
        None => Ok(()),
    }
}

/// Creates a root that is missing, and its parents.
pub fn create(which: &str, root: &Root) -> Result<(), UsageError> {
    if root.exists {
        return Ok(());
    }
    let named = |e: io::Error| UsageError(format!("{which} {}: cannot be created: {}", root.path.display(), words(&e)));
    fs::create_dir_all(&root.path).map_err(named)
}

fn readable(root: &Path) -> Result<(), String> {
    if !fs::metadata(root).is_ok_and(|meta| meta.is_dir()) {
        return Err("is not a directory".into());
    }
    let cannot = |e: &io::Error| format!("cannot be read: {}", words(e));
    let first = fs::read_dir(root).map_err(|e| cannot(&e))?.next();
    first.transpose().map_err(|e| cannot(&e))?;
    rustix::fs::access(root, Access::READ_OK | Access::EXEC_OK).map_err(|e| cannot(&e.into()))
}

/// The canonical path that a missing directory will have.
fn future(path: &Path) -> Result<PathBuf, String> {
    for existing in path.ancestors().skip(1) {
        let Ok(canonical) = fs::canonicalize(existing) else { continue };
        if !canonical.is_dir() {
            return Err(format!("cannot be created: {} is not a directory", existing.display()));
        }
        let rest = path.strip_prefix(existing).unwrap_or(path);
        if rest.components().any(|c| c == Component::ParentDir) {
            return Err("does not exist, and `..` leads through what is missing".into());
        }
        return Ok(canonical.join(rest.components().collect::<PathBuf>()));
    }
    Err("does not exist".into())
}

pub fn same_directory(a: &Path, b: &Path) -> bool {
    let id = |path: &Path| fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
    id(a).is_some_and(|a| Some(a) == id(b))
}

/// Whether `inner` lies below `outer`: by name, by a mounted copy of `outer` above it, or on the file system.
fn holds(outer: &Path, inner: &Path) -> bool {
    inner.starts_with(outer)
        || inner.ancestors().any(|above| same_directory(outer, above))
        || matches!((locate(outer), locate(inner)), (Some(o), Some(i)) if o.holds(&i))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    const EXISTING: Allowed = Allowed { create: false, dry: false, option: true };
    const CREATE: Allowed = Allowed { create: true, dry: false, option: true };

    fn said<T>(result: Result<T, UsageError>, dir: &Path) -> String {
        match result {
            Ok(_) => "fine".into(),
            Err(e) => e.to_string().replace(dir.to_str().expect("text"), "DIR"),
        }
    }

    #[test]
    fn one_root() {
        let temp = tempfile::tempdir().expect("dir");
        let dir = temp.path().canonicalize().expect("canonical");
        fs::create_dir(dir.join("d")).expect("d");
        fs::write(dir.join("f"), "").expect("f");
        symlink("d", dir.join("to-d")).expect("link");
        symlink("nowhere", dir.join("dangling")).expect("link");
        let dry = Allowed { create: true, dry: true, option: true };
        for (name, allowed, want) in [
            ("d", EXISTING, "fine"),
            ("to-d", EXISTING, "fine"),
            ("f", EXISTING, "left root DIR/f: is not a directory"),
            ("f/x", CREATE, "left root DIR/f/x: is not a directory"),
            ("no", EXISTING, "left root DIR/no: does not exist (--create-roots creates it)"),
            ("no", dry, "left root DIR/no: does not exist, and a dry run creates nothing"),
            ("dangling", CREATE, "left root DIR/dangling: is a link to nowhere"),
            ("no/a/b", CREATE, "fine"),
            ("no/../x", CREATE, "left root DIR/no/../x: does not exist, and `..` leads through what is missing"),
        ] {
            assert_eq!(said(check("left root", &dir.join(name), allowed), &dir), want, "{name}");
        }
        let root = check("left root", &dir.join("to-d/new/deep"), CREATE).expect("can be created");
        assert_eq!(root, Root { path: dir.join("d/new/deep"), exists: false });
        assert!(!dir.join("d/new").exists());
        create("left root", &root).expect("created");
        assert_eq!(check("left root", &dir.join("to-d/new/deep"), EXISTING).expect("there").path, root.path);
    }

    #[test]
    fn two_roots() {
        let temp = tempfile::tempdir().expect("dir");
        let dir = temp.path().canonicalize().expect("canonical");
        fs::create_dir_all(dir.join("a/b")).expect("dirs");
        fs::create_dir_all(dir.join("ab")).expect("dirs");
        symlink("a", dir.join("to-a")).expect("link");
        for (left, right, want) in [
            ("a", "ab", "fine"),
            ("a", "a", "the roots are one directory: DIR/a and DIR/a"),
            ("a", "to-a", "the roots are one directory: DIR/a and DIR/a"),
            ("a", "a/b", "the right root lies inside the left: DIR/a/b is inside DIR/a"),
            ("to-a/b", "a", "the left root lies inside the right: DIR/a/b is inside DIR/a"),
            ("a", "to-a/new", "the right root lies inside the left: DIR/a/new is inside DIR/a"),
            ("new", "new", "the roots are one directory: DIR/new and DIR/new"),
        ] {
            let root = |name: &str| check("root", &dir.join(name), CREATE).expect(name);
            assert_eq!(said(check_apart(&root(left), &root(right)), &dir), want, "{left} {right}");
        }
    }
}
