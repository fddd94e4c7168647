//! Scan: compare a whole tree with the archive, directory by directory, in the order of paths.

use std::collections::BTreeMap;

use crate::model::{Kind, Name, NodeId, Problem, ProblemKind, RelPath, Time};
use crate::protocol::Change;

use super::Replica;
use super::ahead::{Ahead, Entries};
use super::archive::{Archive, Row};
use super::disk::{Disk, Stat};
use super::error::{ReplicaError, problem};
use super::examine::{Examined, How, above_is_gone};
use super::spot::Spot;

/// A scan under way.
pub struct Scan<Dir> {
    pub scope: RelPath,
    levels: Vec<Level<Dir>>,
    ahead: Ahead,
    /// Rows without an object. Looked at last: their objects may turn up under other names.
    gone: Vec<RelPath>,
    started: bool,
    /// The file that is being read, in slices: it is looked at again.
    reading: Option<(Name, Stat)>,
    /// Files are read even if their stat is unchanged.
    pub checksum: bool,
    /// ACLs that are the other side's business are made what they were.
    pub full: bool,
    put_back: u64,
    /// See [`How::inline`].
    inline: u64,
    /// Everything before this path was looked at.
    pub cursor: RelPath,
    pub files: u64,
    pub bytes: u64,
}

/// What follows a look at a name.
enum Next {
    /// What lies below it, if it is a directory.
    Descend,
    /// The next name.
    Pass,
    /// The same name again.
    Again,
}

struct Level<Dir> {
    path: RelPath,
    dir: Dir,
    node: Option<NodeId>,
    rows: BTreeMap<Name, Row>,
    entries: Entries,
    /// It holds names with which the path is too long.
    long: bool,
}

/// What a slice of a scan found.
#[derive(Default)]
pub struct Found {
    pub changes: Vec<Change>,
    pub busy: Vec<RelPath>,
    pub problems: Vec<Problem>,
    /// Directories that hold names with which the path is too long.
    pub long: Vec<RelPath>,
    /// Directories that may hold such names, and hold none.
    pub short: Vec<RelPath>,
    /// Files that have left a name where nothing lies now; in a moment it may be known what becomes of that.
    pub left: Vec<RelPath>,
    /// Directories that were entered: from now on all that happens in them is told. Inode and birth time.
    pub entered: Vec<(RelPath, (u64, Time))>,
    /// Gone from the part of the tree that was scanned; they may turn up elsewhere in a moment.
    pub gone: Vec<RelPath>,
}

impl<Dir> Scan<Dir> {
    pub fn new(scope: RelPath) -> Scan<Dir> {
        let cursor = scope.clone();
        Scan {
            scope,
            levels: vec![],
            ahead: Ahead::default(),
            gone: vec![],
            started: false,
            reading: None,
            checksum: false,
            full: false,
            put_back: 0,
            inline: 0,
            cursor,
            files: 0,
            bytes: 0,
        }
    }

    /// The same, by checksums if `checksum` is set.
    pub fn reading(self, checksum: bool) -> Scan<Dir> {
        Scan { checksum, ..self }
    }

    /// The same, for a full sync.
    pub fn full(self) -> Scan<Dir> {
        Scan { full: true, ..self }
    }

    /// The same, with the contents of files of up to so many bytes attached to the reports.
    pub fn attaching(self, inline: u64) -> Scan<Dir> {
        Scan { inline, ..self }
    }

    /// Whether this scan will still look at all below `path`.
    pub fn is_ahead_of(&self, path: &RelPath) -> bool {
        path.is_within(&self.scope) && !self.started
    }
}

