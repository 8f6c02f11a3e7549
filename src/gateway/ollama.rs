//! The door to a real Ollama.
//!
//! Requests go out over a client of our own, for the library's chat loses text
//! that is split within a character, and errors in mid-stream. The library reads
//! what `/api/show` says of a model. What an answer means that is not Ollama's is
//! said in `trouble`.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _};
use ollama_rs::models::ModelInfo;
use reqwest::{Client, Url};
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use tokio::time::timeout;

use super::trouble::{self, Unanswered};
use super::upstream::{Answer, Endpoint, JSON, NDJSON, Refusal, Upstream};
use super::{ModelFacts, ModelState, QUESTION_MAX, rules};
use crate::error::chain;
use crate::protocol::Failure;

/// How long a server may take to say why it refuses.
const WORDS_MAX: Duration = Duration::from_secs(5);

/// One model on one server.
#[derive(Debug)]
pub(super) struct Ollama {
    /// Client and server, or in words what is wrong with the address.
    server: Result<(Client, Url), String>,
    model: String,
    /// Set once the server said that it serves this model itself: whether it can use tools.
    local: OnceCell<bool>,
}

impl Ollama {
    pub(super) fn new(http: Result<Client, String>, url: &str, model: &str) -> Self {
        let server = address(url).and_then(|server| Ok((http?, server)));
        Self { server, model: model.to_owned(), local: OnceCell::new() }
    }

    /// Sends a request. What comes back is an answer in Ollama's shape, or a refusal in plain words.
    async fn send(&self, endpoint: Endpoint, body: &Value) -> Result<Answer, Refusal> {
        let (http, server) = self.server()?;
        let request = http.request(endpoint.method(), at(server, endpoint));
        let request = match endpoint.method() {
            axum::http::Method::POST => {
                request.header(header::CONTENT_TYPE, "application/json").body(body.to_string())
            }
            _ => request,
        };
        let shown = trouble::shown(server);
        let response = request.send().await.map_err(|error| trouble::unreachable(&shown, error))?;
        let (status, headers) = (response.status(), response.headers());
        let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let is_page = text(header::CONTENT_TYPE).is_some_and(is_web_page);
        let location = text(header::LOCATION).and_then(|to| at(server, endpoint).join(to).ok());
        let content_type = headers.get(header::CONTENT_TYPE).cloned();
        let answer = Answer {
            status,
            content_type: content_type.unwrap_or_else(|| default_type(endpoint)),
            body: response
                .bytes_stream()
                .map(|chunk| chunk.map_err(|error| lost(&error.without_url())))
                .boxed(),
        };
        if status.is_success() && !is_page {
            return Ok(answer);
        }
        // Words that do not come in time are done without.
        let body = timeout(WORDS_MAX, answer.whole()).await;
        let body = body.ok().and_then(Result::ok).unwrap_or_default();
        let model = &self.model;
        let (server, model) = (shown.as_str(), model.as_str());
        Err(Unanswered { server, model, endpoint, status, location, body }.refusal())
    }

    fn server(&self) -> Result<&(Client, Url), Refusal> {
        let wrong = |words: &String| Refusal::gateway(words).meaning(Failure::Model);
        self.server.as_ref().map_err(wrong)
    }

    /// Asks something that costs no work, within [`QUESTION_MAX`].
    async fn question(&self, endpoint: Endpoint, body: &Value) -> Result<Value, Refusal> {
        let shown = trouble::shown(&self.server()?.1);
        let asked = async { self.send(endpoint, body).await?.whole().await };
        let body = timeout(QUESTION_MAX, asked).await.map_err(|_| trouble::silent(&shown))??;
        serde_json::from_slice(&body)
            .map_err(|_| Refusal::gateway(format!("{shown} sent an answer that is not JSON")))
    }

    /// What the server says about the model. What cannot be learnt now is asked again.
    async fn shown(&self) -> Result<Value, Refusal> {
        self.question(Endpoint::Show, &json!({ "model": self.model })).await
    }

    /// Makes sure, before anything is sent to it, that the model is not somewhere
    /// else under a harmless name. Until it is known nothing is sent.
    async fn check_local(&self) -> Result<(), Refusal> {
        if self.local.initialized() {
            return Ok(());
        }
        let shown = self.shown().await?;
        if rules::is_remote(&shown) {
            return Err(rules::cloud_refused());
        }
        // Another request may have been first with the same news.
        let _ = self.local.set(rules::knows_tools(&shown));
        Ok(())
    }

