//! Forms of calls that begin with a mark of their own. Pure.

use serde_json::{Map, Value};

use super::literal::{self, LiteralError};
use super::written::{Written, calls_in};

/// A way to write calls.
pub(super) struct Grammar {
    /// The mark that it begins with.
    pub(super) open: &'static str,
    /// The marks that may follow a call, or all calls.
    close: &'static [&'static str],
    /// Reads what follows the opening mark.
    body: Body,
}

/// Reads calls, and gives what follows them.
type Body = for<'a> fn(&'a str) -> Result<(Vec<Written>, &'a str), Unread>;

/// Why there is no call behind an opening mark.
enum Unread {
    /// The text ends within it.
    Open,
    /// It was meant as one, and this is wrong with it.
    Broken(String),
    /// The mark is only mentioned.
    Mentioned,
}

impl From<LiteralError> for Unread {
    fn from(fault: LiteralError) -> Self {
        match fault {
            LiteralError::Open => Self::Open,
            LiteralError::Not(why) => Self::Broken(why),
        }
    }
}

/// The text at an opening mark.
pub(super) enum Found<'a> {
    /// Calls, and what follows them.
    Calls(Vec<Written>, &'a str),
    /// The beginning of one.
    Open,
    /// One that cannot be read for this reason, and what follows it.
    Broken(String, &'a str),
    /// The mark alone.
    Mentioned,
}

const fn tagged(open: &'static str, close: &'static [&'static str]) -> Grammar {
    Grammar { open, close, body: tag }
}

/// All of them. One that begins like another comes before it.
pub(super) const GRAMMARS: &[Grammar] = &[
    tagged("<tool_call>", &["</tool_call>"]),
    tagged("<tool_calls>", &["</tool_calls>"]),
    tagged("<function_call>", &["</function_call>"]),
    tagged("<TOOLCALL>", &["</TOOLCALL>"]),
    tagged("<|tool_call|>", &["<|/tool_call|>", "</tool_call>", "<|end|>"]),
    tagged("[TOOL_CALLS]", &["[/TOOL_CALLS]"]),
    tagged("<|python_tag|>", &["<|eom_id|>", "<|eot_id|>"]),
    Grammar {
        open: "<minimax:tool_call>",
        close: &["</invoke>", "</minimax:tool_call>"],
        body: tag,
    },
    Grammar { open: "<function_calls>", close: &["</invoke>", "</function_calls>"], body: tag },
    // Some models leave the closing tag of an opening one that they left out.
    Grammar { open: "<function=", close: &["</function>", "</tool_call>"], body: function },
    Grammar { open: "<invoke name=", close: &["</invoke>", "</minimax:tool_call>"], body: invoke },
    Grammar {
        open: "<|tool_calls_section_begin|>",
        close: &["<|tool_call_end|>", "<|tool_calls_section_end|>"],
        body: kimi_section,
    },
    Grammar {
        open: "<|tool_call_begin|>",
        close: &["<|tool_call_end|>", "<|tool_calls_section_end|>"],
        body: kimi,
    },
    Grammar {
        open: "<｜tool▁calls▁begin｜>",
        close: &["<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"],
        body: deepseek_section,
    },
    Grammar {
        open: "<｜tool▁call▁begin｜>",
        close: &["<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"],
        body: deepseek,
    },
    Grammar { open: "<|channel|>commentary", close: &["<|call|>", "<|end|>"], body: harmony },
];

/// Marks that stand alone where a call was left half away.
pub(super) fn closing() -> impl Iterator<Item = &'static str> {
    let tags = ["</parameter>", "<|tool_call_argument_begin|>"];
    GRAMMARS.iter().flat_map(|grammar| grammar.close.iter().copied()).chain(tags)
}

impl Grammar {
    /// Reads what stands at the opening mark of `text`.
    pub(super) fn read<'a>(&self, text: &'a str) -> Found<'a> {
        let inner = &text[self.open.len()..];
        match (self.body)(inner) {
            Ok((calls, mut rest)) => {
                while let Some(left) = self.close.iter().find_map(|mark| past(rest, mark)) {
                    rest = left;
                }
                Found::Calls(calls, rest)
            }
            Err(Unread::Open) => Found::Open,
            Err(Unread::Mentioned) => Found::Mentioned,
            Err(Unread::Broken(why)) => {
                let ends = self.close.iter().filter_map(|mark| Some((inner.find(mark)?, mark)));
                let end = ends.min().map_or(inner.len(), |(at, mark)| at + mark.len());
                Found::Broken(why, &inner[end..])
            }
        }
    }
}

