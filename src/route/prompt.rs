//! The messages of a turn as the agent reads them.
//!
//! ```text
//! <messages>
//! <message sender="Ada" time="2026-11-22 09:30">What's on &lt;today&gt;?</message>
//! </messages>
//! ```
//!
//! Whatever somebody writes or calls themselves stays inside its own message.
//! Everything is escaped so that it reads back exactly, and so that these are
//! never there as such:
//!
//! - markup: `<`, `>`, `&`, and `"` in a sender's name. With it go the tokens that chat
//!   templates write in angle brackets: `<|im_start|>`, `</s>`, `<start_of_turn>`,
//!   `<<SYS>>` and their like;
//! - the tokens that templates write in square brackets: `[INST]`, `[/INST]`,
//!   `[TOOL_CALLS]` and any other word in capitals, by the opening bracket. A link
//!   or a list in brackets stays as it is;
//! - control characters other than line feed and tab, which would be commands
//!   to a terminal, and in a sender's name those two as well;
//! - what is invisible or turns the direction of writing, as instructions
//!   that nobody sees are made of it. The joiners within emoji and words stay.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use std::fmt::Write as _;

use jiff::tz::TimeZone;

use crate::clock::Timestamp;
use crate::visible;

/// One message, as it goes into a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said<'a> {
    /// Who wrote it, as the channel shows it.
    pub sender: &'a str,
    /// When it was written.
    pub at: Timestamp,
    /// What was written.
    pub text: &'a str,
}

/// Where a text stands in the prompt.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Escaping {
    Attribute,
    Content,
}

/// The prompt that these messages make, in their order, with times of `zone`.
#[must_use]
pub fn prompt(messages: &[Said<'_>], zone: &TimeZone) -> String {
    let texts: usize = messages.iter().map(|said| said.text.len() + said.sender.len() + 64).sum();
    let mut prompt = String::with_capacity(texts + 32);
    prompt.push_str("<messages>\n");
    for said in messages {
        prompt.push_str("<message sender=\"");
        escape(said.sender, Escaping::Attribute, &mut prompt);
        prompt.push_str("\" time=\"");
        escape(&said.at.local(zone), Escaping::Attribute, &mut prompt);
        prompt.push_str("\">");
        escape(said.text, Escaping::Content, &mut prompt);
        prompt.push_str("</message>\n");
    }
    prompt.push_str("</messages>");
    prompt
}

fn escape(text: &str, place: Escaping, prompt: &mut String) {
    for (position, character, hidden) in visible::characters(text) {
        match character {
            '&' => prompt.push_str("&amp;"),
            '<' => prompt.push_str("&lt;"),
            '>' => prompt.push_str("&gt;"),
            '"' if place == Escaping::Attribute => prompt.push_str("&quot;"),
            '\n' | '\t' if place == Escaping::Content => prompt.push(character),
            '[' if opens_token(&text[position + 1..]) => reference(character, prompt),
            _ if hidden => reference(character, prompt),
            _ => prompt.push(character),
        }
    }
}

/// A character by its number.
fn reference(character: char, prompt: &mut String) {
    // Writing to a string cannot fail.
    let _ = write!(prompt, "&#{};", u32::from(character));
}

/// Whether what follows an opening bracket makes it a token of a chat template.
fn opens_token(rest: &str) -> bool {
    let name = rest.strip_prefix('/').unwrap_or(rest);
    let end = name.find(|letter: char| !letter.is_ascii_uppercase() && letter != '_');
    end.is_some_and(|end| end > 0 && name[end..].starts_with(']'))
}
