//! A side under a check: its tree is listed and read, beside whatever else goes on, and nothing is changed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::{Attributes, SharedSettings};
use crate::filter::{Filter, Filters};
use crate::model::{Hash, Kind, Name, RelPath, Time, Xattrs, acls, readable};
use crate::protocol::survey::Finding;
use crate::protocol::survey::{Answer, Ask, Examination, Item};
use crate::replica::disk::{Disk, Stat};
use crate::replica::error::problem;
use crate::replica::metadata::Rules;
use crate::replica::metadata::acl::without_acl;
use crate::replica::reading::Reading;
use crate::replica::real::{NoCover, RealDisk};

use super::doctor::examine;

/// Objects in one message. With the longest paths this is well below a frame's size.
const PIECE: usize = 128;
/// Files in one message of hashes: so that the other side sees that it goes on.
const HASHES: usize = 16;

/// What mends it.
const CORRECT: &str = "correct right.root in the pair's file on one of both hosts";

/// What takes part in a check, and how owners are named.
#[derive(Debug, Clone)]
pub struct Scope {
    filters: Filters,
    attributes: Attributes,
    /// Contents go through rsync, which has to be there.
    rsync: bool,
}

impl Scope {
    pub fn of(shared: &SharedSettings) -> Scope {
        let rsync = shared.transport.uses_rsync();
        Scope { filters: shared.filters.clone(), attributes: shared.attributes, rsync }
    }
}

/// One side's tree and what of it takes part.
pub struct Survey<D> {
    disk: D,
    filter: Filter,
    acls: bool,
    rsync: bool,
    /// Where it lies, if it is a real one.
    root: Option<PathBuf>,
}

impl Survey<RealDisk> {
    /// Opens a real root to look at it: nothing is made there, and nothing watched.
    pub fn open(root: &Path, pair: &str, scope: &Scope) -> Result<Survey<RealDisk>, String> {
        let filter = Filter::new(&scope.filters).map_err(|e| e.to_string())?;
        let disk = RealDisk::open_dry(root, pair, Arc::new(NoCover)).map_err(|e| format!("{}: {e}", root.display()))?;
        let Attributes { owner, samba_acls, acl_from_left_only } = scope.attributes;
        let disk = disk.with_rules(Rules::new(owner, samba_acls), scope.filters.links);
        // Those that travel one way only are not compared.
        Ok(Survey { disk, filter, acls: !acl_from_left_only, rsync: scope.rsync, root: Some(root.to_owned()) })
    }
}

/// A check from its first question to its last: takes them from `next`, and answers until nobody listens any more.
pub fn attend(
    open: impl FnOnce() -> Result<Survey<RealDisk>, String>,
    mut next: impl FnMut() -> Option<Ask>,
    mut emit: impl FnMut(Answer) -> bool,
) {
    let survey = match open() {
        Ok(survey) => survey,
        Err(reason) => {
            emit(Answer::Failed { reason });
            return;
        }
    };
    let mut heard = true;
    while heard && let Some(ask) = next() {
        survey.answer(&ask, |answer| {
            heard = emit(answer);
            heard
        });
    }
}

impl<D: Disk> Survey<D> {
    pub fn new(disk: D, filter: Filter) -> Survey<D> {
        Survey { disk, filter, acls: false, rsync: false, root: None }
    }

    /// Answers in pieces, until `emit` says that nobody listens any more.
    pub fn answer(&self, ask: &Ask, mut emit: impl FnMut(Answer) -> bool) {
        let heard = match ask {
            Ask::List => self.list(&mut emit),
            Ask::Look { paths } => self.look(paths, &mut emit),
            Ask::Hash { paths } => self.hash(paths, &mut emit),
            Ask::Keep { name, paths } => self.keep(name, paths, &mut emit),
            Ask::Trash => self.trash(&mut emit),
            Ask::Serves { root } => match self.other_root(root) {
                Some(found) => {
                    emit(Answer::Failed { reason: format!("{found}: {CORRECT}") });
                    false
                }
                None => true,
            },
            Ask::Examine { root } => {
                let mut examination = self.examine();
                examination.findings.extend(self.other_root(root).map(|found| Finding::wrong("root", found, CORRECT)));
                emit(Answer::Examined(examination))
            }
            Ask::Restore { id, below, to } => self.restore(id, below.as_ref(), to, &mut emit),
            Ask::Alive => false,
        };
        if heard {
            emit(Answer::End);
        }
    }

