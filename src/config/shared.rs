//! What both sides of a pair obey.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::check::{check_filters, check_patterns, check_style};
use super::{Attributes, Grants, Invalid, Looks, Patience, Removal, Run, Timing, Transport, Trash};
use crate::filter::Filters;

/// The settings that both sides must share.
///
/// A brain hands them to an agent that it starts itself as they are: `psync-agent --settings JSON`, an object with the
/// keys of the pair's file. An agent with a file of its own has them from that.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct SharedSettings {
    #[serde(flatten)]
    pub run: Run,
    #[serde(flatten)]
    pub filters: Filters,
    #[serde(flatten)]
    pub timing: Timing,
    #[serde(flatten)]
    pub looks: Looks,
    #[serde(flatten)]
    pub attributes: Attributes,
    #[serde(flatten)]
    pub grants: Grants,
    #[serde(flatten)]
    pub trash: Trash,
    #[serde(flatten)]
    pub removal: Removal,
    #[serde(flatten)]
    pub transport: Transport,
    #[serde(flatten)]
    pub patience: Patience,
}

impl SharedSettings {
    /// Each group takes its own of the keys, and has its defaults for the others. By themselves, and not by serde's
    /// `flatten`: whose errors would be those of a map, and not of the format.
    pub(super) fn of<'de, D: Deserializer<'de> + Clone>(keys: &D) -> Result<SharedSettings, D::Error> {
        Ok(SharedSettings {
            run: group(keys)?,
            filters: group(keys)?,
            timing: group(keys)?,
            looks: group(keys)?,
            attributes: group(keys)?,
            grants: group(keys)?,
            trash: group(keys)?,
            removal: group(keys)?,
            transport: group(keys)?,
            patience: group(keys)?,
        })
    }

    /// Reads what a brain wrote. A key that is not known here is refused, since it would be a wish ignored, and so is one
    /// that is missing.
    pub fn from_json(text: &str) -> Result<SharedSettings, serde_json::Error> {
        let given: serde_json::Map<String, Value> = serde_json::from_str(text)?;
        let known = serde_json::to_value(SharedSettings::default())?;
        if let Some(key) = given.keys().find(|key| known.get(key).is_none()) {
            return Err(Error::custom(format_args!("unknown field `{key}`")));
        }
        let mut keys = known.as_object().into_iter().flat_map(|known| known.keys());
        if let Some(key) = keys.find(|key| !given.contains_key(*key)) {
            return Err(Error::custom(format_args!("missing field `{key}`")));
        }
        SharedSettings::of(&&Value::Object(given))
    }

    /// Whether an agent can use them; a brain's have been checked, others' have not.
    pub fn check(&self) -> Result<(), Invalid> {
        check_filters(&self.filters)?;
        check_patterns(&self.filters.rsync_excludes)?;
        self.transport.check()?;
        check_style(self.looks.style)?;
        self.grants.check()?;
        self.looks.unwatched().map(drop)
    }
}

/// A group of keys that lie among others.
pub(super) fn group<'de, T: Deserialize<'de>, D: Deserializer<'de> + Clone>(keys: &D) -> Result<T, D::Error> {
    T::deserialize(keys.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_brain_writes_an_agent_reads() {
        let mut settings = SharedSettings::default();
        settings.looks.translate = "a:b".parse().ok();
        settings.looks.max_size = Some(7);
        settings.grants.owners = Some(vec!["@staff".into()]);
        for settings in [settings, SharedSettings::default()] {
            let json = serde_json::to_string(&settings).expect("plain data");
            assert_eq!(SharedSettings::from_json(&json).expect("json"), settings);
        }
    }

    #[test]
    fn no_key_may_be_missing_or_unknown() {
        let Value::Object(good) = serde_json::to_value(SharedSettings::default()).expect("plain data") else {
            panic!()
        };
        let mut less = good.clone();
        less.remove("trash_days");
        let mut more = good;
        more.insert("new".into(), 1.into());
        for (given, want) in [(less, "missing field `trash_days`"), (more, "unknown field `new`")] {
            let json = Value::Object(given).to_string();
            assert_eq!(SharedSettings::from_json(&json).expect_err(want).to_string(), want);
        }
    }
}
