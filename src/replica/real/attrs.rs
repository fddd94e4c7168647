//! Attributes of one object: reading those that travel, and setting them in the order that keeps them all.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, StatxFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::Errno;

use crate::config::Accept;
use crate::model::{Attrs, Kind, Time, Xattrs, acls};
use crate::replica::disk::{
    ACL_NAMES, CAPABILITY_REFUSED, GROUP_NAME, GROUP_REFUSED, NotSet, OWNER_NAME, OWNER_REFUSED, SETUID_REFUSED, Unfit,
};
use crate::replica::metadata::acl::{Acl, Malformed};
use crate::replica::metadata::owners::{Class, Found, Owners};
use crate::replica::metadata::{ACL_ACCESS, CAPABILITY, NTACL, Rules, XATTRS_MAX, is_acl};

use super::{beneath, rename};

/// With so many bytes free around it, an attribute without room is itself too large.
const ROOM_AROUND: u64 = 1 << 20;

/// Raw values by name, ACLs as the kernel has them.
type Raw = BTreeMap<Box<[u8]>, Vec<u8>>;

/// The extended attributes of `name` that travel.
pub fn read(dir: BorrowedFd<'_>, name: &[u8], kind: Kind, rules: &Rules) -> io::Result<Xattrs> {
    // A link can hold none of those that travel.
    if kind == Kind::Link {
        return Ok(Xattrs::new());
    }
    portable_all(raw(Reach::Name(&beneath::proc_path_in(dir, name)), rules)?, rules)
}

/// The same of a file that is open, and not by `O_PATH`.
pub fn read_open(file: BorrowedFd<'_>, rules: &Rules) -> io::Result<Xattrs> {
    portable_all(raw(Reach::Open(file), rules)?, rules)
}

/// The same of an object that is held on to.
pub fn read_pinned(object: BorrowedFd<'_>, rules: &Rules) -> io::Result<Xattrs> {
    portable_all(raw(Reach::Pinned(&beneath::proc_path(object)), rules)?, rules)
}

