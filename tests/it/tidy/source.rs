//! Rust source as words: enough of a lexer to see every path that code names.
//!
//! Comments are left out and strings are one sign each. What macros are given counts like any other
//! code: a parser would skip it, and needs a crate.

/// A word or a sign of the code. A string is one sign, and its text is beside it.
#[derive(Clone, Debug)]
pub(crate) struct Token<'t> {
    pub(crate) text: &'t str,
    /// The string as it is written, with its quotes.
    pub(crate) quoted: Option<&'t str>,
    pub(crate) line: usize,
    /// The innermost `mod … {}` it stands in.
    scope: usize,
}

/// A module written within a file, or the file itself.
#[derive(Clone, Debug, Default)]
struct Scope {
    /// Its path below the file's own module.
    path: Vec<String>,
    /// Whether it is compiled for tests only.
    tests: bool,
}

/// The code of one file.
#[derive(Debug)]
pub(crate) struct Source<'t> {
    /// The file's own module: `manifest`, `read`.
    module: Vec<String>,
    pub(crate) tokens: Vec<Token<'t>>,
    scopes: Vec<Scope>,
}

/// A path that starts at the crate, at `self` or at `super`, made absolute.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Named {
    /// From the crate's root: `cli`, `tell`. `None`: it leads out of the crate.
    pub(crate) path: Option<Vec<String>>,
    pub(crate) line: usize,
}

impl<'t> Source<'t> {
    /// The code of the file at `path`, which starts at the package's folder.
    pub(crate) fn new(path: &str, text: &'t str) -> Self {
        let inner = path.strip_prefix("src/").unwrap_or(path);
        let inner = inner.strip_suffix(".rs").unwrap_or(inner);
        let module = inner.split('/').filter(|part| !matches!(*part, "main" | "lib" | "mod"));
        let mut source = Self {
            module: module.map(str::to_owned).collect(),
            tokens: lex(text),
            scopes: vec![Scope { path: Vec::new(), tests: path.ends_with("/tests.rs") }],
        };
        source.find_scopes();
        source
    }

    /// Whether a token is compiled for tests only.
    pub(crate) fn is_test(&self, token: &Token<'_>) -> bool {
        self.scopes[token.scope].tests
    }

    /// The words from `at` on, as far as there are any.
    pub(crate) fn words(&self, at: usize, count: usize) -> Vec<&'t str> {
        self.tokens.iter().skip(at).take(count).map(|token| token.text).collect()
    }

    fn text(&self, at: usize) -> &'t str {
        self.tokens.get(at).map_or("", |token| token.text)
    }

    fn before(&self, at: usize, back: usize) -> &'t str {
        at.checked_sub(back).map_or("", |at| self.text(at))
    }

    fn find_scopes(&mut self) {
        let (mut depth, mut current) = (0, 0);
        // The depth at which each open module began, and the module around it.
        let mut open: Vec<(usize, usize)> = Vec::new();
        for at in 0..self.tokens.len() {
            match self.text(at) {
                "{" => {
                    depth += 1;
                    if self.before(at, 2) == "mod" {
                        let mut path = self.scopes[current].path.clone();
                        path.push(self.before(at, 1).to_owned());
                        let tests = self.scopes[current].tests || self.is_for_tests(at - 2);
                        open.push((depth, current));
                        current = self.scopes.len();
                        self.scopes.push(Scope { path, tests });
                    }
                }
                "}" => {
                    if let Some((_, around)) = open.pop_if(|(began, _)| *began == depth) {
                        current = around;
                    }
                    depth = depth.saturating_sub(1);
                }
                _ => {}
            }
            self.tokens[at].scope = current;
        }
    }

    /// Whether `#[cfg(test)]` is among the attributes in front of the item that begins here.
    fn is_for_tests(&self, item: usize) -> bool {
        let mut end = item;
        if self.before(end, 1) == ")" {
            end = (0..end).rev().find(|at| self.text(*at) == "(").unwrap_or(0);
        }
        if self.before(end, 1) == "pub" {
            end -= 1;
        }
        while self.before(end, 1) == "]" {
            let Some(start) = (0..end).rev().find(|at| self.words(*at, 2) == ["#", "["]) else {
                return false;
            };
            if self.words(start, 6) == ["#", "[", "cfg", "(", "test", ")"] {
                return true;
            }
            end = start;
        }
        false
    }

    /// Every path that names something of this crate from its root, or from `self` or `super`.
    pub(crate) fn named(&self) -> Vec<Named> {
        let mut named = Vec::new();
        for at in 0..self.tokens.len() {
            let (word, leads_on) = (self.text(at), self.text(at + 1) == "::");
            let begins = match word {
                "crate" | "super" => !self.is_visibility(at),
                // As a word `self` is a value, and `babybot` may be anything.
                "self" | "babybot" => leads_on,
                _ => false,
            };
            // Only the crate's name may have a sign of a path before it: `::babybot::name`.
            if begins && (word == "babybot" || self.before(at, 1) != "::") {
                self.follow(at, Vec::new(), &mut named);
            }
        }
        named
    }

    /// `pub(crate)`, `pub(super)` and `pub(in crate::room)` name nothing.
    fn is_visibility(&self, at: usize) -> bool {
        let at = if self.before(at, 1) == "in" { at - 1 } else { at };
        self.before(at, 1) == "(" && self.before(at, 2) == "pub"
    }

    /// Follows a path from its next word, through groups; returns where it ends.
    fn follow(&self, mut at: usize, mut path: Vec<&'t str>, named: &mut Vec<Named>) -> usize {
        let start = at;
        loop {
            match self.text(at) {
                "{" => {
                    at += 1;
                    while !matches!(self.text(at), "}" | "") {
                        at = if is_word(self.text(at)) || matches!(self.text(at), "*" | "{") {
                            self.follow(at, path.clone(), named)
                        } else {
                            at + 1
                        };
                    }
                    return at + 1;
                }
                word if is_word(word) || word == "*" => path.push(word),
                // `crate::room::<T>`: what is between the angles stands for itself.
                _ => break,
            }
            at += 1;
            if self.text(at) != "::" {
                break;
            }
            at += 1;
        }
        let token = &self.tokens[start];
        named.push(Named { path: self.resolve(token, &path), line: token.line });
        at
    }

    /// A path as it is seen from the crate's root.
    fn resolve(&self, token: &Token<'_>, path: &[&str]) -> Option<Vec<String>> {
        let inner = self.scopes[token.scope].path.iter();
        let here: Vec<String> = self.module.iter().chain(inner).cloned().collect();
        let mut absolute = match *path.first()? {
            "crate" | "babybot" => Vec::new(),
            _ => here,
        };
        for (at, word) in path.iter().enumerate() {
            match *word {
                "super" => drop(absolute.pop()?),
                "crate" | "babybot" | "self" if at == 0 => {}
                // The end of a group: `room::{self, …}` is the room.
                "self" => {}
                word => absolute.push(word.to_owned()),
            }
        }
        Some(absolute)
    }
}

