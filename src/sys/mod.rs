//! The only unsafe code: system calls that no crate wraps.

pub mod confine;
pub mod inherit;
pub mod lease;
pub mod project;
pub mod sqlite;
pub mod writeback;
