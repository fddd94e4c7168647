//! The assignments of a file of Python, understood without executing it: constants, lists, concatenation, arithmetic.
//!
//! What an assignment needs beyond that (a call, a loop, an import) is told with its line, never guessed.

mod evaluate;
mod tokens;

use std::collections::BTreeMap;

use evaluate::{evaluate, operate};
use tokens::{Line, Token, lines};

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
