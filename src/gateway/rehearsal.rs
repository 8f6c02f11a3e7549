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
mod stage;

use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::http::StatusCode;
use futures_util::FutureExt as _;
use futures_util::future::{self, BoxFuture};
use serde_json::{Value, json};

use self::heard::Heard;
use self::script::{Script, ScriptError};
use self::stage::{AnswerContext, plain};
use super::upstream::{Answer, Endpoint, Refusal, Upstream};
use super::{ModelFacts, ModelState};
use crate::file;

/// The model as a client calls it.
const MODEL: &str = "rehearsal:latest";
/// The version it answers with: that of the Ollama whose manners it has.
const VERSION: &str = "0.33.0-rehearsal";
/// A token is about so many characters.
const TOKEN_CHARACTERS: usize = 4;

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
    ServerFault(ServerFault),
}

/// A way in which a real server fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ServerFault {
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
        // Not a server's failure, which may pass: somebody has to fix the script.
        let failed = |words: String| Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, words);
        read.map_err(|error| failed(error.to_string()))?.map_err(|error| match &error {
            ScriptError::Read { path, source } => match file::fault_of_machine(source) {
                Some(why) => Refusal::gateway(format!("the script {path} cannot be read: {why}")),
                None => failed(error.to_string()),
            },
            _ => failed(error.to_string()),
        })
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
        let stage = AnswerContext::new(endpoint, request, &heard, self.context);
        let Some(heard) = heard else {
            // Ollama's answer to a request that only wants the model loaded.
            return Ok(stage.one(&stage.last("load", None)));
        };
        if heard.tokens > u64::from(self.context) {
            return Ok(stage.refuse(ServerFault::Overflow));
        }
        let scene = self.read_script().await?.scene(&heard);
        let scene = scene.unwrap_or_else(|| rules::scene(&heard));
        if scene.play == Play::ServerFault(ServerFault::Hang) {
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

fn tokens(text: &str) -> u64 {
    text.chars().count().div_ceil(TOKEN_CHARACTERS) as u64
}
