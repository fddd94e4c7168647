//! Opens a real endpoint: the root, its archive, its watcher.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::{Accept, Durability, OpenFiles, Owner, SharedSettings};
use crate::filter::Filter;
use crate::model::{Millis, Name, RelPath, Side};
use crate::replica::disk::Disk;
use crate::replica::metadata::Rules;
use crate::replica::real::{ARCHIVE, Cover, OwnDir, RealDisk};
use crate::replica::sqlite::SqliteArchive;
use crate::watch::inotify::InotifyTree;

use super::flood::Gate;
use super::rsync::Mover;
use super::serve::Inbound;
use super::survey::Scope;
use super::{Done, Endpoint, Settings, style};

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
    pub shared: &'a SharedSettings,
    /// What the other side may give objects here.
    pub accept: Accept,
    /// Change nothing, the archive and psync's own directories included.
    pub dry_run: bool,
    /// Hears of what was done here.
    pub done: Option<Done>,
}

impl Opening<'_> {
    /// The same for a check.
    pub fn scope(&self) -> Scope {
        Scope::of(self.shared)
    }

    /// How the replica of this side works.
    fn replica(&self) -> crate::replica::Settings {
        let SharedSettings { looks, attributes, trash, removal, .. } = self.shared;
        let replica = crate::replica::Settings {
            side: self.side,
            durable: self.shared.run.durability == Durability::Full,
            max_delete: removal.limit(),
            force: removal.force,
            wait_for_writers: looks.open_files == OpenFiles::Wait,
            dry_run: self.dry_run,
            trash_max: Some(trash.max),
            max_size: looks.max_size.unwrap_or(u64::MAX),
            own_owners: attributes.owner == Owner::Ignore,
            keeps_acls: attributes.acl_from_left_only && self.side == Side::Right,
            gives_acls: attributes.acl_from_left_only && self.side == Side::Left,
            ..Default::default()
        };
        // No contents pass rsync by with a report.
        let inline_max = if self.shared.transport.uses_rsync() { 0 } else { replica.inline_max };
        crate::replica::Settings { inline_max, ..replica }
    }

    /// How the endpoint works.
    fn settings(&self) -> Settings {
        let SharedSettings { looks, timing, trash, .. } = self.shared;
        // Nothing that was reported will ever be recorded.
        let unbounded = self.shared.run.skip_initial_sync || self.dry_run;
        Settings {
            replica: self.replica(),
            timing: *timing,
            open_max: if unbounded { usize::MAX } else { 4096 },
            // The left's reports stay within its own process.
            open_weight_max: if self.side == Side::Right && !unbounded { OPEN_WEIGHT } else { usize::MAX },
            style: style(looks.style),
            recurse: looks.recurse,
            chain_from: CHAIN_FROM,
            batch: batch(descriptors()),
            translate: looks.translate.clone(),
            trash_seconds: (!self.dry_run).then(|| trash.seconds()),
            done: self.done.clone(),
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
    let shared = opening.shared;
    let filter = Filter::new(&shared.filters).map_err(|e| e.to_string())?;
    let excluded = filter.clone();
    let events = sink.clone();
    let gate = Gate::default();
    let bring = move |event| gate.admit(event).map(Inbound::Event).into_iter().for_each(&events);
    let watcher = InotifyTree::start(bring, move |path| excluded.excluded(path))
        .map_err(|e| format!("{root}: inotify: {e} (see fs.inotify.max_user_instances)"))?;
    let cover = Arc::new(Covered { tree: watcher.clone(), unwatched: shared.looks.unwatched().unwrap_or_default() });
    let open_disk = if opening.dry_run { RealDisk::open_dry } else { RealDisk::open };
    let disk = open_disk(opening.root, opening.pair, cover).map_err(|e| format!("{root}: {e}"))?;
    let rules = Rules::new(shared.attributes.owner, shared.attributes.samba_acls).accepting(opening.accept.clone());
    let disk = disk.with_rules(rules, shared.filters.links);
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
    let mut endpoint = Endpoint::open(disk, archive, filter, opening.settings(), now).map_err(|e| e.to_string())?;
    let words = if shared.transport.uses_rsync() { shared.transport.extra().words } else { Vec::new() };
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
