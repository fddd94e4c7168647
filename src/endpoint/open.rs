//! Opens a real endpoint: the root, its archive, its watcher.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::{Accept, Links, Owner, Share};
use crate::filter::{Filter, FilterSettings, Translate};
use crate::model::guard::Limit;
use crate::model::{Millis, Name, RelPath, Side};
use crate::replica::disk::Disk;
use crate::replica::metadata::Rules;
use crate::replica::real::{ARCHIVE, Cover, OwnDir, RealDisk};
use crate::replica::sqlite::SqliteArchive;
use crate::watch::coalesce::Timing;
use crate::watch::inotify::InotifyTree;

use super::flood::Gate;
use super::rsync::Mover;
use super::serve::Inbound;
use super::survey::Scope;
use super::{Done, Endpoint, Settings, Style};

/// A batch of so many actions is part of a burst; a smaller one is finished at once.
const CHAIN_FROM: usize = 64;
/// The descriptors that this process would like to have, and how many are kept for all else but batches.
const DESCRIPTORS: u64 = 16_384;
const KEPT: u64 = 512;
/// The most actions in a batch: a larger one spares no more.
const BATCH: u64 = 2048;

/// Bytes of reports that may wait at a brain on another host: it takes twice as many.
const OPEN_WEIGHT: usize = 48 << 20;

/// An endpoint of a real root.
pub type RealEndpoint = Endpoint<RealDisk, SqliteArchive>;

impl RealEndpoint {
    /// psync's own directory, as this endpoint has it open; `None` in a dry run.
    pub fn own_dir(&self) -> Option<OwnDir> {
        self.replica.disk().own_dir().ok().filter(|_| !self.replica.settings().dry_run)
    }
}

/// What an endpoint is opened with.
#[derive(Debug, Clone)]
pub struct Opening<'a> {
    pub root: &'a Path,
    pub pair: &'a str,
    pub side: Side,
    pub filter: FilterSettings,
    pub timing: Timing,
    pub durable: bool,
    /// Deletions within ten minutes beyond which this side removes nothing more.
    pub max_delete: Limit,
    /// Directories may be removed whatever they hold.
    pub force: bool,
    /// `FROM:TO`, see [`Translate`].
    pub translate: Option<String>,
    /// Days that the trash keeps an object.
    pub trash_days: u32,
    /// The most that the trash holds.
    pub trash_max: Share,
    /// Larger files neither travel nor are taken, in bytes; `None`: there are none.
    pub max_size: Option<u64>,
    pub wait_for_writers: bool,
    /// ACLs travel from left to right only.
    pub acls_from_left: bool,
    pub owner: Owner,
    pub links: Links,
    pub samba_acls: bool,
    /// What the other side may give objects here.
    pub accept: Accept,
    /// Directories of these names are not watched, nor what lies below them.
    pub unwatched: Vec<String>,
    pub style: Style,
    /// A change of a directory makes everything below it worth a look.
    pub recurse: bool,
    /// All contents go through rsync, which is given these words beside psync's own.
    pub rsync: Option<Vec<String>>,
    /// Report what differs at the start, but never deal with it: the open paths are not bounded then.
    pub skip_initial: bool,
    /// Change nothing, the archive and psync's own directories included.
    pub dry_run: bool,
    /// Hears of what was done here.
    pub done: Option<Done>,
}

impl Opening<'_> {
    /// The same for a check.
    pub fn scope(&self) -> Scope {
        Scope {
            filter: self.filter.clone(),
            owner: self.owner,
            links: self.links,
            acls: !self.acls_from_left,
            samba_acls: self.samba_acls,
            rsync: self.rsync.is_some(),
        }
    }
}

