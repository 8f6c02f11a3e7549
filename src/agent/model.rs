//! One question to the model: a request over the link, its stream put together.

use futures_util::StreamExt as _;
use http_body_util::{BodyExt as _, Limited};
use serde::Serialize;
use serde_json::Value;

use super::call::Call;
use super::chunk::{Chunk, error_words};
use crate::link::LinkError;
use crate::link::client::{self, Link};
use crate::protocol::{FAILURE_HEADER, Failure};

/// What is read of an error's body, in bytes.
const ERROR_MAX: usize = 64 << 10;
/// Most of one answer, in bytes: its events must fit into a request to the host.
const ANSWER_MAX: usize = 1 << 20;
/// Most calls of one answer that are taken.
const CALLS_MAX: usize = 32;

/// What the model said, whole.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Reply {
    /// Its text, thoughts and marks included.
    pub(super) content: String,
    /// Its calls, in order.
    pub(super) calls: Vec<Call>,
    /// Whether it was cut off: by a token limit, or because it went on repeating itself.
    pub(super) cut: bool,
    /// Whether some of it was a thought.
    pub(super) thought: bool,
    /// Whether it was cut off because it went on repeating itself.
    pub(super) repeated: bool,
}

/// Why there is no reply.
#[derive(Debug)]
pub(super) enum ModelError {
    /// The request failed, and nothing the model could do differently helps.
    Failed(Failure, String),
    /// The model cannot use tools.
    NoTools(String),
    /// The model wrote what its server cannot parse.
    Unparsable(String),
    /// The conversation is longer than the window.
    Overflow(String),
    /// The link broke.
    Link(LinkError),
}

impl From<LinkError> for ModelError {
    fn from(error: LinkError) -> Self {
        Self::Link(error)
    }
}

/// What Ollama's `/api/chat` is asked.
#[derive(Debug, Serialize)]
struct Question<'a> {
    model: &'a str,
    stream: bool,
    think: bool,
    messages: &'a [Value],
    #[serde(skip_serializing_if = "Option::is_none")]
    tools: Option<&'a Value>,
}

/// Asks the model, and gives `preview` the text as it comes.
pub(super) async fn ask(
    link: &Link,
    model: &str,
    messages: &[Value],
    tools: Option<&Value>,
    mut preview: impl AsyncFnMut(&str) -> Result<(), LinkError>,
) -> Result<Reply, ModelError> {
    let body = Question { model, stream: true, think: false, messages, tools };
    let response = link.post_json("/api/chat", &body).await?;
    let status = response.status().as_u16();
    if status != 200 {
        let named = response.headers().get(FAILURE_HEADER);
        let named = named.and_then(|word| Failure::named(word.to_str().ok()?));
        let body = Limited::new(response.into_body(), ERROR_MAX).collect().await;
        let bytes = body.map(|body| body.to_bytes()).unwrap_or_default();
        return Err(classify(status, named, &error_text(&bytes)));
    }
    let mut reply = Reply::default();
    let mut size = 0;
    let mut lines = std::pin::pin!(client::raw_lines(response.into_body()));
    while let Some(line) = lines.next().await {
        let chunk = match line {
            Ok(line) => Chunk::of(&line),
            Err(LinkError::TooLarge(_)) => return Err(too_large()),
            Err(error) => return Err(error.into()),
        };
        if let Some(error) = chunk.error {
            return Err(classify(500, None, &error));
        }
        if let Some(why) = chunk.unread {
            return Err(ModelError::Unparsable(why));
        }
        let calls = chunk.calls.iter().map(|call| call.arguments.to_string().len());
        size += chunk.content.len() + calls.sum::<usize>();
        if size > ANSWER_MAX || reply.calls.len() + chunk.calls.len() > CALLS_MAX {
            return Err(too_large());
        }
        reply.thought |= chunk.thought;
        if !chunk.content.is_empty() {
            reply.content.push_str(&chunk.content);
            preview(&chunk.content).await?;
        }
        for mut call in chunk.calls {
            let mut number = reply.calls.len();
            while call.id.is_empty() || reply.calls.iter().any(|other| other.id == call.id) {
                call.id = format!("call_{number}");
                number += 1;
            }
            reply.calls.push(call);
        }
        if let Some(reason) = chunk.end {
            // The gateway's word for a model that turned in circles.
            reply.repeated = reason == "repeat";
            reply.cut = reply.repeated || reason == "length";
            return Ok(reply);
        }
    }
    Err(ModelError::Failed(Failure::Busy, "the model's answer broke off".to_owned()))
}

