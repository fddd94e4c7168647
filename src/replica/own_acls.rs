//! Own ACLs: where ACLs travel from left to right only, those of the left are never the other side's to say.
//!
//! What the right reports names the ACLs that both sides agreed on. It is a claim: a right side that lies could let people
//! in on the left, or take away what keeps them out. So the left compares each ACL that it is to set or to record with what
//! it knows itself: what it reported, and what its own archive has as agreed. Anything else is left out, and told.

use crate::model::{Entry, Generation, NodeId, RelPath, Xattrs, acls, merge, readable};
use crate::protocol::{Apply, Record, Step};

use super::Replica;
use super::archive::Archive;
use super::disk::Disk;
use super::error::ReplicaError;

/// So many lines a run say that an ACL was left out.
const TOLD: u32 = 20;

impl<D: Disk, A: Archive> Replica<D, A> {
    /// Takes from an action the ACLs that are not this side's own.
    pub fn own_acls_of_action(&mut self, generation: Generation, apply: &mut Apply) -> Result<(), ReplicaError> {
        let (path, node) = (apply.path.clone(), apply.node);
        match &mut apply.step {
            Step::Put { entry, .. } | Step::SetAttrs { entry, .. } => self.own_acls(generation, node, &path, entry),
            Step::Move { from, entry, .. } => self.own_acls(generation, node, from, entry),
            // The rows keep their entries.
            Step::Exchange { .. } | Step::Remove { .. } => Ok(()),
        }
    }

    /// The same of what is to be recorded. If this side has told something newer since, the row gets no signature, and what
    /// lies there goes over it: then the record's own ACLs may be those of the older report.
    pub fn own_acls_of_record(&mut self, generation: Generation, record: &mut Record) -> Result<(), ReplicaError> {
        if self.ledger.get(&record.path).is_none_or(|reported| reported.seq != record.seq) {
            return Ok(());
        }
        match &mut record.entry {
            Some(entry) => self.own_acls(generation, record.node, &record.path, entry),
            None => Ok(()),
        }
    }

    fn own_acls(
        &mut self,
        generation: Generation,
        node: NodeId,
        path: &RelPath,
        entry: &mut Entry,
    ) -> Result<(), ReplicaError> {
        let claims = entry.attrs.xattrs.keys().any(|name| acls::is_list(name));
        if !self.settings.gives_acls || node == generation && !claims {
            return Ok(());
        }
        let row = match self.archive.node(node)? {
            None => self.row_at(path)?,
            row => row,
        };
        let row = row.filter(|row| row.entry.kind() == entry.kind());
        let seen = self.ledger.seen(path);
        let seen = seen
            .filter(|seen| Entry { content: seen.content.clone(), attrs: seen.attrs.clone() }.kind() == entry.kind());
        let agreed = row.as_ref().map(|row| &row.entry.attrs.xattrs);
        let here: Xattrs = match (&row, seen) {
            (Some(row), Some(seen)) => merge::carried(&seen.attrs, row.live_attrs(), &row.entry.attrs).xattrs,
            (None, Some(seen)) => seen.attrs.xattrs.clone(),
            (Some(row), None) => row.entry.attrs.xattrs.clone(),
            (None, None) => Xattrs::new(),
        };
        for name in acls::ALL {
            let claimed = entry.attrs.xattrs.get(name);
            // Where nothing was agreed on, the other side's version, which has none, may have won.
            let agreed = agreed.map_or(claimed.is_none(), |agreed| agreed.get(name) == claimed);
            if agreed || claimed == here.get(name) {
                continue;
            }
            match here.get(name) {
                Some(own) => entry.attrs.xattrs.insert(name.into(), own.clone()),
                None => entry.attrs.xattrs.remove(name),
            };
            self.news.foreign_acls += 1;
            if self.news.foreign_acls <= TOLD {
                let name = readable(name);
                self.news.note(format!(
                    "{path}: the other side changed {name}: left out, since ACLs travel from left to right only \
                     (acl_from_left_only)"
                ));
            }
        }
        Ok(())
    }
}
