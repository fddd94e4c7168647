//! Users and groups: by name between machines, by number on each.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::unistd::{Gid, Group, Uid, User};

use crate::model::Principal;

/// An answer of the name service is believed for this long; accounts are made and removed while psync runs.
const FRESH: Duration = Duration::from_secs(60);

/// Which of the two name spaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    User,
    Group,
}

/// The name service behind a cache.
#[derive(Debug, Default)]
pub struct Owners {
    names: Cache<(Class, u32), Arc<str>>,
    numbers: Cache<(Class, Arc<str>), u32>,
}

impl Owners {
    /// The travelling form of a number: its name; the number itself where it has none, and always for 0.
    pub fn principal(&self, class: Class, id: u32) -> Principal {
        if id == 0 {
            return Principal::Id(0);
        }
        match self.names.get((class, id), || name_of(class, id)) {
            Some(name) => Principal::Name(name),
            None => Principal::Id(id),
        }
    }

    /// This machine's number; `None`: there is no such name, or no such number, here.
    pub fn id(&self, class: Class, principal: &Principal) -> Option<u32> {
        match principal {
            // The kernel reads -1 as "leave it".
            Principal::Id(u32::MAX) => None,
            Principal::Id(id) => Some(*id),
            // No name stands for root: what may be root on one machine is not thereby root on the other.
            Principal::Name(name) => {
                self.numbers.get((class, name.clone()), || number_of(class, name)).filter(|id| *id != 0)
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
        // What the other side sends must not fill the memory.
        if known.len() >= 65_536 {
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
            assert_eq!(owners.id(class, &principal), id, "{class:?} {principal:?}");
        }
        if let Ok(Some(daemon)) = User::from_name("daemon") {
            let principal = owners.principal(Class::User, daemon.uid.as_raw());
            assert_eq!(principal, Principal::Name("daemon".into()));
            assert_eq!(owners.id(Class::User, &principal), Some(daemon.uid.as_raw()));
        }
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
