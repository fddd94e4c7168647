//! The language of the control socket: what a line asks of a brain, and what it is answered.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::desk::{Desk, Mandate, Order};
use super::status::{CheckStatus, Status};
use crate::service::control::Caller;

/// A request, as `{"command":"pause"}`. (The braces make serde refuse fields that it does not know.)
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    Status {},
    FullSync {
        #[serde(default)]
        checksum: bool,
    },
    /// Discard what is old or too much in both trashes.
    Expire {},
    Pause {},
    Resume {
        #[serde(default)]
        accept: bool,
        #[serde(default)]
        union: bool,
    },
    /// The settings in force.
    Settings {},
    /// A check has ended, and this came of it.
    Checked {
        check: CheckStatus,
    },
}

/// An answer, one line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    Status(Box<Status>),
    Settings(serde_json::Value),
    Ok(String),
    Error(String),
}

/// What somebody hears whose check does not count.
pub const NOT_NOTED: &str = "only a check by root or by the brain's own user is noted in the status";

/// How long the brain's thread may take for an order.
const PATIENCE: Duration = Duration::from_secs(15);

/// Answers a line of the control socket.
pub fn answer(desk: &Desk, line: &str, caller: Caller) -> Vec<String> {
    let reply = match serde_json::from_str::<Request>(line) {
        Ok(request) => obey(desk, request, caller),
        Err(error) => Reply::Error(format!("no request: {error}")),
    };
    vec![serde_json::to_string(&reply).unwrap_or_default()]
}

fn obey(desk: &Desk, request: Request, caller: Caller) -> Reply {
    let order = match request {
        Request::Status {} => return Reply::Status(Box::new(desk.status())),
        Request::Settings {} => return Reply::Settings(desk.settings()),
        // A check runs with the rights of whoever starts it: it may fail where the pair's own succeeds.
        Request::Checked { .. } if caller != Caller::Owner => {
            return Reply::Error(NOT_NOTED.to_owned());
        }
        Request::Checked { check } => {
            desk.update(|status| status.check = Some(check));
            return Reply::Ok("noted".to_owned());
        }
        Request::FullSync { checksum } => Order::FullSync { checksum },
        Request::Expire {} => Order::Expire,
        Request::Pause {} => Order::Pause,
        Request::Resume { union: true, accept: false } => {
            return Reply::Error("union goes with accept".to_owned());
        }
        Request::Resume { accept, union } => Order::Resume(Mandate { accept, union }),
    };
    let Some(answers) = desk.ask(order) else { return Reply::Error("too many orders wait".to_owned()) };
    match answers.recv_timeout(PATIENCE) {
        Ok(Ok(text)) => Reply::Ok(text),
        Ok(Err(text)) => Reply::Error(text),
        Err(_) => Reply::Error(format!("the brain does not answer within {} s", PATIENCE.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::brain::status::Verdict;
    use crate::config::Settings;

    #[test]
    fn words_on_the_wire() {
        for (line, want) in [
            (r#"{"command":"status"}"#, Request::Status {}),
            (r#"{"command":"full-sync"}"#, Request::FullSync { checksum: false }),
            (r#"{"command":"full-sync","checksum":true}"#, Request::FullSync { checksum: true }),
            (r#"{"command":"resume","accept":true}"#, Request::Resume { accept: true, union: false }),
        ] {
            assert_eq!(serde_json::from_str::<Request>(line).expect("a request"), want);
        }
        let desk = Desk::new("p", &Settings::default(), |_| {});
        for line in ["", "{}", "[]", r#"{"command":"rm"}"#, r#"{"command":"pause","x":1}"#] {
            assert!(answer(&desk, line, Caller::Operator)[0].starts_with(r#"{"error":"no request: "#), "{line}");
        }
        let status = answer(&desk, r#"{"command":"status"}"#, Caller::Operator).remove(0);
        let Reply::Status(status) = serde_json::from_str(&status).expect("a reply") else { panic!("no status") };
        assert_eq!(*status, desk.status());
    }

    #[test]
    fn a_check_by_somebody_without_the_keys_is_not_the_pairs() {
        let desk = Desk::new("p", &Settings::default(), |_| {});
        let check = CheckStatus { ended: 7, verdict: Verdict::Equal, differences: 0, text: "root's".into() };
        let line =
            |check: &CheckStatus| serde_json::to_string(&Request::Checked { check: check.clone() }).expect("JSON");
        assert_eq!(answer(&desk, &line(&check), Caller::Owner), [r#"{"ok":"noted"}"#]);
        let other = CheckStatus { verdict: Verdict::Failed, text: "Permission denied".into(), ..check.clone() };
        let said = answer(&desk, &line(&other), Caller::Operator).remove(0);
        assert!(said.starts_with(r#"{"error":"only a check by root"#), "{said}");
        assert_eq!(desk.status().check, Some(check));
    }
}
