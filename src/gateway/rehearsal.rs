//! A model that needs no server: rules instead of weights, behind the same door.
//!
//! It answers in Ollama's wire format and makes real tool calls, so everything
//! around a model can be tried, shown and tested before one is installed. What
//! it says is by built-in rules ([`rules`]) or a script of the project
//! ([`script`]), which can also order every way in which a real server fails.
//! Its built-in answers say that they are a rehearsal; a script speaks in its
//! author's words.

mod heard;
mod rules;
mod script;

use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::http::StatusCode;
use bytes::Bytes;
use futures_util::future::{self, BoxFuture};
use futures_util::stream::BoxStream;
use futures_util::{FutureExt as _, StreamExt as _, stream as streams};
use serde_json::{Value, json};

use self::heard::Heard;
use self::script::Script;
use super::upstream::{Answer, Endpoint, JSON, NDJSON, Refusal, Upstream, error_body};
use super::{ModelFacts, ModelState};
use crate::clock::{Clock as _, SystemClock};

/// The model as a client calls it.
const MODEL: &str = "rehearsal:latest";
/// The version it answers with: that of the Ollama whose manners it has.
const VERSION: &str = "0.33.0-rehearsal";
/// A token is about so many characters.
const TOKEN_CHARACTERS: usize = 4;
/// About so many bytes of text go into a line.
const LINE_TEXT: usize = 16;

/// A tool call.
#[derive(Clone, Debug, PartialEq)]
struct Call {
    tool: String,
    arguments: Value,
}

/// One answer: what it is, and how it is given.
#[derive(Clone, Debug, PartialEq)]
struct Scene {
    play: Play,
    thinking: String,
    /// Before every line, or every chunk where chunks are cut.
    delay: Duration,
    /// Cuts the answer into chunks of so many bytes, wherever that falls.
    chunk: Option<usize>,
}

impl From<Play> for Scene {
    fn from(play: Play) -> Self {
        Self { play, thinking: String::new(), delay: Duration::ZERO, chunk: None }
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Play {
    Reply(String),
    Calls(Vec<Call>),
    Fault(Fault),
}

/// A way in which a real server fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Fault {
    /// The stream ends without `done`.
    Eof,
    /// 500, and words about the runner.
    Error,
    /// 200, some text, then an error.
    ErrorMidStream,
    /// No text and no call, though tokens were written: a tool call that was lost.
    Empty,
    /// The answer is cut at its bound.
    Length,
    /// The same token, again and again.
    Loop,
    /// Not a byte.
    Hang,
    /// A tool call in the line that says `done`.
    CallInDone,
    /// A tool call written out as text.
    TextCall,
    /// 503: too many requests wait.
    Busy,
    /// 400: the prompt is longer than the context.
    Overflow,
    /// The connection breaks in mid-answer.
    Reset,
}

/// The stand-in of one router.
#[derive(Debug)]
pub(super) struct Rehearsal {
    project: PathBuf,
    context: u32,
    script: Option<String>,
}

/// Looks whether the rehearsal can begin: only its script could keep it from it.
pub(super) async fn look(project: &Path, context: u32, script: Option<&str>) -> ModelState {
    let stand_in = Rehearsal::new(project.to_owned(), context, script.map(ToOwned::to_owned));
    match stand_in.read_script().await {
        Err(error) => ModelState::Unknown(error.message),
        Ok(_) => ModelState::Is(ModelFacts {
            version: VERSION.into(),
            tools: true,
            context_max: Some(context.into()),
            remote: false,
        }),
    }
}

impl Rehearsal {
    pub(super) fn new(project: PathBuf, context: u32, script: Option<String>) -> Self {
        Self { project, context, script }
    }

