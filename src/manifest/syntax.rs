//! From text to a tree, past every syntax error.
//!
//! The TOML parser gives up the rest of a file at some errors and reads things
//! into it at others. So where it finds one, the text is cut into statements
//! (one header or one `key = value` each), each is judged alone, and the bad
//! ones are mended where that is certain (`name "home"` lacks an `=`) or
//! blanked. What is left is sound, and the problems found in it are real.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::quote;

/// Most times a text is parsed again after blanking what the statements did not explain.
const ROUNDS_MAX: usize = 64;

/// A text made fit to be parsed, and what had to be done for that.
#[derive(Debug, Default)]
pub(crate) struct Mended {
    /// The text to parse.
    pub(crate) text: String,
    /// Offsets in the mended text of the bytes that were added, rising.
    insertions: Vec<usize>,
    /// The syntax errors of the original text.
    pub(crate) faults: Vec<SyntaxFault>,
    /// Paths (`models.local.kind`) of which something was written that is not in the tree.
    pub(crate) lost: BTreeSet<String>,
    /// Past this offset the tree may say what nobody wrote.
    pub(crate) doubtful_from: Option<usize>,
}

/// One syntax error.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SyntaxFault {
    pub(crate) kind: FaultKind,
    /// Where, in the original text.
    pub(crate) at: Range<usize>,
    /// The parser's own words.
    pub(crate) message: String,
}

/// What sort of syntax error.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FaultKind {
    /// A key that is not followed by `=` and a value.
    NoValue,
    /// A key or table written before; where, if that is known.
    Duplicate(Option<Range<usize>>),
    /// A key or name without quotes has a character that needs them.
    ForeignLetter,
    /// Anything else.
    Other,
}

/// The words by which the parser names these errors.
const DUPLICATE: &str = "duplicate key";
const NO_VALUE: [&str; 3] = ["key with no value", "missing value", "missing assignment"];

impl Mended {
    /// Makes a text with syntax errors fit to be parsed.
    pub(crate) fn new(text: &str) -> Self {
        let statements = statements(text);
        let mut mended = mend(text, &statements);
        mended.parse_until_sound();
        mended.find_duplicates(&statements, text);
        mended.faults.sort_by_key(|fault| fault.at.start);
        mended
    }

    /// The place in the original text of a range in the mended one.
    pub(crate) fn original(&self, range: &Range<usize>) -> Range<usize> {
        self.original_offset(range.start)..self.original_offset(range.end)
    }

    fn original_offset(&self, offset: usize) -> usize {
        offset - self.insertions.partition_point(|added| *added < offset)
    }

    /// Blanks the line of the first error until there is none but duplicates.
    ///
    /// Statements that are sound one by one are sound together, so this is for
    /// a text that the cutting has misread.
    fn parse_until_sound(&mut self) {
        for _ in 0..ROUNDS_MAX {
            let (_, errors) = DeTable::parse_recoverable(&self.text);
            let first = errors
                .iter()
                .filter(|error| error.message() != DUPLICATE && !is_conflict(error.message()))
                .min_by_key(|error| error.span().map_or(0, |span| span.start));
            let Some(first) = first else { return };
            let at = first.span().unwrap_or(0..0);
            let line_start = self.text[..at.start].rfind('\n').map_or(0, |newline| newline + 1);
            let line_end =
                self.text[at.start..].find('\n').map_or(self.text.len(), |next| at.start + next);
            let fault = self.original(&at);
            let doubtful = self.original_offset(line_start);
            self.doubtful_from =
                Some(self.doubtful_from.map_or(doubtful, |from| from.min(doubtful)));
            self.faults.push(SyntaxFault {
                kind: FaultKind::Other,
                at: fault,
                message: first.message().to_owned(),
            });
            let blanked = blank(&self.text[line_start..line_end]);
            self.text.replace_range(line_start..line_end, &blanked);
        }
        self.text.clear();
        self.doubtful_from = Some(0);
    }

