//! Splits an answer into words, code, JSON and calls. Pure.

use serde_json::Value;

use super::grammar::{self, Found, GRAMMARS};
use super::literal::{self, LiteralError};
use super::mend;
use super::written::{Written, calls_in};

/// A part of an answer.
#[derive(Debug, PartialEq)]
pub(super) enum Part<'a> {
    /// Words, code or data: shown as it stands.
    Text(&'a str),
    /// A mark of a template: never shown.
    Mark(&'a str),
    /// Calls that can be read.
    Calls { source: &'a str, calls: Vec<Written>, kind: Kind },
    /// Something that was meant as a call, and what is wrong with it.
    Broken { source: &'a str, why: String, kind: Kind },
    /// The text ends within it: in a call, for this reason, or in what may be anything.
    Open { source: &'a str, why: Option<&'static str> },
}

/// How a call was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// With a mark that is nothing else.
    Marked,
    /// As JSON among words.
    Bare,
    /// In a block of code.
    Fenced,
}

/// If more of the text may follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TextState {
    Growing,
    Whole,
}

const CUT_OFF: &str = "it ends in the middle";
/// Longest special token: `<|…|>`.
const TOKEN_MAX: usize = 48;
/// The opening mark of a thought. Thoughts are taken out before.
const THOUGHTS: &[&str] = &["<think>", "</think>", "<internal>", "</internal>"];
/// Languages of blocks that may hold a call.
const LANGUAGES: &[&str] =
    &["", "json", "json5", "jsonc", "xml", "tool", "tool_call", "tool_code", "tool_calls", "text"];

/// Splits `text` into its parts, in order. `schema` is the tools as the model was given them.
pub(super) fn parts<'a>(text: &'a str, schema: &Value, stage: TextState) -> Vec<Part<'a>> {
    let mut found = Vec::new();
    // Where the words begin that are not in a part yet, and where to look on.
    let (mut begin, mut at) = (0, 0);
    while let Some(next) = text[at..].find(['<', '[', '{', '`']) {
        at += next;
        let (part, length) = match part_at(&text[at..], schema, stage) {
            At::Words(length) => {
                at += length;
                continue;
            }
            At::Part(part, length) => (part, length),
        };
        if begin < at {
            found.push(Part::Text(&text[begin..at]));
        }
        found.push(part);
        at += length;
        begin = at;
    }
    if begin < text.len() {
        found.push(Part::Text(&text[begin..]));
    }
    found
}

/// The part at a place.
enum At<'a> {
    /// This many bytes of words.
    Words(usize),
    /// A part, and its length.
    Part(Part<'a>, usize),
}

fn part_at<'a>(text: &'a str, schema: &Value, stage: TextState) -> At<'a> {
    match text.as_bytes()[0] {
        b'`' => code(text, schema, stage),
        b'{' => data(text, schema, stage),
        _ => marked(text, schema, stage),
    }
}

fn open<'a>(text: &'a str, why: Option<&'static str>) -> At<'a> {
    At::Part(Part::Open { source: text, why }, text.len())
}

fn marked<'a>(text: &'a str, schema: &Value, stage: TextState) -> At<'a> {
    if let Some(grammar) = GRAMMARS.iter().find(|grammar| text.starts_with(grammar.open)) {
        return match grammar.read(text) {
            Found::Calls(calls, rest) => {
                let source = &text[..text.len() - rest.len()];
                At::Part(Part::Calls { source, calls, kind: Kind::Marked }, source.len())
            }
            Found::Broken(why, rest) => {
                let source = &text[..text.len() - rest.len()];
                At::Part(Part::Broken { source, why, kind: Kind::Marked }, source.len())
            }
            Found::Open => open(text, Some(CUT_OFF)),
            Found::Mentioned => At::Part(Part::Mark(grammar.open), grammar.open.len()),
        };
    }
    let marks = || {
        let openings = GRAMMARS.iter().map(|grammar| grammar.open);
        openings.chain(grammar::closing()).chain(THOUGHTS.iter().copied())
    };
    if let Some(mark) = grammar::closing().find(|mark| text.starts_with(mark)) {
        return At::Part(Part::Mark(&text[..mark.len()]), mark.len());
    }
    if stage == TextState::Growing && marks().any(|mark| mark.starts_with(text)) {
        return open(text, None);
    }
    if text.starts_with('[') {
        return data(text, schema, stage);
    }
    match token(text) {
        Some(token) => At::Part(Part::Mark(token), token.len()),
        None if stage == TextState::Growing && may_be_token(text) => open(text, None),
        None => At::Words(1),
    }
}

