//! The messages of a turn as the agent reads them.
//!
//! ```text
//! <messages>
//! <message sender="Ada" time="2026-11-22 09:30">What's on &lt;today&gt;?</message>
//! </messages>
//! ```
//!
//! A file that came with a message is a line at its end, with its name, media type and size as they
//! were said: `<attachment name="plan.pdf" type="application/pdf" size="2048 bytes">`.
//!
//! Whatever somebody writes or calls themselves stays inside its own message.
//! Everything is escaped so that it reads back exactly, and so that these are
//! never there as such:
//!
//! - markup: `<`, `>`, `&`, and `"` in the name of a sender or a file. With it go the tokens that chat
//!   templates write in angle brackets: `<|im_start|>`, `</s>`, `<start_of_turn>`,
//!   `<<SYS>>` and their like;
//! - the tokens that templates write in square brackets: `[INST]`, `[/INST]`,
//!   `[TOOL_CALLS]` and any other word in capitals, by the opening bracket. A link
//!   or a list in brackets stays as it is;
//! - control characters other than line feed and tab, which would be commands
//!   to a terminal, and in such a name those two as well;
//! - what is invisible or turns the direction of writing, as instructions
//!   that nobody sees are made of it. The joiners within emoji and words stay.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use std::fmt::Write as _;

use jiff::tz::TimeZone;

use crate::clock::Timestamp;
use crate::visible;

/// Files of one message that are shown.
const ATTACHMENTS_SHOWN: usize = 16;
/// What is shown of a file's name or media type, in characters.
const ATTACHMENT_WORDS_MAX: usize = 120;

/// One message, as it goes into a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said<'a> {
    /// Who wrote it, as the channel shows it.
    pub sender: &'a str,
    /// When it was written.
    pub at: Timestamp,
    /// What was written.
    pub text: &'a str,
    /// Who is quoted or answered in it, as the channel shows them, and with which words.
    pub quote: Option<(&'a str, &'a str)>,
    /// The files that came with it.
    pub attachments: Vec<Attached<'a>>,
}

/// A file that came with a message, as it was described.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached<'a> {
    /// Its name, as the sender says.
    pub name: &'a str,
    /// Its media type, as the service says.
    pub media_type: Option<&'a str>,
    /// Its size in bytes, as the service says.
    pub size: Option<u64>,
}

/// Where a text stands in the prompt.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Escaping {
    Attribute,
    Content,
}

/// What the messages of a turn may take of a model's window of so many tokens, in bytes: 40 % at
/// three bytes a token. The rest is for memory, tools and the answer.
#[must_use]
pub fn room(context: u32) -> usize {
    context as usize * 3 * 40 / 100
}

/// The prompt that these messages make, in their order, with times of `zone`. Where they take more
/// than `room` bytes, the oldest are left out and the prompt says how many; the newest stays.
#[must_use]
pub fn prompt(messages: &[Said<'_>], zone: &TimeZone, room: usize) -> String {
    let (mut shown, mut size): (Vec<String>, usize) = (Vec::new(), 0);
    for said in messages.iter().rev() {
        let message = framed(said, zone);
        size += message.len();
        if size > room && !shown.is_empty() {
            break;
        }
        shown.push(message);
    }
    let mut prompt = String::from("<messages>\n");
    match messages.len() - shown.len() {
        0 => {}
        1 => prompt.push_str("<left-out>1 earlier message was left out</left-out>\n"),
        count => {
            // Writing to a string cannot fail.
            let _ = writeln!(prompt, "<left-out>{count} earlier messages were left out</left-out>");
        }
    }
    prompt.extend(shown.into_iter().rev());
    prompt.push_str("</messages>");
    prompt
}

fn framed(said: &Said<'_>, zone: &TimeZone) -> String {
    let mut message = String::with_capacity(said.text.len() + said.sender.len() + 64);
    message.push_str("<message sender=\"");
    escape(said.sender, Escaping::Attribute, &mut message);
    message.push_str("\" time=\"");
    escape(&said.at.local(zone), Escaping::Attribute, &mut message);
    message.push_str("\">");
    if let Some((sender, text)) = said.quote {
        message.push_str("<quote sender=\"");
        escape(sender, Escaping::Attribute, &mut message);
        message.push_str("\">");
        escape(text, Escaping::Content, &mut message);
        message.push_str("</quote>");
    }
    escape(said.text, Escaping::Content, &mut message);
    let (shown, rest) = said.attachments.split_at(said.attachments.len().min(ATTACHMENTS_SHOWN));
    shown.iter().for_each(|file| attach(file, &mut message));
    match rest.len() {
        0 => {}
        1 => message.push_str("\n<left-out>1 more attachment</left-out>"),
        // Writing to a string cannot fail.
        count => drop(write!(message, "\n<left-out>{count} more attachments</left-out>")),
    }
    message.push_str("</message>\n");
    message
}

/// Adds the line of a file. Its content is with the service, and the agent is told so.
fn attach(file: &Attached<'_>, message: &mut String) {
    let size = file.size.map(|size| format!("{size} bytes"));
    let said = [("name", Some(file.name)), ("type", file.media_type), ("size", size.as_deref())];
    message.push_str("\n<attachment");
    for (attribute, value) in said {
        let Some(value) = value else { continue };
        // Writing to a string cannot fail.
        let _ = write!(message, " {attribute}=\"");
        let end = value.char_indices().nth(ATTACHMENT_WORDS_MAX).map(|(end, _)| end);
        escape(&value[..end.unwrap_or(value.len())], Escaping::Attribute, message);
        message.push_str(if end.is_some() { "…\"" } else { "\"" });
    }
    message.push_str(">its content cannot be read</attachment>");
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
