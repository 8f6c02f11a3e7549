//! The one way out of a sandbox to a model: Ollama's API, narrowed to what the
//! manifest gives this agent.
//!
//! Each agent gets a router of its own, and is known by the connection it is
//! served on: no request says who it is. Behind the router stands an upstream
//! that answers like Ollama: a real server (`ollama`) or the rehearsal
//! (`rehearsal`), which needs none. The same rules hold for both:
//!
//! - only the agent's own model, and only the routes that ask it something;
//! - options of the runner and every bound are set here, whatever was sent;
//! - one request per model at a time, in the order they came;
//! - a stream always ends in a line that says how: `done`, or `error`;
//! - every use is reported, with what it cost and how it ended.
//!
//! It leaves to others what a turn or a message is, and where usage is stored.
//! It never pulls, loads, copies or deletes a model by itself.

mod door;
mod ollama;
mod openai;
mod queue;
mod rehearsal;
mod relay;
mod repeats;
mod routes;
mod rules;
mod shape;
mod trouble;
mod underway;
mod upstream;
mod words;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use reqwest::Client;
use thiserror::Error;
use tokio::sync::mpsc;

use self::door::Door;
use self::queue::Queues;
use self::upstream::Upstream;
use crate::error::chain;
use crate::name::{GroupName, ModelName};
use crate::protocol::Failure;
use crate::resource::ModelSpec;
use crate::unit::Period;

pub use self::queue::QueueState;

/// Largest body of a request, in bytes.
const BODY_MAX: usize = crate::protocol::BODY_MAX;
/// Until a server must be connected.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// Until a question about models, which costs no work, must be answered.
const QUESTION_MAX: Duration = Duration::from_secs(3);

/// Why there is no gateway.
#[derive(Debug, Error)]
pub enum GatewayError {
    /// The HTTP client could not be made.
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
    /// For servers at `http:`, as nearly all are.
    plain: Client,
    /// For servers at `https:`; made when there is one, since it holds all root certificates.
    secure: OnceLock<Result<Client, String>>,
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

/// Why a model cannot be asked now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotReady {
    /// The kind of failure.
    pub failure: Failure,
    /// In words, with what helps.
    pub why: String,
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
        let plain = client(false).map_err(GatewayError::Client)?;
        let shared = Shared {
            project,
            plain,
            secure: OnceLock::new(),
            queues: Queues::default(),
            usage_dropped: Arc::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The routes of one agent: Ollama's API over exactly this caller's model.
    ///
    /// It has a fallback that refuses every other route: where other routes are
    /// served on the same connection, make it theirs (`Router::fallback_service`).
    pub fn router(&self, caller: Caller) -> Router {
        Router::new()
            .route("/", get(|| async { "Ollama is running" }))
            .route("/api/version", get(routes::version))
            .route("/api/tags", get(routes::tags))
            .route("/api/ps", get(routes::loaded))
            .route("/api/show", post(routes::show))
            .route("/api/chat", post(routes::chat))
            .route("/api/generate", post(routes::generate))
            .route("/api/embed", post(routes::embed))
            .route("/v1/models", get(routes::openai_models))
            .route("/v1/chat/completions", post(routes::openai_chat))
            .fallback(routes::refused)
            .method_not_allowed_fallback(routes::not_allowed)
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
                ollama::look(self.shared.client(url), url, model).await
            }
            ModelSpec::Rehearsal { context, script } => {
                rehearsal::look(&self.shared.project, *context, script.as_deref()).await
            }
        }
    }

    /// Whether a model can be asked now: one cheap question, answered within a few seconds.
    ///
    /// # Errors
    /// Why it cannot.
    pub async fn ready(&self, spec: &ModelSpec) -> Result<(), NotReady> {
        let ModelSpec::Ollama { url, model, .. } = spec else { return Ok(()) };
        let ready = ollama::ready(self.shared.client(url), url, model).await;
        ready.map_err(|refusal| NotReady { failure: refusal.failure, why: refusal.message })
    }

    fn door(&self, caller: Caller) -> Door {
        let upstream: Box<dyn Upstream> = match &caller.spec {
            ModelSpec::Ollama { url, model, .. } => {
                Box::new(ollama::Ollama::new(self.shared.client(url), url, model))
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

impl Shared {
    /// The client for this server, or in words why there is none.
    fn client(&self, url: &str) -> Result<Client, String> {
        if !url.starts_with("https:") {
            return Ok(self.plain.clone());
        }
        let secure = || {
            client(true).map_err(|error| format!("cannot set up TLS for {url}: {}", chain(&error)))
        };
        self.secure.get_or_init(secure).clone()
    }
}

/// No proxy: a model's server is named by the manifest, not by the environment.
fn client(secure: bool) -> Result<Client, reqwest::Error> {
    Client::builder()
        .connect_timeout(CONNECT_MAX)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .tls_built_in_root_certs(secure)
        .build()
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
