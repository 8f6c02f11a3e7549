//! What stands behind the gateway: something that answers like Ollama.

use std::fmt;

use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use serde_json::{Value, json};

use super::shape;
use super::words;
use crate::line::LINE_MAX;
use crate::protocol::{FAILURE_HEADER, Failure};

/// Ollama's content type of a whole answer.
pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");
/// Ollama's content type of a streamed answer.
pub(super) const NDJSON: HeaderValue = HeaderValue::from_static("application/x-ndjson");

/// The routes that are asked of an upstream. Nothing else ever is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    Version,
    Tags,
    Ps,
    Show,
    Chat,
    Generate,
    Embed,
}

impl Endpoint {
    pub(super) fn path(self) -> &'static str {
        match self {
            Self::Version => "/api/version",
            Self::Tags => "/api/tags",
            Self::Ps => "/api/ps",
            Self::Show => "/api/show",
            Self::Chat => "/api/chat",
            Self::Generate => "/api/generate",
            Self::Embed => "/api/embed",
        }
    }

    pub(super) fn method(self) -> Method {
        match self {
            Self::Version | Self::Tags | Self::Ps => Method::GET,
            Self::Show | Self::Chat | Self::Generate | Self::Embed => Method::POST,
        }
    }

    /// Whether a model has to work for the answer, and may first have to be loaded.
    pub(super) fn works(self) -> bool {
        matches!(self, Self::Chat | Self::Generate | Self::Embed)
    }
}

/// An answer whose body may still be on its way.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) content_type: HeaderValue,
    /// The body as it comes; an error is the reason why it broke off.
    pub(super) body: BoxStream<'static, Result<Bytes, String>>,
}

/// Answers like Ollama. Deadlines, order, checks and accounts are the gateway's;
/// dropping the future or the body gives the request up.
pub(super) trait Upstream: fmt::Debug + Send + Sync {
    /// Sends one request, whose body has already been through the rules.
    fn ask(&self, endpoint: Endpoint, body: Value) -> BoxFuture<'_, Result<Answer, Refusal>>;
}

impl Answer {
    /// The whole body, once it is there.
    ///
    /// # Errors
    /// 502 when it breaks off or is larger than a line may be.
    pub(super) async fn whole(mut self) -> Result<Bytes, Refusal> {
        let mut body = Vec::new();
        while let Some(chunk) = self.body.next().await {
            let chunk = chunk.map_err(|cause| Refusal::gateway(broken_off(&cause)))?;
            if body.len() + chunk.len() > LINE_MAX {
                return Err(Refusal::gateway("the model's server sent a body that is too large"));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.into())
    }
}

/// How a stream that broke off is put into words.
pub(super) fn broken_off(cause: &str) -> String {
    format!("the model's answer broke off: {cause}")
}

/// An error for the client, in Ollama's shape.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) message: String,
    /// What may be done about it.
    pub(super) failure: Failure,
    // The upstream's own words, byte for byte, where it had some.
    raw: Option<Bytes>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        let failure = failure_of(status);
        Self { status, message: message.into(), failure, raw: None }
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// The server behind the gateway failed in a way that another attempt may not.
    pub(super) fn gateway(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, message)
    }

    /// The server behind the gateway is not there yet.
    pub(super) fn absent(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message).meaning(Failure::Absent)
    }

    /// The same refusal with another meaning than its status has.
    pub(super) fn meaning(self, failure: Failure) -> Self {
        Self { failure, ..self }
    }

    /// The upstream's own refusal. What is not in Ollama's shape is put into it.
    pub(super) fn passed(status: StatusCode, body: Bytes) -> Self {
        let error = serde_json::from_slice::<Value>(&body)
            .ok()
            .and_then(|body| shape::error(&body).map(error_words));
        if let Some(message) = error {
            let failure = Failure::meant_by(&message).unwrap_or_else(|| failure_of(status));
            return Self { status, message, failure, raw: Some(body) };
        }
        let said = words::first_line(&String::from_utf8_lossy(&body));
        let said = said.map_or_else(String::new, |said| format!(": {said}"));
        Self::new(status, format!("the model's server answers {status}{said}"))
    }
}

/// What a status says by itself.
fn failure_of(status: StatusCode) -> Failure {
    match status {
        StatusCode::NOT_IMPLEMENTED => Failure::Model,
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Failure::Busy,
        status if status.is_server_error() => Failure::Busy,
        _ => Failure::Model,
    }
}

/// The words of an `error` member, whatever its shape.
pub(super) fn error_words(error: &Value) -> String {
    let member = ["message", "error", "detail"].iter().find_map(|name| error.get(*name));
    match (member, error) {
        (Some(inner), _) => error_words(inner),
        (None, Value::String(words)) => words.clone(),
        (None, other) => other.to_string(),
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = self.raw.unwrap_or_else(|| error_body(&self.message));
        let mut response = (self.status, [(header::CONTENT_TYPE, JSON)], body).into_response();
        if let Some(word) = self.failure.word() {
            response.headers_mut().insert(FAILURE_HEADER, HeaderValue::from_static(word));
        }
        response
    }
}

/// `{"error": …}`.
pub(super) fn error_body(message: &str) -> Bytes {
    json!({ "error": message }).to_string().into()
}
