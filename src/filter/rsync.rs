//! rsync's own pattern language: what `--exclude` understands.

use regex::bytes::{Regex, RegexBuilder};

use crate::model::RelPath;

use super::FilterError;

/// Excludes in rsync's language, in their order: the first one that matches decides.
#[derive(Debug, Clone, Default)]
pub struct Excludes(Vec<Rule>);

#[derive(Debug, Clone)]
struct Rule {
    matches: Regex,
    /// `+ PATTERN`: not left out, whatever later ones say.
    include: bool,
    directories_only: bool,
    /// Ends with `***`: a directory is matched with a slash behind it too.
    with_slash: bool,
}

impl Excludes {
    /// Reads the patterns; a lone `!` forgets those before it.
    pub fn new(patterns: &[String]) -> Result<Excludes, FilterError> {
        let mut rules = Vec::new();
        for pattern in patterns {
            match pattern.as_str() {
                "!" => rules.clear(),
                _ => rules.push(Rule::new(pattern)?),
            }
        }
        Ok(Excludes(rules))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the object, or a directory above it, is left out.
    pub fn leave_out(&self, path: &RelPath, is_dir: bool) -> bool {
        !self.is_empty() && (path.ancestors().any(|above| self.itself(&above, true)) || self.itself(path, is_dir))
    }

    fn itself(&self, path: &RelPath, is_dir: bool) -> bool {
        if path.is_root() {
            return false;
        }
        let mut name = Vec::with_capacity(path.as_bytes().len() + 2);
        name.push(b'/');
        name.extend_from_slice(path.as_bytes());
        let rule = self.0.iter().find(|rule| rule.hits(&mut name, is_dir));
        rule.is_some_and(|rule| !rule.include)
    }
}

impl Rule {
    fn new(text: &str) -> Result<Rule, FilterError> {
        let wrong = |reason: &str| FilterError::Rsync { pattern: text.to_owned(), reason: reason.to_owned() };
        let (include, pattern) = match (text.strip_prefix("- "), text.strip_prefix("+ ")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => (false, text),
        };
        let (pattern, directories_only) = match pattern.strip_suffix('/') {
            Some(rest) if !rest.is_empty() => (rest, true),
            _ => (pattern, false),
        };
        if pattern.is_empty() || pattern.contains('\0') {
            return Err(wrong("it is empty, or has a NUL"));
        }
        let wild = pattern.contains(['*', '?', '[']);
        let rest = pattern.strip_prefix('/').unwrap_or(pattern);
        // Whole names, from the root of the tree or from any directory on.
        let start = match (pattern.starts_with('/'), pattern.starts_with("**")) {
            (true, _) => "^/",
            (_, true) => "^",
            _ => "^/(?:.*/)?",
        };
        let body = if wild { wildcards(rest.as_bytes()) } else { Some(literal(rest.as_bytes())) };
        // Without `**` the names are counted by the pattern's slashes, also by those within brackets, which match none.
        let counts = !pattern.starts_with('/') && !pattern.contains("**");
        let body = body.filter(|body| !counts || body.matches("\\x2f").count() == rest.matches('/').count());
        // A class that is not closed matches nothing.
        let body = body.unwrap_or_else(|| "[^\\x00-\\xff]".to_owned());
        let regex = RegexBuilder::new(&format!("{start}(?:{body})$")).unicode(false).dot_matches_new_line(true).build();
        let matches = regex.map_err(|_| wrong("it is too large"))?;
        Ok(Rule { matches, include, directories_only, with_slash: wild && pattern.ends_with("***") })
    }

    /// Whether the name, which begins with a slash, is meant.
    fn hits(&self, name: &mut Vec<u8>, is_dir: bool) -> bool {
        if !is_dir {
            return !self.directories_only && self.matches.is_match(name);
        }
        if !self.with_slash {
            return self.matches.is_match(name);
        }
        name.push(b'/');
        let hit = self.matches.is_match(name);
        name.pop();
        hit
    }
}

fn literal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect()
}

