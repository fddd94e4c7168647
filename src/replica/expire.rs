//! Expiry of the trash: by age, by size, and when the disk fills up. The oldest goes first, and nothing that somebody
//! still has open for writing.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use crate::config::Share;
use crate::model::{Kind, Millis, Name, RelPath};

use super::Replica;
use super::archive::{Archive, TrashItem};
use super::disk::{Disk, Own, Space};
use super::error::{At, ReplicaError};
use super::late::Late;

/// Objects discarded in one slice of work.
const AT_ONCE: usize = 64;
/// Between two slices, in milliseconds.
const SLICE: Millis = 100;
/// The room on the disk is looked at so often.
const LOOK: Millis = 5_000;
/// The ages are looked at so often.
const AGES: Millis = 3_600_000;
/// What cannot be removed is told again after so many seconds, and so many objects at a time.
const STUCK: i64 = 3_600;
const STUCK_MAX: usize = 20;

/// When the trash was looked at, and how much lies in it.
#[derive(Debug, Default)]
pub struct Expiry {
    next_ages: Millis,
    /// Bytes in the trash; `None`: to be added up.
    pub(super) size: Option<u64>,
    /// What could not be discarded for want of a closed file is passed over for a while.
    next_bound: Millis,
    /// Too much lies in it, and what was taken out of it by hand was left out of the count.
    counted: bool,
    /// What could not be removed, and when that was told, in seconds since 1970.
    stuck: BTreeMap<Name, i64>,
}

impl<D: Disk, A: Archive> Replica<D, A> {
    /// Discards some of what has been in the trash for longer than `seconds`, and of the oldest what is beyond
    /// `trash_max` or is in the way on a full disk. The answer: when to come back.
    pub fn expire_trash(&mut self, seconds: u64, now: Millis) -> Result<Millis, ReplicaError> {
        if now >= self.bin.expiry.next_ages {
            let before = self.disk.wall_clock().saturating_sub_unsigned(seconds);
            let more = self.discard_oldest(|item, _| item.since <= before)?.1;
            // Zero days: gone as soon as nobody can write into it any more.
            self.bin.expiry.next_ages = now + if more { SLICE } else { if seconds == 0 { 1_000 } else { AGES } };
        }
        if now >= self.bin.expiry.next_bound {
            self.drop_old_kept();
            let more = self.bound_trash()?;
            self.bin.expiry.next_bound = now + if more { SLICE } else { LOOK };
        }
        Ok(self.bin.expiry.next_ages.min(self.bin.expiry.next_bound))
    }

    /// Looks at ages and room with the next [`Replica::expire_trash`].
    pub fn expire_soon(&mut self) {
        (self.bin.expiry.next_ages, self.bin.expiry.next_bound) = (0, 0);
    }

    /// What was taken out of the trash by hand, or by `psync trash`, counts no more.
    fn forget_taken(&mut self) -> Result<(), ReplicaError> {
        let at = RelPath::root();
        let trash = self.disk.own(Own::Trash).at(&at, "open the trash")?;
        let there: BTreeSet<Name> =
            self.disk.list(&trash).at(&at, "list the trash")?.into_iter().map(|(name, _)| name).collect();
        for item in self.archive.trash()?.into_iter().filter(|item| !there.contains(&item.id)) {
            self.archive.trash_remove(&item.id)?;
        }
        (self.bin.expiry.size, self.bin.expiry.counted) = (None, true);
        self.commit()
    }

    /// True if there is more to discard.
    fn bound_trash(&mut self) -> Result<bool, ReplicaError> {
        let Some(max) = self.settings.trash_max else { return Ok(false) };
        let space = self.disk.space();
        let max = match (max, space) {
            (Share::Amount(bytes), _) => bytes,
            (Share::Percent(percent), Some(space)) => space.total / 100 * u64::from(percent),
            (Share::Percent(_), None) => u64::MAX,
        };
        let mut size = self.trash_size()?;
        if size <= max {
            self.bin.expiry.counted = false;
        } else if !self.bin.expiry.counted {
            self.forget_taken()?;
            size = self.trash_size()?;
        }
        let is_short = |space: Option<Space>| space.is_some_and(|space| space.is_short());
        if size <= max && !is_short(space) {
            return Ok(false);
        }
        let (gone, more) = self.discard_oldest(|_, replica| {
            replica.bin.expiry.size.is_some_and(|size| size > max) || is_short(replica.disk.space())
        })?;
        if gone > 0 {
            let why = if size > max { "it holds more than trash_max" } else { "the disk is nearly full" };
            self.news.note(format!("trash: {gone} objects discarded before their time: {why}"));
        }
        Ok(more && gone > 0)
    }

    /// Discards from the oldest on, as long as `wanted` says so and at most a slice. The answer: how many, and whether
    /// the slice ended it.
    pub(super) fn discard_oldest(
        &mut self,
        wanted: impl Fn(&TrashItem, &Self) -> bool,
    ) -> Result<(usize, bool), ReplicaError> {
        let at = RelPath::root();
        self.trash_size()?;
        let trash = self.disk.own(Own::Trash).at(&at, "open the trash")?;
        let (mut gone, mut more) = (0, false);
        for item in self.archive.trash()? {
            if !wanted(&item, self) {
                break;
            }
            if gone == AT_ONCE {
                more = true;
                break;
            }
            if item.look {
                continue;
            }
            // What is written into it from now on is lost: this is the last look.
            match self.look_at_trashed(&item)? {
                Late::Quiet => {}
                Late::StillOpen => continue,
                // What is left of it is the oldest still.
                Late::Written => {
                    more = true;
                    break;
                }
            }
            match self.disk.discard(&trash, &item.id) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    self.tell_stuck(&item, &error);
                    continue;
                }
                _ => {}
            }
            self.archive.trash_remove(&item.id)?;
            self.bin.expiry.size = self.bin.expiry.size.map(|size| size.saturating_sub(item.size));
            gone += 1;
        }
        if gone > 0 {
            self.commit()?;
        }
        Ok((gone, more))
    }

    /// What cannot be removed is tried again and again, and told once an hour.
    fn tell_stuck(&mut self, item: &TrashItem, error: &io::Error) {
        let now = self.disk.wall_clock();
        self.bin.expiry.stuck.retain(|_, told| (0..STUCK).contains(&(now - *told)));
        if self.bin.expiry.stuck.len() < STUCK_MAX && !self.bin.expiry.stuck.contains_key(&item.id) {
            self.bin.expiry.stuck.insert(item.id.clone(), now);
            self.news.note(format!("trash: {} ({}) cannot be removed: {error}", item.id, item.path));
        }
    }

    pub(super) fn trash_size(&mut self) -> Result<u64, ReplicaError> {
        if let Some(size) = self.bin.expiry.size {
            return Ok(size);
        }
        let size = self.archive.trash()?.iter().map(|item| item.size).sum();
        self.bin.expiry.size = Some(size);
        Ok(size)
    }

    /// Bytes of the files in a directory and all below it, however deep that is.
    pub(super) fn tree_size(&self, dir: &D::Dir, name: &Name) -> u64 {
        let mut size: u64 = 0;
        let mut to_come = vec![(dir.clone(), name.clone())];
        while let Some((above, name)) = to_come.pop() {
            let Ok(dir) = self.disk.open_child(&above, &name, &RelPath::root()) else { continue };
            for (name, stat) in self.disk.list(&dir).unwrap_or_default() {
                match stat.kind {
                    Some(Kind::Dir) => to_come.push((dir.clone(), name)),
                    _ => size = size.saturating_add(stat.size),
                }
            }
        }
        size
    }
}
