//! Whether the root still lies where it was opened. What it holds stays open whatever happens to its name.

use crate::model::{Millis, RelPath};
use crate::replica::archive::Archive;
use crate::replica::disk::Disk;

use super::Endpoint;

/// Nothing tells that a file system which is in use was taken away: somebody looks so often, in milliseconds.
const LOOK: Millis = 10_000;

/// When it is looked at.
#[derive(Debug, Default)]
pub(super) struct Doubt {
    /// It may have been moved, deleted or unmounted.
    doubted: bool,
    next: Millis,
}

impl Doubt {
    /// Events below this scope were lost: with those of the root it may itself be.
    pub(super) fn doubt(&mut self, scope: &RelPath) {
        self.doubted |= scope.is_root();
    }

    fn is_due(&mut self, now: Millis) -> bool {
        let due = std::mem::take(&mut self.doubted) || now >= self.next;
        if due {
            self.next = now + LOOK;
        }
        due
    }
}

impl<D: Disk, A: Archive> Endpoint<D, A> {
    /// Whether a session that goes on has no root any more.
    pub(super) fn has_lost_root(&mut self, now: Millis) -> bool {
        self.root.is_due(now) && self.reporting && !self.replica.disk().root_is_there()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_is_looked_at_when_it_is_doubted_and_now_and_then() {
        let mut doubt = Doubt::default();
        assert!(doubt.is_due(1), "at the beginning");
        assert!(!doubt.is_due(2) && !doubt.is_due(LOOK));
        doubt.doubt(&RelPath::new(b"a").expect("a path"));
        assert!(!doubt.is_due(3));
        doubt.doubt(&RelPath::root());
        assert!(doubt.is_due(4) && !doubt.is_due(5));
        assert!(doubt.is_due(4 + LOOK));
    }
}
