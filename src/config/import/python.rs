//! The assignments of a file of Python, understood without executing it: constants, lists, concatenation, arithmetic.
//!
//! What an assignment needs beyond that (a call, a loop, an import) is told with its line, never guessed.

use std::collections::BTreeMap;

/// A value as Python has it.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Value>),
}

/// One top-level assignment: its line, from 1, and what it came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Assignment {
    pub line: usize,
    pub name: String,
    pub value: Result<Value, String>,
}

/// Anything else that stands in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreign {
    pub line: usize,
    pub text: String,
}

/// What a file says, in its order.
#[derive(Debug, Default, PartialEq)]
pub struct Module {
    pub assignments: Vec<Assignment>,
    pub foreign: Vec<Foreign>,
}

/// Reads a whole file. A name holds what was last assigned to it, as far as that was understood.
pub fn read(text: &str) -> Module {
    let mut module = Module::default();
    let mut names = BTreeMap::new();
    for Line { number, indented, source, tokens } in lines(text) {
        let foreign = || Foreign { line: number, text: source.clone() };
        let tokens = match tokens {
            Ok(tokens) if tokens.is_empty() => continue,
            Ok(tokens) => tokens,
            // An assignment that cannot be read is still known by its name.
            Err(why) => match source.split_once('=').map(|(name, _)| name.trim()) {
                Some(name) if is_name(name) => {
                    names.remove(name);
                    module.assignments.push(Assignment { line: number, name: name.to_string(), value: Err(why) });
                    continue;
                }
                _ => {
                    module.foreign.push(foreign());
                    continue;
                }
            },
        };
        // A text that stands alone is a comment by custom.
        if matches!(tokens[..], [Token::Text(_)]) {
            continue;
        }
        let (targets, expression) = split_targets(&tokens);
        if targets.is_empty() || indented {
            // What is assigned in a block may or may not hold.
            targets.iter().for_each(|(name, _)| _ = names.remove(*name));
            module.foreign.push(foreign());
            continue;
        }
        let value = evaluate(expression, &names);
        for (name, operator) in targets {
            let value = match (operator, names.get(name)) {
                (None, _) => value.clone(),
                (Some(sign), Some(old)) => value.clone().and_then(|new| operate(sign, old.clone(), new)),
                (Some(_), None) => Err(format!("`{name}` has no value yet")),
            };
            match &value {
                Ok(value) => names.insert(name.to_string(), value.clone()),
                Err(_) => names.remove(name),
            };
            module.assignments.push(Assignment { line: number, name: name.to_string(), value });
        }
    }
    module
}

