//! How a scene is given: in lines or in one object, whole or with a fault. Pure
//! but for the clock.

use std::time::Duration;

use axum::http::StatusCode;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, future, stream as streams};
use serde_json::{Value, json};

use super::heard::Heard;
use super::{Call, MODEL, Play, Scene, ServerFault, rules, tokens};
use crate::clock::{Clock as _, SystemClock};
use crate::gateway::rules::ANSWER_TOKENS_MAX;
use crate::gateway::upstream::{Answer, Endpoint, JSON, NDJSON, error_body};

/// About so many bytes of text go into a line.
const LINE_TEXT: usize = 16;

/// Where one answer is given: everything about it that does not depend on the scene.
pub(super) struct AnswerContext {
    generate: bool,
    streamed: bool,
    prompt_tokens: u64,
    answer_tokens_max: u64,
    context: u32,
    call: Call,
}

impl AnswerContext {
    pub(super) fn new(
        endpoint: Endpoint,
        request: &Value,
        heard: &Option<Heard>,
        context: u32,
    ) -> Self {
        let predict = request["options"]["num_predict"].as_u64();
        Self {
            generate: endpoint == Endpoint::Generate,
            streamed: request["stream"] != Value::Bool(false),
            prompt_tokens: heard.as_ref().map_or(0, |heard| heard.tokens),
            answer_tokens_max: predict.unwrap_or(ANSWER_TOKENS_MAX),
            context,
            call: heard.as_ref().map(rules::any_call).unwrap_or_else(rules::echo),
        }
    }

    pub(super) fn perform(&self, scene: &Scene) -> Answer {
        let refusing = matches!(
            scene.play,
            Play::ServerFault(
                ServerFault::Error | ServerFault::Busy | ServerFault::Overflow | ServerFault::Hang
            )
        );
        match scene.play {
            Play::ServerFault(fault) if refusing => self.refuse(fault),
            _ if self.streamed => self.stream(scene),
            _ => self.single(scene),
        }
    }

    /// Refusals, in Ollama's words.
    pub(super) fn refuse(&self, fault: ServerFault) -> Answer {
        let (status, words) = match fault {
            ServerFault::Busy => (
                StatusCode::SERVICE_UNAVAILABLE,
                "server busy, please try again.  maximum pending requests exceeded".to_owned(),
            ),
            ServerFault::Overflow => {
                let (sent, context) = (self.prompt_tokens, self.context);
                let inner = json!({ "error": {
                    "code": 400,
                    "message": format!("request ({sent} tokens) exceeds the available context \
                        size ({context} tokens), try increasing it"),
                    "type": "exceed_context_size_error",
                    "n_prompt_tokens": sent, "n_ctx": context,
                } });
                (StatusCode::BAD_REQUEST, inner.to_string())
            }
            _ => (StatusCode::INTERNAL_SERVER_ERROR, RUNNER_STOPPED.to_owned()),
        };
        whole(status, error_body(&words))
    }

    fn stream(&self, scene: &Scene) -> Answer {
        let (lines, broken) = self.lines(scene);
        let chunks: Vec<Bytes> = match scene.chunk {
            None => lines,
            Some(size) => lines.concat().chunks(size.max(1)).map(Bytes::copy_from_slice).collect(),
        };
        let chunks = chunks.into_iter().map(Ok);
        let end = broken.then(|| Err("connection reset by peer".to_owned()));
        let body = paced(chunks.chain(end).collect(), scene.delay);
        Answer { status: StatusCode::OK, content_type: NDJSON, body }
    }