    /// Adds the keys and tables written twice.
    fn find_duplicates(&mut self, statements: &[Range<usize>], text: &str) {
        let (_, errors) = DeTable::parse_recoverable(&self.text);
        if errors.is_empty() {
            return;
        }
        let index = Index::new(text, statements);
        let mut repeated_table: Option<Range<usize>> = None;
        let mut errors: Vec<_> = errors
            .iter()
            .map(|error| (self.original(&error.span().unwrap_or(0..0)), error.message()))
            .collect();
        errors.sort_by_key(|(at, _)| at.start);
        for (at, message) in errors {
            let statement = index.statement(at.start);
            // The keys of a table that stands twice all stand twice: one problem says it.
            if repeated_table.as_ref().is_some_and(|table| table.contains(&at.start))
                && statement.is_some_and(|statement| !statement.header)
            {
                continue;
            }
            if let Some(statement) = statement.filter(|statement| statement.header) {
                repeated_table = Some(statement.range.start..statement.section_end);
            }
            let first = statement.and_then(|statement| index.first(statement));
            let path = statement.filter(|_| first.is_some()).map(|statement| &statement.path);
            let message = path.map_or_else(
                || message.to_owned(),
                |path| format!("{} is written twice", quote(path)),
            );
            self.faults.push(SyntaxFault { kind: FaultKind::Duplicate(first), at, message });
        }
    }
}

/// Whether the parser means that one key is used both as a table and as something else.
fn is_conflict(message: &str) -> bool {
    message.starts_with("cannot extend value of type")
}

/// Judges each statement alone, and mends or blanks the bad ones.
fn mend(text: &str, statements: &[Range<usize>]) -> Mended {
    let mut mended = Mended::default();
    let mut copied = 0;
    let mut section = String::new();
    // Under a header that cannot be read, keys would fall to the section before it.
    let mut orphaned = false;
    for range in statements {
        let statement = &text[range.clone()];
        let header = statement.starts_with('[');
        mended.text.push_str(&text[copied..range.start]);
        copied = range.end;

        let Some(fault) = first_fault(statement, range.start) else {
            if header {
                section = path(statement).unwrap_or_default();
                orphaned = false;
            }
            if orphaned {
                mended.text.push_str(&blank(statement));
            } else {
                mended.text.push_str(statement);
            }
            continue;
        };
        mended.faults.push(fault);
        let insertion = if header { missing_bracket(statement) } else { missing_equals(statement) };
        match insertion.filter(|_| header || !orphaned) {
            Some((at, character)) => {
                mended.text.push_str(&statement[..at]);
                mended.insertions.push(mended.text.len());
                mended.text.push(character);
                mended.text.push_str(&statement[at..]);
                if header {
                    section = path(&inserted(statement, at, character)).unwrap_or_default();
                    orphaned = false;
                }
            }
            None => {
                mended.text.push_str(&blank(statement));
                orphaned |= header;
                let words = words(statement);
                mended.lost.insert(if header || section.is_empty() {
                    words
                } else {
                    format!("{section}.{words}")
                });
            }
        }
    }
    mended.text.push_str(&text[copied..]);
    mended
}

/// The first syntax error of one statement that starts at `offset`.
fn first_fault(statement: &str, offset: usize) -> Option<SyntaxFault> {
    let (_, errors) = DeTable::parse_recoverable(statement);
    let first = errors
        .iter()
        .filter(|error| error.message() != DUPLICATE && !is_conflict(error.message()))
        .min_by_key(|error| error.span().map_or(0, |span| span.start))?;
    let message = first.message().to_owned();
    if let Some(at) = foreign_letter(statement) {
        let at = offset + at.start..offset + at.end;
        return Some(SyntaxFault { kind: FaultKind::ForeignLetter, at, message });
    }
    let own = lacks_value(statement);
    let kind = if own || NO_VALUE.iter().any(|words| message.starts_with(words)) {
        FaultKind::NoValue
    } else {
        FaultKind::Other
    };
    let content = statement.trim_end().len();
    let at = match first.span() {
        _ if own => 0..key_length(statement),
        Some(span) if span != (0..0) && span.start < content => span.start..span.end.min(content),
        // Some errors stand on the end of the line, and some come without a place.
        Some(span) if span.start >= content && content > 0 => {
            let last = statement[..content].chars().next_back().map_or(0, char::len_utf8);
            content - last..content
        }
        _ => 0..statement.lines().next().unwrap_or_default().trim_end().len(),
    };
    Some(SyntaxFault { kind, at: offset + at.start..offset + at.end, message })
}

/// The first character beyond ASCII in the bare key or name that a statement begins with.
fn foreign_letter(statement: &str) -> Option<Range<usize>> {
    let ends = |c: char| matches!(c, ']' | '=' | '"' | '\'' | '#') || c.is_whitespace();
    let start = statement.len() - statement.trim_start_matches('[').len();
    let key = statement[start..].split(ends).next().unwrap_or_default();
    let (at, letter) = key.char_indices().find(|(_, c)| !c.is_ascii())?;
    Some(start + at..start + at + letter.len_utf8())
}

