//! The one way out of a sandbox to a model: Ollama's API, narrowed to what the
//! manifest gives this agent.
//!
//! Each agent gets a router of its own, and is known by the connection it is
//! served on: no request says who it is. Behind the router stands an upstream
//! that answers like Ollama: a real server ([`ollama`]) or the rehearsal
//! ([`rehearsal`]), which needs none. The same rules hold for both:
//!
//! - only the agent's own model, and only the routes that ask it something;
//! - options of the runner and every bound are set here, whatever was sent;
//! - one request per model at a time, in the order they came;
//! - a stream always ends in a line that says how: `done`, or `error`;
//! - every use is reported, with what it cost and how it ended.
//!
//! It leaves to others what a turn or a message is, and where usage is stored.
//! It never pulls, loads, copies or deletes a model by itself.

mod ollama;
mod openai;
mod queue;
mod rehearsal;
mod relay;
mod rules;
mod stream;
mod upstream;

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream as streams};
use serde_json::Value;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::time::timeout;

use self::queue::{Queues, Seat};
use self::relay::{LINES_UNDERWAY_MAX, Meter, Relay};
use self::rules::Object;
use self::upstream::{Answer, Endpoint, JSON, NDJSON, Refusal, Upstream};
use crate::name::{GroupName, ModelName};
use crate::resource::ModelSpec;
use crate::unit::Period;

pub use self::queue::QueueState;

/// Largest body of a request, in bytes.
const BODY_MAX: usize = crate::protocol::BODY_MAX;
/// Until a server must be connected.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// Until a question about models, which costs no work, must be answered.
const QUESTION_MAX: Duration = Duration::from_secs(3);
/// Until a model must have said its first word: loading a large one takes minutes,
/// and giving up makes Ollama give up the loading too.
const FIRST_WORD_MAX: Duration = Duration::from_secs(15 * 60);
/// How long a model that has begun may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(120);
/// The slowest model that is worth waiting for. While Ollama collects a tool call
/// it sends nothing, so with tools a silence may last for a whole answer.
const TOKENS_PER_SECOND_MIN: u64 = 5;

/// Why there is no gateway.
#[derive(Debug, Error)]
pub enum GatewayError {
    /// The HTTP client could not be made, for example for want of root certificates.
    #[error("set up the HTTP client")]
    Client(#[source] reqwest::Error),
}

/// The doors to all models of one controller. Clones are the same gateway.
#[derive(Clone, Debug)]
pub struct Gateway {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    project: PathBuf,
    http: reqwest::Client,
    queues: Queues,
    usage_dropped: Arc<AtomicU64>,
}

/// Who is served by a router, and with what.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The group whose agent has the connection.
    pub group: GroupName,
    /// Its model as the manifest calls it.
    pub name: ModelName,
    /// Its model.
    pub spec: ModelSpec,
    /// Where each use of the model is reported; what does not fit is dropped and counted.
    pub usage: mpsc::Sender<Usage>,
}

/// One use of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The model as the manifest calls it.
    pub model: ModelName,
    /// Tokens read, those from a cache included; 0 where the answer had no end.
    pub prompt_tokens: u64,
    /// Tokens written; where the answer had no end, the lines that were streamed.
    pub completion_tokens: u64,
    /// From the model's turn in the queue to the end of the answer.
    pub duration: Period,
    /// How it ended.
    pub outcome: UsageOutcome,
}

/// How one use of a model ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsageOutcome {
    /// With `done`.
    Done,
    /// Without: the client left, the stream broke off, or the model repeated itself.
    Cut,
    /// With an error from the model's server.
    Failed,
}

/// What is known of a model, as far as it could be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelState {
    /// It is there.
    Is(ModelFacts),
    /// Its server answers and does not have it.
    Absent,
    /// Nothing is known, for this reason.
    Unknown(String),
}

/// What a server says about a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelFacts {
    /// The server's version.
    pub version: String,
    /// Whether its template knows tools.
    pub tools: bool,
    /// The longest context it was trained for, in tokens.
    pub context_max: Option<u64>,
    /// Whether the server would send requests elsewhere. The gateway refuses such a model.
    pub remote: bool,
}

