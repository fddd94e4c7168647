//! `psync doctor`: looks at everything that a pair needs, and says of what is wrong how to mend it. It changes nothing.

mod line;

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::UsageError;
use super::absent::right_side;
use super::ask::look;
use super::console::print;
use super::neighbours::{self, Which};
use super::outside;
use super::pair::PairFile;
use super::roots::{self, Allowed};
use crate::brain::doctor::{examine, examine_here};
use crate::brain::status::{State, Status};
use crate::config::{self, Settings};
use crate::link::failure::Explanation;
use crate::model::Side;
use crate::protocol::survey::Examination;
use crate::protocol::survey::Finding;
use crate::service::control::socket_of;
use crate::service::log::escape;

/// Something is wrong.
const WRONG: u8 = 1;
/// Clocks may differ by so much, in milliseconds: of two edits the newer wins, by the clocks of both hosts.
const APART: i64 = 2_000;

#[derive(Debug, clap::Args)]
pub struct DoctorOptions {
    /// The pair's name, or the path of its file
    pub pair: String,
    /// As one JSON object
    #[arg(long)]
    pub json: bool,
}

/// The exit code: 0 all is well, 1 something is wrong.
pub fn main(options: &DoctorOptions) -> Result<u8, UsageError> {
    let pair = PairFile::known(&options.pair)?;
    let mut report = Report::default();
    report.examine(&pair);
    print(if options.json { report.as_json(&pair.name) } else { report.as_text() });
    Ok(if report.well() { 0 } else { WRONG })
}

/// What was found, in the order of looking; of the pair itself, or of one side.
#[derive(Debug, Default)]
struct Report {
    findings: Vec<(Option<Side>, Finding)>,
}

impl Report {
    fn pair(&mut self, finding: Finding) {
        self.findings.push((None, finding));
    }

    fn side(&mut self, side: Side, finding: Finding) {
        self.findings.push((Some(side), finding));
    }

    fn well(&self) -> bool {
        self.findings.iter().all(|(_, finding)| finding.ok)
    }

    fn examine(&mut self, pair: &PairFile) {
        let settings = match settings(pair) {
            Ok(settings) => settings,
            Err(error) => {
                let mend = "mend the line that is named; conf/psync.toml has every key";
                return self.pair(Finding::wrong("configuration", error.to_string(), mend));
            }
        };
        self.pair(Finding::ok("configuration", pair.path.display().to_string()));
        if let Some((agent, serves)) = right_side(pair) {
            return self.right_host(&settings, pair, agent, serves);
        }
        // Each side is asked for its rsync.
        for found in outside::findings(&settings).into_iter().filter(|found| found.key != "transfer") {
            let mend = "correct that key, or install the program; `psync config check FILE` says the same";
            self.pair(Finding::wrong("configuration", found.to_string(), mend));
        }
        self.brain(pair);
        self.apart(&settings);
        if let Err(error) = neighbours::check(&neighbours::of_pair(&pair.name, &settings), Which::Configured) {
            let mend = "exclude the inner root in the outer pair's file (excludes), or name another root";
            self.pair(Finding::wrong("roots", error.to_string(), mend));
        }
        line::findings(pair, &settings).into_iter().for_each(|found| self.side(Side::Left, found));
        let left = self.examined(&settings, pair, Side::Left);
        let asked = millis();
        let right = self.examined(&settings, pair, Side::Right);
        let answered = millis();
        if let (Some(left), Some(right)) = (left, right) {
            self.compare(&settings, &left, &right, (asked, answered));
        }
    }

    /// The brain, its socket, and how the pair is.
    fn brain(&mut self, pair: &PairFile) {
        let name = &pair.name;
        match look(pair) {
            Ok(None) => self.pair(Finding::ok("brain", format!("does not run (systemctl start psync-brain@{name})"))),
            Ok(Some(status)) => {
                self.pair(Finding::ok("brain", format!("runs, process {}", status.pid)));
                self.pair(state(name, &status));
                if status.version != env!("CARGO_PKG_VERSION") {
                    let found = format!("the brain is {}, this command {}", status.version, env!("CARGO_PKG_VERSION"));
                    self.pair(Finding::wrong("version", found, format!("systemctl restart psync-brain@{name}")));
                }
            }
            Err(error) => {
                let mend = format!(
                    "be root, whoever runs the brain, or in the group psync-operators; {}",
                    socket_of(name).display()
                );
                self.pair(Finding::wrong("brain", error.to_string(), mend));
            }
        }
    }