    /// Refuses tools to a model that cannot use them, in Ollama's words, before it is asked.
    async fn check_tools(&self, request: &Value) -> Result<(), Refusal> {
        // One that could not may be another by now.
        let cannot = self.local.get() == Some(&false) && rules::offers_tools(request);
        if !cannot || rules::knows_tools(&self.shown().await?) {
            return Ok(());
        }
        Err(Refusal::bad_request(format!("{} does not support tools", self.model)))
    }
}

impl Upstream for Ollama {
    fn ask(&self, endpoint: Endpoint, body: Value) -> BoxFuture<'_, Result<Answer, Refusal>> {
        async move {
            if endpoint.works() {
                self.check_local().await?;
                self.check_tools(&body).await?;
            }
            self.send(endpoint, &body).await
        }
        .boxed()
    }
}

fn default_type(endpoint: Endpoint) -> HeaderValue {
    if endpoint.works() { NDJSON } else { JSON }
}

fn address(url: &str) -> Result<Url, String> {
    let mut address = Url::parse(url)
        .map_err(|error| format!("`{url}` is not the address of a server: {error}"))?;
    if !matches!(address.scheme(), "http" | "https") {
        return Err(format!("`{url}` is not the address of a server: it starts with http://"));
    }
    // Joined to `api/…` below, and by the library by appending.
    if !address.path().ends_with('/') {
        address.set_path(&format!("{}/", address.path()));
    }
    Ok(address)
}

fn at(server: &Url, endpoint: Endpoint) -> Url {
    let mut url = server.clone();
    url.set_path(&format!("{}{}", server.path().trim_end_matches('/'), endpoint.path()));
    url
}

/// Whether this is the type of what a browser shows.
fn is_web_page(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    matches!(kind.as_str(), "text/html" | "application/xhtml+xml")
}

/// Words for a connection that ended in the middle of an answer.
fn lost(error: &reqwest::Error) -> String {
    tracing::debug!(error = chain(error), "an answer of a model's server broke off");
    "the connection to the model's server was lost".to_owned()
}

/// Whether the server has the model, and would run it itself.
pub(super) async fn ready(
    http: Result<Client, String>,
    url: &str,
    model: &str,
) -> Result<(), Refusal> {
    Ollama::new(http, url, model).check_local().await
}

/// Looks at a model on a server. Every question has its deadline.
pub(super) async fn look(http: Result<Client, String>, url: &str, model: &str) -> ModelState {
    match seen(http, url, model).await {
        Ok(Some(facts)) => ModelState::Is(facts),
        Ok(None) => ModelState::Absent,
        Err(refusal) => ModelState::Unknown(refusal.message),
    }
}

async fn seen(
    http: Result<Client, String>,
    url: &str,
    model: &str,
) -> Result<Option<ModelFacts>, Refusal> {
    let door = Ollama::new(http, url, model);
    let version = door.question(Endpoint::Version, &Value::Null).await?;
    let version = version["version"].as_str();
    let version = version.ok_or_else(|| Refusal::gateway("the server does not say its version"))?;

    let listed = door.question(Endpoint::Tags, &Value::Null).await?;
    let listed = listed["models"].as_array().cloned().unwrap_or_default();
    let name = |listed: &Value| {
        ["name", "model"].iter().find_map(|field| listed[*field].as_str().map(ToOwned::to_owned))
    };
    if !listed.iter().filter_map(name).any(|listed| rules::same_model(&listed, model)) {
        return Ok(None);
    }

    let shown = match door.shown().await {
        Ok(shown) => shown,
        // It went between the two questions.
        Err(refusal) if refusal.status == StatusCode::NOT_FOUND => return Ok(None),
        Err(refusal) => return Err(refusal),
    };
    let (remote, tools) = (rules::is_remote(&shown), rules::knows_tools(&shown));
    let info: ModelInfo = serde_json::from_value(shown).map_err(|error| {
        Refusal::gateway(format!("cannot read what the server says of the model: {error}"))
    })?;
    Ok(Some(ModelFacts {
        version: version.to_owned(),
        tools,
        context_max: context_max(&info),
        remote,
    }))
}

fn context_max(info: &ModelInfo) -> Option<u64> {
    let architecture = info.model_info.get("general.architecture")?.as_str()?;
    info.model_info.get(&format!("{architecture}.context_length"))?.as_u64()
}