fn too_large() -> ModelError {
    let words = format!(
        "the answer was larger than {} MiB or had more than {CALLS_MAX} tool calls",
        ANSWER_MAX >> 20
    );
    ModelError::Unparsable(words)
}

/// Ollama's `{"error": "…"}`, which may hold another such text.
fn error_text(body: &[u8]) -> String {
    match serde_json::from_slice::<Value>(body) {
        Ok(value) => error_words(&value["error"]).unwrap_or_else(|| value.to_string()),
        Err(_) => String::from_utf8_lossy(body).trim().to_owned(),
    }
}

/// What an error means for the turn. `named` is what the gateway calls it; in the middle of an
/// answer there are only the server's words.
fn classify(status: u16, named: Option<Failure>, message: &str) -> ModelError {
    const OVERFLOW: &[&str] =
        &["exceeds the available context", "exceeds the context length", "longer than the context"];
    const UNPARSABLE: &[&str] = &[
        "error parsing tool call",
        "failed to parse JSON",
        "empty function name",
        "XML syntax error",
        "invalid character",
        "invalid tool call arguments",
        "empty grammar stack",
    ];
    let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
    let text = message.to_owned();
    if says(OVERFLOW) {
        return ModelError::Overflow(text);
    }
    if says(&["does not support tools"]) {
        return ModelError::NoTools(text);
    }
    if status >= 500 && says(UNPARSABLE) {
        return ModelError::Unparsable(text);
    }
    let by_status = if status >= 500 { Failure::Busy } else { Failure::Model };
    let failure = named.or_else(|| Failure::meant_by(message)).unwrap_or(by_status);
    ModelError::Failed(failure, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_apart_by_what_can_be_done_about_them() {
        let failure = |error| match error {
            ModelError::Failed(failure, _) => failure,
            other => panic!("{other:?}"),
        };
        let busy = "server busy, please try again.  maximum pending requests exceeded";
        assert_eq!(failure(classify(503, None, busy)), Failure::Busy);
        assert_eq!(failure(classify(404, None, "model 'x' not found")), Failure::Absent);
        assert_eq!(failure(classify(502, Some(Failure::Model), "moved")), Failure::Model);
        assert_eq!(failure(classify(403, None, "no")), Failure::Model);
        let memory = "model requires more system memory (5.5 GiB) than is available (3.2 GiB)";
        assert_eq!(failure(classify(500, None, memory)), Failure::Model);
        let parse = "error parsing tool call: raw='{', err=unexpected end of JSON input";
        assert!(matches!(classify(500, None, parse), ModelError::Unparsable(_)));
        let grammar = "llama-server chat error: map[code:500 message:got exception: Unexpected \
                       empty grammar stack after accepting piece: x]";
        assert!(matches!(classify(500, None, grammar), ModelError::Unparsable(_)));
        let long = "the input length exceeds the context length";
        assert!(matches!(classify(400, None, long), ModelError::Overflow(_)));
    }

    #[test]
    fn a_nested_error_is_read_to_its_message() {
        let nested = br#"{"error":"{\"error\":{\"code\":400,\"message\":\"request (9 tokens) exceeds the available context size (8 tokens)\",\"type\":\"exceed_context_size_error\"}}"}"#;
        assert_eq!(
            error_text(nested),
            "request (9 tokens) exceeds the available context size (8 tokens)"
        );
        assert_eq!(error_text(br#"{"error":"model 'x' not found"}"#), "model 'x' not found");
        assert_eq!(error_text(b"404 page not found\n"), "404 page not found");
    }
}