    /// The lines of a streamed answer, and whether the connection breaks after them.
    fn lines(&self, scene: &Scene) -> (Vec<Bytes>, bool) {
        let mut lines = Vec::new();
        for piece in pieces(&scene.thinking) {
            lines.push(self.line("thinking", piece));
        }
        let say = |lines: &mut Vec<Bytes>, text: &str| {
            lines.extend(pieces(text).into_iter().map(|piece| self.line("content", piece)));
        };
        let written = tokens(&scene.thinking);
        match &scene.play {
            Play::Reply(text) => {
                say(&mut lines, text);
                lines.push(as_line(&self.last("stop", Some(written + tokens(text)))));
            }
            Play::Calls(calls) => {
                for (index, call) in calls.iter().enumerate() {
                    let mut line = self.begin();
                    line["message"]["tool_calls"] = json!([wire_call(index, call)]);
                    line["done"] = false.into();
                    lines.push(as_line(&line));
                }
                lines.push(as_line(&self.last("stop", Some(written + call_tokens(calls)))));
            }
            Play::ServerFault(fault) => return self.faulty_lines(*fault, lines),
        }
        (lines, false)
    }

    fn faulty_lines(&self, fault: ServerFault, mut lines: Vec<Bytes>) -> (Vec<Bytes>, bool) {
        let begun = ["(rehearsal) ", "this answer "];
        let say = |lines: &mut Vec<Bytes>, text: &str| lines.push(self.line("content", text));
        match fault {
            ServerFault::Loop => {
                for _ in 0..self.answer_tokens_max {
                    say(&mut lines, "spam ");
                }
                lines.push(as_line(&self.last("length", Some(self.answer_tokens_max))));
            }
            ServerFault::Empty => lines.push(as_line(&self.last("stop", Some(12)))),
            ServerFault::CallInDone => lines.push(as_line(&self.call_in_done())),
            ServerFault::TextCall => {
                say(&mut lines, &self.text_call());
                lines.push(as_line(&self.last("stop", Some(12))));
            }
            _ => {
                begun.iter().for_each(|text| say(&mut lines, text));
                match fault {
                    ServerFault::Length => lines.push(as_line(&self.last("length", Some(2)))),
                    ServerFault::ErrorMidStream => {
                        lines.push(as_line(&json!({ "error": RUNNER_GONE })))
                    }
                    _ => {}
                }
            }
        }
        (lines, fault == ServerFault::Reset)
    }

    /// The same answer in one object.
    fn single(&self, scene: &Scene) -> Answer {
        let mut object = match &scene.play {
            Play::Reply(text) => {
                let mut object = self.last("stop", Some(tokens(text)));
                self.put(&mut object, "content", text);
                object
            }
            Play::Calls(calls) => {
                let mut object = self.last("stop", Some(call_tokens(calls)));
                let calls = calls.iter().enumerate().map(|(index, call)| wire_call(index, call));
                object["message"]["tool_calls"] = calls.collect();
                object
            }
            Play::ServerFault(fault) => match self.faulty_object(*fault) {
                Ok(object) => object,
                Err(answer) => return answer,
            },
        };
        if !scene.thinking.is_empty() {
            self.put(&mut object, "thinking", &scene.thinking);
        }
        let body = vec![Ok(object.to_string().into())];
        Answer { status: StatusCode::OK, content_type: JSON, body: paced(body, scene.delay) }
    }

    fn faulty_object(&self, fault: ServerFault) -> Result<Value, Answer> {
        let mut object = self.last("stop", Some(12));
        match fault {
            ServerFault::Empty => {}
            ServerFault::CallInDone => object = self.call_in_done(),
            ServerFault::TextCall => self.put(&mut object, "content", &self.text_call()),
            ServerFault::Loop => {
                object = self.last("length", Some(self.answer_tokens_max));
                let most = usize::try_from(self.answer_tokens_max).unwrap_or(usize::MAX);
                self.put(&mut object, "content", &"spam ".repeat(most));
            }
            ServerFault::Length => {
                object = self.last("length", Some(2));
                self.put(&mut object, "content", "(rehearsal) this answer ");
            }
            ServerFault::Eof => {
                object = self.begin();
                self.put(&mut object, "content", "(rehearsal) this answer ");
                object["done"] = false.into();
            }
            ServerFault::Reset => {
                let body = vec![Err("connection reset by peer".to_owned())];
                let body = paced(body, Duration::ZERO);
                return Err(Answer { status: StatusCode::OK, content_type: JSON, body });
            }
            ServerFault::ErrorMidStream
            | ServerFault::Error
            | ServerFault::Hang
            | ServerFault::Busy
            | ServerFault::Overflow => {
                return Err(self.refuse(fault));
            }
        }
        Ok(object)
    }