fn portable_all(raw: Raw, rules: &Rules) -> io::Result<Xattrs> {
    let mut found = Xattrs::new();
    for (name, value) in raw {
        let value = if is_acl(&name) { portable(&value, &rules.owners).map_err(invalid)? } else { value };
        found.insert(name, value.into_boxed_slice());
    }
    let bytes: usize = found.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > XATTRS_MAX {
        let text = format!("{bytes} bytes of extended attributes, more than {XATTRS_MAX}");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    Ok(found)
}

/// Gives an object that is held on to the wanted attributes, with no more system calls than it takes. There is no such call
/// for a name: what lies under it may be another's by then.
/// `held`: see [`crate::replica::disk::Disk::set_pinned_attrs`]; `None`: it is psync's alone.
pub fn set_pinned(
    pin: BorrowedFd<'_>,
    kind: Kind,
    wanted: &Attrs,
    held: Option<&Xattrs>,
    rules: &Rules,
) -> io::Result<NotSet> {
    set_on((pin, Some(beneath::proc_path(pin))), kind, wanted, held, rules)
}

/// Sets the mode alone. False if this process may not, or the file system has none.
pub fn set_pinned_mode(pin: BorrowedFd<'_>, mode: u32) -> io::Result<bool> {
    match rustix::fs::chmod(beneath::proc_path(pin).as_str(), Mode::from_raw_mode(mode & 0o7777)) {
        Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
        done => Ok(done.map(|()| true)?),
    }
}

/// The same for a file that is open, and not by `O_PATH`.
pub fn set_open(file: BorrowedFd<'_>, wanted: &Attrs, rules: &Rules) -> io::Result<NotSet> {
    set_on((file, None), Kind::File, wanted, None, rules)
}

/// Whether an attribute has the value that it was seen with.
fn is_as_seen(name: &[u8], now: Option<&Vec<u8>>, held: &Xattrs, rules: &Rules) -> bool {
    let seen = held.get(name).map(|value| &**value);
    match now {
        Some(now) if is_acl(name) => portable(now, &rules.owners).is_ok_and(|now| seen == Some(&*now)),
        now => seen == now.map(|now| &**now),
    }
}

fn set_on(
    (fd, path): (BorrowedFd<'_>, Option<String>),
    kind: Kind,
    wanted: &Attrs,
    held: Option<&Xattrs>,
    rules: &Rules,
) -> io::Result<NotSet> {
    let stat = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
    let expected = match kind {
        Kind::File => FileType::RegularFile,
        Kind::Dir => FileType::Directory,
        Kind::Link => FileType::Symlink,
        Kind::Fifo => FileType::Fifo,
    };
    if FileType::from_raw_mode(u32::from(stat.stx_mode)) != expected {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not the kind of object that was to get attributes"));
    }
    let mode = u32::from(stat.stx_mode) & 0o7777;
    let frozen = rename::flag_in(stat.stx_attributes);
    let mine = stat.stx_uid == rustix::process::geteuid().as_raw();
    let mut object =
        Object { fd, path, kind, mode, frozen, mine, opened: false, touched: false, not_set: NotSet::default() };
    if !rules.owners.ignored() {
        object.own((stat.stx_uid, stat.stx_gid), wanted, rules)?;
    }
    if kind == Kind::Link {
        if !wanted.xattrs.is_empty() {
            object.miss("xattr");
        }
        return Ok(object.not_set);
    }
    let chowned = object.touched;
    let mut present = raw(object.reach(), rules)?;
    if chowned {
        // A change of owner took it away.
        present.remove(CAPABILITY);
    }
    let set = object.set_xattrs(&present, wanted, held, rules);
    if set.is_err() && object.opened {
        object.chmod(mode)?;
    }
    let group_bits = set?;
    object.set_mode(wanted.mode, group_bits, rules, chowned)?;
    object.set_capability(&present, wanted, &rules.accept)?;
    let mtime = Time { secs: stat.stx_mtime.tv_sec, nanos: stat.stx_mtime.tv_nsec };
    if kind == Kind::File && mtime != wanted.mtime {
        object.set_mtime(wanted.mtime)?;
    }
    Ok(object.not_set)
}

/// The object that gets attributes, and how far it is.
struct Object<'a> {
    fd: BorrowedFd<'a>,
    /// By which calls reach it that do not take the descriptor; `None`: they do.
    path: Option<String>,
    kind: Kind,
    mode: u32,
    /// A flag that keeps it as it is, and the option that ends that.
    frozen: Option<(&'static str, &'static str)>,
    /// It belongs to the user that psync runs as.
    mine: bool,
    /// It is writable for the moment.
    opened: bool,
    /// The mode may have changed with another attribute.
    touched: bool,
    not_set: NotSet,
}

impl Object<'_> {
    fn reach(&self) -> Reach<'_> {
        self.path.as_deref().map_or(Reach::Open(self.fd), Reach::Pinned)
    }

    fn miss(&mut self, what: &'static str) {
        if !self.not_set.what.contains(&what) {
            self.not_set.what.push(what);
        }
    }

    fn misses(&self, what: &str) -> bool {
        self.not_set.what.contains(&what)
    }

    fn own(&mut self, now: (u32, u32), wanted: &Attrs, rules: &Rules) -> io::Result<()> {
        let mut find = |class, principal, whose: [&'static str; 3]| {
            let found = rules.owners.find(class, principal);
            if found.id().is_some_and(|number| !rules.accepts(class, number)) {
                // Whose it is it stays.
                self.miss(whose[2]);
                return None;
            }
            match found {
                Found::Known(_) => {}
                Found::Number(_) => self.miss(whose[1]),
                Found::Unknown => self.miss(whose[0]),
            }
            found.id()
        };
        let user = find(Class::User, &wanted.user, ["owner", OWNER_NAME, OWNER_REFUSED]).filter(|id| *id != now.0);
        let group = find(Class::Group, &wanted.group, ["group", GROUP_NAME, GROUP_REFUSED]).filter(|id| *id != now.1);
        if user.is_none() && group.is_none() {
            return Ok(());
        }
        if self.chown(user, group)? {
            return Ok(());
        }
        // A user may give a file to another group of theirs, but not to another user.
        if group.is_some() && (user.is_none() || !self.chown(None, group)?) {
            self.miss("group");
        }
        if user.is_some() {
            self.miss("owner");
        }
        Ok(())
    }

    /// False if this side cannot.
    fn chown(&mut self, user: Option<u32>, group: Option<u32>) -> io::Result<bool> {
        let (user, group) = (user.map(Uid::from_raw), group.map(Gid::from_raw));
        match rustix::fs::chownat(self.fd, c"", user, group, AtFlags::EMPTY_PATH) {
            Ok(()) => {
                self.touched = true;
                Ok(true)
            }
            // EINVAL, EOVERFLOW: a number that a user namespace does not know.
            Err(Errno::INVAL | Errno::OVERFLOW) => Ok(false),
            Err(error) => self.cannot(error),
        }
    }

    /// ACLs and xattrs but capabilities. The answer: what the group bits of the mode must not exceed, since an ACL
    /// could not be set.
    fn set_xattrs(
        &mut self,
        present: &Raw,
        wanted: &Attrs,
        held: Option<&Xattrs>,
        rules: &Rules,
    ) -> io::Result<Option<u32>> {
        let mut group_bits = None;
        let meant = |name: &[u8]| {
            let as_seen = |held| is_as_seen(name, present.get(name), held, rules);
            name != CAPABILITY && (acls::goes_with_mode(name) || held.is_none_or(as_seen))
        };
        for (name, value) in wanted.xattrs.iter().filter(|(name, _)| meant(name)) {
            if !rules.travels(name) {
                // The other side keeps them, and this one was told not to.
                if **name == *NTACL {
                    self.miss("xattr");
                }
                continue;
            }
            if !is_acl(name) {
                self.set_xattr(present, name, value, "xattr")?;
                continue;
            }
            let acl = Acl::from_portable(value).map_err(invalid)?;
            let here = acl.to_kernel(&rules.owners);
            if !here.whole {
                self.miss("acl");
            } else if here.numbered {
                self.miss(ACL_NAMES);
            }
            if !self.set_xattr(present, name, &here.bytes, "acl")? && **name == *ACL_ACCESS {
                group_bits = Some(acl.group_bits());
            }
        }
        for name in present.keys().filter(|name| meant(name) && !wanted.xattrs.contains_key(*name)) {
            if **name == *ACL_ACCESS {
                // Without its ACL the mask would be the group's for a moment; and if it cannot be taken away, the mode
                // must not let those in whom the mask keeps out.
                let narrow = self.mode & (wanted.mode | !0o070) & 0o1777;
                self.chmod(narrow)?;
                if !self.remove_xattr(name, "acl")? {
                    group_bits = Some(group_bits.unwrap_or(7) & (narrow >> 3));
                }
                continue;
            }
            self.remove_xattr(name, if is_acl(name) { "acl" } else { "xattr" })?;
        }
        // What had no room may have it, now that others are gone.
        for unfit in std::mem::take(&mut self.not_set.refused) {
            let Some(value) = wanted.xattrs.get(&unfit.name).filter(|_| !is_acl(&unfit.name)) else {
                self.not_set.refused.push(unfit);
                continue;
            };
            if !self.set_xattr(present, &unfit.name, value, "xattr")? {
                self.miss("xattr");
            }
        }
        Ok(group_bits)
    }

    fn set_mode(&mut self, wanted: u32, group_bits: Option<u32>, rules: &Rules, chowned: bool) -> io::Result<()> {
        let mut mode = wanted & 0o7777;
        if let Some(bits) = group_bits {
            mode &= !0o070 | bits << 3;
        }
        // A program must not run with the rights of whoever happens to own it here.
        if rules.owners.ignored() && self.kind == Kind::File {
            // Those that it has are its user's.
            mode &= !0o6000 | self.mode;
        }
        let mut refused = 0;
        if !rules.accept.setuid && self.kind == Kind::File {
            // Bits that it has already were given here; to another owner they were not.
            let own = if chowned { 0 } else { self.mode };
            refused = mode & 0o6000 & !own;
            if refused != 0 {
                mode &= !refused;
                self.miss(SETUID_REFUSED);
            }
        }
        if self.misses("owner") || self.misses(OWNER_REFUSED) {
            mode &= !0o4000;
        }
        if (self.misses("group") || self.misses(GROUP_REFUSED)) && self.kind == Kind::File {
            mode &= !0o2000;
        }
        if mode | refused != wanted & 0o7777 {
            self.miss("mode");
        }
        if !self.chmod(mode)? {
            self.miss("mode");
            return Ok(());
        }
        // The kernel drops setuid and setgid without a word where the caller is not entitled to them.
        if mode & 0o6000 != 0 {
            let stat = rustix::fs::statx(self.fd, c"", AtFlags::EMPTY_PATH, StatxFlags::MODE)?;
            if u32::from(stat.stx_mode) & 0o7777 != mode {
                self.miss("mode");
            }
        }
        Ok(())
    }

    fn set_capability(&mut self, present: &Raw, wanted: &Attrs, accept: &Accept) -> io::Result<()> {
        match wanted.xattrs.get(CAPABILITY) {
            Some(value) if !accept.capabilities && present.get(CAPABILITY).is_none_or(|own| **own != **value) => {
                self.miss(CAPABILITY_REFUSED);
                // Neither is one kept that the other side has changed.
                match present.contains_key(CAPABILITY) {
                    true => self.remove_xattr(CAPABILITY, "capability").map(drop),
                    false => Ok(()),
                }
            }
            Some(value) => self.set_xattr(present, CAPABILITY, value, "capability").map(drop),
            None if present.contains_key(CAPABILITY) => self.remove_xattr(CAPABILITY, "capability").map(drop),
            None => Ok(()),
        }
    }

    fn set_mtime(&mut self, mtime: Time) -> io::Result<()> {
        // Numbers beyond a second have meanings of their own to the kernel.
        if mtime.nanos >= 1_000_000_000 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a time with more than a second of nanoseconds"));
        }
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: mtime.secs, tv_nsec: mtime.nanos.into() },
        };
        let changed = match &self.path {
            Some(path) => rustix::fs::utimensat(CWD, path.as_str(), &times, AtFlags::empty()),
            None => rustix::fs::futimens(self.fd, &times),
        };
        match changed {
            Ok(()) => {}
            Err(error) => {
                self.cannot(error)?;
                self.miss("mtime");
            }
        }
        Ok(())
    }

    /// Sets it if it is not so already; false if this side cannot hold it.
    fn set_xattr(&mut self, present: &Raw, name: &[u8], value: &[u8], what: &'static str) -> io::Result<bool> {
        if present.get(name).is_some_and(|now| now == value) {
            return Ok(true);
        }
        let set = |object: &Self| match &object.path {
            Some(path) => rustix::fs::setxattr(path.as_str(), name, value, XattrFlags::empty()),
            None => rustix::fs::fsetxattr(object.fd, name, value, XattrFlags::empty()),
        };
        let changed = match set(self) {
            Err(Errno::ACCESS) if name.starts_with(b"user.") && self.open_up()? => set(self),
            other => other,
        };
        match changed {
            Ok(()) => {
                self.touched |= is_acl(name);
                Ok(true)
            }
            Err(error) if self.does_not_fit(error, value.len()) => {
                self.not_set.refused.push(Unfit { name: name.into(), size: value.len() });
                if is_acl(name) {
                    self.miss(what);
                }
                Ok(false)
            }
            Err(error) => {
                self.cannot(error)?;
                self.miss(what);
                Ok(false)
            }
        }
    }

    /// False for the errors that say that this side cannot hold such an attribute; others are errors. So is a flag, which an
    /// administrator will take away again.
    fn cannot(&self, error: Errno) -> io::Result<bool> {
        match (error, self.frozen) {
            (Errno::PERM, Some((word, option))) => {
                Err(io::Error::new(io::ErrorKind::PermissionDenied, rename::forbids("it", word, option)))
            }
            (Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP | Errno::NOSYS, _) => Ok(false),
            _ => Err(error.into()),
        }
    }

    /// Gives the owner of a read-only object the right to write for the moment: extended attributes of users take it. The
    /// wanted mode comes afterwards, by [`Object::set_mode`].
    fn open_up(&mut self) -> io::Result<bool> {
        if !self.mine || self.opened || self.mode & 0o200 != 0 || self.mode & 0o6000 != 0 {
            return Ok(false);
        }
        self.opened = self.chmod(self.mode | 0o200)?;
        Ok(self.opened)
    }

    /// Whether the file system refuses this one attribute: it has no room for so much with an object, or a bound of its own.
    /// On a disk that is full it is not the attribute.
    fn does_not_fit(&self, error: Errno, size: usize) -> bool {
        match error {
            Errno::TOOBIG | Errno::RANGE | Errno::FBIG | Errno::NAMETOOLONG | Errno::INVAL | Errno::DQUOT => true,
            Errno::NOSPC => rustix::fs::fstatvfs(self.fd).is_ok_and(|found| {
                let free = found.f_bavail.saturating_mul(found.f_frsize);
                free > size as u64 + ROOM_AROUND
            }),
            _ => false,
        }
    }

    /// False if this side cannot take it away.
    fn remove_xattr(&mut self, name: &[u8], what: &'static str) -> io::Result<bool> {
        let remove = |object: &Self| match &object.path {
            Some(path) => rustix::fs::removexattr(path.as_str(), name),
            None => rustix::fs::fremovexattr(object.fd, name),
        };
        let changed = match remove(self) {
            Err(Errno::ACCESS) if name.starts_with(b"user.") && self.open_up()? => remove(self),
            other => other,
        };
        match changed {
            Ok(()) => self.touched |= is_acl(name),
            Err(Errno::NODATA) => {}
            Err(error) => {
                self.cannot(error)?;
                self.miss(what);
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn chmod(&mut self, mode: u32) -> io::Result<bool> {
        if mode == self.mode && !self.touched {
            return Ok(true);
        }
        let bits = Mode::from_raw_mode(mode);
        let changed = match &self.path {
            Some(path) => rustix::fs::chmod(path.as_str(), bits),
            None => rustix::fs::fchmod(self.fd, bits),
        };
        match changed {
            Ok(()) => {
                // What is set next may equal what was there before.
                self.touched = true;
                Ok(true)
            }
            Err(error) => self.cannot(error),
        }
    }
}

fn portable(kernel: &[u8], owners: &Owners) -> Result<Vec<u8>, Malformed> {
    Acl::from_kernel(kernel, owners)?.to_portable()
}

fn invalid(error: Malformed) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// How calls reach an object.
#[derive(Debug, Clone, Copy)]
enum Reach<'a> {
    Open(BorrowedFd<'a>),
    /// By the path of the descriptor that holds on to it.
    Pinned(&'a str),
    /// By a name, which may be a link by now.
    Name(&'a [u8]),
}

impl Reach<'_> {
    fn list(self, buffer: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Reach::Open(fd) => rustix::fs::flistxattr(fd, buffer),
            Reach::Pinned(path) => rustix::fs::listxattr(path, buffer),
            Reach::Name(path) => rustix::fs::llistxattr(path, buffer),
        }
    }

    fn get(self, name: &[u8], buffer: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Reach::Open(fd) => rustix::fs::fgetxattr(fd, name, buffer),
            Reach::Pinned(path) => rustix::fs::getxattr(path, name, buffer),
            Reach::Name(path) => rustix::fs::lgetxattr(path, name, buffer),
        }
    }
}

/// The raw values that travel. One call where there are none.
fn raw(object: Reach<'_>, rules: &Rules) -> io::Result<Raw> {
    let names = match filled(|buffer| object.list(buffer)) {
        Err(Errno::OPNOTSUPP) => return Ok(Raw::new()),
        other => other?,
    };
    let mut values = Raw::new();
    for name in names.split(|byte| *byte == 0).filter(|name| rules.travels(name)) {
        match filled(|buffer| object.get(name, buffer)) {
            Ok(value) => values.insert(name.into(), value),
            // Removed meanwhile, or listed by a file system that does not give it out.
            Err(Errno::NODATA | Errno::OPNOTSUPP) => None,
            Err(error) => return Err(error.into()),
        };
    }
    Ok(values)
}

/// What a call puts into its buffer: a small one, or where that does not do the largest that the kernel fills.
fn filled(call: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut small = [0; 512];
    match call(&mut small) {
        Ok(length) => Ok(small[..length.min(small.len())].to_vec()),
        Err(Errno::RANGE) => {
            let mut large = vec![0; 64 * 1024];
            let length = call(&mut large)?;
            large.truncate(length);
            Ok(large)
        }
        Err(error) => Err(error),
    }
}