fn past<'a>(text: &'a str, mark: &str) -> Option<&'a str> {
    text.trim_start().strip_prefix(mark)
}

/// Whether `text` is the beginning of `mark` and no more.
fn begins(text: &str, mark: &str) -> bool {
    mark.starts_with(text) && text.len() < mark.len()
}

/// Calls within a tag: JSON, one of the other ways, or a name and what follows it.
fn tag(text: &str) -> Result<(Vec<Written>, &str), Unread> {
    let inner = text.trim_start();
    if let Some(rest) = inner.strip_prefix("<function=") {
        return function(rest)
            .map(|(calls, rest)| (calls, past(rest, "</function>").unwrap_or(rest)));
    }
    if let Some(rest) = inner.strip_prefix("<invoke name=") {
        return invokes(rest);
    }
    if let Some(fenced) = inner.strip_prefix("```") {
        let (_, body) = fenced.split_once('\n').ok_or(Unread::Open)?;
        let (calls, rest) = json(body.trim_start())?;
        return Ok((calls, past(rest, "```").unwrap_or(rest)));
    }
    if ["<function=", "<invoke name=", "```"].iter().any(|mark| begins(inner, mark)) {
        return Err(Unread::Open);
    }
    if inner.starts_with('[')
        && let Ok(read) = python_list(inner)
    {
        return Ok(read);
    }
    if inner.starts_with(['{', '[']) { json(inner) } else { named(inner) }
}

/// One or several values that are calls.
fn json(text: &str) -> Result<(Vec<Written>, &str), Unread> {
    let (mut calls, mut rest) = (Vec::new(), text);
    loop {
        let (value, left) = literal::prefix(rest)?;
        let found = calls_in(&value);
        calls.extend(found.ok_or_else(|| Unread::Broken("it names no tool".to_owned()))?);
        let next = left.trim_start();
        rest = left;
        if !next.starts_with('{') {
            return Ok((calls, rest));
        }
        rest = next;
    }
}

/// A tool's name, and its arguments in one of the ways that need no name within.
fn named(text: &str) -> Result<(Vec<Written>, &str), Unread> {
    let (name, rest) = name(text);
    if name.is_empty() {
        return Err(Unread::Mentioned);
    }
    let after = rest.trim_start();
    let after = past(after, "[ARGS]").map_or(after, str::trim_start);
    if after.starts_with('(') {
        return python(text).map(|(call, rest)| (vec![call], rest));
    }
    if after.starts_with('{') {
        let (value, rest) = literal::prefix(after)?;
        return Ok((vec![Written::new(name, value)], rest));
    }
    if after.starts_with("<arg_key>") {
        let (arguments, rest) = pairs(after)?;
        return Ok((vec![Written::new(name, arguments)], rest));
    }
    if after.is_empty() || begins(after, "<arg_key>") || begins(after, "[ARGS]") {
        return Err(Unread::Open);
    }
    Err(Unread::Mentioned)
}

fn name(text: &str) -> (&str, &str) {
    let inner = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
    text.split_at(text.find(|c| !inner(c)).unwrap_or(text.len()))
}

/// `<arg_key>key</arg_key><arg_value>value</arg_value>`, as often as there are arguments.
fn pairs(text: &str) -> Result<(Value, &str), Unread> {
    let (mut found, mut rest) = (Map::new(), text);
    while let Some(pair) = past(rest, "<arg_key>") {
        let (key, after) = pair.split_once("</arg_key>").ok_or(Unread::Open)?;
        let after = past(after, "<arg_value>").ok_or_else(|| no_end("<arg_value>"))?;
        let (value, after) = after.split_once("</arg_value>").ok_or(Unread::Open)?;
        found.insert(key.trim().to_owned(), value.into());
        rest = after;
    }
    Ok((found.into(), rest))
}

