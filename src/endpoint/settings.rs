//! How an endpoint works.

use std::sync::Arc;

use crate::config::{Timing, Translate};
use crate::model::{Generation, RelPath};

/// How an endpoint works.
#[derive(Debug, Clone)]
pub struct Settings {
    pub replica: crate::replica::Settings,
    pub timing: Timing,
    /// A scan pauses while this many paths are reported and not recorded.
    pub open_max: usize,
    /// Nothing new is told while reports of so many bytes are not recorded: the other side's memory has bounds.
    pub open_weight_max: usize,
    /// Contents that change under one name are looked for under another.
    pub translate: Option<Translate>,
    /// What came into the trash before so many seconds is discarded; `None`: never.
    pub trash_seconds: Option<u64>,
    /// How contents that change between two full syncs are treated.
    pub style: Style,
    /// A change of a directory makes everything below it worth a look.
    pub recurse: bool,
    /// A batch of at least so many actions is finished together with the next one, if there is one.
    pub chain_from: usize,
    /// The most actions or records in a batch; each may hold a file open.
    pub batch: usize,
    /// Hears of what was done here.
    pub done: Option<Done>,
}

/// When contents travel, and how far an echo is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Style {
    /// At once; what looks like an echo is read.
    Verified,
    /// At once.
    #[default]
    Continuous,
    /// With the next full sync; all but contents at once.
    Batched,
}

/// The style of this number in the configuration, which has been checked.
pub fn style(number: u8) -> Style {
    match number {
        1 => Style::Verified,
        3 => Style::Batched,
        _ => Style::Continuous,
    }
}

/// Told of each action that this side has carried out or recorded: its number, what was done, and where.
#[derive(Clone)]
pub struct Done(pub Arc<Hears>);

type Hears = dyn Fn(Generation, &str, &RelPath) + Send + Sync;

impl Done {
    pub(super) fn tell(&self, generation: Generation, what: &str, path: &RelPath) {
        (self.0)(generation, what, path);
    }
}

impl std::fmt::Debug for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Done")
    }
}
