//! What can go wrong on one side.

use std::io;

use crate::model::{Problem, ProblemKind, RelPath};

use super::archive::ArchiveError;

/// An archive error ends the endpoint; an error of one path becomes its problem.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error("{path}: {operation}: {error}")]
    Path { path: RelPath, operation: &'static str, error: io::Error },
}

impl ReplicaError {
    /// The problem of a path, or the archive's error.
    pub fn into_problem(self) -> Result<Problem, ArchiveError> {
        match self {
            ReplicaError::Archive(error) => Err(error),
            ReplicaError::Path { path, operation, error } => Ok(problem(&path, operation, &error)),
        }
    }
}

/// Turns a failed operation into the path's problem.
pub fn problem(path: &RelPath, operation: &str, error: &io::Error) -> Problem {
    let kind = match error.kind() {
        io::ErrorKind::PermissionDenied => ProblemKind::Unreadable,
        io::ErrorKind::CrossesDevices => ProblemKind::OtherFileSystem,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ProblemKind::NoSpace,
        io::ErrorKind::InvalidFilename => ProblemKind::TooLong,
        _ => ProblemKind::Io,
    };
    Problem { path: path.clone(), kind, detail: format!("{operation}: {error}") }
}

/// Names the operation and the path of a failed call.
pub trait At<T> {
    fn at(self, path: &RelPath, operation: &'static str) -> Result<T, ReplicaError>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, path: &RelPath, operation: &'static str) -> Result<T, ReplicaError> {
        self.map_err(|error| ReplicaError::Path { path: path.clone(), operation, error })
    }
}
