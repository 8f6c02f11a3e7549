//! Names and words that a person writes: those that cannot be used are noted.

use super::codes::Code;
use super::decode::Decoder;
use super::diagnostic::{Diagnostic, quote};
use super::spelling::plain_name;
use super::{Span, Written};
use crate::name::NameError;
use crate::visible;

/// Notes a text that a person could not type or see.
pub(super) fn check_word(decoder: &mut Decoder<'_>, what: &str, written: &Written<String>) {
    let text = &written.value;
    let reason = if text.is_empty() {
        "is empty"
    } else if visible::has_hidden(text) {
        "has a line end or another hidden character in it"
    } else if text.trim() != text {
        "has space around it"
    } else {
        return;
    };
    if let Some(at) = written.at {
        decoder.note(
            Diagnostic::new(Code::BadText, format!("{what} {reason}"))
                .at(at, reason)
                .helped("write a word that a person would type"),
        );
    }
}

/// Notes a name that cannot be used.
pub(super) fn check_name<T>(
    decoder: &mut Decoder<'_>,
    what: &str,
    name: &str,
    at: &std::ops::Range<usize>,
    check: impl Fn(String) -> Result<T, NameError>,
) {
    if let Err(error) = check(name.to_owned()) {
        let at = decoder.span(at);
        note_name(decoder, what, name, &error, at);
    }
}

pub(super) fn note_name(
    decoder: &mut Decoder<'_>,
    what: &str,
    name: &str,
    error: &NameError,
    at: Span,
) {
    let help = match error {
        NameError::Reserved => {
            format!("`{name}` is the folder that all groups share: choose another name")
        }
        _ => match plain_name(name) {
            Some(plain) => format!("for example `{plain}`"),
            None => "for example `family`".to_owned(),
        },
    };
    decoder.note(
        Diagnostic::new(Code::BadName, format!("{} cannot name a {what}: {error}", quote(name)))
            .at(at, "not a usable name")
            .helped(help),
    );
}

/// Whether a shell takes this for the name of a variable.
pub(super) fn is_variable_name(name: &str) -> bool {
    name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_')
        && name.bytes().next().is_some_and(|first| !first.is_ascii_digit())
}
