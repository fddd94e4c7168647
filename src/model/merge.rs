//! Merging attributes, each by itself.

use super::acls::ACL_ACCESS;
use super::rights::CAPABILITY;
use super::{Attrs, Kind, Xattrs};

/// The attributes that an object stands for: what this side holds where it was changed since `achieved`,
/// what was `agreed` where it was not (and perhaps never could be held here).
pub fn carried(live: &Attrs, achieved: &Attrs, agreed: &Attrs) -> Attrs {
    three_way(achieved, live, agreed)
}

/// Both sides' attributes, given what they last agreed on; where both changed one, the left's, and of the mode what both allow.
pub fn merged(kind: Kind, ancestor: &Attrs, left: &Attrs, right: &Attrs) -> Attrs {
    let mut merged = three_way(ancestor, left, right);
    if left.mode != ancestor.mode && right.mode != ancestor.mode {
        merged.mode = narrower(kind, left.mode, right.mode);
    }
    merged
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

/// The mode of two objects whose modes nobody brought together: the first's. But a class of users of which either kept out
/// readers may do no more than both let it do. What lies in a directory was made under the mode of its own side.
pub fn narrower(kind: Kind, first: u32, second: u32) -> u32 {
    // To read; and to enter, if it is a directory.
    let sees = if kind == Kind::Dir { 0o5 } else { 0o4 };
    let class = |shift: u32| {
        let (own, other) = (first >> shift & 7, second >> shift & 7);
        (if own & !other & sees != 0 { own & other } else { own }) << shift
    };
    first & !0o077 | class(3) | class(0)
}

/// Whether the attributes of a directory let in more people than those before, and keep nobody out whom those let in. Another
/// owner does: the former one may give himself rights no more.
pub fn only_opens(was: &Attrs, is: &Attrs) -> bool {
    let same = (&was.user, &was.group, &was.xattrs) == (&is.user, &is.group, &is.xattrs);
    same && is.mode & !was.mode & 0o777 != 0 && was.mode & !is.mode & 0o777 == 0
}

/// The mode with which an object goes to another name while what became of its rights is told only after that: the agreed
/// one, without what its side keeps from somebody by now. Whoever it belonged to may be anybody since.
pub fn closed(agreed: &Attrs, now: &Attrs) -> u32 {
    let class = |shift: u32| now.mode >> shift & 7;
    let same_acl = agreed.xattrs.get(ACL_ACCESS) == now.xattrs.get(ACL_ACCESS);
    // With an ACL these bits are its mask, and it may keep out one of all others.
    let (group, others) = if same_acl { (class(3), class(0)) } else { (0, 0) };
    let owner = if agreed.user == now.user { class(6) } else { group & others };
    let (group, others) = match agreed.group == now.group {
        true => (group, others),
        false => (group & others, group & others),
    };
    agreed.mode & (0o7000 | owner << 6 | group << 3 | others)
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
        let file = |left: &Attrs, right: &Attrs| merged(Kind::File, &base, left, right);
        assert_eq!(file(&left, &right), attrs(0o600, 2, 20, &[("user.a", "2"), ("user.c", "9")]));
        assert_eq!(file(&base, &right), right);
        assert_eq!(file(&left, &base), left);
        // Whoever closed it meant it.
        let (open, closed) = (attrs(0o664, 1, 10, &[]), attrs(0o600, 1, 10, &[]));
        assert_eq!((file(&open, &closed).mode, file(&closed, &open).mode), (0o600, 0o600));
    }

    #[test]
    fn what_only_one_of_two_strangers_has_both_get() {
        let first = attrs(0o600, 1, 10, &[("user.a", "1"), ("system.posix_acl_access", "1")]);
        let second = attrs(0o644, 2, 20, &[("user.a", "2"), ("user.b", "2"), ("security.capability", "2")]);
        let wanted = [("user.a", "1"), ("user.b", "2"), ("system.posix_acl_access", "1")];
        assert_eq!(joined(&first, &second), attrs(0o600, 1, 10, &wanted));
    }

    #[test]
    fn neither_lets_in_whom_the_other_kept_out() {
        let all = [
            (Kind::Dir, 0o755, 0o700, 0o700),
            (Kind::Dir, 0o700, 0o755, 0o700),
            (Kind::Dir, 0o755, 0o750, 0o750),
            (Kind::Dir, 0o2775, 0o755, 0o2775),
            (Kind::Dir, 0o2775, 0o700, 0o2700),
            (Kind::Dir, 0o1777, 0o711, 0o1711),
            (Kind::Dir, 0o750, 0o705, 0o700),
            (Kind::Dir, 0o744, 0o744, 0o744),
            (Kind::Dir, 0o733, 0o733, 0o733),
            (Kind::File, 0o4755, 0o644, 0o4755),
            (Kind::File, 0o644, 0o600, 0o600),
            (Kind::File, 0o664, 0o640, 0o660),
        ];
        for (kind, first, second, want) in all {
            let told = narrower(kind, first, second);
            assert_eq!(told, want, "{kind:?} {first:o} and {second:o}: {told:o}");
        }
    }

    #[test]
    fn what_could_not_be_achieved_travels_as_agreed() {
        let agreed = attrs(0o2755, 1000, 10, &[("user.a", "1")]);
        let achieved = attrs(0o755, 0, 10, &[]);
        assert_eq!(carried(&achieved, &achieved, &agreed), agreed);
        let live = attrs(0o700, 0, 10, &[]);
        assert_eq!(carried(&live, &achieved, &agreed), attrs(0o700, 1000, 10, &[("user.a", "1")]));
    }

    #[test]
    fn what_goes_elsewhere_lets_in_nobody_whom_its_side_keeps_out() {
        let acl = [("system.posix_acl_access", "1")];
        let of = |mode: u32, user: u32, group: u32, xattrs: &[(&str, &str)]| Attrs {
            group: Principal::Id(group),
            ..attrs(mode, user, 1, xattrs)
        };
        for (agreed, now, wanted) in [
            (of(0o644, 1, 10, &[]), of(0o644, 1, 10, &[]), 0o644),
            (of(0o644, 1, 10, &[]), of(0o600, 1, 10, &[]), 0o600),
            (of(0o644, 1, 10, &[]), of(0o755, 1, 10, &[]), 0o644),
            (of(0o4755, 1, 10, &[]), of(0o750, 1, 10, &[]), 0o4750),
            (of(0o666, 1, 10, &[]), of(0o644, 1, 10, &[]), 0o644),
            // Whose it was is one of all others now.
            (of(0o600, 1, 10, &[]), of(0o600, 2, 10, &[]), 0o000),
            (of(0o644, 1, 10, &[]), of(0o644, 2, 10, &[]), 0o444),
            (of(0o664, 1, 10, &[]), of(0o660, 1, 11, &[]), 0o600),
            (of(0o644, 1, 10, &[]), of(0o604, 1, 11, &[]), 0o600),
            // What an ACL takes from somebody cannot be said by a mode.
            (of(0o640, 1, 10, &acl), of(0o640, 1, 10, &[]), 0o600),
            (of(0o640, 1, 10, &[]), of(0o640, 1, 10, &acl), 0o600),
            (of(0o640, 1, 10, &acl), of(0o640, 1, 10, &acl), 0o640),
        ] {
            assert_eq!(closed(&agreed, &now), wanted, "{agreed:?} {now:?}");
        }
    }
}
