//! An action as it is carried out, and why it is not.

use crate::model::{Entry, Generation, NodeId, RelPath};
use crate::protocol::{Expect, Kept};

use super::super::archive::ArchiveError;
use super::super::error::ReplicaError;

/// What every step of an action must know.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Action<'a> {
    pub generation: Generation,
    pub path: &'a RelPath,
    pub node: NodeId,
    /// What is to lie there now.
    pub expect: &'a Expect,
}

impl Action<'_> {
    /// Whether it makes something new: a node has the number of its first action.
    pub fn is_first(&self) -> bool {
        self.node == self.generation
    }
}

/// What an action did.
#[derive(Debug)]
pub(crate) struct Done {
    /// The row's entry; `None`: nothing is left of it.
    pub entry: Option<Entry>,
    /// What became of the object that made way.
    pub kept: Option<Kept>,
}

/// Why an action leaves everything as it is.
#[derive(Debug)]
pub(crate) enum Stop {
    /// What was found is not what was expected: all its paths are looked at again.
    Refused,
    /// This side does not do it, whatever lies there: there is nothing to tell.
    Barred,
    /// Somebody is writing what is to make way.
    Busy,
    Failed(ReplicaError),
}

impl From<ReplicaError> for Stop {
    fn from(error: ReplicaError) -> Stop {
        Stop::Failed(error)
    }
}

impl From<ArchiveError> for Stop {
    fn from(error: ArchiveError) -> Stop {
        Stop::Failed(error.into())
    }
}

/// Whether a part of a larger whole was done. What is refused or busy stays where it is, and is found there.
pub(crate) fn unless_left<T>(done: Result<T, Stop>) -> Result<bool, ReplicaError> {
    match done {
        Ok(_) => Ok(true),
        Err(Stop::Failed(error)) => Err(error),
        Err(Stop::Refused | Stop::Barred | Stop::Busy) => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_is_left_does_not_stop_the_whole() {
        assert!(unless_left(Ok(1)).unwrap());
        for stop in [Stop::Refused, Stop::Barred, Stop::Busy] {
            assert!(!unless_left::<()>(Err(stop)).unwrap());
        }
        let broken = || ReplicaError::Archive(ArchiveError::new("read", "broken"));
        assert!(unless_left::<()>(Err(broken().into())).is_err());
    }
}
