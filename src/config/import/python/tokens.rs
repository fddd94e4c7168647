//! Logical lines of Python, cut into tokens.

use super::Value;

/// A logical line: brackets, triple quotes and backslashes join several.
pub(super) struct Line {
    pub number: usize,
    /// It stands in a block.
    pub indented: bool,
    pub source: String,
    pub tokens: Result<Vec<Token>, String>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    Name(String),
    Number(Value),
    Text(String),
    Sign(&'static str),
}

const SIGNS: [&str; 26] = [
    "**", "//", "==", "+=", "-=", "*=", "/=", "%=", "<=", ">=", "!=", "+", "-", "*", "/", "%", "=", "(", ")", "[", "]",
    "{", "}", ",", ":", ".",
];

pub(super) fn lines(text: &str) -> Vec<Line> {
    let mut all = Vec::new();
    let mut rest = Cursor { text, at: 0, line: 1 };
    let mut indented = false;
    while !rest.ended() {
        let (number, from) = (rest.line, rest.at);
        if text[..from].is_empty() || text[..from].ends_with('\n') {
            indented = rest.rest().starts_with([' ', '\t']);
        }
        let tokens = rest.logical_line();
        if tokens.is_err() {
            rest.skip_line();
        }
        let source = text[from..rest.at].lines().next().unwrap_or_default().trim_end().to_string();
        all.push(Line { number, indented, source, tokens });
    }
    all
}

struct Cursor<'a> {
    text: &'a str,
    at: usize,
    line: usize,
}

impl Cursor<'_> {
    fn ended(&self) -> bool {
        self.at >= self.text.len()
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        self.line += usize::from(c == '\n');
        Some(c)
    }

    fn take(&mut self, word: &str) -> bool {
        let found = self.rest().starts_with(word);
        if found {
            self.at += word.len();
        }
        found
    }

    fn skip_line(&mut self) {
        while self.next().is_some_and(|c| c != '\n') {}
    }

    /// Up to the end of the line that no bracket, quote or backslash carries on.
    fn logical_line(&mut self) -> Result<Vec<Token>, String> {
        let mut tokens = Vec::new();
        let mut depth = 0_usize;
        while let Some(c) = self.peek() {
            match c {
                '\n' | ';' => {
                    self.next();
                    if depth == 0 {
                        return Ok(tokens);
                    }
                }
                '#' => {
                    while self.peek().is_some_and(|c| c != '\n') {
                        self.next();
                    }
                }
                '\\' if self.rest().starts_with("\\\n") || self.rest().starts_with("\\\r\n") => self.skip_line(),
                c if c.is_whitespace() => {
                    self.next();
                }
                c if c.is_ascii_digit() || (c == '.' && self.rest()[1..].starts_with(|c: char| c.is_ascii_digit())) => {
                    tokens.push(Token::Number(self.number()?));
                }
                '"' | '\'' => tokens.push(Token::Text(self.quoted(false)?)),
                c if c.is_alphabetic() || c == '_' => {
                    let word = self.word();
                    let quote = self.peek().is_some_and(|c| matches!(c, '"' | '\''));
                    match word.to_ascii_lowercase().as_str() {
                        "r" | "ur" | "br" | "rb" if quote => tokens.push(Token::Text(self.quoted(true)?)),
                        "u" | "b" if quote => tokens.push(Token::Text(self.quoted(false)?)),
                        _ => tokens.push(Token::Name(word)),
                    }
                }
                other => {
                    let Some(sign) = SIGNS.into_iter().find(|sign| self.rest().starts_with(sign)) else {
                        return Err(format!("`{other}` is not understood"));
                    };
                    self.take(sign);
                    match sign {
                        "(" | "[" | "{" => depth += 1,
                        ")" | "]" | "}" => depth = depth.saturating_sub(1),
                        _ => {}
                    }
                    tokens.push(Token::Sign(sign));
                }
            }
        }
        if depth > 0 { Err("a bracket is never closed".into()) } else { Ok(tokens) }
    }

    fn word(&mut self) -> String {
        let from = self.at;
        while self.peek().is_some_and(|c| c.is_alphanumeric() || c == '_') {
            self.next();
        }
        self.text[from..self.at].to_string()
    }

    fn number(&mut self) -> Result<Value, String> {
        let from = self.at;
        let mut last = ' ';
        while let Some(c) = self.peek() {
            let exponent = matches!(c, '+' | '-') && matches!(last, 'e' | 'E') && !self.text[from..].starts_with("0x");
            if !(c.is_ascii_alphanumeric() || c == '.' || c == '_' || exponent) {
                break;
            }
            last = c;
            self.next();
        }
        let plain = self.text[from..self.at].replace('_', "");
        let radix = |digits: &str, radix| i64::from_str_radix(digits, radix).ok().map(Value::Int);
        let lower = plain.to_ascii_lowercase();
        let value = match lower.get(..2) {
            Some("0x") => radix(&lower[2..], 16),
            Some("0o") => radix(&lower[2..], 8),
            Some("0b") => radix(&lower[2..], 2),
            // Python 2 wrote octal numbers so.
            Some(_) if lower.starts_with('0') && lower.bytes().all(|b| b.is_ascii_digit()) => radix(&lower, 8),
            _ => lower.trim_end_matches('l').parse().ok().map(Value::Int),
        };
        value.or_else(|| lower.parse().ok().map(Value::Float)).ok_or_else(|| format!("`{plain}` is no number"))
    }

    /// A text in one or three quotes of either kind.
    fn quoted(&mut self, raw: bool) -> Result<String, String> {
        let quote = ["\"\"\"", "'''", "\"", "'"].into_iter().find(|q| self.take(q)).unwrap_or("\"");
        let mut text = String::new();
        loop {
            if self.take(quote) {
                return Ok(text);
            }
            if quote.len() == 1 && self.peek() == Some('\n') {
                return Err("a quote is never closed".into());
            }
            match self.next() {
                None => return Err("a quote is never closed".into()),
                Some('\\') => match self.next() {
                    None => return Err("a quote is never closed".into()),
                    Some(c) if raw => text.extend(['\\', c]),
                    Some('\n') => {}
                    Some(c) => match unescape(c) {
                        Some(plain) => text.push(plain),
                        None if matches!(c, 'x' | 'u' | 'U' | 'N' | '0'..='7') => {
                            return Err(format!("`\\{c}` in a text is not understood"));
                        }
                        // Python leaves an escape that it does not know as it is: `"\."`.
                        None => text.extend(['\\', c]),
                    },
                },
                Some(c) => text.push(c),
            }
        }
    }
}

fn unescape(c: char) -> Option<char> {
    Some(match c {
        '\\' | '\'' | '"' => c,
        'n' => '\n',
        't' => '\t',
        'r' => '\r',
        'a' => '\x07',
        'b' => '\x08',
        'f' => '\x0c',
        'v' => '\x0b',
        _ => return None,
    })
}
