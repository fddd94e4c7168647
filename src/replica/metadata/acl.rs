//! POSIX ACLs: the kernel's bytes, and a form that means the same on another machine.
//!
//! Kernel: a 4-byte version (2), then 8 bytes an entry: tag and permissions (2 bytes each), number (4 bytes),
//! all little-endian. Portable: the entries in a fixed order, with owners by name, as postcard writes them.

use serde::{Deserialize, Serialize};

use crate::model::{Principal, Xattrs};

use super::ACL_ACCESS;
use super::owners::{Class, Found, Owners};

const VERSION: [u8; 4] = [2, 0, 0, 0];
const NOBODY: u32 = u32::MAX;

/// Bytes that are no ACL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an ACL: {0}")]
pub struct Malformed(&'static str);

/// Whom an entry speaks of. The order is the kernel's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Who {
    Owner,
    User(OrderedPrincipal),
    OwningGroup,
    Group(OrderedPrincipal),
    Mask,
    Other,
}

/// A principal in a fixed order, so that equal ACLs have equal bytes on all machines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct OrderedPrincipal(Principal);

impl Ord for OrderedPrincipal {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let key = |p: &'_ Self| match &p.0 {
            Principal::Id(id) => (0, *id, None),
            Principal::Name(name) => (1, 0, Some(name.clone())),
        };
        key(self).cmp(&key(other))
    }
}

impl PartialOrd for OrderedPrincipal {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Line {
    who: Who,
    /// `0..=7`: read 4, write 2, execute 1.
    allowed: u8,
}

/// An access control list, valid and in its fixed order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acl {
    lines: Vec<Line>,
}

/// An ACL for this machine's kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelAcl {
    pub bytes: Vec<u8>,
    /// Whether every user and group of it has a number here; lines of others are left out.
    pub whole: bool,
    /// Whether a name is unknown here, and its number is the other side's.
    pub numbered: bool,
}

impl Acl {
    /// Reads the kernel's bytes; its numbers become names by `owners`.
    pub fn from_kernel(bytes: &[u8], owners: &Owners) -> Result<Acl, Malformed> {
        let rest = bytes.strip_prefix(&VERSION).ok_or(Malformed("no version 2"))?;
        let (entries, left) = rest.as_chunks::<8>();
        if !left.is_empty() {
            return Err(Malformed("cut short"));
        }
        let lines = entries.iter().map(|entry| line_from_kernel(*entry, owners)).collect::<Result<Vec<_>, _>>()?;
        Acl::checked(lines)
    }

    /// The kernel's bytes, with this machine's numbers.
    pub fn to_kernel(&self, owners: &Owners) -> KernelAcl {
        let mut entries: Vec<(u16, u32, u16)> = Vec::with_capacity(self.lines.len());
        let mut numbered = false;
        for line in &self.lines {
            let (tag, found) = tag_and_id(&line.who, owners);
            numbered |= matches!(found, Found::Number(_));
            if let Some(id) = found.id() {
                entries.push((tag, id, u16::from(line.allowed)));
            }
        }
        entries.sort_unstable();
        // Two names of one number make two lines; the kernel must not have to choose.
        entries.dedup_by_key(|(tag, id, _)| (*tag, *id));
        let mut bytes = VERSION.to_vec();
        for (tag, id, allowed) in &entries {
            bytes.extend_from_slice(&tag.to_le_bytes());
            bytes.extend_from_slice(&allowed.to_le_bytes());
            bytes.extend_from_slice(&id.to_le_bytes());
        }
        KernelAcl { bytes, whole: entries.len() == self.lines.len(), numbered }
    }

    /// Reads the travelling form.
    pub fn from_portable(bytes: &[u8]) -> Result<Acl, Malformed> {
        let (lines, rest) =
            postcard::take_from_bytes::<Vec<Line>>(bytes).map_err(|_| Malformed("not the travelling form"))?;
        if !rest.is_empty() {
            return Err(Malformed("bytes behind the end"));
        }
        Acl::checked(lines)
    }

    /// The travelling form: equal ACLs have equal bytes.
    pub fn to_portable(&self) -> Result<Vec<u8>, Malformed> {
        postcard::to_stdvec(&self.lines).map_err(|_| Malformed("cannot be encoded"))
    }

