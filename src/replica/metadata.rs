//! Extended attributes, ACLs and owners in their travelling form.

pub mod acl;
pub mod owners;

/// The access ACL of a file or directory.
pub const ACL_ACCESS: &[u8] = b"system.posix_acl_access";
/// The ACL that new objects in a directory get.
pub const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";
/// File capabilities. Lost with every change of owner and every write.
pub const CAPABILITY: &[u8] = b"security.capability";
/// Samba's Windows ACLs.
pub const NTACL: &[u8] = b"security.NTACL";

/// The most bytes, names and values, that the extended attributes of one object may have: a message holds an object's
/// up to three times.
pub const XATTRS_MAX: usize = 256 * 1024;

/// Whether this extended attribute travels. Labels and seals of the machine itself (selinux, ima, evm, trusted) never do.
pub fn travels(name: &[u8]) -> bool {
    matches!(name, ACL_ACCESS | ACL_DEFAULT | CAPABILITY | NTACL)
        || (name.len() > b"user.".len() && name.starts_with(b"user.") && !name.contains(&0))
}

/// Whether the attribute is an ACL, whose value travels in the form of [`acl::Acl`].
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
            assert_eq!(travels(name), expected, "{}", crate::model::readable(name));
        }
    }
}
