//! What is wrong, where, and what helps: one value for every problem of a manifest.

use super::codes::Code;
use super::{Span, token};
use crate::visible;

/// One problem of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Its stable code.
    pub code: Code,
    /// What is wrong, as a lowercase fragment.
    pub message: String,
    /// What the reader can do about it.
    pub help: Option<String>,
    /// The places concerned, the one to mend first. None where the file itself is the problem.
    pub labels: Vec<Label>,
}

/// A place and what is to be seen there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// The place.
    pub span: Span,
    /// What is to be seen there.
    pub text: String,
}

impl Diagnostic {
    /// A problem without a place or help.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), help: None, labels: Vec::new() }
    }

    /// The same problem with one more place. The first place added is the one to mend.
    #[must_use]
    pub fn at(mut self, span: Span, text: impl Into<String>) -> Self {
        self.labels.push(Label { span, text: text.into() });
        self
    }

    /// The same problem with what the reader can do about it.
    #[must_use]
    pub fn helped(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The place to mend.
    #[must_use]
    pub fn span(&self) -> Option<Span> {
        self.labels.first().map(|label| label.span)
    }
}

/// Longest piece of a manifest quoted in a message, in characters.
const QUOTE_LENGTH_MAX: usize = 60;

/// Quotes what was written, so that it cannot steer a terminal and stays short.
#[must_use]
pub(crate) fn quote(text: &str) -> String {
    format!("`{}`", shown(text))
}

/// What was written, short, with nothing in it that is not seen and no secret.
#[must_use]
pub(crate) fn shown(text: &str) -> String {
    let end = text.char_indices().nth(QUOTE_LENGTH_MAX).map_or(text.len(), |(at, _)| at);
    let mut plain = text[..end].to_owned();
    for token in token::tokens(text) {
        if token.start < end {
            plain.replace_range(token.start..token.end.min(end), "***");
        }
    }
    let mut shown = visible::line(&plain).into_owned();
    if end < text.len() {
        shown.push('…');
    }
    shown
}

/// The name closest to what was written, if one is close enough to be a slip.
///
/// Two edits make a slip, but never as many as the word has letters.
#[must_use]
pub(crate) fn closest<'a>(
    written: &str,
    names: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let length = written.chars().count();
    names
        .into_iter()
        .filter(|name| name.chars().count().abs_diff(length) <= SLIP_EDITS_MAX)
        .map(|name| (strsim::damerau_levenshtein(written, name), name))
        .filter(|(edits, name)| {
            *edits <= SLIP_EDITS_MAX && *edits < length.min(name.chars().count())
        })
        .min()
        .map(|(_, name)| name)
}

/// Most edits between a slip and what was meant.
const SLIP_EDITS_MAX: usize = 2;

/// Names as a sentence lists them, at most twenty.
#[must_use]
pub(crate) fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    const LISTED_MAX: usize = 20;
    let names: Vec<&str> = names.into_iter().collect();
    let mut text = names.iter().take(LISTED_MAX).copied().collect::<Vec<_>>().join(", ");
    if names.len() > LISTED_MAX {
        text.push_str(&format!(" and {} more", names.len() - LISTED_MAX));
    }
    text
}