    /// Read anew for every answer, so that a script can be edited while it plays.
    async fn read_script(&self) -> Result<Script, Refusal> {
        let Some(script) = self.script.clone() else { return Ok(Script::default()) };
        let project = self.project.clone();
        let read = tokio::task::spawn_blocking(move || Script::read(&project, &script)).await;
        let failed = |words: String| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, words);
        read.map_err(|error| failed(error.to_string()))?.map_err(|error| failed(error.to_string()))
    }

    async fn answer(&self, endpoint: Endpoint, request: Value) -> Result<Answer, Refusal> {
        match endpoint {
            Endpoint::Version => Ok(plain(StatusCode::OK, &json!({ "version": VERSION }))),
            Endpoint::Tags | Endpoint::Ps => Ok(plain(StatusCode::OK, &self.list())),
            Endpoint::Show => Ok(plain(StatusCode::OK, &self.show())),
            Endpoint::Embed => {
                let words = "This server does not support embeddings. It is a rehearsal.";
                Err(Refusal::new(StatusCode::NOT_IMPLEMENTED, words))
            }
            Endpoint::Chat | Endpoint::Generate => self.perform(endpoint, &request).await,
        }
    }

    async fn perform(&self, endpoint: Endpoint, request: &Value) -> Result<Answer, Refusal> {
        let heard = match endpoint {
            Endpoint::Generate => Heard::prompt(request)?,
            _ => Heard::conversation(request)?,
        };
        let stage = Stage::new(endpoint, request, &heard, self.context);
        let Some(heard) = heard else {
            // Ollama's answer to a request that only wants the model loaded.
            return Ok(stage.one(&stage.last("load", None)));
        };
        if heard.tokens > u64::from(self.context) {
            return Ok(stage.refuse(Fault::Overflow));
        }
        let scene = self.read_script().await?.scene(&heard);
        let scene = scene.unwrap_or_else(|| rules::scene(&heard));
        if scene.play == Play::Fault(Fault::Hang) {
            return future::pending().await;
        }
        Ok(stage.perform(&scene))
    }

    fn list(&self) -> Value {
        json!({ "models": [{
            "name": MODEL, "model": MODEL, "modified_at": "1970-01-01T00:00:00Z", "size": 0,
            "digest": "0".repeat(64), "details": details(), "context_length": self.context,
            "size_vram": 0,
        }] })
    }

    fn show(&self) -> Value {
        json!({
            "modelfile": "", "parameters": "", "template": "", "details": details(),
            "model_info": {
                "general.architecture": "rehearsal", "rehearsal.context_length": self.context,
            },
            "capabilities": ["completion", "tools"], "modified_at": "1970-01-01T00:00:00Z",
        })
    }
}

impl Upstream for Rehearsal {
    fn ask(&self, endpoint: Endpoint, body: Value) -> BoxFuture<'_, Result<Answer, Refusal>> {
        self.answer(endpoint, body).boxed()
    }
}

fn details() -> Value {
    json!({
        "parent_model": "", "format": "rehearsal", "family": "rehearsal",
        "families": ["rehearsal"], "parameter_size": "0", "quantization_level": "none",
    })
}

fn plain(status: StatusCode, body: &Value) -> Answer {
    whole(status, body.to_string().into())
}

fn whole(status: StatusCode, body: Bytes) -> Answer {
    let body = streams::once(future::ready(Ok(body))).boxed();
    Answer { status, content_type: JSON, body }
}

fn tokens(text: &str) -> u64 {
    text.chars().count().div_ceil(TOKEN_CHARACTERS) as u64
}

/// Where one answer is given: everything about it that does not depend on the scene.
struct Stage {
    generate: bool,
    streamed: bool,
    prompt_tokens: u64,
    answer_tokens_max: u64,
    context: u32,
    call: Call,
}

impl Stage {
    fn new(endpoint: Endpoint, request: &Value, heard: &Option<Heard>, context: u32) -> Self {
        let predict = request["options"]["num_predict"].as_u64();
        Self {
            generate: endpoint == Endpoint::Generate,
            streamed: request["stream"] != Value::Bool(false),
            prompt_tokens: heard.as_ref().map_or(0, |heard| heard.tokens),
            answer_tokens_max: predict.unwrap_or(super::rules::ANSWER_TOKENS_MAX),
            context,
            call: heard.as_ref().map(rules::any_call).unwrap_or_else(rules::echo),
        }
    }

