//! What a running brain is told to do: pause, go on, scan both sides.

use std::ffi::OsString;
use std::thread;
use std::time::{Duration, Instant};

use super::ask::{look, told};
use super::console::print;
use super::pair::PairFile;
use super::{UsageError, adhoc, exit};
use crate::brain::control::Request;
use crate::brain::monitor::Exit;
use crate::brain::status::{State, Status};

/// Between two looks at a full sync that runs.
const LOOK: Duration = Duration::from_millis(300);
/// How long whoever resumed a pair waits to hear what is left.
const SOON: Duration = Duration::from_secs(10);
/// Paths that are named in one line.
const NAMED: usize = 5;

/// An order that is done when it is answered.
pub fn order(pair: &PairFile, request: Request, json: bool) -> Result<u8, UsageError> {
    let text = told(pair, request)?;
    tell(pair, &text, json, true);
    Ok(0)
}

/// Goes on, and says what cannot be synchronised all the same, if that is known soon.
pub fn resume(pair: &PairFile, request: Request, json: bool) -> Result<u8, UsageError> {
    let text = told(pair, request)?;
    let begun = Instant::now();
    loop {
        thread::sleep(LOOK);
        let status = look(pair)?;
        let waits = |status: &Status| matches!(status.state, State::InSync | State::Halted | State::Disconnected);
        if status.as_ref().is_none_or(waits) || begun.elapsed() > SOON {
            let (left, code) = status.as_ref().map_or((String::new(), 0), left);
            tell(pair, &format!("{text}{left}"), json, code == 0);
            return Ok(code);
        }
    }
}

/// What is not synchronised, for the end of a line; and the exit code.
fn left(status: &Status) -> (String, u8) {
    let named: Vec<String> = status.problems.iter().take(NAMED).map(|p| format!("{}: {}", p.path, p.text)).collect();
    let more = status.problems_now.saturating_sub(named.len() as u64);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    let code = exit::code(Exit::ProblemsLeft);
    match status.problems_now {
        0 => (String::new(), 0),
        1 => (format!("; 1 path is not synchronised: {}", named.join("; ")), code),
        many => (format!("; {many} paths are not synchronised: {}{more}", named.join("; ")), code),
    }
}

/// Asks for a full sync and waits for its end; without a brain it is done here.
pub fn full_sync(pair: &PairFile, checksum: bool, json: bool, run: adhoc::Run) -> Result<u8, UsageError> {
    let before = match look(pair)? {
        Some(status) => status,
        None => return Ok(alone(pair, checksum, run)),
    };
    told(pair, Request::FullSync { checksum })?;
    let earlier = before.full_sync.map_or(0, |sync| sync.number);
    let begun = Instant::now();
    loop {
        thread::sleep(LOOK);
        let Some(status) = look(pair)? else {
            return Err(UsageError(format!("{}: the brain has ended before the full sync did", pair.name)));
        };
        let done = status.full_sync.as_ref().is_some_and(|sync| sync.number > earlier && sync.ended.is_some());
        if done {
            let (left, code) = left(&status);
            let text = format!("full sync done: {} files in {} s{left}", status.files, begun.elapsed().as_secs());
            tell(pair, &text, json, code == 0);
            return Ok(code);
        }
        if matches!(status.state, State::Halted | State::Disconnected | State::Paused) {
            tell(pair, &format!("the full sync does not end: {}", status.line()), json, false);
            return Ok(exit::LOST);
        }
    }
}

/// `psync -s` on the pair's file.
fn alone(pair: &PairFile, checksum: bool, run: adhoc::Run) -> u8 {
    let mut args: Vec<OsString> = ["psync", "-s", "--as-service", "--pair", &pair.name].map(OsString::from).to_vec();
    if checksum {
        args.push("--checksum".into());
    }
    args.extend(["--config".into(), pair.path.clone().into()]);
    adhoc::main(args, run)
}

fn tell(pair: &PairFile, text: &str, json: bool, ok: bool) {
    let line = match json {
        true => serde_json::json!({ "pair": pair.name, "ok": ok, "text": text }).to_string(),
        false => format!("{}: {text}", pair.name),
    };
    print(format!("{line}\n"));
}