impl Gateway {
    /// A gateway for the project in this folder, where scripts of the rehearsal are found.
    ///
    /// # Errors
    /// [`GatewayError::Client`] when there can be no HTTP client.
    pub fn new(project: PathBuf) -> Result<Self, GatewayError> {
        // No proxy: a model's server is named by the manifest, not by the environment.
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_MAX)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(GatewayError::Client)?;
        let shared =
            Shared { project, http, queues: Queues::default(), usage_dropped: Arc::default() };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The routes of one agent: Ollama's API over exactly this caller's model.
    ///
    /// It has a fallback that refuses every other route: where other routes are
    /// served on the same connection, make it theirs (`Router::fallback_service`).
    pub fn router(&self, caller: Caller) -> Router {
        let refused = |method: Method, uri: Uri| async move { refused_route(&method, &uri) };
        Router::new()
            .route("/", get(|| async { "Ollama is running" }))
            .route("/api/version", get(version))
            .route("/api/tags", get(tags))
            .route("/api/ps", get(loaded))
            .route("/api/show", post(show))
            .route("/api/chat", post(chat))
            .route("/api/generate", post(generate))
            .route("/api/embed", post(embed))
            .route("/v1/models", get(openai_models))
            .route("/v1/chat/completions", post(openai_chat))
            .fallback(refused)
            .method_not_allowed_fallback(|method: Method, uri: Uri| async move {
                let words = format!("method not allowed: {method} {}", uri.path());
                Refusal::new(StatusCode::METHOD_NOT_ALLOWED, words)
            })
            .layer(DefaultBodyLimit::max(BODY_MAX))
            .with_state(Arc::new(self.door(caller)))
    }

    /// Who is served by each model and who waits for it.
    #[must_use]
    pub fn queues(&self) -> Vec<QueueState> {
        self.shared.queues.state()
    }

    /// Reports of usage that nobody took in time.
    #[must_use]
    pub fn usage_dropped(&self) -> u64 {
        self.shared.usage_dropped.load(Ordering::Relaxed)
    }

    /// Looks whether a model is there. Changes nothing, and takes a few seconds at most.
    pub async fn look(&self, spec: &ModelSpec) -> ModelState {
        match spec {
            ModelSpec::Ollama { url, model, .. } => {
                ollama::look(&self.shared.http, url, model).await
            }
            ModelSpec::Rehearsal { context, script } => {
                rehearsal::look(&self.shared.project, *context, script.as_deref()).await
            }
        }
    }

    fn door(&self, caller: Caller) -> Door {
        let upstream: Box<dyn Upstream> = match &caller.spec {
            ModelSpec::Ollama { url, model, .. } => {
                Box::new(ollama::Ollama::new(self.shared.http.clone(), url, model))
            }
            ModelSpec::Rehearsal { context, script } => Box::new(rehearsal::Rehearsal::new(
                self.shared.project.clone(),
                *context,
                script.clone(),
            )),
        };
        Door { shared: self.shared.clone(), caller, upstream }
    }
}

/// Where one caller's usage is reported.
#[derive(Clone, Debug)]
struct Accounts {
    model: ModelName,
    sender: mpsc::Sender<Usage>,
    dropped: Arc<AtomicU64>,
}