/// The length of the plain key that a statement begins with.
fn key_length(statement: &str) -> usize {
    statement.bytes().take_while(|byte| is_key_byte(*byte)).count()
}

/// Whether it is the statement's own key that lacks a value, not one within its value.
fn lacks_value(statement: &str) -> bool {
    let key = key_length(statement);
    let rest = statement[key..].trim_start();
    let value = rest.strip_prefix('=').map(str::trim_start);
    key > 0 && value.is_none_or(|value| value.is_empty() || value.starts_with('#'))
}

/// Where a header lacks its closing bracket, if that is all it lacks.
fn missing_bracket(statement: &str) -> Option<(usize, char)> {
    let content = statement.split('#').next().unwrap_or_default().trim_end();
    mends(statement, content.len(), ']')
}

/// Where a `key value` lacks its `=`, if that is all it lacks.
fn missing_equals(statement: &str) -> Option<(usize, char)> {
    let key = key_length(statement);
    mends(statement, key, '=').filter(|_| key > 0)
}

fn mends(statement: &str, at: usize, character: char) -> Option<(usize, char)> {
    let (_, errors) = DeTable::parse_recoverable(&inserted(statement, at, character));
    errors.is_empty().then_some((at, character))
}

fn inserted(statement: &str, at: usize, character: char) -> String {
    format!("{}{character}{}", &statement[..at], &statement[at..])
}

/// As many spaces as the text has bytes, its line ends kept.
fn blank(text: &str) -> String {
    text.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }).collect()
}

/// The words in front of a broken statement's value, as a path.
fn words(statement: &str) -> String {
    let line = statement.lines().next().unwrap_or_default();
    let key = line.trim_start_matches('[').split(['=', ']', '#']).next().unwrap_or_default();
    let key = key.split(char::is_whitespace).next().unwrap_or_default();
    key.split('.').map(|word| word.trim_matches(['"', '\''])).collect::<Vec<_>>().join(".")
}

fn is_key_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.')
}

/// The path that a sound statement names.
fn path(statement: &str) -> Option<String> {
    let (table, _) = DeTable::parse_recoverable(statement);
    let names = key_chain(table.get_ref());
    (!names.is_empty())
        .then(|| names.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>())
        .map(|names| names.join("."))
}

/// The only key of each table in turn, as far as there is only one written outside braces.
fn key_chain(table: &DeTable<'_>) -> Vec<(String, Range<usize>)> {
    let mut names = Vec::new();
    let mut table = Some(table);
    while let Some((key, value)) = table.and_then(|table| table.iter().next()) {
        names.push((key.get_ref().to_string(), key.span()));
        table = inner_table(value);
    }
    names
}

/// The table that a dotted key or a header leads on to, but not an inline one.
fn inner_table<'t, 'i>(value: &'t Spanned<DeValue<'i>>) -> Option<&'t DeTable<'i>> {
    // The place of an inline table is its braces, that of a dotted one a key or a header.
    value.get_ref().as_table().filter(|table| {
        table.iter().next().is_some_and(|(key, _)| !value.span().contains(&key.span().start))
    })
}

/// One statement and where its section ends.
#[derive(Debug)]
struct Indexed {
    range: Range<usize>,
    path: String,
    header: bool,
    key: Range<usize>,
    section_end: usize,
}

/// The statements of a text by place and by path.
#[derive(Debug)]
struct Index {
    statements: Vec<Indexed>,
    first: BTreeMap<String, usize>,
}

impl Index {
    fn new(text: &str, ranges: &[Range<usize>]) -> Self {
        let mut statements: Vec<Indexed> = Vec::with_capacity(ranges.len());
        let mut section = String::new();
        let mut open_header: Option<usize> = None;
        for range in ranges {
            let statement = &text[range.clone()];
            let (table, _) = DeTable::parse_recoverable(statement);
            let chain = key_chain(table.get_ref());
            let names: Vec<&str> = chain.iter().map(|(name, _)| name.as_str()).collect();
            let header = statement.starts_with('[');
            let own = names.join(".");
            let path = if header || section.is_empty() { own } else { format!("{section}.{own}") };
            let key = chain
                .last()
                .map_or(range.clone(), |(_, at)| range.start + at.start..range.start + at.end);
            if header {
                section.clone_from(&path);
                if let Some(open) = open_header.replace(statements.len()) {
                    statements[open].section_end = range.start;
                }
            }
            statements.push(Indexed {
                range: range.clone(),
                path,
                header,
                key,
                section_end: text.len(),
            });
        }
        let mut first = BTreeMap::new();
        for (at, statement) in statements.iter().enumerate() {
            first.entry(statement.path.clone()).or_insert(at);
        }
        Self { statements, first }
    }