    fn list(&self, emit: &mut dyn FnMut(Answer) -> bool) -> bool {
        let root = RelPath::root();
        let top = match self.disk.open_dir(&root).and_then(|dir| Ok((self.disk.list(&dir)?, dir))) {
            Ok((entries, dir)) => (root, dir, entries.into_iter()),
            // A root that cannot be listed holds no answer at all: it is not empty.
            Err(e) => {
                emit(Answer::Failed { reason: format!("list the root: {e}") });
                return false;
            }
        };
        let mut levels = vec![top];
        let mut items = Vec::new();
        let mut special = 0;
        while let Some((above, dir, entries)) = levels.last_mut() {
            let Some((name, stat)) = entries.next() else {
                levels.pop();
                continue;
            };
            let Ok(path) = above.join(&name) else { continue };
            if self.is_left_out(&path) || stat.foreign {
                continue;
            }
            special += u64::from(stat.special && (stat.kind.is_none() || self.filter.skips(stat.kind)));
            let below = match self.item(dir, &path, &name, &stat) {
                Ok(None) => continue,
                Ok(Some(item)) => {
                    let below = (item.kind == Kind::Dir).then(|| {
                        let dir = self.disk.open_child(dir, &name, &path)?;
                        Ok((self.disk.list(&dir)?, dir))
                    });
                    items.push(item);
                    below
                }
                Err(error) => Some(Err(error)),
            };
            match below {
                None => {}
                Some(Ok((entries, dir))) => levels.push((path, dir, entries.into_iter())),
                Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => {}
                Some(Err(error)) if !emit(Answer::Problem(problem(&path, "look at it", &error))) => return false,
                Some(Err(_)) => {}
            }
            if items.len() >= PIECE && !emit(Answer::Items { items: std::mem::take(&mut items) }) {
                return false;
            }
        }
        let heard = items.is_empty() || emit(Answer::Items { items });
        heard && (special == 0 || emit(Answer::Special { files: special }))
    }

    fn look(&self, paths: &[RelPath], emit: &mut dyn FnMut(Answer) -> bool) -> bool {
        for piece in paths.chunks(PIECE) {
            let items = piece.iter().filter(|path| !self.is_left_out(path)).filter_map(|path| {
                let (above, name) = path.split()?;
                let dir = self.disk.open_dir(&above).ok()?;
                let stat = self.disk.stat(&dir, &name).ok()?;
                self.item(&dir, path, &name, &stat).ok()?
            });
            if !emit(Answer::Items { items: items.collect() }) {
                return false;
            }
        }
        true
    }

    fn hash(&self, paths: &[RelPath], emit: &mut dyn FnMut(Answer) -> bool) -> bool {
        for piece in paths.chunks(HASHES) {
            let hashes = piece.iter().map(|path| (path.clone(), self.hash_of(path).ok().flatten()));
            if !emit(Answer::Hashes { hashes: hashes.collect() }) {
                return false;
            }
        }
        true
    }

