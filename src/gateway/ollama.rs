//! The door to a real Ollama.
//!
//! Requests go out over a client of our own, for the library's chat loses text
//! that is split within a character, and errors in mid-stream. What the library
//! does soundly, the list of models and the shape of `/api/show`, it does here.

use axum::http::{HeaderValue, StatusCode, header};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _};
use ollama_rs::models::ModelInfo;
use reqwest::{Client, Url};
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use tokio::time::timeout;

use super::upstream::{Answer, Endpoint, JSON, NDJSON, Refusal, Upstream};
use super::{ModelFacts, ModelState, QUESTION_MAX, rules};
use crate::error::chain;

/// One model on one server.
#[derive(Debug)]
pub(super) struct Ollama {
    /// Client and server, or in words what is wrong with the address.
    server: Result<(Client, Url), String>,
    model: String,
    /// Set once the server said that it serves this model itself.
    local: OnceCell<()>,
}

impl Ollama {
    pub(super) fn new(http: Result<Client, String>, url: &str, model: &str) -> Self {
        let server = address(url).and_then(|server| Ok((http?, server)));
        Self { server, model: model.to_owned(), local: OnceCell::new() }
    }

    async fn send(&self, endpoint: Endpoint, body: &Value) -> Result<Answer, Refusal> {
        let (http, server) = self.server.as_ref().map_err(Refusal::gateway)?;
        let request = http.request(endpoint.method(), at(server, endpoint));
        let request = match endpoint.method() {
            axum::http::Method::POST => {
                request.header(header::CONTENT_TYPE, "application/json").body(body.to_string())
            }
            _ => request,
        };
        let response = request.send().await.map_err(|error| unreachable(server, error))?;
        let content_type = response.headers().get(header::CONTENT_TYPE);
        Ok(Answer {
            status: response.status(),
            content_type: content_type.cloned().unwrap_or_else(|| default_type(endpoint)),
            body: response
                .bytes_stream()
                .map(|chunk| chunk.map_err(|error| chain(&error.without_url())))
                .boxed(),
        })
    }

    /// Makes sure, before anything is sent to it, that the model is not somewhere
    /// else under a harmless name. What cannot be learnt now is asked again, and
    /// until it is known nothing is sent.
    async fn check_local(&self) -> Result<(), Refusal> {
        if self.local.initialized() {
            return Ok(());
        }
        let question = json!({ "model": self.model });
        let shown = async {
            let answer = self.send(Endpoint::Show, &question).await?;
            let status = answer.status;
            Ok((status, answer.whole().await?))
        };
        let (status, body) = timeout(QUESTION_MAX, shown).await.map_err(|_| too_busy())??;
        if !status.is_success() {
            return Err(Refusal::passed(status, body));
        }
        match serde_json::from_slice::<Value>(&body) {
            Ok(shown) if rules::is_remote(&shown) => Err(rules::cloud_refused()),
            Ok(_) => {
                // Another request may have been first with the same news.
                let _ = self.local.set(());
                Ok(())
            }
            Err(_) => Err(Refusal::gateway("the model's server sent what is not JSON")),
        }
    }
}

impl Upstream for Ollama {
    fn ask(&self, endpoint: Endpoint, body: Value) -> BoxFuture<'_, Result<Answer, Refusal>> {
        async move {
            if endpoint.works() {
                self.check_local().await?;
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

/// Words for a server that cannot be asked, without what its address may hide.
fn unreachable(server: &Url, error: reqwest::Error) -> Refusal {
    let mut shown = server.clone();
    // Neither fails on an address with a host.
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    let refused = error.is_connect();
    let cause = chain(&error.without_url());
    let shown = shown.as_str().trim_end_matches('/');
    let hint = if refused { ". Is it running?" } else { "" };
    Refusal::gateway(format!("cannot reach Ollama at {shown}: {cause}{hint}"))
}

/// Looks at a model on a server. Every question has its deadline.
pub(super) async fn look(http: Result<Client, String>, url: &str, model: &str) -> ModelState {
    match seen(http, url, model).await {
        Ok(Some(facts)) => ModelState::Is(facts),
        Ok(None) => ModelState::Absent,
        Err(cause) => ModelState::Unknown(cause),
    }
}

async fn seen(
    http: Result<Client, String>,
    url: &str,
    model: &str,
) -> Result<Option<ModelFacts>, String> {
    let door = Ollama::new(http, url, model);
    let (_, version) = question(&door, Endpoint::Version, &Value::Null).await?;
    let version = version["version"].as_str().ok_or("the server does not say its version")?;

    let (http, server) = door.server.clone()?;
    let library = ollama_rs::Ollama::builder().host(server).reqwest_client(http).build();
    let models = timeout(QUESTION_MAX, library.list_local_models()).await;
    let models = models
        .map_err(|_| late())?
        .map_err(|error| format!("cannot list the server's models: {error}"))?;
    if !models.iter().any(|listed| rules::same_model(&listed.name, model)) {
        return Ok(None);
    }

    let (found, shown) = question(&door, Endpoint::Show, &json!({ "model": model })).await?;
    if !found {
        // It went between the two questions.
        return Ok(None);
    }
    let remote = rules::is_remote(&shown);
    let info: ModelInfo = serde_json::from_value(shown)
        .map_err(|error| format!("cannot read what the server says of the model: {error}"))?;
    Ok(Some(ModelFacts {
        version: version.to_owned(),
        tools: info.capabilities.iter().any(|capability| capability == "tools"),
        context_max: context_max(&info),
        remote,
    }))
}

/// The answer to a question, and whether what was asked for is there.
async fn question(
    door: &Ollama,
    endpoint: Endpoint,
    body: &Value,
) -> Result<(bool, Value), String> {
    let asked = async {
        let answer = door.send(endpoint, body).await?;
        Ok::<_, Refusal>((answer.status, answer.whole().await?))
    };
    let answered = timeout(QUESTION_MAX, asked).await.map_err(|_| late())?;
    let (status, body) = answered.map_err(|refusal| refusal.message)?;
    if status == StatusCode::NOT_FOUND {
        return Ok((false, Value::Null));
    }
    if !status.is_success() {
        return Err(Refusal::passed(status, body).message);
    }
    let value = serde_json::from_slice(&body).map_err(|_| "the server sent what is not JSON")?;
    Ok((true, value))
}

/// What is said while the server does not say where the model runs.
fn too_busy() -> Refusal {
    let words =
        format!("server busy, please try again: {} whether it runs the model itself", late());
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, words)
}

fn late() -> String {
    format!("the server did not answer within {} s", QUESTION_MAX.as_secs())
}

fn context_max(info: &ModelInfo) -> Option<u64> {
    let architecture = info.model_info.get("general.architecture")?.as_str()?;
    info.model_info.get(&format!("{architecture}.context_length"))?.as_u64()
}
