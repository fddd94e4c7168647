//! Python's expressions, as far as constants need them.

use std::collections::BTreeMap;

use super::Value;
use super::tokens::Token;

pub(super) type Names = BTreeMap<String, Value>;

pub(super) fn evaluate(tokens: &[Token], names: &Names) -> Result<Value, String> {
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

pub(super) fn operate(sign: &str, left: Value, right: Value) -> Result<Value, String> {
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
