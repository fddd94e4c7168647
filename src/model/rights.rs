//! Rights: what the system grants to an object's contents. They never join contents that they were not granted to.
//!
//! A program that is setuid runs as its owner, one that is setgid as its group, one with a capability as whoever the
//! capability makes of its user; and what belongs to root or to a user of the system is believed by the system. Whoever
//! grants that has looked at the contents. So these attributes are merged with other attributes only as far as one and
//! the same object had them, or two whose contents are equal.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Attrs, Kind, OwnerNumber, Principal, Side, Sides};

/// File capabilities.
pub const CAPABILITY: &[u8] = b"security.capability";
/// Users and groups with numbers below this are the system's.
pub const SYSTEM_BELOW: u32 = 1000;

const SETUID: u32 = 0o4000;
const SETGID: u32 = 0o2000;

/// Which principals are the system's, by what the sides told of the numbers of their names.
#[derive(Debug, Default, Clone)]
pub struct Numbers {
    told: HashMap<(bool, Arc<str>), Sides<Option<u32>>>,
}

impl Numbers {
    /// More names than any machine has. Those that come when it is full count as the system's.
    const MOST: usize = 65_536;

    /// Takes in what a side says of its names.
    pub fn learn(&mut self, side: Side, numbers: &[OwnerNumber]) {
        for OwnerNumber { group, name, id } in numbers {
            let key = (*group, name.clone());
            if self.told.len() >= Self::MOST && !self.told.contains_key(&key) {
                continue;
            }
            self.told.entry(key).or_default()[side] = Some(*id);
        }
    }

    /// Whether either side has such a user or group among the system's. So has one that nobody told the number of.
    pub fn is_system(&self, group: bool, principal: &Principal) -> bool {
        match principal {
            Principal::Id(id) => *id < SYSTEM_BELOW,
            Principal::Name(name) => {
                let told = self.told.get(&(group, name.clone()));
                let mut ids = told.into_iter().flat_map(Sides::values).flatten().peekable();
                ids.peek().is_none() || ids.any(|id| *id < SYSTEM_BELOW)
            }
        }
    }
}

/// Which rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Rights {
    pub setuid: bool,
    pub setgid: bool,
    pub capability: bool,
    /// To belong to root, or to another user of the system.
    pub owner: bool,
    /// The same for a group.
    pub group: bool,
}

impl Rights {
    /// The rights that `wanted` gives to an object that has the attributes `held`: those that it lacks.
    pub fn granted(kind: Kind, wanted: &Attrs, held: &Attrs, is_system: impl Fn(bool, &Principal) -> bool) -> Rights {
        if kind == Kind::Dir {
            return Rights::default();
        }
        let bit = |bit: u32| wanted.mode & bit != 0;
        let (user, group) = (wanted.user == held.user, wanted.group == held.group);
        let capability = wanted.xattrs.get(CAPABILITY);
        Rights {
            setuid: bit(SETUID) && !(held.mode & SETUID != 0 && user),
            setgid: bit(SETGID) && !(held.mode & SETGID != 0 && group),
            capability: capability.is_some() && capability != held.xattrs.get(CAPABILITY),
            owner: !user && is_system(false, &wanted.user),
            group: !group && is_system(true, &wanted.group),
        }
    }

    /// The rights that an object with these attributes has.
    pub fn of(kind: Kind, attrs: &Attrs, is_system: impl Fn(bool, &Principal) -> bool) -> Rights {
        let file = kind != Kind::Dir;
        Rights {
            setuid: file && attrs.mode & SETUID != 0,
            setgid: file && attrs.mode & SETGID != 0,
            capability: file && attrs.xattrs.contains_key(CAPABILITY),
            owner: file && is_system(false, &attrs.user),
            group: file && is_system(true, &attrs.group),
        }
    }

    pub fn any(self) -> bool {
        self.dropped().is_some() || self.to_system()
    }

    /// Whether an object is given to the system.
    pub fn to_system(self) -> bool {
        self.owner || self.group
    }

    /// Those of both.
    pub fn and(self, other: Rights) -> Rights {
        Rights {
            setuid: self.setuid && other.setuid,
            setgid: self.setgid && other.setgid,
            capability: self.capability && other.capability,
            owner: self.owner && other.owner,
            group: self.group && other.group,
        }
    }

    /// Takes the bits and the capability of these rights from attributes. Owners stay.
    pub fn strip(self, attrs: &mut Attrs) {
        if self.setuid {
            attrs.mode &= !SETUID;
        }
        if self.setgid {
            attrs.mode &= !SETGID;
        }
        if self.capability {
            attrs.xattrs.remove(CAPABILITY);
        }
    }

    /// What [`Rights::strip`] takes, in words for people.
    pub fn dropped(self) -> Option<String> {
        let all = [(self.setuid, "setuid"), (self.setgid, "setgid"), (self.capability, "a capability")];
        let words: Vec<&str> = all.into_iter().filter_map(|(has, word)| has.then_some(word)).collect();
        (!words.is_empty()).then(|| words.join(", "))
    }
}