    /// What the owning group may do (`0..=7`). Where the ACL cannot be set, these must be the mode's group bits: under
    /// an ACL those are its mask, and would give the group what the ACL denies it.
    pub fn group_bits(&self) -> u32 {
        let of = |who: Who| self.lines.iter().find(|line| line.who == who).map_or(7, |line| u32::from(line.allowed));
        of(Who::OwningGroup) & of(Who::Mask)
    }

    /// As `chmod` does: with a mask the mode's group bits are its, and what the owning group may do stays.
    fn set_mode(&mut self, mode: u32) {
        let masked = self.lines.iter().any(|line| line.who == Who::Mask);
        for line in &mut self.lines {
            let bits = match line.who {
                Who::Owner => mode >> 6,
                Who::Mask => mode >> 3,
                Who::OwningGroup if !masked => mode >> 3,
                Who::Other => mode,
                Who::OwningGroup | Who::User(_) | Who::Group(_) => continue,
            };
            line.allowed = (bits & 7) as u8;
        }
    }

    fn checked(mut lines: Vec<Line>) -> Result<Acl, Malformed> {
        lines.sort();
        if lines.iter().any(|line| line.allowed > 7) {
            return Err(Malformed("unknown permission"));
        }
        if lines.windows(2).any(|pair| pair[0].who == pair[1].who) {
            return Err(Malformed("the same line twice"));
        }
        let has = |who: Who| lines.iter().any(|line| line.who == who);
        if !(has(Who::Owner) && has(Who::OwningGroup) && has(Who::Other)) {
            return Err(Malformed("owner, group or other missing"));
        }
        let named = lines.iter().any(|line| matches!(line.who, Who::User(_) | Who::Group(_)));
        if named && !has(Who::Mask) {
            return Err(Malformed("no mask"));
        }
        Ok(Acl { lines })
    }
}

fn line_from_kernel(entry: [u8; 8], owners: &Owners) -> Result<Line, Malformed> {
    let [tag_low, tag_high, low, high, id @ ..] = entry;
    let id = u32::from_le_bytes(id);
    let named = |class| OrderedPrincipal(owners.principal(class, id));
    let who = match u16::from_le_bytes([tag_low, tag_high]) {
        0x01 => Who::Owner,
        0x02 => Who::User(named(Class::User)),
        0x04 => Who::OwningGroup,
        0x08 => Who::Group(named(Class::Group)),
        0x10 => Who::Mask,
        0x20 => Who::Other,
        _ => return Err(Malformed("unknown tag")),
    };
    if high != 0 {
        return Err(Malformed("unknown permission"));
    }
    Ok(Line { who, allowed: low })
}

fn tag_and_id(who: &Who, owners: &Owners) -> (u16, Found) {
    match who {
        Who::Owner => (0x01, Found::Known(NOBODY)),
        Who::User(named) => (0x02, owners.find(Class::User, &named.0)),
        Who::OwningGroup => (0x04, Found::Known(NOBODY)),
        Who::Group(named) => (0x08, owners.find(Class::Group, &named.0)),
        Who::Mask => (0x10, Found::Known(NOBODY)),
        Who::Other => (0x20, Found::Known(NOBODY)),
    }
}

/// The mode of an object whose access ACL does not travel, but `other` instead or none: under an ACL the group bits are its
/// mask, and would give the group what the ACL lets others do.
pub fn without_acl(mode: u32, xattrs: &Xattrs, other: Option<&[u8]>) -> u32 {
    let acl = xattrs.get(ACL_ACCESS).filter(|acl| Some(&***acl) != other);
    match acl.map(|acl| Acl::from_portable(acl)) {
        None => mode,
        Some(Ok(acl)) => mode & !0o070 | acl.group_bits() << 3,
        // Nobody knows what the group may do.
        Some(Err(_)) => mode & !0o070,
    }
}

