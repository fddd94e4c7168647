//! `psync events` and `psync conflicts`: what was propagated, and what met.

use std::io;
use std::thread;
use std::time::Duration;

use serde_json::json;

use super::UsageError;
use super::absent::right_side;
use super::console::print;
use super::human::words;
use super::pair::PairFile;
use crate::config::{self, Settings};
use crate::service::events::{Event, Reader, double_edits, events_of};
use crate::service::log::{escape, utc};

/// Something met.
const MET: u8 = 1;
/// Between two looks at a file that is followed.
const LOOK: Duration = Duration::from_millis(300);

#[derive(Debug, clap::Args)]
pub struct EventOptions {
    /// The pair's name, or the path of its file
    pub pair: String,
    /// Go on with what comes, until interrupted
    #[arg(short, long)]
    pub follow: bool,
    /// A JSON object a line
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
pub struct ConflictOptions {
    /// The pair's name, or the path of its file
    pub pair: String,
    /// One path that was changed on both sides within so many seconds counts as a double edit
    #[arg(long, value_name = "SEC", default_value_t = 900)]
    pub gap: u64,
    /// A JSON object a line
    #[arg(long)]
    pub json: bool,
}

/// Prints what is kept, and with `--follow` what comes.
pub fn events(options: &EventOptions) -> Result<u8, UsageError> {
    let (settings, kept, mut reader) = open(&options.pair)?;
    let shown = |events: &[Event]| {
        let line =
            |event: &Event| if options.json { as_json(event) } else { as_line(event, &settings.program.separator) };
        print(events.iter().map(line).collect::<String>())
    };
    let mut heard = shown(&kept);
    while options.follow && heard {
        thread::sleep(LOOK);
        let new = reader.more().map_err(|e| UsageError(format!("{}: {}", options.pair, words(&e))))?;
        heard = new.is_empty() || shown(&new);
    }
    Ok(0)
}

/// Conflicts and double edits; exit 1 if there are any.
pub fn conflicts(options: &ConflictOptions) -> Result<u8, UsageError> {
    let (settings, kept, _) = open(&options.pair)?;
    let mut found: Vec<(u64, String)> = Vec::new();
    for event in kept.iter().filter(|event| event.method == "CONFLICT") {
        let line = if options.json { as_json(event) } else { as_line(event, &settings.program.separator) };
        found.push((event.when, line));
    }
    for (earlier, event) in double_edits(&kept, options.gap) {
        let line = match options.json {
            true => {
                json!({ "method": "DOUBLE", "path": event.path, "when": event.when, "side": event.side,
                "id": event.id, "before": earlier })
                .to_string()
                    + "\n"
            }
            false => {
                let seconds = event.when.abs_diff(earlier.when);
                let double = Event { method: "DOUBLE".into(), from: None, copy: None, untold: false, ..event.clone() };
                let line = as_line(&double, &settings.program.separator);
                format!("{}{}{} s after {}\n", line.trim_end(), settings.program.separator, seconds, earlier.side)
            }
        };
        found.push((event.when, line));
    }
    found.sort_by_key(|(when, _)| *when);
    let met = !found.is_empty();
    print(found.into_iter().map(|(_, line)| line).collect::<String>());
    Ok(if met { MET } else { 0 })
}

fn open(pair: &str) -> Result<(Settings, Vec<Event>, Reader), UsageError> {
    let pair = PairFile::known(pair)?;
    let (settings, origins) = config::load(&pair.path).map_err(|e| UsageError(e.to_string()))?;
    settings.check().map_err(|e| UsageError(origins.explain(&e)))?;
    if right_side(&pair).is_some() {
        let text = "this host is the right side; its events are kept on the host of its brain";
        return Err(UsageError(format!("{}: {text}", pair.name)));
    }
    let path = events_of(&settings.left.root, &pair.name);
    let cannot = |e: io::Error| UsageError(format!("{}: {}", path.display(), words(&e)));
    let (kept, reader) = Reader::open(&settings.left.root, &pair.name).map_err(cannot)?;
    Ok((settings, kept, reader))
}

/// Time, side, method, number and path; of a move also where it came from, of a conflict where the loser is.
fn as_line(event: &Event, separator: &str) -> String {
    let mut fields =
        vec![utc(event.when).replace(':', "."), event.side.clone(), event.method.clone(), event.id.clone()];
    fields.push(event.path.clone());
    fields.extend(event.from.iter().chain(&event.copy).cloned());
    let mut line = String::new();
    escape(&mut line, &fields.join(separator));
    line.push('\n');
    line
}

fn as_json(event: &Event) -> String {
    serde_json::to_string(event).unwrap_or_default() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_its_fields_between_separators() {
        let event = Event {
            when: 1_700_000_000,
            side: "L".into(),
            method: "MOVE".into(),
            id: "0001f".into(),
            path: "new".into(),
            from: Some("old".into()),
            copy: None,
            untold: false,
            bytes: 0,
        };
        let line = as_line(&event, "|");
        assert!(line.ends_with("|L|MOVE|0001f|new|old\n"), "{line}");
        assert_eq!(serde_json::from_str::<Event>(&as_json(&event)).expect("JSON"), event);
    }
}