impl Accounts {
    /// Never waits: a stream matters more than its account.
    fn record(&self, usage: impl FnOnce(ModelName) -> Usage) {
        if self.sender.try_send(usage(self.model.clone())).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The state of one caller's router.
struct Door {
    shared: Arc<Shared>,
    caller: Caller,
    upstream: Box<dyn Upstream>,
}

/// What a model answered.
enum Answered {
    /// Lines as they come.
    Streamed(mpsc::Receiver<Bytes>, HeaderValue),
    /// One object.
    Whole(Bytes),
}

type Posted = Result<Bytes, BytesRejection>;

impl Door {
    /// Asks the upstream a question that costs no work.
    async fn question(&self, endpoint: Endpoint, request: Object) -> Result<Value, Refusal> {
        let answer = async {
            let answer = self.upstream.ask(endpoint, request.into()).await?;
            let status = answer.status;
            let body = answer.whole().await?;
            if !status.is_success() {
                return Err(Refusal::passed(status, body));
            }
            serde_json::from_slice(&body)
                .map_err(|_| Refusal::gateway("the model's server sent what is not JSON"))
        };
        in_time(QUESTION_MAX, answer).await
    }

    /// Reads a request that names a model, and checks that it is the caller's.
    fn checked(&self, body: Posted) -> Result<Object, Refusal> {
        let request = rules::object(&posted(body)?)?;
        rules::check_model(&request, &self.caller.name, &self.caller.spec)?;
        Ok(request)
    }

    /// Has the model work: by the rules, in its turn, and accounted for.
    async fn work(&self, endpoint: Endpoint, request: Object) -> Result<Answered, Refusal> {
        let streamed = endpoint != Endpoint::Embed && request.get("stream") != Some(&false.into());
        let request = rules::rebuild(endpoint, request, &self.caller.spec);
        let silence_max = silence_max(&request);

        let queue = self.shared.queues.of(&self.caller.name);
        let seat = queue.seat(&self.caller.group).await?;
        let mut meter = Meter::start(self.accounts());
        let asked = self.upstream.ask(endpoint, request.into());
        let answer = in_time(FIRST_WORD_MAX, asked).await.inspect_err(|_| meter.failed())?;

        if !answer.status.is_success() {
            meter.failed();
            let status = answer.status;
            let body = in_time(SILENCE_MAX, answer.whole()).await?;
            return Err(Refusal::passed(status, body));
        }
        if !streamed {
            return whole(endpoint, answer, meter, seat).await.map(Answered::Whole);
        }
        let content_type = answer.content_type.clone();
        let (sender, receiver) = mpsc::channel(LINES_UNDERWAY_MAX);
        tokio::spawn(Relay::new(answer, meter, seat, silence_max).run(sender));
        Ok(Answered::Streamed(receiver, content_type))
    }

    fn accounts(&self) -> Accounts {
        Accounts {
            model: self.caller.name.clone(),
            sender: self.caller.usage.clone(),
            dropped: self.shared.usage_dropped.clone(),
        }
    }
}

/// An answer that comes in one piece.
async fn whole(
    endpoint: Endpoint,
    answer: Answer,
    mut meter: Meter,
    _seat: Seat,
) -> Result<Bytes, Refusal> {
    // The first word comes with the last, so the whole answer has that much time.
    let body = in_time(FIRST_WORD_MAX, answer.whole()).await?;
    let value: Value = serde_json::from_slice(&body)
        .map_err(|_| Refusal::gateway(upstream::broken_off("the server sent what is not JSON")))?;
    if let Some(error) = value.get("error") {
        meter.failed();
        return Err(Refusal::gateway(upstream::error_words(error)));
    }
    // Ollama's own guard against repetition leaves an answer that is not done.
    if endpoint != Endpoint::Embed && value["done"] != Value::Bool(true) {
        return Err(Refusal::gateway(upstream::broken_off("the answer is not complete")));
    }
    meter.done(&value);
    Ok(body)
}

/// How long a model that has begun may be silent, by what it was asked.
fn silence_max(request: &Object) -> Duration {
    let slowest = Duration::from_secs(rules::tokens_of(request) / TOKENS_PER_SECOND_MIN);
    if request.contains_key("tools") { SILENCE_MAX.max(slowest) } else { SILENCE_MAX }
}

async fn in_time<T>(
    most: Duration,
    work: impl Future<Output = Result<T, Refusal>>,
) -> Result<T, Refusal> {
    timeout(most, work).await.unwrap_or_else(|_| {
        let words = format!("the model's server did not answer within {} s", most.as_secs());
        Err(Refusal::new(StatusCode::GATEWAY_TIMEOUT, words))
    })
}

fn posted(body: Posted) -> Result<Bytes, Refusal> {
    body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            let words = format!("the request is larger than {} MiB", BODY_MAX >> 20);
            Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, words)
        }
        status => Refusal::new(status, rejection.body_text()),
    })
}