/// Whether a token is a word rather than a sign.
pub(crate) fn is_word(text: &str) -> bool {
    text.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

fn lex(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    while let Some(first) = text[at..].chars().next() {
        let (length, kept) = next(&text[at..], first);
        let piece = &text[at..at + length];
        if let Some(text) = kept {
            let quoted = (text == "\"").then_some(piece);
            tokens.push(Token { text, quoted, line, scope: 0 });
        }
        line += piece.matches('\n').count();
        at += length;
    }
    tokens
}

/// The length of what comes next, and what of it is kept.
fn next(rest: &str, first: char) -> (usize, Option<&str>) {
    let until = |pattern: &str| rest.find(pattern).unwrap_or(rest.len());
    if rest.starts_with("//") {
        return (until("\n"), None);
    }
    if rest.starts_with("/*") {
        return (block_comment(rest), None);
    }
    if let Some(length) = string(rest) {
        return (length, Some("\""));
    }
    if first == '\'' {
        return quoted_character(rest);
    }
    let rest_of_name = rest.strip_prefix("r#").filter(|name| is_word(name));
    if is_word(rest) {
        let name = rest_of_name.unwrap_or(rest);
        let length = name.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(name.len());
        return (rest.len() - name.len() + length, Some(&name[..length]));
    }
    if rest.starts_with("::") {
        return (2, Some("::"));
    }
    let length = first.len_utf8();
    (length, (!first.is_whitespace()).then_some(&rest[..length]))
}

fn block_comment(text: &str) -> usize {
    let (mut at, mut depth) = (2, 1);
    while depth > 0 {
        let rest = text.get(at..).unwrap_or_default();
        match (rest.find("/*"), rest.find("*/")) {
            (Some(open), Some(close)) if open < close => (at, depth) = (at + open + 2, depth + 1),
            (_, Some(close)) => (at, depth) = (at + close + 2, depth - 1),
            (_, None) => return text.len(),
        }
    }
    at
}

/// The length of the text in quotes that begins here, raw or not, of characters or bytes.
fn string(text: &str) -> Option<usize> {
    let prefix = ["br", "cr", "b", "c", "r", ""]
        .into_iter()
        .find(|prefix| {
            let rest = text.strip_prefix(prefix);
            let hashes = |rest: &str| rest.trim_start_matches('#').starts_with('"');
            rest.is_some_and(|rest| {
                rest.starts_with('"') || (prefix.ends_with('r') && hashes(rest))
            })
        })?
        .len();
    let raw = text[..prefix].ends_with('r');
    let quote = prefix + text[prefix..].find('"')?;
    if raw {
        let end = format!("\"{}", &text[prefix..quote]);
        let inner = &text[quote + 1..];
        return Some(quote + 1 + inner.find(&end).map_or(inner.len(), |at| at + end.len()));
    }
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(quote + 1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some(at + 1),
            _ => {}
        }
    }
    Some(text.len())
}

/// A character in quotes, or a lifetime.
fn quoted_character(text: &str) -> (usize, Option<&str>) {
    let mut characters = text.char_indices().skip(1);
    match (characters.next(), characters.next()) {
        (Some((_, '\\')), Some((escaped, _))) => {
            let from = escaped + 1;
            let end = text.get(from..).and_then(|rest| rest.find('\''));
            (end.map_or(text.len(), |end| from + end + 1), Some("\""))
        }
        (Some(_), Some((end, '\''))) => (end + 1, Some("\"")),
        // A lifetime: its name follows as a word of its own.
        _ => (1, None),
    }
}
