//! Merging attributes, each by itself.

use super::rights::CAPABILITY;
use super::{Attrs, Xattrs};

/// The attributes that an object stands for: what this side holds where it was changed since `achieved`,
/// what was `agreed` where it was not (and perhaps never could be held here).
pub fn carried(live: &Attrs, achieved: &Attrs, agreed: &Attrs) -> Attrs {
    three_way(achieved, live, agreed)
}

/// Both sides' attributes, given what they last agreed on; where both changed one, the left's.
pub fn merged(ancestor: &Attrs, left: &Attrs, right: &Attrs) -> Attrs {
    three_way(ancestor, left, right)
}

/// The attributes of two objects that were never agreed on: the first's, with the extended attributes that only the second
/// has. But for its capability, which was granted to the second's contents.
pub fn joined(first: &Attrs, second: &Attrs) -> Attrs {
    let mut joined = first.clone();
    for (name, value) in second.xattrs.iter().filter(|(name, _)| ***name != *CAPABILITY) {
        joined.xattrs.entry(name.clone()).or_insert_with(|| value.clone());
    }
    joined
}

/// Takes `first` where it differs from `base`, else `second`.
fn three_way(base: &Attrs, first: &Attrs, second: &Attrs) -> Attrs {
    fn pick<T: Clone + PartialEq>(base: &T, first: &T, second: &T) -> T {
        if first == base { second.clone() } else { first.clone() }
    }
    Attrs {
        mode: pick(&base.mode, &first.mode, &second.mode),
        user: pick(&base.user, &first.user, &second.user),
        group: pick(&base.group, &first.group, &second.group),
        mtime: pick(&base.mtime, &first.mtime, &second.mtime),
        xattrs: pick_each(&base.xattrs, &first.xattrs, &second.xattrs),
    }
}

fn pick_each(base: &Xattrs, first: &Xattrs, second: &Xattrs) -> Xattrs {
    if first == base {
        return second.clone();
    }
    let names = base.keys().chain(first.keys()).chain(second.keys());
    let mut out = Xattrs::new();
    for name in names {
        let chosen = if first.get(name) == base.get(name) { second.get(name) } else { first.get(name) };
        if let Some(value) = chosen {
            out.insert(name.clone(), value.clone());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Principal, Time};

    fn attrs(mode: u32, user: u32, secs: i64, xattrs: &[(&str, &str)]) -> Attrs {
        Attrs {
            mode,
            user: Principal::Id(user),
            group: Principal::Id(0),
            mtime: Time { secs, nanos: 0 },
            xattrs: xattrs.iter().map(|(k, v)| (k.as_bytes().into(), v.as_bytes().into())).collect(),
        }
    }

    #[test]
    fn each_attribute_by_itself_and_the_left_on_a_tie() {
        let base = attrs(0o644, 1, 10, &[("user.a", "1"), ("user.b", "1")]);
        let left = attrs(0o600, 1, 10, &[("user.a", "2"), ("user.b", "1")]);
        let right = attrs(0o640, 2, 20, &[("user.a", "3"), ("user.c", "9")]);
        assert_eq!(merged(&base, &left, &right), attrs(0o600, 2, 20, &[("user.a", "2"), ("user.c", "9")]));
        assert_eq!(merged(&base, &base, &right), right);
        assert_eq!(merged(&base, &left, &base), left);
    }

    #[test]
    fn what_only_one_of_two_strangers_has_both_get() {
        let first = attrs(0o600, 1, 10, &[("user.a", "1"), ("system.posix_acl_access", "1")]);
        let second = attrs(0o644, 2, 20, &[("user.a", "2"), ("user.b", "2"), ("security.capability", "2")]);
        let wanted = [("user.a", "1"), ("user.b", "2"), ("system.posix_acl_access", "1")];
        assert_eq!(joined(&first, &second), attrs(0o600, 1, 10, &wanted));
    }

    #[test]
    fn what_could_not_be_achieved_travels_as_agreed() {
        let agreed = attrs(0o2755, 1000, 10, &[("user.a", "1")]);
        let achieved = attrs(0o755, 0, 10, &[]);
        assert_eq!(carried(&achieved, &achieved, &agreed), agreed);
        let live = attrs(0o700, 0, 10, &[]);
        assert_eq!(carried(&live, &achieved, &agreed), attrs(0o700, 1000, 10, &[("user.a", "1")]));
    }
}