    /// On the host of the right side only that can be looked at.
    fn right_host(&mut self, settings: &Settings, pair: &PairFile, agent: String, serves: bool) {
        let found = format!(
            "this host is the right side, {agent}; `psync doctor {}` on the left host looks at both",
            pair.name
        );
        self.pair(match serves {
            true => Finding::ok("host", found),
            false => Finding::wrong("host", found, format!("journalctl -u psync-agent@{}", pair.name)),
        });
        let root = &settings.right.root;
        if let Err(error) = roots::check("right root", root, Allowed::NOTHING) {
            let mend = "make it, mount it, or correct right.root in the pair's file";
            return self.side(Side::Right, Finding::wrong("root", error.to_string(), mend));
        }
        match examine_here(settings, &pair.name, Side::Right) {
            Ok(found) => found.findings.iter().for_each(|finding| self.side(Side::Right, finding.clone())),
            Err(reason) => {
                self.side(Side::Right, Finding::wrong("root", reason, "psync must be able to read it"));
            }
        }
    }

    /// Two roots on this host must be two trees.
    fn apart(&mut self, settings: &Settings) {
        let allowed = Allowed::NOTHING;
        if !settings.is_local() {
            return;
        }
        let left = roots::check("left root", &settings.left.root, allowed);
        let right = roots::check("right root", &settings.right.root, allowed);
        if let (Ok(left), Ok(right)) = (left, right)
            && let Err(error) = roots::check_apart(&left, &right)
        {
            self.pair(Finding::wrong("roots", error.to_string(), "name two trees, neither inside the other"));
        }
    }

    /// What a side says of itself; nothing if it cannot be reached, which is told.
    fn examined(&mut self, settings: &Settings, pair: &PairFile, side: Side) -> Option<Examination> {
        let here = side == Side::Left || settings.is_local();
        let root = if side == Side::Left { &settings.left.root } else { &settings.right.root };
        if here && let Err(error) = roots::check(&format!("{} root", side.word()), root, Allowed::NOTHING) {
            let mend = format!("make it, mount it, or correct {}.root in the pair's file", side.word());
            self.side(side, Finding::wrong("root", error.to_string(), mend));
            return None;
        }
        match examine(settings, &pair.name, &pair.right(settings), side) {
            Ok(found) => {
                if !here {
                    self.side(side, Finding::ok("link", "an agent answers"));
                }
                found.findings.iter().for_each(|finding| self.side(side, finding.clone()));
                Some(found)
            }
            Err(why) if here => {
                let mend = "psync must be able to read it, and /proc must be mounted";
                self.side(side, Finding::wrong("root", why.to_string(), mend));
                None
            }
            Err(Explanation { what, cure }) => {
                let look = format!("on the right host: journalctl -u psync-agent@{}, or `psync init` anew", pair.name);
                self.side(side, Finding::wrong("link", what, if cure.is_empty() { look } else { cure }));
                None
            }
        }
    }

    /// What must be alike on both sides.
    fn compare(&mut self, settings: &Settings, left: &Examination, right: &Examination, asked: (i64, i64)) {
        self.pair(match left.program == right.program {
            true => Finding::ok("versions", format!("both are {}", left.program)),
            false => {
                let found = format!("left {}, right {}", left.program, right.program);
                Finding::wrong("versions", found, "install the same version on both hosts")
            }
        });
        self.pair(match left.filters == right.filters {
            true => Finding::ok("filters", "are the same on both sides"),
            false => {
                let mend = "give both hosts the same file (excludes, tempfiles, safesuffix, rsync_excludes, links)";
                Finding::wrong("filters", "differ between the sides", mend)
            }
        });
        if !settings.is_local() {
            self.pair(clocks(right.clock, asked));
        }
        self.pair(match (left.archive, right.archive) {
            (true, true) => Finding::ok("archives", "both sides have one"),
            (false, false) => {
                Finding::ok("archives", "neither side has one: the trees will meet as for the first time")
            }
            (l, _) => {
                let missing = if l { "right" } else { "left" };
                let mend = "psync will halt: look at that root first, then `psync resume PAIR --accept --union`";
                Finding::wrong("archives", format!("the {missing} side has none, and the other has one"), mend)
            }
        });
        for (side, found) in [(Side::Left, left), (Side::Right, right)] {
            let text =
                if found.root_rights { "root's: owners can be set" } else { "not root's: owners stay as they are" };
            self.side(side, Finding::ok("rights", text));
        }
    }