    fn keep(&self, name: &Name, paths: &[RelPath], emit: &mut dyn FnMut(Answer) -> bool) -> bool {
        for path in paths.iter().filter(|path| !self.is_left_out(path)) {
            match self.disk.keep_copy(name, path) {
                // It went away, or became something else.
                Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidInput) => {}
                Err(e) if !emit(Answer::Problem(problem(path, "copy it to the trash", &e))) => return false,
                Ok(()) | Err(_) => {}
            }
        }
        true
    }

    /// What this side can tell of itself.
    pub fn examine(&self) -> Examination {
        examine(&self.disk, &self.filter, self.rsync)
    }

    /// What is wrong, if this side's root is not the one that is meant.
    fn other_root(&self, named: &[u8]) -> Option<String> {
        let own = self.root.as_ref().filter(|root| !super::service::serves(root, named))?;
        Some(format!("{} is served here, the other host's file says {}", own.display(), readable(named)))
    }

    fn trash(&self, emit: &mut dyn FnMut(Answer) -> bool) -> bool {
        match self.disk.trashed() {
            Ok(items) => items.chunks(PIECE).all(|items| emit(Answer::Trashed { items: items.to_vec() })),
            Err(error) => {
                let hint = match error.kind() {
                    io::ErrorKind::PermissionDenied => " (it is for root, and for whom psync runs as)",
                    _ => "",
                };
                emit(Answer::Failed { reason: format!("read the trash: {error}{hint}") });
                false
            }
        }
    }

    fn restore(&self, id: &Name, below: Option<&RelPath>, to: &RelPath, emit: &mut dyn FnMut(Answer) -> bool) -> bool {
        let restored = match self.is_left_out(to) {
            true => Err(io::Error::other("psync would leave a file of that name out: say --to DEST")),
            false => self.disk.restore(id, below, to),
        };
        match restored {
            Ok(()) => true,
            Err(error) => emit(Answer::Problem(problem(to, "restore", &error))),
        }
    }

    /// `None`: no file any more, or it changed while it was read.
    fn hash_of(&self, path: &RelPath) -> io::Result<Option<Hash>> {
        let Some((above, name)) = path.split().filter(|_| !self.is_left_out(path)) else { return Ok(None) };
        let dir = self.disk.open_dir(&above)?;
        if self.disk.stat(&dir, &name)?.kind != Some(Kind::File) {
            return Ok(None);
        }
        let file = self.disk.open_file(&dir, &name)?;
        let before = self.disk.stat_file(&file)?;
        let hash = match Reading::whole(&self.disk, &file, before.size) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            hash => hash?,
        };
        let after = self.disk.stat_file(&file)?;
        Ok((before == after).then_some(hash))
    }

    fn is_left_out(&self, path: &RelPath) -> bool {
        self.filter.excluded(path) || self.filter.temporary(path)
    }

    /// A hash of what both sides are to have of extended attributes. Capabilities are not among them: a side may refuse
    /// them, and writes take them away.
    fn compared(&self, mut xattrs: Xattrs) -> Option<Hash> {
        xattrs.retain(|name, _| name.starts_with(b"user.") || self.acls && acls::is_list(name));
        let mut bytes = Vec::new();
        for part in xattrs.iter().flat_map(|(name, value)| [name, value]) {
            bytes.extend((part.len() as u64).to_le_bytes());
            bytes.extend(&**part);
        }
        (!xattrs.is_empty()).then(|| Hash::of(&bytes))
    }

    /// `None`: of no kind that travels, or the top of a mount, which is not asked for more: its server may be away.
    fn item(&self, dir: &D::Dir, path: &RelPath, name: &Name, stat: &Stat) -> io::Result<Option<Item>> {
        let travels = !stat.foreign && !self.filter.skips(stat.kind);
        let Some(kind) = stat.kind.filter(|_| travels) else { return Ok(None) };
        let (user, group) = self.disk.principals(stat.uid, stat.gid);
        let file = kind == Kind::File;
        // What cannot be read is not compared.
        let xattrs =
            if kind == Kind::Link { Xattrs::new() } else { self.disk.xattrs(dir, name, kind).unwrap_or_default() };
        // What the owner, the group and others may do, whatever an ACL lets further users do: not all ACLs travel.
        let mode = if kind == Kind::Link { 0 } else { without_acl(stat.mode, &xattrs, None) };
        Ok(Some(Item {
            path: path.clone(),
            kind,
            size: if file { stat.size } else { 0 },
            mtime: if file || kind == Kind::Dir { stat.mtime } else { Time::default() },
            changed: stat.ctime.secs.max(if file { stat.mtime.secs } else { 0 }),
            mode,
            user,
            group,
            target: if kind == Kind::Link { Some(self.disk.read_link(dir, name)?) } else { None },
            xattrs: self.compared(xattrs),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn answers(survey: &Survey<RealDisk>, ask: &Ask) -> Vec<Answer> {
        let mut all = Vec::new();
        survey.answer(ask, |answer| {
            all.push(answer);
            true
        });
        all
    }

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).expect("a path")
    }

    #[test]
    fn a_tree_is_listed_in_order_without_what_does_not_travel() {
        let root = tempfile::tempdir().expect("a directory");
        let at = |name: &str| root.path().join(name);
        fs::create_dir_all(at("b/c")).expect("made");
        for name in ["a", "b/c/x", "b-", "Thumbs.db", "b/y.tmp", "z.psync.ignore"] {
            fs::write(at(name), name).expect("written");
        }
        std::os::unix::fs::symlink("nowhere", at("link")).expect("linked");
        rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("a FIFO");
        fs::create_dir(at(".psync")).expect("made");
        let disk = RealDisk::open_dry(root.path(), "p", Arc::new(NoCover)).expect("a root");
        let survey = Survey::new(disk, Filter::new(&Filters::default()).expect("filters"));
        let listed = answers(&survey, &Ask::List);
        let [Answer::Items { items }, Answer::Special { files: 1 }, Answer::End] = &listed[..] else {
            panic!("{listed:?}")
        };
        let names: Vec<String> = items.iter().map(|i| i.path.to_string()).collect();
        assert_eq!(names, ["a", "b", "b/c", "b/c/x", "b-", "link"]);
        assert_eq!((items[0].size, items[1].size), (1, 0));
        assert_eq!(items[5].target.as_deref(), Some(&b"nowhere"[..]));

        let looked = answers(&survey, &Ask::Look { paths: vec![path("gone"), path("b/c/x"), path("Thumbs.db")] });
        let [Answer::Items { items }, Answer::End] = &looked[..] else { panic!("{looked:?}") };
        assert_eq!(items.iter().map(|i| i.path.to_string()).collect::<Vec<_>>(), ["b/c/x"]);

        let hashed =
            answers(&survey, &Ask::Hash { paths: vec![path("a"), path("b"), path("gone"), path("Thumbs.db")] });
        let [Answer::Hashes { hashes }, Answer::End] = &hashed[..] else { panic!("{hashed:?}") };
        assert_eq!(hashes.iter().map(|(_, h)| *h).collect::<Vec<_>>(), [Some(Hash::of(b"a")), None, None, None]);
        assert!(!at(".psync/p").exists(), "a check makes nothing");
    }

    #[test]
    fn nobody_listening_ends_it() {
        let root = tempfile::tempdir().expect("a directory");
        (0..PIECE * 3).for_each(|n| fs::write(root.path().join(n.to_string()), "").expect("written"));
        let disk = RealDisk::open_dry(root.path(), "p", Arc::new(NoCover)).expect("a root");
        let survey = Survey::new(disk, Filter::new(&Filters::default()).expect("filters"));
        let mut heard = 0;
        survey.answer(&Ask::List, |_| {
            heard += 1;
            false
        });
        assert_eq!(heard, 1);
    }
}