/// The expression for a pattern with wildcards; `None`: it can match nothing.
fn wildcards(pattern: &[u8]) -> Option<String> {
    let mut regex = String::new();
    let mut rest = pattern;
    while let [first, after @ ..] = rest {
        rest = after;
        match first {
            b'*' => {
                let stars = rest.iter().take_while(|byte| **byte == b'*').count();
                rest = &rest[stars..];
                regex.push_str(if stars > 0 { ".*" } else { "[^/]*" });
            }
            b'?' => regex.push_str("[^/]"),
            b'[' => {
                let (class, after) = class(rest)?;
                regex.push_str(&class);
                rest = after;
            }
            b'\\' => {
                let (escaped, after) = rest.split_first()?;
                regex.push_str(&literal(&[*escaped]));
                rest = after;
            }
            byte => regex.push_str(&literal(&[*byte])),
        }
    }
    Some(regex)
}

/// What stands in brackets, and what comes after them.
fn class(pattern: &[u8]) -> Option<(String, &[u8])> {
    let mut rest = pattern;
    let negated = matches!(rest.first(), Some(b'!' | b'^'));
    if negated {
        rest = &rest[1..];
    }
    let mut members = [false; 256];
    let mut before: Option<u8> = None;
    let mut first = true;
    loop {
        let (&byte, after) = rest.split_first()?;
        rest = after;
        match byte {
            b']' if !first => break,
            b'-' if before.is_some() && !matches!(rest.first(), None | Some(b']')) => {
                let (end, after) = member(rest)?;
                rest = after;
                (before.take()?..=end).for_each(|member| members[usize::from(member)] = true);
            }
            b'[' if rest.first() == Some(&b':') => match posix(&rest[1..])? {
                Posix::Class(holds, after) => {
                    (0..=255_u8).filter(holds).for_each(|byte| members[usize::from(byte)] = true);
                    rest = after;
                    before = None;
                }
                // `[:` without `:]` is two members.
                Posix::None => {
                    members[usize::from(byte)] = true;
                    before = Some(byte);
                }
            },
            _ => {
                let (one, after) = if byte == b'\\' { member_escaped(rest)? } else { (byte, rest) };
                rest = after;
                members[usize::from(one)] = true;
                before = Some(one);
            }
        }
        first = false;
    }
    let is_member = |byte: &u8| members[usize::from(*byte)] != negated && *byte != b'/';
    let list: Vec<u8> = (0..=255_u8).filter(is_member).collect();
    match list.is_empty() {
        true => None,
        false => Some((format!("[{}]", literal(&list)), rest)),
    }
}

fn member(pattern: &[u8]) -> Option<(u8, &[u8])> {
    match pattern.split_first()? {
        (b'\\', rest) => member_escaped(rest),
        (byte, rest) => Some((*byte, rest)),
    }
}

fn member_escaped(pattern: &[u8]) -> Option<(u8, &[u8])> {
    pattern.split_first().map(|(byte, rest)| (*byte, rest))
}

enum Posix<'a> {
    Class(fn(&u8) -> bool, &'a [u8]),
    None,
}

