//! What an examination of a side finds, one thing at a time.

use serde::{Deserialize, Serialize};

use crate::model::words;

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What was looked at, in a word or two.
    #[serde(deserialize_with = "words::text")]
    pub check: String,
    pub ok: bool,
    /// How it is.
    #[serde(deserialize_with = "words::text")]
    pub found: String,
    /// What mends it; empty if nothing is wrong.
    #[serde(deserialize_with = "words::text")]
    pub mend: String,
}

impl Finding {
    pub fn ok(check: &str, found: impl Into<String>) -> Finding {
        Finding { check: check.to_owned(), ok: true, found: found.into(), mend: String::new() }
    }

    pub fn wrong(check: &str, found: impl Into<String>, mend: impl Into<String>) -> Finding {
        Finding { check: check.to_owned(), ok: false, found: found.into(), mend: mend.into() }
    }
}