/// Opens the root; events go to `sink`, from a thread of the watcher, and so does what runs of rsync tell. Errors say what could not be opened.
pub fn open(
    opening: &Opening<'_>,
    now: Millis,
    sink: impl Fn(Inbound) + Send + Sync + Clone + 'static,
) -> Result<(RealEndpoint, Arc<InotifyTree>), String> {
    let root = opening.root.display();
    let filter = Filter::new(&opening.filter).map_err(|e| e.to_string())?;
    let excluded = filter.clone();
    let events = sink.clone();
    let gate = Gate::default();
    let bring = move |event| gate.admit(event).map(Inbound::Event).into_iter().for_each(&events);
    let watcher = InotifyTree::start(bring, move |path| excluded.excluded(path))
        .map_err(|e| format!("{root}: inotify: {e} (see fs.inotify.max_user_instances)"))?;
    let cover = Arc::new(Covered { tree: watcher.clone(), unwatched: opening.unwatched.clone() });
    let open_disk = if opening.dry_run { RealDisk::open_dry } else { RealDisk::open };
    let disk = open_disk(opening.root, opening.pair, cover).map_err(|e| format!("{root}: {e}"))?;
    let rules = Rules::new(opening.owner, opening.samba_acls).accepting(opening.accept.clone());
    let disk = disk.with_rules(rules, opening.links);
    let identity = disk.root_identity().map_err(|e| format!("{root}: {e}"))?;
    let root = (identity.ino, identity.btime);
    // Even to be opened the archive takes some room.
    disk.ease();
    let own = match disk.own_dir() {
        Err(error) if opening.dry_run && error.kind() == ErrorKind::NotFound => None,
        own => Some(own.map_err(|e| format!("{}: {e}", opening.root.display()))?),
    };
    let archive = match own.filter(|own| !opening.dry_run || own.has(ARCHIVE)) {
        None => SqliteArchive::in_memory(root),
        Some(own) => match SqliteArchive::open_in(&own, root) {
            Err(error) if error.damaged => SqliteArchive::damaged(&own, root, error),
            opened => opened.map(|(archive, _)| archive),
        },
    };
    let archive = archive.map_err(|e| e.to_string())?;
    let replica = crate::replica::Settings {
        side: opening.side,
        durable: opening.durable,
        max_delete: opening.max_delete,
        force: opening.force,
        wait_for_writers: opening.wait_for_writers,
        dry_run: opening.dry_run,
        trash_max: Some(opening.trash_max),
        max_size: opening.max_size.unwrap_or(u64::MAX),
        own_owners: opening.owner == Owner::Ignore,
        keeps_acls: opening.acls_from_left && opening.side == Side::Right,
        gives_acls: opening.acls_from_left && opening.side == Side::Left,
        ..Default::default()
    };
    // No contents pass rsync by with a report.
    let replica = match opening.rsync {
        Some(_) => crate::replica::Settings { inline_max: 0, ..replica },
        None => replica,
    };
    // Nothing that was reported will ever be recorded.
    let open_max = if opening.skip_initial || opening.dry_run { usize::MAX } else { 4096 };
    let translate = match opening.translate.as_deref().map(Translate::new) {
        Some(Err(error)) => return Err(error.to_string()),
        Some(Ok(translate)) => Some(translate),
        None => None,
    };
    let trash_seconds = (!opening.dry_run).then(|| u64::from(opening.trash_days) * 86_400);
    let done = opening.done.clone();
    let settings = Settings {
        replica,
        timing: opening.timing,
        open_max,
        // The left's reports stay within its own process.
        open_weight_max: if opening.side == Side::Right && open_max != usize::MAX { OPEN_WEIGHT } else { usize::MAX },
        style: opening.style,
        recurse: opening.recurse,
        chain_from: CHAIN_FROM,
        batch: batch(descriptors()),
        translate,
        trash_seconds,
        done,
    };
    let mut endpoint = Endpoint::open(disk, archive, filter, settings, now).map_err(|e| e.to_string())?;
    let words = opening.rsync.clone().unwrap_or_default();
    endpoint.move_by(Mover { words, post: Arc::new(move |told| sink(Inbound::Rsync(told))) });
    Ok((endpoint, watcher))
}

struct Covered {
    tree: Arc<InotifyTree>,
    /// Directories of these names are left unwatched, with all below them.
    unwatched: Vec<String>,
}

impl Cover for Covered {
    fn cover(&self, path: &RelPath, dir: BorrowedFd<'_>) -> std::io::Result<()> {
        let left_out = |name: &Name| self.unwatched.iter().any(|n| n.as_bytes() == name.as_bytes());
        if !self.unwatched.is_empty() && path.names().any(|name| left_out(&name)) {
            return Ok(());
        }
        self.tree.cover(path, dir)
    }
}

/// How many descriptors this process may have, after asking for as many as it would like.
fn descriptors() -> u64 {
    let now = getrlimit(Resource::Nofile);
    let wanted = now.maximum.map_or(DESCRIPTORS, |most| most.min(DESCRIPTORS));
    let Some(current) = now.current.filter(|current| *current < wanted) else { return now.current.unwrap_or(wanted) };
    match setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: now.maximum }) {
        Ok(()) => wanted,
        Err(_) => current,
    }
}

/// The size of a batch: the files of one may be open while those of the next are made, and those of either side's records
/// that go before them; and a process may have both sides.
fn batch(descriptors: u64) -> usize {
    usize::try_from((descriptors.saturating_sub(KEPT) / 4).clamp(64, BATCH)).unwrap_or(64)
}

/// Random bytes of the system.
pub fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    // Without a random device the time must do: the number only has to differ from the last one.
    if File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut bytes)).is_err() {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        bytes = now.as_nanos().to_le_bytes();
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_fits_the_descriptors() {
        assert!(descriptors() >= 256);
        for (descriptors, want) in [(0, 64), (1024, 128), (4096, 896), (16_384, 2048), (u64::MAX, 2048)] {
            assert_eq!(batch(descriptors), want, "{descriptors}");
        }
    }
}