impl<D: Disk, A: Archive> Replica<D, A> {
    /// Goes on with a scan for about `budget` objects; true when it is done.
    pub fn scan(&mut self, scan: &mut Scan<D::Dir>, budget: usize, found: &mut Found) -> Result<bool, ReplicaError> {
        if !scan.started {
            scan.started = true;
            if scan.scope.is_root() {
                self.news.specials.begin();
            }
            let scope = scan.scope.clone();
            let node = self.node_of(&scope)?;
            self.enter(scan, scope, node, found)?;
        }
        for _ in 0..budget {
            if self.has_read_enough() {
                return Ok(false);
            }
            let Some(level) = scan.levels.last_mut() else {
                return self.look_for_gone(scan, budget, found);
            };
            let again = scan.reading.take();
            let first = again.is_none();
            let Some((name, stat)) = again.or_else(|| level.entries.next()) else {
                let rows = std::mem::take(&mut level.rows).into_values();
                let gone =
                    rows.filter_map(|row| Some((level.path.join(&row.name).ok()?, row.entry.kind() == Kind::Dir)));
                let full = scan.scope.is_root();
                let gone = gone.filter(|(path, is_dir)| !(full && self.filter.left_out(path, *is_dir)));
                scan.gone.extend(gone.map(|(path, _)| path));
                let level = scan.levels.pop();
                found.short.extend(level.filter(|level| level.path.is_at_the_limit() && !level.long).map(|l| l.path));
                continue;
            };
            let Ok(path) = level.path.join(&name) else {
                if !std::mem::replace(&mut level.long, true) {
                    found.long.push(level.path.clone());
                }
                continue;
            };
            let row = level.rows.remove(&name);
            let (dir, node) = (level.dir.clone(), level.node);
            scan.cursor = path.clone();
            if self.news.meets_owner(stat.uid, stat.gid) {
                // Its names are told to the other side, which may have to know whose files these are.
                self.disk.principals(stat.uid, stat.gid);
            }
            if first && stat.kind == Some(Kind::File) {
                scan.files += 1;
                scan.bytes += stat.size;
            }
            // A full sync only watches there.
            let left_out = scan.scope.is_root() && self.filter.left_out(&path, stat.kind == Some(Kind::Dir));
            let read = scan.checksum && stat.kind == Some(Kind::File);
            let unchanged = !read && row.as_ref().is_some_and(|row| self.unchanged(row, &stat));
            let mut descend = stat.kind == Some(Kind::Dir) && !stat.foreign;
            if !left_out && (!unchanged || self.ledger.holds(&path)) {
                // Deletions wait for the end of a scan of the whole tree: all moves must be told by then.
                let patient = !scan.scope.is_root();
                let how = How { patient, ..How::scanned(read, scan.inline) };
                let at = Spot { dir: &dir, node, name: &name, path: &path };
                match self.examine_found(at, how, found)? {
                    Next::Descend => {}
                    Next::Pass => descend = false,
                    Next::Again => {
                        if let (Some(level), Some(row)) = (scan.levels.last_mut(), row) {
                            level.rows.insert(name.clone(), row);
                        }
                        scan.reading = Some((name, stat));
                        return Ok(false);
                    }
                }
            }
            if scan.full && self.settings.keeps_acls && !self.ledger.holds(&path) {
                // What was looked at has a new signature.
                let row = if unchanged { row } else { self.row_at(&path)? };
                if let Some(row) = row.filter(|row| self.unchanged(row, &stat))
                    && self.put_back_xattrs(Spot { dir: &dir, node, name: &name, path: &path }, &row, &stat)?
                {
                    scan.put_back += 1;
                }
            }
            if descend {
                let node = self.node_of(&path)?;
                let object = (stat.ino, stat.btime);
                if !scan.ahead.holds(&path) {
                    self.read_ahead(scan, &[(name, stat)]);
                }
                if self.enter(scan, path.clone(), node, found)? {
                    found.entered.push((path, object));
                }
            }
        }
        Ok(false)
    }

    /// Reads the directory that is entered next, the last one looked at, together with others that come soon.
    fn read_ahead(&self, scan: &mut Scan<D::Dir>, next: &[(Name, Stat)]) {
        let Some(inner) = scan.levels.last() else { return };
        let to_come = scan.levels.iter().rev().map(|level| (&level.path, level.entries.as_slice()));
        let levels = std::iter::once((&inner.path, next)).chain(to_come);
        scan.ahead.read(&self.disk, &self.filter, &inner.dir, levels);
    }

