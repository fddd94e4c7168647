//! How many special files of this side do not travel, told when that changes.

use crate::model::{Kind, Millis, Problem, ProblemKind};
use crate::protocol::{Apply, Reply, Step};
use crate::replica::archive::Archive;
use crate::replica::disk::Disk;

use super::Endpoint;

/// So often at most, in milliseconds.
const PAUSE: Millis = 1_000;

/// What was told of them, and when.
#[derive(Debug, Default)]
pub(super) struct Told {
    files: Option<u64>,
    when: Millis,
}

impl<D: Disk, A: Archive> Endpoint<D, A> {
    /// A session begins: whoever listens now knows of none.
    pub(super) fn begin_special(&mut self) {
        if self.replica.count_special() > 0 {
            self.special.files = None;
        }
    }

    fn special_are_news(&self) -> bool {
        self.reporting && self.special.files.unwrap_or(0) != self.replica.count_special()
    }

    pub(super) fn tell_special(&mut self, now: Millis, out: &mut Vec<Reply>) {
        let waits = self.special.files.is_some() && now < self.special.when + PAUSE;
        if !waits && self.special_are_news() {
            let files = self.replica.count_special();
            self.special = Told { files: Some(files), when: now };
            out.push(Reply::Special { files });
        }
    }

    pub(super) fn special_due(&self) -> Option<Millis> {
        self.special_are_news().then_some(self.special.when + PAUSE)
    }

    /// What is wrong with an action that brings a FIFO, if this side was not told to take any.
    pub(super) fn no_fifo(&self, apply: &Apply) -> Option<Problem> {
        let (Step::Put { entry, .. } | Step::SetAttrs { entry, .. }) = &apply.step else { return None };
        let refused = entry.kind() == Kind::Fifo && self.replica.filter().skips(Some(Kind::Fifo));
        let word = self.replica.settings().side.word();
        let detail = format!("a FIFO, and the {word} side takes none (special = \"skip\")");
        refused.then(|| Problem { path: apply.path.clone(), kind: ProblemKind::Unsupported, detail })
    }
}
