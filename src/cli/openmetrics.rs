//! The status in the text format of Prometheus, which node_exporter's textfile collector and `promtool check metrics` read as well.
//! What OpenMetrics alone knows (state sets, a counter's name without `_total`) is not in it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::absent::{Absent, Pairs};
use crate::brain::status::{CheckStatus, LinkWord, SideStatus, State, Status, Verdict};

/// What a metric is.
#[derive(Clone, Copy)]
enum Kind {
    Gauge,
    Counter,
}

/// One line of a family: more labels, and the value.
type Sample = (String, f64);

/// All pairs whose brain is to run on this host.
pub fn text(pairs: &Pairs) -> String {
    let ours = pairs.iter().filter(|(_, status)| !matches!(status, Err(Absent::RightSide { .. })));
    let ours: BTreeMap<&String, Option<&Status>> = ours.map(|(name, status)| (name, status.as_ref().ok())).collect();
    let mut out = String::new();
    for (name, kind, help, samples) in families() {
        let word = match kind {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
        };
        let suffix = if matches!(kind, Kind::Counter) { "_total" } else { "" };
        let _ = writeln!(out, "# HELP psync_{name}{suffix} {help}");
        let _ = writeln!(out, "# TYPE psync_{name}{suffix} {word}");
        for (pair, status) in &ours {
            for (labels, value) in samples(*status) {
                let _ = writeln!(out, "psync_{name}{suffix}{{pair=\"{}\"{labels}}} {value}", label(pair));
            }
        }
    }
    out.push_str("# EOF\n");
    out
}

type Family = (&'static str, Kind, &'static str, fn(Option<&Status>) -> Vec<Sample>);

fn families() -> Vec<Family> {
    use Kind::*;
    vec![
        ("up", Gauge, "Whether the pair's brain runs.", |s| vec![plain(f64::from(u8::from(s.is_some())))]),
        ("state", Gauge, "1 for what the pair is doing, else 0.", |s| {
            let state = |s: &Status, state: State| {
                (format!(",psync_state=\"{}\"", state.key()), f64::from(u8::from(s.state == state)))
            };
            s.map(|s| State::ALL.map(|one| state(s, one)).to_vec()).unwrap_or_default()
        }),
        ("link_up", Gauge, "Whether the right side is reached.", |s| {
            of(s, |s| f64::from(u8::from(s.link.state == LinkWord::Up)))
        }),
        ("start_time_seconds", Gauge, "When the brain started, since 1970.", |s| of(s, |s| s.started as f64)),
        ("queue", Gauge, "Changes that wait.", |s| of(s, |s| s.queue as f64)),
        ("in_flight", Gauge, "Actions under way.", |s| of(s, |s| s.in_flight as f64)),
        ("lag_seconds", Gauge, "Age of the oldest change that is not on both sides.", |s| of(s, |s| s.lag_seconds)),
        ("paused", Gauge, "Whether an administrator paused the pair.", |s| {
            of(s, |s| f64::from(u8::from(s.paused.is_some())))
        }),
        ("files", Gauge, "Files of the pair.", |s| of(s, |s| s.files as f64)),
        ("side_files", Gauge, "Files that a side has as agreed.", |s| side(s, |side| Some(side.files))),
        ("bytes", Gauge, "Their contents.", |s| of(s, |s| s.bytes as f64)),
        ("problems", Gauge, "Paths that are not synchronised now.", |s| of(s, |s| s.problems_now as f64)),
        ("last_in_sync_seconds", Gauge, "When the pair was last found in sync, since 1970.", |s| {
            s.and_then(|s| s.last_in_sync).map(|when| plain(when as f64)).into_iter().collect()
        }),
        ("last_full_sync_seconds", Gauge, "When the last full sync ended, since 1970.", |s| {
            let ended = s.and_then(|s| s.full_sync.as_ref()).and_then(|sync| sync.ended);
            ended.map(|when| plain(when as f64)).into_iter().collect()
        }),
        ("last_check_seconds", Gauge, "When the last check ended, since 1970.", |s| {
            check(s, |check| vec![plain(check.ended as f64)])
        }),
        ("last_check", Gauge, "1 for what the last check came to, else 0.", |s| {
            let one = |check: &CheckStatus, verdict: Verdict| {
                let label = format!(",psync_last_check=\"{}\"", verdict.word());
                (label, f64::from(u8::from(check.verdict == verdict)))
            };
            check(s, |check| Verdict::ALL.map(|verdict| one(check, verdict)).to_vec())
        }),
        ("last_check_differences", Gauge, "Paths that differed in the last check.", |s| {
            check(s, |check| vec![plain(check.differences as f64)])
        }),
        ("special_files", Gauge, "FIFOs, sockets and devices that do not travel.", |s| {
            side(s, |side| Some(side.special))
        }),
        ("watches", Gauge, "Directories watched on this host.", |s| side(s, |side| side.watches)),
        ("actions", Counter, "Actions recorded on both sides.", |s| of(s, |s| s.totals.actions as f64)),
        ("placed_bytes", Counter, "Contents placed.", |s| of(s, |s| s.totals.bytes as f64)),
        ("conflicts", Counter, "Conflicts.", |s| of(s, |s| s.totals.conflicts as f64)),
        ("problems_met", Counter, "Problems met.", |s| of(s, |s| s.totals.problems as f64)),
        ("full_syncs", Counter, "Full syncs done.", |s| of(s, |s| s.totals.full_syncs as f64)),
        ("links", Counter, "Times that the right side was reached.", |s| of(s, |s| s.totals.links as f64)),
        ("scans", Counter, "Times that the whole tree was read.", |s| side(s, |side| Some(side.scans))),
        ("events", Counter, "Events read from the kernel.", |s| side(s, |side| side.events)),
        ("overflows", Counter, "Overflows of the kernel's queue of events.", |s| side(s, |side| side.overflows)),
    ]
}

