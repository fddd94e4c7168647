//! Extended attributes, ACLs and owners in their travelling form.

pub mod acl;
pub mod owners;

use crate::config::{Accept, Owner};
use crate::model::Principal;
use owners::{Class, Found, Owners};

/// What of an object's attributes takes part, and how owners are named.
#[derive(Debug, Default)]
pub struct Rules {
    pub owners: Owners,
    /// Samba's Windows ACLs travel.
    pub samba_acls: bool,
    /// What the other side may give objects here.
    pub accept: Accept,
}

impl Rules {
    pub fn new(owner: Owner, samba_acls: bool) -> Rules {
        Rules { owners: Owners::new(owner), samba_acls, accept: Accept::default() }
    }

    /// The same on a side that takes no more than this.
    pub fn accepting(self, accept: Accept) -> Rules {
        Rules { accept, ..self }
    }

    /// Whether this side takes an owner of this number.
    pub fn accepts(&self, class: Class, number: u32) -> bool {
        let is_named = |name: &str| {
            let principal = Principal::Name(name.into());
            // "root" stands for no number elsewhere; here it is a line of the administrator's.
            self.owners.find(class, &principal) == Found::Known(number) || name == "root" && number == 0
        };
        self.accept.owner(class == Class::Group, number, is_named)
    }

    /// Whether this extended attribute travels. Labels and seals of the machine itself (selinux, ima, evm, trusted)
    /// never do.
    pub fn travels(&self, name: &[u8]) -> bool {
        matches!(name, ACL_ACCESS | ACL_DEFAULT | CAPABILITY)
            || (name == NTACL && self.samba_acls)
            || (name.len() > b"user.".len() && name.starts_with(b"user.") && !name.contains(&0))
    }
}

pub use crate::model::acls::{ACL_ACCESS, ACL_DEFAULT, NTACL};
/// File capabilities. Lost with every change of owner and every write.
pub use crate::model::rights::CAPABILITY;

/// The most bytes, names and values, that the extended attributes of one object may have: a message holds an object's
/// up to three times.
pub const XATTRS_MAX: usize = 256 * 1024;

/// Whether the attribute is a POSIX ACL, whose value travels in the form of [`acl::Acl`].
pub fn is_acl(name: &[u8]) -> bool {
    matches!(name, ACL_ACCESS | ACL_DEFAULT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_travels() {
        for (name, expected) in [
            (&b"user.x"[..], true),
            (b"user.DOSATTRIB", true),
            (b"user.", false),
            (b"user.a\0b", false),
            (b"users.x", false),
            (b"system.posix_acl_access", true),
            (b"system.posix_acl_default", true),
            (b"system.nfs4_acl", false),
            (b"security.capability", true),
            (b"security.NTACL", true),
            (b"security.selinux", false),
            (b"security.ima", false),
            (b"security.evm", false),
            (b"trusted.overlay.opaque", false),
            (b"", false),
        ] {
            let kept = Rules::new(Owner::Names, true);
            assert_eq!(kept.travels(name), expected, "{}", crate::model::readable(name));
            let plain = Rules::default().travels(name);
            assert_eq!(plain, expected && name != NTACL, "without samba_acls: {}", crate::model::readable(name));
        }
    }
}
