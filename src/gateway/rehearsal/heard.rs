//! What a request says, as far as the rehearsal listens. Pure.
//!
//! It refuses what Ollama refuses, in Ollama's words: a stand-in that takes
//! what the real one does not would hide mistakes.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

use serde_json::Value;

use super::{Call, tokens};
use crate::gateway::rules::kind;
use crate::gateway::upstream::Refusal;
use crate::protocol::unescaped;

/// The end of a conversation.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Heard {
    /// The text of the last message that a person wrote.
    pub(super) message: String,
    /// Answers the model has given since then.
    pub(super) answers: usize,
    /// The last word, where a tool has it.
    pub(super) result: Option<String>,
    /// The last call, which that result is for.
    pub(super) called: Option<Call>,
    /// The tools that are offered, each as its `function` object.
    pub(super) tools: Vec<Value>,
    /// The size of all of it, in tokens.
    pub(super) tokens: u64,
}

impl Heard {
    /// Listens to `/api/chat`. `None` for a conversation without messages.
    pub(super) fn conversation(request: &Value) -> Result<Option<Self>, Refusal> {
        let messages = match &request["messages"] {
            Value::Null => return Ok(None),
            Value::Array(messages) if messages.is_empty() => return Ok(None),
            Value::Array(messages) => messages,
            other => return Err(wrong_type(other, "messages", "[]api.Message")),
        };
        messages.iter().try_for_each(check)?;
        let role = |message: &&Value, role: &str| message["role"] == role;
        let since = messages.iter().rposition(|message| role(&message, "user"));
        let answers = messages[since.unwrap_or(0)..].iter().filter(|m| role(m, "assistant"));
        let last = messages.last().filter(|message| role(message, "tool"));
        let text = since.and_then(|at| messages[at]["content"].as_str()).unwrap_or_default();
        let tools = request["tools"].as_array().map(Vec::as_slice).unwrap_or_default();
        let size: u64 = messages.iter().chain(tools).map(|part| tokens(&part.to_string())).sum();
        Ok(Some(Self {
            message: last_message(text),
            answers: answers.count(),
            result: last.map(|last| last["content"].as_str().unwrap_or_default().to_owned()),
            called: last.and_then(|last| call_of(messages, last)),
            tools: tools.iter().map(|tool| tool["function"].clone()).collect(),
            tokens: size,
        }))
    }

    /// Listens to `/api/generate`. `None` for a request without a prompt.
    pub(super) fn prompt(request: &Value) -> Result<Option<Self>, Refusal> {
        let text = match &request["prompt"] {
            Value::Null => return Ok(None),
            Value::String(text) if text.is_empty() => return Ok(None),
            Value::String(text) => text,
            other => return Err(wrong_type(other, "prompt", "string")),
        };
        Ok(Some(Self {
            message: last_message(text),
            answers: 0,
            result: None,
            called: None,
            tools: Vec::new(),
            tokens: tokens(text),
        }))
    }

    /// Whether this tool may be called.
    pub(super) fn offers(&self, tool: &str) -> bool {
        self.tools.iter().any(|offered| offered["name"] == tool)
    }
}

fn check(message: &Value) -> Result<(), Refusal> {
    if !message.is_object() {
        return Err(wrong_type(message, "messages", "api.Message"));
    }
    let content = &message["content"];
    if !content.is_null() && !content.is_string() {
        return Err(wrong_type(content, "messages.content", "string"));
    }
    let calls = message["tool_calls"].as_array().map(Vec::as_slice).unwrap_or_default();
    for call in calls {
        match &call["function"]["arguments"] {
            Value::Object(_) | Value::Null => {}
            // What a server of 0.33 says to a text with JSON in it.
            Value::String(_) => {
                let words = "Value looks like object, but can't find closing '}' symbol";
                return Err(Refusal::bad_request(words));
            }
            other => {
                let field = "messages.tool_calls.function.arguments";
                return Err(wrong_type(other, field, "api.ToolCallFunctionArguments"));
            }
        }
    }
    Ok(())
}

fn wrong_type(value: &Value, field: &str, expected: &str) -> Refusal {
    Refusal::bad_request(format!(
        "json: cannot unmarshal {} into Go struct field ChatRequest.{field} of type {expected}",
        kind(value)
    ))
}

/// The call that this result belongs to: by its id, else the last one.
fn call_of(messages: &[Value], result: &Value) -> Option<Call> {
    let calls = messages.iter().filter_map(|message| message["tool_calls"].as_array()).flatten();
    let id = result["tool_call_id"].as_str();
    let calls: Vec<&Value> = calls.collect();
    let own = calls.iter().rfind(|call| id.is_some() && call["id"].as_str() == id);
    let function = &own.or_else(|| calls.last())?["function"];
    Some(Call {
        tool: function["name"].as_str()?.to_owned(),
        arguments: function["arguments"].clone(),
    })
}

/// The text of the last `<message>`, without its attachments, or all of it where there is none.
fn last_message(text: &str) -> String {
    let opened = text.rmatch_indices("<message").find_map(|(at, tag)| {
        let rest = &text[at + tag.len()..];
        rest.starts_with([' ', '>']).then(|| rest.split_once('>'))?
    });
    let Some((_, rest)) = opened else { return text.trim().to_owned() };
    let inner = rest.split_once("</message>").map_or(rest, |(inner, _)| inner);
    let written = inner.split("\n<attachment ").next().unwrap_or(inner);
    unescaped(written.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_message_is_heard_as_it_was_written() {
        let text = "<messages><message sender=\"a\">first</message>\n\
            <message sender=\"owner\" time=\"2026-11-22 09:30\">is 1 &lt; 2 &amp;&amp; \
            &quot;&amp;lt;&quot;?</message></messages>";
        assert_eq!(last_message(text), "is 1 < 2 && \"&lt;\"?");
        let attached =
            "<message sender=\"a\">run x\n<attachment name=\"y\">no</attachment></message>";
        assert_eq!(last_message(attached), "run x");
        assert_eq!(last_message(" plain < text "), "plain < text");
    }
}