/// `alpha:]` and the like, with what comes after it; `None`: no such class, which matches nothing.
fn posix(pattern: &[u8]) -> Option<Posix<'_>> {
    let end = pattern.iter().position(|byte| *byte == b']')?;
    let Some(name) = pattern[..end].strip_suffix(b":") else { return Some(Posix::None) };
    let holds: fn(&u8) -> bool = match name {
        b"alnum" => u8::is_ascii_alphanumeric,
        b"alpha" => u8::is_ascii_alphabetic,
        b"blank" => |byte| matches!(byte, b' ' | b'\t'),
        b"cntrl" => u8::is_ascii_control,
        b"digit" => u8::is_ascii_digit,
        b"graph" => u8::is_ascii_graphic,
        b"lower" => u8::is_ascii_lowercase,
        b"print" => |byte| byte.is_ascii_graphic() || *byte == b' ',
        b"punct" => u8::is_ascii_punctuation,
        b"space" => |byte| byte.is_ascii_whitespace() || *byte == 0x0b,
        b"upper" => u8::is_ascii_uppercase,
        b"xdigit" => u8::is_ascii_hexdigit,
        _ => return None,
    };
    Some(Posix::Class(holds, &pattern[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every object of the tree that the tests speak of; those that end in a slash are directories.
    const TREE: &[&str] = &[
        "a",
        "b.iso",
        "cache/",
        "cache/one",
        "cache/sub/",
        "cache/sub/two",
        "x/",
        "x/cache/",
        "x/cache/three",
        "x/y/",
        "x/y/cache/",
        "x/y/cache/four",
        "x/y/b.iso",
        "x/y/z/",
        "x/y/z/foo",
        "foo/",
        "foo/bar",
        "foo/bar2/",
        "foo/bar2/foo",
        "Foo",
        "a*b",
        "a?c",
        "a\\b",
        "back[1]",
        "back1",
        "[x",
        "x]",
        "a-b",
        "a_b",
        "ab",
        ".hidden",
        ".hidden2/",
        ".hidden2/in",
        "name with blank",
        "+ plus",
        "- minus",
        "!",
        "é",
        "e5",
        "E5",
        "tail~",
        "deep/",
        "deep/x/",
        "deep/x/y/",
        "deep/x/y/z/",
        "deep/x/y/z/foo",
        "deep/foo",
        "deep/xfoo",
        "#x#",
        "a\nb",
        "t\tb",
    ];

    /// Lists of patterns, alone and together.
    const LISTS: &[&[&str]] = &[
        &["*.iso"],
        &["/cache"],
        &["cache"],
        &["cache/"],
        &["/cache/"],
        &["cache/*"],
        &["/cache/*"],
        &["cache/**"],
        &["cache/***"],
        &["/x/***"],
        &["x/y"],
        &["/x/y"],
        &["y/cache"],
        &["x/cache"],
        &["foo"],
        &["/foo"],
        &["foo/"],
        &["**/foo"],
        &["**foo"],
        &["/**/foo"],
        &["x/**/foo"],
        &["/x/**/foo"],
        &["deep/**"],
        &["/deep/**/foo"],
        &["deep/*/foo"],
        &["deep/*"],
        &["x**z"],
        &["x**"],
        &["**"],
        &["***"],
        &["*"],
        &["*/"],
        &["/*"],
        &["/*/"],
        &["*/*"],
        &["*/*/"],
        &["?"],
        &["??"],
        &["a?b"],
        &["a*b"],
        &["a\\*b"],
        &["a\\b"],
        &["a\\?c"],
        &["a\\\\b"],
        &["a\\\\*"],
        &["[a]"],
        &["[!a]"],
        &["[^a]"],
        &["a[*?]?"],
        &["a[-_]b"],
        &["a[_-]b"],
        &["a[a-z_]b"],
        &["a[!a-z]b"],
        &["[[:alpha:]]"],
        &["[[:digit:]e]5"],
        &["[[:upper:][:digit:]]*"],
        &["[[:nonsense:]]*"],
        &["[[:alpha]*"],
        &["e[0-9]"],
        &["[e-E]5"],
        &["[]x]*"],
        &["*[]x]"],
        &["[x"],
        &["\\[x"],
        &["[[]x"],
        &["x]"],
        &["x\\]*"],
        &["back[1]"],
        &["back\\[1\\]"],
        &["back\\[1]*"],
        &["back[[]1]"],
        &[".*"],
        &[".hidden*"],
        &["foo/bar*"],
        &["foo/bar?/"],
        &["foo[/]bar"],
        &["foo?bar"],
        &["foo*bar"],
        &["foo**bar"],
        &["*blank"],
        &["name with *"],
        &["+ cache", "cache"],
        &["+ /cache/", "cache", "*.iso"],
        &["- cache"],
        &["- - minus"],
        &["+ *.iso", "*"],
        &["+ */", "+ foo", "*"],
        &["+ x/", "+ x/y/", "+ x/y/b.iso", "*"],
        &["a", "!", "b.iso"],
        &["!x"],
        &["*~"],
        &["#*#"],
        &["é"],
        &["[é]"],
        &["?\u{301}"],
        &["/x/y/z/foo"],
        &["y/z/foo"],
        &["z/foo"],
        &["/y/z/foo"],
        &["x/y/***"],
        &["y/***"],
        &["/y/***"],
        &["cache***"],
        &["*cache***"],
        &["**/"],
        &["**/*.iso"],
        &["x/*/cache"],
        &["/x/*/cache/"],
        &["a*"],
        &["A*"],
        &["f[o]o"],
        &["a[\\*\\?]?"],
        &["a[\\]-_]b"],
        &["a\\"],
        &["a*\\"],
        &["a[z-a]b"],
        &["[!/]"],
        &["a\nb"],
        &["a?b"],
        &["//cache"],
        &["cache//"],
        &["./cache"],
        &["/"],
        &["x/./y"],
        &["foo/bar2/foo"],
        &["bar2/foo"],
        &["*2/foo"],
        &["**2/foo"],
        &["deep/x/***"],
        &["x/***"],
    ];

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|pattern| (*pattern).to_owned()).collect()
    }

    fn left(list: &[&str]) -> Vec<&'static str> {
        let excludes = Excludes::new(&strings(list)).expect("patterns");
        let kept = |name: &&&str| {
            let path = RelPath::new(name.trim_end_matches('/').as_bytes()).expect("path");
            !excludes.leave_out(&path, name.ends_with('/'))
        };
        TREE.iter().filter(kept).copied().collect()
    }

    #[test]
    fn they_match_as_the_manual_says() {
        for (pattern, path, is_dir, out) in [
            ("foo", "x/foo", false, true),
            ("/foo", "x/foo", false, false),
            ("foo/", "foo", false, false),
            ("foo/", "foo", true, true),
            ("foo/", "foo/below", false, true),
            ("foo/*", "x/foo/y", false, true),
            ("/foo/*", "x/foo/y", false, false),
            ("*/y", "a/b/y", false, true),
            ("/*/y", "a/b/y", false, false),
            ("/**/y", "a/b/y", false, true),
            ("x/***", "x", true, true),
            ("x/***", "x", false, false),
            ("x/**", "x", true, false),
        ] {
            let excludes = Excludes::new(&[pattern.to_owned()]).expect("pattern");
            let path = RelPath::new(path.as_bytes()).expect("path");
            assert_eq!(excludes.leave_out(&path, is_dir), out, "{pattern} {path} {is_dir}");
        }
        assert!(Excludes::new(&[String::new()]).is_err());
    }

    /// The real rsync lists the same objects, for each list of patterns.
    #[test]
    fn the_real_rsync_agrees() {
        let rsync = |arguments: &[String]| std::process::Command::new("rsync").args(arguments).output();
        if rsync(&["--version".to_owned()]).is_err() {
            assert!(std::env::var_os("CI").is_none(), "rsync is missing, and no test may be skipped here");
            eprintln!("skipped: the_real_rsync_agrees needs rsync");
            return;
        }
        let root = tempfile::tempdir().expect("root");
        for name in TREE {
            let path = root.path().join(name);
            match name.ends_with('/') {
                true => std::fs::create_dir_all(&path).expect("made"),
                false => {
                    std::fs::create_dir_all(path.parent().expect("above")).expect("made");
                    std::fs::write(&path, "").expect("written");
                }
            }
        }
        let mut wrong = Vec::new();
        for list in LISTS {
            let mut arguments = strings(&["-r", "-0", "-8", "--out-format=%n", "-n"]);
            arguments.extend(list.iter().map(|pattern| format!("--exclude={pattern}")));
            arguments.push(format!("{}/", root.path().display()));
            arguments.push(format!("{}/none/", root.path().with_extension("absent").display()));
            let output = rsync(&arguments).expect("it runs");
            let said = String::from_utf8_lossy(&output.stdout);
            let shown = |name: &str| name.replace('\n', "\\#012");
            let theirs: Vec<&str> =
                TREE.iter().filter(|name| said.contains(&format!("\n{}\n", shown(name)))).copied().collect();
            let ours = left(list);
            if ours != theirs {
                let extra: Vec<_> = ours.iter().filter(|name| !theirs.contains(name)).collect();
                let missing: Vec<_> = theirs.iter().filter(|name| !ours.contains(name)).collect();
                wrong.push(format!("{list:?}: we keep {extra:?} too, and leave out {missing:?}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}