/// Attributes of an object without setuid, setgid and capability; of a directory as they are, whose setgid is no right.
pub fn bare(kind: Kind, attrs: &Attrs) -> (Attrs, Rights) {
    let mut bare = attrs.clone();
    let rights = Rights::of(kind, attrs, |_, _| false);
    rights.strip(&mut bare);
    (bare, rights)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Time, Xattrs};

    fn attrs(mode: u32, user: &str, group: &str, capability: &str) -> Attrs {
        let principal = |name: &str| match name.parse() {
            Ok(id) => Principal::Id(id),
            Err(_) => Principal::Name(name.into()),
        };
        let value = (!capability.is_empty()).then(|| (CAPABILITY.into(), capability.as_bytes().into()));
        let xattrs: Xattrs = value.into_iter().collect();
        Attrs { mode, user: principal(user), group: principal(group), mtime: Time::default(), xattrs }
    }

    fn numbers() -> Numbers {
        let mut numbers = Numbers::default();
        let tell = |group, name: &str, id| OwnerNumber { group, name: name.into(), id };
        numbers.learn(Side::Left, &[tell(false, "alice", 1000), tell(true, "alice", 1000), tell(false, "www", 33)]);
        numbers.learn(Side::Right, &[tell(false, "bob", 5000), tell(false, "www", 5001), tell(true, "bob", 999)]);
        numbers
    }

    #[test]
    fn who_is_the_systems() {
        let numbers = numbers();
        for (group, name, wanted) in [
            (false, "0", true),
            (true, "0", true),
            (false, "999", true),
            (false, "1000", false),
            // Owners that do not travel.
            (false, "4294967295", false),
            (false, "alice", false),
            (true, "alice", false),
            (false, "bob", false),
            (true, "bob", true),
            // Of the system on one side.
            (false, "www", true),
            // A user's number says nothing of a group, and nobody told of these.
            (true, "www", true),
            (false, "carol", true),
        ] {
            let principal = attrs(0, name, name, "").user;
            assert_eq!(numbers.is_system(group, &principal), wanted, "{name} group {group}");
        }
    }

    #[test]
    fn a_number_that_changes_is_believed_and_a_full_memory_fails_safe() {
        let mut numbers = numbers();
        let alice = Principal::Name("alice".into());
        numbers.learn(Side::Left, &[OwnerNumber { group: false, name: "alice".into(), id: 100 }]);
        assert!(numbers.is_system(false, &alice));
        numbers.learn(Side::Left, &[OwnerNumber { group: false, name: "alice".into(), id: 1000 }]);
        assert!(!numbers.is_system(false, &alice));
        for n in 0..Numbers::MOST as u32 + 10 {
            let name: Arc<str> = format!("user{n}").into();
            numbers.learn(Side::Right, &[OwnerNumber { group: false, name, id: 10_000 + n }]);
        }
        assert_eq!(numbers.told.len(), Numbers::MOST);
        assert!(!numbers.is_system(false, &alice));
        assert!(numbers.is_system(false, &Principal::Name(format!("user{}", Numbers::MOST + 9).into())));
    }

    /// What is granted, in letters: setUid, setGid, Capability, Owner, group ("o" for the group's "other" half: `P`).
    fn letters(rights: Rights) -> String {
        let all = [
            (rights.setuid, 'U'),
            (rights.setgid, 'G'),
            (rights.capability, 'C'),
            (rights.owner, 'O'),
            (rights.group, 'P'),
        ];
        all.into_iter().filter_map(|(has, letter)| has.then_some(letter)).collect()
    }

    #[test]
    fn what_an_object_would_be_granted() {
        let numbers = numbers();
        let plain = attrs(0o755, "alice", "alice", "");
        for (wanted, held, granted) in [
            (plain.clone(), plain.clone(), ""),
            // Ordinary owners and modes are no rights.
            (attrs(0o777, "bob", "1005", ""), plain.clone(), ""),
            (attrs(0o4755, "alice", "alice", ""), plain.clone(), "U"),
            (attrs(0o4755, "alice", "alice", ""), attrs(0o4755, "alice", "alice", ""), ""),
            // The bit is its owner's.
            (attrs(0o4755, "bob", "alice", ""), attrs(0o4755, "alice", "alice", ""), "U"),
            (attrs(0o2755, "alice", "1005", ""), attrs(0o2755, "alice", "alice", ""), "G"),
            (attrs(0o2755, "bob", "alice", ""), attrs(0o2755, "alice", "alice", ""), ""),
            (attrs(0o755, "alice", "alice", "x"), plain.clone(), "C"),
            (attrs(0o755, "alice", "alice", "x"), attrs(0o755, "alice", "alice", "y"), "C"),
            (attrs(0o755, "alice", "alice", "x"), attrs(0o755, "bob", "alice", "x"), ""),
            (attrs(0o755, "0", "0", ""), plain.clone(), "OP"),
            (attrs(0o755, "www", "bob", ""), plain.clone(), "OP"),
            (attrs(0o755, "0", "0", ""), attrs(0o700, "0", "0", ""), ""),
            (attrs(0o6755, "0", "0", "x"), plain.clone(), "UGCOP"),
            // To take a right away is no right.
            (plain.clone(), attrs(0o6755, "0", "0", "x"), ""),
        ] {
            let is = |group, principal: &Principal| numbers.is_system(group, principal);
            let found = Rights::granted(Kind::File, &wanted, &held, is);
            assert_eq!(letters(found), granted, "{wanted:?} on {held:?}");
            assert_eq!(found.any(), !granted.is_empty());
            assert_eq!(Rights::granted(Kind::Dir, &wanted, &held, is), Rights::default());
            let (stripped, _) = bare(Kind::File, &wanted);
            let left = Rights::granted(Kind::File, &stripped, &held, is);
            assert!(left.dropped().is_none() && left.to_system() == found.to_system(), "{stripped:?}");
        }
        let dir = attrs(0o2775, "0", "0", "");
        assert_eq!(bare(Kind::Dir, &dir), (dir.clone(), Rights::default()), "a directory's setgid is no right");
    }
}