    fn as_text(&self) -> String {
        let mut text = String::new();
        for (side, finding) in &self.findings {
            let Finding { check, ok, found, mend } = finding;
            let mut line = |words: &str| {
                escape(&mut text, words);
                text.push('\n');
            };
            let (word, side) = (if *ok { "ok" } else { "WRONG" }, side.map_or("both", Side::word));
            line(&format!("{word:<5}  {side:<5}  {check}: {found}"));
            if !ok {
                line(&format!("       to mend it: {mend}"));
            }
        }
        let wrong = self.findings.iter().filter(|(_, finding)| !finding.ok).count();
        text + &format!("{} checks, {wrong} wrong\n", self.findings.len())
    }

    fn as_json(&self, pair: &str) -> String {
        let one = |(side, finding): &(Option<Side>, Finding)| {
            let Finding { check, ok, found, mend } = finding;
            let mend = (!ok).then_some(mend);
            json!({ "side": side.map(Side::word), "check": check, "ok": ok, "found": found, "mend": mend })
        };
        let checks: Vec<Value> = self.findings.iter().map(one).collect();
        format!("{}\n", json!({ "pair": pair, "ok": self.well(), "checks": checks }))
    }
}

fn settings(pair: &PairFile) -> Result<Settings, UsageError> {
    let (settings, origins) = config::load(&pair.path).map_err(|e| UsageError(e.to_string()))?;
    settings.check().map_err(|e| UsageError(origins.explain(&e)))?;
    Ok(settings)
}

fn state(pair: &str, status: &Status) -> Finding {
    let line = status.line();
    match status.state {
        State::Halted => {
            let mend = status.halt.as_ref().map_or_else(String::new, |halt| halt.advice.clone());
            Finding::wrong("state", line, mend)
        }
        State::Disconnected => Finding::wrong("state", line, "see what is said of the link"),
        State::Paused => Finding::wrong("state", line, format!("psync resume {pair}")),
        _ => Finding::ok("state", line),
    }
}

/// The right's clock was read between the question and its answer, by the left's clock.
fn clocks(right: i64, (asked, answered): (i64, i64)) -> Finding {
    let apart = if right < asked { right - asked } else { (right - answered).max(0) };
    let word = if apart < 0 { "behind" } else { "ahead of" };
    let seconds = apart.abs() as f64 / 1000.0;
    match apart.abs() > APART {
        true => Finding::wrong(
            "clocks",
            format!("the right's is {seconds:.1} s {word} the left's"),
            "run an NTP client on both hosts: of two edits of a file the newer one wins, by these clocks",
        ),
        false => Finding::ok("clocks", "agree"),
    }
}

fn millis() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_are_compared_with_the_time_that_the_question_took() {
        for (right, ok, want) in [
            (10_000, true, "agree"),
            (11_000, true, "agree"),
            (8_500, true, "agree"),
            (12_900, true, "agree"),
            (7_500, false, "the right's is 2.5 s behind the left's"),
            (73_000, false, "the right's is 62.0 s ahead of the left's"),
        ] {
            let found = clocks(right, (10_000, 11_000));
            assert_eq!((found.ok, found.found.as_str()), (ok, want), "{right}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_remedy() {
        let mut report = Report::default();
        report.pair(Finding::ok("configuration", "p.toml"));
        assert!(report.well());
        report.side(Side::Right, Finding::wrong("leases", "do not work: a\nb", "another disk"));
        let want = "ok     both   configuration: p.toml\n\
                    WRONG  right  leases: do not work: a\\x0ab\n       to mend it: another disk\n2 checks, 1 wrong\n";
        assert_eq!(report.as_text(), want);
        let json: Value = serde_json::from_str(&report.as_json("p")).expect("JSON");
        assert_eq!((&json["ok"], &json["checks"][1]["side"]), (&Value::from(false), &Value::from("right")));
        assert_eq!((&json["checks"][0]["side"], &json["checks"][0]["mend"]), (&Value::Null, &Value::Null));
    }
}