    /// An answer of one object, in either way of asking.
    pub(super) fn one(&self, object: &Value) -> Answer {
        plain(StatusCode::OK, object)
    }

    fn begin(&self) -> Value {
        let now = SystemClock.now().to_string();
        let mut line = json!({ "model": MODEL, "created_at": now });
        if self.generate {
            line["response"] = "".into();
        } else {
            line["message"] = json!({ "role": "assistant", "content": "" });
        }
        line
    }

    fn put(&self, line: &mut Value, field: &str, text: &str) {
        match (self.generate, field) {
            (true, "content") => line["response"] = text.into(),
            (true, field) => line[field] = text.into(),
            (false, field) => line["message"][field] = text.into(),
        }
    }

    fn line(&self, field: &str, text: &str) -> Bytes {
        let mut line = self.begin();
        self.put(&mut line, field, text);
        line["done"] = false.into();
        as_line(&line)
    }

    pub(super) fn last(&self, reason: &str, written: Option<u64>) -> Value {
        let mut line = self.begin();
        line["done"] = true.into();
        line["done_reason"] = reason.into();
        if let Some(written) = written {
            // A millisecond for a token: what is rehearsed is the shape, not the speed.
            line["total_duration"] = ((self.prompt_tokens + written) * 1_000_000).into();
            line["prompt_eval_count"] = self.prompt_tokens.into();
            line["eval_count"] = written.into();
            line["eval_duration"] = (written * 1_000_000).into();
        }
        line
    }

    fn call_in_done(&self) -> Value {
        let mut line = self.last("stop", Some(12));
        line["message"]["tool_calls"] = json!([wire_call(0, &self.call)]);
        line
    }

    fn text_call(&self) -> String {
        let call = json!({ "name": self.call.tool, "arguments": self.call.arguments });
        format!("<tool_call>\n{call}\n</tool_call>")
    }
}

const RUNNER_STOPPED: &str = "model runner has unexpectedly stopped, this may be due to resource \
    limitations or an internal error, check ollama server logs for details";
const RUNNER_GONE: &str = "an error was encountered while running the model: unexpected EOF";

fn wire_call(index: usize, call: &Call) -> Value {
    let id = format!("call_{}", &SystemClock.random_bits()[..8]);
    json!({
        "id": id,
        "function": { "index": index, "name": call.tool, "arguments": call.arguments },
    })
}

fn call_tokens(calls: &[Call]) -> u64 {
    calls.iter().map(|call| tokens(&call.tool) + tokens(&call.arguments.to_string())).sum()
}

fn as_line(value: &Value) -> Bytes {
    format!("{value}\n").into()
}

/// Text as a model gives it: a few words a line.
fn pieces(text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut start = 0;
    for (at, character) in text.char_indices() {
        let end = at + character.len_utf8();
        if character.is_whitespace() && end - start >= LINE_TEXT {
            pieces.push(&text[start..end]);
            start = end;
        }
    }
    if start < text.len() {
        pieces.push(&text[start..]);
    }
    pieces
}

fn paced(
    chunks: Vec<Result<Bytes, String>>,
    delay: Duration,
) -> BoxStream<'static, Result<Bytes, String>> {
    let chunks = streams::iter(chunks);
    if delay.is_zero() {
        return chunks.boxed();
    }
    let paced = chunks.then(move |chunk| async move {
        tokio::time::sleep(delay).await;
        chunk
    });
    paced.boxed()
}

pub(super) fn plain(status: StatusCode, body: &Value) -> Answer {
    whole(status, body.to_string().into())
}

fn whole(status: StatusCode, body: Bytes) -> Answer {
    let body = streams::once(future::ready(Ok(body))).boxed();
    Answer { status, content_type: JSON, body }
}
