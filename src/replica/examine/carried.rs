//! What the attributes of an object stand for: those that it has, and those that were agreed on and cannot be had here.

use crate::model::rights::Rights;
use crate::model::{Attrs, Entry, Kind, acls, merge};

use super::super::Replica;
use super::super::archive::{Archive, Row};
use super::super::disk::Disk;
use super::super::metadata::ACL_ACCESS;
use super::super::metadata::acl::without_acl;
use super::Live;

impl<D: Disk, A: Archive> Replica<D, A> {
    /// Whether the live attributes differ from what this side achieved, and what the object stands for.
    pub(super) fn carried(&self, row: &Row, live: &Live) -> (bool, Attrs) {
        let (mut achieved, mut attrs) = (row.live_attrs().clone(), live.attrs.clone());
        if self.settings.keeps_acls {
            let group = |attrs: &Attrs| without_acl(attrs.mode, &attrs.xattrs, None) & 0o070;
            // Where the mode is as it was, an ACL changes it only by taking something from the group.
            if attrs.mode != achieved.mode || group(&achieved) & !group(&attrs) != 0 {
                let acl = row.entry.attrs.xattrs.get(ACL_ACCESS).map(|acl| &**acl);
                achieved.mode = without_acl(achieved.mode, &achieved.xattrs, acl);
                attrs.mode = without_acl(attrs.mode, &attrs.xattrs, acl);
            }
            acls::take(&mut attrs.xattrs, &achieved.xattrs);
        }
        (achieved != attrs, merge::carried(&attrs, &achieved, &row.entry.attrs))
    }

    /// The attributes that a new object brings along.
    pub(super) fn brought(&self, attrs: &Attrs) -> Attrs {
        let mut attrs = attrs.clone();
        if self.settings.keeps_acls {
            attrs.mode = without_acl(attrs.mode, &attrs.xattrs, None);
            attrs.xattrs.retain(|name, _| !acls::is_list(name));
        }
        attrs
    }

    /// Without the rights that were granted to other contents: new ones have what the object here has, as the kernel
    /// takes setuid and capabilities from what is written. Contents that were `agreed` on have what was agreed on as well.
    /// Told in words.
    pub(super) fn entitled(
        &self,
        kind: Kind,
        mut attrs: Attrs,
        live: &Attrs,
        agreed: Option<&Attrs>,
    ) -> (Attrs, Option<String>) {
        let lacking = |held: &Attrs| {
            Rights::granted(kind, &attrs, held, |group, principal| self.disk.is_system(group, principal))
        };
        let lacks = match agreed {
            Some(agreed) => lacking(live).and(lacking(agreed)),
            None => lacking(live),
        };
        if !lacks.any() {
            return (attrs, None);
        }
        lacks.strip(&mut attrs);
        let mut words: Vec<String> = lacks.dropped().into_iter().collect();
        if lacks.owner {
            attrs.user.clone_from(&live.user);
            words.push("the owner".to_owned());
        }
        if lacks.group {
            attrs.group.clone_from(&live.group);
            words.push("the group".to_owned());
        }
        (attrs, Some(words.join(", ")))
    }

    /// Whether contents that this side has, and that are told by no hash, would get rights that they do not have here.
    pub(crate) fn grants_unproven(&self, wanted: &Entry, held: &Attrs) -> bool {
        let is_system = |group, principal: &_| self.disk.is_system(group, principal);
        wanted.hash().is_none() && Rights::granted(wanted.kind(), &wanted.attrs, held, is_system).any()
    }

    /// Whether the row stands for rights that the object never had here: then its contents must be those of the row,
    /// whatever its size and time say.
    pub(crate) fn stands_for_rights(&self, row: &Row) -> bool {
        row.achieved.as_ref().is_some_and(|achieved| {
            let is_system = |group, principal: &_| self.disk.is_system(group, principal);
            Rights::granted(row.entry.kind(), &row.entry.attrs, achieved, is_system).any()
        })
    }
}
