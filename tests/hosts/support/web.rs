//! The pair `web`, set up by the commands of the README and nothing else, and what tests do with it.

use std::fs;
use std::path::Path;

use super::{Host, Lab, package, until};

pub const BRAIN: &str = "psync-brain@web.service";
pub const AGENT: &str = "psync-agent@web.service";
pub const LINK: &str = "psync-link@web.service";
const FILE: &str = "/etc/psync/web.toml";
/// Ends what a test has put before the README's lines.
const MARK: &str = "# As in the README:\n";

/// The blocks of commands of the README's section, each with the host that its first line names.
fn readme() -> Vec<(String, String)> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let section = text.split("\n## Two servers\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let blocks = section.split("```sh\n").skip(1).map(|block| {
        let block = block.split("```").next().unwrap();
        let (first, rest) = block.split_once('\n').unwrap();
        (first.strip_prefix("# on ").unwrap().to_owned(), rest.to_owned())
    });
    blocks.collect()
}

/// The pair, running on both hosts and in sync; `more` are lines at the top of its file.
pub fn web(more: &str) -> Option<Lab> {
    web_after(|host| {
        if !more.is_empty() {
            configure(host, more);
        }
    })
}

/// The pair, running on both hosts and in sync. What `prepare` does on each host comes after psync and the README's file are
/// there, and before anything runs.
pub fn web_after(prepare: impl Fn(&Host)) -> Option<Lab> {
    let lab = Lab::boot()?;
    for host in lab.hosts() {
        host.sh("sed -i 's/ left$/ left files1/; s/ right$/ right files2/' /etc/hosts");
        fs::copy(package(), host.path("/root").join(package().file_name().unwrap())).unwrap();
    }
    for (place, script) in readme() {
        let key = fs::read_to_string(lab.left.path("/etc/psync/ssh/web.pub")).unwrap_or_default();
        let script = script.replace("PUBLIC-KEY", key.trim());
        let hosts = match place.as_str() {
            "both" => vec![&lab.left, &lab.right],
            "the left" => vec![&lab.left],
            "the right" => vec![&lab.right],
            other => panic!("where is {other}?"),
        };
        for host in hosts {
            host.sh(&format!("set -e; export DEBIAN_FRONTEND=noninteractive; cd /root\n{script}"));
            if place == "both" {
                prepare(host);
            }
        }
    }
    in_sync(&lab);
    Some(lab)
}

/// Puts these lines at the top of the pair's file, in place of those that were put there before.
pub fn configure(host: &Host, more: &str) {
    let text = fs::read_to_string(host.path(FILE)).unwrap();
    let own = text.split(MARK).last().unwrap();
    host.write(FILE, &format!("{more}\n{MARK}{own}"));
    host.sh("systemctl daemon-reload");
}

/// What `psync status` tells; nothing if the brain does not run.
pub fn status(lab: &Lab) -> serde_json::Value {
    serde_json::from_str(&lab.left.output("psync status web --json").stdout).unwrap_or_default()
}

pub fn state(lab: &Lab) -> String {
    status(lab)["state"].as_str().unwrap_or_default().to_owned()
}

pub fn in_sync(lab: &Lab) {
    until("the pair is in sync", || state(lab) == "in-sync");
}

/// A number of the status, by its path in it.
pub fn number(lab: &Lab, pointer: &str) -> u64 {
    let status = status(lab);
    status.pointer(pointer).and_then(|value| value.as_u64()).unwrap_or_else(|| panic!("no {pointer} in {status}"))
}

/// Waits until the reason why the right side is not reached holds these words.
pub fn disconnected(lab: &Lab, words: &str) {
    until(&format!("the status says {words:?}"), || {
        let status = status(lab);
        let reason = status.pointer("/link/reason").and_then(|reason| reason.as_str()).unwrap_or_default();
        status["state"] == "disconnected" && reason.contains(words)
    });
}

/// Waits until the file is on that host, with these contents.
pub fn arrives(host: &Host, name: &str, contents: &str) {
    let path = host.path("/srv/web").join(name);
    until(&format!("{name} is on the {}", host.name), || fs::read_to_string(&path).is_ok_and(|text| text == contents));
}

pub fn vanishes(host: &Host, name: &str) {
    let path = host.path("/srv/web").join(name);
    until(&format!("{name} is gone from the {}", host.name), || fs::symlink_metadata(&path).is_err());
}

pub fn write(host: &Host, name: &str, contents: &str) {
    fs::write(host.path("/srv/web").join(name), contents).unwrap();
}

/// Changes on both sides, each in a file of its own, and waits until both are on the other.
pub fn both_ways(lab: &Lab, name: &str) {
    for (from, to) in [(&lab.left, &lab.right), (&lab.right, &lab.left)] {
        let name = format!("{name} from the {}", from.name);
        write(from, &name, &name);
        arrives(to, &name, &name);
    }
}

/// Records of this pair in the host's journal with these fields, their messages a line each.
pub fn records(host: &Host, fields: &str) -> String {
    host.output(&format!("journalctl --sync; journalctl --no-pager -q -o cat PSYNC_PAIR=web {fields}")).stdout
}