fn no_end(mark: &str) -> Unread {
    Unread::Broken(format!("`{mark}` is missing"))
}

/// `name>{…}`, or with `<parameter=key>value</parameter>` inside, up to the end of the function.
fn function(text: &str) -> Result<(Vec<Written>, &str), Unread> {
    let (name, inner) = head(text)?;
    let inner = inner.trim_start();
    let (arguments, rest) = match literal::prefix(inner) {
        Ok((value, rest)) if value.is_object() => (value, rest),
        Err(LiteralError::Open) => return Err(Unread::Open),
        Err(LiteralError::Not(why)) if inner.starts_with('{') => return Err(Unread::Broken(why)),
        _ => parameters(inner, "<parameter=", "</function>")?,
    };
    Ok((vec![Written::new(name, arguments)], rest))
}

/// `"name">…</invoke>` with `<parameter name="key">value</parameter>` inside.
fn invoke(text: &str) -> Result<(Vec<Written>, &str), Unread> {
    let (name, inner) = head(text)?;
    let (arguments, rest) = parameters(inner, "<parameter name=", "</invoke>")?;
    Ok((vec![Written::new(name, arguments)], past(rest, "</invoke>").unwrap_or(rest)))
}

fn invokes(text: &str) -> Result<(Vec<Written>, &str), Unread> {
    let (mut calls, mut rest) = invoke(text)?;
    while let Some(next) = past(rest, "<invoke name=") {
        let (more, left) = invoke(next)?;
        calls.extend(more);
        rest = left;
    }
    Ok((calls, rest))
}

/// The name in a tag that is open, with or without quotes, and what follows the tag.
fn head(text: &str) -> Result<(&str, &str), Unread> {
    let line = text.lines().next().unwrap_or_default();
    if !line.contains('>') {
        let ends = line.len() == text.len();
        return Err(if ends { Unread::Open } else { Unread::Mentioned });
    }
    let (name, rest) = text.split_once('>').ok_or(Unread::Open)?;
    Ok((name.trim().trim_matches(['"', '\'']).trim(), rest))
}

fn parameters<'a>(text: &'a str, open: &str, end: &str) -> Result<(Value, &'a str), Unread> {
    let (mut found, mut rest) = (Map::new(), text);
    while let Some(parameter) = past(rest, open) {
        let (name, after) = head(parameter)?;
        let (value, after) = after.split_once("</parameter>").ok_or(Unread::Open)?;
        let value = value.strip_prefix('\n').unwrap_or(value);
        let value = value.strip_suffix('\n').unwrap_or(value);
        found.insert(name.to_owned(), value.into());
        rest = after;
    }
    let left = rest.trim_start();
    if left.starts_with(end) || (!found.is_empty() && !begins(left, open)) {
        return Ok((found.into(), rest));
    }
    if left.is_empty() || begins(left, open) || begins(left, end) {
        return Err(Unread::Open);
    }
    Err(Unread::Broken(format!("the part before `{end}` has no parameters")))
}

/// `functions.name:0<|tool_call_argument_begin|>{…}`
fn kimi(text: &str) -> Result<(Vec<Written>, &str), Unread> {
    const ARGUMENTS: &str = "<|tool_call_argument_begin|>";
    let (id, after) = text.split_once(ARGUMENTS).ok_or(Unread::Open)?;
    let name = id.trim().split(':').next().unwrap_or_default();
    let (value, rest) = literal::prefix(after)?;
    let rest = past(rest, "<|tool_call_end|>").unwrap_or(rest);
    Ok((vec![Written::new(name, value)], rest))
}

fn kimi_section(text: &str) -> Result<(Vec<Written>, &str), Unread> {
    section(text, "<|tool_call_begin|>", kimi)
}

/// `function<｜tool▁sep｜>name` and a fenced block, or `name<｜tool▁sep｜>{…}`.
fn deepseek(text: &str) -> Result<(Vec<Written>, &str), Unread> {
    let (head, after) = text.split_once("<｜tool▁sep｜>").ok_or(Unread::Open)?;
    let (name, body) = match after.trim_start() {
        body if body.starts_with('{') => (head, body),
        _ => after.split_once('\n').ok_or(Unread::Open)?,
    };
    let body = body.trim_start();
    let fenced = body.strip_prefix("```");
    let body = match fenced {
        Some(fenced) => fenced.split_once('\n').ok_or(Unread::Open)?.1,
        None => body,
    };
    let (value, rest) = literal::prefix(body)?;
    let rest = past(rest, "```").unwrap_or(rest);
    let rest = past(rest, "<｜tool▁call▁end｜>").unwrap_or(rest);
    Ok((vec![Written::new(name, value)], rest))
}

