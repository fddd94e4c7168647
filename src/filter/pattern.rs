//! One regular expression of the configuration, searched in `/` + path.

use regex::bytes::{Regex, RegexBuilder};

use crate::model::RelPath;

/// What is wrong with a filter's setting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// `position` counts characters from 1.
    #[error("{key}: {reason} at character {position}")]
    Syntax { key: &'static str, position: usize, reason: String },
    #[error("{key}: the expression is too large when compiled")]
    Size { key: &'static str },
    #[error("safesuffix: must be 1 to 64 bytes, no slash and no NUL among them")]
    Suffix,
    #[error("rsync_excludes: `{pattern}`: {reason}")]
    Rsync { pattern: String, reason: String },
}

impl FilterError {
    /// The configuration key that holds the error.
    pub fn key(&self) -> &'static str {
        match self {
            FilterError::Syntax { key, .. } | FilterError::Size { key } => key,
            FilterError::Suffix => "safesuffix",
            FilterError::Rsync { .. } => "rsync_excludes",
        }
    }
}

/// Case does not matter; a dot stands for any character, or for a byte that is none.
#[derive(Debug, Clone)]
pub struct Pattern(Option<Regex>);

impl Pattern {
    /// An empty expression, which would match everything, matches nothing.
    pub fn new(key: &'static str, expression: &str) -> Result<Pattern, FilterError> {
        if expression.is_empty() {
            return Ok(Pattern(None));
        }
        check(key, expression)?;
        let regex = RegexBuilder::new(expression).case_insensitive(true).dot_matches_new_line(true).build();
        regex.map(|r| Pattern(Some(r))).map_err(|_| FilterError::Size { key })
    }

    /// Whether it is found in `/` + path. In a path that is not UTF-8 it is also searched with each wrong byte
    /// sequence replaced by one character, so that `.` can match it.
    pub fn matches(&self, path: &RelPath) -> bool {
        let Some(regex) = &self.0 else { return false };
        let mut text = Vec::with_capacity(path.as_bytes().len() + 1);
        text.push(b'/');
        text.extend_from_slice(path.as_bytes());
        regex.is_match(&text)
            || std::str::from_utf8(&text).is_err() && regex.is_match(String::from_utf8_lossy(&text).as_bytes())
    }
}

/// The regex crate's own errors do not tell the place.
fn check(key: &'static str, expression: &str) -> Result<(), FilterError> {
    let mut builder = regex_syntax::ParserBuilder::new();
    let (offset, reason) = match builder.utf8(false).case_insensitive(true).build().parse(expression) {
        Ok(_) => return Ok(()),
        Err(regex_syntax::Error::Parse(e)) => (e.span().start.offset, e.kind().to_string()),
        Err(regex_syntax::Error::Translate(e)) => (e.span().start.offset, e.kind().to_string()),
        Err(e) => (0, e.to_string()),
    };
    let position = expression.char_indices().take_while(|(at, _)| *at < offset).count() + 1;
    Err(FilterError::Syntax { key, position, reason })
}
