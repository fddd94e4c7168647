//! ACLs: the extended attributes that say who may do what with an object beside its mode. `acl_from_left_only` speaks of
//! these; all other extended attributes travel both ways.

use super::Xattrs;

/// The access ACL of a file or directory.
pub const ACL_ACCESS: &[u8] = b"system.posix_acl_access";
/// The ACL that new objects in a directory get.
pub const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";
/// Samba's Windows ACLs.
pub const NTACL: &[u8] = b"security.NTACL";

/// The names of all of them.
pub const ALL: [&[u8]; 3] = [ACL_ACCESS, ACL_DEFAULT, NTACL];

/// Whether the attribute is one of them.
pub fn is_list(name: &[u8]) -> bool {
    ALL.contains(&name)
}

/// Whether it says who may do what with the object itself, as the mode does; a default ACL speaks of objects to come.
pub fn goes_with_mode(name: &[u8]) -> bool {
    is_list(name) && name != ACL_DEFAULT
}

/// Gives `xattrs` the ACLs of `other` in the place of its own.
pub fn take(xattrs: &mut Xattrs, other: &Xattrs) {
    xattrs.retain(|name, _| !is_list(name));
    xattrs.extend(other.iter().filter(|(name, _)| is_list(name)).map(|(name, value)| (name.clone(), value.clone())));
}

/// Whether two objects have the same extended attributes, ACLs left out.
pub fn same_beside(one: &Xattrs, other: &Xattrs) -> bool {
    fn rest(xattrs: &Xattrs) -> impl Iterator<Item = (&Box<[u8]>, &Box<[u8]>)> {
        xattrs.iter().filter(|(name, _)| !is_list(name))
    }
    rest(one).eq(rest(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&[u8], &[u8])]) -> Xattrs {
        pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    #[test]
    fn acls_are_taken_and_nothing_else() {
        let mut own = of(&[(ACL_ACCESS, b"1"), (b"user.a", b"1"), (NTACL, b"1")]);
        let other = of(&[(ACL_ACCESS, b"2"), (ACL_DEFAULT, b"2"), (b"user.a", b"2"), (b"user.b", b"2")]);
        assert!(!same_beside(&own, &other));
        take(&mut own, &other);
        assert_eq!(own, of(&[(ACL_ACCESS, b"2"), (ACL_DEFAULT, b"2"), (b"user.a", b"1")]));
        assert!(same_beside(&own, &of(&[(b"user.a", b"1")])));
    }
}
