//! Problems as a person reads them, and as a program does.

use std::borrow::Cow;
use std::fmt;

use miette::{
    GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteError, MietteSpanContents,
    SourceCode, SourceSpan, SpanContents,
};
use serde_json::{Value, json};

use super::Span;
use super::codes::Code;
use super::diagnostic::Diagnostic;
use super::place::Lines;
use crate::visible;

/// Most problems shown to a person at once.
pub const SHOWN_MAX: usize = 50;
/// Most problems given to a program at once.
pub const PROBLEMS_MAX: usize = 1_000;
/// Longest line of the manifest shown as a snippet, in bytes.
const SNIPPET_LINE_MAX: usize = 500;

/// Whether the text is for a terminal that takes colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colors {
    /// Escape sequences for colour.
    Ansi,
    /// None.
    Plain,
}

/// The problems for a person: each with its snippet, then how many there are.
#[must_use]
pub fn human(name: &str, text: &str, problems: &[Diagnostic], colors: Colors) -> String {
    let source = Snippets::new(name, text, problems);
    let theme = match colors {
        Colors::Ansi => GraphicalTheme::unicode(),
        Colors::Plain => GraphicalTheme::unicode_nocolor(),
    };
    let mut written = String::new();
    for problem in problems.iter().take(SHOWN_MAX) {
        written.push_str(&one(&source, problem, &theme));
        written.push('\n');
    }
    if problems.len() > SHOWN_MAX {
        let more = problems.len() - SHOWN_MAX;
        written.push_str(&format!("and {more} more, see `babybot validate --format json`\n"));
    }
    written.push_str(&match problems.len() {
        1 => "1 error\n".to_owned(),
        count => format!("{count} errors\n"),
    });
    written
}

/// The problems for a program: one JSON object on one line; `more` says how many are left out.
#[must_use]
pub fn json(name: &str, problems: &[Diagnostic]) -> String {
    let given = problems.iter().take(PROBLEMS_MAX);
    let listed: Vec<Value> = given.map(|problem| one_json(name, problem)).collect();
    let mut object = json!({ "valid": problems.is_empty(), "problems": listed });
    if problems.len() > PROBLEMS_MAX {
        object["more"] = (problems.len() - PROBLEMS_MAX).into();
    }
    let mut text = object.to_string();
    text.push('\n');
    text
}

fn one_json(name: &str, problem: &Diagnostic) -> Value {
    let span = problem.span();
    let labels: Vec<Value> = problem
        .labels
        .iter()
        .map(|label| {
            json!({
                "text": label.text,
                "offset": label.span.offset,
                "length": label.span.length,
                "line": label.span.line,
                "column": label.span.column,
            })
        })
        .collect();
    json!({
        "code": problem.code.to_string(),
        "severity": "error",
        "message": problem.message,
        "help": problem.help,
        "file": name,
        "offset": span.map(|span| span.offset),
        "length": span.map(|span| span.length),
        "line": span.map(|span| span.line),
        "column": span.map(|span| span.column),
        "labels": labels,
    })
}

fn one(source: &Snippets<'_>, problem: &Diagnostic, theme: &GraphicalTheme) -> String {
    // The handler puts this sign before the message: there the header gets its code.
    let mut theme = theme.clone();
    theme.characters.error = format!("error[{}]:", problem.code);
    let handler = GraphicalReportHandler::new_themed(theme)
        .with_links(false)
        .with_context_lines(1)
        .with_wrap_lines(false);
    let shown = Shown { source, problem };
    let mut written = String::new();
    if handler.render_report(&mut written, &shown).is_err() {
        return format!("error[{}]: {}\n", problem.code, problem.message);
    }
    // The handler indents the header; a list of errors reads better flush left.
    let written = written.trim_start_matches('\n');
    let mut lines: Vec<&str> = Vec::new();
    for (at, line) in written.lines().enumerate() {
        lines.push(if at == 0 { line.strip_prefix("  ").unwrap_or(line) } else { line.trim_end() });
    }
    let mut text = lines.join("\n");
    text.push('\n');
    if let Some(span) = problem.span().filter(|_| !source.can_show(problem)) {
        text.insert_str(
            text.find('\n').map_or(0, |end| end + 1),
            &format!("   ─[{}:{}:{}]\n", source.name, span.line, span.column),
        );
    }
    text
}

