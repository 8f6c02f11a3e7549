//! Scripts: what the rehearsal says and does, written down in the project.
//!
//! ```toml
//! [[rule]]
//! when  = "sum"                 # a part of the last message; empty: any
//! steps = [
//!   { call = { tool = "bb_shell", arguments = { command = "sha256sum a.bin" } } },
//!   { reply = "It is {result}", delay = "50ms" },
//! ]
//! ```
//!
//! The first rule that fits is played; the n-th answer since the last message
//! takes its n-th step. Nothing is remembered between two answers. `{message}`
//! and `{result}`, the last result of a tool, are filled in where a step has text.

use std::fs::File;
use std::io::Read as _;
use std::path::{Component, Path};

use rustix::fs::{Mode, OFlags, open, openat};
use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;
use toml::Spanned;

use super::heard::Heard;
use super::{Call, Play, Scene, ServerFault};
use crate::unit::Period;

/// Largest script, in bytes.
const SCRIPT_MAX: u64 = 1 << 20;

/// Why a script cannot be played.
#[derive(Debug, Error)]
pub(super) enum ScriptError {
    /// It leads out of the project.
    #[error("read the script {0}: it must be a path within the project")]
    Outside(String),
    /// It could not be opened or read; a symbolic link is not followed.
    #[error("read the script {path}: {source}")]
    Read { path: String, source: std::io::Error },
    /// It is not a plain file.
    #[error("read the script {0}: it is not a file")]
    NotFile(String),
    /// It is larger than [`SCRIPT_MAX`].
    #[error("read the script {0}: it is larger than {SCRIPT_MAX} bytes")]
    TooLarge(String),
    /// It is not written as a script is.
    #[error("{path}:{line}: {words}")]
    Form { path: String, line: usize, words: String },
}

/// Rules, the first that fits first.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Script {
    rules: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq)]
struct Rule {
    // In lower case.
    when: String,
    steps: Vec<Scene>,
}

impl Script {
    /// Reads a script of the project in this folder.
    pub(super) fn read(project: &Path, path: &str) -> Result<Self, ScriptError> {
        let text = text(project, path)?;
        Self::parse(&text).map_err(|(at, words)| {
            let line =
                text.as_bytes()[..at.min(text.len())].iter().filter(|&&b| b == b'\n').count() + 1;
            ScriptError::Form { path: path.to_owned(), line, words }
        })
    }

    /// Reads a script's text. An error is where it is, in bytes, and what it is.
    fn parse(text: &str) -> Result<Self, (usize, String)> {
        let written: WrittenScript = toml::from_str(text).map_err(|error| {
            (error.span().map_or(0, |span| span.start), error.message().trim().to_owned())
        })?;
        let rules = written.rule.into_iter().map(|rule| {
            let steps: Result<Vec<Scene>, _> = rule.steps.into_iter().map(meant).collect();
            Ok(Rule { when: rule.when.to_lowercase(), steps: steps? })
        });
        Ok(Self { rules: rules.collect::<Result<_, _>>()? })
    }