    /// The statement an offset is in.
    fn statement(&self, offset: usize) -> Option<&Indexed> {
        let after = self.statements.partition_point(|statement| statement.range.start <= offset);
        self.statements.get(after.checked_sub(1)?)
    }

    /// Where the path of a statement was written before it.
    fn first(&self, statement: &Indexed) -> Option<Range<usize>> {
        let first = &self.statements[*self.first.get(&statement.path)?];
        (first.range.start < statement.range.start).then(|| first.key.clone())
    }
}

/// Cuts a text into its statements: one header or one `key = value` each.
///
/// Comments and blank lines are in none. A bracket that is never closed ends
/// its statement where the next one plainly begins.
fn statements(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut at = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
    while at < text.len() {
        let rest = &text[at..];
        let start = at + (rest.len() - rest.trim_start_matches([' ', '\t', '\r', '\n']).len());
        let Some(first) = text[start..].bytes().next() else { break };
        let end = match first {
            b'#' | b'[' => line_end(text, start),
            _ => Scanner { text, at: start, open: Vec::new() }.statement_end(),
        };
        if first != b'#' {
            found.push(start..end);
        }
        at = end;
    }
    found
}

fn line_end(text: &str, from: usize) -> usize {
    text[from..].find('\n').map_or(text.len(), |newline| from + newline)
}

/// Finds the end of one `key = value`.
struct Scanner<'t> {
    text: &'t str,
    at: usize,
    /// The brackets that are open.
    open: Vec<u8>,
}

impl Scanner<'_> {
    fn statement_end(mut self) -> usize {
        let bytes = self.text.as_bytes();
        let mut last = b' ';
        while let Some(&byte) = bytes.get(self.at) {
            match byte {
                b'\n' if self.open.is_empty() || self.next_line_begins_anew(last) => break,
                b'#' => {
                    self.at = line_end(self.text, self.at);
                    continue;
                }
                b'"' | b'\'' => {
                    self.skip_string(byte);
                    last = byte;
                    continue;
                }
                b'[' | b'{' => self.open.push(byte),
                b']' | b'}' => drop(self.open.pop()),
                _ => {}
            }
            if !byte.is_ascii_whitespace() {
                last = byte;
            }
            self.at += 1;
        }
        self.at
    }

    /// Moves past a string; one without an end on its line ends with the line.
    fn skip_string(&mut self, quote: u8) {
        let rest = &self.text[self.at..];
        let triple = if quote == b'"' { "\"\"\"" } else { "'''" };
        if let Some(inner) = rest.strip_prefix(triple) {
            let length = inner.find(triple).map_or_else(
                || line_end(self.text, self.at) - self.at,
                |end| {
                    // Up to two more quotes may belong to the text before the end.
                    let after = &inner.as_bytes()[end + 3..];
                    let extra = after.iter().take(2).take_while(|byte| **byte == quote).count();
                    3 + end + 3 + extra
                },
            );
            self.at += length;
            return;
        }
        let mut escaped = false;
        for (offset, byte) in rest.bytes().enumerate().skip(1) {
            match byte {
                b'\n' => {
                    self.at += offset;
                    return;
                }
                _ if escaped => escaped = false,
                b'\\' if quote == b'"' => escaped = true,
                _ if byte == quote => {
                    self.at += offset + 1;
                    return;
                }
                _ => {}
            }
        }
        self.at = self.text.len();
    }

    /// Whether the line after this one is plainly a statement of its own.
    fn next_line_begins_anew(&self, last: u8) -> bool {
        let next = self.text[self.at + 1..].lines().next().unwrap_or_default().trim();
        if let Some(header) = next.strip_prefix('[') {
            let name = header.trim_start_matches('[');
            let content = name.split('#').next().unwrap_or_default().trim_end();
            return name.starts_with(|first: char| first.is_ascii_alphabetic())
                && content.ends_with(']')
                && !content.contains(',');
        }
        let key = key_length(next);
        let assigns = key > 0 && next[key..].trim_start().starts_with('=');
        match self.open.last() {
            Some(b'[') => assigns,
            // Between braces a line may hold a key, but only after a comma.
            _ => assigns && !matches!(last, b',' | b'{'),
        }
    }
}