fn plain(value: f64) -> Sample {
    (String::new(), value)
}

fn of(status: Option<&Status>, value: impl Fn(&Status) -> f64) -> Vec<Sample> {
    status.map(|status| plain(value(status))).into_iter().collect()
}

fn check(status: Option<&Status>, samples: impl Fn(&CheckStatus) -> Vec<Sample>) -> Vec<Sample> {
    status.and_then(|status| status.check.as_ref()).map(samples).unwrap_or_default()
}

fn side(status: Option<&Status>, value: impl Fn(&SideStatus) -> Option<u64>) -> Vec<Sample> {
    let sides = status.map(|s| [("left", &s.left), ("right", &s.right)]).into_iter().flatten();
    let told = sides.filter_map(|(word, side)| Some((format!(",side=\"{word}\""), value(side)? as f64)));
    told.collect()
}

/// A label's value.
fn label(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::brain::desk::Desk;
    use crate::config::Settings;

    #[test]
    fn every_family_is_whole() {
        let mut status = Desk::new("web", &Settings::default(), |_| {}).status();
        status.left.watches = Some(3);
        status.totals.actions = 7;
        let text =
            text(&BTreeMap::from([("web".to_owned(), Ok(status)), ("mail".to_owned(), Err(Absent::NotRunning))]));
        assert!(text.ends_with("\n# EOF\n"));
        for line in [
            "# TYPE psync_state gauge",
            "# TYPE psync_actions_total counter",
            "psync_up{pair=\"web\"} 1",
            "psync_up{pair=\"mail\"} 0",
            "psync_state{pair=\"web\",psync_state=\"starting\"} 1",
            "psync_state{pair=\"web\",psync_state=\"in-sync\"} 0",
            "psync_actions_total{pair=\"web\"} 7",
            "psync_watches{pair=\"web\",side=\"left\"} 3",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in:\n{text}");
        }
        // HELP and TYPE come before the samples of each family, and no family twice.
        let names: Vec<&str> = families().iter().map(|family| family.0).collect();
        for (n, name) in names.iter().enumerate() {
            assert!(!names[..n].contains(name), "{name} twice");
            let at = |what: &str| text.find(&format!("# {what} psync_{name}")).expect(name);
            assert!(at("HELP") < at("TYPE"));
        }
        assert_eq!(text.matches("mail").count(), 1, "nothing is known of what does not run");
    }
}