    /// What the script has for this moment; `None` leaves it to the built-in rules.
    pub(super) fn scene(&self, heard: &Heard) -> Option<Scene> {
        let message = heard.message.to_lowercase();
        let rule = self.rules.iter().find(|rule| message.contains(&rule.when))?;
        let step = rule.steps.get(heard.answers).cloned();
        let mut scene = step.unwrap_or_else(|| {
            Play::Reply("(rehearsal) The script has no further step.".to_owned()).into()
        });
        scene.play = filled_in(scene.play, heard);
        Some(scene)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenScript {
    #[serde(default)]
    rule: Vec<WrittenRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenRule {
    #[serde(default)]
    when: String,
    steps: Vec<Spanned<WrittenStep>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenStep {
    reply: Option<String>,
    call: Option<WrittenCall>,
    calls: Option<Vec<WrittenCall>>,
    fault: Option<ServerFault>,
    delay: Option<Period>,
    #[serde(default)]
    thinking: String,
    chunk: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenCall {
    tool: String,
    #[serde(default)]
    arguments: serde_json::Map<String, Value>,
}

fn meant(written: Spanned<WrittenStep>) -> Result<Scene, (usize, String)> {
    let at = written.span().start;
    let step = written.into_inner();
    let call = |call: WrittenCall| Call { tool: call.tool, arguments: call.arguments.into() };
    let play = match (step.reply, step.call, step.calls, step.fault) {
        (Some(text), None, None, None) => Play::Reply(text),
        (None, Some(one), None, None) => Play::Calls(vec![call(one)]),
        (None, None, Some(calls), None) => Play::Calls(calls.into_iter().map(call).collect()),
        (None, None, None, Some(fault)) => Play::ServerFault(fault),
        _ => {
            let words = "a step has exactly one of reply, call, calls and fault";
            return Err((at, words.to_owned()));
        }
    };
    if step.chunk == Some(0) {
        return Err((at, "chunk is at least 1".to_owned()));
    }
    let delay = step.delay.map_or(std::time::Duration::ZERO, Period::as_duration);
    Ok(Scene { play, thinking: step.thinking, delay, chunk: step.chunk })
}

fn filled_in(play: Play, heard: &Heard) -> Play {
    let fill = |text: &str| {
        let result = heard.result.as_deref().unwrap_or_default();
        // The result last: what a tool says is not a template.
        text.replace("{message}", &heard.message).replace("{result}", result)
    };
    match play {
        Play::Reply(text) => Play::Reply(fill(&text)),
        Play::Calls(calls) => Play::Calls(
            calls
                .into_iter()
                .map(|call| Call { tool: call.tool, arguments: fill_value(call.arguments, &fill) })
                .collect(),
        ),
        Play::ServerFault(fault) => Play::ServerFault(fault),
    }
}

fn fill_value(value: Value, fill: &impl Fn(&str) -> String) -> Value {
    match value {
        Value::String(text) => fill(&text).into(),
        Value::Array(items) => items.into_iter().map(|item| fill_value(item, fill)).collect(),
        Value::Object(fields) => {
            fields.into_iter().map(|(name, value)| (name, fill_value(value, fill))).collect()
        }
        other => other,
    }
}

/// The text of a file that is reached from the project without following a link.
fn text(project: &Path, path: &str) -> Result<String, ScriptError> {
    let failed = |source: std::io::Error| ScriptError::Read { path: path.to_owned(), source };
    let file = opened(project, path)?;
    let about = file.metadata().map_err(failed)?;
    if !about.is_file() {
        return Err(ScriptError::NotFile(path.to_owned()));
    }
    let mut text = String::new();
    file.take(SCRIPT_MAX + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > SCRIPT_MAX {
        return Err(ScriptError::TooLarge(path.to_owned()));
    }
    Ok(text)
}

fn opened(project: &Path, path: &str) -> Result<File, ScriptError> {
    let outside = || ScriptError::Outside(path.to_owned());
    let failed = |error: rustix::io::Errno| ScriptError::Read {
        path: path.to_owned(),
        source: error.into(),
    };
    let mut names = Vec::new();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => names.push(name),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return Err(outside());
            }
        }
    }
    let (file, folders) = names.split_last().ok_or_else(outside)?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let mut folder = open(project, flags | OFlags::DIRECTORY, Mode::empty()).map_err(failed)?;
    for name in folders {
        let flags = flags | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        folder = openat(&folder, *name, flags, Mode::empty()).map_err(failed)?;
    }
    // Not blocking: a pipe with no writer would never open.
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    Ok(openat(&folder, *file, flags, Mode::empty()).map_err(failed)?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(text: &str, line: usize, words: &str) {
        let (at, found) = Script::parse(text).unwrap_err();
        let found_line = text[..at].matches('\n').count() + 1;
        assert_eq!((found_line, found.contains(words)), (line, true), "{found}");
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        refused("[[rule]]\nwhen = \"\"\nstep = []\n", 3, "step");
        refused("[[rule]]\nsteps = [\n {},\n]\n", 3, "exactly one");
        refused("[[rule]]\nsteps = [\n { reply = \"a\", fault = \"eof\" },\n]\n", 3, "exactly one");
        refused("[[rule]]\nsteps = [\n { fault = \"flood\" },\n]\n", 3, "flood");
        refused("[[rule]]\nsteps = [{ reply = \"\", delay = \"5\" }]\n", 2, "unit");
        refused("[[rule]]\nsteps = [{ reply = \"\", chunk = 0 }]\n", 2, "at least 1");
    }
}