/// A logical line: brackets, triple quotes and backslashes join several.
struct Line {
    number: usize,
    /// It stands in a block.
    indented: bool,
    source: String,
    tokens: Result<Vec<Token>, String>,
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Name(String),
    Number(Value),
    Text(String),
    Sign(&'static str),
}

const SIGNS: [&str; 26] = [
    "**", "//", "==", "+=", "-=", "*=", "/=", "%=", "<=", ">=", "!=", "+", "-", "*", "/", "%", "=", "(", ")", "[", "]",
    "{", "}", ",", ":", ".",
];

fn lines(text: &str) -> Vec<Line> {
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

fn is_name(word: &str) -> bool {
    word.starts_with(|c: char| c.is_alphabetic() || c == '_') && word.chars().all(|c| c.is_alphanumeric() || c == '_')
}

/// `a = b = EXPRESSION` or `a += EXPRESSION`: the names, each with its operator, and the expression's tokens.
fn split_targets(tokens: &[Token]) -> (Vec<(&str, Option<&'static str>)>, &[Token]) {
    let mut targets = Vec::new();
    let mut rest = tokens;
    while let [Token::Name(name), Token::Sign(sign), more @ ..] = rest {
        let operator = match *sign {
            "=" => None,
            "+=" | "-=" | "*=" | "/=" | "%=" if targets.is_empty() => sign.get(..1),
            _ => break,
        };
        targets.push((name.as_str(), operator));
        rest = more;
        if operator.is_some() {
            break;
        }
    }
    (targets, rest)
}

type Names = BTreeMap<String, Value>;

fn evaluate(tokens: &[Token], names: &Names) -> Result<Value, String> {
    let mut parser = Parser { tokens, names, depth: 0 };
    let value = parser.tuple()?;
    match parser.tokens {
        [] => Ok(value),
        [token, ..] => Err(format!("{} is not understood", shown(token))),
    }
}

fn shown(token: &Token) -> String {
    match token {
        Token::Name(name) => format!("`{name}`"),
        Token::Sign(sign) => format!("`{sign}`"),
        Token::Number(_) => "a number".into(),
        Token::Text(_) => "a text".into(),
    }
}

/// Python's grammar of expressions, as far as constants need it.
struct Parser<'a> {
    tokens: &'a [Token],
    names: &'a Names,
    depth: u32,
}

/// Brackets in brackets.
const DEEPEST: u32 = 64;

impl Parser<'_> {
    fn sign(&mut self, among: &[&'static str]) -> Option<&'static str> {
        match self.tokens {
            [Token::Sign(sign), rest @ ..] if among.contains(sign) => {
                self.tokens = rest;
                Some(sign)
            }
            _ => None,
        }
    }

    /// Values with commas between them make a list without brackets.
    fn tuple(&mut self) -> Result<Value, String> {
        let first = self.sum()?;
        if !matches!(self.tokens, [Token::Sign(","), ..]) {
            return Ok(first);
        }
        let mut all = vec![first];
        while self.sign(&[","]).is_some() {
            if matches!(self.tokens, [] | [Token::Sign(")"), ..]) {
                break;
            }
            all.push(self.sum()?);
        }
        Ok(Value::List(all))
    }

    fn sum(&mut self) -> Result<Value, String> {
        let mut value = self.product()?;
        while let Some(sign) = self.sign(&["+", "-"]) {
            value = operate(sign, value, self.product()?)?;
        }
        Ok(value)
    }

    fn product(&mut self) -> Result<Value, String> {
        let mut value = self.signed()?;
        while let Some(sign) = self.sign(&["*", "/", "//", "%"]) {
            value = operate(sign, value, self.signed()?)?;
        }
        Ok(value)
    }

    fn signed(&mut self) -> Result<Value, String> {
        match self.sign(&["-", "+"]) {
            Some("-") => operate("-", Value::Int(0), self.deeper(Self::signed)?),
            Some(_) => self.deeper(Self::signed),
            None => self.power(),
        }
    }

    fn power(&mut self) -> Result<Value, String> {
        let base = self.atom()?;
        match self.sign(&["**"]) {
            Some(sign) => operate(sign, base, self.deeper(Self::signed)?),
            None => Ok(base),
        }
    }

    fn deeper(&mut self, parse: fn(&mut Self) -> Result<Value, String>) -> Result<Value, String> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err("brackets lie too deep in each other".into());
        }
        let value = parse(self);
        self.depth -= 1;
        value
    }

    fn atom(&mut self) -> Result<Value, String> {
        let Some((first, rest)) = self.tokens.split_first() else { return Err("a value is missing".into()) };
        self.tokens = rest;
        match first {
            Token::Number(number) => Ok(number.clone()),
            Token::Text(text) => {
                let mut text = text.clone();
                while let [Token::Text(more), rest @ ..] = self.tokens {
                    text.push_str(more);
                    self.tokens = rest;
                }
                Ok(Value::Text(text))
            }
            Token::Name(name) if matches!(self.tokens, [Token::Sign("(" | "." | "["), ..]) => {
                Err(format!("`{name}` would have to be executed"))
            }
            Token::Name(name) => match name.as_str() {
                "None" => Ok(Value::None),
                "True" => Ok(Value::Bool(true)),
                "False" => Ok(Value::Bool(false)),
                name => {
                    self.names.get(name).cloned().ok_or_else(|| format!("`{name}` has no value that is known here"))
                }
            },
            Token::Sign("(") => {
                if self.sign(&[")"]).is_some() {
                    return Ok(Value::List(Vec::new()));
                }
                let value = self.deeper(Self::tuple)?;
                self.sign(&[")"]).map(|_| value).ok_or_else(|| "a bracket is never closed".into())
            }
            Token::Sign("[") => self.deeper(Self::list),
            other => Err(format!("{} is not understood", shown(other))),
        }
    }

    fn list(&mut self) -> Result<Value, String> {
        let mut all = Vec::new();
        loop {
            if self.sign(&["]"]).is_some() {
                return Ok(Value::List(all));
            }
            all.push(self.sum()?);
            match self.tokens {
                [Token::Sign(","), ..] => _ = self.sign(&[","]),
                [Token::Sign("]"), ..] => {}
                [token, ..] => return Err(format!("{} is not understood", shown(token))),
                [] => return Err("a bracket is never closed".into()),
            }
        }
    }
}

/// The longest text or list that an expression may make.
const LONGEST: usize = 64 * 1024;

fn operate(sign: &str, left: Value, right: Value) -> Result<Value, String> {
    use Value::{Float, Int, List, Text};
    let too_big = || "a number is too big".to_string();
    match (sign, left, right) {
        ("+", Text(a), Text(b)) if a.len() + b.len() <= LONGEST => Ok(Text(a + &b)),
        ("+", List(a), List(b)) if a.len() + b.len() <= LONGEST => Ok(List([a, b].concat())),
        ("*", Text(text), Int(n)) | ("*", Int(n), Text(text)) => {
            let times = usize::try_from(n.max(0)).unwrap_or(usize::MAX);
            match text.len().checked_mul(times) {
                Some(length) if length <= LONGEST => Ok(Text(text.repeat(times))),
                _ => Err("a text is too long".into()),
            }
        }
        ("**", Int(a), Int(b)) if b >= 0 => {
            u32::try_from(b).ok().and_then(|b| a.checked_pow(b)).map(Int).ok_or_else(too_big)
        }
        // Python 2, in which the original's files are written, divides whole numbers to whole numbers.
        ("/" | "//", Int(_), Int(0)) | ("%", Int(_), Int(0)) => Err("a division by zero".into()),
        ("/" | "//", Int(a), Int(b)) => {
            let floor = a.checked_div_euclid(b).ok_or_else(too_big)?;
            Ok(Int(if b < 0 && a.rem_euclid(b) != 0 { floor - 1 } else { floor }))
        }
        ("%", Int(a), Int(b)) => {
            let rest = a.checked_rem_euclid(b).ok_or_else(too_big)?;
            Ok(Int(if b < 0 && rest != 0 { rest + b } else { rest }))
        }
        ("+", Int(a), Int(b)) => a.checked_add(b).map(Int).ok_or_else(too_big),
        ("-", Int(a), Int(b)) => a.checked_sub(b).map(Int).ok_or_else(too_big),
        ("*", Int(a), Int(b)) => a.checked_mul(b).map(Int).ok_or_else(too_big),
        (sign, left, right) => {
            let (Some(a), Some(b)) = (number(&left), number(&right)) else {
                return Err(format!("`{sign}` does not go with these values"));
            };
            let result = match sign {
                "+" => a + b,
                "-" => a - b,
                "*" => a * b,
                "**" => a.powf(b),
                "/" | "//" | "%" if b == 0.0 => return Err("a division by zero".into()),
                "/" => a / b,
                "//" => (a / b).floor(),
                "%" => a - b * (a / b).floor(),
                _ => return Err(format!("`{sign}` is not understood")),
            };
            if result.is_finite() { Ok(Float(result)) } else { Err(too_big()) }
        }
    }
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Int(n) => Some(*n as f64),
        Value::Float(n) => Some(*n),
        Value::Bool(b) => Some(f64::from(u8::from(*b))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::Text(text.into())
    }

    /// The value of the last assignment to `x`.
    fn x(source: &str) -> Result<Value, String> {
        read(source).assignments.into_iter().rfind(|a| a.name == "x").expect(source).value
    }

    #[test]
    fn values() {
        let list = |all: &[&str]| Value::List(all.iter().map(|t| text(t)).collect());
        for (source, want) in [
            ("x = 1", Value::Int(1)),
            ("x=-1.5e1", Value::Float(-15.0)),
            ("x = 0x10 + 0o10 + 010 + 0b1", Value::Int(33)),
            ("x = 10L", Value::Int(10)),
            ("x = 'a' \"b\" + r'\\.c' # no", text("ab\\.c")),
            ("x = \"a\\.b\\n\\\"\"", text("a\\.b\n\"")),
            ("x = '''a\n\"b'''", text("a\n\"b")),
            ("x = u'é'", text("é")),
            ("x = ('a' +\n  # between\n  'b'\n)", text("ab")),
            ("x = 'a' + \\\n 'b'", text("ab")),
            ("x = ['a', 'b',] + ['c']", list(&["a", "b", "c"])),
            ("x = ('a', 'b')", list(&["a", "b"])),
            ("x = 'a',", list(&["a"])),
            ("x = ()", list(&[])),
            ("t = 60\nx = t*5", Value::Int(300)),
            ("t = 60\nx = t*0.75", Value::Float(45.0)),
            ("x = 7/2", Value::Int(3)),
            ("x = -7 // 2", Value::Int(-4)),
            ("x = -7 % 3", Value::Int(2)),
            ("x = 7 // -2", Value::Int(-4)),
            ("x = 2 ** 3 - (1 + 1) * 2", Value::Int(4)),
            ("x = -2 ** 2", Value::Int(-4)),
            ("x = 'ab' * 2", text("abab")),
            ("x = True", Value::Bool(true)),
            ("x = None", Value::None),
            ("y = x = 3", Value::Int(3)),
            ("x = 1\nx += 2", Value::Int(3)),
            ("x = 'a'\nx += 'b'", text("ab")),
            ("y = 1; x = y", Value::Int(1)),
        ] {
            assert_eq!(x(source), Ok(want), "{source}");
        }
    }

    #[test]
    fn what_is_not_understood_is_told() {
        for (source, want) in [
            ("x = f(1)", "`f` would have to be executed"),
            ("x = os.environ['A']", "`os` would have to be executed"),
            ("x = y", "`y` has no value that is known here"),
            ("x = 1 +", "a value is missing"),
            ("x = [1", "a bracket is never closed"),
            ("x = 'a", "a quote is never closed"),
            ("x = 1/0", "a division by zero"),
            ("x = {'a': 1}", "`{` is not understood"),
            ("x = 'a' + 1", "`+` does not go with these values"),
            ("x = 9999999999 * 9999999999", "a number is too big"),
            ("x = 'a' * 99999999", "a text is too long"),
            ("x = 12x", "`12x` is no number"),
            ("x = 1 if y else 2", "`if` is not understood"),
            ("x = '\\x41'", "`\\x` in a text is not understood"),
            ("x = 1 ? 2", "`?` is not understood"),
            ("x += 1", "`x` has no value yet"),
        ] {
            assert_eq!(x(source), Err(want.to_string()), "{source}");
        }
        assert!(x(&format!("x = {}1", "(".repeat(5000))).is_err());
        assert!(x(&format!("x = {}1", "-".repeat(5000))).is_err());
    }

    #[test]
    fn lines_are_counted_and_other_statements_are_named() {
        let module = read("\"\"\"doc\nstring\"\"\"\nimport os\na = [\n 1,\n]\nif a:\n    b = 2\nc = b\n");
        let foreign: Vec<_> = module.foreign.iter().map(|f| (f.line, f.text.as_str())).collect();
        assert_eq!(foreign, [(3, "import os"), (7, "if a:"), (8, "    b = 2")]);
        let lines: Vec<_> = module.assignments.iter().map(|a| (a.line, a.name.as_str(), a.value.is_ok())).collect();
        assert_eq!(lines, [(4, "a", true), (9, "c", false)]);
    }

    #[test]
    fn any_text_gives_an_answer() {
        for source in ["", "=", "x", "x =", "é", "\\", "x = \\", "'''", "x = .", "x = 1.2.3", "(", ")", "x = )", "\0"]
        {
            read(source);
        }
    }
}
