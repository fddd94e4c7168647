//! What the brain asks of a side: one change of one object, a compare-and-swap each.

use serde::{Deserialize, Serialize};

use super::Source;
use crate::model::{Entry, Generation, NAME_MAX, Name, NodeId, Problem, RelPath, Seq};

/// What must be found under a name for an action to go on. Anything else is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expect {
    /// No row and no object.
    Absent,
    /// The row of this generation, and a live object that equals it.
    Row(Generation),
    /// Exactly what this side reported under this number, be it an object or nothing.
    Report(Seq),
}

/// Where a replaced object goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Displaced {
    Trash,
    /// Beside the winner under this name; if the name is taken by another object, under a name with four more digits.
    Copy(Name),
}

/// Where a side keeps an object that made way for another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kept {
    /// Users see it under this name.
    Beside(RelPath),
    Trash,
    /// It is kept, and the name that it has by now cannot be told.
    Untold,
}

/// What to do with the object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Create or replace the object at the path.
    Put { entry: Entry, expect: Expect, displaced: Displaced, source: Source },
    /// Give the object there the entry's attributes; its contents stay.
    SetAttrs { entry: Entry, expect: Expect },
    /// Rename the node's object, which lies at `from` on this side, to the path.
    /// `expect` speaks of what lies under the new name.
    Move {
        from: RelPath,
        /// The generation of the node's row.
        known: Generation,
        entry: Entry,
        expect: Expect,
    },
    /// Rename the node's object, which lies at `from` on this side, to the path, and the one whose row has the path to where the
    /// node's row is: in both archives the two change places.
    Exchange {
        from: RelPath,
        /// The generation of the node's row.
        known: Generation,
        other: Other,
    },
    /// Remove the object; of a directory what the archive knows below it.
    Remove { expect: Expect, force: bool },
}

/// The node that makes way for another by taking its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Other {
    pub node: NodeId,
    /// The generation of its row.
    pub known: Generation,
    /// Where it lies on this side: at the action's path, or where users have moved it. `None`: they have, and it stays there.
    pub at: Option<RelPath>,
    /// Where it goes, or its row alone: to the place of the node's row.
    pub to: RelPath,
    /// Whether its users have put it there. Else it is on its way, and must not be seen there by more people than before.
    pub stays: bool,
}

impl Other {
    /// What is renamed on this side, one after the other, if the node goes from here to there: in a swap by way of a name that
    /// nothing has.
    pub fn renames(&self, from: &RelPath, path: &RelPath) -> Vec<(RelPath, RelPath)> {
        let Some(aside) = Name::new(&[1; NAME_MAX]).ok().and_then(|name| RelPath::root().join(&name).ok()) else {
            return Vec::new();
        };
        let mut renames = vec![(from.clone(), aside.clone()), (aside, path.clone())];
        renames.splice(1..1, self.at.clone().map(|at| (at, self.to.clone())));
        renames
    }
}

impl Step {
    /// What it does, in one word.
    pub fn word(&self) -> &'static str {
        match self {
            Step::Put { source: Source::Held { .. }, .. } => "copy",
            Step::Put { .. } => "put",
            Step::SetAttrs { .. } => "attributes",
            Step::Move { .. } | Step::Exchange { .. } => "move",
            Step::Remove { .. } => "delete",
        }
    }
}

/// One step for one side, with the row that it makes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Apply {
    pub path: RelPath,
    /// The directory above must be this node; `None`: whatever the path leads to.
    pub parent: Option<NodeId>,
    pub node: NodeId,
    pub step: Step,
    /// The other side has a step of this action to carry out as well: that this one has the row says nothing of it.
    pub joint: bool,
}

/// Row for the side that has the object already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub path: RelPath,
    /// The node of the directory above; `None`: whatever the path leads to.
    pub parent: Option<NodeId>,
    pub node: NodeId,
    /// The report that this confirms.
    pub seq: Seq,
    /// The agreed state; `None`: the object is gone on both sides.
    pub entry: Option<Entry>,
    /// The node lay here until now.
    pub from: Option<RelPath>,
    /// This node, which had the path until now, goes to where the other's row was.
    pub exchanged: Option<NodeId>,
}

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Placed and recorded, durable. The entry is the row's, with the hash that was computed on the way.
    Done {
        entry: Option<Entry>,
        /// What became of the object that had the name before, if one had to make way.
        kept: Option<Kept>,
    },
    /// The expectation did not hold; what is there was reported before this answer.
    Refused,
    /// Somebody has the object open for writing; try again when the endpoint reports it or after a while.
    Busy,
    /// The source could not supply what it had reported; it reports anew.
    NoSource,
    Failed(Problem),
}
