//! Users and groups: by name between machines, by number on each.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::unistd::{Gid, Group, Uid, User};

use crate::config::Owner;
use crate::model::rights::SYSTEM_BELOW;
use crate::model::{OwnerNumber, Principal};

/// What stands for every owner where owners do not travel. The kernel reads this number as "leave it".
const UNSAID: Principal = Principal::Id(u32::MAX);
/// What the other side sends must not fill the memory.
const KNOWN_MAX: usize = 65_536;

/// An answer of the name service is believed for this long; accounts are made and removed while psync runs.
const FRESH: Duration = Duration::from_secs(60);

/// Which of the two name spaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    User,
    Group,
}

/// The name service behind a cache, and what the other side says of names that are unknown here.
#[derive(Debug)]
pub struct Owners {
    mode: Owner,
    names: Cache<(Class, u32), Arc<str>>,
    numbers: Cache<(Class, Arc<str>), u32>,
    /// Names that this side has used, with their numbers here.
    ours: Mutex<Ours>,
    /// The numbers that names have on the other side.
    theirs: Mutex<HashMap<(Class, Arc<str>), u32>>,
}

#[derive(Debug, Default)]
struct Ours {
    all: HashMap<(Class, Arc<str>), u32>,
    untold: Vec<OwnerNumber>,
}

/// This machine's number for an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// It means the same here.
    Known(u32),
    /// The name is unknown here; it is the other side's number, which is nobody's here.
    Number(u32),
    /// There is no number to be had.
    Unknown,
}

impl Found {
    pub fn id(self) -> Option<u32> {
        match self {
            Found::Known(id) | Found::Number(id) => Some(id),
            Found::Unknown => None,
        }
    }
}

impl Default for Owners {
    fn default() -> Owners {
        Owners::new(Owner::Names)
    }
}

impl Owners {
    pub fn new(mode: Owner) -> Owners {
        Owners {
            mode,
            names: Cache::default(),
            numbers: Cache::default(),
            ours: Mutex::default(),
            theirs: Mutex::default(),
        }
    }

    /// Whether owners are neither told nor set.
    pub fn ignored(&self) -> bool {
        self.mode == Owner::Ignore
    }

    /// The travelling form of an object's owner or group.
    pub fn owner(&self, class: Class, id: u32) -> Principal {
        if self.ignored() { UNSAID } else { self.principal(class, id) }
    }

    /// The travelling form of a number, as a line of an ACL has it: its name; the number itself where it has none or
    /// names do not travel, and always for 0.
    pub fn principal(&self, class: Class, id: u32) -> Principal {
        if id == 0 || self.mode == Owner::Numeric {
            return Principal::Id(id);
        }
        let ask = || {
            let name = name_of(class, id)?;
            if let Some(name) = &name {
                self.use_name(class, name, id);
            }
            Ok(name)
        };
        match self.names.get((class, id), ask) {
            Some(name) => Principal::Name(name),
            None => Principal::Id(id),
        }
    }

    /// This machine's number.
    pub fn find(&self, class: Class, principal: &Principal) -> Found {
        let name = match principal {
            // The kernel reads -1 as "leave it".
            Principal::Id(u32::MAX) => return Found::Unknown,
            Principal::Id(id) => return Found::Known(*id),
            Principal::Name(name) => name,
        };
        match self.numbers.get((class, name.clone()), || number_of(class, name)) {
            // No name stands for root: what may be root on one machine is not thereby root on the other.
            Some(0) => Found::Unknown,
            Some(id) => Found::Known(id),
            None => self.number_of_theirs(class, name),
        }
    }

    /// The other side's number for a name that is unknown here, unless it is somebody else's here.
    fn number_of_theirs(&self, class: Class, name: &Arc<str>) -> Found {
        let theirs = self.theirs.lock().unwrap_or_else(PoisonError::into_inner).get(&(class, name.clone())).copied();
        match theirs {
            Some(id) if id != 0 && id != u32::MAX && self.principal(class, id) == Principal::Id(id) => {
                Found::Number(id)
            }
            _ => Found::Unknown,
        }
    }