/// The special token at the start of `text`.
fn token(text: &str) -> Option<&str> {
    ["|", "｜"].iter().find_map(|bar| {
        let inner = text.strip_prefix('<')?.strip_prefix(bar)?;
        let end = inner.find(bar)?;
        let word = &inner[..end];
        let fits = !word.is_empty() && word.len() <= TOKEN_MAX && word.chars().all(is_of_token);
        let closed = inner[end + bar.len()..].starts_with('>');
        (fits && closed).then(|| &text[..1 + 2 * bar.len() + end + 1])
    })
}

fn may_be_token(text: &str) -> bool {
    let bars = ['|', '｜'];
    let inner = text.strip_prefix('<').and_then(|inner| inner.strip_prefix(bars));
    inner.is_some_and(|inner| {
        inner.len() <= TOKEN_MAX && inner.chars().all(|c| is_of_token(c) || matches!(c, '|' | '｜'))
    })
}

fn is_of_token(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '_' | '/' | '-' | '▁' | ':')
}

/// JSON among words: a call if it is one of a tool there is, else data.
fn data<'a>(text: &'a str, schema: &Value, stage: TextState) -> At<'a> {
    let kind = Kind::Bare;
    match literal::prefix(text) {
        Ok((value, rest)) => {
            let source = &text[..text.len() - rest.len()];
            match calls_in(&value).map(|calls| meant(calls, source, schema)) {
                Some(Meant::Calls(calls)) => {
                    At::Part(Part::Calls { source, calls, kind }, source.len())
                }
                Some(Meant::Broken(why)) => {
                    At::Part(Part::Broken { source, why, kind }, source.len())
                }
                Some(Meant::Data) | None => At::Words(source.len()),
            }
        }
        Err(LiteralError::Open) if stage == TextState::Growing => open(text, None),
        Err(LiteralError::Open) if looks_like_call(text, schema) => open(text, Some(CUT_OFF)),
        Err(LiteralError::Open) => At::Words(1),
        Err(LiteralError::Not(_)) if text.starts_with('[') && !is_list_of_objects(text) => {
            python(text, schema, stage)
        }
        Err(LiteralError::Not(why)) => {
            let begins_as_object =
                text.starts_with('[') || text[1..].trim_start().starts_with(['"', '\'']);
            let source = balanced(text);
            match source {
                _ if !begins_as_object => At::Words(1),
                None if stage == TextState::Growing => open(text, None),
                _ if looks_like_call(source.unwrap_or(text), schema) => {
                    let source = source.unwrap_or(text);
                    At::Part(Part::Broken { source, why, kind }, source.len())
                }
                _ => At::Words(1),
            }
        }
    }
}

fn is_list_of_objects(text: &str) -> bool {
    text[1..].trim_start().starts_with('{')
}

/// A bracket that opens no JSON: a list of calls as Python writes them, or words.
fn python<'a>(text: &'a str, schema: &Value, stage: TextState) -> At<'a> {
    let kind = Kind::Bare;
    let tools: Vec<&str> = mend::tools(schema).filter_map(|tool| tool["name"].as_str()).collect();
    match grammar::python_calls(text, &tools) {
        Found::Calls(calls, rest) => {
            let source = &text[..text.len() - rest.len()];
            At::Part(Part::Calls { source, calls, kind }, source.len())
        }
        Found::Broken(why, _) => At::Part(Part::Broken { source: text, why, kind }, text.len()),
        Found::Open => match stage {
            TextState::Growing => open(text, None),
            TextState::Whole => open(text, Some(CUT_OFF)),
        },
        Found::Mentioned => At::Words(1),
    }
}

/// What JSON with the shape of calls was meant as.
enum Meant {
    Calls(Vec<Written>),
    Broken(String),
    Data,
}

fn meant(calls: Vec<Written>, source: &str, schema: &Value) -> Meant {
    let known = |call: &Written| mend::canonical(&call.name, schema).is_some();
    if !calls.iter().all(known) {
        return Meant::Data;
    }
    match calls.iter().find_map(|call| call.given.as_ref().err()) {
        Some(why) if looks_like_call(source, schema) => Meant::Broken(why.clone()),
        Some(_) => Meant::Data,
        None if calls.iter().all(|call| matches!(call.given, Ok(Some(_)))) => Meant::Calls(calls),
        None => Meant::Data,
    }
}