    /// Examines one name.
    fn examine_found(&mut self, at: Spot<D::Dir>, how: How, found: &mut Found) -> Result<Next, ReplicaError> {
        let path = at.path;
        if self.filter.excluded(path) || self.filter.temporary(path) {
            return Ok(Next::Pass);
        }
        match self.examine_in(at, how) {
            Ok(Examined::Changed(change)) => found.changes.push(*change),
            Ok(Examined::Busy) => found.busy.push(path.clone()),
            Ok(Examined::Reading) => return Ok(Next::Again),
            Ok(Examined::Left { .. }) => found.left.push(path.clone()),
            Ok(Examined::Problem(problem)) => found.problems.push(problem),
            Ok(_) => {}
            Err(ReplicaError::Path { error, .. }) if error.kind() == std::io::ErrorKind::NotFound => {
                self.agenda.look(path.clone());
            }
            Err(error) => found.problems.push(error.into_problem()?),
        }
        Ok(Next::Descend)
    }

    /// Watches a directory, then lists it; whether that could be done.
    fn enter(
        &mut self,
        scan: &mut Scan<D::Dir>,
        path: RelPath,
        node: Option<NodeId>,
        found: &mut Found,
    ) -> Result<bool, ReplicaError> {
        let mut watched = true;
        let opened = match (scan.levels.last(), path.split()) {
            (Some(level), Some((above, name))) if level.path == above && !path.is_landmark() => {
                self.disk.open_child(&level.dir, &name, &path)
            }
            _ => self.disk.open_dir(&path),
        };
        let dir = match opened {
            Ok(dir) => dir,
            // It was no directory, or is none any more.
            Err(error) if above_is_gone(&error) => return Ok(false),
            Err(error) => {
                found.problems.push(problem(&path, "open the directory", &error));
                return Ok(false);
            }
        };
        let entries = match scan.ahead.take(&self.disk, &path, &dir) {
            Some(entries) => entries,
            None => {
                if let Err(error) = self.disk.watch(&dir, &path) {
                    watched = false;
                    let detail = format!("watch the directory: {error} (see fs.inotify.max_user_watches)");
                    found.problems.push(Problem { path: path.clone(), kind: ProblemKind::Unwatched, detail });
                }
                match self.disk.list(&dir) {
                    Ok(entries) => entries.into_iter(),
                    Err(error) => {
                        found.problems.push(problem(&path, "list the directory", &error));
                        return Ok(false);
                    }
                }
            }
        };
        let mut rows = BTreeMap::new();
        if let Some(node) = node {
            // From now on events tell of what is done in it.
            if let Some(row) = self.archive.node(node)?
                && let Ok(stat) = self.disk.stat_dir(&dir)
            {
                self.compare_dir_time(&path, &row, &stat)?;
            }
            for row in self.archive.children(node)? {
                let below = path.join(&row.name);
                if below.is_ok_and(|below| self.ledger.moved_to(row.node).is_none_or(|now| *now == below)) {
                    rows.insert(row.name.clone(), row);
                }
            }
        }
        scan.levels.push(Level { path, dir, node, rows, entries, long: false });
        Ok(watched)
    }

    fn look_for_gone(
        &mut self,
        scan: &mut Scan<D::Dir>,
        budget: usize,
        found: &mut Found,
    ) -> Result<bool, ReplicaError> {
        for _ in 0..budget {
            let Some(path) = scan.gone.pop() else {
                if scan.scope.is_root() {
                    self.news.specials.end();
                }
                if scan.put_back > 0 {
                    let count = scan.put_back;
                    self.news.note(format!("full sync: {count} objects had other ACLs: the left's are back"));
                }
                return Ok(true);
            };
            if !scan.scope.is_root() {
                found.gone.push(path);
                continue;
            }
            match self.examine(&path, How::default())? {
                Examined::Changed(change) => found.changes.push(*change),
                // Only what is read whatever its size is read in slices.
                Examined::Busy | Examined::Reading => found.busy.push(path),
                Examined::Problem(problem) => found.problems.push(problem),
                Examined::Above(above) => {
                    self.agenda.look(above);
                }
                Examined::Same | Examined::Known | Examined::Excluded | Examined::Left { .. } => {}
            }
        }
        Ok(false)
    }
}