/// The extended attributes of an object that gets this mode after them: the mode takes the place of what an access ACL says of the
/// owner, of all others, and of its mask.
pub fn under_mode(mode: u32, xattrs: &Xattrs) -> Xattrs {
    let mut xattrs = xattrs.clone();
    if let Some(acl) = xattrs.get_mut(ACL_ACCESS)
        && let Ok(mut read) = Acl::from_portable(acl)
    {
        read.set_mode(mode);
        if let Ok(bytes) = read.to_portable() {
            *acl = bytes.into();
        }
    }
    xattrs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut bytes = VERSION.to_vec();
        for (tag, allowed, id) in entries {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(allowed.to_le_bytes());
            bytes.extend(id.to_le_bytes());
        }
        bytes
    }

    const PLAIN: [(u16, u16, u32); 3] = [(1, 6, NOBODY), (4, 4, NOBODY), (0x20, 0, NOBODY)];
    const FULL: [(u16, u16, u32); 7] = [
        (1, 7, NOBODY),
        (2, 0, 1),
        (2, 6, 3_000_000_001),
        (4, 5, NOBODY),
        (8, 6, 3_000_000_002),
        (0x10, 6, NOBODY),
        (0x20, 0, NOBODY),
    ];

    #[test]
    fn there_and_back() {
        let owners = Owners::default();
        for entries in [&PLAIN[..], &FULL[..]] {
            let bytes = kernel(entries);
            let acl = Acl::from_kernel(&bytes, &owners).expect("valid");
            let portable = acl.to_portable().expect("encoded");
            assert_eq!(Acl::from_portable(&portable).expect("valid"), acl);
            assert_eq!(acl.to_kernel(&owners), KernelAcl { bytes, whole: true, numbered: false });
        }
    }

    #[test]
    fn the_order_of_the_lines_is_of_no_account() {
        let owners = Owners::default();
        let mut turned = FULL;
        turned.reverse();
        let a = Acl::from_kernel(&kernel(&FULL), &owners).expect("valid");
        let b = Acl::from_kernel(&kernel(&turned), &owners).expect("valid");
        assert_eq!(a.to_portable(), b.to_portable());
        assert_eq!(a.group_bits(), 4, "group r-x under mask rw-");
    }

    #[test]
    fn strangers_are_left_out_and_told() {
        let owners = Owners::default();
        let line = |who, allowed| Line { who, allowed };
        let stranger = OrderedPrincipal(Principal::Name("no-such-user".into()));
        let acl = Acl::checked(vec![
            line(Who::Other, 0),
            line(Who::Mask, 6),
            line(Who::OwningGroup, 0),
            line(Who::User(stranger), 6),
            line(Who::Owner, 6),
        ])
        .expect("valid");
        let here = acl.to_kernel(&owners);
        assert!(!here.whole);
        assert_eq!(here.bytes, kernel(&[(1, 6, NOBODY), (4, 0, NOBODY), (0x10, 6, NOBODY), (0x20, 0, NOBODY)]));
        assert_eq!(acl.group_bits(), 0);
    }

    #[test]
    fn numbers_travel_as_numbers_inside_acls_too() {
        let daemon = nix::unistd::User::from_name("daemon").expect("asked").expect("there is one").uid.as_raw();
        let entries = [PLAIN[0], (2, 4, daemon), PLAIN[1], (0x10, 6, NOBODY), PLAIN[2]];
        let portable = |owners: &Owners| Acl::from_kernel(&kernel(&entries), owners).expect("valid").to_portable();
        let numeric = portable(&Owners::new(crate::config::Owner::Numeric)).expect("encoded");
        let named = portable(&Owners::default()).expect("encoded");
        let holds = |bytes: &[u8]| bytes.windows(6).any(|part| part == b"daemon");
        assert!(holds(&named) && !holds(&numeric));
    }

    #[test]
    fn a_line_of_a_stranger_takes_the_other_sides_number() {
        let owners = Owners::default();
        let line = |who, allowed| Line { who, allowed };
        let stranger = OrderedPrincipal(Principal::Name("no-such-user".into()));
        let lines = vec![
            line(Who::Owner, 6),
            line(Who::User(stranger), 6),
            line(Who::OwningGroup, 0),
            line(Who::Mask, 6),
            line(Who::Other, 0),
        ];
        owners.learn(&[crate::model::OwnerNumber { group: false, name: "no-such-user".into(), id: 3_000_000_001 }]);
        let here = Acl::checked(lines).expect("valid").to_kernel(&owners);
        assert!(here.whole && here.numbered);
    }

    #[test]
    fn malformed_bytes_are_an_error() {
        let owners = Owners::default();
        let good = kernel(&FULL);
        for cut in 0..good.len() {
            assert!(Acl::from_kernel(&good[..cut], &owners).is_err(), "cut at {cut}");
        }
        for (why, entries) in [
            ("unknown tag", vec![(3, 0, 0), PLAIN[0], PLAIN[1], PLAIN[2]]),
            ("permission", vec![(1, 8, NOBODY), PLAIN[1], PLAIN[2]]),
            ("permission, high byte", vec![(1, 0x100, NOBODY), PLAIN[1], PLAIN[2]]),
            ("owner twice", vec![PLAIN[0], PLAIN[0], PLAIN[1], PLAIN[2]]),
            ("no other", vec![PLAIN[0], PLAIN[1]]),
            ("no mask", vec![PLAIN[0], (2, 4, 7), PLAIN[1], PLAIN[2]]),
        ] {
            assert!(Acl::from_kernel(&kernel(&entries), &owners).is_err(), "{why}");
        }
        let mut version = good.clone();
        version[0] = 1;
        assert!(Acl::from_kernel(&version, &owners).is_err(), "version");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let owners = Owners::default();
            let _ = Acl::from_portable(&bytes).map(|acl| acl.to_kernel(&owners));
            let _ = Acl::from_kernel(&bytes, &owners);
        }
    }

    /// The travelling form of an access ACL: the group's permissions, those of user 7, and the mask.
    fn acl(group: u8, user: u8, mask: u8) -> Box<[u8]> {
        let lines = [
            (0x01, 6, u32::MAX),
            (0x02, user, 7),
            (0x04, group, u32::MAX),
            (0x10, mask, u32::MAX),
            (0x20, 0, u32::MAX),
        ];
        let mut kernel = 2_u32.to_le_bytes().to_vec();
        for (tag, allowed, id) in lines {
            kernel.extend(u16::to_le_bytes(tag).into_iter().chain(u16::from(allowed).to_le_bytes()));
            kernel.extend(u32::to_le_bytes(id));
        }
        let acl = Acl::from_kernel(&kernel, &Owners::new(crate::config::Owner::Numeric)).expect("an ACL");
        acl.to_portable().expect("it can be encoded").into()
    }

    #[test]
    fn without_its_acl_the_group_has_what_the_acl_gives_it() {
        let (secret, open, narrow) = (acl(0, 4, 4), acl(5, 7, 7), acl(6, 6, 4));
        for (mode, own, other, wanted) in [
            (0o644, None, None, 0o644),
            (0o640, Some(&secret), None, 0o600),
            (0o4670, Some(&open), None, 0o4650),
            (0o640, Some(&narrow), None, 0o640),
            // The same ACL goes along: the bits are its mask there as well.
            (0o640, Some(&secret), Some(&secret), 0o640),
            (0o640, Some(&secret), Some(&open), 0o600),
            (0o640, None, Some(&secret), 0o640),
        ] {
            let xattrs: Xattrs = own.map(|acl| (ACL_ACCESS.into(), acl.clone())).into_iter().collect();
            assert_eq!(without_acl(mode, &xattrs, other.map(|acl| &**acl)), wanted, "{mode:o} {own:?} {other:?}");
        }
        let xattrs: Xattrs = [(ACL_ACCESS.into(), b"no ACL"[..].into())].into_iter().collect();
        assert_eq!(without_acl(0o674, &xattrs, None), 0o604, "nobody knows what the group may do");
    }

    #[test]
    fn a_mode_takes_the_place_of_the_mask() {
        let xattrs = |acl: &[u8]| -> Xattrs { [(ACL_ACCESS.into(), acl.into())].into_iter().collect() };
        // The mask is narrower; what the group and the named user have of it stays written.
        let (open, narrow) = (acl(5, 7, 7), acl(5, 7, 5));
        let left = under_mode(0o650, &xattrs(&open));
        assert_eq!(left, xattrs(&narrow));
        assert_eq!(under_mode(0o650, &left), left);
        assert_ne!(under_mode(0o655, &left), left, "others may look in");
        assert_eq!(under_mode(0o600, &Xattrs::new()), Xattrs::new());
        let odd: Xattrs = [(ACL_ACCESS.into(), b"no ACL"[..].into())].into_iter().collect();
        assert_eq!(under_mode(0o600, &odd), odd);
    }
}