    /// Whether the principal is root or another user or group of the system, here or on the other side. So is a name that
    /// neither side told the number of.
    pub fn is_system(&self, class: Class, principal: &Principal) -> bool {
        let name = match principal {
            Principal::Id(id) => return *id < SYSTEM_BELOW,
            Principal::Name(name) => name,
        };
        let ours = self.numbers.get((class, name.clone()), || number_of(class, name));
        let theirs = self.theirs.lock().unwrap_or_else(PoisonError::into_inner).get(&(class, name.clone())).copied();
        match (ours, theirs) {
            (None, None) => true,
            (ours, theirs) => ours.into_iter().chain(theirs).any(|id| id < SYSTEM_BELOW),
        }
    }

    fn use_name(&self, class: Class, name: &Arc<str>, id: u32) {
        let mut ours = self.ours.lock().unwrap_or_else(PoisonError::into_inner);
        if ours.all.len() >= KNOWN_MAX {
            ours.all.clear();
        }
        if ours.all.insert((class, name.clone()), id) != Some(id) {
            ours.untold.push(OwnerNumber { group: class == Class::Group, name: name.clone(), id });
        }
    }

    /// The names with numbers that were used since they were asked for last; with `again` all.
    pub fn take_used(&self, again: bool) -> Vec<OwnerNumber> {
        let mut ours = self.ours.lock().unwrap_or_else(PoisonError::into_inner);
        let Ours { all, untold } = &mut *ours;
        if again {
            let number = |((class, name), id): (&(Class, Arc<str>), &u32)| OwnerNumber {
                group: *class == Class::Group,
                name: name.clone(),
                id: *id,
            };
            *untold = all.iter().map(number).collect();
        }
        std::mem::take(untold)
    }

    /// What the other side says of its names.
    pub fn learn(&self, numbers: &[OwnerNumber]) {
        let mut theirs = self.theirs.lock().unwrap_or_else(PoisonError::into_inner);
        for OwnerNumber { group, name, id } in numbers {
            if theirs.len() >= KNOWN_MAX {
                theirs.clear();
            }
            let class = if *group { Class::Group } else { Class::User };
            let new = theirs.insert((class, name.clone()), *id) != Some(*id);
            // Of the system is who is so on either side: the other one hears what number the name has here.
            if new
                && self.mode == Owner::Names
                && let Some(ours) = self.numbers.get((class, name.clone()), || number_of(class, name))
            {
                self.use_name(class, name, ours);
            }
        }
    }
}

fn name_of(class: Class, id: u32) -> nix::Result<Option<Arc<str>>> {
    let name = match class {
        Class::User => User::from_uid(Uid::from_raw(id))?.map(|user| user.name),
        Class::Group => Group::from_gid(Gid::from_raw(id))?.map(|group| group.name),
    };
    Ok(name.filter(|name| !name.is_empty()).map(Arc::from))
}

fn number_of(class: Class, name: &str) -> nix::Result<Option<u32>> {
    Ok(match class {
        Class::User => User::from_name(name)?.map(|user| user.uid.as_raw()),
        Class::Group => Group::from_name(name)?.map(|group| group.gid.as_raw()),
    })
}

#[derive(Debug)]
struct Cache<K, V>(Mutex<HashMap<K, (Instant, Option<V>)>>);

impl<K, V> Default for Cache<K, V> {
    fn default() -> Self {
        Cache(Mutex::new(HashMap::new()))
    }
}

