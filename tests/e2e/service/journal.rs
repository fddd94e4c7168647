//! The fields of the records, as a journal gets them.

use std::collections::BTreeMap;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::sync::{Arc, Mutex};

use super::house::{House, PAIR, PSYNC_BRAIN};
use crate::support::users::*;
use crate::support::{PATIENCE, poll, process, tools};

type Record = BTreeMap<String, String>;

/// The journal's own protocol: `KEY=value` on a line, or `KEY`, the length as 8 bytes, and the value.
fn record(mut bytes: &[u8]) -> Record {
    let mut fields = Record::new();
    while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
        let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match line.iter().position(|b| *b == b'=') {
            Some(at) => {
                fields.insert(text(&line[..at]), text(&line[at + 1..]));
                bytes = rest;
            }
            None => {
                let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
                fields.insert(text(line), text(&rest[8..8 + length]));
                bytes = &rest[8 + length + 1..];
            }
        }
    }
    fields
}

#[test]
fn every_record_of_a_change_has_its_fields() {
    if !process::is_root() || !tools::has("unshare") {
        return;
    }
    let mut house = House::new("debug = 2\nmax_size = 1000\n");
    // A journal of its own, in a name space of its own.
    let journal = house.beside("journal");
    mkdir(&journal);
    let socket = UnixDatagram::bind(journal.join("socket")).unwrap();
    let records: Arc<Mutex<Vec<Record>>> = Arc::default();
    let hears = records.clone();
    std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 20];
        while let Ok(length) = socket.recv(&mut buffer) {
            hears.lock().unwrap().push(record(&buffer[..length]));
        }
    });
    let script = "mount -t tmpfs psync-e2e /run && mkdir -p /run/systemd/journal && \
                  mount --bind \"$1\" /run/systemd/journal && exec \"$2\" \"$3\" --log journal";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script, "sh"]).arg(&journal).arg(PSYNC_BRAIN).arg(&house.config);
    if !house.start_as(command) {
        return tools::missing("the right to mount in a name space of its own");
    }
    house.wait_in_sync();

    write(house.left.join("both"), "one\n");
    house.wait_for(|house| house.right.join("both").exists());
    assert_eq!(house.psync(&["pause", PAIR]).code(), 0);
    write(house.left.join("both"), "left, and longer\n");
    write(house.right.join("both"), "right, and longer still\n");
    write(house.left.join("large"), "1".repeat(1001));
    // Both say that the large one is left.
    for order in ["resume", "fullsync"] {
        assert_eq!(house.psync(&[order, PAIR]).code(), 8, "{order}");
    }

    let all = || records.lock().unwrap().clone();
    let with = |key: &str, value: &str| {
        let found = all().into_iter().find(|r| r.get(key).is_some_and(|v| v == value));
        found.unwrap_or_else(|| panic!("no record with {key}={value}: {:#?}", all()))
    };
    let put = with("PSYNC_METHOD", "RSYNC");
    assert_eq!((put["PSYNC_PAIR"].as_str(), put["PSYNC_SIDE"].as_str()), (PAIR, "R"));
    assert_eq!((put["PSYNC_PATH"].as_str(), put["SYSLOG_IDENTIFIER"].as_str()), ("both", "psync-brain"));
    let id = put["PSYNC_EVENT_ID"].clone();
    assert!(id.len() == 5 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
    let story: Vec<Record> = all().into_iter().filter(|r| r.get("PSYNC_EVENT_ID") == Some(&id)).collect();
    assert!(story.len() >= 2, "begun and recorded: {story:#?}");

    // What operators act on, by the numbers of the catalog.
    for (name, id) in psync::service::log::message_id::ALL {
        let told = ["in sync", "link up", "problem", "conflict", "full sync"].contains(name);
        if told {
            let found = || all().iter().any(|r| r.get("MESSAGE_ID").is_some_and(|m| m == id));
            assert!(poll(PATIENCE, found), "no record of {name}: {:#?}", all());
        }
    }
    assert_eq!(with("MESSAGE_ID", psync::service::log::message_id::CONFLICT)["PSYNC_PATH"], "both");
    house.stop();
}

#[test]
fn both_hosts_log_a_change_under_one_number() {
    let mut house = House::new("");
    // An agent with a log of its own, as on another host.
    let mut settings = psync::config::SharedSettings::default();
    settings.run.debug = 1;
    let (script, log) = (house.beside("agent.sh"), house.beside("right.log"));
    let words = ["--stdio", "--root", house.right.to_str().unwrap(), "--pair", PAIR, "--log", log.to_str().unwrap()];
    let json = serde_json::to_string(&settings).unwrap();
    let program = crate::support::PSYNC;
    write(&script, format!("exec {program} --agent-mode {} --settings '{json}'\n", words.join(" ")));
    house.right_behind(&format!("sh {}", script.display()));
    house.configure("debug = 1\n");
    house.start(&[]);
    house.wait_in_sync();
    write(house.left.join("one"), "one\n");
    write(house.right.join("two"), "two\n");
    house.wait_for(|house| house.right.join("one").exists() && house.left.join("two").exists());
    house.wait_in_sync();
    house.stop();

    // The number of the line that tells of this path.
    let number = |text: &str, words: &str, path: &str| {
        let line = text.lines().find(|line| line.contains(words) && line.contains(&format!(" path={path}")));
        let line = line.unwrap_or_else(|| panic!("no {words} {path} in:\n{text}"));
        line.split(" event_id=").nth(1).unwrap()[..5].to_owned()
    };
    let (left, right) = (house.said(), read(&log));
    assert_eq!(number(&left, "action put on the right side", "one"), number(&right, "done: put", "one"));
    assert_eq!(number(&left, "action put on the left side", "two"), number(&right, "done: record", "two"));
}