fn refused_route(method: &Method, uri: &Uri) -> Refusal {
    let words =
        format!("the gateway refuses {method} {}: an agent may only use its own model", uri.path());
    Refusal::new(StatusCode::NOT_FOUND, words)
}

type AtDoor = State<Arc<Door>>;

async fn version(State(door): AtDoor) -> Result<Response, Refusal> {
    Ok(json_response(&door.question(Endpoint::Version, Object::new()).await?))
}

async fn tags(State(door): AtDoor) -> Result<Response, Refusal> {
    let list = door.question(Endpoint::Tags, Object::new()).await?;
    Ok(json_response(&rules::only_own(list, &door.caller.spec)))
}

async fn loaded(State(door): AtDoor) -> Result<Response, Refusal> {
    let list = door.question(Endpoint::Ps, Object::new()).await?;
    Ok(json_response(&rules::only_own(list, &door.caller.spec)))
}

async fn show(State(door): AtDoor, body: Posted) -> Result<Response, Refusal> {
    let request = door.checked(body)?;
    let request = rules::rebuild(Endpoint::Show, request, &door.caller.spec);
    let mut shown = door.question(Endpoint::Show, request).await?;
    if rules::is_remote(&shown) {
        return Err(rules::cloud_refused());
    }
    // It names files of the host.
    if let Some(modelfile) = shown.get_mut("modelfile") {
        *modelfile = "".into();
    }
    Ok(json_response(&shown))
}

async fn chat(State(door): AtDoor, body: Posted) -> Result<Response, Refusal> {
    let request = door.checked(body)?;
    Ok(ollama_response(door.work(Endpoint::Chat, request).await?))
}

async fn generate(State(door): AtDoor, body: Posted) -> Result<Response, Refusal> {
    let request = door.checked(body)?;
    Ok(ollama_response(door.work(Endpoint::Generate, request).await?))
}

async fn embed(State(door): AtDoor, body: Posted) -> Result<Response, Refusal> {
    let request = door.checked(body)?;
    Ok(ollama_response(door.work(Endpoint::Embed, request).await?))
}

async fn openai_models(State(door): AtDoor) -> Result<Response, openai::OpenAiRefusal> {
    let list = door.question(Endpoint::Tags, Object::new()).await?;
    Ok(json_response(&openai::models(&rules::only_own(list, &door.caller.spec))))
}

async fn openai_chat(State(door): AtDoor, body: Posted) -> Result<Response, openai::OpenAiRefusal> {
    let asked = door.checked(body)?;
    let mut reply = openai::Reply::to(&asked);
    match door.work(Endpoint::Chat, openai::request(asked)?).await? {
        Answered::Whole(body) => {
            let answer = serde_json::from_slice(&body).unwrap_or(Value::Null);
            Ok(json_response(&reply.whole(&answer)))
        }
        Answered::Streamed(lines, _) => {
            let events = received(lines).map(move |line| reply.event(&line));
            Ok(stream_response(HeaderValue::from_static("text/event-stream"), events))
        }
    }
}

fn ollama_response(answered: Answered) -> Response {
    match answered {
        Answered::Whole(body) => ([(header::CONTENT_TYPE, JSON)], body).into_response(),
        Answered::Streamed(lines, content_type) => stream_response(content_type, received(lines)),
    }
}

fn json_response(value: &Value) -> Response {
    ([(header::CONTENT_TYPE, JSON)], value.to_string()).into_response()
}

fn received(lines: mpsc::Receiver<Bytes>) -> impl Stream<Item = Bytes> + Send + 'static {
    streams::unfold(lines, |mut lines| async move { Some((lines.recv().await?, lines)) })
}

fn stream_response(
    content_type: HeaderValue,
    lines: impl Stream<Item = Bytes> + Send + 'static,
) -> Response {
    let body = Body::from_stream(lines.map(Ok::<_, std::convert::Infallible>));
    ([(header::CONTENT_TYPE, content_type)], body).into_response()
}