/// A problem beside its source, as miette takes it.
struct Shown<'s> {
    source: &'s Snippets<'s>,
    problem: &'s Diagnostic,
}

impl fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.problem.fmt(f)
    }
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem.message)
    }
}

impl std::error::Error for Shown<'_> {}

impl miette::Diagnostic for Shown<'_> {
    fn help(&self) -> Option<Box<dyn fmt::Display + '_>> {
        self.problem.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.source.can_show(self.problem).then_some(self.source as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        Some(Box::new(self.problem.labels.iter().enumerate().map(|(at, label)| {
            let text = Some(label.text.clone());
            let span = (label.span.offset, label.span.length);
            if at == 0 {
                LabeledSpan::new_primary_with_span(text, span)
            } else {
                LabeledSpan::new_with_span(text, span)
            }
        })))
    }
}

/// The manifest as snippets: found by their lines' numbers, not by reading from the start.
struct Snippets<'s> {
    name: &'s str,
    /// The text with nothing in it that steers a terminal or is a secret, byte for byte as long.
    text: Cow<'s, str>,
    lines: Lines<'s>,
}

impl<'s> Snippets<'s> {
    fn new(name: &'s str, text: &'s str, problems: &[Diagnostic]) -> Self {
        // A carriage return is harmless only as a part of a line's end.
        let steers = |(at, character, hidden): &(usize, char, bool)| match character {
            '\t' | '\n' => false,
            '\r' => text.as_bytes().get(at + 1) != Some(&b'\n'),
            _ => *hidden,
        };
        let hidden = || visible::characters(text).filter(steers);
        let named = super::hidden::hidden(text);
        let secrets = || {
            let secret = |span: &Span| text[span.offset..span.offset + span.length].contains('@');
            let reported = problems.iter().filter_map(move |problem| match problem.code {
                Code::SecretLiteral => problem.span(),
                // An address may have credentials in it.
                Code::BadUrl => problem.span().filter(secret),
                _ => None,
            });
            let reported = reported.map(|span| span.offset..span.offset + span.length);
            reported.chain(named.iter().cloned())
        };
        let mut shown = Cow::Borrowed(text);
        if hidden().next().is_some() || secrets().next().is_some() {
            // Each byte of what is hidden becomes one that is plain, so that offsets hold.
            let mut bytes = text.as_bytes().to_vec();
            for (at, character, _) in hidden() {
                bytes[at..at + character.len_utf8()].fill(b'?');
            }
            for span in secrets() {
                for byte in &mut bytes[span] {
                    if !matches!(*byte, b'\n' | b'\r' | b'"' | b'\'') {
                        *byte = b'*';
                    }
                }
            }
            shown = Cow::Owned(String::from_utf8_lossy(&bytes).into_owned());
        }
        Self { name, text: shown, lines: Lines::new(text) }
    }

    fn can_show(&self, problem: &Diagnostic) -> bool {
        !problem.labels.is_empty()
            && problem.labels.iter().all(|label| {
                let line = label.span.line - 1;
                self.lines.range(line).len() <= SNIPPET_LINE_MAX
                    && (line == 0 || self.lines.range(line - 1).len() <= SNIPPET_LINE_MAX)
            })
    }
}

impl SourceCode for Snippets<'_> {
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        context_lines_before: usize,
        _context_lines_after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let end = span.offset() + span.len();
        if end > self.text.len() {
            return Err(MietteError::OutOfBounds);
        }
        let place = self.lines.span(span.offset()..end);
        // What follows a problem rarely explains it, so only what precedes it is shown.
        let first = (place.line - 1).saturating_sub(context_lines_before);
        let last = self.lines.line(if span.is_empty() { end } else { end - 1 });
        let shown = self.lines.range(first).start..self.lines.range(last).end;
        let column = if context_lines_before == 0 { place.column - 1 } else { 0 };
        Ok(Box::new(MietteSpanContents::new_named(
            self.name.to_owned(),
            &self.text.as_bytes()[shown.clone()],
            (shown.start, shown.len()).into(),
            first,
            column,
            last - first + 1,
        )))
    }
}