fn deepseek_section(text: &str) -> Result<(Vec<Written>, &str), Unread> {
    section(text, "<｜tool▁call▁begin｜>", deepseek)
}

/// One or several calls that each have an opening mark of their own.
fn section<'a>(text: &'a str, mark: &str, one: Body) -> Result<(Vec<Written>, &'a str), Unread> {
    let (mut calls, mut rest) = (Vec::new(), text);
    while let Some(next) = past(rest, mark) {
        let (more, left) = one(next)?;
        calls.extend(more);
        rest = left;
    }
    let left = rest.trim_start();
    match calls.is_empty() {
        false => Ok((calls, rest)),
        true if left.is_empty() || begins(left, mark) => Err(Unread::Open),
        true => Err(Unread::Mentioned),
    }
}

/// ` to=functions.name … <|message|>{…}`
fn harmony(text: &str) -> Result<(Vec<Written>, &str), Unread> {
    let (head, after) = text.split_once("<|message|>").ok_or(Unread::Open)?;
    let Some((_, to)) = head.split_once("to=") else { return Err(Unread::Mentioned) };
    let (value, rest) = literal::prefix(after)?;
    Ok((vec![Written::new(name(to).0, value)], rest))
}

/// A list of calls as Python writes them, where it begins with a call of one of these tools.
pub(super) fn python_calls<'a>(text: &'a str, tools: &[&str]) -> Found<'a> {
    let inner = text.strip_prefix('[').unwrap_or(text).trim_start();
    let (name, rest) = name(inner);
    let base = name.strip_suffix(".call").unwrap_or(name);
    if rest.is_empty() && !name.is_empty() {
        let begins = tools.iter().any(|tool| {
            tool.starts_with(name)
                || name.strip_prefix(tool).is_some_and(|end| ".call".starts_with(end))
        });
        return if begins { Found::Open } else { Found::Mentioned };
    }
    if !tools.contains(&base) || !rest.starts_with('(') {
        return Found::Mentioned;
    }
    match python_list(text) {
        Ok((calls, rest)) => Found::Calls(calls, rest),
        Err(Unread::Broken(why)) => Found::Broken(why, ""),
        Err(Unread::Open | Unread::Mentioned) => Found::Open,
    }
}

/// `[name(key=value, …), …]`
fn python_list(text: &str) -> Result<(Vec<Written>, &str), Unread> {
    let mut rest = text.strip_prefix('[').ok_or(Unread::Mentioned)?;
    let mut calls = Vec::new();
    loop {
        let (call, left) = python(rest.trim_start())?;
        calls.push(call);
        rest = left.trim_start();
        match rest.strip_prefix(',') {
            Some(next) => rest = next,
            None => return Ok((calls, rest.strip_prefix(']').ok_or(Unread::Open)?)),
        }
    }
}

/// `name(key=value, …)` with literals for values.
fn python(text: &str) -> Result<(Written, &str), Unread> {
    let (name, rest) = name(text);
    let name = name.strip_suffix(".call").unwrap_or(name);
    let mut rest = rest.strip_prefix('(').ok_or(Unread::Mentioned)?;
    let mut found = Map::new();
    loop {
        let next = rest.trim_start();
        if let Some(rest) = next.strip_prefix(')') {
            return Ok((Written::new(name, found.into()), rest));
        }
        let (key, value) = next.split_once('=').ok_or(Unread::Open)?;
        if key.is_empty() || !key.trim().chars().all(|c| c.is_alphanumeric() || c == '_') {
            return Err(Unread::Broken("its arguments have no names".to_owned()));
        }
        let (value, left) = literal::prefix(value)?;
        found.insert(key.trim().to_owned(), value);
        let left = left.trim_start();
        rest = left.strip_prefix(',').unwrap_or(left);
    }
}
