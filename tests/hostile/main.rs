//! psync under attack: sides that lie, users who race, bytes that make no sense. See docs/testing.md, "Attacks".

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../e2e/support/mod.rs"]
mod support;

mod roll;
mod samples;
mod scene;
mod talk;
mod victims;

mod chaos;
mod floods;
mod fuzz;
mod known;
mod races;