/// Says if unreadable text was meant as a call: it names a tool and arguments of that tool.
fn looks_like_call(text: &str, schema: &Value) -> bool {
    let quoted = |word: &str| ['"', '\''].iter().any(|q| text.contains(&format!("{q}{word}{q}")));
    let named = |tool: &&Value| tool["name"].as_str().is_some_and(quoted);
    let Some(tool) = mend::tools(schema).find(named) else { return false };
    let own = tool["parameters"]["properties"].as_object();
    ["name", "tool", "function"].into_iter().any(quoted)
        && (["arguments", "parameters", "args", "input"].into_iter().any(quoted)
            || own.is_some_and(|own| own.keys().any(|name| quoted(name))))
}

/// The start of `text` up to the bracket that closes its first one. Quotes are not looked at.
fn balanced(text: &str) -> Option<&str> {
    let mut depth = 0_usize;
    for (at, character) in text.char_indices() {
        match character {
            '{' | '[' => depth += 1,
            '}' | ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return Some(&text[..at + 1]);
        }
    }
    None
}

/// Code: in a line, or as a block, which may hold nothing but a call.
fn code<'a>(text: &'a str, schema: &Value, stage: TextState) -> At<'a> {
    let ticks = text.len() - text.trim_start_matches('`').len();
    let line = text.lines().next().unwrap_or_default();
    let on_one_line = line[ticks..].find(&text[..ticks]).map(|end| ticks + end + ticks);
    if ticks < 3 {
        return match on_one_line {
            Some(length) => At::Words(length),
            None if stage == TextState::Growing && line.len() == text.len() => open(text, None),
            None => At::Words(ticks),
        };
    }
    let block = match on_one_line {
        Some(length) => {
            Block { language: "", content: &text[ticks..length - ticks], length, closed: true }
        }
        None => match Block::of(text, ticks) {
            Some(block) => block,
            None if stage == TextState::Growing => return open(text, None),
            None => return At::Words(ticks),
        },
    };
    block.part(text, schema, stage)
}

struct Block<'a> {
    language: &'a str,
    content: &'a str,
    length: usize,
    closed: bool,
}

impl<'a> Block<'a> {
    fn of(text: &'a str, ticks: usize) -> Option<Self> {
        let (head, body) = text.split_once('\n')?;
        let begin = text.len() - body.len();
        let mut at = begin;
        for line in body.split_inclusive('\n') {
            if line.trim_start().starts_with(&text[..ticks]) {
                let indent = line.len() - line.trim_start().len();
                let length = at + indent + ticks;
                let (content, language) = (&text[begin..at], head[ticks..].trim());
                return Some(Self { language, content, length, closed: true });
            }
            at += line.len();
        }
        let language = head[ticks..].trim();
        Some(Self { language, content: body, length: text.len(), closed: false })
    }

    fn part(&self, text: &'a str, schema: &Value, stage: TextState) -> At<'a> {
        let source = &text[..self.length];
        let language = self.language.to_ascii_lowercase();
        if !LANGUAGES.contains(&language.as_str()) {
            return At::Words(self.length);
        }
        let content = self.content.trim();
        let content = content.strip_prefix("json").map_or(content, str::trim_start);
        if stage == TextState::Growing && !self.closed {
            // A block of words is shown as it comes.
            let held = content.is_empty() || content.starts_with(['{', '[', '<']);
            return if held { open(text, None) } else { At::Words(self.length) };
        }
        let kind = Kind::Fenced;
        let mut calls = Vec::new();
        for part in parts(content, schema, TextState::Whole) {
            match part {
                Part::Calls { calls: more, .. } => calls.extend(more),
                Part::Text(blank) if blank.trim().is_empty() => {}
                Part::Broken { why, .. } => {
                    return At::Part(Part::Broken { source, why, kind }, self.length);
                }
                Part::Open { why: Some(_), .. } => {
                    let why = CUT_OFF.to_owned();
                    return At::Part(Part::Broken { source, why, kind }, self.length);
                }
                _ => return At::Words(self.length),
            }
        }
        if calls.is_empty() {
            return At::Words(self.length);
        }
        At::Part(Part::Calls { source, calls, kind }, self.length)
    }
}
