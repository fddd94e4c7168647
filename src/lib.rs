//! psync keeps two directory trees aligned, in real time and both ways.
//!
//! The way of a change, and the modules in the order in which it meets them:
//!
//! ```text
//! inotify ─▶ watch ─▶ coalesce ─▶ examine ─▶ [link] ─▶ reconcile ─▶ plan ─▶ supply ═▶ stage ─▶ place ─▶ record
//!           events    dirty paths  Change              Conflict?    Action   bytes      file     file     archive
//! └────────────── source replica ─────────────┘ └──── brain ────┘ └─ source ─┘ └──── other replica ────┘ └ both ┘
//! ```

pub mod model;
pub mod protocol;

pub mod filter;
pub mod watch;

pub mod replica;

pub mod engine;
pub mod transfer;

pub mod link;

pub mod endpoint;

pub mod brain;
pub mod service;

pub mod config;

pub mod cli;

pub mod pulse;
pub mod sys;