impl<K: Eq + Hash, V: Clone> Cache<K, V> {
    /// The cached answer, or that of `ask`. A name service that is down does not change what it said before: an
    /// owner would seem to change with it.
    fn get(&self, key: K, ask: impl FnOnce() -> nix::Result<Option<V>>) -> Option<V> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.get(&key);
        if let Some((when, value)) = before
            && when.elapsed() < FRESH
        {
            return value.clone();
        }
        let value = match ask() {
            Ok(value) => value,
            Err(_) => before.and_then(|(_, value)| value.clone()),
        };
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(key, (Instant::now(), value.clone()));
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        let owners = Owners::default();
        assert_eq!(owners.principal(Class::User, 0), Principal::Id(0));
        assert_eq!(owners.principal(Class::Group, 0), Principal::Id(0));
        assert_eq!(owners.principal(Class::User, 4_000_000_007), Principal::Id(4_000_000_007));
        for (class, principal, id) in [
            (Class::User, Principal::Id(0), Some(0)),
            (Class::User, Principal::Id(77), Some(77)),
            (Class::User, Principal::Id(u32::MAX), None),
            (Class::User, Principal::Name("root".into()), None),
            (Class::User, Principal::Name("no-such-user".into()), None),
            (Class::User, Principal::Name("".into()), None),
            (Class::User, Principal::Name("a\0b".into()), None),
            (Class::Group, Principal::Name("no-such-group".into()), None),
        ] {
            assert_eq!(owners.find(class, &principal).id(), id, "{class:?} {principal:?}");
        }
        if let Ok(Some(daemon)) = User::from_name("daemon") {
            let principal = owners.principal(Class::User, daemon.uid.as_raw());
            assert_eq!(principal, Principal::Name("daemon".into()));
            assert_eq!(owners.find(Class::User, &principal), Found::Known(daemon.uid.as_raw()));
        }
    }

    /// A number that is nobody's on this machine.
    fn free_number() -> u32 {
        (3_000_000_000..).find(|id| matches!(User::from_uid(Uid::from_raw(*id)), Ok(None))).expect("a free number")
    }

    #[test]
    fn an_unknown_name_takes_the_other_sides_number_if_that_is_nobodys_here() {
        let owners = Owners::default();
        let stranger = Principal::Name("no-such-user".into());
        let say = |id| owners.learn(&[OwnerNumber { group: false, name: "no-such-user".into(), id }]);
        assert_eq!(owners.find(Class::User, &stranger), Found::Unknown);
        let free = free_number();
        say(free);
        assert_eq!(owners.find(Class::User, &stranger), Found::Number(free));
        assert_eq!(owners.find(Class::Group, &stranger), Found::Unknown, "a user's number is no group's");
        let daemon = User::from_name("daemon").expect("asked").expect("there is one").uid.as_raw();
        for id in [0, u32::MAX, daemon] {
            say(id);
            assert_eq!(owners.find(Class::User, &stranger), Found::Unknown, "{id}");
        }
    }

    #[test]
    fn names_that_were_used_are_told_once_and_again_when_asked() {
        let owners = Owners::default();
        let daemon = User::from_name("daemon").expect("asked").expect("there is one").uid.as_raw();
        let want = vec![OwnerNumber { group: false, name: "daemon".into(), id: daemon }];
        for _ in 0..2 {
            owners.principal(Class::User, daemon);
        }
        owners.principal(Class::User, 0);
        assert_eq!(owners.take_used(false), want);
        assert_eq!(owners.take_used(false), []);
        assert_eq!(owners.take_used(true), want);
    }

    #[test]
    fn numbers_travel_as_numbers_and_ignored_owners_not_at_all() {
        let daemon = User::from_name("daemon").expect("asked").expect("there is one").uid.as_raw();
        let of =
            |mode| (Owners::new(mode).owner(Class::User, daemon), Owners::new(mode).principal(Class::User, daemon));
        let (name, id) = (Principal::Name("daemon".into()), Principal::Id(daemon));
        assert_eq!(of(Owner::Names), (name.clone(), name.clone()));
        assert_eq!(of(Owner::Numeric), (id.clone(), id));
        // The lines of an ACL say whom they mean all the same.
        assert_eq!(of(Owner::Ignore), (UNSAID, name));
        assert_eq!(Owners::new(Owner::Ignore).find(Class::User, &UNSAID), Found::Unknown);
    }

    #[test]
    fn a_name_service_that_is_down_changes_nothing() {
        let cache = Cache::<u32, u32>::default();
        assert_eq!(cache.get(1, || Err(nix::Error::EIO)), None);
        let mut known = cache.0.lock().expect("no panic before");
        let old = Instant::now().checked_sub(FRESH).expect("an uptime of a minute");
        known.insert(2, (old, Some(5)));
        drop(known);
        assert_eq!(cache.get(2, || Err(nix::Error::EIO)), Some(5));
        assert_eq!(cache.get(2, || Ok(Some(6))), Some(5), "fresh again");
    }
}
