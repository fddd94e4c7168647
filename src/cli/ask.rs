//! What is asked of a running brain, at its control socket.

use std::io;

use super::UsageError;
use super::human::words;
use super::pair::PairFile;
use crate::brain::control::{Reply, Request};
use crate::brain::status::Status;
use crate::service::control::{ask, socket_of};

/// What the brain says to a request; its refusal is an error.
pub fn told(pair: &PairFile, request: Request) -> Result<String, UsageError> {
    match talk(pair, request)? {
        Some(Reply::Ok(text)) => Ok(text),
        Some(Reply::Error(text)) => Err(UsageError(format!("{}: {text}", pair.name))),
        Some(Reply::Status(_) | Reply::Settings(_)) => {
            Err(UsageError(format!("{}: the answer makes no sense", pair.name)))
        }
        None => {
            Err(UsageError(format!("{}: not running (no answer at {})", pair.name, socket_of(&pair.name).display())))
        }
    }
}

/// The status of a pair's brain; `None` if none runs.
pub fn look(pair: &PairFile) -> Result<Option<Status>, UsageError> {
    match talk(pair, Request::Status {})? {
        Some(Reply::Status(status)) => Ok(Some(*status)),
        Some(Reply::Error(text)) => Err(UsageError(format!("{}: {text}", pair.name))),
        Some(Reply::Ok(_) | Reply::Settings(_)) => Err(UsageError(format!("{}: the answer makes no sense", pair.name))),
        None => Ok(None),
    }
}

/// The settings that a pair's brain has in force; `None` if none runs, or it does not tell.
pub fn in_force(pair: &PairFile) -> Option<serde_json::Value> {
    match talk(pair, Request::Settings {}) {
        Ok(Some(Reply::Settings(settings))) => Some(settings),
        _ => None,
    }
}

fn talk(pair: &PairFile, request: Request) -> Result<Option<Reply>, UsageError> {
    let named = |what: String| UsageError(format!("{}: {what}", pair.name));
    let line = serde_json::to_string(&request).map_err(|e| named(e.to_string()))?;
    let lines = match ask(&socket_of(&pair.name), &line) {
        Ok(lines) => lines,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => return Ok(None),
        Err(e) => return Err(named(format!("{}: {}", socket_of(&pair.name).display(), words(&e)))),
    };
    let reply = lines.first().and_then(|line| serde_json::from_str(line).ok());
    reply.map(Some).ok_or_else(|| named("the answer makes no sense".to_owned()))
}