    fn perform(&self, scene: &Scene) -> Answer {
        let refusing = matches!(
            scene.play,
            Play::Fault(Fault::Error | Fault::Busy | Fault::Overflow | Fault::Hang)
        );
        match scene.play {
            Play::Fault(fault) if refusing => self.refuse(fault),
            _ if self.streamed => self.stream(scene),
            _ => self.single(scene),
        }
    }

    /// Refusals, in Ollama's words.
    fn refuse(&self, fault: Fault) -> Answer {
        let (status, words) = match fault {
            Fault::Busy => (
                StatusCode::SERVICE_UNAVAILABLE,
                "server busy, please try again.  maximum pending requests exceeded".to_owned(),
            ),
            Fault::Overflow => {
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
            Play::Fault(fault) => return self.faulty_lines(*fault, lines),
        }
        (lines, false)
    }

    fn faulty_lines(&self, fault: Fault, mut lines: Vec<Bytes>) -> (Vec<Bytes>, bool) {
        let begun = ["(rehearsal) ", "this answer "];
        let say = |lines: &mut Vec<Bytes>, text: &str| lines.push(self.line("content", text));
        match fault {
            Fault::Loop => {
                for _ in 0..self.answer_tokens_max {
                    say(&mut lines, "spam ");
                }
                lines.push(as_line(&self.last("length", Some(self.answer_tokens_max))));
            }
            Fault::Empty => lines.push(as_line(&self.last("stop", Some(12)))),
            Fault::CallInDone => lines.push(as_line(&self.call_in_done())),
            Fault::TextCall => {
                say(&mut lines, &self.text_call());
                lines.push(as_line(&self.last("stop", Some(12))));
            }
            _ => {
                begun.iter().for_each(|text| say(&mut lines, text));
                match fault {
                    Fault::Length => lines.push(as_line(&self.last("length", Some(2)))),
                    Fault::ErrorMidStream => lines.push(as_line(&json!({ "error": RUNNER_GONE }))),
                    _ => {}
                }
            }
        }
        (lines, fault == Fault::Reset)
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
            Play::Fault(fault) => match self.faulty_object(*fault) {
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

    fn faulty_object(&self, fault: Fault) -> Result<Value, Answer> {
        let mut object = self.last("stop", Some(12));
        match fault {
            Fault::Empty => {}
            Fault::CallInDone => object = self.call_in_done(),
            Fault::TextCall => self.put(&mut object, "content", &self.text_call()),
            Fault::Loop => {
                object = self.last("length", Some(self.answer_tokens_max));
                let most = usize::try_from(self.answer_tokens_max).unwrap_or(usize::MAX);
                self.put(&mut object, "content", &"spam ".repeat(most));
            }
            Fault::Length => {
                object = self.last("length", Some(2));
                self.put(&mut object, "content", "(rehearsal) this answer ");
            }
            Fault::Eof => {
                object = self.begin();
                self.put(&mut object, "content", "(rehearsal) this answer ");
                object["done"] = false.into();
            }
            Fault::Reset => {
                let body = vec![Err("connection reset by peer".to_owned())];
                let body = paced(body, Duration::ZERO);
                return Err(Answer { status: StatusCode::OK, content_type: JSON, body });
            }
            Fault::ErrorMidStream | Fault::Error | Fault::Hang | Fault::Busy | Fault::Overflow => {
                return Err(self.refuse(fault));
            }
        }
        Ok(object)
    }

    /// An answer of one object, in either way of asking.
    fn one(&self, object: &Value) -> Answer {
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

    fn last(&self, reason: &str, written: Option<u64>) -> Value {
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
