//! Which directories stand for too many dirty paths.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use crate::model::RelPath;

/// Adds a scope unless one above it is there; those below it go.
pub fn add(scopes: &mut BTreeSet<RelPath>, scope: RelPath) {
    if scope.nearest_above(|to| scopes.range((Bound::Unbounded, to)).next_back()).is_some() {
        return;
    }
    let below: Vec<RelPath> = scopes.range(&scope..).take_while(|s| s.is_within(&scope)).cloned().collect();
    for path in below {
        scopes.remove(&path);
    }
    scopes.insert(scope);
}

/// Directories whose scan leaves at most about `target` of the paths. The most crowded ones go first, so that a
/// path far from the crowd stays by itself; if no directory is crowded, ever higher ones are taken.
pub fn choose<'a>(paths: impl Iterator<Item = &'a RelPath>, target: usize) -> BTreeSet<RelPath> {
    let mut crowds: BTreeMap<RelPath, usize> = BTreeMap::new();
    let mut total = 0;
    for parent in paths.filter_map(RelPath::parent) {
        *crowds.entry(parent).or_default() += 1;
        total += 1;
    }
    let mut by_size: Vec<(RelPath, usize)> = crowds.iter().map(|(p, n)| (p.clone(), *n)).collect();
    by_size.sort_by_key(|(_, n)| Reverse(*n));

    let mut chosen = BTreeSet::new();
    for (parent, n) in by_size {
        if total <= target {
            return chosen;
        }
        if n == 1 {
            break;
        }
        total -= n;
        add(&mut chosen, parent);
    }
    if total <= target {
        return chosen;
    }
    coarsen(crowds.into_keys().collect(), target / 4)
}

/// At most `most` directories (at least one) above or among `scopes`, found by replacing the deepest by those that
/// hold them.
pub fn coarsen(mut scopes: BTreeSet<RelPath>, most: usize) -> BTreeSet<RelPath> {
    let depth = |path: &RelPath| path.names().count();
    let mut deepest = scopes.iter().map(depth).max().unwrap_or(0);
    while scopes.len() > most && deepest > 0 {
        let (lower, upper): (BTreeSet<_>, BTreeSet<_>) = scopes.into_iter().partition(|p| depth(p) == deepest);
        scopes = upper;
        scopes.extend(lower.iter().filter_map(RelPath::parent));
        deepest -= 1;
    }
    let mut out = BTreeSet::new();
    for scope in scopes {
        add(&mut out, scope);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(all: &[&str]) -> BTreeSet<RelPath> {
        all.iter().map(|p| RelPath::new(p.as_bytes()).expect("a valid path")).collect()
    }

    #[test]
    fn none_within_another() {
        let mut scopes = BTreeSet::new();
        for path in paths(&["a/b", "a b", "a/c"]) {
            add(&mut scopes, path);
        }
        add(&mut scopes, RelPath::new(b"a").expect("a valid path"));
        add(&mut scopes, RelPath::new(b"a/d").expect("a valid path"));
        assert_eq!(scopes, paths(&["a", "a b"]));
    }

    #[test]
    fn chooses_the_crowded_first() {
        let table: &[(&[&str], usize, &[&str])] = &[
            (&["a/1", "a/2", "a/3", "b/1"], 2, &["a"]),
            (&["a/1", "a/2", "b/1", "b/2", "b/3", "c"], 4, &["b"]),
            (&["a/1", "b/1", "c/1", "d/1"], 2, &[""]),
            (&["x/a/1", "x/b/1", "x/c/1", "y/d/1", "z/e/1", "x/e/1", "x/f/1", "x/g/1"], 7, &[""]),
        ];
        for (dirty, target, expected) in table {
            assert_eq!(choose(paths(dirty).iter(), *target), paths(expected), "{dirty:?} {target}");
        }
    }

    #[test]
    fn coarsens_from_below() {
        let scopes = paths(&["a/b/c", "a/b/d", "e", "f/g"]);
        assert_eq!(coarsen(scopes.clone(), 3), paths(&["a/b", "e", "f/g"]));
        assert_eq!(coarsen(scopes.clone(), 1), paths(&[""]));
        assert_eq!(coarsen(scopes, 4).len(), 4);
    }
}
